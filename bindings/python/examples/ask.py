"""A host is asked over TCP or UDP, and what matches is received: `ask.py tcp|udp HOST PORT TEXT`."""

import sys

from p2pd import *


async def main() -> None:
    proto, host, port, text = sys.argv[1:]
    nic = await Interface().start()
    route = await nic.route(IP4).bind()
    dest = await Address(host, int(port), route).res()
    pipe = await pipe_open(UDP if proto == "udp" else TCP, dest, route)

    # Only messages with an "e" in them, from this network.
    sub = [b"e", rb"^127[.][0-9.]+:[0-9]+"]
    pipe.subscribe(sub)
    await pipe.send(text.encode(), dest.tup)
    message, sender = await pipe.recv(sub, timeout=4, full=True)
    print(message.decode(), "from", sender[0])
    await pipe.close()


if __name__ == "__main__":
    async_test(main)
