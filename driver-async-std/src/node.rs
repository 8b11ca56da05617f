//! The handle that users hold.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use async_broadcast::InactiveReceiver;
use async_channel::{Receiver, Sender};
use event_listener::Event;
use futures_lite::Stream;
use p2pd_core::nat::NatReport;
use p2pd_core::trace::Sink;
use p2pd_core::{
    Allocate, AllocateError, Config, ConnectId, Login, Name, NameError, NamePin, NodeId, Notice, PeerAddress,
    Plan, ServerRef, Stats, ToTarget,
};
use p2pd_sys::{Address, BindError, ConnectError, Engine, NameAnswer, NameCall};

use crate::executor;
use crate::messages::{Allocation, RouteTable};
use crate::pipe::Pipe;
use crate::reactor::AsyncIo;
use crate::run::{self, Command, Outputs};

/// Pipes that nobody has accepted yet; a further one is closed.
const ACCEPT_QUEUE: usize = 128;
/// Notices that a slow reader may lag behind before it loses the oldest.
const NOTICE_QUEUE: usize = 1024;

/// A running node. Clones are handles to the same one; it ends when the last is dropped or
/// [`shutdown`](Node::shutdown) is called. Pipes live on without it.
#[derive(Clone, Debug)]
pub struct Node {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    id: NodeId,
    commands: Sender<Command>,
    accepted: Receiver<Pipe>,
    notices: InactiveReceiver<Notice>,
    address: Arc<Known>,
    tokens: AtomicU64,
    turned_away: Arc<AtomicU64>,
}

/// State of the node's address, for many tasks to wait for.
#[derive(Debug)]
pub(crate) struct Known {
    address: Mutex<Address>,
    changed: Event,
    ended: AtomicBool,
}

impl Known {
    pub(crate) fn new(address: Address) -> Self {
        Known { address: Mutex::new(address), changed: Event::new(), ended: AtomicBool::new(false) }
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

/// Pipes that peers open to a node.
#[cfg(feature = "stream")]
pub type Incoming = p2pd_async::Calls<Node, Pipe>;

/// Notices of a node, or how many of them were lost.
#[cfg(feature = "stream")]
pub type Notices =
    p2pd_async::Calls<Option<async_broadcast::Receiver<Notice>>, Result<Notice, p2pd_async::Lost>>;

/// Settings of the driver, beside the core's configuration.
pub struct Builder {
    config: Config,
    echo: bool,
    trace: Option<Sink>,
}

impl Builder {
    /// Turns the echo service of the P2PD documents on or off. It is for pipes that peers open: a message `ECHO ` with
    /// a payload is answered with the payload. The message is delivered to the
    /// reader as well. While nobody reads it reads ahead, up to 64 KiB that are kept for the reader. Each such pipe takes a
    /// task more. Default: off.
    pub fn echo(mut self, on: bool) -> Self {
        self.echo = on;
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

    /// Brings the node up; returns when it listens. The node's task runs on the executor that the
    /// crate's feature chose.
    ///
    /// # Errors
    /// An error of the configuration, or of a listener that could not be opened.
    pub async fn bind(self) -> Result<Node, BindError> {
        let (bind, wanted) = (self.config.bind, self.config.interfaces.clone());
        let interfaces = blocking::unblock(move || p2pd_sys::interfaces(bind, &wanted)).await;
        let interfaces = interfaces.map_err(BindError::Interfaces)?;
        let engine = Engine::new(self.config, self.trace, &interfaces, AsyncIo::default())?;
        let id = engine.node().node_id();
        let (commands, command_queue) = async_channel::unbounded();
        let (accept, accepted) = async_channel::bounded(ACCEPT_QUEUE);
        let (mut news, notices) = async_broadcast::broadcast(NOTICE_QUEUE);
        news.set_overflow(true);
        let address = Arc::new(Known::new(engine.address().clone()));
        let turned_away = Arc::new(AtomicU64::new(0));
        let outputs = Outputs {
            accept,
            turned_away: turned_away.clone(),
            notices: news,
            address: address.clone(),
            echo: self.echo,
        };
        executor::spawn(run::run(engine, command_queue, outputs));
        let (notices, tokens) = (notices.deactivate(), AtomicU64::new(0));
        let inner = Inner { id, commands, accepted, notices, address, tokens, turned_away };
        Ok(Node { inner: Arc::new(inner) })
    }
}

impl Node {
    /// Settings beside the configuration.
    pub fn builder(config: Config) -> Builder {
        Builder { config, echo: false, trace: None }
    }

    /// Brings a node up with the default settings.
    ///
    /// # Errors
    /// As [`Builder::bind`].
    pub async fn bind(config: Config) -> Result<Node, BindError> {
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
    pub async fn connect<T: ToTarget + ?Sized>(&self, to: &T) -> Result<Pipe, ConnectError> {
        self.connect_with(to, Plan::default()).await
    }

    /// Opens a pipe by a plan. Dropping the future gives the attempt up.
    ///
    /// # Errors
    /// The reason why there is no pipe, with a report of the attempts.
    pub async fn connect_with<T: ToTarget + ?Sized>(&self, to: &T, plan: Plan) -> Result<Pipe, ConnectError> {
        let to = to.to_target().map_err(ConnectError::Target)?;
        self.start_connect(&to, plan).await?.await
    }

    /// Begins to open a pipe, and returns a future for it that knows its [`ConnectId`], so that
    /// [`Notice::Progress`] can be followed meanwhile.
    ///
    /// # Errors
    /// The reason why nothing was begun.
    pub async fn start_connect<T: ToTarget + ?Sized>(
        &self,
        to: &T,
        plan: Plan,
    ) -> Result<Connecting, ConnectError> {
        let to = to.to_target().map_err(ConnectError::Target)?;
        let (begun_tx, begun) = async_channel::bounded(1);
        let (done_tx, done) = async_channel::bounded(1);
        let token = self.inner.tokens.fetch_add(1, Ordering::Relaxed);
        let canceller = Canceller { token, commands: self.inner.commands.clone() };
        let command = Command::Connect { token, to: Box::new(to), plan, begun: begun_tx, done: done_tx };
        self.inner.commands.try_send(command).map_err(|_| ConnectError::NodeGone)?;
        let id = begun.recv().await.map_err(|_| ConnectError::NodeGone)?.map_err(ConnectError::NotBegun)?;
        Ok(Connecting { id, done: Box::pin(done), _canceller: canceller })
    }

    /// Resolves a name to the peer's address: asks all brokers, for at most 8 s.
    ///
    /// # Errors
    /// The reason why there is no address; [`NameError::OtherKey`] if the name has another key than before.
    pub async fn resolve(&self, name: Name) -> Result<PeerAddress, NameError> {
        match self.ask(name, NameCall::Resolve).await? {
            NameAnswer::Address(address) => Ok(*address),
            NameAnswer::Brokers(_) => Err(NameError::NotFound),
        }
    }

    /// Takes a name for this node and keeps it while the node runs. Returns the number of brokers that keep its record,
    /// which is valid for a day after the node has ended. Where no broker is there it waits for one. A [`Notice::Name`]
    /// says so, and tells later changes of the name.
    ///
    /// # Errors
    /// The reason why it was not taken; [`NameError::Taken`] if another node has it.
    pub async fn register(&self, name: Name) -> Result<u8, NameError> {
        Ok(match self.ask(name, NameCall::Register).await? {
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
        Ok(match self.ask(name, NameCall::Release).await? {
            NameAnswer::Brokers(brokers) => brokers,
            NameAnswer::Address(_) => 0,
        })
    }

    /// Tells which key a name had, as a [`Notice::Name`] said it in an earlier run: [`p2pd_sys::PinFile`] keeps them.
    pub fn pin_name(&self, pin: NamePin) {
        let _ = self.inner.commands.try_send(Command::PinName(pin));
    }

    async fn ask(&self, name: Name, call: NameCall) -> Result<NameAnswer, NameError> {
        let (done, answer) = async_channel::bounded(1);
        let command = Command::Name { name, call, done };
        self.inner.commands.try_send(command).map_err(|_| NameError::Shutdown)?;
        answer.recv().await.unwrap_or(Err(NameError::Shutdown))
    }

    /// Waits for the next pipe that a peer opens to this node; `None` once the node was shut down. At most 128 wait;
    /// further ones are closed, and counted by [`turned_away`](Node::turned_away).
    pub async fn accept(&self) -> Option<Pipe> {
        self.inner.accepted.recv().await.ok()
    }

    /// Gives each pipe that a peer opens to a task of its own, until the node is shut down. Cancel it by dropping the
    /// future; tasks that run go on.
    pub async fn serve<F, T>(&self, callback: F)
    where
        F: Fn(Pipe) -> T,
        T: Future<Output = ()> + Send + 'static,
    {
        while let Some(pipe) = self.accept().await {
            executor::spawn(callback(pipe));
        }
    }

    /// Returns the number of pipes that were closed because 128 were waiting for [`accept`](Node::accept) already.
    pub fn turned_away(&self) -> u64 {
        self.inner.turned_away.load(Ordering::Relaxed)
    }

    /// News from now on: progress of connects, state of brokers, questions. A reader that is 1,024 notices
    /// behind loses the oldest and is told so.
    pub fn notices(&self) -> async_broadcast::Receiver<Notice> {
        self.inner.notices.activate_cloned()
    }

    /// Answers [`Notice::LoginWanted`]: the login that a server takes from now on, which may come unasked, too. `None`: there
    /// is none to be had.
    pub fn renew_login(&self, server: ServerRef, login: Option<Login>) {
        let _ = self.inner.commands.try_send(Command::RenewLogin { server, login });
    }

    /// Sends a peer an ECHO by every broker that is ready and that both share; returns how many they are.
    /// [`Notice::Pong`] tells of the first answer, with this `number`. A peer answers nodes that it accepts; others too
    /// rarely to be relied on.
    ///
    /// # Errors
    /// The reason why nothing was sent.
    pub async fn ping(&self, to: &PeerAddress, number: u32) -> Result<u8, ConnectError> {
        let (done, sent) = async_channel::bounded(1);
        let command = Command::Ping { to: Box::new(to.clone()), number, done };
        self.inner.commands.try_send(command).map_err(|_| ConnectError::NodeGone)?;
        sent.recv().await.map_err(|_| ConnectError::NodeGone)?.map_err(ConnectError::NotBegun)
    }

    /// Asks TURN servers for a relayed address: those of the configuration, or others that the wish names. Whoever drops the
    /// future gives up, and the servers are told.
    ///
    /// # Errors
    /// The reason why there is none.
    pub async fn allocate(&self, wish: Allocate) -> Result<Allocation, AllocateError> {
        // Dropped last, when nobody waits any more.
        let _sweeper = Sweeper { commands: self.inner.commands.clone() };
        let (done, outcome) = async_channel::bounded(1);
        let command = Command::Allocate { wish, done };
        self.inner.commands.try_send(command).map_err(|_| AllocateError::Shutdown)?;
        outcome.recv().await.unwrap_or(Err(AllocateError::Shutdown))
    }

    /// Sets whether pipes that peers open from now on have to wait for their turn. Their callers are told so, by
    /// [`Stage::PeerBusy`](p2pd_core::Stage::PeerBusy); nobody is refused. For programs that serve one pipe at a time.
    pub fn set_busy(&self, busy: bool) {
        let _ = self.inner.commands.try_send(Command::Busy(busy));
    }

    /// Returns the pipes that peers open to this node as a stream, which ends once the node was shut down. It is a handle
    /// to the node, and takes turns with [`accept`](Self::accept).
    #[cfg(feature = "stream")]
    pub fn incoming(&self) -> Incoming {
        p2pd_async::Calls::new(self.clone(), |node| {
            Box::pin(async move { Some((node.accept().await?, node)) })
        })
    }

    /// Returns the [`notices`](Self::notices) as a stream, which ends with [`Notice::Closed`].
    #[cfg(feature = "stream")]
    pub fn notice_stream(&self) -> Notices {
        p2pd_async::Calls::new(Some(self.notices()), |notices| {
            Box::pin(async move {
                let mut notices = notices?;
                match notices.recv().await {
                    Ok(Notice::Closed) => Some((Ok(Notice::Closed), None)),
                    Ok(notice) => Some((Ok(notice), Some(notices))),
                    Err(async_broadcast::RecvError::Overflowed(lost)) => {
                        Some((Err(p2pd_async::Lost(lost)), Some(notices)))
                    }
                    Err(async_broadcast::RecvError::Closed) => None,
                }
            })
        })
    }

    /// Answers [`Notice::Ask`]: whether this peer may have a pipe.
    pub fn answer(&self, peer: NodeId, accept: bool) {
        let _ = self.inner.commands.try_send(Command::Answer { peer, accept });
    }

    /// Returns the reports on the NATs in front of the interfaces, one for each. Waits until the address is settled;
    /// empty once the node was shut down.
    pub async fn nats(&self) -> Vec<NatReport> {
        self.address().await;
        let (reply, nats) = async_channel::bounded(1);
        if self.inner.commands.try_send(Command::Nats(reply)).is_err() {
            return Vec::new();
        }
        nats.recv().await.unwrap_or_default()
    }

    /// Returns which addresses of this machine lead out as which external addresses, as the node has measured them. Waits
    /// as [`nats`](Self::nats).
    pub async fn routes(&self) -> RouteTable {
        RouteTable::measured(&self.nats().await)
    }

    /// Returns the node's counters; `None` once it was shut down.
    pub async fn stats(&self) -> Option<Stats> {
        let (reply, stats) = async_channel::bounded(1);
        self.inner.commands.try_send(Command::Stats(reply)).ok()?;
        stats.recv().await.ok()
    }

    /// Ends the node: connects fail, brokers are told, sockets closed, tasks ended. Pipes live on.
    pub async fn shutdown(&self) {
        let (done, ended) = async_channel::bounded(1);
        if self.inner.commands.try_send(Command::Shutdown(done)).is_ok() {
            let _ = ended.recv().await;
        }
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("config", &self.config)
            .field("echo", &self.echo)
            .field("trace", &self.trace.is_some())
            .finish()
    }
}

/// A connect under way: a future of its [`Pipe`]. Dropping it gives the attempt up.
#[derive(Debug)]
pub struct Connecting {
    id: ConnectId,
    done: Pin<Box<Receiver<Result<Pipe, ConnectError>>>>,
    _canceller: Canceller,
}

impl Connecting {
    /// Returns the call's number in notices.
    pub fn id(&self) -> ConnectId {
        self.id
    }
}

impl Future for Connecting {
    type Output = Result<Pipe, ConnectError>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.done.as_mut().poll_next(cx).map(|done| done.unwrap_or(Err(ConnectError::NodeGone)))
    }
}

/// Has the node give up, when dropped, the relayed addresses that nobody waits for.
struct Sweeper {
    commands: Sender<Command>,
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        let _ = self.commands.try_send(Command::SweepAllocations);
    }
}

/// Cancels when dropped; one whose connect is over does nothing.
#[derive(Debug)]
struct Canceller {
    token: u64,
    commands: Sender<Command>,
}

impl Drop for Canceller {
    fn drop(&mut self) {
        let _ = self.commands.try_send(Command::Cancel { token: self.token });
    }
}
