//! Cost of a message on a pipe with many subscriptions, and of a byte with patterns that make other engines backtrack.
//! The cost should not depend on the number of bytes. `cargo bench -p p2pd-core --bench subscriptions`

// A bench is a driver: it has a clock.
#![allow(clippy::disallowed_types)]

use std::hint::black_box;
use std::time::{Duration, Instant as Clock};

use bytes::Bytes;
use p2pd_core::pipe::subscriptions::{Pattern, Queue, Subscriptions};

fn main() {
    println!("{:>13} {:>14} {:>14}", "subscriptions", "a message", "each of them");
    for count in [1, 100, 10_000] {
        let took = (0..3).map(|_| deliver(count)).min().unwrap_or_default();
        println!("{count:>13} {took:>14.2?} {:>14.2?}", took / count);
    }
    println!("\n{:>13} {:>14} {:>14} {:>14}", "ns a byte of", "4 KiB", "64 KiB", "1 MiB");
    for pattern in ["(a+)+$", "(a+)+[b-z]", "(a|aa)+[b-z]", "(.*)*[x-z]", "(?:a?){200}a{200}b"] {
        let [small, middle, large] = [4 << 10, 64 << 10, 1 << 20].map(|len| search(pattern, len));
        println!("{pattern:>18} {small:>9.1} {middle:>14.1} {large:>14.1}");
    }
}

/// The time to deliver a message that one in ten of the subscriptions matches.
fn deliver(count: u32) -> Duration {
    const MESSAGES: u32 = 20;
    let mut subscriptions = Subscriptions::default();
    for n in 0..count {
        let pattern = Pattern::new(&format!("[hH]ello {}", n % 10)).unwrap();
        subscriptions.subscribe(pattern, Pattern::ANY, Queue::default()).unwrap();
    }
    let message = Bytes::from_static(b"I say: hello 0 to everybody who reads this line of usual length");
    let from = ([127, 0, 0, 1], 4000).into();
    // Caches are made at the first use.
    subscriptions.deliver(&message, from);
    let clock = Clock::now();
    for _ in 0..MESSAGES {
        black_box(subscriptions.deliver(&message, from));
    }
    clock.elapsed() / MESSAGES
}

/// Nanoseconds a byte.
fn search(pattern: &str, len: usize) -> f64 {
    let pattern = Pattern::new(pattern).unwrap();
    let text = [vec![b'a'; len], vec![b'!']].concat();
    let time = || {
        let clock = Clock::now();
        assert!(!black_box(pattern.matches(&text)));
        clock.elapsed().as_secs_f64() * 1e9 / len as f64
    };
    (0..3).map(|_| time()).fold(f64::INFINITY, f64::min)
}
