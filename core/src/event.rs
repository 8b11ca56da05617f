//! Events of the core to the user, and the report that ends a connect.

use crate::call::{ConnectId, Refusal, Strategy};
use core::fmt;
use core::time::Duration;
use std::net::{IpAddr, SocketAddr};

use smallvec::SmallVec;

use crate::address::PeerAddress;
use crate::failure::IoFailure;
use crate::identity::NodeId;
use crate::login::ServerRef;
use crate::meeting::{MeetingId, MeetingNews};
use crate::name::{Name, NameError, NameNews};
use crate::nat::NatMemory;
use crate::pipe::PipeId;
use crate::portmap::{MapError, Truth, Way};

/// Progress of a strategy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Stage {
    /// The strategy began.
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
        /// Number of brokers that took the request.
        brokers: u8,
    },
    /// The peer said that it dials us.
    PeerDials,
    /// The two sides know where to dial, and do.
    Punching {
        /// Number of the try, from 0.
        rung: u8,
        /// Probability that the try connects, in thousandths and at most 999, by what was measured of both NATs and by the
        /// tries before. `None`: a NAT was not measured yet.
        permille: Option<u16>,
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
            Stage::Punching { rung, permille: None } => write!(f, "punching, try {}", rung + 1),
            Stage::Punching { rung, permille: Some(p) } => {
                write!(f, "punching, try {}, at P = {}.{} %", rung + 1, p / 10, p % 10)
            }
            Stage::Allocated(at) => write!(f, "a server relays for us at {at}"),
            Stage::PeerComes => f.write_str("the peer comes to the relay"),
            Stage::PeerBusy => f.write_str("the peer is busy with another caller; waiting"),
        }
    }
}

/// Way in which a strategy ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// The strategy gave the pipe.
    Won,
    /// The strategy was tried and gave no pipe.
    Failed,
    /// The strategy could not work, or was not needed, and was not tried.
    Skipped,
    /// The strategy was still running when the connect ended.
    Unfinished,
}

impl Outcome {
    /// Returns one word: `won`, `failed`, `skipped`, `unfinished`.
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Won => "won",
            Outcome::Failed => "failed",
            Outcome::Skipped => "skipped",
            Outcome::Unfinished => "unfinished",
        }
    }
}

/// Attempts of one strategy and the reason for its end.
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[derive(Clone, PartialEq, Eq, Debug)]
// Exhaustive: programs that pass reports on write some in their tests.
pub struct StrategyReport {
    /// Strategy that this report is about.
    pub strategy: Strategy,
    /// Way in which the strategy ended.
    pub outcome: Outcome,
    /// Attempts and observations, in words for a person.
    pub detail: String,
}

/// Reason that a connect gave no pipe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FailReason {
    /// The plan's deadline passed.
    DeadlinePassed,
    /// Every strategy ended without a pipe.
    AllStrategiesFailed,
    /// The peer's node does not accept us.
    RefusedByPeer(Refusal),
    /// The peer was called by a name, and its address could not be found out.
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

impl std::error::Error for FailReason {
    /// Returns the peer's refusal, or what the search for a name met.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            FailReason::RefusedByPeer(why) => Some(why),
            FailReason::Name(why) => Some(why),
            FailReason::DeadlinePassed | FailReason::AllStrategiesFailed | FailReason::Shutdown => None,
        }
    }
}

/// The outcome of a connect, strategy by strategy, in the order of the plan.
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[derive(Clone, PartialEq, Eq, Debug)]
// Exhaustive: programs that pass reports on write some in their tests.
pub struct Report {
    /// Time from the call to its end.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::units::seconds"))]
    pub elapsed: Duration,
    /// Entries of the report, one per strategy of the plan.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::units::all"))]
    pub strategies: SmallVec<[StrategyReport; 2]>,
    /// The one thing to do about a failure, where something was seen that tells.
    pub advice: Option<Advice>,
}

/// The one thing that a user can do about a connect that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Advice {
    /// The peer's owner has to accept this node, ours: what was asked for is done for named nodes only.
    BeAccepted(NodeId),
    /// Somebody at the peer has to say yes: it has asked its user about this node, and nobody has answered.
    BeAnswered,
    /// The plan has to name every strategy: the peer answered, and those tried found no path.
    TryAll,
    /// The call has to ask for an encrypted pipe.
    BeEncrypted,
    /// The peer has too many calls for now.
    TryLater,
    /// The same version has to run on both sides.
    SameVersion,
    /// The peer has to be started, or its new address used: nothing at the address answered, nor over a common broker.
    StartPeer,
    /// A broker of the peer's has to be reached: none of those in common is usable.
    ReachBroker,
    /// A common broker is needed by both sides.
    ShareBroker,
    /// A TURN server has to be configured: the peer answered, and no path between the two networks was found.
    AddRelay,
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Advice::BeAccepted(ours) => {
                write!(f, "ask the peer's owner to accept this node: `p2pd listen --accept {ours}`")
            }
            Advice::BeAnswered => f.write_str(
                "have somebody at the peer say yes when it asks about this node, and call again; nobody has answered",
            ),
            Advice::TryAll => f.write_str("let every strategy be tried, which is the default"),
            Advice::BeEncrypted => f.write_str("ask for an encrypted pipe, the default"),
            Advice::TryLater => f.write_str("call again in a minute"),
            Advice::SameVersion => f.write_str("run the same version of p2pd on both sides"),
            Advice::StartPeer => {
                f.write_str("see that the peer runs, and take its address anew: it prints it when it starts")
            }
            Advice::ReachBroker => f.write_str(
                "see that this machine is online and that the brokers of the server list are; none was reached",
            ),
            Advice::ShareBroker => f.write_str(
                "give both sides one server list: `p2pd serve --write servers.toml --host NAME` on a computer that \
                 both reach, then `--config servers.toml`",
            ),
            Advice::AddRelay => f.write_str(
                "add a relay to the server list: `p2pd serve --write servers.toml --host NAME` on a computer \
                 that both reach",
            ),
        }
    }
}

/// The state of one broker.
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum BrokerState {
    /// Subscribed.
    Ready,
    /// Subscribed, but a message to ourselves has not come back within 20 s. Such a broker is not announced.
    Swallows,
    /// Twice in a row the broker ended the session as the answer to what we published.
    EndsAtMessages,
    /// Loss of the broker; another try follows by itself.
    Lost(BrokerLoss),
}

/// Reason that a broker is not usable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum BrokerLoss {
    /// The broker's name or address could not be reached.
    Io(IoFailure),
    /// The broker refused our CONNECT with this return code (MQTT 3.1.1 section 3.2.2.3).
    Refused(u8),
    /// The broker refused our subscription.
    SubscriptionRefused,
    /// The broker closed a session that worked: restarted, or another client took our client id.
    ClosedByBroker,
    /// The broker did not answer in time.
    Silent,
    /// The broker sent bytes that MQTT 3.1.1 does not allow.
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

impl std::error::Error for BrokerLoss {
    /// Returns the failure of the connection.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            BrokerLoss::Io(why) => Some(why),
            _ => None,
        }
    }
}

/// News for the user.
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(tag = "event", rename_all = "snake_case"))]
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The node listens; its address is known so far (outside addresses may be missing).
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
        /// Address that was to be bound.
        local: SocketAddr,
        /// Cause of the failure.
        cause: IoFailure,
    },
    /// A broker's state changed.
    Broker {
        /// Id of the broker in the server list.
        id: u16,
        /// The new state.
        state: BrokerState,
    },
    /// A server did not take who we are, or is to be asked once more when it will not: give others by
    /// [`Node::renew_login`](crate::Node::renew_login). What needs the server waits for 12 s. Said only of what the
    /// configuration has [renewed](crate::TurnAuth::Renewed).
    LoginWanted {
        /// Server that needs another login.
        server: ServerRef,
    },
    /// A second process uses our key: messages for us reach both. Said once per other process.
    IdentityInUse,
    /// A connect moved on.
    Progress {
        /// Connect that moved on.
        connect: ConnectId,
        /// Strategy that moved on.
        strategy: Strategy,
        /// Stage that it reached.
        stage: Stage,
    },
    /// A connect ended without a pipe.
    Failed {
        /// Connect that ended.
        connect: ConnectId,
        /// Reason in short.
        reason: FailReason,
        /// Report on every strategy.
        report: Box<Report>,
    },
    /// The address under a pipe that was handed out, or its interface, is gone, and the pipe with it. Reading and
    /// writing fail with [`PipeEnd::AddressGone`](crate::PipeEnd::AddressGone). Relayed pipes are not among these.
    PipeGone {
        /// The peer.
        peer: NodeId,
        /// Local end of the pipe.
        local: SocketAddr,
        /// The peer's end, as we saw it.
        remote: SocketAddr,
    },
    /// A peer that is on no list wants a pipe, and the configuration says ask: answer with `Node::answer`.
    /// Unanswered, it is refused after 30 s.
    Ask {
        /// Peer that wants the pipe.
        peer: NodeId,
        /// Address that the peer dialled from; `None` where it asked over a broker.
        from: Option<IpAddr>,
    },
    /// The peer of an [`Ask`](Self::Ask) has hung up before the answer: nothing waits for it any more.
    AskOver {
        /// Peer that wanted the pipe.
        peer: NodeId,
    },
    /// A router was asked to open the listener's port (`Config::portmap`).
    Port {
        /// The interface's address.
        local: IpAddr,
        /// Result of the request.
        state: PortState,
    },
    /// Time servers told the time (`Config::ntp`).
    Clock {
        /// Lead of the wall clock over the servers' time, in microseconds. Beyond a minute either way, the node goes by
        /// the servers.
        ahead: i64,
        /// Bound of the servers' error.
        #[cfg_attr(feature = "serde", serde(serialize_with = "crate::units::seconds"))]
        error: Duration,
    },
    /// News about a name.
    Name {
        /// Name that the news is about.
        name: Name,
        /// News about the name.
        news: Box<NameNews>,
    },
    /// News of a meeting that [`Node::meet`](crate::Node::meet) began.
    Meeting {
        /// Meeting that the news is about.
        meeting: MeetingId,
        /// News of the meeting.
        news: Box<MeetingNews>,
    },
    /// A peer answered a [`Node::ping`](crate::Node::ping).
    Pong {
        /// The peer.
        peer: NodeId,
        /// Number of the ping.
        number: u32,
        /// Id of the broker that the first answer came by.
        broker: u16,
        /// Round trip.
        #[cfg_attr(feature = "serde", serde(serialize_with = "crate::units::seconds"))]
        took: Duration,
    },
    /// The NATs of our network were seen to remember idle connections for longer or shorter. A later run that is
    /// [told](crate::Config::nat_memory) need not measure it.
    NatMemory(NatMemory),
    /// [`Node::allocate`](crate::Node::allocate) gave no relayed address.
    NotAllocated {
        /// Id of the allocation, which is gone.
        pipe: PipeId,
        /// Result of each server that was asked, in words.
        why: Box<str>,
    },
    /// The TURN server of an allocation does not relay to a peer. Datagrams that waited for the permission are lost.
    PeerRefused {
        /// The allocation, which goes on.
        pipe: PipeId,
        /// Address that was sent to.
        peer: IpAddr,
        /// ERROR-CODE, 403 for addresses that the server relays to nobody.
        code: u16,
    },
    /// Every socket is closed; the node does nothing more.
    Closed,
}

/// Result of opening the listener's port on a router.
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PortState {
    /// The port is open; the outside address is in our address only if the truth `Agrees`.
    Open {
        /// Protocol that opened the port.
        way: Way,
        /// Outside address and port, as the router says.
        external: SocketAddr,
        /// Judgement of the router's outside address.
        truth: Truth,
    },
    /// No way led to a mapping; all ways are tried again after five minutes.
    Failed {
        /// Error of PCP or NAT-PMP; `None` where neither was tried.
        gateway: Option<MapError>,
        /// Error of UPnP; `None` where it was not tried.
        upnp: Option<MapError>,
    },
    /// The mapping ran out and could not be renewed; all ways are tried again.
    Lost,
    /// The mapping was taken back at shutdown.
    Removed {
        /// True if the router confirmed the removal.
        confirmed: bool,
    },
}
