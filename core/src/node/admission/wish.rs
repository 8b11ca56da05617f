//! Requests of a peer to us.

use std::net::SocketAddr;

use smallvec::SmallVec;

use crate::address::PeerAddress;
use crate::identity::NodeId;
use crate::pipe::Terms;
use crate::session::SessionId;
use crate::signal::mappings::{Mappings, UdpMappings};

/// A request to come to a peer.
#[derive(Debug)]
pub(in crate::node) struct Wish {
    pub(in crate::node) peer: NodeId,
    pub(in crate::node) session: SessionId,
    pub(in crate::node) terms: Terms,
    pub(in crate::node) address: PeerAddress,
    /// Places of the brokers that reach the peer.
    pub(in crate::node) via: SmallVec<[u8; 2]>,
    pub(in crate::node) how: How,
}

/// Way to the peer.
#[derive(Debug)]
pub(in crate::node) enum How {
    Dial,
    Punch(Box<Mappings>),
    Udp(Box<UdpMappings>),
    /// Stream to its relay at this address.
    Relay {
        relayed: SocketAddr,
    },
}

impl How {
    pub(in crate::node) fn kind(&self) -> Kind {
        match self {
            How::Dial => Kind::Dial,
            How::Punch(_) => Kind::Punch,
            How::Udp(_) => Kind::Udp,
            How::Relay { .. } => Kind::Relay,
        }
    }
}

/// Kind of a request, without its data. Each has rates and places of its own, so that none can use up another's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::node) enum Kind {
    Dial,
    Punch,
    Relay,
    Udp,
}
