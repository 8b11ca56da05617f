//! Vocabulary between the core and a driver: requests of the core ([`Output`]) and reports to the core ([`Input`]).
//!
//! A socket request is an output and its outcome is an input, joined by an id that the core chose. No
//! value here borrows a socket, and no reply is matched by address.

pub use crate::failure::IoFailure;

use core::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::event::Event;
use crate::pipe::{PipeEnd, PipeId, PipeNews, PipeStart};
use crate::time::{ClockFix, Instant};
use crate::wrap::Wrap;

/// Id of a socket. Chosen by the core, or by the driver for an accepted one; never used twice in one node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SockId(u64);

impl SockId {
    const ACCEPTED: u64 = 1 << 63;

    pub(crate) const fn chosen(n: u64) -> Self {
        SockId(n & !Self::ACCEPTED)
    }

    /// Returns the id that a driver gives to the `n`th socket it accepts, over all its listeners.
    pub const fn accepted(n: u64) -> Self {
        SockId(n | Self::ACCEPTED)
    }

    /// Returns the bare number, for logs and tables.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// Returns the id with this number, as a trace holds it.
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

/// Id of a name look-up in flight. Chosen by the core, never used twice in one node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueryId(pub(crate) u32);

impl QueryId {
    /// Returns the bare number.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Returns the id with this number, as a trace holds it.
    pub const fn from_number(n: u32) -> Self {
        QueryId(n)
    }
}

impl fmt::Debug for QueryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "q{}", self.0)
    }
}

/// Local addresses and ports that a socket may share with others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
// Exhaustive: a driver has to know every way.
pub enum Reuse {
    /// No sharing: a second bind of the port fails.
    #[default]
    No,
    /// `SO_REUSEADDR`: may bind over connections in TIME_WAIT.
    Address,
    /// `SO_REUSEADDR` and `SO_REUSEPORT`: a listener and dials on one port. Every socket on the port must ask for it. A
    /// listener is bound for itself alone first and shared then, so that two nodes cannot listen on one port.
    AddressAndPort,
}

/// Options set on a socket before it is bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
// Exhaustive: a driver has to set every option.
pub struct SockOpts {
    /// Sharing of the local port. Default: none.
    pub reuse: Reuse,
    /// `TCP_NODELAY`. Default off.
    pub nodelay: bool,
}

/// Way in which a socket is to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: a driver has to know every way.
pub enum CloseHow {
    /// Sends the queued bytes, then FIN, then closes.
    Graceful,
    /// Throws the queue away and sends RST (`SO_LINGER` 0).
    Reset,
    /// Closes the descriptor and sends as little as the system allows.
    Drop,
}

/// Request of the core to its driver.
///
/// Every `BindUdp`, `Listen`, `Connect` and `Resolve` gets exactly one first reply: `Bound`, `Connected`,
/// `Resolved` or `Failed`. After `Close`, `Cancel` or `Detach` the driver says nothing more about the id, but for one
/// `Released` after a `Detach`.
#[derive(Debug)]
#[must_use]
#[non_exhaustive]
pub enum Output {
    /// Opens a UDP socket. Reply: `Bound` or `Failed`.
    BindUdp {
        /// Id of the socket from now on.
        sock: SockId,
        /// Address to bind; port 0 lets the system choose.
        local: SocketAddr,
        /// The only address that the socket is used with, if that is known. Where nothing was heard from there and ICMP
        /// says that the port is closed, the driver may say `Failed`, as far as the system tells.
        remote: Option<SocketAddr>,
        /// Options before bind.
        opts: SockOpts,
    },
    /// Opens a TCP listener. Reply: `Bound` or `Failed`; then `Accepted` for each stream, as [`Output::Accept`] allows.
    Listen {
        /// Id of the listener from now on.
        sock: SockId,
        /// Address to bind; port 0 lets the system choose. IPv6 listeners take IPv6 only.
        local: SocketAddr,
        /// Length of the accept queue.
        backlog: u16,
        /// Options before bind; accepted streams inherit `nodelay`.
        opts: SockOpts,
    },
    /// Allows so many more streams to be accepted. A listener starts with none, and further callers wait in the
    /// system's queue. A crowd loses nothing there, and costs nothing until its turn.
    ///
    /// A driver without such a count may accept at once. The core then ends streams where it would have waited.
    Accept {
        /// The bound listener.
        sock: SockId,
        /// Streams, added to what is left of earlier credit.
        credit: u32,
    },
    /// Opens a TCP connection. The driver binds at once, and calls connect at `at`. The reply is
    /// `Connected` or `Failed`: at `deadline` with [`IoFailure::TimedOut`]. With `wrap` the stream is connected once
    /// all layers are, and such a stream is never detached.
    Connect {
        /// Id of the stream from now on.
        sock: SockId,
        /// Address to bind; unspecified with port 0 leaves both to the system.
        local: SocketAddr,
        /// Address to connect to.
        remote: SocketAddr,
        /// Options before bind.
        opts: SockOpts,
        /// Time of the first SYN; a time in the past means now.
        at: Instant,
        /// Time at which the driver gives up.
        deadline: Instant,
        /// Layers around the stream (TLS, WebSocket), if any.
        wrap: Option<Arc<Wrap>>,
    },
    /// Sends one datagram. The driver drops a datagram that cannot be sent, as a network would.
    SendDatagram {
        /// The bound UDP socket.
        sock: SockId,
        /// Address to send to.
        to: SocketAddr,
        /// The payload.
        data: Bytes,
    },
    /// Appends to a stream's output. The core sends few and small messages; the driver queues them all.
    SendStream {
        /// The connected stream.
        sock: SockId,
        /// Bytes to append.
        data: Bytes,
    },
    /// Allows `credit` more bytes to be read from a stream. A stream starts with none, so a stranger can never make the
    /// driver hold more than the core granted. Not one byte past a hello is taken out of the system's buffer before the
    /// user has the stream.
    Read {
        /// The connected stream.
        sock: SockId,
        /// Bytes, added to what is left of earlier credit.
        credit: u32,
    },
    /// Ends a socket.
    Close {
        /// Socket to end.
        sock: SockId,
        /// Way in which it ends.
        how: CloseHow,
    },
    /// Hands a stream to the user: first the queued bytes go out, then the stream is the user's pipe. The driver says
    /// [`Input::Released`] once nobody has the pipe any more, or where it came to nothing.
    Detach {
        /// Stream to hand over.
        sock: SockId,
        /// Peer at the other end, the call that the pipe answers, and the keys.
        pipe: Box<PipeStart>,
    },
    /// Ends the pipe that a detached stream became, whoever has it by now: reading and writing fail, and say why.
    EndPipe {
        /// The stream that was detached.
        sock: SockId,
        /// Reason that reading and writing report.
        why: PipeEnd,
    },
    /// Looks a host name up (a literal address resolves to itself). Reply: `Resolved`.
    Resolve {
        /// Id of the look-up from now on.
        query: QueryId,
        /// The name.
        host: Box<str>,
        /// Time at which the driver gives up.
        deadline: Instant,
    },
    /// Forgets a look-up.
    Cancel {
        /// Look-up to forget.
        query: QueryId,
    },
    /// Tells the user.
    Event(Event),
    /// Hands a relayed pipe to the user. Its bytes go through [`Node::pipe_write`](crate::Node::pipe_write) and
    /// [`Node::pipe_read`](crate::Node::pipe_read). Bytes and messages may be there to read already.
    OpenRelayed {
        /// Id of the pipe from now on.
        pipe: PipeId,
        /// Peer, call and keys of the pipe.
        start: Box<PipeStart>,
    },
    /// Hands an allocation to the user, after [`Node::allocate`](crate::Node::allocate). Its datagrams go through
    /// [`Node::pipe_send_to`](crate::Node::pipe_send_to) and [`Node::pipe_recv_from`](crate::Node::pipe_recv_from).
    OpenAllocation {
        /// Id of the allocation.
        pipe: PipeId,
        /// Address at the server that peers send to.
        relayed: SocketAddr,
        /// The IPv6 address beside an IPv4 one, where both were asked for and the server has both.
        other: Option<SocketAddr>,
    },
    /// Reports a change on a relayed pipe or an allocation.
    Pipe {
        /// Pipe that changed.
        pipe: PipeId,
        /// Kind of the change.
        news: PipeNews,
    },
}

/// Report of a driver to the core.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Input<'a> {
    /// A UDP socket or a listener is open.
    Bound {
        /// Socket or listener that is open.
        sock: SockId,
        /// Address that it was bound to, with the port.
        local: SocketAddr,
    },
    /// A dial succeeded.
    Connected {
        /// Connected stream.
        sock: SockId,
        /// Local address of the stream.
        local: SocketAddr,
        /// Remote address of the stream.
        remote: SocketAddr,
    },
    /// The pipe that a detached stream became is gone: its owner dropped it, or took the bare socket out of it. The
    /// core counts a peer's pipes until then. A driver that never says this lets each peer in a few hundred times.
    Released {
        /// The stream that was detached.
        sock: SockId,
    },
    /// A listener accepted a stream, within its credit.
    Accepted {
        /// Listener that accepted the stream.
        listener: SockId,
        /// The new stream, by [`SockId::accepted`].
        sock: SockId,
        /// Local address of the stream.
        local: SocketAddr,
        /// Remote address of the stream.
        remote: SocketAddr,
    },
    /// A socket failed, and its id is gone.
    Failed {
        /// Socket that failed.
        sock: SockId,
        /// Cause of the failure.
        cause: IoFailure,
    },
    /// A datagram came in.
    Datagram {
        /// Socket that received it.
        sock: SockId,
        /// Sender's address.
        from: SocketAddr,
        /// The payload.
        data: &'a [u8],
    },
    /// Bytes came in on a stream, never more than its credit.
    Stream {
        /// Stream that the bytes came on.
        sock: SockId,
        /// The bytes, at least one.
        data: &'a [u8],
    },
    /// The other end of a stream will send no more. The id lives on until it is closed.
    Eof {
        /// Stream that ended.
        sock: SockId,
    },
    /// A look-up ended.
    Resolved {
        /// Look-up that ended.
        query: QueryId,
        /// Addresses of the name in the system's order, or the cause that there are none.
        result: Result<SmallVec<[IpAddr; 2]>, IoFailure>,
    },
    /// The interfaces as they are now. The first one starts the node; later ones replace the list.
    Interfaces(&'a [Interface]),
    /// Time by the wall clock.
    Clock(ClockFix),
    /// The machine slept, or stood still, as a virtual one does when it is moved. The driver says this after a new
    /// [`Clock`](Input::Clock).
    Woke,
    /// The deadline that `poll_timeout` gave has passed.
    Timeout,
}

/// An address of a network interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: drivers write it over `Interface::new`.
pub struct Interface {
    /// The system's interface index, which is the zone (scope id) of its link-local IPv6 addresses.
    pub index: u32,
    /// The address.
    pub ip: IpAddr,
    /// Length of its on-link prefix, in bits.
    pub prefix: u8,
    /// True if the family's default route leaves through this interface.
    pub default_route: bool,
    /// The family's default gateway behind this interface: the router that ports may be opened on.
    pub gateway: Option<IpAddr>,
    /// Kind of the link, as far as the system tells.
    pub link: LinkKind,
    /// Whether the node may use the address: [`Config::interfaces`](crate::Config::interfaces) does not exclude it.
    pub used: bool,
}

impl Interface {
    /// Returns the address `ip/prefix` on the interface `index`: no default route, no gateway, a real network that is used.
    pub const fn new(index: u32, ip: IpAddr, prefix: u8) -> Self {
        Interface { index, ip, prefix, default_route: false, gateway: None, link: LinkKind::Real, used: true }
    }
}

/// Kind of the link behind a network interface. Of two addresses that lead equally far, the core announces the one with
/// the kind named first here first.
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
    /// No carrier: the link leads nowhere.
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

// Moved through queues by value: growth here is paid on every input.
const _: () = assert!(size_of::<Output>() <= 112);
const _: () = assert!(size_of::<Input<'_>>() <= 96);
