//! Two nodes that call each other at about the same time, where one can only be had by asking it.

use std::net::SocketAddr;
use std::time::Duration;

use crate::common::view::{direct, plan, reverse};
use crate::common::{End, MS, Port, S, World};
use p2pd_core::{Plan, Strategy};

/// Two nodes, the second of which is behind a NAT; which has the lower id depends on `swapped`.
fn world(swapped: bool) -> World {
    let mut world = World::new(2);
    world.add_broker();
    world.add_stun();
    let keys = [crate::common::key(usize::from(swapped)), crate::common::key(usize::from(!swapped))];
    let [open, hidden] = keys;
    world.open(|c| c.identity = open);
    world.behind_nat(|c| c.identity = hidden);
    world.run(S);
    world
}

/// An order of two calls: the plans of node 0 and node 1. For each: could its call work without the other one.
#[derive(Clone)]
struct Case {
    plans: [Plan; 2],
    alone: [bool; 2],
    swapped: bool,
    /// Node that calls first, and its lead over the other.
    first: usize,
    apart: Duration,
}

/// Calls within this of each other are answered by one pipe.
const TOGETHER: Duration = Duration::from_millis(20);

fn check(case: &Case) {
    let mut world = world(case.swapped);
    let (early, late) = (case.first, 1 - case.first);
    let early_id = world.connect(early, &world.address(late), case.plans[early].clone());
    world.run(case.apart);
    let late_id = world.connect(late, &world.address(early), case.plans[late].clone());
    world.run(30 * S);
    let context = format!("swapped {}, node {early} first by {:?}", case.swapped, case.apart);
    for (n, id) in [(early, early_id), (late, late_id)] {
        let answered = world.hosts[n].pipes.iter().filter(|p| p.answers.contains(&id)).count();
        if case.alone[n] || case.apart <= TOGETHER {
            assert_eq!(answered, 1, "{context}: node {n}\n{}", world.tail());
        }
        assert!(world.is_over(n, id), "{context}: node {n}");
    }
    for n in 0..2 {
        for pipe in &world.hosts[n].pipes {
            let End::Node(m, sock) = pipe.end else { panic!() };
            let other = world.hosts[m].pipes.iter().find(|p| p.sock == sock);
            assert_eq!(other.map(|p| p.end), Some(End::Node(n, pipe.sock)), "{context}: a pipe with one end");
        }
        let pipes = world.hosts[n].pipes.len();
        assert_eq!(world.streams_of(n), pipes, "{context}: nothing else is open");
        let there = world.address(1 - n).v4()[0].external;
        let dials = world.dialled(n);
        // A punch dials the port that the peer's NAT was measured to give, once for each call.
        let punch = case.plans[n].strategies.contains(&Strategy::Punch);
        let (to_hole, to_port): (Vec<SocketAddr>, Vec<SocketAddr>) =
            dials.iter().partition(|to| to.ip() == there && to.port() != 4000);
        assert!(to_port.iter().all(|to| *to == (there, 4000).into()), "{context}: {dials:?}");
        assert!(to_port.len() <= if punch { 4 } else { 2 }, "{context}: one for each call, {dials:?}");
        assert!(to_hole.len() <= if punch { 2 } else { 0 }, "{context}: one for each call, {dials:?}");
        if case.apart <= TOGETHER {
            let vain = world.hosts[n].dials.iter().filter(|(at, _)| *at > world.pipe(n).at).count();
            assert_eq!(vain, 0, "{context}: node {n} dialled although it had the pipe");
        }
        assert!(pipes <= if case.apart <= TOGETHER { 1 } else { 2 }, "{context}: {pipes} pipes");
    }
}

/// Every way in which two calls can lie in time, in steps of half a latency.
fn every_overlap(plans: [Plan; 2], alone: [bool; 2]) {
    for swapped in [false, true] {
        for step in 0..24 {
            for first in 0..2 {
                check(&Case { plans: plans.clone(), alone, swapped, first, apart: step * 5 * MS });
            }
        }
    }
}

#[test]
fn one_direct_and_one_reverse_call_are_answered_by_one_pipe() {
    every_overlap([reverse(20), direct(20)], [true, true]);
}

#[test]
fn two_calls_by_every_strategy_are_answered_by_one_pipe() {
    every_overlap([plan(&Strategy::ALL, 20), plan(&Strategy::ALL, 20)], [true, true]);
}

#[test]
fn a_call_that_could_not_work_by_itself_is_answered_by_the_peers() {
    every_overlap([reverse(20), reverse(20)], [true, false]);
    every_overlap([direct(20), direct(20)], [false, true]);
}

#[test]
fn a_call_whose_dial_failed_is_answered_by_the_peers_that_is_under_way() {
    for swapped in [false, true] {
        for apart in [15, 20, 25] {
            let mut world = world(swapped);
            let hidden = world.address(1);
            world.ports.insert((hidden.v4()[0].external, 4000).into(), Port::Refused);
            let theirs = world.connect(1, &world.address(0), direct(20));
            world.run(apart * MS);
            let ours = world.connect(0, &hidden, direct(20));
            world.run(S);
            world.assert_piped(0, ours, 1, &[theirs]);
        }
    }
}

#[test]
fn a_request_that_comes_when_its_call_is_already_answered_is_inert() {
    for swapped in [false, true] {
        let mut world = world(swapped);
        world.brokers[0].bend = Box::new(|m| vec![(300 * MS, m.payload.clone())]);
        let ours = world.connect(0, &world.address(1), reverse(20));
        let theirs = world.connect(1, &world.address(0), direct(20));
        world.run(S);
        world.assert_piped(0, ours, 1, &[theirs]);
        assert_eq!(world.dialled(1).len(), 1, "swapped {swapped}");
        assert_eq!((world.stats(0).refused, world.stats(1).refused), (0, 0));
    }
}
