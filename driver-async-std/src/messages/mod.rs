//! Pipes of messages, as the P2PD documents have them: one set of calls for TCP, UDP and pipes to peers. They serve
//! clients and servers, over IPv4 and IPv6.
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
//! The page of [`p2pd_async`], which has these pipes for every runtime, explains messages and the times when nothing is
//! read. Its types are here for this runtime. [`Daemon`] has servers on many addresses and ports, and [`stun`] the
//! addresses that STUN servers report.

pub mod stun;

#[doc(inline)]
pub use p2pd_async::{
    CallbackId, Destination, End, Family, IntoSocket, IpRange, ListenError, ListenFailure, MAX_SUBSCRIPTIONS,
    Message, NetworkChange, OpenError, Overflow, Pattern, PatternError, PipeOptions, Protocol, Queue,
    RecvError, Route, RouteEntry, RouteTable, SendError, SubscriptionId, SystemSocket, Target,
    TooManySubscriptions,
};

use crate::AsyncIo;

/// A pipe of messages. Clones are handles to the same one. It ends when the last is dropped, or `close` is called. A
/// pipe that is linked to others is held by these.
///
/// A callback is given its pipe; one that captures a handle to it keeps it open until its peer ends it.
pub type MessagePipe = p2pd_async::MessagePipe<AsyncIo>;

/// A socket that a [`MessagePipe`] can be made of, however it came about.
pub type Socket = p2pd_async::Socket<AsyncIo>;

/// A relayed address at a TURN server, from [`Node::allocate`](crate::Node::allocate); [`MessagePipe::new`] makes a pipe of
/// it. The page of [`p2pd_async::Allocation`] has its rules.
pub type Allocation = p2pd_async::Allocation<AsyncIo>;

/// TCP listeners and UDP sockets, all of which are open. Dropping it closes them, UDP sockets when the runtime next
/// comes to their tasks.
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
