//! Address of a peer: a text that one person sends another so that their nodes can meet.
//!
//! ```text
//! 0,1-[0,8.8.8.8,192.168.21.21,58959,3,2,0]-0-zmUGXPOFxBUuToh
//! brokers - IPv4 interfaces - IPv6 interfaces - node id
//! ```
//! The text of the P2PD documents. An interface is `[index,external,internal,port,NAT type,delta type,delta
//! value]`; several are joined by `|`; `0` stands for none. Brokers are stable ids out of a server list, one
//! or two, or `None`. Reading is strict: everything is checked, numbers have one spelling, and the one error
//! names the field and the byte.

mod parse;

use core::fmt;
use core::str::FromStr;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use smallvec::SmallVec;

pub use parse::{AddressError, AddressErrorKind, Field, Section};

use crate::nat::{Delta, NatType};
use crate::reach::{Reach, reach};

/// Most bytes of an address's text.
pub const MAX_TEXT: usize = 1024;
/// Most interfaces per address family.
pub const MAX_INTERFACES: usize = 3;
/// Most brokers.
pub const MAX_BROKERS: usize = 2;

/// Address of a node: its brokers, interfaces and node id.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PeerAddress {
    brokers: SmallVec<[u16; MAX_BROKERS]>,
    v4: SmallVec<[PeerInterface; 1]>,
    v6: SmallVec<[PeerInterface; 1]>,
    node: NodeText,
}

/// An interface of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct PeerInterface {
    /// Number that tells the peer's interfaces of one family apart.
    pub index: u16,
    /// External address, as the world sees it.
    pub external: IpAddr,
    /// The interface's own address, of the same family.
    pub internal: IpAddr,
    /// TCP port that the node listens on, not 0.
    pub port: u16,
    /// The NAT in front of it.
    pub nat: NatType,
    /// Port allocation of the NAT.
    pub delta: Delta,
}

/// A node id as an address has it: 1 to 64 ASCII letters and digits. Ours are
/// [`NodeId`](crate::NodeId)s, P2PD's are not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeText {
    bytes: [u8; NodeText::MAX],
    len: u8,
}

impl PeerAddress {
    /// Builds an address of these parts; the interfaces are sorted by family and otherwise stay in order.
    ///
    /// # Errors
    /// Error with offset 0, if the address could not be written: too many parts, a duplicate, a wrong address or port.
    pub fn new(brokers: &[u16], interfaces: &[PeerInterface], node: NodeText) -> Result<Self, AddressError> {
        let of = |v4: bool| interfaces.iter().filter(move |i| i.internal.is_ipv4() == v4).copied().collect();
        let address =
            PeerAddress { brokers: SmallVec::from_slice(brokers), v4: of(true), v6: of(false), node };
        // What can be read back is right.
        let read: PeerAddress =
            address.to_string().parse().map_err(|e: AddressError| AddressError { offset: 0, ..e })?;
        Ok(read)
    }

    /// Returns the stable ids of the node's brokers.
    pub fn brokers(&self) -> &[u16] {
        &self.brokers
    }

    /// Returns the IPv4 interfaces.
    pub fn v4(&self) -> &[PeerInterface] {
        &self.v4
    }

    /// Returns the IPv6 interfaces.
    pub fn v6(&self) -> &[PeerInterface] {
        &self.v6
    }

    /// Returns all interfaces, IPv4 first.
    pub fn interfaces(&self) -> impl Iterator<Item = &PeerInterface> {
        self.v4.iter().chain(&self.v6)
    }

    /// Returns the node's id.
    pub fn node(&self) -> NodeText {
        self.node
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.brokers.as_slice() {
            [] => f.write_str("None")?,
            [first, rest @ ..] => {
                write!(f, "{first}")?;
                rest.iter().try_for_each(|id| write!(f, ",{id}"))?;
            }
        }
        for section in [&self.v4, &self.v6] {
            f.write_str("-")?;
            if section.is_empty() {
                f.write_str("0")?;
            }
            for (n, i) in section.iter().enumerate() {
                let bar = if n == 0 { "" } else { "|" };
                let (nat, kind) = (i.nat.number(), i.delta.kind.number());
                let (external, internal) = (i.external, i.internal);
                write!(
                    f,
                    "{bar}[{},{external},{internal},{},{nat},{kind},{}]",
                    i.index, i.port, i.delta.value
                )?;
            }
        }
        write!(f, "-{}", self.node)
    }
}

impl FromStr for PeerAddress {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        parse::address(text)
    }
}

impl NodeText {
    /// Most characters.
    pub const MAX: usize = 64;

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        // Only ASCII was let in.
        core::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

impl FromStr for NodeText {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        parse::node(text, 0)
    }
}

impl fmt::Display for NodeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for NodeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Returns a socket address, in the zone where it is link-local. An address's text has no zones.
pub fn scoped(ip: IpAddr, port: u16, zone: u32) -> SocketAddr {
    match ip {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => SocketAddrV6::new(ip, port, 0, zone).into(),
        ip => SocketAddr::new(ip, port),
    }
}

/// Returns true if `ip` is an address that every link has of its own: RFC 3927, RFC 4291 section 2.5.6.
pub fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// Returns true if this is an address of the internet, as everybody reaches it: none of RFC 6890's for other purposes.
pub fn is_internet(ip: IpAddr) -> bool {
    reach(ip, &[]) == Reach::Internet
}

/// Returns true if a packet to this address goes to one host.
pub(crate) fn is_dialable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast() && ip.to_ipv4_mapped().is_none(),
    }
}
