//! Work and memory that a peer whom nobody named can cause at a node.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::common::hand::{Script, Then};
use crate::common::view::{direct, only, reverse};
use crate::common::{LATENCY, MS, Port, S, World};
use p2pd_core::io::Interface;
use p2pd_core::{Accept, Advice, ConnectId, FailReason, Input, Outcome, Refusal, Stage, Strategy};

/// Node 0, which strangers know.
fn world(accept: Accept) -> World {
    let mut world = World::new(9);
    world.add_broker();
    world.open(|c| c.accept = accept);
    world
}

/// A node that claims to have these addresses. Nobody answers there.
fn stranger(world: &mut World, claims: &[&str]) -> usize {
    let interface = |(n, ip): (usize, &&str)| Interface {
        default_route: true,
        ..Interface::new(n as u32 + 1, ip.parse().unwrap(), 32)
    };
    let interfaces: Vec<Interface> = claims.iter().enumerate().map(interface).collect();
    let at = world.host_with(&interfaces, interfaces[0].ip, |_| {});
    for interface in interfaces {
        world.ports.insert((interface.ip, 4000).into(), Port::Blackholed);
    }
    at
}

/// Adds so many strangers, each with an address of its own.
fn strangers(world: &mut World, count: u16) -> Vec<usize> {
    (0..count).map(|n| stranger(world, &[&format!("5.0.{}.{}", n >> 8, n & 255)])).collect()
}

fn call(world: &mut World, from: usize) -> (usize, ConnectId) {
    (from, world.connect(from, &world.address(0), reverse(60)))
}

#[test]
fn a_stranger_has_two_of_its_addresses_dialled_once_each() {
    let mut world = world(Accept::Anyone);
    let claims = ["5.0.0.1", "5.0.0.2", "5.0.0.3"];
    let from = stranger(&mut world, &claims);
    world.run(S);
    assert_eq!(world.address(from).v4().len(), 3);
    let (_, id) = call(&mut world, from);
    world.run(30 * S);
    let to = |n: usize| format!("{}:4000", claims[n]).parse().unwrap();
    assert_eq!(world.dialled(0), [to(0), to(1)]);
    let detail = world.failed(from, id).2;
    assert_eq!(detail, "the peer dialled 2 address(es) of ours without success, and tells strangers no more");
}

#[test]
fn a_peer_that_our_user_named_has_them_all_dialled() {
    let mut world = world(Accept::Anyone);
    let peer = stranger(&mut world, &["5.0.0.1", "5.0.0.2", "5.0.0.3"]);
    world.run(S);
    world.answer(0, world.id(peer), true);
    call(&mut world, peer);
    world.run(S);
    assert_eq!(world.dialled(0).len(), 3);
}

#[test]
fn a_peer_is_named_by_our_call_as_long_as_one_runs() {
    let mut world = world(Accept::Anyone);
    let peer = stranger(&mut world, &["5.0.0.1", "5.0.0.2", "5.0.0.3"]);
    world.run(S);
    let ours = [0, 1].map(|_| world.connect(0, &world.address(peer), direct(20)));
    world.run(S);
    let dialled = |world: &mut World| {
        world.hosts[0].dials.clear();
        call(world, peer);
        world.run(S);
        world.dialled(0).len()
    };
    assert_eq!(dialled(&mut world), 3);
    world.cancel(0, ours[0]);
    assert_eq!(dialled(&mut world), 3, "the other call runs");
    world.cancel(0, ours[1]);
    // Until those dials are over, since a stranger has one request in flight.
    world.run(6 * S);
    assert_eq!(dialled(&mut world), 2);
}

#[test]
fn a_stranger_cannot_point_a_node_into_private_space() {
    let mut world = world(Accept::Anyone);
    let from = stranger(&mut world, &["10.0.0.1", "192.168.7.7", "100.64.0.9"]);
    world.run(S);
    let (_, id) = call(&mut world, from);
    world.run(S);
    assert!(world.dialled(0).is_empty());
    let detail = format!(
        "the peer dials nothing inside for strangers: ask its owner for `--accept {}`, or connect from where it can be \
         dialled",
        world.id(from)
    );
    assert_eq!(world.failed(from, id), (FailReason::AllStrategiesFailed, Outcome::Failed, &*detail));
    assert_eq!(world.advice(from, id), Some(Advice::BeAccepted(world.id(from))));
}

#[test]
fn a_stranger_has_one_request_in_flight() {
    let mut world = world(Accept::Anyone);
    let from = stranger(&mut world, &["5.0.0.1"]);
    world.run(S);
    let calls: Vec<_> = (0..3).map(|_| call(&mut world, from)).collect();
    world.run(4 * S);
    assert_eq!(world.refused(&calls, Refusal::Busy), 2);
    assert!(world.stages(from, calls[0].1, Strategy::Reverse).contains(&Stage::PeerDials));
    assert_eq!((world.dialled(0).len(), world.stats(0).refused), (1, 2));
    // It is over after 4 s; then there is room for another.
    world.run(2 * S);
    call(&mut world, from);
    world.run(S);
    assert_eq!(world.dialled(0).len(), 2);
}

/// Targets at the addresses that the stranger named: no host, a closed port, a service that waits, or one that talks.
#[test]
fn a_stranger_learns_nothing_of_a_port_from_what_it_is_told_or_when() {
    let told = |place: usize| {
        let mut world = world(Accept::Anyone);
        let from = stranger(&mut world, &["5.0.0.1", "5.0.0.2"]);
        let at: SocketAddr = "5.0.0.1:4000".parse().unwrap();
        world.ports.remove(&at);
        match place {
            0 => drop(world.ports.insert(at, Port::Blackholed)),
            1 => drop(world.ports.insert(at, Port::Refused)),
            n => {
                let then = [Then::Silence, Then::Close, Then::Say(b"220 ready\r\n".to_vec())][n - 2].clone();
                world.scripts.insert(at, Script { after: 1, then });
            }
        }
        world.run(S);
        let (_, first) = call(&mut world, from);
        world.run(2 * S);
        // Whether there is room for another is part of it.
        let (_, second) = call(&mut world, from);
        world.run(28 * S);
        assert_eq!(world.dialled(0), [at, "5.0.0.2:4000".parse().unwrap()], "{place}");
        let events = world.hosts[from].events.iter().map(|n| format!("{n:?}")).collect::<Vec<_>>();
        let lengths = world.published_to(from).iter().map(|p| p.payload.len()).collect::<Vec<_>>();
        let details = [first, second].map(|id| world.failed(from, id).2.to_string());
        (events, lengths, details)
    };
    let closed = told(1);
    assert_eq!(
        closed.2[0],
        "the peer dialled 2 address(es) of ours without success, and tells strangers no more"
    );
    for place in [0, 2, 3, 4] {
        assert_eq!(told(place), closed, "{place}");
    }
}

/// FIRST of node 1's call to node 0, as a passer-by records it.
fn recorded(world: &mut World) -> Vec<u8> {
    let at: SocketAddr = "203.0.113.99:4000".parse().unwrap();
    world.scripts.insert(at, Script { after: 1, then: Then::Silence });
    let to = format!("None-[0,203.0.113.99,203.0.113.99,4000,1,1,0]-0-{}", world.id(0)).parse().unwrap();
    let id = world.connect(1, &to, direct(30));
    world.run(S);
    world.cancel(1, id);
    world.hands.last().unwrap().received.clone()
}

#[test]
fn a_recorded_hello_holds_eight_streams_of_a_strangers_and_no_more() {
    let mut world = world(Accept::Anyone);
    world.open(|_| {});
    world.run(S);
    let first = recorded(&mut world);
    assert_eq!(first.len(), 118);
    let before = world.hands.len();
    let replay = |world: &mut World, count: usize| {
        for _ in 0..count {
            world.dial_by_hand(0, &first);
            world.run(10 * MS);
        }
    };
    replay(&mut world, 300);
    world.run(S);
    assert_eq!((world.streams_of(0), world.stats(0).refused), (8, 292));
    world.run(12 * S);
    assert_eq!(world.streams_of(0), 0);
    assert!(world.hands[before..].iter().all(|h| h.closed));
}

#[test]
fn a_recorded_hello_waits_for_our_user_no_longer_than_the_question() {
    let mut world = world(Accept::Ask);
    world.open(|_| {});
    world.run(S);
    let first = recorded(&mut world);
    for _ in 0..40 {
        world.dial_by_hand(0, &first);
        world.run(10 * MS);
    }
    // A peer has four things waiting; the call that was recorded is over.
    assert_eq!((world.streams_of(0), world.stats(0).refused), (4, 36));
    world.run(36 * S);
    assert_eq!(world.streams_of(0), 0);
}

#[test]
fn strangers_requests_have_a_rate_in_all_and_who_finds_no_room_asks_again() {
    let mut world = world(Accept::Anyone);
    let all = strangers(&mut world, 40);
    world.run(S);
    let calls: Vec<_> = all.iter().map(|n| call(&mut world, *n)).collect();
    world.run(90 * MS);
    assert_eq!((world.dialled(0).len(), world.stats(0).refused), (32, 8), "at once");
    assert_eq!(world.refused(&calls, Refusal::Busy), 0, "without a word");
    world.run(3 * S);
    let dialled: BTreeSet<_> = world.dialled(0).into_iter().collect();
    assert_eq!((dialled.len(), world.dialled(0).len()), (40, 40), "each once, in the end");
}

#[test]
fn strangers_do_not_keep_a_named_peer_out() {
    let mut world = world(Accept::Anyone);
    let friend = world.open(|_| {});
    let all = strangers(&mut world, 300);
    world.run(S);
    world.answer(0, world.id(friend), true);
    // More keys than are told apart, within what is opened of a flood.
    let (flood, steady) = all.split_at(190);
    for some in std::iter::once(flood).chain(steady.chunks(18)) {
        for n in some {
            call(&mut world, *n);
        }
        world.run(100 * MS);
    }
    for n in &all[100..118] {
        call(&mut world, *n);
    }
    assert!(world.stats(0).refused > 200, "they have used up what is for strangers");
    let (_, id) = call(&mut world, friend);
    world.run(100 * MS);
    assert_eq!(world.stats(0).messages_over_limit, 0);
    world.assert_piped(friend, id, 0, &[]);
    assert!(world.stages(friend, id, Strategy::Reverse).contains(&Stage::PeerDials), "and is told");
}

#[test]
fn a_stranger_asks_our_user_once_and_waits_with_four_requests() {
    let mut world = world(Accept::Ask);
    let from = stranger(&mut world, &["5.0.0.1"]);
    world.run(S);
    let calls: Vec<_> = (0..6).map(|_| call(&mut world, from)).collect();
    world.run(S);
    assert_eq!(world.asked(0), [world.id(from)]);
    assert_eq!((world.refused(&calls, Refusal::Busy), world.stats(0).refused), (2, 2));
    assert!(world.dialled(0).is_empty());
}

#[test]
fn our_user_is_asked_about_48_strangers_over_brokers_at_a_time() {
    let mut world = world(Accept::Ask);
    let all = strangers(&mut world, 80);
    world.run(S);
    let mut calls = Vec::new();
    for n in &all {
        calls.push(call(&mut world, *n));
        world.run(100 * MS);
    }
    assert_eq!(world.asked(0).len(), 48);
    assert_eq!((world.refused(&calls, Refusal::Busy), world.stats(0).refused), (32, 32));
    world.run(30 * S);
    assert_eq!(world.refused(&calls, Refusal::Unanswered), 48);
}

#[test]
fn streams_that_say_nothing_are_held_for_5_seconds_and_a_network_with_many_has_1() {
    let mut world = world(Accept::Anyone);
    world.run(S);
    let few = world.dial_by_hand_from(0, [192, 0, 2, 1].into(), &[]);
    let hands: Vec<usize> = (0..100).map(|_| world.dial_by_hand(0, &[])).collect();
    let closed = |w: &World| hands.iter().filter(|h| w.hands[**h].closed).count();
    world.run(S + 2 * LATENCY);
    assert_eq!((closed(&world), world.hands[few].closed), (84, false));
    world.run(4 * S);
    assert_eq!((closed(&world), world.hands[few].closed), (100, true));
    assert_eq!(world.stats(0), only(|s| s.bad_hellos = 101));
}

#[test]
fn of_256_silent_streams_the_oldest_of_the_largest_network_make_room() {
    let mut world = world(Accept::Anyone);
    world.run(S);
    let older = world.dial_by_hand_from(0, [192, 0, 2, 1].into(), &[]);
    let mut hands: Vec<usize> = (0..255).map(|_| world.dial_by_hand(0, &[])).collect();
    world.run(300 * MS);
    hands.extend((0..44).map(|_| world.dial_by_hand(0, &[])));
    world.run(2 * LATENCY);
    let closed: Vec<bool> = hands.iter().map(|h| world.hands[*h].closed).collect();
    assert_eq!(closed, (0..299).map(|n| n < 44).collect::<Vec<bool>>());
    assert!(!world.hands[older].closed);
    assert_eq!(world.stats(0), only(|s| s.streams_over_limit = 44));
}

#[test]
fn an_honest_caller_gets_in_while_its_own_address_floods_the_listener() {
    let mut world = world(Accept::Anyone);
    let caller = world.open(|_| {});
    let same = world.hosts[caller].outside;
    world.run(S);
    for n in 0..1_200 {
        world.dial_by_hand_from(0, same, &[]);
        if n % 100 == 50 {
            let id = world.connect(caller, &world.address(0), direct(9));
            world.run_until(100 * MS, |w| w.hosts[caller].pipes.iter().any(|p| p.answers.contains(&id)));
        }
        world.run(MS * 5 / 3);
    }
    assert_eq!(world.hosts[0].pipes.len(), 12);
    assert!(world.stats(0).streams_over_limit > 500, "the flood went on");
}

#[test]
fn peers_that_are_known_by_then_do_not_count_as_strangers() {
    let mut world = world(Accept::Ask);
    let callers: Vec<usize> = (0..20).map(|_| world.open(|_| {})).collect();
    world.run(S);
    for n in callers {
        world.connect(n, &world.address(0), direct(60));
    }
    world.run(4 * S);
    assert_eq!((world.asked(0).len(), world.streams_of(0)), (20, 20));
    for _ in 0..256 {
        world.dial_by_hand(0, &[]);
    }
    world.run(300 * MS);
    assert_eq!(world.stats(0).streams_over_limit, 0);
    world.dial_by_hand(0, &[]);
    assert_eq!(world.stats(0).streams_over_limit, 1);
}

#[test]
fn a_crowd_of_callers_waits_and_is_heard_without_a_reset() {
    let mut world = World::new(3);
    world.open(|c| c.max_pipes = Some(8_192));
    let caller = world.open(|_| {});
    world.run(S);
    let calls: Vec<_> = (0..600).map(|_| world.connect(caller, &world.address(0), direct(9))).collect();
    world.run(100 * MS);
    let early = world.hosts[0].pipes.len();
    assert!((256..450).contains(&early), "{early} at once");
    world.run(S);
    let failed: Vec<_> = calls.iter().filter_map(|id| world.failure(caller, *id)).collect();
    assert_eq!(failed.len(), 0, "{:?}", failed[0]);
    assert_eq!((world.hosts[0].pipes.len(), world.hosts[caller].pipes.len()), (600, 600));
    assert_eq!(world.stats(0), only(|_| {}));
}

#[test]
fn silent_streams_beyond_the_places_are_left_where_they_wait_until_others_are_old_enough() {
    let mut world = world(Accept::Anyone);
    world.run(S);
    for _ in 0..2_000 {
        world.dial_by_hand(0, &[]);
    }
    // Those that were accepted, of which a listener may have had a credit too many.
    let accepted = world.log.matches("< Accepted").count();
    assert!((256..272).contains(&accepted), "{accepted}");
    world.run(240 * MS);
    assert_eq!(world.stats(0).streams_over_limit, 0);
    world.run(20 * MS);
    let made_room = world.stats(0).streams_over_limit;
    assert!((250..=272).contains(&made_room), "{made_room}");
}

#[test]
fn a_dial_whose_stream_broke_before_the_peer_spoke_is_made_once_more() {
    for breaks in [1, 2] {
        let mut world = world(Accept::Anyone);
        world.open(|_| {});
        world.run(S);
        let at = world.address(0).v4()[0];
        let at = SocketAddr::new(at.external, at.port);
        world.scripts.insert(at, Script { after: 1, then: Then::Reset });
        let id = world.connect(1, &world.address(0), direct(9));
        world.run(30 * MS);
        if breaks == 1 {
            world.scripts.remove(&at);
        }
        world.run(S);
        assert_eq!(world.hosts[1].dials.iter().filter(|(_, to)| *to == at).count(), 2);
        match breaks {
            1 => world.assert_piped(1, id, 0, &[]),
            _ => {
                let (_, report) = world.failure(1, id).unwrap();
                let twice = format!(
                    "{at}: the stream broke during the hello; {at}: the stream broke during the hello"
                );
                assert_eq!(report.strategies[0].detail, twice);
            }
        }
    }
}

/// Counts the calls that were told at the door that we are busy.
fn busy(world: &World, calls: &[(usize, ConnectId)]) -> usize {
    let text = format!("the peer refused: {}", Refusal::Busy);
    let told = |(n, id): &&(usize, ConnectId)| {
        world.failure(*n, *id).is_some_and(|(_, r)| r.strategies[0].detail.ends_with(&text))
    };
    calls.iter().filter(told).count()
}

#[test]
fn one_strangers_key_has_an_eighth_of_the_places_and_gets_them_back() {
    let mut world = World::new(3);
    world.open(|c| c.max_pipes = Some(64));
    let (greedy, honest) = (world.open(|_| {}), world.open(|_| {}));
    world.run(S);
    let to = world.address(0);
    let calls: Vec<_> = (0..20).map(|_| (greedy, world.connect(greedy, &to, direct(9)))).collect();
    world.run(S);
    assert_eq!((world.hosts[0].pipes.len(), busy(&world, &calls)), (8, 12));
    world.connect(honest, &to, direct(9));
    world.run(S);
    assert_eq!((world.hosts[0].pipes.len(), world.hosts[honest].pipes.len()), (9, 1));
    let sock = world.hosts[0].pipes[0].sock;
    world.tell(0, Input::Released { sock });
    let calls: Vec<_> = (0..2).map(|_| (greedy, world.connect(greedy, &to, direct(9)))).collect();
    world.run(S);
    assert_eq!((world.hosts[0].pipes.len(), busy(&world, &calls)), (10, 1));
}

#[test]
fn streams_that_come_to_nothing_give_their_places_back() {
    let mut world = World::new(3);
    world.open(|c| c.max_pipes = Some(64));
    let caller = world.open(|_| {});
    world.run(S);
    for _ in 0..3 {
        // Authenticated, and given up before they are agreed on.
        let calls: Vec<_> = (0..8).map(|_| world.connect(caller, &world.address(0), direct(9))).collect();
        world.run(3 * LATENCY);
        calls.iter().for_each(|id| world.cancel(caller, *id));
        world.run(S);
    }
    assert_eq!((world.hosts[0].pipes.len(), world.stats(0).refused), (0, 0));
}

#[test]
fn garbage_on_the_listener_costs_one_closed_stream() {
    let mut world = world(Accept::Anyone);
    world.run(S);
    let garbage = [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![3, 1, 255, 255],
        [vec![3, 2, 0, 51], vec![0; 51]].concat(),
        vec![2; 4],
    ];
    for say in &garbage {
        let hand = world.dial_by_hand(0, say);
        world.run(S);
        assert!(world.hands[hand].closed, "{say:?}");
    }
    let unknown = [vec![3, 1, 0, 114], vec![3; 114]].concat();
    let hand = world.dial_by_hand(0, &unknown);
    world.run(S);
    assert!(world.hands[hand].closed && world.hands[hand].received.is_empty(), "not even a reason");
    assert_eq!(world.stats(0), only(|s| s.bad_hellos = 5));
}

#[test]
fn a_message_flood_is_opened_within_a_rate() {
    let mut world = world(Accept::Anyone);
    world.run(S);
    for n in 0..500u16 {
        world.publish(0, 0, &[&[1][..], &n.to_be_bytes(), &[9; 120]].concat());
    }
    world.run(S);
    let stats = world.stats(0);
    assert_eq!((stats.bad_messages, stats.messages_over_limit), (200, 300));
}

#[test]
fn a_friend_with_a_loopback_address_is_dialled_there_by_nobody_else() {
    let mut world = world(Accept::Anyone);
    let ip: IpAddr = "127.0.0.1".parse().unwrap();
    let from = world.host(ip, ip, |c| c.bind = Some(ip));
    world.run(S);
    let (_, id) = call(&mut world, from);
    world.run(S);
    assert!(world.dialled(0).is_empty());
    assert_eq!(world.failure(from, id).unwrap().1.strategies[0].outcome, Outcome::Failed);
}
