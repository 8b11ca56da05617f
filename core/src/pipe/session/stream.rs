//! Two directions of a stream: bytes that wait to be sent, and bytes that wait to be read.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use super::frame::{Body, DATA_HEADER, put_data_header};
use super::{FIRST_CREDIT, MAX_DATA, ReadResult, StreamId, Violation};
use crate::pipe::MAX_RECORD;

/// Pieces of fewer bytes are copied together. A piece refers to the whole buffer that it came in, of [`MAX_RECORD`]. So
/// what waits for its reader keeps at most a third more than its bytes.
pub(super) const COPIED: usize = MAX_RECORD / 4 * 3;

/// Bytes that a stream may always have waiting to be sent: one DATA frame.
pub(super) const ALWAYS: usize = MAX_DATA;

#[derive(Debug)]
pub(super) struct Stream {
    /// Protocol tag of a stream that the peer opened.
    pub(super) tag: Bytes,
    pub(super) priority: i32,
    /// Direction from us; none of a stream that only the peer sends on.
    pub(super) sending: Option<Sending>,
    /// The peer's direction.
    pub(super) receiving: Option<Receiving>,
    /// The stream waits in the list of those that can send.
    pub(super) queued: bool,
    /// A CREDIT waits to be sent.
    pub(super) credit_due: bool,
    /// The user has it: opened here, or accepted.
    pub(super) held: bool,
}

/// Bytes that wait for a carrier.
#[derive(Debug)]
pub(super) struct Sending {
    /// DATA frames whose headers are still to be written.
    chunks: VecDeque<Vec<u8>>,
    /// Bytes of data in them.
    size: usize,
    /// Bytes that went into frames.
    sent: u64,
    /// Bytes that the peer takes in all.
    pub(super) limit: u64,
    pub(super) finished: bool,
    /// The last write took less than it was given.
    pub(super) short: bool,
}

/// Bytes that wait for their reader.
#[derive(Debug)]
pub(super) struct Receiving {
    pieces: VecDeque<Bytes>,
    /// Small pieces, copied together, behind the others.
    tail: Vec<u8>,
    /// Bytes in all of them.
    waiting: usize,
    received: u64,
    read: u64,
    /// Bytes that the peer was told it may send in all.
    limit: u64,
    pub(super) window: u64,
    pub(super) end: Option<End>,
    /// The last read gave nothing.
    pub(super) wanted: bool,
    /// The user wants no more of it.
    pub(super) stopped: bool,
}

/// Last word of a sender on a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Finished,
    Reset(u32),
}

impl Stream {
    pub(super) fn new(tag: Bytes, sending: Option<Sending>, receiving: Option<Receiving>) -> Self {
        Stream { tag, priority: 0, sending, receiving, queued: false, credit_due: false, held: true }
    }
}

impl Sending {
    pub(super) fn new() -> Self {
        Sending {
            chunks: VecDeque::new(),
            size: 0,
            sent: 0,
            limit: FIRST_CREDIT,
            finished: false,
            short: false,
        }
    }

    /// Returns the bytes that wait beyond what a stream may always have waiting.
    pub(super) fn beyond(&self) -> usize {
        self.size.saturating_sub(ALWAYS)
    }

    /// Takes as many bytes as there is room for in a queue of `most`, and returns their number.
    pub(super) fn write(&mut self, data: &[u8], most: usize) -> usize {
        let mut rest = &data[..data.len().min(most.saturating_sub(self.size))];
        let taken = rest.len();
        while !rest.is_empty() {
            let room = self.chunks.back().map_or(0, |chunk| DATA_HEADER + MAX_DATA - chunk.len());
            if room == 0 {
                let mut chunk = Vec::with_capacity(DATA_HEADER + rest.len().min(MAX_DATA));
                chunk.resize(DATA_HEADER, 0);
                self.chunks.push_back(chunk);
                continue;
            }
            let (now, later) = rest.split_at(rest.len().min(room));
            if let Some(chunk) = self.chunks.back_mut() {
                chunk.extend_from_slice(now);
            }
            rest = later;
        }
        self.size += taken;
        self.short = taken < data.len();
        taken
    }

    /// Returns true if a DATA frame can be taken, or the end.
    pub(super) fn can_send(&self) -> bool {
        if self.size > 0 { self.sent < self.limit } else { self.finished }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.size == 0
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Takes the next DATA frame, as far as the credit goes.
    pub(super) fn take(&mut self, id: StreamId) -> Option<Bytes> {
        let credit = usize::try_from(self.limit - self.sent).unwrap_or(usize::MAX);
        let first = self.chunks.front_mut()?;
        let length = first.len() - DATA_HEADER;
        let mut frame = if length <= credit {
            self.chunks.pop_front()?
        } else if credit == 0 {
            return None;
        } else {
            let part = first[..DATA_HEADER + credit].to_vec();
            first.drain(DATA_HEADER..DATA_HEADER + credit);
            part
        };
        put_data_header(&mut frame, id);
        self.size -= frame.len() - DATA_HEADER;
        self.sent += (frame.len() - DATA_HEADER) as u64;
        if self.chunks.is_empty() {
            self.chunks = VecDeque::new();
        }
        Some(frame.into())
    }
}

impl Receiving {
    pub(super) fn new() -> Self {
        Receiving {
            pieces: VecDeque::new(),
            tail: Vec::new(),
            waiting: 0,
            received: 0,
            read: 0,
            limit: FIRST_CREDIT,
            window: FIRST_CREDIT,
            end: None,
            wanted: true,
            stopped: false,
        }
    }

    /// Takes the bytes of a DATA frame.
    ///
    /// # Errors
    /// The rule that the peer broke.
    pub(super) fn take(&mut self, id: StreamId, body: Body) -> Result<(), Violation> {
        if self.end.is_some() {
            return Err(Violation::AfterEnd(id.number()));
        }
        self.received += body.iter().map(|piece| piece.len() as u64).sum::<u64>();
        if self.received > self.limit {
            return Err(Violation::Overrun(id.number()));
        }
        if self.stopped {
            return Ok(());
        }
        for piece in body {
            self.waiting += piece.len();
            if piece.len() < COPIED {
                self.tail.extend_from_slice(&piece);
            }
            if !self.tail.is_empty() && (piece.len() >= COPIED || self.tail.len() >= COPIED) {
                self.push_tail();
            }
            if piece.len() >= COPIED {
                self.pieces.push_back(piece);
            }
        }
        Ok(())
    }

    /// Takes the peer's last word. Bytes that wait are dropped at a reset.
    pub(super) fn end(&mut self, id: StreamId, end: End) -> Result<(), Violation> {
        match (self.end, end) {
            (None, End::Finished) => {}
            (None | Some(End::Finished), End::Reset(_)) => self.clear(),
            _ => return Err(Violation::AfterEnd(id.number())),
        }
        self.end = Some(end);
        Ok(())
    }

    pub(super) fn clear(&mut self) {
        self.pieces = VecDeque::new();
        self.tail = Vec::new();
        self.waiting = 0;
    }

    /// Returns the bytes that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Makes one piece of the small ones, which keeps no more than its bytes.
    fn push_tail(&mut self) {
        self.pieces.push_back(core::mem::take(&mut self.tail).into_boxed_slice().into());
    }

    #[cfg(test)]
    pub(super) fn pieces(&self) -> usize {
        self.pieces.len() + usize::from(!self.tail.is_empty())
    }

    /// Copies bytes out.
    pub(super) fn read(&mut self, out: &mut [u8]) -> ReadResult<usize> {
        let mut n = 0;
        while n < out.len() {
            let room = out.len() - n;
            match self.pieces.front_mut() {
                Some(piece) if piece.len() <= room => {
                    out[n..n + piece.len()].copy_from_slice(piece);
                    n += piece.len();
                    self.pieces.pop_front();
                }
                Some(piece) => {
                    piece.copy_to_slice(&mut out[n..]);
                    n += room;
                }
                None if self.tail.is_empty() => break,
                None => self.push_tail(),
            }
        }
        self.was_read(n, n)
    }

    /// Takes a piece out as it came, of `most` bytes at most.
    pub(super) fn chunk(&mut self, most: usize) -> ReadResult<Bytes> {
        if self.pieces.is_empty() && !self.tail.is_empty() {
            self.push_tail();
        }
        let chunk = match self.pieces.front_mut() {
            Some(piece) if piece.len() > most => piece.split_to(most),
            _ => self.pieces.pop_front().unwrap_or_default(),
        };
        self.was_read(chunk.len(), chunk)
    }

    fn was_read<T>(&mut self, n: usize, what: T) -> ReadResult<T> {
        self.read += n as u64;
        self.waiting -= n;
        self.wanted = n == 0;
        if self.pieces.is_empty() {
            self.pieces = VecDeque::new();
        }
        match self.end {
            _ if n > 0 => ReadResult::Read(what),
            Some(End::Reset(code)) => ReadResult::Reset(code),
            Some(End::Finished) if self.waiting == 0 => ReadResult::End,
            _ => ReadResult::Empty,
        }
    }

    /// Returns true if so much was read that the peer is to hear of it.
    pub(super) fn wants_credit(&self) -> bool {
        self.end.is_none() && !self.stopped && self.read + self.window >= self.limit + self.window / 2
    }

    /// Returns the new limit, for a CREDIT.
    pub(super) fn grant(&mut self) -> u64 {
        self.limit = self.limit.max(self.read + self.window);
        self.limit
    }
}
