"""The wire formats of p2pd, written from its documents: node ids, the hello, envelopes, messages. What a new version changes
is in the constants below."""

import base64
import os
import socket
import struct
import time

from noise import Initiator, blake2s, exchange, keyed, open_one_way, public

HELLO_VERSION = 3
SIGNAL_VERSION = 2
# Frames of the hello.
FIRST, SECOND, SEALED, REFUSE = 1, 2, 3, 4
# Answers in SECOND.
READY, ASKING, REFUSED_STATUS = 0, 1, 2
# Sealed control messages.
APPROVED, NOMINATE, CONFIRM, REFUSED_CONTROL, HERE, BUSY, COMMIT = 1, 2, 3, 4, 6, 7, 8
# Messages over brokers.
ECHO, DIRECT, INITIAL, UPDATED, TURN_REQUEST, TURN_RESPONSE, PROVE, UDP_REQUEST, UDP_RESPONSE = 1, 2, 3, 4, 5, 6, 7, 8, 9
ECHO_REPLY, DIALLING, DIALLED, CLOCK, REFUSED = 16, 17, 18, 19, 20
# Before a message's body: id, time, lifetime, session, kind.
MESSAGE_HEAD = 16 + 8 + 2 + 16 + 1
# TCP and IP around an envelope and its PUBLISH on the asker's side: 20 + 20 and the topic's 52 + 2 and 2 to 3.
MQTT_OVERHEAD = 40 + 57


def base32(data):
    return base64.b32encode(data).decode().rstrip("=").lower()


class Key:
    """A key made this second, unless one is given."""

    def __init__(self, secret=None):
        self.secret = secret or os.urandom(32)
        self.public = public(self.secret)
        self.id = base32(self.public)
        self.topic = topic(self.public)


def node_of(address):
    """The public key at the end of an address."""
    text = address.rsplit("-", 1)[1].upper()
    return base64.b32decode(text + "=" * (-len(text) % 8))


def topic(node):
    return base32(blake2s(b"p2pd topic" + node))


def port_of(address):
    """The port of the first interface of an address."""
    return int(address.split("[", 1)[1].split(",")[3])


# ---- the hello


def read_exactly(stream, n):
    out = b""
    while len(out) < n:
        part = stream.recv(n - len(out))
        if not part:
            raise EOFError("the stream ended")
        out += part
    return out


def frame(kind, body):
    return struct.pack(">BBH", HELLO_VERSION, kind, len(body)) + body


def read_frame(stream):
    _, kind, length = struct.unpack(">BBH", read_exactly(stream, 4))
    return kind, read_exactly(stream, length)


def hello_prologue(responder):
    return b"p2pd hello\0" + bytes([HELLO_VERSION]) + responder


class Hello:
    """The dialler's end; purpose 0 opens a session of its own, mode 0 is encrypted."""

    def __init__(self, key, peer, session=None, purpose=0, mode=0, protocol=b"", ephemeral=None):
        self.key, self.peer, self.session = key, peer, session or os.urandom(16)
        self.noise = Initiator(b"IK", key.secret, peer, hello_prologue(peer), ephemeral)
        self.first = frame(FIRST, self.noise.first(self.session + bytes([purpose, mode]) + protocol))

    def second(self, body):
        return self.noise.second(body)[0]

    def control(self, plain):
        return frame(SEALED, self.noise.sending.seal(plain))

    def hear(self, stream):
        kind, body = read_frame(stream)
        if kind != SEALED:
            raise ValueError(f"frame of kind {kind}")
        return self.noise.receiving.open(body)


class Stream:
    """A TCP connection to a node, up to a whole pipe or as far as it is wanted."""

    def __init__(self, at, source=None, timeout=4):
        where = (source, 0) if source else None
        self.socket = socket.create_connection(at, timeout=timeout, source_address=where)

    def say_first(self, key, peer, session=None, mode=0, protocol=b""):
        """Sends FIRST and returns the answer's status."""
        self.hello = Hello(key, peer, session, mode=mode, protocol=protocol)
        self.socket.sendall(self.hello.first)
        kind, body = read_frame(self.socket)
        if kind != SECOND:
            raise ValueError(f"frame of kind {kind}")
        return self.hello.second(body)

    def to_pipe(self):
        """After READY: settles the pipe. The lower id nominates."""
        hello = self.hello
        if hello.key.public < hello.peer:
            self.socket.sendall(hello.control(bytes([NOMINATE]) + hello.session))
            return hello.hear(self.socket)[0] == CONFIRM
        said = hello.hear(self.socket)[0]
        self.socket.sendall(hello.control(bytes([CONFIRM])))
        return said == NOMINATE

    def send(self, plain):
        """A record of an encrypted pipe."""
        sealed = self.hello.noise.sending.seal(plain)
        self.socket.sendall(struct.pack(">H", len(sealed)) + sealed)

    def receive(self):
        (length,) = struct.unpack(">H", read_exactly(self.socket, 2))
        return self.hello.noise.receiving.open(read_exactly(self.socket, length))

    def close(self):
        self.socket.close()


# ---- envelopes and messages


SIGNAL = b"p2pd signal\0"


MARK = 16


def mark(key, peer, sealed, minute):
    """Shows the reader, if it knows the sender's key, whose envelope this is."""
    label = b"p2pd mark\0" + peer + struct.pack(">q", minute) + sealed[:32]
    return bytes([minute & 255]) + keyed(exchange(key.secret, peer), label)[: MARK - 1]


def seal(key, peer, message):
    return seal_content(key, peer, bytes([SIGNAL_VERSION]) + message, int(time.time()) // 60)


def seal_content(key, peer, content, minute, ephemeral=None):
    sealed = Initiator(b"X", key.secret, peer, SIGNAL, ephemeral).first(content)
    return mark(key, peer, sealed, minute) + sealed


def unseal(key, envelope):
    """Who sent an envelope, and the message in it."""
    sender, content = open_one_way(key.secret, SIGNAL, envelope[MARK:])
    if content[0] != SIGNAL_VERSION:
        raise ValueError(f"version {content[0]}")
    return sender, content[1:]


def message(kind, body=b"", session=bytes(16), ahead=0, lifetime=600):
    sent = int((time.time() + ahead) * 1e6)
    return os.urandom(16) + struct.pack(">qH", sent, lifetime) + session + bytes([kind]) + body


def kind_and_body(plain):
    return plain[MESSAGE_HEAD - 1], plain[MESSAGE_HEAD:]


def ip_bytes(ip):
    if ":" in ip:
        return b"\x06" + socket.inet_pton(socket.AF_INET6, ip)
    return b"\x04" + socket.inet_aton(ip)


def address_text(key, ends):
    """An address that announces these (ip, port), as open to everybody."""
    v4, v6 = (
        "|".join(f"[{n},{ip},{ip},{port},1,1,0]" for n, (ip, port) in enumerate(e for e in ends if (":" in e[0]) == six))
        for six in (False, True)
    )
    return f"0-{v4 or 0}-{v6 or 0}-{key.id}".encode()


def direct(key, ends, session=None):
    """DIRECT: dial me at these."""
    return message(DIRECT, b"\0" + address_text(key, ends), session or os.urandom(16))


def turn_request(key, relayed, session=None):
    ip, port = relayed
    own = address_text(key, [("198.51.100.9", 1)])
    return message(TURN_REQUEST, b"\0" + ip_bytes(ip) + struct.pack(">H", port) + own, session or os.urandom(16))


def initial(key, external, internal, session, rung=0, mapping=4, filtering=3, allocation=(5, 1024, 65535), ports=(), nat=(6, 6)):
    """INITIAL_MAPPINGS: punch with me. The default claims a NAT with random ports, which has to be searched for."""
    text = f"0-[0,{external},{internal},4000,{nat[0]},{nat[1]},0]-0-{key.id}".encode()
    body = struct.pack(">BBBBBHHI", 0, rung, mapping, filtering, *allocation, 1000)
    body += ip_bytes(external) + bytes([len(ports)]) + b"".join(struct.pack(">H", p) for p in ports) + text
    return message(INITIAL, body, session)


def dials(body):
    """DIALLED's dials as (cause, ip, port), and none where it only counts."""
    out = []
    while len(body) >= 8:
        family = 4 if body[1] == 4 else 16
        if len(body) < 4 + family:
            break
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        out.append((body[0], socket.inet_ntop(kind, body[2 : 2 + family]), struct.unpack(">H", body[2 + family : 4 + family])[0]))
        body = body[4 + family :]
    return out
