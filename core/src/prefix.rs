//! Prefixes of addresses, and IPv4 addresses inside IPv6 ones as a NAT64 translates them (RFC 6052).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smallvec::SmallVec;

/// Prefixes by which the NAT64s of our network translate.
pub(crate) type Prefixes = SmallVec<[Prefix; 1]>;

/// Prefix by which a NAT64 translates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Prefix {
    pub(crate) ip: Ipv6Addr,
    /// In bits, one of [`Self::LENGTHS`].
    length: u8,
}

impl Prefix {
    /// The lengths of RFC 6052 section 2.2, the usual one first.
    pub(crate) const LENGTHS: [u8; 6] = [96, 64, 56, 48, 40, 32];

    /// The prefix that an address begins with. `None`: no NAT64 has one of this length.
    pub(crate) fn new(ip: Ipv6Addr, length: u8) -> Option<Self> {
        let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
        Self::LENGTHS.contains(&length).then(|| Prefix { ip: (u128::from(ip) & mask).into(), length })
    }

    /// The octets of an address in which the IPv4 address stands. Those of bits 64 to 71 are none of it, and are zero.
    fn places(self) -> impl Iterator<Item = usize> {
        (usize::from(self.length) / 8..16).filter(move |at| *at != 8 || self.length == 96).take(4)
    }

    /// The address by which the NAT64 reaches this one.
    pub(crate) fn embed(self, ip: Ipv4Addr) -> Ipv6Addr {
        let mut octets = self.ip.octets();
        for (at, octet) in self.places().zip(ip.octets()) {
            octets[at] = octet;
        }
        octets.into()
    }

    /// The address that the NAT64 makes of one with its prefix; what stands behind it does not matter.
    pub(crate) fn extract(self, ip: Ipv6Addr) -> Option<Ipv4Addr> {
        let octets = ip.octets();
        let mut places = self.places().map(|at| octets[at]);
        let mut next = || places.next();
        let found = Ipv4Addr::new(next()?, next()?, next()?, next()?);
        is_within(self.ip.into(), self.length, ip.into()).then_some(found)
    }
}

/// The address that one of the NAT64s makes of this one.
pub(crate) fn extract(prefixes: &[Prefix], ip: IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(_) => None,
        IpAddr::V6(ip) => prefixes.iter().find_map(|prefix| prefix.extract(ip)),
    }
}

/// Returns true if an address is in the prefix of one of ours. A prefix of no or all bits says nothing about
/// neighbours.
pub(crate) fn is_on_link(ours: IpAddr, prefix: u8, ip: IpAddr) -> bool {
    let bits = if ours.is_ipv4() { 32 } else { 128 };
    (1..bits).contains(&prefix) && is_within(ours, prefix, ip)
}

/// Returns true if two addresses of one family have the same first `length` bits.
pub(crate) fn is_within(prefix: IpAddr, length: u8, ip: IpAddr) -> bool {
    let (differing, bits) = match (prefix, ip) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(u32::from(a) ^ u32::from(b)), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(a) ^ u128::from(b), 128),
        _ => return false,
    };
    let host_bits = bits - u32::from(length).min(bits);
    differing.checked_shr(host_bits).unwrap_or(0) == 0
}
