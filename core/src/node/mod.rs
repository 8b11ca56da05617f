//! The node: every machine put together behind four calls.

pub use allocating::{Allocate, AllocateError, MAX_ALLOCATIONS};
pub(crate) use relaying::MAX_AT_ONCE;

pub(crate) mod admission;
mod advice;
mod allocating;
mod asking;
mod attempts;
mod dispatch;
#[cfg(test)]
mod floods;
#[cfg(test)]
mod hostile;
mod logins;
mod messages;
mod naming;
mod network;
#[cfg(test)]
mod proving;
mod punching;
mod relaying;
mod requests;
mod roaming;
mod session;
mod signalling;
mod visits;

use core::fmt;
use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;

use crate::address::PeerAddress;
use crate::config::{Config, ConfigError, Login, Plan, ServerRef, TurnAuth};
use crate::cx::{Cx, Owner};
use crate::identity::{NodeId, NodeIdError};
use crate::io::{Action, CloseHow, Event, SockId};
use crate::name::{Name, NameError, NamePin};
use crate::nat::NatReport;
use crate::nat::memory::Memory;
use crate::notice::{ConnectId, FailReason, Notice};
use crate::pipe::PipeId;
use crate::random::Domain;
use crate::session::SessionId;
use crate::stats::Stats;
use crate::strategy::agreement::Key;
use crate::time::Instant;
use crate::turn::{Credentials, SendError};

use admission::Admission;
use allocating::{Allocations, Env};
use attempts::Attempt;
use logins::Logins;
use naming::Names;
use network::Network;
use punching::Punch;
use relaying::{Proof, Relay};
use session::Sessions;
use signalling::Signalling;
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
    logins: Logins,
    phase: Phase,
    network: Network,
    signalling: Signalling,
    admission: Admission,
    sessions: Sessions,
    // Boxed, here and below: a map makes room for eleven at once, and few nodes have eleven calls.
    attempts: BTreeMap<ConnectId, Box<Attempt>>,
    names: Names,
    /// The attempts by their sessions.
    by_session: BTreeMap<SessionId, ConnectId>,
    next_connect: u32,
    visits: BTreeMap<SessionId, Box<Visit>>,
    punches: BTreeMap<Key, Box<Punch>>,
    /// Relays by their ids, which are numbered as sockets are. `relay_ids` has those that are being opened, by session.
    relays: BTreeMap<PipeId, Box<Relay>>,
    relay_ids: BTreeMap<Key, PipeId>,
    allocations: Allocations,
    /// Proofs of addresses, by ids that are numbered so too.
    proofs: BTreeMap<PipeId, Box<Proof>>,
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
        let instance = cx.random.bytes(Domain::Instance);
        Ok(Node {
            logins: Logins::default(),
            phase: Phase::New,
            network: Network::new(&config),
            signalling: Signalling::new(&config, instance, now),
            admission: Admission::new(&config, (punching::MAX_DIALS, punching::DIALS_EVERY)),
            sessions: Sessions::new(&config),
            attempts: BTreeMap::new(),
            names: Names::default(),
            by_session: BTreeMap::new(),
            next_connect: 0,
            visits: BTreeMap::new(),
            punches: BTreeMap::new(),
            relays: BTreeMap::new(),
            relay_ids: BTreeMap::new(),
            allocations: Allocations::default(),
            proofs: BTreeMap::new(),
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
        let event = self.network.inward(event);
        match self.cx.owner_of(&event) {
            Some(owner) if Network::owns(owner) => self.network.handle(&mut self.cx, owner, event),
            Some(Owner::Allocation(id)) => self.with_allocations(|all, env| all.handle(env, id, event)),
            Some(Owner::Broker(place)) => {
                let news = self.signalling.handle(&mut self.cx, place, event);
                self.broker_news(place, news);
            }
            owner => self.dispatch(owner, event),
        }
        self.settle();
    }

    /// The next thing for the driver to do. Drain it after each call of another method, or after several.
    pub fn poll_action(&mut self) -> Option<Action> {
        let action = self.cx.pop_action()?;
        Some(self.network.outward(action))
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

    /// Asks all brokers where a name leads. [`NameNews::Resolved`](crate::NameNews::Resolved) or [`NameNews::NotResolved`](crate::NameNews::NotResolved) follows, after 8 s at
    /// the latest; usually after two round trips and, where a broker has nothing, half a second. A silent broker is
    /// waited for while only records kept by other brokers were found. Otherwise the wait is half a second for a
    /// pinned name, and one second for another.
    ///
    /// # Errors
    /// `TooMany` where 24 names are asked for or held, `Shutdown`.
    pub fn resolve(&mut self, now: Instant, name: Name) -> Result<(), NameError> {
        self.name(now, |names, env| names.resolve(env, name))
    }

    /// Begins to open a pipe to whoever has a name. As [`connect`](Self::connect), where the plan's time includes that
    /// of finding the address, and [`FailReason::Name`] says that there is none.
    ///
    /// # Errors
    /// The reasons for which nothing was begun.
    pub fn connect_name(&mut self, now: Instant, name: Name, plan: Plan) -> Result<ConnectId, ConnectError> {
        self.advance(now);
        if plan.strategies.is_empty() {
            return Err(ConnectError::EmptyPlan);
        }
        if self.attempts.len() + self.names.calls() >= MAX_CONNECTS {
            return Err(ConnectError::TooMany);
        }
        if self.is_shut() {
            return Err(ConnectError::Shutdown);
        }
        if !self.names.has_room(name) {
            return Err(ConnectError::TooMany);
        }
        let id = self.fresh_connect();
        // There is room for the name, and nothing else fails.
        let _ = self.name(now, |names, env| names.call(env, name, id, plan));
        Ok(id)
    }

    /// Takes a name for this node and keeps it up while the node runs. A signed record is published on all brokers, and
    /// anew each hour, when the address changes, and when a broker comes back. Whoever asks over a broker is told the
    /// record too.
    /// [`NameNews::Registered`](crate::NameNews::Registered) or [`NameNews::NotRegistered`](crate::NameNews::NotRegistered) follows; the latter ends the registration, also later.
    /// [`NameNews::Waiting`](crate::NameNews::Waiting) comes before where no broker is there. The record is valid for a day after the node has
    /// ended, unless it is [`release`](Self::release)d.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub fn register(&mut self, now: Instant, name: Name) -> Result<(), NameError> {
        self.name(now, |names, env| names.hold(env, name, true))
    }

    /// Gives a name up that this node's key has, whether it was registered by this process or another.
    /// [`NameNews::Released`](crate::NameNews::Released) or [`NameNews::NotRegistered`](crate::NameNews::NotRegistered) follows.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub fn release(&mut self, now: Instant, name: Name) -> Result<(), NameError> {
        self.name(now, |names, env| names.hold(env, name, false))
    }

    /// Tells the node which key a name had, as [`NameNews::Pinned`](crate::NameNews::Pinned) said it in an earlier run. The first key that the
    /// node hears of stays.
    pub fn pin_name(&mut self, now: Instant, pin: NamePin) {
        self.advance(now);
        self.names.pin(pin);
    }

    /// Does what a user asks for with a name.
    fn name(
        &mut self,
        now: Instant,
        act: impl FnOnce(&mut Names, &mut naming::Env<'_>) -> Result<(), NameError>,
    ) -> Result<(), NameError> {
        self.advance(now);
        if self.is_shut() {
            return Err(NameError::Shutdown);
        }
        self.with_names(act)?;
        self.settle();
        Ok(())
    }

    /// Ends a connect without an outcome. One that is over is left alone.
    pub fn cancel(&mut self, now: Instant, connect: ConnectId) {
        self.advance(now);
        self.cancel_attempt(connect);
        self.with_names(|names, env| names.cancel(env, connect));
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
        self.sessions.set_busy(busy);
        self.settle();
    }

    /// Asks TURN servers for a relayed address. [`Action::OpenAllocation`](crate::Action::OpenAllocation) or
    /// [`Notice::NotAllocated`] follows with this id; then the pipe is given up by [`pipe_close`](Self::pipe_close).
    ///
    /// # Errors
    /// The reason why no server is asked.
    pub fn allocate(&mut self, now: Instant, wish: &Allocate) -> Result<PipeId, AllocateError> {
        self.advance(now);
        if self.is_shut() {
            return Err(AllocateError::Shutdown);
        }
        let mut env = Env { cx: &mut self.cx, network: &self.network, logins: &mut self.logins };
        let id = self.allocations.open(&mut env, &self.config, wish)?;
        self.settle();
        Ok(id)
    }

    /// Sends a datagram from an allocation's relayed address to any address of the same family, at most
    /// [`MAX_PAYLOAD`](crate::turn::MAX_PAYLOAD) bytes. The permission is asked for on the way and kept.
    ///
    /// # Errors
    /// The reason why the datagram is not sent.
    pub fn pipe_send_to(
        &mut self,
        now: Instant,
        pipe: PipeId,
        to: SocketAddr,
        data: &[u8],
    ) -> Result<(), SendError> {
        self.advance(now);
        let id = pipe;
        self.with_allocations(|all, env| all.send_to(env, id, to, data))
    }

    /// Takes the oldest datagram that came to an allocation's relayed address, with its sender. At most 256 wait.
    pub fn pipe_recv_from(&mut self, now: Instant, pipe: PipeId) -> Option<(SocketAddr, Bytes)> {
        self.advance(now);
        self.allocations.recv_from(pipe)
    }

    /// Sends a peer an ECHO by every broker that is ready and that both share; returns how many they are.
    /// [`Notice::Pong`] tells of the first answer, with this `number`. A peer answers nodes that it
    /// accepts; others too rarely to be relied on.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn ping(&mut self, now: Instant, to: &PeerAddress, number: u32) -> Result<u8, ConnectError> {
        self.advance(now);
        if self.is_shut() {
            return Err(ConnectError::Shutdown);
        }
        let peer = NodeId::try_from(to.node()).map_err(ConnectError::NodeId)?;
        let brokers = self.signalling.ping(&mut self.cx, peer, to, number).ok_or(ConnectError::TooMany)?;
        self.settle();
        Ok(brokers)
    }

    /// Answers [`Notice::LoginWanted`]: the login that a server takes from now on. It may come unasked, before the old
    /// one ends. `None`: there is none to be had, and whatever waits for it goes on without the server.
    pub fn renew_login(&mut self, now: Instant, server: ServerRef, login: Option<Login>) {
        self.advance(now);
        if self.is_shut() {
            return;
        }
        self.logins.answered(server);
        match server {
            ServerRef::Broker(id) => {
                if let Some(login) = login {
                    self.signalling.renew(&mut self.cx, id, &login);
                }
            }
            ServerRef::Turn(place) => {
                let Some(turn) = self.config.turn.get_mut(usize::from(place)) else { return };
                let TurnAuth::Renewed(credentials) = &mut turn.auth else { return };
                let fresh = login.map(|l| Credentials::new(l.user(), l.password().unwrap_or_default()));
                if fresh.is_some() {
                    credentials.clone_from(&fresh);
                }
                self.relays_renew(place, fresh.as_ref());
                self.with_allocations(|all, env| all.renew(env, place, fresh.as_ref()));
            }
        }
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
        self.with_names(|names, env| names.shut(env));
        self.signalling.shutdown(&mut self.cx);
        self.network.stop(&mut self.cx);
        self.punches.clear();
        self.shut_relays();
        self.with_allocations(Allocations::shut);
        self.cx.cancel_queries();
        self.cx.timers.clear();
        self.network.close_ports(&mut self.cx);
        let others = |sock: &SockId| !self.network.outlives(self.cx.owner(*sock));
        let open: Vec<SockId> = self.cx.open_sockets().filter(others).collect();
        for sock in open {
            self.cx.close(sock, CloseHow::Drop);
        }
        self.sessions.shut();
        self.visits.clear();
        self.admission.ask_no_more();
        self.phase = Phase::Closing;
        self.close();
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
        self.network.surveyor().reports()
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

    /// Ends the node that is shut down, once the routers have been told.
    fn close(&mut self) {
        if self.phase == Phase::Closing && self.network.ports_are_closed() {
            self.phase = Phase::Closed;
            self.cx.notify(Notice::Closed);
        }
    }

    fn is_oneself(&self, peer: NodeId) -> bool {
        peer == self.node_id()
    }

    /// Does something with names, and begins the calls whose names are found by it.
    fn with_names<T>(&mut self, act: impl FnOnce(&mut Names, &mut naming::Env<'_>) -> T) -> T {
        let mut env = naming::Env {
            cx: &mut self.cx,
            network: &self.network,
            signalling: &mut self.signalling,
            identity: &self.config.identity,
            running: self.phase == Phase::Running,
        };
        let done = act(&mut self.names, &mut env);
        for (connect, peer, address, plan) in self.names.take_found() {
            self.begin(connect, peer, &address, plan);
        }
        done
    }

    fn with_allocations<T>(&mut self, act: impl FnOnce(&mut Allocations, &mut Env<'_>) -> T) -> T {
        let mut env = Env { cx: &mut self.cx, network: &self.network, logins: &mut self.logins };
        act(&mut self.allocations, &mut env)
    }

    /// Opens what is open as long as the node runs.
    fn start(&mut self) {
        self.network.start(&mut self.cx);
        self.signalling.start(&mut self.cx);
        self.network.ask_the_time(&mut self.cx);
    }

    fn current_address(&self) -> PeerAddress {
        self.network.address(self.signalling.announced(), self.node_id())
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("id", &self.node_id())
            .field("phase", &self.phase)
            .field("connects", &self.attempts.len())
            .field("streams", &self.sessions.len())
            .finish_non_exhaustive()
    }
}
