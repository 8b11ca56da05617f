"""aioice as a peer of the league: full ICE with the lab's STUN server, as its README sets it up; no TURN server."""

import asyncio
import json
import time

import aioice

import rendezvous


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
        await asyncio.wait_for(joined(connection, offer), rendezvous.LONGEST)
        await connection.send(await asyncio.wait_for(connection.recv(), rendezvous.LONGEST))
        await asyncio.sleep(2)
    except (asyncio.TimeoutError, ConnectionError):
        pass
    finally:
        await connection.close()


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


asyncio.run(rendezvous.play(answer, call))
