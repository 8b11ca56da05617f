//! Which of several streams becomes the pipe: both ends must keep the same one.
//!
//! A *session* is one call of `connect()`, on either side; a *candidate* is a stream on which both ends are
//! authenticated and approved. Of two nodes the one with the lower id nominates, the other confirms (on a
//! connection to oneself the dialling end nominates). The nominator has at most one nomination out per
//! session, and the confirmer confirms whatever is nominated first, so the ends cannot choose apart. When
//! both sides called `connect()` on each other, the two sessions are settled by one stream: the
//! nominator names both if it knows both, else the confirmer adds its own to the confirmation.
//!
//! A session whose pipe may move stays open when its relay has settled it. One more stream may then join the
//! pipe: JOIN in place of NOMINATE, so that ends of which only one knows of a pipe cannot take a stream for two things.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use smallvec::{SmallVec, smallvec};

use crate::identity::NodeId;
use crate::io::SockId;
use crate::pipe::PipeMode;
use crate::session::SessionId;

/// Sessions that ended are remembered, so that their late streams are not taken for new ones; the oldest
/// are forgotten beyond this number.
const REMEMBERED: usize = 1024;

/// Whose call a session is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Requester {
    Us,
    Them,
}

/// A session as this node knows it. A connection to oneself has two sides in one node, so the side is part
/// of the name.
pub(crate) type Key = (SessionId, Requester);

#[derive(Clone, Debug)]
struct Session {
    peer: NodeId,
    mode: PipeMode,
    /// The candidate nominated for it, not yet confirmed.
    nominated: Option<SockId>,
    candidates: SmallVec<[SockId; 2]>,
    /// The candidate that leaves the session open if it settles it.
    moves: Option<SockId>,
    /// That has happened: there is a pipe, and one more stream may join it.
    carried: bool,
}

#[derive(Clone, Debug)]
struct Candidate {
    /// Counts up.
    order: u64,
    key: Key,
    /// Whether this end nominates on it.
    nominator: bool,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Decision {
    /// Send NOMINATE with these sessions.
    Nominate { sock: SockId, sessions: SmallVec<[SessionId; 2]> },
    /// Send JOIN: its session has its pipe, and this stream is to join it.
    Join { sock: SockId },
    /// Send CONFIRM, then it is the pipe as `Settled` says.
    Confirm { sock: SockId, also: Option<SessionId>, settled: Settled },
    /// The peer confirmed: it is the pipe.
    Settle { sock: SockId, settled: Settled },
    /// Say that the session is over, and close.
    Refuse { sock: SockId },
}

impl Decision {
    /// The stream it is about.
    pub(crate) fn sock(&self) -> SockId {
        match self {
            Decision::Nominate { sock, .. }
            | Decision::Join { sock }
            | Decision::Confirm { sock, .. }
            | Decision::Settle { sock, .. }
            | Decision::Refuse { sock } => *sock,
        }
    }
}

/// A stream that became a pipe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Settled {
    /// The sessions that ended with it, with their sides.
    pub(crate) sessions: SmallVec<[Key; 2]>,
    /// The one of these that did not end: another of its streams may join the pipe.
    pub(crate) kept: Option<Key>,
    /// The other candidates of these sessions, to be closed.
    pub(crate) losers: SmallVec<[SockId; 4]>,
}

#[derive(Clone, Debug)]
pub(crate) struct Agreement {
    ours: NodeId,
    sessions: BTreeMap<Key, Session>,
    /// The same by peer: all that happens concerns the sessions of one.
    by_peer: BTreeSet<(NodeId, Key)>,
    candidates: BTreeMap<SockId, Candidate>,
    arrivals: u64,
    over: VecDeque<Key>,
    /// The same, for looking up.
    all_over: BTreeSet<Key>,
}

impl Agreement {
    pub(crate) fn new(ours: NodeId) -> Self {
        Agreement {
            ours,
            sessions: BTreeMap::new(),
            by_peer: BTreeSet::new(),
            candidates: BTreeMap::new(),
            arrivals: 0,
            over: VecDeque::new(),
            all_over: BTreeSet::new(),
        }
    }

    /// A session began. One that is known stays as it is.
    pub(crate) fn open(&mut self, key: Key, peer: NodeId, mode: PipeMode) {
        if !self.sessions.contains_key(&key) {
            self.by_peer.insert((peer, key));
            let session = Session {
                peer,
                mode,
                nominated: None,
                candidates: SmallVec::new(),
                moves: None,
                carried: false,
            };
            self.sessions.insert(key, session);
        }
    }

    /// If this stream, which is not a candidate yet, settles the session, that stays open for one more.
    pub(crate) fn moves(&mut self, key: Key, sock: SockId) {
        if let Some(session) = self.sessions.get_mut(&key) {
            session.moves = Some(sock);
        }
    }

    /// Whether a session has its pipe and waits for one more stream.
    pub(crate) fn is_carried(&self, key: Key) -> bool {
        self.sessions.get(&key).is_some_and(|s| s.carried)
    }

    /// The peer and mode of a session that is open.
    pub(crate) fn session(&self, key: Key) -> Option<(NodeId, PipeMode)> {
        self.sessions.get(&key).map(|s| (s.peer, s.mode))
    }

    /// Whether this session is known to be over.
    pub(crate) fn is_over(&self, key: Key) -> bool {
        self.all_over.contains(&key)
    }

    /// Whether another session with the same peer may yet settle this one: it is nominated, or the peer's own
    /// call is open. The streams of this one may be closed by the peer before we hear of it.
    pub(crate) fn may_be_settled(&self, key: Key) -> bool {
        self.sessions.get(&key).is_some_and(|session| {
            let theirs = |(k, s): (Key, &Session)| k.1 != key.1 && s.mode == session.mode && !s.carried;
            session.nominated.is_some()
                || (!session.carried && session.peer != self.ours && self.of_peer(session.peer).any(theirs))
        })
    }

    pub(crate) fn open_sessions(&self) -> usize {
        self.sessions.len()
    }

    /// A session ended without a pipe: its candidates, to be closed.
    pub(crate) fn abandon(&mut self, key: Key) -> SmallVec<[SockId; 4]> {
        let losers = self.take_candidates(&[key], None);
        for sock in &losers {
            // A session that was paired with it goes back to waiting.
            self.withdraw(key, *sock);
        }
        self.end(key);
        losers
    }

    /// Our part in a peer's session ended and left no stream. The session is not over: the peer's own dials
    /// may still name it. One that has its pipe stays open as long as that.
    pub(crate) fn forget(&mut self, key: Key) {
        if !self.is_carried(key)
            && let Some(session) = self.sessions.remove(&key)
        {
            self.by_peer.remove(&(session.peer, key));
        }
    }

    /// A stream of an open session is authenticated and approved at both ends.
    pub(crate) fn candidate(&mut self, sock: SockId, key: Key, initiator: bool) -> Option<Decision> {
        let Some(session) = self.sessions.get_mut(&key) else { return Some(Decision::Refuse { sock }) };
        session.candidates.push(sock);
        let peer = session.peer;
        let nominator = if peer == self.ours { initiator } else { self.ours < peer };
        self.arrivals += 1;
        self.candidates.insert(sock, Candidate { order: self.arrivals, key, nominator });
        self.nominate(peer)
    }

    /// A candidate is gone. Another may take its place.
    pub(crate) fn lost(&mut self, sock: SockId) -> Option<Decision> {
        let candidate = self.candidates.remove(&sock)?;
        self.withdraw(candidate.key, sock);
        let session = self.sessions.get_mut(&candidate.key)?;
        session.candidates.retain(|s| *s != sock);
        let peer = session.peer;
        self.nominate(peer)
    }

    /// NOMINATE came on a stream. `None`: it has no business to, the stream must be closed.
    pub(crate) fn nominated(&mut self, sock: SockId, named: &[SessionId]) -> Option<Decision> {
        let candidate = self.candidates.get(&sock).filter(|c| !c.nominator)?;
        let key = candidate.key;
        // Whoever nominates does not know of the pipe that there is, and means another one.
        let session = self.sessions.get(&key).filter(|s| !s.carried)?;
        if !named.contains(&key.0) {
            return None;
        }
        let (peer, mode) = (session.peer, session.mode);
        // A session that the nominator paired with this one, if it is still open here.
        let mut keys: SmallVec<[Key; 2]> = smallvec![key];
        let paired = named.iter().map(|id| (*id, other(key.1))).find(|k| self.pairs(*k, peer, mode));
        let also = match paired {
            Some(paired) => {
                keys.push(paired);
                None
            }
            // Ours that the nominator does not know of yet.
            None if key.1 == Requester::Them => self.partner(key, peer, mode).inspect(|k| keys.push(*k)),
            None => None,
        };
        // The nominator's own call, of which we have not heard: what comes of it later shall find it over.
        let unheard = named.iter().map(|id| (*id, Requester::Them)).find(|k| {
            k.0 != key.0 && key.1 == Requester::Us && !self.sessions.contains_key(k) && !self.is_over(*k)
        });
        unheard.into_iter().for_each(|k| self.end(k));
        let settled = self.settle(sock, keys);
        Some(Decision::Confirm { sock, also: also.map(|(id, _)| id), settled })
    }

    /// JOIN came on a stream. `None`: it has no business to, the stream must be closed.
    pub(crate) fn joined(&mut self, sock: SockId) -> Option<Decision> {
        let candidate = self.candidates.get(&sock).filter(|c| !c.nominator)?;
        let key = candidate.key;
        if !self.is_carried(key) {
            return None;
        }
        let settled = self.settle(sock, smallvec![key]);
        Some(Decision::Confirm { sock, also: None, settled })
    }

    /// CONFIRM came on a stream. `None`: it was not nominated, the stream must be closed.
    pub(crate) fn confirmed(&mut self, sock: SockId, also: Option<SessionId>) -> Option<Decision> {
        let session = self.sessions.get(&self.candidates.get(&sock)?.key)?;
        let (peer, also) = (session.peer, also.filter(|_| !session.carried));
        let named = |(_, s): &(Key, &Session)| s.nominated == Some(sock);
        let mut keys: SmallVec<[Key; 2]> = self.of_peer(peer).filter(named).map(|(key, _)| key).collect();
        if keys.is_empty() {
            return None;
        }
        if let Some(also) = also {
            // The confirming side's own call, of which we may not have heard.
            let key = (also, Requester::Them);
            if self.sessions.get(&key).is_none_or(|s| s.peer == peer) && !keys.contains(&key) {
                keys.push(key);
            }
        }
        let settled = self.settle(sock, keys);
        Some(Decision::Settle { sock, settled })
    }

    /// Nominates the oldest candidate that may be, for one session of `peer` after the other: call again
    /// until it gives nothing.
    pub(crate) fn nominate(&mut self, peer: NodeId) -> Option<Decision> {
        let mut eligible: SmallVec<[(u64, SockId, Key); 4]> = SmallVec::new();
        for (key, session) in self.of_peer(peer).filter(|(_, s)| s.nominated.is_none()) {
            for sock in &session.candidates {
                if let Some(candidate) = self.candidates.get(sock).filter(|c| c.nominator) {
                    eligible.push((candidate.order, *sock, key));
                }
            }
        }
        eligible.sort_unstable();
        // While a nomination is out, the peer may add a session of its own to the confirmation: sessions
        // of the other side wait until that is known.
        let out = |side: Requester| self.of_peer(peer).any(|(k, s)| k.1 == side && s.nominated.is_some());
        let oneself = peer == self.ours;
        let (_, sock, key) = eligible.into_iter().find(|(_, _, key)| oneself || !out(other(key.1)))?;
        let session = self.sessions.get_mut(&key)?;
        if session.carried {
            session.nominated = Some(sock);
            return Some(Decision::Join { sock });
        }
        let mode = session.mode;
        let mut sessions: SmallVec<[SessionId; 2]> = smallvec![key.0];
        let mut keys: SmallVec<[Key; 2]> = smallvec![key];
        if let Some(partner) = self.partner(key, peer, mode) {
            sessions.push(partner.0);
            keys.push(partner);
        }
        for key in keys {
            if let Some(session) = self.sessions.get_mut(&key) {
                session.nominated = Some(sock);
            }
        }
        Some(Decision::Nominate { sock, sessions })
    }

    /// An open session of the other side with the same peer and mode, not nominated: the glare partner. What joins a
    /// pipe has none: whoever calls then gets a pipe of its own.
    fn partner(&self, key: Key, peer: NodeId, mode: PipeMode) -> Option<Key> {
        if peer == self.ours || self.is_carried(key) {
            return None;
        }
        self.of_peer(peer).map(|(k, _)| k).find(|k| k.1 == other(key.1) && self.pairs(*k, peer, mode))
    }

    fn pairs(&self, key: Key, peer: NodeId, mode: PipeMode) -> bool {
        peer != self.ours
            && self
                .sessions
                .get(&key)
                .is_some_and(|s| s.peer == peer && s.mode == mode && s.nominated.is_none() && !s.carried)
    }

    fn settle(&mut self, sock: SockId, keys: SmallVec<[Key; 2]>) -> Settled {
        let kept = keys.iter().copied().find(|k| self.sessions.get(k).is_some_and(|s| s.moves == Some(sock)));
        if let Some(session) = kept.and_then(|key| self.sessions.get_mut(&key)) {
            session.candidates.retain(|s| *s != sock);
            (session.nominated, session.moves, session.carried) = (None, None, true);
            self.candidates.remove(&sock);
        }
        let ending: SmallVec<[Key; 2]> = keys.iter().copied().filter(|k| Some(*k) != kept).collect();
        let losers = self.take_candidates(&ending, Some(sock));
        for key in ending {
            self.end(key);
        }
        Settled { sessions: keys, kept, losers }
    }

    fn take_candidates(&mut self, keys: &[Key], winner: Option<SockId>) -> SmallVec<[SockId; 4]> {
        let mut gone: SmallVec<[SockId; 4]> = SmallVec::new();
        for key in keys {
            if let Some(session) = self.sessions.get_mut(key) {
                gone.extend(session.candidates.drain(..));
            }
        }
        for sock in &gone {
            self.candidates.remove(sock);
        }
        gone.retain(|s| Some(*s) != winner);
        gone
    }

    /// Takes back the nomination of a candidate of this session, for whatever it was nominated.
    fn withdraw(&mut self, key: Key, sock: SockId) {
        let Some(peer) = self.sessions.get(&key).map(|s| s.peer) else { return };
        let keys: SmallVec<[Key; 4]> = self.of_peer(peer).map(|(key, _)| key).collect();
        for key in keys {
            if let Some(session) = self.sessions.get_mut(&key).filter(|s| s.nominated == Some(sock)) {
                session.nominated = None;
            }
        }
    }

    fn of_peer(&self, peer: NodeId) -> impl Iterator<Item = (Key, &Session)> {
        let first = (SessionId([0; 16]), Requester::Us);
        let last = (SessionId([0xff; 16]), Requester::Them);
        let keys = self.by_peer.range((peer, first)..=(peer, last));
        keys.filter_map(|(_, key)| Some((*key, self.sessions.get(key)?)))
    }

    fn end(&mut self, key: Key) {
        if let Some(session) = self.sessions.remove(&key) {
            self.by_peer.remove(&(session.peer, key));
        }
        if !self.all_over.insert(key) {
            return;
        }
        if self.over.len() >= REMEMBERED
            && let Some(oldest) = self.over.pop_front()
        {
            self.all_over.remove(&oldest);
        }
        self.over.push_back(key);
    }
}

pub(crate) const fn other(side: Requester) -> Requester {
    match side {
        Requester::Us => Requester::Them,
        Requester::Them => Requester::Us,
    }
}

#[cfg(test)]
mod exhaust;
#[cfg(test)]
mod joining;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::SecretKey;

    pub(super) const S1: SessionId = SessionId([1; 16]);
    pub(super) const S2: SessionId = SessionId([2; 16]);
    pub(super) const ENC: PipeMode = PipeMode::Encrypted;

    /// Two node ids, the lower first.
    pub(super) fn ids() -> (NodeId, NodeId) {
        let (a, b) = (SecretKey::from_bytes([1; 32]).node_id(), SecretKey::from_bytes([2; 32]).node_id());
        (a.min(b), a.max(b))
    }

    pub(super) fn sock(n: u32) -> SockId {
        SockId::from_number(n)
    }

    #[test]
    fn one_session_two_candidates_one_pipe() {
        let (low, high) = ids();
        let (mut a, mut b) = (Agreement::new(low), Agreement::new(high));
        a.open((S1, Requester::Us), high, ENC);
        b.open((S1, Requester::Them), low, ENC);
        let first = a.candidate(sock(1), (S1, Requester::Us), true);
        assert_eq!(first, Some(Decision::Nominate { sock: sock(1), sessions: smallvec![S1] }));
        assert_eq!(a.candidate(sock(2), (S1, Requester::Us), true), None, "one nomination at a time");
        assert_eq!(b.candidate(sock(21), (S1, Requester::Them), false), None, "the higher id waits");
        assert_eq!(b.candidate(sock(22), (S1, Requester::Them), false), None);
        let settled =
            Settled { sessions: smallvec![(S1, Requester::Them)], kept: None, losers: smallvec![sock(22)] };
        assert_eq!(
            b.nominated(sock(21), &[S1]),
            Some(Decision::Confirm { sock: sock(21), also: None, settled })
        );
        let settled =
            Settled { sessions: smallvec![(S1, Requester::Us)], kept: None, losers: smallvec![sock(2)] };
        assert_eq!(a.confirmed(sock(1), None), Some(Decision::Settle { sock: sock(1), settled }));
        assert!(a.is_over((S1, Requester::Us)) && b.is_over((S1, Requester::Them)));
        assert_eq!(b.nominated(sock(22), &[S1]), None, "nothing more to confirm");
    }

    /// Each index holds what it should and nothing else.
    pub(super) fn consistent(a: &Agreement) {
        let sessions: BTreeSet<_> = a.sessions.iter().map(|(key, s)| (s.peer, *key)).collect();
        assert_eq!(sessions, a.by_peer);
        let of =
            |(key, s): (&Key, &Session)| s.candidates.iter().map(|sock| (*sock, *key)).collect::<Vec<_>>();
        let candidates: BTreeMap<_, _> = a.sessions.iter().flat_map(of).collect();
        assert_eq!(candidates, a.candidates.iter().map(|(sock, c)| (*sock, c.key)).collect());
        assert_eq!(a.over.iter().copied().collect::<BTreeSet<_>>(), a.all_over);
        assert_eq!(a.over.len(), a.all_over.len());
    }

    #[test]
    fn what_is_over_is_remembered_up_to_a_cap() {
        let (low, high) = ids();
        let mut a = Agreement::new(low);
        let key = |n: u32| {
            let mut id = [0; 16];
            id[..4].copy_from_slice(&n.to_be_bytes());
            (SessionId(id), Requester::Them)
        };
        for n in 0..2 * REMEMBERED as u32 {
            a.open(key(n), high, ENC);
            let _ = a.candidate(sock(n), key(n), false);
            a.abandon(key(n));
            a.abandon(key(n));
        }
        consistent(&a);
        assert_eq!((a.open_sessions(), a.over.len()), (0, REMEMBERED));
        assert!(!a.is_over(key(REMEMBERED as u32 - 1)) && a.is_over(key(REMEMBERED as u32)));
    }

    #[test]
    fn a_session_that_was_paired_with_an_abandoned_one_waits_again() {
        let (low, high) = ids();
        let mut a = Agreement::new(low);
        a.open((S1, Requester::Us), high, ENC);
        a.open((S2, Requester::Them), high, ENC);
        let first = a.candidate(sock(1), (S1, Requester::Us), true);
        assert_eq!(first, Some(Decision::Nominate { sock: sock(1), sessions: smallvec![S1, S2] }));
        a.abandon((S1, Requester::Us));
        consistent(&a);
        let second = a.candidate(sock(2), (S2, Requester::Them), false);
        assert_eq!(second, Some(Decision::Nominate { sock: sock(2), sessions: smallvec![S2] }));
    }

    #[test]
    fn a_lost_nominee_is_replaced() {
        let (low, high) = ids();
        let mut a = Agreement::new(low);
        a.open((S1, Requester::Us), high, ENC);
        let _ = a.candidate(sock(1), (S1, Requester::Us), true);
        let _ = a.candidate(sock(2), (S1, Requester::Us), true);
        let next = a.lost(sock(1));
        assert_eq!(next, Some(Decision::Nominate { sock: sock(2), sessions: smallvec![S1] }));
        assert_eq!(a.confirmed(sock(1), None), None);
    }

    #[test]
    fn oneself_is_nominated_by_the_dialling_end() {
        let (low, _) = ids();
        let mut a = Agreement::new(low);
        a.open((S1, Requester::Us), low, ENC);
        a.open((S1, Requester::Them), low, ENC);
        assert_eq!(a.candidate(sock(2), (S1, Requester::Them), false), None);
        let nominate = a.candidate(sock(1), (S1, Requester::Us), true);
        assert_eq!(nominate, Some(Decision::Nominate { sock: sock(1), sessions: smallvec![S1] }));
        let Some(Decision::Confirm { settled, also: None, .. }) = a.nominated(sock(2), &[S1]) else {
            panic!("not confirmed")
        };
        assert_eq!(settled.sessions.as_slice(), [(S1, Requester::Them)]);
        assert!(matches!(a.confirmed(sock(1), None), Some(Decision::Settle { .. })));
    }

    #[test]
    fn pipes_of_different_modes_are_not_merged() {
        let (low, high) = ids();
        let mut b = Agreement::new(high);
        b.open((S2, Requester::Us), low, ENC);
        b.open((S1, Requester::Them), low, PipeMode::Plain);
        let _ = b.candidate(sock(1), (S1, Requester::Them), false);
        let Some(Decision::Confirm { also, settled, .. }) = b.nominated(sock(1), &[S1]) else { panic!() };
        assert_eq!((also, settled.sessions.len()), (None, 1));
        assert!(b.session((S2, Requester::Us)).is_some(), "the encrypted call goes on");
    }

    /// Two nodes that called each other, `streams` streams between them, every message in flight delivered
    /// in an order drawn from `seed`; streams may break. Both must end with the same stream, and both
    /// calls answered by it. Of the first `relays` streams the pipe may move: a stream that is left of the same session
    /// joins then, the same one at both ends. The stream that won and those that joined it.
    fn glare(seed: u64, streams: u32, breaks: bool, relays: u32) -> (u32, Vec<u32>) {
        let (low, high) = ids();
        let mut nodes = [Agreement::new(low), Agreement::new(high)];
        nodes[0].open((S1, Requester::Us), high, ENC);
        nodes[1].open((S2, Requester::Us), low, ENC);
        #[derive(Clone, Debug)]
        enum Msg {
            Candidate,
            Nominate(SmallVec<[SessionId; 2]>),
            Join,
            Confirm(Option<SessionId>),
            Closed,
        }
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = |n: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as usize % n
        };
        // Per stream and direction an ordered queue, as TCP is.
        let mut wires: BTreeMap<(u32, usize), VecDeque<Msg>> = BTreeMap::new();
        for n in 0..streams {
            for end in 0..2 {
                wires.insert((n, end), VecDeque::from([Msg::Candidate]));
            }
        }
        let session = |n: u32| if n.is_multiple_of(2) { S1 } else { S2 };
        let side = |n: u32, end: usize| {
            if (n.is_multiple_of(2)) == (end == 0) { Requester::Us } else { Requester::Them }
        };
        let mut pipes: [Vec<(u32, SmallVec<[Key; 2]>)>; 2] = [Vec::new(), Vec::new()];
        let mut joined: [Vec<u32>; 2] = [Vec::new(), Vec::new()];
        while let Some((n, end)) = {
            let ready: Vec<_> = wires.iter().filter(|(_, q)| !q.is_empty()).map(|(k, _)| *k).collect();
            (!ready.is_empty()).then(|| ready[draw(ready.len())])
        } {
            let msg = wires.get_mut(&(n, end)).unwrap().pop_front().unwrap();
            let (node, id) = (&mut nodes[end], sock(n));
            let mut decisions: VecDeque<Decision> = VecDeque::new();
            match msg {
                Msg::Candidate => {
                    let key = (session(n), side(n, end));
                    if key.1 == Requester::Them && !node.is_over(key) {
                        node.open(key, if end == 0 { high } else { low }, ENC);
                    }
                    if n < relays {
                        node.moves(key, id);
                    }
                    decisions.extend(node.candidate(id, key, key.1 == Requester::Us));
                }
                Msg::Nominate(sessions) => match node.nominated(id, &sessions) {
                    Some(d) => decisions.push_back(d),
                    None => {
                        decisions.extend(node.lost(id));
                        wires.get_mut(&(n, 1 - end)).unwrap().push_back(Msg::Closed);
                    }
                },
                Msg::Join => {
                    let decision = node.joined(id);
                    assert!(decision.is_some(), "nobody joins what is not there");
                    decisions.extend(decision);
                }
                Msg::Confirm(also) => {
                    let decision = node.confirmed(id, also);
                    assert!(decision.is_some(), "a confirmation nobody waited for");
                    decisions.extend(decision);
                }
                Msg::Closed => decisions.extend(node.lost(id)),
            }
            let mut close: Vec<u32> = Vec::new();
            while let Some(decision) = decisions.pop_front() {
                // The session has its pipe.
                let joins =
                    |settled: &Settled| pipes[end].iter().any(|(_, had)| had.contains(&settled.sessions[0]));
                match decision {
                    Decision::Join { sock } => {
                        wires.get_mut(&(sock.number(), 1 - end)).unwrap().push_back(Msg::Join);
                    }
                    Decision::Confirm { sock, settled, .. } if joins(&settled) => {
                        wires.get_mut(&(sock.number(), 1 - end)).unwrap().push_back(Msg::Confirm(None));
                        joined[end].push(sock.number());
                    }
                    Decision::Settle { sock, settled } if joins(&settled) => joined[end].push(sock.number()),
                    Decision::Nominate { sock, sessions } => {
                        let n = sock.number();
                        wires.get_mut(&(n, 1 - end)).unwrap().push_back(Msg::Nominate(sessions));
                    }
                    Decision::Confirm { sock, also, settled } => {
                        let n = sock.number();
                        wires.get_mut(&(n, 1 - end)).unwrap().push_back(Msg::Confirm(also));
                        close.extend(settled.losers.iter().map(|s| s.number()));
                        pipes[end].push((n, settled.sessions));
                    }
                    Decision::Settle { sock, settled } => {
                        close.extend(settled.losers.iter().map(|s| s.number()));
                        pipes[end].push((sock.number(), settled.sessions));
                    }
                    Decision::Refuse { sock } => close.push(sock.number()),
                }
                let peer = if end == 0 { high } else { low };
                decisions.extend(nodes[end].nominate(peer));
            }
            // Before anything was agreed, a stream may break at both ends, but never the last one.
            if breaks && n + 1 < streams && draw(6) == 0 && pipes.iter().all(Vec::is_empty) {
                for end in 0..2 {
                    if wires[&(n, end)].iter().all(|m| !matches!(m, Msg::Confirm(_))) {
                        wires.insert((n, end), VecDeque::from([Msg::Closed]));
                    }
                }
            }
            nodes.iter().for_each(consistent);
            for n in close {
                wires.get_mut(&(n, 1 - end)).unwrap().push_back(Msg::Closed);
            }
        }
        assert_eq!(pipes[0].len(), 1, "seed {seed}: {pipes:?}");
        assert_eq!(pipes[1].len(), 1, "seed {seed}: {pipes:?}");
        assert_eq!(pipes[0][0].0, pipes[1][0].0, "seed {seed}: not the same stream");
        assert!(pipes[0][0].1.contains(&(S1, Requester::Us)), "seed {seed}: {pipes:?}");
        assert!(pipes[1][0].1.contains(&(S2, Requester::Us)), "seed {seed}: {pipes:?}");
        assert_eq!(joined[0], joined[1], "seed {seed}");
        (pipes[0][0].0, core::mem::take(&mut joined[0]))
    }

    #[test]
    fn glare_gives_both_callers_the_same_pipe_in_every_order() {
        for seed in 0..20_000 {
            glare(seed, 1 + (seed % 4) as u32, false, 0);
        }
    }

    #[test]
    fn a_session_that_a_relay_settled_takes_one_more_stream_in_every_order() {
        for seed in 0..20_000 {
            let (streams, relays) = (1 + (seed % 4) as u32, 1 + (seed / 4 % 2) as u32);
            let (won, joined) = glare(seed, streams, false, relays);
            // The streams of one session are every other one.
            let other = (won < relays && won + 2 < streams).then_some(won + 2);
            assert_eq!(joined, Vec::from_iter(other), "seed {seed}: {won} of {streams}, {relays} relays");
        }
    }
}
