//! Events of the node, as JSON for `/events`.

use std::sync::Arc;

use p2pd_core::{BrokerState, Event};
use p2pd_tokio::{ConnectError, Events};
use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::Daemon;

/// Events that a slow reader may lag behind before it loses the oldest.
const QUEUE: usize = 1024;

#[derive(Clone, Debug)]
pub(super) struct Feed(broadcast::Sender<Arc<str>>);

impl Feed {
    pub(super) fn new() -> Self {
        Feed(broadcast::channel(QUEUE).0)
    }

    pub(super) fn tell(&self, event: &Value) {
        // Nobody has to listen.
        if self.0.receiver_count() > 0 {
            let _ = self.0.send(event.to_string().into());
        }
    }

    pub(super) fn listen(&self) -> broadcast::Receiver<Arc<str>> {
        self.0.subscribe()
    }
}

/// Hands the node's events on.
pub(super) async fn follow(daemon: Arc<Daemon>, mut events: Events) {
    while let Some(event) = events.recv().await {
        if let Some(event) = event.ok().and_then(|event| json(&event)) {
            daemon.events.tell(&event);
        }
    }
}

fn json(event: &Event) -> Option<Value> {
    Some(match event {
        Event::Ready { address } => json!({"event": "ready", "addr": address.to_string()}),
        Event::Progress { connect, strategy, stage } => json!({
            "event": "progress", "connect": connect.number(), "strategy": strategy.name(), "stage": stage.to_string(),
        }),
        Event::PipeGone { peer, local, remote } => json!({
            "event": "pipe_gone", "peer": peer.to_string(), "local": local.to_string(),
            "remote": remote.to_string(),
        }),
        Event::Broker { id, state: BrokerState::Lost(why) } => {
            json!({"event": "broker", "id": id, "state": "lost", "reason": why.to_string()})
        }
        Event::IdentityInUse => json!({"event": "identity_in_use"}),
        Event::Clock { ahead, error } => crate::clock::event(*ahead, *error),
        Event::Port { local, state } => crate::say::port(*local, *state),
        _ => return None,
    })
}

/// A connect's end without a pipe, strategy by strategy.
pub(super) fn failure(why: &ConnectError) -> Value {
    match why {
        ConnectError::Failed(reason, report) => {
            json!({"reason": reason, "strategies": report.strategies.as_slice(), "advice": report.advice})
        }
        other => json!({"reason": other.to_string(), "strategies": [], "advice": null}),
    }
}
