//! Cost that the TURN client adds to each datagram. `cargo bench -p p2pd-core --bench turn`

// A bench is a driver: it has a clock.
#![allow(clippy::disallowed_types)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant as Clock;

use p2pd_core::Transport;

#[allow(dead_code)]
#[path = "../tests/turn/hand.rs"]
mod hand;

use hand::{DATA, Hand, PEER, Sent, message, success, xored};

const ROUNDS: u32 = 200_000;
const TO: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 7000);

fn main() {
    println!(
        "{:>6} {:>16} {:>16} {:>18} {:>18}",
        "bytes", "send indication", "send channel", "data indication", "channel data"
    );
    for size in [160, 1200] {
        let data = vec![7; size];
        let (mut plain, mut bound) = (ready(false), ready(true));
        let id = [5; 12];
        let indication = message(DATA | 0x10, id, &[(PEER, xored(TO, id)), (0x13, data.clone())], None);
        let channel = [&[0x40, 0][..], &(size as u16).to_be_bytes(), &data].concat();
        let times = [
            time(|| send(&mut plain, &data)),
            time(|| send(&mut bound, &data)),
            time(|| receive(&mut plain, &indication)),
            time(|| receive(&mut bound, &channel)),
        ];
        let [a, b, c, d] = times.map(|ns| format!("{ns} ns"));
        println!("{size:>6} {a:>16} {b:>16} {c:>18} {d:>18}");
    }
}

/// A client with a permitted peer, with or without a channel.
fn ready(bound: bool) -> Hand {
    let mut hand = Hand::ready(Transport::Udp);
    hand.permit("192.0.2.1");
    hand.client.send(hand.now, TO, b"x").unwrap();
    let bind = Sent::read(hand.sent().remove(0));
    if bound {
        hand.say(&success(&bind, &[]));
    }
    hand
}

fn send(hand: &mut Hand, data: &[u8]) {
    hand.client.send(hand.now, TO, data).unwrap();
    assert!(hand.client.poll_transmit().is_some());
}

fn receive(hand: &mut Hand, data: &[u8]) {
    hand.client.handle(hand.now, data);
    assert!(hand.client.poll_event().is_some());
}

/// The best of three runs, in ns each.
fn time(mut work: impl FnMut()) -> u128 {
    let run = |_| {
        let clock = Clock::now();
        (0..ROUNDS).for_each(|_| work());
        clock.elapsed().as_nanos() / u128::from(ROUNDS)
    };
    (0..3).map(run).min().unwrap_or_default()
}
