//! Bytes on their way in or out of a pipe: two buffers that never grow beyond their users' limits.

use std::io::{self, Read, Write};

/// Bytes that wait for the system to take them. Look at [`len`](Outgoing::len) before you append.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    start: usize,
}

impl Outgoing {
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the buffer to append to. Bytes that were sent are removed first, so that it holds only those that wait.
    pub(super) fn end(&mut self) -> &mut Vec<u8> {
        self.bytes.drain(..self.start);
        self.start = 0;
        &mut self.bytes
    }

    /// Gives the memory back, if nothing waits.
    pub(super) fn release(&mut self) {
        if self.is_empty() {
            *self = Outgoing::default();
        }
    }

    /// Writes until nothing waits.
    pub(super) fn send(&mut self, io: &mut impl Write) -> io::Result<()> {
        while !self.is_empty() {
            match io.write(&self.bytes[self.start..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.start += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.bytes.clear();
        self.start = 0;
        Ok(())
    }
}

/// Bytes that came in and wait for their reader, in a place of fixed size that is made when it is needed.
#[derive(Debug)]
pub(super) struct Incoming {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    size: usize,
}

impl Incoming {
    pub(super) fn new(size: usize) -> Self {
        Incoming { bytes: Box::default(), start: 0, end: 0, size }
    }

    pub(super) fn front(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(super) fn consume(&mut self, n: usize) {
        self.start += n;
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Reads once, as much as there is room for; `need` bytes in all must fit. Zero: the stream ended.
    pub(super) fn fill(&mut self, io: &mut impl Read, need: usize) -> io::Result<usize> {
        self.make();
        if self.start + need > self.size {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let n = io.read(&mut self.bytes[self.end..])?;
        self.end += n;
        Ok(n)
    }

    /// Gives the memory back, if nothing waits.
    pub(super) fn release(&mut self) {
        if self.is_empty() {
            *self = Incoming::new(self.size);
        }
    }

    fn make(&mut self) {
        if self.bytes.is_empty() {
            self.bytes = vec![0; self.size].into();
        }
    }
}
