//! Families of a relayed address.

use std::net::IpAddr;

/// The family of a relayed address (RFC 8656 section 18.8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: there are two address families.
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// An address of each, asked for at once (RFC 8656 section 18.11). A server that has one of them only gives that.
    Both,
}

impl Family {
    /// Returns true if an address is of this family.
    pub fn has(self, ip: IpAddr) -> bool {
        match self {
            Family::V4 => ip.is_ipv4(),
            Family::V6 => ip.is_ipv6(),
            Family::Both => true,
        }
    }
}
