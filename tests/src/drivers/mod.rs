//! Every driver behind the same calls, which block, so that one scenario runs on each.

mod async_std;
mod futures;
pub mod messages;
mod mio;
mod sessions;
mod tokio;

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use p2pd_core::{Config, PeerAddress, Plan, Stats, ToTarget};
use p2pd_sys::{BindError, ConnectError, PipeInfo};

pub use self::sessions::{Session, Stream};
pub use self::tokio::runtime;

/// A driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Driver {
    /// `p2pd-mio`, in a loop of its own.
    Mio,
    /// `p2pd-tokio`, on [`runtime`].
    Tokio,
    /// `p2pd-async-std`, on async-std's executor.
    AsyncStd,
}

impl Driver {
    /// List of the drivers.
    pub const ALL: [Driver; 3] = [Driver::Mio, Driver::Tokio, Driver::AsyncStd];

    /// Returns the driver's name: `mio`, `tokio`, `async-std`.
    pub const fn name(self) -> &'static str {
        match self {
            Driver::Mio => "mio",
            Driver::Tokio => "tokio",
            Driver::AsyncStd => "async-std",
        }
    }

    /// Brings a node up; with `trace`, every line of its trace goes there.
    ///
    /// # Errors
    /// The driver's.
    pub fn bind(self, config: Config, trace: Option<Trace>) -> Result<Box<dyn Node>, BindError> {
        match self {
            Driver::Mio => mio::bind(config, trace),
            Driver::Tokio => futures::bind::<p2pd_tokio::Tokio>(config, trace),
            Driver::AsyncStd => futures::bind::<p2pd_async_std::AsyncIo>(config, trace),
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Receiver of a trace's lines.
pub type Trace = Box<dyn FnMut(&str) + Send>;
/// Outcome of a connect.
pub type Outcome = Result<Box<dyn Pipe>, ConnectError>;

/// A running node of some driver. Dropping it ends it.
pub trait Node: Send + Sync {
    /// The address to hand out.
    fn address(&self) -> PeerAddress;
    /// Begins to open a pipe.
    ///
    /// # Errors
    /// The reason why nothing was begun.
    fn begin(&self, to: &dyn ToTarget, plan: Plan) -> Result<Box<dyn Call>, ConnectError>;
    /// The next pipe that a peer opens; `None` after that long or at the end of the node.
    fn accept(&self, within: Duration) -> Option<Box<dyn Pipe>>;
    /// Opens a session.
    ///
    /// # Errors
    /// The reason why there is none.
    fn connect_session(&self, to: &dyn ToTarget, plan: Plan) -> Result<Box<dyn Session>, ConnectError>;
    /// The next session that a peer opens; `None` after that long or at the end of the node.
    fn accept_session(&self, within: Duration) -> Option<Box<dyn Session>>;
    /// Returns the node's counters.
    fn stats(&self) -> Stats;
    /// Ends it, and waits for the end.
    fn shutdown(&self);

    /// Opens a pipe.
    ///
    /// # Errors
    /// The reason why there is none.
    fn connect(&self, to: &dyn ToTarget, plan: Plan) -> Outcome {
        self.begin(to, plan)?.wait()
    }
}

/// A connect under way. Dropping it gives it up.
pub trait Call: Send {
    /// Waits for the outcome.
    ///
    /// # Errors
    /// The reason why there is no pipe.
    fn wait(self: Box<Self>) -> Outcome;
}

/// A pipe of some driver, whose reads and writes block.
pub trait Pipe: Read + Write + Send {
    /// Ends our direction.
    ///
    /// # Errors
    /// The stream's.
    fn end(&mut self) -> io::Result<()>;
    /// Returns the properties of the pipe.
    fn info(&self) -> PipeInfo;
    /// The messages beside a relayed pipe.
    ///
    /// # Errors
    /// For one that is not relayed.
    fn messages(&mut self) -> io::Result<Box<dyn Messages>>;
    /// The bare socket of a plain pipe.
    ///
    /// # Errors
    /// For an encrypted one.
    fn into_std(self: Box<Self>) -> io::Result<TcpStream>;
}

/// Messages beside a relayed pipe, whose calls block.
pub trait Messages: Send + Sync {
    /// Sends one.
    ///
    /// # Errors
    /// The driver's.
    fn send(&self, message: &[u8]) -> io::Result<()>;
    /// The next one.
    ///
    /// # Errors
    /// The driver's.
    fn recv(&self) -> io::Result<Vec<u8>>;
}

impl fmt::Debug for dyn Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.info().fmt(f)
    }
}

impl fmt::Debug for dyn Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Node")
    }
}

impl fmt::Debug for dyn Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Call")
    }
}
