//! A relayed pipe that moves to a stream from host to host, and back if that breaks.
//!
//! The [`Mover`]'s frames go over the relay's QUIC stream once the relay has settled a session whose pipe may move. The
//! session stays open. A TCP stream that wins it later joins as the second carrier. Its frames are in records sealed
//! with the keys of its hello. The relay stays, so that there is a way back.

use std::net::SocketAddr;

use bytes::Bytes;

use super::mover::{CREDIT, DIRECT, Direct, RELAY, Way};
use super::state::{Relay, RelayStage};
use super::{Ctx, Relays, Said};
use crate::call::Strategy;
use crate::cx::Owner;
use crate::event::Event;
use crate::io::{CloseHow, Input, SockId};
use crate::pipe::moving::{CarrierKind, MoverEnd, MoverEvent};
use crate::pipe::{PipeEnd, PipeId, PipeKeys, PipeNews};
use crate::strategy::agreement::Key;

/// Error code with which the relay stream is closed when the peer breaks the protocol. The same code names that end
/// here.
const VIOLATION: u64 = 1;

impl Relays {
    /// Returns the pipe of a session that a stream may join.
    pub(in crate::node) fn moving_pipe(&self, key: Key) -> Option<PipeId> {
        let id = self.by_key.get(&(key, Strategy::Relay))?;
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

    pub(super) fn mover_news(&mut self, ctx: &mut Ctx<'_>, id: PipeId, event: MoverEvent) {
        let Some(relay) = self.all.get_mut(&id) else { return };
        let (stage, key) = (relay.stage, relay.key);
        let Some(moving) = relay.moving.as_mut() else { return };
        match event {
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
            MoverEvent::Readable if stage == RelayStage::Pipe => ctx.cx.pipe_news(id, PipeNews::Readable),
            MoverEvent::Writable if stage == RelayStage::Pipe => ctx.cx.pipe_news(id, PipeNews::Writable),
            MoverEvent::Delivered => {
                // A pipe that is being left ends once its messages have arrived too.
                relay.done = true;
                if stage == RelayStage::Pipe {
                    ctx.cx.pipe_news(id, PipeNews::Delivered);
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
        let peer = relay.peer;
        ctx.cx.notify(Event::Moved { pipe: id, peer, strategy, local, remote });
    }
}
