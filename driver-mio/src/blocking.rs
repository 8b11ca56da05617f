//! A node for programs that have no loop: its calls block.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use mio::{Events, Poll};
use p2pd_core::{Config, Event, NodeId, PeerAddress, Plan, ToTarget};
use p2pd_sys::{BindError, ConnectError};

use crate::node::{News, Node};
use crate::pipe::Pipe;

/// Pipes that nobody has accepted yet; a further one is closed.
const ACCEPT_QUEUE: usize = 128;

/// A pipe whose reads and writes block.
pub type BlockingPipe = Pipe<std::net::TcpStream>;

/// A node that owns its loop, so that [`connect`](Self::connect) blocks until there is a pipe.
///
/// It is served only while one of its methods runs: between them it answers no peer and no broker. A program that
/// waits for something else calls [`serve`](Self::serve) now and then, at least every few seconds, or has
/// a thread that [`accept`](Self::accept)s.
#[derive(Debug)]
pub struct BlockingNode {
    poll: Poll,
    ready: Events,
    node: Node,
    incoming: VecDeque<BlockingPipe>,
    events: VecDeque<Event>,
}

impl BlockingNode {
    /// Brings a node up; when this returns it listens.
    ///
    /// # Errors
    /// An error of the configuration, or of a listener that could not be opened.
    pub fn bind(config: Config) -> Result<BlockingNode, BindError> {
        let poll = Poll::new().map_err(BindError::Loop)?;
        let node = Node::bind(config, poll.registry(), 0..usize::MAX)?;
        let (incoming, events) = (VecDeque::new(), VecDeque::new());
        Ok(BlockingNode { poll, ready: Events::with_capacity(256), node, incoming, events })
    }

    /// The node in the loop, to look at and to answer questions.
    pub fn node(&mut self) -> &mut Node {
        &mut self.node
    }

    /// The node's id.
    pub fn node_id(&self) -> NodeId {
        self.node.node_id()
    }

    /// The address to hand out. Blocks until outside addresses and brokers are settled, found or given up: at
    /// most about six seconds, usually a few round trips.
    ///
    /// # Errors
    /// The system's, of its poll.
    pub fn address(&mut self) -> io::Result<PeerAddress> {
        loop {
            if let Some(address) = self.node.address() {
                return Ok(address.clone());
            }
            self.turn(None)?;
        }
    }

    /// Opens a pipe by a plan, and blocks until there is one or none.
    ///
    /// # Errors
    /// The reason why there is no pipe, with a report of the attempts.
    pub fn connect<T: ToTarget + ?Sized>(
        &mut self,
        to: &T,
        plan: Plan,
    ) -> Result<BlockingPipe, ConnectError> {
        let lost = |e: &io::Error| ConnectError::Lost(p2pd_sys::failure(e));
        let call = self.node.connect(to, plan)?;
        loop {
            let mut outcome = None;
            self.turn_with(None, |news| match news {
                News::Opened(id, pipe) if id == call => outcome = Some(Ok(pipe)),
                News::NotOpened(id, why) if id == call => outcome = Some(Err(why)),
                _ => {}
            })
            .map_err(|e| lost(&e))?;
            match outcome {
                Some(Ok(pipe)) => return pipe.into_blocking().map_err(|e| lost(&e)),
                Some(Err(why)) => return Err(why),
                None => {}
            }
        }
    }

    /// Waits for the next pipe that a peer opens to this node; `None` after `within`, or for ever without. At most 128
    /// wait; further ones are closed.
    ///
    /// # Errors
    /// The system's, of its poll.
    pub fn accept(&mut self, within: Option<Duration>) -> io::Result<Option<BlockingPipe>> {
        let until = within.and_then(|within| Instant::now().checked_add(within));
        loop {
            if let Some(pipe) = self.incoming.pop_front() {
                return Ok(Some(pipe));
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(None);
            }
            self.turn(left)?;
        }
    }

    /// Serves peers and brokers for so long.
    ///
    /// # Errors
    /// The system's, of its poll.
    pub fn serve(&mut self, time: Duration) -> io::Result<()> {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            self.turn(Some(left))?;
            if left.is_zero() {
                return Ok(());
            }
        }
    }

    /// The next piece of news: progress of connects, state of brokers, questions. The last 1,024 are kept.
    pub fn event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Ends the node: brokers are told, sockets closed. Pipes live on.
    pub fn shutdown(mut self) {
        self.node.shutdown();
        while !self.node.is_over() {
            if self.turn(None).is_err() {
                return;
            }
        }
    }

    fn turn(&mut self, most: Option<Duration>) -> io::Result<()> {
        self.turn_with(most, |_| {})
    }

    /// Runs one turn of the loop, of at most this length. A call's outcome goes to `other`.
    fn turn_with(&mut self, most: Option<Duration>, mut other: impl FnMut(News)) -> io::Result<()> {
        let timeout = [self.node.timeout(), most].into_iter().flatten().min();
        match self.poll.poll(&mut self.ready, timeout) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
            _ => {}
        }
        for event in &self.ready {
            self.node.handle(event);
        }
        self.node.tick();
        while let Some(news) = self.node.poll() {
            match news {
                News::Incoming(pipe) if self.incoming.len() < ACCEPT_QUEUE => {
                    self.incoming.extend(pipe.into_blocking());
                }
                News::Incoming(_) => {}
                News::Event(event) => {
                    if self.events.len() == 1024 {
                        self.events.pop_front();
                    }
                    self.events.push_back(event);
                }
                outcome => other(outcome),
            }
        }
        Ok(())
    }
}
