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
    let mut serve = p2pd(&[
        "serve",
        "--no-turn",
        "--bind",
        "127.0.0.1",
        "--mqtt-port",
        "0",
        "--stun-port",
        "0",
        "--id",
        "7",
    ]);
    let mut serving = Running(serve.args(["--write", file]).spawn().unwrap());
    let said = event(&mut serving, "serving");
    let servers = Servers::read(&list).unwrap();
    assert_eq!(said["mqtt"], format!("127.0.0.1:{}", servers.brokers[0].port));
    assert_eq!(said["stun"], format!("127.0.0.1:{}", servers.stun[0].port));
    assert_eq!((&said["stun_second"], &said["turn"]), (&Value::Null, &Value::Null));
    // Two ports of one address tell whether a NAT maps each port anew.
    assert_eq!(said["stun_ports"], serde_json::json!([servers.stun[0].port, servers.stun[1].port]));
    assert_ne!(servers.stun[0].port, servers.stun[1].port);

    let local = ["--bind", "127.0.0.1", "--config", file];
    // On loopback a stranger's reverse connect is not dialled.
    let key = dir.path().join("caller");
    let id = p2pd(&["id", "--identity", key.to_str().unwrap()]).output().unwrap();
    let id = String::from_utf8(id.stdout).unwrap();
    let accept = ["listen", "--echo", "--accept", id.trim()];
    let mut listener = Running(p2pd(&accept).args(local).spawn().unwrap());
    let ready = event(&mut listener, "ready");
    let address = ready["address"].as_str().unwrap();
    assert!(address.starts_with("7-[0,127.0.0.1,"), "broker and STUN answered: {address}");
    let mut caller = p2pd(&["connect", address, "--strategies", "reverse"]);
    let mut caller =
        Running(caller.arg("--identity").arg(&key).args(local).stdin(Stdio::piped()).spawn().unwrap());
    caller.0.stdin.take().unwrap().write_all(b"over our own broker\n").unwrap();
    let mut answer = String::new();
    caller.0.stdout.take().unwrap().read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "over our own broker\n");
    assert_eq!(event(&mut caller, "connected")["strategy"], "reverse");

    let id = serving.0.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    assert_eq!(serving.0.wait().unwrap().code(), Some(0));
}

/// Runs `serve` with a list, and hands over its first output and the relays of the list.
#[cfg(unix)]
fn serve_once(
    list: &std::path::Path,
    more: &[&str],
    env: &[(&str, &str)],
) -> (Vec<Value>, Vec<p2pd::servers::TurnServer>) {
    let local = ["serve", "--bind", "127.0.0.1", "--mqtt-port", "0", "--stun-port", "0"];
    let mut command = p2pd(&local);
    let mut serving =
        Running(command.args(more).arg("--write").arg(list).envs(env.iter().copied()).spawn().unwrap());
    let mut lines = BufReader::new(serving.0.stderr.take().unwrap()).lines();
    let mut said: Vec<Value> = Vec::new();
    while said.last().is_none_or(|said| said["event"] != "serving") {
        said.push(serde_json::from_str(&lines.next().expect("ended").unwrap()).unwrap());
    }
    (said, Servers::read(list).unwrap().turn)
}

#[cfg(unix)]
#[test]
fn a_relay_is_served_by_default_and_its_password_is_told_to_nobody_but_the_list() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let (list, kept) = (dir.path().join("servers.toml"), dir.path().join("state/turn-password"));
    let (said, turn) = serve_once(&list, &["--no-turn"], &[]);
    assert_eq!(
        (said.len(), &said[0]["turn"], &said[0]["relay_ips"], turn),
        (1, &Value::Null, &Value::Null, vec![])
    );
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    // Whatever the mode of what was there before.
    std::fs::set_permissions(&list, PermissionsExt::from_mode(0o666)).unwrap();
    let reader = std::fs::File::open(&list).unwrap();
    let args = ["--turn-password-file", kept.to_str().unwrap()];
    let (said, turn) = serve_once(&list, &args, &[]);
    assert_eq!((mode(&list), mode(&kept)), (0o600, 0o600));
    assert!(
        !std::io::read_to_string(reader).unwrap().contains("password"),
        "it was replaced, not written over"
    );
    assert_eq!(
        (said.len(), &said[0]["turn"], &said[0]["relay_ips"]),
        (1, &said[0]["stun"], &serde_json::json!(["127.0.0.1"]))
    );
    assert_eq!(
        (&said[0]["turn_password_file"], &said[0]["relays_to"]),
        (&kept.to_str().unwrap().into(), &"this machine".into())
    );
    let password = std::fs::read_to_string(&kept).unwrap().trim().to_owned();
    assert!(password.len() == 32 && !said[0].to_string().contains(&password), "{}", said[0]);
    let made = TurnCredential::Password { user: "p2pd".into(), password: password.as_str().into() };
    assert_eq!(turn[0].credential, made);
    let (_, turn) = serve_once(&list, &args, &[]);
    assert_eq!(turn[0].credential, made, "lists that were given out hold for the next start");
    // A private relay reaches private networks, and that is said. By default the password is kept in the home folder.
    let (said, _) = serve_once(&list, &[&args[..], &["--relay-ip", "10.0.0.1"]].concat(), &[]);
    assert_eq!(said[0]["relays_to"], "the internet and private networks");
    let home = dir.path().join("home");
    let (said, _) = serve_once(&list, &[], &[("HOME", home.to_str().unwrap())]);
    assert_eq!(said[0]["turn_password_file"], home.join(".p2pd/turn-password").to_str().unwrap());
    std::fs::set_permissions(&kept, PermissionsExt::from_mode(0o640)).unwrap();
    let out = p2pd(&["serve", "--bind", "127.0.0.1"]).args(args).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).contains("chmod 600"));
}

#[cfg(unix)]
#[test]
fn users_and_secrets_come_from_files_and_the_environment_and_from_arguments_with_a_warning() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("servers.toml");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let alice = TurnCredential::Password { user: "alice".into(), password: "se:cret".into() };
    let north = TurnCredential::Secret("north".into());
    let users = file("users", "# who\n\nalice:se:cret\nbob:other\n");
    let secret = file("secret", "north\n");
    for (args, env, credential, warned) in [
        (&["--turn-users", &users][..], &[][..], &alice, false),
        (&["--turn-secret-file", &secret], &[], &north, false),
        (&[], &[("P2PD_TURN_SECRET", "north")], &north, false),
        (&["--turn-user", "alice:se:cret"], &[], &alice, true),
        (&["--turn-secret", "north"], &[], &north, true),
    ] {
        let args = [args, &["--relay-ip", "203.0.113.7"]].concat();
        let (said, turn) = serve_once(&list, &args, env);
        assert_eq!(&turn[0].credential, credential, "{args:?}");
        assert_eq!(
            (said.len(), said[0]["event"] == "warning"),
            (1 + usize::from(warned), warned),
            "{args:?}"
        );
        let said = said.last().unwrap();
        assert_eq!(
            (&said["turn_password_file"], &said["relay_ips"], &said["relays_to"]),
            (&Value::Null, &serde_json::json!(["203.0.113.7"]), &"the internet".into())
        );
    }
    let refused = |args: &[&str]| {
        let out = p2pd(&["serve", "--bind", "127.0.0.1"]).args(args).output().unwrap();
        assert_eq!(out.status.code(), Some(2), "{args:?}");
        String::from_utf8_lossy(&out.stderr).into_owned()
    };
    assert!(refused(&["--turn-users", &file("bad", "alice:x\nbob\n")]).contains("line 2: not NAME:PASSWORD"));
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o644)).unwrap();
    assert!(refused(&["--turn-secret-file", &secret]).contains("mode 644"));
}

#[test]
fn a_port_in_use_and_addresses_that_do_not_fit_are_said() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let run = |args: &[&str]| {
        let out = p2pd(args).output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (code, text) =
        run(&["serve", "--no-turn", "--bind", "127.0.0.1", "--mqtt-port", &port, "--stun-port", "0"]);
    assert_eq!(code, Some(1));
    assert!(text.contains(&format!("MQTT on 127.0.0.1:{port}")), "{text}");
    let (code, text) = run(&["serve", "--no-turn", "--bind", "127.0.0.1", "--second", "::1"]);
    assert_eq!(code, Some(2));
    assert!(text.contains("--second"), "{text}");
    for user in ["alice", ":secret", "alice:"] {
        let (code, text) = run(&["serve", "--turn-user", user]);
        assert_eq!(code, Some(2));
        assert!(text.contains("NAME:PASSWORD"), "{text}");
    }
    let (code, text) = run(&["serve", "--no-turn", "--relay-ip", "203.0.113.7"]);
    assert_eq!(code, Some(2));
    assert!(text.contains("--no-turn"), "{text}");
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
    let all: Vec<_> = ["direct", "reverse", "punch", "udp", "relay"]
        .into_iter()
        .flat_map(|strategy| [(strategy, "encrypted"), (strategy, "plain")])
        .chain([("moved", "session"), ("cut", "session")])
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

/// Tests with many source addresses, since the whole of 127.0.0.0/8 is this machine on Linux.
#[cfg(target_os = "linux")]
mod strangers {
    use super::*;
    use bytes::Bytes;
    use p2pd::serve::{Serving, Wanted};
    use p2pd_core::strangers::mqtt;
    use p2pd_core::stun::{TransactionId, binding_request};
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpSocket, TcpStream};

    const PATIENCE: Duration = Duration::from_secs(20);
    /// A Binding request and a CONNECT.
    fn requests() -> [Bytes; 2] {
        [binding_request(TransactionId([7; 12]), None), mqtt::connect("", 60, None).unwrap()]
    }

    async fn from([b, c, d]: [u8; 3], to: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::new(127, b, c, d), 0).into()).unwrap();
        socket.connect(to).await.unwrap()
    }

    /// Returns the length of the answer to a stranger's request; 0 if the stranger is turned away.
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
        let [binding, connect] = &requests();
        for (at, places, request) in [(serving.stun(), 32, binding), (serving.mqtt(), 128, connect)] {
            let mut inside = Vec::new();
            for _ in 0..places {
                let mut stream = from([0, 0, 1], at).await;
                assert_ne!(asks(&mut stream, request).await, 0);
                inside.push(stream);
            }
            assert_eq!(asks(&mut from([0, 0, 1], at).await, request).await, 0, "one more than {places}");
            assert_ne!(asks(&mut from([0, 0, 3], at).await, request).await, 0, "another address");
            inside.pop();
            while asks(&mut from([0, 0, 1], at).await, request).await == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    #[tokio::test]
    async fn where_all_places_are_taken_another_network_gets_in_at_once() {
        p2pd_tokio::raise_descriptor_limit().unwrap();
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let wanted = Wanted { ip, second_ip: None, mqtt_port: 0, stun_ports: [0, 0], turn: None };
        let serving = Serving::start(&wanted).await.unwrap();
        let [binding, connect] = &requests();
        for (at, one, all, request) in
            [(serving.stun(), 32, 512, binding), (serving.mqtt(), 128, 1024, connect)]
        {
            let mut inside = Vec::new();
            // Four addresses of a network have all that it may have.
            for n in 0..all {
                let network = (n / (4 * one)) as u8;
                let mut stream = from([7, network, (n / one % 4) as u8 + 1], at).await;
                assert_ne!(asks(&mut stream, request).await, 0, "{n}");
                inside.push(stream);
            }
            for honest in 1..=3 {
                assert_ne!(asks(&mut from([9, honest, 1], at).await, request).await, 0);
            }
            // Who made room is told by the end of its stream.
            let mut byte = [0; 1];
            let gone = inside[0].read(&mut byte);
            assert!(matches!(tokio::time::timeout(PATIENCE, gone).await, Ok(Ok(0) | Err(_))));
        }
    }

    #[tokio::test]
    async fn serve_takes_as_many_sockets_as_the_system_gives() {
        let args = "serve --no-turn --bind 127.0.0.1 --mqtt-port 0 --stun-port 0 --json";
        let mut sh = Command::new("sh");
        sh.args(["-c", &format!("ulimit -Sn 100; exec \"$0\" {args}"), env!("CARGO_BIN_EXE_p2pd")]);
        let mut serving = Running(sh.stderr(Stdio::piped()).spawn().unwrap());
        let at = event(&mut serving, "serving")["mqtt"].as_str().unwrap().parse().unwrap();
        let [_, connect] = requests();
        let mut inside = Vec::new();
        for _ in 0..120 {
            let mut stream = from([0, 0, 1], at).await;
            assert_ne!(asks(&mut stream, &connect).await, 0, "{}", inside.len());
            inside.push(stream);
        }
    }
}

/// A list that `serve` wrote does what it is for; a list with others in it says which of them do not.
#[cfg(unix)]
#[test]
fn a_list_is_checked_server_by_server() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (list, password) = (path("servers.toml"), path("password"));
    let ports = ["--mqtt-port", "0", "--stun-port", "0", "--relay-ip", "127.0.0.1", "--id", "7"];
    let serve =
        [&["serve", "--bind", "127.0.0.1", "--turn-password-file", &password, "--write", &list][..], &ports];
    let mut serving = Running(p2pd(&serve.concat()).spawn().unwrap());
    event(&mut serving, "serving");
    let check = |list: &str| {
        let out = p2pd(&["servers", "check", "--bind", "127.0.0.1", "--config", list]).output().unwrap();
        let rows = String::from_utf8(out.stdout).unwrap();
        let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let kinds: Vec<(String, bool)> =
            rows.iter().map(|row| (row["kind"].as_str().unwrap().to_owned(), row["ok"] == true)).collect();
        (out.status.code(), kinds, rows)
    };
    let of =
        |all: &[(&str, bool)]| all.iter().map(|(kind, ok)| ((*kind).to_owned(), *ok)).collect::<Vec<_>>();
    let (code, kinds, rows) = check(&list);
    assert_eq!(
        (code, kinds),
        (Some(0), of(&[("mqtt", true), ("stun", true), ("stun", true), ("turn", true)])),
        "{rows:?}"
    );
    assert_eq!(rows[1]["said"], "answers over UDP and TCP; we are 127.0.0.1");
    // A port that nobody has, and a wrong password.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut text = std::fs::read_to_string(&list).unwrap();
    let written = std::fs::read_to_string(&password).unwrap();
    text = text.replace(written.trim(), "wrong");
    text += &format!("\n[[stun]]\nhost = \"127.0.0.1\"\nport = {closed}\n");
    std::fs::write(path("other.toml"), text).unwrap();
    let (code, kinds, rows) = check(&path("other.toml"));
    let wanted = [("mqtt", true), ("stun", true), ("stun", true), ("stun", false), ("turn", false)];
    assert_eq!((code, kinds), (Some(1), of(&wanted)), "{rows:?}");
}
