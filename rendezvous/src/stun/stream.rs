//! STUN over TCP (RFC 8489 section 6.2.2): requests one after another in a stream.

use core::time::Duration;
use std::net::SocketAddr;

use bytes::Bytes;

use super::{MAX_REQUEST, Server};

/// A client's stream is closed when it asked nothing for this long.
const SILENCE: Duration = Duration::from_secs(30);
/// The same of a stream on which something was answered: a client may keep its NAT's mapping by it, and is not to wake more
/// often than the NAT demands.
const IDLE: Duration = Duration::from_secs(600);

/// Result of received bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
// Exhaustive: the owner has to do both.
pub struct Answers {
    /// Messages to be sent, in order.
    pub data: Vec<Bytes>,
    /// The stream is to be closed after that: it cannot be in step any more, or asks too much.
    pub close: bool,
}

/// A client's stream. Holds at most one incomplete request.
#[derive(Debug)]
pub struct Stream {
    local: SocketAddr,
    from: SocketAddr,
    held: Vec<u8>,
    deadline: Duration,
}

impl Stream {
    /// A client at `from` was accepted on `local`.
    pub fn new(now: Duration, local: SocketAddr, from: SocketAddr) -> Self {
        Stream { local, from, held: Vec::new(), deadline: now + SILENCE }
    }

    /// Returns the time at which to close the stream, if no request comes until then.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Bytes came in.
    pub fn receive(&mut self, server: &mut Server, now: Duration, mut data: &[u8]) -> Answers {
        let mut answers = Answers { data: Vec::new(), close: false };
        while !data.is_empty() {
            // The header tells the length; a request that cannot be one is not waited for.
            let want = match self.held.get(2..4) {
                Some(l) => 20 + usize::from(u16::from_be_bytes([l[0], l[1]])),
                None => 4,
            };
            let plausible = self.held.first().is_none_or(|b| b & 0xc0 == 0);
            if want > MAX_REQUEST || !plausible {
                server.stats.malformed += 1;
                answers.close = true;
                return answers;
            }
            let (taken, rest) = data.split_at((want - self.held.len()).min(data.len()));
            self.held.extend_from_slice(taken);
            data = rest;
            if want > 4 && self.held.len() == want {
                let answer = server.answer(now, self.local, self.from, &self.held, true);
                self.held.clear();
                match answer {
                    Some(reply) => {
                        self.deadline = now + IDLE;
                        answers.data.push(reply.data);
                    }
                    None => {
                        answers.close = true;
                        return answers;
                    }
                }
            }
        }
        answers
    }
}
