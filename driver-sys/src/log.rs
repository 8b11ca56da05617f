//! Events of a node as events of `tracing`, and its calls as spans, with the target `p2pd::node`.
//!
//! A call is a span `connect` at INFO, from its begin to its outcome. Each strategy that begins is a span `strategy` in it,
//! with its stages as DEBUG events. Fields: `connect` (number), `strategy`, `outcome` (`won`, `failed`, `skipped`,
//! `unfinished`, `cancelled`), `detail`. No span names the peer.

use std::collections::BTreeMap;

use p2pd_core::{BrokerState, ConnectId, Event, Strategy};
use tracing::Span;

use crate::{ConnectError, News};

/// Spans of the calls that have no outcome yet.
#[derive(Debug, Default)]
pub(crate) struct Log {
    calls: BTreeMap<ConnectId, Call>,
}

#[derive(Debug)]
struct Call {
    span: Span,
    strategies: BTreeMap<Strategy, Span>,
}

impl Log {
    /// Opens the span of a call.
    pub(crate) fn begun(&mut self, connect: ConnectId) {
        let span = tracing::info_span!(
            target: "p2pd::node",
            parent: None,
            "connect",
            connect = connect.number(),
            strategy = tracing::field::Empty,
            outcome = tracing::field::Empty,
            detail = tracing::field::Empty,
        );
        self.calls.insert(connect, Call { span, strategies: BTreeMap::new() });
    }

    /// Ends the span of a call that its user gave up.
    pub(crate) fn cancelled(&mut self, connect: ConnectId) {
        if let Some(call) = self.calls.remove(&connect) {
            call.span.record("outcome", "cancelled");
        }
    }

    /// Writes down what the driver's user is told.
    pub(crate) fn news<S>(&mut self, news: &News<S>) {
        match news {
            News::Event(what) => {
                if let Event::Progress { connect, strategy, .. } = what
                    && let Some(call) = self.calls.get_mut(connect)
                {
                    call.strategy(*strategy).in_scope(|| event(what));
                } else {
                    event(what);
                }
            }
            News::Opened(connect, _, start) => {
                let Some(mut call) = self.calls.remove(connect) else { return };
                let won = start.strategy();
                call.strategy(won).record("outcome", "won");
                call.span.record("strategy", won.name());
                call.span.record("outcome", "won");
            }
            News::NotOpened(connect, why) => {
                let Some(mut call) = self.calls.remove(connect) else { return };
                call.span.record("outcome", "failed");
                let ConnectError::Failed(reason, report) = why else {
                    call.span.record("detail", tracing::field::display(why));
                    return;
                };
                call.span.record("detail", tracing::field::display(reason));
                for of in &report.strategies {
                    let span = call.strategy(of.strategy);
                    span.record("outcome", of.outcome.name());
                    span.record("detail", &*of.detail);
                }
            }
            News::Incoming(..) | News::Allocated(..) | News::NotAllocated(..) => {}
        }
    }
}

impl Call {
    /// Returns the span of a strategy, which begins with its first stage.
    fn strategy(&mut self, strategy: Strategy) -> &Span {
        let parent = &self.span;
        self.strategies.entry(strategy).or_insert_with(|| {
            tracing::info_span!(
                target: "p2pd::node",
                parent: parent,
                "strategy",
                strategy = strategy.name(),
                outcome = tracing::field::Empty,
                detail = tracing::field::Empty,
            )
        })
    }
}

fn event(event: &Event) {
    match event {
        Event::Progress { connect, strategy, stage } => {
            tracing::debug!(target: "p2pd::node", connect = connect.number(), %strategy, %stage, "progress");
        }
        Event::Broker { id, state: BrokerState::Lost(why) } => {
            tracing::warn!(target: "p2pd::node", id, %why, "broker lost");
        }
        Event::Broker { id, state } => tracing::debug!(target: "p2pd::node", id, ?state, "broker"),
        Event::ListenFailed { local, cause } => {
            tracing::error!(target: "p2pd::node", %local, ?cause, "listening failed");
        }
        Event::LoginWanted { server } => {
            tracing::debug!(target: "p2pd::node", %server, "login wanted");
        }
        Event::IdentityInUse => tracing::warn!(target: "p2pd::node", "another process uses this key"),
        Event::Failed { connect, reason, .. } => {
            tracing::info!(target: "p2pd::node", connect = connect.number(), ?reason, "connect failed");
        }
        Event::Ready { address } => tracing::info!(target: "p2pd::node", %address, "ready"),
        other => tracing::debug!(target: "p2pd::node", event = ?other),
    }
}
