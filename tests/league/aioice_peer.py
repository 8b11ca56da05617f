"""aioice as a peer of the league: full ICE with the lab's STUN server, as its README sets it up; no TURN server."""

import asyncio
import json
import sys
import time

import aioice

import rendezvous

LONGEST = 25


def described(connection):
    return {
        "user": connection.local_username,
        "password": connection.local_password,
        "candidates": [candidate.to_sdp() for candidate in connection.local_candidates],
    }


async def joined(connection, other):
    for text in other["candidates"]:
        await connection.add_remote_candidate(aioice.Candidate.from_sdp(text))
    await connection.add_remote_candidate(None)
    connection.remote_username = other["user"]
    connection.remote_password = other["password"]
    await connection.connect()


async def answer(offer, send):
    connection = aioice.Connection(ice_controlling=False, stun_server=(rendezvous.SERVER, 3478))
    try:
        await connection.gather_candidates()
        send({"call": offer["call"], **described(connection)})
        await asyncio.wait_for(joined(connection, offer), LONGEST)
        await connection.send(await asyncio.wait_for(connection.recv(), LONGEST))
        await asyncio.sleep(2)
    except (asyncio.TimeoutError, ConnectionError):
        pass
    finally:
        await connection.close()


async def listen(key):
    reader, send = await rendezvous.connect()
    send({"listen": key})
    print(json.dumps({"event": "ready"}, separators=(",", ":")), flush=True)
    tasks = []
    async for line in reader:
        tasks.append(asyncio.create_task(answer(json.loads(line), send)))


async def call(key):
    begin = time.monotonic()
    connection = aioice.Connection(ice_controlling=True, stun_server=(rendezvous.SERVER, 3478))
    await connection.gather_candidates()
    reader, send = await rendezvous.connect()
    send({"to": key, **described(connection)})
    await joined(connection, json.loads(await reader.readline()))
    await connection.send(b"there and back")
    await connection.recv()
    return 1000 * (time.monotonic() - begin)


async def main():
    if sys.argv[1] == "serve":
        await rendezvous.serve()
    elif sys.argv[1] == "listen":
        await listen(sys.argv[2])
    else:
        try:
            took = await asyncio.wait_for(call(sys.argv[2]), LONGEST)
            print(json.dumps({"event": "connected", "elapsed_ms": took}, separators=(",", ":")), flush=True)
        except (asyncio.TimeoutError, ConnectionError) as why:
            print(json.dumps({"event": "failed", "why": repr(why)}, separators=(",", ":")), flush=True)


asyncio.run(main())
