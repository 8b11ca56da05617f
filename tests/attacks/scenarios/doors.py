"""Attacks on what accepts: the listener, its places and descriptors, recorded first messages, files."""

import os
import socket
import struct
import subprocess
import time

import lab
import wire
from lab import Attack, calls, connect, figure, must
from scenarios import attack


def silent_flood(rate):
    victim = lab.listen("--no-servers")
    good, _, why = connect(victim.address, "--no-servers")
    must("an honest call before", good, "worked" if good else why, "worked")
    held = []

    def open_one():
        stream = socket.socket()
        stream.setblocking(False)
        stream.bind((lab.ATTACKER, 0))
        try:
            stream.connect((lab.VICTIM, lab.PORT))
        except BlockingIOError:
            pass
        held.append(stream)
        if len(held) > 2000:
            held.pop(0).close()

    with Attack(rate, open_one) as flood:
        time.sleep(6)
        for who, source in (("the same address", lab.ATTACKER), ("another address", lab.CALLER)):
            good, slowest, why = calls(20, victim.address, "--no-servers", "--bind", source, timeout=4)
            must(f"honest calls from {who}", good == 20, f"{good} of 20, slowest {slowest:.2f} s {why}", "20 of 20")
    figure(f"{flood.made} silent connections, {victim.descriptors()} descriptors of the victim open")
    must("the victim", victim.is_alive(), "alive" if victim.is_alive() else "gone", "alive")


@attack("a1-300", "300 silent connections a second from one address", within=300)
def a1_300():
    silent_flood(300)


@attack("a1-600", "600 silent connections a second from one address", within=300)
def a1_600():
    silent_flood(600)


def hold_pipes(victim, count, keys, source=lab.ATTACKER):
    """Opens so many pipes with these keys in turn, and holds them; gives up where it gets none any more."""
    held, refused, silent = [], 0, 0
    for n in range(count):
        time.sleep(0.0048)
        stream = None
        try:
            stream = wire.Stream((lab.VICTIM, lab.PORT), source, timeout=2)
            if stream.say_first(keys[n % len(keys)], victim.node) != wire.READY or not stream.to_pipe():
                raise ValueError("refused")
            held.append(stream)
            silent = 0
        except Exception as why:
            refused += 1
            silent += isinstance(why, TimeoutError)
            if stream:
                stream.close()
            if silent > 5:
                break
    return held, refused


def hold_everything(name, arguments, check, descriptors=1024):
    """One key, then many keys of one address."""
    victim = lab.Program(*arguments, "--no-servers", "--port", str(lab.PORT), descriptors=descriptors)
    for who, keys in (("one key", [wire.Key()]), ("many keys of one address", [wire.Key() for _ in range(600)])):
        held, refused = hold_pipes(victim, 1100, keys)
        figure(f"{name}: {who}: {len(held)} pipes held, {refused} refused, {victim.descriptors()} descriptors")
        sources = [lab.ATTACKER, lab.CALLER] if who == "one key" else [lab.CALLER]
        for source in sources:
            good, slowest, why = calls(3, victim.address, "--no-servers", "--bind", source, timeout=6, data=check)
            must(f"{name}: {who}: honest calls from {source}", good == 3, f"{good} of 3, slowest {slowest:.1f} s {why}", "3 of 3")
        yield victim, who
        for stream in held:
            stream.close()
        time.sleep(2)


@attack("a2-listen", "one key, then one address, takes every place and descriptor of `listen --echo`", within=240)
def a2_listen():
    for _ in hold_everything("listen", ["listen", "--echo"], b"hi"):
        pass


def hold_daemon(descriptors):
    token = os.path.join(lab.SCRATCH, "token")
    arguments = ["daemon", "--api", "127.0.0.1:12399", "--token-file", token, "--unix", os.path.join(lab.SCRATCH, "api")]
    for _, who in hold_everything("daemon", arguments, b"", descriptors):
        status, _ = lab.curl("http://127.0.0.1:12399/version")
        must(f"daemon: {who}: its API", status == 200, status, 200)
        status, _ = lab.curl("--unix-socket", os.path.join(lab.SCRATCH, "api"), "http://localhost/p2p/con")
        must(f"daemon: {who}: its Unix socket", status == 200, status, 200)


@attack("a2-daemon", "the same with `daemon`, whose local API has to answer", within=240)
def a2_daemon():
    hold_daemon(1024)


@attack("a2-daemon-many", "the same where it may have 20,000 descriptors", within=240)
def a2_daemon_many():
    hold_daemon(20_000)


@attack("j1", "one idle stranger at `listen` without --echo")
def j1():
    victim = lab.Program("listen", "--no-servers", "--port", str(lab.PORT))
    idle = wire.Stream((lab.VICTIM, lab.PORT), lab.ATTACKER)
    idle.say_first(wire.Key(), victim.node)
    idle.to_pipe()
    time.sleep(1)
    command = [lab.PROGRAM, "connect", victim.address, "--no-servers", "--bind", lab.CALLER]
    began = time.monotonic()
    caller = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=lab.environment(lab.SCRATCH)
    )
    lab.started.append(caller)
    try:
        _, why = caller.communicate(timeout=8)
        seen, good = f"ended after {time.monotonic() - began:.1f} s with {caller.returncode}: {why.strip()[-160:]}", True
    except subprocess.TimeoutExpired:
        # Still there: it must at least have been told that it waits.
        lab.end(caller)
        _, why = caller.communicate()
        good = any(word in why.lower() for word in ("wait", "busy", "another"))
        seen = f"waits, and was told: {' | '.join(why.split(chr(10)))[-160:] or 'nothing'}"
    must("the next caller", good, seen, "served, or told within 8 s that it waits")


class Sender(wire.Stream):
    """A peer of `file receive`, on the one stream of a session, as far as its first offer."""

    def __init__(self, victim, source=lab.ATTACKER):
        super().__init__((lab.VICTIM, lab.PORT), source)
        if self.say_first(wire.Key(), victim.node, mode=2, protocol=b"p2pd-files/3") != wire.READY or not self.to_pipe():
            raise ValueError("refused")
        # A new session: HAVE, FROM and OPEN of its first stream.
        self.send(b"\1" + os.urandom(32) + b"\x10" + bytes(8) + b"\x11" + bytes(8) + b"\1" + bytes(4) + b"\7files/3")
        self.held = self.plain = b""
        # A list of one file of unknown size, whose name is not told.
        self.message(b"\0\0" + bytes(16) + struct.pack(">QQQ", 1, 0, 2**64 - 1) + bytes(10))

    def message(self, body):
        framed = struct.pack(">I", len(body)) + body
        self.send(b"\2" + bytes(4) + struct.pack(">H", len(framed)) + framed)

    def offer(self, name, size):
        self.message(b"\2\0" + struct.pack(">QHqIH", size, 0o644, 0, 0, len(name)) + name)

    def bytes(self, content):
        self.message(b"\7" + content)

    def begin(self):
        self.message(b"\6" + bytes(4))

    def more(self):
        """Reads a record, and keeps what is DATA of the stream."""
        self.plain += self.receive()
        lengths = {4: 9, 5: 9, 6: 13, 7: 5, 16: 9, 17: 9, 18: 9, 19: 5, 20: 5, 21: 5, 3: 5}
        while self.plain:
            kind = self.plain[0]
            if kind == 2:
                if len(self.plain) < 7:
                    return
                length = 7 + struct.unpack(">H", self.plain[5:7])[0]
                if len(self.plain) < length:
                    return
                self.held += self.plain[7:length]
            elif kind in lengths:
                length = lengths[kind]
                if len(self.plain) < length:
                    return
            else:
                raise ValueError(f"frame {kind}")
            self.plain = self.plain[length:]

    def answer(self):
        """The answer behind GO, or why there is none."""
        try:
            while True:
                if len(self.held) >= 4 and len(self.held) >= 4 + (length := struct.unpack(">I", self.held[:4])[0]):
                    frame, self.held = self.held[4 : 4 + length], self.held[4 + length :]
                    if frame[:1] != b"\x20":
                        return frame.hex()
                else:
                    self.more()
        except Exception as why:
            return type(why).__name__


def parts(folder):
    """What is not whole in a folder: names and sizes."""
    names = (name for name in os.listdir(folder) if name.endswith(".p2pd-part"))
    return {name: size for name in names if (size := os.path.getsize(os.path.join(folder, name)))}


@attack("g1", "eight peers that trickle to `file receive`; which names and sizes are there; control characters", within=180)
def g1():
    inbox = os.path.join(lab.SCRATCH, "in")
    os.makedirs(inbox)
    # Of its own, because a receiver takes nothing where the disk is nearly full. Nobody else sees this mount.
    lab.run("mount", "-t", "tmpfs", "-o", "size=256m", "none", inbox)
    with open(os.path.join(inbox, "taxes-2025.pdf"), "wb") as file:
        file.write(b"x" * 5000)
    victim = lab.Program("file", "receive", "--dir", inbox, "--no-servers", "--port", str(lab.PORT))
    answers = {}
    for name, size in ((b"not-here.pdf", 5000), (b"taxes-2025.pdf", 1), (b"taxes-2025.pdf", 5000)):
        sender = Sender(victim)
        sender.offer(name, size)
        answers[name, size] = sender.answer()
        sender.close()
    same = len(set(answers.values())) == 1
    must("what a stranger learns of what is there", same, answers, "the same answer for each")
    # What one peer has sent so far is gone on with by that peer only.
    honest = Sender(victim)
    honest.offer(b"half.bin", 1000)
    honest.answer()
    honest.begin()
    honest.bytes(b"h" * 500)
    time.sleep(0.5)
    honest.close()
    time.sleep(1)
    before = parts(inbox)
    sender = Sender(victim)
    sender.offer(b"half.bin", 100)
    answer = sender.answer()
    sender.close()
    time.sleep(0.5)
    after = parts(inbox)
    must("the half of a file after a stranger's offer of that name", bool(before) and before.items() <= after.items(), f"{before} then {after}, answered {answer}", "as it was")
    held, errors = [], 0
    for n in range(8):
        try:
            sender = Sender(victim)
            sender.offer(b"big%d" % n, 1 << 23)
            sender.begin()
            held.append(sender)
        except Exception:
            errors += 1
    time.sleep(1)
    path = os.path.join(lab.SCRATCH, "honest.txt")
    with open(path, "w") as file:
        file.write("hi")
    began = time.monotonic()

    def trickle():
        for sender in held:
            sender.bytes(b"x")

    with Attack(0.5, trickle):
        command = [lab.PROGRAM, "file", "send", victim.address, path, "--no-servers", "--bind", lab.CALLER]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=lab.environment(lab.SCRATCH))
            seen, good = f"{done.returncode} {done.stderr.strip()[-120:]!r}", done.returncode == 0
        except subprocess.TimeoutExpired:
            seen, good = "still waiting", False
    took = time.monotonic() - began
    must(f"an honest sender beside {len(held)} that trickle", good, f"{seen} after {took:.1f} s", "served within 60 s")


@attack("file-escapes", "names with control characters at a terminal's end")
def file_escapes():
    victim = lab.Program("file", "receive", "--no-servers", "--port", str(lab.PORT), json_lines=False)
    until = time.monotonic() + 15
    address = ""
    while not address and time.monotonic() < until:
        address = next((line.split(": ", 1)[1].strip() for line in victim.lines if line.startswith("ready: ")), "")
        time.sleep(0.05)
    victim.said["address"] = address
    for name in (b"\x1b]0;pwned\x07", "a\u202egpj.exe".encode(), b"a\rb"):
        sender = Sender(victim)
        sender.offer(name, 5)
        sender.answer()
        sender.close()
    time.sleep(1)
    said = "".join(victim.lines)
    bad = sorted({hex(ord(c)) for c in said if (ord(c) < 32 and c != "\n") or 0x7F <= ord(c) < 0xA0 or c in "\u202a\u202b\u202d\u202e\u2066\u2067"})
    must("control characters on the terminal", not bad, bad or "none", "none")


def conversation(first):
    """Sends a recorded FIRST; whether it was answered, and the stream."""
    stream = wire.Stream((lab.VICTIM, lab.PORT), lab.ATTACKER, timeout=2)
    stream.socket.sendall(first)
    try:
        kind, _ = wire.read_frame(stream.socket)
    except (OSError, EOFError):
        kind = None
    return kind, stream


@attack("h1", "a first message that was recorded, again after a restart; 300 times")
def h1():
    key = wire.Key()
    path = os.path.join(lab.SCRATCH, "victim.key")
    arguments = ["--no-servers", "--accept", key.id, "--identity", path]
    victim = lab.listen(*arguments)
    stream = wire.Stream((lab.VICTIM, lab.PORT), lab.ATTACKER)
    status = stream.say_first(key, victim.node)
    must("the honest call", status == wire.READY and stream.to_pipe(), status, wire.READY)
    first = stream.hello.first
    kind, again = conversation(first)
    stays = is_kept(again)
    must("the same while it is remembered", not stays, "kept" if stays else "closed", "closed")
    stream.close()
    victim.end()
    victim = lab.listen(*arguments)
    before = victim.descriptors()
    held = [conversation(first) for _ in range(300)]
    # Who is refused has two seconds to read that.
    time.sleep(3)
    answered, kept = sum(kind == wire.SECOND for kind, _ in held), victim.descriptors() - before
    must("streams kept of 300 replays", kept <= 8, f"{kept} ({answered} answered)", "at most 8")
    stream = wire.Stream((lab.VICTIM, lab.PORT), lab.CALLER)
    status = stream.say_first(key, victim.node)
    must("an honest call beside", status == wire.READY and stream.to_pipe(), status, wire.READY)


def is_kept(stream):
    stream.socket.settimeout(1)
    try:
        return stream.socket.recv(1) != b""
    except TimeoutError:
        return True
    except OSError:
        return False


@attack("h2", "a recorded first message 180 times a second; then 5,000 connections with garbage from 50 addresses", within=180)
def h2():
    path, node = lab.identity()
    key_of_victim = os.path.join(lab.SCRATCH, "victim.key")
    # What a passer-by recorded is of a key that is allowed. The recording is made here with a key of our own.
    recorded = wire.Key()
    victim = lab.listen("--no-servers", "--accept", f"{node},{recorded.id}", "--identity", key_of_victim, descriptors=1024)
    first = wire.Hello(recorded, victim.node).first
    held = []

    def replay():
        stream = socket.create_connection((lab.VICTIM, lab.PORT), 1, (lab.ATTACKER, 0))
        stream.sendall(first)
        held.append(stream)
        if len(held) > 3000:
            held.pop(0).close()

    with Attack(180, replay) as flood:
        time.sleep(12)
        for source in (lab.ATTACKER, lab.CALLER):
            good, slowest, why = calls(4, victim.address, "--no-servers", "--bind", source, "--identity", path, timeout=5)
            must(f"an allowed peer at {source}", good == 4, f"{good} of 4, slowest {slowest:.1f} s {why}", "4 of 4")
    held_by_victim = victim.descriptors()
    must(f"descriptors held for {flood.made} replays", held_by_victim <= 512, held_by_victim, "at most 512: those of 2 s, which are being refused")
    for stream in held:
        stream.close()
    victim.end()
    held.clear()
    for n in range(50):
        lab.run("ip", "address", "add", f"198.51.100.{n + 1}/32", "dev", lab.LINK)
    victim = lab.listen("--no-servers")
    made = 0
    for n in range(5000):
        try:
            stream = socket.create_connection((lab.VICTIM, lab.PORT), 2, (f"198.51.100.{n % 50 + 1}", 0))
            stream.sendall(os.urandom(300))
            held.append(stream)
            made += 1
        except OSError:
            pass
    good, slowest, why = calls(3, victim.address, "--no-servers", "--bind", lab.CALLER, timeout=6)
    must(f"honest calls right after {made} with garbage", good == 3, f"{good} of 3, slowest {slowest:.1f} s {why}", "3 of 3")


@attack("refusals", "600 callers a second that are refused, and do not take note of it, with 1,024 descriptors", within=180)
def refusals():
    path, node = lab.identity()
    victim = lab.listen("--no-servers", "--accept", node, descriptors=1024)
    # The same one each time: it is not on the list, whatever it says.
    first = wire.Hello(wire.Key(), victim.node).first
    held = []

    def call():
        stream = socket.create_connection((lab.VICTIM, lab.PORT), 1, (lab.ATTACKER, 0))
        stream.sendall(first)
        held.append(stream)
        if len(held) > 5000:
            held.pop(0).close()

    with Attack(600, call) as flood:
        time.sleep(8)
        most = victim.descriptors()
        good, slowest, why = calls(6, victim.address, "--no-servers", "--bind", lab.CALLER, "--identity", path, timeout=5)
        most = max(most, victim.descriptors())
    figure(f"{flood.made} refused callers, {most} descriptors, {dict(flood.errors) or 'no'} errors")
    must("calls of an allowed peer", good == 6, f"{good} of 6, slowest {slowest:.1f} s {why}", "6 of 6")
    must("descriptors that are left", most <= 900, f"{1024 - most} of 1024", "some, for the API and for known peers")
