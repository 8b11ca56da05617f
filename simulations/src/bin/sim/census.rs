//! Compares p2pd's punching with that of others, on pairs of homes drawn from the census.

use std::collections::BTreeMap;
use std::time::Instant;

use p2pd_simulations::engine::{MILLI, Nanos};
use p2pd_simulations::scenario::census::{Class, Drawn, Group, draw, wilson};
use p2pd_simulations::scenario::pair::run;
use p2pd_simulations::scenario::reliability::{CASES, stated, tally};
use p2pd_simulations::scenario::rivals::{Rival, joins};

/// Tried and joined, by kind of pair.
#[derive(Default)]
struct Row([(u64, u64); 4]);

impl Row {
    fn add(&mut self, group: Group, joined: bool) {
        let (tried, hits) = &mut self.0[group as usize];
        *tried += 1;
        *hits += u64::from(joined);
    }

    fn print(&self, name: &str) {
        print!("{name:<22}");
        let all = self.0.iter().fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        for (tried, hits) in self.0.into_iter().chain([all]) {
            let (low, high) = wilson(hits, tried);
            let percent = |x: u64| format!("{}.{}", x / 100, x % 100 / 10);
            let share = percent(hits * 10_000 / tried.max(1));
            print!("{share:>6} {:<14}", format!("[{}, {}]", percent(low), percent(high)));
        }
        println!();
    }
}

fn words(drawn: &Drawn) -> String {
    let [a, b] = &drawn.homes;
    format!(
        "{:?}-{:?}, {} ms one way, {} ms by signalling, {} % lost\n  listens: {}\n  calls:   {}",
        a.class,
        b.class,
        drawn.one_way / MILLI,
        drawn.signal / MILLI,
        drawn.loss_ppm / 10_000,
        a.chain,
        b.chain
    )
}

/// Runs one pair and says everything about it.
pub fn one(seed: u64, turn: bool, trace: bool) -> bool {
    let drawn = Drawn { turn, ..draw(seed) };
    println!("seed {seed}: {}", words(&drawn));
    for rival in Rival::ALL {
        println!("{:<22} {}", rival.name(), if joins(rival, &drawn) { "joined" } else { "failed" });
    }
    let mut pair = drawn.pair();
    pair.trace = trace;
    if drawn.group() == Group::Closed {
        println!("ours                   not run: TCP leaves for ports 80 and 443 only");
        return true;
    }
    let ending = run(&pair);
    print!("{}", ending.trace);
    let how = if ending.strategy.is_some() { "joined" } else { "failed" };
    println!("ours                   {how} after {} ms {}", ending.took / MILLI, ending.why);
    ending.violations.iter().for_each(|v| println!("VIOLATION {v}"));
    ending.violations.is_empty()
}

/// Runs `pairs` pairs under every policy, and prints the table and the pairs that p2pd loses.
pub fn all(first: u64, pairs: u64, ours_only: bool, turn: bool) -> bool {
    let begin = Instant::now();
    let mut ours = Row::default();
    let mut rivals = Rival::ALL.map(|r| (r, Row::default()));
    let mut lost: BTreeMap<(Class, Class), (u64, Vec<String>)> = BTreeMap::new();
    let mut tried: BTreeMap<(Class, Class), u64> = BTreeMap::new();
    let (mut wrong, mut took): (Vec<String>, Vec<Nanos>) = (Vec::new(), Vec::new());
    for seed in first..first + pairs {
        let drawn = Drawn { turn, ..draw(seed) };
        let group = drawn.group();
        for (rival, row) in rivals.iter_mut().filter(|_| !ours_only) {
            row.add(group, joins(*rival, &drawn));
        }
        *tried.entry(drawn.classes()).or_default() += 1;
        let Some(ending) = drawn.ours() else {
            ours.add(group, false);
            continue;
        };
        ours.add(group, ending.strategy.is_some());
        wrong.extend(ending.violations.iter().map(|v| format!("seed {seed}: {v}")));
        if ending.strategy.is_some() {
            took.push(ending.took);
        } else {
            let (count, examples) = lost.entry(drawn.classes()).or_default();
            *count += 1;
            if examples.len() < 3 {
                examples.push(format!("seed {seed}: {}", ending.why));
            }
        }
    }
    println!("{pairs} pairs from seed {first}, per cent joined by punching alone, 95 % intervals (Wilson)");
    print!("{:<22}", "");
    Group::ALL.iter().for_each(|g| print!("{:>6}               ", g.name()));
    println!("   all");
    for (rival, row) in rivals.iter().filter(|_| !ours_only) {
        row.print(rival.name());
    }
    ours.print("ours");
    took.sort_unstable();
    if let (Some(middle), Some(late)) = (took.get(took.len() / 2), took.get(took.len() * 19 / 20)) {
        println!("ours: open after {} ms (median), {} ms (95 %)", middle / MILLI, late / MILLI);
    }
    println!("pairs that ours loses, by classes:");
    let mut lost: Vec<_> = lost.into_iter().collect();
    lost.sort_by_key(|(_, (count, _))| core::cmp::Reverse(*count));
    for (classes, (count, examples)) in lost {
        println!("  {:?}-{:?}: {count} of {}", classes.0, classes.1, tried[&classes]);
        examples.iter().for_each(|e| println!("    {e}"));
    }
    println!("one of them: sim census --one SEED --trace; {} s", begin.elapsed().as_secs());
    wrong.iter().for_each(|w| println!("VIOLATION {w}"));
    wrong.is_empty()
}

/// Prints the hit rate of searches and the rate that the report states.
pub fn reliability(first: u64, pairs: u64) {
    println!("{:<32} {:>7}  {:>6}  95 % interval    searches", "the searched NAT", "stated", "hit");
    for case in CASES {
        let stated = stated(&case).map_or("block".into(), |p| format!("{}.{}", p / 10, p % 10));
        let tally = tally(&case, first, pairs);
        let (low, high) = wilson(tally.hits, tally.pairs);
        let share = tally.hits * 10_000 / tally.pairs.max(1);
        println!(
            "{:<32} {stated:>7}  {:>3}.{:02}  [{}.{:02}, {}.{:02}]  {:>6}, {} pairs without",
            case.name,
            share / 100,
            share % 100,
            low / 100,
            low % 100,
            high / 100,
            high % 100,
            tally.pairs,
            tally.other
        );
    }
}
