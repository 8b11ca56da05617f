"""Two machines (network namespaces): the victim's, and one with everybody else: attackers, honest callers, servers, a third party.

    victim 10.77.0.1, 2001:db8:77::1  --  others 10.77.0.9, 2001:db8:77::9, which is the victim's gateway; there
    203.0.113.1 runs the servers, 203.0.113.66 is an honest caller or a third party, 203.0.113.88 is nobody

What runs here runs among the others, in a process of its own for each scenario.
"""

import atexit
import collections
import json
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
import time

import wire

PROGRAM = os.environ.get("P2PD_ATTACKED", "")
SCRATCH = os.environ.get("P2PD_ATTACK_SCRATCH", "")
VICTIM_NS = os.environ.get("P2PD_ATTACK_VICTIM", "")
VICTIM, VICTIM6 = "10.77.0.1", "2001:db8:77::1"
ATTACKER = "10.77.0.9"
SERVER, CALLER, NOBODY = "203.0.113.1", "203.0.113.66", "203.0.113.88"
CALLER6 = "2001:db8:9::66"
PORT = 40000
# Where the victim's machine has what goes out.
LINK = "v-others"
# A datagram of QUIC's, of which the system takes several at once.
DATAGRAM = 1200
# Most descriptors of this process.
DESCRIPTORS = 20_000


def run(*command, check=True):
    subprocess.run(command, check=check, stdout=subprocess.DEVNULL, stderr=None if check else subprocess.DEVNULL)


def build(victim, others):
    """Makes both machines."""
    for machine in (victim, others):
        run("ip", "netns", "add", machine)
        run("ip", "-n", machine, "link", "set", "lo", "up")
    run("ip", "link", "add", "v-victim", "netns", victim, "type", "veth", "peer", "name", LINK, "netns", others)
    for machine, device, addresses in (
        (victim, "v-victim", [VICTIM + "/24", VICTIM6 + "/64"]),
        (others, LINK, [ATTACKER + "/24", "2001:db8:77::9/64", CALLER6 + "/128"] + [ip + "/32" for ip in (SERVER, CALLER)]),
    ):
        for address in addresses:
            run("ip", "-n", machine, "address", "add", address, "dev", device, *(["nodad"] if ":" in address else []))
        run("ip", "-n", machine, "link", "set", device, "up")
    run("ip", "-n", victim, "route", "add", "default", "via", ATTACKER)
    run("ip", "-n", victim, "-6", "route", "add", "default", "via", "2001:db8:77::9")


def remove(*machines):
    """Ends what still runs in them, by id, and takes them away."""
    for machine in machines:
        pids = subprocess.run(["ip", "netns", "pids", machine], capture_output=True, text=True).stdout.split()
        for pid in pids:
            try:
                os.kill(int(pid), 9)
            except ProcessLookupError:
                pass
        run("ip", "netns", "delete", machine, check=False)


def begin():
    """What each scenario's process does first."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def inside(command):
    """A command, on the victim's machine."""
    return ["ip", "netns", "exec", VICTIM_NS, *command]


def environment(home):
    return dict(os.environ, HOME=home, P2PD_FORBID_PUBLIC_SERVERS="1")


class Program:
    """A run of p2pd. It is ready with the event `ready` or `serving`."""

    def __init__(self, *arguments, victim=True, descriptors=None, json_lines=True, ready=("ready", "serving"), wait=20):
        self.home = os.path.join(SCRATCH, f"home{len(started)}")
        os.makedirs(self.home, exist_ok=True)
        command = [PROGRAM, *arguments] + (["--json"] if json_lines else [])
        if descriptors:
            command = ["bash", "-c", f'ulimit -n {descriptors}; exec "$0" "$@"', *command]
        self.process = subprocess.Popen(
            inside(command) if victim else command,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
            env=environment(self.home), cwd=self.home,
        )
        started.append(self.process)
        self.lines, self.said, self._ready = [], {}, threading.Event()
        threading.Thread(target=self._read, args=(ready,), daemon=True).start()
        if json_lines and not self._ready.wait(wait):
            raise SystemExit(f"{arguments[:2]} did not begin: {''.join(self.lines[-5:])}")

    def _read(self, ready):
        for line in self.process.stderr:
            self.lines.append(line)
            try:
                event = json.loads(line)
            except ValueError:
                continue
            self.said.update(event)
            if event.get("event") in ready:
                self._ready.set()

    @property
    def address(self):
        return self.said["address"]

    @property
    def node(self):
        return wire.node_of(self.address)

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def is_alive(self):
        return self.process.poll() is None

    def end(self):
        end(self.process)


started = []


def end(process):
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@atexit.register
def end_all():
    for process in started:
        end(process)


def listen(*arguments, **options):
    return Program("listen", "--echo", "--port", str(PORT), *arguments, **options)


def serve(*arguments, **options):
    relay = () if any(argument.startswith("--turn") for argument in arguments) else ("--no-turn",)
    return Program("serve", "--bind", SERVER, *relay, *arguments, victim=False, **options)


def servers(stun=True):
    """The server list that names the broker."""
    path = os.path.join(SCRATCH, "servers.toml")
    with open(path, "w") as file:
        file.write(f'[[mqtt]]\nid = 0\nhost = "{SERVER}"\n' + (f'[[stun]]\nhost = "{SERVER}"\n' if stun else ""))
    return ["--config", path]


def connect(address, *arguments, victim=False, timeout=10, data=b"hi"):
    """An honest call: (whether what was sent came back, seconds, what it complained)."""
    command = [PROGRAM, "connect", address, "--timeout", str(timeout), *arguments]
    began = time.monotonic()
    try:
        home = os.path.join(SCRATCH, "caller")
        os.makedirs(home, exist_ok=True)
        done = subprocess.run(
            inside(command) if victim else command,
            input=data, capture_output=True, timeout=timeout + 10, env=environment(home), cwd=home,
        )
        good = done.returncode == 0 and done.stdout == data
        why = done.stderr.decode(errors="replace").strip().replace("\n", " | ")
    except subprocess.TimeoutExpired:
        good, why = False, "still running"
    return good, time.monotonic() - began, why[-300:]


def calls(count, address, *arguments, **options):
    """How many of so many honest calls worked, the slowest one's seconds, and the last complaint."""
    results = [connect(address, *arguments, **options) for _ in range(count)]
    complaints = [why for good, _, why in results if not good]
    return sum(good for good, *_ in results), max(t for _, t, _ in results), (complaints or [""])[-1]


def identity(name="honest"):
    """A key file, and the node id in it."""
    path = os.path.join(SCRATCH, name + ".key")
    done = subprocess.run(
        [PROGRAM, "addr", "--no-servers", "--bind", CALLER, "--identity", path],
        capture_output=True, text=True, env=environment(SCRATCH), timeout=20,
    )
    return path, done.stdout.strip().rsplit("-", 1)[1]


def curl(*arguments, victim=True):
    """The HTTP status of a request, 0 where there is none, and the body."""
    command = ["curl", "-s", "-g", "-m", "5", "-w", "\n%{http_code}", *arguments]
    done = subprocess.run(inside(command) if victim else command, capture_output=True, text=True, errors="replace")
    body, _, status = done.stdout.rpartition("\n")
    return int(status or 0), body


class Wire:
    """What goes from the victim's machine onto its link: packets and bytes (of IP) by (protocol, destination)."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.socket.setsockopt(socket.SOL_SOCKET, 33, 1 << 25)
        self.socket.bind((LINK, 0))
        self.socket.settimeout(0.2)
        self.packets, self.bytes, self.ports = collections.Counter(), collections.Counter(), collections.defaultdict(set)
        self.over = False
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        while not self.over:
            try:
                data, (_, _, kind, *_) = self.socket.recvfrom(2048)
            except TimeoutError:
                continue
            if kind == socket.PACKET_OUTGOING:
                continue
            if data[12:14] == b"\x08\0":
                at, protocol, to, size = 14 + 4 * (data[14] & 15), data[23], socket.inet_ntoa(data[30:34]), struct.unpack(">H", data[16:18])[0]
            elif data[12:14] == b"\x86\xdd":
                at, protocol, size = 54, data[20], 40 + struct.unpack(">H", data[18:20])[0]
                to = socket.inet_ntop(socket.AF_INET6, data[38:54])
            else:
                continue
            if protocol == 6:
                # Only what opens: answers go to whoever asked.
                if data[at + 13] & 0x12 != 2:
                    continue
                name = "syn"
                count = 1
            elif protocol == 17:
                name = "udp"
                # The system may hand several over as one, which the link would not.
                count = max(1, -(-(size - (at - 14) - 8) // DATAGRAM))
                size += (count - 1) * (at - 14 + 8)
            else:
                continue
            self.packets[name, to] += count
            self.bytes[name, to] += size
            self.ports[name, to].add(data[at + 2 : at + 4])

    def reset(self):
        for counted in (self.packets, self.bytes, self.ports):
            counted.clear()

    def to(self, ip):
        """SYNs, datagrams, and bytes of both."""
        return self.packets["syn", ip], self.packets["udp", ip], self.bytes["syn", ip] + self.bytes["udp", ip]

    def stop(self):
        self.over = True
        self.thread.join()


class Notes:
    """TCP services on these addresses that note who came and what was said; `close` ends each connection at once."""

    def __init__(self, *places):
        self.came, self.said, self.sockets = [], b"", []
        for ip, port in places:
            family = socket.AF_INET6 if ":" in ip else socket.AF_INET
            listener = socket.socket(family)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((ip, port))
            listener.listen(50)
            self.sockets.append(listener)
            threading.Thread(target=self._accept, args=(listener, (ip, port)), daemon=True).start()

    def _accept(self, listener, at):
        while True:
            try:
                stream, _ = listener.accept()
            except OSError:
                return
            self.came.append(at)
            stream.settimeout(2)
            threading.Thread(target=self._note, args=(stream,), daemon=True).start()

    def _note(self, stream):
        try:
            while part := stream.recv(2000):
                self.said += part
        except OSError:
            pass
        stream.close()


class Attack:
    """Calls something so many times a second in the background, until it is left; `made` and `errors` count."""

    def __init__(self, rate, act):
        self.rate, self.act, self.over = rate, act, False
        self.made, self.errors, self.total = 0, collections.Counter(), 0

    def __enter__(self):
        self.thread = threading.Thread(target=self._go, daemon=True)
        self.thread.start()
        return self

    def _go(self):
        due = time.monotonic()
        while not self.over:
            try:
                self.total += self.act() or 0
                self.made += 1
            except Exception as why:
                self.errors[type(why).__name__] += 1
            due += 1 / self.rate
            time.sleep(max(0, due - time.monotonic()))

    def __exit__(self, *_):
        self.over = True
        self.thread.join(10)


# ---- what is reported

failed = []


def must(what, good, seen, wanted):
    """A line of the report."""
    if not good:
        failed.append(what)
    print(f"  {'PASSED' if good else 'FAILED'}  {what}: seen {seen}; must be {wanted}", flush=True)


def figure(text):
    print(f"  figure  {text}", flush=True)


def finish():
    end_all()
    sys.stdout.flush()
    os._exit(1 if failed else 0)
