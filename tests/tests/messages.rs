//! Pipes of messages: each scenario on every driver, over loopback.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use p2pd_core::pipe::subscriptions::{Overflow, Pattern, Queue, SubscriptionId};
use p2pd_sys::messages::{Destination, End, Family, ListenFailure, OpenError, PipeOptions, Protocol, Route};
use p2pd_tests::drivers::Driver;
use p2pd_tests::drivers::messages::{Key, NoMessage, Pipes};

/// Longer than anything here takes, even on a busy machine.
const LONG: Duration = Duration::from_secs(20);
/// Time in which an event that should not happen would happen.
const WHILE: Duration = Duration::from_millis(300);
const BOTH: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn on_each(scenario: impl Fn(&dyn Pipes)) {
    for driver in Driver::ALL {
        println!("on {driver}");
        scenario(&*driver.message_pipes());
    }
}

fn everything(pipes: &dyn Pipes, pipe: Key) -> SubscriptionId {
    pipes.subscribe(pipe, Pattern::ANY, Queue::default())
}

fn queue(messages: usize, overflow: Overflow) -> Queue {
    Queue { messages, overflow, ..Queue::default() }
}

/// A UDP server and a client of it.
fn udp(pipes: &dyn Pipes, options: &PipeOptions) -> [Key; 2] {
    let server = pipes.bind(loopback().into(), options);
    let to = pipes.local(server).into();
    [server, pipes.open(Protocol::Udp, to, loopback().into(), options).unwrap()]
}

/// A client, the relay's two pipes, and the server behind it.
fn chain(pipes: &dyn Pipes) -> [Key; 4] {
    let ([client, near], [far, server]) =
        (pipes.pair(&PipeOptions::default()), pipes.pair(&PipeOptions::default()));
    [client, near, far, server]
}

fn text(pipes: &dyn Pipes, pipe: Key, from: SubscriptionId) -> String {
    String::from_utf8(pipes.recv(pipe, from, LONG).unwrap().data.into()).unwrap()
}

/// Receives the bytes of a stream until `len` are there.
fn bytes(pipes: &dyn Pipes, pipe: Key, from: SubscriptionId, len: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < len {
        all.extend_from_slice(&pipes.recv(pipe, from, LONG).unwrap().data);
    }
    all
}

/// Receives the bytes until the end, and returns them with the end.
fn rest(pipes: &dyn Pipes, pipe: Key, from: SubscriptionId) -> (Vec<u8>, NoMessage) {
    let mut all = Vec::new();
    loop {
        match pipes.recv(pipe, from, LONG) {
            Ok(message) => all.extend_from_slice(&message.data),
            Err(why) => return (all, why),
        }
    }
}

fn until(so: impl Fn() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < LONG, "it never came to that");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Bytes without a short period, so that none lost, doubled or swapped goes unnoticed.
fn patterned(len: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let word = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 3).to_le_bytes()
    };
    std::iter::repeat_with(word).flatten().take(len).collect()
}

/// The first of so many ports in a row that are free for TCP and UDP, below those that the system gives to others.
fn free_ports(many: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 13_000 + (std::process::id() % 50) as u16 * 100;
    let is_free = |port: u16| {
        let at = (Ipv4Addr::LOCALHOST, port);
        TcpListener::bind(at).is_ok() && UdpSocket::bind(at).is_ok()
    };
    loop {
        let first = base + NEXT.fetch_add(many, Ordering::Relaxed);
        if (first..first + many).all(is_free) {
            return first;
        }
    }
}

#[test]
fn a_server_on_a_range_of_ports_answers_on_each_and_it_is_all_or_nothing() {
    let has_v6 = UdpSocket::bind("[::1]:0").is_ok();
    let families: &[Family] = if has_v6 { &[Family::V4, Family::V6] } else { &[Family::V4] };
    if !has_v6 {
        eprintln!("SKIPPED: IPv6, which this machine has not");
    }
    on_each(|pipes| {
        let first = free_ports(3);
        let bound = pipes.echo(first..=first + 2, families).unwrap();
        let expected = families.iter().flat_map(|family| {
            let ip = if *family == Family::V4 { "127.0.0.1" } else { "::1" }.parse().unwrap();
            (first..=first + 2)
                .flat_map(move |port| BOTH.map(|protocol| (SocketAddr::new(ip, port), protocol)))
        });
        assert_eq!(bound, expected.collect::<Vec<_>>());
        for (at, protocol) in bound {
            let route = if at.is_ipv4() { Route::V4 } else { Route::V6 };
            let pipe = pipes.open(protocol, at.into(), route, &PipeOptions::default()).unwrap();
            let all = everything(pipes, pipe);
            assert!(pipes.send(pipe, b"hello"));
            let message = pipes.recv(pipe, all, LONG).unwrap();
            assert_eq!((&message.data[..], message.from), (&b"hello"[..], at), "{protocol:?}");
        }
        let first = free_ports(3);
        let taken = SocketAddr::from((Ipv4Addr::LOCALHOST, first + 1));
        let _taken = TcpListener::bind(taken).unwrap();
        let failed = pipes.echo(first..=first + 2, &[Family::V4]).unwrap_err().failed;
        assert!(
            matches!(&failed[..], [ListenFailure::Bind(at, Protocol::Tcp, why)]
                if *at == taken && why.kind() == ErrorKind::AddrInUse),
            "{failed:?}"
        );
        assert!(UdpSocket::bind((Ipv4Addr::LOCALHOST, first)).is_ok(), "given back");
    });
}

#[test]
fn destinations_are_addresses_or_names_of_the_routes_family() {
    on_each(|pipes| {
        let options = PipeOptions::default();
        let listener = TcpListener::bind(loopback()).unwrap();
        let at = listener.local_addr().unwrap();
        let open = |to: Destination, route| pipes.open(Protocol::Tcp, to, route, &options);
        open(("localhost", at.port()).into(), Route::V4).unwrap();
        assert_eq!(listener.accept().unwrap().0.local_addr().unwrap(), at);
        open(("127.0.0.1", at.port()).into(), Route::V4).unwrap();
        let unknown = open(("no-such-host.invalid", 1).into(), Route::V4);
        assert!(matches!(unknown, Err(OpenError::Resolve(_) | OpenError::TimedOut)), "{unknown:?}");
        assert!(matches!(open(at.into(), Route::V6), Err(OpenError::OtherFamily)));
        let taken = open(at.into(), Route::from(at));
        assert!(matches!(&taken, Err(OpenError::Socket(e)) if e.kind() == ErrorKind::AddrInUse), "{taken:?}");
        drop(listener);
        let refused = open(at.into(), Route::V4);
        assert!(
            matches!(&refused, Err(OpenError::Connect(e)) if e.kind() == ErrorKind::ConnectionRefused),
            "{refused:?}"
        );
    });
}

/// Linux answers no SYN while as many wait to be accepted as may.
#[cfg(target_os = "linux")]
#[test]
fn a_connect_takes_no_longer_than_it_may() {
    use socket2::{Domain, Socket, Type};
    on_each(|pipes| {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&loopback().into()).unwrap();
        listener.listen(0).unwrap();
        let at = listener.local_addr().unwrap().as_socket().unwrap();
        let _waits = std::net::TcpStream::connect(at).unwrap();
        let options = PipeOptions { connect_timeout: WHILE, ..Default::default() };
        let began = Instant::now();
        let opened = pipes.open(Protocol::Tcp, at.into(), Route::V4, &options);
        assert!(matches!(opened, Err(OpenError::TimedOut)), "{opened:?}");
        assert!(began.elapsed() >= WHILE && began.elapsed() < LONG);
    });
}

#[test]
fn each_queue_gets_what_matches_and_drops_what_it_was_told_to() {
    on_each(|pipes| {
        let [server, client] = udp(pipes, &PipeOptions::default());
        let oldest = pipes.subscribe(server, Pattern::ANY, queue(2, Overflow::DropOldest));
        let newest = pipes.subscribe(server, Pattern::ANY, queue(2, Overflow::DropNewest));
        let hellos = pipes.subscribe(server, Pattern::new("[hH]e[l]+o").unwrap(), Queue::default());
        for text in ["1", "hello", "3", "well, Hellllo"] {
            assert!(pipes.send(client, text.as_bytes()));
        }
        until(|| pipes.count(server, oldest) == (2, 2) && pipes.count(server, newest) == (2, 2));
        let expected = [
            (oldest, ["3", "well, Hellllo"]),
            (newest, ["1", "hello"]),
            (hellos, ["hello", "well, Hellllo"]),
        ];
        for (id, texts) in expected {
            assert_eq!([text(pipes, server, id), text(pipes, server, id)], texts);
            assert_eq!(pipes.recv(server, id, Duration::ZERO), Err(NoMessage::Late));
        }
    });
}

#[test]
fn repeated_messages_are_passed_over_if_that_is_asked_for() {
    on_each(|pipes| {
        let options = PipeOptions { unique: true, unique_kept: 2, ..Default::default() };
        let [server, client] = udp(pipes, &options);
        let all = everything(pipes, server);
        // With two kept, the third makes the first forgotten.
        for text in ["a", "a", "b", "c", "a", "end"] {
            assert!(pipes.send(client, text.as_bytes()));
        }
        for expected in ["a", "b", "c", "a", "end"] {
            assert_eq!(text(pipes, server, all), expected);
        }
    });
}

/// Sends more than the system's buffers take, from a thread, and looks on while nobody reads.
fn waits_then(pipes: &dyn Pipes, from: Key, data: &[u8], then: impl FnOnce()) {
    let sent = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            assert!(pipes.send(from, data));
            pipes.finish(from);
            sent.store(true, Ordering::Release);
        });
        thread::sleep(WHILE * 2);
        assert!(!sent.load(Ordering::Acquire), "it did not have to wait");
        then();
    });
    assert!(sent.into_inner());
}

#[test]
fn a_queue_that_stops_the_reading_makes_the_sender_wait_and_loses_nothing() {
    on_each(|pipes| {
        let [ours, theirs] = pipes.pair(&PipeOptions::default());
        let all = pipes.subscribe(theirs, Pattern::ANY, queue(3, Overflow::StopReading));
        let data = patterned(32 << 20);
        waits_then(pipes, ours, &data, || {
            until(|| pipes.count(theirs, all) == (3, 0));
            let (came, why) = rest(pipes, theirs, all);
            assert_eq!(why, NoMessage::Ended(End::Peer));
            assert!(came == data, "{} of {} bytes", came.len(), data.len());
        });
        assert_eq!(pipes.ended(theirs), End::Peer);
        assert!(!pipes.send(ours, b"more"), "our direction has ended");
    });
}

#[test]
fn joined_pipes_pass_on_back_pressure_and_each_directions_end() {
    on_each(|pipes| {
        let [client, near, far, server] = chain(pipes);
        pipes.join(near, far);
        // More than the system's buffers of two connections take.
        let data = patterned(48 << 20);
        waits_then(pipes, client, &data, || {
            let all = pipes.subscribe(server, Pattern::ANY, queue(1000, Overflow::StopReading));
            let (came, why) = rest(pipes, server, all);
            assert_eq!(why, NoMessage::Ended(End::Peer));
            assert!(came == data, "{} of {} bytes", came.len(), data.len());
        });
        // The other direction still is as it was.
        let at_client = everything(pipes, client);
        assert!(pipes.send(server, b"thanks"));
        pipes.close(server);
        assert_eq!(rest(pipes, client, at_client), (b"thanks".to_vec(), NoMessage::Ended(End::Peer)));
        assert_eq!((pipes.ended(near), pipes.ended(far)), (End::Peer, End::Peer));
    });
}

#[test]
fn a_relay_that_breaks_is_seen_to_at_its_other_end() {
    on_each(|pipes| {
        let [client, near, far, server] = chain(pipes);
        pipes.join(near, far);
        let all = everything(pipes, client);
        pipes.abort(server);
        let broke = End::Failed(ErrorKind::ConnectionReset);
        assert_eq!(pipes.recv(client, all, LONG), Err(NoMessage::Ended(broke)));
        assert_eq!((pipes.ended(far), pipes.ended(near)), (broke, End::Closed));
        assert!(!pipes.send(near, b"x"));
    });
}

#[test]
fn linked_pipes_keep_their_ends_and_datagrams_go_to_streams() {
    on_each(|pipes| {
        let [client, near, far, server] = chain(pipes);
        pipes.link(near, far);
        let at_server = everything(pipes, server);
        assert!(pipes.send(client, b"x"));
        assert_eq!(bytes(pipes, server, at_server, 1), b"x");
        pipes.finish(client);
        assert_eq!(pipes.ended(near), End::Peer);
        assert_eq!(pipes.recv(server, at_server, WHILE), Err(NoMessage::Late));
        assert!(pipes.send(far, b"y"));
        assert_eq!(bytes(pipes, server, at_server, 1), b"y");
        // One that is linked to itself is an echo.
        pipes.link(server, server);
        let at_far = everything(pipes, far);
        assert!(pipes.send(far, b"echo"));
        assert_eq!(bytes(pipes, far, at_far, 4), b"echo");

        let [there, here] = udp(pipes, &PipeOptions::default());
        let [one, other] = pipes.pair(&PipeOptions::default());
        pipes.link(there, one);
        let at_other = everything(pipes, other);
        assert!(pipes.send(here, b"by datagram"));
        assert_eq!(bytes(pipes, other, at_other, 11), b"by datagram");
    });
}
