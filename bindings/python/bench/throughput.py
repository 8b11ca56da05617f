"""Bytes a second of asyncio's streams over loopback: of a socket of asyncio's own, and beside it of pipes, plain and encrypted.

`throughput.py [ROUNDS] [MEBIBYTES]`. The kinds take turns, and the median of each counts. Both ends are in one process and one loop. It
fails where a plain pipe has less than 0.8 of the socket.
"""

import asyncio
import statistics
import sys
import time
from typing import Awaitable, Callable

import p2pd

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 7
BYTES = (int(sys.argv[2]) if len(sys.argv) > 2 else 256) << 20
PIECE = bytes(64 << 10)
GOAL = 0.8

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def measured(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> float:
    """Sends from one end to the other, and returns the bytes a second."""

    async def send() -> None:
        for _ in range(BYTES // len(PIECE)):
            writer.write(PIECE)
            await writer.drain()
        writer.write_eof()

    begin = time.perf_counter()
    sending = asyncio.ensure_future(send())
    came = 0
    while data := await reader.read(256 << 10):
        came += len(data)
    took = time.perf_counter() - begin
    await sending
    assert came == BYTES
    return BYTES / took


async def main() -> None:
    arrived: asyncio.Queue[Ends] = asyncio.Queue()

    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await arrived.put((reader, writer))

    server = await asyncio.start_server(keep, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    here = await p2pd.Node(bind="127.0.0.1", servers=False)
    there = await p2pd.Node(bind="127.0.0.1", servers=False, allow_plain=True)
    await there.start_server(keep)
    address = await there.address()
    kinds: dict[str, Callable[[], Awaitable[Ends]]] = {
        "asyncio's socket": lambda: asyncio.open_connection("127.0.0.1", port),
        "plain pipe": lambda: here.open_connection(address, plain=True),
        "encrypted pipe": lambda: here.open_connection(address),
    }
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(ROUNDS):
        for kind, connect in kinds.items():
            ours = await connect()
            theirs = await arrived.get()
            rates[kind].append(await measured(theirs[0], ours[1]))
            for _, writer in (ours, theirs):
                writer.close()
                await writer.wait_closed()
    own = statistics.median(rates["asyncio's socket"])
    for kind, each in rates.items():
        rate = statistics.median(each)
        print(f"{kind:17} {rate / 1e6:7.0f} MB/s   {rate / own:.2f} of asyncio's socket")
    await here.close()
    await there.close()
    server.close()
    if statistics.median(rates["plain pipe"]) < GOAL * own:
        sys.exit(f"a plain pipe has less than {GOAL} of asyncio's own socket")


if __name__ == "__main__":
    asyncio.run(main())
