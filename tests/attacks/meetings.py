"""Meetings: topics, SPAKE2 as docs/src/protocol/meetings.md has it, and the messages of one exchange."""

import base64
import hashlib
import hmac
import struct

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from names import D, ORDER, PRIME, add, base_point
from noise import keyed

M = bytes.fromhex("15cfd18e385952982b6a8f8c7854963b58e34388c8e6dae891db756481a02312")
N = bytes.fromhex("f04f2e7eb734b2a8f8b472eaf9c3c632576ac64aea650b496a8a20ff00e583c3")
VERSION = 1
HELLO, ANSWER, PROOF, HOST, GUEST, DONE = 2, 3, 5, 6, 7, 9


def topic(code, purpose):
    number = int(code.split("-")[0])
    text = b"p2pd meeting" + bytes([VERSION, len(purpose)]) + purpose + struct.pack(">H", number)
    hashed = hashlib.blake2s(text).digest()
    return "p2pd-meet-" + base64.b32encode(hashed).decode().rstrip("=").lower()


def decoded(data):
    """A compressed point in extended coordinates."""
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (1 << 255) - 1
    square = (y * y - 1) * pow(D * y * y + 1, -1, PRIME) % PRIME
    x = pow(square, (PRIME + 3) // 8, PRIME)
    if (x * x - square) % PRIME:
        x = x * pow(2, (PRIME - 1) // 4, PRIME) % PRIME
    if (x * x - square) % PRIME:
        raise ValueError("no point")
    x = x if x % 2 == sign else PRIME - x
    return x, y, 1, x * y % PRIME


def encoded(point):
    inverse = pow(point[2], -1, PRIME)
    x, y = point[0] * inverse % PRIME, point[1] * inverse % PRIME
    return (y | (x & 1) << 255).to_bytes(32, "little")


def times(scalar, point):
    sum = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            sum = add(sum, point)
        point, scalar = add(point, point), scalar >> 1
    return sum


def scalar_of(password):
    """HKDF (RFC 5869) with SHA-256: 48 bytes, a number modulo the order."""
    key = hmac.digest(bytes(32), password, "sha256")
    first = hmac.digest(key, b"SPAKE2 pw" + b"\x01", "sha256")
    second = hmac.digest(key, first + b"SPAKE2 pw" + b"\x02", "sha256")
    return int.from_bytes((first + second)[:48], "big") % ORDER


def exchange(code, topic, scalars, tags, addresses):
    """The messages from HELLO to DONE."""
    w, (x, y), (guest, name) = scalar_of(code.encode()), scalars, tags
    ours = encoded(add(times(x, base_point()), times(w, decoded(M))))
    theirs = encoded(add(times(y, base_point()), times(w, decoded(N))))
    sides = [
        encoded(times(x, add(decoded(theirs), times(ORDER - w, decoded(N))))),
        encoded(times(y, add(decoded(ours), times(ORDER - w, decoded(M))))),
    ]
    assert sides[0] == sides[1], "the two sides have other keys"
    identities = [f"p2pd meeting 1 {side}{topic}".encode() for side in ("host", "guest")]
    parts = [hashlib.sha256(part).digest() for part in [code.encode(), *identities]]
    key = hashlib.sha256(b"".join(parts) + ours + theirs + sides[0]).digest()
    hello = bytes([VERSION, HELLO]) + guest + b"B" + theirs
    answer = bytes([VERSION, ANSWER]) + guest + name + b"A" + ours
    transcript = hashlib.blake2s(topic.encode() + hello + answer).digest()

    def derived(label):
        return keyed(key, b"p2pd meeting " + label + transcript)

    def sealed(label, address):
        return ChaCha20Poly1305(derived(label)).encrypt(bytes(12), address.encode(), b"")

    return {
        "hello": hello,
        "answer": answer,
        "proof": bytes([VERSION, PROOF]) + name + derived(b"guest proof"),
        "host": bytes([VERSION, HOST]) + name + derived(b"host proof") + sealed(b"host key", addresses[0]),
        "guest": bytes([VERSION, GUEST]) + name + sealed(b"guest key", addresses[1]),
        "done": bytes([VERSION, DONE]) + name + derived(b"done"),
    }
