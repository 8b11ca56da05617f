//! The narrowest place of a way: a rate, and a queue before it or none.

use crate::engine::{Nanos, SECOND};

/// A bottleneck of one direction. Packets that find the queue full are lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bottleneck {
    /// Bits a second.
    pub rate: u64,
    /// Longest time of a packet in the queue.
    pub queue: Nanos,
    /// True if packets do not wait: what would have to wait for longer than `queue` is lost, and all else passes at once.
    pub polices: bool,
    /// Time at which the packets queued now will be through.
    free_at: Nanos,
}

impl Bottleneck {
    /// An empty one.
    pub const fn new(rate: u64, queue: Nanos) -> Self {
        Bottleneck { rate, queue, polices: false, free_at: 0 }
    }

    /// A policer, which lets so much through at once as takes `burst` at the rate.
    pub const fn policer(rate: u64, burst: Nanos) -> Self {
        Bottleneck { polices: true, ..Bottleneck::new(rate, burst) }
    }

    /// Returns the time at which a packet of `bytes` bytes that comes at `now` is through; `None` if it is lost.
    pub fn pass(&mut self, now: Nanos, bytes: usize) -> Option<Nanos> {
        let begin = self.free_at.max(now);
        if begin - now > self.queue {
            return None;
        }
        self.free_at = begin + bytes as u64 * 8 * SECOND / self.rate;
        Some(if self.polices { now } else { self.free_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::MILLI;

    #[test]
    fn packets_wait_for_each_other_and_too_many_are_lost() {
        // A millisecond each.
        let mut narrow = Bottleneck::new(8_000_000, 3 * MILLI);
        let through: Vec<_> = (0..6).map(|_| narrow.pass(MILLI, 1_000)).collect();
        assert_eq!(
            through,
            [Some(2), Some(3), Some(4), Some(5), None, None].map(|t| t.map(|t: u64| t * MILLI))
        );
        assert_eq!(narrow.pass(2 * MILLI, 1_000), Some(6 * MILLI));
        assert_eq!(narrow.pass(60 * MILLI, 500), Some(60 * MILLI + MILLI / 2));
        let mut policer = Bottleneck::policer(8_000_000, 3 * MILLI);
        let through: Vec<_> = (0..6).map(|_| policer.pass(MILLI, 1_000)).collect();
        assert_eq!(through, [Some(MILLI), Some(MILLI), Some(MILLI), Some(MILLI), None, None]);
        assert_eq!(policer.pass(2 * MILLI, 1_000), Some(2 * MILLI));
    }
}
