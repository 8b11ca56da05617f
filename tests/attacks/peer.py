"""A peer as far as docs/src/protocol says: hellos from either side, pipes, and the caller of a relay stream."""

import os
import socket
import struct
import threading
import time

import messages
import relay
import wire
from noise import Initiator, Responder


class Pipe:
    """A TCP stream on which the hello is done, in either role."""

    def __init__(self, stream, noise, commits):
        # Whether the initiator may commit, if it has the lower id.
        self.stream, self.noise, self.commits = stream, noise, commits

    def control(self, plain):
        self.stream.sendall(wire.frame(wire.SEALED, self.noise.sending.seal(plain)))

    def hear(self):
        kind, body = wire.read_frame(self.stream)
        messages.need(kind == wire.SEALED, f"frame {kind}")
        return self.noise.receiving.open(body)

    def agree(self, key, peer, session):
        """Settles this stream as the pipe of the session."""
        commits = self.commits
        word = bytes([wire.COMMIT if commits else wire.NOMINATE]) + session
        if key.public < peer:
            self.control(word)
            messages.need(commits or self.hear()[0] == wire.CONFIRM, "CONFIRM")
        else:
            messages.need(self.hear()[: len(word)] == word, "what is nominated")
            if not commits:
                self.control(bytes([wire.CONFIRM]))

    def send(self, plain):
        sealed = self.noise.sending.seal(plain)
        self.stream.sendall(struct.pack(">H", len(sealed)) + sealed)

    def receive(self):
        (length,) = struct.unpack(">H", wire.read_exactly(self.stream, 2))
        return self.noise.receiving.open(wire.read_exactly(self.stream, length))


def answer(stream, key):
    """The responder's part on a stream that was accepted, by ChaCha20-Poly1305: (pipe, caller's key, session, purpose)."""
    stream.settimeout(10)
    kind, body = wire.read_frame(stream)
    messages.need(kind == wire.FIRST, f"frame {kind}")
    noise = Responder(key.secret, wire.hello_prologue(key.public))
    payload = noise.first(body)
    # Encrypted or for a session, and AES may be on offer.
    messages.need(len(payload) >= 18 and payload[16] <= 1 and payload[17] & ~4 in (0, 2), "an offer of an encrypted pipe")
    commits = noise.peer < key.public
    stream.sendall(wire.frame(wire.SECOND, noise.second(bytes([wire.READY, 0, commits]))))
    return Pipe(stream, noise, commits), noise.peer, payload[:16], payload[16]


def begin(stream, key, peer, session):
    """The initiator's part on an open stream, whoever dialled it: (status, pipe)."""
    stream.settimeout(10)
    hello = wire.Hello(key, peer, session)
    stream.sendall(hello.first)
    kind, body = wire.read_frame(stream)
    messages.need(kind == wire.SECOND, f"frame {kind}")
    status, _, commits = hello.noise.second(body)
    return status, Pipe(stream, hello.noise, (status, commits) == (wire.READY, 1))


class Listener:
    def __init__(self, at):
        self.socket = socket.create_server(at)
        self.socket.settimeout(15)

    def accept(self):
        return self.socket.accept()[0]


def listen_and_echo(listener, key):
    """Answers one caller, and sends back what comes up to its end; in the background."""

    def run():
        pipe, peer, session, _ = answer(listener.accept(), key)
        pipe.agree(key, peer, session)
        while plain := pipe.receive():
            pipe.send(plain)
        pipe.send(b"")

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


class Caller:
    """The caller of a relay stream, for as long as a short talk takes: packets are few, so their numbers are whole."""

    PIPE = 2

    def __init__(self, key, peer, session, to, source):
        self.key, self.peer, self.session, self.to = key, peer, session, to
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((source, 0))
        self.first_id = os.urandom(16)
        prologue = relay.prologue(session, peer)
        initial = relay.initial_secret(key.secret, peer, prologue)
        directions = [initial_key + self.first_id for initial_key in (b"initial caller", b"initial callee")]
        self.keys = {relay.INITIAL: [relay.Protection(wire.keyed(initial, label)) for label in directions]}
        self.noise = Initiator(b"IK", key.secret, peer, prologue)
        kinds = (relay.INITIAL, relay.HANDSHAKE, relay.DATA)
        self.next, self.seen, self.waits = {k: 0 for k in kinds}, {k: set() for k in kinds}, []
        self.owed, self.crypto, self.met = set(), {}, False
        self.sent, self.streams, self.taken, self.closed = 0, {}, 0, False
        own = b"".join(
            relay.put_varint(kind) + relay.put_varint(len(value)) + value
            for kind, value in (
                (0x01, relay.put_varint(30_000)), (0x03, relay.put_varint(1_200)), (0x04, relay.put_varint(1 << 20)),
                (0x07, relay.put_varint(1 << 20)), (0x09, relay.put_varint(65)), (0x0F, b""),
            )
        )
        self.say(relay.INITIAL, self.crypto_frame(self.framed(self.noise.first(own))))

    def framed(self, message):
        return struct.pack(">H", len(message)) + message

    def crypto_frame(self, data):
        return b"\x06" + relay.put_varint(0) + relay.put_varint(len(data)) + data

    def say(self, kind, frames):
        """Sends frames until they are acknowledged."""
        self.waits.append([kind, frames, self.transmit(kind, frames), time.monotonic()])

    def transmit(self, kind, frames):
        number, self.next[kind] = self.next[kind], self.next[kind] + 1
        frames = frames.ljust(4, b"\0")
        if kind == relay.DATA:
            header = b"\x43"
        else:
            # The callee's own id has no bytes, and takes the place of the first one.
            to = b"" if self.seen[relay.INITIAL] else self.first_id
            header = (b"\xc3" if kind == relay.INITIAL else b"\xe3") + struct.pack(">IB", relay.QUIC_VERSION, len(to)) + to + b"\0"
            if kind == relay.INITIAL:
                # No token, and PADDING up to the whole datagram.
                header += b"\0"
                frames = frames.ljust(1_200 - len(header) - 2 - 4 - 16, b"\0")
            header += struct.pack(">H", 0x4000 | 4 + len(frames) + 16)
        self.socket.sendto(self.keys[kind][0].seal(header, number, frames), self.to)
        return number

    def acknowledge(self, kind):
        numbers = sorted(self.seen[kind], reverse=True)
        ranges, high, low = [], numbers[0], numbers[0]
        for number in numbers[1:] + [-2]:
            if number != low - 1:
                ranges.append((high, low))
                high = number
            low = number
        out = b"\x02" + relay.put_varint(numbers[0]) + relay.put_varint(0) + relay.put_varint(len(ranges) - 1)
        before = None
        for high, low in ranges:
            out += b"" if before is None else relay.put_varint(before - high - 2)
            out += relay.put_varint(high - low)
            before = low
        self.transmit(kind, out)

    def run(self, seconds, until=lambda: False):
        """Sends and receives for so long, or until something is so."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not until() and not self.closed:
            self.socket.settimeout(0.05)
            try:
                self.hear(*self.socket.recvfrom(2_000))
            except TimeoutError:
                pass
            for kind in self.owed & set(self.keys):
                self.acknowledge(kind)
            self.owed.clear()
            for waiting in self.waits:
                if time.monotonic() - waiting[3] > 0.3:
                    waiting[2:] = [self.transmit(*waiting[:2]), time.monotonic()]
        return until()

    def hear(self, datagram, source):
        if source != self.to:
            return
        if datagram[0] == 1 and len(datagram) == 17:
            return
        for kind, _, packet, offset in relay.packets(datagram):
            if kind not in self.keys:
                continue
            plain, number = self.keys[kind][1].open(packet, offset)
            self.seen[kind].add(number)
            for frame in relay.frames(plain):
                if frame[0] == "ack":
                    self.waits = [w for w in self.waits if (w[0], w[2] in frame[1]) != (kind, True)]
                    continue
                self.owed.add(kind)
                if frame[0] == "crypto" and kind not in self.crypto:
                    self.crypto[kind] = frame[2]
                    self.handshake(kind, frame[2])
                elif frame[0] == "stream":
                    _, stream, at, data, _ = frame
                    have = self.streams.get(stream, b"")
                    if at <= len(have):
                        self.streams[stream] = have[:at] + data if at + len(data) > len(have) else have
                elif frame[0] == "close":
                    self.closed = True

    def handshake(self, kind, data):
        if kind == relay.INITIAL:
            self.noise.second(data[2:])
            self.keys[relay.HANDSHAKE] = [relay.Protection(wire.keyed(k, b"handshake")) for k in self.noise.secrets]
            self.waits = [w for w in self.waits if w[0] != relay.INITIAL]
        else:
            messages.need(data == b"\1", "DONE")
            self.keys[relay.DATA] = [relay.Protection(wire.keyed(k, b"data")) for k in self.noise.secrets]
            self.say(relay.HANDSHAKE, self.crypto_frame(b"\1"))
            self.met = True

    # ---- the pipe

    def write(self, data, end=False):
        frame = bytes([0x0E | end]) + relay.put_varint(self.PIPE) + relay.put_varint(self.sent)
        self.sent += len(data)
        self.say(relay.DATA, frame + relay.put_varint(len(data)) + data)

    def read(self, n=None, seconds=5):
        """So many bytes of the pipe, or all that are there."""
        has = lambda: len(self.streams.get(3, b"")) - self.taken
        self.run(seconds, lambda: has() >= (n or 1))
        out = self.streams.get(3, b"")[self.taken :][:n]
        self.taken += len(out)
        return out

    def agree(self):
        """Settles the relay as the pipe of the session."""
        messages.need(self.run(10, lambda: self.met), "the handshake")

        def hear():
            said = self.read(self.read(1, 10)[0])
            return hear() if said[0] == wire.BUSY else said

        if self.key.public < self.peer:
            self.write(bytes([17, wire.NOMINATE]) + self.session)
            messages.need(hear()[0] == wire.CONFIRM, "CONFIRM")
        else:
            messages.need(hear()[:17] == bytes([wire.NOMINATE]) + self.session, "what is nominated")
            self.write(bytes([1, wire.CONFIRM]))

    def close(self):
        self.transmit(relay.DATA, b"\x1d" + relay.put_varint(0) + relay.put_varint(0))
