//! Formats on the wire, each behind a guard.
//!
//! The codec crates were written for friendly input: one 62 KB STUN message keeps `stun_codec` busy for over
//! 50 s, two bytes make `mqttrs` panic (both measured). So nothing reaches them that [`guard`] has not
//! walked through first, and integrity is checked by us over the bytes as they came.

pub mod channel;
pub mod guard;
pub mod integrity;
pub mod mqtt;
pub mod stun;
pub mod turn;

pub use guard::{GuardError, Transport};
