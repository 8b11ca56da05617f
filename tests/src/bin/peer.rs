//! A peer on any driver, for the lab: `peer DRIVER listen SERVERS` prints `ready ADDRESS` and echoes;
//! `peer DRIVER connect SERVERS ADDRESS STRATEGY` sends a line and prints `connected STRATEGY MS` and what came back;
//! `peer DRIVER cut-off SERVERS ADDRESS` takes its host's interface down, connects directly, and prints why that failed.

use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use p2pd_core::{Config, Plan, SecretKey, Strategy};
use p2pd_tests::drivers::Driver;

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
    let servers = p2pd::servers::Servers::read(Path::new(servers))?;
    (config.brokers, config.stun) = (servers.brokers, servers.stun);
    for server in &servers.turn {
        config.turn.push(p2pd_tests::drivers::runtime().block_on(server.resolve())?);
    }
    let node = driver.bind(config, None)?;
    match (*command, rest) {
        ("listen", []) => {
            println!("ready {}", node.address());
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
            let plan = Plan { strategies: [strategy].into_iter().collect(), ..Plan::default() };
            let mut pipe = node.connect(address, plan)?;
            println!("connected {} {}", pipe.info().strategy(), pipe.info().elapsed().as_millis());
            pipe.write_all(b"there and back")?;
            pipe.end()?;
            let mut answer = String::new();
            pipe.read_to_string(&mut answer)?;
            println!("{answer}");
            node.shutdown();
            Ok(())
        }
        ("cut-off", [address]) => {
            node.address();
            let ip = |args: &str| Command::new("ip").args(args.split(' ')).output();
            let shown = String::from_utf8(ip("-o -4 addr show scope global")?.stdout)?;
            let interface = shown.split_whitespace().nth(1).ok_or("no interface")?;
            ip(&format!("link set {interface} down"))?;
            // Over a broker the answer may yet come, once the interface is back.
            let plan = Plan { strategies: [Strategy::Direct].into_iter().collect(), ..Plan::default() };
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
