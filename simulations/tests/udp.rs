//! UDP punching in the simulated internet, beside TCP and alone.

use std::time::Duration;

use p2pd_core::Strategy;
use p2pd_simulations::engine::MILLI;
use p2pd_simulations::nat::{Chain, NatSpec, Unsolicited};
use p2pd_simulations::net::LinkSpec;
use p2pd_simulations::oracle::{Verdict, udp};
use p2pd_simulations::scenario::pair::{Pair, Relaying, run};

/// A pair with a round trip of 40 ms.
fn pair(seed: u64, chains: [Chain; 2]) -> Pair {
    let mut pair = Pair::new(seed, chains);
    pair.links = [LinkSpec::with_delay(10 * MILLI); 2];
    pair
}

fn homes(change: impl Fn(&mut NatSpec)) -> [Chain; 2] {
    [0, 1].map(|_| {
        let mut nat = NatSpec::LINUX;
        change(&mut nat);
        Chain(vec![nat])
    })
}

#[test]
fn every_two_kinds_of_home_meet_over_udp_alone_as_the_oracle_says() {
    let names = [
        "open",
        "linux",
        "openwrt",
        "linux-accept",
        "fullcone",
        "restricted-cone",
        "double",
        "firewall",
        "one2one",
        "cgn-deterministic",
        "windows-ics",
    ];
    let (mut must, mut met) = (0, 0);
    for (n, a) in names.iter().enumerate() {
        for b in names {
            let mut pair = pair(n as u64, [a, b].map(|name| name.parse().unwrap()));
            (pair.strategies, pair.known) = (vec![Strategy::Udp], true);
            let ending = run(&pair);
            assert!(ending.violations.is_empty(), "{a} {b}: {:?}", ending.violations);
            met += u32::from(ending.strategy.is_some());
            match udp(&pair.chains[0], &pair.chains[1]) {
                Verdict::Must => {
                    must += 1;
                    assert_eq!(ending.strategy, Some(Strategy::Udp), "{a} {b}: {}", ending.why);
                    assert!(ending.took < 500 * MILLI, "{a} {b}: {}", ending.took / MILLI);
                }
                Verdict::MustNot => assert_eq!(ending.strategy, None, "{a} {b}"),
                Verdict::Perhaps => {}
            }
        }
    }
    assert_eq!((must, met), (49, 121));
}

#[test]
fn where_the_homes_spoil_tcp_udp_wins_within_half_a_second() {
    for unsolicited in [Unsolicited::Drop, Unsolicited::Rst] {
        for seed in 0..10 {
            let spoil = |nat: &mut NatSpec| {
                (nat.simultaneous_open, nat.unsolicited) = (false, unsolicited);
            };
            let ending = run(&pair(seed, homes(spoil)));
            assert_eq!(ending.strategy, Some(Strategy::Udp), "{unsolicited:?} {seed}: {}", ending.why);
            assert!(ending.took < 500 * MILLI, "{}", ending.took / MILLI);
            assert!(ending.violations.is_empty(), "{:?}", ending.violations);
        }
    }
}

#[test]
fn where_udp_is_blocked_tcp_takes_as_long_as_without_it() {
    for seed in 0..10 {
        let mut pair = pair(seed, homes(|nat| nat.udp_passes = false));
        let ending = run(&pair);
        assert_eq!(ending.strategy, Some(Strategy::Punch), "{}", ending.why);
        pair.strategies.retain(|s| *s != Strategy::Udp);
        assert_eq!(run(&pair).took, ending.took);
    }
}

#[test]
fn homes_that_police_udp_are_met_as_any_others_and_what_is_sent_arrives() {
    for seed in 0..5 {
        let pair = pair(seed, homes(|nat| (nat.udp_rate, nat.simultaneous_open) = (1_000_000, false)));
        let free = run(&Pair { chains: homes(|nat| nat.simultaneous_open = false), ..pair.clone() });
        let ending = run(&pair);
        assert_eq!(ending.strategy, Some(Strategy::Udp), "{}", ending.why);
        assert_eq!(ending.took, free.took, "what opens a pipe is less than a policer lets through at once");
        assert!(ending.violations.is_empty(), "{:?}", ending.violations);
    }
}

#[test]
fn two_firewalls_on_ipv6_are_punched_by_udp() {
    for [a, b] in [["firewall", "firewall"], ["firewall/rst", "firewall,sim-open=no"], ["open", "firewall"]] {
        for seed in 0..5 {
            let mut pair = pair(seed, [a, b].map(|name| name.parse().unwrap()));
            (pair.six, pair.strategies) = (true, vec![Strategy::Udp]);
            let ending = run(&pair);
            assert_eq!(ending.strategy, Some(Strategy::Udp), "{a} {b}: {}", ending.why);
            assert!(ending.took < 500 * MILLI, "{a} {b}: {}", ending.took / MILLI);
            assert!(ending.address.contains("2a10:"), "{}", ending.address);
            assert!(ending.violations.is_empty(), "{a} {b}: {:?}", ending.violations);
        }
    }
}

#[test]
fn where_both_are_spoilt_the_relay_comes_as_soon_as_without_udp() {
    for seed in 0..5 {
        let mut pair = pair(seed, homes(|nat| (nat.simultaneous_open, nat.udp_passes) = (false, false)));
        pair.relay = Some(Relaying::default());
        pair.timeout = Duration::from_secs(30);
        let ending = run(&pair);
        assert_eq!(ending.strategy, Some(Strategy::Relay), "{}", ending.why);
        pair.strategies.retain(|s| *s != Strategy::Udp);
        let without = run(&pair).took;
        assert!(ending.took <= without + MILLI, "{} and {}", ending.took / MILLI, without / MILLI);
    }
}

#[test]
fn counted_ports_are_foreseen_and_random_ones_searched_for() {
    let tried = |chains: [&str; 2]| {
        let runs = (0..20).map(|seed| {
            let mut pair = pair(seed, chains.map(|name| name.parse().unwrap()));
            (pair.strategies, pair.known) = (vec![Strategy::Udp], true);
            let ending = run(&pair);
            assert!(ending.violations.is_empty(), "{chains:?}: {:?}", ending.violations);
            ending.strategy.is_some()
        });
        runs.filter(|joined| *joined).count()
    };
    let (counts, random, block) = ("linux,alloc=seq+1", "linux,alloc=random", "linux,alloc=block1024");
    assert_eq!([[counts, "linux"], ["linux", counts], [counts, counts]].map(tried), [20, 20, 20]);
    // The caller's 1,024 probes, or its 512 sockets against the listener's 256 probes.
    assert_eq!([[random, "linux"], ["linux", random]].map(tried), [19, 19]);
    // Of two blocks of 1,024 both ends send to one agreed port, the listener from 256 sockets.
    assert_eq!([[random, random], [block, block]].map(tried), [0, 4]);
}
