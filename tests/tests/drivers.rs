//! Every driver with every other by every strategy, and without its interface, between processes on real Linux NATs,
//! with mosquitto and coturn.

use std::time::Duration;

use p2pd_tests::drivers::Driver;
use p2pd_tests::require_lab;
use p2pd_tests::world::{PATIENCE, World};

/// The strategies, and the homes of listener and caller that leave it to them.
const ROWS: [(&str, [&str; 2]); 5] = [
    ("direct", ["none", "none"]),
    ("reverse", ["pr", "none"]),
    ("punch", ["pr", "pr"]),
    ("udp", ["pr", "pr"]),
    ("relay", ["symrand/drop", "symrand/drop"]),
];

#[test]
fn every_driver_reaches_every_other_by_every_strategy() {
    require_lab!(Mosquitto, Coturn);
    let mut broken = String::new();
    println!("{:<10} {:<10} {:<10} ms", "strategy", "listener", "caller");
    for (strategy, homes) in ROWS {
        let world = World::relaying(&homes, Duration::from_millis(5), &[], "");
        let servers = world.config().to_str().unwrap();
        let peer = |host: usize, args: &[&str]| {
            let host = world.lab.host(host);
            host.run(env!("CARGO_BIN_EXE_peer"), args).unwrap()
        };
        for there in Driver::ALL {
            let mut listener = peer(0, &[there.name(), "listen", servers]);
            let ready = listener.wait_for_line(|line| line.starts_with("ready "), PATIENCE).unwrap();
            let address = ready.strip_prefix("ready ").unwrap();
            for here in Driver::ALL {
                let mut caller = peer(1, &[here.name(), "connect", servers, address, strategy]);
                let ended = caller.wait(PATIENCE);
                let said: Vec<&str> = caller.lines().iter().map(|l| &*l.text).collect();
                let by = format!("connected {strategy} ");
                let time = said.iter().find_map(|line| line.strip_prefix(&by));
                match time {
                    Some(ms) if said.contains(&"there and back") => {
                        println!("{strategy:<10} {:<10} {:<10} {ms}", there.name(), here.name());
                    }
                    _ => broken += &format!("{here} -> {there} by {strategy}: {ended:?} {said:?}\n"),
                }
            }
        }
    }
    assert!(broken.is_empty(), "{broken}");
}

#[test]
fn a_dial_whose_interface_is_gone_fails_at_once_and_says_so() {
    require_lab!(Mosquitto, Coturn);
    let world = World::new(&["none"; 4]);
    let servers = world.config().to_str().unwrap();
    let run = |host: usize, args: &[&str]| {
        let host = world.lab.host(host);
        host.run(env!("CARGO_BIN_EXE_peer"), args).unwrap()
    };
    let mut listener = run(0, &["mio", "listen", servers]);
    let ready = listener.wait_for_line(|line| line.starts_with("ready "), PATIENCE).unwrap();
    let address = ready.strip_prefix("ready ").unwrap();
    for (n, driver) in Driver::ALL.into_iter().enumerate() {
        let mut caller = run(1 + n, &[driver.name(), "cut-off", servers, address]);
        let failed = caller.wait_for_line(|line| line.starts_with("failed "), PATIENCE).unwrap();
        assert!(failed.contains("host or network unreachable"), "{driver}: {failed}");
        assert!(caller.wait(PATIENCE).unwrap().success(), "{driver}: {:?}", caller.lines());
    }
}
