"""Servers on many ports and protocols, or on none of them: `daemon.py PORT`."""

import sys
from typing import Any

from p2pd import *


class EchoServer(Daemon):
    async def msg_cb(self, msg: bytes, client_tup: Any, pipe: Pipe) -> None:
        await pipe.send(msg, client_tup)


async def main() -> None:
    first = int(sys.argv[1])
    nic = await Interface().start()
    echod = await EchoServer().listen_all([nic], [first, [first + 1, first + 3]], [TCP, UDP], af=IP4)
    print(len(echod.servers), "servers")
    await echod.close()

    loopback = await nic.route(IP4).bind(ips="127.0.0.1")
    specific = await EchoServer().listen_specific([[loopback, TCP]])
    print("one at", specific.servers[0].sock.getsockname()[0])
    await specific.close()


if __name__ == "__main__":
    async_test(main)
