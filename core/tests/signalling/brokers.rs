//! Brokers that lie, fall silent, refuse and come back.

use std::time::Duration;

use crate::common::broker::Greeting;
use crate::common::view::{only, reverse};
use crate::common::{LATENCY, MS, S, World};
use p2pd_core::io::Interface;
use p2pd_core::nat::NatMemory;
use p2pd_core::{BrokerLoss, BrokerState, Event, FailReason, IoFailure, Login, Stage, Strategy};
use p2pd_rendezvous::mqtt::packet::publish;

const READY: BrokerState = BrokerState::Ready;

fn lost(why: BrokerLoss) -> BrokerState {
    BrokerState::Lost(why)
}

/// A world of one node and one broker, which `change` bends before they meet.
fn world(seed: u8, change: impl FnOnce(&mut World)) -> World {
    let mut world = World::new(seed);
    world.add_broker();
    change(&mut world);
    world.open(|_| {});
    world.run(200 * MS);
    world
}

fn greeted(greeting: Greeting) -> World {
    world(1, |w| w.brokers[0].greeting = greeting)
}

#[test]
fn a_broker_that_refuses_us_is_told_with_its_code() {
    for code in 1..=5 {
        let world = greeted(Greeting::Connack(code));
        assert_eq!(world.broker_states(0, 0), [lost(BrokerLoss::Refused(code))]);
    }
}

#[test]
fn what_is_no_mqtt_ends_the_session() {
    let ping = vec![0xd0, 0];
    let two_connacks = vec![0x20, 2, 0, 0, 0x20, 2, 0, 0];
    let long = vec![0x32, 0xff, 0xff, 0xff, 0xff, 0x01];
    for bytes in [vec![0xff; 8], b"HTTP/1.1 400".to_vec(), vec![0x20, 2, 0, 9], ping, two_connacks, long] {
        let world = greeted(Greeting::Bytes(bytes.clone()));
        assert_eq!(world.broker_states(0, 0), [lost(BrokerLoss::Malformed)], "{bytes:?}");
        assert_eq!(world.brokers[0].subscribers(), 0);
    }
}

#[test]
fn a_session_that_breaks_is_built_up_again() {
    let oversize_header = [0x32, 0xc0, 0x84, 0x3d];
    let someone_elses_suback = [0x90, 3, 0, 99, 1];
    let qos_2 = [0x34, 7, 0, 1, b'x', 0, 1, 2, 3];
    for bytes in [&[0xff, 0xff][..], &oversize_header, &someone_elses_suback, &qos_2] {
        let mut world = world(1, |_| {});
        assert_eq!(world.broker_states(0, 0), [READY]);
        world.broker_says(0, bytes);
        world.run(LATENCY);
        assert_eq!(world.broker_states(0, 0), [READY, lost(BrokerLoss::Malformed)], "{bytes:?}, at once");
        world.run(2 * S);
        assert_eq!(world.broker_states(0, 0)[2..], [READY]);
        let ids = &world.brokers[0].client_ids;
        assert!(ids.len() == 2 && ids[0] != ids[1], "another client id: {ids:?}");
    }
}

#[test]
fn foreign_messages_are_counted_and_dropped() {
    let mut world = world(1, |_| {});
    let topic = world.id(0).topic().to_string();
    for packet in [
        publish("somebody/else", b"x", Some(7), false, false),
        publish(&topic, &[1; 2049], Some(7), false, false),
        publish(&topic, b"", Some(7), false, false),
        publish(&topic, b"old", Some(7), false, true),
    ] {
        world.broker_says(0, &packet);
    }
    world.run(S);
    assert_eq!(world.stats(0), only(|s| s.bad_messages = 4));
    assert_eq!(world.broker_states(0, 0), [READY]);
}

#[test]
fn a_good_message_that_was_retained_or_is_on_another_topic_is_dropped() {
    let mut world = world(1, |_| {});
    let caller = world.open(|_| {});
    world.run(S);
    world.brokers[0].bend = Box::new(|_| Vec::new());
    world.connect(caller, &world.address(0), reverse(1));
    world.run(2 * S);
    let request = world.published_to(0).last().unwrap().payload.clone();
    let topic = world.id(0).topic().to_string();
    world.broker_says(0, &publish(&topic, &request, Some(7), false, true));
    world.broker_says(0, &publish("somebody/else", &request, Some(7), false, false));
    world.run(S);
    assert_eq!(world.stats(0), only(|s| s.bad_messages = 2));
    assert!(world.dialled(0).is_empty());
    world.publish(0, 0, &request);
    world.run(S);
    assert_eq!(world.dialled(0).len(), 1, "it was good");
}

#[test]
fn a_broker_that_never_answers_connect_is_given_up_after_8_seconds() {
    let mut world = greeted(Greeting::Silence);
    let took = world.run_until(20 * S, |w| !w.broker_states(0, 0).is_empty());
    assert_eq!(world.broker_states(0, 0), [lost(BrokerLoss::Silent)]);
    assert!((7800 * MS..8 * S).contains(&took), "{took:?}");
    assert_eq!(world.ready(0).map(|(at, _)| at), Some(4 * S), "the address does not wait for it");
}

#[test]
fn an_idle_session_is_kept_alive() {
    let mut world = world(1, |_| {});
    world.run(1750 * S);
    assert_eq!(world.broker_states(0, 0), [READY]);
    // Longer each time, then at multiples of five minutes.
    let pauses = pauses(&world);
    assert_eq!(pauses, [40, 80, 160, 300, 300, 300, 300], "{pauses:?}");
}

/// Returns the times between pings, in seconds.
fn pauses(world: &World) -> Vec<u64> {
    let pings = &world.brokers[0].pings;
    pings.windows(2).map(|p| (p[1].since(p[0]) + 400 * MS).as_secs()).collect()
}

#[test]
fn a_later_run_in_the_same_network_begins_with_what_the_nat_was_seen_to_remember() {
    let mut first = world(1, |_| {});
    first.run(200 * S);
    let told: Vec<NatMemory> = first.hosts[0]
        .events
        .iter()
        .filter_map(|(_, event)| match event {
            Event::NatMemory(memory) => Some(*memory),
            _ => None,
        })
        .collect();
    let held: Vec<u64> = told.iter().map(|memory| memory.held.as_secs()).collect();
    assert_eq!(held, [40, 80]);
    for (elsewhere, expected) in [(false, [160, 300]), (true, [40, 80])] {
        let mut later = World::new(2);
        later.add_broker();
        let outside = if elsewhere { [198, 51, 100, 99] } else { [203, 0, 113, 1] };
        later.host(outside.into(), outside.into(), |c| c.nat_memory = told.clone());
        later.run(600 * S);
        assert_eq!(pauses(&later)[..2], expected, "elsewhere: {elsewhere}");
    }
}

#[test]
fn a_broker_that_takes_no_long_keep_alive_is_told_a_shorter_one() {
    for (most, every) in [(120, 40), (59, 13)] {
        let mut world = world(1, |w| w.brokers[0].most_silence = most);
        world.run(900 * S);
        let refused = lost(BrokerLoss::Refused(2));
        let expected = if most > 60 { vec![refused, READY] } else { vec![refused, refused, READY] };
        assert_eq!(world.broker_states(0, 0), expected);
        assert!(pauses(&world).iter().all(|pause| *pause <= every), "{:?}", pauses(&world));
    }
}

#[test]
fn a_broker_that_ends_sessions_which_are_silent_for_a_minute_is_pinged_in_time() {
    let mut world = world(1, |_| {});
    let mut cuts = 0;
    for _ in 0..3600 {
        world.run(S);
        let broker = &world.brokers[0];
        let last = broker.connects.iter().chain(&broker.pings).max().copied().unwrap();
        if broker.subscribers() == 1 && world.now.since(last) >= 60 * S {
            cut(&mut world);
            cuts += 1;
        }
    }
    assert_eq!(cuts, 2);
    assert!(pauses(&world).iter().rev().take(20).all(|pause| *pause <= 30), "{:?}", pauses(&world));
}

#[test]
fn a_session_that_is_lost_as_the_network_moves_says_nothing_of_nats() {
    for moves in [false, true] {
        let mut world = world(1, |_| {});
        // The first ping is no trial.
        world.run(30 * S);
        world.brokers[0].answers = false;
        let ip = world.hosts[0].inside;
        let before = world.brokers[0].pings.len();
        world.run_until(100 * S, |w| w.brokers[0].pings.len() > before);
        if moves {
            let gateway = Some([10, 0, 0, 1].into());
            let interface = Interface { default_route: true, gateway, ..Interface::new(7, ip, 24) };
            world.roam(0, &[interface], [203, 0, 113, 77].into());
        }
        world.run_until(10 * S, |w| w.broker_states(0, 0).len() == 2);
        world.brokers[0].answers = true;
        world.run(5 * S);
        assert_eq!(world.broker_states(0, 0), [READY, lost(BrokerLoss::Silent), READY], "moves: {moves}");
        world.run(100 * S);
        let mut told = world.hosts[0].events.iter().filter_map(|(_, event)| match event {
            Event::NatMemory(memory) => memory.lost,
            _ => None,
        });
        assert_eq!(told.next().is_some(), !moves, "moves: {moves}");
    }
}

#[test]
fn whether_a_message_arrives_after_a_long_silence_is_asked_with_it() {
    let mut world = world(1, |_| {});
    let peer = world.open(|_| {});
    world.run(700 * S);
    world.brokers[0].answers = false;
    world.brokers[0].bend = Box::new(|_| Vec::new());
    world.connect(0, &world.address(peer), reverse(20));
    let took = world.run_until(20 * S, |w| w.broker_states(0, 0).len() == 2);
    assert_eq!(world.broker_states(0, 0)[1], lost(BrokerLoss::Silent));
    assert!(took <= 8 * S + 100 * MS, "{took:?}");
}

#[test]
fn a_broker_that_falls_silent_is_noticed_whether_we_are_idle_or_busy() {
    for busy in [false, true] {
        let mut world = world(1, |_| {});
        let peer = world.open(|_| {});
        world.run(S);
        world.brokers[0].answers = false;
        world.brokers[0].bend = Box::new(|_| Vec::new());
        let mut took = Duration::ZERO;
        while world.broker_states(0, 0).len() == 1 && took < 100 * S {
            if busy {
                world.connect(0, &world.address(peer), reverse(4));
            }
            world.run(S);
            took += S;
        }
        assert_eq!(world.broker_states(0, 0)[1], lost(BrokerLoss::Silent), "busy: {busy}");
        assert!(took <= 33 * S, "busy: {busy}, {took:?}");
    }
}

#[test]
fn a_broker_that_says_nothing_is_sent_no_more_than_64_messages() {
    let mut world = world(1, |_| {});
    let peer = world.open(|_| {});
    world.run(S);
    let before = world.published_to(peer).len();
    world.brokers[0].answers = false;
    world.brokers[0].bend = Box::new(|_| Vec::new());
    let calls: Vec<_> = (0..80).map(|_| world.connect(0, &world.address(peer), reverse(20))).collect();
    world.run(S);
    assert_eq!(world.published_to(peer).len() - before, 64);
    assert_eq!(world.brokers[0].pings.len(), 1, "it is asked whether it lives");
    // The others wait for it.
    let stage = Stage::Requested { brokers: 1 };
    let taken = calls.iter().filter(|id| world.stages(0, **id, Strategy::Reverse).contains(&stage)).count();
    assert_eq!(taken, 80);
    world.run(8 * S);
    assert_eq!(world.broker_states(0, 0)[..2], [READY, lost(BrokerLoss::Silent)]);
}

#[test]
fn a_name_that_does_not_exist_is_told() {
    let mut world = World::new(1);
    world.add_broker();
    world.open(|c| c.brokers[0].host = "nowhere.test".into());
    world.run(100 * MS);
    assert_eq!(world.broker_states(0, 0), [lost(BrokerLoss::Io(IoFailure::NoSuchName))]);
}

/// Returns the pauses between a loss and the next try of a session: the first losses of a broker that never works.
fn gaps(seed: u8, change: impl FnOnce(&mut World)) -> Vec<Duration> {
    let mut world = world(seed, change);
    world.run(400 * S);
    let dials: Vec<_> = world.hosts[0].dials.iter().map(|(at, _)| *at).collect();
    dials.windows(2).map(|d| d[1].since(d[0])).collect()
}

#[test]
fn tries_are_spaced_by_a_growing_and_drawn_time() {
    type Change = fn(&mut World);
    let bends: [(&str, Change); 5] = [
        ("down", |w| w.brokers[0].up = false),
        ("refuses us", |w| w.brokers[0].greeting = Greeting::Connack(3)),
        ("refuses the subscription", |w| w.brokers[0].suback = 128),
        ("garbage", |w| w.brokers[0].greeting = Greeting::Bytes(vec![0xff])),
        ("silent", |w| w.brokers[0].greeting = Greeting::Silence),
    ];
    for (what, change) in bends {
        let found = gaps(1, change);
        assert!((9..16).contains(&found.len()), "{what}: {found:?}");
        // A subscription is asked for three times, and CONNECT is waited for. The next try need not wait as long again.
        let tried = match what {
            "refuses the subscription" => 2 * S,
            "silent" => 8 * S,
            _ => Duration::ZERO,
        };
        for (n, gap) in found.iter().enumerate() {
            let (full, least) = ((S * (1 << n.min(10))).min(60 * S), tried + 500 * MS);
            // Look-up, dial and answer are in it too.
            let expected = least.max(full / 2)..least.max(full) + 200 * MS;
            assert!(expected.contains(gap), "{what}, number {n}: {found:?}");
        }
        assert_eq!(gaps(1, change), found, "{what}: the same seed");
        assert_ne!(gaps(2, change), found, "{what}: another seed");
    }
}

#[test]
fn a_session_that_worked_is_tried_again_soon() {
    let mut world = world(1, |w| w.brokers[0].up = false);
    world.run(100 * S);
    world.brokers[0].up = true;
    world.run(130 * S);
    assert_eq!(world.broker_states(0, 0).last(), Some(&READY));
    world.kill_broker(0);
    world.brokers[0].up = true;
    let took = world.run_until(60 * S, |w| w.brokers[0].subscribers() == 1);
    assert!(took <= S + 100 * MS, "{took:?}");
}

#[test]
fn the_address_names_the_first_two_brokers_that_work_and_keeps_them() {
    let mut world = World::new(1);
    for _ in 0..4 {
        world.add_broker();
    }
    world.brokers[0].up = false;
    world.open(|_| {});
    world.run(S);
    let (at, address) = world.ready(0).unwrap();
    assert!(at < 200 * MS, "{at:?}");
    assert_eq!(address.brokers(), [2, 3]);
    let address = address.clone();
    world.brokers[0].up = true;
    world.run(10 * S);
    world.kill_broker(1);
    world.run(60 * S);
    assert_eq!(world.ready(0).unwrap().1, &address);
}

#[test]
fn a_shutdown_takes_leave_of_the_broker_and_ends_every_call() {
    let mut world = world(1, |_| {});
    let peer = world.open(|_| {});
    world.run(S);
    world.brokers[0].bend = Box::new(|_| Vec::new());
    let id = world.connect(0, &world.address(peer), reverse(20));
    world.run(S);
    world.shutdown(0);
    world.run(S);
    assert_eq!(world.failed(0, id).0, FailReason::Shutdown);
    assert_eq!(
        (world.brokers[0].farewells, world.brokers[0].subscribers()),
        (1, 1),
        "the peer is still there"
    );
    assert_eq!(world.hosts[0].events.last().map(|(_, n)| n), Some(&Event::Closed));
    assert!(world.hosts[0].node.poll_timeout().is_none() && world.hosts[0].node.poll_output().is_none());
}

/// The broker ends the session that it has, and takes new ones at once.
fn cut(world: &mut World) {
    world.kill_broker(0);
    world.brokers[0].up = true;
}

fn times_ready(world: &World) -> usize {
    world.broker_states(0, 0).iter().filter(|s| **s == READY).count()
}

#[test]
fn sessions_that_end_at_once_are_spaced_as_if_they_had_failed() {
    let mut world = world(1, |_| {});
    let began = world.now;
    for n in 1..=8 {
        cut(&mut world);
        world.run_until(100 * S, |w| times_ready(w) > n);
        assert_eq!(times_ready(&world), n + 1);
    }
    // 1, 2, 4, 8, 16, 32, 60 and 60 s, each drawn from its upper half.
    let took = world.now.since(began);
    assert!((90 * S..184 * S).contains(&took), "{took:?}");
    // One that has lived a minute starts anew.
    world.run(61 * S);
    cut(&mut world);
    let took = world.run_until(100 * S, |w| times_ready(w) > 9);
    assert!((500 * MS..S + 200 * MS).contains(&took), "{took:?}");
}

#[test]
fn a_broker_that_ends_sessions_at_our_messages_is_told_and_none_is_sent_twice() {
    let mut world = world(1, |_| {});
    let peer = world.open(|_| {});
    world.run(S);
    world.brokers[0].ends_at = usize::MAX;
    world.connect(0, &world.address(peer), reverse(60));
    world.run(30 * S);
    let mut payloads: Vec<_> = world.published_to(peer).iter().map(|p| p.payload.clone()).collect();
    let all = payloads.len();
    payloads.sort();
    payloads.dedup();
    assert_eq!(payloads.len(), all, "what ended a session is not sent again by itself");
    let said = |world: &World| {
        world.broker_states(0, 0).iter().filter(|s| **s == BrokerState::EndsAtMessages).count()
    };
    assert_eq!(said(&world), 1, "{:?}", world.broker_states(0, 0));
    world.run(60 * S);
    assert_eq!(said(&world), 1, "once");
}

#[test]
fn a_broker_that_swallows_what_we_publish_is_not_announced() {
    let mut world = World::new(1);
    world.add_broker();
    world.brokers[0].bend = Box::new(|_| Vec::new());
    world.open(|_| {});
    world.run(20 * S);
    assert_eq!(world.broker_states(0, 0), [READY]);
    assert_eq!(
        world.ready(0).map(|(at, a)| (at, a.brokers().len())),
        Some((4 * S, 0)),
        "it is not waited for"
    );
    world.run(10 * S);
    assert_eq!(world.broker_states(0, 0), [READY, BrokerState::Swallows]);
    world.run(60 * S);
    assert_eq!(world.broker_states(0, 0), [READY, BrokerState::Swallows], "said once");
    assert!(world.address(0).brokers().is_empty());
    // It is asked again at each ping.
    world.brokers[0].bend = Box::new(|message| vec![(Duration::ZERO, message.payload.clone())]);
    world.run(26 * S);
    assert_eq!(world.address(0).brokers(), [1]);
}

#[test]
fn a_refused_subscription_is_asked_for_again_after_a_second() {
    for refusals in 0..=3 {
        let mut world = World::new(1);
        world.add_broker();
        world.brokers[0].subacks = vec![128; refusals].into();
        world.open(|_| {});
        world.run(1500 * MS + (if refusals > 1 { S } else { Duration::ZERO }));
        let asked: Vec<u8> = world.brokers[0].subscribes.iter().map(|(_, qos)| *qos).collect();
        let first = world.brokers[0].subscribes[0].0;
        let at: Vec<_> = world.brokers[0].subscribes.iter().map(|(at, _)| at.since(first)).collect();
        let trip = 2 * LATENCY;
        let pauses = [Duration::ZERO, S + trip, 2 * (S + trip)];
        let n = (refusals + 1).min(3);
        assert_eq!((&asked[..n], &at[..n]), (&[0, 0, 0][..n], &pauses[..n]), "{refusals} refusals");
        let expected = if refusals < 3 { READY } else { lost(BrokerLoss::SubscriptionRefused) };
        assert_eq!(world.broker_states(0, 0)[0], expected, "{refusals} refusals");
    }
}

#[test]
fn a_broker_that_grants_and_takes_nothing_but_qos_0_is_used() {
    let mut world = world(1, |world| world.brokers[0].suback = 0);
    let peer = world.open(|_| {});
    world.run(S);
    let call = world.connect(0, &world.address(peer), reverse(5));
    world.run(S);
    world.assert_piped(0, call, peer, &[]);
    assert_eq!(world.broker_states(0, 0), [READY], "in one session");
    assert_eq!(world.brokers[0].connects.len(), 2);
}

#[test]
fn a_broker_is_told_user_name_and_password_where_the_list_has_them() {
    for (login, told) in [
        (None, (None, None)),
        (Some(Login::new("alice", None)), (Some("alice"), None)),
        (Some(Login::new("alice", Some("s3cret"))), (Some("alice"), Some("s3cret"))),
    ] {
        let mut world = World::new(1);
        world.add_broker();
        world.brokers[0].config.login = login;
        world.open(|_| {});
        world.run(S);
        let (user, password) = &world.brokers[0].logins[0];
        assert_eq!((user.as_deref(), password.as_deref()), told);
    }
}
