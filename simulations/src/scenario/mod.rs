//! Worlds that are set up the same way again and again.

pub mod calibration;
pub mod census;
pub mod crowd;
pub mod flood;
pub mod grid;
pub mod memory;
pub mod pair;
pub mod plan;
pub mod relay;
pub mod reliability;
pub mod rivals;
pub(crate) mod standing;
pub mod swarm;
