//! The machine's interfaces, as the core wants to hear of them.

use std::io;
use std::net::{IpAddr, Ipv6Addr};

use p2pd_core::io::Interface;

/// The addresses of all interfaces that are up, without loopback and link-local ones, those with the default
/// route first; with `bind`, that address alone, wherever it is. Takes about a millisecond (measured), so call
/// it off the event loop's hot path.
///
/// # Errors
/// `AddrNotAvailable` if no interface has the address `bind`.
pub fn interfaces(bind: Option<IpAddr>) -> io::Result<Vec<Interface>> {
    let mut found = Vec::new();
    for interface in netdev::get_interfaces() {
        if !interface.is_up() {
            continue;
        }
        let gateway = interface.gateway.as_ref();
        let v4_gateway = gateway.and_then(|g| g.ipv4.first()).map(|ip| IpAddr::V4(*ip));
        let v6_gateway = gateway.and_then(|g| g.ipv6.first()).map(|ip| IpAddr::V6(*ip));
        let v4 = interface.ipv4.iter().map(|n| (IpAddr::V4(n.addr()), n.prefix_len(), v4_gateway));
        let v6 = interface.ipv6.iter().map(|n| (IpAddr::V6(n.addr()), n.prefix_len(), v6_gateway));
        // One that is still looked for elsewhere cannot be bound yet.
        let unsure = |ip: &Ipv6Addr| {
            let flags = interface.ipv6.iter().map(|n| n.addr()).zip(&interface.ipv6_addr_flags);
            flags.into_iter().any(|(of, f)| of == *ip && (f.tentative || f.duplicated))
        };
        for (ip, prefix, gateway) in v4.chain(v6) {
            if matches!(&ip, IpAddr::V6(ip) if unsure(ip)) {
                continue;
            }
            let wanted = match bind {
                Some(bind) => ip == bind,
                None => !ip.is_loopback() && !is_link_local(ip),
            };
            if wanted {
                // netdev finds its one default interface by IPv4: that says nothing of IPv6.
                let default_route = gateway.is_some() || (ip.is_ipv4() && interface.default);
                found.push(Interface { index: interface.index, ip, prefix, default_route, gateway });
            }
        }
    }
    found.sort_by_key(|i| !i.default_route);
    match bind {
        // All of 127.0.0.0/8 is the machine itself, though only one of it is listed.
        Some(ip) if found.is_empty() && ip.is_loopback() => {
            found.push(Interface { index: 1, ip, prefix: 8, default_route: false, gateway: None });
            Ok(found)
        }
        Some(_) if found.is_empty() => Err(io::ErrorKind::AddrNotAvailable.into()),
        _ => Ok(found),
    }
}

/// The addresses of the interface of this name, loopback and link-local ones included, and its number, which is the
/// scope of its link-local IPv6 addresses.
///
/// # Errors
/// `NotFound` if there is no such interface.
pub fn addresses_of(name: &str) -> io::Result<(u32, Vec<IpAddr>)> {
    let interface = netdev::get_interfaces().into_iter().find(|i| i.name == name);
    let interface = interface.ok_or(io::ErrorKind::NotFound)?;
    let v4 = interface.ipv4.iter().map(|n| IpAddr::V4(n.addr()));
    let v6 = interface.ipv6.iter().map(|n| IpAddr::V6(n.addr()));
    Ok((interface.index, v4.chain(v6).collect()))
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_listed_only_when_asked_for() {
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        let bound = interfaces(Some(loopback)).unwrap();
        assert_eq!((bound.len(), bound[0].ip, bound[0].gateway), (1, loopback, None));
        let all = interfaces(None).unwrap();
        assert!(all.iter().all(|i| !i.ip.is_loopback()));
        assert!(all.is_sorted_by_key(|i| !i.default_route), "default routes first: {all:?}");
        let nobody = interfaces(Some("192.0.2.77".parse().unwrap()));
        assert_eq!(nobody.err().map(|e| e.kind()), Some(io::ErrorKind::AddrNotAvailable));
    }
}
