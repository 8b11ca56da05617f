//! A running daemon, and altered requests on many connections: it lives, it answers, and nothing in it has panicked.
//! Two seconds in each run of the tests; `tests/long/fuzz` for as long as is asked for.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::common::{Running, p2pd};
use crate::mutate::{REQUESTS, Random, altered, asked, is_over};

const CLIENTS: u64 = 8;

/// Returns the answer to a request of a client that then ends its side, or waits.
fn ask(api: SocketAddr, request: &[u8], ends: bool, patience: Duration) -> Vec<u8> {
    let mut stream = TcpStream::connect_timeout(&api, Duration::from_secs(20)).unwrap();
    stream.set_read_timeout(Some(patience)).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    // The daemon may have closed already.
    let _ = stream.write_all(request);
    if ends {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    let _ = stream.take(64 * 1024).read_to_end(&mut answer);
    answer
}

fn get(api: SocketAddr, path: &str) -> Vec<u8> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    ask(api, request.as_bytes(), false, Duration::from_secs(20))
}

fn resident_mib(child: &Running) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.0.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

#[test]
fn altered_requests_leave_the_daemon_well() {
    let (time, seed) = asked();
    let dir = tempfile::tempdir().unwrap();
    let said = dir.path().join("said");
    // To a file, and all of it looked at in the end.
    let mut command = p2pd(&["daemon", "--json", "--no-servers", "--no-token", "--bind", "127.0.0.1"]);
    command.args(["--api", "127.0.0.1:0"]).stderr(std::fs::File::create(&said).unwrap());
    let mut child = Running(command.spawn().unwrap());
    let begin = Instant::now();
    let api: SocketAddr = loop {
        let text = std::fs::read_to_string(&said).unwrap();
        if text.contains("\"event\":\"ready\"") {
            let event: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
            break event["api"].as_str().unwrap().parse().unwrap();
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "{text}");
        std::thread::sleep(Duration::from_millis(20));
    };
    let (requests, answers) = (AtomicU64::new(0), AtomicU64::new(0));
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (requests, answers) = (&requests, &answers);
            scope.spawn(move || {
                let mut random = Random::new(seed.wrapping_mul(1000) + client);
                for n in 0_u32.. {
                    if is_over(begin, time) {
                        return;
                    }
                    // Some of them close it.
                    if n % 200 == 0 {
                        get(api, "/p2p/open/a/self");
                    }
                    let request = altered(&REQUESTS, &mut random);
                    let answer = ask(api, &request, random.below(4) > 0, Duration::from_millis(100));
                    requests.fetch_add(1, Ordering::Relaxed);
                    answers.fetch_add(u64::from(answer.starts_with(b"HTTP/1.1 ")), Ordering::Relaxed);
                }
            });
        }
    });
    let (requests, answers) = (requests.into_inner(), answers.into_inner());
    let mib = resident_mib(&child);
    println!(
        "fuzz of the daemon: seed {seed}, {:.0} s, {requests} requests, {answers} answered, {mib} MiB resident",
        begin.elapsed().as_secs_f64()
    );
    let version = String::from_utf8(get(api, "/version")).unwrap();
    assert!(version.starts_with("HTTP/1.1 200 OK\r\n"), "{version}");
    assert_eq!(child.0.try_wait().unwrap(), None);
    let said = std::fs::read_to_string(&said).unwrap();
    assert!(!said.contains("panicked"), "seed {seed}: {said}");
    assert!(requests > 50 && answers > 20, "{requests} requests, {answers} answered");
    // All its queues full, and no more.
    assert!(mib < 300, "{mib} MiB");
}
