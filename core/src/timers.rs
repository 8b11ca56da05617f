//! The earliest deadline out of many.

use std::collections::{BTreeMap, BTreeSet};

use crate::time::Instant;

/// Deadlines, at most one per key; the earliest is known at once.
#[derive(Debug)]
pub(crate) struct Timers<K> {
    at: BTreeMap<K, Instant>,
    order: BTreeSet<(Instant, K)>,
    /// The earliest, kept so that asking costs nothing.
    first: Option<Instant>,
}

impl<K: Ord + Copy> Timers<K> {
    pub(crate) fn new() -> Self {
        Timers { at: BTreeMap::new(), order: BTreeSet::new(), first: None }
    }

    /// Sets, moves or, with `None`, removes the deadline of `key`.
    pub(crate) fn set(&mut self, key: K, at: Option<Instant>) {
        let old = match at {
            Some(at) => self.at.insert(key, at),
            None => self.at.remove(&key),
        };
        if old == at {
            return;
        }
        if let Some(old) = old {
            self.order.remove(&(old, key));
        }
        if let Some(at) = at {
            self.order.insert((at, key));
        }
        self.first = self.order.first().map(|(at, _)| *at);
    }

    pub(crate) fn first(&self) -> Option<Instant> {
        self.first
    }

    /// Takes out the earliest key that is due, if any.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<K> {
        let (at, key) = *self.order.first()?;
        if at > now {
            return None;
        }
        self.set(key, None);
        Some(key)
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_comes_first_and_moves() {
        let t = Instant::from_nanos;
        let mut timers = Timers::new();
        timers.set('a', Some(t(30)));
        timers.set('b', Some(t(10)));
        timers.set('c', Some(t(20)));
        assert_eq!(timers.first(), Some(t(10)));
        timers.set('b', Some(t(40)));
        assert_eq!(timers.first(), Some(t(20)));
        timers.set('c', None);
        assert_eq!(timers.pop_due(t(29)), None);
        assert_eq!(timers.pop_due(t(50)), Some('a'));
        assert_eq!(timers.pop_due(t(50)), Some('b'));
        assert_eq!((timers.pop_due(t(50)), timers.first()), (None, None));
    }
}
