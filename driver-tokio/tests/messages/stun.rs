//! The STUN client, with servers that answer, refuse, lie or are silent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use p2pd_core::stun::{TransactionId, binding_request};
use p2pd_rendezvous::stun::{Limits, Request, Response, Server, Sites, Stream};
use p2pd_tokio::messages::stun::{Client, StunError};
use p2pd_tokio::messages::{Daemon, MessagePipe, PipeOptions, Protocol, Route, Socket};

use crate::{LONG, everything, free_ports, loopback};

/// A STUN server over these protocols, on one port, while the task runs.
fn serve(protocols: &[Protocol]) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let at = SocketAddr::from(([127, 0, 0, 1], free_ports(1)));
    let wanted: Vec<_> = protocols.iter().map(|protocol| (at, *protocol)).collect();
    let daemon = Daemon::listen_specific(&wanted, &PipeOptions::default()).unwrap();
    let server = Arc::new(Mutex::new(Server::new(Sites::One, Limits::default())));
    let serving = daemon.serve(move |message, pipe| {
        let mut server = server.lock().unwrap();
        let local = pipe.local_addr();
        let answers = match pipe.protocol() {
            Protocol::Udp => server.datagram(Duration::ZERO, local, message.from, &message.data),
            Protocol::Tcp => {
                let answers = Stream::new(Duration::ZERO, local, message.from).receive(
                    &mut server,
                    Duration::ZERO,
                    &message.data,
                );
                let data = answers.data.into_iter().next().unwrap();
                Some(p2pd_rendezvous::stun::Reply { from: local, to: message.from, data })
            }
        };
        async move {
            let reply = answers.unwrap();
            pipe.send_to(&reply.data, reply.to).await.unwrap();
        }
    });
    (at, tokio::spawn(serving))
}

#[tokio::test]
async fn a_server_says_what_it_sees_and_the_socket_stays() {
    let (at, serving) = serve(&[Protocol::Udp, Protocol::Tcp]);
    let client = Client::new(at, Route::from(at.ip()));
    assert_eq!(client.external_ip().await.unwrap(), at.ip());
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        let mapping = client.mapping(protocol).await.unwrap();
        assert_eq!(mapping.local, mapping.external, "{protocol:?}");
        assert_eq!(mapping.socket.local_addr().unwrap(), mapping.local);
        assert_eq!(matches!(mapping.socket, Socket::Udp(..)), protocol == Protocol::Udp);
    }
    // The socket that was seen can be had for one's own.
    let mapping = client.mapping(Protocol::Udp).await.unwrap();
    let pipe = MessagePipe::new(mapping.socket, &PipeOptions::default()).unwrap();
    let all = everything(&pipe);
    let peer = MessagePipe::open(Protocol::Udp, mapping.external, Route::V4, &PipeOptions::default()).await;
    peer.unwrap().send(b"found you").await.unwrap();
    assert_eq!(pipe.recv(all, LONG).await.unwrap(), "found you");
    serving.abort();
}

#[tokio::test]
async fn where_udp_is_silent_tcp_is_asked() {
    let (at, serving) = serve(&[Protocol::Tcp]);
    // A silent one, rather than none.
    let _silent = std::net::UdpSocket::bind(at).unwrap();
    let client = Client::new(at, Route::V4);
    let began = Instant::now();
    let mapping = client.mapping(Protocol::Udp).await;
    assert!(matches!(mapping, Err(StunError::NoAnswer)), "{mapping:?}");
    assert!(began.elapsed() >= Duration::from_secs(3));
    assert_eq!(client.external_ip().await.unwrap(), at.ip());
    serving.abort();
}

#[tokio::test]
async fn only_the_servers_answer_to_the_question_counts() {
    let liar = MessagePipe::bind(loopback().into(), &PipeOptions::default()).unwrap();
    let at = liar.local_addr();
    let mut honest = Server::new(Sites::One, Limits::default());
    let all = everything(&liar);
    let lying = async {
        let asked = liar.recv_from(all, LONG).await.unwrap();
        let other = binding_request(TransactionId([0; 12]), None);
        let mut answer = |question: &[u8], from: &str| {
            honest.datagram(Duration::ZERO, at, from.parse().unwrap(), question).unwrap().data
        };
        let another = answer(&other, "192.0.2.1:1");
        let somebodys = answer(&asked.data, "192.0.2.2:2");
        let right = answer(&asked.data, "192.0.2.3:3");
        liar.send_to(b"noise", asked.from).await.unwrap();
        liar.send_to(&another, asked.from).await.unwrap();
        let stranger = MessagePipe::bind(loopback().into(), &PipeOptions::default()).unwrap();
        stranger.send_to(&somebodys, asked.from).await.unwrap();
        liar.send_to(&right, asked.from).await.unwrap();
    };
    let client = Client::new(at, Route::V4);
    let (mapping, ()) = tokio::join!(client.mapping(Protocol::Udp), lying);
    assert_eq!(mapping.unwrap().external, "192.0.2.3:3".parse().unwrap());
}

#[tokio::test]
async fn a_refusal_has_its_code() {
    let server = MessagePipe::bind(loopback().into(), &PipeOptions::default()).unwrap();
    let at = server.local_addr();
    server.on_message(|message, pipe| async move {
        let asked = Request::read(&message.data).unwrap();
        let answer = Response::error(asked.transaction(), 300).finish();
        pipe.send_to(&answer, message.from).await.unwrap();
    });
    let mapping = Client::new(at, Route::V4).mapping(Protocol::Udp).await;
    assert!(matches!(mapping, Err(StunError::Refused(300))), "{mapping:?}");
}
