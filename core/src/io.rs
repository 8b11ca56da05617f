//! The vocabulary between the core and a driver: what the core asks for ([`Action`]) and what it is told
//! ([`Event`]).
//!
//! A socket request is an action and its outcome is an event, joined by an id that the core chose. No
//! value here borrows a socket, and no reply is matched by address.

use core::fmt;
use core::time::Duration;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::notice::Notice;
use crate::pipe::{PipeEnd, PipeId, PipeNews, PipeStart};
use crate::time::{ClockFix, Instant};
use crate::wrap::{TlsFailure, Wrap};

/// A socket. Chosen by the core, or by the driver for an accepted one; never used twice in one node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SockId(u64);

impl SockId {
    const ACCEPTED: u64 = 1 << 63;

    pub(crate) const fn chosen(n: u64) -> Self {
        SockId(n & !Self::ACCEPTED)
    }

    /// The id a driver gives to the `n`th socket it accepts, over all its listeners.
    pub const fn accepted(n: u64) -> Self {
        SockId(n | Self::ACCEPTED)
    }

    /// The bare number, for logs and tables.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The id with this number, as a trace holds it.
    pub const fn from_number(n: u64) -> Self {
        SockId(n)
    }
}

impl fmt::Debug for SockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.0 & Self::ACCEPTED == 0 { 's' } else { 'a' };
        write!(f, "{kind}{}", self.0 & !Self::ACCEPTED)
    }
}

/// A name look-up in flight. Chosen by the core, never used twice in one node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueryId(pub(crate) u32);

impl QueryId {
    /// The bare number.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The id with this number, as a trace holds it.
    pub const fn from_number(n: u32) -> Self {
        QueryId(n)
    }
}

impl fmt::Debug for QueryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "q{}", self.0)
    }
}

/// Which local addresses and ports a socket may share with others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Reuse {
    /// None: a second bind of the port fails.
    #[default]
    No,
    /// `SO_REUSEADDR`: may bind over connections in TIME_WAIT.
    Address,
    /// `SO_REUSEADDR` and `SO_REUSEPORT`: a listener and dials on one port. Every socket on the port must ask
    /// for it. A listener is bound for itself alone first and shared then, so that two nodes cannot listen on
    /// one port.
    AddressAndPort,
}

/// Options set on a socket before it is bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SockOpts {
    /// Sharing of the local port. Default: none.
    pub reuse: Reuse,
    /// `IP_TTL` or `IPV6_UNICAST_HOPS`. Default: the system's.
    pub ttl: Option<u8>,
    /// `TCP_NODELAY`. Default off.
    pub nodelay: bool,
}

/// How a socket is to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseHow {
    /// Send what is queued, then FIN, then close.
    Graceful,
    /// Throw the queue away and send RST (`SO_LINGER` 0).
    Reset,
    /// Close the descriptor and send as little as the system allows.
    Drop,
}

/// What the core asks of its driver.
///
/// Every `BindUdp`, `Listen`, `Connect` and `Resolve` gets exactly one first reply: `Bound`, `Connected`,
/// `Resolved` or `Failed`. After `Close`, `Cancel` or `Detach` the driver says nothing more about the id, but for one
/// `Released` after a `Detach`.
#[derive(Debug)]
#[must_use]
#[non_exhaustive]
pub enum Action {
    /// Open a UDP socket. Reply: `Bound` or `Failed`.
    BindUdp {
        /// Its id from now on.
        sock: SockId,
        /// Address to bind; port 0 lets the system choose.
        local: SocketAddr,
        /// Options before bind.
        opts: SockOpts,
    },
    /// Open a TCP listener. Reply: `Bound` or `Failed`; then `Accepted` for each stream, as [`Action::Accept`] allows.
    Listen {
        /// Its id from now on.
        sock: SockId,
        /// Address to bind; port 0 lets the system choose. IPv6 listeners take IPv6 only.
        local: SocketAddr,
        /// Length of the accept queue.
        backlog: u16,
        /// Options before bind; accepted streams inherit `nodelay`.
        opts: SockOpts,
    },
    /// Allow so many more streams to be accepted. A listener starts with none, and who calls meanwhile waits in the
    /// system's queue: there a crowd loses nothing, and costs nothing until its turn.
    ///
    /// A driver without such a count may accept at once. The core then ends streams where it would have waited.
    Accept {
        /// The bound listener.
        sock: SockId,
        /// Streams, added to what is left of earlier credit.
        credit: u32,
    },
    /// Open a TCP connection. The driver binds at once, calls connect at `at`, says `Fired`, and replies
    /// `Connected` or `Failed`: at `deadline` with [`IoFailure::TimedOut`]. With `wrap` it is connected once all layers
    /// are, and such a stream is never detached.
    Connect {
        /// Its id from now on.
        sock: SockId,
        /// Address to bind; unspecified with port 0 leaves both to the system.
        local: SocketAddr,
        /// Where to.
        remote: SocketAddr,
        /// Options before bind.
        opts: SockOpts,
        /// When to send the first SYN; in the past means now.
        at: Instant,
        /// When to give up.
        deadline: Instant,
        /// What the stream is wrapped in, if anything.
        wrap: Option<Arc<Wrap>>,
    },
    /// Send one datagram. What cannot be sent is dropped, as a network would.
    SendDatagram {
        /// The bound UDP socket.
        sock: SockId,
        /// Where to.
        to: SocketAddr,
        /// The payload.
        data: Bytes,
    },
    /// Append to a stream's output. The core sends few and small messages; the driver queues them all.
    SendStream {
        /// The connected stream.
        sock: SockId,
        /// What to append.
        data: Bytes,
    },
    /// Say [`Event::Writable`] once the system has taken everything that was given to the stream so far.
    AwaitWritable {
        /// The connected stream.
        sock: SockId,
    },
    /// Allow `credit` more bytes to be read from a stream. It starts with none, so a stranger can never
    /// make the driver hold more than the core granted, and not one byte past a hello is taken out of the
    /// system's buffer before the stream is handed to the user.
    Read {
        /// The connected stream.
        sock: SockId,
        /// Bytes, added to what is left of earlier credit.
        credit: u32,
    },
    /// End a socket.
    Close {
        /// Which.
        sock: SockId,
        /// How.
        how: CloseHow,
    },
    /// Hand a stream to the user: first what is queued on it, then it is the user's pipe. Once nobody has that any more,
    /// or where it came to nothing, say [`Event::Released`].
    Detach {
        /// Which.
        sock: SockId,
        /// Who is at the other end, which call it answers, and the keys.
        pipe: Box<PipeStart>,
    },
    /// End the pipe that a detached stream became, whoever has it by now: reading and writing fail, and say why.
    EndPipe {
        /// The stream that was detached.
        sock: SockId,
        /// Why.
        why: PipeEnd,
    },
    /// Look a host name up (a literal address resolves to itself). Reply: `Resolved`.
    Resolve {
        /// Its id from now on.
        query: QueryId,
        /// The name.
        host: Box<str>,
        /// When to give up.
        deadline: Instant,
    },
    /// Forget a look-up.
    Cancel {
        /// Which.
        query: QueryId,
    },
    /// Tell the user.
    Notify(Notice),
    /// Hand a relayed pipe to the user, whose bytes go through [`Node::pipe_write`](crate::Node::pipe_write) and
    /// [`Node::pipe_read`](crate::Node::pipe_read). There may be something to read already, and messages.
    OpenRelayed {
        /// Its id from now on.
        pipe: PipeId,
        /// What is known of it.
        start: Box<PipeStart>,
    },
    /// Something happened on a relayed pipe.
    Pipe {
        /// Which.
        pipe: PipeId,
        /// What.
        news: PipeNews,
    },
}

/// What a driver tells the core.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A UDP socket or a listener is open.
    Bound {
        /// Which.
        sock: SockId,
        /// What it was bound to, with the port.
        local: SocketAddr,
    },
    /// A dial's first SYN has been handed to the system.
    Fired {
        /// Which.
        sock: SockId,
        /// How long after `at`.
        late: Duration,
    },
    /// A dial succeeded.
    Connected {
        /// Which.
        sock: SockId,
        /// Our end.
        local: SocketAddr,
        /// The other end.
        remote: SocketAddr,
    },
    /// The pipe that a detached stream became is gone: its owner dropped it, or took the bare socket out of it. The core
    /// counts a peer's pipes until then, so a driver that never says this lets each peer in a few hundred times.
    Released {
        /// The stream that was detached.
        sock: SockId,
    },
    /// A listener accepted a stream, within its credit.
    Accepted {
        /// Which listener.
        listener: SockId,
        /// The new stream, by [`SockId::accepted`].
        sock: SockId,
        /// Our end.
        local: SocketAddr,
        /// The other end.
        remote: SocketAddr,
    },
    /// A socket failed, and its id is gone.
    Failed {
        /// Which.
        sock: SockId,
        /// Why.
        cause: IoFailure,
    },
    /// A datagram came in.
    Datagram {
        /// On which socket.
        sock: SockId,
        /// Who sent it.
        from: SocketAddr,
        /// The payload.
        data: &'a [u8],
    },
    /// Bytes came in on a stream, never more than its credit.
    Stream {
        /// Which.
        sock: SockId,
        /// The bytes, at least one.
        data: &'a [u8],
    },
    /// The system has taken what a stream was given before [`Action::AwaitWritable`].
    Writable {
        /// Which.
        sock: SockId,
    },
    /// The other end of a stream will send no more. The id lives on until it is closed.
    Eof {
        /// Which.
        sock: SockId,
    },
    /// A look-up ended.
    Resolved {
        /// Which.
        query: QueryId,
        /// Its addresses in the system's order, or why there are none.
        result: Result<SmallVec<[IpAddr; 2]>, IoFailure>,
    },
    /// The interfaces as they are now. The first one starts the node; later ones replace the list.
    Interfaces(&'a [Interface]),
    /// What the wall clock says.
    Clock(ClockFix),
    /// The machine slept for about so long, or stood still, as a virtual one does when it is moved. To be told with a
    /// new [`Clock`](Event::Clock) before it.
    Woke {
        /// How long.
        slept: Duration,
    },
    /// The deadline that `poll_timeout` gave has passed.
    Timeout,
}

/// One address of one network interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interface {
    /// The system's interface index, which is the zone (scope id) of its link-local IPv6 addresses.
    pub index: u32,
    /// The address.
    pub ip: IpAddr,
    /// Length of its on-link prefix, in bits.
    pub prefix: u8,
    /// Whether the family's default route leaves through this interface.
    pub default_route: bool,
    /// The family's default gateway behind this interface: the router that ports may be opened on.
    pub gateway: Option<IpAddr>,
    /// Kind of the link, as far as the system tells.
    pub link: LinkKind,
    /// Whether the node may use the address: [`Config::interfaces`](crate::Config::interfaces) does not exclude it.
    pub used: bool,
}

impl Interface {
    /// The address `ip/prefix` on the interface `index`: no default route, no gateway, a real network that is used.
    pub const fn new(index: u32, ip: IpAddr, prefix: u8) -> Self {
        Interface { index, ip, prefix, default_route: false, gateway: None, link: LinkKind::Real, used: true }
    }
}

/// Kind of the link behind a network interface. The address of the one that is named first here is announced first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
#[non_exhaustive]
pub enum LinkKind {
    /// A network, by a card or a bridge that has one.
    #[default]
    Real,
    /// A tunnel, of a VPN for example.
    Tunnel,
    /// Containers or virtual machines of this machine.
    Virtual,
    /// Nothing: no carrier.
    Dead,
}

impl LinkKind {
    /// Returns `real`, `tunnel`, `virtual` or `dead`.
    pub const fn name(self) -> &'static str {
        match self {
            LinkKind::Real => "real",
            LinkKind::Tunnel => "tunnel",
            LinkKind::Virtual => "virtual",
            LinkKind::Dead => "dead",
        }
    }
}

/// Why an operation on a socket or a name failed: the classes that a strategy treats differently.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum IoFailure {
    /// `ECONNREFUSED`: the SYN arrived somewhere and was answered by RST or ICMP port unreachable.
    Refused,
    /// `ECONNRESET`, `EPIPE`: the other end broke the stream.
    Reset,
    /// Nothing answered in time.
    TimedOut,
    /// `EADDRINUSE`: the local port is taken.
    AddrInUse,
    /// `EADDRNOTAVAIL`: not our address, or this exact 4-tuple exists already.
    AddrNotAvailable,
    /// `EHOSTUNREACH`, `ENETUNREACH`: no route, or a router said so by ICMP.
    Unreachable,
    /// `EACCES`, `EPERM`: a local rule forbids it.
    NotPermitted,
    /// The name does not exist or has no address.
    NoSuchName,
    /// Out of descriptors, ports or memory.
    Resources,
    /// The server has no TLS that is good enough.
    Tls(TlsFailure),
    /// The server has no WebSocket for MQTT there: its HTTP status, 0 where it sent no HTTP.
    NoWebSocket(u16),
    /// The server broke the rules of WebSocket.
    BadFrame,
    /// Any other error number.
    Other(i32),
}

impl fmt::Display for IoFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            IoFailure::Refused => "connection refused",
            IoFailure::Reset => "connection reset",
            IoFailure::TimedOut => "no answer in time",
            IoFailure::AddrInUse => "local port already in use",
            IoFailure::AddrNotAvailable => "local address not available",
            IoFailure::Unreachable => "host or network unreachable",
            IoFailure::NotPermitted => "not permitted",
            IoFailure::NoSuchName => "no such host name",
            IoFailure::Resources => "out of sockets, ports or memory",
            IoFailure::BadFrame => "the server broke the rules of WebSocket",
            IoFailure::Tls(why) => return why.fmt(f),
            IoFailure::NoWebSocket(0) => "no WebSocket there: the server does not answer as one",
            IoFailure::NoWebSocket(status) => {
                return write!(f, "no WebSocket there: the server answers with HTTP status {status}");
            }
            IoFailure::Other(errno) => return write!(f, "system error {errno}"),
        })
    }
}

impl std::error::Error for IoFailure {}

// Moved through queues by value: growth here is paid on every event.
const _: () = assert!(size_of::<Action>() <= 112);
const _: () = assert!(size_of::<Event<'_>>() <= 96);
