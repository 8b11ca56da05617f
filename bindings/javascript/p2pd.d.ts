/** The REST API of `p2pd daemon`. Times are in seconds. */

/** An answer of the daemon that is an error. */
export class P2pdError extends Error {
    constructor(message: string, error?: number, status?: number);
    /** The daemon's number of the error; undefined where somebody else answered. */
    readonly error?: number;
    /** The HTTP status. */
    readonly status?: number;
}

/** Number of the error of a wait that came to nothing. */
export const TIMED_OUT: 6;
/** Number of the error of a connection that has ended. */
export const ENDED: 30;

export interface Options {
    /** Gives the call up. What was begun goes on in the daemon, unless it is a wait. */
    signal?: AbortSignal;
}

export type Strategy = "direct" | "reverse" | "punch" | "udp" | "relay";
/** What a full queue does: it drops the oldest, the newest, or lets the peer wait. */
export type Overflow = "oldest" | "newest" | "wait";
export type Body = Uint8Array | ArrayBuffer | Blob | string | ReadableStream<Uint8Array>;
/** An IP address and a port. */
export type End = [ip: string, port: number];

export interface QueueOptions {
    overflow?: Overflow;
    /** Most messages. Default: 1,000. */
    queue?: number;
}

export interface CallOptions extends Options {
    /** Name in the daemon. Default: a fresh one. */
    name?: string;
    /** Strategies to try, in this order. Default: all. */
    strategies?: Strategy[];
    /** Protocol to be spoken, which the listener has to take. */
    protocol?: string;
    /** The relay begins at once. */
    relayFirst?: boolean;
    /** Longest time of the call. Default: 20. */
    timeout?: number;
}

export interface OpenOptions extends CallOptions, QueueOptions {
    mode?: "encrypted" | "plain";
}

/** Patterns of a subscription: for the message, and for `address:port` of the sender. */
export interface Patterns {
    message?: string;
    sender?: string;
}

export interface Message {
    /** The message as text; what is none has replacement characters. */
    text: string;
    bytes: Uint8Array;
    sender: End;
    /** Messages that the queue has lost so far. */
    dropped: number;
}

export interface ConnectionInfo {
    name: string;
    /** True if the peer opened it. */
    incoming: boolean;
    /** The peer's proven node id. */
    peer: string;
    strategy: string;
    mode: "encrypted" | "plain";
    protocol: string | null;
    laddr: End;
    raddr: End;
    elapsed_ms: number;
    sent: number;
    received: number;
    waiting: number;
    dropped: number;
    ended: boolean;
    /** True if there are messages beside its bytes. */
    messages: boolean;
    [more: string]: unknown;
}

export interface SessionInfo {
    name: string;
    incoming: boolean;
    peer: string;
    /** The connection under it; null while there is none. */
    carrier: Record<string, unknown> | null;
    [more: string]: unknown;
}

export interface Transfer {
    number: number;
    direction: "send" | "receive" | string;
    peer: string | null;
    state: string;
    /** The code, where one was made. */
    code?: string | null;
    names?: string[];
    size?: number | null;
    [more: string]: unknown;
}

export interface Forward {
    name: string;
    to: string;
    service: string | null;
    /** Where the port is. */
    at: string;
    [more: string]: unknown;
}

/** News; `event` says of what. */
export interface News {
    event: string;
    [more: string]: unknown;
}

export class Daemon {
    /** `url` is where the API is, http://127.0.0.1:12333 by default; `token` what stands in the file that `p2pd daemon` names. */
    constructor(options?: { url?: string | URL; token?: string; fetch?: typeof globalThis.fetch });
    version(options?: Options): Promise<{ title: string; version: string; author: string }>;
    /** The node's address, once it is known. */
    address(options?: Options): Promise<string>;
    interfaces(options?: Options): Promise<{ ifs: Record<string, unknown>[]; routes: Record<string, unknown>[] }>;
    /** The NATs in front of the node, and what they mean. */
    nats(options?: Options): Promise<{ nats: Record<string, unknown>[]; verdict: string; text: string }>;
    /** What happens from now on. */
    events(options?: Options): AsyncGenerator<News, void, undefined>;

    /** Opens a connection: to an address, a name that ends with `.peer`, a paired machine, or `self`. */
    open(address: string, options?: OpenOptions): Promise<Connection>;
    /** A connection by its name, without asking. */
    connection(name: string): Connection;
    connections(options?: Options): Promise<Connection[]>;
    /** Each connection that a peer opens from now on. */
    incoming(options?: Options): AsyncGenerator<Connection, void, undefined>;

    /** Opens a session, which goes on when the connection under it breaks. */
    openSession(address: string, options?: CallOptions): Promise<Session>;
    session(name: string): Session;
    sessions(options?: Options): Promise<Session[]>;

    /** Sends a file, and returns when the peer has it. With `modified` a send that was cut off goes on. */
    sendFile(address: string, name: string, body: Body, options?: FileOptions): Promise<Transfer>;
    /** Sends to whoever has the code, which an event `transfer` tells meanwhile, and `transfers`. */
    sendFileByCode(name: string, body: Body, options?: FileOptions): Promise<Transfer>;
    /** Receives from the sender that has made a code. */
    receiveFiles(code: string, options?: Options): Promise<{ peer: string }>;
    transfers(options?: Options): Promise<Transfer[]>;
    /** Takes what a peer wants to send. */
    acceptFiles(number: number, options?: Options): Promise<Transfer>;
    refuseFiles(number: number, options?: Options): Promise<Transfer>;
    /** Ends a transfer, or forgets one that has ended. */
    endTransfer(number: number, options?: Options): Promise<void>;

    /** Listens on this machine for a service that a peer exposes, or as a SOCKS proxy for all of them. */
    forward(address: string, options: ForwardOptions): Promise<Forward>;
    forwards(options?: Options): Promise<{ forwards: Forward[]; services: { name: string; place: string }[] }>;
    closeForward(name: string, options?: Options): Promise<void>;

    /** Asks for a relayed address: a TURN server of the daemon's list, or `server`, an entry of a list as JSON. */
    relay(options?: RelayOptions): Promise<Relay>;

    /** Asks for anything else of the API, and returns fetch's answer. */
    request(path: string, options?: RequestOptions): Promise<Response>;
    /** Asks, and returns the JSON. */
    json(path: string, options?: RequestOptions): Promise<any>;
    /** The events of an answer that goes on. */
    stream(path: string, options?: Options): AsyncGenerator<{ name: string; data: any }, void, undefined>;
    /** Where a WebSocket of this path is, with the token. */
    socketUrl(path: string): string;
}

export interface FileOptions extends Options {
    /** The time that the file gets. */
    modified?: Date | number;
}

export interface ForwardOptions extends Options {
    name?: string;
    service?: string;
    /** A port of this machine, or a place as on the command line; 0 is one that is free. */
    at?: string | number;
    socks?: string | number;
    strategies?: Strategy[];
    timeout?: number;
}

export interface RelayOptions extends Options, QueueOptions {
    name?: string;
    family?: "4" | "6" | "both";
    timeout?: number;
    server?: Record<string, unknown>;
}

export interface RequestOptions extends Options {
    method?: string;
    query?: Record<string, string | number | undefined>;
    body?: Body;
    headers?: Record<string, string>;
}

interface Messages {
    readonly name: string;
    /** Opens a queue of its own for messages that match; without patterns there is one from the start. */
    subscribe(options?: Patterns & QueueOptions & Options): Promise<void>;
    unsubscribe(options?: Patterns & Options): Promise<void>;
    /** Waits for the next message, for 2 s without `timeout`. Throws TIMED_OUT and ENDED. */
    receive(options?: Patterns & Options & { timeout?: number }): Promise<Message>;
    /** Messages as they come, until the end. */
    messages(options?: Patterns & Options): AsyncGenerator<Message, void, undefined>;
}

/** A connection under a name in the daemon. */
export interface Connection extends Messages {
    /** What was known of it when it was opened, listed or refreshed. */
    info?: ConnectionInfo;
    refresh(options?: Options): Promise<ConnectionInfo>;
    /** Sends a text or bytes, at most 8 MiB. Returns their number. */
    send(data: string | Uint8Array | ArrayBuffer | Blob, options?: Options): Promise<number>;
    /** Messages beside a relayed connection's bytes: acknowledged, each once, in no order. */
    readonly beside: Messages & { send(text: string, options?: Options): Promise<number> };
    /** A WebSocket that has the connection for itself, in browsers and Node.js from version 22. */
    webSocket(): WebSocket;
    /** Sends a file to the peer, where the connection was opened here. */
    sendFile(name: string, body: Body, options?: FileOptions): Promise<Transfer>;
    close(options?: Options): Promise<void>;
}
export const Connection: { prototype: Connection };

/** A relayed address at a TURN server: datagrams to and from anybody. */
export interface Relay extends Messages {
    readonly relayed: End;
    send(to: End, text: string, options?: Options): Promise<number>;
    close(options?: Options): Promise<void>;
}
export const Relay: { prototype: Relay };

export interface Session {
    readonly name: string;
    info?: SessionInfo;
    refresh(options?: Options): Promise<SessionInfo>;
    /** Opens a stream, of which the peer hears with its first bytes; with `uni` this end alone sends. */
    openStream(options?: Options & { tag?: string; uni?: boolean }): Promise<Stream>;
    /** Waits for a stream that the peer opens, for 2 s without `timeout`. */
    accept(options?: Options & { timeout?: number }): Promise<Stream>;
    /** Sends a datagram of at most 1,200 bytes, which may be lost. */
    sendDatagram(data: string | Uint8Array | ArrayBuffer, options?: Options): Promise<void>;
    receiveDatagram(options?: Options & { timeout?: number }): Promise<Uint8Array>;
    close(options?: Options): Promise<void>;
}
export const Session: { prototype: Session };

/** A stream of a session. */
export interface Stream {
    readonly session: Session;
    readonly number: number;
    readonly tag: string;
    readonly sends: boolean;
    readonly receives: boolean;
    /** Writes at most 8 MiB. */
    write(data: string | Uint8Array | ArrayBuffer | Blob, options?: Options): Promise<void>;
    /** Bytes that have come, at most 1 MiB, or `null` at the peer's end. Waits for 2 s without `timeout`. */
    read(options?: Options & { timeout?: number }): Promise<Uint8Array | null>;
    /** Ends this end's direction, after what was written. */
    finish(options?: Options): Promise<void>;
    /** Gives this end's direction up. */
    reset(code?: number, options?: Options): Promise<void>;
    /** Wants no more of the peer's direction. */
    stop(code?: number, options?: Options): Promise<void>;
}
export const Stream: { prototype: Stream };
