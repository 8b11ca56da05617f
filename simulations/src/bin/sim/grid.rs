//! Runs pairs of kinds of NAT and holds each against what physics allows.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use clap::Args;
use p2pd_simulations::engine::{Digest, MILLI};
use p2pd_simulations::nat::{Chain, Kind, Pattern, SpecError};
use p2pd_simulations::oracle::Budget;
use p2pd_simulations::scenario::grid::{Cell, Tried, beside, cells, least_time, sample, try_chains};
use p2pd_simulations::scenario::plan::By;

/// Options of `sim grid`.
#[derive(Args)]
pub struct Grid {
    /// Runs of each pair.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The pairs to run, `LISTENERS:CALLERS`, as in `apdm.apdf.seq|seq2:*.*.*.rst`; `*` is any.
    #[arg(long)]
    pairs: Option<String>,
    /// Runs this many of the pairs, drawn by --seed.
    #[arg(long)]
    sample: Option<usize>,
    /// Runs this many pairs that are drawn beside the grid instead: chains of two, several addresses, hairpins.
    #[arg(long)]
    beside: Option<u64>,
    /// Plan of the calls: punch, tcp, udp or both.
    #[arg(long, default_value = "punch")]
    by: By,
    /// Dials over TCP that the bound allows each end.
    #[arg(long, default_value_t = Budget::CORE.dials)]
    dials: u32,
    /// Worlds run at the same time.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    threads: usize,
    /// Number of the worst pairs to print.
    #[arg(long, default_value_t = 20)]
    worst: usize,
    /// Prints every pair.
    #[arg(long)]
    list: bool,
}

/// Does `work` for each of `all` on some threads, and returns the results in the order of `all`.
pub fn in_threads<T: Sync, R: Send>(all: &[T], threads: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (next, (sender, results)) = (AtomicUsize::new(0), mpsc::channel());
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, all.len().max(1)) {
            let (sender, next, work) = (sender.clone(), &next, &work);
            scope.spawn(move || {
                while let Some((n, item)) = {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    all.get(n).map(|i| (n, i))
                } {
                    if sender.send((n, work(item))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut all: Vec<(usize, R)> = results.iter().collect();
        all.sort_by_key(|(n, _)| *n);
        all.into_iter().map(|(_, result)| result).collect()
    })
}

/// Returns the chosen pairs.
fn chosen(grid: &Grid) -> Result<Vec<Cell>, SpecError> {
    let patterns: Option<[Pattern; 2]> = match grid.pairs.as_deref() {
        Some(text) => {
            let (listeners, callers) = text.split_once(':').unwrap_or((text, "*"));
            Some([listeners.parse()?, callers.parse()?])
        }
        None => None,
    };
    let all = cells(patterns.as_ref());
    Ok(match grid.sample {
        Some(count) => sample(all, count, grid.seed),
        None => all,
    })
}

/// Sums over some pairs.
#[derive(Clone, Copy, Default)]
struct Sum {
    pairs: u32,
    bound: f64,
    joined: f64,
    missed: u32,
}

impl Sum {
    fn add(&mut self, tried: &Tried) {
        self.pairs += 1;
        self.bound += tried.bound.probability;
        self.joined += tried.bound.probability - tried.regret();
        self.missed += u32::from(tried.is_missed());
    }

    fn percent(&self, share: f64) -> f64 {
        100.0 * share / f64::from(self.pairs.max(1))
    }
}

/// Runs the grid, or a part of it, and prints how far it is from the bound.
pub fn run(grid: &Grid) -> bool {
    let chains: Vec<[Chain; 2]> = match (grid.beside, chosen(grid)) {
        (Some(count), _) => (grid.seed..grid.seed + count).map(beside).collect(),
        (None, Ok(cells)) => {
            cells.into_iter().map(|cell| cell.map(|kind| Chain(vec![kind.spec()]))).collect()
        }
        (None, Err(why)) => {
            eprintln!("sim: --pairs: {why}");
            return false;
        }
    };
    let begin = Instant::now();
    let budget = Budget { dials: grid.dials, ..Budget::CORE };
    let seeds = grid.seed..grid.seed + grid.seeds;
    let all = in_threads(&chains, grid.threads, |chains| {
        try_chains(chains.clone(), grid.by, budget, seeds.clone())
    });
    if grid.list {
        all.iter().for_each(|tried| println!("{}", line(tried)));
    }
    let mut digest = Digest::default();
    all.iter().flat_map(|tried| &tried.digests).for_each(|d| digest.word(*d));
    let of_grid: Vec<(Cell, &Tried)> = all.iter().filter_map(|tried| Some((tried.cell()?, tried))).collect();
    if grid.beside.is_none() {
        table(&of_grid);
        matrix(&of_grid);
        missed(&of_grid);
    }
    println!("the worst pairs, listener:caller");
    let mut worst: Vec<&Tried> = all.iter().filter(|t| t.regret() > 0.0).collect();
    worst.sort_by(|a, b| b.regret().total_cmp(&a.regret()));
    for tried in worst.iter().take(grid.worst) {
        println!("  {}\n    {}", line(tried), tried.why);
    }
    let violations: Vec<String> =
        all.iter().flat_map(|t| t.violations.iter().map(|v| format!("{}: {v}", pair(t)))).collect();
    violations.iter().for_each(|v| println!("VIOLATION {v}"));
    summary(&all);
    println!("digest {:016x}; {} s", digest.value(), begin.elapsed().as_secs());
    violations.is_empty()
}

fn pair(tried: &Tried) -> String {
    format!("{}:{}", tried.chains[0], tried.chains[1])
}

fn line(tried: &Tried) -> String {
    let late = tried.late().map_or(String::new(), |late| format!(", {} ms above the bound", late / MILLI));
    let bound = tried.bound.probability * 100.0;
    format!("{:<44} {} of {}, bound {bound:.1} %{late}", pair(tried), tried.joined, tried.runs)
}

/// Prints a line for each class of listeners, over all their callers.
fn table(all: &[(Cell, &Tried)]) {
    let mut rows: BTreeMap<(Kind, String), Sum> = BTreeMap::new();
    for ([kind, _], tried) in all {
        let kind = *kind;
        rows.entry((first_of(kind), kind.class())).or_default().add(tried);
    }
    println!(
        "{:<14} {:>6} {:>8} {:>8} {:>8} {:>7}",
        "listener", "pairs", "bound %", "joined %", "regret", "missed"
    );
    for ((_, class), sum) in rows {
        let (bound, joined) = (sum.percent(sum.bound), sum.percent(sum.joined));
        let regret = bound - joined;
        println!("{class:<14} {:>6} {bound:>8.2} {joined:>8.2} {regret:>8.2} {:>7}", sum.pairs, sum.missed);
    }
}

/// Returns the kind that stands for a class, so that classes have the kinds' order.
fn first_of(kind: Kind) -> Kind {
    Kind::all().find(|k| k.class() == kind.class()).unwrap_or(kind)
}

/// Prints the regret of each class of listeners with each class of callers, in per cent.
fn matrix(all: &[(Cell, &Tried)]) {
    let mut cells: BTreeMap<[Kind; 2], Sum> = BTreeMap::new();
    for (cell, tried) in all {
        cells.entry(cell.map(first_of)).or_default().add(tried);
    }
    let classes: Vec<Kind> = Kind::all().filter(|kind| first_of(*kind) == *kind).collect();
    println!(
        "regret in per cent; rows: listeners, columns: callers in the same order; . none, blank: not run"
    );
    for listener in &classes {
        let row = classes.iter().map(|caller| match cells.get(&[*listener, *caller]) {
            Some(sum) => {
                let regret = sum.percent(sum.bound - sum.joined).round();
                if regret <= 0.0 { "   .".into() } else { format!("{regret:>4.0}") }
            }
            None => "    ".into(),
        });
        let row: String = row.collect();
        if !row.trim().is_empty() {
            println!("{:<14}{row}", listener.class());
        }
    }
}

/// Prints what must be joined and was not, by kinds.
fn missed(all: &[(Cell, &Tried)]) {
    let mut kinds: BTreeMap<[String; 2], (u32, u32)> = BTreeMap::new();
    for (cell, tried) in all.iter().filter(|(_, t)| t.bound.must()) {
        let without_refusal = |kind: Kind| {
            let text = kind.to_string();
            text.rsplit_once('.').map_or(text.clone(), |(kind, _)| kind.to_owned())
        };
        let (count, of) = kinds.entry(cell.map(without_refusal)).or_default();
        *count += u32::from(tried.is_missed());
        *of += 1;
    }
    let mut kinds: Vec<_> = kinds.into_iter().filter(|(_, (count, _))| *count > 0).collect();
    kinds.sort_by_key(|(_, (count, of))| core::cmp::Reverse(*count * 1_000 / of));
    println!(
        "missed although they must be joined, by kinds, over their refusals: {} kinds of pairs",
        kinds.len()
    );
    for ([listener, caller], (count, of)) in kinds.iter().take(40) {
        println!("  {listener}:{caller}: {count} of {of}");
    }
    if kinds.len() > 40 {
        println!("  and {} more; --list prints every pair", kinds.len() - 40);
    }
}

fn summary(all: &[Tried]) {
    let mut sum = Sum::default();
    all.iter().for_each(|tried| sum.add(tried));
    let must = all.iter().filter(|t| t.bound.must()).count();
    let out: Vec<&Tried> = all.iter().filter(|t| t.bound.is_out_of_reach()).collect();
    let runs: u32 = all.iter().map(|t| t.runs).sum();
    println!(
        "{} pairs, {runs} runs: bound {:.2} %, joined {:.2} %, regret {:.2} points; {} of {must} that must be joined missed; {} out of reach, of which {} joined",
        sum.pairs,
        sum.percent(sum.bound),
        sum.percent(sum.joined),
        sum.percent(sum.bound - sum.joined),
        sum.missed,
        out.len(),
        out.iter().filter(|t| t.joined > 0).count(),
    );
    for (name, searched) in [("where ports are known", false), ("where one is searched", true)] {
        let joined = all.iter().filter(|t| t.bound.must() && (t.bound.dials > 0) == searched);
        let mut took: Vec<(u64, u64)> = joined
            .filter_map(|t| Some((t.took.checked_div(u64::from(t.joined))?, least_time(t.bound))))
            .collect();
        took.sort_unstable();
        if let (Some(middle), Some(late)) = (took.get(took.len() / 2), took.get(took.len() * 19 / 20)) {
            let above: u64 = took.iter().map(|(took, least)| took.saturating_sub(*least)).sum();
            println!(
                "{name}: median {} ms, 95 % {} ms; {} ms above the bound's {} ms on average",
                middle.0 / MILLI,
                late.0 / MILLI,
                above / took.len() as u64 / MILLI,
                middle.1 / MILLI
            );
        }
    }
}
