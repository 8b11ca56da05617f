//! Tests of brokers that require a login: mosquitto with passwords, an access list and client certificates. Skipped
//! where mosquitto or openssl is missing.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Says that a test cannot run, for `tests/run` to list. It goes past the harness, which keeps the output of passing
/// tests.
fn skip(why: &str) {
    let required = std::env::var("P2PD_REQUIRE_LAB").is_ok_and(|value| value == "1");
    assert!(!required, "P2PD_REQUIRE_LAB=1, but there is {why}");
    let _ = std::io::stderr().write_all(format!("SKIPPED brokers: {why}\n").as_bytes());
}

/// Ends the process however the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(dir: &Path, program: &str, args: &str) -> Option<()> {
    let mut command = Command::new(program);
    command.args(args.split_whitespace()).current_dir(dir).stdout(Stdio::null()).stderr(Stdio::null());
    match command.status() {
        Ok(status) => {
            assert!(status.success(), "{program} {args}: {status}");
            Some(())
        }
        Err(_) => {
            skip(&format!("no {program}"));
            None
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn mosquitto(dir: &Path, lines: &str) -> Option<(Running, u16)> {
    let port = free_port();
    let lines = format!("per_listener_settings true\nlistener {port} 127.0.0.1\n{lines}");
    fs::write(dir.join("mosquitto.conf"), lines).unwrap();
    let program = ["mosquitto", "/usr/sbin/mosquitto"].into_iter().find_map(|program| {
        let mut command = Command::new(program);
        command.args(["-c", "mosquitto.conf"]).current_dir(dir);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
    });
    let Some(child) = program else {
        skip("no mosquitto");
        return None;
    };
    let (running, began) = (Running(child), Instant::now());
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        assert!(began.elapsed() < Duration::from_secs(10), "mosquitto does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    Some((running, port))
}

/// Returns the first loss of its broker that a listener with this list reports, and whether its address names a broker.
fn listener(dir: &Path, list: &str) -> (Option<String>, bool) {
    heard(dir, list, false)
}

/// The same; waits for the loss of the broker, which is told beside the address and so before or after it.
fn heard(dir: &Path, list: &str, is_lost: bool) -> (Option<String>, bool) {
    fs::write(dir.join("servers.toml"), list).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2pd"));
    command.args(["listen", "--echo", "--json", "--bind", "127.0.0.1", "--config", "servers.toml"]);
    command.current_dir(dir).env("P2PD_MQTT_TEST", "s3cret").stdin(Stdio::null());
    let mut listening = Running(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
    let (mut lost, mut named) = (None, None);
    for line in BufReader::new(listening.0.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        assert!(!line.contains("s3cret"), "{line}");
        let said: Value = serde_json::from_str(&line).unwrap();
        match said["event"].as_str() {
            Some("broker") if lost.is_none() && said["state"] == "lost" => {
                lost = Some(said["reason"].to_string())
            }
            Some("ready") => {
                named = Some(said["address"].as_str().unwrap().split('-').next() == Some("7"));
            }
            _ => {}
        }
        if let Some(named) = named.filter(|_| lost.is_some() || !is_lost) {
            return (lost, named);
        }
    }
    panic!("it ended: {lost:?}");
}

#[test]
fn a_broker_with_passwords_and_an_access_list_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    if run(dir, "mosquitto_passwd", "-c -b passwords alice s3cret").is_none()
        || run(dir, "mosquitto_passwd", "-b passwords bob s3cret").is_none()
    {
        return;
    }
    fs::write(dir.join("acl"), "user alice\ntopic readwrite +\nuser bob\ntopic readwrite other/#\n").unwrap();
    fs::write(dir.join("password"), "s3cret\n").unwrap();
    let lines = "allow_anonymous false\npassword_file passwords\nacl_file acl\nuser root\n";
    let Some((_mosquitto, port)) = mosquitto(dir, lines) else { return };
    let list = |more: &str| format!("[[mqtt]]\nid = 7\nhost = \"127.0.0.1\"\nport = {port}\n{more}\n");
    for more in ["password = \"s3cret\"", "password_file = \"password\"", "password_env = \"P2PD_MQTT_TEST\""]
    {
        assert_eq!(listener(dir, &list(&format!("user = \"alice\"\n{more}"))), (None, true), "{more}");
    }
    let url = format!("[[mqtt]]\nid = 7\nurl = \"mqtt://alice:s3cret@127.0.0.1:{port}\"\n");
    assert_eq!(listener(dir, &url), (None, true));
    let (lost, named) = heard(dir, &list("user = \"alice\"\npassword = \"wrong\""), true);
    assert!(lost.unwrap().contains("user name") && !named);
    // It takes the subscription, acknowledges what is published, and drops it.
    assert!(!listener(dir, &list("user = \"bob\"\npassword = \"s3cret\"")).1);
}

#[test]
fn a_broker_that_asks_for_a_certificate_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30";
    fs::write(dir.join("san"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    let made = [
        format!("req -x509 {key} -subj /CN=authority -keyout ca.key -out ca.pem"),
        format!("req {key} -subj /CN=server -keyout server.key -out server.csr"),
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile san -out server.pem".into(),
        format!("req {key} -subj /CN=alice -keyout client.key -out client.csr"),
        "x509 -req -in client.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile san -out client.pem".into(),
    ];
    for args in made {
        if run(dir, "openssl", &args).is_none() {
            return;
        }
    }
    let lines = "cafile ca.pem\ncertfile server.pem\nkeyfile server.key\nrequire_certificate true\n\
                 use_identity_as_username true\nuser root\n";
    let Some((_mosquitto, port)) = mosquitto(dir, lines) else { return };
    let list = |more: &str| {
        format!("[[mqtt]]\nid = 7\nurl = \"mqtts://127.0.0.1:{port}\"\nca = \"ca.pem\"\n{more}\n")
    };
    let certificate = "client_certificate = \"client.pem\"\nclient_key = \"client.key\"";
    assert_eq!(listener(dir, &list(certificate)), (None, true));
    assert!(!listener(dir, &list("")).1, "without one");
}
