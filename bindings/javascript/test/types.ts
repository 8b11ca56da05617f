// The types as programs use them, for tsc: nothing here is run.
import { Connection, Daemon, ENDED, P2pdError, Session, TIMED_OUT, type Message, type Transfer } from "../p2pd.js";

export async function everything(token: string): Promise<string[]> {
    const daemon = new Daemon({ url: "http://127.0.0.1:12333", token });
    const connection: Connection = await daemon.open("self", { strategies: ["direct", "relay"], mode: "plain", overflow: "wait" });
    const sent: number = await connection.send(new Uint8Array([1, 2]), { signal: AbortSignal.timeout(1000) });
    const message: Message = await connection.receive({ message: "h", timeout: 1 });
    const [ip, port]: [string, number] = message.sender;
    for await (const { text, bytes } of connection.messages()) return [text, String(bytes.length), String(sent), ip, String(port)];
    const session: Session = await daemon.openSession("self");
    const stream = await session.openStream({ tag: "chat/1", uni: true });
    const piece: Uint8Array | null = await stream.read();
    const transfer: Transfer = await daemon.sendFile("self", "name", new Blob(["x"]), { modified: new Date() });
    const relay = await daemon.relay({ server: { host: "turn.example", auth: "none" } });
    await relay.send(relay.relayed, "text");
    const forward = await daemon.forward("self", { service: "ssh", at: 0 });
    try {
        await connection.beside.send("text");
    } catch (why) {
        if (why instanceof P2pdError && (why.error === TIMED_OUT || why.error === ENDED)) return [why.message];
    }
    // @ts-expect-error There is no such strategy.
    await daemon.open("self", { strategies: ["fly"] });
    // @ts-expect-error A connection comes from a daemon.
    new Connection();
    return [String(piece?.length), transfer.state, forward.at];
}
