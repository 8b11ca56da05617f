//! Repeated calls of a session: when the end that called calls again, and by which strategies.

use std::time::Duration;

use p2pd_core::{Instant, Plan, Strategy};

/// First wait after a call that failed, and the longest one.
const WAITS: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// Time that a connection has to last to count as a success.
const WELL: Duration = Duration::from_secs(1);
/// First wait of a session on a relay before a better way is tried, and the longest one. Each is twice the last.
const BETTER: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));

/// Calls for the carriers of one session.
///
/// A session that lacks a carrier calls by its whole plan: at once, 250 ms after the first failure, then after twice the
/// last wait, up to 5 s. A session on a relay calls by the plan's other strategies: after 10 s, then twice the last wait,
/// up to 10 min. Where the plan has the [relay first](Plan::relay_first), and after a change of the network, the first of
/// these calls is at once. A session that was off the relay for a second begins with 10 s again.
#[derive(Clone, Debug)]
pub struct Calls {
    plan: Plan,
    calling: bool,
    /// Last wait for a carrier that is lacking.
    waited: Option<Duration>,
    /// Time since which nothing is lacking.
    well: Option<Instant>,
    /// Time since which the session is on no relay.
    direct: Option<Instant>,
    /// Time of the next call for a carrier that is lacking.
    at: Option<Instant>,
    /// Next wait for a better way, and the time of that call.
    better: Duration,
    better_at: Option<Instant>,
}

impl Calls {
    /// Returns the calls after the first one, which opened the session.
    pub fn new(plan: Plan) -> Self {
        let better = if plan.relay_first { Duration::ZERO } else { BETTER.0 };
        Calls {
            plan,
            calling: false,
            waited: None,
            well: None,
            direct: None,
            at: None,
            better,
            better_at: None,
        }
    }

    /// Returns the plan of a call that is due. The next one is due after this one has [ended](Self::ended).
    ///
    /// `lacks`: the session lacks a carrier. `relayed`: it is on a relay.
    pub fn poll(&mut self, now: Instant, lacks: bool, relayed: bool) -> Option<Plan> {
        self.note(now, lacks, relayed);
        if !relayed || self.plan.strategies.iter().all(|strategy| *strategy == Strategy::Relay) {
            self.better_at = None;
        } else if self.better_at.is_none() {
            self.better_at = Some(now + self.better);
            self.better = (self.better * 2).clamp(BETTER.0, BETTER.1);
        }
        if self.calling {
            return None;
        }
        if lacks && self.at.is_none() {
            self.at = Some(now + self.wait());
        }
        self.due(lacks).filter(|at| *at <= now)?;
        self.calling = true;
        let mut plan = self.plan.clone();
        if !lacks {
            self.better_at = None;
            plan.strategies.retain(|strategy| *strategy != Strategy::Relay);
        }
        Some(plan)
    }

    /// Takes in that the call has ended, with a carrier or without.
    pub fn ended(&mut self, now: Instant, lacks: bool, opened: bool) {
        self.calling = false;
        self.at = (lacks && !opened).then(|| now + self.wait());
    }

    /// Takes in that the network has changed: what waits is due. A call that is under way goes on over the new network by
    /// itself, as ADR 27 says.
    pub fn network_changed(&mut self) {
        (self.waited, self.better) = (None, Duration::ZERO);
        (self.at, self.better_at) = (None, None);
    }

    /// Returns the time at which [`poll`](Self::poll) has a call to begin.
    pub fn deadline(&self, lacks: bool) -> Option<Instant> {
        self.due(lacks).filter(|_| !self.calling)
    }

    /// Returns the time of the next call: one for a carrier that is lacking is not for a better way.
    fn due(&self, lacks: bool) -> Option<Instant> {
        if lacks { self.at } else { self.better_at }
    }

    fn wait(&mut self) -> Duration {
        let wait = self.waited.map_or(Duration::ZERO, |last| (last * 2).clamp(WAITS.0, WAITS.1));
        self.waited = Some(wait);
        wait
    }

    /// Has the waits begin anew after a second in which nothing was lacking: a connection that breaks at once is no success.
    fn note(&mut self, now: Instant, lacks: bool, relayed: bool) {
        if !lacks {
            self.well.get_or_insert(now);
        } else if self.well.take().is_some_and(|since| since + WELL <= now) {
            self.waited = None;
        }
        if !lacks && !relayed {
            self.direct.get_or_insert(now);
        } else if self.direct.take().is_some_and(|since| since + WELL <= now) {
            self.better = BETTER.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Strategy; 3] = [Strategy::Direct, Strategy::Punch, Strategy::Relay];

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis as i64 * 1_000_000)
    }

    fn calls(strategies: &[Strategy], relay_first: bool) -> Calls {
        Calls::new(Plan::new().strategies(strategies.iter().copied()).relay_first(relay_first))
    }

    /// Times in milliseconds at which calls begin, in a minute in which each takes this long and fails.
    fn begins(calls: &mut Calls, took: u64, lacks: bool, relayed: bool) -> Vec<(u64, usize)> {
        let (mut begun, mut ends) = (Vec::new(), None);
        for now in 0..60_000 {
            if ends == Some(now) {
                calls.ended(at(now), lacks, false);
            }
            if let Some(plan) = calls.poll(at(now), lacks, relayed) {
                begun.push((now, plan.strategies.len()));
                ends = Some(now + took);
            }
            assert!(calls.deadline(lacks).is_none_or(|due| due > at(now)), "the deadline moves");
        }
        begun
    }

    #[test]
    fn what_is_lacking_is_called_for_after_waits_that_double_up_to_five_seconds() {
        let mut of = calls(&ALL, false);
        let begun = begins(&mut of, 1, true, false);
        let waits: Vec<u64> = begun.windows(2).map(|two| two[1].0 - two[0].0 - 1).collect();
        assert_eq!((begun[0], &waits[..7]), ((0, 3), &[250, 500, 1000, 2000, 4000, 5000, 5000][..]));
        of.ended(at(60_000), true, false);
        of.network_changed();
        assert_eq!(of.poll(at(60_000), true, false).unwrap().strategies[..], ALL);
    }

    #[test]
    fn a_connection_that_lasts_a_second_is_a_success() {
        for (lasted, wait) in [(999, 250), (1000, 0)] {
            let mut of = calls(&ALL, false);
            assert!(of.poll(at(0), true, false).is_some());
            of.ended(at(0), true, true);
            for now in [0, lasted - 1] {
                assert_eq!(of.poll(at(now), false, false), None);
            }
            assert_eq!(of.poll(at(lasted), true, false).is_some(), wait == 0);
            assert_eq!(of.deadline(true), (wait > 0).then(|| at(lasted + wait)));
        }
    }

    #[test]
    fn on_a_relay_a_better_way_is_tried_after_ten_seconds_and_twice_that() {
        assert_eq!(begins(&mut calls(&ALL, false), 1, false, true), [(10_000, 2), (30_001, 2)]);
        assert_eq!(begins(&mut calls(&ALL, true), 1, false, true), [(0, 2), (10_001, 2), (30_002, 2)]);
        // A call outlasts its wait.
        assert_eq!(begins(&mut calls(&ALL, true), 20_000, false, true), [(0, 2), (20_000, 2), (40_001, 2)]);
        assert_eq!(begins(&mut calls(&[Strategy::Relay], true), 1, false, true), []);
        assert_eq!(begins(&mut calls(&ALL, true), 1, false, false), []);
    }

    #[test]
    fn a_change_of_the_network_and_a_time_off_the_relay_begin_the_waits_for_a_better_way_anew() {
        let mut of = calls(&ALL, false);
        assert_eq!(begins(&mut of, 1, false, true), [(10_000, 2), (30_001, 2)]);
        of.network_changed();
        assert_eq!(begins(&mut of, 1, false, true), [(0, 2), (10_001, 2), (30_002, 2)]);
        for (off, next) in [(999, 80_000), (1000, 10_000)] {
            let mut of = calls(&ALL, false);
            let begun = begins(&mut of, 1, false, true);
            assert_eq!(begun.len(), 2);
            of.ended(at(60_000), false, true);
            for now in [60_000, 60_000 + off] {
                assert_eq!(of.poll(at(now), false, false), None);
            }
            assert_eq!(of.poll(at(60_000 + off), false, true), None);
            assert_eq!(of.deadline(false), Some(at(60_000 + off + next)));
        }
    }
}
