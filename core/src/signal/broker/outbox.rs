//! Messages that wait for a broker, and whether the broker ends sessions at them.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::time::Instant;
use crate::wire::mqtt;

/// Most messages waiting for the broker; a further one is not taken.
pub(super) const MAX_OUTBOX: usize = 64;
/// So many sessions in a row that break where a message was the last that happened are the message's fault.
const MAX_BROKEN: u8 = 2;

#[derive(Default, Debug)]
pub(super) struct Outbox {
    waiting: VecDeque<Outgoing>,
    /// Count of sessions in a row that broke where a message was the last that happened.
    broken: u8,
    /// The same count where something was to be kept. After [`MAX_BROKEN`] nothing is asked to be kept.
    broken_kept: u8,
}

#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) topic: Box<str>,
    pub(super) payload: Bytes,
    /// The broker is to keep it for whoever comes later.
    pub(super) retain: bool,
    /// Time after which the message is of no use.
    pub(super) until: Instant,
}

impl Outbox {
    /// Takes a message. False: the outbox is full.
    pub(super) fn take(&mut self, now: Instant, message: Outgoing) -> bool {
        self.drop_late(now);
        let has_room = self.waiting.len() < MAX_OUTBOX;
        if has_room {
            self.waiting.push_back(message);
        }
        has_room
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Returns true if half of the places are taken.
    pub(super) fn is_crowded(&self) -> bool {
        self.waiting.len() >= MAX_OUTBOX / 2
    }

    /// Drops what is of no use any more.
    pub(super) fn drop_late(&mut self, now: Instant) {
        self.waiting.retain(|message| message.until > now);
    }

    /// Returns the next PUBLISH, and whether something is to be kept.
    pub(super) fn next(&mut self) -> Option<(Bytes, bool)> {
        loop {
            let Outgoing { topic, payload, retain, .. } = self.waiting.pop_front()?;
            let retain = retain && self.broken_kept < MAX_BROKEN;
            if let Ok(packet) = mqtt::publish(&topic, &payload, retain) {
                return Some((packet, retain));
            }
        }
    }

    /// Notes that a session lived on after something was to be kept.
    pub(super) fn keeps(&mut self) {
        self.broken_kept = 0;
    }

    /// Notes the end of a session, and whether a message, or one to be kept, was the last that happened. Returns true if
    /// sessions end at messages.
    pub(super) fn session_ended(&mut self, at_message: bool, at_kept: bool) -> bool {
        self.broken = if at_message { self.broken.saturating_add(1) } else { 0 };
        self.broken_kept += u8::from(at_kept && self.broken_kept < MAX_BROKEN);
        self.broken == MAX_BROKEN
    }
}
