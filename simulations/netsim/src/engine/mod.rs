//! Virtual time, the queue of future events, keyed randomness and the digest of past events.

mod digest;
mod queue;
mod random;

pub use digest::Digest;
pub use queue::Queue;
pub use random::{Domain, Keyed};

/// Virtual time: nanoseconds since the world began.
pub type Nanos = u64;

/// A microsecond.
pub const MICRO: Nanos = 1_000;
/// A millisecond.
pub const MILLI: Nanos = 1_000_000;
/// A second.
pub const SECOND: Nanos = 1_000_000_000;
