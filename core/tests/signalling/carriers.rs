//! Calls for carriers of sessions, and listeners whose programs serve sessions or not.

use crate::common::udp::Nat;
use crate::common::view::plan;
use crate::common::{S, World};
use p2pd_core::{FailReason, PipeMode, Refusal, Strategy};

/// Two nodes behind NATs with all servers, the second of which allows sessions or not.
fn world(sessions: bool) -> World {
    let mut world = World::new(5);
    world.add_broker();
    world.add_stun();
    world.add_turn();
    world.open(|_| {});
    world.open(|c| c.sessions = sessions);
    world.set_udp([Nat::Kept, Nat::Kept]);
    world.run(S);
    world
}

/// Modes of the pipes at both ends.
fn modes(world: &World) -> [Vec<PipeMode>; 2] {
    [0, 1].map(|n| {
        let host = &world.hosts[n];
        host.pipes.iter().map(|p| p.mode).chain(host.relayed.iter().map(|p| p.mode)).collect()
    })
}

#[test]
fn a_carrier_is_told_from_a_pipe_at_both_ends_by_each_strategy() {
    for by in Strategy::ALL {
        for mode in [PipeMode::Session, PipeMode::Encrypted] {
            let mut world = world(true);
            let to = world.address(1);
            world.connect(0, &to, plan(&[by], 20).mode(mode));
            world.run(20 * S);
            assert_eq!(modes(&world), [vec![mode], vec![mode]], "{by}");
        }
    }
}

#[test]
fn a_program_that_serves_no_sessions_refuses_them_alone() {
    for by in [Strategy::Direct, Strategy::Reverse] {
        let mut world = world(false);
        let to = world.address(1);
        let refused = world.connect(0, &to, plan(&[by], 20).mode(PipeMode::Session));
        world.run(20 * S);
        let why = FailReason::RefusedByPeer(Refusal::NoSessions);
        assert_eq!(world.failed(0, refused).0, why, "{by}");
        world.connect(0, &to, plan(&[by], 20));
        world.run(20 * S);
        assert_eq!(modes(&world), [vec![PipeMode::Encrypted], vec![PipeMode::Encrypted]], "{by}");
    }
}
