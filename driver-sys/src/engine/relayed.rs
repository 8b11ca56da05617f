//! Relayed pipes: copies between the core and the duct or the socket whose other end is the user's.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use p2pd_core::pipe::PipeStart;
use p2pd_core::relay::ReadOutcome;
use p2pd_core::{Instant, PipeEnd, PipeId, PipeNews, SockId};

use super::messages::Post;
use super::{Engine, Reactor, Sock, Step};
use crate::pipe::{EngineEnd, Link, Relayed, Start, duct};
use crate::socket;

/// Bytes copied at a time, and how often before others have their turn.
const CHUNK: usize = 64 * 1024;
const ROUNDS: usize = 8;
/// A user who has ended one direction may drop the pipe unheard: it is looked at so often.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Time for the arrival of data that users had written and ended, when a node ends.
const LEAVE_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Bridge<S> {
    pipe: PipeId,
    near: Near<S>,
    link: Arc<Link>,
    /// Bytes for the user.
    inbound: Waiting,
    /// Bytes from the user.
    outbound: Waiting,
    /// Messages, as long as the user has or may have them.
    post: Option<Post<S>>,
    user_ended: bool,
    peer_ended: bool,
    over: bool,
    /// True when the node ends: the bridge is closed once the user's bytes are with the core.
    leaving: bool,
    /// Time of the next look at the bridge.
    pub(super) look: Option<Instant>,
}

/// The engine's end of what the user has.
#[derive(Debug)]
enum Near<S> {
    Socket(S),
    /// With the socket whose other end the user has for its number: no bytes go there.
    Duct(EngineEnd, #[expect(dead_code, reason = "is open as long as the pipe")] TcpStream),
}

/// Bytes that could not go on yet.
#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    gone: usize,
}

impl Waiting {
    fn left(&self) -> &[u8] {
        &self.bytes[self.gone..]
    }

    fn set(&mut self, bytes: &[u8]) {
        self.bytes.clear();
        self.bytes.extend_from_slice(bytes);
        self.gone = 0;
    }
}

/// Next step of a bridge.
enum After {
    Wait,
    Again,
    Close,
}

impl<R: Reactor> Engine<R> {
    pub(super) fn open_relayed(&mut self, pipe: PipeId, start: PipeStart) {
        match self.bridge(pipe) {
            Ok((stream, relayed)) => self.hand_out(stream, Start::relayed(start, relayed)),
            Err(_) => {
                // Out of descriptors: there is no pipe then.
                self.core.pipe_close(self.clock.now(), pipe);
                let why = p2pd_core::IoFailure::Resources;
                self.lost(&start.answers, why);
            }
        }
    }

    pub(super) fn pipe_news(&mut self, pipe: PipeId, news: PipeNews) {
        let Some(sock) = self.bridges.get(&pipe).copied() else { return };
        if self.allocation_news(sock, news) {
            return;
        }
        let Some(Sock::Relayed(bridge)) = self.socks.get_mut(&sock) else { return };
        if let PipeNews::Ended(why) = news {
            bridge.over = true;
            bridge.link.is_over(why);
        }
        self.steps.push_back(Step::Work(sock));
    }

    /// Copies as far as both sides let it.
    pub(super) fn work_relayed(&mut self, now: Instant, sock: SockId) {
        match self.copy(now, sock) {
            After::Wait => {}
            After::Again => self.again.push(sock),
            After::Close => self.close_relayed(now, sock),
        }
    }

    /// Ends all bridges with the node: data of users that have ended still goes, the other pipes are cut off.
    pub(super) fn end_relayed(&mut self) {
        let now = self.clock.now();
        self.end_allocated(now);
        let all: Vec<SockId> = self.bridges.values().copied().collect();
        for sock in all {
            let Some(Sock::Relayed(bridge)) = self.socks.get_mut(&sock) else { continue };
            bridge.link.is_over(PipeEnd::Shutdown);
            bridge.leaving = bridge.link.has_ended();
            if bridge.leaving {
                self.steps.push_back(Step::Work(sock));
            } else {
                self.close_relayed(now, sock);
            }
        }
        self.ending = Some(now + LEAVE_WITHIN);
    }

    /// Ends the core, if nothing is left that it has to send before.
    pub(super) fn end_core(&mut self) {
        let now = self.clock.now();
        let idle = self.bridges.is_empty() && !self.core.has_leaving_pipes();
        if self.ending.is_some_and(|until| until <= now || idle) {
            self.ending = None;
            let late: Vec<SockId> = self.bridges.values().copied().collect();
            late.into_iter().for_each(|sock| self.close_relayed(now, sock));
            self.core.shutdown(now);
        }
    }

    fn bridge(&mut self, pipe: PipeId) -> io::Result<(R::Stream, Relayed)> {
        let (ours, theirs) = socket::pair()?;
        // The core never hears of these two, so that they may have numbers of accepted ones.
        let [sock, other, post] = [0, 1, 2].map(|n| SockId::accepted(self.accepted + n));
        self.accepted += 3;
        let (near, duct) = match self.reactor.waker(sock) {
            Some(waker) => {
                let (end, duct) = duct(waker);
                (Near::Duct(end, ours), Some(duct))
            }
            None => (Near::Socket(self.reactor.stream(sock, ours)?), None),
        };
        let theirs = self.reactor.stream(other, theirs);
        self.reactor.forget(other);
        let theirs = match theirs {
            Ok(theirs) => theirs,
            Err(why) => {
                self.reactor.forget(sock);
                return Err(why);
            }
        };
        let messages = socket::pair().and_then(|(ours, theirs)| {
            let stream = self.reactor.stream(post, ours)?;
            Ok((stream, theirs))
        });
        let (messages, user) = match messages {
            Ok((stream, theirs)) => (stream, theirs),
            Err(why) => {
                self.reactor.forget(sock);
                return Err(why);
            }
        };
        self.socks.insert(post, Sock::Messages(sock));
        let (relayed, link) = Relayed::new(Some(user), duct);
        let bridge = Bridge {
            pipe,
            near,
            link,
            inbound: Waiting::default(),
            outbound: Waiting::default(),
            post: Some(Post::messages(post, messages)),
            user_ended: false,
            peer_ended: false,
            over: false,
            leaving: false,
            look: None,
        };
        self.socks.insert(sock, Sock::Relayed(Box::new(bridge)));
        self.bridges.insert(pipe, sock);
        self.steps.push_back(Step::Work(sock));
        Ok((theirs, relayed))
    }

    fn copy(&mut self, now: Instant, sock: SockId) -> After {
        let Engine { core, socks, buffer, timers, reactor, .. } = self;
        let Some(Sock::Relayed(bridge)) = socks.get_mut(&sock) else { return After::Wait };
        let bridge = &mut **bridge;
        buffer.resize(buffer.len().max(CHUNK), 0);
        let mut more = false;
        if let Some(post) = &mut bridge.post {
            match post.carry::<R>(core, now, bridge.pipe, &mut buffer[..CHUNK]) {
                Ok(again) => more = again,
                // The user has dropped them; what comes stays with the core, and the peer waits.
                Err(_) => {
                    if let Some(post) = bridge.post.take() {
                        reactor.forget(post.sock);
                        socks.remove(&post.sock);
                    }
                    return After::Again;
                }
            }
        }
        for _ in 0..ROUNDS {
            let inward = bridge.inward::<R>(core, now, &mut buffer[..CHUNK]);
            let outward = bridge.outward::<R>(core, now, &mut buffer[..CHUNK]);
            match (inward, outward) {
                (Ok(false), Ok(false)) => {
                    let told = bridge.inbound.left().is_empty();
                    let gone = bridge.leaving || bridge.link.is_dropped() || bridge.near.is_gone();
                    let mut dropped = bridge.user_ended && gone;
                    if let Some(post) = bridge.post.as_mut().filter(|_| dropped) {
                        dropped = post.carry_last::<R>(core, now, bridge.pipe, &mut buffer[..CHUNK]);
                    }
                    if (bridge.over && told) || (dropped && bridge.outbound.left().is_empty()) {
                        return After::Close;
                    }
                    if bridge.user_ended && bridge.look.is_none_or(|at| at <= now) {
                        let at = now + LOOK_AGAIN;
                        bridge.look = Some(at);
                        timers.insert((at, sock));
                    }
                    return if more { After::Again } else { After::Wait };
                }
                (Ok(_), Ok(_)) => {}
                // The user is gone.
                _ => return After::Close,
            }
        }
        After::Again
    }

    /// Leaves the messages that have come where their user finds them.
    fn close_messages(&mut self, sock: SockId) {
        let now = self.clock.now();
        let Some(Sock::Relayed(bridge)) = self.socks.get_mut(&sock) else { return };
        let Some(post) = bridge.post.take() else { return };
        let (link, pipe, post_sock) = (bridge.link.clone(), bridge.pipe, post.sock);
        // In the link before the socket is closed.
        link.leave_rest(post.rest(&mut self.core, now, pipe));
        self.remove(post_sock);
    }

    fn close_relayed(&mut self, now: Instant, sock: SockId) {
        self.close_messages(sock);
        if let Some(Sock::Relayed(bridge)) = self.remove(sock) {
            self.bridges.remove(&bridge.pipe);
            self.core.pipe_close(now, bridge.pipe);
        }
    }
}

impl<S> Bridge<S> {
    /// Copies from the peer to the user. Returns true if something moved.
    fn inward<R: Reactor<Stream = S>>(
        &mut self,
        core: &mut p2pd_core::trace::Recorder,
        now: Instant,
        buffer: &mut [u8],
    ) -> io::Result<bool> {
        if !self.inbound.left().is_empty() {
            return match self.near.write::<R>(self.inbound.left()) {
                Ok(n) => {
                    self.inbound.gone += n;
                    Ok(true)
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
                Err(e) => Err(e),
            };
        }
        if self.peer_ended {
            return Ok(false);
        }
        match core.pipe_read(now, self.pipe, buffer) {
            ReadOutcome::Read(n) => {
                let written = match self.near.write::<R>(&buffer[..n]) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
                    written => written?,
                };
                self.inbound.set(&buffer[written..n]);
                Ok(true)
            }
            ReadOutcome::Empty => Ok(false),
            ReadOutcome::End => {
                self.peer_ended = true;
                self.link.peer_ends();
                self.near.end::<R>();
                Ok(true)
            }
        }
    }

    /// Copies from the user to the peer. Returns true if something moved.
    fn outward<R: Reactor<Stream = S>>(
        &mut self,
        core: &mut p2pd_core::trace::Recorder,
        now: Instant,
        buffer: &mut [u8],
    ) -> io::Result<bool> {
        if !self.outbound.left().is_empty() {
            let n = core.pipe_write(now, self.pipe, self.outbound.left());
            self.outbound.gone += n;
            return Ok(n > 0);
        }
        if self.user_ended {
            return Ok(false);
        }
        match self.near.read::<R>(&mut self.outbound, buffer) {
            Ok(()) if !self.outbound.left().is_empty() => Ok(true),
            Ok(()) if self.link.has_ended() => {
                self.user_ended = true;
                core.pipe_finish(now, self.pipe);
                Ok(true)
            }
            Ok(()) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(e),
        }
    }
}

impl<S> Near<S> {
    fn write<R: Reactor<Stream = S>>(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Near::Socket(stream) => R::write(stream, data),
            Near::Duct(end, _) => end.write(data),
        }
    }

    /// Reads what is there into an empty place; nothing is the user's end.
    fn read<R: Reactor<Stream = S>>(&mut self, into: &mut Waiting, buffer: &mut [u8]) -> io::Result<()> {
        match self {
            Near::Socket(stream) => {
                let n = R::read(stream, buffer)?;
                into.set(&buffer[..n]);
            }
            Near::Duct(end, _) => *into = Waiting { bytes: end.read()?, gone: 0 },
        }
        Ok(())
    }

    /// Ends the direction to the user.
    fn end<R: Reactor<Stream = S>>(&self) {
        match self {
            // It fails if the user is gone, which reading will show.
            Near::Socket(stream) => drop(R::socket(stream).shutdown(Shutdown::Write)),
            Near::Duct(end, _) => end.end(),
        }
    }

    /// Returns true if it is known that there is no user any more.
    fn is_gone(&self) -> bool {
        matches!(self, Near::Duct(end, _) if end.is_user_gone())
    }
}
