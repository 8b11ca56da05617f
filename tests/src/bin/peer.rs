//! A peer on any driver, for the lab:
//!
//! - `peer DRIVER listen SERVERS` prints `ready ADDRESS`, again when the address changes, and echoes.
//! - `peer DRIVER connect SERVERS ADDRESS STRATEGY` prints `calling`, sends 256 KiB and prints `connected STRATEGY MS`,
//!   and `there and back` if the same came back.
//! - `peer DRIVER brokers SERVERS` prints the words of its trace about brokers.
//! - `peer DRIVER hold SERVERS ADDRESS idle|plain|writing` connects directly, prints `connected`, sends nothing, or a
//!   line each 100 ms, and prints `ended WHY`. It gives a peer that has vanished 2 s, and 3 s more.
//! - `peer DRIVER session SERVERS ADDRESS MOVES STRATEGY` opens a session to a listener, which echoes its streams. It
//!   prints `session`, then `moved N MS` at each move, with the longest time without a byte since the last one. After the
//!   last one it prints the bytes that came back exact, and the longest time without any.
//! - `peer DRIVER cut-off SERVERS ADDRESS` takes its host's interface down, connects directly, and prints the reason of
//!   the failure.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2pd::servers::{Servers, TurnServer};
use p2pd_core::{Config, Liveness, PipeMode, Plan, SecretKey, Strategy};
use p2pd_tests::drivers::{Driver, Node, Trace};

const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(|a| &**a).collect();
    let (driver, command, servers, rest) = match &args[..] {
        [driver, command, servers, rest @ ..] => (driver, command, servers, rest),
        _ => return Err("usage: peer DRIVER listen|connect SERVERS [ADDRESS STRATEGY]".into()),
    };
    let driver = Driver::ALL.into_iter().find(|d| d.name() == *driver).ok_or("no such driver")?;
    let mut config = Config::new(SecretKey::from_bytes(p2pd_sys::random_seed()?));
    let servers = Servers::read(Path::new(servers))?;
    (config.brokers, config.stun) = (servers.brokers.clone(), servers.stun.clone());
    config.turn = servers.turn.iter().map(TurnServer::for_node).collect();
    if let Some(way) = &servers.proxy {
        way.apply(&mut config);
    }
    let about_brokers: Option<Trace> = (*command == "brokers").then(|| {
        let print = |line: &str| {
            if let Some(words) = line.strip_prefix("action notify broker ") {
                print!("broker {words}");
            }
        };
        Box::new(print) as Trace
    });
    if *command == "hold" {
        config.liveness = Liveness { interval: Duration::from_secs(2), patience: Duration::from_secs(3) };
    }
    (config.allow_plain, config.sessions) = (true, true);
    let node = driver.bind(config, about_brokers)?;
    match (*command, rest) {
        ("listen", []) => {
            let node: Arc<dyn Node> = node.into();
            let (watched, mut said) = (node.clone(), node.address());
            println!("ready {said}");
            std::thread::spawn(move || {
                loop {
                    std::thread::sleep(Duration::from_millis(10));
                    let now = watched.address();
                    if now != said {
                        println!("ready {now}");
                        said = now;
                    }
                }
            });
            let serving = node.clone();
            std::thread::spawn(move || {
                loop {
                    let Some(session) = serving.accept_session(PATIENCE) else { continue };
                    std::thread::spawn(move || -> io::Result<()> {
                        loop {
                            let mut stream = session.accept(true)?;
                            let mut piece = [0; 16 * 1024];
                            loop {
                                match stream.read(&mut piece)? {
                                    0 => break,
                                    n => stream.write_all(&piece[..n])?,
                                }
                            }
                            stream.finish();
                        }
                    });
                }
            });
            loop {
                let Some(mut pipe) = node.accept(PATIENCE) else { continue };
                std::thread::spawn(move || {
                    let mut all = Vec::new();
                    pipe.read_to_end(&mut all)?;
                    pipe.write_all(&all)?;
                    pipe.end()
                });
            }
        }
        ("connect", [address, strategy]) => {
            let strategy = Strategy::from_name(strategy).ok_or("no such strategy")?;
            let plan = Plan::new().strategies([strategy]);
            let call = node.begin(address, plan)?;
            println!("calling");
            let mut pipe = call.wait()?;
            println!("connected {} {}", pipe.info().strategy(), pipe.info().elapsed().as_millis());
            let sent: Vec<u8> =
                (0..256 * 1024_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
            pipe.write_all(&sent)?;
            pipe.end()?;
            let mut answer = Vec::new();
            pipe.read_to_end(&mut answer)?;
            println!("{}", if answer == sent { "there and back" } else { "something else" });
            node.shutdown();
            Ok(())
        }
        ("hold", [address, how]) => {
            let mode = if *how == "plain" { PipeMode::Plain } else { PipeMode::Encrypted };
            let strategies = [Strategy::Direct];
            let mut pipe = node.connect(address, Plan::new().strategies(strategies).mode(mode))?;
            println!("connected");
            let why = loop {
                let done = match *how {
                    "writing" => {
                        std::thread::sleep(Duration::from_millis(100));
                        pipe.write_all(b"a line\n").map(|()| 1)
                    }
                    _ => pipe.read(&mut [0]),
                };
                match done {
                    Ok(0) => break "by the peer".to_owned(),
                    Ok(_) => {}
                    Err(why) => break why.to_string(),
                }
            };
            println!("ended {why}");
            node.shutdown();
            Ok(())
        }
        ("session", [address, moves, strategy]) => {
            let strategy = Strategy::from_name(strategy).ok_or("no such strategy")?;
            roam(&*node, address, moves.parse()?, strategy)
        }
        ("brokers", []) => loop {
            node.accept(PATIENCE);
        },
        ("cut-off", [address]) => {
            node.address();
            let ip = |args: &str| Command::new("ip").args(args.split(' ')).output();
            let shown = String::from_utf8(ip("-o -4 addr show scope global")?.stdout)?;
            let interface = shown.split_whitespace().nth(1).ok_or("no interface")?;
            ip(&format!("link set {interface} down"))?;
            // Over a broker the answer may yet come, once the interface is back.
            let plan = Plan::new().strategies([Strategy::Direct]);
            match node.connect(address, plan) {
                Ok(_) => return Err("connected without an interface".into()),
                Err(why) => println!("failed {why}"),
            }
            node.shutdown();
            println!("ended");
            Ok(())
        }
        _ => Err("listen, connect ADDRESS STRATEGY, or cut-off ADDRESS".into()),
    }
}

/// Sends 1 KiB after 1 KiB over a session and has it come back, until the session has moved so often.
fn roam(
    node: &dyn Node,
    address: &str,
    most: u64,
    strategy: Strategy,
) -> Result<(), Box<dyn std::error::Error>> {
    let session = node.connect_session(&address, Plan::new().strategies([strategy]))?;
    println!("session");
    let mut stream = session.open(true, b"echo")?;
    // Moves that follow each other within one piece count as one.
    let (mut moves, mut seen, mut bytes) = (0, 0, 0);
    let (mut gap, mut longest) = (Duration::ZERO, Duration::ZERO);
    let mut left = None;
    for n in 0_u32.. {
        let (began, piece) = (Instant::now(), n.to_be_bytes().repeat(256));
        stream.write_all(&piece)?;
        let mut back = vec![0; piece.len()];
        stream.read_exact(&mut back)?;
        if back != piece {
            return Err("something else came back".into());
        }
        bytes += back.len();
        let took = began.elapsed();
        (gap, longest) = (gap.max(took), longest.max(took));
        if session.moves() > moves {
            (moves, seen) = (session.moves(), seen + 1);
            println!("moved {seen} {}", gap.as_millis());
            gap = Duration::ZERO;
        }
        // A little more over the last carrier.
        if seen >= most && *left.get_or_insert(n + 20) <= n {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("exact {bytes} bytes, longest gap {} ms", longest.as_millis());
    session.close(0, b"");
    std::thread::sleep(Duration::from_millis(100));
    node.shutdown();
    Ok(())
}
