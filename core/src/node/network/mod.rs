//! The node's network: the interfaces that are used, the listeners on them, the outside addresses and NATs in front, ports that
//! routers open, the network's NAT64, and the time. Others read it, and are told by [`NetworkEvent`].

mod announcing;
mod choosing;
mod listeners;
#[cfg(feature = "portmap")]
mod mapping;
#[cfg(not(feature = "portmap"))]
#[path = "../without/mapping.rs"]
mod mapping;
mod measuring;
mod nat64;
mod time;

use core::time::Duration;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

pub(super) use choosing::is_gone;

use choosing::{choose, choose_links, is_elsewhere};
use listeners::Listeners;
use mapping::Mappings;
use measuring::MeasureAgain;
use nat64::Translating;
use time::Timekeeper;

use crate::address::{PeerAddress, is_link_local, scoped};
use crate::config::Config;
use crate::cx::{Cx, Owner, Timer};
use crate::io::{Input, Interface, Output, SockId};
use crate::nat::external::External;
use crate::nat::surveyor::{Sampled, Surveyor};
use crate::prefix::is_on_link;
use crate::server::local_towards;
use crate::strategy::agreement::Key;
use crate::strategy::ours::{Ours, Route, Trust};
use crate::strategy::paths::{self, Links};
use crate::time::{ClockFix, Instant};

/// Interfaces announced per address family, as the address format allows.
pub(super) const PER_FAMILY: usize = 3;
/// The address is handed out after this long even if brokers are still being tried.
const SETTLE_WITHIN: Duration = Duration::from_secs(4);
/// A new address is handed out after this long even if its NAT is still being measured.
const RESETTLE_WITHIN: Duration = Duration::from_secs(2);

/// Change of the network that others have to hear of.
#[derive(Debug)]
pub(super) enum NetworkEvent {
    /// The listener with this id was closed.
    Shut(SockId),
    /// A sample for a punch has ended.
    Sampled(Sampled),
    /// The network's NAT64 was looked up; true if there is another one than was known.
    Nat64(bool),
    /// The right time is known: nothing needs to wait longer for it.
    TimeKnown,
    /// The clock to go by was set.
    TimeSet,
}

/// Difference between two lists of interfaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Relisted {
    /// Others are used now, or with other properties.
    pub(super) changed: bool,
    /// An address that was used is gone, or another way leads out.
    pub(super) moved: bool,
}

#[derive(Debug)]
pub(super) struct Network {
    bind: Option<IpAddr>,
    port: u16,
    survey: bool,
    hairpin: bool,
    portmap: bool,
    external_port: u16,
    has_stun: bool,
    listeners: Listeners,
    /// Addresses of this machine, used or not.
    listed: Vec<Interface>,
    /// Interfaces that are used.
    chosen: Vec<Interface>,
    /// The interfaces that are used, with outside addresses as far as known.
    routes: Vec<Route>,
    /// Links on which peers with link-local addresses may be.
    links: Links,
    nat64: Translating,
    external: External,
    surveyor: Surveyor,
    /// The survey's end was told.
    surveyed: bool,
    again: MeasureAgain,
    mappings: Mappings,
    time: Timekeeper,
    announced: Option<PeerAddress>,
    /// An address is handed out now, whatever is still being tried.
    waited: bool,
    /// There was a list of interfaces.
    started: bool,
    news: VecDeque<NetworkEvent>,
}

impl Network {
    pub(super) fn new(config: &Config) -> Self {
        Network {
            bind: config.bind,
            port: config.port,
            survey: config.survey,
            hairpin: config.hairpin,
            portmap: config.portmap,
            external_port: config.external_port,
            has_stun: !config.stun.is_empty(),
            listeners: Listeners::default(),
            listed: Vec::new(),
            chosen: Vec::new(),
            routes: Vec::new(),
            links: Links::new(),
            nat64: Translating::default(),
            external: External::new(config.stun.clone()),
            surveyor: Surveyor::default(),
            surveyed: false,
            again: MeasureAgain::default(),
            mappings: Mappings::default(),
            time: Timekeeper::new(config.ntp.clone(), config.bind),
            announced: None,
            waited: false,
            started: false,
            news: VecDeque::new(),
        }
    }

    /// Returns the next change.
    pub(super) fn poll_event(&mut self) -> Option<NetworkEvent> {
        if let Some(news) = self.news.pop_front() {
            return Some(news);
        }
        self.time.take_news()
    }

    /// Takes in the interfaces as they are now.
    pub(super) fn relist(&mut self, cx: &mut Cx, list: &[Interface]) -> Relisted {
        self.listed = list.to_vec();
        let chosen = self.nat64.extend(cx, list, choose(list, self.bind));
        let links = choose_links(list, self.bind);
        // They are all that we have where nothing else was chosen.
        let relinked = core::mem::replace(&mut self.links, links) != self.links && chosen.is_empty();
        let moved = is_elsewhere(&self.chosen, &chosen) || relinked;
        let changed = chosen != self.chosen || relinked || !self.started;
        if changed {
            self.routes =
                chosen.iter().map(|i| Route { internal: i.ip, prefix: i.prefix, external: i.ip }).collect();
            self.chosen = chosen;
            self.started = true;
            cx.memory.leave();
            self.forget_measured(cx);
        }
        Relisted { changed, moved }
    }

    /// Opens the listeners for the first list of interfaces.
    pub(super) fn start(&mut self, cx: &mut Cx) {
        self.open_listeners(cx);
        cx.timers.set(Timer::Settle, Some(cx.now + SETTLE_WITHIN));
    }

    /// Opens what another list of interfaces needs. The address is settled anew.
    pub(super) fn restart(&mut self, cx: &mut Cx) {
        self.waited = false;
        cx.timers.set(Timer::Settle, Some(cx.now + RESETTLE_WITHIN));
        self.open_listeners(cx);
    }
}

// Events.
impl Network {
    /// Returns true if sockets and queries of this owner are the network's, other than listeners.
    pub(super) fn owns(owner: Owner) -> bool {
        use Owner::{Clock, External, Mapping, Nat64, Sample, Survey};
        matches!(owner, External | Survey(_) | Sample | Mapping(_) | Clock | Nat64)
    }

    /// Takes in an input of a socket or a query of this owner.
    pub(super) fn handle(&mut self, cx: &mut Cx, owner: Owner, input: Input<'_>) {
        match owner {
            Owner::External => match input {
                Input::Resolved { query, result } => self.external.resolved(cx, query, result),
                Input::Bound { sock, .. } => self.external.bound(cx, sock),
                Input::Connected { sock, .. } => self.external.connected(cx, sock),
                Input::Datagram { sock, from, data } => self.external.datagram(cx, sock, from, data),
                Input::Stream { sock, data } => self.external.received(cx, sock, data),
                Input::Failed { sock, .. } | Input::Eof { sock } => self.external.failed(cx, sock),
                _ => {}
            },
            Owner::Survey(_) | Owner::Sample => match (owner, input) {
                (Owner::Survey(place), Input::Bound { .. }) => self.surveyor.bound(cx, place),
                (Owner::Survey(place), Input::Datagram { from, data, .. }) => {
                    self.surveyor.datagram(cx, place, from, data);
                }
                (_, Input::Connected { sock, .. }) => self.surveyor.connected(cx, owner, sock),
                (_, Input::Stream { sock, data }) => {
                    let sampled = self.surveyor.received(cx, owner, sock, data);
                    self.sampled(sampled);
                }
                (_, Input::Failed { sock, .. }) => self.survey_lost(cx, owner, sock, false),
                (_, Input::Eof { sock }) => self.survey_lost(cx, owner, sock, true),
                _ => {}
            },
            Owner::Mapping(n) => match input {
                Input::Bound { .. } => self.mappings.bound(cx, n),
                Input::Connected { sock, .. } => self.mappings.connected(cx, n, sock),
                Input::Datagram { from, data, .. } => self.mappings.datagram(cx, n, from, data),
                Input::Stream { sock, data } => self.mappings.received(cx, n, sock, data),
                Input::Failed { sock, .. } | Input::Eof { sock } => self.mappings.lost(cx, n, sock),
                _ => {}
            },
            Owner::Clock => match input {
                Input::Resolved { query, result } => {
                    let families = self.families();
                    self.time.resolved(cx, families, query, result);
                }
                Input::Bound { sock, .. } => self.time.bound(cx, sock),
                Input::Datagram { from, data, .. } => self.time.datagram(cx, from, data),
                Input::Failed { sock, .. } => self.time.failed(cx, sock),
                _ => {}
            },
            Owner::Nat64 => {
                if let Input::Resolved { query, result } = input
                    && let Some(another) = self.nat64.found(&self.listed, query, result)
                {
                    if another {
                        // Those of names may be translated.
                        self.external.forget_addresses();
                    }
                    self.news.push_back(NetworkEvent::Nat64(another));
                }
            }
            Owner::Listener(_)
            | Owner::PunchListener
            | Owner::Broker(_)
            | Owner::Stream
            | Owner::Udp
            | Owner::Relay(_)
            | Owner::Proof(_)
            | Owner::Allocation(_) => {}
        }
    }

    /// Takes in that a timer of the network is due.
    pub(super) fn timeout(&mut self, cx: &mut Cx, timer: Timer) {
        match timer {
            Timer::External => self.external.timeout(cx),
            Timer::Survey(place) => self.surveyor.timeout(cx, place),
            Timer::Mapping(n) => self.mappings.timeout(cx, n),
            Timer::Clock => self.time.timeout(cx),
            Timer::Measure => self.measure_again(cx),
            Timer::Settle => self.waited = true,
            _ => {}
        }
    }

    fn survey_lost(&mut self, cx: &mut Cx, owner: Owner, sock: SockId, open: bool) {
        let sampled = self.surveyor.failed(cx, owner, sock, open);
        self.sampled(sampled);
    }

    /// Translates an input that comes from the driver.
    pub(super) fn inward<'a>(&mut self, input: Input<'a>) -> Input<'a> {
        self.nat64.inward(input)
    }

    /// Translates an output on its way to the driver.
    pub(super) fn outward(&mut self, output: Output) -> Output {
        self.nat64.outward(output)
    }

    /// Takes in that the driver read its clock.
    pub(super) fn clock(&mut self, cx: &mut Cx, fix: ClockFix) {
        self.time.told(cx, fix);
    }

    /// Asks the time servers, as there is a network for the first time.
    pub(super) fn ask_the_time(&mut self, cx: &mut Cx) {
        self.time.start(cx);
    }

    /// Asks them now where nobody has told the time yet: there may be a network by now.
    pub(super) fn ask_the_time_again(&mut self, cx: &mut Cx) {
        self.time.ask_again(cx);
    }

    /// Takes in that a peer's stream came to a listener.
    pub(super) fn accepted(&mut self, cx: &mut Cx, remote: SocketAddr) {
        self.surveyor.accepted(cx, remote);
    }

    /// Begins to measure which port a dial of this punch would have outside. False if none can be measured.
    pub(super) fn sample(&mut self, cx: &mut Cx, local: IpAddr, key: Key) -> bool {
        self.surveyor.sample(cx, local, key)
    }

    /// Ends the sample of a punch.
    pub(super) fn release_sample(&mut self, cx: &mut Cx, key: Key) {
        self.surveyor.release(cx, key);
    }

    /// Uses connections in time that our NATs would forget sooner than was known.
    pub(super) fn hurry(&mut self, cx: &mut Cx) {
        self.surveyor.hurry(cx);
    }

    /// Ends all but the mappings of our ports, which are taken back. Sockets are left to the caller.
    pub(super) fn stop(&mut self, cx: &mut Cx) {
        self.external.stop(cx);
        self.surveyor.stop(cx);
        self.time.stop();
    }

    /// Takes the mappings of our ports back.
    pub(super) fn close_ports(&mut self, cx: &mut Cx) {
        self.mappings.close(cx);
    }
}

// What others want to know.
impl Network {
    pub(super) fn routes(&self) -> &[Route] {
        &self.routes
    }

    pub(super) fn links(&self) -> &Links {
        &self.links
    }

    /// Returns every address of this machine, used or not.
    pub(super) fn listed(&self) -> &[Interface] {
        &self.listed
    }

    /// Returns the survey of our NATs.
    pub(super) fn surveyor(&self) -> &Surveyor {
        &self.surveyor
    }

    /// Returns true once it is known on which port we can be dialled.
    pub(super) fn listeners_are_open(&self) -> bool {
        self.listeners.are_open()
    }

    /// Returns true once it is certain that nobody can dial us.
    pub(super) fn listeners_failed(&self) -> bool {
        self.listeners.have_failed()
    }

    /// Returns true while listeners are being opened.
    pub(super) fn is_opening(&self) -> bool {
        self.listeners.are_opening()
    }

    /// Notes that the listeners are open, or failed. Returns true the first time.
    pub(super) fn opened(&mut self) -> bool {
        self.listeners.opened()
    }

    /// Returns true once one server at least has said where we can be dialled from outside.
    pub(super) fn outside_is_heard(&self) -> bool {
        self.external.heard()
    }

    /// Returns the addresses of the STUN servers, those of each that have answered first. `None`: not known yet.
    pub(super) fn stun_servers(&self, cx: &Cx) -> Option<Vec<SocketAddr>> {
        self.external.servers(cx)
    }

    /// Returns true while the prefix of the network's NAT64 is being looked up.
    pub(super) fn is_asking_nat64(&self) -> bool {
        self.nat64.is_asking()
    }

    /// Returns true if this is our address for IPv4 by a NAT64.
    pub(super) fn is_by_nat64(&self, ip: IpAddr) -> bool {
        self.nat64.is_ours(ip)
    }

    /// Returns true once outside addresses are settled, so that our address can be sent to a peer.
    pub(super) fn address_is_settled(&self) -> bool {
        self.is_known_outside() && self.listeners_are_open()
    }

    /// Returns true if nothing more is waited for before our address is handed out. `elsewhere` is whether all that
    /// others wait for is settled.
    pub(super) fn may_announce(&self, elsewhere: bool) -> bool {
        let settled = elsewhere && self.surveyor.settled();
        self.is_known_outside() && (settled || self.waited)
    }

    fn is_known_outside(&self) -> bool {
        self.external.settled() && !self.nat64.is_asking()
    }

    /// Returns the time until which work that depends on the clock had better wait, if it had.
    pub(super) fn time_awaited_until(&self, now: Instant) -> Option<Instant> {
        self.time.awaited_until(now)
    }

    /// Returns true if a socket of this owner is a port mapping's, which outlives the node by a moment.
    pub(super) fn outlives(&self, owner: Option<Owner>) -> bool {
        self.mappings.owns(owner)
    }

    /// Returns true if no port mapping is left to wait for at the end.
    pub(super) fn ports_are_closed(&self) -> bool {
        self.mappings.are_closed()
    }

    /// Returns whether we have a route by IPv4, and one by IPv6.
    pub(super) fn families(&self) -> [bool; 2] {
        [true, false].map(|v4| self.routes.iter().any(|r| r.internal.is_ipv4() == v4))
    }

    /// Returns the addresses of ours with which an address that a peer names is compared.
    pub(super) fn ours(&self) -> Ours<'_> {
        let announced = self.announced.as_ref();
        Ours { interfaces: &self.listed, routes: &self.routes, announced, nat64: self.nat64.prefixes() }
    }

    /// Returns true if a TURN server may send us on to this address. Its entry in the list may permit it `anywhere`.
    pub(super) fn may_follow(&self, to: SocketAddr, anywhere: bool) -> bool {
        anywhere || paths::may_send_to(&self.ours(), to.ip(), Trust::Stranger)
    }

    /// Returns a socket address of ours, in its zone where it is link-local.
    pub(super) fn local(&self, ip: IpAddr, port: u16) -> SocketAddr {
        let zone = self.links.iter().find(|l| l.ip == ip).map_or(0, |l| l.zone);
        scoped(ip, port, zone)
    }

    /// Returns the local address to dial from, in the family of `to`.
    pub(super) fn dial_from(&self, to: IpAddr) -> SocketAddr {
        self.local(local_towards(to, self.bind, || self.used_towards(to)), 0)
    }

    /// Returns true if an address of ours is not to be used.
    pub(super) fn is_unused(&self, ip: IpAddr) -> bool {
        self.listed.iter().any(|i| i.ip == ip.to_canonical() && !i.used)
    }

    /// The address to leave from, where not all of ours are used or one is translated: a neighbour's own network
    /// before the way out.
    fn used_towards(&self, to: IpAddr) -> Option<IpAddr> {
        let family = || self.chosen.iter().filter(|i| i.ip.is_ipv4() == to.is_ipv4());
        let near = || family().find(|i| is_on_link(i.ip, i.prefix, to));
        let leads = || family().find(|i| i.default_route).or_else(|| family().next());
        let all = self.listed.iter().all(|i| i.used) && (to.is_ipv6() || self.nat64.interface().is_none());
        if all || is_link_local(to) || to.is_loopback() { None } else { near().or_else(leads).map(|i| i.ip) }
    }
}
