//! Messages beside a relayed pipe.

use std::io;
use std::net::SocketAddr;

use mio::net::TcpStream;
use p2pd_sys::MessageLayer;

use crate::source::delegate_source;

/// Messages beside a relayed pipe, from [`Pipe::messages`](crate::Pipe::messages). They are reliable, and each is
/// delivered once. Their order among each other and to the pipe's bytes is not kept, and a pipe that nobody reads does
/// not hold them up. A message has 0 to 16,384 bytes. They live as long as the pipe: drop the pipe, and they end.
///
/// [`Pipes::add`](crate::messages::Pipes::add) makes a pipe of them with queues and patterns. Else they are an event
/// source beside the pipe's own, to be registered under a token of yours; of a
/// [`BlockingPipe`](crate::BlockingPipe) its calls block.
#[derive(Debug)]
pub struct Messages<S = TcpStream> {
    stream: S,
    layer: MessageLayer,
    ends: (SocketAddr, SocketAddr),
}

impl<S> Messages<S> {
    pub(crate) fn new(stream: S, layer: MessageLayer, ends: (SocketAddr, SocketAddr)) -> Self {
        Messages { stream, layer, ends }
    }

    /// Returns the two ends of the pipe that these are beside, ours first.
    pub fn ends(&self) -> (SocketAddr, SocketAddr) {
        self.ends
    }

    /// Returns true if a part of a message waits to be sent, by [`flush`](Self::flush) when the stream becomes
    /// writable.
    pub fn wants_write(&self) -> bool {
        self.layer.waits()
    }
}

macro_rules! calls {
    ($stream:ty) => {
        impl Messages<$stream> {
            /// Sends a message, whole or not at all.
            ///
            /// # Errors
            /// `WouldBlock` where it does not block: too much is on its way, so call it again when it is writable.
            /// `InvalidInput` for one that is too long; why the pipe or its relay is gone.
            pub fn send(&self, message: &[u8]) -> io::Result<()> {
                self.layer.send(&mut &self.stream, message)
            }

            /// Sends the waiting part of a message.
            ///
            /// # Errors
            /// As [`send`](Self::send).
            pub fn flush(&self) -> io::Result<()> {
                self.layer.flush(&mut &self.stream)
            }

            /// Receives the next message.
            ///
            /// # Errors
            /// `WouldBlock` where it does not block, for none yet; after the last message the reason why the pipe or
            /// its relay is gone.
            pub fn recv(&self) -> io::Result<Vec<u8>> {
                self.layer.receive(&mut &self.stream)
            }
        }
    };
}

calls!(TcpStream);
calls!(std::net::TcpStream);

delegate_source!(Messages, it => it.stream);
