//! Round trips by brokers.

use p2pd_core::{Accept, ConnectError, Event};

use crate::common::{LATENCY, S, World, key};

/// The answers that a node heard: number, broker and round trip.
fn pongs(world: &World, n: usize) -> Vec<(u32, u16, std::time::Duration)> {
    let said = world.hosts[n].events.iter().filter_map(|(_, event)| match event {
        Event::Pong { number, broker, took, .. } => Some((*number, *broker, *took)),
        _ => None,
    });
    said.collect()
}

#[test]
fn a_peer_answers_an_echo_once_by_the_first_broker() {
    let mut world = World::new(1);
    let ids = [0, 1].map(|_| world.add_broker()).map(|n| world.brokers[n].config.id);
    world.behind_nat(|c| c.accept = Accept::Only([key(1).node_id()].into()));
    world.behind_nat(|_| {});
    world.run(S);
    for number in 0..20 {
        let to = world.address(0);
        assert_eq!(world.ask(1, |node, now| node.ping(now, &to, number)), Ok(2));
        world.run(S);
    }
    let answers = pongs(&world, 1);
    assert_eq!(answers.iter().map(|(number, ..)| *number).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    assert!(
        answers.iter().all(|(_, broker, took)| ids.contains(broker) && *took == 4 * LATENCY),
        "{answers:?}"
    );
    // Oneself answers too, and is not taken for another process.
    let own = world.address(1);
    assert_eq!(world.ask(1, |node, now| node.ping(now, &own, 99)), Ok(2));
    world.run(S);
    assert_eq!(pongs(&world, 1).last().map(|(number, _, took)| (*number, *took)), Some((99, 2 * LATENCY)));
    assert!(!world.hosts[1].events.iter().any(|(_, event)| matches!(event, Event::IdentityInUse)));
    // Without a common broker nobody is asked.
    let alone = format!("None-0-0-{}", key(0).node_id()).parse().unwrap();
    assert_eq!(world.ask(1, |node, now| node.ping(now, &alone, 5)), Ok(0));
    let nobody = "None-0-0-x".parse().unwrap();
    assert!(matches!(world.ask(1, |node, now| node.ping(now, &nobody, 5)), Err(ConnectError::NodeId(_))));
    world.shutdown(1);
    assert_eq!(world.ask(1, |node, now| node.ping(now, &own, 5)), Err(ConnectError::Shutdown));
}
