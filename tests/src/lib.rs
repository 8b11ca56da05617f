//! Common parts of p2pd's integration tests. The tests themselves are in `tests/tests/`.
//!
//! [`lab`] builds real NATs in network namespaces and runs programs and closures behind them; [`drivers`] has
//! every driver behind the same calls, which block.

#![deny(unsafe_code)]

pub mod drivers;
pub mod lab;
pub mod proxy;
pub mod vantage;
pub mod world;
