"""No attack: a peer that was written from docs/src/protocol alone is reached by a node, and reaches it, by each way."""

import ctypes
import os
import threading

import lab
import messages
import mqtt
import peer
import wire
from lab import must
from scenarios import attack

AT = (lab.CALLER, 4001)


def address(key):
    return wire.address_text(key, [AT]).decode()


@attack("peer", "a peer by the protocol's pages: dials, is dialled back, is called directly and by a relay")
def whole():
    lab.serve("--turn-user", "u:p", "--turn-allow-private")
    victim = lab.listen(*lab.servers())
    for low in (True, False):
        # Either may be the one that nominates.
        key = next(key for key in iter(wire.Key, None) if (key.public < victim.node) == low)
        name = "the lower id" if low else "the higher id"
        dials(key, victim, name)
        is_dialled_back(key, victim, name)
    called = wire.Key()
    listener = peer.Listener(AT)
    peer.listen_and_echo(listener, called)
    good, _, why = lab.connect(address(called), "--no-servers", "--strategies", "direct", data=b"direct")
    must("a call by `p2pd connect`", good, why, "its bytes back")
    by_relay()


def echoes(pipe):
    """What `listen --echo` sends back, and how its direction ends once ours has."""
    pipe.send(b"from the pages")
    said = pipe.receive()
    pipe.send(b"")
    return said, pipe.receive()


BACK = (b"from the pages", b"")


def dials(key, victim, name):
    stream = wire.Stream((lab.VICTIM, lab.PORT), lab.CALLER)
    status = stream.say_first(key, victim.node)
    pipe = peer.Pipe(stream.socket, stream.hello.noise)
    pipe.agree(key, victim.node, stream.hello.session)
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


def by_relay():
    key = wire.Key()
    broker = mqtt.Peer(key.public, key, source=lab.CALLER)

    def run():
        sender, content = wire.unseal(key, broker.message(15)[1])
        asked = messages.read_message(content)
        ip, port = asked["relayed"].rsplit(":", 1)
        session = bytes.fromhex(asked["session"])
        broker.to, broker.peer = wire.topic(sender), sender
        broker.say(wire.message(wire.TURN_RESPONSE, wire.ip_bytes(lab.VICTIM) + b"\0\0", session))
        # The server relays to nobody on its own machine, so this thread goes over to the other one.
        with open(f"/run/netns/{lab.VICTIM_NS}") as machine:
            if ctypes.CDLL(None, use_errno=True).setns(machine.fileno(), 0x4000_0000):
                raise OSError(ctypes.get_errno(), "setns")
        caller = peer.Caller(key, sender, session, (ip, int(port)), lab.VICTIM)
        caller.agree()
        data = caller.read(len(b"by a relay"))
        caller.write(data, end=True)
        caller.run(3)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    servers = lab.servers()
    with open(servers[1], "a") as file:
        file.write(f'[[turn]]\nhost = "{lab.SERVER}"\nuser = "u"\npassword = "p"\n')
    good, _, why = lab.connect(address(key), *servers, "--strategies", "relay", data=b"by a relay", timeout=15)
    thread.join(5)
    must("a call through a relay by `p2pd connect`", good, why, "its bytes back")
