//! Simulated internets from the command line: one pair, every pair of presets, seeds without end, and how
//! fast all that is.

#[path = "sim/calibrate.rs"]
mod calibrate;
#[path = "sim/census.rs"]
mod census;
#[path = "sim/crowd.rs"]
mod crowd;
#[path = "sim/grid.rs"]
mod grid;
#[cfg(feature = "memory")]
#[path = "sim/memory.rs"]
mod memory;
#[path = "sim/relay.rs"]
mod relay;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand, ValueEnum};
use p2pd_core::Strategy;
use p2pd_simulations::dial::{Attempt, attempt};
use p2pd_simulations::engine::{Digest, MILLI, Nanos, SECOND};
use p2pd_simulations::nat::{Chain, LAB, PRESETS};
use p2pd_simulations::oracle::{Verdict, every_strategy, punch};
use p2pd_simulations::scenario::crowd::Crowd;
use p2pd_simulations::scenario::pair::{Pair, Place, run};
use p2pd_simulations::scenario::plan::By;
use p2pd_simulations::scenario::swarm::{With, draw, draw_without, judge, shrink};
use serde_json::json;

const REPLAY: &str = "cargo run --release -p p2pd-simulations --";

/// A simulated internet.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lists the NATs that have names.
    Presets,
    /// Runs two nodes: the one behind A listens, the one behind B connects.
    Run {
        /// The seed of all randomness.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// The listener's NAT: a preset's name, as `linux/rst`, `fc+pr` or `linux,alloc=seq+1`.
        #[arg(long, default_value = "open")]
        a: Chain,
        /// The caller's NAT.
        #[arg(long, default_value = "open")]
        b: Chain,
        /// Places of the two nodes.
        #[arg(long, value_enum, default_value_t = At::Apart)]
        place: At,
        /// Time from one node to the other, in milliseconds.
        #[arg(long, default_value_t = 10)]
        delay: u64,
        /// Packets that each site's link loses, in a million.
        #[arg(long, default_value_t = 0)]
        loss: u32,
        /// Lead of the listener's wall clock over the true time, in seconds.
        #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
        wall_ahead: i64,
        /// The strategies, in order.
        #[arg(long, value_delimiter = ',')]
        strategies: Vec<String>,
        /// Prints every packet, and everything the nodes were told and asked for.
        #[arg(long)]
        trace: bool,
        /// Writes the packets into this file, as an HTML page.
        #[arg(long)]
        html: Option<std::path::PathBuf>,
        /// Writes the packets into this file, as a sequence chart: an SVG picture.
        #[arg(long)]
        svg: Option<std::path::PathBuf>,
    },
    /// Two programs that only connect, as in the measured matrices.
    Dial {
        /// NAT of the side that connects first.
        #[arg(long)]
        a: Chain,
        /// NAT of the side that connects later.
        #[arg(long)]
        b: Chain,
        /// Time from one side to the other, in milliseconds.
        #[arg(long, default_value_t = 20)]
        delay: u64,
        /// Delay of the second connect after the first, in milliseconds.
        #[arg(long, default_value_t = 0)]
        offset: u64,
        /// Has a listener beside each dial.
        #[arg(long)]
        listen: bool,
        /// Makes a new dial 50 ms after an error.
        #[arg(long)]
        retry: bool,
        /// The seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Punches pairs of kinds of NAT, 46,656 in all, and holds each against what physics allows.
    Grid(grid::Grid),
    /// Holds what punches and reports state against what is so, for drawn pairs of NATs.
    Calibrate(calibrate::Calibrate),
    /// Runs every pair of presets and holds each against the oracle.
    Matrix {
        /// Runs of each pair.
        #[arg(long, default_value_t = 1)]
        seeds: u64,
        /// Bare simultaneous dials beside listeners instead of nodes.
        #[arg(long)]
        dials: bool,
        /// Writes the outcomes here.
        #[arg(long)]
        json: Option<std::path::PathBuf>,
    },
    /// Runs drawn worlds with drawn faults; each must keep the invariants.
    Swarm {
        /// Number of worlds.
        #[arg(long, default_value_t = 1_000)]
        seeds: u64,
        /// The first seed.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Seed to run, and no other.
        #[arg(long)]
        seed: Option<u64>,
        /// Leaves these of the faults of --seed out.
        #[arg(long, value_delimiter = ',')]
        without: Vec<usize>,
        /// Prints every packet and event of --seed.
        #[arg(long)]
        trace: bool,
        /// Prints one number over all events of all worlds, to be compared between builds; not with --seed.
        #[arg(long)]
        digest: bool,
        /// Uses the servers that `p2pd serve` runs in place of the simulator's own, which have more kinds of lies.
        #[arg(long)]
        rendezvous: bool,
        /// Adds a TURN server and its faults, through which at least half of the calls have to go.
        #[arg(long)]
        relay: bool,
        /// Adds routers that open ports, with faults of theirs, and hosts with two homes.
        #[arg(long)]
        routers: bool,
        /// Adds strangers that flood the nodes in every world; else one in eight has them.
        #[arg(long)]
        strangers: bool,
    },
    /// Finds which faults of a bad seed matter.
    Shrink {
        /// The seed, as `sim swarm` printed it.
        #[arg(long)]
        seed: u64,
        /// Shrinks a seed of `sim swarm --relay`.
        #[arg(long)]
        relay: bool,
        /// Shrinks a seed of `sim swarm --routers`.
        #[arg(long)]
        routers: bool,
        /// Shrinks a seed of `sim swarm --strangers`.
        #[arg(long)]
        strangers: bool,
    },
    /// Punches pairs of homes drawn from a census, in our way and in those of others.
    Census {
        /// Number of pairs.
        #[arg(long, default_value_t = 1_000)]
        pairs: u64,
        /// The first pair's seed.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Punches in p2pd's way only.
        #[arg(long)]
        ours: bool,
        /// Gives the homes no TURN server, so that none can show another where it is.
        #[arg(long)]
        without_turn: bool,
        /// Runs also the homes from which only ports 80 and 443 get out. Every node listens at 443, and asks its router for it.
        #[arg(long = "peer-443")]
        peer_443: bool,
        /// Draws from the extended census: five more classes of NAT, and pairs that meet over IPv6.
        #[arg(long)]
        extended: bool,
        /// Lays over the homes that some spoil TCP or UDP, and compares p2pd over either and over both.
        #[arg(long)]
        spoilt: bool,
        /// Runs one plan only: punch, tcp, udp or both.
        #[arg(long)]
        by: Option<By>,
        /// Prints what becomes of the result where a class has half, or one and a half times, as many homes.
        #[arg(long)]
        sensitivity: bool,
        /// Worlds run at the same time.
        #[arg(long, default_value_t = 1)]
        threads: usize,
        /// Seed of the only pair to run.
        #[arg(long)]
        one: Option<u64>,
        /// Prints every packet and event of --one.
        #[arg(long)]
        trace: bool,
        /// Measures the hit rate of searches instead, against the rate that they state.
        #[arg(long)]
        reliability: bool,
    },
    /// Streams through a relay that loses, repeats and reorders up to 30 % of all datagrams.
    Relay {
        /// Number of drawn exchanges.
        #[arg(long, default_value_t = 1_000)]
        seeds: u64,
        /// The first seed.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Seed to run, and no other.
        #[arg(long)]
        seed: Option<u64>,
        /// Sessions that move to direct paths at drawn times, and back when those die.
        #[arg(long)]
        upgrade: bool,
        /// Measures instead the time of 10 MiB, beside others; the median of this many seeds.
        #[arg(long, value_name = "SEEDS", num_args = 0..=1, default_missing_value = "5")]
        bench: Option<u64>,
    },
    /// Runs many nodes at the same brokers, which count what passes: at the start, in idle time, for calls.
    Crowd {
        /// Number of nodes.
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(2..))]
        nodes: u32,
        /// Number of brokers, at each of which every node has a session.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=200))]
        brokers: u16,
        /// NAT of each node, of one at most.
        #[arg(long, default_value = "linux")]
        nat: Chain,
        /// Time in which all idle, in seconds.
        #[arg(long, default_value_t = 600)]
        idle: u64,
        /// Number of calls.
        #[arg(long, default_value_t = 1_000)]
        calls: u32,
        /// The seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Measures how many connects one core simulates in a second.
    Bench {
        /// Duration of each line, in seconds.
        #[arg(long, default_value_t = 2)]
        seconds: u64,
        /// Uses ciphers that protect nothing and cost nothing; needs a build with `RUSTFLAGS="--cfg
        /// p2pd_insecure_stand_in"`.
        #[arg(long)]
        stand_in: bool,
        /// Part of the names of the lines to run.
        #[arg(long, default_value = "")]
        only: String,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum At {
    /// Each at a site of its own.
    Apart,
    /// The two nodes are on one network, behind the NAT of `a`.
    SameSite,
    /// A single node calls itself.
    Oneself,
}

fn main() -> ExitCode {
    // A world is some 300 KiB, made and freed thousands of times a second. glibc would give them back to the system each
    // time; once it has freed a chunk of this size it keeps twice as much (mallopt(3), M_MMAP_THRESHOLD).
    drop(std::hint::black_box(Vec::<u8>::with_capacity(8 << 20)));
    let good = match Args::parse().command {
        Command::Presets => {
            for preset in PRESETS.iter().chain(LAB) {
                println!("{:<22} {:<9} {}", preset.name, preset.confidence, preset.what);
            }
            true
        }
        Command::Run { seed, a, b, place, delay, loss, wall_ahead, strategies, trace, html, svg } => {
            let mut pair = Pair::new(seed, [a, b]);
            pair.clocks[0].wall_ahead = wall_ahead * 1_000_000;
            pair.trace = trace || html.is_some() || svg.is_some();
            pair.place = match place {
                At::Apart => Place::Apart,
                At::SameSite => Place::SameSite,
                At::Oneself => Place::Oneself,
            };
            for link in &mut pair.links {
                (link.delay, link.loss_ppm) = (delay * MILLI / 2, loss);
            }
            let named: Vec<Strategy> = strategies.iter().filter_map(|s| Strategy::from_name(s)).collect();
            if named.len() != strategies.len() {
                eprintln!("sim: there is no such strategy among {strategies:?}");
                return ExitCode::from(2);
            }
            if !named.is_empty() {
                pair.strategies = named;
            }
            let ending = run(&pair);
            if trace {
                print!("{}", ending.trace);
            }
            for (path, text) in [(html, &ending.page), (svg, &ending.chart)] {
                if let Some(path) = path
                    && let Err(why) = std::fs::write(&path, text)
                {
                    eprintln!("sim: {}: {why}", path.display());
                    return ExitCode::FAILURE;
                }
            }
            println!("address     {}", ending.address);
            match ending.strategy {
                Some(strategy) => println!("connected   {strategy} after {}", ms(ending.took)),
                None => println!("failed      after {}: {}", ms(ending.took), ending.why),
            }
            println!("digest      {:016x} over {} events", ending.digest, ending.events);
            ending.violations.iter().for_each(|v| println!("VIOLATION   {v}"));
            ending.violations.is_empty()
        }
        Command::Dial { a, b, delay, offset, listen, retry, seed } => {
            let (one_way, offset) = ((delay * MILLI).max(100_000), offset * MILLI);
            let dial = Attempt { chains: [a, b], one_way, offset, listen, retry: retry.then_some(0) };
            let (ending, trace) = attempt(seed, &dial, true);
            print!("{trace}");
            println!("{} connected {:?} errors {:?}", ending.letter, ending.connected, ending.errors);
            true
        }
        Command::Grid(options) => grid::run(&options),
        Command::Calibrate(options) => calibrate::run(&options),
        Command::Matrix { seeds, dials, json } => matrix(seeds, dials, json.as_deref()),
        Command::Shrink { seed, relay, routers, strangers } => {
            shrink_one(seed, With { relay, routers, strangers })
        }
        Command::Swarm {
            seeds,
            from,
            seed,
            without,
            trace,
            digest,
            rendezvous,
            relay,
            routers,
            strangers,
        } => {
            let servers = Servers { rendezvous, with: With { relay, routers, strangers } };
            match seed {
                Some(seed) => swarm_one(seed, &without, trace, servers),
                None => swarm(from, seeds, digest, servers),
            }
        }
        Command::Census { pairs, seed, reliability: true, .. } => {
            census::reliability(seed, pairs);
            true
        }
        Command::Census {
            pairs,
            seed,
            ours,
            without_turn,
            peer_443,
            spoilt,
            by,
            extended,
            sensitivity,
            threads,
            one,
            trace,
            ..
        } => {
            let homes = census::Homes { extended, spoilt, by, turn: !without_turn, peer_443 };
            match one {
                Some(seed) => census::one(seed, homes, trace),
                None => census::all(seed, pairs, homes, ours, sensitivity, threads),
            }
        }
        Command::Relay { bench: Some(seeds), .. } => {
            relay::bench(seeds.max(1));
            true
        }
        Command::Relay { upgrade: true, seed: Some(seed), .. } => relay::one_upgrade(seed),
        Command::Relay { upgrade: true, seeds, from, .. } => relay::upgrades(from, seeds),
        Command::Relay { seed: Some(seed), .. } => relay::one(seed),
        Command::Relay { seeds, from, .. } => relay::seeds(from, seeds),
        Command::Crowd { nodes, brokers, nat, idle, calls, seed } => {
            let (idle, calls) = (idle.max(1) * SECOND, (calls, 100 * MILLI));
            crowd::print(&Crowd { seed, nodes, brokers, chain: nat, apart: MILLI / 2, idle, calls })
        }
        Command::Bench { stand_in, .. } if stand_in != cfg!(p2pd_insecure_stand_in) => {
            let with = if stand_in { "with" } else { "without" };
            eprintln!("sim: this bench needs a build {with} RUSTFLAGS=\"--cfg p2pd_insecure_stand_in\"");
            false
        }
        Command::Bench { seconds, stand_in, only } => bench(Duration::from_secs(seconds), stand_in, &only),
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn ms(ns: Nanos) -> String {
    format!("{}.{:03} ms", ns / MILLI, ns % MILLI / 1_000)
}

/// Returns the letter of one cell of the matrix, and the oracle's objection if there is one.
fn cell(seeds: u64, dials: bool, a: &Chain, b: &Chain) -> (char, Option<String>) {
    let mut letter = '.';
    let mut wrong = None;
    for seed in 0..seeds {
        let (joined, verdict, problem) = if dials {
            let chains = [a.clone(), b.clone()];
            let dial = Attempt { chains, one_way: 20 * MILLI, offset: 0, listen: true, retry: None };
            let (ending, _) = attempt(seed, &dial, false);
            let joined = matches!(ending.letter, 'o' | '1'..='9');
            letter = ending.letter;
            (joined, punch(a, b, 20_001), None)
        } else {
            let ending = run(&Pair::new(seed, [a.clone(), b.clone()]));
            letter = match ending.strategy {
                Some(Strategy::Direct) => 'd',
                Some(Strategy::Reverse) => 'r',
                Some(_) => 'p',
                None => '.',
            };
            (ending.strategy.is_some(), every_strategy(a, b), ending.violations.into_iter().next())
        };
        let against = match (verdict, joined) {
            (Verdict::Must, false) => Some("must connect, and does not".to_owned()),
            (Verdict::MustNot, true) => Some("cannot connect, and does".to_owned()),
            _ => None,
        };
        wrong = wrong.or(problem).or(against).map(|w| format!("seed {seed}: {w}"));
    }
    (letter, wrong)
}

fn matrix(seeds: u64, dials: bool, json: Option<&std::path::Path>) -> bool {
    let (mut cells, mut wrong) = (Vec::new(), Vec::new());
    println!("rows: who {}; columns: the other", if dials { "dials first" } else { "listens" });
    let width = PRESETS.iter().map(|p| p.name.len()).max().unwrap_or(0);
    for (n, row) in PRESETS.iter().enumerate() {
        print!("{n:>2} {:<width$} ", row.name);
        for column in PRESETS {
            let chains = [Chain(row.chain.to_vec()), Chain(column.chain.to_vec())];
            let (letter, problem) = cell(seeds, dials, &chains[0], &chains[1]);
            print!("{}", if problem.is_some() { '!' } else { letter });
            cells.push(
                json!({"a": row.name, "b": column.name, "outcome": letter.to_string(), "wrong": problem}),
            );
            if let Some(problem) = problem {
                let command = if dials { "dial" } else { "run" };
                wrong.push(format!("{problem}; sim {command} --a {} --b {}", row.name, column.name));
            }
        }
        println!();
    }
    if dials {
        println!(
            "o connected, digit: after seconds, R refused, H unreachable, t timed out, ! against the oracle"
        );
    } else {
        println!("d direct, r reverse, p punched, . none, ! against the oracle or an invariant");
    }
    println!("{} cells, {} wrong", cells.len(), wrong.len());
    wrong.iter().for_each(|w| println!("  {w}"));
    if let Some(path) = json
        && let Err(why) = std::fs::write(path, json!({"seeds": seeds, "cells": cells}).to_string())
    {
        eprintln!("sim: {}: {why}", path.display());
        return false;
    }
    wrong.is_empty()
}

/// Servers of a swarm, by its options.
#[derive(Clone, Copy)]
struct Servers {
    rendezvous: bool,
    with: With,
}

/// Returns the options that name these servers.
fn options(servers: Servers) -> String {
    let Servers { rendezvous, with: With { relay, routers, strangers } } = servers;
    let all = [
        (rendezvous, " --rendezvous"),
        (relay, " --relay"),
        (routers, " --routers"),
        (strangers, " --strangers"),
    ];
    all.into_iter().filter(|(has, _)| *has).map(|(_, option)| option).collect()
}

fn shrink_one(seed: u64, with: With) -> bool {
    let Some(left_out) = shrink(seed, with) else {
        println!("seed {seed} is not bad");
        return true;
    };
    let list: Vec<String> = left_out.iter().map(usize::to_string).collect();
    println!("seed {seed} is still bad with: {}", draw_without(seed, with, &left_out).what);
    let more = options(Servers { rendezvous: false, with });
    println!("replay: {REPLAY} swarm --seed {seed}{more} --without {} --trace", list.join(","));
    false
}

fn swarm_one(seed: u64, without: &[usize], trace: bool, servers: Servers) -> bool {
    let mut drawn = draw_without(seed, servers.with, without);
    (drawn.pair.trace, drawn.pair.rendezvous) = (trace, servers.rendezvous);
    let (ending, wrong) = judge(&drawn);
    print!("{}", ending.trace);
    println!("seed {seed}: {}; demanded: {:?}", drawn.what, drawn.demand);
    println!("a: {}\nb: {}", drawn.pair.chains[0], drawn.pair.chains[1]);
    println!("{:?} after {} {}", ending.strategy, ms(ending.took), ending.why);
    println!("healed: {:?}; demanded: {:?}", ending.again, drawn.healed);
    println!("digest {:016x} over {} events; {} sockets at most", ending.digest, ending.events, ending.held);
    wrong.iter().for_each(|w| println!("WRONG {w}"));
    wrong.is_empty()
}

fn swarm(from: u64, seeds: u64, digest: bool, servers: Servers) -> bool {
    let mut all = Digest::default();
    let (begin, mut bad, mut connected, mut demanded, mut relayed) = (Instant::now(), 0, 0, 0, 0);
    let (mut flooded, mut held) = (0, 0);
    for seed in from..from + seeds {
        let mut drawn = draw(seed, servers.with);
        drawn.pair.rendezvous = servers.rendezvous;
        let (ending, mut wrong) = judge(&drawn);
        all.word(ending.digest);
        connected += u64::from(ending.strategy.is_some());
        relayed += u64::from(ending.strategy == Some(Strategy::Relay));
        demanded += u64::from(drawn.demand != Verdict::Perhaps);
        if drawn.pair.flood.is_some() {
            flooded += 1;
            held = held.max(ending.held);
        }
        // One world in twenty is run twice.
        if seed % 20 == 0 && run(&drawn.pair).digest != ending.digest {
            wrong.push("a second run has another digest".into());
        }
        if !wrong.is_empty() {
            bad += 1;
            println!("seed {seed} ({}): {}", drawn.what, wrong.join("; "));
            println!("  replay: {REPLAY} swarm --seed {seed}{} --trace", options(servers));
        }
    }
    let rate = seeds * 1_000 / (begin.elapsed().as_millis() as u64).max(1);
    let by_relay =
        if servers.with.relay { format!(", {relayed} of them by the relay") } else { String::new() };
    println!(
        "{seeds} seeds, {bad} bad; {connected} connected{by_relay}, {demanded} with a demand; {rate} a second"
    );
    println!("{flooded} with strangers, of whose nodes none held more than {held} sockets");
    if digest {
        println!("digest {:016x}", all.value());
    }
    bad == 0
}

/// Measures connects. Every pair has to be joined without a violation: an early failure would be fast.
fn bench(each: Duration, stand_in: bool, only: &str) -> bool {
    let good = std::cell::Cell::new(true);
    let ciphers = if stand_in { "standing in" } else { "real" };
    let joined = |pair: &Pair| {
        let ending = run(pair);
        if ending.strategy.is_none() || !ending.violations.is_empty() {
            println!("seed {}: {} {:?}", pair.seed, ending.why, ending.violations);
            good.set(false);
        }
        ending.events
    };
    let rate = |name: &str, calls: u64, one: &dyn Fn(u64) -> u64| {
        if !name.contains(only) {
            return;
        }
        let (begin, mut runs, mut events) = (Instant::now(), 0, 0);
        while begin.elapsed() < each {
            events += one(runs);
            runs += 1;
        }
        let us = (begin.elapsed().as_micros() as u64).max(1);
        let calls = runs * calls * 1_000_000 / us;
        println!("{name:<60} {calls:>8} pairs/s {:>10} events/s", events * 1_000_000 / us);
    };
    let parse = |text: &str| text.parse::<Chain>().unwrap_or_default();
    for (a, b) in [("open", "open"), ("linux", "open"), ("linux", "linux")] {
        let chains = [parse(a), parse(b)];
        let name = format!("nodes, {a} and {b}, ciphers {ciphers}");
        rate(&name, 1, &|seed| joined(&Pair::new(seed, chains.clone())));
        let name = format!("nodes that stay for 20 calls, {a} and {b}, ciphers {ciphers}");
        rate(&name, 20, &|seed| joined(&Pair { calls: 20, ..Pair::new(seed, chains.clone()) }));
    }
    let chains = [parse("linux"), parse("linux")];
    let over_tcp: Vec<_> = Strategy::ALL.into_iter().filter(|s| *s != Strategy::Udp).collect();
    for calls in [1, 20] {
        let name = format!("nodes, linux and linux, without udp, {calls} calls, ciphers {ciphers}");
        let (chains, strategies) = (&chains, &over_tcp);
        let pair = |seed| Pair { calls, strategies: strategies.clone(), ..Pair::new(seed, chains.clone()) };
        rate(&name, calls.into(), &|seed| joined(&pair(seed)));
    }
    let name = format!("nodes, linux and linux, rendezvous, ciphers {ciphers}");
    rate(&name, 1, &|seed| joined(&Pair { rendezvous: true, ..Pair::new(seed, chains.clone()) }));
    for (a, b, offset) in [("linux", "linux", 0), ("linux", "symrand", 0)] {
        let chains = [parse(a), parse(b)];
        let name = format!("bare dials, {a} and {b}");
        let dial = Attempt { chains, one_way: 20 * MILLI, offset, listen: true, retry: None };
        rate(&name, 1, &|seed| attempt(seed, &dial, false).0.events);
    }
    #[cfg(feature = "memory")]
    memory::print();
    #[cfg(not(feature = "memory"))]
    println!("memory: not counted; build with --features memory");
    good.get()
}
