//! Events of a node as events of `tracing`, with the target `p2pd::node`.

use p2pd_core::{BrokerState, Event};

pub(crate) fn event(event: &Event) {
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
