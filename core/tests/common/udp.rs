//! UDP between hosts, through NATs that let in what answers. Unless a world says otherwise, datagrams between hosts are lost.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use p2pd_core::SockId;

use super::{Happening, LATENCY, World};

/// Choice of the port outside for a socket's datagrams.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Nat {
    /// Datagrams of other hosts do not come through, whatever left before.
    #[default]
    Lost,
    /// The local port, and datagrams of other hosts do not come in.
    Deaf,
    /// The local port, for every destination.
    Kept,
    /// One of its own, for every destination.
    Cone,
    /// The next one, for each destination.
    Counting,
    /// Any, for each destination.
    Random,
}

/// NAT of one host, for UDP.
#[derive(Default)]
pub struct Udp {
    pub nat: Nat,
    /// Lets in any port of an address that something was sent to.
    pub by_address: bool,
    /// Datagrams between hosts that left, by size.
    pub sent: Vec<(SocketAddr, usize)>,
    maps: BTreeMap<(SockId, Option<SocketAddr>), u16>,
    holes: BTreeSet<(u16, SocketAddr)>,
    made: u32,
}

impl World {
    /// Has the hosts' NATs treat UDP so.
    pub fn set_udp(&mut self, nats: [Nat; 2]) {
        for (n, nat) in nats.into_iter().enumerate() {
            self.hosts[n].udp.nat = nat;
        }
    }

    /// Returns the address that a socket's datagrams to `to` come from, seen outside.
    pub(super) fn outside_of(&mut self, n: usize, sock: SockId, to: SocketAddr) -> SocketAddr {
        let host = &mut self.hosts[n];
        let local = host.bound[&sock].port();
        let udp = &mut host.udp;
        let (towards, port) = match udp.nat {
            Nat::Lost | Nat::Deaf | Nat::Kept => (None, local),
            Nat::Cone => (None, 61_000 + udp.made as u16),
            Nat::Counting => (Some(to), 40_000 + udp.made as u16),
            Nat::Random => (Some(to), (1_024 + (udp.made + 1) * 40_503 % 64_512) as u16),
        };
        let port = *udp.maps.entry((sock, towards)).or_insert_with(|| {
            udp.made += 1;
            port
        });
        udp.holes.insert((port, to));
        SocketAddr::new(host.outside, port)
    }

    /// A datagram leaves a host for another one.
    pub(super) fn datagram_to_host(&mut self, n: usize, sock: SockId, to: SocketAddr, data: &[u8]) {
        if self.hosts[n].udp.nat == Nat::Lost || !self.hosts.iter().any(|h| h.outside == to.ip()) {
            return;
        }
        let from = self.outside_of(n, sock, to);
        self.hosts[n].udp.sent.push((to, data.len()));
        self.schedule(LATENCY, Happening::AtNat { from, to, data: data.to_vec() });
    }

    /// A datagram has come to the outside of a host's NAT.
    pub(super) fn at_nat(&mut self, from: SocketAddr, to: SocketAddr, data: Vec<u8>) {
        let Some(n) = self.hosts.iter().position(|h| h.outside == to.ip()) else { return };
        let udp = &self.hosts[n].udp;
        let fits = |(port, hole): &(u16, SocketAddr)| {
            *port == to.port() && (*hole == from || (udp.by_address && hole.ip() == from.ip()))
        };
        if matches!(udp.nat, Nat::Lost | Nat::Deaf) || !udp.holes.iter().any(fits) {
            return;
        }
        let sock = udp.maps.iter().find(|(_, port)| **port == to.port()).map(|((sock, _), _)| *sock);
        if let Some(sock) = sock {
            self.schedule(std::time::Duration::ZERO, Happening::Datagram { n, sock, from, data });
        }
    }
}
