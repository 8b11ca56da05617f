//! Connections that become a pipe.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::Daemon;

fn pipe(daemon: &Daemon, name: &str) -> TcpStream {
    let mut stream = daemon.socket();
    let token = &daemon.token;
    write!(stream, "GET /p2p/pipe/{name} HTTP/1.1\r\nHost: localhost\r\nX-P2PD-Token: {token}\r\n\r\n")
        .unwrap();
    stream
}

fn until(is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(30), "it does not come");
    }
}

fn read(stream: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    stream.read_exact(&mut data).unwrap();
    data
}

#[test]
fn a_node_id_alone_is_called_with_lan_alone() {
    let daemon = Daemon::start();
    for path in ["/p2p/open/x", "/p2p/session/x/open"] {
        let (status, json) = daemon.get(&format!("{path}/{}", daemon.id));
        assert_eq!((status, &json["error"]), (400, &24.into()), "{path}: {json}");
        assert!(json["msg"].as_str().unwrap().contains("--lan"), "{json}");
        // The name is free again.
        assert_eq!(daemon.error(&format!("{path}/nonsense")), (400, 24));
    }
    daemon.ok("/p2p/open/x/self");
}

#[test]
fn the_http_connection_becomes_the_pipe() {
    let daemon = Daemon::start();
    daemon.ok("/p2p/open/con_name/self");
    // What came before comes first.
    daemon.ok("/p2p/send/con_name/ECHO%20early,");
    until(|| daemon.ok("/p2p/con/con_name")["waiting"] == 1);
    let mut stream = pipe(&daemon, "con_name");
    stream.write_all(b"ECHO late").unwrap();
    assert_eq!(read(&mut stream, 10), b"early,late");
    // It is taken: for a second one, for sends, and for a WebSocket; and the API lives.
    assert_eq!(daemon.error("/p2p/send/con_name/x"), (409, 28));
    let mut second = pipe(&daemon, "con_name");
    let mut refused = String::new();
    second.read_to_string(&mut refused).unwrap();
    assert!(
        refused.starts_with("HTTP/1.1 409 Conflict\r\n") && refused.contains("\"error\": 28"),
        "{refused}"
    );
    assert_eq!(daemon.ok("/p2p/con/con_name")["piped"], true);
    // Its end is the pipe's, and frees the name at once: a client that has left looks the same.
    stream.shutdown(Shutdown::Write).unwrap();
    until(|| daemon.get("/p2p/con/con_name").0 == 404);
    daemon.ok("/p2p/open/con_name/self");
    daemon.ok("/p2p/close/con_name");
    let mut rest = Vec::new();
    assert_eq!(daemon.ok(&format!("/p2p/recv/{}", daemon.id))["data"], "ECHO early,");
    daemon.ok(&format!("/p2p/close/{}", daemon.id));
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"");
    until(|| daemon.get("/p2p/con/con_name").0 == 404);
    daemon.ok("/version");
}

/// A page listens to events, and a peer's last message waits to be read.
#[test]
fn a_daemon_ends_though_its_clients_stay() {
    let (mut here, there) = (Daemon::start(), Daemon::start());
    let mut page = here.socket();
    let head = format!("GET /events HTTP/1.1\r\nHost: localhost\r\nX-P2PD-Token: {}\r\n\r\n", here.token);
    page.write_all(head.as_bytes()).unwrap();
    assert_eq!(read(&mut page, 15), b"HTTP/1.1 200 OK");
    there.ok(&format!("/p2p/open/x/{}", here.address));
    there.ok("/p2p/send/x/last%20words");
    there.ok("/p2p/close/x");
    until(|| here.ok(&format!("/p2p/con/{}", there.id))["ended"] == true);
    let id = here.process.0.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let begin = Instant::now();
    while here.process.0.try_wait().unwrap().is_none() {
        assert!(begin.elapsed() < Duration::from_secs(10), "it goes on");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(here.process.0.wait().unwrap().code(), Some(0));
}

#[test]
fn bytes_of_any_kind_go_through_between_two_clients() {
    const LEN: usize = 8 << 20;
    let (here, there) = (Daemon::start(), Daemon::start());
    here.ok(&format!("/p2p/open/x/{}", there.address));
    until(|| there.get(&format!("/p2p/con/{}", here.id)).0 == 200);
    let (mut near, mut far) = (pipe(&here, "x"), pipe(&there, &here.id));
    // Both are pipes once this has come through.
    near.write_all(b"GET /p2p/close/x HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(read(&mut far, 29), b"GET /p2p/close/x HTTP/1.1\r\n\r\n");
    let data: Vec<u8> = (0..LEN as u32).map(|n| (n.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    let (there_way, back_way) = (data.clone(), data.iter().rev().copied().collect::<Vec<_>>());
    std::thread::scope(|scope| {
        for (stream, sent) in [(&near, &there_way), (&far, &back_way)] {
            scope.spawn(move || {
                let mut stream = stream;
                stream.write_all(sent).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
            });
        }
        let whole = |mut stream: &TcpStream| {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            all
        };
        let far = &far;
        let got = scope.spawn(move || whole(far));
        assert!(whole(&near) == back_way);
        assert!(got.join().unwrap() == there_way);
    });
}

#[test]
fn a_pipe_that_is_not_the_first_request_or_not_allowed_is_refused() {
    let daemon = Daemon::start();
    daemon.ok("/p2p/open/x/self");
    let token = &daemon.token;
    for (head, status) in [
        (format!("GET /p2p/pipe/x HTTP/1.1\r\nHost: evil.example\r\nX-P2PD-Token: {token}\r\n\r\n"), "421"),
        (
            format!(
                "GET /p2p/pipe/x HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\nX-P2PD-Token: {token}\r\n\r\n"
            ),
            "403",
        ),
        ("GET /p2p/pipe/x HTTP/1.1\r\nHost: localhost\r\n\r\n".into(), "401"),
        (format!("GET /p2p/pipe/x?token={token}&x=1 HTTP/1.1\r\nHost: localhost\r\n\r\n"), "400"),
        (format!("GET /p2p/pipe/y?token={token} HTTP/1.1\r\nHost: localhost\r\n\r\n"), "404"),
        (format!("GET /p2p/pipe/x/y?token={token} HTTP/1.1\r\nHost: localhost\r\n\r\n"), "404"),
        (format!("GET /p2p/pipe/?token={token} HTTP/1.1\r\nHost: localhost\r\n\r\n"), "400"),
        (format!("GET /p2p/pipe/x nonsense\r\nX-P2PD-Token: {token}\r\n\r\n"), "400"),
        (
            format!(
                "GET /version HTTP/1.1\r\nHost: localhost\r\n\r\nGET /p2p/pipe/x?token={token} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            ),
            "426",
        ),
    ] {
        let answer = daemon.raw(head.as_bytes());
        assert!(answer.contains(&format!("HTTP/1.1 {status} ")), "{head}: {answer}");
        assert!(answer.contains("\"error\": "), "{answer}");
    }
    assert_eq!(daemon.ok("/p2p/con/x")["piped"], false);
    // Neither Host nor Origin, as the documents' Python has it, but the token.
    let mut stream = daemon.socket();
    write!(stream, "GET /p2p/pipe/x?token={token} HTTP/1.1\r\n\r\nECHO hi").unwrap();
    assert_eq!(read(&mut stream, 2), b"hi");
}

/// A masked frame, as clients send.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let mut frame = vec![0x80 | opcode, 0x80 | payload.len() as u8];
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

#[test]
fn a_web_socket_leaves_the_connection_open() {
    let daemon = Daemon::start();
    daemon.ok("/p2p/open/x/self");
    let mut stream = daemon.socket();
    write!(
        stream,
        "GET /p2p/pipe/x?token={} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        daemon.token
    )
    .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(read(&mut stream, 1)[0]);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    // The key's answer is that of RFC 6455's example.
    assert!(head.starts_with("http/1.1 101 ") && head.contains("s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    stream.write_all(&frame(2, b"ECHO \x00\xff")).unwrap();
    assert_eq!(read(&mut stream, 4), [0x82, 2, 0, 0xff]);
    stream.write_all(&frame(1, b"ECHO text")).unwrap();
    assert_eq!(read(&mut stream, 6), b"\x82\x04text");
    assert_eq!(daemon.error("/p2p/send/x/y"), (409, 28));
    stream.write_all(&frame(8, &[])).unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    until(|| daemon.ok("/p2p/con/x")["piped"] == false);
    daemon.ok("/p2p/send/x/ECHO%20again");
    assert_eq!(daemon.ok("/p2p/recv/x")["data"], "again");
}
