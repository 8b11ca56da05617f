//! Test of the process's wake-ups while its nodes have nothing to do, alone in its file and so in its process.
#![cfg(target_os = "linux")]

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use p2pd_core::{Config, Plan, SecretKey};
use p2pd_tests::drivers::Driver;

const TIME: Duration = Duration::from_secs(5);
/// Three nodes, two a second each. One wake-up of a node passes up to two threads: the reactor's and an executor's.
const MOST: u64 = 60;
/// Bound of the windows that are watched. The quietest counts: other processes and the runtime only add.
const WINDOWS: usize = 3;

/// Returns the number of times that each thread of this process went to sleep.
///
/// Threads of async-std's blocking pool do not count: each wakes twice a second, with or without a node.
fn sleeps() -> HashMap<String, u64> {
    let of = |task: std::fs::DirEntry| {
        let text = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let field = |name| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let count = field("voluntary_ctxt_switches:").and_then(|n| n.parse().ok()).unwrap_or(0);
        (!field("Name:")?.starts_with("blocking-")).then(|| (format!("{:?}", task.file_name()), count))
    };
    std::fs::read_dir("/proc/self/task").unwrap().filter_map(|task| of(task.unwrap())).collect()
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
        let c = driver.bind(config().bind(None), None).unwrap();
        // Pools of threads are given up after a while.
        thread::sleep(Duration::from_secs(2));
        let mut woken = u64::MAX;
        for _ in 0..WINDOWS {
            woken = woken.min(in_time());
            if woken <= MOST {
                break;
            }
        }
        a.shutdown();
        b.shutdown();
        c.shutdown();
        println!("{driver}: woken {woken} times in {TIME:?} with three nodes");
        assert!(woken <= MOST, "{driver}: {woken}");
    }
}
