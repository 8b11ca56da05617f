//! What pipes of messages are in every driver, whatever waits for their sockets: where they go to and from, what can be set,
//! where servers listen, how they end.

mod address;
mod options;
mod target;

use std::fmt;
use std::io;

use p2pd_core::PipeEnd;

pub use address::{Destination, Family, Found, OpenError, Protocol, Route, fitting};
pub use options::PipeOptions;
pub use target::{Bound, ListenError, ListenFailure, Target, combine};

/// Longest datagram there can be.
pub const MAX_DATAGRAM: usize = 65_536;

/// Clients that the system holds for each listening TCP port until they are accepted.
const BACKLOG: u16 = 1024;

/// How the reading of a pipe ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The peer sends no more; it may still be sent to.
    Peer,
    /// The pipe was closed on this side.
    Closed,
    /// It broke.
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

/// Whether a UDP socket's error says only what became of an earlier datagram to somebody, which says nothing of the others.
pub fn is_of_a_datagram(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable};
    matches!(kind, ConnectionRefused | ConnectionReset | HostUnreachable | NetworkUnreachable)
}
