//! The node in the user's loop.

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use mio::Registry;
use p2pd_core::nat::NatReport;
use p2pd_core::trace::Sink;
use p2pd_core::{
    Allocate, AllocateError, Code, Config, ConnectId, Event, IoFailure, Login, MeetingError, MeetingId, Name,
    NameError, NamePin, NodeId, PeerAddress, PipeId, Plan, ProtocolTag, QueryId, ServerRef, Stats, ToTarget,
};
use p2pd_sys::{Address, BindError, ConnectError, Engine};

use crate::messages::{Allocation, RouteTable};
use crate::names::Names;
use crate::pipe::Pipe;
use crate::reactor::{Mio, Whose};

/// News of a node.
#[derive(Debug)]
#[non_exhaustive]
pub enum News {
    /// A call has its pipe, which is registered nowhere yet.
    Opened(ConnectId, Pipe),
    /// A call has none, and why.
    NotOpened(ConnectId, ConnectError),
    /// A relayed address is there: [`Pipes::add`](crate::messages::Pipes::add) makes a pipe of it.
    Allocated(PipeId, Allocation),
    /// No TURN server gave a relayed address.
    NotAllocated(PipeId, AllocateError),
    /// A peer opened a pipe to this node. It is registered nowhere yet.
    Incoming(Pipe),
    /// The address, progress of connects, state of brokers, questions.
    Event(Event),
    /// Name to look up, with [`Builder::own_names`]: give the outcome to [`Node::resolved`].
    LookUp(QueryId, Box<str>),
}

/// Settings of the driver, beside the core's configuration.
pub struct Builder {
    config: Config,
    echo: bool,
    own_names: bool,
    trace: Option<Sink>,
}

impl Builder {
    /// Turns the echo service of the P2PD documents on or off. It is for pipes that peers open: a message `ECHO ` with
    /// a payload is answered with the payload. It works while the pipe is being read, and the message is delivered to
    /// the reader as well. Default: off.
    pub fn echo(mut self, on: bool) -> Self {
        self.echo = on;
        self
    }

    /// Starts no thread for names: each comes as [`News::LookUp`], to be answered by [`Node::resolved`]. Default: off.
    pub fn own_names(mut self, on: bool) -> Self {
        self.own_names = on;
        self
    }

    /// Records the node's inputs and outputs, for [`p2pd_core::trace::replay`]: `write` gets one line at a time, in
    /// order. Default: off.
    ///
    /// A trace is a secret: it holds the configuration's private key and the node's seed, hence the keys of the
    /// pipes opened meanwhile. [`p2pd_sys::create_private`] makes a file for its owner alone.
    pub fn trace(mut self, write: impl FnMut(&str) + Send + 'static) -> Self {
        self.trace = Some(Box::new(write));
        self
    }

    /// Brings the node up, with its sockets in this registry under these tokens; when this returns it listens. Lists
    /// the interfaces, which takes about a millisecond (measured).
    ///
    /// A node has a token for each socket that is not a pipe yet, and one more. A node that opens few pipes at a time
    /// does with 64. A search for a peer behind random ports has a thousand dials under way. Dials beyond the tokens
    /// fail.
    ///
    /// # Errors
    /// An error of the configuration, or of a listener that could not be opened.
    pub fn bind(self, registry: &Registry, tokens: Range<usize>) -> Result<Node, BindError> {
        let interfaces =
            p2pd_sys::interfaces(self.config.bind, &self.config.interfaces).map_err(BindError::Interfaces)?;
        let registry = registry.try_clone().map_err(BindError::Loop)?;
        let mio = Mio::new(registry, tokens, Names::new(self.own_names));
        let engine = Engine::new(self.config, self.trace, &interfaces, mio)?;
        Ok(Node { engine, echo: self.echo })
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("config", &self.config)
            .field("echo", &self.echo)
            .field("own_names", &self.own_names)
            .field("trace", &self.trace.is_some())
            .finish()
    }
}

/// A node in a mio loop. It does something only while it is called. Pass it its events by [`handle`](Self::handle), and
/// call [`tick`](Self::tick) after each turn of the loop. Take out the news of [`poll`](Self::poll) until there are
/// none, and wait no longer than its [`timeout`](Self::timeout).
///
/// Dropping it closes its sockets; pipes live on.
#[derive(Debug)]
pub struct Node {
    engine: Engine<Mio>,
    echo: bool,
}

impl Node {
    /// Settings beside the configuration.
    pub fn builder(config: Config) -> Builder {
        Builder { config, echo: false, own_names: false, trace: None }
    }

    /// Brings a node up with the default settings.
    ///
    /// # Errors
    /// As [`Builder::bind`].
    pub fn bind(config: Config, registry: &Registry, tokens: Range<usize>) -> Result<Node, BindError> {
        Self::builder(config).bind(registry, tokens)
    }

    /// Takes an event, if its token is one of the node's; false: it is yours.
    pub fn handle(&mut self, event: &mio::event::Event) -> bool {
        match self.engine.reactor().whose(event.token()) {
            Whose::Sock(sock) => self.engine.ready(sock),
            Whose::Names => {
                while let Some((query, result)) = self.engine.reactor_mut().names.poll_answer() {
                    self.engine.resolved(query, result);
                }
            }
            Whose::Nobodys => {}
            Whose::Users => return false,
        }
        true
    }

    /// Returns the longest wait of the loop before the next [`tick`](Self::tick), for `Poll::poll`.
    pub fn timeout(&self) -> Option<Duration> {
        let asks = self.engine.reactor().names.asks();
        if asks { Some(Duration::ZERO) } else { self.engine.timeout() }
    }

    /// The time of [`timeout`](Self::timeout), for loops that have other deadlines too.
    pub fn deadline(&self) -> Option<Instant> {
        // Beyond what the clock can show is never.
        self.timeout().and_then(|within| Instant::now().checked_add(within))
    }

    /// Does what is due. Call it after each turn of the loop; it costs next to nothing when nothing is.
    ///
    /// Dials of a punch are timed, and `Poll` is too coarse for the last 1.3 ms before one. They are waited for in
    /// here, asleep but for the last 0.2 ms.
    pub fn tick(&mut self) {
        if self.timeout().is_some_and(|left| left.is_zero()) {
            self.engine.wait_to_fire();
            self.engine.tick();
        }
    }

    /// The next thing that the node has to say; `None` for nothing now.
    pub fn poll(&mut self) -> Option<News> {
        if let Some((query, host)) = self.engine.reactor_mut().names.poll_asked() {
            return Some(News::LookUp(query, host));
        }
        let echo = self.echo;
        Some(match self.engine.take_news()? {
            p2pd_sys::News::Event(event) => News::Event(event),
            p2pd_sys::News::NotOpened(connect, why) => News::NotOpened(connect, why),
            p2pd_sys::News::Allocated(id, stream, layer) => {
                News::Allocated(id, Allocation::new(stream, *layer))
            }
            p2pd_sys::News::NotAllocated(id, why) => News::NotAllocated(id, why),
            p2pd_sys::News::Opened(connect, mut stream, start) => {
                self.engine.reactor().release(&mut stream);
                News::Opened(connect, Pipe::new(stream, *start, false))
            }
            p2pd_sys::News::Incoming(mut stream, start) => {
                self.engine.reactor().release(&mut stream);
                News::Incoming(Pipe::new(stream, *start, echo))
            }
        })
    }

    /// Begins to open a pipe, to an address or a name that ends with `.peer`, by a plan. The call ends by
    /// [`News::Opened`] or [`News::NotOpened`].
    ///
    /// # Errors
    /// The reason why nothing was begun.
    pub fn connect<T: ToTarget + ?Sized>(&mut self, to: &T, plan: Plan) -> Result<ConnectId, ConnectError> {
        let to = to.to_target().map_err(ConnectError::Target)?;
        self.engine.connect_to(&to, plan).map_err(ConnectError::NotBegun)
    }

    /// Sends a peer an ECHO by every broker that is ready and that both share; returns how many they are.
    /// [`Event::Pong`] tells of the first answer, with this `number`. A peer answers nodes that it accepts; others too
    /// rarely to be relied on.
    ///
    /// # Errors
    /// The reason why nothing was sent.
    pub fn ping(&mut self, to: &PeerAddress, number: u32) -> Result<u8, ConnectError> {
        self.engine.ping(to, number).map_err(ConnectError::NotBegun)
    }

    /// Asks TURN servers for a relayed address: those of the configuration, or others that the wish names. The call ends
    /// by [`News::Allocated`] or [`News::NotAllocated`].
    ///
    /// # Errors
    /// The reason why no server is asked.
    pub fn allocate(&mut self, wish: &Allocate) -> Result<PipeId, AllocateError> {
        self.engine.allocate(wish)
    }

    /// Asks where a name leads; [`Event::Name`] tells, after 8 s at the latest.
    ///
    /// # Errors
    /// Too many names are asked for at once, or the node was shut down.
    pub fn resolve(&mut self, name: Name) -> Result<(), NameError> {
        self.engine.resolve(name)
    }

    /// Takes a name and keeps it while the node runs; [`Event::Name`] reports the outcome.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub fn register(&mut self, name: Name) -> Result<(), NameError> {
        self.engine.register(name)
    }

    /// Gives up a name that this node's key has; [`Event::Name`] reports the outcome.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub fn release(&mut self, name: Name) -> Result<(), NameError> {
        self.engine.release(name)
    }

    /// Tells which key a name had, as an [`Event::Name`] said it in an earlier run: [`p2pd_sys::PinFile`] keeps them.
    pub fn pin_name(&mut self, pin: NamePin) {
        self.engine.pin_name(pin);
    }

    /// Begins a meeting with a code, or as the host that draws one; [`Event::Meeting`] tells what becomes of it.
    ///
    /// # Errors
    /// The reason why nothing was begun.
    pub fn meet(
        &mut self,
        code: Option<Code>,
        purpose: ProtocolTag,
        within: Duration,
    ) -> Result<MeetingId, MeetingError> {
        self.engine.meet(code, purpose, within)
    }

    /// Gives a meeting up. Whom it has met still hears the rest.
    pub fn end_meeting(&mut self, meeting: MeetingId) {
        self.engine.end_meeting(meeting);
    }

    /// Gives up asking for a relayed address; nothing more is said of it, unless it waits to be taken out already.
    pub fn cancel_allocate(&mut self, pipe: PipeId) {
        self.engine.cancel_allocate(pipe);
    }

    /// Gives a call up; nothing more is said of it, unless its pipe waits to be taken out already.
    pub fn cancel(&mut self, connect: ConnectId) {
        self.engine.cancel(connect);
    }

    /// Sets whether pipes that peers open from now on have to wait for their turn. Their callers are told so, by
    /// [`Stage::PeerBusy`](p2pd_core::Stage::PeerBusy); nobody is refused. For programs that serve one pipe at a time.
    pub fn set_busy(&mut self, busy: bool) {
        self.engine.set_busy(busy);
    }

    /// Answers [`Event::LoginWanted`]: the login that a server takes from now on, which may come unasked, too. `None`: there
    /// is none to be had.
    pub fn renew_login(&mut self, server: ServerRef, login: Option<Login>) {
        self.engine.renew_login(server, login);
    }

    /// Answers [`Event::Ask`]: whether this peer may have a pipe.
    pub fn answer(&mut self, peer: NodeId, accept: bool) {
        self.engine.answer(peer, accept);
    }

    /// Answers [`News::LookUp`]; no address means that there is no such name.
    pub fn resolved(&mut self, query: QueryId, found: &[IpAddr]) {
        let result = if found.is_empty() { Err(IoFailure::NoSuchName) } else { Ok(found.into()) };
        self.engine.resolved(query, result);
    }

    /// The node's id.
    pub fn node_id(&self) -> NodeId {
        self.engine.node().node_id()
    }

    /// Returns the address to hand out, once outside addresses and brokers are settled, found or given up. That takes
    /// at most about six seconds, usually a few round trips. [`Event::Ready`] reports it.
    pub fn address(&self) -> Option<&PeerAddress> {
        match self.engine.address() {
            Address::Ready(address) => Some(address),
            _ => None,
        }
    }

    /// The address as known now, perhaps without outside addresses and brokers yet.
    pub fn current_address(&self) -> Option<&PeerAddress> {
        self.engine.address().known()
    }

    /// Returns the reports on the NATs in front of the interfaces so far, one for each.
    pub fn nats(&self) -> impl Iterator<Item = &NatReport> {
        self.engine.node().nats()
    }

    /// Returns which addresses of this machine lead out as which external addresses, as far as measured. Listing the
    /// interfaces takes about a millisecond.
    pub fn routes(&self) -> RouteTable {
        RouteTable::measured(self.nats())
    }

    /// Returns the node's counters.
    pub fn stats(&self) -> Stats {
        self.engine.node().stats()
    }

    /// Ends the node: connects fail, brokers are told, sockets closed. Go on with the loop until it
    /// [`is_over`](Self::is_over), at most a second. Pipes live on.
    pub fn shutdown(&mut self) {
        self.engine.shutdown();
    }

    /// Returns true if the node has ended, after [`shutdown`](Self::shutdown).
    pub fn is_over(&self) -> bool {
        self.engine.is_over()
    }
}

/// `cargo test --release -p p2pd-mio late -- --nocapture` prints the figures.
#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Poll};
    use p2pd_sys::Lateness;

    fn fire(late: &Lateness, dials: u32, gap: Duration) {
        let (mut poll, mut events) = (Poll::new().unwrap(), Events::with_capacity(256));
        let mio = Mio::new(poll.registry().try_clone().unwrap(), 0..2_000, Names::new(false));
        let before = late.count();
        let mut node = Node { engine: late.engine(dials, gap, mio).unwrap(), echo: false };
        while late.count() < before + dials as usize {
            poll.poll(&mut events, node.timeout()).unwrap();
            for event in &events {
                node.handle(event);
            }
            node.tick();
            while node.poll().is_some() {}
        }
    }

    #[test]
    fn armed_dials_are_little_late() {
        let (mut poll, mut events) = (Poll::new().unwrap(), Events::with_capacity(1));
        let timer = Lateness::default();
        for _ in 0..100 {
            let at = Instant::now() + Duration::from_micros(5_300);
            poll.poll(&mut events, Some(at - Instant::now())).unwrap();
            timer.push(at.elapsed());
        }
        println!("mio's own timeout: {timer}");
        for (dials, gap, rounds) in Lateness::CASES {
            let late = Lateness::default();
            for _ in 0..rounds {
                fire(&late, dials, gap);
            }
            late.judge("mio", dials, gap);
        }
    }
}
