//! Errors of P2PD in the scheduling of punches, each tested for the right behaviour. Its errors about NATs and ports
//! are tests of `p2pd_core::nat`.

use p2pd_core::Strategy;
use p2pd_simulations::engine::{MILLI, Nanos};
use p2pd_simulations::nat::Chain;
use p2pd_simulations::net::LinkSpec;
use p2pd_simulations::scenario::pair::{Ending, Pair, Place, Relaying, run};

const ONE_WAY: Nanos = 20 * MILLI;

fn punch(seed: u64, a: &str, b: &str, change: impl FnOnce(&mut Pair)) -> Ending {
    let chain = |name: &str| name.parse::<Chain>().unwrap();
    let mut pair = Pair::new(seed, [chain(a), chain(b)]);
    pair.links = [LinkSpec::with_delay(ONE_WAY / 2); 2];
    pair.strategies = vec![Strategy::Punch];
    pair.trace = true;
    change(&mut pair);
    let ending = run(&pair);
    assert_eq!(ending.strategy, Some(Strategy::Punch), "{a} {b}: {}", ending.why);
    assert!(ending.violations.is_empty(), "{:?}", ending.violations);
    ending
}

/// SYNs that the two nodes sent to other places than servers.
fn syns(ending: &Ending) -> usize {
    let of_node = |l: &&str| l.contains("host2  >") || l.contains("host3  >");
    ending
        .trace
        .lines()
        .filter(of_node)
        .filter(|l| l.contains(" tcp S ") && !l.contains("203.0.113."))
        .count()
}

/// P2PD starts at a time of day on which the two agree by their own clocks. Our nodes need no common time.
#[test]
fn wrong_clocks_change_nothing() {
    let right = punch(1, "linux", "linux", |_| ());
    let ahead = |seconds: i64| punch(1, "linux", "linux", |p| p.clocks[0].wall_ahead = seconds * 1_000_000);
    assert_eq!(ahead(300).took, right.took);
    // What is too old to be believed costs an answer with the right time.
    assert!(ahead(86_400).took <= right.took + 4 * ONE_WAY);
    assert!(right.took <= 10 * ONE_WAY, "{}", right.took);
}

/// P2PD reports a hole when its window ends, 9 to 16 s later, also on one network.
#[test]
fn success_is_told_when_it_is_there() {
    let ending = punch(1, "linux", "linux", |pair| {
        pair.place = Place::SameSite;
        pair.links = [LinkSpec::with_delay(MILLI); 2];
        // Strangers have nothing inside dialled.
        pair.known = true;
    });
    assert!(ending.took <= 100 * MILLI, "{}", ending.took);
}

/// P2PD dials every 5 ms for 6 to 10 s, 1,200 to 2,000 times, for all NATs.
#[test]
fn two_nats_that_keep_ports_cost_a_dial_each() {
    assert_eq!(syns(&punch(1, "linux", "linux", |_| ())), 2);
    let refusing = syns(&punch(1, "openwrt", "openwrt", |_| ()));
    assert!(refusing <= 20, "{refusing}");
}

/// P2PD's two sides choose among several open holes by a hash that differs between processes, and ask nobody.
#[test]
fn both_sides_take_the_same_of_several_holes() {
    let mut several = 0;
    for seed in 0..20 {
        // A counter that jumps takes several dials, of which more than one meet.
        let ending = punch(seed, "symmetric-busy", "symmetric-seq1", |pair| {
            pair.known = true;
            pair.relay = Some(Relaying::default());
        });
        let opened = ending.trace.lines().filter(|l| l.contains("Connected { sock")).count();
        several += usize::from(opened > 2);
    }
    // That one pipe came of it, with the same bytes at both ends, is what `run` looks for.
    assert!(several > 0, "no seed opened more than one hole");
}
