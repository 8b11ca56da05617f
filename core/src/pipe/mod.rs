//! What the user gets: a pipe to a peer, and how its bytes look on the wire.

mod echo;
mod record;

pub mod moving;
pub mod subscriptions;

use core::fmt;
use core::time::Duration;
use std::net::SocketAddr;

use smallvec::SmallVec;

pub use echo::echo_reply;
pub use record::{MAX_PLAIN, MAX_RECORD, Opened, Opener, RecordError, Sealer};

use crate::identity::NodeId;
use crate::notice::{ConnectId, Strategy};

/// What protects a pipe's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PipeMode {
    /// Sealed records: nobody on the path can read or change a byte, nor cut the end off unnoticed.
    #[default]
    Encrypted,
    /// Both ends proved who they are, then the stream is a bare TCP stream: readable and changeable on the
    /// path, and free to be handed to code that knows nothing of us.
    Plain,
}

impl PipeMode {
    /// Its byte in the hello and in signalling.
    pub(crate) const fn code(self) -> u8 {
        match self {
            PipeMode::Encrypted => 0,
            PipeMode::Plain => 1,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(PipeMode::Encrypted),
            1 => Some(PipeMode::Plain),
            _ => None,
        }
    }
}

impl fmt::Display for PipeMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PipeMode::Encrypted => "encrypted",
            PipeMode::Plain => "plain",
        })
    }
}

/// The keys of a detached stream, or none for a plain one.
#[derive(Debug)]
pub enum PipeKeys {
    /// Seal and open each record with these.
    Encrypted(Sealer, Opener),
    /// Read and write the stream as it is.
    Plain,
}

/// A stream that has become the user's.
#[derive(Debug)]
pub struct PipeStart {
    /// The calls of `connect()` that it answers; empty for a peer's connection to us.
    pub answers: SmallVec<[ConnectId; 1]>,
    /// The authenticated peer.
    pub peer: NodeId,
    /// The strategy that gave it; on the accepting side the one that the peer used.
    pub strategy: Strategy,
    /// Our end of the TCP stream.
    pub local: SocketAddr,
    /// The peer's end, as we see it.
    pub remote: SocketAddr,
    /// From the call of `connect()`, or from the peer's first sign, to now.
    pub elapsed: Duration,
    /// How to read and write it.
    pub keys: PipeKeys,
}

impl PipeStart {
    /// The mode that the keys belong to.
    pub fn mode(&self) -> PipeMode {
        match self.keys {
            PipeKeys::Encrypted(..) => PipeMode::Encrypted,
            PipeKeys::Plain => PipeMode::Plain,
        }
    }
}
