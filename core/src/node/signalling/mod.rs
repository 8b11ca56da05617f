//! Signalling: the sessions with brokers, what is sent to peers over them, and messages to ourselves.

mod pings;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use bytes::Bytes;
use smallvec::SmallVec;

use pings::Pings;

use crate::address::PeerAddress;
use crate::config::Config;
use crate::cx::Cx;
use crate::event::{BrokerState, Event};
use crate::identity::{NodeId, SecretKey};
use crate::io::Input;
use crate::login::Login;
use crate::random::Domain;
use crate::session::SessionId;
use crate::signal::broker::{BrokerEvents, Session};
use crate::signal::message::{Body, Message, MessageId};
use crate::signal::seal;
use crate::time::{Instant, WallTime};

/// Seconds for which a message means something: as long as the window for wrong clocks.
pub(super) const LIFETIME: u16 = 600;
/// The probe of a broker is of no use later.
const PROBE_WITHIN: Duration = Duration::from_secs(10);
/// Other processes with our key that are told apart.
const MAX_INSTANCES: usize = 16;
/// Brokers announced, as the address format allows.
const ANNOUNCED: usize = 2;

#[derive(Debug)]
pub(super) struct Signalling {
    identity: SecretKey,
    brokers: Vec<Broker>,
    /// Brokers in our address, by their ids.
    announced: Vec<u16>,
    /// Facts that calls were told last: whether a server has said where we are outside, and the brokers that a request could
    /// go out on, one bit each; no brokers before our address was settled.
    told: (bool, Option<u16>),
    /// Distinguishes us from another process with the same key.
    instance: [u8; 16],
    began: Instant,
    other_instances: BTreeSet<[u8; 16]>,
    /// Messages to ourselves.
    loopback: VecDeque<Message>,
    pings: Pings,
    /// Clocks of peers that we call, minus ours, in microseconds, where they told us.
    offsets: BTreeMap<NodeId, i64>,
}

#[derive(Debug)]
struct Broker {
    id: u16,
    /// True if the broker's login can be renewed.
    renews: bool,
    session: Session,
    /// True once the broker worked or failed.
    settled: bool,
}

impl Signalling {
    pub(super) fn new(config: &Config, instance: [u8; 16], now: Instant) -> Self {
        let topic = config.identity.node_id().topic();
        let broker = |(place, b): (usize, &crate::config::Broker)| Broker {
            id: b.id,
            renews: b.renews,
            session: Session::new(place as u8, b.clone(), config.bind, topic),
            settled: false,
        };
        Signalling {
            identity: config.identity.clone(),
            brokers: config.brokers.iter().enumerate().map(broker).collect(),
            announced: Vec::new(),
            told: (false, None),
            instance,
            began: now,
            other_instances: BTreeSet::new(),
            loopback: VecDeque::new(),
            pings: Pings::new(),
            offsets: BTreeMap::new(),
        }
    }

    pub(super) fn start(&mut self, cx: &mut Cx) {
        self.brokers.iter_mut().for_each(|b| b.session.start(cx));
    }

    pub(super) fn shutdown(&mut self, cx: &mut Cx) {
        self.brokers.iter_mut().for_each(|b| b.session.shutdown(cx));
    }

    /// Takes in an input of a socket or a query of the broker at this place.
    pub(super) fn handle(&mut self, cx: &mut Cx, place: u8, input: Input<'_>) -> BrokerEvents {
        let Some(broker) = self.brokers.get_mut(usize::from(place)) else { return BrokerEvents::new() };
        let session = &mut broker.session;
        match input {
            Input::Resolved { query, result } => session.resolved(cx, query, result),
            Input::Connected { sock, local, .. } => session.connected(cx, sock, local.ip()),
            Input::Stream { sock, data } => session.received(cx, sock, data),
            Input::Failed { sock, cause } => session.failed(cx, sock, cause),
            Input::Eof { sock } => session.ended(cx, sock),
            _ => BrokerEvents::new(),
        }
    }

    pub(super) fn timeout(&mut self, cx: &mut Cx, place: u8) -> BrokerEvents {
        self.brokers.get_mut(usize::from(place)).map(|b| b.session.timeout(cx)).unwrap_or_default()
    }

    /// Takes in that we have `moved`, or that addresses of ours are gone, for the broker at this place.
    pub(super) fn roam(
        &mut self,
        cx: &mut Cx,
        place: u8,
        moved: bool,
        gone: &impl Fn(IpAddr) -> bool,
    ) -> BrokerEvents {
        self.brokers.get_mut(usize::from(place)).map(|b| b.session.roam(cx, moved, gone)).unwrap_or_default()
    }

    /// Uses connections in time that our NATs would forget sooner than was known.
    pub(super) fn hurry(&mut self, cx: &mut Cx) {
        self.brokers.iter_mut().for_each(|b| b.session.hurry(cx));
    }

    /// Gives the broker with this id another login, if it takes any.
    pub(super) fn renew(&mut self, cx: &mut Cx, id: u16, login: &Login) -> bool {
        let broker = self.brokers.iter_mut().find(|b| b.id == id && b.renews);
        broker.map(|b| b.session.renew(cx, login.clone())).is_some()
    }

    /// Tells our user of a broker's new state, and probes it if it is ready. Returns true if the broker is back after
    /// it was there once.
    pub(super) fn state(&mut self, cx: &mut Cx, place: u8, state: BrokerState) -> bool {
        let Some(broker) = self.brokers.get_mut(usize::from(place)) else { return false };
        // One that is ready counts once a message has come through, which is about one round trip later.
        let is_back = broker.settled;
        broker.settled |= state != BrokerState::Ready;
        cx.notify(Event::Broker { id: broker.id, state });
        if state == BrokerState::Ready {
            self.probe(cx, place);
        }
        is_back && state == BrokerState::Ready
    }

    /// Sends a message to ourselves: it shows that messages come through, and tells another process with our key.
    pub(super) fn probe(&mut self, cx: &mut Cx, place: u8) {
        let ours = self.identity.node_id();
        let payload = SmallVec::from_slice(&self.instance);
        let (_, sealed) = self.seal(cx, ours, SessionId([0; 16]), 0, Body::Echo(payload));
        let until = cx.now + PROBE_WITHIN;
        self.publish(cx, ours, &sealed, &[place], until);
    }

    /// Takes in what came back to our topic of a probe, or of whoever repeats one.
    pub(super) fn own_echo(&mut self, cx: &mut Cx, payload: &[u8], sent: WallTime, via: Option<u8>) {
        let Ok(instance) = <[u8; 16]>::try_from(payload) else { return };
        if let Some(n) = via.map(usize::from).filter(|_| instance == self.instance) {
            self.brokers[n].session.prove();
            self.brokers[n].settled = true;
        }
        // Anybody can listen on our topic, and repeat what a process before us has sent.
        let age = i64::try_from(cx.now.since(self.began).as_micros()).unwrap_or(i64::MAX);
        let recorded = sent < cx.wall().offset_micros(-age);
        let new = instance != self.instance
            && !recorded
            && self.other_instances.len() < MAX_INSTANCES
            && self.other_instances.insert(instance);
        if new {
            cx.notify(Event::IdentityInUse);
            // It came after our own probe, and so has not heard of us.
            if let Some(place) = via {
                self.probe(cx, place);
            }
        }
    }

    /// Returns a sealed message for `to`, and its id. `offset` moves its send time to the peer's clock, in
    /// microseconds. To ourselves nothing is sealed: it is delivered when this call of the node ends.
    pub(super) fn seal(
        &mut self,
        cx: &mut Cx,
        to: NodeId,
        session: SessionId,
        offset: i64,
        body: Body,
    ) -> (MessageId, Bytes) {
        let id = MessageId(cx.random.bytes(Domain::MessageId));
        let sent = cx.wall().offset_micros(offset);
        let message = Message { id, sent, lifetime: LIFETIME, session, body };
        if to == self.identity.node_id() && !matches!(message.body, Body::Echo(_)) {
            self.loopback.push_back(message);
            return (id, Bytes::new());
        }
        let entropy = cx.random.draw(Domain::NoiseEphemeral);
        let sealed = seal::seal(&self.identity, &to, &message, entropy).unwrap_or_default();
        (id, sealed.into())
    }

    /// Notes by how much a peer's clock differs from ours, while we call it.
    pub(super) fn set_offset(&mut self, peer: NodeId, offset: Option<i64>) {
        match offset {
            Some(offset) => self.offsets.insert(peer, offset),
            None => self.offsets.remove(&peer),
        };
    }

    /// Returns the peer's clock minus ours, in microseconds; 0 where that is not known.
    pub(super) fn offset_of(&self, peer: NodeId) -> i64 {
        self.offsets.get(&peer).copied().unwrap_or(0)
    }

    /// Publishes on those of the brokers that are ready. Returns how many they were.
    pub(super) fn publish(
        &mut self,
        cx: &mut Cx,
        to: NodeId,
        sealed: &Bytes,
        via: &[u8],
        until: Instant,
    ) -> u8 {
        if sealed.is_empty() {
            return 0;
        }
        let mut sent = 0;
        for place in via {
            if let Some(session) = self.session_mut(*place).filter(|s| s.is_ready())
                && session.publish(cx, to.topic(), sealed.clone(), until)
            {
                sent += 1;
            }
        }
        sent
    }

    /// Tells a peer that we do not speak the version of its message.
    pub(super) fn refuse_version(&mut self, cx: &mut Cx, to: NodeId, about: MessageId, place: u8) {
        let entropy = cx.random.draw(Domain::NoiseEphemeral);
        let sealed = seal::refuse_version(&self.identity, &to, about, cx.wall(), entropy).unwrap_or_default();
        let until = cx.now + PROBE_WITHIN;
        self.publish(cx, to, &sealed.into(), &[place], until);
    }

    /// Returns the next message to ourselves.
    pub(super) fn poll_loopback(&mut self) -> Option<Message> {
        self.loopback.pop_front()
    }

    /// Fills the places for brokers in our address with the first that work. A broker that is in stays in, since
    /// addresses were handed out with it.
    pub(super) fn choose(&mut self) {
        for broker in &self.brokers {
            let full = self.announced.len() >= ANNOUNCED;
            if !full && broker.session.is_proven() && !self.announced.contains(&broker.id) {
                self.announced.push(broker.id);
            }
        }
    }

    /// Returns true if calls have to be told that they may ask their peers otherwise than before.
    pub(super) fn ways_changed(&mut self, outside_is_heard: bool, settled: bool) -> bool {
        let bit = |(place, b): (usize, &Broker)| u16::from(b.session.is_ready()) << place;
        let ways = self.brokers.iter().enumerate().map(bit).fold(0, |all, one| all | one);
        let ways = (outside_is_heard, settled.then_some(ways));
        core::mem::replace(&mut self.told, ways) != ways
    }

    /// Has calls told anew, in another network.
    pub(super) fn forget_ways(&mut self) {
        self.told = (false, None);
    }
}

// What others want to know.
impl Signalling {
    /// Returns the number of brokers.
    pub(super) fn len(&self) -> usize {
        self.brokers.len()
    }

    /// Returns the brokers that our address names.
    pub(super) fn announced(&self) -> &[u16] {
        &self.announced
    }

    /// Returns the id of the broker at a place.
    pub(super) fn id(&self, place: u8) -> Option<u16> {
        self.brokers.get(usize::from(place)).map(|b| b.id)
    }

    /// Returns true if the broker at a place takes another login than its last.
    pub(super) fn renews(&self, place: u8) -> bool {
        self.brokers.get(usize::from(place)).is_some_and(|b| b.renews)
    }

    /// Returns true once every broker worked or failed.
    pub(super) fn all_settled(&self) -> bool {
        self.brokers.iter().all(|b| b.settled)
    }

    /// Returns true if the broker at a place worked or failed once.
    pub(super) fn is_settled(&self, place: u8) -> bool {
        self.brokers.get(usize::from(place)).is_some_and(|b| b.settled)
    }

    /// Returns true if one of these brokers takes messages now.
    pub(super) fn is_ready(&self, places: &[u8]) -> bool {
        places.iter().any(|place| self.session(*place).is_some_and(Session::is_ready))
    }

    /// Returns the places of the brokers that we share with a peer.
    pub(super) fn shared_with(&self, address: &PeerAddress) -> SmallVec<[u8; 2]> {
        let shared = |(_, b): &(usize, &Broker)| address.brokers().contains(&b.id);
        self.brokers.iter().enumerate().filter(shared).map(|(place, _)| place as u8).collect()
    }

    /// Returns the time of a message to a broker, one way: the shortest of these.
    pub(super) fn delay(&self, places: &[u8]) -> Duration {
        let known = places.iter().filter_map(|place| self.session(*place)?.round_trip());
        known.min().unwrap_or_default() / 2
    }

    pub(super) fn session(&self, place: u8) -> Option<&Session> {
        self.brokers.get(usize::from(place)).map(|b| &b.session)
    }

    pub(super) fn session_mut(&mut self, place: u8) -> Option<&mut Session> {
        self.brokers.get_mut(usize::from(place)).map(|b| &mut b.session)
    }

    pub(super) fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.brokers.iter().map(|b| &b.session)
    }

    pub(super) fn sessions_mut(&mut self) -> impl Iterator<Item = &mut Session> {
        self.brokers.iter_mut().map(|b| &mut b.session)
    }
}
