//! The contract on the crate's first page, rule by rule, with two nodes on a wire that loses nothing. That every
//! deadline moves is asserted by the wire itself, in every test that uses it.

mod common;

use common::view::{direct, plan};
use common::{S, World};
use p2pd_core::{
    Event, FailReason, Instant, PeerAddress, PipeMode, Plan, Refusal, SecretKey, SockId, Strategy,
};

/// Two open hosts; bytes arrive one at a time, so a header and the body behind it never come together.
fn pair(seed: u8) -> World {
    let mut world = World::new(seed);
    world.chunk = 1;
    world.open(|_| {});
    world.open(|_| {});
    world.run(S);
    world
}

#[test]
fn a_direct_connect_gives_each_side_one_pipe_and_reads_nothing_past_the_hello() {
    for (from, to) in [(0, 1), (1, 0)] {
        let mut world = pair(7);
        let id = world.connect(from, &world.address(to), Plan::default());
        world.run(S);
        world.assert_piped(from, id, to, &[]);
        assert_eq!(world.unread(), 0, "every byte was the hello's");
        assert!(world.credit_left() <= 4, "no credit beyond a header is left");
    }
}

#[test]
fn calls_on_each_other_are_answered_by_one_pipe() {
    let mut world = pair(7);
    let ours = world.connect(0, &world.address(1), Plan::default());
    let theirs = world.connect(1, &world.address(0), Plan::default());
    world.run(S);
    world.assert_piped(0, ours, 1, &[theirs]);
}

#[test]
fn the_same_seed_gives_the_same_actions() {
    let run = |seed| {
        let mut world = pair(seed);
        world.connect(0, &world.address(1), Plan::default());
        world.run(S);
        world.log.clone()
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn unknown_ids_are_counted_and_time_may_go_back() {
    let mut world = pair(7);
    let node = &mut world.hosts[0].node;
    node.handle(Instant::ZERO + 9 * S, Event::Eof { sock: SockId::from_number(99) });
    node.handle(Instant::ZERO, Event::Stream { sock: SockId::from_number(98), data: b"x" });
    assert_eq!(node.stats().unknown_ids, 2);
    assert!(node.poll_action().is_none());
}

#[test]
fn an_unanswered_connect_ends_at_its_own_deadline() {
    let mut world = pair(7);
    let key = SecretKey::from_bytes([9; 32]).node_id();
    let to: PeerAddress = format!("None-[0,203.0.113.9,203.0.113.9,9,1,1,0]-0-{key}").parse().unwrap();
    let id = world.connect(0, &to, plan(&Strategy::ALL, 3));
    world.run(20 * S);
    let (reason, report) = world.failure(0, id).unwrap();
    assert_eq!((reason, report.elapsed), (FailReason::DeadlinePassed, 3 * S));
}

#[test]
fn a_plain_pipe_needs_the_other_sides_consent() {
    let mut world = pair(7);
    let id = world.connect(0, &world.address(1), Plan { mode: PipeMode::Plain, ..direct(9) });
    world.run(S);
    assert!(world.hosts.iter().all(|h| h.pipes.is_empty()));
    assert_eq!(world.failed(0, id).0, FailReason::RefusedByPeer(Refusal::PlainNotAllowed));
}

#[test]
fn streams_are_accepted_by_credit_and_a_released_pipe_counts_no_more() {
    let mut world = World::new(7);
    world.open(|c| c.max_pipes = Some(8));
    world.open(|_| {});
    world.run(S);
    for n in 0..40 {
        world.connect(1, &world.address(0), Plan::default());
        world.run(S);
        assert_eq!(world.hosts[0].pipes.len(), n + 1, "a stranger's key has one place of eight");
        let sock = world.hosts[0].pipes[n].sock;
        world.tell(0, Event::Released { sock });
    }
    let granted = world.log.split(" 0 > Accept { ").skip(1).filter_map(|line| line.split("credit: ").nth(1));
    let granted: usize = granted.map(|rest| rest.split(' ').next().unwrap().parse::<usize>().unwrap()).sum();
    assert!((41..=56).contains(&granted), "{granted}: forty were used, and a few are left");
}
