//! p2pd in a simulated internet: the same `Node` that runs under real drivers, its servers with faults on purpose, drawn worlds, and an
//! oracle that says what must happen. The internet itself is [`p2pd_netsim`], whose modules are re-exported here.
//!
//! The reasons: ADRs 32 and 42 in docs/src/adr.

pub use p2pd_netsim::{dial, engine, host, nat, net, world};

pub mod domain;
pub mod driver;
pub mod oracle;
pub mod scenario;
pub mod service;
