//! Kinds of addresses, and the rule on sending to an address that a peer named.
//!
//! The rows are IANA's registries of special-purpose addresses (RFC 6890, as of 2025). The blocks for documentation
//! count as the internet, since labs are made of them. An IPv6 address that embeds an IPv4 address is what that one is,
//! but never more than a place inside. A translator or tunnel of ours would take the packet there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::prefix::{Prefix, extract};

/// Destination of a packet to an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reach {
    /// No host, or many: never right.
    Nobody,
    /// Loopback: this machine.
    Loopback,
    /// A host inside our network, our carrier's or our host's, or nowhere.
    Inside,
    /// A host on the internet, as everybody's packets reach it.
    Internet,
}

use Reach::{Inside, Internet, Loopback, Nobody};

const V4: [(Ipv4Addr, u32, Reach); 22] = [
    // This network.
    (Ipv4Addr::new(0, 0, 0, 0), 8, Nobody),
    // Private use, RFC 1918.
    (Ipv4Addr::new(10, 0, 0, 0), 8, Inside),
    // Shared by carriers with their customers, RFC 6598.
    (Ipv4Addr::new(100, 64, 0, 0), 10, Inside),
    (Ipv4Addr::new(127, 0, 0, 0), 8, Loopback),
    // Azure's hosts answer their guests here.
    (Ipv4Addr::new(168, 63, 129, 16), 32, Inside),
    // Link-local, and where clouds keep their metadata.
    (Ipv4Addr::new(169, 254, 0, 0), 16, Inside),
    (Ipv4Addr::new(172, 16, 0, 0), 12, Inside),
    // IETF protocol assignments, DS-Lite and anycast addresses of PCP and TURN among them.
    (Ipv4Addr::new(192, 0, 0, 0), 24, Inside),
    // Documentation, RFC 5737.
    (Ipv4Addr::new(192, 0, 2, 0), 24, Internet),
    // AS112 and AMT are reachable for all.
    (Ipv4Addr::new(192, 31, 196, 0), 24, Internet),
    (Ipv4Addr::new(192, 52, 193, 0), 24, Internet),
    // 6to4 relays, deprecated by RFC 7526.
    (Ipv4Addr::new(192, 88, 99, 0), 24, Inside),
    (Ipv4Addr::new(192, 168, 0, 0), 16, Inside),
    (Ipv4Addr::new(192, 175, 48, 0), 24, Internet),
    // Benchmarking, RFC 2544.
    (Ipv4Addr::new(198, 18, 0, 0), 15, Inside),
    // Documentation.
    (Ipv4Addr::new(198, 51, 100, 0), 24, Internet),
    (Ipv4Addr::new(203, 0, 113, 0), 24, Internet),
    // Multicast.
    (Ipv4Addr::new(224, 0, 0, 0), 4, Nobody),
    // Reserved; some networks use it inside.
    (Ipv4Addr::new(240, 0, 0, 0), 4, Inside),
    // Limited broadcast.
    (Ipv4Addr::new(255, 255, 255, 255), 32, Nobody),
    // All the rest.
    (Ipv4Addr::new(0, 0, 0, 0), 1, Internet),
    (Ipv4Addr::new(128, 0, 0, 0), 1, Internet),
];

/// Kind of an IPv6 block.
#[derive(Clone, Copy)]
enum Block {
    Is(Reach),
    /// An IPv4 address begins at this bit.
    Embeds(u32),
    /// A server's IPv4 address at bit 32, and a client's at bit 96 with every bit inverted: RFC 4380.
    Teredo,
}

const V6: [(Ipv6Addr, u32, Block); 25] = [
    // Reserved by the IETF, but for the blocks that follow.
    (Ipv6Addr::UNSPECIFIED, 0, Block::Is(Inside)),
    // IPv4-compatible, deprecated by RFC 4291.
    (Ipv6Addr::UNSPECIFIED, 96, Block::Is(Inside)),
    (Ipv6Addr::UNSPECIFIED, 128, Block::Is(Nobody)),
    (Ipv6Addr::LOCALHOST, 128, Block::Is(Loopback)),
    // IPv4-mapped: sockets take it for IPv4, so it is never an IPv6 host.
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96, Block::Is(Nobody)),
    // Translation by NAT64: the well-known prefix of RFC 6052, and RFC 8215's for local use.
    (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96, Block::Embeds(96)),
    (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48, Block::Is(Inside)),
    // Discarded, RFC 6666, and the dummy prefix of RFC 9780.
    (Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64, Block::Is(Inside)),
    (Ipv6Addr::new(0x100, 0, 0, 1, 0, 0, 0, 0), 64, Block::Is(Inside)),
    // Global unicast.
    (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3, Block::Is(Internet)),
    // IETF protocol assignments: anycast, ORCHIDs and others, none of them a peer.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, Block::Is(Inside)),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32, Block::Teredo),
    // Benchmarking, RFC 5180.
    (Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0), 48, Block::Is(Inside)),
    // AMT and AS112.
    (Ipv6Addr::new(0x2001, 3, 0, 0, 0, 0, 0, 0), 32, Block::Is(Internet)),
    (Ipv6Addr::new(0x2001, 4, 0x112, 0, 0, 0, 0, 0), 48, Block::Is(Internet)),
    // Documentation, RFC 3849 and RFC 9637.
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, Block::Is(Internet)),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, Block::Is(Internet)),
    // 6to4, RFC 3056.
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, Block::Embeds(16)),
    (Ipv6Addr::new(0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0), 48, Block::Is(Internet)),
    // Segment identifiers, RFC 9602.
    (Ipv6Addr::new(0x5f00, 0, 0, 0, 0, 0, 0, 0), 16, Block::Is(Inside)),
    // Unique local, among them the metadata of clouds.
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, Block::Is(Inside)),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10, Block::Is(Inside)),
    // Site-local, deprecated by RFC 3879.
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10, Block::Is(Inside)),
    // Multicast.
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8, Block::Is(Nobody)),
    // IPv4-translated, RFC 2765.
    (Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, 0, 0), 96, Block::Is(Inside)),
];

/// Returns the reach of an address. `nat64` are the prefixes that were discovered in addition to the well-known one.
pub(crate) fn reach(ip: IpAddr, nat64: &[Prefix]) -> Reach {
    match ip {
        IpAddr::V4(ip) => reach_v4(ip),
        IpAddr::V6(ip) => reach_v6(ip, nat64),
    }
}

fn reach_v4(ip: Ipv4Addr) -> Reach {
    let within = |(block, length, _): &&(Ipv4Addr, u32, Reach)| {
        let bits = u32::from(ip) ^ u32::from(*block);
        bits.leading_zeros() >= *length
    };
    V4.iter().filter(within).max_by_key(|row| row.1).map_or(Inside, |row| row.2)
}

fn reach_v6(ip: Ipv6Addr, nat64: &[Prefix]) -> Reach {
    let within =
        |block: Ipv6Addr, length: u32| (u128::from(ip) ^ u128::from(block)).leading_zeros() >= length;
    if let Some(ip) = extract(nat64, ip.into()) {
        return embedded(ip);
    }
    let row = V6.iter().filter(|row| within(row.0, row.1)).max_by_key(|row| row.1);
    let part = |at: u32| Ipv4Addr::from((u128::from(ip) << at >> 96) as u32);
    let reach = match row.map_or(Block::Is(Inside), |row| row.2) {
        Block::Is(reach) => reach,
        Block::Embeds(at) => embedded(part(at)),
        Block::Teredo => {
            let client = Ipv4Addr::from(!u32::from(part(96)));
            if embedded(part(32)) == Internet { embedded(client) } else { Inside }
        }
    };
    // ISATAP, RFC 5214: any prefix, and an interface id that embeds the address of whoever is to unpack it.
    let isatap = matches!(ip.segments()[4..6], [0 | 0x200, 0x5efe]);
    if reach == Internet && isatap { embedded(part(96)) } else { reach }
}

/// Returns the reach of an address that embeds `ip`.
fn embedded(ip: Ipv4Addr) -> Reach {
    if reach_v4(ip) == Internet { Internet } else { Inside }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Interface;
    use crate::strategy::ours::{Ours, Route, Trust};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// The first and the last of each block, and their neighbours outside.
    #[test]
    fn every_line_of_the_table() {
        let lines = [
            ("0.0.0.0", "0.255.255.255", Nobody),
            ("1.0.0.0", "9.255.255.255", Internet),
            ("10.0.0.0", "10.255.255.255", Inside),
            ("11.0.0.0", "100.63.255.255", Internet),
            ("100.64.0.0", "100.127.255.255", Inside),
            ("100.128.0.0", "126.255.255.255", Internet),
            ("127.0.0.0", "127.255.255.255", Loopback),
            ("128.0.0.0", "168.63.129.15", Internet),
            ("168.63.129.16", "168.63.129.16", Inside),
            ("168.63.129.17", "169.253.255.255", Internet),
            ("169.254.0.0", "169.254.255.255", Inside),
            ("169.254.169.254", "169.254.169.254", Inside),
            ("169.255.0.0", "172.15.255.255", Internet),
            ("172.16.0.0", "172.31.255.255", Inside),
            ("172.32.0.0", "191.255.255.255", Internet),
            ("192.0.0.0", "192.0.0.255", Inside),
            ("192.0.1.0", "192.0.1.255", Internet),
            ("192.0.2.0", "192.0.2.255", Internet),
            ("192.31.196.0", "192.31.196.255", Internet),
            ("192.52.193.0", "192.52.193.255", Internet),
            ("192.88.98.0", "192.88.98.255", Internet),
            ("192.88.99.0", "192.88.99.255", Inside),
            ("192.88.100.0", "192.167.255.255", Internet),
            ("192.168.0.0", "192.168.255.255", Inside),
            ("192.169.0.0", "192.175.47.255", Internet),
            ("192.175.48.0", "192.175.48.255", Internet),
            ("198.17.255.255", "198.17.255.255", Internet),
            ("198.18.0.0", "198.19.255.255", Inside),
            ("198.20.0.0", "198.51.99.255", Internet),
            ("198.51.100.0", "198.51.100.255", Internet),
            ("203.0.113.0", "203.0.113.255", Internet),
            ("223.255.255.255", "223.255.255.255", Internet),
            ("224.0.0.0", "239.255.255.255", Nobody),
            ("240.0.0.0", "255.255.255.254", Inside),
            ("255.255.255.255", "255.255.255.255", Nobody),
            ("::", "::", Nobody),
            ("::1", "::1", Loopback),
            ("::2", "::ffff:ffff", Inside),
            ("::8.8.8.8", "::10.0.0.1", Inside),
            ("::ffff:0:0", "::ffff:ffff:ffff", Nobody),
            ("::ffff:8.8.8.8", "::ffff:10.0.0.1", Nobody),
            ("::ffff:0:8.8.8.8", "::ffff:0:10.0.0.1", Inside),
            ("64:ff9a:ffff::", "64:ff9a::1", Inside),
            ("64:ff9b::8.8.8.8", "64:ff9b::203.0.113.9", Internet),
            ("64:ff9b::10.0.0.1", "64:ff9b::a00:1", Inside),
            ("64:ff9b::127.0.0.1", "64:ff9b::255.255.255.255", Inside),
            ("64:ff9b::169.254.169.254", "64:ff9b::0.0.0.0", Inside),
            ("64:ff9b:0:0:0:1::", "64:ff9b::1:0:0", Inside),
            ("64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", Inside),
            ("64:ff9b:1::8.8.8.8", "64:ff9b:2::8.8.8.8", Inside),
            ("100::", "100::ffff:ffff:ffff:ffff", Inside),
            ("100:0:0:1::", "100:0:0:1:ffff:ffff:ffff:ffff", Inside),
            ("1fff:ffff::", "200::1", Inside),
            ("2000::", "2000:ffff::1", Internet),
            ("2001:0:0808:0808:0:0:f7f7:f7f7", "2001:0:cb00:7101::34ff:8efe", Internet),
            ("2001:0:0808:0808::f5ff:fffe", "2001:0:0a00:0001::f7f7:f7f7", Inside),
            ("2001:1::1", "2001:1:ffff:ffff:ffff:ffff:ffff:ffff", Inside),
            ("2001:2::", "2001:2:0:ffff:ffff:ffff:ffff:ffff", Inside),
            ("2001:3::", "2001:3:ffff::1", Internet),
            ("2001:4:112::", "2001:4:112:ffff::", Internet),
            ("2001:4:113::", "2001:1ff:ffff::", Inside),
            ("2001:20::", "2001:3f:ffff::", Inside),
            ("2001:200::", "2001:db7:ffff::", Internet),
            ("2001:db8::", "2001:db8:ffff::1", Internet),
            ("2002:0808:0808::1", "2002:cb00:7101:ffff::1", Internet),
            ("2002:0a00:0001::1", "2002:7f00:0001::1", Inside),
            ("2002:a9fe:a9fe::1", "2002:ffff:ffff::1", Inside),
            ("2003::", "3ffe:ffff::", Internet),
            ("2620:4f:8000::", "2620:4f:8000:ffff::", Internet),
            ("3fff::", "3fff:fff:ffff::", Internet),
            ("4000::", "5eff:ffff::", Inside),
            ("5f00::", "5f00:ffff::", Inside),
            ("5f01::", "fbff:ffff::", Inside),
            ("fc00::", "fdff:ffff:ffff::", Inside),
            ("fd00:ec2::254", "fd00:ec2::254", Inside),
            ("fe00::", "fe7f:ffff::", Inside),
            ("fe80::", "febf:ffff::", Inside),
            ("fec0::", "feff:ffff::", Inside),
            ("ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Nobody),
            ("2a00::5efe:8.8.8.8", "2a00::200:5efe:203.0.113.9", Internet),
            ("2a00::5efe:10.0.0.1", "2a00::200:5efe:192.168.1.1", Inside),
            ("2a00::100:5efe:10.0.0.1", "2a00::1:5efe:192.168.1.1", Internet),
        ];
        for (first, last, expected) in lines {
            for at in [first, last] {
                assert_eq!(reach(ip(at), &[]), expected, "{at}");
            }
        }
    }

    /// Examples of RFC 6052, section 2.4.
    #[test]
    fn a_discovered_nat64_takes_us_where_its_embedded_address_is() {
        let nat64 = |text: &str, length| [Prefix::new(text.parse().unwrap(), length).unwrap()];
        for (prefix, length, outside, inside) in [
            ("2001:db8::", 32, "2001:db8:c000:221::", "2001:db8:a00:1::"),
            ("2001:db8:100::", 40, "2001:db8:1c0:2:21::", "2001:db8:10a:0:1::"),
            ("2001:db8:122::", 48, "2001:db8:122:c000:2:2100::", "2001:db8:122:a00:0:100::"),
            ("2001:db8:122:300::", 56, "2001:db8:122:3c0:0:221::", "2001:db8:122:30a:0:1::"),
            ("2001:db8:122:344::", 64, "2001:db8:122:344:c0:2:2100::", "2001:db8:122:344:a:0:100::"),
            ("2001:db8:122:344::", 96, "2001:db8:122:344::192.0.2.33", "2001:db8:122:344::10.0.0.1"),
            ("fd00:64::", 96, "fd00:64::8.8.8.8", "fd00:64::169.254.169.254"),
        ] {
            let prefixes = nat64(prefix, length);
            assert_eq!(reach(ip(outside), &prefixes), Internet, "{outside}");
            assert_eq!(reach(ip(inside), &prefixes), Inside, "{inside}");
        }
    }

    #[test]
    fn a_stranger_reaches_nothing_of_ours_through_our_nat64() {
        let nat64 = [Prefix::new("2001:db8:64::".parse().unwrap(), 96).unwrap()];
        let routes = [route("192.0.0.2", 32, "198.51.100.1"), route("2001:db8:1::5", 64, "2001:db8:1::5")];
        let interfaces = [interface("203.0.113.130", 25)];
        let ours = Ours { interfaces: &interfaces, routes: &routes, announced: None, nat64: &nat64 };
        for never in ["198.51.100.1", "203.0.113.129", "10.0.0.1", "127.0.0.1", "192.0.0.2", "0.0.0.0"] {
            for ip in [never.parse().unwrap(), ip(&format!("2001:db8:64::{never}"))] {
                assert!(!ours.may_send(ip, Trust::Stranger), "{ip}");
            }
        }
        for always in ["198.51.100.2", "2001:db8:64::198.51.100.2", "2001:db8:64::8.8.8.8"] {
            assert!(ours.may_send(ip(always), Trust::Stranger), "{always}");
        }
    }

    fn route(internal: &str, prefix: u8, external: &str) -> Route {
        Route { internal: ip(internal), prefix, external: ip(external) }
    }

    fn interface(at: &str, prefix: u8) -> Interface {
        Interface::new(1, ip(at), prefix)
    }

    #[test]
    fn a_stranger_has_us_send_to_the_internet_and_to_nothing_of_ours() {
        let routes = [route("192.168.2.5", 24, "198.51.100.1"), route("2001:db8::5", 64, "2001:db8::5")];
        let interfaces =
            [interface("192.168.2.5", 24), interface("9.9.9.9", 32), interface("203.0.113.130", 25)];
        let announced = "0-[0,192.0.2.77,192.168.2.5,1,1,1,0]-0-x".parse().unwrap();
        let ours = Ours { interfaces: &interfaces, routes: &routes, announced: Some(&announced), nat64: &[] };
        for never in [
            "192.168.2.9",
            "192.168.2.5",
            "198.51.100.1",
            "192.0.2.77",
            "2001:db8::5",
            "2001:db8::99",
            "9.9.9.9",
            "203.0.113.129",
            "10.0.0.1",
            "127.0.0.1",
            "::1",
            "fe80::1",
            "fd00:ec2::254",
            "64:ff9b::a00:1",
            "2002:a00:1::1",
        ] {
            assert!(!ours.may_send(ip(never), Trust::Stranger), "{never}");
        }
        for always in ["198.51.100.2", "203.0.113.1", "2001:db8:0:1::1", "8.8.8.8", "9.9.9.10"] {
            assert!(ours.may_send(ip(always), Trust::Stranger), "{always}");
            assert!(ours.may_send(ip(always), Trust::Known), "{always}");
        }
    }

    #[test]
    fn for_whom_we_know_only_what_is_no_host_is_refused() {
        let routes = [route("192.168.2.5", 24, "198.51.100.1")];
        let ours = Ours { interfaces: &[], routes: &routes, announced: None, nat64: &[] };
        for never in
            ["0.0.0.0", "255.255.255.255", "224.0.0.1", "ff02::1", "::", "127.0.0.1", "::ffff:8.8.8.8"]
        {
            assert!(!ours.may_send(ip(never), Trust::Known), "{never}");
        }
        for always in ["10.0.0.1", "192.168.2.9", "169.254.1.1", "fd00::1", "198.51.100.1", "240.0.0.1"] {
            assert!(ours.may_send(ip(always), Trust::Known), "{always}");
        }
    }

    #[test]
    fn loopback_is_for_whom_a_node_on_it_knows_and_never_for_strangers() {
        let (loopback, lan) = (route("127.0.0.1", 8, "127.0.0.1"), route("192.168.2.5", 24, "198.51.100.1"));
        let ours = |routes: &[Route], trust| {
            Ours { interfaces: &[], routes, announced: None, nat64: &[] }.may_send(ip("127.0.0.1"), trust)
        };
        for (routes, known) in
            [(&[loopback][..], true), (&[loopback, lan], true), (&[lan], false), (&[], false)]
        {
            assert_eq!(ours(routes, Trust::Known), known);
            assert!(!ours(routes, Trust::Stranger));
        }
    }
}
