//! Streams of the core, from the armed dial to the pipe or the end. They are read by credit, and written and ended by
//! the core's outputs.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::PoisonError;
use std::time::Duration;

use bytes::{Buf, Bytes};
use p2pd_core::pipe::PipeStart;
use p2pd_core::{CloseHow, ConnectId, Input, Instant, IoFailure, PipeEnd, SockId};
use socket2::Socket;

use super::{Engine, News, Reactor, Sock, Step};
use crate::error::ConnectError;
use crate::pipe::Start;
use crate::wrap::Layers;
use crate::{failure, socket};

/// Time for queued data to leave when the stream ends gracefully. The other end has as long to end its own direction.
const LINGER: Duration = Duration::from_secs(2);
/// Bytes of one read, and number of reads before others have their turn.
const CHUNK: usize = 16 * 1024;
const READS: u32 = 32;

#[derive(Debug)]
pub(super) struct Tcp<S> {
    pub(super) state: State<S>,
    pub(super) out: VecDeque<Bytes>,
    /// Bytes that may be read.
    pub(super) credit: usize,
    /// True if there may be something to read.
    pub(super) readable: bool,
    /// Number of reads so far.
    reads: u32,
    /// Layers around a server's stream: TLS, WebSocket.
    pub(super) layers: Option<Box<Layers>>,
}

/// A stream of the event loop's, for the layers around it.
struct Bare<'a, R: Reactor>(&'a mut R::Stream);

impl<R: Reactor> Read for Bare<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        R::read(self.0, buf)
    }
}

impl<R: Reactor> Write for Bare<'_, R> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        R::write(self.0, data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
pub(super) enum State<S> {
    Armed {
        socket: Socket,
        remote: SocketAddr,
        at: Instant,
        deadline: Instant,
    },
    Connecting {
        stream: S,
        until: Instant,
    },
    /// TCP is there, the layers around it are not yet.
    Shaking {
        stream: S,
        remote: SocketAddr,
        until: Instant,
    },
    Open(S),
    /// The stream becomes the user's as soon as the queue has left.
    Leaving(S, Box<PipeStart>),
    /// Queued data leaves, then FIN, and the other direction is read to its end. A close over unread bytes would send
    /// RST, which may overtake what was sent.
    Ending {
        stream: S,
        until: Instant,
        finished: bool,
    },
}

impl<S> Tcp<S> {
    pub(super) fn armed(
        socket: Socket,
        remote: SocketAddr,
        at: Instant,
        deadline: Instant,
        layers: Option<Box<Layers>>,
    ) -> Box<Self> {
        let state = State::Armed { socket, remote, at, deadline };
        Box::new(Tcp { state, out: VecDeque::new(), credit: 0, readable: false, reads: 0, layers })
    }

    pub(super) fn open(stream: S) -> Box<Self> {
        Box::new(Tcp {
            state: State::Open(stream),
            out: VecDeque::new(),
            credit: 0,
            readable: true,
            reads: 0,
            layers: None,
        })
    }
}

impl<R: Reactor> Engine<R> {
    /// Sends the first SYN.
    pub(super) fn fire(&mut self, sock: SockId, at: Instant) {
        let Some(Sock::Tcp(tcp)) = self.socks.remove(&sock) else { return };
        let State::Armed { socket, remote, deadline, .. } = tcp.state else { return };
        let fired = socket::connect(&socket, remote).map(|()| self.clock.now());
        // Watched from now on only: before, some loops report a socket writable at once.
        let watched = fired.and_then(|now| Ok((now, self.reactor.stream(sock, socket.into())?)));
        match watched {
            Ok((now, stream)) => {
                let state = State::Connecting { stream, until: deadline };
                self.timers.insert((deadline, sock));
                self.socks.insert(sock, Sock::Tcp(Box::new(Tcp { state, readable: true, ..*tcp })));
                if let Some(lateness) = &self.lateness {
                    lateness.lock().unwrap_or_else(PoisonError::into_inner).push(now.since(at));
                }
                self.steps.push_back(Step::Work(sock));
            }
            Err(e) => self.failed_at_once(sock, failure(&e)),
        }
    }

    /// A timer of the socket's has come.
    pub(super) fn expire(&mut self, sock: SockId) {
        match self.socks.get(&sock) {
            Some(
                Sock::Udp(_)
                | Sock::Listener { .. }
                | Sock::Relayed(_)
                | Sock::Allocated(_)
                | Sock::Messages(_),
            ) => self.steps.push_back(Step::Work(sock)),
            Some(Sock::Tcp(tcp)) => match tcp.state {
                State::Connecting { .. } | State::Shaking { .. } => self.fail(sock, IoFailure::TimedOut),
                State::Ending { .. } => drop(self.remove(sock)),
                State::Armed { .. } | State::Open(_) | State::Leaving(..) => {}
            },
            Some(Sock::Failed(_)) | None => {}
        }
    }

    /// Goes on with a stream as far as the system lets it.
    pub(super) fn work(&mut self, now: Instant, sock: SockId) {
        let Some(Sock::Tcp(tcp)) = self.socks.get_mut(&sock) else { return };
        let tcp = &mut **tcp;
        let gone = match &mut tcp.state {
            State::Armed { .. } => return,
            State::Connecting { stream, .. } => match R::outcome(stream) {
                Ok(remote) if tcp.layers.is_none() => return self.connected(now, sock, remote),
                Ok(remote) => return self.shake(sock, remote),
                Err(e) => Err(e),
            },
            State::Shaking { stream, remote, .. } => {
                let remote = *remote;
                match tcp.layers.as_mut().map_or(Ok(()), |layers| layers.open(&mut Bare::<R>(stream))) {
                    Ok(()) => return self.connected(now, sock, remote),
                    Err(e) => Err(e),
                }
            }
            State::Open(stream) => match write_some::<R>(stream, &mut tcp.layers, &mut tcp.out) {
                Ok(_) => return self.read(now, sock),
                Err(e) => Err(e),
            },
            State::Leaving(stream, _) => write_some::<R>(stream, &mut tcp.layers, &mut tcp.out),
            State::Ending { stream, finished, .. } => write_some::<R>(stream, &mut tcp.layers, &mut tcp.out)
                .and_then(|all| {
                    if all && !*finished {
                        if let Some(layers) = &mut tcp.layers {
                            layers.finish(&mut Bare::<R>(stream))?;
                        }
                        *finished = true;
                        R::socket(stream).shutdown(Shutdown::Write)?;
                    }
                    Ok(*finished && read_out::<R>(stream)?)
                }),
        };
        match gone {
            Ok(false) => {
                // Not for want of anything to read: its turn is over.
                if matches!(tcp.state, State::Ending { finished: true, .. }) {
                    self.again.push(sock);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => self.again.push(sock),
            Ok(true) => {
                if let Some(Sock::Tcp(tcp)) = self.remove(sock)
                    && let State::Leaving(stream, pipe) = tcp.state
                {
                    let held = self.handed.hold(now, sock, &R::socket(&stream));
                    self.hand_out(stream, Start::stream(*pipe, held));
                }
            }
            Err(e) => match &tcp.state {
                State::Leaving(_, pipe) => {
                    let (answers, cause) = (pipe.answers.clone(), failure(&e));
                    self.not_handed_out(sock, &answers, cause);
                }
                State::Ending { .. } => drop(self.remove(sock)),
                _ => self.fail(sock, failure(&e)),
            },
        }
    }

    fn connected(&mut self, now: Instant, sock: SockId, remote: SocketAddr) {
        let Some(Sock::Tcp(tcp)) = self.socks.remove(&sock) else { return };
        let (State::Connecting { stream, until } | State::Shaking { stream, until, .. }) = tcp.state else {
            return;
        };
        self.timers.remove(&(until, sock));
        let local = R::socket(&stream).local_addr();
        self.socks.insert(sock, Sock::Tcp(Box::new(Tcp { state: State::Open(stream), ..*tcp })));
        match local.map(|a| a.as_socket()) {
            Ok(Some(local)) => self.core.handle(now, Input::Connected { sock, local, remote }),
            Ok(None) => self.fail(sock, IoFailure::Other(0)),
            Err(e) => self.fail(sock, failure(&e)),
        }
    }

    /// Goes on to the layers, within the same time.
    fn shake(&mut self, sock: SockId, remote: SocketAddr) {
        let Some(Sock::Tcp(tcp)) = self.socks.remove(&sock) else { return };
        let State::Connecting { stream, until } = tcp.state else { return };
        let state = State::Shaking { stream, remote, until };
        self.socks.insert(sock, Sock::Tcp(Box::new(Tcp { state, ..*tcp })));
        self.steps.push_back(Step::Work(sock));
    }

    /// Reads once, by the credit that is left. The core's reaction comes before the next read.
    fn read(&mut self, now: Instant, sock: SockId) {
        let Some(Sock::Tcp(tcp)) = self.socks.get_mut(&sock) else { return };
        let tcp = &mut **tcp;
        let State::Open(stream) = &mut tcp.state else { return };
        if tcp.credit == 0 || !tcp.readable {
            return;
        }
        let most = tcp.credit.min(CHUNK);
        self.buffer.resize(self.buffer.len().max(most), 0);
        let buffer = &mut self.buffer[..most];
        let read = match &mut tcp.layers {
            Some(layers) => layers.read(&mut Bare::<R>(stream), buffer),
            None => R::read(stream, buffer),
        };
        match read {
            Ok(0) => {
                tcp.credit = 0;
                tcp.readable = false;
                self.core.handle(now, Input::Eof { sock });
            }
            Ok(n) => {
                tcp.credit -= n;
                socket::quick_ack(R::socket(stream));
                tcp.reads += 1;
                // Others have their turn.
                match tcp.reads.is_multiple_of(READS) {
                    true => self.again.push(sock),
                    false => self.steps.push_back(Step::Work(sock)),
                }
                self.core.handle(now, Input::Stream { sock, data: &self.buffer[..n] });
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => tcp.readable = false,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => self.again.push(sock),
            Err(e) => self.fail(sock, failure(&e)),
        }
    }

    pub(super) fn close(&mut self, sock: SockId, how: CloseHow) {
        let until = self.clock.now() + LINGER;
        if how == CloseHow::Graceful
            && self.go_on_as(sock, |stream| State::Ending { stream, until, finished: false })
        {
            self.timers.insert((until, sock));
        } else if let Some(Sock::Tcp(tcp)) = self.remove(sock)
            && let (CloseHow::Reset, State::Open(stream)) = (how, &tcp.state)
        {
            let _ = socket::reset_on_close(R::socket(stream));
        }
    }

    pub(super) fn detach(&mut self, sock: SockId, pipe: Box<PipeStart>) {
        if !self.go_on_as(sock, |stream| State::Leaving(stream, pipe)) {
            self.handed.came_to_nothing(sock);
        }
    }

    /// Ends a pipe, whether its user has it already or not.
    pub(super) fn end_pipe(&mut self, sock: SockId, why: PipeEnd) {
        if let Some(Sock::Tcp(tcp)) = self.socks.get(&sock)
            && let State::Leaving(_, pipe) = &tcp.state
        {
            let answers = pipe.answers.clone();
            self.not_handed_out(sock, &answers, IoFailure::AddrNotAvailable);
        }
        self.handed.end(sock, why);
    }

    fn not_handed_out(&mut self, sock: SockId, answers: &[ConnectId], cause: IoFailure) {
        self.remove(sock);
        self.handed.came_to_nothing(sock);
        self.lost(answers, cause);
    }

    /// Takes an open stream from the core. Returns false if it is not open.
    fn go_on_as(&mut self, sock: SockId, state: impl FnOnce(R::Stream) -> State<R::Stream>) -> bool {
        match self.socks.remove(&sock) {
            Some(Sock::Tcp(tcp)) if matches!(tcp.state, State::Open(_)) => {
                let tcp = *tcp;
                let State::Open(stream) = tcp.state else { unreachable!("looked at above") };
                let state = state(stream);
                self.socks.insert(sock, Sock::Tcp(Box::new(Tcp { state, ..tcp })));
                self.steps.push_back(Step::Work(sock));
                true
            }
            Some(other) => {
                self.socks.insert(sock, other);
                false
            }
            None => false,
        }
    }

    /// The stream of these calls' pipe is lost at the last moment.
    pub(super) fn lost(&mut self, answers: &[ConnectId], cause: IoFailure) {
        self.news.extend(answers.iter().map(|id| News::NotOpened(*id, ConnectError::Lost(cause))));
    }

    pub(super) fn hand_out(&mut self, stream: R::Stream, start: Start) {
        let answers = start.pipe().answers.clone();
        let pipe = Box::new(start);
        let Some((first, others)) = answers.split_first() else {
            return self.news.push_back(News::Incoming(stream, pipe));
        };
        self.news.push_back(News::Opened(*first, stream, pipe));
        let together = |id: &_| News::NotOpened(*id, ConnectError::AnsweredTogether(*first));
        self.news.extend(others.iter().map(together));
    }
}

/// Writes as much as the system takes; whether that was all.
fn write_some<R: Reactor>(
    stream: &mut R::Stream,
    layers: &mut Option<Box<Layers>>,
    out: &mut VecDeque<Bytes>,
) -> io::Result<bool> {
    let written = write_all::<R>(stream, layers, out);
    match written {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
        other => other.map(|()| true),
    }
}

fn write_all<R: Reactor>(
    stream: &mut R::Stream,
    layers: &mut Option<Box<Layers>>,
    out: &mut VecDeque<Bytes>,
) -> io::Result<()> {
    while let Some(front) = out.front_mut() {
        let n = match layers {
            Some(layers) => layers.write(&mut Bare::<R>(stream), front)?,
            None => R::write(stream, front)?,
        };
        front.advance(n);
        if front.is_empty() {
            out.pop_front();
        }
    }
    layers.as_mut().map_or(Ok(()), |layers| layers.flush(&mut Bare::<R>(stream)))
}

/// Throws received bytes away; returns true at the end. The timer ends an endless stream.
fn read_out<R: Reactor>(stream: &mut R::Stream) -> io::Result<bool> {
    let mut waste = [0; 4096];
    for _ in 0..super::BUDGET {
        if R::read(stream, &mut waste)? == 0 {
            return Ok(true);
        }
    }
    Ok(false)
}
