//! TCP.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{ToSocketAddrs, error};
use crate::aio::kernel::{Handle, Listener, State, Stream, current};
use crate::host::Reuse;

/// Streams that wait to be accepted, as tokio has it.
const BACKLOG: u32 = 1024;

/// A TCP stream. Closed when dropped: by FIN, or by RST where bytes were not read.
///
/// A write takes what fits into the send buffer, and waits while that is full until a third of it is free, as on Linux.
/// A read after a RST returns the bytes that came before, then the error, then the end.
#[derive(Debug)]
pub struct TcpStream {
    handle: Handle,
    local: SocketAddr,
    peer: SocketAddr,
}

impl TcpStream {
    /// Connects to an address, from a port that the host chooses. See [`TcpSocket`] for a port of one's own.
    ///
    /// # Errors
    /// Fails with `ConnectionRefused`, `HostUnreachable` after an ICMP error, and `TimedOut` without an
    /// answer, after as long as the host's [`Profile`](crate::host::Profile) repeats SYNs.
    ///
    /// # Panics
    /// Panics outside of a task.
    pub async fn connect(address: impl ToSocketAddrs) -> io::Result<TcpStream> {
        let address = address.address()?;
        TcpSocket::new(address.is_ipv4()).connect(address).await
    }

    fn poll_connected(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.handle.poll(|current, sock| {
            let Some(stream) = current.kernel.streams.get_mut(&sock) else { return Poll::Pending };
            if let Some(why) = stream.failure() {
                return Poll::Ready(Err(error(why)));
            }
            if stream.state == State::Dialling {
                stream.writers.add(cx.waker());
                return Poll::Pending;
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Returns the stream's own address.
    ///
    /// # Errors
    /// Never fails; the kernel's may.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    /// Returns the address of the other end, as this end sees it.
    ///
    /// # Errors
    /// Never fails; the kernel's may.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }

    /// Has no effect: bytes are sent as soon as the window lets them, without Nagle's algorithm.
    ///
    /// # Errors
    /// Never fails; the kernel's may.
    pub fn set_nodelay(&self, _: bool) -> io::Result<()> {
        Ok(())
    }

    /// Returns true.
    ///
    /// # Errors
    /// Never fails; the kernel's may.
    pub fn nodelay(&self) -> io::Result<bool> {
        Ok(true)
    }

    /// Has closing the stream send RST and throw the queue away, for 0. Others are as none: closing does not wait.
    ///
    /// # Errors
    /// Fails in a task of another host.
    pub fn set_linger(&self, linger: Option<Duration>) -> io::Result<()> {
        self.handle.with(|current, sock| {
            if let Some(stream) = current.kernel.streams.get_mut(&sock) {
                stream.resets = linger == Some(Duration::ZERO);
            }
        })
    }

    /// Lets segments go over so many hops only.
    ///
    /// # Errors
    /// Fails for more than 255.
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        let ttl = u8::try_from(ttl).map_err(io::Error::other)?;
        self.handle.with(|current, sock| current.host.set_ttl(sock, ttl))
    }

    /// Waits until bytes, the end or an error can be read.
    ///
    /// # Errors
    /// Fails in a task of another host.
    pub async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| {
            self.handle.poll(|current, sock| match current.kernel.streams.get_mut(&sock) {
                Some(Stream { state: State::Open | State::Shut, readers, .. })
                    if current.host.unread(sock) == 0 && !current.host.at_end(sock) =>
                {
                    readers.add(cx.waker());
                    Poll::Pending
                }
                _ => Poll::Ready(Ok(())),
            })
        })
        .await
    }

    /// Waits until there is room to write, or an error.
    ///
    /// # Errors
    /// Fails in a task of another host.
    pub async fn writable(&self) -> io::Result<()> {
        poll_fn(|cx| {
            self.handle.poll(|current, sock| match current.kernel.streams.get_mut(&sock) {
                Some(Stream { state: State::Open, writers, .. }) if current.host.room(sock) == 0 => {
                    writers.add(cx.waker());
                    Poll::Pending
                }
                _ => Poll::Ready(Ok(())),
            })
        })
        .await
    }

    /// Reads what is there.
    ///
    /// # Errors
    /// Fails with `WouldBlock` if nothing is, and as a read does.
    pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        let mut buf = ReadBuf::new(buf);
        match self.poll_read_shared(&mut Context::from_waker(Waker::noop()), &mut buf) {
            Poll::Ready(done) => done.map(|()| buf.filled().len()),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Writes what there is room for.
    ///
    /// # Errors
    /// Fails with `WouldBlock` if there is none, and as a write does.
    pub fn try_write(&self, data: &[u8]) -> io::Result<usize> {
        match self.poll_write_shared(&mut Context::from_waker(Waker::noop()), data) {
            Poll::Ready(done) => done,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    pub(super) fn poll_read_shared(
        &self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.handle.poll(|current, sock| {
            let Some(stream) = current.kernel.streams.get_mut(&sock) else { return Poll::Ready(Ok(())) };
            if buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let data = current.host.read(sock, buf.remaining());
            if !data.is_empty() {
                buf.put_slice(&data);
                return Poll::Ready(Ok(()));
            }
            if let Some(why) = stream.failure() {
                return Poll::Ready(Err(error(why)));
            }
            if stream.state == State::Broken || current.host.at_end(sock) {
                return Poll::Ready(Ok(()));
            }
            stream.readers.add(cx.waker());
            Poll::Pending
        })
    }

    pub(super) fn poll_write_shared(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.handle.poll(|current, sock| {
            let stream = current.kernel.streams.get_mut(&sock);
            let Some(stream) = stream else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
            if let Some(why) = stream.failure() {
                return Poll::Ready(Err(error(why)));
            }
            if stream.state != State::Open {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let taken = current.host.send(current.now, sock, data);
            if taken == 0 && !data.is_empty() {
                stream.writers.add(cx.waker());
                return Poll::Pending;
            }
            Poll::Ready(Ok(taken))
        })
    }

    /// Sends FIN after the bytes that wait.
    pub(super) fn shut(&self) -> io::Result<()> {
        self.handle.with(|current, sock| match current.kernel.streams.get_mut(&sock) {
            Some(Stream { state: state @ (State::Open | State::Shut), .. }) => {
                *state = State::Shut;
                current.host.finish(current.now, sock);
                Ok(())
            }
            _ => Err(io::ErrorKind::NotConnected.into()),
        })?
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_read_shared(cx, buf)
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_shared(cx, data)
    }

    /// Never waits: the host sends by itself.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Sends FIN after the bytes that wait, and does not wait for them.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.shut())
    }
}

/// A TCP socket that does not listen or dial yet: for a local port of one's own, as a simultaneous open needs it.
pub struct TcpSocket(Mutex<Settings>);

#[derive(Default)]
struct Settings {
    ipv6: bool,
    reuse: Reuse,
    /// The socket that holds the port, and the address that was asked for.
    bound: Option<(Handle, SocketAddr)>,
}

impl fmt::Debug for TcpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { reuse, bound, .. } = &*self.settings();
        let bound = bound.as_ref().map(|(_, address)| address);
        f.debug_struct("TcpSocket").field("reuse", reuse).field("bound", &bound).finish()
    }
}

impl TcpSocket {
    fn new(ipv4: bool) -> TcpSocket {
        TcpSocket(Mutex::new(Settings { ipv6: !ipv4, ..Settings::default() }))
    }

    /// Returns a socket for IPv4.
    ///
    /// # Errors
    /// Never fails; the kernel's may.
    pub fn new_v4() -> io::Result<TcpSocket> {
        Ok(TcpSocket::new(true))
    }

    /// Returns a socket for IPv6.
    ///
    /// # Errors
    /// Never fails; the kernel's may.
    pub fn new_v6() -> io::Result<TcpSocket> {
        Ok(TcpSocket::new(false))
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has no effect: a port with connections in TIME_WAIT may always be bound.
    ///
    /// # Errors
    /// Never fails; the kernel's may.
    pub fn set_reuseaddr(&self, _: bool) -> io::Result<()> {
        Ok(())
    }

    /// Shares the port with other sockets that ask for it too. For before [`bind`](Self::bind).
    ///
    /// # Errors
    /// Never fails; the kernel's may.
    pub fn set_reuseport(&self, share: bool) -> io::Result<()> {
        self.settings().reuse = if share { Reuse::AddressAndPort } else { Reuse::Address };
        Ok(())
    }

    /// Takes a local address; port 0 means one that the host chooses.
    ///
    /// # Errors
    /// Fails with `AddrInUse` and `AddrNotAvailable`.
    ///
    /// # Panics
    /// Panics outside of a task.
    pub fn bind(&self, address: SocketAddr) -> io::Result<()> {
        let mut settings = self.settings();
        let reuse = settings.reuse;
        let bound = current(|current| {
            let any = SocketAddr::new(unspecified(address.is_ipv6()).ip(), 0);
            let sock = current.host.bind_tcp(address, any, reuse).map_err(error)?;
            let port = current.host.local(sock).map_or(address.port(), |local| local.port());
            Ok::<_, io::Error>((Handle::new(current, sock), SocketAddr::new(address.ip(), port)))
        })?;
        settings.bound = Some(bound);
        Ok(())
    }

    /// Returns the address that the socket is bound to.
    ///
    /// # Errors
    /// Fails with `InvalidInput` before [`bind`](Self::bind).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.settings().bound.as_ref().map(|(_, address)| *address).ok_or(io::ErrorKind::InvalidInput.into())
    }

    /// Dials. If the other end dials this one's address at the same time from the address dialled here, both succeed.
    ///
    /// # Errors
    /// Fails as [`TcpStream::connect`], and with `AddrNotAvailable` if a connection with these two ends exists.
    ///
    /// # Panics
    /// Panics outside of a task.
    pub async fn connect(self, address: SocketAddr) -> io::Result<TcpStream> {
        let Settings { reuse, bound, ipv6 } = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        let handle = match bound {
            Some((handle, _)) => handle,
            None => current(|current| {
                let sock = current.host.bind_tcp(unspecified(ipv6), address, reuse).map_err(error)?;
                Ok::<_, io::Error>(Handle::new(current, sock))
            })?,
        };
        let local = handle.with(|current, sock| {
            current.host.connect(current.now, sock, address).map_err(error)?;
            current.kernel.streams.insert(sock, Stream::new(State::Dialling));
            Ok::<_, io::Error>(current.host.local(sock).unwrap_or(address))
        })??;
        let stream = TcpStream { handle, local, peer: address };
        poll_fn(|cx| stream.poll_connected(cx)).await?;
        Ok(stream)
    }

    /// Listens, with room for so many streams that are not accepted.
    ///
    /// # Errors
    /// Fails with `InvalidInput` before [`bind`](Self::bind), and with `AddrInUse`.
    pub fn listen(self, backlog: u32) -> io::Result<TcpListener> {
        let Settings { reuse, bound, .. } = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (handle, address) = bound.ok_or(io::ErrorKind::InvalidInput)?;
        drop(handle);
        TcpListener::open(address, backlog, reuse)
    }
}

fn unspecified(ipv6: bool) -> SocketAddr {
    if ipv6 { (Ipv6Addr::UNSPECIFIED, 0).into() } else { (Ipv4Addr::UNSPECIFIED, 0).into() }
}

/// A TCP listener. Streams that nobody accepted are reset when it is dropped.
#[derive(Debug)]
pub struct TcpListener {
    handle: Handle,
    local: SocketAddr,
}

impl TcpListener {
    /// Listens on an address, with a backlog of 1024; port 0 means one that the host chooses.
    ///
    /// # Errors
    /// Fails with `AddrInUse` and `AddrNotAvailable`.
    ///
    /// # Panics
    /// Panics outside of a task.
    pub async fn bind(address: impl ToSocketAddrs) -> io::Result<TcpListener> {
        TcpListener::open(address.address()?, BACKLOG, Reuse::Address)
    }

    fn open(address: SocketAddr, backlog: u32, reuse: Reuse) -> io::Result<TcpListener> {
        let backlog = u16::try_from(backlog).unwrap_or(u16::MAX);
        current(|current| {
            let sock = current.host.listen(address, backlog, reuse).map_err(error)?;
            current.kernel.listeners.insert(sock, Listener::default());
            let local = current.host.local(sock).unwrap_or(address);
            Ok(TcpListener { handle: Handle::new(current, sock), local })
        })
    }

    /// Returns the listener's address.
    ///
    /// # Errors
    /// Never fails; the kernel's may.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    /// Returns the next stream, and the address of its other end.
    ///
    /// # Errors
    /// Fails in a task of another host.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// Polls for what [`accept`](Self::accept) waits for.
    ///
    /// # Errors
    /// Fails in a task of another host.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        self.handle.poll(|current, listener| {
            let state = current.kernel.listeners.get_mut(&listener);
            let Some(Listener { queue, waiting }) = state else { return Poll::Pending };
            let Some((sock, local, peer)) = queue.pop_front() else {
                waiting.add(cx.waker());
                return Poll::Pending;
            };
            current.host.leave_queue(listener);
            Poll::Ready(Ok((TcpStream { handle: Handle::new(current, sock), local, peer }, peer)))
        })
    }
}
