//! Peers that stop or break in the middle of a hello.

use crate::common::hand::{Script, Then};
use crate::common::view::{direct, reverse};
use crate::common::{Host, S, World};
use p2pd_core::{ConnectId, Event, FailReason, Outcome, PeerAddress, Stage, Stats};

const AT: &str = "203.0.113.99:4000";
/// Bytes of the first frame.
const FIRST: usize = 4 + 96 + 18;

/// Node 0 calls node 1 where this script answers in its place.
fn call(after: usize, then: Then) -> (World, ConnectId) {
    let mut world = World::new(8);
    world.open(|_| {});
    world.open(|_| {});
    world.run(S);
    world.scripts.insert(AT.parse().unwrap(), Script { after, then });
    let to = format!("None-[0,203.0.113.99,203.0.113.99,4000,1,1,0]-0-{}", world.id(1));
    let to: PeerAddress = to.parse().unwrap();
    let id = world.connect(0, &to, direct(30));
    (world, id)
}

#[test]
fn a_peer_that_says_nothing_is_given_up_after_5_seconds() {
    let (mut world, id) = call(1, Then::Silence);
    let took = world.run_until(20 * S, |w| w.is_over(0, id));
    assert_eq!(took.as_secs(), 5);
    let detail = format!("{AT}: connected, but no hello came back");
    assert_eq!(world.failed(0, id), (FailReason::AllStrategiesFailed, Outcome::Failed, &*detail));
    assert_eq!(world.hands[0].received.len(), FIRST);
    world.run(S);
    assert!(world.hands[0].closed);
}

#[test]
fn a_peer_that_says_half_a_frame_is_given_up_too() {
    for part in [vec![3, 2], vec![3, 2, 0, 51], vec![3, 2, 0, 51, 9, 9]] {
        let (mut world, id) = call(1, Then::Say(part));
        world.run(6 * S);
        assert_eq!(world.failed(0, id).2, format!("{AT}: connected, but no hello came back"));
        assert_eq!(world.streams_of(0), 0);
    }
}

#[test]
fn a_peer_that_closes_is_told_at_once() {
    for (after, then) in [(1, Then::Close), (FIRST, Then::Close), (1, Then::Reset), (FIRST, Then::Reset)] {
        let (mut world, id) = call(after, then);
        world.run(S);
        let detail =
            format!("{AT}: the stream broke during the hello; {AT}: the stream broke during the hello");
        assert_eq!(world.failed(0, id), (FailReason::AllStrategiesFailed, Outcome::Failed, &*detail));
    }
}

fn authenticated(host: &Host) -> bool {
    let is = |n: &Event| matches!(n, Event::Progress { stage: Stage::Authenticated(_), .. });
    host.events.iter().any(|(_, n)| is(n))
}

#[test]
fn a_peer_that_stops_after_it_was_authenticated_is_told_apart() {
    let mut world = World::new(8);
    world.open(|_| {});
    world.open(|_| {});
    world.run(S);
    // The lower id nominates. A caller with the higher has its pipe by then, and the peer's silence on it. One with the lower has
    // it too, unless it has to be told that the peer is busy.
    let [from, to] = if world.id(0) < world.id(1) { [0, 1] } else { [1, 0] };
    world.set_busy(to, true);
    let id = world.connect(from, &world.address(to), direct(30));
    world.run_until(S, |w| authenticated(&w.hosts[from]));
    world.hosts[to].frozen = true;
    let took = world.run_until(20 * S, |w| w.is_over(from, id));
    assert_eq!(took, 10 * S);
    let (reason, outcome, detail) = world.failed(from, id);
    assert_eq!((reason, outcome), (FailReason::AllStrategiesFailed, Outcome::Failed));
    let at = world.dialled(from)[0];
    assert_eq!(detail, format!("{at}: the peer proved who it is, then fell silent"));
    assert_eq!(world.streams_of(from), 0);
}

#[test]
fn a_caller_that_stops_costs_the_peer_it_asked_one_dial() {
    let mut world = World::new(8);
    world.add_broker();
    world.open(|_| {});
    world.open(|_| {});
    world.run(S);
    world.connect(0, &world.address(1), reverse(30));
    world.run_until(S, |w| !w.dialled(1).is_empty());
    world.hosts[0].frozen = true;
    world.run(15 * S);
    assert_eq!((world.dialled(1).len(), world.streams_of(1)), (1, 0));
    assert_eq!(world.stats(1), Stats::default());
    assert!(world.hosts[1].pipes.is_empty());
}

#[test]
fn a_caller_that_stops_before_its_hello_is_given_up_after_5_seconds() {
    for say in [0, 3, 4, 30] {
        let mut world = World::new(8);
        world.open(|_| {});
        world.run(S);
        let frame = [vec![3, 1, 0, 114], vec![0; 114]].concat();
        let hand = world.dial_by_hand(0, &frame[..say]);
        world.run(4 * S);
        assert!(!world.hands[hand].closed);
        world.run(2 * S);
        assert!(world.hands[hand].closed);
        assert_eq!((world.stats(0).bad_hellos, world.streams_of(0)), (1, 0));
    }
}

#[test]
fn the_second_address_is_tried_while_the_first_is_silent() {
    let (mut world, first) = call(1, Then::Silence);
    world.cancel(0, first);
    let to = format!(
        "None-[0,203.0.113.99,203.0.113.99,4000,1,1,0]|[1,203.0.113.2,203.0.113.2,4000,1,1,0]-0-{}",
        world.id(1)
    );
    let id = world.connect(0, &to.parse().unwrap(), direct(30));
    world.run(S);
    world.assert_piped(0, id, 1, &[]);
    assert!(world.hands.iter().all(|h| h.closed), "the loser is closed");
}
