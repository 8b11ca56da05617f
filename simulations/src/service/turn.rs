//! The TURN server of `p2pd-rendezvous` as a service, with faults put around it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::host::Close;
use p2pd_rendezvous::ConnId as Conn;
use p2pd_rendezvous::turn::{Config, Output as Said, RelayId, Server};

use super::rendezvous::time;
use super::{ConnId, Input, Output, Service, ServiceCx};
use crate::domain;
use crate::engine::Nanos;
use crate::net::Blackout;

/// Port of the server for clients, over UDP and TCP.
const PORT: u16 = 3478;
/// Ports that peers come to. They are so few that a new allocation gets one which an old one had, with the datagrams
/// still under way to it.
const RELAYING: core::ops::Range<u16> = 49_152..49_160;

/// A server that forgets its allocations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Forgets {
    /// Time of the loss.
    pub at: Nanos,
    /// The server was restarted: streams to it end too.
    pub restart: bool,
}

/// Faults of a TURN server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TurnFaults {
    /// Datagrams of the server that are lost, in a million, to clients and from relayed addresses.
    pub lose_ppm: u32,
    /// Datagrams of the server that are sent twice, in a million.
    pub duplicate_ppm: u32,
    /// Most delay of a datagram, so that they overtake each other.
    pub late: Nanos,
    /// The server refuses all allocations.
    pub full: bool,
    /// Time in which the server receives nothing.
    pub dead: Blackout,
    /// Time at which the server forgets all allocations.
    pub forgets: Option<Forgets>,
}

/// The server at one address.
#[derive(Debug)]
pub struct RealTurn {
    ip: IpAddr,
    config: Config,
    server: Server,
    faults: TurnFaults,
    relays: BTreeMap<u16, RelayId>,
    /// The next port tried.
    next: u16,
    conns: BTreeMap<ConnId, (SocketAddr, SocketAddr)>,
    sent: u64,
}

impl RealTurn {
    /// A server with these faults; its relayed addresses are `ip`'s.
    pub fn new(ip: IpAddr, config: Config, faults: TurnFaults) -> RealTurn {
        RealTurn {
            ip,
            server: Server::new(config.clone()),
            config,
            faults,
            relays: BTreeMap::new(),
            next: RELAYING.start,
            conns: BTreeMap::new(),
            sent: 0,
        }
    }

    fn is_dead(&self, now: Nanos) -> bool {
        (self.faults.dead.from..self.faults.dead.until).contains(&now)
    }

    /// A port that nobody relays with.
    fn port(&mut self) -> Option<u16> {
        let all = usize::from(RELAYING.end - RELAYING.start);
        (0..all).find_map(|_| {
            let port = self.next;
            self.next = if port + 1 < RELAYING.end { port + 1 } else { RELAYING.start };
            (!self.relays.contains_key(&port)).then_some(port)
        })
    }

    fn forget(&mut self, cx: &mut ServiceCx, restart: bool) {
        let now = time(cx.now);
        self.server = Server::new(self.config.clone());
        for (port, _) in core::mem::take(&mut self.relays) {
            cx.put(0, Output::CloseUdp(port));
        }
        for (conn, (local, remote)) in core::mem::take(&mut self.conns) {
            if restart {
                cx.put(0, Output::Close { conn, how: Close::Reset });
            } else {
                self.conns.insert(conn, (local, remote));
                self.server.accept(now, Conn(u64::from(conn)), local, remote);
            }
        }
    }

    fn send(&mut self, cx: &mut ServiceCx, local: SocketAddr, to: SocketAddr, data: bytes::Bytes) {
        self.sent += 1;
        let n = self.sent;
        let chance = |kind, ppm| cx.rng.chance(domain::SERVICE, kind, n, ppm);
        if chance(21, self.faults.lose_ppm) {
            return;
        }
        for copy in 0..1 + u64::from(chance(22, self.faults.duplicate_ppm)) {
            let late = cx.rng.below(domain::SERVICE, 23, 2 * n + copy, self.faults.late + 1);
            cx.put(late, Output::Datagram { local, to, data: data.clone() });
        }
    }

    fn carry_out(&mut self, cx: &mut ServiceCx) {
        while let Some(said) = self.server.poll_output() {
            match said {
                Said::Datagram { from, to, data } => self.send(cx, from, to, data),
                Said::Relay { relay, to, data } => {
                    let port = self.relays.iter().find(|(_, id)| **id == relay).map(|(port, _)| *port);
                    if let Some(port) = port {
                        self.send(cx, SocketAddr::new(self.ip, port), to, data);
                    }
                }
                Said::Send(Conn(conn), data) => cx.put(0, Output::Stream { conn: conn as ConnId, data }),
                Said::Close(Conn(conn)) => {
                    let conn = conn as ConnId;
                    self.conns.remove(&conn);
                    cx.put(0, Output::Close { conn, how: Close::Graceful });
                }
                Said::Open(relay, _) => {
                    let port = if self.faults.full { None } else { self.port() };
                    if let Some(port) = port {
                        self.relays.insert(port, relay);
                        cx.put(0, Output::OpenUdp(port));
                    }
                    self.server.opened(time(cx.now), relay, port);
                }
                Said::CloseRelay(relay) => {
                    let port = self.relays.iter().find(|(_, id)| **id == relay).map(|(port, _)| *port);
                    if let Some(port) = port {
                        self.relays.remove(&port);
                        cx.put(0, Output::CloseUdp(port));
                    }
                }
            }
        }
    }
}

impl Service for RealTurn {
    fn udp_ports(&self) -> &[u16] {
        &[PORT]
    }

    fn tcp_ports(&self) -> &[u16] {
        &[PORT]
    }

    fn heal(&mut self) {
        self.faults = TurnFaults::default();
    }

    fn held(&self) -> usize {
        self.server.allocations().max(self.relays.len())
    }

    fn timeout(&self) -> Option<Nanos> {
        let own = self.server.poll_timeout().map(|at| at.as_nanos() as Nanos);
        own.into_iter().chain(self.faults.forgets.map(|f| f.at)).min()
    }

    fn handle(&mut self, cx: &mut ServiceCx, input: Input<'_>) {
        let now = time(cx.now);
        let conn_of = |conn: ConnId| Conn(u64::from(conn));
        if let Some(forgets) = self.faults.forgets.filter(|f| f.at <= cx.now) {
            self.faults.forgets = None;
            self.forget(cx, forgets.restart);
        }
        match input {
            Input::Datagram { .. } if self.is_dead(cx.now) => {}
            Input::Datagram { local, from, data } if local.port() == PORT => {
                self.server.datagram(now, local, from, data);
            }
            Input::Datagram { local, from, data } => {
                if let Some(relay) = self.relays.get(&local.port()) {
                    self.server.relayed(now, *relay, from, data);
                }
            }
            Input::Opened { conn, local, remote } => {
                self.conns.insert(conn, (local, remote));
                self.server.accept(now, conn_of(conn), local, remote);
            }
            Input::Stream { conn, data } => self.server.receive(now, conn_of(conn), data),
            Input::Closed { conn } => {
                self.conns.remove(&conn);
                self.server.closed(conn_of(conn));
            }
            Input::Timeout => self.server.handle_timeout(now),
        }
        self.carry_out(cx);
    }
}
