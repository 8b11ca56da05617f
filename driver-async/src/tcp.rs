//! Reading and writing a stream that several may have, by what a runtime has for it, and the stream of a pipe.

use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};

use p2pd_sys::Duct;

use crate::runtime::Runtime;

/// Tries until the result is not `WouldBlock`, and waits meanwhile.
pub(crate) fn poll_io<T>(
    cx: &mut Context<'_>,
    mut io: impl FnMut() -> io::Result<T>,
    mut poll_ready: impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>>,
) -> Poll<io::Result<T>> {
    loop {
        match io() {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready!(poll_ready(cx))?,
            done => return Poll::Ready(done),
        }
    }
}

/// Returns `WouldBlock` for what is pending.
pub(crate) fn tried<T>(result: Poll<io::Result<T>>) -> io::Result<T> {
    match result {
        Poll::Ready(done) => done,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

pub(crate) fn poll_read<R: Runtime>(
    tcp: &R::Tcp,
    cx: &mut Context<'_>,
    buffer: &mut [u8],
) -> Poll<io::Result<usize>> {
    poll_io(cx, || R::try_read(tcp, buffer), |cx| R::poll_readable(tcp, cx))
}

pub(crate) fn poll_write<R: Runtime>(
    tcp: &R::Tcp,
    cx: &mut Context<'_>,
    data: &[u8],
) -> Poll<io::Result<usize>> {
    poll_io(cx, || R::try_write(tcp, data), |cx| R::poll_writable(tcp, cx))
}

pub(crate) async fn read<R: Runtime>(tcp: &R::Tcp, buffer: &mut [u8]) -> io::Result<usize> {
    poll_fn(|cx| poll_read::<R>(tcp, cx, buffer)).await
}

pub(crate) async fn write<R: Runtime>(tcp: &R::Tcp, data: &[u8]) -> io::Result<usize> {
    poll_fn(|cx| poll_write::<R>(tcp, cx, data)).await
}

/// Waits for the outcome of a connect.
pub(crate) async fn connected<R: Runtime>(tcp: &R::Tcp) -> io::Result<SocketAddr> {
    poll_fn(|cx| poll_io(cx, || R::try_outcome(tcp), |cx| R::poll_writable(tcp, cx))).await
}

/// The stream of a pipe: its socket, or of a relayed pipe the duct to its engine. Then the socket has a number and no bytes.
#[derive(Debug)]
pub(crate) struct Stream<R: Runtime> {
    pub(crate) tcp: R::Tcp,
    pub(crate) duct: Option<Duct>,
}

impl<R: Runtime> Stream<R> {
    /// Reads a stream that nobody else has.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self.duct {
            None => R::poll_read(&mut self.tcp, cx, buffer),
            Some(_) => self.poll_read_shared(cx, buffer),
        }
    }

    /// Writes a stream that nobody else has.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.duct {
            None => R::poll_write(&mut self.tcp, cx, data),
            Some(_) => self.poll_write_shared(cx, data),
        }
    }

    pub(crate) fn poll_read_shared(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        poll_io(cx, || self.try_read(buffer), |cx| self.poll_readable(cx))
    }

    pub(crate) fn poll_write_shared(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        poll_io(cx, || self.try_write(data), |cx| self.poll_writable(cx))
    }

    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.duct {
            None => R::poll_readable(&self.tcp, cx),
            Some(duct) => duct.poll_readable(cx),
        }
    }

    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.duct {
            None => R::poll_writable(&self.tcp, cx),
            Some(duct) => duct.poll_writable(cx),
        }
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.duct {
            None => R::try_read(&self.tcp, buffer),
            Some(duct) => duct.read(buffer),
        }
    }

    fn try_write(&self, data: &[u8]) -> io::Result<usize> {
        match &self.duct {
            None => R::try_write(&self.tcp, data),
            Some(duct) => duct.write(data),
        }
    }
}

/// Calls that do not wait.
impl<R: Runtime> Read for &Stream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.try_read(buffer)
    }
}

impl<R: Runtime> Write for &Stream<R> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.try_write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A socket whose calls do not wait.
pub(crate) struct Tried<'s, R: Runtime>(pub(crate) &'s R::Tcp);

impl<R: Runtime> Read for Tried<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        R::try_read(self.0, buffer)
    }
}

impl<R: Runtime> Write for Tried<'_, R> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        R::try_write(self.0, data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
