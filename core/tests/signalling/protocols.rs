//! Calls that name a protocol, and listeners that take some.

use crate::common::udp::Nat;
use crate::common::view::plan;
use crate::common::{MS, S, World};
use p2pd_core::trace::replay;
use p2pd_core::{Accept, ConnectId, FailReason, PipeMode, ProtocolTag, Refusal, Strategy};

const NOT_TAKEN: FailReason = FailReason::RefusedByPeer(Refusal::ProtocolNotTaken);

fn tag(text: &str) -> ProtocolTag {
    ProtocolTag::new(text.as_bytes()).unwrap()
}

/// Two nodes behind NATs with all servers, the second of which takes these protocols.
fn world(taken: &[&str]) -> World {
    let mut world = World::new(5);
    world.add_broker();
    world.add_stun();
    world.add_turn();
    world.tracing = true;
    world.open(|_| {});
    world.open(|c| c.protocols = taken.iter().map(|text| tag(text)).collect());
    world.set_udp([Nat::Kept; 2]);
    world.run(S);
    world
}

fn call(world: &mut World, by: &[Strategy], protocol: Option<&str>) -> ConnectId {
    world.connect(0, &world.address(1), plan(by, 20).protocol(protocol.map(tag)))
}

/// Protocols of the pipes at both ends.
fn protocols(world: &World) -> Vec<[Option<ProtocolTag>; 2]> {
    let of = |n: usize| {
        let streams = world.hosts[n].pipes.iter().map(|p| p.protocol);
        streams.chain(world.hosts[n].relayed.iter().map(|p| p.protocol)).collect::<Vec<_>>()
    };
    of(0).into_iter().zip(of(1)).map(|(ours, theirs)| [ours, theirs]).collect()
}

#[test]
fn each_strategy_brings_the_protocol_that_the_call_names() {
    let longest = "p".repeat(64);
    for by in Strategy::ALL {
        for (taken, named) in [
            (&[][..], None),
            (&[], Some("chat/1")),
            (&["files/2", "chat/1"], Some("chat/1")),
            (&[&*longest], Some(&*longest)),
        ] {
            let mut world = world(taken);
            let id = call(&mut world, &[by], named);
            world.run(10 * S);
            assert!(
                world.is_over(0, id) && world.failure(0, id).is_none(),
                "{by} {taken:?} {named:?}\n{}",
                world.tail()
            );
            assert_eq!(protocols(&world), [[named.map(tag); 2]], "{by} {taken:?} {named:?}");
        }
    }
}

#[test]
fn a_protocol_that_is_not_taken_is_refused_by_name_at_once() {
    for by in Strategy::ALL {
        for named in [None, Some("chat/2"), Some("chat")] {
            let mut world = world(&["chat/1"]);
            let id = call(&mut world, &[by], named);
            let took = world.run_until(20 * S, |w| w.is_over(0, id));
            assert_eq!(world.failed(0, id).0, NOT_TAKEN, "{by} {named:?}");
            assert!(took <= 1500 * MS, "{by} {named:?}: {took:?}");
            world.run(10 * S);
            assert!(protocols(&world).is_empty(), "{by} {named:?}");
            assert_eq!(world.stats(1).refused, 1, "{by} {named:?}");
            // Another call is served.
            let id = call(&mut world, &[by], Some("chat/1"));
            world.run(10 * S);
            assert!(world.is_over(0, id) && world.failure(0, id).is_none(), "{by} after {named:?}");
        }
    }
}

/// A peer that is not accepted learns nothing about protocols.
#[test]
fn a_stranger_who_is_not_accepted_does_not_hear_which_protocols_are_taken() {
    for named in [None, Some("chat/1"), Some("chat/2")] {
        let mut world = World::new(5);
        world.add_broker();
        world.open(|_| {});
        world.open(|c| (c.accept, c.protocols) = (Accept::Only([].into()), vec![tag("chat/1")]));
        world.run(S);
        let id = call(&mut world, &[Strategy::Direct], named);
        world.run(5 * S);
        assert_eq!(world.failed(0, id).0, FailReason::RefusedByPeer(Refusal::NotAccepted), "{named:?}");
    }
}

#[test]
fn calls_of_each_other_are_one_pipe_only_where_they_name_the_same_protocol() {
    for (ours, theirs, pipes) in
        [(Some("a"), Some("a"), 1), (Some("a"), Some("b"), 2), (None, Some("b"), 2), (None, None, 1)]
    {
        let mut world = world(&[]);
        let [to, back] = [world.address(1), world.address(0)];
        let by = |protocol: Option<&str>| plan(&[Strategy::Direct], 20).protocol(protocol.map(tag));
        let calls = [world.connect(0, &to, by(ours)), world.connect(1, &back, by(theirs))];
        world.run(10 * S);
        for n in 0..2 {
            assert!(
                world.is_over(n, calls[n]) && world.failure(n, calls[n]).is_none(),
                "{ours:?} {theirs:?}"
            );
            let answering = world.hosts[n].pipes.iter().find(|p| p.answers.contains(&calls[n])).unwrap();
            assert_eq!(answering.protocol, [ours, theirs][n].map(tag), "{ours:?} {theirs:?}");
            assert_eq!(world.hosts[n].pipes.len(), pipes, "{ours:?} {theirs:?}");
        }
    }
}

#[test]
fn plain_pipes_and_traces_have_protocols_too() {
    let mut world = World::new(5);
    world.tracing = true;
    world.open(|_| {});
    world.open(|c| {
        (c.allow_plain, c.protocols) = (true, vec![tag("chat/1"), ProtocolTag::new(&[0, 255]).unwrap()])
    });
    world.run(S);
    let by = plan(&[Strategy::Direct], 9).protocol(tag("chat/1")).mode(PipeMode::Plain);
    let to = world.address(1);
    world.connect(0, &to, by);
    world.run(5 * S);
    assert_eq!(protocols(&world), [[Some(tag("chat/1")); 2]]);
    for n in 0..2 {
        replay(&world.hosts[n].trace.lock().unwrap()).unwrap();
    }
}

#[test]
fn tags_have_one_to_64_bytes() {
    assert_eq!([b"".as_slice(), &[0; 65]].map(ProtocolTag::new), [None, None]);
    assert_eq!(ProtocolTag::new(&[7; 64]).unwrap().as_bytes(), [7; 64]);
    assert_eq!(tag("chat/1").to_string(), "chat/1");
    assert_eq!(ProtocolTag::new(b"\0\x1b[2J\xff").unwrap().to_string(), "\\x00\\x1b[2J\\xff");
}
