//! The parts from which a connect is made: paths, dials, and the agreement on one stream.

pub(crate) mod agreement;
pub(crate) mod dialler;
pub(crate) mod ours;
pub(crate) mod paths;
pub(crate) mod punch;
