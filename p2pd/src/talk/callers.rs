//! Callers of a listener: pipes, and streams of sessions, which go on when the caller's network changes.

use std::net::SocketAddr;
use std::sync::Arc;

use p2pd_core::NodeId;
use p2pd_tokio::{Node, Pipe, PipeInfo, RecvStream, SendStream, Session, SessionConfig};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use super::{Counted, place};
use crate::forward;
use crate::metrics::Metrics;
use crate::say::Say;

/// Tag of the streams of `connect --streams`.
pub(super) const TAG: &[u8] = b"stdio/1";
/// Code of a stream that nobody serves here.
const NOT_SERVED: u32 = 1;
/// Most sessions at a time, and most of one place.
const SESSIONS: (usize, usize) = (64, 8);

/// Peer that has called, by a pipe or on a stream of a session.
#[derive(Debug)]
pub(super) enum Caller {
    Pipe(Pipe),
    /// With the connection that the session had when the stream came.
    Stream(PipeInfo, Session, Box<(SendStream, RecvStream)>),
}

impl Caller {
    pub(super) fn peer(&self) -> NodeId {
        self.info().peer()
    }

    pub(super) fn remote_addr(&self) -> SocketAddr {
        self.info().remote_addr()
    }

    /// Returns the connection that the caller came by.
    pub(super) fn info(&self) -> PipeInfo {
        match self {
            Caller::Pipe(pipe) => **pipe,
            Caller::Stream(info, ..) => *info,
        }
    }

    /// Counts its bytes among all.
    pub(super) fn counted(&self, metrics: Arc<Metrics>) -> Counted {
        match self {
            Caller::Pipe(pipe) => Counted::of_pipe(pipe, metrics),
            Caller::Stream(_, session, _) => Counted::of_session(session, metrics),
        }
    }
}

/// Callers as they come.
#[derive(Debug)]
pub(super) struct Callers {
    node: Node,
    streams: mpsc::Receiver<Caller>,
    serving: JoinHandle<()>,
}

/// Returns the settings of a listener's sessions. Anybody may open one, so each holds little.
pub(crate) fn sessions() -> SessionConfig {
    SessionConfig {
        streams: 16,
        stream_window: 1 << 20,
        window: 1 << 20,
        kept: 1 << 20,
        queues: 1 << 20,
        ..SessionConfig::default()
    }
}

impl Callers {
    pub(super) fn new(node: &Node, metrics: &Arc<Metrics>, say: Say) -> Self {
        let (to, streams) = mpsc::channel(1);
        let serving = tokio::spawn(serve(node.clone(), to, metrics.clone(), say));
        Callers { node: node.clone(), streams, serving }
    }

    /// Waits for the next one; `None` once the node has ended.
    pub(super) async fn next(&mut self) -> Option<Caller> {
        tokio::select! {
            pipe = self.node.accept() => pipe.map(Caller::Pipe),
            Some(caller) = self.streams.recv() => Some(caller),
        }
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(node: Node, to: mpsc::Sender<Caller>, metrics: Arc<Metrics>, say: Say) {
    let mut running = JoinSet::new();
    let mut places = Vec::new();
    loop {
        tokio::select! {
            session = node.accept_session() => {
                let Some(session) = session else { return };
                // One whose connection has broken already is not worth a place.
                let Some(info) = session.carrier() else { continue };
                let from = place(info.remote_addr().ip());
                let its = places.iter().filter(|(_, place)| *place == from).count();
                if places.len() >= SESSIONS.0 || its >= SESSIONS.1 {
                    session.close(NOT_SERVED, b"too many sessions");
                    continue;
                }
                let task = running.spawn(streams((session, info), to.clone(), metrics.clone(), say));
                places.push((task.id(), from));
            }
            Some(ended) = running.join_next_with_id() => {
                let id = ended.map_or_else(|why| why.id(), |(id, ())| id);
                places.retain(|(task, _)| *task != id);
            }
        }
    }
}

/// Hands the streams of a session on, and tells and counts its moves, until it ends.
async fn streams(
    (session, info): (Session, PipeInfo),
    to: mpsc::Sender<Caller>,
    metrics: Arc<Metrics>,
    say: Say,
) {
    let told = async {
        forward::moves(&session, &metrics, say).await;
        // Streams that had come before its end are handed on still.
        std::future::pending().await
    };
    tokio::select! {
        () = hand_on(&session, info, to) => {}
        () = told => {}
    }
}

async fn hand_on(session: &Session, info: PipeInfo, to: mpsc::Sender<Caller>) {
    loop {
        tokio::select! {
            stream = session.accept_bi() => {
                let Ok(mut stream) = stream else { return };
                if stream.0.tag() == TAG {
                    let caller = Caller::Stream(session.carrier().unwrap_or(info), session.clone(), Box::new(stream));
                    if to.send(caller).await.is_err() {
                        return;
                    }
                } else {
                    stream.0.reset(NOT_SERVED);
                    stream.1.stop(NOT_SERVED);
                }
            }
            stream = session.accept_uni() => match stream {
                Ok(mut stream) => stream.stop(NOT_SERVED),
                Err(_) => return,
            },
        }
    }
}
