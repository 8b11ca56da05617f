//! The TURN client (RFC 8656): one relayed address at one server, kept alive until it is given up.
//!
//! [`Client`] is a machine of its own and knows nothing of nodes or sockets. Its owner has a UDP socket or a
//! stream (TCP, or TLS on it) to the server, hands in what comes from there and nothing else, and sends there
//! what it asks for:
//!
//! ```
//! # #[cfg(feature = "relay")] {
//! use p2pd_core::turn::{Client, Config, Credentials};
//! use p2pd_core::{Instant, Transport};
//!
//! let config = Config::new(Transport::Udp, Credentials::new("alice", "secret"));
//! let mut now = Instant::ZERO;
//! let mut client = Client::new(config, [7; 32], now);
//! client.permit(now, "203.0.113.9".parse().unwrap()).unwrap();
//! // The owner's loop: send what is to be sent, take the events, wait for the server or the deadline.
//! let allocate = client.poll_transmit().unwrap();
//! assert_eq!(allocate[..2], [0, 3]);
//! assert!(client.poll_event().is_none());
//! now = client.poll_timeout().unwrap();
//! client.handle_timeout(now);
//! assert_eq!(client.poll_transmit().unwrap(), allocate, "asked again after 500 ms");
//! # }
//! ```
//!
//! # What it does
//! - Allocate, with the long-term credentials of RFC 8489, with SHA-256 and a hashed user name where the server
//!   offers them. An answer to a request with credentials counts only if its integrity fits; 401 and 438 cannot
//!   have any.
//! - [`Client::send_permitting`] sends to any peer, and asks for the permission on the way.
//! - Each peer it is told to [permit](Client::permit) gets a permission, matched by address as RFC 8656 section 9
//!   has it, and each peer it [sends](Client::send) to a channel; until that is bound, Send indications do.
//! - Refreshes, by [`Lifetimes`]: at a time that leaves 60 s, or half of it where it is short. Also after
//!   20 s in which nothing went one of the ways. That keeps the NATs before the server open: 30 s is the shortest timeout
//!   in use (RFC 4787 section 4.3 asks for 2 minutes). It finds out within a minute that the server has vanished.
//! - Over UDP a request is sent seven times within 31.5 s and given up after 39.5 s (RFC 8489 section 6.2.1 with
//!   its defaults); over a stream it is sent once and given up at the same time.
//!
//! # What it bounds
//! [`MAX_PEERS`] permissions and [`MAX_CHANNELS`] channels; [`MAX_QUEUED`] datagrams to be sent and as many events;
//! [`MAX_PENDING`] datagrams that wait for a permission. What is beyond is dropped, as a network would, and
//! counted in [`Stats`].

#[cfg(feature = "relay")]
mod auth;
#[cfg(feature = "relay")]
mod client;
mod credentials;
#[cfg(feature = "relay")]
mod exchange;
#[cfg(feature = "relay")]
mod peers;

use core::fmt;
use core::time::Duration;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use crate::wire::{GuardError, Transport};

pub use crate::wire::Family;
#[cfg(feature = "relay")]
pub use client::Client;
pub use credentials::Credentials;

/// Most peers with a permission at a time.
pub const MAX_PEERS: usize = 64;
/// Most channels at a time. A peer without one is sent to by Send indications.
pub const MAX_CHANNELS: usize = 128;
/// Most datagrams to be sent, and most events, that wait for their owner; of at most 2 KiB each.
pub const MAX_QUEUED: usize = 1024;
/// Most datagrams that wait for a permission.
pub const MAX_PENDING: usize = 16;
/// Longest payload: with a Send indication's header, and UDP's and IPv6's below, it fills an Ethernet frame.
pub const MAX_PAYLOAD: usize = 1400;

/// Configuration of a client.
#[derive(Clone, Debug)]
// Exhaustive: users write it over `Config::new`.
pub struct Config {
    /// Transport to the server: UDP, or a stream.
    pub transport: Transport,
    /// Credentials at the server. `None` is for a server that admits anyone, whose answers carry no proof.
    pub credentials: Option<Credentials>,
    /// Address family of the relayed address, and so of peers. Default IPv4.
    pub family: Family,
    /// Lifetimes at the server.
    pub lifetimes: Lifetimes,
    /// Silence, of ours or of the server's, after which the allocation is refreshed; zero for none. NATs on the way hear
    /// something so, and a server that vanished is given up 39.5 s later. Default 20 s.
    pub silence: Duration,
}

impl Config {
    /// The defaults, for this transport and these credentials.
    pub fn new(transport: Transport, credentials: impl Into<Option<Credentials>>) -> Self {
        let credentials = credentials.into();
        Config {
            transport,
            credentials,
            family: Family::V4,
            lifetimes: Lifetimes::default(),
            silence: Duration::from_secs(20),
        }
    }
}

/// Lifetimes at the server without a refresh.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: RFC 8656 has these three.
pub struct Lifetimes {
    /// The allocation's, as it is asked for, in whole seconds; the server's answer counts. Default 600 s.
    pub allocation: Duration,
    /// A permission's. Default 300 s, which RFC 8656 section 9 fixes; coturn can be set otherwise.
    pub permission: Duration,
    /// A channel's. Default 600 s, which RFC 8656 section 12 fixes; coturn can be set otherwise.
    pub channel: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Lifetimes {
            allocation: Duration::from_secs(600),
            permission: Duration::from_secs(300),
            channel: Duration::from_secs(600),
        }
    }
}

/// Event of a client for its owner.
#[derive(Clone, PartialEq, Eq, Debug)]
// Exhaustive: the owner has to do something about each.
pub enum Event {
    /// The server relays for us.
    Allocated {
        /// The address at the server that peers send to.
        relayed: SocketAddr,
        /// The IPv6 address beside an IPv4 one, where both were asked for and the server has both.
        other: Option<SocketAddr>,
        /// The address that the server sees us at.
        mapped: SocketAddr,
        /// Lifetime without a refresh; the client refreshes in time.
        lifetime: Duration,
    },
    /// Datagrams pass between us and this peer from now on, in both directions.
    Permitted(IpAddr),
    /// The server does not let this peer through: ERROR-CODE, 403 for addresses it relays to nobody.
    Refused {
        /// The peer, which needs a new [`Client::permit`] if it is to be tried again.
        peer: IpAddr,
        /// ERROR-CODE.
        code: u16,
    },
    /// A permitted peer sent this. The bytes are nobody else's: `BytesMut::from` takes them without a copy.
    Data {
        /// Address of the peer.
        from: SocketAddr,
        /// The payload.
        data: Bytes,
    },
    /// No allocation was made, or it has ended. The last event.
    Lost(Error),
    /// [`Client::close`] is done: the server holds nothing of ours, or does not say. The last event.
    Closed,
}

/// Reasons for which there is no allocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Error {
    /// The server did not answer a request for 39.5 s.
    NoAnswer,
    /// The same, but for answers with this ERROR-CODE whose integrity did not show who sent them.
    Unproven(u16),
    /// 401 for a request with credentials: the name or the password is not the server's, or no longer.
    WrongCredentials,
    /// 438 for three requests in a row, each with the nonce that the server gave last.
    StaleNonce,
    /// The server gave an address without asking who we are, so that nothing it says would be proven.
    NoChallenge,
    /// 401 where we have no credentials.
    WantsCredentials,
    /// The server's password algorithms are all unknown, or it took away what its nonce says it has.
    NoCommonAlgorithm,
    /// The user's name, or the server's realm or nonce, is longer than their attributes may be.
    TooLong,
    /// An answer without what must be in it, or with an address of another family.
    BadAnswer,
    /// 300: the server sends us to this one. Whoever follows should count, servers can send in circles; and trust the
    /// other no more than this one, since the answer may have come before there was anything to prove it with.
    Redirected(SocketAddr),
    /// 403: not for us.
    Forbidden,
    /// 437 for an Allocate: our address and port still have an allocation. Another local port helps.
    PortInUse,
    /// 437 later: the server has forgotten the allocation, because it was restarted for example.
    AllocationGone,
    /// 440: the server has no addresses of the family.
    UnsupportedFamily,
    /// 441: the allocation is another user's.
    OtherUser,
    /// 442: the server does not relay UDP.
    UnsupportedTransport,
    /// 486: the user has as many allocations as it may have.
    Quota,
    /// 508: the server has no capacity left.
    Capacity,
    /// ERROR-CODE of another rejection.
    Rejected(u16),
    /// The stream is no TURN.
    OutOfStep(GuardError),
    /// The server closed the stream.
    ServerClosed,
    /// The server closed the stream in the middle of a frame.
    CutOff,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Error::NoAnswer => "the TURN server does not answer",
            Error::Unproven(code) => {
                return write!(f, "the TURN server answers with error {code} only, and without integrity");
            }
            Error::WrongCredentials => "the TURN server does not take the credentials",
            Error::StaleNonce => "the TURN server takes none of its own nonces",
            Error::NoChallenge => {
                "the TURN server asks for no credentials, so its answers prove nothing, and the configuration has some"
            }
            Error::WantsCredentials => "the TURN server wants credentials, and the configuration has none",
            Error::NoCommonAlgorithm => "the TURN server has no password algorithm that is known here",
            Error::TooLong => "user name, realm or nonce too long",
            Error::BadAnswer => "the TURN server's answer is incomplete",
            Error::Redirected(to) => return write!(f, "the TURN server sends us to {to}"),
            Error::Forbidden => "the TURN server forbids it",
            Error::PortInUse => "the TURN server has an allocation for our port already",
            Error::AllocationGone => "the TURN server has forgotten the allocation",
            Error::UnsupportedFamily => "the TURN server has no addresses of this family",
            Error::OtherUser => "the allocation is another user's",
            Error::UnsupportedTransport => "the TURN server does not relay UDP",
            Error::Quota => "the TURN user has too many allocations",
            Error::Capacity => "the TURN server is full",
            Error::Rejected(code) => return write!(f, "the TURN server answers with error {code}"),
            Error::OutOfStep(why) => return write!(f, "not a TURN stream: {why}"),
            Error::ServerClosed => "the TURN server closed the connection",
            Error::CutOff => "the TURN server closed the connection in the middle of a message",
        })
    }
}

impl std::error::Error for Error {
    /// Returns the rule that the stream broke.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::OutOfStep(why) => Some(why),
            _ => None,
        }
    }
}

/// Reasons for which a peer cannot be permitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PermitError {
    /// The client is closed or lost.
    Closed,
    /// The peer is of another family than the relayed address.
    Family,
    /// [`MAX_PEERS`] are.
    TooMany,
}

impl fmt::Display for PermitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PermitError::Closed => "the allocation is closed",
            PermitError::Family => "the peer is of another address family than the relayed address",
            PermitError::TooMany => "too many peers",
        })
    }
}

impl std::error::Error for PermitError {}

/// Reasons for which a datagram cannot be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SendError {
    /// The client is closed or lost.
    Closed,
    /// The peer was not [permitted](Client::permit), or the server refused it.
    NotPermitted,
    /// Longer than [`MAX_PAYLOAD`].
    TooLong,
    /// The peer is of another family than the relayed address.
    Family,
    /// [`MAX_PEERS`] have a permission, and each was sent to or heard within 5 min.
    TooManyPeers,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SendError::Closed => "the allocation is closed",
            SendError::NotPermitted => "the peer has no permission",
            SendError::TooLong => "longer than a datagram through the relay may be",
            SendError::Family => "the peer is of another address family than the relayed address",
            SendError::TooManyPeers => "too many peers",
        })
    }
}

impl std::error::Error for SendError {}

/// Counters of a client.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
// Exhaustive: tests compare it whole.
pub struct Stats {
    /// Messages that are none, or not for a client.
    pub malformed: u64,
    /// Answers to no request under way, late ones among them.
    pub unasked: u64,
    /// Answers without the integrity they must have, or with a wrong one.
    pub forged: u64,
    /// Datagrams of peers without a permission, and on channels that we did not bind.
    pub strangers: u64,
    /// Frames of a stream longer than 2 KiB.
    pub oversized: u64,
    /// Datagrams dropped because too many waited, to be sent or to be taken.
    pub dropped: u64,
}
