//! The contract on the crate's first page: a test for each rule, named by it, mostly of two nodes on a wire that loses
//! nothing. That every deadline moves is asserted by the wire itself, in every test that uses it.

mod common;

use std::path::{Path, PathBuf};

use common::view::{direct, plan};
use common::{S, World, key};
use p2pd_core::Transport;
use p2pd_core::io::Interface;
use p2pd_core::strangers::mqtt::{self, MqttError};
use p2pd_core::stun::{StunError, decode_binding};
use p2pd_core::trace::replay;
use p2pd_core::{
    BrokerLoss, BrokerState, Config, FailReason, Input, Instant, IoFailure, Node, Output, PeerAddress,
    PipeMode, Plan, Refusal, SecretKey, SockId, Strategy,
};

/// Two open hosts; bytes arrive one at a time, so a header and the body behind it never come together.
fn pair(seed: u8) -> World {
    let mut world = World::new(seed);
    world.chunk = 1;
    world.open(|_| {});
    world.open(|_| {});
    world.run(S);
    world
}

/// The times of node `n`'s dials to the other node, each with the time at which the node asked for it.
fn dials(world: &World, n: usize, to: &str) -> Vec<(i64, i64)> {
    let number = |text: &str| text.split("ns").next().unwrap().parse::<i64>().unwrap();
    let mine = world.log.lines().filter(|line| line.contains(&format!(" {n} > Connect {{")));
    let there = mine.filter(|line| line.contains(&format!("remote: {to}")));
    there.map(|line| (number(line), number(line.split("at: ").nth(1).unwrap()))).collect()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

fn core(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn rule_1_events_in_any_order_then_all_actions_then_one_deadline_that_moves() {
    let mut node = Node::new(Config::new(key(0)), [7; 32], Instant::ZERO).unwrap();
    assert_eq!((node.poll_timeout(), node.poll_output().is_none()), (None, true), "nothing is due before");
    let lan = Interface { default_route: true, ..Interface::new(2, [192, 0, 2, 1].into(), 24) };
    let now = Instant::ZERO + S;
    // Several inputs, and some that make no sense yet, before one output is taken out.
    node.handle(now, Input::Timeout);
    node.handle(now, Input::Interfaces(&[lan]));
    node.handle(now, Input::Timeout);
    assert_eq!(node.poll_timeout(), Some(now), "actions are waiting");
    let mut listeners = Vec::new();
    while let Some(output) = node.poll_output() {
        if let Output::Listen { sock, .. } = output {
            listeners.push(sock);
        }
    }
    for sock in listeners.into_iter().rev() {
        node.handle(now, Input::Bound { sock, local: ([0, 0, 0, 0], 4000).into() });
    }
    for _ in 0..50 {
        while node.poll_output().is_some() {}
        let Some(due) = node.poll_timeout() else { break };
        node.handle(due, Input::Timeout);
        while node.poll_output().is_some() {}
        assert!(node.poll_timeout().is_none_or(|next| next > due), "the deadline stays at {due:?}");
    }
}

#[test]
fn rule_2_one_first_reply_then_silence_and_unknown_ids_are_counted() {
    let mut world = pair(7);
    let node = &mut world.hosts[0].node;
    node.handle(Instant::ZERO + 9 * S, Input::Eof { sock: SockId::from_number(99) });
    node.handle(Instant::ZERO, Input::Stream { sock: SockId::from_number(98), data: b"x" });
    assert_eq!(node.stats().unknown_ids, 2);
    assert!(node.poll_output().is_none());
    // A dial that failed is gone: a second reply is for nobody.
    world.connect(0, &world.address(1), direct(9));
    let dial = world.log.lines().rev().find_map(|line| line.split(" 0 > Connect { sock: s").nth(1)).unwrap();
    let sock = SockId::from_number(dial.split(',').next().unwrap().parse().unwrap());
    let node = &mut world.hosts[0].node;
    node.handle(Instant::ZERO, Input::Failed { sock, cause: IoFailure::Refused });
    assert_eq!(node.stats().unknown_ids, 2, "the first reply");
    let (local, remote) = (([203, 0, 113, 1], 9).into(), ([203, 0, 113, 2], 4000).into());
    node.handle(Instant::ZERO, Input::Connected { sock, local, remote });
    assert_eq!(node.stats().unknown_ids, 3);
}

#[test]
fn rule_3_a_dial_has_its_time_and_both_ends_of_a_punch_have_the_same() {
    let mut world = World::new(7);
    world.add_broker();
    world.add_stun();
    world.behind_nat(|_| {});
    world.behind_nat(|_| {});
    world.run(5 * S);
    world.connect(0, &world.address(1), plan(&[Strategy::Punch], 20));
    world.run(5 * S);
    let [ours, theirs] = [(0, "203.0.113.2"), (1, "203.0.113.1")].map(|(n, to)| dials(&world, n, to));
    // Node 1 is asked first, and both are to send their SYNs when the answer arrives at node 0.
    let ([(_, ours), ..], [(asked, theirs), ..]) = (&ours[..], &theirs[..]) else {
        panic!("no dials:\n{}", world.tail())
    };
    assert!(theirs - asked >= 20_000_000, "bound at once, connected a round trip later");
    assert!(ours.abs_diff(*theirs) <= 10_000_000, "{ours} {theirs}: one latency at most");
}

#[test]
fn rule_4_the_same_seed_and_events_give_the_same_actions_and_a_trace_replays() {
    let run = |seed| {
        let mut world = World::new(seed);
        world.tracing = true;
        world.open(|_| {});
        world.open(|_| {});
        world.run(S);
        world.connect(0, &world.address(1), Plan::default());
        world.run(S);
        let trace = world.hosts[0].trace.lock().unwrap().clone();
        (world.log.clone(), trace)
    };
    let (log, trace) = run(7);
    assert_eq!(log, run(7).0);
    assert_ne!(log, run(8).0);
    replay(&trace).unwrap_or_else(|why| panic!("{why}"));
}

#[test]
fn rule_5_what_strangers_make_grow_has_a_cap_and_is_counted() {
    let mut world = World::new(7);
    world.add_broker();
    world.open(|c| c.max_pipes = Some(8));
    world.run(2 * S);
    // Callers that say nothing: few have a place at a time, the others wait, and each is turned away in the end.
    for n in 0..200 {
        world.dial_by_hand_from(0, [198, 51, 100, n].into(), b"");
    }
    world.run(100 * S);
    let (mut open, mut most) = (0, 0);
    for line in world.log.lines() {
        open +=
            i32::from(line.contains(" 0 < Accepted {")) - i32::from(line.contains(" 0 > Close { sock: a"));
        most = most.max(open);
    }
    assert!(most <= 40, "{most} have a place at a time, and the others wait in the system's queue");
    let stats = world.stats(0);
    assert_eq!(stats.streams_over_limit + stats.bad_hellos, 200, "{stats:?}");
    // Messages that do not open.
    for n in 0..2000_u32 {
        world.publish(0, 0, &n.to_be_bytes());
    }
    world.run(S);
    let stats = world.stats(0);
    assert_eq!(stats.messages_over_limit + stats.bad_messages, 2000, "{stats:?}");
    assert!(stats.bad_messages <= 200, "{stats:?}");
}

/// `tests/purity` holds the list of crates to what is used.
#[test]
fn rule_6_no_unsafe_and_no_runtime_or_socket_crate() {
    let manifest = std::fs::read_to_string(core("Cargo.toml")).unwrap();
    assert!(manifest.contains("unsafe_code = \"forbid\""));
    let allowed = std::fs::read_to_string(core("../tests/core-allowed-crates.txt")).unwrap();
    let allowed: Vec<&str> = allowed.lines().map(|line| line.split(' ').next().unwrap()).collect();
    for name in ["tokio", "async-io", "async-std", "smol", "mio", "polling", "socket2", "rustix", "nix"] {
        assert!(!allowed.contains(&name), "{name}");
    }
}

/// The codec crates are named in files behind a guard alone, and what makes them panic or work for a minute is refused.
#[test]
fn rule_7_a_guard_stands_before_every_codec() {
    let behind = [
        "portmap/upnp/http.rs",
        "portmap/upnp/soap.rs",
        "portmap/upnp/ssdp.rs",
        "portmap/upnp/xml.rs",
        "wire/mqtt.rs",
        "wire/stun.rs",
        "wire/turn.rs",
    ];
    let codecs = ["stun_codec::", "bytecodec::", "mqttrs::", "roxmltree::", "httparse::"];
    let mut using = Vec::new();
    for path in sources(&core("src")) {
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        let mut code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        if code.any(|line| codecs.iter().any(|codec| line.contains(codec))) {
            using.push(path.strip_prefix(core("src")).unwrap().to_str().unwrap().to_string());
        }
    }
    using.sort();
    assert_eq!(using, behind);
    // 62 KB of attributes: such a message keeps stun_codec busy for most of a minute (measured).
    let attributes = [0x80, 0, 0, 0].repeat(15_500);
    let head = [&[1, 1][..], &62_000_u16.to_be_bytes(), &0x2112_a442_u32.to_be_bytes(), &[7; 12]].concat();
    let long = [head, attributes].concat();
    for over in [Transport::Udp, Transport::Tcp] {
        assert!(matches!(decode_binding(&long, over), Err(StunError::Guard(_))), "{over:?}");
    }
    assert!(matches!(mqtt::decode(&[0x40, 0]), Err(MqttError::Guard(_))));
    // A node that is told such things goes on, counts them or names their sender.
    let mut world = World::new(7);
    world.add_broker();
    world.add_stun();
    world.behind_nat(|_| {});
    world.run_until(9 * S, |world| world.stuns[0].asked.0 > 0);
    let (sockets, from) = (world.hosts[0].bound.clone(), world.stuns[0].at);
    for sock in sockets.into_keys() {
        world.tell(0, Input::Datagram { sock, from, data: &long });
    }
    assert!(world.stats(0).bad_stun > 0);
    world.run(2 * S);
    // Two bytes that make mqttrs panic (measured).
    world.broker_says(0, &[0x40, 0]);
    world.run(S);
    assert!(world.broker_states(0, 0).contains(&BrokerState::Lost(BrokerLoss::Malformed)));
}

#[test]
fn rule_8_a_stream_is_detached_with_not_one_byte_read_past_the_hello() {
    for (from, to) in [(0, 1), (1, 0)] {
        let mut world = pair(7);
        let id = world.connect(from, &world.address(to), Plan::default());
        world.run(S);
        world.assert_piped(from, id, to, &[]);
        assert_eq!(world.unread(), 0, "every byte was the hello's");
        assert!(world.credit_left() <= 4, "no credit beyond a header is left");
    }
}

#[test]
fn calls_on_each_other_are_answered_by_one_pipe() {
    let mut world = pair(7);
    let ours = world.connect(0, &world.address(1), Plan::default());
    let theirs = world.connect(1, &world.address(0), Plan::default());
    world.run(S);
    world.assert_piped(0, ours, 1, &[theirs]);
}

#[test]
fn an_unanswered_connect_ends_at_its_own_deadline() {
    let mut world = pair(7);
    let key = SecretKey::from_bytes([9; 32]).node_id();
    let to: PeerAddress = format!("None-[0,203.0.113.9,203.0.113.9,9,1,1,0]-0-{key}").parse().unwrap();
    let id = world.connect(0, &to, plan(&Strategy::ALL, 3));
    world.run(20 * S);
    let (reason, report) = world.failure(0, id).unwrap();
    assert_eq!((reason, report.elapsed), (FailReason::DeadlinePassed, 3 * S));
}

#[test]
fn a_plain_pipe_needs_the_other_sides_consent() {
    let mut world = pair(7);
    let id = world.connect(0, &world.address(1), direct(9).mode(PipeMode::Plain));
    world.run(S);
    assert!(world.hosts.iter().all(|h| h.pipes.is_empty()));
    assert_eq!(world.failed(0, id).0, FailReason::RefusedByPeer(Refusal::PlainNotAllowed));
}

#[test]
fn rule_9_streams_are_accepted_by_credit_and_a_released_pipe_counts_no_more() {
    let mut world = World::new(7);
    world.open(|c| c.max_pipes = Some(8));
    world.open(|_| {});
    world.run(S);
    for n in 0..40 {
        world.connect(1, &world.address(0), Plan::default());
        world.run(S);
        assert_eq!(world.hosts[0].pipes.len(), n + 1, "a stranger's key has one place of eight");
        let sock = world.hosts[0].pipes[n].sock;
        world.tell(0, Input::Released { sock });
    }
    let granted = world.log.split(" 0 > Accept { ").skip(1).filter_map(|line| line.split("credit: ").nth(1));
    let granted: usize = granted.map(|rest| rest.split(' ').next().unwrap().parse::<usize>().unwrap()).sum();
    assert!((41..=56).contains(&granted), "{granted}: forty were used, and a few are left");
}
