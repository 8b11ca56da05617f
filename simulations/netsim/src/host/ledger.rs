//! Packets that a host has sent, by destination: the cost for others of the requests made to this host.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::net::{Body, Packet};

/// Packets and bytes to one destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sent {
    /// SYNs, repeats included.
    pub syns: u64,
    /// UDP datagrams.
    pub datagrams: u64,
    /// Bytes of all packets, with their IP headers.
    pub bytes: u64,
}

impl Sent {
    /// Returns the sum of the two.
    #[must_use]
    pub fn plus(self, other: Sent) -> Sent {
        Sent {
            syns: self.syns + other.syns,
            datagrams: self.datagrams + other.datagrams,
            bytes: self.bytes + other.bytes,
        }
    }
}

/// Packets and bytes to each destination.
#[derive(Clone, Debug, Default)]
pub struct Ledger(BTreeMap<SocketAddr, Sent>);

impl Ledger {
    /// A packet leaves.
    pub(crate) fn note(&mut self, packet: &Packet) {
        let ip = if packet.dst.is_ipv4() { 20 } else { 40 };
        let sent = self.0.entry(packet.dst).or_default();
        sent.bytes += ip
            + match &packet.body {
                Body::Tcp(segment) => {
                    sent.syns += u64::from(segment.flags.syn() && !segment.flags.ack());
                    // A SYN has options: maximum segment size, SACK, timestamps, window scale.
                    20 + segment.data.len() as u64 + if segment.flags.syn() { 20 } else { 0 }
                }
                Body::Udp(data) => {
                    sent.datagrams += 1;
                    8 + data.len() as u64
                }
                Body::Icmp(..) => 8 + 28,
            };
    }

    /// Every destination.
    pub fn iter(&self) -> impl Iterator<Item = (SocketAddr, Sent)> + '_ {
        self.0.iter().map(|(to, sent)| (*to, *sent))
    }
}
