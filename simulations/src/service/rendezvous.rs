//! The servers of `p2pd-rendezvous` as services, with faults put around them: the same machines as `p2pd serve` runs,
//! told of simulated sockets.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::host::Close;
use p2pd_rendezvous::stun::{self, Sites, Stream};
use p2pd_rendezvous::{ConnId as Conn, mqtt};

use super::stun::PORTS;
use super::{BrokerFaults, ConnId, Input, Output, Service, ServiceCx, StunFaults};
use crate::domain;
use crate::engine::{MILLI, Nanos};

pub(super) fn time(now: Nanos) -> Duration {
    Duration::from_nanos(now)
}

/// The STUN server at two addresses. Of the faults, lying ones are not in it: they would have to be in the server.
#[derive(Debug)]
pub struct RealStun {
    server: stun::Server,
    faults: StunFaults,
    streams: BTreeMap<ConnId, Stream>,
    answers: u64,
}

impl RealStun {
    /// The server at these two addresses, on ports 3478 and 3479.
    pub fn new(ips: [IpAddr; 2], faults: StunFaults) -> RealStun {
        let server = stun::Server::new(Sites::Two { ips, ports: PORTS }, stun::Limits::default());
        RealStun { server, faults, streams: BTreeMap::new(), answers: 0 }
    }

    /// Returns the delay of the next answer; `None` if it is lost.
    fn fate(&mut self, cx: &ServiceCx) -> Option<Nanos> {
        self.answers += 1;
        let late = cx.rng.below(domain::SERVICE, 5, self.answers, self.faults.late / MILLI + 1) * MILLI;
        (!cx.rng.chance(domain::SERVICE, 1, self.answers, self.faults.silent_ppm)).then_some(late)
    }
}

impl Service for RealStun {
    fn udp_ports(&self) -> &[u16] {
        &PORTS
    }

    fn tcp_ports(&self) -> &[u16] {
        &PORTS
    }

    fn heal(&mut self) {
        self.faults = StunFaults::default();
    }

    fn timeout(&self) -> Option<Nanos> {
        self.streams.values().map(|s| s.deadline().as_nanos() as Nanos).min()
    }

    fn handle(&mut self, cx: &mut ServiceCx, input: Input<'_>) {
        let now = time(cx.now);
        match input {
            Input::Datagram { local, from, data } => {
                let reply = self.server.datagram(now, local, from, data);
                if let Some(reply) = reply
                    && let Some(late) = self.fate(cx)
                {
                    cx.put(late, Output::Datagram { local: reply.from, to: reply.to, data: reply.data });
                }
            }
            Input::Opened { conn, local, remote } => {
                self.streams.insert(conn, Stream::new(now, local, remote));
            }
            Input::Stream { conn, data } => {
                let Some(stream) = self.streams.get_mut(&conn) else { return };
                let answers = stream.receive(&mut self.server, now, data);
                for data in answers.data {
                    if let Some(late) = self.fate(cx) {
                        cx.put(late, Output::Stream { conn, data });
                    }
                }
                if answers.close {
                    self.streams.remove(&conn);
                    cx.put(0, Output::Close { conn, how: Close::Graceful });
                }
            }
            Input::Closed { conn } => {
                self.streams.remove(&conn);
            }
            Input::Timeout => {
                let silent: Vec<ConnId> =
                    self.streams.iter().filter(|(_, s)| s.deadline() <= now).map(|(conn, _)| *conn).collect();
                for conn in silent {
                    self.streams.remove(&conn);
                    cx.put(0, Output::Close { conn, how: Close::Graceful });
                }
            }
        }
    }
}

/// The MQTT broker. Its output is lost, doubled or late by the packet, acknowledgements and all, since nobody looks
/// into it here.
#[derive(Debug)]
pub struct RealBroker {
    broker: mqtt::Broker,
    faults: BrokerFaults,
    open: BTreeSet<ConnId>,
    packets: u64,
    died: bool,
}

impl RealBroker {
    /// A broker with these faults.
    pub fn new(faults: BrokerFaults) -> RealBroker {
        let broker = mqtt::Broker::new(mqtt::Limits::default());
        RealBroker { broker, faults, open: BTreeSet::new(), packets: 0, died: false }
    }

    fn is_dead(&self, now: Nanos) -> bool {
        (self.faults.dead.from..self.faults.dead.until).contains(&now)
    }

    fn carry_out(&mut self, cx: &mut ServiceCx) {
        while let Some(output) = self.broker.poll_output() {
            match output {
                mqtt::Output::Send(Conn(conn), data) => {
                    let conn = conn as ConnId;
                    // The simulated stream takes everything at once.
                    self.broker.sent(Conn(u64::from(conn)), data.len());
                    // Only publications (type 3): without CONNACK and its like a session would not even begin.
                    let publication = data.first().is_some_and(|first| first >> 4 == 3);
                    self.packets += u64::from(publication);
                    let n = self.packets;
                    let chance = |kind, ppm| publication && cx.rng.chance(domain::SERVICE, kind, n, ppm);
                    if chance(11, self.faults.lose_ppm) {
                        continue;
                    }
                    for copy in 0..1 + u64::from(chance(12, self.faults.duplicate_ppm)) {
                        let late = match publication {
                            true => cx.rng.below(domain::SERVICE, 13, 2 * n + copy, self.faults.late + 1),
                            false => 0,
                        };
                        cx.put(late, Output::Stream { conn, data: data.clone() });
                    }
                }
                mqtt::Output::Close(Conn(conn)) | mqtt::Output::Drop(Conn(conn)) => {
                    let conn = conn as ConnId;
                    self.open.remove(&conn);
                    cx.put(0, Output::Close { conn, how: Close::Graceful });
                }
            }
        }
    }
}

impl Service for RealBroker {
    fn udp_ports(&self) -> &[u16] {
        &[]
    }

    fn tcp_ports(&self) -> &[u16] {
        &[1883]
    }

    fn heal(&mut self) {
        self.faults = BrokerFaults::default();
    }

    fn timeout(&self) -> Option<Nanos> {
        let own = self.broker.poll_timeout().map(|at| at.as_nanos() as Nanos);
        let dead = self.faults.dead;
        let death = (!self.died && dead.until > dead.from).then_some(dead.from);
        own.into_iter().chain(death).min()
    }

    fn handle(&mut self, cx: &mut ServiceCx, input: Input<'_>) {
        let now = time(cx.now);
        self.died |= cx.now >= self.faults.dead.from;
        match input {
            Input::Opened { conn, .. } if self.is_dead(cx.now) => {
                cx.put(0, Output::Close { conn, how: Close::Reset });
            }
            Input::Opened { conn, remote, .. } => {
                if self.broker.accept(now, Conn(u64::from(conn)), remote.ip()) {
                    self.open.insert(conn);
                } else {
                    cx.put(0, Output::Close { conn, how: Close::Graceful });
                }
            }
            Input::Stream { conn, data } => self.broker.receive(now, Conn(u64::from(conn)), data),
            Input::Closed { conn } => {
                self.open.remove(&conn);
                self.broker.closed(now, Conn(u64::from(conn)));
            }
            Input::Timeout => {
                if self.is_dead(cx.now) {
                    for conn in core::mem::take(&mut self.open) {
                        self.broker.closed(now, Conn(u64::from(conn)));
                        cx.put(0, Output::Close { conn, how: Close::Graceful });
                    }
                }
                self.broker.handle_timeout(now);
            }
            Input::Datagram { .. } => {}
        }
        self.carry_out(cx);
    }
}
