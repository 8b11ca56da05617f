#!/usr/bin/env python3
"""Checks docs/src/protocol/vectors.json by this second implementation, which was written from the pages beside it:
`tests/attacks/vectors.py`. Ends with 77 where Python has no `cryptography`."""

import ipaddress
import json
import os
import pathlib
import struct
import sys

VECTORS = pathlib.Path(__file__).resolve().parents[2] / "docs/src/protocol/vectors.json"

try:
    import cryptography  # noqa: F401
except ImportError:
    why = "Python has no package cryptography"
    if "SKIPPED_BECAUSE" in os.environ:
        pathlib.Path(os.environ["SKIPPED_BECAUSE"]).write_text(why)
    print(f"SKIPPED: {why}")
    sys.exit(77)

import meetings
import messages
import names
import relay
import sessions
import wire
from noise import Responder, public

SMALL_ORDER = [
    bytes(32),
    bytes([1]) + bytes(31),
    (2**255 - 20).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
]

checks = {}
unhex = bytes.fromhex


def check(group):
    """Registers the check of a group; it asserts what holds of one vector."""

    def register(function):
        checks[group] = function
        return function

    return register


def same(got, wanted, what):
    assert got == wanted, f"{what}: {got!r}, not {wanted!r}"


def refused(function, what):
    try:
        got = function()
    except ValueError:
        return
    raise AssertionError(f"{what}: taken, as {got!r}")


# ---- ids, addresses, messages


def read_id(text):
    messages.need(len(text) == 52 and set(text) <= set("abcdefghijklmnopqrstuvwxyz234567"), "characters")
    bits = "".join(f"{'abcdefghijklmnopqrstuvwxyz234567'.index(c):05b}" for c in text)
    messages.need(bits.endswith("0000"), "stray bits")
    key = int(bits[:256], 2).to_bytes(32, "big")
    messages.need(int.from_bytes(key, "little") < 2**255 - 19, "not canonical")
    messages.need(key not in SMALL_ORDER, "small order")
    return key


@check("nodes")
def nodes(v):
    same(public(unhex(v["secret"])).hex(), v["public"], "public key")
    same(read_id(v["id"]).hex(), v["public"], "id")
    same(wire.base32(unhex(v["public"])), v["id"], "text")
    same(wire.topic(unhex(v["public"])), v["topic"], "topic")


@check("not_ids")
def not_ids(v):
    refused(lambda: read_id(v["text"]), v["text"])


@check("addresses")
def addresses(v):
    read = messages.read_address(v["text"])
    same(read, {name: v[name] for name in ("brokers", "v4", "v6", "node")}, "address")
    same(messages.write_address(read), v["text"], "text")


@check("not_addresses")
def not_addresses(v):
    refused(lambda: messages.read_address(v["text"]), v["text"])


@check("messages")
def message(v):
    wanted = {name: value for name, value in v.items() if name not in ("name", "bytes")}
    same(messages.read_message(unhex(v["bytes"])), wanted, "read")
    same(messages.write_message(v).hex(), v["bytes"], "written")


@check("not_messages")
def not_messages(v):
    refused(lambda: messages.read_message(unhex(v["bytes"])), v["why"])


@check("envelopes")
def envelopes(v):
    sender, reader = wire.Key(unhex(v["from"])), wire.Key(unhex(v["to"]))
    minute = v["sent"] // 60_000_000
    envelope = wire.seal_content(sender, reader.public, unhex(v["content"]), minute, unhex(v["ephemeral"]))
    same(envelope.hex(), v["envelope"], "sealed")
    who, content = wire.open_one_way(reader.secret, wire.SIGNAL, envelope[wire.MARK :])
    same((who, content.hex()), (sender.public, v["content"]), "opened")
    if content[0] == wire.SIGNAL_VERSION:
        messages.read_message(content[1:])
    else:
        same((content[0], len(content)), (0, 18), "a refused version")


# ---- streams


@check("hellos")
def hellos(v):
    if "refuse" in v:
        return same(wire.frame(wire.REFUSE, bytes(v["refusal"])).hex(), v["refuse"], "REFUSE")
    caller, callee = wire.Key(unhex(v["initiator"])), unhex(v["responder"])
    called = public(callee)
    hello = wire.Hello(
        caller, called, unhex(v["session"]), v["purpose"], v["mode"], unhex(v["protocol"]), unhex(v["initiator_ephemeral"])
    )
    same(hello.first.hex(), v["first"], "FIRST")
    responder = Responder(callee, wire.hello_prologue(called), unhex(v["responder_ephemeral"]))
    payload = responder.first(hello.first[4:])
    same(payload.hex(), v["session"] + bytes([v["purpose"], v["mode"]]).hex() + v["protocol"], "FIRST's payload")
    same(responder.peer, caller.public, "who calls")
    second = bytes([v["status"], *v["detail"]])
    same(wire.frame(wire.SECOND, responder.second(second)).hex(), v["second"], "SECOND")
    same(hello.noise.second(unhex(v["second"])[4:]), second, "SECOND's payload")
    if v["status"] != 2 and v["detail"][0] == 1:
        same(v["mode"], 4, "AES-256-GCM was on offer")
        for end in (hello.noise, responder):
            end.sending, end.receiving = end.sending.aes(), end.receiving.aes()
    ends = {"initiator": hello.noise, "responder": responder}
    other = {"initiator": responder, "responder": hello.noise}
    for said in v["controls"]:
        plain = unhex(said["plain"])
        if control(plain)[0] == wire.COMMIT:
            same((v["status"], v["detail"][1], said["from"]), (0, 1, "initiator"), "COMMIT, allowed")
            assert caller.public < called, "the higher id commits"
        sealed = ends[said["from"]].sending.seal(plain)
        same(wire.frame(wire.SEALED, sealed).hex(), said["frame"], "control message")
        same(other[said["from"]].receiving.open(sealed), plain, "opened")
    for record in v["records"]:
        sealed = ends[record["from"]].sending.seal(unhex(record["plain"]))
        same((struct.pack(">H", len(sealed)) + sealed).hex(), record["record"], "record")
        same(other[record["from"]].receiving.open(sealed).hex(), record["plain"], "opened")


def control(plain):
    """What a control message says; raises if it is none."""
    kind, rest = plain[0], plain[1:]
    lengths = {wire.NOMINATE: (16, 32), wire.COMMIT: (16, 32), wire.CONFIRM: (0, 16), wire.REFUSED_CONTROL: (2,)}
    messages.need(1 <= kind <= 8 and len(rest) in lengths.get(kind, (0,)), "control message")
    return kind, rest


# ---- sessions

# Numbered frames that each end has, the bytes of its stream, and the number of the next on each carrier.
had = {end: {"count": 0, "bytes": b"", "next": {}} for end in "ab"}


@check("openings")
def openings(v):
    data = unhex(v["bytes"])
    same((len(data), data[0]), (33, {"a session begins": 1, "a session goes on": 2}[v["name"]]), "kind and token")


@check("sessions")
def whole_session(v):
    reader, got = messages.Reader(unhex(v["bytes"])), []
    while reader.data:
        got.append(sessions.read(reader))
    shown = [" ".join(str(part) for part in frame if not isinstance(part, bytes)) for frame in got]
    same(shown, v["frames"], "frames")
    if not v["arrives"]:
        return
    mine, theirs = had[v["from"]], had["a" if v["from"] == "b" else "b"]
    for frame in got:
        if frame[0] in ("HAVE", "ACK"):
            same(frame[1], mine["count"], "what was received")
        elif frame[0] == "FROM":
            assert frame[1] <= theirs["count"], "a frame is left out"
            theirs["next"][v["carrier"]] = frame[1]
        elif frame[0] in sessions.NUMBERED:
            number = theirs["next"][v["carrier"]]
            theirs["next"][v["carrier"]] = number + 1
            if number == theirs["count"]:
                theirs["count"] += 1
                theirs["bytes"] += frame[-1] if frame[0] == "DATA" else b""
        elif frame[0] == "CLOSE":
            same((frame[2:], theirs["bytes"], mine["bytes"]), ((4, b"done"), b"", b"hello world"), "the whole session")


# ---- relays


@check("knocks")
def knocks(v):
    asker, peer, session, token = (unhex(v[name]) for name in ("asker", "peer", "session", "token"))
    for ours, other in ((asker, public(peer)), (peer, public(asker))):
        key = relay.knock_key(ours, other, session)
        same(relay.knock(token).hex(), v["knock"], "KNOCK")
        same(relay.answer(key, token).hex(), v["answer"], "ANSWER")
        same(relay.call(key, token, public(asker)).hex(), v["call"], "CALL")


class Relay:
    """Both ends' view of a recorded relay stream."""

    def __init__(self, v):
        self.caller, self.callee = unhex(v["caller"]), unhex(v["callee"])
        self.prologue = relay.prologue(unhex(v["session"]), public(self.callee))
        self.initial = relay.initial_secret(self.caller, public(self.callee), self.prologue)
        self.initiator = wire.Initiator(b"IK", self.caller, public(self.callee), self.prologue, unhex(v["caller_ephemeral"]))
        self.responder = Responder(self.callee, self.prologue, unhex(v["callee_ephemeral"]))
        self.keys, self.streams, self.ended = {}, {}, set()
        self.crypto = {}
        self.closed = None

    def key(self, kind, sender, destination):
        if kind == relay.INITIAL:
            # Of the caller's first packet, also for what the callee answers.
            self.destination = getattr(self, "destination", destination)
            return relay.Protection(wire.keyed(self.initial, b"initial " + sender.encode() + self.destination))
        secret = self.responder.secrets[0 if sender == "caller" else 1]
        return relay.Protection(wire.keyed(secret, kind.encode()), kind == relay.DATA and self.aes)

    def take(self, sender, datagram):
        assert len(datagram) <= 1200, "1,200 bytes"
        for kind, destination, packet, offset in relay.packets(datagram):
            if (kind, sender) not in self.keys:
                self.keys[kind, sender] = self.key(kind, sender, destination)
            plain, _ = self.keys[kind, sender].open(packet, offset)
            for frame in relay.frames(plain):
                if frame[0] == "crypto":
                    self.handshake(kind, sender, frame[1], frame[2])
                elif frame[0] == "stream":
                    self.stream(sender, *frame[1:])
                elif frame[0] == "close":
                    # The other end may answer with a close of its own.
                    self.closed = self.closed or (sender, *frame[1:])

    def handshake(self, kind, sender, offset, data):
        same(self.crypto.setdefault((kind, sender), data), data, "CRYPTO, repeated")
        same(offset, 0, "CRYPTO in one piece")
        if kind == relay.HANDSHAKE:
            return same(data, b"\1", "DONE")
        same(struct.unpack(">H", data[:2])[0], len(data) - 2, "the length of a message")
        if sender == "caller":
            offered = self.responder.first(data[2:])
            same(self.responder.peer, public(self.caller), "the caller's key")
            same(self.initiator.first(offered), data[2:], "FIRST, made again")
        else:
            offered = self.initiator.second(data[2:])
            same(self.responder.second(offered), data[2:], "SECOND, made again")
            same(self.initiator.secrets, self.responder.secrets, "Split")
        parameters = relay.parameters(offered)
        number = lambda kind: relay.varint(parameters[kind], 0)[0]
        same(number(0x01), 30_000, "the idle timeout")
        same(relay.varint(parameters.get(0x08, b"\0"), 0)[0], 0, "bidirectional streams")
        same(number(0x09), 65, "unidirectional streams")
        same(parameters[0x0F], b"", "the own connection id")
        self.aes = 0x3032 in parameters
        if sender == "callee":
            same(parameters[0x00], self.destination, "the destination id of the first packet")

    def stream(self, sender, stream, offset, data, end):
        # Unidirectional, of its sender.
        same(stream & 3, 2 if sender == "caller" else 3, "kind of stream")
        place = sender, stream >> 2
        have = self.streams.setdefault(place, b"")
        assert offset <= len(have), "a gap"
        self.streams[place] = have[:offset] + data
        if end:
            self.ended.add(place)


@check("relays")
def relays(v):
    both = Relay(v)
    same(both.prologue.hex(), v["prologue"], "prologue")
    same(both.initial.hex(), v["initial_secret"], "secret of Initial packets")
    for sent in v["datagrams"]:
        both.take(sent["from"], unhex(sent["bytes"]))
    for end in ("caller", "callee"):
        bytes_ = both.streams[end, 0]
        same(bytes_.hex(), v[f"{end}_stream"], f"the {end}'s pipe")
        kind, _ = control(bytes_[1 : 1 + bytes_[0]])
        same(kind, wire.CONFIRM if end == "caller" else wire.NOMINATE, "its control message")
        same(both.streams[end, 1].hex(), v[f"{end}_message"], f"the {end}'s message")
    same(both.ended, {("caller", 1), ("callee", 1), ("callee", 0)}, "streams that ended")
    same(both.closed, ("caller", True, 0), "the close")


# ---- names


@check("names")
def name(v):
    assert names.is_name(v["name"])
    same(names.topic(v["name"]), v["topic"], "topic")


@check("meetings")
def meeting(v):
    same(meetings.topic(v["code"], v["purpose"].encode()), v["topic"], "topic")
    scalars = [int.from_bytes(unhex(v[name]), "little") for name in ("host_scalar", "guest_scalar")]
    tags = unhex(v["answer"])[2:18], unhex(v["answer"])[18:34]
    addresses = v["host_address"], v["guest_address"]
    for name, message in meetings.exchange(v["code"], v["topic"], scalars, tags, addresses).items():
        same(message.hex(), v[name], name)


@check("records")
def records(v):
    record, secret = unhex(v["bytes"]), unhex(v["secret"])
    if not v["valid"]:
        return refused(lambda: names.read(record), v["name"])
    wanted = {name: v[name] for name in ("id", "sequence", "expiry", "of", "address")}
    same(names.read(record), wanted, "read")
    content = names.contents(public(secret), v["sequence"], v["expiry"], v["of"], v["address"].encode())
    text = names.CONTEXT + content
    same((content + names.sign(secret, text, names.usual_nonce(secret, text))).hex(), v["bytes"], "signed")


@check("tags")
def tags(v):
    salt = unhex(v["salt"])
    at = struct.pack(">H", v["port"]) + ipaddress.ip_address(v["ip"]).packed
    whole = salt + wire.blake2s(b"p2pd lan" + unhex(v["public"]) + salt + at)[:20]
    same(wire.base32(whole), v["tag"], "tag")
    same(wire.base32(salt) + ".local.", v["host"], "host")
    secret, time = unhex(v["secret"]), struct.pack(">q", v["time"])
    text = b"p2pd lan announcement" + whole + time
    same(wire.base32(time + names.sign(secret, text, names.usual_nonce(secret, text))), v["s"], "signature")


def main():
    vectors = json.loads(VECTORS.read_text())
    failed = count = 0
    for group in sorted(set(vectors) | set(checks)):
        for n, v in enumerate(vectors.get(group, [])):
            count += 1
            try:
                checks[group](v)
            except Exception as why:
                failed += 1
                print(f"FAILED {group}, {v.get('name') or v.get('why') or n}: {type(why).__name__}: {why}")
        if not vectors.get(group):
            failed += 1
            print(f"FAILED {group}: no vectors")
    print(f"{count} vectors, {failed} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
