"""STUN and TURN requests (RFC 8489, 8656), from the documents."""

import hashlib
import hmac
import os
import socket
import struct

BINDING, ALLOCATE, REFRESH, SEND, CREATE_PERMISSION, CHANNEL_BIND = 1, 3, 4, 6, 8, 9
USERNAME, INTEGRITY, ERROR, PEER, DATA, REALM, NONCE, TRANSPORT = 6, 8, 9, 0x12, 0x13, 0x14, 0x15, 0x19
XOR_RELAYED = 0x16
COOKIE = 0x2112A442
UDP = struct.pack(">HH4s", TRANSPORT, 4, b"\x11\0\0\0")


def attribute(kind, value):
    return struct.pack(">HH", kind, len(value)) + value + bytes(-len(value) % 4)


def request(method, attributes=b"", key=None):
    transaction = os.urandom(12)
    if key:
        head = struct.pack(">HHI", method, len(attributes) + 24, COOKIE) + transaction
        attributes += attribute(INTEGRITY, hmac.new(key, head + attributes, hashlib.sha1).digest())
    return struct.pack(">HHI", method, len(attributes), COOKIE) + transaction + attributes


def attributes(message):
    out, at = {}, 20
    while at + 4 <= len(message):
        kind, length = struct.unpack(">HH", message[at : at + 4])
        out.setdefault(kind, message[at + 4 : at + 4 + length])
        at += 4 + length + (-length % 4)
    return out


def xor_address(ip, port):
    if ":" in ip:
        raise ValueError("IPv4 only")
    mask = struct.pack(">I", COOKIE)
    return struct.pack(">BBH", 0, 1, port ^ 0x2112) + bytes(a ^ b for a, b in zip(socket.inet_aton(ip), mask))


def address_of(value):
    mask = struct.pack(">I", COOKIE)
    ip = socket.inet_ntoa(bytes(a ^ b for a, b in zip(value[4:8], mask)))
    return ip, struct.unpack(">H", value[2:4])[0] ^ 0x2112


class Client:
    """A client of one user over UDP."""

    def __init__(self, server, source, timeout=1):
        self.server = server
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((source, 0))
        self.socket.settimeout(timeout)
        self.credentials, self.key = b"", None

    def ask(self, message):
        """The answer, or nothing."""
        self.socket.sendto(message, self.server)
        try:
            return self.socket.recv(3000)
        except TimeoutError:
            return None

    def allocate(self, user, password):
        """Whether there is an allocation; `relayed` is its address."""
        challenge = attributes(self.ask(request(ALLOCATE, UDP)) or b"")
        realm, nonce = challenge.get(REALM, b""), challenge.get(NONCE, b"")
        self.key = hashlib.md5(user + b":" + realm + b":" + password).digest()
        self.credentials = attribute(USERNAME, user) + attribute(REALM, realm) + attribute(NONCE, nonce)
        answer = self.ask(request(ALLOCATE, UDP + self.credentials, self.key)) or b"\0\0"
        if answer[:2] != b"\x01\x03":
            return False
        self.relayed = address_of(attributes(answer)[XOR_RELAYED])
        return True

    def permit(self, ip):
        """CreatePermission's answer as an error code, 0 for a success."""
        return self.code(self.ask(request(CREATE_PERMISSION, attribute(PEER, xor_address(ip, 0)) + self.credentials, self.key)))

    def bind_channel(self, number, ip, port):
        channel = attribute(0x0C, struct.pack(">HH", number, 0)) + attribute(PEER, xor_address(ip, port))
        return self.code(self.ask(request(CHANNEL_BIND, channel + self.credentials, self.key)))

    def send(self, ip, port, data):
        self.socket.sendto(request(0x10 | SEND, attribute(PEER, xor_address(ip, port)) + attribute(DATA, data)), self.server)

    def receive(self):
        """The next datagram that a peer sent, and where from."""
        while True:
            message = self.socket.recv(3000)
            if message[:2] == b"\0\x17":
                of = attributes(message)
                return of[DATA], address_of(of[PEER])

    def code(self, answer):
        if answer is None:
            return "no answer"
        error = attributes(answer).get(ERROR)
        return error[2] * 100 + error[3] if error else 0
