use super::*;

const ANY: Pattern = Pattern::ANY;

fn pattern(text: &str) -> Pattern {
    Pattern::new(text).unwrap()
}

fn bytes(data: &[u8]) -> Bytes {
    Bytes::copy_from_slice(data)
}

fn from(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// All messages that wait.
fn all(subscriptions: &mut Subscriptions, id: SubscriptionId) -> Vec<Bytes> {
    std::iter::from_fn(|| subscriptions.recv(id)).map(|m| m.data).collect()
}

fn few(messages: usize, bytes: usize, overflow: Overflow) -> Queue {
    Queue { messages, bytes, overflow }
}

#[test]
fn every_queue_that_matches_gets_a_message_and_its_sender() {
    let mut s = Subscriptions::default();
    let everything = s.subscribe(ANY, ANY, Queue::default()).unwrap();
    let hellos = s.subscribe(pattern("^hello"), ANY, Queue::default()).unwrap();
    let one_peer = s.subscribe(ANY, pattern(r"^127\.0\.0\.1:7$"), Queue::default()).unwrap();
    assert_eq!(s.deliver(&bytes(b"hello"), from(7)), 3);
    assert_eq!(s.deliver(&bytes(b"hello"), from(70)), 2);
    assert_eq!(s.deliver(&bytes(b""), from(7)), 2);
    assert_eq!(s.recv(everything), Some(Message { data: bytes(b"hello"), from: from(7) }));
    assert_eq!(s.recv(everything), Some(Message { data: bytes(b"hello"), from: from(70) }));
    assert_eq!(all(&mut s, everything), [b"".as_slice()]);
    assert_eq!(all(&mut s, hellos), ["hello", "hello"]);
    assert_eq!(all(&mut s, one_peer), [b"hello".as_slice(), b""]);
    let v6 = s.subscribe(ANY, pattern(r"^\[2001:db8::1\]:9$"), Queue::default()).unwrap();
    s.deliver(&bytes(b"six"), "[2001:db8::1]:9".parse().unwrap());
    assert_eq!(all(&mut s, v6), [b"six".as_slice()]);
}

#[test]
fn a_pair_of_patterns_and_its_reverse_are_two() {
    // P2PD's key is a sum of two hashes, so that these collide.
    let mut s = Subscriptions::default();
    let one = s.subscribe(pattern("a"), pattern("1"), Queue::default()).unwrap();
    let other = s.subscribe(pattern("1"), pattern("a"), Queue::default()).unwrap();
    assert_ne!(one, other);
    s.deliver(&bytes(b"a"), from(1));
    assert_eq!((s.waiting(one), s.waiting(other)), (Some(1), Some(0)));
}

#[test]
fn nothing_comes_after_the_end() {
    let mut s = Subscriptions::default();
    let id = s.subscribe(ANY, ANY, Queue::default()).unwrap();
    s.deliver(&bytes(b"x"), from(1));
    assert!(s.unsubscribe(id) && !s.unsubscribe(id));
    assert_eq!((s.recv(id), s.waiting(id), s.dropped(id)), (None, None, None));
    assert_eq!((s.deliver(&bytes(b"x"), from(1)), s.is_empty()), (0, true));
    assert_ne!(s.subscribe(ANY, ANY, Queue::default()), Some(id));
}

#[test]
fn a_full_queue_does_as_it_was_told() {
    let mut s = Subscriptions::default();
    let oldest = s.subscribe(ANY, ANY, few(2, 100, Overflow::DropOldest)).unwrap();
    let newest = s.subscribe(ANY, ANY, few(2, 100, Overflow::DropNewest)).unwrap();
    for text in [b"1", b"2", b"3"] {
        assert!(s.may_read());
        assert_eq!(s.deliver(&bytes(text), from(1)), 2);
    }
    assert_eq!((s.dropped(oldest), s.dropped(newest)), (Some(1), Some(1)));
    assert_eq!(all(&mut s, oldest), ["2", "3"]);
    assert_eq!(all(&mut s, newest), ["1", "2"]);

    let stop = s.subscribe(ANY, ANY, few(2, 100, Overflow::StopReading)).unwrap();
    s.deliver(&bytes(b"1"), from(1));
    assert!(s.may_read());
    s.deliver(&bytes(b"2"), from(1));
    assert!(!s.may_read());
    s.deliver(&bytes(b"3"), from(1));
    assert!(s.recv(stop).is_some() && !s.may_read());
    assert!(s.recv(stop).is_some() && s.may_read());
    s.deliver(&bytes(b"4"), from(1));
    assert!(!s.may_read() && s.unsubscribe(stop) && s.may_read());
}

#[test]
fn bytes_count_too_and_one_message_always_fits() {
    let mut s = Subscriptions::default();
    let oldest = s.subscribe(ANY, ANY, few(9, 10, Overflow::DropOldest)).unwrap();
    let newest = s.subscribe(ANY, ANY, few(9, 10, Overflow::DropNewest)).unwrap();
    let stop = s.subscribe(ANY, ANY, few(9, 10, Overflow::StopReading)).unwrap();
    for len in [6, 4, 5, 30] {
        s.deliver(&bytes(&[b'x'; 30][..len]), from(1));
    }
    let lengths = |of: Vec<Bytes>| of.iter().map(Bytes::len).collect::<Vec<_>>();
    assert_eq!((s.dropped(oldest), s.dropped(newest), s.dropped(stop)), (Some(3), Some(2), Some(0)));
    assert_eq!(lengths(all(&mut s, oldest)), [30]);
    assert_eq!(lengths(all(&mut s, newest)), [6, 4]);
    assert!(!s.may_read());
    assert_eq!(lengths(all(&mut s, stop)), [6, 4, 5, 30]);
    assert!(s.may_read());
    // A limit of nothing holds one message, and still stops.
    let none = s.subscribe(ANY, ANY, few(0, 0, Overflow::StopReading)).unwrap();
    s.deliver(&bytes(b""), from(1));
    assert!(!s.may_read() && s.recv(none).is_some() && s.may_read());
}

#[test]
fn a_repeated_message_is_dropped_if_that_is_asked_for() {
    let mut s = Subscriptions::unique(2);
    let id = s.subscribe(ANY, ANY, Queue::default()).unwrap();
    let mut deliver = |text: &[u8], port| s.deliver(&bytes(text), from(port));
    assert_eq!((deliver(b"a", 1), deliver(b"a", 1), deliver(b"a", 2)), (1, 0, 1));
    // The third one makes the first forgotten.
    assert_eq!((deliver(b"b", 1), deliver(b"a", 2), deliver(b"a", 1)), (1, 0, 1));
    assert_eq!(s.waiting(id), Some(4));
    let mut s = Subscriptions::default();
    s.subscribe(ANY, ANY, Queue::default());
    assert_eq!((s.deliver(&bytes(b"a"), from(1)), s.deliver(&bytes(b"a"), from(1))), (1, 1));
}

#[test]
fn ten_thousand_subscriptions_and_no_more() {
    let mut s = Subscriptions::default();
    let ids: Vec<_> = (0..MAX_SUBSCRIPTIONS)
        .map(|n| s.subscribe(pattern(&format!("^{n} ")), ANY, Queue::default()).unwrap())
        .collect();
    assert_eq!(s.subscribe(ANY, ANY, Queue::default()), None);
    for n in [0, 1, 4321, MAX_SUBSCRIPTIONS - 1] {
        let text = Bytes::from(format!("{n} times"));
        assert_eq!(s.deliver(&text, from(1)), 1);
        assert_eq!(s.recv(ids[n]).unwrap().data, text);
    }
    assert_eq!(s.deliver(&bytes(b"10000 times"), from(1)), 0);
    assert!(s.unsubscribe(ids[5]) && s.subscribe(ANY, ANY, Queue::default()).is_some());
}
