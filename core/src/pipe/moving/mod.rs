//! One pipe over changing carriers: first a relay's stream, then a direct one, and back again if that breaks.
//!
//! A carrier is any ordered stream of bytes between the same two authenticated ends; it may break at any byte. The
//! pipe's bytes are numbered. What was sent is kept until the peer acknowledges it, in the same frames. Each end
//! sends on the best carrier that it has and listens to all, so a move needs no agreement: on a new carrier it begins
//! with the first byte that is not acknowledged, and the other end drops what it has already.

mod frame;
mod mover;

use core::fmt;
use core::time::Duration;

pub use mover::Mover;

use crate::relay::ReadOutcome;

/// A carrier, as its holder calls it. Never used twice for one pipe.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CarrierId(pub u32);

/// Which carriers are better. A newer one of the same kind is better than an older one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum CarrierKind {
    /// Through a relay. It notices by itself when the peer is gone.
    Relayed,
    /// From host to host. It may go silent, so it is asked for a sign of life.
    Direct,
}

/// The most carriers at a time.
pub const MAX_CARRIERS: usize = 4;

/// What may be sent before the peer has said anything, in bytes.
pub const FIRST_LIMIT: u64 = 65_536;

/// What can be chosen about a moving pipe. Both ends choose for themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MoverConfig {
    /// How many bytes are kept until the peer acknowledges them. Default 4 MiB, as for the relay stream.
    pub send_buffer: usize,
    /// How many received bytes are kept until they are read. At least [`FIRST_LIMIT`]; default 4 MiB.
    pub receive_buffer: usize,
    /// After how long a silence a direct carrier is asked for a sign of life. Default 5 s.
    pub ask_after: Duration,
    /// How long it has to answer before it counts as broken. Default 5 s.
    pub patience: Duration,
    /// How long the pipe outlives its last carrier. Default 30 s.
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

/// What happened on a moving pipe. Each is reported once, however often it happened since the last time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MoverEvent {
    /// Our bytes go over this carrier from now on.
    Moved(CarrierId),
    /// This carrier gave no sign of life, and is forgotten: close it.
    Silent(CarrierId),
    /// There is no carrier. One has to be attached within [`MoverConfig::linger`].
    Stranded,
    /// There is something to [`read`](Mover::read), or the peer's end: read until `Empty` or `End`.
    Readable,
    /// There is room for [`write`](Mover::write) after it had taken less than it was given.
    Writable,
    /// Everything that was written before [`finish`](Mover::finish) has arrived at the peer.
    Delivered,
    /// It is over in both directions. What has arrived can be read still; nothing else follows.
    Ended(MoverEnd),
}

/// Why a moving pipe ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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

impl std::error::Error for MoverEnd {}

/// What a peer must not send, or a caller not do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MoveError {
    /// There is no such kind of frame.
    UnknownFrame(u8),
    /// DATA of no bytes, or of more than 16 KiB.
    Length(u16),
    /// Bytes that are not joined to those before.
    Gap,
    /// More than was allowed.
    Overrun,
    /// Bytes after the end, or two ends.
    AfterEnd,
    /// An acknowledgement of what was not sent.
    NotSent,
    /// There are [`MAX_CARRIERS`] already.
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
