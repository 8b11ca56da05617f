//! An MQTT 3.1.1 broker on raw bytes, and every way in which it can go wrong.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use p2pd_core::Instant;

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
    /// It ends the session of whoever publishes, so many times.
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

#[derive(Default)]
struct Connection {
    held: Vec<u8>,
    topics: Vec<String>,
    deliveries: u16,
}

impl Broker {
    pub(super) fn accepted(&mut self, conn: u32, now: Instant) {
        self.connects.push(now);
        self.connections.insert(conn, Connection::default());
    }

    pub(super) fn closed(&mut self, conn: u32) {
        self.connections.remove(&conn);
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

    pub(super) fn broker_received(&mut self, b: usize, conn: u32, data: &[u8]) {
        let Some(connection) = self.brokers[b].connections.get_mut(&conn) else { return };
        connection.held.extend_from_slice(data);
        while let Some(connection) = self.brokers[b].connections.get_mut(&conn) {
            let Some((first, body)) = take_packet(&mut connection.held) else { return };
            self.broker_packet(b, conn, first, &body);
        }
    }

    fn broker_packet(&mut self, b: usize, conn: u32, first: u8, body: &[u8]) {
        let (end, now) = (End::Broker(b, conn), self.now);
        let broker = &mut self.brokers[b];
        match first >> 4 {
            1 => {
                assert_eq!(body[..7], [0, 4, b'M', b'Q', b'T', b'T', 4], "3.1.1");
                assert_eq!(body[7] & !0xc0, 2, "a clean session, and no will");
                let (id, mut rest) = string(&body[10..]);
                broker.client_ids.push(id);
                let mut field = |flag: u8| {
                    (body[7] & flag != 0).then(|| {
                        let (text, after) = string(rest);
                        rest = after;
                        text
                    })
                };
                broker.logins.push((field(0x80), field(0x40)));
                match broker.greeting.clone() {
                    Greeting::Connack(0) if u16::from_be_bytes([body[8], body[9]]) > broker.most_silence => {
                        self.send(end, vec![0x20, 2, 0, 2]);
                    }
                    Greeting::Connack(code) => self.send(end, vec![0x20, 2, 0, code]),
                    Greeting::Bytes(bytes) => self.send(end, bytes),
                    Greeting::Silence => {}
                }
            }
            3 => {
                let qos = first >> 1 & 3;
                assert!(qos <= 1, "QoS 2");
                let ends = broker.ends_at > 0;
                broker.ends_at = broker.ends_at.saturating_sub(1);
                if qos > broker.suback || ends {
                    broker.connections.remove(&conn);
                    return self.close(end, false);
                }
                let retain = first & 1 != 0;
                if retain && broker.hates_retained {
                    broker.connections.remove(&conn);
                    return self.close(end, false);
                }
                let (topic, rest) = string(body);
                let (id, payload) = rest.split_at(if qos == 0 { 0 } else { 2 });
                let message = Published { at: now, topic: topic.clone(), payload: payload.to_vec(), retain };
                assert!(!retain || topic.starts_with("p2pd-name-"), "names are kept, and nothing else");
                if retain && broker.keeps {
                    broker.kept.insert(topic.clone(), message.payload.clone());
                }
                let copies = (broker.bend)(&message);
                broker.published.push(message);
                if broker.answers && qos == 1 {
                    self.send(end, vec![0x40, 2, id[0], id[1]]);
                }
                for (after, payload) in copies {
                    let topic = topic.clone();
                    self.schedule(after, Happening::Delivery { broker: b, topic, payload });
                }
            }
            4 => {}
            8 => {
                let (topic, _) = string(&body[2..]);
                broker.subscribes.push((now, body[body.len() - 1]));
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
                self.send(end, vec![0x90, 3, body[0], body[1], granted]);
                if let Some(payload) = kept {
                    let mut packet = publish_packet(&topic, 0x7fff, &payload);
                    packet[0] |= 1;
                    self.send(end, packet);
                }
            }
            10 => {
                let (topic, _) = string(&body[2..]);
                if let Some(connection) = broker.connections.get_mut(&conn) {
                    connection.topics.retain(|t| *t != topic);
                }
                self.send(end, vec![0xb0, 2, body[0], body[1]]);
            }
            12 => {
                broker.pings.push(now);
                if broker.answers {
                    self.send(end, vec![0xd0, 0]);
                }
            }
            14 => {
                broker.farewells += 1;
                broker.connections.remove(&conn);
                self.close(end, false);
            }
            kind => panic!("a client sent packet type {kind}"),
        }
    }

    pub(super) fn deliver(&mut self, b: usize, topic: &str, payload: &[u8]) {
        let mut packets = Vec::new();
        for (conn, connection) in &mut self.brokers[b].connections {
            if connection.topics.iter().any(|t| t == topic) {
                connection.deliveries += 1;
                packets.push((*conn, publish_packet(topic, connection.deliveries, payload)));
            }
        }
        for (conn, packet) in packets {
            self.send(End::Broker(b, conn), packet);
        }
    }
}

/// PUBLISH at QoS 1.
pub fn publish_packet(topic: &str, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut body = (topic.len() as u16).to_be_bytes().to_vec();
    body.extend_from_slice(topic.as_bytes());
    body.extend_from_slice(&id.to_be_bytes());
    body.extend_from_slice(payload);
    let mut packet = vec![0x32];
    let mut length = body.len();
    loop {
        let more = length > 127;
        packet.push((length & 0x7f) as u8 | if more { 0x80 } else { 0 });
        length >>= 7;
        if !more {
            break;
        }
    }
    packet.extend_from_slice(&body);
    packet
}

/// The first byte and the body of the next whole packet.
fn take_packet(held: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let (mut length, mut header) = (0, 1);
    loop {
        let byte = *held.get(header)?;
        length |= usize::from(byte & 0x7f) << (7 * (header - 1));
        header += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    if held.len() < header + length {
        return None;
    }
    let packet: Vec<u8> = held.drain(..header + length).collect();
    Some((packet[0], packet[header..].to_vec()))
}

fn string(bytes: &[u8]) -> (String, &[u8]) {
    let length = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    (String::from_utf8(bytes[2..2 + length].to_vec()).unwrap(), &bytes[2 + length..])
}
