//! Interfaces and routes, as the API tells of them.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use p2pd_core::io::Interface;
use p2pd_core::{Interfaces, PeerAddress};
use p2pd_sys::Card;
use p2pd_sys::messages::{IpRange, RouteTable};
use p2pd_tokio::PipeInfo;
use serde_json::{Value, json};

use crate::interfaces::{af, listed_route, route};

/// Time for which a list of interfaces is used again: listing takes a millisecond.
const FRESH: Duration = Duration::from_secs(5);

/// Interfaces of this machine that the node uses.
#[derive(Debug)]
pub(super) struct Places {
    bind: Option<IpAddr>,
    wanted: Interfaces,
    seen: Mutex<Option<(Instant, Arc<Seen>)>>,
}

#[derive(Debug)]
struct Seen {
    /// Addresses, those with the default route first.
    named: Vec<Named>,
    /// Cards of the interfaces, with no other addresses.
    cards: Vec<Card>,
}

#[derive(Debug)]
struct Named {
    name: Option<String>,
    interface: Interface,
}

/// Interface by which a connection leaves this machine: `route`, `if`, `laddr` and `fd` of P2PD's documents.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The documents' fields, and beside them `family`, `nic` and `ext`.
    pub(super) route: Value,
    /// End on this machine. Port 0: the port of a relayed pipe's socket is not known.
    pub(super) local: SocketAddr,
    pub(super) interface: Value,
    /// The socket's number in this process, where sockets have any.
    pub(super) fd: Option<i32>,
}

/// Returns the connection under a session: its strategy and its two ends.
pub(super) fn carrier(of: &PipeInfo) -> Value {
    json!({
        "strategy": of.strategy().name(), "local": of.local_addr().to_string(),
        "remote": of.remote_addr().to_string(),
    })
}

impl Places {
    pub(super) fn new(bind: Option<IpAddr>, wanted: Interfaces) -> Self {
        Places { bind, wanted, seen: Mutex::default() }
    }

    /// Returns one JSON entry for each address, those with the default route first, and one for each route.
    pub(super) fn to_json(&self, ours: Option<&PeerAddress>) -> (Vec<Value>, Vec<Value>) {
        let entry = |(offset, named): (usize, &Named)| {
            let Interface { index, ip, prefix, default_route, gateway, .. } = named.interface;
            let announced = announced(ours, ip);
            json!({
                "offset": offset, "name": named.name, "index": index, "ip": ip.to_string(), "prefix": prefix,
                "default_route": default_route, "gateway": gateway.map(|ip| ip.to_string()),
                "ext": announced.map(|a| a.external.to_string()),
                "nat_type": announced.map(|a| a.nat.number()),
            })
        };
        let all = self.all();
        let routes = all.routes(ours).iter().map(listed_route).collect();
        (all.named.iter().enumerate().map(entry).collect(), routes)
    }

    /// The place of a socket that has this address, or of a relayed pipe whose relay may have it.
    pub(super) fn of(
        &self,
        local: SocketAddr,
        relayed: bool,
        ours: Option<&PeerAddress>,
        fd: Option<i32>,
    ) -> Place {
        let all = self.all();
        let at = |ip: IpAddr| all.named.iter().position(|named| named.interface.ip == ip);
        let mut local = SocketAddr::new(local.ip().to_canonical(), local.port());
        if relayed && at(local.ip()).is_none() {
            // The relay's own address: what leads there is the way of the pipe.
            local = SocketAddr::new(towards(local).unwrap_or(local.ip()), 0);
        }
        let ip = local.ip();
        let offset = at(ip);
        let name = offset.and_then(|offset| all.named[offset].name.clone());
        let ext = announced(ours, ip).map(|a| a.external);
        // Without a row: nothing was measured, or this is no address of an interface that the node uses.
        let alone = || json!({"af": af(ip), "nic_ips": [IpRange::from(ip)], "ext_ips": ext.map(IpRange::from).as_slice()});
        let mut route = all.routes(ours).of(ip).map_or_else(alone, route);
        route["family"] = if ip.is_ipv4() { "IPv4" } else { "IPv6" }.into();
        route["nic"] = ip.to_string().into();
        route["ext"] = ext.map(|ip| ip.to_string()).into();
        Place { route, local, interface: json!({"name": name, "offset": offset}), fd }
    }

    fn all(&self) -> Arc<Seen> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, all)) = &*seen
            && at.elapsed() < FRESH
        {
            return all.clone();
        }
        // An address that is gone by now is none.
        let found = p2pd_sys::interfaces(self.bind, &self.wanted).unwrap_or_default();
        let mut cards = p2pd_sys::cards();
        let named = |interface: Interface| {
            let card = cards.iter().find(|card| card.index == interface.index);
            Named { name: card.map(|card| card.name.clone()), interface }
        };
        let named: Vec<Named> = found.into_iter().filter(|i| i.used).map(named).collect();
        for card in &mut cards {
            let index = card.index;
            card.addresses
                .retain(|(ip, _)| named.iter().any(|n| (n.interface.index, n.interface.ip) == (index, *ip)));
        }
        let all = Arc::new(Seen { named, cards });
        *seen = Some((Instant::now(), all.clone()));
        all
    }
}

impl Seen {
    fn routes(&self, ours: Option<&PeerAddress>) -> RouteTable {
        RouteTable::new(&self.cards, |ip| announced(ours, ip).map(|a| a.external))
    }
}

/// Returns this machine's address from which the system reaches `to`. Nothing is sent.
fn towards(to: SocketAddr) -> Option<IpAddr> {
    let any = if to.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let socket = std::net::UdpSocket::bind((any, 0)).ok()?;
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Returns the entry of the node's address for the internal address `ip`.
fn announced(ours: Option<&PeerAddress>, ip: IpAddr) -> Option<&p2pd_core::address::PeerInterface> {
    ours?.interfaces().find(|announced| announced.internal == ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_found_by_the_sockets_own_address() {
        let ours: PeerAddress = "None-[0,203.0.113.7,127.0.0.1,40404,5,6,0]-0-abc".parse().unwrap();
        let places = Places::new(Some([127, 0, 0, 1].into()), Interfaces::default());
        let (list, _) = places.to_json(Some(&ours));
        assert_eq!(list.len(), 1);
        assert_eq!((&list[0]["ip"], &list[0]["offset"]), (&"127.0.0.1".into(), &0.into()));
        assert_eq!((&list[0]["ext"], &list[0]["nat_type"]), (&"203.0.113.7".into(), &5.into()));
        assert_eq!(list[0]["default_route"], false);
        let place = places.of("[::ffff:127.0.0.1]:80".parse().unwrap(), false, Some(&ours), Some(7));
        let range = |ip: &str| json!([{"af": 2, "cidr": 32, "ip": ip}]);
        assert_eq!(
            place.route,
            json!({
                "af": 2, "nic_ips": range("127.0.0.1"), "ext_ips": range("203.0.113.7"), "family": "IPv4",
                "nic": "127.0.0.1", "ext": "203.0.113.7",
            })
        );
        assert_eq!((&place.interface["offset"], &place.interface["name"]), (&0.into(), &list[0]["name"]));
        let place = places.of("192.0.2.1:80".parse().unwrap(), false, None, None);
        assert_eq!((&place.route["nic"], &place.route["ext_ips"]), (&"192.0.2.1".into(), &json!([])));
        assert_eq!(place.interface, json!({"name": null, "offset": null}));
        // A relay's address is none of this machine's; the way there is.
        let place = places.of("127.0.0.9:80".parse().unwrap(), true, Some(&ours), None);
        assert_eq!((&place.route["nic"], place.local), (&"127.0.0.1".into(), "127.0.0.1:0".parse().unwrap()));
        assert_eq!(place.interface["offset"], 0);
    }

    #[test]
    fn routes_are_those_of_the_addresses_that_the_node_uses() {
        let places = Places::new(Some([127, 0, 0, 1].into()), Interfaces::default());
        let ours: PeerAddress = "None-[0,203.0.113.7,127.0.0.1,40404,5,6,0]-0-abc".parse().unwrap();
        let (list, routes) = places.to_json(Some(&ours));
        let range = |ip: &str| json!([{"af": 2, "cidr": 32, "ip": ip}]);
        let interface = json!({"name": list[0]["name"], "index": list[0]["index"]});
        let route =
            json!({"if": interface, "af": 2, "nic_ips": range("127.0.0.1"), "ext_ips": range("203.0.113.7")});
        assert_eq!(routes, [route]);
        assert_eq!(places.to_json(None).1, [json!(null); 0], "nothing was measured");
    }
}
