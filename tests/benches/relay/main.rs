//! Measures the throughput of a relayed pipe through coturn in the lab. It is compared with bare datagrams through the
//! same coturn without loss, and with P2PD's messages. Run `cargo bench -p p2pd-tests --bench relay`; pipes alone, for
//! a profiler, with `-- pipe` behind it, and without the first part `-- loss`.
//!
//! Everything runs on one machine, which the senders, the receivers, coturn and the lab's routers share. Only ratios
//! within one run count; its parts take turns.

mod raw;

use std::time::{Duration, Instant};

use p2pd_core::TurnServer;
use p2pd_core::turn::Credentials;
use p2pd_tests::lab::services::Coturn;
use p2pd_tests::lab::{Home, Host};
use p2pd_tests::require_lab;
use p2pd_tests::world::World;
use p2pd_tokio::{Config, Node, PeerAddress, Plan, SecretKey, Strategy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use raw::Raw;

const ROUNDS: usize = 3;
/// Duration of the writes to a pipe.
const TRANSFER: Duration = Duration::from_secs(4);
const P2PD_BYTES: usize = 10 << 20;

fn main() {
    require_lab!(Mosquitto, Coturn);
    let only = |part: &str| std::env::args().any(|arg| arg == part);
    if only("pipe") {
        let near = world(10, 0.0);
        for _ in 0..ROUNDS {
            println!("RTT 10 ms, no loss: {:6.1} Mbit/s", pipe(&near) / 1e6);
        }
        return;
    }
    if !only("loss") {
        beside_raw();
    }
    beside_loss();
}

fn beside_raw() {
    let near = world(10, 0.0);
    let mut ratios = Vec::new();
    for n in 1..=ROUNDS {
        let raw = Raw::open(&near).most();
        let pipe = pipe(&near);
        println!(
            "RTT 10 ms, no loss, round {n}: raw {:6.1} Mbit/s, pipe {:6.1} Mbit/s",
            raw / 1e6,
            pipe / 1e6
        );
        ratios.push(pipe / raw);
    }
    println!("pipe / raw, median of {ROUNDS}: {:.2} (goal 0.7)", median(ratios));
}

fn beside_loss() {
    let (clean, lossy) = (world(100, 0.0), world(100, 0.01));
    let mut ratios = Vec::new();
    for n in 1..=ROUNDS {
        let [a, b] = [&clean, &lossy].map(pipe);
        println!("RTT 100 ms, round {n}: pipe {:6.1} Mbit/s without loss, {:6.1} at 1 %", a / 1e6, b / 1e6);
        ratios.push(b / a);
    }
    println!("1 % / 0 %, median of {ROUNDS}: {:.2} (goal 0.8)", median(ratios));
    let known = 0.9 * Raw::open(&clean).most();
    for (what, world) in [("no loss", &clean), ("1 % loss", &lossy)] {
        for (how, rate) in [("all at once", None), ("from one who knows the rate", Some(known))] {
            // Opened for each: the homes' NATs forget what has been idle for 30 s.
            let (goodput, missing) = Raw::open(world).p2pd(P2PD_BYTES, rate);
            println!(
                "RTT 100 ms, {what}: P2PD's scheme, {how}: {:6.1} Mbit/s, {:.1} % never arrives",
                goodput / 1e6,
                missing * 1e2
            );
        }
    }
}

fn world(rtt_ms: u64, loss: f64) -> World {
    // Twice each way over each home's line, and one of the two loses.
    let delay = Duration::from_millis(rtt_ms) / 4;
    let home = || "symrand/drop".parse::<Home>().unwrap().delay(delay);
    World::relaying_for(vec![home().loss(loss), home()], &[], "")
}

/// Bits a second of a new pipe, from the first byte written to the last one read.
fn pipe(world: &World) -> f64 {
    let (told, heard) = std::sync::mpsc::channel::<PeerAddress>();
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            on(world.lab.host(0), async {
                let node = node(world).await;
                told.send(node.address().await).unwrap();
                let mut pipe = node.accept().await.unwrap();
                let (mut buffer, mut got) = (vec![0; 256 << 10], 0);
                loop {
                    match pipe.read(&mut buffer).await.unwrap() {
                        0 => break,
                        n => got += n,
                    }
                }
                let ended = Instant::now();
                pipe.shutdown().await.unwrap();
                drop(pipe);
                node.shutdown().await;
                (got, ended)
            })
        });
        let to = heard.recv_timeout(Duration::from_secs(20)).unwrap();
        let (sent, began) = on(world.lab.host(1), async {
            let node = node(world).await;
            node.address().await;
            let plan = Plan::new().strategies([Strategy::Relay]);
            let mut pipe = node.connect_with(&to, plan).await.unwrap();
            let data = vec![7; 64 << 10];
            let (began, mut sent) = (Instant::now(), 0);
            while began.elapsed() < TRANSFER {
                sent += pipe.write(&data).await.unwrap();
            }
            pipe.shutdown().await.unwrap();
            while pipe.read(&mut [0; 16]).await.unwrap() > 0 {}
            drop(pipe);
            node.shutdown().await;
            (sent, began)
        });
        let (got, ended) = reader.join().unwrap();
        assert_eq!(got, sent);
        got as f64 * 8.0 / ended.duration_since(began).as_secs_f64()
    })
}

fn on<T: Send>(host: &Host, work: impl Future<Output = T> + Send) -> T {
    host.enter(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work))
}

async fn node(world: &World) -> Node {
    let mut config = Config::new(SecretKey::from_bytes(p2pd_tokio::random_seed().unwrap()));
    let servers = p2pd::servers::Servers::read(world.config()).unwrap();
    (config.brokers, config.stun) = (servers.brokers, servers.stun);
    let (at, us) = (world.stun.addr(), Credentials::new(Coturn::USER, Coturn::PASSWORD));
    config.turn.push(TurnServer::new(&at.ip().to_string(), at.port(), us));
    Node::bind(config).await.unwrap()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
