//! The five strategies, and the contract by which calls know them.
//!
//! Each strategy owns what it does, for our calls and for those of peers. It gets a [`Ctx`] for the time of one event, and
//! puts what its calls have to know into a queue. No strategy knows another one.

mod ctx;
mod direct;
mod incoming;
mod knock;
pub(super) mod punch;
#[cfg(feature = "relay")]
pub(super) mod relay;
#[cfg(not(feature = "relay"))]
#[path = "../without/relay.rs"]
pub(super) mod relay;
mod request;
mod reverse;
#[cfg(feature = "relay")]
mod udp;
#[cfg(not(feature = "relay"))]
#[path = "../without/udp.rs"]
mod udp;

#[cfg(feature = "relay")]
use core::fmt;
#[cfg(feature = "relay")]
use std::net::SocketAddr;
use std::sync::Arc;

#[cfg(feature = "relay")]
use smallvec::SmallVec;

pub(super) use ctx::Ctx;
pub(super) use direct::Direct;
#[cfg(all(test, feature = "relay"))]
pub(super) use knock::KnockKey;
pub(super) use punch::Punches;
pub(super) use relay::Relays;
pub(super) use request::Request;
pub(super) use reverse::Reverse;
pub(super) use udp::Udps;

use super::call::facts::Call;
use crate::call::{ConnectId, Strategy};
use crate::event::Outcome;
use crate::identity::NodeId;
#[cfg(feature = "relay")]
use crate::io::SockId;
use crate::pipe::PipeId;
#[cfg(feature = "relay")]
use crate::pipe::Terms;
#[cfg(feature = "relay")]
use crate::relay::RelayStream;
use crate::strategy::agreement::{Key, Settled};
use crate::time::Instant;

/// A strategy, as a call of ours knows it.
pub(super) trait Contract {
    /// Begins for a call.
    ///
    /// # Errors
    /// The reason for which the call has to do without.
    fn begin(&mut self, ctx: &mut Ctx<'_>, call: &Arc<Call>) -> Result<(), String>;

    /// Goes on as far as can be. Returns the end, if it has come to one.
    fn drive(&mut self, ctx: &mut Ctx<'_>, call: &Arc<Call>) -> Option<End>;

    /// Returns the place of the request to the peer, if the strategy asks for something.
    fn request(&mut self, _: &Call) -> Option<&mut Option<Request>> {
        None
    }

    /// Returns the time at which [`drive`](Self::drive) has something to do: that of the request's repetition.
    fn next(&mut self, now: Instant, call: &Call) -> Option<Instant> {
        self.request(call)?.as_ref()?.due().filter(|at| *at > now)
    }

    /// Returns true if it waits for a broker, or for our address.
    fn waits(&mut self, call: &Call) -> bool {
        matches!(self.request(call), Some(None))
    }

    /// Asks the peer anew, since its clock shows another time than that of the request.
    fn ask_again(&mut self, _: &mut Ctx<'_>, call: &Call) {
        if let Some(request) = self.request(call) {
            *request = None;
        }
    }

    /// Describes how far it has come, for the report.
    fn describe(&self, ctx: &Ctx<'_>, call: &Call) -> String;

    /// Takes in that our network has become another. Returns true if it is to begin again.
    fn network_changed(&mut self, call: &Arc<Call>) -> bool;

    /// Forgets a call, which is over or has ended this strategy.
    fn forget(&mut self, call: &Call);

    /// Returns true if something is under way in a session, whoever called.
    fn is_busy(&self, _: Key) -> bool {
        false
    }

    /// Ends what is under way in a session. Its streams are left alone.
    fn end(&mut self, _: &mut Ctx<'_>, _: Key) {}
}

/// End of a strategy within its call.
#[derive(Debug)]
pub(super) struct End {
    pub(super) outcome: Outcome,
    pub(super) detail: String,
}

impl End {
    pub(super) fn failed(detail: String) -> Self {
        End { outcome: Outcome::Failed, detail }
    }

    pub(super) fn skipped(detail: String) -> Self {
        End { outcome: Outcome::Skipped, detail }
    }
}

/// News from strategies to the calls, in the order in which they happened.
#[derive(Debug)]
pub(super) enum Said {
    /// A strategy of a call of ours has come to its end.
    Ended(ConnectId, Strategy, End),
    /// A call of ours may have something to do.
    GoesOn(ConnectId),
    /// A broker took a request of a call of ours.
    Asked(ConnectId),
    /// The end of our part in a session of this peer's, unless something of it goes on.
    Left(Key, NodeId, Parting),
    /// UDP punching has found a path, on which QUIC begins.
    #[cfg(feature = "relay")]
    Met(Box<Met>),
    /// A relay is to be the pipe. It began at this time.
    Relayed(PipeId, Settled, Instant),
}

/// A path between two sockets by which both ends have heard each other.
#[cfg(feature = "relay")]
pub(super) struct Met {
    key: Key,
    peer: NodeId,
    terms: Terms,
    /// The call, where it is ours.
    connect: Option<ConnectId>,
    /// Places of the brokers that reach the peer.
    via: SmallVec<[u8; 2]>,
    /// Ends of the path: ours and the peer's.
    path: [SocketAddr; 2],
    sock: SockId,
    /// The stream and its window, where the peer has begun it.
    stream: Option<(Box<RelayStream>, u32)>,
}

#[cfg(feature = "relay")]
impl fmt::Debug for Met {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Met").field("key", &self.key).field("path", &self.path).finish_non_exhaustive()
    }
}

/// Amount of a peer's session that is forgotten with our part in it. The call is the peer's, and its next dial may be on
/// the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Parting {
    /// The agreement, unless a stream is left.
    IfStreamless,
    /// The agreement.
    Forget,
    /// The whole session.
    Abandon,
}

#[derive(Default)]
pub(super) struct Strategies {
    pub(super) direct: Direct,
    pub(super) reverse: Reverse,
    pub(super) punch: Punches,
    pub(super) udp: Udps,
    pub(super) relay: Relays,
}

impl Strategies {
    pub(super) fn of(&mut self, strategy: Strategy) -> &mut dyn Contract {
        match strategy {
            Strategy::Direct => &mut self.direct,
            Strategy::Reverse => &mut self.reverse,
            Strategy::Punch => &mut self.punch,
            Strategy::Udp => &mut self.udp,
            Strategy::Relay => &mut self.relay,
        }
    }

    /// Ends what is under way in a session. Its streams are left alone.
    pub(super) fn end(&mut self, ctx: &mut Ctx<'_>, key: Key) {
        for strategy in [Strategy::Punch, Strategy::Udp, Strategy::Relay, Strategy::Reverse] {
            self.of(strategy).end(ctx, key);
        }
        self.relay.end_opening(ctx, key, Strategy::Udp);
    }

    /// Ends everything with the node.
    pub(super) fn shut(&mut self, ctx: &mut Ctx<'_>) {
        self.relay.shut(ctx);
        self.punch.shut(ctx);
        self.udp.shut(ctx);
        self.reverse.shut();
    }

    /// Returns true if something is under way in a session.
    pub(super) fn is_busy(&mut self, key: Key) -> bool {
        Strategy::ALL.into_iter().any(|strategy| self.of(strategy).is_busy(key))
            || self.relay.is_opening(key, Strategy::Udp)
    }
}
