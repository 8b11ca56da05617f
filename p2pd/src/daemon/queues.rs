//! Pipes of messages with their subscriptions by patterns: relayed addresses, and the messages beside connections.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use p2pd_core::pipe::subscriptions::{Message, Queue, SubscriptionId};
use p2pd_tokio::messages::{MessagePipe, RecvError};

use super::answer::Refused;
use super::call::{Name, Subscribed};

/// A call that concerns the queues of a pipe.
#[derive(Debug)]
pub(super) enum QueueCall {
    Recv(Subscribed, Duration),
    Subscribe(Subscribed),
    Unsubscribe(Subscribed),
}

#[derive(Debug)]
pub(super) struct Queues {
    pub(super) pipe: MessagePipe,
    /// Subscriptions by the texts of their two patterns.
    named: Mutex<BTreeMap<(String, String), SubscriptionId>>,
}

impl Queues {
    pub(super) fn new(pipe: MessagePipe) -> Self {
        Queues { pipe, named: Mutex::default() }
    }

    /// Subscribes; a subscription that exists is left as it is.
    pub(super) fn subscribe(&self, to: &Subscribed, queue: Queue) -> Result<(), Refused> {
        if let Entry::Vacant(place) = self.named().entry(to.key()) {
            let id = self.pipe.subscribe_with(to.message.clone(), to.peer.clone(), queue);
            place.insert(id.map_err(|_| Refused::TooMany("subscriptions"))?);
        }
        Ok(())
    }

    pub(super) fn unsubscribe(&self, from: &Subscribed) -> Result<(), Refused> {
        let id = self.named().remove(&from.key()).ok_or(Refused::NoSuchSubscription)?;
        self.pipe.unsubscribe(id);
        Ok(())
    }

    /// The next message of a subscription, with how many it has dropped so far.
    pub(super) async fn recv(
        &self,
        name: &Name,
        of: &Subscribed,
        timeout: Duration,
    ) -> Result<(Message, u64), Refused> {
        let id = self.id(of)?;
        match self.pipe.recv_from(id, timeout).await {
            Ok(message) => Ok((message, self.pipe.dropped(id).unwrap_or_default())),
            Err(RecvError::TimedOut) => Err(Refused::Empty(name.0.clone())),
            Err(RecvError::Ended(_)) => Err(Refused::Ended),
            Err(RecvError::NoSuchSubscription) => Err(Refused::NoSuchSubscription),
        }
    }

    pub(super) fn id(&self, of: &Subscribed) -> Result<SubscriptionId, Refused> {
        self.named().get(&of.key()).copied().ok_or(Refused::NoSuchSubscription)
    }

    pub(super) fn has_messages(&self) -> bool {
        self.named().values().any(|id| self.pipe.waiting(*id).is_some_and(|waiting| waiting > 0))
    }

    fn named(&self) -> MutexGuard<'_, BTreeMap<(String, String), SubscriptionId>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
