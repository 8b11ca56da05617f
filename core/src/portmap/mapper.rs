//! All ways together, and the choice of the mapping that is kept, renewed or removed.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use super::gateway::Gateway;
use super::upnp::Upnp;
use super::{
    Ask, Config, Event, MAX_MAPPINGS, MapError, MapId, Out, Protocol, Refused, Reply, Request, Stats,
    StreamId, Truth, Way,
};
use crate::random::{Domain, Random};
use crate::time::Instant;

/// Pause after all ways failed.
const TRY_AGAIN: Duration = Duration::from_secs(300);
/// Shortest pause before a failed renewal is tried again; the pause is half of the rest of the lease.
const SHORTEST: Duration = Duration::from_secs(1);
/// Interval at which a mapping without end is asked for again, in case the router forgot it.
const REFRESH: Duration = Duration::from_secs(3600);
/// Longest lease that is believed: one day, as long as RFC 6887 section 15 lets servers grant.
const LONGEST: u32 = 86_400;
/// Longest time of a shutdown, however slow the routers are.
const CLOSE_WITHIN: Duration = Duration::from_secs(6);

/// Opens ports for one address of ours.
#[derive(Debug)]
pub struct Mapper {
    out: Out,
    gateway: Option<Gateway>,
    upnp: Option<Upnp>,
    entries: BTreeMap<MapId, Entry>,
    next: u32,
    lifetime: u32,
    /// Address that STUN saw.
    seen: Option<IpAddr>,
    events: VecDeque<Event>,
    closing: Closing,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Closing {
    No,
    /// Waits for answers until this time.
    By(Instant),
    Done,
}

#[derive(Debug)]
struct Entry {
    ask: Ask,
    state: State,
    gateway: Leg,
    upnp: Leg,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// No mapping yet.
    Trying,
    Mapped(Held),
    /// All ways failed.
    Waiting {
        until: Instant,
    },
    Removing {
        confirmed: bool,
        /// Protocol that held the mapping.
        held: Option<Way>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Held {
    way: Way,
    external: SocketAddr,
    truth: Truth,
    renew: Instant,
    expires: Option<Instant>,
}

/// State of one way to a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Leg {
    /// No mapping is out there.
    Idle(Option<MapError>),
    Asking,
    Holds,
    Removing,
}

impl Mapper {
    /// Returns a mapper that has done nothing yet. The seed must never have been used before: nonces come of it.
    pub fn new(config: Config, seed: [u8; 32], now: Instant) -> Self {
        let usable = !config.local.is_loopback() && !config.local.is_unspecified();
        Mapper {
            out: Out {
                now,
                random: Random::new(seed),
                requests: VecDeque::new(),
                replies: VecDeque::new(),
                stats: Stats::default(),
            },
            gateway: Some(&config).filter(|_| usable).and_then(Gateway::new),
            entries: BTreeMap::new(),
            next: 0,
            lifetime: u32::try_from(config.lifetime.as_secs()).unwrap_or(LONGEST).clamp(1, LONGEST),
            seen: None,
            upnp: (usable && config.upnp).then(|| Upnp::new(config)),
            events: VecDeque::new(),
            closing: Closing::No,
        }
    }

    /// Opens a port that leads to `internal`, with `external` outside if that can be had, else another one.
    /// [`Event::Mapped`] or [`Event::Failed`] follows, the latter after 7.75 s where nobody answers. Each step of a
    /// UPnP device may take 3 s. A mapping that exists or is tried already is not asked for again.
    ///
    /// # Errors
    /// Reason that the mapping is not tried.
    pub fn map(
        &mut self,
        now: Instant,
        protocol: Protocol,
        internal: u16,
        external: u16,
    ) -> Result<MapId, Refused> {
        self.tick(now);
        let same = |e: &&Entry| (e.ask.protocol, e.ask.internal) == (protocol, internal) && !e.is_removing();
        if let Some(entry) = self.entries.values().find(same) {
            return Ok(entry.ask.id);
        }
        let id = self.admit(internal, external)?;
        let nonce = self.out.random.bytes(Domain::PortMapping);
        let ask = Ask { id, protocol, internal, external, nonce, lifetime: self.lifetime };
        let idle = Leg::Idle(None);
        self.entries.insert(id, Entry { ask, state: State::Trying, gateway: idle, upnp: idle });
        self.try_all(id);
        self.take_replies();
        Ok(id)
    }

    /// Takes a mapping back; [`Event::Removed`] follows.
    pub fn unmap(&mut self, now: Instant, id: MapId) {
        self.tick(now);
        self.remove(id);
        self.take_replies();
    }

    /// Takes back a mapping that another mapper may have made for us and left. `port` is the internal port for NAT-PMP,
    /// and the external one for UPnP. PCP lets nobody but the maker do so. [`Event::Removed`] follows. The event is
    /// confirmed if all ways that were tried say that there is no such mapping now.
    ///
    /// # Errors
    /// Reason that the mapping is not tried.
    pub fn forget(&mut self, now: Instant, protocol: Protocol, port: u16) -> Result<MapId, Refused> {
        self.tick(now);
        let id = self.admit(port, port)?;
        let ask = Ask { id, protocol, internal: port, external: port, nonce: [0; 12], lifetime: 0 };
        let state = State::Removing { confirmed: true, held: None };
        let mut entry = Entry { ask, state, gateway: Leg::Idle(None), upnp: Leg::Idle(None) };
        if let Some(gateway) = self.gateway.as_mut().filter(|g| !g.is_pcp()) {
            entry.gateway = Leg::Removing;
            gateway.remove(&mut self.out, ask);
        }
        if let Some(upnp) = &mut self.upnp {
            entry.upnp = Leg::Removing;
            upnp.forget(&mut self.out, ask);
        }
        self.entries.insert(id, entry);
        self.conclude(id);
        self.take_replies();
        Ok(id)
    }

    /// Reads a UPnP device's table of mappings: [`Event::Listed`] for each and [`Event::ListEnd`] follow.
    pub fn list(&mut self, now: Instant) {
        self.tick(now);
        match &mut self.upnp {
            Some(upnp) => upnp.list(&mut self.out),
            None => self.events.push_back(Event::ListEnd(Err(MapError::NotSupported))),
        }
        self.take_replies();
    }

    /// Takes the address that STUN saw, to judge the mappings, also those to come. Where a router's address agreed and
    /// no longer does, the router is asked again. Its provider may have given it another address.
    pub fn seen(&mut self, now: Instant, ip: Option<IpAddr>) {
        self.tick(now);
        self.seen = ip;
        for entry in self.entries.values_mut() {
            if let State::Mapped(held) = &mut entry.state {
                let truth = Truth::of(held.external.ip(), ip);
                if truth != held.truth {
                    if held.truth == Truth::Agrees {
                        held.renew = self.out.now;
                    }
                    held.truth = truth;
                    self.events.push_back(held.event(entry.ask.id, self.out.now));
                }
            }
        }
    }

    /// Asks for every mapping now, whatever its lease or its pause after a failure. The router may have lost the
    /// mappings, after a sleep of ours or a restart of its.
    pub fn ask_again(&mut self, now: Instant) {
        self.tick(now);
        if self.closing != Closing::No {
            return;
        }
        for entry in self.entries.values_mut() {
            match &mut entry.state {
                State::Mapped(held) => held.renew = now,
                State::Waiting { until } => *until = now,
                State::Trying | State::Removing { .. } => {}
            }
        }
        self.handle_timeout(now);
    }

    /// Takes all mappings back; [`Event::Closed`] follows, within 6 s.
    pub fn close(&mut self, now: Instant) {
        self.tick(now);
        if self.closing == Closing::No {
            self.closing = Closing::By(self.out.now + CLOSE_WITHIN);
            let ids: Vec<MapId> = self.entries.keys().copied().collect();
            ids.into_iter().for_each(|id| self.remove(id));
        }
        self.take_replies();
    }

    /// Takes in a datagram from the UDP socket.
    pub fn datagram(&mut self, now: Instant, from: SocketAddr, data: &[u8]) {
        self.tick(now);
        match &mut self.gateway {
            Some(gateway) if gateway.is_from(from) => gateway.datagram(&mut self.out, data),
            _ => match &mut self.upnp {
                Some(upnp) if upnp.is_answer(data) => upnp.datagram(&mut self.out, from, data),
                _ => self.out.stats.strangers += 1,
            },
        }
        self.take_replies();
    }

    /// Takes in that a stream is open.
    pub fn connected(&mut self, now: Instant, stream: StreamId) {
        self.tick(now);
        if let Some(upnp) = &mut self.upnp {
            upnp.connected(&mut self.out, stream);
        }
        self.take_replies();
    }

    /// Takes in bytes of a stream.
    pub fn received(&mut self, now: Instant, stream: StreamId, data: &[u8]) {
        self.tick(now);
        if let Some(upnp) = &mut self.upnp {
            upnp.received(&mut self.out, stream, data);
        }
        self.take_replies();
    }

    /// Takes in the end of a stream: it could not be opened, broke, or its other end will send no more. Unless the
    /// stream was closed already, [`Request::Close`] follows, for a stream that failed too.
    pub fn ended(&mut self, now: Instant, stream: StreamId) {
        self.tick(now);
        if let Some(upnp) = &mut self.upnp {
            upnp.ended(&mut self.out, stream);
        }
        self.take_replies();
    }

    /// Goes on after the deadline of [`poll_timeout`](Self::poll_timeout) has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.tick(now);
        if self.closing == Closing::Done {
            return;
        }
        if let Some(gateway) = &mut self.gateway {
            gateway.timeout(&mut self.out);
        }
        if let Some(upnp) = &mut self.upnp {
            upnp.timeout(&mut self.out);
        }
        self.take_replies();
        let due: Vec<MapId> =
            self.entries.values().filter(|e| e.is_due(self.out.now)).map(|e| e.ask.id).collect();
        for id in due {
            self.entry_due(id);
        }
        if matches!(self.closing, Closing::By(at) if at <= self.out.now) {
            for id in core::mem::take(&mut self.entries).into_keys() {
                self.events.push_back(Event::Removed { id, confirmed: false });
            }
        }
        self.take_replies();
    }

    /// Returns the next request to carry out.
    pub fn poll_request(&mut self) -> Option<Request> {
        self.out.requests.pop_front()
    }

    /// Returns the next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Returns the time to call [`handle_timeout`](Self::handle_timeout). The time moves with every call but the polls.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let gateway = self.gateway.as_ref().and_then(Gateway::deadline);
        let upnp = self.upnp.as_ref().and_then(Upnp::deadline);
        let close = match self.closing {
            Closing::By(at) => Some(at),
            Closing::Done => return None,
            Closing::No => None,
        };
        let entries = self.entries.values().filter_map(Entry::deadline);
        entries.chain(gateway).chain(upnp).chain(close).min()
    }

    /// Returns the counters.
    pub fn stats(&self) -> Stats {
        self.out.stats
    }

    fn tick(&mut self, now: Instant) {
        self.out.now = self.out.now.max(now);
    }

    fn admit(&mut self, internal: u16, external: u16) -> Result<MapId, Refused> {
        if self.closing != Closing::No {
            return Err(Refused::Closed);
        }
        if internal == 0 || external == 0 {
            return Err(Refused::PortZero);
        }
        if self.entries.len() >= MAX_MAPPINGS {
            return Err(Refused::TooMany);
        }
        self.next += 1;
        Ok(MapId(self.next))
    }

    fn try_all(&mut self, id: MapId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.state = State::Trying;
        if let Some(gateway) = &mut self.gateway {
            entry.gateway = Leg::Asking;
            gateway.map(&mut self.out, entry.ask);
        }
        if let Some(upnp) = &mut self.upnp {
            entry.upnp = Leg::Asking;
            upnp.map(&mut self.out, entry.ask);
        }
        self.conclude(id);
    }

    fn remove(&mut self, id: MapId) {
        let Some(entry) = self.entries.get_mut(&id).filter(|e| !e.is_removing()) else { return };
        let held = match entry.state {
            State::Mapped(held) => Some(held.way),
            _ => None,
        };
        entry.state = State::Removing { confirmed: true, held };
        for way in [Way::Pcp, Way::Upnp] {
            self.remove_leg(id, way);
        }
        self.conclude(id);
    }

    /// Takes back the mapping that one way may have made.
    fn remove_leg(&mut self, id: MapId, way: Way) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let leg = entry.leg(way);
        if !matches!(leg, Leg::Asking | Leg::Holds) {
            return;
        }
        *leg = Leg::Removing;
        match (way, &mut self.gateway, &mut self.upnp) {
            (Way::Upnp, _, Some(upnp)) => upnp.remove(&mut self.out, id),
            (Way::Pcp | Way::NatPmp, Some(gateway), _) => gateway.remove(&mut self.out, entry.ask),
            _ => {}
        }
    }

    /// Ends every mapping that is decided: all ways failed, or nothing is left to remove.
    fn conclude(&mut self, id: MapId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        match (entry.state, entry.gateway, entry.upnp) {
            (State::Trying, Leg::Idle(gateway), Leg::Idle(upnp)) => {
                entry.state = State::Waiting { until: self.out.now + TRY_AGAIN };
                self.events.push_back(Event::Failed { id, gateway, upnp });
            }
            (State::Removing { confirmed, .. }, Leg::Idle(_), Leg::Idle(_)) => {
                self.entries.remove(&id);
                self.events.push_back(Event::Removed { id, confirmed });
            }
            _ => {}
        }
    }

    fn entry_due(&mut self, id: MapId) {
        let now = self.out.now;
        let Some(entry) = self.entries.get_mut(&id) else { return };
        match &mut entry.state {
            State::Waiting { .. } => self.try_all(id),
            State::Mapped(held) if held.expires.is_some_and(|at| at <= now) => self.lost(id),
            State::Mapped(held) => {
                held.postpone(now);
                let (way, external) = (held.way, held.external.port());
                self.renew(id, way, external);
            }
            State::Trying | State::Removing { .. } => {}
        }
    }

    /// Ends a mapping that is there no more, as far as is known.
    fn lost(&mut self, id: MapId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        (entry.gateway, entry.upnp) = (Leg::Idle(None), Leg::Idle(None));
        self.events.push_back(Event::Lost { id });
        self.try_all(id);
    }

    /// Asks for the same external port again.
    fn renew(&mut self, id: MapId, way: Way, external: u16) {
        let Some(entry) = self.entries.get(&id) else { return };
        let ask = Ask { external, ..entry.ask };
        match (way, &mut self.gateway, &mut self.upnp) {
            (Way::Upnp, _, Some(upnp)) => upnp.renew(&mut self.out, ask),
            (Way::Pcp | Way::NatPmp, Some(gateway), _) => gateway.map(&mut self.out, ask),
            _ => {}
        }
    }

    /// Takes in the answers of the ways.
    fn take_replies(&mut self) {
        while let Some(reply) = self.out.replies.pop_front() {
            match reply {
                Reply::Granted { id, way, external, lifetime } => self.granted(id, way, external, lifetime),
                Reply::Refused { id, way, why } => {
                    let Some(entry) = self.entries.get_mut(&id) else { continue };
                    let endless = |held: &Held| held.way == way && held.expires.is_none();
                    if *entry.leg(way) == Leg::Asking {
                        *entry.leg(way) = Leg::Idle(Some(why));
                    } else if matches!(&entry.state, State::Mapped(held) if endless(held)) {
                        // A renewal that failed leaves a lease as it is. One without end would stay for ever, though
                        // its device is gone or has forgotten it.
                        self.lost(id);
                    }
                    self.conclude(id);
                }
                Reply::Removed { id, way, confirmed } => {
                    let Some(entry) = self.entries.get_mut(&id) else { continue };
                    if *entry.leg(way) != Leg::Removing {
                        continue;
                    }
                    *entry.leg(way) = Leg::Idle(None);
                    // Of a port that was open only who opened it can say that it is closed. Another way may still have been
                    // asked, and that it does not answer says nothing.
                    if let State::Removing { confirmed: all, held } = &mut entry.state
                        && held.is_none_or(|held| held.same_server(way))
                    {
                        *all &= confirmed;
                    }
                    self.conclude(id);
                }
                Reply::Restarted { except } => self.restarted(except),
                Reply::Listed(entry) => self.events.push_back(Event::Listed(entry)),
                Reply::ListEnd(end) => self.events.push_back(Event::ListEnd(end)),
            }
        }
        if matches!(self.closing, Closing::By(_)) && self.entries.is_empty() {
            self.closing = Closing::Done;
            self.events.push_back(Event::Closed);
        }
    }

    fn granted(&mut self, id: MapId, way: Way, external: SocketAddr, lifetime: Option<u32>) {
        let now = self.out.now;
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let held = Held::new(way, external, lifetime, Truth::of(external.ip(), self.seen), now);
        match entry.state {
            State::Removing { .. } => {}
            State::Mapped(before) if before.way.same_server(way) => {
                self.out.stats.renewed += 1;
                entry.state = State::Mapped(held);
                if (before.way, before.external, before.truth) != (held.way, held.external, held.truth) {
                    self.events.push_back(held.event(id, now));
                }
            }
            State::Mapped(before) => {
                *entry.leg(way) = Leg::Holds;
                // The same endpoint is the same entry of the router: to remove it now would remove ours.
                if before.external != external {
                    self.remove_leg(id, way);
                }
            }
            State::Trying | State::Waiting { .. } => {
                *entry.leg(way) = Leg::Holds;
                entry.state = State::Mapped(held);
                self.events.push_back(held.event(id, now));
            }
        }
    }

    /// Forgets all mappings behind PCP and NAT-PMP: their server has nothing of ours any more.
    fn restarted(&mut self, except: Option<MapId>) {
        let mut lost = Vec::new();
        for entry in self.entries.values() {
            if let State::Mapped(held) = entry.state
                && held.way != Way::Upnp
                && Some(entry.ask.id) != except
            {
                lost.push((entry.ask.id, held.way, held.external.port()));
            }
        }
        lost.into_iter().for_each(|(id, way, external)| self.renew(id, way, external));
    }
}

impl Entry {
    fn leg(&mut self, way: Way) -> &mut Leg {
        if way == Way::Upnp { &mut self.upnp } else { &mut self.gateway }
    }

    fn is_removing(&self) -> bool {
        matches!(self.state, State::Removing { .. })
    }

    fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Mapped(held) => Some(held.expires.map_or(held.renew, |at| at.min(held.renew))),
            State::Waiting { until } => Some(until),
            State::Trying | State::Removing { .. } => None,
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|at| at <= now)
    }
}

impl Held {
    fn new(way: Way, external: SocketAddr, lifetime: Option<u32>, truth: Truth, now: Instant) -> Self {
        let lifetime = lifetime.map(|s| Duration::from_secs(s.min(LONGEST).into()));
        let renew = now + lifetime.map_or(REFRESH, |l| l / 2);
        Held { way, external, truth, renew, expires: lifetime.map(|l| now + l) }
    }

    /// Sets the time of the next renewal, should the one that goes out now fail.
    fn postpone(&mut self, now: Instant) {
        let pause = self.expires.map_or(REFRESH, |at| at.since(now) / 2);
        self.renew = now + pause.max(SHORTEST);
    }

    fn event(&self, id: MapId, now: Instant) -> Event {
        let Held { way, external, truth, expires, .. } = *self;
        Event::Mapped { id, way, external, lifetime: expires.map(|at| at.since(now)), truth }
    }
}
