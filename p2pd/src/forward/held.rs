//! A door that a program opens, and that serves until it is closed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use p2pd_core::{Plan, Target};
use p2pd_tokio::{ConnectError, Node, PipeInfo};
use tokio::task::JoinHandle;

use super::door::{self, Wanted};
use super::link::Link;
use crate::metrics::Metrics;
use crate::say::Say;

/// Open door with its session.
#[derive(Debug)]
pub(crate) struct Held {
    /// Name of where the door leads.
    pub(crate) leads: String,
    /// Place at which it is.
    pub(crate) at: String,
    /// True if no other machine reaches it.
    pub(crate) is_private: bool,
    link: Arc<Link>,
    serving: JoinHandle<()>,
}

/// Reason that a door is not open.
#[derive(Debug)]
pub(crate) enum NotBegun {
    /// The place cannot be listened at.
    Place(io::Error),
    /// The peer cannot be reached.
    Peer(ConnectError),
}

impl Held {
    /// Opens the door, and then the session.
    ///
    /// # Errors
    /// Says which of the two failed, and nothing is left open.
    pub(crate) async fn begin(
        node: &Node,
        (to, plan): (&Target, Plan),
        wanted: Wanted,
        metrics: Arc<Metrics>,
    ) -> Result<Self, NotBegun> {
        let door = wanted.at.listen().await.map_err(NotBegun::Place)?;
        let say = Say::new(false, true);
        let link = Arc::new(Link::new(node, (to, super::plan(plan)), metrics, say));
        // Nobody else has the link, and an error comes with its reason.
        if let Err(Some(why)) = link.session().await {
            return Err(NotBegun::Peer(why));
        }
        let (leads, at, is_private) = (wanted.leads.name(), door.at(&wanted.at), wanted.at.is_private());
        let serving = tokio::spawn(door::serve(door, wanted.leads, link.clone(), say));
        Ok(Held { leads, at, is_private, link, serving })
    }

    /// Returns the connection under its session; `None` where there is none now.
    pub(crate) fn carrier(&self) -> Option<PipeInfo> {
        self.link.carrier()
    }

    /// Closes the door, and all that went through it.
    pub(crate) async fn close(&self) {
        self.serving.abort();
        self.link.close(false).await;
        // The place is free, and a socket's file removed, before somebody opens it anew.
        while !self.serving.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
