//! Bytes on their way in or out of a pipe: two buffers that never grow beyond what their users say.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Bytes that wait for the system to take them. Whoever appends looks at [`len`](Outgoing::len) first.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    start: usize,
}

impl Outgoing {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where to append. What was sent is forgotten first, so that the buffer holds what waits and no more.
    pub(crate) fn end(&mut self) -> &mut Vec<u8> {
        self.bytes.drain(..self.start);
        self.start = 0;
        &mut self.bytes
    }

    /// Writes until no more than `keep` bytes wait.
    pub(crate) fn poll_send(
        &mut self,
        stream: &mut TcpStream,
        cx: &mut Context<'_>,
        keep: usize,
    ) -> Poll<io::Result<()>> {
        while self.len() > keep {
            let n = ready!(Pin::new(&mut *stream).poll_write(cx, &self.bytes[self.start..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.start += n;
        }
        if self.is_empty() {
            self.bytes.clear();
            self.start = 0;
        }
        Poll::Ready(Ok(()))
    }
}

/// Bytes that came in and wait for their reader, in a place of fixed size that is made when it is first
/// needed.
#[derive(Debug)]
pub(crate) struct Incoming {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    size: usize,
}

impl Incoming {
    pub(crate) fn new(size: usize) -> Self {
        Incoming { bytes: Box::default(), start: 0, end: 0, size }
    }

    pub(crate) fn front(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(crate) fn consume(&mut self, n: usize) {
        self.start += n;
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
    }

    /// The whole place, to be filled from its beginning and confirmed by [`filled`](Self::filled). Only while
    /// it is empty.
    pub(crate) fn place(&mut self) -> &mut [u8] {
        debug_assert!(self.is_empty());
        self.make();
        &mut self.bytes
    }

    pub(crate) fn filled(&mut self, n: usize) {
        (self.start, self.end) = (0, n);
    }

    /// Reads once, as much as there is room for; `need` bytes in all must fit. Zero: the stream ended.
    pub(crate) fn poll_fill(
        &mut self,
        stream: &mut TcpStream,
        cx: &mut Context<'_>,
        need: usize,
    ) -> Poll<io::Result<usize>> {
        self.make();
        if self.start + need > self.size {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let mut room = ReadBuf::new(&mut self.bytes[self.end..]);
        ready!(Pin::new(stream).poll_read(cx, &mut room))?;
        let n = room.filled().len();
        self.end += n;
        Poll::Ready(Ok(n))
    }

    fn make(&mut self) {
        if self.bytes.is_empty() {
            self.bytes = vec![0; self.size].into();
        }
    }
}
