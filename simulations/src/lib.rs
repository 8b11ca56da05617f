//! p2pd in a simulated internet: the same `Node` that runs under real drivers, its servers with faults on purpose, drawn worlds, and an
//! oracle that says what must happen. The internet itself is [`p2pd_netsim`], whose modules are re-exported here.
//!
//! In five lines, pipes on which a protocol of your own runs:
//!
//! ```
//! use p2pd_simulations::lab::Lab;
//!
//! # fn main() -> Result<(), String> {
//! # let (seed, cfg) = (7, |config: p2pd_core::Config| config);
//! let mut lab = Lab::new(seed);
//! let a = lab.behind("openwrt").node(cfg);
//! let b = lab.behind("cgn+openwrt").node(cfg);
//! let (x, y) = lab.connect(a, b)?;
//! lab.write(x, b"hello");
//! assert_eq!(lab.read(y)?, b"hello");
//! # Ok(())
//! # }
//! ```
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
