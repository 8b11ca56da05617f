"""A listener and a caller: `two_computers.py` prints an address and answers, `two_computers.py ADDRESS` asks it."""

import asyncio
import sys

import p2pd


async def answer(reader: asyncio.StreamReader, writer: p2pd.Writer) -> None:
    async with writer:
        async for line in reader:
            writer.write(b"you said: " + line)
            await writer.drain()


async def listen() -> None:
    async with p2pd.Node() as node:
        await node.start_server(answer)
        print(await node.address(), flush=True)
        await asyncio.Event().wait()


async def call(address: str) -> None:
    async with p2pd.Node() as node:
        try:
            reader, writer = await node.open_connection(address)
        except p2pd.ConnectError as why:
            sys.exit(f"no pipe: {why}")
        print(f"to {writer.info.peer} by {writer.info.strategy}")
        async with writer:
            writer.write(b"hello\n")
            print((await reader.readline()).decode(), end="")


if __name__ == "__main__":
    asyncio.run(call(sys.argv[1]) if len(sys.argv) > 1 else listen())
