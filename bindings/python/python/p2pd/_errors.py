"""Exceptions. Their texts are those of the Rust crates, which the troubleshooting page explains."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Optional


class Error(Exception):
    """Base of all exceptions of this package."""


class SettingError(Error, ValueError):
    """A setting, an address, a name or a server list that cannot be."""


class BindError(Error, OSError):
    """The node could not be started, for example because its port is taken."""


class ConnectError(Error, ConnectionError):
    """The call gave no pipe. `report` has what each strategy tried, where the call began."""

    report: Optional[Any] = None


class NamingError(Error):
    """A name that was not found, not taken or not given up."""


class PipeError(Error, ConnectionError):
    """The pipe has ended, or broke."""


class RecvTimeout(Error, asyncio.TimeoutError):
    """No message came in time."""


class RelayError(Error):
    """No TURN server gave a relayed address."""


class StunError(Error):
    """The STUN server told no address."""


class RequestError(Error):
    """A message that was no HTTP request, or a page's of another site. It was answered, and pipes do not report it."""


class Ended(Error):
    """The runtime has ended under a call: its loop is over."""


_KINDS: dict[str, type[Error]] = {
    "setting": SettingError,
    "bind": BindError,
    "connect": ConnectError,
    "name": NamingError,
    "pipe": PipeError,
    "allocate": RelayError,
    "stun": StunError,
}


def made(kind: str, text: str, detail: Optional[str]) -> Error:
    """Makes the exception of a failed call."""
    error = _KINDS[kind](text)
    if detail is not None and isinstance(error, ConnectError):
        error.report = json.loads(detail)
    return error
