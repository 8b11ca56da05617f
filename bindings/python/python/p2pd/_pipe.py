"""Pipes: of messages, as P2PD's documents have them, and asyncio's streams.

A message is a datagram, or the bytes of one read of a stream. It goes into every queue that it matches, to the callbacks one after another,
and to linked pipes. A stream is not read while nobody wants its messages, nor while callbacks are behind: its peer has to wait.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import socket
from collections import deque
from dataclasses import dataclass
from typing import Any, Awaitable, Callable, Optional, Sequence, Union

from . import _native
from ._engine import Engine
from ._errors import Ended, PipeError, RecvTimeout, RequestError, SettingError

At = tuple[Any, ...]
Callback = Callable[[bytes, At, "Pipe"], Union[Awaitable[Any], Any]]
EndCallback = Callable[[None, Optional[At], "Pipe"], Union[Awaitable[Any], Any]]
Part = Union[None, bytes, str, tuple[str, int]]
Subscription = Sequence[Part]

#: Subscription to every message from everybody.
SUB_ALL: Subscription = (b"", b"")

#: Most messages of a queue, and most bytes.
MAX_MESSAGES, MAX_BYTES = 1000, 1 << 20
#: Most messages that wait for callbacks before a stream is no longer read.
BEHIND = 16
#: Seconds that `close` waits for a peer that does not read.
FAREWELL = 5.0


@dataclass(frozen=True)
class PipeInfo:
    """What is known of a pipe to a peer: its proven node id, the strategy that opened it, and its ends."""

    peer: str
    strategy: str
    encrypted: bool
    protocol: Optional[bytes]
    local_addr: tuple[str, int]
    remote_addr: tuple[str, int]
    elapsed: float

    @staticmethod
    def of(pipe: _native.Pipe) -> PipeInfo:
        """Reads it from the native pipe."""
        return PipeInfo(
            pipe.peer, pipe.strategy, pipe.encrypted, pipe.protocol, pipe.local, pipe.remote, pipe.elapsed
        )


class _Carried:
    """A socket with a pipe's bytes, and the runtime that carries them where it is not the pipe's own."""

    def __init__(self, engine: Engine, pipe: _native.Pipe) -> None:
        self.info = PipeInfo.of(pipe)
        number, carried = pipe.take()
        self.socket = socket.socket(fileno=number)
        self.socket.setblocking(False)
        self._engine, self._pipe, self._carried = engine, pipe, carried
        self._over: Optional[asyncio.Task[None]] = None
        if carried:
            engine.hold()

    def error(self) -> Optional[str]:
        """Returns why the pipe broke, once its socket has ended."""
        return self._pipe.error() if self._carried else None

    def closed(self) -> None:
        """Says that asyncio's end is closed."""
        if self._carried and self._over is None:
            self._pipe.close()
            self._over = asyncio.ensure_future(self._end())

    async def over(self) -> None:
        """Waits until all is sent, or given up after 5 s."""
        if self._over is not None:
            await asyncio.shield(self._over)

    def __del__(self) -> None:
        if getattr(self, "_carried", False) and self._over is None:
            self._pipe.close()
            self._engine.abandon()

    async def _end(self) -> None:
        try:
            await self._engine.call(self._pipe.over())
        except Ended:
            pass
        finally:
            self._engine.release()


class _Queue:
    """Messages of one subscription. A full one loses the oldest."""

    def __init__(self, sub: tuple[bytes, bytes], most: int) -> None:
        self.message, self.sender = (re.compile(part) if part else None for part in sub)
        self.most = most or MAX_MESSAGES
        self.messages: deque[tuple[bytes, At]] = deque()
        self.bytes = 0
        self.dropped = 0
        self.waiters: deque[asyncio.Future[None]] = deque()

    def matches(self, data: bytes, sender: At) -> bool:
        if self.sender is not None and not self.sender.search(f"{sender[0]}:{sender[1]}".encode()):
            return False
        return self.message is None or self.message.search(data) is not None

    def put(self, data: bytes, sender: At) -> None:
        self.messages.append((data, sender))
        self.bytes += len(data)
        while len(self.messages) > self.most or (self.bytes > MAX_BYTES and len(self.messages) > 1):
            self.bytes -= len(self.messages.popleft()[0])
            self.dropped += 1
        self.wake()

    def pop(self) -> tuple[bytes, At]:
        data, sender = self.messages.popleft()
        self.bytes -= len(data)
        return data, sender

    def is_full(self) -> bool:
        return len(self.messages) >= self.most or self.bytes >= MAX_BYTES // 2

    def wake(self) -> None:
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                break

    def wake_all(self) -> None:
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)
        self.waiters.clear()


class Pipe(asyncio.Protocol):
    """A pipe of messages over TCP, UDP, or to a peer. `p2pd.pipe_open` and `Node.connect` make one."""

    #: What is known of the peer; `None` for pipes that no node opened.
    info: Optional[PipeInfo] = None
    #: The source that the pipe was opened by, as the documents have it.
    route: Any = None

    def __init__(
        self,
        *,
        remote: Optional[At] = None,
        inherited: Sequence[Callback] = (),
        most: int = MAX_MESSAGES,
        parent: Optional[Pipe] = None,
    ) -> None:
        self.remote = remote
        self._parent = parent
        self._inherited = inherited
        self._most = most
        self._transport: Any = None
        self._is_stream = True
        self._carried: Optional[_Carried] = None
        self._queues: dict[tuple[bytes, bytes], _Queue] = {}
        self._callbacks: list[Callback] = []
        self._end_callbacks: list[EndCallback] = []
        self._linked: list[Pipe] = []
        self._early: deque[tuple[bytes, At]] = deque(maxlen=BEHIND)
        self._inbox: deque[tuple[bytes, At]] = deque()
        self._worker: Optional[asyncio.Task[None]] = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ended: Optional[str] = None

    # ---- as P2PD's documents have it

    def subscribe(self, sub: Subscription = SUB_ALL, handler: Optional[Callback] = None) -> Pipe:
        """Opens a queue for messages that match, from senders whose `address:port` matches; both are patterns of `re`.

        With a handler the messages that match go to it, too.
        """
        key = _key(sub)
        self._open(key)
        if handler is not None:
            queue, wanted = self._queues[key], handler

            async def matching(data: bytes, sender: At, pipe: Pipe) -> None:
                if queue.matches(data, sender):
                    await _called(wanted(data, sender, pipe))

            self.add_msg_cb(matching)
        return self

    def unsubscribe(self, sub: Subscription = SUB_ALL) -> None:
        """Ends a subscription, with the messages in it."""
        queue = self._queues.pop(_key(sub), None)
        if queue is not None:
            queue.wake_all()
        self._pace()

    async def recv(self, sub: Subscription = SUB_ALL, timeout: Optional[float] = 2, full: bool = False) -> Any:
        """Waits for the next message of a subscription, which is opened if it is not. `timeout` 0 or `None`: without end.

        With `full` it gives the message with its sender. It raises `RecvTimeout`, and `PipeError` once the pipe has ended.
        """
        queue = self._open(_key(sub))
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout if timeout else None
        while not queue.messages:
            if self._ended is not None:
                raise PipeError(self._ended)
            if self._queues.get(_key(sub)) is not queue:
                raise PipeError("there is no such subscription")
            waiter = loop.create_future()
            queue.waiters.append(waiter)
            try:
                await asyncio.wait_for(waiter, None if end is None else max(end - loop.time(), 0))
            except (asyncio.TimeoutError, asyncio.CancelledError) as why:
                # It may have been woken for a message, which then is another waiter's.
                if waiter.done() and not waiter.cancelled():
                    queue.wake()
                elif waiter in queue.waiters:
                    queue.waiters.remove(waiter)
                if isinstance(why, asyncio.CancelledError):
                    raise
                raise RecvTimeout("no message came in time") from None
        data, sender = queue.pop()
        if queue.messages:
            queue.wake()
        self._pace()
        return [data, sender] if full else data

    async def send(self, data: bytes, dest_tup: Any = None) -> int:
        """Sends to the destination, or over UDP to any address. Returns the number of bytes.

        It waits while a peer reads slower than it is sent to. A stream has one destination, whatever is given.
        """
        if self._transport is None or self._transport.is_closing():
            raise PipeError(self._ended or "the pipe is closed")
        if self._is_stream:
            self._transport.write(data)
        else:
            to = getattr(dest_tup, "tup", dest_tup) or self.remote
            if to is None:
                raise SettingError("a UDP server has no destination of its own")
            self._transport.sendto(data, tuple(to))
        if not self._writable.is_set():
            await self._writable.wait()
            if self._ended is not None and self._lost.done():
                raise PipeError(self._ended)
        return len(data)

    def add_msg_cb(self, msg_cb: Callback) -> None:
        """Has each message given to `msg_cb(message, sender, pipe)`, which may be async and is waited for before the next."""
        self._callbacks.append(msg_cb)
        self._catch_up()

    def del_msg_cb(self, msg_cb: Callback) -> None:
        """Takes a callback away."""
        if msg_cb in self._callbacks:
            self._callbacks.remove(msg_cb)
        self._pace()

    def add_end_cb(self, end_cb: EndCallback) -> None:
        """Has `end_cb(None, destination, pipe)` called when the pipe is closed, or at once if it is."""
        if self._lost.done():
            self._start(_called(end_cb(None, self.remote, self)))
        else:
            self._end_callbacks.append(end_cb)

    def del_end_cb(self, end_cb: EndCallback) -> None:
        """Takes a callback of the end away."""
        if end_cb in self._end_callbacks:
            self._end_callbacks.remove(end_cb)

    def add_pipe(self, pipe: Pipe) -> None:
        """Sends each message of this pipe to another's destination, which is waited for."""
        if pipe not in self._linked:
            self._linked.append(pipe)
        self._catch_up()

    def del_pipe(self, pipe: Pipe) -> None:
        """Undoes `add_pipe`."""
        if pipe in self._linked:
            self._linked.remove(pipe)
        self._pace()

    async def close(self) -> None:
        """Closes the pipe once all is sent; a peer that does not read is waited for 5 s."""
        if self._transport is None:
            return
        self._transport.close()
        try:
            await asyncio.wait_for(asyncio.shield(self._lost), FAREWELL)
        except asyncio.TimeoutError:
            self._transport.abort()
            await self._lost
        if self._carried is not None:
            await self._carried.over()

    @property
    def sock(self) -> Any:
        """The socket, for its options, addresses and number. That of an encrypted or relayed pipe is a pair's."""
        return self._transport.get_extra_info("socket")

    # ---- of asyncio's kind

    def finish(self) -> None:
        """Ends the sending; the peer's messages go on coming."""
        self._transport.write_eof()

    def waiting(self, sub: Subscription = SUB_ALL) -> int:
        """Returns the number of messages in a queue."""
        queue = self._queues.get(_key(sub))
        return 0 if queue is None else len(queue.messages)

    def dropped(self, sub: Subscription = SUB_ALL) -> int:
        """Returns how many messages a full queue has lost."""
        queue = self._queues.get(_key(sub))
        return 0 if queue is None else queue.dropped

    async def __aenter__(self) -> Pipe:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __await__(self) -> Any:
        return self._itself().__await__()

    async def _itself(self) -> Pipe:
        return self

    # ---- asyncio's protocol

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._is_stream = not hasattr(transport, "sendto")
        if self.remote is None and self._is_stream:
            self.remote = transport.get_extra_info("peername")
        # Only then: until Python 3.11, what asyncio does next would begin to read again.
        asyncio.get_running_loop().call_soon(self._pace)

    def data_received(self, data: bytes) -> None:
        self._message(data, self.remote or ("", 0))

    def datagram_received(self, data: bytes, addr: At) -> None:
        self._message(data, addr)

    def error_received(self, exc: Exception) -> None:
        """What the system says of a datagram sent before: UDP promises nothing."""

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def eof_received(self) -> bool:
        error = self._carried.error() if self._carried is not None else None
        self._end(error or "the peer has ended the pipe")
        if self._worker is None:
            self._close_soon()
        return True

    def connection_lost(self, exc: Optional[Exception]) -> None:
        self._end(str(exc) if exc else "the pipe is closed")
        self._writable.set()
        if self._carried is not None:
            self._carried.closed()
        if not self._lost.done():
            self._lost.set_result(None)
        callbacks, self._end_callbacks = self._end_callbacks, []
        for callback in callbacks:
            self._start(_called(callback(None, self.remote, self)))

    # ---- inside

    def _message(self, data: bytes, sender: At) -> None:
        if self._parent is not None:
            self._parent._queued(data, sender)
        queued = self._queued(data, sender)
        if self._callbacks or self._inherited or self._linked:
            self._inbox.append((data, sender))
            if not self._is_stream and len(self._inbox) > MAX_MESSAGES:
                self._inbox.popleft()
            if self._worker is None:
                self._worker = asyncio.ensure_future(self._work())
        elif not queued and not self._queues:
            self._early.append((data, sender))
        self._pace()

    def _queued(self, data: bytes, sender: At) -> bool:
        matching = [queue for queue in self._queues.values() if queue.matches(data, sender)]
        for queue in matching:
            queue.put(data, sender)
        return bool(matching)

    async def _work(self) -> None:
        try:
            while self._inbox:
                await self._handle(*self._inbox.popleft())
                self._pace()
        finally:
            self._worker = None
        if self._ended is not None:
            self._close_soon()

    async def _handle(self, data: bytes, sender: At) -> None:
        for callback in [*self._inherited, *self._callbacks]:
            try:
                await _called(callback(data, sender, self))
            except RequestError:
                if self._is_stream:
                    # What follows on the stream is no request either: it may be a body that looks like one.
                    self._inbox.clear()
                    self._close_soon()
                    return
            except Exception as error:
                _report(error)
        for other in list(self._linked):
            try:
                await other.send(data)
            except PipeError:
                self.del_pipe(other)
            except Exception as error:
                _report(error)
                self.del_pipe(other)

    def _close_soon(self) -> None:
        if not self._transport.is_closing():
            self._transport.close()

    def _open(self, key: tuple[bytes, bytes]) -> _Queue:
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = _Queue(key, self._most)
            self._catch_up()
        return queue

    def _catch_up(self) -> None:
        """Hands out what came before anybody wanted it."""
        early, self._early = self._early, deque(maxlen=BEHIND)
        for data, sender in early:
            self._message(data, sender)
        self._pace()

    def _pace(self) -> None:
        """Reads a stream, or lets it wait."""
        if self._transport is None or not self._is_stream or self._transport.is_closing():
            return
        wanted = bool(self._queues or self._callbacks or self._inherited or self._linked)
        wanted = wanted or (self._parent is not None and bool(self._parent._queues))
        full = any(queue.is_full() for queue in self._queues.values())
        if wanted and not full and len(self._inbox) < BEHIND:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _end(self, why: str) -> None:
        if self._ended is None:
            self._ended = why
        for queue in self._queues.values():
            queue.wake_all()

    def _start(self, work: Awaitable[Any]) -> None:
        async def guarded() -> None:
            try:
                await work
            except Exception as error:
                _report(error)

        task = asyncio.ensure_future(guarded())
        _running.add(task)
        task.add_done_callback(_running.discard)


#: Tasks of callbacks, which asyncio itself holds weakly.
_running: set[asyncio.Future[Any]] = set()


async def _called(result: Any) -> None:
    if inspect.isawaitable(result):
        await result


def _report(error: Exception) -> None:
    loop = asyncio.get_running_loop()
    loop.call_exception_handler({"message": "a pipe's callback failed", "exception": error})


def _key(sub: Subscription) -> tuple[bytes, bytes]:
    if len(sub) != 2:
        raise SettingError("a subscription has two patterns: for the message and for the sender")
    return _part(sub[0]), _part(sub[1])


def _part(part: Part) -> bytes:
    if part is None:
        return b""
    if isinstance(part, tuple):
        port = str(part[1]) if part[1] else "[0-9]+"
        return f"^{re.escape(part[0])}:{port}$".encode()
    return part.encode() if isinstance(part, str) else part


async def message_pipe(engine: Engine, native: _native.Pipe, inherited: Sequence[Callback] = ()) -> Pipe:
    """Makes a pipe of messages of a node's pipe."""
    carried = _Carried(engine, native)
    pipe = Pipe(remote=carried.info.remote_addr, inherited=inherited)
    pipe.info, pipe._carried = carried.info, carried
    await asyncio.get_running_loop().create_connection(lambda: pipe, sock=carried.socket)
    return pipe


class Writer(asyncio.StreamWriter):
    """asyncio's writer, which knows its peer."""

    #: What is known of the peer.
    info: PipeInfo
    _carried: _Carried

    async def wait_closed(self) -> None:
        """Waits until all is sent and the pipe is closed."""
        await super().wait_closed()
        await self._carried.over()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Returns what asyncio knows of the socket. Names and ends are the pipe's."""
        ends = {"peername": self.info.remote_addr, "sockname": self.info.local_addr}
        return ends[name] if name in ends else super().get_extra_info(name, default)

    async def __aenter__(self) -> Writer:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
        await self.wait_closed()


class _Streams(asyncio.StreamReaderProtocol):
    def __init__(self, carried: _Carried, reader: asyncio.StreamReader) -> None:
        super().__init__(reader)
        # The base class holds it weakly where nobody was connected.
        self._reader, self._carried = reader, carried

    def eof_received(self) -> Optional[bool]:
        error = self._carried.error()
        if error is not None:
            self._reader.set_exception(PipeError(error))
        return super().eof_received()

    def connection_lost(self, exc: Optional[Exception]) -> None:
        super().connection_lost(exc)
        self._carried.closed()


async def streams(engine: Engine, native: _native.Pipe, limit: int) -> tuple[asyncio.StreamReader, Writer]:
    """Makes asyncio's streams of a node's pipe."""
    loop = asyncio.get_running_loop()
    carried = _Carried(engine, native)
    reader = asyncio.StreamReader(limit=limit, loop=loop)
    protocol = _Streams(carried, reader)
    transport, _ = await loop.create_connection(lambda: protocol, sock=carried.socket)
    writer = Writer(transport, protocol, reader, loop)
    writer.info, writer._carried = carried.info, carried
    return reader, writer
