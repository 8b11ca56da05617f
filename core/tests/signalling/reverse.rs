//! The peer, asked over a broker, dials us.

use std::time::Duration;

use crate::common::view::{plan, reverse};
use crate::common::{LATENCY, MS, Port, S, World};
use p2pd_core::{Accept, BrokerLoss, BrokerState, FailReason, IoFailure, Outcome, Stage, Strategy};

/// Node 0 is open, node 1 behind a NAT: it can be had only by asking it.
fn world(seed: u8, brokers: usize) -> World {
    let mut world = World::new(seed);
    for _ in 0..brokers {
        world.add_broker();
    }
    world.add_stun();
    world.open(|_| {});
    world.behind_nat(|_| {});
    world.run(S);
    world
}

#[test]
fn a_peer_behind_a_nat_is_asked_and_dials() {
    let mut world = world(1, 1);
    let id = world.connect(0, &world.address(1), plan(&Strategy::ALL, 20));
    let took = world.run_until(2 * S, |w| w.is_over(0, id));
    world.run(S);
    world.assert_piped(0, id, 1, &[]);
    assert_eq!(world.pipe(0).strategy, Strategy::Reverse);
    assert_eq!(world.pipe(1).strategy, Strategy::Reverse);
    let outside = "203.0.113.2:4000".parse().unwrap();
    assert_eq!(world.dialled(0), [outside], "the direct path, which failed");
    assert_eq!(world.dialled(1), ["203.0.113.1:4000".parse().unwrap()]);
    let stages = world.stages(0, id, Strategy::Reverse);
    let from = world.hosts[1].pipes[0].sock;
    assert!(
        matches!(
            stages[..],
            [Stage::Started, Stage::Requested { brokers: 1 }, Stage::PeerDials, Stage::Authenticated(_),]
        ),
        "{stages:?} {from:?}"
    );
    // Request to broker and peer, SYN there and back, three flights of hello, one of them for nomination.
    assert!(took <= 100 * MS, "{took:?}");
    assert_eq!(world.streams_of(0), 1, "the dial that failed is closed");
}

#[test]
fn over_two_brokers_the_peer_dials_once() {
    let mut world = world(1, 2);
    let id = world.connect(0, &world.address(1), reverse(20));
    world.run(3 * S);
    world.assert_piped(0, id, 1, &[]);
    assert_eq!(world.dialled(1).len(), 1);
    assert!(world.dialled(0).is_empty());
    assert_eq!(world.published_to(1).len(), 2 + 2, "its own two echoes, and the request on both brokers");
    assert_eq!(world.stats(1).repeated_messages, 1);
    assert_eq!(world.stats(0).repeated_messages, 1, "so with the answer");
    assert_eq!(world.stages(0, id, Strategy::Reverse)[1], Stage::Requested { brokers: 2 });
}

#[test]
fn a_broker_that_dies_after_the_request_hurts_nothing() {
    for dying in 0..2 {
        let mut world = world(1, 2);
        world.brokers[dying].bend = Box::new(|_| Vec::new());
        let id = world.connect(0, &world.address(1), reverse(20));
        world.run(5 * MS);
        world.kill_broker(dying);
        world.run(S);
        world.assert_piped(0, id, 1, &[]);
        let reset = BrokerState::Lost(BrokerLoss::Io(IoFailure::Reset));
        assert_eq!(world.broker_states(0, dying)[..2], [BrokerState::Ready, reset]);
        assert_eq!(world.broker_states(0, 1 - dying), [BrokerState::Ready]);
    }
}

#[test]
fn a_request_survives_the_loss_of_the_only_broker() {
    for seed in 0..8 {
        let mut world = world(seed, 1);
        let id = world.connect(0, &world.address(1), reverse(300));
        // On its way to the broker, which is gone when it gets there, and for longer than all repeats take.
        world.run(5 * MS);
        world.kill_broker(0);
        world.run(70 * S);
        assert!(!world.is_over(0, id));
        world.brokers[0].up = true;
        world.run(130 * S);
        world.assert_piped(0, id, 1, &[]);
        assert_eq!(world.dialled(1).len(), 1);
    }
}

#[test]
fn a_request_that_may_be_lost_goes_out_at_once_when_the_broker_is_back() {
    let mut world = world(1, 1);
    world.connect(0, &world.address(1), reverse(20));
    world.run(5 * MS);
    world.kill_broker(0);
    world.brokers[0].up = true;
    let before = world.published_to(1).len();
    let took = world.run_until(S, |w| w.published_to(1).len() > before);
    assert!(took < 1500 * MS, "before the repeat: {took:?}");
}

#[test]
fn an_unanswered_request_is_repeated_at_growing_intervals_and_then_given_up() {
    let mut world = world(1, 1);
    world.brokers[0].bend = Box::new(|_| Vec::new());
    let (began, before) = (world.now, world.published_to(1).len());
    let id = world.connect(0, &world.address(1), reverse(600));
    world.run(601 * S);
    let requests = world.published_to(1).split_off(before);
    let sent: Vec<u64> = requests.iter().map(|p| p.at.since(began + LATENCY).as_secs()).collect();
    assert_eq!(sent, [0, 2, 6, 14, 30, 62]);
    let (reason, outcome, detail) = world.failed(0, id);
    assert_eq!((reason, outcome), (FailReason::DeadlinePassed, Outcome::Unfinished));
    assert_eq!(detail, "asked 6 time(s), the peer did not answer");
}

#[test]
fn a_repeated_request_is_answered_by_one_visit() {
    let mut world = world(1, 1);
    let mut first = true;
    world.brokers[0].bend = Box::new(move |m| match std::mem::take(&mut first) {
        true => Vec::new(),
        false => vec![
            (Duration::ZERO, m.payload.clone()),
            (50 * MS, m.payload.clone()),
            (3 * S, m.payload.clone()),
        ],
    });
    let id = world.connect(0, &world.address(1), reverse(20));
    world.run(10 * S);
    world.assert_piped(0, id, 1, &[]);
    assert_eq!((world.dialled(1).len(), world.stats(1).repeated_messages), (1, 2));
}

#[test]
fn what_the_peers_dials_met_is_told() {
    for (port, text) in [
        (Port::Refused, "the peer dialled us without success: 203.0.113.1:4000: connection refused"),
        (
            Port::Blackholed,
            "the peer dialled us without success: 203.0.113.1:4000: no answer in time (our NAT or firewall does not let it in)",
        ),
    ] {
        let mut world = world(1, 1);
        // Who is told is whom its user named.
        let friend = world.id(0);
        let asked = world.behind_nat(|c| c.accept = Accept::Only([friend].into()));
        world.run(S);
        world.ports.insert("203.0.113.1:4000".parse().unwrap(), port);
        let id = world.connect(0, &world.address(asked), reverse(20));
        world.run(20 * S);
        let (reason, outcome, detail) = world.failed(0, id);
        assert_eq!((reason, outcome, detail), (FailReason::AllStrategiesFailed, Outcome::Failed, text));
        assert_eq!(world.dialled(asked).len(), 1);
    }
}

#[test]
fn what_cannot_work_is_skipped_with_the_reason() {
    let mut world = world(1, 2);
    let without = world.open(|c| c.brokers.clear());
    let other = world.open(|c| c.brokers.retain(|b| b.id == 2));
    world.run(S);
    for (from, to, why) in
        [(without, 1, "no broker is configured"), (0, without, "the peer announces no broker")]
    {
        let id = world.connect(from, &world.address(to), reverse(20));
        assert_eq!(world.failed(from, id), (FailReason::AllStrategiesFailed, Outcome::Skipped, why));
    }
    let one = world.address(1).to_string().replacen("1,2-", "1-", 1).parse().unwrap();
    let id = world.connect(other, &one, reverse(20));
    let why = "the peer's brokers (1) are not in our server list";
    assert_eq!(world.failed(other, id), (FailReason::AllStrategiesFailed, Outcome::Skipped, why));
}

#[test]
fn the_answer_comes_over_the_broker_of_the_request_though_our_address_does_not_name_it() {
    let mut world = world(1, 3);
    let peer = world.open(|c| c.brokers.retain(|b| b.id == 3));
    world.run(S);
    assert_eq!((world.address(0).brokers(), world.address(peer).brokers()), (&[1, 2][..], &[3][..]));
    let id = world.connect(0, &world.address(peer), reverse(20));
    world.run(S);
    world.assert_piped(0, id, peer, &[]);
    assert!(world.stages(0, id, Strategy::Reverse).contains(&Stage::PeerDials));
}

#[test]
fn oneself_is_asked_without_a_broker() {
    let mut world = world(1, 1);
    let before = world.brokers[0].published.len();
    let id = world.connect(0, &world.address(0), reverse(20));
    world.run(S);
    let pipes = &world.hosts[0].pipes;
    let mut answers: Vec<_> = pipes.iter().map(|p| p.answers.clone()).collect();
    answers.sort();
    assert_eq!(answers, [vec![], vec![id]], "one end answers the call, the other is a peer's");
    assert_eq!(world.dialled(0), ["203.0.113.1:4000".parse().unwrap()]);
    assert_eq!(world.brokers[0].published.len(), before, "nothing went out");
}

#[test]
fn the_whole_log_is_equal_for_equal_seeds_only() {
    let run = |seed| {
        let mut world = world(seed, 2);
        world.connect(0, &world.address(1), plan(&Strategy::ALL, 20));
        world.run(100 * MS);
        world.kill_broker(1);
        world.run(30 * S);
        assert_eq!(world.hosts[0].pipes.len(), 1);
        world.log.clone()
    };
    let log = run(1);
    assert_eq!(log, run(1));
    assert_ne!(log, run(2));
}
