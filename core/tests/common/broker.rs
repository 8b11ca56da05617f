//! An MQTT 3.1.1 broker with the codec of our own, and every way in which it can go wrong.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use p2pd_core::Instant;
use p2pd_rendezvous::mqtt::packet::{self, ConnectReturnCode, Framer, Packet, SubackReturnCode};

use super::{End, Happening, World};

/// Answer of a broker to a CONNECT.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Greeting {
    /// CONNACK with this return code.
    Connack(u8),
    Silence,
    /// Arbitrary bytes.
    Bytes(Vec<u8>),
}

/// In place of a return code of SUBACK: the broker says nothing.
pub const NO_ANSWER: u8 = 255;

/// A message that came in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Published {
    pub at: Instant,
    pub topic: String,
    pub payload: Vec<u8>,
    pub retain: bool,
}

/// Treatment of a message: each copy, and its delay.
pub type Bend = Box<dyn FnMut(&Published) -> Vec<(Duration, Vec<u8>)>>;

pub struct Broker {
    pub config: p2pd_core::Broker,
    pub at: SocketAddr,
    /// Accepts connections; else they are refused.
    pub up: bool,
    pub greeting: Greeting,
    /// Return code of SUBACK: 1 is granted at QoS 1, 128 refused. Whoever publishes at more than QoS 0 to a broker that grants
    /// no more than 0 loses its session.
    pub suback: u8,
    /// Return codes before that, the first one first.
    pub subacks: VecDeque<u8>,
    /// Time of each SUBSCRIBE, and the QoS that it asked for.
    pub subscribes: Vec<(Instant, u8)>,
    /// Longest keep-alive, in seconds; whoever wants a longer one is refused.
    pub most_silence: u16,
    /// User name and password of each CONNECT.
    pub logins: Vec<(Option<String>, Option<String>)>,
    /// Retained messages, by topic. A broker that keeps nothing forgets at once.
    pub kept: BTreeMap<String, Vec<u8>>,
    pub keeps: bool,
    /// The broker ends the session of a client that asks for a message to be kept.
    pub hates_retained: bool,
    /// Number of publishes that end their publisher's session.
    pub ends_at: usize,
    /// Acknowledges and answers pings. A broker that does not is dead without having said so.
    pub answers: bool,
    pub bend: Bend,
    pub published: Vec<Published>,
    /// Time of each connection, and each client id.
    pub connects: Vec<Instant>,
    pub client_ids: Vec<String>,
    pub pings: Vec<Instant>,
    /// DISCONNECTs.
    pub farewells: u32,
    connections: BTreeMap<u32, Connection>,
}

/// Longest packet of a client.
const MOST: usize = 64 * 1024;

struct Connection {
    framer: Framer,
    topics: Vec<String>,
    deliveries: u16,
}

impl Broker {
    pub(super) fn accepted(&mut self, conn: u32, now: Instant) {
        self.connects.push(now);
        let connection = Connection { framer: Framer::new(MOST), topics: Vec::new(), deliveries: 0 };
        self.connections.insert(conn, connection);
    }

    pub(super) fn closed(&mut self, conn: u32) {
        self.connections.remove(&conn);
    }

    /// Returns every subscription of every connection.
    pub fn followed(&self) -> impl Iterator<Item = &str> {
        self.connections.values().flat_map(|c| c.topics.iter().map(String::as_str))
    }

    /// Returns the number of connections that have a subscription.
    pub fn subscribers(&self) -> usize {
        self.connections.values().filter(|c| !c.topics.is_empty()).count()
    }
}

impl World {
    /// Adds a broker, with the next id.
    pub fn add_broker(&mut self) -> usize {
        let n = self.brokers.len();
        let host: Box<str> = format!("broker{n}.test").into();
        self.brokers.push(Broker {
            config: p2pd_core::Broker::new(n as u16 + 1, &host, 1883),
            at: ([198, 51, 100, 10 + n as u8], 1883).into(),
            up: true,
            greeting: Greeting::Connack(0),
            suback: 1,
            subacks: VecDeque::new(),
            subscribes: Vec::new(),
            most_silence: u16::MAX,
            logins: Vec::new(),
            kept: BTreeMap::new(),
            keeps: true,
            hates_retained: false,
            ends_at: 0,
            answers: true,
            bend: Box::new(|message| vec![(Duration::ZERO, message.payload.clone())]),
            published: Vec::new(),
            connects: Vec::new(),
            client_ids: Vec::new(),
            pings: Vec::new(),
            farewells: 0,
            connections: BTreeMap::new(),
        });
        n
    }

    /// The broker stops: connections break, new ones are refused.
    pub fn kill_broker(&mut self, b: usize) {
        self.brokers[b].up = false;
        for conn in std::mem::take(&mut self.brokers[b].connections).into_keys() {
            self.close(End::Broker(b, conn), true);
        }
    }

    /// The broker says these bytes on every connection.
    pub fn broker_says(&mut self, b: usize, bytes: &[u8]) {
        let all: Vec<u32> = self.brokers[b].connections.keys().copied().collect();
        for conn in all {
            self.send(End::Broker(b, conn), bytes.to_vec());
        }
    }

    /// Publishes this for a node.
    pub fn publish(&mut self, b: usize, to: usize, payload: &[u8]) {
        let topic = self.id(to).topic().to_string();
        self.deliver(b, &topic, payload);
    }

    /// Publishes this under any topic.
    pub fn deliver_now(&mut self, b: usize, topic: &str, payload: &[u8]) {
        self.deliver(b, topic, payload);
    }

    /// Publishes this under any topic, to be kept.
    pub fn publish_kept(&mut self, b: usize, topic: &str, payload: &[u8]) {
        self.brokers[b].kept.insert(topic.into(), payload.to_vec());
        self.deliver(b, topic, payload);
    }

    /// Returns the number of connections that follow this topic.
    pub fn followers(&self, b: usize, topic: &str) -> usize {
        let connections = self.brokers[b].connections.values();
        connections.filter(|c| c.topics.iter().any(|t| t == topic)).count()
    }

    /// Every message that anybody published for a node, over all brokers.
    pub fn published_to(&self, n: usize) -> Vec<&Published> {
        let topic = self.id(n).topic().to_string();
        self.brokers.iter().flat_map(|b| &b.published).filter(|p| p.topic == topic).collect()
    }

    pub(super) fn broker_received(&mut self, b: usize, conn: u32, mut data: &[u8]) {
        while let Some(connection) = self.brokers[b].connections.get_mut(&conn) {
            let next = connection.framer.next(&mut data);
            let Some(packet) = next.unwrap_or_else(|why| panic!("a client broke MQTT: {why:?}")) else {
                return;
            };
            self.broker_packet(b, conn, packet);
        }
    }

    fn broker_packet(&mut self, b: usize, conn: u32, packet: Packet) {
        let (end, now) = (End::Broker(b, conn), self.now);
        let broker = &mut self.brokers[b];
        match packet {
            Packet::Connect(connect) => {
                assert!(connect.clean_session() && !connect.will_flag());
                broker.client_ids.push(connect.client_id().into());
                let password = connect.password().map(|p| String::from_utf8(p.to_vec()).unwrap());
                broker.logins.push((connect.user_name().map(Into::into), password));
                match broker.greeting.clone() {
                    Greeting::Connack(code) => {
                        let is_too_long = code == 0 && connect.keep_alive() > broker.most_silence;
                        let code = ConnectReturnCode::try_from(if is_too_long { 2 } else { code }).unwrap();
                        self.send(end, packet::connack(code, false));
                    }
                    Greeting::Bytes(bytes) => self.send(end, bytes),
                    Greeting::Silence => {}
                }
            }
            Packet::Publish(publish) => {
                let qos = publish.qos() as u8;
                assert!(qos <= 1, "QoS 2");
                let ends = broker.ends_at > 0;
                broker.ends_at = broker.ends_at.saturating_sub(1);
                if qos > broker.suback || ends {
                    broker.connections.remove(&conn);
                    return self.close(end, false);
                }
                let retain = publish.retain();
                if retain && broker.hates_retained {
                    broker.connections.remove(&conn);
                    return self.close(end, false);
                }
                let topic = publish.topic_name().to_owned();
                let payload = publish.payload().as_slice().to_vec();
                let message = Published { at: now, topic: topic.clone(), payload, retain };
                assert!(!retain || topic.starts_with("p2pd-name-"), "names are kept, and nothing else");
                if retain && broker.keeps {
                    broker.kept.insert(topic.clone(), message.payload.clone());
                }
                let copies = (broker.bend)(&message);
                broker.published.push(message);
                if let Some(id) = publish.packet_id().filter(|_| broker.answers) {
                    self.send(end, packet::puback(id));
                }
                for (after, payload) in copies {
                    let topic = topic.clone();
                    self.schedule(after, Happening::Delivery { broker: b, topic, payload });
                }
            }
            Packet::Puback(_) => {}
            Packet::Subscribe(subscribe) => {
                let [entry] = &subscribe.entries()[..] else { panic!("one topic at a time") };
                let topic = entry.topic_filter().to_owned();
                broker.subscribes.push((now, entry.sub_opts().qos() as u8));
                let granted = broker.subacks.pop_front().unwrap_or(broker.suback);
                if granted == NO_ANSWER {
                    return;
                }
                if granted < 128
                    && let Some(connection) = broker.connections.get_mut(&conn)
                {
                    connection.topics.push(topic.clone());
                }
                let kept = broker.kept.get(&topic).filter(|_| granted < 128).cloned();
                let codes = vec![SubackReturnCode::try_from(granted).unwrap()];
                self.send(end, packet::suback(subscribe.packet_id(), codes));
                if let Some(payload) = kept {
                    self.send(end, packet::publish(&topic, &payload, Some(0x7fff), false, true));
                }
            }
            Packet::Unsubscribe(unsubscribe) => {
                if let Some(connection) = broker.connections.get_mut(&conn) {
                    connection.topics.retain(|t| unsubscribe.entries().iter().all(|gone| gone.as_str() != t));
                }
                self.send(end, packet::unsuback(unsubscribe.packet_id()));
            }
            Packet::Pingreq => {
                broker.pings.push(now);
                if broker.answers {
                    self.send(end, packet::pingresp());
                }
            }
            Packet::Disconnect => {
                broker.farewells += 1;
                broker.connections.remove(&conn);
                self.close(end, false);
            }
        }
    }

    pub(super) fn deliver(&mut self, b: usize, topic: &str, payload: &[u8]) {
        let mut packets = Vec::new();
        for (conn, connection) in &mut self.brokers[b].connections {
            if connection.topics.iter().any(|t| t == topic) {
                connection.deliveries += 1;
                let packet = packet::publish(topic, payload, Some(connection.deliveries), false, false);
                packets.push((*conn, packet));
            }
        }
        for (conn, packet) in packets {
            self.send(End::Broker(b, conn), packet);
        }
    }
}
