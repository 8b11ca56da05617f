//! The NAT at work: packets in from either side, verdicts out.

use core::ops::ControlFlow::{self, Break, Continue};
use std::net::{IpAddr, SocketAddr};

use smallvec::SmallVec;

use super::forwards::{Forwards, Order};
use super::ports::Ports;
use super::table::{Mapping, MappingKey, Session, Table, key_of};
use super::track::{Step, Track};
use super::{Dependence, Hairpin, NatSpec, OnRst, Tracking, Unique, Unsolicited};
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

/// A side of the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Inside,
    Outside,
}

/// Decision about a packet.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The packet, or an answer to it, leaves on this side.
    Out(Side, Box<Packet>),
    /// The packet is to be judged again at this time.
    Later(Nanos, Box<Packet>),
    /// The packet is dropped, for this reason.
    Drop(&'static str),
}

pub(crate) type Verdicts = SmallVec<[Verdict; 1]>;

fn one(verdict: Verdict) -> Verdicts {
    let mut verdicts = Verdicts::new();
    verdicts.push(verdict);
    verdicts
}

/// A NAT or a firewall.
#[derive(Debug)]
pub(crate) struct Nat {
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
    pub(crate) fn new(id: u64, rng: Keyed, spec: NatSpec, external: Vec<IpAddr>) -> Nat {
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

    /// A host was put inside.
    pub(crate) fn host_added(&mut self, ip: IpAddr) {
        if self.spec.dmz {
            self.dmz.get_or_insert(ip);
        }
    }

    /// Returns true if the device's tables agree with each other.
    pub(crate) fn consistent(&self) -> bool {
        self.table.consistent()
    }

    /// Forgets everything, as a power cut does.
    pub(crate) fn reboot(&mut self) {
        self.table = Table::default();
        self.forwards = Forwards::default();
        self.ports = Ports::new(self.id ^ u64::from(self.created) << 32, self.rng);
    }

    /// Carries out an order of the router's server for port mappings.
    pub(crate) fn carry_out(&mut self, order: Order) {
        let Some(&ip) = self.external.first() else { return };
        match order {
            Order::Open { proto, external, inside, until } => {
                self.forwards.open((proto, SocketAddr::new(ip, external)), inside, until);
            }
            Order::Close { proto, external } => self.forwards.close((proto, SocketAddr::new(ip, external))),
            Order::Reboot => self.reboot(),
        }
    }

    pub(crate) fn leave(&mut self, now: Nanos, packet: Box<Packet>) -> Verdicts {
        if let Some(why) = self.blocks(now, &packet, Side::Inside) {
            return one(Verdict::Drop(why));
        }
        if self.spec.narrow && !(packet.proto() == Some(Proto::Tcp) && matches!(packet.dst.port(), 80 | 443))
        {
            return one(Verdict::Drop("only ports 80 and 443 get out"));
        }
        if self.spec.translate && self.external.contains(&packet.dst.ip()) {
            return self.hairpin(now, packet);
        }
        one(match self.outward(now, packet) {
            Continue(packet) => Verdict::Out(Side::Outside, packet),
            Break(verdict) => verdict,
        })
    }

    fn hairpin(&mut self, now: Nanos, packet: Box<Packet>) -> Verdicts {
        let refuse = |packet: &Packet| match packet.proto() {
            Some(Proto::Tcp) => packet.refusal(),
            _ => packet.icmp(IcmpKind::Port, packet.dst.ip()),
        };
        match self.spec.hairpin {
            Hairpin::Dropped => one(Verdict::Drop("hairpin")),
            Hairpin::Refused => one(match refuse(&packet) {
                Some(answer) => Verdict::Out(Side::Inside, answer),
                None => Verdict::Drop("hairpin"),
            }),
            Hairpin::External => match self.outward(now, packet) {
                Continue(packet) => self.enter(now, packet),
                Break(verdict) => one(verdict),
            },
            Hairpin::Internal => match self.inward(now, packet.clone()) {
                Continue(inner) => one(Verdict::Out(Side::Inside, inner)),
                Break(_) => one(Verdict::Drop("hairpin")),
            },
        }
    }

    /// Returns the reason why a packet from this side is dropped for what it carries, if it is.
    fn blocks(&mut self, now: Nanos, packet: &Packet, from: Side) -> Option<&'static str> {
        let Body::Udp(data) = &packet.body else { return None };
        if !self.spec.udp_passes {
            return Some("udp is blocked");
        }
        let policer = &mut self.policers[usize::from(from == Side::Outside)];
        let passes = self.spec.udp_rate == 0 || policer.pass(now, data.len() + UDP_HEADERS).is_some();
        (!passes).then_some("udp is policed")
    }

    pub(crate) fn enter(&mut self, now: Nanos, packet: Box<Packet>) -> Verdicts {
        if let Some(why) = self.blocks(now, &packet, Side::Outside) {
            return one(Verdict::Drop(why));
        }
        match self.inward(now, packet) {
            Continue(packet) => one(Verdict::Out(Side::Inside, packet)),
            Break(Inward::Drop(why)) => one(Verdict::Drop(why)),
            Break(Inward::Unsolicited(packet, known)) => self.unsolicited(now, packet, known),
        }
    }

    /// A packet of `Verdict::Later` whose time has come.
    pub(crate) fn again(&mut self, now: Nanos, packet: &Packet) -> Verdicts {
        let dialled = packet
            .proto()
            .is_some_and(|proto| self.table.outside(now, (proto, packet.dst, packet.src)).is_some());
        one(match packet.icmp(IcmpKind::Port, packet.dst.ip()) {
            Some(answer) if !dialled => Verdict::Out(Side::Outside, answer),
            _ => Verdict::Drop("unsolicited, forgotten"),
        })
    }

    fn unsolicited(&mut self, now: Nanos, packet: Box<Packet>, known: bool) -> Verdicts {
        let (by, udp) = (packet.dst.ip(), packet.proto() == Some(Proto::Udp));
        let answer = match self.spec.unsolicited {
            Unsolicited::Drop => None,
            Unsolicited::Delayed => {
                let syn = matches!(&packet.body, Body::Tcp(s) if s.flags.syn() && !s.flags.ack());
                return one(if syn {
                    Verdict::Later(now + DELAYED, packet)
                } else {
                    Verdict::Drop("unsolicited")
                });
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
        one(match answer {
            Some(answer) => Verdict::Out(Side::Outside, answer),
            None => Verdict::Drop("unsolicited"),
        })
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
            return Break(Verdict::Drop("no session is left"));
        }
        let external = self.external_for(now, proto, packet.src, packet.dst)?;
        self.begin(now, &packet, packet.src, external, packet.dst, true);
        packet.src = external;
        Continue(packet)
    }

    fn invalid_outward(&self, packet: Box<Packet>) -> Verdict {
        // Linux does not translate what it calls invalid, and forwards it as it is.
        match self.spec.tracking {
            Tracking::Conntrack => Verdict::Out(Side::Outside, packet),
            Tracking::Contacts => Verdict::Drop("no session"),
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
        let Some(&ip) = self.external.get(place as usize) else { return Break(Verdict::Drop("no address")) };
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
            None => Break(Verdict::Drop("no port is left")),
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
        let Body::Icmp(_, quote) = &mut packet.body else { return Break(Inward::Drop("icmp")) };
        let found = self.table.outside(now, (quote.proto, quote.src, quote.dst));
        let Some(session) = found.and_then(|id| self.table.get(id)).filter(|s| !s.router) else {
            return Break(Inward::Drop("icmp about nothing known"));
        };
        quote.src = session.inside;
        packet.dst = SocketAddr::new(session.inside.ip(), 0);
        Continue(packet)
    }

    fn icmp_outward(&mut self, now: Nanos, mut packet: Box<Packet>) -> ControlFlow<Verdict, Box<Packet>> {
        let Body::Icmp(_, quote) = &mut packet.body else { return Break(Verdict::Drop("icmp")) };
        let found = self.table.inside(now, (quote.proto, quote.dst, quote.src));
        let Some(session) = found.and_then(|id| self.table.get(id)) else {
            return Break(Verdict::Drop("icmp about nothing known"));
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
    Drop(&'static str),
    /// The packet is for the router itself. True if its ends belong to a session.
    Unsolicited(Box<Packet>, bool),
}
