//! Requirements on a runtime.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;

use crate::peer::Pipe;
use crate::tcp::{poll_read, poll_write};

/// A runtime: it runs tasks, waits for times, and watches sockets. Those that it is given do not block.
///
/// At most one task reads a socket at a time, and one writes it. Dropping a future loses nothing.
pub trait Runtime: Copy + fmt::Debug + Send + Sync + 'static {
    /// A watched TCP stream.
    type Tcp: fmt::Debug + Send + Sync + 'static;
    /// A watched TCP listener.
    type Listener: fmt::Debug + Send + Sync + 'static;
    /// A watched UDP socket.
    type Udp: fmt::Debug + Send + Sync + 'static;
    /// A timer that is set again and again.
    type Timer: Send + 'static;
    /// A pipe to a peer, with the traits by which this runtime's programs read and write.
    type Pipe: From<Pipe<Self>> + fmt::Debug + Send + 'static;

    /// Most lateness of [`Timer`](Self::Timer). A dial is awaited without the timer from so long before its time.
    const EARLY: Duration;

    /// Runs a task until it ends. One that panics does no harm to others.
    fn spawn(task: impl Future<Output = ()> + Send + 'static);

    /// Runs work that blocks, on another thread.
    fn unblock<T: Send + 'static>(
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> impl Future<Output = io::Result<T>> + Send;

    /// Waits so long; `Duration::MAX` is for ever.
    fn sleep(time: Duration) -> impl Future<Output = ()> + Send;

    /// Gives way once to other tasks and to sockets.
    fn yield_now() -> impl Future<Output = ()> + Send;

    /// Creates a timer, which is polled only after it was set.
    fn timer() -> Self::Timer;

    /// Sets a timer.
    fn set_timer(timer: &mut Self::Timer, time: Duration);

    /// Waits until the time of a timer has come.
    fn poll_timer(timer: &mut Self::Timer, cx: &mut Context<'_>) -> Poll<()>;

    /// Watches a stream.
    ///
    /// # Errors
    /// Where the runtime cannot watch it.
    fn tcp(socket: TcpStream) -> io::Result<Self::Tcp>;

    /// The stream's socket.
    fn tcp_socket(tcp: &Self::Tcp) -> SockRef<'_>;

    /// Waits until there may be something to read, an end or an error included, and leaves it there. The stream remembers
    /// one waker.
    fn poll_readable(tcp: &Self::Tcp, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Waits until there may be room to write. The stream remembers one waker.
    fn poll_writable(tcp: &Self::Tcp, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Reads what is there; `WouldBlock` if nothing is.
    ///
    /// # Errors
    /// The stream's.
    fn try_read(tcp: &Self::Tcp, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes what there is room for; `WouldBlock` if there is none.
    ///
    /// # Errors
    /// The stream's.
    fn try_write(tcp: &Self::Tcp, data: &[u8]) -> io::Result<usize>;

    /// Returns the outcome of a connect, by [`outcome`](p2pd_sys::socket::outcome); `WouldBlock` for none yet.
    ///
    /// # Errors
    /// Of `connect`.
    fn try_outcome(tcp: &Self::Tcp) -> io::Result<SocketAddr>;

    /// Reads a stream that nobody else has, as soon as there is something.
    fn poll_read(tcp: &mut Self::Tcp, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        poll_read::<Self>(tcp, cx, buffer)
    }

    /// Writes a stream that nobody else has, as soon as there is room.
    fn poll_write(tcp: &mut Self::Tcp, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        poll_write::<Self>(tcp, cx, data)
    }

    /// Watches a listener.
    ///
    /// # Errors
    /// Where the runtime cannot watch it.
    fn listener(socket: TcpListener) -> io::Result<Self::Listener>;

    /// The listener's socket.
    fn listener_socket(listener: &Self::Listener) -> SockRef<'_>;

    /// Accepts the next client.
    fn poll_accept(
        listener: &Self::Listener,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(Self::Tcp, SocketAddr)>>;

    /// Watches a UDP socket.
    ///
    /// # Errors
    /// Where the runtime cannot watch it.
    fn udp(socket: UdpSocket) -> io::Result<Self::Udp>;

    /// The UDP socket itself.
    fn udp_socket(udp: &Self::Udp) -> SockRef<'_>;

    /// Waits until there may be a datagram. The socket remembers one waker.
    fn poll_udp_readable(udp: &Self::Udp, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Receives by calls of `by` on the socket; `WouldBlock` if nothing is there.
    ///
    /// # Errors
    /// Those of `by`.
    fn try_receive<T>(udp: &Self::Udp, by: impl FnOnce(SockRef<'_>) -> io::Result<T>) -> io::Result<T>;

    /// Receives the next datagram.
    fn receive(
        udp: &Self::Udp,
        buffer: &mut [u8],
    ) -> impl Future<Output = io::Result<(usize, SocketAddr)>> + Send;

    /// Sends a datagram as soon as there is room; without an address to the socket's connected peer.
    fn send(
        udp: &Self::Udp,
        data: &[u8],
        to: Option<SocketAddr>,
    ) -> impl Future<Output = io::Result<usize>> + Send;
}
