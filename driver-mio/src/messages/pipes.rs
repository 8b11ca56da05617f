//! Pipes of a loop, with the calls of their user.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use mio::event::{Event, Source};
use mio::{Interest, Registry, Token};
use p2pd_core::pipe::subscriptions::{Message, Pattern, Queue, SubscriptionId};
use p2pd_sys::Card;
use p2pd_sys::messages::{
    Destination, End, NetworkChange, OpenError, PipeOptions, Protocol, RecvError, Route, SystemSocket, lend,
    recv,
};

use super::network::Watch;
use super::pipe::{Entry, Link, Open, State};
use super::socket::Socket;
use super::tokens::{PipeId, Tokens, Whose};
use crate::names::Names;

const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);
/// Time that a closed pipe has to send the rest.
const FAREWELL: Duration = Duration::from_secs(5);

/// News of pipes.
#[derive(Debug)]
#[non_exhaustive]
pub enum News {
    /// A pipe that was [opened](Pipes::open) can be sent to.
    Opened(PipeId),
    /// The pipe could not be opened, and is gone.
    NotOpened(PipeId, OpenError),
    /// A TCP listener has a client.
    Accepted {
        /// The listener.
        on: PipeId,
        /// The client's pipe.
        pipe: PipeId,
    },
    /// A message came on a pipe that is [heard](Pipes::hear).
    Message(PipeId, Message),
    /// A pipe that had no room for a message has it again.
    Writable(PipeId),
    /// The machine's network has changed, for a pipe that [watches](Pipes::watch_network) it.
    Network(PipeId, NetworkChange),
    /// The reading of a pipe has ended. The pipe stays until it is closed, but for one that is [joined](Pipes::join).
    Ended(PipeId, End),
}

/// Pipes of messages in a mio loop. They do something only while they are called. Pass them their events by
/// [`handle`](Self::handle), and call [`tick`](Self::tick) after each turn of the loop. Take out the news of
/// [`poll`](Self::poll) until there are none, and wait no longer than [`timeout`](Self::timeout).
///
/// A pipe is there until it is closed. Dropping this breaks all of them off.
#[derive(Debug)]
pub struct Pipes {
    pub(super) registry: Registry,
    pub(super) tokens: Tokens,
    pub(super) names: Names<PipeId>,
    pub(super) each: BTreeMap<PipeId, Entry>,
    /// Pipes that wait for a turn.
    pub(super) work: VecDeque<PipeId>,
    pub(super) deadlines: BTreeSet<(Instant, PipeId)>,
    pub(super) news: VecDeque<News>,
    /// Buffer for one read.
    pub(super) buffer: Vec<u8>,
    /// Listeners that wait for a token.
    pub(super) crowded: Vec<PipeId>,
    /// The source of news of the network, while a pipe watches it.
    pub(super) network: Option<Watch>,
}

impl Pipes {
    /// Creates an empty set for this registry, with these tokens: one for each pipe and listener, and one more. A
    /// client that comes when no token is left waits to be accepted.
    ///
    /// # Errors
    /// The loop's own end.
    pub fn new(registry: &Registry, tokens: Range<usize>) -> io::Result<Self> {
        Ok(Pipes {
            registry: registry.try_clone()?,
            tokens: Tokens::new(tokens),
            names: Names::new(false),
            each: BTreeMap::new(),
            work: VecDeque::new(),
            deadlines: BTreeSet::new(),
            news: VecDeque::new(),
            buffer: Vec::new(),
            crowded: Vec::new(),
            network: None,
        })
    }

    /// Takes an event, if its token is one of these; false: it is yours.
    pub fn handle(&mut self, event: &Event) -> bool {
        match self.tokens.whose(event.token()) {
            Whose::Pipe(id) => {
                if let Some(entry) = self.each.get_mut(&id) {
                    entry.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
                    self.queue(id);
                } else {
                    self.hear_of_network(id);
                }
            }
            Whose::Names => self.take_answers(),
            Whose::Nobodys => {}
            Whose::Users => return false,
        }
        true
    }

    /// Returns the longest wait of the loop before the next [`tick`](Self::tick), for `Poll::poll`.
    pub fn timeout(&self) -> Option<Duration> {
        if !self.work.is_empty() || !self.news.is_empty() {
            return Some(Duration::ZERO);
        }
        let network = self.network.as_ref().and_then(|watch| watch.due);
        let at = self.deadlines.first().map(|(at, _)| *at).into_iter().chain(network).min()?;
        Some(at.saturating_duration_since(Instant::now()))
    }

    /// Reads, writes and accepts as far as possible, and does all work that is due.
    pub fn tick(&mut self) {
        let now = Instant::now();
        while let Some(&(at, id)) = self.deadlines.first()
            && at <= now
        {
            self.set_deadline(id, None);
            self.late(id);
        }
        self.compare_network(now);
        // Each once, so that one that is busy does not keep the loop.
        for _ in 0..self.work.len() {
            if let Some(id) = self.work.pop_front() {
                self.turn(id);
            }
        }
    }

    /// The next piece of news.
    pub fn poll(&mut self) -> Option<News> {
        let news = self.news.pop_front()?;
        if let News::Message(id, _) = &news
            && let Some(entry) = self.each.get_mut(id)
        {
            entry.unheard -= 1;
            self.queue(*id);
        }
        Some(news)
    }

    /// Opens a pipe to a destination: connects a TCP stream, or binds a UDP socket that sends there. [`News::Opened`]
    /// or [`News::NotOpened`] tells of it. A name's look-up and each connect take no longer than the options say. The
    /// pipe can be subscribed to, heard and linked before.
    ///
    /// # Errors
    /// The reason why nothing was begun.
    pub fn open(
        &mut self,
        protocol: Protocol,
        to: impl Into<Destination>,
        route: Route,
        options: &PipeOptions,
    ) -> Result<PipeId, OpenError> {
        self.begin(protocol, to.into(), route, options)
    }

    /// Creates a UDP server: a pipe without a destination, that answers with [`send_to`](Self::send_to). For TCP
    /// servers there is [`listen_all`](Self::listen_all).
    ///
    /// # Errors
    /// Of `bind`, for example that the port is taken; `OutOfMemory`: no token is left.
    pub fn bind(&mut self, route: Route, options: &PipeOptions) -> io::Result<PipeId> {
        let socket = mio::net::UdpSocket::from_std(options.udp(route)?);
        self.add(Socket::Udp(socket, None), options)
    }

    /// Wraps a socket that exists: mio's `TcpStream`, once it is connected, its `UdpSocket`, or a [`Pipe`](crate::Pipe)
    /// to a peer. It must be registered nowhere.
    ///
    /// # Errors
    /// Of `setsockopt`, or that a stream is not connected; `OutOfMemory`: no token is left.
    pub fn add(&mut self, socket: impl Into<Socket>, options: &PipeOptions) -> io::Result<PipeId> {
        let mut open = Open::new(socket.into(), options)?;
        self.insert(options, |registry, token| {
            registry.register(&mut open.socket, token, BOTH)?;
            Ok(State::Open(open))
        })
    }

    /// Returns the protocol of a pipe; a pipe to a peer counts as TCP. `None` while the pipe opens, and for one that is
    /// not there.
    pub fn protocol(&self, pipe: PipeId) -> Option<Protocol> {
        Some(self.open_one(pipe)?.protocol)
    }

    /// A pipe's own end; `None` while it opens, and for one that is not there.
    pub fn local_addr(&self, pipe: PipeId) -> Option<SocketAddr> {
        Some(self.open_one(pipe)?.local)
    }

    /// Returns the destination of a pipe; `None` for a UDP server, while the pipe opens, and for one that is not there.
    pub fn remote_addr(&self, pipe: PipeId) -> Option<SocketAddr> {
        self.open_one(pipe)?.remote
    }

    /// Returns the interface that has a pipe's local address, which takes about a millisecond. `None`: the pipe has all
    /// addresses or a relayed one, or its address is gone.
    pub fn interface(&self, pipe: PipeId) -> Option<Card> {
        p2pd_sys::card_of(self.local_addr(pipe)?)
    }

    /// Returns the source of a pipe: its local address, by its [`interface`](Self::interface). A
    /// [`RouteTable`](super::RouteTable) has the external addresses that it leads to.
    pub fn route(&self, pipe: PipeId) -> Option<Route> {
        Some(Route::of(self.local_addr(pipe)?))
    }

    /// Gives a pipe's socket to a function, for its options and its number. `None`: the pipe is not open, or it is a
    /// relayed address, which has no socket. Reading or writing on the socket breaks the pipe.
    pub fn with_socket<T>(&self, pipe: PipeId, work: impl FnOnce(SystemSocket<'_>) -> T) -> Option<T> {
        self.open_one(pipe)?.socket.sock().map(|socket| work(lend(&socket)))
    }

    /// Copies messages that match the first pattern, from senders whose `address:port` matches the second, into a queue
    /// with the limits of the pipe's options.
    ///
    /// # Errors
    /// The reason why there is no such subscription.
    pub fn subscribe(
        &mut self,
        pipe: PipeId,
        message: Pattern,
        peer: Pattern,
    ) -> Result<SubscriptionId, SubscribeError> {
        let queue = self.here(pipe).ok_or(SubscribeError::NoSuchPipe)?.options.queue;
        self.subscribe_with(pipe, message, peer, queue)
    }

    /// Subscribes as [`subscribe`](Self::subscribe) does, with other limits.
    ///
    /// # Errors
    /// As those of [`subscribe`](Self::subscribe).
    pub fn subscribe_with(
        &mut self,
        pipe: PipeId,
        message: Pattern,
        peer: Pattern,
        queue: Queue,
    ) -> Result<SubscriptionId, SubscribeError> {
        let entry = self.here(pipe).ok_or(SubscribeError::NoSuchPipe)?;
        let id = entry.subscriptions.subscribe(message, peer, queue);
        self.queue(pipe);
        id.ok_or(SubscribeError::TooMany)
    }

    /// Ends a subscription, with the messages in it. Returns false if there is none of this name.
    pub fn unsubscribe(&mut self, pipe: PipeId, id: SubscriptionId) -> bool {
        let was = self.each.get_mut(&pipe).is_some_and(|entry| entry.subscriptions.unsubscribe(id));
        self.queue(pipe);
        was
    }

    /// Messages that a subscription dropped because it was full; `None`: there is none of this name.
    pub fn dropped(&self, pipe: PipeId, id: SubscriptionId) -> Option<u64> {
        self.each.get(&pipe)?.subscriptions.dropped(id)
    }

    /// Messages that wait in a subscription; `None`: there is none of this name.
    pub fn waiting(&self, pipe: PipeId, id: SubscriptionId) -> Option<usize> {
        self.each.get(&pipe)?.subscriptions.waiting(id)
    }

    /// The oldest message of a subscription; `Ok(None)`: none has come yet.
    ///
    /// # Errors
    /// The reason why no message will come. Messages from before a pipe's end can still be received.
    pub fn recv(&mut self, pipe: PipeId, from: SubscriptionId) -> Result<Option<Message>, RecvError> {
        let entry = self.each.get_mut(&pipe).ok_or(RecvError::NoSuchSubscription)?;
        let end = entry.open().and_then(|open| open.end);
        let message = recv(&mut entry.subscriptions, from, end);
        if let Ok(Some(_)) = message {
            self.queue(pipe);
        }
        message
    }

    /// Switches [`News::Message`] for all messages of a pipe on or off, until the next call. Default: off. Returns
    /// false if there is no such pipe.
    pub fn hear(&mut self, pipe: PipeId, on: bool) -> bool {
        let Some(entry) = self.here(pipe) else { return false };
        entry.hears = on;
        self.queue(pipe);
        true
    }

    /// Sends to the destination, whole or not at all: a pipe has one message that the system has not taken all of.
    ///
    /// # Errors
    /// `WouldBlock`: it has one, or is not open yet, and [`News::Writable`] or [`News::Opened`] tells when to try
    /// again. `BrokenPipe`: the pipe was finished here, or broke before. `NotConnected`: the pipe is a UDP server's,
    /// which has no destination. `NotFound`: there is no such pipe. The system's: a stream is broken by it, other
    /// datagrams are not concerned.
    pub fn send(&mut self, pipe: PipeId, data: &[u8]) -> io::Result<()> {
        let open = self.sending(pipe)?;
        let to = open.remote.ok_or(io::ErrorKind::NotConnected)?;
        open.send(data, to)
    }

    /// Sends to an address: on a UDP pipe to any, on a stream to its one peer only. So a program for one protocol works
    /// on the other.
    ///
    /// # Errors
    /// As [`send`](Self::send); `InvalidInput`: a stream goes to its peer only.
    pub fn send_to(&mut self, pipe: PipeId, data: &[u8], to: SocketAddr) -> io::Result<()> {
        let open = self.sending(pipe)?;
        if open.protocol == Protocol::Tcp && open.remote != Some(to) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        open.send(data, to)
    }

    /// Returns true if a pipe takes a message now, which is once the system has taken the one before. An encrypted pipe
    /// to a peer may still hold two records, 32 KiB. `None` while the pipe opens, and for one that is not there.
    pub fn has_room(&self, pipe: PipeId) -> Option<bool> {
        Some(self.open_one(pipe)?.has_room())
    }

    fn sending(&mut self, pipe: PipeId) -> io::Result<&mut Open> {
        match self.each.get_mut(&pipe).map(|entry| &mut entry.state) {
            Some(State::Open(open)) => Ok(open),
            Some(State::Opening(_)) => Err(io::ErrorKind::WouldBlock.into()),
            Some(State::Leaving(_) | State::Listening(_)) | None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Sends each message of a pipe to another's destination until one of them ends; a UDP server has no destination.
    /// While the other has not sent a message nothing more is read. So a peer of the other pipe that does not read
    /// makes this one's wait. Two pipes, each linked to the other, are a relay of messages; [`join`](Self::join) makes
    /// one that passes ends on. Linking twice is linking once; one that is linked to itself is an echo. Returns false
    /// if one of them is not there.
    pub fn link(&mut self, from: PipeId, to: PipeId) -> bool {
        self.connect_to(from, Link { to, joined: false })
    }

    /// Undoes [`link`](Self::link). Returns false if they were not linked.
    pub fn unlink(&mut self, from: PipeId, to: PipeId) -> bool {
        let Some(entry) = self.each.get_mut(&from) else { return false };
        let before = entry.links.len();
        entry.links.retain(|link| link.to != to);
        let was = entry.links.len() < before;
        if let Some(other) = self.each.get_mut(&to) {
            other.sources.retain(|source| *source != from);
        }
        self.queue(from);
        was
    }

    /// Makes two pipes one. Each message of either is sent on the other, with back-pressure, and the end of each
    /// direction is passed on. If one breaks or is closed, the other is reset. Both go, with the messages in their
    /// subscriptions, once both directions have ended or one of them broke; their [`News::Ended`] come first. Returns
    /// false if one of them is not there.
    pub fn join(&mut self, one: PipeId, other: PipeId) -> bool {
        self.connect_to(one, Link { to: other, joined: true })
            && self.connect_to(other, Link { to: one, joined: true })
    }

    /// Ends the sending on a stream, after all that was sent; reading goes on. Returns false if it had ended, or there
    /// is no such pipe.
    pub fn finish(&mut self, pipe: PipeId) -> bool {
        let finishes = self.each.get_mut(&pipe).and_then(Entry::open_mut).is_some_and(Open::finish);
        self.queue(pipe);
        finishes
    }

    /// Ends a pipe, or a listener, which is not there any more from now on. Data that was sent still leaves, for 5 s at
    /// most. A TCP peer whose data was not read sees a reset, which may cost it the last data sent to it. Returns false
    /// if it was not there.
    pub fn close(&mut self, pipe: PipeId) -> bool {
        self.leave(pipe, Instant::now() + FAREWELL)
    }

    /// Breaks a pipe off, so that the peer of a stream knows that its data is incomplete. Returns false if the pipe was
    /// not there.
    pub fn abort(&mut self, pipe: PipeId) -> bool {
        self.break_off(pipe, None)
    }

    /// A pipe, or a listener, that the user is not done with.
    pub(super) fn here(&mut self, pipe: PipeId) -> Option<&mut Entry> {
        self.each.get_mut(&pipe).filter(|entry| !matches!(entry.state, State::Leaving(_)))
    }

    pub(super) fn open_one(&self, pipe: PipeId) -> Option<&Open> {
        self.each.get(&pipe)?.open()
    }

    /// Keeps the state that is made with a token, and is to be registered with it.
    pub(super) fn insert(
        &mut self,
        options: &PipeOptions,
        make: impl FnOnce(&Registry, Token) -> io::Result<State>,
    ) -> io::Result<PipeId> {
        let (id, token) = self.tokens.take().ok_or(io::ErrorKind::OutOfMemory)?;
        match make(&self.registry, token) {
            Ok(state) => {
                self.each.insert(id, Entry::new(token, options, state));
                Ok(id)
            }
            Err(e) => {
                self.give_back(token);
                Err(e)
            }
        }
    }

    /// Frees a token, for which listeners may wait.
    pub(super) fn give_back(&mut self, token: Token) {
        self.tokens.give_back(token);
        for listener in std::mem::take(&mut self.crowded) {
            self.queue(listener);
        }
    }

    /// Gives a pipe a turn at the next tick.
    pub(super) fn queue(&mut self, id: PipeId) {
        if let Some(entry) = self.each.get_mut(&id)
            && !entry.queued
        {
            entry.queued = true;
            self.work.push_back(id);
        }
    }

    pub(super) fn set_deadline(&mut self, id: PipeId, at: Option<Instant>) {
        let Some(entry) = self.each.get_mut(&id) else { return };
        if let Some(before) = std::mem::replace(&mut entry.deadline, at) {
            self.deadlines.remove(&(before, id));
        }
        self.deadlines.extend(at.map(|at| (at, id)));
    }

    /// Watches the socket of a pipe that opens.
    pub(super) fn watch(&self, source: &mut impl Source, token: Token) -> io::Result<()> {
        self.registry.register(source, token, BOTH)
    }
}

/// Reason why there is no subscription.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The pipe does not exist, or not any more.
    NoSuchPipe,
    /// The pipe has [`MAX_SUBSCRIPTIONS`](super::MAX_SUBSCRIPTIONS) already.
    TooMany,
}

impl fmt::Display for SubscribeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SubscribeError::NoSuchPipe => "there is no such pipe",
            SubscribeError::TooMany => "the pipe has as many subscriptions as it may have",
        })
    }
}

impl std::error::Error for SubscribeError {}
