//! How often something may happen.

use core::time::Duration;

/// A token bucket. One token comes back every `every`, up to `burst`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    every: Duration,
    burst: u32,
    /// When the bucket is full again.
    full_at: Duration,
}

impl Bucket {
    pub(crate) fn new(per_second: u32, burst: u32) -> Self {
        let every = Duration::from_secs(1) / per_second.max(1);
        Bucket { every, burst, full_at: Duration::ZERO }
    }

    /// Takes a token if there is one.
    pub(crate) fn take(&mut self, now: Duration) -> bool {
        let full_at = self.full_at.max(now) + self.every;
        let allowed = full_at - now <= self.every * self.burst;
        if allowed {
            self.full_at = full_at;
        }
        allowed
    }

    /// Whether nothing was taken lately, so that the bucket can be forgotten.
    pub(crate) fn is_full(&self, now: Duration) -> bool {
        self.full_at <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut bucket = Bucket::new(10, 3);
        let mut at = Duration::from_secs(5);
        let taken = |b: &mut Bucket, at| (0..10).filter(|_| b.take(at)).count();
        assert_eq!(taken(&mut bucket, at), 3);
        assert!(!bucket.is_full(at));
        at += Duration::from_millis(100);
        assert_eq!(taken(&mut bucket, at), 1);
        at += Duration::from_secs(60);
        assert!(bucket.is_full(at));
        assert_eq!(taken(&mut bucket, at), 3);
    }
}
