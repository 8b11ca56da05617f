//! TURN servers that send us on, have addresses of one family, or do not answer.

use std::net::IpAddr;

use p2pd_core::{ConnectId, Outcome};

use crate::common::view::relay;
use crate::common::{MS, S, World};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Two nodes behind NATs and three TURN servers; the first node has one of them, the second none.
fn pool() -> World {
    let mut world = World::new(1);
    world.add_broker();
    world.add_stun();
    for _ in 0..3 {
        world.add_turn();
    }
    world.behind_nat(|c| c.turn.truncate(1));
    world.behind_nat(|c| c.turn.clear());
    world.run(S);
    world
}

fn call(world: &mut World, from: usize, to: usize) -> ConnectId {
    world.connect(from, &world.address(to), relay(20))
}

#[test]
fn a_server_that_sends_us_on_is_followed_once() {
    let mut world = pool();
    world.turns[0].redirects = Some(world.turns[1].at);
    let id = call(&mut world, 0, 1);
    world.run_until(300 * MS, |w| w.is_over(0, id));
    assert_eq!(world.relayed(0).local.ip(), world.turns[1].at.ip());
    // In circles or farther we do not go.
    let mut world = pool();
    world.turns[0].redirects = Some(world.turns[1].at);
    world.turns[1].redirects = Some(world.turns[2].at);
    let id = call(&mut world, 0, 1);
    world.run_until(300 * MS, |w| w.is_over(0, id));
    let (_, outcome, why) = world.failed(0, id);
    let to = "the TURN server sends us to 198.51.100.9";
    let expected = format!(
        "turn0.test:3478 over UDP: {to}1:3478; turn0.test:3478 over UDP at 198.51.100.91: {to}2:3478"
    );
    assert_eq!((outcome, why), (Outcome::Failed, &*expected));
    assert_eq!(world.turns[2].datagrams, 0);
}

/// A NAT may give us the port of a client whose allocation the server still has. RFC 8656 section 7.4: three sockets.
#[test]
fn a_port_that_the_server_knows_as_anothers_is_left_for_two_others() {
    for (taken, relays) in [(1, true), (2, true), (3, false)] {
        let mut world = pool();
        world.turns.iter_mut().for_each(|turn| turn.taken = (60_000..60_000 + taken).collect());
        world.turns.truncate(1);
        let id = call(&mut world, 0, 1);
        world.run_until(2000 * MS, |w| w.is_over(0, id));
        if relays {
            assert_eq!(world.relayed(0).local.ip(), world.turns[0].at.ip());
        } else {
            let (_, outcome, why) = world.failed(0, id);
            let said = "turn0.test:3478 over UDP at 198.51.100.90: the TURN server has an allocation for our port already";
            assert_eq!((outcome, why), (Outcome::Failed, &*[said; 3].join("; ")));
        }
    }
}

#[test]
fn a_server_sends_us_nowhere_but_to_the_internet_unless_the_list_says_so() {
    // Ours, our neighbour, this machine, what a cloud tells secrets at, and the router's other side.
    for to in ["192.168.0.2", "192.168.0.9", "127.0.0.1", "169.254.169.254", "10.0.0.1", "203.0.113.1"] {
        let mut world = pool();
        world.turns[0].redirects = Some((ip(to), 3478).into());
        let id = call(&mut world, 0, 1);
        world.run_until(300 * MS, |w| w.is_over(0, id));
        let (_, outcome, why) = world.failed(0, id);
        let expected = format!("sends us to {to}:3478, which is no address that it may send us to");
        assert!(outcome == Outcome::Failed && why.ends_with(&expected), "{why}");
    }
    let mut world = World::new(1);
    world.add_broker();
    world.add_stun();
    world.add_turn();
    world.add_turn_at(ip("10.0.0.1"));
    world.behind_nat(|c| {
        c.turn.truncate(1);
        c.turn[0].alternates_anywhere = true;
    });
    world.behind_nat(|c| c.turn.clear());
    world.run(S);
    world.turns[0].redirects = Some(world.turns[1].at);
    call(&mut world, 0, 1);
    world.run(S);
    assert!(world.turns[1].datagrams > 0);
}

/// A node with IPv4 alone and one with IPv6 alone, each with a TURN server of its family, which relay at these addresses.
fn families(v4s: &[&str], v6s: &[&str]) -> World {
    let mut world = World::new(1);
    world.add_broker();
    world.add_stun();
    world.add_turn();
    world.add_turn_at(ip("2a01:4f8:ffff::90"));
    for (n, ips) in [v4s, v6s].into_iter().enumerate() {
        world.turns[n].relay_ips = ips.iter().map(|text| ip(text)).collect();
    }
    for (n, text) in ["203.0.113.1", "2606:4700:1::2"].into_iter().enumerate() {
        world.host(ip(text), ip(text), |c| {
            c.turn = vec![c.turn[n].clone()];
            c.survey = false;
        });
    }
    world.run(10 * S);
    world
}

#[test]
fn nodes_of_different_families_meet_wherever_one_server_relays_for_either() {
    // Of the first server, and of the second.
    let v4 = ["198.51.100.90", "198.51.100.91"];
    let v6 = ["2a01:4f8:ffff::80", "2a01:4f8:ffff::90"];
    // Who calls, what the two servers relay at, where the caller's relay is, and how many relays there are.
    for (from, ofs, local, relays) in [
        // The peer reaches the caller's relay itself.
        (0, [&[v4[0], v6[0]][..], &[]], v6[0], 1),
        (1, [&[], &[v6[1], v4[1]][..]], v4[1], 1),
        // The caller's server has nothing of the peer's family: the peer comes by its own server.
        (0, [&[v4[0]], &[v4[1]]], v4[0], 2),
        (1, [&[v6[0]], &[v6[1]]], v6[1], 2),
    ] {
        let mut world = families(ofs[0], ofs[1]);
        let id = call(&mut world, from, 1 - from);
        let took = world.run_until(3 * S, |w| w.is_over(from, id));
        world.run(S);
        assert_eq!(world.failure(from, id).map(|(_, report)| report), None, "{from} {ofs:?}");
        assert_eq!(world.relayed(from).local.ip(), ip(local), "{from} {ofs:?}");
        assert_eq!(world.allocations(), relays, "{from} {ofs:?}");
        assert!(took < S, "{from} {ofs:?}: {took:?}");
        let ends = [0, 1].map(|n| (world.relayed(n).local, world.relayed(n).remote));
        assert!(relays == 1 || ends[0].0 == ends[1].1 && ends[0].1 == ends[1].0, "{ends:?}");
    }
}

#[test]
fn every_server_of_the_list_is_asked_although_the_first_ones_are_silent() {
    let mut world = World::new(1);
    world.add_broker();
    world.add_stun();
    for _ in 0..5 {
        world.add_turn();
    }
    for n in 0..4 {
        world.turns[n].up = false;
    }
    world.behind_nat(|_| {});
    world.behind_nat(|c| c.turn.clear());
    world.run(S);
    let id = call(&mut world, 0, 1);
    let took = world.run_until(10 * S, |w| w.is_over(0, id));
    assert!(took >= 2 * S && took < 3 * S, "{took:?}");
    assert_eq!(world.relayed(0).local.ip(), world.turns[4].at.ip());
}
