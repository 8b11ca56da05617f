//! Runtime of pipes of messages on tokio.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use p2pd_async::{IntoSocket, Runtime};
use p2pd_sys::socket;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UdpSocket, lookup_host};

use super::Socket;
use crate::{Messages, Pipe};

/// tokio, as pipes of messages know it.
#[derive(Clone, Copy, Debug)]
pub struct Tokio;

impl IntoSocket<Tokio> for TcpStream {
    fn into_socket(self) -> io::Result<Socket> {
        Ok(Socket::Tcp(self))
    }
}

/// Converts a socket. A connected one sends to its peer, and receives from nobody else.
impl IntoSocket<Tokio> for UdpSocket {
    fn into_socket(self) -> io::Result<Socket> {
        Ok(Socket::udp(self))
    }
}

impl IntoSocket<Tokio> for Pipe {
    fn into_socket(self) -> io::Result<Socket> {
        Ok(Socket::Peer(Box::new(self)))
    }
}

impl IntoSocket<Tokio> for Messages {
    fn into_socket(self) -> io::Result<Socket> {
        Ok(Socket::Beside(Box::new(self)))
    }
}

impl Runtime for Tokio {
    type Tcp = TcpStream;
    type Listener = TcpListener;
    type Udp = UdpSocket;
    type Pipe = Pipe;
    type Messages = Messages;

    fn spawn(task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(task);
    }

    fn sleep(time: Duration) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(time)
    }

    async fn look_up(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(lookup_host((host, port)).await?.collect())
    }

    fn tcp(socket: std::net::TcpStream) -> io::Result<TcpStream> {
        TcpStream::from_std(socket)
    }

    fn tcp_socket(tcp: &TcpStream) -> SockRef<'_> {
        SockRef::from(tcp)
    }

    async fn connected(tcp: &TcpStream) -> io::Result<SocketAddr> {
        tcp.async_io(Interest::WRITABLE, || socket::outcome(tcp)).await
    }

    fn poll_readable(tcp: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        tcp.poll_read_ready(cx)
    }

    fn poll_writable(tcp: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        tcp.poll_write_ready(cx)
    }

    fn try_read(tcp: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        tcp.try_read(buffer)
    }

    fn try_write(tcp: &TcpStream, data: &[u8]) -> io::Result<usize> {
        tcp.try_write(data)
    }

    async fn read(tcp: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            tcp.readable().await?;
            match tcp.try_read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }

    async fn write(tcp: &TcpStream, data: &[u8]) -> io::Result<usize> {
        loop {
            tcp.writable().await?;
            match tcp.try_write(data) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                written => return written,
            }
        }
    }

    fn listener(socket: std::net::TcpListener) -> io::Result<TcpListener> {
        TcpListener::from_std(socket)
    }

    fn listener_socket(listener: &TcpListener) -> SockRef<'_> {
        SockRef::from(listener)
    }

    fn poll_accept(listener: &TcpListener, cx: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        listener.poll_accept(cx).map_ok(|(stream, _)| stream)
    }

    fn udp(socket: std::net::UdpSocket) -> io::Result<UdpSocket> {
        UdpSocket::from_std(socket)
    }

    fn udp_socket(udp: &UdpSocket) -> SockRef<'_> {
        SockRef::from(udp)
    }

    async fn receive(udp: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        udp.recv_from(buffer).await
    }

    async fn send(udp: &UdpSocket, data: &[u8], to: Option<SocketAddr>) -> io::Result<usize> {
        match to {
            Some(to) => udp.send_to(data, to).await,
            None => udp.send(data).await,
        }
    }

    fn pipe_socket(pipe: &Pipe) -> SockRef<'_> {
        pipe.socket()
    }

    fn poll_read(pipe: &mut Pipe, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(pipe).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    fn poll_write(pipe: &mut Pipe, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(pipe).poll_write(cx, data)
    }

    fn poll_flush(pipe: &mut Pipe, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(pipe).poll_flush(cx)
    }

    fn poll_end(pipe: &mut Pipe, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(pipe).poll_shutdown(cx)
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
