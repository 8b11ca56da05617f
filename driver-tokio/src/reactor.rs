//! tokio's sockets, as the engine wants them: each with a waker of its own.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::Poll;
use std::time::Duration;

use p2pd_core::{IoFailure, QueryId, SockId};
use p2pd_sys::{Reactor, Ready, SockWaker, socket};
use smallvec::SmallVec;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

pub(crate) type Answer = (QueryId, Result<SmallVec<[IpAddr; 2]>, IoFailure>);

/// Addresses of one name that the core is given.
const MOST: usize = 4;

#[derive(Debug)]
pub(crate) struct Tokio {
    pub(crate) ready: Ready,
    queries: HashMap<QueryId, AbortHandle>,
    /// Look-ups, which end with this.
    tasks: JoinSet<()>,
    answers: mpsc::UnboundedSender<Answer>,
}

impl Tokio {
    pub(crate) fn new(answers: mpsc::UnboundedSender<Answer>) -> Self {
        Tokio { ready: Ready::default(), queries: HashMap::new(), tasks: JoinSet::new(), answers }
    }

    fn watch<S>(&self, sock: SockId, io: S) -> Watched<S> {
        Watched { io, waker: self.ready.waker(sock) }
    }
}

/// A socket and who is woken for it.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    pub(crate) io: S,
    waker: SockWaker,
}

impl Reactor for Tokio {
    type Stream = Watched<TcpStream>;
    type Listener = Watched<TcpListener>;
    type Udp = Watched<UdpSocket>;

    /// The runtime's timer is up to 2 ms late (measured: 1.2 ms at the median).
    const EARLY: Duration = Duration::from_millis(2);

    fn stream(&mut self, sock: SockId, socket: std::net::TcpStream) -> io::Result<Self::Stream> {
        Ok(self.watch(sock, TcpStream::from_std(socket)?))
    }

    fn listener(&mut self, sock: SockId, socket: std::net::TcpListener) -> io::Result<Self::Listener> {
        Ok(self.watch(sock, TcpListener::from_std(socket)?))
    }

    fn udp(&mut self, sock: SockId, socket: std::net::UdpSocket) -> io::Result<Self::Udp> {
        Ok(self.watch(sock, UdpSocket::from_std(socket)?))
    }

    /// Dropping a socket is enough.
    fn forget(&mut self, _: SockId) {}

    fn accept(&mut self, listener: &Self::Listener, sock: SockId) -> io::Result<(Self::Stream, SocketAddr)> {
        match listener.io.poll_accept(&mut listener.waker.context()) {
            Poll::Ready(accepted) => accepted.map(|(stream, remote)| (self.watch(sock, stream), remote)),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn receive<T>(udp: &Self::Udp, mut by: impl FnMut(SockRef<'_>) -> io::Result<T>) -> io::Result<T> {
        let io = || udp.io.try_io(Interest::READABLE, || by(SockRef::from(&udp.io)));
        udp.waker.retry(io, |cx| udp.io.poll_recv_ready(cx))
    }

    fn read(stream: &mut Self::Stream, buffer: &mut [u8]) -> io::Result<usize> {
        stream.waker.retry(|| stream.io.try_read(buffer), |cx| stream.io.poll_read_ready(cx))
    }

    fn write(stream: &mut Self::Stream, data: &[u8]) -> io::Result<usize> {
        stream.waker.retry(|| stream.io.try_write(data), |cx| stream.io.poll_write_ready(cx))
    }

    fn outcome(stream: &Self::Stream) -> io::Result<SocketAddr> {
        let outcome = || stream.io.try_io(Interest::WRITABLE, || socket::outcome(&stream.io));
        stream.waker.retry(outcome, |cx| stream.io.poll_write_ready(cx))
    }

    fn socket(stream: &Self::Stream) -> SockRef<'_> {
        SockRef::from(&stream.io)
    }

    fn udp_socket(udp: &Self::Udp) -> SockRef<'_> {
        SockRef::from(&udp.io)
    }

    fn resolve(&mut self, query: QueryId, host: Box<str>) {
        while self.tasks.try_join_next().is_some() {}
        self.queries.retain(|_, task| !task.is_finished());
        let answers = self.answers.clone();
        let task = self.tasks.spawn(async move {
            let result = match tokio::net::lookup_host((&*host, 0)).await {
                Ok(found) => Ok(found.map(|a| a.ip()).take(MOST).collect()),
                Err(_) => Err(IoFailure::NoSuchName),
            };
            let _ = answers.send((query, result));
        });
        self.queries.insert(query, task);
    }

    fn cancel(&mut self, query: QueryId) {
        if let Some(task) = self.queries.remove(&query) {
            task.abort();
        }
    }
}
