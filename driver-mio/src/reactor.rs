//! The user's `Registry`, and the tokens that the user granted.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use mio::event::Source;
use mio::net::{TcpListener, TcpStream, UdpSocket};
use mio::{Interest, Registry, Token};
use p2pd_core::{QueryId, SockId};
use p2pd_sys::{Reactor, socket};
use socket2::SockRef;

use crate::names::Names;

#[derive(Debug)]
pub(crate) struct Mio {
    registry: Registry,
    tokens: Tokens,
    pub(crate) names: Names<QueryId>,
}

/// Assignment of tokens to sockets. The first of the range is for look-ups.
#[derive(Debug)]
struct Tokens {
    range: Range<usize>,
    socks: Vec<Option<SockId>>,
    free: Vec<usize>,
    of: HashMap<SockId, usize>,
}

/// Owner of a token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Whose {
    Sock(SockId),
    Names,
    /// The node's, but no socket has it now: it was closed while its event was under way.
    Nobodys,
    Users,
}

impl Tokens {
    fn take(&mut self, sock: SockId) -> io::Result<Token> {
        let place = match self.free.pop() {
            Some(place) => place,
            None if self.socks.len() + 1 < self.range.len() => {
                self.socks.push(None);
                self.socks.len() - 1
            }
            // Said to the core as "out of sockets".
            None => return Err(io::ErrorKind::OutOfMemory.into()),
        };
        self.socks[place] = Some(sock);
        self.of.insert(sock, place);
        Ok(Token(self.range.start + 1 + place))
    }

    fn give_back(&mut self, sock: SockId) {
        if let Some(place) = self.of.remove(&sock) {
            self.socks[place] = None;
            self.free.push(place);
        }
    }
}

impl Mio {
    pub(crate) fn new(registry: Registry, range: Range<usize>, names: Names<QueryId>) -> Self {
        let (socks, free) = (Vec::new(), Vec::new());
        Mio { registry, tokens: Tokens { range, socks, free, of: HashMap::new() }, names }
    }

    pub(crate) fn whose(&self, Token(token): Token) -> Whose {
        let Tokens { range, socks, .. } = &self.tokens;
        match token.checked_sub(range.start) {
            Some(0) if !range.is_empty() => Whose::Names,
            Some(n) if token < range.end => match socks.get(n - 1) {
                Some(Some(sock)) => Whose::Sock(*sock),
                _ => Whose::Nobodys,
            },
            _ => Whose::Users,
        }
    }

    /// Lets go of a stream, so that its next owner can register it.
    pub(crate) fn release(&self, stream: &mut TcpStream) {
        // It was registered, so this cannot fail but by the loop's own end.
        let _ = self.registry.deregister(stream);
    }

    fn watch<S: Source>(&mut self, sock: SockId, mut source: S, interest: Interest) -> io::Result<S> {
        let token = self.tokens.take(sock)?;
        match self.registry.register(&mut source, token, interest) {
            Ok(()) => Ok(source),
            Err(e) => {
                self.tokens.give_back(sock);
                Err(e)
            }
        }
    }
}

const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

impl Reactor for Mio {
    type Stream = TcpStream;
    type Listener = TcpListener;
    type Udp = UdpSocket;

    /// Timeouts of `Poll` are whole milliseconds, rounded up (measured: 0.6 ms late at the median, 1.0 ms at 90 %).
    const EARLY: Duration = Duration::from_micros(1300);

    fn stream(&mut self, sock: SockId, socket: std::net::TcpStream) -> io::Result<TcpStream> {
        self.watch(sock, TcpStream::from_std(socket), BOTH)
    }

    fn listener(&mut self, sock: SockId, socket: std::net::TcpListener) -> io::Result<TcpListener> {
        self.watch(sock, TcpListener::from_std(socket), Interest::READABLE)
    }

    fn udp(&mut self, sock: SockId, socket: std::net::UdpSocket) -> io::Result<UdpSocket> {
        self.watch(sock, UdpSocket::from_std(socket), Interest::READABLE)
    }

    fn forget(&mut self, sock: SockId) {
        self.tokens.give_back(sock);
    }

    fn accept(&mut self, listener: &TcpListener, sock: SockId) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, remote) = listener.accept()?;
        Ok((self.watch(sock, stream, BOTH)?, remote))
    }

    fn receive<T>(socket: &UdpSocket, mut by: impl FnMut(SockRef<'_>) -> io::Result<T>) -> io::Result<T> {
        socket.try_io(|| by(SockRef::from(socket)))
    }

    fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        stream.read(buffer)
    }

    fn write(stream: &mut TcpStream, data: &[u8]) -> io::Result<usize> {
        stream.write(data)
    }

    fn outcome(stream: &TcpStream) -> io::Result<SocketAddr> {
        stream.try_io(|| socket::outcome(stream))
    }

    fn socket(stream: &TcpStream) -> SockRef<'_> {
        SockRef::from(stream)
    }

    fn udp_socket(socket: &UdpSocket) -> SockRef<'_> {
        SockRef::from(socket)
    }

    fn resolve(&mut self, query: QueryId, host: Box<str>) {
        let token = Token(self.tokens.range.start);
        self.names.look_up(query, host, |_| true, &self.registry, token);
    }

    fn cancel(&mut self, query: QueryId) {
        self.names.cancel(query);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_stay_in_their_range_and_are_used_again() {
        let poll = mio::Poll::new().unwrap();
        let mut mio = Mio::new(poll.registry().try_clone().unwrap(), 10..13, Names::new(false));
        let [a, b, c] = [1, 2, 3].map(SockId::accepted);
        assert_eq!([a, b].map(|s| mio.tokens.take(s).unwrap()), [Token(11), Token(12)]);
        assert_eq!(mio.tokens.take(c).unwrap_err().kind(), io::ErrorKind::OutOfMemory);
        mio.forget(a);
        assert_eq!(mio.whose(Token(11)), Whose::Nobodys);
        assert_eq!(mio.tokens.take(c).unwrap(), Token(11));
        let whose = [9, 10, 11, 12, 13].map(|n| mio.whose(Token(n)));
        assert_eq!(whose, [Whose::Users, Whose::Names, Whose::Sock(c), Whose::Sock(b), Whose::Users]);
    }
}
