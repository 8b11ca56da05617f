//! State that a pipe's handles and its reading task share.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use async_lock::Mutex as AsyncMutex;
use p2pd_core::pipe::subscriptions::{Message, Queue, SubscriptionId, Subscriptions, Unique};
use p2pd_sys::messages::{End, PipeOptions, Protocol, RecvError, recv};

use crate::carrier::{Grip, Writer};
use crate::pipe::{CallbackId, MessagePipe};
use crate::runtime::Runtime;
use crate::waiters::{Ticket, Waiters};

pub(crate) type Running = Pin<Box<dyn Future<Output = ()> + Send>>;
pub(crate) type OnMessage<R> = Arc<dyn Fn(Message, MessagePipe<R>) -> Running + Send + Sync>;
pub(crate) type OnEnd = Box<dyn FnOnce(End) -> Running + Send>;

pub(crate) struct Shared<R: Runtime> {
    pub(crate) protocol: Protocol,
    pub(crate) local: SocketAddr,
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) queue: Queue,
    pub(crate) no_close: bool,
    pub(crate) socket: Grip<R>,
    inbox: Mutex<Inbox<R>>,
    closed: AtomicBool,
    pub(crate) writer: AsyncMutex<Writer<R>>,
}

pub(crate) struct Inbox<R: Runtime> {
    pub(crate) subscriptions: Subscriptions,
    pub(crate) unique: Unique,
    pub(crate) callbacks: Vec<(CallbackId, OnMessage<R>)>,
    pub(crate) children: Vec<Child<R>>,
    pub(crate) at_end: Vec<(CallbackId, OnEnd)>,
    /// Callbacks at changes of the network, each of which has a task.
    pub(crate) at_change: Vec<CallbackId>,
    /// Messages that were read while nobody wanted any.
    held: VecDeque<Message>,
    /// True if a peer's end is to be seen: on streams.
    has_end: bool,
    next: u64,
    /// Outcome of reading; nobody calls callbacks that are added after it.
    pub(crate) end: Option<End>,
    /// The reading task, which waits.
    reader: Option<Waker>,
    /// Tasks that wait for a delivery, or for the end of a subscription or of reading.
    pub(crate) arrived: Waiters,
    /// Tasks that wait for the end of reading, or of the pipe on this side.
    pub(crate) over: Waiters,
}

/// Messages and bytes that are read ahead for nobody, so that the end behind them is seen.
const AHEAD: (usize, usize) = (16, 64 * 1024);

/// Next step of the reading task.
pub(crate) enum Step {
    /// Deliver this message, which was read before.
    Deliver(Message),
    /// Read.
    Read,
}

/// A pipe that gets a copy of each message.
#[derive(Clone, Debug)]
pub(crate) struct Child<R: Runtime> {
    pub(crate) pipe: MessagePipe<R>,
    /// The pipe gets the end, too.
    pub(crate) joined: bool,
}

/// Error: the pipe was closed on this side.
pub(crate) struct Closed;

impl<R: Runtime> Shared<R> {
    pub(crate) fn new(
        protocol: Protocol,
        ends: (SocketAddr, Option<SocketAddr>),
        options: &PipeOptions,
        (writer, socket): (Writer<R>, Grip<R>),
    ) -> Self {
        let inbox = Inbox {
            subscriptions: Subscriptions::default(),
            unique: Unique::new(if options.unique { options.unique_kept } else { 0 }),
            callbacks: Vec::new(),
            children: Vec::new(),
            at_end: Vec::new(),
            at_change: Vec::new(),
            held: VecDeque::new(),
            has_end: protocol == Protocol::Tcp,
            next: 0,
            end: None,
            reader: None,
            arrived: Waiters::default(),
            over: Waiters::default(),
        };
        Shared {
            protocol,
            local: ends.0,
            remote: ends.1,
            queue: options.queue,
            no_close: options.no_close,
            socket,
            inbox: Mutex::new(inbox),
            closed: AtomicBool::new(false),
            writer: AsyncMutex::new(writer),
        }
    }

    pub(crate) fn inbox(&self) -> MutexGuard<'_, Inbox<R>> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes state on which the reading task depends: whether there is anything to read for.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Inbox<R>) -> T) -> T {
        let mut inbox = self.inbox();
        let before = (inbox.wants(), inbox.reads_ahead());
        let done = change(&mut inbox);
        let after = (inbox.wants(), inbox.reads_ahead());
        let reader = if before == after { None } else { inbox.reader.take() };
        drop(inbox);
        if let Some(reader) = reader {
            reader.wake();
        }
        done
    }

    /// Waits until somebody wants the next message and can take it, or the end. Only the reading task calls this.
    pub(crate) fn poll_step(&self, cx: &Context<'_>) -> Poll<Result<Step, Closed>> {
        let mut inbox = self.inbox();
        // Whoever closes has said so before it looks for the waker.
        if self.is_closed() {
            return Poll::Ready(Err(Closed));
        }
        match &mut inbox.reader {
            Some(known) => known.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        if inbox.wants() {
            return Poll::Ready(Ok(inbox.held.pop_front().map_or(Step::Read, Step::Deliver)));
        }
        if inbox.reads_ahead() { Poll::Ready(Ok(Step::Read)) } else { Poll::Pending }
    }

    /// Returns the message if somebody wants it now, and keeps it for the next one otherwise.
    pub(crate) fn wanted(&self, message: Message) -> Option<Message> {
        let mut inbox = self.inbox();
        if inbox.wants() && inbox.held.is_empty() {
            return Some(message);
        }
        inbox.held.push_back(message);
        None
    }

    /// Closes the pipe on this side. Returns false if it was closed already.
    pub(crate) fn close(&self) -> bool {
        if self.closed.swap(true, Ordering::SeqCst) {
            return false;
        }
        let mut inbox = self.inbox();
        let (reader, over) = (inbox.reader.take(), inbox.over.take());
        drop(inbox);
        if let Some(reader) = reader {
            reader.wake();
        }
        over.now();
        true
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Notes the end of reading, unless a message is held that somebody wants by now, which is returned. Whoever comes
    /// after the note takes what is held.
    pub(crate) fn last(&self, end: End) -> Option<Message> {
        let mut inbox = self.inbox();
        let heard = inbox.is_heard() && end != End::Closed && !self.is_closed();
        let message = if heard { inbox.held.pop_front() } else { None };
        if message.is_none() {
            inbox.end = Some(end);
        }
        message
    }

    /// Ends the reading: nobody is called, or waits, from here on. Returns the children and the callbacks at the end
    /// that there were.
    pub(crate) fn end_with(&self, end: End) -> (Vec<Child<R>>, Vec<(CallbackId, OnEnd)>) {
        let mut inbox = self.inbox();
        inbox.end = Some(end);
        let callbacks = std::mem::take(&mut inbox.callbacks);
        let children = std::mem::take(&mut inbox.children);
        let at_end = std::mem::take(&mut inbox.at_end);
        let (arrived, over) = (inbox.arrived.take(), inbox.over.take());
        drop(inbox);
        // What callbacks hold may be pipes, whose end takes locks.
        drop(callbacks);
        arrived.now();
        over.now();
        (children, at_end)
    }

    /// Waits for the end of reading.
    pub(crate) async fn end(&self) -> End {
        let mut waiting = Waiting { shared: self, of: |inbox| &mut inbox.over, ticket: Ticket::default() };
        poll_fn(|cx| {
            let mut inbox = self.inbox();
            match inbox.end {
                Some(end) => Poll::Ready(end),
                None => waiting.register(&mut inbox, cx),
            }
        })
        .await
    }

    /// Waits for the end of reading, or until this callback at changes of the network was taken away.
    pub(crate) async fn unheard(&self, id: CallbackId) {
        let mut waiting = Waiting { shared: self, of: |inbox| &mut inbox.over, ticket: Ticket::default() };
        poll_fn(|cx| {
            let mut inbox = self.inbox();
            match inbox.end.is_some() || !inbox.at_change.contains(&id) {
                true => Poll::Ready(()),
                false => waiting.register(&mut inbox, cx),
            }
        })
        .await;
    }

    /// The oldest message of a subscription, as soon as there is one.
    pub(crate) async fn message(&self, from: SubscriptionId) -> Result<Message, RecvError> {
        let mut waiting = Waiting { shared: self, of: |inbox| &mut inbox.arrived, ticket: Ticket::default() };
        poll_fn(|cx| {
            self.change(|inbox| match recv(&mut inbox.subscriptions, from, inbox.end) {
                Ok(None) => waiting.register(inbox, cx),
                Ok(Some(message)) => Poll::Ready(Ok(message)),
                Err(why) => Poll::Ready(Err(why)),
            })
        })
        .await
    }

    /// Returns the output of a future, unless the pipe is closed on this side before.
    pub(crate) async fn unless_closed<T>(&self, work: impl Future<Output = T>) -> Result<T, Closed> {
        let mut waiting = Waiting { shared: self, of: |inbox| &mut inbox.over, ticket: Ticket::default() };
        let mut work = pin!(work);
        poll_fn(|cx| {
            if self.is_closed() {
                return Poll::Ready(Err(Closed));
            }
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            let mut inbox = self.inbox();
            // Whoever closes has said so before it takes out who waits.
            if self.is_closed() { Poll::Ready(Err(Closed)) } else { waiting.register(&mut inbox, cx) }
        })
        .await
    }
}

/// A task that waits for a change of the inbox, until this is dropped.
struct Waiting<'a, R: Runtime> {
    shared: &'a Shared<R>,
    of: fn(&mut Inbox<R>) -> &mut Waiters,
    ticket: Ticket,
}

impl<R: Runtime> Waiting<'_, R> {
    fn register<T>(&mut self, inbox: &mut Inbox<R>, cx: &Context<'_>) -> Poll<T> {
        (self.of)(inbox).wait(&mut self.ticket, cx);
        Poll::Pending
    }
}

impl<R: Runtime> Drop for Waiting<'_, R> {
    fn drop(&mut self) {
        if self.ticket.has_waited() {
            (self.of)(&mut self.shared.inbox()).leave(&self.ticket);
        }
    }
}

impl<R: Runtime> Inbox<R> {
    fn wants(&self) -> bool {
        self.is_heard() && self.subscriptions.may_read()
    }

    fn is_heard(&self) -> bool {
        !self.subscriptions.is_empty() || !self.callbacks.is_empty() || !self.children.is_empty()
    }

    /// Returns true if nobody wants a message but somebody the end.
    fn reads_ahead(&self) -> bool {
        let bytes: usize = self.held.iter().map(|message| message.data.len()).sum();
        let room = self.held.len() < AHEAD.0 && bytes < AHEAD.1;
        self.has_end && room && !self.at_end.is_empty() && !self.wants()
    }

    /// Copies what was read for nobody into a subscription that came after the end.
    pub(crate) fn catch_up(&mut self) {
        for message in self.left() {
            self.subscriptions.deliver(&message.data, message.from);
        }
    }

    /// Takes out what was read for nobody, once reading has ended: the reading task delivers it before.
    pub(crate) fn left(&mut self) -> Vec<Message> {
        let held = if self.end.is_some() { std::mem::take(&mut self.held) } else { VecDeque::new() };
        held.into_iter().filter(|message| self.unique.is_new(&message.data, message.from)).collect()
    }

    pub(crate) fn id(&mut self) -> CallbackId {
        self.next += 1;
        CallbackId(self.next)
    }
}

impl<R: Runtime> fmt::Debug for Shared<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("protocol", &self.protocol)
            .field("local", &self.local)
            .field("remote", &self.remote)
            .field("end", &self.inbox().end)
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}
