//! Pipes to peers, which users get, and the form of their bytes on the wire.

mod echo;
mod record;

pub mod session;
#[cfg(feature = "messages")]
pub mod subscriptions;

use core::fmt;
use core::time::Duration;
use std::net::SocketAddr;

use smallvec::SmallVec;

pub use echo::echo_reply;
pub use record::{MAX_PLAIN, MAX_RECORD, Opened, Opener, RecordError, Sealer};

use crate::call::{ConnectId, Strategy};
use crate::identity::NodeId;

/// Protection of a pipe's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
// Exhaustive: a driver has to know what each is for.
pub enum PipeMode {
    /// Sealed records: nobody on the path can read or change a byte, nor cut the end off unnoticed.
    #[default]
    Encrypted,
    /// No protection after the hello: each end proves its identity, then the stream is a bare TCP stream. Its bytes can
    /// be read and changed on the path. It is free to be handed to code that knows nothing of us.
    Plain,
    /// Sealed records that carry a [session], and are no pipe of their own. Drivers ask for it.
    Session,
}

impl PipeMode {
    /// Returns the mode's byte in the hello and in signalling.
    pub(crate) const fn code(self) -> u8 {
        match self {
            PipeMode::Encrypted => 0,
            PipeMode::Plain => 1,
            PipeMode::Session => 2,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(PipeMode::Encrypted),
            1 => Some(PipeMode::Plain),
            2 => Some(PipeMode::Session),
            _ => None,
        }
    }
}

impl fmt::Display for PipeMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PipeMode::Encrypted => "encrypted",
            PipeMode::Plain => "plain",
            PipeMode::Session => "session",
        })
    }
}

/// The keys of a detached stream, or none for a plain one.
#[derive(Debug)]
// Exhaustive: a driver has to know what to do with each.
pub enum PipeKeys {
    /// Sealed records: seal and open each record with these.
    Encrypted(Sealer, Opener),
    /// Plain bytes: read and write the stream as it is.
    Plain,
    /// No stream: the node carries the bytes. They are sealed end to end also where a plain pipe was asked for.
    Relayed(PipeMode),
}

/// A relayed pipe or an allocation, which run through their node. Never used twice in one node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PipeId(pub(crate) u64);

impl PipeId {
    /// Returns the bare number.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// Returns the id with this number, as a trace holds it.
    pub const fn from_number(n: u64) -> Self {
        PipeId(n)
    }
}

impl fmt::Debug for PipeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", self.0)
    }
}

/// Event on a relayed pipe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PipeNews {
    /// Bytes, or the peer's end, may be there to read.
    Readable,
    /// Room is there again, after a write that took nothing.
    Writable,
    /// Messages may be there: call [`Node::pipe_read_message`](crate::Node::pipe_read_message) until there are none.
    /// Of an allocation: datagrams, for [`Node::pipe_recv_from`](crate::Node::pipe_recv_from).
    Message,
    /// Room for a message again, after [`MessageError::Full`](crate::relay::MessageError::Full).
    MessageRoom,
    /// All that was written has arrived at the peer, after [`Node::pipe_finish`](crate::Node::pipe_finish).
    Delivered,
    /// The pipe is over. Bytes that have arrived can be read still.
    Ended(PipeEnd),
}

/// Reason that a pipe is over in both directions, though neither end closed it in the other's hearing. All but the last
/// two are of relayed pipes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PipeEnd {
    /// The peer closed the pipe.
    ClosedByPeer,
    /// Silence of the peer for 30 to 40 s: it is gone, or the relay is.
    Silent,
    /// The relayed connection broke; the QUIC error code (RFC 9000 section 20).
    Broken(u64),
    /// The TURN server has forgotten us: it was restarted, for example.
    ServerForgot,
    /// The TURN server closed the connection, or does not answer any more.
    ServerGone,
    /// Loss of the path that UDP punching had found.
    NoPath,
    /// The node was shut down.
    Shutdown,
    /// The peer has answered nothing for [`Liveness::patience`](crate::Liveness::patience).
    Vanished,
    /// Loss of our address under the pipe, or of its interface.
    AddressGone,
}

impl fmt::Display for PipeEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PipeEnd::ClosedByPeer => "the peer closed the relayed pipe",
            PipeEnd::Silent => "nothing is heard of the peer through the relay",
            PipeEnd::Broken(code) => return write!(f, "the relayed pipe broke: QUIC error {code:#x}"),
            PipeEnd::ServerForgot => "the TURN server has forgotten the allocation",
            PipeEnd::ServerGone => "the TURN server is gone",
            PipeEnd::NoPath => "no path to the peer is left",
            PipeEnd::Shutdown => "the node was shut down",
            PipeEnd::Vanished => "the peer vanished: nothing is heard of it any more",
            PipeEnd::AddressGone => "our address under the pipe is gone",
        })
    }
}

impl std::error::Error for PipeEnd {}

/// Name of what is spoken over a pipe, as ALPN has it (RFC 7301): 1 to 64 bytes that the callers and listeners of a
/// program have agreed on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProtocolTag {
    bytes: [u8; ProtocolTag::MAX],
    len: u8,
}

impl ProtocolTag {
    /// Longest tag, in bytes.
    pub const MAX: usize = 64;

    /// Returns the tag with these bytes; `None` if there are none, or more than 64.
    pub fn new(tag: &[u8]) -> Option<Self> {
        let mut bytes = [0; Self::MAX];
        bytes.get_mut(..tag.len()).filter(|place| !place.is_empty())?.copy_from_slice(tag);
        Some(ProtocolTag { bytes, len: tag.len() as u8 })
    }

    /// Returns the tag's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Writes the tag as text, with escapes for what is none.
impl fmt::Display for ProtocolTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_bytes().escape_ascii())
    }
}

impl fmt::Debug for ProtocolTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Wishes of a call. Calls of each other that differ in it are not merged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Terms {
    pub(crate) mode: PipeMode,
    pub(crate) protocol: Option<ProtocolTag>,
}

impl Terms {
    #[cfg(test)]
    pub(crate) const PLAIN: Terms = Terms { mode: PipeMode::Plain, protocol: None };
    pub(crate) const ENCRYPTED: Terms = Terms { mode: PipeMode::Encrypted, protocol: None };

    /// Returns these terms for this protocol.
    pub(crate) fn of(mode: PipeMode, protocol: Option<ProtocolTag>) -> Self {
        Terms { mode, protocol }
    }
}

/// A pipe that has become the user's.
#[derive(Debug)]
// Exhaustive: a driver makes a pipe of all of it.
pub struct PipeStart {
    /// Calls of `connect()` that the pipe answers; empty for a peer's connection to us.
    pub answers: SmallVec<[ConnectId; 1]>,
    /// The authenticated peer.
    pub peer: NodeId,
    /// Whether the user named the peer: by the accept list, by a yes, or by a call that runs. Others are strangers.
    pub named: bool,
    /// Strategy that gave the pipe; on the accepting side the one that the peer used.
    pub strategy: Strategy,
    /// Local address of the TCP stream. Of a relayed pipe: our relayed address where the relay is ours.
    pub local: SocketAddr,
    /// The peer's end, as we see it.
    pub remote: SocketAddr,
    /// Time from the call of `connect()`, or from the peer's first sign, to now.
    pub elapsed: Duration,
    /// Protocol that the caller named.
    pub protocol: Option<ProtocolTag>,
    /// Mode that both ends agreed on.
    pub mode: PipeMode,
    /// Keys to read and write with.
    pub keys: PipeKeys,
}
