"""What a connect and a node cost brokers and relays: packets and bytes of each client, processor time and memory of the servers."""

import os
import selectors
import socket
import struct
import threading
import time

import brokers
import clusters
import relays
from lab import Call, Failed, Lab, Listener, packet, run, say, text

NAME = "example"
# Sessions and messages at a time that the figures are taken of.
SESSIONS, MESSAGES, PAYLOAD = 2_000, 50_000, 600
ALLOCATIONS = 1_000
TICK = os.sysconf("SC_CLK_TCK")


class Counter:
    """A proxy before a broker that counts MQTT packets and bytes of each connection, both ways."""

    def __init__(self, to):
        self.to, self.server, self.counts = to, socket.create_server(("127.0.0.1", 0)), []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client = self.server.accept()[0]
            broker, count = socket.create_connection(("127.0.0.1", self.to)), [0, 0]
            self.counts.append(count)
            for one, other in (client, broker), (broker, client):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self.pump, args=(one, other, count), daemon=True).start()

    def pump(self, one, other, count):
        held = b""
        try:
            while data := one.recv(65_536):
                other.sendall(data)
                held += data
                while (size := packet_size(held)) is not None:
                    held = held[size:]
                    count[0] += 1
                    count[1] += size
            other.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def packet_size(data):
    length = 0
    for n, byte in enumerate(data[1:5]):
        length |= (byte & 127) << 7 * n
        if byte < 128:
            return n + 2 + length if len(data) >= n + 2 + length else None
    return None


def client(host, port, number):
    """A session that follows a topic of its own."""
    stream = socket.create_connection((host, port), 20)
    stream.sendall(packet(0x10, text("MQTT") + bytes([4, 2, 0, 60]) + text(f"scale{number}")))
    stream.sendall(packet(0x82, b"\0\1" + text(f"scale-{1_000 + number}") + b"\0"))
    got = b""
    while len(got) < 9:
        part = stream.recv(100)
        if not part:
            raise Failed("a broker ended a session")
        got += part
    return stream


def processor(processes):
    """Seconds that these have taken so far."""
    total = 0
    for process in processes:
        with open(f"/proc/{process.popen.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) / TICK
    return total


def memory(processes):
    total = 0
    for process in processes:
        with open(f"/proc/{process.popen.pid}/status") as status:
            total += next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    return total * 1024


def per_connect(lab):
    """Packets and bytes that the broker carries for one call, by client."""
    brokers.plain(lab)
    relays.plain(lab)
    counter = Counter(brokers.PORT)
    servers = brokers.LIST.replace(str(brokers.PORT), str(counter.server.getsockname()[1])) + relays.LIST + relays.USER
    servers = lab.write("servers.toml", servers)
    listener = Listener(lab, servers, "--name", NAME)
    listener.wait("registered")
    time.sleep(3)
    own = counter.counts[0]
    say(f"listener with a name, from its start: {own[0]} packets, {own[1]} bytes")
    for what, target, *options in (
        ("reverse", listener.address, "--strategies", "reverse"), ("punch", listener.address, "--strategies", "punch"),
        ("relay", listener.address, "--strategies", "relay"), ("by name, then direct", f"{NAME}.peer"),
    ):
        before, sessions = list(own), len(counter.counts)
        call = Call(lab, servers, target, *options)
        time.sleep(1)
        theirs = [sum(part) for part in zip(*counter.counts[sessions:])] or [0, 0]
        mine = [now - then for now, then in zip(own, before)]
        good = "" if call.good else f" FAILED: {call.why}"
        say(f"{what}: caller's session {theirs[0]} packets, {theirs[1]} bytes; listener's {mine[0]} and {mine[1]}{good}")
    before = list(own)
    time.sleep(120)
    say(f"listener, idle for 120 s: {own[0] - before[0]} packets, {own[1] - before[1]} bytes")
    listener.process.end()


def sessions(what, hosts, port, processes):
    """Memory of a session, and processor time of a message from one session to another, spread over all nodes."""
    before = memory(processes)
    streams = [client(hosts[n % len(hosts)], port, n) for n in range(SESSIONS)]
    time.sleep(1)
    each = (memory(processes) - before) / SESSIONS
    read, selector = 0, selectors.DefaultSelector()
    for stream in streams:
        stream.setblocking(False)
        selector.register(stream, selectors.EVENT_READ)
    size = len(packet(0x30, text("scale-1000") + bytes(PAYLOAD)))
    took, began, sent, idle = processor(processes), time.monotonic(), 0, 0
    while idle < 20:
        # A few at a time, so that nothing is thrown away.
        for _ in range(min(100, MESSAGES - sent)):
            to = (sent * 7 + 1) % SESSIONS
            streams[sent % SESSIONS].send(packet(0x30, text(f"scale-{1_000 + to}") + bytes(PAYLOAD)))
            sent += 1
        events = selector.select(0.1 if sent == MESSAGES else 0)
        idle = idle + 1 if sent == MESSAGES and not events else 0
        for key, _ in events:
            read += len(key.fileobj.recv(1 << 16))
        if time.monotonic() - began > 120:
            break
    took = (processor(processes) - took) / sent
    say(f"{what}: {each / 1000:.1f} kB a session of {SESSIONS}, {took * 1e6:.0f} us of processor a message of {PAYLOAD} bytes, "
        f"{read / size / sent:.1%} of {sent} delivered")
    for stream in streams:
        stream.close()


def one_broker(lab):
    brokers.mosquitto(lab, "allow_anonymous true\nmax_queued_messages 0")
    sessions("one mosquitto", ["127.0.0.1"], brokers.PORT, [lab.processes[-1]])


def bridged(lab):
    cluster = clusters.mosquittos(lab)
    sessions("two bridged mosquittos, together", clusters.NODES[:2], clusters.PORT, cluster.nodes)


def nats(lab):
    cluster = clusters.nats(lab)
    client(clusters.NODES[0], clusters.PORT, SESSIONS).close()
    sessions("three NATS, together", clusters.NODES, clusters.PORT, cluster.nodes)


def one_coturn(lab):
    """Memory of an allocation, and processor time of relayed bytes."""
    arguments = ["--no-auth", *relays.PLAIN, "--min-port", "40000", "--max-port", "60000"]
    relays.coturn(lab, *arguments)
    process = lab.processes[-1]
    before, sockets = memory([process]), []
    for number in range(ALLOCATIONS):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.settimeout(5)
        head = struct.pack(">HHI", 3, 8, 0x2112A442) + struct.pack(">Q", number) + b"abcd"
        udp.sendto(head + struct.pack(">HHI", 0x19, 4, 17 << 24), ("127.0.0.1", relays.PORT))
        if udp.recv(2_000)[:2] != b"\x01\x03":
            raise Failed("no allocation")
        sockets.append(udp)
    say(f"one coturn: {(memory([process]) - before) / ALLOCATIONS / 1000:.1f} kB an allocation of {ALLOCATIONS}")
    for udp in sockets:
        udp.close()


def coturn_bytes(lab):
    relays.plain(lab)
    process = lab.processes[-1]
    brokers.ours(lab)
    servers = lab.write("servers.toml", brokers.LIST + relays.LIST + relays.USER)
    listener, size, took = Listener(lab, servers), 64 << 20, processor([process])
    call = Call(lab, servers, listener.address, "--strategies", "relay", size=size, timeout=60)
    took = processor([process]) - took
    if not call.good:
        raise Failed(call.why)
    say(f"one coturn: {took / (2 * size / 1e9):.1f} s of processor a GB relayed, {2 * size / 1e6 / call.took:.0f} MB/s there and back")


def measure(program, scratch):
    bad = 0
    say(f"\nscale ({os.cpu_count()} processors, {run('uname', '-sr').strip()})")
    for part in per_connect, one_broker, bridged, nats, one_coturn, coturn_bytes:
        lab = Lab(program, scratch, part.__name__)
        try:
            part(lab)
        except (Failed, OSError) as why:
            bad += 1
            say(f"FAILED {part.__name__}: {why}")
        finally:
            lab.end()
    return bad
