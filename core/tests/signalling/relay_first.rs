//! Calls whose relay begins at once, beside the other strategies.

use p2pd_core::{PipeMode, Plan, Strategy};

use crate::common::view::relay_first;
use crate::common::{MS, Port, S, World};

const PUNCH: [Strategy; 1] = [Strategy::Punch];

/// Node 0 behind a NAT, node 1 not, and every server there is. Nobody can dial node 1.
fn world(seed: u8) -> World {
    let mut world = World::new(seed);
    world.add_broker();
    world.add_stun();
    world.add_turn();
    world.behind_nat(|_| {});
    world.open(|c| c.allow_plain = true);
    world.run(S);
    let listener = world.address(1).interfaces().map(|i| (i.external, i.port)).next().unwrap();
    world.ports.insert(listener.into(), Port::Refused);
    world
}

/// Calls 1 from 0 by this plan, and waits for the relayed pipe.
fn relayed_by(seed: u8, plan: Plan) -> World {
    let mut world = world(seed);
    let id = world.connect(0, &world.address(1), plan);
    let took = world.run_until(2 * S, |w| !w.hosts[0].relayed.is_empty() && !w.hosts[1].relayed.is_empty());
    assert!(took <= 270 * MS, "{took:?}");
    assert_eq!((&world.relayed(0).answers[..], world.relayed(1).answers.len()), (&[id][..], 0));
    world
}

#[test]
fn the_first_way_is_the_pipe_and_the_others_are_given_up() {
    for mode in [PipeMode::Encrypted, PipeMode::Plain] {
        let mut world = relayed_by(1, relay_first(&PUNCH, 20).mode(mode));
        // The way that opens now comes too late.
        world.ports.clear();
        world.run(30 * S);
        world.write(0, b"one way");
        world.run(S);
        assert_eq!((world.relayed(1).mode, &world.relayed(1).received[..]), (mode, &b"one way"[..]));
        assert_eq!([0, 1].map(|n| (world.hosts[n].pipes.len(), world.streams_of(n))), [(0, 0); 2]);
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
fn both_calls_of_each_other_give_one_relayed_pipe() {
    for gap in [0, 5, 20, 40, 60, 80, 100] {
        let mut world = world(10);
        let a = world.connect(0, &world.address(1), relay_first(&PUNCH, 20));
        world.run(gap * MS);
        assert!(!world.is_over(0, a), "the calls overlap");
        let b = world.connect(1, &world.address(0), relay_first(&PUNCH, 20));
        world.run_until(3 * S, |w| w.is_over(0, a) && w.is_over(1, b));
        world.run(15 * S);
        let answers = [0, 1].map(|n| world.relayed(n).answers.clone());
        assert_eq!(answers, [vec![a], vec![b]], "{gap}");
        assert_eq!(world.allocations(), 1, "the other is given up");
        assert_eq!([0, 1].map(|n| world.hosts[n].pipes.len()), [0; 2], "{gap}");
    }
}
