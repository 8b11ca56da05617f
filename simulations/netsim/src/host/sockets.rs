//! Calls of a program on its sockets.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use super::conn::{Conn, State};
use super::{Close, Failure, Host, HostEvent, Reuse};
use crate::engine::{Domain, Nanos};
use crate::net::{Body, Packet};

/// Hops that what a socket sends goes over.
const TTL: u8 = 64;

/// A socket of one host. Never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Sock(u32);

impl Sock {
    /// The bare number.
    pub const fn number(self) -> u32 {
        self.0
    }
}

#[derive(Debug)]
pub(super) struct Socket {
    pub(super) local: SocketAddr,
    pub(super) reuse: Reuse,
    pub(super) ttl: u8,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    Udp,
    Listener {
        backlog: u16,
        /// Streams that are being opened.
        waiting: usize,
    },
    /// Bound, and not connected yet.
    Bound,
    Conn {
        remote: SocketAddr,
        conn: Box<Conn>,
        /// The listener it came from.
        parent: Option<Sock>,
        owner: Owner,
        armed: Option<Nanos>,
    },
}

/// Owner of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    /// The listener, while it is being opened.
    Listener,
    /// A program.
    Program,
    /// No owner: the program has closed the connection.
    Nobody,
}

impl Socket {
    pub(super) fn conn(local: SocketAddr, remote: SocketAddr, conn: Conn, parent: Option<Sock>) -> Socket {
        let owner = if parent.is_some() { Owner::Listener } else { Owner::Program };
        let kind = Kind::Conn { remote, conn: Box::new(conn), parent, owner, armed: None };
        Socket { local, reuse: Reuse::AddressAndPort, ttl: TTL, kind }
    }

    /// Returns true if a packet to this address is for this socket.
    pub(super) fn takes(&self, dst: SocketAddr) -> bool {
        let any = self.local.ip().is_unspecified() && self.local.is_ipv4() == dst.is_ipv4();
        self.local.port() == dst.port() && (any || self.local.ip() == dst.ip())
    }

    fn clashes(&self, local: SocketAddr, reuse: Reuse) -> bool {
        let overlap = self.local.is_ipv4() == local.is_ipv4()
            && (self.local.ip() == local.ip()
                || self.local.ip().is_unspecified()
                || local.ip().is_unspecified());
        let shared = self.reuse == Reuse::AddressAndPort && reuse == Reuse::AddressAndPort;
        self.local.port() == local.port() && overlap && !shared
    }
}

impl Host {
    pub(super) fn add(&mut self, socket: Socket) -> Sock {
        let sock = Sock(self.next);
        self.next += 1;
        self.sockets.insert(sock, socket);
        sock
    }

    /// Gives a connection's 4-tuple free.
    pub(super) fn release(&mut self, sock: Sock) {
        if let Some(Socket { local, kind: Kind::Conn { remote, .. }, .. }) = self.sockets.get(&sock)
            && self.tuples.get(&(*local, *remote)) == Some(&sock)
        {
            self.tuples.remove(&(*local, *remote));
        }
    }

    /// Removes a socket without a word to anybody.
    pub(super) fn forget(&mut self, sock: Sock) {
        self.release(sock);
        let Some(socket) = self.sockets.remove(&sock) else { return };
        let port = socket.local.port();
        match socket.kind {
            Kind::Listener { .. } => {
                if let Some(list) = self.listeners.get_mut(&port) {
                    list.retain(|s| *s != sock);
                }
                let orphans: Vec<Sock> = self
                    .sockets
                    .iter()
                    .filter(|(_, s)| matches!(s.kind, Kind::Conn { parent: Some(p), owner: Owner::Listener, .. } if p == sock))
                    .map(|(s, _)| *s)
                    .collect();
                orphans.into_iter().for_each(|s| self.forget(s));
            }
            Kind::Udp => {
                if let Some(list) = self.udp.get_mut(&port) {
                    list.retain(|s| *s != sock);
                }
            }
            Kind::Bound | Kind::Conn { .. } => {}
        }
    }

    fn is_ours(&self, ip: IpAddr) -> bool {
        ip.is_unspecified() || self.addresses.contains(&ip)
    }

    fn taken(&self, local: SocketAddr, reuse: Reuse, udp: bool) -> bool {
        // A connection that came from a listener or dialled keeps its port only as far as its 4-tuple goes.
        self.sockets.values().any(|s| {
            let same = matches!(s.kind, Kind::Udp) == udp && !matches!(s.kind, Kind::Conn { .. });
            same && s.clashes(local, reuse)
        })
    }

    /// A free local address for `wanted`: itself, or with port 0 one with an ephemeral port.
    fn choose(
        &mut self,
        wanted: SocketAddr,
        reuse: Reuse,
        udp: bool,
        remote: Option<SocketAddr>,
    ) -> Result<SocketAddr, Failure> {
        if !self.is_ours(wanted.ip()) {
            return Err(Failure::AddrNotAvailable);
        }
        if wanted.port() != 0 {
            return if self.taken(wanted, reuse, udp) { Err(Failure::AddrInUse) } else { Ok(wanted) };
        }
        let (first, last) = self.profile.ephemeral;
        let count = u64::from(last - first) + 1;
        self.ephemeral += 1;
        let start = self.rng.below(Domain::Ephemeral, self.id, self.ephemeral, count);
        for step in 0..count {
            let port = first + ((start + step) % count) as u16;
            let local = SocketAddr::new(wanted.ip(), port);
            // Ports that the system chooses are never shared.
            let busy = remote.is_some_and(|r| self.tuples.contains_key(&(local, r)));
            if !busy && !self.taken(local, Reuse::No, udp) {
                return Ok(local);
            }
        }
        Err(Failure::AddrNotAvailable)
    }

    /// The address that packets to `remote` come from.
    fn source(&self, local: IpAddr, remote: IpAddr) -> Option<IpAddr> {
        if !local.is_unspecified() {
            return Some(local);
        }
        if self.addresses.contains(&remote) {
            return Some(remote);
        }
        self.addresses.iter().copied().find(|ip| ip.is_ipv4() == remote.is_ipv4())
    }

    /// Returns the local address of a socket.
    pub fn local(&self, sock: Sock) -> Option<SocketAddr> {
        self.sockets.get(&sock).map(|s| s.local)
    }

    /// The other end of a connection.
    pub fn remote(&self, sock: Sock) -> Option<SocketAddr> {
        match self.sockets.get(&sock)?.kind {
            Kind::Conn { remote, .. } => Some(remote),
            _ => None,
        }
    }

    /// Opens a UDP socket.
    ///
    /// # Errors
    /// `AddrInUse`, `AddrNotAvailable`.
    pub fn bind_udp(&mut self, local: SocketAddr, reuse: Reuse) -> Result<Sock, Failure> {
        let local = self.choose(local, reuse, true, None)?;
        let sock = self.add(Socket { local, reuse, ttl: TTL, kind: Kind::Udp });
        self.udp.entry(local.port()).or_default().push(sock);
        Ok(sock)
    }

    /// Sends a datagram, from the local address `from` where the socket is bound to all.
    pub fn send_to(&mut self, sock: Sock, from: Option<IpAddr>, to: SocketAddr, data: Bytes) {
        let Some(Socket { local, ttl, kind: Kind::Udp, .. }) = self.sockets.get(&sock) else { return };
        let Some(ip) = from.or_else(|| self.source(local.ip(), to.ip())) else { return };
        let src = SocketAddr::new(ip, local.port());
        self.out.packets.push(Box::new(Packet { src, dst: to, ttl: *ttl, body: Body::Udp(data) }));
    }

    /// Opens a TCP listener.
    ///
    /// # Errors
    /// `AddrInUse`, `AddrNotAvailable`.
    pub fn listen(&mut self, local: SocketAddr, backlog: u16, reuse: Reuse) -> Result<Sock, Failure> {
        let local = self.choose(local, reuse, false, None)?;
        let kind = Kind::Listener { backlog, waiting: 0 };
        let sock = self.add(Socket { local, reuse, ttl: TTL, kind });
        self.listeners.entry(local.port()).or_default().push(sock);
        Ok(sock)
    }

    /// Binds a TCP socket that will dial `remote`. An unspecified address is settled now, as the route to
    /// `remote` is known.
    ///
    /// # Errors
    /// `AddrInUse`, `AddrNotAvailable`, `Unreachable` without an address of that family.
    pub fn bind_tcp(&mut self, local: SocketAddr, remote: SocketAddr, reuse: Reuse) -> Result<Sock, Failure> {
        if !self.is_ours(local.ip()) {
            return Err(Failure::AddrNotAvailable);
        }
        let ip = self.source(local.ip(), remote.ip()).ok_or(Failure::Unreachable)?;
        let local = self.choose(SocketAddr::new(ip, local.port()), reuse, false, Some(remote))?;
        Ok(self.add(Socket { local, reuse, ttl: TTL, kind: Kind::Bound }))
    }

    /// Lets what the socket sends go over so many hops only.
    pub fn set_ttl(&mut self, sock: Sock, ttl: u8) {
        if let Some(socket) = self.sockets.get_mut(&sock) {
            socket.ttl = ttl;
        }
    }

    /// Dials. The outcome comes as an event.
    ///
    /// # Errors
    /// `AddrNotAvailable` if the 4-tuple exists already; the socket is gone then.
    pub fn connect(&mut self, now: Nanos, sock: Sock, remote: SocketAddr) -> Result<(), Failure> {
        let Some(Socket { local, kind: Kind::Bound, .. }) = self.sockets.get(&sock) else {
            return Err(Failure::Invalid);
        };
        let local = *local;
        if let Some(old) = self.tuples.get(&(local, remote)).copied() {
            let waits = matches!(&self.sockets[&old].kind,
                Kind::Conn { conn, .. } if conn.state == State::TimeWait);
            if !waits {
                self.forget(sock);
                return Err(Failure::AddrNotAvailable);
            }
            self.forget(old);
        }
        let iss = self.initial_sequence(now, local, remote);
        let mut out = core::mem::take(&mut self.scratch);
        let conn = Conn::dial(iss, now, &self.profile, self.buffers, &mut out);
        if let Some(socket) = self.sockets.get_mut(&sock) {
            socket.kind =
                Kind::Conn { remote, conn: Box::new(conn), parent: None, owner: Owner::Program, armed: None };
        }
        self.tuples.insert((local, remote), sock);
        self.emit(sock, out);
        Ok(())
    }

    /// Appends to a stream's output what its send buffer has room for, and returns how many bytes. By default that is all: a
    /// program is to watch this after [`set_buffers`](Self::set_buffers), and to go on at [`HostEvent::Writable`].
    pub fn send(&mut self, now: Nanos, sock: Sock, data: &[u8]) -> usize {
        let Some(Socket { kind: Kind::Conn { conn, .. }, .. }) = self.sockets.get_mut(&sock) else {
            return 0;
        };
        let mut out = core::mem::take(&mut self.scratch);
        let taken = conn.send(now, data, &mut out);
        self.emit(sock, out);
        taken
    }

    /// Bytes that a stream's send buffer has room for; 0 once it was finished.
    pub fn room(&self, sock: Sock) -> usize {
        match self.sockets.get(&sock) {
            Some(Socket { kind: Kind::Conn { conn, .. }, .. }) => conn.room(),
            _ => 0,
        }
    }

    /// Takes up to `most` bytes out of a stream's input.
    pub fn read(&mut self, sock: Sock, most: usize) -> Vec<u8> {
        let Some(Socket { kind: Kind::Conn { conn, .. }, .. }) = self.sockets.get_mut(&sock) else {
            return Vec::new();
        };
        let mut out = core::mem::take(&mut self.scratch);
        let data = conn.read(most, &mut out);
        self.emit(sock, out);
        data
    }

    /// Bytes that could be read at once.
    pub fn unread(&self, sock: Sock) -> usize {
        match self.sockets.get(&sock) {
            Some(Socket { kind: Kind::Conn { conn, .. }, .. }) => conn.unread(),
            _ => 0,
        }
    }

    /// Returns true once a stream's input has ended and was read whole.
    pub fn at_end(&self, sock: Sock) -> bool {
        matches!(self.sockets.get(&sock), Some(Socket { kind: Kind::Conn { conn, .. }, .. }) if conn.at_end())
    }

    /// Sends FIN behind the queue, and goes on reading.
    pub fn finish(&mut self, now: Nanos, sock: Sock) {
        if let Some(Socket { kind: Kind::Conn { conn, .. }, .. }) = self.sockets.get_mut(&sock) {
            let mut out = core::mem::take(&mut self.scratch);
            conn.finish(now, false, &mut out);
            self.emit(sock, out);
        }
    }

    /// Closes a socket. As on Linux, closing a stream with unread input sends RST.
    pub fn close(&mut self, now: Nanos, sock: Sock, how: Close) {
        self.out.events.retain(|e| !matches!(e,
            HostEvent::Connected(s) | HostEvent::Failed(s, _) | HostEvent::Readable(s) | HostEvent::Writable(s)
                    | HostEvent::Broken(s, _)
                if *s == sock));
        let Some(socket) = self.sockets.get_mut(&sock) else { return };
        let Kind::Conn { conn, owner, .. } = &mut socket.kind else { return self.forget(sock) };
        *owner = Owner::Nobody;
        let mut out = core::mem::take(&mut self.scratch);
        match conn.state {
            State::SynSent | State::Closed => {
                self.scratch = out;
                self.forget(sock);
            }
            _ if how == Close::Reset || conn.unread() > 0 => {
                out.extend(conn.reset());
                self.emit(sock, out);
                self.forget(sock);
            }
            _ => {
                conn.finish(now, true, &mut out);
                self.emit(sock, out);
            }
        }
    }
}
