//! Pipe to a peer, which a user reads from and writes to.

use std::io;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use p2pd_async::IntoSocket;
use p2pd_sys::PipeInfo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::messages::Socket;
use crate::{Messages, Tokio};

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
pub struct Pipe(p2pd_async::Pipe<Tokio>);

impl Pipe {
    /// The messages beside a relayed pipe, once.
    ///
    /// # Errors
    /// `Unsupported` for a pipe that was not relayed when it opened, `AlreadyExists` if they were taken before.
    pub fn messages(&mut self) -> io::Result<Messages> {
        self.0.messages()
    }

    /// Returns the bare TCP stream of a plain pipe. Nothing was read ahead, nothing waits to be sent, and p2pd keeps no
    /// hold on it.
    ///
    /// # Errors
    /// Gives an encrypted pipe back, and one whose echo replies are not sent yet.
    pub fn into_tcp_stream(self) -> Result<TcpStream, Box<Pipe>> {
        self.0.leave().map_err(|(pipe, _)| Box::new(Pipe(*pipe)))
    }

    /// Returns the bare stream as [`into_tcp_stream`](Self::into_tcp_stream) does, as a blocking stream of the standard
    /// library. It becomes an `OwnedFd` by `into`.
    ///
    /// # Errors
    /// `Unsupported` for an encrypted pipe, and for one whose echo replies are not sent yet; the pipe is closed.
    pub fn into_std(self) -> io::Result<std::net::TcpStream> {
        let stream = self.0.leave().map_err(|(_, why)| why)?.into_std()?;
        stream.set_nonblocking(false)?;
        Ok(stream)
    }
}

impl From<p2pd_async::Pipe<Tokio>> for Pipe {
    fn from(pipe: p2pd_async::Pipe<Tokio>) -> Self {
        Pipe(pipe)
    }
}

impl IntoSocket<Tokio> for Pipe {
    fn into_socket(self) -> io::Result<Socket> {
        Ok(Socket::Peer(Box::new(self.0)))
    }
}

/// Gives the socket for its options and its number. Reading or writing bytes on an encrypted pipe's socket breaks the
/// pipe. The socket of a relayed pipe has no bytes, and hangs up when the pipe ends.
#[cfg(unix)]
impl std::os::fd::AsFd for Pipe {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.stream().as_fd()
    }
}

impl Deref for Pipe {
    type Target = PipeInfo;
    fn deref(&self) -> &PipeInfo {
        &self.0
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // A plain pipe's bytes go where the user wants them, which need not be initialized.
        let room = buf.remaining();
        let bare =
            |stream: &mut TcpStream| Pin::new(stream).poll_read(cx, buf).map_ok(|()| room - buf.remaining());
        if let Some(read) = self.0.poll_bare(room, bare) {
            return read.map_ok(drop);
        }
        let n = ready!(self.0.poll_read(cx, buf.initialize_unfilled()))?;
        buf.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_end(cx)
    }
}
