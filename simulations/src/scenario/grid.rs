//! Pairs of kinds of NAT: what our punch makes of them, held against what physics allows.

use std::time::Duration;

use super::pair::{Ending, Pair, Relaying, run};
use super::plan::By;
use crate::domain;
use crate::engine::{Keyed, MILLI, Nanos};
use crate::nat::{Chain, Hairpin, Kind, NatSpec, Pattern};
use crate::net::LinkSpec;
use crate::oracle::{Bound, Budget};

/// Time from one home to the other: a round trip of 40 ms, as in the laboratory's field.
pub const ONE_WAY: Nanos = 20 * MILLI;
/// Time from a broker to the internet.
const BROKER: Nanos = 5 * MILLI;
/// The same way over the signalling.
const SIGNAL: Nanos = ONE_WAY + 2 * BROKER;
/// Least time between two dials of a search, by core's manners.
const SYN_EVERY: Nanos = 2 * MILLI;

/// A pair of the grid: the kinds of the listener and of the caller.
pub type Cell = [Kind; 2];

/// Every ordered pair of kinds that the patterns have: the listener's and the caller's.
pub fn cells(patterns: Option<&[Pattern; 2]>) -> Vec<Cell> {
    let has = |side: usize, kind: &Kind| patterns.is_none_or(|p| p[side].has(*kind));
    let callers: Vec<Kind> = Kind::all().filter(|kind| has(1, kind)).collect();
    let listeners = Kind::all().filter(|kind| has(0, kind));
    listeners.flat_map(|a| callers.iter().map(move |b| [a, *b])).collect()
}

/// Returns `count` of these pairs, drawn without repetition by this seed, in their order.
pub fn sample(mut cells: Vec<Cell>, count: usize, seed: u64) -> Vec<Cell> {
    let rng = Keyed::new(seed);
    let count = count.min(cells.len());
    for n in 0..count {
        let left = (cells.len() - n) as u64;
        cells.swap(n, n + rng.below(domain::SCENARIO, 0, n as u64, left) as usize);
    }
    cells.truncate(count);
    cells.sort_unstable();
    cells
}

/// Draws the chains of a pair beside the grid: of one kind or two in a row, with one external address or several, and with
/// or without hairpins.
pub fn beside(seed: u64) -> [Chain; 2] {
    let rng = Keyed::new(seed);
    [0, 1].map(|side| {
        let below = |n: u64, bound: u64| rng.below(domain::SCENARIO, 3_000 + side, n, bound);
        let nat = |n: u64| {
            let kind = Kind::all().nth(below(n, Kind::COUNT as u64) as usize).map(Kind::spec);
            let mut nat = kind.unwrap_or(NatSpec::LINUX);
            if below(n + 1, 4) == 0 {
                (nat.pool, nat.paired) = (2 + below(n + 2, 3) as u8, below(n + 3, 2) == 0);
            }
            nat.hairpin = [Hairpin::Dropped, Hairpin::External][below(n + 4, 2) as usize];
            nat
        };
        Chain((0..=below(0, 2)).map(|n| nat(1 + 10 * n)).collect())
    })
}

/// The world of two chains, in which our nodes meet by this plan. They know each other.
pub fn pair(seed: u64, chains: [Chain; 2], by: By) -> Pair {
    let mut pair = Pair::new(seed, chains);
    pair.known = true;
    pair.strategies = by.strategies();
    pair.relay = Some(Relaying::default());
    pair.timeout = Duration::from_secs(60);
    pair.links = [LinkSpec::with_delay(ONE_WAY / 2); 2];
    pair.broker_delay = BROKER;
    pair
}

/// Returns the time by which a punch of this bound can be through in half of the cases. The ends announce themselves, one
/// after the other, search, and open a stream with a hello in two round trips.
pub fn least_time(bound: Bound) -> Nanos {
    2 * SIGNAL + 4 * ONE_WAY + Nanos::from(bound.dials) * SYN_EVERY
}

/// Outcome of the runs of a pair.
#[derive(Clone, Debug)]
pub struct Tried {
    /// The NATs of the listener and of the caller.
    pub chains: [Chain; 2],
    /// Bound of what can be reached.
    pub bound: Bound,
    /// Number of runs.
    pub runs: u32,
    /// Number of those that connected.
    pub joined: u32,
    /// Time from the call to the pipe, in all of them together.
    pub took: Nanos,
    /// Reason of the first failure.
    pub why: String,
    /// Violations of invariants.
    pub violations: Vec<String>,
    /// Digests of all runs.
    pub digests: Vec<u64>,
}

impl Tried {
    /// Returns the pair of kinds, if that is what the chains are.
    pub fn cell(&self) -> Option<Cell> {
        let kind = |chain: &Chain| chain.0.first().filter(|_| chain.0.len() == 1).and_then(Kind::of);
        Some([kind(&self.chains[0])?, kind(&self.chains[1])?])
    }

    /// Returns the share of probability that was left on the table; below 0 where luck gave more than can be counted on.
    pub fn regret(&self) -> f64 {
        self.bound.probability - f64::from(self.joined) / f64::from(self.runs.max(1))
    }

    /// Returns true for a pair that must be joined in each run, and was not.
    pub fn is_missed(&self) -> bool {
        self.bound.must() && self.joined < self.runs
    }

    /// Returns the mean time of the joined runs above the bound's.
    pub fn late(&self) -> Option<Nanos> {
        let mean = self.took.checked_div(u64::from(self.joined))?;
        Some(mean.saturating_sub(least_time(self.bound)))
    }
}

/// Runs a pair of the grid with these seeds.
pub fn try_cell(cell: Cell, by: By, budget: Budget, seeds: core::ops::Range<u64>) -> Tried {
    try_chains(cell.map(|kind| Chain(vec![kind.spec()])), by, budget, seeds)
}

/// Runs two chains with these seeds.
pub fn try_chains(chains: [Chain; 2], by: By, budget: Budget, seeds: core::ops::Range<u64>) -> Tried {
    let bound = by.bound(&chains[0], &chains[1], budget);
    let (violations, digests, why) = (Vec::new(), Vec::new(), String::new());
    let mut tried = Tried { chains, bound, runs: 0, joined: 0, took: 0, why, violations, digests };
    for seed in seeds {
        let Ending { strategy, took, why, violations, digest, .. } =
            run(&pair(seed, tried.chains.clone(), by));
        tried.runs += 1;
        tried.digests.push(digest);
        tried.violations.extend(violations.into_iter().map(|v| format!("seed {seed}: {v}")));
        if strategy.is_some() {
            tried.joined += 1;
            tried.took += took;
        } else if tried.why.is_empty() {
            tried.why = format!("seed {seed}: {why}");
        }
    }
    tried
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_of_the_grid_and_the_same_for_a_seed() {
        let all = cells(None);
        assert_eq!(all.len(), 46_656);
        let some = sample(all.clone(), 300, 1);
        assert!(some.len() == 300 && some.windows(2).all(|w| w[0] < w[1]));
        assert_eq!(some, sample(all.clone(), 300, 1));
        assert_ne!(some, sample(all, 300, 2));
        let patterns = ["apdm.apdf.seq".parse().unwrap(), "eim".parse().unwrap()];
        assert_eq!(cells(Some(&patterns)).len(), 3 * 72);
        let beside: Vec<Chain> = (0..500).flat_map(beside).collect();
        let count = |of: fn(&Chain) -> bool| beside.iter().filter(|chain| of(chain)).count();
        assert!(count(|c| c.0.len() == 2).abs_diff(500) < 70);
        assert!(count(|c| c.0.iter().any(|nat| nat.pool > 1)).abs_diff(345) < 70);
    }
}
