//! Choice of addresses out of the list of interfaces, and the comparison of two lists.

use std::net::IpAddr;

use super::PER_FAMILY;
use crate::address::is_link_local;
use crate::io::{Interface, LinkKind};
use crate::portmap::Scope;
use crate::strategy::paths::{Link, Links};

/// Chooses up to three addresses per family from those that are used, one per interface. An address without carrier is
/// left out if another has it. The default route's come before others, and real networks before tunnels and containers.
///
/// Addresses of real networks are named first, so that neighbours are dialled directly even while a VPN has the default
/// route. Many home networks give out IPv6 addresses that hold in the site alone (RFC 4193) in addition to the
/// internet's: the site's are the worse ones.
pub(super) fn choose(list: &[Interface], bind: Option<IpAddr>) -> Vec<Interface> {
    let usable = |i: &&Interface| match bind {
        Some(ip) => i.ip == ip && (ip.is_ipv4() || !is_link_local(ip)),
        None => !i.ip.is_loopback() && !i.ip.is_unspecified() && !is_link_local(i.ip),
    };
    let mut candidates: Vec<&Interface> = list.iter().filter(|i| i.used).filter(usable).collect();
    if candidates.iter().any(|i| i.link != LinkKind::Dead) {
        candidates.retain(|i| i.link != LinkKind::Dead);
    }
    let sites = |ip: IpAddr| ip.is_ipv6() && Scope::of(ip) != Scope::Public;
    candidates.sort_by_key(|i| (!i.default_route, i.link, i.index, sites(i.ip)));
    let mut chosen: Vec<&Interface> = Vec::new();
    for candidate in candidates {
        let family = |i: &&&Interface| i.ip.is_ipv4() == candidate.ip.is_ipv4();
        let taken = chosen.iter().filter(family).any(|i| i.index == candidate.index);
        if !taken && chosen.iter().filter(family).count() < PER_FAMILY {
            chosen.push(candidate);
        }
    }
    chosen.sort_by_key(|i| i.link);
    chosen.into_iter().copied().collect()
}

/// The link-local IPv6 addresses of up to three interfaces, one each, those that lead out in either family first.
pub(super) fn choose_links(list: &[Interface], bind: Option<IpAddr>) -> Links {
    let of = |i: &Interface| match i.ip {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Some(Link { ip, zone: i.index }),
        _ => None,
    };
    let usable = |i: &&Interface| bind.is_none_or(|ip| i.ip == ip);
    let mut all: Vec<Link> = list.iter().filter(|i| i.used).filter(usable).filter_map(of).collect();
    let leads = |zone: u32| list.iter().any(|i| i.index == zone && i.default_route);
    all.sort_by_key(|link| (!leads(link.zone), link.zone));
    all.dedup_by_key(|link| link.zone);
    all.into_iter().take(PER_FAMILY).collect()
}

/// Returns true if an address has gone, or if the first interface of a family has another address, route or gateway.
pub(super) fn is_elsewhere(before: &[Interface], now: &[Interface]) -> bool {
    let first = |list: &[Interface], v4: bool| {
        list.iter().find(|i| i.ip.is_ipv4() == v4).map(|i| (i.ip, i.default_route, i.gateway))
    };
    before.iter().any(|b| now.iter().all(|n| n.ip != b.ip))
        || [true, false].iter().any(|v4| first(before, *v4) != first(now, *v4))
}

/// Returns true if an address that a socket has is not ours any more. Loopback and IPv4 link-local addresses are in
/// no list, and count as ours.
pub(in crate::node) fn is_gone(ip: IpAddr, list: &[Interface]) -> bool {
    let listed = match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_unspecified() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unspecified(),
    };
    listed && list.iter().all(|i| i.ip != ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(index: u32, ip: &str, default_route: bool) -> Interface {
        Interface { default_route, ..Interface::new(index, ip.parse().unwrap(), 24) }
    }

    #[test]
    fn interfaces_are_chosen_one_address_each_default_route_first() {
        let list = [
            interface(1, "127.0.0.1", false),
            interface(2, "10.0.0.1", false),
            interface(2, "10.0.0.2", false),
            interface(3, "192.168.1.1", true),
            interface(3, "2001:db8::1", true),
            interface(4, "10.4.0.1", false),
            interface(5, "10.5.0.1", false),
            interface(6, "fe80::1", false),
        ];
        let chosen: Vec<String> = choose(&list, None).iter().map(|i| i.ip.to_string()).collect();
        assert_eq!(chosen, ["192.168.1.1", "2001:db8::1", "10.0.0.1", "10.4.0.1"]);
        let bound = choose(&list, Some("127.0.0.1".parse().unwrap()));
        assert_eq!(bound.len(), 1);
    }

    #[test]
    fn real_networks_come_before_tunnels_and_containers_and_nothing_dead_beside_them() {
        let of = |index: u32, ip: &str, default_route: bool, link: LinkKind| Interface {
            link,
            ..interface(index, ip, default_route)
        };
        let bridges = [2, 3, 4].map(|n| of(n, &format!("172.{}.0.1", 15 + n), false, LinkKind::Virtual));
        let [lan, vpn] =
            [of(9, "192.168.7.1", false, LinkKind::Real), of(8, "10.8.0.6", true, LinkKind::Tunnel)];
        let chosen = |list: &[Interface]| -> Vec<String> {
            choose(list, None).iter().map(|i| i.ip.to_string()).collect()
        };
        assert_eq!(chosen(&[&bridges[..], &[lan]].concat()), ["192.168.7.1", "172.17.0.1", "172.18.0.1"]);
        assert_eq!(chosen(&[&bridges[..], &[lan, vpn]].concat()), ["192.168.7.1", "10.8.0.6", "172.17.0.1"]);
        let lans = [10, 11, 12].map(|n| of(n, &format!("192.168.{n}.1"), false, LinkKind::Real));
        let most = chosen(&[&lans[..], &[vpn]].concat());
        assert_eq!(most, ["192.168.10.1", "192.168.11.1", "10.8.0.6"], "the way out has a place");
        let unused = Interface { used: false, ..vpn };
        assert_eq!(chosen(&[&bridges[..1], &[lan, unused]].concat()), ["192.168.7.1", "172.17.0.1"]);
        let dead = bridges.map(|i| Interface { link: LinkKind::Dead, ..i });
        assert_eq!(chosen(&[&dead[..], &[lan]].concat()), ["192.168.7.1"]);
        let unplugged = Interface { link: LinkKind::Dead, default_route: true, ..lan };
        assert_eq!(chosen(&[unplugged, bridges[0]]), ["172.17.0.1"]);
        assert_eq!(chosen(&[unplugged]), ["192.168.7.1"], "better than none");
    }

    #[test]
    fn of_an_interfaces_ipv6_addresses_the_internets_comes_before_the_sites_own() {
        let list = [
            interface(3, "fd00::3", true),
            interface(3, "2a01::3", true),
            interface(3, "2a01::33", true),
            interface(4, "fd00::4", true),
            interface(5, "192.168.1.1", true),
            interface(5, "9.9.9.9", true),
        ];
        let chosen: Vec<String> = choose(&list, None).iter().map(|i| i.ip.to_string()).collect();
        assert_eq!(chosen, ["2a01::3", "fd00::4", "192.168.1.1"]);
    }

    #[test]
    fn three_links_are_chosen_with_their_zones_those_that_lead_out_first() {
        let list = [
            interface(9, "fe80::9", false),
            interface(3, "fe80::3", false),
            interface(3, "fe80::33", false),
            interface(4, "169.254.0.1", false),
            interface(5, "fe80::5", false),
            interface(7, "fe80::7", false),
            interface(7, "192.168.1.1", true),
        ];
        let link = |ip: &str, zone| Link { ip: ip.parse().unwrap(), zone };
        let three = [link("fe80::7", 7), link("fe80::3", 3), link("fe80::5", 5)];
        assert_eq!(choose_links(&list, None).as_slice(), three);
        let bind = Some("fe80::33".parse().unwrap());
        assert_eq!(choose_links(&list, bind).as_slice(), [link("fe80::33", 3)]);
        assert_eq!(choose(&list, bind), []);
        assert_eq!(choose_links(&list, Some("192.168.1.1".parse().unwrap())).as_slice(), []);
    }

    #[test]
    fn elsewhere_is_where_the_way_out_is_another() {
        let home = [interface(2, "192.168.1.5", true), interface(2, "10.0.0.1", false)];
        assert!(!is_elsewhere(&home, &home));
        let more = [home[0], home[1], interface(2, "172.17.0.1", false)];
        assert!(!is_elsewhere(&home, &more), "one more beside it");
        assert!(is_elsewhere(&home, &home[..1]), "one gone");
        assert!(is_elsewhere(&home, &[home[1], home[0]]), "another one leads out");
        let cut = [interface(2, "192.168.1.5", false), home[1]];
        assert!(is_elsewhere(&home, &cut), "none leads out");
        let neighbour = Interface { gateway: Some([192, 168, 1, 1].into()), ..home[0] };
        assert!(is_elsewhere(&home, &[neighbour, home[1]]), "the same address behind another router");
        let both = [home[0], home[1], interface(2, "2001:db8::5", true)];
        assert!(is_elsewhere(&home, &both), "a family that there was not");
        assert!(is_elsewhere(&[], &home) && is_elsewhere(&home, &[]));
    }

    #[test]
    fn an_address_is_gone_if_it_could_be_listed_and_is_not() {
        let list = [interface(2, "192.168.1.5", true), interface(2, "fe80::1", false)];
        let gone = |ip: &str| is_gone(ip.parse().unwrap(), &list);
        assert!(gone("192.168.1.6") && gone("2001:db8::1") && gone("fe80::2"));
        for there in ["192.168.1.5", "::ffff:192.168.1.5", "127.0.0.1", "169.254.0.1", "fe80::1", "0.0.0.0"] {
            assert!(!gone(there), "{there}");
        }
    }
}
