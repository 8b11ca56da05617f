//! The NAT at work: packets in from either side, verdicts out.

use core::ops::ControlFlow::{self, Break, Continue};
use std::net::{IpAddr, SocketAddr};

use super::forwards::{Forwards, Order};
use super::ports::Ports;
use super::table::{Entry, Mapping, MappingKey, Session, Table, key_of};
use super::track::{Step, Track};
use super::{Dependence, Hairpin, NatSpec, OnRst, Reason, Side, Tracking, Unique, Unsolicited, Verdict};
use crate::engine::{Domain, Keyed, MILLI, Nanos, SECOND};
use crate::host::IcmpBudget;
use crate::net::{Body, Bottleneck, IcmpKind, Packet, Proto};

/// Waiting time of an unsolicited SYN before its answer (RFC 5382 REQ-4).
const DELAYED: Nanos = 6 * SECOND;
/// The table is swept after so many new sessions.
const SWEEP_EVERY: u32 = 4096;

/// Burst that a policer of UDP lets through, as time at its rate.
const BURST: Nanos = 100 * MILLI;
/// Bytes of the headers of UDP and IPv4.
const UDP_HEADERS: usize = 28;

/// A NAT or a firewall with its state, alone: packets go in, and verdicts come out. It has no clock, no queue and no
/// network, so it fits into any simulator. A [`World`](crate::world::World) has the same ones.
///
/// The caller says the time, which does not go back, and takes one off the time to live before or after.
///
/// ```
/// use p2pd_netsim::engine::{Keyed, SECOND};
/// use p2pd_netsim::nat::{Nat, NatSpec, Reason, Side, Verdict};
/// use p2pd_netsim::net::{Body, Packet};
///
/// let mut nat = Nat::new(0, Keyed::new(7), NatSpec::LINUX, vec![[203, 0, 113, 1].into()]);
/// let packet = |src: &str, dst: &str| {
///     let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
///     Packet { src, dst, ttl: 64, body: Body::Udp((&b"hello"[..]).into()) }
/// };
/// let now = 5 * SECOND;
///
/// // Out, with the NAT's address and the port kept; and back in.
/// let verdict = nat.translate(now, Side::Inside, packet("192.168.1.2:5000", "198.51.100.9:53"));
/// let Verdict::Translated(Side::Outside, out) = verdict else { panic!("{verdict:?}") };
/// assert_eq!(out.src, "203.0.113.1:5000".parse().unwrap());
/// let (side, back) = nat.translate(now, Side::Outside, packet("198.51.100.9:53", "203.0.113.1:5000")).out().unwrap();
/// assert_eq!((side, back.dst), (Side::Inside, "192.168.1.2:5000".parse().unwrap()));
///
/// // A stranger, and the same server after its session has expired: 120 s on Linux.
/// for (later, from) in [(0, "198.51.100.8:53"), (121, "198.51.100.9:53")] {
///     let verdict = nat.translate(now + later * SECOND, Side::Outside, packet(from, "203.0.113.1:5000"));
///     assert_eq!(verdict, Verdict::Dropped(Reason::Unsolicited));
/// }
/// ```
#[derive(Debug)]
pub struct Nat {
    pub(crate) spec: NatSpec,
    external: Vec<IpAddr>,
    id: u64,
    rng: Keyed,
    ports: Ports,
    table: Table,
    created: u32,
    dmz: Option<IpAddr>,
    /// Ports that hosts inside had opened.
    forwards: Forwards,
    icmp_budget: IcmpBudget,
    /// Policers of UDP on its way out and in, where there are any.
    policers: [Bottleneck; 2],
}

impl Nat {
    /// A NAT without sessions, with these external addresses; a firewall needs none. NATs of one `rng` draw their ports
    /// apart if their `id`s differ.
    pub fn new(id: u64, rng: Keyed, spec: NatSpec, external: Vec<IpAddr>) -> Nat {
        let ports = Ports::new(id, rng);
        Nat {
            spec,
            external,
            id,
            rng,
            ports,
            table: Table::default(),
            created: 0,
            dmz: None,
            forwards: Forwards::default(),
            icmp_budget: IcmpBudget::default(),
            policers: [Bottleneck::policer(u64::from(spec.udp_rate), BURST); 2],
        }
    }

    /// Judges a packet that comes in on side `from` at time `now`, and keeps what it says about sessions and mappings.
    pub fn translate(&mut self, now: Nanos, from: Side, packet: impl Into<Box<Packet>>) -> Verdict {
        let packet = packet.into();
        if let Some(why) = self.blocks(now, &packet, from) {
            return Verdict::Dropped(why);
        }
        match from {
            Side::Inside => self.leave(now, packet),
            Side::Outside => self.enter(now, packet),
        }
    }

    /// Judges a packet of [`Verdict::Later`] whose time has come.
    pub fn again(&mut self, now: Nanos, packet: &Packet) -> Verdict {
        let dialled = packet
            .proto()
            .is_some_and(|proto| self.table.outside(now, (proto, packet.dst, packet.src)).is_some());
        match packet.icmp(IcmpKind::Port, packet.dst.ip()) {
            Some(answer) if !dialled => Verdict::Answered(Side::Outside, answer),
            _ => Verdict::Dropped(Reason::Forgotten),
        }
    }

    /// Returns the NAT's properties.
    pub fn spec(&self) -> &NatSpec {
        &self.spec
    }

    /// Returns the table's entries at this time: mappings that serve several sessions, then sessions.
    pub fn entries(&self, now: Nanos) -> Vec<Entry> {
        self.table.entries(now)
    }

    /// Tells a NAT with `dmz` that a host was put inside. The first one gets what no mapping claims.
    pub fn host_added(&mut self, ip: IpAddr) {
        if self.spec.dmz {
            self.dmz.get_or_insert(ip);
        }
    }

    /// Returns true if the device's tables agree with each other.
    pub(crate) fn consistent(&self) -> bool {
        self.table.consistent()
    }

    /// Forgets everything, as a power cut does.
    pub fn reboot(&mut self) {
        self.table = Table::default();
        self.forwards = Forwards::default();
        self.ports = Ports::new(self.id ^ u64::from(self.created) << 32, self.rng);
    }

    /// Carries out an order of the router's server for port mappings.
    pub fn carry_out(&mut self, order: Order) {
        let Some(&ip) = self.external.first() else { return };
        match order {
            Order::Open { proto, external, inside, until } => {
                self.forwards.open((proto, SocketAddr::new(ip, external)), inside, until);
            }
            Order::Close { proto, external } => self.forwards.close((proto, SocketAddr::new(ip, external))),
            Order::Reboot => self.reboot(),
        }
    }

    fn leave(&mut self, now: Nanos, packet: Box<Packet>) -> Verdict {
        if self.spec.narrow && !(packet.proto() == Some(Proto::Tcp) && matches!(packet.dst.port(), 80 | 443))
        {
            return Verdict::Dropped(Reason::Narrow);
        }
        if self.spec.translate && self.external.contains(&packet.dst.ip()) {
            return self.hairpin(now, packet);
        }
        match self.outward(now, packet) {
            Continue(packet) => Verdict::Translated(Side::Outside, packet),
            Break(verdict) => verdict,
        }
    }

    fn hairpin(&mut self, now: Nanos, packet: Box<Packet>) -> Verdict {
        let refuse = |packet: &Packet| match packet.proto() {
            Some(Proto::Tcp) => packet.refusal(),
            _ => packet.icmp(IcmpKind::Port, packet.dst.ip()),
        };
        match self.spec.hairpin {
            Hairpin::Dropped => Verdict::Dropped(Reason::Hairpin),
            Hairpin::Refused => match refuse(&packet) {
                Some(answer) => Verdict::Answered(Side::Inside, answer),
                None => Verdict::Dropped(Reason::Hairpin),
            },
            Hairpin::External => match self.outward(now, packet) {
                Continue(packet) => match self.blocks(now, &packet, Side::Outside) {
                    Some(why) => Verdict::Dropped(why),
                    None => match self.enter(now, packet) {
                        Verdict::Translated(_, packet) => Verdict::Hairpinned(packet),
                        other => other,
                    },
                },
                Break(verdict) => verdict,
            },
            Hairpin::Internal => match self.inward(now, packet) {
                Continue(packet) => Verdict::Hairpinned(packet),
                Break(_) => Verdict::Dropped(Reason::Hairpin),
            },
        }
    }

    /// Returns the reason why a packet from this side is dropped for what it carries, if it is.
    fn blocks(&mut self, now: Nanos, packet: &Packet, from: Side) -> Option<Reason> {
        let Body::Udp(data) = &packet.body else { return None };
        if !self.spec.udp_passes {
            return Some(Reason::UdpBlocked);
        }
        let policer = &mut self.policers[usize::from(from == Side::Outside)];
        let passes = self.spec.udp_rate == 0 || policer.pass(now, data.len() + UDP_HEADERS).is_some();
        (!passes).then_some(Reason::UdpPoliced)
    }

    fn enter(&mut self, now: Nanos, packet: Box<Packet>) -> Verdict {
        match self.inward(now, packet) {
            Continue(packet) => Verdict::Translated(Side::Inside, packet),
            Break(Inward::Drop(why)) => Verdict::Dropped(why),
            Break(Inward::Unsolicited(packet, known)) => self.unsolicited(now, packet, known),
        }
    }

    fn unsolicited(&mut self, now: Nanos, packet: Box<Packet>, known: bool) -> Verdict {
        let (by, udp) = (packet.dst.ip(), packet.proto() == Some(Proto::Udp));
        let answer = match self.spec.unsolicited {
            Unsolicited::Drop => None,
            Unsolicited::Delayed => {
                let syn = matches!(&packet.body, Body::Tcp(s) if s.flags.syn() && !s.flags.ack());
                return if syn {
                    Verdict::Later(now + DELAYED, packet)
                } else {
                    Verdict::Dropped(Reason::Unsolicited)
                };
            }
            Unsolicited::Local if udp => {
                if !known && self.spec.translate {
                    self.table.add(Session {
                        proto: Proto::Udp,
                        inside: packet.dst,
                        external: packet.dst,
                        remote: packet.src,
                        outward: false,
                        tcp: None,
                        replied: false,
                        expires: now + self.spec.timers.udp,
                        router: true,
                    });
                }
                packet.icmp(IcmpKind::Port, by)
            }
            Unsolicited::Rst if udp => packet.icmp(IcmpKind::Port, by),
            Unsolicited::Rst => {
                if self.spec.refusal_takes_port {
                    self.ports.skip(&self.spec);
                }
                packet.refusal()
            }
            Unsolicited::Local => packet.refusal(),
            Unsolicited::IcmpPort => packet.icmp(IcmpKind::Port, by),
            Unsolicited::IcmpHost => packet.icmp(IcmpKind::Host, by),
            Unsolicited::IcmpAdmin => packet.icmp(IcmpKind::Admin, by),
        };
        let answer =
            answer.filter(|a| matches!(a.body, Body::Tcp(_)) || self.icmp_budget.allows(now, a.dst.ip()));
        match answer {
            Some(answer) => Verdict::Answered(Side::Outside, answer),
            None => Verdict::Dropped(Reason::Unsolicited),
        }
    }

    fn mapping_key(&self, proto: Proto, inside: SocketAddr, remote: SocketAddr) -> MappingKey {
        let mapping = if proto == Proto::Tcp { self.spec.mapping } else { self.spec.udp.0 };
        let on = match mapping {
            Dependence::Endpoint => None,
            Dependence::Address => Some((remote.ip(), 0)),
            Dependence::AddressAndPort => Some((remote.ip(), remote.port())),
        };
        (proto, inside, on)
    }

    fn filtering(&self, proto: Proto) -> Dependence {
        if proto == Proto::Tcp { self.spec.filtering } else { self.spec.udp.1 }
    }

    /// Returns true if mappings outlive sessions and serve several. Otherwise each session is its own mapping.
    fn maps(&self, proto: Proto) -> bool {
        let mapping = if proto == Proto::Tcp { self.spec.mapping } else { self.spec.udp.0 };
        self.spec.tracking == Tracking::Contacts
            || mapping != Dependence::AddressAndPort
            || self.filtering(proto) != Dependence::AddressAndPort
    }

    fn lifetime(&self, session: &Session) -> Nanos {
        match &session.tcp {
            Some(track) => track.lifetime(&self.spec),
            None if session.replied => self.spec.timers.udp_replied,
            None => self.spec.timers.udp,
        }
    }

    /// A packet from inside, translated.
    fn outward(&mut self, now: Nanos, mut packet: Box<Packet>) -> ControlFlow<Verdict, Box<Packet>> {
        let Some(proto) = packet.proto() else { return self.icmp_outward(now, packet) };
        let ends = (proto, packet.src, packet.dst);
        if let Some(id) = self.table.inside(now, ends) {
            match self.advance(now, id, true, &packet) {
                Advance::Pass(external, _) => {
                    packet.src = external;
                    return Continue(packet);
                }
                Advance::Invalid => return Break(self.invalid_outward(packet)),
                Advance::Renew => self.table.remove(id),
            }
        }
        let begins = match &packet.body {
            Body::Tcp(s) => s.flags.syn() && !s.flags.ack() && !s.flags.rst(),
            _ => true,
        };
        if !begins {
            return Break(self.invalid_outward(packet));
        }
        let caps = self.spec.caps;
        if (caps.total != 0 && self.table.len() >= caps.total as usize)
            || (caps.per_host != 0 && self.table.of_host(packet.src.ip()) >= caps.per_host as usize)
        {
            return Break(Verdict::Dropped(Reason::SessionLimit));
        }
        let external = self.external_for(now, proto, packet.src, packet.dst)?;
        self.begin(now, &packet, packet.src, external, packet.dst, true);
        packet.src = external;
        Continue(packet)
    }

    fn invalid_outward(&self, packet: Box<Packet>) -> Verdict {
        // Linux does not translate what it calls invalid, and forwards it as it is.
        match self.spec.tracking {
            Tracking::Conntrack => Verdict::Untranslated(packet),
            Tracking::Contacts => Verdict::Dropped(Reason::NoSession),
        }
    }

    /// The external end for a new flow: the mapping's, or a new one.
    fn external_for(
        &mut self,
        now: Nanos,
        proto: Proto,
        inside: SocketAddr,
        remote: SocketAddr,
    ) -> ControlFlow<Verdict, SocketAddr> {
        if !self.spec.translate {
            return Continue(inside);
        }
        let (maps, key) = (self.maps(proto), self.mapping_key(proto, inside, remote));
        if maps && let Some(mapping) = self.table.mapping(now, key) {
            return Continue(mapping.external);
        }
        let place = match self.spec.paired {
            true => key_of(inside.ip()) % self.external.len().max(1) as u64,
            false => self.rng.below(
                Domain::Port,
                !self.id,
                u64::from(self.created),
                self.external.len().max(1) as u64,
            ),
        };
        let Some(&ip) = self.external.get(place as usize) else {
            return Break(Verdict::Dropped(Reason::NoAddress));
        };
        let by_port = match self.spec.unique {
            Unique::Port => true,
            Unique::FiveTuple => maps,
            Unique::Shared => false,
        };
        let table = &self.table;
        let free = |port: u16| {
            let external = SocketAddr::new(ip, port);
            let theirs = self.forwards.of(now, (proto, external)).is_some_and(|to| to != inside);
            !theirs
                && match by_port {
                    true => !table.port_taken(now, proto, external),
                    false => !table.tuple_taken(now, (proto, external, remote)),
                }
        };
        let port = self.ports.take(&self.spec, now, (inside.ip(), inside.port()), free);
        match port {
            Some(port) => Continue(SocketAddr::new(ip, port)),
            None => Break(Verdict::Dropped(Reason::NoPort)),
        }
    }

    fn begin(
        &mut self,
        now: Nanos,
        packet: &Packet,
        inside: SocketAddr,
        external: SocketAddr,
        remote: SocketAddr,
        outward: bool,
    ) {
        let (proto, tcp) = match &packet.body {
            Body::Tcp(segment) => (Proto::Tcp, Some(Track::new(segment))),
            _ => (Proto::Udp, None),
        };
        let mut session = Session {
            proto,
            inside,
            external,
            remote,
            outward,
            tcp,
            replied: false,
            expires: 0,
            router: false,
        };
        session.expires = now + self.lifetime(&session);
        self.table.add(session);
        self.created += 1;
        if self.created.is_multiple_of(SWEEP_EVERY) {
            self.table.sweep(now);
        }
        if outward && self.spec.translate && self.maps(proto) {
            self.contact(now, proto, inside, external, remote);
        }
    }

    /// Notes that the inside has sent to this remote end, and prolongs the mapping.
    fn contact(
        &mut self,
        now: Nanos,
        proto: Proto,
        inside: SocketAddr,
        external: SocketAddr,
        remote: SocketAddr,
    ) {
        let key = self.mapping_key(proto, inside, remote);
        let timers = &self.spec.timers;
        let expires = now
            + match (self.spec.tracking, proto) {
                (Tracking::Conntrack, _) => timers.mapping,
                (Tracking::Contacts, Proto::Tcp) => timers.syn.max(timers.mapping),
                (Tracking::Contacts, Proto::Udp) => timers.udp,
            };
        match self.table.mapping(now, key) {
            Some(mapping) => {
                mapping.contacts.insert(remote);
                mapping.expires = mapping.expires.max(expires);
            }
            None => self.table.map(key, Mapping { external, contacts: [remote].into(), expires }),
        }
    }

    /// A packet of a known session; gives the external and the inside end.
    fn advance(&mut self, now: Nanos, id: u32, outgoing: bool, packet: &Packet) -> Advance {
        let spec = self.spec;
        let Some(session) = self.table.get(id) else { return Advance::Invalid };
        if session.router {
            return Advance::Invalid;
        }
        let reply = session.outward != outgoing;
        let (external, inside, remote) = (session.external, session.inside, session.remote);
        let mut forget = false;
        if let (Some(track), Body::Tcp(segment)) = (&mut session.tcp, &packet.body) {
            match track.step(&spec, reply, segment) {
                Step::Pass => {}
                Step::PassAndForget => forget = true,
                Step::Invalid => return Advance::Invalid,
                Step::Renew => return Advance::Renew,
            }
        }
        session.replied |= reply;
        let proto = session.proto;
        if outgoing || spec.refresh_inbound || proto == Proto::Tcp {
            let lifetime = match &session.tcp {
                Some(track) => track.lifetime(&spec),
                None if session.replied => spec.timers.udp_replied,
                None => spec.timers.udp,
            };
            session.expires = now + lifetime;
        }
        if forget {
            self.table.remove(id);
            if spec.on_rst == OnRst::Delete
                && let Some(mapping) = self.table.mapping(now, self.mapping_key(proto, inside, remote))
            {
                mapping.contacts.remove(&remote);
            }
        } else if outgoing && spec.translate && self.maps(proto) {
            self.contact(now, proto, inside, external, remote);
        }
        Advance::Pass(external, inside)
    }

    /// A packet from outside, translated.
    fn inward(&mut self, now: Nanos, mut packet: Box<Packet>) -> ControlFlow<Inward, Box<Packet>> {
        let Some(proto) = packet.proto() else { return self.icmp_inward(now, packet) };
        let ends = (proto, packet.dst, packet.src);
        if let Some(id) = self.table.outside(now, ends) {
            match self.advance(now, id, false, &packet) {
                Advance::Pass(_, inside) => {
                    packet.dst = inside;
                    return Continue(packet);
                }
                Advance::Invalid => return Break(Inward::Unsolicited(packet, true)),
                Advance::Renew => self.table.remove(id),
            }
        }
        let inside = match self.spec.translate {
            false if self.filtering(proto) == Dependence::Endpoint => packet.dst,
            false => return Break(Inward::Unsolicited(packet, false)),
            true => match self.admitted(now, proto, &packet) {
                Some(inside) => inside,
                None => return Break(Inward::Unsolicited(packet, false)),
            },
        };
        let begins = match &packet.body {
            Body::Tcp(s) => s.flags.syn() && !s.flags.ack() && !s.flags.rst(),
            _ => true,
        };
        if begins {
            let (external, remote) = (packet.dst, packet.src);
            self.begin(now, &packet, inside, external, remote, false);
        } else if self.spec.tracking == Tracking::Conntrack {
            return Break(Inward::Unsolicited(packet, false));
        }
        packet.dst = inside;
        Continue(packet)
    }

    /// Returns the address inside for a packet without a session, if the filter lets it in.
    fn admitted(&self, now: Nanos, proto: Proto, packet: &Packet) -> Option<SocketAddr> {
        if let Some(inside) = self.forwards.of(now, (proto, packet.dst)) {
            return Some(inside);
        }
        let filtering = self.filtering(proto);
        let strict = self.spec.tracking == Tracking::Conntrack;
        let admits = |mapping: &Mapping| match filtering {
            Dependence::Endpoint => true,
            Dependence::Address => {
                let from = SocketAddr::new(packet.src.ip(), 0);
                mapping.contacts.range(from..).next().is_some_and(|c| c.ip() == packet.src.ip())
            }
            Dependence::AddressAndPort => !strict && mapping.contacts.contains(&packet.src),
        };
        let mut mapped = self.table.mapped(now, proto, packet.dst).peekable();
        if mapped.peek().is_none() {
            return self.dmz.map(|ip| SocketAddr::new(ip, packet.dst.port()));
        }
        mapped.find(|(_, mapping)| admits(mapping)).map(|(key, _)| key.1)
    }

    fn icmp_inward(&mut self, now: Nanos, mut packet: Box<Packet>) -> ControlFlow<Inward, Box<Packet>> {
        let Body::Icmp(_, quote) = &mut packet.body else {
            return Break(Inward::Drop(Reason::IcmpOfNothing));
        };
        let found = self.table.outside(now, (quote.proto, quote.src, quote.dst));
        let Some(session) = found.and_then(|id| self.table.get(id)).filter(|s| !s.router) else {
            return Break(Inward::Drop(Reason::IcmpOfNothing));
        };
        quote.src = session.inside;
        packet.dst = SocketAddr::new(session.inside.ip(), 0);
        Continue(packet)
    }

    fn icmp_outward(&mut self, now: Nanos, mut packet: Box<Packet>) -> ControlFlow<Verdict, Box<Packet>> {
        let Body::Icmp(_, quote) = &mut packet.body else {
            return Break(Verdict::Dropped(Reason::IcmpOfNothing));
        };
        let found = self.table.inside(now, (quote.proto, quote.dst, quote.src));
        let Some(session) = found.and_then(|id| self.table.get(id)) else {
            return Break(Verdict::Dropped(Reason::IcmpOfNothing));
        };
        quote.dst = session.external;
        packet.src = SocketAddr::new(session.external.ip(), 0);
        Continue(packet)
    }
}

enum Advance {
    Pass(SocketAddr, SocketAddr),
    Invalid,
    Renew,
}

enum Inward {
    Drop(Reason),
    /// The packet is for the router itself. True if its ends belong to a session.
    Unsolicited(Box<Packet>, bool),
}
