//! `p2pd map` and `p2pd clock` as their user sees them, on loopback; the lab tests them with routers.
#![cfg(unix)]

mod ntp;

use std::fs;
use std::net::UdpSocket;
use std::process::{Command, Output, Stdio};

fn p2pd(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2pd"));
    // This is also what keeps a mistake in a test from looking for this machine's own router.
    command.args(args).env(p2pd::servers::FORBID_PUBLIC, "1").stdin(Stdio::null());
    command.output().unwrap()
}

fn ends(args: &[&str]) -> (Option<i32>, String) {
    let out = p2pd(args);
    (out.status.code(), String::from_utf8(out.stderr).unwrap())
}

#[test]
fn wrong_usage_is_said() {
    let empty = tempfile::NamedTempFile::new().unwrap();
    let empty = empty.path().to_str().unwrap();
    for (args, word) in [
        (&["map"][..], "--list"),
        (&["map", "--list", "--add", "5"], "cannot be used with"),
        (&["map", "--add", "0"], "0"),
        (&["map", "--remove", "70000"], "70000"),
        (&["map", "--list", "--udp"], "--udp"),
        (&["map", "--remove", "5", "--lease", "60"], "--lease"),
        (&["map", "--list", "--config", empty], "--config"),
        (&["map", "--list"], "give --bind"),
        (&["map", "--add", "5", "--lease", "0"], "0"),
        (&["map", "--add", "5", "--bind", "127.0.0.1", "--config", "/nonexistent"], "/nonexistent"),
        (&["clock", "--bind", "127.0.0.1"], "--bind"),
        (&["clock"], p2pd::servers::FORBID_PUBLIC),
        (&["clock", "--config", empty], "[[ntp]]"),
        (&["clock", "--config", "/dev/null"], "not a file"),
    ] {
        let (code, said) = ends(args);
        assert_eq!((code, said.contains(word)), (Some(2), true), "{args:?}: {said}");
    }
    let (code, said) = ends(&["map", "--list", "--bind", "192.0.2.1"]);
    assert_eq!((code, said.contains("--bind 192.0.2.1")), (Some(1), true), "{said}");
}

#[test]
fn loopback_has_no_router() {
    for (what, word) in [
        (&["--add", "4000"][..], "no mapping: there is no router to ask"),
        (&["--list"], "UPnP: not supported"),
    ] {
        let (code, said) = ends(&[&["map", "--bind", "127.0.0.1"], what].concat());
        assert_eq!((code, said), (Some(1), format!("p2pd: {word}\n")));
    }
}

#[test]
fn interfaces_are_listed() {
    let out = p2pd(&["interfaces"]);
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.contains("\n  127.0.0.1/8\n"), "{text}");
    let (code, json) = ends(&["interfaces", "--json"]);
    let cards: Vec<serde_json::Value> = json.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let loopback = cards.iter().find(|card| card["addresses"][0]["ip"] == "127.0.0.1").unwrap();
    let address = &loopback["addresses"][0];
    assert_eq!((code, &address["scope"], &address["prefix"]), (Some(0), &"host".into(), &8.into()), "{json}");
    assert_eq!((address["external"].is_null(), &loopback["up"]), (true, &true.into()), "{json}");
    let (code, said) = ends(&["interfaces", "--config", "/nonexistent"]);
    assert_eq!((code, said.contains("/nonexistent")), (Some(2), true), "{said}");
}

#[test]
fn the_clock_is_compared_with_a_servers() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("list.toml");
    fs::write(&list, ntp::ahead()).unwrap();
    let list = list.to_str().unwrap();
    let (code, said) = ends(&["clock", "--config", list, "--json"]);
    assert_eq!(code, Some(0), "{said}");
    let event: serde_json::Value = serde_json::from_str(&said).unwrap();
    let (offset, error) = (event["offset_ms"].as_f64().unwrap(), event["error_ms"].as_f64().unwrap());
    assert!((offset + 1000.0).abs() < error + 1.0 && error < 500.0, "{said}");
    assert_eq!((&event["event"], &event["answered"]), (&"clock".into(), &1.into()));
    let out = p2pd(&["clock", "--config", list]);
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(
        text.contains(" ms behind, give or take ") && text.ends_with("(1 of 1 servers answered)\n"),
        "{text}"
    );
}

#[test]
fn a_silent_server_is_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let list = dir.path().join("list.toml");
    let port = silent.local_addr().unwrap().port();
    fs::write(&list, format!("[[ntp]]\nhost = \"127.0.0.1\"\nport = {port}\n")).unwrap();
    let (code, said) = ends(&["clock", "--config", list.to_str().unwrap()]);
    assert_eq!((code, said), (Some(1), "p2pd: no time server answered\n".into()));
}
