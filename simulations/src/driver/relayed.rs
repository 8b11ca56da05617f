//! Relayed pipes, whose bytes the node carries itself. Drivers copy between the node and a user's socket; here there is
//! no socket.

use p2pd_core::pipe::PipeStart;
use p2pd_core::relay::ReadOutcome;
use p2pd_core::{PipeId, PipeNews};

use super::NodeProgram;
use super::pipes::{Pipe, Way};
use crate::engine::Nanos;
use crate::world::Cx;

/// Bytes and end of a relayed pipe's user that the node has not taken yet.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) pipe: PipeId,
    bytes: Vec<u8>,
    /// State of the end: `Some(false)` until the node was told, `Some(true)` then.
    end: Option<bool>,
    over: bool,
}

impl Outgoing {
    pub(super) fn put(&mut self, data: &[u8]) {
        self.bytes.extend_from_slice(data);
    }

    pub(super) fn end(&mut self) {
        self.end.get_or_insert(false);
    }
}

impl NodeProgram {
    pub(super) fn open_relayed(&mut self, cx: &mut Cx<'_>, pipe: PipeId, start: Box<PipeStart>) {
        let way = Way::Relay(Outgoing { pipe, bytes: Vec::new(), end: None, over: false });
        self.pipes.push(Pipe::new(start, cx.now, way));
        self.work_relayed(cx.now, pipe);
    }

    pub(super) fn pipe_news(&mut self, cx: &mut Cx<'_>, pipe: PipeId, news: PipeNews) {
        self.work_relayed(cx.now, pipe);
        if let PipeNews::Ended(why) = news
            && let Some(pipe) = self.pipes.iter_mut().find(|p| p.is_relayed(pipe))
        {
            pipe.closed = true;
            if let Way::Relay(out) = &mut pipe.way {
                out.over = true;
            }
            pipe.broken.get_or_insert(why.to_string());
        }
    }

    /// Reads all bytes that are there, and writes as many as the node takes.
    pub(super) fn work_relayed(&mut self, now: Nanos, id: PipeId) {
        let now = self.clocks.instant(now);
        let Some(pipe) = self.pipes.iter_mut().find(|p| p.is_relayed(id)) else { return };
        let mut buffer = [0; 4096];
        while !pipe.ended {
            match self.node.pipe_read(now, id, &mut buffer) {
                ReadOutcome::Read(n) => pipe.received.extend_from_slice(&buffer[..n]),
                ReadOutcome::Empty => break,
                ReadOutcome::End => pipe.ended = true,
            }
        }
        let Way::Relay(out) = &mut pipe.way else { return };
        while !out.bytes.is_empty() && !out.over {
            let taken = self.node.pipe_write(now, id, &out.bytes);
            if taken == 0 {
                return;
            }
            out.bytes.drain(..taken);
        }
        if out.end == Some(false) {
            out.end = Some(true);
            self.node.pipe_finish(now, id);
        }
    }

    /// Returns true while closed relayed pipes still have something to send. The node is not to be ended before.
    pub fn has_leaving_pipes(&self) -> bool {
        self.node.has_leaving_pipes()
    }
}
