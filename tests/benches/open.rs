//! Measures the time to open a pipe on a LAN-like lab, 0.5 ms one way, with mosquitto and coturn. Each sample is a
//! process of its own, `p2pd connect`, from its call of connect to its pipe. Prints medians beside the time of the
//! network alone.
//!
//! The first part measures the pipes that one named peer opens in a second, one after the other, on loopback; of that
//! alone with `-- loopback` behind it.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use p2pd_core::{Accept, Config, Plan, SecretKey};
use p2pd_tests::drivers::Driver;
use p2pd_tests::require_lab;
use p2pd_tests::world::World;

const SAMPLES: usize = 40;
/// Delay of the two lines, 0.25 ms each, there and back.
const RTT_MS: f64 = 1.0;

/// Number of opens, one after the other: more than any burst.
const OPENS: u32 = 10_000;

fn config(key: u8, accept: Accept) -> Config {
    let mut config = Config::new(SecretKey::from_bytes([key; 32]));
    (config.bind, config.accept) = (Some(Ipv4Addr::LOCALHOST.into()), accept);
    config
}

fn loopback() {
    let named = Accept::Only([SecretKey::from_bytes([1; 32]).node_id()].into());
    for driver in Driver::ALL {
        let caller = driver.bind(config(1, Accept::Anyone), None).unwrap();
        let listener = driver.bind(config(2, named.clone()), None).unwrap();
        let (to, began) = (listener.address(), Instant::now());
        let mut late = Duration::ZERO;
        for n in 0..OPENS {
            let at = Instant::now();
            let pipe = caller.connect(&to, Plan::default());
            assert!(pipe.is_ok(), "the {n}th: {:?}", pipe.err());
            late = late.max(at.elapsed());
            drop(listener.accept(Duration::from_secs(9)).unwrap());
        }
        let rate = f64::from(OPENS) / began.elapsed().as_secs_f64();
        println!(
            "{driver}: {OPENS} opens, {rate:.0} a second (goal >= 1,000), the slowest {late:.1?}, none failed"
        );
    }
}

fn main() {
    loopback();
    if std::env::args().any(|arg| arg == "loopback") {
        return;
    }
    require_lab!(Mosquitto, Coturn);
    println!("strategy   min ms   median ms   p95 ms   goal");
    for (home, strategy) in [("none", "direct"), ("pr", "reverse")] {
        let world = World::new(&[home, "none"]);
        let (_listener, address) = world.listen();
        let mut times: Vec<f64> = (0..SAMPLES)
            .map(|_| {
                // Each sample is a stranger with a key of its own; the listener answers ten strangers a second.
                std::thread::sleep(Duration::from_millis(110));
                let (connected, _) = world.connect(&address, "x\n", &[]);
                assert_eq!(connected["strategy"], strategy);
                connected["elapsed_ms"].as_f64().unwrap()
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let goal = match strategy {
            "direct" => format!("<= 5 ms after the hello's two round trips: <= {} ms", 5.0 + 2.0 * RTT_MS),
            _ => "<= 20 ms".to_owned(),
        };
        let [min, median, p95] = [0, SAMPLES / 2, SAMPLES * 95 / 100].map(|n| times[n]);
        println!("{strategy:<8} {min:>8.1} {median:>11.1} {p95:>8.1}   {goal}");
    }
}
