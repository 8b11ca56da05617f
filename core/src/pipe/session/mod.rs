//! A session: streams and datagrams between two ends, over any carrier, which survive their carrier.
//!
//! A carrier is any ordered stream of bytes between the same two authenticated ends; it may break at any byte. What
//! changes a stream at the other end goes in frames, which are numbered in one sequence. A frame leaves its stream's
//! queue when a carrier can take it, and is kept until the peer has acknowledged it. On a new carrier each end says how
//! many numbered frames it has, and the other goes on from there. So a resume is one number each way, any number of
//! times.
//!
//! The end that called chooses the carrier, and the other end follows. Datagrams are not kept: those that were under way
//! on a carrier that breaks are lost.
//!
//! The reasons: ADR 37 in docs/src/adr.

mod carrier;
mod datagrams;
mod frame;
mod log;
mod machine;
#[cfg(test)]
mod model;
mod opening;
mod stream;
mod streams;
#[cfg(test)]
mod tests;

use core::fmt;
use core::time::Duration;

use bytes::Bytes;

pub use machine::Session;
pub use opening::{OPENING, Opening, SessionToken};

/// A carrier, as its holder calls it. Never used twice for one session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
// Exhaustive: a bare number.
pub struct CarrierId(pub u32);

/// Kind of a carrier; the greater kind is the better one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
// Exhaustive: a carrier runs through a relay, or it does not.
pub enum CarrierKind {
    /// A carrier through a relay. It notices by itself when the peer is gone.
    Relayed,
    /// A carrier from host to host. It may go silent, so it is asked for a sign of life.
    Direct,
}

/// The most bytes of one DATA frame: with its header it fills a record of 16 KiB.
pub const MAX_DATA: usize = 16 * 1024 - frame::DATA_HEADER;
/// The most bytes of a datagram: what fits the smallest packets of IPv6 with every header, so that no carrier has less.
pub const MAX_DATAGRAM: usize = 1200;
/// The most bytes of a stream's protocol tag, as of ALPN (RFC 7301).
pub const MAX_TAG: usize = 255;
/// The most bytes of the reason that an end of the session gives.
pub const MAX_REASON: usize = 255;
/// The most carriers at a time.
pub const MAX_CARRIERS: usize = 4;
/// Bytes that may be sent on a stream before the peer has said anything.
pub const FIRST_CREDIT: u64 = 65_536;
/// Streams that may be opened before the peer has said anything.
pub const FIRST_STREAMS: u32 = 16;

/// A stream of a session. Never used twice in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(u32);

impl StreamId {
    /// Returns the `n`th stream that this side opens.
    fn new(side: Side, direction: Direction, n: u32) -> Self {
        let side = match side {
            Side::Caller => 0,
            Side::Listener => 1,
        };
        let direction = match direction {
            Direction::Both => 0,
            Direction::One => 2,
        };
        StreamId(n << 2 | direction | side)
    }

    /// Returns the side that opened it.
    pub fn opener(self) -> Side {
        if self.0 & 1 == 0 { Side::Caller } else { Side::Listener }
    }

    /// Returns its directions.
    pub fn direction(self) -> Direction {
        if self.0 & 2 == 0 { Direction::Both } else { Direction::One }
    }

    /// Returns the bare number.
    pub fn number(self) -> u32 {
        self.0
    }

    /// Returns the stream with this number, for those that hand numbers out. The calls of a session take one that it does
    /// not have for a stream that has ended.
    pub fn from_number(number: u32) -> Self {
        StreamId(number)
    }

    /// Returns how many streams its opener had opened before.
    fn count(self) -> u32 {
        self.0 >> 2
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.0)
    }
}

/// End of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: one end called the other.
pub enum Side {
    /// The end that called. It chooses the carrier.
    Caller,
    /// The end that was called.
    Listener,
}

/// Directions of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: a stream has one direction or two.
pub enum Direction {
    /// Both ends send.
    Both,
    /// The end that opened the stream sends.
    One,
}

/// Settings of a session. Each end chooses for itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: users write it over its default.
pub struct SessionConfig {
    /// Streams that the peer may have open at once, of both directions together. At least [`FIRST_STREAMS`], at most
    /// 2^20. Default 256.
    pub streams: u32,
    /// Bytes of one stream that may wait for their reader, at most. At least [`FIRST_CREDIT`]. Default 4 MiB. A stream
    /// begins with [`FIRST_CREDIT`], and gets more while it is read.
    pub stream_window: u64,
    /// Bytes beyond [`FIRST_CREDIT`] that all streams together may have waiting. Default 16 MiB. A stream that stands
    /// still keeps what it was given, and the others have their [`FIRST_CREDIT`] always.
    pub window: u64,
    /// Bytes of frames kept until the peer acknowledges them, at most. At least 256 KiB. Default 4 MiB.
    pub kept: usize,
    /// Bytes of one stream that may wait to be sent, at most. At least 1. Default 256 KiB.
    pub queue: usize,
    /// Bytes that may wait to be sent beyond the first [`MAX_DATA`] of each stream, of all streams together. Default
    /// 4 MiB. Streams of which the peer takes nothing may use them up; the others still have their [`MAX_DATA`].
    pub queues: usize,
    /// Bytes of datagrams that may wait, for the carrier and for the reader, at most; then the oldest are dropped. Each
    /// counts as 64 more. At least one of [`MAX_DATAGRAM`]. Default 64 KiB.
    pub datagrams: usize,
    /// Silence after which a carrier is asked for a sign of life. Default 20 s.
    pub ask_after: Duration,
    /// Time to answer before the carrier is [doubted](SessionEvent::Doubtful). Default 1 s. Doubled after each doubt that
    /// was wrong, up to half of the patience.
    pub doubt: Duration,
    /// Time to answer before the carrier counts as broken. Default 10 s.
    pub patience: Duration,
    /// Time that the session outlives its last carrier. Default 60 s.
    pub linger: Duration,
}

impl Default for SessionConfig {
    fn default() -> Self {
        SessionConfig {
            streams: 256,
            stream_window: 4 << 20,
            window: 16 << 20,
            kept: 4 << 20,
            queue: 256 << 10,
            queues: 4 << 20,
            datagrams: 64 << 10,
            ask_after: Duration::from_secs(20),
            doubt: Duration::from_secs(1),
            patience: Duration::from_secs(10),
            linger: Duration::from_secs(60),
        }
    }
}

impl SessionConfig {
    /// Returns the settings with each inside its bounds.
    fn bounded(mut self) -> Self {
        self.streams = self.streams.clamp(FIRST_STREAMS, 1 << 20);
        self.stream_window = self.stream_window.max(FIRST_CREDIT);
        self.kept = self.kept.max(256 << 10);
        self.queue = self.queue.max(1);
        self.datagrams = self.datagrams.max(MAX_DATAGRAM + log::OVERHEAD);
        self
    }
}

/// News of a session.
#[derive(Clone, PartialEq, Eq, Debug)]
// Exhaustive: the holder has to do something about each.
pub enum SessionEvent {
    /// The peer has opened a stream: [`accept`](Session::accept) it.
    Opened(Direction),
    /// Bytes, the end or a reset can be [`read`](Session::read), after a read that gave nothing.
    Readable(StreamId),
    /// Room for [`write`](Session::write), after a write that took less than it was given.
    Writable(StreamId),
    /// The peer does not want the stream's bytes; the code that it gave. Not told of a stream that was finished here.
    Stopped(StreamId, u32),
    /// Streams may be opened again, after [`OpenError::TooMany`].
    MayOpen,
    /// Datagrams have come: read until there are none.
    Datagram,
    /// All that was written has arrived, after [`is_delivered`](Session::is_delivered) said no.
    Delivered,
    /// Frames go over this carrier from now on.
    Moved(CarrierId),
    /// A carrier that frames go over does not answer. It is kept, and another one should be tried while
    /// [`needs_carrier`](Session::needs_carrier) says so.
    Doubtful(CarrierId),
    /// A carrier gave no sign of life, and is forgotten: close it.
    Silent(CarrierId),
    /// No carrier is left. The holder has to attach one within [`SessionConfig::linger`].
    Stranded,
    /// The session is over. Streams give no more; nothing else follows.
    Ended(SessionEnd),
}

/// Reason that a session ended.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SessionEnd {
    /// The user closed it here.
    Closed,
    /// The peer closed it, with this code and reason.
    ClosedByPeer(u32, Bytes),
    /// The last carrier broke, and none came in its place.
    NoCarrier,
    /// The peer has no such session any more: its process ended, or it gave the session up.
    Unknown,
    /// The peer broke the rules.
    Violation(Violation),
    /// The holder [gave it up](Session::shed): the sessions that it has hold more bytes than they may.
    Overfull,
}

impl fmt::Display for SessionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SessionEnd::Closed => f.write_str("the session was closed here"),
            SessionEnd::ClosedByPeer(code, reason) if reason.is_empty() => {
                write!(f, "the peer closed the session with code {code}")
            }
            SessionEnd::ClosedByPeer(code, reason) => {
                write!(f, "the peer closed the session with code {code}: {}", reason.escape_ascii())
            }
            SessionEnd::NoCarrier => f.write_str("no path to the peer came back in time"),
            SessionEnd::Unknown => f.write_str("the peer does not know the session any more"),
            SessionEnd::Violation(why) => write!(f, "the peer broke the session's rules: {why}"),
            SessionEnd::Overfull => {
                f.write_str("sessions held too many bytes, and this one more than its share")
            }
        }
    }
}

impl std::error::Error for SessionEnd {
    /// Returns the rule that the peer broke.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SessionEnd::Violation(why) => Some(why),
            _ => None,
        }
    }
}

/// Rule that a peer broke.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Violation {
    /// Frame of an unknown kind.
    UnknownFrame(u8),
    /// DATA of no bytes or of more than [`MAX_DATA`], or a datagram of more than [`MAX_DATAGRAM`].
    Length(u16),
    /// Numbered frames before HAVE and FROM, or a second HAVE.
    Order,
    /// Numbers that leave frames out.
    Gap,
    /// An acknowledgement of frames that were not sent.
    NotSent,
    /// A frame for a stream that was never opened, or that has no such direction.
    NoStream(u32),
    /// A stream whose number is not the next one.
    StreamNumber(u32),
    /// More streams than were allowed.
    TooManyStreams,
    /// Bytes beyond a stream's credit.
    Overrun(u32),
    /// Bytes after a stream's end, or two ends.
    AfterEnd(u32),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::UnknownFrame(kind) => write!(f, "there is no frame of kind {kind}"),
            Violation::Length(n) => write!(f, "a frame must not carry {n} bytes"),
            Violation::Order => f.write_str("a carrier began with the wrong frame"),
            Violation::Gap => f.write_str("frames are missing"),
            Violation::NotSent => f.write_str("frames were acknowledged that were not sent"),
            Violation::NoStream(n) => write!(f, "a frame came for stream {n}, which cannot have it"),
            Violation::StreamNumber(n) => write!(f, "stream {n} is not the next one"),
            Violation::TooManyStreams => f.write_str("more streams were opened than were allowed"),
            Violation::Overrun(n) => write!(f, "more bytes came on stream {n} than were allowed"),
            Violation::AfterEnd(n) => write!(f, "bytes came after the end of stream {n}"),
        }
    }
}

impl std::error::Error for Violation {}

/// Reason that a stream was not opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// The peer allows no more streams now: [`SessionEvent::MayOpen`] follows.
    TooMany,
    /// The tag has more than [`MAX_TAG`] bytes.
    TagTooLong,
    /// The session is over.
    Ended,
}

/// Result of [`Session::read`] and [`Session::read_chunk`].
#[derive(Clone, PartialEq, Eq, Debug)]
// Exhaustive: bytes, none now, or none ever.
pub enum ReadResult<T> {
    /// Bytes, at least one.
    Read(T),
    /// No bytes now.
    Empty,
    /// No bytes ever: the peer finished, and everything was read.
    End,
    /// No bytes ever: the peer gave the stream up, with this code.
    Reset(u32),
    /// No bytes ever: the stream was stopped here, or the session is over.
    Gone,
}

/// Reason that a stream takes no bytes, and never will.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum WriteError {
    /// The stream was finished or reset here, or the peer [stopped](SessionEvent::Stopped) it.
    Closed,
    /// The session is over.
    Ended,
}
