//! Wire between the hosts: SYNs, bytes by credit, ends of streams.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use p2pd_core::io::Interface;
use p2pd_core::{Input, Instant, IoFailure, SockId};

use super::hand::Hand;
use super::nat64::{Names, embed};
use super::{End, Half, Happening, LATENCY, Port, Target, World, stun};

impl World {
    pub(super) fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Bound { n, sock, local } => self.tell(n, Input::Bound { sock, local }),
            Happening::Accepting { n, listener } => self.accept_waiting(n, listener),
            Happening::Resolved { n, query, host } => {
                let named = |h: &str| h == &*host;
                let brokers = self.brokers.iter().filter(|b| named(&b.config.host)).map(|b| b.at.ip());
                let stuns = self.stuns.iter().filter(|s| named(&s.config.host)).map(|s| s.at.ip());
                let turns = self.turn_named(&host);
                let silent = self.silent.get(&*host).into_iter().flatten().copied();
                let proxies = self.proxies.iter().filter(|p| named(&p.config.host)).map(|p| p.at.ip());
                let ntps = self.ntps.iter().filter(|s| named(&s.config.host)).map(|s| s.at.ip());
                let proxies = proxies.chain(ntps);
                let one = brokers.chain(stuns).chain(turns).chain(proxies).next();
                let prefix = self.hosts[n].nat64.is_some_and(|names| names != Names::NoPrefix);
                if prefix && &*host == "ipv4only.arpa" {
                    let all = [170, 171].map(|last| embed([192, 0, 0, last].into()));
                    return self.tell(n, Input::Resolved { query, result: Ok(all.into()) });
                }
                let result = one.map(|ip| silent.chain([ip]).collect());
                self.tell(n, Input::Resolved { query, result: result.ok_or(IoFailure::NoSuchName) });
            }
            Happening::Syn { n, sock, remote, deadline } => self.syn(n, sock, remote, deadline),
            Happening::Arrived { n, sock, local, remote } => self.syn_arrived(n, sock, local, remote),
            Happening::Connected { n, sock, local, remote } => {
                if self.dialling.remove(&(n, sock)) {
                    self.tell(n, Input::Connected { sock, local, remote });
                }
            }
            Happening::Failed { n, sock, cause } => {
                if self.dialling.remove(&(n, sock)) {
                    self.tell(n, Input::Failed { sock, cause });
                }
            }
            Happening::Bytes(end, data) => {
                if let Some(half) = self.streams.get_mut(&end) {
                    half.arrived.extend(data);
                    self.read(end);
                }
            }
            Happening::Fin(end) => {
                if let Some(half) = self.streams.get_mut(&end) {
                    half.fin = true;
                    self.read(end);
                }
            }
            Happening::Reset(end) => {
                if self.streams.remove(&end).is_some() {
                    match end {
                        End::Node(n, sock) if !self.is_pipe(end) => {
                            self.tell(n, Input::Failed { sock, cause: IoFailure::Reset });
                        }
                        end => self.server_end_closed(end),
                    }
                }
            }
            Happening::AtNat { from, to, data } => self.at_nat(from, to, data),
            Happening::Datagram { n, sock, from, data } => {
                if self.hosts[n].bound.contains_key(&sock) {
                    self.tell(n, Input::Datagram { sock, from, data: &data });
                }
            }
            Happening::AtTurn { from, to, data } => self.at_turn(from, to, data),
            Happening::Delivery { broker, topic, payload } => self.deliver(broker, &topic, &payload),
        }
    }

    fn syn(&mut self, n: usize, sock: SockId, remote: SocketAddr, deadline: Instant) {
        if !self.dialling.contains(&(n, sock)) {
            return;
        }
        let host = &mut self.hosts[n];
        host.next_port += 1;
        let local = SocketAddr::new(host.outside, host.next_port);
        if host.inside.is_unspecified() {
            let cause = IoFailure::Unreachable;
            return self.schedule(Duration::ZERO, Happening::Failed { n, sock, cause });
        }
        match self.target(remote) {
            Target::Refused => {
                let cause = IoFailure::Refused;
                self.schedule(2 * LATENCY, Happening::Failed { n, sock, cause });
            }
            Target::Nothing => {
                let cause = IoFailure::TimedOut;
                self.schedule(deadline.since(self.now), Happening::Failed { n, sock, cause });
            }
            _ => self.schedule(LATENCY, Happening::Arrived { n, sock, local, remote }),
        }
    }

    fn syn_arrived(&mut self, n: usize, sock: SockId, local: SocketAddr, remote: SocketAddr) {
        let id = self.accepted;
        self.accepted += 1;
        let theirs = match self.target(remote) {
            Target::Node(m, _) => End::Node(m, SockId::accepted(id)),
            Target::Broker(b) => End::Broker(b, id as u32),
            Target::Stun(s) => End::Stun(s, id as u32),
            Target::Proxy(p) => return self.through_proxy(n, sock, local, p),
            Target::Script(script) => {
                self.hands.push(Hand::new(script));
                End::Hand(self.hands.len() - 1)
            }
            Target::Refused | Target::Nothing => {
                let cause = IoFailure::Refused;
                return self.schedule(LATENCY, Happening::Failed { n, sock, cause });
            }
        };
        self.join(End::Node(n, sock), theirs);
        let ours = SocketAddr::new(self.hosts[n].inside, local.port());
        self.schedule(LATENCY, Happening::Connected { n, sock, local: ours, remote });
        self.accept(theirs, local, remote);
        if !self.dialling.contains(&(n, sock)) {
            // Given up while the SYN was under way.
            self.close(End::Node(n, sock), false);
        }
    }

    /// Tells the end that accepted a stream.
    pub(super) fn accept(&mut self, end: End, from: SocketAddr, local: SocketAddr) {
        match end {
            End::Node(m, sock) => {
                let Some((_, listener)) = self.listeners.get(&local).copied() else { return };
                self.door.entry((m, listener)).or_default().1.push_back((sock, local, from));
                self.accept_waiting(m, listener);
            }
            End::Broker(b, conn) => self.brokers[b].accepted(conn, self.now),
            End::Stun(..) | End::Hand(_) => {}
        }
    }

    /// Gives a node the callers that wait in a listener's queue, as far as its credit goes.
    fn accept_waiting(&mut self, n: usize, listener: SockId) {
        while let Some((credit @ 1.., queue)) = self.door.get_mut(&(n, listener))
            && let Some((sock, local, remote)) = queue.pop_front()
        {
            *credit -= 1;
            self.tell(n, Input::Accepted { listener, sock, local, remote });
        }
    }

    pub(super) fn join(&mut self, a: End, b: End) {
        let half = |to| Half { to, arrived: VecDeque::new(), credit: 0, fin: false };
        self.streams.insert(a, half(b));
        self.streams.insert(b, half(a));
    }

    /// Returns the addresses on which a node listens.
    pub fn listening(&self, n: usize) -> Vec<SocketAddr> {
        self.listeners.iter().filter(|(_, (m, _))| *m == n).map(|(at, _)| *at).collect()
    }

    /// Moves a host to another network; without interfaces it has none. All packets from and to its old address are
    /// lost from now on.
    pub fn roam(&mut self, n: usize, interfaces: &[Interface], outside: IpAddr) {
        let inside = interfaces.first().map_or(Ipv4Addr::UNSPECIFIED.into(), |i| i.ip);
        let host = &mut self.hosts[n];
        (host.inside, host.outside) = (inside, outside);
        host.bound.clear();
        self.dialling.retain(|(m, _)| *m != n);
        let of_host = |end: &End| matches!(end, End::Node(m, _) if *m == n);
        self.streams.retain(|end, half| !of_host(end) && !of_host(&half.to));
        let listeners = std::mem::take(&mut self.listeners);
        let moved = |(at, of): (SocketAddr, (usize, SockId))| {
            (if of.0 == n { SocketAddr::new(inside, at.port()) } else { at }, of)
        };
        self.listeners = listeners.into_iter().map(moved).collect();
        self.tell(n, Input::Interfaces(interfaces));
    }

    fn target(&self, at: SocketAddr) -> Target {
        match self.ports.get(&at) {
            Some(Port::Refused) => return Target::Refused,
            Some(Port::Blackholed) => return Target::Nothing,
            None => {}
        }
        if let Some(script) = self.scripts.get(&at) {
            return Target::Script(script.clone());
        }
        if let Some((n, listener)) = self.listeners.get(&at) {
            if self.hosts[*n].guarded && !self.pinholes.contains(&at) {
                return Target::Nothing;
            }
            return Target::Node(*n, *listener);
        }
        if let Some(p) = self.proxies.iter().position(|p| p.at == at) {
            return Target::Proxy(p);
        }
        if let Some(b) = self.brokers.iter().position(|b| b.at == at) {
            return if self.brokers[b].up { Target::Broker(b) } else { Target::Refused };
        }
        if let Some(s) = self.stuns.iter().position(|s| s.at == at && s.tcp != stun::Tcp::Shut) {
            return Target::Stun(s);
        }
        let nat = self.hosts.iter().any(|h| h.outside == at.ip() && h.inside != h.outside);
        let inside = self.hosts.iter().any(|h| h.inside == at.ip());
        if nat || !inside { Target::Nothing } else { Target::Refused }
    }

    /// Sends on a stream; into one that has gone, nowhere.
    pub fn send(&mut self, from: End, data: Vec<u8>) {
        if let Some(half) = self.streams.get(&from) {
            let to = half.to;
            self.schedule(LATENCY, Happening::Bytes(to, data));
        }
    }

    pub fn close(&mut self, end: End, reset: bool) {
        if let Some(half) = self.streams.remove(&end) {
            let other = half.to;
            self.schedule(LATENCY, if reset { Happening::Reset(other) } else { Happening::Fin(other) });
        }
    }

    /// Gives an end what has arrived, a node only what its credit allows.
    fn read(&mut self, end: End) {
        let is_pipe = self.is_pipe(end);
        let dialling = matches!(end, End::Node(n, sock) if self.dialling.contains(&(n, sock)));
        let frozen = matches!(end, End::Node(n, _) if self.hosts[n].frozen);
        if is_pipe || dialling || frozen {
            return;
        }
        while let Some(half) = self.streams.get_mut(&end) {
            let most = if matches!(end, End::Node(..)) { half.credit.min(self.chunk) } else { usize::MAX };
            let data: Vec<u8> = half.arrived.drain(..half.arrived.len().min(most)).collect();
            if data.is_empty() {
                if half.fin && half.arrived.is_empty() && most > 0 {
                    half.fin = false;
                    match end {
                        End::Node(n, sock) => self.tell(n, Input::Eof { sock }),
                        end => {
                            self.streams.remove(&end);
                            self.server_end_closed(end);
                        }
                    }
                }
                return;
            }
            match end {
                End::Node(n, sock) => {
                    half.credit -= data.len();
                    self.tell(n, Input::Stream { sock, data: &data });
                }
                End::Broker(b, conn) => self.broker_received(b, conn, &data),
                End::Stun(s, conn) => self.stun_received(s, conn, &data),
                End::Hand(h) => self.hand_received(h, &data),
            }
        }
    }

    fn server_end_closed(&mut self, end: End) {
        match end {
            End::Broker(b, conn) => self.brokers[b].closed(conn),
            End::Hand(h) => self.hands[h].closed = true,
            End::Stun(..) | End::Node(..) => {}
        }
    }
}
