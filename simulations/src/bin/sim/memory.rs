//! The memory lines of `sim bench`.

use p2pd_core::Strategy;
use p2pd_simulations::engine::{MILLI, Nanos};
use p2pd_simulations::nat::Chain;
use p2pd_simulations::scenario::memory::node_bytes;
use p2pd_simulations::scenario::pair::Pair;

#[global_allocator]
static COUNTED: &stats_alloc::StatsAlloc<std::alloc::System> = &stats_alloc::INSTRUMENTED_SYSTEM;

fn allocated() -> usize {
    let stats = COUNTED.stats();
    stats.bytes_allocated.wrapping_sub(stats.bytes_deallocated)
}

/// Prints the memory of idle nodes, and the most that one call by punching adds, over the call's time.
pub fn print() {
    let lines: [(&str, &str, Nanos, Nanos); 2] =
        [("meeting", "linux", 400 * MILLI, 2 * MILLI), ("searching", "symrand", 12_000 * MILLI, 250 * MILLI)];
    for (what, caller, during, step) in lines {
        let chain = |text: &str| text.parse::<Chain>().unwrap_or_default();
        let mut pair = Pair::new(1, [chain("linux"), chain(caller)]);
        (pair.strategies, pair.known) = (vec![Strategy::Punch], true);
        let idle = node_bytes(&pair, None, &allocated);
        let mut most = [0; 2];
        for at in (0..during).step_by(step as usize) {
            let now = node_bytes(&pair, Some(at), &allocated);
            most = [0, 1].map(|n| most[n].max(now[n]));
        }
        let added = [0, 1].map(|n| most[n].saturating_sub(idle[n]));
        println!(
            "memory, linux and {caller}: idle node {} and {} bytes; one punch, {what}, adds at most {} and {}",
            idle[0], idle[1], added[0], added[1]
        );
    }
}
