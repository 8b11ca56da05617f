//! An MQTT 3.1.1 broker with QoS 0 and 1, retained messages, wills, and sessions that outlive a connection for a while.
//!
//! A subscription names its topic: a filter with a wildcard, or one that begins with `$`, is answered with failure.
//! Anybody may connect, and a wildcard would show anybody which peers talk to each other. A topic of p2pd is a hash,
//! which nobody can name without the hashed text.
//!
//! Under `p2pd-name-` it keeps and passes on only records that are signed by the key they name and not out of date. It
//! replaces a record only by a newer one of the same key, until that key gives the name up or the record expires.
//!
//! It leaves out QoS 2: a subscription is granted QoS 1, and a publication closes the connection, since 3.1.1 has no
//! way to refuse it. It leaves out authentication: names and passwords are read and ignored. All who reach the port may
//! use the broker, within [`Limits`].

mod limits;
mod names;
pub mod packet;
mod session;
mod topic;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use mqtt_protocol_core::mqtt::packet::{Qos, v3_1_1};

use crate::rate::Bucket;
use crate::{ConnId, Crowd, Full};
pub use limits::Limits;
use packet::{ConnectReturnCode, FrameError, Framer, Packet, SubackReturnCode};
use session::{Message, Room, Session};
pub use topic::MAX_TOPIC;

/// Action that the broker wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
// Exhaustive: the owner has to do each.
pub enum Output {
    /// Appends the bytes to the connection's stream. Call [`Broker::sent`] when they have left.
    Send(ConnId, Bytes),
    /// Sends the queued bytes, then closes. The broker has forgotten the connection.
    Close(ConnId),
    /// Closes at once, without the queued bytes: the place is another client's.
    Drop(ConnId),
}

/// Counters of the broker.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections turned away: too many of their network, or CONNECT refused.
    pub refused: u64,
    /// Connections closed for a newcomer, because they were the idlest where most came from.
    pub evicted: u64,
    /// Connections closed because of the content or the amount of their packets.
    pub violations: u64,
    /// Connections closed because they were silent or took no answers.
    pub stalled: u64,
    /// Publications taken.
    pub published: u64,
    /// Copies handed to clients.
    pub delivered: u64,
    /// Copies dropped because their client was slow or away.
    pub dropped: u64,
    /// Publications under names that were none of their owners', and so neither kept nor passed on.
    pub records_refused: u64,
}

/// The broker. Calls come in any order; afterwards take [`poll_output`](Self::poll_output) until it is empty,
/// and call [`handle_timeout`](Self::handle_timeout) at [`poll_timeout`](Self::poll_timeout).
#[derive(Debug)]
pub struct Broker {
    limits: Limits,
    conns: BTreeMap<ConnId, Conn>,
    connected: Crowd<ConnId>,
    sessions: BTreeMap<SessionId, Session>,
    /// Sessions without a connection.
    remembered: Crowd<SessionId>,
    /// Sessions by the client id that chose them.
    clients: BTreeMap<Box<str>, SessionId>,
    /// Sessions by topic.
    takers: BTreeMap<Arc<str>, BTreeSet<SessionId>>,
    retained: BTreeMap<Arc<str>, Message>,
    retaining: Crowd<Arc<str>>,
    names: names::Records,
    /// Unix time at the caller's zero.
    unix_at_zero: Option<Duration>,
    /// Times at which connections and sessions are to be checked, one entry each. The entry of a connection may be
    /// early: only its `deadline` counts.
    timers: BTreeSet<(Duration, Due)>,
    outputs: VecDeque<Output>,
    next_session: u64,
    stats: Stats,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct SessionId(u64);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Due {
    Conn(ConnId),
    Session(SessionId),
}

#[derive(Debug)]
struct Conn {
    framer: Framer,
    phase: Phase,
    deadline: Duration,
    /// Time of its entry among the timers.
    armed: Duration,
    /// Bytes sent to it that it has not taken.
    unsent: usize,
    requests: Bucket,
    from: IpAddr,
}

#[derive(Debug)]
enum Phase {
    /// The client has sent nothing yet.
    New,
    Open {
        session: SessionId,
        /// Longest silence.
        silence: Duration,
        will: Option<Message>,
    },
}

/// Reason why a connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Disconnect,
    Violation,
    Stalled,
    TakenOver,
    Evicted,
    Gone,
}

impl Broker {
    /// A broker with no clients.
    pub fn new(limits: Limits) -> Self {
        Broker {
            conns: BTreeMap::new(),
            connected: Crowd::new(limits.connections),
            sessions: BTreeMap::new(),
            remembered: Crowd::new(limits.sessions),
            clients: BTreeMap::new(),
            takers: BTreeMap::new(),
            retained: BTreeMap::new(),
            retaining: Crowd::new(limits.retained),
            names: names::Records::new(limits.names),
            limits,
            unix_at_zero: None,
            timers: BTreeSet::new(),
            outputs: VecDeque::new(),
            next_session: 0,
            stats: Stats::default(),
        }
    }

    /// Sets the present time, as a duration since 1970. Without it, records of names do not expire.
    pub fn set_unix_time(&mut self, now: Duration, unix: Duration) {
        self.unix_at_zero = Some(unix.saturating_sub(now));
    }

    /// Takes a connection that was accepted from this address. Returns false if its network has its share of them:
    /// close it then, and make no further call about it.
    #[must_use]
    pub fn accept(&mut self, now: Duration, conn: ConnId, from: IpAddr) -> bool {
        self.stats.accepted += 1;
        match self.connected.enter(now, conn, from) {
            Err(Full) => {
                self.stats.refused += 1;
                return false;
            }
            Ok(Some(idlest)) => self.end(now, idlest, End::Evicted),
            Ok(None) => {}
        }
        let rate = self.limits.requests_per_second;
        let deadline = now + self.limits.connect_within;
        let framer = Framer::new(self.limits.packet);
        let requests = Bucket::new(rate, rate.saturating_mul(4));
        let state = Conn { framer, phase: Phase::New, deadline, armed: deadline, unsent: 0, requests, from };
        self.conns.insert(conn, state);
        self.timers.insert((deadline, Due::Conn(conn)));
        true
    }

    /// Bytes came in on a connection. Those of an unknown one are ignored.
    pub fn receive(&mut self, now: Duration, conn: ConnId, mut data: &[u8]) {
        while let Some(state) = self.conns.get_mut(&conn) {
            match state.framer.next(&mut data) {
                Ok(Some(packet)) => self.packet(now, conn, packet),
                Ok(None) => return,
                Err(why) => {
                    return match (why, &state.phase) {
                        (FrameError::Version5, Phase::New) => self.refuse_5(now, conn),
                        (FrameError::Version, Phase::New) => {
                            self.refuse(now, conn, ConnectReturnCode::UnacceptableProtocolVersion);
                        }
                        _ => self.end(now, conn, End::Violation),
                    };
                }
            }
        }
    }

    /// A connection took so many bytes of its output.
    pub fn sent(&mut self, conn: ConnId, bytes: usize) {
        let Some(state) = self.conns.get_mut(&conn) else { return };
        state.unsent = state.unsent.saturating_sub(bytes);
        if let Phase::Open { session, .. } = state.phase {
            self.push(session);
        }
    }

    /// A connection ended, however it did.
    pub fn closed(&mut self, now: Duration, conn: ConnId) {
        self.end(now, conn, End::Gone);
    }

    /// The time that [`poll_timeout`](Self::poll_timeout) gave has come.
    pub fn handle_timeout(&mut self, now: Duration) {
        while let Some((at, due)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.remove(&(at, due));
            match due {
                Due::Session(id) => self.forget(id),
                Due::Conn(conn) => match self.conns.get_mut(&conn) {
                    Some(state) if state.deadline <= now => self.end(now, conn, End::Stalled),
                    Some(state) => {
                        state.armed = state.deadline;
                        self.timers.insert((state.armed, due));
                    }
                    None => {}
                },
            }
        }
    }

    /// Returns the time of the next [`handle_timeout`](Self::handle_timeout), in constant time.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Returns the counters so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    fn packet(&mut self, now: Duration, conn: ConnId, packet: Packet) {
        let Some(state) = self.conns.get_mut(&conn) else { return };
        let (session, packet) = match (&state.phase, packet) {
            (Phase::New, Packet::Connect(connect)) => return self.connect(now, conn, &connect),
            (Phase::New, _) | (Phase::Open { .. }, Packet::Connect(_)) => {
                return self.end(now, conn, End::Violation);
            }
            (Phase::Open { session, silence, .. }, packet) => {
                state.deadline = now + *silence;
                self.connected.heard(now, &conn);
                (*session, packet)
            }
        };
        let cost = match &packet {
            Packet::Subscribe(subscribe) => subscribe.entries().len(),
            Packet::Unsubscribe(unsubscribe) => unsubscribe.entries().len(),
            // Checking a signature costs as much as much else.
            Packet::Publish(publish) if names::is_name(publish.topic_name()) => 10,
            Packet::Puback(id) if self.sessions.get(&session).is_some_and(|s| s.awaits(*id)) => 0,
            _ => 1,
        };
        if !(0..cost).all(|_| state.requests.take(now)) {
            return self.end(now, conn, End::Violation);
        }
        match packet {
            Packet::Publish(publish) => self.published(now, conn, &publish),
            Packet::Puback(id) => {
                if let Some(s) = self.sessions.get_mut(&session) {
                    s.acknowledged(id);
                }
                self.push(session);
            }
            Packet::Subscribe(subscribe) => self.subscribe(now, conn, session, &subscribe),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(now, conn, session, &unsubscribe),
            Packet::Pingreq => self.answer(now, conn, packet::pingresp()),
            Packet::Disconnect => self.end(now, conn, End::Disconnect),
            Packet::Connect(_) => {}
        }
    }

    fn connect(&mut self, now: Duration, conn: ConnId, connect: &v3_1_1::Connect) {
        let (client, clean) = (connect.client_id(), connect.clean_session());
        if (client.is_empty() && !clean) || client.len() > MAX_TOPIC {
            return self.refuse(now, conn, ConnectReturnCode::IdentifierRejected);
        }
        let will = match (connect.will_topic(), connect.will_payload()) {
            (Some(topic), payload) => {
                let payload = Bytes::copy_from_slice(payload.unwrap_or_default());
                let at_least_once = connect.will_qos() != Qos::AtMostOnce;
                let retain = connect.will_retain();
                Some(Message { topic: topic.into(), payload, at_least_once, retain })
            }
            _ => None,
        };
        if will.as_ref().is_some_and(|w| !topic::is_name(&w.topic)) {
            return self.end(now, conn, End::Violation);
        }
        // A client id has one connection: the newer one (section 3.1.4).
        let mut present = false;
        if let Some(&old) = self.clients.get(client) {
            if let Some(other) = self.sessions.get(&old).and_then(|s| s.conn) {
                self.end(now, other, End::TakenOver);
            }
            present = self.sessions.contains_key(&old);
            if clean && present {
                self.forget(old);
                present = false;
            }
        }
        let session = match self.clients.get(client) {
            Some(id) => *id,
            None => {
                let id = SessionId(self.next_session);
                self.next_session += 1;
                if !client.is_empty() {
                    self.clients.insert(client.into(), id);
                }
                self.sessions.insert(id, Session::new(client.into()));
                id
            }
        };
        let longest = self.limits.keep_alive;
        let keep_alive = match connect.keep_alive() {
            0 => longest,
            seconds => Duration::from_secs(seconds.into()).min(longest),
        };
        let silence = keep_alive * 3 / 2;
        if let Some(state) = self.conns.get_mut(&conn) {
            state.phase = Phase::Open { session, silence, will };
            state.deadline = now + silence;
            self.timers.remove(&(state.armed, Due::Conn(conn)));
            state.armed = state.deadline;
            self.timers.insert((state.armed, Due::Conn(conn)));
        }
        if let Some(s) = self.sessions.get_mut(&session) {
            if let Some(until) = s.until.take() {
                self.timers.remove(&(until, Due::Session(session)));
            }
            s.conn = Some(conn);
            s.clean = clean;
            self.remembered.leave(&session);
        }
        self.connack(now, conn, ConnectReturnCode::Accepted, present);
        self.push(session);
    }

    fn published(&mut self, now: Duration, conn: ConnId, publish: &v3_1_1::Publish) {
        let sound = topic::is_name(publish.topic_name()) && publish.packet_id() != Some(0);
        if !sound || publish.qos() == Qos::ExactlyOnce {
            return self.end(now, conn, End::Violation);
        }
        self.stats.published += 1;
        let message = Message {
            topic: publish.topic_name().into(),
            payload: Bytes::copy_from_slice(publish.payload().as_slice()),
            at_least_once: publish.qos() == Qos::AtLeastOnce,
            retain: publish.retain(),
        };
        match names::is_name(&message.topic) {
            // Whoever asks is subscribed, and was sent what there is.
            true if message.payload == names::QUERY && !message.retain => {}
            true => self.record(now, conn, message),
            false => {
                if let Some(from) = self.conns.get(&conn).map(|conn| conn.from) {
                    self.distribute(now, message, from);
                }
            }
        }
        if let Some(id) = publish.packet_id() {
            self.answer(now, conn, packet::puback(id));
        }
    }

    /// Keeps a record of a name and passes it on, or does neither. 3.1.1 has no way to report which; a subscriber of
    /// the name sees it.
    fn record(&mut self, now: Duration, conn: ConnId, mut message: Message) {
        let claim = names::Claim::read(&message.topic, &message.payload).filter(|_| message.retain);
        let Some(from) = self.conns.get(&conn).map(|conn| conn.from) else { return };
        let unix = self.unix(now);
        if claim.is_some_and(|claim| self.names.keep(now, &message, claim, from, unix)) {
            message.retain = false;
            self.deliver_to_takers(&message);
        } else {
            self.stats.records_refused += 1;
        }
    }

    fn unix(&self, now: Duration) -> Option<Duration> {
        self.unix_at_zero.map(|zero| zero + now)
    }

    fn distribute(&mut self, now: Duration, mut message: Message, from: IpAddr) {
        if message.retain {
            self.retain(now, &message, from);
            message.retain = false;
        }
        self.deliver_to_takers(&message);
    }

    /// A copy for each session that subscribed to the topic.
    fn deliver_to_takers(&mut self, message: &Message) {
        let takers: Vec<SessionId> = self.takers.get(&message.topic).into_iter().flatten().copied().collect();
        for id in takers {
            let granted = self.sessions.get(&id).and_then(|s| s.granted(&message.topic));
            if let Some(at_least_once) = granted {
                let at_least_once = at_least_once && message.at_least_once;
                self.deliver(id, Message { at_least_once, ..message.clone() });
            }
        }
    }

    fn retain(&mut self, now: Duration, message: &Message, from: IpAddr) {
        let topic = &message.topic;
        let fits = !message.payload.is_empty() && message.payload.len() <= self.limits.retained_bytes;
        match fits.then(|| self.retaining.enter(now, topic.clone(), from)) {
            Some(Ok(gone)) => {
                if let Some(gone) = gone {
                    self.retained.remove(&gone);
                }
                self.retained.insert(topic.clone(), message.clone());
            }
            // The old one goes even where the new one finds no place: it is not the last any more.
            None | Some(Err(Full)) => {
                self.retaining.leave(topic);
                self.retained.remove(topic);
            }
        }
    }

    fn deliver(&mut self, id: SessionId, message: Message) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let room = match session.conn.and_then(|c| self.conns.get(&c)) {
            Some(conn) if conn.unsent < self.limits.output => Room::Now,
            Some(_) => Room::Later,
            None => Room::Away,
        };
        if session.take(message, room, (self.limits.queue, self.limits.queue_bytes)) {
            self.push(id);
        } else {
            self.stats.dropped += 1;
        }
    }

    /// Sends a session its waiting messages, as far as it may.
    fn push(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(conn) = session.conn else { return };
        let Some(state) = self.conns.get_mut(&conn) else { return };
        while state.unsent < self.limits.output
            && let Some(bytes) = session.next(self.limits.in_flight)
        {
            self.stats.delivered += 1;
            state.unsent += bytes.len();
            self.outputs.push_back(Output::Send(conn, bytes));
        }
    }

    fn subscribe(&mut self, now: Duration, conn: ConnId, id: SessionId, subscribe: &v3_1_1::Subscribe) {
        if subscribe.packet_id() == 0 {
            return self.end(now, conn, End::Violation);
        }
        let unix = self.unix(now);
        let mut codes = Vec::new();
        let mut retained = Vec::new();
        for entry in subscribe.entries() {
            let (filter, at_least_once) = (entry.topic_filter(), entry.sub_opts().qos() != Qos::AtMostOnce);
            let Some(session) = self.sessions.get_mut(&id) else { return };
            if !topic::is_subscribable(filter)
                || !session.subscribe(filter, at_least_once, self.limits.subscriptions)
            {
                codes.push(SubackReturnCode::Failure);
                continue;
            }
            codes.push(match at_least_once {
                true => SubackReturnCode::SuccessMaximumQos1,
                false => SubackReturnCode::SuccessMaximumQos0,
            });
            self.takers.entry(filter.into()).or_default().insert(id);
            let kept = self.retained.get(filter).or_else(|| self.names.get(filter, unix));
            retained.extend(kept.map(|m| (m.clone(), at_least_once)));
        }
        self.answer(now, conn, packet::suback(subscribe.packet_id(), codes));
        for (message, at_least_once) in retained {
            let at_least_once = at_least_once && message.at_least_once;
            self.deliver(id, Message { at_least_once, ..message });
        }
    }

    fn unsubscribe(&mut self, now: Duration, conn: ConnId, id: SessionId, unsubscribe: &v3_1_1::Unsubscribe) {
        if unsubscribe.packet_id() == 0 {
            return self.end(now, conn, End::Violation);
        }
        for filter in unsubscribe.entries() {
            let Some(session) = self.sessions.get_mut(&id) else { return };
            session.unsubscribe(filter.as_str());
            self.unlist(id, filter.as_str());
        }
        self.answer(now, conn, packet::unsuback(unsubscribe.packet_id()));
    }

    fn unlist(&mut self, id: SessionId, filter: &str) {
        if let Some(sessions) = self.takers.get_mut(filter) {
            sessions.remove(&id);
            if sessions.is_empty() {
                self.takers.remove(filter);
            }
        }
    }

    fn connack(&mut self, now: Duration, conn: ConnId, code: ConnectReturnCode, present: bool) {
        self.answer(now, conn, packet::connack(code, present));
    }

    fn refuse(&mut self, now: Duration, conn: ConnId, code: ConnectReturnCode) {
        self.stats.refused += 1;
        self.connack(now, conn, code, false);
        self.end(now, conn, End::Disconnect);
    }

    /// CONNACK of MQTT 5 with reason 0x84, "unsupported protocol version", and no properties: a client that can do
    /// both steps down.
    fn refuse_5(&mut self, now: Duration, conn: ConnId) {
        self.stats.refused += 1;
        self.answer(now, conn, vec![0x20, 3, 0, 0x84, 0]);
        self.end(now, conn, End::Disconnect);
    }

    /// Sends an answer, which cannot wait: a connection that takes none is closed.
    fn answer(&mut self, now: Duration, conn: ConnId, bytes: Vec<u8>) {
        let Some(state) = self.conns.get_mut(&conn) else { return };
        if state.unsent >= 2 * self.limits.output {
            return self.end(now, conn, End::Stalled);
        }
        state.unsent += bytes.len();
        self.outputs.push_back(Output::Send(conn, bytes.into()));
    }

    fn end(&mut self, now: Duration, conn: ConnId, why: End) {
        let Some(state) = self.conns.remove(&conn) else { return };
        self.connected.leave(&conn);
        match why {
            End::Violation => self.stats.violations += 1,
            End::Stalled => self.stats.stalled += 1,
            End::Evicted => self.stats.evicted += 1,
            End::Disconnect | End::TakenOver | End::Gone => {}
        }
        match why {
            End::Gone => {}
            End::Evicted => self.outputs.push_back(Output::Drop(conn)),
            _ => self.outputs.push_back(Output::Close(conn)),
        }
        self.timers.remove(&(state.armed, Due::Conn(conn)));
        let Phase::Open { session, will, .. } = state.phase else { return };
        if let Some(s) = self.sessions.get_mut(&session) {
            s.disconnected();
            if s.clean {
                self.forget(session);
            } else {
                let until = now + self.limits.remember;
                s.until = Some(until);
                self.timers.insert((until, Due::Session(session)));
                match self.remembered.enter(now, session, state.from) {
                    Ok(None) => {}
                    Ok(Some(other)) => self.forget(other),
                    Err(Full) => self.forget(session),
                }
            }
        }
        if let Some(will) = will.filter(|w| why != End::Disconnect && !names::is_name(&w.topic)) {
            self.distribute(now, will, state.from);
        }
    }

    fn forget(&mut self, id: SessionId) {
        let Some(session) = self.sessions.remove(&id) else { return };
        self.remembered.leave(&id);
        if let Some(until) = session.until {
            self.timers.remove(&(until, Due::Session(id)));
        }
        for filter in session.topics() {
            self.unlist(id, filter);
        }
        self.clients.remove(session.client());
    }
}
