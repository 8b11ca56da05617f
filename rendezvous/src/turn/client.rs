//! State of the clients.

use core::time::Duration;
use std::net::{IpAddr, SocketAddr};

use turn_server_proto::server::TurnServer;

use super::RelayId;
use super::message::Framing;
use crate::ConnId;
use crate::rate::Flow;

/// A client's way to us.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Way {
    Udp { local: SocketAddr, from: SocketAddr },
    Tcp(ConnId),
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) protocol: TurnServer,
    pub(super) local: SocketAddr,
    pub(super) from: SocketAddr,
    pub(super) framing: Framing,
    /// User name in the latest request, not proven.
    pub(super) user: String,
    /// Names whose passwords the protocol knows, and these.
    pub(super) known: Vec<(String, String)>,
    /// PASSWORD-ALGORITHMS of the challenge.
    pub(super) algorithms: Option<Vec<u8>>,
    /// The Allocate that was granted, and the answer.
    pub(super) granted: Option<([u8; 12], Vec<u8>)>,
    /// Relays of its allocation, at most one of each family.
    pub(super) relays: Vec<Relay>,
    /// Time of the next step.
    pub(super) wake: Duration,
}

#[derive(Clone, Debug)]
pub(super) struct Relay {
    pub(super) id: RelayId,
    /// User that the relay belongs to.
    pub(super) user: String,
    pub(super) ip: IpAddr,
    /// Relayed address, once the socket is open.
    pub(super) at: Option<SocketAddr>,
    /// The protocol knows of the address.
    pub(super) told: bool,
    pub(super) flow: Flow,
}

/// Relays of one user together. Kept until nothing of it is left to count.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) relays: usize,
    pub(super) flow: Flow,
}

impl Client {
    /// Returns true if it has an allocation, or is about to.
    pub(super) fn is_granted(&self) -> bool {
        !self.relays.is_empty()
    }
}
