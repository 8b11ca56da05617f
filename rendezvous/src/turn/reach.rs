//! Peers that a relay exchanges datagrams with: the internet, and never what only the server's own networks reach.
//!
//! The tables are those of RFC 6890 and the registries that it began, as they stand. Blocks for documentation count as the
//! internet, since they are what laboratories use.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Part of the world that an address is reached from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scope {
    /// Everywhere.
    Internet,
    /// A site, or what is behind its provider's NAT.
    Private,
    /// A single link.
    Link,
    /// A single machine.
    Loopback,
    /// No peer has it: multicast, broadcast, reserved, or what a cloud tells its machines' secrets at.
    Nobody,
}

use Scope::{Internet, Link, Loopback, Nobody, Private};

/// The most specific prefix counts; what is in none is the internet.
const V4: &[([u8; 4], u8, Scope)] = &[
    ([0, 0, 0, 0], 8, Nobody),
    ([10, 0, 0, 0], 8, Private),
    ([100, 64, 0, 0], 10, Private),
    ([100, 100, 100, 200], 32, Nobody),
    ([127, 0, 0, 0], 8, Loopback),
    ([168, 63, 129, 16], 32, Nobody),
    ([169, 254, 0, 0], 16, Link),
    ([172, 16, 0, 0], 12, Private),
    ([192, 0, 0, 0], 24, Nobody),
    ([192, 88, 99, 0], 24, Nobody),
    ([192, 168, 0, 0], 16, Private),
    ([198, 18, 0, 0], 15, Private),
    ([224, 0, 0, 0], 3, Nobody),
];

/// The same of IPv6, where what is in none is nobody's. Forms with an IPv4 address in them come before.
const V6: &[([u16; 8], u8, Scope)] = &[
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, Loopback),
    ([0x2000, 0, 0, 0, 0, 0, 0, 0], 3, Internet),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, Nobody),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, Private),
    ([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128, Nobody),
    ([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128, Nobody),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, Link),
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, Private),
];

/// Returns the scope of an address; of an IPv6 address with IPv4 ones in it, these decide.
pub(super) fn scope(ip: IpAddr) -> Scope {
    let v6 = match ip {
        IpAddr::V4(ip) => return scope_v4(ip),
        IpAddr::V6(ip) => ip,
    };
    match embedded(v6) {
        [Some(one), other] => {
            let scopes = [scope_v4(one), other.map_or(Internet, scope_v4)];
            let local = scopes.into_iter().find(|scope| *scope != Internet);
            // A local one is reached by none of these forms where the server is, or by tricks.
            if local.is_some() && !is_mapped(v6) { Nobody } else { local.unwrap_or(Internet) }
        }
        [None, _] => {
            let within = |(prefix, length, _): &&([u16; 8], u8, Scope)| {
                let prefix = Ipv6Addr::from(*prefix).to_bits();
                (prefix ^ v6.to_bits()).leading_zeros() >= u32::from(*length)
            };
            V6.iter().filter(within).max_by_key(|(_, length, _)| *length).map_or(Nobody, |(.., scope)| *scope)
        }
    }
}

fn scope_v4(ip: Ipv4Addr) -> Scope {
    let within = |(prefix, length, _): &&([u8; 4], u8, Scope)| {
        (Ipv4Addr::from(*prefix).to_bits() ^ ip.to_bits()).leading_zeros() >= u32::from(*length)
    };
    V4.iter().filter(within).max_by_key(|(_, length, _)| *length).map_or(Internet, |(.., scope)| *scope)
}

fn is_mapped(ip: Ipv6Addr) -> bool {
    ip.to_ipv4_mapped().is_some()
}

/// The IPv4 addresses in an IPv6 address: mapped, compatible, translated, NAT64's, 6to4's, and both of Teredo.
fn embedded(ip: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match ip.segments() {
        // No IPv4 address: "unspecified" and loopback.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => [None, None],
        [0, 0, 0, 0, 0, 0 | 0xffff, a, b]
        | [0, 0, 0, 0, 0xffff, 0, a, b]
        | [0x64, 0xff9b, 0, 0, 0, 0, a, b]
        | [0x2002, a, b, ..] => [v4(a, b), None],
        [0x2001, 0, a, b, _, _, c, d] => [v4(a, b), v4(!c, !d)],
        _ => [None, None],
    }
}

/// Rules for whom relays of these addresses reach.
#[derive(Debug)]
pub(super) struct Reach {
    relays: Vec<IpAddr>,
    private: bool,
    /// The machine's own addresses.
    own: BTreeSet<IpAddr>,
}

impl Reach {
    /// Makes the rules for relays with these addresses. With `private`, private addresses are reached too.
    pub(super) fn new(relays: Vec<IpAddr>, private: bool) -> Self {
        Reach { relays, private, own: BTreeSet::new() }
    }

    pub(super) fn set_own(&mut self, own: BTreeSet<IpAddr>) {
        self.own = own;
    }

    /// Tells if relays of the server are at this address: what else is there is the machine's own.
    pub(super) fn is_relays(&self, peer: IpAddr) -> bool {
        self.relays.contains(&peer)
    }

    /// Tells if private addresses are reached from any of the relays.
    pub(super) fn is_private(&self) -> bool {
        self.private || self.relays.iter().any(|relay| scope(*relay) == Private)
    }

    /// Tells if a relay with this address may reach this peer, which is no relay itself.
    pub(super) fn may(&self, relay: IpAddr, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        let here = scope(relay);
        match scope(peer) {
            // Who relays on loopback serves this machine only.
            Loopback => here == Loopback,
            _ if self.is_own(peer) => false,
            Internet => true,
            Private => self.private || here == Private,
            Link => here == Link,
            Nobody => false,
        }
    }

    fn is_own(&self, peer: IpAddr) -> bool {
        let is = |ip: IpAddr| self.own.contains(&ip) || self.relays.contains(&ip);
        is(peer)
            || match peer {
                IpAddr::V4(_) => false,
                IpAddr::V6(ip) => embedded(ip).into_iter().flatten().any(|ip| is(ip.into())),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// First and last address of each line of the registries, and the addresses before and behind.
    const TABLE: &[(&str, Scope)] = &[
        ("0.0.0.0", Nobody),
        ("0.255.255.255", Nobody),
        ("1.0.0.0", Internet),
        ("9.255.255.255", Internet),
        ("10.0.0.0", Private),
        ("10.255.255.255", Private),
        ("11.0.0.0", Internet),
        ("100.63.255.255", Internet),
        ("100.64.0.0", Private),
        ("100.100.100.200", Nobody),
        ("100.127.255.255", Private),
        ("100.128.0.0", Internet),
        ("126.255.255.255", Internet),
        ("127.0.0.0", Loopback),
        ("127.255.255.255", Loopback),
        ("128.0.0.0", Internet),
        ("168.63.129.15", Internet),
        ("168.63.129.16", Nobody),
        ("169.253.255.255", Internet),
        ("169.254.0.0", Link),
        ("169.254.169.254", Link),
        ("169.254.255.255", Link),
        ("169.255.0.0", Internet),
        ("172.15.255.255", Internet),
        ("172.16.0.0", Private),
        ("172.31.255.255", Private),
        ("172.32.0.0", Internet),
        ("191.255.255.255", Internet),
        ("192.0.0.0", Nobody),
        ("192.0.0.170", Nobody),
        ("192.0.0.255", Nobody),
        ("192.0.1.0", Internet),
        ("192.0.2.1", Internet),
        ("192.31.196.1", Internet),
        ("192.52.193.1", Internet),
        ("192.88.98.255", Internet),
        ("192.88.99.0", Nobody),
        ("192.88.99.255", Nobody),
        ("192.88.100.0", Internet),
        ("192.167.255.255", Internet),
        ("192.168.0.0", Private),
        ("192.168.255.255", Private),
        ("192.169.0.0", Internet),
        ("192.175.48.1", Internet),
        ("198.17.255.255", Internet),
        ("198.18.0.0", Private),
        ("198.19.255.255", Private),
        ("198.20.0.0", Internet),
        ("198.51.100.1", Internet),
        ("203.0.113.1", Internet),
        ("223.255.255.255", Internet),
        ("224.0.0.0", Nobody),
        ("239.255.255.255", Nobody),
        ("240.0.0.0", Nobody),
        ("255.255.255.255", Nobody),
        ("::", Nobody),
        ("::1", Loopback),
        ("::2", Nobody),
        ("::10.0.0.1", Nobody),
        ("::127.0.0.1", Nobody),
        ("::ffff:0.0.0.0", Nobody),
        ("::ffff:10.0.0.1", Private),
        ("::ffff:127.0.0.1", Loopback),
        ("::ffff:169.254.169.254", Link),
        ("::ffff:203.0.113.1", Internet),
        ("::ffff:0:192.168.0.1", Nobody),
        ("::ffff:0:203.0.113.1", Internet),
        ("64:ff9b::10.0.0.1", Nobody),
        ("64:ff9b::127.0.0.1", Nobody),
        ("64:ff9b::169.254.169.254", Nobody),
        ("64:ff9b::100.64.0.1", Nobody),
        ("64:ff9b::203.0.113.1", Internet),
        ("64:ff9b:1::a00:1", Nobody),
        ("64:ff9b:1::cb00:7101", Nobody),
        ("100::", Nobody),
        ("100::ffff:ffff:ffff:ffff", Nobody),
        ("1fff:ffff::", Nobody),
        ("2000::", Internet),
        // Teredo: the server 203.0.113.1, the client 10.0.0.1 or 198.51.100.1; and the server 10.0.0.1.
        ("2001:0:cb00:7101::f5ff:fffe", Nobody),
        ("2001:0:cb00:7101::39cc:9bfe", Internet),
        ("2001:0:a00:1::39cc:9bfe", Nobody),
        ("2001:1::1", Nobody),
        ("2001:2::", Nobody),
        ("2001:10::", Nobody),
        ("2001:20::", Nobody),
        ("2001:1ff:ffff::", Nobody),
        ("2001:200::", Internet),
        ("2001:db8::1", Internet),
        ("2002:a00:1::1", Nobody),
        ("2002:7f00:1::1", Nobody),
        ("2002:a9fe:a9fe::", Nobody),
        ("2002:cb00:7101::1", Internet),
        ("2003::", Internet),
        ("2620:4f:8000::1", Internet),
        ("3fff::1", Internet),
        ("3fff:ffff::", Internet),
        ("4000::", Nobody),
        ("5f00::1", Nobody),
        ("fbff:ffff::", Nobody),
        ("fc00::", Private),
        ("fd00:ec2::254", Nobody),
        ("fd00:ec2::253", Private),
        ("fd20:ce::254", Nobody),
        ("fdff:ffff::", Private),
        ("fe00::", Nobody),
        ("fe80::", Link),
        ("febf:ffff::", Link),
        ("fec0::", Private),
        ("feff:ffff::", Private),
        ("ff00::", Nobody),
        ("ff02::1", Nobody),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Nobody),
    ];

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_table_line_by_line() {
        for (text, expected) in TABLE {
            assert_eq!(scope(ip(text)), *expected, "{text}");
        }
    }

    #[test]
    fn a_relay_reaches_the_internet_and_its_own_scope() {
        for (relay, private, reached) in [
            ("203.0.113.10", false, &[Internet][..]),
            ("203.0.113.10", true, &[Internet, Private]),
            ("10.0.0.7", false, &[Internet, Private]),
            ("fd00::7", false, &[Internet, Private]),
            ("127.0.0.7", false, &[Internet, Loopback]),
            ("169.254.0.7", false, &[Internet, Link]),
        ] {
            let reach = Reach::new(vec![ip(relay)], private);
            for (peer, scope) in TABLE {
                assert_eq!(
                    reach.may(ip(relay), ip(peer)),
                    reached.contains(scope),
                    "{relay} {private} {peer}"
                );
            }
        }
    }

    #[test]
    fn the_machines_own_addresses_are_out_of_reach_in_every_form() {
        for private in [false, true] {
            let mut reach = Reach::new(vec![ip("203.0.113.10")], private);
            reach.set_own(["198.51.100.1", "10.0.0.1", "2001:db8::1"].map(ip).into());
            for own in [
                "203.0.113.10",
                "198.51.100.1",
                "10.0.0.1",
                "2001:db8::1",
                "::ffff:198.51.100.1",
                "64:ff9b::198.51.100.1",
                "2002:c633:6401::1",
                "64:ff9b::203.0.113.10",
            ] {
                assert!(!reach.may(ip("203.0.113.10"), ip(own)), "{own}");
            }
            assert!(reach.may(ip("203.0.113.10"), ip("198.51.100.2")));
        }
    }
}
