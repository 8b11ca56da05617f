//! Relayed pipes in their users' hands.

use bytes::Bytes;

use super::relay::RelayStage;
use crate::node::Node;
use crate::pipe::{PipeEnd, PipeId, PipeNews};
use crate::relay::{MessageError, ReadOutcome};
use crate::time::Instant;
use core::time::Duration;

/// Most bytes that one call writes or reads.
pub(crate) const MAX_AT_ONCE: usize = 64 * 1024;
/// Time for bytes that were written before a pipe was closed to arrive.
const LEAVE_WITHIN: Duration = Duration::from_secs(30);

impl Node {
    /// Appends as many bytes to a relayed pipe as there is room for, at most 64 KiB. Returns their number. After 0,
    /// [`PipeNews::Writable`] says when there is room again; a pipe that is over takes none for ever.
    pub fn pipe_write(&mut self, now: Instant, pipe: PipeId, data: &[u8]) -> usize {
        self.advance(now);
        let id = pipe;
        let Some(relay) = self.relays.get_mut(&id) else { return 0 };
        let data = &data[..data.len().min(MAX_AT_ONCE)];
        let taken = match (relay.stage, &mut relay.moving, &mut relay.stream) {
            (RelayStage::Pipe, Some(moving), _) => moving.mover.write(self.cx.now, data),
            (RelayStage::Pipe, None, Some(stream)) => stream.write(self.cx.now, data),
            _ => return 0,
        };
        self.work_relay(id);
        taken
    }

    /// Takes bytes of a relayed pipe in order, at most 64 KiB.
    pub fn pipe_read(&mut self, now: Instant, pipe: PipeId, out: &mut [u8]) -> ReadOutcome {
        self.advance(now);
        let id = pipe;
        let Some(relay) = self.relays.get_mut(&id) else { return ReadOutcome::Empty };
        let most = out.len().min(MAX_AT_ONCE);
        let outcome = match (relay.stage, &mut relay.moving, &mut relay.stream) {
            (RelayStage::Pipe, Some(moving), _) => moving.mover.read(self.cx.now, &mut out[..most]),
            (RelayStage::Pipe, None, Some(stream)) => stream.read(self.cx.now, &mut out[..most]),
            _ => return ReadOutcome::Empty,
        };
        self.work_relay(id);
        outcome
    }

    /// Ends our direction of a relayed pipe; the peer's goes on. [`PipeNews::Delivered`] says when all has arrived.
    pub fn pipe_finish(&mut self, now: Instant, pipe: PipeId) {
        self.advance(now);
        let id = pipe;
        let Some(relay) = self.relays.get_mut(&id) else { return };
        match (relay.stage, &mut relay.moving, &mut relay.stream) {
            (RelayStage::Pipe, Some(moving), _) => moving.mover.finish(self.cx.now),
            (RelayStage::Pipe, None, Some(stream)) => stream.finish(self.cx.now),
            _ => return,
        }
        relay.finished = true;
        self.work_relay(id);
    }

    /// Sends a message apart from the pipe's bytes. The peer gets it once, in no order with others or with the pipe's
    /// bytes, and though nobody reads those. At most [`MAX_MESSAGE`](crate::relay::MAX_MESSAGE) bytes.
    ///
    /// Messages go through the relay, also while a pipe that moves goes directly; if that has lost its relay,
    /// [`PipeNews::MessagesEnded`] has said so.
    ///
    /// # Errors
    /// As [`MessageError`] says; the message is not sent then.
    pub fn pipe_send_message(
        &mut self,
        now: Instant,
        pipe: PipeId,
        message: Bytes,
    ) -> Result<(), MessageError> {
        self.advance(now);
        let id = pipe;
        let relay = self.relays.get_mut(&id).filter(|r| r.stage == RelayStage::Pipe && r.has_messages());
        let Some(stream) = relay.and_then(|r| r.stream.as_mut()) else {
            return Err(MessageError::NotConnected);
        };
        let taken = stream.send_message(self.cx.now, message);
        self.work_relay(id);
        taken
    }

    /// Reads a message that came apart from the pipe's bytes. At most [`MAX_MESSAGES`](crate::relay::MAX_MESSAGES) wait
    /// here; then the peer waits.
    pub fn pipe_read_message(&mut self, now: Instant, pipe: PipeId) -> Option<Bytes> {
        self.advance(now);
        let id = pipe;
        let relay = self.relays.get_mut(&id).filter(|r| r.stage == RelayStage::Pipe)?;
        let message = relay.stream.as_mut()?.read_message(self.cx.now);
        self.work_relay(id);
        message
    }

    /// Gives a relayed pipe up, with its relayed address, and says no more about it. After
    /// [`pipe_finish`](Self::pipe_finish) all that was written arrives still, messages too; otherwise the peer sees the
    /// pipe cut off. Every pipe is to be closed so, those that have ended too.
    pub fn pipe_close(&mut self, now: Instant, pipe: PipeId) {
        self.advance(now);
        let id = pipe;
        if self.allocations.has(id) {
            return self.with_allocations(|all, env| all.close(env, id));
        }
        let Some(relay) = self.relays.get_mut(&id).filter(|r| r.stage == RelayStage::Pipe) else { return };
        if relay.finished && !relay.has_arrived() {
            relay.stage = RelayStage::Leaving;
            relay.until = Some(self.cx.now + LEAVE_WITHIN);
            self.work_relay(id);
        } else {
            self.close_relay(id);
        }
    }

    /// Returns true if closed pipes have bytes that have not arrived yet, or a peer that may not know of its end.
    pub fn has_leaving_pipes(&self) -> bool {
        self.relays.values().any(|r| matches!(r.stage, RelayStage::Leaving | RelayStage::Ending))
    }

    /// Takes in that a pipe has ended from the other end, or for want of a relay. Bytes that have arrived can be read
    /// still.
    pub(super) fn pipe_over(&mut self, id: PipeId, why: PipeEnd) {
        let Some(relay) = self.relays.get_mut(&id) else { return };
        // Nothing that was written is waited for any more.
        (relay.done, relay.over) = (true, true);
        self.cx.pipe_news(id, PipeNews::Ended(why));
        self.end_moving(id);
        if let Some(servers) = self.relays.get_mut(&id).and_then(|r| r.servers.as_mut()) {
            servers.close(&mut self.cx);
        }
    }

    /// Ends the relays at the node's end: each tells its peer and server once.
    pub(in crate::node) fn shut_relays(&mut self) {
        for (id, mut relay) in core::mem::take(&mut self.relays) {
            if relay.stage == RelayStage::Pipe {
                self.cx.pipe_news(id, PipeNews::Ended(PipeEnd::Shutdown));
            }
            relay.close(&mut self.cx);
            let _ = relay.pump(&mut self.cx);
            relay.hurry();
            relay.release(&mut self.cx);
            relay.drop_sockets(&mut self.cx);
        }
        self.relay_ids.clear();
        self.shut_proofs();
    }
}
