//! The node: every machine put together behind four calls.

pub use allocating::{Allocate, AllocateError, MAX_ALLOCATIONS};
pub(crate) use relaying::MAX_AT_ONCE;

mod accepting;
pub(crate) mod admission;
mod advice;
mod allocating;
mod asking;
mod attempts;
#[cfg(test)]
mod floods;
#[cfg(test)]
mod hostile;
mod logins;
mod mapping;
mod messages;
mod naming;
mod opening;
mod pinging;
#[cfg(test)]
mod proving;
mod punching;
mod relaying;
mod requests;
mod roaming;
mod streams;
mod table;
mod timekeeping;
mod translating;
mod visits;

use core::fmt;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

use crate::address::{PeerAddress, scoped};
use crate::config::{Config, ConfigError, DEFAULT_PIPES, Plan};
use crate::cx::{Cx, Owner, Timer};
use crate::identity::{NodeId, NodeIdError};
use crate::io::{Action, CloseHow, Event, Interface, SockId};
use crate::nat::NatReport;
use crate::nat::external::External;
use crate::nat::memory::Memory;
use crate::nat::surveyor::Surveyor;
use crate::notice::{ConnectId, FailReason, Notice};
use crate::random::Domain;
use crate::server::local_towards;
use crate::session::SessionId;
use crate::signal::broker::Session;
use crate::signal::message::Message;
use crate::stats::Stats;
use crate::strategy::agreement::{Agreement, Key};
use crate::strategy::paths::{Links, Route};
use crate::time::Instant;

use admission::Admission;
use admission::door::Door;
use admission::places::Places;
use admission::reach::Ours;
use allocating::Allocation;
use attempts::Attempt;
use mapping::Mappings;
use opening::{Listeners, MeasureAgain};
use punching::Punch;
use relaying::{Proof, Relay};
use table::Streams;
use timekeeping::Timekeeper;
use translating::Translating;
use visits::Visit;

/// Most calls of `connect()` at a time.
pub const MAX_CONNECTS: usize = 4096;

/// Why [`Node::connect`] did not even begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address's last part is no node id, so that nobody could prove to be that peer.
    NodeId(NodeIdError),
    /// The plan names no strategy.
    EmptyPlan,
    /// [`MAX_CONNECTS`] are running.
    TooMany,
    /// The node was shut down.
    Shutdown,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectError::NodeId(why) => write!(f, "the address's last part is no node id: {why}"),
            ConnectError::EmptyPlan => f.write_str("the plan names no strategy"),
            ConnectError::TooMany => write!(f, "{MAX_CONNECTS} connects are running already"),
            ConnectError::Shutdown => f.write_str("the node was shut down"),
        }
    }
}

impl std::error::Error for ConnectError {
    /// Returns what is wrong with the node id.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ConnectError::NodeId(why) => Some(why),
            ConnectError::EmptyPlan | ConnectError::TooMany | ConnectError::Shutdown => None,
        }
    }
}

/// State machine of one node. A driver delivers events by [`handle`](Self::handle), carries out the actions of
/// [`poll_action`](Self::poll_action), and wakes the node at [`poll_timeout`](Self::poll_timeout).
///
/// The crate's first page has the contract and a driver's loop.
pub struct Node {
    cx: Cx,
    config: Config,
    /// Distinguishes us from another process with the same key.
    instance: [u8; 16],
    logins: logins::Logins,
    began: Instant,
    phase: Phase,
    listeners: Listeners,
    /// Addresses of this machine, used or not.
    listed: Vec<Interface>,
    /// Interfaces that are used.
    chosen: Vec<Interface>,
    /// The interfaces that are used, with outside addresses as far as known.
    routes: Vec<Route>,
    /// Links on which peers with link-local addresses may be.
    links: Links,
    translating: Translating,
    external: External,
    surveyor: Surveyor,
    mappings: Mappings,
    time: Timekeeper,
    /// The survey's end was told to the attempts.
    surveyed: bool,
    again: MeasureAgain,
    announced: Option<PeerAddress>,
    brokers: Vec<Session>,
    /// Per broker: whether it worked or failed at least once, and whether it is in our address.
    brokers_settled: Vec<bool>,
    announced_brokers: Vec<u16>,
    /// The brokers that a request could go out on when attempts were last told, one bit each; none before our
    /// address was settled.
    signal_ways: (bool, Option<u16>),
    admission: Admission,
    other_instances: BTreeSet<[u8; 16]>,
    /// Messages to ourselves.
    loopback: VecDeque<Message>,
    agreement: Agreement,
    streams: Streams,
    // Boxed, here and below: a map makes room for eleven at once, and few nodes have eleven calls.
    attempts: BTreeMap<ConnectId, Box<Attempt>>,
    names: naming::Names,
    /// The attempts by their sessions.
    sessions: BTreeMap<SessionId, ConnectId>,
    next_connect: u32,
    visits: BTreeMap<SessionId, Box<Visit>>,
    punches: BTreeMap<Key, Box<Punch>>,
    /// Relays by their ids, which are numbered as sockets are. `relay_ids` has those that are being opened, by session.
    relays: BTreeMap<SockId, Box<Relay>>,
    relay_ids: BTreeMap<Key, SockId>,
    /// Allocations of users, numbered as relays are.
    allocations: BTreeMap<SockId, Box<Allocation>>,
    /// Proofs of addresses, by ids that are numbered so too.
    proofs: BTreeMap<SockId, Box<Proof>>,
    pings: pinging::Pings,
    /// The user serves one pipe at a time, and has one.
    busy: bool,
    door: Door,
    places: Places,
    /// The pipes that users have, by the streams they were, with their two ends.
    pipes: BTreeMap<SockId, (NodeId, [SocketAddr; 2])>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The driver has not listed the interfaces.
    New,
    Running,
    /// The node is shut down, and waits for routers to close our port.
    Closing,
    Closed,
}

impl Node {
    /// A node that does nothing until the first [`Event::Interfaces`].
    ///
    /// All randomness comes from `seed`. It must come from the system's random source and never be used twice: the same
    /// seed and the same events give the same keys.
    ///
    /// # Errors
    /// The fault of the configuration.
    pub fn new(config: Config, seed: [u8; 32], now: Instant) -> Result<Self, ConfigError> {
        config.check()?;
        let mut cx = Cx::new(seed, now);
        cx.memory = Memory::new(cx.now, &config.nat_memory);
        let ours = config.identity.node_id();
        let most = config.max_pipes.unwrap_or(DEFAULT_PIPES) as usize;
        let session = |(place, b): (usize, &crate::config::Broker)| {
            Session::new(place as u8, b.clone(), config.bind, ours.topic())
        };
        let brokers: Vec<Session> = config.brokers.iter().enumerate().map(session).collect();
        Ok(Node {
            instance: cx.random.bytes(Domain::Instance),
            logins: logins::Logins::new(),
            began: now,
            phase: Phase::New,
            listeners: Listeners::default(),
            listed: Vec::new(),
            chosen: Vec::new(),
            routes: Vec::new(),
            links: Links::new(),
            translating: Translating::default(),
            external: External::new(config.stun.clone()),
            surveyor: Surveyor::default(),
            mappings: Mappings::default(),
            time: Timekeeper::new(config.ntp.clone()),
            surveyed: false,
            again: MeasureAgain::default(),
            announced: None,
            brokers_settled: vec![false; brokers.len()],
            announced_brokers: Vec::new(),
            signal_ways: (false, None),
            brokers,
            admission: Admission::new(&config, (punching::MAX_DIALS, punching::DIALS_EVERY)),
            other_instances: BTreeSet::new(),
            loopback: VecDeque::new(),
            agreement: Agreement::new(ours),
            streams: Streams::default(),
            attempts: BTreeMap::new(),
            names: naming::Names::default(),
            sessions: BTreeMap::new(),
            next_connect: 0,
            visits: BTreeMap::new(),
            punches: BTreeMap::new(),
            relays: BTreeMap::new(),
            relay_ids: BTreeMap::new(),
            allocations: BTreeMap::new(),
            proofs: BTreeMap::new(),
            pings: pinging::Pings::new(),
            busy: false,
            door: Door::new(most / 2),
            places: Places::new(most),
            pipes: BTreeMap::new(),
            cx,
            config,
        })
    }

    /// Tells the node that something happened. Never fails and never panics, whatever the order.
    ///
    /// `now` may stand still or go back: the largest value seen counts.
    pub fn handle(&mut self, now: Instant, event: Event<'_>) {
        self.advance(now);
        if self.phase == Phase::Closed {
            return;
        }
        match self.translating.inward(event) {
            Event::Timeout => self.fire_timers(),
            Event::Clock(fix) => self.clock_told(fix),
            Event::Interfaces(_) if self.phase == Phase::Closing => {}
            Event::Interfaces(list) => self.interfaces(list),
            Event::Woke { .. } => self.woke(),
            Event::Resolved { query, result } => match self.cx.answered(query) {
                Some(Owner::Broker(place)) => {
                    let news = self.brokers[usize::from(place)].resolved(&mut self.cx, query, result);
                    self.broker_news(place, news);
                }
                Some(Owner::External) => self.external.resolved(&mut self.cx, query, result),
                Some(Owner::Relay(id)) => self.relay_resolved(id, query, result),
                Some(Owner::Allocation(id)) => self.allocation_resolved(id, query, result),
                Some(Owner::Clock) => self.clock_resolved(query, result),
                Some(Owner::Nat64) => self.nat64_found(query, result),
                Some(_) => {}
                None => self.cx.stats.unknown_ids += 1,
            },
            Event::Accepted { listener, sock, local, remote } => match self.cx.owner(listener) {
                Some(Owner::Listener(_)) if self.cx.owner(sock).is_none() => {
                    self.accepted(listener, sock, local, remote);
                }
                _ => self.cx.stats.unknown_ids += 1,
            },
            Event::Bound { sock, local } => match self.owner(sock) {
                Some(Owner::Listener(n)) => {
                    self.door.opened(sock);
                    self.listening(n, Ok(local));
                    self.serve_door();
                }
                Some(Owner::External) => self.external.bound(&mut self.cx, sock),
                Some(Owner::Survey(place)) => self.surveyor.bound(&mut self.cx, place),
                Some(Owner::Relay(id)) => self.relay_opened(id, sock, local),
                Some(Owner::Allocation(id)) => self.with_allocation(id, |s, cx| s.opened(cx, sock)),
                Some(Owner::Mapping(n)) => self.mapping_bound(n),
                Some(Owner::Clock) => self.clock_bound(sock),
                _ => {}
            },
            Event::Connected { sock, local, remote } => match self.owner(sock) {
                Some(Owner::Broker(place)) => {
                    let news = self.brokers[usize::from(place)].connected(&mut self.cx, sock, local.ip());
                    self.broker_news(place, news);
                }
                Some(Owner::External) => self.external.connected(&mut self.cx, sock),
                Some(owner @ (Owner::Survey(_) | Owner::Sample)) => {
                    self.surveyor.connected(&mut self.cx, owner, sock);
                }
                Some(Owner::Stream) => self.stream_connected(sock, local, remote),
                Some(Owner::Relay(id)) => self.relay_opened(id, sock, local),
                Some(Owner::Allocation(id)) => self.with_allocation(id, |s, cx| s.opened(cx, sock)),
                Some(Owner::Mapping(n)) => self.mapping_connected(n, sock),
                _ => {}
            },
            Event::Fired { sock, .. } => {
                let _ = self.owner(sock);
            }
            Event::Failed { sock, cause } => {
                let owner = self.owner(sock);
                self.cx.forget(sock);
                match owner {
                    Some(Owner::Listener(n)) => {
                        self.door.shut(sock);
                        self.listening(n, Err(cause));
                    }
                    Some(Owner::Broker(place)) => {
                        let news = self.brokers[usize::from(place)].failed(&mut self.cx, sock, cause);
                        self.broker_news(place, news);
                    }
                    Some(Owner::External) => self.external.failed(&mut self.cx, sock),
                    Some(owner @ (Owner::Survey(_) | Owner::Sample)) => {
                        self.survey_lost(owner, sock, false);
                    }
                    Some(Owner::Stream) => self.stream_failed(sock, cause),
                    Some(Owner::Relay(id)) => self.relay_socket_failed(id, sock, cause),
                    Some(Owner::Allocation(id)) => {
                        self.with_allocation(id, |s, cx| s.failed(cx, sock, cause));
                    }
                    Some(Owner::Carrier(pipe)) => self.carrier_ended(pipe, sock),
                    Some(Owner::Mapping(n)) => self.mapping_lost(n, sock),
                    Some(Owner::Clock) => self.clock_failed(sock),
                    Some(Owner::Nat64) | None => {}
                }
            }
            Event::Released { sock } => self.released(sock),
            Event::Datagram { sock, from, data } => match self.owner(sock) {
                Some(Owner::External) => self.external.datagram(&mut self.cx, sock, from, data),
                Some(Owner::Survey(place)) => self.surveyor.datagram(&mut self.cx, place, from, data),
                Some(Owner::Relay(id)) => self.relay_datagram(id, sock, from, data),
                Some(Owner::Allocation(id)) => {
                    self.with_allocation(id, |s, cx| s.datagram(cx, sock, from, data));
                }
                Some(Owner::Mapping(n)) => self.mapping_datagram(n, from, data),
                Some(Owner::Clock) => self.clock_datagram(from, data),
                _ => {}
            },
            Event::Stream { sock, data } => match self.owner(sock) {
                Some(Owner::Broker(place)) => {
                    let news = self.brokers[usize::from(place)].received(&mut self.cx, sock, data);
                    self.broker_news(place, news);
                }
                Some(Owner::External) => self.external.received(&mut self.cx, sock, data),
                Some(owner @ (Owner::Survey(_) | Owner::Sample)) => {
                    if let Some(sampled) = self.surveyor.received(&mut self.cx, owner, sock, data) {
                        self.punch_sampled(sampled);
                    }
                }
                Some(Owner::Stream) => self.stream_received(sock, data),
                Some(Owner::Relay(id)) => self.relay_received(id, sock, data),
                Some(Owner::Allocation(id)) => self.with_allocation(id, |s, cx| s.received(cx, sock, data)),
                Some(Owner::Carrier(pipe)) => self.carrier_received(pipe, sock, data),
                Some(Owner::Mapping(n)) => self.mapping_received(n, sock, data),
                _ => {}
            },
            Event::Writable { sock } => {
                if let Some(Owner::Carrier(pipe)) = self.owner(sock) {
                    self.carrier_writable(pipe, sock);
                }
            }
            Event::Eof { sock } => match self.owner(sock) {
                Some(Owner::Broker(place)) => {
                    let news = self.brokers[usize::from(place)].ended(&mut self.cx, sock);
                    self.broker_news(place, news);
                }
                Some(Owner::External) => self.external.failed(&mut self.cx, sock),
                Some(owner @ (Owner::Survey(_) | Owner::Sample)) => self.survey_lost(owner, sock, true),
                Some(Owner::Stream) => self.stream_ended(sock),
                Some(Owner::Relay(id)) => self.relay_socket_ended(id, sock),
                Some(Owner::Allocation(id)) => self.with_allocation(id, |s, cx| s.ended(cx, sock)),
                Some(Owner::Carrier(pipe)) => self.carrier_ended(pipe, sock),
                Some(Owner::Mapping(n)) => self.mapping_lost(n, sock),
                _ => {}
            },
        }
        self.settle();
    }

    /// The next thing for the driver to do. Drain it after each call of another method, or after several.
    pub fn poll_action(&mut self) -> Option<Action> {
        let action = self.cx.pop_action()?;
        Some(self.translating.outward(action))
    }

    /// Returns the time at which to deliver [`Event::Timeout`]; a time that has passed means at once. Call this after
    /// draining the actions, arm one timer, and forget the one before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.cx.has_actions() { Some(self.cx.now) } else { self.cx.timers.first() }
    }

    /// Begins to open a pipe to a peer. It ends by [`Action::Detach`] or [`Notice::Failed`], with this id, at
    /// the plan's deadline at the latest; or by [`cancel`](Self::cancel) without either.
    ///
    /// # Errors
    /// The reasons for which nothing was begun.
    pub fn connect(&mut self, now: Instant, to: &PeerAddress, plan: Plan) -> Result<ConnectId, ConnectError> {
        self.advance(now);
        if self.is_shut() {
            return Err(ConnectError::Shutdown);
        }
        let peer = NodeId::try_from(to.node()).map_err(ConnectError::NodeId)?;
        if plan.strategies.is_empty() {
            return Err(ConnectError::EmptyPlan);
        }
        if self.attempts.len() >= MAX_CONNECTS {
            return Err(ConnectError::TooMany);
        }
        let id = self.fresh_connect();
        self.begin(id, peer, to, plan);
        self.settle();
        Ok(id)
    }

    /// Ends a connect without an outcome. One that is over is left alone.
    pub fn cancel(&mut self, now: Instant, connect: ConnectId) {
        self.advance(now);
        self.cancel_attempt(connect);
        self.cancel_name(connect);
        self.settle();
    }

    /// Answers [`Notice::Ask`]: whether the peer may have a pipe, now and for as long as this node runs.
    /// Without a question it is remembered all the same.
    pub fn answer(&mut self, now: Instant, peer: NodeId, accept: bool) {
        self.advance(now);
        if !self.is_shut() {
            self.answer_ask(peer, accept);
            self.settle();
        }
    }

    /// Says whether pipes that peers open from now on have to wait for their turn, which they are told:
    /// [`Stage::PeerBusy`](crate::Stage::PeerBusy). It refuses nobody.
    pub fn set_busy(&mut self, now: Instant, busy: bool) {
        self.advance(now);
        self.busy = busy;
        self.settle();
    }

    /// Ends everything: connects fail with [`FailReason::Shutdown`], brokers are told, sockets closed. The actions
    /// that follow end with [`Notice::Closed`], after up to 2 s where a router has a port of ours open. Pipes that
    /// were handed out live on, but for relayed ones, which end with their node.
    pub fn shutdown(&mut self, now: Instant) {
        self.advance(now);
        if self.is_shut() {
            return;
        }
        let running: Vec<ConnectId> = self.attempts.keys().copied().collect();
        for connect in running {
            self.fail_attempt(connect, FailReason::Shutdown);
        }
        self.shut_names();
        for broker in &mut self.brokers {
            broker.shutdown(&mut self.cx);
        }
        self.external.stop(&mut self.cx);
        self.surveyor.stop(&mut self.cx);
        self.time.stop();
        self.punches.clear();
        self.shut_relays();
        self.shut_allocations();
        self.cx.cancel_queries();
        self.cx.timers.clear();
        self.close_mappings();
        let others = |sock: &SockId| !self.mappings.owns(self.cx.owner(*sock));
        let open: Vec<SockId> = self.cx.open_sockets().filter(others).collect();
        for sock in open {
            self.cx.close(sock, CloseHow::Drop);
        }
        self.streams.clear();
        self.door.clear();
        self.visits.clear();
        self.admission.asks.clear();
        self.phase = Phase::Closing;
        if self.mappings_are_closed() {
            self.closed();
        }
    }

    /// The node's id.
    pub fn node_id(&self) -> NodeId {
        self.config.identity.node_id()
    }

    /// The address as known now; what to hand out is what [`Notice::Ready`] said last.
    pub fn address(&self) -> PeerAddress {
        self.current_address()
    }

    /// Returns the reports on the NATs in front of our interfaces, as far as measured.
    pub fn nats(&self) -> impl Iterator<Item = &NatReport> {
        self.surveyor.reports()
    }

    /// Returns the counters of the node so far.
    pub fn stats(&self) -> Stats {
        self.cx.stats
    }

    fn advance(&mut self, now: Instant) {
        self.cx.now = self.cx.now.max(now);
    }

    fn is_shut(&self) -> bool {
        matches!(self.phase, Phase::Closing | Phase::Closed)
    }

    fn closed(&mut self) {
        self.phase = Phase::Closed;
        self.cx.notify(Notice::Closed);
    }

    fn survey_lost(&mut self, owner: Owner, sock: SockId, open: bool) {
        if let Some(sampled) = self.surveyor.failed(&mut self.cx, owner, sock, open) {
            self.punch_sampled(sampled);
        }
    }

    /// The owner of a socket, counting ids that nobody knows.
    fn owner(&mut self, sock: SockId) -> Option<Owner> {
        let owner = self.cx.owner(sock);
        if owner.is_none() {
            self.cx.stats.unknown_ids += 1;
        }
        owner
    }

    fn fire_timers(&mut self) {
        // Each due timer is taken out before its machine runs, so that the deadline always moves.
        let mut due = Vec::new();
        while let Some(timer) = self.cx.timers.pop_due(self.cx.now) {
            due.push(timer);
        }
        for timer in due {
            match timer {
                Timer::Broker(place) => {
                    let news = self.brokers[usize::from(place)].timeout(&mut self.cx);
                    self.broker_news(place, news);
                }
                Timer::External => self.external.timeout(&mut self.cx),
                Timer::Survey(place) => self.surveyor.timeout(&mut self.cx, place),
                Timer::Punch(key) => self.drive_punch(key),
                Timer::Relay(id) => self.relay_timeout(id),
                Timer::Allocation(id) => self.allocation_timeout(id),
                Timer::Mapping(n) => self.mapping_timeout(n),
                Timer::Stream(sock) => self.stream_timeout(sock),
                Timer::Connect(connect) => self.drive_attempt(connect),
                Timer::Visit(session) => self.drive_visit(session),
                Timer::Settle => self.listeners.waited = true,
                Timer::Measure => self.measure_again(),
                Timer::Asks => self.expire_asks(),
                Timer::Names => self.drive_names(),
                Timer::Clock => self.clock_timeout(),
                Timer::Door => self.serve_door(),
            }
        }
    }

    /// Does the work that follows any event: delivers messages to ourselves, and announces the address if it is new.
    fn settle(&mut self) {
        while let Some(message) = self.loopback.pop_front() {
            self.authentic_message(self.node_id(), message, None);
        }
        if self.phase == Phase::Running {
            self.announce();
            self.hear_of_memory();
        }
    }

    /// Tells what is new about our NATs' memory, and has connections used in time that would be forgotten.
    fn hear_of_memory(&mut self) {
        let Some((memory, fewer)) = self.cx.memory.take_news() else { return };
        if let Some(memory) = memory {
            self.cx.notify(Notice::NatMemory(memory));
        }
        if fewer {
            for broker in &mut self.brokers {
                broker.hurry(&mut self.cx);
            }
            self.surveyor.hurry(&mut self.cx);
        }
    }

    fn is_oneself(&self, peer: NodeId) -> bool {
        peer == self.node_id()
    }

    /// The local address to dial from, in the family of `to`.
    fn dial_from(&self, to: IpAddr) -> std::net::SocketAddr {
        self.local(local_towards(to, self.config.bind, || self.used_towards(to)), 0)
    }

    /// Returns whether we have a route by IPv4, and one by IPv6.
    fn families(&self) -> [bool; 2] {
        [true, false].map(|v4| self.routes.iter().any(|r| r.internal.is_ipv4() == v4))
    }

    /// Returns the addresses of ours with which an address that a peer names is compared.
    fn ours(&self) -> Ours<'_> {
        let announced = self.announced.as_ref();
        Ours { interfaces: &self.listed, routes: &self.routes, announced, nat64: self.translating.prefixes() }
    }

    /// A socket address of ours, in its zone where it is link-local.
    fn local(&self, ip: IpAddr, port: u16) -> std::net::SocketAddr {
        let zone = self.links.iter().find(|l| l.ip == ip).map_or(0, |l| l.zone);
        scoped(ip, port, zone)
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("id", &self.node_id())
            .field("phase", &self.phase)
            .field("connects", &self.attempts.len())
            .field("streams", &self.streams.len())
            .finish_non_exhaustive()
    }
}
