//! Requests of peers: visits, which are dials to the peer, and, where the configuration says so, questions to our user.

use bytes::Bytes;
use core::time::Duration;
use smallvec::SmallVec;

use super::Node;
use super::admission::{Denied, Entry, How, Kind, Place, Trust, Waiting, Wish, Worth};
use super::session::{DIAL_WITHIN, STRANGERS_DIAL_WITHIN};
use crate::address::PeerAddress;
use crate::cx::Timer;
use crate::identity::NodeId;
use crate::io::SockId;
use crate::notice::{Refusal, Strategy};
use crate::pipe::Terms;
use crate::random::Domain;
use crate::session::SessionId;
use crate::signal::message::{Body, MAX_DIALS};
use crate::strategy::agreement::{Key, Requester};
use crate::strategy::dialler::{DialEnd, Dialler};
use crate::strategy::paths::{self, Path, Paths};
use crate::time::Instant;

/// A visit to a peer that is known ends after this long. It outlives the dials, whose results it reports.
const VISIT_WITHIN: Duration = Duration::from_secs(12);
/// A visit to a stranger takes exactly so long, whatever became of its dials. The stranger cannot learn which of the
/// addresses answered: not from the answer, nor from its time, nor from leave to ask again. Dials without an answer are
/// over by then.
const STRANGERS_VISIT: Duration = Duration::from_secs(4);

/// A peer asked us to dial it.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) peer: NodeId,
    pub(super) trust: Trust,
    terms: Terms,
    /// Address that the peer sent.
    pub(super) address: Box<PeerAddress>,
    pub(super) dialler: Dialler,
    /// Places of the brokers that reach the peer.
    via: SmallVec<[u8; 2]>,
    since: Instant,
}

impl Node {
    /// Handles a request of a peer. Returns true if it had an effect, so that a copy of the message must have none.
    pub(super) fn wish(&mut self, wish: Wish) -> bool {
        let key = (wish.session, Requester::Them);
        let known = match (&wish.how, self.punches.get(&key)) {
            // A peer whose network has become another asks anew in the same session.
            (How::Dial, _) => {
                let same = |v: &Visit| v.peer != wish.peer || *v.address == wish.address;
                self.visits.get(&wish.session).is_some_and(|v| same(v))
            }
            (How::Relay { .. }, _) => self.is_relaying(key) || self.sessions.is_carried(key),
            (How::Punch(mappings), Some(punch)) if punch.peer == wish.peer && mappings.rung > punch.rung => {
                // The next rung of a punch that was judged.
                let place = self.place_of(&wish);
                let random = &mut self.cx.random;
                let goes_on = self
                    .admission
                    .go_on(self.cx.now, place, |below| random.below(Domain::Admission, below))
                    .is_ok();
                if goes_on {
                    self.visit_by_punch(wish.peer, wish.session, wish.via, mappings);
                }
                return goes_on;
            }
            (How::Punch(_), punch) => punch.is_some(),
        };
        if self.sessions.is_over(key) || known {
            return false;
        }
        let entry = match self.judge_wish(&wish) {
            Ok(entry) => entry,
            Err(denied) => {
                self.deny(&wish, denied);
                return false;
            }
        };
        match entry {
            Entry::Open => self.visit(wish),
            Entry::Ask => {
                match self.admission.ask(&mut self.cx, wish.peer, None, Waiting::Wish(Box::new(wish))) {
                    Ok(()) | Err(Waiting::Stream(_)) => {}
                    Err(Waiting::Wish(wish)) => {
                        self.deny(&wish, Denied::Refused(Refusal::Busy));
                        return false;
                    }
                }
            }
        }
        true
    }

    pub(super) fn drive_visit(&mut self, session: SessionId) {
        let now = self.cx.now;
        let key = (session, Requester::Them);
        while let Some(visit) = self.visits.get_mut(&session) {
            let (peer, terms, until) = (visit.peer, visit.terms, visit.until());
            if let Some(path) = visit.dialler.due(now) {
                let sock = self.dial_path(path, key, peer, terms);
                if let Some(visit) = self.visits.get_mut(&session) {
                    visit.dialler.started(sock, path, now);
                }
                continue;
            }
            let stranger = visit.trust == Trust::Stranger;
            if until > now && (stranger || !visit.dialler.is_exhausted()) {
                let next = visit.dialler.next().unwrap_or(until).min(until);
                self.cx.timers.set(Timer::Visit(session), Some(next));
                return;
            }
            let in_vain = visit.dialler.is_exhausted();
            self.end_visit(session);
            self.doubt();
            // The call is the peer's and goes on without us: a dial of its own may be in its hello, or come.
            let goes_on = self.is_punching(key)
                || self.is_relaying(key)
                || self.sessions.has_accepted(key)
                || self.sessions.is_carried(key);
            match (goes_on, in_vain) {
                (true, _) => {}
                // What has connected may still be in its hello.
                (false, false) if stranger => self.forget_visit(key),
                (false, true) => self.sessions.forget(key),
                (false, false) => self.abandon(key, peer),
            }
        }
    }

    /// Dials a path for a session.
    pub(super) fn dial_path(&mut self, path: Path, key: Key, peer: NodeId, terms: Terms) -> SockId {
        let local = self.network.dial_from(path.remote.ip());
        let stranger = key.1 == Requester::Them && self.admission.trust(peer) == Trust::Stranger;
        let within = if stranger { STRANGERS_DIAL_WITHIN } else { DIAL_WITHIN };
        self.sessions.dial(&mut self.cx, [local, path.remote], within, (key, peer, terms))
    }

    /// Says what became of the dials that a peer asked for, and makes no more.
    fn end_visit(&mut self, session: SessionId) {
        let Some(visit) = self.visits.remove(&session) else { return };
        self.cx.timers.set(Timer::Visit(session), None);
        let count = visit.dialler.planned() as u8;
        let told = if visit.trust == Trust::Stranger { 0 } else { MAX_DIALS };
        let dials = visit.dialler.failures().take(told).collect();
        self.reply(visit.peer, session, &visit.via, Body::Dialled { count, dials });
    }

    /// Ends what a stranger has, for another.
    fn turn_out(&mut self, place: Place) {
        let key = (place.session, Requester::Them);
        match place.kind {
            Kind::Dial => {
                self.end_visit(place.session);
                self.sessions.close_dials_of(&mut self.cx, key);
            }
            Kind::Punch => self.forget_punch(key),
            Kind::Relay => self.end_relay(key),
        }
        self.forget_visit(key);
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

    /// Forgets what was agreed in a peer's session that has lost its last stream, if nothing could give it another. The
    /// call is the peer's, and its next dial may be on the way.
    pub(super) fn forget_visit(&mut self, key: Key) {
        let goes_on = self.visits.contains_key(&key.0) || self.is_punching(key) || self.is_relaying(key);
        if !goes_on {
            self.sessions.forget_streamless(key);
        }
    }

    pub(super) fn answer_ask(&mut self, peer: NodeId, yes: bool) {
        for what in self.admission.answered(&mut self.cx, peer, yes) {
            match what {
                Waiting::Stream(sock) => self.with_sessions(|all, env| all.answer(env, sock, yes)),
                Waiting::Wish(wish) if !yes => self.deny(&wish, Denied::Refused(Refusal::NotAccepted)),
                Waiting::Wish(wish) if !self.has_room_for(&wish) => {
                    self.deny(&wish, Denied::Refused(Refusal::Busy));
                }
                Waiting::Wish(wish) => self.visit(*wish),
            }
        }
    }

    pub(super) fn expire_asks(&mut self) {
        for peer in self.admission.late(self.cx.now) {
            self.answer_ask(peer, false);
        }
    }

    /// Returns true if what the wish asks for fits. A wish that waits for the user's answer holds no place.
    fn has_room_for(&self, wish: &Wish) -> bool {
        let place = self.place_of(wish);
        place.kind != Kind::Relay || self.has_relay_room(place.trust)
    }

    fn judge_wish(&mut self, wish: &Wish) -> Result<Entry, Denied> {
        let place = self.place_of(wish);
        let entry = self.admission.enter(wish.peer, wish.terms).map_err(Denied::Refused)?;
        if !self.has_room_for(wish) {
            return Err(Denied::Refused(Refusal::Busy));
        }
        let places = self.places();
        let (now, random) = (self.cx.now, &mut self.cx.random);
        let draw = |below| random.below(Domain::Admission, below);
        if let Some(oldest) = self.admission.admit(now, place, wish.terms, places.iter().copied(), draw)? {
            self.turn_out(oldest);
        }
        Ok(entry)
    }

    /// Returns the places that the requests of peers have.
    fn places(&self) -> Vec<Place> {
        let met = |session| self.sessions.has_proven((session, Requester::Them));
        let visits = self.visits.iter().map(|(session, visit)| visit.place(*session, met(*session)));
        let punches = self.punches.iter().filter(|(key, _)| key.1 == Requester::Them);
        let punches = punches.map(|(key, punch)| punch.place(key.0, met(key.0)));
        let relays = self.relays.values().filter(|r| r.is_opening() && r.key().1 == Requester::Them);
        visits.chain(punches).chain(relays.map(|r| r.place())).collect()
    }

    /// Returns the place that a request will have if it is admitted.
    fn place_of(&self, wish: &Wish) -> Place {
        Place {
            kind: wish.how.kind(),
            session: wish.session,
            peer: wish.peer,
            trust: self.admission.trust(wish.peer),
            since: self.cx.now,
            answered: false,
        }
    }

    fn deny(&mut self, wish: &Wish, why: Denied) {
        self.cx.stats.refused += 1;
        if let Denied::Refused(why) = why {
            self.reply(wish.peer, wish.session, &wish.via, Body::Refused(why));
        }
    }

    /// Dials the peer.
    fn visit(&mut self, wish: Wish) {
        let Wish { peer, session, terms, address, via, how } = wish;
        match how {
            How::Dial => {}
            How::Punch(mappings) => return self.visit_by_punch(peer, session, via, &mappings),
            How::Relay { relayed, moves } => {
                return self.visit_by_relay(peer, session, via, terms, relayed, moves);
            }
        }
        let trust = self.admission.trust(peer);
        let paths = self.paths_to(peer, &address, trust);
        if paths.is_empty() {
            let reason = self.why_not_dialled(peer, &address, Strategy::Reverse);
            return self.reply(peer, session, &via, reason);
        }
        self.sessions.close_dials_of(&mut self.cx, (session, Requester::Them));
        let dialler = Dialler::new(paths, self.cx.now);
        self.reply(peer, session, &via, Body::Dialling(dialler.planned() as u8));
        self.sessions.open((session, Requester::Them), peer, terms);
        let (since, address) = (self.cx.now, Box::new(address));
        self.visits.insert(session, Box::new(Visit { peer, trust, terms, address, dialler, via, since }));
        self.drive_visit(session);
    }

    pub(super) fn paths_to(&self, peer: NodeId, address: &PeerAddress, trust: Trust) -> Paths {
        paths::to_peer(&self.network.ours(), self.network.links(), address, self.is_oneself(peer), trust)
    }

    /// Returns the answer to a peer of whose addresses none is dialled.
    pub(super) fn why_not_dialled(&self, peer: NodeId, address: &PeerAddress, asked: Strategy) -> Body {
        let stranger = self.admission.trust(peer) == Trust::Stranger;
        match stranger && !self.paths_to(peer, address, Trust::Known).is_empty() {
            true => Body::Refused(Refusal::PrivateForStrangers { asked }),
            false => Body::Dialled { count: 0, dials: SmallVec::new() },
        }
    }

    /// Sends a message that a peer's message caused, within the rate for such.
    pub(super) fn reply(&mut self, to: NodeId, session: SessionId, via: &[u8], body: Body) {
        let _ = self.try_reply(to, session, via, body);
    }

    /// Sends a message as [`reply`](Self::reply) does. Returns false if the rate does not allow it.
    pub(super) fn try_reply(&mut self, to: NodeId, session: SessionId, via: &[u8], body: Body) -> bool {
        if !self.may_reply(to, Worth::of(&body)) {
            return false;
        }
        let (_, sealed): (_, Bytes) = self.signalling.seal(&mut self.cx, to, session, 0, body);
        let until = self.cx.now + VISIT_WITHIN;
        let stranger = self.admission.trust(to) == Trust::Stranger;
        let free =
            |place: &&u8| !stranger || self.signalling.session(**place).is_some_and(|b| !b.is_crowded());
        let via: SmallVec<[u8; 2]> = via.iter().filter(free).copied().collect();
        self.signalling.publish(&mut self.cx, to, &sealed, &via, until);
        true
    }

    /// Returns true if the rates allow one more message to this peer, and counts it.
    pub(super) fn may_reply(&mut self, to: NodeId, worth: Worth) -> bool {
        self.admission.may_reply(self.cx.now, to, worth)
    }
}

impl Visit {
    /// Returns the end of the visit: the latest one for a known peer, the exact one for a stranger.
    fn until(&self) -> Instant {
        self.since + if self.trust == Trust::Stranger { STRANGERS_VISIT } else { VISIT_WITHIN }
    }

    fn place(&self, session: SessionId, answered: bool) -> Place {
        let Visit { peer, trust, since, .. } = *self;
        Place { kind: Kind::Dial, session, peer, trust, since, answered }
    }
}
