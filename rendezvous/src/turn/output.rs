//! Things that a server wants done, and what it has counted.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use crate::ConnId;

/// A socket to relay with. Never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
// Exhaustive: a bare number.
pub struct RelayId(pub u64);

/// Action for the owner of the server.
#[derive(Clone, PartialEq, Eq, Debug)]
// Exhaustive: the owner has to do each.
pub enum Output {
    /// Send a datagram from the listening socket bound to `from`.
    Datagram {
        /// Local address of the listening socket.
        from: SocketAddr,
        /// Destination.
        to: SocketAddr,
        /// The payload.
        data: Bytes,
    },
    /// Send on a client's stream.
    Send(ConnId, Bytes),
    /// Close a client's stream.
    Close(ConnId),
    /// Open a UDP socket that peers reach at this address, on a port of the system's choice, and say
    /// [`Server::opened`](super::Server::opened).
    Open(RelayId, IpAddr),
    /// Send a datagram from a relaying socket.
    Relay {
        /// Relay that sends.
        relay: RelayId,
        /// Destination.
        to: SocketAddr,
        /// The payload.
        data: Bytes,
    },
    /// Close a relaying socket.
    CloseRelay(RelayId),
}

/// Counts of what happened.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
// Exhaustive: tests compare it whole.
pub struct Stats {
    /// Allocations that were made.
    pub allocated: u64,
    /// Allocations that were refused because there were too many.
    pub over_quota: u64,
    /// Datagrams and streams that were none of TURN's, and dropped.
    pub malformed: u64,
    /// Messages of clients without an allocation that were dropped because there were too many.
    pub over_rate: u64,
    /// Requests and datagrams to or from peers that are not relayed to.
    pub forbidden: u64,
    /// Datagrams that were dropped because an allocation or a user had its bytes.
    pub over_bytes: u64,
}
