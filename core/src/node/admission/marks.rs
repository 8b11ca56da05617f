//! Choice of the envelopes that are opened.
//!
//! Opening one takes 0.18 ms (measured) and only then tells its sender. So the openings have a rate for each broker.
//! Beyond that rate an envelope is opened if its mark shows that it is a named peer's: no flood of strangers hides
//! that. A mark is looked for with the keys of named peers, one after the other, for as much work as is set aside.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use crate::config::MAX_SERVERS;
use crate::identity::{NodeId, SecretKey};
use crate::limit::{Bucket, Buckets};
use crate::signal::seal::{MARKED_WITHIN, MarkKey};
use crate::time::{Instant, WallTime};

/// Openings of envelopes of one broker, by any sender: at most 4 % of a core.
const OPENED: Bucket = Bucket::new(200, Duration::from_millis(5));
/// Openings for one named peer beyond that.
const OF_ONE: (u32, Duration) = (64, Duration::from_millis(100));
const PEERS: usize = 8192;
/// Looking for a mark, by the number of keys: one takes 0.39 us (measured), so that this is at most 4 % of a
/// core.
const WORK: Bucket = Bucket::new(50_000, Duration::from_micros(10));
/// A key that is not at hand takes as much as so many marks.
const KEY_WORK: u32 = 150;
/// A mark counts for some minutes, and once.
const MARKED: Duration = Duration::from_secs(60 * (2 * MARKED_WITHIN as u64 + 1));

#[derive(Debug)]
pub(super) struct Marks {
    opened: [Bucket; MAX_SERVERS],
    of_one: Buckets<NodeId>,
    work: Bucket,
    keys: BTreeMap<NodeId, MarkKey>,
    /// Beginnings of envelopes that were let in for their marks, and when.
    seen: BTreeSet<[u8; 16]>,
    by_time: BTreeSet<(Instant, [u8; 16])>,
}

impl Marks {
    pub(super) fn new() -> Self {
        Marks {
            opened: [OPENED; MAX_SERVERS],
            of_one: Buckets::new(PEERS, OF_ONE.0, OF_ONE.1),
            work: WORK,
            keys: BTreeMap::new(),
            seen: BTreeSet::new(),
            by_time: BTreeSet::new(),
        }
    }

    /// Returns true if an envelope that came over the broker at this place is to be opened.
    pub(super) fn admit(
        &mut self,
        (now, wall): (Instant, WallTime),
        place: u8,
        ours: &SecretKey,
        envelope: &[u8],
        named: impl Iterator<Item = NodeId>,
    ) -> bool {
        if self.opened.get_mut(usize::from(place)).is_some_and(|bucket| bucket.take(now)) {
            return true;
        }
        while let Some((at, mark)) = self.by_time.first().copied().filter(|(at, _)| *at + MARKED < now) {
            self.by_time.remove(&(at, mark));
            self.seen.remove(&mark);
        }
        let Some(mark) = envelope.first_chunk().copied().filter(|mark| !self.seen.contains(mark)) else {
            return false;
        };
        let Some(peer) = self.sender((now, wall), ours, envelope, named) else { return false };
        let admitted = self.of_one.take(now, peer);
        if admitted {
            self.seen.insert(mark);
            self.by_time.insert((now, mark));
        }
        admitted
    }

    /// Returns the named peer whose mark it is, as far as there is work left.
    fn sender(
        &mut self,
        (now, wall): (Instant, WallTime),
        ours: &SecretKey,
        envelope: &[u8],
        named: impl Iterator<Item = NodeId>,
    ) -> Option<NodeId> {
        let reader = ours.node_id();
        if self.keys.len() > PEERS {
            self.keys.clear();
        }
        for peer in named {
            if !self.keys.contains_key(&peer) {
                if !self.work.take_some(now, KEY_WORK) {
                    return None;
                }
                self.keys.insert(peer, MarkKey::new(ours, &peer));
            }
            if !self.work.take(now) {
                return None;
            }
            if self.keys.get(&peer).is_some_and(|key| key.is_of(envelope, &reader, wall)) {
                return Some(peer);
            }
        }
        None
    }
}
