//! Agreement on the stream that becomes the pipe: each end must keep the same one.
//!
//! A *session* is one call of `connect()`, on either side; a *candidate* is a stream on which each end is authenticated
//! and approved. Of two nodes the one with the lower id nominates, the other confirms. On a connection to oneself the
//! dialling end nominates. The nominator has at most one nomination out per session. The confirmer confirms the first
//! nomination, so the ends cannot choose apart.
//!
//! A nominator that calls *commits* on a stream that it dialled, where the other end allows it: its first nomination for
//! the session is final, and nobody confirms it. The other end allows it while it has no call of its own to this peer with
//! these terms. One stream could then settle both calls, and a confirmation has to say so.
//!
//! When the two sides called `connect()` on each other, one stream settles the two sessions. The nominator names the
//! two if it knows them, else the confirmer adds its own to the confirmation.
//!
//! The reasons: ADRs 6 and 38 in docs/src/adr.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use smallvec::{SmallVec, smallvec};

use crate::identity::NodeId;
use crate::io::SockId;
use crate::pipe::{PipeId, Terms};
use crate::session::SessionId;

/// Most ended sessions that are remembered, so that their late streams are not taken for new ones. Beyond this number
/// the oldest are forgotten.
const REMEMBERED: usize = 1024;

/// Side whose call a session is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Requester {
    Us,
    Them,
}

/// Way on which each end is authenticated and approved, so that it may become the session's pipe.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Candidate {
    Stream(SockId),
    /// The relay whose pipe will have this id.
    Relay(PipeId),
}

#[cfg(test)]
impl Candidate {
    fn number(self) -> u64 {
        match self {
            Candidate::Stream(sock) => sock.number(),
            Candidate::Relay(pipe) => pipe.number(),
        }
    }
}

/// A session as this node knows it. A connection to oneself has two sides in one node, so the side is part
/// of the name.
pub(crate) type Key = (SessionId, Requester);

#[derive(Clone, Debug)]
struct Session {
    peer: NodeId,
    terms: Terms,
    /// The candidate nominated for it, not yet confirmed.
    nominated: Option<Candidate>,
    /// True once one has been: the other end may have settled the session by it.
    tried: bool,
    candidates: SmallVec<[Candidate; 2]>,
}

#[derive(Clone, Debug)]
struct Standing {
    /// Number that counts up: the age of the candidate.
    order: u64,
    key: Key,
    /// True if this end nominates on the candidate.
    nominator: bool,
    /// True if the nominator may commit on it.
    commits: bool,
}

/// Step to be carried out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Decision {
    /// Sends NOMINATE with these sessions.
    Nominate { id: Candidate, sessions: SmallVec<[SessionId; 2]> },
    /// Sends COMMIT with these sessions: the stream is the pipe, which nobody confirms.
    Commit { id: Candidate, sessions: SmallVec<[SessionId; 2]>, settled: Settled },
    /// Sends CONFIRM, then the stream is the pipe as `Settled` says.
    Confirm { id: Candidate, also: Option<SessionId>, settled: Settled },
    /// The peer confirmed or committed: the stream is the pipe.
    Settle { id: Candidate, settled: Settled },
    /// Says that the session is over, and closes the stream.
    Refuse { id: Candidate },
}

impl Decision {
    /// Returns the candidate of the step.
    pub(crate) fn candidate(&self) -> Candidate {
        match self {
            Decision::Nominate { id, .. }
            | Decision::Commit { id, .. }
            | Decision::Confirm { id, .. }
            | Decision::Settle { id, .. }
            | Decision::Refuse { id } => *id,
        }
    }
}

/// A stream that became a pipe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Settled {
    /// The sessions that ended with it, with their sides.
    pub(crate) sessions: SmallVec<[Key; 2]>,
    /// The other candidates of these sessions, to be closed.
    pub(crate) losers: SmallVec<[Candidate; 4]>,
}

#[derive(Clone, Debug)]
pub(crate) struct Agreement {
    ours: NodeId,
    sessions: BTreeMap<Key, Session>,
    /// Sessions by peer: all that happens concerns the sessions of one peer.
    by_peer: BTreeSet<(NodeId, Key)>,
    candidates: BTreeMap<Candidate, Standing>,
    arrivals: u64,
    over: VecDeque<Key>,
    /// Sessions that are over, for looking up.
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

    /// Opens a session. A session that is known stays as it is.
    pub(crate) fn open(&mut self, key: Key, peer: NodeId, terms: Terms) {
        if !self.sessions.contains_key(&key) {
            self.by_peer.insert((peer, key));
            let session = Session { peer, terms, nominated: None, tried: false, candidates: SmallVec::new() };
            self.sessions.insert(key, session);
        }
    }

    /// Returns the peer and mode of a session that is open.
    pub(crate) fn session(&self, key: Key) -> Option<(NodeId, Terms)> {
        self.sessions.get(&key).map(|s| (s.peer, s.terms))
    }

    /// Returns true if this session is known to be over.
    pub(crate) fn is_over(&self, key: Key) -> bool {
        self.all_over.contains(&key)
    }

    /// Returns true if another session with the same peer may yet settle this one: this one is nominated, or the peer's
    /// own call is open. The peer may close this session's streams before we hear of it.
    pub(crate) fn may_be_settled(&self, key: Key) -> bool {
        self.sessions.get(&key).is_some_and(|session| {
            let theirs = |(k, s): (Key, &Session)| k.1 != key.1 && s.terms == session.terms;
            session.nominated.is_some()
                || (session.peer != self.ours && self.of_peer(session.peer).any(theirs))
        })
    }

    pub(crate) fn open_sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Ends a session without a pipe. Returns its candidates, to be closed.
    pub(crate) fn abandon(&mut self, key: Key) -> SmallVec<[Candidate; 4]> {
        let losers = self.take_candidates(&[key], None);
        for id in &losers {
            // A session that was paired with it goes back to waiting.
            self.withdraw(key, *id);
        }
        self.end(key);
        losers
    }

    /// Ends our part in a peer's session that left no stream. The session is not over: the peer's own dials may still
    /// name it.
    pub(crate) fn forget(&mut self, key: Key) {
        if let Some(session) = self.sessions.remove(&key) {
            self.by_peer.remove(&(session.peer, key));
        }
    }

    /// Returns true if a peer that dialled a stream of this session may commit on it: it calls, it nominates, and the stream
    /// could settle no call of ours.
    pub(crate) fn may_commit(&self, key: Key, peer: NodeId, terms: Terms) -> bool {
        let merges = |(k, s): (Key, &Session)| k.1 == Requester::Us && s.terms == terms;
        key.1 == Requester::Them && peer < self.ours && !self.of_peer(peer).any(merges)
    }

    /// Adds a candidate: a stream of an open session, authenticated and approved at both ends. `commits`: its responder
    /// allowed its initiator to commit.
    pub(crate) fn candidate(
        &mut self,
        id: Candidate,
        key: Key,
        initiator: bool,
        commits: bool,
    ) -> Option<Decision> {
        let Some(session) = self.sessions.get_mut(&key) else { return Some(Decision::Refuse { id }) };
        session.candidates.push(id);
        let peer = session.peer;
        let nominator = if peer == self.ours { initiator } else { self.ours < peer };
        self.arrivals += 1;
        self.candidates.insert(id, Standing { order: self.arrivals, key, nominator, commits });
        self.nominate(peer)
    }

    /// Takes in that a candidate is gone. Another may take its place.
    pub(crate) fn lost(&mut self, id: Candidate) -> Option<Decision> {
        let candidate = self.candidates.remove(&id)?;
        self.withdraw(candidate.key, id);
        let session = self.sessions.get_mut(&candidate.key)?;
        session.candidates.retain(|s| *s != id);
        let peer = session.peer;
        self.nominate(peer)
    }

    /// Takes in NOMINATE on a stream. `None`: it has no business to, the stream must be closed.
    pub(crate) fn nominated(&mut self, id: Candidate, named: &[SessionId]) -> Option<Decision> {
        let (settled, also) = self.take_nomination(id, named)?;
        Some(Decision::Confirm { id, also, settled })
    }

    /// Takes in COMMIT on a stream. `None`: it has no business to, the stream must be closed.
    pub(crate) fn committed(&mut self, id: Candidate, named: &[SessionId]) -> Option<Decision> {
        self.candidates.get(&id).filter(|c| c.commits)?;
        // A call made since the peer was allowed to commit is settled too. The peer need not know: whatever it nominates for
        // that call waits for our confirmation.
        let (settled, _) = self.take_nomination(id, named)?;
        Some(Decision::Settle { id, settled })
    }

    /// Settles what the nominator named. Returns that, and a session of ours among it that the nominator does not know of.
    fn take_nomination(
        &mut self,
        id: Candidate,
        named: &[SessionId],
    ) -> Option<(Settled, Option<SessionId>)> {
        let candidate = self.candidates.get(&id).filter(|c| !c.nominator)?;
        let key = candidate.key;
        let session = self.sessions.get(&key)?;
        if !named.contains(&key.0) {
            return None;
        }
        let (peer, terms) = (session.peer, session.terms);
        // A session that the nominator paired with this one, if it is still open here.
        let mut keys: SmallVec<[Key; 2]> = smallvec![key];
        let paired = named.iter().map(|id| (*id, other(key.1))).find(|k| self.pairs(*k, peer, terms));
        let also = match paired {
            Some(paired) => {
                keys.push(paired);
                None
            }
            // Ours that the nominator does not know of yet.
            None if key.1 == Requester::Them => self.partner(key, peer, terms).inspect(|k| keys.push(*k)),
            None => None,
        };
        // The nominator's own call, of which we have not heard: what comes of it later shall find it over.
        let unheard = named.iter().map(|id| (*id, Requester::Them)).find(|k| {
            k.0 != key.0 && key.1 == Requester::Us && !self.sessions.contains_key(k) && !self.is_over(*k)
        });
        unheard.into_iter().for_each(|k| self.end(k));
        Some((self.settle(id, keys), also.map(|(id, _)| id)))
    }

    /// Takes in CONFIRM on a stream. `None`: it was not nominated, the stream must be closed.
    pub(crate) fn confirmed(&mut self, id: Candidate, also: Option<SessionId>) -> Option<Decision> {
        let peer = self.sessions.get(&self.candidates.get(&id)?.key)?.peer;
        let named = |(_, s): &(Key, &Session)| s.nominated == Some(id);
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
        let settled = self.settle(id, keys);
        Some(Decision::Settle { id, settled })
    }

    /// Nominates the oldest candidate that may be, for one session of `peer` after the other: call again until it gives
    /// nothing.
    pub(crate) fn nominate(&mut self, peer: NodeId) -> Option<Decision> {
        let mut eligible: SmallVec<[(u64, Candidate, Key); 4]> = SmallVec::new();
        for (key, session) in self.of_peer(peer).filter(|(_, s)| s.nominated.is_none()) {
            for id in &session.candidates {
                if let Some(candidate) = self.candidates.get(id).filter(|c| c.nominator) {
                    eligible.push((candidate.order, *id, key));
                }
            }
        }
        eligible.sort_unstable();
        // While a nomination is out, the peer may add a session of its own to the confirmation: sessions
        // of the other side wait until that is known.
        let out = |side: Requester| self.of_peer(peer).any(|(k, s)| k.1 == side && s.nominated.is_some());
        let oneself = peer == self.ours;
        let (_, id, key) = eligible.into_iter().find(|(_, _, key)| oneself || !out(other(key.1)))?;
        let terms = self.sessions.get(&key)?.terms;
        let mut sessions: SmallVec<[SessionId; 2]> = smallvec![key.0];
        let mut keys: SmallVec<[Key; 2]> = smallvec![key];
        if let Some(partner) = self.partner(key, peer, terms) {
            sessions.push(partner.0);
            keys.push(partner);
        }
        // After a nomination the other end may have a pipe, and would refuse another.
        let first = keys.iter().all(|k| self.sessions.get(k).is_some_and(|s| !s.tried));
        if first && self.candidates.get(&id).is_some_and(|c| c.commits) {
            let settled = self.settle(id, keys);
            return Some(Decision::Commit { id, sessions, settled });
        }
        for key in keys {
            if let Some(session) = self.sessions.get_mut(&key) {
                (session.nominated, session.tried) = (Some(id), true);
            }
        }
        Some(Decision::Nominate { id, sessions })
    }

    /// Finds an open session of the other side with the same peer and mode, not nominated: the glare partner.
    fn partner(&self, key: Key, peer: NodeId, terms: Terms) -> Option<Key> {
        if peer == self.ours {
            return None;
        }
        self.of_peer(peer).map(|(k, _)| k).find(|k| k.1 == other(key.1) && self.pairs(*k, peer, terms))
    }

    fn pairs(&self, key: Key, peer: NodeId, terms: Terms) -> bool {
        peer != self.ours
            && self
                .sessions
                .get(&key)
                .is_some_and(|s| s.peer == peer && s.terms == terms && s.nominated.is_none())
    }

    fn settle(&mut self, id: Candidate, keys: SmallVec<[Key; 2]>) -> Settled {
        let losers = self.take_candidates(&keys, Some(id));
        for key in &keys {
            self.end(*key);
        }
        Settled { sessions: keys, losers }
    }

    fn take_candidates(&mut self, keys: &[Key], winner: Option<Candidate>) -> SmallVec<[Candidate; 4]> {
        let mut gone: SmallVec<[Candidate; 4]> = SmallVec::new();
        for key in keys {
            if let Some(session) = self.sessions.get_mut(key) {
                gone.extend(session.candidates.drain(..));
            }
        }
        for id in &gone {
            self.candidates.remove(id);
        }
        gone.retain(|s| Some(*s) != winner);
        gone
    }

    /// Takes back the nomination of a candidate of this session, for all sessions that it was nominated for.
    fn withdraw(&mut self, key: Key, id: Candidate) {
        let Some(peer) = self.sessions.get(&key).map(|s| s.peer) else { return };
        let keys: SmallVec<[Key; 4]> = self.of_peer(peer).map(|(key, _)| key).collect();
        for key in keys {
            if let Some(session) = self.sessions.get_mut(&key).filter(|s| s.nominated == Some(id)) {
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
mod glare;
#[cfg(test)]
mod tests;
