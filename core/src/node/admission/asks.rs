//! Questions to our user about peers, and the streams and requests that wait for each answer.

use core::time::Duration;
use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::wish::Wish;
use crate::identity::NodeId;
use crate::io::SockId;
use crate::time::Instant;

/// Most peers that our user is asked about at a time, and most things one of them may have waiting.
const MAX_ASKS: usize = 64;
const MAX_WAITING: usize = 4;
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
    waiting: SmallVec<[Waiting; MAX_WAITING]>,
}

#[derive(Debug, Default)]
pub(in crate::node) struct Asks {
    open: BTreeMap<NodeId, Ask>,
}

impl Asks {
    pub(in crate::node) fn has_room(&self, peer: NodeId) -> bool {
        match self.open.get(&peer) {
            Some(ask) => ask.waiting.len() < MAX_WAITING,
            None => self.open.len() < MAX_ASKS,
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
        what: Waiting,
    ) -> Result<bool, Waiting> {
        if !self.has_room(peer) {
            return Err(what);
        }
        let new = !self.open.contains_key(&peer);
        let ask = self.open.entry(peer).or_insert(Ask { until: now + ASK_WITHIN, waiting: SmallVec::new() });
        if !ask.waiting.iter().any(|other| other.is_same(&what)) {
            ask.waiting.push(what);
        }
        Ok(new)
    }

    /// Takes out the streams and requests that waited for the answer about this peer; nothing if nobody asked.
    pub(in crate::node) fn answered(&mut self, peer: NodeId) -> SmallVec<[Waiting; MAX_WAITING]> {
        self.open.remove(&peer).map(|ask| ask.waiting).unwrap_or_default()
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
