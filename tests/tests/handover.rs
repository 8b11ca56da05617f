//! Handover of plain pipes' sockets: to the standard library, to a running program, to one that p2pd starts.
#![cfg(unix)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use p2pd_core::{Config, PipeMode, Plan, SecretKey};
use p2pd_tests::drivers::{Driver, Node, Pipe};
use p2pd_tests::world::program;

const LONG: Duration = Duration::from_secs(20);

fn node(driver: Driver) -> Box<dyn Node> {
    let mut config = Config::new(SecretKey::from_bytes(p2pd_sys::random_seed().unwrap()));
    config.bind = Some(Ipv4Addr::LOCALHOST.into());
    config.allow_plain = true;
    driver.bind(config, None).unwrap()
}

fn plain_pair(driver: Driver) -> (Box<dyn Pipe>, Box<dyn Pipe>) {
    let (a, b) = (node(driver), node(driver));
    let plan = Plan::new().mode(PipeMode::Plain);
    // The nodes end with this function, and the pipes live on.
    (a.connect(&b.address(), plan).unwrap(), b.accept(LONG).unwrap())
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/handover").join(name)
}

/// Returns the receivers that can be run here, each with its greeting; the others are skipped by name.
fn receivers(test: &str, folder: &Path) -> Vec<(PathBuf, &'static str)> {
    let mut found = Vec::new();
    let works = |command: &mut Command| {
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    if works(Command::new("cc").arg("--version")) {
        let to = folder.join("receive");
        let mut build = Command::new("cc");
        build.args(["-Wall", "-Wextra", "-Werror", "-o"]).arg(&to).arg(example("receive.c"));
        assert!(build.status().unwrap().success());
        found.push((to, "hello from C\n"));
    } else {
        println!("SKIPPED {test}_c: no cc here");
    }
    // `recv_fds` is of Python 3.9.
    if works(Command::new("python3").args(["-c", "import socket; socket.recv_fds"])) {
        found.push((example("receive.py"), "hello from Python\n"));
    } else {
        println!("SKIPPED {test}_python: no python3 with recv_fds here");
    }
    found
}

#[test]
fn a_plain_pipe_is_a_socket_of_the_standard_library() {
    for driver in Driver::ALL {
        let (ours, theirs) = plain_pair(driver);
        let (local, remote) = (ours.info().local_addr(), ours.info().remote_addr());
        let mut ours = ours.into_std().unwrap();
        assert_eq!((ours.local_addr().unwrap(), ours.peer_addr().unwrap()), (local, remote), "{driver}");
        let mut theirs = theirs.into_std().unwrap();
        ours.write_all(b"bare").unwrap();
        let mut word = [0; 4];
        // Blocks, as streams of the standard library do.
        theirs.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"bare", "{driver}");
        drop(OwnedFd::from(ours));
        assert_eq!(theirs.read(&mut word).unwrap(), 0, "{driver}");
        let (a, b) = (node(driver), node(driver));
        let sealed = a.connect(&b.address(), Plan::default()).unwrap();
        assert_eq!(sealed.into_std().unwrap_err().kind(), std::io::ErrorKind::Unsupported, "{driver}");
    }
}

#[test]
fn a_running_program_receives_the_socket_over_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    for (receiver, greeting) in receivers("over_a_unix_socket", folder.path()) {
        for driver in Driver::ALL {
            let (ours, mut theirs) = plain_pair(driver);
            let path = folder.path().join(format!("{driver}-{}", greeting.len()));
            let mut child = Command::new(&receiver).arg(&path).stdout(Stdio::piped()).spawn().unwrap();
            let mut said = BufReader::new(child.stdout.take().unwrap());
            let mut line = String::new();
            said.read_line(&mut line).unwrap();
            assert_eq!(line, "waiting\n");
            let door = UnixStream::connect(&path).unwrap();
            p2pd_sys::handover::send(&door, ours.into_std().unwrap()).unwrap();
            let mut heard = String::new();
            theirs.read_to_string(&mut heard).unwrap();
            assert_eq!(heard, greeting, "{driver}");
            theirs.write_all(b"and back\n").unwrap();
            theirs.end().unwrap();
            let mut rest = String::new();
            said.read_to_string(&mut rest).unwrap();
            assert_eq!(rest, "and back\n", "{driver}");
            assert!(child.wait().unwrap().success());
        }
    }
}

/// `p2pd connect` to the node, with these words after the address.
fn connect(to: &dyn Node, words: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.env("P2PD_FORBID_PUBLIC_SERVERS", "1").arg("connect").arg(to.address().to_string());
    command.args(["--no-servers", "--bind", "127.0.0.1"]).args(words);
    command
}

#[test]
fn a_program_that_p2pd_starts_has_the_socket_as_descriptor_3() {
    let folder = tempfile::tempdir().unwrap();
    let b = node(Driver::Tokio);
    for (receiver, greeting) in receivers("descriptor_3", folder.path()) {
        let receiver = receiver.to_str().unwrap();
        let child = connect(&*b, &["--exec", receiver]).stdout(Stdio::piped()).spawn().unwrap();
        let mut theirs = b.accept(LONG).unwrap();
        assert_eq!(theirs.info().mode(), PipeMode::Plain);
        let mut heard = String::new();
        theirs.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, greeting);
        theirs.write_all(b"and back\n").unwrap();
        theirs.end().unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success());
        assert_eq!(String::from_utf8_lossy(&out.stdout), "and back\n");
    }
}

#[test]
fn the_socket_can_be_the_programs_standard_input_and_output() {
    let b = node(Driver::Mio);
    let script = "read word; echo heard $word $1; [ -n \"$P2PD_PEER\" ] && exit 7";
    let mut child =
        connect(&*b, &["--stdio", "--exec", "sh", "-c", script, "sh", "--plain"]).spawn().unwrap();
    let mut theirs = b.accept(LONG).unwrap();
    theirs.write_all(b"this\n").unwrap();
    let mut heard = String::new();
    theirs.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "heard this --plain\n");
    assert_eq!(child.wait().unwrap().code(), Some(7), "it ends as the program ends");
    let missing = connect(&*b, &["--exec", "/nonexistent/program"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(1));
    let said = String::from_utf8_lossy(&missing.stderr);
    assert!(said.contains("/nonexistent/program: No such file"), "{said}");
}
