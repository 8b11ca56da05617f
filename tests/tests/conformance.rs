//! Tests of the drivers' common behaviour. Each scenario runs on every driver, over real loopback sockets, and on the
//! simulator's driver where it has the calls.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use p2pd_core::trace::replay;
use p2pd_core::{
    Config, FailReason, IoFailure, PeerAddress, PipeMode, Plan, ProtocolTag, Refusal, SecretKey, Strategy,
};
use p2pd_sys::{BindError, ConnectError};
use p2pd_tests::drivers::{Driver, Node, Pipe, Trace};

/// Longer than anything here takes, even on a busy machine.
const LONG: Duration = Duration::from_secs(20);
const BOTH: [PipeMode; 2] = [PipeMode::Encrypted, PipeMode::Plain];
const MIB: usize = 1024 * 1024;

fn config() -> Config {
    let mut config = Config::new(SecretKey::from_bytes(p2pd_sys::random_seed().unwrap()));
    config.bind = Some(Ipv4Addr::LOCALHOST.into());
    config.allow_plain = true;
    config
}

fn node(driver: Driver) -> Box<dyn Node> {
    driver.bind(config(), None).unwrap()
}

fn plan(mode: PipeMode) -> Plan {
    Plan::new().mode(mode).timeout(LONG)
}

/// The same peer, said to be at another port.
fn moved(address: &PeerAddress, port: u16) -> PeerAddress {
    let there = address.v4()[0].port;
    address.to_string().replace(&format!(",{there},"), &format!(",{port},")).parse().unwrap()
}

fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Ends of a pipe between two nodes, which live as long as they are held.
struct Pair {
    _nodes: [Box<dyn Node>; 2],
    ours: Box<dyn Pipe>,
    theirs: Box<dyn Pipe>,
}

fn pair(driver: Driver, mode: PipeMode) -> Pair {
    let (a, b) = (node(driver), node(driver));
    let ours = a.connect(&b.address(), plan(mode)).unwrap();
    let theirs = b.accept(LONG).unwrap();
    assert_eq!((ours.info().mode(), theirs.info().mode()), (mode, mode));
    Pair { _nodes: [a, b], ours, theirs }
}

/// Byte `n` of the test stream.
fn pattern(n: usize) -> u8 {
    (n.wrapping_mul(2_654_435_761) >> 13) as u8
}

/// Reads to the end in pieces of this size, and checks every byte.
fn receive(pipe: &mut dyn Pipe, piece: usize) -> usize {
    let (mut got, mut buffer) = (0, vec![0; piece]);
    loop {
        let n = pipe.read(&mut buffer).unwrap();
        if n == 0 {
            return got;
        }
        for (k, byte) in buffer[..n].iter().enumerate() {
            assert_eq!(*byte, pattern(got + k), "byte {}", got + k);
        }
        got += n;
    }
}

#[test]
fn a_taken_port_is_named_and_shutdown_frees_it() {
    for driver in Driver::ALL {
        let first = node(driver);
        let port = first.address().v4()[0].port;
        let taken = driver.bind(config().port(port), None);
        let named = matches!(taken, Err(BindError::Listen(at, IoFailure::AddrInUse)) if at.port() == port);
        assert!(named, "{driver}");
        first.shutdown();
        driver.bind(config().port(port), None).unwrap();
    }
}

#[test]
fn a_refused_dial_and_a_stream_that_broke_are_told_apart() {
    for driver in Driver::ALL {
        let (a, b) = (node(driver), node(driver));
        let to = b.address();
        let (closed, port) = listener();
        drop(closed);
        let refused = a.connect(&moved(&to, port), plan(PipeMode::Encrypted)).unwrap_err();
        assert!(refused.to_string().contains("refused"), "{driver}: {refused}");
        let (rude, port) = listener();
        let resets = thread::spawn(move || {
            let (mut stream, _) = rude.accept().unwrap();
            stream.read_exact(&mut [0; 118]).unwrap();
            p2pd_sys::socket::reset_on_close(&stream).unwrap();
        });
        let reset = a.connect(&moved(&to, port), plan(PipeMode::Encrypted)).unwrap_err();
        assert!(reset.to_string().contains("the stream broke during the hello"), "{driver}: {reset}");
        resets.join().unwrap();
    }
}

#[test]
fn a_plain_pipe_is_refused_unless_allowed() {
    for driver in Driver::ALL {
        let a = node(driver);
        let b = driver.bind(config().allow_plain(false), None).unwrap();
        let refused = a.connect(&b.address(), plan(PipeMode::Plain)).unwrap_err();
        assert!(refused.to_string().contains("encrypted pipes only"), "{driver}: {refused}");
    }
}

#[test]
fn a_pipe_whose_peer_resets_it_says_so() {
    for driver in Driver::ALL {
        let Pair { mut ours, theirs, .. } = pair(driver, PipeMode::Plain);
        let raw = theirs.into_std().unwrap();
        p2pd_sys::socket::reset_on_close(&raw).unwrap();
        drop(raw);
        let reset = ours.read(&mut [0; 1]).unwrap_err();
        assert_eq!(reset.kind(), ErrorKind::ConnectionReset, "{driver}");
    }
}

#[test]
fn each_direction_ends_by_itself_and_a_cut_is_not_an_end() {
    for driver in Driver::ALL {
        for mode in BOTH {
            let Pair { mut ours, mut theirs, .. } = pair(driver, mode);
            ours.write_all(b"question").unwrap();
            ours.end().unwrap();
            let mut text = String::new();
            theirs.read_to_string(&mut text).unwrap();
            assert_eq!(text, "question", "{driver} {mode}");
            theirs.write_all(b"answer").unwrap();
            theirs.flush().unwrap();
            drop(theirs);
            let mut answer = Vec::new();
            let end = ours.read_to_end(&mut answer).map_err(|e| e.kind());
            assert_eq!(answer, b"answer", "{driver} {mode}");
            let expected =
                if mode == PipeMode::Encrypted { Err(ErrorKind::UnexpectedEof) } else { Ok(answer.len()) };
            assert_eq!(end, expected, "{driver} {mode}");
        }
    }
}

#[test]
fn big_and_tiny_writes_arrive_byte_exact_both_ways_at_once() {
    for driver in Driver::ALL {
        for mode in BOTH {
            let Pair { _nodes, ours, theirs } = pair(driver, mode);
            // Each end sends, then reads what came meanwhile: the system's buffers hold it.
            let talk = move |mut pipe: Box<dyn Pipe>, sizes: &'static [usize]| {
                let mut sent = 0;
                for size in sizes {
                    let data: Vec<u8> = (sent..sent + size).map(pattern).collect();
                    pipe.write_all(&data).unwrap();
                    sent += size;
                }
                pipe.end().unwrap();
                (sent, receive(&mut *pipe, 10_000))
            };
            let tiny = thread::spawn(move || talk(ours, &[1, 2, 3, 1, 1, 16_384, 16_385, 1000, 1]));
            let (big, from_tiny) = talk(theirs, &[4 * MIB, 1, 5 * MIB + 1]);
            let (tiny, from_big) = tiny.join().unwrap();
            assert_eq!((from_big, from_tiny), (big, tiny), "{driver} {mode}");
        }
    }
}

#[test]
fn pipes_between_ends_with_aes_and_without_it_bring_every_byte() {
    for driver in Driver::ALL {
        for (one, other) in [(true, true), (true, false), (false, true), (false, false)] {
            let bind = |aes: bool| driver.bind(config().aes(aes), None).unwrap();
            let (a, b) = (bind(one), bind(other));
            let mut ours = a.connect(&b.address(), plan(PipeMode::Encrypted)).unwrap();
            let mut theirs = b.accept(LONG).unwrap();
            let data: Vec<u8> = (0..3 * MIB).map(pattern).collect();
            thread::scope(|scope| {
                scope.spawn(|| {
                    assert_eq!(receive(&mut *theirs, 65_536), data.len(), "{driver} {one} {other}");
                    theirs.write_all(&data).unwrap();
                    theirs.end().unwrap();
                });
                ours.write_all(&data).unwrap();
                ours.end().unwrap();
                assert_eq!(receive(&mut *ours, 1_000), data.len(), "{driver} {one} {other}");
            });
        }
    }
}

/// The processor's instructions are in the configuration from then on, and so in a trace.
#[test]
fn a_driver_asks_the_processor_for_aes_unless_its_user_has_said() {
    for driver in Driver::ALL {
        let header_of = |config: Config| {
            let text = Arc::new(Mutex::new(String::new()));
            let lines = text.clone();
            let trace: Trace = Box::new(move |line: &str| lines.lock().unwrap().push_str(line));
            driver.bind(config, Some(trace)).unwrap().shutdown();
            let text = text.lock().unwrap();
            text.lines().find(|line| line.starts_with("aes ")).unwrap().to_owned()
        };
        assert_eq!(header_of(config().aes(true)), "aes yes", "{driver}");
        assert_eq!(header_of(config().aes(false)), "aes no", "{driver}");
        assert!(["aes yes", "aes no"].contains(&&*header_of(config())), "{driver}");
    }
}

#[test]
fn a_write_takes_two_records_and_no_more() {
    for driver in Driver::ALL {
        let Pair { _nodes, mut ours, mut theirs } = pair(driver, PipeMode::Encrypted);
        let data: Vec<u8> = (0..100_000).map(pattern).collect();
        let reader = thread::spawn(move || receive(&mut *theirs, 100_000));
        let mut sent = 0;
        let taken = [(); 4].map(|()| {
            let n = ours.write(&data[sent..]).unwrap();
            sent += n;
            n
        });
        assert_eq!(taken, [32_768, 32_768, 32_768, 1_696], "{driver}");
        ours.end().unwrap();
        assert_eq!(reader.join().unwrap(), 100_000, "{driver}");
    }
}

#[test]
fn a_writer_waits_for_a_slow_reader_and_loses_nothing() {
    const ALL: usize = 24 * MIB;
    for driver in Driver::ALL {
        for mode in BOTH {
            let Pair { _nodes, mut ours, mut theirs } = pair(driver, mode);
            let sent = Arc::new(AtomicUsize::new(0));
            let counts = sent.clone();
            let writer = thread::spawn(move || {
                for start in (0..ALL).step_by(65_536) {
                    let chunk: Vec<u8> = (start..start + 65_536).map(pattern).collect();
                    ours.write_all(&chunk).unwrap();
                    counts.fetch_add(chunk.len(), Ordering::Relaxed);
                }
                ours.end().unwrap();
            });
            // Nobody reads until the writer has come to a stop.
            let mut before = usize::MAX;
            loop {
                thread::sleep(Duration::from_millis(300));
                let now = sent.load(Ordering::Relaxed);
                if now == before {
                    break;
                }
                before = now;
            }
            assert!(before < ALL, "{driver} {mode}: a writer that never waits");
            assert_eq!(receive(&mut *theirs, 3_000), ALL, "{driver} {mode}");
            writer.join().unwrap();
        }
    }
}

#[test]
fn a_thousand_sockets_at_once() {
    const PIPES: usize = 500;
    p2pd_sys::raise_descriptor_limit();
    for driver in Driver::ALL {
        let (a, b) = (node(driver), node(driver));
        let to = b.address();
        let accepts = thread::scope(|scope| {
            let accepts = scope.spawn(|| {
                let mut pipes: Vec<_> = (0..PIPES).map(|_| b.accept(LONG).unwrap()).collect();
                for pipe in &mut pipes {
                    let mut number = [0; 2];
                    pipe.read_exact(&mut number).unwrap();
                    pipe.write_all(&number).unwrap();
                    pipe.flush().unwrap();
                }
                pipes
            });
            let mut pipes = Vec::new();
            while pipes.len() < PIPES {
                let calls: Vec<_> =
                    (0..100).map(|_| a.begin(&to, plan(PipeMode::Encrypted)).unwrap()).collect();
                pipes.extend(calls.into_iter().map(|call| call.wait().unwrap()));
            }
            for (n, pipe) in pipes.iter_mut().enumerate() {
                pipe.write_all(&(n as u16).to_be_bytes()).unwrap();
                pipe.flush().unwrap();
            }
            for (n, pipe) in pipes.iter_mut().enumerate() {
                let mut number = [0; 2];
                pipe.read_exact(&mut number).unwrap();
                assert_eq!(usize::from(u16::from_be_bytes(number)), n, "{driver}");
            }
            accepts.join().unwrap().len()
        });
        assert_eq!(accepts, PIPES, "{driver}");
    }
}

#[test]
fn silent_streams_of_one_address_shut_nobody_of_it_out() {
    p2pd_sys::raise_descriptor_limit();
    for driver in Driver::ALL {
        let a = node(driver);
        // 64 places for callers.
        let b = driver.bind(config().max_pipes(128), None).unwrap();
        let to = b.address();
        let at = (Ipv4Addr::LOCALHOST, to.v4()[0].port);
        let mut silent = Vec::new();
        for n in 1..=600 {
            silent.push(TcpStream::connect(at).unwrap());
            thread::sleep(Duration::from_millis(4));
            if n % 100 == 0 {
                a.connect(&to, plan(PipeMode::Encrypted)).unwrap();
            }
        }
        assert!(b.stats().streams_over_limit > 300, "{driver}: {:?}", b.stats());
    }
}

#[test]
fn one_peer_has_an_eighth_of_the_places_until_its_pipes_are_dropped() {
    for driver in Driver::ALL {
        let a = node(driver);
        let b = driver.bind(config().max_pipes(16), None).unwrap();
        let to = b.address();
        let call = |mode| a.connect(&to, plan(mode)).map(|pipe| (pipe, b.accept(LONG).unwrap()));
        let busy = || {
            let refused = call(PipeMode::Encrypted).unwrap_err().to_string();
            assert!(refused.contains("too many requests"), "{driver}: {refused}");
        };
        let (encrypted, plain) = (call(PipeMode::Encrypted).unwrap(), call(PipeMode::Plain).unwrap());
        busy();
        drop(encrypted);
        let encrypted = call(PipeMode::Encrypted).unwrap();
        busy();
        // A bare socket is its owner's, and counts no more.
        let bare = plain.1.into_std().unwrap();
        let another = call(PipeMode::Encrypted).unwrap();
        busy();
        drop((encrypted, bare, another));
    }
}

#[test]
fn a_call_given_up_closes_its_stream_and_leaves_the_others() {
    for driver in Driver::ALL {
        let (a, b) = (node(driver), node(driver));
        let to = b.address();
        let (silent, port) = listener();
        let call = a.begin(&moved(&to, port), plan(PipeMode::Encrypted)).unwrap();
        let (mut held, _) = silent.accept().unwrap();
        held.read_exact(&mut [0; 118]).unwrap();
        drop(call);
        held.set_read_timeout(Some(LONG)).unwrap();
        // An end or a reset, as the system has it; not more of the hello.
        assert_eq!(held.read(&mut [0; 1]).unwrap_or(0), 0, "{driver}");
        a.connect(&to, plan(PipeMode::Encrypted)).unwrap();
    }
}

#[test]
fn a_silent_stranger_costs_no_more_than_the_plans_time() {
    for driver in Driver::ALL {
        let (a, b) = (node(driver), node(driver));
        let (_silent, port) = listener();
        let within = Duration::from_millis(700);
        let began = Instant::now();
        let short = Plan::new().timeout(within);
        let failed = a.connect(&moved(&b.address(), port), short).unwrap_err();
        assert!(matches!(failed, ConnectError::Failed(..)), "{driver}: {failed}");
        assert!(failed.to_string().contains("deadline"), "{driver}: {failed}");
        assert!(began.elapsed() >= within && began.elapsed() < LONG / 2, "{driver}: {:?}", began.elapsed());
    }
}

#[test]
fn both_calling_each_other_get_pipes_and_oneself_can_be_called() {
    for driver in Driver::ALL {
        for _ in 0..10 {
            let (a, b) = (node(driver), node(driver));
            let (to_a, to_b) = (a.address(), b.address());
            let (from_a, from_b) = thread::scope(|scope| {
                let other = scope.spawn(|| b.connect(&to_a, plan(PipeMode::Encrypted)).unwrap());
                (a.connect(&to_b, plan(PipeMode::Encrypted)).unwrap(), other.join().unwrap())
            });
            if from_a.info().local_addr() == from_b.info().remote_addr() {
                let (mut from_a, mut from_b) = (from_a, from_b);
                from_a.write_all(b"one").unwrap();
                from_a.end().unwrap();
                let mut text = String::new();
                from_b.read_to_string(&mut text).unwrap();
                assert_eq!(text, "one", "{driver}");
            }
        }
        let a = node(driver);
        let to = a.address();
        let mine = a.connect(&to, plan(PipeMode::Encrypted)).unwrap();
        assert_eq!(mine.info().peer(), a.accept(LONG).unwrap().info().peer(), "{driver}");
    }
}

#[test]
fn the_end_of_a_node_fails_its_calls_and_leaves_its_pipes() {
    for driver in Driver::ALL {
        let (a, b) = (node(driver), node(driver));
        let to = b.address();
        let mut ours = a.connect(&to, plan(PipeMode::Encrypted)).unwrap();
        let mut theirs = b.accept(LONG).unwrap();
        let (_silent, port) = listener();
        let under_way = a.begin(&moved(&to, port), plan(PipeMode::Encrypted)).unwrap();
        a.shutdown();
        let failed = under_way.wait().unwrap_err();
        assert!(failed.to_string().contains("shut down"), "{driver}: {failed}");
        assert!(matches!(a.connect(&to, plan(PipeMode::Encrypted)), Err(ConnectError::NodeGone)), "{driver}");
        b.shutdown();
        assert!(b.accept(LONG).is_none(), "{driver}");
        ours.write_all(b"still").unwrap();
        ours.end().unwrap();
        let mut text = String::new();
        theirs.read_to_string(&mut text).unwrap();
        assert_eq!(text, "still", "{driver}");
    }
}

#[test]
fn a_trace_replays_with_the_same_outputs() {
    for driver in Driver::ALL {
        let recorded = || {
            let text = Arc::new(Mutex::new(String::new()));
            let lines = text.clone();
            let write = Box::new(move |line: &str| lines.lock().unwrap().push_str(line));
            (driver.bind(config(), Some(write)).unwrap(), text)
        };
        let ((a, ours), (b, theirs)) = (recorded(), recorded());
        let to = b.address();
        for mode in BOTH {
            let mut near = a.connect(&to, plan(mode)).unwrap();
            near.write_all(b"between us").unwrap();
            near.end().unwrap();
            let mut text = String::new();
            b.accept(LONG).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "between us");
        }
        let (_silent, port) = listener();
        drop(a.begin(&moved(&to, port), plan(PipeMode::Encrypted)).unwrap());
        b.shutdown();
        a.connect(&to, plan(PipeMode::Encrypted)).unwrap_err();
        a.shutdown();
        for (text, words) in [(ours, [" cancel ", " connect "]), (theirs, [" accepted ", " shutdown"])] {
            let text = text.lock().unwrap();
            let replayed = replay(&text).unwrap_or_else(|why| panic!("{driver}: {why}\n{text}"));
            let count = |kind: &str| text.lines().filter(|line| line.starts_with(kind)).count() as u64;
            let counted = (count("event "), count("call "), count("action "));
            assert_eq!((replayed.events, replayed.calls, replayed.actions), counted, "{driver}");
            assert_eq!(count("action detach "), 2, "{driver}");
            assert!(words.iter().all(|word| text.contains(word)), "{driver}: {text}");
        }
    }
}

/// Runs the simulator's driver, which judges its runs itself. Its `violations` cover bytes both ways in full, each
/// direction's end, nothing after a close, and every socket closed at the end.
#[test]
fn the_simulators_driver_opens_the_same_pipes_and_fails_alike() {
    use p2pd_simulations::scenario::pair::{Pair, run};
    let rows = [
        ("open", "open", Strategy::Direct),
        ("linux", "open", Strategy::Reverse),
        ("linux", "linux", Strategy::Punch),
    ];
    for (there, here, strategy) in rows {
        // Its timer late by as much as ours may be, and not at all.
        for late in [0, 2_000_000] {
            let chains = [there, here].map(|chain| chain.parse().unwrap());
            let mut pair = Pair { late, ..Pair::new(1, chains) };
            pair.strategies = vec![strategy];
            let ending = run(&pair);
            assert_eq!(ending.violations, [""; 0], "{strategy}");
            assert_eq!(ending.strategy, Some(strategy), "{strategy}: {}", ending.why);
        }
    }
    let plain = run(&Pair { mode: PipeMode::Plain, ..Pair::new(1, ["open"; 2].map(|c| c.parse().unwrap())) });
    assert!(plain.strategy.is_none() && plain.why.contains("encrypted pipes only"), "{}", plain.why);
    let chains = ["linux", "open"].map(|chain| chain.parse().unwrap());
    let mut nobody = Pair { timeout: Duration::from_millis(700), ..Pair::new(1, chains) };
    nobody.strategies = vec![Strategy::Direct];
    let ending = run(&nobody);
    assert_eq!((ending.strategy, ending.violations.len()), (None, 0), "{:?}", ending.violations);
    assert!(ending.why.contains("deadline"), "{}", ending.why);
}

#[test]
fn a_protocol_named_in_a_connect_comes_with_the_pipe_and_another_is_refused_by_name() {
    let tag = |text: &str| ProtocolTag::new(text.as_bytes());
    for driver in Driver::ALL {
        let (a, b) = (node(driver), node(driver));
        let c = driver.bind(config().protocols(Vec::from_iter(tag("chat/1"))), None).unwrap();
        for mode in BOTH {
            for (to, protocol) in [(&b, tag("chat/2")), (&b, None), (&c, tag("chat/1"))] {
                let ours = a.connect(&to.address(), plan(mode).protocol(protocol)).unwrap();
                let theirs = to.accept(LONG).unwrap();
                assert_eq!(
                    [ours.info().protocol(), theirs.info().protocol()],
                    [protocol; 2],
                    "{driver} {mode}"
                );
            }
            for protocol in [tag("chat/2"), None] {
                let refused = a.connect(&c.address(), plan(mode).protocol(protocol)).unwrap_err();
                let why = FailReason::RefusedByPeer(Refusal::ProtocolNotTaken);
                assert!(
                    matches!(&refused, ConnectError::Failed(reason, _) if *reason == why),
                    "{driver}: {refused}"
                );
            }
        }
    }
}
