"""Attacks over a broker: what strangers' messages fill, and what they show."""

import os
import time

import lab
import mqtt
import wire
from lab import Attack, calls, figure, must
from scenarios import attack

# Messages that fill the memory of ids as it was: 4,096, and then some.
FILL = 17 * 256


def fill(node, ahead):
    """17 strangers' messages, 185 a second, dated so far into the future."""
    connections = [mqtt.Client() for _ in range(4)]
    keys = [wire.Key() for _ in range(17)]
    began, size = time.monotonic(), 0
    for n in range(FILL):
        envelope = wire.seal(keys[n // 256], node, wire.message(wire.DIALLING, b"\0", ahead=ahead))
        connections[n % 4].publish(wire.topic(node), envelope)
        size += len(envelope) + wire.MQTT_OVERHEAD
        time.sleep(max(0, began + n / 185 - time.monotonic()))
    figure(f"{FILL} messages, {size} bytes in {time.monotonic() - began:.1f} s")


def deafness(program, ahead, more=()):
    lab.serve()
    path, honest = lab.identity()
    accepted = wire.Key()
    arguments = [*lab.servers(), "--port", str(lab.PORT), "--accept", f"{accepted.id},{honest}"]
    victim = lab.Program(*program, *arguments)
    peer = mqtt.Peer(victim.node, accepted)
    must("an accepted peer before", peer.echo(), "heard" if peer.echo() else "not heard", "heard")
    fill(victim.node, ahead)
    began = time.monotonic()
    heard = [peer.echo(2) for _ in range(3)]
    must("the accepted peer after it", all(heard), f"{heard} in {time.monotonic() - began:.2f} s", "heard at once, 3 of 3")
    call = ["--bind", lab.CALLER, "--identity", path, "--strategies", "reverse", *lab.servers()]
    good, slowest, why = calls(2, victim.address, *call, timeout=8, data=b"" if program[0] == "daemon" else b"hi")
    must("its reverse calls", good == 2, f"{good} of 2, slowest {slowest:.1f} s {why}", "2 of 2")


@attack("b2", "17 keys fill the memory of message ids")
def b2():
    deafness(["listen", "--echo"], 0)


@attack("b6", "the same from the future, at a daemon")
def b6():
    deafness(["daemon", "--api", "127.0.0.1:12301", "--token-file", os.path.join(lab.SCRATCH, "token")], 590)


@attack("b4", "three TURN requests a second, each of a key made for it", within=180)
def b4():
    lab.serve()
    victim = lab.listen(*lab.servers())
    attacker = mqtt.Peer(victim.node, listens=False)
    call = ["--bind", lab.CALLER, "--strategies", "reverse", *lab.servers()]
    good, slowest, why = calls(2, victim.address, *call, timeout=8)
    must("honest reverse calls before", good == 2, f"{good} of 2 {why}", "2 of 2")
    with Attack(3, lambda: attacker.say(wire.turn_request(key := wire.Key(), (lab.NOBODY, 9)), key)) as flood:
        began = time.monotonic()
        # 60 requests, and the first of them is not forgotten yet.
        time.sleep(20)
        good, slowest, why = calls(6, victim.address, *call, timeout=8)
        took = time.monotonic() - began
    must("honest reverse calls of strangers", good == 6, f"{good} of 6, slowest {slowest:.1f} s {why}", "6 of 6")
    figure(f"{flood.total / took:.0f} bytes/s of {flood.made} requests")


@attack("b2-rate", "400 messages a second of strangers, far more than a node opens")
def b2_rate():
    lab.serve()
    accepted = wire.Key()
    victim = lab.listen(*lab.servers(), "--accept", accepted.id)
    peer = mqtt.Peer(victim.node, accepted)
    senders = [mqtt.Client(source=source) for source in (lab.SERVER, lab.ATTACKER, lab.CALLER) for _ in range(2)]
    to, count = wire.topic(victim.node), 0
    # What a stranger says need not even be sealed. Or it is what a named peer has said: who knows the address can listen there.
    spy = mqtt.Client()
    spy.subscribe(to)
    peer.echo()
    recorded = [payload for _, payload in spy.messages(1)]
    figure(f"{len(recorded)} envelopes recorded")
    for name, payloads in (("noise", [os.urandom(200)]), ("recorded envelopes", recorded)):

        def send():
            nonlocal count
            count += 1
            payload = payloads[count % len(payloads)]
            senders[count % len(senders)].publish(to, payload)
            return len(payload) + wire.MQTT_OVERHEAD

        with Attack(400, send) as flood:
            time.sleep(5)
            heard = [peer.echo(2) for _ in range(12)]
        figure(f"{name}: {flood.made} messages, {flood.total} bytes, {dict(flood.errors) or 'no'} errors")
        must(f"an accepted peer's messages beside {name}", all(heard), f"{sum(heard)} of 12 answered", "12 of 12")


@attack("replay", "the node's own messages, recorded on its topic, again after a restart")
def replay():
    lab.serve()
    path = os.path.join(lab.SCRATCH, "victim.key")
    victim = lab.listen(*lab.servers(), "--identity", path)
    # Whoever knows the address can listen where the node listens. A broker that is slow has its probe come again.
    spy = mqtt.Client()
    spy.subscribe(wire.topic(victim.node))
    node = victim.node
    victim.end()
    victim = lab.listen(*lab.servers(), "--identity", path)
    recorded = spy.messages(2)
    victim.end()
    victim = lab.listen(*lab.servers(), "--identity", path)
    time.sleep(1)
    for topic, payload in recorded:
        spy.publish(topic, payload)
    time.sleep(2)
    warned = any('"identity_in_use"' in line for line in victim.lines)
    figure(f"{len(recorded)} messages recorded")
    must("a warning that another process has this key", not warned, "warned" if warned else "none", "none")
    must("the node", victim.node == node and victim.is_alive(), "alive", "alive")


@attack("broker-view", "what a broker's other clients see: wildcards, and envelopes")
def broker_view():
    lab.serve()
    victim = lab.listen(*lab.servers())
    spy = mqtt.Client()
    for pattern in ("#", "+", "p2pd/#", "p2pd-name-#", "p2pd-name-+", "+/+/+", "+/#"):
        granted = spy.subscribe(pattern)
        must(f"SUBSCRIBE {pattern} of an anonymous client", granted == 128, granted, 128)
    peer = mqtt.Peer(victim.node)
    payload = os.urandom(8)
    peer.say(wire.message(wire.ECHO, payload))
    _, envelope = peer.message(5)
    own = wire.blake2s(b"p2pd topic" + victim.node)
    shown = [what for what, text in (("its topic", own), ("its id", victim.node)) if text in envelope]
    must("the sender in an envelope's clear bytes", not shown, shown or "not there", "not there")
    seen = spy.messages(1)
    must("what the spy got", not seen, f"{len(seen)} messages", "nothing")


@attack("scan", "ten keys have 20 ports dialled and are told which was open")
def scan():
    lab.serve()
    victim = lab.listen(*lab.servers())
    service = lab.Notes((lab.CALLER, 8080))
    told, counted, open_ones = [], 0, 0
    for port in range(8070, 8090, 2):
        peer = mqtt.Peer(victim.node)
        peer.say(wire.direct(peer.key, [(lab.CALLER, port), (lab.CALLER, port + 1)]))
        for kind, body in peer.hear(2.5):
            if kind == wire.DIALLED:
                counted += 1
                told += wire.dials(body)
        peer.close()
    must("what DIALLED tells strangers of ports", not told, told[:4] or f"nothing, in {counted} answers", "nothing per address")
    figure(f"{len(service.came)} dials came to the open port")
