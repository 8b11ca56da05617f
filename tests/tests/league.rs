//! The programs of others through the lab's homes, without relays: the 45 userspace kinds as listeners, each called by four
//! callers, or one home of each of the kernel's kinds with all of them as callers. Run by `tests/long/league`; the default run
//! has none of it.
//!
//! A peer is a command with the words `serve`, `listen KEY` or `call KEY`. `serve` runs on the lab's server and has no end.
//! `listen` prints `{"event":"ready"}`, perhaps with an `address` to be called by in place of the key, and takes call after call. `call` prints `{"event":"connected","elapsed_ms":N}` once a
//! word came back on the direct path, or its reason as the last line. `P2PD_LEAGUE_SERVER` is another command in place of `serve`.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use p2pd_tests::lab::{Child, UserNat};
use p2pd_tests::require_lab;
use p2pd_tests::world::World;

const ONE_WAY: Duration = Duration::from_millis(20);
/// The callers of `tests/nats.rs`. All of them filter by address and port.
const CALLERS: [&str; 4] = ["pr", "pr/rst", "symseq", "fw"];
/// The homes of `P2PD_LEAGUE_HOMES=kernel`, as listeners and as callers.
const KERNEL: [&str; 9] = ["none", "fw", "fc", "ar", "pr", "pr/rst", "eimrand", "symseq", "symrand"];
/// Longest time for a call, which the peer itself keeps.
const PATIENCE: Duration = Duration::from_secs(80);
/// Longest time for a program's start, which no call's time has in it. Interpreters are slow on a busy machine.
const START: Duration = Duration::from_secs(90);

/// Setting of the environment, or what stands for it.
fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

/// The program that is measured: that of others by its command, or ours where there is none.
struct League<'a> {
    world: &'a World,
    peer: Vec<String>,
    keys: Vec<(String, String)>,
}

impl League<'_> {
    fn start(&self, host: &p2pd_tests::lab::Host, program: &[String], words: &[&str]) -> Child {
        let mut command = host.command(&program[0]);
        command.args(&program[1..]).args(words).env("PYTHONDONTWRITEBYTECODE", "1");
        host.spawn(command).unwrap()
    }

    fn listen(&self, home: usize) -> (Child, String) {
        if self.peer.is_empty() {
            let ids: Vec<String> = self.keys.iter().map(|(_, id)| id.clone()).collect();
            return self.world.listen_for(home, &ids);
        }
        let key = format!("home{home}");
        let mut child = self.start(self.world.lab.host(home), &self.peer, &["listen", &key]);
        let said = await_ready(&mut child);
        (child, said["address"].as_str().map_or(key, str::to_owned))
    }

    /// Seconds that the caller says it took, or its last words.
    fn call(&self, home: usize, place: usize, address: &str) -> Result<f64, String> {
        let seconds = |said: &serde_json::Value| said["elapsed_ms"].as_f64().map(|ms| ms / 1e3);
        if let Some((identity, _)) = self.keys.get(place) {
            let args = ["--strategies", "direct,reverse,punch", "--identity", identity, "--timeout", "25"];
            let said = self.world.try_connect(home, address, &args)?;
            return seconds(&said).ok_or_else(|| said.to_string());
        }
        let mut child = self.start(self.world.lab.host(home), &self.peer, &["call", address]);
        let ended = child.wait_for_line(|line| line.contains("\"event\":"), PATIENCE + START);
        let line = ended.map_err(|why| why.to_string())?;
        let said: serde_json::Value = serde_json::from_str(&line).map_err(|why| format!("{why}: {line}"))?;
        match seconds(&said) {
            Some(time) if said["event"] == "connected" => Ok(time),
            _ => Err(line),
        }
    }
}

/// Waits until a program of others says that it is ready, and gives what it says of itself.
fn await_ready(child: &mut Child) -> serde_json::Value {
    match child.wait_for_line(|line| line.contains("\"event\":"), START) {
        Ok(line) if line.contains("\"ready\"") => serde_json::from_str(&line).unwrap(),
        other => panic!("not ready: {other:?}"),
    }
}

/// One call and how it ended.
struct Call<'a> {
    listener: &'a str,
    caller: &'a str,
    outcome: Result<f64, String>,
}

#[test]
#[ignore = "needs the programs of others: tests/long/league"]
fn every_kind_is_called() {
    require_lab!(Mosquitto, Coturn);
    let words = |name| setting(name, "").split_whitespace().map(str::to_owned).collect::<Vec<String>>();
    let (peer, wanted) = (words("P2PD_LEAGUE_PEER"), words("P2PD_LEAGUE_LISTENERS"));
    let (mut kinds, callers): (Vec<String>, &[&str]) = match setting("P2PD_LEAGUE_HOMES", "user").as_str() {
        "kernel" => (KERNEL.map(str::to_owned).to_vec(), &KERNEL),
        _ => (UserNat::grid().iter().map(|kind| format!("user:{kind}")).collect(), &CALLERS),
    };
    kinds.retain(|kind| wanted.is_empty() || wanted.iter().any(|part| kind.contains(part)));
    let lanes: usize = setting("P2PD_LEAGUE_AT_ONCE", "4").parse().unwrap();
    let lanes = lanes.clamp(1, kinds.len().max(1));

    // Each lane has callers of its own, so that no two calls at a time share a home.
    let mut homes: Vec<&str> = kinds.iter().map(String::as_str).collect();
    homes.extend((0..lanes).flat_map(|_| callers));
    let world = World::relaying(&homes, ONE_WAY, &[], "");
    let ours = peer.is_empty();
    let keys = (kinds.len()..homes.len()).filter(|_| ours).map(|home| world.key(home)).collect();
    let league = League { world: &world, peer, keys };
    let _server = (!ours).then(|| {
        let server = words("P2PD_LEAGUE_SERVER");
        let (program, words): (_, &[&str]) =
            if server.is_empty() { (&league.peer, &["serve"]) } else { (&server, &[]) };
        let mut server = league.start(world.lab.server(), program, words);
        await_ready(&mut server);
        server
    });

    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let (before, begin) = (world.lab.traffic(), Instant::now());
    std::thread::scope(|scope| {
        for lane in 0..lanes {
            let (league, kinds, next, done) = (&league, &kinds, &next, &done);
            scope.spawn(move || {
                loop {
                    let home = next.fetch_add(1, Ordering::Relaxed);
                    let Some(listener) = kinds.get(home) else { return };
                    let (_listening, address) = league.listen(home);
                    for (n, &caller) in callers.iter().enumerate() {
                        let place = lane * callers.len() + n;
                        let outcome = league.call(kinds.len() + place, place, &address);
                        let said = outcome.as_ref().map_or_else(|why| why.replace('\n', " "), f64::to_string);
                        println!("{caller} -> {listener}: {said}");
                        done.lock().unwrap_or_else(PoisonError::into_inner).push(Call {
                            listener,
                            caller,
                            outcome,
                        });
                    }
                }
            });
        }
    });
    let after = world.lab.traffic();
    let calls = done.into_inner().unwrap();
    table(&calls, callers);
    let packets = after.delivered + after.refused - before.delivered - before.refused;
    println!(
        "packets a call {:.0}, {:.0} s in all",
        packets as f64 / calls.len() as f64,
        begin.elapsed().as_secs_f64()
    );
    std::io::stdout().flush().unwrap();
}

/// Prints the calls by mapping and filtering of the listener's NAT, and by caller.
fn table(calls: &[Call], callers: &[&str]) {
    fn row_of<'a>(call: &Call<'a>) -> &'a str {
        call.listener.rsplit_once('.').map_or(call.listener, |(row, _)| row)
    }
    let mut rows: Vec<&str> = calls.iter().map(row_of).collect();
    rows.sort();
    rows.dedup();
    rows.push("");
    let heads: Vec<String> = callers.iter().map(|caller| format!("{caller:<22}")).collect();
    println!("TABLE {:<15} | {}", "listener", heads.join(" | "));
    for row in rows {
        let cell = |caller: &str| {
            let all = calls.iter().filter(|call| row.is_empty() || row_of(call) == row);
            let of_caller = all.filter(|call| caller.is_empty() || call.caller == caller);
            let outcomes: Vec<_> = of_caller.map(|call| call.outcome.as_ref().ok()).collect();
            let mut times: Vec<f64> = outcomes.iter().copied().flatten().copied().collect();
            times.sort_by(f64::total_cmp);
            let at = |part: usize| times.get((times.len() * part / 100).min(times.len().saturating_sub(1)));
            let shown = |part| at(part).map_or_else(|| "-".into(), |time| format!("{time:.2}"));
            format!("{:>3} of {:<3} {:>5} {:>5} s", times.len(), outcomes.len(), shown(50), shown(95))
        };
        let name = if row.is_empty() { "all" } else { row };
        let cells: Vec<String> = callers.iter().map(|caller| cell(caller)).collect();
        println!("TABLE {name:<15} | {} | {}", cells.join(" | "), cell(""));
    }
}
