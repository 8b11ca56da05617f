//! Cost of a name's record, for its owner and for a checker. `cargo bench -p p2pd-core --bench names`

// A bench is a driver: it has a clock.
#![allow(clippy::disallowed_types)]

use std::hint::black_box;
use std::time::{Duration, Instant as Clock};

use p2pd_core::SecretKey;
use p2pd_core::name::Record;

fn main() {
    let key = SecretKey::from_bytes([1; 32]);
    let id = key.node_id();
    let address = format!("1-[0,198.51.100.7,10.0.0.7,80,1,1,0]-0-{id}").parse().unwrap();
    let name = "example".parse().unwrap();
    let record = Record { name, id, sequence: 1, expiry: 1, address: Some(Box::new(address)) };
    let bytes = record.encode(&key);
    let sign = best(|| drop(black_box(record.encode(&key))));
    let check = best(|| assert!(black_box(Record::decode(&bytes)).is_ok()));
    println!("a record of {} bytes: sign {sign:.2?}, check {check:.2?}", bytes.len());
}

/// The best of five rounds of 200.
fn best(mut work: impl FnMut()) -> Duration {
    let mut round = || {
        let clock = Clock::now();
        (0..200).for_each(|_| work());
        clock.elapsed() / 200
    };
    (0..5).map(|_| round()).min().unwrap_or_default()
}
