#![doc = include_str!("../README.md")]
//!
//! Time is a [`Duration`](core::time::Duration) since a point that the caller chose; it never goes back.
//!
//! The reasons: ADR 25 in docs/src/adr.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv6Addr};

mod crowd;
pub mod mqtt;
mod rate;
pub mod stun;
pub mod turn;

pub use crowd::{Crowd, Full, Shares};

/// A TCP connection, numbered by the owner of the sockets; a number is never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
// Exhaustive: a bare number.
pub struct ConnId(pub u64);

/// Returns the owner of an address, for limits that one stranger must not get around. An IPv4 address stands for
/// itself, also in its IPv6 form. An IPv6 address stands for its /64, since a host usually has all of one.
pub fn owner(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        ip => ip,
    }
}
