//! Addresses of this machine as STUN servers (RFC 8489) report them, in a mio loop.
//!
//! A [`Query`] stands beside the loop's [`Pipes`], which have its socket. Give it their news and call
//! [`poll`](Query::poll) after each turn:
//!
//! ```no_run
//! use mio::{Events, Poll};
//! use p2pd_mio::messages::{Pipes, Protocol, Route, stun::Query};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(64));
//! let mut pipes = Pipes::new(poll.registry(), 0..1_000)?;
//! let mut query = Query::new(&mut pipes, ("stun.example", 3478), Route::V4, Protocol::Udp)?;
//! let mapping = loop {
//!     let wait = [pipes.timeout(), query.timeout()].into_iter().flatten().min();
//!     poll.poll(&mut events, wait)?;
//!     for event in &events {
//!         pipes.handle(event);
//!     }
//!     pipes.tick();
//!     while let Some(news) = pipes.poll() {
//!         if let Some(_yours) = query.take(news) { /* of another pipe */ }
//!     }
//!     if let Some(done) = query.poll(&mut pipes) {
//!         break done?;
//!     }
//! };
//! println!("{} is seen as {}", mapping.local, mapping.external);
//! # Ok(())
//! # }
//! ```

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use p2pd_sys::messages::stun::Question;
use p2pd_sys::messages::{Destination, OpenError, PipeOptions, Protocol, Route};

use super::{News, Pattern, PipeId, Pipes, RecvError, SubscriptionId};

#[doc(inline)]
pub use p2pd_sys::messages::stun::StunError;

/// A question to one STUN server: how it sees a new socket. Takes 3 s at most after the look-up and, over TCP, the
/// connect.
#[derive(Debug)]
pub struct Query {
    pipe: PipeId,
    subscription: SubscriptionId,
    question: Question,
    /// Time of the next request, or of giving up.
    next: Option<Instant>,
    failed: Option<OpenError>,
}

/// A pipe, and the address that the server saw. The mapping lives as long as the pipe, which is the user's from now on.
/// Where NATs give every socket one external end, others can be told of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: a socket and its two addresses.
pub struct Mapping {
    /// Local address of the socket; over UDP without an IP address where the route has none.
    pub local: SocketAddr,
    /// Address that the server saw.
    pub external: SocketAddr,
    /// The pipe, to the server.
    pub pipe: PipeId,
}

impl Query {
    /// Opens a socket among these pipes, by this route, and asks the server.
    ///
    /// # Errors
    /// The reason why nothing was begun.
    pub fn new(
        pipes: &mut Pipes,
        server: impl Into<Destination>,
        route: Route,
        protocol: Protocol,
    ) -> Result<Self, StunError> {
        let question = Question::new(protocol)?;
        let pipe = pipes.open(protocol, server, route, &PipeOptions::default()).map_err(StunError::Open)?;
        // The first subscription of a pipe.
        let subscription = pipes
            .subscribe(pipe, Pattern::ANY, Pattern::ANY)
            .map_err(|_| StunError::Io(io::ErrorKind::NotFound.into()))?;
        Ok(Query { pipe, subscription, question, next: None, failed: None })
    }

    /// Takes news of its pipe; others are given back.
    pub fn take(&mut self, news: News) -> Option<News> {
        match news {
            News::NotOpened(pipe, why) if pipe == self.pipe => self.failed = Some(why),
            News::Opened(pipe) | News::Writable(pipe) | News::Ended(pipe, _) if pipe == self.pipe => {}
            other => return Some(other),
        }
        None
    }

    /// Returns the longest wait before the next [`poll`](Self::poll), if there is one beside that of the pipes.
    pub fn timeout(&self) -> Option<Duration> {
        self.next.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Goes on as far as possible; the outcome once. After an error the pipe is closed.
    pub fn poll(&mut self, pipes: &mut Pipes) -> Option<Result<Mapping, StunError>> {
        let done = self.step(pipes)?;
        self.next = None;
        Some(match done {
            Ok(external) => {
                pipes.unsubscribe(self.pipe, self.subscription);
                let local = pipes.local_addr(self.pipe).unwrap_or(external);
                Ok(Mapping { local, external, pipe: self.pipe })
            }
            Err(why) => {
                pipes.close(self.pipe);
                Err(why)
            }
        })
    }

    fn step(&mut self, pipes: &mut Pipes) -> Option<Result<SocketAddr, StunError>> {
        if let Some(why) = self.failed.take() {
            return Some(Err(StunError::Open(why)));
        }
        // Not open yet, unless its user closed it.
        if pipes.local_addr(self.pipe).is_none() {
            let gone = pipes.waiting(self.pipe, self.subscription).is_none();
            return gone.then(|| Err(StunError::Io(io::ErrorKind::NotConnected.into())));
        }
        loop {
            match pipes.recv(self.pipe, self.subscription) {
                Ok(Some(message)) => {
                    let server = pipes.remote_addr(self.pipe) == Some(message.from);
                    if let Some(done) = server.then(|| self.question.heard(&message.data)).flatten() {
                        return Some(done);
                    }
                }
                Ok(None) => break,
                Err(RecvError::Ended(_)) => {
                    return Some(Err(StunError::Io(io::ErrorKind::UnexpectedEof.into())));
                }
                Err(RecvError::NoSuchSubscription | RecvError::TimedOut) => {
                    return Some(Err(StunError::Io(io::ErrorKind::NotConnected.into())));
                }
            }
        }
        if self.next.is_some_and(|at| at > Instant::now()) {
            return None;
        }
        match self.question.next_wait() {
            Ok(wait) => self.next = Some(Instant::now() + wait),
            Err(why) => return Some(Err(why)),
        }
        match pipes.send(self.pipe, self.question.request()) {
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => Some(Err(StunError::Io(e))),
            _ => None,
        }
    }
}
