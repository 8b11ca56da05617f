//! Where a pipe goes to and from, and the sockets for it.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{TcpSocket, TcpStream, UdpSocket, lookup_host};

use super::carrier::Socket;
use super::options::PipeOptions;

/// Addresses of a name that are tried.
const MAX_ADDRESSES: usize = 4;

/// What a pipe goes through.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Protocol {
    /// A stream.
    Tcp,
    /// Datagrams.
    Udp,
}

/// A family of addresses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    pub(super) fn has(self, ip: IpAddr) -> bool {
        ip.is_ipv4() == (self == Family::V4)
    }
}

/// Where a pipe leaves from: a local address and port. Its family is the family of what it reaches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Route {
    local: SocketAddr,
}

impl Route {
    /// By IPv4, from the address and port that the system chooses.
    pub const V4: Route = Route { local: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0) };
    /// By IPv6, from the address and port that the system chooses.
    pub const V6: Route = Route { local: SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0) };

    /// The local end.
    pub fn local(self) -> SocketAddr {
        self.local
    }

    /// The family.
    pub fn family(self) -> Family {
        if self.local.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

/// From this address, by a port that the system chooses.
impl From<IpAddr> for Route {
    fn from(ip: IpAddr) -> Self {
        Route { local: SocketAddr::new(ip, 0) }
    }
}

impl From<SocketAddr> for Route {
    fn from(local: SocketAddr) -> Self {
        Route { local }
    }
}

/// Where a pipe goes to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Destination {
    /// An address and port.
    Address(SocketAddr),
    /// A host's name, or an address's text, and a port. The first four addresses of the route's family are tried.
    Host(String, u16),
}

impl From<SocketAddr> for Destination {
    fn from(address: SocketAddr) -> Self {
        Destination::Address(address)
    }
}

impl From<(IpAddr, u16)> for Destination {
    fn from(address: (IpAddr, u16)) -> Self {
        Destination::Address(address.into())
    }
}

impl From<(&str, u16)> for Destination {
    fn from((host, port): (&str, u16)) -> Self {
        Destination::Host(host.into(), port)
    }
}

impl Destination {
    /// Its addresses of the route's family, one at least.
    async fn resolve(self, route: Route, options: &PipeOptions) -> Result<Vec<SocketAddr>, OpenError> {
        let (host, port) = match self {
            Destination::Address(at) if route.family().has(at.ip()) => return Ok(vec![at]),
            Destination::Address(_) => return Err(OpenError::OtherFamily),
            Destination::Host(host, port) => (host, port),
        };
        let lookup = tokio::time::timeout(options.resolve_timeout, lookup_host((host, port))).await;
        let found = lookup.map_err(|_| OpenError::TimedOut)?.map_err(OpenError::Resolve)?;
        let found: Vec<_> = found.filter(|at| route.family().has(at.ip())).take(MAX_ADDRESSES).collect();
        if found.is_empty() { Err(OpenError::OtherFamily) } else { Ok(found) }
    }
}

impl Socket {
    /// The socket of [`MessagePipe::open`](super::MessagePipe::open), without a pipe around it.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn open(
        protocol: Protocol,
        to: impl Into<Destination>,
        route: Route,
        options: &PipeOptions,
    ) -> Result<Self, OpenError> {
        let found = to.into().resolve(route, options).await?;
        let socket = match protocol {
            Protocol::Udp => {
                Socket::Udp(udp(route, options).map_err(OpenError::Socket)?, found.first().copied())
            }
            Protocol::Tcp => Socket::Tcp(connect_any(&found, route, options).await?),
        };
        socket.set(options).map_err(OpenError::Socket)?;
        Ok(socket)
    }

    pub(super) fn bind(route: Route, options: &PipeOptions) -> io::Result<Self> {
        udp(route, options).map(|socket| Socket::Udp(socket, None))
    }
}

fn udp(route: Route, options: &PipeOptions) -> io::Result<UdpSocket> {
    UdpSocket::from_std(p2pd_sys::socket::udp(route.local, &options.socket())?)
}

/// The first that answers.
async fn connect_any(
    found: &[SocketAddr],
    route: Route,
    options: &PipeOptions,
) -> Result<TcpStream, OpenError> {
    let mut last = OpenError::OtherFamily;
    for to in found {
        match connect(*to, route, options).await {
            Ok(stream) => return Ok(stream),
            Err(why) => last = why,
        }
    }
    Err(last)
}

async fn connect(to: SocketAddr, route: Route, options: &PipeOptions) -> Result<TcpStream, OpenError> {
    let socket = p2pd_sys::socket::dialler(route.local, &options.socket()).map_err(OpenError::Socket)?;
    let dialling = TcpSocket::from_std_stream(socket.into()).connect(to);
    match tokio::time::timeout(options.connect_timeout, dialling).await {
        Ok(connected) => connected.map_err(OpenError::Connect),
        Err(_) => Err(OpenError::TimedOut),
    }
}

/// Why a pipe was not opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// The destination has no address of the route's family.
    OtherFamily,
    /// The name could not be looked up.
    Resolve(io::Error),
    /// There is no such socket: of `socket`, `setsockopt` or `bind`.
    Socket(io::Error),
    /// Of `connect`; of the last address, where there are several.
    Connect(io::Error),
    /// The look-up, or the connect to the last address, took too long.
    TimedOut,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::OtherFamily => f.write_str("the destination has no address of the route's family"),
            OpenError::Resolve(why) => write!(f, "cannot look the destination up: {why}"),
            OpenError::Socket(why) => write!(f, "cannot open a socket: {why}"),
            OpenError::Connect(why) => write!(f, "cannot connect: {why}"),
            OpenError::TimedOut => f.write_str("it took too long"),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            OpenError::Resolve(why) | OpenError::Socket(why) | OpenError::Connect(why) => Some(why),
            OpenError::OtherFamily | OpenError::TimedOut => None,
        }
    }
}
