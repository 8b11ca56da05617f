//! Time as the core sees it: a number that the driver hands in.
//!
//! Neither type has a `now()`: asking the clock is the driver's business, which is what makes a run of
//! the core repeatable.

use core::fmt;
use core::time::Duration;

/// A point on the driver's monotonic clock, in nanoseconds since a point the driver chose.
///
/// Arithmetic saturates. The driver should use a clock that goes on during suspend, where the system has one.
/// Deadlines do not stretch with a closed lid then.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(i64);

impl Instant {
    /// The point the driver counts from.
    pub const ZERO: Instant = Instant(0);

    /// Returns the instant `ns` nanoseconds after the driver's zero.
    pub const fn from_nanos(ns: i64) -> Self {
        Instant(ns)
    }

    /// Returns the nanoseconds since the driver's zero.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// Returns the time from `earlier` to `self`, zero if `earlier` is later.
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl core::ops::Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, by: Duration) -> Instant {
        Instant(self.0.saturating_add(i64::try_from(by.as_nanos()).unwrap_or(i64::MAX)))
    }
}

impl core::ops::Sub<Duration> for Instant {
    type Output = Instant;
    fn sub(self, by: Duration) -> Instant {
        Instant(self.0.saturating_sub(i64::try_from(by.as_nanos()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ns", self.0)
    }
}

/// Wall-clock time, in microseconds since the Unix epoch (UTC, leap seconds smeared or repeated as the
/// system does).
///
/// Appears only where two computers compare times: the send time of a sealed message. No deadline
/// is ever kept in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct WallTime(i64);

impl WallTime {
    /// Returns the wall-clock time `us` microseconds after the Unix epoch.
    pub const fn from_micros(us: i64) -> Self {
        WallTime(us)
    }

    /// Returns the microseconds since the Unix epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Returns `self - other` in microseconds, saturating.
    pub const fn micros_since(self, other: WallTime) -> i64 {
        self.0.saturating_sub(other.0)
    }

    /// Returns the time moved by `us` microseconds, saturating.
    pub const fn offset_micros(self, us: i64) -> WallTime {
        WallTime(self.0.saturating_add(us))
    }
}

impl fmt::Debug for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}us", self.0)
    }
}

/// Reading of the wall clock by the driver: at the monotonic time `at` it was `wall`, give or take `error`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: a driver has to give all of it.
pub struct ClockFix {
    /// Monotonic time of the reading.
    pub at: Instant,
    /// Wall time of the reading.
    pub wall: WallTime,
    /// Bound of the error. A driver that only read the system clock says an hour.
    pub error: Duration,
}

impl ClockFix {
    /// Returns the wall-clock time at the monotonic time `now`.
    pub(crate) fn wall_at(&self, now: Instant) -> WallTime {
        self.wall.offset_micros(now.as_nanos().saturating_sub(self.at.as_nanos()) / 1_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_and_never_goes_negative() {
        let late = Instant::from_nanos(i64::MAX);
        assert_eq!(late + Duration::MAX, late);
        assert_eq!(Instant::from_nanos(i64::MIN) - Duration::MAX, Instant::from_nanos(i64::MIN));
        assert_eq!(Instant::ZERO.since(late), Duration::ZERO);
        assert_eq!((Instant::ZERO + Duration::from_secs(3)).since(Instant::ZERO), Duration::from_secs(3));
    }

    #[test]
    fn a_clock_fix_extrapolates_both_ways() {
        let at = Instant::ZERO + Duration::from_secs(10);
        let fix = ClockFix { at, wall: WallTime::from_micros(1_000_000), error: Duration::ZERO };
        assert_eq!(fix.wall_at(at + Duration::from_millis(5)).as_micros(), 1_005_000);
        assert_eq!(fix.wall_at(at - Duration::from_millis(5)).as_micros(), 995_000);
    }
}
