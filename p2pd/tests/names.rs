//! `p2pd name`, and calls by name, with the broker of `p2pd serve` on loopback.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use p2pd::servers::FORBID_PUBLIC;
use serde_json::Value;

/// Ends the process however the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A broker, a list that names it, and a folder for keys.
struct World {
    dir: tempfile::TempDir,
    serve: Running,
}

/// Output and exit code of a program.
struct Ended {
    code: i32,
    out: String,
    said: String,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let serve = Self::serve(&dir.path().join("servers.toml"), "0");
        World { dir, serve }
    }

    /// Runs a broker at this port, and writes the list.
    fn serve(list: &Path, port: &str) -> Running {
        let mut serve = Command::new(env!("CARGO_BIN_EXE_p2pd"));
        serve.args([
            "serve",
            "--no-turn",
            "--bind",
            "127.0.0.1",
            "--mqtt-port",
            port,
            "--stun-port",
            "0",
            "--json",
            "--write",
        ]);
        let mut serve = Running(serve.arg(list).stderr(Stdio::piped()).spawn().unwrap());
        event(&mut serve, "serving");
        serve
    }

    fn key(&self, of: &str) -> PathBuf {
        self.dir.path().join(of)
    }

    /// The program as a node with this key.
    fn p2pd(&self, of: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_p2pd"));
        command.args(args).args(["--json", "--bind", "127.0.0.1", "--config"]).arg(self.key("servers.toml"));
        command.arg("--identity").arg(self.key(of)).env(FORBID_PUBLIC, "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, of: &str, args: &[&str]) -> Ended {
        ended(self.p2pd(of, args))
    }

    fn listen(&self, of: &str) -> (Running, String) {
        let mut command = self.p2pd(of, &["listen", "--echo", "--name", "example"]);
        let mut child = Running(command.spawn().unwrap());
        let ready = event(&mut child, "ready");
        (child, ready["address"].as_str().unwrap().into())
    }

    /// Sends a line to a name and returns the answer.
    fn call(&self, of: &str) -> Ended {
        let mut command = self.p2pd(of, &["connect", "example.peer"]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"by name\n").unwrap();
        finish(child)
    }
}

fn ended(mut command: Command) -> Ended {
    finish(command.spawn().unwrap())
}

fn finish(child: Child) -> Ended {
    let out = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { code: out.status.code().unwrap(), out: text(out.stdout), said: text(out.stderr) }
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
            std::thread::spawn(move || said.read_to_end(&mut Vec::new()));
            return value;
        }
    }
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_name_is_taken_found_called_and_given_up() {
    let world = World::new();
    let (listener, address) = world.listen("alice");
    let found = world.run("bob", &["name", "resolve", "example"]);
    assert_eq!((found.code, found.out.trim()), (0, &*address), "{}", found.said);
    let called = world.call("bob");
    assert_eq!((called.code, &*called.out), (0, "by name\n"), "{}", called.said);
    // The key is pinned, beside the caller's own.
    let id = address.rsplit('-').next().unwrap();
    let pins = lines(&world.key("bob.names"));
    assert!(pins.len() == 1 && pins[0].starts_with(&format!("example {id} ")), "{pins:?}");

    let squat = world.run("carol", &["name", "register", "example"]);
    assert_eq!(squat.code, 1);
    assert!(squat.said.contains(&format!("the name is taken by node {id}")), "{}", squat.said);
    let others = world.run("carol", &["name", "release", "example.peer"]);
    assert!(others.code == 1 && others.said.contains("no broker knows the name"), "{}", others.said);
    let owner = world.run("alice", &["name", "release", "example"]);
    assert_eq!(owner.code, 0, "{}", owner.said);
    drop(listener);
    let gone = world.call("bob");
    assert!(gone.code == 1 && gone.said.contains("given up by its owner"), "{}", gone.said);

    // Another key may have it now, and whoever knew the old one is told, and goes no further.
    let (_listener, _) = world.listen("carol");
    let changed = world.call("bob");
    assert_eq!((changed.code, &*changed.out), (1, ""));
    assert!(changed.said.contains("another key than before"), "{}", changed.said);
    let changed = world.run("bob", &["name", "resolve", "example"]);
    assert!(changed.said.contains("p2pd name forget example.peer --names"), "{}", changed.said);
    assert_eq!(lines(&world.key("bob.names")), pins, "and the pin stays");
    assert_eq!(world.run("bob", &["name", "forget", "example"]).code, 0);
    assert_eq!(world.run("bob", &["name", "forget", "example"]).code, 1);
    let called = world.call("bob");
    assert_eq!((called.code, &*called.out), (0, "by name\n"), "{}", called.said);
}

#[test]
fn a_name_registered_once_leads_to_the_node_that_comes_later() {
    let world = World::new();
    // A port that is free now.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let registered = world.run("alice", &["name", "register", "Example.peer", "--port", &port]);
    assert_eq!(registered.code, 0, "{}", registered.said);
    assert!(registered.said.contains(r#""brokers":1"#), "{}", registered.said);
    let mut listener = Running(world.p2pd("alice", &["listen", "--echo", "--port", &port]).spawn().unwrap());
    event(&mut listener, "ready");
    let called = world.call("bob");
    assert_eq!((called.code, &*called.out), (0, "by name\n"), "{}", called.said);
}

#[test]
fn names_that_cannot_be_are_wrong_usage() {
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_p2pd"));
        command.args(args).args(["--no-servers", "--bind", "127.0.0.1"]).env(FORBID_PUBLIC, "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        ended(command)
    };
    let dir = tempfile::tempdir().unwrap();
    let names = dir.path().join("names");
    let names = names.to_str().unwrap();
    for args in [
        &["name", "register", "a_b", "--names", names][..],
        &["name", "register", "example", "--names", names],
        &["listen", "--name", "example", "--names", names],
        &["name", "release", "example", "--names", names],
        &["connect", "a_b.peer", "--names", names],
    ] {
        let ended = run(args);
        assert_eq!(ended.code, 2, "{args:?}: {}", ended.said);
    }
    assert!(run(&["name", "register", "example", "--names", names]).said.contains("--identity"));
    fs::write(names, "nonsense\n").unwrap();
    let broken = run(&["connect", "example.peer", "--names", names]);
    assert!(broken.code == 2 && broken.said.contains("line 1"), "{}", broken.said);
    fs::remove_file(names).unwrap();
    let nobody = run(&["connect", "example.peer", "--names", names]);
    assert!(nobody.code == 1 && nobody.said.contains("no broker could be asked"), "{}", nobody.said);
}

#[test]
fn a_broker_that_comes_back_is_said_after_its_loss_and_once() {
    let mut world = World::new();
    let list = fs::read_to_string(world.key("servers.toml")).unwrap();
    let (_, of_broker) = list.split_once("[[mqtt]]").unwrap();
    let port = of_broker.lines().find_map(|line| line.strip_prefix("port = ")).unwrap();
    let mut node = Running(world.p2pd("alice", &["listen", "--echo"]).spawn().unwrap());
    let mut said = BufReader::new(node.0.stderr.take().unwrap()).lines().map(|line| {
        let said: Value = serde_json::from_str(&line.unwrap()).unwrap();
        (said["event"].as_str().unwrap().to_owned(), said["state"].as_str().unwrap_or_default().to_owned())
    });
    let mut brokers = Vec::new();
    while brokers.last().is_none_or(|state| state != "ready") {
        let (event, state) = said.next().unwrap();
        match &*event {
            "ready" => {
                world.serve.0.kill().unwrap();
                world.serve.0.wait().unwrap();
                world.serve = World::serve(&world.key("again.toml"), port);
            }
            "broker" => brokers.push(state),
            _ => {}
        }
    }
    let (again, lost) = brokers.split_last().unwrap();
    assert!(again == "ready" && !lost.is_empty() && lost.iter().all(|state| state == "lost"), "{brokers:?}");
}
