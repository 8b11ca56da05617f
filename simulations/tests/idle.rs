//! The cost of a node that nobody calls, behind NATs that remember for unlike times. The servers are those of p2pd.

use std::time::Duration;

use p2pd_simulations::engine::SECOND;
use p2pd_simulations::nat::{Chain, Timers};
use p2pd_simulations::scenario::pair::{Idle, Pair, idle};

/// Lifetimes of a NAT that remembers TCP connections and mappings for so long.
fn remembers(seconds: u64) -> Timers {
    let all = Timers::LINUX.with(120, seconds);
    Timers { mapping: seconds * SECOND, ..all }
}

/// Leaves a node alone behind such a NAT, whose ports are drawn and mappings endpoint-independent, so that the listener's
/// mapping has to be kept open.
fn alone(brokers: usize, seconds: u64, hours: u32, change: Option<(u64, Timers)>) -> Idle {
    let mut chain: Chain = "fullcone,alloc=random".parse().unwrap();
    chain.0[0].timers = remembers(seconds);
    let mut pair = Pair::new(1, [chain, "open".parse().unwrap()]);
    pair.rendezvous = true;
    pair.brokers = vec![Default::default(); brokers];
    idle(&pair, hours, change)
}

fn held(idle: &Idle) -> Option<u64> {
    idle.memory.last().map(|memory| memory.held.as_secs())
}

#[test]
fn behind_a_nat_that_remembers_for_ten_minutes_an_idle_node_costs_72_packets_an_hour() {
    let alone = alone(1, 600, 6, None);
    assert_eq!(held(&alone), Some(300));
    // A ping, its answer and the acknowledgement each five minutes: to the broker, and to the STUN server.
    assert_eq!(alone.packets[1..], [72; 5], "{alone:?}");
    assert!(alone.packets[0] < 250, "{alone:?}");
    assert_eq!((&alone.lost[..], &alone.remapped[..]), (&[][..], &[][..]), "{alone:?}");
    let two = self::alone(2, 600, 2, None);
    assert_eq!(two.packets[1], 108, "{two:?}");
}

#[test]
fn behind_a_nat_that_forgets_after_30_seconds_nothing_is_lost_once_it_is_known() {
    let alone = alone(1, 30, 6, None);
    assert_eq!(held(&alone), Some(20));
    assert!(alone.lost.len() == 1 && alone.lost[0] < 120, "{alone:?}");
    assert_eq!(alone.remapped, [0; 0], "{alone:?}");
    let memory = alone.memory.last().unwrap();
    assert_eq!(memory.lost, Some(Duration::from_secs(40)));
}

#[test]
fn a_nat_that_becomes_stricter_is_followed() {
    let alone = alone(2, 600, 4, Some((2 * 3600 * SECOND, remembers(60))));
    assert!(held(&alone).is_some_and(|held| (20..60).contains(&held)), "{alone:?}");
    let last = alone.lost.iter().chain(&alone.remapped).max().unwrap();
    assert!((7200..9000).contains(last), "{alone:?}");
}
