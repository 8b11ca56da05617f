//! Servers on many ports.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use p2pd_tokio::messages::{
    Daemon, End, Family, ListenError, ListenFailure, MessagePipe, PipeOptions, Protocol, Route, Target,
};

use crate::{LONG, WHILE, bytes, everything, free_ports, is_free, loopback, until};

const BOTH: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

fn at(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn on_loopback(ports: std::ops::RangeInclusive<u16>) -> Result<Daemon, ListenError> {
    let target = Target::Route(Route::from(IpAddr::from(Ipv4Addr::LOCALHOST)));
    Daemon::listen_all(&[target], &[ports], &BOTH, &[Family::V4], &PipeOptions::default())
}

async fn echo(daemon: Daemon) {
    let serving = daemon.serve(|message, pipe| async move {
        let _ = pipe.send_to(&message.data, message.from).await;
    });
    serving.await;
}

async fn is_echoed(to: SocketAddr, protocol: Protocol) {
    let route = if to.is_ipv4() { Route::V4 } else { Route::V6 };
    let pipe = MessagePipe::open(protocol, to, route, &PipeOptions::default()).await.unwrap();
    let all = everything(&pipe);
    pipe.send(b"hello").await.unwrap();
    assert_eq!(bytes(&pipe, all, 5).await, b"hello", "{to} {protocol:?}");
}

#[tokio::test]
async fn ranges_are_inclusive_and_it_is_all_or_nothing() {
    let first = free_ports(3);
    let daemon = on_loopback(first..=first + 2).unwrap();
    let expected: Vec<_> = (first..=first + 2).flat_map(|p| BOTH.map(|protocol| (at(p), protocol))).collect();
    assert_eq!(daemon.bound(), expected);
    assert_eq!(daemon.udp().len(), 3);
    let serving = tokio::spawn(echo(daemon));
    for (at, protocol) in expected {
        is_echoed(at, protocol).await;
    }
    serving.abort();
    assert!(serving.await.unwrap_err().is_cancelled());
    // The sockets go when their tasks have run.
    until(|| on_loopback(first..=first + 2).is_ok()).await;

    until(|| (first..first + 3).all(is_free)).await;
    let _taken = (TcpListener::bind(at(first + 1)).unwrap(), UdpSocket::bind(at(first + 2)).unwrap());
    let failed = on_loopback(first..=first + 2).unwrap_err();
    let said: Vec<_> = failed
        .failed
        .iter()
        .map(|failure| match failure {
            ListenFailure::Bind(at, protocol, why) => (*at, *protocol, why.kind()),
            other => panic!("{other}"),
        })
        .collect();
    let in_use = ErrorKind::AddrInUse;
    assert_eq!(said, [(at(first + 1), Protocol::Tcp, in_use), (at(first + 2), Protocol::Udp, in_use)]);
    assert!(failed.to_string().contains(&format!("{} over Udp: ", at(first + 2))), "{failed}");
    // What could have been had was given back.
    let free = [(at(first), Protocol::Tcp), (at(first), Protocol::Udp), (at(first + 1), Protocol::Udp)];
    assert_eq!(Daemon::listen_specific(&free, &PipeOptions::default()).unwrap().bound(), free);
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let options = PipeOptions::default();
    let listen = |target: &Target, families: &[Family]| {
        Daemon::listen_all(std::slice::from_ref(target), &[0..=0], &BOTH, families, &options)
    };
    let nobody = Target::Interface("no-such-one".into());
    let failed = listen(&nobody, &[Family::V4]).unwrap_err().failed;
    assert!(matches!(&failed[..], [ListenFailure::NoInterface(n)] if n == "no-such-one"), "{failed:?}");
    let v4 = Target::Route(Route::V4);
    let failed = listen(&v4, &[Family::V6]).unwrap_err().failed;
    assert!(matches!(&failed[..], [ListenFailure::NoAddress(t, Family::V6)] if *t == v4), "{failed:?}");
    let bound = listen(&v4, &[Family::V4, Family::V6]).unwrap().bound().to_vec();
    assert!(bound.len() == 2 && bound.iter().all(|(at, _)| at.is_ipv4()), "all that there are: {bound:?}");
    let nothing = Daemon::listen_all(&[], &[0..=0], &BOTH, &[Family::V4], &options).unwrap_err();
    assert_eq!((nothing.failed.len(), nothing.to_string()), (0, "nothing to listen on".to_owned()));
}

#[tokio::test]
async fn targets_give_their_addresses_each_once() {
    let options = PipeOptions::default();
    let twice = [Target::Loopback, Target::Loopback];
    let port = free_ports(1);
    let tcp =
        Daemon::listen_all(&twice, &[port..=port, port..=port], &[Protocol::Tcp], &[Family::V4], &options);
    assert_eq!(tcp.unwrap().bound(), [(at(port), Protocol::Tcp)]);
    // Of a route the address counts, and no port.
    let route = Target::Route(Route::from(at(1)));
    let udp = Daemon::listen_all(&[route], &[port..=port], &[Protocol::Udp], &[Family::V4], &options);
    assert_eq!(udp.unwrap().bound(), [(at(port), Protocol::Udp)]);
    if cfg!(target_os = "linux") {
        let interface = [Target::Interface("lo".into())];
        let daemon =
            Daemon::listen_all(&interface, &[0..=0], &[Protocol::Udp], &[Family::V4], &options).unwrap();
        assert!(daemon.bound().iter().any(|(at, _)| at.ip() == Ipv4Addr::LOCALHOST));
    }
}

#[tokio::test]
async fn ipv6_is_served_beside_ipv4_on_one_port() {
    if UdpSocket::bind("[::1]:0").is_err() {
        eprintln!("SKIPPED: no IPv6 on this machine");
        return;
    }
    let options = PipeOptions::default();
    let port = free_ports(1);
    let families = [Family::V4, Family::V6];
    let daemon = Daemon::listen_all(&[Target::Loopback], &[port..=port], &BOTH, &families, &options).unwrap();
    let bound = daemon.bound().to_vec();
    assert_eq!(bound.iter().filter(|(at, _)| at.is_ipv6()).count(), 2);
    let serving = tokio::spawn(echo(daemon));
    for (at, protocol) in bound {
        is_echoed(at, protocol).await;
    }
    serving.abort();
}

/// Asks a server by blocking calls, so that a half-closed stream is as in any program.
fn asked(to: SocketAddr) -> String {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.write_all(b"hello").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test]
async fn clients_that_say_their_end_first_are_answered_and_let_go() {
    let daemon = Daemon::listen_specific(&[(loopback(), Protocol::Tcp)], &PipeOptions::default()).unwrap();
    let to = daemon.bound()[0].0;
    let serving = tokio::spawn(echo(daemon));
    for _ in 0..3 {
        assert_eq!(tokio::task::spawn_blocking(move || asked(to)).await.unwrap(), "hello");
    }
    serving.abort();
}

#[tokio::test]
async fn a_client_too_many_waits_until_another_has_left() {
    let daemon = Daemon::listen_specific(&[(loopback(), Protocol::Tcp)], &PipeOptions::default()).unwrap();
    let daemon = daemon.max_clients(1);
    let to = daemon.bound()[0].0;
    let serving = tokio::spawn(echo(daemon));
    let options = PipeOptions::default();
    let open = || MessagePipe::open(Protocol::Tcp, to, Route::V4, &options);
    let first = open().await.unwrap();
    let at_first = everything(&first);
    first.send(b"one").await.unwrap();
    assert_eq!(bytes(&first, at_first, 3).await, b"one");
    let second = open().await.unwrap();
    let at_second = everything(&second);
    second.send(b"two").await.unwrap();
    assert!(second.recv(at_second, WHILE).await.is_err());
    first.close().await;
    assert_eq!(second.recv(at_second, LONG).await.unwrap(), "two");
    // A server takes its clients along.
    serving.abort();
    assert_eq!(second.ended().await, End::Peer);
}
