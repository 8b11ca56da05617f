//! An open pipe under a name: its queues, its writer, and the client that may have it for itself.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use p2pd_core::pipe::MAX_RECORD;
use p2pd_core::pipe::subscriptions::{Message, Queue, SubscriptionId, Subscriptions};
use p2pd_core::{Strategy, Target};
use p2pd_tokio::messages::{MessagePipe, PipeOptions, SendError};
use p2pd_tokio::{Pipe, PipeInfo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard, Semaphore, mpsc, oneshot, watch};

use super::answer::Refused;
use super::call::Subscribed;
use super::place::Place;
use super::queues::{QueueCall, Queues};
use crate::metrics::{Count, Metrics, Way};

/// Sends that may wait for one another.
const SENDS: usize = 16;
/// Longest wait for a send.
const SEND: Duration = Duration::from_secs(30);
/// Longest wait for the peer to take the rest, when a connection is closed.
const FAREWELL: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) name: String,
    pub(super) incoming: bool,
    info: PipeInfo,
    /// Peer that the call was to; `None` of a peer's.
    to: Option<Target>,
    place: Place,
    opened: SystemTime,
    write: Arc<AsyncMutex<WriteHalf<Pipe>>>,
    sends: Arc<Semaphore>,
    inbox: Mutex<Inbox>,
    /// Notified when a message was delivered, or a subscription ended.
    arrived: Notify,
    /// Notified when a message was taken, or a subscription ended.
    room: Notify,
    lend: mpsc::Sender<oneshot::Sender<Reading>>,
    state: watch::Sender<State>,
    /// Error of reading, once it failed.
    broke: OnceLock<String>,
    piped: AtomicBool,
    beside: Option<Beside>,
    pub(super) sent: Count,
    pub(super) received: Count,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
pub(super) enum State {
    Open,
    /// The peer sends no more, or the pipe broke. Earlier messages can still be received.
    PeerEnded,
    /// The connection was closed here. A send under way is completed.
    Closed,
    /// The sending was broken off.
    Cut,
}

/// A call that concerns the messages beside a relayed connection.
#[derive(Debug)]
pub(super) enum BesideCall {
    Send(Vec<u8>),
    Queue(QueueCall),
}

/// Messages beside a relayed connection. Nobody reads them before the first call, so that at most 64 wait.
#[derive(Debug)]
struct Beside {
    queues: Arc<Queues>,
    /// Limits of the subscription to everything, which the first call makes.
    queue: Queue,
    begun: AtomicBool,
}

#[derive(Debug)]
struct Inbox {
    subscriptions: Subscriptions,
    /// Subscriptions by the texts of their two patterns.
    named: BTreeMap<(String, String), SubscriptionId>,
}

/// The reading half, and where it is given back.
type Reading = (ReadHalf<Pipe>, oneshot::Sender<ReadHalf<Pipe>>);

impl Connection {
    /// Takes a pipe over. The returned connection has the subscription to everything that P2PD's documents have.
    ///
    /// # Errors
    /// Says why the messages beside a relayed pipe cannot be had.
    pub(super) fn new(
        name: String,
        to: Option<Target>,
        mut pipe: Pipe,
        place: Place,
        (queue, unique): (Queue, usize),
        metrics: &Arc<Metrics>,
    ) -> io::Result<Arc<Self>> {
        let info = *pipe;
        let strategy = info.strategy();
        let beside = Beside::new(&mut pipe, queue)?;
        let (read, write) = tokio::io::split(pipe);
        let mut subscriptions = Subscriptions::unique(unique);
        let all = Subscribed::everything();
        let named = subscriptions.subscribe(all.message.clone(), all.peer.clone(), queue);
        let named = named.map(|id| (all.key(), id)).into_iter().collect();
        let (lend, asked) = mpsc::channel(1);
        let connection = Arc::new(Connection {
            name,
            incoming: to.is_none(),
            info,
            to,
            place,
            opened: SystemTime::now(),
            write: Arc::new(AsyncMutex::new(write)),
            sends: Arc::new(Semaphore::new(SENDS)),
            inbox: Mutex::new(Inbox { subscriptions, named }),
            arrived: Notify::new(),
            room: Notify::new(),
            lend,
            state: watch::channel(State::Open).0,
            broke: OnceLock::new(),
            piped: AtomicBool::new(false),
            beside,
            sent: Count::new(Way::Sent, strategy, metrics),
            received: Count::new(Way::Received, strategy, metrics),
        });
        tokio::spawn(connection.clone().read(read, asked));
        Ok(connection)
    }

    /// Reads for the queues while nobody has the pipe for itself.
    async fn read(
        self: Arc<Self>,
        mut half: ReadHalf<Pipe>,
        mut asked: mpsc::Receiver<oneshot::Sender<Reading>>,
    ) {
        let mut buffer = vec![0; MAX_RECORD];
        let mut state = self.state.subscribe();
        let mut ended = false;
        loop {
            let room = self.room.notified();
            let may_read = !ended && self.inbox().subscriptions.may_read();
            tokio::select! {
                () = reached(&mut state, State::Closed) => return,
                Some(borrower) = asked.recv() => {
                    let (give_back, back) = oneshot::channel();
                    half = match borrower.send((half, give_back)) {
                        // The borrower keeps it if the pipe is at its end.
                        Ok(()) => match back.await {
                            Ok(half) => half,
                            Err(_) => return,
                        },
                        Err((half, _)) => half,
                    };
                }
                read = half.read(&mut buffer), if may_read => match read {
                    Ok(0) => {
                        ended = true;
                        self.advance(State::PeerEnded);
                    }
                    Err(why) => {
                        ended = true;
                        let _ = self.broke.set(why.to_string());
                        self.advance(State::PeerEnded);
                    }
                    Ok(n) => {
                        self.received.add(n);
                        let data = Bytes::copy_from_slice(&buffer[..n]);
                        self.inbox().subscriptions.deliver(&data, self.info.remote_addr());
                        self.arrived.notify_waiters();
                    }
                },
                () = room => {}
            }
        }
    }

    /// Sends all of it, after the sends before. It is sent to the end also if the caller leaves.
    pub(super) async fn send(self: &Arc<Self>, data: Bytes) -> Result<usize, Refused> {
        if self.piped.load(Ordering::Acquire) {
            return Err(Refused::Piped);
        }
        let permit = self.sends.clone().try_acquire_owned().map_err(|_| Refused::Busy)?;
        let (this, len) = (self.clone(), data.len());
        let sending = tokio::spawn(async move {
            let _permit = permit;
            let mut state = this.state.subscribe();
            let write = async {
                let mut half = this.write.lock().await;
                half.write_all(&data).await?;
                half.flush().await
            };
            tokio::select! {
                result = write => result.is_ok(),
                () = reached(&mut state, State::Cut) => false,
            }
        });
        match tokio::time::timeout(SEND, sending).await {
            Ok(Ok(true)) => {
                self.sent.add(len);
                Ok(len)
            }
            Ok(_) => Err(Refused::Ended),
            Err(_) => Err(Refused::PeerSlow),
        }
    }

    /// The next message of a subscription, with how many it has dropped so far.
    pub(super) async fn recv(&self, of: &Subscribed, timeout: Duration) -> Result<(Message, u64), Refused> {
        let mut state = self.state.subscribe();
        let deadline = tokio::time::sleep(timeout);
        tokio::pin!(deadline);
        loop {
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            // From here on nothing that arrives goes unnoticed.
            arrived.as_mut().enable();
            let over = *state.borrow() != State::Open;
            if let Some(message) = self.take(of)? {
                return Ok(message);
            }
            if over {
                return Err(Refused::Ended);
            }
            tokio::select! {
                () = arrived => {}
                _ = state.changed() => {}
                () = &mut deadline => return self.take(of)?.ok_or_else(|| Refused::Empty(self.name.clone())),
            }
        }
    }

    /// Returns true if there is this subscription.
    pub(super) fn knows(&self, of: &Subscribed) -> bool {
        self.inbox().named.contains_key(&of.key())
    }

    fn take(&self, of: &Subscribed) -> Result<Option<(Message, u64)>, Refused> {
        let mut inbox = self.inbox();
        let id = *inbox.named.get(&of.key()).ok_or(Refused::NoSuchSubscription)?;
        let message = inbox.subscriptions.recv(id);
        let dropped = inbox.subscriptions.dropped(id).unwrap_or_default();
        drop(inbox);
        self.room.notify_one();
        Ok(message.map(|message| (message, dropped)))
    }

    /// Subscribes; a subscription that exists is left as it is.
    pub(super) fn subscribe(&self, to: &Subscribed, queue: Queue) -> Result<(), Refused> {
        let mut inbox = self.inbox();
        if inbox.named.contains_key(&to.key()) {
            return Ok(());
        }
        let id = inbox.subscriptions.subscribe(to.message.clone(), to.peer.clone(), queue);
        let id = id.ok_or(Refused::TooMany("subscriptions"))?;
        inbox.named.insert(to.key(), id);
        Ok(())
    }

    pub(super) fn unsubscribe(&self, from: &Subscribed) -> Result<(), Refused> {
        let mut inbox = self.inbox();
        let id = inbox.named.remove(&from.key()).ok_or(Refused::NoSuchSubscription)?;
        inbox.subscriptions.unsubscribe(id);
        drop(inbox);
        self.room.notify_one();
        // Whoever waits for its messages learns that there will be none.
        self.arrived.notify_waiters();
        Ok(())
    }

    /// Has the pipe for oneself, until it is given back or ends.
    pub(super) async fn borrow(self: &Arc<Self>) -> Result<Borrowed, Refused> {
        if *self.state.borrow() >= State::Closed {
            return Err(Refused::Ended);
        }
        if self.piped.swap(true, Ordering::AcqRel) {
            return Err(Refused::Piped);
        }
        let mut borrowed = Borrowed { connection: self.clone(), read: None, write: None };
        let (borrower, lent) = oneshot::channel();
        self.lend.send(borrower).await.map_err(|_| Refused::Ended)?;
        borrowed.read = Some(lent.await.map_err(|_| Refused::Ended)?);
        // Sends that were begun come first.
        let write = tokio::time::timeout(SEND, self.write.clone().lock_owned()).await;
        borrowed.write = Some(write.map_err(|_| Refused::PeerSlow)?);
        Ok(borrowed)
    }

    /// Sends a message beside the connection's bytes, whole or not at all.
    pub(super) async fn send_beside(&self, data: &[u8]) -> Result<usize, Refused> {
        match tokio::time::timeout(SEND, self.beside()?.pipe.send(data)).await {
            Ok(Ok(())) => Ok(data.len()),
            Ok(Err(SendError::Failed(io::ErrorKind::InvalidInput))) => Err(Refused::TooLong),
            Ok(Err(_)) => Err(Refused::Ended),
            Err(_) => Err(Refused::Busy),
        }
    }

    /// The messages beside the connection's bytes.
    pub(super) fn beside(&self) -> Result<Arc<Queues>, Refused> {
        let beside = self.beside.as_ref().ok_or(Refused::NotRelayed)?;
        if !beside.begun.load(Ordering::Acquire) {
            beside.queues.subscribe(&Subscribed::everything(), beside.queue)?;
            beside.begun.store(true, Ordering::Release);
        }
        Ok(beside.queues.clone())
    }

    /// Ends the connection: sent data arrives, if the peer takes it within 5 s.
    pub(super) fn close(self: &Arc<Self>) {
        if !self.advance(State::Closed) {
            return;
        }
        let this = self.clone();
        tokio::spawn(async move {
            let farewell = async { this.write.lock().await.shutdown().await };
            let _ = tokio::time::timeout(FAREWELL, farewell).await;
            this.advance(State::Cut);
        });
    }

    /// Breaks the connection off, so that the peer knows that its data is incomplete.
    pub(super) fn cut(&self) {
        self.advance(State::Cut);
    }

    /// Advances the state, and returns true if the state was earlier than `to`.
    fn advance(&self, to: State) -> bool {
        self.state.send_if_modified(|state| {
            let earlier = *state < to;
            if earlier {
                *state = to;
            }
            earlier
        })
    }

    /// Returns why the connection broke, if it did and that was seen.
    pub(super) fn broke(&self) -> Option<&str> {
        self.broke.get().map(String::as_str)
    }

    /// Waits until the connection is not open any more, as far as is known here.
    pub(super) async fn ended(&self) -> State {
        let mut state = self.state.subscribe();
        state.wait_for(|s| *s != State::Open).await.map_or(State::Closed, |s| *s)
    }

    /// Returns whom to call for another connection to the peer. One that called is known where it is a paired machine, or
    /// is searched for in the networks of this machine.
    pub(super) fn target(&self, lan: bool) -> Result<Target, Refused> {
        let peer = self.info.peer();
        let known =
            self.to.clone().or_else(|| crate::peers::of(peer).map(|at| Target::Address(Box::new(at))));
        let near = || crate::lan::bare(peer).ok().filter(|_| lan);
        known.or_else(near).ok_or_else(|| Refused::NoAddress(self.name.clone()))
    }

    /// Returns the number of messages that wait in all subscriptions.
    pub(super) fn waiting(&self) -> u64 {
        let inbox = self.inbox();
        inbox.named.values().filter_map(|id| inbox.subscriptions.waiting(*id)).sum::<usize>() as u64
    }

    /// Returns true if messages wait in any subscription.
    pub(super) fn has_messages(&self) -> bool {
        let inbox = self.inbox();
        inbox.named.values().any(|id| inbox.subscriptions.waiting(*id) > Some(0))
            || self.beside.as_ref().is_some_and(|beside| beside.queues.has_messages())
    }

    /// Returns the connection as P2PD's documents have it, with fields that they lack.
    pub(super) fn to_json(&self) -> Value {
        let pair = |at: std::net::SocketAddr| json!([at.ip().to_string(), at.port()]);
        let inbox = self.inbox();
        let all = inbox.named.get(&Subscribed::everything().key());
        let waiting = all.and_then(|id| inbox.subscriptions.waiting(*id));
        let dropped: u64 = inbox.named.values().filter_map(|id| inbox.subscriptions.dropped(*id)).sum();
        let opened = self.opened.duration_since(UNIX_EPOCH).unwrap_or_default();
        json!({
            "name": self.name, "incoming": self.incoming, "peer": self.info.peer().to_string(),
            "strategy": p2pd_strategy(self.info.strategy()), "mode": self.info.mode().to_string(),
            "protocol": self.info.protocol().map(|tag| tag.to_string()),
            "route": self.place.route, "if": self.place.interface, "fd": self.place.fd,
            "laddr": pair(self.place.local), "raddr": pair(self.info.remote_addr()),
            "elapsed_ms": self.info.elapsed().as_secs_f64() * 1e3,
            "opened": opened.as_secs_f64(), "sent": self.sent.get(),
            "received": self.received.get(), "waiting": waiting, "dropped": dropped,
            "subscriptions": inbox.subscriptions.len(), "piped": self.piped.load(Ordering::Relaxed),
            "ended": *self.state.borrow() != State::Open, "messages": self.beside.is_some(),
        })
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Beside {
    /// Takes the messages of a relayed pipe; `None` of another.
    fn new(pipe: &mut Pipe, queue: Queue) -> io::Result<Option<Self>> {
        let messages = match pipe.messages() {
            Ok(messages) => MessagePipe::new(messages, &PipeOptions::default())?,
            Err(why) if why.kind() == io::ErrorKind::Unsupported => return Ok(None),
            Err(why) => return Err(why),
        };
        Ok(Some(Beside { queues: Arc::new(Queues::new(messages)), queue, begun: AtomicBool::new(false) }))
    }
}

impl Subscribed {
    /// Returns the subscription that every connection has from its start.
    pub(super) fn everything() -> Self {
        use p2pd_core::pipe::subscriptions::Pattern;
        Subscribed { message: Pattern::ANY, peer: Pattern::ANY }
    }

    pub(super) fn key(&self) -> (String, String) {
        (self.message.as_str().to_owned(), self.peer.as_str().to_owned())
    }
}

async fn reached(state: &mut watch::Receiver<State>, end: State) {
    let _ = state.wait_for(|s| *s >= end).await;
}

/// Returns P2PD's name of a strategy.
pub(super) fn p2pd_strategy(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::Direct => "direct connect",
        Strategy::Reverse => "reverse connect",
        Strategy::Punch => "tcp punch",
        Strategy::Udp => "udp punch",
        Strategy::Relay => "turn relay",
        other => other.name(),
    }
}

/// A pipe that one client has for itself. Dropped, it goes back to the queues.
#[derive(Debug)]
pub(super) struct Borrowed {
    pub(super) connection: Arc<Connection>,
    read: Option<Reading>,
    write: Option<OwnedMutexGuard<WriteHalf<Pipe>>>,
}

impl Borrowed {
    /// The next message that waited for everybody when the pipe was borrowed.
    pub(super) fn waiting(&self) -> Option<Bytes> {
        self.connection.take(&Subscribed::everything()).ok()?.map(|(message, _)| message.data)
    }

    /// Returns both halves; `None` only of a borrowing that failed.
    pub(super) fn halves(&mut self) -> Option<(&mut ReadHalf<Pipe>, &mut WriteHalf<Pipe>)> {
        Some((&mut self.read.as_mut()?.0, self.write.as_mut()?))
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.write = None;
        if let Some((half, back)) = self.read.take() {
            let _ = back.send(half);
        }
        self.connection.piped.store(false, Ordering::Release);
    }
}
