//! Changes of the machine's network, as they concern a pipe.

use std::net::SocketAddr;

use crate::Card;

pub use crate::changes::{COMPARE_EVERY, QUIET, Word, changes};

/// Meaning of a change of the machine's network for a pipe.
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum NetworkChange {
    /// No interface has the pipe's local address any more, so that nothing is received, until one has it again.
    Gone,
    /// An interface has the pipe's local address again.
    Back,
    /// Other addresses, links or default routes changed. The pipe goes on, but a new one may leave another way.
    Other,
}

/// Interfaces as a pipe saw them last.
#[derive(Debug)]
pub struct NetworkWatch {
    local: SocketAddr,
    seen: Vec<Card>,
}

impl NetworkWatch {
    /// Begins to watch for a pipe with this local address. The call takes about a millisecond.
    pub fn new(local: SocketAddr) -> Self {
        NetworkWatch { local, seen: crate::cards() }
    }

    /// Compares these interfaces, as [`cards`](crate::cards) lists them now, with those seen before. No card at all means
    /// that the system could not be asked, and is no change.
    pub fn compare(&mut self, cards: &[Card]) -> Option<NetworkChange> {
        if cards == self.seen || cards.is_empty() {
            return None;
        }
        let (was, is) = (self.is_here(&self.seen), self.is_here(cards));
        self.seen = cards.to_vec();
        Some(match (was, is) {
            (true, false) => NetworkChange::Gone,
            (false, true) => NetworkChange::Back,
            _ => NetworkChange::Other,
        })
    }

    fn is_here(&self, cards: &[Card]) -> bool {
        // A relayed address or that of all interfaces is none of one.
        self.local.ip().is_unspecified() || cards.iter().any(|card| card.up && card.has(self.local))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2pd_core::io::LinkKind;

    #[test]
    fn a_change_is_judged_by_the_pipes_own_address() {
        let card = |ip: &str, up| Card {
            index: 2,
            name: "eth0".into(),
            up,
            addresses: vec![(ip.parse().unwrap(), 24)],
            gateways: Vec::new(),
            default_route: false,
            link: LinkKind::Real,
        };
        let local = "192.168.1.2:7".parse().unwrap();
        let mut watch = NetworkWatch { local, seen: vec![card("192.168.1.2", true)] };
        assert_eq!(watch.compare(&[card("192.168.1.2", true)]), None);
        assert_eq!(watch.compare(&[]), None, "the system could not be asked");
        assert_eq!(watch.compare(&[card("192.168.1.3", true)]), Some(NetworkChange::Gone));
        assert_eq!(watch.compare(&[card("192.168.1.4", true)]), Some(NetworkChange::Other));
        assert_eq!(watch.compare(&[card("192.168.1.2", true)]), Some(NetworkChange::Back));
        assert_eq!(watch.compare(&[card("192.168.1.2", false)]), Some(NetworkChange::Gone));
        let mut everywhere = NetworkWatch { local: "[::]:7".parse().unwrap(), seen: Vec::new() };
        assert_eq!(everywhere.compare(&[card("192.168.1.2", true)]), Some(NetworkChange::Other));
    }
}
