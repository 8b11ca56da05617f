//! TCP hole punching through real Linux NATs, with mosquitto and coturn, by the program as its user runs it.

use std::time::Duration;

use p2pd_tests::require_lab;
use p2pd_tests::world::World;

const ONE_WAY: Duration = Duration::from_millis(20);

fn punch(ours: &str, theirs: &str) {
    let world = World::far_apart(&[theirs, ours], ONE_WAY);
    let (_listener, address, [option, key]) = world.listen_for_one();
    let args = ["--strategies", "punch", &option, &key];
    let (connected, answer) = world.connect(&address, "through both\n", &args);
    assert_eq!(
        (connected["strategy"].as_str(), answer.as_str()),
        (Some("punch"), "through both"),
        "{ours} {theirs}"
    );
    println!("{ours:>10} {theirs:<10} {:>8} ms", connected["elapsed_ms"]);
}

#[test]
fn two_homes() {
    require_lab!(Mosquitto, Coturn);
    let pair = std::env::var("PAIR").unwrap_or("pr pr".into());
    let (a, b) = pair.split_once(' ').unwrap();
    punch(a, b);
}
