//! Messages from and to brokers.

use core::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;

use super::Node;
use super::admission::{Bearing, How, Trust, Verdict, Wish, Worth};
use crate::address::PeerAddress;
use crate::config::ServerRef;
use crate::identity::NodeId;
use crate::notice::{BrokerLoss, BrokerState, Notice};
use crate::pipe::Terms;
use crate::random::Domain;
use crate::session::SessionId;
use crate::signal::broker::{News, Said};
use crate::signal::message::{Body, Message, MessageId};
use crate::signal::seal::{self, Content};
use crate::time::{Instant, WallTime};

/// Seconds for which a message means something: as long as the window for wrong clocks.
const LIFETIME: u16 = 600;
/// The probe of a broker is of no use later.
const PROBE_WITHIN: Duration = Duration::from_secs(10);
/// Other processes with our key that are told apart.
const MAX_INSTANCES: usize = 16;

impl Node {
    pub(super) fn broker_news(&mut self, place: u8, news: News) {
        for said in news {
            match said {
                Said::State(state) => self.broker_state(place, state),
                Said::Unproven { before } => {
                    if !before {
                        self.broker_state(place, BrokerState::Swallows);
                    }
                    self.probe(place);
                }
                Said::EndsAtMessages => self.broker_state(place, BrokerState::EndsAtMessages),
                Said::Payload(payload) => self.payload(place, &payload),
                Said::Followed(topic, granted) => self.name_followed(place, &topic, granted),
                Said::Record(topic, payload, kept) => self.name_record(place, &topic, &payload, kept),
            }
        }
    }

    /// Places of the brokers that we share with a peer.
    pub(super) fn brokers_of(&self, address: &PeerAddress) -> SmallVec<[u8; 2]> {
        let shared = |(_, b): &(usize, &crate::config::Broker)| address.brokers().contains(&b.id);
        self.config.brokers.iter().enumerate().filter(shared).map(|(place, _)| place as u8).collect()
    }

    /// A message for `to`, sealed, and its id. `offset` moves its send time to the peer's clock, in
    /// microseconds. To ourselves nothing is sealed: it is delivered when this call of the node ends.
    pub(super) fn seal(
        &mut self,
        to: NodeId,
        session: SessionId,
        offset: i64,
        body: Body,
    ) -> (MessageId, Bytes) {
        let id = MessageId(self.cx.random.bytes(Domain::MessageId));
        let sent = self.cx.wall().offset_micros(offset);
        let message = Message { id, sent, lifetime: LIFETIME, session, body };
        if self.is_oneself(to) && !matches!(message.body, Body::Echo(_)) {
            self.loopback.push_back(message);
            return (id, Bytes::new());
        }
        let entropy = self.cx.random.draw(Domain::NoiseEphemeral);
        let sealed = seal::seal(&self.config.identity, &to, &message, entropy).unwrap_or_default();
        (id, sealed.into())
    }

    /// Publishes on those of the brokers that are ready; how many they were.
    pub(super) fn publish(&mut self, to: NodeId, sealed: &Bytes, via: &[u8], until: Instant) -> u8 {
        if sealed.is_empty() {
            return 0;
        }
        let mut sent = 0;
        for place in via {
            if let Some(broker) = self.brokers.get_mut(usize::from(*place)).filter(|b| b.is_ready())
                && broker.publish(&mut self.cx, to.topic(), sealed.clone(), until)
            {
                sent += 1;
            }
        }
        sent
    }

    /// Handles a message of an authenticated peer. `via` is the place of the broker that delivered it; `None` for our
    /// own. Returns true if the message may have had an effect, so that a copy of it must have none.
    pub(super) fn authentic_message(&mut self, from: NodeId, message: Message, via: Option<u8>) -> bool {
        let (session, sent) = (message.session, message.sent);
        if self.bearing_of(from, &message) == Some(Bearing::Answers) {
            self.heard_of(from, session, None);
        }
        match message.body {
            Body::Echo(payload) => {
                if self.is_oneself(from) && self.is_pong(from, &payload) {
                    self.pong(from, &payload, via);
                    return false;
                }
                if self.is_oneself(from) {
                    self.own_echo(&payload, sent, via);
                    return false;
                }
                // What strangers would have us remember has no bound but the rate of the answers to all of them.
                let named = self.admission.trust(from) == Trust::Known;
                let may = self.admission.may_talk(from);
                return may
                    && self.try_reply(from, session, via.as_slice(), Body::EchoReply(payload))
                    && named;
            }
            Body::EchoReply(payload) => {
                self.pong(from, &payload, via);
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
                if NodeId::try_from(mappings.address.node()) == Ok(from) {
                    self.punch_answered(from, session, &mappings);
                } else {
                    self.cx.stats.bad_messages += 1;
                }
            }
            Body::TurnRequest { terms, moves, relayed, address } => {
                return self.wish_from(from, session, terms, *address, via, How::Relay { relayed, moves });
            }
            Body::TurnResponse(sources) => self.peer_comes(from, session, &sources),
            Body::Prove { token, relayed } => return self.show(from, session, token, relayed),
            Body::Dialling(count) => self.peer_dials(from, session, count),
            Body::Dialled { count, dials } => self.peer_dialled(from, session, count, &dials),
            Body::Refused(why) => self.peer_refused(from, session, why),
            Body::Clock { about, wall } => {
                let offset = wall.micros_since(self.cx.wall());
                self.correct_clock(from, about, offset);
                return false;
            }
        }
        true
    }

    /// Returns the bearing of a message on us; `None` for an answer to no call or ping of ours.
    fn bearing_of(&self, from: NodeId, message: &Message) -> Option<Bearing> {
        match message.body {
            Body::Direct { .. } | Body::Initial(_) | Body::TurnRequest { .. } => Some(Bearing::Asks),
            Body::Echo(_) | Body::Clock { .. } => Some(Bearing::Tells),
            Body::EchoReply(ref payload) => self.is_pong(from, payload).then_some(Bearing::Answers),
            Body::Updated(_)
            | Body::TurnResponse(_)
            | Body::Dialling(_)
            | Body::Dialled { .. }
            | Body::Refused(_) => self.is_call_to(from, message.session).then_some(Bearing::Answers),
            Body::Prove { .. } => self.punches_with(from, message.session).then_some(Bearing::Answers),
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
        let mut brokers = self.brokers_of(&address);
        if let Some(via) = via.filter(|v| !brokers.contains(v)) {
            brokers.push(via);
        }
        self.wish(Wish { peer: from, session, terms, address, via: brokers, how })
    }

    fn broker_state(&mut self, place: u8, state: BrokerState) {
        let n = usize::from(place);
        let Some(id) = self.config.brokers.get(n).map(|b| b.id) else { return };
        // One that is ready counts once a message has come through, which is about one round trip later.
        let is_back = self.brokers_settled[n];
        self.brokers_settled[n] |= state != BrokerState::Ready;
        self.cx.notify(Notice::Broker { id, state });
        if state == BrokerState::Ready {
            self.probe(place);
            if is_back {
                self.repeat_lost(place);
            }
        }
        // Not authorised, in the two ways that MQTT 3.1.1 has of saying it.
        if matches!(state, BrokerState::Lost(BrokerLoss::Refused(4 | 5))) && self.config.brokers[n].renews {
            self.want_login(ServerRef::Broker(id));
        }
        self.drive_names();
    }

    /// A message to ourselves: it shows that messages come through, and tells another process with our key.
    fn probe(&mut self, place: u8) {
        let ours = self.node_id();
        let payload = SmallVec::from_slice(&self.instance);
        let (_, sealed) = self.seal(ours, SessionId([0; 16]), 0, Body::Echo(payload));
        let until = self.cx.now + PROBE_WITHIN;
        self.publish(ours, &sealed, &[place], until);
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
            Content::OtherVersion(about) => return self.refuse_version(from, about, place),
            Content::VersionRefused { about, version } => return self.version_refused(from, about, version),
        };
        self.message(from, message, place);
    }

    /// A message that came over a broker.
    pub(super) fn message(&mut self, from: NodeId, message: Box<Message>, place: u8) {
        // It is late by its nature, and bound to a random id of ours instead.
        if matches!(message.body, Body::Clock { .. }) {
            self.authentic_message(from, *message, Some(place));
            return;
        }
        let Some(bearing) = self.bearing_of(from, &message) else { return };
        let (now, offset) = ((self.cx.now, self.cx.wall()), self.clock_offset_of(from));
        match self.admission.hear(now, offset, from, &message, bearing) {
            Verdict::Fresh(stamp) => {
                if self.authentic_message(from, *message, Some(place)) {
                    self.admission.keep(stamp);
                }
            }
            Verdict::Repeated => self.cx.stats.repeated_messages += 1,
            Verdict::Stale => {
                self.cx.stats.stale_messages += 1;
                if bearing == Bearing::Asks && self.admission.may_talk(from) {
                    let wall = self.cx.wall();
                    self.reply(from, message.session, &[place], Body::Clock { about: message.id, wall });
                }
            }
            Verdict::Full => self.cx.stats.messages_over_limit += 1,
        }
    }

    /// A peer's message has a version that we do not speak.
    fn refuse_version(&mut self, to: NodeId, about: MessageId, place: u8) {
        if self.admission.may_talk(to) && self.may_reply(to, Worth::Refusal) {
            let entropy = self.cx.random.draw(Domain::NoiseEphemeral);
            let (ours, wall) = (&self.config.identity, self.cx.wall());
            let sealed = seal::refuse_version(ours, &to, about, wall, entropy).unwrap_or_default();
            let until = self.cx.now + PROBE_WITHIN;
            self.publish(to, &sealed.into(), &[place], until);
        }
    }

    fn own_echo(&mut self, payload: &[u8], sent: WallTime, via: Option<u8>) {
        let Ok(instance) = <[u8; 16]>::try_from(payload) else { return };
        if let Some(n) = via.map(usize::from).filter(|_| instance == self.instance) {
            self.brokers[n].prove();
            self.brokers_settled[n] = true;
        }
        // Anybody can listen on our topic, and repeat what a process before us has sent.
        let age = i64::try_from(self.cx.now.since(self.began).as_micros()).unwrap_or(i64::MAX);
        let recorded = sent < self.cx.wall().offset_micros(-age);
        let new = instance != self.instance
            && !recorded
            && self.other_instances.len() < MAX_INSTANCES
            && self.other_instances.insert(instance);
        if new {
            self.cx.notify(Notice::IdentityInUse);
            // It came after our own probe, and so has not heard of us.
            if let Some(place) = via {
                self.probe(place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::identity::SecretKey;
    use crate::io::{Action, Event, Interface};
    use crate::pipe::Terms;

    fn key(n: u8) -> SecretKey {
        SecretKey::from_bytes([n; 32])
    }

    fn node() -> Node {
        let mut node = Node::new(Config::new(key(1)), [1; 32], Instant::ZERO).unwrap();
        let ip = [203, 0, 113, 1].into();
        let interface = Interface { default_route: true, ..Interface::new(2, ip, 32) };
        node.handle(Instant::ZERO, Event::Interfaces(&[interface]));
        node
    }

    /// Tells it a request with node `address`'s address, from node 2; how many dials follow.
    fn request(node: &mut Node, id: u8, session: u8, address: u8) -> usize {
        let address = format!("1-[0,198.51.100.7,198.51.100.7,80,1,1,0]-0-{}", key(address).node_id());
        let address = Box::new(address.parse().unwrap());
        let message = Message {
            id: MessageId([id; 16]),
            sent: WallTime::from_micros(0),
            lifetime: LIFETIME,
            session: SessionId([session; 16]),
            body: Body::Direct { terms: Terms::ENCRYPTED, address },
        };
        node.authentic_message(key(2).node_id(), message, None);
        core::iter::from_fn(|| node.poll_action()).filter(|a| matches!(a, Action::Connect { .. })).count()
    }

    #[test]
    fn nobody_has_us_dial_another_nodes_address() {
        let mut node = node();
        assert_eq!(request(&mut node, 1, 1, 3), 0);
        assert_eq!(node.stats().bad_messages, 1);
        assert_eq!(request(&mut node, 2, 2, 2), 1);
    }

    #[test]
    fn two_messages_about_one_session_are_one_visit() {
        let mut node = node();
        node.admission.approve(key(2).node_id());
        assert_eq!(request(&mut node, 1, 1, 2), 1);
        assert_eq!(request(&mut node, 2, 1, 2), 0);
        assert_eq!(request(&mut node, 3, 2, 2), 1, "another session");
    }
}
