//! Ports opened on the router in front of us: PCP (RFC 6887), NAT-PMP (RFC 6886) and UPnP IGD, tried together.
//!
//! [`Mapper`] is a machine of its own for one address of ours and knows nothing of nodes or sockets. Its owner has
//! one UDP socket bound to that address, whose multicasts leave through that interface. The owner opens streams from
//! the address when asked to, and hands in what comes:
//!
//! ```
//! # #[cfg(feature = "portmap")] {
//! use p2pd_core::Instant;
//! use p2pd_core::portmap::{Config, Mapper, Protocol, Request};
//!
//! let gateway = "192.168.1.1".parse().unwrap();
//! let mut config = Config::new("192.168.1.5".parse().unwrap(), 24);
//! config.gateway = Some(gateway);
//! let mut mapper = Mapper::new(config, [7; 32], Instant::ZERO);
//! mapper.map(Instant::ZERO, Protocol::Tcp, 4000, 4000).unwrap();
//! // The owner's loop: do what is asked, take the events, wait for the sockets or the deadline.
//! let Some(Request::Datagram { to, data }) = mapper.poll_request() else { panic!() };
//! assert_eq!((to, data.len()), ((gateway, 5351).into(), 60));
//! # }
//! ```
//!
//! # Method
//! - PCP is asked first, together with an empty NAT-PMP question. A mapping is asked for by NAT-PMP only where PCP is
//!   refused or silent, since the two are one server. UPnP devices are searched for meanwhile. The first mapping that
//!   is granted is kept, and later ones are removed, unless they have the same external endpoint. Routers keep one
//!   table for all three protocols, and to remove such a mapping would remove ours.
//! - A lease is renewed when half of it is over, and made anew when the server's epoch says that it lost its state.
//!   When a lease has run out, all ways are tried again. [`Mapper::close`] removes all.
//! - The outside address that a router names is judged, not believed: see [`Truth`].
//!
//! # Bounds
//! [`MAX_MAPPINGS`] mappings; [`MAX_DEVICES`] UPnP devices, described in at most [`MAX_DESCRIPTION`] bytes;
//! [`MAX_ANSWER`] bytes of any other answer; [`MAX_LISTED`] entries of a list. A device is used only if it
//! answered from the address that it names, which has to be the gateway's or lie in our subnet.
//!
//! The reasons: ADR 28 in docs/src/adr.

#[cfg(feature = "portmap")]
mod epoch;
#[cfg(feature = "portmap")]
mod gateway;
#[cfg(feature = "portmap")]
mod mapper;
#[cfg(feature = "portmap")]
mod pcp;
#[cfg(feature = "portmap")]
mod pmp;
#[cfg(test)]
#[cfg(feature = "portmap")]
mod tests;
#[cfg(feature = "portmap")]
mod upnp;

use core::fmt;
use core::time::Duration;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::Bytes;

use crate::random::Random;
use crate::time::Instant;

#[cfg(feature = "portmap")]
pub use mapper::Mapper;

/// Most UPnP devices looked at. One place is the gateway's own.
pub const MAX_DEVICES: usize = 4;
/// Longest description of a UPnP device, in bytes; real ones have 2 to 20 KiB.
pub const MAX_DESCRIPTION: usize = 64 * 1024;
/// Longest answer to a call of a UPnP device, in bytes.
pub const MAX_ANSWER: usize = 16 * 1024;
/// Most entries of a list.
pub const MAX_LISTED: u16 = 512;
/// Most mappings of one [`Mapper`].
pub const MAX_MAPPINGS: usize = 16;

/// Address to map ports for, and ways to try.
#[derive(Clone, PartialEq, Eq, Debug)]
// Exhaustive: users write it over `Config::new`.
pub struct Config {
    /// Local address that mappings lead to. Nothing is done for loopback or an unspecified one.
    pub local: IpAddr,
    /// Length of its on-link prefix, in bits.
    pub prefix: u8,
    /// Zone of link-local IPv6 addresses: the interface's index. Default 0.
    pub zone: u32,
    /// The default gateway of this family. Without it there is neither PCP nor NAT-PMP. Default: none.
    pub gateway: Option<IpAddr>,
    /// Lifetime to ask for. Default 7,200 s, as RFC 6886 section 3.3 recommends; at least 1 s.
    pub lifetime: Duration,
    /// Tries PCP. Default: yes.
    pub pcp: bool,
    /// Tries NAT-PMP, after PCP where that is tried too. Default: yes.
    pub nat_pmp: bool,
    /// Searches for UPnP devices. Default: yes.
    pub upnp: bool,
}

impl Config {
    /// Returns the defaults for an address with its prefix length.
    pub fn new(local: IpAddr, prefix: u8) -> Self {
        Config {
            local,
            prefix,
            zone: 0,
            gateway: None,
            lifetime: Duration::from_secs(7200),
            pcp: true,
            nat_pmp: true,
            upnp: true,
        }
    }
}

/// Protocol of a mapped port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
// Exhaustive: the routers' protocols know these two.
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        })
    }
}

/// Protocol that made a mapping.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Way {
    /// Port Control Protocol, RFC 6887.
    Pcp,
    /// NAT Port Mapping Protocol, RFC 6886.
    NatPmp,
    /// UPnP Internet Gateway Device.
    Upnp,
}

impl Way {
    /// Returns true for PCP and NAT-PMP, which are one server with one table, and for a way and itself.
    fn same_server(self, other: Way) -> bool {
        (self == Way::Upnp) == (other == Way::Upnp)
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Way::Pcp => "PCP",
            Way::NatPmp => "NAT-PMP",
            Way::Upnp => "UPnP",
        })
    }
}

/// A mapping that was asked for. Never used twice in one [`Mapper`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MapId(u32);

/// A stream of the mapper's. Never used twice in one [`Mapper`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamId(u32);

/// Request of the mapper to its owner.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
// Exhaustive: the owner has to do each.
pub enum Request {
    /// Sends from the UDP socket.
    Datagram {
        /// Address to send to, perhaps a multicast group.
        to: SocketAddr,
        /// The payload.
        data: Bytes,
    },
    /// Opens a TCP connection from our address. The owner then says [`connected`](Mapper::connected) or
    /// [`ended`](Mapper::ended). No deadline is needed: the mapper closes the connection in time.
    Connect {
        /// Id of the stream.
        stream: StreamId,
        /// Address to connect to.
        to: SocketAddr,
    },
    /// Appends to a stream.
    Send {
        /// Stream to append to.
        stream: StreamId,
        /// Bytes to append.
        data: Bytes,
    },
    /// Reads so many bytes more, at most. A stream begins with none.
    Read {
        /// Stream to read from.
        stream: StreamId,
        /// Bytes.
        credit: u32,
    },
    /// Ends a stream, or the attempt to open it. The owner says nothing more about it.
    Close {
        /// Stream to end.
        stream: StreamId,
    },
}

/// News of the mapper for its owner.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A port is open. The event comes again when the external endpoint or the judgement of it changes.
    Mapped {
        /// Mapping that exists now.
        id: MapId,
        /// Protocol that made the mapping.
        way: Way,
        /// Outside endpoint, as the router says.
        external: SocketAddr,
        /// Lifetime from now, unless renewed; `None` until the router restarts.
        lifetime: Option<Duration>,
        /// Judgement of the outside address.
        truth: Truth,
    },
    /// No way led to a mapping. All are tried again after five minutes.
    Failed {
        /// Mapping that failed.
        id: MapId,
        /// Error of PCP or NAT-PMP; `None` where neither was tried.
        gateway: Option<MapError>,
        /// Error of UPnP; `None` where it was not tried.
        upnp: Option<MapError>,
    },
    /// A mapping ran out and could not be renewed. All ways are tried again.
    Lost {
        /// Mapping that was lost.
        id: MapId,
    },
    /// A mapping was taken back: it is gone, or the router does not answer.
    Removed {
        /// Mapping that was taken back.
        id: MapId,
        /// True if the router that had granted the mapping confirmed its removal. Of a mapping that no router had
        /// granted yet: true if all ways that had been asked confirmed.
        confirmed: bool,
    },
    /// An entry of a device's table, after [`Mapper::list`].
    Listed(Listed),
    /// The table's end, or the error that stopped the reading.
    ListEnd(Result<(), MapError>),
    /// All mappings were taken back after [`Mapper::close`]. The last event.
    Closed,
}

/// An entry of a UPnP device's table.
#[derive(Clone, PartialEq, Eq, Debug)]
// Exhaustive: what an entry of a router's table has.
pub struct Listed {
    /// Protocol of the mapped port.
    pub protocol: Protocol,
    /// The port outside.
    pub external: u16,
    /// Address and port that the mapping leads to.
    pub internal: SocketAddr,
    /// Rest of the lease in seconds; 0 for one without end.
    pub lease: u32,
    /// Name that the maker gave it: at most 64 characters, no control characters and none that turn the direction of
    /// writing.
    pub description: Box<str>,
}

/// Judgement of a mapped endpoint: is it where the internet finds us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Truth {
    /// No address seen from outside is known yet; the mapped address could be right.
    Unchecked,
    /// The world sees us under this very address.
    Agrees,
    /// The address is not one of the internet: another NAT lies beyond this router.
    NotPublic(Scope),
    /// The world sees another address: the router lies, or another NAT lies beyond it.
    Differs {
        /// Address that the world sees.
        seen: IpAddr,
    },
}

impl Truth {
    /// Judges the address that a router names by the address that STUN saw, if any.
    pub fn of(external: IpAddr, seen: Option<IpAddr>) -> Truth {
        match (Scope::of(external), seen) {
            (Scope::Public, None) => Truth::Unchecked,
            // Without the internet, in a lab or behind a company's NAT, both may be private and agree.
            (_, Some(seen)) if seen == external => Truth::Agrees,
            (Scope::Public, Some(seen)) => Truth::Differs { seen },
            (scope, _) => Truth::NotPublic(scope),
        }
    }
}

impl Truth {
    /// Returns a word for programs.
    pub fn name(self) -> &'static str {
        match self {
            Truth::Unchecked => "unchecked",
            Truth::Agrees => "agrees",
            Truth::NotPublic(_) => "not_public",
            Truth::Differs { .. } => "differs",
        }
    }
}

impl fmt::Display for Truth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Truth::Unchecked => f.write_str("not checked: no STUN server said what the internet sees"),
            Truth::Agrees => f.write_str("the internet sees the same address"),
            Truth::NotPublic(Scope::CarrierGrade) => {
                f.write_str("a carrier's NAT (CGN) lies beyond the router")
            }
            Truth::NotPublic(scope) => {
                write!(f, "not reachable: {scope}, so another NAT lies beyond the router")
            }
            Truth::Differs { seen } => write!(f, "not reachable: the internet sees {seen} instead"),
        }
    }
}

/// Kind of an address (RFC 6890).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Scope {
    /// The internet's.
    Public,
    /// RFC 1918, RFC 4193.
    Private,
    /// 100.64.0.0/10, RFC 6598: between a carrier's NAT and its customers.
    CarrierGrade,
    /// Unspecified, loopback, link-local, multicast, documentation, benchmarks, reserved.
    Special,
}

impl Scope {
    /// Returns the kind of `ip`.
    pub fn of(ip: IpAddr) -> Scope {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::of_v4(ip),
            IpAddr::V6(ip) => match ip.segments() {
                [a, ..] if a & 0xfe00 == 0xfc00 => Scope::Private,
                [0x2001, 0x0db8, ..] => Scope::Special,
                // All of the internet's IPv6 addresses are in 2000::/3.
                [a, ..] if a & 0xe000 == 0x2000 => Scope::Public,
                _ => Scope::Special,
            },
        }
    }

    fn of_v4(ip: Ipv4Addr) -> Scope {
        let [a, b, c, _] = ip.octets();
        match (a, b, c) {
            (10, ..) | (172, 16..=31, _) | (192, 168, _) => Scope::Private,
            (100, 64..=127, _) => Scope::CarrierGrade,
            (0 | 127 | 224.., ..) | (169, 254, _) | (192, 0, 0 | 2) => Scope::Special,
            (198, 18 | 19, _) | (198, 51, 100) | (203, 0, 113) => Scope::Special,
            _ => Scope::Public,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scope::Public => "a public address",
            Scope::Private => "a private address",
            Scope::CarrierGrade => "a carrier's address (CGN)",
            Scope::Special => "an address for special use",
        })
    }
}

/// Reason that a way did not lead to a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MapError {
    /// No answer: the router speaks none of the protocols, or something blocks them.
    NoAnswer,
    /// The router knows another version only.
    Version,
    /// The router does not let us.
    NotAuthorized,
    /// The router has no external address yet.
    NoNetwork,
    /// The router's table, or our share of it, is full.
    NoResources,
    /// The router does not offer the requested function.
    NotSupported,
    /// A NAT between the router and us changed our address.
    AddressMismatch,
    /// Each external port that was tried is somebody else's.
    Conflict,
    /// The router gives all its ports at once or none (UPnP 727), and nobody asks for all.
    OnlyWholeAddress,
    /// An answer was malformed, too long, or cut short.
    BadAnswer,
    /// Another error number of the protocol.
    Other(u16),
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MapError::NoAnswer => "no answer",
            MapError::Version => "another version",
            MapError::NotAuthorized => "not authorized",
            MapError::NoNetwork => "the router has no external address",
            MapError::NoResources => "no place left in the router",
            MapError::NotSupported => "not supported",
            MapError::AddressMismatch => "another NAT between the router and us",
            MapError::Conflict => "the ports are taken",
            MapError::OnlyWholeAddress => "only all ports at once",
            MapError::BadAnswer => "a malformed answer",
            MapError::Other(code) => return write!(f, "error {code}"),
        })
    }
}

impl std::error::Error for MapError {}

/// Reason that a mapping is not even tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Refused {
    /// Limit reached: the mapper has [`MAX_MAPPINGS`] mappings.
    TooMany,
    /// Port 0 is none.
    PortZero,
    /// [`Mapper::close`] was called.
    Closed,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refused::TooMany => "too many mappings",
            Refused::PortZero => "port 0 cannot be mapped",
            Refused::Closed => "the mapper is closed",
        })
    }
}

impl std::error::Error for Refused {}

/// Counts of datagrams turned away and of work done again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Datagrams from addresses that were not asked.
    pub strangers: u64,
    /// Answers of asked servers that were malformed or fitted no question.
    pub malformed: u64,
    /// Leases that were renewed.
    pub renewed: u64,
    /// Times that a server's epoch said that its state was lost.
    pub restarts: u64,
}

/// Mapping that each way is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Ask {
    id: MapId,
    protocol: Protocol,
    internal: u16,
    /// Suggested.
    external: u16,
    nonce: [u8; 12],
    lifetime: u32,
}

/// Answer of a way.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Reply {
    /// Mapping with its lifetime in seconds, `None` for ever.
    Granted {
        id: MapId,
        way: Way,
        external: SocketAddr,
        lifetime: Option<u32>,
    },
    Refused {
        id: MapId,
        way: Way,
        why: MapError,
    },
    Removed {
        id: MapId,
        way: Way,
        confirmed: bool,
    },
    /// The server lost all mappings that it had granted, but for the ones it grants now.
    Restarted {
        except: Option<MapId>,
    },
    Listed(Listed),
    ListEnd(Result<(), MapError>),
}

/// Requests and replies of the ways, and their common state.
#[derive(Debug)]
struct Out {
    /// The latest time that was told.
    now: Instant,
    random: Random,
    requests: VecDeque<Request>,
    replies: VecDeque<Reply>,
    stats: Stats,
}

impl Out {
    fn datagram(&mut self, to: SocketAddr, data: Bytes) {
        self.requests.push_back(Request::Datagram { to, data });
    }

    fn reply(&mut self, reply: Reply) {
        self.replies.push_back(reply);
    }
}
