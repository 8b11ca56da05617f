//! Relayed pipes in their users' hands.

use core::time::Duration;

use bytes::Bytes;

use super::state::RelayStage;
use super::{Ctx, Relays};
use crate::pipe::{PipeEnd, PipeId, PipeNews};
use crate::relay::{MAX_AT_ONCE, MessageError, ReadOutcome};

/// Time for bytes that were written before a pipe was closed to arrive.
const LEAVE_WITHIN: Duration = Duration::from_secs(30);

impl Relays {
    /// Writes as [`Node::pipe_write`](crate::Node::pipe_write) says.
    pub(in crate::node) fn write(&mut self, ctx: &mut Ctx<'_>, id: PipeId, data: &[u8]) -> usize {
        let Some(relay) = self.all.get_mut(&id) else { return 0 };
        let data = &data[..data.len().min(MAX_AT_ONCE)];
        let (RelayStage::Pipe, Some(stream)) = (relay.stage, &mut relay.stream) else { return 0 };
        let taken = stream.write(ctx.cx.now, data);
        self.work(ctx, id);
        taken
    }

    /// Reads as [`Node::pipe_read`](crate::Node::pipe_read) says.
    pub(in crate::node) fn read(&mut self, ctx: &mut Ctx<'_>, id: PipeId, out: &mut [u8]) -> ReadOutcome {
        let Some(relay) = self.all.get_mut(&id) else { return ReadOutcome::Empty };
        let most = out.len().min(MAX_AT_ONCE);
        let (RelayStage::Pipe, Some(stream)) = (relay.stage, &mut relay.stream) else {
            return ReadOutcome::Empty;
        };
        let outcome = stream.read(ctx.cx.now, &mut out[..most]);
        self.work(ctx, id);
        outcome
    }

    /// Ends our direction.
    pub(in crate::node) fn finish_pipe(&mut self, ctx: &mut Ctx<'_>, id: PipeId) {
        let Some(relay) = self.all.get_mut(&id) else { return };
        let (RelayStage::Pipe, Some(stream)) = (relay.stage, &mut relay.stream) else { return };
        stream.finish(ctx.cx.now);
        relay.finished = true;
        self.work(ctx, id);
    }

    /// Sends a message apart from the bytes.
    pub(in crate::node) fn send_message(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: PipeId,
        message: Bytes,
    ) -> Result<(), MessageError> {
        let relay = self.all.get_mut(&id).filter(|r| r.stage == RelayStage::Pipe && !r.over);
        let Some(stream) = relay.and_then(|r| r.stream.as_mut()) else {
            return Err(MessageError::NotConnected);
        };
        let taken = stream.send_message(ctx.cx.now, message);
        self.work(ctx, id);
        taken
    }

    /// Reads a message that came apart from the bytes.
    pub(in crate::node) fn read_message(&mut self, ctx: &mut Ctx<'_>, id: PipeId) -> Option<Bytes> {
        let relay = self.all.get_mut(&id).filter(|r| r.stage == RelayStage::Pipe)?;
        let message = relay.stream.as_mut()?.read_message(ctx.cx.now);
        self.work(ctx, id);
        message
    }

    /// Gives a pipe up.
    pub(in crate::node) fn close_pipe(&mut self, ctx: &mut Ctx<'_>, id: PipeId) {
        let Some(relay) = self.all.get_mut(&id).filter(|r| r.stage == RelayStage::Pipe) else { return };
        if relay.finished && !relay.has_arrived() {
            relay.stage = RelayStage::Leaving;
            relay.until = Some(ctx.cx.now + LEAVE_WITHIN);
            self.work(ctx, id);
        } else {
            self.close_relay(ctx, id);
        }
    }

    /// Returns true if closed pipes are not done yet.
    pub(in crate::node) fn has_leaving(&self) -> bool {
        self.all.values().any(|r| matches!(r.stage, RelayStage::Leaving | RelayStage::Ending))
    }

    /// Takes in that a pipe has ended from the other end, or for want of a relay. Bytes that have arrived can be read
    /// still.
    pub(super) fn pipe_over(&mut self, ctx: &mut Ctx<'_>, id: PipeId, why: PipeEnd) {
        let Some(relay) = self.all.get_mut(&id) else { return };
        // Nothing that was written is waited for any more.
        (relay.done, relay.over) = (true, true);
        ctx.cx.pipe_news(id, PipeNews::Ended(why));
        if let Some(servers) = self.all.get_mut(&id).and_then(|r| r.servers.as_mut()) {
            servers.close(ctx.cx);
        }
    }

    /// Ends the relays at the node's end: each tells its peer and server once.
    pub(in crate::node) fn shut(&mut self, ctx: &mut Ctx<'_>) {
        for (id, mut relay) in core::mem::take(&mut self.all) {
            if relay.stage == RelayStage::Pipe {
                ctx.cx.pipe_news(id, PipeNews::Ended(PipeEnd::Shutdown));
            }
            relay.close(ctx.cx);
            let _ = relay.pump(ctx.cx);
            relay.hurry();
            relay.release(ctx.cx);
            relay.drop_sockets(ctx.cx);
        }
        self.by_key.clear();
    }
}
