//! Pipe to a peer, which a user reads from and writes to.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use p2pd_async::Echo;
use p2pd_sys::{Half, Layer, PipeInfo, Start, Wakers};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A pipe to a peer: the TCP stream, with records around it when it is encrypted. [`PipeInfo`] has its properties, its
/// peer for example.
///
/// Each direction ends by itself: `shutdown` ends the sending, and the peer's end is a read of zero bytes. On an
/// encrypted pipe a stream that is cut off without the peer's end is an `UnexpectedEof` error, not an end. Dropping a
/// pipe without `shutdown` cuts it off.
///
/// An encrypted pipe holds at most two records, 32 KiB, that the system has not taken yet. They leave while
/// the pipe is written, flushed, shut down or read; a program that writes and then does none of these
/// should flush.
#[derive(Debug)]
pub struct Pipe {
    stream: Arc<TcpStream>,
    info: PipeInfo,
    /// The echo service's task has it, too, and the stream only while it has this.
    layer: Arc<Mutex<Layer>>,
    /// The tasks that wait to write.
    wakers: Wakers,
    echo: Option<Echo>,
}

impl Pipe {
    pub(crate) fn new(stream: TcpStream, start: Start, echo: bool) -> Self {
        let info = PipeInfo::new(&start);
        let layer = Arc::new(Mutex::new(Layer::new(start, echo)));
        let (stream, wakers) = (Arc::new(stream), Wakers::default());
        let echo = echo.then(|| Echo::spawn::<crate::messages::Tokio>(&stream, &layer, &wakers));
        Pipe { stream, info, layer, wakers, echo }
    }

    fn layer(&self) -> MutexGuard<'_, Layer> {
        lock(&self.layer)
    }

    pub(crate) fn socket(&self) -> SockRef<'_> {
        SockRef::from(&*self.stream)
    }

    /// The messages beside a relayed pipe, once.
    ///
    /// # Errors
    /// `Unsupported` for a pipe that was not relayed when it opened, `AlreadyExists` if they were taken before.
    pub fn messages(&mut self) -> io::Result<crate::Messages> {
        let (stream, layer) = self.layer().messages()?;
        crate::Messages::new(stream, layer, (self.info.local_addr(), self.info.remote_addr()))
    }

    /// Returns the bare TCP stream of a plain pipe. Nothing was read ahead, nothing waits to be sent, and p2pd keeps no
    /// hold on it.
    ///
    /// # Errors
    /// Gives an encrypted pipe back, and one whose echo replies are not sent yet.
    pub fn into_tcp_stream(self) -> Result<TcpStream, Box<Pipe>> {
        self.leave().map_err(|(pipe, _)| pipe)
    }

    /// Returns the bare stream as [`into_tcp_stream`](Self::into_tcp_stream) does, as a blocking stream of the standard
    /// library. It becomes an `OwnedFd` by `into`.
    ///
    /// # Errors
    /// `Unsupported` for an encrypted pipe, and for one whose echo replies are not sent yet; the pipe is closed.
    pub fn into_std(self) -> io::Result<std::net::TcpStream> {
        let stream = self.leave().map_err(|(_, why)| why)?.into_std()?;
        stream.set_nonblocking(false)?;
        Ok(stream)
    }

    fn leave(self) -> Result<TcpStream, (Box<Pipe>, io::Error)> {
        let shared = self.layer.clone();
        let mut layer = lock(&shared);
        if let Err(why) = layer.take_leave() {
            return Err((Box::new(self), why));
        }
        // The stream is the pipe's alone as long as the layer is held.
        Arc::try_unwrap(self.stream)
            .map_err(|stream| (Box::new(Pipe { stream, ..self }), io::ErrorKind::ResourceBusy.into()))
    }
}

/// Gives the socket for its options and its number. Reading or writing bytes on an encrypted pipe's socket breaks the
/// pipe.
#[cfg(unix)]
impl std::os::fd::AsFd for Pipe {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn lock(layer: &Mutex<Layer>) -> MutexGuard<'_, Layer> {
    layer.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Deref for Pipe {
    type Target = PipeInfo;
    fn deref(&self) -> &PipeInfo {
        &self.info
    }
}

/// The stream as the layer wants it: a pending call would block.
struct Polled<'s> {
    stream: &'s mut Arc<TcpStream>,
    /// Context of the task that waits to read; none for a writer.
    reader: Option<Context<'s>>,
    /// Context that wakes all tasks that wait to write.
    writer: Context<'s>,
}

impl Read for Polled<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(cx) = &mut self.reader else { return Err(io::ErrorKind::WouldBlock.into()) };
        let mut buf = ReadBuf::new(buf);
        match poll_read(self.stream, cx, &mut buf) {
            Poll::Ready(read) => read.map(|()| buf.filled().len()),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for Polled<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match poll_write(self.stream, &mut self.writer, data) {
            Poll::Ready(written) => written,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a stream; one that the echo service shares is not read by `AsyncRead`, which wants it alone.
fn poll_read(
    stream: &mut Arc<TcpStream>,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    if let Some(own) = Arc::get_mut(stream) {
        return Pin::new(own).poll_read(cx, buf);
    }
    loop {
        ready!(stream.poll_read_ready(cx))?;
        match stream.try_read(buf.initialize_unfilled()) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            read => return Poll::Ready(read.map(|n| buf.advance(n))),
        }
    }
}

fn poll_write(stream: &mut Arc<TcpStream>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
    if let Some(own) = Arc::get_mut(stream) {
        return Pin::new(own).poll_write(cx, data);
    }
    loop {
        ready!(stream.poll_write_ready(cx))?;
        match stream.try_write(data) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            written => return Poll::Ready(written),
        }
    }
}

fn polled<T>(result: io::Result<T>) -> Poll<io::Result<T>> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        done => Poll::Ready(done),
    }
}

impl Pipe {
    /// Does something with the layer for a writer.
    fn writing<T>(
        &mut self,
        cx: &Context<'_>,
        work: impl FnOnce(&mut Layer, &mut Polled<'_>) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        let writer = self.wakers.register(Half::Writer, cx);
        let mut layer = lock(&self.layer);
        polled(work(&mut layer, &mut Polled { stream: &mut self.stream, reader: None, writer }))
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut layer = lock(&this.layer);
        if layer.is_bare() {
            let room = buf.remaining();
            let read = ready!(poll_read(&mut this.stream, cx, buf)).map(|()| room - buf.remaining());
            return Poll::Ready(layer.read_bare(read, room).map(drop));
        }
        // Even if nothing waits to be sent now: a writer may leave something while this reader sleeps.
        let writer = this.wakers.register(Half::Reader, cx);
        let reader = match &this.echo {
            Some(echo) => echo.reader(cx),
            None => Context::from_waker(cx.waker()),
        };
        let mut io = Polled { stream: &mut this.stream, reader: Some(reader), writer };
        let n = ready!(polled(layer.read(&mut io, buf.initialize_unfilled())))?;
        buf.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.layer().is_bare() {
            let written = ready!(poll_write(&mut self.stream, cx, data));
            return Poll::Ready(self.layer().explain(written));
        }
        self.writing(cx, |layer, io| layer.write(io, data))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writing(cx, |layer, io| layer.flush(io))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.writing(cx, |layer, io| layer.end(io)))?;
        // As tokio's own: a stream that is gone has no direction to end.
        match self.socket().shutdown(Shutdown::Write) {
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            done => Poll::Ready(done),
        }
    }
}
