//! Sockets of the `async-io` reactor, as the engine wants them: each with a waker of its own.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_io::Async;
use p2pd_core::{IoFailure, QueryId, SockId};
use p2pd_sys::{Reactor, Ready, SockWaker, socket};
use smallvec::SmallVec;
use socket2::SockRef;

pub(crate) type Answer = (QueryId, Result<SmallVec<[IpAddr; 2]>, IoFailure>);
type LookUp = Pin<Box<dyn Future<Output = io::Result<SmallVec<[IpAddr; 2]>>> + Send>>;

/// Addresses of one name that the core is given.
const MOST: usize = 4;

#[derive(Default)]
pub(crate) struct AsyncIo {
    pub(crate) ready: Ready,
    /// Look-ups on the thread pool of the `blocking` crate.
    queries: Vec<(QueryId, LookUp)>,
}

/// A socket and who is woken for it.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    pub(crate) io: Async<S>,
    waker: SockWaker,
}

impl AsyncIo {
    fn watch<S>(&self, sock: SockId, io: Async<S>) -> Watched<S> {
        Watched { io, waker: self.ready.waker(sock) }
    }

    /// The next look-up that has ended.
    pub(crate) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Answer> {
        for place in 0..self.queries.len() {
            if let Poll::Ready(found) = self.queries[place].1.as_mut().poll(cx) {
                let (query, _) = self.queries.swap_remove(place);
                return Poll::Ready((query, found.map_err(|_| IoFailure::NoSuchName)));
            }
        }
        Poll::Pending
    }
}

impl<S> Watched<S> {
    fn try_read<T>(&self, io: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        self.waker.retry(io, |cx| self.io.poll_readable(cx))
    }

    fn try_write<T>(&self, io: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        self.waker.retry(io, |cx| self.io.poll_writable(cx))
    }
}

impl Reactor for AsyncIo {
    type Stream = Watched<TcpStream>;
    type Listener = Watched<TcpListener>;
    type Udp = Watched<UdpSocket>;

    /// Margin for this reactor's exact timers (measured: 0.06 ms late at the median, 0.2 ms at 99 %).
    const EARLY: Duration = Duration::from_micros(300);

    fn stream(&mut self, sock: SockId, socket: TcpStream) -> io::Result<Self::Stream> {
        Ok(self.watch(sock, Async::new_nonblocking(socket)?))
    }

    fn listener(&mut self, sock: SockId, socket: TcpListener) -> io::Result<Self::Listener> {
        Ok(self.watch(sock, Async::new_nonblocking(socket)?))
    }

    fn udp(&mut self, sock: SockId, socket: UdpSocket) -> io::Result<Self::Udp> {
        Ok(self.watch(sock, Async::new_nonblocking(socket)?))
    }

    /// Dropping a socket is enough.
    fn forget(&mut self, _: SockId) {}

    fn accept(&mut self, listener: &Self::Listener, sock: SockId) -> io::Result<(Self::Stream, SocketAddr)> {
        let (stream, remote) = listener.try_read(|| listener.io.get_ref().accept())?;
        Ok((self.watch(sock, Async::new(stream)?), remote))
    }

    fn receive<T>(udp: &Self::Udp, mut by: impl FnMut(SockRef<'_>) -> io::Result<T>) -> io::Result<T> {
        udp.try_read(|| by(SockRef::from(udp.io.get_ref())))
    }

    fn read(stream: &mut Self::Stream, buffer: &mut [u8]) -> io::Result<usize> {
        stream.try_read(|| io::Read::read(&mut stream.io.get_ref(), buffer))
    }

    fn write(stream: &mut Self::Stream, data: &[u8]) -> io::Result<usize> {
        stream.try_write(|| io::Write::write(&mut stream.io.get_ref(), data))
    }

    fn outcome(stream: &Self::Stream) -> io::Result<SocketAddr> {
        stream.try_write(|| socket::outcome(stream.io.get_ref()))
    }

    fn socket(stream: &Self::Stream) -> SockRef<'_> {
        SockRef::from(stream.io.get_ref())
    }

    fn udp_socket(udp: &Self::Udp) -> SockRef<'_> {
        SockRef::from(udp.io.get_ref())
    }

    fn resolve(&mut self, query: QueryId, host: Box<str>) {
        let look_up = blocking::unblock(move || {
            let found = (&*host, 0).to_socket_addrs()?;
            Ok(found.map(|a| a.ip()).take(MOST).collect())
        });
        self.queries.push((query, Box::pin(look_up)));
    }

    fn cancel(&mut self, query: QueryId) {
        self.queries.retain(|(asked, _)| *asked != query);
    }
}
