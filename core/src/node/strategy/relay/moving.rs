//! A relayed pipe that moves to a stream from host to host, and back if that breaks.
//!
//! The [`Mover`]'s frames go over the relay's QUIC stream once the relay has settled a session whose pipe may move. The
//! session stays open. A TCP stream that wins it later joins as the second carrier. Its frames are in records sealed
//! with the keys of its hello. The relay stays, so that there is a way back.

use core::fmt;
use std::net::SocketAddr;

use bytes::{Buf, Bytes};

use super::relay::{Relay, RelayStage};
use super::{Ctx, Relays, Said};
use crate::call::Strategy;
use crate::cx::{Cx, Owner};
use crate::event::Event;
use crate::io::{CloseHow, Input, SockId};
use crate::pipe::moving::{CarrierId, CarrierKind, Mover, MoverConfig, MoverEnd, MoverEvent};
use crate::pipe::{MAX_RECORD, Opened, Opener, PipeEnd, PipeId, PipeKeys, PipeNews, Sealer};
use crate::relay::{ReadOutcome, RelayStream};
use crate::strategy::agreement::Key;
use crate::time::Instant;

const RELAY: CarrierId = CarrierId(0);
const DIRECT: CarrierId = CarrierId(1);
/// Bytes of a direct stream that the driver may read ahead of us.
const CREDIT: u32 = 128 * 1024;
/// Bytes after which the driver is asked to say when the system has taken them.
const AHEAD: usize = 64 * 1024;
/// Error code with which the relay stream is closed when the peer breaks the protocol. The same code names that end
/// here.
const VIOLATION: u64 = 1;

/// Origin of a stream.
#[derive(Clone, Copy, Debug)]
pub(in crate::node) struct Way {
    pub(in crate::node) strategy: Strategy,
    pub(in crate::node) local: SocketAddr,
    pub(in crate::node) remote: SocketAddr,
}

pub(super) struct Moving {
    pub(super) mover: Mover,
    /// Frames that the relay's stream has no room for yet.
    waiting: Bytes,
    direct: Option<Direct>,
    /// Carrier of its bytes, as the user was told.
    told: CarrierId,
    /// The way of the direct stream, also when it has broken.
    way: Option<Way>,
    /// Reason that the relay is gone.
    lost: Option<PipeEnd>,
    /// The pipe's end was told: either carrier may bring it.
    over: bool,
    /// True if we called: the peer stays named as long as the pipe looks for ways.
    pub(super) names: bool,
    scratch: Vec<u8>,
}

/// The direct stream.
struct Direct {
    sock: SockId,
    sealer: Sealer,
    opener: Opener,
    /// The beginning of a record.
    sealed: Vec<u8>,
    /// Bytes given since the driver was asked last.
    given: usize,
    /// True if the driver was asked, and has not said that the bytes are taken.
    asked: bool,
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
                // A violation is told by the mover's own input.
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
    fn receive(&mut self, now: Instant, data: &[u8]) -> bool {
        let Some(direct) = &mut self.direct else { return true };
        direct.sealed.extend_from_slice(data);
        let mut at = 0;
        let good = loop {
            match direct.opener.open(&direct.sealed[at..], &mut self.scratch) {
                Ok(Opened::Data { consumed, plain }) => {
                    at += consumed;
                    let _ = self.mover.handle_bytes(now, DIRECT, &self.scratch[..plain]);
                }
                Ok(Opened::Need(_)) => break true,
                // Nobody ends a carrier so.
                Ok(Opened::End { .. }) | Err(_) => break false,
            }
        };
        direct.sealed.drain(..at);
        good
    }

    fn drop_direct(&mut self, cx: &mut Cx, how: CloseHow) {
        if let Some(direct) = self.direct.take() {
            cx.close(direct.sock, how);
            self.mover.handle_broken(cx.now, DIRECT);
        }
    }
}

impl Direct {
    /// Seals and sends frames. False: no more can be sealed.
    fn send(&mut self, cx: &mut Cx, frames: &[u8]) -> bool {
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

impl Relays {
    /// Returns the pipe of a session that a stream may join.
    pub(in crate::node) fn moving_pipe(&self, key: Key) -> Option<PipeId> {
        let id = self.by_key.get(&key)?;
        self.all.get(id).filter(|r| r.moving.is_some()).map(|_| *id)
    }

    /// Moves the pipe to a stream of the session that was agreed on.
    pub(in crate::node) fn join_pipe(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: PipeId,
        sock: SockId,
        way: Way,
        keys: PipeKeys,
    ) {
        let now = ctx.cx.now;
        let open = |r: &&mut Box<Relay>| matches!(r.stage, RelayStage::Pipe | RelayStage::Leaving);
        let moving = self.all.get_mut(&id).filter(open).and_then(|r| r.moving.as_mut());
        let (Some(moving), PipeKeys::Encrypted(sealer, opener)) = (moving, keys) else {
            return ctx.cx.close(sock, CloseHow::Drop);
        };
        ctx.cx.adopt(sock, Owner::Carrier(id));
        let direct = Direct { sock, sealer, opener, sealed: Vec::new(), given: 0, asked: false };
        (moving.direct, moving.way) = (Some(direct), Some(way));
        // The second of four.
        let _ = moving.mover.attach(now, DIRECT, CarrierKind::Direct);
        ctx.cx.read(sock, CREDIT);
        self.work(ctx, id);
    }

    /// Takes in an input of the direct stream of a pipe.
    pub(in crate::node) fn handle_carrier(&mut self, ctx: &mut Ctx<'_>, id: PipeId, input: Input<'_>) {
        match input {
            Input::Stream { sock, data } => self.carrier_received(ctx, id, sock, data),
            Input::Writable { sock } => self.carrier_writable(ctx, id, sock),
            Input::Failed { sock, .. } | Input::Eof { sock } => self.carrier_ended(ctx, id, sock),
            _ => {}
        }
    }

    fn carrier_received(&mut self, ctx: &mut Ctx<'_>, id: PipeId, sock: SockId, data: &[u8]) {
        let now = ctx.cx.now;
        let Some(moving) = self.all.get_mut(&id).and_then(|r| r.moving.as_mut()) else { return };
        if moving.receive(now, data) {
            ctx.cx.read(sock, data.len() as u32);
        } else {
            moving.drop_direct(ctx.cx, CloseHow::Drop);
        }
        self.work(ctx, id);
    }

    fn carrier_writable(&mut self, ctx: &mut Ctx<'_>, id: PipeId, sock: SockId) {
        let moving = self.all.get_mut(&id).and_then(|r| r.moving.as_mut());
        if let Some(direct) = moving.and_then(|m| m.direct.as_mut()).filter(|d| d.sock == sock) {
            direct.asked = false;
            self.work(ctx, id);
        }
    }

    /// Takes in that the direct stream has broken, or that the peer has ended it.
    fn carrier_ended(&mut self, ctx: &mut Ctx<'_>, id: PipeId, sock: SockId) {
        let Some(moving) = self.all.get_mut(&id).and_then(|r| r.moving.as_mut()) else { return };
        if moving.direct.as_ref().is_some_and(|d| d.sock == sock) {
            moving.drop_direct(ctx.cx, CloseHow::Drop);
            self.work(ctx, id);
        }
    }

    /// Takes in that the relay of a pipe that moves is gone.
    pub(super) fn relay_broke(&mut self, ctx: &mut Ctx<'_>, id: PipeId, why: PipeEnd) {
        let now = ctx.cx.now;
        let Some(relay) = self.all.get_mut(&id) else { return };
        let Some(moving) = relay.moving.as_mut() else { return };
        // Whoever closes the pipe closes the relay's stream with it, and nobody does that otherwise.
        if why == PipeEnd::ClosedByPeer {
            return self.moving_over(ctx, id, why);
        }
        if moving.lost.replace(why).is_none() {
            moving.waiting = Bytes::new();
            moving.mover.handle_broken(now, RELAY);
            if let Some(servers) = &mut relay.servers {
                servers.close(ctx.cx);
            }
            if relay.stage == RelayStage::Pipe {
                ctx.cx.pipe_news(id, PipeNews::MessagesEnded(why));
            }
            self.work(ctx, id);
        }
    }

    pub(super) fn mover_news(&mut self, ctx: &mut Ctx<'_>, id: PipeId, input: MoverEvent) {
        let Some(relay) = self.all.get_mut(&id) else { return };
        let (stage, key) = (relay.stage, relay.key);
        let Some(moving) = relay.moving.as_mut() else { return };
        let pipe = id;
        match input {
            MoverEvent::Moved(to) => {
                if core::mem::replace(&mut moving.told, to) != to && stage == RelayStage::Pipe {
                    self.tell_move(ctx, id);
                }
            }
            MoverEvent::Silent(_) => moving.drop_direct(ctx.cx, CloseHow::Drop),
            MoverEvent::Stranded => {
                // While the session is open, another stream may come.
                if !ctx.sessions.is_carried(key) {
                    self.moving_over(ctx, id, PipeEnd::NoPath);
                }
            }
            MoverEvent::Readable if stage == RelayStage::Pipe => ctx.cx.pipe_news(pipe, PipeNews::Readable),
            MoverEvent::Writable if stage == RelayStage::Pipe => ctx.cx.pipe_news(pipe, PipeNews::Writable),
            MoverEvent::Delivered => {
                // A pipe that is being left ends once its messages have arrived too.
                relay.done = true;
                if stage == RelayStage::Pipe {
                    ctx.cx.pipe_news(pipe, PipeNews::Delivered);
                }
            }
            MoverEvent::Ended(why) => self.moving_over(
                ctx,
                id,
                match why {
                    MoverEnd::ClosedByPeer => PipeEnd::ClosedByPeer,
                    MoverEnd::NoCarrier => PipeEnd::NoPath,
                    MoverEnd::Violation(_) => PipeEnd::Broken(VIOLATION),
                },
            ),
            MoverEvent::Readable | MoverEvent::Writable => {}
        }
    }

    /// Ends the search for ways of a pipe that moves, as it is over or closed.
    pub(super) fn end_moving(&mut self, ctx: &mut Ctx<'_>, id: PipeId) {
        let Some(relay) = self.all.get_mut(&id) else { return };
        let Some(moving) = relay.moving.as_mut() else { return };
        let (key, peer) = (relay.key, relay.peer);
        moving.close(ctx.cx);
        if core::mem::take(&mut moving.names) {
            ctx.admission.call_ended(peer);
        }
        if ctx.sessions.is_carried(key) {
            ctx.say(Said::Searched(key, peer));
        }
    }

    fn moving_over(&mut self, ctx: &mut Ctx<'_>, id: PipeId, why: PipeEnd) {
        let Some(relay) = self.all.get_mut(&id) else { return };
        // Where there never was another way, the relay's end says more.
        let Some(moving) = relay.moving.as_mut() else { return };
        if core::mem::replace(&mut moving.over, true) {
            return;
        }
        let lost = moving.lost.filter(|_| moving.way.is_none() && why == PipeEnd::NoPath);
        match relay.stage {
            RelayStage::Pipe => self.pipe_over(ctx, id, lost.unwrap_or(why)),
            RelayStage::Leaving => self.close_relay(ctx, id),
            _ => {}
        }
    }

    fn tell_move(&mut self, ctx: &mut Ctx<'_>, id: PipeId) {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let Some(relay) = self.all.get(&id) else { return };
        let Some(moving) = &relay.moving else { return };
        let relayed = Way {
            strategy: Strategy::Relay,
            local: relay.local.unwrap_or(nowhere),
            remote: relay.to.unwrap_or(nowhere),
        };
        let direct = moving.way.filter(|_| moving.told == DIRECT);
        let Way { strategy, local, remote } = direct.unwrap_or(relayed);
        let (pipe, peer) = (id, relay.peer);
        ctx.cx.notify(Event::Moved { pipe, peer, strategy, local, remote });
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
