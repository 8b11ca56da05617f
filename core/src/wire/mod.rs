//! Formats on the wire, each behind a guard.
//!
//! The codec crates were written for friendly input. One 62 KB STUN message keeps `stun_codec` busy for over 50 s; two
//! bytes make `mqttrs` panic (both measured). So [`guard`] walks through everything before they see it, and our own
//! code checks integrity over the bytes as they came.

pub mod channel;
pub mod guard;
pub mod integrity;
pub mod mqtt;
pub mod stun;
pub mod turn;

pub use guard::{GuardError, Transport};
