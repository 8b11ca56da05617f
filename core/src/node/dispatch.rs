//! Dispatch of an input to one machine, and of a machine's news to those who have to know.
//!
//! Long: every event, timer, message and piece of news has its arm here, and none elsewhere.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::admission::{Bearing, How, Verdict, Waiting, Wish, Worth};
use super::allocating::{self, Allocations};
use super::call::Calls;
use super::call::facts::Call;
use super::meeting::{self, Meetings};
use super::naming::{self, Names};
use super::network::{self, NetworkEvent, is_gone};
use super::session::{self, SessionEvent, Sessions};
use super::strategy::{Ctx, Parting, Strategies};
use super::{Node, Phase};
use crate::address::PeerAddress;
use crate::call::Refusal;
use crate::cx::{Owner, Timer};
use crate::event::{BrokerLoss, BrokerState, Event};
use crate::identity::NodeId;
use crate::io::{CloseHow, Input, Interface, Output, SockId};
use crate::login::ServerRef;
use crate::pipe::Terms;
use crate::session::SessionId;
use crate::signal::broker::{BrokerEvent, BrokerEvents};
use crate::signal::mappings::UdpMappings;
use crate::signal::message::{Body, Message};
use crate::signal::seal::{self, Content};
use crate::strategy::agreement::Requester;
use crate::strategy::ours::Trust;

impl Node {
    /// Takes in an input of one machine, or one that has no `owner`.
    pub(super) fn dispatch(&mut self, owner: Option<Owner>, input: Input<'_>) {
        match (owner, input) {
            (Some(Owner::Stream), input) => self.with_sessions(|all, env| all.handle(env, input)),
            (Some(Owner::Relay(id)), input) => {
                self.with_calls(|_, all, ctx| all.relay.handle(ctx, id, input))
            }
            (Some(Owner::Udp), input) => self.with_calls(|_, all, ctx| all.udp.handle(ctx, input)),
            (Some(Owner::Proof(id)), input) => {
                self.with_calls(|_, all, ctx| all.punch.handle(ctx, id, input))
            }
            (Some(Owner::Allocation(id)), input) => {
                self.with_allocations(|all, env| all.handle(env, id, input));
            }
            (Some(Owner::Broker(place)), input) => {
                let events = self.signalling.handle(&mut self.cx, place, input);
                self.broker_events(place, events);
            }
            (Some(Owner::Listener(n)), Input::Bound { sock, local }) => {
                self.sessions.listens(sock);
                self.network.listening(&mut self.cx, n, Ok(local));
                self.hear_network();
                self.with_sessions(Sessions::serve_door);
            }
            (Some(Owner::Listener(n)), Input::Failed { sock, cause }) => {
                self.sessions.stopped_listening(sock);
                self.network.listening(&mut self.cx, n, Err(cause));
            }
            (Some(Owner::PunchListener), Input::Bound { sock, .. }) => {
                self.sessions.listens(sock);
                self.with_sessions(Sessions::serve_door);
            }
            // The port may be another program's: the punch has its dials.
            (Some(Owner::PunchListener), Input::Failed { sock, .. }) => self.sessions.stopped_listening(sock),
            (Some(owner), input) if network::Network::owns(owner) => {
                self.network.handle(&mut self.cx, owner, input);
            }
            (Some(_), _) => {}
            (None, Input::Timeout) => self.fire_timers(),
            (None, Input::Clock(fix)) => self.network.clock(&mut self.cx, fix),
            (None, Input::Interfaces(list)) if self.phase != Phase::Closing => self.interfaces(list),
            (None, Input::Woke) if self.phase == Phase::Running => self.woke(),
            (None, Input::Accepted { listener, sock, local, remote }) => match self.cx.owner(listener) {
                Some(Owner::Listener(_) | Owner::PunchListener) if self.cx.owner(sock).is_none() => {
                    self.accepted(listener, sock, [local, remote]);
                }
                _ => self.cx.stats.unknown_ids += 1,
            },
            (None, Input::Released { sock }) => self.sessions.released(sock),
            (None, _) => {}
        }
    }

    /// Returns the next output. Relays look at the datagrams that came when there is no other.
    pub(super) fn next_output(&mut self) -> Option<Output> {
        if !self.cx.has_outputs() && self.strategies.relay.is_stirred() {
            self.with_calls(|_, all, ctx| all.relay.settle(ctx));
            self.follow_up();
        }
        self.cx.pop_output()
    }

    /// Returns true if there are outputs, or may be.
    pub(super) fn has_work(&self) -> bool {
        self.cx.has_outputs() || self.strategies.relay.is_stirred()
    }

    /// Does the work that follows any input: delivers messages to ourselves, and announces the address if it is new.
    pub(super) fn follow_up(&mut self) {
        if self.strategies.relay.is_stirred() {
            // More datagrams may come before outputs are asked for.
            return;
        }
        self.hear_sessions();
        self.hear_network();
        while let Some(message) = self.signalling.poll_loopback() {
            self.authentic_message(self.node_id(), message, None);
        }
        self.close();
        if self.phase == Phase::Running {
            self.announce();
            self.hear_of_memory();
        }
    }

    /// Ends the node that is shut down, once the routers have been told.
    pub(super) fn close(&mut self) {
        if self.phase == Phase::Closing && self.network.ports_are_closed() {
            self.phase = Phase::Closed;
            self.cx.notify(Event::Closed);
        }
    }

    /// Does something with the calls and their strategies, and tells all others what came of it.
    pub(super) fn with_calls<T>(
        &mut self,
        act: impl FnOnce(&mut Calls, &mut Strategies, &mut Ctx<'_>) -> T,
    ) -> T {
        let done = self.lend_calls(act);
        self.hear_sessions();
        done
    }

    /// Does something with the calls and their strategies, and lets the calls hear what came of it. What sessions have to
    /// tell waits.
    fn lend_calls<T>(&mut self, act: impl FnOnce(&mut Calls, &mut Strategies, &mut Ctx<'_>) -> T) -> T {
        let mut ctx = Ctx::new(
            &mut self.cx,
            &self.config,
            &mut self.network,
            &mut self.signalling,
            &mut self.admission,
            &mut self.sessions,
            &mut self.logins,
        );
        let done = act(&mut self.calls, &mut self.strategies, &mut ctx);
        while let Some(said) = ctx.hear() {
            self.calls.hear(&mut self.strategies, &mut ctx, said);
        }
        done
    }

    /// Does something for a call, if there is one.
    fn with_call(
        &mut self,
        call: Option<Arc<Call>>,
        act: impl FnOnce(&Arc<Call>, &mut Calls, &mut Strategies, &mut Ctx<'_>),
    ) {
        if let Some(call) = call {
            self.with_calls(|calls, all, ctx| act(&call, calls, all, ctx));
        }
    }

    /// Does something with the streams that are saying hello.
    pub(super) fn with_sessions<T>(
        &mut self,
        act: impl FnOnce(&mut Sessions, &mut session::Env<'_>) -> T,
    ) -> T {
        let mut env = session::Env {
            cx: &mut self.cx,
            config: &self.config,
            admission: &mut self.admission,
            calls: self.calls.by_session(),
        };
        let done = act(&mut self.sessions, &mut env);
        self.hear_sessions();
        done
    }

    /// Does something with names, and begins the calls whose names are found by it.
    pub(super) fn with_names<T>(&mut self, act: impl FnOnce(&mut Names, &mut naming::Env<'_>) -> T) -> T {
        let mut env = naming::Env {
            cx: &mut self.cx,
            network: &self.network,
            signalling: &mut self.signalling,
            identity: &self.config.identity,
            running: self.phase == Phase::Running,
        };
        let done = act(&mut self.topics.names, &mut env);
        for (connect, peer, address, plan) in self.topics.names.take_found() {
            self.with_calls(|calls, all, ctx| calls.begin(all, ctx, connect, peer, &address, plan));
        }
        done
    }

    pub(super) fn with_meetings<T>(
        &mut self,
        act: impl FnOnce(&mut Meetings, &mut meeting::Env<'_>) -> T,
    ) -> T {
        let mut env =
            meeting::Env { cx: &mut self.cx, network: &self.network, signalling: &mut self.signalling };
        act(&mut self.topics.meetings, &mut env)
    }

    pub(super) fn with_allocations<T>(
        &mut self,
        act: impl FnOnce(&mut Allocations, &mut allocating::Env<'_>) -> T,
    ) -> T {
        let mut env = allocating::Env { cx: &mut self.cx, network: &self.network, logins: &mut self.logins };
        act(&mut self.allocations, &mut env)
    }

    fn fire_timers(&mut self) {
        // Each due timer is taken out before its machine runs, so that the deadline always moves.
        let mut due = Vec::new();
        while let Some(timer) = self.cx.timers.pop_due(self.cx.now) {
            due.push(timer);
        }
        for timer in due {
            match timer {
                Timer::Broker(place) => {
                    let events = self.signalling.timeout(&mut self.cx, place);
                    self.broker_events(place, events);
                }
                Timer::External
                | Timer::Survey(_)
                | Timer::Mapping(_)
                | Timer::Clock
                | Timer::Measure
                | Timer::Settle => {
                    self.network.timeout(&mut self.cx, timer);
                    self.hear_network();
                }
                Timer::Punch(key) => self.with_calls(|_, all, ctx| all.punch.drive_punch(ctx, key)),
                Timer::Udp(key) => self.with_calls(|_, all, ctx| all.udp.drive_attempt(ctx, key)),
                Timer::Proof(id) => self.with_calls(|_, all, ctx| all.punch.proof_timeout(ctx, id)),
                Timer::Relay(id) => self.with_calls(|_, all, ctx| all.relay.timeout(ctx, id)),
                Timer::Visit(session) => {
                    self.with_calls(|_, all, ctx| all.reverse.drive_visit(ctx, session));
                }
                Timer::Connect(connect) => self.with_calls(|calls, all, ctx| calls.drive(all, ctx, connect)),
                Timer::Allocation(id) => self.with_allocations(|all, env| all.timeout(env, id)),
                Timer::Stream(sock) => self.with_sessions(|all, env| all.timeout(env, sock)),
                Timer::Asks => {
                    for peer in self.admission.late(self.cx.now) {
                        self.answer_ask(peer, Err(Refusal::Unanswered));
                    }
                }
                Timer::Names => self.with_names(Names::drive),
                Timer::Meetings => self.with_meetings(Meetings::drive),
                Timer::Door => self.with_sessions(Sessions::serve_door),
            }
        }
    }

    /// Takes in a stream that a listener has accepted.
    fn accepted(&mut self, listener: SockId, sock: SockId, ends: [SocketAddr; 2]) {
        let [local, remote] = ends;
        self.cx.adopt(sock, Owner::Stream);
        self.network.accepted(&mut self.cx, remote);
        self.sessions.came(listener);
        if self.network.is_unused(local.ip()) {
            // The listener takes whatever comes to the port.
            self.cx.close(sock, CloseHow::Reset);
        } else if self.strategies.punch.is_tainted(local, remote) {
            self.cx.stats.streams_refused_as_tainted += 1;
            self.cx.close(sock, CloseHow::Reset);
        } else {
            let awaited = self.strategies.punch.awaited_from(remote.ip());
            self.with_sessions(|all, env| all.accepted(env, sock, ends, awaited));
        }
        self.with_sessions(Sessions::serve_door);
    }

    /// Takes in what our user says about a peer, or that nothing was said in time.
    pub(super) fn answer_ask(&mut self, peer: NodeId, said: Result<(), Refusal>) {
        for what in self.admission.answered(&mut self.cx, peer, said.is_ok()) {
            match what {
                Waiting::Stream(sock) => self.with_sessions(|all, env| all.answer(env, sock, said)),
                Waiting::Wish(wish) => self.with_calls(|_, all, ctx| all.answer_wish(ctx, *wish, said)),
            }
        }
    }

    /// Tells those who wait for streams what has become of them.
    fn hear_sessions(&mut self) {
        while let Some(event) = self.sessions.poll_event() {
            match event {
                SessionEvent::Met { peer, ip } => self.lend_calls(|_, all, ctx| all.punch.met(ctx, peer, ip)),
                SessionEvent::Lost { key, peer, sock, remote, why } => {
                    self.admission.left(&mut self.cx, peer, sock);
                    let by_punch = self.lend_calls(|_, all, ctx| all.punch.lost_stream(ctx, key, sock, why));
                    self.lend_calls(|calls, all, ctx| match key.1 {
                        Requester::Us => calls.lost_stream(all, ctx, (key.0, remote), sock, why),
                        Requester::Them if by_punch || all.reverse.lost_stream(ctx, key.0, sock, why) => {}
                        Requester::Them => all.leave(ctx, key, peer, Parting::IfStreamless),
                    });
                }
                SessionEvent::ByRelay(decision) => {
                    self.lend_calls(|_, all, ctx| all.relay.carry_out(ctx, decision));
                }
                SessionEvent::Won(winner) => {
                    self.lend_calls(|calls, all, ctx| calls.won(all, ctx, *winner));
                }
                SessionEvent::GoesOn(peer) => self.sessions.agree(&mut self.cx, peer, None),
            }
        }
    }

    fn hear_network(&mut self) {
        while let Some(event) = self.network.poll_event() {
            match event {
                NetworkEvent::Shut(listener) => self.sessions.stopped_listening(listener),
                NetworkEvent::Sampled(sampled) => {
                    self.with_calls(|_, all, ctx| all.punch.sampled(ctx, sampled));
                }
                NetworkEvent::Nat64(another) => {
                    if another {
                        let listed = self.network.listed().to_vec();
                        self.interfaces(&listed);
                    }
                    self.with_calls(|calls, all, ctx| calls.drive_all(all, ctx));
                }
                NetworkEvent::TimeSet => self.with_names(Names::anew),
                NetworkEvent::TimeKnown => self.with_names(Names::drive),
            }
        }
    }

    /// Tells what is new about our NATs' memory, and has connections used in time that would be forgotten.
    fn hear_of_memory(&mut self) {
        let Some((memory, fewer)) = self.cx.memory.take_news() else { return };
        if let Some(memory) = memory {
            self.cx.notify(Event::NatMemory(memory));
        }
        if fewer {
            self.signalling.hurry(&mut self.cx);
            self.network.hurry(&mut self.cx);
        }
    }

    /// Takes in the interfaces as they are now. The first list starts the node.
    fn interfaces(&mut self, list: &[Interface]) {
        let relisted = self.network.relist(&mut self.cx, list);
        if self.phase == Phase::New {
            self.phase = Phase::Running;
            self.network.start(&mut self.cx);
            self.signalling.start(&mut self.cx);
            return self.network.ask_the_time(&mut self.cx);
        }
        if relisted.changed {
            self.signalling.forget_ways();
            self.network.restart(&mut self.cx);
        }
        // Beside the chosen addresses there may be others, of which the system chooses too.
        let translated = self.cx.translated;
        let gone = |ip: IpAddr| is_gone(ip, list) && translated != Some(ip);
        self.roam_brokers(relisted.moved, gone);
        if relisted.moved {
            self.network.ask_the_time_again(&mut self.cx);
            self.with_calls(|calls, all, ctx| {
                all.punch.roam(ctx);
                all.reverse.roam(ctx);
                calls.roam(all, ctx, gone);
            });
            self.with_allocations(Allocations::check);
        }
        self.sessions.drop_streams_from(&mut self.cx, gone);
        self.sessions.end_pipes_from(&mut self.cx, gone);
    }

    /// Repairs, after a sleep of the machine, all that the next call needs, before that call fails. Meanwhile NATs have
    /// forgotten us, leases have run out, and brokers may have given us up.
    fn woke(&mut self) {
        self.roam_brokers(true, |_| false);
        self.with_allocations(Allocations::check);
        self.network.measure_all(&mut self.cx);
    }

    fn roam_brokers(&mut self, moved: bool, gone: impl Fn(IpAddr) -> bool) {
        for place in 0..self.signalling.len() as u8 {
            let events = self.signalling.roam(&mut self.cx, place, moved, &gone);
            self.broker_events(place, events);
        }
    }

    /// Says `Listening` once and `Ready` whenever the settled address changed.
    pub(super) fn announce(&mut self) {
        if self.network.is_opening() {
            return;
        }
        self.network.learn(&mut self.cx);
        if self.network.opened() {
            let address = Box::new(self.address());
            self.cx.notify(Event::Listening { address });
        }
        if self.network.measure(&mut self.cx) {
            self.with_calls(|_, all, ctx| all.punch.survey_done(ctx));
        }
        self.network.map_ports(&mut self.cx);
        self.signalling.choose();
        self.wake_calls();
        if !self.network.may_announce(self.signalling.all_settled()) {
            return;
        }
        self.network.plan_measure(&mut self.cx);
        if let Some(address) =
            self.network.announce(self.signalling.announced(), self.config.identity.node_id())
        {
            self.cx.notify(Event::Ready { address: Box::new(address) });
            self.with_names(Names::drive);
            self.with_meetings(Meetings::drive);
        }
    }

    /// Wakes the calls that wait for a broker or for our address, once that has changed.
    pub(super) fn wake_calls(&mut self) {
        let (heard, settled) = (self.network.outside_is_heard(), self.network.address_is_settled());
        if self.signalling.ways_changed(heard, settled) {
            self.with_calls(|calls, all, ctx| calls.wake(all, ctx));
        }
    }

    pub(super) fn broker_events(&mut self, place: u8, events: BrokerEvents) {
        for event in events {
            match event {
                BrokerEvent::State(state) => self.broker_state(place, state),
                BrokerEvent::Unproven { before } => {
                    if !before {
                        self.broker_state(place, BrokerState::Swallows);
                    }
                    self.signalling.probe(&mut self.cx, place);
                }
                BrokerEvent::EndsAtMessages => self.broker_state(place, BrokerState::EndsAtMessages),
                BrokerEvent::Payload(payload) => self.payload(place, &payload),
                BrokerEvent::Followed(topic, granted) if self.topics.meetings.has(&topic) => {
                    self.with_meetings(|meetings, env| meetings.followed(env, place, &topic, granted));
                }
                BrokerEvent::Record(topic, payload, kept) if self.topics.meetings.has(&topic) => {
                    self.with_meetings(|meetings, env| meetings.heard(env, &topic, &payload, kept));
                }
                BrokerEvent::Followed(topic, granted) => {
                    self.with_names(|names, env| names.followed(env, place, &topic, granted))
                }
                BrokerEvent::Record(topic, payload, kept) => {
                    self.with_names(|names, env| names.record(env, place, &topic, &payload, kept));
                }
            }
        }
    }

    /// Handles a message of an authenticated peer. `via` is the place of the broker that delivered it; `None` for our
    /// own. Returns true if the message may have had an effect, so that a copy of it must have none.
    pub(super) fn authentic_message(&mut self, from: NodeId, message: Message, via: Option<u8>) -> bool {
        let bearing = self.bearing_of(from, &message);
        self.follow(from, message, via, bearing)
    }

    /// Handles an authenticated peer's message with this bearing. Returns what `authentic_message` does.
    fn follow(&mut self, from: NodeId, message: Message, via: Option<u8>, bearing: Option<Bearing>) -> bool {
        let (session, sent) = (message.session, message.sent);
        let call = self.calls.call_to(from, session);
        if let (Some(Bearing::Answers), Some(call)) = (bearing, &call) {
            self.calls.heard(call, None);
        }
        match message.body {
            Body::Echo(payload) => {
                if from == self.node_id() && self.signalling.is_pong(from, &payload) {
                    self.signalling.pong(&mut self.cx, from, &payload, via);
                    return false;
                }
                if from == self.node_id() {
                    self.signalling.own_echo(&mut self.cx, &payload, sent, via);
                    return false;
                }
                // What strangers would have us remember has no bound but the rate of the answers to all of them.
                let named = self.admission.trust(from) == Trust::Known;
                let may = self.admission.may_talk(from);
                return may
                    && self.with_calls(|_, _, ctx| {
                        ctx.try_reply(from, session, via.as_slice(), Body::EchoReply(payload))
                    })
                    && named;
            }
            Body::EchoReply(payload) => {
                self.signalling.pong(&mut self.cx, from, &payload, via);
                return false;
            }
            Body::Direct { terms, address } => {
                return self.wish_from(from, session, terms, *address, via, How::Dial);
            }
            Body::Initial(mappings) => {
                let address = (*mappings.address).clone();
                return self.wish_from(from, session, mappings.terms, address, via, How::Punch(mappings));
            }
            Body::Updated(mappings) => {
                if NodeId::try_from(mappings.address.node()) != Ok(from) {
                    self.cx.stats.bad_messages += 1;
                } else {
                    self.with_calls(|_, all, ctx| all.punch.answered(ctx, from, session, &mappings));
                }
            }
            Body::UdpRequest(theirs) => {
                let (terms, address) = (theirs.mappings.terms, (*theirs.mappings.address).clone());
                return self.wish_from(from, session, terms, address, via, How::Udp(theirs));
            }
            Body::UdpResponse(theirs) => {
                let theirs = theirs.as_deref();
                let is_its = |t: &UdpMappings| NodeId::try_from(t.mappings.address.node()) == Ok(from);
                if theirs.is_some_and(|t| !is_its(t)) {
                    self.cx.stats.bad_messages += 1;
                } else {
                    self.with_calls(|_, all, ctx| all.udp.answered(ctx, from, session, theirs));
                }
            }
            Body::TurnRequest { terms, relayed, address } => {
                return self.wish_from(from, session, terms, *address, via, How::Relay { relayed });
            }
            Body::TurnResponse(sources) => self.with_call(call, |call, _, all, ctx| {
                all.relay.peer_comes(ctx, call, &sources);
            }),
            Body::Prove { token, relayed } => {
                return self.with_calls(|_, all, ctx| all.punch.show(ctx, from, session, token, relayed));
            }
            Body::Dialling(count) => self.with_call(call, |call, _, all, ctx| {
                all.reverse.peer_dials(ctx, call, count);
            }),
            Body::Dialled { count, dials } => self.with_call(call, |call, _, all, ctx| {
                all.reverse.peer_dialled(ctx, call, count, &dials);
            }),
            Body::Refused(why) => self.with_call(call, |call, calls, all, ctx| {
                calls.refused(all, ctx, call, why);
            }),
            Body::Clock { about, wall } => {
                let offset = wall.micros_since(self.cx.wall());
                self.with_calls(|calls, all, ctx| calls.correct_clock(all, ctx, from, about, offset));
                return false;
            }
        }
        true
    }

    /// Returns the bearing of a message on us; `None` for an answer to no call or ping of ours.
    fn bearing_of(&self, from: NodeId, message: &Message) -> Option<Bearing> {
        match message.body {
            Body::Direct { .. } | Body::Initial(_) | Body::UdpRequest(_) | Body::TurnRequest { .. } => {
                Some(Bearing::Asks)
            }
            Body::Echo(_) | Body::Clock { .. } => Some(Bearing::Tells),
            Body::EchoReply(ref payload) => {
                self.signalling.is_pong(from, payload).then_some(Bearing::Answers)
            }
            Body::Updated(_)
            | Body::UdpResponse(_)
            | Body::TurnResponse(_)
            | Body::Dialling(_)
            | Body::Dialled { .. }
            | Body::Refused(_) => {
                self.calls.call_to(from, message.session).is_some().then_some(Bearing::Answers)
            }
            Body::Prove { .. } => {
                self.strategies.punch.punches_with(from, message.session).then_some(Bearing::Answers)
            }
        }
    }

    fn wish_from(
        &mut self,
        from: NodeId,
        session: SessionId,
        terms: Terms,
        address: PeerAddress,
        via: Option<u8>,
        how: How,
    ) -> bool {
        if NodeId::try_from(address.node()) != Ok(from) {
            // Somebody else's address: never dialled.
            self.cx.stats.bad_messages += 1;
            return false;
        }
        let mut brokers = self.signalling.shared_with(&address);
        if let Some(via) = via.filter(|v| !brokers.contains(v)) {
            brokers.push(via);
        }
        let wish = Wish { peer: from, session, terms, address, via: brokers, how };
        self.with_calls(|_, all, ctx| all.wish(ctx, wish))
    }

    fn broker_state(&mut self, place: u8, state: BrokerState) {
        if self.signalling.state(&mut self.cx, place, state) {
            self.with_calls(|calls, all, ctx| calls.broker_is_back(all, ctx, place));
        }
        // Not authorised, in the two ways that MQTT 3.1.1 has of saying it.
        if matches!(state, BrokerState::Lost(BrokerLoss::Refused(4 | 5)))
            && self.signalling.renews(place)
            && let Some(id) = self.signalling.id(place)
        {
            self.logins.want(&mut self.cx, ServerRef::Broker(id));
        }
        self.with_names(Names::drive);
    }

    pub(super) fn payload(&mut self, place: u8, payload: &[u8]) {
        let now = (self.cx.now, self.cx.wall());
        if !self.admission.open(now, place, &self.config.identity, payload) {
            self.cx.stats.messages_over_limit += 1;
            return;
        }
        let Ok((from, content)) = seal::open(&self.config.identity, payload) else {
            self.cx.stats.bad_messages += 1;
            return;
        };
        let message = match content {
            Content::Message(message) => message,
            Content::OtherVersion(about) => {
                let may = self.admission.may_talk(from)
                    && self.admission.may_reply(self.cx.now, from, Worth::Refusal);
                if may {
                    self.signalling.refuse_version(&mut self.cx, from, about, place);
                }
                return;
            }
            Content::VersionRefused { about, version } => {
                return self.with_calls(|calls, all, ctx| {
                    calls.version_refused(all, ctx, from, about, version);
                });
            }
        };
        self.message(from, message, place);
    }

    /// A message that came over a broker.
    pub(super) fn message(&mut self, from: NodeId, message: Box<Message>, place: u8) {
        // It is late by its nature, and bound to a random id of ours instead.
        if matches!(message.body, Body::Clock { .. }) {
            self.follow(from, *message, Some(place), Some(Bearing::Tells));
            return;
        }
        let Some(bearing) = self.bearing_of(from, &message) else { return };
        let (now, offset) = ((self.cx.now, self.cx.wall()), self.signalling.offset_of(from));
        match self.admission.hear(now, offset, from, &message, bearing) {
            Verdict::Fresh(stamp) => {
                if self.follow(from, *message, Some(place), Some(bearing)) {
                    self.admission.keep(stamp);
                }
            }
            Verdict::Repeated => self.cx.stats.repeated_messages += 1,
            Verdict::Stale => {
                self.cx.stats.stale_messages += 1;
                if bearing == Bearing::Asks && self.admission.may_talk(from) {
                    let wall = self.cx.wall();
                    let body = Body::Clock { about: message.id, wall };
                    self.with_calls(|_, _, ctx| ctx.try_reply(from, message.session, &[place], body));
                }
            }
            Verdict::Full => self.cx.stats.messages_over_limit += 1,
        }
    }
}
