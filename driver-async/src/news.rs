//! Events of a node, and pipes that peers open.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_broadcast::RecvError;
use async_channel::Receiver;
use futures_core::Stream;
use p2pd_core::Event;

use crate::node::Node;
use crate::runtime::Runtime;

/// Events of a node from one time on, from [`Node::events`]. They are a stream, too, and end with [`Event::Closed`].
#[derive(Clone, Debug)]
pub struct Events(pub(crate) async_broadcast::Receiver<Event>);

/// Number of events that a reader has lost since it was too slow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: a number with a name.
pub struct Lost(pub u64);

/// Pipes that peers open to a node, from [`Node::incoming`].
#[derive(Debug)]
pub struct Incoming<R: Runtime> {
    pub(crate) pipes: Pin<Box<Receiver<R::Pipe>>>,
    pub(crate) _node: Node<R>,
}

impl Events {
    /// Waits for the next one; `None` once the node has ended. A reader that was too slow hears once how many it has lost.
    /// Giving up waiting loses nothing.
    pub async fn recv(&mut self) -> Option<Result<Event, Lost>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for Events {
    type Item = Result<Event, Lost>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.0).poll_recv(cx).map(|news| match news? {
            Ok(event) => Some(Ok(event)),
            Err(RecvError::Overflowed(lost)) => Some(Err(Lost(lost))),
            Err(RecvError::Closed) => None,
        })
    }
}

impl<R: Runtime> Stream for Incoming<R> {
    type Item = R::Pipe;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<R::Pipe>> {
        self.pipes.as_mut().poll_next(cx)
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} events were lost: they came faster than they were read", self.0)
    }
}

impl std::error::Error for Lost {}
