//! Sockets that do not block, with the options that the core asks for, and the classes of their errors.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use p2pd_core::io::Reuse;
use p2pd_core::pipe::PipeStart;
use p2pd_core::{Instant, IoFailure, SockOpts};
use socket2::{Domain, SockAddr, Socket, Type};

// ANCHOR: sock
pub struct Sock {
    pub socket: Socket,
    pub stage: Stage,
    /// Bytes that the system has not taken yet.
    pub out: Vec<u8>,
    /// Bytes that may be read, or streams that may be accepted.
    pub credit: u32,
}

pub enum Stage {
    Udp,
    Listener,
    Armed { remote: SocketAddr, at: Instant, deadline: Instant },
    Dialling { deadline: Instant },
    Open,
    Leaving(Box<PipeStart>),
    Ending,
}
// ANCHOR_END: sock

impl Sock {
    pub fn new(socket: Socket, stage: Stage) -> Sock {
        Sock { socket, stage, out: Vec::new(), credit: 0 }
    }
}

// ANCHOR: open
/// Opens a socket; with a backlog a listener.
pub fn open(local: SocketAddr, kind: Type, opts: SockOpts, backlog: Option<u16>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(local), kind, None)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(opts.reuse != Reuse::No)?;
    if local.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if kind == Type::STREAM {
        socket.set_tcp_nodelay(opts.nodelay)?;
    }
    // Shared before bind by a dial, and only after it by a listener, which somebody else's listener then refuses.
    if backlog.is_none() {
        share(&socket, opts.reuse)?;
    }
    socket.bind(&local.into())?;
    if let Some(backlog) = backlog {
        socket.listen(backlog.into())?;
        share(&socket, opts.reuse)?;
    }
    Ok(socket)
}

fn share(socket: &Socket, reuse: Reuse) -> io::Result<()> {
    // Windows shares ports by SO_REUSEADDR alone.
    #[cfg(unix)]
    socket.set_reuse_port(reuse == Reuse::AddressAndPort)?;
    let _ = (socket, reuse);
    Ok(())
}
// ANCHOR_END: open

// ANCHOR: dial
/// Begins to connect. An error of no class, as EINPROGRESS, says that it goes on in the background.
pub fn begin(socket: &Socket, remote: SocketAddr) -> io::Result<()> {
    match socket.connect(&remote.into()) {
        Err(e) if !matches!(failure(&e), IoFailure::Other(_)) => Err(e),
        _ => Ok(()),
    }
}

/// Returns both addresses of a socket that has connected.
pub fn outcome(socket: &Socket, late: bool) -> io::Result<(SocketAddr, SocketAddr)> {
    match (socket.take_error()?, socket.peer_addr()) {
        (Some(e), _) => Err(e),
        (None, Ok(remote)) => Ok((address(socket.local_addr())?, address(Ok(remote))?)),
        (None, Err(_)) if late => Err(ErrorKind::TimedOut.into()),
        (None, Err(_)) => Err(ErrorKind::WouldBlock.into()),
    }
}
// ANCHOR_END: dial

/// Accepts a stream. Returns its addresses, too, ours first.
pub fn accept(listener: &Socket) -> io::Result<(Sock, SocketAddr, SocketAddr)> {
    let (socket, remote) = listener.accept()?;
    socket.set_nonblocking(true)?;
    let local = address(socket.local_addr())?;
    Ok((Sock::new(socket, Stage::Open), local, address(Ok(remote))?))
}

pub fn address(of: io::Result<SockAddr>) -> io::Result<SocketAddr> {
    of?.as_socket().ok_or(ErrorKind::Unsupported.into())
}

// ANCHOR: failure
pub fn failure(e: &io::Error) -> IoFailure {
    match e.kind() {
        ErrorKind::ConnectionRefused => IoFailure::Refused,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => IoFailure::Reset,
        ErrorKind::TimedOut => IoFailure::TimedOut,
        ErrorKind::AddrInUse => IoFailure::AddrInUse,
        ErrorKind::AddrNotAvailable => IoFailure::AddrNotAvailable,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => IoFailure::Unreachable,
        ErrorKind::PermissionDenied => IoFailure::NotPermitted,
        _ => IoFailure::Other(e.raw_os_error().unwrap_or(0)),
    }
}
// ANCHOR_END: failure
