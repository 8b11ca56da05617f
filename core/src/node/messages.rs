//! Messages from and to brokers.

use super::Node;
use super::admission::{Bearing, How, Trust, Verdict, Wish, Worth};
use super::naming::Names;
use crate::address::PeerAddress;
use crate::config::ServerRef;
use crate::identity::NodeId;
use crate::notice::{BrokerLoss, BrokerState};
use crate::pipe::Terms;
use crate::session::SessionId;
use crate::signal::broker::{News, Said};
use crate::signal::message::{Body, Message, MessageId};
use crate::signal::seal::{self, Content};

impl Node {
    pub(super) fn broker_news(&mut self, place: u8, news: News) {
        for said in news {
            match said {
                Said::State(state) => self.broker_state(place, state),
                Said::Unproven { before } => {
                    if !before {
                        self.broker_state(place, BrokerState::Swallows);
                    }
                    self.signalling.probe(&mut self.cx, place);
                }
                Said::EndsAtMessages => self.broker_state(place, BrokerState::EndsAtMessages),
                Said::Payload(payload) => self.payload(place, &payload),
                Said::Followed(topic, granted) => {
                    self.with_names(|names, env| names.followed(env, place, &topic, granted))
                }
                Said::Record(topic, payload, kept) => {
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

    /// The same for a message whose bearing is known.
    fn follow(&mut self, from: NodeId, message: Message, via: Option<u8>, bearing: Option<Bearing>) -> bool {
        let (session, sent) = (message.session, message.sent);
        if bearing == Some(Bearing::Answers) {
            self.heard_of(from, session, None);
        }
        match message.body {
            Body::Echo(payload) => {
                if self.is_oneself(from) && self.signalling.is_pong(from, &payload) {
                    self.signalling.pong(&mut self.cx, from, &payload, via);
                    return false;
                }
                if self.is_oneself(from) {
                    self.signalling.own_echo(&mut self.cx, &payload, sent, via);
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
            Body::EchoReply(ref payload) => {
                self.signalling.is_pong(from, payload).then_some(Bearing::Answers)
            }
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
        let mut brokers = self.signalling.shared_with(&address);
        if let Some(via) = via.filter(|v| !brokers.contains(v)) {
            brokers.push(via);
        }
        self.wish(Wish { peer: from, session, terms, address, via: brokers, how })
    }

    fn broker_state(&mut self, place: u8, state: BrokerState) {
        if self.signalling.state(&mut self.cx, place, state) {
            self.repeat_lost(place);
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
            Content::OtherVersion(about) => return self.refuse_version(from, about, place),
            Content::VersionRefused { about, version } => return self.version_refused(from, about, version),
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
        let (now, offset) = ((self.cx.now, self.cx.wall()), self.clock_offset_of(from));
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
                    self.reply(from, message.session, &[place], Body::Clock { about: message.id, wall });
                }
            }
            Verdict::Full => self.cx.stats.messages_over_limit += 1,
        }
    }

    /// A peer's message has a version that we do not speak.
    fn refuse_version(&mut self, to: NodeId, about: MessageId, place: u8) {
        if self.admission.may_talk(to) && self.may_reply(to, Worth::Refusal) {
            self.signalling.refuse_version(&mut self.cx, to, about, place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::signalling::LIFETIME;
    use super::*;
    use crate::config::Config;
    use crate::identity::SecretKey;
    use crate::io::{Action, Event, Interface};
    use crate::pipe::Terms;
    use crate::time::{Instant, WallTime};

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
