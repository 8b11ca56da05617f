//! TCP hole punching, on each side of it. A side announces the addresses it comes from, hears the peer's, and dials so
//! that the two NATs let the same connection through.
//!
//! The requester announces itself (INITIAL_MAPPINGS). The responder answers (UPDATED_MAPPINGS) and dials when its
//! answer should have arrived; the requester dials when it has. Every dial leaves from a port that listens too, or is
//! repeated until the rung ends. So any SYN that comes through finds somebody.

use core::time::Duration;
use std::net::{IpAddr, SocketAddr};

use smallvec::{SmallVec, smallvec};

mod state;

pub(super) use state::{Punch, PunchStage};

use state::{Planned, SILENT_DIALS, SYN_BURST, SYN_EVERY, Search, Silent};

use super::Node;
use super::admission::Trust;
use super::streams::Role;
use crate::address::{PeerAddress, PeerInterface, is_link_local};
use crate::cx::Timer;
use crate::hello::{Offer, Purpose};
use crate::identity::NodeId;
use crate::io::{IoFailure, SockId};
use crate::limit::Bucket;
use crate::nat::surveyor::Sampled;
use crate::nat::{Behaviour, DeltaType, Foresight, NatType};
use crate::notice::{Refusal, Stage, Strategy};
use crate::pipe::Terms;
use crate::random::Domain;
use crate::session::SessionId;
use crate::signal::mappings::Mappings;
use crate::signal::message::Body;
use crate::strategy::agreement::{Key, Requester};
use crate::strategy::dialler::DialEnd;
use crate::strategy::paths::Route;
use crate::strategy::punch::{self, From, Side, Tactic};

/// First rung whose dials leave from ports of their own: a stale connection may hold the listener's.
pub(super) const FRESH_FROM: u8 = 2;
/// Times that a port may be taken by a connection that is none, before it is given up.
const STUCK: u8 = 2;
/// Time of a rung on which each side knows where to dial; then the next begins at the same time.
const MEET_FOR: Duration = Duration::from_secs(2);
/// Time for which a dial is left alone, over the rungs: longer than Linux's first four SYN retransmissions, a second
/// apart.
const DIAL_FOR: Duration = Duration::from_secs(10);
/// Time of a dial for a stranger, in which Linux sends four SYNs. A rung on which each side knows where to dial is
/// shorter.
const STRANGERS_DIAL_FOR: Duration = Duration::from_millis(3500);
/// Time of a rung that searches.
const SEARCH_FOR: Duration = Duration::from_secs(10);
/// Half-open sockets of one punch.
const MAX_HALF_OPEN: usize = 1024;
/// Dials for the punches with one peer: so many at once, and as many again every two minutes. A router remembers them
/// that long.
pub(super) const MAX_DIALS: u32 = 8192;
pub(super) const DIALS_EVERY: Duration = Duration::from_micros(120_000_000 / MAX_DIALS as u64);
/// Dials of one punch with a stranger: one for each of its messages, of four SYNs. The number is small, since anybody
/// can ask.
const MAX_DIALS_STRANGER: u32 = 4;
/// Times that a refused dial is repeated at once: a constant pause locks two sides out of phase, no pause cannot
/// (simulation and kernel, ADR 13). Later repetitions come after random pauses up to this.
const AT_ONCE: u8 = 8;
const PAUSE: Duration = Duration::from_millis(200);
/// Time to wait for the peer's next rung after one of its.
const REST_FOR: Duration = Duration::from_secs(15);
/// Time to wait for a stranger's next rung: the stranger has to show itself. Two announcements are two seconds apart,
/// and their ways up to two more.
const STRANGERS_REST_FOR: Duration = Duration::from_secs(5);
const FOR_EVER: Duration = Duration::from_secs(7200);
/// Streams of one punch refused for the holes of older dials.
const MAX_TAINTED: u8 = 3;
/// Longest delay of a start that the peer asks for.
const MAX_DELAY: Duration = Duration::from_secs(2);

impl Node {
    /// Begins a rung. `theirs` is the peer's announcement, where the peer is the requester. False: there is no way to
    /// the peer.
    #[allow(clippy::too_many_arguments, reason = "called from two places, each of which knows all of it")]
    pub(super) fn begin_punch(
        &mut self,
        key: Key,
        peer: NodeId,
        terms: Terms,
        address: &PeerAddress,
        via: SmallVec<[u8; 2]>,
        rung: u8,
        theirs: Option<&Mappings>,
    ) -> bool {
        let trust = self.admission.trust(peer);
        let family =
            |v4: bool| address.interfaces().any(|i| i.external.is_ipv4() == v4 && !is_link_local(i.external));
        let fits = |r: &&Route| {
            let fits = theirs.is_none_or(|t| t.external.is_ipv4() == r.internal.is_ipv4());
            fits && family(r.internal.is_ipv4())
        };
        let Some(v4) = self.network.routes().iter().find(fits).map(|r| r.internal.is_ipv4()) else {
            return false;
        };
        let behaviour_of = |r: &Route| {
            self.network.surveyor().of(r.internal).map(|report| report.behaviour).unwrap_or_default()
        };
        let ours = self.network.routes().iter().filter(|r| r.internal.is_ipv4() == v4);
        let easiest = ours.min_by_key(|r| punch::difficulty(behaviour_of(r)));
        let Some(route) = easiest.copied() else { return false };
        let behaviour = behaviour_of(&route);
        let before = self.take_punch(key);
        let dials = before.as_ref().map_or(0, |p| p.dials);
        let asked = before.as_ref().map_or(1, |p| p.asked.saturating_add(1));
        let stalled = before.as_ref().is_some_and(|p| p.stalls);
        let (silent, proofs) = before.as_ref().map(|p| (p.silent.clone(), p.proofs)).unwrap_or_default();
        let mut took_part = before.as_ref().map(|p| p.took_part.clone()).unwrap_or_default();
        if key.1 == Requester::Us {
            // Our user has named these.
            took_part.extend(address.interfaces().flat_map(|i| [i.external, i.internal]));
        }
        let theirs_before = before.as_ref().and_then(|p| p.theirs.as_ref()).map(|t| t.behaviour);
        let took = before.as_ref().and_then(|p| p.took);
        let (stale, tainted) =
            before.as_ref().map_or_else(Default::default, |p| (p.stale.clone(), p.tainted));
        // What is under way goes on until the new rung dials: a port that falls silent meanwhile answers the
        // peer's SYN by its listener, with a sequence number that our NAT does not expect any more.
        let (mut live, mut waiting) = before.map(|p| (p.live, p.waiting)).unwrap_or_default();
        // A search leaves holes in our NAT for two minutes, in which the listener could be met by the next one.
        let searches = behaviour.filters_by_port()
            && match theirs {
                Some(theirs) => theirs.ports.is_empty(),
                None => address.interfaces().any(picks_random_ports),
            };
        let fresh = rung >= FRESH_FROM || searches;
        let counts = |b: Behaviour| matches!(b.foresight(), Foresight::Next(_));
        if counts(behaviour) || theirs_before.is_some_and(counts) {
            // Unless each dial takes one of the ports that are about to be predicted: of ours, or of the peer's, whose
            // router takes one for each RST that it answers with (Linux: seen in the lab).
            waiting.clear();
            self.close_dials(core::mem::take(&mut live).into_keys());
        }
        let surveyed = self.network.surveyor().settled();
        let listen = self.network.listen_port(route.internal.is_ipv4()).unwrap_or(0);
        let (internal, external) = (route.internal, route.external);
        let ours = Side { behaviour, external, internal, ports: SmallVec::new(), listen, others: 0 };
        let delay =
            theirs.map_or(Duration::ZERO, |t| (t.signal_delay + self.signalling.delay(&via)).min(MAX_DELAY));
        // A quarter longer: SYNs cross unless one side is later than the way is long, the asking side is late by what
        // it takes to read our answer, and our waiting costs it nothing. Not more, since the way between us may be
        // less than half as long as the one by the broker.
        let delay = delay * 5 / 4;
        let now = self.cx.now;
        let punch = Punch {
            peer,
            trust,
            terms,
            via,
            rung,
            sources: address.interfaces().flat_map(|i| [i.external, i.internal]).collect(),
            local: internal,
            stage: PunchStage::Sampling,
            ours,
            theirs: theirs.and_then(side_of),
            delay,
            began: now,
            announced: now,
            took,
            until: now + MEET_FOR,
            port: if fresh { self.cx.fresh_port() } else { listen },
            waiting,
            search: None,
            live,
            budget: Bucket::new(SYN_BURST, SYN_EVERY),
            dials,
            asked,
            silent,
            proofs,
            took_part,
            stalls: false,
            stalled,
            refused: 0,
            hurries: false,
            tactic: None,
            fresh,
            stale,
            tainted,
            walk: 0,
            probed: 0,
            surveyed,
        };
        self.punches.insert(key, Box::new(punch));
        let needed = match behaviour.foresight() {
            Foresight::Next(_) => true,
            Foresight::Measured => fresh,
            Foresight::Offset(_) | Foresight::Nothing { .. } => false,
        };
        if needed && self.network.sample(&mut self.cx, internal, key) {
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
        self.end_proofs(key);
        self.take_punch(key)
    }

    fn take_punch(&mut self, key: Key) -> Option<Box<Punch>> {
        let punch = self.punches.remove(&key)?;
        self.cx.timers.set(Timer::Punch(key), None);
        self.network.release_sample(&mut self.cx, key);
        Some(punch)
    }

    pub(super) fn punch_sampled(&mut self, sampled: Sampled) {
        if self.punches.get(&sampled.key).is_some_and(|p| p.stage == PunchStage::Sampling) {
            self.punch_announce(sampled.key, Some(sampled));
        }
    }

    /// Answers a peer that wants to punch, and dials when the answer has arrived. Our user's rules have been asked.
    pub(super) fn visit_by_punch(
        &mut self,
        peer: NodeId,
        session: SessionId,
        via: SmallVec<[u8; 2]>,
        mappings: &Mappings,
    ) {
        let key = (session, Requester::Them);
        if !self.may_punch(peer, mappings) {
            let reason = self.why_not_dialled(peer, &mappings.address, Strategy::Punch);
            return self.reply(peer, session, &via, reason);
        }
        self.agreement.open(key, peer, mappings.terms);
        let begun = self.begin_punch(
            key,
            peer,
            mappings.terms,
            &mappings.address,
            via.clone(),
            mappings.rung,
            Some(mappings),
        );
        if !begun {
            self.leave(key);
            self.reply(peer, session, &via, Body::Dialled { count: 0, dials: SmallVec::new() });
        }
    }

    /// Returns true if a tactic dials nothing for these mappings that we would not dial for the peer otherwise.
    fn may_punch(&self, peer: NodeId, mappings: &Mappings) -> bool {
        let paths = self.paths_to(peer, &mappings.address, self.admission.trust(peer));
        // There is no NAT on a link, nor do mappings have zones.
        let may = |ip: IpAddr| !is_link_local(ip) && paths.iter().any(|p| p.remote.ip() == ip);
        let Some(theirs) = side_of(mappings) else { return false };
        let shared = |r: &Route| punch::is_near(r.internal, r.external, &theirs);
        may(theirs.external) && (may(theirs.internal) || !self.network.routes().iter().any(shared))
    }

    /// Takes in the peer's answer to our announcement.
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
        if let Some((connect, n)) = self.ladder_of(session)
            && let Some(request) = self.request_of(connect, n)
        {
            request.answered = true;
        }
    }

    /// Returns the punch of ours whose other end a stream from this address may be.
    pub(super) fn awaited_from(&self, ip: IpAddr) -> Option<(Key, NodeId, Terms)> {
        self.punches
            .iter()
            .find(|(key, p)| key.1 == Requester::Us && p.sources.contains(&ip))
            .map(|(key, p)| (*key, p.peer, p.terms))
    }

    /// Returns true if a stream that our listener took would break sooner or later, since our NAT holds it for an
    /// earlier dial of ours. Such a stream is to be refused, which clears the NAT's entry too. At most three per punch.
    pub(super) fn is_tainted(&mut self, local: SocketAddr, remote: SocketAddr) -> bool {
        let of_dial = |p: &&mut Box<Punch>| p.ours.listen == local.port() && p.stale.contains(&remote);
        let Some(punch) = self.punches.values_mut().find(of_dial) else { return false };
        let open = punch.ours.behaviour == Behaviour::OPEN;
        if open || punch.tainted >= MAX_TAINTED {
            return false;
        }
        punch.tainted += 1;
        true
    }

    /// Starts the dials that are due.
    pub(super) fn drive_punch(&mut self, key: Key) {
        let now = self.cx.now;
        let mut unproven = None;
        loop {
            let Some(punch) = self.punches.get_mut(&key) else { return };
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
            if !self.admission.may_dial(now, punch.peer) {
                punch.dial_no_more();
                break;
            }
            if let Some(ip) = punch.next_silent() {
                let spent = punch.silent.values().map(|silent| silent.dials).sum::<u32>() >= SILENT_DIALS;
                if spent || !self.admission.may_dial_silent(now, punch.peer) {
                    punch.stalls = true;
                    unproven = Some(ip);
                    break;
                }
                punch.silent.entry(ip).or_insert(Silent { dials: 0, since: now }).dials += 1;
            }
            let Some(next) = punch.next(now) else { break };
            punch.dials += 1;
            self.dial_punch(key, next);
        }
        if let Some(ip) = unproven {
            self.seek_proof(key, ip);
        }
        let Some(punch) = self.punches.get_mut(&key) else { return };
        let idle = punch.live.is_empty() && punch.waiting.is_empty() && punch.search.is_none();
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
            self.cx.timers.set(Timer::Punch(key), Some(at));
        } else if punch.stage == PunchStage::Sampling {
            self.punch_announce(key, None);
        } else {
            self.rung_over(key);
        }
    }

    /// Returns true if a session is being punched.
    pub(super) fn is_punching(&self, key: Key) -> bool {
        self.punches.contains_key(&key)
    }

    /// Takes in that a stream of a punch is gone. False: the stream is no punch's.
    pub(super) fn punch_lost_stream(&mut self, key: Key, sock: SockId, why: DialEnd) -> bool {
        let now = self.cx.now;
        let Some(punch) = self.punches.get_mut(&key) else { return false };
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
            self.admission.were_not_silent(peer, silent.dials, now.since(silent.since));
        }
        let tries = dial.tries.saturating_add(1);
        let again = |after: Duration| Planned { tries, at: now + after, ..dial };
        let random = Duration::from_micros(self.cx.random.below(Domain::Punch, PAUSE.as_micros() as u64));
        let mut stuck = false;
        // Nothing was sent, so that a stranger's few dials are left for rungs that dial from elsewhere.
        if local.into_iter().any(|cause| why == DialEnd::Io(cause)) {
            punch.dials = punch.dials.saturating_sub(1);
            if let Some(silent) = punch.silent.get_mut(&ip).filter(|silent| silent.dials > 0) {
                silent.dials -= 1;
                self.admission.were_not_silent(peer, 1, Duration::ZERO);
            }
        }
        let next = match why {
            DialEnd::Io(IoFailure::AddrInUse) if dial.from != 0 => {
                Some(Planned { from: 0, ..again(Duration::ZERO) })
            }
            // Another dial of ours has drawn the same port.
            DialEnd::Io(IoFailure::AddrNotAvailable) if dial.from != punch.port => {
                Some(Planned { from: 0, ..again(Duration::ZERO) })
            }
            // Somebody owns these two ends already: a stream of the peer's that our listener took.
            DialEnd::Io(IoFailure::AddrNotAvailable) => {
                stuck = tries >= STUCK && !punch.fresh && key.1 == Requester::Us;
                Some(again(PAUSE))
            }
            DialEnd::Io(IoFailure::Resources) => Some(again(PAUSE * 2)),
            DialEnd::Io(why) => {
                if why != IoFailure::TimedOut {
                    punch.was_refused();
                }
                Some(again(if tries <= AT_ONCE { Duration::ZERO } else { random }))
            }
            DialEnd::Broken | DialEnd::Lost | DialEnd::Silent | DialEnd::Stalled => Some(again(random)),
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

    /// Notes that a peer has proved its identity on a stream: the address at the other end takes part.
    pub(super) fn punch_met(&mut self, peer: NodeId, ip: IpAddr) {
        let of_peer = self.punches.iter().filter(|(_, p)| p.peer == peer).map(|(key, _)| *key);
        let all: SmallVec<[Key; 2]> = of_peer.collect();
        for key in all {
            self.took_part(key, ip);
        }
    }

    /// Notes that somebody is at this address, in what concerns this punch.
    pub(super) fn took_part(&mut self, key: Key, ip: IpAddr) {
        let Some(punch) = self.punches.get_mut(&key) else { return };
        let (silent, goes_on) = punch.took_part(ip);
        if let Some(silent) = silent {
            self.admission.were_not_silent(punch.peer, silent.dials, self.cx.now.since(silent.since));
        }
        if goes_on {
            self.drive_punch(key);
        }
    }

    /// Describes the progress of a punch, in words.
    pub(super) fn describe_punch(&self, key: Key) -> String {
        let Some(punch) = self.punches.get(&key) else { return String::from("not begun") };
        punch.describe(self.cx.now)
    }

    /// Announces our mappings to the peer, once they are known.
    fn punch_announce(&mut self, key: Key, sampled: Option<Sampled>) {
        let now = self.cx.now;
        let Some(punch) = self.punches.get(&key) else { return };
        let signal = self.signalling.delay(&punch.via);
        let Some(punch) = self.punches.get_mut(&key) else { return };
        let report = self.network.surveyor().of(punch.local);
        // The sample may have shown that what looked like a counter is none.
        punch.ours.behaviour = report.map_or(punch.ours.behaviour, |r| r.behaviour);
        let (listen, fresh) = (punch.ours.listen, punch.fresh);
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
            Foresight::Next(step) => match (sampled, seen) {
                (Some(sampled), Some(seen)) => {
                    let others = self.network.surveyor().others(
                        punch.local,
                        sampled.at,
                        now + punch.until_dials(signal),
                    );
                    punch.ours.others = others;
                    punch::window(seen.port(), step, others)
                }
                _ => smallvec![listen],
            },
            Foresight::Nothing { .. } => SmallVec::new(),
        };
        let (peer, terms, rung, via) = (punch.peer, punch.terms, punch.rung, punch.via.clone());
        let (behaviour, external, ports) =
            (punch.ours.behaviour, punch.ours.external, punch.ours.ports.clone());
        let (delay, swapped) = (punch.delay, is_swapped(rung));
        punch.stage = PunchStage::Announced;
        // The peer's user may be asked first: the connect's own deadline ends the wait.
        punch.until = now + FOR_EVER;
        punch.announced = now;
        let signal_delay = signal;
        let address = Box::new(self.current_address());
        let mappings = Box::new(Mappings { terms, rung, behaviour, signal_delay, external, ports, address });
        match key.1 {
            Requester::Us => self.send_initial(key.0, mappings),
            Requester::Them => {
                let (session, stranger) =
                    (key.0, self.punches.get(&key).is_some_and(|p| p.trust == Trust::Stranger));
                let tactic = self.punches.get(&key).and_then(|p| p.tactic());
                let stalled = self.punches.get(&key).is_some_and(|p| p.stalled);
                let why = match tactic {
                    Some(Tactic::Spray { .. } | Tactic::Probe { .. }) if stranger => {
                        Some(Refusal::NoSearchForStrangers)
                    }
                    // The peer would search in vain.
                    _ if stalled && !self.may_seek_proof(key) => Some(Refusal::NoSearchInSilence),
                    _ => None,
                };
                if let Some(why) = why {
                    self.cx.stats.refused += 1;
                    self.leave(key);
                    self.doubt();
                    return self.reply(peer, session, &via, Body::Refused(why));
                }
                self.reply(peer, session, &via, Body::Updated(mappings));
                self.plan_punch(key, if swapped { Duration::ZERO } else { delay });
            }
        }
    }

    /// Decides what to dial, from `wait` on, once the mappings of each side are known.
    fn plan_punch(&mut self, key: Key, wait: Duration) {
        let now = self.cx.now;
        let search = self.cx.random.below(Domain::Punch, u64::MAX);
        let Some(punch) = self.punches.get_mut(&key) else { return };
        let Some(tactic) = punch.tactic() else { return };
        punch.stage = PunchStage::Punching;
        let listen = punch.port;
        let at = now + wait;
        punch.took = Some(at.since(punch.announced));
        let mut old: Vec<SockId> = punch.live.keys().copied().collect();
        punch.until = at + if matches!(tactic, Tactic::Meet(_)) { MEET_FOR } else { SEARCH_FOR };
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
                };
                punch.waiting = dials.iter().map(planned).collect();
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
        let searched = match &tactic {
            Tactic::Spray { to, .. } => Some(to.ip()),
            Tactic::Probe { to, .. } => Some(*to),
            Tactic::Meet(_) | Tactic::Hopeless(_) => None,
        };
        // The proof takes as long as the first dials do, and longer.
        let unproven = searched.filter(|ip| !punch.took_part.contains(ip));
        punch.tactic = Some(tactic);
        let gone: Vec<Planned> = old.iter().filter_map(|sock| punch.live.remove(sock)).collect();
        for dial in gone {
            punch.leaves_hole(dial);
        }
        self.close_dials(old.into_iter());
        self.stage(Some(key), Strategy::Punch, Stage::Punching { rung });
        if let Some(ip) = unproven {
            self.seek_proof(key, ip);
        }
        self.drive_punch(key);
    }

    fn dial_punch(&mut self, key: Key, mut dial: Planned) {
        if dial.from == 0 {
            dial.from = self.cx.fresh_port();
        }
        let now = self.cx.now;
        let Some(punch) = self.punches.get_mut(&key) else { return };
        let at = dial.at.max(now);
        let stranger = key.1 == Requester::Them && punch.trust == Trust::Stranger;
        let until = at + if stranger { STRANGERS_DIAL_FOR } else { DIAL_FOR };
        let (peer, terms, local) = (punch.peer, punch.terms, SocketAddr::new(punch.local, dial.from));
        let role = match key.1 {
            Requester::Us => Role::Initiate(Offer { session: key.0, purpose: Purpose::Open, terms }, peer),
            Requester::Them => Role::Respond,
        };
        let sock = self.dial_for_punch(local, dial.to, [at, until], role, (key, peer, terms));
        if let Some(punch) = self.punches.get_mut(&key) {
            punch.live.insert(sock, dial);
        }
    }

    /// Ends our part in a punch that we will not or cannot do. The session is not over: the peer may ask for a dial or
    /// to its relay next.
    fn leave(&mut self, key: Key) {
        self.end_punch(key);
        self.forget_visit(key);
    }

    /// Ends a rung that came to nothing.
    fn rung_over(&mut self, key: Key) {
        match key.1 {
            Requester::Us => self.punch_rung_over(key.0),
            Requester::Them => {
                let now = self.cx.now;
                let Some(punch) = self.punches.get_mut(&key) else { return };
                if punch.stage != PunchStage::Resting {
                    punch.stage = PunchStage::Resting;
                    let rest = if punch.trust == Trust::Known { REST_FOR } else { STRANGERS_REST_FOR };
                    punch.until = now + rest;
                    punch.dial_no_more();
                    return self.cx.timers.set(Timer::Punch(key), Some(now + rest));
                }
                // The peer has given up; streams that are saying hello go on.
                self.leave(key);
            }
        }
    }
}

/// Returns true if an interface's NAT takes a random port for each destination, as far as its address says.
fn picks_random_ports(interface: &PeerInterface) -> bool {
    interface.nat == NatType::Symmetric && interface.delta.kind == DeltaType::Random
}

/// Returns true if the responder dials first on this rung. A NAT that refuses strangers wants its own side first,
/// whichever that is. The first two rungs are not swapped: the second often follows the first at once, when our own NAT
/// has been measured.
fn is_swapped(rung: u8) -> bool {
    rung > 2 && rung % 2 == 1
}

fn side_of(mappings: &Mappings) -> Option<Side> {
    let of = |i: &&PeerInterface| i.external == mappings.external || i.internal == mappings.external;
    let interface = mappings.address.interfaces().find(of)?;
    Some(Side {
        behaviour: mappings.behaviour,
        external: mappings.external,
        internal: interface.internal,
        ports: mappings.ports.clone(),
        listen: interface.port,
        others: 0,
    })
}
