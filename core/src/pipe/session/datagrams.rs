//! Datagrams that wait for a carrier or for their reader. The oldest make room.

use std::collections::VecDeque;

use bytes::Bytes;

use super::log::OVERHEAD;

#[derive(Debug, Default)]
pub(super) struct Datagrams {
    all: VecDeque<Bytes>,
    /// Bytes of them and what they cost beside.
    size: usize,
}

impl Datagrams {
    /// Adds one, and drops the oldest if there are more than `most` bytes.
    pub(super) fn push(&mut self, data: Bytes, most: usize) {
        self.size += data.len() + OVERHEAD;
        self.all.push_back(data);
        while self.size > most && self.pop().is_some() {}
    }

    /// Takes the oldest.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        let data = self.all.pop_front()?;
        self.size -= data.len() + OVERHEAD;
        Some(data)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }
}
