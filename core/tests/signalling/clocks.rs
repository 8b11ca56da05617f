//! Messages at the wrong time, a second time, at the wrong node, or changed on the way.

use std::collections::BTreeSet;

use crate::common::view::{only, reverse};
use crate::common::{S, World};
use p2pd_core::{ConnectId, FailReason, Stage, Stats, Strategy};

const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);

fn world() -> World {
    let mut world = World::new(5);
    world.add_broker();
    world.open(|_| {});
    world.open(|_| {});
    world.run(S);
    world
}

/// The requests that went to node 1 since it listens, copies included.
fn requests(world: &World) -> Vec<Vec<u8>> {
    // The first is its own echo.
    world.published_to(1)[1..].iter().map(|p| p.payload.clone()).collect()
}

/// A call that was answered by a pipe, and its request.
fn answered() -> (World, ConnectId, Vec<u8>) {
    let mut world = world();
    let id = world.connect(0, &world.address(1), reverse(20));
    world.run(S);
    world.assert_piped(0, id, 1, &[]);
    let [request] = &requests(&world)[..] else { panic!("one request") };
    let request = request.clone();
    (world, id, request)
}

/// Counts that must not change when a message is inert: dials, events to the users, publications.
fn effects(world: &World) -> (Vec<usize>, Vec<usize>, Vec<usize>) {
    let hosts = world.hosts.iter();
    let (dials, events) = hosts.map(|h| (h.dials.len(), h.events.len())).unzip();
    (dials, events, world.brokers.iter().map(|b| b.published.len()).collect())
}

#[test]
fn a_clock_that_is_an_hour_off_is_told_and_asks_once_more() {
    for (n, ahead) in [(0, true), (0, false), (1, true), (1, false)] {
        let mut world = world();
        world.set_clock(n, HOUR, ahead);
        let id = world.connect(0, &world.address(1), reverse(20));
        world.run(S);
        world.assert_piped(0, id, 1, &[]);
        assert_eq!(requests(&world).len(), 2, "the request, and the corrected one");
        assert_eq!(world.stats(1), only(|s| s.stale_messages = 1));
        assert_eq!(world.stats(0), Stats::default(), "the answers are not stale to it");
        assert!(world.stages(0, id, Strategy::Reverse).contains(&Stage::PeerDials));
        assert_eq!(world.dialled(1).len(), 1);
    }
}

#[test]
fn a_clock_nine_minutes_off_needs_no_correction_but_a_strangers_that_is_ahead() {
    for (ahead, named, corrections) in [(false, false, 0), (true, false, 1), (true, true, 0)] {
        let mut world = world();
        world.set_clock(0, 540 * S, ahead);
        if named {
            world.answer(1, world.id(0), true);
        }
        let id = world.connect(0, &world.address(1), reverse(20));
        world.run(S);
        world.assert_piped(0, id, 1, &[]);
        let (sent, stale) = (requests(&world).len(), world.stats(1).stale_messages);
        assert_eq!((sent, stale), (1 + corrections, corrections as u64));
    }
}

#[test]
fn a_clock_is_corrected_once_per_call() {
    let mut world = world();
    world.set_clock(0, HOUR, true);
    let id = world.connect(0, &world.address(1), reverse(20));
    // While the corrected request is under way, the peer's clock jumps.
    world.run(50 * crate::common::MS);
    world.set_clock(1, 2 * HOUR, false);
    world.run(30 * S);
    let different: BTreeSet<Vec<u8>> = requests(&world).into_iter().collect();
    assert_eq!(different.len(), 2);
    assert_eq!(world.failed(0, id).0, FailReason::DeadlinePassed);
    assert!(world.dialled(1).is_empty());
}

#[test]
fn a_replayed_message_is_inert() {
    let (mut world, _, request) = answered();
    let before = effects(&world);
    world.publish(0, 1, &request);
    world.run(S);
    assert_eq!(world.stats(1), only(|s| s.repeated_messages = 1));
    assert_eq!(effects(&world), before);
}

#[test]
fn a_message_replayed_after_the_window_is_answered_with_the_time_and_nothing_else() {
    let (mut world, _, request) = answered();
    world.run(660 * S);
    let before = effects(&world);
    world.publish(0, 1, &request);
    world.run(S);
    assert_eq!(world.stats(1), only(|s| s.stale_messages = 1));
    let (dials, events, published) = effects(&world);
    assert_eq!((dials, events), (before.0, before.1));
    assert_eq!(published, [before.2[0] + 1], "CLOCK");
    assert_eq!(world.stats(0), Stats::default(), "which means nothing to who asked long ago");
}

#[test]
fn replays_are_answered_within_a_rate() {
    let (mut world, _, request) = answered();
    world.run(660 * S);
    let before = world.brokers[0].published.len();
    for _ in 0..100 {
        world.publish(0, 1, &request);
    }
    world.run(S / 2);
    assert_eq!(world.stats(1).stale_messages, 100);
    assert_eq!(world.brokers[0].published.len() - before, 16);
}

#[test]
fn an_expired_message_is_inert() {
    let mut world = world();
    world.brokers[0].bend = Box::new(|m| vec![(660 * S, m.payload.clone())]);
    let id = world.connect(0, &world.address(1), reverse(1));
    world.run(650 * S);
    assert_eq!(world.failed(0, id).0, FailReason::DeadlinePassed);
    let (dials, events, _) = effects(&world);
    world.run(20 * S);
    assert_eq!(world.stats(1), only(|s| s.stale_messages = 1));
    assert_eq!((dials, events), (effects(&world).0, effects(&world).1));
}

#[test]
fn a_message_for_another_node_is_inert() {
    let (mut world, _, request) = answered();
    let third = world.open(|_| {});
    world.run(S);
    let before = effects(&world);
    for n in [0, third] {
        world.publish(0, n, &request);
        world.run(S);
        assert_eq!(world.stats(n), only(|s| s.bad_messages = 1));
    }
    assert_eq!(effects(&world), before);
}

#[test]
fn a_changed_message_is_inert() {
    let (mut world, _, request) = answered();
    let before = effects(&world);
    // The first 16 bytes are the mark, without which a message means the same.
    let places = (16..request.len()).step_by(7).chain([32, 33, 65, request.len() - 1]);
    let mut sent = 0;
    for at in places {
        let mut changed = request.clone();
        changed[at] ^= 0x20;
        world.publish(0, 1, &changed);
        sent += 1;
    }
    for wrong in [&request[..request.len() - 1], &request[..32], &[1], &[]] {
        world.publish(0, 1, wrong);
        sent += 1;
    }
    world.publish(0, 1, &[&request[..], &[0]].concat());
    world.run(S);
    assert_eq!(world.stats(1), only(|s| s.bad_messages = sent + 1));
    assert_eq!(effects(&world), before);
}
