//! The drivers of core's examples on real sockets of loopback. What they print is what these calls return.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::duplicate_mod,
    reason = "a driver does what the core must not do"
)]

#[expect(dead_code, reason = "its main")]
#[path = "../examples/game_loop.rs"]
mod game_loop;
#[expect(dead_code, reason = "its main")]
#[path = "../examples/std_driver/main.rs"]
mod std_driver;

use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use p2pd_core::io::Interface;
use p2pd_core::{Config, Event, FailReason, IoFailure, PeerAddress, PipeMode, Plan, SecretKey};
use std_driver::driver::Driver;

fn node(key: u8, change: impl FnOnce(&mut Config)) -> Driver {
    let mut config = Config::new(SecretKey::from_bytes([key; 32]));
    config.bind = Some(Ipv4Addr::LOCALHOST.into());
    change(&mut config);
    Driver::new(config, &[Interface::new(1, Ipv4Addr::LOCALHOST.into(), 8)]).unwrap()
}

/// Ticks both until this is so.
fn until(a: &mut Driver, b: &mut Driver, is: impl Fn(&Driver, &Driver) -> bool) {
    let begin = Instant::now();
    while !is(a, b) {
        assert!(begin.elapsed() < Duration::from_secs(20), "{:?} {:?}", a.events, b.events);
        a.tick();
        b.tick();
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn bytes_go_both_ways_over_bare_sockets() {
    for mode in [PipeMode::Encrypted, PipeMode::Plain] {
        // Longer than a record, and than what a socket takes at once.
        let question = "is it you? ".repeat(100_000);
        assert!(std_driver::ask(mode, &question).unwrap() == format!("yes: {question}"), "{mode}");
    }
}

#[test]
fn players_see_each_other_in_a_loop_of_frames() {
    for mode in [PipeMode::Encrypted, PipeMode::Plain] {
        let frames = game_loop::play(mode).unwrap();
        assert!(frames >= 100, "{mode}: {frames}");
    }
}

#[test]
fn pipes_that_are_dropped_make_room_for_others() {
    let (mut caller, mut listener) = (node(3, |_| {}), node(4, |config| config.max_pipes = Some(8)));
    for n in 0..20 {
        let to = listener.node.address();
        caller.node.connect(caller.now(), &to, Plan::default()).unwrap();
        until(&mut caller, &mut listener, |a, b| !a.pipes.is_empty() && !b.pipes.is_empty());
        let [ours, theirs] = [&mut caller, &mut listener].map(|driver| driver.pipes.pop_front().unwrap());
        assert_eq!(
            (ours.start.peer, theirs.start.peer),
            (listener.node.node_id(), caller.node.node_id()),
            "{n}"
        );
    }
    listener.node.shutdown(listener.now());
    until(&mut caller, &mut listener, |_, b| b.events.iter().any(|n| matches!(n, Event::Closed)));
    TcpListener::bind((Ipv4Addr::LOCALHOST, listener.node.address().v4()[0].port)).unwrap();
}

#[test]
fn a_taken_port_and_a_refused_dial_are_told_apart_from_silence() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut late = node(5, |config| config.port = port);
    let mut caller = node(6, |_| {});
    let in_use = |n: &Event| matches!(n, Event::ListenFailed { cause: IoFailure::AddrInUse, local } if local.port() == port);
    until(&mut caller, &mut late, |_, late| late.events.iter().any(in_use));
    drop(taken);
    let key = SecretKey::from_bytes([7; 32]).node_id();
    let nobody: PeerAddress = format!("None-[0,127.0.0.1,127.0.0.1,{port},1,1,0]-0-{key}").parse().unwrap();
    caller.node.connect(caller.now(), &nobody, Plan::default()).unwrap();
    let refused = |n: &Event| {
        let Event::Failed { reason, report, .. } = n else { return false };
        assert_eq!(*reason, FailReason::AllStrategiesFailed);
        report.strategies.iter().any(|s| s.detail.contains("refused"))
    };
    until(&mut caller, &mut late, |caller, _| caller.events.iter().any(refused));
}
