// The REST API from JavaScript: connects to oneself and talks, in texts and in bytes. Runs in a browser, where the page comes from
// this machine, and in Node.js: `api` is "http://127.0.0.1:12333", and `token` what stands in the file that
// `p2pd daemon` names.

export async function example(api, token) {
    const headers = { "X-P2PD-Token": token };
    const call = async (path, options = {}) => {
        const answer = await (await fetch(api + path, { headers, ...options })).json();
        if (answer.error) throw new Error(`${path}: ${answer.msg}`);
        return answer;
    };
    const said = [(await call("/version")).title];
    await call("/p2p/open/js_con/self");

    // Texts. Whoever a daemon connects to echoes what stands behind ECHO.
    await call("/p2p/send/js_con/" + encodeURIComponent("ECHO hello, world!"));
    said.push((await call("/p2p/recv/js_con")).data);

    // Only what matches a pattern, in a queue of its own.
    const hello = "/js_con/msg_p/" + encodeURIComponent("[hH]e[l]+o");
    await call("/p2p/sub" + hello);
    await call("/p2p/send/js_con/" + encodeURIComponent("ECHO Hellllo"));
    said.push((await call("/p2p/recv" + hello)).data);
    await call("/p2p/sub" + hello, { method: "DELETE" });
    await call("/p2p/recv/js_con");

    // Bytes.
    const bytes = new Uint8Array([69, 67, 72, 79, 32, 0, 255, 128]);
    await call("/p2p/binary/js_con", { method: "POST", body: bytes });
    const back = await fetch(api + "/p2p/binary/js_con", { headers });
    said.push(Array.from(new Uint8Array(await back.arrayBuffer())).join());

    await call("/p2p/close/js_con");
    return said;
}
