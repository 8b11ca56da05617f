//! Tests of p2pd's punching on pairs of homes drawn from the census, compared with that of others. Searches must hit at
//! the rate that the report states. Homes that spoil TCP or UDP, and homes that let out little, meet whom they can.

use p2pd_simulations::scenario::census::{BASIC, Census, Drawn, Group, SPOILS, draw, draw_from, wilson};
use p2pd_simulations::scenario::pair::run;
use p2pd_simulations::scenario::plan::By;
use p2pd_simulations::scenario::reliability::{CASES, hit, pair, stated};
use p2pd_simulations::scenario::rivals::{Rival, joins};

const PAIRS: u64 = 400;

#[test]
fn ours_joins_more_homes_than_the_field() {
    let (mut ours, mut one, mut many, mut one_tried, mut many_tried) = (0, 0, 0, 0, 0);
    let mut rivals = Rival::ALL.map(|r| (r, 0));
    for seed in 0..PAIRS {
        let drawn = draw(seed);
        for (rival, hits) in &mut rivals {
            *hits += u64::from(joins(*rival, &drawn));
        }
        let joined = drawn.ours(By::Punch).is_some_and(|ending| {
            assert!(ending.violations.is_empty(), "seed {seed}: {:?}", ending.violations);
            ending.strategy.is_some()
        });
        ours += u64::from(joined);
        let (tried, hits) = match drawn.group() {
            Group::OneOne => (&mut one_tried, &mut one),
            Group::OneMany => (&mut many_tried, &mut many),
            _ => continue,
        };
        *tried += 1;
        *hits += u64::from(joined);
    }
    println!("of {PAIRS}: ours {ours}, {rivals:?}");
    assert!(one * 100 >= one_tried * 99, "EIM-EIM: {one} of {one_tried}");
    assert!(many * 100 >= many_tried * 92, "EIM-EDM: {many} of {many_tried}");
    assert!(ours * 100 >= PAIRS * 92, "{ours} of {PAIRS}");
    // The census is calibrated to the 70 % that DCUtR was measured to have in the field (and so is its model).
    let (low, high) = wilson(rivals[0].1, PAIRS);
    assert!(low <= 7_140 && 7_000 <= high, "the calibration is off: {rivals:?}");
    assert!(rivals.iter().all(|(_, hits)| *hits <= ours), "{ours}, {rivals:?}");
}

#[test]
fn a_search_hits_as_often_as_it_says() {
    let (mut hits, mut searches) = (0, 0);
    for seed in 0..300 {
        let ending = run(&pair(&CASES[0], seed).pair(By::Punch));
        assert!(ending.violations.is_empty(), "seed {seed}: {:?}", ending.violations);
        if let Some(hit) = hit(&ending) {
            searches += 1;
            hits += u64::from(hit);
        }
    }
    let stated = u64::from(stated(&CASES[0]).unwrap()) * 10;
    println!("{hits} of {searches}, stated {stated} in ten thousand");
    assert!(searches >= 290, "{searches} searches");
    // Three points and the sampling error.
    let (low, high) = wilson(hits, searches);
    assert!(low < stated + 300 && stated < high + 300, "{hits} of {searches}, stated {stated}");
}

/// Homes from which only ports 80 and 443 get out meet all who can be had at port 443, and nobody else.
#[test]
fn whoever_has_port_443_is_met_from_where_nothing_else_gets_out() {
    let (mut tried, mut met) = (0, 0);
    for seed in 0..1_000 {
        let drawn = Drawn { peer_443: true, ..draw(seed) };
        if drawn.group() != Group::Closed {
            continue;
        }
        let ending = run(&drawn.pair(By::Punch));
        assert!(ending.violations.is_empty(), "seed {seed}: {:?}", ending.violations);
        let can = drawn.bound(By::Punch) > 0.5;
        assert_eq!(ending.strategy.is_some(), can, "seed {seed}: {}", ending.why);
        tried += 1;
        met += u32::from(can);
    }
    assert_eq!((tried, met), (32, 31));
}

#[test]
fn over_tcp_and_udp_more_homes_meet_than_over_either() {
    let census = Census { spoils: SPOILS, ..BASIC };
    let all: Vec<Drawn> = (0..150).map(|seed| draw_from(&census, seed)).collect();
    let joined = |by: By| {
        let joined = all.iter().filter(|drawn| {
            let Some(ending) = drawn.ours(by) else { return false };
            assert!(ending.violations.is_empty(), "seed {}: {:?}", drawn.seed, ending.violations);
            ending.strategy.is_some()
        });
        joined.count()
    };
    let iroh = all.iter().filter(|drawn| joins(Rival::Iroh, drawn)).count();
    let [both, tcp, udp] = [By::Both, By::Tcp, By::Udp].map(joined);
    assert_eq!((both, tcp, udp, iroh), (141, 133, 131, 102));
}
