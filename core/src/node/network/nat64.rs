//! IPv4 through the NAT64 of an IPv6-only network (RFC 6146): the rest of the core has an IPv4 address then, as by RFC
//! 6877.
//!
//! Where no default route leads to IPv4, the prefix of the network's NAT64 is looked up (RFC 7050). With it there is
//! one more interface, whose address is one of those for such hosts (RFC 7335). A socket that leaves from it is an
//! IPv6 socket to the driver: outputs and inputs are translated on their way. STUN, punches, relays and servers find
//! an IPv4 host behind a NAT.

use core::time::Duration;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use smallvec::SmallVec;

use super::PER_FAMILY;
use crate::cx::{Cx, Owner};
use crate::event::Event;
use crate::failure::IoFailure;
use crate::io::{Input, Interface, Output, QueryId, SockId};
use crate::nat64::{WELL_KNOWN_NAME, discover};
use crate::prefix::{Prefixes, extract, is_on_link};

/// Time that the look-up of the prefix may take. The address is handed out after it.
const FIND_WITHIN: Duration = Duration::from_secs(2);
/// Addresses of ours for IPv4, 192.0.0.2 and behind: another one when what is below it has changed.
const ADDRESSES: u8 = 6;

/// Knowledge of our network's NAT64.
#[derive(Debug, Default)]
pub(super) struct Translating {
    /// Interface from which the NAT64 is reached.
    way: Option<Interface>,
    query: Option<QueryId>,
    /// The name server could not be reached.
    failed: bool,
    prefixes: Prefixes,
    /// Number of the address that we have for IPv4, which counts on.
    address: u8,
    /// Sockets that leave from that address.
    socks: BTreeSet<SockId>,
}

impl Translating {
    pub(super) fn prefixes(&self) -> &[crate::prefix::Prefix] {
        &self.prefixes
    }

    /// Returns true while the prefix is being looked up.
    pub(super) fn is_asking(&self) -> bool {
        self.query.is_some()
    }

    /// Returns true if the look-up has to be made again.
    pub(super) fn lacks(&self) -> bool {
        self.failed
    }

    /// Returns our address for IPv4, if there is one.
    fn ours(&self) -> Option<Ipv4Addr> {
        self.prefixes.first().filter(|_| self.way.is_some())?;
        Some(Ipv4Addr::new(192, 0, 0, 2 + self.address % ADDRESSES))
    }

    pub(super) fn is_ours(&self, ip: IpAddr) -> bool {
        self.ours().is_some_and(|ours| ip == ours)
    }

    /// The interface that we have for IPv4.
    pub(super) fn interface(&self) -> Option<Interface> {
        let (ip, way) = (self.ours()?.into(), self.way?);
        Some(Interface { ip, prefix: 32, gateway: None, ..way })
    }

    /// Forgets what belongs to another network.
    fn forget(&mut self, way: Option<Interface>) {
        self.address = self.address.wrapping_add(u8::from(!self.prefixes.is_empty()));
        (self.way, self.failed) = (way, false);
        self.prefixes.clear();
        self.socks.clear();
    }

    /// An address of ours as the driver has it.
    fn local_out(&self, local: &mut SocketAddr) -> bool {
        let ours = self.way.filter(|_| self.is_ours(local.ip()));
        if let Some(way) = ours {
            local.set_ip(way.ip);
        }
        ours.is_some()
    }

    fn local_in(&self, local: &mut SocketAddr) {
        if let Some(ours) = self.ours() {
            local.set_ip(ours.into());
        }
    }

    fn remote_out(&self, remote: &mut SocketAddr) {
        if let (IpAddr::V4(ip), Some(prefix)) = (remote.ip(), self.prefixes.first()) {
            remote.set_ip(prefix.embed(ip).into());
        }
    }

    fn remote_in(&self, remote: &mut SocketAddr) {
        if let Some(ip) = extract(&self.prefixes, remote.ip()) {
            *remote = (ip, remote.port()).into();
        }
    }

    fn ends_out(&self, local: &mut SocketAddr, remote: &mut SocketAddr) -> bool {
        let translated = self.local_out(local);
        if translated {
            self.remote_out(remote);
        }
        translated
    }

    /// Translates an output on its way to the driver.
    pub(super) fn outward(&mut self, mut output: Output) -> Output {
        if self.prefixes.is_empty() {
            return output;
        }
        let opened = match &mut output {
            Output::BindUdp { sock, local, remote, .. } => {
                let translated = self.local_out(local);
                if let (true, Some(remote)) = (translated, remote) {
                    self.remote_out(remote);
                }
                translated.then_some(*sock)
            }
            Output::Connect { sock, local, remote, .. } => self.ends_out(local, remote).then_some(*sock),
            Output::SendDatagram { sock, to, .. } if self.socks.contains(sock) => {
                self.remote_out(to);
                None
            }
            Output::Detach { sock, pipe } => {
                self.ends_out(&mut pipe.local, &mut pipe.remote);
                self.socks.remove(sock);
                None
            }
            Output::Close { sock, .. } => {
                self.socks.remove(sock);
                None
            }
            Output::Event(Event::PipeGone { local, remote, .. }) => {
                self.ends_out(local, remote);
                None
            }
            _ => None,
        };
        self.socks.extend(opened);
        output
    }

    /// Translates an input that comes from the driver.
    pub(super) fn inward<'a>(&mut self, mut input: Input<'a>) -> Input<'a> {
        if self.prefixes.is_empty() {
            return input;
        }
        match &mut input {
            Input::Bound { sock, local } if self.socks.contains(sock) => self.local_in(local),
            Input::Connected { sock, local, remote } if self.socks.contains(sock) => {
                self.local_in(local);
                self.remote_in(remote);
            }
            Input::Datagram { sock, from, .. } if self.socks.contains(sock) => self.remote_in(from),
            Input::Accepted { local, remote, .. } if extract(&self.prefixes, remote.ip()).is_some() => {
                self.local_in(local);
                self.remote_in(remote);
            }
            Input::Failed { sock, .. } => {
                self.socks.remove(sock);
            }
            // A DNS64 has translated the address of an IPv4 server, which is one server all the same.
            Input::Resolved { query, result: Ok(all) } if self.query != Some(*query) => {
                let mut one_each = SmallVec::new();
                for ip in all.drain(..) {
                    let ip = extract(&self.prefixes, ip).map_or(ip, IpAddr::V4);
                    if !one_each.contains(&ip) {
                        one_each.push(ip);
                    }
                }
                *all = one_each;
            }
            _ => {}
        }
        input
    }

    /// Returns the addresses of ours that were chosen, with the one that we have by a NAT64. What is known of another
    /// network's is forgotten.
    pub(super) fn extend(
        &mut self,
        cx: &mut Cx,
        list: &[Interface],
        mut chosen: Vec<Interface>,
    ) -> Vec<Interface> {
        let v4 = list.iter().any(|i| i.ip.is_ipv4() && i.default_route);
        let way = chosen.iter().find(|i| i.default_route && i.ip.is_ipv6() && !v4).copied();
        let place = |way: &Interface| (way.ip, way.index);
        if way.as_ref().map(place) != self.way.as_ref().map(place) {
            if let Some(query) = self.query.take() {
                cx.cancel(query);
            }
            self.forget(way);
            self.find(cx);
        }
        cx.translated = self.ours().map(IpAddr::V4);
        if let Some(interface) = self.interface() {
            let others = chosen.iter().filter(|i| i.ip.is_ipv4()).count();
            let last = chosen.iter().rposition(|i| i.ip.is_ipv4()).filter(|_| others >= PER_FAMILY);
            if let Some(last) = last {
                chosen.remove(last);
            }
            chosen.push(interface);
        }
        chosen
    }

    /// Looks the prefix up, unless that is being done or IPv4 is reached without.
    pub(super) fn find(&mut self, cx: &mut Cx) {
        if self.way.is_some() && self.query.is_none() {
            self.query = Some(cx.resolve(Owner::Nat64, WELL_KNOWN_NAME.into(), FIND_WITHIN));
        }
    }

    /// Takes in what was found. Returns whether it is another NAT64 than was known; nothing where this query was given
    /// up. `listed` are the addresses of this machine.
    pub(super) fn found(
        &mut self,
        listed: &[Interface],
        query: QueryId,
        result: Result<SmallVec<[IpAddr; 2]>, IoFailure>,
    ) -> Option<bool> {
        self.query.take_if(|q| *q == query)?;
        self.failed = result.as_ref().is_err_and(|why| *why != IoFailure::NoSuchName);
        let mut found = discover(&result.unwrap_or_default());
        // A name server has nobody reach our neighbours by what looks like the internet.
        found.retain(|prefix| {
            let anywhere = IpAddr::from(prefix.embed(Ipv4Addr::new(8, 8, 8, 8)));
            let ours =
                |i: &Interface| is_on_link(i.ip, i.prefix, anywhere) || extract(&[*prefix], i.ip).is_some();
            !listed.iter().any(ours)
        });
        let another = !self.failed && found != self.prefixes;
        if another {
            self.forget(self.way);
            self.prefixes = found;
        }
        Some(another)
    }
}
