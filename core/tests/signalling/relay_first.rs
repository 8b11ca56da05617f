//! Pipes that open over a relay and move to a direct path, and back.

use p2pd_core::io::Interface;
use p2pd_core::relay::MessageError;
use p2pd_core::trace::replay;
use p2pd_core::{Event, FailReason, Input, Outcome, PipeEnd, PipeMode, Plan, Strategy};

use crate::common::view::relay_first;
use crate::common::{MS, Port, S, World};

const PUNCH: [Strategy; 1] = [Strategy::Punch];

/// Node 0 behind a NAT, node 1 not, and every server there is. Nobody can dial node 1 yet.
fn world(seed: u8) -> World {
    let mut world = World::new(seed);
    world.add_broker();
    world.add_stun();
    world.add_turn();
    world.tracing = true;
    world.behind_nat(|_| {});
    world.open(|c| c.allow_plain = true);
    world.run(S);
    let listener = world.address(1).interfaces().map(|i| (i.external, i.port)).next().unwrap();
    world.ports.insert(listener.into(), Port::Refused);
    world
}

/// Opens a pipe from 0 to 1 over the relay, while node 0 punches without success.
fn piped_by(seed: u8, plan: Plan) -> World {
    let mut world = world(seed);
    let id = world.connect(0, &world.address(1), plan);
    let took = world.run_until(2 * S, |w| !w.hosts[0].relayed.is_empty() && !w.hosts[1].relayed.is_empty());
    assert!(took <= 270 * MS, "{took:?}");
    assert_eq!((&world.relayed(0).answers[..], world.relayed(1).answers.len()), (&[id][..], 0));
    world
}

fn piped(seed: u8) -> World {
    piped_by(seed, relay_first(&PUNCH, 20))
}

/// Node 1 can be dialled from now on, and the pipe moves.
fn moves(world: &mut World) {
    world.ports.clear();
    world.run_until(10 * S, |w| (0..2).all(|n| !w.moves(n).is_empty()));
    assert_eq!([0, 1].map(|n| strategies(world, n)), [PUNCH; 2]);
    // What the relay still has of it arrives, and is dropped.
    world.run(S);
}

fn strategies(world: &World, n: usize) -> Vec<Strategy> {
    world.moves(n).into_iter().map(|(_, by)| by).collect()
}

fn content(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|n| (n as u8).wrapping_mul(31).wrapping_add((n >> 8) as u8).wrapping_add(seed)).collect()
}

fn stays(world: &World, n: usize) -> Vec<(FailReason, Vec<Outcome>)> {
    let events = world.hosts[n].events.iter();
    let told = events.filter_map(|(_, event)| match event {
        Event::StaysRelayed { reason, report, .. } => {
            Some((*reason, report.strategies.iter().map(|s| s.outcome).collect()))
        }
        _ => None,
    });
    told.collect()
}

/// Another way out is no reason to give the session up that the pipe waits in for a better way.
#[test]
fn a_pipe_that_has_its_relay_keeps_its_session_while_our_network_changes() {
    let mut world = piped_by(11, relay_first(&[Strategy::Direct, Strategy::Punch], 20));
    world.run(S);
    world.ports.clear();
    let old = Interface::new(2, world.hosts[0].inside, 32);
    let new = Interface { default_route: true, ..Interface::new(3, [192, 168, 60, 2].into(), 32) };
    world.tell(0, Input::Interfaces(&[new, old]));
    world.run_until(10 * S, |w| (0..2).all(|n| !w.moves(n).is_empty()));
    assert_eq!([0, 1].map(|n| world.hosts[n].pipes.len() + world.hosts[n].relayed.len()), [1, 1]);
}

#[test]
fn a_pipe_moves_to_the_direct_path_while_bytes_flow_and_back_when_that_breaks() {
    let mut world = piped(1);
    let (there, back) = (content(1, 1_200_000), content(2, 900_000));
    world.write(0, &there[..300_000]);
    world.write(1, &back[..300_000]);
    assert_eq!([0, 1].map(|n| strategies(&world, n)), [vec![], vec![]], "nothing answers yet");
    moves(&mut world);
    let relayed = world.turns[0].from_peers;
    world.write(0, &there[300_000..600_000]);
    world.write(1, &back[300_000..600_000]);
    world.run(2 * S);
    assert!(world.relayed(1).received == there[..600_000] && world.relayed(0).received == back[..600_000]);
    assert!(world.turns[0].from_peers - relayed < 10, "the relay is kept alive and carries nothing");
    world.break_streams();
    world.write(0, &there[600_000..]);
    world.write(1, &back[600_000..]);
    world.finish(0);
    world.finish(1);
    world.run(5 * S);
    for n in 0..2 {
        assert_eq!(strategies(&world, n), [Strategy::Punch, Strategy::Relay]);
        assert!(world.relayed(n).end && world.relayed(n).delivered && world.relayed(n).over.is_none());
    }
    assert!(world.relayed(1).received == there && world.relayed(0).received == back);
    assert_eq!(world.allocations(), 1);
    world.close_pipe(0);
    world.close_pipe(1);
    world.run(10 * S);
    assert_eq!((world.allocations(), world.streams_of(0), world.streams_of(1)), (0, 0, 0));
    for n in 0..2 {
        let trace = world.hosts[n].trace.lock().unwrap();
        replay(&trace).unwrap_or_else(|why| panic!("{why}"));
    }
}

#[test]
fn a_direct_path_that_goes_silent_is_left_within_ten_seconds() {
    let mut world = piped(2);
    moves(&mut world);
    world.write(0, b"before");
    world.run(S);
    world.cut = true;
    let data = content(3, 200_000);
    world.write(0, &data);
    world.write(1, &data);
    let took = world.run_until(12 * S, |w| (0..2).all(|n| w.relayed(n).received.len() >= data.len()));
    assert!(took >= 5 * S && took <= 11 * S, "{took:?}");
    assert!(
        world.relayed(1).received == [&b"before"[..], &data].concat() && world.relayed(0).received == data
    );
    assert_eq!([0, 1].map(|n| strategies(&world, n)), [[Strategy::Punch, Strategy::Relay]; 2]);
}

#[test]
fn a_direct_path_that_changes_bytes_is_left_at_once() {
    let mut world = piped(12);
    moves(&mut world);
    world.bent = true;
    let data = content(5, 100_000);
    world.write(0, &data);
    world.run(S);
    assert!(world.relayed(1).received == data);
    assert_eq!([0, 1].map(|n| strategies(&world, n)), [[Strategy::Punch, Strategy::Relay]; 2]);
}

#[test]
fn without_the_relay_the_direct_path_is_enough_and_without_both_the_pipe_ends() {
    let mut world = piped(3);
    moves(&mut world);
    world.turns[0].up = false;
    world.run(60 * S);
    world.write(0, b"without");
    world.write(1, b"a relay");
    world.run(S);
    assert_eq!(
        (&world.relayed(1).received[..], &world.relayed(0).received[..]),
        (&b"without"[..], &b"a relay"[..])
    );
    world.break_streams();
    world.run(S);
    assert_eq!([0, 1].map(|n| world.relayed(n).over), [Some(PipeEnd::NoPath); 2]);
    world.close_pipe(0);
    world.close_pipe(1);
}

#[test]
fn messages_stay_with_the_relay_of_a_pipe_that_moves_and_end_with_it() {
    let mut world = piped(30);
    for n in 0..2 {
        world.send_message(n, "before").unwrap();
    }
    moves(&mut world);
    for n in 0..2 {
        world.send_message(n, "meanwhile").unwrap();
    }
    world.run(S);
    for n in 0..2 {
        assert_eq!(world.relayed(n).messages, ["before", "meanwhile"]);
    }
    world.turns[0].up = false;
    let took = world.run_until(60 * S, |w| (0..2).all(|n| w.relayed(n).messages_over.is_some()));
    assert!(took >= 20 * S, "{took:?}");
    for n in 0..2 {
        assert_eq!(world.relayed(n).messages_over, Some(PipeEnd::Silent));
        assert_eq!(world.send_message(n, "without it"), Err(MessageError::NotConnected));
    }
    world.write(0, b"bytes go on");
    world.finish(0);
    world.run(S);
    assert_eq!((&world.relayed(1).received[..], world.relayed(1).end), (&b"bytes go on"[..], true));
    assert_eq!(world.relayed(1).over, None);
    world.close_pipe(0);
    world.run(S);
    assert_eq!(world.relayed(1).over, Some(PipeEnd::ClosedByPeer));
    for n in 0..2 {
        let trace = world.hosts[n].trace.lock().unwrap();
        replay(&trace).unwrap_or_else(|why| panic!("{why}"));
    }
}

#[test]
fn messages_of_a_pipe_that_has_moved_arrive_before_it_is_left() {
    let mut world = piped(31);
    moves(&mut world);
    world.write(0, b"bytes");
    world.send_message(0, vec![9; 16_384]).unwrap();
    world.finish(0);
    world.close_pipe(0);
    world.run(5 * S);
    let pipe = world.relayed(1);
    assert_eq!((&pipe.received[..], pipe.end, pipe.messages.len()), (&b"bytes"[..], true, 1));
    assert_eq!(pipe.over, Some(PipeEnd::ClosedByPeer));
}

#[test]
fn a_relay_that_goes_before_there_is_another_path_ends_the_pipe_when_none_comes() {
    let mut world = piped(4);
    world.turns[0].up = false;
    let took = world.run_until(100 * S, |w| (0..2).all(|n| w.relayed(n).over.is_some()));
    assert!(took >= 30 * S && took <= 72 * S, "{took:?}");
    assert_eq!([0, 1].map(|n| world.relayed(n).over), [Some(PipeEnd::Silent); 2]);
}

#[test]
fn either_end_closes_the_pipe_on_whichever_path_it_is() {
    for (closes, moved, finished) in [
        (0, false, false),
        (1, false, true),
        (0, true, false),
        (1, true, false),
        (0, true, true),
        (1, true, true),
    ] {
        let mut world = piped(5);
        if moved {
            moves(&mut world);
        }
        let data = content(4, 150_000);
        world.write(closes, &data);
        if finished {
            world.finish(closes);
        } else {
            world.run(2 * S);
        }
        world.close_pipe(closes);
        world.run(3 * S);
        let other = world.relayed(1 - closes);
        assert!(other.received == data, "{closes} {moved} {finished}: {} bytes", other.received.len());
        assert_eq!((other.end, other.over), (finished, Some(PipeEnd::ClosedByPeer)), "{closes} {moved}");
        world.close_pipe(1 - closes);
        world.ports.clear();
        world.run(30 * S);
        let left =
            (world.allocations(), world.streams_of(0), world.streams_of(1), world.hosts[0].relayed.len());
        assert_eq!(left, (0, 0, 0, 1), "{closes} {moved} {finished}");
        assert_eq!(strategies(&world, 0).len(), usize::from(moved), "nothing is looked for after the end");
    }
}

#[test]
fn a_direct_path_that_is_there_first_is_an_ordinary_pipe() {
    let mut world = world(6);
    world.ports.clear();
    let id = world.connect(0, &world.address(1), relay_first(&[Strategy::Direct], 20));
    world.run(10 * S);
    world.assert_piped(0, id, 1, &[]);
    assert_eq!((world.allocations(), world.hosts[0].relayed.len()), (0, 0));
}

#[test]
fn what_finds_no_better_path_says_so_and_stays() {
    let mut world = piped_by(7, relay_first(&PUNCH, 15));
    world.run(16 * S);
    let [(reason, outcomes)] = &stays(&world, 0)[..] else { panic!("{:?}", stays(&world, 0)) };
    assert!(matches!(reason, FailReason::DeadlinePassed | FailReason::AllStrategiesFailed), "{reason}");
    assert!(outcomes[0] != Outcome::Won && outcomes[1] == Outcome::Won, "{outcomes:?}");
    assert_eq!(stays(&world, 1), []);
    // Nothing moves it later.
    world.ports.clear();
    world.run(30 * S);
    world.write(0, b"still there");
    world.run(S);
    assert_eq!(world.relayed(1).received, b"still there");
    assert_eq!(strategies(&world, 0), []);
    // The relay alone is a plan too.
    let mut world = piped_by(8, relay_first(&[], 15));
    world.run(S);
    assert_eq!(stays(&world, 0), [(FailReason::AllStrategiesFailed, vec![Outcome::Won])]);
}

#[test]
fn a_plain_pipe_moves_as_well_and_is_sealed_on_both_paths() {
    let mut world = piped_by(9, relay_first(&PUNCH, 20).mode(PipeMode::Plain));
    assert_eq!([0, 1].map(|n| world.relayed(n).mode), [PipeMode::Plain; 2]);
    moves(&mut world);
    let secret = b"nobody on the path reads this";
    world.write(0, secret);
    world.run(S);
    assert_eq!(world.relayed(1).received, secret);
    let words: Vec<String> = secret.iter().map(|b| format!("{b:02x}")).collect();
    let wire = world.hosts[1].trace.lock().unwrap();
    let streams = wire.lines().filter(|l| l.starts_with("event ") && l.contains(" stream "));
    assert!(!streams.clone().any(|l| l.contains(&words.concat())) && streams.count() > 5);
}

#[test]
fn both_calls_of_each_other_give_one_pipe_that_moves() {
    for gap in [0, 5, 20, 40, 60, 80, 100] {
        let mut world = world(10);
        let a = world.connect(0, &world.address(1), relay_first(&PUNCH, 20));
        world.run(gap * MS);
        assert!(!world.is_over(0, a), "the calls overlap");
        let b = world.connect(1, &world.address(0), relay_first(&PUNCH, 20));
        world.run_until(3 * S, |w| w.is_over(0, a) && w.is_over(1, b));
        world.ports.clear();
        world.run(15 * S);
        let answers = [0, 1].map(|n| world.relayed(n).answers.clone());
        assert_eq!(answers, [vec![a], vec![b]], "{gap}");
        world.write(0, b"one");
        world.write(1, b"pipe");
        world.run(S);
        assert_eq!(
            (&world.relayed(1).received[..], &world.relayed(0).received[..]),
            (&b"one"[..], &b"pipe"[..])
        );
        assert_eq!(world.allocations(), 1, "the other is given up");
        assert_eq!([0, 1].map(|n| world.hosts[n].pipes.len()), [0; 2], "{gap}");
    }
}

#[test]
fn a_node_that_ends_ends_a_pipe_that_has_moved() {
    let mut world = piped(11);
    moves(&mut world);
    world.shutdown(0);
    world.run(S);
    assert_eq!(world.relayed(0).over, Some(PipeEnd::Shutdown));
    assert_eq!(world.relayed(1).over, Some(PipeEnd::ClosedByPeer));
    assert_eq!(world.allocations(), 0);
}
