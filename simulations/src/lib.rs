#![doc = include_str!("../README.md")]
//!
//! [`Lab::every_pair`](lab::Lab::every_pair) runs a protocol between every two NAT presets.
//!
//! The reasons: ADRs 32 and 42 in docs/src/adr.

pub use p2pd_netsim::{dial, engine, host, nat, net, world};

pub mod domain;
pub mod driver;
pub mod lab;
pub mod oracle;
pub mod scenario;
pub mod service;
