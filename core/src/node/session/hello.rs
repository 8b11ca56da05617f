//! The hello of a stream: what it brings, and what becomes of it when the two ends know each other.

use core::time::Duration;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use smallvec::SmallVec;

use super::stream::{HelloStage, Role, Stream};
use super::{Env, SessionEvent, Sessions};
use crate::call::{Refusal, Strategy};
use crate::cx::{Cx, Timer};
use crate::event::Stage;
use crate::failure::IoFailure;
use crate::hello::{self, Control, HEADER, Heard, Hello, HelloError, Offer, Purpose, Status};
use crate::identity::NodeId;
use crate::io::{CloseHow, Input, SockId};
use crate::node::admission::{Admission, Entry, Waiting};
use crate::pipe::Terms;
use crate::random::Domain;
use crate::strategy::agreement::{Candidate, Key, Requester};
use crate::strategy::dialler::DialEnd;

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

impl Sessions {
    /// Takes in an input of a stream.
    pub(in crate::node) fn handle(&mut self, env: &mut Env<'_>, input: Input<'_>) {
        match input {
            Input::Connected { sock, local, remote } => self.connected(env, sock, local, remote),
            Input::Stream { sock, data } => self.received(env, sock, data),
            Input::Failed { sock, cause } => self.failed(env.cx, sock, cause),
            Input::Eof { sock } => self.ended(env.cx, sock),
            _ => {}
        }
    }

    fn connected(&mut self, env: &mut Env<'_>, sock: SockId, local: SocketAddr, remote: SocketAddr) {
        let Some(stream) = self.streams.get_mut(sock) else { return };
        let HelloStage::Dialling(role) = stream.stage else { return };
        (stream.local, stream.remote) = (local, remote);
        let Role::Initiate(offer, peer) = role else {
            stream.stage = HelloStage::Hello(Hello::respond(env.config.has_aes()));
            return self.hello_began(env.cx, sock, None);
        };
        let entropy = env.cx.random.draw(Domain::NoiseEphemeral);
        let Ok((hello, first)) =
            Hello::initiate(&env.config.identity, &peer, offer, env.config.has_aes(), entropy)
        else {
            return self.drop_stream(env.cx, sock, DialEnd::Hello(HelloError::NotAuthentic));
        };
        stream.stage = HelloStage::Hello(hello);
        let (key, strategy) = (stream.session.map(|(key, ..)| key), stream.strategy);
        self.hello_began(env.cx, sock, Some(first));
        env.stage(key, strategy, Stage::Hello(remote));
    }

    /// The stream is open: says what comes first, if that is ours to say, and waits for the peer's.
    pub(super) fn hello_began(&mut self, cx: &mut Cx, sock: SockId, first: Option<Bytes>) {
        if let Some(first) = first {
            cx.send(sock, first);
        }
        cx.read(sock, HEADER as u32);
        cx.timers.set(Timer::Stream(sock), Some(cx.now + HELLO_WITHIN));
    }

    fn received(&mut self, env: &mut Env<'_>, sock: SockId, data: &[u8]) {
        let hello = self.streams.get_mut(sock).and_then(|s| s.stage.hello());
        // The credit for a body is given once its header is there, so that nothing comes behind it.
        if hello.is_some_and(|h| h.has_first(data.len())) && self.door.spoke(env.cx.now, sock) {
            self.shift(sock, |hello| HelloStage::Waiting(hello, data.into()));
            return self.serve_door(env);
        }
        self.hear_bytes(env, sock, data);
    }

    fn hear_bytes(&mut self, env: &mut Env<'_>, sock: SockId, mut data: &[u8]) {
        while !data.is_empty() {
            let Some(stream) = self.streams.get_mut(sock) else { return };
            let Some(hello) = stream.stage.hello() else { return };
            let before = hello.needs();
            let random = &mut env.cx.random;
            let heard = hello.receive(&env.config.identity, data, || random.draw(Domain::NoiseEphemeral));
            let (taken, heard) = match heard {
                Ok(ok) => ok,
                Err(why) => return self.bad_hello(env, sock, why),
            };
            let needs = hello.needs();
            data = &data[taken..];
            match heard {
                // The header is whole, the body is wanted; or bytes are still missing of either.
                None if taken as u32 >= before => env.cx.read(sock, needs),
                None => {}
                Some(heard) => {
                    self.hear(env, sock, heard);
                    if self.streams.get(sock).is_some() {
                        env.cx.read(sock, needs);
                    }
                }
            }
        }
    }

    /// Hears a caller whose turn has come.
    pub(super) fn turn_came(&mut self, env: &mut Env<'_>, sock: SockId) {
        let mut last = SmallVec::new();
        if let Some(Stream { stage: HelloStage::Waiting(_, data), .. }) = self.streams.get_mut(sock) {
            last = core::mem::take(data);
        }
        self.shift(sock, HelloStage::Hello);
        self.hear_bytes(env, sock, &last);
    }

    /// A silent caller makes room for another.
    pub(super) fn turn_away(&mut self, cx: &mut Cx, sock: SockId) {
        self.remove_stream(cx, sock, DialEnd::Lost, CloseHow::Reset);
    }

    fn failed(&mut self, cx: &mut Cx, sock: SockId, why: IoFailure) {
        let dialling = self.streams.get(sock).is_some_and(|s| matches!(s.stage, HelloStage::Dialling(..)));
        let end = if dialling { DialEnd::Io(why) } else { self.lost(sock) };
        self.drop_stream(cx, sock, end);
    }

    fn ended(&mut self, cx: &mut Cx, sock: SockId) {
        let end = self.lost(sock);
        self.drop_stream(cx, sock, end);
    }

    /// Returns the end of a stream that the other end breaks now.
    fn lost(&self, sock: SockId) -> DialEnd {
        match self.streams.get(sock).map(|s| &s.stage) {
            Some(HelloStage::Asking(_) | HelloStage::Candidate(_)) => DialEnd::Lost,
            _ => DialEnd::Broken,
        }
    }

    pub(in crate::node) fn timeout(&mut self, env: &mut Env<'_>, sock: SockId) {
        let Some(stream) = self.streams.get(sock) else { return };
        if !stream.initiator && stream.session.is_none() {
            env.cx.stats.bad_hellos += 1;
        }
        let why = match stream.stage {
            HelloStage::Dialling(..) | HelloStage::Hello(_) | HelloStage::Waiting(..) => DialEnd::Silent,
            HelloStage::Asking(_) | HelloStage::Candidate(_) => DialEnd::Stalled,
        };
        self.drop_stream(env.cx, sock, why);
    }

    /// Returns true if a stream of this session waits for the peer's user.
    pub(in crate::node) fn is_awaiting_approval(&self, key: Key) -> bool {
        let asks = |sock| self.streams.get(sock).is_some_and(|s| matches!(s.stage, HelloStage::Asking(_)));
        self.streams.of_session(key).any(asks)
    }

    /// Lets in, or refuses, an accepted stream whose peer our user was asked about.
    pub(in crate::node) fn answer(&mut self, env: &mut Env<'_>, sock: SockId, said: Result<(), Refusal>) {
        let Some(stream) = self.streams.get(sock) else { return };
        let (HelloStage::Asking(_), Some((key, peer, terms))) = (&stream.stage, stream.session) else {
            return;
        };
        if let Err(why) = said {
            return self.refuse(env.cx, sock, why);
        }
        self.agreement.open(key, peer, terms);
        self.send_control(env.cx, sock, &Control::Approved);
        self.become_candidate(env.cx, sock, false);
    }

    /// Returns the number of accepted streams of a session, without `but`.
    pub(super) fn accepted_of(&self, key: Key, but: SockId) -> usize {
        let accepted = |sock: SockId| sock != but && self.streams.get(sock).is_some_and(|s| s.accepted);
        self.streams.of_session(key).filter(|sock| accepted(*sock)).count()
    }

    fn hear(&mut self, env: &mut Env<'_>, sock: SockId, heard: Heard) {
        // FIRST alone may be a recorded one. SECOND answers an ephemeral key of ours, and control messages are sealed
        // under one.
        if !matches!(heard, Heard::First { .. }) {
            self.places.prove(Candidate::Stream(sock));
        }
        match heard {
            Heard::First { peer, offer } => self.hear_first(env, sock, peer, offer),
            Heard::Second(status) => self.hear_second(env, sock, status),
            Heard::Control(control) => self.hear_control(env, sock, control),
        }
    }

    /// Judges a caller's FIRST, which may still be a recorded one.
    fn hear_first(&mut self, env: &mut Env<'_>, sock: SockId, peer: NodeId, mut offer: Offer) {
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
        let by_punch = side == Requester::Them && self.punched.contains(&key);
        let Some(stream) = self.streams.get_mut(sock) else { return };
        match stream.session {
            // We began too, and gave way.
            Some(_) if stream.initiator => (stream.initiator, stream.strategy) = (false, Strategy::Direct),
            // We dialled for a punch, and somebody else answered.
            Some(expected) if expected != (key, peer, offer.terms) => {
                return self.bad_hello(env, sock, HelloError::NotAuthentic);
            }
            _ => {}
        }
        if by_punch {
            stream.strategy = Strategy::Punch;
        }
        let from = stream.remote.ip();
        let verdict = match self.accepted_of(key, sock) < MAX_OF_SESSION {
            true => self.judge_first(env.admission, key, peer, offer.terms, from),
            false => Err(Refusal::Busy),
        };
        let verdict = match verdict {
            Ok(_) if !self.takes_place(env, sock, key, peer, from) => Err(Refusal::Busy),
            verdict => verdict,
        };
        // A caller that has to wait is to hear of it, which COMMIT leaves no room for.
        let commit = !self.waits(key) && self.agreement.may_commit(key, peer, offer.terms);
        let status = match verdict {
            Ok(true) => Status::Ready { commit },
            Ok(false) => Status::Asking,
            Err(why) => Status::Refused(why),
        };
        let Some(stream) = self.streams.get_mut(sock) else { return };
        if side == Requester::Us {
            stream.strategy = Strategy::Reverse;
        }
        let (remote, strategy) = (stream.remote, stream.strategy);
        let answer = stream.stage.hello().map(|h| h.answer(status));
        let Some(Ok(second)) = answer else { return self.bad_hello(env, sock, HelloError::Malformed) };
        env.cx.send(sock, second);
        if verdict.is_err() {
            env.cx.stats.refused += 1;
            return self.remove_stream(env.cx, sock, DialEnd::Lost, CloseHow::Graceful);
        }
        self.streams.introduce(sock, (key, peer, offer.terms));
        if verdict == Ok(false) {
            self.shift(sock, HelloStage::Asking);
            env.cx.timers.set(Timer::Stream(sock), Some(env.cx.now + ASKED_WITHIN));
            // There is room: that was seen when the stream was judged.
            let _ = env.admission.ask(env.cx, peer, Some(from), Waiting::Stream(sock));
            return;
        }
        if side == Requester::Them {
            self.agreement.open(key, peer, offer.terms);
        }
        env.stage(Some(key), strategy, Stage::Authenticated(remote));
        self.become_candidate(env.cx, sock, commit);
    }

    fn judge_first(
        &self,
        admission: &Admission,
        key: Key,
        peer: NodeId,
        terms: Terms,
        from: IpAddr,
    ) -> Result<bool, Refusal> {
        let open = self.agreement.session(key);
        if self.agreement.is_over(key) || open.is_some_and(|o| o != (peer, terms)) {
            return Err(Refusal::NoSuchSession);
        }
        if key.1 == Requester::Us {
            // Somebody answers a request of ours, which must exist; the peer was checked above.
            return if open.is_some() { Ok(true) } else { Err(Refusal::NoSuchSession) };
        }
        let entry = admission.enter(peer, terms)?;
        if self.agreement.open_sessions() >= MAX_SESSIONS {
            return Err(Refusal::Busy);
        }
        match entry {
            Entry::Open => Ok(true),
            Entry::Ask if admission.may_ask(peer, from) => Ok(false),
            Entry::Ask => Err(Refusal::Busy),
        }
    }

    /// Goes on once the peer that we dialled has proved its identity.
    fn hear_second(&mut self, env: &mut Env<'_>, sock: SockId, status: Status) {
        let Some(stream) = self.streams.get_mut(sock) else { return };
        let (remote, session, strategy) = (stream.remote, stream.session, stream.strategy);
        let key = session.map(|(key, ..)| key);
        match status {
            Status::Refused(why) => self.drop_stream(env.cx, sock, DialEnd::Refused(why)),
            _ if session
                .is_some_and(|(key, peer, _)| !self.takes_place(env, sock, key, peer, remote.ip())) =>
            {
                self.refuse(env.cx, sock, Refusal::Busy);
            }
            Status::Ready { commit } => {
                self.places.prove(Candidate::Stream(sock));
                env.stage(key, strategy, Stage::Authenticated(remote));
                self.become_candidate(env.cx, sock, commit);
            }
            Status::Asking => {
                self.places.prove(Candidate::Stream(sock));
                self.send_control(env.cx, sock, &Control::Here);
                self.shift(sock, HelloStage::Asking);
                env.cx.timers.set(Timer::Stream(sock), Some(env.cx.now + ASKED_WITHIN));
                env.stage(key, strategy, Stage::AwaitingApproval);
            }
        }
    }

    fn hear_control(&mut self, env: &mut Env<'_>, sock: SockId, control: Control) {
        let Some(stream) = self.streams.get(sock) else { return };
        let Some((_, peer, _)) = stream.session else { return };
        match (control, &stream.stage) {
            (Control::Here, HelloStage::Asking(_) | HelloStage::Candidate(_)) if !stream.initiator => {}
            (Control::Approved, HelloStage::Asking(_)) if stream.initiator => {
                self.become_candidate(env.cx, sock, false)
            }
            (Control::Refuse(why), _) => self.drop_stream(env.cx, sock, DialEnd::Refused(why)),
            (Control::Nominate(sessions), HelloStage::Candidate(_)) => {
                match self.agreement.nominated(Candidate::Stream(sock), &sessions) {
                    Some(decision) => self.agree(env.cx, peer, Some(decision)),
                    None => self.refuse(env.cx, sock, Refusal::NoSuchSession),
                }
            }
            (Control::Commit(sessions), HelloStage::Candidate(_)) => {
                match self.agreement.committed(Candidate::Stream(sock), &sessions) {
                    Some(decision) => self.agree(env.cx, peer, Some(decision)),
                    // To its sender the stream is a pipe: a REFUSE would be read as bytes of ours.
                    None => self.drop_stream(env.cx, sock, DialEnd::Refused(Refusal::NoSuchSession)),
                }
            }
            (Control::Busy, HelloStage::Candidate(_)) => {
                let (key, strategy) = (stream.session.map(|(key, ..)| key), stream.strategy);
                env.stage(key, strategy, Stage::PeerBusy);
            }
            (Control::Confirm(also), HelloStage::Candidate(_)) => {
                match self.agreement.confirmed(Candidate::Stream(sock), also) {
                    Some(decision) => self.agree(env.cx, peer, Some(decision)),
                    None => self.bad_hello(env, sock, HelloError::Malformed),
                }
            }
            _ => self.bad_hello(env, sock, HelloError::Malformed),
        }
    }

    /// Adds a stream to the candidates. `commits`: its responder allowed its initiator to commit.
    fn become_candidate(&mut self, cx: &mut Cx, sock: SockId, commits: bool) {
        let Some(stream) = self.streams.get(sock) else { return };
        let (Some((key, peer, _)), initiator) = (stream.session, stream.initiator) else { return };
        let remote = stream.remote.ip();
        self.news.push_back(SessionEvent::Met { peer, ip: remote });
        self.shift(sock, HelloStage::Candidate);
        cx.timers.set(Timer::Stream(sock), Some(cx.now + AGREE_WITHIN));
        let decision = self.agreement.candidate(Candidate::Stream(sock), key, initiator, commits);
        self.agree(cx, peer, decision);
    }

    fn bad_hello(&mut self, env: &mut Env<'_>, sock: SockId, why: HelloError) {
        env.cx.stats.bad_hellos += 1;
        let initiator = self.streams.get(sock).is_some_and(|s| s.initiator);
        if let (HelloError::Version(_), false) = (why, initiator) {
            env.cx.send(sock, hello::refuse_version());
            return self.remove_stream(env.cx, sock, DialEnd::Hello(why), CloseHow::Graceful);
        }
        self.drop_stream(env.cx, sock, DialEnd::Hello(why));
    }
}
