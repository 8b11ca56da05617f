//! Tests of the broker, which gets the clients' bytes one by one; mqttrs, the core's codec, speaks for the clients.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use mqttrs::{
    Connack, ConnectReturnCode, LastWill, Packet, Pid, Protocol, Publish, QoS, QosPid, Subscribe,
    SubscribeReturnCodes, SubscribeTopic, Unsubscribe,
};
use p2pd_rendezvous::mqtt::{Broker, Limits, Output};
use p2pd_rendezvous::{ConnId, Shares};

const SECOND: Duration = Duration::from_secs(1);
const SOMEBODY: &str = "198.51.100.1";

struct World {
    broker: Broker,
    now: Duration,
    received: BTreeMap<ConnId, Vec<u8>>,
    closed: Vec<ConnId>,
    /// True if clients take the data sent to them.
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
                Output::Close(conn) | Output::Drop(conn) => self.closed.push(conn),
            }
        }
    }

    fn open(&mut self) -> ConnId {
        self.open_from(SOMEBODY).unwrap()
    }

    /// A connection, unless it was refused.
    fn open_from(&mut self, ip: &str) -> Option<ConnId> {
        let conn = ConnId(self.next);
        self.next += 1;
        let taken = self.broker.accept(self.now, conn, ip.parse::<IpAddr>().unwrap());
        self.settle();
        taken.then_some(conn)
    }

    fn raw(&mut self, conn: ConnId, bytes: &[u8]) {
        self.broker.receive(self.now, conn, bytes);
        self.settle();
    }

    fn send(&mut self, conn: ConnId, packet: &Packet<'_>) {
        let bytes = encode(packet);
        self.raw(conn, &bytes);
    }

    /// Takes the bytes sent to a client since the last call.
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
    let zero = world.subscribed("zero", "a/b", QoS::AtMostOnce);
    let both = world.subscribed("both", "a/b", QoS::AtMostOnce);
    world.send(both, &subscribe(10, "a/b", QoS::AtLeastOnce));
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
    let mut world = World::new(Limits { retained_bytes: 5, ..Limits::default() });
    let sender = world.client("sender");
    for (topic, text) in
        [("a", "1"), ("b", "2"), ("a", "3"), ("b", ""), ("c", "12345"), ("d", "1"), ("d", "123456")]
    {
        world.send(sender, &publish(topic, text.as_bytes(), None, true));
    }
    let taker = world.client("taker");
    for (topic, kept) in [("a", "3"), ("b", ""), ("c", "12345"), ("d", "")] {
        world.send(taker, &subscribe(1, topic, QoS::AtMostOnce));
        let copy =
            if kept.is_empty() { vec![] } else { encode(&publish(topic, kept.as_bytes(), None, true)) };
        // What is too long is not kept, and what was there before is not the last any more.
        assert_eq!(world.take(taker), [vec![0x90, 3, 0, 1, 0], copy].concat(), "{topic}");
    }
}

#[test]
fn retained_messages_of_one_network_leave_room_for_others() {
    let mut world = World::new(Limits { retained: Shares { all: 6, one: 2 }, ..Limits::default() });
    let mut retain = |from: &str, topic: &str| {
        let conn = world.open_from(from).unwrap();
        world.send(conn, &Packet::Connect(connect("", true)));
        world.send(conn, &publish(topic, b"x", None, true));
        world.send(conn, &Packet::Disconnect);
        world.wait(SECOND);
        let taker = world.client("");
        let mut kept = |topic| {
            world.take(taker);
            world.send(taker, &subscribe(1, topic, QoS::AtMostOnce));
            world.take(taker).len() > 5
        };
        ["a", "b", "c", "d", "e", "f", "g", "h"].into_iter().filter(|t| kept(t)).collect::<String>()
    };
    assert_eq!(retain("192.0.2.1", "a"), "a");
    assert_eq!(retain("192.0.2.1", "b"), "ab");
    assert_eq!(retain("192.0.2.1", "c"), "ab", "one address has two");
    for (n, all) in [(2, "abd"), (3, "abde")] {
        assert_eq!(retain(&format!("192.0.2.{n}"), ["d", "e"][n - 2]), all);
    }
    assert_eq!(retain("203.0.113.1", "f"), "abdef");
    assert_eq!(retain("203.0.113.2", "g"), "abdefg");
    assert_eq!(retain("198.51.100.9", "h"), "bdefgh", "the oldest of the address and network that have most");
}

#[test]
fn silence_ends_a_connection() {
    let mut world = World::new(Limits { keep_alive: 70 * SECOND, ..Limits::default() });
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
    world.wait(15 * SECOND);
    assert_eq!(world.closed, [mute, alive], "104 s");
    world.wait(SECOND);
    assert_eq!(world.closed, [mute, alive, forever], "no keep-alive counts as the longest one");
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
    let mut world = World::new(Limits::default());
    let mut old = encode(&Packet::Connect(connect("old", true)));
    old[8] = 3;
    let older = [&[0x10, 14, 0, 6][..], b"MQIsdp", &[3, 2, 0, 60, 0, 0]].concat();
    let nameless = encode(&Packet::Connect(connect("", false)));
    for (bytes, code) in [
        (old, ConnectReturnCode::RefusedProtocolVersion),
        (older, ConnectReturnCode::RefusedProtocolVersion),
        (nameless, ConnectReturnCode::RefusedIdentifierRejected),
    ] {
        let conn = world.open();
        world.raw(conn, &bytes);
        assert_eq!((world.take(conn), world.closed.pop()), (refused(code), Some(conn)));
    }
    // MQTT 5 has a code and a form of its own.
    let conn = world.open();
    world.raw(conn, &[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 60, 0, 0, 0]);
    assert_eq!((world.take(conn), world.closed.pop()), (vec![0x20, 3, 0, 0x84, 0], Some(conn)));
}

#[test]
fn filters_with_wildcards_and_the_servers_own_topics_are_refused() {
    let mut world = World::new(Limits::default());
    let spy = world.client("spy");
    for filter in [
        "#",
        "+",
        "+/#",
        "p2pd/#",
        "p2pd/+",
        "p2pd-name-#",
        "p2pd-name-+",
        "/#",
        "$SYS/#",
        "$SYS/x",
        "$share/g/t",
    ] {
        world.send(spy, &subscribe(7, filter, QoS::AtLeastOnce));
        assert_eq!(world.take(spy), [0x90, 3, 0, 7, 0x80], "{filter}");
    }
    let sender = world.client("sender");
    for topic in ["p2pd", "p2pd/x", "t", "/", "$SYS/x", "p2pd-name-x"] {
        world.send(sender, &publish(topic, b"hello", None, true));
    }
    assert!(world.take(spy).is_empty() && world.closed.is_empty());
}

#[test]
fn few_addresses_leave_places_for_others_who_get_in_at_once() {
    let limits = Limits { connections: Shares { all: 12, one: 2 }, ..Limits::default() };
    let hello = encode(&Packet::Connect(connect("", true)));
    let mut world = World::new(limits);
    let flood = |world: &mut World, from: &dyn Fn(u32) -> String| {
        let mut inside = 0;
        for conn in (0..40).map(|n| world.open_from(&from(n))).collect::<Vec<_>>().into_iter().flatten() {
            world.raw(conn, &hello);
            inside += 1;
        }
        inside
    };
    let counted = |world: &World| {
        let stats = world.broker.stats();
        assert_eq!(stats.evicted as usize, world.closed.len());
        (stats.refused, stats.evicted)
    };
    assert_eq!(flood(&mut world, &|_| "192.0.2.1".into()), 2);
    assert_eq!(counted(&world), (38, 0));
    // Its /24 has eight, for which its addresses make room for each other.
    assert_eq!(flood(&mut world, &|n| format!("192.0.2.{}", n + 2)), 40);
    assert_eq!(counted(&world), (38, 34));
    world.wait(SECOND);
    let honest = world.open_from("198.51.100.7").unwrap();
    world.send(honest, &Packet::Connect(connect("honest", true)));
    assert_eq!(world.take(honest), accepted(false));
    assert_eq!(counted(&world), (38, 34), "that left places");
    // A /56 has four, of which three are left; the fourth is taken from those who have most.
    assert_eq!(flood(&mut world, &|n| format!("2001:db8:0:{n:x}::1")), 40);
    assert_eq!(counted(&world), (38, 34 + 1 + 36));
    assert_eq!(world.closed[34..].iter().filter(|conn| conn.0 < 80).count(), 1, "one of 192.0.2.0/24");
    let late = world.open_from("203.0.113.9").unwrap();
    world.send(late, &Packet::Connect(connect("late", true)));
    assert_eq!(world.take(late), accepted(false));
    assert_eq!(counted(&world), (38, 34 + 37 + 1));
    assert!(world.closed.last().is_some_and(|conn| conn.0 < 80), "another one of 192.0.2.0/24");
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
fn a_session_is_remembered_unless_its_network_has_more_than_others() {
    let mut world = World::new(Limits { sessions: Shares { all: 3, one: 2 }, ..Limits::default() });
    let leave = |world: &mut World, from: &str, id: &str| {
        let conn = world.open_from(from).unwrap();
        world.send(conn, &Packet::Connect(connect(id, false)));
        let present = world.take(conn);
        world.broker.closed(world.now, conn);
        world.wait(SECOND);
        present == accepted(true)
    };
    for id in ["a", "b", "c"] {
        assert!(!leave(&mut world, "192.0.2.1", id));
    }
    assert!(leave(&mut world, "192.0.2.1", "b"));
    assert!(!leave(&mut world, "192.0.2.1", "c"), "one address has two");
    assert!(!leave(&mut world, "198.51.100.1", "d"));
    assert!(!leave(&mut world, "203.0.113.1", "e"), "all three are taken");
    assert!(leave(&mut world, "198.51.100.1", "d") && leave(&mut world, "203.0.113.1", "e"));
    assert!(!leave(&mut world, "192.0.2.1", "a"), "it was left first where most are");
}

#[test]
fn where_the_stream_is_cut_makes_no_difference() {
    let stream = [
        encode(&Packet::Connect(connect("c", true))),
        encode(&subscribe(1, "t/x", QoS::AtLeastOnce)),
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
    /// A damaged packet of any kind is answered or closes its connection, and another client does not notice.
    fn damaged_packets_hurt_nobody_else(seed: u32, edits: Vec<(u16, u8)>) -> bool {
        let mut stream = [
            encode(&Packet::Connect(connect("c", seed.is_multiple_of(2)))),
            encode(&subscribe(1, "t/x", QoS::AtLeastOnce)),
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
