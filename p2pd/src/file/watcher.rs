//! Followers of a transfer: a person, or programs by the daemon's API.

use std::fmt::Display;
use std::sync::Arc;

use p2pd_core::NodeId;

use super::Event;
use super::show::Shown;
use super::transfers::Progress;
use crate::say::Say;

/// Follower of one transfer.
#[derive(Debug)]
pub(crate) enum Watcher {
    Person(Say, Box<Shown>),
    Programs(Arc<Progress>),
}

impl Watcher {
    pub(super) fn person(say: Say, direction: &'static str, peer: NodeId) -> Self {
        Watcher::Person(say, Box::new(Shown::new(say, direction, peer)))
    }

    /// Returns the transfer as programs see it; `None` of a person's.
    pub(super) fn programs(&self) -> Option<Arc<Progress>> {
        match self {
            Watcher::Person(..) => None,
            Watcher::Programs(progress) => Some(progress.clone()),
        }
    }

    pub(super) fn tell(&mut self, event: &Event<'_>) {
        match self {
            Watcher::Person(_, shown) => shown.tell(event),
            Watcher::Programs(progress) => progress.tell(event),
        }
    }

    pub(super) fn finish(&mut self) {
        match self {
            Watcher::Person(_, shown) => shown.finish(),
            Watcher::Programs(progress) => progress.finish(),
        }
    }

    /// Says why the transfer came to nothing, and to a person what then.
    pub(super) fn failed(&mut self, why: &impl Display, then: &str) {
        match self {
            Watcher::Person(say, shown) => {
                shown.clear();
                say.error(&format!("{why}{then}"));
            }
            Watcher::Programs(progress) => progress.failed(&why.to_string()),
        }
    }

    /// Says what does not end the transfer.
    pub(super) fn warn(&self, text: &str) {
        match self {
            Watcher::Person(say, _) => say.error(text),
            Watcher::Programs(_) => tracing::warn!(target: "p2pd::api", "{text}"),
        }
    }
}
