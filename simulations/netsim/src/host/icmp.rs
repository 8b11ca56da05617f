//! Limit of the ICMP errors that a Linux machine sends.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::engine::{Nanos, SECOND};

/// Budget of ICMP errors: one a second to each address (`icmp_ratelimit`), and six at once after a pause. A router that
/// answers dials by ICMP therefore falls silent under a redial loop. That silence lets the peer in, as the measured
/// matrices show.
#[derive(Debug, Default)]
pub(crate) struct IcmpBudget {
    last: BTreeMap<IpAddr, (Nanos, Nanos)>,
}

/// Addresses remembered; the oldest entries mean the least.
const MOST: usize = 4096;

impl IcmpBudget {
    /// Returns true if an error may go to this address now, and counts it.
    pub(crate) fn allows(&mut self, now: Nanos, to: IpAddr) -> bool {
        if self.last.len() >= MOST {
            self.last.clear();
        }
        let (saved, at) = self.last.get(&to).copied().unwrap_or((6 * SECOND, now));
        let saved = (saved + now.saturating_sub(at)).min(6 * SECOND);
        let allowed = saved >= SECOND;
        self.last.insert(to, (if allowed { saved - SECOND } else { saved }, now));
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn six_at_once_then_one_a_second_to_each() {
        let (mut budget, a, b) = (IcmpBudget::default(), [1, 1, 1, 1].into(), [2, 2, 2, 2].into());
        assert_eq!((0..10).filter(|_| budget.allows(0, a)).count(), 6);
        assert!(budget.allows(0, b));
        let spaced = (1..=40).filter(|n| budget.allows(n * SECOND / 4, a)).count();
        assert_eq!(spaced, 10);
    }
}
