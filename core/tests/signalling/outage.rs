//! A broker that takes a request, loses it, and is away for a while: every strategy that asks survives that alike.

use std::time::Duration;

use crate::common::view::plan;
use crate::common::{MS, S, World};
use p2pd_core::{Stage, Strategy};

const ASKING: [Strategy; 3] = [Strategy::Reverse, Strategy::Punch, Strategy::Relay];

/// A caller on the internet, a listener behind a NAT, and a server of each kind.
fn world() -> World {
    let mut world = World::new(1);
    world.add_broker();
    world.add_stun();
    world.add_turn();
    world.open(|_| {});
    world.behind_nat(|_| {});
    world.run(2 * S);
    world
}

/// True if a call comes through whose first request is lost by a broker that is away for a while then.
fn outage(strategy: Strategy, away: Duration, timeout: u64) -> bool {
    let mut world = world();
    // The broker acknowledges what it is given and loses it.
    world.brokers[0].bend = Box::new(|_| Vec::new());
    let before = world.published_to(1).len();
    let id = world.connect(0, &world.address(1), plan(&[strategy], timeout));
    world.run(1500 * MS);
    assert_eq!(world.published_to(1).len() - before, 1, "{strategy}: one request was taken");
    world.kill_broker(0);
    world.run(away);
    world.brokers[0].up = true;
    world.brokers[0].bend = Box::new(|message| vec![(Duration::ZERO, message.payload.clone())]);
    world.run_until(Duration::from_secs(timeout), |w| w.is_over(0, id));
    world.failure(0, id).is_none() && world.is_over(0, id)
}

#[test]
fn a_lost_request_and_a_broker_that_is_away_end_no_strategy() {
    for (away, timeout) in [(6, 60), (13, 60), (25, 90), (40, 200), (70, 300)] {
        for strategy in ASKING {
            assert!(outage(strategy, Duration::from_secs(away), timeout), "{strategy}: away {away} s");
        }
    }
}

#[test]
fn what_no_broker_took_is_not_counted_as_asked() {
    for strategy in ASKING {
        let mut world = world();
        let id = world.connect(0, &world.address(1), plan(&[strategy], 120));
        world.brokers[0].bend = Box::new(|_| Vec::new());
        world.run(1500 * MS);
        world.kill_broker(0);
        world.run(120 * S);
        let (_, report) = world.failure(0, id).unwrap();
        let asked = world.stages(0, id, strategy).contains(&Stage::Requested { brokers: 1 });
        let detail = &report.strategies[0].detail;
        assert!(asked && !detail.contains("asked 2"), "{strategy}: {detail}");
    }
}
