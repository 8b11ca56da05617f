//! A wall clock that is set while a node runs.

use std::time::{Duration, Instant};

use p2pd_tests::lab::{Home, Lab, Nat};
use p2pd_tests::require_lab;
use p2pd_tests::world::{PATIENCE, event, faked, program};

/// Returns the readings of the wall clock in a trace, in microseconds of Unix time.
fn told(trace: &std::path::Path) -> Vec<i64> {
    let text = std::fs::read_to_string(trace).unwrap_or_default();
    let wall = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let is = words.first() == Some(&"event") && words.get(2) == Some(&"clock");
        is.then(|| words[4].parse().unwrap())
    };
    text.lines().filter_map(wall).collect()
}

#[test]
fn a_wall_clock_that_is_set_is_read_again_within_seconds() {
    require_lab!(Faketime);
    let lab = Lab::builder().home(Home::new(Nat::None)).build().unwrap();
    let host = lab.host(0);
    let folder = tempfile::tempdir().unwrap();
    let [offset, trace] = ["offset", "trace"].map(|name| folder.path().join(name));
    std::fs::write(&offset, "+0").unwrap();
    let mut command = host.command(program());
    // The offset is read from the file each time.
    faked(&mut command).env("FAKETIME_TIMESTAMP_FILE", &offset).env("FAKETIME_NO_CACHE", "1");
    command.env("P2PD_FORBID_PUBLIC_SERVERS", "1");
    command.args(["listen", "--no-servers", "--json", "--trace"]).arg(&trace);
    let mut listener = host.spawn(command).unwrap();
    event(&mut listener, "ready");
    let before = told(&trace);
    assert_eq!(before.len(), 1, "{before:?}");
    std::fs::write(&offset, "+30d").unwrap();
    let set = Instant::now();
    let after = loop {
        let all = told(&trace);
        if let Some(after) = all.get(1) {
            break *after;
        }
        assert!(set.elapsed() < PATIENCE, "{all:?}");
        std::thread::sleep(Duration::from_millis(50));
    };
    let month = 30 * 86_400 * 1_000_000;
    let ahead = after - before[0] - month;
    assert!((0..30_000_000).contains(&ahead), "{ahead} us");
}
