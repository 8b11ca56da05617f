//! Table of this machine's addresses and of those that the internet sees for them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use p2pd_core::address::is_internet;
use p2pd_core::nat::NatReport;

use super::{Family, Route};
use crate::Card;

/// Routes of the P2PD documents: which addresses of which interface lead out as which external address.
///
/// IPv4: addresses that are seen as the same other address are one row. An inside address that was not measured is taken
/// to be translated as its interface's others are. An address that is seen as itself is a row of its own, and with it the
/// others of its network that the interface has. Neighbouring ones are a range.
///
/// IPv6: each global address or range is a row, to which the interface's link-local and unique local addresses lead.
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RouteTable {
    rows: Vec<RouteEntry>,
}

/// Row of a [`RouteTable`].
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RouteEntry {
    /// The system's index of the interface.
    pub index: u32,
    /// The system's name of the interface.
    pub interface: String,
    /// Addresses of the interface; of IPv6 those that mean something inside only.
    pub nic: Vec<IpRange>,
    /// Addresses that the internet sees.
    pub ext: IpRange,
    /// Address to bind.
    pub source: IpAddr,
}

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IpRange {
    first: IpAddr,
    prefix: u8,
}

impl RouteTable {
    /// Creates the table of these cards. `external` tells how an address is seen, where that was measured.
    pub fn new(cards: &[Card], external: impl Fn(IpAddr) -> Option<IpAddr>) -> Self {
        let mut rows = Vec::new();
        for card in cards.iter().filter(|card| card.up) {
            // An inside address that is seen as itself was seen from inside.
            let seen = |ip: IpAddr| external(ip).filter(|seen| *seen != ip || is_internet(ip));
            let of = |family: Family| {
                let ours = card.addresses.iter().filter(move |(ip, _)| family.has(*ip));
                ours.map(|(ip, prefix)| Address { ip: *ip, prefix: *prefix, seen: seen(*ip) })
                    .collect::<Vec<_>>()
            };
            let found = v4(&of(Family::V4)).into_iter().chain(v6(&of(Family::V6)));
            rows.extend(found.map(|(nic, ext, source)| RouteEntry {
                index: card.index,
                interface: card.name.clone(),
                nic,
                ext,
                source,
            }));
        }
        RouteTable { rows }
    }

    /// Creates the table of this machine as a node has measured it. Listing the interfaces takes about a millisecond.
    pub fn measured<'r>(reports: impl IntoIterator<Item = &'r NatReport>) -> Self {
        let seen: BTreeMap<IpAddr, IpAddr> =
            reports.into_iter().filter_map(|report| Some((report.local, report.external()?))).collect();
        Self::new(&crate::cards(), |ip| seen.get(&ip).copied())
    }

    /// Returns the rows: by interface, IPv4 first.
    pub fn iter(&self) -> std::slice::Iter<'_, RouteEntry> {
        self.rows.iter()
    }

    /// Returns the row of a local address.
    pub fn of(&self, ip: IpAddr) -> Option<&RouteEntry> {
        let seen = self.rows.iter().find(|row| row.ext.contains(ip) && row.ext.contains(row.source));
        seen.or_else(|| self.rows.iter().find(|row| row.nic.iter().any(|range| range.contains(ip))))
    }

    /// Returns one source for each external address of a family, ranges address by address.
    pub fn sources(&self, family: Family) -> impl Iterator<Item = Route> {
        self.rows.iter().filter(move |row| family.has(row.source)).flat_map(|row| {
            let own = if row.ext.contains(row.source) { row.ext } else { IpRange::from(row.source) };
            own.addresses().map(|ip| Route::from(ip).by(row.index))
        })
    }
}

impl<'t> IntoIterator for &'t RouteTable {
    type Item = &'t RouteEntry;
    type IntoIter = std::slice::Iter<'t, RouteEntry>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl RouteEntry {
    /// Returns the source of a pipe or server that is to be seen as this row's external address.
    pub fn route(&self, port: u16) -> Route {
        Route::from(std::net::SocketAddr::new(self.source, port)).by(self.index)
    }
}

/// Writes `eth0: [192.168.0.20/32] -> [203.0.113.7/32]`.
impl fmt::Display for RouteEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: [", self.interface)?;
        for (n, range) in self.nic.iter().enumerate() {
            write!(f, "{}{range}", if n == 0 { "" } else { ", " })?;
        }
        write!(f, "] -> [{}]", self.ext)
    }
}

impl IpRange {
    /// Returns the first address.
    pub fn first(self) -> IpAddr {
        self.first
    }

    /// Returns the number of bits that all have in common.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Returns true if the address is one of these.
    pub fn contains(self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.first.is_ipv4() && bits(ip) & mask(ip, self.prefix) == bits(self.first)
    }

    /// Returns each address.
    fn addresses(self) -> impl Iterator<Item = IpAddr> {
        let (first, last) =
            (bits(self.first), bits(self.first) | !mask(self.first, self.prefix) & all(self.first));
        (first..=last).map(move |n| address(n, self.first))
    }
}

/// Range of one address.
impl From<IpAddr> for IpRange {
    fn from(ip: IpAddr) -> Self {
        IpRange { first: ip, prefix: length(ip) }
    }
}

/// Writes `192.168.0.0/16`.
impl fmt::Display for IpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

/// The form of the P2PD documents, whose numbers of families are Linux' ones on every system.
#[cfg(feature = "serde")]
impl serde::Serialize for IpRange {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut range = serializer.serialize_struct("IpRange", 3)?;
        range.serialize_field("af", if self.first.is_ipv4() { &2 } else { &10 })?;
        range.serialize_field("cidr", &self.prefix)?;
        range.serialize_field("ip", &self.first)?;
        range.end()
    }
}

/// Address of an interface.
struct Address {
    ip: IpAddr,
    prefix: u8,
    /// The external address, where it was measured.
    seen: Option<IpAddr>,
}

type Row = (Vec<IpRange>, IpRange, IpAddr);

fn v4(ours: &[Address]) -> Vec<Row> {
    let itself = |a: &Address| a.seen == Some(a.ip);
    let mut translated: BTreeMap<IpAddr, Vec<IpAddr>> = BTreeMap::new();
    for address in ours.iter().filter(|a| !itself(a)) {
        if let Some(seen) = address.seen {
            translated.entry(seen).or_default().push(address.ip);
        }
    }
    let unknown = || ours.iter().filter(|a| a.seen.is_none() && !a.ip.is_loopback());
    if let Some(first) = translated.values_mut().next() {
        first.extend(unknown().filter(|a| !is_internet(a.ip)).map(|a| a.ip));
    }
    let near = |a: &&Address| {
        let same = |b: &Address| mask(a.ip, a.prefix) & (bits(a.ip) ^ bits(b.ip)) == 0;
        is_internet(a.ip) && ours.iter().any(|b| itself(b) && same(b))
    };
    let own = ours.iter().filter(|a| itself(a)).chain(unknown().filter(near)).map(|a| a.ip);
    let translated =
        translated.into_iter().map(|(seen, ips)| (ranges(ips.iter().copied()), seen.into(), ips[0]));
    translated.chain(ranges(own).into_iter().map(|range| (vec![range], range, range.first))).collect()
}

fn v6(ours: &[Address]) -> Vec<Row> {
    let mut translated: BTreeMap<IpAddr, Vec<IpAddr>> = BTreeMap::new();
    for (address, seen) in ours.iter().filter_map(|a| Some((a, a.seen?))).filter(|(a, seen)| *seen != a.ip) {
        translated.entry(seen).or_default().push(address.ip);
    }
    let inside: Vec<IpAddr> =
        ours.iter().map(|a| a.ip).filter(|ip| !is_internet(*ip) && !ip.is_loopback()).collect();
    let from = |or: IpRange| if inside.is_empty() { vec![or] } else { ranges(inside.iter().copied()) };
    let own = ours.iter().filter(|a| is_internet(a.ip) && a.seen.is_none_or(|seen| seen == a.ip));
    let mut rows: Vec<Row> =
        ranges(own.map(|a| a.ip)).into_iter().map(|range| (from(range), range, range.first)).collect();
    rows.extend(
        translated
            .into_iter()
            .map(|(seen, ips)| (ranges(inside.iter().chain(&ips).copied()), IpRange::from(seen), ips[0])),
    );
    rows
}

/// Returns the fewest ranges that have these addresses and no others.
fn ranges(ips: impl Iterator<Item = IpAddr>) -> Vec<IpRange> {
    let mut sorted: Vec<IpRange> = ips.map(IpRange::from).collect();
    sorted.sort_unstable();
    sorted.dedup();
    let mut found: Vec<IpRange> = Vec::with_capacity(sorted.len());
    for mut range in sorted {
        // Two halves of a wider one.
        while let Some(before) = found.last().copied()
            && before.prefix == range.prefix
            && let Some(prefix) = range.prefix.checked_sub(1)
            && (IpRange { first: before.first, prefix }).contains(range.first)
            && bits(before.first) & !mask(before.first, prefix) & all(before.first) == 0
        {
            found.pop();
            range = IpRange { first: before.first, prefix };
        }
        found.push(range);
    }
    found
}

fn length(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// Returns all bits that an address of this family has.
fn all(like: IpAddr) -> u128 {
    if like.is_ipv4() { u128::from(u32::MAX) } else { u128::MAX }
}

fn mask(like: IpAddr, prefix: u8) -> u128 {
    let rest = u32::from(length(like).saturating_sub(prefix));
    all(like) & u128::MAX.checked_shl(rest).unwrap_or(0)
}

fn address(n: u128, like: IpAddr) -> IpAddr {
    if like.is_ipv4() { IpAddr::V4((n as u32).into()) } else { IpAddr::V6(n.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2pd_core::io::LinkKind;

    fn card(index: u32, addresses: &[(&str, u8)]) -> Card {
        Card {
            index,
            name: format!("eth{index}"),
            up: true,
            addresses: addresses.iter().map(|(ip, prefix)| (ip.parse().unwrap(), *prefix)).collect(),
            gateways: Vec::new(),
            default_route: false,
            link: LinkKind::Real,
        }
    }

    /// The table's text, and the sources of each family. What is seen is given as `address=external`.
    fn told(cards: &[Card], seen: &str) -> (Vec<String>, Vec<String>) {
        let seen: BTreeMap<IpAddr, IpAddr> = seen
            .split_whitespace()
            .map(|pair| pair.split_once('=').unwrap())
            .map(|(ip, seen)| (ip.parse().unwrap(), seen.parse().unwrap()))
            .collect();
        let table = RouteTable::new(cards, |ip| seen.get(&ip).copied());
        let sources = [Family::V4, Family::V6].map(|family| {
            table
                .sources(family)
                .map(|route| format!("{}@{:?}", route.local().ip(), route.interface()))
                .collect()
        });
        (
            table.iter().map(RouteEntry::to_string).collect(),
            sources.into_iter().flat_map(|s: Vec<_>| s).collect(),
        )
    }

    #[test]
    fn the_documents_example_of_ipv4_is_grouped_as_they_have_it() {
        let block = [("8.8.0.4", 16), ("8.8.0.5", 16), ("8.8.0.6", 16), ("8.8.0.7", 16)];
        let ours =
            [&[("192.168.0.20", 24), ("193.168.0.0", 16), ("7.7.7.7", 32), ("10.0.0.9", 8)], &block[..]];
        // Of the block one address was measured, and the last inside address was not.
        let seen = "192.168.0.20=1.3.3.7 193.168.0.0=1.3.3.7 7.7.7.7=1.3.3.7 8.8.0.5=8.8.0.5";
        let (rows, sources) = told(&[card(2, &ours.concat())], seen);
        assert_eq!(
            rows,
            [
                "eth2: [7.7.7.7/32, 10.0.0.9/32, 192.168.0.20/32, 193.168.0.0/32] -> [1.3.3.7/32]",
                "eth2: [8.8.0.4/30] -> [8.8.0.4/30]",
            ]
        );
        let own = [4, 5, 6, 7].map(|n| format!("8.8.0.{n}@Some(2)"));
        assert_eq!(sources, [&["192.168.0.20@Some(2)".into()], &own[..]].concat());
    }

    #[test]
    fn the_documents_example_of_ipv6_has_all_link_local_addresses_in_each_route() {
        let ours = [("2020:deed:beef::", 128), ("2020:deed:deed::", 64), ("fe80::1", 64), ("fd00::1", 64)];
        let rows = [
            "eth3: [fd00::1/128, fe80::1/128] -> [2020:deed:beef::/128]",
            "eth3: [fd00::1/128, fe80::1/128] -> [2020:deed:deed::/128]",
        ];
        let (told_rows, sources) = told(&[card(3, &ours)], "");
        assert_eq!(told_rows, rows);
        // Servers bind the external part.
        assert_eq!(sources, ["2020:deed:beef::@Some(3)", "2020:deed:deed::@Some(3)"]);
        // A translated network (RFC 6296) is bound inside.
        let (rows, sources) = told(&[card(3, &ours[2..])], "fd00::1=2001:db8::7");
        assert_eq!(rows, ["eth3: [fd00::1/128, fe80::1/128] -> [2001:db8::7/128]"]);
        assert_eq!(sources, ["fd00::1@Some(3)"]);
    }

    #[test]
    fn what_was_not_measured_is_no_route_and_each_interface_has_its_own() {
        let cards = [card(1, &[("127.0.0.1", 8), ("::1", 128)]), card(2, &[("192.168.1.2", 24)])];
        assert_eq!(told(&cards, "127.0.0.1=127.0.0.1 192.168.1.2=192.168.1.2").0, Vec::<String>::new());
        let cards = [card(2, &[("192.168.1.2", 24)]), card(4, &[("10.0.0.2", 8), ("fe80::2", 64)])];
        let rows = ["eth2: [192.168.1.2/32] -> [203.0.113.1/32]", "eth4: [10.0.0.2/32] -> [198.51.100.1/32]"];
        assert_eq!(told(&cards, "192.168.1.2=203.0.113.1 10.0.0.2=198.51.100.1").0, rows);
        let off = Card { up: false, ..cards[0].clone() };
        assert_eq!(told(&[off], "192.168.1.2=203.0.113.1").0, Vec::<String>::new());
        // Two lines by one interface.
        let two = card(2, &[("192.168.1.2", 24), ("192.168.2.2", 24)]);
        let rows =
            ["eth2: [192.168.1.2/32] -> [198.51.100.1/32]", "eth2: [192.168.2.2/32] -> [203.0.113.1/32]"];
        assert_eq!(told(&[two], "192.168.1.2=198.51.100.1 192.168.2.2=203.0.113.1").0, rows);
    }

    #[test]
    fn ranges_have_their_addresses_and_no_others() {
        let text = |ips: &[u8]| -> Vec<String> {
            ranges(ips.iter().map(|n| [203, 0, 113, *n].into())).iter().map(IpRange::to_string).collect()
        };
        assert_eq!(text(&[9, 10, 11]), ["203.0.113.9/32", "203.0.113.10/31"]);
        assert_eq!(text(&[12, 8, 9, 11, 10, 13, 14, 15]), ["203.0.113.8/29"]);
        let whole: Vec<u8> = (0..=255).collect();
        assert_eq!(text(&whole), ["203.0.113.0/24"]);
        let range = IpRange { first: [203, 0, 113, 8].into(), prefix: 30 };
        assert!(range.contains([203, 0, 113, 11].into()) && !range.contains([203, 0, 113, 12].into()));
        assert!(!range.contains("::".parse().unwrap()));
        assert_eq!(range.addresses().count(), 4);
        // A local address finds its row.
        let own = [("192.168.1.2", 24), ("203.0.113.8", 24), ("fe80::1", 64), ("2001:db8::1", 64)];
        let seen =
            |ip: IpAddr| Some(if ip == IpAddr::from([203, 0, 113, 8]) { ip } else { [1, 3, 3, 7].into() });
        let table = RouteTable::new(&[card(2, &own)], |ip| if ip.is_ipv4() { seen(ip) } else { None });
        let ext = |ip: &str| table.of(ip.parse().unwrap()).map(|row| row.ext.to_string());
        assert_eq!(ext("192.168.1.2").as_deref(), Some("1.3.3.7/32"));
        assert_eq!(ext("203.0.113.8").as_deref(), Some("203.0.113.8/32"));
        assert_eq!(ext("fe80::1"), ext("2001:db8::1"));
        assert_eq!(ext("10.0.0.1"), None);
    }
}
