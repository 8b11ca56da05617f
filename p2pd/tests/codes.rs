//! Codes and pairs as their users have them: two processes, and the broker of `p2pd serve` on loopback.
#![cfg(unix)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::{Duration, Instant};

use p2pd::servers::FORBID_PUBLIC;
use serde_json::Value;

/// A process and what it says. It is ended however the test ends.
struct Running {
    child: Child,
    said: BufReader<ChildStderr>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn new(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        Running { child, said }
    }

    /// Waits for the next event of this kind.
    fn event(&mut self, kind: &str) -> Value {
        let mut all = String::new();
        loop {
            let mut line = String::new();
            assert_ne!(self.said.read_line(&mut line).unwrap(), 0, "no {kind}: {all}");
            let event: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
            if event["event"] == kind {
                return event;
            }
            all += &line;
        }
    }

    fn code(&mut self) -> String {
        self.event("code")["code"].as_str().unwrap().into()
    }

    fn interrupt(&self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    }

    fn ends(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

/// A broker and a folder.
struct World {
    dir: tempfile::TempDir,
    _serve: Running,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut serve = Command::new(env!("CARGO_BIN_EXE_p2pd"));
        let ports = ["--mqtt-port", "0", "--stun-port", "0", "--no-turn", "--bind", "127.0.0.1"];
        serve.arg("serve").args(ports).args(["--json", "--write"]).arg(dir.path().join("servers.toml"));
        let mut serve = Running::new(&mut serve);
        serve.event("serving");
        World { dir, _serve: serve }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The program in the home of `who`.
    fn p2pd(&self, who: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_p2pd"));
        command.args(args).args(["--json", "--bind", "127.0.0.1", "--config"]).arg(self.at("servers.toml"));
        command.env(FORBID_PUBLIC, "1").env("HOME", self.at(who)).current_dir(self.dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn start(&self, who: &str, args: &[&str]) -> Running {
        Running::new(&mut self.p2pd(who, args))
    }

    fn run(&self, who: &str, args: &[&str]) -> Output {
        self.p2pd(who, args).output().unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn files_go_to_who_has_the_code_and_to_nobody_else() {
    let world = World::new();
    fs::write(world.at("one.txt"), "hello").unwrap();
    fs::write(world.at("two.txt"), "world").unwrap();
    let mut sender = world.start("here", &["send", "one.txt", "two.txt"]);
    let code = sender.code();
    let received = world.run("there", &["receive", &code, "--dir", "in"]);
    assert_eq!(received.status.code(), Some(0), "{}", text(&received.stderr));
    assert_eq!(sender.ends(), Some(0));
    let names = [("one.txt", "hello"), ("two.txt", "world")];
    for (name, content) in names {
        assert_eq!(fs::read_to_string(world.at("in").join(name)).unwrap(), content);
    }
    // The code was for one.
    let mut again = world.start("here", &["send", "one.txt"]);
    assert_ne!(again.code(), code);
}

#[test]
fn a_wrong_code_is_burned_and_the_third_ends_the_sender() {
    let world = World::new();
    fs::write(world.at("one.txt"), "hello").unwrap();
    let mut sender = world.start("here", &["send", "one.txt"]);
    for _ in 0..3 {
        let code = sender.code();
        let number = code.split('-').next().unwrap();
        let wrong = format!("{number}-aardvark-aardvark");
        let output = world.run("there", &["receive", &wrong, "--dir", "in"]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("the code is wrong; the other side needs a new one"), "{said}");
        sender.event("guessed");
    }
    let error = sender.event("error");
    assert!(error.to_string().contains("somebody guesses"), "{error}");
    assert_eq!(sender.ends(), Some(1));
    assert_eq!(fs::read_dir(world.at("in")).unwrap().count(), 0);
}

#[test]
fn a_mistyped_code_opens_nothing() {
    let world = World::new();
    for (code, word) in [
        ("7-guitra-oxygen", "is it guitar?"),
        ("guitar", "a code is a number and two words"),
        ("0-guitar-oxygen", "within 1 to 999"),
    ] {
        let output = world.run("there", &["receive", code]);
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), said.contains(word)), (Some(2), true), "{said}");
    }
    for args in [&["send", "servers.toml"][..], &["receive", "7-guitar-oxygen"], &["pair", "--identity", "k"]]
    {
        let mut command = Command::new(env!("CARGO_BIN_EXE_p2pd"));
        let output = command.args(args).arg("--no-servers").current_dir(world.dir.path()).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), said.contains("meet at a broker")), (Some(2), true), "{said}");
    }
    let output = world.run("here", &["pair"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("give --identity"));
}

#[test]
fn paired_machines_call_each_other_by_name() {
    let world = World::new();
    let mut desk = world.start("desk", &["pair", "--identity", "desk.key", "--name", "laptop"]);
    let code = desk.code();
    let laptop = world.run("laptop", &["pair", &code, "--identity", "laptop.key", "--name", "desk"]);
    assert_eq!(laptop.status.code(), Some(0), "{}", text(&laptop.stderr));
    assert_eq!(desk.event("paired")["name"], "laptop");
    assert_eq!(desk.ends(), Some(0));
    // One line a peer, for its owner alone.
    let file = world.at("laptop/.p2pd/peers");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let kept = fs::read_to_string(&file).unwrap();
    assert!(kept.starts_with("desk 0-[") && kept.lines().count() == 1, "{kept}");
    let id = id_of(&world, "desk.key");
    assert!(kept.trim_end().ends_with(id.trim_end()), "{kept}");

    // The desk lets in whom it was paired with, and a stranger not.
    let mut listen =
        world.start("desk", &["listen", "--echo", "--identity", "desk.key", "--accept", "paired"]);
    listen.event("ready");
    let ping = ["ping", "desk", "-c", "1", "--identity", "laptop.key"];
    let output = world.run("laptop", &ping);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let connect = ["connect", "desk", "--identity", "laptop.key"];
    let output = world.run("laptop", &connect);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let peers = world.at("laptop/.p2pd/peers");
    let stranger = ["connect", "desk", "--timeout", "3", "--peers", peers.to_str().unwrap()];
    let output = world.run("stranger", &stranger);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("refused"), "{}", text(&output.stderr));

    // Listed, forgotten, and then unknown.
    let peers = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_p2pd"));
        command.arg("peers").args(args).env("HOME", world.at("laptop")).output().unwrap()
    };
    assert_eq!(text(&peers(&[]).stdout), kept);
    assert_eq!(peers(&["forget", "desk"]).status.code(), Some(0));
    assert_eq!(peers(&["forget", "desk"]).status.code(), Some(1));
    assert_eq!(text(&peers(&[]).stdout), "");
    assert_eq!(world.run("laptop", &connect).status.code(), Some(2));
}

fn id_of(world: &World, key: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2pd"));
    text(&command.args(["id", "--identity"]).arg(world.at(key)).output().unwrap().stdout)
}

#[test]
fn the_daemon_knows_paired_peers_by_name() {
    let world = World::new();
    let mut desk = world.start("desk", &["pair", "--identity", "desk.key"]);
    let code = desk.code();
    let laptop = world.run("laptop", &["pair", &code, "--identity", "laptop.key", "--name", "desk"]);
    assert_eq!(laptop.status.code(), Some(0), "{}", text(&laptop.stderr));
    assert_eq!(desk.ends(), Some(0));
    let mut listen =
        world.start("desk", &["listen", "--echo", "--identity", "desk.key", "--accept", "paired"]);
    listen.event("ready");
    let daemon = ["daemon", "--api", "127.0.0.1:0", "--no-token", "--identity", "laptop.key"];
    let mut daemon = world.start("laptop", &daemon);
    let api = daemon.event("api")["api"].as_str().unwrap().to_owned();
    let get = |path: &str| {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(&api).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {api}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let opened = get("/p2p/open/con/desk");
    assert!(opened.starts_with("HTTP/1.1 200"), "{opened}");
    let unknown = get("/p2p/open/other/nobody");
    assert!(unknown.starts_with("HTTP/1.1 400"), "{unknown}");
}

/// Waits until the one partial file in a folder has so many bytes, and returns how many it has.
fn part_of(dir: &Path, bytes: u64) -> u64 {
    let began = Instant::now();
    loop {
        let parts = fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap());
        let length = parts.filter(|entry| entry.file_name().to_str().unwrap().ends_with(".p2pd-part"));
        let length = length.map(|entry| entry.metadata().unwrap().len()).sum();
        if length >= bytes {
            return length;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{length} bytes came");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn what_was_cut_goes_on_under_the_next_code_without_a_key() {
    const SIZE: u64 = 64 << 20;
    let world = World::new();
    let block: Vec<u8> = (0..1_000_003_u32).map(|n| (n.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    let mut data = block.repeat(68);
    data.truncate(SIZE as usize);
    fs::write(world.at("large.bin"), &data).unwrap();
    let (send, into) = (["send", "large.bin"], world.at("in"));
    let receive = |code: &str| world.start("there", &["receive", code, "--dir", "in", "--yes"]);
    // The receiver is killed,
    let mut sender = world.start("here", &send);
    let mut receiver = receive(&sender.code());
    part_of(&into, 1 << 20);
    receiver.child.kill().unwrap();
    // A minute of trying is not waited for.
    sender.event("stranded");
    sender.interrupt();
    assert_eq!(sender.ends(), Some(130));
    let cut = part_of(&into, 1 << 20);
    assert!(cut < SIZE, "too fast to be cut");
    // then the sender,
    let mut sender = world.start("here", &send);
    let mut receiver = receive(&sender.code());
    part_of(&into, cut + (1 << 20));
    sender.interrupt();
    let error = receiver.event("error").to_string();
    assert!(error.contains("what has come is kept, and goes on when it is sent again"), "{error}");
    assert_eq!((sender.ends(), receiver.ends()), (Some(130), Some(1)));
    let again = part_of(&into, cut + (1 << 20));
    assert!(again < SIZE, "too fast to be cut");
    // and what is there is not sent again, but for the mebibyte that was cut.
    let mut sender = world.start("here", &send);
    let mut receiver = receive(&sender.code());
    let from = loop {
        let event = receiver.event("file");
        if event["state"] == "done" {
            break event["from"].as_u64().unwrap();
        }
    };
    assert_eq!(from, again >> 20 << 20);
    assert_eq!((sender.ends(), receiver.ends()), (Some(0), Some(0)));
    assert!(fs::read(into.join("large.bin")).unwrap() == data);
    assert_eq!(fs::read_dir(&into).unwrap().count(), 1);
}
