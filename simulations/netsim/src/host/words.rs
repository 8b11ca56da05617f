//! Wishes to a host's sockets, and their failures.

use std::fmt;
use std::net::IpAddr;

/// Reason that a socket's call or connection failed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
// Exhaustive: what a program does about each is its own matter.
pub enum Failure {
    /// `ECONNREFUSED`: the SYN was answered by RST, or a datagram by ICMP port unreachable.
    Refused,
    /// `ECONNRESET`: the other end broke the stream.
    Reset,
    /// `ETIMEDOUT`: no answer came in time.
    TimedOut,
    /// `EADDRINUSE`: the local port is taken.
    AddrInUse,
    /// `EADDRNOTAVAIL`: none of the host's addresses, no free port, or a connection with these two ends exists.
    AddrNotAvailable,
    /// `EHOSTUNREACH` and `ENETUNREACH`: no route, or a router said so by ICMP.
    Unreachable,
    /// `EINVAL`: the call does not fit the socket.
    Invalid,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Failure::Refused => "connection refused",
            Failure::Reset => "connection reset",
            Failure::TimedOut => "no answer in time",
            Failure::AddrInUse => "local port already in use",
            Failure::AddrNotAvailable => "local address not available",
            Failure::Unreachable => "host or network unreachable",
            Failure::Invalid => "invalid argument",
        })
    }
}

impl std::error::Error for Failure {}

/// Sharing of a local port with other sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
// Exhaustive: as Linux has it.
pub enum Reuse {
    /// No sharing: a second bind of the port fails.
    #[default]
    No,
    /// `SO_REUSEADDR`: may bind over connections in TIME_WAIT.
    Address,
    /// `SO_REUSEADDR` and `SO_REUSEPORT`: listeners and dials on one port, each of which has to ask for it.
    AddressAndPort,
}

/// Room for a stream's bytes at a host, on each side of its program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: as Linux has it.
pub struct Buffers {
    /// Bytes that are sent and not acknowledged, or wait to be sent (`SO_SNDBUF`).
    pub send: usize,
    /// Bytes that arrived and were not read (`SO_RCVBUF`): the window.
    pub receive: usize,
}

impl Buffers {
    /// 128 KiB to send, twice the most that is in flight, as Linux's autotuning has it; 64 KiB to receive, as Linux begins with.
    /// Neither grows.
    pub const LINUX: Buffers = Buffers { send: 128 * 1024, receive: 64 * 1024 };
}

/// A send buffer without a limit, for programs that are not told to wait, and a receive buffer of 64 KiB.
impl Default for Buffers {
    fn default() -> Buffers {
        Buffers { send: usize::MAX, ..Buffers::LINUX }
    }
}

/// Way in which a socket ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: as Linux has it.
pub enum Close {
    /// Sends the queued bytes, then FIN.
    Graceful,
    /// Throws the queue away and sends RST (`SO_LINGER` 0).
    Reset,
    /// Closes the descriptor: FIN, or RST where bytes were not read.
    Drop,
}

/// Address of a host, as its programs see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Interface {
    /// Index of the interface, from 1.
    pub index: u32,
    /// The address.
    pub ip: IpAddr,
    /// Length of its on-link prefix, in bits.
    pub prefix: u8,
    /// The default gateway of the address's network; `None` where there is none.
    pub gateway: Option<IpAddr>,
}
