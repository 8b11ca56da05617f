//! A node with its loop.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{c_char, c_int};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mio::{Events, Poll, Token, Waker};
use p2pd_core::pipe::session::Direction;
use p2pd_core::{BrokerState, ConnectId, Event};
use p2pd_mio::{News, Node, QueryId, SessionId, Sessions};

use crate::border::{Handle, Locked, Out, OutStruct, error, free, make, on, put_text, text};
use crate::config::{Settings, node_id, p2pd_config};
use crate::event::*;
use crate::pipe::Pipes;
use crate::plan::{number, p2pd_plan, read_plan};
use crate::status::*;

// Tokens of the loop: of the node, of the sessions' connections, of its waker, and of pipes from there on.
const NODE: usize = 1 << 24;
const SESSIONS: usize = NODE + (1 << 16);
const WAKER: Token = Token(SESSIONS);
const PIPES: usize = SESSIONS + 1;

/// Names that wait to be looked up by the user, at most. An older one is taken for unknown.
const MOST_QUERIES: usize = 256;

/// A node: its sockets, calls, pipes and sessions.
pub struct p2pd_node {
    waker: Arc<Waker>,
    inner: Mutex<Locked<Inner>>,
}

impl fmt::Debug for p2pd_node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("p2pd_node").finish_non_exhaustive()
    }
}

impl Handle for p2pd_node {
    type Inner = Inner;

    fn inner(&self) -> &Mutex<Locked<Inner>> {
        &self.inner
    }
}

/// State of a node behind its lock.
#[derive(Debug)]
pub(crate) struct Inner {
    poll: Poll,
    ready: Events,
    waker: Arc<Waker>,
    /// The waker was rung after the last turn.
    stirred: bool,
    node: Node,
    pub(crate) sessions: Sessions,
    pub(crate) pipes: Pipes,
    calls: BTreeMap<u64, ConnectId>,
    queries: BTreeMap<u64, QueryId>,
    next_query: u64,
    /// Sessions with streams of the peer's to be told.
    pub(crate) accepting: VecDeque<(SessionId, Direction)>,
    /// Text of the last event.
    text: Vec<u8>,
}

/// Any thread may use a handle.
const _: () = {
    const fn moves<T: Send>() {}
    moves::<Locked<Inner>>();
};

impl Inner {
    fn open(settings: &Settings) -> Result<p2pd_node, Fault> {
        let system = |why: io::Error| Fault::new(P2PD_ERR_SYSTEM, why);
        let poll = Poll::new().map_err(system)?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER).map_err(system)?);
        let node = Node::builder(settings.config.clone()).own_names(settings.own_names);
        let node = node.bind(poll.registry(), 0..NODE).map_err(|why| Fault::new(P2PD_ERR_OPEN, why))?;
        let sessions = Sessions::new(poll.registry(), NODE..SESSIONS, settings.session).map_err(system)?;
        let mut inner = Inner {
            poll,
            ready: Events::with_capacity(256),
            waker: waker.clone(),
            stirred: false,
            node,
            sessions,
            pipes: Pipes::new(PIPES),
            calls: BTreeMap::new(),
            queries: BTreeMap::new(),
            next_query: 0,
            accepting: VecDeque::new(),
            text: Vec::new(),
        };
        // News and deadlines are there from the beginning.
        inner.stir();
        Ok(p2pd_node { waker, inner: Locked::new(inner) })
    }

    /// Makes the descriptor readable: there is something for a turn to do, of which the loop has no event.
    pub(crate) fn stir(&mut self) {
        if !self.stirred {
            // Without it the turn comes at the next event or deadline.
            self.stirred = self.waker.wake().is_ok();
        }
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.accepting.is_empty() {
            return Some(Duration::ZERO);
        }
        let pipes = self.pipes.timeout();
        [self.node.timeout(), self.sessions.timeout(), pipes].into_iter().flatten().min()
    }

    fn turn(&mut self, most: Option<Duration>) -> io::Result<()> {
        let wait = [self.timeout(), most].into_iter().flatten().min();
        match self.poll.poll(&mut self.ready, wait) {
            Ok(()) => {}
            // Nothing is ready, then, and what is due is done.
            Err(why) if why.kind() == io::ErrorKind::Interrupted => self.ready.clear(),
            Err(why) => return Err(why),
        }
        self.stirred = false;
        for event in &self.ready {
            if !self.node.handle(event) && !self.sessions.handle(event) {
                self.pipes.handle(event);
            }
        }
        self.node.tick();
        self.sessions.tick(&mut self.node);
        self.pipes.tick(self.poll.registry());
        Ok(())
    }

    /// Returns the next event. Those of the loop's sockets come last: they are about pipes that the others have told of.
    fn next(&mut self) -> Option<Told> {
        loop {
            if let Some(told) = self.next_stream() {
                return Some(told);
            }
            if let Some(news) = self.sessions.poll() {
                match self.of_session(news) {
                    Some(told) => return Some(told),
                    None => continue,
                }
            }
            let Some(news) = self.node.poll() else { return self.pipes.next_ready() };
            if let Some(told) = self.sessions.take(news).and_then(|news| self.told(news)) {
                return Some(told);
            }
        }
    }

    /// Translates news of the node; `None` for what C is not told.
    fn told(&mut self, news: News) -> Option<Told> {
        Some(match news {
            News::Opened(call, pipe) => {
                // A pipe of a call that was cancelled meanwhile is closed.
                let id = self.end_call(call)?;
                let peer = pipe.peer().to_string();
                match self.pipes.insert(self.poll.registry(), pipe) {
                    Ok(pipe) => Told::new(P2PD_EVENT_OPENED).call(id).pipe(pipe).text(peer),
                    Err(why) => {
                        let told = Told::new(P2PD_EVENT_NOT_OPENED).call(id);
                        told.status(P2PD_ERR_SYSTEM).text(why.to_string())
                    }
                }
            }
            News::NotOpened(call, why) => {
                let (id, fault) = (self.end_call(call)?, Fault::from(&why));
                Told::new(P2PD_EVENT_NOT_OPENED).call(id).status(fault.status).text(fault.text)
            }
            News::Incoming(pipe) => {
                let peer = pipe.peer().to_string();
                // One that cannot be watched is closed, which tells the peer.
                let pipe = self.pipes.insert(self.poll.registry(), pipe).ok()?;
                Told::new(P2PD_EVENT_INCOMING).pipe(pipe).text(peer)
            }
            News::LookUp(query, host) => {
                self.next_query += 1;
                self.queries.insert(self.next_query, query);
                if self.queries.len() > MOST_QUERIES
                    && let Some((_, oldest)) = self.queries.pop_first()
                {
                    self.node.resolved(oldest, &[]);
                }
                Told::new(P2PD_EVENT_LOOK_UP).query(self.next_query).text(String::from(host))
            }
            News::Event(event) => self.event(event)?,
            _ => return None,
        })
    }

    fn event(&self, event: Event) -> Option<Told> {
        Some(match event {
            Event::Listening { address } => Told::new(P2PD_EVENT_LISTENING).text(address.to_string()),
            Event::Ready { address } => Told::new(P2PD_EVENT_READY).text(address.to_string()),
            Event::ListenFailed { local, cause } => {
                Told::new(P2PD_EVENT_LISTEN_FAILED).text(format!("{local}: {cause}"))
            }
            Event::Broker { id, state } => {
                let (status, text) = match state {
                    BrokerState::Ready => (P2PD_OK, String::from("ready")),
                    BrokerState::Swallows => (P2PD_ERR_FAILED, String::from("it swallows messages")),
                    BrokerState::EndsAtMessages => {
                        (P2PD_ERR_FAILED, String::from("it ends the connection at messages"))
                    }
                    BrokerState::Lost(why) => (P2PD_ERR_SYSTEM, why.to_string()),
                    _ => (P2PD_ERR_FAILED, String::new()),
                };
                Told::new(P2PD_EVENT_BROKER).code(id.into()).status(status).text(text)
            }
            Event::Progress { connect, strategy, stage } => {
                // What sessions call by themselves has no id of the user's.
                let (id, _) = self.calls.iter().find(|(_, call)| **call == connect)?;
                let told = Told::new(P2PD_EVENT_PROGRESS).call(*id).code(number(strategy));
                told.text(format!("{strategy}: {stage}"))
            }
            Event::Ask { peer, .. } => Told::new(P2PD_EVENT_ASK).text(peer.to_string()),
            Event::AskOver { peer } => Told::new(P2PD_EVENT_ASK_OVER).text(peer.to_string()),
            Event::IdentityInUse => Told::new(P2PD_EVENT_IDENTITY_IN_USE),
            Event::Closed => Told::new(P2PD_EVENT_CLOSED),
            _ => return None,
        })
    }

    fn end_call(&mut self, call: ConnectId) -> Option<u64> {
        let id = call_id(call);
        self.calls.remove(&id).map(|_| id)
    }

    /// Closes a pipe. What has to leave first needs turns.
    pub(crate) fn close_pipe(&mut self, pipe: u64) -> Result<(), Fault> {
        if self.pipes.close(self.poll.registry(), pipe)? {
            self.stir();
        }
        Ok(())
    }

    #[cfg(unix)]
    pub(crate) fn take_pipe(&mut self, pipe: u64) -> Result<c_int, Fault> {
        self.pipes.take(self.poll.registry(), pipe)
    }

    pub(crate) fn connect_session(&mut self, to: &str, plan: p2pd_core::Plan) -> Result<SessionId, Fault> {
        let id = self.sessions.connect(&mut self.node, to, plan).map_err(|why| Fault::from(&why))?;
        self.stir();
        Ok(id)
    }
}

/// Id of a call for C: 0 is none.
fn call_id(call: ConnectId) -> u64 {
    u64::from(call.number()) + 1
}

/// Opens a node with these settings; it listens when this returns. The configuration may be freed afterwards. Its
/// p2pd_config_error has the text of an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_node_open(config: *mut p2pd_config, node: *mut *mut p2pd_node) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        on(config, |settings| {
            let mut fault = None;
            let status = make(node, || {
                Inner::open(settings).map_err(|why| {
                    let bare = Fault::bare(why.status);
                    fault = Some(why);
                    bare
                })
            });
            match fault {
                Some(fault) => Err(fault),
                None => Ok(status),
            }
        })
    }
}

/// Frees a node at once, with its pipes and sessions, which are cut off. Call p2pd_node_shutdown before, and go on until
/// P2PD_EVENT_CLOSED, to have brokers and routers told. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_node_free(node: *mut p2pd_node) {
    // SAFETY: as the header says.
    unsafe { free(node) }
}

/// Begins to end the node: calls fail, brokers are told, sockets closed. P2PD_EVENT_CLOSED follows within a second, or two where a
/// router has to close a port. Pipes live on until p2pd_node_free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_node_shutdown(node: *mut p2pd_node) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        on(node, |inner| {
            inner.node.shutdown();
            inner.stir();
            Ok(P2PD_OK)
        })
    }
}

/// Returns the text of the last call that failed on this node. It stays until the next one that fails, or the node is
/// freed. Empty before, and while another thread is in a call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_node_error(node: *const p2pd_node) -> *const c_char {
    // SAFETY: as the header says.
    unsafe { error(node) }.0
}

/// Returns the code that the peer gave, of the last call that failed on this node with P2PD_ERR_RESET; otherwise 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_node_error_code(node: *const p2pd_node) -> u32 {
    // SAFETY: as the header says.
    unsafe { error(node) }.1
}

/// Says which descriptor to watch, for reading only: an epoll or kqueue, the same for the node's life. It is readable
/// when there is something for p2pd_node_turn to do. Read nothing from it, and do not close it. P2PD_ERR_UNSUPPORTED on
/// Windows, which has no such thing yet: let p2pd_node_turn wait there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_node_fd(node: *mut p2pd_node, fd: *mut c_int) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        on(node, |inner| {
            let fd = Out::new(fd)?;
            #[cfg(unix)]
            {
                fd.put(std::os::fd::AsRawFd::as_raw_fd(&inner.poll));
                Ok(P2PD_OK)
            }
            #[cfg(not(unix))]
            {
                let _ = (inner, fd);
                Err(Fault::bare(P2PD_ERR_UNSUPPORTED))
            }
        })
    }
}

/// Says how many milliseconds to wait at most before the next p2pd_node_turn, as poll(2) takes it: 0 for not at all, -1
/// for as long as the descriptor is not readable. Ask after the events were taken. It gets shorter by turns only: calls
/// between them make the descriptor readable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_node_timeout(node: *mut p2pd_node, timeout_ms: *mut i32) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        on(node, |inner| {
            let place = Out::new(timeout_ms)?;
            place.put(inner.timeout().map_or(-1, millis));
            Ok(P2PD_OK)
        })
    }
}

/// Rounds up: a loop that woke before the time would turn round and round until it comes.
fn millis(wait: Duration) -> i32 {
    i32::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
}

/// Does what there is to do: call it when the descriptor is readable or the timeout has passed, then take the events. It waits for
/// something to do for up to `wait_ms` milliseconds: 0 for a loop of your own, -1 for ever. Before the dials of a punch
/// it sleeps up to 1.3 ms more, since these are timed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_node_turn(node: *mut p2pd_node, wait_ms: i32) -> p2pd_status {
    let most = u64::try_from(wait_ms).ok().map(Duration::from_millis);
    // SAFETY: as the header says.
    unsafe {
        on(node, |inner| match inner.turn(most) {
            Ok(()) => Ok(P2PD_OK),
            Err(why) => Err(Fault::new(P2PD_ERR_SYSTEM, why)),
        })
    }
}

/// Ends the wait of p2pd_node_turn, or makes the descriptor readable. This call alone may come from any thread,
/// while the node is not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_node_wake(node: *const p2pd_node) -> p2pd_status {
    // SAFETY: NULL, or a node that was not freed.
    match unsafe { node.as_ref() } {
        None => P2PD_ERR_NULL,
        Some(node) if node.waker.wake().is_ok() => P2PD_OK,
        Some(_) => P2PD_ERR_SYSTEM,
    }
}

/// Takes the next event; its `size` is set before. P2PD_AGAIN: there is none now, until after the next p2pd_node_turn.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_node_next_event(node: *mut p2pd_node, event: *mut p2pd_event) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        on(node, |inner| {
            let place = OutStruct::new(event)?;
            let Some(told) = inner.next() else { return Ok(P2PD_AGAIN) };
            place.put(told.give(&mut inner.text));
            Ok(P2PD_OK)
        })
    }
}

/// Copies the node's id: 52 characters and a zero byte. `length`, which may be NULL, is told the length without it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_node_id(
    node: *mut p2pd_node,
    buffer: *mut c_char,
    size: usize,
    length: *mut usize,
) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe { on(node, |inner| put_text(buffer, size, length, &inner.node.node_id().to_string())) }
}

/// Copies the address to hand out, with a zero byte. P2PD_AGAIN: it is not settled yet, and P2PD_EVENT_READY follows, within about
/// six seconds. P2PD_ERR_BUFFER: `length`, which may be NULL, says how long it is without the zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_node_address(
    node: *mut p2pd_node,
    buffer: *mut c_char,
    size: usize,
    length: *mut usize,
) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        on(node, |inner| match inner.node.address() {
            Some(address) => put_text(buffer, size, length, &address.to_string()),
            None => Ok(P2PD_AGAIN),
        })
    }
}

/// Begins to open a pipe, to an address or a name that ends with .peer, by a plan or the default of NULL. `call` gets an
/// id. P2PD_EVENT_OPENED or P2PD_EVENT_NOT_OPENED ends the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_node_connect(
    node: *mut p2pd_node,
    to: *const c_char,
    plan: *const p2pd_plan,
    call: *mut u64,
) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        on(node, |inner| {
            let (place, to, plan) = (Out::new(call)?, text(to)?, read_plan(plan)?);
            let call = inner.node.connect(to, plan).map_err(|why| Fault::from(&why))?;
            inner.calls.insert(call_id(call), call);
            inner.stir();
            place.put(call_id(call));
            Ok(P2PD_OK)
        })
    }
}

/// Gives a call up. No event of it follows. P2PD_ERR_UNKNOWN: it is over already.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_node_cancel(node: *mut p2pd_node, call: u64) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        on(node, |inner| {
            let call = inner.calls.remove(&call).ok_or_else(|| Fault::bare(P2PD_ERR_UNKNOWN))?;
            inner.node.cancel(call);
            inner.stir();
            Ok(P2PD_OK)
        })
    }
}

/// Answers P2PD_EVENT_ASK: whether the peer with this node id may have its pipe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_node_answer(
    node: *mut p2pd_node,
    peer: *const c_char,
    accept: bool,
) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        on(node, |inner| {
            inner.node.answer(node_id(text(peer)?)?, accept);
            inner.stir();
            Ok(P2PD_OK)
        })
    }
}

/// Answers P2PD_EVENT_LOOK_UP with the name's IP addresses, separated by blanks. NULL or an empty text: there is no such name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_node_resolved(
    node: *mut p2pd_node,
    query: u64,
    addresses: *const c_char,
) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        on(node, |inner| {
            let addresses = if addresses.is_null() { "" } else { text(addresses)? };
            let found: Result<Vec<IpAddr>, _> = addresses.split_ascii_whitespace().map(str::parse).collect();
            let found = found.map_err(|why| Fault::new(P2PD_ERR_ARGUMENT, why))?;
            let query = inner.queries.remove(&query).ok_or_else(|| Fault::bare(P2PD_ERR_UNKNOWN))?;
            inner.node.resolved(query, &found);
            inner.stir();
            Ok(P2PD_OK)
        })
    }
}

/// Returns the library's version, "0.1.0" for example. Always there.
#[unsafe(no_mangle)]
pub extern "C" fn p2pd_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}
