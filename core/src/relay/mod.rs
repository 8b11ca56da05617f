//! Stream over relayed datagrams: ordered, reliable and congestion-controlled in each direction, with messages on
//! streams of their own.
//!
//! [`RelayStream`] is QUIC (RFC 9000, by `quinn-proto`) with the core's own Noise handshake as its one security layer.
//! So the relay can delay and drop, and do nothing else. The stream knows no addresses and no relay: its holder carries
//! its datagrams.

#[cfg(feature = "relay")]
mod bbr;
#[cfg(feature = "relay")]
mod clock;
#[cfg(feature = "relay")]
mod crypto;
#[cfg(test)]
#[cfg(feature = "relay")]
mod hostile;
#[cfg(feature = "relay")]
mod messages;
#[cfg(feature = "relay")]
mod settings;
#[cfg(feature = "relay")]
mod stream;

use core::fmt;

#[cfg(feature = "relay")]
pub(crate) use settings::first_rtt;
#[cfg(feature = "relay")]
pub use settings::{Congestion, RelayConfig};
#[cfg(feature = "relay")]
pub use stream::{EndCause, RelayStats, RelayStream, StreamEvent};

/// The longest datagram that a [`RelayStream`] sends, in bytes. QUIC asks for 1,200 (RFC 9000 section 14). With
/// ChannelData, UDP and IPv6 headers that makes 1,252, as Send indication 1,292. Each passes where 1,500 do, and the
/// former through the least MTU of IPv6. Longer ones are not searched for: between relay and peer nobody tells us what
/// gets lost.
pub const MAX_DATAGRAM: usize = 1_200;

/// Most bytes that one call writes to a pipe or reads from it.
pub(crate) const MAX_AT_ONCE: usize = 64 * 1024;

/// The longest message, in bytes.
pub const MAX_MESSAGE: usize = 16_384;
/// Most messages that may wait: to be sent at this end, on their way, to be read at the other.
pub const MAX_MESSAGES: usize = 64;

/// Reason that a message was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MessageError {
    /// Longer than [`MAX_MESSAGE`].
    TooLong,
    /// [`MAX_MESSAGES`] are waiting already. [`MessageRoom`](StreamEvent::MessageRoom) says when there is room
    /// again, of a pipe [`PipeNews::MessageRoom`](crate::PipeNews::MessageRoom).
    Full,
    /// The stream is not connected yet, or has ended; of a pipe, that it is over or not relayed (any more).
    NotConnected,
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MessageError::TooLong => write!(f, "a message has at most {MAX_MESSAGE} bytes"),
            MessageError::Full => write!(f, "{MAX_MESSAGES} messages are waiting already"),
            MessageError::NotConnected => f.write_str("not connected"),
        }
    }
}

impl std::error::Error for MessageError {}

/// Result of [`RelayStream::read`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: bytes, none now, or none ever.
pub enum ReadOutcome {
    /// Number of bytes read, at least one.
    Read(usize),
    /// No bytes now.
    Empty,
    /// No bytes ever: the peer finished, and everything has been read.
    End,
}
