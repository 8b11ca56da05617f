//! A simulated internet for p2pd. The same `Node` that runs under real drivers runs here under virtual time. It is
//! behind NATs that behave as measured ones do, on links and beside servers that fail on purpose.
//!
//! A world is a function of its seed and its description: the same two give the same digest. Nothing in here
//! touches the real network, the clock or the system's randomness.
//!
//! The reasons: ADR 32 in docs/src/adr.

pub use p2pd_netsim::{engine, host, nat, net, world};

pub mod driver;
pub mod oracle;
pub mod scenario;
pub mod service;
