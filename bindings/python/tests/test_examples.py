"""The examples, which make the calls of P2PD's documents, each as a program of its own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import p2pd
from common import HERE, LONG, Case, free_port

EXAMPLES = Path(__file__).parent.parent / "examples"
RUN = [sys.executable, str(Path(__file__).parent / "run_example.py")]


class Examples(Case):
    wants_servers = True

    def begin(self, name: str, *arguments: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "P2PD_SERVERS": str(self.servers.list)}
        command = [*RUN, str(EXAMPLES / f"{name}.py"), *arguments]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(self.end, process)
        return process

    def end(self, process: subprocess.Popen[str]) -> None:
        process.kill()
        process.communicate()

    async def said(self, name: str, *arguments: str) -> list[str]:
        process = self.begin(name, *arguments)
        out, err = await asyncio.to_thread(process.communicate, None, LONG)
        self.assertEqual((process.returncode, err), (0, ""))
        return out.splitlines()

    async def test_a_node_with_a_protocol_of_its_own_calls_itself(self) -> None:
        self.assertEqual(await self.said("echo_to_itself"), ["said to oneself", "PONG"])

    async def test_two_computers(self) -> None:
        listener = self.begin("two_computers")
        address = (await asyncio.to_thread(listener.stdout.readline)).strip()
        said = await self.said("two_computers", address)
        self.assertEqual(said, [f"to {address.split('-')[3]} by direct", "you said: hello"])

    async def test_strategies(self) -> None:
        self.assertEqual(await self.said("strategies"), ["direct"])
        async with p2pd.P2PNode() as there:
            self.assertEqual(await self.said("strategies", there.addr_bytes.decode()), ["direct"])

    async def test_names(self) -> None:
        self.assertEqual(await self.said("names", "an_example"), ["an-example.peer", "by name"])

    async def test_a_machine(self) -> None:
        said = "\n".join(await self.said("machine"))
        text, _, rest = said.partition("})\n")
        parts = json.loads(text.removeprefix("Interface.from_dict(") + "}")
        self.assertEqual((parts["name"], parts["nat"]["type"], parts["nat"]["delta"]["type"]), ("lo", 1, 1))
        range_ = {"ip": HERE, "cidr": 32, "af": 2}
        self.assertEqual(parts["rp"]["2"], [{"af": 2, "nic_ips": [range_], "ext_ips": [range_]}])
        self.assertEqual(repr(p2pd.Interface.from_dict(parts)) + "\n", text + "})\n")
        self.assertIn(f"{HERE} is seen as {HERE}", rest)

    async def test_a_host_is_asked(self) -> None:
        async def echo(message: bytes, sender: object, pipe: p2pd.Pipe) -> None:
            await pipe.send(b"no", sender)
            await asyncio.sleep(0.1)
            await pipe.send(message, sender)

        for proto, word in ((p2pd.TCP, "tcp"), (p2pd.UDP, "udp")):
            server = await p2pd.pipe_open(proto, msg_cb=echo)
            port = str(server.sock.getsockname()[1])
            self.assertEqual(await self.said("ask", word, "localhost", port, "hello"), [f"hello from {HERE}"])
            await server.close()

    async def test_an_echo_server(self) -> None:
        self.assertEqual(await self.said("echo_server"), ["test msg."])

    async def test_a_daemon(self) -> None:
        self.assertEqual(await self.said("daemon", str(free_port())), ["8 servers", f"one at {HERE}"])

    async def test_a_turn_client(self) -> None:
        said = await self.said("turn", HERE, str(self.servers.port("turn")), "alice", "secret")
        self.assertEqual(sorted(said), ["called back: hello, world!", "received: hello, world!"])

    async def test_the_later_documents_turn_clients(self) -> None:
        at, nic = (HERE, self.servers.port("turn")), await p2pd.Interface()
        a, b = [await p2pd.TURNClient(p2pd.IP4, at, nic, ("alice", "secret"), realm=None) for _ in range(2)]
        (a_addr, a_relay), (b_addr, b_relay) = await a.get_tups(), await b.get_tups()
        await a.accept_peer(b_addr, b_relay)
        await b.accept_peer(a_addr, a_relay)
        await a.send(b"hello bob")
        self.assertEqual(await b.recv(timeout=LONG, full=True), [b"hello bob", a_relay])
        await a.close()
        await b.close()
        with self.assertRaises(p2pd.RelayError):
            await p2pd.TURNClient(p2pd.IP4, at, nic, ("alice", "wrong"))

    async def test_stun(self) -> None:
        said = await self.said("stun")
        self.assertEqual(said, [f"seen as {HERE}", "type of NAT: open internet", *[f"{HERE} -> {HERE}"] * 2])

    async def test_a_service_tells_its_clients_their_route(self) -> None:
        port = free_port()
        server = self.begin("net_info_server", str(port))
        self.assertEqual(await asyncio.to_thread(server.stdout.readline), "serving\n")

        def ask(path: str, **headers: str) -> dict[str, object]:
            request = urllib.request.Request(f"http://{HERE}:{port}{path}", headers=headers)
            with urllib.request.urlopen(request, timeout=LONG) as answer:
                return dict(json.load(answer))

        mapping = await asyncio.to_thread(ask, "/mapping")
        self.assertEqual((mapping["error"], mapping["if"], mapping["laddr"]), (0, {"name": "lo"}, [HERE, port]))
        self.assertEqual((await asyncio.to_thread(ask, "/other"))["error"], 2)
        async with await p2pd.pipe_open(p2pd.UDP, (HERE, port)) as pipe:
            await pipe.send(b"GET /mapping HTTP/1.1\r\n\r\n")
            self.assertIn(b'"error": 0', await pipe.recv(timeout=LONG))
        for foreign in [
            {"Origin": "https://example.com"},
            {"Origin": "null"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Host": "example.com"},
        ]:
            with self.assertRaises(urllib.error.HTTPError) as refused:
                await asyncio.to_thread(ask, "/mapping", **foreign)
            self.assertEqual(refused.exception.code, 403, foreign)
            refused.exception.close()
        # The body of what was refused is no request.
        reader, writer = await asyncio.open_connection(HERE, port)
        inside = b"GET /mapping HTTP/1.1\r\n\r\n"
        head = b"POST / HTTP/1.1\r\nOrigin: https://example.com\r\nContent-Length: %d\r\n\r\n" % len(inside)
        writer.write(head)
        answer = await reader.readuntil(b"}")
        try:
            writer.write(inside)
            answer += await reader.read()
        except ConnectionError:
            pass
        writer.close()
        self.assertEqual(answer.count(b"HTTP/1.1"), 1, answer)
