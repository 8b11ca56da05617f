//! Pipes of messages in a mio loop, as the P2PD documents have them: one set of calls for TCP, UDP and pipes to peers.
//! They serve clients and servers, over IPv4 and IPv6.
//!
//! [`Pipes`] holds them all, and is used as a [`Node`](crate::Node) is: it registers its sockets in *your*
//! [`mio::Poll`], under tokens that you grant it. You pass its events on, call [`tick`](Pipes::tick) after each turn,
//! and take out its news. There is no thread, but for names that are looked up, and no callback.
//!
//! ```no_run
//! use mio::{Events, Poll};
//! use p2pd_mio::messages::{Pattern, PipeOptions, Pipes, Protocol, Route};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(256));
//! let mut pipes = Pipes::new(poll.registry(), 20_000..30_000)?;
//! let to = ("example.com", 7);
//! let pipe = pipes.open(Protocol::Udp, to, Route::V4, &PipeOptions::default())?;
//! let hellos = pipes.subscribe(pipe, Pattern::new("[hH]ello")?, Pattern::ANY)?;
//! loop {
//!     poll.poll(&mut events, pipes.timeout())?;
//!     for event in &events {
//!         if !pipes.handle(event) { /* yours */ }
//!     }
//!     pipes.tick();
//!     while let Some(news) = pipes.poll() {
//!         // `News::Opened(pipe)`, so that it can be sent to.
//!         pipes.send(pipe, b"hello")?;
//!     }
//!     while let Some(message) = pipes.recv(pipe, hellos)? {
//!         println!("{}: {:?}", message.from, message.data);
//!     }
//! }
//! # }
//! ```
//!
//! A *message* is a datagram, or the bytes of one read of a stream. TCP has no messages, so data sent in one piece may
//! arrive in several, and the other way round. Three things are done with each message. It is copied into every
//! subscription that it matches ([`Pipes::subscribe`]). [`Pipes::poll`] gives it out where that is asked for
//! ([`Pipes::hear`]). Linked pipes send it on ([`Pipes::link`], [`Pipes::join`]).
//!
//! Nothing is read while there is none of these, so nothing that comes before the first of them is lost. Nor is
//! anything read while 64 messages wait in `poll`, while a linked pipe has not sent its message, or while a queue with
//! [`Overflow::StopReading`] is full. Then a TCP peer has to wait, and the system drops datagrams.

mod ends;
mod network;
mod opening;
mod pipe;
mod pipes;
mod server;
mod socket;
pub mod stun;
mod tokens;
mod turns;

pub use pipes::{News, Pipes, SubscribeError};
pub use server::Listening;
pub use socket::{Allocation, Socket};
pub use tokens::PipeId;

#[doc(inline)]
pub use p2pd_core::pipe::subscriptions::{
    MAX_SUBSCRIPTIONS, Message, Overflow, Pattern, PatternError, Queue, SubscriptionId,
};
#[doc(inline)]
pub use p2pd_sys::messages::{
    Destination, End, Family, IpRange, ListenError, ListenFailure, NetworkChange, OpenError, PipeOptions,
    Protocol, RecvError, Route, RouteEntry, RouteTable, SystemSocket, Target,
};
