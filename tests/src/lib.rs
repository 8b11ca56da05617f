//! What the integration tests of p2pd share. The tests themselves are in `tests/tests/`.
//!
//! [`lab`] builds real Linux NATs in network namespaces and runs programs and closures behind them.

#![deny(unsafe_code)]

pub mod lab;
pub mod world;
