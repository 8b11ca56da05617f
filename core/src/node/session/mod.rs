//! Streams between hosts, from a dial or a listener up to the one that becomes a pipe, and the pipes that were handed out.
//!
//! Strategies dial and listen for streams here. What becomes of those is told by [`SessionEvent`]: sessions call nobody.

mod accepting;
mod door;
mod hello;
mod places;
mod stream;
mod table;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

use smallvec::SmallVec;

pub(super) use stream::Role;

use door::Door;
use places::Places;
use stream::{HelloStage, Stream};
use table::Streams;

use super::admission::Admission;
use crate::call::{ConnectId, Refusal, Strategy};
use crate::config::{Config, DEFAULT_PIPES};
use crate::cx::{Cx, Owner, Timer};
use crate::event::{Event, Stage};
use crate::failure::IoFailure;
use crate::hello::{Control, Hello, Offer, Purpose};
use crate::identity::NodeId;
use crate::io::{CloseHow, Reuse, SockId, SockOpts};
use crate::pipe::{PipeEnd, PipeId, PipeStart, Terms};
use crate::session::SessionId;
use crate::strategy::agreement::{Agreement, Candidate, Decision, Key, Requester, Settled};
use crate::strategy::dialler::DialEnd;
use crate::strategy::ours::Trust;
use crate::time::Instant;

/// Other machines of the node, for the time of one event.
pub(super) struct Env<'a> {
    pub(super) cx: &'a mut Cx,
    pub(super) config: &'a Config,
    pub(super) admission: &'a mut Admission,
    /// Calls of ours by their sessions.
    pub(super) calls: &'a BTreeMap<SessionId, ConnectId>,
}

/// Event of a stream, in the order in which they happened.
#[derive(Debug)]
pub(super) enum SessionEvent {
    /// The peer has proved its identity on a stream to or from this address.
    Met { peer: NodeId, ip: IpAddr },
    /// A stream of a session is gone.
    Lost { key: Key, peer: NodeId, sock: SockId, remote: SocketAddr, why: DialEnd },
    /// A step of the agreement is to be taken on a relay.
    ByRelay(Decision),
    /// A stream is to become a pipe.
    Won(Box<Winner>),
    /// The agreement with this peer goes on, once what was told before is done.
    GoesOn(NodeId),
}

/// A stream that both ends keep, before it is handed out.
#[derive(Debug)]
pub(super) struct Winner {
    sock: SockId,
    hello: Hello,
    pub(super) settled: Settled,
    pub(super) since: Instant,
    pub(super) peer: NodeId,
    terms: Terms,
    strategy: Strategy,
    local: SocketAddr,
    remote: SocketAddr,
}

#[derive(Debug)]
pub(super) struct Sessions {
    streams: Streams,
    agreement: Agreement,
    door: Door,
    places: Places,
    /// Pipes that users have, by the streams they were, with their two ends.
    pipes: BTreeMap<SockId, (NodeId, [SocketAddr; 2])>,
    /// Sessions that are being punched.
    punched: BTreeSet<Key>,
    /// The user serves one pipe at a time, and has one.
    busy: bool,
    news: VecDeque<SessionEvent>,
}

impl Sessions {
    pub(super) fn new(config: &Config) -> Self {
        let most = config.max_pipes.unwrap_or(DEFAULT_PIPES) as usize;
        Sessions {
            streams: Streams::default(),
            agreement: Agreement::new(config.identity.node_id()),
            door: Door::new(most / 2),
            places: Places::new(most),
            pipes: BTreeMap::new(),
            punched: BTreeSet::new(),
            busy: false,
            news: VecDeque::new(),
        }
    }

    /// Returns what has happened next.
    pub(super) fn poll_event(&mut self) -> Option<SessionEvent> {
        self.news.pop_front()
    }

    /// Says whether the pipes of peers have to wait for their turn.
    pub(super) fn set_busy(&mut self, busy: bool) {
        self.busy = busy;
    }

    pub(super) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Forgets every stream at the node's end. Their sockets are closed with all others.
    pub(super) fn shut(&mut self) {
        self.streams.clear();
        self.door.clear();
        self.news.clear();
    }

    /// Returns the number of streams that are saying hello.
    pub(super) fn len(&self) -> usize {
        self.streams.len()
    }

    /// Opens a session. A session that is known stays as it is.
    pub(super) fn open(&mut self, key: Key, peer: NodeId, terms: Terms) {
        self.agreement.open(key, peer, terms);
    }

    /// Ends a session without a pipe, with every stream of it.
    pub(super) fn abandon(&mut self, cx: &mut Cx, key: Key, peer: NodeId) {
        self.agreement.abandon(key);
        self.close_streams(cx, &[key]);
        self.agree(cx, peer, None);
    }

    /// Ends our part in a peer's session, which is not over: the peer's next dial may name it.
    pub(super) fn forget(&mut self, key: Key) {
        self.agreement.forget(key);
    }

    /// Ends our part in a peer's session if it has no stream left.
    pub(super) fn forget_streamless(&mut self, key: Key) {
        if self.streams.of_session(key).next().is_none() {
            self.agreement.forget(key);
        }
    }

    pub(super) fn is_over(&self, key: Key) -> bool {
        self.agreement.is_over(key)
    }

    /// Returns true if another session with the same peer may yet settle this one.
    pub(super) fn may_be_settled(&self, key: Key) -> bool {
        self.agreement.may_be_settled(key)
    }

    /// Notes whether a session is being punched: a stream of it is a punch's then, whoever dialled.
    pub(super) fn set_punched(&mut self, key: Key, punched: bool) {
        match punched {
            true => self.punched.insert(key),
            false => self.punched.remove(&key),
        };
    }

    /// Dials a path for a session, and says hello when it connects.
    pub(super) fn dial(
        &mut self,
        cx: &mut Cx,
        [local, remote]: [SocketAddr; 2],
        within: Duration,
        (key, peer, terms): (Key, NodeId, Terms),
    ) -> SockId {
        let (purpose, strategy) = match key.1 {
            Requester::Us => (Purpose::Open, Strategy::Direct),
            Requester::Them => (Purpose::Answer, Strategy::Reverse),
        };
        let sock = cx.dial(Owner::Stream, local, remote, within);
        let offer = Offer { session: key.0, purpose, terms };
        let stream = Stream {
            stage: HelloStage::Dialling(Role::Initiate(offer, peer)),
            initiator: true,
            accepted: false,
            session: Some((key, peer, terms)),
            strategy,
            local,
            remote,
            since: cx.now,
        };
        self.streams.insert(sock, stream);
        sock
    }

    /// Dials for a punch: from a port that is shared with the listener or with other dials.
    pub(super) fn dial_for_punch(
        &mut self,
        cx: &mut Cx,
        [local, remote]: [SocketAddr; 2],
        [at, until]: [Instant; 2],
        role: Role,
        session: (Key, NodeId, Terms),
    ) -> SockId {
        let opts = SockOpts { reuse: Reuse::AddressAndPort, nodelay: true };
        let sock = cx.dial_at(Owner::Stream, local, remote, opts, at, until);
        let stream = Stream {
            stage: HelloStage::Dialling(role),
            initiator: matches!(role, Role::Initiate(..)),
            accepted: false,
            session: Some(session),
            strategy: Strategy::Punch,
            local,
            remote,
            since: cx.now,
        };
        self.streams.insert(sock, stream);
        sock
    }

    /// Closes every stream of sessions that are over.
    pub(super) fn close_streams(&mut self, cx: &mut Cx, keys: &[Key]) {
        let socks: Vec<SockId> = keys.iter().flat_map(|key| self.streams.of_session(*key)).collect();
        for sock in socks {
            self.streams.remove(sock);
            self.places.leave(Candidate::Stream(sock));
            cx.timers.set(Timer::Stream(sock), None);
            cx.close(sock, CloseHow::Drop);
        }
    }

    /// Closes the dials among these streams that nobody has answered yet.
    pub(super) fn close_dials(&mut self, cx: &mut Cx, socks: impl Iterator<Item = SockId>) {
        for sock in socks {
            if self.streams.get(sock).is_some_and(Stream::is_dialling) {
                self.streams.remove(sock);
                cx.close(sock, CloseHow::Drop);
            }
        }
    }

    /// Closes the dials of a session that nobody has answered yet.
    pub(super) fn close_dials_of(&mut self, cx: &mut Cx, key: Key) {
        let socks: Vec<SockId> = self.streams.of_session(key).collect();
        self.close_dials(cx, socks.into_iter());
    }

    /// Ends the streams that are not pipes yet and whose address of ours is gone.
    pub(super) fn drop_streams_from(&mut self, cx: &mut Cx, gone: impl Fn(IpAddr) -> bool) {
        let socks: Vec<SockId> =
            self.streams.iter().filter(|(_, s)| gone(s.local.ip())).map(|(n, _)| n).collect();
        for sock in socks {
            self.drop_stream(cx, sock, DialEnd::Io(IoFailure::AddrNotAvailable));
        }
    }

    /// Tells the owners of pipes whose address of ours is gone. Nothing of what the peer sends arrives any more, and
    /// the system would go on waiting for it.
    pub(super) fn end_pipes_from(&mut self, cx: &mut Cx, gone: impl Fn(IpAddr) -> bool) {
        let lost = self.pipes.iter().filter(|(_, (_, ends))| gone(ends[0].ip())).map(|(sock, _)| *sock);
        for sock in lost.collect::<Vec<_>>() {
            let Some((peer, [local, remote])) = self.pipes.remove(&sock) else { continue };
            cx.end_pipe(sock, PipeEnd::AddressGone);
            cx.notify(Event::PipeGone { peer, local, remote });
        }
    }

    /// Takes in that a pipe that was handed out is gone.
    pub(super) fn released(&mut self, sock: SockId) {
        self.places.leave(Candidate::Stream(sock));
        self.pipes.remove(&sock);
    }

    /// Returns true if the peer has proved its identity on a stream of this session.
    pub(super) fn has_proven(&self, key: Key) -> bool {
        self.of(key).any(Stream::is_proven)
    }

    /// Returns true if a stream of this session to or from `remote` is open.
    pub(super) fn has_open(&self, key: Key, remote: SocketAddr) -> bool {
        self.of(key).any(|s| s.remote == remote && !s.is_dialling())
    }

    /// Returns true if a stream of this session is open from an address that is gone.
    pub(super) fn has_opened_from(&self, key: Key, gone: impl Fn(IpAddr) -> bool) -> bool {
        self.of(key).any(|s| !s.is_dialling() && gone(s.local.ip()))
    }

    /// Returns true if the session has a stream whose hello the peer begins: the peer reached us.
    pub(super) fn has_accepted(&self, key: Key) -> bool {
        self.of(key).any(|s| !s.initiator && !s.is_dialling())
    }

    /// Gives a relay, whose other end has proved its identity, a place among the pipes of peers.
    pub(super) fn enter_relayed(&mut self, id: PipeId, peer: NodeId, trust: Trust) -> bool {
        self.places.enter_relayed(id, peer, trust)
    }

    /// Adds a relay of a session to the candidates.
    pub(super) fn relay_connected(&mut self, cx: &mut Cx, id: PipeId, key: Key, peer: NodeId) {
        let decision = self.agreement.candidate(Candidate::Relay(id), key, key.1 == Requester::Us, false);
        self.agree(cx, peer, decision);
    }

    /// Takes in what the peer says on a relay, which is to be carried out. `None`: it has no business to.
    pub(super) fn heard_by_relay(&mut self, id: PipeId, control: Control) -> Option<Decision> {
        let candidate = Candidate::Relay(id);
        match control {
            Control::Nominate(sessions) => self.agreement.nominated(candidate, &sessions),
            Control::Confirm(also) => self.agreement.confirmed(candidate, also),
            _ => None,
        }
    }

    /// Takes in that a relay gives no pipe.
    pub(super) fn relay_lost(&mut self, cx: &mut Cx, id: PipeId, peer: NodeId) {
        let decision = self.agreement.lost(Candidate::Relay(id));
        self.agree(cx, peer, decision);
    }

    /// Takes in that a relay, or the pipe that it became, is gone.
    pub(super) fn relay_left(&mut self, id: PipeId) {
        self.places.leave(Candidate::Relay(id));
    }

    /// Nominates whatever may be nominated with this peer.
    pub(super) fn agree(&mut self, cx: &mut Cx, peer: NodeId, first: Option<Decision>) {
        let mut next = first.or_else(|| self.agreement.nominate(peer));
        while let Some(decision) = next {
            if self.carry_out(cx, decision) == Done::ByOthers {
                return self.news.push_back(SessionEvent::GoesOn(peer));
            }
            next = self.agreement.nominate(peer);
        }
    }

    /// Hands a stream out that is the pipe of these calls, which began at `since`.
    pub(super) fn hand_out(
        &mut self,
        cx: &mut Cx,
        winner: Winner,
        answers: SmallVec<[ConnectId; 1]>,
        since: Instant,
        trust: Trust,
    ) {
        let Winner { sock, hello, peer, terms, strategy, local, remote, .. } = winner;
        let Ok(keys) = hello.into_pipe_keys(terms.mode) else { return };
        let (elapsed, protocol, mode) = (cx.now.since(since), terms.protocol, terms.mode);
        let named = trust == Trust::Known;
        let pipe = PipeStart { answers, peer, named, strategy, local, remote, elapsed, protocol, mode, keys };
        self.pipes.insert(sock, (peer, [local, remote]));
        cx.detach(sock, Box::new(pipe));
    }

    #[cfg(test)]
    pub(super) fn tell(&mut self, event: SessionEvent) {
        self.news.push_back(event);
    }

    #[cfg(test)]
    pub(super) fn open_sessions(&self) -> usize {
        self.agreement.open_sessions()
    }

    fn of(&self, key: Key) -> impl Iterator<Item = &Stream> {
        self.streams.of_session(key).filter_map(|sock| self.streams.get(sock))
    }

    fn carry_out(&mut self, cx: &mut Cx, decision: Decision) -> Done {
        let Candidate::Stream(sock) = decision.candidate() else {
            self.news.push_back(SessionEvent::ByRelay(decision));
            return Done::ByOthers;
        };
        match decision {
            Decision::Nominate { sessions, .. } => {
                self.tell_busy(cx, sock);
                self.send_control(cx, sock, &Control::Nominate(sessions));
            }
            Decision::Commit { sessions, settled, .. } => {
                self.send_control(cx, sock, &Control::Commit(sessions));
                return self.won(cx, sock, settled);
            }
            Decision::Confirm { also, settled, .. } => {
                self.tell_busy(cx, sock);
                self.send_control(cx, sock, &Control::Confirm(also));
                return self.won(cx, sock, settled);
            }
            Decision::Settle { settled, .. } => return self.won(cx, sock, settled),
            Decision::Refuse { .. } => self.refuse(cx, sock, Refusal::NoSuchSession),
        }
        Done::Here
    }

    fn won(&mut self, cx: &mut Cx, sock: SockId, settled: Settled) -> Done {
        let Some(stream) = self.streams.remove(sock) else { return Done::Here };
        cx.timers.set(Timer::Stream(sock), None);
        let (HelloStage::Candidate(hello), Some((_, peer, terms))) = (stream.stage, stream.session) else {
            return Done::Here;
        };
        let Stream { strategy, local, remote, since, .. } = stream;
        let winner = Winner { sock, hello, settled, since, peer, terms, strategy, local, remote };
        self.news.push_back(SessionEvent::Won(Box::new(winner)));
        Done::ByOthers
    }

    /// Returns true if the pipe of this session will have to wait for our user, who has another one.
    fn waits(&self, key: Key) -> bool {
        self.busy && key.1 == Requester::Them
    }

    /// Tells a caller that its pipe will have to wait, if it will.
    fn tell_busy(&mut self, cx: &mut Cx, sock: SockId) {
        let session = self.streams.get(sock).and_then(|s| s.session);
        if session.is_some_and(|(key, ..)| self.waits(key)) {
            self.send_control(cx, sock, &Control::Busy);
        }
    }

    fn send_control(&mut self, cx: &mut Cx, sock: SockId, control: &Control) {
        let frame = self.streams.get_mut(sock).and_then(|s| s.stage.hello()).map(|h| h.control(control));
        if let Some(Ok(frame)) = frame {
            cx.send(sock, frame);
        }
    }

    fn refuse(&mut self, cx: &mut Cx, sock: SockId, why: Refusal) {
        cx.stats.refused += 1;
        self.send_control(cx, sock, &Control::Refuse(why));
        self.remove_stream(cx, sock, DialEnd::Refused(why), CloseHow::Graceful);
    }

    fn drop_stream(&mut self, cx: &mut Cx, sock: SockId, why: DialEnd) {
        self.remove_stream(cx, sock, why, CloseHow::Drop);
    }

    /// Takes a stream out and tells whoever waited for it.
    fn remove_stream(&mut self, cx: &mut Cx, sock: SockId, why: DialEnd, how: CloseHow) {
        let Some(stream) = self.streams.remove(sock) else { return };
        cx.timers.set(Timer::Stream(sock), None);
        cx.close(sock, how);
        self.door.left(sock);
        self.places.leave(Candidate::Stream(sock));
        let decision = self.agreement.lost(Candidate::Stream(sock));
        let Some((key, peer, _)) = stream.session else { return };
        self.agree(cx, peer, decision);
        self.news.push_back(SessionEvent::Lost { key, peer, sock, remote: stream.remote, why });
    }

    fn shift(&mut self, sock: SockId, to: impl FnOnce(Hello) -> HelloStage) {
        let Some(stream) = self.streams.remove(sock) else { return };
        let stage = match stream.stage {
            HelloStage::Hello(h)
            | HelloStage::Waiting(h, _)
            | HelloStage::Asking(h)
            | HelloStage::Candidate(h) => to(h),
            dialling @ HelloStage::Dialling(..) => dialling,
        };
        self.streams.insert(sock, Stream { stage, ..stream });
    }
}

/// Place where a step of the agreement is carried out.
#[derive(PartialEq, Eq)]
enum Done {
    Here,
    /// Calls or relays, which hear of it as news.
    ByOthers,
}

impl Env<'_> {
    /// Tells the user how far a session of ours has come.
    fn stage(&mut self, key: Option<Key>, strategy: Strategy, stage: Stage) {
        if let Some((session, Requester::Us)) = key
            && let Some(connect) = self.calls.get(&session)
        {
            self.cx.notify(Event::Progress { connect: *connect, strategy, stage });
        }
    }
}
