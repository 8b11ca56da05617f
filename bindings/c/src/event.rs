//! Events of a node.

use std::ffi::c_char;

use crate::border::Sized32;
use crate::status::*;

/// Kinds of events, with the fields of p2pd_event that each has. Later versions may have more: leave out what you do not know.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: C sees numbers.
pub enum p2pd_event_kind {
    /// The node listens. `text`: its address as known so far.
    P2PD_EVENT_LISTENING = 1,
    /// Outside addresses and brokers are settled. `text`: the address to hand out. Said again when it changes.
    P2PD_EVENT_READY = 2,
    /// The node cannot listen, so nobody reaches it directly. `text`: where, and why.
    P2PD_EVENT_LISTEN_FAILED = 3,
    /// The state of a broker changed. `code`: the broker's id. `status`: P2PD_OK if it is ready. `text`: in words.
    P2PD_EVENT_BROKER = 4,
    /// A call moved on. `call`; `code`: the p2pd_strategy that moved. `text`: in words.
    P2PD_EVENT_PROGRESS = 5,
    /// A call has its pipe. `call`, `pipe`; `text`: the peer's node id.
    P2PD_EVENT_OPENED = 6,
    /// A call has no pipe. `call`, `status`; `text`: why, strategy by strategy.
    P2PD_EVENT_NOT_OPENED = 7,
    /// A peer opened a pipe to this node. `pipe`; `text`: the peer's node id.
    P2PD_EVENT_INCOMING = 8,
    /// A peer wants a pipe, and the configuration says ask: p2pd_node_answer within 30 s. `text`: its node id.
    P2PD_EVENT_ASK = 9,
    /// A peer that was asked about has hung up. `text`: its node id.
    P2PD_EVENT_ASK_OVER = 10,
    /// Bytes, the end or an error can be read, after a read that gave P2PD_AGAIN, and once when the pipe is new. `pipe`.
    P2PD_EVENT_PIPE_READABLE = 11,
    /// A pipe takes bytes again, after a write that took fewer than it was given. `pipe`.
    P2PD_EVENT_PIPE_WRITABLE = 12,
    /// A call has its session. `session`.
    P2PD_EVENT_SESSION_OPENED = 13,
    /// A call has no session. `session`, which is gone; `status`, `text`: why.
    P2PD_EVENT_SESSION_NOT_OPENED = 14,
    /// A peer opened a session to this node. `session`; `text`: the peer's node id.
    P2PD_EVENT_SESSION_INCOMING = 15,
    /// The peer opened a stream. `session`, `stream`; `text`: its tag. `code`: 1 if only the peer sends on it.
    P2PD_EVENT_STREAM_INCOMING = 16,
    /// Bytes, the end or a reset can be read, after a read that gave P2PD_AGAIN. `session`, `stream`.
    P2PD_EVENT_STREAM_READABLE = 17,
    /// A stream takes bytes again, after a write that took fewer than it was given. `session`, `stream`.
    P2PD_EVENT_STREAM_WRITABLE = 18,
    /// The peer wants no more of a stream. `session`, `stream`, `code`: the peer's.
    P2PD_EVENT_STREAM_STOPPED = 19,
    /// Streams may be opened again, after p2pd_stream_open gave P2PD_AGAIN. `session`.
    P2PD_EVENT_SESSION_MAY_OPEN = 20,
    /// Datagrams have come: receive until P2PD_AGAIN. `session`.
    P2PD_EVENT_SESSION_DATAGRAM = 21,
    /// All that was written has arrived, after p2pd_session_delivered gave P2PD_AGAIN. `session`.
    P2PD_EVENT_SESSION_DELIVERED = 22,
    /// The session goes over another connection from now on. `session`.
    P2PD_EVENT_SESSION_MOVED = 23,
    /// The session has no connection, and waits for one, 60 s at most. `session`.
    P2PD_EVENT_SESSION_STRANDED = 24,
    /// The session is over: free it. `session`; `code`: the peer's; `text`: why.
    P2PD_EVENT_SESSION_ENDED = 25,
    /// A host name is to be looked up, with p2pd_config_own_names. `query`: for p2pd_node_resolved. `text`: the name.
    P2PD_EVENT_LOOK_UP = 26,
    /// A second process uses the node's key, and messages for the node reach both.
    P2PD_EVENT_IDENTITY_IN_USE = 27,
    /// The node has ended, after p2pd_node_shutdown. Pipes live on until p2pd_node_free.
    P2PD_EVENT_CLOSED = 28,
}

pub(crate) use p2pd_event_kind::*;

/// One event. Its fields are side by side and not a union, which cgo, LuaJIT and Python's ctypes read badly. A field that the kind
/// does not name is 0.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
// Exhaustive: C has its layout. It may grow at its end, and says its size.
pub struct p2pd_event {
    /// sizeof(p2pd_event), set by the caller before the call.
    pub size: u32,
    /// A number of p2pd_event_kind.
    pub kind: u32,
    /// Id that p2pd_node_connect gave.
    pub call: u64,
    /// Pipe. No id is used twice in a node, of each kind of id.
    pub pipe: u64,
    /// Session.
    pub session: u64,
    /// Question about a host name.
    pub query: u64,
    /// Stream of the session.
    pub stream: u32,
    /// Number, by kind.
    pub code: u32,
    /// Number of p2pd_status: how a call ended.
    pub status: i32,
    /// Always 0.
    pub reserved: u32,
    /// Text in UTF-8, or a stream's tag as the peer sent it, never NULL. The library's own, until the next p2pd_node_next_event or
    /// p2pd_node_free on this node. A zero byte follows it.
    pub text: *const c_char,
    /// Bytes of the text without its zero byte.
    pub text_size: usize,
}

// SAFETY: numbers and a pointer, the size first.
unsafe impl Sized32 for p2pd_event {
    const FIRST: usize = size_of::<p2pd_event>();
}

/// Event on its way to C.
#[derive(Debug)]
pub(crate) struct Told {
    event: p2pd_event,
    text: Vec<u8>,
}

impl Told {
    pub(crate) fn new(kind: p2pd_event_kind) -> Self {
        let event = p2pd_event {
            size: 0,
            kind: kind as u32,
            call: 0,
            pipe: 0,
            session: 0,
            query: 0,
            stream: 0,
            code: 0,
            status: 0,
            reserved: 0,
            text: std::ptr::null(),
            text_size: 0,
        };
        Told { event, text: Vec::new() }
    }

    pub(crate) fn call(mut self, id: u64) -> Self {
        self.event.call = id;
        self
    }

    pub(crate) fn pipe(mut self, id: u64) -> Self {
        self.event.pipe = id;
        self
    }

    pub(crate) fn session(mut self, id: u64) -> Self {
        self.event.session = id;
        self
    }

    pub(crate) fn stream(mut self, id: u32) -> Self {
        self.event.stream = id;
        self
    }

    pub(crate) fn query(mut self, id: u64) -> Self {
        self.event.query = id;
        self
    }

    pub(crate) fn code(mut self, code: u32) -> Self {
        self.event.code = code;
        self
    }

    pub(crate) fn status(mut self, status: p2pd_status) -> Self {
        self.event.status = status as i32;
        self
    }

    pub(crate) fn text(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.text = text.into();
        self
    }

    /// Returns the event with its text, which `keep` has from now on.
    pub(crate) fn give(self, keep: &mut Vec<u8>) -> p2pd_event {
        let text_size = self.text.len();
        *keep = self.text;
        keep.push(0);
        p2pd_event { text: keep.as_ptr().cast(), text_size, ..self.event }
    }
}
