//! Peers that a node gives a pipe to, and its user's consent.

use crate::common::view::{direct, plan, reverse};
use crate::common::{MS, S, World, key};
use p2pd_core::{Accept, Advice, ConnectId, Event, FailReason, Plan, Refusal, Stage, Strategy};

/// Strategies that give a stream; `relaying.rs` has relays.
const STREAMS: [Strategy; 3] = [Strategy::Direct, Strategy::Reverse, Strategy::Punch];

const NO: FailReason = FailReason::RefusedByPeer(Refusal::NotAccepted);

/// Node 0 calls node 1, which accepts by this rule, directly or through the broker.
fn call(accept: Accept, by: Strategy, seconds: u64) -> (World, ConnectId) {
    let mut world = World::new(3);
    world.add_broker();
    world.open(|_| {});
    world.open(|c| c.accept = accept);
    world.run(S);
    let id = world.connect(0, &world.address(1), plan(&[by], seconds));
    (world, id)
}

#[test]
fn a_pipe_that_the_user_approved_and_then_one_without_a_question() {
    for by in STREAMS {
        let (mut world, id) = call(Accept::Ask, by, 60);
        world.run(10 * S);
        assert_eq!(world.asked(1), [world.id(0)], "{by}");
        assert!(world.hosts.iter().all(|h| h.pipes.is_empty()));
        assert_eq!(world.dialled(1), [], "nobody is dialled before the answer");
        if by == Strategy::Direct {
            assert_eq!(world.stages(0, id, by).last(), Some(&Stage::AwaitingApproval));
        }
        world.answer(1, world.id(0), true);
        world.run(S);
        world.assert_piped(0, id, 1, &[]);
        let again = world.connect(0, &world.address(1), plan(&[by], 20));
        world.run(S);
        assert!(world.is_over(0, again) && world.failure(0, again).is_none());
        assert_eq!(world.asked(1).len(), 1, "remembered");
        assert_eq!(world.stats(1).refused, 0);
    }
}

#[test]
fn a_user_who_says_no_is_asked_again_next_time() {
    for by in STREAMS {
        let (mut world, id) = call(Accept::Ask, by, 60);
        world.run(S);
        world.answer(1, world.id(0), false);
        world.run(S);
        assert_eq!(world.failed(0, id).0, NO, "{by}");
        assert_eq!(world.stats(1).refused, 1);
        world.connect(0, &world.address(1), plan(&[by], 20));
        world.run(S);
        assert_eq!(world.asked(1).len(), 2);
        assert_eq!(world.dialled(1), []);
        assert!(world.hosts.iter().all(|h| h.pipes.is_empty()));
    }
}

#[test]
fn a_question_without_an_answer_is_refused_as_such_after_30_seconds() {
    for by in STREAMS {
        let (mut world, id) = call(Accept::Ask, by, 60);
        let took = world.run_until(60 * S, |w| w.is_over(0, id));
        assert!((30 * S..30 * S + 150 * MS).contains(&took), "{by}: {took:?}");
        let (why, report) = world.failure(0, id).unwrap();
        assert_eq!(why, FailReason::RefusedByPeer(Refusal::Unanswered), "{by}");
        assert_eq!(report.advice, Some(Advice::BeAnswered), "{by}");
        world.answer(1, world.id(0), true);
        world.run(S);
        assert!(world.hosts.iter().all(|h| h.pipes.is_empty()), "too late for this call");
        assert_eq!(world.streams_of(1), 0);
    }
}

#[test]
fn a_call_that_ends_before_the_question_is_told_that_nobody_has_answered() {
    let (mut world, id) = call(Accept::Ask, Strategy::Direct, 20);
    let took = world.run_until(60 * S, |w| w.is_over(0, id));
    assert!((20 * S..20 * S + MS).contains(&took), "{took:?}");
    let (why, report) = world.failure(0, id).unwrap();
    assert_eq!((why, report.advice), (FailReason::DeadlinePassed, Some(Advice::BeAnswered)));
}

#[test]
fn a_call_on_both_ways_is_one_question_and_one_pipe() {
    let mut world = World::new(3);
    world.add_broker();
    world.open(|_| {});
    world.open(|c| c.accept = Accept::Ask);
    world.run(S);
    let id = world.connect(0, &world.address(1), Plan::new().timeout(60 * S));
    world.run(5 * S);
    assert_eq!(world.asked(1).len(), 1);
    world.answer(1, world.id(0), true);
    world.run(15 * S);
    world.assert_piped(0, id, 1, &[]);
    assert_eq!((world.streams_of(0), world.streams_of(1)), (1, 1), "the other stream is closed");
}

#[test]
fn a_yes_to_a_caller_that_has_gone_gives_no_pipe() {
    for by in STREAMS {
        let (mut world, id) = call(Accept::Ask, by, 60);
        world.run(S);
        world.cancel(0, id);
        world.run(S);
        world.answer(1, world.id(0), true);
        world.run(20 * S);
        assert!(world.hosts.iter().all(|h| h.pipes.is_empty()), "{by}");
        assert_eq!((world.streams_of(0), world.streams_of(1)), (0, 0));
    }
}

#[test]
fn a_question_ends_with_the_last_stream_that_asks_it() {
    for by in STREAMS {
        let (mut world, id) = call(Accept::Ask, by, 60);
        world.run(S);
        // Over a broker nobody hangs up.
        let dialled = by == Strategy::Direct;
        let from = dialled.then(|| world.hosts[0].outside);
        let asked = Event::Ask { peer: world.id(0), from };
        assert!(world.hosts[1].events.iter().any(|(_, event)| *event == asked), "{by}");
        let is_over = |world: &World| {
            let over = Event::AskOver { peer: world.id(0) };
            world.hosts[1].events.iter().any(|(_, event)| *event == over)
        };
        assert!(!is_over(&world), "{by}");
        world.cancel(0, id);
        world.run(S);
        assert_eq!(is_over(&world), dialled, "{by}");
        // Whoever calls again is asked about again.
        world.connect(0, &world.address(1), plan(&[by], 20));
        world.run(S);
        assert_eq!(world.asked(1).len(), 1 + usize::from(dialled), "{by}");
        // What was answered is no question any more.
        let over = |world: &World| {
            world.hosts[1].events.iter().filter(|(_, e)| matches!(e, Event::AskOver { .. })).count()
        };
        let before = over(&world);
        world.answer(1, world.id(0), false);
        world.run(S);
        assert_eq!(over(&world), before, "{by}");
    }
}

#[test]
fn a_list_lets_in_whom_it_names_and_nobody_else() {
    for by in STREAMS {
        let (mut world, id) = call(Accept::Only([key(0).node_id()].into()), by, 20);
        let other = world.open(|_| {});
        world.run(5 * S);
        world.assert_piped(0, id, 1, &[]);
        let dialled = world.dialled(1).len();
        let refused = world.connect(other, &world.address(1), plan(&[by], 20));
        world.run(S);
        assert_eq!(world.failed(other, refused).0, NO, "{by}");
        assert_eq!((world.dialled(1).len(), world.stats(1).refused), (dialled, 1));
        assert_eq!(world.hosts[1].pipes.len(), 1);
    }
}

#[test]
fn whom_our_own_user_calls_need_not_be_on_the_list() {
    for plan in [direct(20), reverse(20)] {
        let mut world = World::new(3);
        world.add_broker();
        world.open(|c| c.accept = Accept::Only([].into()));
        world.open(|_| {});
        world.run(S);
        let id = world.connect(0, &world.address(1), plan);
        world.run(S);
        world.assert_piped(0, id, 1, &[]);
    }
}

#[test]
fn a_caller_of_a_busy_node_has_its_pipe_and_is_told_that_it_waits() {
    // Whichever end nominates.
    for (seed, by) in (0..4).flat_map(|seed| STREAMS.map(|by| (seed, by))) {
        let mut world = World::new(seed);
        world.add_broker();
        world.open(|_| {});
        world.open(|_| {});
        world.run(S);
        let mut call = |busy: bool| {
            world.set_busy(1, busy);
            let id = world.connect(0, &world.address(1), plan(&[by], 20));
            world.run(3 * S);
            assert!(world.is_over(0, id) && world.failure(0, id).is_none(), "{by}");
            world.stages(0, id, by).iter().filter(|stage| **stage == Stage::PeerBusy).count()
        };
        assert_eq!([call(false), call(true), call(false)], [0, 1, 0], "{by}, seed {seed}");
        assert_eq!(world.stats(1).refused, 0);
    }
}
