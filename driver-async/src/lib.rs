//! Pipes of messages for p2pd's drivers on async runtimes: all of them but what a runtime does, which is the trait
//! [`Runtime`]. Programs have them by their driver's `messages`, under names without the runtime and with examples.
//!
//! A *message* is a datagram, or what one read of a stream gave: TCP has no messages, so what was sent in one piece may
//! arrive in several, and the other way round. Three things can be done with one, and all of them are: it is copied into
//! every subscription that it matches ([`MessagePipe::subscribe`]), given to the callbacks
//! ([`MessagePipe::on_message`]), and sent on by linked pipes ([`MessagePipe::add_pipe`]).
//!
//! Nothing is read while there is none of these, so nothing that comes before the first of them is lost. Nor is anything
//! read while a callback runs, a linked pipe does not take what it was sent, or a queue with
//! [`Overflow::StopReading`] is full: then a TCP peer has to wait, and the system drops datagrams.
//!
//! Other than in P2PD, a pipe with a destination has no subscription of its own from the start, and subscriptions are
//! known by their ids rather than by their patterns.
#![forbid(unsafe_code)]

mod carrier;
mod daemon;
mod halves;
mod open;
mod pipe;
mod read;
mod runtime;
mod shared;
pub mod stun;
mod wait;
mod waiters;

pub use carrier::{IntoSocket, Socket};
pub use daemon::Daemon;
pub use pipe::{CallbackId, MessagePipe, RecvError, SendError};
pub use runtime::Runtime;

#[doc(inline)]
pub use p2pd_core::pipe::subscriptions::{
    MAX_SUBSCRIPTIONS, Message, Overflow, Pattern, PatternError, Queue, SubscriptionId,
};
#[doc(inline)]
pub use p2pd_sys::messages::{
    Destination, End, Family, ListenError, ListenFailure, OpenError, PipeOptions, Protocol, Route, Target,
    TooManySubscriptions,
};
