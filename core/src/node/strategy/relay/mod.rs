//! Pipes of QUIC: through a TURN server, on each side of opening one, and on paths that UDP punching has found
//! (`punched.rs`).
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

mod calling;
mod coming;
mod memory;
mod pipes;
mod punched;
mod state;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use smallvec::SmallVec;

use calling::Calling;
use state::{Relay, RelayEvent, RelayStage};

use super::{Ctx, End, Parting, Said};
use crate::call::{ConnectId, Refusal, Strategy};
use crate::event::Stage;
use crate::hello::Control;
use crate::io::{CloseHow, Input};
use crate::login::ServerRef;
use crate::node::admission::Place;
use crate::node::servers::{ServerNews, server_end};
use crate::pipe::{PipeEnd, PipeId, PipeKeys, PipeNews, PipeStart};
use crate::random::Domain;
use crate::relay::{EndCause, RelayConfig, RelayStream, StreamEvent, first_rtt};
use crate::signal::message::Body;
use crate::strategy::agreement::{Candidate, Decision, Key, Requester, Settled};
use crate::strategy::ours::Trust;
use crate::time::Instant;
use crate::turn::Credentials;

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

#[derive(Default)]
pub(in crate::node) struct Relays {
    // Boxed: a map makes room for eleven at once, and few nodes have eleven calls.
    all: BTreeMap<PipeId, Box<Relay>>,
    /// The relay of each session, until it is closed.
    by_key: BTreeMap<(Key, Strategy), PipeId>,
    /// Calls of ours that ask for a relay.
    calling: BTreeMap<ConnectId, Calling>,
    /// Relays to which datagrams came, and that have not looked at what these change yet.
    stirred: BTreeSet<PipeId>,
}

impl Relays {
    /// Returns the places that relays of peers take while they are opened.
    pub(super) fn places(&self) -> impl Iterator<Item = Place> {
        let theirs = self.all.values().filter(|r| r.is_opening() && r.key().1 == Requester::Them);
        theirs.map(|relay| relay.place())
    }

    #[cfg(test)]
    pub(in crate::node) fn peers(&self) -> Vec<(crate::identity::NodeId, bool)> {
        self.all.values().map(|relay| (relay.peer(), relay.is_opening())).collect()
    }

    /// Ends the relay of a session, or its path that was punched, if it is still being opened.
    pub(super) fn end_opening(&mut self, ctx: &mut Ctx<'_>, key: Key, by: Strategy) {
        if let Some(id) = self.by_key.get(&(key, by)).copied()
            && self.all.get(&id).is_some_and(|r| r.is_opening())
        {
            self.close_relay(ctx, id);
        }
    }

    /// Takes in an input of a relay's socket or look-up.
    pub(in crate::node) fn handle(&mut self, ctx: &mut Ctx<'_>, id: PipeId, input: Input<'_>) {
        let Some(relay) = self.all.get_mut(&id) else { return };
        let own = relay.socket.map(|(sock, _)| sock);
        match input {
            Input::Bound { sock, local } if own == Some(sock) => {
                relay.socket = Some((sock, true));
                relay.local = Some(local);
                return self.come(ctx, id);
            }
            Input::Datagram { sock, from, data } => {
                // Many come by one call of the system. One look after all of them costs less, and acknowledges them together.
                relay.datagram(ctx.cx, sock, from, data);
                self.stirred.insert(id);
                return;
            }
            Input::Failed { sock, cause } if own == Some(sock) && relay.strategy == Strategy::Udp => {
                relay.socket = None;
                return self.punched_broke(ctx, id, cause.to_string());
            }
            Input::Failed { sock, .. } if own == Some(sock) => {
                // No UDP here: a server of ours may have a way.
                relay.socket = None;
                relay.help_at = Some(ctx.cx.now);
            }
            input => {
                if let Some(servers) = &mut relay.servers {
                    servers.handle(ctx.cx, input);
                }
            }
        }
        self.work(ctx, id);
    }

    pub(in crate::node) fn timeout(&mut self, ctx: &mut Ctx<'_>, id: PipeId) {
        let now = ctx.cx.now;
        let Some(relay) = self.all.get_mut(&id) else { return };
        relay.timeout(ctx.cx);
        if relay.until.is_some_and(|at| at <= now) {
            relay.until = None;
            let whole = relay.since + MEET_WITHIN;
            match relay.stage {
                RelayStage::Meeting if relay.is_heard() && whole > now => relay.until = Some(whole),
                RelayStage::Meeting | RelayStage::Agreeing => {
                    let why = match (relay.strategy, relay.stage) {
                        (Strategy::Udp, RelayStage::Meeting) => {
                            "nothing came by the path of the peer's probe"
                        }
                        (Strategy::Udp, _) => "the peer did not agree to the path over UDP",
                        (_, RelayStage::Meeting) => "nothing came through the relay",
                        _ => "the peer did not agree to the relay",
                    };
                    self.relay_failed(ctx, id, why.into());
                }
                RelayStage::Leaving => self.close_relay(ctx, id),
                RelayStage::Ending => {
                    relay.until = Some(now + END_WITHIN);
                    if !relay.hurry() {
                        return self.forget_relay(ctx, id);
                    }
                }
                RelayStage::Won | RelayStage::Pipe => {}
            }
        } else if relay.help_at.is_some_and(|at| at <= now) {
            relay.help_at = None;
            self.come_by_server(ctx, id);
        }
        self.work(ctx, id);
    }

    /// Nominates or confirms, where the candidate is a relay.
    pub(in crate::node) fn carry_out(&mut self, ctx: &mut Ctx<'_>, decision: Decision) {
        let Candidate::Relay(id) = decision.candidate() else { return };
        match decision {
            Decision::Nominate { sessions, .. } => {
                // A peer that confirmed before it was asked has its pipe.
                if self.all.get(&id).is_some_and(|r| r.stage == RelayStage::Agreeing) {
                    self.tell_busy_by_relay(ctx, id);
                    self.tell_relay(ctx, id, &Control::Nominate(sessions));
                }
            }
            Decision::Confirm { also, settled, .. } => {
                self.tell_busy_by_relay(ctx, id);
                self.tell_relay(ctx, id, &Control::Confirm(also));
                self.finish(ctx, id, settled);
            }
            Decision::Settle { settled, .. } => self.finish(ctx, id, settled),
            // Streams alone are committed to.
            Decision::Commit { .. } | Decision::Refuse { .. } => self.close_relay(ctx, id),
        }
    }

    /// Hands the user's new credentials for a TURN server on; `None` if the user has none.
    pub(in crate::node) fn renew(&mut self, ctx: &mut Ctx<'_>, place: u8, fresh: Option<&Credentials>) {
        for id in self.all.keys().copied().collect::<Vec<_>>() {
            if let Some(servers) = self.all.get_mut(&id).and_then(|r| r.servers.as_mut()) {
                servers.renew(ctx.cx, place, fresh);
            }
            self.work(ctx, id);
        }
    }

    fn relay_config(&self, ctx: &Ctx<'_>, id: PipeId) -> RelayConfig {
        let Some(relay) = self.all.get(&id) else { return RelayConfig::default() };
        let (delay, window) = (ctx.signalling.delay(&relay.via), relay.window);
        let defaults = match relay.strategy {
            Strategy::Udp => RelayConfig::direct(delay),
            _ => RelayConfig { initial_rtt: first_rtt(delay), ..RelayConfig::default() },
        };
        defaults.within(window, ctx.config.has_aes())
    }

    fn insert_relay(&mut self, mut relay: Relay) {
        relay.window = self.window_for(relay.trust);
        self.by_key.insert((relay.key, relay.strategy), relay.id);
        self.all.insert(relay.id, Box::new(relay));
    }

    /// Returns true if a relay of this session, or a path that was punched, is being opened.
    pub(in crate::node) fn is_opening(&self, key: Key, by: Strategy) -> bool {
        let relay = self.by_key.get(&(key, by)).and_then(|id| self.all.get(id));
        relay.is_some_and(|relay| relay.is_opening())
    }

    /// Returns true if [`settle`](Self::settle) has something to do.
    pub(in crate::node) fn is_stirred(&self) -> bool {
        !self.stirred.is_empty()
    }

    /// Goes on with the relays to which datagrams came.
    pub(in crate::node) fn settle(&mut self, ctx: &mut Ctx<'_>) {
        while let Some(id) = self.stirred.pop_first() {
            self.work(ctx, id);
        }
    }

    /// Goes on with a relay after anything that happened to it.
    fn work(&mut self, ctx: &mut Ctx<'_>, id: PipeId) {
        let Some(relay) = self.all.get_mut(&id) else { return };
        for said in relay.pump(ctx.cx) {
            self.news(ctx, id, said);
        }
        if self.all.get(&id).is_some_and(|r| r.stage == RelayStage::Leaving && r.has_arrived()) {
            // The last message, or the last byte.
            self.close_relay(ctx, id);
        } else if self.all.get(&id).is_some_and(|r| r.is_over()) {
            self.forget_relay(ctx, id);
        }
    }

    fn news(&mut self, ctx: &mut Ctx<'_>, id: PipeId, said: RelayEvent) {
        match self.all.get_mut(&id) {
            // Its pipe is about to be handed out, and what comes after is the user's.
            Some(relay) if relay.stage == RelayStage::Won => return relay.later.push(said),
            Some(_) => {}
            None => return,
        }
        match said {
            RelayEvent::Stream(event) => self.stream_news(ctx, id, event),
            RelayEvent::Answered => self.begin_stream(ctx, id),
            RelayEvent::Server(news) => self.server_news(ctx, id, news),
        }
    }

    fn stream_news(&mut self, ctx: &mut Ctx<'_>, id: PipeId, event: StreamEvent) {
        let Some(relay) = self.all.get_mut(&id) else { return };
        match (event, relay.stage) {
            (StreamEvent::Message, RelayStage::Pipe) => ctx.cx.pipe_news(id, PipeNews::Message),
            (StreamEvent::MessageRoom, RelayStage::Pipe) => ctx.cx.pipe_news(id, PipeNews::MessageRoom),
            // One that comes before the pipe is handed out is read then.
            (StreamEvent::Message | StreamEvent::MessageRoom, _) => {}
            (StreamEvent::Connected, RelayStage::Meeting) => {
                relay.stage = RelayStage::Agreeing;
                relay.until = Some(ctx.cx.now + AGREE_WITHIN);
                relay.help_at = None;
                let (key, peer, to) = (relay.key, relay.peer, relay.to);
                let trust = ctx.admission.trust(peer);
                if key.1 == Requester::Them && !ctx.sessions.enter_relayed(id, peer, trust) {
                    ctx.cx.stats.refused += 1;
                    return self.relay_failed(ctx, id, Refusal::Busy.to_string());
                }
                let Some(relay) = self.all.get_mut(&id) else { return };
                let (connect, by) = (relay.connect, relay.strategy);
                if let (Some(to), Some(connect)) = (to, connect) {
                    ctx.progress(connect, by, Stage::Authenticated(to));
                }
                ctx.sessions.relay_connected(ctx.cx, id, key, peer);
                self.work(ctx, id);
            }
            (StreamEvent::Readable, RelayStage::Agreeing) => self.hear_relay(ctx, id),
            (StreamEvent::Readable, RelayStage::Pipe) => ctx.cx.pipe_news(id, PipeNews::Readable),
            (StreamEvent::Writable, RelayStage::Pipe) => ctx.cx.pipe_news(id, PipeNews::Writable),
            (StreamEvent::Delivered, RelayStage::Pipe) => {
                relay.done = true;
                ctx.cx.pipe_news(id, PipeNews::Delivered);
            }
            (StreamEvent::Delivered, RelayStage::Leaving) => relay.done = true,
            (StreamEvent::Ended(cause), stage) => match stage {
                RelayStage::Meeting | RelayStage::Agreeing => {
                    let why = self.why_it_ended(id, cause);
                    self.relay_failed(ctx, id, why);
                }
                RelayStage::Pipe => self.pipe_over(ctx, id, end_of(cause)),
                RelayStage::Leaving => self.close_relay(ctx, id),
                RelayStage::Won | RelayStage::Ending => {}
            },
            _ => {}
        }
    }

    /// Returns the reason that a relay gives no pipe, in words. If nobody came: the progress of the relay.
    fn why_it_ended(&self, id: PipeId, cause: EndCause) -> String {
        let waited = self.all.get(&id).filter(|_| cause == EndCause::TimedOut);
        let calling = waited.and_then(|relay| self.calling.get(&relay.connect?));
        calling.map_or_else(|| cause.to_string(), |calling| self.describe_calling(calling))
    }

    fn server_news(&mut self, ctx: &mut Ctx<'_>, id: PipeId, news: ServerNews) {
        let Some(relay) = self.all.get_mut(&id) else { return };
        match news {
            ServerNews::Allocated(at) if relay.key.1 == Requester::Us => {
                relay.local = Some(at);
                if let Some(connect) = relay.connect.filter(|connect| self.calling.contains_key(connect)) {
                    ctx.progress(connect, Strategy::Relay, Stage::Allocated(at));
                    ctx.say(Said::GoesOn(connect));
                }
            }
            ServerNews::Allocated(at) => {
                // The peer's relay is where our datagrams go from now on by way of ours.
                relay.by_server = true;
                if relay.trust == Trust::Stranger && relay.stage == RelayStage::Meeting {
                    relay.until = relay.until.max(Some(ctx.cx.now + STRANGERS_SILENCE));
                }
                relay.local = Some(at);
                // In place of what its address says alone: this is where it comes from now.
                relay.sources.retain(|source| source.ip() != at.ip());
                relay.sources.push(at);
                if let (Some(to), Some(servers)) = (relay.to, &mut relay.servers) {
                    servers.permit(ctx.cx, to);
                }
                self.come(ctx, id);
            }
            ServerNews::Refused(_, code) => relay.refused = Some(code),
            ServerNews::Redirected { by, to, anywhere } => {
                let may = ctx.network.may_follow(to, anywhere);
                if let Some(servers) = &mut relay.servers {
                    servers.follow(ctx.cx, by, to, may);
                }
                self.work(ctx, id);
            }
            ServerNews::Stale(place) => ctx.logins.want(ctx.cx, ServerRef::Turn(place)),
            ServerNews::Lost(_) if relay.key.1 == Requester::Them && !relay.by_server => {}
            ServerNews::Lost(why) => match relay.stage {
                RelayStage::Meeting | RelayStage::Agreeing => self.relay_failed(ctx, id, why.to_string()),
                RelayStage::Pipe => self.pipe_over(ctx, id, server_end(why)),
                RelayStage::Leaving => self.close_relay(ctx, id),
                RelayStage::Won | RelayStage::Ending => {}
            },
            ServerNews::Failed(why) if relay.key.1 == Requester::Us => {
                if relay.is_opening() {
                    self.relay_failed(ctx, id, why);
                }
            }
            // We may reach the peer's relay without one of our own; if not, it ends by its time.
            ServerNews::Failed(_) if relay.socket.is_some() => {}
            ServerNews::Failed(_) => {
                let (peer, session, via) = (relay.peer, relay.key.0, relay.via.clone());
                ctx.reply(peer, session, &via, Body::TurnResponse(SmallVec::new()));
                self.relay_failed(ctx, id, String::new());
            }
            ServerNews::Data(..) => {}
        }
    }

    /// Requester: the peer is heard from now on, from wherever it comes.
    fn await_peer(&mut self, ctx: &mut Ctx<'_>, id: PipeId, until: Instant) {
        let now = ctx.cx.now;
        let seed = ctx.cx.random.draw(Domain::RelaySeed);
        let config = self.relay_config(ctx, id);
        let Some(relay) = self.all.get_mut(&id) else { return };
        if relay.stream.is_none() {
            let ours = &ctx.config.identity;
            let mut stream = RelayStream::accept(ours, &relay.peer, &relay.key.0.0, seed, &config, now);
            // The request may be lost, and heard when it is repeated.
            stream.await_until(until);
            relay.stream = Some(Box::new(stream));
        }
        self.work(ctx, id);
    }

    fn tell_relay(&mut self, ctx: &mut Ctx<'_>, id: PipeId, control: &Control) {
        let now = ctx.cx.now;
        if let Some(relay) = self.all.get_mut(&id) {
            relay.send_control(now, control);
        }
        self.work(ctx, id);
    }

    fn tell_busy_by_relay(&mut self, ctx: &mut Ctx<'_>, id: PipeId) {
        let key = self.all.get(&id).map(|relay| relay.key);
        if ctx.sessions.is_busy() && key.is_some_and(|key| key.1 == Requester::Them) {
            self.tell_relay(ctx, id, &Control::Busy);
        }
    }

    fn hear_relay(&mut self, ctx: &mut Ctx<'_>, id: PipeId) {
        let now = ctx.cx.now;
        while let Some(relay) = self.all.get_mut(&id).filter(|r| r.stage == RelayStage::Agreeing)
            && let Some(said) = relay.read_control(now)
        {
            let (peer, connect, by) = (relay.peer, relay.connect, relay.strategy);
            let decision = match said {
                Ok(Control::Busy) => {
                    if let Some(connect) = connect {
                        ctx.progress(connect, by, Stage::PeerBusy);
                    }
                    continue;
                }
                Ok(control) => ctx.sessions.heard_by_relay(id, control),
                Err(_) => None,
            };
            match decision {
                Some(decision) => {
                    self.carry_out(ctx, decision);
                    ctx.sessions.agree(ctx.cx, peer, None);
                }
                None => return self.relay_failed(ctx, id, Refusal::NoSuchSession.to_string()),
            }
        }
    }

    /// Marks the relay as the winner; [`hand_out`](Self::hand_out) follows.
    fn finish(&mut self, ctx: &mut Ctx<'_>, id: PipeId, settled: Settled) {
        let Some(relay) = self.all.get_mut(&id) else { return };
        relay.stage = RelayStage::Won;
        relay.until = None;
        if let (Some((sock, _)), true) = (relay.socket, relay.by_server) {
            relay.socket = None;
            ctx.cx.close(sock, CloseHow::Drop);
        }
        if let (false, Requester::Them, Some(servers)) = (relay.by_server, relay.key.1, &mut relay.servers) {
            servers.close(ctx.cx);
        }
        ctx.say(Said::Relayed(id, settled, relay.since));
    }

    /// Hands out the pipe of a relay that is the pipe of these calls, which began at `since`.
    pub(in crate::node) fn hand_out(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: PipeId,
        answers: SmallVec<[ConnectId; 1]>,
        since: Instant,
    ) {
        let Some(relay) = self.all.get_mut(&id).filter(|r| r.stage == RelayStage::Won) else { return };
        relay.stage = RelayStage::Pipe;
        let later = core::mem::take(&mut relay.later);
        let (peer, terms) = (relay.peer, relay.terms);
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let (local, remote) = (relay.local.unwrap_or(nowhere), relay.to.unwrap_or(nowhere));
        let elapsed = ctx.cx.now.since(since);
        let (strategy, mode, protocol) = (relay.strategy, terms.mode, terms.protocol);
        let keys = PipeKeys::Relayed(mode);
        let named = ctx.admission.trust(peer) == Trust::Known;
        let start =
            PipeStart { answers, peer, named, strategy, local, remote, elapsed, protocol, mode, keys };
        ctx.cx.open_relayed(id, Box::new(start));
        self.work(ctx, id);
        for said in later {
            self.news(ctx, id, said);
        }
    }

    /// Ends a relay that gives no pipe.
    fn relay_failed(&mut self, ctx: &mut Ctx<'_>, id: PipeId, why: String) {
        let Some(relay) = self.all.get(&id) else { return };
        let (key, peer, by) = (relay.key, relay.peer, relay.strategy);
        let runs = |connect: &ConnectId| by == Strategy::Udp || self.calling.contains_key(connect);
        let call = relay.connect.filter(runs);
        self.close_relay(ctx, id);
        ctx.sessions.relay_lost(ctx.cx, id, peer);
        if let Some(connect) = call {
            if by == Strategy::Relay {
                self.calling.remove(&connect);
            }
            ctx.say(Said::Ended(connect, by, End::failed(why)));
        } else if key.1 == Requester::Them {
            ctx.say(Said::Left(key, peer, Parting::IfStreamless));
        }
    }

    /// Closes a relay in any stage.
    fn close_relay(&mut self, ctx: &mut Ctx<'_>, id: PipeId) {
        let until = ctx.cx.now + END_WITHIN;
        let Some(relay) = self.all.get_mut(&id) else { return };
        let key = (relay.key, relay.strategy);
        if self.by_key.get(&key) == Some(&id) {
            self.by_key.remove(&key);
        }
        relay.until = Some(until);
        relay.close(ctx.cx);
        // What it still has to say is nobody's any more; this arms its timer.
        let _ = relay.pump(ctx.cx);
        if relay.is_over() {
            self.forget_relay(ctx, id);
        }
    }

    fn forget_relay(&mut self, ctx: &mut Ctx<'_>, id: PipeId) {
        ctx.sessions.relay_left(id);
        if let Some(mut relay) = self.all.remove(&id) {
            relay.drop_sockets(ctx.cx);
        }
    }
}

fn end_of(cause: EndCause) -> PipeEnd {
    match cause {
        EndCause::ClosedByPeer => PipeEnd::ClosedByPeer,
        EndCause::TimedOut => PipeEnd::Silent,
        EndCause::Protocol(code) => PipeEnd::Broken(code),
    }
}
