//! Sessions' part of every driver: bytes between a pipe and a session, the sessions that a listener knows, and when
//! to call again.

mod calls;
mod ferry;
mod registry;

use std::fmt;
use std::io;

use p2pd_core::pipe::session::{CarrierKind, SessionEnd};
use p2pd_core::{Source, Strategy};

pub use calls::Calls;
pub use ferry::{Ferry, Greeter};
pub use registry::{Opener, Registry};

use crate::pipe::PipeInfo;

/// Reason that a stream of a session, or the session, gives or takes nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SessionError {
    /// The peer gave its direction of the stream up, with this code.
    Reset(u32),
    /// The peer does not want the stream's bytes, and gave this code.
    Stopped(u32),
    /// The stream was finished, reset or stopped here.
    Closed,
    /// The stream's protocol tag, or the datagram, is too long.
    TooLong,
    /// The session is over.
    Ended(SessionEnd),
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SessionError::Reset(code) => write!(f, "the peer gave the stream up, with code {code}"),
            SessionError::Stopped(code) => {
                write!(f, "the peer wants no more of the stream, with code {code}")
            }
            SessionError::Closed => f.write_str("the stream was closed here"),
            SessionError::TooLong => {
                f.write_str("a protocol tag has at most 255 bytes, a datagram at most 1,200")
            }
            SessionError::Ended(why) => write!(f, "{why}"),
        }
    }
}

impl std::error::Error for SessionError {
    /// Returns the reason of the session's end.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SessionError::Ended(why) => Some(why),
            _ => None,
        }
    }
}

impl From<SessionError> for io::Error {
    fn from(why: SessionError) -> Self {
        let kind = match why {
            SessionError::Reset(_) => io::ErrorKind::ConnectionReset,
            SessionError::Stopped(_) | SessionError::Closed => io::ErrorKind::BrokenPipe,
            SessionError::TooLong => io::ErrorKind::InvalidInput,
            SessionError::Ended(_) => io::ErrorKind::ConnectionAborted,
        };
        io::Error::new(kind, why)
    }
}

impl PipeInfo {
    /// Returns by what the places of a session are counted that begins on the pipe.
    pub fn opener(&self) -> Opener {
        let source = (self.strategy() != Strategy::Relay).then(|| Source::of(self.remote_addr().ip()));
        Opener { peer: self.peer(), named: self.is_named(), source }
    }

    /// Returns how good the pipe is as a carrier.
    pub fn carrier_kind(&self) -> CarrierKind {
        match self.strategy() {
            Strategy::Relay => CarrierKind::Relayed,
            _ => CarrierKind::Direct,
        }
    }
}
