//! Messages beside a relayed pipe.

use std::io;
use std::net::{SocketAddr, TcpStream};

use async_io::Async;
use p2pd_sys::MessageLayer;

/// Messages beside a relayed pipe, from [`Pipe::messages`](crate::Pipe::messages). They are reliable, and each is
/// delivered once. Their order among each other and to the pipe's bytes is not kept, and a pipe that nobody reads does
/// not hold them up. A message has 0 to 16,384 bytes. They live as long as the pipe: drop the pipe, and they end. On a
/// pipe that moves they stay with the relay; if the relay is lost they end while the pipe goes on.
///
/// [`MessagePipe::new`](crate::messages::MessagePipe::new) makes a pipe of them with queues, patterns and callbacks.
#[derive(Debug)]
pub struct Messages {
    stream: Async<TcpStream>,
    layer: MessageLayer,
    ends: (SocketAddr, SocketAddr),
}

impl Messages {
    pub(crate) fn new(
        stream: TcpStream,
        layer: MessageLayer,
        ends: (SocketAddr, SocketAddr),
    ) -> io::Result<Self> {
        Ok(Messages { stream: Async::new(stream)?, layer, ends })
    }

    /// Returns the two ends of the pipe that these are beside, ours first.
    pub fn ends(&self) -> (SocketAddr, SocketAddr) {
        self.ends
    }

    /// Sends a message; waits while a few hundred kilobytes and 64 messages are on their way. Dropped before it is done
    /// it has sent the message not at all or whole, perhaps with the next one only.
    ///
    /// # Errors
    /// `InvalidInput` for one that is too long; why the pipe or its relay is gone.
    pub async fn send(&self, message: &[u8]) -> io::Result<()> {
        self.stream.write_with(|mut io| self.layer.send(&mut io, message)).await?;
        self.stream.write_with(|mut io| self.layer.flush(&mut io)).await
    }

    /// Receives the next message. A future that is dropped before it is done has taken none.
    ///
    /// # Errors
    /// After the last message the reason why the pipe or its relay is gone; `UnexpectedEof`: the peer closed the pipe,
    /// or the pipe was dropped.
    pub async fn recv(&self) -> io::Result<Vec<u8>> {
        self.stream.read_with(|mut io| self.layer.receive(&mut io)).await
    }
}
