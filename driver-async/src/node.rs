//! The handle that users hold.

use std::fmt;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use async_broadcast::InactiveReceiver;
use async_channel::{Receiver, Sender};
use futures_core::Stream;
use p2pd_core::PipeMode;
use p2pd_core::nat::NatReport;
use p2pd_core::pipe::session::{Opening, SessionConfig, SessionToken, Side};
use p2pd_core::trace::Sink;
use p2pd_core::{
    Allocate, AllocateError, Code, Config, ConnectId, Event, Login, MeetingError, Name, NameError, NamePin,
    NodeId, PeerAddress, Plan, ProtocolTag, ServerRef, Stats, Target, ToTarget,
};
use p2pd_sys::messages::RouteTable;
use p2pd_sys::{Address, BindError, ConnectError, Engine, NameAnswer, NameCall};

use crate::allocation::Allocation;
use crate::meeting::Meeting;
use crate::news::{Events, Incoming};
use crate::reactor::Sockets;
use crate::run::{self, Called, Command, Outputs};
use crate::runtime::Runtime;
use crate::session::{Caller, Pump, Role, Session, Sessions, Shared};

/// Pipes that nobody has accepted yet; a further one is closed.
const ACCEPT_QUEUE: usize = 128;
/// Events that a slow reader may lag behind before it loses the oldest.
const EVENT_QUEUE: usize = 1024;

/// A running node. Clones are handles to the same one; it ends when the last is dropped or
/// [`shutdown`](Node::shutdown) is called. Pipes live on without it.
#[derive(Clone, Debug)]
pub struct Node<R: Runtime> {
    inner: Arc<Inner<R>>,
}

#[derive(Debug)]
struct Inner<R: Runtime> {
    id: NodeId,
    commands: Sender<Command<R>>,
    accepted: Receiver<R::Pipe>,
    events: InactiveReceiver<Event>,
    address: Arc<Known>,
    tokens: AtomicU64,
    turned_away: Arc<AtomicU64>,
    sessions: Arc<Sessions<R>>,
}

/// State of the node's address, for many tasks to wait for.
#[derive(Debug)]
pub(crate) struct Known {
    address: Mutex<Address>,
    changed: event_listener::Event,
    ended: AtomicBool,
}

/// Settings of the driver, beside the core's configuration.
pub struct Builder<R> {
    config: Config,
    echo: bool,
    trace: Option<Sink>,
    session: SessionConfig,
    runtime: PhantomData<R>,
}

impl<R: Runtime> Builder<R> {
    /// Turns the echo service of the P2PD documents on or off. It is for pipes that peers open: a message `ECHO ` with
    /// a payload is answered with the payload. The message is delivered to the
    /// reader as well. While nobody reads it reads ahead, up to 64 KiB that are kept for the reader. Each such pipe takes a
    /// task more. Default: off.
    pub fn echo(mut self, on: bool) -> Self {
        self.echo = on;
        self
    }

    /// Sets the bounds and times of the node's sessions. Default: those of [`SessionConfig`].
    pub fn session(mut self, settings: SessionConfig) -> Self {
        self.session = settings;
        self
    }

    /// Records the node's inputs and outputs, for [`p2pd_core::trace::replay`]: `write` gets one line at a time, in
    /// order. It is called on the node's task, so it must not take long. Default: off.
    ///
    /// A trace is a secret: it holds the configuration's private key and the node's seed, hence the keys of the
    /// pipes opened meanwhile. [`p2pd_sys::create_private`] makes a file for its owner alone.
    pub fn trace(mut self, write: impl FnMut(&str) + Send + 'static) -> Self {
        self.trace = Some(Box::new(write));
        self
    }

    /// Brings the node up; returns when it listens. Must be called within the runtime, with I/O and time, where that makes
    /// a difference: on tokio. The node's task runs there.
    ///
    /// # Errors
    /// An error of the configuration, or of a listener that could not be opened.
    pub async fn bind(self) -> Result<Node<R>, BindError> {
        let (bind, wanted) = (self.config.bind, self.config.interfaces.clone());
        let interfaces = R::unblock(move || p2pd_sys::interfaces(bind, &wanted)).await;
        let interfaces = interfaces.map_err(BindError::Interfaces)?;
        let engine = Engine::new(self.config, self.trace, &interfaces, Sockets::<R>::new())?;
        let id = engine.node().node_id();
        let (commands, command_queue) = async_channel::unbounded();
        let (accept, accepted) = async_channel::bounded(ACCEPT_QUEUE);
        let (mut news, events) = async_broadcast::broadcast(EVENT_QUEUE);
        news.set_overflow(true);
        let address = Arc::new(Known::new(engine.address().clone()));
        let turned_away = Arc::new(AtomicU64::new(0));
        let sessions = Sessions::new(self.session, turned_away.clone());
        let outputs = Outputs {
            accept,
            turned_away: turned_away.clone(),
            events: news,
            address: address.clone(),
            echo: self.echo,
            sessions: sessions.clone(),
        };
        R::spawn(run::run(engine, command_queue, outputs));
        let (events, tokens) = (events.deactivate(), AtomicU64::new(0));
        let inner = Inner { id, commands, accepted, events, address, tokens, turned_away, sessions };
        Ok(Node { inner: Arc::new(inner) })
    }
}

impl<R: Runtime> Node<R> {
    /// Settings beside the configuration.
    pub fn builder(config: Config) -> Builder<R> {
        Builder { config, echo: false, trace: None, session: SessionConfig::default(), runtime: PhantomData }
    }

    /// Brings a node up with the default settings.
    ///
    /// # Errors
    /// As [`Builder::bind`].
    pub async fn bind(config: Config) -> Result<Self, BindError> {
        Self::builder(config).bind().await
    }

    /// The node's id.
    pub fn node_id(&self) -> NodeId {
        self.inner.id
    }

    /// The address to hand out. Waits until outside addresses and brokers are settled, found or given up: at
    /// most about six seconds, usually a few round trips.
    pub async fn address(&self) -> PeerAddress {
        let known = &self.inner.address;
        loop {
            let changed = known.changed.listen();
            match known.get() {
                Address::Ready(address) => return address,
                // One that ended before knows no more than its name.
                other if known.ended.load(Ordering::Acquire) => {
                    return other.known().cloned().unwrap_or_else(|| Address::nameless(self.inner.id));
                }
                _ => changed.await,
            }
        }
    }

    /// The address as known now, perhaps without outside addresses and brokers yet.
    pub fn current_address(&self) -> Option<PeerAddress> {
        self.inner.address.get().known().cloned()
    }

    /// Opens a pipe to an address or a name that ends with `.peer`, with the default plan: all strategies, encrypted,
    /// within 20 s. Dropping the future gives the attempt up.
    ///
    /// # Errors
    /// The reason why there is no pipe, with a report of the attempts.
    pub async fn connect<T: ToTarget + ?Sized>(&self, to: &T) -> Result<R::Pipe, ConnectError> {
        self.connect_with(to, Plan::default()).await
    }

    /// Opens a pipe by a plan. Dropping the future gives the attempt up.
    ///
    /// # Errors
    /// The reason why there is no pipe, with a report of the attempts.
    pub async fn connect_with<T: ToTarget + ?Sized>(
        &self,
        to: &T,
        plan: Plan,
    ) -> Result<R::Pipe, ConnectError> {
        let to = to.to_target().map_err(ConnectError::Target)?;
        self.start_connect(&to, plan).await?.await
    }

    /// Begins to open a pipe, and returns a future for it that knows its [`ConnectId`], so that
    /// [`Event::Progress`] can be followed meanwhile.
    ///
    /// # Errors
    /// The reason why nothing was begun.
    pub async fn start_connect<T: ToTarget + ?Sized>(
        &self,
        to: &T,
        plan: Plan,
    ) -> Result<Connecting<R>, ConnectError> {
        let to = to.to_target().map_err(ConnectError::Target)?;
        let ((begun_tx, begun), (done_tx, done)) = (async_channel::bounded(1), async_channel::bounded(1));
        let token = self.inner.tokens.fetch_add(1, Ordering::Relaxed);
        let canceller = self.at_last(Command::Cancel { token });
        self.tell(Command::Connect { token, to: Box::new(to), plan, begun: begun_tx, done: done_tx });
        let id = begun.recv().await.map_err(|_| ConnectError::NodeGone)?.map_err(ConnectError::NotBegun)?;
        Ok(Connecting { id, done: Box::pin(done), _canceller: canceller })
    }

    /// Opens a session to an address or a name that ends with `.peer`, with the default plan. The peer's
    /// [`Config::sessions`] has to allow it. Dropping the future gives the attempt up.
    ///
    /// # Errors
    /// The reason why there is no session, with a report of the attempts.
    pub async fn connect_session<T: ToTarget + ?Sized>(&self, to: &T) -> Result<Session, ConnectError> {
        self.connect_session_with(to, Plan::default()).await
    }

    /// Opens a session by a plan, of which the mode does not count. The session calls by the plan again when its
    /// connection breaks. Streams can be opened at once. Dropping the future gives the attempt up.
    ///
    /// # Errors
    /// As [`connect_session`](Self::connect_session).
    pub async fn connect_session_with<T: ToTarget + ?Sized>(
        &self,
        to: &T,
        plan: Plan,
    ) -> Result<Session, ConnectError> {
        let to = to.to_target().map_err(ConnectError::Target)?;
        let plan = plan.mode(PipeMode::Session);
        let token = p2pd_sys::random_seed().map_err(|why| ConnectError::Lost(p2pd_sys::failure(&why)))?;
        let token = SessionToken(token);
        let (node, news) = (WeakNode(Arc::downgrade(&self.inner)), self.events());
        let pipe = node.call(&to, plan.clone()).await?;
        let shared = Shared::new(pipe.peer(), Side::Caller, self.inner.sessions.config);
        let caller = Caller::new(node, news, to, plan, token);
        let mut pump = Pump::new(&shared, Role::Caller(Box::new(caller)));
        pump.attach(pipe, Some(Opening::New(token)));
        let session = Session::new(&shared);
        R::spawn(pump.run());
        Ok(session)
    }

    /// Waits for the next session that a peer opens to this node; `None` once the node was shut down. At most 128 wait;
    /// further ones are closed, and counted by [`turned_away`](Node::turned_away).
    pub async fn accept_session(&self) -> Option<Session> {
        self.inner.sessions.accept().await
    }

    /// Resolves a name to the peer's address: asks all brokers, for at most 8 s.
    ///
    /// # Errors
    /// The reason why there is no address; [`NameError::OtherKey`] if the name has another key than before.
    pub async fn resolve(&self, name: Name) -> Result<PeerAddress, NameError> {
        match self.name(name, NameCall::Resolve).await? {
            NameAnswer::Address(address) => Ok(*address),
            NameAnswer::Brokers(_) => Err(NameError::NotFound),
        }
    }

    /// Takes a name for this node and keeps it while the node runs. Returns the number of brokers that keep its record,
    /// which is valid for a day after the node has ended. Where no broker is there it waits for one. An [`Event::Name`]
    /// says so, and tells later changes of the name.
    ///
    /// # Errors
    /// The reason why it was not taken; [`NameError::Taken`] if another node has it.
    pub async fn register(&self, name: Name) -> Result<u8, NameError> {
        Ok(match self.name(name, NameCall::Register).await? {
            NameAnswer::Brokers(brokers) => brokers,
            NameAnswer::Address(_) => 0,
        })
    }

    /// Gives up a name that this node's key has, in whichever process it was taken. Returns the number of brokers that
    /// were told.
    ///
    /// # Errors
    /// The reason why it was not given up; [`NameError::NotFound`] if no broker has a record by this key.
    pub async fn release(&self, name: Name) -> Result<u8, NameError> {
        Ok(match self.name(name, NameCall::Release).await? {
            NameAnswer::Brokers(brokers) => brokers,
            NameAnswer::Address(_) => 0,
        })
    }

    /// Tells which key a name had, as an [`Event::Name`] said it in an earlier run: [`p2pd_sys::PinFile`] keeps them.
    pub fn pin_name(&self, pin: NamePin) {
        self.tell(Command::PinName(pin));
    }

    /// Begins a meeting: with a code as the guest, or as the host, which draws one. Both programs name the same
    /// `purpose`. It is over half a minute after `within` at the latest, and `within` is at most an hour.
    ///
    /// # Errors
    /// `NoBroker` where none is configured, `TooMany` where [`p2pd_core::MAX_MEETINGS`] are running, `Shutdown`.
    pub async fn meet(
        &self,
        code: Option<Code>,
        purpose: ProtocolTag,
        within: Duration,
    ) -> Result<Meeting<R>, MeetingError> {
        let (told, news) = async_channel::unbounded();
        let begun = self.ask(|done| Command::Meet { code, purpose, within, news: told, done }).await;
        let id = begun.unwrap_or(Err(MeetingError::Shutdown))?;
        Ok(Meeting { id, news, _ender: self.at_last(Command::EndMeeting(id)) })
    }

    async fn name(&self, name: Name, call: NameCall) -> Result<NameAnswer, NameError> {
        let answer = self.ask(|done| Command::Name { name, call, done }).await;
        answer.unwrap_or(Err(NameError::Shutdown))
    }

    /// Waits for the next pipe that a peer opens to this node; `None` once the node was shut down. At most 128 wait;
    /// further ones are closed, and counted by [`turned_away`](Node::turned_away).
    pub async fn accept(&self) -> Option<R::Pipe> {
        self.inner.accepted.recv().await.ok()
    }

    /// Gives each pipe that a peer opens to a task of its own, until the node is shut down. Cancel it by dropping the
    /// future; tasks that run go on.
    pub async fn serve<F, T>(&self, callback: F)
    where
        F: Fn(R::Pipe) -> T,
        T: Future<Output = ()> + Send + 'static,
    {
        while let Some(pipe) = self.accept().await {
            R::spawn(callback(pipe));
        }
    }

    /// Returns the pipes that peers open to this node as a stream, which ends once the node was shut down. It is a handle
    /// to the node, and takes turns with [`accept`](Self::accept).
    pub fn incoming(&self) -> Incoming<R> {
        Incoming { pipes: Box::pin(self.inner.accepted.clone()), _node: self.clone() }
    }

    /// Returns the number of pipes that were closed because 128 were waiting for [`accept`](Node::accept) already.
    pub fn turned_away(&self) -> u64 {
        self.inner.turned_away.load(Ordering::Relaxed)
    }

    /// News from now on: progress of connects, state of brokers, questions. A reader that is 1,024 events
    /// behind loses the oldest and is told so. They end with the node.
    pub fn events(&self) -> Events {
        Events(self.inner.events.activate_cloned())
    }

    /// Answers [`Event::Ask`]: whether this peer may have a pipe.
    pub fn answer(&self, peer: NodeId, accept: bool) {
        self.tell(Command::Answer { peer, accept });
    }

    /// Answers [`Event::LoginWanted`]: the login that a server takes from now on, which may come unasked, too. `None`: there
    /// is none to be had.
    pub fn renew_login(&self, server: ServerRef, login: Option<Login>) {
        self.tell(Command::RenewLogin { server, login });
    }

    /// Sends a peer an ECHO by every broker that is ready and that both share; returns how many they are.
    /// [`Event::Pong`] tells of the first answer, with this `number`. A peer answers nodes that it accepts; others too
    /// rarely to be relied on.
    ///
    /// # Errors
    /// The reason why nothing was sent.
    pub async fn ping(&self, to: &PeerAddress, number: u32) -> Result<u8, ConnectError> {
        let to = Box::new(to.clone());
        let sent = self.ask(|done| Command::Ping { to, number, done }).await;
        sent.ok_or(ConnectError::NodeGone)?.map_err(ConnectError::NotBegun)
    }

    /// Asks TURN servers for a relayed address: those of the configuration, or others that the wish names. Whoever drops the
    /// future gives up, and the servers are told.
    ///
    /// # Errors
    /// The reason why there is none.
    pub async fn allocate(&self, wish: Allocate) -> Result<Allocation<R>, AllocateError> {
        // Dropped last, when nobody waits any more.
        let _sweeper = self.at_last(Command::SweepAllocations);
        let outcome = self.ask(|done| Command::Allocate { wish, done }).await;
        outcome.unwrap_or(Err(AllocateError::Shutdown))
    }

    /// Sets whether pipes that peers open from now on have to wait for their turn. Their callers are told so, by
    /// [`Stage::PeerBusy`](p2pd_core::Stage::PeerBusy); nobody is refused. For programs that serve one pipe at a time.
    pub fn set_busy(&self, busy: bool) {
        self.tell(Command::Busy(busy));
    }

    /// Returns the reports on the NATs in front of the interfaces, one for each. Waits until the address is settled;
    /// empty once the node was shut down.
    pub async fn nats(&self) -> Vec<NatReport> {
        self.address().await;
        self.ask(Command::Nats).await.unwrap_or_default()
    }

    /// Returns which addresses of this machine lead out as which external addresses, as the node has measured them. Waits
    /// as [`nats`](Self::nats).
    pub async fn routes(&self) -> RouteTable {
        RouteTable::measured(&self.nats().await)
    }

    /// Returns the node's counters; `None` once it was shut down.
    pub async fn stats(&self) -> Option<Stats> {
        self.ask(Command::Stats).await
    }

    /// Ends the node: connects fail, brokers are told, sockets closed, tasks ended. Pipes live on.
    pub async fn shutdown(&self) {
        self.ask(Command::Shutdown).await;
    }

    /// Tells the node's task; nothing, if it has ended.
    fn tell(&self, command: Command<R>) {
        let _ = self.inner.commands.try_send(command);
    }

    /// Asks the node's task; `None`: it has ended.
    async fn ask<T>(&self, question: impl FnOnce(Sender<T>) -> Command<R>) -> Option<T> {
        let (done, answer) = async_channel::bounded(1);
        self.tell(question(done));
        answer.recv().await.ok()
    }

    /// Tells the node's task when dropped.
    fn at_last(&self, word: Command<R>) -> AtLast<R> {
        AtLast { word: Some(word), commands: self.inner.commands.clone() }
    }
}

impl Known {
    pub(crate) fn new(address: Address) -> Self {
        Known {
            address: Mutex::new(address),
            changed: event_listener::Event::new(),
            ended: AtomicBool::new(false),
        }
    }

    fn get(&self) -> Address {
        self.address.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, address: Address) {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner) = address;
        self.changed.notify(usize::MAX);
    }

    /// Ends the wait: the address does not change any more.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.changed.notify(usize::MAX);
    }
}

impl<R> fmt::Debug for Builder<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("config", &self.config)
            .field("echo", &self.echo)
            .field("trace", &self.trace.is_some())
            .finish()
    }
}

/// A connect under way: a future of its pipe. Dropping it gives the attempt up.
#[derive(Debug)]
pub struct Connecting<R: Runtime> {
    id: ConnectId,
    done: Pin<Box<Receiver<Called<R>>>>,
    _canceller: AtLast<R>,
}

impl<R: Runtime> Connecting<R> {
    /// Returns the call's number in events.
    pub fn id(&self) -> ConnectId {
        self.id
    }

    fn poll_pipe(&mut self, cx: &mut Context<'_>) -> Poll<Called<R>> {
        self.done.as_mut().poll_next(cx).map(|done| done.unwrap_or(Err(ConnectError::NodeGone)))
    }
}

impl<R: Runtime> Future for Connecting<R> {
    type Output = Result<R::Pipe, ConnectError>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_pipe(cx).map_ok(Into::into)
    }
}

/// A node as its sessions know it: they do not keep it running.
pub(crate) struct WeakNode<R: Runtime>(Weak<Inner<R>>);

impl<R: Runtime> Clone for WeakNode<R> {
    fn clone(&self) -> Self {
        WeakNode(self.0.clone())
    }
}

impl<R: Runtime> WeakNode<R> {
    /// Opens a carrier.
    pub(crate) async fn call(&self, to: &Target, plan: Plan) -> Called<R> {
        let node = Node { inner: self.0.upgrade().ok_or(ConnectError::NodeGone)? };
        let mut connecting = node.start_connect(to, plan).await?;
        drop(node);
        poll_fn(|cx| connecting.poll_pipe(cx)).await
    }
}

/// A word to the node's task that is said when this is dropped. It does nothing where nobody has given up.
#[derive(Debug)]
pub(crate) struct AtLast<R: Runtime> {
    word: Option<Command<R>>,
    commands: Sender<Command<R>>,
}

impl<R: Runtime> Drop for AtLast<R> {
    fn drop(&mut self) {
        if let Some(word) = self.word.take() {
            let _ = self.commands.try_send(word);
        }
    }
}
