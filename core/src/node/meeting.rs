//! Meetings: their topics at the brokers, and their time.

use core::time::Duration;
use std::collections::BTreeMap;

use super::network::Network;
use super::signalling::Signalling;
use crate::cx::{Cx, Timer};
use crate::event::Event;
use crate::meeting::room::{self, Act, Room};
use crate::meeting::{Code, MAX_MEETINGS, MeetingError, MeetingId};
use crate::pipe::ProtocolTag;

/// Time limit for sending a message to a broker: it is repeated, or its answer is.
const SEND_WITHIN: Duration = Duration::from_secs(2);

/// Longest wait for the other side.
const MEET_WITHIN: Duration = Duration::from_secs(3600);

#[derive(Debug, Default)]
pub(super) struct Meetings {
    all: BTreeMap<MeetingId, Room>,
    next: u32,
}

/// Parts of the node that meetings need.
pub(super) struct Env<'a> {
    pub(super) cx: &'a mut Cx,
    pub(super) network: &'a Network,
    pub(super) signalling: &'a mut Signalling,
}

impl Meetings {
    /// Begins one as the host, or with a code as the guest.
    pub(super) fn begin(
        &mut self,
        env: &mut Env<'_>,
        code: Option<Code>,
        purpose: ProtocolTag,
        within: Duration,
    ) -> Result<MeetingId, MeetingError> {
        if self.all.len() >= MAX_MEETINGS {
            return Err(MeetingError::TooMany);
        }
        if env.signalling.len() == 0 {
            return Err(MeetingError::NoBroker);
        }
        let id = MeetingId(self.next);
        self.next += 1;
        let within = within.min(MEET_WITHIN);
        let (room, acts) = with(env, |env| match code {
            None => Room::host(env, purpose, within),
            Some(code) => Room::join(env, code, purpose, within),
        });
        self.all.insert(id, room);
        self.carry_out(env, id, acts);
        self.drive(env);
        Ok(id)
    }

    /// Ends one without a word.
    pub(super) fn end(&mut self, env: &mut Env<'_>, id: MeetingId) {
        self.step(env, id, Room::end);
        self.drive(env);
    }

    /// Returns true for the topic of a meeting.
    pub(super) fn has(&self, topic: &str) -> bool {
        self.all.values().any(|room| room.topic() == topic)
    }

    /// Handles a broker's answer to a subscription.
    pub(super) fn followed(&mut self, env: &mut Env<'_>, place: u8, topic: &str, granted: bool) {
        if granted {
            self.at(env, topic, |room, env| room.granted(env, place));
        }
    }

    /// Handles a message under the topic of a meeting, which may come from anybody.
    pub(super) fn heard(&mut self, env: &mut Env<'_>, topic: &str, payload: &[u8], kept: bool) {
        if kept {
            // Nothing of ours is retained.
            env.cx.stats.bad_messages += 1;
            return;
        }
        self.at(env, topic, |room, env| room.heard(env, payload));
    }

    /// Goes on with every meeting, as far as it can.
    pub(super) fn drive(&mut self, env: &mut Env<'_>) {
        let ids: Vec<MeetingId> = self.all.keys().copied().collect();
        for id in ids {
            self.step(env, id, Room::drive);
        }
        let next = self.all.values().filter_map(|room| room.next()).min();
        env.cx.timers.set(Timer::Meetings, next);
    }

    pub(super) fn shut(&mut self, env: &mut Env<'_>) {
        let ids: Vec<MeetingId> = self.all.keys().copied().collect();
        for id in ids {
            self.step(env, id, |room, env| room.fail(env, MeetingError::Shutdown));
        }
    }

    /// Does something with every meeting at a topic.
    fn at(&mut self, env: &mut Env<'_>, topic: &str, mut act: impl FnMut(&mut Room, &mut room::Env<'_>)) {
        let there = |(id, room): (&MeetingId, &Room)| (room.topic() == topic).then_some(*id);
        let ids: Vec<MeetingId> = self.all.iter().filter_map(there).collect();
        for id in ids {
            self.step(env, id, &mut act);
        }
        self.drive(env);
    }

    fn step(&mut self, env: &mut Env<'_>, id: MeetingId, act: impl FnOnce(&mut Room, &mut room::Env<'_>)) {
        let Some(room) = self.all.get_mut(&id) else { return };
        let ((), acts) = with(env, |env| act(room, env));
        if room.is_over() {
            self.all.remove(&id);
        }
        self.carry_out(env, id, acts);
    }

    fn carry_out(&mut self, env: &mut Env<'_>, id: MeetingId, acts: Vec<Act>) {
        let until = env.cx.now + SEND_WITHIN;
        for act in acts {
            match act {
                Act::Tell(news) => env.cx.notify(Event::Meeting { meeting: id, news: Box::new(news) }),
                // Another meeting of ours may be there still.
                Act::Unfollow(topic) if self.has(&topic) => {}
                Act::Unfollow(topic) => {
                    env.signalling.sessions_mut().for_each(|broker| broker.unfollow(env.cx, &topic));
                }
                Act::Follow(topic) => {
                    env.signalling.sessions_mut().for_each(|broker| broker.follow(env.cx, &topic));
                }
                Act::Publish(topic, payload, at) => {
                    for (place, broker) in (0..).zip(env.signalling.sessions_mut()) {
                        if broker.is_ready() && at.is_none_or(|at| at == place) {
                            broker.publish_once(env.cx, &topic, payload.clone(), until);
                        }
                    }
                }
            }
        }
    }
}

/// Does something for a room, and returns what it wants done.
fn with<T>(env: &mut Env<'_>, act: impl FnOnce(&mut room::Env<'_>) -> T) -> (T, Vec<Act>) {
    let cx = &mut *env.cx;
    let mut inner = room::Env {
        now: cx.now,
        random: &mut cx.random,
        stats: &mut cx.stats,
        address: env.network.announced(),
        acts: Vec::new(),
    };
    let done = act(&mut inner);
    (done, inner.acts)
}
