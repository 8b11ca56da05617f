//! Names: resolved, registered, kept up and given up, over whatever brokers there are.
//!
//! Long: looking a name up and holding one share the brokers' answers, their rates and their deadlines.

use core::time::Duration;
use std::collections::BTreeMap;

use bytes::Bytes;
use smallvec::SmallVec;

use super::network::Network;
use super::signalling::Signalling;
use crate::address::PeerAddress;
use crate::call::ConnectId;
use crate::config::Plan;
use crate::cx::{Cx, Timer};
use crate::event::{Event, FailReason, Report};
use crate::identity::{NodeId, SecretKey};
use crate::limit::Bucket;
use crate::name::{Found, Name, NameError, NameNews, NamePin, Pins, QUERY, Record};
use crate::signal::broker::Session;
use crate::time::Instant;

/// Most names that are asked for or registered at a time: each is a subscription on each broker, and brokers bound
/// those.
const MAX_NAMES: usize = 24;
/// A search ends at the latest after this long: a look-up, a dial and MQTT's three answers, on a bad day.
const SEARCH_WITHIN: Duration = Duration::from_secs(8);
/// Time until it is said that no broker is there: a session that broke begins anew after a second at most,
/// and at its next address.
const NOBODY_AFTER: Duration = Duration::from_millis(2_500);
/// A broker that keeps something sends it with its SUBACK or right behind; one made of many machines may take longer.
const GRACE: Duration = Duration::from_millis(500);
/// Time to wait for brokers that are silent, down or slow, once the owner has said where an unpinned name leads. The
/// owner's word is the newest there is, and the others may have another's claim. A record that a broker kept may be
/// older than theirs.
const SILENT: Duration = Duration::from_secs(1);
/// A record is valid for a day after it was last published.
const LIFETIME: Duration = Duration::from_secs(86_400);
/// Interval at which a record is published anew, since brokers forget what they keep when they start again.
const REFRESH: Duration = Duration::from_secs(3_600);
/// An address that has changed is published after this long at the earliest.
const MOVE_AFTER: Duration = Duration::from_secs(10);
/// Least delay before the record of another key is overwritten.
const CONTEST_AFTER: Duration = Duration::from_secs(60);
/// A broker that keeps our record sends us a copy of it, within this.
const CONFIRM_WITHIN: Duration = Duration::from_secs(5);
/// Answers to those who ask for our name: so many at once, then one each so often. Each reaches everybody who asks.
const ANSWERS: (u32, Duration) = (8, Duration::from_millis(250));
/// Time limit for sending a message to a broker. It is of no use later.
const SEND_WITHIN: Duration = Duration::from_secs(60);

/// The names that are asked for or held, and the keys that are known.
#[derive(Debug, Default)]
pub(super) struct Names {
    pins: Pins,
    all: BTreeMap<Name, Box<Watch>>,
    /// Calls whose names have been found, until the node begins them.
    found: Vec<(ConnectId, NodeId, Box<PeerAddress>, Plan)>,
}

/// Parts of the node that names need.
pub(super) struct Env<'a> {
    pub(super) cx: &'a mut Cx,
    pub(super) network: &'a Network,
    pub(super) signalling: &'a mut Signalling,
    pub(super) identity: &'a SecretKey,
    /// There is a network, and the node is not shut down.
    pub(super) running: bool,
}

/// A name that we follow.
#[derive(Debug)]
struct Watch {
    topic: Box<str>,
    found: Found,
    /// Answers of the brokers, by their places in the configuration.
    answers: BTreeMap<u8, Answer>,
    /// Beginning of the search that is under way.
    search: Option<Instant>,
    /// Key of the last record in this search that no broker had kept, and that is an owner's answer for that reason.
    answered: Option<NodeId>,
    /// A record came that is of another time than ours.
    stale: bool,
    /// Time of the next look at the name.
    wake: Option<Instant>,
    /// The user wants to know.
    asked: bool,
    /// Calls by this name: when each began, and how it is to proceed.
    calls: BTreeMap<ConnectId, (Instant, Plan)>,
    hold: Option<Hold>,
}

/// Answer of a broker about a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    /// The subscription stands since then; `again` once the name's owner was asked a second time.
    Open { since: Instant, again: bool },
    /// The broker has sent the record that it kept.
    Answered,
    /// The broker refused the subscription.
    Refused,
}

/// Record of a name that this node holds.
#[derive(Debug)]
struct Hold {
    /// The name is to be kept; else it is to be given up.
    keep: bool,
    /// The highest sequence number of ours.
    sequence: u64,
    published: Option<Published>,
    /// Key of another claimant that was seen.
    rival: Option<NodeId>,
    /// The user was told that it is registered.
    told: bool,
    /// The user was told that no broker is there.
    waits: bool,
    answers: Bucket,
}

#[derive(Debug)]
struct Published {
    at: Instant,
    sequence: u64,
    record: Bytes,
    address: Option<PeerAddress>,
    /// The brokers that sent us a copy.
    confirmed: SmallVec<[u8; 4]>,
    /// Another key has overwritten the record.
    contested: bool,
}

/// Next step after a look at a name.
enum Next {
    Nothing,
    /// The name is not needed any more.
    Forget,
}

impl Names {
    /// Asks all brokers where a name leads, and tells the user.
    pub(super) fn resolve(&mut self, env: &mut Env<'_>, name: Name) -> Result<(), NameError> {
        self.watch(name)?.asked = true;
        self.search(env, name);
        Ok(())
    }

    /// Asks all brokers where a name leads, for a call that [`take_found`](Self::take_found) gives then.
    pub(super) fn call(
        &mut self,
        env: &mut Env<'_>,
        name: Name,
        connect: ConnectId,
        plan: Plan,
    ) -> Result<(), NameError> {
        let now = env.cx.now;
        self.watch(name)?.calls.insert(connect, (now, plan));
        self.search(env, name);
        Ok(())
    }

    /// Takes a name for this node, if it is to be kept, or gives it up.
    pub(super) fn hold(&mut self, env: &mut Env<'_>, name: Name, keep: bool) -> Result<(), NameError> {
        let watch = self.watch(name)?;
        let sequence = watch.hold.as_ref().map_or(0, |h| h.sequence);
        let answers = Bucket::new(ANSWERS.0, ANSWERS.1);
        watch.hold =
            Some(Hold { keep, sequence, published: None, rival: None, told: false, waits: false, answers });
        self.search(env, name);
        Ok(())
    }

    /// Takes in which key a name had.
    pub(super) fn pin(&mut self, pin: NamePin) {
        self.pins.restore(pin);
    }

    /// Returns the number of calls that wait for their names.
    pub(super) fn calls(&self) -> usize {
        self.all.values().map(|w| w.calls.len()).sum()
    }

    /// Returns true if there is room for one more name, or this one is there.
    pub(super) fn has_room(&self, name: Name) -> bool {
        self.all.len() < MAX_NAMES || self.all.contains_key(&name)
    }

    /// Takes the calls whose names have been found.
    pub(super) fn take_found(&mut self) -> Vec<(ConnectId, NodeId, Box<PeerAddress>, Plan)> {
        core::mem::take(&mut self.found)
    }

    /// Handles a broker's answer to a subscription: from now on it sends the records of a name, or refuses to.
    pub(super) fn followed(&mut self, env: &mut Env<'_>, place: u8, topic: &str, granted: bool) {
        let now = env.cx.now;
        if let Some((_, watch)) = self.of(topic) {
            let open = Answer::Open { since: now, again: false };
            watch.answers.insert(place, if granted { open } else { Answer::Refused });
            if granted && watch.search.is_none() && watch.hold.as_ref().is_some_and(|h| h.published.is_none())
            {
                // The first broker that is there for a name that waited.
                watch.begin(now);
            }
            let record = watch.hold.as_ref().and_then(|h| h.published.as_ref()).map(|p| p.record.clone());
            if let Some(record) = record.filter(|_| granted)
                && let Some(broker) = env.signalling.session_mut(place)
            {
                broker.publish_kept(env.cx, topic, record, now + SEND_WITHIN);
            }
        }
        self.drive(env);
    }

    /// Handles a message under a name's topic, which may come from anybody.
    pub(super) fn record(&mut self, env: &mut Env<'_>, place: u8, topic: &str, payload: &[u8], kept: bool) {
        let (ours, wall) = (env.identity.node_id(), env.cx.wall());
        let now = env.cx.now;
        let Some((name, watch)) = self.of(topic) else { return };
        if payload == QUERY {
            let hold = watch.hold.as_mut().filter(|h| h.told);
            if let Some(hold) = hold
                && let Some(record) = hold.published.as_ref().map(|p| p.record.clone())
                && let Some(broker) = env.signalling.session_mut(place)
            {
                if hold.answers.take(now) {
                    broker.publish_once(env.cx, topic, record, now + GRACE);
                } else {
                    env.cx.stats.messages_over_limit += 1;
                }
            }
            return;
        }
        if kept {
            watch.answers.insert(place, Answer::Answered);
        }
        match Record::decode(payload) {
            Ok(record) if record.name == name && record.is_current(wall) => {
                if watch.search.is_some() && record.id != ours {
                    watch.answers.insert(place, Answer::Answered);
                }
                if !kept {
                    watch.answered = Some(record.id);
                }
                if let Some(hold) = &mut watch.hold {
                    hold.heard(&record, ours, place);
                }
                let wanted = self.pins.get(name).map_or(ours, |p| p.id);
                if let Some(watch) = self.all.get_mut(&name) {
                    watch.found.add(record, Some(wanted));
                }
            }
            Ok(record) if record.name == name => {
                // Whoever had the time of ours that signed it goes by its number still.
                if let Some(hold) = watch.hold.as_mut().filter(|_| record.id == ours) {
                    hold.sequence = hold.sequence.max(record.sequence);
                }
                watch.stale = true;
                env.cx.stats.stale_messages += 1;
            }
            // An empty message takes away what was kept; whose it was, nobody says.
            _ if payload.is_empty() => {}
            _ => env.cx.stats.bad_messages += 1,
        }
        self.drive(env);
    }

    /// Goes on with every name, as far as it can.
    pub(super) fn drive(&mut self, env: &mut Env<'_>) {
        if !env.running {
            return;
        }
        let names: SmallVec<[Name; 4]> = self.all.keys().copied().collect();
        for name in names {
            if let Some(watch) = self.all.remove(&name) {
                self.look_at(env, name, watch);
            }
        }
        let next = self.all.values().filter_map(|w| w.wake).min();
        env.cx.timers.set(Timer::Names, next);
    }

    /// Repeats, once the clock was put right, the searches that were judged by the wrong one. Records that were
    /// signed for another time are signed anew.
    pub(super) fn anew(&mut self, env: &mut Env<'_>) {
        let names: SmallVec<[Name; 4]> = self.all.keys().copied().collect();
        for name in names {
            if let Some(watch) = self.all.get_mut(&name) {
                watch.search = None;
                if let Some(hold) = &mut watch.hold {
                    hold.published = None;
                }
            }
            self.search(env, name);
        }
    }

    /// A call is given up.
    pub(super) fn cancel(&mut self, env: &mut Env<'_>, connect: ConnectId) {
        let mut given_up = false;
        for watch in self.all.values_mut() {
            given_up |= watch.calls.remove(&connect).is_some();
        }
        if given_up {
            self.drive(env);
        }
    }

    pub(super) fn shut(&mut self, env: &mut Env<'_>) {
        for (name, watch) in core::mem::take(&mut self.all) {
            if watch.asked {
                tell(env.cx, name, NameNews::NotResolved(NameError::Shutdown));
            }
            for (connect, (began, _)) in watch.calls {
                fail(env.cx, connect, began, FailReason::Shutdown);
            }
        }
    }

    /// Returns the watch of a name, which is made if there is none.
    fn watch(&mut self, name: Name) -> Result<&mut Watch, NameError> {
        if !self.has_room(name) {
            return Err(NameError::TooMany);
        }
        Ok(self.all.entry(name).or_insert_with(|| {
            Box::new(Watch {
                topic: name.topic().into(),
                found: Found::default(),
                answers: BTreeMap::new(),
                search: None,
                answered: None,
                stale: false,
                wake: None,
                asked: false,
                calls: BTreeMap::new(),
                hold: None,
            })
        }))
    }

    /// Asks all brokers, unless that is under way already.
    fn search(&mut self, env: &mut Env<'_>, name: Name) {
        if let Some(watch) = self.all.get_mut(&name).filter(|w| w.search.is_none()) {
            let now = env.cx.now;
            watch.begin(now);
            watch.stale = false;
            watch.answers.clear();
            for broker in env.signalling.sessions_mut() {
                broker.follow(env.cx, &watch.topic);
                // A broker that is not there yet is asked as soon as it is.
                let until = now + if broker.is_ready() { GRACE } else { SEARCH_WITHIN };
                broker.publish_once(env.cx, &watch.topic, Bytes::from_static(QUERY), until);
            }
        }
        self.drive(env);
    }

    fn look_at(&mut self, env: &mut Env<'_>, name: Name, mut watch: Box<Watch>) {
        let now = env.cx.now;
        watch.answers.retain(|place, _| env.signalling.is_ready(&[*place]));
        if watch.search.is_some() {
            self.ask_again(env, &mut watch);
        }
        let late: SmallVec<[ConnectId; 2]> = watch
            .calls
            .iter()
            .filter(|(_, (began, plan))| *began + plan.timeout <= now)
            .map(|(id, _)| *id)
            .collect();
        for connect in late {
            if let Some((began, _)) = watch.calls.remove(&connect) {
                fail(env.cx, connect, began, FailReason::DeadlinePassed);
            }
        }
        let awaited = env.network.time_awaited_until(now);
        let doubtful = awaited.is_some() && watch.stale;
        let asks = watch.asked || !watch.calls.is_empty();
        let hopes = asks && watch.answers.is_empty() && env.signalling.sessions().any(|b| b.has_worked());
        // A call waits for a broker that takes streams, and has time to answer then.
        let may_yet = |b: &Session| b.is_unready() || b.may_yet_follow(&watch.topic);
        let unready = !watch.is_heard() && env.signalling.sessions().any(may_yet);
        if unready && !watch.calls.is_empty() {
            watch.search =
                watch.search.map(|since| if since + SEARCH_WITHIN / 2 <= now { now } else { since });
        }
        let early = watch.search.is_some_and(|since| since + NOBODY_AFTER > now);
        let waits = hopes && early || asks && unready;
        let done = (self.is_asked(env, &watch) && !waits) || self.is_certain(env, name, &watch);
        if watch.search.is_some_and(|since| since + SEARCH_WITHIN <= now || (done && !doubtful)) {
            watch.search = None;
            self.searched(env, name, &mut watch);
        }
        // A record made by a clock that is wrong is worth nothing.
        let next = match watch.search {
            None if awaited.is_none() => self.drive_hold(env, name, &mut watch),
            _ => Next::Nothing,
        };
        let needed =
            watch.hold.is_some() || (watch.search.is_some() && (watch.asked || !watch.calls.is_empty()));
        if matches!(next, Next::Nothing) && needed {
            let next = watch.next(now, env.network.announced());
            watch.wake = match awaited {
                Some(until) if watch.search.is_none() => Some(until),
                _ => next.into_iter().chain(awaited).min(),
            };
            self.all.insert(name, watch);
        } else {
            for broker in env.signalling.sessions_mut() {
                broker.unfollow(env.cx, &watch.topic);
            }
        }
    }

    /// Returns true once every broker that can be asked has answered, refused or been silent for `GRACE`.
    fn is_asked(&self, env: &Env<'_>, watch: &Watch) -> bool {
        let now = env.cx.now;
        env.signalling.sessions().enumerate().all(|(n, broker)| match watch.answers.get(&(n as u8)) {
            Some(Answer::Open { since, .. }) => *since + GRACE <= now,
            Some(Answer::Answered | Answer::Refused) => true,
            None => env.signalling.is_settled(n as u8) && !broker.is_ready(),
        })
    }

    /// Returns true once it is known where the name leads, whatever silent brokers have. The key that a pinned name is
    /// pinned to has said so, or, a little later, the only owner of an unpinned name.
    fn is_certain(&self, env: &Env<'_>, name: Name, watch: &Watch) -> bool {
        let lasts = |at_least| watch.search.is_some_and(|since| since + at_least <= env.cx.now);
        match self.pins.get(name) {
            Some(pin) => lasts(GRACE) && watch.found.of(pin.id).is_some_and(|r| r.sequence >= pin.sequence),
            None => {
                let said = |r: &Record| watch.answered == Some(r.id);
                lasts(SILENT) && watch.found.decide(None).is_ok_and(said)
            }
        }
    }

    /// Asks the name's owner once more where nothing has come. In a cluster of brokers a subscription takes its time
    /// to be known everywhere, and the answer may have come before.
    fn ask_again(&mut self, env: &mut Env<'_>, watch: &mut Watch) {
        let now = env.cx.now;
        for (place, state) in &mut watch.answers {
            if let Answer::Open { since, again } = state
                && !*again
                && *since + GRACE / 2 <= now
                && let Some(broker) = env.signalling.session_mut(*place)
            {
                *again = true;
                broker.publish_once(env.cx, &watch.topic, Bytes::from_static(QUERY), now + GRACE);
            }
        }
    }

    /// The search is over: tells who waited for it.
    fn searched(&mut self, env: &mut Env<'_>, name: Name, watch: &mut Watch) {
        if !watch.asked && watch.calls.is_empty() {
            return;
        }
        let outcome = watch.found.decide(self.pins.get(name)).cloned();
        let outcome = outcome.map_err(|why| watch.silence_or(why));
        let outcome = outcome.and_then(|r| {
            let pin = self.pins.learn(name, r.id, r.sequence)?;
            r.address.map(|address| (r.id, address, pin)).ok_or(NameError::Released)
        });
        if let Ok((_, _, Some(pin))) = &outcome {
            tell(env.cx, name, NameNews::Pinned { id: pin.id, sequence: pin.sequence });
        }
        if core::mem::take(&mut watch.asked) {
            let news = match &outcome {
                Ok((_, address, _)) => NameNews::Resolved(address.clone()),
                Err(why) => NameNews::NotResolved(*why),
            };
            tell(env.cx, name, news);
        }
        for (connect, (began, mut plan)) in core::mem::take(&mut watch.calls) {
            match &outcome {
                Ok((id, address, _)) => {
                    plan.timeout = plan.timeout.saturating_sub(env.cx.now.since(began));
                    self.found.push((connect, *id, address.clone(), plan));
                }
                Err(why) => fail(env.cx, connect, began, FailReason::Name(*why)),
            }
        }
    }

    /// Goes on with our own record, after a search.
    fn drive_hold(&mut self, env: &mut Env<'_>, name: Name, watch: &mut Watch) -> Next {
        let ours = env.identity.node_id();
        let now = env.cx.now;
        let pin = self.pins.get(name);
        let silence = watch.silence_or(NameError::NotFound);
        let Some(hold) = &mut watch.hold else { return Next::Nothing };
        let Some(published) = &hold.published else {
            let own = watch.found.of(ours);
            let known = own.is_some_and(|r| r.address.is_some()) || pin.is_some_and(|p| p.id == ours);
            let refusal = match (watch.found.other_than(ours), pin) {
                // What was registered stays so while brokers are away, and what is to be registered waits for one.
                _ if silence == NameError::NoBroker && hold.told => return Next::Nothing,
                _ if silence == NameError::NoBroker && hold.keep && env.signalling.len() > 0 => {
                    if !core::mem::replace(&mut hold.waits, true) {
                        tell(env.cx, name, NameNews::Waiting);
                    }
                    return Next::Nothing;
                }
                _ if silence == NameError::NoBroker => Some(NameError::NoBroker),
                _ if !hold.keep => own.is_none().then_some(NameError::NotFound),
                (_, Some(pin)) if pin.id != ours => Some(NameError::OtherKey { pinned: pin.id, found: ours }),
                (Some(by), _) if !known => Some(NameError::Taken { by }),
                _ => None,
            };
            if let Some(why) = refusal {
                tell(env.cx, name, NameNews::NotRegistered(why));
                return Next::Forget;
            }
            let seen = own.map_or(0, |r| r.sequence).max(pin.map_or(0, |p| p.sequence));
            hold.sequence = hold.sequence.max(seen);
            // Until our address is settled there is nothing to say.
            if !hold.keep || env.network.announced().is_some() {
                self.publish(env, name, watch);
            }
            return Next::Nothing;
        };
        let withdrawn = |r: &Record| r.address.is_none() && r.sequence > published.sequence;
        if hold.keep && watch.found.of(ours).is_some_and(withdrawn) {
            tell(env.cx, name, NameNews::NotRegistered(NameError::Released));
            return Next::Forget;
        }
        if !hold.told {
            let followed = watch.answers.values().filter(|p| **p != Answer::Refused).count();
            if published.confirmed.len() < followed.max(1) && now < published.at + CONFIRM_WITHIN {
                return Next::Nothing;
            }
            let brokers = published.confirmed.len() as u8;
            let (keep, sequence) = (hold.keep, hold.sequence);
            hold.told = true;
            if brokers == 0 {
                let why =
                    watch.found.other_than(ours).map_or(NameError::Refused, |by| NameError::Taken { by });
                tell(env.cx, name, NameNews::NotRegistered(why));
                return Next::Forget;
            }
            if let Ok(Some(pin)) = self.pins.learn(name, ours, sequence) {
                tell(env.cx, name, NameNews::Pinned { id: pin.id, sequence: pin.sequence });
            }
            if !keep {
                tell(env.cx, name, NameNews::Released { brokers });
                return Next::Forget;
            }
            tell(env.cx, name, NameNews::Registered { brokers });
            return Next::Nothing;
        }
        if published.contested
            && let Some(by) = watch.found.other_than(ours)
            && hold.rival != Some(by)
        {
            hold.rival = Some(by);
            tell(env.cx, name, NameNews::Contested { by });
        }
        if published.due(env.network.announced()) <= now {
            self.publish(env, name, watch);
        }
        Next::Nothing
    }

    /// Makes a new record of our own and sends it to all brokers that are there.
    fn publish(&mut self, env: &mut Env<'_>, name: Name, watch: &mut Watch) {
        let Some(hold) = &mut watch.hold else { return };
        let now = env.cx.now;
        let wall = u64::try_from(env.cx.wall().as_micros() / 1_000_000).unwrap_or(0);
        let address = env.network.announced().cloned().filter(|_| hold.keep);
        // No two records of a key have one number, and a key file without the rest of its folder finds one that is high
        // enough.
        hold.sequence = hold.sequence.saturating_add(1).max(wall);
        let record = Record {
            name,
            id: env.identity.node_id(),
            sequence: hold.sequence,
            expiry: wall.saturating_add(LIFETIME.as_secs()),
            address: address.clone().map(Box::new),
        };
        let record = record.encode(env.identity);
        for (place, state) in &watch.answers {
            if *state != Answer::Refused
                && let Some(broker) = env.signalling.session_mut(*place)
            {
                broker.publish_kept(env.cx, &watch.topic, record.clone(), now + SEND_WITHIN);
            }
        }
        let confirmed = SmallVec::new();
        hold.published = Some(Published {
            at: now,
            sequence: hold.sequence,
            record,
            address,
            confirmed,
            contested: false,
        });
    }

    /// The name with this topic, if it is followed.
    fn of(&mut self, topic: &str) -> Option<(Name, &mut Watch)> {
        self.all.iter_mut().find(|(_, w)| &*w.topic == topic).map(|(name, watch)| (*name, &mut **watch))
    }
}

impl Watch {
    /// Begins a search.
    fn begin(&mut self, now: Instant) {
        self.search = Some(now);
        self.found = Found::default();
        self.answered = None;
    }

    /// Returns `why`, or `NoBroker` if nothing was found because no broker answered.
    fn silence_or(&self, why: NameError) -> NameError {
        if why == NameError::NotFound && !self.is_heard() { NameError::NoBroker } else { why }
    }

    /// Returns true if a broker sends us the records of the name.
    fn is_heard(&self) -> bool {
        self.answers.values().any(|place| *place != Answer::Refused)
    }

    /// Returns the time of the next step that needs no event.
    fn next(&self, now: Instant, announced: Option<&PeerAddress>) -> Option<Instant> {
        if let Some(since) = self.search {
            let answers = self.answers.values().filter_map(|place| match place {
                Answer::Open { since, again: false } => Some(*since + GRACE / 2),
                Answer::Open { since, again: true } => Some(*since + GRACE),
                Answer::Answered | Answer::Refused => None,
            });
            let steps =
                [GRACE, SILENT, NOBODY_AFTER, SEARCH_WITHIN / 2, SEARCH_WITHIN].map(|after| since + after);
            let soon = answers.chain(steps).filter(|at| *at > now);
            let calls = self.calls.values().map(|(began, plan)| *began + plan.timeout);
            return soon.chain(calls).min();
        }
        let hold = self.hold.as_ref()?;
        let published = hold.published.as_ref()?;
        Some(if hold.told { published.due(announced) } else { published.at + CONFIRM_WITHIN })
    }
}

impl Hold {
    /// A valid record of the name came in from this broker.
    fn heard(&mut self, record: &Record, ours: NodeId, place: u8) {
        if record.id != ours {
            if let Some(published) = &mut self.published {
                published.contested |= record.address.is_some();
            }
            return;
        }
        // Another process with our key counts on from where we are, and we from where it is.
        self.sequence = self.sequence.max(record.sequence);
        if let Some(published) = &mut self.published
            && published.sequence == record.sequence
            && !published.confirmed.contains(&place)
        {
            published.confirmed.push(place);
        }
    }
}

impl Published {
    /// Returns the time at which the record is to be published anew.
    fn due(&self, announced: Option<&PeerAddress>) -> Instant {
        let moved = announced.is_some() && self.address.as_ref() != announced;
        let mut due = self.at + REFRESH;
        if self.contested {
            due = due.min(self.at + CONTEST_AFTER);
        }
        if moved {
            due = due.min(self.at + MOVE_AFTER);
        }
        due
    }
}

fn tell(cx: &mut Cx, name: Name, news: NameNews) {
    cx.notify(Event::Name { name, news: Box::new(news) });
}

fn fail(cx: &mut Cx, connect: ConnectId, began: Instant, reason: FailReason) {
    let report = Report { elapsed: cx.now.since(began), strategies: SmallVec::new(), advice: None };
    cx.notify(Event::Failed { connect, reason, report: Box::new(report) });
}
