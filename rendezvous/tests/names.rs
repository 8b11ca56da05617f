//! Tests of the records of names that the broker keeps. The core makes the records: neither side can agree with its own
//! mistakes.

use std::net::IpAddr;
use std::time::Duration;

use mqttrs::{Packet, Pid, Protocol, Publish, QoS, QosPid, Subscribe, SubscribeTopic};
use p2pd_core::name::{MAX_RECORD, Record};
use p2pd_core::{Name, SecretKey};
use p2pd_rendezvous::mqtt::{Broker, Limits, Output};
use p2pd_rendezvous::{ConnId, Shares};

const SECOND: Duration = Duration::from_secs(1);
/// Unix time at the broker's zero.
const UNIX: u64 = 1_700_000_000;
const DAY: u64 = 86_400;

struct World {
    broker: Broker,
    now: Duration,
    next: u64,
    /// All that went out, in order.
    sent: Vec<(ConnId, Vec<u8>)>,
}

fn key(n: u8) -> SecretKey {
    SecretKey::from_bytes([n; 32])
}

fn name() -> Name {
    "example".parse().unwrap()
}

fn record(n: u8, sequence: u64, live: bool) -> Record {
    let id = key(n).node_id();
    let address = live.then(|| Box::new(format!("None-0-0-{id}").parse().unwrap()));
    Record { name: name(), id, sequence, expiry: UNIX + DAY, address }
}

fn encode(packet: &Packet<'_>) -> Vec<u8> {
    let mut buffer = vec![0; 64 * 1024];
    let n = mqttrs::encode_slice(packet, &mut buffer).unwrap();
    buffer.truncate(n);
    buffer
}

impl World {
    fn new(limits: Limits) -> Self {
        let mut broker = Broker::new(limits);
        broker.set_unix_time(Duration::ZERO, Duration::from_secs(UNIX));
        World { broker, now: Duration::ZERO, next: 0, sent: Vec::new() }
    }

    fn tell(&mut self, conn: ConnId, packet: &Packet<'_>) {
        self.broker.receive(self.now, conn, &encode(packet));
        while let Some(output) = self.broker.poll_output() {
            match output {
                Output::Send(conn, data) => {
                    self.broker.sent(conn, data.len());
                    self.sent.push((conn, data.to_vec()));
                }
                Output::Close(conn) | Output::Drop(conn) => panic!("{conn:?} was closed"),
            }
        }
    }

    fn client(&mut self, from: [u8; 4]) -> ConnId {
        let conn = ConnId(self.next);
        self.next += 1;
        assert!(self.broker.accept(self.now, conn, IpAddr::from(from)));
        let id = format!("client{}", conn.0);
        self.tell(
            conn,
            &Packet::Connect(mqttrs::Connect {
                protocol: Protocol::MQTT311,
                keep_alive: 0,
                client_id: &id,
                clean_session: true,
                last_will: None,
                username: None,
                password: None,
            }),
        );
        conn
    }

    /// Publishes by a client of its own; whether it was taken, and passed on to `watcher`.
    fn publish(&mut self, topic: &str, payload: &[u8], retain: bool) -> bool {
        self.publish_from([203, 0, 113, 1], topic, payload, retain)
    }

    fn publish_from(&mut self, from: [u8; 4], topic: &str, payload: &[u8], retain: bool) -> bool {
        let conn = self.client(from);
        let refused = self.broker.stats().records_refused;
        let qospid = QosPid::AtLeastOnce(Pid::try_from(7).unwrap());
        self.tell(conn, &Packet::Publish(Publish { dup: false, qospid, retain, topic_name: topic, payload }));
        assert_eq!(self.sent.last(), Some(&(conn, vec![0x40, 2, 0, 7])), "acknowledged in any case");
        self.broker.closed(self.now, conn);
        self.broker.stats().records_refused == refused
    }

    fn put(&mut self, record: &Record, by: u8) -> bool {
        self.publish(&record.name.topic(), &record.encode(&key(by)), true)
    }

    /// Returns the records that a new client gets under a filter.
    fn kept(&mut self, filter: &str) -> Vec<Record> {
        let conn = self.client([192, 0, 2, 1]);
        let topic = SubscribeTopic { topic_path: filter.into(), qos: QoS::AtMostOnce };
        let before = self.sent.len();
        let pid = Pid::try_from(9).unwrap();
        self.tell(conn, &Packet::Subscribe(Subscribe { pid, topics: [topic].into_iter().collect() }));
        let records = self.sent[before + 1..].iter().map(|(_, packet)| {
            match mqttrs::decode_slice(packet).unwrap().unwrap() {
                Packet::Publish(p) => Record::decode(p.payload).unwrap(),
                other => panic!("{other:?}"),
            }
        });
        let records = records.collect();
        self.broker.closed(self.now, conn);
        records
    }
}

#[test]
fn a_record_is_replaced_by_newer_ones_of_its_key_only() {
    let mut world = World::new(Limits::default());
    let topic = name().topic();
    assert!(world.put(&record(1, 5, true), 1));
    assert!(world.put(&record(1, 5, true), 1), "the same again");
    assert!(!world.put(&record(1, 4, true), 1), "an older one");
    assert!(
        !world.put(&Record { expiry: UNIX + 2 * DAY, ..record(1, 5, true) }, 1),
        "another one of the same number"
    );
    assert!(!world.put(&record(2, 99, true), 2), "another key");
    assert!(!world.put(&record(2, 99, false), 2), "another key gives it up");
    assert!(!world.publish(&topic, b"", true), "an empty message would delete it");
    assert_eq!(world.kept(&topic), [record(1, 5, true)]);
    assert!(world.put(&record(1, 6, true), 1));
    assert_eq!(world.kept(&topic), [record(1, 6, true)]);
    assert_eq!(world.kept("p2pd-name-+"), [], "for whoever knows the name");
}

#[test]
fn a_name_that_was_given_up_is_for_the_next_one_and_stays_given_up() {
    let mut world = World::new(Limits::default());
    assert!(world.put(&record(1, 5, true), 1));
    assert!(world.put(&record(1, 6, false), 1));
    assert!(!world.put(&record(1, 5, true), 1), "an old record that somebody had");
    assert_eq!(world.kept(&name().topic()), [record(1, 6, false)]);
    assert!(world.put(&record(2, 1, true), 2));
    assert!(!world.put(&record(1, 7, true), 1));
    assert_eq!(world.kept(&name().topic()), [record(2, 1, true)]);
}

#[test]
fn what_is_no_record_is_neither_kept_nor_passed_on() {
    let mut world = World::new(Limits::default());
    let topic = name().topic();
    let watcher = world.client([192, 0, 2, 9]);
    let filter = SubscribeTopic { topic_path: topic.clone(), qos: QoS::AtMostOnce };
    let pid = Pid::try_from(9).unwrap();
    world.tell(watcher, &Packet::Subscribe(Subscribe { pid, topics: [filter].into_iter().collect() }));
    let good = record(1, 5, true).encode(&key(1));
    let forged = record(1, 5, true).encode(&key(2));
    let other: Name = "other".parse().unwrap();
    assert!(!world.publish(&topic, &forged, true));
    assert!(!world.publish(&other.topic(), &good, true), "under another name");
    assert!(!world.publish("p2pd-name-x", &good, true));
    assert!(!world.publish(&topic, &good, false), "not to be kept");
    assert!(!world.publish(&topic, &[1; MAX_RECORD + 1], true));
    for end in 0..good.len() {
        assert!(!world.publish(&topic, &good[..end], true), "cut at {end}");
        let mut bad = good.to_vec();
        bad[end] ^= 4;
        assert!(!world.publish(&topic, &bad, true), "byte {end}");
    }
    let old = Record { expiry: UNIX - 601, ..record(1, 5, true) };
    assert!(!world.put(&old, 1));
    let endless = Record { expiry: UNIX + 7 * DAY + 601, ..record(1, 5, true) };
    assert!(!world.put(&endless, 1));
    assert!(!world.sent.iter().any(|(conn, packet)| *conn == watcher && packet[0] >> 4 == 3), "nothing came");
    assert_eq!(world.kept(&topic), []);
    assert!(world.publish(&topic, &good, true));
    assert!(world.sent.iter().any(|(conn, packet)| *conn == watcher && packet[0] >> 4 == 3));
}

#[test]
fn a_name_is_free_when_its_record_has_expired() {
    let mut world = World::new(Limits::default());
    assert!(world.put(&record(1, 5, true), 1));
    world.now = SECOND * (DAY as u32 + 599);
    let next = Record { expiry: UNIX + 2 * DAY, ..record(2, 1, true) };
    assert!(!world.put(&next, 2));
    world.now += SECOND;
    assert_eq!(world.kept(&name().topic()), []);
    assert!(world.put(&next, 2));
    assert_eq!(world.kept(&name().topic()), [next]);
}

#[test]
fn names_are_bounded_in_all_and_for_each_network() {
    let mut world = World::new(Limits { names: Shares { all: 6, one: 2 }, ..Limits::default() });
    let named = |n: u8| format!("name{n}").parse::<Name>().unwrap();
    let put = |world: &mut World, n: u8, from: [u8; 4]| {
        world.now += SECOND;
        let record = Record { name: named(n), ..record(1, 5, true) };
        world.publish_from(from, &record.name.topic(), &record.encode(&key(1)), true)
    };
    let all = |world: &mut World| {
        (0..20).filter(|n| !world.kept(&named(*n).topic()).is_empty()).collect::<Vec<_>>()
    };
    let (a, b, c) = ([203, 0, 113, 1], [203, 0, 113, 2], [203, 0, 113, 3]);
    assert!(put(&mut world, 0, a) && put(&mut world, 1, a));
    assert!(!put(&mut world, 2, a), "one address has enough");
    assert!(put(&mut world, 1, a), "what it has it may renew");
    assert!(put(&mut world, 2, b) && put(&mut world, 3, c) && put(&mut world, 4, c));
    assert!(!put(&mut world, 0, c) && put(&mut world, 0, b), "a name may come from elsewhere");
    assert!(put(&mut world, 5, [198, 51, 100, 1]));
    assert_eq!(all(&mut world), [0, 1, 2, 3, 4, 5]);
    assert!(put(&mut world, 6, [192, 0, 2, 7]), "where all places are taken");
    assert_eq!(all(&mut world), [0, 1, 3, 4, 5, 6], "the oldest goes where most came from");
    world.now = SECOND * (DAY as u32 + 600);
    world.broker.set_unix_time(world.now, Duration::from_secs(UNIX) + world.now);
    let fresh: Name = "fresh".parse().unwrap();
    let late = Record { name: fresh, expiry: UNIX + 2 * DAY, ..record(1, 5, true) };
    assert!(world.publish_from(c, &fresh.topic(), &late.encode(&key(1)), true), "expired ones make room");
}

#[test]
fn a_will_changes_no_name() {
    let mut world = World::new(Limits::default());
    assert!(world.put(&record(1, 5, true), 1));
    let conn = ConnId(1_000);
    assert!(world.broker.accept(world.now, conn, IpAddr::from([192, 0, 2, 1])));
    let topic = name().topic();
    world.tell(
        conn,
        &Packet::Connect(mqttrs::Connect {
            protocol: Protocol::MQTT311,
            keep_alive: 0,
            client_id: "will",
            clean_session: true,
            last_will: Some(mqttrs::LastWill {
                topic: &topic,
                message: b"",
                qos: QoS::AtMostOnce,
                retain: true,
            }),
            username: None,
            password: None,
        }),
    );
    world.broker.closed(world.now, conn);
    assert_eq!(world.kept(&topic), [record(1, 5, true)]);
}

#[test]
fn records_count_for_ten_requests() {
    let mut world = World::new(Limits::default());
    let conn = world.client([203, 0, 113, 1]);
    let (topic, bytes) = (name().topic(), record(1, 5, true).encode(&key(2)));
    let publish = Packet::Publish(Publish {
        dup: false,
        qospid: QosPid::AtMostOnce,
        retain: true,
        topic_name: &topic,
        payload: &bytes,
    });
    for _ in 0..40 {
        world.tell(conn, &publish);
    }
    assert_eq!(world.broker.stats().violations, 0);
    world.broker.receive(world.now, conn, &encode(&publish));
    assert_eq!((world.broker.stats().violations, world.broker.stats().records_refused), (1, 40));
}
