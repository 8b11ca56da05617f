//! The Javascript of the P2PD documents in a headless Chromium: `examples/rest.js`, from wherever a page may be.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use serde_json::json;

use crate::browser::Browser;
use crate::common::Daemon;

const EXAMPLE: &str = include_str!("../../../examples/rest.js");

/// A server of an empty page, as developers have one beside the daemon.
fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let page = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 15\r\n\
                        Connection: close\r\n\r\n<!doctype html>";
            let _ = stream.write_all(page.as_bytes());
        }
    });
    at
}

#[test]
fn the_example_runs_from_every_place_that_is_allowed() {
    let profile = tempfile::tempdir().unwrap();
    let test = "javascript::the_example_runs_from_every_place_that_is_allowed";
    let Some(mut browser) = Browser::start(test, profile.path()) else { return };
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
