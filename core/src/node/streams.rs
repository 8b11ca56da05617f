//! Streams that are saying hello, from either side, up to the one that becomes a pipe.

use core::time::Duration;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use smallvec::SmallVec;

use super::Node;
use super::admission::Entry;
use super::relaying::Way;
use crate::cx::{Owner, Timer};
use crate::hello::{self, Control, HEADER, Heard, Hello, HelloError, Offer, Purpose, Status};
use crate::identity::NodeId;
use crate::io::{CloseHow, IoFailure, Reuse, SockId, SockOpts};
use crate::notice::{ConnectId, Refusal, Stage, Strategy};
use crate::pipe::{PipeMode, PipeStart, Terms};
use crate::random::Domain;
use crate::strategy::agreement::{Decision, Key, Requester, Settled};
use crate::strategy::dialler::DialEnd;
use crate::strategy::paths::{Path, Trust};
use crate::time::Instant;

/// A dial may take this long: SYN retransmissions, at 1 s and 3 s or each second, find a path that lost the first.
pub(super) const DIAL_WITHIN: Duration = Duration::from_secs(5);
/// Time limit of a dial for a stranger, to two addresses that may both be a third party's. It allows two SYNs each, the
/// second after 1 s. Linux sends four retransmissions a second apart (since 6.5).
const STRANGERS_DIAL_WITHIN: Duration = Duration::from_millis(1900);
/// A hello may take this long, from the open stream to both ends authenticated.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// Time that the ends then have to agree on this or another stream.
const AGREE_WITHIN: Duration = Duration::from_secs(10);
/// Time limit of a stream while the peer's user is being asked.
const ASKED_WITHIN: Duration = Duration::from_secs(35);
/// Most accepted streams of one session. A peer dials six addresses at most.
pub(super) const MAX_OF_SESSION: usize = 8;
/// Most sessions open at a time, ours and the peers'.
const MAX_SESSIONS: usize = 8192;

#[derive(Debug)]
pub(super) struct Stream {
    stage: HelloStage,
    /// The hello is begun by this end, as usual for the end that dials.
    initiator: bool,
    /// The stream was accepted, not dialled.
    accepted: bool,
    /// Known from the start for a dial, from FIRST for an accepted stream; set by `Streams` only, which finds it
    /// by this.
    session: Option<(Key, NodeId, Terms)>,
    strategy: Strategy,
    local: SocketAddr,
    remote: SocketAddr,
    since: Instant,
}

/// Role of this end in the hello once a dial has connected.
#[derive(Clone, Copy, Debug)]
pub(super) enum Role {
    /// Begins the hello with this peer.
    Initiate(Offer, NodeId),
    /// Waits for the other end, which called, to begin.
    Respond,
}

#[derive(Debug)]
enum HelloStage {
    Dialling(Role),
    Hello(Hello),
    /// A caller's first frame is there, and waits for its turn with this last part of it.
    Waiting(Hello, SmallVec<[u8; 128]>),
    /// The ends are authenticated; the user of one is being asked.
    Asking(Hello),
    /// The ends are authenticated, and each has approved.
    Candidate(Hello),
}

impl HelloStage {
    fn hello(&mut self) -> Option<&mut Hello> {
        match self {
            HelloStage::Dialling(..) | HelloStage::Waiting(..) => None,
            HelloStage::Hello(h) | HelloStage::Asking(h) | HelloStage::Candidate(h) => Some(h),
        }
    }
}

impl Stream {
    /// Returns a stream that was accepted. It has a session if this end begins the hello.
    pub(super) fn accepted(
        hello: Hello,
        session: Option<(Key, NodeId, Terms)>,
        strategy: Strategy,
        [local, remote]: [SocketAddr; 2],
        since: Instant,
    ) -> Self {
        let (stage, initiator, accepted) = (HelloStage::Hello(hello), session.is_some(), true);
        Stream { stage, initiator, accepted, session, strategy, local, remote, since }
    }

    pub(super) fn session(&self) -> Option<(Key, NodeId, Terms)> {
        self.session
    }

    pub(super) fn introduce(&mut self, session: (Key, NodeId, Terms)) {
        self.session = Some(session);
    }
}

impl Node {
    /// Dials a path for a session, and says hello when it connects.
    pub(super) fn dial_stream(&mut self, path: Path, key: Key, peer: NodeId, terms: Terms) -> SockId {
        let (purpose, strategy) = match key.1 {
            Requester::Us => (Purpose::Open, Strategy::Direct),
            Requester::Them => (Purpose::Answer, Strategy::Reverse),
        };
        let local = self.network.dial_from(path.remote.ip());
        let stranger = key.1 == Requester::Them && self.admission.trust(peer) == Trust::Stranger;
        let within = if stranger { STRANGERS_DIAL_WITHIN } else { DIAL_WITHIN };
        let sock = self.cx.dial(Owner::Stream, local, path.remote, within);
        let offer = Offer { session: key.0, purpose, terms };
        let stream = Stream {
            stage: HelloStage::Dialling(Role::Initiate(offer, peer)),
            initiator: true,
            accepted: false,
            session: Some((key, peer, terms)),
            strategy,
            local,
            remote: path.remote,
            since: self.cx.now,
        };
        self.streams.insert(sock, stream);
        sock
    }

    /// Dials for a punch: from a port that is shared with the listener or with other dials.
    pub(super) fn dial_for_punch(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
        [at, until]: [Instant; 2],
        role: Role,
        session: (Key, NodeId, Terms),
    ) -> SockId {
        let opts = SockOpts { reuse: Reuse::AddressAndPort, nodelay: true, ttl: None };
        let sock = self.cx.dial_at(Owner::Stream, local, remote, opts, at, until);
        let stream = Stream {
            stage: HelloStage::Dialling(role),
            initiator: matches!(role, Role::Initiate(..)),
            accepted: false,
            session: Some(session),
            strategy: Strategy::Punch,
            local,
            remote,
            since: self.cx.now,
        };
        self.streams.insert(sock, stream);
        sock
    }

    pub(super) fn stream_connected(&mut self, sock: SockId, local: SocketAddr, remote: SocketAddr) {
        let Some(stream) = self.streams.get_mut(sock) else { return };
        let HelloStage::Dialling(role) = stream.stage else { return };
        (stream.local, stream.remote) = (local, remote);
        let Role::Initiate(offer, peer) = role else {
            stream.stage = HelloStage::Hello(Hello::respond());
            return self.hello_began(sock, None);
        };
        let entropy = self.cx.random.draw(Domain::NoiseEphemeral);
        let Ok((hello, first)) = Hello::initiate(&self.config.identity, &peer, offer, entropy) else {
            return self.drop_stream(sock, DialEnd::Hello(HelloError::NotAuthentic));
        };
        stream.stage = HelloStage::Hello(hello);
        let (key, strategy) = (stream.session.map(|(key, ..)| key), stream.strategy);
        self.hello_began(sock, Some(first));
        self.stage(key, strategy, Stage::Hello(remote));
    }

    /// The stream is open: says what comes first, if that is ours to say, and waits for the peer's.
    pub(super) fn hello_began(&mut self, sock: SockId, first: Option<Bytes>) {
        if let Some(first) = first {
            self.cx.send(sock, first);
        }
        self.cx.read(sock, HEADER as u32);
        self.cx.timers.set(Timer::Stream(sock), Some(self.cx.now + HELLO_WITHIN));
    }

    pub(super) fn stream_received(&mut self, sock: SockId, data: &[u8]) {
        let hello = self.streams.get_mut(sock).and_then(|s| s.stage.hello());
        // The credit for a body is given once its header is there, so that nothing comes behind it.
        if hello.is_some_and(|h| h.has_first(data.len())) && self.door.spoke(self.cx.now, sock) {
            self.shift(sock, |hello| HelloStage::Waiting(hello, data.into()));
            return self.serve_door();
        }
        self.hear_bytes(sock, data);
    }

    fn hear_bytes(&mut self, sock: SockId, mut data: &[u8]) {
        while !data.is_empty() {
            let Some(stream) = self.streams.get_mut(sock) else { return };
            let Some(hello) = stream.stage.hello() else { return };
            let before = hello.needs();
            let random = &mut self.cx.random;
            let heard = hello.receive(&self.config.identity, data, || random.draw(Domain::NoiseEphemeral));
            let (taken, heard) = match heard {
                Ok(ok) => ok,
                Err(why) => return self.bad_hello(sock, why),
            };
            let needs = hello.needs();
            data = &data[taken..];
            match heard {
                // The header is whole, the body is wanted; or bytes are still missing of either.
                None if taken as u32 >= before => self.cx.read(sock, needs),
                None => {}
                Some(heard) => {
                    self.hear(sock, heard);
                    if self.streams.get(sock).is_some() {
                        self.cx.read(sock, needs);
                    }
                }
            }
        }
    }

    /// Hears a caller whose turn has come.
    pub(super) fn turn_came(&mut self, sock: SockId) {
        let mut last = SmallVec::new();
        if let Some(Stream { stage: HelloStage::Waiting(_, data), .. }) = self.streams.get_mut(sock) {
            last = core::mem::take(data);
        }
        self.shift(sock, HelloStage::Hello);
        self.hear_bytes(sock, &last);
    }

    /// A silent caller makes room for another.
    pub(super) fn turn_away(&mut self, sock: SockId) {
        self.remove_stream(sock, DialEnd::Lost, CloseHow::Reset);
    }

    pub(super) fn stream_failed(&mut self, sock: SockId, why: IoFailure) {
        let dialling = self.streams.get(sock).is_some_and(|s| matches!(s.stage, HelloStage::Dialling(..)));
        let end = if dialling { DialEnd::Io(why) } else { self.lost(sock) };
        self.drop_stream(sock, end);
    }

    pub(super) fn stream_ended(&mut self, sock: SockId) {
        let end = self.lost(sock);
        self.drop_stream(sock, end);
    }

    /// Returns the end of a stream that the other end breaks now.
    fn lost(&self, sock: SockId) -> DialEnd {
        match self.streams.get(sock).map(|s| &s.stage) {
            Some(HelloStage::Asking(_) | HelloStage::Candidate(_)) => DialEnd::Lost,
            _ => DialEnd::Broken,
        }
    }

    pub(super) fn stream_timeout(&mut self, sock: SockId) {
        let Some(stream) = self.streams.get(sock) else { return };
        if !stream.initiator && stream.session.is_none() {
            self.cx.stats.bad_hellos += 1;
        }
        let why = match stream.stage {
            HelloStage::Dialling(..) | HelloStage::Hello(_) | HelloStage::Waiting(..) => DialEnd::Silent,
            HelloStage::Asking(_) | HelloStage::Candidate(_) => DialEnd::Stalled,
        };
        self.drop_stream(sock, why);
    }

    /// Says yes or no on an accepted stream whose peer our user was asked about.
    pub(super) fn answer_stream(&mut self, sock: SockId, yes: bool) {
        let Some(stream) = self.streams.get(sock) else { return };
        let (HelloStage::Asking(_), Some((key, peer, terms))) = (&stream.stage, stream.session) else {
            return;
        };
        if !yes {
            return self.refuse_stream(sock, Refusal::NotAccepted);
        }
        self.agreement.open(key, peer, terms);
        self.send_control(sock, &Control::Approved);
        self.become_candidate(sock);
    }

    /// Closes every stream of a session that is over.
    pub(super) fn close_streams_of(&mut self, keys: &[Key]) {
        let socks: Vec<SockId> = keys.iter().flat_map(|key| self.streams.of_session(*key)).collect();
        for sock in socks {
            self.streams.remove(sock);
            self.places.leave(sock);
            self.cx.timers.set(Timer::Stream(sock), None);
            self.cx.close(sock, CloseHow::Drop);
        }
    }

    /// Returns true if the peer has proved its identity on a stream of this session.
    pub(super) fn has_proven_stream(&self, key: Key) -> bool {
        let proven = |s: &Stream| matches!(s.stage, HelloStage::Asking(_) | HelloStage::Candidate(_));
        self.streams.of_session(key).filter_map(|sock| self.streams.get(sock)).any(proven)
    }

    /// Returns true if a stream of this session to or from `remote` is open.
    pub(super) fn has_open_stream(&self, key: Key, remote: SocketAddr) -> bool {
        let open = |s: &Stream| s.remote == remote && !matches!(s.stage, HelloStage::Dialling(_));
        self.streams.of_session(key).filter_map(|sock| self.streams.get(sock)).any(open)
    }

    /// Closes the dials of a session that nobody has answered yet.
    pub(super) fn close_dials(&mut self, socks: impl Iterator<Item = SockId>) {
        for sock in socks {
            let dialling = |s: &Stream| matches!(s.stage, HelloStage::Dialling(_));
            if self.streams.get(sock).is_some_and(dialling) {
                self.streams.remove(sock);
                self.cx.close(sock, CloseHow::Drop);
            }
        }
    }

    /// Ends the streams that are not pipes yet and whose address of ours is gone.
    pub(super) fn drop_streams_from(&mut self, gone: impl Fn(IpAddr) -> bool) {
        let socks: Vec<SockId> =
            self.streams.iter().filter(|(_, s)| gone(s.local.ip())).map(|(n, _)| n).collect();
        for sock in socks {
            self.drop_stream(sock, DialEnd::Io(IoFailure::AddrNotAvailable));
        }
    }

    /// Returns true if a stream of this session is open from an address that is gone.
    pub(super) fn has_opened_from(&self, key: Key, gone: impl Fn(IpAddr) -> bool) -> bool {
        let open = |s: &Stream| !matches!(s.stage, HelloStage::Dialling(_)) && gone(s.local.ip());
        self.streams.of_session(key).filter_map(|sock| self.streams.get(sock)).any(open)
    }

    /// Returns true if the session has a stream whose hello the peer begins: the peer reached us.
    pub(super) fn has_accepted_stream(&self, key: Key) -> bool {
        let came = |s: &Stream| !s.initiator && !matches!(s.stage, HelloStage::Dialling(_));
        self.streams.of_session(key).any(|sock| self.streams.get(sock).is_some_and(came))
    }

    /// Returns the number of accepted streams of a session, without `but`.
    pub(super) fn accepted_of(&self, key: Key, but: SockId) -> usize {
        let accepted = |sock: SockId| sock != but && self.streams.get(sock).is_some_and(|s| s.accepted);
        self.streams.of_session(key).filter(|sock| accepted(*sock)).count()
    }

    /// Nominates whatever may be nominated with this peer.
    pub(super) fn agree(&mut self, peer: NodeId, first: Option<Decision>) {
        let mut next = first.or_else(|| self.agreement.nominate(peer));
        while let Some(decision) = next {
            self.carry_out(decision);
            next = self.agreement.nominate(peer);
        }
    }

    fn hear(&mut self, sock: SockId, heard: Heard) {
        // FIRST alone may be a recorded one. SECOND answers an ephemeral key of ours, and control messages are sealed
        // under one.
        if !matches!(heard, Heard::First { .. }) {
            self.places.prove(sock);
        }
        match heard {
            Heard::First { peer, offer } => self.hear_first(sock, peer, offer),
            Heard::Second(status) => self.hear_second(sock, status),
            Heard::Control(control) => self.hear_control(sock, control),
        }
    }

    /// Judges the request of a dialler that has proved its identity.
    fn hear_first(&mut self, sock: SockId, peer: NodeId, mut offer: Offer) {
        self.door.left(sock);
        let side = match offer.purpose {
            Purpose::Answer => Requester::Us,
            Purpose::Open => Requester::Them,
        };
        let key = (offer.session, side);
        if side == Requester::Us {
            // Our own call's, which the peer does not repeat.
            offer.terms.protocol = self.agreement.session(key).and_then(|(_, terms)| terms.protocol);
        }
        // A peer that was asked to dial back, too, says so.
        let by_punch = side == Requester::Them && self.is_punching(key);
        let Some(stream) = self.streams.get_mut(sock) else { return };
        match stream.session {
            // We began too, and gave way.
            Some(_) if stream.initiator => (stream.initiator, stream.strategy) = (false, Strategy::Direct),
            // We dialled for a punch, and somebody else answered.
            Some(expected) if expected != (key, peer, offer.terms) => {
                return self.bad_hello(sock, HelloError::NotAuthentic);
            }
            _ => {}
        }
        if by_punch {
            stream.strategy = Strategy::Punch;
        }
        let from = stream.remote.ip();
        let verdict = match self.accepted_of(key, sock) < MAX_OF_SESSION {
            true => self.judge_first(key, peer, offer.terms, from),
            false => Err(Refusal::Busy),
        };
        let verdict = match verdict {
            Ok(_) if !self.takes_place(sock, key, peer, from) => Err(Refusal::Busy),
            verdict => verdict,
        };
        let status = match verdict {
            Ok(true) => Status::Ready,
            Ok(false) => Status::Asking,
            Err(why) => Status::Refused(why),
        };
        let Some(stream) = self.streams.get_mut(sock) else { return };
        if side == Requester::Us {
            stream.strategy = Strategy::Reverse;
        }
        let (remote, strategy) = (stream.remote, stream.strategy);
        let answer = stream.stage.hello().map(|h| h.answer(status));
        let Some(Ok(second)) = answer else { return self.bad_hello(sock, HelloError::Malformed) };
        self.cx.send(sock, second);
        if verdict.is_err() {
            self.cx.stats.refused += 1;
            return self.remove_stream(sock, DialEnd::Lost, CloseHow::Graceful);
        }
        self.streams.introduce(sock, (key, peer, offer.terms));
        if verdict == Ok(false) {
            self.shift(sock, HelloStage::Asking);
            self.cx.timers.set(Timer::Stream(sock), Some(self.cx.now + ASKED_WITHIN));
            return self.ask_about_stream(peer, from, sock);
        }
        if side == Requester::Them {
            self.agreement.open(key, peer, offer.terms);
        }
        self.stage(Some(key), strategy, Stage::Authenticated(remote));
        self.become_candidate(sock);
    }

    fn judge_first(&self, key: Key, peer: NodeId, terms: Terms, from: IpAddr) -> Result<bool, Refusal> {
        let open = self.agreement.session(key);
        if self.agreement.is_over(key) || open.is_some_and(|o| o != (peer, terms)) {
            return Err(Refusal::NoSuchSession);
        }
        if key.1 == Requester::Us {
            // Somebody answers a request of ours, which must exist; the peer was checked above.
            return if open.is_some() { Ok(true) } else { Err(Refusal::NoSuchSession) };
        }
        let entry = self.admission.enter(peer, terms)?;
        if self.agreement.open_sessions() >= MAX_SESSIONS {
            return Err(Refusal::Busy);
        }
        match entry {
            Entry::Open => Ok(true),
            Entry::Ask if self.admission.asks.has_room(peer, Some(from)) => Ok(false),
            Entry::Ask => Err(Refusal::Busy),
        }
    }

    /// Goes on once the peer that we dialled has proved its identity.
    fn hear_second(&mut self, sock: SockId, status: Status) {
        let Some(stream) = self.streams.get_mut(sock) else { return };
        let (remote, session, strategy) = (stream.remote, stream.session, stream.strategy);
        let key = session.map(|(key, ..)| key);
        match status {
            Status::Refused(why) => self.refused_by_peer(sock, why),
            _ if session.is_some_and(|(key, peer, _)| !self.takes_place(sock, key, peer, remote.ip())) => {
                self.refuse_stream(sock, Refusal::Busy);
            }
            Status::Ready => {
                self.places.prove(sock);
                self.stage(key, strategy, Stage::Authenticated(remote));
                self.become_candidate(sock);
            }
            Status::Asking => {
                self.places.prove(sock);
                self.send_control(sock, &Control::Here);
                self.shift(sock, HelloStage::Asking);
                self.cx.timers.set(Timer::Stream(sock), Some(self.cx.now + ASKED_WITHIN));
                self.stage(key, strategy, Stage::AwaitingApproval);
            }
        }
    }

    fn hear_control(&mut self, sock: SockId, control: Control) {
        let Some(stream) = self.streams.get(sock) else { return };
        let Some((_, peer, _)) = stream.session else { return };
        match (control, &stream.stage) {
            (Control::Here, HelloStage::Asking(_) | HelloStage::Candidate(_)) if !stream.initiator => {}
            (Control::Approved, HelloStage::Asking(_)) if stream.initiator => self.become_candidate(sock),
            (Control::Refuse(why), _) => self.refused_by_peer(sock, why),
            (Control::Nominate(sessions), HelloStage::Candidate(_)) => {
                match self.agreement.nominated(sock, &sessions) {
                    Some(decision) => self.agree(peer, Some(decision)),
                    None => self.refuse_stream(sock, Refusal::NoSuchSession),
                }
            }
            (Control::Busy, HelloStage::Candidate(_)) => {
                let (key, strategy) = (stream.session.map(|(key, ..)| key), stream.strategy);
                self.stage(key, strategy, Stage::PeerBusy);
            }
            (Control::Join, HelloStage::Candidate(_)) => match self.agreement.joined(sock) {
                Some(decision) => self.agree(peer, Some(decision)),
                None => self.refuse_stream(sock, Refusal::NoSuchSession),
            },
            (Control::Confirm(also), HelloStage::Candidate(_)) => {
                match self.agreement.confirmed(sock, also) {
                    Some(decision) => self.agree(peer, Some(decision)),
                    None => self.bad_hello(sock, HelloError::Malformed),
                }
            }
            _ => self.bad_hello(sock, HelloError::Malformed),
        }
    }

    fn become_candidate(&mut self, sock: SockId) {
        let Some(stream) = self.streams.get(sock) else { return };
        let (Some((key, peer, _)), initiator) = (stream.session, stream.initiator) else { return };
        let remote = stream.remote.ip();
        self.punch_met(peer, remote);
        self.shift(sock, HelloStage::Candidate);
        self.cx.timers.set(Timer::Stream(sock), Some(self.cx.now + AGREE_WITHIN));
        let decision = self.agreement.candidate(sock, key, initiator);
        self.agree(peer, decision);
    }

    fn carry_out(&mut self, decision: Decision) {
        if self.is_relay(decision.sock()) {
            return self.carry_out_by_relay(decision);
        }
        match decision {
            Decision::Nominate { sock, sessions } => {
                self.tell_busy(sock);
                self.send_control(sock, &Control::Nominate(sessions));
            }
            Decision::Join { sock } => self.send_control(sock, &Control::Join),
            Decision::Confirm { sock, also, settled } => {
                self.tell_busy(sock);
                self.send_control(sock, &Control::Confirm(also));
                self.finish(sock, settled);
            }
            Decision::Settle { sock, settled } => self.finish(sock, settled),
            Decision::Refuse { sock } => self.refuse_stream(sock, Refusal::NoSuchSession),
        }
    }

    /// The stream is the pipe: hands it out and ends what it settles.
    fn finish(&mut self, sock: SockId, settled: Settled) {
        let Some(stream) = self.streams.remove(sock) else { return };
        self.cx.timers.set(Timer::Stream(sock), None);
        let (HelloStage::Candidate(hello), Some((key, peer, terms))) = (stream.stage, stream.session) else {
            return;
        };
        if let Some(pipe) = self.moving_pipe(key) {
            self.end_sessions(&settled, stream.since);
            let Ok(keys) = hello.into_pipe_keys(PipeMode::Encrypted) else { return };
            let way = Way { strategy: stream.strategy, local: stream.local, remote: stream.remote };
            self.places.leave(sock);
            return self.join_pipe(pipe, sock, way, keys);
        }
        let Ok(keys) = hello.into_pipe_keys(terms.mode) else { return };
        let (answers, since) = self.end_sessions(&settled, stream.since);
        let pipe = PipeStart {
            answers,
            peer,
            strategy: stream.strategy,
            local: stream.local,
            remote: stream.remote,
            elapsed: self.cx.now.since(since),
            protocol: terms.protocol,
            keys,
        };
        self.pipes.insert(sock, (peer, [stream.local, stream.remote]));
        self.cx.detach(sock, Box::new(pipe));
    }

    /// Ends what is still done for sessions that have their pipe: whose calls it answers, and since when they ran.
    pub(super) fn end_sessions(
        &mut self,
        settled: &Settled,
        mut since: Instant,
    ) -> (SmallVec<[ConnectId; 1]>, Instant) {
        let mut answers = SmallVec::new();
        for key in &settled.sessions {
            if settled.kept == Some(*key) {
                if key.1 == Requester::Us
                    && let Some((connect, began)) = self.answer_attempt_of(key.0)
                {
                    answers.push(connect);
                    since = began;
                }
                continue;
            }
            self.end_punch(*key);
            self.end_relay(*key);
            match key.1 {
                Requester::Us => {
                    if let Some((connect, began)) = self.end_attempt_of(key.0) {
                        answers.extend(connect);
                        since = began;
                    }
                }
                Requester::Them => {
                    if self.visits.remove(&key.0).is_some() {
                        self.cx.timers.set(Timer::Visit(key.0), None);
                    }
                }
            }
        }
        let over: SmallVec<[Key; 2]> =
            settled.sessions.iter().copied().filter(|key| settled.kept != Some(*key)).collect();
        self.close_streams_of(&over);
        (answers, since)
    }

    /// Tells a caller that its pipe will have to wait, if it will.
    fn tell_busy(&mut self, sock: SockId) {
        let session = self.streams.get(sock).and_then(|s| s.session);
        if self.busy && session.is_some_and(|((_, side), ..)| side == Requester::Them) {
            self.send_control(sock, &Control::Busy);
        }
    }

    fn send_control(&mut self, sock: SockId, control: &Control) {
        let frame = self.streams.get_mut(sock).and_then(|s| s.stage.hello()).map(|h| h.control(control));
        if let Some(Ok(frame)) = frame {
            self.cx.send(sock, frame);
        }
    }

    fn refuse_stream(&mut self, sock: SockId, why: Refusal) {
        self.cx.stats.refused += 1;
        self.send_control(sock, &Control::Refuse(why));
        self.remove_stream(sock, DialEnd::Refused(why), CloseHow::Graceful);
    }

    fn refused_by_peer(&mut self, sock: SockId, why: Refusal) {
        self.drop_stream(sock, DialEnd::Refused(why));
    }

    fn bad_hello(&mut self, sock: SockId, why: HelloError) {
        self.cx.stats.bad_hellos += 1;
        let initiator = self.streams.get(sock).is_some_and(|s| s.initiator);
        if let (HelloError::Version(_), false) = (why, initiator) {
            self.cx.send(sock, hello::refuse_version());
            return self.remove_stream(sock, DialEnd::Hello(why), CloseHow::Graceful);
        }
        self.drop_stream(sock, DialEnd::Hello(why));
    }

    fn drop_stream(&mut self, sock: SockId, why: DialEnd) {
        self.remove_stream(sock, why, CloseHow::Drop);
    }

    /// Takes a stream out and tells whoever waited for it.
    fn remove_stream(&mut self, sock: SockId, why: DialEnd, how: CloseHow) {
        let Some(stream) = self.streams.remove(sock) else { return };
        self.cx.timers.set(Timer::Stream(sock), None);
        self.cx.close(sock, how);
        self.door.left(sock);
        self.places.leave(sock);
        let decision = self.agreement.lost(sock);
        let Some((key, peer, _)) = stream.session else { return };
        self.agree(peer, decision);
        let by_punch = self.punch_lost_stream(key, sock, why);
        match key.1 {
            Requester::Us => self.attempt_lost_stream(key, sock, stream.remote, why),
            Requester::Them if by_punch => {}
            Requester::Them => self.visit_lost_stream(key, sock, why),
        }
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
