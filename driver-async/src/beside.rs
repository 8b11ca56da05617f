//! Messages beside a relayed pipe.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;

use async_lock::Mutex;
use p2pd_sys::MessageLayer;

use crate::carrier::{IntoSocket, Socket};
use crate::runtime::Runtime;
use crate::tcp::{Tried, poll_io};

/// Messages beside a relayed pipe, from the pipe's `messages`. They are reliable, and each is delivered once. Their
/// order among each other and to the pipe's bytes is not kept, and a pipe that nobody reads does not hold them up. A
/// message has 0 to 16,384 bytes. They live as long as the pipe: drop the pipe, and they end.
///
/// [`MessagePipe::new`](crate::MessagePipe::new) makes a pipe of them with queues, patterns and callbacks.
#[derive(Debug)]
pub struct Messages<R: Runtime> {
    stream: R::Tcp,
    layer: MessageLayer,
    ends: (SocketAddr, SocketAddr),
    /// Turns of the tasks that send and of those that receive: the stream remembers one waker of each.
    turns: [Mutex<()>; 2],
}

impl<R: Runtime> Messages<R> {
    pub(crate) fn new(stream: R::Tcp, layer: MessageLayer, ends: (SocketAddr, SocketAddr)) -> Self {
        Messages { stream, layer, ends, turns: Default::default() }
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
        let _turn = self.turns[0].lock().await;
        self.writing(|io| self.layer.send(io, message)).await?;
        self.writing(|io| self.layer.flush(io)).await
    }

    /// Receives the next message. A future that is dropped before it is done has taken none.
    ///
    /// # Errors
    /// After the last message the reason why the pipe or its relay is gone; `UnexpectedEof`: the peer closed the pipe,
    /// or the pipe was dropped.
    pub async fn recv(&self) -> io::Result<Vec<u8>> {
        let _turn = self.turns[1].lock().await;
        let stream = &self.stream;
        let mut receive = || self.layer.receive(&mut Tried::<R>(stream));
        poll_fn(|cx| poll_io(cx, &mut receive, |cx| R::poll_readable(stream, cx))).await
    }

    async fn writing(&self, mut work: impl FnMut(&mut Tried<'_, R>) -> io::Result<()>) -> io::Result<()> {
        let stream = &self.stream;
        let mut write = || work(&mut Tried(stream));
        poll_fn(|cx| poll_io(cx, &mut write, |cx| R::poll_writable(stream, cx))).await
    }
}

impl<R: Runtime> IntoSocket<R> for Messages<R> {
    fn into_socket(self) -> io::Result<Socket<R>> {
        Ok(Socket::Beside(Box::new(self)))
    }
}
