#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

#[cfg(p2pd_insecure_stand_in)]
compile_error!(
    "the core's stand-in cipher protects nothing: it is for `sim bench --stand-in`, not for real sockets"
);

mod calls;
mod changes;
mod clock;
mod descriptors;
mod engine;
mod error;
pub mod face;
mod failure;
mod files;
#[cfg(unix)]
pub mod handover;
mod interfaces;
mod key_file;
mod links;
mod liveness;
#[cfg(feature = "tracing")]
mod log;
pub mod messages;
mod nat_file;
mod pin_file;
mod pipe;
mod processor;
mod ready;
mod secret;
#[cfg(feature = "servers")]
pub mod servers;
pub mod session;
mod sleep;
pub mod socket;
mod sys;
mod wrap;

pub use calls::{Calls, NameAnswer, NameCall, NameCalls};
pub use clock::{Clock, wall_clock};
pub use descriptors::{most_pipes, raise_descriptor_limit};
#[cfg(feature = "measure")]
pub use engine::Lateness;
pub use engine::{Address, Engine, News, Reactor};
pub use error::{BindError, ConnectError};
pub use failure::failure;
pub use files::{Lock, create_private, make_private, open_file, read_text, replace_private};
pub use interfaces::{Card, card_of, cards, interface_name, interfaces};
pub use key_file::{KeyFileError, load_or_create_key};
pub use liveness::{accepted, accepted_node, keep_alive};
pub use nat_file::NatFile;
pub use pin_file::{PinFile, PinFileError};
pub use pipe::{DatagramLayer, Duct, Half, Layer, MessageLayer, PipeInfo, ReadAhead, Relayed, Start, Wakers};
pub use ready::{Ready, SockWaker};
pub use secret::read_private;
pub use wrap::check_tls;

use std::io;

/// 32 bytes from the system's random source, for a node's seed or key.
///
/// # Errors
/// Where the system has no randomness to give.
pub fn random_seed() -> io::Result<[u8; 32]> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(io::Error::other)?;
    Ok(seed)
}
