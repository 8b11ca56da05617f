//! Worlds drawn from a seed: any two NATs, and a random handful of faults. First safety: the invariants must hold, and
//! the oracle's verdict where no fault excuses a failure. Then liveness: the faults end, and a second call has to
//! follow the oracle, with all that the faults have left behind.

mod homes;

use std::time::Duration;

use p2pd_core::Transport;
use p2pd_core::pipe::PipeMode;
use p2pd_core::{Refusal, Strategy};

use super::flood::{self, Named};
use super::pair::{Ending, HOME_LEFT, Pair, Place, Relaying, Second, run};
use crate::domain;
use crate::driver::Clocks;
use crate::engine::{Keyed, MILLI, Nanos, SECOND};
use crate::nat::{Chain, Dependence, NatSpec, PRESETS, Unsolicited};
use crate::net::{Blackout, LinkSpec};
use crate::oracle::{Verdict, direct_or_reverse, every_strategy, udp};
use crate::service::{BrokerFaults, Forgets, StunFaults};

/// The kinds of faults that a seed chooses from.
const KINDS: u64 = 11;

/// Bits of UDP a second that a NAT lets through where it polices.
const POLICED: u32 = 1_000_000;

/// Longest delay by strangers of a call between two who have named each other.
const LATER: Nanos = 2 * SECOND;

/// A drawn world, and the demands on it beyond the invariants.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// The world.
    pub pair: Pair,
    /// `Must` or `MustNot` where the faults leave no doubt.
    pub demand: Verdict,
    /// The same of the second call, when nothing excuses a failure any more.
    pub healed: Verdict,
    /// The two presets and the faults, in words.
    pub what: String,
    /// Number of faults drawn, with those left out.
    pub faults: usize,
}

/// Contents of drawn worlds in addition to NATs, servers and faults of the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct With {
    /// A TURN server, which may have faults of its own.
    pub relay: bool,
    /// Routers that open ports, with faults of theirs, and second homes.
    pub routers: bool,
    /// Strangers in every world, not in its share.
    pub strangers: bool,
}

/// Draws the world of this seed.
pub fn draw(seed: u64, with: With) -> Drawn {
    draw_without(seed, with, &[])
}

/// Draws the world of this seed and leaves these of its faults out. Randomness is keyed, so that all else
/// stays as it was.
pub fn draw_without(seed: u64, with: With, left_out: &[usize]) -> Drawn {
    let rng = Keyed::new(seed);
    let mut drawn = 0;
    let mut below = |bound: u64| {
        drawn += 1;
        rng.below(domain::SCENARIO, 0, drawn, bound)
    };
    let policies = [Unsolicited::Drop, Unsolicited::Rst, Unsolicited::IcmpPort, Unsolicited::IcmpAdmin];
    let mut names = Vec::new();
    let mut chain = |below: &mut dyn FnMut(u64) -> u64| {
        let preset = &PRESETS[below(PRESETS.len() as u64) as usize];
        let mut chain = Chain(preset.chain.to_vec());
        names.push(preset.name);
        if below(3) == 0
            && let Some(last) = chain.0.last_mut()
        {
            last.unsolicited = policies[below(policies.len() as u64) as usize];
        }
        chain
    };
    let chains = [chain(&mut below), chain(&mut below)];
    let mut pair = Pair::new(seed, chains);
    let mut what = format!("{} {}", names[0], names[1]);
    let delay = |below: &mut dyn FnMut(u64) -> u64| LinkSpec::with_delay((1 + below(100)) * MILLI);
    pair.links = [delay(&mut below), delay(&mut below)];
    pair.place = match below(20) {
        0 => Place::Oneself,
        1 | 2 => Place::SameSite,
        _ => Place::Apart,
    };
    let all = below(2) == 0;
    if !all {
        pair.strategies = vec![Strategy::Direct, Strategy::Reverse];
        what.push_str(" without punching");
    }
    let mut demand = match pair.place {
        // On one network or host the inside addresses do.
        Place::Oneself | Place::SameSite => Verdict::Must,
        Place::Apart if all => every_strategy(&pair.chains[0], &pair.chains[1]),
        Place::Apart => direct_or_reverse(&pair.chains[0], &pair.chains[1]),
    };
    if let Some(found) = over_udp(rng, with, all, &mut pair, &mut what) {
        demand = found;
    }
    pair.timeout = Duration::from_secs(30);
    if below(4) == 0 {
        pair.mode = PipeMode::Plain;
        // The listener gives plain pipes to nobody but itself.
        if pair.place != Place::Oneself {
            demand = Verdict::MustNot;
        }
        what.push_str(" plain");
    }
    let mut relay_excuses = false;
    if with.relay {
        let is_plain = pair.mode == PipeMode::Plain;
        let (relay, faults) = draw_relay(rng);
        pair.relay = Some(relay);
        what.push_str(&faults.what);
        // A node has no use for a relay to itself.
        if pair.place != Place::Oneself {
            pair.strategies = faults.strategies;
            demand = if is_plain { Verdict::MustNot } else { Verdict::Must };
        }
        relay_excuses = faults.excuses;
    }
    pair.again = true;
    let mut healed = demand;
    if with.routers {
        let found = homes::draw(rng, &mut pair);
        what.push_str(&found.what);
        // A plain pipe is refused, and through a relay a pipe is opened, wherever they stand.
        if demand != Verdict::MustNot || pair.mode == PipeMode::Encrypted {
            (demand, healed) = found.demands(&pair, all, demand);
        }
    }
    if relay_excuses && demand == Verdict::Must {
        demand = Verdict::Perhaps;
    }
    let unnamed = strangers(rng, with.strangers, &mut pair, &mut what);
    let faults = match below(10) {
        0 => 0,
        1 | 2 => 1,
        _ => 1 + below(5),
    };
    for place in 0..faults as usize {
        let before = pair.clone();
        let side = below(2) as usize;
        let link = &mut pair.links[side];
        let name = match below(KINDS) {
            0 => {
                link.loss_ppm = 1 + below(150_000) as u32;
                "loss"
            }
            1 => {
                link.jitter = below(80) * MILLI;
                "jitter"
            }
            2 => {
                (link.reorder_ppm, link.hold) = (1 + below(200_000) as u32, below(100) * MILLI);
                "reorder"
            }
            3 => {
                link.duplicate_ppm = 1 + below(200_000) as u32;
                "duplicate"
            }
            4 => {
                let from = below(20) * SECOND;
                link.blackout = Blackout { from, until: from + (1 + below(10)) * SECOND };
                "blackout"
            }
            5 => {
                pair.stun = StunFaults {
                    silent_ppm: below(1_000_000) as u32,
                    wrong_port_ppm: below(500_000) as u32,
                    wrong_address_ppm: below(500_000) as u32,
                    stale_ppm: below(500_000) as u32,
                    late: below(3_000) * MILLI,
                };
                "stun"
            }
            6 => {
                pair.stun.silent_ppm = 1_000_000;
                "silent stun"
            }
            7 => {
                let from = below(20) * SECOND;
                let dead = Blackout { from, until: from + below(20) * SECOND };
                pair.brokers[0] = BrokerFaults {
                    lose_ppm: below(500_000) as u32,
                    duplicate_ppm: below(500_000) as u32,
                    late: below(3_000) * MILLI,
                    dead,
                };
                "broker"
            }
            8 => {
                pair.brokers.push(BrokerFaults::default());
                pair.brokers.truncate(4);
                "another broker"
            }
            9 => {
                pair.clocks[side] = Clocks {
                    mono: below(1 << 50),
                    drift_ppm: below(1_001) as i32 - 500,
                    wall_ahead: (below(7_200) as i64 - 3_600) * 1_000_000,
                };
                "clock"
            }
            _ => {
                pair.late = below(50) * MILLI;
                "late driver"
            }
        };
        if left_out.contains(&place) {
            pair = before;
            continue;
        }
        what.push_str(", ");
        what.push_str(name);
        // Neither another broker nor a late driver, a doubled packet or a wrong clock excuses a failure.
        let excuses = !matches!(name, "another broker" | "late driver" | "duplicate" | "clock");
        if excuses && demand == Verdict::Must {
            demand = Verdict::Perhaps;
        }
    }
    if unnamed || fills_a_nat(&pair) {
        // A caller that nobody has named competes with strangers.
        for verdict in [&mut demand, &mut healed] {
            if *verdict == Verdict::Must {
                *verdict = Verdict::Perhaps;
            }
        }
    }
    Drawn { pair, demand, healed, what, faults: faults as usize }
}

/// Draws what becomes of UDP, from numbers that nothing else uses: nothing, UDP punching alone, or homes that spoil TCP or
/// UDP. Returns the demand where that is another.
fn over_udp(rng: Keyed, with: With, all: bool, pair: &mut Pair, what: &mut String) -> Option<Verdict> {
    if pair.place != Place::Apart || !all || with.routers {
        return None;
    }
    let [a, b] = pair.chains.clone();
    match rng.below(domain::SCENARIO, 40, 0, 8) {
        0 | 1 if !with.relay => {
            pair.strategies = vec![Strategy::Udp];
            what.push_str(" by udp only");
            Some(udp(&a, &b))
        }
        2 => {
            let spoil = |chain: &mut Chain| chain.0.iter_mut().for_each(|nat| nat.simultaneous_open = false);
            pair.chains.iter_mut().for_each(spoil);
            what.push_str(" spoiling tcp");
            let must = [direct_or_reverse(&a, &b), udp(&a, &b)].contains(&Verdict::Must);
            Some(if must { Verdict::Must } else { Verdict::Perhaps })
        }
        3 if !with.relay => {
            pair.chains[1].0.iter_mut().for_each(|nat| nat.udp_passes = false);
            what.push_str(" blocking udp");
            None
        }
        4 if !with.relay => {
            pair.chains
                .iter_mut()
                .for_each(|chain| chain.0.iter_mut().for_each(|nat| nat.udp_rate = POLICED));
            what.push_str(" policing udp");
            None
        }
        _ => None,
    }
}

/// Draws strangers; whether the caller is one of them to the listener.
fn strangers(rng: Keyed, always: bool, pair: &mut Pair, what: &mut String) -> bool {
    pair.flood = flood::draw(rng, always);
    let Some(flood) = &pair.flood else { return false };
    what.push_str(&flood.what());
    flood.named == Named::Nobody && pair.place != Place::Oneself
}

/// Returns true if strangers may take all the sessions that a victim's NAT gives to one host. Such a NAT lets them in,
/// and nothing new gets out through it then (seed 702038 with a relay).
fn fills_a_nat(pair: &Pair) -> bool {
    let Some(flood) = &pair.flood else { return false };
    let open = |nat: &NatSpec| nat.filtering == Dependence::Endpoint && nat.caps.per_host > 0;
    flood.victims.iter().zip(&pair.chains).any(|(victim, chain)| *victim && chain.0.iter().any(open))
}

/// Draws about a relay, in addition to its `Relaying`.
struct RelayDrawn {
    strategies: Vec<Strategy>,
    what: String,
    excuses: bool,
}

/// Draws a TURN server, from numbers that nothing else uses.
fn draw_relay(rng: Keyed) -> (Relaying, RelayDrawn) {
    let mut drawn = 0;
    let mut below = |bound: u64| {
        drawn += 1;
        rng.below(domain::SCENARIO, 1, drawn, bound)
    };
    let mut relay = Relaying::default();
    let alone = below(2) == 0;
    let strategies = if alone { vec![Strategy::Relay] } else { Strategy::ALL.to_vec() };
    let mut what = if alone { ", by relay only" } else { ", with a relay" }.to_owned();
    let mut add = |name: &str| {
        what.push_str(", ");
        what.push_str(name);
    };
    match below(4) {
        0 => {
            relay.over = Some(Transport::Tcp);
            add("turn over tcp");
        }
        1 => {
            relay.over = Some(Transport::Udp);
            add("turn over udp");
        }
        _ => {}
    }
    if below(4) == 0 {
        relay.nonce = (30 + below(120)) * SECOND;
        add("short nonces");
    }
    if below(4) == 0 {
        // Longer than permissions last, often than allocations.
        relay.idle = (100 + below(1_200)) * SECOND;
        add("idle");
    }
    let faults = &mut relay.faults;
    let mut excuses = false;
    for _ in 0..below(3) {
        let (name, excused) = match below(6) {
            0 => {
                faults.lose_ppm = 1 + below(150_000) as u32;
                ("relay loses", true)
            }
            1 => {
                faults.duplicate_ppm = 1 + below(300_000) as u32;
                ("relay doubles", false)
            }
            2 => {
                faults.late = (1 + below(100)) * MILLI;
                ("relay reorders", false)
            }
            3 => {
                faults.full = true;
                ("relay full", true)
            }
            4 => {
                let from = below(40) * SECOND;
                faults.dead = Blackout { from, until: from + (1 + below(60)) * SECOND };
                ("relay dead", true)
            }
            _ => {
                let at = (1 + below(60)) * SECOND;
                let restart = below(2) == 0;
                faults.forgets = Some(Forgets { at, restart });
                (if restart { "relay restarts" } else { "relay forgets" }, true)
            }
        };
        add(name);
        excuses |= excused;
    }
    (relay, RelayDrawn { strategies, what, excuses })
}

/// Runs the world of this seed. Returns its outcome and the errors.
pub fn judge(drawn: &Drawn) -> (Ending, Vec<String>) {
    let ending = run(&drawn.pair);
    let mut wrong = ending.violations.clone();
    match (drawn.demand, ending.strategy) {
        // It was connected, and then its home was left.
        (Verdict::Must, None) if ending.why == HOME_LEFT => {}
        // A caller that moves while a stream of its call is open begins a new session, and a listener that still waits for the
        // old one, for 12 s at most, refuses a stranger two at a time (seed 13365 with routers).
        (Verdict::Must, None)
            if drawn.pair.second.as_ref().is_some_and(Second::changes_mid_call)
                && ending.why.contains(&Refusal::Busy.to_string()) => {}
        (Verdict::Must, None) => wrong.push(format!("must connect, and did not: {}", ending.why)),
        (Verdict::MustNot, Some(s)) => wrong.push(format!("cannot connect, and did: {s}")),
        _ => {}
    }
    match (drawn.healed, &ending.again) {
        (Verdict::Must, Some(Err(why))) => wrong.push(format!("healed, must connect, and did not: {why}")),
        (Verdict::MustNot, Some(Ok(s))) => wrong.push(format!("healed, cannot connect, and did: {s}")),
        _ => {}
    }
    if let Some(calm) = calm(drawn, &ending) {
        wrong.push(calm);
    }
    (ending, wrong)
}

/// Compares a call that must succeed amid strangers with the same call without them, and returns the difference.
fn calm(drawn: &Drawn, ending: &Ending) -> Option<String> {
    let flood = drawn.pair.flood.as_ref()?;
    // Whether a call ends before or after its host has moved is a matter of milliseconds.
    let moves = drawn.pair.second.as_ref().is_some_and(Second::changes_mid_call);
    if moves || drawn.demand != Verdict::Must || ending.strategy.is_none() {
        return None;
    }
    let known = flood.named != Named::Nobody;
    let calm = run(&Pair { flood: None, known, again: false, ..drawn.pair.clone() });
    (calm.strategy.is_some() && ending.took > calm.took + LATER)
        .then(|| format!("took {} ms, and {} ms without strangers", ending.took / MILLI, calm.took / MILLI))
}

/// The faults that can be left out of this seed's world and it still goes wrong; none if nothing goes wrong.
pub fn shrink(seed: u64, with: With) -> Option<Vec<usize>> {
    let bad = |left_out: &[usize]| !judge(&draw_without(seed, with, left_out)).1.is_empty();
    if !bad(&[]) {
        return None;
    }
    let mut left_out = Vec::new();
    for place in 0..draw(seed, with).faults {
        left_out.push(place);
        if !bad(&left_out) {
            left_out.pop();
        }
    }
    Some(left_out)
}
