"""The relay stream's packets (docs/src/protocol/relay.md): keys, protection, and what of QUIC it takes to read them."""

import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from noise import blake2s, exchange, keyed

VERSION = 2
QUIC_VERSION = 0x70327064
INITIAL, HANDSHAKE, DATA = "initial", "handshake", "data"


def prologue(session, callee):
    return b"p2pd relay\0" + bytes([VERSION]) + session + callee


def initial_secret(secret, peer, prologue):
    return keyed(exchange(secret, peer), prologue)


class Protection:
    """One direction of one kind of packets."""

    def __init__(self, secret, aes=False):
        self.aead = AESGCM(keyed(secret, b"packet aes-256-gcm")) if aes else ChaCha20Poly1305(keyed(secret, b"packet"))
        self.nonce = ">4xQ" if aes else "<4xQ"
        self.header = keyed(secret, b"header")

    def open(self, packet, offset):
        """The plain text and number of a packet whose number begins at `offset`; all numbers are small here."""
        mask = blake2s(self.header + packet[offset + 4 : offset + 20])
        first = packet[0] ^ mask[0] & (0x0F if packet[0] & 0x80 else 0x1F)
        length = (first & 3) + 1
        number = bytes(a ^ b for a, b in zip(packet[offset : offset + length], mask[1:]))
        header = bytes([first]) + packet[1:offset] + number
        number = int.from_bytes(number, "big")
        nonce = struct.pack(self.nonce, number)
        return self.aead.decrypt(nonce, packet[offset + length :], header), number

    def seal(self, header, number, plain):
        """A packet whose number has 4 bytes, which its header's first byte has to say."""
        whole = header + struct.pack(">I", number)
        packet = bytearray(whole + self.aead.encrypt(struct.pack(self.nonce, number), plain, whole))
        offset = len(header)
        mask = blake2s(self.header + packet[offset + 4 : offset + 20])
        packet[0] ^= mask[0] & (0x0F if packet[0] & 0x80 else 0x1F)
        for n in range(4):
            packet[offset + n] ^= mask[1 + n]
        return bytes(packet)


def varint(data, at):
    size = 1 << (data[at] >> 6)
    return int.from_bytes(data[at : at + size], "big") & ((1 << 8 * size - 2) - 1), at + size


def packets(datagram):
    """The packets of a datagram: kind, destination id, bytes, and where the packet number begins."""
    while datagram:
        if not datagram[0] & 0x80:
            # A short header, and a destination id of no bytes.
            yield DATA, b"", datagram, 1
            return
        (version,) = struct.unpack(">I", datagram[1:5])
        if version != QUIC_VERSION:
            raise ValueError(f"version {version:#x}")
        at = 6 + datagram[5]
        destination = datagram[6:at]
        at += 1 + datagram[at]
        kind = {0: INITIAL, 2: HANDSHAKE}[datagram[0] >> 4 & 3]
        if kind == INITIAL:
            token, at = varint(datagram, at)
            at += token
        length, at = varint(datagram, at)
        yield kind, destination, datagram[: at + length], at
        datagram = datagram[at + length :]


def put_varint(number):
    """In its shortest form, which transport parameters must have."""
    size = next(size for size in (0, 1, 2, 3) if number >> (8 << size) - 2 == 0)
    return (number | size << (8 << size) - 2).to_bytes(1 << size, "big")


def frames(plain):
    """ACK, CRYPTO, STREAM and CONNECTION_CLOSE frames as tuples; others are passed over, unknown ones raise."""
    at = 0
    while at < len(plain):
        kind, at = varint(plain, at)
        if kind in (0x00, 0x01, 0x1E, 0x1F):
            continue
        if kind in (0x02, 0x03):
            low, at = varint(plain, at)
            _, at = varint(plain, at)
            ranges, at = varint(plain, at)
            gap, numbers = None, set()
            for _ in range(1 + ranges):
                if gap is None:
                    high = low
                else:
                    gap, at = varint(plain, at)
                    high = low - gap - 2
                length, at = varint(plain, at)
                low, gap = high - length, 0
                numbers.update(range(low, high + 1))
            for _ in range(3 if kind == 3 else 0):
                _, at = varint(plain, at)
            yield "ack", numbers
        elif kind == 0x06:
            offset, at = varint(plain, at)
            length, at = varint(plain, at)
            yield "crypto", offset, plain[at : at + length]
            at += length
        elif 0x08 <= kind <= 0x0F:
            stream, at = varint(plain, at)
            offset, at = varint(plain, at) if kind & 4 else (0, at)
            length, at = varint(plain, at) if kind & 2 else (len(plain) - at, at)
            yield "stream", stream, offset, plain[at : at + length], bool(kind & 1)
            at += length
        elif kind in (0x10, 0x12, 0x13, 0x14, 0x16, 0x17):
            _, at = varint(plain, at)
        elif kind in (0x11, 0x15):
            for _ in range(2):
                _, at = varint(plain, at)
        elif kind in (0x1C, 0x1D):
            code, at = varint(plain, at)
            if kind == 0x1C:
                _, at = varint(plain, at)
            length, at = varint(plain, at)
            at += length
            yield "close", kind == 0x1D, code
        elif kind == 0xAF:
            # ACK_FREQUENCY of draft-ietf-quic-ack-frequency.
            for _ in range(4):
                _, at = varint(plain, at)
        else:
            raise ValueError(f"frame {kind:#x}")


def parameters(data):
    """QUIC's transport parameters."""
    out, at = {}, 0
    while at < len(data):
        kind, at = varint(data, at)
        length, at = varint(data, at)
        out[kind] = data[at : at + length]
        at += length
    return out


# ---- knocks


def knock_key(secret, peer, session):
    return keyed(exchange(secret, peer), b"p2pd knock" + session)


def knock(token):
    return b"\1" + token


def answer(key, token):
    return b"\2" + keyed(key, b"\2" + token)[:16]


def call(key, token, asker):
    return b"\3" + keyed(key, b"\3" + token + asker)[:16]
