//! What a pipe of messages goes through, in two halves.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpStream, UdpSocket};

use super::options::PipeOptions;
use crate::Pipe;

/// Longest datagram there can be.
const DATAGRAM: usize = 65_536;

/// A socket that a [`MessagePipe`](super::MessagePipe) can be made of, however it came about.
#[derive(Debug)]
#[non_exhaustive]
pub enum Socket {
    /// A connected TCP stream.
    Tcp(TcpStream),
    /// A UDP socket, and where it sends to unless told otherwise: without, it is a server's. It hears everybody, unless it
    /// is connected.
    Udp(UdpSocket, Option<SocketAddr>),
    /// A pipe to a peer.
    Peer(Box<Pipe>),
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Socket::Tcp(stream)
    }
}

/// One that is connected sends there, and hears nobody else.
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

impl Socket {
    /// Its own end.
    ///
    /// # Errors
    /// Of `getsockname`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Socket::Tcp(stream) => stream.local_addr(),
            Socket::Udp(socket, _) => socket.local_addr(),
            Socket::Peer(pipe) => Ok(pipe.local_addr()),
        }
    }

    /// The other end; `None` for a server's UDP socket.
    ///
    /// # Errors
    /// Of `getpeername`: a stream that is not connected any more.
    pub fn remote_addr(&self) -> io::Result<Option<SocketAddr>> {
        match self {
            Socket::Tcp(stream) => stream.peer_addr().map(Some),
            Socket::Udp(_, remote) => Ok(*remote),
            Socket::Peer(pipe) => Ok(Some(pipe.remote_addr())),
        }
    }

    /// Sets what can be set on a socket that is open already.
    pub(super) fn set(&self, options: &PipeOptions) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => {
                stream.set_nodelay(true)?;
                if options.linger.is_some() {
                    SockRef::from(stream).set_linger(options.linger)?;
                }
            }
            Socket::Udp(socket, _) if options.broadcast => socket.set_broadcast(true)?,
            Socket::Udp(..) | Socket::Peer(_) => {}
        }
        Ok(())
    }

    pub(super) fn split(self, reader_limit: usize) -> (Reader, Writer) {
        let buffer = |len: usize| vec![0; len.max(1)];
        match self {
            Socket::Tcp(stream) => {
                let stream = Arc::new(stream);
                let from = Inner::Tcp(stream.clone());
                (Reader { from, buffer: buffer(reader_limit) }, Writer::Tcp(stream))
            }
            Socket::Udp(socket, _) => {
                let connected = socket.peer_addr().ok();
                let socket = Arc::new(socket);
                let from = Inner::Udp(socket.clone());
                (Reader { from, buffer: buffer(DATAGRAM) }, Writer::Udp(socket, connected))
            }
            Socket::Peer(pipe) => {
                let (read, write) = tokio::io::split(*pipe);
                (Reader { from: Inner::Peer(read), buffer: buffer(reader_limit) }, Writer::Peer(write))
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct Reader {
    from: Inner,
    buffer: Vec<u8>,
}

#[derive(Debug)]
enum Inner {
    Tcp(Arc<TcpStream>),
    Udp(Arc<UdpSocket>),
    Peer(ReadHalf<Pipe>),
}

/// What a read gave.
pub(super) enum Read<'a> {
    /// Bytes, of a stream from its one peer.
    Data(&'a [u8], Option<SocketAddr>),
    /// The peer sends no more.
    End,
}

impl Reader {
    /// The next message. Giving up waiting loses nothing.
    pub(super) async fn read(&mut self) -> io::Result<Read<'_>> {
        let (len, from) = match &mut self.from {
            Inner::Tcp(stream) => loop {
                stream.readable().await?;
                match stream.try_read(&mut self.buffer) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    read => break (read?, None),
                }
            },
            Inner::Udp(socket) => loop {
                match socket.recv_from(&mut self.buffer).await {
                    // What became of an earlier datagram to somebody says nothing of the others.
                    Err(e) if is_of_a_datagram(e.kind()) => {}
                    read => {
                        let (len, from) = read?;
                        return Ok(Read::Data(self.buffer.get(..len).unwrap_or_default(), Some(from)));
                    }
                }
            },
            Inner::Peer(half) => (half.read(&mut self.buffer).await?, None),
        };
        Ok(if len == 0 { Read::End } else { Read::Data(self.buffer.get(..len).unwrap_or_default(), from) })
    }
}

fn is_of_a_datagram(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable};
    matches!(kind, ConnectionRefused | ConnectionReset | HostUnreachable | NetworkUnreachable)
}

#[derive(Debug)]
pub(super) enum Writer {
    Tcp(Arc<TcpStream>),
    /// With the peer of a connected one: not every system takes an address there.
    Udp(Arc<UdpSocket>, Option<SocketAddr>),
    Peer(WriteHalf<Pipe>),
    /// It ended, or failed within a message.
    Over,
}

impl Writer {
    /// Sends all of it; a datagram to `to`. Giving up waiting may leave a part of it sent.
    pub(super) async fn send(&mut self, mut data: &[u8], to: SocketAddr) -> io::Result<()> {
        match self {
            Writer::Tcp(stream) => {
                while !data.is_empty() {
                    stream.writable().await?;
                    match stream.try_write(data) {
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                        written => data = data.get(written?..).unwrap_or_default(),
                    }
                }
                Ok(())
            }
            Writer::Udp(socket, connected) => loop {
                let sent = if *connected == Some(to) {
                    socket.send(data).await
                } else {
                    socket.send_to(data, to).await
                };
                match sent {
                    // Said of an earlier one; it is said once.
                    Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
                    sent => return sent.map(drop),
                }
            },
            Writer::Peer(half) => {
                half.write_all(data).await?;
                half.flush().await
            }
            Writer::Over => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Says that nothing more is sent.
    pub(super) async fn end(&mut self) -> io::Result<()> {
        match self {
            Writer::Tcp(stream) => SockRef::from(&**stream).shutdown(std::net::Shutdown::Write),
            Writer::Peer(half) => half.shutdown().await,
            Writer::Udp(..) | Writer::Over => Ok(()),
        }
    }

    /// Has the peer see that not all of it came: a reset, or on a pipe to a peer no end.
    pub(super) fn reset(&self) {
        if let Writer::Tcp(stream) = self {
            // Where it cannot be set, the peer sees an end.
            let _ = p2pd_sys::socket::reset_on_close(&**stream);
        }
    }
}
