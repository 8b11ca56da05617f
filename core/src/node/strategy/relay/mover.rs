//! State of a relayed pipe that may move, apart from its QUIC stream.

use core::fmt;
use std::net::SocketAddr;

use bytes::{Buf, Bytes};

use crate::call::Strategy;
use crate::cx::Cx;
use crate::io::{CloseHow, SockId};
use crate::pipe::moving::{CarrierId, CarrierKind, Mover, MoverConfig};
use crate::pipe::{MAX_RECORD, Opened, Opener, PipeEnd, Sealer};
use crate::relay::{ReadOutcome, RelayStream};
use crate::time::Instant;

pub(super) const RELAY: CarrierId = CarrierId(0);

pub(super) const DIRECT: CarrierId = CarrierId(1);

/// Bytes of a direct stream that the driver may read ahead of us.
pub(super) const CREDIT: u32 = 128 * 1024;

/// Bytes after which the driver is asked to say when the system has taken them.
pub(super) const AHEAD: usize = 64 * 1024;

pub(super) struct Moving {
    pub(super) mover: Mover,
    /// Frames that the relay's stream has no room for yet.
    pub(super) waiting: Bytes,
    pub(super) direct: Option<Direct>,
    /// Carrier of its bytes, as the user was told.
    pub(super) told: CarrierId,
    /// The way of the direct stream, also when it has broken.
    pub(super) way: Option<Way>,
    /// Reason that the relay is gone.
    pub(super) lost: Option<PipeEnd>,
    /// The pipe's end was told: either carrier may bring it.
    pub(super) over: bool,
    /// True if we called: the peer stays named as long as the pipe looks for ways.
    pub(super) names: bool,
    pub(super) scratch: Vec<u8>,
}

/// The direct stream.
pub(super) struct Direct {
    pub(super) sock: SockId,
    pub(super) sealer: Sealer,
    pub(super) opener: Opener,
    /// The beginning of a record.
    pub(super) sealed: Vec<u8>,
    /// Bytes given since the driver was asked last.
    pub(super) given: usize,
    /// True if the driver was asked, and has not said that the bytes are taken.
    pub(super) asked: bool,
}

impl Moving {
    pub(super) fn new(now: Instant) -> Self {
        let mut mover = Mover::new(MoverConfig::default(), now);
        // The first of four.
        let _ = mover.attach(now, RELAY, CarrierKind::Relayed);
        Moving {
            mover,
            waiting: Bytes::new(),
            direct: None,
            told: RELAY,
            way: None,
            lost: None,
            over: false,
            names: false,
            scratch: vec![0; MAX_RECORD],
        }
    }

    /// Returns true if the relay is there still, and messages with it.
    pub(super) fn has_relay(&self) -> bool {
        self.lost.is_none()
    }

    /// Takes the bytes that the relay's stream has brought, and gives each carrier as many as it can take.
    pub(super) fn carry(&mut self, cx: &mut Cx, stream: Option<&mut RelayStream>) {
        if let Some(stream) = stream.filter(|_| self.lost.is_none()) {
            while let ReadOutcome::Read(n) = stream.read(cx.now, &mut self.scratch) {
                // A violation is told by the mover's own event.
                let _ = self.mover.handle_bytes(cx.now, RELAY, &self.scratch[..n]);
            }
            loop {
                if self.waiting.is_empty() {
                    let Some(frames) = self.mover.poll_output(cx.now, RELAY) else { break };
                    self.waiting = frames;
                }
                let taken = stream.write(cx.now, &self.waiting);
                self.waiting.advance(taken);
                if !self.waiting.is_empty() {
                    break;
                }
            }
        }
        while let Some(direct) = self.direct.as_mut().filter(|d| !d.asked)
            && let Some(frames) = self.mover.poll_output(cx.now, DIRECT)
        {
            if !direct.send(cx, &frames) {
                self.drop_direct(cx, CloseHow::Drop);
            }
        }
    }

    /// Tells the peer on every carrier that it is over.
    pub(super) fn close(&mut self, cx: &mut Cx) {
        self.mover.close(cx.now);
        if let Some(direct) = &mut self.direct {
            direct.asked = false;
            if let Some(frames) = self.mover.poll_output(cx.now, DIRECT) {
                direct.send(cx, &frames);
            }
        }
        self.drop_direct(cx, CloseHow::Graceful);
    }

    /// Opens the records that are whole. False: the stream is of no use any more.
    pub(super) fn receive(&mut self, now: Instant, data: &[u8]) -> bool {
        let Some(direct) = &mut self.direct else { return true };
        direct.sealed.extend_from_slice(data);
        let mut at = 0;
        let good = loop {
            match direct.opener.open(&mut direct.sealed[at..]) {
                Ok(Opened::Data { consumed, plain }) => {
                    let _ = self.mover.handle_bytes(now, DIRECT, &direct.sealed[at..][plain]);
                    at += consumed;
                }
                Ok(Opened::Need(_)) => break true,
                // Nobody ends a carrier so.
                Ok(Opened::End { .. }) | Err(_) => break false,
            }
        };
        direct.sealed.drain(..at);
        good
    }

    pub(super) fn drop_direct(&mut self, cx: &mut Cx, how: CloseHow) {
        if let Some(direct) = self.direct.take() {
            cx.close(direct.sock, how);
            self.mover.handle_broken(cx.now, DIRECT);
        }
    }
}

impl Direct {
    /// Seals and sends frames. False: no more can be sealed.
    pub(super) fn send(&mut self, cx: &mut Cx, frames: &[u8]) -> bool {
        let (mut sealed, mut done) = (Vec::new(), 0);
        while done < frames.len() {
            match self.sealer.seal(&frames[done..], &mut sealed) {
                Ok(n) => done += n,
                Err(_) => return false,
            }
        }
        self.given += sealed.len();
        cx.send(self.sock, sealed.into());
        if self.given >= AHEAD {
            (self.given, self.asked) = (0, true);
            cx.await_writable(self.sock);
        }
        true
    }
}

impl fmt::Debug for Moving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Moving")
            .field("way", &self.way)
            .field("on", &self.mover.carrier())
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}

/// Origin of a stream.
#[derive(Clone, Copy, Debug)]
pub(in crate::node) struct Way {
    pub(in crate::node) strategy: Strategy,
    pub(in crate::node) local: SocketAddr,
    pub(in crate::node) remote: SocketAddr,
}
