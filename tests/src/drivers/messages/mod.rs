//! Pipes of messages of every driver behind the same calls, which block.

mod futures;
mod looping;

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use p2pd_core::pipe::subscriptions::{Message, Pattern, Queue, SubscriptionId};
use p2pd_sys::messages::{Destination, End, Family, ListenError, OpenError, PipeOptions, Protocol, Route};

use super::Driver;

/// A pipe's name.
pub type Key = usize;

/// Reason why there is no message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoMessage {
    /// The time passed without a message.
    Late,
    /// The reading has ended, so no message will come.
    Ended(End),
    /// The pipe or subscription does not exist.
    Gone,
}

/// The pipes of a driver, which go with it.
pub trait Pipes: Send + Sync {
    /// Opens one to a destination.
    ///
    /// # Errors
    /// The driver's.
    fn open(
        &self,
        protocol: Protocol,
        to: Destination,
        route: Route,
        options: &PipeOptions,
    ) -> Result<Key, OpenError>;
    /// A UDP server.
    fn bind(&self, route: Route, options: &PipeOptions) -> Key;
    /// Connects a TCP pair and returns both ends.
    fn pair(&self, options: &PipeOptions) -> [Key; 2];
    /// Serves echo on loopback, over TCP and UDP; where.
    ///
    /// # Errors
    /// The driver's.
    fn echo(
        &self,
        ports: RangeInclusive<u16>,
        families: &[Family],
    ) -> Result<Vec<(SocketAddr, Protocol)>, ListenError>;
    /// A pipe's own end.
    fn local(&self, pipe: Key) -> SocketAddr;
    /// Subscribes to matching messages, from any sender.
    fn subscribe(&self, pipe: Key, message: Pattern, queue: Queue) -> SubscriptionId;
    /// Returns the number of messages that wait in a subscription, and of those that it dropped.
    fn count(&self, pipe: Key, of: SubscriptionId) -> (usize, u64);
    /// The next message of a subscription.
    ///
    /// # Errors
    /// The reason why there is none.
    fn recv(&self, pipe: Key, from: SubscriptionId, within: Duration) -> Result<Message, NoMessage>;
    /// Sends; false: it could not.
    fn send(&self, pipe: Key, data: &[u8]) -> bool;
    /// Sends each message of one pipe to another's destination.
    fn link(&self, from: Key, to: Key);
    /// Makes two pipes one.
    fn join(&self, one: Key, other: Key);
    /// Ends our direction.
    fn finish(&self, pipe: Key);
    /// Ends a pipe.
    fn close(&self, pipe: Key);
    /// Breaks a pipe off.
    fn abort(&self, pipe: Key);
    /// Waits for the end of reading, and returns its outcome.
    fn ended(&self, pipe: Key) -> End;
}

impl Driver {
    /// Pipes of messages of this driver.
    pub fn message_pipes(self) -> Box<dyn Pipes> {
        match self {
            Driver::Mio => Box::new(looping::Looping::new()),
            Driver::Tokio => Box::new(futures::Blocking::<p2pd_tokio::Tokio>::default()),
            Driver::AsyncStd => Box::new(futures::Blocking::<p2pd_async_std::AsyncIo>::default()),
        }
    }
}
