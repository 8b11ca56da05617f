//! Time to open a pipe on a LAN-like lab, 0.5 ms one way, with mosquitto and coturn: each sample is a process of
//! its own, `p2pd connect`, from its call of connect to its pipe. Prints medians beside what the network alone takes.

use std::time::Duration;

use p2pd_tests::require_lab;
use p2pd_tests::world::World;

const SAMPLES: usize = 40;
/// Both lines' 0.25 ms, there and back.
const RTT_MS: f64 = 1.0;

fn main() {
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
