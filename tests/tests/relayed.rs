//! Relayed pipes are pipes like others, on every driver: over loopback, with a TURN server in this process.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use p2pd::serve::{Serving, Wanted, WantedTurn};
use p2pd_core::relay::MAX_MESSAGE;
use p2pd_core::trace::replay;
use p2pd_core::{Accept, Config, PipeMode, Plan, SecretKey, Strategy};
use p2pd_tests::drivers::{Driver, Node, Pipe, Trace, runtime};

/// Longer than anything here takes, even on a busy machine.
const LONG: Duration = Duration::from_secs(20);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const MIB: usize = 1024 * 1024;

/// Ends of a relayed pipe, with their nodes and servers.
struct Pair {
    ours: Box<dyn Pipe>,
    theirs: Box<dyn Pipe>,
    nodes: [Box<dyn Node>; 2],
    _servers: Serving,
}

fn pair(driver: Driver, mode: PipeMode, trace: Option<Trace>) -> Pair {
    let ([a, b], _servers) = nodes(driver, trace);
    let plan = Plan::new().strategies([Strategy::Relay]).timeout(LONG).mode(mode);
    let ours = a.connect(&b.address(), plan).unwrap();
    let theirs = b.accept(LONG).unwrap();
    for pipe in [&ours, &theirs] {
        assert_eq!((pipe.info().strategy(), pipe.info().mode()), (Strategy::Relay, mode), "{driver}");
    }
    Pair { ours, theirs, nodes: [a, b], _servers }
}

/// Two nodes, of which the second knows the first, with their servers.
fn nodes(driver: Driver, trace: Option<Trace>) -> ([Box<dyn Node>; 2], Serving) {
    let users = vec![("alice".into(), "secret".into())];
    let turn = Some(WantedTurn { users, relay_ips: vec![LOOPBACK], ..WantedTurn::default() });
    let wanted = Wanted { ip: LOOPBACK, second_ip: None, mqtt_port: 0, stun_ports: [0, 0], turn };
    let servers = runtime().block_on(Serving::start(&wanted)).unwrap();
    let list = servers.servers("127.0.0.1", 0);
    let [key, other] = [(); 2].map(|()| SecretKey::from_bytes(p2pd_sys::random_seed().unwrap()));
    // A stranger's relay is nothing to a node on loopback.
    let accept = Accept::Only([key.node_id()].into());
    let config = |key, accept| {
        let mut config = Config::new(key);
        config.accept = accept;
        (config.brokers, config.stun) = (list.brokers.clone(), list.stun.clone());
        config.turn = list.turn.iter().map(|t| t.for_node()).collect();
        (config.bind, config.allow_plain) = (Some(LOOPBACK), true);
        config.sessions(true)
    };
    let a = driver.bind(config(key, Accept::Anyone), trace).unwrap();
    let b = driver.bind(config(other, accept), None).unwrap();
    ([a, b], servers)
}

fn pattern(n: usize) -> u8 {
    (n.wrapping_mul(2_654_435_761) >> 13) as u8
}

#[test]
fn bytes_go_both_ways_at_once_and_each_direction_ends_by_itself() {
    for driver in Driver::ALL {
        for mode in [PipeMode::Encrypted, PipeMode::Plain] {
            let Pair { mut ours, mut theirs, nodes, _servers } = pair(driver, mode, None);
            let data: Vec<u8> = (0..3 * MIB).map(pattern).collect();
            let (sent, echo) = (
                data.clone(),
                thread::spawn(move || {
                    let mut all = Vec::new();
                    theirs.read_to_end(&mut all).unwrap();
                    theirs.write_all(&all).unwrap();
                    theirs.end().unwrap();
                    // The caller ends it.
                    theirs
                }),
            );
            ours.write_all(&sent).unwrap();
            ours.end().unwrap();
            let mut back = Vec::new();
            ours.read_to_end(&mut back).unwrap();
            assert!(back == data, "{driver}");
            drop((echo.join().unwrap(), nodes));
        }
    }
}

#[test]
fn a_session_begins_on_a_relay_and_moves_while_bytes_go_both_ways() {
    for driver in Driver::ALL {
        let ([a, b], _servers) = nodes(driver, None);
        // On one machine a direct connect would be there first; as the second strategy it begins 250 ms later.
        let plan =
            Plan::new().strategies([Strategy::Relay, Strategy::Direct]).timeout(LONG).relay_first(true);
        let ours = a.connect_session(&b.address(), plan).unwrap();
        let theirs = b.accept_session(LONG).unwrap();
        let mut near = ours.open(true, b"").unwrap();
        let echo = thread::spawn(move || {
            let mut far = theirs.accept(true).unwrap();
            let mut all = Vec::new();
            let mut buffer = vec![0; 64 * 1024];
            while let n @ 1.. = far.read(&mut buffer).unwrap() {
                all.extend_from_slice(&buffer[..n]);
                far.write_all(&buffer[..n]).unwrap();
            }
            far.finish();
            (theirs, all.len())
        });
        // One after the other, so that bytes are under way in both directions when the session moves.
        let (mut done, mut after) = (0, 0);
        while after < 4 * MIB {
            let chunk: Vec<u8> = (done..done + 100_000).map(pattern).collect();
            near.write_all(&chunk).unwrap();
            let mut back = vec![0; chunk.len()];
            near.read_exact(&mut back).unwrap();
            assert!(back == chunk, "{driver}: after {done} bytes");
            done += chunk.len();
            after += if ours.moves() > 0 { chunk.len() } else { 0 };
        }
        near.finish();
        assert_eq!(near.read(&mut [0; 8]).unwrap(), 0, "{driver}");
        let (theirs, all) = echo.join().unwrap();
        assert_eq!((all, ours.moves()), (done, 1), "{driver}");
        // The better carrier may reach it before the first one does.
        assert!(theirs.moves() <= 1, "{driver}");
        println!("{driver}: {done} bytes, of which {after} after the move");
    }
}

#[test]
fn messages_arrive_once_each_though_nobody_reads_the_pipe() {
    for driver in Driver::ALL {
        let Pair { mut ours, mut theirs, nodes: _nodes, _servers } = pair(driver, PipeMode::Encrypted, None);
        let (out, back) = (ours.messages().unwrap(), theirs.messages().unwrap());
        assert_eq!(ours.messages().err().unwrap().kind(), ErrorKind::AlreadyExists, "{driver}");
        let long = out.send(&[0; MAX_MESSAGE + 1]).unwrap_err();
        assert_eq!(long.kind(), ErrorKind::InvalidInput, "{driver}");
        // More than both windows and the sockets' buffers.
        let writer = thread::spawn(move || {
            while ours.write(&[7; 64 * 1024]).is_ok() {}
            ours
        });
        thread::sleep(Duration::from_secs(2));
        let sizes = [0, 1, 1_200, MAX_MESSAGE];
        for end in [[&out, &back], [&back, &out]] {
            for _ in 0..100 {
                sizes.iter().for_each(|n| end[0].send(&vec![*n as u8; *n]).unwrap());
                let mut got: Vec<Vec<u8>> = sizes.iter().map(|_| end[1].recv().unwrap()).collect();
                got.sort_by_key(Vec::len);
                assert!(got == sizes.map(|n| vec![n as u8; n]), "{driver}");
            }
        }
        // A peer that takes none holds the sender up; once it takes them the sender goes on.
        const MANY: usize = 400;
        let sent = Arc::new(AtomicUsize::new(0));
        let count = sent.clone();
        let sender = thread::spawn(move || {
            let why = loop {
                match out.send(&[9; MAX_MESSAGE]) {
                    Ok(()) => count.fetch_add(1, Ordering::SeqCst),
                    Err(why) => break why,
                };
            };
            (out, why)
        });
        let mut before = usize::MAX;
        while before != sent.load(Ordering::SeqCst) {
            before = sent.load(Ordering::SeqCst);
            thread::sleep(Duration::from_secs(3));
        }
        // 64 each are under way and wait at the peer; sockets and a busy machine's pauses do the rest.
        assert!((64..300).contains(&before), "{driver}: {before}");
        for _ in 0..MANY {
            assert_eq!(back.recv().unwrap().len(), MAX_MESSAGE, "{driver}");
        }
        drop(theirs);
        let (_out, why) = sender.join().unwrap();
        assert_eq!(why.to_string(), "the peer closed the relayed pipe", "{driver}");
        drop((back, writer.join().unwrap()));
    }
}

/// On runtimes the end goes by memory, and may come before the runtime has seen the message on its socket.
#[test]
fn a_message_that_is_sent_before_the_end_arrives_though_its_pipe_is_dropped() {
    for driver in Driver::ALL {
        let ([a, b], _servers) = nodes(driver, None);
        for round in 0..20_u8 {
            let plan = Plan::new().strategies([Strategy::Relay]).timeout(LONG);
            let mut ours = a.connect(&b.address(), plan).unwrap();
            let mut theirs = b.accept(LONG).unwrap();
            let (out, back) = (ours.messages().unwrap(), theirs.messages().unwrap());
            out.send(&[round]).unwrap();
            ours.end().unwrap();
            drop((out, ours));
            assert_eq!(back.recv().unwrap(), [round], "{driver}");
            assert_eq!(theirs.read(&mut [0; 8]).unwrap(), 0, "{driver}");
        }
    }
}

#[test]
fn a_cut_is_not_an_end_and_there_is_no_socket_to_hand_on() {
    for driver in Driver::ALL {
        let Pair { ours, mut theirs, nodes: _nodes, _servers } = pair(driver, PipeMode::Plain, None);
        let none = ours.into_std().unwrap_err();
        assert_eq!(none.kind(), ErrorKind::Unsupported);
        assert_eq!(none.to_string(), "a relayed pipe runs through its node and has no socket of its own");
        // It was closed by that, without an end.
        let cut = theirs.read(&mut [0; 8]).unwrap_err();
        assert_eq!(cut.kind(), ErrorKind::UnexpectedEof, "{driver}: {cut}");
        assert_eq!(cut.to_string(), "the peer closed the relayed pipe", "{driver}");
        let gone = (0..1000).find_map(|_| theirs.write(&[0; 8]).err()).expect("nobody takes it");
        assert_eq!(gone.to_string(), "the peer closed the relayed pipe", "{driver}");
    }
}

#[test]
fn what_was_ended_arrives_though_the_node_is_shut_down_and_what_was_not_is_cut_off() {
    for driver in Driver::ALL {
        let Pair { mut ours, mut theirs, nodes: [a, _b], _servers } = pair(driver, PipeMode::Encrypted, None);
        let data: Vec<u8> = (0..MIB).map(pattern).collect();
        let sent = data.clone();
        let reader = thread::spawn(move || {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).unwrap();
            (all, theirs)
        });
        ours.write_all(&sent).unwrap();
        ours.end().unwrap();
        a.shutdown();
        let (all, mut theirs) = reader.join().unwrap();
        assert!(all == data, "{driver}: {} bytes", all.len());
        let over = ours.read(&mut [0; 8]).unwrap_err();
        assert_eq!(
            (over.kind(), over.to_string()),
            (ErrorKind::ConnectionAborted, "the node was shut down".into()),
            "{driver}"
        );
        let gone = (0..1000).find_map(|_| {
            thread::sleep(Duration::from_millis(5));
            theirs.write(&[0; 8]).err()
        });
        assert_eq!(
            gone.expect("the peer is gone").to_string(),
            "the peer closed the relayed pipe",
            "{driver}"
        );
    }
}

#[test]
fn whoever_does_not_read_holds_the_writer_up() {
    for driver in Driver::ALL {
        let Pair { mut ours, mut theirs, nodes: _nodes, _servers } = pair(driver, PipeMode::Encrypted, None);
        // Both windows of the relay's stream, 16 MiB each, and the sockets' buffers.
        let held = 16 * MIB..36 * MIB;
        let all_of_it = held.end + 4 * MIB;
        let written = Arc::new(AtomicUsize::new(0));
        let count = written.clone();
        let writer = thread::spawn(move || {
            for k in 0..all_of_it / (64 * 1024) {
                let chunk: Vec<u8> = (k * 64 * 1024..(k + 1) * 64 * 1024).map(pattern).collect();
                ours.write_all(&chunk).unwrap();
                count.fetch_add(chunk.len(), Ordering::Relaxed);
            }
            ours.end().unwrap();
            ours
        });
        let mut before = usize::MAX;
        while before != written.load(Ordering::Relaxed) {
            before = written.load(Ordering::Relaxed);
            thread::sleep(Duration::from_secs(2));
        }
        assert!(held.contains(&before), "{driver}: {before} bytes");
        let mut all = Vec::new();
        theirs.read_to_end(&mut all).unwrap();
        assert!(all.len() == all_of_it && all.iter().enumerate().all(|(n, b)| *b == pattern(n)), "{driver}");
        drop(writer.join().unwrap());
    }
}

#[test]
fn a_relayed_pipe_in_a_trace_acts_the_same_again() {
    for driver in Driver::ALL {
        let text = Arc::new(std::sync::Mutex::new(String::new()));
        let lines = text.clone();
        let trace: Trace = Box::new(move |line| lines.lock().unwrap().push_str(line));
        let Pair { mut ours, mut theirs, nodes: [a, b], _servers } =
            pair(driver, PipeMode::Encrypted, Some(trace));
        ours.write_all(b"there").unwrap();
        ours.end().unwrap();
        let mut word = String::new();
        theirs.read_to_string(&mut word).unwrap();
        theirs.write_all(b"and back").unwrap();
        theirs.end().unwrap();
        word.push(' ');
        ours.read_to_string(&mut word).unwrap();
        assert_eq!(word, "there and back");
        drop((ours, theirs));
        a.shutdown();
        b.shutdown();
        let text = text.lock().unwrap();
        assert!(text.contains(" pipe-write ") && text.contains("action open-relayed "), "{driver}");
        replay(&text).unwrap_or_else(|why| panic!("{driver}: {why}"));
    }
}
