//! TCP hole punching, both sides of it: say where we come from, hear where the peer does, and dial so that the
//! two NATs let the same connection through.
//!
//! The requester announces itself (INITIAL_MAPPINGS), the other answers (UPDATED_MAPPINGS) and dials when its
//! answer should have arrived; the requester dials when it has. Every dial leaves from a port that listens too,
//! or is repeated until the rung ends, so that whichever SYN comes through finds somebody.

use core::fmt::Write;
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use smallvec::{SmallVec, smallvec};

use super::Node;
use super::streams::Role;
use crate::address::PeerAddress;
use crate::cx::Timer;
use crate::hello::{Offer, Purpose};
use crate::identity::NodeId;
use crate::io::{IoFailure, SockId};
use crate::limit::Bucket;
use crate::nat::survey::Sampled;
use crate::nat::{Behaviour, Foresight};
use crate::notice::{Refusal, Stage, Strategy};
use crate::pipe::PipeMode;
use crate::random::Domain;
use crate::session::SessionId;
use crate::signal::mappings::Mappings;
use crate::signal::message::Body;
use crate::strategy::agreement::{Key, Requester};
use crate::strategy::dialler::DialEnd;
use crate::strategy::paths::{self, Trust};
use crate::strategy::punch::{self, From, Side, Tactic, WINDOW};
use crate::time::Instant;

/// From this rung on dials leave from ports of their own: a stale connection may hold the listener's.
pub(super) const FRESH_FROM: u8 = 2;
/// So often a port is found taken by a connection that is none, before it is given up.
const STUCK: u8 = 2;
/// A rung on which both know where to dial; then the next begins beside it.
const MEET_FOR: Duration = Duration::from_secs(2);
/// A dial is left alone so long, over the rungs: longer than Linux's first four SYN retransmissions, a second apart.
const DIAL_FOR: Duration = Duration::from_secs(10);
/// A rung that searches.
const SEARCH_FOR: Duration = Duration::from_secs(10);
/// A probe that found nothing is given up after this long: the hole it left in our NAT stays, and our listener
/// answers whoever comes through.
const PROBE_FOR: Duration = Duration::from_millis(1500);
/// SYNs a second, and at once. EasyTier's 5,000 made routers fall over; two hundred a second are a web page.
const SYN_EVERY: Duration = Duration::from_millis(2);
const SYN_BURST: u32 = 16;
/// A search whose dials are refused may go twice as fast: they leave nothing half-open behind, but each hole
/// lasts for one round trip only.
const SYN_EVERY_REFUSED: Duration = Duration::from_millis(1);
/// So many show that dials are refused.
const REFUSALS: u32 = 32;
/// Half-open sockets of one punch.
const MAX_HALF_OPEN: usize = 1024;
/// Dials of one punch in all; for strangers few, since anybody can ask.
const MAX_DIALS: u32 = 8192;
const MAX_DIALS_STRANGER: u32 = 4;
/// Refused dials are repeated at once so often: a constant pause locks two sides out of phase, no pause cannot
/// (simulation and kernel, ARCHITECTURE.md). Then after random ones up to this.
const AT_ONCE: u8 = 8;
const PAUSE: Duration = Duration::from_millis(200);
/// After a rung of the peer's its next one is waited for so long.
const REST_FOR: Duration = Duration::from_secs(15);
const FOR_EVER: Duration = Duration::from_secs(7200);
/// Between dials whose order counts: it must survive timers of a millisecond.
const SPACING: Duration = Duration::from_millis(4);
/// What a start that the peer asks for may be in the future.
const MAX_DELAY: Duration = Duration::from_secs(2);

/// A punch under way.
#[derive(Debug)]
pub(super) struct Punch {
    pub(super) peer: NodeId,
    pub(super) trust: Trust,
    mode: PipeMode,
    via: SmallVec<[u8; 2]>,
    pub(super) rung: u8,
    /// Addresses that the peer may come from.
    sources: SmallVec<[IpAddr; 4]>,
    /// The interface it leaves from.
    local: IpAddr,
    pub(super) stage: PunchStage,
    /// The local port for dials that need not have one of their own.
    port: u16,
    ours: Side,
    theirs: Option<Side>,
    /// Between our answer and its arrival, as far as known.
    delay: Duration,
    began: Instant,
    pub(super) until: Instant,
    waiting: VecDeque<Planned>,
    search: Option<Search>,
    live: BTreeMap<SockId, Planned>,
    budget: Bucket,
    dials: u32,
    refused: u32,
    tactic: Option<Tactic>,
    /// The order in which ports are probed, and how many were.
    walk: u64,
    probed: u16,
    /// Our NAT was measured before the rung began.
    pub(super) surveyed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PunchStage {
    /// A fresh sample is under way.
    Sampling,
    /// Ours is known, the peer's is waited for.
    Announced,
    Punching,
    /// The rung is over; the peer, who asked, may begin another.
    Resting,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Planned {
    /// Local port; 0 for a fresh one.
    from: u16,
    to: SocketAddr,
    tries: u8,
    at: Instant,
    /// Not repeated.
    once: bool,
}

impl Planned {
    /// A first dial is armed early, and fired by the driver at its time; one after a refusal is not, since much
    /// may happen until then.
    fn is_due(&self, now: Instant) -> bool {
        self.tries == 0 || self.at <= now
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Search {
    Spray { to: SocketAddr, left: u16 },
    Probe { to: IpAddr, low: u16, high: u16, key: u64, next: u16, count: u16 },
}

impl Node {
    /// Begins a rung. `theirs` is what the peer announced, where it asked. False: there is no way to the peer.
    #[allow(clippy::too_many_arguments, reason = "called from two places, each of which knows all of it")]
    pub(super) fn begin_punch(
        &mut self,
        key: Key,
        peer: NodeId,
        mode: PipeMode,
        address: &PeerAddress,
        via: SmallVec<[u8; 2]>,
        rung: u8,
        theirs: Option<&Mappings>,
    ) -> bool {
        let trust = self.trust(peer);
        let family = |v4: bool| address.interfaces().any(|i| i.external.is_ipv4() == v4);
        let route = self.routes.iter().find(|r| {
            let fits = theirs.is_none_or(|t| t.external.is_ipv4() == r.internal.is_ipv4());
            fits && family(r.internal.is_ipv4())
        });
        let Some(route) = route.copied() else { return false };
        let behaviour = self.surveyor.of(route.internal).map(|r| r.behaviour).unwrap_or_default();
        let before = self.end_punch(key);
        let dials = before.as_ref().map_or(0, |p| p.dials);
        // What is under way goes on until the new rung dials: a port that falls silent meanwhile answers the
        // peer's SYN by its listener, with a sequence number that our NAT does not expect any more.
        let (mut live, mut waiting) = before.map(|p| (p.live, p.waiting)).unwrap_or_default();
        if matches!(behaviour.foresight(), Foresight::Next(_)) {
            // Unless each dial takes one of the ports that are about to be foretold.
            waiting.clear();
            self.close_dials(core::mem::take(&mut live).into_keys());
        }
        let surveyed = self.surveyor.settled();
        let listen = self.listen_port(route.internal.is_ipv4()).unwrap_or(0);
        let (internal, external) = (route.internal, route.external);
        let ours = Side { behaviour, external, internal, ports: SmallVec::new(), listen };
        let delay =
            theirs.map_or(Duration::ZERO, |t| (t.signal_delay + self.signal_delay(&via)).min(MAX_DELAY));
        // A quarter longer: SYNs cross unless one side is later than the way is long, the asking side is late by what
        // it takes to read our answer, and our waiting costs it nothing. Not more, since the way between us may be
        // less than half as long as the one by the broker.
        let delay = delay * 5 / 4;
        let now = self.cx.now;
        let punch = Punch {
            peer,
            trust,
            mode,
            via,
            rung,
            sources: address.interfaces().flat_map(|i| [i.external, i.internal]).collect(),
            local: internal,
            stage: PunchStage::Sampling,
            ours,
            theirs: theirs.and_then(side_of),
            delay,
            began: now,
            until: now + MEET_FOR,
            port: if rung >= FRESH_FROM { self.cx.fresh_port() } else { listen },
            waiting,
            search: None,
            live,
            budget: Bucket::new(SYN_BURST, SYN_EVERY),
            dials,
            refused: 0,
            tactic: None,
            walk: 0,
            probed: 0,
            surveyed,
        };
        self.punches.insert(key, Box::new(punch));
        let needed = match behaviour.foresight() {
            Foresight::Next(_) => true,
            Foresight::Measured => rung >= FRESH_FROM,
            Foresight::Offset(_) | Foresight::Nothing { .. } => false,
        };
        if needed && self.surveyor.sample(&mut self.cx, internal, key) {
            // A server that takes the connection and says nothing must not keep the punch, and its place, for ever.
            self.cx.timers.set(Timer::Punch(key), Some(now + MEET_FOR));
        } else {
            self.punch_announce(key, None);
        }
        true
    }

    /// Ends a punch, with the dials that nobody has answered.
    pub(super) fn forget_punch(&mut self, key: Key) {
        if let Some(punch) = self.end_punch(key) {
            self.close_dials(punch.live.into_keys());
        }
    }

    /// Ends a punch without touching its streams.
    pub(super) fn end_punch(&mut self, key: Key) -> Option<Box<Punch>> {
        let punch = self.punches.remove(&key)?;
        self.cx.timers.set(Timer::Punch(key), None);
        self.surveyor.release(&mut self.cx, key);
        Some(punch)
    }

    pub(super) fn punch_sampled(&mut self, sampled: Sampled) {
        if self.punches.get(&sampled.key).is_some_and(|p| p.stage == PunchStage::Sampling) {
            self.punch_announce(sampled.key, Some(sampled));
        }
    }

    /// A peer wants to punch; our user's rules have been asked. Answers, and dials when that has arrived.
    pub(super) fn visit_by_punch(
        &mut self,
        peer: NodeId,
        session: SessionId,
        via: SmallVec<[u8; 2]>,
        mappings: &Mappings,
    ) {
        let key = (session, Requester::Them);
        if !self.may_punch(peer, mappings) {
            return self.reply(peer, session, &via, Body::Dialled(SmallVec::new()));
        }
        self.agreement.open(key, peer, mappings.mode);
        let begun = self.begin_punch(
            key,
            peer,
            mappings.mode,
            &mappings.address,
            via.clone(),
            mappings.rung,
            Some(mappings),
        );
        if !begun {
            self.abandon(key, peer);
            self.reply(peer, session, &via, Body::Dialled(SmallVec::new()));
        }
    }

    /// Whether a tactic dials nothing for these mappings that we would not dial for the peer otherwise.
    fn may_punch(&self, peer: NodeId, mappings: &Mappings) -> bool {
        let paths = paths::to_peer(&self.routes, &mappings.address, false, self.trust(peer));
        let may = |ip: IpAddr| paths.iter().any(|p| p.remote.ip() == ip);
        let Some(theirs) = side_of(mappings) else { return false };
        let shared = |r: &paths::Route| punch::is_near(r.internal, r.external, &theirs);
        may(theirs.external) && (may(theirs.internal) || !self.routes.iter().any(shared))
    }

    /// The peer's answer to our announcement.
    pub(super) fn punch_answered(&mut self, peer: NodeId, session: SessionId, mappings: &Mappings) {
        let key = (session, Requester::Us);
        let may = self.may_punch(peer, mappings);
        let Some(punch) = self.punches.get_mut(&key) else { return };
        if punch.peer != peer || punch.rung != mappings.rung || punch.stage != PunchStage::Announced {
            return;
        }
        if !may {
            self.cx.stats.bad_messages += 1;
            return;
        }
        punch.theirs = side_of(mappings);
        punch.sources.push(mappings.external);
        let swapped = is_swapped(punch.rung);
        let wait = if swapped { mappings.signal_delay.min(MAX_DELAY) } else { Duration::ZERO };
        self.plan_punch(key, wait);
    }

    /// Whether a stream from this address may be the other end of a punch of ours: which.
    pub(super) fn awaited_from(&self, ip: IpAddr) -> Option<(Key, NodeId, PipeMode)> {
        self.punches
            .iter()
            .find(|(key, p)| key.1 == Requester::Us && p.sources.contains(&ip))
            .map(|(key, p)| (*key, p.peer, p.mode))
    }

    /// Dials what is due.
    pub(super) fn drive_punch(&mut self, key: Key) {
        let now = self.cx.now;
        loop {
            let Some(punch) = self.punches.get_mut(&key) else { return };
            if punch.stage == PunchStage::Resting || punch.until <= now {
                break;
            }
            let stranger = key.1 == Requester::Them && punch.trust == Trust::Stranger;
            let most = match stranger {
                // Kept for later rungs, as long as there are any.
                true => MAX_DIALS_STRANGER.min(2 * (u32::from(punch.rung) + 1)),
                false => MAX_DIALS,
            };
            if punch.dials >= most {
                punch.waiting.clear();
                punch.search = None;
            }
            let room = punch.live.len() < MAX_HALF_OPEN;
            let due = punch.waiting.front().is_some_and(|p| p.is_due(now)) || punch.search.is_some();
            if !room || !due || !punch.budget.take(now) {
                break;
            }
            let Some(next) = punch.next(now) else { break };
            punch.dials += 1;
            self.dial_punch(key, next);
        }
        let Some(punch) = self.punches.get_mut(&key) else { return };
        let idle = punch.live.is_empty() && punch.waiting.is_empty() && punch.search.is_none();
        if punch.stage == PunchStage::Punching && idle && key.1 == Requester::Us {
            punch.until = now;
        }
        let at = match punch.stage {
            PunchStage::Punching if punch.search.is_some() && punch.live.len() < MAX_HALF_OPEN => {
                Some(now + SYN_EVERY)
            }
            PunchStage::Resting => None,
            _ => punch.waiting.front().map(|p| p.at.max(now + SYN_EVERY)),
        };
        let at = at.unwrap_or(punch.until).min(punch.until);
        if punch.until > now {
            self.cx.timers.set(Timer::Punch(key), Some(at));
        } else if punch.stage == PunchStage::Sampling {
            self.punch_announce(key, None);
        } else {
            self.rung_over(key);
        }
    }

    /// Whether a session is being punched.
    pub(super) fn is_punching(&self, key: Key) -> bool {
        self.punches.contains_key(&key)
    }

    /// A stream of a punch is gone; false: it is no punch's.
    pub(super) fn punch_lost_stream(&mut self, key: Key, sock: SockId, why: DialEnd) -> bool {
        let now = self.cx.now;
        let Some(punch) = self.punches.get_mut(&key) else { return false };
        let Some(dial) = punch.live.remove(&sock) else { return false };
        let tries = dial.tries.saturating_add(1);
        let again = |after: Duration| Planned { tries, at: now + after, ..dial };
        let random = Duration::from_micros(self.cx.random.below(Domain::Punch, PAUSE.as_micros() as u64));
        let mut stuck = false;
        // Nothing was sent, so that a stranger's few dials are left for rungs that dial from elsewhere.
        let local = [IoFailure::AddrInUse, IoFailure::AddrNotAvailable, IoFailure::Resources];
        if local.into_iter().any(|cause| why == DialEnd::Io(cause)) {
            punch.dials = punch.dials.saturating_sub(1);
        }
        let next = match why {
            DialEnd::Io(IoFailure::AddrInUse) if dial.from != 0 => {
                Some(Planned { from: 0, ..again(Duration::ZERO) })
            }
            // Somebody owns these two ends already: a stream of the peer's that our listener took.
            DialEnd::Io(IoFailure::AddrNotAvailable) => {
                stuck = tries >= STUCK && punch.rung < FRESH_FROM && key.1 == Requester::Us;
                Some(again(PAUSE))
            }
            DialEnd::Io(IoFailure::Resources) => Some(again(PAUSE * 2)),
            DialEnd::Io(why) => {
                if why != IoFailure::TimedOut {
                    punch.was_refused();
                }
                Some(again(if tries <= AT_ONCE { Duration::ZERO } else { random }))
            }
            DialEnd::Lost | DialEnd::Silent | DialEnd::Stalled => Some(again(random)),
            DialEnd::Hello(_) | DialEnd::Refused(_) => None,
        };
        if let Some(next) = next.filter(|_| !dial.once) {
            let place = punch.waiting.partition_point(|p| p.at <= next.at);
            punch.waiting.insert(place, next);
        }
        if stuck && !self.has_open_stream(key, dial.to) {
            self.punch_stuck(key.0);
            return true;
        }
        self.drive_punch(key);
        true
    }

    /// How far a punch has come, in words.
    pub(super) fn describe_punch(&self, key: Key) -> String {
        let Some(punch) = self.punches.get(&key) else { return String::from("not begun") };
        punch.describe(self.cx.now)
    }

    /// The way to the broker and not back.
    fn signal_delay(&self, via: &[u8]) -> Duration {
        let known = via.iter().filter_map(|place| self.brokers.get(usize::from(*place))?.round_trip());
        known.min().unwrap_or_default() / 2
    }

    /// Ours is known: tells the peer.
    fn punch_announce(&mut self, key: Key, sampled: Option<Sampled>) {
        let Some(punch) = self.punches.get_mut(&key) else { return };
        let report = self.surveyor.of(punch.local);
        let (listen, fresh) = (punch.ours.listen, punch.rung >= FRESH_FROM);
        let seen = sampled.and_then(|s| s.seen);
        punch.ours.ports = match punch.ours.behaviour.foresight() {
            Foresight::Offset(offset) => smallvec![punch.port.wrapping_add(offset).max(1)],
            Foresight::Measured if fresh => match (sampled, seen) {
                (Some(sampled), Some(seen)) => {
                    punch.port = sampled.local;
                    smallvec![seen.port()]
                }
                _ => smallvec![punch.port],
            },
            Foresight::Measured => match report.and_then(|r| r.mapped) {
                Some(mapped) => smallvec![mapped.port()],
                None => smallvec![listen],
            },
            Foresight::Next(step) => match seen {
                Some(seen) => {
                    let nth = |n| seen.port().wrapping_add_signed(step.wrapping_mul(n));
                    (1..=WINDOW as i16).map(nth).filter(|p| *p != 0).collect()
                }
                None => smallvec![listen],
            },
            Foresight::Nothing { .. } => SmallVec::new(),
        };
        let (peer, mode, rung, via) = (punch.peer, punch.mode, punch.rung, punch.via.clone());
        let (behaviour, external, ports) =
            (punch.ours.behaviour, punch.ours.external, punch.ours.ports.clone());
        let (delay, swapped) = (punch.delay, is_swapped(rung));
        punch.stage = PunchStage::Announced;
        // The peer's user may be asked first: the connect's own deadline ends the wait.
        punch.until = self.cx.now + FOR_EVER;
        let signal_delay = self.signal_delay(&via);
        let address = Box::new(self.current_address());
        let mappings = Box::new(Mappings { mode, rung, behaviour, signal_delay, external, ports, address });
        match key.1 {
            Requester::Us => self.send_initial(key.0, mappings),
            Requester::Them => {
                let (session, stranger) =
                    (key.0, self.punches.get(&key).is_some_and(|p| p.trust == Trust::Stranger));
                let tactic = self.punches.get(&key).and_then(|p| p.tactic());
                if stranger && matches!(tactic, Some(Tactic::Spray { .. } | Tactic::Probe { .. })) {
                    self.cx.stats.refused += 1;
                    self.end_punch(key);
                    self.abandon(key, peer);
                    self.doubt();
                    return self.reply(peer, session, &via, Body::Refused(Refusal::NoSearchForStrangers));
                }
                self.reply(peer, session, &via, Body::Updated(mappings));
                self.plan_punch(key, if swapped { Duration::ZERO } else { delay });
            }
        }
    }

    /// Both are known: decides what to dial, from `wait` on.
    fn plan_punch(&mut self, key: Key, wait: Duration) {
        let now = self.cx.now;
        let search = self.cx.random.below(Domain::Punch, u64::MAX);
        let Some(punch) = self.punches.get_mut(&key) else { return };
        let Some(tactic) = punch.tactic() else { return };
        punch.stage = PunchStage::Punching;
        let listen = punch.port;
        let at = now + wait;
        let mut old: Vec<SockId> = punch.live.keys().copied().collect();
        punch.until = at + if matches!(tactic, Tactic::Meet(_)) { MEET_FOR } else { SEARCH_FOR };
        match &tactic {
            Tactic::Meet(dials) => {
                let from = |from: From| if from == From::Listener { listen } else { 0 };
                let counts = matches!(punch.ours.behaviour.foresight(), Foresight::Next(_));
                // Ports that count up must be taken in order.
                let nth = |n: usize, from: From| {
                    if from == From::Fresh { SPACING * n as u32 } else { Duration::ZERO }
                };
                let planned = |(n, (f, to)): (usize, &(From, SocketAddr))| Planned {
                    from: from(*f),
                    to: *to,
                    tries: 0,
                    at: at + nth(n, *f),
                    // Counted ports have each other's only once.
                    once: *f == From::Fresh && dials.len() > 1 && counts,
                };
                punch.waiting = dials.iter().enumerate().map(planned).collect();
                let same = |a: &Planned, b: &Planned| a.from != 0 && (a.from, a.to) == (b.from, b.to);
                let (waiting, live) = (&mut punch.waiting, &punch.live);
                waiting.retain(|p| !live.values().any(|l| same(p, l)));
                old.retain(|sock| !dials.iter().any(|(_, to)| live.get(sock).is_some_and(|l| l.to == *to)));
            }
            Tactic::Spray { to, from } => punch.search = Some(Search::Spray { to: *to, left: *from }),
            Tactic::Probe { to, low, high, count } => {
                let (to, low, high, count) = (*to, *low, *high, *count);
                punch.walk = search;
                punch.search = Some(Search::Probe { to, low, high, key: search, next: 0, count });
            }
            Tactic::Hopeless(_) => punch.until = now,
        }
        let rung = punch.rung;
        punch.tactic = Some(tactic);
        punch.live.retain(|sock, _| !old.contains(sock));
        self.close_dials(old.into_iter());
        self.stage(Some(key), Strategy::Punch, Stage::Punching { rung });
        self.drive_punch(key);
    }

    fn dial_punch(&mut self, key: Key, mut dial: Planned) {
        if dial.from == 0 {
            dial.from = self.cx.fresh_port();
        }
        let now = self.cx.now;
        let Some(punch) = self.punches.get_mut(&key) else { return };
        let probe = matches!(punch.tactic, Some(Tactic::Probe { .. }));
        let at = dial.at.max(now);
        let until = at + if probe { PROBE_FOR } else { DIAL_FOR };
        let (peer, mode, local) = (punch.peer, punch.mode, SocketAddr::new(punch.local, dial.from));
        let role = match key.1 {
            Requester::Us => Role::Initiate(Offer { session: key.0, purpose: Purpose::Open, mode }, peer),
            Requester::Them => Role::Respond,
        };
        let sock = self.dial_for_punch(local, dial.to, [at, until], role, (key, peer, mode));
        if let Some(punch) = self.punches.get_mut(&key) {
            punch.live.insert(sock, dial);
        }
    }

    /// Nothing came of a rung.
    fn rung_over(&mut self, key: Key) {
        match key.1 {
            Requester::Us => self.punch_rung_over(key.0),
            Requester::Them => {
                let now = self.cx.now;
                let Some(punch) = self.punches.get_mut(&key) else { return };
                if punch.stage != PunchStage::Resting {
                    punch.stage = PunchStage::Resting;
                    punch.until = now + REST_FOR;
                    punch.waiting.clear();
                    punch.search = None;
                    return self.cx.timers.set(Timer::Punch(key), Some(now + REST_FOR));
                }
                // The peer has given up; streams that are saying hello go on.
                self.end_punch(key);
                if self.streams.of_session(key).next().is_none() {
                    self.agreement.abandon(key);
                }
            }
        }
    }
}

impl Punch {
    fn was_refused(&mut self) {
        self.refused += 1;
        let searches = matches!(self.tactic, Some(Tactic::Spray { .. } | Tactic::Probe { .. }));
        if searches && self.refused == REFUSALS {
            self.budget = Bucket::new(SYN_BURST, SYN_EVERY_REFUSED);
        }
        let Some(Tactic::Probe { to, low, high, .. }) = self.tactic else { return };
        // A refused probe has left no hole: one more takes its place.
        match &mut self.search {
            Some(Search::Probe { count, .. }) => *count = count.saturating_add(1),
            Some(Search::Spray { .. }) => {}
            None => {
                let (key, next) = (self.walk, self.probed);
                self.search = Some(Search::Probe { to, low, high, key, next, count: next.saturating_add(1) });
            }
        }
    }

    fn tactic(&self) -> Option<Tactic> {
        Some(punch::tactic(&self.ours, self.theirs.as_ref()?))
    }

    /// The next dial that is due.
    fn next(&mut self, now: Instant) -> Option<Planned> {
        if self.waiting.front().is_some_and(|p| p.is_due(now)) {
            return self.waiting.pop_front();
        }
        let listen = self.port;
        let (planned, left) = match self.search? {
            Search::Spray { to, left } => {
                let planned = Planned { from: 0, to, tries: 0, at: now, once: false };
                (planned, (left > 1).then(|| Search::Spray { to, left: left - 1 }))
            }
            Search::Probe { to, low, high, key, next, count } => {
                let to_port = SocketAddr::new(to, punch::nth_port(key, next, low, high));
                let planned = Planned { from: listen, to: to_port, tries: 0, at: now, once: true };
                self.probed = next.saturating_add(1);
                let rest = Search::Probe { to, low, high, key, next: self.probed, count };
                (planned, (self.probed < count).then_some(rest))
            }
        };
        self.search = left;
        Some(planned)
    }

    /// Whether the peer's ports are random, so that much depends on what our NAT lets in.
    pub(super) fn gropes(&self) -> bool {
        self.theirs.as_ref().is_some_and(|t| t.ports.is_empty())
    }

    #[cfg(test)]
    pub(super) fn announced(&self) -> &[u16] {
        &self.ours.ports
    }

    pub(super) fn local(&self) -> IpAddr {
        self.local
    }

    /// Whether another rung would end no better.
    pub(super) fn is_hopeless(&self) -> bool {
        matches!(self.tactic, Some(Tactic::Hopeless(_)))
    }

    fn describe(&self, now: Instant) -> String {
        let mut text = format!("our NAT: {}", self.ours.behaviour);
        if let Some(theirs) = &self.theirs {
            // Writing to a String cannot fail.
            let _ = write!(text, "; the peer's: {}", theirs.behaviour);
        }
        let seconds = now.since(self.began).as_millis() as f64 / 1e3;
        let range = |b: Behaviour| match b.foresight() {
            Foresight::Nothing { low, high } => u32::from(high - low) + 1,
            _ => 64_512,
        };
        let chance = |b: Behaviour| {
            let permille = punch::hit_permille(punch::SPRAY.into(), punch::PROBES.into(), range(b));
            f64::from(permille) / 10.0
        };
        let _ = match (&self.tactic, self.stage) {
            (None, PunchStage::Announced) => write!(text, "; the peer did not answer"),
            (None, _) => write!(text, "; our ports could not be told in time"),
            (Some(Tactic::Hopeless(why)), _) => write!(text, "; {why}"),
            (Some(Tactic::Meet(_)), _) => {
                write!(
                    text,
                    "; {} dials, {} of them refused, met nobody in {seconds:.1} s",
                    self.dials, self.refused
                )
            }
            (Some(Tactic::Spray { .. }), _) => {
                let p = chance(self.ours.behaviour);
                write!(text, "; {} dials for a hit at P = {p} % found nothing in {seconds:.1} s", self.dials)
            }
            (Some(Tactic::Probe { .. }), _) => {
                let p = self.theirs.as_ref().map_or(0.0, |t| chance(t.behaviour));
                write!(text, "; {} probes at P = {p} % found nothing in {seconds:.1} s", self.dials)
            }
        };
        text
    }
}

/// Whether the side that was asked dials first on this rung. A NAT that refuses strangers wants its own side first,
/// whichever that is. The first two rungs do not: the second often follows the first at once, when our own NAT
/// has been measured.
fn is_swapped(rung: u8) -> bool {
    rung > 2 && rung % 2 == 1
}

fn side_of(mappings: &Mappings) -> Option<Side> {
    let of = |i: &&crate::address::PeerInterface| {
        i.external == mappings.external || i.internal == mappings.external
    };
    let interface = mappings.address.interfaces().find(of)?;
    Some(Side {
        behaviour: mappings.behaviour,
        external: mappings.external,
        internal: interface.internal,
        ports: mappings.ports.clone(),
        listen: interface.port,
    })
}
