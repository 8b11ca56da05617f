//! Carriers of a pipe of messages, in two halves.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Weak};

use p2pd_sys::messages::{MAX_DATAGRAM, PipeOptions, Protocol, is_of_a_datagram};
use socket2::SockRef;

use crate::allocation::{Allocation, Inbound, Outbound};
use crate::beside::Messages;
use crate::halves::{Half, with_socket};
use crate::peer::Pipe;
use crate::runtime::Runtime;
use crate::tcp::{read, write};

/// A socket that a [`MessagePipe`](crate::MessagePipe) can be made of, however it came about.
#[derive(Debug)]
#[non_exhaustive]
pub enum Socket<R: Runtime> {
    /// A connected TCP stream.
    Tcp(R::Tcp),
    /// A UDP socket, and its default destination; without one it is a server's. It receives from everybody, unless it
    /// is connected.
    Udp(R::Udp, Option<SocketAddr>),
    /// A pipe to a peer.
    Peer(Box<Pipe<R>>),
    /// A relayed address at a TURN server.
    Relayed(Box<Allocation<R>>),
    /// The messages beside a relayed pipe.
    Beside(Box<Messages<R>>),
}

/// Socket types of a runtime's programs that a pipe can be made of.
pub trait IntoSocket<R: Runtime> {
    /// The socket of a pipe.
    ///
    /// # Errors
    /// Where the runtime cannot watch it.
    fn into_socket(self) -> io::Result<Socket<R>>;
}

impl<R: Runtime> IntoSocket<R> for Socket<R> {
    fn into_socket(self) -> io::Result<Socket<R>> {
        Ok(self)
    }
}

impl<R: Runtime> Socket<R> {
    /// A UDP socket; one that is connected sends there, and hears nobody else.
    pub fn udp(socket: R::Udp) -> Self {
        let remote = connected::<R>(&socket);
        Socket::Udp(socket, remote)
    }

    /// Returns the local address.
    ///
    /// # Errors
    /// Of `getsockname`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Socket::Tcp(stream) => address(R::tcp_socket(stream).local_addr()?),
            Socket::Udp(socket, _) => address(R::udp_socket(socket).local_addr()?),
            Socket::Peer(pipe) => Ok(pipe.local_addr()),
            Socket::Relayed(allocation) => Ok(allocation.relayed_addr()),
            Socket::Beside(messages) => Ok(messages.ends().0),
        }
    }

    /// The other end; `None` for a server's UDP socket.
    ///
    /// # Errors
    /// Of `getpeername`: a stream that is not connected any more.
    pub fn remote_addr(&self) -> io::Result<Option<SocketAddr>> {
        match self {
            Socket::Tcp(stream) => address(R::tcp_socket(stream).peer_addr()?).map(Some),
            Socket::Udp(_, remote) => Ok(*remote),
            Socket::Peer(pipe) => Ok(Some(pipe.remote_addr())),
            Socket::Relayed(_) => Ok(None),
            Socket::Beside(messages) => Ok(Some(messages.ends().1)),
        }
    }

    /// Returns the protocol; a pipe to a peer and the messages beside it count as TCP, a relayed address as UDP.
    pub(crate) fn protocol(&self) -> Protocol {
        match self {
            Socket::Udp(..) | Socket::Relayed(_) => Protocol::Udp,
            Socket::Tcp(_) | Socket::Peer(_) | Socket::Beside(_) => Protocol::Tcp,
        }
    }

    /// Sets those options that can be set on an open socket.
    pub(crate) fn set(&self, options: &PipeOptions) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => options.set(Protocol::Tcp, R::tcp_socket(stream)),
            Socket::Udp(socket, _) => options.set(Protocol::Udp, R::udp_socket(socket)),
            Socket::Peer(_) | Socket::Relayed(_) | Socket::Beside(_) => Ok(()),
        }
    }

    pub(crate) fn split(self, reader_limit: usize) -> (Reader<R>, Writer<R>, Grip<R>) {
        let buffer = |len: usize| vec![0; len.max(1)];
        match self {
            Socket::Tcp(stream) => {
                let stream = Arc::new(stream);
                let (from, grip) = (Inner::Tcp(stream.clone()), Grip::Tcp(Arc::downgrade(&stream)));
                (Reader { from, buffer: buffer(reader_limit) }, Writer::Tcp(stream), grip)
            }
            Socket::Udp(socket, _) => {
                let connected = connected::<R>(&socket);
                let socket = Arc::new(socket);
                let (from, grip) = (Inner::Udp(socket.clone()), Grip::Udp(Arc::downgrade(&socket)));
                (Reader { from, buffer: buffer(MAX_DATAGRAM) }, Writer::Udp(socket, connected), grip)
            }
            Socket::Peer(pipe) => {
                let [read, write] = Half::both(*pipe);
                let (from, grip) = (Inner::Peer(read), Grip::Peer(write.downgrade()));
                (Reader { from, buffer: buffer(reader_limit) }, Writer::Peer(write), grip)
            }
            Socket::Relayed(allocation) => {
                let (inbound, outbound) = allocation.split();
                let reader = Reader { from: Inner::Relayed(inbound), buffer: Vec::new() };
                (reader, Writer::Relayed(outbound), Grip::None)
            }
            Socket::Beside(messages) => {
                let messages = Arc::new(*messages);
                let from = Inner::Beside(messages.clone());
                (Reader { from, buffer: Vec::new() }, Writer::Beside(messages), Grip::None)
            }
        }
    }
}

pub(crate) fn address(of: socket2::SockAddr) -> io::Result<SocketAddr> {
    of.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
}

fn connected<R: Runtime>(socket: &R::Udp) -> Option<SocketAddr> {
    R::udp_socket(socket).peer_addr().ok()?.as_socket()
}

/// Socket of a pipe, as long as the pipe has it.
#[derive(Debug)]
pub(crate) enum Grip<R: Runtime> {
    Tcp(Weak<R::Tcp>),
    Udp(Weak<R::Udp>),
    Peer(Weak<Mutex<Pipe<R>>>),
    /// A relayed address, or the messages beside a pipe, have no socket of their own.
    None,
}

impl<R: Runtime> Grip<R> {
    pub(crate) fn with<T>(&self, work: impl FnOnce(SockRef<'_>) -> T) -> Option<T> {
        match self {
            Grip::Tcp(stream) => Some(work(R::tcp_socket(&*stream.upgrade()?))),
            Grip::Udp(socket) => Some(work(R::udp_socket(&*socket.upgrade()?))),
            Grip::Peer(pipe) => with_socket::<R, T>(pipe, work),
            Grip::None => None,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Reader<R: Runtime> {
    from: Inner<R>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
enum Inner<R: Runtime> {
    Tcp(Arc<R::Tcp>),
    Udp(Arc<R::Udp>),
    Peer(Half<R>),
    Relayed(Inbound<R>),
    Beside(Arc<Messages<R>>),
}

/// Result of a read.
pub(crate) enum Read<'a> {
    /// Bytes, of a stream from its one peer.
    Data(&'a [u8], Option<SocketAddr>),
    /// The peer sends no more.
    End,
    /// Nothing: a message that was read before comes first.
    Before,
}

impl<R: Runtime> Reader<R> {
    /// The next message. Giving up waiting loses nothing.
    pub(crate) async fn read(&mut self) -> io::Result<Read<'_>> {
        let len = match &mut self.from {
            Inner::Tcp(stream) => read::<R>(stream, &mut self.buffer).await?,
            Inner::Udp(socket) => loop {
                match R::receive(socket, &mut self.buffer).await {
                    Err(e) if is_of_a_datagram(e.kind()) => {}
                    read => {
                        let (len, from) = read?;
                        return Ok(Read::Data(self.buffer.get(..len).unwrap_or_default(), Some(from)));
                    }
                }
            },
            Inner::Peer(half) => half.read(&mut self.buffer).await?,
            Inner::Relayed(inbound) => {
                let (from, data) = inbound.receive().await?;
                self.buffer = data;
                return Ok(Read::Data(&self.buffer, Some(from)));
            }
            Inner::Beside(messages) => match messages.recv().await {
                // One of no bytes is a message, too.
                Ok(data) => {
                    self.buffer = data;
                    return Ok(Read::Data(&self.buffer, None));
                }
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => 0,
                Err(e) => return Err(e),
            },
        };
        Ok(if len == 0 { Read::End } else { Read::Data(self.buffer.get(..len).unwrap_or_default(), None) })
    }
}

#[derive(Debug)]
pub(crate) enum Writer<R: Runtime> {
    Tcp(Arc<R::Tcp>),
    /// A UDP socket, with the peer of a connected one: not every system takes an address there.
    Udp(Arc<R::Udp>, Option<SocketAddr>),
    Peer(Half<R>),
    Relayed(Outbound<R>),
    Beside(Arc<Messages<R>>),
    /// The writer has ended, or failed within a message.
    Over,
}

impl<R: Runtime> Writer<R> {
    /// Sends all of it; a datagram to `to`. Giving up waiting may leave a part of it sent.
    pub(crate) async fn send(&mut self, mut data: &[u8], to: SocketAddr) -> io::Result<()> {
        match self {
            Writer::Tcp(stream) => {
                while !data.is_empty() {
                    let written = write::<R>(stream, data).await?;
                    data = data.get(written..).unwrap_or_default();
                }
                Ok(())
            }
            Writer::Udp(socket, connected) => {
                let to = if *connected == Some(to) { None } else { Some(to) };
                loop {
                    match R::send(socket, data, to).await {
                        // Said of an earlier one; it is said once.
                        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
                        sent => return sent.map(drop),
                    }
                }
            }
            Writer::Peer(half) => half.write_all(data).await,
            Writer::Relayed(outbound) => outbound.send(to, data).await,
            Writer::Beside(messages) => messages.send(data).await,
            Writer::Over => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Says that nothing more is sent.
    pub(crate) async fn end(&mut self) -> io::Result<()> {
        match self {
            Writer::Tcp(stream) => R::tcp_socket(stream).shutdown(std::net::Shutdown::Write),
            Writer::Peer(half) => half.end().await,
            Writer::Udp(..) | Writer::Relayed(_) | Writer::Beside(_) | Writer::Over => Ok(()),
        }
    }

    /// Returns true if an error may have left a part of a message on its way, so that nothing may come behind it.
    pub(crate) fn is_a_stream(&self) -> bool {
        matches!(self, Writer::Tcp(_) | Writer::Peer(_))
    }

    /// Has the peer see that not all of it came: a reset, or on a pipe to a peer no end.
    pub(crate) fn reset(&self) {
        if let Writer::Tcp(stream) = self {
            // Where it cannot be set, the peer sees an end.
            let _ = p2pd_sys::socket::reset_on_close(R::tcp_socket(stream));
        }
    }
}
