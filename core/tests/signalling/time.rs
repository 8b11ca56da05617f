//! Use of time servers: a node whose clock is wrong.

use std::time::Duration;

use crate::common::view::reverse;
use crate::common::{LATENCY, MS, S, SLOW, World, key};
use p2pd_core::{Event, Instant, Name, NameNews, NtpServer};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A broker, so many time servers, and two hosts, both listening.
fn world(servers: usize, bend: impl FnOnce(&mut World)) -> World {
    let mut world = World::new(15);
    world.add_broker();
    for _ in 0..servers {
        world.add_ntp();
    }
    bend(&mut world);
    world.open(|_| {});
    world.open(|_| {});
    world
}

/// Returns the events of a node on its clock: its lead, in whole seconds.
fn told(world: &World, n: usize) -> Vec<i64> {
    let ahead = |(_, event): &(_, Event)| match event {
        Event::Clock { ahead, error } => {
            // Half the round trip, a little for the server's own error and for the drift until the burst's end.
            assert!(*error >= LATENCY && *error < LATENCY + 2 * MS, "{error:?}");
            Some((*ahead + 500_000).div_euclid(1_000_000))
        }
        _ => None,
    };
    world.hosts[n].events.iter().filter_map(ahead).collect()
}

fn name() -> Name {
    "example".parse().unwrap()
}

fn asked(world: &World) -> Vec<u32> {
    world.ntps.iter().map(|s| s.asked).collect()
}

#[test]
fn a_clock_that_is_right_is_left_alone_and_the_servers_are_asked_again_a_day_later() {
    let mut world = world(3, |_| {});
    world.run(10 * S);
    // Each node sends each a burst of four.
    assert_eq!((told(&world, 0), asked(&world)), (vec![0], vec![8; 3]));
    world.run(DAY - 60 * S);
    assert_eq!(asked(&world), [8; 3]);
    world.run(80 * S);
    assert_eq!((told(&world, 0), asked(&world)), (vec![0, 0], vec![16; 3]));
}

#[test]
fn three_silent_addresses_of_four_keep_nobody_waiting_for_the_time() {
    let mut world = world(2, |w| {
        for (n, ntp) in w.ntps.iter_mut().enumerate() {
            ntp.config.host = format!("ntp{n}.test").into();
            let silent = (201..204).map(|n| [203, 0, 113, n].into()).collect();
            w.silent.insert(ntp.config.host.to_string(), silent);
        }
    });
    world.set_clock(0, DAY, false);
    let took = world.run_until(2 * S, |w| w.ntps.iter().all(|s| s.asked >= 2));
    assert!(took <= S, "{took:?}");
    world.run(10 * S);
    assert_eq!(told(&world, 0), [-86_400]);
    // The one that worked is the first a day later.
    let silent = |w: &World| w.log.matches("to: 203.0.113.20").count();
    let before = silent(&world);
    world.run(DAY + 10 * S);
    assert_eq!((told(&world, 0).len(), silent(&world)), (2, before));
}

#[test]
fn a_call_from_a_clock_that_is_a_day_off_needs_no_answer_that_corrects_it() {
    for (servers, requests, ahead) in [(3, 1, vec![-86_400]), (0, 2, vec![])] {
        let mut world = world(servers, |_| {});
        world.set_clock(0, DAY, false);
        world.run(10 * S);
        assert_eq!(told(&world, 0), ahead);
        let id = world.connect(0, &world.address(1), reverse(20));
        world.run(S);
        world.assert_piped(0, id, 1, &[]);
        // The first is its own echo.
        assert_eq!(world.published_to(1).len() - 1, requests);
    }
}

#[test]
fn names_are_registered_and_found_by_whom_the_servers_put_right() {
    for (servers, wrong, found) in [(0, 0, false), (0, 1, false), (1, 0, true), (1, 1, true), (3, 0, true)] {
        for ahead in [true, false] {
            let mut world = world(servers, |_| {});
            world.set_clock(wrong, 30 * DAY, ahead);
            world.run(S);
            world.ask(0, |node, now| node.register(now, name())).unwrap();
            world.run(3 * S);
            assert_eq!(
                world.resolve(1, name()).is_ok(),
                found,
                "{servers} servers, host {wrong}, ahead: {ahead}"
            );
        }
    }
}

#[test]
fn what_was_begun_before_the_servers_answered_waits_for_them() {
    let mut world = world(0, |_| {});
    world.run(S);
    world.ask(0, |node, now| node.register(now, name())).unwrap();
    world.run(3 * S);
    // One that starts, and is in a hurry.
    world.add_ntp();
    let late = world.open(|_| {});
    world.set_clock(late, 30 * DAY, true);
    assert!(world.resolve(late, name()).is_ok());
}

#[test]
fn one_of_three_that_lies_is_outvoted_and_two_that_contradict_each_other_are_not_believed() {
    let mut world = world(3, |w| w.ntps[1].ahead = 30 * DAY);
    world.run(10 * S);
    assert_eq!(told(&world, 0), [0]);
    let mut world = self::world(2, |w| w.ntps[1].ahead = 30 * DAY);
    world.run(10 * S);
    assert_eq!(told(&world, 0), [0; 0]);
    // They are asked again after a quarter of an hour.
    world.run(15 * 60 * S + 10 * S);
    assert_eq!(asked(&world), [16; 2]);
}

#[test]
fn a_clock_that_is_set_is_looked_after_but_not_at_every_turn() {
    let mut world = world(1, |_| {});
    world.run(100 * S);
    for ahead in [true, false, true, false] {
        world.set_clock(0, DAY, ahead);
        world.run(S);
    }
    world.set_clock(0, DAY, true);
    // The burst begins anew each time, the last of them is whole.
    let before = asked(&world)[0];
    world.run(10 * S);
    assert_eq!((told(&world, 0), asked(&world)[0] - before), (vec![0, 86_400], 3));
    // A minute after the first of these the servers may be asked again.
    world.set_clock(0, 2 * DAY, true);
    world.run(40 * S);
    assert_eq!(asked(&world)[0] - before, 3);
    world.run(20 * S);
    assert_eq!((told(&world, 0), asked(&world)[0] - before), (vec![0, 86_400, 172_800], 7));
}

#[test]
fn servers_that_do_not_answer_keep_nobody_waiting() {
    let ready =
        |w: &World| w.hosts.iter().all(|h| h.events.iter().any(|(_, n)| matches!(n, Event::Ready { .. })));
    let took = [0, 1].map(|servers| {
        let mut world = world(servers, |w| w.ntps.iter_mut().for_each(|s| s.silent = true));
        world.run_until(5 * S, ready)
    });
    assert_eq!(took[0], took[1]);
}

#[test]
fn a_node_that_ends_while_it_asks_closes_its_sockets() {
    let mut world = world(1, |w| w.ntps[0].silent = true);
    world.run(S);
    world.shutdown(0);
    assert_eq!(world.hosts[0].events.last().unwrap().1, Event::Closed);
    world.set_clock(0, DAY, true);
    assert_eq!(world.hosts[0].node.poll_timeout(), None);
    world.run(20 * S);
}

/// Returns the time at which a node was told that it has the name.
fn registered(world: &World, n: usize) -> Option<Instant> {
    let registered = |(at, event): &(Instant, Event)| match event {
        Event::Name { news, .. } if matches!(**news, NameNews::Registered { .. }) => Some(*at),
        _ => None,
    };
    world.hosts[n].events.iter().find_map(registered)
}

#[test]
fn a_name_is_registered_though_the_time_servers_are_not_found() {
    for names in [1, 2] {
        let mut world = World::new(15);
        world.add_broker();
        let server = |n| NtpServer { host: format!("{n}{SLOW}").into(), port: 123 };
        world.open(|c| c.ntp = (0..names).map(server).collect());
        world.ask(0, |node, now| node.register(now, name())).unwrap();
        world.run(20 * S);
        let at = registered(&world, 0).expect("in time").since(Instant::ZERO);
        assert!(at > 2 * S && at < 2 * S + 10 * LATENCY, "{at:?}");
    }
}

#[test]
fn a_record_that_is_due_while_the_time_is_asked_for_waits_without_haste() {
    let mut world = world(1, |w| w.ntps[0].silent = true);
    world.ask(0, |node, now| node.register(now, name())).unwrap();
    world.run(10 * S);
    let published = registered(&world, 0).unwrap();
    // An hour later it is published anew. A moment before, the clock is set.
    let due = published.since(Instant::ZERO) + Duration::from_secs(3600);
    let now = world.now.since(Instant::ZERO);
    world.run(due - now - S);
    world.set_clock(0, DAY, true);
    world.run(10 * S);
    assert!(registered(&world, 0).is_some());
}

#[test]
fn a_name_is_kept_though_no_broker_is_there_when_the_clock_is_put_right() {
    let mut world = world(1, |_| {});
    world.ask(0, |node, now| node.register(now, name())).unwrap();
    world.run(100 * S);
    assert!(registered(&world, 0).is_some());
    let records = |w: &World| w.brokers[0].kept.get(&name().topic()).cloned();
    let first = records(&world).unwrap();
    world.kill_broker(0);
    world.run(S);
    world.set_clock(0, DAY, true);
    world.run(10 * S);
    assert_eq!(told(&world, 0), [0, 86_400]);
    // It comes back without what it had.
    world.brokers[0].kept.clear();
    world.brokers[0].up = true;
    world.run(600 * S);
    let second = records(&world).expect("published anew");
    assert_ne!(first, second);
    assert!(world.resolve(1, name()).is_ok());
}

#[test]
fn a_record_of_ours_from_another_time_is_outnumbered() {
    // Two whose clocks are a month ahead: one registers, the other resolves, and remembers the number.
    let mut world = world(0, |_| {});
    for n in [0, 1] {
        world.set_clock(n, 30 * DAY, true);
    }
    world.ask(0, |node, now| node.register(now, name())).unwrap();
    world.run(10 * S);
    assert!(world.resolve(1, name()).is_ok());
    world.shutdown(0);
    world.set_clock(1, Duration::ZERO, true);
    // The first one again, with its key alone and the right time.
    let again = world.open(|c| c.identity = key(0));
    world.ask(again, |node, now| node.register(now, name())).unwrap();
    world.run(10 * S);
    assert!(registered(&world, again).is_some());
    world.hosts[1].events.clear();
    assert!(world.resolve(1, name()).is_ok());
}
