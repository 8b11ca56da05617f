//! Pipes of messages, as the P2PD documents have them: one set of calls for TCP, UDP and pipes to peers, for clients and
//! servers, over IPv4 and IPv6.
//!
//! ```no_run
//! use std::time::Duration;
//! use p2pd_async_std::messages::{MessagePipe, Pattern, PipeOptions, Protocol, Route};
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

mod runtime;
pub mod stun;

pub use p2pd_async::{
    CallbackId, Destination, End, Family, IntoSocket, ListenError, ListenFailure, MAX_SUBSCRIPTIONS, Message,
    OpenError, Overflow, Pattern, PatternError, PipeOptions, Protocol, Queue, RecvError, Route, SendError,
    SubscriptionId, Target, TooManySubscriptions,
};
pub use runtime::AsyncIo;

/// A pipe of messages. Clones are handles to the same one; when the last is dropped, or `close` is called, it ends. A pipe
/// that is linked to others is held by these.
///
/// A callback is given its pipe; one that captures a handle to it keeps it open until its peer ends it.
pub type MessagePipe = p2pd_async::MessagePipe<AsyncIo>;

/// A socket that a [`MessagePipe`] can be made of, however it came about.
pub type Socket = p2pd_async::Socket<AsyncIo>;

/// TCP listeners and UDP sockets, all of which are open. Dropping it closes them, UDP sockets when the runtime next comes to
/// their tasks.
///
/// ```no_run
/// use p2pd_async_std::messages::{Daemon, Family, PipeOptions, Protocol, Target};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let protocols = [Protocol::Tcp, Protocol::Udp];
/// let families = [Family::V4, Family::V6];
/// let ports = [7..=7, 30_000..=30_100];
/// let daemon = Daemon::listen_all(&[Target::Any], &ports, &protocols, &families, &PipeOptions::default())?;
/// daemon
///     .serve(|message, pipe| async move {
///         // One that leaves before its answer is no error.
///         let _ = pipe.send_to(&message.data, message.from).await;
///     })
///     .await;
/// # Ok(())
/// # }
/// ```
pub type Daemon = p2pd_async::Daemon<AsyncIo>;
