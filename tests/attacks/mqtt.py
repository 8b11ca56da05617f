"""As much of MQTT 3.1.1 as a stranger needs, and the stranger that speaks p2pd over it."""

import os
import socket
import struct
import time

import wire


def text(data):
    data = data.encode() if isinstance(data, str) else data
    return struct.pack(">H", len(data)) + data


def packet(head, body):
    length, out = len(body), b""
    while True:
        length, digit = length >> 7, length & 127
        out += bytes([digit | (128 if length else 0)])
        if not length:
            return bytes([head]) + out + body


class Refused(Exception):
    pass


class Client:
    def __init__(self, host="203.0.113.1", port=1883, source=None, keep_alive=60, timeout=5):
        self.socket = socket.create_connection((host, port), timeout, (source, 0) if source else None)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connect = text("MQTT") + b"\x04\x02" + struct.pack(">H", keep_alive) + text(os.urandom(8).hex())
        self.socket.sendall(packet(0x10, connect))
        head, body = self.packet(timeout)
        if head != 0x20 or body[1] != 0:
            raise Refused(body)

    def packet(self, timeout=5):
        self.socket.settimeout(timeout)
        (head,) = wire.read_exactly(self.socket, 1)
        length = shift = 0
        while True:
            (digit,) = wire.read_exactly(self.socket, 1)
            length |= (digit & 127) << shift
            shift += 7
            if digit < 128:
                return head, wire.read_exactly(self.socket, length)

    def subscribe(self, topic):
        """What SUBACK says: 0 to 2, or 128 for a refusal."""
        self.socket.sendall(packet(0x82, b"\0\1" + text(topic) + b"\0"))
        while True:
            head, body = self.packet()
            if head == 0x90:
                return body[2]

    def publish(self, topic, payload, retain=False):
        self.socket.sendall(packet(0x30 | retain, text(topic) + payload))

    def message(self, timeout=5):
        """The next (topic, payload); raises TimeoutError."""
        until = time.monotonic() + timeout
        while True:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            head, body = self.packet(left)
            if head >> 4 == 3:
                (length,) = struct.unpack(">H", body[:2])
                return body[2 : 2 + length].decode(), body[2 + length + (2 if head & 6 else 0) :]

    def messages(self, seconds):
        until, out = time.monotonic() + seconds, []
        while (left := until - time.monotonic()) > 0:
            try:
                out.append(self.message(left))
            except (TimeoutError, EOFError, OSError):
                break
        return out

    def close(self):
        self.socket.close()


class Peer(Client):
    """A node as far as it goes: a key, its topic on the broker, and what it says to one other node."""

    def __init__(self, peer, key=None, listens=True, **options):
        super().__init__(**options)
        self.key, self.peer, self.to = key or wire.Key(), peer, wire.topic(peer)
        if listens:
            self.subscribe(self.key.topic)

    def say(self, message, key=None):
        """Sends a message, and returns how many bytes that took with IP, TCP and MQTT around it."""
        envelope = wire.seal(key or self.key, self.peer, message)
        self.publish(self.to, envelope)
        return len(envelope) + wire.MQTT_OVERHEAD

    def hear(self, seconds):
        """What comes for this key, as (kind, body)."""
        return [wire.kind_and_body(wire.unseal(self.key, payload)[1]) for _, payload in self.messages(seconds)]

    def echo(self, seconds=2):
        """Whether the node answers an ECHO."""
        payload = os.urandom(8)
        try:
            self.say(wire.message(wire.ECHO, payload))
        except OSError:
            return False
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            try:
                _, envelope = self.message(left)
            except (TimeoutError, EOFError, OSError):
                return False
            if wire.kind_and_body(wire.unseal(self.key, envelope)[1]) == (wire.ECHO_REPLY, payload):
                return True
        return False
