//! Statements of punches and reports, held against what happened, for drawn pairs of fixed seeds.

use std::collections::BTreeMap;

use p2pd_simulations::scenario::calibration::{Judged, bins, draw, error, judge};

#[test]
fn a_hundred_pairs_state_and_do_what_they_did() {
    let all: Vec<Judged> = (0..100).map(|seed| judge(&draw(seed))).collect();
    let bins = bins(all.iter().flat_map(|judged| judged.statements.iter().copied()));
    // Statements, the sum of what they say in thousandths, and how many of them came true.
    let found = bins.map(|bin| (bin.count, bin.stated, bin.hits));
    let rare = [(2, 0, 0), (3, 433, 1), (3, 700, 1), (3, 1103, 1), (4, 1670, 0), (1, 503, 1)];
    assert_eq!(found[..6], rare);
    assert_eq!(found[6..], [(0, 0, 0), (0, 0, 0), (1, 878, 1), (95, 91_339, 93)]);
    // Few statements are far from what they say by chance. 20,000 pairs: docs/src/measurements.md.
    assert_eq!((error(&bins) * 1e6).round(), 43_929.0);
    let sum = |of: fn(&Judged) -> usize| all.iter().map(of).sum::<usize>();
    let sums = [sum(|j| j.unstated as usize), sum(|j| j.joined.into()), sum(|j| j.types as usize)];
    assert_eq!(sums, [0, 98, 600]);
    let mut wrong: BTreeMap<&str, u32> = BTreeMap::new();
    all.iter().flat_map(|judged| &judged.wrong).for_each(|w| *wrong.entry(w).or_default() += 1);
    let expected = [
        ("filtering is said to be Address, and is Endpoint over TCP", 4),
        ("filtering is said to be AddressAndPort, and is Endpoint over TCP", 3),
        ("filtering is said to be Endpoint, and is Address over TCP", 1),
        ("filtering is said to be Endpoint, and is AddressAndPort over TCP", 2),
        ("ports are said to be the inside port, and is Mixed with Address mapping", 1),
        ("ports are said to be the inside port, and is Mixed with AddressAndPort mapping", 2),
        ("ports are said to be the inside port, and is Mixed with Endpoint mapping", 1),
    ];
    assert_eq!(wrong.into_iter().collect::<Vec<_>>(), expected);
    assert!(all.iter().flat_map(|judged| &judged.statements).all(|stated| stated.permille <= 999));
    assert!(all.iter().all(|judged| judged.violations.is_empty()));
}
