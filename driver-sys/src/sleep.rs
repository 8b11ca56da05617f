//! Detection of sleep of the machine, and of changes of its wall clock, by comparing clocks.
//!
//! The reasons: ADR 27 in docs/src/adr.

use crate::sys;

/// Most difference of the clocks from look to look. Their rates differ by 500 ppm at most, and a thread may be kept
/// waiting between two readings.
const SLACK: i64 = 1_000_000_000;

/// Reading of all clocks at one time, in nanoseconds since times of their own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reading {
    /// Stands still while the machine sleeps.
    pub(crate) awake: i64,
    /// Goes on while the machine sleeps, or is the wall clock where there is no such clock.
    pub(crate) through: i64,
    /// The wall clock.
    pub(crate) wall: i64,
}

/// Event between two looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Jump {
    /// The machine slept. On the BSDs it may also be that somebody set its wall clock ahead.
    Slept,
    /// The wall clock was set.
    Set,
}

/// Clocks as they were at the last look, for comparison.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watch {
    last: Reading,
}

impl Watch {
    /// A first look.
    pub(crate) fn new(reading: Reading) -> Self {
        Watch { last: reading }
    }

    /// Returns the event since the last look, if there was one.
    pub(crate) fn look(&mut self, now: Reading) -> Option<Jump> {
        let last = std::mem::replace(&mut self.last, now);
        let [awake, through, wall] =
            [(now.awake, last.awake), (now.through, last.through), (now.wall, last.wall)]
                .map(|(now, last)| now.saturating_sub(last));
        match through.saturating_sub(awake) {
            slept if slept > SLACK => Some(Jump::Slept),
            _ if wall.saturating_sub(through).abs() > SLACK => Some(Jump::Set),
            back if back < -SLACK => Some(Jump::Set),
            _ => None,
        }
    }
}

/// The clocks now.
pub(crate) fn read() -> Reading {
    let wall = match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        Err(_) => 0,
    };
    Reading { awake: sys::awake(), through: sys::through().unwrap_or(wall), wall }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const S: i64 = 1_000_000_000;

    #[test]
    fn sleep_and_a_set_clock_are_told_from_drift() {
        for (awake, through, wall, jump) in [
            (5 * S, 5 * S, 5 * S, None),
            // Rates that differ, and a wait between two readings.
            (1000 * S, 1000 * S + S / 2, 1000 * S + S, None),
            (5 * S, 3605 * S, 3605 * S, Some(Jump::Slept)),
            (0, 2 * S, 2 * S, Some(Jump::Slept)),
            // Slept, and the clock was set after it.
            (5 * S, 15 * S, 999 * S, Some(Jump::Slept)),
            (5 * S, 5 * S, 7 * S, Some(Jump::Set)),
            (5 * S, 5 * S, -3600 * S, Some(Jump::Set)),
            // Where the wall clock stands in for one that goes on through sleep.
            (5 * S, -3600 * S, -3600 * S, Some(Jump::Set)),
        ] {
            let zero = Reading { awake: 7, through: 8, wall: 9 };
            let mut watch = Watch::new(zero);
            let now = Reading { awake: 7 + awake, through: 8 + through, wall: 9 + wall };
            assert_eq!(watch.look(now), jump, "{awake} {through} {wall}");
            assert_eq!(watch.look(now), None, "told once");
        }
    }

    #[test]
    fn the_machines_own_clocks_agree_while_it_is_awake() {
        let mut watch = Watch::new(read());
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(watch.look(read()), None);
    }
}
