//! The program on the lab's hosts, with mosquitto and coturn: common parts of its tests and benchmarks.
//!
//! `P2PD_LAB_TRACES=DIR` keeps a trace of each program in that folder, for `p2pd replay`.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::lab::services::{Coturn, Mosquitto};
use crate::lab::{Child, Home, Host, Lab};

/// Longer than anything here takes, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Builds a part of the workspace with the caller's own profile and target folder, and gives the folder of programs.
/// `P2PD_PROGRAM_IS_BUILT=1` says that it is built, which spares minutes after a build of the whole workspace.
///
/// # Panics
/// If it does not build.
pub fn built(part: &[&str]) -> PathBuf {
    let is_built = std::env::var("P2PD_PROGRAM_IS_BUILT").is_ok_and(|value| value == "1");
    if !is_built {
        let profile: &[&str] = if cfg!(debug_assertions) { &[] } else { &["--release"] };
        let mut build = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        assert!(build.args(["build", "-q"]).args(part).args(profile).status().unwrap().success());
    }
    std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_owned()
}

/// The program, which is built once.
///
/// # Panics
/// If it does not build.
pub fn program() -> &'static str {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| built(&["-p", "p2pd"]).join("p2pd")).to_str().unwrap()
}

/// Sets a program's wall clock by the variables of faketime's library; its monotonic clock is right. The program
/// `faketime` is not used, since its child outlives it.
///
/// # Panics
/// Where there is none: ask `require_lab!` first.
pub fn faked(command: &mut Command) -> &mut Command {
    let library = Command::new("faketime").args(["-f", "+0", "printenv", "LD_PRELOAD"]).output().unwrap();
    let library = String::from_utf8(library.stdout).unwrap();
    command.env("LD_PRELOAD", library.trim()).env("DONT_FAKE_MONOTONIC", "1")
}

/// A lab with servers, and the list that names them.
#[derive(Debug)]
pub struct World {
    /// Hosts and NATs of the world.
    pub lab: Lab,
    /// The STUN server.
    pub stun: Coturn,
    _broker: Mosquitto,
    config: tempfile::NamedTempFile,
    keys: tempfile::TempDir,
}

impl World {
    /// A lab with these homes, 0.5 ms one way from any to any.
    ///
    /// # Panics
    /// Where the lab cannot be built: ask `require_lab!` first.
    pub fn new(homes: &[&str]) -> World {
        Self::far_apart(homes, Duration::from_micros(500))
    }

    /// A lab with these homes and this time one way from any to any.
    ///
    /// # Panics
    /// Where the lab cannot be built: ask `require_lab!` first.
    pub fn far_apart(homes: &[&str], one_way: Duration) -> World {
        let user = format!("--user={}:{}", Coturn::USER, Coturn::PASSWORD);
        Self::with_coturn(at_distance(homes, one_way), &[&user, "--lt-cred-mech"], "")
    }

    /// The same, 0.5 ms one way, with more entries in the servers' list.
    ///
    /// # Panics
    /// Where the lab cannot be built: ask `require_lab!` first.
    pub fn listing(homes: &[&str], more: &str) -> World {
        Self::with_coturn(at_distance(homes, Duration::from_micros(500)), &[], more)
    }

    /// A lab with these homes whose servers' list has coturn as a TURN server too; `more` are lines of its entry.
    ///
    /// # Panics
    /// Where the lab cannot be built: ask `require_lab!` first.
    pub fn relaying(homes: &[&str], one_way: Duration, options: &[&str], more: &str) -> World {
        Self::relaying_for(at_distance(homes, one_way), options, more)
    }

    /// The same with homes whose lines are described in full.
    ///
    /// # Panics
    /// Where the lab cannot be built: ask `require_lab!` first.
    pub fn relaying_for(homes: Vec<Home>, options: &[&str], more: &str) -> World {
        let user = format!("--user={}:{}", Coturn::USER, Coturn::PASSWORD);
        let options = [&[&user, "--lt-cred-mech"], options].concat();
        let (name, password) = (Coturn::USER, Coturn::PASSWORD);
        let entry = format!("[[turn]]\nhost = \"{}\"\n", crate::lab::SERVER[0]);
        let entry = match more.contains("password") {
            true => format!("{entry}{more}\n"),
            false => format!("{entry}user = \"{name}\"\npassword = \"{password}\"\n{more}\n"),
        };
        Self::with_coturn(homes, &options, &entry)
    }

    fn with_coturn(homes: Vec<Home>, options: &[&str], turn: &str) -> World {
        let lab = Lab::builder().homes(homes).build().unwrap();
        let (broker, stun) = (Mosquitto::start(&lab).unwrap(), Coturn::start_with(&lab, options).unwrap());
        let mut config = tempfile::NamedTempFile::new().unwrap();
        let (b, s) = (broker.addr(), stun.addr());
        writeln!(config, "[[mqtt]]\nid = 3\nhost = \"{}\"\nport = {}", b.ip(), b.port()).unwrap();
        writeln!(config, "[[stun]]\nhost = \"{}\"\nport = {}", s.ip(), s.port()).unwrap();
        writeln!(config, "{turn}").unwrap();
        World { lab, _broker: broker, stun, config, keys: tempfile::tempdir().unwrap() }
    }

    /// The server list.
    pub fn config(&self) -> &std::path::Path {
        self.config.path()
    }

    /// Starts the program on a host.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn run(&self, host: &Host, args: &[&str]) -> Child {
        self.run_by(host, host.command(program()), args)
    }

    /// The same, on a machine whose wall clock is so far off, as faketime understands it: `-30d`.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn run_at(&self, host: &Host, offset: &str, args: &[&str]) -> Child {
        let mut command = host.command(program());
        faked(&mut command).env("FAKETIME", offset);
        self.run_by(host, command, args)
    }

    /// The same by a command of the host's, which may have an environment of its own.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn run_by(&self, host: &Host, mut command: Command, args: &[&str]) -> Child {
        command.env("P2PD_FORBID_PUBLIC_SERVERS", "1");
        command.args(args).args(["--json", "--config"]).arg(self.config.path());
        if let Some(file) = trace_file(host) {
            command.arg("--trace").arg(file);
        }
        host.spawn(command).unwrap()
    }

    /// A listener that echoes, on the first host, and its address.
    ///
    /// # Panics
    /// If it does not get ready.
    pub fn listen(&self) -> (Child, String) {
        let mut child = self.run(self.lab.host(0), &["listen", "--echo"]);
        let ready = event(&mut child, "ready");
        (child, ready["address"].as_str().unwrap().to_owned())
    }

    /// A key file for the host, and the node id in it.
    ///
    /// # Panics
    /// If the program makes none.
    pub fn key(&self, host: usize) -> (String, String) {
        let key = self.keys.path().join(host.to_string()).to_str().unwrap().to_owned();
        let args = ["addr", "--no-servers", "--bind", "127.0.0.1", "--identity", &key];
        let out = Command::new(program()).args(args).output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        let id = text.trim().rsplit('-').next().unwrap().to_owned();
        (key, id)
    }

    /// A listener on a host that gives pipes to these node ids only, and so knows them; its address.
    ///
    /// # Panics
    /// If it does not get ready.
    pub fn listen_for(&self, host: usize, ids: &[String]) -> (Child, String) {
        let mut child = self.listener(host, ids);
        let ready = event(&mut child, "ready");
        (child, ready["address"].as_str().unwrap().to_owned())
    }

    /// The same, not waited for.
    ///
    /// # Panics
    /// If it does not start.
    pub fn listener(&self, host: usize, ids: &[String]) -> Child {
        self.run(self.lab.host(host), &["listen", "--echo", "--accept", &ids.join(",")])
    }

    /// A connect from a host that sends a word: the program's `connected` event once the word came back, or its
    /// last event.
    ///
    /// # Errors
    /// The program's last event.
    pub fn try_connect(&self, host: usize, address: &str, more: &[&str]) -> Result<Value, String> {
        let mut child = self.run(self.lab.host(host), &[&["connect", address], more].concat());
        child.take_stdin().unwrap().write_all(b"there and back\n").unwrap();
        let ended = child.wait(PATIENCE);
        let lines = child.lines();
        let answered = lines.iter().any(|l| l.text == "there and back");
        let connected = lines.iter().find(|l| l.text.contains("\"event\":\"connected\""));
        match connected {
            Some(line) if answered => Ok(serde_json::from_str(&line.text).unwrap()),
            // The report is among the last.
            _ => {
                let last: Vec<&str> = lines.iter().rev().take(4).rev().map(|l| &*l.text).collect();
                Err(format!("{ended:?}: {last:#?}"))
            }
        }
    }

    /// Connects from the second host and sends `text`. Returns the event, and the text that came back.
    ///
    /// # Panics
    /// If it fails.
    pub fn connect(&self, address: &str, text: &str, more: &[&str]) -> (Value, String) {
        let mut child = self.run(self.lab.host(1), &[&["connect", address], more].concat());
        child.take_stdin().unwrap().write_all(text.as_bytes()).unwrap();
        let connected = event(&mut child, "connected");
        assert!(child.wait(PATIENCE).unwrap().success(), "{:?}", child.lines());
        let answer =
            child.lines().iter().map(|l| l.text.as_str()).find(|l| *l == text.trim()).unwrap_or("").into();
        (connected, answer)
    }
}

/// Two lines of the first host: to its own home and to another one. It uses one at a time.
#[derive(Debug)]
pub struct TwoLines {
    /// Commands that bring each up.
    pub up: [String; 2],
}

impl TwoLines {
    /// Devices of the lines.
    pub const DEVICES: [&'static str; 2] = ["eth0", "eth1"];

    /// Plugs the second line in, which stays down.
    ///
    /// # Panics
    /// If it cannot be plugged in.
    pub fn of(world: &World) -> Self {
        Self::to(world, 1)
    }

    /// The same, with the second line to another home.
    ///
    /// # Panics
    /// If it cannot be plugged in.
    pub fn to(world: &World, home: usize) -> Self {
        let [ours, gateway] = world.lab.plug(0, home, Self::DEVICES[1]).unwrap();
        let [a, b, c, _] = world.lab.host(0).ip().octets();
        let up = [
            format!("link set eth0 up\nroute add default via {a}.{b}.{c}.1\n"),
            format!("addr replace {ours}/24 dev eth1\nlink set eth1 up\nroute add default via {gateway}\n"),
        ];
        TwoLines { up }
    }

    /// Leaves the other line and takes this one, in the world that the lines are of.
    ///
    /// # Panics
    /// If a line cannot be set.
    pub fn go(&self, world: &World, line: usize) {
        let down = format!("link set {} down\n", Self::DEVICES[1 - line]);
        world.lab.host(0).ip_batch(&(down + &self.up[line])).unwrap();
    }
}

fn at_distance(homes: &[&str], one_way: Duration) -> Vec<Home> {
    homes.iter().map(|text| text.parse::<Home>().unwrap().delay(one_way / 2)).collect()
}

/// A new file for a trace, where traces are asked for.
fn trace_file(host: &Host) -> Option<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let folder = std::env::var_os("P2PD_LAB_TRACES")?;
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    Some(PathBuf::from(folder).join(format!("{n:05}-{}.trace", host.name())))
}

/// Waits for an event of the program.
///
/// # Panics
/// If it does not come.
pub fn event(child: &mut Child, name: &str) -> Value {
    let wanted = format!("\"event\":\"{name}\"");
    match child.wait_for_line(|line| line.contains(&wanted), PATIENCE) {
        Ok(line) => serde_json::from_str(&line).unwrap(),
        Err(why) => panic!("no {name}: {why}; {:?}", child.lines()),
    }
}
