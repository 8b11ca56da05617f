// Daemons on loopback for the tests. P2PD_PROGRAM names the program.
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

import { Daemon } from "../p2pd.js";

const PROGRAM = process.env.P2PD_PROGRAM ?? "p2pd";
const ENV = { ...process.env, P2PD_FORBID_PUBLIC_SERVERS: "1" };

/** Starts the program, and returns its events up to one of this name. */
async function run(folder, args, until) {
    const child = spawn(PROGRAM, args, { env: { ...ENV, HOME: folder }, stdio: ["ignore", "ignore", "pipe"] });
    const events = [];
    const lines = createInterface({ input: child.stderr });
    await new Promise((resolve, reject) => {
        child.on("error", reject);
        child.on("exit", () => reject(new Error(`it ended: ${JSON.stringify(events)}`)));
        lines.on("line", (line) => {
            const event = JSON.parse(line);
            events.push(event);
            if (event.event === until) resolve();
        });
    });
    const stop = () => new Promise((resolve) => {
        child.removeAllListeners("exit");
        child.on("exit", resolve);
        child.kill("SIGKILL");
    });
    return { events, stop };
}

/** Starts a daemon, which the test ends with itself. */
export async function started(t, options = ["--no-servers"]) {
    const folder = mkdtempSync(join(tmpdir(), "p2pd-js-"));
    const file = join(folder, "token");
    const args = ["daemon", "--json", "--bind", "127.0.0.1", "--api", "127.0.0.1:0", "--token-file", file, ...options];
    const { events, stop } = await run(folder, args, "ready");
    t.after(async () => {
        await stop();
        rmSync(folder, { recursive: true, force: true });
    });
    const url = `http://${events.find((event) => event.event === "api").api}`;
    const token = readFileSync(file, "utf8").trim();
    const { address, node_id: id } = events.find((event) => event.event === "ready");
    return { daemon: new Daemon({ url, token }), url, token, address, id, folder };
}

/** Starts a broker, a STUN server and a TURN server for alice, and returns their list. */
export async function servers(t) {
    const folder = mkdtempSync(join(tmpdir(), "p2pd-js-"));
    const list = join(folder, "servers.toml");
    const ports = ["--mqtt-port", "0", "--stun-port", "0", "--turn-user", "alice:secret"];
    const { stop } = await run(folder, ["serve", "--json", "--bind", "127.0.0.1", ...ports, "--write", list], "serving");
    t.after(async () => {
        await stop();
        rmSync(folder, { recursive: true, force: true });
    });
    if (!existsSync(list)) throw new Error("no list");
    return list;
}
