//! Requirements of the engine on an event loop.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::task::Waker;
use std::time::Duration;

use p2pd_core::{QueryId, SockId};
use socket2::SockRef;

/// An event loop, as an [`Engine`](super::Engine) needs it: it watches non-blocking sockets. Whenever one can perhaps
/// be read or written again, the driver calls [`Engine::ready`](super::Engine::ready).
///
/// Every call of [`read`](Self::read), [`write`](Self::write), [`outcome`](Self::outcome), [`accept`](Self::accept) and
/// [`receive`](Self::receive) that gives `WouldBlock` arms the watch again; a wake-up too many does no harm.
pub trait Reactor {
    /// A watched TCP stream.
    type Stream: fmt::Debug;
    /// A watched TCP listener.
    type Listener: fmt::Debug;
    /// A watched UDP socket.
    type Udp: fmt::Debug;

    /// Most lateness of this loop's timer. A dial is awaited without the timer from so long before its time.
    const EARLY: Duration;

    /// Watches a stream whose connect is under way.
    ///
    /// # Errors
    /// Where the loop cannot watch it.
    fn stream(&mut self, sock: SockId, socket: TcpStream) -> io::Result<Self::Stream>;

    /// Watches a listener.
    ///
    /// # Errors
    /// Where the loop cannot watch it.
    fn listener(&mut self, sock: SockId, socket: TcpListener) -> io::Result<Self::Listener>;

    /// Watches a UDP socket.
    ///
    /// # Errors
    /// Where the loop cannot watch it.
    fn udp(&mut self, sock: SockId, socket: UdpSocket) -> io::Result<Self::Udp>;

    /// Returns the waker that has the driver call [`Engine::ready`](super::Engine::ready) for this id, which is no
    /// socket's; `None` where the loop hears of sockets alone.
    fn waker(&self, _sock: SockId) -> Option<Waker> {
        None
    }

    /// The socket with this id is closed, or handed out next.
    fn forget(&mut self, sock: SockId);

    /// Accepts a stream and watches it as `sock`.
    ///
    /// # Errors
    /// Of `accept`, `WouldBlock` for none.
    fn accept(&mut self, listener: &Self::Listener, sock: SockId) -> io::Result<(Self::Stream, SocketAddr)>;

    /// Receives datagrams by calls of `by`, one or more.
    ///
    /// # Errors
    /// Those of `by`, `WouldBlock` for none.
    fn receive<T>(socket: &Self::Udp, by: impl FnMut(SockRef<'_>) -> io::Result<T>) -> io::Result<T>;

    /// Reads.
    ///
    /// # Errors
    /// Of `recv`, `WouldBlock` for nothing yet.
    fn read(stream: &mut Self::Stream, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes.
    ///
    /// # Errors
    /// Of `send`, `WouldBlock` for no room.
    fn write(stream: &mut Self::Stream, data: &[u8]) -> io::Result<usize>;

    /// Returns the outcome of a connect, by [`socket::outcome`](crate::socket::outcome).
    ///
    /// # Errors
    /// Of `connect`, `WouldBlock` for nothing yet.
    fn outcome(stream: &Self::Stream) -> io::Result<SocketAddr>;

    /// The stream's socket, for its options.
    fn socket(stream: &Self::Stream) -> SockRef<'_>;

    /// The UDP socket itself, for sending.
    fn udp_socket(socket: &Self::Udp) -> SockRef<'_>;

    /// Looks a host name up, off the loop; the driver says the outcome by
    /// [`Engine::resolved`](super::Engine::resolved). Literal addresses do not come here, and the engine sees to
    /// the time.
    fn resolve(&mut self, query: QueryId, host: Box<str>);

    /// Cancels a look-up: nobody waits for it any more.
    fn cancel(&mut self, query: QueryId);
}
