//! Calls of `connect()`: the strategies of one plan, raced under one deadline.

use core::fmt::Write;
use core::time::Duration;
use std::net::SocketAddr;

use smallvec::SmallVec;

use super::Node;
use super::admission::Trust;
use super::advice::Heard;
use super::asking::Ladder;
use super::relaying::Relaying;
use super::requests::Request;
use crate::address::{PeerAddress, PeerInterface, is_link_local};
use crate::config::Plan;
use crate::cx::Timer;
use crate::identity::NodeId;
use crate::io::{IoFailure, SockId};
use crate::nat::NatType;
use crate::notice::{
    Advice, ConnectId, FailReason, Notice, Outcome, Refusal, Report, Stage, Strategy, StrategyReport,
};
use crate::pipe::Terms;
use crate::portmap::Scope;
use crate::random::Domain;
use crate::session::SessionId;
use crate::signal::message::{Body, MessageId};
use crate::strategy::agreement::{Key, Requester};
use crate::strategy::dialler::{DialEnd, Dialler};
use crate::strategy::paths;
use crate::time::Instant;

/// Delay between the starts of two strategies, where the first is likely to work by itself. Where it is not, the next
/// starts at once: it costs one message.
const HEAD_START: Duration = Duration::from_millis(250);
/// Interval of the checks whether the peer's own call may still answer ours.
const GLARE_CHECK: Duration = Duration::from_millis(50);
/// A plan's timeout is cut to this.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);
/// Delay after which a call asks to be dialled at the known addresses though no STUN server has answered. There may
/// be no server, and the peer may be within reach all the same. Once a server has answered, the call asks again.
const OUTSIDE_WITHIN: Duration = Duration::from_secs(1);
/// A relay costs whoever runs it: others have so long before.
const BEFORE_RELAY: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(super) struct Attempt {
    session: SessionId,
    pub(super) peer: NodeId,
    address: PeerAddress,
    plan: Plan,
    started: Instant,
    deadline: Instant,
    runs: SmallVec<[Run; 2]>,
    /// The peer's clock minus ours, in microseconds, once it told us.
    pub(super) clock_offset: Option<i64>,
    /// The call has its pipe, over a relay, and looks for a better path.
    answered: bool,
    /// Answers of the peer over the brokers.
    pub(super) heard: Heard,
    /// A dial was refused by the peer's system, or by something on the way.
    dial_refused: bool,
}

#[derive(Debug)]
struct Run {
    strategy: Strategy,
    state: RunState,
}

#[derive(Debug)]
pub(super) enum RunState {
    Pending { at: Instant },
    Direct(Box<Dialler>),
    Reverse(Reverse),
    Punch(Box<Ladder>),
    Relay(Box<Relaying>),
    Ended { outcome: Outcome, detail: String },
}

/// The reverse strategy, from the wish to the peer's dial.
#[derive(Debug)]
pub(super) struct Reverse {
    pub(super) request: Option<Request>,
    told_waiting: bool,
    /// The request was made before our outside address was known.
    early: bool,
    /// Number of our addresses that the peer said it dials.
    peer_dials: Option<u8>,
}

impl Node {
    pub(super) fn fresh_connect(&mut self) -> ConnectId {
        let id = ConnectId(self.next_connect);
        self.next_connect += 1;
        id
    }

    pub(super) fn begin(&mut self, id: ConnectId, peer: NodeId, to: &PeerAddress, plan: Plan) {
        let now = self.cx.now;
        let session = SessionId(self.cx.random.bytes(Domain::SessionId));
        self.admission.call_began(peer);
        self.sessions.open((session, Requester::Us), peer, plan.terms());
        // A peer that no NAT hides, or that is near, will be reached directly: reverse may wait a moment.
        let open = |i: &PeerInterface| i.nat == NatType::OpenInternet && !is_link_local(i.external);
        let likely = to.interfaces().any(open)
            || paths::to_peer(
                &self.network.ours(),
                self.network.links(),
                to,
                self.is_oneself(peer),
                Trust::Known,
            )
            .first()
            .is_some_and(|p| p.local);
        let mut at = now;
        let mut runs: SmallVec<[Run; 2]> = SmallVec::new();
        // Where no NAT hides us, the peer's dial needs no hole.
        let open = !self.network.routes().is_empty()
            && self.network.routes().iter().all(|r| r.external == r.internal);
        for strategy in &plan.strategies {
            if runs.iter().all(|r| r.strategy != *strategy) {
                if *strategy == Strategy::Punch && open && !runs.is_empty() {
                    at = at + HEAD_START;
                }
                let mut at_its_turn = at;
                if *strategy == Strategy::Relay && plan.relay_first {
                    at_its_turn = now;
                } else if *strategy == Strategy::Relay
                    && !self.config.turn.is_empty()
                    && plan.strategies.len() > 1
                {
                    at_its_turn = now + BEFORE_RELAY;
                }
                runs.push(Run { strategy: *strategy, state: RunState::Pending { at: at_its_turn } });
                at = at + if likely { HEAD_START } else { Duration::ZERO };
            }
        }
        let deadline = now + plan.timeout.min(MAX_TIMEOUT);
        let address = to.clone();
        let attempt = Attempt {
            session,
            peer,
            address,
            plan,
            started: now,
            deadline,
            runs,
            clock_offset: None,
            answered: false,
            heard: Heard::default(),
            dial_refused: false,
        };
        self.attempts.insert(id, Box::new(attempt));
        self.by_session.insert(session, id);
        self.drive_attempt(id);
    }

    pub(super) fn cancel_attempt(&mut self, connect: ConnectId) {
        let waits = self.attempts.get(&connect).is_some_and(|a| !a.answered);
        if waits && let Some(attempt) = self.take_attempt(connect) {
            self.abandon((attempt.session, Requester::Us), attempt.peer);
        }
    }

    /// Goes on under another session, without the streams of this one.
    pub(super) fn renew_session(&mut self, connect: ConnectId) {
        let fresh = SessionId(self.cx.random.bytes(Domain::SessionId));
        let Some(attempt) = self.attempts.get_mut(&connect) else { return };
        let (old, peer, terms) =
            (core::mem::replace(&mut attempt.session, fresh), attempt.peer, attempt.plan.terms());
        self.by_session.remove(&old);
        self.by_session.insert(fresh, connect);
        self.abandon((old, Requester::Us), peer);
        self.sessions.open((fresh, Requester::Us), peer, terms);
    }

    fn take_attempt(&mut self, connect: ConnectId) -> Option<Attempt> {
        let attempt = self.attempts.remove(&connect)?;
        self.by_session.remove(&attempt.session);
        self.cx.timers.set(Timer::Connect(connect), None);
        self.admission.call_ended(attempt.peer);
        Some(*attempt)
    }

    /// Ends a session without a pipe, with every stream of it.
    pub(super) fn abandon(&mut self, key: Key, peer: NodeId) {
        self.end_punch(key);
        self.end_relay(key);
        self.sessions.abandon(&mut self.cx, key, peer);
    }

    /// Takes out the attempt that a pipe answers: its id, if it was not answered before, and when it began.
    pub(super) fn end_attempt_of(&mut self, session: SessionId) -> Option<(Option<ConnectId>, Instant)> {
        let connect = self.connect_of(session)?;
        let attempt = self.take_attempt(connect)?;
        Some(((!attempt.answered).then_some(connect), attempt.started))
    }

    /// The relay has answered an attempt, whose other strategies go on: its id and when it began.
    pub(super) fn answer_attempt_of(&mut self, session: SessionId) -> Option<(ConnectId, Instant)> {
        let connect = self.connect_of(session)?;
        let attempt = self.attempts.get_mut(&connect)?;
        attempt.answered = true;
        if let Some(run) = attempt.runs.iter_mut().find(|r| r.strategy == Strategy::Relay) {
            run.state = RunState::Ended { outcome: Outcome::Won, detail: String::new() };
        }
        // What is left may be nothing, which is seen when this is over.
        self.cx.timers.set(Timer::Connect(connect), Some(self.cx.now));
        Some((connect, attempt.started))
    }

    pub(super) fn fail_attempt(&mut self, connect: ConnectId, reason: FailReason) {
        let Some(session) = self.attempts.get(&connect).map(|a| a.session) else { return };
        if let Some((_, n)) = self.ladder_of(session)
            && self.is_punching((session, Requester::Us))
        {
            let detail = self.describe_punch((session, Requester::Us));
            if let Some(ladder) = self.ladder(connect, n) {
                ladder.detail = detail;
            }
        }
        let relaying = self.attempts.get(&connect).and_then(|a| {
            a.runs.iter().find_map(|r| match &r.state {
                RunState::Relay(relaying) => Some(self.describe_relaying(relaying)),
                _ => None,
            })
        });
        let Some(attempt) = self.take_attempt(connect) else { return };
        if reason != FailReason::Shutdown {
            self.doubt();
        }
        let advice = self.advice(&attempt, reason);
        let report = Box::new(attempt.report(self.cx.now, relaying, advice));
        match (attempt.answered, reason) {
            (false, _) => self.cx.notify(Notice::Failed { connect, reason, report }),
            (true, FailReason::Shutdown) => {}
            (true, _) => self.cx.notify(Notice::StaysRelayed { connect, reason, report }),
        }
        self.abandon((attempt.session, Requester::Us), attempt.peer);
    }

    /// Wakes the attempts that wait for a change: a broker is ready, or our address is known.
    pub(super) fn poke_attempts(&mut self) {
        let early = |r: &Run| matches!(&r.state, RunState::Reverse(reverse) if reverse.early);
        let waits = |r: &Run| matches!(r.state.asked(), Some(None)) || early(r);
        let waiting: Vec<ConnectId> =
            self.attempts.iter().filter(|(_, a)| a.runs.iter().any(waits)).map(|(id, _)| *id).collect();
        for connect in waiting {
            self.drive_attempt(connect);
        }
    }

    /// Starts what is due, and ends the attempt if nothing is left.
    pub(super) fn drive_attempt(&mut self, connect: ConnectId) {
        let now = self.cx.now;
        let Some(deadline) = self.attempts.get(&connect).map(|a| a.deadline) else { return };
        if deadline <= now {
            return self.fail_attempt(connect, FailReason::DeadlinePassed);
        }
        let waits = self.waits_for_nat64(connect);
        let mut n = 0;
        while let Some(run) = self.attempts.get_mut(&connect).and_then(|a| a.runs.get_mut(n)) {
            if let RunState::Pending { at } = run.state
                && at <= now
                && !waits
            {
                let strategy = run.strategy;
                let state = self.start_strategy(connect, strategy);
                self.set_run(connect, n, state);
            }
            self.drive_run(connect, n);
            n += 1;
        }
        self.conclude(connect);
    }

    fn start_strategy(&mut self, connect: ConnectId, strategy: Strategy) -> RunState {
        let skipped = |detail: String| RunState::Ended { outcome: Outcome::Skipped, detail };
        let Some(attempt) = self.attempts.get(&connect) else { return skipped(String::new()) };
        let state = match strategy {
            Strategy::Direct => {
                let oneself = attempt.peer == self.node_id();
                let paths = paths::to_peer(
                    &self.network.ours(),
                    self.network.links(),
                    &attempt.address,
                    oneself,
                    Trust::Known,
                );
                if paths.is_empty() {
                    skipped(self.why_no_path(&attempt.address))
                } else {
                    RunState::Direct(Box::new(Dialler::new(paths, self.cx.now).insisting()))
                }
            }
            Strategy::Reverse => match self.why_no_signal(attempt.peer, &attempt.address) {
                Some(why) => skipped(why),
                None => RunState::Reverse(Reverse {
                    request: None,
                    told_waiting: false,
                    early: false,
                    peer_dials: None,
                }),
            },
            Strategy::Punch if self.is_oneself(attempt.peer) => skipped("it is us".into()),
            Strategy::Punch => match self.why_no_signal(attempt.peer, &attempt.address) {
                Some(why) => skipped(why),
                None => RunState::Punch(Box::default()),
            },
            Strategy::Relay if self.is_oneself(attempt.peer) => skipped("it is us".into()),
            Strategy::Relay if self.config.turn.is_empty() => skipped("no TURN server is configured".into()),
            Strategy::Relay if !self.has_relay_room(Trust::Known) => {
                skipped("too many relays are open".into())
            }
            Strategy::Relay => match self.why_no_broker(attempt.peer, &attempt.address) {
                Some(why) => skipped(why),
                None => match self.begin_relaying(connect) {
                    Some(relaying) => RunState::Relay(Box::new(relaying)),
                    None => skipped(String::new()),
                },
            },
        };
        if !matches!(state, RunState::Ended { .. }) {
            self.cx.notify(Notice::Progress { connect, strategy, stage: Stage::Started });
        }
        state
    }

    pub(super) fn set_run(&mut self, connect: ConnectId, n: usize, state: RunState) {
        let now = self.cx.now;
        let Some(attempt) = self.attempts.get_mut(&connect) else { return };
        let ended = matches!(state, RunState::Ended { .. });
        if let Some(run) = attempt.runs.get_mut(n) {
            run.state = state;
        }
        if ended {
            // Whoever was to wait for this one need not.
            let others = attempt.runs.iter().filter(|r| r.strategy != Strategy::Relay);
            let alone = others.clone().all(|r| matches!(r.state, RunState::Ended { .. }));
            for run in &mut attempt.runs {
                if let RunState::Pending { at } = &mut run.state
                    && (alone || run.strategy != Strategy::Relay)
                {
                    *at = now;
                    break;
                }
            }
        }
    }

    pub(super) fn drive_run(&mut self, connect: ConnectId, n: usize) {
        let Some(attempt) = self.attempts.get_mut(&connect) else { return };
        let (key, peer, terms) = ((attempt.session, Requester::Us), attempt.peer, attempt.plan.terms());
        match attempt.runs.get_mut(n).map(|r| &mut r.state) {
            Some(RunState::Direct(dialler)) => {
                let Some(path) = dialler.due(self.cx.now) else {
                    if dialler.is_exhausted() {
                        let detail = dialler.describe();
                        self.set_run(connect, n, RunState::Ended { outcome: Outcome::Failed, detail });
                    }
                    return;
                };
                let sock = self.dial_path(path, key, peer, terms);
                let now = self.cx.now;
                let run = self.attempts.get_mut(&connect).and_then(|a| a.runs.get_mut(n));
                if let Some(Run { state: RunState::Direct(dialler), .. }) = run {
                    dialler.started(sock, path, now);
                }
                let stage = Stage::Dialling(path.remote);
                self.cx.notify(Notice::Progress { connect, strategy: Strategy::Direct, stage });
                self.drive_run(connect, n);
            }
            Some(RunState::Reverse(_)) => self.drive_reverse(connect, n),
            Some(RunState::Punch(_)) => self.drive_ladder(connect, n),
            Some(RunState::Relay(_)) => self.drive_relaying(connect, n),
            _ => {}
        }
    }

    /// The strategies of calls whose peers are told of over this broker.
    pub(super) fn runs_over(&self, place: u8) -> Vec<(ConnectId, usize)> {
        let over =
            self.attempts.iter().filter(|(_, a)| self.signalling.shared_with(&a.address).contains(&place));
        over.flat_map(|(id, a)| (0..a.runs.len()).map(|n| (*id, n))).collect()
    }

    /// Sends the request, or sends it again.
    fn drive_reverse(&mut self, connect: ConnectId, n: usize) {
        let Some(attempt) = self.attempts.get(&connect) else { return };
        let (peer, terms) = (attempt.peer, attempt.plan.terms());
        let ready =
            self.is_oneself(peer) || self.signalling.is_ready(&self.signalling.shared_with(&attempt.address));
        let late = attempt.started + OUTSIDE_WITHIN <= self.cx.now && self.network.listeners_are_open();
        let known = self.is_known_where_to_dial(&attempt.address, peer);
        let heard_of = self.sessions.has_accepted((attempt.session, Requester::Us));
        let Some(reverse) = self.reverse(connect, n) else { return };
        if known && core::mem::take(&mut reverse.early) && !heard_of {
            (reverse.request, reverse.peer_dials) = (None, None);
        }
        match &reverse.request {
            Some(_) => self.repeat_request(connect, n),
            None if (known || (late && !reverse.early)) && ready => {
                reverse.early = !known;
                let body = Body::Direct { terms, address: Box::new(self.current_address()) };
                let request = self.request(connect, Strategy::Reverse, body);
                if let Some(reverse) = self.reverse(connect, n) {
                    reverse.request = request;
                }
            }
            None => {
                if !core::mem::replace(&mut reverse.told_waiting, true) {
                    let stage = Stage::AwaitingBroker;
                    self.cx.notify(Notice::Progress { connect, strategy: Strategy::Reverse, stage });
                }
            }
        }
    }

    /// Returns true if an address of ours that the peer may dial is known: outside addresses matter to whoever is
    /// outside.
    fn is_known_where_to_dial(&self, to: &PeerAddress, peer: NodeId) -> bool {
        let near = || {
            let oneself = self.is_oneself(peer);
            let paths = paths::to_peer(&self.network.ours(), self.network.links(), to, oneself, Trust::Known);
            paths.first().is_some_and(|p| p.local)
        };
        let open = || {
            !self.network.routes().is_empty()
                && self.network.routes().iter().all(|r| Scope::of(r.internal) == Scope::Public)
        };
        let known = self.network.listeners_are_open() && !self.network.is_asking_nat64();
        known && (self.network.outside_is_heard() || open() || near())
    }

    /// Returns true while nobody knows whether an IPv4 peer can be reached at all.
    fn waits_for_nat64(&self, connect: ConnectId) -> bool {
        let Some(attempt) = self.attempts.get(&connect).filter(|_| self.network.is_asking_nat64()) else {
            return false;
        };
        let (to, oneself) = (&attempt.address, self.is_oneself(attempt.peer));
        let paths = || paths::to_peer(&self.network.ours(), self.network.links(), to, oneself, Trust::Known);
        to.v6().is_empty() && !paths().first().is_some_and(|p| p.local)
    }

    /// Goes on with every attempt, once the wait for the NAT64 is over.
    pub(super) fn drive_attempts(&mut self) {
        for connect in self.attempts.keys().copied().collect::<Vec<_>>() {
            self.drive_attempt(connect);
        }
    }

    /// Arms the attempt's timer, or ends it when every strategy has.
    fn conclude(&mut self, connect: ConnectId) {
        let now = self.cx.now;
        let Some(attempt) = self.attempts.get(&connect) else { return };
        if attempt.runs.iter().all(|r| matches!(r.state, RunState::Ended { .. })) {
            if self.sessions.may_be_settled((attempt.session, Requester::Us)) {
                let again = (self.cx.now + GLARE_CHECK).min(attempt.deadline);
                return self.cx.timers.set(Timer::Connect(connect), Some(again));
            }
            return self.fail_attempt(connect, FailReason::AllStrategiesFailed);
        }
        let waits = self.waits_for_nat64(connect);
        let next = attempt.runs.iter().filter_map(|r| match &r.state {
            RunState::Pending { at } => Some(*at).filter(|at| *at > now || !waits),
            RunState::Direct(dialler) => dialler.next(),
            RunState::Reverse(Reverse { request: None, early: false, .. }) => {
                Some(attempt.started + OUTSIDE_WITHIN).filter(|at| *at > now)
            }
            state => state.asked().flatten().and_then(Request::due).filter(|at| *at > now),
        });
        let at = next.min().unwrap_or(attempt.deadline).min(attempt.deadline);
        self.cx.timers.set(Timer::Connect(connect), Some(at));
    }

    /// A stream of an attempt is gone.
    pub(super) fn attempt_lost_stream(&mut self, key: Key, sock: SockId, remote: SocketAddr, why: DialEnd) {
        let now = self.cx.now;
        let Some(connect) = self.connect_of(key.0) else { return };
        let Some(attempt) = self.attempts.get_mut(&connect) else { return };
        let ours = attempt.runs.iter_mut().any(|run| match &mut run.state {
            RunState::Direct(dialler) => dialler.ended(sock, why, now),
            _ => false,
        });
        if ours && let DialEnd::Io(why) = why {
            let stage = Stage::DialFailed(remote, why);
            self.cx.notify(Notice::Progress { connect, strategy: Strategy::Direct, stage });
        }
        attempt.dial_refused |= why == DialEnd::Io(IoFailure::Refused);
        if let DialEnd::Refused(why) = why {
            attempt.heard.note(Some(why));
        }
        match why {
            // No other stream would fare better.
            DialEnd::Refused(
                why @ (Refusal::NotAccepted | Refusal::PlainNotAllowed | Refusal::ProtocolNotTaken),
            ) => {
                self.fail_attempt(connect, FailReason::RefusedByPeer(why));
            }
            _ => self.drive_attempt(connect),
        }
    }

    /// The peer says that it dials us.
    pub(super) fn peer_dials(&mut self, peer: NodeId, session: SessionId, count: u8) {
        let Some((connect, n)) = self.reverse_of(peer, session) else { return };
        if let Some(reverse) = self.reverse(connect, n) {
            reverse.peer_dials = Some(count);
            if let Some(request) = &mut reverse.request {
                request.answered = true;
            }
        }
        let stage = Stage::PeerDials;
        self.cx.notify(Notice::Progress { connect, strategy: Strategy::Reverse, stage });
        self.drive_attempt(connect);
    }

    /// The peer says that its dials failed.
    pub(super) fn peer_dialled(
        &mut self,
        peer: NodeId,
        session: SessionId,
        count: u8,
        dials: &[(SocketAddr, IoFailure)],
    ) {
        let Some((connect, n)) = self.reverse_of(peer, session) else { return };
        if self.sessions.has_accepted((session, Requester::Us)) || self.will_ask_again(connect, n) {
            return;
        }
        let mut detail = String::from("the peer dialled us without success");
        for (k, (to, why)) in dials.iter().enumerate() {
            let _ = write!(detail, "{} {to}: {why}", if k == 0 { ":" } else { ";" });
        }
        if dials.is_empty() && count > 0 {
            detail = format!(
                "the peer dialled {count} address(es) of ours without success, and tells strangers no more"
            );
        } else if dials.is_empty() {
            detail = String::from("the peer found no address of ours that it could dial");
        } else if dials.iter().any(|(_, why)| *why == IoFailure::TimedOut) {
            detail.push_str(" (our NAT or firewall does not let it in)");
        }
        self.set_run(connect, n, RunState::Ended { outcome: Outcome::Failed, detail });
        self.drive_attempt(connect);
    }

    /// The peer refuses to dial us.
    pub(super) fn peer_refused(&mut self, peer: NodeId, session: SessionId, why: Refusal) {
        let Some(connect) = self.connect_of(session) else { return };
        let Some(attempt) = self.attempts.get(&connect).filter(|a| a.peer == peer) else { return };
        let asked = |r: &Run| match &r.state {
            RunState::Relay(relaying) if relaying.request.is_none() => false,
            RunState::Reverse(_) | RunState::Punch(_) | RunState::Relay(_) => match why {
                Refusal::NoSearchForStrangers | Refusal::NoSearchInSilence => r.strategy == Strategy::Punch,
                Refusal::PrivateForStrangers { asked } => r.strategy == asked,
                _ => true,
            },
            _ => false,
        };
        let detail = match why {
            Refusal::PrivateForStrangers { .. } => format!(
                "the peer dials nothing inside for strangers: ask its owner for `--accept {}`, or connect from where it \
                 can be dialled",
                self.node_id()
            ),
            why => format!("the peer refused: {why}"),
        };
        let runs: SmallVec<[usize; 2]> =
            attempt.runs.iter().enumerate().filter(|(_, r)| asked(r)).map(|(n, _)| n).collect();
        // The refusal of an early request is no outcome, since another one follows.
        let mut early = false;
        for n in runs {
            if matches!(why, Refusal::PrivateForStrangers { .. }) && self.will_ask_again(connect, n) {
                early = true;
                continue;
            }
            let detail = detail.clone();
            self.set_run(connect, n, RunState::Ended { outcome: Outcome::Failed, detail });
        }
        let ends = !early && why != Refusal::NoSearchInSilence;
        self.heard_of(peer, session, ends.then_some(why));
        if self.ladder_of(session).is_none() {
            self.end_punch((session, Requester::Us));
        }
        if self.relaying_of(session).is_none() {
            self.end_relay((session, Requester::Us));
        }
        if matches!(why, Refusal::NotAccepted | Refusal::PlainNotAllowed | Refusal::ProtocolNotTaken) {
            return self.fail_attempt(connect, FailReason::RefusedByPeer(why));
        }
        self.drive_attempt(connect);
    }

    /// The peer's clock shows another time than ours: asks once more, in its time.
    pub(super) fn correct_clock(&mut self, peer: NodeId, about: MessageId, offset: i64) {
        let Some(connect) = self.asked_by(peer, about) else { return };
        let attempt = self.attempts.get_mut(&connect).filter(|a| a.clock_offset.is_none());
        let Some(attempt) = attempt else { return };
        attempt.clock_offset = Some(offset);
        let (session, mut punch) = (attempt.session, false);
        // Whatever else was sent in the wrong time was not heard either.
        for run in &mut attempt.runs {
            match &mut run.state {
                RunState::Reverse(reverse) => reverse.request = None,
                RunState::Punch(ladder) => punch = ladder.request.is_some(),
                RunState::Relay(relaying) => relaying.request = None,
                _ => {}
            }
        }
        if punch {
            self.punch_rung_over(session);
        }
        self.drive_attempt(connect);
    }

    /// The peer could not read our request with this id: it speaks another version.
    pub(super) fn version_refused(&mut self, peer: NodeId, about: MessageId, version: u8) {
        let session =
            self.asked_by(peer, about).and_then(|connect| self.attempts.get(&connect)).map(|a| a.session);
        if let Some(session) = session {
            self.peer_refused(peer, session, Refusal::Version { ours: version });
        }
    }

    /// A broker took a request of a call of ours.
    pub(super) fn asked_of(&mut self, connect: ConnectId) {
        if let Some(attempt) = self.attempts.get_mut(&connect) {
            attempt.heard.asked();
        }
    }

    /// The peer answered a request of a call of ours, by a refusal or otherwise.
    pub(super) fn heard_of(&mut self, peer: NodeId, session: SessionId, refusal: Option<Refusal>) {
        let Some(connect) = self.connect_of(session) else { return };
        if let Some(attempt) = self.attempts.get_mut(&connect).filter(|a| a.peer == peer) {
            attempt.heard.note(refusal);
        }
    }

    /// The connect to this peer whose request has this id.
    fn asked_by(&self, peer: NodeId, about: MessageId) -> Option<ConnectId> {
        let asked = |r: &Run| r.state.asked().flatten().is_some_and(|r| r.id == about);
        self.attempts.iter().find(|(_, a)| a.peer == peer && a.runs.iter().any(asked)).map(|(id, _)| *id)
    }

    /// The peer's clock minus ours, where a connect to it has learned that.
    pub(super) fn clock_offset_of(&self, peer: NodeId) -> i64 {
        self.attempts.values().filter(|a| a.peer == peer).find_map(|a| a.clock_offset).unwrap_or(0)
    }

    /// Tells the user how far a session of ours has come.
    pub(super) fn stage(&mut self, key: Option<Key>, strategy: Strategy, stage: Stage) {
        if let Some((session, Requester::Us)) = key
            && let Some(connect) = self.connect_of(session)
        {
            self.cx.notify(Notice::Progress { connect, strategy, stage });
        }
    }

    /// Returns true if a call of ours to this peer runs under this session.
    pub(super) fn is_call_to(&self, peer: NodeId, session: SessionId) -> bool {
        self.connect_of(session).and_then(|id| self.attempts.get(&id)).is_some_and(|a| a.peer == peer)
    }

    fn connect_of(&self, session: SessionId) -> Option<ConnectId> {
        self.by_session.get(&session).copied()
    }

    /// The session of a connect, its peer, the brokers that reach it, and the deadline.
    pub(super) fn signalling_of(
        &self,
        connect: ConnectId,
    ) -> Option<(SessionId, NodeId, SmallVec<[u8; 2]>, Instant)> {
        let attempt = self.attempts.get(&connect)?;
        Some((attempt.session, attempt.peer, self.signalling.shared_with(&attempt.address), attempt.deadline))
    }

    /// A connect's address and mode, and whether its relay comes first.
    pub(super) fn plan_of(&self, connect: ConnectId) -> Option<(PeerAddress, Terms, bool)> {
        self.attempts.get(&connect).map(|a| (a.address.clone(), a.plan.terms(), a.plan.relay_first))
    }

    pub(super) fn ladder_of(&self, session: SessionId) -> Option<(ConnectId, usize)> {
        let connect = self.connect_of(session)?;
        let runs = &self.attempts.get(&connect)?.runs;
        let n = runs.iter().position(|r| matches!(r.state, RunState::Punch(_)))?;
        Some((connect, n))
    }

    pub(super) fn ladder(&mut self, connect: ConnectId, n: usize) -> Option<&mut Ladder> {
        match self.run_state(connect, n)? {
            RunState::Punch(ladder) => Some(ladder),
            _ => None,
        }
    }

    pub(super) fn relaying_of(&self, session: SessionId) -> Option<(ConnectId, usize)> {
        let connect = self.connect_of(session)?;
        let runs = &self.attempts.get(&connect)?.runs;
        let n = runs.iter().position(|r| matches!(r.state, RunState::Relay(_)))?;
        Some((connect, n))
    }

    pub(super) fn relaying(&mut self, connect: ConnectId, n: usize) -> Option<&mut Relaying> {
        match self.run_state(connect, n)? {
            RunState::Relay(relaying) => Some(relaying),
            _ => None,
        }
    }

    pub(super) fn relaying_at(&self, connect: ConnectId, n: usize) -> Option<&Relaying> {
        match self.attempts.get(&connect)?.runs.get(n).map(|r| &r.state) {
            Some(RunState::Relay(relaying)) => Some(relaying),
            _ => None,
        }
    }

    pub(super) fn run_state(&mut self, connect: ConnectId, n: usize) -> Option<&mut RunState> {
        self.attempts.get_mut(&connect)?.runs.get_mut(n).map(|r| &mut r.state)
    }

    fn reverse_of(&self, peer: NodeId, session: SessionId) -> Option<(ConnectId, usize)> {
        let connect = self.connect_of(session)?;
        let attempt = self.attempts.get(&connect).filter(|a| a.peer == peer)?;
        let n = attempt.runs.iter().position(|r| matches!(r.state, RunState::Reverse(_)))?;
        Some((connect, n))
    }

    /// Returns true if the request that the peer has answered was an early one, so that another one follows.
    fn will_ask_again(&mut self, connect: ConnectId, n: usize) -> bool {
        let Some(reverse) = self.reverse(connect, n).filter(|r| r.early) else { return false };
        (reverse.request, reverse.peer_dials) = (None, None);
        true
    }

    fn reverse(&mut self, connect: ConnectId, n: usize) -> Option<&mut Reverse> {
        match self.run_state(connect, n)? {
            RunState::Reverse(reverse) => Some(reverse),
            _ => None,
        }
    }

    pub(super) fn why_no_path(&self, to: &PeerAddress) -> String {
        let [v4, v6] = self.network.families();
        match (to.v4().is_empty(), to.v6().is_empty()) {
            (true, true) => "the peer announces no interface".into(),
            (false, true) if !v4 => "the peer has IPv4 only, and we have none".into(),
            (true, false) if !v6 && self.network.links().is_empty() => {
                "the peer has IPv6 only, and we have none".into()
            }
            (true, false) if !v6 => "the peer has IPv6 only, and we have link-local addresses only".into(),
            _ => "none of the peer's addresses can be reached from here".into(),
        }
    }

    /// Returns the reason for which the peer cannot be asked to dial us, if there is one.
    fn why_no_signal(&self, peer: NodeId, to: &PeerAddress) -> Option<String> {
        if self.network.listeners_failed() {
            return Some("we do not listen, so the peer could not dial us".into());
        }
        self.why_no_broker(peer, to)
    }

    /// Returns the reason for which the peer cannot be asked for anything, if there is one.
    pub(super) fn why_no_broker(&self, peer: NodeId, to: &PeerAddress) -> Option<String> {
        if self.is_oneself(peer) {
            return None;
        }
        if self.signalling.len() == 0 {
            return Some("no broker is configured".into());
        }
        if self.signalling.shared_with(to).is_empty() {
            let ids: Vec<String> = to.brokers().iter().map(u16::to_string).collect();
            return Some(match ids.is_empty() {
                true => "the peer announces no broker".into(),
                false => format!("the peer's brokers ({}) are not in our server list", ids.join(", ")),
            });
        }
        None
    }
}

impl Attempt {
    pub(super) fn session(&self) -> SessionId {
        self.session
    }

    pub(super) fn address(&self) -> &PeerAddress {
        &self.address
    }

    pub(super) fn has(&self, strategy: Strategy) -> bool {
        self.runs.iter().any(|run| run.strategy == strategy)
    }

    pub(super) fn is_dial_refused(&self) -> bool {
        self.dial_refused
    }

    /// Tries again, after a change of our network, the strategies that ran from the old one.
    /// They wait for a network while there is none.
    pub(super) fn roam(&mut self, now: Instant, offline: bool) {
        let at = if offline { self.deadline } else { now };
        for run in &mut self.runs {
            match &mut run.state {
                RunState::Reverse(reverse) => {
                    (reverse.request, reverse.peer_dials, reverse.early) = (None, None, false);
                }
                RunState::Punch(ladder) => (ladder.request, ladder.moved) = (None, true),
                RunState::Ended { .. } | RunState::Pending { .. } if run.strategy == Strategy::Relay => {}
                // Those that wait only because there was no network.
                RunState::Pending { at: when } if *when >= self.deadline => *when = at,
                RunState::Pending { .. } => {}
                RunState::Direct(_) | RunState::Relay(_) | RunState::Ended { .. } => {
                    run.state = RunState::Pending { at }
                }
            }
        }
    }

    /// Puts the report of the call together. `relaying` is how far the relay has come.
    fn report(&self, now: Instant, relaying: Option<String>, advice: Option<Advice>) -> Report {
        let entry = |run: &Run| {
            let (outcome, detail) = match &run.state {
                RunState::Pending { .. } => (Outcome::Skipped, "its turn did not come".into()),
                RunState::Direct(dialler) => (Outcome::Unfinished, dialler.describe()),
                RunState::Reverse(reverse) => (Outcome::Unfinished, reverse.describe()),
                RunState::Punch(ladder) => (Outcome::Unfinished, ladder.detail.clone()),
                RunState::Relay(_) => (Outcome::Unfinished, relaying.clone().unwrap_or_default()),
                RunState::Ended { outcome, detail } => (*outcome, detail.clone()),
            };
            StrategyReport { strategy: run.strategy, outcome, detail }
        };
        let strategies = self.runs.iter().map(entry).collect();
        Report { elapsed: now.since(self.started), strategies, advice }
    }
}

impl Reverse {
    fn describe(&self) -> String {
        match (&self.request, self.peer_dials) {
            (None, _) if self.early => {
                "the peer dialled us without success, and no STUN server answered in time".into()
            }
            (None, _) => "no common broker became usable in time".into(),
            (Some(_), Some(n)) => format!("the peer was dialling {n} address(es) of ours"),
            (Some(r), None) => format!("asked {} time(s), the peer did not answer", r.sent),
        }
    }
}
