//! The names of core and of this crate that every driver shows as its own: what a user needs to configure a node,
//! to call, and to read what came of it.

#[cfg(feature = "servers")]
pub use crate::servers;
pub use crate::{
    BindError, ConnectError, KeyFileError, PinFile, PinFileError, PipeInfo, create_private,
    load_or_create_key, raise_descriptor_limit, random_seed, session::SessionError,
};
pub use p2pd_core::nat::NatReport;
pub use p2pd_core::pipe::session::{SessionConfig, SessionEnd, Side, StreamId};
pub use p2pd_core::turn::{Credentials, Family as RelayFamily};
pub use p2pd_core::{
    Accept, Advice, Allocate, AllocateError, Broker, BrokerLoss, BrokerState, ClientKey, Code, CodeError,
    Config, ConnectId, Event, FailReason, Header, Interfaces, IoFailure, Liveness, Login, MeetingError,
    MeetingId, MeetingNews, Name, NameError, NamePin, NodeId, NtpServer, Outcome, PeerAddress, PipeEnd,
    PipeMode, Plan, ProtocolTag, Proxy, ProxyKind, Refusal, Report, SecretKey, ServerRef, Stage, Stats,
    Strategy, StrategyReport, StunServer, Target, Tls, ToTarget, Transport, Trust, TurnAuth, TurnServer,
    Which, Wrap,
};
