//! Servers whose names have several addresses, of which some lead nowhere, and servers that say what cannot be.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::common::broker::Greeting;
use crate::common::stun::{Tcp, Udp};
use crate::common::view::relay;
use crate::common::{LATENCY, MS, Port, S, SLOW, World};
use p2pd_core::{BrokerLoss, BrokerState, Stage, Strategy};

/// The host's name, with three silent addresses before its own.
fn with_silent(world: &mut World, host: &str) {
    let silent = (201..204).map(|n| IpAddr::from([203, 0, 113, n])).collect();
    world.silent.insert(host.into(), silent);
}

/// A broker, a STUN server and a TURN server, each behind a name with four addresses, and two nodes.
fn world() -> World {
    let mut world = World::new(6);
    world.add_broker();
    world.add_stun();
    world.add_turn();
    for host in ["stun0.test".into(), "turn0.test".into(), world.brokers[0].config.host.to_string()] {
        with_silent(&mut world, &host);
    }
    for _ in 0..2 {
        world.behind_nat(|c| c.survey = false);
    }
    world
}

#[test]
fn three_silent_addresses_of_four_cost_three_quarters_of_a_second() {
    let mut world = world();
    let ready = |w: &World| !w.broker_states(0, 0).is_empty() && w.ready(0).is_some();
    let took = world.run_until(2 * S, |w| ready(w));
    assert!(took <= S, "{took:?}");
    let (_, address) = world.ready(0).unwrap();
    assert_eq!(address.v4()[0].external.to_string(), "203.0.113.1");
    world.run(S);
    let id = world.connect(0, &world.address(1), relay(20));
    let allocated =
        |w: &World| w.stages(0, id, Strategy::Relay).iter().any(|s| matches!(s, Stage::Allocated(_)));
    let took = world.run_until(3 * S, |w| allocated(w));
    assert!(took <= S, "{took:?}");
    world.run_until(2 * S, |w| w.is_over(0, id));
}

/// A node of a cluster that takes connections and is of no use does not keep us, and a broker that is merely slow has its time.
#[test]
fn a_broker_with_other_addresses_has_a_second_and_a_half_to_greet_us() {
    let mut world = World::new(6);
    world.add_broker();
    let host = world.brokers[0].config.host.to_string();
    // Dialled after the broker's own.
    let at = world.brokers[0].at.ip();
    world.silent.insert(host, vec![at, [203, 0, 113, 201].into()]);
    world.brokers[0].greeting = Greeting::Silence;
    world.open(|_| {});
    let silent = |w: &World, n| {
        w.broker_states(0, 0).iter().filter(|s| **s == BrokerState::Lost(BrokerLoss::Silent)).count() == n
    };
    let took = world.run_until(2 * S, |w| silent(w, 1));
    assert_eq!(took, 1500 * MS + 3 * LATENCY, "the look-up, SYN and its answer");
    // The other address is dialled first, and ours a quarter of a second later.
    let took = world.run_until(10 * S, |w| silent(w, 2));
    assert_eq!(took, 250 * MS + 8 * S + 3 * LATENCY);
    world.brokers[0].greeting = Greeting::Connack(0);
    world.run_until(5 * S, |w| w.broker_states(0, 0).ends_with(&[BrokerState::Ready]));
}

#[test]
fn the_address_that_worked_is_the_first_the_next_time() {
    let mut world = world();
    world.run(2 * S);
    let broker = world.brokers[0].at;
    world.hosts[0].dials.clear();
    world.broker_says(0, &[0xff, 0xff]);
    world.run(5 * S);
    let to: Vec<_> = world.hosts[0].dials.iter().map(|(_, to)| *to).collect();
    assert_eq!(to, [broker]);
    world.run(S);
    let relayed = |w: &mut World| {
        let id = w.connect(0, &w.address(1), relay(20));
        let began = w.now;
        w.run_until(3 * S, |w| {
            w.stages(0, id, Strategy::Relay).iter().any(|s| matches!(s, Stage::Allocated(_)))
        });
        let took = w.now.since(began);
        w.run_until(3 * S, |w| w.is_over(0, id));
        took
    };
    let (first, again) = (relayed(&mut world), relayed(&mut world));
    assert!(first >= 750 * MS && again < 250 * MS, "{first:?} {again:?}");
}

/// Returns the address that a host announces whose STUN servers claim to see these addresses; `None`: the truth.
fn announced(open: bool, claims: &[Option<&str>]) -> String {
    let mut world = World::new(4);
    for claim in claims {
        let n = world.add_stun();
        if let Some(ip) = claim {
            world.stuns[n].udp = Udp::Claims(ip.parse().unwrap());
        }
    }
    let n = if open { world.open(|c| c.survey = false) } else { world.behind_nat(|c| c.survey = false) };
    world.run(8 * S);
    world.ready(n).unwrap().1.v4()[0].external.to_string()
}

#[test]
fn what_cannot_be_is_not_believed_whoever_says_it() {
    for lie in ["172.18.0.1", "127.0.0.1", "100.64.0.7", "169.254.1.1", "0.0.0.0"] {
        for claims in [[Some(lie), None], [None, Some(lie)], [Some(lie), Some(lie)]] {
            assert_eq!(announced(true, &claims), "203.0.113.1", "{claims:?}");
        }
    }
    for lie in ["172.18.0.1", "127.0.0.1"] {
        for claims in [[Some(lie), None], [None, Some(lie)]] {
            assert_eq!(announced(false, &claims), "203.0.113.1", "{claims:?}");
        }
    }
}

#[test]
fn an_address_of_our_own_that_one_server_confirms_wins() {
    for claims in [[Some("198.51.100.7"), None], [None, Some("198.51.100.7")]] {
        assert_eq!(announced(true, &claims), "203.0.113.1", "{claims:?}");
    }
}

/// Returns the result of the survey of a host on the internet, as the report has it: the outside address, and its
/// sources.
fn surveyed(claims: &[Option<&str>], late: Option<usize>) -> Option<(String, String)> {
    let mut world = World::new(4);
    for claim in claims {
        let n = world.add_stun();
        if let Some(ip) = claim.map(|ip| ip.parse().unwrap()) {
            (world.stuns[n].udp, world.stuns[n].tcp) = (Udp::Claims(ip), Tcp::Claims(ip));
        }
    }
    if let Some(n) = late {
        world.stuns[n].udp = Udp::Late(900 * MS);
    }
    let n = world.open(|_| {});
    world.run(12 * S);
    let report = world.hosts[n].node.nats().next().unwrap();
    report.mapped.map(|mapped| (mapped.ip().to_string(), report.server.unwrap().ip().to_string()))
}

#[test]
fn a_survey_believes_whom_the_votes_believe() {
    let truth = |server: &str| Some(("203.0.113.1".to_owned(), server.to_owned()));
    let honest = "198.51.100.51";
    for lie in ["172.18.0.1", "127.0.0.1", "0.0.0.0", "198.51.100.7"] {
        assert_eq!(surveyed(&[Some(lie), None], None), truth(honest), "{lie}");
        // The vote is over after the survey.
        assert_eq!(surveyed(&[Some(lie), None], Some(1)), truth(honest), "{lie}");
    }
    for lie in ["172.18.0.1", "127.0.0.1", "0.0.0.0"] {
        assert_eq!(surveyed(&[Some(lie)], None), None, "alone: {lie}");
    }
    // Nobody says otherwise.
    assert!(surveyed(&[Some("198.51.100.7")], None).is_some());
}

#[test]
fn of_two_that_contradict_each_other_the_first_in_the_list_is_believed() {
    for (first, second) in [("198.51.100.7", "198.51.100.9"), ("198.51.100.9", "198.51.100.7")] {
        assert_eq!(announced(false, &[Some(first), Some(second)]), first);
    }
}

#[test]
fn the_latency_of_a_name_with_one_address_is_what_it_was() {
    let mut world = World::new(4);
    world.add_stun();
    world.behind_nat(|c| c.survey = false);
    world.run(S);
    assert_eq!(world.ready(0).unwrap().0, 3 * LATENCY);
}

#[test]
fn a_stun_servers_slow_look_up_keeps_nobody_waiting_whom_two_others_have_told() {
    let mut world = World::new(7);
    for _ in 0..3 {
        world.add_stun();
    }
    world.stuns[1].config.host = format!("stun{SLOW}").into();
    world.behind_nat(|_| {});
    let took = world.run_until(8 * S, |w| w.ready(0).is_some());
    assert!(took <= 3 * S, "{took:?}");
    let took = world.run_until(8 * S, |w| {
        let reports = w.hosts[0].node.nats().count();
        w.ready(0).is_some_and(|(_, a)| a.v4()[0].external.to_string() == "203.0.113.1") && reports > 0
    });
    assert_eq!(took, Duration::ZERO, "all that is asked for is there");
}

#[test]
fn a_survey_asks_the_address_of_a_server_that_answers() {
    let mut world = World::new(8);
    world.add_stun();
    with_silent(&mut world, "stun0.test");
    world.behind_nat(|_| {});
    let took = world.run_until(8 * S, |w| w.ready(0).is_some());
    // Three silent addresses, and the survey. One of them stands in for the server's second address, in vain.
    assert!(took <= 3 * S, "{took:?}");
    assert_eq!(world.hosts[0].dials[0].1, world.stuns[0].at);
}

#[test]
fn a_turn_servers_address_that_refuses_datagrams_costs_a_round_trip() {
    let allocated = |refuses: bool| {
        let mut world = World::new(9);
        world.add_broker();
        world.add_turn();
        let first = SocketAddr::new([203, 0, 113, 201].into(), 3478);
        if refuses {
            world.silent.insert("turn0.test".into(), vec![first.ip()]);
            world.ports.insert(first, Port::Refused);
        }
        for _ in 0..2 {
            world.behind_nat(|_| {});
        }
        world.run(2 * S);
        let id = world.connect(0, &world.address(1), relay(20));
        let allocated =
            |w: &World| w.stages(0, id, Strategy::Relay).iter().any(|s| matches!(s, Stage::Allocated(_)));
        world.run_until(5 * S, |w| allocated(w))
    };
    assert_eq!(allocated(true), allocated(false) + 2 * LATENCY);
}

#[test]
fn a_mapping_is_kept_by_another_server_and_asked_for_ever_less_while_none_answers() {
    let mut world = World::new(1);
    world.add_broker();
    let at = [0, 1].map(|n| {
        assert_eq!(world.add_stun(), n);
        world.stuns[n].at
    });
    world.host([192, 168, 7, 2].into(), [203, 0, 113, 7].into(), |_| {});
    world.run(10 * S);
    world.stuns[0].tcp = Tcp::Silent;
    world.stuns[1].tcp = Tcp::Silent;
    let dials = |world: &World, began| -> Vec<(u64, usize)> {
        let dials = world.hosts[0].dials.iter().filter(|(when, _)| *when >= began);
        let of = |to| at.iter().position(|at| *at == to);
        dials.filter_map(|(when, to)| Some((when.since(began).as_secs(), of(*to)?))).collect()
    };
    let began = world.now;
    world.run(3600 * S);
    let found = dials(&world, began);
    assert!((10..20).contains(&found.len()), "{found:?}");
    assert!(found.windows(2).skip(1).all(|pair| pair[0].1 != pair[1].1), "in turn: {found:?}");
    let last = &found[found.len() - 3..];
    assert!(last.windows(2).all(|pair| pair[1].0 - pair[0].0 == 300), "{found:?}");
    world.stuns[1].tcp = Tcp::Truth;
    world.run(601 * S);
    let began = world.now;
    world.run(3600 * S);
    assert_eq!(dials(&world, began), [], "the connection is kept");
}
