//! A client's session: its subscriptions and the messages on their way to it.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::packet::publish;
use crate::ConnId;
use bytes::Bytes;

/// A publication.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) topic: Arc<str>,
    pub(super) payload: Bytes,
    /// QoS 1; otherwise QoS 0.
    pub(super) at_least_once: bool,
    pub(super) retain: bool,
}

impl Message {
    pub(super) fn size(&self) -> usize {
        self.topic.len() + self.payload.len()
    }
}

/// Possibility of sending a message at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Room {
    Now,
    /// The connection is slow.
    Later,
    /// The client has no connection.
    Away,
}

#[derive(Debug)]
pub(super) struct Session {
    client: Box<str>,
    pub(super) conn: Option<ConnId>,
    /// Ends with its connection.
    pub(super) clean: bool,
    /// Time at which the session is forgotten, while it has no connection.
    pub(super) until: Option<Duration>,
    /// Subscribed to, and whether QoS 1 was granted.
    topics: BTreeMap<Box<str>, bool>,
    waiting: VecDeque<Message>,
    /// Messages by packet identifier; their order of sending is in `order`.
    in_flight: BTreeMap<u16, Message>,
    order: VecDeque<u16>,
    /// Sent on an earlier connection, to be sent again.
    again: VecDeque<u16>,
    last_id: u16,
    /// Bytes of the messages that wait or are in flight.
    bytes: usize,
}

impl Session {
    pub(super) fn new(client: Box<str>) -> Self {
        Session {
            client,
            conn: None,
            clean: true,
            until: None,
            topics: BTreeMap::new(),
            waiting: VecDeque::new(),
            in_flight: BTreeMap::new(),
            order: VecDeque::new(),
            again: VecDeque::new(),
            last_id: 0,
            bytes: 0,
        }
    }

    pub(super) fn client(&self) -> &str {
        &self.client
    }

    pub(super) fn topics(&self) -> impl Iterator<Item = &str> {
        self.topics.keys().map(|t| &**t)
    }

    /// Adds a subscription. Returns false if there was no room for one more.
    pub(super) fn subscribe(&mut self, topic: &str, at_least_once: bool, most: usize) -> bool {
        let fits = self.topics.contains_key(topic) || self.topics.len() < most;
        if fits {
            self.topics.insert(topic.into(), at_least_once);
        }
        fits
    }

    pub(super) fn unsubscribe(&mut self, topic: &str) {
        self.topics.remove(topic);
    }

    /// The QoS that its subscription to a topic was granted: true is 1, false 0.
    pub(super) fn granted(&self, topic: &str) -> Option<bool> {
        self.topics.get(topic).copied()
    }

    /// Takes a message, unless there is no room for it among at most so many and so many bytes.
    pub(super) fn take(&mut self, message: Message, room: Room, most: (usize, usize)) -> bool {
        let bytes = self.bytes + message.size();
        let fits = match room {
            _ if self.waiting.len() >= most.0 || bytes > most.1 => false,
            Room::Now => true,
            Room::Later | Room::Away => message.at_least_once,
        };
        if fits {
            self.bytes = bytes;
            self.waiting.push_back(message);
        }
        fits
    }

    /// The next packet for the client, while no more than `most` are unacknowledged.
    pub(super) fn next(&mut self, most: usize) -> Option<Bytes> {
        while let Some(id) = self.again.pop_front() {
            if let Some(message) = self.in_flight.get(&id) {
                return Some(encode(message, Some(id), true));
            }
        }
        if self.waiting.front()?.at_least_once && self.in_flight.len() >= most {
            return None;
        }
        let message = self.waiting.pop_front()?;
        if !message.at_least_once {
            self.bytes -= message.size();
            return Some(encode(&message, None, false));
        }
        let id = self.free_id();
        let bytes = encode(&message, Some(id), false);
        self.in_flight.insert(id, message);
        self.order.push_back(id);
        Some(bytes)
    }

    /// Returns true if the client was sent a message with this identifier, and has not acknowledged it.
    pub(super) fn awaits(&self, id: u16) -> bool {
        self.in_flight.contains_key(&id)
    }

    pub(super) fn acknowledged(&mut self, id: u16) {
        if let Some(message) = self.in_flight.remove(&id) {
            self.bytes -= message.size();
            self.order.retain(|o| *o != id);
        }
    }

    /// Notes that the connection is gone: messages sent and not acknowledged will be retransmitted, in order.
    pub(super) fn disconnected(&mut self) {
        self.conn = None;
        self.again = self.order.clone();
        self.waiting.retain(|m| m.at_least_once);
        self.bytes = self.waiting.iter().chain(self.in_flight.values()).map(Message::size).sum();
    }

    /// Returns a free identifier. Far fewer than 65,534 are in flight, so there is one.
    fn free_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if !self.in_flight.contains_key(&self.last_id) {
                return self.last_id;
            }
        }
    }
}

fn encode(message: &Message, id: Option<u16>, again: bool) -> Bytes {
    // Names were checked when the message came in.
    publish(&message.topic, &message.payload, id, again, message.retain).into()
}
