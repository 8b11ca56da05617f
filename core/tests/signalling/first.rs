//! First data on a new pipe: when each end has it, and when the caller's first byte comes back.

use p2pd_core::{PipeMode, Stage, Strategy};

use crate::common::view::plan;
use crate::common::{End, LATENCY, MS, S, World};

/// Two open nodes that know each other's brokers, the caller and the listener. With `low` the caller has the lower id.
fn world(low: bool) -> (World, [usize; 2]) {
    let mut world = World::new(1);
    world.add_broker();
    for _ in 0..2 {
        world.open(|c| c.allow_plain = true);
    }
    world.run(S);
    let ends = if (world.id(0) < world.id(1)) == low { [0, 1] } else { [1, 0] };
    (world, ends)
}

/// Calls, and has the listener send back the first byte that it gets. Returns the times after the call in milliseconds: the
/// caller has its pipe, the listener has its own, and the byte is back.
fn first(low: bool, by: Strategy, mode: PipeMode) -> [u128; 3] {
    let (mut world, [from, to]) = world(low);
    let begun = world.now;
    let id = world.connect(from, &world.address(to), plan(&[by], 20).mode(mode));
    world.run_until(S, |w| !w.hosts[from].pipes.is_empty());
    let caller = End::Node(from, world.pipe(from).sock);
    world.send(caller, b"!".to_vec());
    world.run_until(S, |w| !w.hosts[to].pipes.is_empty());
    let listener = End::Node(to, world.pipe(to).sock);
    world.run_until(S, |w| w.arrived(listener) == b"!");
    world.send(listener, b"?".to_vec());
    world.run_until(S, |w| w.arrived(caller) == b"?");
    let back = world.now;
    world.run(S);
    world.assert_piped(from, id, to, &[]);
    assert_eq!(
        (world.arrived(caller), world.arrived(listener)),
        (b"?".to_vec(), b"!".to_vec()),
        "no frame is left"
    );
    [world.pipe(from).at, world.pipe(to).at, back].map(|at| at.since(begun).as_millis())
}

/// The round trip is 20 ms. A request takes one to the listener, over the broker, and the mappings of a punch another.
#[test]
fn a_caller_has_its_pipe_after_two_round_trips_and_its_first_byte_back_after_three_whatever_its_id() {
    assert_eq!(LATENCY, 10 * MS);
    for mode in [PipeMode::Encrypted, PipeMode::Plain] {
        for low in [true, false] {
            assert_eq!(first(low, Strategy::Direct, mode), [40, 50, 60], "{mode:?}, lower id {low}");
            // The listener dials, and the caller answers.
            let listener = if low { 60 } else { 80 };
            assert_eq!(first(low, Strategy::Reverse, mode), [70, listener, 90], "{mode:?}, lower id {low}");
            // The listener's SYN leaves 45 ms after the call, as its answer should be there, and the caller begins the hello.
            assert_eq!(first(low, Strategy::Punch, mode), [75, 85, 95], "{mode:?}, lower id {low}");
        }
    }
}

/// A listener that calls the caller too, or is busy, has something to say. So it lets nobody commit.
#[test]
fn a_busy_listener_is_waited_for_and_says_so() {
    for (low, took) in [(true, 60), (false, 40)] {
        let (mut world, [from, to]) = world(low);
        world.set_busy(to, true);
        let id = world.connect(from, &world.address(to), plan(&[Strategy::Direct], 20));
        assert_eq!(world.run_until(S, |w| w.is_over(from, id)), took * MS);
        world.run(S);
        world.assert_piped(from, id, to, &[]);
        assert!(world.stages(from, id, Strategy::Direct).contains(&Stage::PeerBusy));
    }
}
