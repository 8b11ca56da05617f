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

pub use address::{Destination, Family, Found, OpenError, Protocol, Route, fitting};
pub use network::NetworkChange;
pub use options::PipeOptions;
pub use routes::{IpRange, RouteEntry, RouteTable};
pub use target::{Bound, ListenError, ListenFailure, Target, combine};

/// Longest datagram there can be.
pub const MAX_DATAGRAM: usize = 65_536;

/// Clients that the system holds for each listening TCP port until they are accepted.
const BACKLOG: u16 = 1024;

/// Outcome of the reading of a pipe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
