//! The time that more than half of the servers allow.

/// Earliest and latest time that it may be, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Interval {
    low: i64,
    high: i64,
}

impl Interval {
    pub(super) fn new(middle: i64, bound: i64) -> Self {
        Interval { low: middle.saturating_sub(bound), high: middle.saturating_add(bound) }
    }

    pub(super) fn width(&self) -> i64 {
        self.high.saturating_sub(self.low)
    }

    fn middle(&self) -> i64 {
        self.low + self.width() / 2
    }
}

/// Returns an estimate and its bound; `None` where no point lies in more than half of the intervals.
///
/// If fewer than half lie, the truth lies in each of the others', so in more than half. Marzullo's algorithm would
/// take the points in most intervals: a liar can draw these away from the truth.
pub(super) fn select(intervals: &[Interval]) -> Option<(i64, i64)> {
    let needed = intervals.len() / 2 + 1;
    let covered = |point: i64| intervals.iter().filter(|i| (i.low..=i.high).contains(&point)).count();
    // The outermost such points are ends of intervals: a lower end begins what is covered, a higher one ends it.
    let low = intervals.iter().map(|i| i.low).filter(|p| covered(*p) >= needed).min()?;
    let high = intervals.iter().map(|i| i.high).filter(|p| covered(*p) >= needed).max()?;
    let agrees = |i: &&Interval| i.low <= high && i.high >= low;
    let best = intervals.iter().filter(agrees).min_by_key(|i| i.width())?;
    let estimate = best.middle().clamp(low, high);
    Some((estimate, high.saturating_sub(estimate).max(estimate.saturating_sub(low))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(intervals: &[(i64, i64)]) -> Option<(i64, i64)> {
        let intervals: Vec<_> =
            intervals.iter().map(|(middle, bound)| Interval::new(*middle, *bound)).collect();
        select(&intervals)
    }

    #[test]
    fn a_minority_is_outvoted_and_two_who_contradict_each_other_say_nothing() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[(50, 10)]), Some((50, 10)));
        assert_eq!(of(&[(50, 10), (100, 10)]), None);
        assert_eq!(of(&[(50, 10), (65, 10)]), Some((55, 5)));
        assert_eq!(of(&[(50, 10), (51, 20), (9_000, 1)]), Some((50, 10)));
        // Both sides of the truth at 58: a liar that agrees with each a little does not shrink the bound.
        assert_eq!(of(&[(50, 10), (52, 10), (44, 2)]), Some((44, 16)));
        assert_eq!(of(&[(0, 1), (10, 1), (20, 1), (30, 1)]), None);
    }

    #[test]
    fn ends_of_time_do_not_overflow() {
        assert_eq!(of(&[(i64::MAX, 10), (i64::MIN, 10), (0, i64::MAX)]).unwrap().1, i64::MAX);
        assert_eq!(of(&[(0, i64::MAX), (1, i64::MAX)]).unwrap().1, i64::MAX);
    }
}
