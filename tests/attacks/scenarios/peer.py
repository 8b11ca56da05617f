"""No attack: a peer that was written from docs/src/protocol alone is reached by a node, and reaches it, by each way."""

import ctypes
import os
import socket
import threading

import lab
import messages
import mqtt
import peer
import relay
import sessions
import turn
import wire
from lab import must
from scenarios import attack

AT = (lab.CALLER, 4001)


def address(key):
    return wire.address_text(key, [AT]).decode()


@attack("peer", "a peer by the protocol's pages: dials, is dialled back, punches, is called directly, by a relay and by a session that moves, and is knocked at")
def whole():
    lab.serve("--turn-user", "u:p", "--turn-allow-private")
    victim = lab.listen(*lab.servers())
    for low in (True, False):
        # Either may be the one that nominates.
        key = next(key for key in iter(wire.Key, None) if (key.public < victim.node) == low)
        name = "the lower id" if low else "the higher id"
        dials(key, victim, name)
        is_dialled_back(key, victim, name)
    punches(victim)
    called = wire.Key()
    listener = peer.Listener(AT)
    peer.listen_and_echo(listener, called)
    good, _, why = lab.connect(address(called), "--no-servers", "--strategies", "direct", data=b"direct")
    must("a call by `p2pd connect`", good, why, "its bytes back")
    by_relay()
    listener.socket.close()
    moves()
    knocks(victim)


def echoes(pipe):
    """What `listen --echo` sends back, and how its direction ends once ours has."""
    pipe.send(b"from the pages")
    said = pipe.receive()
    pipe.send(b"")
    return said, pipe.receive()


BACK = (b"from the pages", b"")


def dials(key, victim, name):
    stream, session = socket.create_connection((lab.VICTIM, lab.PORT), source_address=(lab.CALLER, 0)), os.urandom(16)
    status, pipe = peer.begin(stream, key, victim.node, session)
    pipe.agree(key, victim.node, session)
    said = echoes(pipe)
    must(f"a dial, {name}", (status, said) == (wire.READY, BACK), said, BACK)
    stream.close()


def is_dialled_back(key, victim, name):
    listener = peer.Listener(AT)
    broker = mqtt.Peer(victim.node, key, source=lab.CALLER)
    session = os.urandom(16)
    broker.say(wire.direct(key, [AT], session))
    pipe, caller, asked, purpose = peer.answer(listener.accept(), key)
    must(f"who dials back, {name}", (caller, asked, purpose) == (victim.node, session, 1), purpose, 1)
    pipe.agree(key, victim.node, session)
    said = echoes(pipe)
    must(f"the pipe that was asked for, {name}", said == BACK, said, BACK)
    kinds = [kind for kind, _ in broker.hear(0.5)]
    must("what was said over the broker", kinds[:1] == [wire.DIALLING], kinds, [wire.DIALLING])
    broker.close()
    listener.socket.close()


def punches(victim):
    """A punch between hosts without NATs: the responder dials what the mappings say, and the requester speaks first."""
    key, session = wire.Key(), os.urandom(16)
    listener = peer.Listener(AT)
    broker = mqtt.Peer(victim.node, key, source=lab.CALLER)
    open_host = {"mapping": 1, "filtering": 1, "allocation": (1, 0, 0), "ports": [AT[1]], "nat": (1, 1)}
    broker.say(wire.initial(key, lab.CALLER, lab.CALLER, session, **open_host))
    stream = listener.accept()
    status, pipe = peer.begin(stream, key, victim.node, session)
    pipe.agree(key, victim.node, session)
    said = echoes(pipe)
    must("a punch", (status, said) == (wire.READY, BACK), said, BACK)
    answers = [messages.read_message(wire.unseal(key, envelope)[1]) for _, envelope in broker.messages(0.5)]
    answer = answers[0]
    must("the answer", (answer["kind"], answer["rung"]) == (wire.UPDATED, 0), (answer["kind"], answer["rung"]), (wire.UPDATED, 0))
    listener.socket.close()


class Asked:
    """A peer on the broker that is asked to come to a relay, in a thread of its own."""

    def __init__(self):
        self.key = wire.Key()
        self.broker = mqtt.Peer(self.key.public, self.key, source=lab.CALLER)

    def come(self):
        """Takes the request, and goes to the relay from the victim's machine: the server relays to nobody on its own."""
        sender, content = wire.unseal(self.key, self.broker.message(15)[1])
        asked = messages.read_message(content)
        ip, port = asked["relayed"].rsplit(":", 1)
        session = bytes.fromhex(asked["session"])
        self.broker.to, self.broker.peer = wire.topic(sender), sender
        self.broker.say(wire.message(wire.TURN_RESPONSE, wire.ip_bytes(lab.VICTIM) + b"\0\0", session))
        with open(f"/run/netns/{lab.VICTIM_NS}") as machine:
            if ctypes.CDLL(None, use_errno=True).setns(machine.fileno(), 0x4000_0000):
                raise OSError(ctypes.get_errno(), "setns")
        return asked, peer.Caller(self.key, sender, session, (ip, int(port)), lab.VICTIM)

    def run(self, act):
        self.thread = threading.Thread(target=act, daemon=True)
        self.thread.start()


def with_turn():
    servers = lab.servers()
    with open(servers[1], "a") as file:
        file.write(f'[[turn]]\nhost = "{lab.SERVER}"\nuser = "u"\npassword = "p"\n')
    return servers


def by_relay():
    asked = Asked()

    def act():
        _, caller = asked.come()
        caller.agree()
        data = caller.read(len(b"by a relay"))
        caller.write(data, end=True)
        caller.run(3)

    asked.run(act)
    good, _, why = lab.connect(address(asked.key), *with_turn(), "--strategies", "relay", data=b"by a relay", timeout=15)
    must("a call through a relay by `p2pd connect`", good, why, "its bytes back")
    asked.thread.join(5)


def moves():
    """A session that begins on a relay and moves to a stream."""
    asked, listener, data, seen = Asked(), peer.Listener(AT), b"by a session that moves", []

    def on_stream():
        """The pipe for the second carrier: the stream that was dialled beside the relay is closed before anything is agreed."""
        while True:
            try:
                pipe, who, session, purpose = peer.answer(listener.accept(), asked.key)
                pipe.agree(asked.key, who, session)
                return pipe, purpose
            except (EOFError, OSError):
                continue

    def act():
        request, caller = asked.come()
        caller.agree()
        relayed = sessions.Carrier(lambda: caller.read(seconds=5), caller.write)
        first, token = relayed.opening()
        caller.write(sessions.put("HAVE", 0))
        got, count, frame = b"", 0, None
        while frame is None or frame[0] != "FIN":
            frame = relayed.next()
            count += frame[0] in sessions.NUMBERED
            got += frame[-1] if frame[0] == "DATA" else b""
        caller.write(sessions.put("ACK", count))
        caller.run(0.2)
        pipe, purpose = on_stream()
        direct = sessions.Carrier(pipe.receive, pipe.send)
        again = direct.opening()
        seen.extend([request["mode"], purpose, first, again == (2, token), got])
        pipe.send(sessions.put("HAVE", count))
        while direct.next()[0] != "USE":
            pass
        # What is written on the stream that the caller opened, and its end.
        pipe.send(sessions.put("FROM", 0) + sessions.put("DATA", 0, content=got) + sessions.put("FIN", 0))
        # A caller that has all closes the session, which may come before it acknowledges.
        while (frame := direct.next()) != ("ACK", 2) and frame[0] != "CLOSE":
            pass
        seen.append("delivered on the stream")

    asked.run(act)
    arguments = ("--strategies", "direct,relay", "--relay-first")
    good, _, why = lab.connect(address(asked.key), *with_turn(), *arguments, data=data, timeout=15)
    asked.thread.join(5)
    must("a session that moves by `p2pd connect`", good, why, "its bytes back")
    wanted = [2, 0, 1, True, data, "delivered on the stream"]
    must("what came over the relay, and what went over the stream", seen == wanted, seen, wanted)
    listener.socket.close()


def knocks(victim):
    """A stranger's request for a relay, up to the first packet of the relay stream."""
    key, session = wire.Key(), os.urandom(16)
    broker = mqtt.Peer(victim.node, key, source=lab.CALLER)
    client = turn.Client((lab.SERVER, 3478), lab.CALLER, timeout=5)
    must("an allocation", client.allocate(b"u", b"p") and client.permit(lab.VICTIM) == 0, "one", "one")
    broker.say(wire.turn_request(key, client.relayed, session))
    knock, at = client.receive()
    must("what comes first", (len(knock), knock[0]) == (17, 1), knock[:1], b"\1")
    client.send(*at, relay.answer(relay.knock_key(key.secret, victim.node, session), knock[1:]))
    while len(packet := client.receive()[0]) == 17:
        pass
    kind, destination, packet, offset = next(relay.packets(packet))
    initial = relay.initial_secret(key.secret, victim.node, relay.prologue(session, key.public))
    plain, _ = relay.Protection(wire.keyed(initial, b"initial caller" + destination)).open(packet, offset)
    frames = [frame[0] for frame in relay.frames(plain)]
    must("what comes after the answer", frames == ["crypto"], frames, ["crypto"])
    kinds = [kind for kind, _ in broker.hear(0.5)]
    must("what was said over the broker", kinds[:1] == [wire.TURN_RESPONSE], kinds, [wire.TURN_RESPONSE])
