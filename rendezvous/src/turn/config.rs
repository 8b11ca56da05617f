//! Settings of a server.

use core::time::Duration;
use std::net::IpAddr;

use super::Users;

/// Settings of a server.
#[derive(Clone, Debug)]
// Exhaustive: owners write it over `Config::new`.
pub struct Config {
    /// The realm.
    pub realm: String,
    /// Users that may relay.
    pub users: Users,
    /// The addresses under which peers reach the relaying sockets, at most one of each family.
    pub relay_ips: Vec<IpAddr>,
    /// Lets relays reach private addresses, as they do where their own is private. Default no. Loopback, links and the
    /// machine's own addresses stay out of reach.
    pub allow_private: bool,
    /// Lifetime of a nonce. Then the nonce is stale, and its user is asked to take the next one (438). Default an hour,
    /// at least 30 s.
    pub nonce: Duration,
    /// Bounds of allocations.
    pub limits: Limits,
}

impl Config {
    /// The defaults, for these users and this address.
    pub fn new(users: Users, relay_ip: IpAddr) -> Self {
        Config {
            realm: "p2pd".into(),
            users,
            relay_ips: vec![relay_ip],
            allow_private: false,
            nonce: Duration::from_secs(3600),
            limits: Limits::default(),
        }
    }
}

/// Allocations at a time, and what they carry. An allocation that is beyond is answered with 508, a datagram that is
/// beyond is dropped. One with a relayed address of each family counts as two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: owners write it over its default.
pub struct Limits {
    /// Allocations in all. Default 1,024.
    pub allocations: usize,
    /// Allocations of one user. Default 256: a name is often everybody's.
    pub per_user: usize,
    /// Allocations of one address: an IPv4 address or an IPv6 /64. Default 64.
    pub per_address: usize,
    /// Bytes a second that one allocation carries, in both directions together, with half a second's worth at once. None
    /// is no limit. Default 25 MB.
    pub allocation_bytes: Option<u64>,
    /// The same of all allocations of one user. Default 100 MB.
    pub user_bytes: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            allocations: 1024,
            per_user: 256,
            per_address: 64,
            allocation_bytes: Some(25_000_000),
            user_bytes: Some(100_000_000),
        }
    }
}
