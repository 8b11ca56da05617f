//! Common part of the drivers' STUN clients (RFC 8489).

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use p2pd_core::Transport;
use p2pd_core::stun::{BindingOutcome, StunSplitter, TransactionId, binding_request, decode_binding};

use super::{OpenError, Protocol};

/// Times for which each request over UDP waits before it is retransmitted: RFC 8489 section 6.2.1, cut short.
const WAITS: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_millis(1000), Duration::from_millis(1500)];
/// Longest wait for an answer over TCP.
const TCP_WITHIN: Duration = Duration::from_secs(3);
/// Longest answer over UDP.
pub const MAX_ANSWER: usize = 2048;

/// A question to one STUN server: how it sees the socket that this is sent by.
#[derive(Debug)]
pub struct Question {
    over: Protocol,
    transaction: TransactionId,
    request: Vec<u8>,
    sent: usize,
    /// Answer over TCP.
    stream: StunSplitter,
}

impl Question {
    /// Creates a question with a fresh transaction.
    ///
    /// # Errors
    /// Where the system has no randomness to give.
    pub fn new(over: Protocol) -> Result<Self, StunError> {
        let random = crate::random_seed().map_err(StunError::Io)?;
        let mut id = [0; 12];
        id.copy_from_slice(&random[..12]);
        let transaction = TransactionId(id);
        let request = binding_request(transaction, None).to_vec();
        Ok(Question { over, transaction, request, sent: 0, stream: StunSplitter::new() })
    }

    /// Returns the request.
    pub fn request(&self) -> &[u8] {
        &self.request
    }

    /// Returns how long the next request waits for an answer, which is to be sent now.
    ///
    /// # Errors
    /// `NoAnswer`: all have waited.
    pub fn next_wait(&mut self) -> Result<Duration, StunError> {
        let wait = match self.over {
            Protocol::Udp => WAITS.get(self.sent).copied(),
            Protocol::Tcp => (self.sent == 0).then_some(TCP_WITHIN),
        };
        self.sent += 1;
        wait.ok_or(StunError::NoAnswer)
    }

    /// Takes what the server sent: a datagram, or bytes of the stream. `None`: it is no answer, or not all of one. Anybody
    /// can send datagrams: those of others do not belong here.
    pub fn heard(&mut self, data: &[u8]) -> Option<Result<SocketAddr, StunError>> {
        if self.over == Protocol::Udp {
            return self.answer(data, Transport::Udp);
        }
        match self.stream.push(data).and_then(|()| self.stream.next_message()) {
            Ok(message) => Some(self.answer(&message?, Transport::Tcp).unwrap_or(Err(StunError::NoAnswer))),
            Err(why) => Some(Err(StunError::Io(io::Error::new(io::ErrorKind::InvalidData, why)))),
        }
    }

    fn answer(&self, data: &[u8], over: Transport) -> Option<Result<SocketAddr, StunError>> {
        let reply = decode_binding(data, over).ok().filter(|reply| reply.transaction == self.transaction)?;
        Some(match reply.outcome {
            BindingOutcome::Mapped(external) => Ok(external),
            BindingOutcome::Error(code) => Err(StunError::Refused(code)),
        })
    }
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
