//! `serve` and `demo` as a user runs them, on loopback.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

use p2pd::servers::{FORBID_PUBLIC, Servers, TurnCredential};
use serde_json::Value;

/// Ends the process however the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn p2pd(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2pd"));
    command.args(args).arg("--json").env(FORBID_PUBLIC, "1");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for an event on a process's standard error.
fn event(child: &mut Running, name: &str) -> Value {
    let mut said = BufReader::new(child.0.stderr.take().unwrap());
    loop {
        let mut line = String::new();
        assert_ne!(said.read_line(&mut line).unwrap(), 0, "ended without {name}");
        let value: Value = serde_json::from_str(&line).unwrap();
        if value["event"] == name {
            // What it says later must not block it.
            std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
            return value;
        }
    }
}

#[cfg(unix)]
#[test]
fn peers_find_each_other_by_the_list_that_serve_writes() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("servers.toml");
    let file = list.to_str().unwrap();
    let mut serve =
        p2pd(&["serve", "--bind", "127.0.0.1", "--mqtt-port", "0", "--stun-port", "0", "--id", "7"]);
    let mut serving = Running(serve.args(["--write", file]).spawn().unwrap());
    let said = event(&mut serving, "serving");
    let servers = Servers::read(&list).unwrap();
    assert_eq!(said["mqtt"], format!("127.0.0.1:{}", servers.brokers[0].port));
    assert_eq!(said["stun"], format!("127.0.0.1:{}", servers.stun[0].port));
    assert_eq!(said["stun_second"], Value::Null);

    let local = ["--bind", "127.0.0.1", "--config", file];
    let mut listener = Running(p2pd(&["listen", "--echo"]).args(local).spawn().unwrap());
    let ready = event(&mut listener, "ready");
    let address = ready["address"].as_str().unwrap();
    assert!(address.starts_with("7-[0,127.0.0.1,"), "broker and STUN answered: {address}");
    let mut caller = p2pd(&["connect", address, "--strategies", "reverse"]);
    let mut caller = Running(caller.args(local).stdin(Stdio::piped()).spawn().unwrap());
    caller.0.stdin.take().unwrap().write_all(b"over our own broker\n").unwrap();
    let mut answer = String::new();
    caller.0.stdout.take().unwrap().read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "over our own broker\n");
    assert_eq!(event(&mut caller, "connected")["strategy"], "reverse");

    let id = serving.0.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    assert_eq!(serving.0.wait().unwrap().code(), Some(0));
}

#[cfg(unix)]
#[test]
fn a_relay_is_served_if_asked_for_and_its_password_is_in_the_list_only_its_owner_reads() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("servers.toml");
    let local = ["serve", "--bind", "127.0.0.1", "--mqtt-port", "0", "--stun-port", "0"];
    let run = |more: &[&str]| {
        let mut serving = Running(p2pd(&local).args(more).arg("--write").arg(&list).spawn().unwrap());
        let said = event(&mut serving, "serving");
        (said, Servers::read(&list).unwrap().turn)
    };
    let (said, turn) = run(&[]);
    assert_eq!((&said["turn"], &said["relay_ip"], turn), (&Value::Null, &Value::Null, vec![]));
    std::fs::remove_file(&list).unwrap();
    let (said, turn) = run(&["--turn"]);
    assert_eq!((&said["turn"], &said["relay_ip"]), (&said["stun"], &"127.0.0.1".into()));
    let password = said["turn_password"].as_str().unwrap();
    let made = TurnCredential::Password { user: "p2pd".into(), password: password.into() };
    assert_eq!((password.len(), &turn[0].credential), (32, &made));
    assert_eq!(std::fs::metadata(&list).unwrap().permissions().mode() & 0o777, 0o600);
    let (said, turn) = run(&["--turn-user", "alice:se:cret", "--relay-ip", "203.0.113.7"]);
    assert_eq!((&said["turn_password"], &said["relay_ip"]), (&Value::Null, &"203.0.113.7".into()));
    let alice = TurnCredential::Password { user: "alice".into(), password: "se:cret".into() };
    assert_eq!(turn[0].credential, alice);
    let (_, turn) = run(&["--turn-secret", "north"]);
    assert_eq!(turn[0].credential, TurnCredential::Secret("north".into()));
}

#[test]
fn a_port_in_use_and_addresses_that_do_not_fit_are_said() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let run = |args: &[&str]| {
        let out = p2pd(args).output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (code, text) = run(&["serve", "--bind", "127.0.0.1", "--mqtt-port", &port, "--stun-port", "0"]);
    assert_eq!(code, Some(1));
    assert!(text.contains(&format!("MQTT on 127.0.0.1:{port}")), "{text}");
    let (code, text) = run(&["serve", "--bind", "127.0.0.1", "--second", "::1"]);
    assert_eq!(code, Some(2));
    assert!(text.contains("--second"), "{text}");
    for user in ["alice", ":secret", "alice:"] {
        let (code, text) = run(&["serve", "--turn-user", user]);
        assert_eq!(code, Some(2));
        assert!(text.contains("NAME:PASSWORD"), "{text}");
    }
    let (code, text) = run(&["serve", "--relay-ip", "203.0.113.7"]);
    assert_eq!(code, Some(2));
    assert!(text.contains("--turn"), "{text}");
    let (code, text) = run(&["serve", "--write", "/nonexistent/list"]);
    assert_eq!(code, Some(2));
    assert!(text.contains("--host"), "{text}");
}

#[test]
fn the_demo_tries_every_strategy_in_both_modes() {
    let out = p2pd(&["demo", "--size", "1"]).output().unwrap();
    let text = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(0), "{text}");
    let rows: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let rows = rows.iter().filter(|r| r["event"] == "demo");
    let tried: Vec<_> =
        rows.map(|r| (r["strategy"].as_str().unwrap(), r["mode"].as_str().unwrap())).collect();
    let all: Vec<_> = ["direct", "reverse", "punch", "relay"]
        .into_iter()
        .flat_map(|strategy| [(strategy, "encrypted"), (strategy, "plain")])
        .chain([("moved", "encrypted")])
        .collect();
    assert_eq!(tried, all);
}

/// The guard that `tests/run` and every test here relies on. That the demo works under it is the proof that
/// the demo does not touch the shipped list.
#[test]
fn the_shipped_list_is_out_of_reach_where_it_is_forbidden() {
    for args in [&["addr"][..], &["listen"], &["connect", "0-[0,127.0.0.1,127.0.0.1,9,1,1,0]-0-x"]] {
        let out = p2pd(args).args(["--bind", "127.0.0.1"]).output().unwrap();
        assert_eq!(out.status.code(), Some(2), "{args:?}");
        assert!(String::from_utf8_lossy(&out.stderr).contains(FORBID_PUBLIC), "{args:?}");
    }
}

/// All of 127.0.0.0/8 is this machine on Linux, so a test has many addresses to come from.
#[cfg(target_os = "linux")]
mod strangers {
    use super::*;
    use p2pd::serve::{Serving, Wanted};
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpSocket, TcpStream};

    const PATIENCE: Duration = Duration::from_secs(20);
    const BINDING: [u8; 20] = [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    const CONNECT: [u8; 14] = [0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 60, 0, 0];

    async fn from(last: u8, to: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into()).unwrap();
        socket.connect(to).await.unwrap()
    }

    /// What a stranger is answered; nothing, if turned away.
    async fn asks(stream: &mut TcpStream, request: &[u8]) -> usize {
        let _ = stream.write_all(request).await;
        let mut buffer = [0; 200];
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut buffer));
        read.await.expect("neither answered nor turned away").unwrap_or(0)
    }

    #[tokio::test]
    async fn one_address_cannot_take_every_place() {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let wanted = Wanted { ip, second_ip: None, mqtt_port: 0, stun_ports: [0, 0], turn: None };
        let serving = Serving::start(&wanted).await.unwrap();
        for (at, places, request) in [(serving.stun(), 32, &BINDING[..]), (serving.mqtt(), 128, &CONNECT)] {
            let mut inside = Vec::new();
            for _ in 0..places {
                let mut stream = from(1, at).await;
                assert_ne!(asks(&mut stream, request).await, 0);
                inside.push(stream);
            }
            assert_eq!(asks(&mut from(1, at).await, request).await, 0, "one more than {places}");
            assert_ne!(asks(&mut from(3, at).await, request).await, 0, "another address");
            inside.pop();
            while asks(&mut from(1, at).await, request).await == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    #[tokio::test]
    async fn serve_takes_as_many_sockets_as_the_system_gives() {
        let args = "serve --bind 127.0.0.1 --mqtt-port 0 --stun-port 0 --json";
        let mut sh = Command::new("sh");
        sh.args(["-c", &format!("ulimit -Sn 100; exec \"$0\" {args}"), env!("CARGO_BIN_EXE_p2pd")]);
        let mut serving = Running(sh.stderr(Stdio::piped()).spawn().unwrap());
        let at = event(&mut serving, "serving")["mqtt"].as_str().unwrap().parse().unwrap();
        let mut inside = Vec::new();
        for _ in 0..120 {
            let mut stream = from(1, at).await;
            assert_ne!(asks(&mut stream, &CONNECT).await, 0, "{}", inside.len());
            inside.push(stream);
        }
    }
}
