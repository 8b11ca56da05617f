//! Calls of `connect()`: the strategies of one plan, raced under one deadline.
//!
//! A call knows its strategies by their contract, but for a relay that becomes a pipe, dials of its own streams that end, and an
//! early request, which is no outcome.

mod advice;
pub(super) mod facts;
mod ongoing;

use core::time::Duration;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use smallvec::SmallVec;

use advice::Heard;
use facts::Call;
use ongoing::{Ongoing, Run, RunState, order};

use super::session::Winner;
use super::strategy::{Ctx, End, Said, Strategies};
use crate::address::PeerAddress;
use crate::call::{ConnectId, Refusal, Strategy};
use crate::config::Plan;
use crate::cx::Timer;
use crate::event::{Event, FailReason, Report, Stage};
use crate::failure::IoFailure;
use crate::identity::NodeId;
use crate::io::SockId;
use crate::random::Domain;
use crate::session::SessionId;
use crate::signal::message::{MessageId, VERSION};
use crate::strategy::agreement::{Key, Requester, Settled};
use crate::strategy::dialler::DialEnd;
use crate::strategy::ours::Trust;
use crate::time::Instant;

/// Interval of the checks whether the peer's own call may still answer ours.
const GLARE_CHECK: Duration = Duration::from_millis(50);
/// A plan's timeout is cut to this.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

/// Calls of our user, each until its outcome.
#[derive(Default)]
pub(super) struct Calls {
    // Boxed: a map makes room for eleven at once, and few nodes have eleven calls.
    all: BTreeMap<ConnectId, Box<Ongoing>>,
    by_session: BTreeMap<SessionId, ConnectId>,
    next: u32,
}

impl Calls {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Returns the calls by their sessions.
    pub(super) fn by_session(&self) -> &BTreeMap<SessionId, ConnectId> {
        &self.by_session
    }

    pub(super) fn fresh_id(&mut self) -> ConnectId {
        let id = ConnectId(self.next);
        self.next += 1;
        id
    }

    /// Returns the call to this peer that runs under this session.
    pub(super) fn call_to(&self, peer: NodeId, session: SessionId) -> Option<Arc<Call>> {
        let call = &self.all.get(self.by_session.get(&session)?)?.call;
        (call.peer == peer).then(|| Arc::clone(call))
    }

    /// Begins a call to a peer.
    pub(super) fn begin(
        &mut self,
        all: &mut Strategies,
        ctx: &mut Ctx<'_>,
        connect: ConnectId,
        peer: NodeId,
        to: &PeerAddress,
        plan: Plan,
    ) {
        let now = ctx.cx.now;
        let session = SessionId(ctx.cx.random.bytes(Domain::SessionId));
        ctx.admission.call_began(peer);
        ctx.sessions.open((session, Requester::Us), peer, plan.terms());
        let runs = order(ctx, peer, to, &plan);
        let deadline = now + plan.timeout.min(MAX_TIMEOUT);
        let address = to.clone();
        let call = Call { connect, session, peer, address, plan, started: now, deadline };
        let ongoing = Ongoing {
            call: Arc::new(call),
            runs,
            clock_offset: None,
            heard: Heard::default(),
            dial_refused: false,
        };
        self.all.insert(connect, Box::new(ongoing));
        self.by_session.insert(session, connect);
        self.drive(all, ctx, connect);
    }

    /// Ends a call that has no pipe yet without an outcome.
    pub(super) fn cancel(&mut self, all: &mut Strategies, ctx: &mut Ctx<'_>, connect: ConnectId) {
        if let Some(ongoing) = self.take(all, ctx, connect) {
            abandon(all, ctx, ongoing.call.key(), ongoing.call.peer);
        }
    }

    /// Ends every call with the node.
    pub(super) fn shut(&mut self, all: &mut Strategies, ctx: &mut Ctx<'_>) {
        for connect in self.ids() {
            self.fail(all, ctx, connect, FailReason::Shutdown);
        }
    }

    /// Starts what is due, and ends the call if nothing is left.
    pub(super) fn drive(&mut self, all: &mut Strategies, ctx: &mut Ctx<'_>, connect: ConnectId) {
        let now = ctx.cx.now;
        let Some(call) = self.all.get(&connect).map(|a| Arc::clone(&a.call)) else { return };
        if call.deadline <= now {
            return self.fail(all, ctx, connect, FailReason::DeadlinePassed);
        }
        let waits = waits_for_nat64(ctx, &call);
        let mut n = 0;
        while let Some(run) = self.all.get_mut(&connect).and_then(|a| a.runs.get_mut(n)) {
            let strategy = all.of(run.strategy);
            let mut end = None;
            if let RunState::Pending { at } = run.state
                && at <= now
                && !waits
            {
                match strategy.begin(ctx, &call) {
                    Ok(()) => {
                        run.state = RunState::Running;
                        ctx.progress(connect, run.strategy, Stage::Started);
                    }
                    Err(why) => end = Some(End::skipped(why)),
                }
            }
            if matches!(run.state, RunState::Running) {
                end = strategy.drive(ctx, &call);
            }
            if let Some(end) = end {
                let strategy = run.strategy;
                self.end_run(all, ctx.cx.now, connect, strategy, end);
            }
            n += 1;
        }
        self.conclude(all, ctx, connect);
    }

    /// Goes on with every call, once the wait for the NAT64 is over.
    pub(super) fn drive_all(&mut self, all: &mut Strategies, ctx: &mut Ctx<'_>) {
        for connect in self.ids() {
            self.drive(all, ctx, connect);
        }
    }

    /// Wakes the calls that wait for a change: a broker is ready, or our address is known.
    pub(super) fn wake(&mut self, all: &mut Strategies, ctx: &mut Ctx<'_>) {
        for connect in self.ids() {
            let Some(ongoing) = self.all.get(&connect) else { continue };
            let waits = |r: &Run| r.is_running() && all.of(r.strategy).waits(&ongoing.call);
            if ongoing.runs.iter().any(waits) {
                self.drive(all, ctx, connect);
            }
        }
    }

    /// Sends again what may have been lost with the last session of a broker that is back.
    pub(super) fn broker_is_back(&mut self, all: &mut Strategies, ctx: &mut Ctx<'_>, place: u8) {
        for connect in self.ids() {
            let Some(ongoing) = self.all.get(&connect) else { continue };
            if !ctx.signalling.shared_with(&ongoing.call.address).contains(&place) {
                continue;
            }
            let call = Arc::clone(&ongoing.call);
            let running: SmallVec<[Strategy; 4]> =
                ongoing.runs.iter().filter(|r| r.is_running()).map(|r| r.strategy).collect();
            for strategy in running {
                let request = all.of(strategy).request(&call).and_then(Option::as_mut);
                if request.is_some_and(|r| r.hurry(ctx.cx.now))
                    && let Some(end) = all.of(strategy).drive(ctx, &call)
                {
                    self.end_run(all, ctx.cx.now, connect, strategy, end);
                }
            }
        }
    }

    /// Hears what a strategy has to tell.
    pub(super) fn hear(&mut self, all: &mut Strategies, ctx: &mut Ctx<'_>, said: Said) {
        match said {
            Said::Ended(connect, strategy, end) => {
                self.end_run(all, ctx.cx.now, connect, strategy, end);
                self.drive(all, ctx, connect);
            }
            Said::GoesOn(connect) => self.drive(all, ctx, connect),
            Said::Asked(connect) => {
                if let Some(ongoing) = self.all.get_mut(&connect) {
                    ongoing.heard.asked();
                }
            }
            Said::Left(key, peer, parting) => all.leave(ctx, key, peer, parting),
            #[cfg(feature = "relay")]
            Said::Met(met) => all.relay.take_over(ctx, *met),
            Said::Relayed(pipe, settled, since) => {
                let (answers, since) = self.end_settled(all, ctx, &settled, since);
                all.relay.hand_out(ctx, pipe, answers, since);
            }
        }
    }

    /// Ends what is still done for sessions that have their pipe. Returns the calls that it answers, and since when they
    /// ran.
    fn end_settled(
        &mut self,
        all: &mut Strategies,
        ctx: &mut Ctx<'_>,
        settled: &Settled,
        mut since: Instant,
    ) -> (SmallVec<[ConnectId; 1]>, Instant) {
        let mut answers = SmallVec::new();
        for key in &settled.sessions {
            all.end(ctx, *key);
            if key.1 == Requester::Us
                && let Some((connect, began)) = self.end_by_session(all, ctx, key.0)
            {
                answers.push(connect);
                since = began;
            }
        }
        ctx.sessions.close_streams(ctx.cx, &settled.sessions);
        (answers, since)
    }

    /// Makes a stream the pipe, and ends what it settles.
    pub(super) fn won(&mut self, all: &mut Strategies, ctx: &mut Ctx<'_>, winner: Winner) {
        let (answers, since) = self.end_settled(all, ctx, &winner.settled, winner.since);
        let trust = ctx.admission.trust(winner.peer);
        ctx.sessions.hand_out(ctx.cx, winner, answers, since, trust);
    }

    /// Takes in that a stream of a call is gone.
    pub(super) fn lost_stream(
        &mut self,
        all: &mut Strategies,
        ctx: &mut Ctx<'_>,
        (session, remote): (SessionId, SocketAddr),
        sock: SockId,
        why: DialEnd,
    ) {
        let Some(connect) = self.by_session.get(&session).copied() else { return };
        let Some(ongoing) = self.all.get_mut(&connect) else { return };
        all.direct.lost_stream(ctx, &ongoing.call, sock, remote, why);
        ongoing.dial_refused |= why == DialEnd::Io(IoFailure::Refused);
        if let DialEnd::Refused(why) = why {
            ongoing.heard.note(Some(why));
        }
        match why {
            // No other stream would fare better.
            DialEnd::Refused(why) if is_final(why) => {
                self.fail(all, ctx, connect, FailReason::RefusedByPeer(why));
            }
            _ => self.drive(all, ctx, connect),
        }
    }

    /// Takes in that the peer refuses what a call asks for.
    pub(super) fn refused(
        &mut self,
        all: &mut Strategies,
        ctx: &mut Ctx<'_>,
        call: &Arc<Call>,
        why: Refusal,
    ) {
        let Some(ongoing) = self.all.get(&call.connect) else { return };
        let means = |strategy: Strategy| match why {
            Refusal::NoSearchForStrangers | Refusal::NoSearchInSilence => strategy == Strategy::Punch,
            Refusal::PrivateForStrangers { asked } => strategy == asked,
            _ => true,
        };
        let detail = match why {
            Refusal::PrivateForStrangers { .. } => format!(
                "the peer dials nothing inside for strangers: ask its owner for `--accept {}`, or connect from where it \
                 can be dialled",
                ctx.node_id()
            ),
            why => format!("the peer refused: {why}"),
        };
        let asking: SmallVec<[Strategy; 4]> =
            ongoing.runs.iter().filter(|r| r.is_running() && means(r.strategy)).map(|r| r.strategy).collect();
        // The refusal of an early request is no outcome, since another one follows.
        let mut early = false;
        for strategy in asking {
            match all.of(strategy).request(call) {
                None => continue,
                Some(None) if strategy == Strategy::Relay => continue,
                Some(_) => {}
            }
            if matches!(why, Refusal::PrivateForStrangers { .. })
                && strategy == Strategy::Reverse
                && all.reverse.will_ask_again(call)
            {
                early = true;
                continue;
            }
            self.end_run(all, ctx.cx.now, call.connect, strategy, End::failed(detail.clone()));
        }
        let ends = !early && why != Refusal::NoSearchInSilence;
        self.heard(call, ends.then_some(why));
        for strategy in [Strategy::Punch, Strategy::Udp, Strategy::Relay] {
            if all.of(strategy).request(call).is_none() {
                all.of(strategy).end(ctx, call.key());
            }
        }
        if is_final(why) {
            return self.fail(all, ctx, call.connect, FailReason::RefusedByPeer(why));
        }
        self.drive(all, ctx, call.connect);
    }

    /// Takes in that the peer's clock shows another time than ours: asks once more, in its time.
    pub(super) fn correct_clock(
        &mut self,
        all: &mut Strategies,
        ctx: &mut Ctx<'_>,
        peer: NodeId,
        about: MessageId,
        offset: i64,
    ) {
        let Some(call) = self.asked_by(all, peer, about) else { return };
        let ongoing = self.all.get_mut(&call.connect).filter(|a| a.clock_offset.is_none());
        let Some(ongoing) = ongoing else { return };
        ongoing.clock_offset = Some(offset);
        ctx.signalling.set_offset(peer, self.offset_of(peer));
        // Whatever else was sent in the wrong time was not heard either.
        for strategy in [Strategy::Reverse, Strategy::Relay, Strategy::Punch, Strategy::Udp] {
            all.of(strategy).ask_again(ctx, &call);
        }
        self.drive(all, ctx, call.connect);
    }

    /// Takes in that the peer could not read our request with this id: it speaks another version.
    pub(super) fn version_refused(
        &mut self,
        all: &mut Strategies,
        ctx: &mut Ctx<'_>,
        peer: NodeId,
        about: MessageId,
        version: u8,
    ) {
        let Some(call) = self.asked_by(all, peer, about) else { return };
        let request = all.of(Strategy::Udp).request(&call).and_then(|request| request.as_ref());
        if version == VERSION && request.is_some_and(|request| request.id == about) {
            // It reads all else.
            let end =
                End::failed(format!("the peer speaks protocol version {version}, without UDP punching"));
            all.of(Strategy::Udp).end(ctx, call.key());
            self.end_run(all, ctx.cx.now, call.connect, Strategy::Udp, end);
            return self.drive(all, ctx, call.connect);
        }
        self.refused(all, ctx, &call, Refusal::Version { ours: version });
    }

    /// Notes that the peer answered a request of a call, by a refusal or otherwise.
    pub(super) fn heard(&mut self, call: &Call, refusal: Option<Refusal>) {
        if let Some(ongoing) = self.all.get_mut(&call.connect) {
            ongoing.heard.note(refusal);
        }
    }

    /// Tries again, after a change of our network, the strategies that ran from the old one.
    pub(super) fn roam(&mut self, all: &mut Strategies, ctx: &mut Ctx<'_>, gone: impl Fn(IpAddr) -> bool) {
        let offline = ctx.network.routes().is_empty();
        for connect in self.ids() {
            let Some(call) = self.all.get(&connect).map(|a| Arc::clone(&a.call)) else { continue };
            // The peer may have nominated such a stream, or taken our relay, and will wait for it.
            let opened = ctx.sessions.has_opened_from(call.key(), &gone)
                || all.of(Strategy::Relay).request(&call).is_some()
                || all.relay.is_opening(call.key(), Strategy::Udp);
            if opened {
                self.renew_session(all, ctx, connect);
            } else {
                ctx.sessions.close_dials_of(ctx.cx, call.key());
            }
            if let Some(ongoing) = self.all.get_mut(&connect) {
                ongoing.roam(all, ctx.cx.now, offline);
            }
            self.drive(all, ctx, connect);
        }
    }

    /// Goes on under another session, without the streams of this one.
    fn renew_session(&mut self, all: &mut Strategies, ctx: &mut Ctx<'_>, connect: ConnectId) {
        let session = SessionId(ctx.cx.random.bytes(Domain::SessionId));
        let Some(ongoing) = self.all.get_mut(&connect) else { return };
        let Call { peer, ref address, ref plan, started, deadline, .. } = *ongoing.call;
        let (address, plan) = (address.clone(), plan.clone());
        let fresh = Call { connect, session, peer, address, plan, started, deadline };
        let old = core::mem::replace(&mut ongoing.call, Arc::new(fresh));
        self.by_session.remove(&old.session);
        self.by_session.insert(session, connect);
        abandon(all, ctx, old.key(), peer);
        ctx.sessions.open((session, Requester::Us), peer, old.terms());
    }

    /// Ends a strategy of a call. Whoever was to wait for this one need not.
    fn end_run(
        &mut self,
        all: &mut Strategies,
        now: Instant,
        connect: ConnectId,
        strategy: Strategy,
        end: End,
    ) {
        let Some(ongoing) = self.all.get_mut(&connect) else { return };
        all.of(strategy).forget(&ongoing.call);
        if let Some(run) = ongoing.runs.iter_mut().find(|r| r.strategy == strategy) {
            run.state = RunState::Ended(end);
        }
        let others = ongoing.runs.iter().filter(|r| r.strategy != Strategy::Relay);
        let alone = others.clone().all(|r| matches!(r.state, RunState::Ended(_)));
        for run in &mut ongoing.runs {
            if let RunState::Pending { at } = &mut run.state
                && (alone || run.strategy != Strategy::Relay)
            {
                *at = now;
                break;
            }
        }
    }

    /// Arms the call's timer, or ends it when every strategy has.
    fn conclude(&mut self, all: &mut Strategies, ctx: &mut Ctx<'_>, connect: ConnectId) {
        let now = ctx.cx.now;
        let Some(ongoing) = self.all.get(&connect) else { return };
        let call = &ongoing.call;
        if ongoing.runs.iter().all(|r| matches!(r.state, RunState::Ended(_))) {
            if ctx.sessions.may_be_settled(call.key()) {
                let again = (now + GLARE_CHECK).min(call.deadline);
                return ctx.cx.timers.set(Timer::Connect(connect), Some(again));
            }
            return self.fail(all, ctx, connect, FailReason::AllStrategiesFailed);
        }
        let waits = waits_for_nat64(ctx, call);
        let next = ongoing.runs.iter().filter_map(|r| match &r.state {
            RunState::Pending { at } => Some(*at).filter(|at| *at > now || !waits),
            RunState::Running => all.of(r.strategy).next(now, call),
            RunState::Ended(_) => None,
        });
        let at = next.min().unwrap_or(call.deadline).min(call.deadline);
        ctx.cx.timers.set(Timer::Connect(connect), Some(at));
    }

    fn fail(&mut self, all: &mut Strategies, ctx: &mut Ctx<'_>, connect: ConnectId, reason: FailReason) {
        let Some(ongoing) = self.all.get(&connect) else { return };
        let strategies = ongoing.runs.iter().map(|run| run.report(all, ctx, &ongoing.call)).collect();
        let Some(ongoing) = self.take(all, ctx, connect) else { return };
        if reason != FailReason::Shutdown {
            ctx.doubt();
        }
        let (elapsed, advice) = (ctx.cx.now.since(ongoing.call.started), ongoing.advice(ctx, reason));
        let report = Box::new(Report { elapsed, strategies, advice });
        ctx.cx.notify(Event::Failed { connect, reason, report });
        abandon(all, ctx, ongoing.call.key(), ongoing.call.peer);
    }

    /// Takes out the call that a pipe answers: its id, and when it began.
    fn end_by_session(
        &mut self,
        all: &mut Strategies,
        ctx: &mut Ctx<'_>,
        session: SessionId,
    ) -> Option<(ConnectId, Instant)> {
        let connect = *self.by_session.get(&session)?;
        let ongoing = self.take(all, ctx, connect)?;
        Some((connect, ongoing.call.started))
    }

    fn take(&mut self, all: &mut Strategies, ctx: &mut Ctx<'_>, connect: ConnectId) -> Option<Ongoing> {
        let ongoing = *self.all.remove(&connect)?;
        let call = &ongoing.call;
        self.by_session.remove(&call.session);
        ctx.cx.timers.set(Timer::Connect(connect), None);
        ctx.admission.call_ended(call.peer);
        if ongoing.clock_offset.is_some() {
            ctx.signalling.set_offset(call.peer, self.offset_of(call.peer));
        }
        for run in &ongoing.runs {
            all.of(run.strategy).forget(call);
        }
        Some(ongoing)
    }

    /// Returns the call to this peer whose request has this id.
    fn asked_by(&self, all: &mut Strategies, peer: NodeId, about: MessageId) -> Option<Arc<Call>> {
        let mut to_peer = self.all.values().filter(|a| a.call.peer == peer);
        let mut asked = |a: &Ongoing, r: &Run| {
            let request = all.of(r.strategy).request(&a.call).and_then(|request| request.as_ref());
            r.is_running() && request.is_some_and(|request| request.id == about)
        };
        let ongoing = to_peer.find(|a| a.runs.iter().any(|r| asked(a, r)))?;
        Some(Arc::clone(&ongoing.call))
    }

    /// Returns the peer's clock minus ours, where a call to it has learned that.
    fn offset_of(&self, peer: NodeId) -> Option<i64> {
        self.all.values().filter(|a| a.call.peer == peer).find_map(|a| a.clock_offset)
    }

    fn ids(&self) -> Vec<ConnectId> {
        self.all.keys().copied().collect()
    }
}

/// Returns true while nobody knows whether an IPv4 peer can be reached at all.
fn waits_for_nat64(ctx: &Ctx<'_>, call: &Call) -> bool {
    let near = || ctx.paths_to(call.peer, &call.address, Trust::Known).first().is_some_and(|p| p.local);
    ctx.network.is_asking_nat64() && call.address.v6().is_empty() && !near()
}

/// Ends a session without a pipe, with all that is under way in it.
fn abandon(all: &mut Strategies, ctx: &mut Ctx<'_>, key: Key, peer: NodeId) {
    all.end(ctx, key);
    ctx.abandon(key, peer);
}

/// Returns true if a refusal holds for every way to the peer.
fn is_final(why: Refusal) -> bool {
    matches!(
        why,
        Refusal::NotAccepted
            | Refusal::Unanswered
            | Refusal::PlainNotAllowed
            | Refusal::ProtocolNotTaken
            | Refusal::NoSessions
    )
}
