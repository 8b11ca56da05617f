//! Messages apart from the pipe's bytes: reliable, unordered, each delivered once. Each has a stream of its own (RFC
//! 9000 section 2), so a lost packet holds up the messages in it only.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};
use quinn_proto::{Connection, Dir, ReadError, StreamId, WriteError};

use super::{MAX_MESSAGE, MAX_MESSAGES, MessageError};

/// Breach of the rules of messages by the peer.
pub(super) struct Violation;

#[derive(Default)]
pub(super) struct Messages {
    /// Messages to be sent.
    waiting: VecDeque<Bytes>,
    /// Stream of the first waiting message, once it has one.
    current: Option<StreamId>,
    /// Number of messages that were sent and are not acknowledged in full.
    unacknowledged: usize,
    /// Streams on which there may be something to read.
    readable: BTreeSet<StreamId>,
    /// The beginnings of messages.
    parts: BTreeMap<StreamId, BytesMut>,
    /// Whole messages.
    ready: VecDeque<Bytes>,
}

impl Messages {
    pub(super) fn put(&mut self, message: Bytes) -> Result<(), MessageError> {
        if message.len() > MAX_MESSAGE {
            return Err(MessageError::TooLong);
        }
        if self.waiting.len() >= MAX_MESSAGES {
            return Err(MessageError::Full);
        }
        self.waiting.push_back(message);
        Ok(())
    }

    pub(super) fn take(&mut self) -> Option<Bytes> {
        self.ready.pop_front()
    }

    /// Notes that a message that was sent has arrived.
    pub(super) fn acknowledged(&mut self) {
        self.unacknowledged = self.unacknowledged.saturating_sub(1);
    }

    /// Returns true if a message that was taken has not arrived yet.
    pub(super) fn are_under_way(&self) -> bool {
        !self.waiting.is_empty() || self.unacknowledged > 0
    }

    /// Notes that a message's stream has been opened, or has something to read.
    pub(super) fn readable(&mut self, id: StreamId) {
        self.readable.insert(id);
    }

    /// Hands over the messages that the connection takes. Returns true if a place became free.
    pub(super) fn send(&mut self, conn: &mut Connection) -> bool {
        let was_full = self.waiting.len() >= MAX_MESSAGES;
        while let Some(message) = self.waiting.front_mut() {
            let Some(id) = self.current.or_else(|| conn.streams().open(Dir::Uni)) else { break };
            self.current = Some(id);
            let mut stream = conn.send_stream(id);
            // Before the pipe's bytes: a message is small and does not wait its turn.
            let _ = stream.set_priority(1);
            let gone = loop {
                if message.is_empty() {
                    break true;
                }
                match stream.write(message) {
                    Ok(n) => drop(message.split_to(n)),
                    Err(WriteError::Blocked) => break false,
                    Err(WriteError::Stopped(_) | WriteError::ClosedStream) => break true,
                }
            };
            if !gone {
                break;
            }
            if stream.finish().is_ok() {
                self.unacknowledged += 1;
            }
            self.current = None;
            self.waiting.pop_front();
        }
        was_full && self.waiting.len() < MAX_MESSAGES
    }

    /// Reads messages, as long as there is room for whole ones; beyond that they stay where flow control counts them.
    /// Returns true if a message became whole.
    pub(super) fn receive(&mut self, conn: &mut Connection) -> Result<bool, Violation> {
        let before = self.ready.len();
        while self.ready.len() < MAX_MESSAGES {
            let Some(id) = self.readable.pop_first() else { break };
            let mut stream = conn.recv_stream(id);
            let Ok(mut chunks) = stream.read(true) else { continue };
            loop {
                match chunks.next(usize::MAX) {
                    Ok(Some(chunk)) => {
                        let part = self.parts.entry(id).or_default();
                        if part.len() + chunk.bytes.len() > MAX_MESSAGE {
                            return Err(Violation);
                        }
                        part.extend_from_slice(&chunk.bytes);
                    }
                    Ok(None) => {
                        self.ready.push_back(self.parts.remove(&id).unwrap_or_default().freeze());
                        break;
                    }
                    Err(ReadError::Blocked) => break,
                    Err(ReadError::Reset(_)) => return Err(Violation),
                }
            }
            let _ = chunks.finalize();
        }
        Ok(self.ready.len() > before)
    }
}
