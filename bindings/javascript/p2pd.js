/**
 * The REST API of `p2pd daemon`, for Node.js and browsers. Types and explanations are in `p2pd.d.ts`.
 *
 * A call that fails throws a `P2pdError` with the daemon's text. Each call takes `signal`, an AbortSignal, among its options.
 */

/** An answer of the daemon that is an error: its number, the HTTP status, and the text. */
export class P2pdError extends Error {
    constructor(message, error, status) {
        super(message);
        this.name = "P2pdError";
        this.error = error;
        this.status = status;
    }
}

/** Numbers of errors that programs ask for: a wait that came to nothing, and a connection that has ended. */
export const TIMED_OUT = 6;
export const ENDED = 30;

export class Daemon {
    #url;
    #token;
    #fetch;

    constructor({ url = "http://127.0.0.1:12333", token, fetch = globalThis.fetch } = {}) {
        this.#url = String(url).replace(/\/+$/, "");
        this.#token = token;
        // A browser's fetch wants to be called without an object.
        this.#fetch = (...all) => fetch(...all);
    }

    /** Asks, and returns fetch's answer; throws where it is an error. */
    async request(path, { method = "GET", query = {}, body, headers = {}, signal, duplex } = {}) {
        const wanted = Object.entries(query).filter(([, value]) => value !== undefined);
        const search = new URLSearchParams(wanted).toString();
        const answer = await this.#fetch(this.#url + path + (search && `?${search}`), {
            method,
            body,
            signal,
            // Another place would be told the token.
            redirect: "error",
            headers: { ...(this.#token === undefined ? {} : { "X-P2PD-Token": this.#token }), ...headers },
            ...(duplex === undefined ? {} : { duplex }),
        });
        if (answer.ok) return answer;
        const text = await answer.text();
        let said = {};
        try {
            said = JSON.parse(text);
        } catch {
            // What is no JSON is not the daemon's.
        }
        throw new P2pdError(said.msg ?? `HTTP ${answer.status}: ${text}`, said.error, answer.status);
    }

    /** Asks, and returns the JSON. */
    async json(path, options) {
        return (await this.request(path, options)).json();
    }

    /** Yields the events of an answer that goes on (server-sent events), parsed. */
    async *stream(path, { signal } = {}) {
        const ended = new AbortController();
        const stop = () => ended.abort();
        signal?.addEventListener("abort", stop, { once: true });
        if (signal?.aborted) stop();
        try {
            const headers = { Accept: "text/event-stream" };
            const answer = await this.request(path, { headers, signal: ended.signal });
            let rest = "";
            const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
            for (;;) {
                const { done, value } = await reader.read();
                if (done) return;
                const parts = (rest + value).split(/\r?\n\r?\n/);
                rest = parts.pop();
                for (const part of parts) {
                    const event = { name: "message", data: "" };
                    for (const line of part.split(/\r?\n/)) {
                        if (line.startsWith("event:")) event.name = line.slice(6).trim();
                        if (line.startsWith("data:")) event.data += line.slice(5).trimStart();
                    }
                    if (event.data) yield { name: event.name, data: JSON.parse(event.data) };
                }
            }
        } finally {
            signal?.removeEventListener("abort", stop);
            ended.abort();
        }
    }

    /** Where a WebSocket of this path is; browsers cannot show it a token but there. */
    socketUrl(path) {
        const token = this.#token === undefined ? "" : `?token=${encodeURIComponent(this.#token)}`;
        return this.#url.replace(/^http/, "ws") + path + token;
    }

    version(options) {
        return this.json("/version", options);
    }

    async address(options) {
        return (await this.json("/p2p/addr", options)).addr;
    }

    interfaces(options) {
        return this.json("/ifs", options);
    }

    nats(options) {
        return this.json("/nat", options);
    }

    async *events(options) {
        for await (const { data } of this.stream("/events", options)) yield data;
    }

    async open(address, options = {}) {
        const { name = fresh(), strategies, mode, protocol, relayFirst, timeout, overflow, queue, signal } = options;
        const query = { strategies: strategies?.join(), mode, protocol, timeout, overflow, queue };
        if (relayFirst) query.relay_first = "1";
        const info = await this.json(`/p2p/open/${part(name)}/${part(address)}`, { method: "POST", query, signal });
        return new Connection(this, name, info);
    }

    connection(name) {
        return new Connection(this, name);
    }

    async connections(options) {
        const { cons } = await this.json("/p2p/con", options);
        return cons.map((info) => new Connection(this, info.name, info));
    }

    /** Yields each connection that a peer opens from now on. */
    async *incoming(options) {
        for await (const event of this.events(options)) {
            if (event.event === "incoming") yield new Connection(this, event.connection.name, event.connection);
        }
    }

    async openSession(address, { name = fresh(), strategies, protocol, relayFirst, timeout, signal } = {}) {
        const query = { strategies: strategies?.join(), protocol, timeout };
        if (relayFirst) query.relay_first = "1";
        const path = `/p2p/session/${part(name)}/open/${part(address)}`;
        return new Session(this, name, await this.json(path, { method: "POST", query, signal }));
    }

    session(name) {
        return new Session(this, name);
    }

    async sessions(options) {
        const { sessions } = await this.json("/p2p/session", options);
        return sessions.map((info) => new Session(this, info.name, info));
    }

    sendFile(address, name, body, options) {
        return upload(this, `send/${part(address)}`, name, body, options);
    }

    /** Sends to whoever has the code, which an event `transfer` tells meanwhile, and `transfers`. */
    sendFileByCode(name, body, options) {
        return upload(this, "code", name, body, options);
    }

    receiveFiles(code, options) {
        return this.json(`/p2p/file/receive/${part(code)}`, { method: "POST", ...options });
    }

    async transfers(options) {
        return (await this.json("/p2p/file", options)).transfers;
    }

    acceptFiles(number, options) {
        return this.json(`/p2p/file/${part(number)}/accept`, { method: "POST", ...options });
    }

    refuseFiles(number, options) {
        return this.json(`/p2p/file/${part(number)}/refuse`, { method: "POST", ...options });
    }

    async endTransfer(number, options) {
        await this.json(`/p2p/file/${part(number)}`, { method: "DELETE", ...options });
    }

    async forward(address, { name = fresh(), service, at, socks, strategies, timeout, signal } = {}) {
        const query = { service, at, socks, strategies: strategies?.join(), timeout };
        const path = `/p2p/forward/${part(name)}/open/${part(address)}`;
        return this.json(path, { method: "POST", query, signal });
    }

    forwards(options) {
        return this.json("/p2p/forward", options);
    }

    async closeForward(name, options) {
        await this.json(`/p2p/forward/${part(name)}`, { method: "DELETE", ...options });
    }

    /** Asks a TURN server for a relayed address: one of the daemon's list, or one of your own as `server`. */
    async relay({ name = fresh(), family, timeout, server, overflow, queue, signal } = {}) {
        const body = server === undefined ? undefined : JSON.stringify(server);
        const query = { family, timeout, overflow, queue };
        const info = await this.json(`/p2p/turn/${part(name)}`, { method: "POST", query, body, signal });
        return new Relay(this, name, info.relayed);
    }
}

/** Reads messages of one kind of queue; `base` is its path up to `recv`. */
class Messages {
    constructor(daemon, base, name) {
        this.daemon = daemon;
        this.base = base;
        this.name = name;
    }

    path(call, { message, sender, timeout } = {}) {
        const patterns = (message === undefined ? "" : `/msg_p/${pattern(message)}`) + (sender === undefined ? "" : `/addr_p/${pattern(sender)}`);
        return this.base.replace("{}", call) + (timeout === undefined ? "" : `/timeout/${part(timeout)}`) + patterns;
    }

    /** Opens a queue of its own for messages that match; without patterns there is one from the start. */
    async subscribe({ message, sender, overflow, queue, signal } = {}) {
        await this.daemon.json(this.path("sub", { message, sender }), { method: "POST", query: { overflow, queue }, signal });
    }

    async unsubscribe({ message, sender, signal } = {}) {
        await this.daemon.json(this.path("sub", { message, sender }), { method: "DELETE", signal });
    }

    async receive({ message, sender, timeout, signal } = {}) {
        return heard(await this.daemon.json(this.path("recv", { message, sender, timeout }), { method: "POST", signal }));
    }

    /** Yields messages as they come, until the end. */
    async *messages({ message, sender, signal } = {}) {
        for await (const { name, data } of this.daemon.stream(this.path("recv", { message, sender }), { signal })) {
            if (name === "end") return;
            yield heard(data);
        }
    }
}

export class Connection extends Messages {
    constructor(daemon, name, info) {
        super(daemon, `/p2p/{}/${part(name)}`, name);
        this.info = info;
    }

    async refresh(options) {
        this.info = await this.daemon.json(`/p2p/con/${part(this.name)}`, options);
        return this.info;
    }

    /** Sends a text or bytes, at most 8 MiB. Returns their number. */
    async send(data, { signal } = {}) {
        const body = typeof data === "string" ? new TextEncoder().encode(data) : data;
        return (await this.daemon.json(`/p2p/binary/${part(this.name)}`, { method: "POST", body, signal })).sent;
    }

    /** Messages beside a relayed connection's bytes: acknowledged, each once, in no order. */
    get beside() {
        return new Beside(this.daemon, `/p2p/msg/${part(this.name)}/{}`, this.name);
    }

    /** A WebSocket that has the connection for itself, where there is one: in browsers, and Node.js from version 22. */
    webSocket() {
        if (globalThis.WebSocket === undefined) throw new P2pdError("there is no WebSocket: Node.js has one from version 22");
        return new WebSocket(this.daemon.socketUrl(`/p2p/pipe/${part(this.name)}`));
    }

    /** Sends a file to the peer, where the connection was opened here. */
    sendFile(name, body, options) {
        return upload(this.daemon, `con/${part(this.name)}`, name, body, options);
    }

    async close(options) {
        await this.daemon.json(`/p2p/con/${part(this.name)}`, { method: "DELETE", ...options });
    }
}

class Beside extends Messages {
    async send(text, options) {
        return (await this.daemon.json(`${this.base.replace("{}", "send")}/${part(text)}`, { method: "POST", ...options })).sent;
    }
}

/** A relayed address at a TURN server: datagrams to and from anybody. */
export class Relay extends Messages {
    constructor(daemon, name, relayed) {
        super(daemon, `/p2p/turn/${part(name)}/{}`, name);
        this.relayed = relayed;
    }

    async send([ip, port], text, options) {
        const path = `/p2p/turn/${part(this.name)}/send/${part(ip)}/${part(port)}/${part(text)}`;
        return (await this.daemon.json(path, { method: "POST", ...options })).sent;
    }

    async close(options) {
        await this.daemon.json(`/p2p/turn/${part(this.name)}`, { method: "DELETE", ...options });
    }
}

export class Session {
    constructor(daemon, name, info) {
        this.daemon = daemon;
        this.name = name;
        this.info = info;
        this.base = `/p2p/session/${part(name)}`;
    }

    async refresh(options) {
        this.info = await this.daemon.json(this.base, options);
        return this.info;
    }

    async openStream({ tag, uni, signal } = {}) {
        const query = { tag, uni: uni ? "1" : undefined };
        return new Stream(this, await this.daemon.json(`${this.base}/stream`, { method: "POST", query, signal }));
    }

    async accept({ timeout, signal } = {}) {
        const path = `${this.base}/accept${timeout === undefined ? "" : `/timeout/${timeout}`}`;
        return new Stream(this, await this.daemon.json(path, { method: "POST", signal }));
    }

    /** Sends a datagram of at most 1,200 bytes, which may be lost. */
    async sendDatagram(data, { signal } = {}) {
        await this.daemon.json(`${this.base}/datagram`, { method: "POST", body: data, signal });
    }

    async receiveDatagram({ timeout, signal } = {}) {
        const path = `${this.base}/datagram${timeout === undefined ? "" : `/timeout/${timeout}`}`;
        return bytes(await this.daemon.request(path, { signal }));
    }

    async close(options) {
        await this.daemon.json(this.base, { method: "DELETE", ...options });
    }
}

export class Stream {
    constructor(session, { stream, tag, sends, receives }) {
        Object.assign(this, { session, number: stream, tag, sends, receives });
        this.base = `${session.base}/stream/${part(stream)}`;
    }

    async write(data, { signal } = {}) {
        await this.session.daemon.json(this.base, { method: "POST", body: data, signal });
    }

    /** Returns bytes that have come, or `null` at the peer's end. */
    async read({ timeout, signal } = {}) {
        const path = `${this.base}${timeout === undefined ? "" : `/timeout/${timeout}`}`;
        const answer = await this.session.daemon.request(path, { signal });
        return answer.status === 204 ? null : bytes(answer);
    }

    async finish(options) {
        await this.session.daemon.json(`${this.base}/finish`, { method: "POST", ...options });
    }

    async reset(code = 0, options) {
        await this.session.daemon.json(`${this.base}/reset/${part(code)}`, { method: "POST", ...options });
    }

    async stop(code = 0, options) {
        await this.session.daemon.json(`${this.base}/stop/${part(code)}`, { method: "POST", ...options });
    }
}

function upload(daemon, to, name, body, { modified, signal } = {}) {
    const query = { modified: modified instanceof Date ? modified.getTime() / 1000 : modified };
    // Without it fetch refuses bodies that are streams.
    const duplex = body instanceof ReadableStream ? "half" : undefined;
    return daemon.json(`/p2p/file/${to}/${part(name)}`, { method: "POST", query, body, signal, duplex });
}

/** A part of a path. URLs have no part that is empty or made of one dot or two: these would name another path. */
function part(text) {
    if (["", ".", ".."].includes(String(text))) throw new TypeError(`no call can name "${text}"`);
    return encodeURIComponent(text);
}

/** A pattern in a path; dots alone are the same in a group. */
const pattern = (text) => part(/^\.{1,2}$/.test(text) ? `(?:${text})` : text);

/** A name that nothing else has. */
const fresh = () => `js-${globalThis.crypto.randomUUID()}`;

const bytes = async (answer) => new Uint8Array(await answer.arrayBuffer());

/** A message: its text, its bytes, its sender, and how many the queue has lost. */
function heard({ data, base64, client_tup, dropped }) {
    const exact = base64 === undefined ? new TextEncoder().encode(data) : Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
    return { text: data, bytes: exact, sender: client_tup, dropped };
}
