//! The `async-io` reactor with an executor, as the node and pipes of messages know them.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_io::{Async, Timer};
use p2pd_async::{IntoSocket, Runtime};
use p2pd_sys::socket;
use socket2::SockRef;

use crate::messages::Socket;
use crate::{Pipe, executor};

/// async-std or smol.
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

/// Converts a socket, and registers it with the reactor.
impl IntoSocket<AsyncIo> for std::net::TcpStream {
    fn into_socket(self) -> io::Result<Socket> {
        Async::new(self).map(Socket::Tcp)
    }
}

/// Converts a socket, and registers it with the reactor.
impl IntoSocket<AsyncIo> for UdpSocket {
    fn into_socket(self) -> io::Result<Socket> {
        Async::new(self).map(Socket::udp)
    }
}

/// Converts a stream of async-std. The stream may have clones, so the result is a duplicate of its descriptor.
#[cfg(all(unix, feature = "async-std"))]
impl IntoSocket<AsyncIo> for async_std::net::TcpStream {
    fn into_socket(self) -> io::Result<Socket> {
        std::net::TcpStream::from(SockRef::from(&self).try_clone()?).into_socket()
    }
}

/// Converts a stream of smol. The stream may have clones, so the result is a duplicate of its descriptor.
#[cfg(all(unix, feature = "smol"))]
impl IntoSocket<AsyncIo> for smol::net::TcpStream {
    fn into_socket(self) -> io::Result<Socket> {
        std::net::TcpStream::from(SockRef::from(&self).try_clone()?).into_socket()
    }
}

impl Runtime for AsyncIo {
    type Tcp = Async<std::net::TcpStream>;
    type Listener = Async<TcpListener>;
    type Udp = Async<UdpSocket>;
    type Timer = Timer;
    type Pipe = Pipe;

    /// Margin for this reactor's exact timers (measured: 0.06 ms late at the median, 0.2 ms at 99 %).
    const EARLY: Duration = Duration::from_micros(300);

    fn spawn(task: impl Future<Output = ()> + Send + 'static) {
        executor::spawn(task);
    }

    fn unblock<T: Send + 'static>(
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> impl Future<Output = io::Result<T>> + Send {
        blocking::unblock(work)
    }

    async fn sleep(time: Duration) {
        Timer::after(time).await;
    }

    fn yield_now() -> impl Future<Output = ()> + Send {
        futures_lite::future::yield_now()
    }

    fn timer() -> Timer {
        Timer::never()
    }

    fn set_timer(timer: &mut Timer, time: Duration) {
        timer.set_after(time);
    }

    fn poll_timer(timer: &mut Timer, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(timer).poll(cx).map(drop)
    }

    fn tcp(socket: std::net::TcpStream) -> io::Result<Self::Tcp> {
        Async::new_nonblocking(socket)
    }

    fn tcp_socket(tcp: &Self::Tcp) -> SockRef<'_> {
        SockRef::from(tcp.get_ref())
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

    fn try_outcome(tcp: &Self::Tcp) -> io::Result<SocketAddr> {
        socket::outcome(tcp.get_ref())
    }

    fn listener(socket: TcpListener) -> io::Result<Self::Listener> {
        Async::new_nonblocking(socket)
    }

    fn listener_socket(listener: &Self::Listener) -> SockRef<'_> {
        SockRef::from(listener.get_ref())
    }

    fn poll_accept(
        listener: &Self::Listener,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(Self::Tcp, SocketAddr)>> {
        loop {
            match listener.get_ref().accept() {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready!(listener.poll_readable(cx))?,
                Err(e) => return Poll::Ready(Err(e)),
                Ok((stream, from)) => return Poll::Ready(Async::new(stream).map(|stream| (stream, from))),
            }
        }
    }

    fn udp(socket: UdpSocket) -> io::Result<Self::Udp> {
        Async::new_nonblocking(socket)
    }

    fn udp_socket(udp: &Self::Udp) -> SockRef<'_> {
        SockRef::from(udp.get_ref())
    }

    fn poll_udp_readable(udp: &Self::Udp, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        udp.poll_readable(cx)
    }

    fn try_receive<T>(udp: &Self::Udp, by: impl FnOnce(SockRef<'_>) -> io::Result<T>) -> io::Result<T> {
        by(SockRef::from(udp.get_ref()))
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
}

/// `cargo test --release -p p2pd-async-std late -- --nocapture` prints the figures.
#[cfg(test)]
mod tests {
    #[test]
    fn armed_dials_are_little_late() {
        futures_lite::future::block_on(p2pd_async::lateness::<super::AsyncIo>("async-io")).unwrap();
    }
}
