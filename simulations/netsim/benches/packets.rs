//! Speed of simulated internets on one core: packets, and pairs of dials, a second. `cargo bench -p p2pd-netsim`

mod echo;

use std::hint::black_box;
use std::time::{Duration, Instant};

use p2pd_netsim::dial::{Attempt, attempt};
use p2pd_netsim::engine::{Keyed, MILLI};
use p2pd_netsim::nat::{Nat, NatSpec, Side};
use p2pd_netsim::net::{Body, Packet};

/// Duration of each line.
const EACH: Duration = Duration::from_secs(2);

/// Prints how many of what a second `run` does, which returns its number.
fn rate(name: &str, unit: &str, mut run: impl FnMut(u64) -> u64) {
    let (begin, mut count, mut runs) = (Instant::now(), 0, 0);
    while begin.elapsed() < EACH {
        count += run(runs);
        runs += 1;
    }
    println!("{name:<52} {:>11.0} {unit}/s", count as f64 / begin.elapsed().as_secs_f64());
}

fn main() {
    for chain in ["open", "firewall", "linux"] {
        rate(&format!("datagrams to and fro, {chain} and {chain}"), "packets", |seed| {
            echo::run(seed, chain, 32, 20_000)
        });
    }
    let mut nat = Nat::new(0, Keyed::new(1), NatSpec::LINUX, vec![[203, 0, 113, 1].into()]);
    let packet = |n: u64| Packet {
        src: ([192, 168, 1, 2], 1_024 + (n % 1_000) as u16).into(),
        dst: ([198, 51, 100, 9], 53).into(),
        ttl: 64,
        body: Body::Udp((&b"hello"[..]).into()),
    };
    rate("one NAT alone, 1,000 flows", "packets", |run| {
        (0..1_000).for_each(|n| drop(black_box(nat.translate(run * MILLI, Side::Inside, packet(n)))));
        1_000
    });
    for (a, b) in [("open", "linux"), ("linux", "linux"), ("linux", "linux-random")] {
        let chains = [a, b].map(|text| text.parse().expect("a preset"));
        let dial = Attempt { chains, one_way: 20 * MILLI, offset: 0, listen: true, retry: None };
        rate(&format!("bare dials, {a} and {b}"), "pairs", |seed| {
            black_box(attempt(seed, &dial, false));
            1
        });
    }
}
