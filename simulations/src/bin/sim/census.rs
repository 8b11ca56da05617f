//! Compares p2pd's punching with that of others, on pairs of homes drawn from the census.

use std::collections::BTreeMap;
use std::time::Instant;

use p2pd_core::Strategy;
use p2pd_simulations::engine::{MILLI, Nanos};
use p2pd_simulations::scenario::census::{
    BASIC, Census, Class, Drawn, EXTENDED, Group, Home, SPOILS, draw_from, wilson,
};
use p2pd_simulations::scenario::pair::{Ending, run};
use p2pd_simulations::scenario::plan::By;
use p2pd_simulations::scenario::reliability::{CASES, stated, tally};
use p2pd_simulations::scenario::rivals::{Rival, joins};

use super::grid::in_threads;

/// Tried and joined, by kind of pair.
#[derive(Default)]
struct Row([(u64, u64); Group::ALL.len()]);

impl Row {
    fn add(&mut self, group: Group, joined: bool) {
        let (tried, hits) = &mut self.0[group as usize];
        *tried += 1;
        *hits += u64::from(joined);
    }

    fn print(&self, name: &str) {
        print!("{name:<22}");
        let all = self.0.iter().fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        for (tried, hits) in self.0.into_iter().chain([all]).filter(|(tried, _)| *tried > 0) {
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

/// Choices about the homes.
#[derive(Clone, Copy)]
pub struct Homes {
    /// Draws from the extended census.
    pub extended: bool,
    /// Lays over the homes what spoils TCP or UDP, and compares plans by these.
    pub spoilt: bool,
    /// The only plan, if not all are compared.
    pub by: Option<By>,
    /// Gives the homes a TURN server.
    pub turn: bool,
    /// Runs homes of class K, against nodes that have port 443 where they can.
    pub peer_443: bool,
}

impl Homes {
    fn census(self) -> Census {
        let census = if self.extended { EXTENDED } else { BASIC };
        Census { spoils: if self.spoilt { SPOILS } else { &[] }, ..census }
    }

    /// The plans that are compared, the best first.
    fn plans(self) -> Vec<By> {
        match self.by {
            Some(by) => vec![by],
            None if self.spoilt => vec![By::Both, By::Tcp, By::Udp],
            None => vec![By::Punch],
        }
    }

    fn draw(self, seed: u64) -> Drawn {
        Drawn { turn: self.turn, peer_443: self.peer_443, ..draw_from(&self.census(), seed) }
    }
}

/// Runs one pair and says everything about it.
pub fn one(seed: u64, homes: Homes, trace: bool) -> bool {
    let drawn = homes.draw(seed);
    println!("seed {seed}: {}", words(&drawn));
    for rival in Rival::ALL {
        println!("{:<22} {}", rival.name(), if joins(rival, &drawn) { "joined" } else { "failed" });
    }
    if drawn.is_lost() {
        println!("ours                   not run: TCP leaves for ports 80 and 443 only");
        return true;
    }
    let mut good = true;
    for by in homes.plans() {
        let mut pair = drawn.pair(by);
        pair.trace = trace;
        let ending = run(&pair);
        print!("{}", ending.trace);
        let how = ending.strategy.map_or("failed".into(), |strategy| format!("joined by {strategy}"));
        let (took, bound) = (ending.took / MILLI, 100.0 * drawn.bound(by));
        println!("{:<22} {how} after {took} ms, bound {bound:.1} % {}", name(by), ending.why);
        ending.violations.iter().for_each(|v| println!("VIOLATION {v}"));
        good &= ending.violations.is_empty();
    }
    good
}

/// Returns a plan's name in tables.
fn name(by: By) -> String {
    if by == By::Punch { "ours".into() } else { format!("ours, {}", by.name()) }
}

/// A pair of homes, and what became of it.
struct Outcome {
    drawn: Drawn,
    rivals: [bool; Rival::ALL.len()],
    /// The plan of which the rest is told.
    by: By,
    /// Outcomes of all plans.
    plans: Vec<bool>,
    strategy: Option<Strategy>,
    joined: bool,
    took: Nanos,
    syns: u64,
    why: String,
    violations: Vec<String>,
}

/// Runs `pairs` pairs under every policy, and prints the table, the bound, and the pairs that p2pd loses.
pub fn all(first: u64, pairs: u64, homes: Homes, ours_only: bool, sensitivity: bool, threads: usize) -> bool {
    let begin = Instant::now();
    let seeds: Vec<u64> = (first..first + pairs).collect();
    let outcomes = in_threads(&seeds, threads, |seed| {
        let drawn = homes.draw(*seed);
        let rivals = Rival::ALL.map(|rival| !ours_only && joins(rival, &drawn));
        let endings: Vec<Option<Ending>> = homes.plans().iter().map(|by| drawn.ours(*by)).collect();
        let plans = endings.iter().map(|e| e.as_ref().is_some_and(|e| e.strategy.is_some())).collect();
        let violations = endings.iter().flatten().flat_map(|e| e.violations.clone()).collect();
        let (strategy, took, syns, why) = match endings.into_iter().next().flatten() {
            Some(e) => (e.strategy, e.took, e.syns, e.why),
            None => (None, 0, 0, String::new()),
        };
        let joined = strategy.is_some();
        Outcome { drawn, rivals, by: homes.plans()[0], plans, strategy, joined, took, syns, why, violations }
    });
    println!("{pairs} pairs from seed {first}, per cent joined by punching alone, 95 % intervals (Wilson)");
    let row = |joined: &dyn Fn(&Outcome) -> bool| {
        let mut row = Row::default();
        outcomes.iter().for_each(|o| row.add(o.drawn.group(), joined(o)));
        row
    };
    let ours = row(&|o| o.joined);
    print!("{:<22}", "");
    let tried = Group::ALL.iter().zip(ours.0).filter(|(_, (tried, _))| *tried > 0);
    tried.for_each(|(g, _)| print!("{:>6}               ", g.name()));
    println!("   all");
    for (n, rival) in Rival::ALL.into_iter().enumerate().filter(|_| !ours_only) {
        row(&|o| o.rivals[n]).print(rival.name());
    }
    for (n, by) in homes.plans().iter().enumerate() {
        row(&|o| o.plans[n]).print(&name(*by));
        bounds(&outcomes, *by);
    }
    winners(&outcomes);
    times(&outcomes);
    lost(&outcomes);
    if sensitivity {
        print_sensitivity(&outcomes, &homes.census());
    }
    println!("one of them: sim census --one SEED --trace; {} s", begin.elapsed().as_secs());
    let wrong = outcomes.iter().flat_map(|o| o.violations.iter().map(|v| (o.drawn.seed, v)));
    let wrong: Vec<_> = wrong.collect();
    wrong.iter().for_each(|(seed, v)| println!("VIOLATION seed {seed}: {v}"));
    wrong.is_empty()
}

/// Prints the most that any punch can reach, for the kinds of pairs.
fn bounds(outcomes: &[Outcome], by: By) {
    print!("{:<22}", "  bound");
    let mean = |of: &dyn Fn(&Outcome) -> bool| {
        let bounds: Vec<f64> = outcomes.iter().filter(|o| of(o)).map(|o| o.drawn.bound(by)).collect();
        (!bounds.is_empty()).then(|| 100.0 * bounds.iter().sum::<f64>() / bounds.len() as f64)
    };
    for group in Group::ALL {
        if let Some(mean) = mean(&|o| o.drawn.group() == group) {
            print!("{mean:>6.1}               ");
        }
    }
    println!("{:>6.2}", mean(&|_| true).unwrap_or(0.0));
}

/// Prints how many pairs each strategy has opened.
fn winners(outcomes: &[Outcome]) {
    let count = |strategy: &Strategy| outcomes.iter().filter(|o| o.strategy == Some(*strategy)).count();
    let told: Vec<_> = Strategy::ALL.iter().map(|s| (s, count(s))).filter(|(_, n)| *n > 0).collect();
    let told: Vec<_> = told.iter().map(|(strategy, n)| format!("{strategy} {n}")).collect();
    println!("opened by: {}", told.join(", "));
}

/// Time that a connect of ours is to take at the 95 % point.
const SLOW: Nanos = 1_200 * MILLI;

/// Prints how long p2pd takes, and which pairs of classes take longer than they should.
fn times(outcomes: &[Outcome]) {
    let joined = || outcomes.iter().filter(|o| o.joined);
    let print = |name: &str, of: &dyn Fn(&Outcome) -> bool| {
        let mut took: Vec<Nanos> = joined().filter(|o| of(o)).map(|o| o.took).collect();
        took.sort_unstable();
        if let (Some(middle), Some(late)) = (took.get(took.len() / 2), took.get(took.len() * 19 / 20)) {
            println!("ours, {name}: open after {} ms (median), {} ms (95 %)", middle / MILLI, late / MILLI);
        }
    };
    Group::ALL.iter().for_each(|group| print(group.name(), &|o| o.drawn.group() == *group));
    print("all", &|_| true);
    let mut syns: Vec<u64> = joined().map(|o| o.syns).collect();
    syns.sort_unstable();
    if let (Some(middle), Some(late), Some(most)) =
        (syns.get(syns.len() / 2), syns.get(syns.len() * 19 / 20), syns.last())
    {
        println!(
            "SYNs of both hosts in a connect, repeats included: {middle} (median), {late} (95 %), {most} at most"
        );
    }
    let mut slow: BTreeMap<(Class, Class), usize> = BTreeMap::new();
    joined().filter(|o| o.took > SLOW).for_each(|o| *slow.entry(o.drawn.classes()).or_default() += 1);
    let mut slow: Vec<_> = slow.into_iter().collect();
    slow.sort_by_key(|(_, count)| core::cmp::Reverse(*count));
    let told: Vec<_> = slow.iter().take(8).map(|((a, b), n)| format!("{a:?}-{b:?} {n}")).collect();
    println!("slower than {} ms, by classes: {}", SLOW / MILLI, told.join(", "));
}

/// Prints the pairs that p2pd loses, by classes.
fn lost(outcomes: &[Outcome]) {
    let mut lost: BTreeMap<(Class, Class), (u64, f64, Vec<&Outcome>)> = BTreeMap::new();
    for outcome in outcomes {
        let (count, bound, lost) = lost.entry(outcome.drawn.classes()).or_default();
        (*count, *bound) = (*count + 1, *bound + outcome.drawn.bound(outcome.by));
        if !outcome.joined && !outcome.drawn.is_lost() {
            lost.push(outcome);
        }
    }
    println!("pairs that ours loses, by classes:");
    let mut lost: Vec<_> = lost.into_iter().filter(|(_, (.., lost))| !lost.is_empty()).collect();
    lost.sort_by_key(|(_, (.., lost))| core::cmp::Reverse(lost.len()));
    for (classes, (count, bound, lost)) in lost {
        let bound = 100.0 * bound / count as f64;
        println!("  {:?}-{:?}: {} of {count}, bound {bound:.1} %", classes.0, classes.1, lost.len());
        for outcome in lost.iter().take(3) {
            let spoilt: Vec<_> = outcome.drawn.homes.iter().filter_map(|home| home.spoil).collect();
            let spoilt = if spoilt.is_empty() { String::new() } else { format!(" {spoilt:?}") };
            println!("    seed {}{spoilt}: {}", outcome.drawn.seed, outcome.why);
        }
    }
}

/// Prints what becomes of the shares where each class, and each way to spoil, in turn has half or one and a half times as
/// many homes, and the others as many in proportion as the rest.
fn print_sensitivity(outcomes: &[Outcome], census: &Census) {
    println!("if a class were half, or one and a half times, as frequent: joined, bound");
    for (class, weight, source) in census.weights {
        // IPv6 has its share of the pairs, whatever the NATs.
        let of = |home: &Home| (home.class != Class::V).then_some(home.class == *class);
        sensitivity_of(outcomes, &format!("{class:?}"), (*weight, source), &of);
    }
    for (spoil, weight, source) in census.spoils {
        let of = |home: &Home| Some(home.spoil == Some(*spoil));
        sensitivity_of(outcomes, &format!("{spoil:?}"), (*weight, source), &of);
    }
}

/// Prints a line of it. `of`: a home is one of those, or another, or counts in any case.
fn sensitivity_of(
    outcomes: &[Outcome],
    name: &str,
    (weight, source): (u32, &str),
    of: &dyn Fn(&Home) -> Option<bool>,
) {
    {
        let told = [0.5, 1.5].map(|factor| {
            let share = f64::from(weight) / 1_000.0;
            let rest = (1.0 - share * factor) / (1.0 - share);
            let (mut all, mut joined, mut bound) = (0.0, 0.0, 0.0);
            for outcome in outcomes {
                // A pair stands for as many more or fewer pairs as its homes are more or less frequent.
                let counts = |home: &Home| match of(home) {
                    None => 1.0,
                    Some(true) => factor,
                    Some(false) => rest,
                };
                let weight: f64 = outcome.drawn.homes.iter().map(counts).product();
                all += weight;
                joined += if outcome.joined { weight } else { 0.0 };
                bound += weight * outcome.drawn.bound(outcome.by);
            }
            format!("{:.2} {:.2}", 100.0 * joined / all, 100.0 * bound / all)
        });
        println!("  {name} {:>4.1} %: {}; {}   ({source})", f64::from(weight) / 10.0, told[0], told[1]);
    }
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
