//! An MQTT 3.1.1 broker with clean sessions, QoS 0 and 1 and exact topics, and with the faults of real brokers. It has
//! the codec of our broker and not the core's; unlike that one it may lose, double and delay.

use std::collections::BTreeMap;

use crate::host::Close;
use bytes::Bytes;
use p2pd_rendezvous::mqtt::packet::{self, ConnectReturnCode, FrameError, Framer, Packet, SubackReturnCode};

use super::{ConnId, Input, Output, Service, ServiceCx, Traffic};
use crate::domain;
use crate::engine::{Nanos, SECOND};
use crate::net::Blackout;

/// A client that sends a longer packet is disconnected.
const MOST: usize = 64 * 1024;

/// Faults of a broker.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BrokerFaults {
    /// Messages acknowledged and not delivered, in a million.
    pub lose_ppm: u32,
    /// Messages delivered twice, in a million.
    pub duplicate_ppm: u32,
    /// Every message is later by up to this, which also changes their order.
    pub late: Nanos,
    /// Time in which the broker is dead: connections break, and new ones are closed at once.
    pub dead: Blackout,
}

#[derive(Debug)]
struct Client {
    framer: Framer,
    /// Bytes of the packet that is not yet whole.
    held: usize,
    id: Option<String>,
    /// Subscribed to, and whether at QoS 1.
    topics: BTreeMap<String, bool>,
    next_packet: u16,
    heard: Nanos,
    keep_alive: Nanos,
}

/// A broker on port 1883.
#[derive(Debug)]
pub struct Broker {
    faults: BrokerFaults,
    clients: BTreeMap<ConnId, Client>,
    messages: u64,
    carried: Traffic,
    /// The time of its death is over or has begun.
    died: bool,
}

impl Broker {
    /// A broker with these faults.
    pub fn new(faults: BrokerFaults) -> Broker {
        Broker { faults, clients: BTreeMap::new(), messages: 0, carried: Traffic::default(), died: false }
    }

    fn end(&mut self, cx: &mut ServiceCx, conn: ConnId) {
        self.clients.remove(&conn);
        cx.put(0, Output::Close { conn, how: Close::Graceful });
    }

    fn is_dead(&self, now: Nanos) -> bool {
        (self.faults.dead.from..self.faults.dead.until).contains(&now)
    }

    /// Handles one packet; returns `None` where the client broke the protocol.
    fn packet(&mut self, cx: &mut ServiceCx, conn: ConnId, packet: Packet) -> Option<()> {
        let client = self.clients.get_mut(&conn)?;
        client.heard = cx.now;
        match (packet, client.id.is_some()) {
            (Packet::Connect(connect), false) => {
                client.keep_alive = u64::from(connect.keep_alive()) * SECOND * 3 / 2;
                client.id = Some(connect.client_id().into());
                self.say(cx, conn, packet::connack(ConnectReturnCode::Accepted, false));
                // A second session of the same client takes over ([MQTT-3.1.4-2]).
                let same = |c: &Client| c.id.as_deref() == Some(connect.client_id());
                let old = self.clients.iter().find(|(n, c)| **n != conn && same(c)).map(|(n, _)| *n);
                if let Some(old) = old {
                    self.end(cx, old);
                }
            }
            (Packet::Publish(message), true) => {
                let qos = message.qos() as u8;
                match message.packet_id() {
                    Some(id) if qos == 1 => self.say(cx, conn, packet::puback(id)),
                    Some(_) => return None,
                    None => {}
                }
                self.deliver(cx, message.topic_name(), message.payload().as_slice(), qos == 1);
            }
            (Packet::Puback(_), true) => {}
            (Packet::Subscribe(subscribe), true) => {
                let mut codes = Vec::new();
                for entry in subscribe.entries() {
                    let at_least_once = entry.sub_opts().qos() as u8 > 0;
                    client.topics.insert(entry.topic_filter().into(), at_least_once);
                    codes.push(match at_least_once {
                        true => SubackReturnCode::SuccessMaximumQos1,
                        false => SubackReturnCode::SuccessMaximumQos0,
                    });
                }
                self.say(cx, conn, packet::suback(subscribe.packet_id(), codes));
            }
            (Packet::Pingreq, true) => self.say(cx, conn, packet::pingresp()),
            _ => return None,
        }
        Some(())
    }

    fn say(&mut self, cx: &mut ServiceCx, conn: ConnId, packet: Vec<u8>) {
        self.carried.add(packet.len());
        cx.put(0, Output::Stream { conn, data: packet.into() });
    }

    fn deliver(&mut self, cx: &mut ServiceCx, topic: &str, payload: &[u8], at_least_once: bool) {
        let (faults, rng) = (self.faults, cx.rng);
        for (conn, client) in &mut self.clients {
            let Some(granted) = client.topics.get(topic) else { continue };
            self.messages += 1;
            let n = self.messages;
            if rng.chance(domain::SERVICE, 11, n, faults.lose_ppm) {
                continue;
            }
            let copies = 1 + u64::from(rng.chance(domain::SERVICE, 12, n, faults.duplicate_ppm));
            let id = (at_least_once && *granted).then(|| {
                client.next_packet = client.next_packet.checked_add(1).unwrap_or(1);
                client.next_packet
            });
            let data = Bytes::from(packet::publish(topic, payload, id, false, false));
            for copy in 0..copies {
                self.carried.add(data.len());
                let late = match faults.late {
                    0 => 0,
                    most => rng.below(domain::SERVICE, 13, 2 * n + copy, most + 1),
                };
                cx.put(late, Output::Stream { conn: *conn, data: data.clone() });
            }
        }
    }
}

impl Service for Broker {
    fn udp_ports(&self) -> &[u16] {
        &[]
    }

    fn tcp_ports(&self) -> &[u16] {
        &[1883]
    }

    fn traffic(&self) -> Traffic {
        self.carried
    }

    fn timeout(&self) -> Option<Nanos> {
        let silent = |c: &Client| (c.keep_alive > 0).then_some(c.heard + c.keep_alive);
        let silence = self.clients.values().filter_map(silent).min();
        let death =
            (!self.died && self.faults.dead.until > self.faults.dead.from).then_some(self.faults.dead.from);
        silence.into_iter().chain(death).min()
    }

    fn heal(&mut self) {
        self.faults = BrokerFaults::default();
    }

    fn handle(&mut self, cx: &mut ServiceCx, input: Input<'_>) {
        self.died |= cx.now >= self.faults.dead.from;
        match input {
            Input::Opened { conn, .. } if self.is_dead(cx.now) => {
                cx.put(0, Output::Close { conn, how: Close::Reset });
            }
            Input::Opened { conn, .. } => {
                let client = Client {
                    framer: Framer::new(MOST),
                    held: 0,
                    id: None,
                    topics: BTreeMap::new(),
                    next_packet: 0,
                    heard: cx.now,
                    keep_alive: 0,
                };
                self.clients.insert(conn, client);
            }
            Input::Stream { conn, mut data } => {
                // The broker may end the connection with any packet.
                while let Some(client) = self.clients.get_mut(&conn) {
                    let before = data.len();
                    let next = client.framer.next(&mut data);
                    client.held += before - data.len();
                    match next {
                        Ok(None) => return,
                        Ok(Some(packet)) => {
                            self.carried.add(core::mem::take(&mut client.held));
                            if self.packet(cx, conn, packet).is_none() {
                                self.end(cx, conn);
                            }
                        }
                        Err(why) => {
                            if client.id.is_none()
                                && matches!(why, FrameError::Version | FrameError::Version5)
                            {
                                let refusal = ConnectReturnCode::UnacceptableProtocolVersion;
                                self.say(cx, conn, packet::connack(refusal, false));
                            }
                            self.end(cx, conn);
                        }
                    }
                }
            }
            Input::Closed { conn } => {
                self.clients.remove(&conn);
            }
            Input::Timeout => {
                let (now, dead) = (cx.now, self.is_dead(cx.now));
                let silent = |c: &Client| c.keep_alive > 0 && c.heard + c.keep_alive <= now;
                let gone: Vec<ConnId> =
                    self.clients.iter().filter(|(_, c)| dead || silent(c)).map(|(n, _)| *n).collect();
                gone.into_iter().for_each(|conn| self.end(cx, conn));
            }
            Input::Datagram { .. } => {}
        }
    }
}
