"""Pipes of messages: queues, callbacks, links, servers; to peers, over TCP and UDP."""

from __future__ import annotations

import asyncio
import os
import socket

import p2pd
from common import HERE, LONG, Case, until


class Peers(Case):
    async def to_itself(self) -> tuple[p2pd.P2PNode, p2pd.Pipe]:
        node = await p2pd.P2PNode()
        self.addAsyncCleanup(node.close)
        pipe = await node.connect(node.addr_bytes)
        self.addAsyncCleanup(pipe.close)
        return node, pipe

    async def test_echo_and_a_protocol_of_ones_own(self) -> None:
        node, pipe = await self.to_itself()
        heard: list[object] = []

        async def protocol(message: bytes, sender: object, there: p2pd.Pipe) -> None:
            heard.append((message, sender))
            if b"PING" in message:
                await there.send(b"PONG", sender)

        node.add_msg_cb(protocol)
        pipe.subscribe(p2pd.SUB_ALL)
        self.assertEqual(await pipe.send(b"ECHO hello, world!"), 18)
        self.assertEqual(await pipe.recv(timeout=LONG), b"hello, world!")
        await pipe.send(b"PING")
        message, sender = await pipe.recv(timeout=LONG, full=True)
        self.assertEqual((message, sender), (b"PONG", pipe.info.remote_addr))
        self.assertEqual([each[0] for each in heard], [b"ECHO hello, world!", b"PING"])
        self.assertEqual(heard[0][1], pipe.info.local_addr)

    async def test_queues_by_patterns_for_messages_and_senders(self) -> None:
        _, pipe = await self.to_itself()
        hellos, here = [b"[hH]e[l]+o", b""], [b"meow", rb"^127[.]0[.]0[.]1:[0-9]+$"]
        elsewhere, exact = [b"", b"^192[.]168[.]"], (None, (HERE, 0))
        for sub in (hellos, here, elsewhere, exact):
            pipe.subscribe(sub)
        for text, sub in ((b"Helllo", hellos), (b"meow", here)):
            await pipe.send(b"ECHO " + text)
            self.assertEqual(await pipe.recv(sub, timeout=LONG), text)
            self.assertEqual(await pipe.recv(exact, timeout=LONG), text)
        self.assertEqual([pipe.waiting(sub) for sub in (hellos, here, elsewhere)], [0, 0, 0])
        with self.assertRaisesRegex(p2pd.RecvTimeout, "no message came in time"):
            await pipe.recv(elsewhere, timeout=0.05)
        waiting = asyncio.ensure_future(pipe.recv(elsewhere, timeout=0))
        await asyncio.sleep(0.01)
        pipe.unsubscribe(elsewhere)
        with self.assertRaisesRegex(p2pd.PipeError, "no such subscription"):
            await waiting
        with self.assertRaises(p2pd.SettingError):
            pipe.subscribe([b"one"])

    async def test_nothing_is_lost_before_somebody_wants_it(self) -> None:
        a, b, at = await self.two()
        pipe, there = await asyncio.gather(a.connect(at), b.accept())
        data = os.urandom(10_000_000) * 4

        async def early() -> None:
            for at in range(0, len(data), 50_000):
                await pipe.send(data[at : at + 50_000])

        sending = asyncio.ensure_future(early())
        await asyncio.sleep(0.3)
        self.assertFalse(sending.done())
        came = bytearray()
        while len(came) < len(data):
            came += await there.recv(timeout=LONG)
        self.assertTrue(came == data)
        await sending
        await pipe.close()
        await there.close()

    async def test_a_slow_callback_makes_the_peer_wait(self) -> None:
        a, b, at = await self.two()
        pipe, there = await asyncio.gather(a.connect(at), b.accept())
        gate, got = asyncio.Event(), [0]

        async def slow(message: bytes, *_: object) -> None:
            await gate.wait()
            got[0] += len(message)

        there.add_msg_cb(slow)
        sent = [0]

        async def flood() -> None:
            while sent[0] < 60_000_000:
                sent[0] += await pipe.send(bytes(100_000))

        flooding = asyncio.ensure_future(flood())
        await asyncio.sleep(0.5)
        self.assertFalse(flooding.done())
        self.assertLess(sent[0], 20_000_000)
        gate.set()
        await asyncio.wait_for(flooding, LONG)
        await until(lambda: got[0] == 60_000_000)
        await pipe.close()
        await there.close()

    async def test_waiters_take_turns_and_a_cancelled_one_loses_nothing(self) -> None:
        _, pipe = await self.to_itself()
        given_up = asyncio.ensure_future(pipe.recv(timeout=0))
        others = [asyncio.ensure_future(pipe.recv(timeout=LONG)) for _ in range(2)]
        await asyncio.sleep(0)
        given_up.cancel()
        for n in range(2):
            await pipe.send(b"ECHO %d" % n)
            await until(lambda: sum(each.done() for each in others) == n + 1)
        self.assertEqual([each.result() for each in others], [b"0", b"1"])

    async def test_ends_are_called_back(self) -> None:
        a, b, at = await self.two()
        pipe, there = await asyncio.gather(a.connect(at), b.accept())
        ends: list[object] = []

        async def ended(message: None, sender: object, which: p2pd.Pipe) -> None:
            ends.append((message, which))

        pipe.add_end_cb(ended)
        there.add_end_cb(lambda *_: ends.append("there"))
        there.subscribe()
        await pipe.close()
        await until(lambda: len(ends) == 2)
        self.assertIn((None, pipe), ends)
        pipe.add_end_cb(ended)
        await until(lambda: len(ends) == 3)
        with self.assertRaises(p2pd.PipeError):
            await pipe.send(b"x")

    async def test_linked_pipes_are_a_relay(self) -> None:
        _, pipe = await self.to_itself()
        server = await p2pd.pipe_open(p2pd.TCP)
        client = await p2pd.pipe_open(p2pd.TCP, server.sock.getsockname()[:2])
        visitor = await asyncio.wait_for(server, LONG)
        visitor.add_pipe(pipe)
        pipe.add_pipe(visitor)
        await client.send(b"ECHO through the relay")
        self.assertEqual(await client.recv(timeout=LONG), b"through the relay")
        visitor.del_pipe(pipe)
        pipe.del_pipe(visitor)
        await client.close()
        await server.close()

    async def test_a_callback_that_fails_is_told_and_the_pipe_goes_on(self) -> None:
        node, pipe = await self.to_itself()

        def fails(*_: object) -> None:
            raise KeyError("of the test")

        node.add_msg_cb(fails)
        await pipe.send(b"ECHO once")
        self.assertEqual(await pipe.recv(timeout=LONG), b"once")
        await until(lambda: self.failures)
        self.assertIsInstance(self.failures.pop()["exception"], KeyError)
        node.del_msg_cb(fails)
        await pipe.send(b"ECHO again")
        self.assertEqual(await pipe.recv(timeout=LONG), b"again")


class Sockets(Case):
    async def test_a_server_answers_over_tcp_and_udp(self) -> None:
        async def echo(message: bytes, sender: tuple[str, int], pipe: p2pd.Pipe) -> None:
            await pipe.send(message, sender)

        for proto in (p2pd.TCP, p2pd.UDP):
            server = await p2pd.pipe_open(proto, msg_cb=echo)
            async with await p2pd.pipe_open(proto, server.sock.getsockname()[:2]) as client:
                await client.send(b"test msg.")
                self.assertEqual(await client.recv(timeout=LONG), b"test msg.")
            await server.close()

    async def test_a_socket_that_exists_becomes_a_pipe(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        pipe = await p2pd.pipe_open(p2pd.TCP, (HERE, 1), sock=ours)
        theirs.send(b"from outside")
        self.assertEqual(await pipe.recv(timeout=LONG), b"from outside")
        await pipe.close()
        theirs.close()

    async def test_nobody_there_is_an_error(self) -> None:
        with self.assertRaisesRegex(p2pd.ConnectError, "127.0.0.1:1: .*refused"):
            await p2pd.pipe_open(p2pd.TCP, (HERE, 1))
        with self.assertRaises(p2pd.ConnectError):
            await p2pd.pipe_open(p2pd.TCP, ("no.such.host.invalid", 1))

    async def test_a_full_queue_of_datagrams_loses_the_oldest(self) -> None:
        server = await p2pd.pipe_open(p2pd.UDP, conf={"max_qsize": 10})
        server.subscribe()
        async with await p2pd.pipe_open(p2pd.UDP, server.sock.getsockname()[:2]) as client:
            for n in range(15):
                await client.send(b"%d" % n)
            await until(lambda: server.dropped() == 5)
            self.assertEqual(await server.recv(), b"5")
        await server.close()

    async def test_a_daemon_has_all_its_ports_or_none(self) -> None:
        nic = await p2pd.Interface("lo").start_local()

        class Echo(p2pd.Daemon):
            async def msg_cb(self, msg: bytes, client_tup: object, pipe: p2pd.Pipe) -> None:
                await pipe.send(msg, client_tup)

        daemon = await Echo().listen_all([nic], [0, [0, 0]], [p2pd.TCP, p2pd.UDP], p2pd.IP4)
        self.assertEqual(len(daemon.servers), 4)
        taken = daemon.servers[0].sock.getsockname()[1]
        for server in daemon.servers:
            proto = server.sock.type
            async with await p2pd.pipe_open(proto, server.sock.getsockname()[:2]) as client:
                await client.send(b"some data")
                self.assertEqual(await client.recv(timeout=LONG), b"some data")
        other = p2pd.Daemon()
        with self.assertRaises(p2pd.BindError):
            await other.listen_all([nic], [0, taken], [p2pd.TCP], p2pd.IP4)
        self.assertEqual(other.servers, [])
        await daemon.close()
