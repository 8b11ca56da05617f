//! Sources of callers: the line or machine that an address stands for, where callers are counted.

use std::net::{IpAddr, Ipv6Addr};

/// A caller's network: one IPv4 address or one IPv6 /64, which is what a line or a machine has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
// Exhaustive: a record of what an address says.
pub struct Source {
    /// The customer: the same IPv4 address, or the /56 that holds the /64.
    pub site: IpAddr,
    /// The line: the same IPv4 address, or the /64.
    pub net: IpAddr,
}

impl Source {
    /// Returns the source of a caller with this address.
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            v4 @ IpAddr::V4(_) => Source { site: v4, net: v4 },
            IpAddr::V6(ip) => Source { site: prefix(ip, 56), net: prefix(ip, 64) },
        }
    }
}

fn prefix(ip: Ipv6Addr, bits: u32) -> IpAddr {
    Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << (128 - bits))).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_an_ipv4_address_or_a_slash_64_within_a_slash_56() {
        let of = |ip: &str| Source::of(ip.parse().unwrap());
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_ne!(of("192.0.2.1").site, of("192.0.2.2").site);
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff::"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_eq!(of("2001:db8:0:1::1").site, of("2001:db8:0:ff::1").site);
        assert_ne!(of("2001:db8:0:1::1").site, of("2001:db8:0:100::1").site);
    }
}
