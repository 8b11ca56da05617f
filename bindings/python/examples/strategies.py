"""A pipe by strategies of one's choice, to an address or a name: `strategies.py ADDRESS`. Without one, a node calls itself."""

import sys

from p2pd import *


async def main() -> None:
    node = await P2PNode()
    to = sys.argv[1] if len(sys.argv) > 1 else node.addr_bytes
    # The relay is the last resort; the order of others is theirs here.
    pipe = await node.connect(to, strategies=[P2P_DIRECT, P2P_REVERSE, P2P_PUNCH, P2P_RELAY])
    assert pipe.info is not None
    print(pipe.info.strategy)
    await pipe.close()
    await node.close()


if __name__ == "__main__":
    async_test(main)
