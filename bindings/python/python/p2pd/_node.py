"""Nodes, of which each opens pipes to others and is called by them."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any, AsyncIterator, Awaitable, Callable, Iterable, Optional, Union

from . import _native
from ._engine import Engine, engine
from ._errors import Error, PipeError, SettingError
from ._pipe import Callback, Pipe, Writer, message_pipe, streams

#: Strategies, by P2PD's numbers; P2P_UDP is of this project.
P2P_DIRECT, P2P_REVERSE, P2P_PUNCH, P2P_RELAY, P2P_UDP = 1, 2, 3, 4, 5
_STRATEGIES = {1: "direct", 2: "reverse", 3: "punch", 4: "relay", 5: "udp"}

ServerList = Union[bool, str, "os.PathLike[str]"]
Connected = Callable[[asyncio.StreamReader, Writer], Union[Awaitable[Any], Any]]

#: Settings of nodes that are made without them. The environment's P2PD_SERVERS names a server list; otherwise it is the public one.
NODE_DEFAULTS: dict[str, Any] = {"servers": os.environ.get("P2PD_SERVERS", True), "bind": None}


class Node:
    """A node. `node = await p2pd.Node()`, or `async with p2pd.Node() as node`.

    - `key`: the file of its private key, which is made if it is missing, or 32 secret bytes. Default: a new key each time.
    - `port`: TCP port to listen on. Default: the system chooses.
    - `bind`: the only local address to use. Default: all but loopback.
    - `servers`: file with a server list; `True`: public servers; `False`: none, direct calls only. Default: NODE_DEFAULTS.
    - `accept`: ids of the nodes that get a pipe; `True`: events ask, and `answer` says. Default: whoever knows the address.
    - `allow_plain`: permits peers to ask for plain pipes.
    - `protocols`: protocols of which peers may open pipes. Default: all.
    - `map_port`: has routers open the port.
    - `names`: file with the keys that names had when they were first seen. Default: beside the key file, with `.names` behind its name.
    - `echo`: answers messages that begin with `ECHO `, as the documents' nodes do.
    """

    def __init__(
        self,
        *,
        key: Union[None, bytes, str, os.PathLike[str]] = None,
        port: int = 0,
        bind: Optional[str] = None,
        servers: Optional[ServerList] = None,
        accept: Union[None, bool, Iterable[str]] = None,
        allow_plain: bool = False,
        protocols: Iterable[bytes] = (),
        map_port: bool = False,
        names: Union[None, str, os.PathLike[str]] = None,
        echo: bool = False,
    ) -> None:
        self._settings: dict[str, Any] = {
            "key": key,
            "port": port,
            "bind": NODE_DEFAULTS["bind"] if bind is None else bind,
            "servers": NODE_DEFAULTS["servers"] if servers is None else servers,
            "accept": accept if accept is None or isinstance(accept, bool) else list(accept),
            "plain": allow_plain,
            "protocols": list(protocols),
            "map_port": map_port,
            "names": names,
        }
        if names is None and key is not None and not isinstance(key, bytes):
            self._settings["names"] = f"{os.fspath(key)}.names"
        self._callbacks: list[Callback] = [_echo] if echo else []
        self._engine: Optional[Engine] = None
        self._native: Optional[_native.Node] = None
        self._serving: Optional[asyncio.Task[None]] = None
        self._connected: Optional[Connected] = None
        self._limit = 1 << 16
        self._tasks: set[asyncio.Future[Any]] = set()

    async def start(self) -> Node:
        """Brings the node up; again it does nothing."""
        if self._native is None:
            runtime = engine()
            runtime.hold()
            try:
                self._native = await runtime.call(runtime.native.node(**self._settings))
            except BaseException:
                runtime.release()
                raise
            self._engine = runtime
            self._serve()
        return self

    @property
    def node_id(self) -> str:
        """The node's id, a public key."""
        return self._up()[1].node_id

    async def address(self) -> str:
        """Returns the address to hand out, once outside addresses and brokers are found or given up: within six seconds."""
        runtime, native = self._up()
        return str(await runtime.call(native.address()))

    async def connect(
        self,
        dest: Union[str, bytes],
        strategies: Optional[Iterable[Union[int, str]]] = None,
        *,
        plain: bool = False,
        protocol: Optional[bytes] = None,
        timeout: float = 20,
        relay_first: bool = False,
    ) -> Pipe:
        """Opens a pipe of messages to an address, or to a name that ends with `.peer`. Raises `ConnectError`.

        `strategies` are tried in their order. Default: all. A plain pipe is proven and not encrypted; the peer has to allow it.
        A task that is cancelled gives the call up.
        """
        runtime, pipe = await self._call(dest, strategies, plain, protocol, timeout, relay_first)
        return await message_pipe(runtime, pipe)

    async def open_connection(
        self,
        dest: Union[str, bytes],
        strategies: Optional[Iterable[Union[int, str]]] = None,
        *,
        plain: bool = False,
        protocol: Optional[bytes] = None,
        timeout: float = 20,
        relay_first: bool = False,
        limit: int = 1 << 16,
    ) -> tuple[asyncio.StreamReader, Writer]:
        """Opens a pipe as `connect` does, and returns asyncio's streams."""
        runtime, pipe = await self._call(dest, strategies, plain, protocol, timeout, relay_first)
        return await streams(runtime, pipe, limit)

    async def accept(self) -> Optional[Pipe]:
        """Waits for the next pipe that a peer opens; `None` once the node is closed.

        It takes turns with `start_server` and callbacks: use one of them.
        """
        runtime, native = self._up()
        pipe = await runtime.call(native.accept())
        return None if pipe is None else await message_pipe(runtime, pipe)

    async def start_server(self, client_connected_cb: Connected, *, limit: int = 1 << 16) -> None:
        """Calls `client_connected_cb(reader, writer)` for each pipe that a peer opens, as asyncio's does."""
        self._connected, self._limit = client_connected_cb, limit
        self._serve()

    def add_msg_cb(self, msg_cb: Callback) -> None:
        """Has each message of each pipe that a peer opens given to `msg_cb(message, sender, pipe)`."""
        self._callbacks.append(msg_cb)
        self._serve()

    def del_msg_cb(self, msg_cb: Callback) -> None:
        """Takes a callback away."""
        if msg_cb in self._callbacks:
            self._callbacks.remove(msg_cb)

    async def nickname(self, name: str) -> str:
        """Takes a name for this node, as long as it runs and a day longer. Returns it with `.peer`."""
        runtime, native = self._up()
        full, _ = await runtime.call(native.register(name))
        return str(full)

    async def resolve(self, name: str) -> str:
        """Looks up the address of a name."""
        runtime, native = self._up()
        return str(await runtime.call(native.resolve(name)))

    async def release(self, name: str) -> int:
        """Gives a name up. Returns the number of brokers that were told."""
        runtime, native = self._up()
        return int(await runtime.call(native.release(name)))

    async def nats(self) -> Any:
        """Returns reports on the NATs in front of the interfaces, one for each."""
        runtime, native = self._up()
        reports, _ = await runtime.call(native.nats())
        return json.loads(reports)

    async def events(self) -> AsyncIterator[Any]:
        """Yields news from now on: progress of calls, brokers, questions. They end with the node."""
        runtime, native = self._up()
        events = native.events()
        while True:
            news = await runtime.call(events.next())
            if news is None:
                return
            yield json.loads(news)

    def answer(self, peer: str, accept: bool) -> None:
        """Answers an event `ask`: whether this peer may have a pipe."""
        if not self._up()[1].answer(peer, accept):
            raise SettingError(f"{peer!r} is no node id")

    async def close(self) -> None:
        """Ends the node. Pipes live on; calls under way fail."""
        if self._native is None or self._engine is None:
            return
        native, runtime = self._native, self._engine
        self._native = None
        if self._serving is not None:
            self._serving.cancel()
        try:
            await runtime.call(native.shutdown())
        finally:
            runtime.release()

    def __del__(self) -> None:
        if getattr(self, "_native", None) is not None and self._engine is not None:
            self._engine.abandon()

    async def __aenter__(self) -> Node:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __await__(self) -> Any:
        return self.start().__await__()

    def _up(self) -> tuple[Engine, _native.Node]:
        if self._native is None or self._engine is None:
            raise Error("the node is not started, or closed")
        return self._engine, self._native

    async def _call(
        self,
        dest: Union[str, bytes],
        strategies: Optional[Iterable[Union[int, str]]],
        plain: bool,
        protocol: Optional[bytes],
        timeout: float,
        relay_first: bool,
    ) -> tuple[Engine, _native.Pipe]:
        runtime, native = self._up()
        names = None
        if strategies is not None:
            names = [_STRATEGIES.get(s, str(s)) if isinstance(s, int) else s for s in strategies]
        call = native.connect(
            dest.decode() if isinstance(dest, bytes) else dest,
            strategies=names,
            plain=plain,
            protocol=protocol,
            timeout=timeout,
            relay_first=relay_first,
        )
        return runtime, await runtime.call(call)

    def _serve(self) -> None:
        """Takes pipes of peers from now on, if somebody wants them."""
        if self._serving is None and self._native is not None and (self._callbacks or self._connected):
            self._serving = asyncio.ensure_future(self._accepting(*self._up()))

    async def _accepting(self, runtime: Engine, native: _native.Node) -> None:
        while True:
            pipe = await runtime.call(native.accept())
            if pipe is None:
                return
            task = asyncio.ensure_future(self._served(runtime, pipe))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _served(self, runtime: Engine, pipe: _native.Pipe) -> None:
        if self._connected is None:
            await message_pipe(runtime, pipe, self._callbacks)
            return
        reader, writer = await streams(runtime, pipe, self._limit)
        try:
            result = self._connected(reader, writer)
            if asyncio.iscoroutine(result):
                await result
        except Exception as error:
            writer.transport.abort()
            loop = asyncio.get_running_loop()
            loop.call_exception_handler({"message": "a node's server failed", "exception": error})


async def _echo(message: bytes, sender: Any, pipe: Pipe) -> None:
    if message.startswith(b"ECHO ") and len(message) > 5:
        try:
            await pipe.send(message[5:])
        except PipeError:
            pass
