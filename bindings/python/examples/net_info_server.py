"""A small REST service over TCP and UDP, which tells its clients their route: `net_info_server.py PORT`."""

import sys
from typing import Any

from p2pd import *


class NetInfoServer(Daemon):
    async def msg_cb(self, msg: bytes, client_tup: Any, pipe: Pipe) -> None:
        req = await rest_service(msg, client_tup, pipe)
        answer: dict[str, Any] = {"error": 2, "msg": "method not implemented"}
        if req.api("/mapping"):
            answer = {
                "error": 0,
                "laddr": pipe.sock.getsockname(),
                "raddr": client_tup,
                "route": pipe.route.to_dict(),
                "if": {"name": pipe.route.interface.name},
            }
        await send_json(answer, req, client_tup, pipe)


async def main() -> None:
    nic = await Interface().start()
    server = NetInfoServer()
    server.set_rp(nic.rp)
    await server.listen_all([nic.rp[IP4]], [int(sys.argv[1])], [TCP, UDP])
    print("serving", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    async_test(main)
