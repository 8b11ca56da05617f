//! Choice and order of the peer's announced addresses to dial.

use super::ours::Route;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use smallvec::SmallVec;

use crate::address::{PeerAddress, PeerInterface, is_link_local, scoped};
use crate::nat::NatType;
use crate::prefix::is_on_link;
use crate::strategy::ours::Ours;
pub(crate) use crate::strategy::ours::Trust;

/// A local interface that has a link-local IPv6 address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Link {
    pub(crate) ip: Ipv6Addr,
    /// The interface's index.
    pub(crate) zone: u32,
}

/// Links of this node, at most three.
pub(crate) type Links = SmallVec<[Link; 3]>;

/// Most addresses dialled for a stranger.
pub(crate) const STRANGER_PATHS: usize = 2;

/// An address to dial.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Path {
    pub(crate) remote: SocketAddr,
    /// True for an address on our machine or network: tried first.
    pub(crate) local: bool,
}

pub(crate) type Paths = SmallVec<[Path; 6]>;

/// Paths to a peer, in the order of the dials. Local paths come first, then the others, in each IPv6 before IPv4 (RFC
/// 8305 section 4). Paths through our own router's outside address (hairpin) follow. Link-local paths are last: on a
/// LAN any other is as good, and elsewhere nobody answers.
///
/// For a stranger few addresses are dialled. Of those, addresses that are announced as open come before others from
/// outside: a multi-homed peer's open port would be cut off else.
pub(crate) fn to_peer(
    ours: &Ours<'_>,
    links: &[Link],
    peer: &PeerAddress,
    oneself: bool,
    trust: Trust,
) -> Paths {
    let mut local = Paths::new();
    let mut open = Paths::new();
    let mut external = Paths::new();
    let mut hairpin = Paths::new();
    let mut on_links = Paths::new();
    let may = |ip: IpAddr| !is_zoned(ip) && ours.may_send(ip, trust);
    for interface in peer.v6().iter().chain(peer.v4()) {
        // Its text has no zone, so that each of our links may be the peer's. One on which the address is ours is not.
        for link in links.iter().filter(|l| (IpAddr::V6(l.ip) == interface.internal) == oneself) {
            if is_zoned(interface.internal) && ours.may_send(interface.internal, trust) {
                let remote = scoped(interface.internal, interface.port, link.zone);
                push(&mut on_links, Path { remote, local: true });
            }
        }
        let family = ours.routes.iter().filter(|r| r.internal.is_ipv4() == interface.internal.is_ipv4());
        if family.clone().next().is_none() {
            continue;
        }
        let inside = SocketAddr::new(interface.internal, interface.port);
        let outside = SocketAddr::new(interface.external, interface.port);
        let shares_router =
            family.clone().any(|r| r.external == interface.external && r.external != r.internal);
        let near = oneself || family.clone().any(|r| is_near(r, interface));
        if near && may(interface.internal) {
            push(&mut local, Path { remote: inside, local: true });
        }
        let elsewhere = !oneself && (interface.external != interface.internal || local.is_empty());
        if elsewhere && may(interface.external) {
            let first = trust == Trust::Stranger && interface.nat == NatType::OpenInternet;
            let list = match (shares_router, first) {
                (true, _) => &mut hairpin,
                (false, true) => &mut open,
                (false, false) => &mut external,
            };
            push(list, Path { remote: outside, local: false });
        }
    }
    let mut all = local;
    open.into_iter().chain(external).chain(hairpin).chain(on_links).for_each(|path| push(&mut all, path));
    if trust == Trust::Stranger {
        all.truncate(STRANGER_PATHS);
    }
    all
}

/// Returns true if this peer may make us send to an address that it named.
pub(crate) fn may_send_to(ours: &Ours<'_>, ip: IpAddr, trust: Trust) -> bool {
    !is_zoned(ip) && ours.may_send(ip, trust)
}

/// Returns true if the peer's inside address is worth a dial from this interface.
fn is_near(ours: &Route, theirs: &PeerInterface) -> bool {
    let inside = theirs.internal;
    if inside.is_loopback() || ours.internal.is_loopback() {
        return inside.is_loopback() && ours.internal.is_loopback();
    }
    let same_router = ours.external == theirs.external && inside != theirs.external;
    same_router || ours.internal == inside || is_on_link(ours.internal, ours.prefix, inside)
}

/// Returns true if an address means nothing without a zone.
fn is_zoned(ip: IpAddr) -> bool {
    ip.is_ipv6() && is_link_local(ip)
}

fn push(paths: &mut Paths, path: Path) {
    if !paths.iter().any(|p| p.remote == path.remote) {
        paths.push(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(internal: &str, prefix: u8, external: &str) -> Route {
        Route { internal: internal.parse().unwrap(), prefix, external: external.parse().unwrap() }
    }

    fn peer(text: &str) -> PeerAddress {
        text.parse().unwrap()
    }

    fn ours(routes: &[Route]) -> Ours<'_> {
        Ours { interfaces: &[], routes, announced: None, nat64: &[] }
    }

    fn dialled(routes: &[Route], to: &str, trust: Trust) -> Vec<(String, bool)> {
        to_peer(&ours(routes), &[], &peer(to), false, trust)
            .iter()
            .map(|p| (p.remote.to_string(), p.local))
            .collect()
    }

    fn list(paths: &[(&str, bool)]) -> Vec<(String, bool)> {
        paths.iter().map(|(a, l)| (a.to_string(), *l)).collect()
    }

    const HOME: &str = "0-[0,203.0.113.9,192.168.1.7,4000,5,6,0]-0-x";

    #[test]
    fn a_far_peer_is_dialled_outside() {
        let ours = [route("192.168.2.5", 24, "198.51.100.1")];
        assert_eq!(dialled(&ours, HOME, Trust::Known), list(&[("203.0.113.9:4000", false)]));
        assert_eq!(dialled(&ours, HOME, Trust::Stranger), list(&[("203.0.113.9:4000", false)]));
    }

    #[test]
    fn a_peer_behind_our_router_is_dialled_inside_first_and_by_hairpin_last() {
        let ours = [route("192.168.1.5", 24, "203.0.113.9")];
        let both = list(&[("192.168.1.7:4000", true), ("203.0.113.9:4000", false)]);
        assert_eq!(dialled(&ours, HOME, Trust::Known), both);
        // Another segment behind the same router: the outside address says so.
        let ours = [route("10.0.0.5", 24, "203.0.113.9")];
        assert_eq!(dialled(&ours, HOME, Trust::Known), both);
    }

    #[test]
    fn another_home_with_our_prefix_is_tried_inside_too() {
        let ours = [route("192.168.1.5", 24, "198.51.100.1")];
        let both = list(&[("192.168.1.7:4000", true), ("203.0.113.9:4000", false)]);
        assert_eq!(dialled(&ours, HOME, Trust::Known), both);
    }

    #[test]
    fn ipv6_goes_before_ipv4_and_only_with_an_interface_of_its_own() {
        let both = "0-[0,203.0.113.9,203.0.113.9,4000,1,1,0]-[0,2001:db8::9,2001:db8::9,4000,1,1,0]-x";
        let v4 = route("198.51.100.1", 24, "198.51.100.1");
        let v6 = route("2001:db8:1::1", 64, "2001:db8:1::1");
        let expected = [("[2001:db8::9]:4000", false), ("203.0.113.9:4000", false)];
        assert_eq!(dialled(&[v4, v6], both, Trust::Known), list(&expected));
        assert_eq!(dialled(&[v4], both, Trust::Known), list(&expected[1..]));
        assert_eq!(dialled(&[], both, Trust::Known), list(&[]));
    }

    #[test]
    fn oneself_is_dialled_inside_only() {
        let routes = [route("192.168.1.7", 24, "203.0.113.9")];
        let paths = to_peer(&ours(&routes), &[], &peer(HOME), true, Trust::Known);
        assert_eq!(paths.as_slice(), [Path { remote: "192.168.1.7:4000".parse().unwrap(), local: true }]);
    }

    #[test]
    fn strangers_cannot_point_us_into_private_space_or_loopback() {
        let ours = [route("192.168.2.5", 24, "198.51.100.1")];
        for inside in ["10.0.0.1", "127.0.0.1", "169.254.1.1", "100.64.0.9", "192.168.9.1"] {
            let text = format!("0-[0,{inside},{inside},80,1,1,0]-0-x");
            assert_eq!(dialled(&ours, &text, Trust::Stranger), list(&[]), "{inside}");
        }
        // Nor at a neighbour, at ourselves, or at our router from inside.
        for (outside, inside) in [
            ("192.168.2.9", "192.168.2.9"),
            ("192.168.2.5", "192.168.2.5"),
            ("198.51.100.1", "192.168.7.7"),
            ("198.51.100.1", "198.51.100.1"),
        ] {
            let text = format!("0-[0,{outside},{inside},80,1,1,0]-0-x");
            assert_eq!(dialled(&ours, &text, Trust::Stranger), list(&[]), "{outside} {inside}");
            assert!(!dialled(&ours, &text, Trust::Known).is_empty(), "{outside} {inside}");
        }
        let three =
            "0-[0,8.8.8.8,8.8.8.8,1,1,1,0]|[1,9.9.9.9,9.9.9.9,1,1,1,0]|[2,1.1.1.1,1.1.1.1,1,1,1,0]-0-x";
        assert_eq!(dialled(&ours, three, Trust::Stranger).len(), STRANGER_PATHS);
        assert_eq!(dialled(&ours, three, Trust::Known).len(), 3);
        // The open one is among the two, though it is the last.
        let last =
            "0-[0,8.8.8.8,10.0.0.2,1,6,6,0]|[1,9.9.9.9,10.1.0.2,1,5,6,0]|[2,8.8.8.8,10.0.0.2,2,1,1,0]-0-x";
        let two = list(&[("8.8.8.8:2", false), ("8.8.8.8:1", false)]);
        assert_eq!(dialled(&ours, last, Trust::Stranger), two);
    }

    #[test]
    fn nobody_makes_us_send_to_what_is_no_host_or_is_private_in_disguise() {
        let routes = [route("2001:db8::5", 64, "2001:db8::5"), route("198.51.100.1", 24, "198.51.100.1")];
        let ours = ours(&routes);
        for to in [
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "::",
            "ff02::1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "fe80::1",
        ] {
            for trust in [Trust::Known, Trust::Stranger] {
                assert!(!may_send_to(&ours, to.parse().unwrap(), trust), "{to} {trust:?}");
            }
        }
        for to in ["fd00::1", "fe80::1", "::1", "10.0.0.1", "127.0.0.1"] {
            assert!(!may_send_to(&ours, to.parse().unwrap(), Trust::Stranger), "{to}");
        }
        for to in ["2001:db8:9::1", "203.0.113.9"] {
            assert!(may_send_to(&ours, to.parse().unwrap(), Trust::Stranger), "{to}");
        }
    }

    #[test]
    fn link_local_addresses_are_dialled_last_on_each_of_our_links_and_never_without_a_zone() {
        let link = |ip: &str, zone| Link { ip: ip.parse().unwrap(), zone };
        let links = [link("fe80::5", 2), link("fe80::6", 3), link("fe80::7", 9)];
        let to = |routes: &[Route], links: &[Link], text: &str, oneself, trust| -> Vec<(String, bool)> {
            let paths = to_peer(&ours(routes), links, &peer(text), oneself, trust);
            paths.iter().map(|p| (p.remote.to_string(), p.local)).collect()
        };
        let text = "0-0-[0,fe80::6,fe80::6,4000,1,1,0]-x";
        // On the third link it would be ourselves, on which link it is us if it is.
        let others = list(&[("[fe80::6%2]:4000", true), ("[fe80::6%9]:4000", true)]);
        assert_eq!(to(&[], &links, text, false, Trust::Known), others);
        assert_eq!(to(&[], &links, text, true, Trust::Known), list(&[("[fe80::6%3]:4000", true)]));
        assert_eq!(to(&[], &[], text, false, Trust::Known), list(&[]));
        // Whoever has no link dials nothing, whatever else it has.
        let routes = [route("2001:db8::5", 64, "2001:db8::5"), route("192.168.1.5", 24, "198.51.100.1")];
        assert_eq!(to(&routes, &[], text, false, Trust::Known), list(&[]));
        assert_eq!(to(&routes, &[], text, false, Trust::Stranger), list(&[]));
        let both = "0-[0,203.0.113.9,192.168.1.7,4000,5,6,0]-[0,2001:db8:9::9,fe80::9,4000,1,1,0]-x";
        let far = [
            ("192.168.1.7:4000", true),
            ("[2001:db8:9::9]:4000", false),
            ("203.0.113.9:4000", false),
            ("[fe80::9%2]:4000", true),
            ("[fe80::9%3]:4000", true),
            ("[fe80::9%9]:4000", true),
        ];
        assert_eq!(to(&routes, &links, both, false, Trust::Known), list(&far));
        assert_eq!(to(&routes, &links, both, false, Trust::Stranger), list(&far[1..3]));
        let three = "0-0-[0,fe80::a,fe80::a,1,1,1,0]|[1,fe80::b,fe80::b,1,1,1,0]-x";
        assert_eq!(to(&routes, &links, three, false, Trust::Stranger), list(&[]));
        assert_eq!(to(&routes, &links, three, false, Trust::Known).len(), 6);
    }

    #[test]
    fn loopback_meets_loopback_only() {
        let text = "0-[0,127.0.0.1,127.0.0.1,4000,1,1,0]-0-x";
        let loopback = [route("127.0.0.1", 8, "127.0.0.1")];
        assert_eq!(dialled(&loopback, text, Trust::Known), list(&[("127.0.0.1:4000", true)]));
        let lan = [route("192.168.2.5", 24, "198.51.100.1")];
        assert_eq!(dialled(&lan, text, Trust::Known), list(&[]));
    }
}
