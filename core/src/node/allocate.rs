//! Wish for an allocation at a TURN server, and why there is none.

use core::fmt;
use core::time::Duration;

use crate::config::{ConfigError, TurnServer};
use crate::turn::Family;

/// Most allocations at a time.
pub const MAX_ALLOCATIONS: usize = 64;

/// Wish for a relayed address, for [`Node::allocate`](crate::Node::allocate).
#[derive(Clone, PartialEq, Eq, Debug)]
// Exhaustive: users write it over its default.
pub struct Allocate {
    /// Servers to ask, the first one that answers is kept. Default: none, which means those of the configuration.
    pub servers: Vec<TurnServer>,
    /// Family of the relayed address, and so of peers. Default: IPv4, and IPv6 from a server that has no IPv4.
    /// [`Family::Both`] asks for an address of each, and takes one where there is no more.
    pub family: Option<Family>,
    /// Longest time until there is a relayed address. Default 20 s.
    pub timeout: Duration,
}

impl Default for Allocate {
    fn default() -> Self {
        Allocate { servers: Vec::new(), family: None, timeout: Duration::from_secs(20) }
    }
}

/// Reason why there is no relayed address.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AllocateError {
    /// Neither the call nor the configuration names a server.
    NoServer,
    /// A server of the call could not be in a configuration.
    Servers(ConfigError),
    /// The node has [`MAX_ALLOCATIONS`] already.
    TooMany,
    /// No server relays for us: the result of each that was asked.
    Failed(Box<str>),
    /// The node was shut down.
    Shutdown,
    /// The TURN client is not built in: the core's feature `relay` is off.
    NotBuilt,
}

impl fmt::Display for AllocateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AllocateError::NoServer => f.write_str("there is no TURN server to ask"),
            AllocateError::Servers(why) => write!(f, "{why}"),
            AllocateError::TooMany => write!(f, "{MAX_ALLOCATIONS} allocations are there already"),
            AllocateError::Failed(why) => f.write_str(why),
            AllocateError::Shutdown => f.write_str("the node was shut down"),
            AllocateError::NotBuilt => f.write_str("this build has no TURN client"),
        }
    }
}

impl std::error::Error for AllocateError {
    /// Returns the fault of a server's entry.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            AllocateError::Servers(why) => Some(why),
            _ => None,
        }
    }
}
