//! Texts of strangers as the program prints them: none steers a terminal, and none passes for a line of the program.
#![cfg(unix)]

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

use p2pd_core::text::is_plain;
use serde_json::Value;

/// Text that clears the screen, names the window, begins a line as the program does, turns the writing, and does that
/// again as C1 controls.
const HOSTILE: &str =
    "\x1b[2J\x1b]0;mine\x07\nready: forged\r\u{202e}txt\u{2066}\u{9b}2J\u{9d}0;x\u{9c}\u{7f}";
/// Part of that text that must still be found.
const MARK: &str = "forged";
const LOCAL: [&str; 2] = ["--bind", "127.0.0.1"];

fn p2pd(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2pd"));
    command.args(args).env(p2pd::servers::FORBID_PUBLIC, "1").env_remove("HOME");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command once for people and once for programs. Returns its output, checked to be harmless each time.
fn says(args: &[&str], more: &dyn Fn(&mut Command)) -> [String; 2] {
    [&[][..], &["--json"]].map(|json| {
        let mut command = p2pd(json);
        command.args(args);
        more(&mut command);
        let out = command.output().unwrap();
        let said = format!("{}{}", utf8(out.stdout), utf8(out.stderr));
        harmless(&said);
        said
    })
}

fn utf8(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

fn harmless(said: &str) {
    for line in said.split('\n') {
        assert!(line.chars().all(is_plain), "steers the terminal: {line:?}");
        assert!(!line.starts_with("ready: forged"), "{said}");
    }
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs it, and gives its first line for the address in it.
fn ready(command: &mut Command, json: bool) -> (Running, String, BufReader<ChildStderr>) {
    let mut child = Running(command.spawn().unwrap());
    let mut said = BufReader::new(child.0.stderr.take().unwrap());
    loop {
        let mut line = String::new();
        assert_ne!(said.read_line(&mut line).unwrap(), 0, "it ended");
        let address = if json {
            let event: Value = serde_json::from_str(&line).unwrap();
            event["address"].as_str().map(str::to_owned)
        } else {
            line.strip_prefix("ready: ").map(|address| address.trim().to_owned())
        };
        if let Some(address) = address {
            return (child, address, said);
        }
    }
}

fn list(dir: &Path, text: &str) -> String {
    let path = dir.join("servers.toml");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn names_and_addresses() {
    for to in [HOSTILE, &format!("{HOSTILE}.peer"), &format!("None-{HOSTILE}-0-x")] {
        says(&["connect", to, "--no-servers", "--bind", "127.0.0.1"], &|_| {});
        says(&["file", "send", to, "file", "--no-servers"], &|_| {});
    }
    // What clap finds wrong is shown too.
    for args in [
        &["connect", "x", "--accept", HOSTILE][..],
        &["connect", "x", HOSTILE],
        &["listen", "--port", HOSTILE],
        &["name", "resolve", HOSTILE],
        &[HOSTILE],
    ] {
        let said = says(args, &|_| {});
        assert!(said.iter().all(|said| said.contains(MARK)), "{said:?}");
    }
}

#[test]
fn whatever_is_wrong_with_a_list() {
    let dir = tempfile::tempdir().unwrap();
    let hostile = toml::Value::from(HOSTILE).to_string();
    for text in [
        format!("[[stun]]\nhost = {hostile}\n"),
        format!("[[stun]]\nhost = \"a:1\"\nport = {hostile}\n"),
        format!("[[stun]]\n{} = 1\n", toml::Value::from(HOSTILE)),
        format!("[[turn]]\nurl = {hostile}\nsecret = \"s\"\n"),
        format!("[[turn]]\nhost = \"127.0.0.1\"\ncredential_command = [\"sh\", {hostile}]\n"),
        format!("[[mqtt]]\nid = 1\nhost = \"a\"\ntls = true\nca = {hostile}\n"),
        format!("[[mqtt]]\nid = 1\nhost = \"a\"\ntls = true\nserver_name = {hostile}\n"),
        format!("[[mqtt]]\nid = 1\nhost = \"a\"\nwebsocket = {hostile}\n"),
        format!("# forged\n{HOSTILE}"),
    ] {
        let list = list(dir.path(), &text);
        let said = says(&["addr", "--bind", "127.0.0.1", "--config", &list], &|_| {});
        assert!(said[0].starts_with("p2pd: "), "{said:?}");
    }
}

/// A command that a list names is run for those only who allow it.
#[test]
fn a_list_runs_nothing_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let proof = dir.path().join("ran");
    let script = format!("touch {}; echo user; echo password", proof.display());
    let entry =
        format!("[[turn]]\nhost = \"127.0.0.1\"\ncredential_command = [\"sh\", \"-c\", \"{script}\"]\n");
    let list = list(dir.path(), &entry);
    let nobody = "None-0-0-x";
    for command in
        [&["addr"][..], &["nat"], &["connect", nobody], &["listen"], &["daemon"], &["file", "receive"]]
    {
        let out = p2pd(command).args(LOCAL).args(["--config", &list]).output().unwrap();
        let said = utf8(out.stderr);
        // An address is looked at before the list.
        if !command.contains(&nobody) {
            assert!(said.contains("\"sh\" \"-c\" \"touch ") && said.contains("--allow-commands"), "{said}");
        }
        assert_eq!((out.status.code(), proof.exists()), (Some(2), false), "{command:?}: {said}");
    }
    for command in ["clock", "interfaces"] {
        let _ = p2pd(&[command, "--config", &list]).output().unwrap();
        assert!(!proof.exists(), "{command}");
    }
    let out = p2pd(&["addr", "--allow-commands", "--config", &list]).args(LOCAL).output().unwrap();
    assert_eq!((out.status.code(), proof.exists()), (Some(0), true), "{}", utf8(out.stderr));
    let out = p2pd(&["addr", "--allow-commands"]).args(LOCAL).output().unwrap();
    assert_eq!(out.status.code(), Some(2), "allowed to which list?");
}

#[test]
fn names_of_files_here_and_of_senders() {
    let dir = tempfile::tempdir().unwrap();
    let name = [HOSTILE.replace('\0', "").as_bytes(), &[0xff]].concat();
    let path = dir.path().join(OsStr::from_bytes(&name));
    fs::write(&path, "x").unwrap();
    for option in ["--config", "--identity", "--trace", "--names"] {
        let said = says(&["addr", "--bind", "127.0.0.1", "--no-servers"], &|command| {
            command.arg(option).arg(&path);
        });
        assert!(
            option == "--names" || said[0].contains("p") && !said[0].starts_with("None-"),
            "{option}: {said:?}"
        );
    }
    let said = says(&["replay"], &|command| {
        command.arg(&path);
    });
    assert!(said.iter().all(|said| said.contains(MARK)), "{said:?}");
    says(&["file", "send", "None-0-0-x", "--no-servers"], &|command| {
        command.arg(&path);
    });

    // A sender of such a name, and its receiver. Whichever of them refuses it says which it is.
    let name = HOSTILE.replace('\0', "");
    let path = dir.path().join(&name);
    fs::write(&path, "x").unwrap();
    let mut receiver = p2pd(&["file", "receive", "--no-servers", "--dir"]);
    receiver.arg(dir.path().join("in")).args(LOCAL);
    let (mut receiver, address, mut said) = ready(&mut receiver, false);
    let sent = says(&["file", "send", &address, "--no-servers"], &|command| {
        command.arg(&path).args(LOCAL);
    });
    assert!(sent.iter().any(|sent| sent.contains(MARK)), "{sent:?}");
    let _ = receiver.0.kill();
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    harmless(&rest);
    assert!(!dir.path().join("in").join(&name).exists());
}

/// STUN's header, and an error with a reason (RFC 8489).
fn refusal(request: &[u8], reason: &str) -> Vec<u8> {
    let padded = reason.len().div_ceil(4) * 4;
    let mut attribute = [&[0, 9][..], &(4 + reason.len() as u16).to_be_bytes(), &[0, 0, 4, 3]].concat();
    attribute.extend(reason.as_bytes());
    attribute.resize(8 + padded, 0);
    let kind = [request[0] | 1, request[1] | 0x10];
    [&kind[..], &(attribute.len() as u16).to_be_bytes(), &request[4..20], &attribute].concat()
}

#[test]
fn reasons_of_servers() {
    let dir = tempfile::tempdir().unwrap();
    let turn = UdpSocket::bind("127.0.0.1:0").unwrap();
    let broker = TcpListener::bind("127.0.0.1:0").unwrap();
    let (turn_port, broker_port) = (turn.local_addr().unwrap().port(), broker.local_addr().unwrap().port());
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((n, from)) = turn.recv_from(&mut buffer) {
            if n >= 20 {
                let _ = turn.send_to(&refusal(&buffer[..n], HOSTILE), from);
            }
        }
    });
    std::thread::spawn(move || {
        for mut stream in broker.incoming().flatten() {
            let _ = stream.read(&mut [0; 1500]);
            // CONNACK with a return code that there is not, and what is no MQTT.
            let _ = stream.write_all(&[&[0x20, 2, 0, 0x9b][..], HOSTILE.as_bytes()].concat());
        }
    });
    let text = format!(
        "[[mqtt]]\nid = 0\nhost = \"127.0.0.1\"\nport = {broker_port}\n[[turn]]\nhost = \"127.0.0.1\"\nport = {turn_port}\n\
         transport = \"udp\"\nuser = {0}\npassword = {0}\n[[stun]]\nhost = \"127.0.0.1\"\nport = {turn_port}\n",
        toml::Value::from(HOSTILE),
    );
    let list = list(dir.path(), &text);
    let (_listener, address, _said) = ready(p2pd(&["listen", "--no-servers", "--echo"]).args(LOCAL), false);
    let id = address.rsplit('-').next().unwrap();
    let to = format!("0-[0,127.0.0.1,127.0.0.1,9,1,1,0]-0-{id}");
    let args = [
        "connect",
        &to,
        "--strategies",
        "relay,reverse",
        "--timeout",
        "4",
        "--config",
        &list,
        "--log",
        "trace",
    ];
    let said = says(&args, &|command| {
        command.args(LOCAL);
    });
    for reason in ["the TURN server forbids it", "sent malformed packets"] {
        assert!(said.iter().all(|said| said.contains(reason)), "{reason}: {said:?}");
    }
    says(&["nat", "--config", &list], &|command| {
        command.args(LOCAL);
    });
}

#[test]
fn events_and_logs_of_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    for json in [false, true] {
        let mut daemon = p2pd(if json { &["--json"] } else { &[] });
        let log: PathBuf = dir.path().join("socket");
        daemon.args([
            "daemon",
            "--no-servers",
            "--api",
            "127.0.0.1:0",
            "--no-token",
            "--log",
            "trace",
            "--unix",
        ]);
        let mut child = Running(daemon.arg(&log).args(LOCAL).spawn().unwrap());
        let mut said = BufReader::new(child.0.stderr.take().unwrap());
        let mut api = None;
        while api.is_none() {
            let mut line = String::new();
            assert_ne!(said.read_line(&mut line).unwrap(), 0, "it ended");
            let at = line
                .find("127.0.0.1:")
                .filter(|_| line.contains("API on") || line.contains("\"event\":\"api\""));
            api = at.map(|at| line[at..].split(['"', ',', '/', ' ']).next().unwrap().to_owned());
        }
        let api = api.unwrap();
        let raw = HOSTILE.replace(['\n', '\r'], "");
        let escaped: String = HOSTILE.bytes().map(|b| format!("%{b:02x}")).collect();
        for path in
            [format!("/p2p/open/{escaped}/{escaped}"), format!("/{escaped}?{escaped}={escaped}"), raw.clone()]
        {
            let mut stream = TcpStream::connect(&api).unwrap();
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: {api}\r\nX-{raw}: {raw}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        }
        // Its end ends what it says.
        let _ = Command::new("kill").arg(child.0.id().to_string()).status().unwrap();
        let mut rest = String::new();
        said.read_to_string(&mut rest).unwrap();
        harmless(&rest);
        assert!(!rest.is_empty(), "the log says something of requests");
    }
}
