//! Callers of a listener: pipes, and streams of sessions, which go on when the caller's network changes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use p2pd_core::{NodeId, Source};
use p2pd_tokio::{Node, Pipe, PipeInfo, RecvStream, SendStream, Session, SessionConfig};
use tokio::sync::mpsc;
use tokio::task::{Id, JoinHandle, JoinSet};

use super::{Counted, MUTE};
use crate::forward;
use crate::metrics::Metrics;
use crate::quiet::Quiet;
use crate::say::Say;

/// Tag of the streams of `connect --streams`.
pub(super) const TAG: &[u8] = b"stdio/1";
/// Code of a stream that nobody serves here.
const NOT_SERVED: u32 = 1;
/// Most sessions at a time, most of one customer (a /56), and most of one line (an IPv4 address, a /64).
const SESSIONS: [usize; 3] = [64, 24, 8];

/// Peer that has called, by a pipe or on a stream of a session.
#[derive(Debug)]
pub(super) enum Caller {
    Pipe(Pipe),
    Stream(Streamed),
}

/// Stream of a session that a peer has opened.
#[derive(Debug)]
pub(super) struct Streamed {
    /// Connection that the session had when the stream came.
    info: PipeInfo,
    session: Session,
    pub(super) halves: (SendStream, RecvStream),
    pub(super) open: Open,
    /// True for the first one of its session.
    is_first: bool,
}

/// A stream that is open: its session is not idle meanwhile.
#[derive(Debug)]
pub(super) struct Open(Arc<Quiet>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.now();
    }
}

/// Session that holds a place.
struct Seat {
    task: Id,
    from: Source,
    session: Session,
    /// The task and each open stream have a clone.
    quiet: Arc<Quiet>,
}

impl Seat {
    /// Returns how long the session has had no stream, if that is long enough for another one to have its place.
    fn idle(&self) -> Option<Duration> {
        let idle = Arc::strong_count(&self.quiet) <= 2;
        Some(self.quiet.lasts()).filter(|lasts| idle && *lasts >= MUTE)
    }
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
            Caller::Stream(stream) => stream.info,
        }
    }

    /// Returns true for a stream that is not its session's first one. It costs the peer a few bytes.
    pub(super) fn is_further(&self) -> bool {
        matches!(self, Caller::Stream(stream) if !stream.is_first)
    }

    /// Counts its bytes among all.
    pub(super) fn counted(&self, metrics: Arc<Metrics>) -> Counted {
        match self {
            Caller::Pipe(pipe) => Counted::of_pipe(pipe, metrics),
            Caller::Stream(stream) => Counted::of_session(&stream.session, metrics),
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
    let mut seats: Vec<Seat> = Vec::new();
    loop {
        tokio::select! {
            session = node.accept_session() => {
                let Some(session) = session else { return };
                // One whose connection has broken already is not worth a place.
                let Some(info) = session.carrier() else { continue };
                let from = Source::of(info.remote_addr().ip());
                let taken: Vec<Source> = seats.iter().map(|seat| seat.from).collect();
                if let Some(full) = full(&taken, from) {
                    let among = full.into_iter().filter_map(|n| Some((seats[n].idle()?, n)));
                    let Some((_, longest)) = among.max() else {
                        session.close(NOT_SERVED, b"too many sessions");
                        continue;
                    };
                    seats.swap_remove(longest).session.close(NOT_SERVED, b"others want its place");
                }
                let quiet = Arc::new(Quiet::new());
                let seen = (session.clone(), info, quiet.clone());
                let task = running.spawn(streams(seen, to.clone(), metrics.clone(), say)).id();
                seats.push(Seat { task, from, session, quiet });
            }
            Some(ended) = running.join_next_with_id() => {
                let id = ended.map_or_else(|why| why.id(), |(id, ())| id);
                seats.retain(|seat| seat.task != id);
            }
        }
    }
}

/// Returns the places among these sources of which one has to be free first for a session from there; `None` if there is
/// room.
fn full(taken: &[Source], from: Source) -> Option<Vec<usize>> {
    let [all, site, net] = SESSIONS;
    let of = |is_so: &dyn Fn(&Source) -> bool| -> Vec<usize> {
        (0..taken.len()).filter(|n| is_so(&taken[*n])).collect()
    };
    let bounds =
        [(of(&|s| s.net == from.net), net), (of(&|s| s.site == from.site), site), (of(&|_| true), all)];
    bounds.into_iter().find(|(its, most)| its.len() >= *most).map(|(its, _)| its)
}

/// Hands the streams of a session on, and tells and counts its moves, until it ends.
async fn streams(
    (session, info, quiet): (Session, PipeInfo, Arc<Quiet>),
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
        () = hand_on((&session, info), &quiet, to) => {}
        () = told => {}
    }
}

async fn hand_on((session, info): (&Session, PipeInfo), quiet: &Arc<Quiet>, to: mpsc::Sender<Caller>) {
    let mut is_first = true;
    loop {
        tokio::select! {
            // Those of both directions that came before the end are taken before it is seen.
            biased;
            stream = session.accept_bi() => {
                let Ok(mut halves) = stream else { return };
                if halves.0.tag() == TAG {
                    let (info, session) = (session.carrier().unwrap_or(info), session.clone());
                    let open = Open(quiet.clone());
                    let stream = Streamed { info, session, halves, open, is_first };
                    is_first = false;
                    if to.send(Caller::Stream(stream)).await.is_err() {
                        return;
                    }
                } else {
                    halves.0.reset(NOT_SERVED);
                    halves.1.stop(NOT_SERVED);
                }
            }
            stream = session.accept_uni() => match stream {
                Ok(mut stream) => stream.stop(NOT_SERVED),
                Err(_) => return,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Source {
        Source::of(text.parse().unwrap())
    }

    #[test]
    fn a_line_a_customer_and_all_have_their_most_sessions() {
        // Eight of a line, and none of a neighbour's is in its way.
        let mut taken = vec![at("2001:db8::1"); 8];
        assert_eq!(full(&taken, at("2001:db8::2")), Some((0..8).collect()));
        assert_eq!(full(&taken, at("2001:db8:0:1::1")), None);
        // A customer with a /56 has 24.
        taken.extend((0..16).map(|n| at(&format!("2001:db8:0:{:x}::1", 1 + n % 2))));
        assert_eq!(full(&taken, at("2001:db8:0:9::1")), Some((0..24).collect()));
        assert_eq!(full(&taken, at("2001:db8:0:100::1")), None);
        taken.extend((0..40).map(|n| at(&format!("192.0.2.{n}"))));
        assert_eq!(full(&taken, at("198.51.100.1")), Some((0..64).collect()));
        taken.pop();
        assert_eq!(full(&taken, at("198.51.100.1")), None);
    }

    #[test]
    fn the_end_of_a_stream_begins_the_idle_time_anew() {
        let quiet = Arc::new(Quiet::new());
        let (open, task) = (Open(quiet.clone()), quiet.clone());
        assert_eq!(Arc::strong_count(&quiet), 3, "one more than of an idle one");
        std::thread::sleep(Duration::from_millis(20));
        let before = quiet.last();
        drop(open);
        assert!(quiet.last() > before && Arc::strong_count(&quiet) == 2);
        drop(task);
    }
}
