//! The lines of the P2PD documents, between two daemons on loopback.

use serde_json::json;

use crate::common::{Daemon, curl, p2pd, serve};
use crate::sessions::told;

#[test]
fn version_and_address() {
    let daemon = Daemon::start();
    let version = daemon.ok("/version");
    assert_eq!((&version["title"], &version["version"]), (&"p2pd".into(), &env!("CARGO_PKG_VERSION").into()));
    assert_eq!(daemon.ok("/p2p/addr"), json!({"addr": daemon.address, "error": 0}));
    let (status, picture) = daemon.bare("/p2p/addr/qr", &[]);
    assert_eq!((status, picture.starts_with(b"<?xml")), (200, true), "{}", String::from_utf8_lossy(&picture));
}

#[test]
fn interfaces_and_which_of_them_a_connection_uses() {
    let daemon = Daemon::start();
    let ifs = daemon.ok("/ifs");
    let of = &ifs["ifs"][0];
    assert_eq!(ifs["ifs"].as_array().unwrap().len(), 1);
    assert_eq!((&of["ip"], &of["offset"], &of["ext"]), (&"127.0.0.1".into(), &0.into(), &"127.0.0.1".into()));
    assert_eq!(of["nat"], daemon.ok("/nat")["nats"][0]);
    assert_eq!(of["nat"]["local"], "127.0.0.1");
    assert_eq!(daemon.bare("/ifs", &[]).0, 401, "not for everybody");
    let opened = daemon.ok("/p2p/open/con_name/self");
    assert_eq!(opened["if"], json!({"name": of["name"], "offset": 0}));
    let range = json!([{"af": 2, "cidr": 32, "ip": "127.0.0.1"}]);
    let ours = json!({"family": "IPv4", "nic": "127.0.0.1", "ext": "127.0.0.1"});
    let route = &opened["route"];
    assert_eq!((&route["af"], &route["nic_ips"], &route["ext_ips"]), (&2.into(), &range, &range));
    assert_eq!(json!({"family": route["family"], "nic": route["nic"], "ext": route["ext"]}), ours);
    assert!(opened["fd"].as_u64() > Some(2), "{opened}");
    assert_eq!(opened["protocol"], json!(null));
    assert_eq!(daemon.ok("/p2p/open/named/self?protocol=chat%2F1")["protocol"], "chat/1");
    assert_eq!(daemon.ok("/p2p/con/con_name")["fd"], opened["fd"]);
}

#[test]
fn a_head_is_what_get_has_without_its_body_and_options_are_named() {
    let daemon = Daemon::start();
    let token = format!("X-P2PD-Token: {}", daemon.token);
    for path in ["/", "/version", "/openapi.json", "/p2p/addr", "/p2p/con"] {
        let head = |more: &[&str]| {
            let (status, text) = daemon.bare(path, &[&["-i", "-H", &token], more].concat());
            let text = String::from_utf8(text).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            let mut lines: Vec<String> = head.lines().map(str::to_lowercase).collect();
            lines.retain(|line| !line.starts_with("date: "));
            (status, lines, body.len())
        };
        let (get, asked) = (head(&[]), head(&["-I"]));
        assert_eq!((asked.0, &asked.1, asked.2), (200, &get.1, 0), "{path}");
    }
    // What takes or changes something is no HEAD.
    assert_eq!(daemon.bare("/p2p/open/x/self", &["-I", "-H", &token]).0, 405);
    assert_eq!(daemon.error("/p2p/con/x"), (404, 4));
    for (path, said) in [
        ("/p2p/open/x/self?relayfirst=1", "This call has no option relayfirst."),
        ("/p2p/con?%1b[2J=1", "This call has no option \\u{1b}[2J."),
        (
            "/p2p/open/x/self?mode=plain&mode=plain",
            "The option mode is given twice, or there are more than 16.",
        ),
        ("/p2p/open/x/self?relay_first=2", "The option relay_first has a value that it cannot have."),
        (
            "/p2p/open/x/self?strategies=direct&relay_first=1",
            "The option relay_first has a value that it cannot have.",
        ),
    ] {
        let (status, json) = daemon.get(path);
        assert_eq!((status, &json["error"], &json["msg"]), (400, &26.into(), &said.into()), "{path}");
    }
}

#[test]
fn connect_to_oneself_and_echo() {
    let daemon = Daemon::start();
    let opened = daemon.ok("/p2p/open/con_name/self");
    assert_eq!((&opened["name"], &opened["strategy"]), (&"con_name".into(), &"direct connect".into()));
    assert_eq!((&opened["laddr"][0], &opened["raddr"][0]), (&"127.0.0.1".into(), &"127.0.0.1".into()));
    assert_eq!(
        daemon.ok("/p2p/send/con_name/ECHO%20hello,%20world!"),
        json!({"name": "con_name", "sent": 18, "error": 0})
    );
    let port = opened["raddr"][1].clone();
    assert_eq!(
        daemon.ok("/p2p/recv/con_name"),
        json!({"client_tup": ["127.0.0.1", port], "data": "hello, world!", "dropped": 0, "error": 0})
    );
    // Nothing else came.
    assert_eq!(daemon.error("/p2p/recv/con_name/timeout/0.1"), (504, 6));
    assert_eq!(daemon.error("/p2p/open/con_name/self"), (409, 2));
    assert_eq!(daemon.error("/p2p/send/other/x"), (404, 4));
    // The other end is a connection too, named by the peer's id, which is our own; it was told what it echoed.
    assert_eq!(daemon.ok(&format!("/p2p/recv/{}", daemon.id))["data"], "ECHO hello, world!");
}

#[test]
fn two_daemons_by_a_broker_and_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("servers.toml");
    let _serving = serve(&list, &["--no-turn"]);
    let config = ["--config", list.to_str().unwrap()];
    let here = Daemon::with(&config);
    // On loopback a stranger's reverse connect is not dialled.
    let there = Daemon::with(&[&config[..], &["--accept", &here.id]].concat());
    // The broker is in the address.
    assert!(there.address.starts_with("0-"), "{}", there.address);
    for (name, strategy, said) in [
        ("d", "direct", "direct connect"),
        ("r", "reverse", "reverse connect"),
        ("p", "punch", "tcp punch"),
        ("u", "udp", "udp punch"),
    ] {
        let opened = here.ok(&format!("/p2p/open/{name}/{}?strategies={strategy}", there.address));
        assert_eq!((&opened["strategy"], &opened["peer"]), (&said.into(), &there.id.clone().into()));
        here.ok(&format!("/p2p/send/{name}/{strategy}"));
    }
    let incoming =
        [here.id.clone(), format!("{}.2", here.id), format!("{}.3", here.id), format!("{}.4", here.id)];
    for (name, strategy) in incoming.iter().zip(["direct", "reverse", "punch", "udp"]) {
        assert_eq!(there.ok(&format!("/p2p/recv/{name}"))["data"], strategy);
    }
    there.ok(&format!("/p2p/send/{}/and%20back", incoming[1]));
    assert_eq!(here.ok("/p2p/recv/r")["data"], "and back");
    let names = |daemon: &Daemon| {
        let list = daemon.ok("/p2p/con");
        list["cons"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (names(&here), names(&there)),
        (["d", "p", "r", "u"].map(String::from).to_vec(), incoming.to_vec())
    );
    let shown = here.ok("/p2p/con/r");
    assert_eq!((&shown["sent"], &shown["received"]), (&7.into(), &8.into()));
    // Closed here, it ends there, and is off the list once nothing waits in it.
    assert_eq!(here.ok("/p2p/close/d"), json!({"closed": "d", "error": 0}));
    assert_eq!(here.error("/p2p/con/d"), (404, 4));
    while there.get(&format!("/p2p/con/{}", incoming[0])).0 != 404 {}
    assert_eq!(here.curl("/p2p/con/r", &["-X", "DELETE"]).0, 200);
    let nat = here.ok("/nat");
    assert_eq!(nat["nats"][0]["local"], "127.0.0.1");
}

#[test]
fn subscriptions() {
    let daemon = Daemon::start();
    daemon.ok("/p2p/open/con_name/self");
    let hello = "/p2p/sub/con_name/msg_p/[hH]e[l]+o/addr_p/127[.]0[.]0[.]1:[0-9]+";
    let subscribed = json!(["[hH]e[l]+o", "127[.]0[.]0[.]1:[0-9]+"]);
    assert_eq!(daemon.ok(hello), json!({"name": "con_name", "sub": subscribed, "error": 0}));
    daemon.ok("/p2p/sub/con_name/msg_p/(a+)+$");
    for text in ["hello,%20world!", "bye", "Hellllo"] {
        daemon.ok(&format!("/p2p/send/con_name/ECHO%20{text}"));
        // One at a time: a message is a record.
        let (status, _) = daemon.get("/p2p/recv/con_name");
        assert_eq!(status, 200);
    }
    let recv = hello.replace("/sub/", "/recv/");
    assert_eq!(daemon.ok(&recv)["data"], "hello, world!");
    assert_eq!(daemon.ok(&recv)["data"], "Hellllo");
    assert_eq!(daemon.error(&format!("{recv}/timeout/0")), (504, 6));
    assert_eq!(daemon.error("/p2p/recv/con_name/msg_p/(a+)+$/timeout/0"), (504, 6));
    let (status, json) = daemon.curl(hello, &["-X", "DELETE"]);
    assert_eq!((status, json), (200, json!({"name": "con_name", "unsub": subscribed, "error": 0})));
    assert_eq!(daemon.error(&recv), (404, 27));
    assert_eq!(daemon.curl(hello, &["-X", "DELETE"]).0, 404);
    assert_eq!(daemon.error("/p2p/sub/con_name/msg_p/x{1000}{1000}"), (400, 25));
    // Nothing subscribes for the first time by reading.
    assert_eq!(daemon.error("/p2p/recv/con_name/msg_p/new"), (404, 27));
}

#[test]
fn binary() {
    let daemon = Daemon::start();
    daemon.ok("/p2p/open/con_name/self");
    let file = daemon.dir.path().join("file");
    let bytes: Vec<u8> = b"ECHO ".iter().copied().chain((0..=255).rev()).collect();
    std::fs::write(&file, &bytes).unwrap();
    let at = format!("@{}", file.display());
    let octets = "Content-Type: application/octet-stream";
    let (status, json) =
        daemon.curl("/p2p/binary/con_name", &["-X", "POST", "-H", octets, "--data-binary", &at]);
    assert_eq!((status, json), (200, json!({"name": "con_name", "sent": bytes.len(), "error": 0})));
    let token = format!("X-P2PD-Token: {}", daemon.token);
    let (status, body) = daemon.bare("/p2p/binary/con_name", &["-H", &token]);
    assert_eq!((status, &body[..]), (200, &bytes[5..]));
    // As JSON, what is no text is there in full too.
    daemon.curl("/p2p/binary/con_name", &["--data-binary", &at]);
    let json = daemon.ok("/p2p/recv/con_name");
    assert_eq!(json["base64"], data_encoding::BASE64.encode(&bytes[5..]));
}

#[test]
fn a_full_queue_does_as_it_was_told() {
    let (here, there) = (Daemon::start(), Daemon::start());
    for overflow in ["oldest", "newest", "wait"] {
        here.ok(&format!("/p2p/open/{overflow}/{}?overflow={overflow}&queue=2", there.address));
    }
    // Named in the order they were opened.
    let names = [there_name(&here, 1), there_name(&here, 2), there_name(&here, 3)];
    for (name, overflow, kept) in [
        (&names[0], "oldest", &["2", "3"][..]),
        (&names[1], "newest", &["1", "2"]),
        (&names[2], "wait", &["1", "2", "3"]),
    ] {
        for text in ["1", "2", "3"] {
            there.ok(&format!("/p2p/send/{name}/{text}"));
        }
        // All that is to come has come once this is so.
        let expected = if overflow == "wait" { 0 } else { 1 };
        let path = format!("/p2p/con/{overflow}");
        let settled = || here.ok(&path)["waiting"] == 2 && here.ok(&path)["dropped"] == expected;
        assert!((0..200).any(|_| settled() || {
            std::thread::sleep(std::time::Duration::from_millis(10));
            false
        }));
        for text in kept {
            assert_eq!(here.ok(&format!("/p2p/recv/{overflow}"))["data"], *text, "{overflow}");
        }
        assert_eq!(here.error(&format!("/p2p/recv/{overflow}/timeout/0.1")), (504, 6));
    }
    assert_eq!(here.error("/p2p/open/x/self?overflow=other"), (400, 26));
    assert_eq!(here.error("/p2p/open/x/self?queue=1001"), (400, 26));
    assert_eq!(here.error("/p2p/open/x/self?other=1"), (400, 26));
}

fn there_name(here: &Daemon, n: usize) -> String {
    if n == 1 { here.id.clone() } else { format!("{}.{n}", here.id) }
}

#[test]
fn a_failed_connect_says_what_was_tried() {
    let daemon = Daemon::start();
    let nobody = {
        let gone = Daemon::start();
        gone.address.clone()
    };
    let (status, json) = daemon.get(&format!("/p2p/open/x/{nobody}?strategies=direct&timeout=5"));
    assert_eq!((status, &json["error"]), (502, &3.into()), "{json}");
    assert_eq!(json["report"]["strategies"][0]["strategy"], "direct");
    assert_eq!(json["report"]["strategies"][0]["outcome"], "failed");
    // The name is free again.
    daemon.ok("/p2p/open/x/self");
    // P2PD's own example of an address has no first part.
    assert_eq!(daemon.error("/p2p/open/y/[0,1.3.3.7,...]-0-looongcatislong"), (400, 24));
}

#[test]
fn events_tell_of_a_connect() {
    use std::io::{BufRead, BufReader, Write};
    let daemon = Daemon::start();
    let mut stream = daemon.socket();
    write!(stream, "GET /events?token={} HTTP/1.1\r\nHost: localhost\r\n\r\n", daemon.token).unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "HTTP/1.1 200 OK");
    assert!(
        lines.by_ref().take_while(|line| !line.is_empty()).any(|l| l == "content-type: text/event-stream")
    );
    daemon.ok("/p2p/open/x/self");
    daemon.ok("/p2p/close/x");
    let mut events = lines.filter_map(|line| {
        let event = line.strip_prefix("data: ")?.to_owned();
        serde_json::from_str::<serde_json::Value>(&event).ok()
    });
    let mut seen = Vec::new();
    while !seen.iter().any(|e: &serde_json::Value| e["event"] == "closed" && e["name"] == "x") {
        seen.push(events.next().unwrap());
    }
    let connect = seen.iter().find(|e| e["event"] == "opening").unwrap()["connect"].clone();
    let of = |name: &str| seen.iter().filter(|e| e["event"] == name).collect::<Vec<_>>();
    assert!(of("progress").iter().any(|e| e["connect"] == connect && e["stage"] == "started"));
    assert_eq!(
        (of("opened")[0]["connect"].clone(), &of("opened")[0]["connection"]["name"]),
        (connect, &"x".into())
    );
    assert_eq!(of("incoming")[0]["connection"]["name"], daemon.id);
}

#[test]
fn a_unix_socket_asks_for_no_token() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api");
    let daemon = Daemon::with(&["--no-servers", "--unix", path.to_str().unwrap()]);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let (status, body) = curl(&["--unix-socket", path.to_str().unwrap()], "http://localhost/p2p/con");
    assert_eq!(
        (status, serde_json::from_slice::<serde_json::Value>(&body).unwrap()),
        (200, json!({"cons": [], "error": 0}))
    );
    // A second one does not take it away; one that was left behind does not stand in the way.
    let mut second = p2pd(&[
        "daemon",
        "--no-servers",
        "--bind",
        "127.0.0.1",
        "--api",
        "127.0.0.1:0",
        "--no-token",
        "--unix",
    ]);
    let out = second.arg(&path).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    drop(daemon);
    assert!(path.exists());
    let _again = Daemon::with(&["--no-servers", "--unix", path.to_str().unwrap()]);
    assert_eq!(curl(&["--unix-socket", path.to_str().unwrap()], "http://localhost/version").0, 200);
}

#[test]
fn a_peer_is_opened_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("servers.toml");
    let _serving = serve(&list, &["--no-turn"]);
    let keys = [dir.path().join("here"), dir.path().join("there")].map(|k| k.to_str().unwrap().to_owned());
    let config = ["--config", list.to_str().unwrap(), "--identity"];
    let there = Daemon::with(&[&config[..], &[&keys[1], "--name", "example"]].concat());
    let here = Daemon::with(&[&config[..], &[&keys[0]]].concat());
    let opened = here.ok("/p2p/open/con_name/example.peer");
    assert_eq!(opened["peer"], there.id);
    here.ok("/p2p/send/con_name/by%20name");
    assert_eq!(there.ok(&format!("/p2p/recv/{}", here.id))["data"], "by name");
    assert_eq!(here.error("/p2p/open/other/nobody.peer"), (502, 3));
    assert_eq!(here.error("/p2p/open/other/no_name.peer"), (400, 24));
    let pins = std::fs::read_to_string(dir.path().join("here.names")).unwrap();
    assert!(pins.starts_with(&format!("example {} ", there.id)), "{pins}");
}

#[test]
fn a_connection_is_relayed_first_where_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (list, key) = (path("servers.toml"), path("here"));
    let _serving = serve(list.as_ref(), &["--turn-password-file", &path("password")]);
    let id = p2pd(&["id", "--identity", &key]).stdout(std::process::Stdio::piped()).output().unwrap();
    let id = String::from_utf8(id.stdout).unwrap();
    let there = Daemon::with(&["--config", &list, "--accept", id.trim()]);
    let here = Daemon::with(&["--config", &list, "--identity", &key]);
    // Direct alone would be there first on one machine; as the second strategy it begins later.
    let open = format!("/p2p/open/x/{}?strategies=relay,direct&relay_first=1", there.address);
    let opened = here.ok(&open);
    assert_eq!(opened["strategy"], "turn relay", "{opened}");
    // This machine's way to the relay.
    assert_eq!((&opened["route"]["nic"], &opened["if"]["offset"]), (&"127.0.0.1".into(), &0.into()));
    here.ok("/p2p/send/x/relayed");
    assert_eq!(there.ok(&format!("/p2p/recv/{}", here.id))["data"], "relayed");
    // A session goes over to the better way.
    let (events, open) = (here.follow(), format!("/p2p/session/s/open/{}", there.address));
    let opened = here.ok(&format!("{open}?strategies=relay,direct&relay_first=1"));
    assert_eq!(opened["carrier"]["strategy"], "relay", "{opened}");
    assert_eq!(told(&events, "session_moved", "s")["strategy"], "direct");
}
