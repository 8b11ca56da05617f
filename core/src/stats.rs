//! Counters of what a node did, refused and dropped, so that its state, an attack or a fault can be seen.

use core::ops::Index;
use core::time::Duration;

use crate::call::Strategy;
use crate::event::{Event, FailReason};
use crate::io::Output;
use crate::pipe::PipeStart;

/// Counters of a node since its start. Counters only ever grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Events for a socket or query that is not, or no longer, known.
    pub unknown_ids: u64,
    /// Accepted streams closed because too many were saying hello, or too many came in a short time.
    pub streams_over_limit: u64,
    /// Accepted streams reset because our NAT still held an earlier dial of ours between the same ends, whose sequence
    /// numbers it would have expected.
    pub streams_refused_as_tainted: u64,
    /// Hellos that did not decrypt, were malformed, or took too long.
    pub bad_hellos: u64,
    /// Peers turned away: not accepted, busy, wrong session, plain not allowed.
    pub refused: u64,
    /// Messages from brokers beyond the rate of openings.
    pub messages_over_limit: u64,
    /// Messages from brokers that are not for us, malformed, or do not open.
    pub bad_messages: u64,
    /// Messages seen before: a second broker's copy, or a replay.
    pub repeated_messages: u64,
    /// Messages outside their lifetime, or sent by a clock more than 10 minutes off.
    pub stale_messages: u64,
    /// STUN datagrams that were no answer to us or malformed.
    pub bad_stun: u64,
    /// Datagrams to relayed addresses that were dropped, because their user took none.
    pub datagrams_dropped: u64,
    /// Calls of ours that got a pipe or a session's carrier.
    pub opened: ByStrategy,
    /// Time from the call to the pipe of each of these.
    pub open_times: Times,
    /// Pipes and carriers that peers opened.
    pub accepted: ByStrategy,
    /// Calls of ours that ended without a pipe.
    pub failed: Failures,
}

/// Counters by strategy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ByStrategy([u64; Strategy::ALL.len()]);

impl ByStrategy {
    /// Returns each strategy with its counter, in the order of [`Strategy::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (Strategy, u64)> {
        Strategy::ALL.into_iter().zip(self.0)
    }

    fn add(&mut self, strategy: Strategy, n: u64) {
        self.0[strategy as usize] += n;
    }
}

impl Index<Strategy> for ByStrategy {
    type Output = u64;

    fn index(&self, strategy: Strategy) -> &u64 {
        &self.0[strategy as usize]
    }
}

/// Histogram of times.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Times {
    counts: [u64; Times::BOUNDS.len() + 1],
    sum: Duration,
}

impl Times {
    /// Upper bounds of the buckets. A further bucket has what takes longer.
    pub const BOUNDS: [Duration; 10] = {
        let mut bounds = [Duration::ZERO; 10];
        let mut n = 0;
        while n < bounds.len() {
            bounds[n] = Duration::from_millis(50 << n);
            n += 1;
        }
        bounds
    };

    /// Returns the number of times in each bucket. One more than [`BOUNDS`](Self::BOUNDS) has.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Returns the sum of all times.
    pub fn sum(&self) -> Duration {
        self.sum
    }

    fn add(&mut self, time: Duration) {
        self.counts[Times::BOUNDS.partition_point(|bound| *bound < time)] += 1;
        self.sum += time;
    }
}

/// Calls that ended without a pipe, by reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Failures {
    /// The plan's deadline passed.
    pub deadline_passed: u64,
    /// Every strategy ended without a pipe.
    pub strategies_failed: u64,
    /// The peer's node did not accept us.
    pub refused_by_peer: u64,
    /// The peer's name did not lead to an address.
    pub name: u64,
    /// The node was shut down.
    pub shutdown: u64,
}

impl Stats {
    /// Counts what goes out to the driver.
    pub(crate) fn note(&mut self, output: &Output) {
        match output {
            Output::Detach { pipe, .. } => self.note_pipe(pipe),
            Output::OpenRelayed { start, .. } => self.note_pipe(start),
            Output::Event(Event::Failed { reason, .. }) => {
                let failed = &mut self.failed;
                *match reason {
                    FailReason::DeadlinePassed => &mut failed.deadline_passed,
                    FailReason::AllStrategiesFailed => &mut failed.strategies_failed,
                    FailReason::RefusedByPeer(_) => &mut failed.refused_by_peer,
                    FailReason::Name(_) => &mut failed.name,
                    FailReason::Shutdown => &mut failed.shutdown,
                } += 1;
            }
            _ => {}
        }
    }

    fn note_pipe(&mut self, start: &PipeStart) {
        if start.answers.is_empty() {
            return self.accepted.add(start.strategy, 1);
        }
        self.opened.add(start.strategy, start.answers.len() as u64);
        start.answers.iter().for_each(|_| self.open_times.add(start.elapsed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_bucket_below_whose_bound_it_is() {
        let mut times = Times::default();
        for ms in [0, 50, 51, 100, 25_600, 25_601] {
            times.add(Duration::from_millis(ms));
        }
        assert_eq!(times.counts(), [2, 2, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!(times.sum(), Duration::from_millis(51_402));
        assert_eq!(Times::BOUNDS[9], Duration::from_millis(25_600));
    }

    #[test]
    fn each_strategy_has_its_counter() {
        let mut counts = ByStrategy::default();
        for (n, strategy) in Strategy::ALL.into_iter().enumerate() {
            counts.add(strategy, n as u64 + 1);
        }
        assert!(counts.iter().eq(Strategy::ALL.into_iter().zip(1..)));
        assert!(counts.iter().all(|(strategy, n)| counts[strategy] == n));
    }
}
