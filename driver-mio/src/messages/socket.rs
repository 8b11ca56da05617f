//! Sockets that carry a pipe of messages.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};

use mio::event::Source;
use mio::net::{TcpStream, UdpSocket};
use p2pd_sys::DatagramLayer;
use p2pd_sys::messages::{PipeOptions, Protocol, is_of_a_datagram};
use p2pd_sys::socket::reset_on_close;
use socket2::SockRef;

use crate::source::delegate_source;
use crate::{Messages, Pipe};

/// A socket that a pipe of messages can be made of, however it came about; registered nowhere.
#[derive(Debug)]
#[non_exhaustive]
pub enum Socket {
    /// A connected TCP stream.
    Tcp(TcpStream),
    /// A UDP socket, and its default destination; without one it is a server's. It receives from everybody, unless it
    /// is connected.
    Udp(UdpSocket, Option<SocketAddr>),
    /// A pipe to a peer.
    Peer(Box<Pipe>),
    /// A relayed address at a TURN server.
    Relayed(Box<Allocation>),
    /// The messages beside a relayed pipe.
    Beside(Box<Messages>),
}

/// A relayed address at a TURN server (RFC 8656), from [`Node::allocate`](crate::Node::allocate), which keeps it alive.
///
/// [`Pipes::add`](super::Pipes::add) makes a pipe of it that is used as a UDP server's is. `send_to` goes to any address
/// of the relayed one's family; the server's permission is asked for on the way and kept, for 64 peers at a time. Whoever
/// was sent to is heard. A datagram has at most 1,400 bytes, and may be lost. The pipe's end gives the address up, and so
/// does the node's.
#[derive(Debug)]
pub struct Allocation {
    stream: TcpStream,
    layer: DatagramLayer,
}

impl Allocation {
    pub(crate) fn new(stream: std::net::TcpStream, layer: DatagramLayer) -> Self {
        Allocation { stream: TcpStream::from_std(stream), layer }
    }

    /// Returns the address at the server that peers send to.
    pub fn relayed_addr(&self) -> SocketAddr {
        self.layer.relayed_addr()
    }

    /// Returns the IPv6 address at the server beside an IPv4 one, where both were asked for and the server has both.
    pub fn other_relayed_addr(&self) -> Option<SocketAddr> {
        self.layer.other_relayed_addr()
    }
}

impl From<Allocation> for Socket {
    fn from(allocation: Allocation) -> Self {
        Socket::Relayed(Box::new(allocation))
    }
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Socket::Tcp(stream)
    }
}

/// Converts a socket. A connected one sends to its peer, and receives from nobody else.
impl From<UdpSocket> for Socket {
    fn from(socket: UdpSocket) -> Self {
        let remote = socket.peer_addr().ok();
        Socket::Udp(socket, remote)
    }
}

impl From<Pipe> for Socket {
    fn from(pipe: Pipe) -> Self {
        Socket::Peer(Box::new(pipe))
    }
}

impl From<Messages> for Socket {
    fn from(messages: Messages) -> Self {
        Socket::Beside(Box::new(messages))
    }
}

impl Socket {
    pub(super) fn protocol(&self) -> Protocol {
        match self {
            Socket::Udp(..) | Socket::Relayed(_) => Protocol::Udp,
            Socket::Tcp(_) | Socket::Peer(_) | Socket::Beside(_) => Protocol::Tcp,
        }
    }

    /// Returns true if messages have no ends there: what is read is cut anywhere. An error of writing may leave a part of a
    /// message on its way, and nothing may come behind it.
    pub(super) fn is_a_stream(&self) -> bool {
        matches!(self, Socket::Tcp(_) | Socket::Peer(_))
    }

    pub(super) fn ends(&self) -> io::Result<(SocketAddr, Option<SocketAddr>)> {
        Ok(match self {
            Socket::Tcp(stream) => (stream.local_addr()?, Some(stream.peer_addr()?)),
            Socket::Udp(socket, remote) => (socket.local_addr()?, *remote),
            Socket::Peer(pipe) => (pipe.local_addr(), Some(pipe.remote_addr())),
            Socket::Relayed(allocation) => (allocation.relayed_addr(), None),
            Socket::Beside(messages) => {
                let (ours, theirs) = messages.ends();
                (ours, Some(theirs))
            }
        })
    }

    pub(super) fn sock(&self) -> Option<SockRef<'_>> {
        match self {
            Socket::Tcp(stream) => Some(SockRef::from(stream)),
            Socket::Udp(socket, _) => Some(SockRef::from(socket)),
            Socket::Peer(pipe) => Some(pipe.sock()),
            Socket::Relayed(_) | Socket::Beside(_) => None,
        }
    }

    pub(super) fn set(&self, options: &PipeOptions) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => options.set(Protocol::Tcp, SockRef::from(stream)),
            Socket::Udp(socket, _) => options.set(Protocol::Udp, SockRef::from(socket)),
            Socket::Peer(_) | Socket::Relayed(_) | Socket::Beside(_) => Ok(()),
        }
    }

    /// Bytes of a stream, or none and nobody at its end; otherwise a message, with its sender.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Option<SocketAddr>)> {
        match self {
            Socket::Tcp(stream) => Ok((stream.read(buffer)?, None)),
            Socket::Peer(pipe) => Ok((pipe.read(buffer)?, None)),
            Socket::Relayed(allocation) => {
                let (from, data) = allocation.layer.receive(&mut allocation.stream)?;
                Ok((copied(&data, buffer), Some(from)))
            }
            Socket::Beside(messages) => match messages.recv() {
                Ok(data) => Ok((copied(&data, buffer), Some(messages.ends().1))),
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok((0, None)),
                Err(e) => Err(e),
            },
            Socket::Udp(socket, _) => loop {
                match socket.recv_from(buffer) {
                    Err(e) if is_of_a_datagram(e.kind()) => {}
                    read => return read.map(|(len, from)| (len, Some(from))),
                }
            },
        }
    }

    /// Writes, and returns the number of bytes that were sent. A datagram is sent whole, to the address `to`.
    pub(super) fn write(&mut self, data: &[u8], to: SocketAddr) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.write(data),
            Socket::Peer(pipe) => pipe.write(data),
            Socket::Relayed(allocation) => {
                allocation.layer.send(&mut allocation.stream, to, data)?;
                Ok(data.len())
            }
            Socket::Beside(messages) => {
                messages.send(data)?;
                Ok(data.len())
            }
            Socket::Udp(socket, _) => loop {
                // Not every system takes an address on a connected one.
                let connected = socket.peer_addr().is_ok_and(|peer| peer == to);
                match if connected { socket.send(data) } else { socket.send_to(data, to) } {
                    // Said of an earlier one; it is said once.
                    Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
                    sent => return sent,
                }
            },
        }
    }

    /// Sends the bytes that an encrypted pipe holds.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match self {
            Socket::Peer(pipe) => pipe.flush(),
            Socket::Relayed(allocation) => allocation.layer.flush(&mut allocation.stream),
            Socket::Beside(messages) => messages.flush(),
            Socket::Tcp(_) | Socket::Udp(..) => Ok(()),
        }
    }

    /// Says that nothing more is sent.
    pub(super) fn end(&mut self) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Socket::Peer(pipe) => pipe.shutdown(),
            Socket::Udp(..) | Socket::Relayed(_) | Socket::Beside(_) => Ok(()),
        }
    }

    /// Has the peer see, when this is dropped, that not all of it came: a reset, or on a pipe to a peer no end.
    pub(super) fn reset(&self) {
        if let Socket::Tcp(stream) = self {
            // Where it cannot be set, the peer sees an end.
            let _ = reset_on_close(stream);
        }
    }

    fn source(&mut self) -> &mut dyn Source {
        match self {
            Socket::Tcp(stream) => stream,
            Socket::Udp(socket, _) => socket,
            Socket::Peer(pipe) => &mut **pipe,
            Socket::Relayed(allocation) => &mut allocation.stream,
            Socket::Beside(messages) => &mut **messages,
        }
    }
}

/// Copies a message into a buffer that has room for the longest. Returns its length.
fn copied(message: &[u8], buffer: &mut [u8]) -> usize {
    let len = message.len().min(buffer.len());
    buffer[..len].copy_from_slice(&message[..len]);
    len
}

delegate_source!(Socket, it => it.source());
