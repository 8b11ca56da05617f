//! Sessions that peers open, for those who serve them.

use p2pd_tokio::{Node, Session};
use tokio::sync::mpsc;

/// Source of sessions.
#[derive(Debug)]
pub(crate) enum Arrivals {
    /// Sessions of a node.
    Of(Node),
    /// Sessions that a daemon hands on.
    HandedOn(mpsc::Receiver<Session>),
}

impl Arrivals {
    /// Waits for the next session; `None` once there are no more.
    pub(crate) async fn next(&mut self) -> Option<Session> {
        match self {
            Arrivals::Of(node) => node.accept_session().await,
            Arrivals::HandedOn(sessions) => sessions.recv().await,
        }
    }
}
