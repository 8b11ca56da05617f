//! When to call a peer again that a session has lost.

use std::time::Duration;

use p2pd_core::Instant;

/// First wait after a call that failed, and the longest one.
const WAITS: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// Time that a connection has to last to count as a success.
const WELL: Duration = Duration::from_secs(1);

/// Waits between calls: none before the first, 250 ms before the second, then twice the last, up to 5 s.
#[derive(Clone, Copy, Default, Debug)]
pub struct Again {
    last: Option<Duration>,
    /// Time since which nothing is missing.
    well: Option<Instant>,
}

impl Again {
    /// Returns the wait before the next call.
    pub fn wait(&mut self) -> Duration {
        let wait = self.last.map_or(Duration::ZERO, |last| (last * 2).clamp(WAITS.0, WAITS.1));
        self.last = Some(wait);
        wait
    }

    /// Notes whether a call is needed now. After a second without need the waits begin anew: a connection that breaks at
    /// once is no success.
    pub fn note(&mut self, now: Instant, needs: bool) {
        if !needs {
            self.well.get_or_insert(now);
        } else if self.well.take().is_some_and(|since| since + WELL <= now) {
            self.reset();
        }
    }

    /// Begins anew: the network has changed.
    pub fn reset(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_five_seconds_until_the_network_changes() {
        let mut again = Again::default();
        let waits: Vec<_> = (0..8).map(|_| again.wait().as_millis()).collect();
        assert_eq!(waits, [0, 250, 500, 1000, 2000, 4000, 5000, 5000]);
        again.reset();
        assert_eq!(again.wait(), Duration::ZERO);
    }

    #[test]
    fn a_connection_that_lasts_a_second_is_a_success() {
        let at = |millis: i64| Instant::from_nanos(millis * 1_000_000);
        for (lasted, wait) in [(999, 250), (1000, 0)] {
            let mut again = Again::default();
            again.wait();
            again.note(at(0), false);
            again.note(at(lasted - 1), false);
            again.note(at(lasted), true);
            assert_eq!(again.wait(), Duration::from_millis(wait));
        }
    }
}
