//! Pipes of messages, as the P2PD documents have them: one set of calls for TCP, UDP and pipes to peers, for clients and
//! servers, over IPv4 and IPv6.
//!
//! ```no_run
//! use std::time::Duration;
//! use p2pd_tokio::messages::{MessagePipe, Pattern, PipeOptions, Protocol, Route};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let to = ("example.com", 7);
//! let pipe = MessagePipe::open(Protocol::Udp, to, Route::V4, &PipeOptions::default()).await?;
//! let hellos = pipe.subscribe(Pattern::new("[hH]ello")?, Pattern::ANY)?;
//! pipe.send(b"hello").await?;
//! let answer = pipe.recv(hellos, Duration::from_secs(2)).await?;
//! # Ok(())
//! # }
//! ```
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
//! [`Daemon`] has servers on many addresses and ports, [`stun`] what a STUN server says of us.
//!
//! Other than in P2PD, a pipe with a destination has no subscription of its own from the start, and subscriptions are
//! known by their ids rather than by their patterns.

mod carrier;
mod daemon;
mod open;
mod options;
mod pipe;
mod read;
mod shared;
pub mod stun;
mod target;

pub use carrier::Socket;
pub use daemon::Daemon;
pub use open::{Destination, Family, OpenError, Protocol, Route};
pub use options::PipeOptions;
pub use p2pd_core::pipe::subscriptions::{
    MAX_SUBSCRIPTIONS, Message, Overflow, Pattern, PatternError, Queue, SubscriptionId,
};
pub use pipe::{CallbackId, End, MessagePipe, RecvError, SendError, TooManySubscriptions};
pub use target::{ListenError, ListenFailure, Target};
