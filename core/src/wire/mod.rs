//! Formats on the wire, each behind a guard.
//!
//! The codec crates were written for friendly input. One 62 KB STUN message keeps `stun_codec` busy for over 50 s; two
//! bytes make `mqttrs` panic (both measured). So [`guard`] walks through everything before they see it, and our own
//! code checks integrity over the bytes as they came.

#[cfg(feature = "relay")]
pub mod channel;
mod family;
pub mod fingerprint;
pub mod guard;
#[cfg(feature = "relay")]
pub mod integrity;
pub mod mqtt;
pub mod stun;
#[cfg(feature = "relay")]
pub mod turn;

pub use family::Family;
pub use guard::{GuardError, Transport};
