//! Tests of our punch between kinds of NAT, against what physics allows.

use p2pd_simulations::oracle::Budget;
use p2pd_simulations::scenario::grid::{cells, sample, try_cell};

/// The pairs that are tried, of 46,656.
const PAIRS: usize = 120;

#[test]
fn of_pairs_that_must_be_joined_few_are_missed() {
    let all = sample(cells(None), PAIRS, 1);
    let tried: Vec<_> = all.into_iter().map(|cell| try_cell(cell, Budget::CORE, 0..1)).collect();
    let wrong: Vec<&String> = tried.iter().flat_map(|t| &t.violations).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    let missed: Vec<_> = tried.iter().filter(|t| t.is_missed()).map(|t| t.cell).collect();
    assert!(missed.len() <= 60, "{} of {PAIRS}: {missed:?}", missed.len());
}
