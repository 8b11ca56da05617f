//! What a pipe's handles and its reading task have in common.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use p2pd_core::pipe::subscriptions::{Message, Queue, Subscriptions, Unique};
use tokio::sync::{Mutex as AsyncMutex, Notify, watch};

use super::carrier::Writer;
use super::open::Protocol;
use super::pipe::{CallbackId, End, MessagePipe};

pub(super) type Running = Pin<Box<dyn Future<Output = ()> + Send>>;
pub(super) type OnMessage = Arc<dyn Fn(Message, MessagePipe) -> Running + Send + Sync>;
pub(super) type OnEnd = Box<dyn FnOnce(End) -> Running + Send>;

pub(super) struct Shared {
    pub(super) protocol: Protocol,
    pub(super) local: SocketAddr,
    pub(super) remote: Option<SocketAddr>,
    pub(super) queue: Queue,
    pub(super) no_close: bool,
    inbox: Mutex<Inbox>,
    /// Something was delivered.
    pub(super) arrived: Notify,
    /// What is to be read has changed; the reading task alone waits for it.
    pub(super) changed: Notify,
    pub(super) state: watch::Sender<State>,
    pub(super) writer: AsyncMutex<Writer>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct State {
    /// How reading ended, and every callback with it.
    pub(super) end: Option<End>,
    /// Whether we are done with the pipe.
    pub(super) closed: bool,
}

#[derive(Default)]
pub(super) struct Inbox {
    pub(super) subscriptions: Subscriptions,
    pub(super) unique: Unique,
    pub(super) callbacks: Vec<(CallbackId, OnMessage)>,
    pub(super) children: Vec<Child>,
    pub(super) at_end: Vec<(CallbackId, OnEnd)>,
    pub(super) next: u64,
    /// Reading is over, and nobody will call what is added now.
    pub(super) over: bool,
}

/// A pipe that gets what comes.
#[derive(Clone, Debug)]
pub(super) struct Child {
    pub(super) pipe: MessagePipe,
    /// It gets the end, too.
    pub(super) joined: bool,
}

impl Shared {
    pub(super) fn new(
        protocol: Protocol,
        ends: (SocketAddr, Option<SocketAddr>),
        options: &super::PipeOptions,
        writer: Writer,
    ) -> Self {
        let unique = Unique::new(if options.unique { options.unique_kept } else { 0 });
        Shared {
            protocol,
            local: ends.0,
            remote: ends.1,
            queue: options.queue,
            no_close: options.no_close,
            inbox: Mutex::new(Inbox { unique, ..Inbox::default() }),
            arrived: Notify::new(),
            changed: Notify::new(),
            state: watch::channel(State::default()).0,
            writer: AsyncMutex::new(writer),
        }
    }

    pub(super) fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// We are done with the pipe. False: we were already.
    pub(super) fn close(&self) -> bool {
        self.state.send_if_modified(|state| !std::mem::replace(&mut state.closed, true))
    }
}

impl Inbox {
    /// Whether anybody wants what would be read, and can take it.
    pub(super) fn wants(&self) -> bool {
        let asked = !self.subscriptions.is_empty() || !self.callbacks.is_empty() || !self.children.is_empty();
        asked && self.subscriptions.may_read()
    }

    pub(super) fn id(&mut self) -> CallbackId {
        self.next += 1;
        CallbackId(self.next)
    }
}

/// Waits until we are done with the pipe.
pub(super) async fn closed(state: &mut watch::Receiver<State>) {
    // Its sender lives as long as whoever waits.
    let _ = state.wait_for(|s| s.closed).await;
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("protocol", &self.protocol)
            .field("local", &self.local)
            .field("remote", &self.remote)
            .field("state", &*self.state.borrow())
            .finish_non_exhaustive()
    }
}
