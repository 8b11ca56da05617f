//! Common part of the drivers' STUN clients (RFC 8489).

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use p2pd_core::wire::Transport;
use p2pd_core::wire::stun::{BindingOutcome, TransactionId, decode_binding};

use super::OpenError;

/// Times for which each request over UDP waits before it is retransmitted: RFC 8489 section 6.2.1, cut short.
pub const WAITS: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_millis(1000), Duration::from_millis(1500)];
/// Longest wait for an answer over TCP.
pub const TCP_WITHIN: Duration = Duration::from_secs(3);
/// Longest answer.
pub const MAX_ANSWER: usize = 2048;
/// Length of the header, which says at its third and fourth byte how much follows.
pub const HEADER: usize = 20;

/// A fresh transaction.
///
/// # Errors
/// Where the system has no randomness to give.
pub fn transaction() -> Result<TransactionId, StunError> {
    let random = crate::random_seed().map_err(StunError::Io)?;
    let mut id = [0; 12];
    id.copy_from_slice(&random[..12]);
    Ok(TransactionId(id))
}

/// The address in an answer. `None`: it is no answer to this.
pub fn answer(data: &[u8], over: Transport, to: TransactionId) -> Option<Result<SocketAddr, StunError>> {
    let reply = decode_binding(data, over).ok().filter(|reply| reply.transaction == to)?;
    Some(match reply.outcome {
        BindingOutcome::Mapped(external) => Ok(external),
        BindingOutcome::Error(code) => Err(StunError::Refused(code)),
    })
}

/// Length of the answer that begins so; `None` while its header is not whole.
pub fn length(data: &[u8]) -> Option<usize> {
    let header = data.first_chunk::<HEADER>()?;
    Some(HEADER + usize::from(u16::from_be_bytes([header[2], header[3]])))
}

/// Reason why a STUN server did not report an address.
#[derive(Debug)]
#[non_exhaustive]
pub enum StunError {
    /// The server could not be reached.
    Open(OpenError),
    /// The socket failed.
    Io(io::Error),
    /// The server answered with this error code (RFC 8489 section 14.8).
    Refused(u16),
    /// The time passed without an answer.
    NoAnswer,
}

impl fmt::Display for StunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StunError::Open(why) => write!(f, "{why}"),
            StunError::Io(why) => write!(f, "the socket failed: {why}"),
            StunError::Refused(code) => write!(f, "the STUN server answered with error {code}"),
            StunError::NoAnswer => f.write_str("the STUN server did not answer"),
        }
    }
}

impl std::error::Error for StunError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StunError::Open(why) => Some(why),
            StunError::Io(why) => Some(why),
            StunError::Refused(_) | StunError::NoAnswer => None,
        }
    }
}
