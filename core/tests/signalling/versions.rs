//! Peers of another version, and another process with our key.

use std::time::Duration;

use data_encoding::BASE32_NOPAD;

use crate::common::hand::{Script, Then};
use crate::common::view::{direct, only, reverse};
use crate::common::{MS, S, World, envelope, key};
use p2pd_core::{Accept, Advice, Event, FailReason, Outcome, Stats};

fn world() -> World {
    let mut world = World::new(6);
    world.add_broker();
    world.open(|_| {});
    world.open(|_| {});
    world.run(S);
    world
}

/// The version in everything that node 0 says to node 1 becomes 7.
fn with_a_newer_caller() -> World {
    let mut world = world();
    world.brokers[0].bend =
        Box::new(|m| vec![(Duration::ZERO, envelope::changed([0, 1], &m.payload, |content| content[0] = 7))]);
    world
}

/// Messages of node 1 to node 0.
fn answers(world: &World) -> Vec<Vec<u8>> {
    let opened = world.published_to(0).into_iter().filter_map(|p| envelope::open(0, &p.payload));
    opened.filter(|(from, _)| *from == world.id(1)).map(|(_, content)| content).collect()
}

/// Messages of node 0 to node 1.
fn asked(world: &World) -> Vec<Vec<u8>> {
    let opened = world.published_to(1).into_iter().filter_map(|p| envelope::open(1, &p.payload));
    opened.filter(|(from, _)| *from == world.id(0)).map(|(_, content)| content).collect()
}

fn refusal(about: &[u8], version: u8) -> Vec<u8> {
    [&[0], about, &[version]].concat()
}

#[test]
fn a_message_of_another_version_is_refused_by_naming_ours() {
    let mut world = with_a_newer_caller();
    let id = world.connect(0, &world.address(1), reverse(1));
    world.run(2 * S);
    let asked = asked(&world);
    assert_eq!(asked.len(), 1);
    assert_eq!(answers(&world), [refusal(&asked[0][1..17], 2)]);
    let told = "the peer refused: it speaks protocol version 2, not ours";
    assert_eq!(world.failed(0, id), (FailReason::AllStrategiesFailed, Outcome::Failed, told));
    assert_eq!(world.advice(0, id), Some(Advice::SameVersion));
    assert_eq!(world.stats(1), Stats::default());
}

#[test]
fn a_flood_of_other_versions_is_answered_within_the_rate_for_answers_and_a_refusal_never() {
    let mut world = world();
    let to = world.id(1);
    for _ in 0..50 {
        world.publish(0, 1, &envelope::seal(0, &to, &[7; 60]));
    }
    world.run(S - MS);
    assert_eq!(answers(&world), vec![refusal(&[7; 16], 2); 16]);
    let before = world.brokers[0].published.len();
    for version in [0, 1, 7, 255] {
        world.publish(0, 1, &envelope::seal(0, &to, &refusal(&[7; 16], version)));
    }
    world.run(10 * S);
    assert_eq!(world.brokers[0].published.len(), before);
}

#[test]
fn whom_our_user_does_not_accept_is_not_told_our_version_either() {
    let mut world = World::new(6);
    world.add_broker();
    world.open(|_| {});
    world.open(|c| c.accept = Accept::Only(Default::default()));
    world.run(S);
    let to = world.id(1);
    world.publish(0, 1, &envelope::seal(0, &to, &[7; 60]));
    world.run(S);
    assert!(answers(&world).is_empty());
}

#[test]
fn a_refusal_counts_from_the_peer_and_for_a_request_of_ours_only() {
    let mut world = world();
    world.open(|_| {});
    // Nothing that node 0 asks arrives, so that its call is open while it is told things.
    world.brokers[0].bend = Box::new(|_| Vec::new());
    let id = world.connect(0, &world.address(1), reverse(20));
    world.run(S);
    let about = asked(&world)[0][1..17].to_vec();
    let to = world.id(0);
    world.publish(0, 0, &envelope::seal(2, &to, &refusal(&about, 9)));
    world.publish(0, 0, &envelope::seal(1, &to, &refusal(&[9; 16], 9)));
    world.run(S);
    assert!(!world.is_over(0, id));
    world.publish(0, 0, &envelope::seal(1, &to, &refusal(&about, 9)));
    world.run(S);
    let told = "the peer refused: it speaks protocol version 9, not ours";
    assert_eq!(world.failed(0, id), (FailReason::AllStrategiesFailed, Outcome::Failed, told));
}

/// The bytes of two calls that differ in all that is asked: what a broker sees of both.
#[test]
fn a_broker_sees_the_reader_and_a_length_and_nothing_of_the_sender() {
    let mut world = world();
    world.connect(0, &world.address(1), reverse(20));
    world.run(S);
    let node = world.id(0);
    let topic = BASE32_NOPAD.decode(node.topic().to_string().to_ascii_uppercase().as_bytes()).unwrap();
    let sent = world.published_to(1);
    let to_peer = sent.iter().filter(|p| envelope::open(1, &p.payload).is_some_and(|(from, _)| from == node));
    let mut count = 0;
    for published in to_peer {
        count += 1;
        for public in [&topic[..], node.as_bytes()] {
            assert!(!published.payload.windows(4).any(|w| public.windows(4).any(|p| w == p)));
        }
    }
    assert_eq!(count, 1);
}

#[test]
fn a_hello_of_another_version_is_refused_by_naming_ours() {
    let mut world = world();
    let hand = world.dial_by_hand(1, &[7, 1, 0, 114]);
    world.run(S);
    assert_eq!(world.hands[hand].received, [3, 4, 0, 2, 5, 3]);
    assert!(world.hands[hand].closed);
    assert_eq!(world.stats(1), only(|s| s.bad_hellos = 1));
}

#[test]
fn what_a_peer_of_another_version_answers_is_told() {
    for (answer, detail) in [
        (vec![7, 2, 0, 51], "the peer speaks protocol version 7, we speak 3"),
        (vec![3, 4, 0, 2, 5, 9], "the peer refused: it speaks protocol version 9, not ours"),
        (b"HTTP/1.1 400 Bad Request\r\n".to_vec(), "the peer speaks protocol version 72, we speak 3"),
        (vec![3, 9, 0, 1, 0], "whoever answered does not speak our protocol"),
        ([vec![3, 2, 0, 51], vec![0; 51]].concat(), "whoever answered is not the peer"),
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
        world.hosts[n].events.iter().filter(|(_, event)| *event == Event::IdentityInUse).count()
    };
    assert_eq!([0, 1, twin].map(|n| told(&world, n)), [1, 0, 1]);
    world.kill_broker(0);
    world.brokers[0].up = true;
    world.run(30 * S);
    assert_eq!([0, 1, twin].map(|n| told(&world, n)), [1, 0, 1], "and not when the broker is back");
}

#[test]
fn what_a_process_before_us_has_sent_tells_of_no_other_one() {
    let mut world = world();
    let probe = world.published_to(0).first().unwrap().payload.clone();
    world.shutdown(0);
    world.run(S);
    // With the same key, after a restart.
    let again = world.open(|c| c.identity = key(0));
    world.run(S);
    world.publish(0, again, &probe);
    world.run(S);
    assert!(world.hosts[again].events.iter().all(|(_, event)| *event != Event::IdentityInUse));
}
