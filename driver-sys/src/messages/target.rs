//! Addresses at which a server is to listen, and the outcome.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;

use p2pd_core::SockOpts;
use p2pd_core::io::Reuse;

use super::{BACKLOG, Family, PipeOptions, Protocol, Route};
use crate::socket;

/// Addresses at which a server listens, without the port.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
// Exhaustive: what a server can listen on.
pub enum Target {
    /// Every address of this machine. Datagrams leave from the address that the system chooses, so a UDP server on a
    /// machine with several addresses does better to listen on each.
    Any,
    /// Loopback addresses of this machine alone: 127.0.0.1 and ::1.
    Loopback,
    /// Every address of the interface of this name; of IPv6 both link-local and global ones.
    Interface(String),
    /// A route's address.
    Route(Route),
}

impl Target {
    /// Returns the target's addresses of a family, with port 0; one at least.
    fn addresses(&self, family: Family) -> Result<Vec<Route>, ListenFailure> {
        let found = match self {
            Target::Any | Target::Loopback if !socket::has_family(family.loopback()) => Vec::new(),
            Target::Any => vec![family.any()],
            Target::Loopback => vec![family.loopback().into()],
            Target::Interface(name) => {
                let card = crate::cards().into_iter().find(|card| card.name == *name);
                let card = card.ok_or_else(|| ListenFailure::NoInterface(name.clone()))?;
                let ips = card.addresses.iter().map(|(ip, _)| *ip).filter(|ip| family.has(*ip));
                ips.map(|ip| p2pd_core::scoped(ip, 0, card.index).into()).collect()
            }
            Target::Route(route) => {
                Some(*route).into_iter().filter(|route| route.family() == family).collect()
            }
        };
        if found.is_empty() { Err(ListenFailure::NoAddress(self.clone(), family)) } else { Ok(found) }
    }
}

/// Every combination, each once; port 0, which is another one each time, as often as it is asked for. A family that
/// this machine lacks, or a target, is left out where the target has another one of those asked for.
///
/// # Errors
/// Every target that has no address.
pub fn combine(
    targets: &[Target],
    ports: &[RangeInclusive<u16>],
    protocols: &[Protocol],
    families: &[Family],
) -> Result<Vec<(Route, Protocol)>, ListenError> {
    let (mut wanted, mut failed) = (Vec::new(), Vec::new());
    for target in targets {
        let (mut found, mut lacking) = (Vec::new(), Vec::new());
        for family in families {
            match target.addresses(*family) {
                Ok(addresses) => found.extend(addresses),
                Err(why) => lacking.push(why),
            }
        }
        // Several families mean all that there are.
        if found.is_empty() {
            failed.extend(lacking);
        }
        wanted.extend(found);
    }
    if !failed.is_empty() {
        return Err(ListenError { failed });
    }
    let (mut known, mut all) = (BTreeSet::new(), Vec::new());
    for route in wanted {
        for port in ports.iter().cloned().flatten() {
            let each = protocols.iter().map(|protocol| (route.with_port(port), *protocol));
            all.extend(each.filter(|each| port == 0 || known.insert(*each)));
        }
    }
    Ok(all)
}

/// A server's socket that nobody waits on yet.
#[derive(Debug)]
// Exhaustive: pipes of messages go over these two.
pub enum Bound {
    /// A listening TCP socket.
    Tcp(std::net::TcpListener),
    /// A bound UDP socket.
    Udp(std::net::UdpSocket),
}

impl Bound {
    /// Opens all of them, or none.
    ///
    /// # Errors
    /// Everything that failed, or that nothing was asked for.
    pub fn all(wanted: &[(Route, Protocol)], options: &PipeOptions) -> Result<Vec<Bound>, ListenError> {
        let (mut open, mut failed) = (Vec::new(), Vec::new());
        for &(route, protocol) in wanted {
            match Bound::open(route, protocol, options) {
                Ok(bound) => open.push(bound),
                Err(why) => failed.push(ListenFailure::Bind(route.local(), protocol, why)),
            }
        }
        if failed.is_empty() && !open.is_empty() { Ok(open) } else { Err(ListenError { failed }) }
    }

    fn open(route: Route, protocol: Protocol, options: &PipeOptions) -> io::Result<Self> {
        Ok(match protocol {
            Protocol::Tcp => {
                // Clients' sockets are bound as it is.
                let (local, interface) = (route.local(), route.interface());
                // So that a server that is started again finds its port free.
                let opts = SockOpts { reuse: Reuse::Address, nodelay: false };
                Bound::Tcp(socket::listener_by(local, interface, BACKLOG, &opts)?)
            }
            Protocol::Udp => Bound::Udp(options.udp(route)?),
        })
    }

    /// Returns the socket's protocol.
    pub fn protocol(&self) -> Protocol {
        match self {
            Bound::Tcp(_) => Protocol::Tcp,
            Bound::Udp(_) => Protocol::Udp,
        }
    }
}

/// Reason why a server does not listen: all failures. If one address fails, the server listens on none.
#[derive(Debug)]
// Exhaustive: a list of failures.
pub struct ListenError {
    /// Failures, in the order asked for; empty if nothing was asked for.
    pub failed: Vec<ListenFailure>,
}

/// Failure of one of the addresses.
#[derive(Debug)]
#[non_exhaustive]
pub enum ListenFailure {
    /// The machine has no interface of this name.
    NoInterface(String),
    /// The target has no address of this family.
    NoAddress(Target, Family),
    /// Error of `bind` or `listen`, for example that the port is taken.
    Bind(SocketAddr, Protocol, io::Error),
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.failed.is_empty() {
            return f.write_str("nothing to listen on");
        }
        for (n, failure) in self.failed.iter().enumerate() {
            if n > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{failure}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ListenFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenFailure::NoInterface(name) => write!(f, "there is no interface {name}"),
            ListenFailure::NoAddress(target, family) => write!(f, "{target:?} has no address of {family:?}"),
            ListenFailure::Bind(at, protocol, why) => write!(f, "{at} over {protocol:?}: {why}"),
        }
    }
}

impl std::error::Error for ListenError {
    /// Returns the first failure.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.failed.first().map(|failure| failure as _)
    }
}

impl std::error::Error for ListenFailure {
    /// Returns the system's error.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ListenFailure::Bind(.., why) => Some(why),
            ListenFailure::NoInterface(_) | ListenFailure::NoAddress(..) => None,
        }
    }
}
