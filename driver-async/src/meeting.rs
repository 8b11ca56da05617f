//! The handle of a meeting.

use async_channel::Receiver;
use p2pd_core::{MeetingId, MeetingNews};

use crate::node::AtLast;
use crate::runtime::Runtime;

/// A meeting under way, from [`Node::meet`](crate::Node::meet). Dropping it gives it up, but whom it has met
/// still hears the rest.
#[derive(Debug)]
pub struct Meeting<R: Runtime> {
    pub(crate) id: MeetingId,
    pub(crate) news: Receiver<MeetingNews>,
    pub(crate) _ender: AtLast<R>,
}

impl<R: Runtime> Meeting<R> {
    /// Returns the id that the meeting has in the node's events.
    pub fn id(&self) -> MeetingId {
        self.id
    }

    /// Waits for news; `None` once the meeting is over and all was told.
    pub async fn next(&mut self) -> Option<MeetingNews> {
        self.news.recv().await.ok()
    }
}
