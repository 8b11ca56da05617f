//! What a user reads from and writes to.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use p2pd_core::pipe::{MAX_RECORD, Opened, Opener, PipeKeys, PipeStart, RecordError, Sealer, echo_reply};
use p2pd_core::{NodeId, PipeMode, Strategy};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::buffer::{Incoming, Outgoing};
use crate::wakers::{Half, Wakers};

/// A record with its length.
const RECORD: usize = 2 + MAX_RECORD;
/// Echo replies that may wait, with what the user wrote, before no more is read.
const MAX_ECHO: usize = 64 * 1024;

/// A pipe to a peer: the TCP stream, with records around it when it is encrypted.
///
/// Each direction ends by itself: `shutdown` says that we send no more, and the peer's end is a read of zero
/// bytes. On an encrypted pipe a stream that is cut off without the peer's end is an `UnexpectedEof` error, not
/// an end. Dropping a pipe without `shutdown` cuts it off.
///
/// An encrypted pipe holds at most two records, 32 KiB, that the system has not taken yet. They leave while
/// the pipe is written, flushed, shut down or read; a program that writes and then does none of these
/// should flush.
#[derive(Debug)]
pub struct Pipe {
    stream: TcpStream,
    peer: NodeId,
    strategy: Strategy,
    local: SocketAddr,
    remote: SocketAddr,
    elapsed: Duration,
    secure: Option<Box<Secure>>,
    /// Whether messages are answered by the echo service.
    echo: bool,
    /// Sealed bytes, or echo replies on a plain pipe, that wait to be sent.
    out: Outgoing,
    write_ended: bool,
    wakers: Wakers,
}

#[derive(Debug)]
struct Secure {
    sealer: Sealer,
    opener: Opener,
    /// As received.
    sealed: Incoming,
    /// Opened and not yet read, when the reader's buffer was too small for a record.
    plain: Incoming,
    read_ended: bool,
}

impl Pipe {
    pub(crate) fn new(stream: TcpStream, start: PipeStart, echo: bool) -> Self {
        let secure = match start.keys {
            PipeKeys::Plain => None,
            PipeKeys::Encrypted(sealer, opener) => Some(Box::new(Secure {
                sealer,
                opener,
                sealed: Incoming::new(2 * RECORD),
                plain: Incoming::new(MAX_RECORD),
                read_ended: false,
            })),
        };
        Pipe {
            stream,
            peer: start.peer,
            strategy: start.strategy,
            local: start.local,
            remote: start.remote,
            elapsed: start.elapsed,
            secure,
            echo,
            out: Outgoing::default(),
            write_ended: false,
            wakers: Wakers::default(),
        }
    }

    /// The peer's proven id.
    pub fn peer(&self) -> NodeId {
        self.peer
    }

    /// The strategy that opened it.
    pub fn strategy(&self) -> Strategy {
        self.strategy
    }

    /// Encrypted or plain.
    pub fn mode(&self) -> PipeMode {
        if self.secure.is_some() { PipeMode::Encrypted } else { PipeMode::Plain }
    }

    /// Our end of the TCP stream.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The peer's end, as seen from here.
    pub fn remote_addr(&self) -> SocketAddr {
        self.remote
    }

    /// How long it took to open: from the call of connect, or from the peer's first sign.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// The bare TCP stream of a plain pipe: nothing was read ahead, nothing waits to be sent, and nothing of
    /// ours holds on to it.
    ///
    /// # Errors
    /// Gives an encrypted pipe back, and one whose echo replies are not sent yet.
    pub fn into_tcp_stream(self) -> Result<TcpStream, Box<Pipe>> {
        if self.secure.is_some() || !self.out.is_empty() { Err(Box::new(self)) } else { Ok(self.stream) }
    }

    /// What waits to be sent leaves while the pipe is read. An error is the writer's to hear of: bytes that
    /// came in are still good. False: so many echo replies wait that no more may be read.
    fn send_while_reading(&mut self, cx: &Context<'_>) -> bool {
        if self.secure.is_none() && !self.echo {
            return true;
        }
        // Even if nothing waits now: a writer may leave something while this reader sleeps.
        let mut cx = self.wakers.register(Half::Reader, cx);
        match self.out.poll_send(&mut self.stream, &mut cx, 0) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(_)) => {
                // Nobody hears replies any more.
                self.echo = false;
                true
            }
            Poll::Pending => !self.echo || self.out.len() + RECORD <= MAX_ECHO,
        }
    }

    /// Sends for a writer, until no more than `keep` bytes wait.
    fn poll_send(&mut self, cx: &Context<'_>, keep: usize) -> Poll<io::Result<()>> {
        let mut cx = self.wakers.register(Half::Writer, cx);
        self.out.poll_send(&mut self.stream, &mut cx, keep)
    }
}

impl Secure {
    /// Opens the record at the front, into the reader's buffer where one fits, and shows it to `answer`.
    fn open(
        &mut self,
        buf: &mut ReadBuf<'_>,
        answer: &mut impl FnMut(&mut Sealer, &[u8]),
    ) -> io::Result<Next> {
        loop {
            if !self.plain.is_empty() {
                let n = self.plain.front().len().min(buf.remaining());
                buf.put_slice(&self.plain.front()[..n]);
                self.plain.consume(n);
                return Ok(Next::Read);
            }
            if self.read_ended {
                return Ok(Next::Read);
            }
            let direct = buf.remaining() >= MAX_RECORD;
            let place = if direct { buf.initialize_unfilled() } else { self.plain.place() };
            match self.opener.open(self.sealed.front(), place).map_err(broken)? {
                Opened::Data { consumed, plain } => {
                    answer(&mut self.sealer, &place[..plain]);
                    self.sealed.consume(consumed);
                    if direct {
                        buf.advance(plain);
                        return Ok(Next::Read);
                    }
                    self.plain.filled(plain);
                }
                Opened::End { consumed } => {
                    self.sealed.consume(consumed);
                    self.read_ended = true;
                }
                Opened::Need(need) => return Ok(Next::Need(need)),
            }
        }
    }
}

/// What the received bytes allow.
enum Next {
    /// The reader has bytes, or the end.
    Read,
    /// So many bytes must be there in all.
    Need(usize),
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if !this.send_while_reading(cx) {
            return Poll::Pending;
        }
        let echo = this.echo && !this.write_ended;
        let Some(secure) = &mut this.secure else {
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            if let Some(payload) = echo_reply(&buf.filled()[before..]).filter(|_| echo) {
                this.out.end().extend_from_slice(payload);
                this.send_while_reading(cx);
            }
            return Poll::Ready(Ok(()));
        };
        loop {
            let out = &mut this.out;
            let mut answer = |sealer: &mut Sealer, message: &[u8]| {
                if let Some(payload) = echo_reply(message).filter(|_| echo) {
                    // A reply is shorter than its message, so it is one record; keys that are used up
                    // show at the user's own next write.
                    let _ = sealer.seal(payload, out.end());
                }
            };
            match secure.open(buf, &mut answer)? {
                Next::Read => break,
                Next::Need(need) => {
                    if ready!(secure.sealed.poll_fill(&mut this.stream, cx, need))? == 0 {
                        secure.opener.stream_ended(secure.sealed.front().len()).map_err(broken)?;
                        secure.read_ended = true;
                        break;
                    }
                }
            }
        }
        if echo {
            this.send_while_reading(cx);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.secure.is_none() {
            if !this.echo && this.out.is_empty() {
                return Pin::new(&mut this.stream).poll_write(cx, data);
            }
            // A reply that has begun must not be cut in two by the user's bytes.
            ready!(this.poll_send(cx, 0))?;
            let mut cx = this.wakers.register(Half::Writer, cx);
            return Pin::new(&mut this.stream).poll_write(&mut cx, data);
        }
        // Room for one record beside one that waits.
        ready!(this.poll_send(cx, RECORD))?;
        let Some(secure) = &mut this.secure else { return Poll::Ready(Ok(0)) };
        let taken = secure.sealer.seal(data, this.out.end()).map_err(broken)?;
        // What the system does not take now goes with what is done next, reading included.
        let _ = this.poll_send(cx, 0)?;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx, 0))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.write_ended {
            if let Some(secure) = &mut this.secure {
                secure.sealer.end(this.out.end()).map_err(broken)?;
            }
            this.write_ended = true;
        }
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

fn broken(why: RecordError) -> io::Error {
    let kind = match why {
        RecordError::Truncated => io::ErrorKind::UnexpectedEof,
        RecordError::AfterEnd => io::ErrorKind::BrokenPipe,
        RecordError::Length(_) | RecordError::NotAuthentic => io::ErrorKind::InvalidData,
    };
    io::Error::new(kind, why)
}
