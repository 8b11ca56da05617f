//! A pipe over changing carriers: first a relay's stream, then a direct one, and back again if that breaks.
//!
//! A carrier is any ordered stream of bytes between the same two authenticated ends; it may break at any byte. The
//! pipe's bytes are numbered. The sender keeps all bytes until the peer acknowledges them, in the same frames. Each end
//! sends on the best carrier that it has and listens to all, so a move needs no agreement. On a new carrier an end
//! begins with the first byte that is not acknowledged. The other end drops the bytes it has already.
//!
//! The reasons: ADR 22 in docs/src/adr.

mod frame;
mod mover;

use core::fmt;
use core::time::Duration;

pub use mover::Mover;

use crate::relay::ReadOutcome;

/// A carrier, as its holder calls it. Never used twice for one pipe.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
// Exhaustive: a bare number.
pub struct CarrierId(pub u32);

/// Kind of a carrier; the greater kind is the better one. A newer carrier of the same kind is better than an older one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
// Exhaustive: a carrier runs through a relay, or it does not.
pub enum CarrierKind {
    /// A carrier through a relay. It notices by itself when the peer is gone.
    Relayed,
    /// A carrier from host to host. It may go silent, so it is asked for a sign of life.
    Direct,
}

/// The most carriers at a time.
pub const MAX_CARRIERS: usize = 4;

/// Number of bytes that may be sent before the peer has said anything.
pub const FIRST_LIMIT: u64 = 65_536;

/// Settings of a moving pipe. Each end chooses for itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: users write it over its default.
pub struct MoverConfig {
    /// Bytes kept until the peer acknowledges them, at most. Default 4 MiB.
    pub send_buffer: usize,
    /// Received bytes kept until they are read, at most. At least [`FIRST_LIMIT`]; default 4 MiB.
    pub receive_buffer: usize,
    /// Silence after which a direct carrier is asked for a sign of life. Default 5 s.
    pub ask_after: Duration,
    /// Time to answer before the carrier counts as broken. Default 5 s.
    pub patience: Duration,
    /// Time that the pipe outlives its last carrier. Default 30 s.
    pub linger: Duration,
}

impl Default for MoverConfig {
    fn default() -> Self {
        MoverConfig {
            send_buffer: 4 << 20,
            receive_buffer: 4 << 20,
            ask_after: Duration::from_secs(5),
            patience: Duration::from_secs(5),
            linger: Duration::from_secs(30),
        }
    }
}

/// News of a moving pipe. Each kind is reported once, however often it happened since the last time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: the holder has to do something about each.
pub enum MoverEvent {
    /// The pipe's bytes go over this carrier from now on.
    Moved(CarrierId),
    /// A carrier gave no sign of life, and is forgotten: close it.
    Silent(CarrierId),
    /// No carrier is left. The holder has to attach one within [`MoverConfig::linger`].
    Stranded,
    /// Bytes or the peer's end can be [`read`](Mover::read): read until `Empty` or `End`.
    Readable,
    /// Room for [`write`](Mover::write) again, after a write that took less than it was given.
    Writable,
    /// All bytes that were written before [`finish`](Mover::finish) have arrived at the peer.
    Delivered,
    /// The pipe is over in both directions. Bytes that have arrived can be read still; nothing else follows.
    Ended(MoverEnd),
}

/// Reason that a moving pipe ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MoverEnd {
    /// The peer closed it.
    ClosedByPeer,
    /// The last carrier broke, and none came in its place.
    NoCarrier,
    /// The peer broke the rules.
    Violation(MoveError),
}

impl fmt::Display for MoverEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MoverEnd::ClosedByPeer => f.write_str("the peer closed the pipe"),
            MoverEnd::NoCarrier => f.write_str("no path to the peer is left"),
            MoverEnd::Violation(why) => write!(f, "the peer broke the pipe's rules: {why}"),
        }
    }
}

impl std::error::Error for MoverEnd {
    /// Returns the rule that the peer broke.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            MoverEnd::Violation(why) => Some(why),
            _ => None,
        }
    }
}

/// Error of a peer that breaks the protocol, or of a caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MoveError {
    /// Frame of an unknown kind.
    UnknownFrame(u8),
    /// DATA of no bytes, or of more than 16 KiB.
    Length(u16),
    /// Bytes that are not joined to those before.
    Gap,
    /// Bytes beyond the limit that was allowed.
    Overrun,
    /// Bytes after the end, or two ends.
    AfterEnd,
    /// An acknowledgement of bytes that were not sent.
    NotSent,
    /// Limit reached: the mover has [`MAX_CARRIERS`] already.
    TooManyCarriers,
}

impl fmt::Display for MoveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MoveError::UnknownFrame(kind) => write!(f, "there is no frame of kind {kind}"),
            MoveError::Length(n) => write!(f, "a frame must not carry {n} bytes"),
            MoveError::Gap => f.write_str("bytes are missing"),
            MoveError::Overrun => f.write_str("more bytes came than were allowed"),
            MoveError::AfterEnd => f.write_str("bytes came after the end"),
            MoveError::NotSent => f.write_str("bytes were acknowledged that were not sent"),
            MoveError::TooManyCarriers => write!(f, "a pipe has at most {MAX_CARRIERS} carriers"),
        }
    }
}

impl std::error::Error for MoveError {}
