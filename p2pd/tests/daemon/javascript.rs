//! The Javascript of the P2PD documents in a headless Chromium: `examples/rest.js`, from wherever a page may be.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use serde_json::json;

use crate::browser::Browser;
use crate::common::Daemon;

/// The npm package. Its own tests run it in Node.js: `tests/long/javascript`.
const PACKAGE: &str = include_str!("../../../bindings/javascript/p2pd.js");

const EXAMPLE: &str = include_str!("../../../examples/rest.js");

/// A server of an empty page, as developers have one beside the daemon.
pub(crate) fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // Chromium opens spare connections, on which nothing comes for a minute.
            std::thread::spawn(move || {
                let _ = stream.read(&mut [0; 4096]);
                let page = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 15\r\n\
                            Connection: close\r\n\r\n<!doctype html>";
                let _ = stream.write_all(page.as_bytes());
            });
        }
    });
    at
}

#[test]
fn the_example_runs_from_every_place_that_is_allowed() {
    let profile = tempfile::tempdir().unwrap();
    let test = "javascript::the_example_runs_from_every_place_that_is_allowed";
    let Some(mut browser) = Browser::start(test, profile.path(), &[]) else { return };
    let daemon = Daemon::start();
    let file = profile.path().join("page.html");
    std::fs::write(&file, "<!doctype html>").unwrap();
    let port = server().port();
    let example = EXAMPLE.replace("export async function", "async function");
    for page in [
        format!("http://{}/", daemon.api),
        format!("http://127.0.0.1:{port}/"),
        format!("http://localhost:{port}/"),
        // Its origin is null.
        format!("file://{}", file.display()),
    ] {
        browser.call("Page.navigate", json!({"url": page}));
        browser.becomes(&format!("location.href === '{page}' && document.readyState === 'complete'"));
        let run = format!("{example}; example('http://{}', '{}')", daemon.api, daemon.token);
        let said = browser.promised(&run);
        assert_eq!(said, json!(["p2pd", "hello, world!", "Hellllo", "0,255,128"]), "{page}");
        // Without the token nothing comes of it.
        let refused = browser.promised(&format!(
            "fetch('http://{}/p2p/open/x/self').then(r => r.status, () => 'unseen')",
            daemon.api
        ));
        assert!([json!(401), json!("unseen")].contains(&refused), "{page}: {refused}");
        assert_eq!(daemon.error("/p2p/con/x"), (404, 4), "{page}");
    }
}

/// Script of a sandboxed frame of any web page: a WebSocket, a call, an image and a raw pipe of an existing connection.
const FRAME: &str = r#"
const say = m => parent.postMessage(m, "*");
const socket = new WebSocket("ws://API/p2p/pipe/con");
socket.onopen = () => { socket.send("from a frame"); say("socket open"); };
socket.onerror = () => say("socket refused");
fetch("http://API/p2p/con").then(r => say("call " + r.status), () => say("call refused"));
fetch("http://API/p2p/send/con/call", {mode: "no-cors"}).then(() => say("blind sent"), () => say("blind refused"));
const image = new Image();
image.onerror = () => say("image refused");
image.src = "http://API/p2p/send/con/image";
"#;

#[test]
fn a_sandboxed_frame_cannot_use_a_daemon_without_a_token() {
    let profile = tempfile::tempdir().unwrap();
    let test = "javascript::a_sandboxed_frame_cannot_use_a_daemon_without_a_token";
    let Some(mut browser) = Browser::start(test, profile.path(), &[]) else { return };
    let port = server().port();
    for (allowed, seen) in [
        (&["--no-servers", "--no-token"][..], "socket refused"),
        (&["--no-servers", "--no-token", "--allow-origin", "null"][..], "socket open"),
    ] {
        let daemon = Daemon::with(allowed);
        assert_eq!(daemon.bare("/p2p/open/con/self", &[]).0, 200);
        let page = format!("http://localhost:{port}/");
        browser.call("Page.navigate", json!({"url": page}));
        browser.becomes(&format!("location.href === '{page}' && document.readyState === 'complete'"));
        let script = FRAME.replace("API", &daemon.api.to_string());
        let frame = json!(format!("<script>{script}</script>"));
        browser.evaluate(&format!(
            "window.said = []; addEventListener('message', e => said.push(e.data)); \
             const f = document.createElement('iframe'); f.sandbox = 'allow-scripts'; f.srcdoc = {frame}; \
             document.body.append(f)"
        ));
        browser.becomes("said.length >= 4");
        let said = browser.evaluate("said.join()").as_str().unwrap().to_owned();
        assert!(said.contains(seen), "{said}");
        if seen == "socket refused" {
            assert!(said.contains("call refused"), "{said}");
            // What the blind ones asked for was not done either: the peer's end of the pipe has nothing.
            let (status, body) = daemon.bare(&format!("/p2p/recv/{}/timeout/0.5", daemon.id), &[]);
            assert_eq!(status, 504, "{}", String::from_utf8_lossy(&body));
        }
        // The documents' Javascript works from a server of this machine in either case, and needs no token.
        let example = EXAMPLE.replace("export async function", "async function");
        let said = browser.promised(&format!("{example}; example('http://{}', '')", daemon.api));
        assert_eq!(said, json!(["p2pd", "hello, world!", "Hellllo", "0,255,128"]), "{allowed:?}");
    }
}

/// A round with the package, in an async function of `Daemon`, the API's place and the token.
const ROUND: &str = r#"
const daemon = new Daemon({ url, token });
const said = [(await daemon.version()).title];
const events = daemon.events();
const heard = events.next();
await new Promise((resolve) => setTimeout(resolve, 300));
const connection = await daemon.open("self", { name: "from_a_page" });
said.push((await heard).value.event);
await events.return();
await connection.send("ECHO in words");
said.push((await connection.receive()).text);
await connection.send(new Uint8Array([69, 67, 72, 79, 32, 0, 255]));
for await (const { bytes } of connection.messages()) {
    said.push(bytes.join());
    break;
}
const socket = connection.webSocket();
socket.binaryType = "arraybuffer";
await new Promise((resolve) => { socket.onopen = resolve; });
const answer = new Promise((resolve) => { socket.onmessage = resolve; });
socket.send("ECHO by WebSocket");
const { data } = await answer;
said.push(typeof data === "string" ? data : new TextDecoder().decode(data));
socket.close();
const session = await daemon.openSession("self");
const stream = await session.openStream();
await stream.write(new Blob(["a stream"]));
await stream.finish();
const theirs = await daemon.session(session.info.peer).accept({ timeout: 10 });
said.push(new TextDecoder().decode(await theirs.read({ timeout: 10 })));
await session.close();
said.push(await daemon.connection("nobody").receive().catch((why) => `${why.name} ${why.error}`));
return said;
"#;

#[test]
fn the_package_runs_in_pages_of_this_machine() {
    let profile = tempfile::tempdir().unwrap();
    let test = "javascript::the_package_runs_in_pages_of_this_machine";
    let Some(mut browser) = Browser::start(test, profile.path(), &[]) else { return };
    let daemon = Daemon::start();
    let page = format!("http://localhost:{}/", server().port());
    browser.call("Page.navigate", json!({"url": page}));
    browser.becomes(&format!("location.href === '{page}' && document.readyState === 'complete'"));
    let module = json!(PACKAGE);
    let said = browser.promised(&format!(
        "(async () => {{ \
           const place = URL.createObjectURL(new Blob([{module}], {{type: 'text/javascript'}})); \
           const {{ Daemon }} = await import(place); \
           const round = async (url, token) => {{ {ROUND} }}; \
           return await round('http://{}', '{}'); \
         }})()",
        daemon.api, daemon.token
    ));
    let expected = ["p2pd", "opening", "in words", "0,255", "by WebSocket", "a stream", "P2pdError 4"];
    assert_eq!(said, json!(expected));
}
