//! The handle that users hold.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use p2pd_core::pipe::subscriptions::{Message, Pattern, Queue, SubscriptionId};
use p2pd_sys::Card;
use p2pd_sys::messages::{
    Destination, End, NetworkChange, OpenError, PipeOptions, Protocol, RecvError, Route, SystemSocket,
    TooManySubscriptions, lend,
};

use crate::carrier::{IntoSocket, Socket, Writer};
use crate::network;
use crate::read;
use crate::runtime::Runtime;
use crate::shared::{Child, OnEnd, OnMessage, Shared};
use crate::wait::within;

/// Time that [`close`](MessagePipe::close) waits for the system to take the rest of an encrypted pipe.
const FAREWELL: Duration = Duration::from_secs(5);

/// A pipe of messages. Clones are handles to the same one. It ends when the last is dropped, or [`close`](Self::close)
/// is called. A pipe that is linked to others is held by these.
///
/// A callback is given its pipe; one that captures a handle to it keeps it open until its peer ends it.
#[derive(Clone, Debug)]
pub struct MessagePipe<R: Runtime> {
    pub(crate) handle: Arc<Handle<R>>,
}

#[derive(Debug)]
pub(crate) struct Handle<R: Runtime> {
    shared: Arc<Shared<R>>,
}

impl<R: Runtime> Drop for Handle<R> {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// A callback's name on its pipe.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CallbackId(pub(crate) u64);

impl<R: Runtime> MessagePipe<R> {
    /// Opens a pipe to a destination: connects a TCP stream, or binds a UDP socket that sends there. Must be called
    /// within the runtime, with I/O and time, where that makes a difference: on tokio.
    ///
    /// # Errors
    /// The reason why there is none.
    pub async fn open(
        protocol: Protocol,
        to: impl Into<Destination>,
        route: Route,
        options: &PipeOptions,
    ) -> Result<Self, OpenError> {
        let socket = Socket::open(protocol, to, route, options).await?;
        Self::new(socket, options).map_err(OpenError::Socket)
    }

    /// Creates a UDP server: a pipe without a destination, that answers with [`send_to`](Self::send_to). For TCP
    /// servers there is [`Daemon`](crate::Daemon). Must be called within the runtime, as [`open`](Self::open).
    ///
    /// # Errors
    /// Of `bind`, for example that the port is taken.
    pub fn bind(route: Route, options: &PipeOptions) -> io::Result<Self> {
        Self::new(Socket::Udp(R::udp(options.udp(route)?)?, None), options)
    }

    /// Wraps a socket that exists: a connected TCP stream, a UDP socket, a driver's pipe to a peer, or the messages
    /// beside a relayed one. Must be called within the runtime, as [`open`](Self::open).
    ///
    /// # Errors
    /// Of `setsockopt`, or that a stream is not connected any more.
    pub fn new(socket: impl IntoSocket<R>, options: &PipeOptions) -> io::Result<Self> {
        let socket = socket.into_socket()?;
        socket.set(options)?;
        let protocol = socket.protocol();
        let ends = (socket.local_addr()?, socket.remote_addr()?);
        let (reader, writer, grip) = socket.split(options.reader_limit);
        let shared = Arc::new(Shared::new(protocol, ends, options, (writer, grip)));
        let handle = Arc::new(Handle { shared: shared.clone() });
        R::spawn(read::run(shared, Arc::downgrade(&handle), reader));
        Ok(MessagePipe { handle })
    }

    /// Returns the protocol; a pipe to a peer counts as TCP.
    pub fn protocol(&self) -> Protocol {
        self.shared().protocol
    }

    /// Returns the local address.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared().local
    }

    /// Returns the destination; `None` for a UDP server.
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        self.shared().remote
    }

    /// Returns the interface that has the local address, which takes about a millisecond. `None`: the pipe has all
    /// addresses or a relayed one, or its address is gone.
    pub fn interface(&self) -> Option<Card> {
        p2pd_sys::card_of(self.local_addr())
    }

    /// Returns the source of this pipe: its local address, by its [`interface`](Self::interface). A
    /// [`RouteTable`](p2pd_sys::messages::RouteTable) has the external addresses that it leads to.
    pub fn route(&self) -> Route {
        Route::of(self.local_addr())
    }

    /// Gives the socket to a function, for its options and its number. `None`: the pipe has ended, or it is a relayed
    /// address, which has no socket. Reading or writing on the socket breaks the pipe.
    pub fn with_socket<T>(&self, work: impl FnOnce(SystemSocket<'_>) -> T) -> Option<T> {
        self.shared().socket.with(|socket| work(lend(&socket)))
    }

    /// Copies messages that match the first pattern, from senders whose `address:port` matches the second, into a queue
    /// with the limits of the pipe's options.
    ///
    /// # Errors
    /// There are [`MAX_SUBSCRIPTIONS`](crate::MAX_SUBSCRIPTIONS) already.
    pub fn subscribe(&self, message: Pattern, peer: Pattern) -> Result<SubscriptionId, TooManySubscriptions> {
        self.subscribe_with(message, peer, self.shared().queue)
    }

    /// Subscribes as [`subscribe`](Self::subscribe) does, with other limits.
    ///
    /// # Errors
    /// As [`subscribe`](Self::subscribe).
    pub fn subscribe_with(
        &self,
        message: Pattern,
        peer: Pattern,
        queue: Queue,
    ) -> Result<SubscriptionId, TooManySubscriptions> {
        let id = self.shared().change(|inbox| {
            let id = inbox.subscriptions.subscribe(message, peer, queue);
            inbox.catch_up();
            id
        });
        id.ok_or(TooManySubscriptions)
    }

    /// Ends a subscription, with the messages in it. Returns false if there is none of this name.
    pub fn unsubscribe(&self, id: SubscriptionId) -> bool {
        let (was, arrived) =
            self.shared().change(|inbox| (inbox.subscriptions.unsubscribe(id), inbox.arrived.take()));
        arrived.now();
        was
    }

    /// Messages that a subscription dropped because it was full; `None`: there is none of this name.
    pub fn dropped(&self, id: SubscriptionId) -> Option<u64> {
        self.shared().inbox().subscriptions.dropped(id)
    }

    /// Messages that wait in a subscription; `None`: there is none of this name.
    pub fn waiting(&self, id: SubscriptionId) -> Option<usize> {
        self.shared().inbox().subscriptions.waiting(id)
    }

    /// Returns the oldest message of a subscription. Waits for at most `timeout`: with zero not at all, with
    /// `Duration::MAX` without end. Giving up waiting loses nothing.
    ///
    /// # Errors
    /// The reason why there is none. Messages from before a pipe's end can still be received.
    pub async fn recv(&self, from: SubscriptionId, timeout: Duration) -> Result<Bytes, RecvError> {
        self.recv_from(from, timeout).await.map(|message| message.data)
    }

    /// Receives as [`recv`](Self::recv) does, and returns the message with its sender.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub async fn recv_from(&self, from: SubscriptionId, timeout: Duration) -> Result<Message, RecvError> {
        let message = within::<R, _>(timeout, self.shared().message(from)).await;
        message.unwrap_or(Err(RecvError::TimedOut))
    }

    /// Sends to the destination. Returns when the system has taken all of it, so a peer that does not read makes it
    /// wait. Giving up waiting may leave a part sent on a stream.
    ///
    /// # Errors
    /// The reason why not all of it was sent.
    pub async fn send(&self, data: &[u8]) -> Result<(), SendError> {
        let to = self.shared().remote.ok_or(SendError::NoDestination)?;
        self.carry(data, to).await
    }

    /// Sends to an address: on a UDP pipe to any, on a stream to its one peer only. So a program for one protocol works
    /// on the other.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_to(&self, data: &[u8], to: SocketAddr) -> Result<(), SendError> {
        if self.shared().protocol == Protocol::Tcp && self.shared().remote != Some(to) {
            return Err(SendError::NotThePeer);
        }
        self.carry(data, to).await
    }

    async fn carry(&self, data: &[u8], to: SocketAddr) -> Result<(), SendError> {
        let sending = async {
            let mut writer = self.shared().writer.lock().await;
            if matches!(*writer, Writer::Over) {
                return Err(SendError::Ended);
            }
            let sent = writer.send(data, to).await.map_err(|e| SendError::Failed(e.kind()));
            if sent.is_err() && writer.is_a_stream() {
                *writer = Writer::Over;
            }
            sent
        };
        self.shared().unless_closed(sending).await.unwrap_or(Err(SendError::Ended))
    }

    /// Has each message given to a callback, with its sender and the pipe to answer on. It is waited for before more is
    /// read, so one that is slow makes a TCP peer wait; one that panics ends the pipe. One that is added after the end
    /// of reading gets what [`on_end`](Self::on_end) had read ahead.
    pub fn on_message<F, T>(&self, callback: F) -> CallbackId
    where
        F: Fn(Message, MessagePipe<R>) -> T + Send + Sync + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        let callback: OnMessage<R> = Arc::new(move |message, pipe| Box::pin(callback(message, pipe)));
        let mut too_late = Some(callback);
        let (id, left) = self.shared().change(|inbox| {
            let id = inbox.id();
            if inbox.end.is_none() {
                inbox.callbacks.extend(too_late.take().map(|callback| (id, callback)));
            }
            (id, inbox.left())
        });
        if let Some(callback) = too_late
            && !left.is_empty()
        {
            let pipe = self.clone();
            R::spawn(async move {
                for message in left {
                    callback(message, pipe.clone()).await;
                }
            });
        }
        id
    }

    /// Calls back once when reading has ended, after the last message's callbacks, or at once if it has. On a stream that
    /// nobody wants messages of, up to 16 of them or 64 KiB are read ahead for the next subscription, callback or
    /// linked pipe, so that the peer's end behind them is seen.
    pub fn on_end<F, T>(&self, callback: F) -> CallbackId
    where
        F: FnOnce(End) -> T + Send + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        let mut callback = Some(callback);
        let (id, end) = self.shared().change(|inbox| {
            let id = inbox.id();
            if inbox.end.is_none()
                && let Some(callback) = callback.take()
            {
                let callback: OnEnd = Box::new(move |end| Box::pin(callback(end)));
                inbox.at_end.push((id, callback));
            }
            (id, inbox.end)
        });
        if let (Some(end), Some(callback)) = (end, callback) {
            R::spawn(callback(end));
        }
        id
    }

    /// Calls back whenever the machine's interfaces, addresses or default routes have changed, with the meaning for this
    /// pipe, until its end. It is waited for before the next call. Each costs a socket of the system on Linux, and
    /// elsewhere a comparison every 5 s.
    pub fn on_network_change<F, T>(&self, callback: F) -> CallbackId
    where
        F: Fn(NetworkChange) -> T + Send + Sync + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        let id = self.shared().change(|inbox| {
            let id = inbox.id();
            inbox.at_change.push(id);
            id
        });
        R::spawn(network::run(self.handle.shared.clone(), id, callback));
        id
    }

    /// Takes a callback away, of any kind; one that is running is not stopped. Returns false if there is none of
    /// this name.
    pub fn remove_callback(&self, id: CallbackId) -> bool {
        // What they hold may be this pipe, so they are dropped without the lock.
        let (gone, ended, unheard) = self.shared().change(|inbox| {
            let at = inbox.callbacks.iter().position(|(i, _)| *i == id);
            let gone = at.map(|at| inbox.callbacks.remove(at));
            let at = inbox.at_change.iter().position(|i| *i == id);
            // The task that listens waits with those that wait for the end.
            let unheard = at.map(|at| inbox.at_change.remove(at)).map(|_| inbox.over.take());
            let at = inbox.at_end.iter().position(|(i, _)| *i == id);
            (gone, at.map(|at| inbox.at_end.remove(at)), unheard)
        });
        let was = gone.is_some() || ended.is_some() || unheard.is_some();
        if let Some(listens) = unheard {
            listens.now();
        }
        was
    }

    /// Sends each message of this pipe to `other`'s destination until one of them ends; a UDP server has no
    /// destination. A message is sent before the next one is read. So a peer of `other` that does not read makes this
    /// pipe's peer wait. Two pipes, each added to the other, are a relay of messages; [`join`](Self::join) makes one
    /// that passes ends on. Adding a pipe twice is adding it once; one that is added to itself is an echo.
    pub fn add_pipe(&self, other: &Self) {
        self.link(Child { pipe: other.clone(), joined: false });
    }

    /// Undoes [`add_pipe`](Self::add_pipe); a message under way is still sent. Returns false if it was not added.
    pub fn del_pipe(&self, other: &Self) -> bool {
        let gone = self.shared().change(|inbox| {
            let at = inbox.children.iter().position(|c| c.pipe.is(other));
            at.map(|at| inbox.children.remove(at))
        });
        gone.is_some()
    }

    /// Makes this pipe and `other` one. Each message of either is sent on the other, with back-pressure, and the end of
    /// each direction is passed on. If one breaks or is closed, the other is reset. They hold each other until both
    /// have ended.
    pub fn join(&self, other: &Self) {
        self.link(Child { pipe: other.clone(), joined: true });
        other.link(Child { pipe: self.clone(), joined: true });
    }

    fn link(&self, child: Child<R>) {
        let too_late = self.shared().change(|inbox| {
            if let Some(end) = inbox.end {
                return Some((child, end, inbox.left()));
            }
            match inbox.children.iter_mut().find(|c| c.pipe.is(&child.pipe)) {
                Some(known) => known.joined |= child.joined,
                None => inbox.children.push(child),
            }
            None
        });
        if let Some((child, end, left)) = too_late {
            let ours = (child.joined && !left.is_empty()).then(|| self.clone());
            R::spawn(async move {
                let mut broken = false;
                for message in left {
                    broken = broken || !child.send(&message.data).await;
                }
                if let Some(ours) = ours
                    && broken
                {
                    ours.abort().await;
                }
                child.ended(end).await;
                child.other_direction().await;
            });
        }
    }

    /// Says to the peer of a stream that nothing more is sent; reading goes on.
    ///
    /// # Errors
    /// That it is closed already, or of `shutdown`.
    pub async fn finish(&self) -> Result<(), SendError> {
        let ending = async {
            let mut writer = self.shared().writer.lock().await;
            let ended = writer.end().await;
            *writer = Writer::Over;
            ended.map_err(|e| SendError::Failed(e.kind()))
        };
        self.shared().unless_closed(ending).await.unwrap_or(Err(SendError::Ended))
    }

    /// Ends the pipe. Data for which [`send`](Self::send) has returned is still sent; a send under way is broken off. A
    /// TCP peer whose data was not read sees a reset, which may cost it the last data sent to it. The socket is free
    /// once [`ended`](Self::ended) returns, too.
    pub async fn close(&self) {
        if !self.shared().close() {
            return;
        }
        let farewell = async {
            let mut writer = self.shared().writer.lock().await;
            if !self.shared().no_close {
                // Nobody is left to hear of it.
                let _ = writer.end().await;
            }
        };
        within::<R, _>(FAREWELL, farewell).await;
        *self.shared().writer.lock().await = Writer::Over;
    }

    /// Breaks the pipe off, so that the peer of a stream knows that its data is incomplete.
    pub async fn abort(&self) {
        self.shared().close();
        let mut writer = self.shared().writer.lock().await;
        if !self.shared().no_close {
            writer.reset();
        }
        *writer = Writer::Over;
    }

    /// Waits until reading has ended and the last message's callbacks are done.
    pub async fn ended(&self) -> End {
        self.shared().end().await
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.handle, &other.handle)
    }

    fn shared(&self) -> &Shared<R> {
        &self.handle.shared
    }
}

impl<R: Runtime> Child<R> {
    /// Sends a message on. Returns false if no more can be sent.
    pub(crate) async fn send(&self, data: &[u8]) -> bool {
        match self.pipe.send(data).await {
            Ok(()) => true,
            // It was one datagram that could not be sent.
            Err(why) => matches!(why, SendError::Failed(_)) && self.pipe.protocol() == Protocol::Udp,
        }
    }

    /// Passes the end of the linked pipe on, if the two are joined.
    pub(crate) async fn ended(&self, end: End) {
        match end {
            _ if !self.joined => {}
            // One that has ended before needs no end.
            End::Peer => drop(self.pipe.finish().await),
            End::Closed | End::Failed(_) => self.pipe.abort().await,
        }
    }

    /// Holds a joined pipe until it has ended, too.
    pub(crate) async fn other_direction(self) {
        if self.joined {
            self.pipe.ended().await;
        }
    }
}

/// Reason why a message was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SendError {
    /// The pipe was finished or closed here, or broke before.
    Ended,
    /// The pipe is a UDP server's, and the call names no destination.
    NoDestination,
    /// A stream goes to its peer only.
    NotThePeer,
    /// The system's error. A stream is broken by it, other datagrams are not concerned.
    Failed(io::ErrorKind),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SendError::Ended => f.write_str("the pipe has ended"),
            SendError::NoDestination => f.write_str("the pipe has no destination of its own"),
            SendError::NotThePeer => f.write_str("a stream goes to its peer only"),
            SendError::Failed(why) => write!(f, "sending failed: {why}"),
        }
    }
}

impl std::error::Error for SendError {}
