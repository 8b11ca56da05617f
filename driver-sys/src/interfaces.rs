//! The machine's interfaces, as the core wants to hear of them.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};

use netdev::interface::ipv6_addr_flags::Ipv6AddrFlags;
use netdev::interface::types::InterfaceType;
use p2pd_core::io::{Interface, LinkKind};
use p2pd_core::{Interfaces, Which, is_link_local};

use crate::{links, sys};

/// A network card, or what the system has in its place.
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[derive(Clone, PartialEq, Eq, Debug)]
// Exhaustive: what shows a card shows all of it.
pub struct Card {
    /// The system's index.
    pub index: u32,
    /// The system's name.
    pub name: String,
    /// True if the interface is switched on.
    pub up: bool,
    /// Addresses of the interface with the lengths of their on-link prefixes, in bits. Tentative IPv6 addresses, not
    /// yet known to be unique, cannot be used and are left out. Addresses that the system keeps only for connections
    /// that use them come last.
    pub addresses: Vec<(IpAddr, u8)>,
    /// The default gateways behind it, of either family.
    pub gateways: Vec<IpAddr>,
    /// True if the system has a default route through the interface.
    pub default_route: bool,
    /// Kind of the link.
    pub link: LinkKind,
}

impl Card {
    /// The default gateway behind it, of the family of `ip`.
    pub fn gateway(&self, ip: IpAddr) -> Option<IpAddr> {
        self.gateways.iter().copied().find(|g| g.is_ipv4() == ip.is_ipv4())
    }

    /// Returns true if the card has this address, in its zone.
    pub fn has(&self, at: SocketAddr) -> bool {
        let zone = if let SocketAddr::V6(at) = at { at.scope_id() } else { 0 };
        let ip = at.ip().to_canonical();
        (zone == 0 || zone == self.index) && self.addresses.iter().any(|(ours, _)| *ours == ip)
    }
}

/// Returns the network cards that the system lists, by index. The call takes about a millisecond (measured).
pub fn cards() -> Vec<Card> {
    let kinds = links::kinds();
    let card = |card: netdev::Interface| {
        let gateways = card.gateway.iter().flat_map(|g| {
            let v4 = g.ipv4.first().map(|ip| IpAddr::V4(*ip));
            v4.into_iter().chain(g.ipv6.first().map(|ip| IpAddr::V6(*ip)))
        });
        Card {
            index: card.index,
            up: card.is_up(),
            addresses: addresses(&card),
            gateways: gateways.collect(),
            default_route: card.default,
            link: link(&card, &kinds),
            name: card.name,
        }
    };
    let mut cards: Vec<Card> = netdev::get_interfaces().into_iter().map(card).collect();
    // They come in another order each time.
    cards.sort_by_key(|card| card.index);
    cards
}

/// Returns the card that has this address.
pub fn card_of(at: SocketAddr) -> Option<Card> {
    cards().into_iter().find(|card| card.has(at))
}

/// Returns the kind of a card's link.
fn link(card: &netdev::Interface, kinds: &BTreeMap<u32, LinkKind>) -> LinkKind {
    /// `IFF_RUNNING`, which is the same on all Unixes.
    const RUNNING: u32 = 0x40;
    if sys::SAYS_RUNNING && card.flags & RUNNING == 0 {
        return LinkKind::Dead;
    }
    let tunnel = || if card.if_type == InterfaceType::Tunnel { LinkKind::Tunnel } else { LinkKind::Real };
    kinds.get(&card.index).copied().unwrap_or_else(tunnel)
}

fn addresses(card: &netdev::Interface) -> Vec<(IpAddr, u8)> {
    let flags = card.ipv6_addr_flags.iter().copied().chain(std::iter::repeat(Ipv6AddrFlags::default()));
    let mut v6: Vec<_> = card.ipv6.iter().zip(flags).filter(|(_, f)| !f.tentative && !f.duplicated).collect();
    // An address that was handed out should hold for long.
    v6.sort_by_key(|(_, f)| (f.deprecated, f.temporary));
    let v4 = card.ipv4.iter().map(|n| (IpAddr::V4(n.addr()), n.prefix_len()));
    v4.chain(v6.iter().map(|(n, _)| (IpAddr::V6(n.addr()), n.prefix_len()))).collect()
}

/// The addresses of all interfaces that are up, without those of loopback and IPv4's link-local ones: those with the
/// default route first, IPv6's link-local ones last, whose zone is the interface's index. With `bind`, that address alone,
/// wherever it is. Those that `wanted` excludes are marked. Takes about a millisecond (measured), so call it off the event loop's hot path.
///
/// # Errors
/// `AddrNotAvailable` if no interface has the address `bind`; `NotFound` if `wanted` names what is not there, with what is.
pub fn interfaces(bind: Option<IpAddr>, wanted: &Interfaces) -> io::Result<Vec<Interface>> {
    let cards = cards();
    if let Some(missing) = missing(&cards, wanted) {
        return Err(io::Error::new(io::ErrorKind::NotFound, missing));
    }
    let found = list(&cards, bind, wanted);
    match bind {
        Some(_) if found.is_empty() => Err(io::ErrorKind::AddrNotAvailable.into()),
        _ => Ok(found),
    }
}

/// The same later on, when what was named may be gone for a while. `None` if the system gave no list.
pub(crate) fn interfaces_now(bind: Option<IpAddr>, wanted: &Interfaces) -> Option<Vec<Interface>> {
    of_cards(&cards(), bind, wanted)
}

/// Returns what is listed of these cards. Every machine has loopback: no card at all means that the system could not be
/// asked, as where a flood has taken all descriptors.
fn of_cards(cards: &[Card], bind: Option<IpAddr>, wanted: &Interfaces) -> Option<Vec<Interface>> {
    (!cards.is_empty()).then(|| list(cards, bind, wanted))
}

/// Returns what `wanted` names although it is not there, and what is. A prefix may exclude addresses that come later.
fn missing(cards: &[Card], wanted: &Interfaces) -> Option<String> {
    let there = |which: &Which| {
        let name = |card: &Card| matches!(which, Which::Name(name) if **name == *card.name);
        let address = |card: &Card| card.addresses.iter().any(|(ip, _)| which.names(&card.name, *ip));
        cards.iter().any(|card| name(card) || address(card))
    };
    let named = |which: &&Which| matches!(which, Which::Name(_));
    let missing = wanted.only.iter().chain(wanted.not.iter().filter(named)).find(|which| !there(which))?;
    let said = |card: &Card| {
        let ips = card.addresses.iter().map(|(ip, _)| format!(" {ip}"));
        format!("{}{}", card.name, ips.collect::<String>())
    };
    let all: Vec<String> = cards.iter().map(said).collect();
    Some(format!("no interface is called {missing} or has such an address; there are: {}", all.join(", ")))
}

fn list(cards: &[Card], bind: Option<IpAddr>, wanted: &Interfaces) -> Vec<Interface> {
    let mut found = Vec::new();
    for card in cards.iter().filter(|card| card.up) {
        for (ip, prefix) in &card.addresses {
            let listed = match bind {
                Some(bind) => *ip == bind,
                None => !(ip.is_loopback() || ip.is_ipv4() && is_link_local(*ip)),
            };
            if listed {
                let gateway = card.gateway(*ip);
                // netdev finds its one default interface by IPv4: that says nothing of IPv6.
                let default_route = gateway.is_some() || (ip.is_ipv4() && card.default_route);
                found.push(Interface {
                    index: card.index,
                    ip: *ip,
                    prefix: *prefix,
                    default_route,
                    gateway,
                    link: card.link,
                    used: wanted.allows(&card.name, *ip),
                });
            }
        }
    }
    found.sort_by_key(|i| (is_link_local(i.ip), !i.default_route));
    // All of 127.0.0.0/8 is the machine itself, though only one of it is listed.
    if let Some(ip) = bind.filter(|ip| found.is_empty() && ip.is_loopback()) {
        found.push(Interface::new(1, ip, 8));
    }
    found
}

/// Returns the system's name of the interface with this index.
pub fn interface_name(index: u32) -> Option<String> {
    netdev::get_interfaces().into_iter().find(|i| i.index == index).map(|i| i.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_machine_has_a_loopback_card_without_a_gateway() {
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        let cards = cards();
        let card = cards.iter().find(|c| c.addresses.contains(&(loopback, 8))).unwrap();
        assert_eq!((card.up, card.gateways.len(), card.default_route), (true, 0, false), "{card:?}");
        assert!(card.index > 0 && !card.name.is_empty(), "{card:?}");
    }

    #[test]
    fn ipv6_addresses_that_the_system_gives_up_come_last_and_those_that_are_not_ours_yet_not_at_all() {
        let mut card = netdev::Interface::dummy();
        card.ipv4 = vec!["192.168.1.5/24".parse().unwrap()];
        card.ipv6 = ["2a01::1/64", "2a01::2/64", "2a01::3/64", "2a01::4/64", "fe80::1/64"]
            .map(|net| net.parse().unwrap())
            .into();
        let flags = |deprecated, tentative, duplicated| Ipv6AddrFlags {
            deprecated,
            tentative,
            duplicated,
            ..Ipv6AddrFlags::default()
        };
        // Of the last one the system said nothing.
        card.ipv6_addr_flags = vec![
            flags(true, false, false),
            flags(false, true, false),
            flags(false, false, true),
            flags(false, false, false),
        ];
        let listed: Vec<String> = addresses(&card).iter().map(|(ip, n)| format!("{ip}/{n}")).collect();
        assert_eq!(listed, ["192.168.1.5/24", "2a01::4/64", "fe80::1/64", "2a01::1/64"]);
    }

    #[test]
    fn loopback_is_listed_only_when_asked_for() {
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        let everything = &Interfaces::default();
        let bound = interfaces(Some(loopback), everything).unwrap();
        assert_eq!((bound.len(), bound[0].ip, bound[0].gateway), (1, loopback, None));
        let all = interfaces(None, everything).unwrap();
        assert!(all.iter().all(|i| !i.ip.is_loopback()));
        assert!(all.is_sorted_by_key(|i| (is_link_local(i.ip), !i.default_route)), "{all:?}");
        assert_eq!(interface_name(u32::MAX), None);
        if cfg!(target_os = "linux") {
            assert_eq!(interface_name(1).as_deref(), Some("lo"));
        }
        let nobody = interfaces(Some("192.0.2.77".parse().unwrap()), everything);
        assert_eq!(nobody.err().map(|e| e.kind()), Some(io::ErrorKind::AddrNotAvailable));
    }
    #[test]
    fn what_is_excluded_is_marked_and_what_is_not_there_is_said_with_what_is() {
        let card = |index: u32, name: &str, addresses: &[(&str, u8)]| Card {
            index,
            name: name.into(),
            up: true,
            addresses: addresses.iter().map(|(ip, prefix)| (ip.parse().unwrap(), *prefix)).collect(),
            gateways: Vec::new(),
            default_route: false,
            link: LinkKind::Real,
        };
        let lan = card(2, "lan0", &[("192.168.7.1", 24), ("fd00::1", 64)]);
        let cards = [card(1, "lo", &[("127.0.0.1", 8)]), lan, card(3, "tun0", &[("10.8.0.6", 24)])];
        let wanted = |only: &[&str], not: &[&str]| {
            let [only, not] = [only, not].map(|list| list.iter().map(|w| w.parse().unwrap()).collect());
            Interfaces { only, not }
        };
        let used = |wanted: &Interfaces| -> Vec<String> {
            list(&cards, None, wanted).iter().filter(|i| i.used).map(|i| i.ip.to_string()).collect()
        };
        assert_eq!(used(&wanted(&["lan0"], &[])), ["192.168.7.1", "fd00::1"]);
        assert_eq!(used(&wanted(&[], &["lan0"])), ["10.8.0.6"]);
        assert_eq!(used(&wanted(&["192.168.0.0/16", "10.8.0.6"], &[])), ["192.168.7.1", "10.8.0.6"]);
        assert_eq!(list(&cards, None, &wanted(&["lan0"], &[])).len(), 3, "all are listed");
        assert_eq!(of_cards(&cards, None, &wanted(&[], &[])).map(|all| all.len()), Some(3));
        assert_eq!(of_cards(&cards[..1], None, &wanted(&[], &[])), Some(Vec::new()), "every cable is out");
        assert_eq!(of_cards(&[], None, &wanted(&[], &[])), None, "the system could not be asked");
        let said = "no interface is called eth9 or has such an address; there are: lo 127.0.0.1, lan0 192.168.7.1 fd00::1, tun0 10.8.0.6";
        assert_eq!(missing(&cards, &wanted(&["eth9"], &[])).as_deref(), Some(said));
        assert_eq!(missing(&cards, &wanted(&["lan0"], &["eth9"])).as_deref(), Some(said));
        assert_eq!(missing(&cards, &wanted(&["lan0", "127.0.0.0/8"], &["172.16.0.0/12", "tun0"])), None);
        assert!(missing(&cards, &wanted(&["172.16.0.0/12"], &[])).is_some());
    }
}
