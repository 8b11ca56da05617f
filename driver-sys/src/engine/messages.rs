//! Messages beside relayed pipes, and datagrams of allocations: copies between the core and a socket pair of their own.

use std::io::{self, Read};

use p2pd_core::relay::MessageError;
use p2pd_core::trace::Recorder;
use p2pd_core::{Instant, PipeId, SockId};

use super::Reactor;
use crate::pipe::{frame_length, put_address, put_frame, take_address};

/// Messages copied in each direction before others have their turn.
const ROUNDS: usize = 64;

/// The engine's end of the pair.
#[derive(Debug)]
pub(super) struct Post<S> {
    pub(super) sock: SockId,
    kind: Kind,
    stream: S,
    /// Frames for the user, and how much of them is gone.
    inbound: Vec<u8>,
    gone: usize,
    /// Bytes from the user that are no whole frame yet, or that the core has no room for.
    outbound: Vec<u8>,
    /// True once the user takes no more messages; further ones stay with the core, and the peer waits.
    deaf: bool,
}

/// Content of the frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Messages to the one peer.
    Messages,
    /// Datagrams, each with an address before it.
    Datagrams,
}

impl Kind {
    fn read(self, core: &mut Recorder, now: Instant, pipe: PipeId) -> Option<Vec<u8>> {
        match self {
            Kind::Messages => core.pipe_read_message(now, pipe).map(Vec::from),
            Kind::Datagrams => core.pipe_recv_from(now, pipe).map(|(from, data)| put_address(from, &data)),
        }
    }

    fn send(
        self,
        core: &mut Recorder,
        now: Instant,
        pipe: PipeId,
        message: &[u8],
    ) -> Result<(), MessageError> {
        match (self, take_address(message)) {
            (Kind::Messages, _) => core.pipe_send_message(now, pipe, message.to_vec().into()),
            (Kind::Datagrams, Some((to, data))) => {
                // A network drops what cannot go, too.
                let _ = core.pipe_send_to(now, pipe, to, data);
                Ok(())
            }
            (Kind::Datagrams, None) => Ok(()),
        }
    }
}

impl<S> Post<S> {
    /// The post of a relayed pipe's messages.
    pub(super) fn messages(sock: SockId, stream: S) -> Self {
        Post::new(sock, stream, Kind::Messages)
    }

    /// The post of an allocation.
    pub(super) fn datagrams(sock: SockId, stream: S) -> Self {
        Post::new(sock, stream, Kind::Datagrams)
    }

    fn new(sock: SockId, stream: S, kind: Kind) -> Self {
        let (inbound, outbound) = (Vec::new(), Vec::new());
        Post { sock, kind, stream, inbound, gone: 0, outbound, deaf: false }
    }

    /// Copies as far as both sides let it; whether there may be more at once. An error: the user takes and sends none
    /// any more.
    pub(super) fn carry<R: Reactor<Stream = S>>(
        &mut self,
        core: &mut Recorder,
        now: Instant,
        pipe: PipeId,
        buffer: &mut [u8],
    ) -> io::Result<bool> {
        let inward = !self.deaf && self.inward::<R>(core, now, pipe);
        let outward = self.outward(R::read, core, now, pipe, buffer)?;
        Ok(inward || outward)
    }

    /// Hands over what a user has sent who is gone, past the runtime: it may not know yet that something is there. Returns true
    /// if that is all.
    pub(super) fn carry_last<R: Reactor<Stream = S>>(
        &mut self,
        core: &mut Recorder,
        now: Instant,
        pipe: PipeId,
        buffer: &mut [u8],
    ) -> bool {
        let read = |stream: &mut S, buffer: &mut [u8]| (&*R::socket(stream)).read(buffer);
        let outward = self.outward(read, core, now, pipe, buffer);
        let full = frame_length(&self.outbound).is_some_and(|n| n <= self.outbound.len());
        !full && !matches!(outward, Ok(true))
    }

    /// Returns the messages that the user has not got, as frames.
    pub(super) fn rest(mut self, core: &mut Recorder, now: Instant, pipe: PipeId) -> Vec<u8> {
        let mut rest = self.inbound.split_off(self.gone);
        while let Some(message) = self.kind.read(core, now, pipe) {
            put_frame(&mut rest, &message);
        }
        rest
    }

    fn inward<R: Reactor<Stream = S>>(&mut self, core: &mut Recorder, now: Instant, pipe: PipeId) -> bool {
        for _ in 0..ROUNDS {
            if self.gone == self.inbound.len() {
                let Some(message) = self.kind.read(core, now, pipe) else { return false };
                self.inbound.clear();
                self.gone = 0;
                put_frame(&mut self.inbound, &message);
            }
            match R::write(&mut self.stream, &self.inbound[self.gone..]) {
                Ok(n) => self.gone += n,
                Err(e) => {
                    self.deaf = e.kind() != io::ErrorKind::WouldBlock;
                    return false;
                }
            }
        }
        true
    }

    fn outward(
        &mut self,
        read: impl Fn(&mut S, &mut [u8]) -> io::Result<usize>,
        core: &mut Recorder,
        now: Instant,
        pipe: PipeId,
        buffer: &mut [u8],
    ) -> io::Result<bool> {
        for _ in 0..ROUNDS {
            while let Some(length) = frame_length(&self.outbound).filter(|n| *n <= self.outbound.len()) {
                match self.kind.send(core, now, pipe, &self.outbound[2..length]) {
                    Ok(()) => drop(self.outbound.drain(..length)),
                    // The core says when there is room.
                    Err(MessageError::Full) => return Ok(false),
                    Err(e) => return Err(io::Error::other(e)),
                }
            }
            match read(&mut self.stream, buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.outbound.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }
}
