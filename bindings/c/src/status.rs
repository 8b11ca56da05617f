//! Results of calls, and their texts.

use std::ffi::{CStr, c_char};
use std::fmt;

use p2pd_core::{ConnectError as NotBegun, FailReason};
use p2pd_mio::ConnectError;

/// Result of a call. Zero and above is no error; p2pd_node_error and p2pd_config_error have the text of an error.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: C sees numbers, and is told to take an unknown negative one for an error.
pub enum p2pd_status {
    /// Done.
    P2PD_OK = 0,
    /// Nothing now. An event says when to try again, where there is one to wait for.
    P2PD_AGAIN = 1,
    /// No bytes ever: the peer ended its direction, and all was read.
    P2PD_END = 2,
    /// A pointer is NULL that must not be.
    P2PD_ERR_NULL = -1,
    /// An argument is outside of what the call takes.
    P2PD_ERR_ARGUMENT = -2,
    /// A buffer is too small; the size that was wanted is said where the call has a place for it.
    P2PD_ERR_BUFFER = -3,
    /// The `size` of a struct is less than that of its first version, or it has fields set that this library does not know.
    P2PD_ERR_SIZE = -4,
    /// There is no call, pipe, session or question with this id any more.
    P2PD_ERR_UNKNOWN = -5,
    /// Another thread is in a call on this handle.
    P2PD_ERR_BUSY = -6,
    /// The library has a fault, which was caught. The handle answers nothing else from now on; free it.
    P2PD_ERR_PANIC = -7,
    /// The operating system gave an error.
    P2PD_ERR_SYSTEM = -8,
    /// Not to be had on the system, or with such a pipe.
    P2PD_ERR_UNSUPPORTED = -9,
    /// The text is neither a peer's address nor a name.
    P2PD_ERR_ADDRESS = -10,
    /// The key file cannot be used.
    P2PD_ERR_KEY = -11,
    /// The server list cannot be used.
    P2PD_ERR_SERVERS = -12,
    /// The configuration is wrong, or the node cannot listen where it says.
    P2PD_ERR_OPEN = -13,
    /// Too many calls, streams or bytes at a time.
    P2PD_ERR_LIMIT = -14,
    /// The node was shut down.
    P2PD_ERR_SHUTDOWN = -15,
    /// A call: its deadline passed.
    P2PD_ERR_DEADLINE = -16,
    /// A call: every strategy ended without a connection.
    P2PD_ERR_FAILED = -17,
    /// A call: the peer refused.
    P2PD_ERR_REFUSED = -18,
    /// A call: the peer's name was not found.
    P2PD_ERR_NAME = -19,
    /// A pipe broke: it was cut off, changed on its way, or its path is gone.
    P2PD_ERR_BROKEN = -20,
    /// The direction was ended here before.
    P2PD_ERR_CLOSED = -21,
    /// A stream: the peer gave its direction up; p2pd_node_error_code has its code.
    P2PD_ERR_RESET = -22,
    /// The session is over.
    P2PD_ERR_ENDED = -23,
}

pub(crate) use p2pd_status::*;

/// Returns the meaning of a status in a few words, without what was found in the case at hand. The text is the library's
/// own and is always there.
#[unsafe(no_mangle)]
pub extern "C" fn p2pd_status_text(status: i32) -> *const c_char {
    text(status).as_ptr()
}

fn text(status: i32) -> &'static CStr {
    const TEXTS: [(p2pd_status, &CStr); 26] = [
        (P2PD_OK, c"done"),
        (P2PD_AGAIN, c"nothing now"),
        (P2PD_END, c"the peer ended its direction"),
        (P2PD_ERR_NULL, c"a pointer is NULL"),
        (P2PD_ERR_ARGUMENT, c"an argument is out of range"),
        (P2PD_ERR_BUFFER, c"the buffer is too small"),
        (P2PD_ERR_SIZE, c"the size of a struct is wrong"),
        (P2PD_ERR_UNKNOWN, c"there is nothing with this id"),
        (P2PD_ERR_BUSY, c"another thread is in a call on this handle"),
        (P2PD_ERR_PANIC, c"the library has a fault"),
        (P2PD_ERR_SYSTEM, c"the system gave an error"),
        (P2PD_ERR_UNSUPPORTED, c"not to be had here"),
        (P2PD_ERR_ADDRESS, c"neither an address nor a name"),
        (P2PD_ERR_KEY, c"the key cannot be used"),
        (P2PD_ERR_SERVERS, c"the server list cannot be used"),
        (P2PD_ERR_OPEN, c"the node cannot be opened"),
        (P2PD_ERR_LIMIT, c"too much at a time"),
        (P2PD_ERR_SHUTDOWN, c"the node was shut down"),
        (P2PD_ERR_DEADLINE, c"the deadline passed"),
        (P2PD_ERR_FAILED, c"every strategy failed"),
        (P2PD_ERR_REFUSED, c"the peer refused"),
        (P2PD_ERR_NAME, c"the name was not found"),
        (P2PD_ERR_BROKEN, c"the pipe broke"),
        (P2PD_ERR_CLOSED, c"closed here before"),
        (P2PD_ERR_RESET, c"the peer gave the stream up"),
        (P2PD_ERR_ENDED, c"the session is over"),
    ];
    TEXTS.iter().find(|(of, _)| *of as i32 == status).map_or(c"unknown status", |(_, text)| *text)
}

/// An error on its way to C.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) status: p2pd_status,
    pub(crate) text: String,
    /// Code that the peer gave; 0 without one.
    pub(crate) code: u32,
}

/// Result of a call's inside.
pub(crate) type Done = Result<p2pd_status, Fault>;

impl Fault {
    pub(crate) fn new(status: p2pd_status, text: impl fmt::Display) -> Self {
        Fault { status, text: text.to_string(), code: 0 }
    }

    /// Fault whose status says all.
    pub(crate) fn bare(status: p2pd_status) -> Self {
        Self::new(status, text(status as i32).to_string_lossy())
    }

    pub(crate) fn of_peer(status: p2pd_status, code: u32) -> Self {
        let text = format!("{}, with code {code}", text(status as i32).to_string_lossy());
        Fault { status, text, code }
    }
}

impl From<&ConnectError> for Fault {
    fn from(why: &ConnectError) -> Self {
        let status = match why {
            ConnectError::Target(_) | ConnectError::NotBegun(NotBegun::NodeId(_)) => P2PD_ERR_ADDRESS,
            ConnectError::NotBegun(NotBegun::TooMany) => P2PD_ERR_LIMIT,
            ConnectError::NotBegun(NotBegun::Shutdown) | ConnectError::NodeGone => P2PD_ERR_SHUTDOWN,
            ConnectError::NotBegun(_) => P2PD_ERR_ARGUMENT,
            ConnectError::Failed(FailReason::DeadlinePassed, _) => P2PD_ERR_DEADLINE,
            ConnectError::Failed(FailReason::RefusedByPeer(_), _) => P2PD_ERR_REFUSED,
            ConnectError::Failed(FailReason::Name(_), _) => P2PD_ERR_NAME,
            ConnectError::Failed(FailReason::Shutdown, _) => P2PD_ERR_SHUTDOWN,
            ConnectError::Lost(_) => P2PD_ERR_BROKEN,
            _ => P2PD_ERR_FAILED,
        };
        Fault::new(status, why)
    }
}
