//! The one thing to do after a connect that gave no pipe, from what was seen of it.

use super::Node;
use super::attempts::Attempt;
use crate::notice::{Advice, FailReason, Refusal, Strategy};

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

impl Node {
    /// The advice for an attempt that is over. `None`: there is nothing that would help for certain.
    pub(super) fn advice(&self, attempt: &Attempt, reason: FailReason) -> Option<Advice> {
        if let FailReason::RefusedByPeer(why) = reason {
            return self.advice_on(why);
        }
        if matches!(reason, FailReason::Shutdown | FailReason::Name(_)) {
            return None;
        }
        let relay = attempt.has(Strategy::Relay) && self.config.turn.is_empty();
        match attempt.heard {
            Heard::Refusal(why) => self.advice_on(why),
            Heard::Answer if relay => Some(Advice::AddRelay),
            // One of them might have found a path.
            Heard::Answer if !attempt.has(Strategy::Punch) || !attempt.has(Strategy::Relay) => {
                Some(Advice::TryAll)
            }
            Heard::Answer => None,
            Heard::Nothing => Some(Advice::StartPeer),
            Heard::Unasked => self.advice_unasked(attempt).or(relay.then_some(Advice::AddRelay)),
        }
    }

    fn advice_on(&self, refusal: Refusal) -> Option<Advice> {
        match refusal {
            Refusal::NotAccepted | Refusal::NoSearchForStrangers | Refusal::PrivateForStrangers { .. } => {
                Some(Advice::BeAccepted(self.node_id()))
            }
            Refusal::Busy => Some(Advice::TryLater),
            Refusal::PlainNotAllowed => Some(Advice::BeEncrypted),
            Refusal::Version { .. } => Some(Advice::SameVersion),
            Refusal::NoSuchSession
            | Refusal::ProtocolNotTaken
            | Refusal::NoSearchInSilence
            | Refusal::Unknown(_) => None,
        }
    }

    /// Returns the advice for a call that asked the peer for nothing, as no broker served or no peer was there.
    fn advice_unasked(&self, attempt: &Attempt) -> Option<Advice> {
        let (peer, to) = (attempt.peer, attempt.address());
        // A peer that announces no broker was to be dialled only.
        if to.brokers().is_empty() && attempt.is_dial_refused() {
            return Some(Advice::StartPeer);
        }
        if self.why_no_broker(peer, to).is_some() {
            return Some(Advice::ShareBroker);
        }
        let asking = Strategy::ALL.into_iter().any(|s| s != Strategy::Direct && attempt.has(s));
        let ready = self.signalling.is_ready(&self.signalling.shared_with(to));
        (asking && !ready).then_some(Advice::ReachBroker)
    }
}
