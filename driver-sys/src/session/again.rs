//! When to call a peer again that a session has lost.

use std::time::Duration;

/// First wait after a call that failed, and the longest one.
const WAITS: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// Waits between calls: none before the first, 250 ms before the second, then twice the last, up to 5 s.
#[derive(Clone, Copy, Default, Debug)]
pub struct Again {
    last: Option<Duration>,
}

impl Again {
    /// Returns the wait before the next call.
    pub fn wait(&mut self) -> Duration {
        let wait = self.last.map_or(Duration::ZERO, |last| (last * 2).clamp(WAITS.0, WAITS.1));
        self.last = Some(wait);
        wait
    }

    /// Begins anew: a call has succeeded, or the network has changed.
    pub fn reset(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_five_seconds_until_a_call_succeeds() {
        let mut again = Again::default();
        let waits: Vec<_> = (0..8).map(|_| again.wait().as_millis()).collect();
        assert_eq!(waits, [0, 250, 500, 1000, 2000, 4000, 5000, 5000]);
        again.reset();
        assert_eq!(again.wait(), Duration::ZERO);
    }
}
