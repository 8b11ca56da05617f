//! Bounds of a broker's state and work.

use core::time::Duration;

use crate::Shares;

/// Bounds of the state and work that strangers can cause at the broker.
#[derive(Clone, Debug)]
// Exhaustive: owners write it over its default.
pub struct Limits {
    /// Connections at a time. A further one takes the place of the idlest of the network that has most. Default
    /// 1,024, 128 of one address.
    pub connections: Shares,
    /// Sessions without a connection that are remembered; the same goes for them. Default 1,024, 128 of one address.
    pub sessions: Shares,
    /// Topics of one session; a further one is answered with failure. Default 32.
    pub subscriptions: usize,
    /// Bytes of one packet; a longer one closes its connection. Default 16 KiB.
    pub packet: usize,
    /// QoS 1 messages on their way to one client, not yet acknowledged. Default 32.
    pub in_flight: usize,
    /// QoS 1 messages waiting for one client; a further one is dropped. Default 128.
    pub queue: usize,
    /// Bytes of messages waiting for one client or not yet acknowledged by it; further messages are dropped. Default 64
    /// KiB.
    pub queue_bytes: usize,
    /// Bytes that one connection has not taken yet. Beyond it QoS 0 messages are dropped, QoS 1 messages wait, and a
    /// connection that takes no answers either is closed. Default 64 KiB.
    pub output: usize,
    /// Topics with a retained message. A further one takes the place of the oldest of the network that has most; where
    /// the network has its share, it is not retained. Default 1,024, 64 of one address.
    pub retained: Shares,
    /// Bytes of one retained message; a longer one is not retained. Default 1 KiB.
    pub retained_bytes: usize,
    /// Records of names, of at most 1,203 bytes each; the same goes for them. Default 4,096, 32 of one address.
    pub names: Shares,
    /// Requests of one connection a second, in the long run: publications, each filter of a subscription or its end,
    /// pings, and acknowledgements of nothing. A record of a name counts for ten. Beyond the limit the connection is
    /// closed. Default 100, with a burst of four seconds' worth.
    pub requests_per_second: u32,
    /// A new connection has this long to send CONNECT. Default 5 s.
    pub connect_within: Duration,
    /// Longest keep-alive: one that is longer, or none, counts as this. A client is closed after half as much again
    /// without a packet, which 3.1.1 has no way to tell it beforehand. Default 5 min.
    pub keep_alive: Duration,
    /// A session that is not clean is remembered this long after its connection. Default 10 min.
    pub remember: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: Shares { all: 1024, one: 128 },
            sessions: Shares { all: 1024, one: 128 },
            subscriptions: 32,
            packet: 16 * 1024,
            in_flight: 32,
            queue: 128,
            queue_bytes: 64 * 1024,
            output: 64 * 1024,
            retained: Shares { all: 1024, one: 64 },
            retained_bytes: 1024,
            names: Shares { all: 4096, one: 32 },
            requests_per_second: 100,
            connect_within: Duration::from_secs(5),
            keep_alive: Duration::from_secs(300),
            remember: Duration::from_secs(600),
        }
    }
}
