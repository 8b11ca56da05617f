//! Messages beside a relayed pipe.

use std::io::{self, Read, Write};
use std::net::SocketAddr;

use p2pd_sys::MessageLayer;
use tokio::net::TcpStream;

/// Messages beside a relayed pipe, from [`Pipe::messages`](crate::Pipe::messages). They are reliable, and each is
/// delivered once. Their order among each other and to the pipe's bytes is not kept, and a pipe that nobody reads does
/// not hold them up. A message has 0 to 16,384 bytes. They live as long as the pipe: drop the pipe, and they end. On a
/// pipe that moves they stay with the relay; if the relay is lost they end while the pipe goes on.
///
/// [`MessagePipe::new`](crate::messages::MessagePipe::new) makes a pipe of them with queues, patterns and callbacks.
#[derive(Debug)]
pub struct Messages {
    stream: TcpStream,
    layer: MessageLayer,
    ends: (SocketAddr, SocketAddr),
}

struct Tried<'s>(&'s TcpStream);

impl Messages {
    pub(crate) fn new(
        stream: std::net::TcpStream,
        layer: MessageLayer,
        ends: (SocketAddr, SocketAddr),
    ) -> io::Result<Self> {
        Ok(Messages { stream: TcpStream::from_std(stream)?, layer, ends })
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
        while self.layer.send(&mut Tried(&self.stream), message).map(Some).or_else(blocked)?.is_none() {
            self.stream.writable().await?;
        }
        while self.layer.flush(&mut Tried(&self.stream)).map(Some).or_else(blocked)?.is_none() {
            self.stream.writable().await?;
        }
        Ok(())
    }

    /// Receives the next message. A future that is dropped before it is done has taken none.
    ///
    /// # Errors
    /// After the last message the reason why the pipe or its relay is gone; `UnexpectedEof`: the peer closed the pipe,
    /// or the pipe was dropped.
    pub async fn recv(&self) -> io::Result<Vec<u8>> {
        loop {
            match self.layer.receive(&mut Tried(&self.stream)).map(Some).or_else(blocked)? {
                Some(message) => return Ok(message),
                None => self.stream.readable().await?,
            }
        }
    }
}

fn blocked<T>(why: io::Error) -> io::Result<Option<T>> {
    if why.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(why) }
}

impl Read for Tried<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buf)
    }
}

impl Write for Tried<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.try_write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
