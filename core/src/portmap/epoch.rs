//! Detection of a server's lost state: the server says how long it has had its state, in seconds.

use crate::time::Instant;

/// Last epoch of a server, and the time it arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Epoch {
    said: u32,
    at: Instant,
}

/// RFC whose rule applies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rule {
    /// RFC 6887 section 8.5.
    Pcp,
    /// RFC 6886 section 3.6.
    Pmp,
}

impl Epoch {
    /// Takes in the server's epoch. Returns true if the server must have lost its state since `before`.
    pub(super) fn hear(before: &mut Option<Epoch>, rule: Rule, said: u32, now: Instant) -> bool {
        let last = before.replace(Epoch { said, at: now });
        let Some(last) = last else { return false };
        let ours = i64::try_from(now.since(last.at).as_secs()).unwrap_or(i64::MAX);
        let theirs = i64::from(said) - i64::from(last.said);
        match rule {
            Rule::Pcp => {
                theirs < -1 || ours.saturating_add(2) < theirs - theirs / 16 || theirs + 2 < ours - ours / 16
            }
            Rule::Pmp => theirs + 2 < ours - ours / 8,
        }
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;

    #[test]
    fn a_restart_is_told_from_a_clock_that_is_a_little_wrong() {
        for (rule, ours, theirs, lost) in [
            (Rule::Pcp, 0, -1, false),
            (Rule::Pcp, 0, -2, true),
            (Rule::Pcp, 3600, 3600, false),
            (Rule::Pcp, 3600, 3400, false),
            (Rule::Pcp, 3600, 3372, true),
            (Rule::Pcp, 3600, 4000, true),
            (Rule::Pmp, 3600, 3148, false),
            (Rule::Pmp, 3600, 3147, true),
            (Rule::Pmp, 3600, 9000, false),
            (Rule::Pmp, 0, -3, true),
        ] {
            let mut epoch = None;
            assert!(!Epoch::hear(&mut epoch, rule, 50_000, Instant::ZERO), "nothing to compare with");
            let now = Instant::ZERO + Duration::from_secs(ours);
            let said = (50_000_i64 + theirs) as u32;
            assert_eq!(Epoch::hear(&mut epoch, rule, said, now), lost, "{rule:?} {ours} {theirs}");
        }
    }
}
