//! IPv4 addresses inside IPv6 addresses, as a NAT64 translates them (RFC 6052), and how its prefix is found (RFC 7050).

use crate::prefix::{Prefix, Prefixes};
use std::net::{IpAddr, Ipv4Addr};

use crate::reach::{Reach, reach};

/// Name whose IPv4 addresses everybody knows: a DNS64 embeds them in addresses of its network's prefix.
pub(crate) const WELL_KNOWN_NAME: &str = "ipv4only.arpa";
/// Addresses of the well-known name (RFC 7050 section 2.2).
const WELL_KNOWN: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 0, 170), Ipv4Addr::new(192, 0, 0, 171)];
/// Most prefixes that are believed.
const MOST: usize = 4;

/// Finds the prefixes in the addresses of [`WELL_KNOWN_NAME`] (RFC 7050 section 3). None: there is no DNS64.
///
/// A name server is a stranger: what no host on the way to the internet may have as its address is no prefix.
pub(crate) fn discover(found: &[IpAddr]) -> Prefixes {
    let mut prefixes = Prefixes::new();
    let v6 = found.iter().filter_map(|ip| if let IpAddr::V6(ip) = ip { Some(*ip) } else { None });
    for ip in v6 {
        // With zeros behind it, so that none reads as another prefix's too.
        let of = |known: Ipv4Addr| {
            let fits = |length: &u8| Prefix::new(ip, *length).filter(|prefix| prefix.embed(known) == ip);
            Prefix::LENGTHS.iter().find_map(fits)
        };
        let usable = |prefix: &Prefix| {
            let outside = reach(prefix.embed(Ipv4Addr::new(8, 8, 8, 8)).into(), &[]);
            let local = prefix.ip.is_unicast_link_local() || prefix.ip.is_unspecified();
            !local && !matches!(outside, Reach::Nobody | Reach::Loopback)
        };
        let prefix = WELL_KNOWN.into_iter().find_map(of).filter(usable);
        prefixes.extend(prefix.filter(|p| !prefixes.contains(p) && prefixes.len() < MOST));
    }
    prefixes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefix::extract;
    use std::net::Ipv6Addr;

    fn v6(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    /// RFC 6052 section 2.4.
    const VECTORS: [(&str, u8, &str); 7] = [
        ("2001:db8::", 32, "2001:db8:c000:221::"),
        ("2001:db8:100::", 40, "2001:db8:1c0:2:21::"),
        ("2001:db8:122::", 48, "2001:db8:122:c000:2:2100::"),
        ("2001:db8:122:300::", 56, "2001:db8:122:3c0:0:221::"),
        ("2001:db8:122:344::", 64, "2001:db8:122:344:c0:2:2100::"),
        ("2001:db8:122:344::", 96, "2001:db8:122:344::192.0.2.33"),
        ("64:ff9b::", 96, "64:ff9b::192.0.2.33"),
    ];

    #[test]
    fn addresses_are_embedded_and_extracted_as_rfc_6052_has_it() {
        let ip = Ipv4Addr::new(192, 0, 2, 33);
        for (prefix, length, embedded) in VECTORS {
            let prefix = Prefix::new(v6(prefix), length).unwrap();
            assert_eq!(prefix.embed(ip), v6(embedded));
            assert_eq!(prefix.extract(v6(embedded)), Some(ip));
            assert_eq!(prefix.extract(v6("2a00::1")), None);
            assert_eq!(extract(&[prefix], v6(embedded).into()), Some(ip));
            assert_eq!(extract(&[prefix], ip.into()), None);
        }
        // What is behind the address does not matter, nor what stood behind the prefix.
        let prefix = Prefix::new(v6("2001:db8:ffff:ffff::1"), 32).unwrap();
        assert_eq!(prefix.embed(ip), v6("2001:db8:c000:221::"));
        assert_eq!(prefix.extract(v6("2001:db8:c000:221:0:1::9")), Some(ip));
        for length in [0, 16, 33, 72, 95, 97, 128] {
            assert_eq!(Prefix::new(v6("2001:db8::"), length), None);
        }
    }

    #[test]
    fn prefixes_of_all_lengths_are_found_in_the_well_known_addresses() {
        for (prefix, length, _) in VECTORS {
            let prefix = Prefix::new(v6(prefix), length).unwrap();
            let both = WELL_KNOWN.map(|ip| prefix.embed(ip).into());
            assert_eq!(discover(&both).as_slice(), [prefix], "{prefix:?}");
            assert_eq!(discover(&both[1..]).as_slice(), [prefix]);
        }
        let two = [v6("64:ff9b::192.0.0.170"), v6("2001:db8:64::192.0.0.171")];
        assert_eq!(discover(&two.map(IpAddr::V6)).len(), 2);
        // A prefix that reads as a well-known address itself.
        let odd = Prefix::new(v6("2001:db8:c000:aa::"), 96).unwrap();
        assert_eq!(discover(&WELL_KNOWN.map(|ip| odd.embed(ip).into())).as_slice(), [odd]);
    }

    #[test]
    fn what_is_no_prefix_is_not_believed() {
        let list = |all: &[&str]| -> Vec<IpAddr> { all.iter().map(|ip| ip.parse().unwrap()).collect() };
        let none = [
            &["192.0.0.170", "192.0.0.171"][..],
            &["2001:db8::1", "64:ff9b::192.0.0.172", "64:ff9b::c000:aa:0:0"],
            &["::ffff:192.0.0.170", "::192.0.0.170", "ff0e::192.0.0.170", "fe80::192.0.0.170"],
            &[],
        ];
        for addresses in none {
            assert_eq!(discover(&list(addresses)).len(), 0, "{addresses:?}");
        }
        let many: Vec<IpAddr> =
            (0..100).map(|n| v6(&format!("2001:db8:{n:x}::192.0.0.170")).into()).collect();
        assert_eq!(discover(&many).len(), MOST);
    }
}
