//! The outside address, by STUN servers that answer, do not, or lie.

use crate::common::stun::{Tcp, Udp};
use crate::common::view::{only, reverse};
use crate::common::{LATENCY, MS, S, World};
use p2pd_core::{Stage, Stats, Strategy};

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
    assert_eq!(found(&world), (3 * S + 5 * LATENCY, OUTSIDE.into()));
    assert_eq!([world.stuns[0].asked, world.stuns[1].asked], [(3, 1), (3, 0)]);
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
        assert_eq!(found(&world), (3 * S + 5 * LATENCY, OUTSIDE.into()), "{udp:?}: TCP told");
        assert_eq!(world.stats(0), only(|s| s.bad_stun = 3), "each of three questions");
    }
    let world = world(1, |w| (w.stuns[0].udp, w.stuns[0].tcp) = (Udp::Silent, Tcp::WrongTransaction));
    assert_eq!(found(&world), (3 * S + 5 * LATENCY, INSIDE.into()));
    assert_eq!(world.stats(0), only(|s| s.bad_stun = 1));
}

#[test]
fn a_late_answer_counts_while_udp_is_waited_for_and_not_after() {
    let world = world(1, |w| w.stuns[0].udp = Udp::Late(2 * S));
    assert_eq!(found(&world), (2 * S + LATENCY, OUTSIDE.into()));
    assert_eq!(world.stuns[0].asked, (3, 0));
    let world = self::world(1, |w| w.stuns[0].udp = Udp::Late(4 * S));
    assert_eq!(found(&world), (3 * S + 5 * LATENCY, OUTSIDE.into()), "by TCP");
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
fn a_request_waits_until_the_address_in_it_is_known() {
    let mut world = World::new(4);
    world.add_stun();
    world.add_broker();
    world.stuns[0].udp = Udp::Silent;
    // The caller is open, so that it can be dialled back, but learns its address late.
    world.open(|_| {});
    world.behind_nat(|c| c.stun.clear());
    world.run(S);
    let id = world.connect(0, &world.address(1), reverse(20));
    world.run(S);
    assert_eq!(world.stages(0, id, Strategy::Reverse), [Stage::Started, Stage::AwaitingBroker]);
    world.run(2 * S);
    assert_eq!(world.stages(0, id, Strategy::Reverse)[2], Stage::Requested { brokers: 1 });
    world.assert_piped(0, id, 1, &[]);
}
