//! State of a NAT: sessions by their two ends, and mappings that serve many sessions.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::track::{TcpState, Track};
use crate::engine::Nanos;
use crate::net::Proto;

/// Line of a NAT's table: a session, or a mapping that serves several.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Entry {
    /// Protocol of the entry.
    pub proto: Proto,
    /// End of the host inside.
    pub inside: SocketAddr,
    /// End that the outside sees.
    pub external: SocketAddr,
    /// The remote end of a session; `None` for a mapping.
    pub remote: Option<SocketAddr>,
    /// State of the session in words: that of TCP, or whether there was an answer.
    pub state: &'static str,
    /// Time at which the entry is forgotten, unless a packet prolongs it.
    pub expires: Nanos,
}

/// A flow of one inside end, or its external one, with one remote end.
pub(super) type Ends = (Proto, SocketAddr, SocketAddr);

/// A mapping's inside end, with as much of the destination as it depends on.
pub(super) type MappingKey = (Proto, SocketAddr, Option<(IpAddr, u16)>);

#[derive(Debug)]
pub(super) struct Session {
    pub(super) proto: Proto,
    pub(super) inside: SocketAddr,
    pub(super) external: SocketAddr,
    pub(super) remote: SocketAddr,
    /// The session began inside.
    pub(super) outward: bool,
    pub(super) tcp: Option<Track>,
    pub(super) replied: bool,
    pub(super) expires: Nanos,
    /// The session belongs to the router itself, and only takes the tuple away.
    pub(super) router: bool,
}

impl Session {
    fn state(&self) -> &'static str {
        match &self.tcp {
            _ if self.router => "the router's own",
            Some(track) => match track.state {
                TcpState::SynSent => "SYN sent",
                TcpState::SynSent2 => "SYNs crossed",
                TcpState::SynReceived => "SYN answered",
                TcpState::Established => "established",
                TcpState::Closing => "closing",
                TcpState::TimeWait => "closed",
                TcpState::Closed => "reset",
            },
            None if self.replied => "answered",
            None => "not answered",
        }
    }
}

#[derive(Debug)]
pub(super) struct Mapping {
    pub(super) external: SocketAddr,
    /// Remote ends to which the inside has sent.
    pub(super) contacts: BTreeSet<SocketAddr>,
    pub(super) expires: Nanos,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    sessions: BTreeMap<u32, Session>,
    next: u32,
    by_inside: BTreeMap<Ends, u32>,
    by_outside: BTreeMap<Ends, u32>,
    mappings: BTreeMap<MappingKey, Mapping>,
    /// Several, where mappings share a port.
    by_external: BTreeSet<(Proto, SocketAddr, MappingKey)>,
}

/// An address as a number, to draw by.
pub(super) fn key_of(ip: IpAddr) -> u64 {
    match ip {
        IpAddr::V4(ip) => u64::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip) as u64 ^ (u128::from(ip) >> 64) as u64,
    }
}

impl Table {
    pub(super) fn inside(&mut self, now: Nanos, ends: Ends) -> Option<u32> {
        let id = *self.by_inside.get(&ends)?;
        self.live(now, id)
    }

    pub(super) fn outside(&mut self, now: Nanos, ends: Ends) -> Option<u32> {
        let id = *self.by_outside.get(&ends)?;
        self.live(now, id)
    }

    fn live(&mut self, now: Nanos, id: u32) -> Option<u32> {
        if self.sessions.get(&id)?.expires > now {
            return Some(id);
        }
        self.remove(id);
        None
    }

    pub(super) fn get(&mut self, id: u32) -> Option<&mut Session> {
        self.sessions.get_mut(&id)
    }

    /// Returns true if a flow with this remote end would collide with a live one.
    pub(super) fn tuple_taken(&self, now: Nanos, ends: Ends) -> bool {
        self.by_outside.get(&ends).is_some_and(|id| self.sessions.get(id).is_some_and(|s| s.expires > now))
    }

    /// Returns true if this external end is in use.
    pub(super) fn port_taken(&self, now: Nanos, proto: Proto, external: SocketAddr) -> bool {
        let mapped = self.mapped(now, proto, external).next().is_some();
        let none = SocketAddr::from(([0, 0, 0, 0], 0));
        mapped
            || self
                .by_outside
                .range((proto, external, none)..)
                .take_while(|((p, e, _), _)| (*p, *e) == (proto, external))
                .any(|(_, id)| self.sessions.get(id).is_some_and(|s| s.expires > now))
    }

    pub(super) fn add(&mut self, session: Session) {
        let id = self.next;
        self.next += 1;
        let (inner, outer) = (
            (session.proto, session.inside, session.remote),
            (session.proto, session.external, session.remote),
        );
        // Whatever had one of its ends is over.
        let old = [self.by_outside.get(&outer), self.by_inside.get(&inner).filter(|_| !session.router)];
        for old in old.map(|id| id.copied()).into_iter().flatten() {
            self.remove(old);
        }
        if !session.router {
            self.by_inside.insert(inner, id);
        }
        self.by_outside.insert(outer, id);
        self.sessions.insert(id, session);
    }

    pub(super) fn remove(&mut self, id: u32) {
        let Some(s) = self.sessions.remove(&id) else { return };
        for (map, ends) in [
            (&mut self.by_inside, (s.proto, s.inside, s.remote)),
            (&mut self.by_outside, (s.proto, s.external, s.remote)),
        ] {
            if map.get(&ends) == Some(&id) {
                map.remove(&ends);
            }
        }
    }

    /// Removes expired entries.
    pub(super) fn sweep(&mut self, now: Nanos) {
        let old: Vec<u32> =
            self.sessions.iter().filter(|(_, s)| s.expires <= now).map(|(id, _)| *id).collect();
        old.into_iter().for_each(|id| self.remove(id));
        self.mappings.retain(|_, m| m.expires > now);
        let mappings = &self.mappings;
        self.by_external
            .retain(|(_, external, key)| mappings.get(key).is_some_and(|m| m.external == *external));
    }

    /// Returns what has not expired: mappings by their inside ends, then sessions as they began.
    pub(super) fn entries(&self, now: Nanos) -> Vec<Entry> {
        let mappings = self.mappings.iter().map(|((proto, inside, _), m)| Entry {
            proto: *proto,
            inside: *inside,
            external: m.external,
            remote: None,
            state: "mapping",
            expires: m.expires,
        });
        let sessions = self.sessions.values().map(|s| Entry {
            proto: s.proto,
            inside: s.inside,
            external: s.external,
            remote: Some(s.remote),
            state: s.state(),
            expires: s.expires,
        });
        mappings.chain(sessions).filter(|entry| entry.expires > now).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Sessions of this inside address.
    pub(super) fn of_host(&self, ip: IpAddr) -> usize {
        self.sessions.values().filter(|s| s.inside.ip() == ip && !s.router).count()
    }

    pub(super) fn mapping(&mut self, now: Nanos, key: MappingKey) -> Option<&mut Mapping> {
        self.mappings.get_mut(&key).filter(|m| m.expires > now)
    }

    /// The live mappings that have this external end.
    pub(super) fn mapped(
        &self,
        now: Nanos,
        proto: Proto,
        external: SocketAddr,
    ) -> impl Iterator<Item = (&MappingKey, &Mapping)> {
        let least = (Proto::Tcp, SocketAddr::from(([0, 0, 0, 0], 0)), None);
        let all = self.by_external.range((proto, external, least)..);
        all.take_while(move |(p, e, _)| (*p, *e) == (proto, external))
            .filter_map(|(_, _, key)| self.mappings.get_key_value(key))
            .filter(move |(_, m)| m.expires > now && m.external == external)
    }

    pub(super) fn map(&mut self, key: MappingKey, mapping: Mapping) {
        self.by_external.insert((key.0, mapping.external, key));
        self.mappings.insert(key, mapping);
    }

    /// Returns true if the two directions of the table agree.
    pub(super) fn consistent(&self) -> bool {
        self.by_inside.values().all(|id| self.sessions.contains_key(id))
            && self.by_outside.iter().all(|(ends, id)| {
                self.sessions.get(id).is_some_and(|s| (s.proto, s.external, s.remote) == *ends)
            })
    }
}
