//! Pipe to a peer, which a user reads from and writes to.

use std::io;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_io::Async;
use futures_io::{AsyncRead, AsyncWrite};
use p2pd_async::IntoSocket;
use p2pd_sys::PipeInfo;

use crate::messages::Socket;
use crate::{AsyncIo, Messages};

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
pub struct Pipe(p2pd_async::Pipe<AsyncIo>);

impl Pipe {
    /// The messages beside a relayed pipe, once.
    ///
    /// # Errors
    /// `Unsupported` for a pipe that was not relayed when it opened, `AlreadyExists` if they were taken before.
    pub fn messages(&mut self) -> io::Result<Messages> {
        self.0.messages()
    }

    /// Returns the bare TCP stream of a plain pipe as one of async-std, as [`into_std`](Self::into_std) does.
    ///
    /// # Errors
    /// As those of [`into_std`](Self::into_std).
    #[cfg(feature = "async-std")]
    pub fn into_async_std(self) -> io::Result<async_std::net::TcpStream> {
        Ok(self.leave()?.into_inner()?.into())
    }

    /// Returns the bare TCP stream of a plain pipe as one of smol, as [`into_std`](Self::into_std) does.
    ///
    /// # Errors
    /// As those of [`into_std`](Self::into_std).
    #[cfg(feature = "smol")]
    pub fn into_smol(self) -> io::Result<smol::net::TcpStream> {
        Ok(self.leave()?.into())
    }

    /// Returns the bare TCP stream of a plain pipe, as a blocking stream of the standard library. Nothing was read ahead,
    /// nothing waits to be sent, and p2pd keeps no hold on it. It becomes an `OwnedFd` by `into`.
    ///
    /// # Errors
    /// `Unsupported` for an encrypted pipe, and for one whose echo replies are not sent yet; the pipe is closed.
    pub fn into_std(self) -> io::Result<std::net::TcpStream> {
        let stream = self.leave()?.into_inner()?;
        stream.set_nonblocking(false)?;
        Ok(stream)
    }

    fn leave(self) -> io::Result<Async<std::net::TcpStream>> {
        self.0.leave().map_err(|(_, why)| why)
    }
}

impl From<p2pd_async::Pipe<AsyncIo>> for Pipe {
    fn from(pipe: p2pd_async::Pipe<AsyncIo>) -> Self {
        Pipe(pipe)
    }
}

impl IntoSocket<AsyncIo> for Pipe {
    fn into_socket(self) -> io::Result<Socket> {
        Ok(Socket::Peer(Box::new(self.0)))
    }
}

impl Deref for Pipe {
    type Target = PipeInfo;
    fn deref(&self) -> &PipeInfo {
        &self.0
    }
}

impl AsyncRead for Pipe {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.0.poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_end(cx)
    }
}
