//! Meetings: two nodes that know nothing of each other but a short code, and come to know each other's addresses.
//!
//! The host draws a [`Code`], which its user tells the guest's user. Both follow a topic made of the code's number. There
//! each proves by SPAKE2 that it has the code before it says who it is; then each gets the other's address, sealed. What
//! follows is an ordinary call. A wrong guess burns the code.
//!
//! [`Node::meet`](crate::Node::meet) begins one, and [`Event::Meeting`](crate::Event::Meeting) says what becomes of it. The reasons: ADR 39 in docs/src/adr.

mod code;
#[cfg(feature = "meetings")]
mod proof;
#[cfg(feature = "meetings")]
pub(crate) mod room;
#[cfg(feature = "meetings")]
mod wire;

#[cfg(all(test, feature = "meetings"))]
pub(crate) use proof::sample;

use core::fmt;

use crate::address::PeerAddress;

pub use code::{Code, CodeError};

/// Version of the protocol, which stands in every message and in the topics.
const VERSION: u8 = 1;

/// Most meetings of a node at a time.
pub const MAX_MEETINGS: usize = 8;
/// Most codes that a host draws for one meeting, each after a wrong guess at the one before.
pub const MAX_CODES: u8 = 3;

/// Id of one meeting, unique within a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MeetingId(pub(crate) u32);

impl MeetingId {
    /// Returns the bare number.
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Debug for MeetingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m{}", self.0)
    }
}

/// News of a meeting.
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MeetingNews {
    /// The host waits for a guest with this code, which is a secret of both.
    Code(Code),
    /// Somebody tried a wrong code. The host's is of no use any more; another or the end follows.
    Guessed,
    /// The other side proved the code, and this is its address. A guest accepts calls of that node from here on; the host
    /// is told a little later, and may call at once.
    Met(Box<PeerAddress>),
    /// The meeting is over, after [`Met`](Self::Met). A guest knows that the host has its address. A host has stayed 3 s, so
    /// that the guest could hear that.
    Done,
    /// To a guest, in place of [`Done`](Self::Done): within 30 s the host has not said that it has the guest's address. It
    /// may have it or not.
    Unconfirmed,
    /// The meeting is over without an address.
    Failed(MeetingError),
}

/// Reason that a meeting came to nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MeetingError {
    /// No broker is configured, or none took the subscription within 10 s.
    NoBroker,
    /// Nobody with this code came in time.
    Nobody,
    /// The host had to do with somebody else all the time.
    Busy,
    /// The host has another code, or somebody between altered what was said.
    WrongCode,
    /// [`MAX_CODES`] codes were guessed at.
    Guessed,
    /// Every number that was drawn was another host's.
    Taken,
    /// The guest proved the code, and sent no address after it.
    Silent,
    /// [`MAX_MEETINGS`] are running.
    TooMany,
    /// The node was shut down.
    Shutdown,
    /// A build without meetings: the core's feature `meetings` is off.
    NotBuilt,
}

impl fmt::Display for MeetingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MeetingError::NoBroker => f.write_str("no broker is there to meet at"),
            MeetingError::Nobody => f.write_str("nobody with this code was there in time"),
            MeetingError::Busy => f.write_str("the other side had to do with somebody else all the time"),
            MeetingError::WrongCode => f.write_str("the code is wrong; the other side needs a new one"),
            MeetingError::Guessed => write!(f, "{MAX_CODES} wrong codes were tried: somebody guesses"),
            MeetingError::Taken => f.write_str("no number was free on the brokers"),
            MeetingError::Silent => f.write_str("the other side proved the code and fell silent"),
            MeetingError::TooMany => write!(f, "{MAX_MEETINGS} meetings are running already"),
            MeetingError::Shutdown => f.write_str("the node was shut down"),
            MeetingError::NotBuilt => f.write_str("this build has no meetings"),
        }
    }
}

impl std::error::Error for MeetingError {}
