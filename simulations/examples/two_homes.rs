//! Asks whether two homes connect, by one seed after another, each with random choices of its own:
//! `cargo run -p p2pd-simulations --example two_homes -- linux-random linux`.

use std::collections::BTreeMap;

use p2pd_simulations::nat::Chain;
use p2pd_simulations::scenario::pair::{Pair, run};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let mut home = || args.next().ok_or("usage: two_homes LISTENER'S-NAT CALLER'S-NAT [SEEDS]");
    let chains: [Chain; 2] = [home()?.parse()?, home()?.parse()?];
    let seeds = args.next().map_or(Ok(20), |seeds| seeds.parse())?;
    let mut outcomes = BTreeMap::new();
    for seed in 0..seeds {
        let mut pair = Pair::new(seed, chains.clone());
        // A search for random ports is for named peers only.
        pair.known = true;
        let ending = run(&pair);
        // What holds in every run, whatever the NATs are: one pipe at both ends, every byte, nothing left open.
        assert!(ending.violations.is_empty(), "seed {seed}: {:?}", ending.violations);
        let outcome = ending.strategy.map_or("none", |strategy| strategy.name());
        *outcomes.entry(outcome).or_insert(0) += 1;
    }
    for (outcome, times) in outcomes {
        println!("{outcome}: {times} of {seeds}");
    }
    Ok(())
}
