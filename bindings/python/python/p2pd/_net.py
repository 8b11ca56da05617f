"""Interfaces, routes, addresses and sockets, as P2PD's documents have them."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import socket
import ssl
import struct
from typing import Any, Iterable, NamedTuple, Optional, Sequence, Union

from ._engine import held
from ._errors import BindError, ConnectError, SettingError
from ._node import NODE_DEFAULTS
from ._pipe import MAX_MESSAGES, At, Callback, Pipe

IP4, IP6 = socket.AF_INET, socket.AF_INET6
#: Every family that there is.
AF_ANY = socket.AF_UNSPEC
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM

#: Port that nodes of P2PD's examples listen on, which add to it.
NODE_PORT = 10001
#: Number of brokers in an address. A node has two of its list there, whatever is asked for.
SIGNAL_PIPE_NO = 2

#: Options of a pipe. `use_ssl`: TLS with a certificate that is checked. Other names of P2PD's may be given and change nothing.
NET_CONF: dict[str, Any] = {
    "con_timeout": 2,
    "max_qsize": MAX_MESSAGES,
    "reuse_addr": False,
    "broadcast": False,
    "reader_limit": 1 << 16,
    "sock_only": False,
    "linger": None,
    "use_ssl": False,
}


def dict_child(child: dict[str, Any], parent: dict[str, Any]) -> dict[str, Any]:
    """Returns a parent's options with a child's in their place."""
    return {**parent, **child}


class IPRange(NamedTuple):
    """Addresses that begin with the same bits."""

    ip: str
    cidr: int
    af: int

    @staticmethod
    def one(ip: str) -> IPRange:
        """A range of one address."""
        six = ":" in ip
        return IPRange(ip, 128 if six else 32, int(IP6 if six else IP4))

    def to_dict(self) -> dict[str, Any]:
        """Returns it as the documents print it."""
        return dict(self._asdict())


class Route:
    """Addresses of an interface, and the external one that they lead out as. Bound, it is a source for pipes and servers."""

    def __init__(self, interface: Interface, nic_ips: Sequence[IPRange], ext_ips: Sequence[IPRange], source: str) -> None:
        self.interface, self.nic_ips, self.ext_ips, self.source = interface, list(nic_ips), list(ext_ips), source
        self.af = IP6 if ":" in source else IP4
        self.bound: Optional[At] = None

    def nic(self) -> str:
        """Returns the interface's address."""
        return self.nic_ips[0].ip if self.nic_ips else self.source

    def ext(self) -> str:
        """Returns the external address; the interface's own where none was measured."""
        return self.ext_ips[0].ip if self.ext_ips else self.source

    async def bind(self, port: int = 0, ips: Optional[str] = None) -> Route:
        """Returns a copy with a source address. Port 0: the system chooses."""
        return self.at(port, ips)

    def at(self, port: int, ips: Optional[str] = None) -> Route:
        """Binds as `bind` does."""
        copy = Route(self.interface, self.nic_ips, self.ext_ips, ips or self.source)
        copy.bound = _bindable(copy.source, port, self.interface.index)
        return copy

    def to_dict(self) -> dict[str, Any]:
        """Returns it as the documents print it."""
        nic, ext = ([ip.to_dict() for ip in ips] for ips in (self.nic_ips, self.ext_ips))
        return {"af": int(self.af), "nic_ips": nic, "ext_ips": ext}

    def __repr__(self) -> str:
        return f"Route.from_dict({json.dumps(self.to_dict(), indent=4)})"


class Interface:
    """A network card. `await Interface()` takes the one with the default route, and measures how the internet sees it.

    `netifaces` may be given, as in the documents, and is not needed. Without STUN servers nothing is measured.
    """

    def __init__(self, name: Optional[str] = None, netifaces: Any = None) -> None:
        self.wanted = name
        self.name = name or ""
        self.index = 0
        self.rp: dict[int, list[Route]] = {IP4: [], IP6: []}
        #: Type and delta of the NAT, by P2PD's numbers; these are the defaults, for what is not measured.
        self.nat: dict[str, Any] = {
            "type": 5,
            "nat_info": "restrict port",
            "delta": {"type": 6, "value": 0},
            "delta_info": "random delta (local port == rand port)",
        }

    async def start(self) -> Interface:
        """Lists the addresses, and measures the external ones by the STUN servers of NODE_DEFAULTS."""
        await self.start_local()
        await self._measure()
        return self

    async def start_local(self) -> Interface:
        """Lists the addresses alone."""
        card = _chosen(await _cards(), self.wanted)
        self.name, self.index = card["name"], card["index"]
        self.rp = {IP4: [], IP6: []}
        for ip, _ in card["addresses"]:
            range_ = IPRange.one(ip)
            self.rp[range_.af].append(Route(self, [range_], [range_], ip))
        # A link-local address is nothing to begin with.
        self.rp[IP6].sort(key=lambda route: ipaddress.ip_address(route.source).is_link_local)
        return self

    async def load_nat(self) -> dict[str, Any]:
        """Returns the NAT in front of the interface, and measures it."""
        await self._measure()
        return self.nat

    async def _measure(self) -> None:
        servers = NODE_DEFAULTS["servers"]
        ours = {route.source for routes in self.rp.values() for route in routes}
        with held() as runtime:
            if not await runtime.call(runtime.native.stun_servers(servers)):
                return
            bind = NODE_DEFAULTS["bind"]
            reports, table = await runtime.call(runtime.native.nats(servers, bind if bind in ours else None))
        for report in json.loads(reports):
            if report["local"] in ours and report["type"] is not None:
                self.nat = {key: report[key] for key in self.nat}
                break
        measured: dict[int, list[Route]] = {IP4: [], IP6: []}
        for row in json.loads(table)["rows"]:
            if row["index"] == self.index:
                nic = [IPRange(each["ip"], each["cidr"], each["af"]) for each in row["nic"]]
                ext = IPRange(row["ext"]["ip"], row["ext"]["cidr"], row["ext"]["af"])
                route = Route(self, nic, [ext], row["source"])
                measured[int(route.af)].append(route)
        for family, routes in measured.items():
            if routes:
                self.rp[family] = routes

    def supported(self) -> list[int]:
        """Returns the families that the interface has addresses of, IPv4 first."""
        return [family for family in (IP4, IP6) if self.rp[family]]

    def route(self, af: Optional[int] = None) -> Route:
        """Returns the first route of a family; `None`: of the first family that there is."""
        families = self.supported() if af is None else [af]
        if not families or not self.rp[families[0]]:
            raise SettingError(f"the interface {self.name} has no address of this family")
        return self.rp[families[0]][0]

    def to_dict(self) -> dict[str, Any]:
        """Returns it as the documents print it."""
        routes = {str(int(family)): [route.to_dict() for route in routes] for family, routes in self.rp.items()}
        return {"name": self.name, "nat": self.nat, "rp": routes}

    @staticmethod
    def from_dict(parts: dict[str, Any]) -> Interface:
        """Makes an interface of what `to_dict` gave."""
        made = Interface(parts["name"])
        made.nat = parts["nat"]
        for family, routes in parts["rp"].items():
            for route in routes:
                nic, ext = ([IPRange(**ip) for ip in route[key]] for key in ("nic_ips", "ext_ips"))
                made.rp.setdefault(int(family), []).append(Route(made, nic, ext, (nic or ext)[0].ip))
        return made

    def __repr__(self) -> str:
        return f"Interface.from_dict({json.dumps(self.to_dict(), indent=4)})"

    def __await__(self) -> Any:
        return self.start().__await__()


class Netifaces:
    """The calls of the package netifaces, by what the system said when `init_p2pd` was called."""

    def __init__(self, cards: list[dict[str, Any]]) -> None:
        self._cards = {card["name"]: card for card in cards}

    def interfaces(self) -> list[str]:
        """Returns the names of all interfaces."""
        return list(self._cards)

    def ifaddresses(self, name: str) -> dict[int, list[dict[str, str]]]:
        """Returns the addresses of an interface, by family."""
        found: dict[int, list[dict[str, str]]] = {}
        for ip, prefix in self._cards[name]["addresses"]:
            mask = str(ipaddress.ip_network(f"{ip}/{prefix}", strict=False).netmask)
            found.setdefault(int(IP6 if ":" in ip else IP4), []).append({"addr": ip, "netmask": mask})
        return found

    def gateways(self) -> dict[Any, Any]:
        """Returns the default gateways, by family."""
        found: dict[Any, Any] = {"default": {}}
        for name, card in self._cards.items():
            for ip in card["gateways"]:
                family = int(IP6 if ":" in ip else IP4)
                first = family not in found["default"] and card["default_route"]
                found.setdefault(family, []).append((ip, name, first))
                if first:
                    found["default"][family] = (ip, name)
        return found


async def init_p2pd() -> Netifaces:
    """Lists the machine's interfaces. Nothing else has to be prepared."""
    return Netifaces(await _cards())


async def list_interfaces() -> list[str]:
    """Returns the names of the interfaces that are up and have an address, without loopback."""
    return [card["name"] for card in await _cards() if _is_usable(card)]


async def load_interfaces(if_names: Optional[Iterable[str]] = None, netifaces: Any = None) -> list[Interface]:
    """Starts these interfaces; `None`: all that are up and have an address, without loopback."""
    names = await list_interfaces() if if_names is None else list(if_names)
    return list(await asyncio.gather(*(Interface(name).start() for name in names)))


async def _cards() -> list[dict[str, Any]]:
    with held() as runtime:
        cards: list[dict[str, Any]] = json.loads(await runtime.call(runtime.native.cards()))
    return cards


def _is_usable(card: dict[str, Any]) -> bool:
    outside = (ip for ip, _ in card["addresses"] if not ipaddress.ip_address(ip).is_loopback)
    return bool(card["up"]) and next(outside, None) is not None


def _chosen(cards: list[dict[str, Any]], name: Optional[str]) -> dict[str, Any]:
    if name is not None:
        for card in cards:
            if card["name"] == name:
                return card
        raise SettingError(f"there is no interface {name!r}; there are: {', '.join(card['name'] for card in cards)}")
    # With an address to bind, its card; else the default route's, else any, else loopback.
    bind = NODE_DEFAULTS["bind"]
    return max(cards, key=lambda card: (
        any(ip == bind for ip, _ in card["addresses"]), card["default_route"], _is_usable(card), bool(card["addresses"])
    ))


def _bindable(ip: str, port: int, index: int) -> At:
    if ":" not in ip:
        return (ip, port)
    return (ip, port, 0, index if ipaddress.ip_address(ip).is_link_local else 0)


class Address:
    """A host, by name or by address, and a port. `await Address(host, port).res()` looks the name up."""

    def __init__(self, host: str, port: int, route: Optional[Route] = None) -> None:
        self.host, self.port, self.route = host, port, route
        self.af: int = AF_ANY
        #: What sockets take, once it is looked up.
        self.tup: At = ()

    async def res(self, af: int = AF_ANY) -> Address:
        """Looks the name up, for this family, or that of the route where there is one."""
        family = af if self.route is None else self.route.af
        try:
            found = await asyncio.get_running_loop().getaddrinfo(self.host, self.port, family=family, type=TCP)
        except OSError as error:
            raise ConnectError(f"{self.host}: {error}") from error
        self.af, self.tup = found[0][0], found[0][4]
        return self

    def __await__(self) -> Any:
        return self.res().__await__()


Dest = Union[Address, Sequence[Any]]


class Server(Pipe):
    """A TCP server. Its callbacks and queues are those of every client; `await server` gives the next client's pipe."""

    def __init__(self, most: int) -> None:
        super().__init__(most=most)
        self._server: Optional[asyncio.base_events.Server] = None
        self._arrived: asyncio.Queue[Pipe] = asyncio.Queue(MAX_MESSAGES)
        self._clients: set[Pipe] = set()

    def client(self) -> Pipe:
        """Makes the pipe of a client."""
        pipe = Pipe(inherited=self._callbacks, most=self._most, parent=self)
        pipe.route = self.route
        self._clients.add(pipe)
        pipe.add_end_cb(lambda *_: self._clients.discard(pipe))
        # Whoever does not wait for clients lets the oldest go; it is served by callbacks all the same.
        if self._arrived.full():
            self._arrived.get_nowait()
        self._arrived.put_nowait(pipe)
        return pipe

    def _catch_up(self) -> None:
        for pipe in list(self._clients):
            pipe._catch_up()

    def _pace(self) -> None:
        for pipe in list(self._clients):
            pipe._pace()

    async def send(self, data: bytes, dest_tup: Any = None) -> int:
        """Sends to the client with this address."""
        for pipe in list(self._clients):
            if pipe.remote is not None and dest_tup is not None and tuple(pipe.remote[:2]) == tuple(dest_tup[:2]):
                return await pipe.send(data)
        raise SettingError("a server sends to the address of one of its clients")

    async def close(self) -> None:
        """Ends the serving and closes the pipes of all clients."""
        if self._server is not None:
            self._server.close()
            await asyncio.gather(*(pipe.close() for pipe in list(self._clients)))
            self.connection_lost(None)

    @property
    def sock(self) -> Any:
        """The listening socket."""
        sockets = self._server.sockets if self._server is not None else ()
        return sockets[0] if sockets else None

    def __await__(self) -> Any:
        return self._arrived.get().__await__()


async def pipe_open(
    proto: int,
    dest: Optional[Dest] = None,
    route: Optional[Route] = None,
    sock: Optional[socket.socket] = None,
    msg_cb: Optional[Callback] = None,
    conf: Optional[dict[str, Any]] = None,
) -> Any:
    """Opens a pipe: with a destination a client, without one a server, over TCP or UDP.

    `route` is the source, `sock` a socket that exists, and connected where there is a destination. `msg_cb` gets messages from the first one on.
    It raises `ConnectError` and `BindError`.
    """
    options = dict_child(conf or {}, NET_CONF)
    if dest is None and route is None and sock is None:
        route = (await Interface().start_local()).route().at(0)
    to: Optional[Address] = None
    if dest is not None:
        to = dest if isinstance(dest, Address) else Address(dest[0], dest[1], route)
        if not to.tup:
            await to.res()
    connected = sock is not None
    if sock is None:
        sock = _socket(proto, to.af if to is not None else route.af if route is not None else IP4, route, options)
    made = False
    try:
        pipe = await _piped(proto, to, sock, connected, msg_cb, options)
        made = True
    finally:
        if not made:
            sock.close()
    if isinstance(pipe, Pipe):
        pipe.route = route
    return pipe


async def _piped(
    proto: int, to: Optional[Address], sock: socket.socket, connected: bool, msg_cb: Optional[Callback], options: dict[str, Any]
) -> Any:
    loop = asyncio.get_running_loop()
    most = options["max_qsize"]
    if proto == TCP and to is None:
        server = Server(most)
        if msg_cb is not None:
            server.add_msg_cb(msg_cb)
        server._server = await loop.create_server(server.client, sock=sock)
        return server
    pipe = Pipe(remote=None if to is None else to.tup, most=most)
    if msg_cb is not None:
        pipe.add_msg_cb(msg_cb)
    if proto == UDP:
        if options["sock_only"]:
            return sock
        await loop.create_datagram_endpoint(lambda: pipe, sock=sock)
        return pipe
    assert to is not None
    if not connected:
        try:
            await asyncio.wait_for(loop.sock_connect(sock, to.tup), options["con_timeout"])
        except asyncio.TimeoutError:
            raise ConnectError(f"{to.host}:{to.port}: no answer within {options['con_timeout']} s") from None
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else error
            raise ConnectError(f"{to.host}:{to.port}: {why}") from error
    if options["sock_only"]:
        return sock
    if options["use_ssl"]:
        context = ssl.create_default_context()
        await loop.create_connection(lambda: pipe, sock=sock, ssl=context, server_hostname=to.host)
    else:
        await loop.create_connection(lambda: pipe, sock=sock)
    return pipe


def _socket(proto: int, af: int, route: Optional[Route], options: dict[str, Any]) -> socket.socket:
    sock = socket.socket(af, proto)
    try:
        sock.setblocking(False)
        # Elsewhere, and of datagrams, it would let another program take the port.
        if options["reuse_addr"] and proto == socket.SOCK_STREAM and os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if options["broadcast"]:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if options["linger"] is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, options["linger"]))
        if route is not None:
            if route.bound is None:
                raise SettingError("the route is not bound: await route.bind()")
            if af == IP6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(route.bound)
    except OSError as error:
        sock.close()
        raise BindError(f"cannot bind {route.bound if route else ''}: {error}") from error
    except BaseException:
        sock.close()
        raise
    return sock
