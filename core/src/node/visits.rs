//! What peers ask of us: to dial them, and, where the configuration says so, our user's word.

use core::mem::discriminant;
use core::time::Duration;
use std::net::SocketAddr;

use bytes::Bytes;
use smallvec::SmallVec;

use super::Node;
use super::relaying::{MAX_RELAYS, MAX_RELAYS_STRANGERS};
use crate::address::PeerAddress;
use crate::config::Accept;
use crate::cx::Timer;
use crate::identity::NodeId;
use crate::io::SockId;
use crate::notice::{Notice, Refusal};
use crate::pipe::PipeMode;
use crate::session::SessionId;
use crate::signal::mappings::Mappings;
use crate::signal::message::{Body, MAX_DIALS};
use crate::strategy::agreement::{Key, Requester};
use crate::strategy::dialler::{DialEnd, Dialler};
use crate::strategy::paths::{self, Trust};
use crate::time::Instant;

/// A visit ends after this long. It outlives the dials, whose results it reports.
const VISIT_WITHIN: Duration = Duration::from_secs(12);
/// Most visits at a time: in all, and of these to strangers, so that they leave room for whom our user named.
const MAX_VISITS: usize = 64;
const MAX_VISITS_STRANGERS: usize = 48;
/// Most visits at a time of one stranger, and of one peer that is known.
const MAX_VISITS_STRANGER: usize = 1;
const MAX_VISITS_KNOWN: usize = 8;
/// Most peers that our user is asked about at a time, and most things one of them may have waiting.
const MAX_ASKS: usize = 64;
const MAX_WAITING: usize = 4;
/// The user has this long to answer.
const ASK_WITHIN: Duration = Duration::from_secs(30);

/// A peer asked us to dial it.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) peer: NodeId,
    pub(super) trust: Trust,
    mode: PipeMode,
    /// Where the peer said that it is.
    pub(super) address: Box<PeerAddress>,
    pub(super) dialler: Dialler,
    /// Places of the brokers that reach the peer.
    via: SmallVec<[u8; 2]>,
    until: Instant,
}

/// A request to come to a peer.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) peer: NodeId,
    pub(super) session: SessionId,
    pub(super) mode: PipeMode,
    pub(super) address: PeerAddress,
    pub(super) via: SmallVec<[u8; 2]>,
    pub(super) how: How,
}

/// What a peer asks for.
#[derive(Debug)]
pub(super) enum How {
    Dial,
    Punch(Box<Mappings>),
    /// Come to its relay at this address, for a pipe that may move.
    Relay {
        relayed: SocketAddr,
        moves: bool,
    },
}

/// A question to our user, with what hangs on it.
#[derive(Debug)]
pub(super) struct Ask {
    until: Instant,
    streams: SmallVec<[SockId; MAX_WAITING]>,
    wishes: Vec<Wish>,
}

impl Node {
    /// A peer wants to be dialled.
    pub(super) fn wish(&mut self, wish: Wish) {
        let key = (wish.session, Requester::Them);
        let known = match (&wish.how, self.punches.get(&key)) {
            // A peer whose network has become another asks anew in the same session.
            (How::Dial, _) => {
                let same = |v: &Visit| v.peer != wish.peer || *v.address == wish.address;
                self.visits.get(&wish.session).is_some_and(|v| same(v))
            }
            (How::Relay { .. }, _) => self.is_relaying(key) || self.agreement.is_carried(key),
            (How::Punch(mappings), Some(punch)) if punch.peer == wish.peer && mappings.rung > punch.rung => {
                // The next rung of a punch that was judged.
                return self.visit_by_punch(wish.peer, wish.session, wish.via, mappings);
            }
            (How::Punch(_), punch) => punch.is_some(),
        };
        if self.agreement.is_over(key) || known {
            return;
        }
        if let Err(why) = self.judge_wish(&wish) {
            self.cx.stats.refused += 1;
            return self.reply(wish.peer, wish.session, &wish.via, Body::Refused(why));
        }
        let ask = self.config.accept == Accept::Ask
            && !self.known.contains(&wish.peer)
            && !self.is_oneself(wish.peer);
        if !ask {
            return self.visit(wish);
        }
        let peer = wish.peer;
        match self.ask(peer) {
            Some(ask)
                if ask.wishes.iter().all(|w| {
                    w.session != wish.session || discriminant(&w.how) != discriminant(&wish.how)
                }) =>
            {
                ask.wishes.push(wish);
            }
            Some(_) => {}
            None => {
                self.cx.stats.refused += 1;
                self.reply(peer, wish.session, &wish.via, Body::Refused(Refusal::Busy));
            }
        }
    }

    pub(super) fn drive_visit(&mut self, session: SessionId) {
        let now = self.cx.now;
        let key = (session, Requester::Them);
        while let Some(visit) = self.visits.get_mut(&session) {
            let (peer, mode) = (visit.peer, visit.mode);
            if let Some(path) = visit.dialler.due(now) {
                let sock = self.dial_stream(path, key, peer, mode);
                if let Some(visit) = self.visits.get_mut(&session) {
                    visit.dialler.started(sock, path, now);
                }
                continue;
            }
            if !visit.dialler.is_exhausted() && visit.until > now {
                let next = visit.dialler.next().unwrap_or(visit.until).min(visit.until);
                self.cx.timers.set(Timer::Visit(session), Some(next));
                return;
            }
            let in_vain = visit.dialler.is_exhausted();
            let dials = visit.dialler.failures().take(MAX_DIALS).collect();
            let via = visit.via.clone();
            self.visits.remove(&session);
            self.cx.timers.set(Timer::Visit(session), None);
            self.reply(peer, session, &via, Body::Dialled(dials));
            self.doubt();
            // The call is the peer's and goes on without us: a dial of its own may be in its hello, or come.
            let goes_on = self.is_punching(key)
                || self.is_relaying(key)
                || self.has_accepted_stream(key)
                || self.agreement.is_carried(key);
            match (goes_on, in_vain) {
                (true, _) => {}
                (false, true) => self.agreement.forget(key),
                (false, false) => self.abandon(key, peer),
            }
        }
    }

    /// A stream of a peer's session is gone.
    pub(super) fn visit_lost_stream(&mut self, key: Key, sock: SockId, why: DialEnd) {
        let now = self.cx.now;
        if let Some(visit) = self.visits.get_mut(&key.0) {
            if visit.dialler.ended(sock, why, now) {
                self.drive_visit(key.0);
            }
        } else {
            self.forget_visit(key);
        }
    }

    /// A peer's session that has lost its last stream, and nothing that could give one: the call is the peer's, and its
    /// next dial may be on the way.
    pub(super) fn forget_visit(&mut self, key: Key) {
        let goes_on = self.visits.contains_key(&key.0) || self.is_punching(key) || self.is_relaying(key);
        if !goes_on && self.streams.of_session(key).next().is_none() {
            self.agreement.forget(key);
        }
    }

    pub(super) fn may_ask(&self, peer: NodeId) -> bool {
        match self.asks.get(&peer) {
            Some(ask) => ask.streams.len() + ask.wishes.len() < MAX_WAITING,
            None => self.asks.len() < MAX_ASKS,
        }
    }

    pub(super) fn ask_about_stream(&mut self, peer: NodeId, sock: SockId) {
        if let Some(ask) = self.ask(peer) {
            ask.streams.push(sock);
        }
    }

    pub(super) fn answer_ask(&mut self, peer: NodeId, yes: bool) {
        if yes {
            self.remember(peer);
        }
        let Some(ask) = self.asks.remove(&peer) else { return };
        self.arm_asks();
        for sock in ask.streams {
            self.answer_stream(sock, yes);
        }
        for wish in ask.wishes {
            if yes {
                self.visit(wish);
            } else {
                self.cx.stats.refused += 1;
                self.reply(wish.peer, wish.session, &wish.via, Body::Refused(Refusal::NotAccepted));
            }
        }
    }

    pub(super) fn expire_asks(&mut self) {
        let now = self.cx.now;
        let late: Vec<NodeId> =
            self.asks.iter().filter(|(_, a)| a.until <= now).map(|(peer, _)| *peer).collect();
        for peer in late {
            self.answer_ask(peer, false);
        }
        self.arm_asks();
    }

    fn judge_wish(&mut self, wish: &Wish) -> Result<(), Refusal> {
        let now = self.cx.now;
        if self.is_oneself(wish.peer) {
            return Ok(());
        }
        if matches!(&self.config.accept, Accept::Only(list) if !list.contains(&wish.peer)) {
            return Err(Refusal::NotAccepted);
        }
        if wish.mode == PipeMode::Plain && !self.config.allow_plain {
            return Err(Refusal::PlainNotAllowed);
        }
        let trust = self.trust(wish.peer);
        let (of_one, of_all) = match trust {
            Trust::Known => (MAX_VISITS_KNOWN, MAX_VISITS),
            Trust::Stranger => (MAX_VISITS_STRANGER, MAX_VISITS_STRANGERS),
        };
        let most = if trust == Trust::Known { MAX_RELAYS } else { MAX_RELAYS_STRANGERS };
        if matches!(wish.how, How::Relay { .. }) && self.relays.len() >= most {
            return Err(Refusal::Busy);
        }
        // The same call may ask for a dial and for a punch.
        let visits = self.visits.iter().map(|(session, v)| (*session, v.peer, v.trust));
        let punches = self.punches.iter().filter(|(key, _)| key.1 == Requester::Them);
        let punches = punches.map(|(key, p)| (key.0, p.peer, p.trust));
        let relays = self.relays.values().filter(|r| r.is_opening() && r.key().1 == Requester::Them);
        let relays = relays.map(|r| (r.key().0, r.peer(), r.trust()));
        let others = || {
            let all = visits.clone().chain(punches.clone()).chain(relays.clone());
            all.filter(|(session, ..)| *session != wish.session)
        };
        let counted = |t: Trust| trust == Trust::Known || t == Trust::Stranger;
        let room = others().filter(|(_, peer, _)| *peer == wish.peer).count() < of_one
            && others().filter(|(.., t)| counted(*t)).count() < of_all;
        let within_rates = room
            && self.requests_by_peer[trust as usize].take(now, wish.peer)
            && (trust == Trust::Known || self.requests.take(now));
        if within_rates { Ok(()) } else { Err(Refusal::Busy) }
    }

    pub(super) fn trust(&self, peer: NodeId) -> Trust {
        let listed = matches!(&self.config.accept, Accept::Only(list) if list.contains(&peer));
        if listed || self.is_oneself(peer) || self.known.contains(&peer) {
            Trust::Known
        } else {
            Trust::Stranger
        }
    }

    /// Dials the peer.
    fn visit(&mut self, wish: Wish) {
        let Wish { peer, session, mode, address, via, how } = wish;
        match how {
            How::Dial => {}
            How::Punch(mappings) => return self.visit_by_punch(peer, session, via, &mappings),
            How::Relay { relayed, moves } => {
                return self.visit_by_relay(peer, session, via, mode, relayed, moves);
            }
        }
        let trust = self.trust(peer);
        let paths = paths::to_peer(&self.routes, &self.links, &address, self.is_oneself(peer), trust);
        if paths.is_empty() {
            return self.reply(peer, session, &via, Body::Dialled(SmallVec::new()));
        }
        self.close_dials_of((session, Requester::Them));
        let dialler = Dialler::new(paths, self.cx.now);
        self.reply(peer, session, &via, Body::Dialling(dialler.planned() as u8));
        self.agreement.open((session, Requester::Them), peer, mode);
        let until = self.cx.now + VISIT_WITHIN;
        self.visits.insert(
            session,
            Box::new(Visit { peer, trust, mode, address: Box::new(address), dialler, via, until }),
        );
        self.drive_visit(session);
    }

    /// Sends a message that a peer's message caused, within the rate for such.
    pub(super) fn reply(&mut self, to: NodeId, session: SessionId, via: &[u8], body: Body) {
        if !self.may_reply(to) {
            return;
        }
        let (_, sealed): (_, Bytes) = self.seal(to, session, 0, body);
        let until = self.cx.now + VISIT_WITHIN;
        self.publish(to, &sealed, via, until);
    }

    /// Whether the rate for answers to this peer allows one more, which it counts.
    pub(super) fn may_reply(&mut self, to: NodeId) -> bool {
        let trust = self.trust(to);
        self.is_oneself(to) || self.replies_by_peer[trust as usize].take(self.cx.now, to)
    }

    /// The open question about a peer, put to the user if it is new; `None` when too much waits already.
    fn ask(&mut self, peer: NodeId) -> Option<&mut Ask> {
        if !self.may_ask(peer) {
            return None;
        }
        if !self.asks.contains_key(&peer) {
            let until = self.cx.now + ASK_WITHIN;
            self.asks.insert(peer, Ask { until, streams: SmallVec::new(), wishes: Vec::new() });
            self.cx.notify(Notice::Ask { peer });
            self.arm_asks();
        }
        self.asks.get_mut(&peer)
    }

    fn arm_asks(&mut self) {
        let next = self.asks.values().map(|a| a.until).min();
        self.cx.timers.set(Timer::Asks, next);
    }
}
