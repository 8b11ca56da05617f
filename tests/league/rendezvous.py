"""Rendezvous of the league's peers, on the lab's server: a listener registers its key, and lines go from caller to listener and
back. It stands for whatever signalling an application has."""

import asyncio
import json
import sys

SERVER = "203.0.113.10"
PORT = 7000
# Seconds for a call, and for each step of an answer.
LONGEST = 25


async def serve():
    """Serves without end."""
    listeners = {}
    callers = {}

    async def connection(reader, writer):
        first = json.loads(await reader.readline())
        if "listen" in first:
            listeners[first["listen"]] = writer
            async for line in reader:
                answer = json.loads(line)
                if answer["call"] in callers:
                    callers[answer["call"]].write(line)
            return
        number = len(callers)
        callers[number] = writer
        listeners[first["to"]].write(json.dumps({**first, "call": number}).encode() + b"\n")
        async for line in reader:
            listeners[first["to"]].write(json.dumps({**json.loads(line), "call": number}).encode() + b"\n")

    server = await asyncio.start_server(connection, SERVER, PORT, limit=1 << 20)
    print(json.dumps({"event": "ready"}, separators=(",", ":")), flush=True)
    await server.serve_forever()


async def connect():
    """A connection to the rendezvous: its reader and a function that sends."""
    reader, writer = await asyncio.open_connection(SERVER, PORT, limit=1 << 20)
    return reader, lambda what: writer.write(json.dumps(what).encode() + b"\n")


async def listen(key, answer):
    """Registers the key, and has each offer answered by `answer(offer, send)`."""
    reader, send = await connect()
    send({"listen": key})
    print(json.dumps({"event": "ready"}, separators=(",", ":")), flush=True)
    tasks = []
    async for line in reader:
        tasks.append(asyncio.create_task(answer(json.loads(line), send)))


async def play(answer, call):
    """Runs a peer by the words of its command line. `call(key)` gives the milliseconds that it took."""
    if sys.argv[1] == "serve":
        await serve()
    elif sys.argv[1] == "listen":
        await listen(sys.argv[2], answer)
    else:
        try:
            took = await asyncio.wait_for(call(sys.argv[2]), LONGEST)
            print(json.dumps({"event": "connected", "elapsed_ms": took}, separators=(",", ":")), flush=True)
        except (asyncio.TimeoutError, ConnectionError) as why:
            print(json.dumps({"event": "failed", "why": repr(why)}, separators=(",", ":")), flush=True)


if __name__ == "__main__":
    asyncio.run(serve())
