//! Relayed addresses, and the messages beside relayed pipes, as pipes of messages: on every driver, over loopback with
//! our own TURN server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use mio::{Events, Poll};
use p2pd::serve::{Serving, Wanted, WantedTurn};
use p2pd_async::{
    Allocation, End, MessagePipe, Messages, Pattern, PipeOptions, Protocol, Runtime, SendError, Socket,
};
use p2pd_core::Transport;
use p2pd_core::relay::MAX_MESSAGE;
use p2pd_core::turn::{Credentials, MAX_PAYLOAD};
use p2pd_core::{Accept, Allocate, AllocateError, Config, PipeId, Plan, SecretKey, Strategy, TurnServer};
use p2pd_mio::messages::{News as PipeNews, Pipes};

/// Longer than anything here takes, even on a busy machine.
const LONG: Duration = Duration::from_secs(20);
const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// A TURN server of ours for alice.
async fn serving(ip: IpAddr) -> Serving {
    let users = vec![("alice".into(), "secret".into())];
    let turn = Some(WantedTurn { users, relay_ips: vec![ip], ..WantedTurn::default() });
    Serving::start(&Wanted { ip, second_ip: None, mqtt_port: 0, stun_ports: [0, 0], turn }).await.unwrap()
}

/// A node's configuration, with this server by UDP or TCP.
fn config(at: SocketAddr, over: Transport) -> Config {
    let mut config = Config::new(SecretKey::from_bytes(p2pd_sys::random_seed().unwrap()));
    (config.bind, config.survey) = (Some(at.ip()), false);
    let mut server = TurnServer::new(&at.ip().to_string(), at.port(), Credentials::new("alice", "secret"));
    server.transport = Some(over);
    config.turn = vec![server];
    config
}

/// A peer that knows nothing of us.
fn stranger(ip: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket
}

fn heard(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 2048];
    let (len, from) = socket.recv_from(&mut buffer).unwrap();
    (buffer[..len].to_vec(), from)
}

/// Two relayed addresses talk to each other and to a socket, by patterns, callbacks and waiting.
async fn exchange<R: Runtime>(one: Allocation<R>, other: Allocation<R>) {
    let (at, options) = (one.relayed_addr(), PipeOptions::default());
    let peer = stranger(at.ip());
    let one = MessagePipe::new(one, &options).unwrap();
    let other = MessagePipe::new(other, &options).unwrap();
    assert_eq!((one.protocol(), one.local_addr(), one.remote_addr()), (Protocol::Udp, at, None));
    let hellos = one.subscribe(Pattern::new("^hel+o").unwrap(), Pattern::ANY).unwrap();
    other.on_message(|message, pipe| async move {
        pipe.send_to(&message.data, message.from).await.unwrap();
    });
    // Sending permits the other's address: its answer comes.
    one.send_to(b"hello", other.local_addr()).await.unwrap();
    // The first one may come before the other has a permission for us, and is lost.
    other.send_to(b"from here", at).await.unwrap();
    let answer = loop {
        match one.recv_from(hellos, Duration::from_millis(200)).await {
            Ok(message) => break message,
            Err(_) => one.send_to(b"helllo", other.local_addr()).await.unwrap(),
        }
    };
    assert_eq!(answer.from, other.local_addr());
    // A peer that is nobody's.
    one.send_to(b"to a socket", peer.local_addr().unwrap()).await.unwrap();
    assert_eq!(heard(&peer), (b"to a socket".to_vec(), at));
    let longest = vec![b'x'; MAX_PAYLOAD];
    let all = one.subscribe(Pattern::new("^x").unwrap(), Pattern::ANY).unwrap();
    peer.send_to(&longest, at).unwrap();
    let message = one.recv_from(all, LONG).await.unwrap();
    assert_eq!((message.data.len(), message.from), (MAX_PAYLOAD, peer.local_addr().unwrap()));
    let too_long = one.send_to(&vec![0; MAX_PAYLOAD + 1], peer.local_addr().unwrap()).await;
    assert_eq!(too_long, Err(SendError::Failed(std::io::ErrorKind::InvalidInput)));
    // One refusal ends nothing; the end gives the address up.
    one.send_to(b"still here", peer.local_addr().unwrap()).await.unwrap();
    assert_eq!(heard(&peer).0, b"still here");
    one.close().await;
    assert_eq!(one.ended().await, End::Closed);
    other.close().await;
}

// Two threads: a peer here blocks one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_tokio_by_udp_and_tcp_and_over_ipv6() {
    for (ip, over) in [(V4, Transport::Udp), (V4, Transport::Tcp), (V6, Transport::Udp)] {
        let serving = serving(ip).await;
        let node = p2pd_tokio::Node::bind(config(serving.stun(), over)).await.unwrap();
        let [one, other] = [node.allocate(Allocate::default()), node.allocate(Allocate::default())];
        exchange(one.await.unwrap(), other.await.unwrap()).await;
        // The node's end is the pipe's.
        let last = node.allocate(Allocate::default()).await.unwrap();
        let last = MessagePipe::new(last, &PipeOptions::default()).unwrap();
        last.on_message(|_, _| async {});
        node.shutdown().await;
        assert!(matches!(last.ended().await, End::Failed(_)), "{:?}", last.ended().await);
        let none = node.allocate(Allocate::default()).await;
        assert_eq!(none.unwrap_err(), AllocateError::Shutdown);
    }
}

#[tokio::test]
async fn a_wrong_password_is_said_and_a_server_of_the_call_is_asked() {
    let serving = serving(V4).await;
    let at = serving.stun();
    let mut config = config(at, Transport::Udp);
    let good = std::mem::take(&mut config.turn);
    let node = p2pd_tokio::Node::bind(config).await.unwrap();
    assert_eq!(node.allocate(Allocate::default()).await.unwrap_err(), AllocateError::NoServer);
    let mut bad = TurnServer::new("127.0.0.1", at.port(), Credentials::new("alice", "wrong"));
    bad.transport = Some(Transport::Udp);
    let wish = Allocate { servers: vec![bad], ..Allocate::default() };
    let why = node.allocate(wish).await.unwrap_err();
    let expected = "over UDP: the TURN server does not take the credentials";
    assert_eq!(why.to_string(), format!("127.0.0.1:{} {expected}", at.port()));
    let wish = Allocate { servers: good, ..Allocate::default() };
    assert_eq!(node.allocate(wish).await.unwrap().relayed_addr().ip(), V4);
    node.shutdown().await;
}

#[tokio::test]
async fn on_async_std() {
    let serving = serving(V4).await;
    let config = config(serving.stun(), Transport::Udp);
    let work = async {
        let node = p2pd_async_std::Node::bind(config).await.unwrap();
        let [one, other] = [node.allocate(Allocate::default()), node.allocate(Allocate::default())];
        exchange(one.await.unwrap(), other.await.unwrap()).await;
        node.shutdown().await;
    };
    tokio::task::spawn_blocking(|| futures_lite::future::block_on(work)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_mio() {
    let serving = serving(V4).await;
    let config = config(serving.stun(), Transport::Udp);
    tokio::task::spawn_blocking(|| looping(config)).await.unwrap();
}

/// An allocation that echoes to a socket, in one loop.
fn looping(config: Config) {
    let (mut poll, mut events) = (Poll::new().unwrap(), Events::with_capacity(64));
    let mut node = p2pd_mio::Node::bind(config, poll.registry(), 0..1_000).unwrap();
    let mut pipes = Pipes::new(poll.registry(), 1_000..2_000).unwrap();
    let wish: PipeId = node.allocate(&Allocate::default()).unwrap();
    let (peer, began) = (stranger(V4), Instant::now());
    peer.set_nonblocking(true).unwrap();
    let (to, mut at, mut echoes) = (peer.local_addr().unwrap(), None, 0);
    let mut buffer = [0; 2048];
    while echoes < 3 {
        assert!(began.elapsed() < LONG);
        let wait = [node.timeout(), pipes.timeout(), Some(Duration::from_millis(10))];
        poll.poll(&mut events, wait.into_iter().flatten().min()).unwrap();
        for event in &events {
            assert!(node.handle(event) || pipes.handle(event));
        }
        node.tick();
        while let Some(news) = node.poll() {
            if let p2pd_mio::News::Allocated(id, allocation) = news {
                assert_eq!(id, wish);
                let relayed = allocation.relayed_addr();
                let pipe = pipes.add(allocation, &PipeOptions::default()).unwrap();
                assert_eq!(pipes.local_addr(pipe), Some(relayed));
                assert!(pipes.hear(pipe, true));
                pipes.send_to(pipe, b"first", to).unwrap();
                at = Some(relayed);
            }
        }
        pipes.tick();
        while let Some(news) = pipes.poll() {
            if let PipeNews::Message(pipe, message) = news {
                assert_eq!((&message.data[..], message.from), (&b"again"[..], to));
                pipes.send_to(pipe, b"more", message.from).unwrap();
            }
        }
        while let Ok((len, from)) = peer.recv_from(&mut buffer) {
            assert_eq!(Some(from), at);
            assert_eq!(&buffer[..len], if echoes == 0 { &b"first"[..] } else { b"more" });
            echoes += 1;
            peer.send_to(b"again", from).unwrap();
        }
    }
}

/// Configurations of two nodes that meet at this server's broker; the second accepts the first.
fn meeting(serving: &Serving) -> [Config; 2] {
    let configs = [(); 2].map(|()| {
        let brokers = serving.servers("127.0.0.1", 0).brokers;
        config(serving.stun(), Transport::Udp).brokers(brokers)
    });
    let [ours, theirs] = configs;
    let accept = Accept::Only([ours.identity.node_id()].into());
    [ours, theirs.accept(accept)]
}

fn by_relay() -> Plan {
    Plan::new().strategies([Strategy::Relay]).timeout(LONG)
}

/// Messages go both ways by patterns and callbacks, each once; one that is too long ends nothing.
async fn beside<R: Runtime>(one: Messages<R>, other: Messages<R>) -> MessagePipe<R> {
    let options = PipeOptions::default();
    let [one, other] =
        [one, other].map(|it| MessagePipe::<R>::new(Socket::Beside(Box::new(it)), &options).unwrap());
    assert_eq!((one.protocol(), one.remote_addr().map(|at| at.ip())), (Protocol::Tcp, Some(V4)));
    other.on_message(|message, pipe| async move { pipe.send(&message.data).await.unwrap() });
    let hellos = one.subscribe(Pattern::new("^hel+o").unwrap(), Pattern::ANY).unwrap();
    let all = one.subscribe(Pattern::ANY, Pattern::ANY).unwrap();
    let longest = vec![b'x'; MAX_MESSAGE];
    let sent = [&b""[..], b"helllo", b"other", &longest];
    for message in sent {
        one.send(message).await.unwrap();
    }
    let too_long = one.send(&vec![0; MAX_MESSAGE + 1]).await;
    assert_eq!(too_long, Err(SendError::Failed(std::io::ErrorKind::InvalidInput)));
    one.send(b"still here").await.unwrap();
    assert_eq!(&one.recv(hellos, LONG).await.unwrap()[..], b"helllo");
    let mut back = Vec::new();
    for _ in 0..=sent.len() {
        back.push(one.recv(all, LONG).await.unwrap());
    }
    back.sort();
    assert_eq!(back, [&b""[..], b"helllo", b"other", b"still here", &longest]);
    one
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_beside_a_pipe_on_tokio() {
    let serving = serving(V4).await;
    let [ours, theirs] = meeting(&serving);
    let (ours, theirs) =
        (p2pd_tokio::Node::bind(ours).await.unwrap(), p2pd_tokio::Node::bind(theirs).await.unwrap());
    let mut pipe = ours.connect_with(&theirs.address().await, by_relay()).await.unwrap();
    let mut other = theirs.accept().await.unwrap();
    let one = beside::<p2pd_tokio::Tokio>(pipe.messages().unwrap(), other.messages().unwrap()).await;
    drop(other);
    assert_eq!(one.ended().await, End::Peer);
}

#[tokio::test]
async fn messages_beside_a_pipe_on_async_std() {
    let serving = serving(V4).await;
    let [ours, theirs] = meeting(&serving);
    let work = async {
        let ours = p2pd_async_std::Node::bind(ours).await.unwrap();
        let theirs = p2pd_async_std::Node::bind(theirs).await.unwrap();
        let mut pipe = ours.connect_with(&theirs.address().await, by_relay()).await.unwrap();
        let mut other = theirs.accept().await.unwrap();
        let messages = (pipe.messages().unwrap(), other.messages().unwrap());
        beside::<p2pd_async_std::AsyncIo>(messages.0, messages.1).await;
    };
    tokio::task::spawn_blocking(|| futures_lite::future::block_on(work)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_beside_a_pipe_on_mio() {
    let serving = serving(V4).await;
    let configs = meeting(&serving);
    tokio::task::spawn_blocking(|| looping_beside(configs)).await.unwrap();
}

/// Two nodes in one loop, and what the one says beside its pipe comes back.
fn looping_beside([ours, theirs]: [Config; 2]) {
    let (mut poll, mut events) = (Poll::new().unwrap(), Events::with_capacity(64));
    let mut nodes = [
        p2pd_mio::Node::bind(ours, poll.registry(), 0..1_000).unwrap(),
        p2pd_mio::Node::bind(theirs, poll.registry(), 1_000..2_000).unwrap(),
    ];
    let mut pipes = Pipes::new(poll.registry(), 2_000..3_000).unwrap();
    // A pipe that is not registered is read by nobody; its messages come all the same.
    let (mut held, mut one, mut hellos, mut called) = (Vec::new(), None, None, false);
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < LONG);
        let wait = [nodes[0].timeout(), nodes[1].timeout(), pipes.timeout()];
        poll.poll(&mut events, wait.into_iter().flatten().min()).unwrap();
        for event in &events {
            assert!(nodes.iter_mut().any(|node| node.handle(event)) || pipes.handle(event));
        }
        for node in &mut nodes {
            node.tick();
            while let Some(news) = node.poll() {
                let (mut pipe, is_ours) = match news {
                    p2pd_mio::News::Opened(_, pipe) => (pipe, true),
                    p2pd_mio::News::Incoming(pipe) => (pipe, false),
                    p2pd_mio::News::NotOpened(_, why) => panic!("{why}"),
                    _ => continue,
                };
                let beside = pipes.add(pipe.messages().unwrap(), &PipeOptions::default()).unwrap();
                assert_eq!(pipes.remote_addr(beside), Some(pipe.remote_addr()));
                if is_ours {
                    let pattern = Pattern::new("^hel+o").unwrap();
                    hellos = Some(pipes.subscribe(beside, pattern, Pattern::ANY).unwrap());
                    for text in [&b"other"[..], b"", b"helllo"] {
                        pipes.send(beside, text).unwrap();
                    }
                    one = Some(beside);
                } else {
                    pipes.hear(beside, true);
                }
                held.push(pipe);
            }
        }
        if let Some(to) = nodes[1].address().filter(|_| !called).cloned() {
            nodes[0].connect(&to, by_relay()).unwrap();
            called = true;
        }
        pipes.tick();
        while let Some(news) = pipes.poll() {
            if let PipeNews::Message(pipe, message) = news {
                pipes.send(pipe, &message.data).unwrap();
            }
        }
        if let (Some(one), Some(hellos)) = (one, hellos)
            && let Some(message) = pipes.recv(one, hellos).unwrap()
        {
            assert_eq!(&message.data[..], b"helllo");
            return;
        }
    }
}
