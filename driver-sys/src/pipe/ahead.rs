//! Bytes that are read of a pipe for nobody, so that the echo service hears it.

use std::io::{self, Read, Write};
use std::task::{Context, Poll, Waker};

use p2pd_core::pipe::MAX_RECORD;

use super::{Layer, again};

/// Bytes that are kept for the reader; with more than this nothing is read for nobody.
const MOST: usize = 64 * 1024;

/// Bytes for the reader, and the outcome of reading behind them.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    bytes: Vec<u8>,
    start: usize,
    end: Option<io::Result<()>>,
    /// Calls of the reader so far.
    reads: u64,
    /// The task that waits until there is room again.
    task: Option<Waker>,
}

/// State after reading for nobody.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: a driver has to know each.
pub enum ReadAhead {
    /// Read again once something has come.
    Waits,
    /// Replies wait to be sent: flush once the stream is writable.
    Sending,
    /// The reader has enough to read: read again once [`poll_room`](Layer::poll_room) is ready.
    Full,
    /// The stream has ended.
    Ended,
}

impl Layer {
    /// Reads what has come for a reader that may come later, and has the echo service answer it. The stream must not
    /// block.
    pub fn read_ahead(&mut self, io: &mut (impl Read + Write)) -> ReadAhead {
        loop {
            if self.ahead.end.is_some() || self.ahead.is_full() {
                let sends = self.flush(io).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock);
                return match self.ahead.end {
                    _ if sends => ReadAhead::Sending,
                    Some(_) => ReadAhead::Ended,
                    None => ReadAhead::Full,
                };
            }
            let mut buffer = [0; MAX_RECORD];
            match self.read_now(io, &mut buffer) {
                Ok(0) => self.ahead.end = Some(Ok(())),
                Ok(n) => self.ahead.keep(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return if self.waits() { ReadAhead::Sending } else { ReadAhead::Waits };
                }
                Err(e) => self.ahead.end = Some(Err(e)),
            }
        }
    }

    /// Waits until the reader has taken so much that there is room to read ahead again.
    pub fn poll_room(&mut self, cx: &Context<'_>) -> Poll<()> {
        if !self.ahead.is_full() {
            return Poll::Ready(());
        }
        self.ahead.task = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Reads nothing ahead from now on, so that the stream can be given away.
    ///
    /// # Errors
    /// As [`check_bare`](Self::check_bare).
    pub fn take_leave(&mut self) -> io::Result<()> {
        self.check_bare()?;
        self.ahead.end = Some(Ok(()));
        Ok(())
    }

    /// Returns the number of calls of the reader so far, by which one tells whether there is any.
    pub fn reads(&self) -> u64 {
        self.ahead.reads
    }
}

impl Ahead {
    /// Gives the reader what was read before it came; `None`: nothing was.
    pub(super) fn read(&mut self, buf: &mut [u8]) -> Option<io::Result<usize>> {
        self.reads += 1;
        let n = self.left().len().min(buf.len());
        if n > 0 {
            buf[..n].copy_from_slice(&self.left()[..n]);
            self.start += n;
            if self.left().is_empty() {
                (self.bytes, self.start) = (Vec::new(), 0);
            }
            if !self.is_full()
                && let Some(task) = self.task.take()
            {
                task.wake();
            }
            return Some(Ok(n));
        }
        // An end is one for every reader that comes, and so is an error: the stream has none to tell any more.
        match self.end.take()? {
            Ok(()) => {
                self.end = Some(Ok(()));
                Some(Ok(0))
            }
            Err(why) => {
                self.end = Some(Err(again(&why)));
                Some(Err(why))
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.left().is_empty() && self.end.is_none()
    }

    fn is_full(&self) -> bool {
        self.left().len() >= MOST
    }

    fn left(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    fn keep(&mut self, data: &[u8]) {
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(data);
    }
}
