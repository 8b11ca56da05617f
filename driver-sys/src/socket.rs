//! Sockets with the options that the core asked for. All are non-blocking.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use p2pd_core::{SockOpts, is_link_local, scoped};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::sys;

/// Receive and send buffer of a UDP socket, in bytes: 10 ms of a relayed pipe at 100 Mbyte/s, headers and system
/// overhead included. Linux's default holds 90 datagrams of 1,200 bytes, which come while a busy machine does something
/// else.
const UDP_BUFFER: usize = 1 << 20;

/// A bound UDP socket; of one bound to an IPv4 address multicasts leave through its interface.
///
/// # Errors
/// Of `socket`, `setsockopt` or `bind`.
pub fn udp(local: SocketAddr, opts: &SockOpts) -> io::Result<std::net::UdpSocket> {
    udp_by(local, None, opts)
}

/// The same by an interface alone.
pub(crate) fn udp_by(
    local: SocketAddr,
    interface: Option<u32>,
    opts: &SockOpts,
) -> io::Result<std::net::UdpSocket> {
    let socket = open(local, Type::DGRAM, Protocol::UDP, opts)?;
    // The system gives what its own limit allows, and less does too.
    let _ = socket.set_recv_buffer_size(UDP_BUFFER);
    let _ = socket.set_send_buffer_size(UDP_BUFFER);
    let local = by(&socket, local, interface)?;
    sys::bind(&socket, local)?;
    if let SocketAddr::V4(local) = local
        && !local.ip().is_unspecified()
    {
        // Linux does so by itself, others send them by the default route.
        socket.set_multicast_if_v4(local.ip())?;
    }
    Ok(socket.into())
}

/// Has a UDP socket hear by ICMP that a port is closed, which it is told only of an address that it is connected to. Returns
/// whether it will. Linux lets such a socket be sent from as any other, others do not.
pub fn hears_refusals(socket: &std::net::UdpSocket, remote: SocketAddr) -> bool {
    sys::CONNECTED_SENDS_ANYWHERE && socket.connect(remote).is_ok()
}

/// Returns whether this machine has a family of addresses: whether its loopback address can be bound.
pub(crate) fn has_family(ip: IpAddr) -> bool {
    std::net::UdpSocket::bind((ip, 0)).is_ok()
}

/// A listening TCP socket; an IPv6 one takes IPv6 only.
///
/// # Errors
/// Of `socket`, `setsockopt`, `bind` or `listen`.
pub fn listener(local: SocketAddr, backlog: u16, opts: &SockOpts) -> io::Result<std::net::TcpListener> {
    listener_by(local, None, backlog, opts)
}

/// The same for connections by an interface alone.
pub(crate) fn listener_by(
    local: SocketAddr,
    interface: Option<u32>,
    backlog: u16,
    opts: &SockOpts,
) -> io::Result<std::net::TcpListener> {
    let socket = fresh(local, Type::STREAM, Protocol::TCP)?;
    let local = by(&socket, local, interface)?;
    sys::listen(&socket, local, backlog, opts.reuse)?;
    Ok(socket.into())
}

/// Opens a listener for connections by one interface, beside another one of the same node on the same port and all
/// addresses.
///
/// # Errors
/// Of `socket`, `setsockopt`, `bind` or `listen`; `Unsupported` where two listeners cannot share a port so.
pub fn listener_beside(
    local: SocketAddr,
    backlog: u16,
    opts: &SockOpts,
    interface: u32,
) -> io::Result<std::net::TcpListener> {
    let socket = open(local, Type::STREAM, Protocol::TCP, opts)?;
    sys::listen_beside(&socket, local, backlog, interface)?;
    Ok(socket.into())
}

/// A TCP socket, bound and ready to [`connect`].
///
/// # Errors
/// Of `socket`, `setsockopt` or `bind`: a port clash shows here, before the time to connect.
pub fn dialler(local: SocketAddr, opts: &SockOpts) -> io::Result<Socket> {
    dialler_by(local, None, opts)
}

/// The same by an interface alone.
pub(crate) fn dialler_by(local: SocketAddr, interface: Option<u32>, opts: &SockOpts) -> io::Result<Socket> {
    let socket = open(local, Type::STREAM, Protocol::TCP, opts)?;
    if opts.nodelay {
        socket.set_tcp_nodelay(true)?;
    }
    let local = by(&socket, local, interface)?;
    // Where neither address nor port is asked for, connect chooses both, and the port later.
    if !local.ip().is_unspecified() || local.port() != 0 {
        sys::bind(&socket, local)?;
    }
    Ok(socket)
}

/// Two stream sockets that are joined, as TCP streams for the sake of the event loops. Where there are Unix sockets
/// they are that, so that nothing of it is seen on any network, loopback included; on Windows they are TCP.
///
/// # Errors
/// Of `socketpair`; of `bind`, `connect` or `accept`, and if somebody else connected.
pub fn pair() -> io::Result<(std::net::TcpStream, std::net::TcpStream)> {
    sys::pair()
}

/// Sends the first SYN. Register the socket with an event loop only after this: before, some report it
/// writable at once (measured on tokio and mio).
///
/// # Errors
/// Of `connect`, other than that it goes on in the background.
pub fn connect(socket: &Socket, remote: SocketAddr) -> io::Result<()> {
    match socket.connect(&remote.into()) {
        Err(e) if !sys::in_progress(&e) && e.kind() != io::ErrorKind::WouldBlock => Err(e),
        _ => Ok(()),
    }
}

/// Returns the outcome of a connect that went on in the background: the other end's address.
///
/// # Errors
/// Of `connect`; `WouldBlock` while there is no outcome yet.
pub fn outcome<'s>(socket: impl Into<SockRef<'s>>) -> io::Result<SocketAddr> {
    let socket = socket.into();
    if let Some(e) = socket.take_error()? {
        return Err(e);
    }
    match socket.peer_addr() {
        Ok(remote) => remote.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into()),
        // Not connected and no error: asked too early.
        Err(e) if e.kind() == io::ErrorKind::NotConnected => Err(io::ErrorKind::WouldBlock.into()),
        Err(e) => Err(e),
    }
}

/// Has all packets of this socket leave by the interface with this index, against the routes. On a machine with two
/// default routes the system sends by the better one, also from the other one's address.
///
/// # Errors
/// Of `setsockopt`; `Unsupported` where there is no such option.
pub fn leave_by<'s>(socket: impl Into<SockRef<'s>>, local: SocketAddr, interface: u32) -> io::Result<()> {
    sys::leave_by(&socket.into(), local, interface)
}

/// Has a socket go by an interface alone, before it is bound. Returns the address to bind: the interface's own one where
/// the system lets no socket be held to an interface.
fn by(socket: &Socket, local: SocketAddr, interface: Option<u32>) -> io::Result<SocketAddr> {
    let Some(interface) = interface else { return Ok(local) };
    match sys::hold_to(socket, local, interface) {
        Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported) => {
            own_address(local, interface)
        }
        done => done.map(|()| local),
    }
}

/// Returns this address, or the interface's own one in place of all.
fn own_address(local: SocketAddr, interface: u32) -> io::Result<SocketAddr> {
    if !local.ip().is_unspecified() {
        return Ok(local);
    }
    let card = crate::cards().into_iter().find(|card| card.index == interface);
    let ips = card.into_iter().flat_map(|card| card.addresses).map(|(ip, _)| ip);
    let own = ips.filter(|ip| ip.is_ipv4() == local.is_ipv4()).min_by_key(|ip| is_link_local(*ip));
    Ok(scoped(own.ok_or(io::ErrorKind::AddrNotAvailable)?, local.port(), interface))
}

/// Makes the next close send RST and drop the queue.
///
/// # Errors
/// Of `setsockopt`.
pub fn reset_on_close<'s>(socket: impl Into<SockRef<'s>>) -> io::Result<()> {
    socket.into().set_linger(Some(Duration::ZERO))
}

/// Makes the system acknowledge the next data at once. A server that neither sets `TCP_NODELAY` nor answers twice in a
/// row otherwise costs 40 ms of delayed acknowledgement (measured). Linux only.
pub fn quick_ack<'s>(socket: impl Into<SockRef<'s>>) {
    sys::quick_ack(&socket.into());
}

fn open(local: SocketAddr, kind: Type, protocol: Protocol, opts: &SockOpts) -> io::Result<Socket> {
    let socket = fresh(local, kind, protocol)?;
    sys::share(&socket, opts.reuse)?;
    Ok(socket)
}

fn fresh(local: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(local), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if local.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use p2pd_core::io::Reuse;

    use super::*;

    /// Whether two sockets that both ask for it can share a port though one listens; wine has Linux's rules here.
    fn shares_ports() -> bool {
        let socket = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            sys::share(&socket, Reuse::AddressAndPort).unwrap();
            socket
        };
        let (one, other) = (socket(), socket());
        one.bind(&local().into()).unwrap();
        one.listen(1).unwrap();
        other.bind(&one.local_addr().unwrap()).is_ok()
    }

    fn local() -> SocketAddr {
        ([127, 0, 0, 1], 0).into()
    }

    #[test]
    fn a_taken_port_shows_at_bind() {
        let opts = SockOpts::default();
        let first = listener(local(), 1, &opts).unwrap();
        let taken = first.local_addr().unwrap();
        assert_eq!(listener(taken, 1, &opts).err().map(|e| e.kind()), Some(io::ErrorKind::AddrInUse));
        assert_eq!(dialler(taken, &opts).err().map(|e| e.kind()), Some(io::ErrorKind::AddrInUse));
        let share = SockOpts { reuse: Reuse::AddressAndPort, ..opts };
        if !shares_ports() {
            println!(
                "SKIPPED a_taken_port_shows_at_bind: a dial beside a listener: this system shares no port that is listened on"
            );
            return;
        }
        let shared = listener(local(), 1, &share).unwrap();
        let place = shared.local_addr().unwrap();
        assert!(dialler(place, &share).is_ok(), "a dial beside a listener");
        assert!(listener(place, 1, &share).is_err(), "but no second listener");
        let everywhere = listener(([0, 0, 0, 0], 0).into(), 1, &share).unwrap().local_addr().unwrap();
        let beside = SocketAddr::from(([127, 0, 0, 1], everywhere.port()));
        assert!(dialler(beside, &share).is_ok(), "a dial from one address beside a listener on all");
    }

    /// Way out where a socket cannot be held to an interface.
    #[test]
    fn an_interfaces_own_address_stands_for_all() {
        let lo = crate::card_of(local()).unwrap().index;
        let own = |at: &str, interface| own_address(at.parse().unwrap(), interface).ok();
        assert_eq!(own("0.0.0.0:7", lo), Some(([127, 0, 0, 1], 7).into()));
        assert_eq!(own("10.9.8.7:7", lo), Some(([10, 9, 8, 7], 7).into()), "an address that was asked for");
        assert_eq!(own("0.0.0.0:7", u32::MAX), None, "no interface is not all of them");
        assert!(udp_by("0.0.0.0:0".parse().unwrap(), Some(u32::MAX), &SockOpts::default()).is_err());
        assert!(listener_by("0.0.0.0:0".parse().unwrap(), Some(u32::MAX), 1, &SockOpts::default()).is_err());
        let heard = listener_by("0.0.0.0:0".parse().unwrap(), Some(lo), 1, &SockOpts::default()).unwrap();
        assert!(std::net::TcpStream::connect((local().ip(), heard.local_addr().unwrap().port())).is_ok());
    }

    #[test]
    fn a_connect_goes_on_in_the_background() {
        let listener = listener(local(), 1, &SockOpts::default()).unwrap();
        let opts = SockOpts { nodelay: true, ..SockOpts::default() };
        let socket = dialler(local(), &opts).unwrap();
        connect(&socket, listener.local_addr().unwrap()).unwrap();
        assert!(socket.tcp_nodelay().unwrap());
        reset_on_close(&socket).unwrap();
        quick_ack(&socket);
    }
}
