//! `--trace` and `replay` as a user runs them: two processes on loopback, without servers.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// Ends the listener however the test ends.
struct Listener(Child);

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn p2pd(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2pd"));
    command
        .args(args)
        .env(p2pd::servers::FORBID_PUBLIC, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn replay(file: &Path) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = p2pd(&["replay"]).arg(file).output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[test]
fn what_two_programs_did_is_run_again() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
    let local = ["--no-servers", "--bind", "127.0.0.1", "--trace"];
    let mut listener = Listener(p2pd(&["listen", "--echo"]).args(local).arg(&theirs).spawn().unwrap());
    let mut said = BufReader::new(listener.0.stderr.take().unwrap()).lines();
    let address = loop {
        let line = said.next().expect("the listener ended").unwrap();
        if let Some(address) = line.strip_prefix("ready: ") {
            break address.to_owned();
        }
    };
    let mut caller =
        p2pd(&["connect", &address]).args(local).arg(&ours).stdin(Stdio::piped()).spawn().unwrap();
    caller.stdin.take().unwrap().write_all(b"there and back\n").unwrap();
    let mut answer = String::new();
    caller.stdout.take().unwrap().read_to_string(&mut answer).unwrap();
    assert_eq!((answer.as_str(), caller.wait().unwrap().code()), ("there and back\n", Some(0)));
    // Killed, as programs are whose traces are wanted.
    drop(listener);

    for file in [&ours, &theirs] {
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert!(fs::read_to_string(file).unwrap().contains("\naction detach "));
        let (code, text) = replay(file);
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("acts the same") && text.lines().count() == 1, "{text}");
    }

    let text = fs::read_to_string(&ours).unwrap();
    let changed = dir.path().join("changed");
    fs::write(&changed, text.replacen(" 128 ", " 127 ", 1)).unwrap();
    let line = text.lines().position(|l| l.starts_with("action listen ")).unwrap() + 1;
    let (code, text) = replay(&changed);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(&format!("line {line} differs")) && text.contains(" 127 "), "{text}");

    for other in [&b"hello\n"[..], b"", b"\xff\xfe", b"p2pd-trace 1\nkey 00\n", b"p2pd-trace 9\n"] {
        fs::write(&changed, other).unwrap();
        let (code, text) = replay(&changed);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains("changed: "), "{text}");
    }
    assert_eq!(replay(&dir.path().join("nothing")).0, Some(2));
}

#[test]
fn a_file_that_exists_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("precious");
    fs::write(&file, "mine").unwrap();
    let out = p2pd(&["addr", "--no-servers", "--bind", "127.0.0.1", "--trace"]).arg(&file).output().unwrap();
    let text = String::from_utf8(out.stderr).unwrap();
    assert_eq!((out.status.code(), text.contains("precious: ")), (Some(2), true), "{text}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
}
