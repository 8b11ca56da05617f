//! The question about public servers, at a terminal of its own, in a namespace that nothing leaves.
#![cfg(target_os = "linux")]

mod terminal;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use terminal::at_terminal;

/// Runs `p2pd addr` without a list, and types an answer. Returns the exit code, and what was said.
fn run(home: &Path, answer: &str) -> (Option<i32>, String) {
    let line = format!("unshare --net {} addr", env!("CARGO_BIN_EXE_p2pd"));
    let mut command = at_terminal(&line);
    command.env_remove(p2pd::servers::FORBID_PUBLIC).env("HOME", home);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned())
}

#[test]
fn public_servers_are_used_after_a_yes_and_asked_about_once() {
    if !Command::new("unshare").args(["--net", "true"]).status().is_ok_and(|status| status.success()) {
        println!(
            "SKIPPED public_servers_are_used_after_a_yes_and_asked_about_once: network namespaces are forbidden"
        );
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let question = "Use them from now on?";
    let (code, said) = run(home.path(), "n\n");
    assert!(code == Some(2) && said.contains(question) && said.contains("broker.hivemq.com"), "{said}");
    assert!(said.contains("give --config FILE, or --no-servers"), "{said}");
    // Nothing leads out of here, so that it fails later on.
    let (_, said) = run(home.path(), "y\n");
    assert!(said.contains(question) && !said.contains("no servers"), "{said}");
    let (code, said) = run(home.path(), "");
    assert!(!said.contains(question) && code != Some(2), "{code:?} {said}");
}
