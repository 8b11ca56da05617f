//! A call of a pair, and the bytes over its pipe.

use p2pd_core::pipe::PipeMode;
use p2pd_core::{Event, FailReason, Failures, Plan, Stage, Strategy};

use super::{Pair, Program, Run, flooded, heal, homes};
use crate::driver::NodeProgram;
use crate::engine::{MILLI, Nanos, SECOND};
use crate::nat::{NatSpec, Unsolicited};
use crate::world::{HostId, World};

/// The most that data may take over the pipe, with every fault there is.
const DATA_WITHIN: Nanos = 120 * SECOND;
/// Most time for data that faults have kept back, once there are none. TCP waits up to two minutes between retransmits,
/// and then repairs a segment in each round trip.
const HEALED_WITHIN: Nanos = 240 * SECOND;
/// Most time until a caller knows that the listener gave up. Where a NAT forgot the stream and the way lost its RST,
/// that is TCP's own patience.
const TOLD_WITHIN: Nanos = 3_600 * SECOND;
/// Most SYNs of one connect, repeats included: three each of 1,024 probes on eight rungs, and as many again as one rung's
/// probes for other dials. The core's own limit is 8,192 dials, with its allowance for the seconds that go by.
const MOST_SYNS: u64 = 25_600;

/// Reason why a call failed although its pipe was open.
pub const HOME_LEFT: &str = "a home was left, or its router began anew";

/// Bytes that each side says over the pipe: more than a record.
const TEXT: usize = 20_000;
static CALLERS: [u8; TEXT] = text(0x11);
static LISTENERS: [u8; TEXT] = text(0x77);

const fn text(tag: u8) -> [u8; TEXT] {
    let mut text = [0; TEXT];
    let mut n = 0;
    while n < TEXT {
        text[n] = (n % 251) as u8 ^ tag;
        n += 1;
    }
    text
}

/// Outcome of one call.
#[derive(Default)]
pub(super) struct Call {
    pub(super) strategy: Option<Strategy>,
    pub(super) took: Nanos,
    pub(super) rungs: Vec<Nanos>,
    pub(super) stated: Vec<Option<u32>>,
    pub(super) syns: u64,
    pub(super) why: String,
    pub(super) address: String,
}

/// Makes a call to the listener's newest address and sees it to its end, data included; amid a flood, if there is one.
pub(super) fn call(run: &mut Run, pair: &Pair) -> Call {
    flooded::begin(run, pair);
    let call = call_now(run, pair);
    flooded::pause(run);
    call
}

fn call_now(run: &mut Run, pair: &Pair) -> Call {
    let [listener, caller] = run.hosts;
    let Some(address) = run.world.app(listener).node().address().cloned() else { return Call::default() };
    let mut call = Call { address: address.to_string(), ..Call::default() };
    let syns_of = |run: &Run| run.hosts.map(|host| run.world.host(host).syns_sent());
    let (syns, pipes) = (syns_of(run), run.world.app(listener).node().pipes.len());
    let plan = Plan::new().strategies(pair.strategies.iter().copied()).mode(pair.mode).timeout(pair.timeout);
    let begin = run.world.now();
    let id = match run
        .world
        .with(caller, |p, cx| p.node_mut().call(cx, |node, now| node.connect(now, &address, plan)))
    {
        Ok(id) => id,
        Err(why) => {
            run.violations.push(format!("connect: {why}"));
            return Call { why: why.to_string(), ..call };
        }
    };
    run.calls += 1;
    homes::called(run, pair);
    let pipe =
        |w: &World<Program>| w.app(caller).node().pipes.iter().position(|p| p.start.answers.contains(&id));
    let failure = |w: &World<Program>| {
        w.app(caller).node().events.iter().find_map(|(at, n)| match n {
            Event::Failed { connect, reason, report } if *connect == id => {
                let details: Vec<String> = report
                    .strategies
                    .iter()
                    .map(|s| format!("{} {}: {}", s.strategy, s.outcome.name(), s.detail))
                    .collect();
                Some((*at, format!("{reason}; {}", details.join("; "))))
            }
            _ => None,
        })
    };
    let until = begin + pair.timeout.as_nanos() as u64 * 1_001 / 1_000 + SECOND;
    run.run_while(until, |w| pipe(w).is_some() || failure(w).is_some());
    call.syns = syns_of(run).iter().zip(syns).map(|(now, before)| now - before).sum();
    (call.strategy, call.took, call.why) = match (pipe(&run.world), failure(&run.world)) {
        (Some(place), None) => {
            let found = &run.world.app(caller).node().pipes[place];
            let (strategy, took, peer) = (found.start.strategy, found.at - begin, found.start.peer);
            if peer != run.world.app(listener).node().node.node_id() {
                run.violations.push("the pipe leads to somebody else".into());
            }
            match exchange(run, pair, place, (pipes, begin)) {
                Ok(()) => (Some(strategy), took, String::new()),
                Err(why) => (None, took, why.into()),
            }
        }
        (None, Some((at, why))) => (None, at - begin, why),
        (Some(_), Some(_)) => {
            run.violations.push("a pipe and a failure".into());
            (None, 0, "both".into())
        }
        (None, None) => {
            run.violations.push("no outcome by the deadline".into());
            (None, until - begin, "none".into())
        }
    };
    if call.took > pair.timeout.as_nanos() as u64 * 1_001 / 1_000 + MILLI {
        run.violations.push(format!("the outcome came {} ns after the call", call.took));
    }
    let syns = run.world.host(caller).syns_sent() - syns[1];
    if syns > MOST_SYNS {
        run.violations.push(format!("{syns} SYNs for one connect"));
    }
    run.violations.extend(run.hosts.iter().filter_map(|host| miscounted(run.world.app(*host).node())));
    (call.rungs, call.stated) = rungs_after(run.world.app(caller).node(), begin).into_iter().unzip();
    call
}

/// Compares a node's counters, each by strategy or by reason, with the pipes and events that it gave.
fn miscounted(node: &NodeProgram) -> Option<String> {
    let stats = node.node.stats();
    let given = Strategy::ALL.map(|strategy| {
        let of = node.pipes.iter().filter(|pipe| pipe.start.strategy == strategy);
        let answers = of.map(|pipe| pipe.start.answers.len() as u64);
        let accepted = answers.clone().filter(|n| *n == 0).count() as u64;
        (strategy, answers.sum::<u64>(), accepted)
    });
    let counted = stats.opened.iter().zip(stats.accepted.iter());
    let counted: Vec<_> =
        counted.map(|((strategy, opened), (_, accepted))| (strategy, opened, accepted)).collect();
    let mut failed = [0; 5];
    for (_, event) in &node.events {
        if let Event::Failed { reason, .. } = event {
            failed[match reason {
                FailReason::DeadlinePassed => 0,
                FailReason::AllStrategiesFailed => 1,
                FailReason::RefusedByPeer(_) => 2,
                FailReason::Name(_) => 3,
                _ => 4,
            }] += 1;
        }
    }
    let Failures { deadline_passed, strategies_failed, refused_by_peer, name, shutdown, .. } = stats.failed;
    let failures = [deadline_passed, strategies_failed, refused_by_peer, name, shutdown];
    let timed: u64 = stats.open_times.counts().iter().sum();
    let opened: u64 = given.iter().map(|(_, opened, _)| opened).sum();
    let is_right = counted == given && failed == failures && timed == opened;
    (!is_right).then(|| format!("counted {stats:?}, and gave {given:?} and failures {failed:?}"))
}

/// Finds the listener's end of the caller's pipe, and has both send something and then end. Each must get the other's
/// data exactly. The listener had `before` pipes when it was called, at `begun`.
///
/// # Errors
/// The end of a pipe by faults of the world, which its user was told of.
fn exchange(
    run: &mut Run,
    pair: &Pair,
    place: usize,
    (before, begun): (usize, Nanos),
) -> Result<(), &'static str> {
    let [listener, caller] = run.hosts;
    // Strangers may have pipes too.
    let peer = run.world.app(caller).node().node.node_id();
    let new = |w: &World<Program>| -> Vec<usize> {
        let pipes = w.app(listener).node().pipes.iter().enumerate().skip(before);
        pipes.filter(|(_, p)| p.start.answers.is_empty() && p.start.peer == peer).map(|(n, _)| n).collect()
    };
    let broken = |w: &World<Program>, n: usize| w.app(listener).node().pipes[n].broken.is_some();
    let told = |w: &World<Program>| {
        let pipe = &w.app(caller).node().pipes[place];
        pipe.closed || pipe.broken.is_some()
    };
    // An end that has lost its address, or whose router began anew, cannot say that it is over, and TCP does not ask while it is
    // idle; only who says something has to be told. Of a caller that moved in the middle of its call the listener may have had a
    // pipe before, and theirs is the one over which something comes.
    let shaken = run.homes.shaken_since(begun, run.world.now());
    if shaken {
        say(run, caller, place, &CALLERS);
    }
    let theirs = |w: &World<Program>| {
        let heard = |n: &usize| !shaken || !w.app(listener).node().pipes[*n].received.is_empty();
        new(w).into_iter().find(heard)
    };
    let until_told = run.world.now() + TOLD_WITHIN;
    run.run_while(until_told, |w| theirs(w).is_some() || told(w));
    let found = theirs(&run.world);
    let outcome = match found {
        Some(other) => {
            let relayed = run.world.app(caller).node().pipes[place].start.strategy == Strategy::Relay;
            if let Some(relay) = pair.relay.filter(|_| relayed) {
                // A stream that is as idle is its user's to keep alive.
                let until = run.world.now() + relay.idle;
                run.world.run_until(until);
            }
            if !shaken {
                say(run, caller, place, &CALLERS);
            }
            say(run, listener, other, &LISTENERS);
            both_ways(run, pair, [other, place], begun)
        }
        None => {
            if !told(&run.world) {
                run.violations.push("the caller has a pipe and the listener has none".into());
            }
            // Two generals: the caller's last word of the hello was lost.
            Err("the pipe ended before the listener had it")
        }
    };
    let mut astray = new(&run.world);
    astray.retain(|n| Some(*n) != found);
    for n in &astray {
        say(run, listener, *n, &LISTENERS);
    }
    let until = run.world.now() + TOLD_WITHIN;
    if !run.run_while(until, |w| astray.iter().all(|n| broken(w, *n))) {
        run.violations.push("the listener has a pipe that leads nowhere, and is not told".into());
    }
    outcome
}

fn say(run: &mut Run, host: HostId, pipe: usize, text: &[u8]) {
    run.world.with(host, |p, cx| {
        p.node_mut().write(cx, pipe, text);
        p.node_mut().end(cx, pipe);
    });
}

/// Checks that the texts of both sides arrive over the listener's and the caller's pipe.
fn both_ways(
    run: &mut Run,
    pair: &Pair,
    [other, place]: [usize; 2],
    begun: Nanos,
) -> Result<(), &'static str> {
    let [listener, caller] = run.hosts;
    let relayed = run.world.app(caller).node().pipes[place].start.strategy == Strategy::Relay;
    let until = run.world.now() + DATA_WITHIN;
    let whole = |w: &World<Program>, host: HostId, pipe: usize, text: &[u8]| {
        let pipe = &w.app(host).node().pipes[pipe];
        (pipe.ended || pipe.start.mode == PipeMode::Plain) && pipe.received == text
    };
    let both =
        |w: &World<Program>| whole(w, caller, place, &LISTENERS) && whole(w, listener, other, &CALLERS);
    let full = |w: &World<Program>| {
        [(caller, place), (listener, other)].iter().all(|(h, p)| {
            let pipe = &w.app(*h).node().pipes[*p];
            pipe.received.len() >= TEXT && (pipe.ended || pipe.start.mode == PipeMode::Plain)
                || pipe.broken.is_some()
        })
    };
    if !run.run_while(until, full) {
        // A way that loses every fourth packet may keep TCP waiting for minutes. Its bytes have to come once it does not.
        heal(run);
        let until = run.world.now() + HEALED_WITHIN;
        run.run_while(until, full);
    }
    // A router that answers what it takes for no part of a stream makes itself and others forget the stream.
    let refuses = |nat: &NatSpec| nat.unsolicited != Unsolicited::Drop;
    let second = pair.second.iter().map(|s| &s.chain);
    let refused = pair.chains.iter().chain(second).any(|c| c.0.iter().any(refuses));
    let so_far = |run: &Run, host: HostId, pipe: usize, tag: u8| {
        text(tag).starts_with(&run.world.app(host).node().pipes[pipe].received)
    };
    if !both(&run.world)
        && run.homes.shaken_since(begun, run.world.now())
        && so_far(run, caller, place, 0x77)
        && so_far(run, listener, other, 0x11)
    {
        // Nobody can bring what was sent to an address that is gone. But whoever sent what did not arrive has to be told.
        let until = run.world.now() + TOLD_WITHIN;
        let told = |w: &World<Program>| {
            [(caller, place, &LISTENERS, listener, other), (listener, other, &CALLERS, caller, place)]
                .into_iter()
                .all(|(to, pipe, text, from, sent)| {
                    whole(w, to, pipe, text) || w.app(from).node().pipes[sent].broken.is_some()
                })
        };
        if run.run_while(until, told) {
            return if both(&run.world) { Ok(()) } else { Err(HOME_LEFT) };
        }
    }
    if !both(&run.world) && (refused || relayed) {
        let until = run.world.now() + TOLD_WITHIN;
        let over = |w: &World<Program>| {
            [(caller, place, &LISTENERS), (listener, other, &CALLERS)].into_iter().all(
                |(host, pipe, text)| {
                    whole(w, host, pipe, text) || w.app(host).node().pipes[pipe].broken.is_some()
                },
            )
        };
        let prefix = so_far(run, caller, place, 0x77) && so_far(run, listener, other, 0x11);
        if run.world.run_while(until, over) && !both(&run.world) && prefix {
            return Err(if relayed { "the relay was lost" } else { "a router on the way cut the pipe" });
        }
    }
    if !both(&run.world) {
        let state = |h: HostId, p: usize| {
            let pipe = &run.world.app(h).node().pipes[p];
            format!("{} bytes, ended {}, broken {:?}", pipe.received.len(), pipe.ended, pipe.broken)
        };
        run.violations.push(format!(
            "data over the pipe: caller {}; listener {}",
            state(caller, place),
            state(listener, other)
        ));
    }
    Ok(())
}

/// Returns the times, from `begin` on, at which this node's punches began their rungs, and the probability that each
/// stated.
fn rungs_after(node: &NodeProgram, begin: Nanos) -> Vec<(Nanos, Option<u32>)> {
    let of = |(at, event): &(Nanos, Event)| match event {
        Event::Progress { stage: Stage::Punching { permille, .. }, .. } if *at >= begin => {
            Some((at - begin, permille.map(u32::from)))
        }
        _ => None,
    };
    node.events.iter().filter_map(of).collect()
}
