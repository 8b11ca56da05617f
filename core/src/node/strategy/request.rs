//! Requests of our calls to their peers: asked, repeated and counted in one way for every strategy that asks.

use core::time::Duration;

use bytes::Bytes;

use super::{Ctx, Said};
use crate::call::Strategy;
use crate::event::Stage;
use crate::node::call::facts::Call;
use crate::signal::message::{Body, MessageId};
use crate::time::Instant;

/// Delay before a request without an answer is sent again, doubled for each further copy. The peer may be between two
/// sessions with its broker, which is itself tried again at growing intervals.
const REPEAT_AFTER: Duration = Duration::from_secs(2);
/// Most copies of one request, the last about a minute after the first. A copy that no broker takes does not count.
const REQUESTS: u8 = 6;

/// A request of a strategy, until the peer answers.
#[derive(Debug)]
pub(in crate::node) struct Request {
    pub(in crate::node) id: MessageId,
    sealed: Bytes,
    /// Copies that a broker took.
    pub(super) sent: u8,
    next: Instant,
    pub(super) answered: bool,
}

impl Request {
    /// Asks the peer of a call for something.
    pub(super) fn send(ctx: &mut Ctx<'_>, call: &Call, strategy: Strategy, body: Body) -> Request {
        let offset = ctx.signalling.offset_of(call.peer);
        let (id, sealed) = ctx.signalling.seal(ctx.cx, call.peer, call.session, offset, body);
        let now = ctx.cx.now;
        let mut request = Request { id, sealed, sent: 0, next: now + REPEAT_AFTER, answered: false };
        let brokers = request.publish(ctx, call);
        ctx.progress(call.connect, strategy, Stage::Requested { brokers });
        // To ourselves nothing is sealed, and nothing is lost.
        if brokers > 0 || request.sealed.is_empty() {
            request.went(ctx, call);
        }
        request
    }

    /// Sends the request again if that is due.
    pub(super) fn repeat(&mut self, ctx: &mut Ctx<'_>, call: &Call) {
        let now = ctx.cx.now;
        if self.due().is_some_and(|at| at <= now) {
            self.next = now + REPEAT_AFTER;
            if self.publish(ctx, call) > 0 || self.sealed.is_empty() {
                self.went(ctx, call);
            }
        }
    }

    /// Has the request sent again at once, if a copy of it may have been lost. Returns true if so.
    pub(in crate::node) fn hurry(&mut self, now: Instant) -> bool {
        let may_be_lost = self.sent > 0 && self.due().is_some();
        if may_be_lost {
            self.next = now;
        }
        may_be_lost
    }

    /// Returns the time of the next copy, if one is to follow.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.answered && self.sent < REQUESTS).then_some(self.next)
    }

    fn publish(&self, ctx: &mut Ctx<'_>, call: &Call) -> u8 {
        let brokers = ctx.signalling.shared_with(&call.address);
        ctx.signalling.publish(ctx.cx, call.peer, &self.sealed, &brokers, call.deadline)
    }

    fn went(&mut self, ctx: &mut Ctx<'_>, call: &Call) {
        self.next = ctx.cx.now + REPEAT_AFTER * (1 << self.sent.min(REQUESTS));
        self.sent += 1;
        ctx.say(Said::Asked(call.connect));
    }
}
