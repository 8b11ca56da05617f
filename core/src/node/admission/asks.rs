//! Questions to our user about peers, and the streams and requests that wait for each answer.

use core::time::Duration;
use std::collections::BTreeMap;
use std::net::IpAddr;

use smallvec::SmallVec;

use super::source::Source;
use super::wish::Wish;
use crate::identity::NodeId;
use crate::io::SockId;
use crate::time::Instant;

/// Most peers that our user is asked about at a time, and most things one of them may have waiting.
const MAX_ASKS: usize = 64;
pub(super) const MAX_WAITING: usize = 4;
/// Most of these peers whose streams came from one line, and most that asked over brokers, where nobody has shown an
/// address.
const MAX_OF_LINE: usize = 8;
const MAX_BY_BROKER: usize = 48;
/// Time for the user to answer.
const ASK_WITHIN: Duration = Duration::from_secs(30);

/// Stream or request that waits for a yes.
#[derive(Debug)]
pub(in crate::node) enum Waiting {
    Stream(SockId),
    Wish(Box<Wish>),
}

#[derive(Debug)]
struct Ask {
    until: Instant,
    /// Line that the peer called from; `None` where it asked over a broker.
    from: Option<Source>,
    waiting: SmallVec<[Waiting; MAX_WAITING]>,
}

#[derive(Debug, Default)]
pub(in crate::node) struct Asks {
    open: BTreeMap<NodeId, Ask>,
}

impl Asks {
    /// Returns true if one more thing of this peer may wait. `from` is the address of its stream, if it has one.
    pub(in crate::node) fn has_room(&self, peer: NodeId, from: Option<IpAddr>) -> bool {
        let from = from.map(Source::of);
        let share = if from.is_some() { MAX_OF_LINE } else { MAX_BY_BROKER };
        match self.open.get(&peer) {
            Some(ask) => ask.waiting.len() < MAX_WAITING,
            None => {
                self.open.len() < MAX_ASKS
                    && self.open.values().filter(|ask| ask.from == from).count() < share
            }
        }
    }

    /// Lets a stream or request wait for our user's word about a peer. Returns true if the user is to be asked now.
    ///
    /// # Errors
    /// The stream or request itself, if there is no room.
    pub(in crate::node) fn wait(
        &mut self,
        now: Instant,
        peer: NodeId,
        from: Option<IpAddr>,
        what: Waiting,
    ) -> Result<bool, Waiting> {
        if !self.has_room(peer, from) {
            return Err(what);
        }
        let new = !self.open.contains_key(&peer);
        let (until, from) = (now + ASK_WITHIN, from.map(Source::of));
        let ask = self.open.entry(peer).or_insert(Ask { until, from, waiting: SmallVec::new() });
        if !ask.waiting.iter().any(|other| other.is_same(&what)) {
            ask.waiting.push(what);
        }
        Ok(new)
    }

    /// Takes out the streams and requests that waited for the answer about this peer; nothing if nobody asked.
    pub(in crate::node) fn answered(&mut self, peer: NodeId) -> SmallVec<[Waiting; MAX_WAITING]> {
        self.open.remove(&peer).map(|ask| ask.waiting).unwrap_or_default()
    }

    /// Forgets a stream that has ended. Returns true if the peer waits for nothing any more.
    pub(in crate::node) fn left(&mut self, peer: NodeId, sock: SockId) -> bool {
        let Some(ask) = self.open.get_mut(&peer) else { return false };
        ask.waiting.retain(|what| !matches!(what, Waiting::Stream(other) if *other == sock));
        let is_over = ask.waiting.is_empty();
        if is_over {
            self.open.remove(&peer);
        }
        is_over
    }

    /// Returns the peers about whom our user has said nothing in time.
    pub(in crate::node) fn late(&self, now: Instant) -> Vec<NodeId> {
        self.open.iter().filter(|(_, ask)| ask.until <= now).map(|(peer, _)| *peer).collect()
    }

    pub(in crate::node) fn next(&self) -> Option<Instant> {
        self.open.values().map(|ask| ask.until).min()
    }

    pub(in crate::node) fn clear(&mut self) {
        self.open.clear();
    }
}

impl Waiting {
    /// Returns true if one of the two asks for nothing that the other does not.
    fn is_same(&self, other: &Waiting) -> bool {
        match (self, other) {
            (Waiting::Wish(a), Waiting::Wish(b)) => (a.session, a.how.kind()) == (b.session, b.how.kind()),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::SecretKey;

    #[test]
    fn no_line_and_no_broker_fills_all_places() {
        let mut asks = Asks::default();
        let peer = |n: u16| {
            let mut key = [1; 32];
            key[4..6].copy_from_slice(&n.to_be_bytes());
            SecretKey::from_bytes(key).node_id()
        };
        let mut keys = 0;
        let mut let_in = |asks: &mut Asks, from: Option<&str>| {
            (0..100)
                .filter(|_| {
                    keys += 1;
                    let from = from.map(|ip| ip.parse().unwrap());
                    let what = Waiting::Stream(SockId::from_number(keys.into()));
                    asks.wait(Instant::ZERO, peer(keys), from, what).is_ok()
                })
                .count()
        };
        assert_eq!(let_in(&mut asks, Some("192.0.2.1")), 8);
        assert_eq!(let_in(&mut asks, None), 48);
        assert_eq!(let_in(&mut asks, Some("2001:db8::1")), 8);
        assert_eq!(let_in(&mut asks, Some("192.0.2.2")), 0, "64 in all");
        // Whoever has a place may have four things wait, from wherever.
        let more = |asks: &mut Asks, n: u64| {
            asks.wait(Instant::ZERO, peer(1), None, Waiting::Stream(SockId::from_number(1000 + n))).is_ok()
        };
        assert_eq!([0, 1, 2, 3].map(|n| more(&mut asks, n)), [true, true, true, false]);
        asks.answered(peer(2));
        assert_eq!(let_in(&mut asks, Some("2001:db8::ffff")), 0, "the same line");
        assert_eq!(let_in(&mut asks, Some("2001:db8:0:1::1")), 1);
    }
}
