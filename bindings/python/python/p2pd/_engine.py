"""The runtime beside an event loop: a thread of Rust's, which never enters the interpreter.

A call gives a number at once. Results are taken by the loop itself, all there are at a time, when a socket says so. So a loop that has
ended is not called any more, and no result waits for the interpreter's lock.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import socket
import weakref
from contextlib import contextmanager
from typing import Any, Iterator, Optional

from . import _native
from ._errors import Ended, made

#: Log of what no call waits for.
log = logging.getLogger("p2pd")


class Engine:
    """The runtime of one loop. It ends with the last of its users: nodes and carried pipes."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.native, number = _native.Engine.start()
        self._woken = socket.socket(fileno=number)
        self._woken.setblocking(False)
        self._loop = weakref.ref(loop)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._users = 0
        self._listener: Optional[asyncio.Task[None]] = None
        try:
            loop.add_reader(self._woken, self._take)
        except NotImplementedError:
            # Windows' proactor loop watches no sockets, and reads them instead.
            self._listener = loop.create_task(self._listen(loop))

    async def call(self, number: int) -> Any:
        """Waits for a call's result. Whoever is cancelled gives the call up."""
        loop = self._loop()
        if loop is None or self._woken.fileno() < 0:
            raise Ended("the runtime has ended")
        future = self._waiting[number] = loop.create_future()
        try:
            return await future
        except asyncio.CancelledError:
            self.native.cancel(number)
            raise
        finally:
            self._waiting.pop(number, None)

    def hold(self) -> None:
        """Counts a user."""
        self._users += 1

    def release(self) -> None:
        """Takes a user away."""
        self._users -= 1
        if not self._users:
            self.close(wait=False)

    def abandon(self) -> None:
        """Takes a user away that was forgotten. The collector may say so in any thread."""
        loop = self._loop()
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self.release)

    def close(self, wait: bool) -> None:
        """Ends the runtime and the calls under way."""
        loop = self._loop()
        if loop is not None and _known(loop) is self:
            del _engines[loop]
        if loop is not None and not loop.is_closed():
            if self._listener is None:
                loop.remove_reader(self._woken)
            else:
                self._listener.cancel()
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(Ended("the runtime has ended"))
        self.native.close(wait)
        self._woken.close()

    def _take(self) -> None:
        try:
            self._woken.recv(4096)
        except BlockingIOError:
            pass
        for number, well, value in self.native.take():
            if number == 0:
                log.error("%s", value[1])
            future = self._waiting.get(number)
            # What nobody waits for any more is dropped: a pipe ends so.
            if future is None or future.done():
                continue
            if well:
                future.set_result(value)
            else:
                future.set_exception(made(*value))

    async def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        # One byte is one batch, and what comes meanwhile is another one.
        while await loop.sock_recv(self._woken, 1):
            self._take()


#: What a runtime waits for holds its loop, so it may not be held here: the loop itself does, by its reader, and then its users.
_engines: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[Engine]] = weakref.WeakKeyDictionary()
_all: weakref.WeakSet[Engine] = weakref.WeakSet()


def engine() -> Engine:
    """Returns the runtime of the running loop, and starts it if there is none."""
    loop = asyncio.get_running_loop()
    found = _known(loop)
    if found is None:
        found = Engine(loop)
        _engines[loop] = weakref.ref(found)
        _all.add(found)
    return found


def _known(loop: asyncio.AbstractEventLoop) -> Optional[Engine]:
    known = _engines.get(loop)
    return None if known is None else known()


@contextmanager
def held() -> Iterator[Engine]:
    """Is a user of the loop's runtime for a while."""
    found = engine()
    found.hold()
    try:
        yield found
    finally:
        found.release()


@atexit.register
def _leave() -> None:
    for found in list(_all):
        found.close(wait=True)
