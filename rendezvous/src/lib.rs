//! The servers that peers need to find and reach each other, without I/O or clock. They are an MQTT 3.1.1 broker
//! ([`mqtt::Broker`]), a STUN server that knows RFC 5780 ([`stun::Server`]) and a TURN server ([`turn::Server`], whose
//! nonces are the only randomness).
//!
//! They are small on purpose, and bounded in everything a stranger can grow. They are built on other codecs than
//! `p2pd-core`, so that each side is a second opinion of the other. The owner of the sockets passes received data on
//! and carries their outputs out. `p2pd serve` runs them on the network, tests and the simulator on simulated ones.
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
