"""Attacks on `p2pd serve`: relays into private networks, answers larger than questions, places of the broker."""

import os
import socket
import stat
import time

import lab
import mqtt
import names
import turn
import wire
from lab import figure, must
from scenarios import attack

STUN_PORT = 3478
# What a source may be sent beyond what came from it.
EXCESS, EXCESS_PER_SECOND = 4096, 256


@attack("c1", "a TURN client reaches private networks and the server's own host; answers to forged sources")
def c1():
    for ip in ("10.99.99.1", "169.254.169.254", "100.64.1.1", "172.16.5.5"):
        lab.run("ip", "address", "add", ip + "/32", "dev", lab.LINK)
    lab.serve("--turn-user", "u:p")
    client = turn.Client((lab.SERVER, STUN_PORT), lab.CALLER)
    must("an allocation", client.allocate(b"u", b"p"), getattr(client, "relayed", "none"), "one")
    targets = [lab.ATTACKER, lab.SERVER, "127.0.0.1", "169.254.169.254", "10.99.99.1", "172.16.5.5", "100.64.1.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"]
    for number, ip in enumerate(targets):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service:
            service.settimeout(0.5)
            try:
                service.bind((ip if not ip.startswith(("224", "255")) else "0.0.0.0", 5353))
            except OSError:
                service = None
            permitted = client.permit(ip)
            channel = client.bind_channel(0x4000 + number, ip, 5353)
            client.send(ip, 5353, b"to an inside service")
            got = None
            try:
                got = service and service.recvfrom(100)
            except TimeoutError:
                pass
        # At its own address there are other relays, so a permission says nothing yet.
        good = (permitted == 403 or ip == lab.SERVER) and channel == 403 and not got
        must(f"a permission and a channel for {ip}", good, f"{permitted}, {channel}, delivered {got}", "403, 403, nothing")
    permitted = client.permit(lab.NOBODY)
    must("a permission for a public address, to show that there are any", permitted == 0, permitted, 0)
    client.code(client.ask(turn.request(turn.REFRESH, turn.attribute(0x0D, bytes(4)) + client.credentials, client.key)))
    amplification(client)


def amplification(client):
    questions = [
        ("Binding", turn.request(turn.BINDING)),
        ("Binding with 30 unknown attributes", turn.request(turn.BINDING, b"".join(turn.attribute(0x7000 + n, b"") for n in range(30)))),
        ("Allocate without credentials", turn.request(turn.ALLOCATE)),
        ("Allocate without credentials, UDP", turn.request(turn.ALLOCATE, turn.UDP)),
        ("Refresh without credentials", turn.request(turn.REFRESH)),
        ("CreatePermission without credentials", turn.request(turn.CREATE_PERMISSION)),
        ("ChannelBind without credentials", turn.request(turn.CHANNEL_BIND)),
    ]
    worst = max(questions, key=lambda question: len(client.ask(question[1]) or b"") / len(question[1]))
    for name, question in questions:
        answer = client.ask(question) or b""
        figure(f"{name}: {len(question) + 28} bytes -> {len(answer) + 28 if answer else 0} on the wire: x{(len(answer) + 28) / (len(question) + 28) if answer else 0:.2f}")
        time.sleep(0.1)
    # Whoever's address is forged gets what one source gets.
    name, question = worst
    for rate in (10, 100, 1000):
        time.sleep(2)
        asked, answered, packets = flood(client, question, rate, 8)
        figure(f"{name}, {rate}/s: {asked // 8} B/s asked -> {answered // 8} B/s answered ({packets} answers) to one source: x{answered / asked:.2f}")
        most = asked + EXCESS + 8 * EXCESS_PER_SECOND
        must(f"a flood's answers to one source at {rate}/s", answered <= most, f"{answered} bytes for {asked}", f"at most {most}")


def flood(client, question, rate, seconds):
    """Asks so often; bytes asked, bytes answered, answers."""
    client.socket.setblocking(False)
    began, sent, answered, packets = time.monotonic(), 0, 0, 0
    while (gone := time.monotonic() - began) < seconds + 0.5:
        while sent < min(gone, seconds) * rate:
            client.socket.sendto(question, client.server)
            sent += 1
        try:
            answered += len(client.socket.recv(3000)) + 28
            packets += 1
        except BlockingIOError:
            time.sleep(0.002)
    return sent * (len(question) + 28), answered, packets


def honest(source, port=1883, host=lab.SERVER):
    began = time.monotonic()
    try:
        client = mqtt.Client(host, port, source)
        granted = client.subscribe("a" * 52)
        client.close()
        return granted in (0, 1), time.monotonic() - began
    except Exception as why:
        return False, type(why).__name__


def addresses(kind, count):
    device = ["dev", lab.LINK] + (["nodad"] if ":" in kind else [])
    out = []
    for n in range(count):
        ip = kind.format(n)
        lab.run("ip", "address", "add", ip, *device)
        out.append(ip.split("/")[0])
    return out


def fill_broker(sources, count, host=lab.SERVER):
    """Clients that ask for no keep-alive and say nothing more."""
    held, refused = [], 0
    for n in range(count):
        try:
            held.append(mqtt.Client(host, source=sources[n % len(sources)], keep_alive=0, timeout=1))
        except Exception:
            refused += 1
            # Where nobody gets in any more, each costs a timeout.
            if refused > 200 and not n % 2:
                break
    return held, refused


@attack("e2", "one address, then 40 addresses hold the broker's places without a keep-alive", within=300)
def e2():
    server = lab.serve()
    for name, sources in (("one address", addresses("198.18.7.7/32", 1)), ("40 addresses of two /24s", addresses("198.18.8.{}/32", 20) + addresses("198.18.9.{}/32", 20))):
        held, refused = fill_broker(sources, 1500)
        seen = [honest(source) for source in (lab.CALLER, lab.ATTACKER, lab.CALLER)]
        must(f"{name}: others at the broker", all(good for good, _ in seen), f"{seen}, beside {len(held)} held, {refused} refused", "3 of 3 get in")
        for client in held:
            client.close()
        time.sleep(1)
    must("the server", server.is_alive(), server.is_alive(), True)


@attack("e3", "eight /64s of one /61 hold all places of the broker for an hour", within=240)
def e3():
    lab.Program("serve", "--bind", "::", victim=False)
    sources = addresses("2001:db8:0:{:x}::1/128", 8)
    (ninth,) = addresses("2001:db8:0:9::1/128", 1)
    held, refused = fill_broker(sources, 1024, "::1")
    figure(f"{len(held)} held from eight /64s of one /61, {refused} refused")
    for who, source in (("of the same /48", ninth), ("elsewhere", lab.CALLER6)):
        good, why = honest(source, host="2001:db8:77::9")
        must(f"a client {who}", good, f"{good} {why}", True)


def register(source, key, named, host, ask):
    """Publishes records of these names as one client; of those that it asks for, how many the broker sends back."""
    client, kept = mqtt.Client(host, source=source), 0
    for name in named:
        client.publish(names.topic(name), names.record(key, name, wire.address_text(key, [("198.51.100.9", 1)])), retain=True)
    for name in ask:
        client.subscribe(names.topic(name))
        try:
            client.message(1)
            kept += 1
        except TimeoutError:
            pass
    client.close()
    return kept


@attack("names", "names of 128 /64s of one /48 fill the broker's places for names", within=300)
def every_name():
    lab.Program("serve", "--bind", "::", victim=False)
    sources = addresses("2001:db8:1:{:x}::1/128", 128)
    key, kept, sampled = wire.Key(), 0, 0
    for n, source in enumerate(sources):
        squatted = [f"squatter-{n}-{m}" for m in range(32)]
        ask = squatted[-1:] if n % 8 == 7 else []
        sampled += len(ask)
        try:
            kept += register(source, key, squatted, "::1", ask)
        except (OSError, EOFError):
            pass
    figure(f"of {sampled} sampled names of 4,096 from one /48 the broker kept {kept}")
    for who, source, host in (("IPv6 elsewhere", lab.CALLER6, "2001:db8:77::9"), ("IPv4", lab.CALLER, lab.SERVER)):
        name = f"honest-{len(host)}"
        kept = register(source, wire.Key(), [name], host, [name])
        must(f"a name of a client of {who}", kept > 0, "kept" if kept else "not kept", "kept")


@attack("serve-secrets", "what `serve` prints and writes: passwords, modes")
def serve_secrets():
    path = os.path.join(lab.SCRATCH, "written.toml")
    with open(path, "w") as file:
        file.write("old")
    os.chmod(path, 0o644)
    with open(path) as reader:
        server = lab.serve("--turn-password-file", os.path.join(lab.SCRATCH, "turn-password"), "--write", path)
        time.sleep(0.5)
        text = open(path).read()
        shown = "password" in reader.read()
        must("what whoever had the old file open reads", not shown, "the password" if shown else "the old list", "the old list")
    mode = stat.S_IMODE(os.stat(path).st_mode)
    must("the mode of a list that was there before", mode == 0o600, oct(mode), oct(0o600))
    password = next((line.split('"')[1] for line in text.splitlines() if line.startswith("password")), "")
    must("a new password in the list", len(password) > 10, len(password), "one")
    printed = password in "".join(server.lines)
    must("the password in JSON events", not printed, "printed" if printed else "not there", "not there")
