//! Runtime of pipes of messages on the `async-io` reactor, with the executor for its tasks.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_io::{Async, Timer};
use futures_io::{AsyncRead, AsyncWrite};
use p2pd_async::{IntoSocket, Runtime};
use p2pd_sys::socket;
use socket2::SockRef;

use super::Socket;
use crate::{Messages, Pipe, executor};

/// async-std or smol, as pipes of messages know them.
#[derive(Clone, Copy, Debug)]
pub struct AsyncIo;

impl IntoSocket<AsyncIo> for Async<std::net::TcpStream> {
    fn into_socket(self) -> io::Result<Socket> {
        Ok(Socket::Tcp(self))
    }
}

/// Converts a socket. A connected one sends to its peer, and receives from nobody else.
impl IntoSocket<AsyncIo> for Async<UdpSocket> {
    fn into_socket(self) -> io::Result<Socket> {
        Ok(Socket::udp(self))
    }
}

impl IntoSocket<AsyncIo> for std::net::TcpStream {
    fn into_socket(self) -> io::Result<Socket> {
        AsyncIo::tcp(self).map(Socket::Tcp)
    }
}

/// Converts a socket, and registers it with the reactor.
impl IntoSocket<AsyncIo> for UdpSocket {
    fn into_socket(self) -> io::Result<Socket> {
        Async::new(self).map(Socket::udp)
    }
}

/// Converts a stream of async-std or of smol. The stream may have clones, so the result is a duplicate of its
/// descriptor.
#[cfg(unix)]
impl IntoSocket<AsyncIo> for crate::TcpStream {
    fn into_socket(self) -> io::Result<Socket> {
        AsyncIo::tcp(SockRef::from(&self).try_clone()?.into()).map(Socket::Tcp)
    }
}

impl IntoSocket<AsyncIo> for Pipe {
    fn into_socket(self) -> io::Result<Socket> {
        Ok(Socket::Peer(Box::new(self)))
    }
}

impl IntoSocket<AsyncIo> for Messages {
    fn into_socket(self) -> io::Result<Socket> {
        Ok(Socket::Beside(Box::new(self)))
    }
}

impl Runtime for AsyncIo {
    type Tcp = Async<std::net::TcpStream>;
    type Listener = Async<TcpListener>;
    type Udp = Async<UdpSocket>;
    type Pipe = Pipe;
    type Messages = Messages;

    fn spawn(task: impl Future<Output = ()> + Send + 'static) {
        executor::spawn(task);
    }

    async fn sleep(time: Duration) {
        Timer::after(time).await;
    }

    async fn look_up(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
        blocking::unblock(move || Ok((host, port).to_socket_addrs()?.collect())).await
    }

    fn tcp(socket: std::net::TcpStream) -> io::Result<Self::Tcp> {
        socket.set_nonblocking(true)?;
        Async::new_nonblocking(socket)
    }

    fn tcp_socket(tcp: &Self::Tcp) -> SockRef<'_> {
        SockRef::from(tcp.get_ref())
    }

    async fn connected(tcp: &Self::Tcp) -> io::Result<SocketAddr> {
        tcp.write_with(|tcp| socket::outcome(tcp)).await
    }

    fn poll_readable(tcp: &Self::Tcp, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        tcp.poll_readable(cx)
    }

    fn poll_writable(tcp: &Self::Tcp, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        tcp.poll_writable(cx)
    }

    fn try_read(tcp: &Self::Tcp, buffer: &mut [u8]) -> io::Result<usize> {
        io::Read::read(&mut tcp.get_ref(), buffer)
    }

    fn try_write(tcp: &Self::Tcp, data: &[u8]) -> io::Result<usize> {
        io::Write::write(&mut tcp.get_ref(), data)
    }

    async fn read(tcp: &Self::Tcp, buffer: &mut [u8]) -> io::Result<usize> {
        tcp.read_with(|mut tcp| io::Read::read(&mut tcp, buffer)).await
    }

    async fn write(tcp: &Self::Tcp, data: &[u8]) -> io::Result<usize> {
        tcp.write_with(|mut tcp| io::Write::write(&mut tcp, data)).await
    }

    fn listener(socket: TcpListener) -> io::Result<Self::Listener> {
        Async::new_nonblocking(socket)
    }

    fn listener_socket(listener: &Self::Listener) -> SockRef<'_> {
        SockRef::from(listener.get_ref())
    }

    fn poll_accept(listener: &Self::Listener, cx: &mut Context<'_>) -> Poll<io::Result<Self::Tcp>> {
        loop {
            match listener.get_ref().accept() {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready!(listener.poll_readable(cx))?,
                accepted => return Poll::Ready(accepted.and_then(|(stream, _)| Self::tcp(stream))),
            }
        }
    }

    fn udp(socket: UdpSocket) -> io::Result<Self::Udp> {
        Async::new_nonblocking(socket)
    }

    fn udp_socket(udp: &Self::Udp) -> SockRef<'_> {
        SockRef::from(udp.get_ref())
    }

    async fn receive(udp: &Self::Udp, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        udp.recv_from(buffer).await
    }

    async fn send(udp: &Self::Udp, data: &[u8], to: Option<SocketAddr>) -> io::Result<usize> {
        match to {
            Some(to) => udp.send_to(data, to).await,
            None => udp.send(data).await,
        }
    }

    fn pipe_socket(pipe: &Pipe) -> SockRef<'_> {
        pipe.socket()
    }

    fn poll_read(pipe: &mut Pipe, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(pipe).poll_read(cx, buffer)
    }

    fn poll_write(pipe: &mut Pipe, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(pipe).poll_write(cx, data)
    }

    fn poll_flush(pipe: &mut Pipe, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(pipe).poll_flush(cx)
    }

    fn poll_end(pipe: &mut Pipe, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(pipe).poll_close(cx)
    }

    fn ends(messages: &Messages) -> (SocketAddr, SocketAddr) {
        messages.ends()
    }

    async fn send_message(messages: &Messages, data: &[u8]) -> io::Result<()> {
        messages.send(data).await
    }

    async fn receive_message(messages: &Messages) -> io::Result<Vec<u8>> {
        messages.recv().await
    }
}
