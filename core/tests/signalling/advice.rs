//! The advice at the end of a connect that failed: it is taken, and the next connect succeeds.

use p2pd_core::{Accept, Advice, PipeMode, Plan, Strategy};

use crate::common::stun::{Tcp, Udp};
use crate::common::view::{direct, plan};
use crate::common::{MS, Port, S, World};

/// Nodes 0 and 1 are behind NATs that let nobody in; one broker, one STUN server, one TURN server.
fn world(seed: u8) -> World {
    let mut world = World::new(seed);
    world.add_broker();
    world.add_stun();
    world.add_turn();
    world.behind_nat(|_| {});
    world.behind_nat(|_| {});
    world.run(S);
    world
}

fn all() -> Plan {
    plan(&[Strategy::Direct, Strategy::Reverse, Strategy::Relay], 10)
}

/// The advice of a connect from one node to another, which fails.
fn advice(world: &mut World, from: usize, to: usize, plan: Plan) -> Option<Advice> {
    let address = world.address(to);
    let id = world.connect(from, &address, plan);
    world.run_until(20 * S, |w| w.is_over(from, id));
    assert!(world.failure(from, id).is_some(), "{}", world.tail());
    world.advice(from, id)
}

fn connects(world: &mut World, from: usize, to: usize, plan: Plan) {
    let address = world.address(to);
    let id = world.connect(from, &address, plan);
    world.run_until(20 * S, |w| w.is_over(from, id));
    assert!(world.is_over(from, id) && world.failure(from, id).is_none(), "{}", world.tail());
}

#[test]
fn a_broker_in_common_is_what_two_lists_lack() {
    let mut world = world(1);
    let without = world.behind_nat(|c| c.brokers.clear());
    world.run(S);
    assert_eq!(advice(&mut world, without, 1, all()), Some(Advice::ShareBroker));
    assert_eq!(advice(&mut world, 0, without, all()), Some(Advice::ShareBroker));
    connects(&mut world, 0, 1, all());
}

#[test]
fn a_relay_is_what_two_firewalls_need() {
    let mut world = world(2);
    let without = world.behind_nat(|c| c.turn.clear());
    world.run(S);
    // The peer was asked, and its dials failed; or there was nothing to ask it for.
    assert_eq!(advice(&mut world, without, 1, all()), Some(Advice::AddRelay));
    assert_eq!(advice(&mut world, without, 1, plan(&[Strategy::Relay], 10)), Some(Advice::AddRelay));
    connects(&mut world, 0, 1, all());
    // Without the relay in the plan a server would not help.
    assert_eq!(advice(&mut world, 0, 1, plan(&[Strategy::Reverse], 10)), Some(Advice::TryAll));
    connects(&mut world, 0, 1, plan(&Strategy::ALL, 10));
}

#[test]
fn a_peer_that_does_not_run_is_to_be_started() {
    let mut world = world(3);
    world.hosts[1].frozen = true;
    assert_eq!(advice(&mut world, 0, 1, all()), Some(Advice::StartPeer));
    world.hosts[1].frozen = false;
    world.run(30 * S);
    connects(&mut world, 0, 1, all());
    // Nobody can be asked, and nobody listens.
    let quiet = world.open(|c| c.brokers.clear());
    world.run(S);
    let card = world.address(quiet).v4()[0];
    let at = std::net::SocketAddr::new(card.external, card.port);
    world.ports.insert(at, Port::Refused);
    assert_eq!(advice(&mut world, 0, quiet, direct(10)), Some(Advice::StartPeer));
    world.ports.remove(&at);
    connects(&mut world, 0, quiet, direct(10));
}

#[test]
fn brokers_that_are_down_are_to_be_reached() {
    let mut world = world(4);
    world.brokers[0].up = false;
    let late = world.behind_nat(|_| {});
    world.run(S);
    assert_eq!(advice(&mut world, late, 1, all()), Some(Advice::ReachBroker));
    world.brokers[0].up = true;
    world.run(120 * S);
    connects(&mut world, late, 1, all());
}

#[test]
fn a_stranger_is_told_how_to_be_accepted() {
    let mut world = world(5);
    let friend = world.id(0);
    let strict = world.behind_nat(|c| c.accept = Accept::Only([friend].into()));
    world.run(S);
    let ours = world.id(1);
    assert_eq!(advice(&mut world, 1, strict, all()), Some(Advice::BeAccepted(ours)));
    connects(&mut world, 0, strict, all());
}

#[test]
fn a_plain_pipe_where_none_is_given_is_to_be_encrypted() {
    let mut world = world(6);
    let strict = world.open(|c| c.allow_plain = false);
    world.run(S);
    let plain = all().mode(PipeMode::Plain);
    assert_eq!(advice(&mut world, 0, strict, plain), Some(Advice::BeEncrypted));
    connects(&mut world, 0, strict, all());
}

#[test]
fn the_refusal_of_an_early_request_is_not_what_the_call_fails_for() {
    let mut world = world(7);
    (world.stuns[0].udp, world.stuns[0].tcp) = (Udp::Silent, Tcp::Silent);
    let late = world.behind_nat(|c| c.turn.clear());
    let address = world.address(1);
    let id = world.connect(late, &address, all());
    // It asks with its inside address, which nobody dials for a stranger; then with the other.
    world.run(1_100 * MS);
    (world.stuns[0].udp, world.stuns[0].tcp) = (Udp::Truth, Tcp::Truth);
    world.run_until(20 * S, |w| w.is_over(late, id));
    assert_eq!(world.advice(late, id), Some(Advice::AddRelay), "{}", world.tail());
}
