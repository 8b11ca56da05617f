//! Allocations at TURN servers in their users' hands: pipes without a peer. They send from the relayed address to
//! anybody, and hear whoever was sent to.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use bytes::Bytes;

use super::allocate::{Allocate, AllocateError, MAX_ALLOCATIONS};
use super::logins::Logins;
use super::network::Network;
use super::servers::{ServerNews, Servers, server_end};
use crate::config::{Config, check_turn};
use crate::cx::{Cx, Owner, Timer};
use crate::event::Event;
use crate::io::Input;
use crate::login::ServerRef;
use crate::pipe::{PipeEnd, PipeId, PipeNews};
use crate::time::Instant;
use crate::turn::{Credentials, Family, SendError};

/// Most datagrams of an allocation that wait for its user; further ones are dropped and counted.
const MAX_WAITING: usize = 256;
/// Time for the servers to be told that an allocation is given up.
const END_WITHIN: Duration = Duration::from_secs(5);

/// The allocations by their ids, which are numbered as sockets are.
#[derive(Debug, Default)]
pub(super) struct Allocations(BTreeMap<PipeId, Box<Allocation>>);

/// An allocation, from the first request to its end.
#[derive(Debug)]
struct Allocation {
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

/// Parts of the node that allocations need.
pub(super) struct Env<'a> {
    pub(super) cx: &'a mut Cx,
    pub(super) network: &'a Network,
    pub(super) logins: &'a mut Logins,
}

impl Allocations {
    /// Asks TURN servers for a relayed address, as [`Node::allocate`](super::Node::allocate) says.
    pub(super) fn open(
        &mut self,
        env: &mut Env<'_>,
        config: &Config,
        wish: &Allocate,
    ) -> Result<PipeId, AllocateError> {
        check_turn(&wish.servers).map_err(AllocateError::Servers)?;
        let (listed, ours) = (wish.servers.is_empty(), env.network.families());
        let list = if listed { &config.turn } else { &wish.servers };
        if list.is_empty() {
            return Err(AllocateError::NoServer);
        }
        if self.0.len() >= MAX_ALLOCATIONS {
            return Err(AllocateError::TooMany);
        }
        let id = env.cx.fresh_pipe();
        let any = matches!(wish.family, None | Some(Family::Both));
        let family = (wish.family.unwrap_or(Family::V4), any);
        let servers = Servers::start(env.cx, Owner::Allocation(id), list, config.bind, ours, family);
        let stage = Stage::Asking(env.cx.now + wish.timeout);
        let allocation = Allocation { servers, listed, stage, inbox: VecDeque::new() };
        self.0.insert(id, Box::new(allocation));
        self.work(env, id);
        Ok(id)
    }

    /// Sends a datagram from the relayed address.
    pub(super) fn send_to(
        &mut self,
        env: &mut Env<'_>,
        id: PipeId,
        to: SocketAddr,
        data: &[u8],
    ) -> Result<(), SendError> {
        let open = self.0.get_mut(&id).filter(|a| a.stage == Stage::Open);
        let sent = open.ok_or(SendError::Closed)?.servers.send_permitting(env.cx, to, data);
        self.work(env, id);
        sent
    }

    /// Takes the oldest datagram that came, with its sender.
    pub(super) fn recv_from(&mut self, id: PipeId) -> Option<(SocketAddr, Bytes)> {
        self.0.get_mut(&id)?.inbox.pop_front()
    }

    pub(super) fn has(&self, id: PipeId) -> bool {
        self.0.contains_key(&id)
    }

    /// Takes in an input of a socket or a query of an allocation.
    pub(super) fn handle(&mut self, env: &mut Env<'_>, id: PipeId, input: Input<'_>) {
        self.with(env, id, |servers, cx| servers.handle(cx, input));
    }

    /// Gives an allocation up. Nothing is said about it any more.
    pub(super) fn close(&mut self, env: &mut Env<'_>, id: PipeId) {
        let Some(allocation) = self.0.get_mut(&id) else { return };
        allocation.stage = Stage::Closing(env.cx.now + END_WITHIN);
        allocation.inbox.clear();
        allocation.servers.close(env.cx);
        self.work(env, id);
    }

    /// Does something with an allocation's servers, and what follows from it.
    pub(super) fn with(&mut self, env: &mut Env<'_>, id: PipeId, work: impl FnOnce(&mut Servers, &mut Cx)) {
        if let Some(allocation) = self.0.get_mut(&id) {
            work(&mut allocation.servers, env.cx);
            self.work(env, id);
        }
    }

    pub(super) fn timeout(&mut self, env: &mut Env<'_>, id: PipeId) {
        let now = env.cx.now;
        match self.0.get(&id).map(|a| a.stage) {
            Some(Stage::Asking(until)) if until <= now => {
                let why = self.0.get(&id).map(|a| a.servers.describe());
                self.not_allocated(env, id, why.unwrap_or_default());
            }
            Some(Stage::Closing(until)) if until <= now => self.forget(env, id),
            Some(_) => self.with(env, id, Servers::timeout),
            None => {}
        }
    }

    /// Asks the servers whether they still know us: our address is another one perhaps.
    pub(super) fn check(&mut self, env: &mut Env<'_>) {
        for id in self.0.keys().copied().collect::<Vec<_>>() {
            self.with(env, id, Servers::check);
        }
    }

    /// Hands the user's new credentials for a server of the configuration on; `None` if the user has none.
    pub(super) fn renew(&mut self, env: &mut Env<'_>, place: u8, fresh: Option<&Credentials>) {
        let listed = self.0.iter().filter(|(_, a)| a.listed).map(|(id, _)| *id);
        for id in listed.collect::<Vec<_>>() {
            self.with(env, id, |servers, cx| servers.renew(cx, place, fresh));
        }
    }

    /// Ends all allocations with the node: each server is told once.
    pub(super) fn shut(&mut self, env: &mut Env<'_>) {
        for (id, mut allocation) in core::mem::take(&mut self.0) {
            match allocation.stage {
                Stage::Asking(_) => tell_not_allocated(env.cx, id, "the node was shut down".into()),
                Stage::Open => {
                    env.cx.pipe_news(id, PipeNews::Ended(PipeEnd::Shutdown));
                }
                Stage::Over | Stage::Closing(_) => {}
            }
            allocation.servers.close(env.cx);
            allocation.servers.drop_sockets(env.cx);
        }
    }

    /// Goes on with an allocation after anything that happened to it.
    fn work(&mut self, env: &mut Env<'_>, id: PipeId) {
        while let Some(news) = self.0.get_mut(&id).and_then(|a| a.servers.poll_news()) {
            self.news(env, id, news);
        }
        let Some(allocation) = self.0.get(&id) else { return };
        let until = match allocation.stage {
            Stage::Closing(_) if allocation.servers.is_over() => return self.forget(env, id),
            Stage::Asking(until) | Stage::Closing(until) => Some(until),
            Stage::Open | Stage::Over => None,
        };
        let next = allocation.servers.poll_timeout().into_iter().chain(until).min();
        env.cx.timers.set(Timer::Allocation(id), next);
    }

    fn news(&mut self, env: &mut Env<'_>, id: PipeId, news: ServerNews) {
        let Some(allocation) = self.0.get_mut(&id) else { return };
        match (news, allocation.stage) {
            (ServerNews::Allocated(relayed), Stage::Asking(_)) => {
                allocation.stage = Stage::Open;
                let other = allocation.servers.other_relayed();
                env.cx.open_allocation(id, relayed, other);
            }
            (ServerNews::Data(from, data), Stage::Open) => {
                if allocation.inbox.len() >= MAX_WAITING {
                    env.cx.stats.datagrams_dropped += 1;
                } else {
                    if allocation.inbox.is_empty() {
                        env.cx.pipe_news(id, PipeNews::Message);
                    }
                    allocation.inbox.push_back((from, data));
                }
            }
            (ServerNews::Refused(peer, code), Stage::Open) => {
                env.cx.notify(Event::PeerRefused { pipe: id, peer, code });
            }
            (ServerNews::Redirected { by, to, anywhere }, Stage::Asking(_)) => {
                let may = env.network.may_follow(to, anywhere);
                self.with(env, id, |servers, cx| servers.follow(cx, by, to, may));
            }
            (ServerNews::Stale(place), Stage::Asking(_)) if allocation.listed => {
                env.logins.want(env.cx, ServerRef::Turn(place));
            }
            (ServerNews::Stale(place), Stage::Asking(_)) => {
                allocation.servers.renew(env.cx, place, None);
            }
            (ServerNews::Failed(why), Stage::Asking(_)) => self.not_allocated(env, id, why),
            (ServerNews::Lost(why), Stage::Open) => {
                allocation.stage = Stage::Over;
                allocation.servers.close(env.cx);
                env.cx.pipe_news(id, PipeNews::Ended(server_end(why)));
            }
            _ => {}
        }
    }

    fn not_allocated(&mut self, env: &mut Env<'_>, id: PipeId, why: String) {
        tell_not_allocated(env.cx, id, why);
        self.close(env, id);
    }

    fn forget(&mut self, env: &mut Env<'_>, id: PipeId) {
        env.cx.timers.set(Timer::Allocation(id), None);
        if let Some(mut allocation) = self.0.remove(&id) {
            allocation.servers.drop_sockets(env.cx);
        }
    }
}

fn tell_not_allocated(cx: &mut Cx, id: PipeId, why: String) {
    cx.notify(Event::NotAllocated { pipe: id, why: why.into() });
}
