//! Ports that hosts inside had opened on the router: whatever comes there goes in, whoever sends it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::engine::Nanos;
use crate::net::Proto;

/// What a router's server for port mappings wants of the NAT. External ports are on its first address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Opens a port, or opens it for longer.
    Open {
        /// For what.
        proto: Proto,
        /// The port outside.
        external: u16,
        /// Where it leads to.
        inside: SocketAddr,
        /// When it closes by itself.
        until: Nanos,
    },
    /// Closes one. Connections that came through it go on, as on Linux.
    Close {
        /// For what.
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

    /// Where an open port leads to.
    pub(super) fn of(&self, now: Nanos, external: (Proto, SocketAddr)) -> Option<SocketAddr> {
        self.0.get(&external).filter(|(_, until)| *until > now).map(|(inside, _)| *inside)
    }
}
