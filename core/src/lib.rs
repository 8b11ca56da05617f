#![doc = include_str!("../README.md")]
//!
//! The example `std_driver` is a whole driver on bare sockets, and `game_loop` runs it in a loop that ticks every 2 ms.
//! `docs/src/uses/driver-guide.md`, a page of the book, goes through it part by part.
//!
//! # The contract
//!
//! 1. Call [`handle`](Node::handle) as often as you like, in any order, then drain
//!    [`poll_output`](Node::poll_output); then ask [`poll_timeout`](Node::poll_timeout) once and arm one timer.
//!    A deadline in the past means [`Input::Timeout`] now, and after it the deadline has moved.
//! 2. Every `BindUdp`, `Listen`, `Connect` and `Resolve` gets exactly one first reply. After `Close`, `Detach` or
//!    `Cancel` there is silence for that id. An input with an unknown id is counted, never an error. `now` may
//!    stand still or go back: the node keeps the maximum.
//! 3. Every dial is an output with a time `at`: the driver binds at once, so that a port clash shows while
//!    there is time, and connects at `at`.
//! 4. The same seed and the same inputs give the same outputs, byte for byte: [`trace`] records and replays.
//! 5. Everything that a stranger can make grow has a cap and a stated rule for what happens beyond it; what
//!    is turned away is counted in [`Stats`].
//! 6. No `unsafe`, and no dependency on a runtime or a socket.
//! 7. What comes from the network passes a guard (`wire/guard.rs`) before a codec sees it.
//! 8. A stream that is agreed on is *detached*: the driver hands out its runtime's own stream, and nothing of
//!    the node stands in the data path. A stream's bytes are read by credit, so that not one of the
//!    user's bytes has been taken out of the system's buffer by then. Relayed pipes alone run through the node.
//! 9. Streams are accepted by credit ([`Output::Accept`]), and a pipe that is gone is said to be
//!    ([`Input::Released`]): what is not accepted waits, and what is not released is counted.
//!
//! What a driver owes beside it:
//!
//! - [`Input::Clock`] before the first [`Input::Interfaces`], about once a minute while something is done anyway, and at
//!   once when the wall clock was set or the machine slept; then [`Input::Woke`] follows. Messages over brokers carry
//!   this time.
//! - [`Wrap`] of a `Connect`: the layers that it names, from the outside in, each within `deadline`. `Connected` is said
//!   once all are open, and the bytes of `SendStream` and `Stream` are those inside. A driver without them says `Failed`.
//! - Credit that is left at `Detach` is void: from then on the user alone reads.
//! - After [`shutdown`](Node::shutdown) outputs and deadlines go on until [`Event::Closed`], for about 2 s. Nothing is
//!   asked for after it. Streams that were detached live on, and relayed pipes end.
//!
//! Each of the rules is held by a test in `core/tests/contract.rs`, 6 by `tests/purity`.
//!
//! # Features
//!
//! Each feature is a part that may be left out. All but `ring` and `serde` are on by default.
//!
//! | feature | what it adds | crates of its own |
//! |---|---|---|
//! | `relay` | pipes through TURN servers, [`Node::allocate`], [`turn::Client`], [`relay::RelayStream`] | quinn-proto and the hashes of TURN |
//! | `names` | [`Node::resolve`], [`Node::register`], [`Node::connect_name`], [`name::Record`] | ed25519-dalek |
//! | `meetings` | [`Node::meet`] | spake2, hkdf |
//! | `portmap` | [`Config::portmap`], [`portmap::Mapper`] | roxmltree, httparse |
//! | `messages` | [`pipe::subscriptions`] | regex |
//! | `ring` | the ciphers of pipes and relays by ring, in C and assembly; [`Config::aes`]. Drivers turn it on | ring |
//! | `serde` | reports and events can be serialized | serde |
//!
//! With `default-features = false` the strategies direct, reverse and punch are left, on 45 crates in place of 75. Types stay as they
//! are, so that a driver compiles with any build. What needs a part that is not there is refused at once:
//!
//! - [`ConfigError::NotBuilt`]: the configuration has TURN servers, asks for ports on routers, or for AES.
//! - [`ConnectError::NoStrategy`]: a plan of relays alone. In other plans the relay is skipped, and the report says why.
//! - [`ConnectError::NoNames`], [`NameError::NotBuilt`] and [`AllocateError::NotBuilt`].
//! - [`MeetingError::NotBuilt`].
//! - A peer that asks for a relay is told that this node cannot come.

// Where a part is left out, what only that part uses is no mistake.
#![cfg_attr(
    not(all(
        feature = "meetings",
        feature = "messages",
        feature = "names",
        feature = "portmap",
        feature = "relay"
    )),
    allow(dead_code)
)]

mod call;
mod config;
mod cx;
mod event;
mod experience;
mod failure;
mod hello;
mod identity;
mod limit;
mod login;
mod meeting;
mod node;
mod noise;
mod prefix;
mod random;
mod reach;
mod selection;
#[cfg(feature = "serde")]
mod serial;
mod server;
mod session;
mod signal;
#[cfg(feature = "names")]
mod signature;
#[cfg(p2pd_insecure_stand_in)]
mod stand_in;
mod stats;
mod strategy;
mod time;
mod timers;
#[cfg(feature = "serde")]
mod units;
#[cfg(test)]
#[cfg(all(feature = "meetings", feature = "names", feature = "relay", not(p2pd_insecure_stand_in)))]
mod vectors;

pub mod address;
pub mod clock;
pub mod io;
#[cfg(feature = "names")]
pub mod lan;
pub mod name;
pub mod nat;
mod nat64;
pub mod pipe;
pub mod portmap;
pub mod proxy;
pub mod relay;
#[doc(hidden)]
pub mod strangers;
pub mod stun;
pub mod text;
pub mod trace;
pub mod turn;
mod wire;
pub mod wrap;
#[cfg(not(p2pd_insecure_stand_in))]
mod x25519;

pub use address::{PeerAddress, is_link_local, scoped};
pub use call::{ConnectId, Refusal, Strategy};
pub use config::{
    Accept, Broker, Config, ConfigError, Liveness, MAX_SERVERS, NtpServer, PIPE_DESCRIPTORS, Plan,
    StunServer, TurnAuth, TurnServer,
};
pub use event::{
    Advice, BrokerLoss, BrokerState, Event, FailReason, Outcome, PortState, Report, Stage, StrategyReport,
};
pub use failure::{IoFailure, ProxyFailure, TlsFailure};
pub use identity::{NodeId, NodeIdError, SecretKey, SecretKeyError, Topic};
pub use io::{CloseHow, Input, Output, QueryId, SockId, SockOpts};
pub use login::{Login, ServerRef};
pub use meeting::{Code, CodeError, MAX_CODES, MAX_MEETINGS, MeetingError, MeetingId, MeetingNews};
pub use name::{Name, NameError, NameNews, NamePin, Target, TargetError, ToTarget};
pub use node::{Allocate, AllocateError, ConnectError, MAX_ALLOCATIONS, MAX_CONNECTS, Node, Source};
pub use pipe::{PipeEnd, PipeId, PipeMode, PipeNews, ProtocolTag};
pub use proxy::{Proxy, ProxyKind};
pub use selection::{Interfaces, Which, WhichError};
pub use stats::{ByStrategy, Failures, Stats, Times};
pub use strategy::punch::{PROBES, SPRAY, hit_permille};
pub use time::{ClockFix, Instant, WallTime};
pub use wire::Transport;
pub use wrap::{ClientKey, Header, Tls, Trust, Wrap};
