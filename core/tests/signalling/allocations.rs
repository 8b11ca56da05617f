//! Allocations at TURN servers as pipes of their own.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use p2pd_core::trace::Recorder;
use p2pd_core::turn::{Credentials, Family, MAX_PAYLOAD, SendError};
use p2pd_core::{
    Allocate, AllocateError, ConfigError, Event, Input, Instant, PipeEnd, PipeId, TurnAuth, TurnServer,
};

use crate::common::{MS, S, World};

/// A world with two TURN servers and two nodes behind NATs, each of which knows one.
fn world() -> World {
    let mut world = World::new(1);
    world.add_turn();
    world.add_turn();
    world.behind_nat(|c| c.turn.truncate(1));
    world.behind_nat(|c| drop(c.turn.remove(0)));
    world.run(S);
    world
}

fn allocate(world: &mut World, n: usize, wish: &Allocate) -> PipeId {
    world.ask(n, |node: &mut Recorder, now: Instant| node.allocate(now, wish)).unwrap()
}

/// An allocation of a node, and its relayed address.
fn allocated(world: &mut World, n: usize) -> (PipeId, SocketAddr) {
    let pipe = allocate(world, n, &Allocate::default());
    world.run_until(100 * MS, |w| w.hosts[n].allocated.iter().any(|a| a.pipe == pipe));
    let found = world.hosts[n].allocated.iter().find(|a| a.pipe == pipe).unwrap();
    (pipe, found.relayed)
}

fn send(world: &mut World, n: usize, pipe: PipeId, to: SocketAddr, data: &[u8]) -> Result<(), SendError> {
    world.ask(n, |node, now| node.pipe_send_to(now, pipe, to, data))
}

fn received(world: &World, n: usize) -> Vec<(SocketAddr, Bytes)> {
    world.hosts[n].allocated.iter().flat_map(|a| a.received.clone()).collect()
}

/// The reason why an allocation came to nothing.
fn failed(world: &World, n: usize, pipe: PipeId) -> Option<&str> {
    world.hosts[n].events.iter().find_map(|(_, event)| match event {
        Event::NotAllocated { pipe: id, why } if *id == pipe => Some(&**why),
        _ => None,
    })
}

#[test]
fn two_relayed_addresses_exchange_datagrams_for_an_hour() {
    let mut world = world();
    let ((one, at_one), (other, at_other)) = (allocated(&mut world, 0), allocated(&mut world, 1));
    assert_eq!(at_one.ip(), world.turns[0].at.ip());
    assert_eq!(at_other.ip(), world.turns[1].at.ip());
    // Nobody is let in who was not sent to.
    send(&mut world, 0, one, at_other, b"too early").unwrap();
    world.run(S);
    assert_eq!(received(&world, 1), []);
    send(&mut world, 1, other, at_one, b"hello").unwrap();
    world.run(S);
    assert_eq!(received(&world, 0), [(at_other, Bytes::from_static(b"hello"))]);
    // Permissions and allocations are refreshed.
    for _ in 0..4 {
        world.run(900 * S);
        send(&mut world, 0, one, at_other, b"still here").unwrap();
        world.run(S);
    }
    assert_eq!(received(&world, 1), vec![(at_one, Bytes::from_static(b"still here")); 4]);
    // What cannot be sent is said.
    let v6 = "[2001:db8::1]:9".parse().unwrap();
    assert_eq!(send(&mut world, 0, one, v6, b""), Err(SendError::Family));
    assert_eq!(send(&mut world, 0, one, at_other, &[0; MAX_PAYLOAD + 1]), Err(SendError::TooLong));
    // Given up, it is nobody's.
    assert_eq!(world.allocations(), 2);
    world.ask(0, |node, now| node.pipe_close(now, one));
    assert_eq!(send(&mut world, 0, one, at_other, b""), Err(SendError::Closed));
    world.shutdown(1);
    assert_eq!(world.hosts[1].allocated[0].over, Some(PipeEnd::Shutdown));
    world.run(S);
    assert_eq!(world.allocations(), 0);
}

#[test]
fn a_user_who_takes_nothing_loses_datagrams_beyond_256() {
    let mut world = world();
    let ((one, at_one), (other, at_other)) = (allocated(&mut world, 0), allocated(&mut world, 1));
    send(&mut world, 0, one, at_other, b"").unwrap();
    send(&mut world, 1, other, at_one, b"").unwrap();
    world.run(S);
    // From here on nobody reads.
    world.hosts[0].allocated[0].deaf = true;
    for n in 0..300_u16 {
        send(&mut world, 1, other, at_one, &n.to_be_bytes()).unwrap();
        world.run(MS);
    }
    world.run(S);
    assert_eq!(world.stats(0).datagrams_dropped, 44);
    let first = world.ask(0, |node, now| node.pipe_recv_from(now, one));
    assert_eq!(first, Some((at_other, Bytes::from_static(&[0, 0]))));
    let rest = world.ask(0, |node, now| std::iter::from_fn(|| node.pipe_recv_from(now, one)).count());
    assert_eq!(rest, 255);
}

#[test]
fn servers_of_the_call_are_asked_in_place_of_those_of_the_configuration() {
    let mut world = world();
    let named = world.turns[1].config.clone();
    allocate(&mut world, 0, &Allocate { servers: vec![named.clone()], ..Allocate::default() });
    world.run(S);
    assert_eq!(world.hosts[0].allocated[0].relayed.ip(), world.turns[1].at.ip());
    assert_eq!(world.turns[0].datagrams, 0);
    // Credentials of the call are nobody's to renew.
    let stale = TurnServer { auth: TurnAuth::Renewed(None), ..named.clone() };
    let pipe = allocate(&mut world, 0, &Allocate { servers: vec![stale], ..Allocate::default() });
    world.run(S);
    assert_eq!(failed(&world, 0, pipe), Some("turn1.test:3478 over UDP: there are no other credentials"));
    let wrong = TurnServer { auth: TurnAuth::Fixed(Credentials::new("alice", "wrong")), ..named.clone() };
    let pipe = allocate(&mut world, 0, &Allocate { servers: vec![wrong], ..Allocate::default() });
    world.run(S);
    let why = "turn1.test:3478 over UDP: the TURN server does not take the credentials";
    assert_eq!(failed(&world, 0, pipe), Some(why));
    let bad = TurnServer { port: 0, ..named };
    let wish = Allocate { servers: vec![bad], ..Allocate::default() };
    let bad = world.ask(0, |node, now| node.allocate(now, &wish));
    assert_eq!(bad, Err(AllocateError::Servers(ConfigError::BadTurnServer(0))));
}

#[test]
fn the_family_is_the_callers_choice_or_that_of_the_server() {
    let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
    let mut world = world();
    let v6 = ip("2a01:4f8:ffff::80");
    world.turns[0].relay_ips = vec![v6];
    let (_, relayed) = {
        let pipe = allocate(&mut world, 0, &Allocate::default());
        world.run(S);
        (pipe, world.hosts[0].allocated[0].relayed)
    };
    assert_eq!(relayed.ip(), v6);
    let only = Allocate { family: Some(Family::V4), ..Allocate::default() };
    let pipe = allocate(&mut world, 0, &only);
    world.run(S);
    let why = "turn0.test:3478 over UDP: the TURN server has no addresses of this family";
    assert_eq!(failed(&world, 0, pipe), Some(why));
    // Both at once, as far as there is one of each. A server that has neither is asked for one after the other.
    let v4 = ip("203.0.113.7");
    let both = Allocate { family: Some(Family::Both), ..Allocate::default() };
    for (has, other) in [(vec![v6, v4], Some(v6)), (vec![v4], None), (vec![], None)] {
        world.turns[0].relay_ips = has.clone();
        let pipe = allocate(&mut world, 0, &both);
        world.run(2 * S);
        let found = world.hosts[0].allocated.iter().find(|a| a.pipe == pipe);
        let found = found.map(|a| (a.relayed.ip(), a.other.map(|at| at.ip())));
        assert_eq!(found, (!has.is_empty()).then_some((v4, other)), "{has:?}");
        let full = "turn0.test:3478 over UDP: the TURN server is full";
        let why = [full, why, why].join("; ");
        assert_eq!(failed(&world, 0, pipe), has.is_empty().then_some(&*why), "{has:?}");
        if let (Some(_), Some(other)) = (found, other) {
            let (_, theirs) = allocated(&mut world, 1);
            assert_eq!(send(&mut world, 0, pipe, theirs, b"4"), Ok(()));
            assert_eq!(send(&mut world, 0, pipe, SocketAddr::new(other, 9), b"6"), Ok(()));
        }
    }
}

#[test]
fn silent_servers_end_the_wait_at_its_time_and_a_server_that_forgot_us_ends_the_pipe() {
    let mut world = world();
    world.turns[0].up = false;
    let pipe = allocate(&mut world, 0, &Allocate { timeout: 3 * S, ..Allocate::default() });
    world.run(3 * S - MS);
    assert_eq!(failed(&world, 0, pipe), None);
    world.run(2 * MS);
    let why = "turn0.test:3478 over UDP: the TURN server has not answered yet";
    assert_eq!(failed(&world, 0, pipe), Some(why));
    // After a sleep the node asks at once.
    let (_, at) = allocated(&mut world, 1);
    assert!(world.turns[1].relays.contains(&at));
    world.admit(1, &Credentials::new("alice", "secret"));
    world.tell(1, Input::Woke);
    // This one's answer is 400, and not proven; its repetitions are given up after 39.5 s.
    world.run(39 * S);
    assert_eq!(world.hosts[1].allocated[0].over, None);
    world.run(S);
    assert_eq!(world.hosts[1].allocated[0].over, Some(PipeEnd::ServerGone));
    let mut world = World::new(1);
    world.open(|_| {});
    world.run(S);
    let none = world.ask(0, |node, now| node.allocate(now, &Allocate::default()));
    assert_eq!(none, Err(AllocateError::NoServer));
}

#[test]
fn a_server_that_vanishes_ends_the_pipe_within_a_minute() {
    let mut world = world();
    allocated(&mut world, 0);
    world.turns[0].up = false;
    let took = world.run_until(100 * S, |w| w.hosts[0].allocated[0].over.is_some());
    assert_eq!(world.hosts[0].allocated[0].over, Some(PipeEnd::ServerGone));
    assert!((59 * S..=60 * S).contains(&took), "{took:?}");
}

#[test]
fn a_wish_that_is_given_up_leaves_nothing_at_servers() {
    let mut world = world();
    // The answers to the first request, to the second, or to none have come.
    for after in [MS, 25 * MS, 45 * MS] {
        let pipe = allocate(&mut world, 0, &Allocate::default());
        world.run(after);
        world.ask(0, |node, now| node.pipe_close(now, pipe));
        world.run(S);
        assert_eq!((world.allocations(), failed(&world, 0, pipe)), (0, None), "{after:?}");
        assert!(world.hosts[0].allocated.iter().all(|a| a.pipe != pipe), "{after:?}");
    }
    // A server that is silent is told for a while.
    world.turns[0].up = false;
    let bound = world.hosts[0].bound.len();
    let pipe = allocate(&mut world, 0, &Allocate::default());
    world.run(2 * S);
    assert_eq!(world.hosts[0].bound.len(), bound + 1);
    world.ask(0, |node, now| node.pipe_close(now, pipe));
    world.run(5 * S);
    assert_eq!((failed(&world, 0, pipe), world.hosts[0].bound.len()), (None, bound));
}
