//! Commands of README.md and of the book's guide, run as they stand there, on loopback. What serves runs at a terminal,
//! which `script` makes. Blocks of TOML are read as server lists.
//!
//! A line of a block with a prompt (`there$ p2pd listen`) is a command. Lines below it that have no prompt are its
//! output, compared up to the first thing that differs each time.
#![cfg(unix)]

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longer than anything here takes, even on a busy machine.
const LONG: Duration = Duration::from_secs(60);

const PAGES: [&str; 11] = [
    "README.md",
    "docs/src/guide/two-computers.md",
    "docs/src/guide/servers.md",
    "docs/src/guide/names.md",
    "docs/src/guide/files.md",
    "docs/src/guide/rest.md",
    "docs/src/guide/forwarding.md",
    "docs/src/guide/handover.md",
    "docs/src/guide/network.md",
    "docs/src/guide/security.md",
    "docs/src/guide/troubleshooting.md",
];

/// Commands that other steps of `tests/run` run: building, all tests, the demo.
const ELSEWHERE: [&str; 3] = ["cargo build", "tests/run", "p2pd demo"];

/// Gives the program what keeps it on loopback and off ports of others, behind its subcommand.
const WRAPPER: &str = r#"#!/bin/bash
command=$1 more=()
shift
case $command in
serve) more=(--bind 127.0.0.1 --mqtt-port 0 --stun-port 0) ;;
file) command="file $1"; shift ;;&
daemon) more=(--api 127.0.0.1:0) ;;&
*)
    [[ " $* " == *" --bind "* ]] || more+=(--bind 127.0.0.1)
    [[ " $* " == *" --config "* || " $* " == *" --no-servers "* ]] || more+=(--no-servers)
    ;;
esac
exec PROGRAM $command "${more[@]}" "$@"
"#;

/// A line with a prompt, and the output below it.
struct Typed {
    command: String,
    output: Vec<String>,
}

impl Typed {
    /// True for what runs until it is interrupted, or until its connection ends.
    fn serves(&self) -> bool {
        ["p2pd serve", "p2pd listen", "p2pd daemon", "p2pd file receive", "socat "]
            .iter()
            .any(|begin| self.command.starts_with(begin))
    }
}

/// Blocks of code of this language, without their fences.
fn blocks<'a>(page: &'a str, language: &'a str) -> impl Iterator<Item = &'a str> {
    page.split("```").skip(1).step_by(2).filter_map(move |block| {
        let (first, rest) = block.split_once('\n')?;
        (first == language).then_some(rest)
    })
}

fn typed(page: &str) -> Vec<Typed> {
    let mut all: Vec<Typed> = Vec::new();
    for block in blocks(page, "") {
        let begin = all.len();
        for line in block.lines() {
            match line.split_once("$ ") {
                Some((host, command)) if host.chars().all(char::is_alphanumeric) => {
                    all.push(Typed { command: command.trim().into(), output: Vec::new() });
                }
                _ if all.len() > begin => all.last_mut().unwrap().output.push(line.into()),
                _ => {}
            }
        }
    }
    all.retain(|typed| !ELSEWHERE.iter().any(|begin| typed.command.starts_with(begin)));
    all
}

/// A command that serves, at a terminal of its own.
struct Terminal {
    child: Child,
    input: ChildStdin,
    said: Arc<Mutex<String>>,
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Terminal {
    fn open(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (said, mut stream) = (Arc::new(Mutex::new(String::new())), child.stdout.take().unwrap());
        let shown = said.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                shown.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
        });
        Terminal { input: child.stdin.take().unwrap(), child, said }
    }

    fn types(&mut self, text: &str) {
        self.input.write_all(text.as_bytes()).unwrap();
    }

    /// Waits for a line with this in it, and returns what stands behind it there.
    fn says(&self, what: &str) -> String {
        let begin = Instant::now();
        loop {
            let said = self.said.lock().unwrap().clone();
            let line = said.split_once(what).and_then(|(_, rest)| rest.split_once(['\r', '\n']));
            if let Some((rest, _)) = line {
                return rest.trim().to_owned();
            }
            assert!(begin.elapsed() < LONG, "not {what:?}: {said}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ctrl-C, which ends whatever serves without a fault.
    fn interrupt(mut self) {
        self.types("\x03");
        self.ends();
    }

    /// Waits until it ends, without a fault.
    fn ends(mut self) {
        let begin = Instant::now();
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(begin.elapsed() < LONG, "it goes on: {}", self.said.lock().unwrap()),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(status.code(), Some(0), "{}", self.said.lock().unwrap());
    }
}

/// A server that answers every request of HTTP with the same text. Returns its port.
fn web_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 4096];
            if stream.read(&mut request).is_ok_and(|n| n > 0) {
                let _ = stream.write_all(b"HTTP/1.0 200 OK\r\ncontent-length: 11\r\n\r\nfrom there\n");
            }
        }
    });
    port
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A folder with what the examples speak of, and what runs in it.
struct Session {
    folder: tempfile::TempDir,
    serving: Vec<Terminal>,
    address: String,
    api: String,
    /// Ports in place of those of the page on forwarding: the web server's and the forwarded one.
    ports: [u16; 2],
    /// Functions that were defined at the prompt.
    defined: String,
}

impl Session {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let wrapper = WRAPPER.replace("PROGRAM", env!("CARGO_BIN_EXE_p2pd"));
        std::fs::create_dir(at("bin")).unwrap();
        std::fs::write(at("bin/p2pd"), wrapper).unwrap();
        std::fs::write(at("receive.py"), include_str!("../../examples/handover/receive.py")).unwrap();
        for name in ["bin/p2pd", "receive.py"] {
            std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        std::fs::write(at("file"), "what stands in the file\n").unwrap();
        std::fs::write(at("one.jpg"), "a picture").unwrap();
        std::fs::write(at("two.jpg"), "another").unwrap();
        let [address, api, defined] = [(); 3].map(|()| String::new());
        let ports = [web_server(), free_port()];
        Session { folder, serving: Vec::new(), address, api, ports, defined }
    }

    /// The command with what was made up in its place: names of hosts, addresses, ports.
    fn meant(&self, command: &str) -> String {
        let mut meant = command.replace("server.example", "127.0.0.1").replace("127.0.0.1:12333", &self.api);
        meant = meant.replace("ADDRESS", &format!("'{}'", self.address));
        meant = meant.replace(":8000", &format!(":{}", self.ports[0]));
        meant = meant.replace(":8080", &format!(":{}", self.ports[1]));
        // A person types slower than a port is forwarded.
        meant =
            meant.replace("curl http", "curl --silent --retry 60 --retry-connrefused --retry-delay 1 http");
        if let Some((before, rest)) = meant.split_once('\'')
            && let Some((sample, after)) = rest.split_once('\'')
            && sample.ends_with('…')
        {
            meant = format!("{before}'{}'{after}", self.address);
        }
        meant
    }

    fn shell(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = std::env::var("PATH").unwrap_or_default();
        let bin = self.folder.path().join("bin");
        command.env("PATH", format!("{}:{path}", bin.display())).env("HOME", self.folder.path());
        command.env(p2pd::servers::FORBID_PUBLIC, "1").current_dir(self.folder.path());
        command
    }

    fn run(&mut self, typed: &Typed) {
        let command = self.meant(&typed.command);
        if typed.serves() {
            let mut script = self.shell("script");
            // Not `exec`: the wrapper and the shell are where a user's shell is.
            script.args(["--quiet", "--return", "--echo", "never", "--command", &command, "/dev/null"]);
            let terminal = Terminal::open(script);
            let is = |name: &str| command.starts_with(&format!("p2pd {name}"));
            if is("serve") {
                terminal.says("serving: ");
            } else if is("daemon") {
                self.api = terminal.says("API on http://").split(',').next().unwrap().to_owned();
            } else if command.contains("listen") || command.contains("receive") {
                self.address = terminal.says("ready: ");
            }
            for line in &typed.output {
                // Up to the first thing that is made up, by machine or by hand.
                let fixed = line.split(|c: char| c.is_ascii_digit() || c == '/').next().unwrap();
                terminal.says(fixed);
            }
            self.serving.push(terminal);
        } else if command.contains("() {") {
            writeln!(self.defined, "{command}").unwrap();
        } else {
            let said = self.ends(&command);
            assert_eq!(said.status.code(), Some(0), "{command}: {said:?}");
            if command.starts_with("p2p ") {
                let json: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
                assert_eq!(json["error"], 0, "{command}: {json}");
                if let Some((_, shown)) = typed.command.split_once("# \"") {
                    let (name, value) = shown.split_once("\": ").unwrap();
                    assert_eq!(json[name].to_string(), value, "{command}");
                }
            }
        }
    }

    /// Runs a command that ends by itself. Whoever listens types a line meanwhile, and ends it by Ctrl-D if that is
    /// waited for.
    fn ends(&mut self, command: &str) -> Output {
        let mut shell = self.shell("bash");
        shell.args(["-c", &format!("{}{command}", self.defined)]);
        let mut child =
            shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (begin, mut typed) = (Instant::now(), false);
        while child.try_wait().unwrap().is_none() {
            if begin.elapsed() > Duration::from_secs(2) && !typed && command.contains("--exec") {
                typed = true;
                self.serving.last_mut().unwrap().types("typed\n\x04");
            }
            assert!(begin.elapsed() < LONG, "{command} goes on");
            std::thread::sleep(Duration::from_millis(5));
        }
        child.wait_with_output().unwrap()
    }
}

#[test]
fn what_readme_and_guide_have_typed_does_what_they_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut run = 0;
    for page in PAGES {
        let typed = typed(&std::fs::read_to_string(root.join(page)).unwrap());
        let mut session = Session::new();
        let has = |what: &str| typed.iter().any(|typed| typed.command.contains(what));
        if has("socat") && Command::new("socat").arg("-V").output().is_err() {
            println!("SKIPPED what_readme_and_guide_have_typed_does_what_they_say: {page}: no socat");
            continue;
        }
        if has("--config servers.toml") && !has("p2pd serve") {
            let command = "p2pd serve --write servers.toml --host server.example".into();
            session.run(&Typed { command, output: Vec::new() });
        }
        for each in &typed {
            println!("{page}: {}", each.command);
            session.run(each);
            run += 1;
        }
        let received = session.folder.path().join("Downloads/two.jpg");
        assert_eq!(received.exists(), has("file receive"), "{page}");
        if has("file receive") {
            // A receiver that is interrupted while its sender still says goodbye counts that as a file that did not arrive.
            std::thread::sleep(Duration::from_secs(1));
        }
        while let Some(terminal) = session.serving.pop() {
            // What carried one connection has ended with it.
            if has("socat") && !session.serving.is_empty() { terminal.ends() } else { terminal.interrupt() }
        }
    }
    // Whoever changes how commands stand in the pages changes how they are found.
    assert!(run > 20, "{run} commands");
}

#[test]
fn pages_of_the_guide_are_all_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for entry in std::fs::read_dir(root.join("docs/src/guide")).unwrap() {
        let name = format!("docs/src/guide/{}", entry.unwrap().file_name().to_str().unwrap());
        assert!(PAGES.contains(&name.as_str()), "{name}");
    }
}

#[test]
fn lists_in_the_guide_are_lists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut read = 0;
    for page in PAGES {
        for block in blocks(&std::fs::read_to_string(root.join(page)).unwrap(), "toml") {
            let folder = tempfile::tempdir().unwrap();
            for name in ["password", "proxy-password"] {
                let file = folder.path().join(name);
                std::fs::write(&file, "secret").unwrap();
                std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
            }
            let list = folder.path().join("servers.toml");
            std::fs::write(&list, block).unwrap();
            let found = p2pd::servers::Servers::read(&list);
            assert!(found.is_ok(), "{page}: {}\n{block}", found.err().unwrap());
            read += 1;
        }
    }
    assert!(read > 3, "{read} lists");
}
