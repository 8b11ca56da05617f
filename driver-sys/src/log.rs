//! Notices of a node as events of `tracing`, with the target `p2pd::node`.

use p2pd_core::{BrokerState, Notice};

pub(crate) fn notice(notice: &Notice) {
    match notice {
        Notice::Progress { connect, strategy, stage } => {
            tracing::debug!(target: "p2pd::node", connect = connect.number(), %strategy, %stage, "progress");
        }
        Notice::Broker { id, state: BrokerState::Lost(why) } => {
            tracing::warn!(target: "p2pd::node", id, %why, "broker lost");
        }
        Notice::Broker { id, state } => tracing::debug!(target: "p2pd::node", id, ?state, "broker"),
        Notice::ListenFailed { local, cause } => {
            tracing::error!(target: "p2pd::node", %local, ?cause, "listening failed");
        }
        Notice::LoginWanted { server } => {
            tracing::debug!(target: "p2pd::node", %server, "login wanted");
        }
        Notice::IdentityInUse => tracing::warn!(target: "p2pd::node", "another process uses this key"),
        Notice::Failed { connect, reason, .. } => {
            tracing::info!(target: "p2pd::node", connect = connect.number(), ?reason, "connect failed");
        }
        Notice::Ready { address } => tracing::info!(target: "p2pd::node", %address, "ready"),
        other => tracing::debug!(target: "p2pd::node", notice = ?other),
    }
}
