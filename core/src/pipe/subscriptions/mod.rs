//! Subscriptions of the P2PD documents: each message that arrives on a pipe is copied into every queue whose patterns
//! it matches, and read from there.
//!
//! ```
//! use p2pd_core::pipe::subscriptions::{Pattern, Queue, Subscriptions};
//!
//! let mut subscriptions = Subscriptions::default();
//! let hellos = subscriptions.subscribe(Pattern::new("[hH]ello")?, Pattern::ANY, Queue::default()).unwrap();
//! let from = "192.0.2.1:4000".parse()?;
//! assert_eq!(subscriptions.deliver(&b"hello, world!".as_slice().into(), from), 1);
//! assert_eq!(subscriptions.deliver(&b"good bye".as_slice().into(), from), 0);
//! assert_eq!(subscriptions.recv(hellos).unwrap().data, "hello, world!");
//! assert_eq!(subscriptions.recv(hellos), None);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod pattern;
mod unique;

use core::fmt::Write;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use bytes::Bytes;
use smallvec::SmallVec;

pub use pattern::{MAX_PATTERN, Pattern, PatternError};
pub use unique::Unique;

/// Most subscriptions on one pipe.
pub const MAX_SUBSCRIPTIONS: usize = 10_000;

/// Bounds of one subscription's queue. Each bound counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: users write it over its default.
pub struct Queue {
    /// Messages. Default 1,000, as in the P2PD documents; 0 counts as 1.
    pub messages: usize,
    /// Bytes of all messages. A single message may be longer. Default 1 MiB.
    pub bytes: usize,
    /// Action beyond that. Default: the oldest message is dropped, as in P2PD.
    pub overflow: Overflow,
}

impl Default for Queue {
    fn default() -> Self {
        Queue { messages: 1000, bytes: 1 << 20, overflow: Overflow::DropOldest }
    }
}

/// Action of a full queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
// Exhaustive: a full queue drops the old, drops the new, or stops the reading.
pub enum Overflow {
    /// The oldest messages make room.
    #[default]
    DropOldest,
    /// The new message is dropped.
    DropNewest,
    /// No message is dropped: [`Subscriptions::may_read`] says to read no more, so that the sender has to wait.
    StopReading,
}

/// A subscription's name; never given twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SubscriptionId(u64);

/// A message and its sender.
#[derive(Clone, PartialEq, Eq, Debug)]
// Exhaustive: the bytes and who sent them.
pub struct Message {
    /// The bytes.
    pub data: Bytes,
    /// Socket address of the sender.
    pub from: SocketAddr,
}

/// The subscriptions of one pipe.
#[derive(Debug, Default)]
pub struct Subscriptions {
    each: BTreeMap<SubscriptionId, Subscription>,
    next: u64,
    /// Number of full queues that stop the reading.
    stopped: usize,
    unique: Unique,
}

#[derive(Debug)]
struct Subscription {
    message: Pattern,
    peer: Pattern,
    limits: Queue,
    queue: VecDeque<Message>,
    bytes: usize,
    dropped: u64,
}

impl Subscriptions {
    /// Delivers a message only if the last `kept` messages do not have it, from the same sender. At most 100,000; 0,
    /// the default, delivers all. P2PD's documents call these message ids and keep 1,000.
    pub fn unique(kept: usize) -> Self {
        Subscriptions { unique: Unique::new(kept), ..Self::default() }
    }

    /// Subscribes to messages that match the first pattern from peers whose `address:port` matches the second.
    /// `None`: there are [`MAX_SUBSCRIPTIONS`] already.
    pub fn subscribe(&mut self, message: Pattern, peer: Pattern, limits: Queue) -> Option<SubscriptionId> {
        if self.each.len() >= MAX_SUBSCRIPTIONS {
            return None;
        }
        let id = SubscriptionId(self.next);
        self.next += 1;
        let limits = Queue { messages: limits.messages.max(1), ..limits };
        let queue = VecDeque::new();
        self.each.insert(id, Subscription { message, peer, limits, queue, bytes: 0, dropped: 0 });
        Some(id)
    }

    /// Ends a subscription, with the messages that wait in it. False: there is none of this name.
    pub fn unsubscribe(&mut self, id: SubscriptionId) -> bool {
        let Some(gone) = self.each.remove(&id) else { return false };
        self.stopped -= usize::from(gone.stops());
        true
    }

    /// Copies a message, without its bytes, into every queue that it matches. Returns their number, full ones that
    /// dropped it included.
    pub fn deliver(&mut self, data: &Bytes, from: SocketAddr) -> usize {
        if !self.unique.is_new(data, from) {
            return 0;
        }
        let mut peer = Name::default();
        // A name fits: an IPv6 address with scope and port has at most 58 characters.
        let _ = write!(peer, "{from}");
        let mut matched = 0;
        for subscription in self.each.values_mut() {
            if subscription.peer.matches(&peer.0) && subscription.message.matches(data) {
                let stopped = subscription.stops();
                subscription.put(Message { data: data.clone(), from });
                self.stopped += usize::from(subscription.stops() && !stopped);
                matched += 1;
            }
        }
        matched
    }

    /// Returns the oldest message of a subscription.
    pub fn recv(&mut self, id: SubscriptionId) -> Option<Message> {
        let subscription = self.each.get_mut(&id)?;
        let stopped = subscription.stops();
        let message = subscription.take()?;
        self.stopped -= usize::from(stopped && !subscription.stops());
        Some(message)
    }

    /// Returns true if the pipe may be read: no queue that stops the reading is full. Messages that are delivered all
    /// the same are kept.
    pub fn may_read(&self) -> bool {
        self.stopped == 0
    }

    /// Returns the number of messages that a subscription dropped because it was full. `None`: there is none of this
    /// name.
    pub fn dropped(&self, id: SubscriptionId) -> Option<u64> {
        self.each.get(&id).map(|s| s.dropped)
    }

    /// Returns the number of messages that wait in a subscription. `None`: there is none of this name.
    pub fn waiting(&self, id: SubscriptionId) -> Option<usize> {
        self.each.get(&id).map(|s| s.queue.len())
    }

    /// Returns the number of subscriptions.
    pub fn len(&self) -> usize {
        self.each.len()
    }

    /// Returns true if there are no subscriptions.
    pub fn is_empty(&self) -> bool {
        self.each.is_empty()
    }
}

impl Subscription {
    fn put(&mut self, message: Message) {
        if self.limits.overflow == Overflow::DropNewest && !self.has_room(message.data.len()) {
            self.dropped += 1;
            return;
        }
        if self.limits.overflow == Overflow::DropOldest {
            while !self.has_room(message.data.len()) && self.take().is_some() {
                self.dropped += 1;
            }
        }
        self.bytes += message.data.len();
        self.queue.push_back(message);
    }

    fn take(&mut self) -> Option<Message> {
        let message = self.queue.pop_front()?;
        self.bytes -= message.data.len();
        Some(message)
    }

    /// Returns true if the message fits. A first message always fits, however long.
    fn has_room(&self, len: usize) -> bool {
        self.queue.is_empty()
            || (self.queue.len() < self.limits.messages
                && self.bytes.saturating_add(len) <= self.limits.bytes)
    }

    fn stops(&self) -> bool {
        self.limits.overflow == Overflow::StopReading
            && (self.queue.len() >= self.limits.messages
                || (self.bytes >= self.limits.bytes && !self.queue.is_empty()))
    }
}

/// A socket address's text, without an allocation for each message.
#[derive(Default)]
struct Name(SmallVec<[u8; 64]>);

impl Write for Name {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
