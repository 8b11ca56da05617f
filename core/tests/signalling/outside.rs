//! The outside address, by STUN servers that answer, do not, or lie.

use crate::common::stun::{Tcp, Udp};
use crate::common::view::{only, plan, relay, reverse};
use crate::common::{LATENCY, MS, Port, S, World};
use p2pd_core::{Accept, Stage, Stats, Strategy};

const OUTSIDE: &str = "203.0.113.1";
const INSIDE: &str = "192.168.0.2";

/// A node behind a NAT and so many STUN servers, bent before they meet. The NAT itself is not measured.
fn world(servers: usize, change: impl FnOnce(&mut World)) -> World {
    let mut world = World::new(4);
    for _ in 0..servers {
        world.add_stun();
    }
    change(&mut world);
    world.behind_nat(|c| c.survey = false);
    world.run(20 * S);
    world
}

/// Returns the time of `Ready`, and the outside address in it.
fn found(world: &World) -> (std::time::Duration, String) {
    let (at, address) = world.ready(0).expect("ready");
    assert_eq!(address.v4()[0].internal.to_string(), INSIDE);
    (at, address.v4()[0].external.to_string())
}

#[test]
fn servers_that_answer_give_the_outside_address_at_once() {
    for servers in 1..=4 {
        let world = world(servers, |_| {});
        // Two that agree are enough; the look-up takes one latency, question and answer two.
        assert_eq!(found(&world), (3 * LATENCY, OUTSIDE.into()));
        let asked: Vec<_> = world.stuns.iter().map(|s| s.asked).collect();
        assert_eq!(asked, [(1, 0), (1, 0), (1, 0), (0, 0)][..servers], "three at most, once each");
        assert_eq!(world.stats(0), Stats::default());
    }
}

#[test]
fn where_udp_is_silent_tcp_is_asked() {
    let world = world(2, |w| w.stuns.iter_mut().for_each(|s| s.udp = Udp::Silent));
    // Look-up, then a second; the dial takes two latencies, question and answer two.
    assert_eq!(found(&world), (S + 5 * LATENCY, OUTSIDE.into()));
    assert_eq!([world.stuns[0].asked, world.stuns[1].asked], [(2, 1), (2, 1)]);
    assert_eq!(world.stats(0), Stats::default());
}

#[test]
fn one_server_of_two_that_is_dead_holds_nothing_up_over_tcp() {
    for dead in 0..2 {
        let world = world(2, |w| {
            w.stuns.iter_mut().for_each(|s| s.udp = Udp::Silent);
            w.stuns[dead].tcp = Tcp::Silent;
        });
        assert_eq!(found(&world), (S + 5 * LATENCY, OUTSIDE.into()), "{dead}");
    }
}

#[test]
fn after_a_second_one_answer_of_three_is_enough() {
    for alive in 0..3 {
        let world = world(3, |w| {
            for dead in (0..3).filter(|n| *n != alive) {
                (w.stuns[dead].udp, w.stuns[dead].tcp) = (Udp::Silent, Tcp::Silent);
            }
        });
        assert_eq!(found(&world), (S + LATENCY, OUTSIDE.into()), "{alive}");
        assert_eq!(world.stuns[alive].asked, (1, 0));
    }
}

#[test]
fn where_nothing_answers_the_node_is_ready_all_the_same() {
    for tcp in [Tcp::Silent, Tcp::Shut] {
        let world = world(2, |w| {
            for stun in &mut w.stuns {
                (stun.udp, stun.tcp) = (Udp::Silent, tcp);
            }
        });
        let (at, address) = found(&world);
        assert_eq!(address, INSIDE);
        assert!(at <= 6 * S + 100 * MS, "{tcp:?}: {at:?}");
    }
}

#[test]
fn names_that_do_not_exist_hold_nothing_up() {
    let mut world = World::new(4);
    world.behind_nat(|c| {
        c.stun.push(p2pd_core::StunServer { host: "nowhere.test".into(), port: 3478 });
    });
    world.run(S);
    assert_eq!(found(&world), (LATENCY, INSIDE.into()));
}

#[test]
fn an_answer_from_elsewhere_or_to_another_question_is_not_believed() {
    for udp in [Udp::OtherSource, Udp::WrongTransaction] {
        let world = world(1, |w| w.stuns[0].udp = udp);
        assert_eq!(found(&world), (S + 5 * LATENCY, OUTSIDE.into()), "{udp:?}: TCP told");
        assert_eq!(world.stats(0), only(|s| s.bad_stun = 2), "each of two questions");
    }
    let world = world(1, |w| (w.stuns[0].udp, w.stuns[0].tcp) = (Udp::Silent, Tcp::WrongTransaction));
    assert_eq!(found(&world), (3 * S + LATENCY, INSIDE.into()));
    assert_eq!(world.stats(0), only(|s| s.bad_stun = 1));
}

#[test]
fn a_late_answer_counts_while_udp_is_waited_for_and_not_after() {
    let late = |tcp, by| world(1, |w| (w.stuns[0].udp, w.stuns[0].tcp) = (Udp::Late(by), tcp));
    let world = late(Tcp::Silent, 2 * S);
    assert_eq!(found(&world), (2 * S + LATENCY, OUTSIDE.into()));
    assert_eq!(world.stuns[0].asked.0, 3);
    let world = late(Tcp::Silent, 5 * S);
    assert_eq!(found(&world), (4 * S + LATENCY, INSIDE.into()));
    let world = late(Tcp::Truth, 2 * S);
    assert_eq!(found(&world), (S + 5 * LATENCY, OUTSIDE.into()), "by TCP");
    assert_eq!(world.stats(0), Stats::default());
}

#[test]
fn two_that_agree_outvote_a_liar() {
    for liar in 0..3 {
        let world = world(3, |w| w.stuns[liar].udp = Udp::Claims("198.51.100.99".parse().unwrap()));
        assert_eq!(found(&world), (3 * LATENCY, OUTSIDE.into()), "liar {liar}");
    }
}

#[test]
fn an_address_that_nobody_could_dial_is_not_announced() {
    for nowhere in ["0.0.0.0", "224.0.0.1", "255.255.255.255"] {
        let world = world(1, |w| w.stuns[0].udp = Udp::Claims(nowhere.parse().unwrap()));
        assert_eq!(found(&world).1, INSIDE, "{nowhere}");
    }
}

#[test]
fn a_request_waits_a_second_for_the_address_in_it_and_is_made_again_once_that_is_known() {
    // The peer dials what it is told, or refuses to dial anything inside for a stranger.
    for named in [true, false] {
        let mut world = World::new(4);
        world.add_stun();
        world.add_broker();
        (world.stuns[0].udp, world.stuns[0].tcp) = (Udp::Late(2 * S), Tcp::Silent);
        // The caller can be dialled from outside, but learns its address late; inside nobody is there.
        let (inside, outside) = ([192, 168, 0, 2], [203, 0, 113, 1]);
        world.host(inside.into(), outside.into(), |c| c.survey = false);
        let caller = world.id(0);
        world.behind_nat(|c| {
            c.stun.clear();
            if named {
                c.accept = Accept::Only([caller].into());
            }
        });
        world.run(100 * MS);
        world.ports.insert((inside, 4000).into(), Port::Blackholed);
        let id = world.connect(0, &world.address(1), reverse(20));
        world.run(900 * MS);
        assert_eq!(world.stages(0, id, Strategy::Reverse), [Stage::Started, Stage::AwaitingBroker]);
        world.run(200 * MS);
        assert_eq!(world.stages(0, id, Strategy::Reverse)[2], Stage::Requested { brokers: 1 });
        world.run(800 * MS);
        assert!(!world.is_over(0, id), "{named}");
        world.run(S);
        let asked = |stage: &&Stage| matches!(stage, Stage::Requested { .. });
        assert_eq!(world.stages(0, id, Strategy::Reverse).iter().filter(asked).count(), 2, "{named}");
        let dialled = world.dialled(1);
        assert!(dialled.iter().any(|to| to.ip().to_string() == OUTSIDE), "{named}: {dialled:?}");
    }
}

#[test]
fn where_no_server_answers_a_peer_within_reach_is_asked_after_a_second() {
    let mut world = World::new(4);
    world.add_stun();
    world.add_broker();
    (world.stuns[0].udp, world.stuns[0].tcp) = (Udp::Silent, Tcp::Silent);
    world.behind_nat(|_| {});
    let caller = world.id(0);
    world.behind_nat(|c| c.accept = Accept::Only([caller].into()));
    world.run(100 * MS);
    let id = world.connect(0, &world.address(1), reverse(20));
    let took = world.run_until(7 * S, |w| w.is_over(0, id));
    assert!(took <= S + 200 * MS, "{took:?}");
    world.run(100 * MS);
    world.assert_piped(0, id, 1, &[]);
}

#[test]
fn a_relay_waits_for_no_stun_server() {
    let mut world = World::new(4);
    world.add_stun();
    world.add_stun();
    world.add_broker();
    world.add_turn();
    // The responder has to know where it comes from.
    (world.stuns[0].udp, world.stuns[0].tcp) = (Udp::Silent, Tcp::Silent);
    world.behind_nat(|c| c.stun.truncate(1));
    world.behind_nat(|c| drop((c.stun.remove(0), c.turn.clear())));
    world.run(200 * MS);
    let id = world.connect(0, &world.address(1), relay(20));
    let took = world.run_until(7 * S, |w| w.is_over(0, id));
    assert!(took <= S, "{took:?}");
}

#[test]
fn a_punch_waits_for_no_dial_of_the_peer_s_while_a_nat_may_hide_us() {
    for (public, begun) in [(false, 1), (true, 0)] {
        let mut world = World::new(4);
        world.add_stun();
        world.add_broker();
        // The peer's address says that a NAT hides it, so that nothing but our own side gives the others a head start.
        world.behind_nat(|_| {});
        world.run(S);
        let address = world.address(0);
        world.stuns[0].udp = Udp::Silent;
        let caller = if public { world.open(|_| {}) } else { world.behind_nat(|_| {}) };
        let id = world.connect(
            caller,
            &address,
            plan(&[Strategy::Direct, Strategy::Reverse, Strategy::Punch], 20),
        );
        world.run(200 * MS);
        assert_eq!(world.stages(caller, id, Strategy::Punch).len().min(1), begun, "{public}");
        world.run(100 * MS);
        assert!(!world.stages(caller, id, Strategy::Punch).is_empty(), "{public}");
    }
}
