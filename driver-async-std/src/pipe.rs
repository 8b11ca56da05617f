//! Pipe to a peer, which a user reads from and writes to.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::ops::Deref;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use async_io::Async;
use futures_io::{AsyncRead, AsyncWrite};
use p2pd_async::Echo;
use p2pd_sys::{Half, Layer, PipeInfo, Start, Wakers};
use socket2::SockRef;

/// A pipe to a peer: the TCP stream, with records around it when it is encrypted. [`PipeInfo`] has its properties, its
/// peer for example.
///
/// Each direction ends by itself: `close` ends the sending, and the peer's end is a read of zero bytes. On an encrypted
/// pipe a stream that is cut off without the peer's end is an `UnexpectedEof` error, not an end. Dropping a pipe
/// without `close` cuts it off.
///
/// An encrypted pipe holds at most two records, 32 KiB, that the system has not taken yet. They leave while
/// the pipe is written, flushed, closed or read; a program that writes and then does none of these
/// should flush.
#[derive(Debug)]
pub struct Pipe {
    stream: Arc<Async<TcpStream>>,
    info: PipeInfo,
    /// The echo service's task has it, too, and the stream only while it has this.
    layer: Arc<Mutex<Layer>>,
    /// The tasks that wait to write.
    wakers: Wakers,
    echo: Option<Echo>,
}

impl Pipe {
    pub(crate) fn new(stream: Async<TcpStream>, start: Start, echo: bool) -> Self {
        let info = PipeInfo::new(&start);
        let layer = Arc::new(Mutex::new(Layer::new(start, echo)));
        let (stream, wakers) = (Arc::new(stream), Wakers::default());
        let echo = echo.then(|| Echo::spawn::<crate::messages::AsyncIo>(&stream, &layer, &wakers));
        Pipe { stream, info, layer, wakers, echo }
    }

    fn layer(&self) -> MutexGuard<'_, Layer> {
        lock(&self.layer)
    }

    pub(crate) fn socket(&self) -> SockRef<'_> {
        SockRef::from(self.stream.get_ref())
    }

    /// The messages beside a relayed pipe, once.
    ///
    /// # Errors
    /// `Unsupported` for a pipe that was not relayed when it opened, `AlreadyExists` if they were taken before.
    pub fn messages(&mut self) -> io::Result<crate::Messages> {
        let (stream, layer) = self.layer().messages()?;
        crate::Messages::new(stream, layer, (self.info.local_addr(), self.info.remote_addr()))
    }

    /// Returns the bare TCP stream of a plain pipe, of async-std or of smol. Nothing was read ahead, nothing waits to
    /// be sent, and p2pd keeps no hold on it.
    ///
    /// # Errors
    /// `Unsupported` for an encrypted pipe, and for one whose echo replies are not sent yet; the pipe is closed.
    pub fn into_tcp_stream(self) -> io::Result<crate::TcpStream> {
        crate::executor::wrap(self.leave()?)
    }

    /// Returns the bare stream as [`into_tcp_stream`](Self::into_tcp_stream) does, as a blocking stream of the standard
    /// library. It becomes an `OwnedFd` by `into`.
    ///
    /// # Errors
    /// As those of [`into_tcp_stream`](Self::into_tcp_stream).
    pub fn into_std(self) -> io::Result<TcpStream> {
        let stream = self.leave()?.into_inner()?;
        stream.set_nonblocking(false)?;
        Ok(stream)
    }

    fn leave(self) -> io::Result<Async<TcpStream>> {
        let mut layer = lock(&self.layer);
        layer.take_leave()?;
        // The stream is the pipe's alone as long as the layer is held.
        Arc::into_inner(self.stream).ok_or_else(|| io::ErrorKind::ResourceBusy.into())
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
    stream: &'s Async<TcpStream>,
    /// Context of the task that waits to read; none for a writer.
    reader: Option<Context<'s>>,
    /// Context that wakes all tasks that wait to write.
    writer: Context<'s>,
}

impl Read for Polled<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(cx) = &mut self.reader else { return Err(io::ErrorKind::WouldBlock.into()) };
        match Pin::new(&mut &*self.stream).poll_read(cx, buf) {
            Poll::Ready(read) => read,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for Polled<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match Pin::new(&mut &*self.stream).poll_write(&mut self.writer, data) {
            Poll::Ready(written) => written,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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
        polled(work(&mut layer, &mut Polled { stream: &self.stream, reader: None, writer }))
    }
}

impl AsyncRead for Pipe {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let mut layer = lock(&this.layer);
        if layer.is_bare() {
            let read = ready!(Pin::new(&mut &*this.stream).poll_read(cx, buf));
            return Poll::Ready(layer.read_bare(read, buf.len()));
        }
        // Even if nothing waits to be sent now: a writer may leave something while this reader sleeps.
        let writer = this.wakers.register(Half::Reader, cx);
        let reader = match &this.echo {
            Some(echo) => echo.reader(cx),
            None => Context::from_waker(cx.waker()),
        };
        let mut io = Polled { stream: &this.stream, reader: Some(reader), writer };
        polled(layer.read(&mut io, buf))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.layer().is_bare() {
            let written = ready!(Pin::new(&mut &*self.stream).poll_write(cx, data));
            return Poll::Ready(self.layer().explain(written));
        }
        self.writing(cx, |layer, io| layer.write(io, data))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writing(cx, |layer, io| layer.flush(io))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.writing(cx, |layer, io| layer.end(io)))?;
        // The reactor's own close does not end the direction.
        Poll::Ready(self.stream.get_ref().shutdown(Shutdown::Write))
    }
}
