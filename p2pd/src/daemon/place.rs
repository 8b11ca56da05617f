//! Interfaces and routes, as the API tells of them.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use p2pd_core::io::Interface;
use p2pd_core::{Interfaces, PeerAddress};
use serde_json::{Value, json};

/// Time for which a list of interfaces is used again: listing takes a millisecond.
const FRESH: Duration = Duration::from_secs(5);

/// Interfaces of this machine that the node uses.
#[derive(Debug)]
pub(super) struct Places {
    bind: Option<IpAddr>,
    wanted: Interfaces,
    seen: Mutex<Option<(Instant, Arc<[Named]>)>>,
}

#[derive(Debug)]
struct Named {
    name: Option<String>,
    interface: Interface,
}

/// Interface by which a connection leaves this machine: `route`, `if` and `fd` of P2PD's documents.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) route: Value,
    pub(super) interface: Value,
    /// The socket's number in this process, where sockets have any.
    pub(super) fd: Option<i32>,
}

impl Places {
    pub(super) fn new(bind: Option<IpAddr>, wanted: Interfaces) -> Self {
        Places { bind, wanted, seen: Mutex::default() }
    }

    /// All of them, one entry for each address, those with the default route first.
    pub(super) fn to_json(&self, ours: Option<&PeerAddress>) -> Vec<Value> {
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
        self.all().iter().enumerate().map(entry).collect()
    }

    /// The place of a socket that has this address.
    pub(super) fn of(&self, local: SocketAddr, ours: Option<&PeerAddress>, fd: Option<i32>) -> Place {
        let ip = local.ip().to_canonical();
        let all = self.all();
        let offset = all.iter().position(|named| named.interface.ip == ip);
        let name = offset.and_then(|offset| all[offset].name.clone());
        let ext = announced(ours, ip).map(|a| a.external.to_string());
        Place {
            route: json!({"af": if ip.is_ipv4() { "IPv4" } else { "IPv6" }, "nic": ip.to_string(), "ext": ext}),
            interface: json!({"name": name, "offset": offset}),
            fd,
        }
    }

    fn all(&self) -> Arc<[Named]> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, all)) = &*seen
            && at.elapsed() < FRESH
        {
            return all.clone();
        }
        // An address that is gone by now is none.
        let found = p2pd_sys::interfaces(self.bind, &self.wanted).unwrap_or_default();
        let named =
            |interface: Interface| Named { name: p2pd_sys::interface_name(interface.index), interface };
        let all: Arc<[Named]> = found.into_iter().filter(|i| i.used).map(named).collect();
        *seen = Some((Instant::now(), all.clone()));
        all
    }
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
        let list = places.to_json(Some(&ours));
        assert_eq!(list.len(), 1);
        assert_eq!((&list[0]["ip"], &list[0]["offset"]), (&"127.0.0.1".into(), &0.into()));
        assert_eq!((&list[0]["ext"], &list[0]["nat_type"]), (&"203.0.113.7".into(), &5.into()));
        assert_eq!(list[0]["default_route"], false);
        let place = places.of("[::ffff:127.0.0.1]:80".parse().unwrap(), Some(&ours), Some(7));
        assert_eq!(place.route, json!({"af": "IPv4", "nic": "127.0.0.1", "ext": "203.0.113.7"}));
        assert_eq!((&place.interface["offset"], &place.interface["name"]), (&0.into(), &list[0]["name"]));
        let place = places.of("192.0.2.1:80".parse().unwrap(), None, None);
        assert_eq!(place.route, json!({"af": "IPv4", "nic": "192.0.2.1", "ext": null}));
        assert_eq!(place.interface, json!({"name": null, "offset": null}));
    }
}
