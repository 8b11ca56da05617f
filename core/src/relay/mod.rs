//! Stream over relayed datagrams: ordered, reliable and congestion-controlled in each direction, with messages on
//! streams of their own.
//!
//! [`RelayStream`] is QUIC (RFC 9000, by `quinn-proto`) with the core's own Noise handshake as its one security layer.
//! So the relay can delay and drop, and do nothing else. The stream knows no addresses and no relay: its holder carries
//! its datagrams.

mod bbr;
mod clock;
mod crypto;
#[cfg(test)]
mod hostile;
mod messages;
mod settings;
mod stream;

pub use messages::{MAX_MESSAGE, MAX_MESSAGES, MessageError};
pub use settings::{Congestion, RelayConfig};
pub use stream::{EndCause, ReadOutcome, RelayStats, RelayStream, StreamEvent};

/// The longest datagram that a [`RelayStream`] sends, in bytes. QUIC asks for 1,200 (RFC 9000 section 14). With
/// ChannelData, UDP and IPv6 headers that makes 1,252, as Send indication 1,292. Each passes where 1,500 do, and the
/// former through the least MTU of IPv6. Longer ones are not searched for: between relay and peer nobody tells us what
/// gets lost.
pub const MAX_DATAGRAM: usize = 1_200;
