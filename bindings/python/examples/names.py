"""A name in place of the long address: `names.py NAME`."""

import sys

from p2pd import *


async def main() -> None:
    there, here = await P2PNode(), await P2PNode()
    name = await there.nickname(sys.argv[1])
    print(name)
    pipe = await here.connect(name)
    await pipe.send(b"ECHO by name")
    print((await pipe.recv()).decode())
    await pipe.close()
    await here.close()
    await there.close()


if __name__ == "__main__":
    async_test(main)
