//! Tests of one pipe: queues, senders, callbacks, ends, options.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use p2pd_tokio::messages::{
    End, MessagePipe, OpenError, Overflow, Pattern, PipeOptions, Protocol, Queue, RecvError, Route,
    SendError, Socket,
};

use crate::{LONG, WHILE, bytes, everything, loopback, pair, patterned, rest, route, tcp, udp, until};

fn pattern(text: &str) -> Pattern {
    Pattern::new(text).unwrap()
}

fn queue(messages: usize, overflow: Overflow) -> Queue {
    Queue { messages, overflow, ..Queue::default() }
}

#[test]
fn defaults_are_those_of_the_documents() {
    let options = PipeOptions::default();
    let two = Duration::from_secs(2);
    assert_eq!((options.connect_timeout, options.resolve_timeout), (two, two));
    assert_eq!((options.queue.messages, options.queue.overflow), (1000, Overflow::DropOldest));
    assert_eq!((options.unique, options.unique_kept, options.reader_limit), (false, 1000, 65_536));
    assert_eq!((options.linger, options.no_close), (None, false));
    assert_eq!((options.reuse_address, options.broadcast), (false, false));
}

/// The callback's task and socket do not wait for the next change of the network.
#[tokio::test]
async fn a_callback_at_changes_of_the_network_that_is_taken_away_is_gone() {
    let pipe = MessagePipe::bind(route(), &PipeOptions::default()).unwrap();
    let held = Arc::new(());
    let callback = held.clone();
    let id = pipe.on_network_change(move |_| {
        let _ = &callback;
        async {}
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(Arc::strong_count(&held), 2);
    assert!(pipe.remove_callback(id) && !pipe.remove_callback(id));
    until(|| Arc::strong_count(&held) == 1).await;
}

#[tokio::test]
async fn each_queue_gets_what_matches_its_patterns() {
    let options = PipeOptions::default();
    let (server, client) = udp(&options).await;
    let other = MessagePipe::open(Protocol::Udp, server.local_addr(), route(), &options).await.unwrap();
    let all = everything(&server);
    let hellos = server.subscribe(pattern("[hH]e[l]+o"), Pattern::ANY).unwrap();
    let from_other = pattern(&format!("^{}$", other.local_addr()).replace('.', r"\."));
    let others = server.subscribe(Pattern::ANY, from_other).unwrap();
    for (pipe, text) in [(&client, "hello"), (&other, "well, Hellllo"), (&other, "bye"), (&client, "")] {
        pipe.send(text.as_bytes()).await.unwrap();
    }
    until(|| server.waiting(all) == Some(4)).await;
    assert_eq!((server.waiting(hellos), server.waiting(others)), (Some(2), Some(2)));
    let mut came = Vec::new();
    for _ in 0..4 {
        let message = server.recv_from(all, Duration::ZERO).await.unwrap();
        came.push((message.data, message.from));
    }
    came.sort();
    let mut sent: Vec<_> = [(&client, "hello"), (&other, "well, Hellllo"), (&other, "bye"), (&client, "")]
        .map(|(pipe, text)| (text.into(), pipe.local_addr()))
        .into();
    sent.sort();
    assert_eq!(came, sent);
    assert_eq!(server.recv(others, Duration::ZERO).await.unwrap(), "well, Hellllo");
    assert_eq!(server.recv(others, Duration::ZERO).await.unwrap(), "bye");
    assert_eq!(server.recv(others, Duration::ZERO).await, Err(RecvError::TimedOut));
    assert!(server.unsubscribe(hellos) && !server.unsubscribe(hellos));
    assert_eq!(server.recv(hellos, LONG).await, Err(RecvError::NoSuchSubscription));
}

#[tokio::test]
async fn one_who_waits_hears_of_the_end_of_a_subscription() {
    let (server, _client) = udp(&PipeOptions::default()).await;
    let all = everything(&server);
    let waiting = tokio::spawn({
        let server = server.clone();
        async move { server.recv(all, Duration::MAX).await }
    });
    tokio::task::yield_now().await;
    assert!(server.unsubscribe(all));
    assert_eq!(waiting.await.unwrap(), Err(RecvError::NoSuchSubscription));
}

#[tokio::test]
async fn a_full_queue_drops_the_oldest_or_the_newest() {
    let (server, client) =
        udp(&PipeOptions { queue: queue(2, Overflow::DropOldest), ..Default::default() }).await;
    let oldest = everything(&server);
    let newest = queue(2, Overflow::DropNewest);
    let newest = server.subscribe_with(Pattern::ANY, Pattern::ANY, newest).unwrap();
    for text in [b"1", b"2", b"3", b"4"] {
        client.send(text).await.unwrap();
    }
    until(|| server.dropped(oldest) == Some(2) && server.dropped(newest) == Some(2)).await;
    for (id, expected) in [(oldest, ["3", "4"]), (newest, ["1", "2"])] {
        for text in expected {
            assert_eq!(server.recv(id, Duration::ZERO).await.unwrap(), text);
        }
        assert_eq!(server.recv(id, Duration::ZERO).await, Err(RecvError::TimedOut));
    }
}

#[tokio::test]
async fn a_queue_that_stops_the_reading_makes_the_sender_wait_and_loses_nothing() {
    let theirs = PipeOptions { queue: queue(3, Overflow::StopReading), ..Default::default() };
    let (ours, theirs) = pair(&PipeOptions::default(), &theirs).await;
    let all = everything(&theirs);
    // More than the system's buffers take.
    let data = patterned(32 << 20);
    let sending = tokio::spawn({
        let data = data.clone();
        async move {
            let sent = ours.send(&data).await;
            ours.finish().await.unwrap();
            sent
        }
    });
    until(|| theirs.waiting(all) == Some(3)).await;
    tokio::time::sleep(WHILE).await;
    assert!(!sending.is_finished() && theirs.waiting(all) == Some(3));
    let (came, why) = rest(&theirs, all).await;
    assert_eq!(why, RecvError::Ended(End::Peer));
    assert!(came == data, "{} of {} bytes", came.len(), data.len());
    assert_eq!(sending.await.unwrap(), Ok(()));
    assert_eq!(theirs.dropped(all), Some(0));
}

#[tokio::test]
async fn nothing_that_comes_before_the_first_subscription_is_lost() {
    let (ours, theirs) = tcp().await;
    theirs.send(b"greeting").await.unwrap();
    theirs.finish().await.unwrap();
    tokio::time::sleep(WHILE).await;
    let all = everything(&ours);
    assert_eq!(rest(&ours, all).await, (b"greeting".to_vec(), RecvError::Ended(End::Peer)));
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let (ours, theirs) = tcp().await;
    let (at_ours, at_theirs) = (everything(&ours), everything(&theirs));
    ours.send(b"all there is").await.unwrap();
    ours.finish().await.unwrap();
    assert_eq!(ours.send(b"more").await, Err(SendError::Ended));
    assert_eq!(rest(&theirs, at_theirs).await, (b"all there is".to_vec(), RecvError::Ended(End::Peer)));
    theirs.send(b"answer").await.unwrap();
    assert_eq!(bytes(&ours, at_ours, 6).await, b"answer");
    theirs.close().await;
    assert_eq!(theirs.send(b"more").await, Err(SendError::Ended));
    assert_eq!(ours.recv(at_ours, LONG).await, Err(RecvError::Ended(End::Peer)));
}

#[tokio::test]
async fn callbacks_get_messages_in_order_and_then_one_end() {
    let (ours, theirs) = tcp().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let message = {
        let seen = seen.clone();
        theirs.on_message(move |message, pipe| {
            let seen = seen.clone();
            async move {
                // The end has to wait for this.
                tokio::time::sleep(Duration::from_millis(50)).await;
                assert_eq!(Some(message.from), pipe.remote_addr());
                seen.lock().unwrap().push(format!("message {}", String::from_utf8_lossy(&message.data)));
                pipe.send_to(b"answer", message.from).await.unwrap();
            }
        })
    };
    let end = |name: &'static str| {
        let seen = seen.clone();
        theirs.on_end(move |end| async move { seen.lock().unwrap().push(format!("{name} {end:?}")) })
    };
    end("first");
    let removed = end("removed");
    assert!(theirs.remove_callback(removed) && !theirs.remove_callback(removed));
    let at_ours = everything(&ours);
    ours.send(b"one").await.unwrap();
    assert_eq!(bytes(&ours, at_ours, 6).await, b"answer");
    ours.send(b"two").await.unwrap();
    ours.finish().await.unwrap();
    assert_eq!(theirs.ended().await, End::Peer);
    until(|| seen.lock().unwrap().len() == 3).await;
    end("late");
    until(|| seen.lock().unwrap().len() == 4).await;
    theirs.close().await;
    tokio::time::sleep(WHILE).await;
    assert_eq!(*seen.lock().unwrap(), ["message one", "message two", "first Peer", "late Peer"]);
    assert!(!theirs.remove_callback(message), "it went with the end");
}

#[tokio::test]
async fn callbacks_of_one_pipe_are_not_those_of_another() {
    // In P2PD taking a callback away from one client took it away from all.
    let daemon = p2pd_tokio::messages::Daemon::listen_specific(
        &[(loopback(), Protocol::Tcp)],
        &PipeOptions::default(),
    );
    let mut daemon = daemon.unwrap();
    let to = daemon.bound()[0].0;
    let mut ends = Vec::new();
    for _ in 0..2 {
        let ours = MessagePipe::open(Protocol::Tcp, to, Route::V4, &PipeOptions::default()).await.unwrap();
        let theirs = daemon.accept().await.unwrap();
        let echo = theirs.on_message(|message, pipe| async move { pipe.send(&message.data).await.unwrap() });
        ends.push((ours, theirs, echo));
    }
    assert!(ends[0].1.remove_callback(ends[0].2));
    let at = [everything(&ends[0].0), everything(&ends[1].0)];
    for (ours, ..) in &ends {
        ours.send(b"hello").await.unwrap();
    }
    assert_eq!(bytes(&ends[1].0, at[1], 5).await, b"hello");
    assert_eq!(ends[0].0.recv(at[0], WHILE).await, Err(RecvError::TimedOut));
}

#[tokio::test]
async fn ends_say_why() {
    let (ours, theirs) = tcp().await;
    everything(&theirs);
    ours.abort().await;
    assert_eq!(theirs.ended().await, End::Failed(ErrorKind::ConnectionReset));
    let (ours, theirs) = tcp().await;
    everything(&theirs);
    drop(ours);
    assert_eq!(theirs.ended().await, End::Peer);
    theirs.close().await;
    let (ours, _theirs) = tcp().await;
    ours.close().await;
    assert_eq!(ours.ended().await, End::Closed);
}

#[tokio::test]
async fn closing_ends_a_send_that_the_peer_does_not_take() {
    let (ours, _theirs) = tcp().await;
    let sending = tokio::spawn({
        let ours = ours.clone();
        async move { ours.send(&patterned(32 << 20)).await }
    });
    tokio::time::sleep(WHILE).await;
    assert!(!sending.is_finished());
    ours.close().await;
    assert_eq!(sending.await.unwrap(), Err(SendError::Ended));
}

#[tokio::test]
async fn a_callback_that_panics_ends_the_pipe() {
    let (ours, theirs) = tcp().await;
    let at_ours = everything(&ours);
    let all = everything(&theirs);
    theirs.on_message(|_, _| async { panic!("part of the test") });
    ours.send(b"hello").await.unwrap();
    assert_eq!(theirs.ended().await, End::Closed);
    assert_eq!(rest(&theirs, all).await, (b"hello".to_vec(), RecvError::Ended(End::Closed)));
    assert_eq!(theirs.send(b"more").await, Err(SendError::Ended));
    drop(theirs);
    assert_eq!(ours.recv(at_ours, LONG).await, Err(RecvError::Ended(End::Peer)));
}

#[tokio::test]
async fn a_udp_server_knows_its_senders_and_answers_each() {
    let options = PipeOptions::default();
    let (server, one) = udp(&options).await;
    let two = MessagePipe::open(Protocol::Udp, server.local_addr(), route(), &options).await.unwrap();
    let (all, at_one, at_two) = (everything(&server), everything(&one), everything(&two));
    for (client, text) in [(&one, b"one"), (&two, b"two")] {
        client.send(text).await.unwrap();
        let message = server.recv_from(all, LONG).await.unwrap();
        assert_eq!((&message.data[..], message.from), (&text[..], client.local_addr()));
        server.send_to(text, message.from).await.unwrap();
    }
    for (client, id, text) in [(&one, at_one, "one"), (&two, at_two, "two")] {
        let message = client.recv_from(id, LONG).await.unwrap();
        assert_eq!((&message.data[..], message.from), (text.as_bytes(), server.local_addr()));
        assert_eq!(client.recv(id, Duration::ZERO).await, Err(RecvError::TimedOut));
    }
    assert_eq!(server.send(b"to whom?").await, Err(SendError::NoDestination));
    let (ours, theirs) = tcp().await;
    assert_eq!(ours.send_to(b"x", server.local_addr()).await, Err(SendError::NotThePeer));
    assert_eq!(ours.send_to(b"x", theirs.local_addr()).await, Ok(()));
}

#[tokio::test]
async fn a_connected_udp_socket_is_wrapped_as_it_is() {
    let (server, _client) = udp(&PipeOptions::default()).await;
    let socket = tokio::net::UdpSocket::bind(loopback()).await.unwrap();
    socket.connect(server.local_addr()).await.unwrap();
    let pipe = MessagePipe::new(socket, &PipeOptions::default()).unwrap();
    assert_eq!((pipe.protocol(), pipe.remote_addr()), (Protocol::Udp, Some(server.local_addr())));
    let all = everything(&server);
    pipe.send(b"hello").await.unwrap();
    let message = server.recv_from(all, LONG).await.unwrap();
    assert_eq!((&message.data[..], message.from), (&b"hello"[..], pipe.local_addr()));
}

#[tokio::test]
async fn datagrams_to_nobody_end_nothing() {
    let (server, client) = udp(&PipeOptions::default()).await;
    let all = everything(&client);
    let gone = server.local_addr();
    drop(server);
    for _ in 0..3 {
        client.send(b"anybody?").await.unwrap();
        assert_eq!(client.recv(all, Duration::from_millis(20)).await, Err(RecvError::TimedOut));
    }
    let too_long = client.send(&patterned(70_000)).await;
    assert!(matches!(too_long, Err(SendError::Failed(_))), "{too_long:?}");
    let server = MessagePipe::bind(gone.into(), &PipeOptions::default()).unwrap();
    server.send_to(b"back again", client.local_addr()).await.unwrap();
    assert_eq!(client.recv(all, LONG).await.unwrap(), "back again");
}

#[tokio::test]
async fn repeated_messages_are_passed_over_if_that_is_asked_for() {
    let options = PipeOptions { unique: true, unique_kept: 2, ..Default::default() };
    let (server, client) = udp(&options).await;
    let all = everything(&server);
    let called = Arc::new(AtomicUsize::new(0));
    let counter = called.clone();
    server.on_message(move |_, _| {
        counter.fetch_add(1, Ordering::Relaxed);
        async {}
    });
    // With two kept, the third makes the first forgotten.
    for text in ["a", "a", "b", "c", "a", "end"] {
        client.send(text.as_bytes()).await.unwrap();
    }
    for text in ["a", "b", "c", "a", "end"] {
        assert_eq!(server.recv(all, LONG).await.unwrap(), text);
    }
    until(|| called.load(Ordering::Relaxed) == 5).await;
}

#[tokio::test]
async fn one_read_gives_no_more_than_the_limit_and_datagrams_are_whole() {
    let few = PipeOptions { reader_limit: 4, ..Default::default() };
    let (ours, theirs) = pair(&PipeOptions::default(), &few).await;
    let all = everything(&theirs);
    ours.send(b"0123456789").await.unwrap();
    ours.finish().await.unwrap();
    let mut came = Vec::new();
    while let Ok(data) = theirs.recv(all, LONG).await {
        assert!(data.len() <= 4, "{data:?}");
        came.extend_from_slice(&data);
    }
    assert_eq!(came, b"0123456789");
    let (server, client) = udp(&few).await;
    let all = everything(&server);
    let data = patterned(60_000);
    client.send(&data).await.unwrap();
    assert_eq!(server.recv(all, LONG).await.unwrap(), data);
}

#[tokio::test]
async fn a_socket_that_is_managed_elsewhere_outlives_its_pipe() {
    let listener = TcpListener::bind(loopback()).unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut far, _) = listener.accept().unwrap();
    let mut kept = stream.try_clone().unwrap();
    stream.set_nonblocking(true).unwrap();
    let stream = tokio::net::TcpStream::from_std(stream).unwrap();
    let options = PipeOptions { no_close: true, ..Default::default() };
    let pipe = MessagePipe::new(stream, &options).unwrap();
    pipe.send(b"from the pipe, ").await.unwrap();
    pipe.close().await;
    assert_eq!(pipe.ended().await, End::Closed);
    kept.write_all(b"from what was kept").unwrap();
    drop((kept, pipe));
    let mut all = String::new();
    far.read_to_string(&mut all).unwrap();
    assert_eq!(all, "from the pipe, from what was kept");
}

#[tokio::test]
async fn a_linger_of_zero_resets() {
    let options = PipeOptions { linger: Some(Duration::ZERO), ..Default::default() };
    for (ours, theirs) in [(options, PipeOptions::default()), (PipeOptions::default(), options)] {
        let (mut near, mut far) = pair(&ours, &theirs).await;
        if ours.linger.is_none() {
            (near, far) = (far, near);
        }
        everything(&far);
        drop(near);
        assert_eq!(far.ended().await, End::Failed(ErrorKind::ConnectionReset));
    }
}

#[tokio::test]
async fn addresses_are_shared_and_broadcast_to_only_where_asked_for() {
    let shared = PipeOptions { reuse_address: true, ..Default::default() };
    let first = MessagePipe::bind(route(), &shared).unwrap();
    let same = Route::from(first.local_addr());
    let refused = MessagePipe::bind(same, &PipeOptions::default());
    assert_eq!(refused.err().map(|e| e.kind()), Some(ErrorKind::AddrInUse));
    assert!(MessagePipe::bind(same, &shared).is_ok());
    if cfg!(target_os = "linux") {
        let all_of_loopback = ([127, 255, 255, 255], first.local_addr().port()).into();
        let sent = first.send_to(b"x", all_of_loopback).await;
        assert_eq!(sent, Err(SendError::Failed(ErrorKind::PermissionDenied)));
        let options = PipeOptions { broadcast: true, ..Default::default() };
        let loud = MessagePipe::bind(route(), &options).unwrap();
        assert_eq!(loud.send_to(b"x", all_of_loopback).await, Ok(()));
    }
}

#[tokio::test]
async fn destinations_are_addresses_or_names_of_the_routes_family() {
    let options = PipeOptions::default();
    let listener = TcpListener::bind(loopback()).unwrap();
    let at = listener.local_addr().unwrap();
    let open = |to, route| MessagePipe::open(Protocol::Tcp, to, route, &options);
    let named =
        MessagePipe::open(Protocol::Tcp, ("localhost", at.port()), Route::V4, &options).await.unwrap();
    assert_eq!(named.remote_addr(), Some(at));
    let from: IpAddr = Ipv4Addr::new(127, 0, 0, 1).into();
    let from_one = open(at, Route::from(from)).await.unwrap();
    assert_eq!((from_one.local_addr().ip(), from_one.protocol()), (from, Protocol::Tcp));
    let other = open(at, Route::V6).await;
    assert!(matches!(other, Err(OpenError::OtherFamily)), "{other:?}");
    let other = MessagePipe::open(Protocol::Udp, ("127.0.0.1", 9), Route::V6, &options).await;
    assert!(matches!(other, Err(OpenError::OtherFamily | OpenError::Resolve(_))), "{other:?}");
    let taken = open(at, Route::from(at)).await;
    assert!(matches!(&taken, Err(OpenError::Socket(e)) if e.kind() == ErrorKind::AddrInUse), "{taken:?}");
    let bare = Socket::open(Protocol::Tcp, at, Route::V4, &options).await.unwrap();
    assert_eq!(bare.remote_addr().unwrap(), Some(at));
    drop(listener);
    let refused = open(at, Route::V4).await;
    assert!(matches!(&refused, Err(OpenError::Connect(e)) if e.kind() == ErrorKind::ConnectionRefused));
}

/// Linux answers no SYN while as many wait to be accepted as may.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_connect_takes_no_longer_than_it_may() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(loopback()).unwrap();
    let listener = socket.listen(0).unwrap();
    let at = listener.local_addr().unwrap();
    let _waits = TcpStream::connect(at).unwrap();
    let options = PipeOptions { connect_timeout: WHILE, ..Default::default() };
    let began = std::time::Instant::now();
    let opened = MessagePipe::open(Protocol::Tcp, at, Route::V4, &options).await;
    assert!(matches!(opened, Err(OpenError::TimedOut)), "{opened:?}");
    assert!(began.elapsed() >= WHILE && began.elapsed() < LONG);
}

#[tokio::test]
async fn an_end_is_seen_though_nobody_wants_messages_and_none_is_lost() {
    for words in [&[][..], &["one", "two"]] {
        let (ours, theirs) = pair(&PipeOptions::default(), &PipeOptions::default()).await;
        let (tell, told) = tokio::sync::oneshot::channel();
        theirs.on_end(move |end| async move { tell.send(end).unwrap() });
        for word in words {
            ours.send(word.as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        ours.close().await;
        assert_eq!(tokio::time::timeout(LONG, told).await.unwrap(), Ok(End::Peer));
        // Whoever comes later gets it still.
        let late = everything(&theirs);
        let (data, end) = rest(&theirs, late).await;
        assert_eq!((data, end), (words.concat().into_bytes(), RecvError::Ended(End::Peer)));
    }
    // Also a callback that comes after the end.
    let (ours, theirs) = read_ahead(&["one", "two"]).await;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hearing = heard.clone();
    theirs.on_message(move |message, pipe| {
        hearing.lock().unwrap().extend_from_slice(&message.data);
        async move { pipe.send(&message.data).await.unwrap() }
    });
    let at_ours = everything(&ours);
    assert_eq!(bytes(&ours, at_ours, 6).await, b"onetwo");
    assert_eq!(*heard.lock().unwrap(), b"onetwo");
    // The first has got it.
    let late = everything(&theirs);
    assert_eq!(theirs.recv(late, LONG).await, Err(RecvError::Ended(End::Peer)));
    // Of a peer that goes on sending only so much is read.
    let small = PipeOptions { reader_limit: 1000, ..PipeOptions::default() };
    let (ours, theirs) = pair(&PipeOptions::default(), &small).await;
    theirs.on_end(|_| async {});
    let sending = tokio::time::timeout(WHILE, async {
        loop {
            ours.send(&[7; 64 * 1024]).await.unwrap();
        }
    });
    assert!(sending.await.is_err());
    let all = everything(&theirs);
    assert_eq!(theirs.recv(all, LONG).await.unwrap().len(), 1000);
}

/// Returns a pair whose second end has read some words and the end of the first, for nobody.
pub(crate) async fn read_ahead(words: &[&str]) -> (MessagePipe, MessagePipe) {
    let (ours, theirs) = pair(&PipeOptions::default(), &PipeOptions::default()).await;
    theirs.on_end(|_| async {});
    for word in words {
        ours.send(word.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ours.finish().await.unwrap();
    assert_eq!(theirs.ended().await, End::Peer);
    (ours, theirs)
}
