//! Sessions of every driver behind the same calls, which block.

use std::io::{self, Read, Write};

use p2pd_core::pipe::session::SessionEnd;

/// A session of some driver.
pub trait Session: Send + Sync {
    /// Opens a stream, of both directions or of one.
    ///
    /// # Errors
    /// The driver's.
    fn open(&self, both: bool, tag: &[u8]) -> io::Result<Box<dyn Stream>>;
    /// Waits for a stream that the peer opens.
    ///
    /// # Errors
    /// The end of the session.
    fn accept(&self, both: bool) -> io::Result<Box<dyn Stream>>;
    /// Sends a datagram.
    ///
    /// # Errors
    /// The driver's.
    fn send_datagram(&self, data: &[u8]) -> io::Result<()>;
    /// Waits for a datagram.
    ///
    /// # Errors
    /// The end of the session.
    fn read_datagram(&self) -> io::Result<Vec<u8>>;
    /// Returns how often it has moved to another connection.
    fn moves(&self) -> u64;
    /// Waits until all has arrived.
    fn delivered(&self);
    /// Closes it at once.
    fn close(&self, code: u32, reason: &[u8]);
    /// Waits for its end.
    fn closed(&self) -> SessionEnd;
}

/// A stream of a session, whose reads and writes block. Dropping it finishes and stops it.
pub trait Stream: Read + Write + Send {
    /// Ends our direction.
    fn finish(&mut self);
    /// Gives our direction up.
    fn reset(&mut self, code: u32);
    /// Wants no more of the peer's direction.
    fn stop(&mut self, code: u32);
    /// The protocol tag.
    fn tag(&self) -> Vec<u8>;
}
