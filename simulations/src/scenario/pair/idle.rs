//! A node that nobody calls.

use std::net::SocketAddr;

use p2pd_core::nat::NatMemory;
use p2pd_core::{BrokerState, Event};

use super::{Pair, build};
use crate::engine::{Nanos, SECOND};
use crate::nat::Timers;

/// Work of a node in the hours in which nobody called it.
#[derive(Clone, Debug, Default)]
pub struct Idle {
    /// Packets to the node and from it, in each hour.
    pub packets: Vec<u64>,
    /// Times at which a broker was lost, in seconds.
    pub lost: Vec<u64>,
    /// Times at which the outside address of its listener changed, as it is kept, in seconds.
    pub remapped: Vec<u64>,
    /// Sayings of the node about its NAT's memory.
    pub memory: Vec<NatMemory>,
}

/// Leaves the listening node of a pair alone for so many hours. From `change` on NATs have other lifetimes.
pub fn idle(pair: &Pair, hours: u32, change: Option<(Nanos, Timers)>) -> Idle {
    const HOUR: Nanos = 3600 * SECOND;
    let mut run = build(pair);
    let node = run.hosts[0];
    let mut idle = Idle::default();
    let mut change = change;
    let (mut before, mut mapped): (u64, Option<SocketAddr>) = (0, None);
    for second in 0..=u64::from(hours) * 3600 {
        run.world.run_until(second * SECOND);
        if let Some((_, timers)) = change.take_if(|(at, _)| *at <= run.world.now()) {
            run.world.set_timers(timers);
        }
        let now = run.world.app(node).node().node.nats().find_map(|report| report.mapped);
        if mapped.is_some() && now != mapped {
            idle.remapped.push(second);
        }
        mapped = now;
        if second > 0 && (second * SECOND).is_multiple_of(HOUR) {
            let all = run.world.packets(node);
            idle.packets.push(all - before);
            before = all;
        }
    }
    for (at, event) in &run.world.app(node).node().events {
        match event {
            Event::Broker { state: BrokerState::Lost(_), .. } => idle.lost.push(at / SECOND),
            Event::NatMemory(memory) => idle.memory.push(*memory),
            _ => {}
        }
    }
    idle
}
