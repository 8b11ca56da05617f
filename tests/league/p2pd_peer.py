"""P2PD of PyPI as a peer of the league: its default strategies (direct, reverse, punch), with every list of servers set to the
lab's. coturn and a first mosquitto are there; `serve` adds a second broker and the time."""

import asyncio
import ctypes
import ipaddress
import json
import os
import secrets
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

START = 30
LONGEST = 80
SERVERS = ["203.0.113.10", "203.0.113.11"]


# The processes of its pool end with it (PR_SET_PDEATHSIG, SIGKILL).
os.register_at_fork(after_in_child=lambda: ctypes.CDLL(None).prctl(1, 9))


def say(**event):
    print(json.dumps(event, separators=(",", ":")), flush=True)


def serve():
    second = tempfile.NamedTemporaryFile("w", suffix=".conf")
    second.write(f"listener 1883 {SERVERS[1]}\nallow_anonymous true\npersistence false\nuser root\n")
    second.flush()
    threading.Thread(target=subprocess.run, args=(["mosquitto", "-c", second.name],), daemon=True).start()
    clock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    clock.bind(("0.0.0.0", 123))
    say(event="ready")
    while True:
        request, caller = clock.recvfrom(512)
        now = time.time() + 2208988800
        stamp = struct.pack("!II", int(now), int(now % 1 * 2**32))
        # Version of the request, mode 4, stratum 1; reference, originate, receive and transmit time.
        answer = bytes([request[0] & 0x38 | 4, 1, 0, 0xEC]) + bytes(12) + stamp + request[40:48] + stamp + stamp
        clock.sendto(answer, caller)


def at_the_lab():
    """Sets the lists of servers, before the rest of the package reads them."""
    # The servers have addresses of a documentation network, and P2PD takes no such servers.
    private = ipaddress.IPv4Address.is_private.fget
    documentation = ipaddress.ip_network("203.0.113.0/24")
    ipaddress.IPv4Address.is_private = property(lambda ip: ip not in documentation and private(ip))
    os.environ["HOME"] = tempfile.mkdtemp()
    from p2pd import settings

    v4, v6 = settings.IP4, settings.IP6
    ends = [(ip, port) for ip in SERVERS for port in (3478, 3479)]

    def stun(mode, ip, port):
        other = {"ip": SERVERS[1], "port": 3479} if mode == 1 else {"ip": None, "port": None}
        return {"mode": mode, "host": None, "primary": {"ip": ip, "port": port}, "secondary": other}

    for name, mode, all_ends in (("STUN_MAP_SERVERS", 2, ends * 8), ("STUN_CHANGE_SERVERS", 1, ends[:1] * 16)):
        lists = getattr(settings, name)
        for protocol in lists:
            lists[protocol] = {v4: [stun(mode, *end) for end in all_ends], v6: []}
    settings.MQTT_SERVERS[:] = [{"host": None, "port": 1883, v4: ip, v6: None} for ip in SERVERS]
    settings.NTP_SERVERS[:] = [{"host": SERVERS[0], "port": 123, v4: SERVERS[0], v6: None}] * 8
    settings.TURN_SERVERS[:] = []
    settings.PNP_SERVERS = {v4: [], v6: []}


async def node():
    import p2pd
    from p2pd.p2p_node import P2PNode
    from p2pd.p2p_node_extra import P2PNodeExtra

    # All homes are on one machine, and are to think that they are not.
    async def machine_id(self, app_id, netifaces):
        return secrets.token_hex(32)

    P2PNodeExtra.load_machine_id = machine_id
    # Its own limit for this is 4 s, which a busy machine exceeds.
    interface = await p2pd.Interface("eth0", timeout=START)
    await interface.load_nat(timeout=START)
    made = P2PNode(ifs=[interface])

    async def echo(msg, client_tup, pipe):
        if msg[:4] == b"ECHO":
            await pipe.send(msg[4:], client_tup)

    made.add_msg_cb(echo)
    await made.start(out=False)
    return made


def text(address):
    return address.decode() if isinstance(address, bytes) else address


async def listen():
    made = await node()
    nat = made.ifs[0].nat
    say(event="ready", address=text(made.address()), nat=nat["type"], delta=nat["delta"])
    await asyncio.sleep(100_000)


async def call(address):
    made = await node()
    begin = time.monotonic()
    pipe = await made.connect(address.encode())
    if pipe is None:
        return say(event="failed", why=f"None after {time.monotonic() - begin:.1f} s")
    for _ in range(3):
        await pipe.send(b"ECHO there and back\n")
        if await pipe.recv(timeout=2):
            return say(event="connected", elapsed_ms=1000 * (time.monotonic() - begin))
    say(event="failed", why="a pipe without an answer")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        at_the_lab()
        try:
            work = listen() if sys.argv[1] == "listen" else asyncio.wait_for(call(sys.argv[2]), LONGEST)
            asyncio.run(work)
        except BaseException as why:
            say(event="failed", why=repr(why))
        os._exit(0)
else:
    # A process of its pool, which imports this file.
    at_the_lab()
