"""A node with a protocol of its own, and a pipe to itself: the first example of P2PD's documents."""

from typing import Any

from p2pd import *


async def protocol(msg: bytes, client_tup: Any, pipe: Pipe) -> None:
    if b"PING" in msg:
        await pipe.send(b"PONG", client_tup)


async def main() -> None:
    node = await start_p2p_node(netifaces=await init_p2pd())
    node.add_msg_cb(protocol)

    pipe = await node.connect(node.addr_bytes)
    pipe.subscribe(SUB_ALL)
    for text in (b"ECHO said to oneself", b"PING"):
        await pipe.send(text)
        print((await pipe.recv()).decode())

    await pipe.close()
    await node.close()


if __name__ == "__main__":
    async_test(main)
