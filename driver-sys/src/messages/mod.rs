//! Common part of pipes of messages in every driver: source and destination, options, addresses of servers, and ends.

mod address;
pub mod network;
mod options;
mod routes;
pub mod stun;
mod target;

use std::fmt;
use std::io;

use p2pd_core::PipeEnd;
use p2pd_core::pipe::subscriptions::{Message, SubscriptionId, Subscriptions};
use socket2::SockRef;

pub use address::{Destination, Family, Found, OpenError, Protocol, Route, fitting};
pub use network::NetworkChange;
pub use options::PipeOptions;
pub use routes::{IpRange, RouteEntry, RouteTable};
pub use target::{Bound, ListenError, ListenFailure, Target, combine};

/// Longest datagram there can be.
pub const MAX_DATAGRAM: usize = 65_536;

/// Clients that the system holds for each listening TCP port until they are accepted.
const BACKLOG: u16 = 1024;

/// Borrowed socket of a pipe, in the standard library's form.
#[cfg(unix)]
pub type SystemSocket<'a> = std::os::fd::BorrowedFd<'a>;
/// Borrowed socket of a pipe, in the standard library's form.
#[cfg(windows)]
pub type SystemSocket<'a> = std::os::windows::io::BorrowedSocket<'a>;

/// Returns a socket as the standard library has it.
pub fn lend<'a>(socket: &'a SockRef<'_>) -> SystemSocket<'a> {
    #[cfg(unix)]
    return std::os::fd::AsFd::as_fd(&**socket);
    #[cfg(windows)]
    return std::os::windows::io::AsSocket::as_socket(&**socket);
}

/// Outcome of the reading of a pipe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: reading ends well or with an error.
pub enum End {
    /// The peer sends no more; it may still be sent to.
    Peer,
    /// The pipe was closed on this side.
    Closed,
    /// The pipe broke.
    Failed(io::ErrorKind),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Peer => f.write_str("the peer sends no more"),
            End::Closed => f.write_str("the pipe is closed"),
            End::Failed(io::ErrorKind::TimedOut) => write!(f, "the pipe broke: {}", PipeEnd::Vanished),
            End::Failed(why) => write!(f, "the pipe broke: {why}"),
        }
    }
}

/// A pipe has [`MAX_SUBSCRIPTIONS`](p2pd_core::pipe::subscriptions::MAX_SUBSCRIPTIONS) already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManySubscriptions;

impl fmt::Display for TooManySubscriptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the pipe has as many subscriptions as it may have")
    }
}

impl std::error::Error for TooManySubscriptions {}

/// Returns true if a UDP socket's error is only about an earlier datagram to some address. Other datagrams are not
/// concerned.
pub fn is_of_a_datagram(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable};
    matches!(kind, ConnectionRefused | ConnectionReset | HostUnreachable | NetworkUnreachable)
}

/// Reason why there is no message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: a receiver tells each from the others.
pub enum RecvError {
    /// The time passed without a message. A mio loop has times of its own.
    TimedOut,
    /// The reading has ended, so no message will come.
    Ended(End),
    /// The subscription does not exist, or not any more.
    NoSuchSubscription,
}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecvError::TimedOut => f.write_str("no message came in time"),
            RecvError::Ended(end) => write!(f, "{end}"),
            RecvError::NoSuchSubscription => f.write_str("there is no such subscription"),
        }
    }
}

impl std::error::Error for RecvError {}

/// Takes the oldest message of a subscription of a pipe, whose reading may have ended; `Ok(None)`: none has come yet.
///
/// # Errors
/// The reason why no message will come.
pub fn recv(
    subscriptions: &mut Subscriptions,
    from: SubscriptionId,
    end: Option<End>,
) -> Result<Option<Message>, RecvError> {
    match (subscriptions.recv(from), end) {
        (None, _) if subscriptions.waiting(from).is_none() => Err(RecvError::NoSuchSubscription),
        (None, Some(end)) => Err(RecvError::Ended(end)),
        (message, _) => Ok(message),
    }
}
