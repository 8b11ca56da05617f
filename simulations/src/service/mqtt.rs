//! An MQTT 3.1.1 broker with clean sessions, QoS 0 and 1 and exact topics, and with the faults of real brokers. Written
//! from the standard's layouts and not with the core's codec.

use std::collections::BTreeMap;

use bytes::Bytes;
use p2pd_core::CloseHow;

use super::{ConnId, Input, Output, Service, ServiceCx, Traffic};
use crate::engine::{Domain, Nanos, SECOND};
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

#[derive(Debug, Default)]
struct Client {
    held: Vec<u8>,
    id: Option<String>,
    topics: BTreeMap<String, u8>,
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
        cx.put(0, Output::Close { conn, how: CloseHow::Graceful });
    }

    fn is_dead(&self, now: Nanos) -> bool {
        (self.faults.dead.from..self.faults.dead.until).contains(&now)
    }

    /// Handles one whole packet; returns `None` where the client broke the protocol.
    fn packet(&mut self, cx: &mut ServiceCx, conn: ConnId, first: u8, body: &[u8]) -> Option<()> {
        let client = self.clients.get_mut(&conn)?;
        client.heard = cx.now;
        let carried = &mut self.carried;
        let mut say = |cx: &mut ServiceCx, bytes: &[u8]| {
            carried.add(bytes.len());
            cx.put(0, Output::Stream { conn, data: Bytes::copy_from_slice(bytes) });
        };
        match (first >> 4, client.id.is_some()) {
            (1, false) => {
                let (name, rest) = string(body)?;
                let [level, _flags, k0, k1, rest @ ..] = rest else { return None };
                if name != "MQTT" || *level != 4 {
                    say(cx, &[0x20, 2, 0, 1]);
                    return None;
                }
                let (id, _) = string(rest)?;
                client.keep_alive = u64::from(u16::from_be_bytes([*k0, *k1])) * SECOND * 3 / 2;
                client.id = Some(id.into());
                say(cx, &[0x20, 2, 0, 0]);
                // A second session of the same client takes over ([MQTT-3.1.4-2]).
                let same = |c: &Client| c.id.as_deref() == Some(id);
                let old = self.clients.iter().find(|(n, c)| **n != conn && same(c)).map(|(n, _)| *n);
                if let Some(old) = old {
                    self.end(cx, old);
                }
            }
            (3, true) => {
                let qos = (first >> 1) & 3;
                let (topic, mut payload) = string(body)?;
                if qos == 1 {
                    let (packet, rest) = payload.split_first_chunk::<2>()?;
                    say(cx, &[0x40, 2, packet[0], packet[1]]);
                    payload = rest;
                } else if qos > 1 {
                    return None;
                }
                self.deliver(cx, topic, payload, qos);
            }
            (4, true) => {}
            (8, true) => {
                let (packet, mut rest) = body.split_first_chunk::<2>()?;
                let mut answer = vec![0x90, 0, packet[0], packet[1]];
                while !rest.is_empty() {
                    let (topic, after) = string(rest)?;
                    let (qos, after) = after.split_first()?;
                    client.topics.insert(topic.into(), (*qos).min(1));
                    answer.push((*qos).min(1));
                    rest = after;
                }
                answer[1] = (answer.len() - 2) as u8;
                say(cx, &answer);
            }
            (12, true) => say(cx, &[0xd0, 0]),
            _ => return None,
        }
        Some(())
    }

    fn deliver(&mut self, cx: &mut ServiceCx, topic: &str, payload: &[u8], qos: u8) {
        let (faults, rng) = (self.faults, cx.rng);
        for (conn, client) in &mut self.clients {
            let Some(granted) = client.topics.get(topic) else { continue };
            self.messages += 1;
            let n = self.messages;
            if rng.chance(Domain::Service, 11, n, faults.lose_ppm) {
                continue;
            }
            let copies = 1 + u64::from(rng.chance(Domain::Service, 12, n, faults.duplicate_ppm));
            let qos = qos.min(*granted);
            let mut body = (topic.len() as u16).to_be_bytes().to_vec();
            body.extend_from_slice(topic.as_bytes());
            if qos > 0 {
                client.next_packet = client.next_packet.checked_add(1).unwrap_or(1);
                body.extend_from_slice(&client.next_packet.to_be_bytes());
            }
            body.extend_from_slice(payload);
            let mut packet = vec![0x30 | qos << 1];
            let mut length = body.len();
            loop {
                let byte = (length % 128) as u8;
                length /= 128;
                packet.push(if length > 0 { byte | 128 } else { byte });
                if length == 0 {
                    break;
                }
            }
            packet.extend_from_slice(&body);
            let data = Bytes::from(packet);
            for copy in 0..copies {
                self.carried.add(data.len());
                let late = match faults.late {
                    0 => 0,
                    most => rng.below(Domain::Service, 13, 2 * n + copy, most + 1),
                };
                cx.put(late, Output::Stream { conn: *conn, data: data.clone() });
            }
        }
    }
}

/// Splits a length-prefixed string off, and returns it with the rest.
fn string(data: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = data.split_first_chunk::<2>()?;
    let (text, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    Some((core::str::from_utf8(text).ok()?, rest))
}

/// The length of the packet at the front: of its header, and of its body. `Err` if there cannot be one.
fn frame(held: &[u8]) -> Result<Option<(usize, usize)>, ()> {
    let (mut body, mut shift) = (0usize, 0);
    for (n, byte) in held.iter().skip(1).enumerate() {
        body |= usize::from(byte & 127) << shift;
        if byte & 128 == 0 {
            return if body > MOST {
                Err(())
            } else {
                Ok((held.len() >= n + 2 + body).then_some((n + 2, body)))
            };
        }
        shift += 7;
        if shift > 21 {
            return Err(());
        }
    }
    Ok(None)
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
                cx.put(0, Output::Close { conn, how: CloseHow::Reset });
            }
            Input::Opened { conn, .. } => {
                self.clients.insert(conn, Client { heard: cx.now, ..Client::default() });
            }
            Input::Stream { conn, data } => {
                let Some(client) = self.clients.get_mut(&conn) else { return };
                client.held.extend_from_slice(data);
                let mut held = core::mem::take(&mut client.held);
                loop {
                    match frame(&held) {
                        Ok(None) => break,
                        Ok(Some((header, body))) => {
                            let packet: Vec<u8> = held.drain(..header + body).collect();
                            self.carried.add(packet.len());
                            if self.packet(cx, conn, packet[0], &packet[header..]).is_none() {
                                return self.end(cx, conn);
                            }
                        }
                        Err(()) => return self.end(cx, conn),
                    }
                }
                if let Some(client) = self.clients.get_mut(&conn) {
                    client.held = held;
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
