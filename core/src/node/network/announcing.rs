//! The node's address: what it announces of its interfaces.

use std::net::SocketAddr;

use super::{Network, PER_FAMILY};
use crate::address::{PeerAddress, PeerInterface};
use crate::identity::NodeId;
use crate::nat::{Delta, DeltaType, NatType};
use crate::strategy::paths::Link;

/// Type and delta announced where every dial gets through.
const OPEN: (NatType, Delta) = (NatType::OpenInternet, Delta { kind: DeltaType::NotApplicable, value: 0 });

impl Network {
    /// Returns the address as known now, of a node with this id that is reached by these brokers.
    pub(in crate::node) fn address(&self, brokers: &[u16], node: NodeId) -> PeerAddress {
        let interfaces: Vec<PeerInterface> = self.interfaces().collect();
        let node = node.to_node_text();
        // The parts come from sockets and checked configuration; were one unfit, an address without
        // interfaces still names us.
        PeerAddress::new(brokers, &interfaces, node)
            .or_else(|_| PeerAddress::new(&[], &[], node))
            .unwrap_or_else(|_| unreachable!("a node id alone is an address"))
    }

    /// Returns the address that was announced last.
    pub(in crate::node) fn announced(&self) -> Option<&PeerAddress> {
        self.announced.as_ref()
    }

    /// Returns the address to announce, if it is another than the last one.
    pub(in crate::node) fn announce(&mut self, brokers: &[u16], node: NodeId) -> Option<PeerAddress> {
        if self.announced.as_ref().is_some_and(|a| self.is_current(a, brokers)) {
            return None;
        }
        let address = self.address(brokers, node);
        if self.announced.as_ref() == Some(&address) {
            return None;
        }
        self.announced = Some(address.clone());
        Some(address)
    }

    /// Returns true if this address of ours says the same as a new one would. The check runs after each event, and
    /// putting an address together costs as much as the event.
    fn is_current(&self, address: &PeerAddress, brokers: &[u16]) -> bool {
        let of = |v4: bool| self.interfaces().filter(move |i| i.internal.is_ipv4() == v4);
        address.brokers() == brokers
            && of(true).eq(address.v4().iter().copied())
            && of(false).eq(address.v6().iter().copied())
    }

    fn interfaces(&self) -> impl Iterator<Item = PeerInterface> + '_ {
        let own = self.routes.iter().enumerate().filter_map(|(index, route)| {
            let port = self.listen_port(route.internal.is_ipv4())?;
            let mapped = self.mappings.of(route.internal) == Some(SocketAddr::new(route.external, port));
            let (nat, delta) = match self.surveyor.measured(route.internal) {
                _ if mapped => OPEN,
                Some(behaviour) => (behaviour.announced_type(), behaviour.delta()),
                None if route.external == route.internal => OPEN,
                // Not measured: P2PD's default for a NAT, the strictest common kind.
                None => (NatType::PortRestricted, Delta { kind: DeltaType::Random, value: 0 }),
            };
            let (external, mut internal) = (route.external, route.internal);
            if self.nat64.is_ours(internal) {
                // It is an address on no network, and what is outside is not known before a server has told it.
                if external == internal {
                    return None;
                }
                internal = external;
            }
            Some(PeerInterface { index: index as u16, external, internal, port, nat, delta })
        });
        // Where the router gave another port than ours there is one interface more, as far as the address has room.
        let places =
            |v4: bool| PER_FAMILY - self.routes.iter().filter(|r| r.internal.is_ipv4() == v4).count();
        let (mut room, first) = ([places(false), places(true)], self.routes.len());
        let more = self.routes.iter().enumerate().filter_map(move |(index, route)| {
            let v4 = route.internal.is_ipv4();
            let external = self.mappings.of(route.internal)?;
            if external.port() == self.listen_port(v4)? || room[usize::from(v4)] == 0 {
                return None;
            }
            room[usize::from(v4)] -= 1;
            let (index, internal) = ((first + index) as u16, route.internal);
            Some(PeerInterface {
                index,
                external: external.ip(),
                internal,
                port: external.port(),
                nat: OPEN.0,
                delta: OPEN.1,
            })
        });
        let port = self.listen_port(false);
        let links = self.announced_links().iter().enumerate().filter_map(move |(index, link)| {
            let ip = link.ip.into();
            Some(PeerInterface {
                index: index as u16,
                external: ip,
                internal: ip,
                port: port?,
                nat: OPEN.0,
                delta: OPEN.1,
            })
        });
        own.chain(more).chain(links)
    }

    /// The link-local addresses that our address names: all of them where there is nothing else. Where there is,
    /// neighbours dial that; and nearly every machine has interfaces with a link-local address that lead to nobody.
    pub(super) fn announced_links(&self) -> &[Link] {
        if self.routes.is_empty() { &self.links } else { &[] }
    }
}
