//! TCP hole punching to every kind of NAT that RFC 4787 tells apart, as NATs in userspace (`lab::UserNat`): 45 listeners,
//! each called by four callers. RTT 40 ms, mosquitto and coturn, the program as its user runs it.
//!
//! The default run has some of them only. `tests/long/nats` calls them all and prints the table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use p2pd_core::PeerAddress;
use p2pd_tests::lab::{Allocation, Child, Dependence, UserNat};
use p2pd_tests::require_lab;
use p2pd_tests::world::{World, event};

const ONE_WAY: Duration = Duration::from_millis(20);
/// Time that the listeners have for measuring their NATs.
const SURVEY: Duration = Duration::from_secs(1);
/// The callers. All of them filter by address and port.
const CALLERS: [&str; 4] = ["pr", "pr/rst", "symseq", "fw"];

/// Returns true if the port of the listener's next mapping cannot be known.
fn searched(listener: UserNat) -> bool {
    listener.mapping != Dependence::EndpointIndependent
        && matches!(listener.allocation, Allocation::Random | Allocation::Parity)
}

/// Returns true if the two NATs let a punch come through, be it after a search.
///
/// A caller that takes a new port for each remote end has to know the listener's, or need not be known itself.
fn must(listener: UserNat, caller: &str) -> bool {
    !(caller.starts_with("sym") && searched(listener) && listener.filtering == Dependence::AddressAndPort)
}

/// Returns true if a text fits a pattern, in which `*` stands for anything.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, rest)) => text
            .strip_prefix(head)
            .is_some_and(|left| (0..=left.len()).any(|n| left.is_char_boundary(n) && fits(rest, &left[n..]))),
    }
}

/// Setting of the environment, or what stands for it.
fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

/// Returns the address of a listener, once it has a broker.
fn reachable(listener: &mut Child) -> String {
    loop {
        let address = event(listener, "ready")["address"].as_str().unwrap().to_owned();
        if !address.parse::<PeerAddress>().unwrap().brokers().is_empty() {
            return address;
        }
    }
}

/// One call, how it ended and how long that took.
struct Call {
    listener: usize,
    caller: &'static str,
    outcome: Result<f64, String>,
    took: Duration,
}

#[test]
fn every_kind_is_reached() {
    require_lab!(Mosquitto, Coturn);
    let wanted = setting("P2PD_NATS_LISTENERS", "eim.apdf.rand adm.eif.keep apdm.adf.seq2");
    let wanted: Vec<&str> = wanted.split(' ').collect();
    let is_wanted = |kind: &UserNat| wanted.iter().any(|pattern| fits(pattern, &kind.to_string()));
    let kinds: Vec<UserNat> = UserNat::grid().into_iter().filter(is_wanted).collect();
    let asked = setting("P2PD_NATS_CALLERS", "pr");
    let callers: Vec<&str> =
        CALLERS.into_iter().filter(|name| asked.split(' ').any(|pattern| fits(pattern, name))).collect();
    let runs: usize = setting("P2PD_NATS_RUNS", "1").parse().unwrap();
    let lanes: usize = setting("P2PD_NATS_AT_ONCE", "4").parse().unwrap();
    let lanes = lanes.clamp(1, kinds.len().max(1));
    assert!(!kinds.is_empty() && !callers.is_empty(), "no such kinds, or no such callers");

    // Each lane has callers of its own, so that no two calls at a time share a home.
    let mut homes: Vec<String> = kinds.iter().map(|kind| format!("user:{kind}")).collect();
    homes.extend((0..lanes).flat_map(|_| callers.iter().map(|name| (*name).to_owned())));
    let homes: Vec<&str> = homes.iter().map(String::as_str).collect();
    // Who searches has the other prove by coturn where it is.
    let world = World::relaying(&homes, ONE_WAY, &[], "");
    let keys: Vec<(String, String)> = (kinds.len()..homes.len()).map(|home| world.key(home)).collect();
    let ids: Vec<String> = keys.iter().map(|(_, id)| id.clone()).collect();
    let mut listeners: Vec<Child> = (0..kinds.len()).map(|home| world.listener(home, &ids)).collect();
    let addresses: Vec<String> = listeners.iter_mut().map(reachable).collect();
    // Whose NAT is not measured yet, which nothing says, is punched by guesses.
    std::thread::sleep(SURVEY);

    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for lane in 0..lanes {
            let (world, kinds, callers, keys, addresses, next, done) =
                (&world, &kinds, &callers, &keys, &addresses, &next, &done);
            scope.spawn(move || {
                loop {
                    let listener = next.fetch_add(1, Ordering::Relaxed);
                    let Some(kind) = kinds.get(listener) else { return };
                    let address = &addresses[listener];
                    for _ in 0..runs {
                        for (n, caller) in callers.iter().enumerate() {
                            let place = lane * callers.len() + n;
                            let args = ["--strategies", "punch", "--identity", &keys[place].0];
                            let args = [&args[..], &["--timeout", "25"]].concat();
                            let begin = Instant::now();
                            let outcome = world.try_connect(kinds.len() + place, address, &args);
                            let outcome = outcome.map(|said| said["elapsed_ms"].as_f64().unwrap() / 1e3);
                            let took = begin.elapsed();
                            let said =
                                outcome.as_ref().map_or("failed".into(), |time| format!("{time:.2} s"));
                            println!("{caller} -> {kind}: {said}");
                            let call = Call { listener, caller, outcome, took };
                            done.lock().unwrap_or_else(PoisonError::into_inner).push(call);
                        }
                    }
                }
            });
        }
    });
    let calls = done.into_inner().unwrap();
    table(&kinds, &callers, &calls);
    let mut broken = BTreeMap::<String, usize>::new();
    for call in &calls {
        let (kind, caller) = (kinds[call.listener], call.caller);
        let Err(why) = &call.outcome else { continue };
        let verdict = if must(kind, caller) { "MISSED" } else { "out of reach" };
        println!("{verdict}: {caller} -> {kind} after {:.1} s: {why}", call.took.as_secs_f64());
        if must(kind, caller) {
            *broken.entry(format!("{caller} -> {kind}")).or_default() += 1;
        }
    }
    assert!(broken.is_empty(), "calls that must come through and did not: {broken:#?}");
}

/// Prints the calls by mapping and allocation of the listener's NAT, and by caller.
fn table(kinds: &[UserNat], callers: &[&str], calls: &[Call]) {
    let row_of = |kind: UserNat| {
        (kind.to_string().split('.').next().unwrap_or_default().to_owned(), kind.allocation.to_string())
    };
    print!("{:<14}", "came through");
    callers.iter().for_each(|caller| print!(" | {caller:<24}"));
    println!("\n{:<14}{}", "", " |   ok      median      95 %".repeat(callers.len()));
    let mut printed = BTreeSet::new();
    for kind in kinds {
        let row = row_of(*kind);
        if !printed.insert(row.clone()) {
            continue;
        }
        print!("{:<14}", format!("{} {}", row.0, row.1));
        for caller in callers {
            let cell =
                calls.iter().filter(|call| call.caller == *caller && row_of(kinds[call.listener]) == row);
            let outcomes: Vec<_> = cell.map(|call| call.outcome.as_ref().ok()).collect();
            let mut times: Vec<f64> = outcomes.iter().copied().flatten().copied().collect();
            times.sort_by(f64::total_cmp);
            let at = |part: usize| times.get((times.len() * part / 100).min(times.len().saturating_sub(1)));
            let shown = |part| at(part).map_or_else(|| "     -".into(), |time| format!("{time:4.2} s"));
            print!(" | {:>2} of {:<2} {} {:>9}", times.len(), outcomes.len(), shown(50), shown(95));
        }
        println!();
    }
}
