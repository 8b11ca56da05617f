//! Test of the process's sockets, threads and tasks, alone in its file and so in its process.
#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::thread;
use std::time::Duration;

use p2pd_core::{Config, Plan, SecretKey, StunServer};
use p2pd_tests::drivers::{Driver, Node, runtime};

const LONG: Duration = Duration::from_secs(20);

fn entries(of: &str) -> Vec<String> {
    let entries = std::fs::read_dir(format!("/proc/self/{of}")).unwrap();
    entries.map(|e| e.unwrap().path().to_string_lossy().into_owned()).collect()
}

fn sockets() -> usize {
    let is_socket = |path: &String| {
        std::fs::read_link(path).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
    };
    entries("fd").iter().filter(|path| is_socket(path)).count()
}

fn left() -> (usize, usize, usize) {
    (sockets(), entries("task").len(), runtime().metrics().num_alive_tasks())
}

fn until_left(expected: (usize, usize, usize), what: &str) {
    for _ in 0..1500 {
        // Threads that wait for blocking work, a runtime's own, go after a while without any; on a busy machine
        // async-std was seen to keep one more.
        let (sockets, threads, tasks) = left();
        if (sockets, tasks) == (expected.0, expected.2) && threads <= expected.1 + 1 {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("{what}: {:?}, {expected:?} before", left());
}

/// Two nodes with a pipe, a call that nobody answers, and a STUN server that is silent.
fn live(driver: Driver, by_drop: bool, silent: &TcpListener, unheard: &UdpSocket) {
    let config = || {
        let mut config = Config::new(SecretKey::from_bytes(p2pd_sys::random_seed().unwrap()));
        config.bind = Some(Ipv4Addr::LOCALHOST.into());
        config
    };
    let mut with_stun = config();
    let port = unheard.local_addr().unwrap().port();
    with_stun.stun = vec![StunServer { host: "127.0.0.1".into(), port }];
    let a: Box<dyn Node> = driver.bind(with_stun, None).unwrap();
    let b = driver.bind(config(), None).unwrap();
    let to = b.address();
    let mut ours = a.connect(&to, Plan::default()).unwrap();
    let mut theirs = b.accept(LONG).unwrap();
    let (there, nowhere) = (to.v4()[0].port, silent.local_addr().unwrap().port());
    let nobody = to.to_string().replace(&format!(",{there},"), &format!(",{nowhere},"));
    let _under_way = a.begin(&nobody, Plan::new().timeout(LONG)).unwrap();
    let (_held, _) = silent.accept().unwrap();
    if !by_drop {
        a.shutdown();
        b.shutdown();
    }
    ours.write_all(b"still").unwrap();
    ours.end().unwrap();
    let mut text = String::new();
    theirs.read_to_string(&mut text).unwrap();
    assert_eq!(text, "still");
}

#[test]
fn the_end_of_a_node_leaves_no_socket_thread_or_task() {
    // Made when first asked for, with sockets and threads.
    runtime();
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let unheard = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for driver in Driver::ALL {
        // Runtimes make threads and pipes of their own when they are first used, and keep them.
        live(driver, false, &silent, &unheard);
        thread::sleep(Duration::from_millis(500));
        let before = left();
        for by_drop in [false, true] {
            // More than once, so that a thread that each leaves is told from one that a runtime adds to its own.
            for _ in 0..3 {
                live(driver, by_drop, &silent, &unheard);
            }
            until_left(before, &format!("{driver}, dropped: {by_drop}"));
        }
    }
}
