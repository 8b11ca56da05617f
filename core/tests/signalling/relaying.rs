//! Pipes through a TURN server, between nodes whose NATs give each way a port of its own.

use std::time::Duration;

use p2pd_core::relay::{MAX_MESSAGE, MAX_MESSAGES, MessageError};
use p2pd_core::trace::replay;
use p2pd_core::turn::Credentials;
use p2pd_core::{Accept, FailReason, Outcome, PipeEnd, PipeMode, Refusal, Stage, Strategy};

use crate::common::view::{plan, relay};
use crate::common::{MS, S, World};

/// Two nodes behind NATs with a broker, a STUN server and a TURN server between them.
fn world(seed: u8) -> World {
    let mut world = World::new(seed);
    world.add_broker();
    world.add_stun();
    world.add_turn();
    world.tracing = true;
    for _ in 0..2 {
        world.behind_nat(|_| {});
    }
    world.run(S);
    world
}

/// Opens a world of that kind with a relayed pipe from 0 to 1.
fn piped(seed: u8) -> World {
    let mut world = world(seed);
    let id = world.connect(0, &world.address(1), relay(20));
    world.run_until(2 * S, |w| !w.hosts[0].relayed.is_empty() && !w.hosts[1].relayed.is_empty());
    assert_eq!((&world.relayed(0).answers[..], world.relayed(1).answers.len()), (&[id][..], 0));
    world
}

#[test]
fn two_nodes_behind_symmetric_nats_talk_through_one_allocation() {
    let mut world = world(1);
    let id = world.connect(0, &world.address(1), relay(20));
    let took = world.run_until(2 * S, |w| w.is_over(0, id));
    world.run(S);
    for n in 0..2 {
        let pipe = world.relayed(n);
        assert_eq!((pipe.strategy, pipe.mode, pipe.over), (Strategy::Relay, PipeMode::Encrypted, None));
    }
    let relayed = "198.51.100.90:50000".parse().unwrap();
    assert_eq!((world.relayed(0).local, world.relayed(1).remote), (relayed, relayed));
    assert_eq!(world.relayed(0).remote.ip(), world.hosts[1].outside);
    assert_eq!(world.allocations(), 1);
    let stages = world.stages(0, id, Strategy::Relay);
    let [
        Stage::Started,
        Stage::Allocated(at),
        Stage::Requested { brokers: 1 },
        Stage::PeerComes,
        Stage::Authenticated(from),
    ] = stages[..]
    else {
        panic!("{stages:?}")
    };
    assert_eq!((at, from), (relayed, world.relayed(0).remote));
    assert!(took <= 260 * MS, "{took:?}");
    // Both ways at once, more than a window of the handshake, and then each end by itself.
    let data: Vec<u8> = (0..300_000_u32).map(|n| (n * 7 + n / 256) as u8).collect();
    world.write(0, &data);
    world.write(1, &data[1..]);
    world.finish(0);
    world.run(5 * S);
    assert!(world.relayed(1).received == data && world.relayed(1).end && !world.relayed(0).end);
    assert!(world.relayed(0).delivered && !world.relayed(1).delivered);
    world.write(1, b"after the other's end");
    world.finish(1);
    world.run(S);
    assert!(world.relayed(0).received == [&data[1..], b"after the other's end"].concat());
    assert!(world.relayed(0).end);
    world.close_pipe(0);
    world.close_pipe(1);
    world.run(10 * S);
    assert_eq!(world.allocations(), 0, "released");
    assert_eq!([0, 1].map(|n| world.relayed(n).over), [None; 2]);
    for n in 0..2 {
        let trace = world.hosts[n].trace.lock().unwrap();
        let replayed = replay(&trace).unwrap_or_else(|why| panic!("{why}"));
        assert!(replayed.calls > 10 && replayed.actions > 300, "{replayed}");
    }
}

#[test]
fn ten_minutes_of_silence_harm_nothing() {
    let mut world = piped(2);
    world.run(Duration::from_secs(610));
    world.write(0, b"still");
    world.write(1, b"there");
    world.run(S);
    assert_eq!(
        (&world.relayed(1).received[..], &world.relayed(0).received[..]),
        (&b"still"[..], &b"there"[..])
    );
    assert_eq!(world.allocations(), 1);
}

#[test]
fn a_pipe_closed_without_an_end_is_cut_off_at_the_other() {
    let mut world = piped(3);
    world.write(0, b"and then");
    world.run(S);
    world.close_pipe(0);
    world.run(S);
    let pipe = world.relayed(1);
    assert_eq!(
        (&pipe.received[..], pipe.end, pipe.over),
        (&b"and then"[..], false, Some(PipeEnd::ClosedByPeer))
    );
    world.close_pipe(1);
    world.run(6 * S);
    assert_eq!(world.allocations(), 0);
}

#[test]
fn what_was_written_before_finish_and_close_arrives() {
    let mut world = piped(4);
    let data = vec![7; 200_000];
    world.write(0, &data);
    world.finish(0);
    world.close_pipe(0);
    world.run(5 * S);
    assert!(world.relayed(1).received == data && world.relayed(1).end);
    assert_eq!(world.allocations(), 0);
}

#[test]
fn messages_go_beside_a_pipe_each_once() {
    let mut world = piped(20);
    let sizes = [0, 1, 1_200, MAX_MESSAGE];
    let messages = |n: usize| sizes.map(|size| vec![size as u8 ^ n as u8; size]);
    for n in 0..2 {
        for message in messages(n) {
            assert_eq!(world.send_message(n, message), Ok(()));
        }
        assert_eq!(world.send_message(n, vec![0; MAX_MESSAGE + 1]), Err(MessageError::TooLong));
    }
    world.write(0, b"bytes");
    world.run(S);
    for n in 0..2 {
        let mut got = world.relayed(n).messages.clone();
        got.sort_by_key(|m| m.len());
        assert_eq!(got, messages(1 - n));
    }
    assert_eq!(&world.relayed(1).received[..], b"bytes");
    // There is no such pipe.
    let none = p2pd_core::PipeId::from_number(77);
    let now = world.now;
    let refused = world.hosts[0].node.pipe_send_message(now, none, vec![1].into());
    assert_eq!(refused, Err(MessageError::NotConnected));
    assert_eq!(world.hosts[0].node.pipe_read_message(now, none), None);
    // What was sent before the end arrives as what was written does, and behind it nothing is sent.
    world.send_message(0, "last").unwrap();
    world.finish(0);
    world.close_pipe(0);
    assert_eq!(world.send_message(0, "too late"), Err(MessageError::NotConnected));
    world.run(5 * S);
    assert_eq!(world.relayed(1).messages.last().map(|m| &m[..]), Some(&b"last"[..]));
    assert_eq!(world.relayed(1).over, Some(PipeEnd::ClosedByPeer));
    assert_eq!(world.send_message(1, "to nobody"), Err(MessageError::NotConnected));
    world.close_pipe(1);
    world.run(10 * S);
    assert_eq!(world.allocations(), 0);
    for n in 0..2 {
        let trace = world.hosts[n].trace.lock().unwrap();
        assert!(trace.contains(" pipe-send-message ") && trace.contains(" pipe-read-message "));
        replay(&trace).unwrap_or_else(|why| panic!("{why}"));
    }
}

#[test]
fn messages_that_nobody_reads_are_bounded_and_the_pipe_goes_on() {
    let mut world = piped(21);
    world.hosts[1].relayed[0].deaf = true;
    let mut sent = 0;
    for _ in 0..10 {
        loop {
            match world.send_message(0, vec![sent as u8; MAX_MESSAGE]) {
                Ok(()) => sent += 1,
                Err(why) => break assert_eq!(why, MessageError::Full),
            }
        }
        world.run(2 * S);
    }
    // Waiting at the sender, on the way, and waiting at the receiver.
    assert_eq!(sent, 3 * MAX_MESSAGES);
    world.write(0, &[7; 100_000]);
    world.run(2 * S);
    assert_eq!((world.relayed(1).received.len(), world.relayed(1).messages.len()), (100_000, 0));
    world.listen(1);
    world.run(10 * S);
    let mut got: Vec<u8> = world.relayed(1).messages.iter().map(|m| m[0]).collect();
    got.sort_unstable();
    assert_eq!(got, (0..sent as u8).collect::<Vec<u8>>());
    assert_eq!(world.send_message(0, "there is room"), Ok(()));
}

#[test]
fn both_calls_of_each_other_give_one_pipe() {
    for gap in [0, 5, 20, 40, 60, 80, 100] {
        let mut world = world(5);
        let a = world.connect(0, &world.address(1), relay(20));
        world.run(gap * MS);
        assert!(!world.is_over(0, a), "the calls overlap");
        let b = world.connect(1, &world.address(0), relay(20));
        world.run(15 * S);
        assert_eq!(
            (&world.relayed(0).answers[..], &world.relayed(1).answers[..]),
            (&[a][..], &[b][..]),
            "{gap}"
        );
        world.write(0, b"one");
        world.write(1, b"pipe");
        world.run(S);
        assert_eq!(
            (&world.relayed(1).received[..], &world.relayed(0).received[..]),
            (&b"one"[..], &b"pipe"[..])
        );
        assert_eq!(world.allocations(), 1, "the other is given up");
    }
}

#[test]
fn others_go_first_and_the_relay_follows_when_they_fail() {
    let mut world = world(6);
    let strategies = [Strategy::Direct, Strategy::Relay];
    let id = world.connect(0, &world.address(1), plan(&strategies, 20));
    let took = world.run_until(10 * S, |w| w.is_over(0, id));
    assert!(took >= 3 * S && took <= 4 * S, "{took:?}");
    world.run(S);
    assert_eq!(world.relayed(1).strategy, Strategy::Relay);
    // Who is reached directly needs no relay.
    let open = world.open(|_| {});
    world.run(S);
    let id = world.connect(0, &world.address(open), plan(&strategies, 20));
    let took = world.run_until(S, |w| w.is_over(0, id));
    assert!(took <= 100 * MS, "{took:?}");
    world.run(10 * S);
    assert_eq!(world.stages(0, id, Strategy::Relay), [], "its turn did not come");
}

#[test]
fn wrong_credentials_are_said() {
    let mut world = world(7);
    let n = world.behind_nat(|c| c.turn[0].auth = Credentials::new("alice", "sesame").into());
    world.run(S);
    let id = world.connect(n, &world.address(1), relay(20));
    let took = world.run_until(5 * S, |w| w.is_over(n, id));
    assert!(took <= 200 * MS, "{took:?}");
    let why = "turn0.test:3478 over UDP: the TURN server does not take the credentials";
    assert_eq!(world.failed(n, id), (FailReason::AllStrategiesFailed, Outcome::Failed, why));
}

#[test]
fn without_a_server_and_without_an_answer_it_is_said_so() {
    let mut world = world(8);
    let without = world.behind_nat(|c| c.turn.clear());
    world.run(S);
    let id = world.connect(without, &world.address(1), relay(20));
    let why = "no TURN server is configured";
    assert_eq!(world.failed(without, id), (FailReason::AllStrategiesFailed, Outcome::Skipped, why));
    world.hosts[1].frozen = true;
    let id = world.connect(0, &world.address(1), relay(20));
    world.run(21 * S);
    let why = "asked 4 time(s), the peer did not answer";
    assert_eq!(world.failed(0, id), (FailReason::DeadlinePassed, Outcome::Unfinished, why));
    world.run(6 * S);
    assert_eq!(world.allocations(), 0, "released");
    // The relay waits for the peer as long as the call.
    let id = world.connect(0, &world.address(1), relay(100));
    world.run(101 * S);
    let why = "asked 6 time(s), the peer did not answer";
    assert_eq!(world.failed(0, id), (FailReason::DeadlinePassed, Outcome::Unfinished, why));
}

#[test]
fn the_fastest_of_three_servers_is_kept_and_the_others_released() {
    let mut world = World::new(9);
    world.add_broker();
    world.add_stun();
    for _ in 0..3 {
        world.add_turn();
    }
    world.turns[0].up = false;
    world.behind_nat(|_| {});
    world.behind_nat(|c| c.turn.clear());
    world.run(S);
    let id = world.connect(0, &world.address(1), relay(20));
    world.run_until(2 * S, |w| w.is_over(0, id));
    world.run(5 * S);
    assert_eq!([1, 2].map(|n| world.turns[n].relays.len()), [1, 0]);
    assert_eq!(world.relayed(0).local.ip(), world.turns[1].at.ip());
}

#[test]
fn a_server_that_dies_ends_the_pipe_and_it_is_said() {
    let mut world = piped(10);
    world.turns[0].up = false;
    world.write(0, b"into the void");
    let took = world.run_until(45 * S, |w| (0..2).all(|n| w.relayed(n).over.is_some()));
    assert!(took >= 30 * S && took <= 41 * S, "{took:?}");
    assert_eq!([0, 1].map(|n| world.relayed(n).over), [Some(PipeEnd::Silent); 2]);
}

#[test]
fn a_stranger_is_not_served_where_it_is_not_accepted() {
    let mut world = world(11);
    let friend = world.id(0);
    let strict = world.behind_nat(|c| c.accept = Accept::Only([friend].into()));
    world.run(S);
    let id = world.connect(1, &world.address(strict), relay(20));
    world.run(5 * S);
    let why = Refusal::NotAccepted;
    let text = format!("the peer refused: {why}");
    let (reason, outcome, detail) = world.failed(1, id);
    assert_eq!((reason, outcome, detail), (FailReason::RefusedByPeer(why), Outcome::Failed, &text[..]));
    world.run(6 * S);
    assert_eq!((world.hosts[strict].relayed.len(), world.allocations()), (0, 0));
    // Whoever is on the list is.
    let id = world.connect(0, &world.address(strict), relay(20));
    world.run_until(2 * S, |w| w.is_over(0, id));
}

#[test]
fn the_user_is_asked_about_a_stranger_before_anything_is_sent() {
    for yes in [true, false] {
        let mut world = world(13);
        let asking = world.behind_nat(|c| c.accept = Accept::Ask);
        world.run(S);
        let id = world.connect(0, &world.address(asking), relay(20));
        world.run(2 * S);
        assert_eq!(world.asked(asking), [world.id(0)]);
        assert_eq!(world.hosts[asking].ways.len(), 0, "not a datagram to the relay");
        let asker = world.id(0);
        world.answer(asking, asker, yes);
        world.run(2 * S);
        assert_eq!(world.hosts[asking].relayed.len(), usize::from(yes));
        assert_eq!(world.failure(0, id).is_some(), !yes);
    }
}

#[test]
fn a_stranger_makes_us_send_three_datagrams_to_whom_it_named() {
    let mut world = world(14);
    let asked = world.behind_nat(|c| c.turn.clear());
    world.run(S);
    let id = world.connect(0, &world.address(asked), relay(60));
    // Its server lets nothing through to it from now on.
    world.run_until(S, |w| w.stages(0, id, Strategy::Relay).contains(&Stage::PeerComes));
    world.hosts[0].frozen = true;
    world.run(50 * S);
    assert_eq!((world.hosts[asked].relayed.len(), world.turns[0].from_peers), (0, 3));
}

#[test]
fn a_node_that_ends_ends_its_relayed_pipes_and_gives_the_allocation_up() {
    let mut world = piped(12);
    world.shutdown(0);
    world.run(S);
    assert_eq!(world.relayed(0).over, Some(PipeEnd::Shutdown));
    assert_eq!(world.relayed(1).over, Some(PipeEnd::ClosedByPeer));
    assert_eq!(world.allocations(), 0);
}

#[test]
fn a_peer_that_cannot_send_to_our_relay_comes_by_its_own() {
    let mut world = World::new(15);
    world.add_broker();
    world.add_stun();
    world.add_turn();
    world.add_turn();
    // Of the first server's ports the asked node reaches none, not even its relays.
    world.behind_nat(|c| c.turn.truncate(1));
    world.behind_nat(|c| drop(c.turn.remove(0)));
    world.hosts[1].unreachable = Some(world.turns[0].at.ip());
    world.run(S);
    let id = world.connect(0, &world.address(1), relay(20));
    let took = world.run_until(10 * S, |w| w.is_over(0, id));
    assert!(took >= 1500 * MS && took <= 3500 * MS, "{took:?}");
    world.run(S);
    assert_eq!([0, 1].map(|n| world.turns[n].relays.len()), [1, 1]);
    assert_eq!(world.relayed(0).remote, world.relayed(1).local);
    world.write(0, b"from relay");
    world.write(1, b"to relay");
    world.finish(0);
    world.finish(1);
    world.run(S);
    assert_eq!(
        (&world.relayed(1).received[..], &world.relayed(0).received[..]),
        (&b"from relay"[..], &b"to relay"[..])
    );
    world.close_pipe(0);
    world.close_pipe(1);
    world.run(6 * S);
    assert_eq!(world.allocations(), 0);
}
