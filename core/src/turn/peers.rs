//! Peers that may send to us through the relay, and their channels.

use core::time::Duration;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::{MAX_CHANNELS, MAX_PEERS};
use crate::time::Instant;
use crate::wire::channel::CHANNELS;

/// Time after a channel's end in which its number belongs to no other peer (RFC 8656 section 12).
const NUMBER_RESTS: Duration = Duration::from_secs(300);

/// State of a peer's permission.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Permission {
    /// Request follows once there is an allocation.
    Wanted,
    /// Asked for.
    Asked,
    /// Granted by the server, and refreshed.
    Granted,
}

/// State of a channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Binding {
    /// Asked for. The server may use it already.
    Asked,
    /// Granted by the server, and refreshed.
    Bound,
    /// The server does not want it.
    Refused,
    /// Peer given up. The number stays reserved for the peer for a while.
    Resting,
}

#[derive(Debug)]
struct Peer {
    permission: Permission,
    /// Port named in requests, 0 for none.
    port: u16,
    /// Last time that a datagram went to the peer or came from it.
    used: Instant,
}

#[derive(Debug)]
struct Channel {
    peer: SocketAddr,
    binding: Binding,
    /// Time from which another peer may have the number.
    taken_until: Instant,
}

/// Permissions of peers by address, and channels by address and port.
#[derive(Debug)]
pub(super) struct Peers {
    permissions: BTreeMap<IpAddr, Peer>,
    channels: BTreeMap<u16, Channel>,
    numbers: BTreeMap<SocketAddr, u16>,
    /// Number at which the search for a free one starts.
    next: u16,
}

impl Peers {
    pub(super) fn new() -> Self {
        let (permissions, channels, numbers) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Peers { permissions, channels, numbers, next: *CHANNELS.start() }
    }

    pub(super) fn is_full(&self) -> bool {
        self.permissions.len() >= MAX_PEERS
    }

    pub(super) fn permission(&self, peer: IpAddr) -> Option<Permission> {
        self.permissions.get(&peer).map(|peer| peer.permission)
    }

    pub(super) fn set(&mut self, peer: IpAddr, permission: Permission, now: Instant) {
        let new = Peer { permission, port: 0, used: now };
        self.permissions.entry(peer).or_insert(new).permission = permission;
    }

    /// Notes that a peer was sent to or heard.
    pub(super) fn touch(&mut self, peer: IpAddr, now: Instant) {
        if let Some(peer) = self.permissions.get_mut(&peer) {
            peer.used = now;
        }
    }

    /// Returns the peer that was neither sent to nor heard for the longest time, and the time since then.
    pub(super) fn idlest(&self, now: Instant) -> Option<(IpAddr, Duration)> {
        let (ip, peer) = self.permissions.iter().min_by_key(|(_, peer)| peer.used)?;
        Some((*ip, now.since(peer.used)))
    }

    /// Notes a permitted peer's port; true if none was known and this is one.
    pub(super) fn name_port(&mut self, peer: SocketAddr) -> bool {
        let known = self.permissions.get_mut(&peer.ip()).map(|p| &mut p.port).filter(|port| **port == 0);
        known.is_some_and(|port| core::mem::replace(port, peer.port()) != peer.port())
    }

    /// The peer, by the port that was noted.
    pub(super) fn with_port(&self, peer: IpAddr) -> SocketAddr {
        (peer, self.permissions.get(&peer).map_or(0, |p| p.port)).into()
    }

    /// Returns the peers that were permitted before there was an allocation.
    pub(super) fn wanted(&self) -> Vec<IpAddr> {
        let wanted = self.permissions.iter().filter(|(_, p)| p.permission == Permission::Wanted);
        wanted.map(|(ip, _)| *ip).collect()
    }

    /// Gives a peer up; returns the numbers of its channels.
    pub(super) fn remove(&mut self, peer: IpAddr) -> Vec<u16> {
        self.permissions.remove(&peer);
        let its = self.channels.iter_mut().filter(|(_, c)| c.peer.ip() == peer);
        its.map(|(number, channel)| {
            channel.binding = Binding::Resting;
            *number
        })
        .collect()
    }

    pub(super) fn channel(&self, peer: SocketAddr) -> Option<(u16, Binding)> {
        let number = *self.numbers.get(&peer)?;
        Some((number, self.channels.get(&number)?.binding))
    }

    /// Returns the peer of a channel, if the peer is permitted.
    pub(super) fn on_channel(&self, number: u16) -> Option<SocketAddr> {
        let peer = self.channels.get(&number)?.peer;
        (self.permission(peer.ip()) == Some(Permission::Granted)).then_some(peer)
    }

    pub(super) fn bind(&mut self, number: u16, binding: Binding) {
        if let Some(channel) = self.channels.get_mut(&number) {
            channel.binding = binding;
        }
    }

    /// The number by which to ask for a channel of this lifetime now: the peer's own, or a free one.
    pub(super) fn ask_for(&mut self, peer: SocketAddr, now: Instant, lifetime: Duration) -> Option<u16> {
        let number = match self.numbers.get(&peer) {
            Some(number) => *number,
            None => self.free_number(now)?,
        };
        let taken_until = now + lifetime + NUMBER_RESTS;
        self.numbers.insert(peer, number);
        self.channels.insert(number, Channel { peer, binding: Binding::Asked, taken_until });
        Some(number)
    }

    fn free_number(&mut self, now: Instant) -> Option<u16> {
        if self.channels.len() >= MAX_CHANNELS {
            let keep = |c: &Channel| c.binding != Binding::Resting || c.taken_until > now;
            self.numbers.retain(|_, number| self.channels.get(number).is_some_and(keep));
            self.channels.retain(|_, c| keep(c));
        }
        if self.channels.len() >= MAX_CHANNELS {
            return None;
        }
        // Upwards, so that a number that was given back is the last to be used again.
        let upwards = (self.next..=*CHANNELS.end()).chain(CHANNELS);
        let number = upwards.into_iter().find(|n| !self.channels.contains_key(n))?;
        self.next = if number == *CHANNELS.end() { *CHANNELS.start() } else { number + 1 };
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: Duration = Duration::from_secs(600);

    fn peer(port: u16) -> SocketAddr {
        ([192, 0, 2, 1], port).into()
    }

    #[test]
    fn numbers_go_upwards_and_rest_before_another_peer_gets_them() {
        let mut peers = Peers::new();
        let at = |s| Instant::ZERO + Duration::from_secs(s);
        peers.set(peer(0).ip(), Permission::Granted, at(0));
        for n in 0..MAX_CHANNELS as u16 {
            assert_eq!(peers.ask_for(peer(n), at(0), LIFETIME), Some(0x4000 + n));
        }
        assert_eq!(peers.ask_for(peer(9999), at(0), LIFETIME), None, "as many as there may be");
        assert_eq!(peers.ask_for(peer(3), at(100), LIFETIME), Some(0x4003), "its own");
        assert_eq!(peers.on_channel(0x4003), Some(peer(3)));
        assert_eq!(peers.remove(peer(0).ip()).len(), MAX_CHANNELS);
        assert_eq!(peers.on_channel(0x4003), None, "nobody's without a permission");
        let other: SocketAddr = "192.0.2.2:1".parse().unwrap();
        assert_eq!(peers.ask_for(other, at(899), LIFETIME), None, "they rest");
        assert_eq!(peers.ask_for(other, at(900), LIFETIME), Some(0x4080));
        assert_eq!(peers.channel(peer(3)), Some((0x4003, Binding::Resting)));
        assert_eq!((peers.channels.len(), peers.numbers.len()), (2, 2));
        peers.next = 0x4fff;
        assert_eq!(peers.ask_for(peer(5), at(900), LIFETIME), Some(0x4fff));
        assert_eq!(peers.ask_for(peer(6), at(900), LIFETIME), Some(0x4000));
    }
}
