"""Address texts and message bodies, each read and written as docs/src/protocol/{identity,messages}.md say."""

import ipaddress
import re
import socket
import struct

import wire


class Malformed(ValueError):
    pass


class TooShort(Malformed):
    pass


def need(holds, why):
    if not holds:
        raise Malformed(why)


# ---- addresses

NUMBER = re.compile(r"0|[1-9][0-9]{0,4}", re.ASCII)
NODE = re.compile(r"[A-Za-z0-9]{1,64}", re.ASCII)


def number(text, low=0, high=65_535):
    need(NUMBER.fullmatch(text) and low <= int(text) <= high, f"number {text}")
    return int(text)


def host(text, six):
    need("%" not in text, "a zone")
    try:
        ip = ipaddress.IPv6Address(text) if six else ipaddress.IPv4Address(text)
    except ValueError:
        raise Malformed(text) from None
    nobody = ip.is_unspecified or ip.is_multicast or str(ip) == "255.255.255.255" or (six and ip.ipv4_mapped)
    need(not nobody, f"{ip} is no host")
    return str(ip)


def interfaces(text, six):
    out = []
    if text == "0":
        return out
    for part in text.split("|"):
        need(part.startswith("[") and part.endswith("]"), "brackets")
        fields = part[1:-1].split(",")
        need(len(fields) == 7, "seven fields")
        index, external, internal, port, nat, delta, value = fields
        out.append(
            [number(index), host(external, six), host(internal, six), number(port, 1), number(nat, 1, 7), number(delta, 1, 6), number(value)]
        )
    need(len(out) <= 3 and len({i[0] for i in out}) == len(out), "interfaces")
    return out


def read_address(text):
    need(len(text) <= 1024, "length")
    parts = text.split("-")
    need(len(parts) == 4, "four parts")
    brokers = [] if parts[0] == "None" else [number(n) for n in parts[0].split(",")]
    need(len(brokers) <= 2 and len(set(brokers)) == len(brokers), "brokers")
    need(NODE.fullmatch(parts[3]), "node")
    return {"brokers": brokers, "v4": interfaces(parts[1], False), "v6": interfaces(parts[2], True), "node": parts[3]}


def write_address(address):
    def one(part):
        return "|".join("[" + ",".join(str(field) for field in i) + "]" for i in part) or "0"

    brokers = ",".join(str(n) for n in address["brokers"]) or "None"
    return "-".join([brokers, one(address["v4"]), one(address["v6"]), address["node"]])


# ---- messages


class Reader:
    def __init__(self, data):
        self.data = data

    def take(self, n):
        if len(self.data) < n:
            raise TooShort(f"{n} bytes")
        taken, self.data = self.data[:n], self.data[n:]
        return taken

    def number(self, form):
        return struct.unpack(">" + form, self.take(struct.calcsize(">" + form)))[0]

    def rest(self):
        return self.take(len(self.data))

    def ip(self):
        family = self.number("B")
        need(family in (4, 6), "family")
        kind, size = (socket.AF_INET, 4) if family == 4 else (socket.AF_INET6, 16)
        return socket.inet_ntop(kind, self.take(size))

    def endpoint(self):
        ip = self.ip()
        port = self.number("H")
        return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"

    def reachable(self):
        at = self.endpoint()
        need(not at.endswith(":0"), "port 0")
        return at

    def address(self):
        try:
            text = self.rest().decode("ascii")
        except UnicodeDecodeError:
            raise Malformed("address") from None
        read_address(text)
        return text

    def mode(self):
        mode = self.number("B")
        need(mode in (0, 1, 2), f"mode {mode}")
        return mode


def endpoint(text):
    ip, port = text.rsplit(":", 1)
    return wire.ip_bytes(ip.strip("[]")) + struct.pack(">H", int(port))


def read_mappings(reader):
    out = {"mode": reader.mode(), "rung": reader.number("B"), "mapping": reader.number("B"), "filtering": reader.number("B")}
    kind, first, second = reader.number("B"), reader.number("H"), reader.number("H")
    need(out["mapping"] <= 4 and out["filtering"] <= 3 and kind <= 5, "behaviour")
    need(kind != 5 or first <= second, "range")
    out |= {"allocation": [kind, first, second], "delay": reader.number("I"), "external": reader.ip()}
    count = reader.number("B")
    need(count <= 16, "ports")
    out["ports"] = [reader.number("H") for _ in range(count)]
    need(0 not in out["ports"], "port 0")
    out["address"] = reader.address()
    address = read_address(out["address"])
    announced = {ip for i in address["v4"] + address["v6"] for ip in i[1:3]}
    need(out["external"] in announced, "an address that the sender does not announce")
    return out


def read_over_udp(reader):
    out = {"secret": reader.take(16).hex(), "inside": reader.reachable()} | read_mappings(reader)
    address = read_address(out["address"])
    internal = {i[2] for i in address["v4"] + address["v6"]}
    need(out["inside"].rsplit(":", 1)[0].strip("[]") in internal, "a socket that is not the sender's")
    return out


def read_body(kind, reader):
    if kind in (wire.ECHO, wire.ECHO_REPLY):
        payload = reader.rest()
        need(len(payload) <= 64, "payload")
        return {"payload": payload.hex()}
    if kind == wire.DIRECT:
        return {"mode": reader.mode(), "address": reader.address()}
    if kind in (wire.INITIAL, wire.UPDATED):
        return read_mappings(reader)
    if kind == wire.UDP_REQUEST or (kind == wire.UDP_RESPONSE and reader.data):
        return read_over_udp(reader)
    if kind == wire.UDP_RESPONSE:
        return {}
    if kind == wire.TURN_REQUEST:
        return {"mode": reader.mode(), "relayed": reader.reachable(), "address": reader.address()}
    if kind == wire.TURN_RESPONSE:
        sources = []
        while reader.data:
            sources.append(reader.endpoint())
        need(len(sources) <= 6, "sources")
        return {"sources": sources}
    if kind == wire.PROVE:
        return {"token": reader.take(16).hex(), "relayed": reader.reachable()}
    if kind == wire.DIALLING:
        return {"count": reader.number("B")}
    if kind == wire.DIALLED:
        count, dials = reader.number("B"), []
        while reader.data:
            dials.append({"cause": reader.number("B"), "to": reader.endpoint()})
        need(len(dials) <= 6, "dials")
        return {"count": count, "dials": dials}
    if kind == wire.CLOCK:
        return {"about": reader.take(16).hex(), "wall": reader.number("q")}
    if kind == wire.REFUSED:
        return {"refusal": list(reader.take(2))}
    raise Malformed(f"kind {kind}")


NAMED = (wire.DIRECT, wire.INITIAL, wire.UPDATED, wire.TURN_REQUEST, wire.UDP_REQUEST, wire.UDP_RESPONSE)


def read_message(data):
    reader = Reader(data)
    out = {"id": reader.take(16).hex(), "sent": reader.number("q"), "lifetime": reader.number("H"), "session": reader.take(16).hex()}
    kind, protocol = reader.number("B"), b""
    if kind & 0x80:
        kind &= 0x7F
        length = reader.number("B")
        need(1 <= length <= 64 and kind in NAMED, "protocol")
        protocol = reader.take(length)
    out |= {"kind": kind, **read_body(kind, reader)}
    need(not reader.data, "something follows")
    if kind in NAMED and "mode" in out:
        out["protocol"] = protocol.hex()
    return out


def write_body(m):
    kind = m["kind"]
    if kind in (wire.ECHO, wire.ECHO_REPLY):
        return bytes.fromhex(m["payload"])
    if kind == wire.DIRECT:
        return bytes([m["mode"]]) + m["address"].encode()
    if kind in (wire.UDP_REQUEST, wire.UDP_RESPONSE):
        if "mode" not in m:
            return b""
        return bytes.fromhex(m["secret"]) + endpoint(m["inside"]) + write_body(m | {"kind": wire.INITIAL})
    if kind in (wire.INITIAL, wire.UPDATED):
        head = struct.pack(">BBBBBHHI", m["mode"], m["rung"], m["mapping"], m["filtering"], *m["allocation"], m["delay"])
        ports = bytes([len(m["ports"])]) + b"".join(struct.pack(">H", port) for port in m["ports"])
        return head + wire.ip_bytes(m["external"]) + ports + m["address"].encode()
    if kind == wire.TURN_REQUEST:
        return bytes([m["mode"]]) + endpoint(m["relayed"]) + m["address"].encode()
    if kind == wire.TURN_RESPONSE:
        return b"".join(endpoint(at) for at in m["sources"])
    if kind == wire.PROVE:
        return bytes.fromhex(m["token"]) + endpoint(m["relayed"])
    if kind == wire.DIALLING:
        return bytes([m["count"]])
    if kind == wire.DIALLED:
        return bytes([m["count"]]) + b"".join(bytes([d["cause"]]) + endpoint(d["to"]) for d in m["dials"])
    if kind == wire.CLOCK:
        return bytes.fromhex(m["about"]) + struct.pack(">q", m["wall"])
    return bytes(m["refusal"])


def write_message(m):
    head = bytes.fromhex(m["id"]) + struct.pack(">qH", m["sent"], m["lifetime"]) + bytes.fromhex(m["session"])
    protocol = bytes.fromhex(m.get("protocol", ""))
    kind = bytes([m["kind"] | 0x80, len(protocol)]) + protocol if protocol else bytes([m["kind"]])
    return head + kind + write_body(m)
