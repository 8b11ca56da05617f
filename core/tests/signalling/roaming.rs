//! A node's network becomes another: while it idles, while calls are under way, and while there is none at all.

use std::net::IpAddr;
use std::time::Duration;

use crate::common::view::{direct, only, plan, reverse};
use crate::common::{LATENCY, MS, Port, S, World};
use p2pd_core::io::Interface;
use p2pd_core::{BrokerLoss, BrokerState, Event, IoFailure, PipeEnd, Stage, Stats, Strategy};

const LOST: BrokerState = BrokerState::Lost(BrokerLoss::Io(IoFailure::AddrNotAvailable));

fn interface(ip: &str) -> Interface {
    Interface { default_route: true, ..Interface::new(2, ip.parse().unwrap(), 32) }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Two open nodes with a broker and a STUN server. The NATs are not measured.
fn world() -> World {
    let mut world = World::new(9);
    world.add_broker();
    world.add_stun();
    world.open(|c| c.survey = false);
    world.open(|c| c.survey = false);
    world.run(S);
    world
}

/// Returns each `Ready` since then: its time after `since`, and the first interface's outside and inside address.
fn told(world: &World, n: usize, since: p2pd_core::Instant) -> Vec<(Duration, String)> {
    let since = world.hosts[n]
        .events
        .iter()
        .filter(move |(at, _)| *at >= since)
        .map(move |(at, n)| (at.since(since), n));
    since
        .filter_map(|(after, event)| match event {
            Event::Ready { address } => {
                let first = address.v4().first();
                Some((after, first.map_or("none".into(), |i| format!("{} {}", i.external, i.internal))))
            }
            _ => None,
        })
        .collect()
}

#[test]
fn an_idle_node_says_its_new_address_and_is_found_there() {
    let mut world = world();
    let moved = world.now;
    world.roam(1, &[interface("192.168.7.2")], ip("203.0.113.77"));
    world.run(S);
    // One question and its answer: the server's name is known.
    assert_eq!(told(&world, 1, moved), [(2 * LATENCY, "203.0.113.77 192.168.7.2".into())]);
    assert_eq!(world.broker_states(1, 0), [BrokerState::Ready, LOST, BrokerState::Ready]);
    assert_eq!(world.stats(1), Stats::default());
    let id = world.connect(0, &world.address(1), plan(&Strategy::ALL, 20));
    let took = world.run_until(2 * S, |w| w.is_over(0, id));
    world.run(S);
    world.assert_piped(0, id, 1, &[]);
    assert!(took <= 100 * MS, "{took:?}");
}

#[test]
fn the_same_list_again_asks_nothing() {
    let mut world = world();
    let (moved, asked) = (world.now, world.stuns[0].asked);
    world.tell(1, p2pd_core::Input::Interfaces(&[interface("203.0.113.2")]));
    world.run(S);
    assert_eq!((told(&world, 1, moved), world.stuns[0].asked), (vec![], asked));
    assert_eq!(world.broker_states(1, 0), [BrokerState::Ready]);
}

#[test]
fn one_more_interface_is_announced_and_disturbs_nothing() {
    let mut world = world();
    let (moved, pings) = (world.now, world.brokers[0].pings.len());
    world.tell(
        1,
        p2pd_core::Input::Interfaces(&[
            interface("203.0.113.2"),
            Interface { index: 3, default_route: false, ..interface("10.9.0.1") },
        ]),
    );
    world.run(S);
    let inside: Vec<String> = world.address(1).v4().iter().map(|i| i.internal.to_string()).collect();
    assert_eq!(inside, ["203.0.113.2", "10.9.0.1"]);
    assert_eq!(told(&world, 1, moved).len(), 1);
    assert_eq!((world.broker_states(1, 0), world.brokers[0].pings.len()), (vec![BrokerState::Ready], pings));
}

#[test]
fn a_broker_that_is_reached_from_where_we_still_are_is_asked_whether_it_lives() {
    let mut world = world();
    let pings = world.brokers[0].pings.len();
    let stays = Interface { index: 3, default_route: false, ..interface("203.0.113.2") };
    world.tell(1, p2pd_core::Input::Interfaces(&[interface("192.168.7.2"), stays]));
    world.run(S);
    assert_eq!(
        (world.broker_states(1, 0), world.brokers[0].pings.len()),
        (vec![BrokerState::Ready], pings + 1)
    );
}

#[test]
fn after_a_sleep_the_broker_is_asked_and_the_way_out_measured_at_once() {
    let mut world = world();
    let (woke, asked, pings) = (world.now, world.stuns[0].asked, world.brokers[0].pings.len());
    // The provider gave us another address meanwhile; interface and gateway are as they were.
    world.hosts[1].outside = ip("203.0.113.99");
    world.tell(1, p2pd_core::Input::Woke);
    world.run(S);
    assert_eq!((world.stuns[0].asked, world.brokers[0].pings.len()), ((asked.0 + 1, asked.1), pings + 1));
    assert_eq!(told(&world, 1, woke), [(2 * LATENCY, "203.0.113.99 203.0.113.2".into())]);
    assert_eq!(world.broker_states(1, 0), [BrokerState::Ready]);
}

#[test]
fn a_node_that_loses_its_network_and_gets_another_later_is_back_at_once() {
    let mut world = world();
    let gone = world.now;
    world.roam(1, &[], ip("203.0.113.2"));
    world.run(100 * S);
    assert_eq!(told(&world, 1, gone), [(Duration::ZERO, "none".into())]);
    let back = world.now;
    world.roam(1, &[interface("203.0.113.78")], ip("203.0.113.78"));
    world.run(S);
    assert_eq!(told(&world, 1, back), [(2 * LATENCY, "203.0.113.78 203.0.113.78".into())]);
    let id = world.connect(0, &world.address(1), reverse(20));
    world.run_until(S, |w| w.is_over(0, id));
    world.run(S);
    world.assert_piped(0, id, 1, &[]);
}

#[test]
fn a_node_that_started_without_a_network_gets_one() {
    let mut world = World::new(9);
    world.add_broker();
    world.add_stun();
    world.open(|c| c.survey = false);
    world.host_with(&[interface("0.0.0.0")], ip("203.0.113.2"), |c| c.survey = false);
    world.run(10 * S);
    assert!(world.address(1).v4().is_empty());
    let back = world.now;
    world.roam(1, &[interface("203.0.113.2")], ip("203.0.113.2"));
    world.run(S);
    let said = told(&world, 1, back);
    assert_eq!(said.last().unwrap().1, "203.0.113.2 203.0.113.2", "{said:?}");
    let id = world.connect(0, &world.address(1), direct(20));
    world.run_until(S, |w| w.is_over(0, id));
    world.run(S);
    world.assert_piped(0, id, 1, &[]);
}

#[test]
fn a_dial_under_way_is_made_again_from_the_new_address() {
    let mut world = world();
    let there = "203.0.113.2:4000".parse().unwrap();
    world.ports.insert(there, Port::Blackholed);
    let id = world.connect(0, &world.address(1), direct(20));
    world.run(S);
    assert_eq!(world.dialled(0), [there]);
    world.ports.clear();
    world.roam(0, &[interface("203.0.113.79")], ip("203.0.113.79"));
    let took = world.run_until(S, |w| w.is_over(0, id));
    world.run(S);
    world.assert_piped(0, id, 1, &[]);
    assert_eq!(world.dialled(0), [there; 2]);
    // SYN there and back, three flights of hello.
    assert_eq!(took, 4 * LATENCY);
    assert_eq!(world.stats(0), Stats::default());
}

/// The peer may have nominated the stream that it does not know to be dead.
#[test]
fn a_call_in_the_middle_of_its_hello_is_made_again_without_waiting_for_the_old_stream() {
    for after in 1..8 {
        let mut world = world();
        let id = world.connect(0, &world.address(1), direct(20));
        world.run(after * LATENCY / 2);
        assert!(!world.is_over(0, id));
        world.roam(0, &[interface("203.0.113.79")], ip("203.0.113.79"));
        let took = world.run_until(20 * S, |w| w.is_over(0, id));
        world.run(20 * S);
        world.assert_piped(0, id, 1, &[]);
        assert_eq!(took, 4 * LATENCY, "{after}");
    }
}

#[test]
fn a_request_under_way_is_made_again_with_the_new_address() {
    let mut world = world();
    // Where we were, the peer's dials get no answer.
    world.ports.insert("203.0.113.1:4000".parse().unwrap(), Port::Blackholed);
    let id = world.connect(0, &world.address(1), reverse(20));
    world.run(S);
    let was: Vec<_> = world.dialled(1);
    assert_eq!(was, ["203.0.113.1:4000".parse().unwrap()]);
    world.roam(0, &[interface("203.0.113.79")], ip("203.0.113.79"));
    let took = world.run_until(S, |w| w.is_over(0, id));
    world.run(S);
    world.assert_piped(0, id, 1, &[]);
    assert_eq!(world.dialled(1)[1..], ["203.0.113.79:4000".parse().unwrap()]);
    let requested = |s: &&Stage| matches!(s, Stage::Requested { .. });
    assert_eq!(world.stages(0, id, Strategy::Reverse).iter().filter(requested).count(), 2);
    assert!(took <= 200 * MS, "{took:?}");
    assert_eq!(world.stats(1), only(|_| {}));
}

#[test]
fn a_peer_that_moves_while_it_dials_us_dials_again() {
    let mut world = world();
    let there = "203.0.113.1:4000".parse().unwrap();
    world.ports.insert(there, Port::Blackholed);
    let id = world.connect(0, &world.address(1), reverse(20));
    world.run(S);
    assert_eq!(world.dialled(1), [there]);
    world.ports.clear();
    world.roam(1, &[interface("203.0.113.80")], ip("203.0.113.80"));
    world.run_until(S, |w| w.is_over(0, id));
    world.run(S);
    world.assert_piped(0, id, 1, &[]);
    assert_eq!(world.dialled(1), [there; 2]);
}

#[test]
fn a_call_waits_for_a_network_until_its_deadline() {
    let mut world = world();
    let id = world.connect(0, &world.address(1), direct(20));
    world.roam(0, &[], ip("203.0.113.1"));
    world.run(10 * S);
    assert!(!world.is_over(0, id));
    world.roam(0, &[interface("203.0.113.81")], ip("203.0.113.81"));
    world.run_until(S, |w| w.is_over(0, id));
    world.run(S);
    world.assert_piped(0, id, 1, &[]);
    let late = world.connect(0, &world.address(1), direct(5));
    world.roam(0, &[], ip("203.0.113.81"));
    let took = world.run_until(10 * S, |w| w.is_over(0, late));
    assert_eq!(
        (took, world.failure(0, late).map(|(why, _)| why)),
        (5 * S, Some(p2pd_core::FailReason::DeadlinePassed))
    );
}

#[test]
fn a_punch_goes_on_from_the_new_network() {
    let mut world = world();
    world.ports.insert("203.0.113.1:4000".parse().unwrap(), Port::Blackholed);
    world.ports.insert("203.0.113.2:4000".parse().unwrap(), Port::Blackholed);
    let id = world.connect(0, &world.address(1), plan(&[Strategy::Punch], 20));
    world.run(500 * MS);
    assert!(!world.is_over(0, id));
    world.ports.clear();
    let moved = world.now;
    world.roam(0, &[interface("203.0.113.79")], ip("203.0.113.79"));
    world.run_until(3 * S, |w| w.is_over(0, id));
    world.run(S);
    world.assert_piped(0, id, 1, &[]);
    let after = |(at, _): &&(p2pd_core::Instant, std::net::SocketAddr)| *at >= moved;
    assert!(world.hosts[1].dials.iter().filter(after).any(|(_, to)| to.ip() == ip("203.0.113.79")));
}

#[test]
fn with_two_ways_out_each_address_has_a_listener_of_its_own() {
    let mut world = world();
    let port = 4000;
    let two = [interface("203.0.113.2"), Interface { index: 3, ..interface("198.51.100.7") }];
    let at = |ip: &str| std::net::SocketAddr::new(ip.parse().unwrap(), port);
    for _ in 0..3 {
        world.tell(1, p2pd_core::Input::Interfaces(&two));
        world.run(S);
        // The one for all addresses stands for the first in this world.
        assert_eq!(world.listening(1), [at("198.51.100.7"), at("203.0.113.2")]);
        world.tell(1, p2pd_core::Input::Interfaces(&two[..1]));
        world.run(S);
        assert!(!world.listening(1).contains(&at("198.51.100.7")));
    }
}

#[test]
fn a_pipe_whose_address_is_gone_is_ended_and_its_owner_told_at_once() {
    let mut world = world();
    let id = world.connect(0, &world.address(1), direct(20));
    world.run_until(2 * S, |w| w.is_over(0, id));
    world.run(S);
    world.assert_piped(0, id, 1, &[]);
    let gone = |world: &World, n: usize| -> Vec<Event> {
        let of_pipes = |event: &&Event| matches!(event, Event::PipeGone { .. });
        world.hosts[n].events.iter().map(|(_, event)| event).filter(of_pipes).cloned().collect()
    };
    // Another address beside it changes nothing.
    let (home, outside) = (interface(&world.hosts[1].inside.to_string()), world.hosts[1].outside);
    world.roam(1, &[home, interface("192.168.7.2")], outside);
    assert_eq!((gone(&world, 1), world.hosts[1].pipes[0].over), (vec![], None));
    world.roam(1, &[interface("192.168.7.2")], ip("203.0.113.77"));
    let told = gone(&world, 1);
    let [Event::PipeGone { peer, local, .. }] = told[..] else { panic!("{told:?}") };
    assert_eq!((peer, local.ip()), (world.id(0), home.ip));
    assert_eq!(world.hosts[1].pipes[0].over, Some(PipeEnd::AddressGone));
    // It is said once, and the other end, whose address stays, is told nothing.
    world.roam(1, &[interface("192.168.7.3")], ip("203.0.113.77"));
    world.run(S);
    assert_eq!((gone(&world, 1).len(), gone(&world, 0).len(), world.hosts[0].pipes[0].over), (1, 0, None));
}
