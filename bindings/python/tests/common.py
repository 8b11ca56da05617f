"""Servers for the tests: those of the program, on loopback. P2PD_PROGRAM names it."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import tempfile
import time
import unittest
from pathlib import Path
from typing import Any

import p2pd

#: Longer than anything here takes, even on a busy machine.
LONG = 30.0
HERE = "127.0.0.1"


class Servers:
    """A broker, a STUN server with two addresses, and a TURN server for alice."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.list = Path(self.folder.name) / "servers.toml"
        users = Path(self.folder.name) / "users"
        users.touch(mode=0o600)
        users.write_text("alice:secret\n")
        program = os.environ.get("P2PD_PROGRAM", "p2pd")
        ports = ["--mqtt-port", "0", "--stun-port", "0", "--turn-users", str(users)]
        command = [program, "serve", "--quiet", "--bind", HERE, "--second", "127.0.0.2", "--write", str(self.list), *ports]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        end = time.monotonic() + LONG
        while not self.list.exists() or "[[turn]]" not in self.list.read_text():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("no servers: P2PD_PROGRAM has to name the program")
            time.sleep(0.02)

    def port(self, section: str) -> int:
        """Returns the port of a kind of server."""
        lines = self.list.read_text().split(f"[[{section}]]")[1].splitlines()
        return int(next(line for line in lines if line.startswith("port")).split("=")[1])

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(LONG)
        self.folder.cleanup()


class Case(unittest.IsolatedAsyncioTestCase):
    """Tests that may use the servers. Their nodes have loopback alone, and errors of callbacks are errors."""

    servers: Servers
    wants_servers = False

    @classmethod
    def setUpClass(cls) -> None:
        p2pd.NODE_DEFAULTS.update(bind=HERE, servers=False)
        if cls.wants_servers:
            cls.servers = Servers()
            p2pd.NODE_DEFAULTS["servers"] = str(cls.servers.list)

    @classmethod
    def tearDownClass(cls) -> None:
        if cls.wants_servers:
            cls.servers.close()

    async def asyncSetUp(self) -> None:
        self.failures: list[Any] = []
        # unittest's loop says what takes 0.1 s, as much does on a busy machine.
        asyncio.get_running_loop().slow_callback_duration = LONG
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.failures.append(context))

    async def asyncTearDown(self) -> None:
        self.assertEqual(self.failures, [])

    async def two(self, **settings: Any) -> tuple[p2pd.Node, p2pd.Node, str]:
        """Starts two nodes, of which the second is to be called at the address."""
        a, b = await p2pd.Node(), await p2pd.Node(**settings)
        self.addAsyncCleanup(a.close)
        self.addAsyncCleanup(b.close)
        return a, b, await b.address()


def threads(name: str = "p2pd") -> int:
    """Counts the threads of this process that have such a name; other systems than Linux show none."""
    folder = Path("/proc/self/task")
    names = []
    for task in folder.iterdir() if folder.exists() else ():
        try:
            names.append((task / "comm").read_text().strip())
        except OSError:
            pass
    return sum(each.startswith(name) for each in names)


def free_port() -> int:
    """Returns a port that nobody has."""
    with socket.socket() as probe:
        probe.bind((HERE, 0))
        return int(probe.getsockname()[1])


async def until(condition: Any, seconds: float = LONG) -> None:
    """Waits for something to be true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("it did not come true in time")
        await asyncio.sleep(0.01)
