//! Allocations at TURN servers in their users' hands: pipes without a peer. They send from the relayed address to
//! anybody, and hear whoever was sent to.

use core::fmt;
use core::time::Duration;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use smallvec::SmallVec;

use super::Node;
use super::relaying::server_end;
use super::relaying::servers::{ServerNews, Servers};
use crate::config::{ConfigError, ServerRef, TurnServer, check_turn};
use crate::cx::{Cx, Owner, Timer};
use crate::io::{IoFailure, QueryId, SockId};
use crate::notice::Notice;
use crate::pipe::{PipeEnd, PipeId, PipeNews};
use crate::time::Instant;
use crate::turn::{Credentials, Family, SendError};

/// Most allocations at a time.
pub const MAX_ALLOCATIONS: usize = 64;
/// Most datagrams of an allocation that wait for its user; further ones are dropped and counted.
const MAX_WAITING: usize = 256;
/// Time for the servers to be told that an allocation is given up.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Wish for a relayed address, for [`Node::allocate`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Allocate {
    /// Servers to ask, the first one that answers is kept. Default: none, which means those of the configuration.
    pub servers: Vec<TurnServer>,
    /// Family of the relayed address, and so of peers. Default: IPv4, and IPv6 from a server that has no IPv4.
    /// [`Family::Both`] asks for an address of each, and takes one where there is no more.
    pub family: Option<Family>,
    /// Longest time until there is a relayed address. Default 20 s.
    pub timeout: Duration,
}

impl Default for Allocate {
    fn default() -> Self {
        Allocate { servers: Vec::new(), family: None, timeout: Duration::from_secs(20) }
    }
}

/// Reason why there is no relayed address.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AllocateError {
    /// Neither the call nor the configuration names a server.
    NoServer,
    /// A server of the call could not be in a configuration.
    Servers(ConfigError),
    /// The node has [`MAX_ALLOCATIONS`] already.
    TooMany,
    /// No server relays for us: the result of each that was asked.
    Failed(Box<str>),
    /// The node was shut down.
    Shutdown,
}

impl fmt::Display for AllocateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AllocateError::NoServer => f.write_str("there is no TURN server to ask"),
            AllocateError::Servers(why) => write!(f, "{why}"),
            AllocateError::TooMany => write!(f, "{MAX_ALLOCATIONS} allocations are there already"),
            AllocateError::Failed(why) => f.write_str(why),
            AllocateError::Shutdown => f.write_str("the node was shut down"),
        }
    }
}

impl std::error::Error for AllocateError {
    /// Returns the fault of a server's entry.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            AllocateError::Servers(why) => Some(why),
            _ => None,
        }
    }
}

/// An allocation, from the first request to its end.
#[derive(Debug)]
pub(super) struct Allocation {
    servers: Servers,
    /// The servers are those of the configuration.
    listed: bool,
    stage: Stage,
    /// Datagrams that the user has not taken.
    inbox: VecDeque<(SocketAddr, Bytes)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Servers are asked, until this time.
    Asking(Instant),
    /// The relayed address is the user's.
    Open,
    /// The allocation has ended at the server, and the user may still read what came.
    Over,
    /// Given up; servers are being told until this time.
    Closing(Instant),
}

impl Node {
    /// Asks TURN servers for a relayed address. [`Action::OpenAllocation`](crate::Action::OpenAllocation) or
    /// [`Notice::NotAllocated`] follows with this id; then the pipe is given up by [`pipe_close`](Self::pipe_close).
    ///
    /// # Errors
    /// The reason why no server is asked.
    pub fn allocate(&mut self, now: Instant, wish: &Allocate) -> Result<PipeId, AllocateError> {
        self.advance(now);
        if self.is_shut() {
            return Err(AllocateError::Shutdown);
        }
        check_turn(&wish.servers).map_err(AllocateError::Servers)?;
        let (listed, ours) = (wish.servers.is_empty(), self.families());
        let list = if listed { &self.config.turn } else { &wish.servers };
        if list.is_empty() {
            return Err(AllocateError::NoServer);
        }
        if self.allocations.len() >= MAX_ALLOCATIONS {
            return Err(AllocateError::TooMany);
        }
        let id = self.cx.fresh_id();
        let any = matches!(wish.family, None | Some(Family::Both));
        let family = (wish.family.unwrap_or(Family::V4), any);
        let owner = Owner::Allocation(id);
        let servers = Servers::start(&mut self.cx, owner, list, self.config.bind, ours, family);
        let stage = Stage::Asking(self.cx.now + wish.timeout);
        let allocation = Allocation { servers, listed, stage, inbox: VecDeque::new() };
        self.allocations.insert(id, Box::new(allocation));
        self.work_allocation(id);
        self.settle();
        Ok(PipeId(id.number()))
    }

    /// Sends a datagram from an allocation's relayed address to any address of the same family, at most
    /// [`MAX_PAYLOAD`](crate::turn::MAX_PAYLOAD) bytes. The permission is asked for on the way and kept.
    ///
    /// # Errors
    /// The reason why the datagram is not sent.
    pub fn pipe_send_to(
        &mut self,
        now: Instant,
        pipe: PipeId,
        to: SocketAddr,
        data: &[u8],
    ) -> Result<(), SendError> {
        self.advance(now);
        let id = SockId::from_number(pipe.number());
        let open = self.allocations.get_mut(&id).filter(|a| a.stage == Stage::Open);
        let sent = open.ok_or(SendError::Closed)?.servers.send_permitting(&mut self.cx, to, data);
        self.work_allocation(id);
        sent
    }

    /// Takes the oldest datagram that came to an allocation's relayed address, with its sender. At most 256 wait.
    pub fn pipe_recv_from(&mut self, now: Instant, pipe: PipeId) -> Option<(SocketAddr, Bytes)> {
        self.advance(now);
        self.allocations.get_mut(&SockId::from_number(pipe.number()))?.inbox.pop_front()
    }

    /// Gives an allocation up. Nothing is said about it any more.
    pub(super) fn close_allocation(&mut self, id: SockId) {
        let Some(allocation) = self.allocations.get_mut(&id) else { return };
        allocation.stage = Stage::Closing(self.cx.now + END_WITHIN);
        allocation.inbox.clear();
        allocation.servers.close(&mut self.cx);
        self.work_allocation(id);
    }

    pub(super) fn allocation_resolved(
        &mut self,
        id: SockId,
        query: QueryId,
        result: Result<SmallVec<[IpAddr; 2]>, IoFailure>,
    ) {
        self.with_allocation(id, |servers, cx| servers.resolved(cx, query, result));
    }

    /// Does something with an allocation's servers, and what follows from it.
    pub(super) fn with_allocation(&mut self, id: SockId, work: impl FnOnce(&mut Servers, &mut Cx)) {
        if let Some(allocation) = self.allocations.get_mut(&id) {
            work(&mut allocation.servers, &mut self.cx);
            self.work_allocation(id);
        }
    }

    pub(super) fn allocation_timeout(&mut self, id: SockId) {
        let now = self.cx.now;
        match self.allocations.get(&id).map(|a| a.stage) {
            Some(Stage::Asking(until)) if until <= now => {
                let why = self.allocations.get(&id).map(|a| a.servers.describe());
                self.not_allocated(id, why.unwrap_or_default());
            }
            Some(Stage::Closing(until)) if until <= now => self.forget_allocation(id),
            Some(_) => self.with_allocation(id, Servers::timeout),
            None => {}
        }
    }

    /// Asks the servers whether they still know us: our address is another one perhaps.
    pub(super) fn check_allocations(&mut self) {
        for id in self.allocations.keys().copied().collect::<Vec<_>>() {
            self.with_allocation(id, Servers::check);
        }
    }

    /// Hands the user's new credentials for a server of the configuration on; `None` if the user has none.
    pub(super) fn allocations_renew(&mut self, place: u8, fresh: Option<&Credentials>) {
        let listed = self.allocations.iter().filter(|(_, a)| a.listed).map(|(id, _)| *id);
        for id in listed.collect::<Vec<_>>() {
            self.with_allocation(id, |servers, cx| servers.renew(cx, place, fresh));
        }
    }

    /// Ends all allocations with the node: each server is told once.
    pub(super) fn shut_allocations(&mut self) {
        for (id, mut allocation) in core::mem::take(&mut self.allocations) {
            match allocation.stage {
                Stage::Asking(_) => self.tell_not_allocated(id, "the node was shut down".into()),
                Stage::Open => {
                    self.cx.pipe_news(PipeId(id.number()), PipeNews::Ended(PipeEnd::Shutdown));
                }
                Stage::Over | Stage::Closing(_) => {}
            }
            allocation.servers.close(&mut self.cx);
            allocation.servers.drop_sockets(&mut self.cx);
        }
    }

    /// Goes on with an allocation after anything that happened to it.
    fn work_allocation(&mut self, id: SockId) {
        while let Some(news) = self.allocations.get_mut(&id).and_then(|a| a.servers.poll_news()) {
            self.allocation_news(id, news);
        }
        let Some(allocation) = self.allocations.get(&id) else { return };
        let until = match allocation.stage {
            Stage::Closing(_) if allocation.servers.is_over() => return self.forget_allocation(id),
            Stage::Asking(until) | Stage::Closing(until) => Some(until),
            Stage::Open | Stage::Over => None,
        };
        let next = allocation.servers.poll_timeout().into_iter().chain(until).min();
        self.cx.timers.set(Timer::Allocation(id), next);
    }

    fn allocation_news(&mut self, id: SockId, news: ServerNews) {
        let Some(allocation) = self.allocations.get_mut(&id) else { return };
        let pipe = PipeId(id.number());
        match (news, allocation.stage) {
            (ServerNews::Allocated(relayed), Stage::Asking(_)) => {
                allocation.stage = Stage::Open;
                let other = allocation.servers.other_relayed();
                self.cx.open_allocation(pipe, relayed, other);
            }
            (ServerNews::Data(from, data), Stage::Open) => {
                if allocation.inbox.len() >= MAX_WAITING {
                    self.cx.stats.datagrams_dropped += 1;
                } else {
                    if allocation.inbox.is_empty() {
                        self.cx.pipe_news(pipe, PipeNews::Message);
                    }
                    allocation.inbox.push_back((from, data));
                }
            }
            (ServerNews::Refused(peer, code), Stage::Open) => {
                self.cx.notify(Notice::PeerRefused { pipe, peer, code });
            }
            (ServerNews::Redirected { by, to, anywhere }, Stage::Asking(_)) => {
                let may = self.may_follow(to, anywhere);
                self.with_allocation(id, |servers, cx| servers.follow(cx, by, to, may));
            }
            (ServerNews::Stale(place), Stage::Asking(_)) if allocation.listed => {
                self.want_login(ServerRef::Turn(place));
            }
            (ServerNews::Stale(place), Stage::Asking(_)) => {
                allocation.servers.renew(&mut self.cx, place, None);
            }
            (ServerNews::Failed(why), Stage::Asking(_)) => self.not_allocated(id, why),
            (ServerNews::Lost(why), Stage::Open) => {
                allocation.stage = Stage::Over;
                allocation.servers.close(&mut self.cx);
                self.cx.pipe_news(pipe, PipeNews::Ended(server_end(why)));
            }
            _ => {}
        }
    }

    fn not_allocated(&mut self, id: SockId, why: String) {
        self.tell_not_allocated(id, why);
        self.close_allocation(id);
    }

    fn tell_not_allocated(&mut self, id: SockId, why: String) {
        self.cx.notify(Notice::NotAllocated { pipe: PipeId(id.number()), why: why.into() });
    }

    fn forget_allocation(&mut self, id: SockId) {
        self.cx.timers.set(Timer::Allocation(id), None);
        if let Some(mut allocation) = self.allocations.remove(&id) {
            allocation.servers.drop_sockets(&mut self.cx);
        }
    }
}
