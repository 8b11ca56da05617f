//! Punches of ours as a strategy of a connect: waiting for a broker, the announcement, and the ladder of rungs.

use super::Node;
use super::attempts::RunState;
use super::punching::{FRESH_FROM, PunchStage};
use super::requests::Request;
use crate::nat::Foresight;
use crate::notice::{ConnectId, Notice, Outcome, Stage, Strategy};
use crate::session::SessionId;
use crate::signal::mappings::Mappings;
use crate::signal::message::Body;
use crate::strategy::agreement::Requester;

/// Rungs of the ladder. Each swaps who dials first and takes fresh samples.
const RUNGS: u8 = 8;

/// The punch strategy of one connect.
#[derive(Debug, Default)]
pub(super) struct Ladder {
    pub(super) told_waiting: bool,
    /// The network has changed: the next rung waits until our address is known again.
    pub(super) moved: bool,
    /// The rung to begin next.
    next: u8,
    /// The announcement of the rung under way, for repeating.
    pub(super) request: Option<Request>,
    /// Why the last rung failed.
    pub(super) detail: String,
}

impl Node {
    /// Begins the first rung when it can, repeats an announcement, or goes on to the next rung.
    pub(super) fn drive_ladder(&mut self, connect: ConnectId, n: usize) {
        let Some((session, _, brokers, _)) = self.signalling_of(connect) else { return };
        let key = (session, Requester::Us);
        match self.punches.get(&key).map(|p| p.stage) {
            None => {
                let first = self.ladder(connect, n).is_some_and(|l| l.next == 0 || l.moved);
                if !first {
                    return;
                }
                if self.network.address_is_settled() && self.signalling.is_ready(&brokers) {
                    return self.next_rung(connect, n);
                }
                if let Some(ladder) = self.ladder(connect, n).filter(|l| !l.told_waiting) {
                    ladder.told_waiting = true;
                    let stage = Stage::AwaitingBroker;
                    self.cx.notify(Notice::Progress { connect, strategy: Strategy::Punch, stage });
                }
            }
            // Its timer sees to the end of the rung.
            Some(PunchStage::Announced) => self.repeat_request(connect, n),
            Some(_) => {}
        }
    }

    /// Ends each rung that was begun before our NAT was measured and that the result contradicts.
    pub(super) fn survey_done(&mut self) {
        let hasty: Vec<SessionId> = self
            .punches
            .iter()
            .filter(|(key, p)| {
                key.1 == Requester::Us && !p.surveyed && (p.gropes() || !self.was_right(p.local()))
            })
            .map(|(key, _)| key.0)
            .collect();
        for session in hasty {
            self.punch_rung_over(session);
        }
    }

    /// The listener's port cannot be used towards this peer: goes on with ports of its own.
    pub(super) fn punch_stuck(&mut self, session: SessionId) {
        if let Some((connect, n)) = self.ladder_of(session)
            && let Some(ladder) = self.ladder(connect, n)
        {
            ladder.next = ladder.next.max(FRESH_FROM);
        }
        self.punch_rung_over(session);
    }

    /// Goes on after a rung that ended without a pipe: to the next one, or to the end of the ladder.
    pub(super) fn punch_rung_over(&mut self, session: SessionId) {
        let key = (session, Requester::Us);
        let detail = self.describe_punch(key);
        let hopeless = self.punches.get(&key).is_some_and(|p| p.is_hopeless());
        let Some((connect, n)) = self.ladder_of(session) else { return self.forget_punch(key) };
        let Some(ladder) = self.ladder(connect, n) else { return };
        ladder.detail = detail;
        ladder.request = None;
        if ladder.next >= RUNGS || hopeless {
            self.forget_punch(key);
            return self.end_ladder(connect, n);
        }
        self.next_rung(connect, n);
    }

    /// Ends the strategy as failed, after the last rung or where more rungs cannot help.
    pub(super) fn end_ladder(&mut self, connect: ConnectId, n: usize) {
        let Some(ladder) = self.ladder(connect, n) else { return };
        let detail = core::mem::take(&mut ladder.detail);
        self.set_run(connect, n, RunState::Ended { outcome: Outcome::Failed, detail });
        self.drive_attempt(connect);
    }

    /// Tells the peer where our next dials come from.
    pub(super) fn send_initial(&mut self, session: SessionId, mappings: Box<Mappings>) {
        let Some((connect, n)) = self.ladder_of(session) else { return };
        let request = self.request(connect, Strategy::Punch, Body::Initial(mappings));
        if let Some(ladder) = self.ladder(connect, n) {
            ladder.request = request;
        }
    }

    fn next_rung(&mut self, connect: ConnectId, n: usize) {
        let Some(ladder) = self.ladder(connect, n) else { return };
        let rung = ladder.next;
        (ladder.next, ladder.moved) = (rung + 1, false);
        let Some((session, peer, brokers, _)) = self.signalling_of(connect) else { return };
        let Some((address, terms, _)) = self.plan_of(connect) else { return };
        let key = (session, Requester::Us);
        if !self.begin_punch(key, peer, terms, &address, brokers, rung, None) {
            let detail = self.why_no_path(&address);
            self.set_run(connect, n, RunState::Ended { outcome: Outcome::Skipped, detail });
            return self.drive_attempt(connect);
        }
        self.drive_punch(key);
    }

    /// Returns true if a rung was right to take the external port for the local one, or if the result is not known.
    fn was_right(&self, local: std::net::IpAddr) -> bool {
        let foresight = self.network.surveyor().of(local).map(|r| r.behaviour.foresight());
        matches!(foresight, None | Some(Foresight::Offset(0)))
    }
}
