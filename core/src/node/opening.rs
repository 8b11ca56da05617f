//! Way from the list of interfaces to an address that can be handed out.

use core::time::Duration;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use smallvec::SmallVec;

use super::{Node, Phase};
use crate::address::{PeerAddress, PeerInterface, is_link_local};
use crate::cx::{Owner, Timer};
use crate::io::{CloseHow, Interface, IoFailure, LinkKind, Reuse, SockId, SockOpts};
use crate::nat::vantage::Vantage;
use crate::nat::{Delta, DeltaType, NatType, Network};
use crate::notice::Notice;
use crate::portmap::Scope;
use crate::signal::broker::Session;
use crate::strategy::paths::{Link, Links, Route};
use crate::time::Instant;

/// Interfaces announced per address family, as the address format allows.
pub(super) const PER_FAMILY: usize = 3;

/// Brokers announced, as the address format allows.
const ANNOUNCED_BROKERS: usize = 2;

/// Type and delta announced where every dial gets through.
const OPEN: (NatType, Delta) = (NatType::OpenInternet, Delta { kind: DeltaType::NotApplicable, value: 0 });

/// The address is handed out after this long even if brokers are still being tried.
const SETTLE_WITHIN: Duration = Duration::from_secs(4);

/// Delay before measurements that no server answered are repeated: the first value, doubled each time up to the second.
/// The way out may have been down while our interfaces were up.
const MEASURE_AGAIN: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(300));

/// Delay from a failed call to a new measurement of everything: the call's punch is over at the other end too by then.
/// `DOUBTED_EVERY` is the least interval between two, since strangers can cause them.
const DOUBTED_AFTER: Duration = Duration::from_secs(15);
const DOUBTED_EVERY: Duration = Duration::from_secs(300);

/// Plan to repeat measurements that no server answered or that are doubted.
#[derive(Debug, Default)]
pub(super) struct MeasureAgain {
    /// Number of times that missing answers were asked for again, which sets the delay before the next.
    failures: u32,
    armed: bool,
    /// The next repetition measures everything.
    doubted: bool,
    /// Time of the last doubt.
    last: Option<Instant>,
}

/// The listeners: one per address family, all on one port.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    all: Vec<Listener>,
    /// The notice `Listening` was given.
    said: bool,
    /// [`SETTLE_WITHIN`] has passed.
    pub(super) waited: bool,
}

#[derive(Debug)]
struct Listener {
    ip: IpAddr,
    /// The listener is one in addition to the family's: see [`Node::open_beside`].
    beside: bool,
    state: ListenState,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ListenState {
    /// Waits for the port of the first one.
    Waiting,
    Opening(SockId),
    Open(SockId, u16),
    Failed,
}

impl Node {
    /// Opens what is open as long as the node runs.
    pub(super) fn start(&mut self) {
        self.open_listeners();
        for broker in &mut self.brokers {
            broker.start(&mut self.cx);
        }
        self.cx.timers.set(Timer::Settle, Some(self.cx.now + SETTLE_WITHIN));
        self.time.start(&mut self.cx);
    }

    pub(super) fn listening(&mut self, n: u8, result: Result<SocketAddr, IoFailure>) {
        let Some(listener) = self.listeners.all.get_mut(usize::from(n)) else { return };
        match (result, listener.state) {
            (Ok(local), ListenState::Opening(sock)) => listener.state = ListenState::Open(sock, local.port()),
            (Ok(_), _) => return,
            // Then the family's listener has to do for its address.
            (Err(_), _) if listener.beside => listener.state = ListenState::Failed,
            (Err(cause), _) => {
                listener.state = ListenState::Failed;
                let ip = listener.ip;
                let local = self.local(ip, self.config.port);
                self.cx.notify(Notice::ListenFailed { local, cause });
            }
        }
        self.open_listeners();
    }

    /// Returns true once it is certain that nobody can dial us.
    pub(super) fn listeners_failed(&self) -> bool {
        self.listeners.said && !self.listeners.all.iter().any(|l| matches!(l.state, ListenState::Open(..)))
    }

    /// Returns true once it is known on which port we can be dialled.
    pub(super) fn listeners_are_open(&self) -> bool {
        self.listeners.said
    }

    /// Returns true once one server at least has said where we can be dialled from outside.
    pub(super) fn outside_is_heard(&self) -> bool {
        self.external.heard()
    }

    /// Returns true once outside addresses are settled, so that our address can be sent to a peer.
    pub(super) fn address_is_settled(&self) -> bool {
        self.external.settled() && !self.translating.is_asking() && self.listeners_are_open()
    }

    pub(super) fn current_address(&self) -> PeerAddress {
        let interfaces: Vec<PeerInterface> = self.announced_interfaces().collect();
        let node = self.node_id().to_node_text();
        // The parts come from sockets and checked configuration; were one unfit, an address without
        // interfaces still names us.
        PeerAddress::new(&self.announced_brokers, &interfaces, node)
            .or_else(|_| PeerAddress::new(&[], &[], node))
            .unwrap_or_else(|_| unreachable!("a node id alone is an address"))
    }

    /// Says `Listening` once and `Ready` whenever the settled address changed.
    pub(super) fn announce(&mut self) {
        let opening = |l: &Listener| matches!(l.state, ListenState::Waiting | ListenState::Opening(_));
        if self.listeners.all.iter().any(opening) {
            return;
        }
        self.learn_external();
        self.learn_network();
        if !self.listeners.said {
            self.listeners.said = true;
            let address = Box::new(self.current_address());
            self.cx.notify(Notice::Listening { address });
        }
        self.survey();
        self.map_ports();
        self.choose_brokers();
        let brokers_settled = self.brokers_settled.iter().all(|s| *s) || self.listeners.waited;
        self.tell_attempts();
        let measured = self.surveyor.settled() || self.listeners.waited;
        if !self.external.settled() || self.translating.is_asking() || !brokers_settled || !measured {
            return;
        }
        self.plan_measure();
        if self.announced.as_ref().is_some_and(|a| self.is_current(a)) {
            return;
        }
        let address = self.current_address();
        if self.announced.as_ref() != Some(&address) {
            self.announced = Some(address.clone());
            self.cx.notify(Notice::Ready { address: Box::new(address) });
            self.drive_names();
        }
    }

    /// Sees to it that what no server answered is asked for again.
    fn plan_measure(&mut self) {
        let lacks = self.external.lacks()
            || self.translating.lacks()
            || (self.config.survey && self.surveyor.lacks());
        if self.again.armed || !lacks {
            return;
        }
        let (first, most) = MEASURE_AGAIN;
        let pause = (first * (1 << self.again.failures.min(8))).min(most);
        self.again.armed = true;
        self.cx.timers.set(Timer::Measure, Some(self.cx.now + pause));
    }

    /// Plans a new measurement of our NATs, as a call of ours or of a peer's came to nothing. The result so far may be
    /// wrong: a server lied, answers were lost, or the NAT is another by now.
    pub(super) fn doubt(&mut self) {
        let lately = self.again.last.is_some_and(|at| self.cx.now < at + DOUBTED_EVERY);
        if self.phase != Phase::Running || self.config.stun.is_empty() || lately {
            return;
        }
        self.again.last = Some(self.cx.now);
        (self.again.armed, self.again.doubted) = (true, true);
        self.cx.timers.set(Timer::Measure, Some(self.cx.now + DOUBTED_AFTER));
    }

    pub(super) fn measure_again(&mut self) {
        let all = core::mem::take(&mut self.again.doubted);
        self.again.armed = false;
        if !all {
            self.again.failures = self.again.failures.saturating_add(1);
        }
        if all || self.translating.lacks() {
            self.find_nat64();
        }
        self.external.ask_again(&mut self.cx, all);
        if let Some(servers) = self.external.servers(&self.cx).filter(|_| self.config.survey) {
            self.surveyor.again(&mut self.cx, &servers, all);
            self.surveyed = self.surveyor.settled();
        }
        if all {
            self.mappings.check(&mut self.cx);
        }
    }

    /// Measures all of it now.
    pub(super) fn measure_all(&mut self) {
        self.again = MeasureAgain { doubted: true, last: Some(self.cx.now), ..MeasureAgain::default() };
        self.cx.timers.set(Timer::Measure, None);
        self.measure_again();
    }

    /// Returns true if this address of ours says the same as a new one would. The check runs after each event, and
    /// putting an address together costs as much as the event.
    fn is_current(&self, address: &PeerAddress) -> bool {
        let of = |v4: bool| self.announced_interfaces().filter(move |i| i.internal.is_ipv4() == v4);
        address.brokers() == self.announced_brokers.as_slice()
            && of(true).eq(address.v4().iter().copied())
            && of(false).eq(address.v6().iter().copied())
    }

    /// Asks for a mapping wherever one is of use and none is asked for, and tells mappers what STUN sees.
    fn map_ports(&mut self) {
        if !self.config.portmap {
            return;
        }
        for n in 0..self.chosen.len() {
            let interface = self.chosen[n];
            let seen = self.seen_of(interface.ip);
            let behind = seen.is_some_and(|seen| self.is_behind(interface.ip, seen));
            let port = self.listen_port(interface.ip.is_ipv4()).filter(|_| behind);
            self.mappings.cover(&mut self.cx, interface, seen, port);
        }
    }

    /// Returns the outside address of an address of ours. Where no server answered, a public IPv6 address counts as its
    /// own outside address: those are not translated.
    fn seen_of(&self, ip: IpAddr) -> Option<IpAddr> {
        let own = ip.is_ipv6() && self.external.settled() && Scope::of(ip) == Scope::Public;
        self.external.of(ip).or(own.then_some(ip))
    }

    /// Returns true if a port has to be opened: behind a NAT, and for IPv6 behind a firewall. Home routers have one by
    /// default (RFC 6092): it is assumed unless everybody was measured to get in. A useless request costs little.
    fn is_behind(&self, ip: IpAddr, seen: IpAddr) -> bool {
        let open = self.surveyor.measured(ip).is_some_and(|b| b.nat_type() == Some(NatType::OpenInternet));
        seen != ip || (ip.is_ipv6() && self.surveyor.settled() && !open)
    }

    /// Wakes the attempts that wait for a broker or for our address, if there is a new one.
    fn tell_attempts(&mut self) {
        let bit = |(place, b): (usize, &Session)| u16::from(b.is_ready()) << place;
        let ways = self.brokers.iter().enumerate().map(bit).fold(0, |all, one| all | one);
        let ways = self.address_is_settled().then_some(ways);
        let ways = (self.outside_is_heard(), ways);
        if ways != self.signal_ways {
            self.signal_ways = ways;
            self.poke_attempts();
        }
    }

    /// The port that a family's listener has.
    pub(super) fn listen_port(&self, v4: bool) -> Option<u16> {
        let of = |v4: bool| {
            self.listeners.all.iter().find_map(|l| match l.state {
                ListenState::Open(_, port) if l.ip.is_ipv4() == v4 => Some(port),
                _ => None,
            })
        };
        // What a NAT64 lets in comes to the listener for IPv6.
        of(v4).or_else(|| of(false).filter(|_| v4 && self.translating.interface().is_some()))
    }

    /// Measures the NATs, once the listeners are open and the servers known.
    fn survey(&mut self) {
        if !self.surveyor.started()
            && let Some(servers) = self.external.servers(&self.cx)
        {
            let with_port = |r: &Route| {
                let vantage = Vantage { ip: r.internal, prefix: r.prefix };
                Some((vantage, self.listen_port(r.internal.is_ipv4())?))
            };
            let locals: Vec<(Vantage, u16)> = self.routes.iter().filter_map(with_port).collect();
            let servers = if self.config.survey { servers } else { Vec::new() };
            self.surveyor.start(&mut self.cx, locals.into_iter(), &servers, self.config.hairpin);
        }
        if !self.surveyed && self.surveyor.settled() {
            self.surveyed = true;
            self.survey_done();
        }
    }

    /// Opens a listener for each address family that we have and that has none.
    pub(super) fn open_listeners(&mut self) {
        let mut wanted: SmallVec<[IpAddr; 2]> = SmallVec::new();
        match self.config.bind {
            Some(ip) => wanted.push(ip),
            None => {
                let own = |r: &Route| r.internal.is_ipv4() && !self.translating.is_ours(r.internal);
                if self.routes.iter().any(own) {
                    wanted.push(Ipv4Addr::UNSPECIFIED.into());
                }
                if self.routes.iter().any(|r| r.internal.is_ipv6()) || !self.announced_links().is_empty() {
                    wanted.push(Ipv6Addr::UNSPECIFIED.into());
                }
            }
        }
        for ip in wanted {
            if self.listeners.all.iter().all(|l| l.ip != ip) {
                let listener = Listener { ip, beside: false, state: ListenState::Waiting };
                self.listeners.all.push(listener);
            }
        }
        self.open_beside();
        // One after the other: the second takes the port that the first was given.
        if self.listeners.all.iter().any(|l| matches!(l.state, ListenState::Opening(_))) {
            return;
        }
        let open = self.listeners.all.iter().find_map(|l| match l.state {
            ListenState::Open(_, port) => Some(port),
            _ => None,
        });
        let waiting = self.listeners.all.iter().position(|l| l.state == ListenState::Waiting);
        if let Some(n) = waiting {
            let (ip, port) = (self.listeners.all[n].ip, open.unwrap_or(self.config.port));
            let opts = SockOpts { reuse: Reuse::AddressAndPort, nodelay: true, ttl: None };
            let local = self.local(ip, port);
            let sock = self.cx.listen(Owner::Listener(n as u8), local, opts);
            self.listeners.all[n].state = ListenState::Opening(sock);
        }
    }

    /// Opens one listener for each address of a family that has several default routes. The system sends the answers of
    /// the family's listener by the best route, even to callers that came by another, with another outside address.
    /// A listener on one address answers by the interface of that address.
    fn open_beside(&mut self) {
        if self.config.bind.is_some() {
            return;
        }
        let leads = |v4: bool| self.chosen.iter().filter(move |i| i.default_route && i.ip.is_ipv4() == v4);
        let several = [true, false].into_iter().filter(|v4| leads(*v4).count() > 1);
        let wanted: SmallVec<[IpAddr; 6]> = several.flat_map(leads).map(|i| i.ip).collect();
        for listener in self.listeners.all.iter_mut().filter(|l| l.beside) {
            match listener.state {
                ListenState::Opening(sock) | ListenState::Open(sock, _) if !wanted.contains(&listener.ip) => {
                    self.door.shut(sock);
                    self.cx.close(sock, CloseHow::Drop);
                    listener.state = ListenState::Failed;
                }
                _ => {}
            }
        }
        let full = self.listeners.all.len() > usize::from(u8::MAX) - wanted.len();
        for ip in wanted {
            match self.listeners.all.iter_mut().find(|l| l.ip == ip) {
                Some(listener) if listener.state == ListenState::Failed => {
                    listener.state = ListenState::Waiting
                }
                Some(_) => {}
                // Their numbers are a byte, and a machine that has had so many addresses can do without.
                None if full => {}
                None => {
                    let listener = Listener { ip, beside: true, state: ListenState::Waiting };
                    self.listeners.all.push(listener);
                }
            }
        }
    }

    fn learn_external(&mut self) {
        for route in &mut self.routes {
            route.external = self.external.of(route.internal).unwrap_or(route.internal);
        }
        if self.surveyor.started() && self.external.take_news() {
            for route in &self.routes {
                let answers = self.external.answers(route.internal);
                self.surveyor.hear(&mut self.cx, route.internal, answers);
            }
        }
    }

    /// Which network we are in, once it is known how the internet sees us.
    fn learn_network(&mut self) {
        if !self.external.settled() {
            return;
        }
        // The way out, by the family that has a NAT if there is one.
        let best = |(n, i): &(usize, &Interface)| (!i.default_route, i.ip.is_ipv6(), *n);
        if let Some((n, interface)) = self.chosen.iter().enumerate().min_by_key(best)
            && let Some(route) = self.routes.get(n)
        {
            self.cx.memory.arrive(Network::new(interface.gateway, route.external));
        }
    }

    fn announced_interfaces(&self) -> impl Iterator<Item = PeerInterface> + '_ {
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
            if self.translating.is_ours(internal) {
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

    /// Fills the places for brokers in our address with the first that work. A broker that is in stays in, since
    /// addresses were handed out with it.
    fn choose_brokers(&mut self) {
        for (place, broker) in self.brokers.iter().enumerate() {
            let id = self.config.brokers[place].id;
            let full = self.announced_brokers.len() >= ANNOUNCED_BROKERS;
            if !full && broker.is_proven() && !self.announced_brokers.contains(&id) {
                self.announced_brokers.push(id);
            }
        }
    }
}

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
}
