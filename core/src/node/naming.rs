//! Names: resolved, registered, kept up and given up, over whatever brokers there are.

use core::time::Duration;
use std::collections::BTreeMap;

use bytes::Bytes;
use smallvec::SmallVec;

use super::{ConnectError, MAX_CONNECTS, Node, Phase};
use crate::address::PeerAddress;
use crate::config::Plan;
use crate::cx::Timer;
use crate::identity::NodeId;
use crate::limit::Bucket;
use crate::name::{Found, Name, NameError, NameNews, NamePin, Pins, QUERY, Record};
use crate::notice::{ConnectId, FailReason, Notice, Report};
use crate::signal::broker::Session;
use crate::time::Instant;

/// Most names that are asked for or registered at a time: each is a subscription on each broker, and brokers bound
/// those.
const MAX_NAMES: usize = 24;
/// A search ends at the latest after this long: a look-up, a dial and MQTT's three answers, on a bad day.
const SEARCH_WITHIN: Duration = Duration::from_secs(8);
/// That no broker is there is said after this long at the earliest: a session that broke begins anew after a second at most,
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
}

/// A name that we follow.
#[derive(Debug)]
struct Watch {
    topic: Box<str>,
    found: Found,
    places: BTreeMap<u8, Place>,
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
enum Place {
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

impl Node {
    /// Asks all brokers where a name leads. [`NameNews::Resolved`] or [`NameNews::NotResolved`] follows, after 8 s at
    /// the latest; usually after two round trips and, where a broker has nothing, half a second. A silent broker is
    /// waited for while only records kept by other brokers were found. Otherwise the wait is half a second for a
    /// pinned name, and one second for another.
    ///
    /// # Errors
    /// `TooMany` where 24 names are asked for or held, `Shutdown`.
    pub fn resolve(&mut self, now: Instant, name: Name) -> Result<(), NameError> {
        let watch = self.watch(now, name)?;
        watch.asked = true;
        self.search(name);
        Ok(())
    }

    /// Begins to open a pipe to whoever has a name. As [`connect`](Self::connect), where the plan's time includes that
    /// of finding the address, and [`FailReason::Name`] says that there is none.
    ///
    /// # Errors
    /// The reasons for which nothing was begun.
    pub fn connect_name(&mut self, now: Instant, name: Name, plan: Plan) -> Result<ConnectId, ConnectError> {
        if plan.strategies.is_empty() {
            return Err(ConnectError::EmptyPlan);
        }
        let calls: usize = self.names.all.values().map(|w| w.calls.len()).sum();
        if self.attempts.len() + calls >= MAX_CONNECTS {
            return Err(ConnectError::TooMany);
        }
        self.watch(now, name).map_err(|why| match why {
            NameError::Shutdown => ConnectError::Shutdown,
            _ => ConnectError::TooMany,
        })?;
        let id = self.fresh_connect();
        let now = self.cx.now;
        if let Some(watch) = self.names.all.get_mut(&name) {
            watch.calls.insert(id, (now, plan));
        }
        self.search(name);
        Ok(id)
    }

    /// Takes a name for this node and keeps it up while the node runs. A signed record is published on all brokers, and
    /// anew each hour, when the address changes, and when a broker comes back. Whoever asks over a broker is told the
    /// record too.
    /// [`NameNews::Registered`] or [`NameNews::NotRegistered`] follows; the latter ends the registration, also later.
    /// [`NameNews::Waiting`] comes before where no broker is there. The record is valid for a day after the node has
    /// ended, unless it is [`release`](Self::release)d.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub fn register(&mut self, now: Instant, name: Name) -> Result<(), NameError> {
        self.hold(now, name, true)
    }

    /// Gives a name up that this node's key has, whether it was registered by this process or another.
    /// [`NameNews::Released`] or [`NameNews::NotRegistered`] follows.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub fn release(&mut self, now: Instant, name: Name) -> Result<(), NameError> {
        self.hold(now, name, false)
    }

    /// Tells the node which key a name had, as [`NameNews::Pinned`] said it in an earlier run. The first key that the
    /// node hears of stays.
    pub fn pin_name(&mut self, now: Instant, pin: NamePin) {
        self.advance(now);
        self.names.pins.restore(pin);
    }

    fn hold(&mut self, now: Instant, name: Name, keep: bool) -> Result<(), NameError> {
        let watch = self.watch(now, name)?;
        let sequence = watch.hold.as_ref().map_or(0, |h| h.sequence);
        let answers = Bucket::new(ANSWERS.0, ANSWERS.1);
        watch.hold =
            Some(Hold { keep, sequence, published: None, rival: None, told: false, waits: false, answers });
        self.search(name);
        Ok(())
    }

    /// Returns the watch of a name, which is made if there is none.
    fn watch(&mut self, now: Instant, name: Name) -> Result<&mut Watch, NameError> {
        self.advance(now);
        if self.is_shut() {
            return Err(NameError::Shutdown);
        }
        if self.names.all.len() >= MAX_NAMES && !self.names.all.contains_key(&name) {
            return Err(NameError::TooMany);
        }
        Ok(self.names.all.entry(name).or_insert_with(|| {
            Box::new(Watch {
                topic: name.topic().into(),
                found: Found::default(),
                places: BTreeMap::new(),
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
    fn search(&mut self, name: Name) {
        if let Some(watch) = self.names.all.get_mut(&name).filter(|w| w.search.is_none()) {
            let now = self.cx.now;
            watch.begin(now);
            watch.stale = false;
            watch.places.clear();
            for broker in &mut self.brokers {
                broker.follow(&mut self.cx, &watch.topic);
                // A broker that is not there yet is asked as soon as it is.
                let until = now + if broker.is_ready() { GRACE } else { SEARCH_WITHIN };
                broker.publish_once(&mut self.cx, &watch.topic, Bytes::from_static(QUERY), until);
            }
        }
        self.drive_names();
        self.settle();
    }

    /// Handles a broker's answer to a subscription: from now on it sends the records of a name, or refuses to.
    pub(super) fn name_followed(&mut self, place: u8, topic: &str, granted: bool) {
        let now = self.cx.now;
        if let Some((_, watch)) = self.names.of(topic) {
            let open = Place::Open { since: now, again: false };
            watch.places.insert(place, if granted { open } else { Place::Refused });
            if granted && watch.search.is_none() && watch.hold.as_ref().is_some_and(|h| h.published.is_none())
            {
                // The first broker that is there for a name that waited.
                watch.begin(now);
            }
            let record = watch.hold.as_ref().and_then(|h| h.published.as_ref()).map(|p| p.record.clone());
            if let Some(record) = record.filter(|_| granted)
                && let Some(broker) = self.brokers.get_mut(usize::from(place))
            {
                broker.publish_kept(&mut self.cx, topic, record, now + SEND_WITHIN);
            }
        }
        self.drive_names();
    }

    /// Handles a message under a name's topic, which may come from anybody.
    pub(super) fn name_record(&mut self, place: u8, topic: &str, payload: &[u8], kept: bool) {
        let (ours, wall) = (self.node_id(), self.cx.wall());
        let now = self.cx.now;
        let Some((name, watch)) = self.names.of(topic) else { return };
        if payload == QUERY {
            let hold = watch.hold.as_mut().filter(|h| h.told);
            if let Some(hold) = hold
                && let Some(record) = hold.published.as_ref().map(|p| p.record.clone())
                && let Some(broker) = self.brokers.get_mut(usize::from(place))
            {
                if hold.answers.take(now) {
                    broker.publish_once(&mut self.cx, topic, record, now + GRACE);
                } else {
                    self.cx.stats.messages_over_limit += 1;
                }
            }
            return;
        }
        if kept {
            watch.places.insert(place, Place::Answered);
        }
        match Record::decode(payload) {
            Ok(record) if record.name == name && record.is_current(wall) => {
                if watch.search.is_some() && record.id != ours {
                    watch.places.insert(place, Place::Answered);
                }
                if !kept {
                    watch.answered = Some(record.id);
                }
                if let Some(hold) = &mut watch.hold {
                    hold.heard(&record, ours, place);
                }
                let wanted = self.names.pins.get(name).map_or(ours, |p| p.id);
                if let Some(watch) = self.names.all.get_mut(&name) {
                    watch.found.add(record, Some(wanted));
                }
            }
            Ok(record) if record.name == name => {
                // Whoever had the time of ours that signed it goes by its number still.
                if let Some(hold) = watch.hold.as_mut().filter(|_| record.id == ours) {
                    hold.sequence = hold.sequence.max(record.sequence);
                }
                watch.stale = true;
                self.cx.stats.stale_messages += 1;
            }
            // An empty message takes away what was kept; whose it was, nobody says.
            _ if payload.is_empty() => {}
            _ => self.cx.stats.bad_messages += 1,
        }
        self.drive_names();
    }

    /// Goes on with every name, as far as it can.
    pub(super) fn drive_names(&mut self) {
        if self.phase != Phase::Running {
            return;
        }
        let names: SmallVec<[Name; 4]> = self.names.all.keys().copied().collect();
        for name in names {
            if let Some(watch) = self.names.all.remove(&name) {
                self.drive_name(name, watch);
            }
        }
        let next = self.names.all.values().filter_map(|w| w.wake).min();
        self.cx.timers.set(Timer::Names, next);
    }

    /// Repeats, once the clock was put right, the searches that were judged by the wrong one. Records that were
    /// signed for another time are signed anew.
    pub(super) fn names_anew(&mut self) {
        let names: SmallVec<[Name; 4]> = self.names.all.keys().copied().collect();
        for name in names {
            if let Some(watch) = self.names.all.get_mut(&name) {
                watch.search = None;
                if let Some(hold) = &mut watch.hold {
                    hold.published = None;
                }
            }
            self.search(name);
        }
    }

    /// A call is given up.
    pub(super) fn cancel_name(&mut self, connect: ConnectId) {
        let mut given_up = false;
        for watch in self.names.all.values_mut() {
            given_up |= watch.calls.remove(&connect).is_some();
        }
        if given_up {
            self.drive_names();
        }
    }

    pub(super) fn shut_names(&mut self) {
        for (name, watch) in core::mem::take(&mut self.names.all) {
            if watch.asked {
                self.name_news(name, NameNews::NotResolved(NameError::Shutdown));
            }
            for (connect, (began, _)) in watch.calls {
                self.fail_name(connect, began, FailReason::Shutdown);
            }
        }
    }

    fn drive_name(&mut self, name: Name, mut watch: Box<Watch>) {
        let now = self.cx.now;
        watch.places.retain(|place, _| self.brokers.get(usize::from(*place)).is_some_and(|b| b.is_ready()));
        if watch.search.is_some() {
            self.ask_again(&mut watch);
        }
        let late: SmallVec<[ConnectId; 2]> = watch
            .calls
            .iter()
            .filter(|(_, (began, plan))| *began + plan.timeout <= now)
            .map(|(id, _)| *id)
            .collect();
        for connect in late {
            if let Some((began, _)) = watch.calls.remove(&connect) {
                self.fail_name(connect, began, FailReason::DeadlinePassed);
            }
        }
        let awaited = self.time.awaited_until(now);
        let doubtful = awaited.is_some() && watch.stale;
        let asks = watch.asked || !watch.calls.is_empty();
        let hopes = asks && watch.places.is_empty() && self.brokers.iter().any(|b| b.has_worked());
        // A call waits for a broker that takes streams, and has time to answer then.
        let may_yet = |b: &Session| b.is_unready() || b.may_yet_follow(&watch.topic);
        let unready = !watch.is_heard() && self.brokers.iter().any(may_yet);
        if unready && !watch.calls.is_empty() {
            watch.search =
                watch.search.map(|since| if since + SEARCH_WITHIN / 2 <= now { now } else { since });
        }
        let early = watch.search.is_some_and(|since| since + NOBODY_AFTER > now);
        let waits = hopes && early || asks && unready;
        let done = (self.is_asked(&watch) && !waits) || self.is_certain(name, &watch);
        if watch.search.is_some_and(|since| since + SEARCH_WITHIN <= now || (done && !doubtful)) {
            watch.search = None;
            self.searched(name, &mut watch);
        }
        // A record made by a clock that is wrong is worth nothing.
        let next = match watch.search {
            None if awaited.is_none() => self.drive_hold(name, &mut watch),
            _ => Next::Nothing,
        };
        let needed =
            watch.hold.is_some() || (watch.search.is_some() && (watch.asked || !watch.calls.is_empty()));
        if matches!(next, Next::Nothing) && needed {
            let next = watch.next(now, self.announced.as_ref());
            watch.wake = match awaited {
                Some(until) if watch.search.is_none() => Some(until),
                _ => next.into_iter().chain(awaited).min(),
            };
            self.names.all.insert(name, watch);
        } else {
            for broker in &mut self.brokers {
                broker.unfollow(&mut self.cx, &watch.topic);
            }
        }
    }

    /// Returns true once every broker that can be asked has answered, refused or been silent for `GRACE`.
    fn is_asked(&self, watch: &Watch) -> bool {
        let now = self.cx.now;
        self.brokers.iter().enumerate().all(|(n, broker)| match watch.places.get(&(n as u8)) {
            Some(Place::Open { since, .. }) => *since + GRACE <= now,
            Some(Place::Answered | Place::Refused) => true,
            None => self.brokers_settled[n] && !broker.is_ready(),
        })
    }

    /// Returns true once it is known where the name leads, whatever silent brokers have. The key that a pinned name is
    /// pinned to has said so, or, a little later, the only owner of an unpinned name.
    fn is_certain(&self, name: Name, watch: &Watch) -> bool {
        let lasts = |at_least| watch.search.is_some_and(|since| since + at_least <= self.cx.now);
        match self.names.pins.get(name) {
            Some(pin) => lasts(GRACE) && watch.found.of(pin.id).is_some_and(|r| r.sequence >= pin.sequence),
            None => {
                let said = |r: &Record| watch.answered == Some(r.id);
                lasts(SILENT) && watch.found.decide(None).is_ok_and(said)
            }
        }
    }

    /// Asks the name's owner once more where nothing has come. In a cluster of brokers a subscription takes its time
    /// to be known everywhere, and the answer may have come before.
    fn ask_again(&mut self, watch: &mut Watch) {
        let now = self.cx.now;
        for (place, state) in &mut watch.places {
            if let Place::Open { since, again } = state
                && !*again
                && *since + GRACE / 2 <= now
                && let Some(broker) = self.brokers.get_mut(usize::from(*place))
            {
                *again = true;
                broker.publish_once(&mut self.cx, &watch.topic, Bytes::from_static(QUERY), now + GRACE);
            }
        }
    }

    /// The search is over: tells who waited for it.
    fn searched(&mut self, name: Name, watch: &mut Watch) {
        if !watch.asked && watch.calls.is_empty() {
            return;
        }
        let outcome = watch.found.decide(self.names.pins.get(name)).cloned();
        let outcome = outcome.map_err(|why| watch.silence_or(why));
        let outcome = outcome.and_then(|r| {
            let pin = self.names.pins.learn(name, r.id, r.sequence)?;
            r.address.map(|address| (r.id, address, pin)).ok_or(NameError::Released)
        });
        if let Ok((_, _, Some(pin))) = &outcome {
            self.name_news(name, NameNews::Pinned { id: pin.id, sequence: pin.sequence });
        }
        if core::mem::take(&mut watch.asked) {
            let news = match &outcome {
                Ok((_, address, _)) => NameNews::Resolved(address.clone()),
                Err(why) => NameNews::NotResolved(*why),
            };
            self.name_news(name, news);
        }
        for (connect, (began, mut plan)) in core::mem::take(&mut watch.calls) {
            match &outcome {
                Ok((id, address, _)) => {
                    plan.timeout = plan.timeout.saturating_sub(self.cx.now.since(began));
                    self.begin(connect, *id, address, plan);
                }
                Err(why) => self.fail_name(connect, began, FailReason::Name(*why)),
            }
        }
    }

    /// Goes on with our own record, after a search.
    fn drive_hold(&mut self, name: Name, watch: &mut Watch) -> Next {
        let ours = self.node_id();
        let now = self.cx.now;
        let pin = self.names.pins.get(name);
        let silence = watch.silence_or(NameError::NotFound);
        let Some(hold) = &mut watch.hold else { return Next::Nothing };
        let Some(published) = &hold.published else {
            let own = watch.found.of(ours);
            let known = own.is_some_and(|r| r.address.is_some()) || pin.is_some_and(|p| p.id == ours);
            let refusal = match (watch.found.other_than(ours), pin) {
                // What was registered stays so while brokers are away, and what is to be registered waits for one.
                _ if silence == NameError::NoBroker && hold.told => return Next::Nothing,
                _ if silence == NameError::NoBroker && hold.keep && !self.brokers.is_empty() => {
                    if !core::mem::replace(&mut hold.waits, true) {
                        self.name_news(name, NameNews::Waiting);
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
                self.name_news(name, NameNews::NotRegistered(why));
                return Next::Forget;
            }
            let seen = own.map_or(0, |r| r.sequence).max(pin.map_or(0, |p| p.sequence));
            hold.sequence = hold.sequence.max(seen);
            // Until our address is settled there is nothing to say.
            if !hold.keep || self.announced.is_some() {
                self.publish_name(name, watch);
            }
            return Next::Nothing;
        };
        let withdrawn = |r: &Record| r.address.is_none() && r.sequence > published.sequence;
        if hold.keep && watch.found.of(ours).is_some_and(withdrawn) {
            self.name_news(name, NameNews::NotRegistered(NameError::Released));
            return Next::Forget;
        }
        if !hold.told {
            let followed = watch.places.values().filter(|p| **p != Place::Refused).count();
            if published.confirmed.len() < followed.max(1) && now < published.at + CONFIRM_WITHIN {
                return Next::Nothing;
            }
            let brokers = published.confirmed.len() as u8;
            let (keep, sequence) = (hold.keep, hold.sequence);
            hold.told = true;
            if brokers == 0 {
                let why =
                    watch.found.other_than(ours).map_or(NameError::Refused, |by| NameError::Taken { by });
                self.name_news(name, NameNews::NotRegistered(why));
                return Next::Forget;
            }
            if let Ok(Some(pin)) = self.names.pins.learn(name, ours, sequence) {
                self.name_news(name, NameNews::Pinned { id: pin.id, sequence: pin.sequence });
            }
            if !keep {
                self.name_news(name, NameNews::Released { brokers });
                return Next::Forget;
            }
            self.name_news(name, NameNews::Registered { brokers });
            return Next::Nothing;
        }
        if published.contested
            && let Some(by) = watch.found.other_than(ours)
            && hold.rival != Some(by)
        {
            hold.rival = Some(by);
            self.name_news(name, NameNews::Contested { by });
        }
        if published.due(self.announced.as_ref()) <= now {
            self.publish_name(name, watch);
        }
        Next::Nothing
    }

    /// Makes a new record of our own and sends it to all brokers that are there.
    fn publish_name(&mut self, name: Name, watch: &mut Watch) {
        let Some(hold) = &mut watch.hold else { return };
        let now = self.cx.now;
        let wall = u64::try_from(self.cx.wall().as_micros() / 1_000_000).unwrap_or(0);
        let address = self.announced.clone().filter(|_| hold.keep);
        // No two records of a key have one number, and a key file without the rest of its folder finds one that is high
        // enough.
        hold.sequence = hold.sequence.saturating_add(1).max(wall);
        let record = Record {
            name,
            id: self.config.identity.node_id(),
            sequence: hold.sequence,
            expiry: wall.saturating_add(LIFETIME.as_secs()),
            address: address.clone().map(Box::new),
        };
        let record = record.encode(&self.config.identity);
        for (place, state) in &watch.places {
            if *state != Place::Refused
                && let Some(broker) = self.brokers.get_mut(usize::from(*place))
            {
                broker.publish_kept(&mut self.cx, &watch.topic, record.clone(), now + SEND_WITHIN);
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

    fn name_news(&mut self, name: Name, news: NameNews) {
        self.cx.notify(Notice::Name { name, news: Box::new(news) });
    }

    fn fail_name(&mut self, connect: ConnectId, began: Instant, reason: FailReason) {
        let report = Report { elapsed: self.cx.now.since(began), strategies: SmallVec::new(), advice: None };
        self.cx.notify(Notice::Failed { connect, reason, report: Box::new(report) });
    }
}

impl Names {
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
        self.places.values().any(|place| *place != Place::Refused)
    }

    /// Returns the time of the next step that needs no event.
    fn next(&self, now: Instant, announced: Option<&PeerAddress>) -> Option<Instant> {
        if let Some(since) = self.search {
            let answers = self.places.values().filter_map(|place| match place {
                Place::Open { since, again: false } => Some(*since + GRACE / 2),
                Place::Open { since, again: true } => Some(*since + GRACE),
                Place::Answered | Place::Refused => None,
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
