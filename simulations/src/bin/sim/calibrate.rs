//! Holds what punches and reports state against what is so.

use std::collections::BTreeMap;
use std::time::Instant;

use clap::Args;
use p2pd_simulations::engine::Digest;
use p2pd_simulations::scenario::calibration::{Judged, bins, draw, error, judge};

use super::grid::in_threads;

/// Options of `sim calibrate`.
#[derive(Args)]
pub struct Calibrate {
    /// Number of drawn pairs.
    #[arg(long, default_value_t = 20_000)]
    pairs: u64,
    /// The first pair's seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Worlds run at the same time.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    threads: usize,
}

/// Runs the pairs and prints the ten bins and the wrong statements.
pub fn run(options: &Calibrate) -> bool {
    let begin = Instant::now();
    let seeds: Vec<u64> = (options.seed..options.seed + options.pairs).collect();
    let all: Vec<Judged> = in_threads(&seeds, options.threads, |seed| judge(&draw(*seed)));
    let bins = bins(all.iter().flat_map(|judged| judged.statements.iter().copied()));
    println!("{:<12} {:>10} {:>9} {:>9}", "stated", "statements", "mean %", "hit %");
    for (n, bin) in bins.iter().enumerate().filter(|(_, bin)| bin.count > 0) {
        let (stated, hit) = bin.shares();
        let range = format!("{} to {} %", n * 10, n * 10 + 10);
        println!("{range:<12} {:>10} {:>9.2} {:>9.2}", bin.count, stated * 100.0, hit * 100.0);
    }
    let joined = all.iter().filter(|judged| judged.joined).count();
    let (unstated, types) = all.iter().fold((0, 0), |(a, b), judged| (a + judged.unstated, b + judged.types));
    let statements: usize = all.iter().map(|judged| judged.statements.len()).sum();
    let mut wrong: BTreeMap<&str, u32> = BTreeMap::new();
    all.iter().flat_map(|judged| &judged.wrong).for_each(|w| *wrong.entry(w).or_default() += 1);
    let mut wrong: Vec<(&str, u32)> = wrong.into_iter().collect();
    wrong.sort_by_key(|(_, count)| core::cmp::Reverse(*count));
    let count: u32 = wrong.iter().map(|(_, count)| count).sum();
    println!("{count} of {types} statements of type are wrong:");
    wrong.iter().for_each(|(what, count)| println!("  {count:>6}  {what}"));
    let mut digest = Digest::default();
    all.iter().for_each(|judged| digest.word(judged.digest));
    println!(
        "{} pairs, {joined} joined; {statements} statements of probability, {unstated} rungs without one; \
         expected calibration error {:.2} %",
        options.pairs,
        error(&bins) * 100.0
    );
    println!("digest {:016x}; {} s", digest.value(), begin.elapsed().as_secs());
    let violations = seeds.iter().zip(&all).flat_map(|(seed, j)| j.violations.iter().map(move |v| (seed, v)));
    let violations: Vec<_> = violations.collect();
    violations.iter().for_each(|(seed, v)| println!("VIOLATION seed {seed}: {v}"));
    violations.is_empty()
}
