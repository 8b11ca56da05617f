//! The listener's port opened on the router.

use std::net::SocketAddr;
use std::time::Duration;

use crate::common::router::inside;
use crate::common::view::{direct, reverse};
use crate::common::{LATENCY, MS, Port, S, World};
use p2pd_core::io::Interface;
use p2pd_core::portmap::{MapError, Scope, Truth, Way};
use p2pd_core::{ConnectError, Event, Name, NameError, PortState};

const GATEWAY: &str = "192.168.1.1";

fn interface() -> Interface {
    let gateway = Some(GATEWAY.parse().unwrap());
    Interface { default_route: true, gateway, ..Interface::new(2, inside(1), 24) }
}

/// Node 0 is open, node 1 behind a NAT whose router is bent before they meet. NATs are not measured.
fn world(portmap: bool, bend: impl FnOnce(&mut World)) -> World {
    let mut world = World::new(12);
    world.add_broker();
    world.add_stun();
    world.open(|c| c.survey = false);
    let outside = "203.0.113.2".parse().unwrap();
    world.host_with(&[interface()], outside, |c| (c.survey, c.portmap) = (false, portmap));
    world.add_router(1, GATEWAY);
    bend(&mut world);
    world.run(S);
    world
}

fn ports(world: &World) -> Vec<PortState> {
    let state = |(_, event): &(_, Event)| match event {
        Event::Port { local, state } => {
            assert!([inside(1), inside(8)].contains(local));
            Some(*state)
        }
        _ => None,
    };
    world.hosts[1].events.iter().filter_map(state).collect()
}

fn outside(port: u16) -> SocketAddr {
    ([203, 0, 113, 2], port).into()
}

/// The interfaces of node 1's address: outside and inside address, port, NAT type.
fn announced(world: &World) -> Vec<String> {
    let of = |i: &p2pd_core::address::PeerInterface| {
        format!("{} {} {} {}", i.external, i.internal, i.port, i.nat.number())
    };
    world.ready(1).unwrap().1.v4().iter().map(of).collect()
}

#[test]
fn a_port_is_opened_announced_used_and_closed_at_shutdown() {
    let mut world = world(true, |_| {});
    let open = PortState::Open { way: Way::Pcp, external: outside(4000), truth: Truth::Agrees };
    assert_eq!(ports(&world), [open]);
    assert_eq!(announced(&world), ["203.0.113.2 192.168.1.2 4000 1"]);
    let id = world.connect(0, &world.address(1), direct(5));
    let took = world.run_until(S, |w| w.is_over(0, id));
    assert_eq!(took, 4 * LATENCY);
    world.run(S);
    world.assert_piped(0, id, 1, &[]);
    assert_eq!(world.routers[0].asked, [7200]);
    world.shutdown(1);
    let closed = |w: &World| w.hosts[1].events.iter().any(|(_, n)| *n == Event::Closed);
    assert!(!closed(&world), "it waits for the router");
    // Whatever else happens meanwhile.
    world.tell(1, p2pd_core::Input::Interfaces(&[]));
    let (now, to) = (world.now, world.address(0));
    assert!(world.hosts[1].node.connect(now, &to, direct(5)).is_err());
    let took = world.run_until(S, closed);
    assert_eq!((took, world.routers[0].asked.clone()), (MS, vec![7200, 0]));
    assert_eq!(ports(&world), [open, PortState::Removed { confirmed: true }]);
    assert_eq!(world.hosts[1].node.poll_timeout(), None);
}

#[test]
fn nothing_is_asked_for_unless_the_configuration_says_so() {
    let mut world = world(false, |_| {});
    assert_eq!((ports(&world), world.routers[0].asked.len()), (vec![], 0));
    assert_eq!(announced(&world), ["203.0.113.2 192.168.1.2 4000 5"]);
    world.shutdown(1);
    assert_eq!(world.hosts[1].events.last().unwrap().1, Event::Closed);
}

#[test]
fn a_lease_is_renewed() {
    let mut world = world(true, |w| w.routers[0].lease = 60);
    world.run(300 * S);
    // Every half of it.
    assert_eq!(world.routers[0].asked.len(), 11);
    assert_eq!(ports(&world).len(), 1);
}

#[test]
fn after_a_sleep_the_router_is_asked_again() {
    let mut world = world(true, |_| {});
    assert_eq!(world.routers[0].asked, [7200]);
    world.tell(1, p2pd_core::Input::Woke);
    world.run(S);
    assert_eq!((world.routers[0].asked.clone(), ports(&world).len()), (vec![7200; 2], 1));
}

/// A stranger that has itself called where nobody answers makes the node doubt what it knows, and that is bounded.
#[test]
fn calls_that_come_to_nothing_have_the_router_asked_again_every_five_minutes_at_most() {
    let mut world = world(true, |_| {});
    world.ports.insert("203.0.113.1:4000".parse().unwrap(), Port::Refused);
    let (began, to) = (world.now, world.address(1));
    let mut asked = vec![(1, 0)];
    for _ in 0..45 {
        world.connect(0, &to, reverse(15));
        world.run(20 * S);
        let so_far = world.routers[0].asked.len();
        if asked.last().unwrap().0 < so_far {
            asked.push((so_far, world.now.since(began).as_secs()));
        }
    }
    assert!(world.dialled(1).len() >= 45, "{}", world.dialled(1).len());
    assert_eq!(asked, [(1, 0), (2, 20), (3, 320), (4, 620)]);
}

#[test]
fn a_router_whose_address_stun_does_not_see_is_not_believed() {
    let seen = outside(0).ip();
    for (says, truth) in [
        ("9.9.9.9", Truth::Differs { seen }),
        ("100.64.0.7", Truth::NotPublic(Scope::CarrierGrade)),
        ("192.168.7.7", Truth::NotPublic(Scope::Private)),
    ] {
        let world = world(true, |w| w.routers[0].says = says.parse().unwrap());
        let external = SocketAddr::new(says.parse().unwrap(), 4000);
        assert_eq!(ports(&world), [PortState::Open { way: Way::Pcp, external, truth }], "{says}");
        assert_eq!(announced(&world), ["203.0.113.2 192.168.1.2 4000 5"], "{says}");
    }
}

#[test]
fn another_port_than_ours_is_announced_beside_it() {
    let mut world = world(true, |w| w.routers[0].gives = Some(50_001));
    assert_eq!(announced(&world), ["203.0.113.2 192.168.1.2 4000 5", "203.0.113.2 192.168.1.2 50001 1"]);
    let id = world.connect(0, &world.address(1), direct(5));
    world.run_until(S, |w| w.is_over(0, id));
    world.run(S);
    world.assert_piped(0, id, 1, &[]);
}

#[test]
fn where_no_router_answers_the_node_says_so_and_its_end_waits_for_nothing() {
    let mut world = world(true, |w| w.routers[0].silent = true);
    assert_eq!(announced(&world), ["203.0.113.2 192.168.1.2 4000 5"]);
    world.run(10 * S);
    let none = Some(MapError::NoAnswer);
    world.shutdown(1);
    assert_eq!(world.hosts[1].events.last().unwrap().1, Event::Closed);
    assert_eq!(ports(&world), [PortState::Failed { gateway: none, upnp: none }], "none is said to be closed");
}

#[test]
fn the_end_does_not_wait_long_for_a_router_that_has_fallen_silent() {
    let mut world = world(true, |_| {});
    world.routers[0].silent = true;
    world.shutdown(1);
    let took = world.run_until(10 * S, |w| w.hosts[1].events.iter().any(|(_, n)| *n == Event::Closed));
    // PCP's three questions and what is waited for the last.
    assert_eq!(took, Duration::from_millis(1750));
    assert_eq!(*ports(&world).last().unwrap(), PortState::Removed { confirmed: false });
    assert_eq!(world.hosts[1].node.poll_timeout(), None);
}

#[test]
fn in_another_network_the_port_is_opened_there() {
    let mut world = world(true, |_| {});
    let gateway = Some("192.168.8.1".parse().unwrap());
    let there = Interface { ip: inside(8), gateway, ..interface() };
    world.roam(1, &[there], "203.0.113.88".parse().unwrap());
    let router = world.add_router(1, "192.168.8.1");
    world.run(S);
    assert_eq!((world.routers[0].asked.len(), world.routers[router].asked.len()), (1, 1));
    assert_eq!(announced(&world), ["203.0.113.88 192.168.8.2 4000 1"]);
    let id = world.connect(0, &world.address(1), direct(5));
    world.run_until(S, |w| w.is_over(0, id));
}

/// Two hosts with IPv6 alone, the second behind a firewall whose router makes pinholes; no server sees them.
fn guarded(portmap: bool) -> World {
    let interface = |ip: &str, gateway: Option<&str>| {
        let gateway = gateway.map(|g| g.parse().unwrap());
        Interface { default_route: true, gateway, ..Interface::new(2, ip.parse().unwrap(), 64) }
    };
    let mut world = World::new(13);
    let [open, shut] = [interface("2a01::1", None), interface("2a02::1", Some("fe80::1"))];
    world.host_with(&[open], open.ip, |_| {});
    world.host_with(&[shut], shut.ip, |c| c.portmap = portmap);
    world.hosts[1].guarded = true;
    world.add_router(1, "fe80::1");
    world.run(S);
    world
}

#[test]
fn a_pinhole_is_asked_for_over_ipv6_used_and_closed_at_shutdown() {
    let mut world = guarded(true);
    let at: SocketAddr = "[2a02::1]:4000".parse().unwrap();
    let state = |(_, event): &(_, Event)| match event {
        Event::Port { local, state } if *local == at.ip() => Some(*state),
        _ => None,
    };
    let open = PortState::Open { way: Way::Pcp, external: at, truth: Truth::Agrees };
    assert_eq!(world.hosts[1].events.iter().filter_map(state).collect::<Vec<_>>(), [open]);
    let id = world.connect(0, &world.address(1), direct(5));
    assert_eq!(world.run_until(S, |w| w.is_over(0, id)), 4 * LATENCY);
    world.run(S);
    world.assert_piped(0, id, 1, &[]);
    world.shutdown(1);
    world.run(S);
    assert_eq!(world.routers[0].asked, [7200, 0]);
    assert_eq!(world.hosts[1].events.last().unwrap().1, Event::Closed);
}

#[test]
fn without_a_pinhole_the_firewall_lets_nobody_in() {
    let mut world = guarded(false);
    let id = world.connect(0, &world.address(1), direct(5));
    world.run(6 * S);
    assert!(world.is_over(0, id) && world.routers[0].asked.is_empty());
    assert!(world.hosts[0].pipes.is_empty());
}

#[test]
fn an_address_that_no_socket_can_have_is_not_tried_again_and_again() {
    let gateway = Some("fe80::1".parse().unwrap());
    let shut =
        Interface { default_route: true, gateway, ..Interface::new(2, "2a02::1".parse().unwrap(), 64) };
    let mut world = World::new(13);
    world.host_with(&[shut], shut.ip, |c| c.portmap = true);
    world.hosts[0].without_udp = true;
    world.add_router(0, "fe80::1");
    world.run(59 * S);
    let tried = |w: &World| w.log.matches("BindUdp").count();
    assert_eq!(tried(&world), 1);
    // Sockets are to be had again.
    world.hosts[0].without_udp = false;
    world.run(2 * S);
    assert_eq!((tried(&world), world.routers[0].asked.clone()), (2, vec![7200]));
    world.shutdown(0);
    world.run(S);
    assert_eq!(world.hosts[0].events.last().unwrap().1, Event::Closed);
}

#[test]
fn while_the_end_waits_for_the_router_no_name_is_asked_for() {
    let mut world = world(true, |_| {});
    world.routers[0].silent = true;
    world.shutdown(1);
    let name: Name = "example".parse().unwrap();
    assert_eq!(world.ask(1, |node, now| node.resolve(now, name)), Err(NameError::Shutdown));
    assert_eq!(world.ask(1, |node, now| node.register(now, name)), Err(NameError::Shutdown));
    let called = world.ask(1, |node, now| node.connect_name(now, name, direct(5)));
    assert_eq!(called, Err(ConnectError::Shutdown));
    world.run(10 * S);
    assert_eq!(world.hosts[1].events.last().unwrap().1, Event::Closed);
}
