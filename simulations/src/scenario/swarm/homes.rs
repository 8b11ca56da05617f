//! Routers that open ports, honest or not, and second homes, drawn.

use std::net::IpAddr;

use crate::domain;
use crate::engine::{Keyed, MILLI, SECOND};
use crate::nat::{Chain, PRESETS};
use crate::net::LinkSpec;
use crate::oracle::{Verdict, direct_or_reverse, every_strategy, reachable_with};
use crate::scenario::pair::{Life, Pair, Place, Second, When};
use crate::service::router::{RouterFaults, RouterSpec, Taken};

/// Draws about routers and second homes.
pub(super) struct Found {
    pub(super) what: String,
}

/// A second home is lost or left at most so long after a call began.
const LATEST: u64 = 8_000;

/// Draws routers and perhaps a second home, from numbers that nothing else uses.
pub(super) fn draw(rng: Keyed, pair: &mut Pair) -> Found {
    let mut drawn = 0;
    let mut below = |bound: u64| {
        drawn += 1;
        rng.below(domain::SCENARIO, 2, drawn, bound)
    };
    let mut what = String::new();
    for n in 0..2 {
        if below(3) > 0 {
            pair.routers[n] = Some(router(&mut below, &mut what));
        }
    }
    if pair.place == Place::Apart && below(2) == 0 {
        let preset = &PRESETS[below(PRESETS.len() as u64) as usize];
        let of = below(2) as usize;
        what.push_str(&format!(", host{of} also at {}", preset.name));
        let router = (below(3) == 0).then(|| router(&mut below, &mut what));
        let when = match below(2) {
            0 => When::Idle,
            _ => When::Into(below(LATEST) * MILLI),
        };
        let (life, name) = match below(4) {
            0 => (Life::Beside, "both"),
            1 => (Life::Loses(when), "loses one"),
            2 => (Life::Dead(when), "one is dead"),
            _ => (Life::Moves(when), "moves"),
        };
        what.push_str(&format!(", {name} {when:?}"));
        let link = LinkSpec::with_delay((1 + below(100)) * MILLI);
        pair.second = Some(Second { of, chain: Chain(preset.chain.to_vec()), link, router, life });
    }
    Found { what }
}

fn router(below: &mut dyn FnMut(u64) -> u64, what: &mut String) -> RouterSpec {
    let spoken = 1 + below(7);
    let mut router = RouterSpec {
        pcp: spoken & 1 != 0,
        nat_pmp: spoken & 2 != 0,
        upnp: (spoken & 4 != 0).then(|| 1 + below(2) as u8),
        lease: [60, 600, 7_200][below(3) as usize],
        faults: RouterFaults::default(),
    };
    what.push_str(", router");
    let faults = &mut router.faults;
    for _ in 0..below(3) {
        what.push_str(match below(7) {
            0 => {
                let lies: [IpAddr; 3] =
                    [[192, 168, 77, 1].into(), [100, 64, 9, 9].into(), [45, 99, 9, 9].into()];
                faults.says = Some(lies[below(3) as usize]);
                " lies"
            }
            1 => {
                faults.taken = Taken::Low;
                " gives others"
            }
            2 => {
                faults.taken = Taken::All;
                " gives none"
            }
            3 => {
                faults.early = true;
                " closes early"
            }
            4 => {
                faults.idle = true;
                " opens none"
            }
            5 => {
                (faults.crash, faults.down) = (Some(below(60) * SECOND), below(20) * SECOND);
                " restarts"
            }
            _ => {
                faults.slow = (1 + below(2_500)) * MILLI;
                " is slow"
            }
        });
    }
    router
}

impl Found {
    /// Returns the demands on the first call, and on the call after all faults have ended. `before` is the demand
    /// without routers and second homes.
    pub(super) fn demands(&self, pair: &Pair, all: bool, before: Verdict) -> (Verdict, Verdict) {
        if pair.place != Place::Apart || pair.relay.is_some() {
            let (then, healed) = self.shaken(pair, before);
            // To servers a node goes by its first home, also while that is dead and nothing says so.
            let dead = matches!(pair.second.as_ref().map(|s| s.life), Some(Life::Dead(_)));
            return (if dead && then == Verdict::Must { Verdict::Perhaps } else { then }, healed);
        }
        let home = |of: usize, second: bool| -> (&Chain, Option<&RouterSpec>) {
            match pair.second.as_ref().filter(|s| second && s.of == of) {
                Some(second) => (&second.chain, second.router.as_ref()),
                None => (&pair.chains[of], pair.routers[of].as_ref()),
            }
        };
        let joined = |second: bool| {
            let homes = [home(0, second), home(1, second)];
            let [(a, _), (b, _)] = homes;
            let base = if all { every_strategy(a, b) } else { direct_or_reverse(a, b) };
            let open = homes.map(|(chain, router)| reachable_with(chain, router));
            match base {
                Verdict::Must => Verdict::Must,
                _ if open.contains(&Verdict::Must) => Verdict::Must,
                Verdict::MustNot if open == [Verdict::MustNot; 2] => Verdict::MustNot,
                _ => Verdict::Perhaps,
            }
        };
        let Some(second) = &pair.second else { return self.shaken(pair, joined(false)) };
        let (then, healed) = match second.life {
            // More ways out do no harm where there is one in.
            Life::Beside => (either(joined(false), joined(true)), either(joined(false), joined(true))),
            Life::Loses(When::Idle) | Life::Moves(When::Idle) => (joined(true), joined(true)),
            // A caller that moves goes on from where it is then. Where the listener is then nobody but the broker can say, and
            // without a punch nobody asks it.
            Life::Loses(When::Into(_)) | Life::Moves(When::Into(_)) if second.of == 1 => {
                (both(joined(false), joined(true)), joined(true))
            }
            Life::Loses(When::Into(_)) | Life::Moves(When::Into(_)) => (Verdict::Perhaps, joined(true)),
            Life::Dead(_) => (Verdict::Perhaps, either(joined(false), joined(true))),
        };
        let (then, _) = self.shaken(pair, then);
        (then, healed)
    }

    /// Returns the demands with a router that restarts in the middle: it may break the calls.
    fn shaken(&self, pair: &Pair, before: Verdict) -> (Verdict, Verdict) {
        let second = pair.second.as_ref().and_then(|s| s.router.as_ref());
        let mut routers = pair.routers.iter().flatten().chain(second);
        let excuses = before == Verdict::Must && routers.any(|r| r.faults.crash.is_some());
        (if excuses { Verdict::Perhaps } else { before }, before)
    }
}

/// Returns the demand that holds in each of two homes.
fn both(one: Verdict, other: Verdict) -> Verdict {
    if one == other { one } else { Verdict::Perhaps }
}

/// Returns the demand that holds where it holds in one of two homes.
fn either(one: Verdict, other: Verdict) -> Verdict {
    match (one, other) {
        (Verdict::Must, _) | (_, Verdict::Must) => Verdict::Must,
        (Verdict::MustNot, Verdict::MustNot) => Verdict::MustNot,
        _ => Verdict::Perhaps,
    }
}
