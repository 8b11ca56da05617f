//! UDP punching between two nodes whose NATs let in what answers, and no TCP.

use std::net::SocketAddr;
use std::time::Duration;

use p2pd_core::trace::replay;
use p2pd_core::{Accept, FailReason, Outcome, PipeEnd, Plan, Refusal, Stage, Strategy};

use crate::common::stun::Udp;
use crate::common::udp::Nat;
use crate::common::view::plan;
use crate::common::{LATENCY, MS, S, World, envelope};

/// Two nodes behind such NATs, with a broker and two STUN servers.
fn world(seed: u8, nats: [Nat; 2]) -> World {
    world_of(seed, nats, |w| w.set_accept())
}

fn world_of(seed: u8, nats: [Nat; 2], then: impl FnOnce(&mut World)) -> World {
    let mut world = World::new(seed);
    world.add_broker();
    world.add_stun();
    world.add_stun();
    world.tracing = true;
    for _ in 0..2 {
        world.behind_nat(|_| {});
    }
    world.set_udp(nats);
    then(&mut world);
    world.run(S);
    world
}

impl World {
    /// Node 1 has named node 0.
    fn set_accept(&mut self) {
        self.answer(1, self.id(0), true);
    }

    /// Probes that host `n` has sent to other hosts: their number, and that of the places they went to.
    fn probes(&self, n: usize) -> (usize, usize) {
        let sent = self.hosts[n].udp.sent.iter().filter(|(_, size)| *size == 17);
        let mut to: Vec<SocketAddr> = sent.clone().map(|(to, _)| *to).collect();
        to.sort();
        to.dedup();
        (sent.count(), to.len())
    }
}

fn udp(seconds: u64) -> Plan {
    plan(&[Strategy::Udp], seconds)
}

/// Calls from 0 to 1. Returns the time to the pipe of both, if there is one within 15 s.
fn call(world: &mut World) -> Option<Duration> {
    let (from, id) = (world.now, world.connect(0, &world.address(1), udp(15)));
    while !world.is_over(0, id) {
        world.run(MS);
    }
    let took = world.now.since(from);
    world.run(S);
    if world.hosts[0].relayed.is_empty() {
        assert!(world.hosts[1].relayed.is_empty());
        return None;
    }
    let (a, b) = (world.relayed(0), world.relayed(1));
    assert_eq!((a.strategy, b.strategy), (Strategy::Udp, Strategy::Udp));
    assert_eq!((&a.answers[..], &b.answers[..]), (&[id][..], &[][..]));
    Some(took)
}

#[test]
fn datagrams_that_are_told_together_are_acknowledged_together() {
    let sent = [false, true].map(|together| {
        let mut world = world(5, [Nat::Kept; 2]);
        call(&mut world).unwrap();
        world.hosts[1].tells_together = together;
        for host in &mut world.hosts {
            host.udp.sent.clear();
        }
        world.write(0, &[7; 30_000]);
        world.run(LATENCY);
        assert_eq!(world.relayed(1).received.len(), 30_000);
        [0, 1].map(|n| world.hosts[n].udp.sent.len())
    });
    assert_eq!(sent, [[21, 2], [21, 1]]);
}

#[test]
fn two_homes_that_keep_their_ports_meet_and_talk() {
    let mut world = world(1, [Nat::Kept, Nat::Kept]);
    let sockets = [0, 1].map(|n| world.hosts[n].bound.len());
    // Two mappings, the request, the answer, a probe, the handshake and the agreement.
    assert_eq!(call(&mut world), Some(135 * MS));
    let id = world.relayed(0).answers[0];
    let stages = world.stages(0, id, Strategy::Udp);
    let remote = world.relayed(0).remote;
    assert_eq!(
        stages,
        [
            Stage::Started,
            Stage::Requested { brokers: 1 },
            Stage::Punching { rung: 0, permille: Some(999) },
            Stage::Authenticated(remote),
        ]
    );
    assert_eq!(remote.ip(), world.hosts[1].outside);
    assert_eq!(world.relayed(1).remote.ip(), world.hosts[0].outside);
    assert_eq!([0, 1].map(|n| world.probes(n)), [(1, 1), (2, 1)]);
    // One socket each is left: the pipe's.
    assert_eq!([0, 1].map(|n| world.hosts[n].bound.len()), sockets.map(|n| n + 1));
    let data: Vec<u8> = (0..300_000_u32).map(|n| (n * 7 + n / 256) as u8).collect();
    world.write(0, &data);
    world.write(1, &data[1..]);
    world.finish(0);
    world.run(5 * S);
    assert!(world.relayed(1).received == data && world.relayed(1).end && !world.relayed(0).end);
    // The path has been found to carry more than a relay's packets.
    let longest = |n: usize| world.hosts[n].udp.sent.iter().map(|(_, size)| *size).max();
    assert_eq!([0, 1].map(longest), [Some(1_452); 2]);
    world.run(Duration::from_secs(610));
    world.write(1, b"still there");
    world.run(S);
    assert!(world.relayed(0).received.ends_with(b"still there"));
    world.close_pipe(0);
    world.run(S);
    assert_eq!(world.relayed(1).over, Some(PipeEnd::ClosedByPeer));
    world.close_pipe(1);
    world.run(10 * S);
    assert_eq!([0, 1].map(|n| world.hosts[n].bound.len()), sockets, "no socket is left");
    for n in 0..2 {
        let trace = world.hosts[n].trace.lock().unwrap();
        replay(&trace).unwrap_or_else(|why| panic!("{why}"));
    }
}

#[test]
fn a_silent_pipe_is_used_every_15_seconds_and_ends_within_46_s_of_its_peer() {
    let mut world = world(2, [Nat::Kept, Nat::Kept]);
    call(&mut world).unwrap();
    let before = world.hosts[0].udp.sent.len();
    world.run(300 * S);
    let sent = world.hosts[0].udp.sent.len() - before;
    // Each end has a turn of its own, and each is acknowledged.
    assert!((20..=40).contains(&sent), "{sent}");
    world.hosts[1].frozen = true;
    let took = world.run_until(60 * S, |w| w.relayed(0).over.is_some());
    // What it sends after 15 s is waited for as long as any other packet.
    assert!(took > 30 * S && took <= 46 * S, "{took:?}");
    assert_eq!(world.relayed(0).over, Some(PipeEnd::Silent));
}

#[test]
fn each_kind_of_nat_meets_what_it_can() {
    use Nat::{Cone, Counting, Kept, Random};
    for (seed, nats, by_address, meets) in [
        (10, [Cone, Cone], false, true),
        (11, [Counting, Kept], false, true),
        (12, [Kept, Counting], false, true),
        (13, [Counting, Counting], false, true),
        (14, [Random, Cone], true, true),
        (15, [Kept, Random], true, true),
        // The random one sends from 256 sockets, and the other to 1,024 ports.
        (16, [Kept, Random], false, true),
        (17, [Random, Random], false, false),
    ] {
        let mut world = world(seed, nats);
        for host in &mut world.hosts {
            host.udp.by_address = by_address;
        }
        let took = call(&mut world);
        assert_eq!(took.is_some(), meets, "{nats:?}: {took:?}\n{}", world.tail());
    }
}

#[test]
fn two_random_nats_are_told_to_be_hopeless_at_once() {
    let mut world = world(20, [Nat::Random, Nat::Random]);
    let id = world.connect(0, &world.address(1), udp(15));
    let took = world.run_until(15 * S, |w| w.is_over(0, id));
    assert!(took < S, "{took:?}");
    let told = "both NATs pick random ports";
    assert_eq!(world.failed(0, id), (FailReason::AllStrategiesFailed, Outcome::Failed, told));
    assert_eq!([0, 1].map(|n| world.probes(n).0), [0, 0]);
}

#[test]
fn a_search_is_bounded_at_both_ends() {
    // The listener that has to try the ports of a peer which nobody has heard there tries a quarter.
    let mut world = world(21, [Nat::Random, Nat::Kept]);
    for host in &mut world.hosts {
        host.udp.by_address = false;
    }
    call(&mut world);
    let (sent, places) = world.probes(1);
    // And one more each 469 ms.
    assert!((200..=256 + 32).contains(&sent) && places == sent, "{sent} to {places}");
    let mut world = world_of(22, [Nat::Kept, Nat::Random], |w| w.set_accept());
    call(&mut world);
    let (_, places) = world.probes(0);
    assert!(places <= 1_024, "{places}");
    assert!(world.hosts[1].udp.sent.iter().all(|(to, _)| to.ip() == world.hosts[0].outside));
}

#[test]
fn both_calls_of_each_other_give_one_pipe() {
    for gap in [0, 5, 20, 40, 60, 80, 100, 120] {
        let mut world = world(5, [Nat::Kept, Nat::Kept]);
        let a = world.connect(0, &world.address(1), udp(20));
        world.run(gap * MS);
        assert!(!world.is_over(0, a), "the calls overlap");
        let b = world.connect(1, &world.address(0), udp(20));
        world.run(15 * S);
        assert_eq!(
            (&world.relayed(0).answers[..], &world.relayed(1).answers[..]),
            (&[a][..], &[b][..]),
            "{gap}"
        );
        world.write(0, b"one");
        world.write(1, b"pipe");
        world.run(S);
        assert_eq!(
            (&world.relayed(1).received[..], &world.relayed(0).received[..]),
            (&b"one"[..], &b"pipe"[..])
        );
    }
}

#[test]
fn without_udp_here_or_there_the_call_hears_it_at_once() {
    // Nothing comes back from a STUN server.
    let mut world = world_of(30, [Nat::Lost, Nat::Kept], |w| w.set_accept());
    world.run(10 * S);
    for stun in &mut world.stuns {
        stun.udp = Udp::Silent;
    }
    let id = world.connect(0, &world.address(1), udp(20));
    let took = world.run_until(20 * S, |w| w.is_over(0, id));
    assert_eq!(took, S);
    let told = "no STUN server answered over UDP";
    assert_eq!(world.failed(0, id), (FailReason::AllStrategiesFailed, Outcome::Failed, told));
    // The other end has no sockets for it.
    let mut world = world_of(31, [Nat::Kept, Nat::Kept], |w| w.set_accept());
    world.hosts[1].without_udp = true;
    let id = world.connect(0, &world.address(1), udp(20));
    let took = world.run_until(20 * S, |w| w.is_over(0, id));
    assert!(took < 200 * MS, "{took:?}");
    let told = "the peer has no UDP, or would have to search for us";
    assert_eq!(world.failed(0, id), (FailReason::AllStrategiesFailed, Outcome::Failed, told));
}

#[test]
fn probes_that_get_lost_are_tried_from_three_sockets_and_then_said() {
    let mut world = world(32, [Nat::Kept, Nat::Lost]);
    let id = world.connect(0, &world.address(1), udp(20));
    let took = world.run_until(20 * S, |w| w.is_over(0, id));
    assert!(took > 4500 * MS && took < 5500 * MS, "{took:?}");
    let (_, _, told) = world.failed(0, id);
    assert!(told.contains("and none of the peer's came (try 3)"), "{told}");
    let (sent, places) = world.probes(0);
    assert!(places == 3 && (40..=60).contains(&sent), "{sent} to {places}");
    world.run(20 * S);
    let others = |n: usize| world.hosts[n].bound.len();
    assert!(others(0) <= 1 && others(1) <= 1, "no socket is left: {} {}", others(0), others(1));
}

/// A node without UDP punching cannot read the request, and says so.
#[test]
fn an_older_peer_refuses_by_its_version_and_the_rest_of_the_call_goes_on() {
    let mut world = world(33, [Nat::Kept, Nat::Kept]);
    world.brokers[0].bend = Box::new(|m| {
        let older = |content: &mut Vec<u8>| {
            if content[0] == 3 {
                content[0] = 7;
            }
        };
        vec![(Duration::ZERO, envelope::changed([0, 1], &m.payload, older))]
    });
    let id = world.connect(0, &world.address(1), plan(&[Strategy::Reverse, Strategy::Udp], 8));
    world.run(9 * S);
    let (reason, report) = world.failure(0, id).unwrap();
    assert_eq!(reason, FailReason::AllStrategiesFailed);
    let told: Vec<(Outcome, &str)> =
        report.strategies.iter().map(|s| (s.outcome, s.detail.as_str())).collect();
    assert!(told[0].1.starts_with("the peer dialled us without success"), "{told:?}");
    assert_eq!(
        told[1],
        (Outcome::Failed, "the peer speaks protocol version 2, without UDP punching"),
        "{told:?}"
    );
}

#[test]
fn a_stranger_has_us_send_eight_probes_to_where_nobody_answers_and_no_search() {
    let mut world = world_of(34, [Nat::Lost, Nat::Kept], |_| {});
    // It punches alone: nothing of its own comes through.
    let id = world.connect(0, &world.address(1), udp(8));
    world.run(10 * S);
    assert!(world.failure(0, id).is_some());
    let (sent, places) = world.probes(1);
    assert!(sent <= 3 * 8 && places <= 3, "{sent} to {places}");
    for nats in [[Nat::Random, Nat::Kept], [Nat::Kept, Nat::Random]] {
        let mut world = world_of(35, nats, |_| {});
        let id = world.connect(0, &world.address(1), udp(8));
        world.run(10 * S);
        let told = "the peer has no UDP, or would have to search for us";
        assert_eq!(world.failed(0, id).2, told);
        assert_eq!(world.probes(1).0, 0);
    }
}

#[test]
fn whoever_is_not_accepted_gets_no_probe() {
    let mut world = World::new(36);
    world.add_broker();
    world.add_stun();
    world.behind_nat(|_| {});
    world.behind_nat(|c| c.accept = Accept::Only(Default::default()));
    world.set_udp([Nat::Kept, Nat::Kept]);
    world.run(S);
    let id = world.connect(0, &world.address(1), udp(8));
    world.run(9 * S);
    assert_eq!(world.failure(0, id).unwrap().0, FailReason::RefusedByPeer(Refusal::NotAccepted));
    assert_eq!([0, 1].map(|n| world.hosts[n].udp.sent.len()), [0, 0]);
}

/// A probe that comes may be somebody else's by the peer's will: it is answered, and nothing more goes there.
#[test]
fn who_is_heard_gets_one_probe_for_each_of_its_own() {
    let mut world = world(37, [Nat::Deaf, Nat::Kept]);
    let id = world.connect(0, &world.address(1), udp(2));
    world.run(6 * S);
    assert!(world.failure(0, id).is_some());
    let (theirs, answers) = (world.probes(0).0, world.probes(1).0);
    // Two of its own went before the first one came.
    assert_eq!((theirs, answers), (25, 27));
}

#[test]
fn a_search_at_an_address_that_only_the_peer_named_is_bounded_as_one_into_silence() {
    // And one more each 469 ms.
    for (named, places) in [(true, 1024), (false, 256 + 2)] {
        let mut world = world(38, [Nat::Kept, Nat::Random]);
        for host in &mut world.hosts {
            host.udp.by_address = false;
        }
        let address = world.address(1);
        let elsewhere = address.to_string().replace("203.0.113.2,", "203.0.113.77,").parse().unwrap();
        world.connect(0, if named { &address } else { &elsewhere }, udp(15));
        world.run_until(S, |w| w.probes(0).0 > 0);
        world.hosts[1].frozen = true;
        world.run(15 * S);
        assert_eq!(world.probes(0).1, places, "{named}");
    }
}
