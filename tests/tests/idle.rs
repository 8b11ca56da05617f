//! Test of the process's wake-ups while its nodes have nothing to do, alone in its file and so in its process.
#![cfg(target_os = "linux")]

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use p2pd_core::{Config, Plan, SecretKey};
use p2pd_tests::drivers::Driver;

const TIME: Duration = Duration::from_secs(5);
/// Three nodes, two a second each.
const MOST: u64 = 30;

/// Returns the number of times that each thread of this process went to sleep.
fn sleeps() -> HashMap<String, u64> {
    let of = |task: std::fs::DirEntry| {
        let text = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        (format!("{:?}", task.file_name()), count.and_then(|n| n.trim().parse().ok()).unwrap_or(0))
    };
    std::fs::read_dir("/proc/self/task").unwrap().map(|task| of(task.unwrap())).collect()
}

/// Returns the number of sleeps within [`TIME`], of all threads that lived until the end.
fn in_time() -> u64 {
    let before = sleeps();
    thread::sleep(TIME);
    sleeps().iter().map(|(thread, n)| n - before.get(thread).unwrap_or(&0)).sum()
}

#[test]
fn an_idle_node_sleeps() {
    let config = || {
        let mut config = Config::new(SecretKey::from_bytes(p2pd_sys::random_seed().unwrap()));
        config.bind = Some(Ipv4Addr::LOCALHOST.into());
        config
    };
    for driver in Driver::ALL {
        let (a, b) = (driver.bind(config(), None).unwrap(), driver.bind(config(), None).unwrap());
        let _pipe = a.connect(&b.address(), Plan::default()).unwrap();
        let _other = b.accept(TIME).unwrap();
        // One that hears of network changes. It knows no server and sends nothing.
        let c = driver.bind(Config { bind: None, ..config() }, None).unwrap();
        // Pools of threads are given up after a while.
        thread::sleep(Duration::from_secs(2));
        let woken = in_time();
        a.shutdown();
        b.shutdown();
        c.shutdown();
        // async-std's executor and its pool wake now and then, without any node.
        let own = in_time();
        println!("{driver}: woken {woken} times in {TIME:?} with three nodes, {own} times after their end");
        assert!(woken <= own + MOST, "{driver}: {woken}, {own}");
    }
}
