//! Pipes through a TURN server, on each side of opening one.
//!
//! The requester gets a relayed address and names it to the peer (TURN_REQUEST). The peer says where it will come from
//! (TURN_RESPONSE), which the requester permits at its server. The peer begins a [`RelayStream`] towards the relayed
//! address. One allocation is enough so: permissions go by address, so that it does not matter which port the peer's
//! NAT gives it.
//!
//! Where nothing comes back within a second and a half, or the peer has no UDP, it comes from a relayed address of its
//! own.
//!
//! The stream proves both ends. It is a candidate then like any TCP stream, and NOMINATE and CONFIRM are its first
//! bytes; the user's follow.

mod knock;
mod memory;
mod moving;
mod pipes;
mod proof;
mod relay;
pub(super) mod servers;

use core::time::Duration;
use std::net::{IpAddr, SocketAddr};

use smallvec::SmallVec;

pub(super) use moving::Way;
pub(crate) use pipes::MAX_AT_ONCE;
pub(super) use proof::Proof;
pub(super) use relay::Relay;

use knock::Knock;
pub(in crate::node) use knock::KnockKey;
use moving::Moving;
use relay::{News, RelayStage};
use servers::{ServerNews, Servers};

use super::Node;
use super::admission::Trust;
use super::attempts::RunState;
use super::requests::Request;
use crate::config::ServerRef;
use crate::cx::Owner;
use crate::hello::Control;
use crate::identity::NodeId;
use crate::io::{IoFailure, QueryId, SockId};
use crate::notice::{ConnectId, Notice, Outcome, Refusal, Stage, Strategy};
use crate::pipe::{PipeEnd, PipeId, PipeKeys, PipeNews, PipeStart, Terms};
use crate::random::Domain;
use crate::relay::{EndCause, RelayConfig, RelayStream, StreamEvent};
use crate::session::SessionId;
use crate::signal::message::{Body, MAX_SOURCES};
use crate::strategy::agreement::{Candidate, Decision, Key, Requester, Settled};
use crate::strategy::paths;
use crate::time::Instant;
use crate::turn::{Credentials, Family};

/// Time without an answer from the relay after which the responder acts. It says again where it comes from, and gets a
/// relayed address of its own if it can.
const HELP_AFTER: Duration = Duration::from_millis(1500);
/// Time for the handshake through the relay, at the responder.
const MEET_WITHIN: Duration = Duration::from_secs(30);
/// Time after which a stranger's relay from which nothing has come is given up. The time counts anew where we have our
/// own servers help, and when one does.
const STRANGERS_SILENCE: Duration = Duration::from_secs(5);
/// Time for the ends to agree after that.
const AGREE_WITHIN: Duration = Duration::from_secs(10);
/// Time for a closed relay to tell the peer, and then the server.
const END_WITHIN: Duration = Duration::from_secs(5);
/// Bounds of the round trip that is assumed to a peer at a relay: that to our broker. A first packet comes before the
/// permission for it, and is repeated after three assumed round trips.
const FIRST_RTT: (Duration, Duration) = (Duration::from_millis(15), Duration::from_millis(100));

/// The relay strategy of one connect.
#[derive(Debug)]
pub(super) struct Relaying {
    id: PipeId,
    told_waiting: bool,
    pub(super) request: Option<Request>,
}

impl Node {
    /// Begins to ask our servers for a relayed address.
    pub(super) fn begin_relaying(&mut self, connect: ConnectId) -> Option<Relaying> {
        let (session, peer, via, _) = self.signalling_of(connect)?;
        let (address, terms, moves) = self.plan_of(connect)?;
        let key = (session, Requester::Us);
        let family =
            if address.v4().is_empty() && !address.v6().is_empty() { Family::V6 } else { Family::V4 };
        let id = self.cx.fresh_pipe();
        let knock = KnockKey::new(&self.config.identity, &peer, session);
        let mut relay = Relay::new(id, key, peer, terms, Trust::Known, via, self.cx.now, knock);
        relay.servers = Some(self.ask_servers(id, family, true));
        relay.moves = moves;
        self.insert_relay(relay);
        self.work_relay(id);
        Some(Relaying { id, told_waiting: false, request: None })
    }

    /// Sends the request once there is an address to name, and repeats it.
    pub(super) fn drive_relaying(&mut self, connect: ConnectId, n: usize) {
        let Some((_, _, brokers, until)) = self.signalling_of(connect) else { return };
        // The peer needs to know the relay and nothing else of us.
        let (ready, settled) = (self.signalling.is_ready(&brokers), self.network.listeners_are_open());
        let Some(relaying) = self.relaying(connect, n) else { return };
        if relaying.request.is_some() {
            return self.repeat_request(connect, n);
        }
        let id = relaying.id;
        let relay = self.relays.get(&id);
        let relayed = relay.and_then(|r| Some((r.servers.as_ref()?.relayed()?, r.terms, r.moves)));
        if let (Some((relayed, terms, moves)), true, true) = (relayed, ready, settled) {
            let address = Box::new(self.current_address());
            let body = Body::TurnRequest { terms, moves, relayed, address };
            let request = self.request(connect, Strategy::Relay, body);
            if let Some(relaying) = self.relaying(connect, n) {
                relaying.request = request;
            }
            self.await_peer(id, until);
        } else if let Some(relaying) = self.relaying(connect, n)
            && !ready
            && !core::mem::replace(&mut relaying.told_waiting, true)
        {
            self.relay_stage(connect, Stage::AwaitingBroker);
        }
    }

    /// Describes the progress of a relay of ours, in words.
    pub(super) fn describe_relaying(&self, relaying: &Relaying) -> String {
        let Some(relay) = self.relays.get(&relaying.id) else { return String::new() };
        let relayed = relay.servers.as_ref().and_then(Servers::relayed);
        match (relayed, &relaying.request) {
            (None, _) => match relay.servers.as_ref().map(Servers::describe) {
                Some(text) if !text.is_empty() => text,
                _ => "no TURN server relays for us".into(),
            },
            (Some(_), None) => "no common broker became usable in time".into(),
            (Some(_), Some(request)) if !request.answered => {
                let old = if relay.moves { "; an old one cannot have the relay first" } else { "" };
                format!("asked {} time(s), the peer did not answer{old}", request.sent)
            }
            (Some(_), Some(_)) if let Some(code) = relay.refused => {
                format!("the TURN server does not let the peer through: error {code}")
            }
            (Some(_), Some(_)) if let Some(code) = relay.servers.as_ref().and_then(Servers::unproven) => {
                format!("the TURN server seems not to let the peer through: error {code}, without integrity")
            }
            (Some(at), Some(_)) => {
                format!("the peer answered, but nothing of it came through the relay at {at}")
            }
        }
    }

    /// Goes to the peer's relay, as the peer asks us to; our user's rules have been asked.
    pub(super) fn visit_by_relay(
        &mut self,
        peer: NodeId,
        session: SessionId,
        via: SmallVec<[u8; 2]>,
        terms: Terms,
        relayed: SocketAddr,
        moves: bool,
    ) {
        let key = (session, Requester::Them);
        let trust = self.admission.trust(peer);
        let may = |trust| paths::may_send_to(&self.network.ours(), relayed.ip(), trust);
        if self.is_oneself(peer) || !may(trust) {
            let private = !self.is_oneself(peer) && may(Trust::Known);
            let reason = match private {
                true => Body::Refused(Refusal::PrivateForStrangers { asked: Strategy::Relay }),
                false => Body::TurnResponse(SmallVec::new()),
            };
            return self.reply(peer, session, &via, reason);
        }
        self.sessions.open(key, peer, terms);
        let now = self.cx.now;
        let id = self.cx.fresh_pipe();
        let knock = KnockKey::new(&self.config.identity, &peer, session);
        let mut relay = Relay::new(id, key, peer, terms, trust, via, now, knock);
        relay.moves = moves;
        relay.has_turn = !self.config.turn.is_empty();
        relay.to = Some(relayed);
        if self.network.routes().iter().any(|r| r.internal.is_ipv4() == relayed.is_ipv4()) {
            let from = self.network.dial_from(relayed.ip());
            relay.socket = Some((self.cx.bind_udp(Owner::Relay(id), from), false));
        } else {
            // We cannot send there; a server of ours may.
            relay.help_at = Some(now);
        }
        relay.until = Some(now + MEET_WITHIN);
        if trust == Trust::Stranger {
            relay.until = Some(now + STRANGERS_SILENCE);
            relay.knock = Some(Knock::new(&knock, self.cx.random.bytes(Domain::MessageId)));
        }
        let routes = self.network.routes().iter().filter(|r| r.internal.is_ipv4() == relayed.is_ipv4());
        let known = routes.flat_map(|r| [r.external, r.internal]).filter(|ip| !self.network.is_by_nat64(*ip));
        for ip in known {
            let at = SocketAddr::new(ip, 0);
            if relay.sources.len() + 1 < MAX_SOURCES && !relay.sources.contains(&at) {
                relay.sources.push(at);
            }
        }
        self.insert_relay(relay);
        self.work_relay(id);
    }

    /// Takes in the peer's word on the addresses that it comes from.
    pub(super) fn peer_comes(&mut self, peer: NodeId, session: SessionId, sources: &[SocketAddr]) {
        let key = (session, Requester::Us);
        let Some((connect, n)) = self.relaying_of(session) else { return };
        let Some(relay) = self.relay_of(key).filter(|r| r.peer == peer) else { return };
        let id = relay.id;
        if sources.is_empty() {
            return self.relay_failed(id, "the peer cannot come to our relay".into());
        }
        let Some(request) = self.request_of(connect, n) else { return };
        let first = !core::mem::replace(&mut request.answered, true);
        if first {
            self.relay_stage(connect, Stage::PeerComes);
        }
        if let Some(mut relay) = self.relays.remove(&id) {
            if let Some(servers) = &mut relay.servers {
                for at in sources {
                    servers.permit(&mut self.cx, *at);
                }
            }
            self.relays.insert(id, relay);
            self.work_relay(id);
        }
        self.drive_attempt(connect);
    }

    /// Ends all relays of a session, without a word to the strategy.
    pub(super) fn end_relay(&mut self, key: Key) {
        if let Some(id) = self.relay_ids.get(&key).copied()
            && self.relays.get(&id).is_some_and(|r| r.is_opening())
        {
            self.close_relay(id);
        }
    }

    /// Returns true if a relay of this session is being opened.
    pub(super) fn is_relaying(&self, key: Key) -> bool {
        self.relay_of(key).is_some_and(Relay::is_opening)
    }

    pub(super) fn relay_resolved(
        &mut self,
        id: PipeId,
        query: QueryId,
        result: Result<SmallVec<[IpAddr; 2]>, IoFailure>,
    ) {
        self.with_servers(id, |servers, cx| servers.resolved(cx, query, result));
    }

    /// Takes in that a socket of a relay is bound or connected.
    pub(super) fn relay_opened(&mut self, id: PipeId, sock: SockId, local: SocketAddr) {
        if self.shows_opened(id) {
            return;
        }
        if let Some(relay) = self.relays.get_mut(&id)
            && let Some((s, bound)) = &mut relay.socket
            && *s == sock
        {
            *bound = true;
            relay.local = Some(local);
            return self.come(id);
        }
        self.with_servers(id, |servers, cx| servers.opened(cx, sock));
    }

    pub(super) fn relay_datagram(&mut self, id: PipeId, sock: SockId, from: SocketAddr, data: &[u8]) {
        if let Some(relay) = self.relays.get_mut(&id) {
            relay.datagram(&mut self.cx, sock, from, data);
            self.work_relay(id);
        } else if !self.shows_datagram(id, from, data) {
            self.with_servers(id, |servers, cx| servers.datagram(cx, sock, from, data));
        }
    }

    pub(super) fn relay_received(&mut self, id: PipeId, sock: SockId, data: &[u8]) {
        self.with_servers(id, |servers, cx| servers.received(cx, sock, data));
    }

    pub(super) fn relay_socket_ended(&mut self, id: PipeId, sock: SockId) {
        self.with_servers(id, |servers, cx| servers.ended(cx, sock));
    }

    pub(super) fn relay_socket_failed(&mut self, id: PipeId, sock: SockId, why: IoFailure) {
        if self.shows_failed(id) {
            return;
        }
        if let Some(relay) = self.relays.get_mut(&id)
            && relay.socket.is_some_and(|(s, _)| s == sock)
        {
            // No UDP here: a server of ours may have a way.
            relay.socket = None;
            relay.help_at = Some(self.cx.now);
            return self.work_relay(id);
        }
        self.with_servers(id, |servers, cx| servers.failed(cx, sock, why));
    }

    pub(super) fn relay_timeout(&mut self, id: PipeId) {
        let now = self.cx.now;
        if self.proof_timeout(id) {
            return;
        }
        let Some(relay) = self.relays.get_mut(&id) else { return };
        relay.timeout(&mut self.cx);
        if relay.until.is_some_and(|at| at <= now) {
            relay.until = None;
            let whole = relay.since + MEET_WITHIN;
            match relay.stage {
                RelayStage::Meeting if relay.is_heard() && whole > now => relay.until = Some(whole),
                RelayStage::Meeting => self.relay_failed(id, "nothing came through the relay".into()),
                RelayStage::Agreeing => self.relay_failed(id, "the peer did not agree to the relay".into()),
                RelayStage::Leaving => self.close_relay(id),
                RelayStage::Ending => {
                    relay.until = Some(now + END_WITHIN);
                    if !relay.hurry() {
                        return self.forget_relay(id);
                    }
                }
                RelayStage::Pipe => {}
            }
        } else if relay.help_at.is_some_and(|at| at <= now) {
            relay.help_at = None;
            self.come_by_server(id);
        }
        self.work_relay(id);
    }

    /// Nominates or confirms, where the candidate is a relay.
    pub(super) fn carry_out_by_relay(&mut self, decision: Decision) {
        let Candidate::Relay(id) = decision.candidate() else { return };
        match decision {
            Decision::Nominate { sessions, .. } => {
                self.tell_busy_by_relay(id);
                self.tell_relay(id, &Control::Nominate(sessions));
            }
            Decision::Confirm { also, settled, .. } => {
                self.tell_busy_by_relay(id);
                self.tell_relay(id, &Control::Confirm(also));
                self.finish_by_relay(id, &settled);
            }
            Decision::Settle { settled, .. } => self.finish_by_relay(id, &settled),
            // Only streams join.
            Decision::Join { .. } | Decision::Refuse { .. } => self.close_relay(id),
        }
    }

    /// Hands the user's new credentials for a TURN server to relays and proofs; `None` if the user has none.
    pub(super) fn relays_renew(&mut self, place: u8, fresh: Option<&Credentials>) {
        for id in self.relays.keys().copied().chain(self.proof_ids()).collect::<Vec<_>>() {
            self.with_servers(id, |servers, cx| servers.renew(cx, place, fresh));
        }
    }

    /// Asks our servers for an address of this family, or of any where there is none of this.
    fn ask_servers(&mut self, id: PipeId, family: Family, any: bool) -> Servers {
        let ours = self.network.families();
        let (list, bind) = (&self.config.turn, self.config.bind);
        Servers::start(&mut self.cx, Owner::Relay(id), list, bind, ours, (family, any))
    }

    fn relay_config(&self, id: PipeId) -> RelayConfig {
        let (least, most) = FIRST_RTT;
        let relay = self.relays.get(&id);
        let delay = relay.map_or(most, |r| self.signalling.delay(&r.via));
        let window = relay.map_or(0, |r| r.window);
        let initial_rtt = (2 * delay).clamp(least, most);
        RelayConfig { initial_rtt, receive_window: window, send_window: window, ..RelayConfig::default() }
    }

    fn insert_relay(&mut self, mut relay: Relay) {
        relay.window = self.relay_window(relay.trust);
        self.relay_ids.insert(relay.key, relay.id);
        self.relays.insert(relay.id, Box::new(relay));
    }

    fn relay_of(&self, key: Key) -> Option<&Relay> {
        self.relays.get(self.relay_ids.get(&key)?).map(Box::as_ref)
    }

    fn with_servers(&mut self, id: PipeId, work: impl FnOnce(&mut Servers, &mut crate::cx::Cx)) {
        let of_relay = self.relays.get_mut(&id).and_then(|r| r.servers.as_mut());
        if let Some(servers) = of_relay.or_else(|| self.proofs.get_mut(&id)?.servers()) {
            work(servers, &mut self.cx);
        }
        self.work_relay(id);
        self.work_proof(id);
    }

    /// Goes on with a relay after anything that happened to it.
    fn work_relay(&mut self, id: PipeId) {
        let Some(relay) = self.relays.get_mut(&id) else { return };
        let news = relay.pump(&mut self.cx);
        for said in news {
            match said {
                News::Stream(event) => self.stream_news(id, event),
                News::Answered => self.begin_stream(id),
                News::Server(news) => self.server_news(id, news),
                News::Mover(event) => self.mover_news(id, event),
            }
        }
        if self.relays.get(&id).is_some_and(|r| r.stage == RelayStage::Leaving && r.has_arrived()) {
            // The last message, or the last byte.
            self.close_relay(id);
        } else if self.relays.get(&id).is_some_and(|r| r.is_over()) {
            self.forget_relay(id);
        }
    }

    fn stream_news(&mut self, id: PipeId, event: StreamEvent) {
        let Some(relay) = self.relays.get_mut(&id) else { return };
        let pipe = id;
        match (event, relay.stage) {
            (StreamEvent::Message, RelayStage::Pipe) => self.cx.pipe_news(pipe, PipeNews::Message),
            (StreamEvent::MessageRoom, RelayStage::Pipe) => self.cx.pipe_news(pipe, PipeNews::MessageRoom),
            // One that comes before the pipe is handed out is read then.
            (StreamEvent::Message | StreamEvent::MessageRoom, _) => {}
            (StreamEvent::Ended(cause), _) if relay.moving.is_some() => self.relay_broke(id, end_of(cause)),
            // What it brings or takes are the mover's frames.
            _ if relay.moving.is_some() => {}
            (StreamEvent::Connected, RelayStage::Meeting) => {
                relay.stage = RelayStage::Agreeing;
                relay.until = Some(self.cx.now + AGREE_WITHIN);
                relay.help_at = None;
                let (key, peer, to) = (relay.key, relay.peer, relay.to);
                let trust = self.admission.trust(peer);
                if key.1 == Requester::Them && !self.sessions.enter_relayed(id, peer, trust) {
                    self.cx.stats.refused += 1;
                    return self.relay_failed(id, Refusal::Busy.to_string());
                }
                let Some(relay) = self.relays.get_mut(&id) else { return };
                let moves = relay.moves;
                if let Some(to) = to {
                    self.stage(Some(key), Strategy::Relay, Stage::Authenticated(to));
                }
                self.sessions.relay_connected(&mut self.cx, id, key, peer, moves);
                self.work_relay(id);
            }
            (StreamEvent::Readable, RelayStage::Agreeing) => self.hear_relay(id),
            (StreamEvent::Readable, RelayStage::Pipe) => self.cx.pipe_news(pipe, PipeNews::Readable),
            (StreamEvent::Writable, RelayStage::Pipe) => self.cx.pipe_news(pipe, PipeNews::Writable),
            (StreamEvent::Delivered, RelayStage::Pipe) => {
                relay.done = true;
                self.cx.pipe_news(pipe, PipeNews::Delivered);
            }
            (StreamEvent::Delivered, RelayStage::Leaving) => relay.done = true,
            (StreamEvent::Ended(cause), stage) => match stage {
                RelayStage::Meeting | RelayStage::Agreeing => {
                    let why = self.why_it_ended(id, cause);
                    self.relay_failed(id, why);
                }
                RelayStage::Pipe => self.pipe_over(id, end_of(cause)),
                RelayStage::Leaving => self.close_relay(id),
                RelayStage::Ending => {}
            },
            _ => {}
        }
    }

    /// Returns the reason that a relay gives no pipe, in words. If nobody came: the progress of the relay.
    fn why_it_ended(&self, id: PipeId, cause: EndCause) -> String {
        let relaying = self.relays.get(&id).filter(|_| cause == EndCause::TimedOut).and_then(|relay| {
            let (connect, n) = self.relaying_of(relay.key.0)?;
            self.relaying_at(connect, n)
        });
        relaying.map_or_else(|| cause.to_string(), |relaying| self.describe_relaying(relaying))
    }

    fn server_news(&mut self, id: PipeId, news: ServerNews) {
        let Some(relay) = self.relays.get_mut(&id) else { return };
        match news {
            ServerNews::Allocated(at) if relay.key.1 == Requester::Us => {
                relay.local = Some(at);
                let session = relay.key.0;
                if let Some((connect, _)) = self.relaying_of(session) {
                    self.relay_stage(connect, Stage::Allocated(at));
                    self.drive_attempt(connect);
                }
            }
            ServerNews::Allocated(at) => {
                // The peer's relay is where our datagrams go from now on by way of ours.
                relay.by_server = true;
                if relay.trust == Trust::Stranger && relay.stage == RelayStage::Meeting {
                    relay.until = relay.until.max(Some(self.cx.now + STRANGERS_SILENCE));
                }
                relay.local = Some(at);
                // In place of what its address says alone: this is where it comes from now.
                relay.sources.retain(|source| source.ip() != at.ip());
                relay.sources.push(at);
                if let (Some(to), Some(servers)) = (relay.to, &mut relay.servers) {
                    servers.permit(&mut self.cx, to);
                }
                self.come(id);
            }
            ServerNews::Refused(_, code) => relay.refused = Some(code),
            ServerNews::Redirected { by, to, anywhere } => {
                let may = self.network.may_follow(to, anywhere);
                self.with_servers(id, |servers, cx| servers.follow(cx, by, to, may));
            }
            ServerNews::Stale(place) => self.logins.want(&mut self.cx, ServerRef::Turn(place)),
            ServerNews::Lost(_) if relay.key.1 == Requester::Them && !relay.by_server => {}
            ServerNews::Lost(why) => match relay.stage {
                RelayStage::Meeting | RelayStage::Agreeing => self.relay_failed(id, why.to_string()),
                RelayStage::Pipe | RelayStage::Leaving if relay.moving.is_some() => {
                    self.relay_broke(id, server_end(why));
                }
                RelayStage::Pipe => self.pipe_over(id, server_end(why)),
                RelayStage::Leaving => self.close_relay(id),
                RelayStage::Ending => {}
            },
            ServerNews::Failed(why) if relay.key.1 == Requester::Us => {
                if relay.is_opening() {
                    self.relay_failed(id, why);
                }
            }
            // We may reach the peer's relay without one of our own; if not, it ends by its time.
            ServerNews::Failed(_) if relay.socket.is_some() => {}
            ServerNews::Failed(_) => {
                let (peer, session, via) = (relay.peer, relay.key.0, relay.via.clone());
                self.reply(peer, session, &via, Body::TurnResponse(SmallVec::new()));
                self.relay_failed(id, String::new());
            }
            ServerNews::Data(..) => {}
        }
    }

    /// Requester: every peer that comes to our relay is heard from now on.
    fn await_peer(&mut self, id: PipeId, until: Instant) {
        let now = self.cx.now;
        let seed = self.cx.random.draw(Domain::RelaySeed);
        let config = self.relay_config(id);
        let Some(relay) = self.relays.get_mut(&id) else { return };
        if relay.stream.is_none() {
            let ours = &self.config.identity;
            let mut stream = RelayStream::accept(ours, &relay.peer, &relay.key.0.0, seed, &config, now);
            // The request may be lost, and heard when it is repeated.
            stream.await_until(until);
            relay.stream = Some(Box::new(stream));
        }
        self.work_relay(id);
    }

    /// Responder: says where we come from, and comes.
    fn come(&mut self, id: PipeId) {
        let now = self.cx.now;
        let Some(relay) = self.relays.get(&id).filter(|r| r.stage == RelayStage::Meeting) else { return };
        let (peer, session, via) = (relay.peer, relay.key.0, relay.via.clone());
        let sources = relay.sources.clone();
        let delay = self.signalling.delay(&via);
        if let Some(relay) = self.relays.get_mut(&id) {
            if !relay.helped {
                (relay.help_at, relay.helped) = (Some(now + HELP_AFTER), true);
            }
            if let Some(knock) = &mut relay.knock {
                knock.begin(now, delay, relay.by_server);
            }
        }
        self.reply(peer, session, &via, Body::TurnResponse(sources));
        self.begin_stream(id);
    }

    /// Responder: speaks to the peer's relay, once nothing forbids that.
    fn begin_stream(&mut self, id: PipeId) {
        let now = self.cx.now;
        let config = self.relay_config(id);
        let Some(relay) = self.relays.get_mut(&id).filter(|r| r.stage == RelayStage::Meeting) else { return };
        if relay.stream.is_none() && relay.knock.is_none() {
            let seed = self.cx.random.draw(Domain::RelaySeed);
            let ours = &self.config.identity;
            let stream = RelayStream::connect(ours, &relay.peer, &relay.key.0.0, seed, &config, now);
            relay.stream = Some(Box::new(stream));
        }
        self.work_relay(id);
    }

    /// Responder: tries by its own server, as nothing came back. Our answer may be lost, or we cannot get there by UDP.
    fn come_by_server(&mut self, id: PipeId) {
        let Some(relay) = self.relays.get_mut(&id) else { return };
        if relay.stage != RelayStage::Meeting {
            return;
        }
        let (socket, to, servers) = (relay.socket, relay.to, relay.servers.is_some());
        if !self.config.turn.is_empty() && !servers {
            let family = if to.is_some_and(|to| to.is_ipv6()) { Family::V6 } else { Family::V4 };
            let servers = self.ask_servers(id, family, false);
            if let Some(relay) = self.relays.get_mut(&id) {
                relay.until = relay.until.max(Some(self.cx.now + STRANGERS_SILENCE));
                relay.servers = Some(servers);
            }
        } else if socket.is_none() {
            self.server_news(id, ServerNews::Failed(String::new()));
        }
        if socket.is_some() {
            self.come(id);
        }
    }

    fn tell_relay(&mut self, id: PipeId, control: &Control) {
        let now = self.cx.now;
        if let Some(relay) = self.relays.get_mut(&id) {
            relay.send_control(now, control);
        }
        self.work_relay(id);
    }

    fn tell_busy_by_relay(&mut self, id: PipeId) {
        let key = self.relays.get(&id).map(|relay| relay.key);
        if self.sessions.is_busy() && key.is_some_and(|key| key.1 == Requester::Them) {
            self.tell_relay(id, &Control::Busy);
        }
    }

    fn hear_relay(&mut self, id: PipeId) {
        let now = self.cx.now;
        while let Some(relay) = self.relays.get_mut(&id).filter(|r| r.stage == RelayStage::Agreeing)
            && let Some(said) = relay.read_control(now)
        {
            let (peer, key) = (relay.peer, relay.key);
            let decision = match said {
                Ok(Control::Busy) => {
                    self.stage(Some(key), Strategy::Relay, Stage::PeerBusy);
                    continue;
                }
                Ok(control) => self.sessions.heard_by_relay(id, control),
                Err(_) => None,
            };
            match decision {
                Some(decision) => {
                    self.carry_out_by_relay(decision);
                    self.sessions.agree(&mut self.cx, peer, None);
                }
                None => return self.relay_failed(id, Refusal::NoSuchSession.to_string()),
            }
        }
    }

    /// Makes the relay the pipe.
    fn finish_by_relay(&mut self, id: PipeId, settled: &Settled) {
        let Some(relay) = self.relays.get_mut(&id) else { return };
        relay.stage = RelayStage::Pipe;
        relay.until = None;
        let (peer, terms, since) = (relay.peer, relay.terms, relay.since);
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let (local, remote) = (relay.local.unwrap_or(nowhere), relay.to.unwrap_or(nowhere));
        if let (Some((sock, _)), true) = (relay.socket, relay.by_server) {
            relay.socket = None;
            self.cx.close(sock, crate::io::CloseHow::Drop);
        }
        if let Some(relay) = self.relays.get_mut(&id)
            && let (false, Requester::Them, Some(servers)) =
                (relay.by_server, relay.key.1, &mut relay.servers)
        {
            servers.close(&mut self.cx);
        }
        let (answers, since) = self.end_sessions(settled, since);
        if settled.kept.is_some()
            && let Some(relay) = self.relays.get_mut(&id)
        {
            let mut moving = Moving::new(self.cx.now);
            moving.names = relay.key.1 == Requester::Us;
            if moving.names {
                self.admission.call_began(peer);
            }
            relay.moving = Some(Box::new(moving));
        }
        let elapsed = self.cx.now.since(since);
        let (strategy, keys) = (Strategy::Relay, PipeKeys::Relayed(terms.mode));
        let start = Box::new(PipeStart {
            answers,
            peer,
            strategy,
            local,
            remote,
            elapsed,
            protocol: terms.protocol,
            keys,
        });
        self.cx.open_relayed(id, start);
        self.work_relay(id);
    }

    /// Ends a relay that gives no pipe.
    fn relay_failed(&mut self, id: PipeId, why: String) {
        let Some(relay) = self.relays.get(&id) else { return };
        let (key, peer) = (relay.key, relay.peer);
        let run = if key.1 == Requester::Us { self.relaying_of(key.0) } else { None };
        self.close_relay(id);
        self.sessions.relay_lost(&mut self.cx, id, peer);
        match run {
            Some((connect, n)) => {
                self.set_run(connect, n, RunState::Ended { outcome: Outcome::Failed, detail: why });
                self.drive_attempt(connect);
            }
            None if key.1 == Requester::Them => self.forget_visit(key),
            None => {}
        }
    }

    /// Closes a relay in any stage.
    fn close_relay(&mut self, id: PipeId) {
        let until = self.cx.now + END_WITHIN;
        let Some(relay) = self.relays.get_mut(&id) else { return };
        if self.relay_ids.get(&relay.key) == Some(&id) {
            self.relay_ids.remove(&relay.key);
        }
        relay.until = Some(until);
        relay.close(&mut self.cx);
        self.end_moving(id);
        let Some(relay) = self.relays.get_mut(&id) else { return };
        // What it still has to say is nobody's any more; this arms its timer.
        let _ = relay.pump(&mut self.cx);
        if relay.is_over() {
            self.forget_relay(id);
        }
    }

    fn forget_relay(&mut self, id: PipeId) {
        self.sessions.relay_left(id);
        if let Some(mut relay) = self.relays.remove(&id) {
            relay.drop_sockets(&mut self.cx);
        }
    }

    fn relay_stage(&mut self, connect: ConnectId, stage: Stage) {
        self.cx.notify(Notice::Progress { connect, strategy: Strategy::Relay, stage });
    }
}

pub(super) fn server_end(why: crate::turn::Error) -> PipeEnd {
    match why {
        crate::turn::Error::AllocationGone => PipeEnd::ServerForgot,
        _ => PipeEnd::ServerGone,
    }
}

fn end_of(cause: EndCause) -> PipeEnd {
    match cause {
        EndCause::ClosedByPeer => PipeEnd::ClosedByPeer,
        EndCause::TimedOut => PipeEnd::Silent,
        EndCause::Protocol(code) => PipeEnd::Broken(code),
    }
}
