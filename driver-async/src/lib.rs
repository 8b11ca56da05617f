//! Pipes of messages for p2pd's drivers on async runtimes. The trait [`Runtime`] is the part of each runtime; all the
//! rest is here. Programs have the pipes by their driver's `messages`, under names without the runtime and with
//! examples.
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
mod carrier;
mod daemon;
mod echo;
mod halves;
mod network;
mod open;
mod pipe;
mod read;
mod runtime;
mod shared;
#[cfg(feature = "stream")]
mod stream;
pub mod stun;
mod wait;
mod waiters;

pub use allocation::Allocation;
pub use carrier::{IntoSocket, Socket};
pub use daemon::Daemon;
pub use echo::Echo;
pub use pipe::{CallbackId, MessagePipe, RecvError, SendError};
pub use runtime::Runtime;
#[cfg(feature = "stream")]
pub use stream::{Calls, Lost, Step};

#[doc(inline)]
pub use p2pd_core::pipe::subscriptions::{
    MAX_SUBSCRIPTIONS, Message, Overflow, Pattern, PatternError, Queue, SubscriptionId,
};
#[doc(inline)]
pub use p2pd_sys::messages::{
    Destination, End, Family, IpRange, ListenError, ListenFailure, NetworkChange, OpenError, PipeOptions,
    Protocol, Route, RouteEntry, RouteTable, Target, TooManySubscriptions,
};
