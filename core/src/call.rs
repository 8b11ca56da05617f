//! Names of calls: their ids, the strategies, and why a peer refuses one.

use core::fmt;

/// Id of one call of `connect()`, unique within a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectId(pub(crate) u32);

impl ConnectId {
    /// Returns the bare number.
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Debug for ConnectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}", self.0)
    }
}

/// A way to open a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Strategy {
    /// Direct: our node dials the peer's announced addresses.
    Direct,
    /// Reverse: the peer, asked over a broker, dials our addresses.
    Reverse,
    /// Hole punching: each side dials at the same time, so that each NAT takes the other's SYN for an answer.
    Punch,
    /// UDP hole punching: each side sends datagrams to the other's mapping, and QUIC begins on the path that lets them
    /// through.
    Udp,
    /// Relay: a TURN server carries the bytes of each side. The stream between the ends is sealed end to end.
    Relay,
}

impl Strategy {
    /// Every strategy of this version, in the order they start.
    pub const ALL: [Strategy; 5] =
        [Strategy::Direct, Strategy::Reverse, Strategy::Punch, Strategy::Udp, Strategy::Relay];

    /// Returns true if this build has the strategy. UDP punching and the relay need the core's feature `relay`.
    pub const fn is_built(self) -> bool {
        match self {
            Strategy::Direct | Strategy::Reverse | Strategy::Punch => true,
            Strategy::Udp | Strategy::Relay => cfg!(feature = "relay"),
        }
    }

    /// Returns the word for the strategy in plans and reports: `direct`, `reverse`, `punch`, `udp`, `relay`.
    pub const fn name(self) -> &'static str {
        match self {
            Strategy::Direct => "direct",
            Strategy::Reverse => "reverse",
            Strategy::Punch => "punch",
            Strategy::Udp => "udp",
            Strategy::Relay => "relay",
        }
    }

    /// Returns the strategy with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Reason that a node turned a peer away. Travels in the hello and in signalling.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// The node's user accepts others only, or said no.
    NotAccepted,
    /// The node asked its user, who said nothing in time.
    Unanswered,
    /// Limit of requests reached, from this peer or in all; try later.
    Busy,
    /// A plain pipe was asked for, and the node gives encrypted ones only.
    PlainNotAllowed,
    /// The node does not take the protocol that the call names, or wants one to be named.
    ProtocolNotTaken,
    /// The node's program serves no sessions.
    NoSessions,
    /// The session named is unknown or over.
    NoSuchSession,
    /// The peer would have to search for us with many dials. It does so only for nodes that its user named.
    NoSearchForStrangers,
    /// The peer would have to search for us with many dials, and nothing has come from our address. It has no TURN
    /// server by which we could show that we are there, or we have not.
    NoSearchInSilence,
    /// The request leads to addresses inside a network only. The peer sends to such addresses only for nodes that its
    /// user named.
    PrivateForStrangers {
        /// The strategy that this ends.
        asked: Strategy,
    },
    /// The protocol version is not spoken; this one is.
    Version {
        /// The refusing node's version.
        ours: u8,
    },
    /// A reason of a newer version.
    Unknown(u8),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NotAccepted => f.write_str("it does not accept this node"),
            Refusal::Unanswered => {
                f.write_str("it asked whether to let this node in, and nobody there answered")
            }
            Refusal::Busy => f.write_str("too many requests, try later"),
            Refusal::PlainNotAllowed => f.write_str("it gives encrypted pipes only"),
            Refusal::NoSessions => f.write_str("its program serves no sessions"),
            Refusal::ProtocolNotTaken => f.write_str("it does not take the call's protocol"),
            Refusal::NoSuchSession => f.write_str("it does not know this session"),
            Refusal::NoSearchForStrangers => {
                f.write_str("finding us takes many dials, which it makes only for nodes that its user named")
            }
            Refusal::NoSearchInSilence => f.write_str(
                "finding us takes many dials, and no TURN server of its own has shown it that we are there",
            ),
            Refusal::PrivateForStrangers { .. } => f.write_str(
                "it sends nothing inside a network, its own or another, for nodes that its user did not name",
            ),
            Refusal::Version { ours } => write!(f, "it speaks protocol version {ours}, not ours"),
            Refusal::Unknown(code) => write!(f, "reason {code}"),
        }
    }
}

impl std::error::Error for Refusal {}
