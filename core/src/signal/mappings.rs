//! Message of two nodes before they punch: the endpoints that each will come from.
//!
//! ```text
//! mode u8 | rung u8 | mapping u8 | filtering u8 | allocation u8, u16, u16 | signal delay u32 us
//! | external: 4 or 6, address | count u8, ports | address text
//! ```
//! Before they punch over UDP the same follows `secret 16 | inside: 4 or 6, address, port u16`, about sockets of their own.

use core::time::Duration;
use std::net::{IpAddr, SocketAddr};

use smallvec::SmallVec;

use super::reader::{Malformed, Reader, put_endpoint, put_ip};
use crate::address::PeerAddress;
use crate::nat::{Allocation, Behaviour, Filtering, Mapping};
use crate::pipe::{PipeMode, ProtocolTag, Terms};

/// Most ports that a side announces for one rung.
pub(crate) const MAX_PORTS: usize = 16;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Mappings {
    pub(crate) terms: Terms,
    /// Number of the attempt, from 0. Each attempt changes something.
    pub(crate) rung: u8,
    pub(crate) behaviour: Behaviour,
    /// The sender's way to the broker and not back, as far as it knows.
    pub(crate) signal_delay: Duration,
    pub(crate) external: IpAddr,
    /// The external ports that its next dials come from, the likeliest first; none where they cannot be known.
    pub(crate) ports: SmallVec<[u16; MAX_PORTS]>,
    /// The sender's own address.
    pub(crate) address: Box<PeerAddress>,
}

/// Mappings of sockets for UDP, and what the probes of both ends are made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct UdpMappings {
    /// Random bytes of the sender. Probes are proofs under those of both ends.
    pub(crate) secret: [u8; 16],
    /// Local address of the socket, for a peer behind the same router.
    pub(crate) inside: SocketAddr,
    pub(crate) mappings: Mappings,
}

impl UdpMappings {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.secret);
        put_endpoint(out, self.inside);
        self.mappings.encode(out);
    }

    pub(super) fn decode(reader: &mut Reader<'_>, protocol: Option<ProtocolTag>) -> Result<Self, Malformed> {
        let (secret, inside) = (reader.array()?, reader.reachable()?);
        let mappings = Mappings::decode(reader, protocol)?;
        if !mappings.address.interfaces().any(|i| i.internal == inside.ip()) {
            return Err(Malformed);
        }
        Ok(UdpMappings { secret, inside, mappings })
    }
}

impl Mappings {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let mode = self.terms.mode.code();
        let mapping = match self.behaviour.mapping {
            None => 0,
            Some(Mapping::None) => 1,
            Some(Mapping::EndpointIndependent) => 2,
            Some(Mapping::AddressDependent) => 3,
            Some(Mapping::AddressPortDependent) => 4,
        };
        let filtering = match self.behaviour.filtering {
            None => 0,
            Some(Filtering::EndpointIndependent) => 1,
            Some(Filtering::AddressDependent) => 2,
            Some(Filtering::AddressPortDependent) => 3,
        };
        let (allocation, a, b) = match self.behaviour.allocation {
            None => (0, 0, 0),
            Some(Allocation::Equal) => (1, 0, 0),
            Some(Allocation::Preserving(offset)) => (2, offset, 0),
            Some(Allocation::Sequential(step)) => (3, step as u16, 0),
            Some(Allocation::Dependent(step)) => (4, step as u16, 0),
            Some(Allocation::Random { low, high }) => (5, low, high),
        };
        out.extend_from_slice(&[mode, self.rung, mapping, filtering, allocation]);
        out.extend_from_slice(&a.to_be_bytes());
        out.extend_from_slice(&b.to_be_bytes());
        let delay = u32::try_from(self.signal_delay.as_micros()).unwrap_or(u32::MAX);
        out.extend_from_slice(&delay.to_be_bytes());
        put_ip(out, self.external);
        let ports = &self.ports[..self.ports.len().min(MAX_PORTS)];
        out.push(ports.len() as u8);
        ports.iter().for_each(|p| out.extend_from_slice(&p.to_be_bytes()));
        out.extend_from_slice(self.address.to_string().as_bytes());
    }

    pub(super) fn decode(reader: &mut Reader<'_>, protocol: Option<ProtocolTag>) -> Result<Self, Malformed> {
        let [mode, rung, mapping, filtering, allocation] = reader.array()?;
        let terms = Terms::of(PipeMode::from_code(mode).ok_or(Malformed)?, protocol);
        let mapping = match mapping {
            0 => None,
            1 => Some(Mapping::None),
            2 => Some(Mapping::EndpointIndependent),
            3 => Some(Mapping::AddressDependent),
            4 => Some(Mapping::AddressPortDependent),
            _ => return Err(Malformed),
        };
        let filtering = match filtering {
            0 => None,
            1 => Some(Filtering::EndpointIndependent),
            2 => Some(Filtering::AddressDependent),
            3 => Some(Filtering::AddressPortDependent),
            _ => return Err(Malformed),
        };
        let (a, b) = (u16::from_be_bytes(reader.array()?), u16::from_be_bytes(reader.array()?));
        let allocation = match allocation {
            0 => None,
            1 => Some(Allocation::Equal),
            2 => Some(Allocation::Preserving(a)),
            3 => Some(Allocation::Sequential(a as i16)),
            4 => Some(Allocation::Dependent(a as i16)),
            5 if a <= b => Some(Allocation::Random { low: a, high: b }),
            _ => return Err(Malformed),
        };
        let signal_delay = Duration::from_micros(u32::from_be_bytes(reader.array()?).into());
        let external = reader.ip()?;
        let [count] = reader.array()?;
        if usize::from(count) > MAX_PORTS {
            return Err(Malformed);
        }
        let mut ports = SmallVec::new();
        for _ in 0..count {
            match u16::from_be_bytes(reader.array()?) {
                0 => return Err(Malformed),
                port => ports.push(port),
            }
        }
        let text = core::str::from_utf8(reader.rest()).map_err(|_| Malformed)?;
        let address: PeerAddress = text.parse().map_err(|_| Malformed)?;
        // A third party's address has no business here.
        if !address.interfaces().any(|i| i.external == external || i.internal == external) {
            return Err(Malformed);
        }
        let behaviour = Behaviour { mapping, filtering, allocation };
        Ok(Mappings { terms, rung, behaviour, signal_delay, external, ports, address: Box::new(address) })
    }
}
