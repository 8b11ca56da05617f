//! Requests of our calls to their peers: asked, repeated and counted in one way for every strategy that asks.

use core::time::Duration;

use bytes::Bytes;

use super::Node;
use super::attempts::RunState;
use crate::notice::{ConnectId, Notice, Stage, Strategy};
use crate::signal::message::{Body, MessageId};
use crate::time::Instant;

/// Delay before a request without an answer is sent again, doubled for each further copy. The peer may be between two
/// sessions with its broker, which is itself tried again at growing intervals.
const REPEAT_AFTER: Duration = Duration::from_secs(2);
/// Most copies of one request, the last about a minute after the first. A copy that no broker takes does not count.
const REQUESTS: u8 = 6;

/// A request of a strategy, until the peer answers.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) id: MessageId,
    sealed: Bytes,
    /// Copies that a broker took.
    pub(super) sent: u8,
    next: Instant,
    pub(super) answered: bool,
}

impl Request {
    /// Returns the time of the next copy, if one is to follow.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.answered && self.sent < REQUESTS).then_some(self.next)
    }

    fn went(&mut self, now: Instant) {
        self.next = now + REPEAT_AFTER * (1 << self.sent.min(REQUESTS));
        self.sent += 1;
    }
}

impl Node {
    /// Asks the peer of a connect for something.
    pub(super) fn request(&mut self, connect: ConnectId, strategy: Strategy, body: Body) -> Option<Request> {
        let (session, peer, brokers, until) = self.signalling_of(connect)?;
        let offset = self.clock_offset_of(peer);
        let (id, sealed) = self.signalling.seal(&mut self.cx, peer, session, offset, body);
        let brokers = self.signalling.publish(&mut self.cx, peer, &sealed, &brokers, until);
        self.cx.notify(Notice::Progress { connect, strategy, stage: Stage::Requested { brokers } });
        let now = self.cx.now;
        let mut request = Request { id, sealed, sent: 0, next: now + REPEAT_AFTER, answered: false };
        // To ourselves nothing is sealed, and nothing is lost.
        if brokers > 0 || request.sealed.is_empty() {
            request.went(now);
            self.asked_of(connect);
        }
        Some(request)
    }

    /// Sends the request of a connect's strategy again if that is due.
    pub(super) fn repeat_request(&mut self, connect: ConnectId, n: usize) {
        let now = self.cx.now;
        let Some((_, peer, brokers, until)) = self.signalling_of(connect) else { return };
        let due = |r: &&mut Request| r.due().is_some_and(|at| at <= now);
        let Some(request) = self.request_of(connect, n).filter(due) else { return };
        request.next = now + REPEAT_AFTER;
        let sealed = request.sealed.clone();
        let went =
            self.signalling.publish(&mut self.cx, peer, &sealed, &brokers, until) > 0 || sealed.is_empty();
        if went && let Some(request) = self.request_of(connect, n) {
            request.went(now);
            self.asked_of(connect);
        }
    }

    /// Sends again what may have been lost with the last session of a broker that is back.
    pub(super) fn repeat_lost(&mut self, place: u8) {
        let now = self.cx.now;
        for (connect, n) in self.runs_over(place) {
            let request = self.request_of(connect, n).filter(|r| r.sent > 0 && r.due().is_some());
            if let Some(request) = request {
                request.next = now;
                self.drive_run(connect, n);
            }
        }
    }

    /// The request of a connect's strategy, if it has asked.
    pub(super) fn request_of(&mut self, connect: ConnectId, n: usize) -> Option<&mut Request> {
        match self.run_state(connect, n)? {
            RunState::Reverse(reverse) => reverse.request.as_mut(),
            RunState::Punch(ladder) => ladder.request.as_mut(),
            RunState::Relay(relaying) => relaying.request.as_mut(),
            RunState::Pending { .. } | RunState::Direct(_) | RunState::Ended { .. } => None,
        }
    }
}

impl RunState {
    /// The strategy's request, if it has asked; nothing where it never asks.
    pub(super) fn asked(&self) -> Option<Option<&Request>> {
        match self {
            RunState::Reverse(reverse) => Some(reverse.request.as_ref()),
            RunState::Punch(ladder) => Some(ladder.request.as_ref()),
            RunState::Relay(relaying) => Some(relaying.request.as_ref()),
            RunState::Pending { .. } | RunState::Direct(_) | RunState::Ended { .. } => None,
        }
    }
}
