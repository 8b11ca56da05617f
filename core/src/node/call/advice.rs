//! The one thing to do after a connect that gave no pipe, from what was seen of it.

use super::Ongoing;
use crate::call::{Refusal, Strategy};
use crate::event::{Advice, FailReason};
use crate::node::strategy::Ctx;

/// The peer's answers over the brokers, as far as an advice depends on them.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) enum Heard {
    /// No broker took a request.
    #[default]
    Unasked,
    Nothing,
    /// The peer did what it was asked for, or said what came of that.
    Answer,
    Refusal(Refusal),
}

impl Heard {
    /// Notes an answer. A refusal outlasts every other answer but a refusal.
    pub(super) fn note(&mut self, refusal: Option<Refusal>) {
        match refusal {
            Some(why) => *self = Heard::Refusal(why),
            None if matches!(*self, Heard::Unasked | Heard::Nothing) => *self = Heard::Answer,
            None => {}
        }
    }

    /// Notes that a broker took a request.
    pub(super) fn asked(&mut self) {
        if *self == Heard::Unasked {
            *self = Heard::Nothing;
        }
    }
}

impl Ongoing {
    /// The advice for a call that is over. `None`: there is nothing that would help for certain.
    pub(super) fn advice(&self, ctx: &Ctx<'_>, reason: FailReason) -> Option<Advice> {
        if let FailReason::RefusedByPeer(why) = reason {
            return advice_on(ctx, why);
        }
        if matches!(reason, FailReason::Shutdown | FailReason::Name(_)) {
            return None;
        }
        if ctx.sessions.is_awaiting_approval(self.call.key()) {
            return Some(Advice::BeAnswered);
        }
        let relay = Strategy::Relay.is_built() && self.has(Strategy::Relay) && ctx.config.turn.is_empty();
        match self.heard {
            Heard::Refusal(why) => advice_on(ctx, why),
            Heard::Answer if relay => Some(Advice::AddRelay),
            // One of them might have found a path.
            Heard::Answer if !self.has(Strategy::Punch) || !self.has(Strategy::Relay) => Some(Advice::TryAll),
            Heard::Answer => None,
            Heard::Nothing => Some(Advice::StartPeer),
            Heard::Unasked => self.advice_unasked(ctx).or(relay.then_some(Advice::AddRelay)),
        }
    }

    /// Returns the advice for a call that asked the peer for nothing, as no broker served or no peer was there.
    fn advice_unasked(&self, ctx: &Ctx<'_>) -> Option<Advice> {
        let to = &self.call.address;
        // A peer that announces no broker was to be dialled only.
        if to.brokers().is_empty() && self.dial_refused {
            return Some(Advice::StartPeer);
        }
        if ctx.why_no_broker(&self.call).is_some() {
            return Some(Advice::ShareBroker);
        }
        let asking = Strategy::ALL.into_iter().any(|s| s != Strategy::Direct && self.has(s));
        let ready = ctx.signalling.is_ready(&ctx.signalling.shared_with(to));
        (asking && !ready).then_some(Advice::ReachBroker)
    }
}

fn advice_on(ctx: &Ctx<'_>, refusal: Refusal) -> Option<Advice> {
    match refusal {
        Refusal::NotAccepted | Refusal::NoSearchForStrangers | Refusal::PrivateForStrangers { .. } => {
            Some(Advice::BeAccepted(ctx.node_id()))
        }
        Refusal::Unanswered => Some(Advice::BeAnswered),
        Refusal::Busy => Some(Advice::TryLater),
        Refusal::PlainNotAllowed => Some(Advice::BeEncrypted),
        Refusal::Version { .. } => Some(Advice::SameVersion),
        Refusal::NoSuchSession
        | Refusal::ProtocolNotTaken
        | Refusal::NoSessions
        | Refusal::NoSearchInSilence
        | Refusal::Unknown(_) => None,
    }
}
