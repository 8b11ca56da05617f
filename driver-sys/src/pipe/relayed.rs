//! State that a relayed pipe's user and the engine share, in addition to the bytes.
//!
//! The core carries a relayed pipe's bytes itself. Its user gets one end of a local socket pair, or of a [`Duct`], and the
//! engine copies between the other end and the core. To every event loop that is a pipe like any other. A stream's end does
//! not carry the reason; this state does.
//!
//! The reasons: ADR 21 in docs/src/adr.

use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use p2pd_core::PipeEnd;

use super::duct::Duct;
use super::held::over_as_error;
use super::messages::MessageLayer;

#[derive(Debug, Default)]
pub(crate) struct Link {
    /// The user has ended its direction.
    ended: AtomicBool,
    /// The user has no pipe any more.
    dropped: AtomicBool,
    /// The peer has ended its direction, and all of it is in the socket.
    peer_ended: AtomicBool,
    over: Mutex<Option<PipeEnd>>,
    /// Messages that were not in the socket when it was closed, as frames.
    rest: Mutex<Vec<u8>>,
}

impl Link {
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    pub(crate) fn is_dropped(&self) -> bool {
        self.dropped.load(Ordering::Acquire)
    }

    pub(crate) fn peer_ends(&self) {
        self.peer_ended.store(true, Ordering::Release);
    }

    pub(crate) fn is_over(&self, why: PipeEnd) {
        self.over.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
    }

    pub(crate) fn leave_rest(&self, frames: Vec<u8>) {
        *self.rest.lock().unwrap_or_else(PoisonError::into_inner) = frames;
    }

    pub(super) fn take_rest(&self) -> Vec<u8> {
        std::mem::take(&mut *self.rest.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The error of a socket whose other end the engine has closed.
    pub(super) fn explain(&self, why: io::Error) -> io::Error {
        match *self.over.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(over) if why.kind() != io::ErrorKind::WouldBlock => over_as_error(over),
            _ => why,
        }
    }
}

/// The user's side of a link.
#[derive(Debug)]
pub struct Relayed {
    link: Arc<Link>,
    /// Socket of the messages, until the user takes them.
    messages: Option<TcpStream>,
    /// Way of the bytes, until the pipe's driver takes it.
    duct: Option<Duct>,
}

impl Relayed {
    pub(crate) fn new(messages: Option<TcpStream>, duct: Option<Duct>) -> (Self, Arc<Link>) {
        let link = Arc::new(Link::default());
        (Relayed { link: link.clone(), messages, duct }, link)
    }

    pub(super) fn take_duct(&mut self) -> Option<Duct> {
        self.duct.take()
    }

    /// Returns the messages' socket, which does not block, with its layer; once.
    pub(super) fn messages(&mut self) -> Option<(TcpStream, MessageLayer)> {
        Some((self.messages.take()?, MessageLayer::new(self.link.clone())))
    }

    pub(super) fn end(&self) {
        self.link.ended.store(true, Ordering::Release);
    }

    /// The socket's end was read: the peer's, or why there is none.
    pub(super) fn end_of_reading(&self) -> io::Result<usize> {
        if self.link.peer_ended.load(Ordering::Acquire) {
            return Ok(0);
        }
        Err(self.explain(io::ErrorKind::UnexpectedEof.into()))
    }

    /// The error of a socket whose other end the engine has closed.
    pub(super) fn explain(&self, why: io::Error) -> io::Error {
        self.link.explain(why)
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        self.link.dropped.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_the_peers_or_says_why_it_is_not() {
        let (user, link) = Relayed::new(None, None);
        assert_eq!(user.end_of_reading().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        link.is_over(PipeEnd::ServerForgot);
        link.is_over(PipeEnd::Shutdown);
        let why = user.end_of_reading().unwrap_err();
        assert_eq!(
            (why.kind(), why.to_string()),
            (io::ErrorKind::ConnectionReset, PipeEnd::ServerForgot.to_string())
        );
        let blocked = user.explain(io::ErrorKind::WouldBlock.into());
        assert_eq!(blocked.kind(), io::ErrorKind::WouldBlock);
        link.peer_ends();
        assert_eq!(user.end_of_reading().unwrap(), 0);
        assert!(!link.has_ended() && !link.is_dropped());
        user.end();
        drop(user);
        assert!(link.has_ended() && link.is_dropped());
    }
}
