//! Worlds that are set up the same way again and again.

pub mod pair;
pub mod raw;
pub mod swarm;
