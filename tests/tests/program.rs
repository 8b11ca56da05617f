//! The program as its user runs it: two hosts in namespaces, a real broker (mosquitto), real STUN (coturn) and
//! real Linux NATs.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use p2pd_tests::lab::services::{Coturn, Mosquitto};
use p2pd_tests::lab::{Child, Home, Host, Lab};
use p2pd_tests::require_lab;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

/// The program, built with the tests' own profile and target folder.
fn program() -> &'static str {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let path = PROGRAM.get_or_init(|| {
        let built = Command::new(env!("CARGO")).args(["build", "-q", "-p", "p2pd"]).status().unwrap();
        assert!(built.success());
        let exe = std::env::current_exe().unwrap();
        exe.parent().unwrap().parent().unwrap().join("p2pd")
    });
    path.to_str().unwrap()
}

struct World {
    lab: Lab,
    _broker: Mosquitto,
    _stun: Coturn,
    config: tempfile::NamedTempFile,
}

fn world(homes: &[&str]) -> World {
    let homes = homes.iter().map(|text| text.parse::<Home>().unwrap().delay(Duration::from_micros(250)));
    let lab = Lab::builder().homes(homes).build().unwrap();
    let (broker, stun) = (Mosquitto::start(&lab).unwrap(), Coturn::start(&lab).unwrap());
    let mut config = tempfile::NamedTempFile::new().unwrap();
    let (b, s) = (broker.addr(), stun.addr());
    writeln!(config, "[[mqtt]]\nid = 3\nhost = \"{}\"\nport = {}", b.ip(), b.port()).unwrap();
    writeln!(config, "[[stun]]\nhost = \"{}\"\nport = {}", s.ip(), s.port()).unwrap();
    World { lab, _broker: broker, _stun: stun, config }
}

impl World {
    fn run(&self, host: &Host, args: &[&str]) -> Child {
        let mut command = host.command(program());
        command.env("P2PD_FORBID_PUBLIC_SERVERS", "1");
        command.args(args).args(["--json", "--config"]).arg(self.config.path());
        host.spawn(command).unwrap()
    }

    /// A listener that echoes, on the first host, and its address.
    fn listen(&self) -> (Child, String) {
        let mut child = self.run(self.lab.host(0), &["listen", "--echo"]);
        let ready = event(&mut child, "ready");
        (child, ready["address"].as_str().unwrap().to_owned())
    }

    /// A connect from the second host that sends `text` and gives what came back.
    fn connect(&self, address: &str, text: &str, more: &[&str]) -> (Value, String) {
        let mut child = self.run(self.lab.host(1), &[&["connect", address], more].concat());
        child.take_stdin().unwrap().write_all(text.as_bytes()).unwrap();
        let connected = event(&mut child, "connected");
        assert!(child.wait(PATIENCE).unwrap().success(), "{:?}", child.lines());
        let answer =
            child.lines().iter().map(|l| l.text.as_str()).find(|l| *l == text.trim()).unwrap_or("").into();
        (connected, answer)
    }
}

fn event(child: &mut Child, name: &str) -> Value {
    let wanted = format!("\"event\":\"{name}\"");
    match child.wait_for_line(|line| line.contains(&wanted), PATIENCE) {
        Ok(line) => serde_json::from_str(&line).unwrap(),
        Err(why) => panic!("no {name}: {why}; {:?}", child.lines()),
    }
}

#[test]
fn public_hosts_connect_directly() {
    require_lab!(Mosquitto, Coturn);
    let world = world(&["none", "none"]);
    let (mut listener, address) = world.listen();
    assert!(address.starts_with("3-["), "{address}");
    let (connected, answer) = world.connect(&address, "over the direct path\n", &[]);
    assert_eq!((connected["strategy"].as_str(), answer.as_str()), (Some("direct"), "over the direct path"));
    assert_eq!(event(&mut listener, "incoming")["strategy"], "direct");
    println!("direct: {} ms", connected["elapsed_ms"]);
}

#[test]
fn a_listener_behind_a_nat_dials_back() {
    require_lab!(Mosquitto, Coturn);
    let world = world(&["pr", "none"]);
    let (mut listener, address) = world.listen();
    let outside = world.lab.host(0).wan().to_string();
    assert!(address.contains(&outside), "STUN's view is announced: {address}");
    let (connected, answer) = world.connect(&address, "over the reversed path\n", &[]);
    assert_eq!(
        (connected["strategy"].as_str(), answer.as_str()),
        (Some("reverse"), "over the reversed path")
    );
    assert_eq!(event(&mut listener, "incoming")["strategy"], "reverse");
    println!("reverse: {} ms", connected["elapsed_ms"]);
}

#[test]
fn two_nats_fail_in_time_and_say_why() {
    require_lab!(Mosquitto, Coturn);
    let world = world(&["pr", "pr"]);
    let (_listener, address) = world.listen();
    let mut child = world.run(world.lab.host(1), &["connect", &address, "--timeout", "15"]);
    let failed = event(&mut child, "failed");
    assert_eq!(child.wait(PATIENCE).unwrap().code(), Some(1));
    let entries = failed["strategies"].as_array().unwrap();
    let detail = |n: usize| entries[n]["detail"].as_str().unwrap();
    assert_eq!((&entries[0]["strategy"], &entries[0]["outcome"]), (&"direct".into(), &"failed".into()));
    assert!(detail(0).contains("no answer"), "{failed}");
    assert_eq!((&entries[1]["strategy"], &entries[1]["outcome"]), (&"reverse".into(), &"failed".into()));
    assert!(detail(1).contains("the peer dialled us in vain"), "{failed}");
}

#[test]
fn wrong_usage_is_said_and_nothing_is_opened() {
    let run = |args: &[&str]| {
        let out = Command::new(program()).args(args).env("P2PD_FORBID_PUBLIC_SERVERS", "1").output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (code, text) = run(&["connect", "0-[0,8.8.8.8,10.0.0.1,0,1,1,0]-0-x"]);
    assert_eq!(code, Some(2));
    assert!(text.contains("port") && text.contains("byte 22"), "{text}");
    let (code, text) = run(&["addr", "--config", "/nonexistent/servers.toml"]);
    assert_eq!(code, Some(2));
    assert!(text.contains("/nonexistent/servers.toml"), "{text}");
    assert_eq!(run(&["connect", "0-0-0-x", "--timeout", "never"]).0, Some(2));
    let local = ["--no-servers", "--bind", "127.0.0.1"];
    assert_eq!(run(&[&["connect", "None-0-0-x"][..], &local].concat()).0, Some(2), "no node id");
}
