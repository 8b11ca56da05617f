//! Pipe to a peer, by which a driver's own is read and written.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use p2pd_sys::{Half, Layer, PipeInfo, Start, Wakers};
use socket2::SockRef;

use crate::beside::Messages;
use crate::echo::Echo;
use crate::runtime::Runtime;
use crate::tcp::{Stream, tried};

/// A pipe to a peer, inside the one that a driver's users have ([`Runtime::Pipe`]): the TCP stream, with records around
/// it when it is encrypted.
#[derive(Debug)]
pub struct Pipe<R: Runtime> {
    stream: Arc<Stream<R>>,
    info: PipeInfo,
    /// The echo service's task has it, too, and the stream only while it has this.
    layer: Arc<Mutex<Layer>>,
    /// The tasks that wait to write.
    wakers: Wakers,
    echo: Option<Echo>,
}

impl<R: Runtime> Pipe<R> {
    pub(crate) fn new(tcp: R::Tcp, mut start: Start, echo: bool) -> Self {
        let info = PipeInfo::new(&start);
        let stream = Stream { tcp, duct: start.take_duct() };
        let layer = Arc::new(Mutex::new(Layer::new(start, echo)));
        let (stream, wakers) = (Arc::new(stream), Wakers::default());
        let echo = echo.then(|| Echo::spawn::<R>(&stream, &layer, &wakers));
        Pipe { stream, info, layer, wakers, echo }
    }

    /// Gives the socket for its options and its number.
    pub fn socket(&self) -> SockRef<'_> {
        R::tcp_socket(&self.stream.tcp)
    }

    /// Returns the watched stream. Reading or writing bytes on an encrypted pipe's stream breaks the pipe; that of a relayed
    /// one has no bytes.
    pub fn stream(&self) -> &R::Tcp {
        &self.stream.tcp
    }

    /// Returns the messages beside a relayed pipe, once.
    ///
    /// # Errors
    /// `Unsupported` for a pipe that was not relayed when it opened, `AlreadyExists` if they were taken before.
    pub fn messages(&mut self) -> io::Result<Messages<R>> {
        let (stream, layer) = lock(&self.layer).messages()?;
        let ends = (self.info.local_addr(), self.info.remote_addr());
        Ok(Messages::new(R::tcp(stream)?, layer, ends))
    }

    /// Returns the bare stream of a plain pipe. Nothing was read ahead, nothing waits to be sent, and p2pd keeps no hold on
    /// it.
    ///
    /// # Errors
    /// Gives an encrypted pipe back, and one whose echo replies are not sent yet.
    pub fn leave(self) -> Result<R::Tcp, (Box<Self>, io::Error)> {
        let shared = self.layer.clone();
        let mut layer = lock(&shared);
        if let Err(why) = layer.take_leave() {
            return Err((Box::new(self), why));
        }
        // The stream is the pipe's alone as long as the layer is held.
        Arc::try_unwrap(self.stream)
            .map(|stream| stream.tcp)
            .map_err(|stream| (Box::new(Pipe { stream, ..self }), io::ErrorKind::ResourceBusy.into()))
    }

    /// Reads a stream that is the whole pipe by a call of the runtime, which has `room` for the bytes. `None`: there is
    /// more to the pipe than its stream.
    pub fn poll_bare(
        &mut self,
        room: usize,
        read: impl FnOnce(&mut R::Tcp) -> Poll<io::Result<usize>>,
    ) -> Option<Poll<io::Result<usize>>> {
        let layer = lock(&self.layer);
        let stream = Arc::get_mut(&mut self.stream).filter(|_| layer.is_bare())?;
        Some(read(&mut stream.tcp).map(|read| layer.read_bare(read, room)))
    }

    /// Reads; zero is the peer's end.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let layer = lock(&self.layer);
        if layer.is_bare() {
            let read = ready!(poll_read::<R>(&mut self.stream, cx, buffer));
            return Poll::Ready(layer.read_bare(read, buffer.len()));
        }
        drop(layer);
        self.reading(cx, |layer, io| layer.read(io, buffer))
    }

    /// Reads what comes next, into a place of its size; none is the peer's end. Not for a pipe with the echo service.
    pub(crate) fn poll_read_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        self.reading(cx, |layer, io| layer.read_chunk(io))
    }

    /// Writes.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if lock(&self.layer).is_bare() {
            let written = ready!(poll_write::<R>(&mut self.stream, cx, data));
            return Poll::Ready(lock(&self.layer).explain(written));
        }
        self.writing(cx, |layer, io| layer.write(io, data))
    }

    /// Writes bytes of the first of these slices, of two on an encrypted pipe.
    pub(crate) fn poll_write_vectored(
        &mut self,
        cx: &Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writing(cx, |layer, io| layer.write_vectored(io, data))
    }

    /// Sends the bytes that the pipe holds.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writing(cx, |layer, io| layer.flush(io))
    }

    /// Ends our direction.
    pub fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.writing(cx, |layer, io| layer.end(io)))?;
        if let Some(duct) = &self.stream.duct {
            duct.end();
            return Poll::Ready(Ok(()));
        }
        // A stream that is gone has no direction to end.
        match self.socket().shutdown(Shutdown::Write) {
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            done => Poll::Ready(done),
        }
    }

    /// Does something with the layer for a reader.
    fn reading<T>(
        &mut self,
        cx: &mut Context<'_>,
        work: impl FnOnce(&mut Layer, &mut Polled<'_, R>) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        // Even if nothing waits to be sent now: a writer may leave something while this reader sleeps.
        let writer = self.wakers.register(Half::Reader, cx);
        let reader = match &self.echo {
            Some(echo) => echo.reader(cx),
            None => Context::from_waker(cx.waker()),
        };
        let mut io = Polled::<R> { stream: &mut self.stream, reader: Some(reader), writer };
        polled(work(&mut lock(&self.layer), &mut io))
    }

    /// Does something with the layer for a writer.
    fn writing<T>(
        &mut self,
        cx: &Context<'_>,
        work: impl FnOnce(&mut Layer, &mut Polled<'_, R>) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        let writer = self.wakers.register(Half::Writer, cx);
        let mut layer = lock(&self.layer);
        polled(work(&mut layer, &mut Polled { stream: &mut self.stream, reader: None, writer }))
    }
}

impl<R: Runtime> Deref for Pipe<R> {
    type Target = PipeInfo;
    fn deref(&self) -> &PipeInfo {
        &self.info
    }
}

/// The stream as the layer wants it: a pending call would block.
struct Polled<'s, R: Runtime> {
    stream: &'s mut Arc<Stream<R>>,
    /// Context of the task that waits to read; none for a writer.
    reader: Option<Context<'s>>,
    /// Context that wakes all tasks that wait to write.
    writer: Context<'s>,
}

impl<R: Runtime> Read for Polled<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(cx) = &mut self.reader else { return Err(io::ErrorKind::WouldBlock.into()) };
        tried(poll_read::<R>(self.stream, cx, buffer))
    }
}

impl<R: Runtime> Write for Polled<'_, R> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        tried(poll_write::<R>(self.stream, &mut self.writer, data))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a stream. One that the echo service shares is not read by the runtime's own call, which wants it alone.
fn poll_read<R: Runtime>(
    stream: &mut Arc<Stream<R>>,
    cx: &mut Context<'_>,
    buffer: &mut [u8],
) -> Poll<io::Result<usize>> {
    match Arc::get_mut(stream) {
        Some(own) => own.poll_read(cx, buffer),
        None => stream.poll_read_shared(cx, buffer),
    }
}

fn poll_write<R: Runtime>(
    stream: &mut Arc<Stream<R>>,
    cx: &mut Context<'_>,
    data: &[u8],
) -> Poll<io::Result<usize>> {
    match Arc::get_mut(stream) {
        Some(own) => own.poll_write(cx, data),
        None => stream.poll_write_shared(cx, data),
    }
}

fn lock(layer: &Mutex<Layer>) -> MutexGuard<'_, Layer> {
    layer.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn polled<T>(result: io::Result<T>) -> Poll<io::Result<T>> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        done => Poll::Ready(done),
    }
}
