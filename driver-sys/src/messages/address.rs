//! Source and destination of a pipe.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;

/// Addresses of a name that are tried.
const MAX_ADDRESSES: usize = 4;

/// Transport protocol of a pipe.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
// Exhaustive: pipes of messages go over these two.
pub enum Protocol {
    /// A stream.
    Tcp,
    /// Datagrams.
    Udp,
}

/// A family of addresses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
// Exhaustive: there are two address families.
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    pub(super) fn any(self) -> Route {
        match self {
            Family::V4 => Route::V4,
            Family::V6 => Route::V6,
        }
    }

    pub(super) fn loopback(self) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }

    pub(super) fn has(self, ip: IpAddr) -> bool {
        ip.is_ipv4() == (self == Family::V4)
    }
}

/// Source of a pipe: a local address and port, and perhaps the interface by which it leaves. Its family is the family
/// of the destination.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Route {
    local: SocketAddr,
    interface: Option<NonZeroU32>,
}

impl Route {
    /// Route by IPv4, from the address and port that the system chooses.
    pub const V4: Route =
        Route { local: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0), interface: None };
    /// Route by IPv6, from the address and port that the system chooses.
    pub const V6: Route =
        Route { local: SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0), interface: None };

    /// Returns the route by the interface with this index alone, whatever the system's routes say. Where the system does
    /// not let a socket be held to it, the local address decides, which is the interface's own unless one is named. Such a pipe or server hears nothing that comes by another interface, from
    /// this machine itself included.
    pub fn by(self, interface: u32) -> Self {
        Route { interface: NonZeroU32::new(interface), ..self }
    }

    /// Returns the route of a pipe with this local end: by the interface that has the address now, if one has.
    pub fn of(local: SocketAddr) -> Self {
        let route = Route::from(local);
        crate::card_of(local).map_or(route, |card| route.by(card.index))
    }

    /// Returns the index of the interface, if the route names one.
    pub fn interface(self) -> Option<u32> {
        self.interface.map(NonZeroU32::get)
    }

    /// The local end.
    pub fn local(self) -> SocketAddr {
        self.local
    }

    /// Returns the route with another local port.
    pub(super) fn with_port(self, port: u16) -> Self {
        let mut route = self;
        route.local.set_port(port);
        route
    }

    /// The family.
    pub fn family(self) -> Family {
        if self.local.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

/// Route from this address, by a port that the system chooses.
impl From<IpAddr> for Route {
    fn from(ip: IpAddr) -> Self {
        SocketAddr::new(ip, 0).into()
    }
}

impl From<SocketAddr> for Route {
    fn from(local: SocketAddr) -> Self {
        Route { local, interface: None }
    }
}

/// Destination of a pipe.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
// Exhaustive: an address, or a name and a port.
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

/// Destination as it is known without a look-up.
#[derive(Clone, PartialEq, Eq, Debug)]
// Exhaustive: a driver has to know each.
pub enum Found {
    /// Address of the destination, of the route's family.
    Address(SocketAddr),
    /// A name to look up, and the port.
    Ask(String, u16),
}

impl Destination {
    /// Returns the destination's address, or the name to be looked up for it.
    ///
    /// # Errors
    /// The address is of another family than the route's.
    pub fn find(self, route: Route) -> Result<Found, OpenError> {
        let at = match self {
            Destination::Address(at) => at,
            Destination::Host(host, port) => match host.parse::<IpAddr>() {
                Ok(ip) => SocketAddr::new(ip, port),
                Err(_) => return Ok(Found::Ask(host, port)),
            },
        };
        if route.family().has(at.ip()) { Ok(Found::Address(at)) } else { Err(OpenError::OtherFamily) }
    }
}

/// Selects the addresses of a look-up that are tried: those of the route's family, four at most and one at least.
///
/// # Errors
/// The look-up has no address of this family.
pub fn fitting(
    found: impl IntoIterator<Item = SocketAddr>,
    route: Route,
) -> Result<Vec<SocketAddr>, OpenError> {
    let fit = found.into_iter().filter(|at| route.family().has(at.ip()));
    let fit: Vec<_> = fit.take(MAX_ADDRESSES).collect();
    if fit.is_empty() { Err(OpenError::OtherFamily) } else { Ok(fit) }
}

/// Reason why a pipe was not opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// The destination has no address of the route's family.
    OtherFamily,
    /// The name could not be looked up.
    Resolve(io::Error),
    /// The socket could not be opened: error of `socket`, `setsockopt` or `bind`.
    Socket(io::Error),
    /// Error of `connect`; of the last address, where there are several.
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
