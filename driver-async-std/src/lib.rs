#![doc = include_str!("../README.md")]
//!
//! The sans-IO [`p2pd_core::Node`] makes all decisions. This crate carries out its outputs and hands inputs to it, in
//! one task. A [`Pipe`] is a TCP stream of the `async-io` reactor, with a record layer around it when it is encrypted,
//! and without a task of its own. [`messages`] has pipes of messages: P2PD's calls, for TCP, UDP and pipes to peers
//! alike.
#![forbid(unsafe_code)]

#[cfg(not(any(feature = "async-std", feature = "smol")))]
compile_error!("p2pd-async-std needs one of its features `async-std` and `smol`");

mod executor;
pub mod messages;
mod pipe;
mod runtime;

pub use p2pd_async::{Events, Lost, RecvStream, SendStream, Session};
pub use pipe::Pipe;
pub use runtime::AsyncIo;

#[doc(inline)]
pub use p2pd_sys::face::*;

/// A running node. Clones are handles to the same one; it ends when the last is dropped or `shutdown` is called. Pipes
/// live on without it. The page of [`p2pd_async::Node`] has its calls.
pub type Node = p2pd_async::Node<AsyncIo>;

/// Settings of the driver, beside the core's configuration. The node's task runs on the executor that the crate's feature
/// chose.
pub type Builder = p2pd_async::Builder<AsyncIo>;

/// A connect under way: a future of its [`Pipe`]. Dropping it gives the attempt up.
pub type Connecting = p2pd_async::Connecting<AsyncIo>;

/// Pipes that peers open to a node, as a stream.
pub type Incoming = p2pd_async::Incoming<AsyncIo>;

/// Messages beside a relayed pipe, from [`Pipe::messages`]. The page of [`p2pd_async::Messages`] has their rules.
pub type Messages = p2pd_async::Messages<AsyncIo>;

/// A meeting under way, from [`Node::meet`](p2pd_async::Node::meet). Dropping it gives it up.
pub type Meeting = p2pd_async::Meeting<AsyncIo>;
