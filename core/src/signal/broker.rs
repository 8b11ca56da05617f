//! An MQTT 3.1.1 session with one broker: connected, subscribed to our topic and kept alive. It is built up again when
//! it breaks.
//!
//! Long: a session is one state machine, and each of its states takes in every packet.
//!
//! The session also subscribes to the topics of names, whose messages are retained by brokers.
//!
//! Sessions are clean and client ids random. Everything is of QoS 0. A request that was not answered is repeated by its
//! owner, and what a broker would have to store waits for seconds on a cluster whose nodes fail. A message is sent once, on
//! the first session that there is while it is of use. Some brokers end the session of a client whose message they do not like.
//!
//! The reasons: ADR 8 in docs/src/adr.

mod idling;
mod link;
mod outbox;
mod topics;

use core::time::Duration;
use std::net::IpAddr;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::config::Broker;
use crate::cx::{Cx, Owner, Timer};
use crate::event::{BrokerLoss, BrokerState};
use crate::failure::IoFailure;
use crate::identity::Topic;
use crate::io::{CloseHow, QueryId, SockId};
use crate::limit::Bucket;
use crate::login::Login;
use crate::name::MAX_RECORD;
use crate::nat::memory::SHORTEST;
use crate::proxy::Proxy;
use crate::random::Domain;
use crate::server::{Dials, Race};
use crate::signal::seal::MAX_ENVELOPE;
use crate::time::Instant;
use crate::wire::mqtt::{self, Incoming};

use idling::Idling;
use link::Link;
use outbox::{MAX_OUTBOX, Outbox, Outgoing};
use topics::{Answer, Topics};

/// CONNACK of a broker to which the keep-alive is too long: identifier rejected.
const REJECTED: u8 = 2;
/// The broker's answer to CONNECT, SUBSCRIBE or PINGREQ may take this long.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);
/// The answer to CONNECT may take this long where the broker has other addresses: a node of a cluster may take
/// connections and be of no use.
const GREET_WITHIN: Duration = Duration::from_millis(1_500);
/// The look-up and the dials may take so long.
const REACH_WITHIN: Duration = Duration::from_secs(8);
/// Tries after a loss are spaced from the first to the second of these, doubling, each drawn from the upper
/// half of its interval so that a herd of nodes spreads out. The time that a broker has kept a try waiting counts.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Sessions that end sooner after their SUBACK count as failures: a broker that ends each at once is asked as seldom as
/// one that is away.
const LIVED: Duration = Duration::from_secs(60);

/// Report of a broker's session.
#[derive(Debug)]
pub(crate) enum BrokerEvent {
    State(BrokerState),
    /// No message to ourselves has come back on this session, so that another one is due; whether this was said before.
    Unproven {
        before: bool,
    },
    /// Sessions end at our messages.
    EndsAtMessages,
    /// A payload came in on our topic.
    Payload(Bytes),
    /// The broker has answered the subscription to a name's topic: true if granted. A retained message, if there is
    /// one, follows.
    Followed(Box<str>, bool),
    /// A payload came in on the topic of a name; whether the broker had kept it.
    Record(Box<str>, Bytes, bool),
}

pub(crate) type BrokerEvents = SmallVec<[BrokerEvent; 2]>;

#[derive(Debug)]
pub(crate) struct Session {
    place: u8,
    broker: Broker,
    bind: Option<IpAddr>,
    state: State,
    /// Beginning of the last try.
    begun: Instant,
    /// Failures since a session last lived for [`LIVED`].
    failures: u32,
    /// The shortest from CONNECT to CONNACK or from PINGREQ to PINGRESP, on the last connection: one lost packet makes
    /// a round trip a second longer, and a punch reckons with it.
    round_trip: Option<Duration>,
    outbox: Outbox,
    topics: Topics,
    /// Records of names.
    records: Bucket,
    /// True once a session became ready.
    worked: bool,
    /// True if the last try got a stream and no session that stands, for no reason that the broker gave.
    unready: bool,
    /// True if the last CONNECT was not answered within [`GREET_WITHIN`]: the next one has longer.
    patient: bool,
    idling: Idling,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a node has one for each of a few brokers")]
enum State {
    /// No connection is open until `retry`.
    Idle {
        retry: Instant,
    },
    /// The name is looked up, and its addresses are dialled.
    Reaching {
        dials: Dials,
    },
    /// CONNECT is sent.
    Greeting {
        link: Link,
    },
    /// Waiting: our own topic is asked for, or refused and due again.
    Subscribing {
        link: Link,
    },
    Ready {
        link: Link,
        since: Instant,
        proof: Proof,
    },
    /// The node ends.
    Closed,
}

/// Proof that messages come through: a message to ourselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Proof {
    Awaited,
    /// The message was not back at the first ping.
    Overdue,
    Given,
}

impl Session {
    pub(crate) fn new(place: u8, broker: Broker, bind: Option<IpAddr>, topic: Topic) -> Self {
        Session {
            place,
            broker,
            bind,
            state: State::Idle { retry: Instant::ZERO },
            begun: Instant::ZERO,
            failures: 0,
            round_trip: None,
            outbox: Outbox::default(),
            topics: Topics::new(topic),
            // Looking at a record costs a quarter of a millisecond: at most 5 % of a core for one broker.
            records: Bucket::new(200, Duration::from_millis(5)),
            worked: false,
            unready: false,
            patient: false,
            idling: Idling::new(place),
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready { .. })
    }

    /// Returns true if a session has worked.
    pub(crate) fn has_worked(&self) -> bool {
        self.worked
    }

    /// Returns true if the broker takes streams and gives no session yet, or ends it, as one that starts, or one of a
    /// cluster that has lost its leader.
    pub(crate) fn is_unready(&self) -> bool {
        self.unready || matches!(self.state, State::Greeting { .. } | State::Subscribing { .. })
    }

    /// Returns true if the broker has refused a name's topic, and will be asked again.
    pub(crate) fn may_yet_follow(&self, topic: &str) -> bool {
        self.topics.is_doubtful(topic)
    }

    /// Returns true if half of the places for waiting messages are taken. The rest is not for messages of strangers.
    pub(crate) fn is_crowded(&self) -> bool {
        self.outbox.is_crowded()
    }

    /// Returns true once a message to ourselves has come back on this session.
    pub(crate) fn is_proven(&self) -> bool {
        matches!(self.state, State::Ready { proof: Proof::Given, .. })
    }

    /// Notes that a message to ourselves has come back.
    pub(crate) fn prove(&mut self) {
        if let State::Ready { proof, .. } = &mut self.state {
            *proof = Proof::Given;
        }
    }

    /// Returns the time from a request to its answer, as far as known.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// Opens it, or opens it again.
    pub(crate) fn start(&mut self, cx: &mut Cx) {
        self.begun = cx.now;
        let owner = Owner::Broker(self.place);
        let (host, port) = self.broker.first();
        let race = Race::start(cx, owner, host, REACH_WITHIN);
        let dials = Dials::start(cx, owner, race, self.bind, port, self.broker.wrap());
        self.state = State::Reaching { dials };
        self.arm(cx);
    }

    /// Takes a message for publishing. False: the outbox is full.
    pub(crate) fn publish(&mut self, cx: &mut Cx, topic: Topic, payload: Bytes, until: Instant) -> bool {
        self.take(cx, topic.to_string().into(), payload, false, until)
    }

    /// The same for what the broker is to keep under the topic of a name, in place of what it kept there before. A broker
    /// that ends the session of whoever asks for that is not asked.
    pub(crate) fn publish_kept(&mut self, cx: &mut Cx, topic: &str, payload: Bytes, until: Instant) -> bool {
        self.take(cx, topic.into(), payload, true, until)
    }

    /// The same for what the broker is not to keep.
    pub(crate) fn publish_once(&mut self, cx: &mut Cx, topic: &str, payload: Bytes, until: Instant) -> bool {
        self.take(cx, topic.into(), payload, false, until)
    }

    /// Asks for what is kept under the topic of a name, and for what comes later; also again.
    pub(crate) fn follow(&mut self, cx: &mut Cx, topic: &str) {
        self.topics.follow(topic);
        if let State::Ready { link, .. } = &mut self.state
            && let Some(packet) = self.topics.ask_for(topic)
        {
            link.send(cx, packet);
        }
    }

    /// Asks for no more of it.
    pub(crate) fn unfollow(&mut self, cx: &mut Cx, topic: &str) {
        let packet = self.topics.unfollow(topic);
        if let State::Ready { link, .. } = &mut self.state
            && let Some(packet) = packet
        {
            link.send(cx, packet);
        }
    }

    fn take(&mut self, cx: &mut Cx, topic: Box<str>, payload: Bytes, retain: bool, until: Instant) -> bool {
        let message = Outgoing { topic, payload, retain, until };
        if !self.outbox.take(cx.now, message) {
            return false;
        }
        self.flush(cx);
        true
    }

    pub(crate) fn resolved(
        &mut self,
        cx: &mut Cx,
        query: QueryId,
        result: Result<SmallVec<[IpAddr; 2]>, IoFailure>,
    ) -> BrokerEvents {
        let State::Reaching { dials } = &mut self.state else { return BrokerEvents::new() };
        if let Err(why) = dials.resolved(cx, query, &result) {
            return self.lose(cx, BrokerLoss::Io(Proxy::blame(self.broker.proxy.as_ref(), why)));
        }
        self.arm(cx);
        BrokerEvents::new()
    }

    pub(crate) fn connected(&mut self, cx: &mut Cx, sock: SockId, local: IpAddr) -> BrokerEvents {
        let State::Reaching { dials } = &mut self.state else { return BrokerEvents::new() };
        let has_others = dials.has_others();
        let Some(remote) = dials.connected(cx, sock) else { return BrokerEvents::new() };
        let id = data_encoding::HEXLOWER.encode(&cx.random.bytes::<10>(Domain::ClientId));
        let Ok(connect) = mqtt::connect(&id, self.idling.keep_alive(), self.broker.login.as_ref()) else {
            return self.lose(cx, BrokerLoss::Malformed);
        };
        let mut link = Link::new(cx, sock, local, remote);
        link.ask(cx, connect);
        if has_others && !self.patient {
            link.answer_by = Some(cx.now + GREET_WITHIN);
        }
        self.state = State::Greeting { link };
        self.arm(cx);
        BrokerEvents::new()
    }

    /// The driver says that the socket failed, and it is gone.
    pub(crate) fn failed(&mut self, cx: &mut Cx, sock: SockId, why: IoFailure) -> BrokerEvents {
        let last = match &mut self.state {
            State::Reaching { dials } => dials.has(sock) && dials.failed(cx, sock),
            _ => self.sock() == Some(sock),
        };
        if !last {
            self.arm(cx);
            return BrokerEvents::new();
        }
        let why = match self.state {
            State::Reaching { .. } => Proxy::blame(self.broker.proxy.as_ref(), why),
            _ => why,
        };
        self.lose(cx, BrokerLoss::Io(why))
    }

    pub(crate) fn ended(&mut self, cx: &mut Cx, sock: SockId) -> BrokerEvents {
        match self.sock() {
            Some(s) if s == sock => self.lose(cx, BrokerLoss::ClosedByBroker),
            _ => BrokerEvents::new(),
        }
    }

    pub(crate) fn received(&mut self, cx: &mut Cx, sock: SockId, data: &[u8]) -> BrokerEvents {
        let mut news = BrokerEvents::new();
        let Some(link) = self.link().filter(|l| l.sock == sock) else { return news };
        link.heard(cx, data.len());
        if link.splitter.push(data).is_err() {
            return self.lose(cx, BrokerLoss::Malformed);
        }
        while let Some(link) = self.link() {
            let frame = match link.splitter.next_packet() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(_) => {
                    news.extend(self.lose(cx, BrokerLoss::Malformed));
                    break;
                }
            };
            match self.packet(cx, &frame) {
                Ok(said) => news.extend(said),
                Err(loss) => news.extend(self.lose(cx, loss)),
            }
        }
        self.flush(cx);
        self.arm(cx);
        news
    }

    pub(crate) fn timeout(&mut self, cx: &mut Cx) -> BrokerEvents {
        let now = cx.now;
        let overdue = |link: &Link| link.answer_by.is_some_and(|by| by <= now);
        match &mut self.state {
            State::Idle { retry } if *retry <= now => self.start(cx),
            State::Reaching { dials } => dials.drive(cx),
            State::Greeting { link } if overdue(link) && link.last_ping + ANSWER_WITHIN > now => {
                self.patient = true;
                let news = self.lose(cx, BrokerLoss::Silent);
                // At another address, which need not wait.
                self.start(cx);
                return news;
            }
            State::Greeting { link } | State::Subscribing { link } | State::Ready { link, .. }
                if overdue(link) =>
            {
                return self.lose(cx, BrokerLoss::Silent);
            }
            State::Ready { link, .. } if link.answer_by.is_none() && link.next_ping <= now => {
                link.ping(cx);
            }
            _ => {}
        }
        for packet in self.topics.again(now) {
            match &mut self.state {
                State::Subscribing { link } => link.ask(cx, packet),
                State::Ready { link, .. } => link.send(cx, packet),
                _ => {}
            }
        }
        self.arm(cx);
        BrokerEvents::new()
    }

    /// Reacts to a change of our network. A connection from an address that is `gone` is made anew. A connection that
    /// is still being opened is made anew if we have `moved`. An established one gets a PINGREQ.
    pub(crate) fn roam(&mut self, cx: &mut Cx, moved: bool, gone: impl Fn(IpAddr) -> bool) -> BrokerEvents {
        let mut news = BrokerEvents::new();
        if moved {
            self.idling.moved();
        }
        match &mut self.state {
            State::Greeting { link } | State::Subscribing { link } | State::Ready { link, .. }
                if gone(link.local) =>
            {
                news = self.lose(cx, BrokerLoss::Io(IoFailure::AddrNotAvailable));
                self.failures = 0;
                self.start(cx);
            }
            State::Ready { link, .. } if moved => {
                if link.answer_by.is_none() {
                    link.ping(cx);
                }
                // What this connection lived through says nothing of the network that we are in.
                link.silent = Duration::ZERO;
            }
            State::Idle { .. } | State::Reaching { .. } if moved => {
                if let State::Reaching { dials } = &mut self.state {
                    dials.close(cx);
                }
                self.failures = 0;
                self.start(cx);
            }
            _ => {}
        }
        self.arm(cx);
        news
    }

    /// Takes another login. One that differs is tried at once, if it is the first refusal that brought it; else in its turn.
    pub(crate) fn renew(&mut self, cx: &mut Cx, login: Login) {
        let fresh = self.broker.login.replace(login) != self.broker.login;
        if fresh && self.failures <= 1 && matches!(self.state, State::Idle { .. }) {
            self.start(cx);
        }
    }

    pub(crate) fn shutdown(&mut self, cx: &mut Cx) {
        if let State::Reaching { dials } = &mut self.state {
            dials.close(cx);
        }
        if let Some(sock) = self.sock() {
            let how = if self.is_ready() {
                cx.send(sock, mqtt::disconnect());
                CloseHow::Graceful
            } else {
                CloseHow::Drop
            };
            cx.close(sock, how);
        }
        self.state = State::Closed;
        cx.timers.set(Timer::Broker(self.place), None);
    }

    fn packet(&mut self, cx: &mut Cx, frame: &[u8]) -> Result<Option<BrokerEvent>, BrokerLoss> {
        let incoming = mqtt::decode(frame).map_err(|_| BrokerLoss::Malformed)?;
        let state = core::mem::replace(&mut self.state, State::Closed);
        let (state, said) = match (state, incoming) {
            (State::Greeting { link }, Incoming::Connack { accepted: false, code }) => {
                self.state = State::Greeting { link };
                if code == REJECTED {
                    self.idling.rejected();
                }
                return Err(BrokerLoss::Refused(code));
            }
            (State::Greeting { mut link }, Incoming::Connack { .. }) => {
                self.round_trip = Some(cx.now.since(link.last_ping));
                self.patient = false;
                link.ask(cx, self.topics.ask_for_ours().ok_or(BrokerLoss::Malformed)?);
                (State::Subscribing { link }, None)
            }
            (
                state @ (State::Subscribing { .. } | State::Ready { .. }),
                Incoming::Suback { packet_id, granted },
            ) => {
                self.state = state;
                let answer = self.topics.answered(cx.now, packet_id, granted);
                let (topic, answer) = answer.ok_or(BrokerLoss::Malformed)?;
                return self.subscribed(cx, topic, &answer);
            }
            (state @ State::Ready { .. }, Incoming::Unsuback { packet_id })
                if self.topics.unsubscribed(packet_id) =>
            {
                (state, None)
            }
            (State::Ready { mut link, since, proof }, Incoming::Pingresp) => {
                if core::mem::take(&mut link.kept) {
                    self.outbox.keeps();
                }
                if link.answer_by.take().is_some() {
                    let trip = cx.now.since(link.last_ping);
                    self.round_trip = Some(self.round_trip.map_or(trip, |shortest| shortest.min(trip)));
                    self.idling.lives(cx, link.silent);
                }
                let tries = !cx.memory.falls_short(self.place, link.silent);
                link.next_ping = match proof {
                    Proof::Given => self.idling.next_ping(cx, tries),
                    Proof::Awaited | Proof::Overdue => self.idling.early_ping(cx.now),
                };
                let (proof, said) = match proof {
                    Proof::Given => (proof, None),
                    _ => (Proof::Overdue, Some(BrokerEvent::Unproven { before: proof == Proof::Overdue })),
                };
                (State::Ready { link, since, proof }, said)
            }
            // A broker may deliver before its SUBACK (MQTT 3.1.1 section 3.8.4).
            (
                mut state @ (State::Ready { .. } | State::Subscribing { .. }),
                Incoming::Publish { topic, payload, packet_id, retain, .. },
            ) => {
                if let (Some(id), State::Ready { link, .. } | State::Subscribing { link }) =
                    (packet_id, &mut state)
                {
                    cx.send(link.sock, mqtt::puback(id));
                }
                let said = self.judge(cx, topic, payload, retain);
                (state, said)
            }
            (state, _) => {
                self.state = state;
                return Err(BrokerLoss::Malformed);
            }
        };
        self.state = state;
        Ok(said)
    }

    /// The broker has answered a subscription. With the one to our own topic the session is ready.
    fn subscribed(
        &mut self,
        cx: &mut Cx,
        topic: Box<str>,
        answer: &Answer,
    ) -> Result<Option<BrokerEvent>, BrokerLoss> {
        let granted = *answer == Answer::Granted;
        if !self.topics.is_ours(&topic) {
            return Ok(self.topics.is_followed(&topic).then_some(BrokerEvent::Followed(topic, granted)));
        }
        let link = match core::mem::replace(&mut self.state, State::Closed) {
            State::Subscribing { mut link } => {
                link.answer_by = None;
                link
            }
            state => {
                self.state = state;
                return Ok(None);
            }
        };
        if !granted {
            self.state = State::Subscribing { link };
            return if *answer == Answer::Refused { Err(BrokerLoss::SubscriptionRefused) } else { Ok(None) };
        }
        self.get_ready(cx, link);
        Ok(Some(BrokerEvent::State(BrokerState::Ready)))
    }

    fn get_ready(&mut self, cx: &mut Cx, mut link: Link) {
        cx.experience.works(self.broker.first().0, link.remote);
        (self.worked, self.unready) = (true, false);
        link.next_ping = self.idling.early_ping(cx.now);
        self.topics.ask_for_followed().into_iter().for_each(|packet| link.send(cx, packet));
        self.state = State::Ready { link, since: cx.now, proof: Proof::Awaited };
        self.idling.ready(cx);
        // Behind the subscriptions: a question about a name is answered to those who follow it.
        self.flush(cx);
    }

    /// A payload for us, unless it is foreign, kept or too long, or a record too many.
    fn judge(&mut self, cx: &mut Cx, topic: &str, payload: &[u8], retain: bool) -> Option<BrokerEvent> {
        if self.topics.is_followed(topic) && payload.len() <= MAX_RECORD {
            if !self.records.take(cx.now) {
                cx.stats.messages_over_limit += 1;
                return None;
            }
            return Some(BrokerEvent::Record(topic.into(), Bytes::copy_from_slice(payload), retain));
        }
        // Signalling never retains: a retained message is somebody's old one.
        if retain || payload.len() > MAX_ENVELOPE || !self.topics.is_ours(topic) {
            cx.stats.bad_messages += 1;
            return None;
        }
        Some(BrokerEvent::Payload(Bytes::copy_from_slice(payload)))
    }

    /// Closes what is open, and waits before the next try.
    fn lose(&mut self, cx: &mut Cx, loss: BrokerLoss) -> BrokerEvents {
        self.unready = self.sock().is_some()
            && matches!(loss, BrokerLoss::ClosedByBroker | BrokerLoss::Silent | BrokerLoss::Io(_));
        match &mut self.state {
            State::Reaching { dials } => dials.close(cx),
            // What a server says behind a proxy says nothing of the proxy.
            State::Greeting { link } | State::Subscribing { link } if self.broker.proxy.is_none() => {
                cx.experience.is_useless(self.broker.first().0, link.remote);
            }
            _ => {}
        }
        if let Some(sock) = self.sock() {
            cx.close(sock, CloseHow::Reset);
        }
        if matches!(self.state, State::Ready { since, .. } if cx.now.since(since) >= LIVED) {
            self.failures = 0;
        }
        // What falls silent does not end sessions over messages.
        let ends = !matches!(loss, BrokerLoss::Silent);
        cx.memory.release(self.place);
        let was_ready = self.is_ready();
        let mut ends_at_messages = false;
        if let State::Ready { link, .. } = &self.state {
            self.idling.lost(cx.now, link, loss);
            ends_at_messages = self.outbox.session_ended(ends && link.unheard > 0, ends && link.kept);
        }
        let (first, most) = BACK_OFF;
        let interval = most.min(first * (1 << self.failures.min(10)));
        let half = interval / 2;
        let jitter = cx.random.below(Domain::BackOff, half.as_nanos() as u64);
        self.failures = self.failures.saturating_add(1);
        self.topics.session_ended();
        let from = if was_ready { cx.now } else { self.begun };
        let retry = (from + half + Duration::from_nanos(jitter)).max(cx.now + first / 2);
        self.state = State::Idle { retry };
        self.arm(cx);
        let lost = BrokerEvent::State(BrokerState::Lost(loss));
        core::iter::once(lost).chain(ends_at_messages.then_some(BrokerEvent::EndsAtMessages)).collect()
    }

    /// Sends what waits. Of a broker that has said nothing since many messages it is asked first whether it lives.
    fn flush(&mut self, cx: &mut Cx) {
        let State::Ready { link, .. } = &mut self.state else { return };
        let now = cx.now;
        self.outbox.drop_late(now);
        let silent = now.since(link.used);
        let mut sent = false;
        while link.unheard < MAX_OUTBOX
            && let Some((packet, kept)) = self.outbox.next()
        {
            link.send(cx, packet);
            link.unheard += 1;
            link.kept |= kept;
            sent = true;
        }
        // After a long silence it is not known whether anything arrives.
        let doubtful = sent && silent > SHORTEST;
        if (!self.outbox.is_empty() || doubtful) && link.answer_by.is_none() {
            link.ping(cx);
            link.silent = silent;
        }
        self.arm(cx);
    }

    /// Takes in that NATs remember less than was thought.
    pub(crate) fn hurry(&mut self, cx: &mut Cx) {
        if let State::Ready { link, .. } = &mut self.state {
            link.next_ping = link.next_ping.min(link.last_ping + cx.memory.held()).max(cx.now);
            self.arm(cx);
        }
    }

    fn arm(&self, cx: &mut Cx) {
        let at = match &self.state {
            State::Idle { retry } => Some(*retry),
            State::Reaching { dials } => dials.due(),
            State::Closed => None,
            State::Greeting { link } => link.answer_by,
            State::Subscribing { link } => link.answer_by.or(self.topics.due()),
            State::Ready { link, .. } => {
                let ping = link.answer_by.unwrap_or(link.next_ping);
                Some(self.topics.due().map_or(ping, |due| due.min(ping)))
            }
        };
        cx.timers.set(Timer::Broker(self.place), at);
    }

    fn link(&mut self) -> Option<&mut Link> {
        match &mut self.state {
            State::Greeting { link } | State::Subscribing { link } | State::Ready { link, .. } => Some(link),
            _ => None,
        }
    }

    fn sock(&self) -> Option<SockId> {
        match &self.state {
            State::Greeting { link } | State::Subscribing { link } | State::Ready { link, .. } => {
                Some(link.sock)
            }
            _ => None,
        }
    }
}
