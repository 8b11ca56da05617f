//! Sessions: streams and datagrams between two nodes, which go on when the connection under them changes.

mod pump;
mod sessions;
mod shared;
mod stream;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use event_listener::Event;
use p2pd_core::NodeId;
use p2pd_core::pipe::session::{Direction, MAX_DATAGRAM, OpenError, SessionEnd, Side};
use p2pd_sys::PipeInfo;
use p2pd_sys::session::SessionError;

pub(crate) use pump::{Caller, Pump, Role};
pub(crate) use sessions::Sessions;
pub(crate) use shared::Shared;
pub use stream::{RecvStream, SendStream};

use shared::Owner;

/// A session with a peer: streams and datagrams over a connection that may break, and is then replaced. Clones are
/// handles to the same one.
///
/// The end that called calls again when the connection breaks, or the address under it goes. What was written arrives
/// once and in order. Datagrams that were under way are lost. The session is given up after a minute without a
/// connection, or as the node's [`Builder::session`](crate::Builder::session) says.
///
/// When the last handle and stream is dropped, what was written still goes, for 60 s at most. Then the session is closed
/// with code 0.
#[derive(Clone)]
pub struct Session {
    owner: Arc<Owner>,
}

impl Session {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Session { owner: Owner::new(shared) }
    }

    /// Returns the peer's proven id.
    pub fn peer(&self) -> NodeId {
        self.shared().peer
    }

    /// Returns whether this end called the other.
    pub fn side(&self) -> Side {
        self.shared().side
    }

    /// Opens a stream of both directions, with a protocol tag of at most 255 bytes, which may be empty. The peer hears of
    /// it with the first bytes. Waits while the peer allows no more streams.
    ///
    /// # Errors
    /// `TooLong` for the tag; the end of the session.
    pub async fn open_bi(&self, tag: &[u8]) -> Result<(SendStream, RecvStream), SessionError> {
        let id = self.open(Direction::Both, tag).await?;
        let tag = Bytes::copy_from_slice(tag);
        Ok((SendStream::new(&self.owner, id, tag.clone()), RecvStream::new(&self.owner, id, tag)))
    }

    /// Opens a stream on which this end sends, as [`open_bi`](Self::open_bi) does.
    ///
    /// # Errors
    /// As [`open_bi`](Self::open_bi).
    pub async fn open_uni(&self, tag: &[u8]) -> Result<SendStream, SessionError> {
        let id = self.open(Direction::One, tag).await?;
        Ok(SendStream::new(&self.owner, id, Bytes::copy_from_slice(tag)))
    }

    async fn open(
        &self,
        direction: Direction,
        tag: &[u8],
    ) -> Result<p2pd_core::pipe::session::StreamId, SessionError> {
        loop {
            let changed = self.shared().may_open.listen();
            match self.shared().act(|session, now| session.open(now, direction, tag)) {
                Ok(id) => return Ok(id),
                Err(OpenError::TooMany) => changed.await,
                Err(OpenError::TagTooLong) => return Err(SessionError::TooLong),
                Err(_) => return Err(self.shared().over()),
            }
        }
    }

    /// Waits for a stream of both directions that the peer opens.
    ///
    /// # Errors
    /// The end of the session, after the streams that had come.
    pub async fn accept_bi(&self) -> Result<(SendStream, RecvStream), SessionError> {
        let (id, tag) = self.accept(Direction::Both).await?;
        Ok((SendStream::new(&self.owner, id, tag.clone()), RecvStream::new(&self.owner, id, tag)))
    }

    /// Waits for a stream on which the peer sends.
    ///
    /// # Errors
    /// As [`accept_bi`](Self::accept_bi).
    pub async fn accept_uni(&self) -> Result<RecvStream, SessionError> {
        let (id, tag) = self.accept(Direction::One).await?;
        Ok(RecvStream::new(&self.owner, id, tag))
    }

    async fn accept(
        &self,
        direction: Direction,
    ) -> Result<(p2pd_core::pipe::session::StreamId, Bytes), SessionError> {
        let opened = match direction {
            Direction::Both => &self.shared().opened[0],
            Direction::One => &self.shared().opened[1],
        };
        self.wait(opened, |shared| shared.act(|session, _| session.accept(direction))).await
    }

    /// Waits until there is something, or the session is over.
    async fn wait<T>(&self, change: &Event, look: impl Fn(&Shared) -> Option<T>) -> Result<T, SessionError> {
        loop {
            let changed = change.listen();
            let over = self.shared().end();
            if let Some(found) = look(self.shared()) {
                return Ok(found);
            }
            if let Some(why) = over {
                return Err(SessionError::Ended(why));
            }
            changed.await;
        }
    }

    /// Sends a datagram of at most 1,200 bytes, which may be lost. Does not wait: if the connection is slow, the oldest
    /// that wait are dropped.
    ///
    /// # Errors
    /// `TooLong`; the end of the session.
    pub fn send_datagram(&self, data: Bytes) -> Result<(), SessionError> {
        if data.len() > MAX_DATAGRAM {
            return Err(SessionError::TooLong);
        }
        match self.shared().act(|session, now| session.send_datagram(now, data)) {
            true => Ok(()),
            false => Err(self.shared().over()),
        }
    }

    /// Waits for a datagram. If nobody reads them, the oldest are dropped.
    ///
    /// # Errors
    /// The end of the session, after the datagrams that had come.
    pub async fn read_datagram(&self) -> Result<Bytes, SessionError> {
        self.wait(&self.shared().datagram, |shared| shared.act(|session, _| session.read_datagram())).await
    }

    /// Returns the connection under the session; `None` while there is none.
    pub fn carrier(&self) -> Option<PipeInfo> {
        self.shared().carrier().1
    }

    /// Returns how often the session has moved to another connection.
    pub fn moves(&self) -> u64 {
        self.shared().carrier().0
    }

    /// Waits until the session moves to another connection, or has lost its last one, and returns what is under it then.
    ///
    /// # Errors
    /// The end of the session.
    pub async fn moved(&self) -> Result<Option<PipeInfo>, SessionError> {
        let before = self.shared().changes();
        self.wait(&self.shared().moved, |shared| (shared.changes() != before).then(|| shared.carrier().1))
            .await
    }

    /// Returns the round trip to the peer, as last measured.
    pub fn round_trip(&self) -> Option<Duration> {
        self.shared().act(|session, _| session.round_trip())
    }

    /// Waits until all that was written on any stream has arrived at the peer.
    ///
    /// # Errors
    /// The end of the session.
    pub async fn delivered(&self) -> Result<(), SessionError> {
        let arrived = |shared: &Shared| {
            shared.act(|session, _| (!session.is_over() && session.is_delivered()).then_some(()))
        };
        self.wait(&self.shared().delivered, arrived).await
    }

    /// Closes the session at once: what has not arrived is lost. The peer gets the code, and at most 255 bytes of the
    /// reason.
    pub fn close(&self, code: u32, reason: &[u8]) {
        self.shared().act(|session, now| session.close(now, code, reason));
    }

    /// Waits for the end of the session.
    pub async fn closed(&self) -> SessionEnd {
        let over = &self.shared().ended;
        loop {
            let changed = over.listen();
            if let Some(why) = self.shared().end() {
                return why;
            }
            changed.await;
        }
    }

    fn shared(&self) -> &Shared {
        self.owner.shared()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("peer", &self.peer())
            .field("end", &self.shared().end())
            .finish_non_exhaustive()
    }
}
