//! Pipes: the streams that a node's user got, with their reads and writes.

use p2pd_core::pipe::{Opened, PipeKeys, PipeStart};
use p2pd_core::{Input, NodeId, PipeId};

use super::NodeProgram;
use super::relayed::Outgoing;
use crate::engine::Nanos;
use crate::host::{Close, Sock};
use crate::world::Cx;

/// A stream that has become the user's.
#[derive(Debug)]
pub struct Pipe {
    /// Report of the core about the new pipe.
    pub start: Box<PipeStart>,
    /// Time of that report.
    pub at: Nanos,
    /// Bytes read.
    pub received: Vec<u8>,
    /// The peer said that it sends no more.
    pub ended: bool,
    /// The stream has ended.
    pub closed: bool,
    /// Reason why the stream broke.
    pub broken: Option<String>,
    pub(super) way: Way,
    sealed: Vec<u8>,
}

/// Carrier of a pipe's bytes.
#[derive(Debug)]
pub(super) enum Way {
    Socket(Sock),
    Relay(Outgoing),
}

impl Pipe {
    pub(super) fn new(start: Box<PipeStart>, at: Nanos, way: Way) -> Pipe {
        let (received, sealed) = (Vec::new(), Vec::new());
        Pipe { start, at, received, ended: false, closed: false, broken: None, way, sealed }
    }

    pub(super) fn is_on(&self, sock: Sock) -> bool {
        matches!(self.way, Way::Socket(s) if s == sock)
    }

    pub(super) fn is_relayed(&self, id: PipeId) -> bool {
        matches!(&self.way, Way::Relay(out) if out.pipe == id)
    }
}

impl NodeProgram {
    /// Writes to a pipe.
    pub fn write(&mut self, cx: &mut Cx<'_>, pipe: usize, data: &[u8]) {
        let Some(Pipe { way, start, .. }) = self.pipes.get_mut(pipe) else { return };
        let sock = match way {
            Way::Socket(sock) => sock,
            Way::Relay(out) => {
                out.put(data);
                let id = out.pipe;
                self.work_relayed(cx.now, id);
                return self.drain(cx);
            }
        };
        match &mut start.keys {
            PipeKeys::Plain | PipeKeys::Relayed(_) => _ = cx.host.send(cx.now, *sock, data),
            PipeKeys::Encrypted(sealer, _) => {
                let (mut wire, mut done) = (Vec::new(), 0);
                while done < data.len() {
                    match sealer.seal(&data[done..], &mut wire) {
                        Ok(n) => done += n,
                        Err(_) => return,
                    }
                }
                cx.host.send(cx.now, *sock, &wire);
            }
        }
    }

    /// Says on a pipe that no more follows.
    pub fn end(&mut self, cx: &mut Cx<'_>, pipe: usize) {
        let Some(Pipe { way, start, .. }) = self.pipes.get_mut(pipe) else { return };
        let sock = match way {
            Way::Socket(sock) => sock,
            Way::Relay(out) => {
                out.end();
                let id = out.pipe;
                self.work_relayed(cx.now, id);
                return self.drain(cx);
            }
        };
        if let PipeKeys::Encrypted(sealer, _) = &mut start.keys {
            let mut wire = Vec::new();
            if sealer.end(&mut wire).is_ok() {
                cx.host.send(cx.now, *sock, &wire);
            }
        }
        cx.host.finish(cx.now, *sock);
    }

    /// Closes every pipe.
    pub fn close_pipes(&mut self, cx: &mut Cx<'_>) {
        let now = self.clocks.instant(cx.now);
        for pipe in &self.pipes {
            match &pipe.way {
                Way::Socket(sock) => cx.host.close(cx.now, *sock, Close::Graceful),
                Way::Relay(out) => self.node.pipe_close(now, out.pipe),
            }
        }
        for (sock, _) in core::mem::take(&mut self.handed_out) {
            self.tell(cx, Input::Released { sock });
        }
        self.drain(cx);
    }

    /// Closes a pipe.
    pub fn close_pipe(&mut self, cx: &mut Cx<'_>, pipe: usize) {
        match self.pipes.get(pipe).map(|pipe| &pipe.way) {
            Some(Way::Socket(sock)) => {
                let sock = *sock;
                cx.host.close(cx.now, sock, Close::Graceful);
                if let Some(place) = self.handed_out.iter().position(|(_, out)| *out == sock) {
                    let (sock, _) = self.handed_out.remove(place);
                    self.tell(cx, Input::Released { sock });
                }
            }
            Some(Way::Relay(out)) => self.node.pipe_close(self.clocks.instant(cx.now), out.pipe),
            None => {}
        }
        self.drain(cx);
    }

    /// Drops the pipes of sockets that others than this peer have ended.
    pub fn drop_ended(&mut self, cx: &mut Cx<'_>, but: NodeId) {
        let mut ended = Vec::new();
        self.handed_out.retain(|(sock, s)| {
            let over = |p: &Pipe| p.is_on(*s) && p.start.peer != but && (p.closed || p.broken.is_some());
            let over = self.pipes.iter().any(over);
            ended.extend(over.then_some((*sock, *s)));
            !over
        });
        for (sock, s) in ended {
            cx.host.close(cx.now, s, Close::Graceful);
            self.tell(cx, Input::Released { sock });
        }
        self.drain(cx);
    }

    pub(super) fn read_pipe(&mut self, cx: &mut Cx<'_>, sock: Sock) {
        let Some(pipe) = self.pipes.iter_mut().find(|p| p.is_on(sock)) else { return };
        let data = cx.host.read(sock, usize::MAX);
        pipe.closed |= cx.host.at_end(sock);
        match &mut pipe.start.keys {
            PipeKeys::Plain | PipeKeys::Relayed(_) => {
                pipe.received.extend(data);
                pipe.ended |= pipe.closed;
            }
            PipeKeys::Encrypted(_, opener) => {
                pipe.sealed.extend(data);
                loop {
                    match opener.open(&mut pipe.sealed) {
                        Ok(Opened::Need(_)) => break,
                        Ok(Opened::Data { consumed, plain }) => {
                            pipe.received.extend_from_slice(&pipe.sealed[plain]);
                            pipe.sealed.drain(..consumed);
                        }
                        Ok(Opened::End { consumed }) => {
                            pipe.sealed.drain(..consumed);
                            pipe.ended = true;
                            break;
                        }
                        Err(why) => {
                            pipe.broken = Some(why.to_string());
                            break;
                        }
                    }
                }
            }
        }
    }
}
