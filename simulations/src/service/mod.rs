//! Servers that peers need, as machines behind one small trait, and the program that runs one on a host.
//!
//! A server gets packets and streams and gives packets and streams; it has no sockets, so that another
//! implementation can take its place.

mod mqtt;
mod rendezvous;
pub mod router;
mod stun;
mod turn;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;

pub use mqtt::{Broker, BrokerFaults};
pub use rendezvous::{RealBroker, RealStun};
pub use stun::{LIE, StunFaults, StunServer};
pub use turn::{Forgets, RealTurn, TurnFaults};

use crate::engine::{Keyed, Nanos};
use crate::host::{Close, HostEvent, Reuse, Sock};
use crate::nat::Order;
use crate::world::{App, Cx};

/// A stream at a server.
pub type ConnId = u32;

/// Event for a server.
#[derive(Debug)]
pub enum Input<'a> {
    /// A datagram came.
    Datagram {
        /// Address of the server to which the datagram came.
        local: SocketAddr,
        /// Address of the sender.
        from: SocketAddr,
        /// The payload.
        data: &'a [u8],
    },
    /// A stream was opened.
    Opened {
        /// Id of the stream.
        conn: ConnId,
        /// Address of the server at which the stream was opened.
        local: SocketAddr,
        /// The other end.
        remote: SocketAddr,
    },
    /// Bytes came on a stream.
    Stream {
        /// The stream.
        conn: ConnId,
        /// The bytes.
        data: &'a [u8],
    },
    /// A stream ended.
    Closed {
        /// The stream.
        conn: ConnId,
    },
    /// The time that [`Service::timeout`] gave has come.
    Timeout,
}

/// Action of a server.
#[derive(Debug)]
pub enum Output {
    /// Sends a datagram.
    Datagram {
        /// Address of the server to send from.
        local: SocketAddr,
        /// Address to send to.
        to: SocketAddr,
        /// The payload.
        data: Bytes,
    },
    /// Binds another UDP port, on all its addresses.
    OpenUdp(u16),
    /// Closes a UDP port.
    CloseUdp(u16),
    /// Writes to a stream.
    Stream {
        /// The stream.
        conn: ConnId,
        /// The bytes.
        data: Bytes,
    },
    /// Closes a stream.
    Close {
        /// The stream.
        conn: ConnId,
        /// Way of closing: gracefully or by RST.
        how: Close,
    },
    /// Has the NAT that it stands on do something.
    Nat(Order),
}

/// Clock, randomness and outputs of a server.
#[derive(Debug)]
pub struct ServiceCx {
    /// The time.
    pub now: Nanos,
    /// Randomness, for faults.
    pub rng: Keyed,
    outputs: Vec<(Nanos, Output)>,
}

impl ServiceCx {
    /// Does something, after this long.
    pub fn put(&mut self, after: Nanos, output: Output) {
        self.outputs.push((self.now + after, output));
    }
}

/// Traffic of a server, both ways.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Packets of the server's protocol.
    pub packets: u64,
    /// Bytes of these packets.
    pub bytes: u64,
}

impl Traffic {
    fn add(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }

    /// Returns what was carried after `then`.
    pub fn since(self, then: Traffic) -> Traffic {
        Traffic { packets: self.packets - then.packets, bytes: self.bytes - then.bytes }
    }
}

/// A server.
pub trait Service: core::fmt::Debug {
    /// UDP ports it is bound to, on all its addresses.
    fn udp_ports(&self) -> &[u16];
    /// TCP ports it listens on, on all its addresses.
    fn tcp_ports(&self) -> &[u16];
    /// Handles an input.
    fn handle(&mut self, cx: &mut ServiceCx, input: Input<'_>);
    /// Ends the server's faults.
    fn heal(&mut self);
    /// Returns the number of things that the server holds for clients and they have to give back.
    fn held(&self) -> usize {
        0
    }
    /// Returns what the server carried, if it counts.
    fn traffic(&self) -> Traffic {
        Traffic::default()
    }
    /// Returns the time at which the server wants [`Input::Timeout`].
    fn timeout(&self) -> Option<Nanos> {
        None
    }
}

const TIMEOUT: u64 = 1 << 40;

/// The program that runs a server.
#[derive(Debug)]
pub struct ServerProgram {
    service: Box<dyn Service>,
    /// True if it listens at port 443 too, which narrow networks let out.
    at_443: bool,
    udp: BTreeMap<u16, Sock>,
    conns: BTreeMap<ConnId, Sock>,
    by_sock: BTreeMap<Sock, ConnId>,
    next: ConnId,
    later: BTreeMap<u64, Output>,
    laters: u64,
    /// Time of the next wake for the service's timeout.
    armed: Option<Nanos>,
}

impl ServerProgram {
    /// Runs this server.
    pub fn new(service: Box<dyn Service>) -> ServerProgram {
        ServerProgram {
            service,
            at_443: false,
            udp: BTreeMap::new(),
            conns: BTreeMap::new(),
            by_sock: BTreeMap::new(),
            next: 0,
            later: BTreeMap::new(),
            laters: 0,
            armed: None,
        }
    }

    /// Has the server listen at TCP port 443 too, as it does at its own ports.
    pub fn also_at_443(mut self, also: bool) -> ServerProgram {
        self.at_443 = also;
        self
    }

    /// Returns the number of things that the server holds for clients and they have to give back.
    pub fn held(&self) -> usize {
        self.service.held()
    }

    /// Returns what the server carried, if it counts.
    pub fn traffic(&self) -> Traffic {
        self.service.traffic()
    }

    /// Ends the server's faults.
    pub fn heal(&mut self) {
        self.service.heal();
    }

    fn tell(&mut self, cx: &mut Cx<'_>, input: Input<'_>) {
        let mut service_cx = ServiceCx { now: cx.now, rng: cx.rng, outputs: Vec::new() };
        self.service.handle(&mut service_cx, input);
        for (at, output) in service_cx.outputs {
            if at <= cx.now {
                self.act(cx, output);
            } else {
                self.laters += 1;
                self.later.insert(self.laters, output);
                cx.wake_at(at, self.laters);
            }
        }
        self.arm(cx);
    }

    /// Sees to a wake at the service's timeout, unless an earlier one is to come.
    fn arm(&mut self, cx: &mut Cx<'_>) {
        if let Some(at) = self.service.timeout().filter(|at| self.armed.is_none_or(|armed| *at < armed)) {
            self.armed = Some(at);
            cx.wake_at(at, TIMEOUT);
        }
    }

    fn act(&mut self, cx: &mut Cx<'_>, output: Output) {
        match output {
            Output::Nat(order) => cx.order(order),
            Output::Datagram { local, to, data } => {
                if let Some(sock) = self.udp.get(&local.port()) {
                    cx.host.send_to(*sock, Some(local.ip()), to, data);
                }
            }
            Output::OpenUdp(port) => {
                // Free on a host of its own.
                if let Ok(sock) = cx.host.bind_udp(([0, 0, 0, 0], port).into(), Reuse::No) {
                    self.udp.insert(port, sock);
                }
            }
            Output::CloseUdp(port) => {
                if let Some(sock) = self.udp.remove(&port) {
                    cx.host.close(cx.now, sock, Close::Drop);
                }
            }
            Output::Stream { conn, data } => {
                if let Some(sock) = self.conns.get(&conn) {
                    cx.host.send(cx.now, *sock, &data);
                }
            }
            Output::Close { conn, how } => {
                if let Some(sock) = self.conns.remove(&conn) {
                    self.by_sock.remove(&sock);
                    cx.host.close(cx.now, sock, how);
                }
            }
        }
    }
}

impl App for ServerProgram {
    fn event(&mut self, cx: &mut Cx<'_>, event: HostEvent) {
        match event {
            HostEvent::Datagram { from, local, data, .. } => {
                self.tell(cx, Input::Datagram { local, from, data: &data });
            }
            HostEvent::Accepted { sock, .. } => {
                let (Some(local), Some(remote)) = (cx.host.local(sock), cx.host.remote(sock)) else { return };
                let conn = self.next;
                self.next += 1;
                self.conns.insert(conn, sock);
                self.by_sock.insert(sock, conn);
                self.tell(cx, Input::Opened { conn, local, remote });
            }
            HostEvent::Readable(sock) => {
                let Some(&conn) = self.by_sock.get(&sock) else { return };
                let data = cx.host.read(sock, usize::MAX);
                if !data.is_empty() {
                    self.tell(cx, Input::Stream { conn, data: &data });
                }
                if cx.host.at_end(sock) && self.conns.remove(&conn).is_some() {
                    self.by_sock.remove(&sock);
                    self.tell(cx, Input::Closed { conn });
                    cx.host.close(cx.now, sock, Close::Graceful);
                }
            }
            HostEvent::Broken(sock, _) => {
                if let Some(conn) = self.by_sock.remove(&sock) {
                    self.conns.remove(&conn);
                    self.tell(cx, Input::Closed { conn });
                }
                cx.host.close(cx.now, sock, Close::Drop);
            }
            HostEvent::Connected(_)
            | HostEvent::Failed(..)
            | HostEvent::Writable(_)
            | HostEvent::Bounced { .. } => {}
        }
    }

    fn wake(&mut self, cx: &mut Cx<'_>, token: u64) {
        match token {
            0 => {
                let six = cx.host.addresses().first().is_some_and(IpAddr::is_ipv6);
                let any: IpAddr =
                    if six { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
                for port in self.service.udp_ports() {
                    if let Ok(sock) = cx.host.bind_udp((any, *port).into(), Reuse::No) {
                        self.udp.insert(*port, sock);
                    }
                }
                for port in self.service.tcp_ports().iter().chain(self.at_443.then_some(&443)) {
                    // Free on a host of its own.
                    let _ = cx.host.listen((any, *port).into(), 1024, Reuse::No);
                }
                self.arm(cx);
            }
            TIMEOUT => {
                self.armed = self.armed.filter(|at| *at > cx.now);
                // The timeout may have moved since, as where a fault was healed.
                if self.service.timeout().is_some_and(|at| at <= cx.now) {
                    self.tell(cx, Input::Timeout);
                } else {
                    self.arm(cx);
                }
            }
            n => {
                if let Some(output) = self.later.remove(&n) {
                    self.act(cx, output);
                }
            }
        }
    }
}
