"""libnice as a peer of the league: ICE with the lab's STUN server, set up as the makers' sdp-example.c does; no TURN server.

The interpreter has to be Debian's, which has the bindings (python3-gi, gir1.2-nice-0.1)."""

import asyncio
import ctypes
import json
import sys
import threading
import time

import gi

import rendezvous

gi.require_version("Nice", "0.1")
from gi.repository import GLib, Nice  # noqa: E402

# The bindings have no function for what arrives.
RECEIVER = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p)
attach = ctypes.CDLL("libnice.so.10").nice_agent_attach_recv
attach.argtypes = [ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, RECEIVER, ctypes.c_void_p]


class Connection:
    """One agent with one stream of one component."""

    def __init__(self, controlling):
        loop = asyncio.get_running_loop()
        self.gathered, self.states, self.words = asyncio.Event(), asyncio.Queue(), asyncio.Queue()
        self.agent = Nice.Agent.new(GLib.MainContext.default(), Nice.Compatibility.RFC5245)
        self.agent.set_property("stun-server", rendezvous.SERVER)
        self.agent.set_property("stun-server-port", 3478)
        self.agent.set_property("controlling-mode", controlling)
        self.agent.connect("candidate-gathering-done", lambda *_: loop.call_soon_threadsafe(self.gathered.set))
        changed = lambda _agent, _stream, _component, state: loop.call_soon_threadsafe(self.states.put_nowait, state)
        self.agent.connect("component-state-changed", changed)
        self.stream = self.agent.add_stream(1)
        self.agent.set_stream_name(self.stream, "text")
        received = lambda _agent, _stream, _component, length, word, _: loop.call_soon_threadsafe(
            self.words.put_nowait, ctypes.string_at(word, length)
        )
        self.receiver = RECEIVER(received)
        attach(hash(self.agent), self.stream, 1, None, self.receiver, None)

    async def described(self):
        self.agent.gather_candidates(self.stream)
        await self.gathered.wait()
        return {"sdp": self.agent.generate_local_sdp()}

    async def joined(self, other):
        if self.agent.parse_remote_sdp(other["sdp"]) < 1:
            raise ConnectionError("no candidates")
        while (state := await self.states.get()) not in (Nice.ComponentState.CONNECTED, Nice.ComponentState.READY):
            if state == Nice.ComponentState.FAILED:
                raise ConnectionError("ICE failed")

    def send(self, word):
        self.agent.send(self.stream, 1, len(word), word)


async def answer(offer, send):
    connection = Connection(False)
    try:
        send({"call": offer["call"], **await connection.described()})
        await asyncio.wait_for(connection.joined(offer), rendezvous.LONGEST)
        connection.send((await asyncio.wait_for(connection.words.get(), rendezvous.LONGEST)).decode())
        await asyncio.sleep(2)
    except (asyncio.TimeoutError, ConnectionError) as why:
        print(repr(why), file=sys.stderr)
    finally:
        connection.agent.remove_stream(connection.stream)


async def call(key):
    begin = time.monotonic()
    connection = Connection(True)
    described = await connection.described()
    reader, send = await rendezvous.connect()
    send({"to": key, **described})
    await connection.joined(json.loads(await reader.readline()))
    while True:
        connection.send("there and back")
        try:
            await asyncio.wait_for(connection.words.get(), 0.5)
            return 1000 * (time.monotonic() - begin)
        except asyncio.TimeoutError:
            pass


threading.Thread(target=GLib.MainLoop().run, daemon=True).start()
asyncio.run(rendezvous.play(answer, call))
