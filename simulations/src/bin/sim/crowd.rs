//! Prints what a crowd of nodes costs its brokers.

use std::time::Instant;

use p2pd_simulations::engine::{MILLI, Nanos, SECOND};
use p2pd_simulations::scenario::crowd::{Crowd, run};
use p2pd_simulations::service::Traffic;

/// Runs a crowd; whether all nodes were ready and named, all calls opened a pipe, and no invariant was violated.
pub fn print(crowd: &Crowd) -> bool {
    let begin = Instant::now();
    let outcome = run(crowd);
    let (nodes, calls) = (u64::from(crowd.nodes.max(1)), u64::from(crowd.calls.0.max(1)));
    println!(
        "{} nodes, {} with an address, {} with a name; {} events in {:.1} s",
        crowd.nodes,
        outcome.ready,
        outcome.named,
        outcome.events,
        begin.elapsed().as_secs_f64()
    );
    let (calling, during) = &outcome.calling;
    for (n, ((starting, idle), calling)) in
        outcome.starting.iter().zip(&outcome.idle).zip(calling).enumerate()
    {
        let hours = crowd.idle as f64 / (3600 * SECOND) as f64;
        line(n, "to start a node and register its name", *starting, nodes as f64);
        line(n, "a node that idles, in an hour", *idle, nodes as f64 * hours);
        line(n, "a call, both ends", more(*calling, *idle, *during, crowd.idle), calls as f64);
    }
    let opened: Vec<String> = outcome.opened.iter().map(|(by, count)| format!("{count} by {by}")).collect();
    let (failed, why) = &outcome.failed;
    println!("calls: {}; {failed} failed", opened.join(", "));
    why.iter().for_each(|why| println!("the first of them: {why}"));
    outcome.violations.iter().take(10).for_each(|violation| println!("VIOLATION {violation}"));
    let all = [outcome.ready, outcome.named] == [crowd.nodes as usize; 2];
    all && *failed == 0 && outcome.violations.is_empty()
}

/// Traffic in `during` beyond an idle crowd's share.
fn more(all: Traffic, idle: Traffic, during: Nanos, idled: Nanos) -> Traffic {
    let share = |idle: u64| (u128::from(idle) * u128::from(during) / u128::from(idled.max(MILLI))) as u64;
    let beyond = |all: u64, idle: u64| all.saturating_sub(share(idle));
    Traffic { packets: beyond(all.packets, idle.packets), bytes: beyond(all.bytes, idle.bytes) }
}

fn line(broker: usize, what: &str, all: Traffic, by: f64) {
    println!(
        "broker {broker}, {what}: {:.1} packets, {:.0} bytes; in all {} packets, {} bytes",
        all.packets as f64 / by,
        all.bytes as f64 / by,
        all.packets,
        all.bytes
    );
}
