"""What a node can be made to send to others: addresses that only it reaches, bytes of a stranger's choice, floods."""

import os
import subprocess
import sys
import time

import lab
import mqtt
import wire
from lab import Notes, Wire, figure, must
from scenarios import attack

CHOSEN = b"\r\nflush_all\r\n\r\n\r"
INSIDE = (lab.ATTACKER, 11211)


@attack("b1", "a stranger has a memcached in our LAN dialled, with 16 bytes of its choice")
def b1():
    lab.serve()
    victim = lab.listen(*lab.servers())
    inside, outside = Notes(INSIDE), Notes((lab.CALLER, 11211))
    for place, notes in ((INSIDE, inside), ((lab.CALLER, 11211), outside)):
        peer = mqtt.Peer(victim.node)
        peer.say(wire.direct(peer.key, [place], CHOSEN[:16]))
        time.sleep(3)
        must(f"the session in clear at {place[0]}", CHOSEN[:16] not in notes.said, notes.said[:24], "not there")
        peer.close()
    must("dials into the LAN", not inside.came, len(inside.came), 0)
    must("the dial of a public address, to show that it would be seen", bool(outside.came), len(outside.came), "1 or more")


# RFC 6890 and what embeds its addresses; all but these are the internet's.
FORBIDDEN = [
    "0.0.0.0", "0.1.2.3", "10.99.99.1", lab.ATTACKER, "10.77.0.200", "100.64.1.1", "127.0.0.1", "127.1.2.3", "169.254.169.254",
    "169.254.1.1", "172.16.5.5", "172.31.255.254", "192.0.0.8", "192.168.9.1", "198.18.0.1", "224.0.0.1", "239.1.2.3", "240.0.0.1",
    "255.255.255.255", "10.77.0.255", lab.VICTIM,
    "::", "::1", "::ffff:10.0.0.1", "::10.0.0.1", "64:ff9b::a00:1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1",
    "2002:a00:1::1", "2002:7f00:1::1", "2001:0:cb00:7101:0:ffff:f5ff:fffe", "fd00::1", "fc00:1::1", "fe80::9", "fec0::1", "ff02::1",
    "ff05::2", "100::1", lab.VICTIM6, "2001:db8:77::9", "2001:db8:77::200",
]  # fmt: skip
ALLOWED = [lab.CALLER, lab.CALLER6]


def ask_all(victim, make, pause=0.12):
    """Asks for each address with a key of its own."""
    for ip in FORBIDDEN + ALLOWED:
        key = wire.Key()
        peer = mqtt.Peer(victim.node, key, listens=False)
        try:
            peer.say(make(key, ip))
        finally:
            peer.close()
        time.sleep(pause)


@attack("f1", "strangers have private, metadata, loopback, own and embedded addresses dialled (b1, f1, f2, l1)", within=240)
def f1():
    lab.serve()
    victim = lab.listen(*lab.servers())
    # What cannot be seen on the link: the victim's own addresses.
    own = [(ip, 8081) for ip in (lab.VICTIM, lab.VICTIM6, "127.0.0.1", "127.1.2.3", "::1")]
    note = os.path.join(lab.SCRATCH, "own")
    command = [sys.executable, os.path.abspath(__file__), note, *(f"{ip},{port}" for ip, port in own)]
    lab.started.append(subprocess.Popen(lab.inside(command), env=dict(os.environ, PYTHONPATH=os.path.dirname(lab.__file__))))
    for ip in ("10.99.99.1", "172.16.5.5", "169.254.169.254", "100.64.1.1", "192.168.9.1"):
        lab.run("ip", "address", "add", ip + "/32", "dev", lab.LINK)
    for ip in ("64:ff9b::a00:1", "64:ff9b::a9fe:a9fe", "2002:a00:1::1", "fd00::1"):
        lab.run("ip", "address", "add", ip + "/128", "dev", lab.LINK, "nodad")
    time.sleep(1)
    def punch(key, ip):
        inside = "fd00::5" if ":" in ip else "192.168.5.5"
        family = {"mapping": 2, "filtering": 1, "allocation": (1, 0, 0), "ports": [8081], "nat": (3, 2)}
        text = wire.initial(key, ip, inside, os.urandom(16), **family)
        if ":" not in ip:
            return text
        # The text of an IPv6 address stands in the second list.
        head, tail = text.rsplit(b"0-[", 1)
        return head + b"0-0-[" + tail.replace(b"]-0-", b"]-", 1)

    ways = (
        ("DIRECT", lambda key, ip: wire.direct(key, [(ip, 8081)])),
        ("DIRECT with it as the inside address", lambda key, ip: behind(key, ip)),
        ("TURN_REQUEST", lambda key, ip: wire.turn_request(key, (ip, 8081))),
        ("INITIAL_MAPPINGS", punch),
    )
    seen = Wire()
    for name, make in ways:
        time.sleep(6)
        seen.reset()
        ask_all(victim, make)
        time.sleep(4)
        reached = [ip for ip in FORBIDDEN if seen.packets["syn", ip] or (seen.packets["udp", ip] and ip != "ff02::1")]
        must(f"{name}: addresses of the table that got a packet", not reached, reached or "none", "none")
        shown = [ip for ip in ALLOWED if seen.packets["syn", ip] or seen.packets["udp", ip]]
        if name in ("DIRECT", "TURN_REQUEST"):
            must(f"{name}: public ones, to show that it would be seen", len(shown) == 2, shown, ALLOWED)
    seen.stop()
    came = sorted(set(open(note).read().split())) if os.path.exists(note) else []
    must("the victim's own services that were reached", not came, came or "none", "none")


def behind(key, ip):
    """DIRECT of a peer that says it is behind the victim's own outside address, at this inside address."""
    v4, v6 = ("0", f"[0,{lab.VICTIM6},{ip},8081,1,1,0]") if ":" in ip else (f"[0,{lab.VICTIM},{ip},8081,1,1,0]", "0")
    return wire.message(wire.DIRECT, b"\0" + f"0-{v4}-{v6}-{key.id}".encode(), os.urandom(16))


# How much may reach a third party for one request.
DATAGRAMS, SYNS, FACTOR = 3, 4, 3


def cost(seen, ip, asked, name, requests=1):
    """Judges what came to a third party for so many bytes asked."""
    syns, datagrams, size = seen.to(ip)
    factor = size / asked
    figure(f"{name}: {asked} bytes in {requests} requests -> {syns} SYNs, {datagrams} datagrams, {size} bytes at {ip}: x{factor:.2f}")
    good = syns <= SYNS * requests and datagrams <= DATAGRAMS * requests and factor <= FACTOR
    must(
        f"{name}: a third party's part for each request", good,
        f"{syns / requests:.1f} SYNs, {datagrams / requests:.1f} datagrams, x{factor:.2f} in bytes",
        f"at most {SYNS} SYNs, {DATAGRAMS} datagrams, x{FACTOR} in bytes",
    )  # fmt: skip


def search(key, ip, session, rung=0):
    """Claims to be behind a NAT with random ports at this address, which has to be searched for."""
    return wire.initial(key, ip, "192.168.5.5", session, rung)


def meet(key, ip, session, rung=0):
    """Claims a NAT whose sixteen next ports are known."""
    ports = range(2000, 2016)
    return wire.initial(key, ip, "192.168.5.5", session, rung, mapping=4, filtering=3, allocation=(3, 1, 0), ports=ports, nat=(6, 3))


@attack("b3", "a stranger's requests at a third party: one message of each kind, then ten a second", within=300)
def b3():
    lab.serve()
    victim = lab.listen(*lab.servers())
    seen = Wire()

    def one(name, make, ip, wait):
        seen.reset()
        peer = mqtt.Peer(victim.node, listens=False)
        asked = peer.say(make(peer.key, ip))
        time.sleep(wait)
        cost(seen, ip, asked, f"stranger, {name}")
        peer.close()

    # A dial's SYN is sent again after 1, 3 and 7 s; a datagram of TURN's or QUIC's within 32 s.
    silent = lab.NOBODY
    one("TURN_REQUEST, nobody there", lambda key, ip: wire.turn_request(key, (ip, 9999)), silent, 34)
    one("DIRECT, nobody there", lambda key, ip: wire.direct(key, [(ip, 80)]), silent, 14)
    one("DIRECT, two ports of one host", lambda key, ip: wire.direct(key, [(ip, 80), (ip, 81)]), silent, 14)
    one("DIRECT, closed port", lambda key, ip: wire.direct(key, [(ip, 80)]), lab.CALLER, 6)
    one("INITIAL_MAPPINGS, search", lambda key, ip: search(key, ip, os.urandom(16)), silent, 14)
    one("INITIAL_MAPPINGS, sixteen ports", lambda key, ip: meet(key, ip, os.urandom(16)), silent, 14)
    one("INITIAL_MAPPINGS, closed ports", lambda key, ip: meet(key, ip, os.urandom(16)), lab.CALLER, 14)
    # All rungs of one punch, in one session.
    seen.reset()
    peer, session, asked = mqtt.Peer(victim.node, listens=False), os.urandom(16), 0
    for rung in range(6):
        asked += peer.say(meet(peer.key, silent, session, rung))
        time.sleep(3)
    time.sleep(10)
    cost(seen, silent, asked, "stranger, six rungs", 6)


@attack("b3-flood", "ten requests for a relay a second, each of a key made for it", within=180)
def b3_flood():
    lab.serve()
    victim = lab.listen(*lab.servers())
    seen = Wire()
    peer = mqtt.Peer(victim.node, listens=False)
    for name, ip, make in (
        ("TURN_REQUEST", lab.CALLER, lambda key, ip: wire.turn_request(key, (ip, 9999))),
        ("DIRECT", lab.NOBODY, lambda key, ip: wire.direct(key, [(ip, 80)])),
    ):
        seen.reset()
        with lab.Attack(10, lambda: peer.say(make(key := wire.Key(), ip), key)) as flood:
            time.sleep(30)
        time.sleep(12)
        cost(seen, ip, flood.total, f"strangers, 10 {name}/s for 30 s", flood.made)
    figure(f"{victim.descriptors()} descriptors of the victim")


@attack("k1", "a named peer that claims a third party's address as its NAT's, six rungs", within=180)
def k1():
    lab.serve()
    named = wire.Key()
    victim = lab.listen(*lab.servers(), "--accept", named.id)
    seen = Wire()
    peer = mqtt.Peer(victim.node, named)
    for name, ip, most in (("silent", lab.NOBODY, 48), ("that answers by RST", lab.CALLER, None)):
        seen.reset()
        session, asked = os.urandom(16), 0
        for rung in range(6):
            asked += peer.say(search(named, ip, session, rung))
            time.sleep(4)
        time.sleep(6)
        syns, _, size = seen.to(ip)
        ports = len(seen.ports["syn", ip])
        figure(f"named peer, third party {name}: {asked} bytes -> {syns} SYNs to {ports} ports, {size} bytes: x{size / asked:.1f}")
        if most:
            must("ports of an address from which nothing came back", ports <= most, ports, f"at most {most}")


if __name__ == "__main__":
    # On the victim's machine: who came to its own services.
    notes = Notes(*((ip, int(port)) for ip, port in (place.rsplit(",", 1) for place in sys.argv[2:])))
    while True:
        time.sleep(0.1)
        if notes.came:
            with open(sys.argv[1] + ".new", "w") as out:
                out.write("\n".join(ip for ip, _ in notes.came))
            os.replace(sys.argv[1] + ".new", sys.argv[1])
