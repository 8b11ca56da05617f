//! `/metrics` of the daemon, of `expose` and of `serve`.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{Daemon, curl, p2pd, serve, start};

/// The value of a line of the text.
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series}: {text}")).parse().unwrap()
}

fn read(at: &Value) -> String {
    let (status, text) = curl(&[], &format!("http://{}/metrics", at.as_str().unwrap()));
    assert_eq!(status, 200);
    String::from_utf8(text).unwrap()
}

#[test]
fn a_daemon_tells_what_it_did() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("servers.toml");
    let _serving = serve(&list, &["--no-turn"]);
    let (here, there) = (Daemon::with(&["--config", list.to_str().unwrap()]), Daemon::start());
    let text = || {
        let token = format!("Authorization: Bearer {}", here.token);
        let (status, text) = here.bare("/metrics", &["-H", &token]);
        assert_eq!(status, 200);
        String::from_utf8(text).unwrap()
    };
    let before = text();
    assert_eq!(value(&before, "p2pd_opened_total{strategy=\"direct\"}"), 0.0);
    assert_eq!(value(&before, "p2pd_connections"), 0.0);
    here.ok(&format!("/p2p/open/mine/{}", there.address));
    here.ok("/p2p/send/mine/12345");
    here.ok(&format!("/p2p/session/too/open/{}", there.address));
    here.ok("/p2p/session/too/stream");
    here.curl("/p2p/session/too/stream/0", &["--data-binary", "123"]);
    // A peer that is not there: its node's key is another one's.
    let nobody = there.address.replace(&there.id, &here.id);
    assert_eq!(here.error(&format!("/p2p/open/no/{nobody}?strategies=direct&timeout=3")), (502, 3));
    let begin = Instant::now();
    let after = loop {
        let after = text();
        // The broker was ready by now, or will be.
        if value(&after, "p2pd_broker_ready{id=\"0\"}") == 1.0 {
            break after;
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "{after}");
        std::thread::sleep(Duration::from_millis(50));
    };
    for (series, is) in [
        ("p2pd_opened_total{strategy=\"direct\"}", 2.0),
        ("p2pd_opened_total{strategy=\"relay\"}", 0.0),
        ("p2pd_open_seconds_count", 2.0),
        ("p2pd_failed_total{reason=\"strategies_failed\"}", 1.0),
        ("p2pd_open_seconds_bucket{le=\"+Inf\"}", 2.0),
        ("p2pd_bytes_total{direction=\"sent\",strategy=\"direct\"}", 8.0),
        ("p2pd_connections", 1.0),
        ("p2pd_sessions_opened", 1.0),
        ("p2pd_sessions_incoming", 0.0),
    ] {
        assert_eq!(value(&after, series), is, "{series}: {after}");
    }
    assert!(!after.contains(&there.id) && !after.contains(&here.id) && !after.contains("127.0.0.1"));
    assert_eq!(here.bare("/metrics", &[]).0, 401, "not for everybody");
}

/// A caller that has sent a thousand bytes to a listener with these options, and has them back. Returns the texts of both.
fn talked(listen: &[&str], connect: &[&str]) -> [String; 2] {
    let local = ["--json", "--no-servers", "--bind", "127.0.0.1", "--metrics", "127.0.0.1:0"];
    let of = |said: &[Value], name: &str| said.iter().find(|event| event["event"] == name).unwrap().clone();
    let (_listener, said) = start(p2pd(&[&["listen"][..], &local, listen].concat()), "ready");
    let (theirs, address) = (of(&said, "metrics"), of(&said, "ready")["address"].clone());
    let mut caller = p2pd(&[&["connect", address.as_str().unwrap()][..], &local, connect].concat());
    caller.stdin(Stdio::piped()).stdout(Stdio::piped());
    let (mut caller, said) = start(caller, "connected");
    let ours = of(&said, "metrics");
    caller.0.stdin.as_mut().unwrap().write_all(&[7; 1000]).unwrap();
    let mut back = [0; 1000];
    caller.0.stdout.as_mut().unwrap().read_exact(&mut back).unwrap();
    assert_eq!(back, [7; 1000]);
    [ours, theirs].map(|metrics| read(&metrics["at"]))
}

#[test]
fn listen_and_connect_have_a_port_for_it() {
    for (listen, connect) in
        [(&["--echo"][..], &[][..]), (&["--exec", "cat"], &[]), (&["--exec", "cat"], &["--streams"])]
    {
        let [ours, theirs] = talked(listen, connect);
        for text in [&ours, &theirs] {
            for direction in ["sent", "received"] {
                let series = format!("p2pd_bytes_total{{direction=\"{direction}\",strategy=\"direct\"}}");
                assert_eq!(value(text, &series), 1000.0, "{listen:?} {connect:?}: {text}");
            }
            assert_eq!(value(text, "p2pd_bytes_total{direction=\"sent\",strategy=\"relay\"}"), 0.0);
        }
        assert_eq!(value(&ours, "p2pd_opened_total{strategy=\"direct\"}"), 1.0);
        assert_eq!(value(&theirs, "p2pd_accepted_total{strategy=\"direct\"}"), 1.0);
    }
}

#[test]
fn expose_and_serve_have_a_port_for_it() {
    let echo = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = echo.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in echo.incoming() {
            let mut stream = stream.unwrap();
            let mut back = stream.try_clone().unwrap();
            std::io::copy(&mut stream, &mut back).unwrap();
            back.shutdown(Shutdown::Write).unwrap();
        }
    });
    let local = ["--json", "--no-servers", "--bind", "127.0.0.1"];
    let service = format!("echo={at}");
    let expose = ["expose", &service, "--anyone", "--metrics", "127.0.0.1:0"];
    let (_exposer, said) = start(p2pd(&[&expose[..], &local].concat()), "ready");
    let of = |said: &[Value], name: &str| said.iter().find(|event| event["event"] == name).unwrap().clone();
    let (metrics, address) = (of(&said, "metrics")["at"].clone(), of(&said, "ready")["address"].clone());
    let forward = ["forward", address.as_str().unwrap(), "echo", "0"];
    let (_forwarder, said) = start(p2pd(&[&forward[..], &local].concat()), "forwards");
    let mut stream = TcpStream::connect(of(&said, "forwards")["at"].as_str().unwrap()).unwrap();
    stream.write_all(&[7; 1000]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    assert_eq!(back, [7; 1000]);
    let text = read(&metrics);
    for direction in ["sent", "received"] {
        let series = format!("p2pd_bytes_total{{direction=\"{direction}\",strategy=\"direct\"}}");
        assert_eq!(value(&text, &series), 1000.0, "{text}");
    }
    assert_eq!(value(&text, "p2pd_accepted_total{strategy=\"direct\"}"), 1.0, "{text}");
    let (status, _) = curl(&[], &format!("http://{}/", metrics.as_str().unwrap()));
    assert_eq!(status, 404);

    let ports =
        ["--mqtt-port", "0", "--stun-port", "0", "--metrics", "127.0.0.1:0", "--relay-ip", "127.0.0.1"];
    let dir = tempfile::tempdir().unwrap();
    let password = dir.path().join("password");
    let password = ["--turn-password-file", password.to_str().unwrap()];
    let serve = [&["serve", "--json", "--bind", "127.0.0.1"][..], &ports, &password].concat();
    let (_serving, said) = start(p2pd(&serve), "serving");
    let text = read(&of(&said, "metrics")["at"]);
    assert_eq!(value(&text, "p2pd_stun_requests_total{outcome=\"answered\"}"), 0.0);
    assert_eq!(value(&text, "p2pd_turn_allocations_open"), 0.0);
    let mut broker = TcpStream::connect(of(&said, "serving")["mqtt"].as_str().unwrap()).unwrap();
    // A CONNECT that says little, and its CONNACK.
    broker.write_all(b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01x").unwrap();
    broker.read_exact(&mut [0; 4]).unwrap();
    let text = read(&of(&said, "metrics")["at"]);
    assert_eq!(value(&text, "p2pd_mqtt_connections_total{outcome=\"accepted\"}"), 1.0, "{text}");
}
