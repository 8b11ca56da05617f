//! Requirements on a runtime.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::ops::Deref;
use std::task::{Context, Poll};
use std::time::Duration;

use p2pd_sys::PipeInfo;
use socket2::SockRef;

/// A runtime: it runs tasks, waits for times, and watches non-blocking sockets. At most one task reads a socket at a
/// time, and one writes it. Dropping a future loses nothing.
pub trait Runtime: Copy + fmt::Debug + Send + Sync + 'static {
    /// A watched TCP stream.
    type Tcp: fmt::Debug + Send + Sync + 'static;
    /// A watched TCP listener.
    type Listener: fmt::Debug + Send + Sync + 'static;
    /// A watched UDP socket.
    type Udp: fmt::Debug + Send + Sync + 'static;
    /// The driver's pipe to a peer.
    type Pipe: Deref<Target = PipeInfo> + fmt::Debug + Send + 'static;
    /// The driver's messages beside a relayed pipe.
    type Messages: fmt::Debug + Send + Sync + 'static;

    /// Runs a task until it ends. One that panics does no harm to others.
    fn spawn(task: impl Future<Output = ()> + Send + 'static);

    /// Waits so long; `Duration::MAX` is for ever.
    fn sleep(time: Duration) -> impl Future<Output = ()> + Send;

    /// Looks a host up.
    fn look_up(host: String, port: u16) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;

    /// Watches a stream.
    ///
    /// # Errors
    /// Where the runtime cannot watch it.
    fn tcp(socket: TcpStream) -> io::Result<Self::Tcp>;

    /// The stream's socket.
    fn tcp_socket(tcp: &Self::Tcp) -> SockRef<'_>;

    /// Waits until [`outcome`](p2pd_sys::socket::outcome) has the outcome of a connect.
    fn connected(tcp: &Self::Tcp) -> impl Future<Output = io::Result<SocketAddr>> + Send;

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

    /// Reads as soon as there is something.
    fn read(tcp: &Self::Tcp, buffer: &mut [u8]) -> impl Future<Output = io::Result<usize>> + Send;

    /// Writes as soon as there is room.
    fn write(tcp: &Self::Tcp, data: &[u8]) -> impl Future<Output = io::Result<usize>> + Send;

    /// Watches a listener.
    ///
    /// # Errors
    /// Where the runtime cannot watch it.
    fn listener(socket: TcpListener) -> io::Result<Self::Listener>;

    /// The listener's socket.
    fn listener_socket(listener: &Self::Listener) -> SockRef<'_>;

    /// Accepts the next client.
    fn poll_accept(listener: &Self::Listener, cx: &mut Context<'_>) -> Poll<io::Result<Self::Tcp>>;

    /// Watches a UDP socket.
    ///
    /// # Errors
    /// Where the runtime cannot watch it.
    fn udp(socket: UdpSocket) -> io::Result<Self::Udp>;

    /// The UDP socket itself.
    fn udp_socket(udp: &Self::Udp) -> SockRef<'_>;

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

    /// The pipe's socket.
    fn pipe_socket(pipe: &Self::Pipe) -> SockRef<'_>;

    /// Reads from a pipe.
    fn poll_read(pipe: &mut Self::Pipe, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Writes to a pipe.
    fn poll_write(pipe: &mut Self::Pipe, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>>;

    /// Sends the bytes that a pipe holds.
    fn poll_flush(pipe: &mut Self::Pipe, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ends our direction of a pipe.
    fn poll_end(pipe: &mut Self::Pipe, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// The two ends of the pipe that the messages are beside, ours first.
    fn ends(messages: &Self::Messages) -> (SocketAddr, SocketAddr);

    /// Sends a message, whole or not at all.
    fn send_message(messages: &Self::Messages, data: &[u8]) -> impl Future<Output = io::Result<()>> + Send;

    /// Receives the next message.
    fn receive_message(messages: &Self::Messages) -> impl Future<Output = io::Result<Vec<u8>>> + Send;
}
