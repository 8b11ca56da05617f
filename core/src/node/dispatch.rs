//! One event to one machine, and what the machines tell to those who have to know.

use std::net::SocketAddr;

use smallvec::SmallVec;

use super::naming::Names;
use super::network::News;
use super::relaying::Way;
use super::session::{self, Sessions, Winner};
use super::{Node, Phase};
use crate::cx::{Owner, Timer};
use crate::io::{CloseHow, Event, SockId};
use crate::notice::{ConnectId, Notice};
use crate::strategy::agreement::{Key, Requester, Settled};
use crate::time::Instant;

impl Node {
    /// Takes in an event of a listener, a stream or a relay, or one that has no `owner`.
    pub(super) fn dispatch(&mut self, owner: Option<Owner>, event: Event<'_>) {
        match event {
            Event::Timeout => self.fire_timers(),
            Event::Clock(fix) => self.network.clock(&mut self.cx, fix),
            Event::Interfaces(_) if self.phase == Phase::Closing => {}
            Event::Interfaces(list) => self.interfaces(list),
            Event::Woke { .. } => self.woke(),
            Event::Resolved { query, result } => {
                if let Some(Owner::Relay(id)) = owner {
                    self.relay_resolved(id, query, result);
                }
            }
            Event::Accepted { listener, sock, local, remote } => match self.cx.owner(listener) {
                Some(Owner::Listener(_)) if self.cx.owner(sock).is_none() => {
                    self.accepted(listener, sock, [local, remote]);
                }
                _ => self.cx.stats.unknown_ids += 1,
            },
            Event::Bound { sock, local } => match owner {
                Some(Owner::Listener(n)) => {
                    self.sessions.listens(sock);
                    self.network.listening(&mut self.cx, n, Ok(local));
                    self.hear_network();
                    self.with_sessions(Sessions::serve_door);
                }
                Some(Owner::Relay(id)) => self.relay_opened(id, sock, local),
                _ => {}
            },
            Event::Connected { sock, local, remote } => match owner {
                Some(Owner::Stream) => self.with_sessions(|all, env| all.connected(env, sock, local, remote)),
                Some(Owner::Relay(id)) => self.relay_opened(id, sock, local),
                _ => {}
            },
            Event::Fired { .. } => {}
            Event::Failed { sock, cause } => match owner {
                Some(Owner::Listener(n)) => {
                    self.sessions.stopped_listening(sock);
                    self.network.listening(&mut self.cx, n, Err(cause));
                }
                Some(Owner::Stream) => self.sessions.failed(&mut self.cx, sock, cause),
                Some(Owner::Relay(id)) => self.relay_socket_failed(id, sock, cause),
                Some(Owner::Carrier(pipe)) => self.carrier_ended(pipe, sock),
                _ => {}
            },
            Event::Released { sock } => self.sessions.released(sock),
            Event::Datagram { sock, from, data } => {
                if let Some(Owner::Relay(id)) = owner {
                    self.relay_datagram(id, sock, from, data);
                }
            }
            Event::Stream { sock, data } => match owner {
                Some(Owner::Stream) => self.with_sessions(|all, env| all.received(env, sock, data)),
                Some(Owner::Relay(id)) => self.relay_received(id, sock, data),
                Some(Owner::Carrier(pipe)) => self.carrier_received(pipe, sock, data),
                _ => {}
            },
            Event::Writable { sock } => {
                if let Some(Owner::Carrier(pipe)) = owner {
                    self.carrier_writable(pipe, sock);
                }
            }
            Event::Eof { sock } => match owner {
                Some(Owner::Stream) => self.sessions.ended(&mut self.cx, sock),
                Some(Owner::Relay(id)) => self.relay_socket_ended(id, sock),
                Some(Owner::Carrier(pipe)) => self.carrier_ended(pipe, sock),
                _ => {}
            },
        }
    }

    pub(super) fn fire_timers(&mut self) {
        // Each due timer is taken out before its machine runs, so that the deadline always moves.
        let mut due = Vec::new();
        while let Some(timer) = self.cx.timers.pop_due(self.cx.now) {
            due.push(timer);
        }
        for timer in due {
            match timer {
                Timer::Broker(place) => {
                    let news = self.signalling.timeout(&mut self.cx, place);
                    self.broker_news(place, news);
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
                Timer::Punch(key) => self.drive_punch(key),
                Timer::Relay(id) => self.relay_timeout(id),
                Timer::Allocation(id) => self.with_allocations(|all, env| all.timeout(env, id)),
                Timer::Stream(sock) => self.with_sessions(|all, env| all.timeout(env, sock)),
                Timer::Connect(connect) => self.drive_attempt(connect),
                Timer::Visit(session) => self.drive_visit(session),
                Timer::Asks => self.expire_asks(),
                Timer::Names => self.with_names(Names::drive),
                Timer::Door => self.with_sessions(Sessions::serve_door),
            }
            self.hear_sessions();
        }
    }

    /// Does the work that follows any event: delivers messages to ourselves, and announces the address if it is new.
    pub(super) fn settle(&mut self) {
        self.hear_sessions();
        self.hear_network();
        self.hear_sessions();
        while let Some(message) = self.signalling.poll_loopback() {
            self.authentic_message(self.node_id(), message, None);
            self.hear_sessions();
        }
        self.close();
        if self.phase == Phase::Running {
            self.announce();
            self.hear_of_memory();
        }
    }

    /// Tells what is new about our NATs' memory, and has connections used in time that would be forgotten.
    pub(super) fn hear_of_memory(&mut self) {
        let Some((memory, fewer)) = self.cx.memory.take_news() else { return };
        if let Some(memory) = memory {
            self.cx.notify(Notice::NatMemory(memory));
        }
        if fewer {
            self.signalling.hurry(&mut self.cx);
            self.network.hurry(&mut self.cx);
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
        } else if self.is_tainted(local, remote) {
            self.cx.stats.streams_refused_as_tainted += 1;
            self.cx.close(sock, CloseHow::Reset);
        } else {
            let awaited = self.awaited_from(remote.ip());
            self.with_sessions(|all, env| all.accepted(env, sock, ends, awaited));
        }
        self.hear_sessions();
        self.with_sessions(Sessions::serve_door);
    }

    pub(super) fn with_sessions<T>(
        &mut self,
        act: impl FnOnce(&mut Sessions, &mut session::Env<'_>) -> T,
    ) -> T {
        let mut env = session::Env {
            cx: &mut self.cx,
            config: &self.config,
            admission: &mut self.admission,
            calls: &self.by_session,
        };
        act(&mut self.sessions, &mut env)
    }

    /// Tells those who wait for streams what has become of them.
    pub(super) fn hear_sessions(&mut self) {
        while let Some(news) = self.sessions.poll_news() {
            match news {
                session::News::Met { peer, ip } => self.punch_met(peer, ip),
                session::News::Lost { key, sock, remote, why } => {
                    let by_punch = self.punch_lost_stream(key, sock, why);
                    match key.1 {
                        Requester::Us => self.attempt_lost_stream(key, sock, remote, why),
                        Requester::Them if by_punch => {}
                        Requester::Them => self.visit_lost_stream(key, sock, why),
                    }
                }
                session::News::ByRelay(decision) => self.carry_out_by_relay(decision),
                session::News::Won(winner) => self.stream_won(*winner),
                session::News::GoesOn(peer) => self.sessions.agree(&mut self.cx, peer, None),
            }
        }
    }

    /// Makes a stream the pipe, or a way of the one that there is, and ends what it settles.
    fn stream_won(&mut self, winner: Winner) {
        let (answers, since) = match self.moving_pipe(winner.key) {
            Some(pipe) => {
                self.end_sessions(&winner.settled, winner.since);
                let Winner { strategy, local, remote, .. } = winner;
                let Some((sock, keys)) = self.sessions.give_away(winner) else { return };
                return self.join_pipe(pipe, sock, Way { strategy, local, remote }, keys);
            }
            None => self.end_sessions(&winner.settled, winner.since),
        };
        self.sessions.hand_out(&mut self.cx, winner, answers, since);
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
        self.sessions.close_streams(&mut self.cx, &over);
        (answers, since)
    }

    pub(super) fn hear_network(&mut self) {
        while let Some(news) = self.network.poll_news() {
            match news {
                News::Shut(listener) => self.sessions.stopped_listening(listener),
                News::Sampled(sampled) => self.punch_sampled(sampled),
                News::Nat64(another) => {
                    if another {
                        let listed = self.network.listed().to_vec();
                        self.interfaces(&listed);
                    }
                    self.drive_attempts();
                }
                News::TimeSet => self.with_names(Names::anew),
                News::TimeKnown => self.with_names(Names::drive),
            }
        }
    }

    /// Says `Listening` once and `Ready` whenever the settled address changed.
    pub(super) fn announce(&mut self) {
        if self.network.is_opening() {
            return;
        }
        self.network.learn(&mut self.cx);
        if self.network.opened() {
            let address = Box::new(self.current_address());
            self.cx.notify(Notice::Listening { address });
        }
        if self.network.measure(&mut self.cx) {
            self.survey_done();
        }
        self.network.map_ports(&mut self.cx);
        self.signalling.choose();
        self.tell_attempts();
        if !self.network.may_announce(self.signalling.all_settled()) {
            return;
        }
        self.network.plan_measure(&mut self.cx);
        if let Some(address) =
            self.network.announce(self.signalling.announced(), self.config.identity.node_id())
        {
            self.cx.notify(Notice::Ready { address: Box::new(address) });
            self.with_names(Names::drive);
        }
    }

    /// Wakes the attempts that wait for a broker or for our address, if there is a new one.
    pub(super) fn tell_attempts(&mut self) {
        let (heard, settled) = (self.network.outside_is_heard(), self.network.address_is_settled());
        if self.signalling.ways_changed(heard, settled) {
            self.poke_attempts();
        }
    }

    /// Plans a new measurement of our NATs, as a call of ours or of a peer's came to nothing.
    pub(super) fn doubt(&mut self) {
        if self.phase == Phase::Running {
            self.network.doubt(&mut self.cx);
        }
    }
}
