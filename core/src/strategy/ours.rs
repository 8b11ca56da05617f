//! Addresses of this node and its networks, and what a peer may have us send to.

use std::net::IpAddr;

use crate::address::PeerAddress;
use crate::io::Interface;
use crate::prefix::{Prefix, extract, is_on_link};
use crate::reach::Reach::{Inside, Internet, Loopback, Nobody};
use crate::reach::reach;

/// Addresses of this node and its networks, to be told from all others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ours<'a> {
    /// Every address of this machine, used or not.
    pub(crate) interfaces: &'a [Interface],
    /// Interfaces that we use, with the external address of each.
    pub(crate) routes: &'a [Route],
    /// Address that we announce; our router's addresses are among it.
    pub(crate) announced: Option<&'a PeerAddress>,
    /// Discovered prefixes of NAT64.
    pub(crate) nat64: &'a [Prefix],
}

impl Ours<'_> {
    /// Returns true if a peer may have us send to an address that it named.
    ///
    /// A peer that our user knows may name anything that is a host. For a stranger only the internet counts, and of it
    /// nothing that is ours or our neighbour's. Hosts inside trust us, or our router hides them from the stranger. A
    /// node that is bound to loopback makes no difference, as strangers reach such a node by its brokers.
    pub(crate) fn may_send(&self, ip: IpAddr, trust: Trust) -> bool {
        match (reach(ip, self.nat64), trust) {
            (Nobody, _) => false,
            (Loopback, Trust::Known) => {
                self.routes.iter().any(|r| r.internal.is_loopback() && r.internal.is_ipv4() == ip.is_ipv4())
            }
            (Inside | Internet, Trust::Known) => true,
            (Loopback | Inside, Trust::Stranger) => false,
            (Internet, Trust::Stranger) => {
                // Whoever is behind a NAT64 is held against the table by both its addresses.
                let embedded = extract(self.nat64, ip).map(IpAddr::V4);
                [Some(ip), embedded].iter().flatten().all(|ip| !self.has(*ip) && !self.is_neighbour(*ip))
            }
        }
    }

    /// Returns true if an address is ours, inside or outside.
    fn has(&self, ip: IpAddr) -> bool {
        let announced = || self.announced.into_iter().flat_map(PeerAddress::interfaces);
        self.interfaces.iter().any(|i| i.ip == ip)
            || self.routes.iter().any(|r| r.internal == ip || r.external == ip)
            || announced().any(|i| i.external == ip)
    }

    fn is_neighbour(&self, ip: IpAddr) -> bool {
        self.interfaces.iter().any(|i| is_on_link(i.ip, i.prefix, ip))
            || self.routes.iter().any(|r| is_on_link(r.internal, r.prefix, ip))
    }
}

/// Trust in a peer: bounds the work that the peer may cause.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Trust {
    /// A peer that our user named: by the accept list, by a yes, or by a call that runs.
    Known,
    /// A stranger: everybody else. A key costs nothing, so a stranger's use of resources is at the cost of strangers
    /// only.
    Stranger,
}

/// A local interface with its external address. Never a link-local address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Route {
    pub(crate) internal: IpAddr,
    /// On-link prefix, in bits.
    pub(crate) prefix: u8,
    pub(crate) external: IpAddr,
}
