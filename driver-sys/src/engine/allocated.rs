//! Allocations at TURN servers: copies between the core and the socket whose other end is the user's.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use p2pd_core::{Allocate, AllocateError, Instant, PipeEnd, PipeId, PipeNews, SockId};

use super::messages::Post;
use super::{Engine, News, Reactor, Sock, Step};
use crate::pipe::{DatagramLayer, Link};
use crate::socket;

/// Bytes copied at a time.
const CHUNK: usize = 64 * 1024;

/// An allocation of a user's.
#[derive(Debug)]
pub(super) struct Allocated<S> {
    pipe: PipeId,
    link: Arc<Link>,
    post: Post<S>,
}

impl<R: Reactor> Engine<R> {
    /// Begins to ask TURN servers for a relayed address, as [`p2pd_core::Node::allocate`].
    ///
    /// # Errors
    /// As there.
    pub fn allocate(&mut self, wish: &Allocate) -> Result<PipeId, AllocateError> {
        let id = self.core.allocate(self.clock.now(), wish);
        self.settle();
        id
    }

    /// Gives up asking for a relayed address. Servers are told, and nothing is said of it any more.
    pub fn cancel_allocate(&mut self, pipe: PipeId) {
        self.core.pipe_close(self.clock.now(), pipe);
        self.settle();
    }

    pub(super) fn open_allocation(&mut self, pipe: PipeId, relayed: (SocketAddr, Option<SocketAddr>)) {
        let sock = SockId::accepted(self.accepted);
        self.accepted += 1;
        let pair: std::io::Result<(R::Stream, TcpStream)> = socket::pair().and_then(|(ours, theirs)| {
            let stream = self.reactor.stream(sock, ours)?;
            Ok((stream, theirs))
        });
        match pair {
            Ok((ours, theirs)) => {
                let link = Arc::new(Link::default());
                let layer = DatagramLayer::new(relayed, link.clone());
                let allocated = Allocated { pipe, link, post: Post::datagrams(sock, ours) };
                self.socks.insert(sock, Sock::Allocated(Box::new(allocated)));
                self.bridges.insert(pipe, sock);
                self.steps.push_back(Step::Work(sock));
                self.news.push_back(News::Allocated(pipe, theirs, Box::new(layer)));
            }
            Err(why) => {
                // Out of descriptors: there is no allocation then.
                self.core.pipe_close(self.clock.now(), pipe);
                let why = AllocateError::Failed(why.to_string().into());
                self.news.push_back(News::NotAllocated(pipe, why));
            }
        }
    }

    /// Takes in news of an allocation. Returns false if it is another pipe.
    pub(super) fn allocation_news(&mut self, sock: SockId, news: PipeNews) -> bool {
        let Some(Sock::Allocated(allocated)) = self.socks.get_mut(&sock) else { return false };
        if let PipeNews::Ended(why) = news {
            allocated.link.is_over(why);
            let now = self.clock.now();
            self.work_allocated(now, sock);
            self.close_allocated(now, sock);
        } else {
            self.steps.push_back(Step::Work(sock));
        }
        true
    }

    /// Copies as far as both sides let it.
    pub(super) fn work_allocated(&mut self, now: Instant, sock: SockId) {
        let Engine { core, socks, buffer, .. } = self;
        let Some(Sock::Allocated(allocated)) = socks.get_mut(&sock) else { return };
        buffer.resize(buffer.len().max(CHUNK), 0);
        match allocated.post.carry::<R>(core, now, allocated.pipe, &mut buffer[..CHUNK]) {
            Ok(true) => self.again.push(sock),
            Ok(false) => {}
            // The user has dropped it.
            Err(_) => self.close_allocated(now, sock),
        }
    }

    /// Ends all allocations with the node.
    pub(super) fn end_allocated(&mut self, now: Instant) {
        let all = self.socks.iter().filter(|(_, s)| matches!(s, Sock::Allocated(_))).map(|(id, _)| *id);
        for sock in all.collect::<Vec<_>>() {
            if let Some(Sock::Allocated(allocated)) = self.socks.get(&sock) {
                allocated.link.is_over(PipeEnd::Shutdown);
            }
            self.work_allocated(now, sock);
            self.close_allocated(now, sock);
        }
    }

    fn close_allocated(&mut self, now: Instant, sock: SockId) {
        if let Some(Sock::Allocated(allocated)) = self.socks.get(&sock) {
            let pipe = allocated.pipe;
            self.remove(sock);
            self.bridges.remove(&pipe);
            self.core.pipe_close(now, pipe);
        }
    }
}
