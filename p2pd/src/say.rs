//! What happens, for people or, with `--json`, for programs; always on standard error.

use p2pd_core::{NodeId, Notice, PeerAddress};
use p2pd_tokio::{ConnectError, Pipe};
use serde_json::json;

/// How to say things.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Say {
    pub(crate) json: bool,
}

impl Say {
    pub(crate) fn ready(self, address: &PeerAddress, id: NodeId) {
        self.line(
            || json!({"event": "ready", "address": address.to_string(), "node_id": id.to_string()}),
            || format!("ready: {address}"),
        );
    }

    /// Progress of a connect, and what else a person wants to know.
    pub(crate) fn notice(self, notice: &Notice) {
        match notice {
            Notice::Progress { strategy, stage, .. } => self.line(
                || json!({"event": "progress", "strategy": strategy.name(), "stage": stage.to_string()}),
                || format!("{strategy}: {stage}"),
            ),
            Notice::Broker { id, state: p2pd_core::BrokerState::Lost(why) } => self.line(
                || json!({"event": "broker", "id": id, "state": "lost", "reason": why.to_string()}),
                || format!("broker {id}: {why}"),
            ),
            Notice::IdentityInUse => self.line(
                || json!({"event": "identity_in_use"}),
                || "another process uses this key: peers may reach either".into(),
            ),
            _ => {}
        }
    }

    pub(crate) fn opened(self, event: &str, pipe: &Pipe) {
        let ms = pipe.elapsed().as_secs_f64() * 1e3;
        let strategy = pipe.strategy().name();
        self.line(
            || {
                json!({
                    "event": event, "strategy": strategy, "elapsed_ms": (ms * 1e3).round() / 1e3,
                    "local": pipe.local_addr().to_string(), "remote": pipe.remote_addr().to_string(),
                    "peer": pipe.peer().to_string(), "mode": pipe.mode().to_string(),
                })
            },
            || format!("{event}: {} at {} by {strategy} in {ms:.1} ms", pipe.peer(), pipe.remote_addr()),
        );
    }

    pub(crate) fn failed(self, why: &ConnectError) {
        let (reason, entries) = match why {
            ConnectError::Failed(reason, report) => (reason.to_string(), report.strategies.as_slice()),
            other => (other.to_string(), &[][..]),
        };
        self.line(
            || {
                let strategies: Vec<_> = entries
                    .iter()
                    .map(|s| json!({"strategy": s.strategy.name(), "outcome": s.outcome.name(), "detail": s.detail}))
                    .collect();
                json!({"event": "failed", "reason": reason, "strategies": strategies})
            },
            || {
                let details: Vec<String> = entries
                    .iter()
                    .map(|s| format!("\n  {} {}: {}", s.strategy, s.outcome.name(), s.detail))
                    .collect();
                format!("failed: {reason}{}", details.concat())
            },
        );
    }

    /// Anything else that went wrong.
    pub(crate) fn error(self, why: &str) {
        self.line(|| json!({"event": "error", "reason": why}), || format!("p2pd: {why}"));
    }

    fn line(self, json: impl FnOnce() -> serde_json::Value, text: impl FnOnce() -> String) {
        if self.json { eprintln!("{}", json()) } else { eprintln!("{}", text()) }
    }
}
