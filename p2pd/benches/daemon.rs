//! Measures the API under load, on loopback: 1,000 open connections, then requests for some seconds, and the daemons'
//! memory meanwhile; then 10,000 subscriptions on one of them. Run `cargo bench -p p2pd --bench daemon -- [SECONDS]
//! [check]`. The default is 10 seconds. With `check` it fails on an error, below 10,000 requests/s, or where memory
//! still grows at the end. Clients and daemons share the machine.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const CONNECTIONS: usize = 1000;
const CLIENTS: usize = 16;
const SUBSCRIPTIONS: usize = 10_000;
/// Demands of `check`: requests a second, and most growth of memory in the last quarter, in MiB.
const FAST_ENOUGH: f64 = 10_000.0;
const FLAT: f64 = 2.0;
/// A node takes 250 hellos a second, from whomever.
const OPEN_EVERY: Duration = Duration::from_millis(5);

fn main() -> ExitCode {
    let seconds = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(10);
    let check = std::env::args().any(|arg| arg == "check");
    let (here, there) = (Daemon::start(), Daemon::start());
    println!("at the start: {}", memory(&here, &there));

    let clock = Instant::now();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (here, there) = (&here, &there);
            scope.spawn(move || {
                let mut http = Http::new(here);
                for n in (client..CONNECTIONS).step_by(CLIENTS) {
                    std::thread::sleep((OPEN_EVERY * n as u32).saturating_sub(clock.elapsed()));
                    assert_eq!(http.get(&format!("/p2p/open/c{n}/{}", there.address)), 200);
                }
            });
        }
    });
    let took = clock.elapsed();
    println!(
        "{CONNECTIONS} connections opened in {:.2} s, one every {OPEN_EVERY:?}; {}",
        took.as_secs_f64(),
        memory(&here, &there)
    );

    let mut wrong = Vec::new();
    for (what, calls) in [
        ("/version", &["/version"][..]),
        ("/p2p/send of 26 bytes", &["/p2p/send/NAME/26%20bytes%20of%20plain%20text%20."]),
        (
            "/p2p/send of an ECHO, and /p2p/recv",
            &["/p2p/send/NAME/ECHO%20there%20and%20back", "/p2p/recv/NAME"],
        ),
    ] {
        wrong.extend(load(what, calls, &here, &there, Duration::from_secs(seconds)));
    }
    subscriptions(&here, &there);
    if check && !wrong.is_empty() {
        println!("\nFAILED: {}", wrong.join("; "));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Many on one pipe, the last of a kind that makes other machines for patterns backtrack.
fn subscriptions(here: &Daemon, there: &Daemon) {
    let mut http = Http::new(here);
    let clock = Instant::now();
    // Every connection is subscribed to everything from its start.
    for n in 1..SUBSCRIPTIONS - 1 {
        assert_eq!(http.get(&format!("/p2p/sub/c0/msg_p/word{n}%20?queue=10")), 200);
    }
    assert_eq!(http.get("/p2p/sub/c0/msg_p/(a+)+$?queue=10"), 200);
    assert_eq!(http.get("/p2p/sub/c0/msg_p/one%20too%20many"), 503);
    println!(
        "\n{SUBSCRIPTIONS} subscriptions on a connection, made in {:.2} s; {}",
        clock.elapsed().as_secs_f64(),
        memory(here, there)
    );
    for (what, text) in [
        ("26 bytes", "word42 and some more bytes".into()),
        ("8 KiB of `a` and a `!`", "a".repeat(8 << 10) + "!"),
    ] {
        while http.get("/p2p/recv/c0/msg_p/word42%20/timeout/0") == 200 {}
        let text = format!("ECHO word42 {text}").replace(' ', "%20");
        let clock = Instant::now();
        assert_eq!(http.get(&format!("/p2p/send/c0/{text}")), 200);
        assert_eq!(http.get("/p2p/recv/c0/msg_p/word42%20/timeout/20"), 200);
        println!(
            "  a message of {what} is there and back and in its queue after {:.1} ms",
            clock.elapsed().as_secs_f64() * 1e3
        );
    }
}

/// Makes requests from all clients, each on connections of its own. Returns the failures.
fn load(what: &str, calls: &[&str], here: &Daemon, there: &Daemon, time: Duration) -> Vec<String> {
    let mut wrong = Vec::new();
    let (requests, errors, over) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    println!("\n{what}: {CLIENTS} clients over {CONNECTIONS} connections");
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (requests, errors, over) = (&requests, &errors, &over);
            scope.spawn(move || {
                let mut http = Http::new(here);
                for n in (client..CONNECTIONS).step_by(CLIENTS).cycle() {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    for call in calls {
                        let status = http.get(&call.replace("NAME", &format!("c{n}")));
                        requests.fetch_add(1, Ordering::Relaxed);
                        errors.fetch_add(u64::from(status != 200), Ordering::Relaxed);
                    }
                }
            });
        }
        let mut before = 0;
        let mut held = [0.0; 2];
        for part in 1..=4 {
            let clock = Instant::now();
            std::thread::sleep(time / 4);
            let now = requests.load(Ordering::Relaxed);
            let rate = (now - before) as f64 / clock.elapsed().as_secs_f64();
            println!(
                "  {:>5.1} s: {rate:>7.0} requests/s, {} errors; {}",
                time.as_secs_f64() / 4.0 * f64::from(part),
                errors.load(Ordering::Relaxed),
                memory(here, there)
            );
            before = now;
            if rate < FAST_ENOUGH {
                wrong.push(format!("{what}: {rate:.0} requests/s"));
            }
            let holds = [here.resident(), there.resident()];
            // What a peer sent and nobody read is kept, up to a limit, which the last quarter of the last load is past.
            let grown = holds.iter().zip(held).any(|(now, before)| now - before > FLAT);
            if part == 4 && calls.len() == 2 && grown {
                wrong.push(format!("{what}: memory grew from {held:.1?} to {holds:.1?} MiB"));
            }
            held = holds;
        }
        over.store(true, Ordering::Relaxed);
    });
    let errors = errors.into_inner();
    if errors > 0 {
        wrong.push(format!("{what}: {errors} errors"));
    }
    wrong
}

struct Daemon {
    process: Child,
    api: String,
    address: String,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Daemon {
    fn start() -> Self {
        let args =
            ["daemon", "--json", "--no-servers", "--no-token", "--bind", "127.0.0.1", "--api", "127.0.0.1:0"];
        let mut command = Command::new(env!("CARGO_BIN_EXE_p2pd"));
        let mut process = command.args(args).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(process.stderr.take().unwrap());
        let mut event = |name: &str, key: &str| {
            let mut line = String::new();
            said.read_line(&mut line).unwrap();
            let event: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(event["event"], name);
            event[key].as_str().unwrap().to_owned()
        };
        let (api, address) = (event("api", "api"), event("ready", "address"));
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Daemon { process, api, address }
    }

    fn resident(&self) -> f64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("");
        line.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1024.0
    }
}

fn memory(here: &Daemon, there: &Daemon) -> String {
    format!("resident {:.1} MiB here, {:.1} MiB there", here.resident(), there.resident())
}

/// An HTTP connection that is used again.
struct Http {
    stream: BufReader<TcpStream>,
}

impl Http {
    fn new(daemon: &Daemon) -> Self {
        let stream = TcpStream::connect(&daemon.api).unwrap();
        stream.set_nodelay(true).unwrap();
        Http { stream: BufReader::new(stream) }
    }

    fn get(&mut self, path: &str) -> u16 {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
        let (mut line, mut status, mut length) = (String::new(), 0, 0);
        loop {
            line.clear();
            assert_ne!(self.stream.read_line(&mut line).unwrap(), 0, "{path}: the daemon closed");
            if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
                status = rest[..3].parse().unwrap();
            } else if let Some(rest) = line.strip_prefix("content-length: ") {
                length = rest.trim().parse().unwrap();
            } else if line == "\r\n" {
                break;
            }
        }
        self.stream.read_exact(&mut vec![0; length]).unwrap();
        status
    }
}
