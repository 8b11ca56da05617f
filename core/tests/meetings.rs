//! Meetings of whole nodes over brokers: from a code to a pipe.

#[path = "common/mod.rs"]
mod common;

use std::time::Duration;

use common::view::{direct, only};
use common::{LATENCY, MS, S, World};
use p2pd_core::trace::replay;
use p2pd_core::{Accept, Code, Event, MAX_MEETINGS, MeetingError, MeetingId, MeetingNews, ProtocolTag};

const WITHIN: Duration = Duration::from_secs(60);
/// Time that a host waits for other hosts of its number.
const CLAIM_FOR: Duration = Duration::from_millis(700);

fn purpose() -> ProtocolTag {
    ProtocolTag::new(b"test").unwrap()
}

fn news(world: &World, n: usize, meeting: MeetingId) -> Vec<MeetingNews> {
    let events = world.hosts[n].events.iter();
    let about = |event: &Event| match event {
        Event::Meeting { meeting: of, news } if *of == meeting => Some((**news).clone()),
        _ => None,
    };
    events.filter_map(|(_, event)| about(event)).collect()
}

fn meet(world: &mut World, n: usize, code: Option<Code>) -> MeetingId {
    world.ask(n, |node, now| node.meet(now, code, purpose(), WITHIN)).unwrap()
}

fn code(world: &World, n: usize, meeting: MeetingId) -> Code {
    match news(world, n, meeting)[..] {
        [MeetingNews::Code(code)] => code,
        ref other => panic!("{other:?}"),
    }
}

/// `brokers` brokers and so many hosts, settled, that ask their users about each peer.
fn world(brokers: usize, hosts: usize) -> World {
    let mut world = World::new(1);
    world.tracing = true;
    for _ in 0..brokers {
        world.add_broker();
    }
    for _ in 0..hosts {
        world.open(|config| config.accept = Accept::Ask);
    }
    world.run(S);
    world
}

fn topics(world: &World) -> usize {
    let meets = |topic: &str| topic.starts_with("p2pd-meet-");
    world.brokers.iter().map(|broker| broker.followed().filter(|topic| meets(topic)).count()).sum()
}

#[test]
fn a_code_leads_to_a_pipe_of_exactly_these_two() {
    let mut world = world(2, 3);
    let host = meet(&mut world, 0, None);
    let took = world.run_until(2 * S, |w| !news(w, 0, host).is_empty());
    // SUBSCRIBE and SUBACK.
    assert_eq!(took, 2 * LATENCY + CLAIM_FOR);
    let told = code(&world, 0, host);
    let guest = meet(&mut world, 1, Some(told));
    let took = world.run_until(2 * S, |w| news(w, 0, host).len() > 1);
    // SUBSCRIBE and SUBACK, and five messages, each to the broker and on.
    assert_eq!(took, 12 * LATENCY);
    let (ours, theirs) = (world.address(0), world.address(1));
    assert_eq!(news(&world, 0, host), [MeetingNews::Code(told), MeetingNews::Met(Box::new(theirs.clone()))]);
    assert_eq!(news(&world, 1, guest), [MeetingNews::Met(Box::new(ours.clone()))]);
    // The guest accepts this node alone.
    let id = world.id(0);
    world.answer(1, id, true);
    let call = world.connect(0, &theirs, direct(5));
    let stranger = world.connect(2, &theirs, direct(5));
    world.run(S);
    world.assert_piped(0, call, 1, &[]);
    assert_eq!(world.asked(1), [world.id(2)]);
    assert!(!world.is_over(2, stranger));
    world.run(11 * S);
    assert_eq!(topics(&world), 0, "nothing is followed any more");
    for host in &world.hosts {
        let trace = host.trace.lock().unwrap().clone();
        replay(&trace).unwrap();
    }
}

#[test]
fn a_wrong_code_burns_it_and_another_follows() {
    let mut world = world(1, 2);
    let host = meet(&mut world, 0, None);
    world.run(S);
    let told = code(&world, 0, host);
    let wrong: Code = format!("{}-aardvark-zombie", told.number()).parse().unwrap();
    assert_ne!(wrong, told);
    let guest = meet(&mut world, 1, Some(wrong));
    world.run(S);
    assert_eq!(news(&world, 1, guest), [MeetingNews::Failed(MeetingError::WrongCode)]);
    world.run(S);
    let [_, MeetingNews::Guessed, MeetingNews::Code(next)] = news(&world, 0, host)[..] else {
        panic!("{:?}", news(&world, 0, host))
    };
    assert_ne!(next, told);
    let guest = meet(&mut world, 1, Some(next));
    world.run(S);
    assert_eq!(news(&world, 1, guest), [MeetingNews::Met(Box::new(world.address(0))), MeetingNews::Done]);
}

#[test]
fn a_broker_that_dies_and_comes_back_loses_no_meeting() {
    let mut world = world(1, 2);
    let host = meet(&mut world, 0, None);
    world.run(S);
    let told = code(&world, 0, host);
    world.kill_broker(0);
    world.run(5 * S);
    world.brokers[0].up = true;
    let guest = meet(&mut world, 1, Some(told));
    world.run(20 * S);
    assert_eq!(news(&world, 1, guest), [MeetingNews::Met(Box::new(world.address(0))), MeetingNews::Done]);
    let met = MeetingNews::Met(Box::new(world.address(1)));
    assert_eq!(news(&world, 0, host), [MeetingNews::Code(told), met, MeetingNews::Done]);
}

#[test]
fn each_broker_gets_each_message_once_however_many_there_are() {
    let mut world = world(8, 2);
    let host = meet(&mut world, 0, None);
    world.run(S);
    let told = code(&world, 0, host);
    meet(&mut world, 1, Some(told));
    world.run(2 * S);
    assert_eq!(news(&world, 0, host).len(), 2);
    for broker in &world.brokers {
        let said = broker.published.iter().filter(|p| p.topic.starts_with("p2pd-meet-"));
        let kinds: Vec<u8> = said.map(|p| p.payload[1]).collect();
        // CLAIM, HELLO, ANSWER, PROOF, HOST, GUEST, DONE.
        assert_eq!(kinds, [0, 2, 3, 5, 6, 7, 9]);
    }
}

/// A broker that keeps every message, and says all of them again whenever it gets one, the oldest first and later.
#[test]
fn a_broker_that_repeats_everything_late_changes_nothing() {
    let mut world = world(2, 2);
    let mut old: Vec<Vec<u8>> = Vec::new();
    world.brokers[1].bend = Box::new(move |message| {
        old.push(message.payload.clone());
        old.iter().map(|payload| (300 * MS, payload.clone())).collect()
    });
    let host = meet(&mut world, 0, None);
    world.run(2 * S);
    let told = code(&world, 0, host);
    let guest = meet(&mut world, 1, Some(told));
    world.run(5 * S);
    let (ours, theirs) = (Box::new(world.address(0)), Box::new(world.address(1)));
    assert_eq!(news(&world, 0, host), [MeetingNews::Code(told), MeetingNews::Met(theirs), MeetingNews::Done]);
    assert_eq!(news(&world, 1, guest), [MeetingNews::Met(ours), MeetingNews::Done]);
}

/// One broker alters every message, and the other one does not.
#[test]
fn a_broker_that_alters_is_helped_out_by_an_honest_one_or_burns_the_code() {
    for kind in [2, 3, 5, 6, 7] {
        let mut world = world(2, 2);
        world.brokers[1].bend = Box::new(move |message| {
            let mut payload = message.payload.clone();
            if payload.get(1) == Some(&kind) {
                *payload.last_mut().unwrap() ^= 1;
            }
            vec![(Duration::ZERO, payload)]
        });
        let host = meet(&mut world, 0, None);
        world.run(2 * S);
        let told = code(&world, 0, host);
        let guest = meet(&mut world, 1, Some(told));
        world.run(5 * S);
        let (ours, theirs) = (Box::new(world.address(0)), Box::new(world.address(1)));
        // The first broker's copy is the first to arrive.
        let expected = [MeetingNews::Code(told), MeetingNews::Met(theirs), MeetingNews::Done];
        assert_eq!(news(&world, 0, host), expected, "{kind}");
        assert_eq!(news(&world, 1, guest)[0], MeetingNews::Met(ours), "{kind}");
    }
}

#[test]
fn what_was_kept_under_the_topic_is_no_message_of_a_meeting() {
    let mut world = world(1, 1);
    let told: Code = "7-guitar-oxygen".parse().unwrap();
    let guest = meet(&mut world, 0, Some(told));
    world.run(S);
    let topic = world.brokers[0].followed().find(|topic| topic.starts_with("p2pd-meet-")).unwrap().to_owned();
    world.ask(0, |node, now| node.end_meeting(now, guest));
    world.run(S);
    // TAKEN, of no claim.
    world.publish_kept(0, &topic, &[&[1, 1][..], &[7; 16]].concat());
    world.run(S);
    assert_eq!(world.stats(0), only(|_| {}));
    meet(&mut world, 0, Some(told));
    world.run(S);
    assert_eq!(world.stats(0), only(|stats| stats.bad_messages = 1));
}

#[test]
fn meetings_are_bounded_and_end_with_their_node() {
    let mut alone = self::world(0, 1);
    let none = alone.ask(0, |node, now| node.meet(now, None, purpose(), WITHIN));
    assert_eq!(none, Err(MeetingError::NoBroker));
    let mut world = world(1, 1);
    let all: Vec<MeetingId> = (0..MAX_MEETINGS).map(|_| meet(&mut world, 0, None)).collect();
    let more = world.ask(0, |node, now| node.meet(now, None, purpose(), WITHIN));
    assert_eq!(more, Err(MeetingError::TooMany));
    world.run(2 * S);
    world.ask(0, |node, now| node.end_meeting(now, all[0]));
    world.run(S);
    assert_eq!((topics(&world), news(&world, 0, all[0]).len()), (MAX_MEETINGS - 1, 1));
    world.shutdown(0);
    for id in &all[1..] {
        assert_eq!(news(&world, 0, *id).last(), Some(&MeetingNews::Failed(MeetingError::Shutdown)));
    }
    let none = world.ask(0, |node, now| node.meet(now, None, purpose(), WITHIN));
    assert_eq!(none, Err(MeetingError::Shutdown));
}
