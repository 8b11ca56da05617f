//! The commands of README and of the guide, run as they stand there, at terminals. Only names that no machine here has
//! are replaced: the server's host, and the example's address by the listener's.
#![cfg(unix)]

mod machine;
mod terminal;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use machine::{Machine, Terminal};
use p2pd::servers::Servers;

/// The program at this machine alone, with ports that are free.
const PROGRAM: &str = r#"#!/bin/sh
verb=$1; shift
case $verb in
file) verb="file $1"; shift; set -- --bind 127.0.0.1 "$@" ;;
serve) set -- --bind 127.0.0.1 --mqtt-port 0 --stun-port 0 "$@" ;;
daemon) set -- --bind 127.0.0.1 --api 127.0.0.1:0 "$@" ;;
listen|connect|expose|forward|send|receive|pair) case " $* " in *" --bind "*) ;; *) set -- --bind 127.0.0.1 "$@" ;; esac ;;
esac
exec "$P2PD" $verb "$@"
"#;

/// A document, as the repository has it.
macro_rules! document {
    ($path:literal) => {
        Document { text: include_str!(concat!("../../", $path)) }
    };
}

struct Document {
    text: &'static str,
}

impl Document {
    /// Blocks between fences of this kind.
    fn blocks(&self, kind: &str) -> Vec<&'static str> {
        let mut blocks = Vec::new();
        let mut parts = self.text.split("\n```");
        parts.next();
        while let Some(block) = parts.next() {
            let (head, body) = block.split_once('\n').unwrap_or((block, ""));
            if head == kind {
                blocks.push(body);
            }
            parts.next();
        }
        blocks
    }

    /// Commands of all blocks: the prompt, and what is typed.
    fn commands(&self) -> Vec<(&'static str, &'static str)> {
        let prompted = |line: &'static str| {
            let (prompt, command) = line.split_once('$')?;
            ["", "here", "there", "server"].contains(&prompt).then(|| (prompt, command.trim()))
        };
        self.blocks("").into_iter().flat_map(str::lines).filter_map(prompted).collect()
    }
}

impl Terminal {
    /// Says yes to the next peer.
    fn lets_in(&mut self) {
        self.says("wants in");
        self.child.stdin.as_mut().unwrap().write_all(b"y\n").unwrap();
    }

    /// Says yes to the list of the next sender, which begins so.
    fn takes(&mut self, list: &str) {
        let said = self.says("wants to send ");
        assert!(said.starts_with(list), "{said}");
        self.child.stdin.as_mut().unwrap().write_all(b"y\n").unwrap();
    }
}

/// Replaces the example's address, which is quoted or the word ADDRESS.
fn to(line: &str, address: &str) -> String {
    let line = line.replace("ADDRESS", &format!("'{address}'"));
    match line
        .split_once('\'')
        .and_then(|(before, rest)| Some((before.to_owned(), rest.split_once("…'")?.1.to_owned())))
    {
        Some((before, after)) => format!("{before}'{address}'{after}"),
        None => line,
    }
}

/// `serve` as a document has it, whose list is copied to a computer.
fn serves(line: &str, list_to: &Path) -> (Machine, Terminal) {
    let server = Machine::new(PROGRAM);
    let serving = server.types(&line.replace("server.example", "127.0.0.1"));
    serving.says("serving: ");
    std::fs::copy(server.path("servers.toml"), list_to).unwrap();
    (server, serving)
}

const SERVE: &str = "p2pd serve --write servers.toml --host server.example";

#[test]
fn the_readmes_two_computers() {
    let commands = document!("README.md").commands();
    let [_, _, (_, demo), (_, serve), ("there", listen), ("here", connect), ("there", expose), ("here", ssh)] =
        commands[..]
    else {
        panic!("{commands:?}")
    };
    assert_eq!(serve, SERVE);
    assert_eq!(demo.split('#').next().unwrap().trim(), "p2pd demo");
    let (here, there) = (Machine::new(PROGRAM), Machine::new(PROGRAM));
    let _serving = serves(serve, &there.path("servers.toml"));
    std::fs::copy(there.path("servers.toml"), here.path("servers.toml")).unwrap();
    let listener = there.types(listen);
    let address = listener.says("ready: ");
    let (code, said) = here.types(&to(connect, &address)).ends();
    assert_eq!(code, Some(0), "{said}");
    listener.says("hello");
    // What the listener says is the other side's command is that.
    let line = listener.says("other side: ");
    let (code, said) = here.types(&format!("echo again | {line}")).ends();
    assert_eq!(code, Some(0), "{line}: {said}");
    listener.says("again");
    let exposer = there.types(&expose.replace(":22", &format!(":{}", banner())));
    by_proxy_command(&here, &to(ssh, &exposer.says("ready: ")), exposer);
}

/// A server that says what it is, as ssh's does. Returns its port.
fn banner() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"SSH-2.0-of the other side\r\n");
        }
    });
    port
}

/// Runs what ssh would run. A server of ssh's own is in `tests/forward.rs`.
fn by_proxy_command(here: &Machine, ssh: &str, mut exposer: Terminal) {
    let command = ssh.strip_prefix("ssh -o ProxyCommand=\"").unwrap().split('"').next().unwrap();
    let caller = here.types(&format!("sleep 30 | {command}"));
    exposer.lets_in();
    let rest = caller.says("SSH-2.0-of");
    assert_eq!(rest, "the other side");
}

#[test]
fn two_computers_of_the_guide() {
    let commands = document!("docs/src/guide/two-computers.md").commands();
    let [("there", alone), ("here", alone_to), ("server", serve), ("there", listen), ("here", connect)] =
        commands[..]
    else {
        panic!("{commands:?}")
    };
    let (here, there) = (Machine::new(PROGRAM), Machine::new(PROGRAM));
    let listener = there.types(alone);
    let (code, said) = here.types(&to(alone_to, &listener.says("ready: "))).ends();
    assert_eq!(code, Some(0), "{said}");
    listener.says("hello");
    drop(listener);
    let _serving = serves(serve, &there.path("servers.toml"));
    std::fs::copy(there.path("servers.toml"), here.path("servers.toml")).unwrap();
    std::fs::write(here.path("file"), "a file\n").unwrap();
    let listener = there.types(listen);
    let (code, said) = here.types(&to(connect, &listener.says("ready: "))).ends();
    assert_eq!(code, Some(0), "{said}");
    listener.says("a file");
    assert!(there.path("p2pd.key").exists());
}

#[test]
fn files_and_names_of_the_guide() {
    let files = document!("docs/src/guide/files.md").commands();
    let names = document!("docs/src/guide/names.md").commands();
    let (
        [
            ("here", by_code),
            ("there", of_code),
            ("there", receive),
            ("here", send),
            ("there", always),
            ("here", piped),
        ],
        [("there", listen), ("here", connect)],
    ) = (&files[..], &names[..])
    else {
        panic!("{files:?} {names:?}")
    };
    let (here, there) = (Machine::new(PROGRAM), Machine::new(PROGRAM));
    let _serving = serves(SERVE, &there.path("servers.toml"));
    std::fs::copy(there.path("servers.toml"), here.path("servers.toml")).unwrap();
    for name in ["one.jpg", "two.jpg"] {
        std::fs::write(here.path(name), name).unwrap();
    }
    let sender = here.types(by_code);
    let code = sender.says("code: ");
    // What the sender says is the other side's command is that.
    let other = sender.says("other side: ");
    assert!(other.starts_with(&format!("p2pd receive {code} --config servers.toml")), "{other}");
    // At a terminal there is a QR code behind it.
    sender.says("\u{2588}\u{2580}");
    let mut receiver = there.types(&of_code.replace("7-guitar-oxygen", &code));
    receiver.takes("2 files, 14 B: ");
    let (ended, said) = receiver.ends();
    assert_eq!(ended, Some(0), "{said}");
    assert_eq!(std::fs::read_to_string(there.path("Downloads/one.jpg")).unwrap(), "one.jpg");
    assert_eq!(sender.ends().0, Some(0));
    std::fs::remove_dir_all(there.path("Downloads")).unwrap();
    std::fs::create_dir_all(here.path("Photos/2026")).unwrap();
    std::fs::write(here.path("Photos/2026/three.jpg"), "three.jpg").unwrap();
    let mut receiver = there.types(receive);
    let sender = here.types(&to(send, &receiver.says("ready: ")));
    receiver.takes("3 files in 2 folders, 23 B: Photos, ");
    let (code, said) = sender.ends();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(std::fs::read_to_string(there.path("Downloads/two.jpg")).unwrap(), "two.jpg");
    assert_eq!(std::fs::read_to_string(there.path("Downloads/Photos/2026/three.jpg")).unwrap(), "three.jpg");
    drop(receiver);
    // Whatever comes, and standard input.
    let receiver = there.types(always);
    let (code, said) = here.types(&to(piped, &receiver.says("ready: "))).ends();
    assert_eq!(code, Some(0), "{said}");
    assert!(std::fs::metadata(there.path("Downloads/stdin")).unwrap().len() > 0);
    drop(receiver);
    std::fs::write(here.path("file"), "by name\n").unwrap();
    let listener = there.types(listen);
    assert!(listener.says("registered: ").starts_with("example.peer, on 1 broker"));
    listener.says("ready: ");
    let (code, said) = here.types(connect).ends();
    assert_eq!(code, Some(0), "{said}");
    listener.says("by name");
}

#[test]
fn machines_of_the_guide_that_know_each_other() {
    let commands = document!("docs/src/guide/pairing.md").commands();
    let [("here", host), ("there", guest), ("here", listen), ("there", connect)] = commands[..] else {
        panic!("{commands:?}")
    };
    let (here, there) = (Machine::new(PROGRAM), Machine::new(PROGRAM));
    let _serving = serves(SERVE, &there.path("servers.toml"));
    std::fs::copy(there.path("servers.toml"), here.path("servers.toml")).unwrap();
    std::fs::write(there.path("file"), "by pairing\n").unwrap();
    let pairing = here.types(host);
    let code = pairing.says("code: ");
    let (ended, said) = there.types(&guest.replace("12-jigsaw-oyster", &code)).ends();
    assert_eq!((ended, said.contains("paired: desk is ")), (Some(0), true), "{said}");
    let (ended, said) = pairing.ends();
    assert_eq!((ended, said.contains("paired: laptop is ")), (Some(0), true), "{said}");
    let listener = here.types(listen);
    listener.says("ready: ");
    let (ended, said) = there.types(connect).ends();
    assert_eq!(ended, Some(0), "{said}");
    listener.says("by pairing");
}

#[test]
fn the_socket_handed_over() {
    let commands = document!("docs/src/guide/handover.md").commands();
    let [("there", listen), ("here", by_three), ("here", by_stdio)] = commands[..] else {
        panic!("{commands:?}")
    };
    let (here, there) = (Machine::new(PROGRAM), Machine::new(PROGRAM));
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/handover/receive.py");
    std::fs::copy(example, here.path("receive.py")).unwrap();
    let uncommented = |line: &str| line.split('#').next().unwrap().trim().to_owned();
    let listener = there.types(&format!("echo from there | {listen} --no-servers"));
    let address = listener.says("ready: ");
    let exec = |line: &str| {
        let line = to(&uncommented(line), &address).replacen("connect ", "connect --no-servers ", 1);
        here.types(&line).ends()
    };
    let (code, said) = exec(by_three);
    assert_eq!((code, said.contains("from there")), (Some(0), true), "{said}");
    let (code, said) = exec(by_stdio);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn the_rest_api_of_the_guide() {
    let commands = document!("docs/src/guide/rest.md").commands();
    let [(_, daemon), (_, function), calls @ ..] = &commands[..] else { panic!("{commands:?}") };
    assert_eq!(calls.len(), 7);
    let here = Machine::new(PROGRAM);
    let _serving = serves(SERVE, &here.path("servers.toml"));
    std::fs::write(here.path("file"), "ECHO bytes").unwrap();
    let daemon = here.types(daemon);
    let api = daemon.says("API on http://").split(',').next().unwrap().to_owned();
    daemon.says("ready: ");
    for ((_, call), said) in calls.iter().zip([
        "\"addr\": \"0-",
        "\"name\": \"con_name\"",
        "\"sent\": 18",
        "\"data\": \"hello, world!\"",
        "\"sent\": 10",
        "\"sub\": ",
        "\"strategy\": \"direct connect\"",
    ]) {
        let line = format!("{function}\n{}", call.replace("127.0.0.1:12333", &api));
        let (code, heard) = here.types(&line).ends();
        assert!(code == Some(0) && heard.contains(said), "{call}: {heard}");
    }
}

#[test]
fn watching_of_the_guide() {
    let commands = document!("docs/src/guide/watching.md").commands();
    // The last one is for a program with another feature: `p2pd/tests/otlp.rs` has what it does.
    let [(_, daemon), (_, status), (_, curl), (_, spans)] = commands[..] else { panic!("{commands:?}") };
    assert!(spans.starts_with("OTEL_EXPORTER_OTLP_ENDPOINT=") && spans.ends_with(" p2pd daemon"), "{spans}");
    let here = Machine::new(PROGRAM);
    let _serving = serves(SERVE, &here.path("servers.toml"));
    let daemon = here.types(daemon);
    let api = daemon.says("API on http://").split(',').next().unwrap().to_owned();
    let ready = daemon.says("ready: ");
    let (code, said) = here.types(&format!("{status} --api {api}")).ends();
    assert!(code == Some(0) && said.contains(&format!("address {}", ready.trim())), "{said}");
    let (code, said) = here.types(&curl.replace("127.0.0.1:12333", &api)).ends();
    assert!(code == Some(0) && said.contains("p2pd_connections 0"), "{said}");
}

/// A server that answers every request of HTTP with the same text. Returns its port.
fn web_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            if stream.read(&mut [0; 4096]).is_ok_and(|n| n > 0) {
                let _ = stream.write_all(b"HTTP/1.0 200 OK\r\ncontent-length: 10\r\n\r\nfrom there");
            }
        }
    });
    port
}

#[test]
fn services_of_the_guide() {
    let commands = document!("docs/src/guide/forwarding.md").commands();
    let [
        ("there", expose),
        ("here", forward),
        ("here", curl),
        ("here", ssh),
        ("there", allow),
        ("here", socks),
        ("here", proxied),
    ] = commands[..]
    else {
        panic!("{commands:?}")
    };
    let (here, there) = (Machine::new(PROGRAM), Machine::new(PROGRAM));
    let _serving = serves(SERVE, &there.path("servers.toml"));
    std::fs::copy(there.path("servers.toml"), here.path("servers.toml")).unwrap();
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let ports = [web_server().to_string(), free(), free(), format!("ssh={}", banner())];
    let at_ports = |line: &str| {
        ["8000", "8080", "1080", "ssh=22"]
            .iter()
            .zip(&ports)
            .fold(line.to_owned(), |line, (from, to)| line.replace(from, to))
    };
    let mut exposer = there.types(&at_ports(expose));
    let address = exposer.says("ready: ");
    let forwarder = here.types(&to(&at_ports(forward), &address));
    exposer.lets_in();
    forwarder.says("forwards: ");
    let (code, said) = here.types(&at_ports(curl)).ends();
    assert!(code == Some(0) && said.contains("from there"), "{said}");
    drop(forwarder);
    drop(exposer);
    let exposer = there.types(&at_ports(expose));
    by_proxy_command(&here, &to(ssh, &exposer.says("ready: ")), exposer);
    let mut exposer = there.types(&at_ports(allow));
    let forwarder = here.types(&to(&at_ports(socks), &exposer.says("ready: ")));
    exposer.lets_in();
    forwarder.says("forwards: ");
    let (code, said) = here.types(&at_ports(proxied)).ends();
    assert!(code == Some(0) && said.contains("from there"), "{said}");
}

/// Lists are read, each table of the guide by itself.
#[test]
fn the_lists_of_the_guide() {
    let blocks = document!("docs/src/guide/servers.md").blocks("toml");
    assert!(blocks.len() >= 4);
    for block in blocks {
        let here = Machine::new(PROGRAM);
        std::fs::write(here.path("list.toml"), block).unwrap();
        for name in ["password", "proxy-password"] {
            std::fs::write(here.path(name), "secret\n").unwrap();
            std::fs::set_permissions(here.path(name), PermissionsExt::from_mode(0o600)).unwrap();
        }
        let read = Servers::read(&here.path("list.toml"));
        assert!(read.is_ok(), "{block}: {:?}", read.err());
    }
}

/// Each page that has commands has a test above.
#[test]
fn no_page_is_left_out() {
    let tested = [
        "two-computers.md",
        "files.md",
        "pairing.md",
        "names.md",
        "forwarding.md",
        "handover.md",
        "rest.md",
        "servers.md",
        "watching.md",
    ];
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/src/guide");
    for entry in std::fs::read_dir(guide).unwrap() {
        let entry = entry.unwrap();
        let (name, text) =
            (entry.file_name().into_string().unwrap(), std::fs::read_to_string(entry.path()).unwrap());
        let document = Document { text: Box::leak(text.into_boxed_str()) };
        assert!(tested.contains(&&*name) || document.commands().is_empty(), "{name} has commands");
    }
}
