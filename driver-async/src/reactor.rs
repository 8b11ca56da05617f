//! A runtime's sockets, as the engine wants them: each with a waker of its own.

use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use p2pd_core::{IoFailure, QueryId, SockId};
use p2pd_sys::{Reactor, Ready, SockWaker};
use smallvec::SmallVec;
use socket2::SockRef;

use crate::runtime::Runtime;

type Addresses = SmallVec<[IpAddr; 2]>;
type LookUp = Pin<Box<dyn Future<Output = io::Result<Addresses>> + Send>>;

/// Addresses of one name that the core is given.
const MOST: usize = 4;

pub(crate) struct Sockets<R> {
    pub(crate) ready: Ready,
    /// Look-ups under way.
    queries: Vec<(QueryId, LookUp)>,
    runtime: PhantomData<R>,
}

/// A socket and who is woken for it.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    pub(crate) io: S,
    waker: SockWaker,
}

impl<R: Runtime> Sockets<R> {
    pub(crate) fn new() -> Self {
        Sockets { ready: Ready::default(), queries: Vec::new(), runtime: PhantomData }
    }

    /// The next look-up that has ended.
    pub(crate) fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<(QueryId, Result<Addresses, IoFailure>)> {
        for place in 0..self.queries.len() {
            if let Poll::Ready(found) = self.queries[place].1.as_mut().poll(cx) {
                let (query, _) = self.queries.swap_remove(place);
                return Poll::Ready((query, found.map_err(|_| IoFailure::NoSuchName)));
            }
        }
        Poll::Pending
    }

    fn watch<S>(&self, sock: SockId, io: S) -> Watched<S> {
        Watched { io, waker: self.ready.waker(sock) }
    }
}

impl<R: Runtime> Reactor for Sockets<R> {
    type Stream = Watched<R::Tcp>;
    type Listener = Watched<R::Listener>;
    type Udp = Watched<R::Udp>;

    const EARLY: Duration = R::EARLY;

    fn stream(&mut self, sock: SockId, socket: TcpStream) -> io::Result<Self::Stream> {
        Ok(self.watch(sock, R::tcp(socket)?))
    }

    fn listener(&mut self, sock: SockId, socket: TcpListener) -> io::Result<Self::Listener> {
        Ok(self.watch(sock, R::listener(socket)?))
    }

    fn udp(&mut self, sock: SockId, socket: UdpSocket) -> io::Result<Self::Udp> {
        Ok(self.watch(sock, R::udp(socket)?))
    }

    fn waker(&self, sock: SockId) -> Option<Waker> {
        Some(self.ready.waker(sock).context().waker().clone())
    }

    /// Dropping a socket is enough.
    fn forget(&mut self, _: SockId) {}

    fn accept(&mut self, listener: &Self::Listener, sock: SockId) -> io::Result<(Self::Stream, SocketAddr)> {
        match R::poll_accept(&listener.io, &mut listener.waker.context()) {
            Poll::Ready(accepted) => accepted.map(|(stream, remote)| (self.watch(sock, stream), remote)),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn receive<T>(udp: &Self::Udp, mut by: impl FnMut(SockRef<'_>) -> io::Result<T>) -> io::Result<T> {
        udp.waker.retry(|| R::try_receive(&udp.io, &mut by), |cx| R::poll_udp_readable(&udp.io, cx))
    }

    fn read(stream: &mut Self::Stream, buffer: &mut [u8]) -> io::Result<usize> {
        stream.waker.retry(|| R::try_read(&stream.io, buffer), |cx| R::poll_readable(&stream.io, cx))
    }

    fn write(stream: &mut Self::Stream, data: &[u8]) -> io::Result<usize> {
        stream.waker.retry(|| R::try_write(&stream.io, data), |cx| R::poll_writable(&stream.io, cx))
    }

    fn outcome(stream: &Self::Stream) -> io::Result<SocketAddr> {
        stream.waker.retry(|| R::try_outcome(&stream.io), |cx| R::poll_writable(&stream.io, cx))
    }

    fn socket(stream: &Self::Stream) -> SockRef<'_> {
        R::tcp_socket(&stream.io)
    }

    fn udp_socket(udp: &Self::Udp) -> SockRef<'_> {
        R::udp_socket(&udp.io)
    }

    fn resolve(&mut self, query: QueryId, host: Box<str>) {
        let look_up = R::unblock(move || {
            let found = (&*host, 0).to_socket_addrs()?;
            Ok(found.map(|a| a.ip()).take(MOST).collect())
        });
        self.queries.push((query, Box::pin(look_up)));
    }

    fn cancel(&mut self, query: QueryId) {
        self.queries.retain(|(asked, _)| *asked != query);
    }
}
