//! Relayed addresses at a TURN server, and messages beside relayed connections, by REST.

use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use p2pd::servers::{Servers, TurnCredential};
use serde_json::{Value, json};

use crate::common::{Daemon, Running, p2pd, serve};

#[test]
fn a_relayed_address_sends_to_anybody_and_hears_whom_it_sent_to() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("servers.toml");
    let password = dir.path().join("password");
    let _serving = serve(&list, &["--turn-password-file", password.to_str().unwrap()]);
    let daemon = Daemon::with(&["--config", list.to_str().unwrap()]);
    let opened = daemon.ok("/p2p/turn/relay?timeout=10");
    let port = opened["relayed"][1].as_u64().unwrap();
    assert_eq!((&opened["name"], &opened["relayed"][0]), (&"relay".into(), &"127.0.0.1".into()));
    assert_eq!(daemon.error("/p2p/turn/relay"), (409, 2));
    daemon.ok("/p2p/turn/relay/sub/msg_p/^hel+o");
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let peer_port = peer.local_addr().unwrap().port();
    let sent = daemon.ok(&format!("/p2p/turn/relay/send/127.0.0.1/{peer_port}/to%20you"));
    assert_eq!(sent["sent"], 6);
    let mut buffer = [0; 100];
    let (len, from) = peer.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..len], u64::from(from.port())), (&b"to you"[..], port));
    for text in ["other", "helllo"] {
        peer.send_to(text.as_bytes(), from).unwrap();
    }
    let heard = daemon.ok("/p2p/turn/relay/recv/msg_p/^hel+o/timeout/10");
    assert_eq!((&heard["data"], &heard["client_tup"][1]), (&"helllo".into(), &peer_port.into()));
    assert_eq!(daemon.ok("/p2p/turn/relay/recv/timeout/10")["data"], "other");
    // Its limits.
    assert_eq!(daemon.error("/p2p/turn/relay/send/::1/9/x"), (400, 26));
    assert_eq!(daemon.error(&format!("/p2p/turn/relay/send/127.0.0.1/9/{}", "x".repeat(1401))), (413, 7));
    assert_eq!(daemon.error("/p2p/turn/relay/send/example.com/9/x"), (400, 26));
    assert_eq!(daemon.error("/p2p/turn/relay/recv/msg_p/other"), (404, 27));
    daemon.ok("/p2p/turn/relay/recv/timeout/0");
    assert_eq!(daemon.error("/p2p/turn/relay/recv/timeout/0"), (504, 6));
    let listed = daemon.ok("/p2p/turn");
    assert_eq!(
        (&listed["turns"][0]["name"], &listed["turns"][0]["relayed"]),
        (&"relay".into(), &opened["relayed"])
    );
    assert_eq!(daemon.ok("/p2p/turn/relay/close")["closed"], "relay");
    assert_eq!(daemon.ok("/p2p/turn")["turns"], serde_json::json!([]));
    assert_eq!(daemon.error("/p2p/turn/relay/recv"), (404, 4));
    // No IPv6 there, and no server at all.
    assert_eq!(daemon.error("/p2p/turn/relay?family=6").0, 502);
    assert_eq!(daemon.error("/p2p/turn/relay?family=5"), (400, 26));
    assert_eq!(Daemon::start().error("/p2p/turn/relay"), (502, 3));
}

/// A server of ours behind TLS, and the pin of its key; `None` without socat and openssl.
fn behind_tls(dir: &Path, port: u16) -> Option<(Running, u16, String)> {
    let make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=a -days 9 \
        -keyout key -out cert && cat key cert > both && openssl x509 -in cert -noout -pubkey \
        | openssl pkey -pubin -outform der | sha256sum";
    let made = Command::new("sh").args(["-c", make]).current_dir(dir).stderr(Stdio::null()).output().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listen = format!(
        "OPENSSL-LISTEN:{free},bind=127.0.0.1,reuseaddr,fork,verify=0,cert={}",
        dir.join("both").display()
    );
    let socat =
        Command::new("socat").arg(listen).arg(format!("TCP:127.0.0.1:{port}")).stderr(Stdio::null()).spawn();
    let (true, Ok(socat)) = (made.status.success(), socat) else {
        let required = std::env::var("P2PD_REQUIRE_LAB").is_ok_and(|value| value == "1");
        assert!(!required, "P2PD_REQUIRE_LAB=1, but there is no socat or no openssl");
        let _ = std::io::stderr().write_all(b"SKIPPED turn: TLS, without socat and openssl\n");
        return None;
    };
    let (socat, began) = (Running(socat), Instant::now());
    while TcpStream::connect(("127.0.0.1", free)).is_err() {
        assert!(began.elapsed() < Duration::from_secs(10), "socat does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    let pin = String::from_utf8(made.stdout).unwrap();
    Some((socat, free, pin.split_whitespace().next().unwrap().to_owned()))
}

#[test]
fn a_server_of_the_call_is_asked_over_udp_tcp_and_tls() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("servers.toml");
    let password = dir.path().join("password");
    let _serving = serve(&list, &["--turn-password-file", password.to_str().unwrap()]);
    let server = Servers::read(&list).unwrap().turn[0].clone();
    let TurnCredential::Password { user, password } = &server.credential else { panic!("{server:?}") };
    let entry = json!({"host": server.host, "port": server.port, "user": user, "password": password});
    let with = |key: &str, value: &str| {
        let mut entry = entry.clone();
        entry[key] = value.into();
        entry
    };
    let daemon = Daemon::start();
    let post = |name: &str, entry: &Value| {
        let path = format!("/p2p/turn/{name}?timeout=10");
        daemon.curl(&path, &["--data-binary", &entry.to_string()])
    };
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let to = peer.local_addr().unwrap().port();
    let relays = |name: &str, entry: &Value| {
        let (status, opened) = post(name, entry);
        assert_eq!(status, 200, "{name}: {opened}");
        let mut buffer = [0; 100];
        daemon.ok(&format!("/p2p/turn/{name}/send/127.0.0.1/{to}/hello"));
        let (len, from) = peer.recv_from(&mut buffer).unwrap();
        assert_eq!(
            (&buffer[..len], u64::from(from.port())),
            (&b"hello"[..], opened["relayed"][1].as_u64().unwrap())
        );
        peer.send_to(name.as_bytes(), from).unwrap();
        assert_eq!(daemon.ok(&format!("/p2p/turn/{name}/recv/timeout/10"))["data"], name);
    };
    relays("any", &entry);
    relays("udp", &with("transport", "udp"));
    relays("tcp", &with("transport", "tcp"));
    if let Some((_socat, port, pin)) = behind_tls(dir.path(), server.port) {
        let mut secure = with("pin", &pin);
        (secure["tls"], secure["port"]) = (true.into(), port.into());
        relays("tls", &secure);
        secure["pin"] = "00".repeat(32).into();
        let (status, why) = post("other", &secure);
        assert!(status == 502 && why["report"]["reason"].as_str().unwrap().contains("pin"), "{why}");
    }
    assert_eq!(post("wrong", &with("password", "wrong")).0, 502);
    // A list's rules; and neither a file nor a program of this machine is touched.
    let ran = dir.path().join("ran");
    let command = json!({"host": "127.0.0.1", "credential_command": ["touch", ran]});
    for (entry, word) in [
        (json!([]), "[[turn]]"),
        (json!({"host": "127.0.0.1"}), "no credentials"),
        (with("host", "a:1"), "host = "),
        (with("transport", "sctp"), "`udp` or `tcp`"),
        (with("proxy", "http://127.0.0.1:9"), "unknown field"),
        (json!({"host": "127.0.0.1", "auth": "none", "tls": true, "ca": "key"}), "PEM"),
        (command, "lists only"),
    ] {
        let (status, why) = post("bad", &entry);
        assert_eq!((status, &why["error"]), (400, &26.into()), "{entry}: {why}");
        assert!(why["msg"].as_str().unwrap().contains(word), "{entry}: {why}");
    }
    assert!(!ran.exists());
    // Without a body it is the list's, of which there is none.
    assert_eq!(daemon.curl("/p2p/turn/none", &["-X", "POST"]).0, 502);
}

#[test]
fn messages_beside_a_relayed_connection() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (list, key) = (path("servers.toml"), path("here"));
    let _serving = serve(list.as_ref(), &["--turn-password-file", &path("password")]);
    let id = p2pd(&["id", "--identity", &key]).stdout(Stdio::piped()).output().unwrap();
    let id = String::from_utf8(id.stdout).unwrap();
    let there = Daemon::with(&["--config", &list, "--accept", id.trim()]);
    let here = Daemon::with(&["--config", &list, "--identity", &key]);
    let opened = here.ok(&format!("/p2p/open/x/{}?strategies=relay", there.address));
    assert_eq!((&opened["strategy"], &opened["messages"]), (&"turn relay".into(), &true.into()));
    let at = format!("/p2p/msg/{}", here.id);
    // Nobody reads before the first call, and none is lost.
    here.ok("/p2p/msg/x/send/first");
    assert_eq!(there.ok(&format!("{at}/recv/timeout/20"))["data"], "first");
    there.ok(&format!("{at}/sub/msg_p/^hel+o"));
    for text in ["other", "helllo", "%ff%00"] {
        here.ok(&format!("/p2p/msg/x/send/{text}"));
    }
    assert_eq!(there.ok(&format!("{at}/recv/msg_p/^hel+o/timeout/20"))["data"], "helllo");
    let mut all: Vec<Value> = (0..3).map(|_| there.ok(&format!("{at}/recv/timeout/20"))).collect();
    all.sort_by_key(|message| message["data"].as_str().unwrap().len());
    assert_eq!(
        (&all[0]["base64"], &all[1]["data"], &all[2]["data"]),
        (&"/wA=".into(), &"other".into(), &"helllo".into())
    );
    // The connection's own bytes are others.
    here.ok("/p2p/send/x/bytes");
    assert_eq!(there.ok(&format!("/p2p/recv/{}", here.id))["data"], "bytes");
    assert_eq!(there.error(&format!("{at}/recv/timeout/0")), (504, 6));
    // As they come, until there are none: what the connection had, and what is beside it.
    let events = ["-H", "Accept: text/event-stream", "-H", &format!("X-P2PD-Token: {}", there.token)];
    let heard = std::thread::scope(|scope| {
        let waits = |path: String| scope.spawn(|| there.bare(&{ path }, &events));
        let streams = [waits(format!("{at}/recv/msg_p/^hel+o")), waits(format!("/p2p/recv/{}", here.id))];
        for path in ["msg/x/send/hello", "msg/x/send/no", "send/x/bytes", "msg/x/send/helllo"] {
            here.ok(&format!("/p2p/{path}"));
        }
        // Both have been answered once what they took is gone.
        std::thread::sleep(Duration::from_secs(1));
        here.ok("/p2p/close/x");
        streams.map(|stream| stream.join().unwrap())
    });
    let data = |(status, body): &(u16, Vec<u8>)| {
        assert_eq!(*status, 200);
        let text = String::from_utf8(body.clone()).unwrap();
        assert!(text.ends_with("\n\n") && text.contains("event: end\ndata: {"), "{text}");
        let lines = text.lines().filter_map(|line| line.strip_prefix("data: "));
        let mut said: Vec<String> = lines
            .filter_map(|line| {
                Some(serde_json::from_str::<Value>(line).unwrap()["data"].as_str()?.to_owned())
            })
            .collect();
        said.sort();
        said
    };
    assert_eq!(data(&heard[0]), ["helllo", "hello"]);
    assert_eq!(data(&heard[1]), ["bytes"]);
    // A direct connection has none.
    here.ok("/p2p/open/y/self");
    assert_eq!(here.error("/p2p/msg/y/send/z"), (409, 33));
    assert_eq!(here.error("/p2p/msg/z/recv"), (404, 4));
}
