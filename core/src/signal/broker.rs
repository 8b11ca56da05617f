//! An MQTT 3.1.1 session with one broker: connected, subscribed to our topic and kept alive. It is built up again when
//! it breaks.
//!
//! The session also subscribes to the topics of names, whose messages are retained by brokers.
//!
//! Sessions are clean and client ids random. Everything is of QoS 0. A request that was not answered is repeated by its
//! owner, and what a broker would have to store waits for seconds on a cluster whose nodes fail. A message is sent once, on
//! the first session that there is while it is of use. Some brokers end the session of a client whose message they do not like.

use core::num::NonZeroU16;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::config::{Broker, Login};
use crate::cx::{Cx, Owner, Timer};
use crate::identity::Topic;
use crate::io::{CloseHow, IoFailure, QueryId, SockId};
use crate::limit::Bucket;
use crate::name::MAX_RECORD;
use crate::nat::memory::{self, CONFIRMED_WITHIN, LONGEST, Patience, SHORTEST};
use crate::notice::{BrokerLoss, BrokerState};
use crate::proxy::Proxy;
use crate::random::Domain;
use crate::server::{Dials, Race};
use crate::signal::seal::MAX_ENVELOPE;
use crate::time::Instant;
use crate::wire::mqtt::{self, Incoming, MqttSplitter};

/// Keep-alive told to the broker (MQTT 3.1.1 section 3.1.2.10), in seconds: half as much again as the longest time between
/// two pings. A broker that refuses the first may take another.
const KEEP_ALIVE: [u16; 3] = [450, 60, 20];
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
/// half of its interval so that a herd of nodes spreads out.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Sessions that end sooner after their SUBACK count as failures: a broker that ends each at once is asked as seldom as
/// one that is away.
const LIVED: Duration = Duration::from_secs(60);
/// So many sessions in a row that break where a message was the last that happened are the message's fault.
const MAX_BROKEN: u8 = 2;
/// Time between a refused subscription and the next try, of which there are so many: clusters may refuse while a node is
/// away.
const SUBSCRIBE_AGAIN: (Duration, u8) = (Duration::from_secs(1), 3);
/// Credit given to the stream at a time.
const CREDIT: u32 = 16 * 1024;
/// Most subscriptions that wait for an answer; more are not sent to a broker that gives none.
const MAX_UNANSWERED: usize = 256;
/// Most messages waiting for the broker; a further one is not taken.
const MAX_OUTBOX: usize = 64;

/// Report of a broker's session.
#[derive(Debug)]
pub(crate) enum Said {
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

pub(crate) type News = SmallVec<[Said; 2]>;

#[derive(Debug)]
pub(crate) struct Session {
    place: u8,
    broker: Broker,
    bind: Option<IpAddr>,
    topic: Topic,
    state: State,
    /// Failures since a session last lived for [`LIVED`].
    failures: u32,
    /// The shortest from CONNECT to CONNACK or from PINGREQ to PINGRESP, on the last connection: one lost packet makes
    /// a round trip a second longer, and a punch reckons with it.
    round_trip: Option<Duration>,
    outbox: VecDeque<Outgoing>,
    /// Topics of names.
    followed: BTreeSet<Box<str>>,
    /// Packets that the broker has to acknowledge.
    unanswered: BTreeMap<NonZeroU16, Unanswered>,
    next_packet_id: NonZeroU16,
    /// Records of names.
    records: Bucket,
    /// True once a session became ready.
    worked: bool,
    /// True if the last try got a stream and no session, for no reason that the broker gave.
    unready: bool,
    /// True if the last CONNECT was not answered within [`GREET_WITHIN`]: the next one has longer.
    patient: bool,
    /// Count of sessions in a row that broke where a message was the last that happened.
    broken: u8,
    /// The same count where something was to be kept. After [`MAX_BROKEN`] nothing is asked to be kept.
    broken_kept: u8,
    /// Place of the keep-alive in [`KEEP_ALIVE`].
    keep_alive: usize,
    /// What the broker allows, whatever the keep-alive says.
    patience: Patience,
    suspect: Option<Suspect>,
}

/// A loss that may be the NAT's doing.
#[derive(Debug)]
struct Suspect {
    /// The session was idle for so long before the ping at which it was lost, since this time.
    silent: Duration,
    since: Instant,
    at: Instant,
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
    /// SUBSCRIBE is sent, or due again.
    Subscribing {
        link: Link,
        packet_id: NonZeroU16,
        /// Refusals in this session.
        refused: u8,
        again: Option<Instant>,
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

/// A packet that the broker has not acknowledged.
#[derive(PartialEq, Eq, Debug)]
enum Unanswered {
    Subscribe(Box<str>),
    Unsubscribe,
}

#[derive(Debug)]
struct Link {
    sock: SockId,
    /// Local address.
    local: IpAddr,
    /// The broker's.
    remote: IpAddr,
    splitter: MqttSplitter,
    /// Bytes read since credit was last given.
    read: u32,
    /// Time at which a byte last went either way.
    used: Instant,
    last_ping: Instant,
    next_ping: Instant,
    /// Silence before the ping that is to be answered.
    silent: Duration,
    /// Time until which an answer is due, if one is.
    answer_by: Option<Instant>,
    /// Messages that were sent since the broker last sent anything.
    unheard: usize,
    /// Something to be kept was sent, and no ping has been answered since.
    kept: bool,
}

#[derive(Debug)]
struct Outgoing {
    topic: Box<str>,
    payload: Bytes,
    /// The broker is to keep it for whoever comes later.
    retain: bool,
    /// Time after which the message is of no use.
    until: Instant,
}

impl Link {
    fn send(&mut self, cx: &mut Cx, packet: Bytes) {
        cx.send(self.sock, packet);
        self.used = cx.now;
    }

    fn ping(&mut self, cx: &mut Cx) {
        self.silent = cx.now.since(self.used);
        self.send(cx, mqtt::pingreq());
        self.last_ping = cx.now;
        self.answer_by = Some(cx.now + ANSWER_WITHIN);
    }
}

impl Session {
    pub(crate) fn new(place: u8, broker: Broker, bind: Option<IpAddr>, topic: Topic) -> Self {
        Session {
            place,
            broker,
            bind,
            topic,
            state: State::Idle { retry: Instant::ZERO },
            failures: 0,
            round_trip: None,
            outbox: VecDeque::new(),
            followed: BTreeSet::new(),
            unanswered: BTreeMap::new(),
            next_packet_id: NonZeroU16::MIN,
            // Looking at a record costs a quarter of a millisecond: at most 5 % of a core for one broker.
            records: Bucket::new(200, Duration::from_millis(5)),
            worked: false,
            unready: false,
            patient: false,
            broken: 0,
            broken_kept: 0,
            keep_alive: 0,
            patience: Patience::default(),
            suspect: None,
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready { .. })
    }

    /// Returns true if a session has worked.
    pub(crate) fn has_worked(&self) -> bool {
        self.worked
    }

    /// Returns true if the broker takes streams and gives no session yet, as one that starts, or one of a cluster that
    /// has lost its leader.
    pub(crate) fn is_unready(&self) -> bool {
        self.unready || matches!(self.state, State::Greeting { .. } | State::Subscribing { .. })
    }

    /// Returns true if half of the places for waiting messages are taken. The rest is not for messages of strangers.
    pub(crate) fn is_crowded(&self) -> bool {
        self.outbox.len() >= MAX_OUTBOX / 2
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
        self.followed.insert(topic.into());
        self.subscribe(cx, topic);
    }

    /// Asks for no more of it.
    pub(crate) fn unfollow(&mut self, cx: &mut Cx, topic: &str) {
        if !self.followed.remove(topic) || self.unanswered.len() >= MAX_UNANSWERED {
            return;
        }
        let packet_id = self.fresh_packet_id();
        if let State::Ready { link, .. } = &mut self.state
            && let Ok(packet) = mqtt::unsubscribe(packet_id, topic)
        {
            self.unanswered.insert(packet_id, Unanswered::Unsubscribe);
            link.send(cx, packet);
        }
    }

    fn subscribe(&mut self, cx: &mut Cx, topic: &str) {
        if self.unanswered.len() >= MAX_UNANSWERED {
            return;
        }
        let packet_id = self.fresh_packet_id();
        if let State::Ready { link, .. } = &mut self.state
            && let Ok(packet) = mqtt::subscribe(packet_id, topic)
        {
            self.unanswered.insert(packet_id, Unanswered::Subscribe(topic.into()));
            link.send(cx, packet);
        }
    }

    fn take(&mut self, cx: &mut Cx, topic: Box<str>, payload: Bytes, retain: bool, until: Instant) -> bool {
        self.outbox.retain(|o| o.until > cx.now);
        if self.outbox.len() >= MAX_OUTBOX {
            return false;
        }
        self.outbox.push_back(Outgoing { topic, payload, retain, until });
        self.flush(cx);
        true
    }

    pub(crate) fn resolved(
        &mut self,
        cx: &mut Cx,
        query: QueryId,
        result: Result<SmallVec<[IpAddr; 2]>, IoFailure>,
    ) -> News {
        let State::Reaching { dials } = &mut self.state else { return News::new() };
        if let Err(why) = dials.resolved(cx, query, &result) {
            return self.lose(cx, BrokerLoss::Io(Proxy::blame(self.broker.proxy.as_ref(), why)));
        }
        self.arm(cx);
        News::new()
    }

    pub(crate) fn connected(&mut self, cx: &mut Cx, sock: SockId, local: IpAddr) -> News {
        let State::Reaching { dials } = &mut self.state else { return News::new() };
        let has_others = dials.has_others();
        let Some(remote) = dials.connected(cx, sock) else { return News::new() };
        let id = data_encoding::HEXLOWER.encode(&cx.random.bytes::<10>(Domain::ClientId));
        let Ok(connect) = mqtt::connect(&id, KEEP_ALIVE[self.keep_alive], self.broker.login.as_ref()) else {
            return self.lose(cx, BrokerLoss::Malformed);
        };
        cx.read(sock, CREDIT);
        cx.send(sock, connect);
        let within = if has_others && !self.patient { GREET_WITHIN } else { ANSWER_WITHIN };
        let answer_by = Some(cx.now + within);
        let splitter = MqttSplitter::new();
        let link = Link {
            sock,
            local,
            remote,
            splitter,
            read: 0,
            used: cx.now,
            last_ping: cx.now,
            next_ping: cx.now,
            silent: Duration::ZERO,
            answer_by,
            unheard: 0,
            kept: false,
        };
        self.state = State::Greeting { link };
        self.arm(cx);
        News::new()
    }

    /// The driver says that the socket failed, and it is gone.
    pub(crate) fn failed(&mut self, cx: &mut Cx, sock: SockId, why: IoFailure) -> News {
        let last = match &mut self.state {
            State::Reaching { dials } => dials.has(sock) && dials.failed(cx, sock),
            _ => self.sock() == Some(sock),
        };
        if !last {
            self.arm(cx);
            return News::new();
        }
        let why = match self.state {
            State::Reaching { .. } => Proxy::blame(self.broker.proxy.as_ref(), why),
            _ => why,
        };
        self.lose(cx, BrokerLoss::Io(why))
    }

    pub(crate) fn ended(&mut self, cx: &mut Cx, sock: SockId) -> News {
        match self.sock() {
            Some(s) if s == sock => self.lose(cx, BrokerLoss::ClosedByBroker),
            _ => News::new(),
        }
    }

    pub(crate) fn received(&mut self, cx: &mut Cx, sock: SockId, data: &[u8]) -> News {
        let mut news = News::new();
        let Some(link) = self.link().filter(|l| l.sock == sock) else { return news };
        link.unheard = 0;
        link.used = cx.now;
        link.read += data.len() as u32;
        if link.read >= CREDIT / 2 {
            cx.read(sock, link.read);
            link.read = 0;
        }
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

    pub(crate) fn timeout(&mut self, cx: &mut Cx) -> News {
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
            State::Greeting { link } | State::Subscribing { link, .. } | State::Ready { link, .. }
                if overdue(link) =>
            {
                return self.lose(cx, BrokerLoss::Silent);
            }
            State::Subscribing { again: Some(at), .. } if *at <= now => return self.subscribe_to_ours(cx),
            State::Ready { link, .. } if link.answer_by.is_none() && link.next_ping <= now => {
                link.ping(cx);
            }
            _ => {}
        }
        self.arm(cx);
        News::new()
    }

    /// Reacts to a change of our network. A connection from an address that is `gone` is made anew. A connection that
    /// is still being opened is made anew if we have `moved`. An established one gets a PINGREQ.
    pub(crate) fn roam(&mut self, cx: &mut Cx, moved: bool, gone: impl Fn(IpAddr) -> bool) -> News {
        let mut news = News::new();
        self.suspect = self.suspect.take().filter(|_| !moved);
        match &mut self.state {
            State::Greeting { link } | State::Subscribing { link, .. } | State::Ready { link, .. }
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

    fn packet(&mut self, cx: &mut Cx, frame: &[u8]) -> Result<Option<Said>, BrokerLoss> {
        let incoming = mqtt::decode(frame).map_err(|_| BrokerLoss::Malformed)?;
        let state = core::mem::replace(&mut self.state, State::Closed);
        let (state, said) = match (state, incoming) {
            (State::Greeting { link }, Incoming::Connack { accepted: false, code }) => {
                self.state = State::Greeting { link };
                if code == REJECTED {
                    // A broker of MQTT 3.1.1 has no other way to say that a keep-alive is too long.
                    self.keep_alive = (self.keep_alive + 1) % KEEP_ALIVE.len();
                }
                return Err(BrokerLoss::Refused(code));
            }
            (State::Greeting { mut link }, Incoming::Connack { .. }) => {
                self.round_trip = Some(cx.now.since(link.last_ping));
                link.answer_by = None;
                self.patient = false;
                let packet_id = self.next_packet_id;
                self.state = State::Subscribing { link, packet_id, refused: 0, again: None };
                return Ok(self.subscribe_to_ours(cx).pop());
            }
            (
                State::Subscribing { mut link, packet_id, refused, again: None },
                Incoming::Suback { packet_id: id, granted },
            ) if id == packet_id => {
                link.answer_by = None;
                if !granted {
                    let (pause, most) = SUBSCRIBE_AGAIN;
                    let (refused, again) = (refused + 1, Some(cx.now + pause));
                    self.state = State::Subscribing { link, packet_id, refused, again };
                    return if refused < most { Ok(None) } else { Err(BrokerLoss::SubscriptionRefused) };
                }
                cx.experience.works(self.broker.first().0, link.remote);
                (self.worked, self.unready) = (true, false);
                link.next_ping = cx.now + SHORTEST.min(self.longest(cx.now));
                self.state = State::Ready { link, since: cx.now, proof: Proof::Awaited };
                if let Some(Suspect { silent, since, at }) = self.suspect.take()
                    && cx.now <= at + CONFIRMED_WITHIN
                {
                    cx.memory.died(cx.now, since, silent);
                }
                self.unanswered.clear();
                for topic in self.followed.clone() {
                    self.subscribe(cx, &topic);
                }
                // Behind the subscriptions: a question about a name is answered to those who follow it.
                self.flush(cx);
                return Ok(Some(Said::State(BrokerState::Ready)));
            }
            (state @ State::Ready { .. }, Incoming::Suback { packet_id, granted })
                if matches!(self.unanswered.get(&packet_id), Some(Unanswered::Subscribe(..))) =>
            {
                self.state = state;
                let Some(Unanswered::Subscribe(topic)) = self.unanswered.remove(&packet_id) else {
                    return Ok(None);
                };
                return Ok(self.followed.contains(&topic).then_some(Said::Followed(topic, granted)));
            }
            (state @ State::Ready { .. }, Incoming::Unsuback { packet_id })
                if self.unanswered.get(&packet_id) == Some(&Unanswered::Unsubscribe) =>
            {
                self.unanswered.remove(&packet_id);
                (state, None)
            }
            (State::Ready { mut link, since, proof }, Incoming::Pingresp) => {
                if core::mem::take(&mut link.kept) {
                    self.broken_kept = 0;
                }
                if link.answer_by.take().is_some() {
                    let trip = cx.now.since(link.last_ping);
                    self.round_trip = Some(self.round_trip.map_or(trip, |shortest| shortest.min(trip)));
                    cx.memory.lived(link.silent);
                    self.patience.lives(link.silent);
                }
                let tries = !cx.memory.falls_short(self.place, link.silent);
                link.next_ping = match proof {
                    Proof::Given => self.next_ping(cx, tries),
                    Proof::Awaited | Proof::Overdue => cx.now + SHORTEST.min(self.longest(cx.now)),
                };
                let (proof, said) = match proof {
                    Proof::Given => (proof, None),
                    _ => (Proof::Overdue, Some(Said::Unproven { before: proof == Proof::Overdue })),
                };
                (State::Ready { link, since, proof }, said)
            }
            // A broker may deliver before its SUBACK (MQTT 3.1.1 section 3.8.4).
            (
                mut state @ (State::Ready { .. } | State::Subscribing { .. }),
                Incoming::Publish { topic, payload, packet_id, retain, .. },
            ) => {
                if let (Some(id), State::Ready { link, .. } | State::Subscribing { link, .. }) =
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

    /// A payload for us, unless it is foreign, kept or too long, or a record too many.
    fn judge(&mut self, cx: &mut Cx, topic: &str, payload: &[u8], retain: bool) -> Option<Said> {
        if self.followed.contains(topic) && payload.len() <= MAX_RECORD {
            if !self.records.take(cx.now) {
                cx.stats.messages_over_limit += 1;
                return None;
            }
            return Some(Said::Record(topic.into(), Bytes::copy_from_slice(payload), retain));
        }
        // Signalling never retains: a retained message is somebody's old one.
        if retain || payload.len() > MAX_ENVELOPE || topic != self.topic.to_string() {
            cx.stats.bad_messages += 1;
            return None;
        }
        Some(Said::Payload(Bytes::copy_from_slice(payload)))
    }

    /// Asks for what is sent to us.
    fn subscribe_to_ours(&mut self, cx: &mut Cx) -> News {
        let fresh = self.fresh_packet_id();
        let State::Subscribing { link, packet_id, again, .. } = &mut self.state else { return News::new() };
        let Ok(subscribe) = mqtt::subscribe(fresh, &self.topic.to_string()) else {
            return self.lose(cx, BrokerLoss::Malformed);
        };
        (*packet_id, *again) = (fresh, None);
        link.answer_by = Some(cx.now + ANSWER_WITHIN);
        link.send(cx, subscribe);
        self.arm(cx);
        News::new()
    }

    /// Closes what is open, and waits before the next try.
    fn lose(&mut self, cx: &mut Cx, loss: BrokerLoss) -> News {
        self.unready = matches!(self.state, State::Greeting { .. } | State::Subscribing { .. })
            && matches!(loss, BrokerLoss::ClosedByBroker | BrokerLoss::Silent | BrokerLoss::Io(_));
        match &mut self.state {
            State::Reaching { dials } => dials.close(cx),
            // What a server says behind a proxy says nothing of the proxy.
            State::Greeting { link } | State::Subscribing { link, .. } if self.broker.proxy.is_none() => {
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
        if let State::Ready { link, .. } = &self.state {
            let asked = link.answer_by.is_some();
            match loss {
                BrokerLoss::Silent | BrokerLoss::Io(IoFailure::Reset) if asked => {
                    let since = link.last_ping - link.silent;
                    self.suspect = Some(Suspect { silent: link.silent, since, at: cx.now });
                }
                BrokerLoss::ClosedByBroker | BrokerLoss::Io(IoFailure::Reset) if !asked => {
                    // Half of it is let pass.
                    self.patience.ended(cx.now, cx.now.since(link.used), 2);
                }
                _ => {}
            }
            self.broken = if ends && link.unheard > 0 { self.broken.saturating_add(1) } else { 0 };
            self.broken_kept += u8::from(ends && link.kept && self.broken_kept < MAX_BROKEN);
        }
        let ends_at_messages = self.broken == MAX_BROKEN;
        let (first, most) = BACK_OFF;
        let interval = most.min(first * (1 << self.failures.min(10)));
        let half = interval / 2;
        let jitter = cx.random.below(Domain::BackOff, half.as_nanos() as u64);
        self.failures = self.failures.saturating_add(1);
        self.state = State::Idle { retry: cx.now + half + Duration::from_nanos(jitter) };
        self.arm(cx);
        let lost = Said::State(BrokerState::Lost(loss));
        core::iter::once(lost).chain(ends_at_messages.then_some(Said::EndsAtMessages)).collect()
    }

    /// Sends what waits. Of a broker that has said nothing since many messages it is asked first whether it lives.
    fn flush(&mut self, cx: &mut Cx) {
        let State::Ready { link, .. } = &mut self.state else { return };
        let now = cx.now;
        self.outbox.retain(|o| o.until > now);
        let silent = now.since(link.used);
        let mut sent = false;
        while link.unheard < MAX_OUTBOX
            && let Some(outgoing) = self.outbox.pop_front()
        {
            let retain = outgoing.retain && self.broken_kept < MAX_BROKEN;
            if let Ok(packet) = mqtt::publish(&outgoing.topic, &outgoing.payload, retain) {
                link.send(cx, packet);
                link.unheard += 1;
                link.kept |= retain;
                sent = true;
            }
        }
        // After a long silence it is not known whether anything arrives.
        let doubtful = sent && silent > SHORTEST;
        if (!self.outbox.is_empty() || doubtful) && link.answer_by.is_none() {
            link.ping(cx);
            link.silent = silent;
        }
        self.arm(cx);
    }

    /// Returns the most time between two pings that the broker allows.
    fn longest(&self, now: Instant) -> Duration {
        let allowed = Duration::from_secs(u64::from(KEEP_ALIVE[self.keep_alive])) * 2 / 3;
        allowed.min(self.patience.most(now)).min(LONGEST)
    }

    /// Returns the time of the next ping of an idle session, which may try what has not held yet.
    fn next_ping(&self, cx: &mut Cx, tries: bool) -> Instant {
        let longest = self.longest(cx.now);
        let every =
            if tries { cx.memory.next(cx.now, self.place, longest) } else { cx.memory.held().min(longest) };
        // A longer time than what held has to pass whole.
        if every > cx.memory.held() { cx.now + every } else { memory::due(cx.now, every) }
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
            State::Subscribing { again: Some(at), .. } => Some(*at),
            State::Greeting { link } | State::Subscribing { link, .. } => link.answer_by,
            State::Ready { link, .. } => Some(link.answer_by.unwrap_or(link.next_ping)),
        };
        cx.timers.set(Timer::Broker(self.place), at);
    }

    fn link(&mut self) -> Option<&mut Link> {
        match &mut self.state {
            State::Greeting { link } | State::Subscribing { link, .. } | State::Ready { link, .. } => {
                Some(link)
            }
            _ => None,
        }
    }

    fn sock(&self) -> Option<SockId> {
        match &self.state {
            State::Greeting { link } | State::Subscribing { link, .. } | State::Ready { link, .. } => {
                Some(link.sock)
            }
            _ => None,
        }
    }

    fn fresh_packet_id(&mut self) -> NonZeroU16 {
        let id = self.next_packet_id;
        self.next_packet_id = id.checked_add(1).unwrap_or(NonZeroU16::MIN);
        id
    }
}
