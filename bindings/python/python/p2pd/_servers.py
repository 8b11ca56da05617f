"""Clients of STUN and TURN servers, as P2PD's documents have them."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NamedTuple, Optional, Union

from . import _native
from ._engine import held
from ._errors import Error, PipeError, SettingError, StunError
from ._net import IP4, IP6, TCP, UDP, Address, Interface, Route
from ._node import NODE_DEFAULTS, Node
from ._pipe import At, Callback, Pipe

#: Ways of STUN that P2PD distinguishes; requests here are those of RFC 8489, which servers of both understand.
RFC3489, RFC5389 = 1, 2


class Mapped(NamedTuple):
    """A socket's local end, the end that a STUN server saw, and the socket, as long as which the mapping lives."""

    local: tuple[str, int]
    external: tuple[str, int]
    socket: _native.Mapping


class STUNClient:
    """A client of STUN servers: `STUNClient(interface, af)` asks those of NODE_DEFAULTS, `STUNClient(af, dest, interface)` one."""

    def __init__(
        self,
        first: Any = None,
        second: Any = None,
        nic: Optional[Interface] = None,
        proto: int = UDP,
        mode: int = RFC5389,
        interface: Optional[Interface] = None,
    ) -> None:
        if isinstance(first, int):
            self.af, self.dest = first, second
        else:
            nic, self.dest = first if first is not None else interface, None
            self.af = second if second is not None else IP4
        if nic is None:
            raise SettingError("a STUN client has an interface")
        self.interface, self.proto = nic, proto

    async def get_wan_ip(self) -> str:
        """Returns the external address: over UDP, and over TCP where no answer comes."""
        try:
            return (await self.get_mapping(self.proto)).external[0]
        except StunError:
            return (await self.get_mapping(TCP if self.proto == UDP else UDP)).external[0]

    async def get_mapping(self, proto: Optional[int] = None) -> Mapped:
        """Opens a socket and asks how the server sees it. Raises `StunError`."""
        source = self.interface.route(self.af).source
        over_tcp = (self.proto if proto is None else proto) == TCP
        with held() as runtime:
            if self.dest is not None:
                servers = [(await _at(self.dest, self.af))[:2]]
            else:
                servers = await runtime.call(runtime.native.stun_servers(NODE_DEFAULTS["servers"]))
            error: Error = StunError("there is no STUN server to ask")
            for host, port in servers:
                try:
                    seen = await runtime.call(runtime.native.mapping(host, port, source, over_tcp))
                    return Mapped(seen.local, seen.external, seen)
                except StunError as why:
                    error = why
        raise error

    async def get_nat_info(self) -> dict[str, Any]:
        """Returns the NAT in front of the interface, by P2PD's numbers."""
        return await self.interface.load_nat()


class _Relay:
    """What a pipe takes for the transport of its datagrams."""

    def __init__(self, pipe: TURNClient) -> None:
        self._pipe, self._closing = pipe, False

    def sendto(self, data: bytes, addr: Any) -> None:
        """Marks it as one of datagrams, which the pipe itself sends."""

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._pipe._start(self._pipe._leave())

    abort = close

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class TURNClient(Pipe):
    """A relayed address at a TURN server, as a pipe of datagrams.

    `TURNClient(turn_addr=, turn_user=, turn_pw=, route=, msg_cb=)` and then `start()`, or `await TURNClient(af, dest, interface, (user, password))`. A realm may be
    given; the server says it.
    """

    def __init__(
        self,
        af: int = IP4,
        dest: Union[None, Address, tuple[Any, ...]] = None,
        nic: Optional[Interface] = None,
        auth: Optional[tuple[Any, Any]] = None,
        realm: Any = None,
        msg_cb: Optional[Callback] = None,
        *,
        turn_addr: Union[None, Address, tuple[Any, ...]] = None,
        turn_user: Any = None,
        turn_pw: Any = None,
        turn_realm: Any = None,
        route: Optional[Route] = None,
    ) -> None:
        super().__init__()
        server = turn_addr if turn_addr is not None else dest
        if server is None:
            raise SettingError("a TURN client has a server")
        self._server = server
        user, password = auth if auth is not None else (turn_user, turn_pw)
        self._user, self._password = _text(user), _text(password)
        self._af = IP6 if (route is not None and route.af == IP6) or af == IP6 else IP4
        source = route.source if route is not None else nic.route(af).source if nic is not None else None
        self._node = Node(servers=False, bind=source)
        self._allocation: Optional[_native.Allocation] = None
        #: The relayed address, once there is one.
        self.relay_tup_future: asyncio.Future[tuple[str, int]] = asyncio.get_running_loop().create_future()
        if msg_cb is not None:
            self.add_msg_cb(msg_cb)

    async def start(self) -> TURNClient:
        """Asks the server for the relayed address. Raises `RelayError`."""
        if self._allocation is not None:
            return self
        host, port = (await _at(self._server, self._af))[:2]
        server = {"host": host, "port": port}
        server.update({"user": self._user, "password": self._password} if self._user else {"auth": "none"})
        await self._node.start()
        runtime, native = self._node._up()
        try:
            allocation = await runtime.call(native.allocate(json.dumps(server), self._af == IP6, 20.0))
        except BaseException:
            await self._node.close()
            raise
        self._allocation = allocation
        self.connection_made(_Relay(self))
        self.relay_tup_future.set_result(allocation.relayed)
        self._start(self._receive(allocation))
        return self

    async def get_tups(self) -> tuple[tuple[str, int], tuple[str, int]]:
        """Returns the address that peers see and the one that they send to, which here are the same: the relayed one."""
        relayed = await self.relay_tup_future
        return relayed, relayed

    async def accept_peer(self, peer_tup: At, relay_tup: At) -> None:
        """Lets a peer's datagrams in, and sends to its relayed address from now on."""
        self.remote = tuple(relay_tup)
        # The server is asked for the permission on the way of a datagram: this one has no bytes, and clients here pass none on.
        await self.send(b"", relay_tup)

    async def send(self, data: bytes, dest_tup: Any = None) -> int:
        """Sends a datagram, of at most 1,400 bytes, to a peer."""
        to: Any = getattr(dest_tup, "tup", dest_tup) or self.remote
        if to is None:
            raise SettingError("a relayed address has no destination of its own")
        if self._allocation is None or self._transport.is_closing():
            raise PipeError("the pipe is closed")
        await self._node._up()[0].call(self._allocation.send(data, to[0], to[1]))
        return len(data)

    def __await__(self) -> Any:
        return self.start().__await__()

    async def _receive(self, allocation: _native.Allocation) -> None:
        runtime = self._node._up()[0]
        while True:
            message = await runtime.call(allocation.recv())
            if message is None:
                break
            if message[0]:
                self.datagram_received(*message)
        self._transport.close()

    async def _leave(self) -> None:
        if self._allocation is not None:
            await self._node._up()[0].call(self._allocation.close())
        await self._node.close()
        self.connection_lost(None)


async def _at(server: Union[Address, tuple[Any, ...]], af: int) -> At:
    """Looks a server's name up, for a family."""
    address = server if isinstance(server, Address) else Address(server[0], server[1])
    return address.tup or (await address.res(af)).tup


def _text(part: Any) -> str:
    return part.decode() if isinstance(part, bytes) else part or ""
