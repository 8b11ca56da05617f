//! Strangers that flood a node while honest calls run: each kind of flood alone, and drawn ones.

use p2pd_core::Strategy;
use p2pd_simulations::engine::{MILLI, SECOND};
use p2pd_simulations::nat::Chain;
use p2pd_simulations::scenario::flood::{Act, Flood, Greeting, Named, Part, Plea, Whose};
use p2pd_simulations::scenario::pair::{Ending, Pair, run};
use p2pd_simulations::scenario::swarm::{With, draw, judge};

/// Calls between two public hosts, or over the broker alone, while this is done to both.
fn call(act: &Act, rate: u64, keys: u16, named: Named, strategy: Strategy) -> Ending {
    let part = Part { addresses: 1, keys, every: SECOND / rate, acts: 5_000, act: act.clone() };
    let flood = Flood { victims: [true; 2], named, warm: 4 * SECOND, parts: vec![part] };
    let nat: Chain = if strategy == Strategy::Direct { "open" } else { "linux" }.parse().unwrap();
    let caller = if strategy == Strategy::Reverse { "open".parse().unwrap() } else { nat.clone() };
    let mut pair = Pair::new(1, [nat, caller]);
    pair.strategies = vec![strategy];
    pair.flood = Some(flood);
    run(&pair)
}

fn must(act: &Act, rate: u64, keys: u16, named: Named, strategy: Strategy) {
    let ending = call(act, rate, keys, named, strategy);
    assert!(ending.violations.is_empty(), "{act:?} {named:?} {strategy}: {:?}", ending.violations);
    assert_eq!(ending.strategy, Some(strategy), "{act:?} {named:?}: {}", ending.why);
    assert!(ending.took < 2 * SECOND, "{act:?} {named:?} {strategy}: {} ms", ending.took / MILLI);
}

const NAMED: [Named; 3] = [Named::Listed, Named::Approved, Named::Remembered];

#[test]
fn silent_streams_keep_nobody_out_who_is_named() {
    for greeting in [Greeting::Silent, Greeting::Garbage, Greeting::Cut(30)] {
        for named in NAMED {
            must(&Act::Stream(greeting, None), 600, 1, named, Strategy::Direct);
        }
    }
}

#[test]
fn hellos_of_one_key_or_many_keep_nobody_out_who_is_named() {
    for greeting in [Greeting::First, Greeting::Again, Greeting::Pipe] {
        for keys in [1, 100] {
            must(&Act::Stream(greeting, None), 60, keys, Named::Remembered, Strategy::Direct);
        }
    }
}

#[test]
fn messages_of_strangers_do_not_make_a_node_deaf_to_whom_it_names() {
    let pleas = [
        Plea::Dial(Whose::Own),
        Plea::Punch(Whose::Own),
        Plea::Relay(Whose::Own),
        Plea::Echo,
        Plea::Clock,
        Plea::Dialled,
        Plea::Refused,
    ];
    for named in [Named::Listed, Named::Remembered] {
        for plea in pleas {
            for strategy in [Strategy::Reverse, Strategy::Punch] {
                must(&Act::Letter(vec![plea], 590), 150, 17, named, strategy);
            }
        }
    }
}

#[test]
fn nobody_else_pays_for_what_strangers_ask() {
    for whose in [Whose::Third, Whose::Inside] {
        for plea in [Plea::Dial(whose), Plea::Punch(whose), Plea::Relay(whose)] {
            for named in [Named::Remembered, Named::Nobody] {
                let ending = call(&Act::Letter(vec![plea], 0), 10, 40, named, Strategy::Direct);
                assert!(ending.violations.is_empty(), "{plea:?} {named:?}: {:?}", ending.violations);
            }
        }
    }
}

#[test]
fn one_world_in_eight_has_strangers_and_the_others_are_as_before() {
    let has = |seed: &u64| draw(*seed, With::default()).pair.flood.is_some();
    let flooded: Vec<u64> = (0..64).filter(has).collect();
    assert_eq!(flooded, [11, 12, 28, 32, 38, 43, 45, 47, 60]);
    for seed in (0..64).filter(|seed| !has(seed)) {
        let (few, all) =
            (draw(seed, With::default()), draw(seed, With { strangers: true, ..With::default() }));
        let calm = Pair { flood: None, ..all.pair };
        assert_eq!(format!("{:?}", few.pair), format!("{calm:?}"), "seed {seed}");
    }
}

#[test]
fn drawn_floods_keep_what_always_holds() {
    for with in [
        With { strangers: true, ..With::default() },
        With { strangers: true, relay: true, ..With::default() },
        With { strangers: true, routers: true, ..With::default() },
    ] {
        for seed in 0..4 {
            let drawn = draw(seed, with);
            let (ending, wrong) = judge(&drawn);
            assert!(wrong.is_empty(), "{wrong:?}; sim swarm --seed {seed} {with:?} {}", drawn.what);
            if seed == 0 {
                assert_eq!(run(&drawn.pair).digest, ending.digest);
            }
        }
    }
}
