//! The core, unmodified, in worlds whose outcome is known: the same expectations as on real NATs
//! (`tests/tests/program.rs`).

use p2pd_core::Strategy;
use p2pd_simulations::lab::{Lab, PATIENCE};
use p2pd_simulations::nat::Chain;
use p2pd_simulations::scenario::pair::{Ending, Pair, Place, run};

fn chains(listener: &str, caller: &str) -> [Chain; 2] {
    [listener, caller].map(|text| text.parse().unwrap())
}

fn clean(pair: &Pair) -> Ending {
    let ending = run(pair);
    assert!(
        ending.violations.is_empty(),
        "{:#?}\n{}",
        ending.violations,
        run(&Pair { trace: true, ..pair.clone() }).trace
    );
    ending
}

#[test]
fn public_hosts_connect_directly() {
    let ending = clean(&Pair::new(1, chains("open", "open")));
    assert_eq!(ending.strategy, Some(Strategy::Direct), "{}", ending.why);
    // SYN and SYN-ACK, then one message of the hello each way.
    assert!((40_000_000..=60_000_000).contains(&ending.took), "{} ns", ending.took);
}

#[test]
fn a_listener_behind_a_nat_dials_back() {
    let ending = clean(&Pair::new(1, chains("linux", "open")));
    assert_eq!(ending.strategy, Some(Strategy::Reverse), "{}", ending.why);
    assert!(ending.address.contains("45.10.1.1"), "STUN's view is announced: {}", ending.address);
}

#[test]
fn two_nats_fail_in_time_and_say_why() {
    let mut pair = Pair::new(1, chains("linux", "linux"));
    pair.strategies = vec![Strategy::Direct, Strategy::Reverse];
    let ending = clean(&pair);
    assert_eq!(ending.strategy, None);
    assert!(ending.why.contains("direct failed") && ending.why.contains("no answer"), "{}", ending.why);
    assert!(ending.why.contains("reverse failed"), "{}", ending.why);
    assert!(ending.why.contains("the peer dialled 1 address(es) of ours without success"), "{}", ending.why);
}

#[test]
fn oneself_and_the_same_network() {
    for chain in ["open", "linux", "rfc5382"] {
        let pair = Pair { place: Place::Oneself, ..Pair::new(2, chains(chain, chain)) };
        assert_eq!(clean(&pair).strategy, Some(Strategy::Direct), "oneself behind {chain}");
        let pair = Pair { place: Place::SameSite, ..pair };
        assert_eq!(clean(&pair).strategy, Some(Strategy::Direct), "same site behind {chain}");
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for (a, b) in [("open", "open"), ("linux", "open"), ("linux", "openwrt")] {
        let digest = |seed| run(&Pair::new(seed, chains(a, b))).digest;
        assert_eq!(digest(5), digest(5), "{a} {b}");
        assert_ne!(digest(5), digest(6), "{a} {b}");
    }
}

#[test]
fn what_a_nat_makes_of_a_dial_to_itself_is_measured() {
    for (nat, found) in [
        ("open", None),
        ("fullcone", Some(true)),
        ("fullcone,hairpin=internal", Some(false)),
        ("fullcone,hairpin=dropped", Some(false)),
        ("fullcone,hairpin=refused", Some(false)),
        // The filter stands in the way.
        ("linux,hairpin=external", Some(false)),
        ("restricted-cone,hairpin=external", Some(false)),
        // The outer one takes it back.
        ("linux+fullcone", Some(false)),
        ("fullcone+fullcone", Some(true)),
    ] {
        let mut lab = Lab::new(1);
        let node = lab.behind(nat).node(|config| config.hairpin(true));
        assert!(lab.wait(PATIENCE, |lab| lab.address(node).is_ok()));
        let reports: Vec<_> = lab.node(node).core().nats().cloned().collect();
        assert_eq!(reports.len(), 1);
        assert_eq!(reports[0].hairpin, found, "{nat}: {:?}", reports[0]);
        assert!(reports[0].mapped.is_some(), "{nat}");
    }
}
