//! UDP.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::ReadBuf;

use super::{ToSocketAddrs, error};
use crate::aio::kernel::{Handle, Inbox, current};
use crate::host::Reuse;

/// Most bytes in a datagram's payload, by its 16-bit length.
const LONGEST: usize = 65_507;

/// A UDP socket. Datagrams that find its buffer full (208 KiB) are lost; sending never waits.
///
/// As on Linux, a connected one fails once with `ConnectionRefused` or `HostUnreachable`, sending or receiving, after an ICMP error
/// about what went to its peer.
#[derive(Debug)]
pub struct UdpSocket {
    handle: Handle,
    local: SocketAddr,
}

impl UdpSocket {
    /// Binds a socket; port 0 means one that the host chooses.
    ///
    /// # Errors
    /// Fails with `AddrInUse` and `AddrNotAvailable`.
    ///
    /// # Panics
    /// Panics outside of a task.
    pub async fn bind(address: impl ToSocketAddrs) -> io::Result<UdpSocket> {
        let address = address.address()?;
        current(|current| {
            let sock = current.host.bind_udp(address, Reuse::No).map_err(error)?;
            current.kernel.inboxes.insert(sock, Inbox::default());
            let local = current.host.local(sock).unwrap_or(address);
            Ok(UdpSocket { handle: Handle::new(current, sock), local })
        })
    }

    /// Returns the socket's address.
    ///
    /// # Errors
    /// Never fails; the kernel's may.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    /// Returns the peer that the socket is connected to.
    ///
    /// # Errors
    /// Fails with `NotConnected` without one.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.handle.with(|current, sock| current.kernel.inboxes.get(&sock)?.peer)?.ok_or_else(not_connected)
    }

    /// Takes datagrams of one peer only from now on, and sends to it by [`send`](Self::send).
    ///
    /// # Errors
    /// Fails for a text that is no address.
    pub async fn connect(&self, peer: impl ToSocketAddrs) -> io::Result<()> {
        let peer = peer.address()?;
        self.handle.with(|current, sock| {
            if let Some(inbox) = current.kernel.inboxes.get_mut(&sock) {
                inbox.peer = Some(peer);
            }
        })
    }

    /// Lets datagrams go over so many hops only.
    ///
    /// # Errors
    /// Fails for more than 255.
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        let ttl = u8::try_from(ttl).map_err(io::Error::other)?;
        self.handle.with(|current, sock| current.host.set_ttl(sock, ttl))
    }

    /// Sends a datagram at once, to the peer that the socket is connected to.
    ///
    /// # Errors
    /// Fails with `NotConnected`, and as [`try_send_to`](Self::try_send_to).
    pub fn try_send(&self, data: &[u8]) -> io::Result<usize> {
        self.try_send_to(data, self.peer_addr()?)
    }

    /// Sends a datagram at once.
    ///
    /// # Errors
    /// Fails with `NetworkUnreachable` without an address of that family, and with `InvalidInput` above 65,507 bytes.
    pub fn try_send_to(&self, data: &[u8], to: SocketAddr) -> io::Result<usize> {
        if data.len() > LONGEST {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the datagram is too long"));
        }
        self.handle.with(|current, sock| {
            if let Some(why) = current.kernel.inboxes.get_mut(&sock).and_then(|inbox| inbox.error.take()) {
                return Err(error(why));
            }
            if !current.host.addresses().iter().any(|ip| ip.is_ipv4() == to.is_ipv4()) {
                return Err(io::ErrorKind::NetworkUnreachable.into());
            }
            current.host.send_to(sock, None, to, Bytes::copy_from_slice(data));
            Ok(data.len())
        })?
    }

    /// Sends a datagram, to the peer that the socket is connected to.
    ///
    /// # Errors
    /// Fails as [`try_send`](Self::try_send) does.
    pub async fn send(&self, data: &[u8]) -> io::Result<usize> {
        self.try_send(data)
    }

    /// Sends a datagram.
    ///
    /// # Errors
    /// Fails as [`try_send_to`](Self::try_send_to) does.
    pub async fn send_to(&self, data: &[u8], to: impl ToSocketAddrs) -> io::Result<usize> {
        self.try_send_to(data, to.address()?)
    }

    /// Sends a datagram; never `Pending`.
    ///
    /// # Errors
    /// Fails as [`try_send_to`](Self::try_send_to) does.
    pub fn poll_send_to(&self, _: &mut Context<'_>, data: &[u8], to: SocketAddr) -> Poll<io::Result<usize>> {
        Poll::Ready(self.try_send_to(data, to))
    }

    /// Returns the next datagram's sender, and puts its payload into `buf`; what has no room there is lost.
    ///
    /// # Errors
    /// Fails in a task of another host.
    pub fn poll_recv_from(
        &self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<SocketAddr>> {
        let next = self.handle.poll(|current, sock| {
            let Some(inbox) = current.kernel.inboxes.get_mut(&sock) else { return Poll::Pending };
            inbox.pop().map_or_else(
                || {
                    inbox.waiting.add(cx.waker());
                    Poll::Pending
                },
                |next| Poll::Ready(next.map_err(error)),
            )
        });
        let (from, data) = ready!(next)?;
        buf.put_slice(&data[..data.len().min(buf.remaining())]);
        Poll::Ready(Ok(from))
    }

    /// Waits until a datagram can be received.
    ///
    /// # Errors
    /// Fails in a task of another host.
    pub fn poll_recv_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.handle.poll(|current, sock| match current.kernel.inboxes.get_mut(&sock) {
            Some(inbox) if inbox.queue.is_empty() && inbox.error.is_none() => {
                inbox.waiting.add(cx.waker());
                Poll::Pending
            }
            _ => Poll::Ready(Ok(())),
        })
    }

    /// Waits until a datagram can be received.
    ///
    /// # Errors
    /// Fails in a task of another host.
    pub async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_recv_ready(cx)).await
    }

    /// Returns at once: sending never waits.
    ///
    /// # Errors
    /// Never fails; the kernel's may.
    pub async fn writable(&self) -> io::Result<()> {
        Ok(())
    }

    /// Receives a datagram that is there already, and returns its length and its sender.
    ///
    /// # Errors
    /// Fails with `WouldBlock` if there is none.
    pub fn try_recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let next = self.handle.with(|current, sock| current.kernel.inboxes.get_mut(&sock)?.pop())?;
        let (from, data) = next.ok_or(io::ErrorKind::WouldBlock)?.map_err(error)?;
        let count = data.len().min(buf.len());
        buf[..count].copy_from_slice(&data[..count]);
        Ok((count, from))
    }

    /// Does what [`try_recv_from`](Self::try_recv_from) does, without the sender.
    ///
    /// # Errors
    /// Fails with `WouldBlock` if there is none.
    pub fn try_recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.try_recv_from(buf).map(|(count, _)| count)
    }

    /// Receives a datagram, and returns its length and its sender. What has no room in `buf` is lost.
    ///
    /// # Errors
    /// Fails in a task of another host.
    pub async fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let mut buf = ReadBuf::new(buf);
        let from = poll_fn(|cx| self.poll_recv_from(cx, &mut buf)).await?;
        Ok((buf.filled().len(), from))
    }

    /// Does what [`recv_from`](Self::recv_from) does, without the sender.
    ///
    /// # Errors
    /// Fails in a task of another host.
    pub async fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.recv_from(buf).await.map(|(count, _)| count)
    }
}

fn not_connected() -> io::Error {
    io::ErrorKind::NotConnected.into()
}
