//! Pipes of messages for p2pd's drivers on async runtimes: all of them but what a runtime does, which is the trait
//! [`Runtime`]. Programs use them by their driver's `messages`, which has a page on them, examples, and these types under
//! names without the runtime.
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

pub use p2pd_core::pipe::subscriptions::{
    MAX_SUBSCRIPTIONS, Message, Overflow, Pattern, PatternError, Queue, SubscriptionId,
};
pub use p2pd_sys::messages::{
    Destination, End, Family, ListenError, ListenFailure, OpenError, PipeOptions, Protocol, Route, Target,
    TooManySubscriptions,
};
