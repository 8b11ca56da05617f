"""A relayed address at a TURN server: `turn.py HOST PORT USER PASSWORD`. The client sends to itself, by way of the server."""

import sys

from p2pd import *


async def main() -> None:
    host, port, user, password = sys.argv[1:]
    route = await (await Interface()).route().bind()
    client = TURNClient(
        turn_addr=await Address(host, int(port), route).res(),
        turn_user=user,
        turn_pw=password,
        route=route,
        msg_cb=lambda msg, client_tup, pipe: print("called back:", msg.decode()),
    )
    await client.start()
    client.subscribe(SUB_ALL)
    await client.send(b"hello, world!", await client.relay_tup_future)
    print("received:", (await client.recv()).decode())
    await client.close()


if __name__ == "__main__":
    async_test(main)
