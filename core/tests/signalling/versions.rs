//! Peers of another version, and another process with our key.

use std::time::Duration;

use data_encoding::BASE32_NOPAD;

use crate::common::hand::{Script, Then};
use crate::common::view::{direct, only, reverse};
use crate::common::{S, World, key};
use p2pd_core::{FailReason, Notice, Outcome, Stats};

fn world() -> World {
    let mut world = World::new(6);
    world.add_broker();
    world.open(|_| {});
    world.open(|_| {});
    world.run(S);
    world
}

/// A topic's bytes, as they stand in an envelope.
fn topic(world: &World, n: usize) -> Vec<u8> {
    BASE32_NOPAD.decode(world.id(n).topic().to_string().to_ascii_uppercase().as_bytes()).unwrap()
}

#[test]
fn a_message_of_another_version_is_refused_by_naming_ours() {
    let mut world = world();
    world.brokers[0].bend = Box::new(|m| {
        let mut payload = m.payload.clone();
        if payload[0] == 1 {
            payload[0] = 7;
        }
        vec![(Duration::ZERO, payload)]
    });
    let id = world.connect(0, &world.address(1), reverse(1));
    world.run(2 * S);
    let answer = [vec![0, 1], topic(&world, 1)].concat();
    let answers: Vec<_> = world.published_to(0)[1..].iter().map(|p| p.payload.clone()).collect();
    assert_eq!(answers, [answer], "one for one request");
    let (reason, outcome, detail) = world.failed(0, id);
    assert_eq!((reason, outcome), (FailReason::DeadlinePassed, Outcome::Unfinished), "a hint ends nothing");
    assert_eq!(detail, "the peer did not answer; somebody says that it speaks protocol version 1");
    assert_eq!(world.stats(1), Stats::default());
}

#[test]
fn a_flood_of_other_versions_is_answered_within_a_rate_and_a_refusal_never() {
    let mut world = world();
    let before = world.published_to(0).len();
    for _ in 0..50 {
        let message = [vec![7], topic(&world, 0), vec![0; 60]].concat();
        world.publish(0, 1, &message);
    }
    world.run(S);
    assert_eq!(world.published_to(0).len() - before, 4);
    let before = world.brokers[0].published.len();
    for version in [0, 1, 7, 255] {
        let message = [vec![0, version], topic(&world, 0)].concat();
        world.publish(0, 1, &message);
    }
    world.run(10 * S);
    assert_eq!(world.brokers[0].published.len(), before);
}

#[test]
fn a_hello_of_another_version_is_refused_by_naming_ours() {
    let mut world = world();
    let hand = world.dial_by_hand(1, &[7, 1, 0, 114]);
    world.run(S);
    assert_eq!(world.hands[hand].received, [1, 4, 0, 2, 5, 1]);
    assert!(world.hands[hand].closed);
    assert_eq!(world.stats(1), only(|s| s.bad_hellos = 1));
}

#[test]
fn what_a_peer_of_another_version_answers_is_told() {
    for (answer, detail) in [
        (vec![7, 2, 0, 51], "the peer speaks protocol version 7, we speak 1"),
        (vec![1, 4, 0, 2, 5, 9], "the peer refused: it speaks protocol version 9, not ours"),
        (b"HTTP/1.1 400 Bad Request\r\n".to_vec(), "the peer speaks protocol version 72, we speak 1"),
        (vec![1, 9, 0, 1, 0], "whoever answered does not speak our protocol"),
        ([vec![1, 2, 0, 51], vec![0; 51]].concat(), "whoever answered is not the peer"),
    ] {
        let mut world = world();
        let at = "203.0.113.99:4000".parse().unwrap();
        world.scripts.insert(at, Script { after: 1, then: Then::Say(answer) });
        let key = world.id(1);
        let to = format!("1-[0,203.0.113.99,203.0.113.99,4000,1,1,0]-0-{key}").parse().unwrap();
        let id = world.connect(0, &to, direct(20));
        world.run(S);
        let detail = format!("203.0.113.99:4000: {detail}");
        assert_eq!(world.failed(0, id), (FailReason::AllStrategiesFailed, Outcome::Failed, &*detail));
        assert!(world.hands[0].closed);
    }
}

#[test]
fn two_processes_with_one_key_are_both_told_once() {
    let mut world = world();
    let twin = world.open(|c| c.identity = key(0));
    world.run(S);
    let told = |world: &World, n: usize| {
        world.hosts[n].notices.iter().filter(|(_, notice)| *notice == Notice::IdentityInUse).count()
    };
    assert_eq!([0, 1, twin].map(|n| told(&world, n)), [1, 0, 1]);
    world.kill_broker(0);
    world.brokers[0].up = true;
    world.run(30 * S);
    assert_eq!([0, 1, twin].map(|n| told(&world, n)), [1, 0, 1], "and not when the broker is back");
}
