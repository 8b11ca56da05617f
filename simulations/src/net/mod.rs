//! What travels, and what the way does to it.

mod link;
mod packet;

pub use link::{Blackout, Fate, LinkSpec};
pub use packet::{Body, Flags, IcmpKind, Packet, Proto, Quote, Segment};
