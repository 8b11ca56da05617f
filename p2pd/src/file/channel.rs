//! Frames on the stream of a session, read and written by the one thread that does a transfer's work. The session sends
//! and receives meanwhile.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::wire::Frame;

/// Silence after which a peer is gone.
const SILENCE: Duration = Duration::from_secs(60);
/// Bytes that a peer hashes or stores in a second, at least: it gets a second more for each so many.
const SLOWEST: u64 = 10_000_000;
/// Bytes that wait to be written, at most.
const BUFFER: usize = 128 * 1024;
/// Longest time that they wait while more is written.
const LATEST: Duration = Duration::from_millis(50);

/// Returns the patience with a peer that hashes or stores so many bytes meanwhile.
pub(super) fn patience(bytes: u64) -> Duration {
    SILENCE + Duration::from_secs(bytes / SLOWEST)
}

/// Request to a transfer to end.
#[derive(Debug, Default)]
pub(super) struct Stop {
    /// True if its sender begins it anew on another stream, rather than that others need its place.
    anew: AtomicBool,
    asked: Notify,
}

impl Stop {
    /// Asks the transfer to end, so that others have its place.
    pub(super) fn make_room(&self) {
        self.asked.notify_one();
    }

    /// Asks the transfer to end, because its sender begins it anew.
    pub(super) fn begun_anew(&self) {
        self.anew.store(true, Ordering::Relaxed);
        self.asked.notify_one();
    }

    /// Returns true if the sender begins anew.
    pub(super) fn is_anew(&self) -> bool {
        self.anew.load(Ordering::Relaxed)
    }
}

/// Error of a transfer that was asked to end.
pub(super) fn is_stopped(why: &io::Error) -> bool {
    why.kind() == io::ErrorKind::Interrupted
}

/// Reading end.
pub(super) struct Reader {
    from: Box<dyn AsyncRead + Send + Unpin>,
    rt: Handle,
    stop: Arc<Stop>,
    buffer: Vec<u8>,
    /// Bytes of the buffer that have been taken.
    taken: usize,
    ended: bool,
}

impl Reader {
    /// Creates it within a runtime.
    pub(super) fn new(from: impl AsyncRead + Send + Unpin + 'static, stop: Arc<Stop>) -> Self {
        let (from, rt) = (Box::new(from), Handle::current());
        Reader { from, rt, stop, buffer: Vec::new(), taken: 0, ended: false }
    }

    /// Returns the next frame that has come whole.
    ///
    /// # Errors
    /// `InvalidData` for bytes that are no frame.
    fn take(&mut self) -> io::Result<Option<Frame>> {
        let read = Frame::read(&self.buffer[self.taken..])?;
        Ok(read.map(|(frame, length)| {
            self.taken += length;
            frame
        }))
    }

    fn make_space(&mut self) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.reserve(BUFFER);
    }

    /// Waits for the next frame; `None` where the peer has ended before one. `to` is flushed before.
    ///
    /// # Errors
    /// Those of the stream; `TimedOut` after so long; `UnexpectedEof` within a frame; `InvalidData` for bytes that are no
    /// frame; `Interrupted` if the transfer is asked to end.
    pub(super) fn frame(&mut self, patience: Duration, to: &mut Writer) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            if self.ended {
                return match self.taken == self.buffer.len() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
            to.flush()?;
            self.make_space();
            let (from, buffer, stop) = (&mut self.from, &mut self.buffer, &self.stop);
            let n = self.rt.block_on(async {
                tokio::select! {
                    read = timeout(patience, from.read_buf(buffer)) => match read {
                        Ok(read) => read,
                        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not go on")),
                    },
                    () = stop.asked.notified() => Err(io::ErrorKind::Interrupted.into()),
                }
            })?;
            self.ended = n == 0;
        }
    }

    /// Returns the next frame if it is there.
    ///
    /// # Errors
    /// As those of [`frame`](Self::frame), without waiting.
    pub(super) fn ready(&mut self) -> io::Result<Option<Frame>> {
        if let Some(frame) = self.take()? {
            return Ok(Some(frame));
        }
        if self.ended {
            return Ok(None);
        }
        self.make_space();
        let _entered = self.rt.enter();
        match self.from.read_buf(&mut self.buffer).now_or_never() {
            Some(n) => self.ended = n? == 0,
            None => return Ok(None),
        }
        self.take()
    }

    /// Reads to the peer's end, for so long at most. What comes is dropped.
    pub(super) fn drain(&mut self, most: Duration) {
        let mut sink = tokio::io::sink();
        let copied = tokio::io::copy(&mut self.from, &mut sink);
        let _ = self.rt.block_on(async { timeout(most, copied).await });
    }
}

/// Writing end.
pub(super) struct Writer {
    to: Box<dyn AsyncWrite + Send + Unpin>,
    rt: Handle,
    buffer: Vec<u8>,
    /// Time of the last flush.
    flushed: Instant,
}

impl Writer {
    /// Creates it within a runtime.
    pub(super) fn new(to: impl AsyncWrite + Send + Unpin + 'static) -> Self {
        let (to, rt) = (Box::new(to), Handle::current());
        Writer { to, rt, buffer: Vec::with_capacity(2 * BUFFER), flushed: Instant::now() }
    }

    /// Writes a frame, which leaves with those after it.
    ///
    /// # Errors
    /// Those of the stream; `TimedOut`.
    pub(super) fn put(&mut self, frame: &Frame) -> io::Result<()> {
        frame.write(&mut self.buffer);
        if self.buffer.len() >= BUFFER || self.flushed.elapsed() >= LATEST { self.flush() } else { Ok(()) }
    }

    /// Sends what was written.
    ///
    /// # Errors
    /// As those of [`put`](Self::put).
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let (to, buffer) = (&mut self.to, &self.buffer);
        let written = self.rt.block_on(async {
            let written = async {
                to.write_all(buffer).await?;
                to.flush().await
            };
            match timeout(SILENCE, written).await {
                Ok(written) => written,
                Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not go on")),
            }
        });
        self.buffer.clear();
        self.flushed = Instant::now();
        written
    }

    /// Ends the stream after what was written.
    ///
    /// # Errors
    /// As those of [`put`](Self::put).
    pub(super) fn end(&mut self) -> io::Result<()> {
        self.flush()?;
        self.rt.block_on(self.to.shutdown())
    }
}
