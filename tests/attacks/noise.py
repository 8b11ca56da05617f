"""Noise IK and X with X25519, ChaCha20-Poly1305 and BLAKE2s (https://noiseprotocol.org/noise.html), from primitives alone."""

import hashlib
import hmac
import os
import struct

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305


def blake2s(data):
    return hashlib.blake2s(data).digest()


def public(secret):
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def exchange(secret, peer):
    return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(peer))


def keyed(key, data):
    """BLAKE2s with a key."""
    return hashlib.blake2s(data, key=key).digest()


def derive(chaining, material):
    """Noise's HKDF with two outputs."""
    mac = lambda key, data: hmac.new(key, data, hashlib.blake2s).digest()
    temporary = mac(chaining, material)
    first = mac(temporary, b"\x01")
    return first, mac(temporary, first + b"\x02")


class Cipher:
    def __init__(self, key, aead=ChaCha20Poly1305, nonce="<4xQ"):
        self.key, self.aead, self.form, self.count = key, aead(key), nonce, 0

    def aes(self):
        """The direction's AES-256-GCM, of a hello that has agreed on it."""
        return Cipher(keyed(self.key, b"p2pd aes-256-gcm"), AESGCM, ">4xQ")

    def nonce(self):
        self.count += 1
        return struct.pack(self.form, self.count - 1)

    def seal(self, plain, ad=b""):
        return self.aead.encrypt(self.nonce(), plain, ad)

    def open(self, sealed, ad=b""):
        return self.aead.decrypt(self.nonce(), sealed, ad)


class Symmetric:
    """The specification's SymmetricState."""

    def __init__(self, pattern, prologue):
        name = b"Noise_" + pattern + b"_25519_ChaChaPoly_BLAKE2s"
        self.hash = self.chaining = name.ljust(32, b"\0") if len(name) <= 32 else blake2s(name)
        self.cipher = None
        self.mix_hash(prologue)

    def mix_hash(self, data):
        self.hash = blake2s(self.hash + data)

    def mix_key(self, material):
        self.chaining, key = derive(self.chaining, material)
        self.cipher = Cipher(key)

    def seal(self, plain):
        sealed = self.cipher.seal(plain, self.hash)
        self.mix_hash(sealed)
        return sealed

    def open(self, sealed):
        plain = self.cipher.open(sealed, self.hash)
        self.mix_hash(sealed)
        return plain


class Initiator:
    """The side that knows the peer's key: `first` of IK, or the one message of X, which is the same but for the name."""

    def __init__(self, pattern, secret, peer, prologue, ephemeral=None):
        self.secret, self.peer = secret, peer
        self.state = Symmetric(pattern, prologue)
        self.state.mix_hash(peer)
        self.ephemeral = ephemeral or os.urandom(32)

    def first(self, payload):
        out = public(self.ephemeral)
        self.state.mix_hash(out)
        self.state.mix_key(exchange(self.ephemeral, self.peer))
        out += self.state.seal(public(self.secret))
        self.state.mix_key(exchange(self.secret, self.peer))
        return out + self.state.seal(payload)

    def second(self, message):
        """Takes IK's second message; afterwards `sending` and `receiving` are there."""
        theirs = message[:32]
        self.state.mix_hash(theirs)
        self.state.mix_key(exchange(self.ephemeral, theirs))
        self.state.mix_key(exchange(self.secret, theirs))
        payload = self.state.open(message[32:])
        self.secrets = derive(self.state.chaining, b"")
        self.sending, self.receiving = (Cipher(key) for key in self.secrets)
        return payload


class Responder:
    """The side of IK that is called: `first` hears who calls, `second` answers."""

    def __init__(self, secret, prologue, ephemeral=None):
        self.secret = secret
        self.state = Symmetric(b"IK", prologue)
        self.state.mix_hash(public(secret))
        self.ephemeral = ephemeral or os.urandom(32)

    def first(self, message):
        self.theirs = message[:32]
        self.state.mix_hash(self.theirs)
        self.state.mix_key(exchange(self.secret, self.theirs))
        self.peer = self.state.open(message[32:80])
        self.state.mix_key(exchange(self.secret, self.peer))
        return self.state.open(message[80:])

    def second(self, payload):
        """IK's second message; afterwards `sending` and `receiving` are there."""
        out = public(self.ephemeral)
        self.state.mix_hash(out)
        self.state.mix_key(exchange(self.ephemeral, self.theirs))
        self.state.mix_key(exchange(self.ephemeral, self.peer))
        out += self.state.seal(payload)
        self.secrets = derive(self.state.chaining, b"")
        self.receiving, self.sending = (Cipher(key) for key in self.secrets)
        return out


def open_one_way(secret, prologue, message):
    """Who sent a message of X, and what it says."""
    state = Symmetric(b"X", prologue)
    state.mix_hash(public(secret))
    ephemeral = message[:32]
    state.mix_hash(ephemeral)
    state.mix_key(exchange(secret, ephemeral))
    sender = state.open(message[32:80])
    state.mix_key(exchange(secret, sender))
    return sender, state.open(message[80:])
