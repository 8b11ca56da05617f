//! What the core tells the user: notices, and the report that ends a connect.

use core::fmt;
use core::time::Duration;
use std::net::{IpAddr, SocketAddr};

use smallvec::SmallVec;

use crate::address::PeerAddress;
use crate::identity::NodeId;
use crate::io::IoFailure;
use crate::name::{Name, NameError, NameNews};
use crate::pipe::PipeId;
use crate::portmap::{MapError, Truth, Way};

/// One call of `connect()`, unique within a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectId(pub(crate) u32);

impl ConnectId {
    /// The bare number.
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
    /// We dial the peer's announced addresses.
    Direct,
    /// The peer, asked over a broker, dials ours.
    Reverse,
    /// Both dial at once, so that the NATs of both take each other's SYN for an answer.
    Punch,
    /// A TURN server carries what both send. The stream between them is sealed end to end.
    Relay,
}

impl Strategy {
    /// Every strategy of this version, in the order they start.
    pub const ALL: [Strategy; 4] = [Strategy::Direct, Strategy::Reverse, Strategy::Punch, Strategy::Relay];

    /// The word for it in plans and reports: `direct`, `reverse`, `punch`, `relay`.
    pub const fn name(self) -> &'static str {
        match self {
            Strategy::Direct => "direct",
            Strategy::Reverse => "reverse",
            Strategy::Punch => "punch",
            Strategy::Relay => "relay",
        }
    }

    /// The strategy with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How far a strategy has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Stage {
    /// It began.
    Started,
    /// A dial to this address was started.
    Dialling(SocketAddr),
    /// A dial to this address failed.
    DialFailed(SocketAddr, IoFailure),
    /// A stream is open and the hello runs on it.
    Hello(SocketAddr),
    /// The peer proved who it is.
    Authenticated(SocketAddr),
    /// The peer's user is being asked.
    AwaitingApproval,
    /// Waiting for a broker to be ready.
    AwaitingBroker,
    /// The request went out on this many brokers.
    Requested {
        /// How many brokers took it.
        brokers: u8,
    },
    /// The peer said that it dials us.
    PeerDials,
    /// Both sides know where to dial, and do.
    Punching {
        /// Which try this is, from 0.
        rung: u8,
    },
    /// A TURN server relays for us, from this address.
    Allocated(SocketAddr),
    /// The peer said that it comes to our relayed address.
    PeerComes,
    /// The peer said that its user has another pipe, and that ours waits for its turn.
    PeerBusy,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stage::Started => f.write_str("started"),
            Stage::Dialling(a) => write!(f, "dialling {a}"),
            Stage::DialFailed(a, why) => write!(f, "dialling {a} failed: {why}"),
            Stage::Hello(a) => write!(f, "connected to {a}, saying hello"),
            Stage::Authenticated(a) => write!(f, "peer at {a} authenticated"),
            Stage::AwaitingApproval => f.write_str("the peer's user is being asked"),
            Stage::AwaitingBroker => f.write_str("waiting for a broker"),
            Stage::Requested { brokers } => write!(f, "request sent over {brokers} broker(s)"),
            Stage::PeerDials => f.write_str("the peer is dialling us"),
            Stage::Punching { rung } => write!(f, "punching, try {}", rung + 1),
            Stage::Allocated(at) => write!(f, "a server relays for us at {at}"),
            Stage::PeerComes => f.write_str("the peer comes to the relay"),
            Stage::PeerBusy => f.write_str("the peer is busy with another caller; waiting"),
        }
    }
}

/// How a strategy ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// It gave the pipe.
    Won,
    /// Tried, and did not give one.
    Failed,
    /// Could not work, or was not needed, and was not tried.
    Skipped,
    /// Still running when the connect ended.
    Unfinished,
}

impl Outcome {
    /// One word: `won`, `failed`, `skipped`, `unfinished`.
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Won => "won",
            Outcome::Failed => "failed",
            Outcome::Skipped => "skipped",
            Outcome::Unfinished => "unfinished",
        }
    }
}

/// What one strategy tried and why it ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StrategyReport {
    /// Which.
    pub strategy: Strategy,
    /// How it ended.
    pub outcome: Outcome,
    /// What it tried and saw, in words for a person.
    pub detail: String,
}

/// Why a connect gave no pipe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FailReason {
    /// The plan's deadline passed.
    DeadlinePassed,
    /// Every strategy ended without a pipe.
    AllStrategiesFailed,
    /// The peer's node does not accept us.
    RefusedByPeer(Refusal),
    /// The peer was called by a name, and where it is could not be found out.
    Name(NameError),
    /// The node was shut down.
    Shutdown,
}

impl fmt::Display for FailReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FailReason::DeadlinePassed => f.write_str("the deadline passed"),
            FailReason::AllStrategiesFailed => f.write_str("every strategy failed"),
            FailReason::RefusedByPeer(why) => write!(f, "the peer refused: {why}"),
            FailReason::Name(why) => write!(f, "{why}"),
            FailReason::Shutdown => f.write_str("the node was shut down"),
        }
    }
}

/// Why a node turned a peer away. Travels in the hello and in signalling.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// The node's user accepts others only, or said no.
    NotAccepted,
    /// Too many requests, from this peer or in all; try later.
    Busy,
    /// A plain pipe was asked for, and the node gives encrypted ones only.
    PlainNotAllowed,
    /// The session named is unknown or over.
    NoSuchSession,
    /// It would have to search for us with many dials, which it does only for nodes that its user named.
    NoSearchForStrangers,
    /// What was asked for leads to addresses inside a network only, which it sends to for nodes that its user named.
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
            Refusal::Busy => f.write_str("too many requests, try later"),
            Refusal::PlainNotAllowed => f.write_str("it gives encrypted pipes only"),
            Refusal::NoSuchSession => f.write_str("it does not know this session"),
            Refusal::NoSearchForStrangers => {
                f.write_str("finding us takes many dials, which it makes only for nodes that its user named")
            }
            Refusal::PrivateForStrangers { .. } => f.write_str(
                "it sends nothing inside a network, its own or another, for nodes that its user did not name",
            ),
            Refusal::Version { ours } => write!(f, "it speaks protocol version {ours}, not ours"),
            Refusal::Unknown(code) => write!(f, "reason {code}"),
        }
    }
}

/// The outcome of a connect, strategy by strategy, in the order of the plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// From the call to its end.
    pub elapsed: Duration,
    /// One entry per strategy of the plan.
    pub strategies: SmallVec<[StrategyReport; 2]>,
}

/// The state of one broker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum BrokerState {
    /// Subscribed.
    Ready,
    /// Subscribed, but a message to ourselves has not come back within 25 s. Such a broker is not announced.
    Swallows,
    /// Twice in a row the broker ended the session as the answer to what we published.
    EndsAtMessages,
    /// Not usable; another try follows by itself.
    Lost(BrokerLoss),
}

/// Why a broker is not usable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum BrokerLoss {
    /// Its name or address could not be reached.
    Io(IoFailure),
    /// It refused our CONNECT with this return code (MQTT 3.1.1 section 3.2.2.3).
    Refused(u8),
    /// It refused our subscription.
    SubscriptionRefused,
    /// It closed a session that worked: restarted, or another client took our client id.
    ClosedByBroker,
    /// It did not answer in time.
    Silent,
    /// It sent what MQTT 3.1.1 does not allow.
    Malformed,
}

impl fmt::Display for BrokerLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BrokerLoss::Io(why) => write!(f, "{why}"),
            BrokerLoss::Refused(code) => {
                let why = match code {
                    1 => "it does not speak MQTT 3.1.1",
                    2 => "it does not like client ids such as ours",
                    3 => "the server is unavailable",
                    4 => "the user name or the password is wrong",
                    5 => "not authorised; it may want a user name and a password",
                    _ => "a reason that MQTT 3.1.1 does not name",
                };
                write!(f, "refused us: {why} (code {code})")
            }
            BrokerLoss::SubscriptionRefused => {
                f.write_str("refused the subscription to our topic; its access list may not allow it")
            }
            BrokerLoss::ClosedByBroker => {
                f.write_str("closed the session (restart, or client id taken over)")
            }
            BrokerLoss::Silent => f.write_str("did not answer in time"),
            BrokerLoss::Malformed => f.write_str("sent malformed packets"),
        }
    }
}

/// News for the user.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum Notice {
    /// The node listens; this is what is known of its address so far (it may lack outside addresses).
    Listening {
        /// The address as known now.
        address: Box<PeerAddress>,
    },
    /// Outside addresses and brokers are settled, found or given up: the address to hand out. Said again
    /// whenever the address changes.
    Ready {
        /// The address to hand out.
        address: Box<PeerAddress>,
    },
    /// The listener could not be opened; the node can connect out but nobody can reach it directly.
    ListenFailed {
        /// What was to be bound.
        local: SocketAddr,
        /// Why it was not.
        cause: IoFailure,
    },
    /// A broker's state changed.
    Broker {
        /// Its id in the server list.
        id: u16,
        /// The new state.
        state: BrokerState,
    },
    /// Another process uses our key: messages for us reach both. Said once per other process.
    IdentityInUse,
    /// A connect moved on.
    Progress {
        /// Which.
        connect: ConnectId,
        /// By which strategy.
        strategy: Strategy,
        /// How far.
        stage: Stage,
    },
    /// A connect ended without a pipe.
    Failed {
        /// Which.
        connect: ConnectId,
        /// The short reason.
        reason: FailReason,
        /// The long one.
        report: Box<Report>,
    },
    /// The bytes of a pipe that was relayed at first go another way from now on: to the peer directly, or over the relay
    /// again, as the direct path broke. Said at either end for its own direction.
    Moved {
        /// Which.
        pipe: PipeId,
        /// The peer.
        peer: NodeId,
        /// The strategy that opened the path.
        strategy: Strategy,
        /// Our end of the path, as in [`PipeStart`](crate::pipe::PipeStart).
        local: SocketAddr,
        /// The peer's end, as we see it.
        remote: SocketAddr,
    },
    /// A connect that has its pipe over a relay, and was to have a better path, found none.
    StaysRelayed {
        /// Which.
        connect: ConnectId,
        /// Why no other strategy goes on.
        reason: FailReason,
        /// What they tried.
        report: Box<Report>,
    },
    /// Our address under a pipe that was handed out, or its interface, is gone, and the pipe with it: reading and writing
    /// fail with [`PipeEnd::AddressGone`](crate::PipeEnd::AddressGone). Relayed pipes move.
    PipeGone {
        /// The peer.
        peer: NodeId,
        /// Our end.
        local: SocketAddr,
        /// The peer's end, as we saw it.
        remote: SocketAddr,
    },
    /// A peer that is on no list wants a pipe, and the configuration says ask: answer with `Node::answer`.
    /// Unanswered, it is refused after 30 s.
    Ask {
        /// Who.
        peer: NodeId,
    },
    /// A router was asked to open the listener's port (`Config::portmap`).
    Port {
        /// The interface's address.
        local: IpAddr,
        /// What came of it.
        state: PortState,
    },
    /// Time servers told the time (`Config::ntp`).
    Clock {
        /// How far the wall clock is ahead, in microseconds. By more than a minute, and the node goes by the servers.
        ahead: i64,
        /// A bound of what they may be wrong by.
        error: Duration,
    },
    /// Something about a name.
    Name {
        /// Which.
        name: Name,
        /// What.
        news: Box<NameNews>,
    },
    /// Every socket is closed; the node does nothing more.
    Closed,
}

/// What came of opening the listener's port on a router.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PortState {
    /// It is open; in our address only if the truth `Agrees`.
    Open {
        /// By what.
        way: Way,
        /// What the router calls it outside.
        external: SocketAddr,
        /// Whether to believe in that.
        truth: Truth,
    },
    /// No way led to it; all are tried again after five minutes.
    Failed {
        /// Why not by PCP or NAT-PMP; `None` where that was not tried.
        gateway: Option<MapError>,
        /// Why not by UPnP; `None` where that was not tried.
        upnp: Option<MapError>,
    },
    /// It ran out and could not be renewed; all ways are tried again.
    Lost,
    /// It was taken back at shutdown.
    Removed {
        /// Whether the router confirmed that.
        confirmed: bool,
    },
}
