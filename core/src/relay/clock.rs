//! Clock for quinn-proto. Its interface wants `std::time::Instant`, which nobody can make without reading the clock.

#![expect(clippy::disallowed_types, reason = "quinn-proto's interface; the values come from the driver")]

use std::sync::LazyLock;
// In a browser quinn-proto's interface has web-time's types.
#[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
use std::time::{Instant as StdInstant, SystemTime};

use quinn_proto::TimeSource;
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
use web_time::{Instant as StdInstant, SystemTime};

use crate::time::Instant;

/// The one value that is read from a clock in the core. Only differences to it are ever looked at, so nothing
/// depends on it.
static BASE: LazyLock<StdInstant> = LazyLock::new(StdInstant::now);

/// The core's time, monotonic, and as quinn-proto wants it.
#[derive(Debug)]
pub(super) struct Clock {
    zero: Instant,
    now: Instant,
}

impl Clock {
    pub(super) fn starting(now: Instant) -> Self {
        Clock { zero: now, now }
    }

    /// Moves on to `now`, or stands still if that is earlier.
    pub(super) fn advance(&mut self, now: Instant) -> StdInstant {
        self.now = self.now.max(now);
        *BASE + self.now.since(self.zero)
    }

    pub(super) fn now(&self) -> Instant {
        self.now
    }

    pub(super) fn tell(&self, at: StdInstant) -> Instant {
        self.zero + at.saturating_duration_since(*BASE)
    }
}

/// Clock for the age of address validation tokens, of which there are none.
pub(super) struct NoWallClock;

impl TimeSource for NoWallClock {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;

    #[test]
    fn times_come_back_as_they_went_and_never_go_back() {
        let zero = Instant::from_nanos(-7_000_000_001);
        let mut clock = Clock::starting(zero);
        for ns in [0, 1, 999_999_999, 86_400_000_000_003] {
            let at = zero + Duration::from_nanos(ns);
            let std = clock.advance(at);
            assert_eq!(clock.tell(std), at);
            assert_eq!(clock.advance(at - Duration::from_secs(1)), std);
            assert_eq!(clock.now(), at);
        }
    }
}
