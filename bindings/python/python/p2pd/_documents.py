"""The node of P2PD's documents, and their helpers."""

from __future__ import annotations

import asyncio
import os
from typing import Any, Awaitable, Callable, Optional, Sequence

from ._engine import log
from ._errors import Error
from ._net import Interface
from ._node import Node

class P2PNode(Node):
    """A node as the documents start it: it answers `ECHO `, and `addr_bytes` is its address. `await P2PNode()`, or `start()`.

    `ifs`, `netifaces` and most of `conf` may be given and change nothing: a node finds the machine's addresses by itself, and follows them.
    `conf["enable_upnp"]` has routers open the port.
    """

    def __init__(
        self,
        ifs: Optional[Sequence[Interface]] = None,
        port: int = 0,
        conf: Optional[dict[str, Any]] = None,
        netifaces: Any = None,
        **settings: Any,
    ) -> None:
        settings.setdefault("map_port", bool((conf or {}).get("enable_upnp")))
        super().__init__(port=port, echo=True, **settings)
        #: The address, once the node has started.
        self.addr_bytes = b""

    async def start(self) -> P2PNode:
        """Brings the node up, and waits for its address."""
        await super().start()
        self.addr_bytes = (await self.address()).encode()
        return self

    async def nickname(self, name: str) -> str:
        """Takes a name, and returns it with `.peer`. P2PD's names may have `_`, which ours have not: it becomes `-`."""
        return await super().nickname(name.replace("_", "-"))


async def start_p2p_node(
    port: int = 0,
    node_id: Any = None,
    ifs: Optional[Sequence[Interface]] = None,
    netifaces: Any = None,
    enable_upnp: bool = False,
    **ignored: Any,
) -> P2PNode:
    """Starts a node. A node id cannot be chosen: it is a public key. What else the documents name changes nothing."""
    return await P2PNode(ifs, port, {"enable_upnp": enable_upnp}).start()


def async_test(coro: Callable[..., Awaitable[Any]], args: Sequence[Any] = ()) -> Any:
    """Runs an async function to its end."""

    async def run() -> Any:
        return await coro(*args)

    return asyncio.run(run())


async def async_wrap_errors(coro: Awaitable[Any], timeout: Optional[float] = None) -> Any:
    """Waits for something, and writes an error of it to the log in place of raising it."""
    try:
        return await asyncio.wait_for(coro, timeout)
    except (Error, OSError, asyncio.TimeoutError) as error:
        log.warning("%s", error)
        return None


def rand_b(n: int) -> bytes:
    """Returns random bytes."""
    return os.urandom(n)
