//! p2pd in a mio loop of your own: opens a connection between two computers wherever they are, without a thread and
//! without a runtime.
//!
//! The node registers its sockets in *your* [`mio::Poll`], under tokens that you grant it. You pass its events on, let
//! it do its work, and take out its news:
//!
//! ```no_run
//! use mio::{Events, Interest, Poll, Token};
//! use p2pd_mio::{Config, News, Node, Plan, SecretKey};
//!
//! # fn example(text_from_a_friend: &str) -> Result<(), Box<dyn std::error::Error>> {
//! let key = p2pd_mio::load_or_create_key("p2pd.key".as_ref())?;
//! let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(256));
//! let mut node = Node::bind(Config::new(key), poll.registry(), 1_000..20_000)?;
//! node.connect(&text_from_a_friend, Plan::default())?;
//! let mut pipes = Vec::new();
//! loop {
//!     poll.poll(&mut events, node.timeout())?;
//!     for event in &events {
//!         if !node.handle(event) {
//!             // Yours: the pipe with this token can be read or written, for example.
//!         }
//!     }
//!     node.tick();
//!     while let Some(news) = node.poll() {
//!         if let News::Opened(_, mut pipe) | News::Incoming(mut pipe) = news {
//!             // A pipe is an event source like mio's own streams, under a token of yours.
//!             let token = Token(pipes.len());
//!             poll.registry().register(&mut pipe, token, Interest::READABLE | Interest::WRITABLE)?;
//!             pipes.push(pipe);
//!         }
//!     }
//! }
//! # }
//! ```
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
