//! Streams through relays: seeds without end, and how fast they are beside others.

use std::time::Instant;

use p2pd_core::relay::Congestion;
use p2pd_simulations::scenario::relay::goodput::{Measured, Scheme, measure, way};
use p2pd_simulations::scenario::relay::seeds::{draw, run};
use p2pd_simulations::scenario::relay::upgrade;

use crate::{REPLAY, ms};

/// Exchanges over drawn ways, each byte-exact. One in twenty is run twice.
pub fn seeds(from: u64, count: u64) -> bool {
    let (begin, mut bad, mut bytes, mut datagrams) = (Instant::now(), 0, 0, 0);
    for seed in from..from + count {
        let of = draw(seed);
        let ended = run(&of);
        bytes += of.bytes.iter().sum::<usize>();
        datagrams += ended.datagrams;
        let again = (seed % 20 == 0 && run(&of) != ended).then(|| "a second run is another".to_owned());
        if let Some(why) = ended.wrong.or(again) {
            bad += 1;
            println!("seed {seed}: {why}\n  replay: {REPLAY} relay --seed {seed}");
        }
    }
    let rate = count * 1_000 / (begin.elapsed().as_millis() as u64).max(1);
    println!("{count} seeds, {bad} bad; {bytes} bytes in {datagrams} datagrams; {rate} a second");
    bad == 0
}

pub fn one(seed: u64) -> bool {
    let of = draw(seed);
    println!("{of:?}");
    let ended = run(&of);
    println!(
        "{} for everything, {} datagrams, digest {:016x}",
        ms(ended.took),
        ended.datagrams,
        ended.digest
    );
    ended.wrong.iter().for_each(|why| println!("WRONG {why}"));
    ended.wrong.is_none()
}

/// Sessions that begin on a relay and move at drawn times, each byte-exact. One in twenty is run twice.
pub fn upgrades(from: u64, count: u64) -> bool {
    let (begin, mut bad, mut bytes, mut up, mut back) = (Instant::now(), 0, 0, 0, 0);
    for seed in from..from + count {
        let of = upgrade::draw(seed);
        let moved = upgrade::run(&of);
        bytes += of.bytes.iter().sum::<usize>();
        up += u64::from(moved.up);
        back += u64::from(moved.back);
        let again =
            (seed % 20 == 0 && upgrade::run(&of) != moved).then(|| "a second run is another".to_owned());
        if let Some(why) = moved.wrong.or(again) {
            bad += 1;
            println!("seed {seed}: {why}\n  replay: {REPLAY} relay --upgrade --seed {seed}");
        }
    }
    let rate = count * 1_000 / (begin.elapsed().as_millis() as u64).max(1);
    println!(
        "{count} seeds, {bad} bad; {bytes} bytes; {up} moves up and {back} to the relay; {rate} a second"
    );
    bad == 0
}

pub fn one_upgrade(seed: u64) -> bool {
    let of = upgrade::draw(seed);
    println!("{of:#?}");
    let moved = upgrade::run(&of);
    println!("{} for everything, {} moves up, {} to the relay", ms(moved.took), moved.up, moved.back);
    println!("digest {:016x}", moved.digest);
    moved.wrong.iter().for_each(|why| println!("WRONG {why}"));
    moved.wrong.is_none()
}

/// 10 MiB through ways of 100 ms, by each scheme: the median of some seeds.
pub fn bench(seeds: u64) {
    const BYTES: usize = 10 << 20;
    let schemes = [
        ("ours (BBR)", Scheme::Stream(Congestion::Bbr)),
        ("ours with CUBIC", Scheme::Stream(Congestion::Cubic)),
        ("P2PD at once", Scheme::P2pd),
        ("P2PD paced", Scheme::P2pdPaced),
    ];
    println!("goodput in Mbit/s of 10 MiB, round trip and queue 100 ms, median of {seeds} seeds;");
    println!("in brackets bytes sent for each 100, and the part that never arrived");
    print!("{:<42}", "");
    schemes.iter().for_each(|(name, _)| print!("{name:<24}"));
    println!();
    for megabits in [100, 20] {
        for reordered in [false, true] {
            for loss in [0, 1, 5] {
                let what = if reordered { ", 10 % 10 ms late" } else { "" };
                let way_of = format!("{megabits} Mbit/s, {loss} % lost{what}");
                print!("{way_of:<42}");
                for (_, scheme) in schemes {
                    let mut all: Vec<Measured> = (1..=seeds)
                        .map(|s| measure(s, scheme, way(megabits, loss, reordered), BYTES))
                        .collect();
                    all.sort();
                    let median = all[all.len() / 2];
                    let missing = match median.missing * 1_000 / BYTES as u64 {
                        _ if median.missing == 0 => String::new(),
                        permille => format!(", {}.{} %", permille / 10, permille % 10),
                    };
                    let tenths = median.goodput / 100_000;
                    let cell = format!("{}.{} [{}{missing}]", tenths / 10, tenths % 10, median.percent);
                    print!("{cell:<24}");
                }
                println!();
            }
        }
    }
}
