//! Packets, and the effects of links on them.

mod bottleneck;
mod link;
mod octets;
mod packet;

pub use bottleneck::Bottleneck;
pub use link::{Blackout, Fate, LinkSpec};
pub use packet::{Body, Flags, IcmpKind, Packet, Proto, Quote, Segment};
