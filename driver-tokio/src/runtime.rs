//! tokio, as the node and pipes of messages know it.

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
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::{Instant, Sleep};

use crate::Pipe;
use crate::messages::Socket;

/// tokio.
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

impl Runtime for Tokio {
    type Tcp = TcpStream;
    type Listener = TcpListener;
    type Udp = UdpSocket;
    type Timer = Pin<Box<Sleep>>;
    type Pipe = Pipe;

    /// The runtime's timer is up to 2 ms late (measured: 1.2 ms at the median).
    const EARLY: Duration = Duration::from_millis(2);

    fn spawn(task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(task);
    }

    async fn unblock<T: Send + 'static>(
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
    }

    fn sleep(time: Duration) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(time)
    }

    fn yield_now() -> impl Future<Output = ()> + Send {
        tokio::task::yield_now()
    }

    fn timer() -> Self::Timer {
        Box::pin(tokio::time::sleep(Duration::ZERO))
    }

    fn set_timer(timer: &mut Self::Timer, time: Duration) {
        timer.as_mut().reset(Instant::now() + time);
    }

    fn poll_timer(timer: &mut Self::Timer, cx: &mut Context<'_>) -> Poll<()> {
        timer.as_mut().poll(cx)
    }

    fn tcp(socket: std::net::TcpStream) -> io::Result<TcpStream> {
        TcpStream::from_std(socket)
    }

    fn tcp_socket(tcp: &TcpStream) -> SockRef<'_> {
        SockRef::from(tcp)
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

    fn try_outcome(tcp: &TcpStream) -> io::Result<SocketAddr> {
        tcp.try_io(Interest::WRITABLE, || socket::outcome(tcp))
    }

    /// tokio's own call: it knows from a short read that nothing is left, which saves one more.
    fn poll_read(tcp: &mut TcpStream, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(tcp).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    fn poll_write(tcp: &mut TcpStream, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(tcp).poll_write(cx, data)
    }

    fn listener(socket: std::net::TcpListener) -> io::Result<TcpListener> {
        TcpListener::from_std(socket)
    }

    fn listener_socket(listener: &TcpListener) -> SockRef<'_> {
        SockRef::from(listener)
    }

    fn poll_accept(
        listener: &TcpListener,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        listener.poll_accept(cx)
    }

    fn udp(socket: std::net::UdpSocket) -> io::Result<UdpSocket> {
        UdpSocket::from_std(socket)
    }

    fn udp_socket(udp: &UdpSocket) -> SockRef<'_> {
        SockRef::from(udp)
    }

    fn poll_udp_readable(udp: &UdpSocket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        udp.poll_recv_ready(cx)
    }

    fn try_receive<T>(udp: &UdpSocket, by: impl FnOnce(SockRef<'_>) -> io::Result<T>) -> io::Result<T> {
        udp.try_io(Interest::READABLE, || by(SockRef::from(udp)))
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
}

/// `cargo test --release -p p2pd-tokio late -- --nocapture` prints the figures.
#[cfg(test)]
mod tests {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn armed_dials_are_little_late() {
        p2pd_async::lateness::<super::Tokio>("tokio").await.unwrap();
    }
}
