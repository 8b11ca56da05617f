//! The broker, told byte by byte what clients send; mqttrs, the core's codec, speaks for the clients.

use std::collections::BTreeMap;
use std::time::Duration;

use mqttrs::{
    Connack, ConnectReturnCode, LastWill, Packet, Pid, Protocol, Publish, QoS, QosPid, Subscribe,
    SubscribeReturnCodes, SubscribeTopic, Unsubscribe,
};
use p2pd_rendezvous::ConnId;
use p2pd_rendezvous::mqtt::{Broker, Limits, Output};

const SECOND: Duration = Duration::from_secs(1);

struct World {
    broker: Broker,
    now: Duration,
    received: BTreeMap<ConnId, Vec<u8>>,
    closed: Vec<ConnId>,
    /// Whether clients take what they are sent.
    reading: bool,
    next: u64,
}

impl World {
    fn new(limits: Limits) -> Self {
        let (received, closed) = (BTreeMap::new(), Vec::new());
        World { broker: Broker::new(limits), now: SECOND, received, closed, reading: true, next: 0 }
    }

    fn settle(&mut self) {
        while let Some(output) = self.broker.poll_output() {
            match output {
                Output::Send(conn, data) => {
                    self.received.entry(conn).or_default().extend(&data);
                    if self.reading {
                        self.broker.sent(conn, data.len());
                    }
                }
                Output::Close(conn) => self.closed.push(conn),
            }
        }
    }

    fn open(&mut self) -> ConnId {
        let conn = ConnId(self.next);
        self.next += 1;
        self.broker.accept(self.now, conn);
        self.settle();
        conn
    }

    fn raw(&mut self, conn: ConnId, bytes: &[u8]) {
        self.broker.receive(self.now, conn, bytes);
        self.settle();
    }

    fn send(&mut self, conn: ConnId, packet: &Packet<'_>) {
        let bytes = encode(packet);
        self.raw(conn, &bytes);
    }

    /// What a client was sent since it was last asked.
    fn take(&mut self, conn: ConnId) -> Vec<u8> {
        self.received.remove(&conn).unwrap_or_default()
    }

    /// A client with a clean session.
    fn client(&mut self, id: &str) -> ConnId {
        let conn = self.open();
        self.send(conn, &Packet::Connect(connect(id, true)));
        assert_eq!(self.take(conn), accepted(false));
        conn
    }

    fn subscribed(&mut self, id: &str, filter: &str, qos: QoS) -> ConnId {
        let conn = self.client(id);
        self.send(conn, &subscribe(9, filter, qos));
        assert_eq!(self.take(conn), [0x90, 3, 0, 9, u8::from(qos == QoS::AtLeastOnce)]);
        conn
    }

    /// Lets time pass, timers in order.
    fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.broker.poll_timeout().filter(|at| *at <= until) {
            assert!(at >= self.now, "a deadline that has passed stays");
            self.now = at;
            self.broker.handle_timeout(at);
            self.settle();
            assert!(self.broker.poll_timeout().is_none_or(|next| next > at), "the deadline has moved");
        }
        self.now = until;
    }
}

fn encode(packet: &Packet<'_>) -> Vec<u8> {
    let mut buffer = vec![0; 128 * 1024];
    let n = mqttrs::encode_slice(packet, &mut buffer).unwrap();
    buffer.truncate(n);
    buffer
}

fn connect(id: &str, clean: bool) -> mqttrs::Connect<'_> {
    mqttrs::Connect {
        protocol: Protocol::MQTT311,
        keep_alive: 30,
        client_id: id,
        clean_session: clean,
        last_will: None,
        username: None,
        password: None,
    }
}

fn subscribe(id: u16, filter: &str, qos: QoS) -> Packet<'static> {
    let topic = SubscribeTopic { topic_path: filter.into(), qos };
    Packet::Subscribe(Subscribe { pid: pid(id), topics: [topic].into_iter().collect() })
}

fn publish<'a>(topic: &'a str, payload: &'a [u8], id: Option<u16>, retain: bool) -> Packet<'a> {
    let qospid = id.map_or(QosPid::AtMostOnce, |n| QosPid::AtLeastOnce(pid(n)));
    Packet::Publish(Publish { dup: false, qospid, retain, topic_name: topic, payload })
}

fn pid(n: u16) -> Pid {
    n.try_into().unwrap()
}

fn accepted(session_present: bool) -> Vec<u8> {
    encode(&Packet::Connack(Connack { session_present, code: ConnectReturnCode::Accepted }))
}

fn refused(code: ConnectReturnCode) -> Vec<u8> {
    encode(&Packet::Connack(Connack { session_present: false, code }))
}

#[test]
fn publications_reach_each_matching_client_once_with_the_lower_qos() {
    let mut world = World::new(Limits::default());
    let one = world.subscribed("one", "a/b", QoS::AtLeastOnce);
    let zero = world.subscribed("zero", "a/+", QoS::AtMostOnce);
    let both = world.subscribed("both", "a/b", QoS::AtMostOnce);
    world.send(both, &subscribe(10, "#", QoS::AtLeastOnce));
    world.take(both);
    let other = world.subscribed("other", "a", QoS::AtLeastOnce);
    let sender = world.client("sender");
    world.send(sender, &publish("a/b", b"hello", Some(5), false));
    assert_eq!(world.take(sender), [0x40, 2, 0, 5]);
    assert_eq!(world.take(one), encode(&publish("a/b", b"hello", Some(1), false)));
    assert_eq!(world.take(zero), encode(&publish("a/b", b"hello", None, false)));
    assert_eq!(world.take(both), encode(&publish("a/b", b"hello", Some(1), false)));
    assert!(world.take(other).is_empty());
    world.send(sender, &publish("a/b", b"again", None, false));
    assert!(world.take(sender).is_empty(), "QoS 0 is not acknowledged");
    assert_eq!(world.take(one), encode(&publish("a/b", b"again", None, false)));
    assert_eq!((world.broker.stats().published, world.broker.stats().delivered), (2, 6));
}

#[test]
fn a_subscription_ends_with_unsubscribe_and_with_the_session() {
    let mut world = World::new(Limits::default());
    let taker = world.subscribed("taker", "t", QoS::AtMostOnce);
    let sender = world.client("sender");
    let topics = std::iter::once("t".into()).collect();
    world.send(taker, &Packet::Unsubscribe(Unsubscribe { pid: pid(4), topics }));
    assert_eq!(world.take(taker), [0xb0, 2, 0, 4]);
    world.send(sender, &publish("t", b"x", None, false));
    assert!(world.take(taker).is_empty());
    world.send(taker, &subscribe(5, "t", QoS::AtMostOnce));
    world.send(taker, &Packet::Disconnect);
    assert_eq!(world.closed, [taker]);
    let again = world.client("taker");
    world.send(sender, &publish("t", b"x", None, false));
    assert!(world.take(again).is_empty());
}

#[test]
fn a_remembered_session_gets_what_it_missed_and_what_it_did_not_acknowledge() {
    let mut world = World::new(Limits { remember: 60 * SECOND, ..Limits::default() });
    let taker = world.open();
    world.send(taker, &Packet::Connect(connect("taker", false)));
    assert_eq!(world.take(taker), accepted(false));
    world.send(taker, &subscribe(1, "t", QoS::AtLeastOnce));
    world.take(taker);
    let sender = world.client("sender");
    world.send(sender, &publish("t", b"one", Some(1), false));
    world.send(sender, &publish("t", b"two", Some(2), false));
    world.send(taker, &Packet::Puback(pid(1)));
    world.take(taker);
    world.broker.closed(world.now, taker);
    world.send(sender, &publish("t", b"zero", None, false));
    world.send(sender, &publish("t", b"three", Some(3), false));
    let back = world.open();
    world.send(back, &Packet::Connect(connect("taker", false)));
    let mut again = encode(&publish("t", b"two", Some(2), false));
    again[0] |= 8;
    let missed = encode(&publish("t", b"three", Some(3), false));
    assert_eq!(world.take(back), [accepted(true), again, missed].concat());
    world.broker.closed(world.now, back);
    world.send(sender, &Packet::Pingreq);
    world.wait(40 * SECOND);
    world.send(sender, &Packet::Pingreq);
    world.wait(21 * SECOND);
    let late = world.open();
    world.send(late, &Packet::Connect(connect("taker", false)));
    assert_eq!(world.take(late), accepted(false), "forgotten after a minute");
}

#[test]
fn the_newer_connection_of_a_client_id_takes_over() {
    let mut world = World::new(Limits::default());
    let will = LastWill { topic: "gone", message: b"first", qos: QoS::AtLeastOnce, retain: false };
    let first = world.open();
    world.send(first, &Packet::Connect(mqttrs::Connect { last_will: Some(will), ..connect("me", true) }));
    let watcher = world.subscribed("watcher", "gone", QoS::AtLeastOnce);
    let second = world.client("me");
    assert_eq!(world.closed, [first]);
    assert_eq!(world.take(watcher), encode(&publish("gone", b"first", Some(1), false)));
    world.send(first, &Packet::Pingreq);
    world.send(second, &Packet::Pingreq);
    assert_eq!(world.take(second), [0xd0, 0]);
    // Nameless clients are many.
    let (a, b) = (world.client(""), world.client(""));
    assert!(!world.closed.contains(&a) && !world.closed.contains(&b));
}

#[test]
fn a_will_is_published_unless_the_client_said_goodbye() {
    let mut world = World::new(Limits::default());
    let watcher = world.subscribed("watcher", "gone", QoS::AtMostOnce);
    let will = LastWill { topic: "gone", message: b"x", qos: QoS::AtMostOnce, retain: true };
    for polite in [true, false] {
        let conn = world.open();
        let connect = mqttrs::Connect { last_will: Some(will.clone()), ..connect("c", true) };
        world.send(conn, &Packet::Connect(connect));
        if polite {
            world.send(conn, &Packet::Disconnect);
            assert!(world.take(watcher).is_empty());
        } else {
            world.broker.closed(world.now, conn);
            world.settle();
            assert_eq!(world.take(watcher), encode(&publish("gone", b"x", None, false)));
        }
    }
    let late = world.client("late");
    world.send(late, &subscribe(1, "gone", QoS::AtLeastOnce));
    let expected = [vec![0x90, 3, 0, 1, 1], encode(&publish("gone", b"x", None, true))].concat();
    assert_eq!(world.take(late), expected, "its retained copy");
}

#[test]
fn retained_messages_are_kept_replaced_and_deleted() {
    let mut world = World::new(Limits { retained: 2, ..Limits::default() });
    let sender = world.client("sender");
    for (topic, text) in [("a", "1"), ("b", "2"), ("a", "3"), ("c", "no room"), ("b", "")] {
        world.send(sender, &publish(topic, text.as_bytes(), None, true));
    }
    let taker = world.client("taker");
    world.send(taker, &subscribe(1, "#", QoS::AtMostOnce));
    assert_eq!(world.take(taker), [vec![0x90, 3, 0, 1, 0], encode(&publish("a", b"3", None, true))].concat());
}

#[test]
fn silence_ends_a_connection() {
    let mut world = World::new(Limits { silence: 100 * SECOND, ..Limits::default() });
    let mute = world.open();
    world.wait(4 * SECOND);
    assert!(world.closed.is_empty());
    world.wait(SECOND);
    assert_eq!(world.closed, [mute], "no CONNECT within 5 s");
    let alive = world.client("alive");
    let forever = world.open();
    world.send(forever, &Packet::Connect(mqttrs::Connect { keep_alive: 0, ..connect("forever", true) }));
    world.wait(44 * SECOND);
    world.send(alive, &Packet::Pingreq);
    world.wait(44 * SECOND);
    assert_eq!(world.closed, [mute], "one and a half times the keep-alive has not passed");
    world.wait(SECOND);
    assert_eq!(world.closed, [mute, alive]);
    world.wait(11 * SECOND);
    assert_eq!(world.closed, [mute, alive, forever], "no keep-alive is not for ever");
    assert_eq!(world.broker.poll_timeout(), None);
}

#[test]
fn what_the_protocol_forbids_closes_the_connection_and_no_other() {
    let connected = encode(&Packet::Connect(connect("bad", true)));
    let after = |bytes: &[u8]| [&connected, bytes].concat();
    let big = |n: usize| {
        let mut bytes = vec![0x30];
        let mut rest = n;
        while rest >= 0x80 {
            bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
        bytes
    };
    let mut reserved = connected.clone();
    reserved[9] |= 1;
    let mut orphan = connected.clone();
    orphan[9] |= 0x20;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("not MQTT", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("first packet is no CONNECT", vec![0xc0, 0]),
        ("second CONNECT", after(&connected)),
        ("reserved connect flag", reserved),
        ("will flags without a will", orphan),
        ("trailing bytes", {
            let mut bytes = connected.clone();
            bytes[1] += 1;
            bytes.push(0);
            bytes
        }),
        ("length of five bytes", after(&[0x30, 0x80, 0x80, 0x80, 0x80, 1])),
        ("longer than the limit", after(&big(70_000))),
        ("256 MB announced", after(&[0x30, 0xff, 0xff, 0xff, 0x7f])),
        ("flags of SUBSCRIBE", after(&[0x80, 6, 0, 1, 0, 1, b'a', 0])),
        ("packet identifier 0", after(&[0x82, 6, 0, 0, 0, 1, b'a', 0])),
        ("no filters", after(&[0x82, 2, 0, 1])),
        ("QoS 3", after(&[0x36, 5, 0, 1, b'a', 0, 1])),
        ("QoS 2", after(&[0x34, 5, 0, 1, b'a', 0, 1])),
        ("QoS 1 without identifier", after(&[0x32, 3, 0, 1, b'a'])),
        ("wildcard in a name", after(&[0x30, 3, 0, 1, b'#'])),
        ("empty name", after(&[0x30, 2, 0, 0])),
        ("NUL in a name", after(&[0x30, 3, 0, 1, 0])),
        ("no UTF-8", after(&[0x30, 3, 0, 1, 0xff])),
        ("mqttrs' two bytes", after(&[0x40, 0])),
        ("a server's packet", after(&[0x20, 2, 0, 0])),
        ("ping with a body", after(&[0xc0, 1, 0])),
    ];
    for (what, bytes) in cases {
        let mut world = World::new(Limits::default());
        let good = world.subscribed("good", "t", QoS::AtMostOnce);
        let bad = world.open();
        world.raw(bad, &bytes);
        assert_eq!(world.closed, [bad], "{what}");
        assert_eq!(world.broker.stats().violations, 1, "{what}");
        world.send(good, &publish("t", b"still here", None, false));
        assert_eq!(world.take(good), encode(&publish("t", b"still here", None, false)), "{what}");
    }
}

#[test]
fn refusals_have_their_code() {
    let mut world = World::new(Limits { sessions: 2, connections: 4, ..Limits::default() });
    let mut old = encode(&Packet::Connect(connect("old", true)));
    old[8] = 3;
    let nameless = encode(&Packet::Connect(connect("", false)));
    for (bytes, code) in [
        (old, ConnectReturnCode::RefusedProtocolVersion),
        (nameless, ConnectReturnCode::RefusedIdentifierRejected),
    ] {
        let conn = world.open();
        world.raw(conn, &bytes);
        assert_eq!((world.take(conn), world.closed.pop()), (refused(code), Some(conn)));
    }
    world.client("one");
    world.client("two");
    let third = world.open();
    world.send(third, &Packet::Connect(connect("three", true)));
    assert_eq!(world.take(third), refused(ConnectReturnCode::ServerUnavailable));
    let (_a, _b) = (world.open(), world.open());
    let fifth = world.open();
    assert_eq!(world.closed.last(), Some(&fifth), "too many connections");
}

#[test]
fn a_client_that_does_not_read_costs_a_bounded_amount() {
    let limits =
        Limits { output: 1000, queue: 3, in_flight: 2, requests_per_second: 10_000, ..Limits::default() };
    let mut world = World::new(limits);
    let slow = world.subscribed("slow", "t", QoS::AtLeastOnce);
    let sender = world.client("sender");
    for n in 1..=10_u8 {
        world.send(sender, &publish("t", &[n], Some(n.into()), false));
    }
    let two = [encode(&publish("t", &[1], Some(1), false)), encode(&publish("t", &[2], Some(2), false))];
    assert_eq!(world.take(slow), two.concat(), "two in flight");
    assert_eq!(world.broker.stats().dropped, 5, "three wait");
    for (ack, next) in [(1, 3_u8), (2, 4), (3, 5)] {
        world.send(slow, &Packet::Puback(pid(ack)));
        assert_eq!(world.take(slow), encode(&publish("t", &[next], Some(next.into()), false)));
    }
    // And one that takes no bytes at all.
    world.reading = false;
    for _ in 0..200 {
        world.send(slow, &publish("t", &[0; 90], None, false));
    }
    let sent = world.take(slow).len();
    assert!(sent <= 1100, "{sent} bytes");
    for _ in 0..1000 {
        world.send(slow, &Packet::Pingreq);
    }
    assert_eq!((world.closed.as_slice(), world.broker.stats().stalled), (&[slow][..], 1));
}

#[test]
fn limits_on_subscriptions_and_publications() {
    let limits = Limits { subscriptions: 2, requests_per_second: 10, ..Limits::default() };
    let mut world = World::new(limits);
    let client = world.client("c");
    let codes = [(1, "a", 1), (2, "b", 1), (3, "c", 0x80), (4, "b", 1)];
    for (id, filter, code) in codes {
        world.send(client, &subscribe(id, filter, QoS::AtLeastOnce));
        assert_eq!(world.take(client), [0x90, 3, 0, id as u8, code], "{filter}");
    }
    world.wait(SECOND);
    for n in 0..40 {
        world.send(client, &publish("x", b"", None, false));
        assert!(world.closed.is_empty(), "{n}");
    }
    world.send(client, &publish("x", b"", None, false));
    assert_eq!(world.closed, [client]);
}

/// A packet of the given first byte with one filter, many times over.
fn repeated(first: u8, filter: &[u8], times: usize) -> Vec<u8> {
    let body = [&[0, 1][..], &filter.repeat(times)].concat();
    let length = [body.len() as u8 | 0x80, (body.len() >> 7) as u8 | 0x80, (body.len() >> 14) as u8];
    [&[first][..], &length, &body].concat()
}

#[test]
fn everything_that_costs_work_counts_towards_the_rate() {
    let ack = [0x40, 2, 0, 9];
    for (what, bytes) in [
        ("publications", encode(&publish("x", b"", None, false)).repeat(41)),
        ("filters in one packet", repeated(0x82, &[0, 1, b'#', 0], 41)),
        ("filters taken back in one packet", repeated(0xa2, &[0, 1, b'#'], 41)),
        ("pings", [0xc0, 0].repeat(41)),
        ("acknowledgements of nothing", ack.repeat(41)),
    ] {
        let mut world = World::new(Limits { requests_per_second: 10, ..Limits::default() });
        let client = world.client("c");
        world.raw(client, &bytes);
        assert_eq!((&world.closed[..], world.broker.stats().violations), (&[client][..], 1), "{what}");
    }
    // What was sent to it, a client may acknowledge as fast as it comes.
    let limits = Limits { requests_per_second: 10, queue: 100, ..Limits::default() };
    let mut world = World::new(limits);
    let taker = world.subscribed("taker", "t", QoS::AtLeastOnce);
    for n in 1..=100 {
        let sender = world.client("");
        world.send(sender, &publish("t", b"x", Some(1), false));
        world.send(taker, &Packet::Puback(pid(n)));
    }
    assert!(world.closed.is_empty());
}

#[test]
fn wildcards_are_few_in_all_since_each_is_looked_at_for_each_publication() {
    let mut world = World::new(Limits { wildcards: 3, ..Limits::default() });
    let one = world.subscribed("one", "a/+", QoS::AtMostOnce);
    world.subscribed("two", "b/#", QoS::AtMostOnce);
    let code = |world: &mut World, conn, filter| {
        world.send(conn, &subscribe(2, filter, QoS::AtMostOnce));
        world.take(conn).last().copied()
    };
    assert_eq!(code(&mut world, one, "c/+"), Some(0));
    let three = world.client("three");
    assert_eq!(code(&mut world, three, "d/+"), Some(0x80));
    assert_eq!(code(&mut world, three, "d"), Some(0), "names are not touched by it");
    assert_eq!(code(&mut world, one, "c/+"), Some(0), "the same once more is not one more");
    let topics = std::iter::once("c/+".into()).collect();
    world.send(one, &Packet::Unsubscribe(Unsubscribe { pid: pid(4), topics }));
    assert_eq!(code(&mut world, three, "d/+"), Some(0));
    assert_eq!(code(&mut world, three, "e/+"), Some(0x80));
    world.broker.closed(world.now, one);
    assert_eq!(code(&mut world, three, "e/+"), Some(0), "what ends with its session is free again");
}

#[test]
fn what_waits_for_a_client_is_bounded_in_bytes() {
    let mut world = World::new(Limits { queue_bytes: 1000, in_flight: 1, ..Limits::default() });
    let taker = world.subscribed("taker", "t", QoS::AtLeastOnce);
    let sender = world.client("sender");
    for n in 1..=3 {
        world.send(sender, &publish("t", &[n as u8; 400], Some(n), false));
    }
    assert_eq!(world.broker.stats().dropped, 1, "one in flight, one waits");
    world.take(taker);
    for n in [1, 2] {
        world.send(taker, &Packet::Puback(pid(n)));
    }
    assert_eq!(world.take(taker), encode(&publish("t", &[2; 400], Some(2), false)));
    for _ in 0..10 {
        world.send(sender, &publish("t", &[9; 900], None, false));
    }
    assert_eq!(world.broker.stats().dropped, 1, "what left is not counted any more");
}

#[test]
fn retained_messages_are_bounded_in_bytes() {
    let mut world = World::new(Limits { retained_bytes: 1000, ..Limits::default() });
    let sender = world.client("sender");
    let (big, late) = ([1; 400], [2; 700]);
    for (topic, payload) in [("a", &big[..]), ("b", &big), ("c", &big), ("a", b""), ("d", &big), ("b", &late)]
    {
        world.send(sender, &publish(topic, payload, None, true));
    }
    let taker = world.client("taker");
    world.send(taker, &subscribe(1, "#", QoS::AtMostOnce));
    // The old text under a name is not the last one, so it goes even where the new one finds no place.
    let kept = encode(&publish("d", &big, None, true));
    assert_eq!(world.take(taker), [vec![0x90, 3, 0, 1, 0], kept].concat());
}

#[test]
fn a_newcomer_takes_the_place_of_the_session_that_was_left_first() {
    let mut world = World::new(Limits { sessions: 3, ..Limits::default() });
    let lasting = |world: &mut World, id: &str| {
        let conn = world.open();
        world.send(conn, &Packet::Connect(connect(id, false)));
        (conn, world.take(conn))
    };
    let (first, _) = lasting(&mut world, "first");
    let (second, _) = lasting(&mut world, "second");
    world.client("there");
    world.broker.closed(world.now, second);
    world.wait(SECOND);
    world.broker.closed(world.now, first);
    world.client("new");
    assert_eq!(lasting(&mut world, "first").1, accepted(true));
    let unavailable = refused(ConnectReturnCode::ServerUnavailable);
    assert_eq!(lasting(&mut world, "second").1, unavailable, "and nobody's who is there");
}

#[test]
fn where_the_stream_is_cut_makes_no_difference() {
    let stream = [
        encode(&Packet::Connect(connect("c", true))),
        encode(&subscribe(1, "t/+", QoS::AtLeastOnce)),
        encode(&publish("t/x", &[7; 300], Some(2), false)),
        encode(&Packet::Puback(pid(1))),
        encode(&Packet::Pingreq),
    ]
    .concat();
    let run = |cuts: &dyn Fn(usize) -> usize| {
        let mut world = World::new(Limits::default());
        let conn = world.open();
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(cuts(rest.len()).min(rest.len()));
            world.raw(conn, now);
            rest = later;
        }
        assert!(world.closed.is_empty());
        world.take(conn)
    };
    let whole = run(&|all| all);
    assert_eq!(run(&|_| 1), whole);
    for cut in 1..stream.len() {
        assert_eq!(run(&|left| if left == stream.len() { cut } else { left }), whole, "cut at {cut}");
    }
}

quickcheck::quickcheck! {
    /// Whatever comes, the broker answers or closes, and another client does not notice.
    fn damaged_packets_hurt_nobody_else(seed: u32, edits: Vec<(u16, u8)>) -> bool {
        let mut stream = [
            encode(&Packet::Connect(connect("c", seed.is_multiple_of(2)))),
            encode(&subscribe(1, "t/#", QoS::AtLeastOnce)),
            encode(&publish("t/x", b"payload", Some(2), seed.is_multiple_of(3))),
        ]
        .concat();
        for (at, value) in edits {
            let at = usize::from(at) % stream.len();
            stream[at] = value;
        }
        let mut world = World::new(Limits::default());
        let good = world.subscribed("good", "own", QoS::AtMostOnce);
        let bad = world.open();
        world.raw(bad, &stream);
        world.take(good);
        world.send(good, &publish("own", b"x", None, false));
        world.take(good) == encode(&publish("own", b"x", None, false))
    }
}

#[test]
fn mqttrs_reads_a_subscription_answer() {
    let mut world = World::new(Limits::default());
    let conn = world.client("c");
    world.send(conn, &subscribe(3, "a", QoS::ExactlyOnce));
    let bytes = world.take(conn);
    let Some(Packet::Suback(ack)) = mqttrs::decode_slice(&bytes).unwrap() else { panic!("{bytes:?}") };
    assert_eq!(ack.return_codes[0], SubscribeReturnCodes::Success(QoS::AtLeastOnce), "QoS 2 is granted as 1");
}
