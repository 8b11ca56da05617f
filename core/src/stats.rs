//! Counters of refused and dropped work, so that an attack or a fault can be seen.

/// Counters of a node since its start. Counters only ever grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Events for a socket or query that is not, or no longer, known.
    pub unknown_ids: u64,
    /// Accepted streams closed because too many were saying hello, or too many came in a short time.
    pub streams_over_limit: u64,
    /// Accepted streams reset because our NAT still held an earlier dial of ours between the same ends, whose sequence
    /// numbers it would have expected.
    pub streams_refused_as_tainted: u64,
    /// Hellos that did not decrypt, were malformed, or took too long.
    pub bad_hellos: u64,
    /// Peers turned away: not accepted, busy, wrong session, plain not allowed.
    pub refused: u64,
    /// Messages from brokers beyond the rate of openings.
    pub messages_over_limit: u64,
    /// Messages from brokers that are not for us, malformed, or do not open.
    pub bad_messages: u64,
    /// Messages seen before: a second broker's copy, or a replay.
    pub repeated_messages: u64,
    /// Messages outside their lifetime, or sent by a clock more than 10 minutes off.
    pub stale_messages: u64,
    /// STUN datagrams that were no answer to us or malformed.
    pub bad_stun: u64,
    /// Datagrams to relayed addresses that were dropped, because their user took none.
    pub datagrams_dropped: u64,
}
