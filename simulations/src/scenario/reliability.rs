//! Compares the hit rate of searches for random ports with the rate that the report states.

use p2pd_core::{PROBES, SPRAY, hit_permille};

use super::census::Drawn;
use super::census::{Class, Home};
use super::pair::{Ending, run};
use super::plan::By;
use crate::engine::{MILLI, Nanos, SECOND};
use crate::nat::{Alloc, Chain, NatSpec};

/// Least time from a rung that searches to the next one. Without a search the next rung follows after two seconds and
/// the signalling. A search takes two seconds for its thousand probes and at least one and a half for the last of them.
/// So a later rung followed a search that had found nothing.
const SEARCHED: Nanos = 3 * SECOND;

/// A kind of NAT whose ports are searched for, and the loss on the way.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Name in tables.
    pub name: &'static str,
    /// Allocation of the random ports.
    pub alloc: Alloc,
    /// Range of its ports, first and last.
    pub range: (u16, u16),
    /// Packets lost from one to the other, in a million.
    pub loss_ppm: u32,
}

const fn case(name: &'static str, alloc: Alloc, range: (u16, u16), loss_ppm: u32) -> Case {
    Case { name, alloc, range, loss_ppm }
}

/// Cases under test.
pub const CASES: [Case; 6] = [
    case("random, 1024-65535", Alloc::Random, (1_024, 65_535), 0),
    case("random, 1024-65535, 3 % lost", Alloc::Random, (1_024, 65_535), 30_000),
    case("random, 50001-65535", Alloc::Random, (50_001, 65_535), 0),
    case("random within a block of 4096", Alloc::Block(4_096), (1_024, 65_535), 0),
    case("random within a block of 2048", Alloc::Block(2_048), (1_024, 65_535), 0),
    case("random within a block of 512", Alloc::Block(512), (1_024, 65_535), 0),
];

/// Results of a case's pairs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Searches.
    pub pairs: u64,
    /// Searches that hit at the first try.
    pub hits: u64,
    /// Pairs whose ports were taken for counted ones by chance, so that nothing was searched.
    pub other: u64,
}

/// Returns the hit rate that core's report states for a NAT with random ports, in thousandths. The report takes such
/// ports to be any unprivileged ones. In a block the search covers a guess of the block, for which the figure differs
/// each time.
pub fn stated(case: &Case) -> Option<u32> {
    let everywhere = case.alloc == Alloc::Random;
    everywhere.then(|| hit_permille(SPRAY.into(), PROBES.into(), 64_512))
}

/// The pair of this seed: a port-preserving home, and one of random ports; who calls alternates.
pub fn pair(case: &Case, seed: u64) -> Drawn {
    let spec = NatSpec { range: case.range, ..NatSpec::LINUX.alloc(case.alloc) };
    let random = Home { class: Class::I, chain: Chain(vec![spec]), spoil: None };
    let kept = Home { class: Class::A, chain: Chain(vec![NatSpec::LINUX]), spoil: None };
    let homes = if seed.is_multiple_of(2) { [kept, random] } else { [random, kept] };
    let one_way = 30 * MILLI;
    Drawn { seed, homes, one_way, signal: one_way, loss_ppm: case.loss_ppm, turn: true, peer_443: false }
}

/// Returns true if the first search hit; `None` if there was none.
pub fn hit(ending: &Ending) -> Option<bool> {
    let rungs = &ending.rungs;
    let failed_search = rungs.windows(2).any(|w| w[1] - w[0] >= SEARCHED);
    let joined = ending.strategy.is_some();
    match (failed_search, joined) {
        (true, _) => Some(false),
        (false, true) => Some(true),
        (false, false) => None,
    }
}

/// Runs a case.
pub fn tally(case: &Case, first: u64, pairs: u64) -> Tally {
    let mut tally = Tally::default();
    for seed in first..first + pairs {
        match hit(&run(&pair(case, seed).pair(By::Punch))) {
            Some(hit) => {
                tally.pairs += 1;
                tally.hits += u64::from(hit);
            }
            None => tally.other += 1,
        }
    }
    tally
}
