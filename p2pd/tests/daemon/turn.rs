//! Relayed addresses at a TURN server, by REST.

use std::net::UdpSocket;
use std::time::Duration;

use crate::common::{Daemon, serve};

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
