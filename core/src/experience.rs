//! Experience with the addresses of servers.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

/// Experience with the addresses of names, by name. Names are those of the configuration.
#[derive(Default, Debug)]
pub(crate) struct Experience(BTreeMap<Box<str>, Found>);

#[derive(Default, Debug)]
struct Found {
    worked: Option<IpAddr>,
    /// Address that took a connection and was of no use.
    useless: Option<IpAddr>,
}

impl Experience {
    /// Notes that the server at this address works.
    pub(crate) fn works(&mut self, host: &str, ip: IpAddr) {
        let found = self.of(host);
        found.worked = Some(ip);
        found.useless = found.useless.filter(|useless| *useless != ip);
    }

    /// Notes that what is at this address does not serve.
    pub(crate) fn is_useless(&mut self, host: &str, ip: IpAddr) {
        let found = self.of(host);
        found.useless = Some(ip);
        found.worked = found.worked.filter(|worked| *worked != ip);
    }

    fn of(&mut self, host: &str) -> &mut Found {
        self.0.entry(host.into()).or_default()
    }

    /// The order in which to try addresses: the one that worked, then the families in turn, and last what was of no use.
    pub(crate) fn order(&self, host: &str, all: &[IpAddr]) -> VecDeque<IpAddr> {
        let mut kinds: [VecDeque<IpAddr>; 2] = Default::default();
        let first = all.first().is_some_and(IpAddr::is_ipv4);
        for ip in all.iter().take(4 * MAX_ADDRESSES) {
            let kind = &mut kinds[usize::from(ip.is_ipv4() != first)];
            if !kind.contains(ip) {
                kind.push_back(*ip);
            }
        }
        let mut order = VecDeque::new();
        while kinds.iter().any(|kind| !kind.is_empty()) {
            order.extend(kinds.iter_mut().filter_map(VecDeque::pop_front));
        }
        if let Some(found) = self.0.get(host) {
            order.make_contiguous().sort_by_key(|ip| match Some(*ip) {
                ip if ip == found.worked => 0,
                ip if ip == found.useless => 2,
                _ => 1,
            });
        }
        order.truncate(MAX_ADDRESSES);
        order
    }
}

/// Most addresses of one name that are tried. A name server is a stranger.
const MAX_ADDRESSES: usize = 8;
