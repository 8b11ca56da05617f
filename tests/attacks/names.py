"""Records of names, signed by XEdDSA (https://signal.org/docs/specifications/xeddsa/) with the sign bit 0: enough of Ed25519 for that."""

import hashlib
import os
import struct
import time

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

import messages
import wire
from noise import keyed

PRIME = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, PRIME) % PRIME


def add(p, q):
    """Of two points in extended coordinates."""
    a = (p[1] - p[0]) * (q[1] - q[0]) % PRIME
    b = (p[1] + p[0]) * (q[1] + q[0]) % PRIME
    c, d = 2 * p[3] * q[3] * D % PRIME, 2 * p[2] * q[2] % PRIME
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % PRIME, g * h % PRIME, f * g % PRIME, e * h % PRIME


def base_point():
    y = 4 * pow(5, -1, PRIME) % PRIME
    square = (y * y - 1) * pow(D * y * y + 1, -1, PRIME) % PRIME
    x = pow(square, (PRIME + 3) // 8, PRIME)
    if (x * x - square) % PRIME:
        x = x * pow(2, (PRIME - 1) // 4, PRIME) % PRIME
    x = x if x % 2 == 0 else PRIME - x
    return x, y, 1, x * y % PRIME


DOUBLED = [base_point()]
while len(DOUBLED) < 256:
    DOUBLED.append(add(DOUBLED[-1], DOUBLED[-1]))


def times_base(scalar):
    """The encoding of a multiple of the base point."""
    point = (0, 1, 1, 0)
    for n in range(256):
        if scalar >> n & 1:
            point = add(point, DOUBLED[n])
    inverse = pow(point[2], -1, PRIME)
    x, y = point[0] * inverse % PRIME, point[1] * inverse % PRIME
    return (y | (x & 1) << 255).to_bytes(32, "little")


def sign(secret, text, nonce=None):
    scalar = int.from_bytes(secret, "little")
    scalar = (scalar & ~7 & (1 << 255) - 1) | 1 << 254
    public = times_base(scalar)
    if public[31] & 0x80:
        scalar, public = -scalar % ORDER, public[:31] + bytes([public[31] & 0x7F])
    nonce = int.from_bytes(nonce or os.urandom(64), "little") % ORDER
    commitment = times_base(nonce)
    challenge = int.from_bytes(hashlib.sha512(commitment + public + text).digest(), "little")
    return commitment + ((nonce + challenge * scalar) % ORDER).to_bytes(32, "little")


def usual_nonce(secret, text):
    """The nonce that p2pd takes."""
    return hashlib.sha512(keyed(secret, b"p2pd signature nonce") + text).digest()


def verify(public, text, signature):
    """Whether the node with this X25519 key signed; the sign bit of its Ed25519 key is 0."""
    u = int.from_bytes(public, "little")
    y = (u - 1) * pow(u + 1, -1, PRIME) % PRIME
    try:
        Ed25519PublicKey.from_public_bytes(y.to_bytes(32, "little")).verify(signature, text)
    except InvalidSignature:
        return False
    return True


def topic(name):
    return "p2pd-name-" + wire.base32(wire.blake2s(b"p2pd name" + name.encode()))


def record(key, name, address):
    now = int(time.time())
    content = contents(key.public, now, now + 86_400, name, address)
    return content + sign(key.secret, CONTEXT + content)


CONTEXT = b"p2pd name record"


def contents(public, sequence, expiry, name, address):
    """A record before its signature."""
    content = b"\x01" + public + struct.pack(">QQB", sequence, expiry, len(name)) + name.encode()
    return content + struct.pack(">H", len(address)) + address


def read(record):
    """A record's values; raises ValueError if it is none."""
    messages.need(64 <= len(record) <= 1203, "length")
    content, signature = record[:-64], record[-64:]
    reader = messages.Reader(content)
    messages.need(reader.number("B") == 1, "version")
    public, sequence, expiry = reader.take(32), reader.number("Q"), reader.number("Q")
    name = reader.take(reader.number("B")).decode("ascii")
    address = reader.take(reader.number("H")).decode("ascii")
    messages.need(not reader.data, "something follows")
    messages.need(is_name(name), "name")
    node = wire.base32(public)
    messages.need(not address or messages.read_address(address)["node"] == node, "another node's address")
    messages.need(verify(public, CONTEXT + content, signature), "signature")
    return {"id": node, "sequence": sequence, "expiry": expiry, "of": name, "address": address}


def is_name(text):
    inside = set("abcdefghijklmnopqrstuvwxyz0123456789-")
    return 1 <= len(text) <= 63 and set(text) <= inside and text[0] != "-" and text[-1] != "-"
