//! Pipe to a peer, which a user reads from and writes to.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::ops::Deref;

use bytes::Bytes;
use mio::net::TcpStream;
use p2pd_sys::{Layer, PipeInfo, Start};
use socket2::SockRef;

use crate::source::delegate_source;

/// A pipe to a peer: an event source and non-blocking `Read + Write`, as mio's `TcpStream` is; with records around it
/// when it is encrypted. [`PipeInfo`] has its properties, its peer for example.
///
/// Register it under a token of yours. As with any source of mio, read until `WouldBlock`. Zero bytes read are the
/// peer's end; on an encrypted pipe a stream that is cut off without it is an `UnexpectedEof` error. Dropping a pipe
/// without [`shutdown`](Self::shutdown) cuts it off.
///
/// An encrypted pipe holds at most two records, 32 KiB, that the system has not taken yet. They leave while the pipe
/// is written, flushed, shut down or read: [`flush`](Write::flush) when it becomes writable and
/// [`wants_write`](Self::wants_write).
#[derive(Debug)]
pub struct Pipe<S = TcpStream> {
    stream: S,
    info: PipeInfo,
    layer: Layer,
}

impl Pipe {
    pub(crate) fn new(stream: TcpStream, start: Start, echo: bool) -> Self {
        Pipe { stream, info: PipeInfo::new(&start), layer: Layer::new(start, echo) }
    }

    pub(crate) fn sock(&self) -> SockRef<'_> {
        SockRef::from(&self.stream)
    }

    /// Reads what comes next, into a place of its size; none is the peer's end.
    pub(crate) fn read_chunk(&mut self) -> io::Result<Bytes> {
        self.layer.read_chunk(&mut self.stream)
    }

    /// The messages beside a relayed pipe, once.
    ///
    /// # Errors
    /// `Unsupported` for a pipe that was not relayed when it opened, `AlreadyExists` if they were taken before.
    pub fn messages(&mut self) -> io::Result<crate::Messages> {
        let (stream, layer) = self.layer.messages()?;
        Ok(crate::Messages::new(TcpStream::from_std(stream), layer, self.ends()))
    }

    /// Returns the bare TCP stream of a plain pipe. Nothing was read ahead, nothing waits to be sent, and p2pd keeps no
    /// hold on it. Deregister the pipe first, if it is registered.
    ///
    /// # Errors
    /// Gives an encrypted pipe back, and one whose echo replies are not sent yet.
    pub fn into_tcp_stream(self) -> Result<TcpStream, Box<Pipe>> {
        if self.layer.may_leave() { Ok(self.stream) } else { Err(Box::new(self)) }
    }

    /// Returns the bare stream as [`into_tcp_stream`](Self::into_tcp_stream) does, as a blocking stream of the standard
    /// library. It becomes an `OwnedFd` by `into`.
    ///
    /// # Errors
    /// `Unsupported` for an encrypted pipe, and for one whose echo replies are not sent yet; the pipe is closed.
    pub fn into_std(self) -> io::Result<std::net::TcpStream> {
        self.layer.check_bare()?;
        let stream = std::net::TcpStream::from(self.stream);
        stream.set_nonblocking(false)?;
        Ok(stream)
    }

    /// The same pipe on a blocking stream.
    pub(crate) fn into_blocking(self) -> io::Result<Pipe<std::net::TcpStream>> {
        let stream = std::net::TcpStream::from(self.stream);
        stream.set_nonblocking(false)?;
        Ok(Pipe { stream, info: self.info, layer: self.layer })
    }
}

impl Pipe<std::net::TcpStream> {
    /// The messages beside a relayed pipe, once.
    ///
    /// # Errors
    /// `Unsupported` for a pipe that was not relayed when it opened, `AlreadyExists` if they were taken before.
    pub fn messages(&mut self) -> io::Result<crate::Messages<std::net::TcpStream>> {
        let (stream, layer) = self.layer.messages()?;
        stream.set_nonblocking(false)?;
        Ok(crate::Messages::new(stream, layer, self.ends()))
    }

    /// Returns the bare TCP stream of a plain pipe. Nothing was read ahead, nothing waits to be sent, and p2pd keeps no
    /// hold on it. It becomes an `OwnedFd` by `into`.
    ///
    /// # Errors
    /// `Unsupported` for an encrypted pipe, and for one whose echo replies are not sent yet; the pipe is closed.
    pub fn into_std(self) -> io::Result<std::net::TcpStream> {
        self.layer.check_bare()?;
        Ok(self.stream)
    }

    /// Ends our direction: the peer reads zero bytes after all that was written.
    ///
    /// # Errors
    /// The stream's.
    pub fn shutdown(&mut self) -> io::Result<()> {
        self.layer.end(&mut self.stream)?;
        self.stream.shutdown(Shutdown::Write)
    }

    /// The socket, for its timeouts.
    pub fn socket(&self) -> &std::net::TcpStream {
        &self.stream
    }
}

impl<S> Pipe<S> {
    fn ends(&self) -> (SocketAddr, SocketAddr) {
        (self.info.local_addr(), self.info.remote_addr())
    }

    /// Returns true if something waits to be sent, for which the pipe has to become writable.
    pub fn wants_write(&self) -> bool {
        self.layer.waits()
    }
}

impl Pipe {
    /// Ends our direction: the peer reads zero bytes after all that was written.
    ///
    /// # Errors
    /// The stream's. `WouldBlock`: something waits to be sent first, so call it again when the pipe is writable.
    pub fn shutdown(&mut self) -> io::Result<()> {
        self.layer.end(&mut self.stream)?;
        self.stream.shutdown(Shutdown::Write)
    }
}

impl<S> Deref for Pipe<S> {
    type Target = PipeInfo;
    fn deref(&self) -> &PipeInfo {
        &self.info
    }
}

impl<S: Read + Write> Read for Pipe<S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.layer.read(&mut self.stream, buf)
    }
}

impl<S: Read + Write> Write for Pipe<S> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.layer.write(&mut self.stream, data)
    }

    fn write_vectored(&mut self, data: &[IoSlice<'_>]) -> io::Result<usize> {
        self.layer.write_vectored(&mut self.stream, data)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.layer.flush(&mut self.stream)?;
        self.stream.flush()
    }
}

delegate_source!(Pipe, it => it.stream);
