//! The examples of each command. They stand in one place, the program's help, from where man pages take them; the guide's page
//! of commands is held against it. Each is run as it stands there, in a network namespace of its own where one may be made.
#![cfg(unix)]

mod machine;
mod ntp;
mod terminal;

use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use machine::{Machine, Terminal};

/// The program. It has the server list of this machine where the example is a user's who has agreed to public servers.
const PROGRAM: &str = r#"#!/bin/sh
verb=$1; shift
case $verb in file|name|servers|service) verb="$verb $1"; shift ;; esac
case $verb in
listen|connect|expose|forward|send|receive|pair|daemon|"file send"|"file receive")
    case " $* " in *" --config "*|*" --no-servers "*) ;; *) set -- --config servers.toml "$@" ;; esac ;;
map) set -- --bind 10.9.0.1 "$@" ;;
esac
exec "$P2PD" $verb "$@"
"#;
/// Variable that is set inside of the namespace.
const INSIDE: &str = "P2PD_EXAMPLES_INSIDE";
/// Variable with which the guide's page is written in place of compared.
const WRITE: &str = "P2PD_WRITE_COMMANDS";
const PAGE: &str = "../docs/src/guide/commands.md";
const PAGE_HEAD: &str = "# Commands\n\nExamples of each command, as its `--help` and its man page have them. ADDRESS is \
    what the peer printed, NODE-ID is `p2pd id` of the peer.\n";

/// Sign that an example does what it is for.
enum Expect {
    /// The command ends with this code.
    Ends(i32),
    /// The command says this, and is interrupted.
    Says(&'static str),
}
use Expect::{Ends, Says};

/// Commands whose line has a part, what runs before and beside them, each with what it says first (nothing: it ends),
/// and what is expected.
type Scene = (&'static str, &'static str, &'static [(&'static str, &'static str)], Expect);

const READY: &str = "ready: ";
const ECHO: &[(&str, &str)] = &[("p2pd listen --echo", READY)];
const ANSWERING: &[(&str, &str)] =
    &[("p2pd daemon --identity peer.key --api 127.0.0.1:0 --accept NODE-ID", READY)];
const EXPOSE: &[(&str, &str)] =
    &[("p2pd expose ssh=2022 web=2022 dns=udp:53 db=2022 --allow '127.0.0.1:*' --anyone", READY)];
const DAEMON: &[(&str, &str)] = &[("p2pd daemon --unix ./p2pd.sock", READY)];
const RECEIVE: &[(&str, &str)] = &[("p2pd receive --dir Downloads --yes", READY)];
const OWNER: &[(&str, &str)] = &[("p2pd listen --name example --identity p2pd.key", READY)];

/// The first that fits counts.
const SCENES: &[Scene] = &[
    ("listen", "", &[], Says(READY)),
    ("connect", "--lan", &[("p2pd listen --lan --identity peer.key", READY)], Ends(0)),
    ("connect", "--exec", &[("echo from there | p2pd listen --plain", READY)], Ends(0)),
    ("connect", "--service", EXPOSE, Ends(0)),
    ("connect", "--messages", &[("p2pd listen --messages --each ./answer", READY)], Ends(0)),
    ("connect", "--streams", &[("p2pd listen --exec cat", READY)], Ends(0)),
    ("connect", "punch", &[("p2pd listen --echo --accept NODE-ID", READY)], Ends(0)),
    ("connect", "", ECHO, Ends(0)),
    ("expose", "", &[], Says(READY)),
    ("forward", "ssh -o", EXPOSE, Ends(0)),
    ("forward", "", EXPOSE, Says("forwards: ")),
    ("file send", "receive", &[], Says(READY)),
    ("file send", "", RECEIVE, Ends(0)),
    ("file receive", "", &[], Says(READY)),
    ("send", "receive", &[("p2pd send one.jpg", "code: ")], Ends(0)),
    ("send", "--to", RECEIVE, Ends(0)),
    ("send", "", &[], Says("code: ")),
    ("receive", "guitar", &[("p2pd send one.jpg", "code: ")], Ends(0)),
    ("receive", "", &[], Says(READY)),
    ("pair", "guitar", &[("p2pd pair --identity peer.key", "code: ")], Ends(0)),
    ("pair", "connect", ECHO, Ends(0)),
    ("pair", "", &[], Says("code: ")),
    ("peers", "listen", &[], Says(READY)),
    ("peers", "", ECHO, Ends(0)),
    ("peers forget", "", ECHO, Ends(0)),
    ("id", "", &[], Ends(0)),
    ("addr", "", &[], Ends(0)),
    ("name register", "", &[], Ends(0)),
    ("name resolve", "", OWNER, Ends(0)),
    (
        "name release",
        "",
        &[("p2pd name register example --config servers.toml --identity p2pd.key", "")],
        Ends(0),
    ),
    (
        "name forget",
        "",
        &[
            ("p2pd name register example --config servers.toml --identity p2pd.key", ""),
            ("p2pd name resolve example --config servers.toml", ""),
        ],
        Ends(0),
    ),
    ("ping", "--pipe", ECHO, Ends(0)),
    ("ping", "", ANSWERING, Ends(0)),
    ("nat", "", &[], Ends(0)),
    ("service install", "", &[], Ends(0)),
    ("service remove", "", &[("p2pd service install -- daemon --config servers.toml", "")], Ends(0)),
    ("service status", "", &[], Ends(0)),
    ("doctor", "", &[], Ends(0)),
    ("interfaces", "", &[], Ends(0)),
    // Nobody is there to be asked; the lab has routers.
    ("map", "--add", &[], Says("no mapping: ")),
    ("map", "--list", &[], Says("UPnP: ")),
    ("clock", "", &[], Ends(0)),
    ("servers check", "", &[], Ends(0)),
    ("daemon", "curl", DAEMON, Ends(0)),
    ("daemon", "", &[], Says(READY)),
    ("status", "--watch", DAEMON, Says("address ")),
    ("status", "", DAEMON, Ends(0)),
    ("serve", "", &[], Says("serving: ")),
    ("demo", "", &[], Ends(0)),
    ("replay", "replay", &[("p2pd addr --no-servers --trace run.trace", "")], Ends(0)),
    ("replay", "", &[], Ends(0)),
    ("config", "", &[], Ends(0)),
    ("completions", "", &[], Ends(0)),
    ("man", "", &[], Ends(0)),
];

fn help(command: &str) -> String {
    let mut p2pd = Command::new(env!("CARGO_BIN_EXE_p2pd"));
    let out = p2pd.args(command.split_whitespace()).arg("--help").output().unwrap();
    assert!(out.status.success(), "{command}");
    String::from_utf8(out.stdout).unwrap()
}

/// All commands, those of groups too. A group by itself does nothing, unless its command may be left out.
fn commands(of: &str) -> Vec<String> {
    let help = help(of);
    let Some((_, list)) = help.split_once("Commands:\n") else { return vec![of.into()] };
    let may_be_left_out = help.contains(" [COMMAND]");
    let names = list.split("\n\n").next().unwrap().lines().filter(|line| !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
    let inner = names.flat_map(|name| commands(format!("{of} {name}").trim()));
    may_be_left_out.then(|| of.into()).into_iter().chain(inner).collect()
}

/// Lines of the examples in a command's help.
fn examples(command: &str) -> Vec<String> {
    let help = help(command);
    let block = help.split_once("Examples:\n").map_or("", |(_, rest)| rest.split("\n\n").next().unwrap());
    block.lines().map(|line| line.strip_prefix("  ").unwrap_or(line).to_owned()).collect()
}

#[test]
fn each_command_has_examples_in_help_man_page_and_guide() {
    let folder = tempfile::tempdir().unwrap();
    let man = Command::new(env!("CARGO_BIN_EXE_p2pd")).arg("man").arg(folder.path()).status().unwrap();
    assert!(man.success());
    let all = commands("");
    assert!(all.len() > 30, "{all:?}");
    let mut page = PAGE_HEAD.to_owned();
    for command in &all {
        let examples = examples(command);
        assert!(!examples.is_empty(), "p2pd {command} --help has no examples");
        let file = folder.path().join(format!("p2pd-{}.1", command.replace(' ', "-")));
        let man = fs::read_to_string(&file)
            .unwrap()
            .replace("\\-", "-")
            .replace("\\\\", "\\")
            .replace("\\*(Aq", "'");
        for example in &examples {
            assert!(man.contains(example.trim_end()), "{file:?}: {example}");
        }
        writeln!(page, "\n## {command}\n\n```text\n{}\n```", examples.join("\n")).unwrap();
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    if std::env::var_os(WRITE).is_some() {
        fs::write(&file, &page).unwrap();
    }
    let is = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        is == page,
        "docs/src/guide/commands.md is not what help says; with {WRITE}=1 this test writes it"
    );
}

/// A machine with all that examples name.
fn furnished() -> Machine {
    let machine = Machine::new(PROGRAM);
    for folder in [
        "Photos",
        "Downloads",
        ".zfunc",
        ".config/fish/completions",
        ".local/share/bash-completion/completions",
        ".local/share/man/man1",
    ] {
        fs::create_dir_all(machine.path(folder)).unwrap();
    }
    for (name, text) in [("file", "hello\n"), ("one.jpg", "1"), ("notes.txt", "2"), ("Photos/two.jpg", "3")] {
        fs::write(machine.path(name), text).unwrap();
    }
    let receive = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/handover/receive.py");
    fs::copy(receive, machine.path("receive.py")).unwrap();
    for name in ["answer", "chat"] {
        fs::write(machine.path(name), "#!/bin/sh\ncat\n").unwrap();
        fs::set_permissions(machine.path(name), PermissionsExt::from_mode(0o755)).unwrap();
    }
    machine
}

/// Line that a shell gets: without a prompt.
fn typed(line: &str) -> &str {
    let line = line.trim();
    let line =
        line.split_once("$ ").filter(|(prompt, _)| !prompt.contains(' ')).map_or(line, |(_, line)| line);
    // ssh runs this; a server of ssh's own is in `tests/forward.rs`.
    line.strip_prefix("ssh -o ProxyCommand='").map_or(line, |rest| rest.split('\'').next().unwrap())
}

/// Runs an example beside a machine with a server list and keys. Returns why not, if something of the system is missing.
fn run(command: &str, example: &str, server: &Machine) -> Result<(), String> {
    let uncommented = example.split(" # ").next().unwrap();
    let line = typed(uncommented);
    for part in line.split('|') {
        let program = part.split_whitespace().next().unwrap();
        let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap();
        if program != "p2pd" && !found.status.success() {
            return Err(format!("no {program}"));
        }
    }
    let (_, _, before, expect) = SCENES
        .iter()
        .find(|(of, part, ..)| *of == command && uncommented.contains(part))
        .unwrap_or_else(|| panic!("p2pd {command}: no scene for {line}"));
    let machine = furnished();
    for key in ["servers.toml", "p2pd.key", "peer.key"] {
        fs::copy(server.path(key), machine.path(key)).unwrap();
    }
    let id = |key: &str| {
        let key = p2pd_tokio::load_or_create_key(&server.path(key)).unwrap();
        key.node_id().to_string()
    };
    let mut line = line.replace("NODE-ID", &id("peer.key"));
    let mut beside: Vec<Terminal> = Vec::new();
    for (other, mark) in *before {
        let other = machine.types(&other.replace("NODE-ID", &id("p2pd.key")));
        if mark.is_empty() {
            let (code, said) = other.ends();
            assert_eq!(code, Some(0), "before {line}: {said}");
            continue;
        }
        let said = other.says(mark);
        match *mark {
            "code: " => line = line.replace("7-guitar-oxygen", &said),
            // An address without quotes, where it stands inside of them.
            _ => {
                line = line.replace("ADDRESS", &format!("'{said}'"));
                let peers = format!("desk {said}\nlaptop {said}\n");
                fs::create_dir_all(machine.path(".p2pd")).unwrap();
                fs::write(machine.path(".p2pd/peers"), peers).unwrap();
                fs::set_permissions(machine.path(".p2pd/peers"), PermissionsExt::from_mode(0o600)).unwrap();
            }
        }
        beside.push(other);
    }
    let what = format!("p2pd {command}: {line}");
    match expect {
        Says(mark) => drop(machine.types(&line).says(mark)),
        // Nobody types; an input of its own that the example has counts.
        Ends(code) => {
            let (ended, said) =
                machine.types(&format!("exec </dev/null; export MANPAGER=cat; {line}")).ends();
            assert_eq!(ended, Some(*code), "{what}: {said}");
        }
    }
    Ok(())
}

/// Makes the namespace, and runs this test again inside of it. Returns true if that has been done.
fn inside() -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let test = std::env::current_exe().unwrap();
    let script = "ip link set lo up && ip link add cable type veth peer name end && ip link set cable up multicast on && ip link set end up && \
        ip addr add 10.9.0.1/24 dev cable && ip addr add 192.0.2.1/24 dev cable && ip addr add 192.0.2.2/24 dev cable || exit 77; \
        ip route add 224.0.0.0/4 dev cable; exec \"$0\" --exact each_example_is_run --nocapture";
    let mut unshare = Command::new("unshare");
    unshare.args(["--net", "--map-root-user", "sh", "-c", script]).arg(test).env(INSIDE, "1");
    match unshare.status() {
        Ok(status) if status.success() => {}
        Ok(status) if status.code() != Some(101) && std::env::var_os("P2PD_REQUIRE_LAB").is_none() => {
            println!("SKIPPED each_example_is_run: no network namespace ({status})");
        }
        other => panic!("{other:?}"),
    }
    false
}

#[test]
fn each_example_is_run() {
    if !inside() {
        return;
    }
    let server = Machine::new(PROGRAM);
    let serving = server.types("p2pd serve --bind 10.9.0.1 --mqtt-port 0 --stun-port 0 --write servers.toml");
    serving.says("serving: ");
    let list = fs::read_to_string(server.path("servers.toml")).unwrap() + &ntp::ahead();
    fs::write(server.path("servers.toml"), list).unwrap();
    for key in ["p2pd.key", "peer.key"] {
        p2pd_tokio::load_or_create_key(&server.path(key)).unwrap();
    }
    let service = std::net::TcpListener::bind("127.0.0.1:2022").unwrap();
    std::thread::spawn(move || {
        service.incoming().flatten().for_each(|mut to| drop(to.write_all(b"a service\n")))
    });
    let only = std::env::var("P2PD_EXAMPLES_OF").ok();
    let mut failed = Vec::new();
    for command in commands("") {
        if only.as_ref().is_some_and(|only| *only != command) {
            continue;
        }
        for example in examples(&command) {
            let begin = std::time::Instant::now();
            // All that fail are named.
            match std::panic::catch_unwind(|| run(&command, &example, &server)) {
                Err(_) => failed.push(example),
                Ok(Ok(())) => println!("ran {command}: {example} ({} ms)", begin.elapsed().as_millis()),
                Ok(Err(why)) => println!("SKIPPED each_example_is_run: {why} for {example}"),
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
