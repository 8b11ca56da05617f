//! Work that all drivers share: the engine carries out the core's outputs on sockets and hands inputs to the core. A
//! driver adds the watching of sockets by its event loop ([`Reactor`]), and the waiting of its users.
//!
//! The reasons: ADR 3 in docs/src/adr.

mod allocated;
mod datagrams;
mod handed;
#[cfg(feature = "measure")]
mod measure;
mod messages;
mod network;
mod reactor;
mod relayed;
mod tcp;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use p2pd_core::io::Interface;
use p2pd_core::trace::{Recorder, Sink};
use p2pd_core::{
    AllocateError, Code, Config, ConnectId, Event, Input, Instant, IoFailure, Login, MeetingError, MeetingId,
    Name, NameError, NamePin, Node, NodeId, Output, PeerAddress, PipeId, Plan, ProtocolTag, QueryId,
    ServerRef, SockId, Target,
};
use smallvec::SmallVec;

use crate::error::{BindError, ConnectError};
use crate::pipe::{DatagramLayer, Start};
use crate::sleep::{self, Jump, Watch};
use crate::wrap::{Layers, Settings};
use crate::{Clock, descriptors, failure, processor, socket, wall_clock};

use allocated::Allocated;
use datagrams::{Row, Udp};
use handed::Handed;
#[cfg(feature = "measure")]
pub use measure::Lateness;
use network::{NETWORK, Network};
pub use reactor::Reactor;
use relayed::Bridge;
use tcp::{State, Tcp};

/// Streams accepted on one socket before others have their turn.
const BUDGET: usize = 64;
/// The wall clock is read again after this long, when the node is awake anyway.
const CLOCK_AGAIN: Duration = Duration::from_secs(60);
/// Time between two comparisons of the clocks, which detect sleep of the machine: timers of event loops stand still
/// meanwhile.
const COMPARE_CLOCKS: Duration = Duration::from_secs(5);
/// Streams that are being closed may take this long when the node ends.
const END_WITHIN: Duration = Duration::from_secs(1);
/// Time until the next try after an error of `accept`: it may work then, but not at once, out of descriptors for
/// example.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
/// Time before a dial in which the engine spins.
const SPIN: Duration = Duration::from_micros(50);

/// News for a driver's user.
#[derive(Debug)]
// Exhaustive: a driver has to pass each on.
pub enum News<S> {
    /// Event of the core.
    Event(Event),
    /// A peer opened a pipe to this node.
    Incoming(S, Box<Start>),
    /// A call has its pipe.
    Opened(ConnectId, S, Box<Start>),
    /// A call has none.
    NotOpened(ConnectId, ConnectError),
    /// An allocation is the user's: the socket of its datagrams, which does not block, and their layer.
    Allocated(PipeId, TcpStream, Box<DatagramLayer>),
    /// An allocation came to nothing.
    NotAllocated(PipeId, AllocateError),
}

/// State of the node's address.
#[derive(Clone, Debug)]
// Exhaustive: a driver has to know each.
pub enum Address {
    /// The address is not known yet.
    Opening,
    /// A listener could not be opened.
    ListenFailed(SocketAddr, IoFailure),
    /// The listeners are open; addresses outside and brokers are not known yet.
    Listening(PeerAddress),
    /// The address can be handed out.
    Ready(PeerAddress),
}

impl Address {
    /// The address, whether ready or not.
    pub fn known(&self) -> Option<&PeerAddress> {
        match self {
            Address::Ready(address) | Address::Listening(address) => Some(address),
            Address::Opening | Address::ListenFailed(..) => None,
        }
    }

    /// The address of a node that ended before it knew more than its name.
    pub fn nameless(node: NodeId) -> PeerAddress {
        PeerAddress::new(&[], &[], node.to_node_text()).unwrap_or_else(|_| unreachable!())
    }
}

#[derive(Debug)]
enum Sock<R: Reactor> {
    /// The socket failed at once. The core is told when the socket's turn comes.
    Failed(IoFailure),
    Udp(Udp<R::Udp>),
    Listener {
        listener: R::Listener,
        nodelay: bool,
        /// Streams that may be accepted.
        credit: u32,
    },
    Tcp(Box<Tcp<R::Stream>>),
    /// Engine's end of a duct or a socket pair. The other end is the user's, of a relayed pipe.
    Relayed(Box<Bridge<R::Stream>>),
    /// Socket for the messages of this relayed pipe.
    Messages(SockId),
    /// Engine's end of a socket pair. The other end is the user's, of an allocation.
    Allocated(Box<Allocated<R::Stream>>),
}

/// Step to be done before the next wait.
#[derive(Debug)]
enum Step {
    Bound(SockId, SocketAddr),
    Failed(SockId),
    Resolved(QueryId, Result<SmallVec<[IpAddr; 2]>, IoFailure>),
    /// The socket may be able to go on.
    Work(SockId),
}

/// A node on the sockets of an event loop.
///
/// After any call, [`take_news`](Self::take_news) until there are none; then wait until a socket is ready
/// or the [`deadline`](Self::deadline) has come, and say which.
pub struct Engine<R: Reactor> {
    core: Recorder,
    clock: Clock,
    reactor: R,
    network: Network<R>,
    socks: HashMap<SockId, Sock<R>>,
    /// Look-ups, with the time at which each is given up.
    queries: HashMap<QueryId, Instant>,
    /// The sockets of relayed pipes and allocations.
    bridges: HashMap<PipeId, SockId>,
    steps: VecDeque<Step>,
    /// Sockets whose turn was over before they were empty.
    again: Vec<SockId>,
    /// Datagrams that are sent before anything is waited for.
    row: Row,
    /// Times at which dials are to be connected.
    fires: BTreeSet<(Instant, SockId)>,
    /// Times at which sockets are to be looked at although nothing happened on them.
    timers: BTreeSet<(Instant, SockId)>,
    news: VecDeque<News<R::Stream>>,
    #[cfg(feature = "tracing")]
    log: crate::log::Log,
    address: Address,
    accepted: u64,
    /// Pipes that were handed out.
    handed: Handed,
    buffer: Vec<u8>,
    tls: Settings,
    clock_read: Instant,
    /// The clocks compared, and when next; not for a node on loopback, which sleep takes nothing from.
    watch: Option<(Watch, Instant)>,
    /// Set once the core is closed: when to give up the streams that are still ending.
    closed: Option<Instant>,
    /// Time at which the node ends at the latest. It ends before once relayed pipes have sent the rest.
    ending: Option<Instant>,
    /// Takes how late each dial is, where a test wants to know.
    lateness: Option<Arc<Mutex<Vec<Duration>>>>,
}

impl<R: Reactor> Engine<R> {
    /// Brings a node up; when this returns it listens.
    ///
    /// # Errors
    /// An error of the configuration, or of a listener that could not be opened.
    pub fn new(
        mut config: Config,
        trace: Option<Sink>,
        interfaces: &[Interface],
        mut reactor: R,
    ) -> Result<Self, BindError> {
        let seed = crate::random_seed().map_err(BindError::Random)?;
        let clock = Clock::start();
        let now = clock.now();
        let (bind, liveness, wanted) = (config.bind, config.liveness, config.interfaces.clone());
        config.max_pipes.get_or_insert_with(descriptors::most_pipes);
        config.aes.get_or_insert_with(processor::has_aes);
        let core = Recorder::new(config, seed, now, trace).map_err(BindError::Config)?;
        let network = Network::new(&mut reactor, bind, wanted, interfaces, now);
        let mut engine = Engine {
            core,
            clock,
            reactor,
            network,
            socks: HashMap::new(),
            queries: HashMap::new(),
            bridges: HashMap::new(),
            // Some loops tell only of what comes after they were asked.
            steps: VecDeque::from([Step::Work(NETWORK)]),
            again: Vec::new(),
            row: Row::default(),
            fires: BTreeSet::new(),
            timers: BTreeSet::new(),
            news: VecDeque::new(),
            #[cfg(feature = "tracing")]
            log: Default::default(),
            address: Address::Opening,
            accepted: 0,
            handed: Handed::new(liveness),
            buffer: Vec::new(),
            tls: Settings::default(),
            clock_read: now,
            watch: bind
                .is_none_or(|ip| !ip.is_loopback())
                .then(|| (Watch::new(sleep::read()), now + COMPARE_CLOCKS)),
            closed: None,
            ending: None,
            lateness: None,
        };
        engine.core.handle(now, Input::Clock(wall_clock(now)));
        engine.core.handle(now, Input::Interfaces(interfaces));
        engine.settle();
        match engine.address {
            Address::ListenFailed(local, why) => Err(BindError::Listen(local, why)),
            _ => Ok(engine),
        }
    }

    /// The event loop.
    pub fn reactor(&self) -> &R {
        &self.reactor
    }

    /// The event loop.
    pub fn reactor_mut(&mut self) -> &mut R {
        &mut self.reactor
    }

    /// The node, to look at.
    pub fn node(&self) -> &Node {
        &self.core
    }

    /// Returns the state of the node's address.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Begins to open a pipe, as [`Node::connect`] does.
    ///
    /// # Errors
    /// The reason why nothing was begun.
    pub fn connect(&mut self, to: &PeerAddress, plan: Plan) -> Result<ConnectId, p2pd_core::ConnectError> {
        let id = self.core.connect(self.clock.now(), to, plan);
        self.begun(id)
    }

    /// Begins to open a pipe to an address or a name, as [`Node::connect`] and [`Node::connect_name`] do.
    ///
    /// # Errors
    /// The reason why nothing was begun.
    pub fn connect_to(&mut self, to: &Target, plan: Plan) -> Result<ConnectId, p2pd_core::ConnectError> {
        let name = match to {
            Target::Address(address) => return self.connect(address, plan),
            Target::Name(name) => *name,
        };
        let id = self.core.connect_name(self.clock.now(), name, plan);
        self.begun(id)
    }

    fn begun(
        &mut self,
        id: Result<ConnectId, p2pd_core::ConnectError>,
    ) -> Result<ConnectId, p2pd_core::ConnectError> {
        #[cfg(feature = "tracing")]
        if let Ok(id) = id {
            self.log.begun(id);
        }
        self.settle();
        id
    }

    /// Sends a peer an ECHO by its brokers, as [`Node::ping`].
    ///
    /// # Errors
    /// As there.
    pub fn ping(&mut self, to: &PeerAddress, number: u32) -> Result<u8, p2pd_core::ConnectError> {
        let sent = self.core.ping(self.clock.now(), to, number);
        self.settle();
        sent
    }

    /// Asks where a name leads, as [`Node::resolve`].
    ///
    /// # Errors
    /// As there.
    pub fn resolve(&mut self, name: Name) -> Result<(), NameError> {
        let asked = self.core.resolve(self.clock.now(), name);
        self.settle();
        asked
    }

    /// Takes a name, as [`Node::register`].
    ///
    /// # Errors
    /// As there.
    pub fn register(&mut self, name: Name) -> Result<(), NameError> {
        let asked = self.core.register(self.clock.now(), name);
        self.settle();
        asked
    }

    /// Gives a name up, as [`Node::release`].
    ///
    /// # Errors
    /// As there.
    pub fn release(&mut self, name: Name) -> Result<(), NameError> {
        let asked = self.core.release(self.clock.now(), name);
        self.settle();
        asked
    }

    /// Tells which key a name had in an earlier run, as [`Node::pin_name`].
    pub fn pin_name(&mut self, pin: NamePin) {
        self.core.pin_name(self.clock.now(), pin);
        self.settle();
    }

    /// Begins a meeting, as [`Node::meet`].
    ///
    /// # Errors
    /// As there.
    pub fn meet(
        &mut self,
        code: Option<Code>,
        purpose: ProtocolTag,
        within: Duration,
    ) -> Result<MeetingId, MeetingError> {
        let begun = self.core.meet(self.clock.now(), code, purpose, within);
        self.settle();
        begun
    }

    /// Ends a meeting, as [`Node::end_meeting`].
    pub fn end_meeting(&mut self, meeting: MeetingId) {
        self.core.end_meeting(self.clock.now(), meeting);
        self.settle();
    }

    /// Ends a call without an outcome.
    pub fn cancel(&mut self, connect: ConnectId) {
        self.core.cancel(self.clock.now(), connect);
        #[cfg(feature = "tracing")]
        self.log.cancelled(connect);
        self.settle();
    }

    /// Answers [`Event::Ask`].
    pub fn answer(&mut self, peer: NodeId, accept: bool) {
        self.core.answer(self.clock.now(), peer, accept);
        self.settle();
    }

    /// Gives the login that a server takes from now on, or says that there is none to be had.
    pub fn renew_login(&mut self, server: ServerRef, login: Option<Login>) {
        self.core.renew_login(self.clock.now(), server, login);
        self.settle();
    }

    /// Says whether pipes that peers open from now on have to wait for their turn, which they are told.
    pub fn set_busy(&mut self, busy: bool) {
        self.core.set_busy(self.clock.now(), busy);
        self.settle();
    }

    /// Ends the node: go on until it [`is_over`](Self::is_over). Relayed pipes end with it. Where users have ended
    /// their direction, written data still arrives, within 10 s.
    pub fn shutdown(&mut self) {
        if self.ending.is_none() && self.closed.is_none() {
            self.end_relayed();
        }
        self.settle();
    }

    /// Returns true if the node and all of its streams have ended, or their time has passed.
    pub fn is_over(&self) -> bool {
        self.closed.is_some_and(|until| self.socks.is_empty() || self.clock.until(until).is_zero())
    }

    /// A socket can perhaps be read or written.
    pub fn ready(&mut self, sock: SockId) {
        if sock == NETWORK {
            return self.hear_of_network();
        }
        if let Some(Sock::Tcp(tcp)) = self.socks.get_mut(&sock) {
            tcp.readable = true;
        }
        self.steps.push_back(Step::Work(sock));
        self.settle();
    }

    /// A look-up has ended.
    pub fn resolved(&mut self, query: QueryId, result: Result<SmallVec<[IpAddr; 2]>, IoFailure>) {
        self.steps.push_back(Step::Resolved(query, result));
        self.settle();
    }

    /// Returns the time of the next [`tick`](Self::tick), if nothing happens before.
    pub fn deadline(&self) -> Option<Instant> {
        if !self.again.is_empty() || !self.news.is_empty() {
            return Some(self.clock.now());
        }
        let fire = self.fires.first().map(|(at, _)| *at - R::EARLY);
        let timer = self.timers.first().map(|(at, _)| *at);
        let lookup = self.queries.values().min().copied();
        let network = self.network.deadline();
        let watch = self.watch.filter(|_| self.closed.is_none()).map(|(_, at)| at);
        let handed = self.handed.deadline();
        [self.core.poll_timeout(), fire, timer, lookup, network, watch, handed, self.closed, self.ending]
            .into_iter()
            .flatten()
            .min()
    }

    /// Returns the time left until [`deadline`](Self::deadline); zero if it has passed.
    pub fn timeout(&self) -> Option<Duration> {
        self.deadline().map(|at| self.clock.until(at))
    }

    /// Returns true if a dial is so near that a timer would be too late for it. Call [`tick`](Self::tick) again and
    /// again then, and only give way to others meanwhile.
    pub fn is_firing(&self) -> bool {
        self.fires.first().is_some_and(|(at, _)| self.clock.until(*at) <= R::EARLY)
    }

    /// Waits for the next dial, if it [`is_firing`](Self::is_firing): asleep as long as that is safe.
    pub fn wait_to_fire(&self) {
        /// Lateness of the system's own sleep, at the median 56 us (measured), and a little more.
        const SLEEP: Duration = Duration::from_micros(200);
        if let Some((at, _)) = self.fires.first().filter(|_| self.is_firing()) {
            std::thread::sleep(self.clock.until(*at).saturating_sub(SLEEP));
            spin_until(self.clock, *at);
        }
    }

    /// Does all work that is due.
    pub fn tick(&mut self) {
        while let Some(&(at, sock)) = self.fires.first()
            && self.clock.until(at) <= SPIN
        {
            self.fires.pop_first();
            spin_until(self.clock, at);
            self.fire(sock, at);
        }
        self.steps.extend(std::mem::take(&mut self.again).into_iter().map(Step::Work));
        let now = self.clock.now();
        self.compare_clocks(now);
        self.handed.look(now);
        if let Some(interfaces) = self.network.changed(now) {
            self.core.handle(now, Input::Interfaces(interfaces));
        }
        while let Some(&(at, sock)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            self.expire(sock);
        }
        for (query, _) in self.queries.iter().filter(|(_, until)| **until <= now) {
            self.steps.push_back(Step::Resolved(*query, Err(IoFailure::TimedOut)));
            self.reactor.cancel(*query);
        }
        if self.core.poll_timeout().is_some_and(|at| at <= now) {
            self.core.handle(now, Input::Timeout);
        }
        self.settle();
    }

    /// Tells the core if the machine slept or its wall clock was set.
    fn compare_clocks(&mut self, now: Instant) {
        let Some((watch, due)) = self.watch.as_mut().filter(|(_, due)| *due <= now) else { return };
        *due = now + COMPARE_CLOCKS;
        let Some(jump) = watch.look(sleep::read()) else { return };
        self.clock_read = now;
        self.core.handle(now, Input::Clock(wall_clock(now)));
        if jump == Jump::Slept {
            self.core.handle(now, Input::Woke);
        }
    }

    /// The next thing for the user.
    pub fn take_news(&mut self) -> Option<News<R::Stream>> {
        let news = self.news.pop_front();
        #[cfg(feature = "tracing")]
        if let Some(news) = &news {
            self.log.news(news);
        }
        news
    }

    /// Carries out the core's outputs and their consequences, until nothing is left to do but wait.
    fn settle(&mut self) {
        for sock in self.handed.released() {
            self.core.handle(self.clock.now(), Input::Released { sock });
        }
        loop {
            while let Some(output) = self.core.poll_output() {
                self.act(output);
            }
            self.send_row();
            if self.ending.is_some() {
                self.end_core();
                if self.ending.is_none() {
                    continue;
                }
            }
            let Some(step) = self.steps.pop_front() else { return };
            let now = self.clock.now();
            if now.since(self.clock_read) > CLOCK_AGAIN {
                self.clock_read = now;
                self.core.handle(now, Input::Clock(wall_clock(now)));
            }
            match step {
                Step::Bound(sock, local) if self.socks.contains_key(&sock) => {
                    self.core.handle(now, Input::Bound { sock, local });
                }
                Step::Failed(sock) => {
                    if let Some(Sock::Failed(cause)) = self.socks.get(&sock) {
                        let cause = *cause;
                        self.fail(sock, cause);
                    }
                }
                Step::Resolved(query, result) if self.queries.remove(&query).is_some() => {
                    self.core.handle(now, Input::Resolved { query, result });
                }
                Step::Work(sock) => match self.socks.get(&sock) {
                    Some(Sock::Tcp(_)) => self.work(now, sock),
                    Some(Sock::Udp(_)) => self.receive(now, sock),
                    Some(Sock::Listener { .. }) => self.accept(now, sock),
                    Some(Sock::Relayed(_)) => self.work_relayed(now, sock),
                    Some(Sock::Messages(bridge)) => {
                        let bridge = *bridge;
                        self.work_relayed(now, bridge);
                    }
                    Some(Sock::Allocated(_)) => self.work_allocated(now, sock),
                    None if sock == NETWORK => self.hear_of_network(),
                    Some(Sock::Failed(_)) | None => {}
                },
                Step::Bound(..) | Step::Resolved(..) => {}
            }
        }
    }

    fn act(&mut self, output: Output) {
        match output {
            Output::BindUdp { sock, local, remote, opts } => {
                let bound = socket::udp(local, &opts).and_then(|udp| {
                    let local = udp.local_addr()?;
                    if let Some(interface) = self.network.way_out(local.ip()) {
                        // Where it is not allowed the routes decide.
                        let _ = socket::leave_by(&udp, local, interface);
                    }
                    let hears = remote.is_some_and(|remote| socket::hears_refusals(&udp, remote));
                    Ok((Sock::Udp(Udp::new::<R>(self.reactor.udp(sock, udp)?, hears)?), local))
                });
                self.opened(sock, bound);
            }
            Output::Listen { sock, local, backlog, opts } => {
                let opened = match self.network.way_out(local.ip()) {
                    Some(interface) => socket::listener_beside(local, backlog, &opts, interface),
                    None => socket::listener(local, backlog, &opts),
                };
                let bound = opened.and_then(|listener| {
                    let local = listener.local_addr()?;
                    let listener = self.reactor.listener(sock, listener)?;
                    Ok((Sock::Listener { listener, nodelay: opts.nodelay, credit: 0 }, local))
                });
                self.opened(sock, bound);
            }
            Output::Connect { sock, local, remote, opts, at, deadline, wrap } => {
                let layers = wrap.map(|wrap| Layers::new(&wrap, &mut self.tls).map(Box::new));
                match (socket::dialler(local, &opts), layers.transpose()) {
                    (Ok(socket), Ok(layers)) => {
                        if let Some(interface) = self.network.way_out(local.ip()) {
                            let _ = socket::leave_by(&socket, local, interface);
                        }
                        self.fires.insert((at, sock));
                        self.socks.insert(sock, Sock::Tcp(Tcp::armed(socket, remote, at, deadline, layers)));
                    }
                    (Err(e), _) => self.failed_at_once(sock, failure(&e)),
                    (_, Err(cause)) => self.failed_at_once(sock, cause),
                }
            }
            Output::Accept { sock, credit } => {
                if let Some(Sock::Listener { credit: left, .. }) = self.socks.get_mut(&sock) {
                    *left = left.saturating_add(credit);
                    self.steps.push_back(Step::Work(sock));
                }
            }
            Output::SendDatagram { sock, to, data } => self.send_datagram(sock, to, &data),
            Output::SendStream { sock, data } => {
                if let Some(Sock::Tcp(tcp)) = self.socks.get_mut(&sock) {
                    tcp.out.push_back(data);
                    self.steps.push_back(Step::Work(sock));
                }
            }
            Output::Read { sock, credit } => {
                if let Some(Sock::Tcp(tcp)) = self.socks.get_mut(&sock) {
                    tcp.credit += credit as usize;
                    self.steps.push_back(Step::Work(sock));
                }
            }
            Output::Close { sock, how } => {
                self.send_row();
                self.close(sock, how);
            }
            Output::Detach { sock, pipe } => self.detach(sock, pipe),
            Output::EndPipe { sock, why } => self.end_pipe(sock, why),
            Output::Resolve { query, host, deadline } => {
                self.queries.insert(query, deadline);
                match host.parse::<IpAddr>() {
                    Ok(ip) => self.steps.push_back(Step::Resolved(query, Ok(SmallVec::from_slice(&[ip])))),
                    Err(_) => self.reactor.resolve(query, host),
                }
            }
            Output::Cancel { query } => {
                self.queries.remove(&query);
                self.reactor.cancel(query);
            }
            Output::Event(event) => self.notify(event),
            Output::OpenRelayed { pipe, start } => self.open_relayed(pipe, *start),
            Output::OpenAllocation { pipe, relayed, other } => self.open_allocation(pipe, (relayed, other)),
            Output::Pipe { pipe, news } => self.pipe_news(pipe, news),
            // The vocabulary may grow; what is not known here is not asked of this version.
            _ => {}
        }
    }

    fn opened(&mut self, sock: SockId, bound: io::Result<(Sock<R>, SocketAddr)>) {
        match bound {
            Ok((open, local)) => {
                self.socks.insert(sock, open);
                self.steps.push_back(Step::Bound(sock, local));
                // As above.
                self.steps.push_back(Step::Work(sock));
            }
            Err(e) => self.failed_at_once(sock, failure(&e)),
        }
    }

    fn failed_at_once(&mut self, sock: SockId, cause: IoFailure) {
        self.socks.insert(sock, Sock::Failed(cause));
        self.steps.push_back(Step::Failed(sock));
    }

    /// Takes a socket out of the books.
    fn remove(&mut self, sock: SockId) -> Option<Sock<R>> {
        let removed = self.socks.remove(&sock)?;
        if let Sock::Tcp(tcp) = &removed {
            match &tcp.state {
                State::Armed { at, .. } => self.fires.remove(&(*at, sock)),
                State::Connecting { until, .. }
                | State::Shaking { until, .. }
                | State::Ending { until, .. } => self.timers.remove(&(*until, sock)),
                State::Open(_) | State::Leaving(..) => false,
            };
        }
        if let Sock::Relayed(bridge) = &removed
            && let Some(at) = bridge.look
        {
            self.timers.remove(&(at, sock));
        }
        self.reactor.forget(sock);
        Some(removed)
    }

    fn fail(&mut self, sock: SockId, cause: IoFailure) {
        self.remove(sock);
        self.core.handle(self.clock.now(), Input::Failed { sock, cause });
    }

    fn accept(&mut self, now: Instant, listener_id: SockId) {
        for _ in 0..BUDGET {
            let Some(Sock::Listener { listener, nodelay, credit }) = self.socks.get_mut(&listener_id) else {
                return;
            };
            // The others wait in the system's queue; credit brings us back.
            let Some(left) = credit.checked_sub(1) else { return };
            let sock = SockId::accepted(self.accepted);
            match self.reactor.accept(listener, sock) {
                Ok((stream, remote)) => {
                    self.accepted += 1;
                    *credit = left;
                    let socket = R::socket(&stream);
                    let _ = socket.set_tcp_nodelay(*nodelay);
                    let local = socket.local_addr().ok().and_then(|a| a.as_socket());
                    let Some(local) = local else {
                        self.reactor.forget(sock);
                        continue;
                    };
                    self.socks.insert(sock, Sock::Tcp(Tcp::open(stream)));
                    self.core.handle(now, Input::Accepted { listener: listener_id, sock, local, remote });
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.timers.insert((now + ACCEPT_AGAIN, listener_id));
                    return;
                }
            }
        }
        self.again.push(listener_id);
    }

    fn hear_of_network(&mut self) {
        if self.network.hear(&mut self.reactor, self.clock.now()) {
            self.again.push(NETWORK);
        }
    }

    fn notify(&mut self, event: Event) {
        match &event {
            Event::Listening { address } if matches!(self.address, Address::Opening) => {
                self.address = Address::Listening(*address.clone());
            }
            // A listener that fails at the start is the last word: whoever binds reports it and gives the node up.
            Event::Ready { address } if !matches!(self.address, Address::ListenFailed(..)) => {
                self.address = Address::Ready(*address.clone());
            }
            Event::ListenFailed { local, cause } if matches!(self.address, Address::Opening) => {
                self.address = Address::ListenFailed(*local, *cause);
            }
            Event::Failed { connect, reason, report } => {
                let why = ConnectError::Failed(*reason, report.clone());
                self.news.push_back(News::NotOpened(*connect, why));
            }
            Event::NotAllocated { pipe, why } => {
                self.news.push_back(News::NotAllocated(*pipe, AllocateError::Failed(why.clone())));
            }
            Event::Closed => {
                self.closed = Some(self.clock.now() + END_WITHIN);
                self.network.stop(&mut self.reactor);
            }
            _ => {}
        }
        self.news.push_back(News::Event(event));
    }
}

impl<R: Reactor> fmt::Debug for Engine<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("core", &self.core)
            .field("sockets", &self.socks.len())
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

fn spin_until(clock: Clock, at: Instant) {
    while !clock.until(at).is_zero() {
        std::hint::spin_loop();
    }
}
