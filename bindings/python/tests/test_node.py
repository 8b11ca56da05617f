"""Nodes: streams, messages, errors, and ends."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import p2pd
from common import HERE, LONG, Case, free_port, threads, until


class Streams(Case):
    async def both_ways(self, plain: bool) -> None:
        a, b, at = await self.two(allow_plain=True)
        data = os.urandom(1 << 20) * 5

        async def served(reader: asyncio.StreamReader, writer: p2pd.Writer) -> None:
            came = await reader.read(-1)
            writer.write(came[::-1])
            writer.write_eof()
            await writer.drain()
            writer.close()

        await b.start_server(served)
        reader, writer = await a.open_connection(at, plain=plain)
        self.assertEqual((writer.info.peer, writer.info.strategy), (b.node_id, "direct"))
        self.assertEqual(writer.info.encrypted, not plain)
        self.assertEqual(writer.get_extra_info("peername"), writer.info.remote_addr)
        async with writer:
            writer.write(data)
            writer.write_eof()
            self.assertEqual(await asyncio.wait_for(reader.read(-1), LONG), data[::-1])

    async def test_bytes_and_ends_go_both_ways_encrypted(self) -> None:
        await self.both_ways(plain=False)

    async def test_bytes_and_ends_go_both_ways_plain(self) -> None:
        await self.both_ways(plain=True)

    async def test_a_plain_pipe_is_a_bare_tcp_socket_and_an_encrypted_one_a_pair(self) -> None:
        a, b, at = await self.two(allow_plain=True)
        for plain, family in ((True, socket.AF_INET), (False, socket.AF_UNIX)):
            _, writer = await a.open_connection(at, plain=plain)
            self.assertEqual(writer.get_extra_info("socket").family, family)
            writer.close()
            await writer.wait_closed()

    async def test_what_was_written_before_close_arrives(self) -> None:
        a, b, at = await self.two()
        _, writer = await a.open_connection(at)
        there = await b.accept()
        assert there is not None
        data = os.urandom(3_000_000)
        writer.write(data)
        writer.close()

        async def all_of_it() -> bytes:
            came = b""
            while len(came) < len(data):
                came += await there.recv(timeout=LONG)
            return came

        came, _ = await asyncio.gather(all_of_it(), writer.wait_closed())
        self.assertEqual(came, data)
        with self.assertRaisesRegex(p2pd.PipeError, "the peer has ended the pipe"):
            await there.recv(timeout=LONG)

    async def test_a_cut_encrypted_pipe_is_an_error_and_no_end(self) -> None:
        a = await p2pd.Node()
        script = Path(self.folder()) / "cut.py"
        script.write_text(CUT)
        process, at = await asyncio.to_thread(started, script)
        reader, writer = await a.open_connection(at)
        self.assertEqual(await reader.readexactly(4), b"here")
        # The other end dies without a word.
        process.kill()
        process.wait()
        process.stdout.close()
        with self.assertRaisesRegex(p2pd.PipeError, "cut off"):
            await asyncio.wait_for(reader.read(), LONG)
        writer.close()
        await a.close()

    async def test_a_hundred_pipes_at_once(self) -> None:
        a, b, at = await self.two(allow_plain=True)

        async def echo(reader: asyncio.StreamReader, writer: p2pd.Writer) -> None:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
            writer.close()

        await b.start_server(echo)

        async def one(n: int) -> bool:
            reader, writer = await a.open_connection(at, plain=n % 2 == 0, timeout=LONG)
            data = bytes([n]) * 50_000
            writer.write(data)
            writer.write_eof()
            same = await reader.read(-1) == data
            writer.close()
            await writer.wait_closed()
            return same

        self.assertEqual(await asyncio.gather(*(one(n) for n in range(100))), [True] * 100)

    def folder(self) -> str:
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        return made.name


CUT = """
import asyncio, p2pd, sys
async def main():
    node = await p2pd.Node(servers=False, bind="127.0.0.1")
    print(await node.address(), flush=True)
    pipe = await node.accept()
    await pipe.send(b"here")
    await asyncio.sleep(60)
asyncio.run(main())
"""


def started(script: Path, *arguments: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen([sys.executable, str(script), *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


class Ways(Case):
    wants_servers = True

    async def test_each_strategy_opens_a_pipe(self) -> None:
        a = await p2pd.Node()
        b = await p2pd.Node(accept=[a.node_id])
        await a.address()
        at = await b.address()
        for number, word in (
            (p2pd.P2P_DIRECT, "direct"),
            (p2pd.P2P_REVERSE, "reverse"),
            (p2pd.P2P_PUNCH, "punch"),
            (p2pd.P2P_UDP, "udp"),
            (p2pd.P2P_RELAY, "relay"),
        ):
            for strategies in ([number], [word]):
                (reader, writer), there = await asyncio.gather(a.open_connection(at, strategies), b.accept())
                assert there is not None
                self.assertEqual((writer.info.strategy, there.info.strategy), (word, word))
                await there.send(b"over " + word.encode())
                self.assertEqual(await reader.readexactly(5 + len(word)), b"over " + word.encode())
                writer.close()
                await asyncio.gather(writer.wait_closed(), there.close())
        await a.close()
        await b.close()

    async def test_a_name_is_taken_called_and_given_up(self) -> None:
        a, b, at = await self.two()
        await a.address()
        self.assertEqual(await b.nickname("a-python"), "a-python.peer")
        self.assertEqual(await a.resolve("a-python"), at)
        pipe = await a.connect("a-python.peer")
        self.assertEqual(pipe.info.peer, b.node_id)
        await pipe.close()
        self.assertEqual(await b.release("a-python"), 1)
        with self.assertRaises(p2pd.NamingError):
            await a.resolve("a-python")
        with self.assertRaisesRegex(p2pd.SettingError, "a name has letters a-z"):
            await a.nickname("a name")


    async def test_a_name_that_has_another_key_than_before_is_refused(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            key = Path(folder) / "key"
            for last in (False, True):
                async with p2pd.Node() as owner, p2pd.Node(key=key) as caller:
                    await owner.nickname("of-two-keys")
                    if last:
                        with self.assertRaisesRegex(p2pd.NamingError, "key"):
                            await caller.resolve("of-two-keys")
                    else:
                        self.assertEqual(await caller.resolve("of-two-keys"), await owner.address())
                        pins = Path(f"{key}.names")
                        await until(pins.exists)
                    await owner.release("of-two-keys")
            # A file that cannot be written is told in the log, since no call waits for it.
            pins.unlink()
            async with p2pd.Node() as owner, p2pd.Node(key=key) as caller:
                pins.mkdir()
                with self.assertLogs("p2pd", "ERROR") as logged:
                    await owner.nickname("of-one-key")
                    await caller.resolve("of-one-key")
                    await until(lambda: logged.output)
                self.assertIn("file of names", logged.output[0])


class Calls(Case):
    async def test_errors_are_one_tree_and_have_our_texts(self) -> None:
        a, b, at = await self.two(allow_plain=False, protocols=[b"chat/1"])
        tried = (
            (p2pd.SettingError, "neither an address, which has four parts", lambda: a.connect("nonsense")),
            (p2pd.SettingError, "there is no strategy \"fly\"", lambda: a.connect(at, ["fly"])),
            (p2pd.SettingError, "a protocol has 1 to 64 bytes, not 0", lambda: a.connect(at, protocol=b"")),
            (p2pd.SettingError, "a timeout of -1 s", lambda: a.connect(at, timeout=-1)),
            (p2pd.ConnectError, "does not take the call's protocol", lambda: a.connect(at, [p2pd.P2P_DIRECT])),
            (
                p2pd.ConnectError,
                "gives encrypted pipes only",
                lambda: a.connect(at, [p2pd.P2P_DIRECT], plain=True, protocol=b"chat/1"),
            ),
            (p2pd.BindError, "cannot listen on 127.0.0.1", lambda: p2pd.Node(port=taken).start()),
            (p2pd.SettingError, "\"here\" is no IP address", lambda: p2pd.Node(bind="here").start()),
            (p2pd.SettingError, "No such file", lambda: p2pd.Node(servers="/none.toml").start()),
            (p2pd.SettingError, "P2PD_FORBID_PUBLIC_SERVERS", lambda: p2pd.Node(servers=True).start()),
        )
        os.environ["P2PD_FORBID_PUBLIC_SERVERS"] = "1"
        with socket.socket() as there:
            there.bind((HERE, 0))
            there.listen()
            taken = there.getsockname()[1]
            for kind, text, call in tried:
                with self.subTest(text), self.assertRaisesRegex(kind, text) as raised:
                    await call()
                self.assertIsInstance(raised.exception, p2pd.Error)
        self.assertTrue(issubclass(p2pd.ConnectError, ConnectionError) and issubclass(p2pd.SettingError, ValueError))
        self.assertTrue(issubclass(p2pd.RecvTimeout, asyncio.TimeoutError) and issubclass(p2pd.BindError, OSError))

    async def test_a_failed_call_has_a_report(self) -> None:
        a, b, at = await self.two()
        await b.close()
        with self.assertRaises(p2pd.ConnectError) as raised:
            await a.connect(at, [p2pd.P2P_DIRECT])
        [report] = raised.exception.report["strategies"]
        self.assertEqual((report["strategy"], report["outcome"]), ("direct", "failed"))

    async def test_whoever_cancels_gives_the_call_up(self) -> None:
        a, b, at = await self.two(accept=True)
        events = b.events()
        news = asyncio.ensure_future(self.first(events, "ask"))
        await asyncio.sleep(0)
        call = asyncio.ensure_future(a.connect(at, [p2pd.P2P_DIRECT]))
        self.assertEqual((await asyncio.wait_for(news, LONG))["peer"], a.node_id)
        over = asyncio.ensure_future(self.first(events, "ask_over"))
        call.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await call
        # The peer is told at once, not after the 20 s of the call.
        await asyncio.wait_for(over, 5)
        # The node goes on: the next call is asked for, and answered.
        news = asyncio.ensure_future(self.first(events, "ask"))
        again = asyncio.ensure_future(a.connect(at, [p2pd.P2P_DIRECT]))
        b.answer((await asyncio.wait_for(news, LONG))["peer"], True)
        await (await asyncio.wait_for(again, LONG)).close()
        await events.aclose()

    async def first(self, events, kind: str):
        async for news in events:
            if news["event"] == kind:
                return news

    async def test_a_closed_node_says_so_and_its_pipes_live_on(self) -> None:
        a, b, at = await self.two()
        pipe, there = await asyncio.gather(a.connect(at), b.accept())
        waiting = asyncio.ensure_future(b.accept())
        await asyncio.sleep(0.05)
        await b.close()
        await a.close()
        self.assertIsNone(await waiting)
        await a.close()
        with self.assertRaisesRegex(p2pd.Error, "not started, or closed"):
            await a.connect(at)
        await pipe.send(b"still here")
        self.assertEqual(await there.recv(), b"still here")
        await pipe.close()
        await there.close()
        await until(lambda: threads() == 0)

    async def test_what_is_forgotten_ends_by_itself(self) -> None:
        warnings.simplefilter("ignore", ResourceWarning)
        self.addCleanup(warnings.resetwarnings)
        a = await p2pd.Node()
        b = await p2pd.Node()
        pipe, there = await asyncio.gather(a.connect(await b.address()), b.accept())
        del pipe, a
        await asyncio.sleep(0.05)
        gc.collect()
        with self.assertRaises(p2pd.PipeError):
            await there.recv(timeout=LONG)
        del there, b
        await asyncio.sleep(0.05)
        gc.collect()
        await until(lambda: threads() == 0)

    async def test_the_loop_goes_on_while_calls_wait(self) -> None:
        a, b, at = await self.two()
        await b.close()
        with socket.socket() as silent:
            # What listens there says nothing.
            silent.bind((HERE, int(at.split(",")[3])))
            silent.listen(100)
            calls = [asyncio.ensure_future(a.connect(at, timeout=1)) for _ in range(5)]
            turns = 0
            while not all(call.done() for call in calls):
                await asyncio.sleep(0.001)
                turns += 1
            for call in calls:
                self.assertIsInstance(call.exception(), p2pd.ConnectError)
        self.assertGreater(turns, 50)

    async def test_the_key_is_the_files_or_the_bytes(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            ids = []
            for key in (Path(folder) / "key", Path(folder) / "key", bytes(range(32)), bytes(range(32))):
                async with p2pd.Node(key=key) as node:
                    ids.append(node.node_id)
        self.assertEqual((ids[0], ids[2]), (ids[1], ids[3]))
        self.assertNotEqual(ids[0], ids[2])

    async def test_results_come_by_a_task_where_the_loop_watches_no_sockets(self) -> None:
        """As on Windows' proactor loop."""
        loop = asyncio.get_running_loop()

        def no_reader(*_: object) -> None:
            raise NotImplementedError

        loop.add_reader = no_reader  # type: ignore[method-assign]
        try:
            node = await p2pd.Node()
            self.assertEqual((await node.address()).count("-"), 3)
            await node.close()
        finally:
            del loop.add_reader
        await asyncio.sleep(0)


class Loops(Case):
    def test_a_loop_that_ends_early_is_not_called_any_more(self) -> None:
        calls: list[str] = []

        async def early() -> None:
            a, b = await p2pd.Node(), await p2pd.Node()
            at = await b.address()
            # Calls, a server and a pipe are under way as the loop ends.
            b.add_msg_cb(lambda *_: calls.append("message"))
            pipe = await a.connect(at)
            for _ in range(20):
                asyncio.ensure_future(a.connect(at))
            await pipe.send(bytes(100_000))
            await asyncio.sleep(0.005)
            # One that nobody cancels: it begins as the others end.
            asyncio.ensure_future(b.accept()).add_done_callback(lambda _: asyncio.ensure_future(b.accept()))

        # Nobody closes what was open.
        warnings.simplefilter("ignore", ResourceWarning)
        self.addCleanup(warnings.resetwarnings)
        for _ in range(3):
            loop = asyncio.new_event_loop()
            loop.set_exception_handler(lambda *_: None)
            loop.run_until_complete(early())
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            loop.close()
            del tasks, task, loop
        before = len(calls)
        time.sleep(0.3)
        self.assertEqual(len(calls), before)
        gc.collect()
        asyncio.run(until(lambda: threads() == 0))

    def test_two_loops_in_two_threads_have_a_runtime_each(self) -> None:
        said: list[bytes] = []

        def run(text: bytes) -> None:
            async def talk() -> None:
                async with p2pd.P2PNode() as node:
                    async with await node.connect(node.addr_bytes) as pipe:
                        await pipe.send(b"ECHO " + text)
                        said.append(await pipe.recv(timeout=LONG))

            asyncio.run(talk())

        both = [threading.Thread(target=run, args=(text,)) for text in (b"one", b"two")]
        for each in both:
            each.start()
        for each in both:
            each.join(LONG)
        self.assertEqual(sorted(said), [b"one", b"two"])

    def test_no_thread_is_left_at_exit_and_nothing_is_said(self) -> None:
        script = (
            "import asyncio, p2pd\n"
            "async def main():\n"
            "    node = await p2pd.Node(servers=False, bind='127.0.0.1')\n"
            "    pipe = await node.connect(await node.address())\n"
            "    asyncio.ensure_future(node.accept())\n"
            "    return node, pipe\n"
            "kept = asyncio.run(main())\n"
            "import atexit, pathlib\n"
            "print([t for t in pathlib.Path('/proc/self/task').iterdir() if (t / 'comm').read_text() == 'p2pd\\n'].__len__())\n"
        )
        # The last line that is registered is the first that runs at exit, so this one is registered before the package's.
        count = (
            "import atexit, pathlib\n"
            "atexit.register(lambda: print(sum((t / 'comm').read_text() == 'p2pd\\n' for t in pathlib.Path('/proc/self/task').iterdir())))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", count + script], capture_output=True, text=True, timeout=LONG, check=False
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        during, after = map(int, done.stdout.split())
        self.assertGreater(during, 0)
        self.assertEqual(after, 0)

    async def test_ports_of_examples_can_be_named(self) -> None:
        port = free_port()
        async with p2pd.Node(port=port) as node:
            self.assertIn(f",{port},", await node.address())
