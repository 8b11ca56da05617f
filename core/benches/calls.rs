//! Cost of one more call, and of one more stranger, for a node that has many. The cost should not depend on their
//! number. `cargo bench -p p2pd-core`

// A bench is a driver: it has a clock.
#![allow(clippy::disallowed_types)]

use std::time::{Duration, Instant as Clock};

use p2pd_core::io::Interface;
use p2pd_core::{
    Config, Input, Instant, IoFailure, Node, Output, PeerAddress, Plan, SecretKey, SockId, Strategy,
};

fn main() {
    println!("{:>6} {:>14} {:>14} {:>14}", "calls", "begin", "end", "stranger");
    for calls in [16, 256, 4096] {
        let best = (0..3).map(|_| run(calls)).reduce(|a, b| core::array::from_fn(|n| a[n].min(b[n])));
        let [begin, end, stranger] = best.unwrap_or_default();
        println!("{calls:>6} {begin:>14.2?} {end:>14.2?} {stranger:>14.2?}");
    }
}

/// Returns the times to begin a call, to end one whose dial was refused, and to accept and drop a stranger. Each with
/// this many calls open.
fn run(calls: u32) -> [Duration; 3] {
    let mut node = Node::new(Config::new(SecretKey::from_bytes([1; 32])), [1; 32], Instant::ZERO).unwrap();
    let ip = [203, 0, 113, 1].into();
    let interface = Interface { default_route: true, ..Interface::new(2, ip, 32) };
    node.handle(Instant::ZERO, Input::Interfaces(&[interface]));
    let Some(Output::Listen { sock: listener, .. }) = node.poll_output() else { panic!("no listener") };
    let local = (ip, 4000).into();
    node.handle(Instant::ZERO, Input::Bound { sock: listener, local });
    let peers: Vec<PeerAddress> = (0..calls).map(peer).collect();
    let plan = Plan::new().strategies([Strategy::Direct]);

    let clock = Clock::now();
    for peer in &peers {
        node.connect(Instant::ZERO, peer, plan.clone()).unwrap();
    }
    let begin = clock.elapsed() / calls;
    let dials: Vec<SockId> = std::iter::from_fn(|| node.poll_output())
        .filter_map(|output| match output {
            Output::Connect { sock, .. } => Some(sock),
            _ => None,
        })
        .collect();
    assert_eq!(dials.len(), calls as usize);

    const STRANGERS: u32 = 200;
    let clock = Clock::now();
    for n in 0..STRANGERS {
        let remote = ([198, 51, 100, 1], 1024 + n as u16).into();
        node.handle(
            Instant::ZERO,
            Input::Accepted { listener, sock: SockId::accepted(n.into()), local, remote },
        );
    }
    for n in 0..STRANGERS {
        node.handle(Instant::ZERO, Input::Eof { sock: SockId::accepted(n.into()) });
    }
    let stranger = clock.elapsed() / STRANGERS;

    let clock = Clock::now();
    for sock in dials {
        node.handle(Instant::ZERO, Input::Failed { sock, cause: IoFailure::Refused });
    }
    [begin, clock.elapsed() / calls, stranger]
}

fn peer(n: u32) -> PeerAddress {
    let mut secret = [2; 32];
    secret[..4].copy_from_slice(&n.to_be_bytes());
    let id = SecretKey::from_bytes(secret).node_id();
    format!("None-[0,198.51.100.9,198.51.100.9,4000,1,1,0]-0-{id}").parse().unwrap()
}
