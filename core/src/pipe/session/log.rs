//! Frames that the peer may not have yet.

use std::collections::VecDeque;

use bytes::Bytes;

use super::Violation;

/// Bytes that a kept frame, or a datagram that waits, costs beside its own.
pub(super) const OVERHEAD: usize = 64;

/// Numbered frames, as they go over a carrier, until the peer has them.
#[derive(Debug, Default)]
pub(super) struct Log {
    frames: VecDeque<Bytes>,
    /// Number of the first frame that is kept: so many has the peer acknowledged.
    first: u64,
    /// Bytes of the frames and what these cost beside.
    size: usize,
}

impl Log {
    /// Returns the number of frames that the peer has acknowledged.
    pub(super) fn acked(&self) -> u64 {
        self.first
    }

    /// Returns the number of frames that were ever added.
    pub(super) fn end(&self) -> u64 {
        self.first + self.frames.len() as u64
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn push(&mut self, frame: Bytes) {
        self.size += frame.len() + OVERHEAD;
        self.frames.push_back(frame);
    }

    /// Returns the frame with this number, if it is kept.
    pub(super) fn get(&self, number: u64) -> Option<&Bytes> {
        self.frames.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// Drops the frames that the peer has. Returns true if there were any.
    ///
    /// # Errors
    /// `NotSent` for an acknowledgement of more than there ever was.
    pub(super) fn ack(&mut self, received: u64) -> Result<bool, Violation> {
        if received > self.end() {
            return Err(Violation::NotSent);
        }
        let before = self.first;
        while self.first < received {
            if let Some(frame) = self.frames.pop_front() {
                self.size -= frame.len() + OVERHEAD;
            }
            self.first += 1;
        }
        if self.frames.is_empty() && self.frames.capacity() > 64 {
            self.frames = VecDeque::new();
        }
        Ok(self.first > before)
    }
}
