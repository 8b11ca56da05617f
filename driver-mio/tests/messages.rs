//! Tests of pipes of messages for mio alone: calls that would block, news, tokens. The rest is in
//! `tests/tests/messages.rs`, for every driver.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use mio::{Events, Poll};
use p2pd_core::stun::{TransactionId, binding_request};
use p2pd_mio::messages::stun::{Query, StunError};
use p2pd_mio::messages::{
    End, News, Overflow, Pattern, PipeId, PipeOptions, Pipes, Protocol, Queue, RecvError, Route,
    SubscribeError,
};
use p2pd_mio::{Config, Node, Plan, SecretKey};
use stun_types::attribute::XorMappedAddress;
use stun_types::message::{Message, MessageWrite, MessageWriteExt, MessageWriteVec};

/// Longer than anything here takes, even on a busy machine.
const LONG: Duration = Duration::from_secs(20);

struct Loop {
    poll: Poll,
    events: Events,
    pipes: Pipes,
}

impl Loop {
    fn new(tokens: usize) -> Self {
        let poll = Poll::new().unwrap();
        let pipes = Pipes::new(poll.registry(), 0..tokens).unwrap();
        Loop { poll, events: Events::with_capacity(64), pipes }
    }

    /// Runs one turn, of 20 ms at most.
    fn turn(&mut self) {
        let most = Duration::from_millis(20);
        let timeout = self.pipes.timeout().map_or(most, |t| t.min(most));
        self.poll.poll(&mut self.events, Some(timeout)).unwrap();
        for event in &self.events {
            assert!(self.pipes.handle(event), "{event:?}");
        }
        self.pipes.tick();
    }

    /// The next news.
    fn news(&mut self) -> News {
        let began = Instant::now();
        loop {
            if let Some(news) = self.pipes.poll() {
                return news;
            }
            assert!(began.elapsed() < LONG, "there is no news");
            self.turn();
        }
    }

    /// Turns for a while, in which nothing is to be said.
    fn silence(&mut self) {
        for _ in 0..10 {
            self.turn();
            if let Some(news) = self.pipes.poll() {
                panic!("{news:?}");
            }
        }
    }

    /// A pipe to somebody without p2pd.
    fn client(&mut self, options: &PipeOptions) -> (PipeId, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = listener.local_addr().unwrap();
        let pipe = self.pipes.open(Protocol::Tcp, to, Route::V4, options).unwrap();
        let early = self.pipes.send(pipe, b"early").unwrap_err();
        assert_eq!(early.kind(), ErrorKind::WouldBlock);
        assert!(matches!(self.news(), News::Opened(id) if id == pipe));
        (pipe, listener.accept().unwrap().0)
    }
}

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// Reads to the end in a thread of its own.
fn reads(mut stream: TcpStream) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all
    })
}

#[test]
fn a_message_is_taken_whole_or_not_at_all_and_room_is_told_of() {
    let mut a = Loop::new(10);
    let (pipe, peer) = a.client(&PipeOptions::default());
    // More than the system's buffers take.
    let data: Vec<u8> = (0..16 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    a.pipes.send(pipe, &data).unwrap();
    assert_eq!(a.pipes.send(pipe, b"more").unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(a.pipes.has_room(pipe), Some(false));
    a.silence();
    let reading = reads(peer);
    assert!(matches!(a.news(), News::Writable(id) if id == pipe));
    a.pipes.send(pipe, b"more").unwrap();
    assert!(a.pipes.finish(pipe) && !a.pipes.finish(pipe));
    assert_eq!(a.pipes.send(pipe, b"again").unwrap_err().kind(), ErrorKind::BrokenPipe);
    while !reading.is_finished() {
        a.turn();
    }
    assert!(reading.join().unwrap() == [&data[..], b"more"].concat());
}

#[test]
fn what_was_sent_before_a_close_is_sent_after_it() {
    let mut a = Loop::new(10);
    let (pipe, peer) = a.client(&PipeOptions::default());
    let data = vec![7; 16 << 20];
    a.pipes.send(pipe, &data).unwrap();
    let all = a.pipes.subscribe(pipe, Pattern::ANY, Pattern::ANY).unwrap();
    assert!(a.pipes.close(pipe) && !a.pipes.close(pipe) && !a.pipes.abort(pipe));
    // Its name is gone at once.
    assert_eq!(a.pipes.recv(pipe, all), Err(RecvError::NoSuchSubscription));
    assert_eq!(a.pipes.send(pipe, b"x").unwrap_err().kind(), ErrorKind::NotFound);
    let refused = a.pipes.subscribe(pipe, Pattern::ANY, Pattern::ANY);
    assert_eq!(refused, Err(SubscribeError::NoSuchPipe));
    assert!(!a.pipes.hear(pipe, true) && !a.pipes.link(pipe, pipe) && a.pipes.local_addr(pipe).is_none());
    let reading = reads(peer);
    while !reading.is_finished() {
        a.turn();
    }
    assert!(reading.join().unwrap() == data);
}

#[test]
fn messages_are_news_where_asked_for_and_not_more_than_are_taken_out() {
    let mut a = Loop::new(10);
    let options = PipeOptions { reader_limit: 1, ..Default::default() };
    let (pipe, mut peer) = a.client(&options);
    peer.write_all(&[b'x'; 1000]).unwrap();
    a.silence();
    assert!(a.pipes.hear(pipe, true));
    for _ in 0..100 {
        a.turn();
    }
    let mut waiting = 0;
    while let Some(News::Message(from, message)) = a.pipes.poll() {
        assert_eq!(
            (from, &message.data[..], Some(message.from)),
            (pipe, &b"x"[..], a.pipes.remote_addr(pipe))
        );
        waiting += 1;
    }
    assert_eq!(waiting, 64);
    drop(peer);
    for _ in waiting..1000 {
        assert!(matches!(a.news(), News::Message(..)));
    }
    assert!(matches!(a.news(), News::Ended(id, End::Peer) if id == pipe));
    let late = a.pipes.subscribe(pipe, Pattern::ANY, Pattern::ANY).unwrap();
    assert_eq!(a.pipes.recv(pipe, late), Err(RecvError::Ended(End::Peer)));
}

#[test]
fn clients_for_whom_no_token_is_left_wait_to_be_accepted() {
    // The look-ups' own, the listener's, and two.
    let mut a = Loop::new(4);
    let bound = a.pipes.listen_specific(&[(loopback(), Protocol::Tcp)], &PipeOptions::default()).unwrap();
    let clients: Vec<_> = (0..3).map(|_| TcpStream::connect(bound[0].at).unwrap()).collect();
    let mut accepted = Vec::new();
    for client in &clients[..2] {
        let News::Accepted { on, pipe } = a.news() else { panic!("a client comes") };
        assert_eq!(on, bound[0].pipe);
        assert_eq!(a.pipes.remote_addr(pipe), client.local_addr().ok());
        accepted.push(pipe);
    }
    a.silence();
    assert_eq!(
        a.pipes.bind(loopback().into(), &PipeOptions::default()).unwrap_err().kind(),
        ErrorKind::OutOfMemory
    );
    assert!(a.pipes.close(accepted[0]));
    let News::Accepted { pipe, .. } = a.news() else { panic!("the third comes") };
    assert_eq!(a.pipes.remote_addr(pipe), clients[2].local_addr().ok());
    assert!(a.pipes.close(bound[0].pipe));
    assert!(TcpStream::connect(bound[0].at).is_err());
}

#[test]
fn a_join_with_a_pipe_that_opens_later_passes_on_what_was_there_before() {
    let mut a = Loop::new(10);
    let (near, mut client) = a.client(&PipeOptions::default());
    a.pipes.hear(near, true);
    client.write_all(b"question").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(matches!(a.news(), News::Message(..)));
    assert!(matches!(a.news(), News::Ended(_, End::Peer)));
    let listener = TcpListener::bind(loopback()).unwrap();
    let to = ("localhost", listener.local_addr().unwrap().port());
    let far = a.pipes.open(Protocol::Tcp, to, Route::V4, &PipeOptions::default()).unwrap();
    assert!(a.pipes.join(near, far));
    assert!(matches!(a.news(), News::Opened(id) if id == far));
    let (mut server, _) = listener.accept().unwrap();
    a.turn();
    let mut none = String::new();
    server.read_to_string(&mut none).unwrap();
    assert_eq!(none, "");
    server.write_all(b"answer").unwrap();
    drop(server);
    assert!(matches!(a.news(), News::Ended(id, End::Peer) if id == far));
    a.turn();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "answer");
    a.silence();
    assert!(!a.pipes.close(near) && !a.pipes.close(far), "they went by themselves");
    // One whose other half was not reached goes with it.
    let (near, mut client) = a.client(&PipeOptions::default());
    let closed = listener.local_addr().unwrap();
    drop(listener);
    let far = a.pipes.open(Protocol::Tcp, closed, Route::V4, &PipeOptions::default()).unwrap();
    assert!(a.pipes.join(near, far));
    assert!(matches!(a.news(), News::NotOpened(id, _) if id == far));
    assert!(matches!(a.news(), News::Ended(id, End::Closed) if id == near));
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_pipe_to_a_peer_is_one_of_messages() {
    let poll = Poll::new().unwrap();
    let node = |tokens| {
        let mut config = Config::new(SecretKey::from_bytes(p2pd_mio::random_seed().unwrap()));
        config.bind = Some(Ipv4Addr::LOCALHOST.into());
        Node::bind(config, poll.registry(), tokens).unwrap()
    };
    let (mut here, mut there) = (node(1_000..2_000), node(2_000..3_000));
    let pipes = Pipes::new(poll.registry(), 0..1_000).unwrap();
    let mut a = Loop { poll, events: Events::with_capacity(64), pipes };
    let (mut ours, mut theirs, mut calls) = (None, None, false);
    let began = Instant::now();
    while ours.is_none() || theirs.is_none() {
        assert!(began.elapsed() < LONG);
        let timeout = [here.timeout(), there.timeout()].into_iter().flatten().min();
        a.poll.poll(&mut a.events, timeout).unwrap();
        for event in &a.events {
            assert!(here.handle(event) || there.handle(event) || a.pipes.handle(event));
        }
        here.tick();
        there.tick();
        if let Some(address) = there.address().cloned()
            && !std::mem::replace(&mut calls, true)
        {
            here.connect(&address, Plan::default()).unwrap();
        }
        while let Some(news) = here.poll() {
            if let p2pd_mio::News::Opened(_, pipe) = news {
                ours = Some(pipe);
            }
        }
        while let Some(news) = there.poll() {
            if let p2pd_mio::News::Incoming(pipe) = news {
                theirs = Some(pipe);
            }
        }
    }
    drop((here, there));
    let ours = a.pipes.add(ours.unwrap(), &PipeOptions::default()).unwrap();
    let theirs = a.pipes.add(theirs.unwrap(), &PipeOptions::default()).unwrap();
    let queue = Queue { overflow: Overflow::StopReading, ..Queue::default() };
    let at_theirs = a.pipes.subscribe_with(theirs, Pattern::ANY, Pattern::ANY, queue).unwrap();
    let data = vec![3; 4 << 20];
    a.pipes.send(ours, &data).unwrap();
    a.pipes.finish(ours);
    let mut came = Vec::new();
    let end = loop {
        a.turn();
        while a.pipes.poll().is_some() {}
        match a.pipes.recv(theirs, at_theirs) {
            Ok(Some(message)) => came.extend_from_slice(&message.data),
            Ok(None) => {}
            Err(end) => break end,
        }
    };
    assert!(came == data, "{} bytes", came.len());
    assert_eq!(end, RecvError::Ended(End::Peer));
}

/// The answer of a STUN server that sees this address, by the codec of the servers.
fn binding(request: &[u8], seen: SocketAddr) -> Vec<u8> {
    let request = Message::from_bytes(request).unwrap();
    let mut answer = Message::builder_success(&request, MessageWriteVec::new());
    answer.add_attribute(&XorMappedAddress::new(seen, request.transaction_id())).unwrap();
    answer.finish()
}

impl Loop {
    fn answered(
        &mut self,
        mut query: Query,
        mut turn: impl FnMut(),
    ) -> Result<(SocketAddr, SocketAddr), StunError> {
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < LONG);
            self.turn();
            turn();
            while let Some(news) = self.pipes.poll() {
                assert!(query.take(news).is_none());
            }
            if let Some(done) = query.poll(&mut self.pipes) {
                return done.map(|mapping| {
                    assert_eq!(self.pipes.local_addr(mapping.pipe), Some(mapping.local));
                    assert!(self.pipes.close(mapping.pipe));
                    (mapping.local, mapping.external)
                });
            }
        }
    }
}

#[test]
fn a_stun_server_says_how_it_sees_a_socket_over_udp_and_tcp() {
    let mut all = Loop::new(100);
    let (seen, route) =
        ("203.0.113.9:4444".parse().unwrap(), Route::from(SocketAddr::from(([127, 0, 0, 1], 0))));
    let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let liar = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let query = Query::new(&mut all.pipes, server.local_addr().unwrap(), route, Protocol::Udp).unwrap();
    let (mut buffer, mut asked) = ([0; 2048], 0);
    let (local, external) = all
        .answered(query, || {
            while let Ok((len, from)) = server.recv_from(&mut buffer) {
                asked += 1;
                // Somebody else's word, and another transaction's, count for nothing; the first request is lost.
                liar.send_to(&binding(&buffer[..len], "192.0.2.1:1".parse().unwrap()), from).unwrap();
                let other = binding_request(TransactionId([0; 12]), None);
                server.send_to(&binding(&other, "192.0.2.2:2".parse().unwrap()), from).unwrap();
                if asked == 2 {
                    server.send_to(&binding(&buffer[..len], seen), from).unwrap();
                }
            }
        })
        .unwrap();
    assert_eq!((external, asked), (seen, 2));
    assert!(local.ip().is_loopback() && local.port() != 0);
    // Over TCP in two pieces.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let serving = std::thread::spawn(move || {
        let (mut stream, from) = listener.accept().unwrap();
        let mut request = [0; 28];
        stream.read_exact(&mut request).unwrap();
        let reply = binding(&request, seen);
        stream.write_all(&reply[..7]).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        stream.write_all(&reply[7..]).unwrap();
        from
    });
    let query = Query::new(&mut all.pipes, at, route, Protocol::Tcp).unwrap();
    let (local, external) = all.answered(query, || {}).unwrap();
    assert_eq!((local, external), (serving.join().unwrap(), seen));
    // Nobody answers: three requests in 3 s.
    let began = Instant::now();
    let query = Query::new(&mut all.pipes, liar.local_addr().unwrap(), route, Protocol::Udp).unwrap();
    assert!(matches!(all.answered(query, || {}), Err(StunError::NoAnswer)));
    assert!((2900..6000).contains(&began.elapsed().as_millis()));
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let query = Query::new(&mut all.pipes, closed, route, Protocol::Tcp).unwrap();
    assert!(matches!(all.answered(query, || {}), Err(StunError::Open(_))));
}

/// A token exists only where a socket tells of changes.
#[cfg(target_os = "linux")]
#[test]
fn the_last_pipe_that_watches_the_network_ends_the_watch() {
    let mut it = Loop::new(4);
    let route = Route::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST));
    let bind = |it: &mut Loop| it.pipes.bind(route, &PipeOptions::default());
    let (one, other) = (bind(&mut it).unwrap(), bind(&mut it).unwrap());
    for pipe in [one, one, other] {
        assert!(it.pipes.watch_network(pipe).unwrap());
    }
    assert_eq!(bind(&mut it).unwrap_err().kind(), ErrorKind::OutOfMemory, "one token is the network's");
    it.pipes.close(one);
    let third = bind(&mut it).unwrap();
    assert_eq!(bind(&mut it).unwrap_err().kind(), ErrorKind::OutOfMemory, "it is still watched");
    it.pipes.close(other);
    assert!(bind(&mut it).is_ok() && bind(&mut it).is_ok(), "its token and the network's");
    it.pipes.close(third);
    assert!(it.pipes.timeout().is_none_or(|t| t.is_zero()), "nothing is compared any more");
}
