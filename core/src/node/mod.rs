//! The node: every machine put together, behind the calls of a driver and those of its user.

// Machines that a build may lack have the same face in `without/`, where they refuse.
pub use admission::Source;
pub use allocate::{Allocate, AllocateError, MAX_ALLOCATIONS};

pub(crate) mod admission;
mod allocate;
#[cfg(feature = "relay")]
mod allocating;
#[cfg(not(feature = "relay"))]
#[path = "without/allocating.rs"]
mod allocating;
mod call;
mod dispatch;
#[cfg(test)]
#[cfg(feature = "relay")]
mod floods;
#[cfg(test)]
#[cfg(feature = "relay")]
mod hostile;
mod logins;
#[cfg(feature = "meetings")]
mod meeting;
#[cfg(not(feature = "meetings"))]
#[path = "without/meeting.rs"]
mod meeting;
#[cfg(feature = "names")]
mod naming;
#[cfg(not(feature = "names"))]
#[path = "without/naming.rs"]
mod naming;
mod network;
#[cfg(test)]
#[cfg(feature = "relay")]
mod proving;
#[cfg(feature = "relay")]
mod servers;
#[cfg(not(feature = "relay"))]
#[path = "without/servers.rs"]
mod servers;
mod session;
mod signalling;
mod strategy;

use core::fmt;
use core::time::Duration;
use std::net::SocketAddr;

use bytes::Bytes;

use crate::address::PeerAddress;
use crate::call::{ConnectId, Refusal};
use crate::config::{Config, ConfigError, Plan, TurnAuth};
use crate::cx::Cx;
use crate::identity::{NodeId, NodeIdError};
use crate::io::{CloseHow, Input, Output, SockId};
use crate::login::{Login, ServerRef};
use crate::meeting::{Code, MeetingError, MeetingId};
use crate::name::{Name, NameError, NamePin};
use crate::nat::NatReport;
use crate::nat::memory::Memory;
use crate::pipe::{PipeId, ProtocolTag};
use crate::random::Domain;
use crate::relay::{MessageError, ReadOutcome};
use crate::stats::Stats;
use crate::time::Instant;
use crate::turn::{Credentials, SendError};

use admission::Admission;
use allocating::Allocations;
use call::Calls;
use logins::Logins;
use meeting::Meetings;
use naming::Names;
use network::Network;
use session::Sessions;
use signalling::Signalling;
use strategy::{Ctx, Relays, Strategies};

/// Most calls of `connect()` at a time.
pub const MAX_CONNECTS: usize = 4096;

/// Reason why [`Node::connect`] did not even begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address's last part is no node id, so that nobody could prove to be that peer.
    NodeId(NodeIdError),
    /// The plan names no strategy.
    EmptyPlan,
    /// None of the plan's strategies is built in: [`Strategy::is_built`](crate::Strategy::is_built).
    NoStrategy,
    /// Names are not built in: the core's feature `names` is off.
    NoNames,
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
            ConnectError::NoStrategy => f.write_str("this build has none of the plan's strategies"),
            ConnectError::NoNames => f.write_str("this build has no names"),
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
            _ => None,
        }
    }
}

/// State machine of one node. A driver delivers inputs by [`handle`](Self::handle), carries out the outputs of
/// [`poll_output`](Self::poll_output), and wakes the node at [`poll_timeout`](Self::poll_timeout).
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
    topics: Topics,
    allocations: Allocations,
    calls: Calls,
    strategies: Strategies,
}

/// Things that go on under topics of brokers beside our own.
#[derive(Default)]
struct Topics {
    names: Names,
    meetings: Meetings,
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
    /// A node that does nothing until the first [`Input::Interfaces`].
    ///
    /// All randomness comes from `seed`. It must come from the system's random source and never be used twice: the same
    /// seed and the same inputs give the same keys.
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
            admission: Admission::new(&config, (strategy::punch::MAX_DIALS, strategy::punch::DIALS_EVERY)),
            sessions: Sessions::new(&config),
            topics: Topics::default(),
            allocations: Allocations::default(),
            calls: Calls::default(),
            strategies: Strategies::default(),
            cx,
            config,
        })
    }

    /// Tells the node that something happened. Never fails and never panics, whatever the order.
    ///
    /// `now` may stand still or go back: the largest value seen counts.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        self.advance(now);
        if self.phase == Phase::Closed {
            return;
        }
        let input = self.network.inward(input);
        let owner = self.cx.owner_of(&input);
        self.dispatch(owner, input);
        self.follow_up();
    }

    /// The next thing for the driver to do. Drain it after each call of another method, or after several.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.next_output()?;
        self.cx.stats.note(&output);
        Some(self.network.outward(output))
    }

    /// Returns the time at which to deliver [`Input::Timeout`]; a time that has passed means at once. Call this after
    /// draining the outputs, arm one timer, and forget the one before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.has_work() { Some(self.cx.now) } else { self.cx.timers.first() }
    }

    /// Begins to open a pipe to a peer. It ends by [`Output::Detach`] or [`Event::Failed`](crate::Event::Failed), with this id, at
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
        check_plan(&plan)?;
        if self.calls.len() >= MAX_CONNECTS {
            return Err(ConnectError::TooMany);
        }
        let id = self.calls.fresh_id();
        self.with_calls(|calls, all, ctx| calls.begin(all, ctx, id, peer, to, plan));
        self.follow_up();
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
    /// of finding the address, and [`FailReason::Name`](crate::FailReason::Name) says that there is none.
    ///
    /// # Errors
    /// The reasons for which nothing was begun.
    pub fn connect_name(&mut self, now: Instant, name: Name, plan: Plan) -> Result<ConnectId, ConnectError> {
        self.advance(now);
        check_plan(&plan)?;
        if cfg!(not(feature = "names")) {
            return Err(ConnectError::NoNames);
        }
        if self.calls.len() + self.topics.names.calls() >= MAX_CONNECTS {
            return Err(ConnectError::TooMany);
        }
        if self.is_shut() {
            return Err(ConnectError::Shutdown);
        }
        if !self.topics.names.has_room(name) {
            return Err(ConnectError::TooMany);
        }
        let id = self.calls.fresh_id();
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
        self.topics.names.pin(pin);
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
        self.follow_up();
        Ok(())
    }

    /// Begins a meeting: as the guest with a code, or as the host, which draws one and tells it by
    /// [`MeetingNews::Code`](crate::MeetingNews::Code) about a second after a broker is there. The programs of both sides name
    /// the same `purpose`. It ends by [`MeetingNews::Done`](crate::MeetingNews::Done),
    /// [`MeetingNews::Unconfirmed`](crate::MeetingNews::Unconfirmed) or [`MeetingNews::Failed`](crate::MeetingNews::Failed),
    /// with this id, a minute after `within` at the latest. `within` is at most an hour.
    ///
    /// # Errors
    /// `TooMany` where [`MAX_MEETINGS`](crate::MAX_MEETINGS) are running, `NoBroker` where none is configured, `Shutdown`.
    pub fn meet(
        &mut self,
        now: Instant,
        code: Option<Code>,
        purpose: ProtocolTag,
        within: Duration,
    ) -> Result<MeetingId, MeetingError> {
        self.advance(now);
        if self.is_shut() {
            return Err(MeetingError::Shutdown);
        }
        let id = self.with_meetings(|meetings, env| meetings.begin(env, code, purpose, within))?;
        self.follow_up();
        Ok(id)
    }

    /// Ends a meeting without an outcome. One that is over is left alone.
    pub fn end_meeting(&mut self, now: Instant, meeting: MeetingId) {
        self.advance(now);
        self.with_meetings(|meetings, env| meetings.end(env, meeting));
        self.follow_up();
    }

    /// Ends a connect without an outcome. One that is over is left alone.
    pub fn cancel(&mut self, now: Instant, connect: ConnectId) {
        self.advance(now);
        self.with_calls(|calls, all, ctx| calls.cancel(all, ctx, connect));
        self.with_names(|names, env| names.cancel(env, connect));
        self.follow_up();
    }

    /// Answers [`Event::Ask`](crate::Event::Ask): whether the peer may have a pipe, now and for as long as this node runs.
    /// Without a question it is remembered all the same.
    pub fn answer(&mut self, now: Instant, peer: NodeId, accept: bool) {
        self.advance(now);
        if !self.is_shut() {
            self.answer_ask(peer, if accept { Ok(()) } else { Err(Refusal::NotAccepted) });
            self.follow_up();
        }
    }

    /// Says whether pipes that peers open from now on have to wait for their turn, which they are told:
    /// [`Stage::PeerBusy`](crate::Stage::PeerBusy). It refuses nobody.
    pub fn set_busy(&mut self, now: Instant, busy: bool) {
        self.advance(now);
        self.sessions.set_busy(busy);
        self.follow_up();
    }

    /// Asks TURN servers for a relayed address. [`Output::OpenAllocation`](crate::Output::OpenAllocation) or
    /// [`Event::NotAllocated`](crate::Event::NotAllocated) follows with this id; then the pipe is given up by [`pipe_close`](Self::pipe_close).
    ///
    /// # Errors
    /// The reason why no server is asked.
    pub fn allocate(&mut self, now: Instant, wish: &Allocate) -> Result<PipeId, AllocateError> {
        self.advance(now);
        if self.is_shut() {
            return Err(AllocateError::Shutdown);
        }
        let mut env = allocating::Env { cx: &mut self.cx, network: &self.network, logins: &mut self.logins };
        let id = self.allocations.open(&mut env, &self.config, wish)?;
        self.follow_up();
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

    /// Appends as many bytes to a relayed pipe as there is room for, at most 64 KiB. Returns their number. After 0,
    /// [`PipeNews::Writable`](crate::PipeNews::Writable) says when there is room again; a pipe that is over takes none for ever.
    pub fn pipe_write(&mut self, now: Instant, pipe: PipeId, data: &[u8]) -> usize {
        self.with_pipes(now, |all, ctx| all.write(ctx, pipe, data))
    }

    /// Takes bytes of a relayed pipe in order, at most 64 KiB.
    pub fn pipe_read(&mut self, now: Instant, pipe: PipeId, out: &mut [u8]) -> ReadOutcome {
        self.with_pipes(now, |all, ctx| all.read(ctx, pipe, out))
    }

    /// Ends our direction of a relayed pipe; the peer's goes on. [`PipeNews::Delivered`](crate::PipeNews::Delivered) says when all has arrived.
    pub fn pipe_finish(&mut self, now: Instant, pipe: PipeId) {
        self.with_pipes(now, |all, ctx| all.finish_pipe(ctx, pipe));
    }

    /// Sends a message apart from the pipe's bytes. The peer gets it once, in no order with others or with the pipe's
    /// bytes, and though nobody reads those. At most [`MAX_MESSAGE`](crate::relay::MAX_MESSAGE) bytes.
    ///
    /// # Errors
    /// As [`MessageError`] says; the message is not sent then.
    pub fn pipe_send_message(
        &mut self,
        now: Instant,
        pipe: PipeId,
        message: Bytes,
    ) -> Result<(), MessageError> {
        self.with_pipes(now, |all, ctx| all.send_message(ctx, pipe, message))
    }

    /// Reads a message that came apart from the pipe's bytes. At most [`MAX_MESSAGES`](crate::relay::MAX_MESSAGES) wait
    /// here; then the peer waits.
    pub fn pipe_read_message(&mut self, now: Instant, pipe: PipeId) -> Option<Bytes> {
        self.with_pipes(now, |all, ctx| all.read_message(ctx, pipe))
    }

    /// Gives a relayed pipe up, with its relayed address, and says no more about it. After
    /// [`pipe_finish`](Self::pipe_finish) all that was written arrives still, messages too; otherwise the peer sees the
    /// pipe cut off. Every pipe is to be closed so, those that have ended too.
    pub fn pipe_close(&mut self, now: Instant, pipe: PipeId) {
        self.advance(now);
        if self.allocations.has(pipe) {
            return self.with_allocations(|all, env| all.close(env, pipe));
        }
        self.with_pipes(now, |all, ctx| all.close_pipe(ctx, pipe));
    }

    /// Returns true if closed pipes have bytes that have not arrived yet, or a peer that may not know of its end.
    pub fn has_leaving_pipes(&self) -> bool {
        self.strategies.relay.has_leaving()
    }

    /// Sends a peer an ECHO by every broker that is ready and that both share; returns how many they are.
    /// [`Event::Pong`](crate::Event::Pong) tells of the first answer, with this `number`. A peer answers nodes that it
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
        self.follow_up();
        Ok(brokers)
    }

    /// Answers [`Event::LoginWanted`](crate::Event::LoginWanted): the login that a server takes from now on. It may come unasked, before the old
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
                self.with_calls(|_, all, ctx| {
                    all.relay.renew(ctx, place, fresh.as_ref());
                    all.punch.renew(ctx, place, fresh.as_ref());
                });
                self.with_allocations(|all, env| all.renew(env, place, fresh.as_ref()));
            }
        }
        self.follow_up();
    }

    /// Ends everything: connects fail with [`FailReason::Shutdown`](crate::FailReason::Shutdown), brokers are told, sockets closed. The outputs
    /// that follow end with [`Event::Closed`](crate::Event::Closed), after up to 2 s where a router has a port of ours open. Pipes that
    /// were handed out live on, but for relayed ones, which end with their node.
    pub fn shutdown(&mut self, now: Instant) {
        self.advance(now);
        if self.is_shut() {
            return;
        }
        self.with_calls(|calls, all, ctx| calls.shut(all, ctx));
        self.with_names(|names, env| names.shut(env));
        self.with_meetings(|meetings, env| meetings.shut(env));
        self.signalling.shutdown(&mut self.cx);
        self.network.stop(&mut self.cx);
        self.with_calls(|_, all, ctx| all.shut(ctx));
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
        self.admission.ask_no_more();
        self.phase = Phase::Closing;
        self.close();
    }

    /// The node's id.
    pub fn node_id(&self) -> NodeId {
        self.config.identity.node_id()
    }

    /// The address as known now; what to hand out is what [`Event::Ready`](crate::Event::Ready) said last.
    pub fn address(&self) -> PeerAddress {
        self.network.address(self.signalling.announced(), self.node_id())
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

    /// Does something with the relayed pipes of users.
    fn with_pipes<T>(&mut self, now: Instant, act: impl FnOnce(&mut Relays, &mut Ctx<'_>) -> T) -> T {
        self.advance(now);
        self.with_calls(|_, all, ctx| act(&mut all.relay, ctx))
    }

    fn is_shut(&self) -> bool {
        matches!(self.phase, Phase::Closing | Phase::Closed)
    }
}

fn check_plan(plan: &Plan) -> Result<(), ConnectError> {
    match &plan.strategies {
        none if none.is_empty() => Err(ConnectError::EmptyPlan),
        some if some.iter().any(|s| s.is_built()) => Ok(()),
        _ => Err(ConnectError::NoStrategy),
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("id", &self.node_id())
            .field("phase", &self.phase)
            .field("connects", &self.calls.len())
            .field("streams", &self.sessions.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::signalling::LIFETIME;
    use super::*;
    use crate::identity::SecretKey;
    use crate::io::{Input, Interface, Output};
    use crate::pipe::Terms;
    use crate::session::SessionId;
    use crate::signal::message::{Body, Message, MessageId};
    use crate::time::{Instant, WallTime};

    fn key(n: u8) -> SecretKey {
        SecretKey::from_bytes([n; 32])
    }

    fn node() -> Node {
        let mut node = Node::new(Config::new(key(1)), [1; 32], Instant::ZERO).unwrap();
        let ip = [203, 0, 113, 1].into();
        let interface = Interface { default_route: true, ..Interface::new(2, ip, 32) };
        node.handle(Instant::ZERO, Input::Interfaces(&[interface]));
        node
    }

    /// Tells it a request with node `address`'s address, from node 2; how many dials follow.
    fn request(node: &mut Node, id: u8, session: u8, address: u8) -> usize {
        let address = format!("1-[0,198.51.100.7,198.51.100.7,80,1,1,0]-0-{}", key(address).node_id());
        let address = Box::new(address.parse().unwrap());
        let message = Message {
            id: MessageId([id; 16]),
            sent: WallTime::from_micros(0),
            lifetime: LIFETIME,
            session: SessionId([session; 16]),
            body: Body::Direct { terms: Terms::ENCRYPTED, address },
        };
        node.authentic_message(key(2).node_id(), message, None);
        core::iter::from_fn(|| node.poll_output()).filter(|a| matches!(a, Output::Connect { .. })).count()
    }

    #[test]
    fn nobody_has_us_dial_another_nodes_address() {
        let mut node = node();
        assert_eq!(request(&mut node, 1, 1, 3), 0);
        assert_eq!(node.stats().bad_messages, 1);
        assert_eq!(request(&mut node, 2, 2, 2), 1);
    }

    #[test]
    fn two_messages_about_one_session_are_one_visit() {
        let mut node = node();
        node.admission.approve(key(2).node_id());
        assert_eq!(request(&mut node, 1, 1, 2), 1);
        assert_eq!(request(&mut node, 2, 1, 2), 0);
        assert_eq!(request(&mut node, 3, 2, 2), 1, "another session");
    }

    /// Each of so many would need a frame of the stack if it were told from within the one before.
    #[test]
    fn the_news_of_many_streams_is_told_one_after_the_other() {
        let mut node = node();
        for _ in 0..200_000 {
            let ip = [198, 51, 100, 7].into();
            node.sessions.tell(super::session::SessionEvent::Met { peer: key(2).node_id(), ip });
        }
        node.handle(Instant::ZERO, Input::Timeout);
        assert!(node.sessions.poll_event().is_none());
    }
}
