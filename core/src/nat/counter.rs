//! A NAT that counts its ports, watched: how many of its numbers others take, and whether it counts at all.

use core::time::Duration;

use crate::strategy::punch::MAX_OTHERS;
use crate::time::Instant;

/// State of a NAT's port counter, as observed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Counter {
    step: i16,
    last: Sight,
    /// Numbers that were not ours, and the time in which they went.
    others: u32,
    over: Duration,
    /// Grows with each port that does not follow, shrinks with each that does.
    doubt: u8,
}

/// Observation of one of our mappings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sight {
    pub(crate) port: u16,
    pub(crate) at: Instant,
    /// Number of flows that we had begun by then.
    pub(crate) flows: u32,
}

/// The port does not follow from those before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NoCounter;

/// Largest distance to a port ahead. A port further ahead counts as behind.
const AHEAD: u16 = 32_768;

impl Counter {
    pub(crate) fn new(step: i16, last: Sight) -> Self {
        Counter { step, last, others: 0, over: Duration::ZERO, doubt: 0 }
    }

    /// A later mapping of ours.
    pub(crate) fn see(&mut self, sight: Sight) -> Result<(), NoCounter> {
        let before = core::mem::replace(&mut self.last, sight);
        let ahead = distance(before.port, sight.port, self.step);
        let step = self.step.unsigned_abs().max(1);
        if ahead > AHEAD || !ahead.is_multiple_of(step) {
            // It began again at its lowest, or there is no counter: the next one tells.
            self.doubt += 2;
            return if self.doubt > 2 { Err(NoCounter) } else { Ok(()) };
        }
        self.doubt = self.doubt.saturating_sub(1);
        let ours = sight.flows.saturating_sub(before.flows);
        self.others = self.others.saturating_add(u32::from(ahead / step).saturating_sub(ours));
        self.over += sight.at.since(before.at);
        Ok(())
    }

    /// Returns the number of ports that others are expected to take within this time, at their rate so far.
    pub(crate) fn expected(&self, within: Duration) -> u16 {
        let over = self.over.as_micros().max(1) as u64;
        let others = u64::from(self.others) * within.as_micros() as u64 / over;
        others.min(MAX_OTHERS.into()) as u16
    }
}

/// Returns the distance from one port to another, in the direction that the NAT counts.
fn distance(from: u16, to: u16, step: i16) -> u16 {
    if step < 0 { from.wrapping_sub(to) } else { to.wrapping_sub(from) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(port: u16, millis: u64, flows: u32) -> Sight {
        Sight { port, at: Instant::ZERO + Duration::from_millis(millis), flows }
    }

    #[test]
    fn others_are_told_from_ourselves_and_extrapolated() {
        let mut counter = Counter::new(2, sight(40_000, 0, 10));
        assert_eq!(counter.expected(Duration::from_secs(1)), 0, "nothing is known yet");
        // Ten numbers in 200 ms, four of them ours: six are others'.
        assert_eq!(counter.see(sight(40_020, 200, 14)), Ok(()));
        assert_eq!(counter.expected(Duration::from_millis(100)), 3);
        assert_eq!(counter.expected(Duration::from_secs(1000)), 4096);
        // A quiet while halves the rate.
        assert_eq!(counter.see(sight(40_022, 400, 15)), Ok(()));
        assert_eq!(counter.expected(Duration::from_millis(100)), 1);
        assert_eq!(counter.last, sight(40_022, 400, 15));
    }

    #[test]
    fn what_goes_back_or_between_the_steps_twice_is_no_counter() {
        let seen = |step, ports: &[u16]| {
            let mut counter = Counter::new(step, sight(40_000, 0, 0));
            let mut all =
                ports.iter().zip(1..).map(|(port, n)| counter.see(sight(*port, u64::from(n) * 100, n)));
            all.position(|s| s.is_err())
        };
        assert_eq!(seen(1, &[39_000, 38_000]), Some(1));
        assert_eq!(seen(2, &[40_005, 40_008]), Some(1));
        assert_eq!(seen(1, &[39_000, 39_001, 38_000]), Some(2), "right in between");
        assert_eq!(seen(1, &[39_000, 39_001, 39_002, 38_000]), None, "it counts round a small range");
        assert_eq!(seen(-2, &[39_990, 39_980, 39_970]), None);
        let mut over = Counter::new(1, sight(65_535, 0, 0));
        assert_eq!(over.see(sight(3, 100, 1)), Ok(()), "past the highest");
        assert_eq!(over.expected(Duration::from_millis(100)), 3);
    }
}
