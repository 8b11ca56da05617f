//! The handle that users hold.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use p2pd_core::nat::NatReport;
use p2pd_core::trace::Sink;
use p2pd_core::{
    Allocate, AllocateError, Config, ConnectId, Login, Name, NameError, NamePin, NodeId, Notice, PeerAddress,
    Plan, ServerRef, Stats, ToTarget,
};
use p2pd_sys::{Address, BindError, ConnectError, Engine, NameAnswer, NameCall};
use tokio::sync::{Mutex, broadcast, mpsc, oneshot, watch};

use crate::messages::{Allocation, RouteTable};
use crate::pipe::Pipe;
use crate::reactor::Tokio;
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
    commands: mpsc::UnboundedSender<Command>,
    accepted: Mutex<mpsc::Receiver<Pipe>>,
    /// Weak, so that notices end with the node and not with its last handle.
    notices: broadcast::WeakSender<Notice>,
    address: watch::Receiver<Address>,
    tokens: AtomicU64,
    turned_away: Arc<AtomicU64>,
}

/// Pipes that peers open to a node.
#[cfg(feature = "stream")]
pub type Incoming = p2pd_async::Calls<Node, Pipe>;

/// Notices of a node, or how many of them were lost.
#[cfg(feature = "stream")]
pub type Notices = p2pd_async::Calls<Option<broadcast::Receiver<Notice>>, Result<Notice, p2pd_async::Lost>>;

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

    /// Brings the node up; returns when it listens. Must be called within a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// An error of the configuration, or of a listener that could not be opened.
    pub async fn bind(self) -> Result<Node, BindError> {
        let (bind, wanted) = (self.config.bind, self.config.interfaces.clone());
        let interfaces = tokio::task::spawn_blocking(move || p2pd_sys::interfaces(bind, &wanted))
            .await
            .map_err(|e| BindError::Interfaces(std::io::Error::other(e)))?
            .map_err(BindError::Interfaces)?;
        let (answer, answers) = mpsc::unbounded_channel();
        let engine = Engine::new(self.config, self.trace, &interfaces, Tokio::new(answer))?;
        let id = engine.node().node_id();
        let (commands, command_queue) = mpsc::unbounded_channel();
        let (accept, accepted) = mpsc::channel(ACCEPT_QUEUE);
        let (notices, _) = broadcast::channel(NOTICE_QUEUE);
        let (known, address) = watch::channel(engine.address().clone());
        let turned_away = Arc::new(AtomicU64::new(0));
        let outputs =
            Outputs { accept, turned_away: turned_away.clone(), notices, address: known, echo: self.echo };
        let notices = outputs.notices.downgrade();
        tokio::spawn(run::run(engine, command_queue, answers, outputs));
        let (accepted, tokens) = (Mutex::new(accepted), AtomicU64::new(0));
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
        let mut address = self.inner.address.clone();
        let ready = address.wait_for(|a| matches!(a, Address::Ready(_))).await.map(|a| a.clone());
        let known = ready.unwrap_or_else(|_| self.inner.address.borrow().clone());
        // One that ended before knows no more than its name.
        known.known().cloned().unwrap_or_else(|| Address::nameless(self.inner.id))
    }

    /// The address as known now, perhaps without outside addresses and brokers yet.
    pub fn current_address(&self) -> Option<PeerAddress> {
        self.inner.address.borrow().known().cloned()
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
        let (begun_tx, begun) = oneshot::channel();
        let (done_tx, done) = oneshot::channel();
        let token = self.inner.tokens.fetch_add(1, Ordering::Relaxed);
        let canceller = Canceller { token, commands: self.inner.commands.clone() };
        let command = Command::Connect { token, to: Box::new(to), plan, begun: begun_tx, done: done_tx };
        self.inner.commands.send(command).map_err(|_| ConnectError::NodeGone)?;
        let id = begun.await.map_err(|_| ConnectError::NodeGone)?.map_err(ConnectError::NotBegun)?;
        Ok(Connecting { id, done, _canceller: canceller })
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
        let _ = self.inner.commands.send(Command::PinName(pin));
    }

    async fn ask(&self, name: Name, call: NameCall) -> Result<NameAnswer, NameError> {
        let (done, answer) = oneshot::channel();
        let command = Command::Name { name, call, done };
        self.inner.commands.send(command).map_err(|_| NameError::Shutdown)?;
        answer.await.unwrap_or(Err(NameError::Shutdown))
    }

    /// Waits for the next pipe that a peer opens to this node; `None` once the node was shut down. At most 128 wait;
    /// further ones are closed, and counted by [`turned_away`](Node::turned_away).
    pub async fn accept(&self) -> Option<Pipe> {
        self.inner.accepted.lock().await.recv().await
    }

    /// Gives each pipe that a peer opens to a task of its own, until the node is shut down. Cancel it by dropping the
    /// future; tasks that run go on.
    pub async fn serve<F, T>(&self, callback: F)
    where
        F: Fn(Pipe) -> T,
        T: Future<Output = ()> + Send + 'static,
    {
        while let Some(pipe) = self.accept().await {
            tokio::spawn(callback(pipe));
        }
    }

    /// Returns the number of pipes that were closed because 128 were waiting for [`accept`](Node::accept) already.
    pub fn turned_away(&self) -> u64 {
        self.inner.turned_away.load(Ordering::Relaxed)
    }

    /// News from now on: progress of connects, state of brokers, questions. A reader that is 1,024 notices
    /// behind loses the oldest and is told so. They end with the node.
    pub fn notices(&self) -> broadcast::Receiver<Notice> {
        self.inner.notices.upgrade().unwrap_or_else(|| broadcast::channel(1).0).subscribe()
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
                    Err(tokio::sync::broadcast::error::RecvError::Lagged(lost)) => {
                        Some((Err(p2pd_async::Lost(lost)), Some(notices)))
                    }
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => None,
                }
            })
        })
    }

    /// Answers [`Notice::Ask`]: whether this peer may have a pipe.
    pub fn answer(&self, peer: NodeId, accept: bool) {
        let _ = self.inner.commands.send(Command::Answer { peer, accept });
    }

    /// Answers [`Notice::LoginWanted`]: the login that a server takes from now on, which may come unasked, too. `None`: there
    /// is none to be had.
    pub fn renew_login(&self, server: ServerRef, login: Option<Login>) {
        let _ = self.inner.commands.send(Command::RenewLogin { server, login });
    }

    /// Sends a peer an ECHO by every broker that is ready and that both share; returns how many they are.
    /// [`Notice::Pong`] tells of the first answer, with this `number`. A peer answers nodes that it accepts; others too
    /// rarely to be relied on.
    ///
    /// # Errors
    /// The reason why nothing was sent.
    pub async fn ping(&self, to: &PeerAddress, number: u32) -> Result<u8, ConnectError> {
        let (done, sent) = oneshot::channel();
        let command = Command::Ping { to: Box::new(to.clone()), number, done };
        self.inner.commands.send(command).map_err(|_| ConnectError::NodeGone)?;
        sent.await.map_err(|_| ConnectError::NodeGone)?.map_err(ConnectError::NotBegun)
    }

    /// Asks TURN servers for a relayed address: those of the configuration, or others that the wish names. Whoever drops the
    /// future gives up, and the servers are told.
    ///
    /// # Errors
    /// The reason why there is none.
    pub async fn allocate(&self, wish: Allocate) -> Result<Allocation, AllocateError> {
        // Dropped last, when nobody waits any more.
        let _sweeper = Sweeper { commands: self.inner.commands.clone() };
        let (done, outcome) = oneshot::channel();
        let command = Command::Allocate { wish, done };
        self.inner.commands.send(command).map_err(|_| AllocateError::Shutdown)?;
        outcome.await.unwrap_or(Err(AllocateError::Shutdown))
    }

    /// Sets whether pipes that peers open from now on have to wait for their turn. Their callers are told so, by
    /// [`Stage::PeerBusy`](p2pd_core::Stage::PeerBusy); nobody is refused. For programs that serve one pipe at a time.
    pub fn set_busy(&self, busy: bool) {
        let _ = self.inner.commands.send(Command::Busy(busy));
    }

    /// Returns the reports on the NATs in front of the interfaces, one for each. Waits until the address is settled;
    /// empty once the node was shut down.
    pub async fn nats(&self) -> Vec<NatReport> {
        self.address().await;
        let (reply, nats) = oneshot::channel();
        if self.inner.commands.send(Command::Nats(reply)).is_err() {
            return Vec::new();
        }
        nats.await.unwrap_or_default()
    }

    /// Returns which addresses of this machine lead out as which external addresses, as the node has measured them. Waits
    /// as [`nats`](Self::nats).
    pub async fn routes(&self) -> RouteTable {
        RouteTable::measured(&self.nats().await)
    }

    /// Returns the node's counters; `None` once it was shut down.
    pub async fn stats(&self) -> Option<Stats> {
        let (reply, stats) = oneshot::channel();
        self.inner.commands.send(Command::Stats(reply)).ok()?;
        stats.await.ok()
    }

    /// Ends the node: connects fail, brokers are told, sockets closed, tasks ended. Pipes live on.
    pub async fn shutdown(&self) {
        let (done, ended) = oneshot::channel();
        if self.inner.commands.send(Command::Shutdown(done)).is_ok() {
            let _ = ended.await;
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
    done: oneshot::Receiver<Result<Pipe, ConnectError>>,
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
        Pin::new(&mut self.done).poll(cx).map(|done| done.unwrap_or(Err(ConnectError::NodeGone)))
    }
}

/// Has the node give up, when dropped, the relayed addresses that nobody waits for.
struct Sweeper {
    commands: mpsc::UnboundedSender<Command>,
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::SweepAllocations);
    }
}

/// Cancels when dropped; one whose connect is over does nothing.
#[derive(Debug)]
struct Canceller {
    token: u64,
    commands: mpsc::UnboundedSender<Command>,
}

impl Drop for Canceller {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Cancel { token: self.token });
    }
}
