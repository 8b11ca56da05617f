"""An echo server over TCP, and its client, in one program."""

from typing import Any

from p2pd import *


async def echo(msg: bytes, client_tup: Any, pipe: Pipe) -> None:
    await pipe.send(msg, client_tup)


async def main() -> None:
    route = await (await Interface()).route().bind()
    server = await pipe_open(TCP, route=route, msg_cb=echo)
    host, port = server.sock.getsockname()[:2]
    client = await pipe_open(TCP, await Address(host, port, route).res(), route)
    await client.send(b"test msg.")
    print((await client.recv()).decode())
    await client.close()
    await server.close()


if __name__ == "__main__":
    async_test(main)
