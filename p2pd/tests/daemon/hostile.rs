//! Tests of clients that are refused, and of requests that do no harm.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use p2pd_core::{Config, PeerAddress, Plan, SecretKey, Strategy};

use crate::common::{Daemon, p2pd};

#[test]
fn the_api_is_for_this_machine_only() {
    for address in ["0.0.0.0:0", "192.0.2.1:12333", "[::]:0"] {
        let out = p2pd(&["daemon", "--no-servers", "--no-token", "--api", address]).output().unwrap();
        assert_eq!(out.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&out.stderr).contains("loopback"));
    }
}

#[test]
fn a_web_page_can_neither_ask_nor_see() {
    let daemon = Daemon::start();
    let token = format!("X-P2PD-Token: {}", daemon.token);
    let status = |path: &str, options: &[&str]| daemon.bare(path, options).0;
    // An image whose source is a call: no Origin, no token.
    for path in
        ["/p2p/open/x/self", "/p2p/send/x/y", "/p2p/con", "/p2p/close/x", "/events", "/nat", "/p2p/pipe/x"]
    {
        assert_eq!(status(path, &[]), 401, "{path}");
    }
    assert_eq!(status("/p2p/binary/x", &["--data-binary", "x"]), 401);
    assert_eq!(daemon.ok("/p2p/con")["cons"], serde_json::json!([]));
    assert_eq!(status("/p2p/addr", &["-H", "Sec-Fetch-Site: cross-site"]), 403);
    // A name that was made to mean 127.0.0.1.
    assert_eq!(status("/version", &["-H", "Host: evil.example"]), 421);
    assert_eq!(status("/p2p/con", &["-H", &token, "-H", "Host: evil.example:12333"]), 421);
    let absolute = daemon
        .raw(b"GET http://evil.example/version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert!(absolute.starts_with("HTTP/1.1 421 "), "{absolute}");
    // RFC 9112 has every server take an absolute target, and the target's host counts too.
    for (target, status) in [
        (format!("http://{}/version", daemon.api), 200),
        ("http://localhost/version".into(), 200),
        ("https://localhost/version".into(), 421),
        ("http://user@localhost/version".into(), 421),
        ("http://localhost.evil.example/version".into(), 421),
    ] {
        let answer = daemon
            .raw(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes());
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{target}: {answer}");
    }
    // Origins.
    assert_eq!(status("/version", &["-H", "Origin: http://evil.example"]), 403);
    assert_eq!(status("/version", &["-H", "Origin: null"]), 403);
    assert_eq!(status("/p2p/con", &["-H", "Origin: null"]), 403);
    assert_eq!(status("/p2p/con", &["-H", "Origin: null", "-H", &token]), 200);
    assert_eq!(status("/p2p/con", &["-H", "Origin: http://localhost:3000", "-H", &token]), 200);
    let headers = |options: &[&str]| {
        let (_, text) = daemon.bare("/p2p/addr", &[&["-i"], options].concat());
        String::from_utf8(text).unwrap().to_lowercase()
    };
    assert!(!headers(&["-H", "Origin: null"]).contains("access-control"));
    assert!(headers(&["-H", "Origin: null", "-H", &token]).contains("access-control-allow-origin: null\r\n"));
    // What a browser asks first.
    let ask = |origin: &str| {
        let origin = format!("Origin: {origin}");
        let options = ["-i", "-X", "OPTIONS", "-H", &origin, "-H", "Access-Control-Request-Method: DELETE"];
        let (status, text) = daemon.bare("/p2p/con/x", &options);
        (status, String::from_utf8(text).unwrap().contains("access-control-allow-origin: "))
    };
    assert_eq!((ask("http://127.0.0.1:8000"), ask("http://evil.example")), ((204, true), (403, false)));
}

#[test]
fn without_a_token_if_its_user_says_so() {
    let daemon = Daemon::with(&["--no-servers", "--no-token"]);
    // The documents' lines as they stand.
    assert_eq!(daemon.bare("/p2p/open/con_name/self", &[]).0, 200);
    assert_eq!(daemon.bare("/p2p/send/con_name/ECHO%20hello,%20world!", &[]).0, 200);
    assert_eq!(daemon.bare("/p2p/binary/con_name", &[]), (200, b"hello, world!".to_vec()));
    // Browsers say where a request comes from, even if it is an image.
    assert_eq!(daemon.bare("/p2p/close/con_name", &["-H", "Sec-Fetch-Site: cross-site"]).0, 403);
    assert_eq!(daemon.bare("/p2p/close/con_name", &["-H", "Host: evil.example"]).0, 421);
    // The WebSocket of a sandboxed frame, raw pipes and calls of it.
    let upgrade = |origin: &str| {
        daemon.raw(
            format!(
                "GET /p2p/pipe/con_name HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: {origin}\r\n\
                 Connection: close\r\n\r\n",
                daemon.api
            )
            .as_bytes(),
        )
    };
    for origin in ["null", "https://evil.example"] {
        let answer = upgrade(origin);
        assert!(answer.starts_with("HTTP/1.1 403 "), "{origin}: {answer}");
        let origin = format!("Origin: {origin}");
        assert_eq!(daemon.bare("/p2p/pipe/con_name", &["-H", &origin]).0, 403);
        assert_eq!(daemon.bare("/p2p/close/con_name", &["-H", &origin]).0, 403);
    }
    assert_eq!(daemon.bare("/p2p/close/con_name", &[]).0, 200);
}

#[test]
fn unknown_paths_methods_and_names_are_json() {
    let daemon = Daemon::start();
    for path in ["/xyz", "/xyz/version", "/version/", "/p2p", "/favicon.ico", "/p2p/../version", "//version"]
    {
        assert_eq!(daemon.error(path), (404, 1), "{path}");
    }
    assert_eq!(daemon.curl("/version", &["-X", "POST"]).0, 405);
    assert_eq!(daemon.curl("/p2p/binary/x", &["-X", "PUT"]).0, 405);
    assert_eq!(daemon.error("/p2p/con/a%2Fb"), (400, 23));
    assert_eq!(daemon.error("/p2p/con/%ff"), (400, 26));
    // What evaluated in P2PD is a pattern that matches nobody.
    daemon.ok("/p2p/open/x/self");
    daemon.ok("/p2p/sub/x/addr_p/('1'+str(__import__('os').getpid()),0)");
    assert_eq!(daemon.error("/p2p/recv/x/addr_p/('1'+str(__import__('os').getpid()),0)/timeout/0"), (504, 6));
}

#[test]
fn user_data_is_no_command() {
    let daemon = Daemon::start();
    daemon.ok("/p2p/open/x/self");
    let other = format!("/p2p/recv/{}", daemon.id);
    for (path, text) in [
        ("/p2p/send/x//version", "/version"),
        ("/p2p/send/x/p2p/close/x", "p2p/close/x"),
        ("/p2p/send/x/ID%20abc%0d%0a", "ID abc\r\n"),
        ("/p2p/send/x/P2P_DIRECT%20a%20TCP%20b", "P2P_DIRECT a TCP b"),
        ("/p2p/send/x/GET%20/p2p/close/x%20HTTP/1.1%0d%0a%0d%0a", "GET /p2p/close/x HTTP/1.1\r\n\r\n"),
        ("/p2p/send/x/ECHO", "ECHO"),
        ("/p2p/send/x/%3Cscript%3E", "<script>"),
    ] {
        daemon.ok(path);
        assert_eq!(daemon.ok(&other)["data"], text);
    }
    assert_eq!(daemon.error("/p2p/recv/x/timeout/0.1"), (504, 6));
}

#[test]
fn bodies_have_a_length_and_a_limit() {
    let daemon = Daemon::start();
    daemon.ok("/p2p/open/x/self");
    let token = &daemon.token;
    let post = |headers: &str, body: &str| {
        let head = format!(
            "POST /p2p/binary/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-P2PD-Token: {token}\r\n"
        );
        daemon.raw(format!("{head}{headers}\r\n{body}").as_bytes())
    };
    let none = post("", "");
    assert!(none.starts_with("HTTP/1.1 411 ") && none.contains("\"error\": 6"), "{none}");
    let chunked = post("Transfer-Encoding: chunked\r\n", "3\r\nin \r\n6\r\nchunks\r\n0\r\n\r\n");
    assert!(chunked.starts_with("HTTP/1.1 200 ") && chunked.contains("\"sent\": 9"), "{chunked}");
    assert_eq!(daemon.ok(&format!("/p2p/recv/{}", daemon.id))["data"], "in chunks");
    let broken = post("Transfer-Encoding: chunked\r\n", "x\r\n");
    assert!(broken.starts_with("HTTP/1.1 400 "), "{broken}");
    let chunk = format!("100000\r\n{}\r\n", "x".repeat(1 << 20));
    let endless = post("Transfer-Encoding: chunked\r\n", &(chunk.repeat(8) + "1\r\nx\r\n0\r\n\r\n"));
    assert!(endless.starts_with("HTTP/1.1 413 ") && endless.contains("\"error\": 7"), "{endless}");
    let long = post("Content-Length: 8388609\r\n", "");
    assert!(long.starts_with("HTTP/1.1 413 ") && long.contains("\"error\": 7"), "{long}");
    assert!(post("Content-Length: nine\r\n", "").starts_with("HTTP/1.1 400 "));
    assert!(post("Content-Length: 4\r\n", "ECHO").starts_with("HTTP/1.1 200 "));
    assert_eq!(daemon.ok(&format!("/p2p/recv/{}", daemon.id))["data"], "ECHO");
    // The largest that is taken: it comes out as it went in, in pieces.
    let file = daemon.dir.path().join("large");
    std::fs::write(&file, vec![b'x'; 8 << 20]).unwrap();
    let at = format!("@{}", file.display());
    assert_eq!(daemon.curl("/p2p/binary/x", &["--data-binary", &at]).1["sent"], 8 << 20);
    let heads =
        "GET /version HTTP/1.1\r\nHost: localhost\r\n".to_owned() + &format!("X: {}\r\n", "y".repeat(20_000));
    assert!(daemon.raw((heads + "\r\n").as_bytes()).starts_with("HTTP/1.1 431 "));
}

#[test]
fn slow_clients_are_let_go() {
    let daemon = Daemon::start();
    let mut slow = ["", "GET /vers", "GET /p2p/pipe/x HTTP/1.1\r\nHost:"].map(|begin| {
        let mut stream = daemon.socket();
        stream.write_all(begin.as_bytes()).unwrap();
        stream
    });
    let began = Instant::now();
    for stream in &mut slow {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
    }
    let took = began.elapsed();
    assert!((9..20).contains(&took.as_secs()), "{took:?}");
    daemon.ok("/version");
}

#[test]
fn a_client_that_leaves_gives_its_connect_up() {
    let daemon = Daemon::start();
    // A listener that never answers a hello keeps the connect waiting.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let gone = Daemon::start();
    let fields: Vec<&str> = gone.address.split(',').collect();
    let address = gone.address.replacen(fields[3], &port.to_string(), 1);
    let mut stream = daemon.socket();
    write!(stream, "GET /p2p/open/x/{address}?token={} HTTP/1.1\r\nHost: localhost\r\n\r\n", daemon.token)
        .unwrap();
    let _held = silent.accept().unwrap();
    assert_eq!(daemon.error("/p2p/open/x/self"), (409, 2));
    drop(stream);
    let free = || daemon.get("/p2p/open/x/self").0 == 200;
    assert!((0..200).any(|_| free() || {
        std::thread::sleep(Duration::from_millis(10));
        false
    }));
}

#[cfg(unix)]
#[test]
fn strangers_connections_keep_neither_the_token_nor_the_socket_file_out() {
    let _ = p2pd_tokio::raise_descriptor_limit();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("socket");
    let file = file.to_str().unwrap();
    let daemon = Daemon::with(&["--no-servers", "--unix", file]);
    // It keeps its connection, as a program does.
    let mut known = daemon.socket();
    let ask = format!("GET /p2p/con HTTP/1.1\r\nHost: localhost\r\nX-P2PD-Token: {}\r\n\r\n", daemon.token);
    let mut known = || {
        known.write_all(ask.as_bytes()).unwrap();
        let mut answer = [0; 15];
        known.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        let mut rest = [0; 4096];
        let _ = known.read(&mut rest).unwrap();
    };
    known();
    for begin in ["", "GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"] {
        let held: Vec<_> = (0..1100)
            .map(|_| {
                let mut stream = daemon.socket();
                let _ = stream.write_all(begin.as_bytes());
                stream
            })
            .collect();
        let began = Instant::now();
        assert_eq!(daemon.get("/p2p/con").0, 200);
        assert_eq!(crate::common::curl(&["--unix-socket", file], "http://localhost/p2p/con").0, 200);
        known();
        // In front of the ten seconds after which the silent ones go by themselves.
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        drop(held);
    }
}

/// As many descriptors as the system gives, so that they are not what bounds it.
#[tokio::test]
async fn one_key_has_an_eighth_of_the_places_for_peers() {
    let daemon = Daemon::start();
    let mut config = Config::new(SecretKey::from_bytes([7; 32]));
    config.bind = Some([127, 0, 0, 1].into());
    let node = p2pd_tokio::Node::bind(config).await.unwrap();
    let to: PeerAddress = daemon.address.parse().unwrap();
    let direct = [Strategy::Direct];
    let plan = Plan::new().strategies(direct).timeout(Duration::from_secs(5));
    let mut held = Vec::new();
    while let Ok(pipe) = node.connect_with(&to, plan.clone()).await {
        held.push(pipe);
        assert!(held.len() <= 128, "one key has more");
    }
    assert!(held.len() >= 16, "{}", held.len());
    // Another one has its own.
    let other = Daemon::start();
    other.ok(&format!("/p2p/open/x/{}", daemon.address));
}

#[test]
fn streams_of_events_have_a_number_and_an_end() {
    let daemon = Daemon::start();
    daemon.ok("/p2p/open/x/self");
    let ask = |path: &str| {
        let mut stream = daemon.socket();
        let token = &daemon.token;
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nX-P2PD-Token: {token}\r\n");
        stream.write_all(format!("{head}Accept: text/event-stream\r\n\r\n").as_bytes()).unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        (stream, String::from_utf8_lossy(&answer).into_owned())
    };
    let held: Vec<_> = (0..64).map(|n| ask(if n % 2 == 0 { "/events" } else { "/p2p/recv/x" })).collect();
    assert!(held.iter().all(|(_, answer)| answer == "HTTP/1.1 200"));
    for path in ["/events", "/p2p/recv/x"] {
        assert_eq!(ask(path).1, "HTTP/1.1 503", "{path}");
    }
    drop(held);
    let begin = Instant::now();
    daemon.ok("/p2p/sub/x/msg_p/no");
    let mut stream = loop {
        let (stream, answer) = ask("/p2p/recv/x/msg_p/no");
        if answer == "HTTP/1.1 200" {
            break stream;
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "{answer}");
        std::thread::sleep(Duration::from_millis(20));
    };
    // A stream of a subscription ends with it.
    assert_eq!(daemon.curl("/p2p/sub/x/msg_p/no", &["-X", "DELETE"]).0, 200);
    let (begin, mut heard) = (Instant::now(), String::new());
    while !heard.contains("event: end") {
        assert!(begin.elapsed() < Duration::from_secs(10), "{heard}");
        let mut piece = [0; 4096];
        let n = stream.read(&mut piece).unwrap();
        assert_ne!(n, 0, "{heard}");
        heard.push_str(&String::from_utf8_lossy(&piece[..n]));
    }
}

#[test]
fn the_token_is_said_nowhere_but_in_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    let file = file.to_str().unwrap();
    for json in [&["--json"][..], &[]] {
        let mut command = p2pd(&["daemon", "--no-servers", "--bind", "127.0.0.1", "--api", "127.0.0.1:0"]);
        command
            .args(["--token-file", file, "--log", "trace"])
            .args(json)
            .stdout(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        std::thread::sleep(Duration::from_secs(2));
        child.kill().unwrap();
        child.wait().unwrap();
        let mut said = String::new();
        out.read_to_string(&mut said).unwrap();
        err.read_to_string(&mut said).unwrap();
        let token = std::fs::read_to_string(file).unwrap();
        assert!(said.contains("http://127.0.0.1:") || said.contains("\"api\""), "{said}");
        assert!(said.contains(file) && !said.contains(token.trim()), "{said}");
    }
}
