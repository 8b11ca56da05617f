#![doc = include_str!("../README.md")]
//!
//! The sans-IO [`p2pd_core::Node`] makes all decisions. For programs without a loop there is [`BlockingNode`], which
//! owns a `Poll`. [`messages`] has pipes of messages: P2PD's calls, for TCP, UDP and pipes to peers alike.
//!
//! # Names
//!
//! Servers given as IP addresses need nothing. A *name* is looked up by the system's resolver, which can only block. So
//! each look-up is a thread of its own that ends with it; or you look up, see [`Builder::own_names`].
#![forbid(unsafe_code)]

mod beside;
mod blocking;
pub mod messages;
mod names;
mod node;
mod pipe;
mod reactor;
mod sessions;
mod source;

pub use beside::Messages;
pub use blocking::{BlockingNode, BlockingPipe};
pub use node::{Builder, News, Node};
pub use pipe::Pipe;
pub use sessions::{SessionId, SessionNews, Sessions};

pub use p2pd_core::QueryId;
#[doc(inline)]
pub use p2pd_sys::face::*;
