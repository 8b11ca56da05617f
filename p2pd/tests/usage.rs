//! Wrong usage, ends and breaks as a user of the program sees them.
#![cfg(unix)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

const LOCAL: [&str; 3] = ["--no-servers", "--bind", "127.0.0.1"];

fn p2pd(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2pd"));
    command.args(args).env(p2pd::servers::FORBID_PUBLIC, "1");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Exit code, standard output and standard error.
fn ends(command: &mut Command) -> (Option<i32>, String, String) {
    let out = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (out.status.code(), text(out.stdout), text(out.stderr))
}

/// Ends the process however the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn listener(args: &[&str]) -> (Running, String, BufReader<ChildStderr>) {
    let mut child = Running(p2pd(&["listen"]).args(LOCAL).args(args).spawn().unwrap());
    let mut said = BufReader::new(child.0.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    let address = line.strip_prefix("ready: ").unwrap_or_else(|| panic!("{line}")).trim().to_owned();
    (child, address, said)
}

#[test]
fn what_is_wrong_with_a_list_is_usage_and_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("list.toml");
    let run = |path: &Path| ends(p2pd(&["addr", "--bind", "127.0.0.1", "--config"]).arg(path));
    for (text, word) in [
        ("[[mqtt]]\nid = 1\nhost = \"\"\n", "no host"),
        ("[[mqtt]]\nid = 1\nhost = \"a\"\nport = 0\n", "port 0"),
        ("[[mqtt]]\nid = 1\nhost = \"a\"\n[[mqtt]]\nid = 1\nhost = \"b\"\n", "id 1"),
        ("[[mqtt]\n", "line 1"),
        (&"#".repeat(70_000), "no server list"),
    ] {
        fs::write(&file, text).unwrap();
        let (code, _, said) = run(&file);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("list.toml: ") && said.contains(word), "{word}: {said}");
    }
    fs::write(&file, [0xff, 0xfe]).unwrap();
    for path in [&file, dir.path(), Path::new("/dev/zero"), Path::new("/nonexistent")] {
        let (code, _, said) = run(path);
        assert_eq!((code, said.lines().count()), (Some(2), 1), "{said}");
        assert!(said.contains(path.to_str().unwrap()), "{said}");
    }
    fs::write(&file, "").unwrap();
    assert_eq!(run(&file).0, Some(0), "no servers are a list too");
}

#[test]
fn a_mistake_is_said_once_and_with_what_would_be_right() {
    let (code, _, said) = ends(p2pd(&["connect", "nonsense"]).args(LOCAL));
    assert_eq!((code, said.matches("address").count()), (Some(2), 1), "{said}");
    let (code, _, said) = ends(&mut p2pd(&["serve", "--second", "127.0.0.2"]));
    assert_eq!((code, said.contains("--bind <IP>")), (Some(2), true), "{said}");
    // What the list's readers would refuse is not written.
    for host in ["", "[2001:db8::1]", "a:1883", "mqtt://a"] {
        let (code, _, said) = ends(&mut p2pd(&["serve", "--host", host, "--write", "/dev/null"]));
        assert_eq!((code, said.contains("--host <HOST>")), (Some(2), true), "{said}");
    }
    let (code, _, said) = ends(&mut p2pd(&["addr", "--no-servers", "--bind", "192.0.2.1"]));
    assert_eq!((code, said.contains("--bind 192.0.2.1")), (Some(1), true), "{said}");
    let zero =
        ["serve", "--no-turn", "--bind", "127.0.0.1", "--mqtt-port", "0", "--stun-port", "0", "--write"];
    let (code, _, said) = ends(p2pd(&zero).arg("/nonexistent/list"));
    assert_eq!((code, said.contains("/nonexistent/list")), (Some(2), true), "{said}");
    let (code, _, said) =
        ends(p2pd(&["connect", "None-0-0-x", "--strategies", "direct", "--relay-first"]).args(LOCAL));
    assert_eq!((code, said.contains("needs relay among the strategies")), (Some(2), true), "{said}");
    // An option that would do nothing is none: one that is ignored makes believe.
    for args in
        [&["serve", "--identity", "key"][..], &["demo", "--no-servers"], &["listen", "--timeout", "5"]]
    {
        let (code, _, said) = ends(&mut p2pd(args));
        assert_eq!((code, said.contains(args[1])), (Some(2), true), "{said}");
    }
}

#[test]
fn an_address_is_taken_with_the_blanks_that_it_was_copied_with() {
    let (_echo, address, _said) = listener(&["--echo"]);
    let (front, back) = address.split_at(30);
    for copied in [format!(" {address}\r\n"), format!("{front}\n  {back}\n")] {
        let (code, _, said) = ends(p2pd(&["connect", &copied]).args(LOCAL));
        assert_eq!(code, Some(0), "{said}");
    }
}

#[test]
fn a_node_id_is_printed_and_stays_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    let id = || ends(p2pd(&["id", "--identity"]).arg(&key));
    let (code, first, said) = id();
    assert_eq!((code, first.trim().len(), &*said), (Some(0), 52, ""));
    assert_eq!(id(), (Some(0), first.clone(), String::new()));
    let (_, address, _) = ends(p2pd(&["addr", "--identity"]).arg(&key).args(LOCAL));
    assert!(address.ends_with(&format!("-{first}")), "{address}");
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let (code, out, said) = id();
    assert_eq!((code, &*out, said.contains("chmod 600")), (Some(2), "", true), "{said}");
}

#[test]
fn the_command_for_the_other_side_is_said_and_works() {
    let (_echo, address, mut said) = listener(&["--echo", "--qr"]);
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    let command = line.strip_prefix("other side: p2pd ").unwrap_or_else(|| panic!("{line}"));
    assert_eq!(command, format!("connect '{address}' --no-servers --bind 127.0.0.1\n"));
    let script = format!("exec {} {command}", env!("CARGO_BIN_EXE_p2pd"));
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).stdin(Stdio::null());
    let (code, _, told) = ends(&mut shell);
    assert_eq!(code, Some(0), "{told}");
    let code: Vec<String> =
        said.lines().map(Result::unwrap).take_while(|line| !line.starts_with("incoming")).collect();
    assert!(code.len() > 20 && code.iter().all(|line| line.chars().all(|c| "█▀▄ ".contains(c))), "{code:?}");
}

#[test]
fn quiet_says_what_went_wrong_and_nothing_else() {
    let (_echo, address, _said) = listener(&["--echo"]);
    assert_eq!(
        ends(p2pd(&["--quiet", "connect", &address]).args(LOCAL)),
        (Some(0), String::new(), String::new())
    );
    let (code, _, said) = ends(p2pd(&["connect", "--quiet", "--timeout", "0.1", "None-0-0-x"]).args(LOCAL));
    assert!(code != Some(0) && !said.is_empty(), "{said}");
    assert!(said.lines().all(|line| line.starts_with(['f', 'p', ' '])), "{said}");
}

#[test]
fn both_signals_end_with_the_same_code() {
    let dir = tempfile::tempdir().unwrap();
    let (_quiet, address, _said) = listener(&[]);
    let serve = ["serve", "--no-turn", "--bind", "127.0.0.1", "--mqtt-port", "0", "--stun-port", "0"];
    let folder = dir.path().to_str().unwrap();
    let daemon = ["daemon", "--api", "127.0.0.1:0", "--no-token", "--no-servers", "--bind", "127.0.0.1"];
    for (args, until, expected) in [
        (&["listen", "--no-servers", "--bind", "127.0.0.1"][..], "ready: ", 0),
        (&["file", "receive", "--dir", folder, "--no-servers", "--bind", "127.0.0.1"], "ready: ", 0),
        (&serve, "serving: ", 0),
        (&daemon, "ready: ", 0),
        (&["connect", &address, "--no-servers", "--bind", "127.0.0.1"], "connected: ", 130),
    ] {
        for signal in ["-INT", "-TERM"] {
            let mut child = Running(p2pd(args).stdin(Stdio::piped()).spawn().unwrap());
            let mut said = BufReader::new(child.0.stderr.take().unwrap());
            let mut line = String::new();
            while !line.starts_with(until) {
                line.clear();
                assert_ne!(said.read_line(&mut line).unwrap(), 0, "{args:?} ended");
            }
            assert!(
                Command::new("kill").args([signal, &child.0.id().to_string()]).status().unwrap().success()
            );
            assert_eq!(child.0.wait().unwrap().code(), Some(expected), "{args:?} {signal}");
        }
    }
}

#[test]
fn nobody_who_reads_is_no_reason_to_panic() {
    let (reader, closed) = std::io::pipe().unwrap();
    drop(reader);
    let (code, _, said) = ends(p2pd(&["addr"]).args(LOCAL).stdout(closed.try_clone().unwrap()));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("standard output") && said.lines().count() == 1, "{said}");
    for command in ["interfaces", "config", "man", "completions bash", "nat --no-servers --bind 127.0.0.1"] {
        let args: Vec<&str> = command.split(' ').collect();
        let (code, _, said) = ends(p2pd(&args).stdout(closed.try_clone().unwrap()));
        assert_eq!(
            (code, &*said),
            (Some(1), "p2pd: standard output: Broken pipe (os error 32)\n"),
            "{command}"
        );
    }
    let (code, _, said) = ends(p2pd(&["demo", "--size", "1"]).stdout(closed.try_clone().unwrap()));
    assert_eq!((code, said.contains("panicked")), (Some(1), false), "{said}");
    let (code, out, _) = ends(p2pd(&["demo", "--size", "1"]).stderr(closed.try_clone().unwrap()));
    assert_eq!((code, out.contains("as it was sent")), (Some(0), true), "{out}");
    let (code, _, _) = ends(p2pd(&["connect", "nonsense"]).args(LOCAL).stderr(closed));
    assert_eq!(code, Some(2));
}

#[test]
fn input_that_has_ended_and_input_without_end() {
    let (_echo, address, _said) = listener(&["--echo"]);
    let connect = || {
        let mut command = p2pd(&["connect", &address]);
        command.args(LOCAL);
        command
    };
    let (code, out, said) = ends(&mut connect());
    assert_eq!((code, out.len()), (Some(0), 0), "{said}");
    // Its reader leaves, as `head` does: whose fault it is, is said.
    let mut child = Running(connect().stdin(fs::File::open("/dev/zero").unwrap()).spawn().unwrap());
    child.0.stdout.take().unwrap().read_exact(&mut [0; 1000]).unwrap();
    assert_eq!(child.0.wait().unwrap().code(), Some(1));
    let mut said = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("p2pd: standard output: ") && !said.contains("pipe broke"), "{said}");
}

#[test]
fn a_peer_that_is_gone_ends_a_transfer_with_1() {
    let (listener, address, _said) = listener(&[]);
    let zero = fs::File::open("/dev/zero").unwrap();
    let mut child = Running(p2pd(&["connect", &address]).args(LOCAL).stdin(zero).spawn().unwrap());
    let mut said = BufReader::new(child.0.stderr.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().starts_with("connected: ")));
    drop(listener);
    assert_eq!(child.0.wait().unwrap().code(), Some(1));
    let rest: Vec<String> = said.map(Result::unwrap).collect();
    assert!(rest.len() == 1 && rest[0].starts_with("p2pd: the pipe broke: "), "{rest:?}");
}

#[test]
fn a_node_id_alone_needs_a_search_and_says_so() {
    let id = "a".repeat(51) + "q";
    let (code, _, said) = ends(p2pd(&["connect", &id]).args(LOCAL));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("a node id without an address: --lan"), "{said}");
}
