import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { mkdirSync, readFileSync } from "node:fs";
import { createServer, connect } from "node:net";
import { join } from "node:path";
import { test } from "node:test";

import { Daemon, ENDED, P2pdError, TIMED_OUT } from "../p2pd.js";
import { servers, started } from "./daemon.js";

const limit = { timeout: 60_000 };

/** The first of a sequence that fits. */
async function first(of, fits) {
    for await (const each of of) if (fits(each)) return each;
    throw new Error("it ended");
}

test("version, address, interfaces and NATs", limit, async (t) => {
    const { daemon, address } = await started(t);
    assert.equal((await daemon.version()).title, "p2pd");
    assert.equal(await daemon.address(), address);
    assert.equal((await daemon.interfaces()).ifs[0].ip, "127.0.0.1");
    assert.equal((await daemon.nats()).nats[0].local, "127.0.0.1");
});

test("a connection to oneself: texts, bytes, patterns and the end", limit, async (t) => {
    const { daemon, id } = await started(t);
    const connection = await daemon.open("self", { name: "con_name.1", strategies: ["direct"], protocol: "chat/1" });
    assert.deepEqual(
        [connection.info.peer, connection.info.strategy, connection.info.protocol],
        [id, "direct connect", "chat/1"],
    );
    assert.equal(await connection.send("ECHO hällo?/%"), 14);
    const { text, sender, dropped } = await connection.receive();
    assert.deepEqual([text, sender, dropped], ["hällo?/%", connection.info.raddr, 0]);

    const binary = Uint8Array.from([0, 255, 128]);
    await connection.send(Buffer.concat([Buffer.from("ECHO "), binary]));
    assert.deepEqual((await connection.receive()).bytes, binary);

    const hello = { message: "[hH]e[l]+o", sender: "^127[.]" };
    await connection.subscribe(hello);
    await connection.send("ECHO Hellllo");
    assert.equal((await connection.receive(hello)).text, "Hellllo");
    await connection.unsubscribe(hello);
    // A URL would lose a part that is a dot.
    await connection.subscribe({ message: "." });
    await connection.unsubscribe({ message: "." });
    await assert.rejects(daemon.closeForward(".."), TypeError);
    await assert.rejects(connection.receive({ ...hello, timeout: 0.1 }), P2pdError);
    await connection.receive();

    await assert.rejects(connection.receive({ timeout: 0.1 }), (why) => why instanceof P2pdError && why.error === TIMED_OUT && why.status === 504);
    assert.equal((await daemon.connections()).length, 2);
    // What a program has heard of is its peer's end, whose name is the peer's id.
    assert.equal((await daemon.connection(id).receive()).text, "ECHO hällo?/%");
    await connection.close();
    await assert.rejects(connection.refresh(), (why) => why.error === 4);
});

test("messages as they come, on both ends, until the end", limit, async (t) => {
    const [a, b] = [await started(t), await started(t)];
    const arrived = b.daemon.incoming();
    const next = arrived.next();
    // The stream of events has begun once anything of it comes; a pause is enough for a call on loopback.
    await new Promise((resolve) => setTimeout(resolve, 300));
    const here = await a.daemon.open(b.address);
    const there = (await next).value;
    await arrived.return();
    assert.equal(there.info.peer, a.id);
    const said = [];
    const listening = (async () => {
        for await (const { text } of there.messages()) said.push(text);
    })();
    for (let n = 0; n < 20; n++) await here.send(`message ${n};`);
    for await (const { text } of (async function* () {
        await there.send("back");
        yield* here.messages();
    })()) {
        assert.equal(text, "back");
        break;
    }
    await here.close();
    await listening;
    assert.equal(said.join(""), Array.from({ length: 20 }, (_, n) => `message ${n};`).join(""));
});

test("errors have the daemon's text, and a wait can be given up", limit, async (t) => {
    const { daemon, url } = await started(t);
    await assert.rejects(daemon.open("nonsense"), /neither an address.*nor a name/);
    await assert.rejects(daemon.open("self", { strategies: ["fly"] }), P2pdError);
    await assert.rejects(new Daemon({ url, token: "wrong" }).connections(), (why) => why.status === 401);
    await assert.rejects(new Daemon({ url }).open("self"), (why) => why.status === 401);
    await assert.rejects(new Daemon({ url: "http://127.0.0.1:1" }).version(), TypeError);
    const connection = await daemon.open("self");
    const given = new AbortController();
    setTimeout(() => given.abort(), 50);
    await assert.rejects(connection.receive({ timeout: 30, signal: given.signal }), { name: "AbortError" });
    await assert.rejects((async () => {
        for await (const _ of connection.messages({ signal: AbortSignal.timeout(50) })) assert.fail();
    })(), (why) => why.name === "AbortError" || why.name === "TimeoutError");
    // Nothing was taken by whoever gave up.
    await connection.send("ECHO still here");
    assert.equal((await connection.receive()).text, "still here");
});

test("sessions: streams both ways and datagrams", limit, async (t) => {
    const { daemon, id } = await started(t);
    const here = await daemon.openSession("self");
    const there = daemon.session(id);
    const stream = await here.openStream({ tag: "chat/1" });
    const data = randomBytes(300_000);
    // More than waits at the peer's end: the write goes on as it is read.
    const writing = stream.write(data).then(() => stream.finish());
    const theirs = await there.accept({ timeout: 10 });
    assert.deepEqual([theirs.tag, theirs.sends, theirs.receives], ["chat/1", true, true]);
    const came = [];
    for (let piece; (piece = await theirs.read({ timeout: 10 })) !== null; ) came.push(piece);
    await writing;
    assert.deepEqual(Buffer.concat(came), data);
    await theirs.write("an answer");
    await theirs.finish();
    assert.equal(Buffer.from(await stream.read({ timeout: 10 })).toString(), "an answer");
    assert.equal(await stream.read({ timeout: 10 }), null);
    const one = await there.openStream({ uni: true });
    assert.equal(one.receives, false);
    await one.reset(7);
    await here.sendDatagram("datagram");
    assert.equal(Buffer.from(await there.receiveDatagram({ timeout: 10 })).toString(), "datagram");
    assert.equal((await here.refresh()).peer, id);
    assert.equal((await daemon.sessions()).length, 2);
    await here.close();
});

test("files: to an address with a yes, and by a code", limit, async (t) => {
    const list = await servers(t);
    const config = (folder) => ["--config", list, "--files", folder];
    const a = await started(t, ["--config", list]);
    const inbox = join(a.folder, "inbox");
    mkdirSync(inbox);
    const b = await started(t, config(inbox));
    const hash = (of) => createHash("sha256").update(of).digest("hex");
    const data = randomBytes(2_000_000);
    const yes = (async () => {
        const offered = await first(b.daemon.events(), ({ transfer }) => transfer?.state === "offered");
        await b.daemon.acceptFiles(offered.transfer.number);
    })();
    await new Promise((resolve) => setTimeout(resolve, 300));
    const body = new Blob([data]).stream();
    const sent = await a.daemon.sendFile(b.address, "a file.bin", body, { modified: new Date("2020-01-02T03:04:05Z") });
    await yes;
    assert.equal(sent.state, "done");
    assert.equal(hash(readFileSync(join(inbox, "a file.bin"))), hash(data));

    const coded = first(a.daemon.events(), ({ transfer }) => transfer?.code);
    await new Promise((resolve) => setTimeout(resolve, 300));
    const sending = a.daemon.sendFileByCode("by code.txt", "said in words");
    await b.daemon.receiveFiles((await coded).transfer.code);
    assert.equal((await sending).state, "done");
    assert.equal(readFileSync(join(inbox, "by code.txt"), "utf8"), "said in words");
    const [transfer] = await b.daemon.transfers();
    await b.daemon.endTransfer(transfer.number);
    assert.equal((await b.daemon.transfers()).length, 1);
});

test("services of a peer", limit, async (t) => {
    const service = createServer((socket) => socket.pipe(socket)).listen(0, "127.0.0.1");
    await new Promise((resolve) => service.on("listening", resolve));
    t.after(() => service.close());
    const b = await started(t, ["--no-servers", "--expose", `echo=127.0.0.1:${service.address().port}`, "--expose-to-anyone"]);
    const a = await started(t);
    const forward = await a.daemon.forward(b.address, { name: "door", service: "echo", at: 0 });
    const [host, port] = forward.at.split(":");
    const said = await new Promise((resolve, reject) => {
        const socket = connect(Number(port), host, () => socket.write("through the door"));
        socket.on("data", (data) => {
            socket.destroy();
            resolve(data.toString());
        });
        socket.on("error", reject);
    });
    assert.equal(said, "through the door");
    assert.deepEqual((await a.daemon.forwards()).forwards.map(({ name }) => name), ["door"]);
    assert.deepEqual((await b.daemon.forwards()).services.map(({ name }) => name), ["echo"]);
    await a.daemon.closeForward("door");
    assert.deepEqual((await a.daemon.forwards()).forwards, []);
});

test("relayed addresses, and messages beside a relayed connection", limit, async (t) => {
    const list = await servers(t);
    const a = await started(t, ["--config", list]);
    const b = await started(t, ["--config", list, "--accept", a.id]);
    const [one, two] = [await a.daemon.relay(), await a.daemon.relay({ family: "4" })];
    // Whoever was sent to is heard: the first one is not, and lets the others in.
    await two.send(one.relayed, "lets one in");
    // Datagrams may be lost, so this one is sent until it came.
    let came;
    while (came === undefined) {
        await one.send(two.relayed, "hello by relay");
        came = await two.receive({ timeout: 0.2 }).catch((why) => assert.equal(why.error, TIMED_OUT));
    }
    assert.deepEqual([came.text, came.sender], ["hello by relay", one.relayed]);
    await one.close();
    await two.close();

    const address = await b.daemon.address();
    const arrived = first(b.daemon.incoming(), () => true);
    await new Promise((resolve) => setTimeout(resolve, 300));
    const connection = await a.daemon.open(address, { strategies: ["relay"] });
    assert.equal(connection.info.messages, true);
    const there = await arrived;
    await connection.beside.send("beside the bytes");
    assert.equal((await there.beside.receive({ timeout: 10 })).text, "beside the bytes");
    await connection.close();
    await assert.rejects(async () => {
        for (;;) await there.receive({ timeout: 10 });
    }, (why) => why.error === ENDED || why.error === 4);
});
