//! Topics that a session asks its broker for, ours and those of names, and the answers.
//!
//! Clusters refuse subscriptions while a node is away, so a topic is asked for three times before a refusal is final.

use core::num::NonZeroU16;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use smallvec::SmallVec;

use crate::identity::Topic;
use crate::time::Instant;
use crate::wire::mqtt;

/// Time between a refused subscription and the next try, of which there are so many.
const AGAIN: (Duration, u8) = (Duration::from_secs(1), 3);
/// Most subscriptions that wait for an answer; more are not sent to a broker that gives none.
const MAX_UNANSWERED: usize = 256;

/// Topics of one session after the other.
#[derive(Debug)]
pub(super) struct Topics {
    ours: Box<str>,
    /// Topics of names.
    followed: BTreeSet<Box<str>>,
    /// Packets of this session that the broker has to acknowledge.
    unanswered: BTreeMap<NonZeroU16, Packet>,
    /// Topics that the broker has refused in this session, and not granted since.
    refused: BTreeMap<Box<str>, Refused>,
    next_packet_id: NonZeroU16,
}

#[derive(PartialEq, Eq, Debug)]
enum Packet {
    Subscribe(Box<str>),
    Unsubscribe,
}

#[derive(Debug)]
struct Refused {
    times: u8,
    /// Time of the next try, if one is to come.
    again: Option<Instant>,
}

/// Answer to a subscription.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Answer {
    Granted,
    /// The topic is asked for again.
    NotYet,
    Refused,
}

impl Topics {
    pub(super) fn new(ours: Topic) -> Self {
        Topics {
            ours: ours.to_string().into(),
            followed: BTreeSet::new(),
            unanswered: BTreeMap::new(),
            refused: BTreeMap::new(),
            next_packet_id: NonZeroU16::MIN,
        }
    }

    pub(super) fn is_ours(&self, topic: &str) -> bool {
        *self.ours == *topic
    }

    pub(super) fn is_followed(&self, topic: &str) -> bool {
        self.followed.contains(topic)
    }

    /// Returns true if the broker has refused a topic, and will be asked for it again.
    pub(super) fn is_doubtful(&self, topic: &str) -> bool {
        self.refused.get(topic).is_some_and(|refused| refused.times < AGAIN.1)
    }

    /// Follows a name's topic from now on, in later sessions too.
    pub(super) fn follow(&mut self, topic: &str) {
        self.followed.insert(topic.into());
        self.refused.remove(topic);
    }

    /// Follows it no longer. Returns the UNSUBSCRIBE for this session.
    pub(super) fn unfollow(&mut self, topic: &str) -> Option<Bytes> {
        self.refused.remove(topic);
        if !self.followed.remove(topic) {
            return None;
        }
        self.packet(Packet::Unsubscribe, |id| mqtt::unsubscribe(id, topic))
    }

    /// Returns the SUBSCRIBE to our own topic, with which a session begins.
    pub(super) fn ask_for_ours(&mut self) -> Option<Bytes> {
        let ours = self.ours.clone();
        self.ask_for(&ours)
    }

    /// Returns the SUBSCRIBEs to all that is followed.
    pub(super) fn ask_for_followed(&mut self) -> Vec<Bytes> {
        self.followed.clone().iter().filter_map(|topic| self.ask_for(topic)).collect()
    }

    /// Returns the SUBSCRIBE to a topic, unless too many wait for their answers.
    pub(super) fn ask_for(&mut self, topic: &str) -> Option<Bytes> {
        self.packet(Packet::Subscribe(topic.into()), |id| mqtt::subscribe(id, topic))
    }

    /// Takes the SUBACK of this packet in: the topic and what it means. `None`: nothing was asked with it.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        id: NonZeroU16,
        granted: bool,
    ) -> Option<(Box<str>, Answer)> {
        if !matches!(self.unanswered.get(&id), Some(Packet::Subscribe(_))) {
            return None;
        }
        let Some(Packet::Subscribe(topic)) = self.unanswered.remove(&id) else { return None };
        if granted || !(self.is_ours(&topic) || self.is_followed(&topic)) {
            self.refused.remove(&topic);
            return Some((topic, Answer::Granted));
        }
        let refused = self.refused.entry(topic.clone()).or_insert(Refused { times: 0, again: None });
        refused.times = refused.times.saturating_add(1);
        let last = refused.times >= AGAIN.1;
        refused.again = (!last).then_some(now + AGAIN.0);
        Some((topic, if last { Answer::Refused } else { Answer::NotYet }))
    }

    /// Takes an UNSUBACK in. Returns false if nothing was asked with it.
    pub(super) fn unsubscribed(&mut self, id: NonZeroU16) -> bool {
        let asked = self.unanswered.get(&id) == Some(&Packet::Unsubscribe);
        if asked {
            self.unanswered.remove(&id);
        }
        asked
    }

    /// Returns the time at which a refused topic is to be asked for [`again`](Self::again).
    pub(super) fn due(&self) -> Option<Instant> {
        self.refused.values().filter_map(|refused| refused.again).min()
    }

    /// Returns the SUBSCRIBEs that are due again.
    pub(super) fn again(&mut self, now: Instant) -> SmallVec<[Bytes; 1]> {
        let due = |refused: &mut Refused| refused.again.take_if(|at| *at <= now).is_some();
        let topics: SmallVec<[Box<str>; 1]> = self
            .refused
            .iter_mut()
            .filter_map(|(topic, refused)| due(refused).then(|| topic.clone()))
            .collect();
        topics.iter().filter_map(|topic| self.ask_for(topic)).collect()
    }

    /// Forgets what belonged to a session that is over.
    pub(super) fn session_ended(&mut self) {
        self.unanswered.clear();
        self.refused.clear();
    }

    fn packet(
        &mut self,
        packet: Packet,
        encode: impl FnOnce(NonZeroU16) -> Result<Bytes, mqtt::MqttError>,
    ) -> Option<Bytes> {
        if self.unanswered.len() >= MAX_UNANSWERED {
            return None;
        }
        let id = self.next_packet_id;
        let bytes = encode(id).ok()?;
        self.next_packet_id = id.checked_add(1).unwrap_or(NonZeroU16::MIN);
        self.unanswered.insert(id, packet);
        Some(bytes)
    }
}
