//! Hosts that have IPv6 only, behind a NAT64, and hosts and servers that have IPv4 only.

use std::net::IpAddr;

use p2pd_core::io::Interface;
use p2pd_core::{Input, IoFailure, QueryId, Strategy};

use crate::common::nat64::{Names, interface};
use crate::common::view::{direct, relay, reverse};
use crate::common::{LATENCY, MS, S, World};

/// A broker, a STUN server and a TURN server with IPv4 only.
fn servers() -> World {
    let mut world = World::new(7);
    world.add_broker();
    world.add_stun();
    world.add_turn();
    world
}

/// Look-ups of the prefix that a host has asked for.
fn looked_up(world: &World, n: usize) -> usize {
    let asked = format!(" {n} > Resolve");
    world.log.lines().filter(|line| line.contains(&asked) && line.contains("ipv4only.arpa")).count()
}

/// The look-up of the prefix that is under way.
fn looked_up_by(world: &World, n: usize) -> QueryId {
    let asked = format!(" {n} > Resolve {{ query: q");
    let name = |line: &&str| line.contains(&asked) && line.contains("ipv4only.arpa");
    let line = world.log.lines().find(name).unwrap();
    let digits = line.split(&asked).nth(1).unwrap().split(',').next().unwrap();
    QueryId::from_number(digits.parse().unwrap())
}

#[test]
fn an_ipv6_only_host_calls_and_is_called_through_its_nat64_whatever_its_name_server_is() {
    for names in [Names::Dns64, Names::Plain] {
        let mut world = servers();
        let six = world.behind_nat64(names, |c| c.survey = false);
        let four = world.open(|c| c.survey = false);
        world.run(S);
        assert_eq!(looked_up(&world, six), 1);
        // What the NAT64 is seen as, and nothing inside.
        let address = world.address(six);
        let [v4] = address.v4() else { panic!("{address}") };
        let seen: IpAddr = [203, 0, 113, 1].into();
        assert_eq!((v4.external, v4.internal, v4.port), (seen, seen, 4000), "{names:?}");
        assert_eq!(address.v6().len(), 1);

        let id = world.connect(six, &world.address(four), direct(5));
        let took = world.run_until(S, |w| w.is_over(six, id));
        world.run(S);
        world.assert_piped(six, id, four, &[]);
        assert!(took < 10 * LATENCY, "{took:?}");
        for n in [six, four] {
            world.hosts[n].pipes.clear();
        }
        // The other way nobody gets in, and the peer is asked to come.
        let id = world.connect(four, &world.address(six), reverse(5));
        world.run_until(2 * S, |w| w.is_over(four, id));
        world.run(S);
        world.assert_piped(four, id, six, &[]);

        for (from, to) in [(six, four), (four, six)] {
            let id = world.connect(from, &world.address(to), relay(10));
            world.run_until(5 * S, |w| w.is_over(from, id));
            assert_eq!(world.failure(from, id).map(|(why, _)| why), None, "{names:?} {from}");
        }
    }
}

#[test]
fn a_call_of_the_first_moment_waits_until_the_prefix_is_known_or_there_is_none() {
    let mut world = servers();
    let four = world.open(|c| c.survey = false);
    world.run(S);
    for (names, piped) in [(Names::Dns64, true), (Names::Plain, true), (Names::NoPrefix, false)] {
        for plan in [direct(5), relay(5)] {
            let six = world.behind_nat64(names, |c| c.survey = false);
            let id = world.connect(six, &world.address(four), plan);
            world.run_until(6 * S, |w| w.is_over(six, id));
            let failure = world.failure(six, id);
            assert_eq!(failure.is_none(), piped, "{names:?} {failure:?}");
        }
    }
}

#[test]
fn without_a_nat64_an_ipv6_only_host_has_ipv6_only() {
    let mut world = servers();
    let six = world.behind_nat64(Names::NoPrefix, |c| c.survey = false);
    let four = world.open(|c| c.survey = false);
    world.run(10 * S);
    assert_eq!((looked_up(&world, six), world.address(six).v4().len()), (1, 0));
    let id = world.connect(six, &world.address(four), direct(5));
    world.run_until(S, |w| w.is_over(six, id));
    assert_eq!(world.failed(six, id).2, "the peer has IPv4 only, and we have none");
}

#[test]
fn whoever_has_a_way_to_ipv4_looks_for_no_nat64() {
    let mut world = servers();
    let v4 = Interface { default_route: true, ..Interface::new(3, [192, 168, 1, 2].into(), 24) };
    let both = world.host_with(&[interface(0), v4], [203, 0, 113, 1].into(), |c| c.survey = false);
    let lan = [Interface { default_route: false, ..interface(1) }];
    let nowhere = world.host_with(&lan, [203, 0, 113, 2].into(), |c| c.survey = false);
    world.run(S);
    assert_eq!((looked_up(&world, both), looked_up(&world, nowhere)), (0, 0));
}

#[test]
fn another_network_has_another_nat64_or_none() {
    let mut world = servers();
    let six = world.behind_nat64(Names::Plain, |c| c.survey = false);
    world.run(S);
    assert_eq!(world.address(six).v4().len(), 1);
    // The same address by another card is another network, too.
    let moved = Interface { index: 3, ..interface(9) };
    world.roam(six, &[moved], [203, 0, 113, 77].into());
    world.run(5 * S);
    assert_eq!(looked_up(&world, six), 2);
    assert_eq!(world.address(six).v4()[0].external.to_string(), "203.0.113.77");
    let v4 = Interface { default_route: true, ..Interface::new(4, [203, 0, 113, 99].into(), 24) };
    world.hosts[six].nat64 = None;
    world.roam(six, &[v4], v4.ip);
    world.run(5 * S);
    assert_eq!(looked_up(&world, six), 2);
    let address = world.address(six);
    assert_eq!((address.v4()[0].internal, address.v6().len()), (v4.ip, 0));
}

#[test]
fn a_name_server_does_not_make_neighbours_of_ours_look_like_the_internet() {
    for (prefix, believed) in
        [("2001:db8:600::", 0), ("2001:db8:600:0:7::", 0), ("2001:db8:600:1::", 1), ("64:ff9b::", 1)]
    {
        let mut world = World::new(7);
        world.add_stun();
        let six = world.behind_nat64(Names::Plain, |c| c.survey = false);
        let query = looked_up_by(&world, six);
        let found = format!("{prefix}192.0.0.170").parse().unwrap();
        world.tell(six, Input::Resolved { query, result: Ok([found].into_iter().collect()) });
        let bound = world.log.lines().filter(|line| line.contains("> BindUdp")).count();
        world.run(S);
        let more = world.log.lines().filter(|line| line.contains("> BindUdp")).count() - bound;
        assert_eq!(more, believed, "{prefix}");
    }
}

#[test]
fn a_name_server_that_was_not_reached_is_asked_again() {
    let mut world = World::new(7);
    let six = world.behind_nat64(Names::Plain, |c| c.survey = false);
    let query = looked_up_by(&world, six);
    world.tell(six, Input::Resolved { query, result: Err(IoFailure::TimedOut) });
    world.run(29 * S);
    assert_eq!(looked_up(&world, six), 1);
    world.run(2 * S + 100 * MS);
    assert_eq!(looked_up(&world, six), 2);
    let four = world.open(|c| c.survey = false);
    world.run(S);
    let id = world.connect(six, &world.address(four), direct(5));
    world.run_until(S, |w| w.is_over(six, id));
    assert_eq!(world.pipe(six).strategy, Strategy::Direct);
}
