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

/// Sealed bytes that may wait for the system before a write waits too.
const MAX_OUT: usize = 2 * MAX_RECORD;
/// Received bytes that are held at most: a record in the making and what came with its end.
const MAX_IN: usize = 4 * MAX_RECORD;
/// Echo replies that may wait before no more is read.
const MAX_ECHO: usize = 64 * 1024;

/// A pipe to a peer: the TCP stream, with records around it when it is encrypted.
///
/// Each direction ends by itself: `shutdown` says that we send no more, and the peer's end is a read of zero
/// bytes. On an encrypted pipe a stream that is cut off without the peer's end is an `UnexpectedEof` error, not
/// an end. Dropping a pipe without `shutdown` cuts it off.
#[derive(Debug)]
pub struct Pipe {
    stream: TcpStream,
    peer: NodeId,
    strategy: Strategy,
    local: SocketAddr,
    remote: SocketAddr,
    elapsed: Duration,
    secure: Option<Box<Secure>>,
    /// With the echo service: replies on a plain pipe that wait to be sent.
    echo: Option<Buffer>,
}

#[derive(Debug)]
struct Secure {
    sealer: Sealer,
    opener: Opener,
    /// As received.
    sealed: Buffer,
    /// Opened and not yet read, when the reader's buffer was too small for a record.
    plain: Buffer,
    /// Sealed and not yet sent.
    out: Buffer,
    read_ended: bool,
    write_ended: bool,
}

/// Bytes with a front that moves.
#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Pipe {
    pub(crate) fn new(stream: TcpStream, start: PipeStart, echo: bool) -> Self {
        let secure = match start.keys {
            PipeKeys::Plain => None,
            PipeKeys::Encrypted(sealer, opener) => Some(Box::new(Secure {
                sealer,
                opener,
                sealed: Buffer::default(),
                plain: Buffer::default(),
                out: Buffer::default(),
                read_ended: false,
                write_ended: false,
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
            echo: echo.then(Buffer::default),
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
        let echo_waits = self.echo.as_ref().is_some_and(|e| !e.is_empty());
        if self.secure.is_some() || echo_waits { Err(Box::new(self)) } else { Ok(self.stream) }
    }

    fn poll_read_secure(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let echo = self.echo.is_some();
        let Some(secure) = &mut self.secure else { return Poll::Ready(Ok(())) };
        if echo {
            let room = secure.out.poll_send(Pin::new(&mut self.stream), cx)?.is_ready();
            if !room && secure.out.len() > MAX_ECHO {
                return Poll::Pending;
            }
        }
        loop {
            if !secure.plain.is_empty() {
                let n = secure.plain.len().min(buf.remaining());
                buf.put_slice(&secure.plain.front()[..n]);
                secure.plain.consume(n);
                return Poll::Ready(Ok(()));
            }
            if secure.read_ended {
                return Poll::Ready(Ok(()));
            }
            // Straight into the reader's buffer where a record fits.
            let direct = buf.remaining() >= MAX_RECORD;
            let opened = if direct {
                let opened = secure.opener.open(secure.sealed.front(), buf.initialize_unfilled());
                if let (true, Ok(Opened::Data { plain, .. })) = (echo, opened) {
                    reply(&mut secure.sealer, &mut secure.out, &buf.initialize_unfilled()[..plain])?;
                }
                opened
            } else {
                secure.plain.bytes.resize(MAX_RECORD, 0);
                let opened = secure.opener.open(secure.sealed.front(), &mut secure.plain.bytes);
                secure.plain.start = 0;
                match opened {
                    Ok(Opened::Data { plain, .. }) => secure.plain.bytes.truncate(plain),
                    _ => secure.plain.bytes.clear(),
                }
                if echo {
                    reply(&mut secure.sealer, &mut secure.out, secure.plain.front())?;
                }
                opened
            };
            match opened.map_err(broken)? {
                Opened::Data { consumed, plain } => {
                    secure.sealed.consume(consumed);
                    if echo {
                        let _ = secure.out.poll_send(Pin::new(&mut self.stream), cx)?;
                    }
                    if direct {
                        buf.advance(plain);
                        return Poll::Ready(Ok(()));
                    }
                }
                Opened::End { consumed } => {
                    secure.sealed.consume(consumed);
                    secure.read_ended = true;
                }
                Opened::Need(_) => {
                    let n = ready!(secure.sealed.poll_fill(Pin::new(&mut self.stream), cx))?;
                    if n == 0 {
                        secure.opener.stream_ended(secure.sealed.len()).map_err(broken)?;
                        secure.read_ended = true;
                    }
                }
            }
        }
    }

    fn poll_read_plain(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(echo) = &mut self.echo else { return Pin::new(&mut self.stream).poll_read(cx, buf) };
        let room = echo.poll_send(Pin::new(&mut self.stream), cx)?.is_ready();
        if !room && echo.len() > MAX_ECHO {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if let Some(payload) = echo_reply(&buf.filled()[before..]) {
            echo.bytes.extend_from_slice(payload);
            let _ = echo.poll_send(Pin::new(&mut self.stream), cx)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if self.secure.is_some() { self.poll_read_secure(cx, buf) } else { self.poll_read_plain(cx, buf) }
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if let Some(echo) = &mut this.echo {
            // A reply that has begun must not be cut in two by the user's bytes.
            ready!(echo.poll_send(Pin::new(&mut this.stream), cx))?;
        }
        let Some(secure) = &mut this.secure else { return Pin::new(&mut this.stream).poll_write(cx, data) };
        if secure.out.len() >= MAX_OUT {
            ready!(secure.out.poll_send(Pin::new(&mut this.stream), cx))?;
        }
        let taken = secure.sealer.seal(data, &mut secure.out.bytes).map_err(broken)?;
        // What the system does not take now goes with the next write or flush.
        let _ = secure.out.poll_send(Pin::new(&mut this.stream), cx)?;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(out) = this.secure.as_mut().map(|s| &mut s.out).or(this.echo.as_mut()) {
            ready!(out.poll_send(Pin::new(&mut this.stream), cx))?;
        }
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(secure) = self.secure.as_mut().filter(|s| !s.write_ended) {
            secure.sealer.end(&mut secure.out.bytes).map_err(broken)?;
            secure.write_ended = true;
        }
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Seals the answer of the echo service, if a message has one.
fn reply(sealer: &mut Sealer, out: &mut Buffer, message: &[u8]) -> io::Result<()> {
    if let Some(payload) = echo_reply(message) {
        sealer.seal(payload, &mut out.bytes).map_err(broken)?;
    }
    Ok(())
}

fn broken(why: RecordError) -> io::Error {
    let kind = match why {
        RecordError::Truncated => io::ErrorKind::UnexpectedEof,
        RecordError::AfterEnd => io::ErrorKind::BrokenPipe,
        RecordError::Length(_) | RecordError::NotAuthentic => io::ErrorKind::InvalidData,
    };
    io::Error::new(kind, why)
}

impl Buffer {
    fn front(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn consume(&mut self, n: usize) {
        self.start += n;
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        }
    }

    /// Writes all of it.
    fn poll_send(&mut self, mut stream: Pin<&mut TcpStream>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let n = ready!(stream.as_mut().poll_write(cx, self.front()))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.consume(n);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once, up to [`MAX_IN`] bytes in all.
    fn poll_fill(&mut self, stream: Pin<&mut TcpStream>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.bytes.drain(..self.start);
        self.start = 0;
        let held = self.bytes.len();
        self.bytes.resize(MAX_IN, 0);
        let mut buf = ReadBuf::new(&mut self.bytes[held..]);
        let polled = stream.poll_read(cx, &mut buf);
        let n = buf.filled().len();
        self.bytes.truncate(held + n);
        ready!(polled)?;
        Poll::Ready(Ok(n))
    }
}
