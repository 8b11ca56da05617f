//! A host: its addresses, its sockets, and the TCP that a program on it can observe.
//!
//! Four behaviours were measured on Linux 6.18 and hold here. A RST or an ICMP error ends a dial at once. A SYN that
//! meets a dial makes both ends established (simultaneous open). A 4-tuple exists once. Beside a listener on its port a
//! dial takes exactly the segments of its own 4-tuple.

mod conn;
mod icmp;
mod ledger;
mod profile;
mod sockets;
mod words;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use crate::engine::{Digest, Domain, Keyed, Nanos};
use crate::nat::Order;
use crate::net::{Body, IcmpKind, Packet, Proto, Quote, Segment};
use conn::{Change, Conn, State};
pub(crate) use icmp::IcmpBudget;
pub use ledger::{Ledger, Sent};
pub use profile::Profile;
pub use sockets::Sock;
use sockets::{Kind, Owner, Socket};
pub use words::{Buffers, Close, Failure, Interface, Reuse};

/// The index of a host's first interface; 1 is loopback's.
const FIRST_INDEX: u32 = 2;

/// Event for a program on a host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HostEvent {
    /// A dial succeeded.
    Connected(Sock),
    /// A dial failed; the socket is gone.
    Failed(Sock, Failure),
    /// A listener has a new stream.
    Accepted {
        /// The listener.
        listener: Sock,
        /// The stream.
        sock: Sock,
    },
    /// Bytes are to be read on a stream, or its end.
    Readable(Sock),
    /// A stream's send buffer was full, and a third of it is free again.
    Writable(Sock),
    /// A stream broke. The socket is gone, unless bytes wait to be read: then it is left until it is closed.
    Broken(Sock, Failure),
    /// A datagram came.
    Datagram {
        /// The socket.
        sock: Sock,
        /// Address of the sender.
        from: SocketAddr,
        /// Local address to which the datagram came.
        local: SocketAddr,
        /// The payload.
        data: Bytes,
    },
    /// An ICMP error came about a datagram, and says that none gets there. Others, as of an unknown host, pass in silence.
    Bounced {
        /// The socket that sent it.
        sock: Sock,
        /// Address to which it went.
        to: SocketAddr,
        /// Error of the next call on Linux, if the socket is connected to that address.
        cause: Failure,
    },
}

/// Actions that a host wants done. The host's methods fill it, and the world empties it.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Each in its place for all its way, since it is large.
    #[allow(clippy::vec_box, reason = "they go on one by one, from network to network")]
    pub(crate) packets: Vec<Box<Packet>>,
    pub(crate) timers: Vec<(Nanos, Sock)>,
    pub(crate) events: VecDeque<HostEvent>,
    pub(crate) wakes: Vec<(Nanos, u64)>,
    /// Orders for the NAT that the host is the server of.
    pub(crate) orders: Vec<Order>,
}

/// A host.
#[derive(Debug)]
pub struct Host {
    id: u64,
    rng: Keyed,
    addresses: Vec<IpAddr>,
    /// The interface of each address: its index and its gateway.
    cards: BTreeMap<IpAddr, (u32, Option<IpAddr>)>,
    /// Interfaces that there were.
    indexes: u32,
    profile: Profile,
    buffers: Buffers,
    sockets: BTreeMap<Sock, Socket>,
    next: u32,
    /// Connections by their two ends.
    tuples: BTreeMap<(SocketAddr, SocketAddr), Sock>,
    /// Listeners by port.
    listeners: BTreeMap<u16, Vec<Sock>>,
    /// UDP sockets by port.
    udp: BTreeMap<u16, Vec<Sock>>,
    ephemeral: u64,
    icmp_budget: IcmpBudget,
    scratch: Vec<Segment>,
    pub(crate) out: Outbox,
    /// SYNs sent, first ones and repeats.
    syns: u64,
    /// Record of packets sent since `watch`; none before that call.
    pub(crate) ledger: Option<Box<Ledger>>,
}

impl Host {
    pub(crate) fn new(id: u64, rng: Keyed, profile: Profile) -> Host {
        Host {
            id,
            rng,
            addresses: Vec::new(),
            cards: BTreeMap::new(),
            indexes: FIRST_INDEX,
            profile,
            buffers: Buffers::default(),
            sockets: BTreeMap::new(),
            next: 0,
            tuples: BTreeMap::new(),
            listeners: BTreeMap::new(),
            udp: BTreeMap::new(),
            ephemeral: 0,
            icmp_budget: IcmpBudget::default(),
            scratch: Vec::new(),
            out: Outbox::default(),
            syns: 0,
            ledger: None,
        }
    }

    pub(crate) fn set_profile(&mut self, profile: Profile) {
        self.profile = profile;
    }

    pub(crate) fn add_address(&mut self, ip: IpAddr, gateway: Option<IpAddr>) {
        self.addresses.push(ip);
        self.cards.insert(ip, (self.indexes, gateway));
        self.indexes += 1;
    }

    pub(crate) fn set_gateway(&mut self, ip: IpAddr, gateway: Option<IpAddr>) {
        if let Some(card) = self.cards.get_mut(&ip) {
            card.1 = gateway;
        }
    }

    /// Removes an address. Sockets bound to it stay, and their packets go nowhere.
    pub(crate) fn remove_address(&mut self, ip: IpAddr) {
        self.addresses.retain(|a| *a != ip);
        self.cards.remove(&ip);
    }

    /// Returns the addresses as programs see them.
    pub fn interfaces(&self) -> Vec<Interface> {
        let of = |ip: &IpAddr| {
            let (index, gateway) = self.cards.get(ip).copied()?;
            let prefix = if ip.is_ipv4() { 24 } else { 64 };
            Some(Interface { index, ip: *ip, prefix, gateway })
        };
        self.addresses.iter().filter_map(of).collect()
    }

    /// Returns the host's number in the world.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns the host's addresses, the default one first.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Changes the buffers of the streams that begin from now on.
    pub fn set_buffers(&mut self, buffers: Buffers) {
        self.buffers = buffers;
    }

    /// SYNs it has sent, repeats included.
    pub fn syns_sent(&self) -> u64 {
        self.syns
    }

    /// Records the packets sent from now on.
    pub(crate) fn watch(&mut self) {
        self.ledger = Some(Box::default());
    }

    /// Returns the record of packets sent, if this host is watched.
    pub fn ledger(&self) -> Option<&Ledger> {
        self.ledger.as_deref()
    }

    /// The ports of its UDP sockets.
    pub fn udp_ports(&self) -> impl Iterator<Item = u16> {
        self.udp.iter().filter(|(_, socks)| !socks.is_empty()).map(|(port, _)| *port)
    }

    /// Returns the number of sockets, with those that only wait for TIME_WAIT to pass.
    pub fn sockets(&self) -> usize {
        self.sockets.len()
    }

    /// Sockets that still cost a peer or a program something: all but those in TIME_WAIT.
    pub fn live_sockets(&self) -> usize {
        let waits = |s: &&Socket| matches!(&s.kind, Kind::Conn { conn, .. } if conn.state == State::TimeWait);
        self.sockets.len() - self.sockets.values().filter(waits).count()
    }

    /// The initial sequence number of RFC 6528: a keyed hash of the 4-tuple, moved on every 64 ns as Linux
    /// does. NATs that track windows can tell from it which SYN a SYN-ACK belongs to.
    fn initial_sequence(&self, now: Nanos, local: SocketAddr, remote: SocketAddr) -> u32 {
        let mut key = Digest::default();
        for end in [local, remote] {
            match end.ip() {
                IpAddr::V4(ip) => key.bytes(&ip.octets()),
                IpAddr::V6(ip) => key.bytes(&ip.octets()),
            }
            key.word(u64::from(end.port()));
        }
        let hash = self.rng.draw(Domain::Sequence, self.id, key.value()) as u32;
        hash.wrapping_add((now / 64) as u32)
    }

    /// A packet for one of our addresses.
    pub(crate) fn arrive(&mut self, now: Nanos, packet: &Packet) {
        match packet.body {
            Body::Tcp(ref segment) => self.arrive_tcp(now, packet, segment),
            Body::Udp(ref data) => match self.udp_at(packet.dst) {
                Some(sock) => self.out.events.push_back(HostEvent::Datagram {
                    sock,
                    from: packet.src,
                    local: packet.dst,
                    data: data.clone(),
                }),
                None if self.icmp_budget.allows(now, packet.src.ip()) => {
                    self.out.packets.extend(packet.icmp(IcmpKind::Port, packet.dst.ip()));
                }
                None => {}
            },
            Body::Icmp(kind, quote) => self.arrive_icmp(kind, quote),
        }
    }

    /// Returns the UDP socket that has a local address.
    fn udp_at(&self, local: SocketAddr) -> Option<Sock> {
        let socks = self.udp.get(&local.port())?;
        socks.iter().copied().find(|s| self.sockets.get(s).is_some_and(|x| x.takes(local)))
    }

    fn arrive_tcp(&mut self, now: Nanos, packet: &Packet, segment: &Segment) {
        let ends = (packet.dst, packet.src);
        let fresh_syn = segment.flags.syn() && !segment.flags.ack();
        if let Some(&sock) = self.tuples.get(&ends) {
            let waits = matches!(&self.sockets[&sock].kind,
                Kind::Conn { conn, .. } if conn.state == State::TimeWait);
            if waits && fresh_syn {
                // RFC 9293 section 3.6.1: a new incarnation may take over.
                self.forget(sock);
            } else {
                let mut out = core::mem::take(&mut self.scratch);
                let Some(Socket { kind: Kind::Conn { conn, .. }, .. }) = self.sockets.get_mut(&sock) else {
                    return;
                };
                let change = conn.segment(now, segment, &mut out);
                let roomy = conn.roomy();
                self.emit(sock, out);
                self.changed(sock, change);
                if roomy {
                    self.out.events.push_back(HostEvent::Writable(sock));
                }
                return;
            }
        }
        let listener = self.listeners.get(&packet.dst.port()).and_then(|socks| {
            socks.iter().copied().find(|s| self.sockets.get(s).is_some_and(|x| x.takes(packet.dst)))
        });
        match listener {
            Some(listener) if fresh_syn => self.answer(now, listener, ends, segment),
            _ => self.out.packets.extend(packet.refusal()),
        }
    }

    fn answer(&mut self, now: Nanos, listener: Sock, ends: (SocketAddr, SocketAddr), syn: &Segment) {
        let Some(Socket { kind: Kind::Listener { backlog, waiting }, .. }) = self.sockets.get_mut(&listener)
        else {
            return;
        };
        // A full queue drops SYNs, as Linux does without SYN cookies.
        if *waiting >= usize::from(*backlog) {
            return;
        }
        *waiting += 1;
        let iss = self.initial_sequence(now, ends.0, ends.1);
        let mut out = core::mem::take(&mut self.scratch);
        let conn = Conn::answer(iss, syn, now, self.buffers, &mut out);
        let sock = self.add(Socket::conn(ends.0, ends.1, conn, Some(listener)));
        self.tuples.insert(ends, sock);
        self.emit(sock, out);
    }

    fn arrive_icmp(&mut self, kind: IcmpKind, quote: Quote) {
        if quote.proto == Proto::Udp {
            let cause = match kind {
                IcmpKind::Port => Failure::Refused,
                IcmpKind::Admin => Failure::Unreachable,
                IcmpKind::Host | IcmpKind::TimeExceeded => return,
            };
            if let Some(sock) = self.udp_at(quote.src) {
                self.out.events.push_back(HostEvent::Bounced { sock, to: quote.dst, cause });
            }
            return;
        }
        let Some(&sock) = self.tuples.get(&(quote.src, quote.dst)) else { return };
        let Some(Socket { kind: Kind::Conn { conn, parent, .. }, .. }) = self.sockets.get(&sock) else {
            return;
        };
        // Linux: fatal to a dial that is under way, a passing trouble for everything else.
        let dialling = parent.is_none() && matches!(conn.state, State::SynSent | State::SynReceived);
        if dialling && conn.has_out(quote.seq) {
            let cause = match kind {
                IcmpKind::Port => Failure::Refused,
                _ => Failure::Unreachable,
            };
            self.changed(sock, Change::Failed(cause));
        }
    }

    /// A timer that a socket had asked for.
    pub(crate) fn timer(&mut self, now: Nanos, sock: Sock) {
        let Some(Socket { kind: Kind::Conn { conn, armed, .. }, .. }) = self.sockets.get_mut(&sock) else {
            return;
        };
        *armed = None;
        if conn.due().is_none_or(|due| due > now) {
            self.arm(sock);
            return;
        }
        let mut out = core::mem::take(&mut self.scratch);
        let change = conn.timer(now, &self.profile, &mut out);
        self.emit(sock, out);
        self.changed(sock, change);
    }

    /// Sends a connection's segments and arms its timer.
    fn emit(&mut self, sock: Sock, mut segments: Vec<Segment>) {
        if let Some(Socket { local, ttl, kind: Kind::Conn { remote, .. }, .. }) = self.sockets.get(&sock) {
            let (src, dst, ttl) = (*local, *remote, *ttl);
            for segment in segments.drain(..) {
                self.syns += u64::from(segment.flags.syn() && !segment.flags.ack());
                // Both are of this instant, and the second says what the first does: delayed acknowledgement without
                // a delay (RFC 9293 section 3.8.6.3).
                if self
                    .out
                    .packets
                    .last()
                    .is_some_and(|p| (p.src, p.dst) == (src, dst) && segment.takes_along(p))
                {
                    self.out.packets.pop();
                }
                self.out.packets.push(Box::new(Packet { src, dst, ttl, body: Body::Tcp(segment) }));
            }
        }
        segments.clear();
        self.scratch = segments;
        self.arm(sock);
    }

    fn arm(&mut self, sock: Sock) {
        let Some(Socket { kind: Kind::Conn { conn, armed, .. }, .. }) = self.sockets.get_mut(&sock) else {
            return;
        };
        // One timer at a time, at or before the due time: a later due time is found out when it fires.
        if let Some(due) = conn.due()
            && armed.is_none_or(|at| at > due)
        {
            *armed = Some(due);
            self.out.timers.push((due, sock));
        }
    }

    fn changed(&mut self, sock: Sock, change: Change) {
        let Some(Socket { kind: Kind::Conn { parent, owner, conn, .. }, .. }) = self.sockets.get_mut(&sock)
        else {
            return;
        };
        let (parent_of, was) = (*parent, *owner);
        match change {
            Change::Nothing => {}
            Change::Established => match parent_of {
                Some(listener) => {
                    *owner = Owner::Program;
                    let unread = conn.unread() > 0 || conn.at_end();
                    self.out.events.push_back(HostEvent::Accepted { listener, sock });
                    if unread {
                        self.out.events.push_back(HostEvent::Readable(sock));
                    }
                    self.leave_queue(listener);
                }
                None if was == Owner::Nobody => {}
                None => {
                    let unread = conn.unread() > 0 || conn.at_end();
                    self.out.events.push_back(HostEvent::Connected(sock));
                    if unread {
                        self.out.events.push_back(HostEvent::Readable(sock));
                    }
                }
            },
            Change::Readable if was == Owner::Program => self.out.events.push_back(HostEvent::Readable(sock)),
            Change::Readable => {}
            Change::Failed(cause) => {
                let dialling =
                    parent_of.is_none() && matches!(conn.state, State::SynSent | State::SynReceived);
                let left = conn.fail() > 0;
                if was == Owner::Program {
                    self.out.events.push_back(if dialling {
                        HostEvent::Failed(sock, cause)
                    } else {
                        HostEvent::Broken(sock, cause)
                    });
                } else if let (Owner::Listener, Some(listener)) = (was, parent_of) {
                    self.leave_queue(listener);
                }
                if left && was == Owner::Program {
                    self.release(sock);
                } else {
                    self.forget(sock);
                }
            }
            // The program's descriptor stays until it closes it; the 4-tuple is free.
            Change::Gone if was == Owner::Program => self.release(sock),
            Change::Gone => self.forget(sock),
        }
    }

    /// Counts a stream that the program has not taken yet against its listener's backlog. Streams count as taken otherwise.
    pub fn queued(&mut self, listener: Sock) {
        if let Some(Socket { kind: Kind::Listener { waiting, .. }, .. }) = self.sockets.get_mut(&listener) {
            *waiting += 1;
        }
    }

    /// Counts one of these as taken.
    pub fn leave_queue(&mut self, listener: Sock) {
        if let Some(Socket { kind: Kind::Listener { waiting, .. }, .. }) = self.sockets.get_mut(&listener) {
            *waiting = waiting.saturating_sub(1);
        }
    }
}
