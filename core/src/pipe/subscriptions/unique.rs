//! Memory of the latest messages.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;

use blake2::digest::consts::U16;
use blake2::{Blake2s, Digest};

/// Most messages that are remembered.
const MOST: usize = 100_000;

/// A hash of 128 bits that a sender cannot steer. A sender who could make two messages of one hash could have the
/// second dropped.
type Mark = [u8; 16];

/// The messages that came last, each with its sender, by a hash.
#[derive(Debug, Default)]
pub struct Unique {
    kept: usize,
    order: VecDeque<Mark>,
    known: BTreeSet<Mark>,
}

impl Unique {
    /// Remembers this many, at most 100,000; with 0 every message is new.
    pub fn new(kept: usize) -> Self {
        Unique { kept: kept.min(MOST), ..Self::default() }
    }

    /// Returns true if the message is not among those kept. The message is kept from now on.
    pub fn is_new(&mut self, data: &[u8], from: SocketAddr) -> bool {
        if self.kept == 0 {
            return true;
        }
        let mut hash = Blake2s::<U16>::new();
        match from.ip() {
            std::net::IpAddr::V4(ip) => hash.update(ip.to_ipv6_mapped().octets()),
            std::net::IpAddr::V6(ip) => hash.update(ip.octets()),
        }
        hash.update(from.port().to_be_bytes());
        hash.update(data);
        let mark = hash.finalize().into();
        if !self.known.insert(mark) {
            return false;
        }
        if self.order.len() == self.kept
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(mark);
        true
    }
}
