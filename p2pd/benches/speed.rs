//! Measures the program against its library's pipe, and beside `cat` and socat, on loopback. `connect` and socat read a
//! file as their standard input, `listen` and socat write to `/dev/null`. `file receive` writes a file in memory, where
//! the system has a place for it. All run in turn; the rates are medians, in MB/s. Beside them stands the processor time
//! of all that took part, on Linux: that says the same on a machine that does other things too.
//!
//! Run `cargo bench -p p2pd --bench speed -- [MEBIBYTES] [check]`. The default is 512. With `check` it fails where the
//! program is below 0.8 of the library's pipe, or `file send` below 0.6.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use p2pd_core::{Config, PipeMode, Plan, SecretKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ROUNDS: usize = 7;
const CHUNK: usize = 128 << 10;
/// Share of the library's pipe that each must reach.
const PROGRAM: f64 = 0.8;
const FILES: f64 = 0.6;

/// Kinds that are measured, in the order of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Library(PipeMode),
    Program(PipeMode),
    Send,
    Cat,
    Socat,
    SocatTls,
}

const KINDS: [Kind; 8] = [
    Kind::Library(PipeMode::Encrypted),
    Kind::Program(PipeMode::Encrypted),
    Kind::Send,
    Kind::SocatTls,
    Kind::Library(PipeMode::Plain),
    Kind::Program(PipeMode::Plain),
    Kind::Socat,
    Kind::Cat,
];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Library(PipeMode::Encrypted | PipeMode::Session) => "library's pipe, encrypted",
            Kind::Library(PipeMode::Plain) => "library's pipe, plain",
            Kind::Program(PipeMode::Encrypted | PipeMode::Session) => "listen and connect",
            Kind::Program(PipeMode::Plain) => "listen and connect --plain",
            Kind::Send => "file receive and file send",
            Kind::Cat => "cat FILE | cat",
            Kind::Socat => "socat, TCP",
            Kind::SocatTls => "socat, OpenSSL",
        }
    }

    /// The kind that it is compared with.
    fn beside(self) -> Kind {
        match self {
            Kind::Program(mode) => Kind::Library(mode),
            Kind::Send | Kind::SocatTls => Kind::Library(PipeMode::Encrypted),
            _ => Kind::Library(PipeMode::Plain),
        }
    }

    fn goal(self) -> Option<f64> {
        match self {
            Kind::Program(_) => Some(PROGRAM),
            Kind::Send => Some(FILES),
            _ => None,
        }
    }

    /// The programs that it needs.
    fn needs(self) -> &'static [&'static str] {
        match self {
            Kind::Library(_) | Kind::Program(_) | Kind::Send => &[],
            Kind::Cat => &["cat"],
            Kind::Socat => &["socat"],
            Kind::SocatTls => &["socat", "openssl"],
        }
    }
}

fn main() -> ExitCode {
    let mebibytes: usize = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(512);
    let check = std::env::args().any(|arg| arg == "check");
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let scratch = tempfile::tempdir_in(place).unwrap();
    let bench =
        Bench { bytes: mebibytes << 20, file: scratch.path().join("file"), dir: scratch.path().to_owned() };
    bench.prepare();
    let mut kinds = Vec::new();
    for kind in KINDS {
        match kind.needs().iter().find(|program| !is_there(program)) {
            Some(missing) => println!("skipped: {}: no {missing}", kind.name()),
            None => kinds.push(kind),
        }
    }
    let mut rates = vec![Vec::new(); kinds.len()];
    let mut spent = vec![0; kinds.len()];
    for _ in 0..ROUNDS {
        for ((kind, rates), spent) in kinds.iter().zip(&mut rates).zip(&mut spent) {
            let before = ticks();
            rates.push(bench.bytes as f64 / 1e6 / bench.run(*kind).as_secs_f64());
            *spent += ticks() - before;
        }
    }
    let gibibytes = (bench.bytes * ROUNDS) as f64 / f64::from(1 << 30);
    println!("{mebibytes} MiB one way over loopback, {ROUNDS} rounds in turn, median MB/s");
    println!("{:<28} {:>7} {:>7} {:>7}   of the pipe   goal   CPU s/GiB", "", "median", "least", "most");
    let of = |kind: Kind| median(&rates[kinds.iter().position(|k| *k == kind).unwrap()]);
    let mut missed = false;
    for ((kind, rates), spent) in kinds.iter().zip(&rates).zip(&spent) {
        let ratio = median(rates) / of(kind.beside());
        let (least, most) = rates.iter().fold((f64::MAX, 0.0_f64), |(a, b), r| (a.min(*r), b.max(*r)));
        let cpu = *spent as f64 / 100.0 / gibibytes;
        let goal = kind.goal().map_or(String::new(), |goal| format!("{goal}"));
        missed |= kind.goal().is_some_and(|goal| ratio < goal);
        println!(
            "{:<28} {:>7.0} {least:>7.0} {most:>7.0}   {ratio:>11.2}   {goal:>4}   {cpu:>9.2}",
            kind.name(),
            median(rates)
        );
    }
    if check && missed {
        println!("FAILED: below its goal");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Processor time of this process and of its children that have ended, in hundredths of a second; 0 elsewhere than on
/// Linux.
fn ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name, which may have blanks in it.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    fields.skip(11).take(4).filter_map(|n| n.parse::<u64>().ok()).sum()
}

fn median(rates: &[f64]) -> f64 {
    let mut rates = rates.to_vec();
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// The file to be moved, and a folder for all else.
struct Bench {
    bytes: usize,
    file: PathBuf,
    dir: PathBuf,
}

impl Bench {
    fn prepare(&self) {
        let mut file = File::create(&self.file).unwrap();
        let mut state = 1_u64;
        for _ in 0..self.bytes / CHUNK {
            let chunk: Vec<u8> = std::iter::repeat_with(|| {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                state.to_le_bytes()
            })
            .take(CHUNK / 8)
            .flatten()
            .collect();
            file.write_all(&chunk).unwrap();
        }
        if is_there("openssl") {
            let mut openssl = Command::new("openssl");
            openssl.args(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=localhost"
                    .split(' '),
            );
            openssl.args(["-keyout", "key.pem", "-out", "cert.pem"]).current_dir(&self.dir);
            assert!(openssl.stderr(Stdio::null()).status().unwrap().success());
        }
    }

    fn run(&self, kind: Kind) -> Duration {
        match kind {
            Kind::Library(mode) => library(mode, self.bytes),
            Kind::Program(mode) => {
                let plain: &[&str] = if mode == PipeMode::Plain { &["--plain"] } else { &[] };
                let listener =
                    Listener::start(Command::new(P2PD).arg("listen").args(["--idle", "600"]), plain);
                let mut connect = p2pd("connect");
                connect.arg(&listener.address).args(plain).stdin(File::open(&self.file).unwrap());
                timed(&mut connect)
            }
            Kind::Send => {
                let inbox = self.dir.join("inbox");
                let mut receive = Command::new(P2PD);
                receive.args(["file", "receive"]).arg("--dir").arg(&inbox);
                let listener = Listener::start(&mut receive, &[]);
                let mut send = Command::new(P2PD);
                send.args(["file", "send", &listener.address])
                    .arg(&self.file)
                    .args(LOCAL)
                    .stderr(Stdio::null());
                let took = timed(&mut send);
                std::fs::remove_dir_all(inbox).unwrap();
                took
            }
            Kind::Cat => timed(
                Command::new("sh")
                    .args(["-c", "cat \"$1\" | cat", "sh"])
                    .arg(&self.file)
                    .stdout(Stdio::null()),
            ),
            Kind::Socat => self.socat("TCP-LISTEN", "", "TCP", ""),
            Kind::SocatTls => {
                self.socat("OPENSSL-LISTEN", ",cert=cert.pem,key=key.pem,verify=0", "OPENSSL", ",verify=0")
            }
        }
    }

    fn socat(&self, listen: &str, with: &str, connect: &str, and: &str) -> Duration {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let socat = |args: [&str; 2]| {
            let mut socat = Command::new("socat");
            socat.args(["-u", "-b", &CHUNK.to_string()]).args(args).current_dir(&self.dir);
            socat
        };
        let to = format!("{listen}:{port},bind=127.0.0.1,reuseaddr{with}");
        let mut listener = Ends(socat([&to, "-"]).stdout(Stdio::null()).spawn().unwrap());
        // A connect of our own would be taken for the peer.
        let listens = format!(":{port:04X} 00000000:0000 0A");
        while !std::fs::read_to_string("/proc/net/tcp").unwrap_or_default().contains(&listens) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let from = format!("{connect}:127.0.0.1:{port}{and}");
        let began = Instant::now();
        assert!(socat(["-", &from]).stdin(File::open(&self.file).unwrap()).status().unwrap().success());
        assert!(listener.0.wait().unwrap().success());
        began.elapsed()
    }
}

const P2PD: &str = env!("CARGO_BIN_EXE_p2pd");
const LOCAL: [&str; 3] = ["--no-servers", "--bind", "127.0.0.1"];

fn p2pd(command: &str) -> Command {
    let mut p2pd = Command::new(P2PD);
    p2pd.arg(command).args(LOCAL).stdout(Stdio::null()).stderr(Stdio::null());
    p2pd
}

fn timed(command: &mut Command) -> Duration {
    let began = Instant::now();
    let ended: ExitStatus = command.status().unwrap();
    assert!(ended.success(), "{command:?}: {ended}");
    began.elapsed()
}

/// A process that ends with this.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A `p2pd` that listens.
struct Listener {
    address: String,
    _process: Ends,
}

impl Listener {
    fn start(command: &mut Command, more: &[&str]) -> Self {
        command.arg("--json").args(LOCAL).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut said = BufReader::new(process.stderr.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert_ne!(said.read_line(&mut line).unwrap(), 0, "{command:?} ended");
            let event: serde_json::Value = serde_json::from_str(&line).unwrap();
            if event["event"] == "ready" {
                break event["address"].as_str().unwrap().to_owned();
            }
        };
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Listener { address, _process: Ends(process) }
    }
}

/// Two nodes in this process, with a thread and a runtime for each end.
fn library(mode: PipeMode, bytes: usize) -> Duration {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = || {
        let mut config = Config::new(SecretKey::from_bytes(p2pd_tokio::random_seed().unwrap()));
        (config.bind, config.allow_plain) = (Some(Ipv4Addr::LOCALHOST.into()), true);
        config
    };
    let (tell, address) = std::sync::mpsc::channel();
    let far = std::thread::spawn(move || {
        runtime().block_on(async {
            let node = p2pd_tokio::Node::bind(config()).await.unwrap();
            tell.send(node.address().await).unwrap();
            let mut pipe = node.accept().await.unwrap();
            let (mut left, mut buffer) = (bytes, vec![0; CHUNK]);
            while left > 0 {
                left -= pipe.read(&mut buffer).await.unwrap();
            }
            pipe.write_all(b"!").await.unwrap();
            pipe.flush().await.unwrap();
            let _ = pipe.read(&mut buffer).await;
        });
    });
    let took = runtime().block_on(async {
        let node = p2pd_tokio::Node::bind(config()).await.unwrap();
        let plan = Plan::new().mode(mode);
        let mut pipe = node.connect_with(&address.recv().unwrap(), plan).await.unwrap();
        let data = vec![7; CHUNK];
        let began = Instant::now();
        for _ in 0..bytes / CHUNK {
            pipe.write_all(&data).await.unwrap();
        }
        pipe.flush().await.unwrap();
        pipe.read_exact(&mut [0]).await.unwrap();
        began.elapsed()
    });
    far.join().unwrap();
    took
}
