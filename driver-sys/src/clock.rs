//! The driver's clocks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use p2pd_core::{ClockFix, Instant, WallTime};

/// A monotonic clock that counts from its creation. Where the system has one that goes on while the machine sleeps it is
/// that, so that deadlines do not stretch with a closed lid.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    zero: i64,
}

impl Clock {
    /// A clock that shows zero now.
    pub fn start() -> Self {
        Clock { zero: nanos() }
    }

    /// The time now.
    pub fn now(&self) -> Instant {
        Instant::from_nanos(nanos() - self.zero)
    }

    /// Returns the time left until `at`; zero if it has passed.
    pub fn until(&self, at: Instant) -> Duration {
        at.since(self.now())
    }
}

fn nanos() -> i64 {
    crate::sys::through().unwrap_or_else(crate::sys::awake)
}

/// Returns the time of the system's wall clock at `now`. Its error is not known, so it is given as an hour.
pub fn wall_clock(now: Instant) -> ClockFix {
    let micros = match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_micros()).unwrap_or(i64::MAX),
    };
    ClockFix { at: now, wall: WallTime::from_micros(micros), error: Duration::from_secs(3600) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_starts_at_zero_and_moves_with_sleep() {
        let clock = Clock::start();
        let before = clock.now();
        std::thread::sleep(Duration::from_millis(5));
        let after = clock.now();
        assert!(before.as_nanos() >= 0 && after.since(before) >= Duration::from_millis(5));
        assert_eq!(clock.until(before), Duration::ZERO);
        let fix = wall_clock(after);
        assert!(fix.wall.as_micros() > 1_600_000_000_000_000, "the machine's clock is set");
    }
}
