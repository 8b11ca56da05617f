//! Common parts of p2pd's integration tests. The tests themselves are in `tests/tests/`.
//!
//! [`lab`] builds real NATs in network namespaces and runs programs and closures behind them; [`drivers`] has
//! every driver behind the same calls, which block. The lab is Linux's alone.

#![deny(unsafe_code)]

pub mod drivers;
#[cfg(target_os = "linux")]
pub mod lab;
pub mod proxy;
#[cfg(target_os = "linux")]
pub mod vantage;
#[cfg(target_os = "linux")]
pub mod world;
