//! Ports that hosts inside had opened on the router. Packets to such a port go in from any sender.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::engine::Nanos;
use crate::net::Proto;

/// Order of a router's server for port mappings to the NAT. External ports are on the NAT's first address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Opens a port, or opens it for longer.
    Open {
        /// Protocol of the port.
        proto: Proto,
        /// The port outside.
        external: u16,
        /// Address inside to which the port leads.
        inside: SocketAddr,
        /// Time at which the port closes by itself.
        until: Nanos,
    },
    /// Closes one. Connections that came through it go on, as on Linux.
    Close {
        /// Protocol of the port.
        proto: Proto,
        /// The port outside.
        external: u16,
    },
    /// The router restarts and forgets everything.
    Reboot,
}

#[derive(Debug, Default)]
pub(super) struct Forwards(BTreeMap<(Proto, SocketAddr), (SocketAddr, Nanos)>);

impl Forwards {
    pub(super) fn open(&mut self, external: (Proto, SocketAddr), inside: SocketAddr, until: Nanos) {
        self.0.insert(external, (inside, until));
    }

    pub(super) fn close(&mut self, external: (Proto, SocketAddr)) {
        self.0.remove(&external);
    }

    /// Returns the address inside to which an open port leads.
    pub(super) fn of(&self, now: Nanos, external: (Proto, SocketAddr)) -> Option<SocketAddr> {
        self.0.get(&external).filter(|(_, until)| *until > now).map(|(inside, _)| *inside)
    }
}
