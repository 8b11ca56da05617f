"""Servers on many addresses and ports, and small HTTP services, as P2PD's documents have them."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, Awaitable, Callable, Iterable, Optional, Sequence, Union
from urllib.parse import unquote

from ._errors import RequestError, SettingError
from ._net import AF_ANY, IP4, IP6, TCP, Interface, Route, dict_child, pipe_open
from ._pipe import At, Pipe, _called

#: Servers take a port again at once, and a client may be away for as long.
DAEMON_CONF = {"reuse_addr": True}

Target = Union[Interface, Route, Sequence[Route]]


class Daemon:
    """A server. Derived classes have `async def msg_cb(self, msg, client_tup, pipe)`."""

    def __init__(self) -> None:
        #: The pipes of the listening sockets.
        self.servers: list[Pipe] = []
        self._msg_cb: Optional[Callable[[bytes, At, Pipe], Any]] = None

    async def msg_cb(self, msg: bytes, client_tup: At, pipe: Pipe) -> None:
        """Gets each message; here nothing is done with it."""

    def set_rp(self, rp: Any) -> None:
        """Takes the routes that the documents hand over, which pipes know by themselves."""

    async def listen_all(
        self,
        targets: Any,
        ports: Any,
        protos: Any,
        af: int = AF_ANY,
        msg_cb: Optional[Callable[[bytes, At, Pipe], Any]] = None,
        error_on_af: int = 0,
    ) -> Daemon:
        """Listens on each target, port and protocol, or on nothing if one of them cannot be had.

        Targets are interfaces and routes, ports numbers and `[first, last]`. The later documents' order, `(proto, port, interface)`, is taken too.
        """
        if isinstance(targets, int):
            targets, protos = [protos], [targets]
            ports = [ports]
        families: list[int] = [IP4, IP6] if af == AF_ANY else [af]
        sources = [source for target in targets for source in _sources(target, families, bool(error_on_af))]
        if not sources:
            raise SettingError("no target has an address of this family")
        numbers = [port for entry in ports for port in _ports(entry)]
        wanted = [(source.at(port, source.source), proto) for source in sources for port in numbers for proto in protos]
        await self._listen(wanted, msg_cb)
        return self

    async def listen_specific(
        self, targets: Iterable[Sequence[Any]], msg_cb: Optional[Callable[[bytes, At, Pipe], Any]] = None
    ) -> Daemon:
        """Listens on `[route, protocol]` pairs, whose routes are bound."""
        await self._listen([(route, proto) for route, proto in targets], msg_cb)
        return self

    async def add_listener(self, proto: int, route: Route) -> Pipe:
        """Listens on one bound route, and returns the server's pipe."""
        return (await self._listen([(route, proto)], None))[0]

    async def listen_loopback(self, proto: int, port: int, nic: Optional[Interface] = None) -> Pipe:
        """Listens on 127.0.0.1."""
        route = Route(nic or Interface("lo"), [], [], "127.0.0.1").at(port)
        return await self.add_listener(proto, route)

    async def close(self) -> None:
        """Ends the serving."""
        servers, self.servers = self.servers, []
        await asyncio.gather(*(server.close() for server in servers))

    async def _listen(
        self, wanted: list[tuple[Route, int]], msg_cb: Optional[Callable[[bytes, At, Pipe], Any]]
    ) -> list[Pipe]:
        callback = msg_cb or self.msg_cb
        opened: list[Pipe] = []
        try:
            for route, proto in wanted:
                opened.append(await pipe_open(proto, route=route, msg_cb=callback, conf=DAEMON_CONF))
        except BaseException:
            await asyncio.gather(*(server.close() for server in opened))
            raise
        self.servers += opened
        return opened


def _ports(entry: Union[int, Sequence[int]]) -> Iterable[int]:
    return [entry] if isinstance(entry, int) else range(entry[0], entry[1] + 1)


def _sources(target: Target, families: list[int], strict: bool) -> list[Route]:
    if isinstance(target, Route):
        return [target] if target.af in families else []
    if not isinstance(target, Interface):
        return [route for route in target if route.af in families]
    missing = [family for family in families if not target.rp[family]]
    if missing and strict:
        raise SettingError(f"the interface {target.name} has no address of a family")
    found = [target.route(family) for family in families if family not in missing]
    if IP6 in families:
        # Inside and outside are two addresses of IPv6.
        known = {route.source for route in found}
        inside = [ip.ip for route in found if route.af == IP6 for ip in route.nic_ips]
        found += [Route(target, [], [], ip) for ip in dict.fromkeys(inside) if ip not in known]
    return found


# ---- HTTP

_REASONS = {200: "OK", 400: "Bad Request", 403: "Forbidden"}
#: Origins of pages that may ask: this machine's own.
_ORIGINS = re.compile(r"https?://(127\.0\.0\.1|localhost|\[::1\])(:[0-9]+)?")
#: Hosts that may be asked for: a page of another site may have its own name lead here.
_HOSTS = re.compile(r"([0-9.]+|localhost|\[[0-9a-fA-F:.]+\])(:[0-9]+)?")
MAX_HEAD = 16 * 1024


class Request:
    """An HTTP request that came in one message."""

    def __init__(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        self.command, self.path, self.hdrs, self.body = method, path, headers, body

    def api(self, pattern: str) -> Union[bool, dict[str, str], tuple[Any, ...]]:
        """Returns what a pattern finds at the beginning of the path: its named groups, else its groups, else whether it does."""
        found = re.match(pattern, self.path)
        if found is None:
            return False
        return found.groupdict() or found.groups() or True


async def rest_service(msg: bytes, client_tup: At, pipe: Pipe) -> Request:
    """Reads a request, which came in one message. What is none is answered, and so is a page of another site; both raise `RequestError`."""
    head, _, body = msg.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(head) > MAX_HEAD or len(words) != 3 or not words[2].startswith("HTTP/1."):
        await _answer(pipe, client_tup, 400, b'{"error": 1, "msg": "no request"}', None)
        raise RequestError("no HTTP request")
    headers = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines[1:])}
    # A body that came in part, or with bytes behind it, would go on as another request.
    if headers.get("content-length", "0") != str(len(body)) or "transfer-encoding" in headers:
        await _answer(pipe, client_tup, 400, b'{"error": 1, "msg": "the request has to come in one message"}', None)
        raise RequestError("the request did not come in one message")
    origin = headers.get("origin")
    # A page's request without an origin says by this one where it comes from.
    site = headers.get("sec-fetch-site", "none")
    foreign = site not in ("none", "same-origin") if origin is None else not _ORIGINS.fullmatch(origin)
    if foreign or not _HOSTS.fullmatch(headers.get("host", "localhost")):
        await _answer(pipe, client_tup, 403, b'{"error": 5, "msg": "Invalid origin."}', None)
        raise RequestError("the request is a page's of another site")
    return Request(words[0], unquote(words[1]), headers, body)


async def send_json(answer: Any, req: Request, client_tup: At, pipe: Pipe) -> None:
    """Answers a request with JSON."""
    await _answer(pipe, client_tup, 200, json.dumps(answer, indent=4, sort_keys=True).encode(), req.hdrs.get("origin"))


async def _answer(pipe: Pipe, client_tup: At, status: int, body: bytes, origin: Optional[str]) -> None:
    allowed = f"Access-Control-Allow-Origin: {origin}\r\n" if origin else ""
    head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{allowed}\r\n"
    await pipe.send(head.encode() + body, client_tup)
