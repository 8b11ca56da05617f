#![doc = include_str!("../README.md")]
//!
//! The sans-IO [`p2pd_core::Node`] makes all decisions. A [`Node`] carries out its actions and reports events to it, in
//! one task.
//!
//! # Pipes of messages
//!
//! A *message* is a datagram, or the bytes of one read of a stream. TCP has no messages, so data sent in one piece may
//! arrive in several, and the other way round. Three things are done with each message. It is copied into every
//! subscription that it matches ([`MessagePipe::subscribe`]). It is given to the callbacks
//! ([`MessagePipe::on_message`]). Linked pipes send it on ([`MessagePipe::add_pipe`]).
//!
//! Nothing is read while there is none of these, so nothing that comes before the first of them is lost. Nor is
//! anything read while a callback runs, while a linked pipe does not take a message, or while a queue with
//! [`Overflow::StopReading`] is full. Then a TCP peer has to wait, and the system drops datagrams.
//!
//! There are two differences to P2PD. A pipe with a destination has no subscription of its own from the start.
//! Subscriptions are known by their ids rather than by their patterns.
#![forbid(unsafe_code)]

mod allocation;
mod beside;
mod carrier;
mod daemon;
mod echo;
mod halves;
#[cfg(feature = "measure")]
mod late;
mod meeting;
mod network;
mod news;
mod node;
mod open;
mod peer;
mod pipe;
mod reactor;
mod read;
mod run;
mod runtime;
mod session;
mod shared;
pub mod stun;
mod tcp;
mod wait;
mod waiters;

pub use allocation::Allocation;
pub use beside::Messages;
pub use carrier::{IntoSocket, Socket};
pub use daemon::Daemon;
#[cfg(feature = "measure")]
pub use late::lateness;
pub use meeting::Meeting;
pub use news::{Events, Incoming, Lost};
pub use node::{Builder, Connecting, Node};
pub use peer::Pipe;
pub use pipe::{CallbackId, MessagePipe, SendError};
pub use runtime::Runtime;
pub use session::{RecvStream, SendStream, Session};

#[doc(inline)]
pub use p2pd_core::pipe::subscriptions::{
    MAX_SUBSCRIPTIONS, Message, Overflow, Pattern, PatternError, Queue, SubscriptionId,
};
#[doc(inline)]
pub use p2pd_sys::messages::{
    Destination, End, Family, IpRange, ListenError, ListenFailure, NetworkChange, OpenError, PipeOptions,
    Protocol, RecvError, Route, RouteEntry, RouteTable, SystemSocket, Target, TooManySubscriptions,
};
