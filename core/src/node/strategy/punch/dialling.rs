//! The dials of a rung: which are planned, when each leaves, and what becomes of it.

use core::time::Duration;
use std::net::SocketAddr;

use super::super::Ctx;
use super::state::{Planned, PunchStage, SILENT_DIALS, SYN_EVERY, Search, Silent};
use super::{
    AT_ONCE, BOTH_SEARCH_FOR, DIAL_FOR, MAX_DIALS_STRANGER, MAX_HALF_OPEN, MAX_LISTENERS, MEET_FOR, PAUSE,
    Punches, REST_FOR, SEARCH_FOR, STRANGERS_REST_FOR, STUCK,
};
use crate::call::Strategy;
use crate::cx::{Owner, Timer};
use crate::event::Stage;
use crate::failure::IoFailure;
use crate::hello::{Offer, Purpose};
use crate::io::{Reuse, SockId, SockOpts};
use crate::nat::Foresight;
use crate::node::session::Role;
use crate::random::Domain;
use crate::strategy::agreement::{Key, Requester};
use crate::strategy::dialler::DialEnd;
use crate::strategy::ours::Trust;
use crate::strategy::punch::{self, From, Spray, Tactic};

impl Punches {
    /// Starts the dials that are due.
    pub(in crate::node) fn drive_punch(&mut self, ctx: &mut Ctx<'_>, key: Key) {
        let now = ctx.cx.now;
        let mut unproven = None;
        loop {
            let Some(punch) = self.all.get_mut(&key) else { return };
            if punch.stage == PunchStage::Resting || punch.until <= now {
                break;
            }
            // Kept for later rungs, as long as there are any.
            let most = MAX_DIALS_STRANGER.min(punch.asked);
            let stranger = key.1 == Requester::Them && punch.trust == Trust::Stranger;
            if stranger && punch.dials >= most {
                punch.dial_no_more();
            }
            let room = punch.live.len() < MAX_HALF_OPEN;
            let due = punch.waiting.front().is_some_and(|p| p.is_due(now)) || punch.search.is_some();
            if !room || !due || punch.stalls || !punch.budget.take(now) {
                break;
            }
            if !ctx.admission.may_dial(now, punch.peer) {
                punch.dial_no_more();
                break;
            }
            if let Some(ip) = punch.next_silent() {
                let spent = punch.silent.values().map(|silent| silent.dials).sum::<u32>() >= SILENT_DIALS;
                if spent || !ctx.admission.may_dial_silent(now, punch.peer) {
                    punch.stalls = true;
                    unproven = Some(ip);
                    break;
                }
                punch.silent.entry(ip).or_insert(Silent { dials: 0, since: now }).dials += 1;
            }
            let Some(next) = punch.next(now) else { break };
            punch.dials += 1;
            self.dial(ctx, key, next);
        }
        if let Some(ip) = unproven {
            self.seek_proof(ctx, key, ip);
        }
        let Some(punch) = self.all.get_mut(&key) else { return };
        // The peer's dials come to a port that anybody may use, or to listeners.
        let waits = matches!(punch.tactic, Some(Tactic::Await)) || !punch.listeners.is_empty();
        let idle = punch.live.is_empty() && punch.waiting.is_empty() && punch.search.is_none() && !waits;
        if punch.stage == PunchStage::Punching && idle && key.1 == Requester::Us {
            punch.until = now;
        }
        let at = match punch.stage {
            PunchStage::Punching
                if punch.search.is_some() && punch.live.len() < MAX_HALF_OPEN && !punch.stalls =>
            {
                Some(now + SYN_EVERY)
            }
            PunchStage::Resting => None,
            _ if punch.stalls => None,
            _ => punch.waiting.front().map(|p| p.at.max(now + SYN_EVERY)),
        };
        let at = at.unwrap_or(punch.until).min(punch.until);
        if punch.until > now {
            ctx.cx.timers.set(Timer::Punch(key), Some(at));
        } else if punch.stage == PunchStage::Sampling {
            self.announce(ctx, key, None);
        } else {
            self.rung_over(ctx, key);
        }
    }

    /// Takes in that a stream of a punch is gone. False: the stream is no punch's.
    pub(in crate::node) fn lost_stream(
        &mut self,
        ctx: &mut Ctx<'_>,
        key: Key,
        sock: SockId,
        why: DialEnd,
    ) -> bool {
        let now = ctx.cx.now;
        let Some(punch) = self.all.get_mut(&key) else { return false };
        let Some(dial) = punch.live.remove(&sock) else { return false };
        let local = [IoFailure::AddrInUse, IoFailure::AddrNotAvailable, IoFailure::Resources];
        if matches!(why, DialEnd::Io(_)) {
            punch.leaves_hole(dial);
        }
        let heard = match why {
            DialEnd::Io(cause) => !local.contains(&cause) && cause != IoFailure::TimedOut,
            _ => true,
        };
        let (ip, peer) = (dial.to.ip(), punch.peer);
        if heard && let (Some(silent), _) = punch.took_part(ip) {
            ctx.admission.were_not_silent(peer, silent.dials, now.since(silent.since));
        }
        let tries = dial.tries.saturating_add(1);
        let again = |after: Duration| Planned { tries, at: now + after, listens: false, ..dial };
        let elsewhere = || Planned { from: 0, listens: dial.listens, ..again(Duration::ZERO) };
        let random = Duration::from_micros(ctx.cx.random.below(Domain::Punch, PAUSE.as_micros() as u64));
        let (mut stuck, mut refused_search) = (false, false);
        // Nothing was sent, so that a stranger's few dials are left for rungs that dial from elsewhere.
        if local.into_iter().any(|cause| why == DialEnd::Io(cause)) {
            punch.dials = punch.dials.saturating_sub(1);
            if let Some(silent) = punch.silent.get_mut(&ip).filter(|silent| silent.dials > 0) {
                silent.dials -= 1;
                ctx.admission.were_not_silent(peer, 1, Duration::ZERO);
            }
        }
        let next = match why {
            DialEnd::Io(IoFailure::AddrInUse) if dial.from != 0 => Some(elsewhere()),
            // Another dial of ours has drawn the same port.
            DialEnd::Io(IoFailure::AddrNotAvailable) if dial.from != punch.port => Some(elsewhere()),
            // Somebody owns these two ends already: a stream of the peer's that our listener took.
            DialEnd::Io(IoFailure::AddrNotAvailable) => {
                stuck = tries >= STUCK && !punch.fresh && key.1 == Requester::Us;
                Some(again(PAUSE))
            }
            DialEnd::Io(IoFailure::Resources) => Some(again(PAUSE * 2)),
            DialEnd::Io(why) => {
                let refused = why != IoFailure::TimedOut;
                if refused {
                    punch.was_refused();
                }
                refused_search = refused && punch.searches();
                let after = if tries <= AT_ONCE { Duration::ZERO } else { random };
                // The later of two flows that fit meets the other's listener, and every dial is worth another flow.
                let is_one_of_many = matches!(punch.tactic, Some(Tactic::Spray { with: Spray::Agreed, .. }));
                (!(refused && is_one_of_many)).then(|| again(after))
            }
            DialEnd::Broken | DialEnd::Lost | DialEnd::Silent | DialEnd::Stalled => Some(again(random)),
            DialEnd::Hello(_) | DialEnd::Refused(_) => None,
        };
        if let Some(next) = next.filter(|_| !dial.once) {
            let place = punch.waiting.partition_point(|p| p.at <= next.at);
            punch.waiting.insert(place, next);
        }
        if refused_search {
            // What hits the mapping of a refused dial finds a listener.
            let local = SocketAddr::new(punch.local, dial.from);
            self.listen_beside(ctx, key, local);
        }
        if stuck && !ctx.sessions.has_open(key, dial.to) {
            self.stuck(ctx, key);
            return true;
        }
        self.drive_punch(ctx, key);
        true
    }

    /// Decides what to dial, from `wait` on, once the mappings of each side are known.
    pub(super) fn plan(&mut self, ctx: &mut Ctx<'_>, key: Key, wait: Duration) {
        let now = ctx.cx.now;
        let search = ctx.cx.random.below(Domain::Punch, u64::MAX);
        let Some(punch) = self.all.get_mut(&key) else { return };
        let Some(tactic) = punch.tactic() else { return };
        punch.stage = PunchStage::Punching;
        let both = punch
            .theirs
            .as_ref()
            .is_some_and(|theirs| punch::both_search(&punch.ours, theirs, &tactic, punch.rung));
        let listen = punch.port;
        let at = now + wait;
        punch.state(&tactic);
        let permille = punch.stated;
        punch.took = Some(at.since(punch.announced));
        let mut old: Vec<SockId> = punch.live.keys().copied().collect();
        punch.until = at
            + match tactic {
                _ if both => BOTH_SEARCH_FOR,
                Tactic::Meet(_) | Tactic::Await => MEET_FOR,
                Tactic::Spray { .. } | Tactic::Probe { .. } | Tactic::Hopeless(_) => SEARCH_FOR,
            };
        match &tactic {
            Tactic::Meet(dials) => {
                let from = |from: From| if from == From::Listener { listen } else { 0 };
                let counts = matches!(punch.ours.behaviour.foresight(), Foresight::Next(_));
                let planned = |(f, to): &(From, SocketAddr)| Planned {
                    from: from(*f),
                    to: *to,
                    tries: 0,
                    at,
                    // Counted ports have each other's only once.
                    once: *f == From::Fresh && dials.len() > 1 && counts,
                    listens: false,
                };
                punch.waiting = dials.iter().map(planned).collect();
                let same = |a: &Planned, b: &Planned| a.from != 0 && (a.from, a.to) == (b.from, b.to);
                let (waiting, live) = (&mut punch.waiting, &punch.live);
                waiting.retain(|p| !live.values().any(|l| same(p, l)));
                old.retain(|sock| !dials.iter().any(|(_, to)| live.get(sock).is_some_and(|l| l.to == *to)));
            }
            Tactic::Await => {}
            Tactic::Spray { to, from, with } => {
                let listens = *with == Spray::Listening;
                punch.search = Some(Search::Spray { to: *to, left: *from, listens });
            }
            Tactic::Probe { to, ports, count } => {
                punch.walk = search;
                punch.search =
                    Some(Search::Probe { to: *to, ports: *ports, key: search, next: 0, count: *count });
            }
            Tactic::Hopeless(_) => punch.until = now,
        }
        // What our filter lets in may come from other ports than those that we dial.
        let admits = punch::admits(punch.ours.behaviour, punch.rung);
        let listens = punch.fresh && admits && !matches!(tactic, Tactic::Hopeless(_) | Tactic::Await);
        let (fresh_port, local) = (punch.port, punch.local);
        let (rung, connect) = (punch.rung, punch.connect);
        let searched = match &tactic {
            Tactic::Spray { to, .. } => Some(to.ip()),
            Tactic::Probe { to, .. } => Some(*to),
            Tactic::Meet(_) | Tactic::Await | Tactic::Hopeless(_) => None,
        };
        // The proof takes as long as the first dials do, and longer.
        let unproven = searched.filter(|ip| !punch.took_part.contains(ip));
        punch.tactic = Some(tactic);
        let gone: Vec<Planned> = old.iter().filter_map(|sock| punch.live.remove(sock)).collect();
        for dial in gone {
            punch.leaves_hole(dial);
        }
        ctx.sessions.close_dials(ctx.cx, old.into_iter());
        if listens {
            self.listen_beside(ctx, key, SocketAddr::new(local, fresh_port));
        }
        if let Some(connect) = connect {
            ctx.progress(connect, Strategy::Punch, Stage::Punching { rung, permille });
        }
        if let Some(ip) = unproven {
            self.seek_proof(ctx, key, ip);
        }
        self.drive_punch(ctx, key);
    }

    fn dial(&mut self, ctx: &mut Ctx<'_>, key: Key, mut dial: Planned) {
        let now = ctx.cx.now;
        let Some(punch) = self.all.get_mut(&key) else { return };
        if dial.from == 0 {
            dial.from = ctx.cx.fresh_port();
            punch.draws(dial.from);
        }
        let at = dial.at.max(now);
        let until = at + DIAL_FOR;
        let (peer, terms, local) = (punch.peer, punch.terms, SocketAddr::new(punch.local, dial.from));
        let role = match key.1 {
            Requester::Us => Role::Initiate(Offer { session: key.0, purpose: Purpose::Open, terms }, peer),
            Requester::Them => Role::Respond,
        };
        let session = (key, peer, terms);
        if dial.listens {
            self.listen_beside(ctx, key, local);
        }
        let sock = ctx.sessions.dial_for_punch(ctx.cx, [local, dial.to], [at, until], role, session);
        if let Some(punch) = self.all.get_mut(&key) {
            punch.live.insert(sock, dial);
        }
    }

    /// Has a listener wait on a port that a punch dials from.
    fn listen_beside(&mut self, ctx: &mut Ctx<'_>, key: Key, local: SocketAddr) {
        let Some(punch) = self.all.get_mut(&key) else { return };
        if local.port() == punch.ours.listen || punch.listeners.len() >= MAX_LISTENERS {
            return;
        }
        let opts = SockOpts { reuse: Reuse::AddressAndPort, nodelay: true };
        let listen = || ctx.cx.listen(Owner::PunchListener, local, opts);
        punch.listeners.entry(local.port()).or_insert_with(listen);
    }

    /// Ends a rung that came to nothing.
    fn rung_over(&mut self, ctx: &mut Ctx<'_>, key: Key) {
        match key.1 {
            Requester::Us => self.rung_failed(ctx, key),
            Requester::Them => {
                let now = ctx.cx.now;
                let Some(punch) = self.all.get_mut(&key) else { return };
                if punch.stage != PunchStage::Resting {
                    punch.stage = PunchStage::Resting;
                    let rest = if punch.trust == Trust::Known { REST_FOR } else { STRANGERS_REST_FOR };
                    punch.until = now + rest;
                    punch.dial_no_more();
                    return ctx.cx.timers.set(Timer::Punch(key), Some(now + rest));
                }
                // The peer has given up; streams that are saying hello go on.
                self.leave(ctx, key);
            }
        }
    }
}
