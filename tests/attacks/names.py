"""Records of names, signed by XEdDSA (https://signal.org/docs/specifications/xeddsa/) with the sign bit 0: enough of Ed25519 for that."""

import hashlib
import os
import struct
import time

import wire

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


def sign(secret, text):
    scalar = int.from_bytes(secret, "little")
    scalar = (scalar & ~7 & (1 << 255) - 1) | 1 << 254
    public = times_base(scalar)
    if public[31] & 0x80:
        scalar, public = -scalar % ORDER, public[:31] + bytes([public[31] & 0x7F])
    nonce = int.from_bytes(os.urandom(64), "little") % ORDER
    commitment = times_base(nonce)
    challenge = int.from_bytes(hashlib.sha512(commitment + public + text).digest(), "little")
    return commitment + ((nonce + challenge * scalar) % ORDER).to_bytes(32, "little")


def topic(name):
    return "p2pd-name-" + wire.base32(wire.blake2s(b"p2pd name" + name.encode()))


def record(key, name, address):
    now = int(time.time())
    content = b"\x01" + key.public + struct.pack(">QQB", now, now + 86_400, len(name)) + name.encode()
    content += struct.pack(">H", len(address)) + address
    return content + sign(key.secret, b"p2pd name record" + content)
