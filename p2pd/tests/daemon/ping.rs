//! `p2pd ping`: by brokers and on a pipe.

use std::process::Stdio;

use serde_json::Value;

use crate::common::{Daemon, p2pd, serve};

/// Exit code, standard output, and the events of a run.
fn ping(args: &[&str]) -> (i32, String, Vec<Value>) {
    let mut command = p2pd(&[&["ping", "--bind", "127.0.0.1", "--interval", "0.05"], args].concat());
    let out = command.stdout(Stdio::piped()).output().unwrap();
    let events = String::from_utf8(out.stderr).unwrap();
    let events = events.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    (out.status.code().unwrap(), String::from_utf8(out.stdout).unwrap(), events)
}

#[test]
fn a_peer_that_accepts_us_answers_by_its_broker_and_on_a_pipe() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (list, key) = (file("servers.toml"), file("key"));
    let _serving = serve(list.as_ref(), &["--no-turn"]);
    let id = p2pd(&["id", "--identity", &key]).stdout(Stdio::piped()).output().unwrap();
    let id = String::from_utf8(id.stdout).unwrap();
    let daemon = Daemon::with(&["--config", &list, "--accept", id.trim()]);
    let us = ["--config", &list, "--identity", &key];
    for way in [&[][..], &["--pipe"]] {
        let args = [&us[..], way, &["--count", "3", &daemon.address]].concat();
        let (code, text, _) = ping(&args);
        let by = if way.is_empty() { "broker 0" } else { "the pipe" };
        assert_eq!((code, text.lines().count()), (0, 4), "{text}");
        assert!(text.starts_with(&format!("answer 1 by {by}: ")), "{text}");
        assert!(text.contains("3 asked, 3 answered, 0 % lost; round trip min/mean/max "), "{text}");
        let (code, text, events) = ping(&[&args[..], &["--json"]].concat());
        assert_eq!((code, &*text), (0, ""));
        let of = |name: &str| events.iter().filter(|event| event["event"] == name).collect::<Vec<_>>();
        let pongs = of("pong");
        assert_eq!(pongs.len(), 3);
        assert!(pongs.iter().all(|pong| pong["ms"].as_f64().unwrap() > 0.0 && pong["by"] == by), "{pongs:?}");
        assert_eq!((&of("pings")[0]["sent"], &of("pings")[0]["answered"]), (&3.into(), &3.into()));
    }
    // A stranger gets no answer; without a broker nobody is asked; and what is no address is none.
    let args = ["--config", &list, "--count", "1", "--timeout", "0.5", &daemon.address];
    let (code, text, _) = ping(&args);
    assert_eq!((code, &*text), (1, "answer 1: none in time\n1 asked, 0 answered, 100 % lost\n"));
    let (code, text, _) = ping(&["--no-servers", &daemon.address]);
    assert_eq!((code, &*text), (1, "1 asked, 0 answered, 100 % lost\n"));
    assert_eq!(ping(&["--no-servers", "nobody"]).0, 2);
}
