//! Tests of pipes of messages for this driver alone: its own sockets, on the executor that the features chose.
//! `tests/tests/messages.rs` has the rest, on async-std's.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use async_io::Async;
use futures_lite::future::{block_on, zip};
use p2pd_async_std::AsyncIo;
use p2pd_async_std::messages::SubscriptionId;
use p2pd_async_std::messages::{
    Daemon, End, IntoSocket, MessagePipe, Pattern, PipeOptions, Protocol, RecvError, Route, stun,
};
use p2pd_async_std::{Config, Node, Pipe, PipeMode, Plan, SecretKey};

/// Longer than anything here takes, even on a busy machine.
const LONG: Duration = Duration::from_secs(20);

fn wrap(socket: impl IntoSocket<AsyncIo>) -> (MessagePipe, SubscriptionId) {
    let pipe = MessagePipe::new(socket, &PipeOptions::default()).unwrap();
    let all = pipe.subscribe(Pattern::ANY, Pattern::ANY).unwrap();
    (pipe, all)
}

/// Connects a TCP pair and returns both ends.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (ours, listener.accept().unwrap().0)
}

async fn talks(socket: impl IntoSocket<AsyncIo>, mut peer: TcpStream) {
    let (pipe, all) = wrap(socket);
    peer.write_all(b"question").unwrap();
    assert_eq!(pipe.recv(all, LONG).await.unwrap(), "question");
    pipe.send(b"answer").await.unwrap();
    pipe.close().await;
    let mut answer = String::new();
    peer.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "answer");
}

#[test]
fn sockets_that_exist_become_pipes() {
    block_on(async {
        let (ours, peer) = pair();
        talks(ours, peer).await;
        let (ours, peer) = pair();
        talks(Async::new(ours).unwrap(), peer).await;
        let udp = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (ours, peer) = (udp(), udp());
        ours.connect(peer.local_addr().unwrap()).unwrap();
        let (pipe, all) = wrap(ours);
        assert_eq!(pipe.remote_addr(), peer.local_addr().ok());
        pipe.send(b"hello").await.unwrap();
        let (peer, at_peer) = wrap(Async::new(peer).unwrap());
        let came = peer.recv_from(at_peer, LONG).await.unwrap();
        assert_eq!((&came.data[..], came.from), (&b"hello"[..], pipe.local_addr()));
        peer.send_to(b"back", came.from).await.unwrap();
        assert_eq!(pipe.recv(all, LONG).await.unwrap(), "back");
    });
}

/// A pipe between two nodes, which live on without them.
async fn peers(mode: PipeMode) -> (Pipe, Pipe) {
    let node = || {
        let mut config = Config::new(SecretKey::from_bytes(p2pd_async_std::random_seed().unwrap()));
        config.bind = Some(Ipv4Addr::LOCALHOST.into());
        config.allow_plain = true;
        Node::bind(config)
    };
    let (a, b) = (node().await.unwrap(), node().await.unwrap());
    let to = b.address().await;
    let plan = Plan::new().mode(mode);
    let (ours, theirs) = zip(a.connect_with(&to, plan), b.accept()).await;
    (ours.unwrap(), theirs.unwrap())
}

async fn talk(ours: (MessagePipe, SubscriptionId), theirs: (MessagePipe, SubscriptionId)) {
    let ((ours, at_ours), (theirs, at_theirs)) = (ours, theirs);
    assert_eq!(ours.protocol(), Protocol::Tcp);
    ours.send(b"question").await.unwrap();
    ours.finish().await.unwrap();
    assert_eq!(theirs.recv(at_theirs, LONG).await.unwrap(), "question");
    assert_eq!(theirs.ended().await, End::Peer);
    theirs.send(b"answer").await.unwrap();
    theirs.close().await;
    assert_eq!(ours.recv(at_ours, LONG).await.unwrap(), "answer");
    assert_eq!(ours.recv(at_ours, LONG).await, Err(RecvError::Ended(End::Peer)));
}

#[test]
fn a_pipe_to_a_peer_becomes_one_of_messages() {
    block_on(async {
        for mode in [PipeMode::Encrypted, PipeMode::Plain] {
            let (ours, theirs) = peers(mode).await;
            talk(wrap(ours), wrap(theirs)).await;
        }
    });
}

#[cfg(unix)]
#[test]
fn a_stream_of_the_runtime_becomes_one_of_messages() {
    block_on(async {
        #[cfg(feature = "async-std")]
        {
            let (ours, theirs) = peers(PipeMode::Plain).await;
            talk(wrap(ours.into_async_std().unwrap()), wrap(theirs)).await;
        }
        #[cfg(feature = "smol")]
        {
            let (ours, theirs) = peers(PipeMode::Plain).await;
            talk(wrap(ours.into_smol().unwrap()), wrap(theirs)).await;
        }
    });
}

#[test]
fn a_callback_that_panics_ends_its_pipe_and_no_other() {
    block_on(async {
        let (ours, mut peer) = pair();
        let (pipe, _) = wrap(ours);
        pipe.on_message(|_, _| async { panic!("on purpose") });
        peer.write_all(b"x").unwrap();
        assert_eq!(pipe.ended().await, End::Closed);
        for _ in 0..4 {
            let (ours, peer) = pair();
            talks(ours, peer).await;
        }
    });
}

#[test]
fn a_stun_server_of_twenty_lines_says_what_it_sees() {
    use p2pd_rendezvous::stun::{Limits, Server, Sites};
    block_on(async {
        let wanted = [((Ipv4Addr::LOCALHOST, 0).into(), Protocol::Udp)];
        let daemon = Daemon::listen_specific(&wanted, &PipeOptions::default()).unwrap();
        let at = daemon.bound()[0].0;
        let server = std::sync::Arc::new(std::sync::Mutex::new(Server::new(Sites::One, Limits::default())));
        let serving = daemon.serve(move |message, pipe| {
            let mut server = server.lock().unwrap();
            let reply = server.datagram(Duration::ZERO, pipe.local_addr(), message.from, &message.data);
            async move { pipe.send_to(&reply.unwrap().data, message.from).await.unwrap() }
        });
        let asking = async {
            let client = stun::Client::new(at, Route::V4);
            let mapping = client.mapping(Protocol::Udp).await.unwrap();
            assert_eq!(mapping.external.ip(), at.ip());
            assert_eq!(mapping.external.port(), mapping.local.port());
        };
        let serving = async {
            serving.await;
            unreachable!("it serves until it is dropped")
        };
        futures_lite::future::or(asking, serving).await;
    });
}
