//! Rates and caps for the load that strangers can cause.

use core::time::Duration;
use std::collections::BTreeMap;

use crate::time::Instant;

/// A token bucket: `burst` at once, then one every `refill`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    refill: Duration,
    burst: u32,
    /// Time at which the bucket would be full again; in the past, it is full.
    full_at: Instant,
}

impl Bucket {
    pub(crate) const fn new(burst: u32, refill: Duration) -> Self {
        Bucket { refill, burst, full_at: Instant::from_nanos(i64::MIN) }
    }

    /// Takes one token if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        self.take_some(now, 1)
    }

    /// Takes so many tokens if there are as many.
    pub(crate) fn take_some(&mut self, now: Instant, tokens: u32) -> bool {
        let from = self.full_at.max(now);
        let next = from + self.refill * tokens;
        if next.since(now) > self.refill * self.burst {
            return false;
        }
        self.full_at = next;
        true
    }

    /// Puts tokens back that were taken for nothing.
    pub(crate) fn give_back(&mut self, tokens: u32) {
        self.full_at = self.full_at - self.refill * tokens;
    }

    /// Returns the earliest time at which there is a token.
    pub(crate) fn next(&self, now: Instant) -> Instant {
        let wait = (self.full_at.max(now) + self.refill).since(now).saturating_sub(self.refill * self.burst);
        now + wait
    }

    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }
}

/// Buckets, one per key, for at most `cap` keys that have used theirs lately. A further key is refused: better a
/// stranger waits than that memory grows.
#[derive(Debug)]
pub(crate) struct Buckets<K> {
    each: Bucket,
    cap: usize,
    used: BTreeMap<K, Bucket>,
}

impl<K: Ord + Copy> Buckets<K> {
    pub(crate) fn new(cap: usize, burst: u32, refill: Duration) -> Self {
        Buckets { each: Bucket::new(burst, refill), cap, used: BTreeMap::new() }
    }

    /// Returns false if [`take`](Self::take) would refuse a key that has used some of its tokens. True for every other
    /// key.
    pub(crate) fn allows(&self, now: Instant, key: K) -> bool {
        self.used.get(&key).is_none_or(|bucket| {
            let mut after = *bucket;
            after.take(now)
        })
    }

    /// Puts tokens of a key back that were taken for nothing.
    pub(crate) fn give_back(&mut self, key: K, tokens: u32) {
        if let Some(bucket) = self.used.get_mut(&key) {
            bucket.give_back(tokens);
        }
    }

    pub(crate) fn take(&mut self, now: Instant, key: K) -> bool {
        if let Some(bucket) = self.used.get_mut(&key) {
            return bucket.take(now);
        }
        if self.used.len() >= self.cap {
            self.used.retain(|_, b| !b.is_full(now));
        }
        if self.used.len() >= self.cap {
            return false;
        }
        let mut bucket = self.each;
        let taken = bucket.take(now);
        self.used.insert(key, bucket);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Instant = Instant::ZERO;
    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_then_the_rate() {
        let mut b = Bucket::new(3, S);
        assert_eq!([(); 4].map(|()| b.take(T)), [true, true, true, false]);
        assert_eq!(b.next(T), T + S);
        assert!(!b.take(T + Duration::from_millis(999)));
        assert!(b.take(T + S));
        assert!(!b.take(T + S));
        assert_eq!([(); 4].map(|()| b.take(T + 100 * S)), [true, true, true, false]);
        assert_eq!([4, 2, 2, 1, 1].map(|n| b.take_some(T + 200 * S, n)), [false, true, false, true, false]);
    }

    #[test]
    fn keys_are_bounded_and_idle_ones_make_room() {
        let mut b = Buckets::new(2, 1, S);
        assert!(b.take(T, 1) && b.take(T, 2));
        assert_eq!([1, 3].map(|key| b.allows(T, key)), [false, true]);
        assert!(!b.take(T, 3), "full of keys in use");
        assert!(!b.take(T, 1));
        assert!(b.take(T + S, 3), "the others are idle by now");
    }
}
