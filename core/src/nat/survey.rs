//! NAT behaviour discovery, over TCP where a punch will be (RFC 5780's mapping tests, and samples of the
//! allocation), over UDP for what TCP cannot tell (its filtering tests).
//!
//! From the listening port one connection goes to the server, then one to its other address and one to its
//! other port (OTHER-ADDRESS); three more go from ports of their own, spaced unevenly, one after the other.
//! Meanwhile CHANGE-REQUEST is asked for over UDP. With a server that has one address only, a second
//! server stands in for the other one. In all about four round trips and the wait for answers that a filter
//! swallows. Where it is asked for, a dial to our own outside address shows what the NAT makes of that.

use core::time::Duration;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::behaviour::{self, Allocation, Behaviour, Foresight, Mapping};
use super::counter::{self, Counter, Sight};
use super::filtering::{FilterTest, SWALLOWED_AFTER};
use crate::address::is_dialable;
use crate::cx::{Cx, Owner, Timer};
use crate::io::{CloseHow, Reuse, SockId, SockOpts};
use crate::random::Domain;
use crate::strategy::agreement::Key;
use crate::time::Instant;
use crate::wire::Transport;
use crate::wire::stun::{self, BindingOutcome, BindingReply, StunSplitter, TransactionId};

/// A connection and its answer may take this long.
const ANSWER_WITHIN: Duration = Duration::from_millis(1500);
/// The whole survey of one interface.
const SURVEY_WITHIN: Duration = Duration::from_millis(3500);
/// Between the samples of the allocation: their order must survive timers of a millisecond.
const SPACING: Duration = Duration::from_millis(4);
/// Local ports of the samples, from the first.
const OFFSETS: [u16; 3] = [0, 3, 4];
/// A connection that holds a mapping open is made anew this long after it broke.
const ANCHOR_AGAIN: Duration = Duration::from_secs(10);
/// On such a connection the question is asked again so often: NATs are known to forget idle ones after four minutes, and
/// `p2pd serve` closes them after 30 s.
const ANCHOR_ASKS: Duration = Duration::from_secs(25);
/// Servers tried, one after the other.
const SERVERS: usize = 3;
const TCP_CREDIT: u32 = 2048;

/// What was found for one interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NatReport {
    /// The interface's address.
    pub local: IpAddr,
    /// The NAT in front of it.
    pub behaviour: Behaviour,
    /// What the listening port was seen as over TCP.
    pub mapped: Option<SocketAddr>,
    /// Local ports and what they were seen as over TCP, in the order the mappings were made.
    pub samples: Vec<(u16, u16)>,
    /// From a SYN to its answer, to the server.
    pub round_trip: Option<Duration>,
    /// The server that answered.
    pub server: Option<SocketAddr>,
    /// Whether a dial from inside to our listener's outside endpoint arrives, with an outside source (RFC 4787 section 6,
    /// REQ-9). A filter that lets in only who was talked to stands in its way, and over TCP so does a NAT that leaves the
    /// inside source as it is. `None`: not asked for, or there is no NAT.
    pub hairpin: Option<bool>,
    /// Whether it had a second address, or another server stood in for that.
    pub second_address: bool,
}

/// A fresh sample for a punch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sampled {
    pub(crate) key: Key,
    pub(crate) local: u16,
    /// What it is seen as; `None`: no server answered.
    pub(crate) seen: Option<SocketAddr>,
    /// When its mapping was made.
    pub(crate) at: Instant,
}

#[derive(Debug, Default)]
pub(crate) struct Surveyor {
    surveys: Vec<Survey>,
    samples: BTreeMap<SockId, Sample>,
    started: bool,
    hairpin: bool,
}

#[derive(Debug)]
struct Sample {
    key: Key,
    /// The interface it leaves from.
    from: IpAddr,
    probe: Probe,
}

/// One interface's survey.
#[derive(Debug)]
struct Survey {
    place: u8,
    servers: Vec<SocketAddr>,
    /// The one that is asked, by place.
    asked: usize,
    port: u16,
    report: NatReport,
    /// What an earlier survey found, until this one is over.
    earlier: Option<NatReport>,
    probes: BTreeMap<SockId, (What, Probe)>,
    filter: FilterTest,
    until: Instant,
    done: bool,
    /// What the listening port is seen as by another address, by another port.
    by_address: Option<SocketAddr>,
    by_port: Option<SocketAddr>,
    /// In the order they were fired.
    seen: [Option<(u16, Sight)>; 3],
    /// Watched where ports are counted.
    counter: Option<Counter>,
    second: bool,
    /// Whether to dial ourselves.
    hairpin: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Anchor,
    Address,
    Port,
    Sample(usize),
    /// A dial to ourselves.
    Hairpin,
}

/// One connection with one question.
#[derive(Debug)]
struct Probe {
    local: u16,
    began: Instant,
    transaction: TransactionId,
    splitter: StunSplitter,
    answered: bool,
}

impl Surveyor {
    /// Surveys these interfaces; `listening` is the port of the node's listener.
    pub(crate) fn start(
        &mut self,
        cx: &mut Cx,
        locals: impl Iterator<Item = (IpAddr, u16)>,
        servers: &[SocketAddr],
        hairpin: bool,
    ) {
        self.stop(cx);
        (self.started, self.hairpin) = (true, hairpin);
        for (place, (local, port)) in locals.enumerate() {
            let survey = Survey::begun(cx, place as u8, local, port, servers, hairpin);
            self.surveys.push(survey);
        }
    }

    /// Whether an interface has a server to ask and could not be measured.
    pub(crate) fn lacks(&self) -> bool {
        self.surveys.iter().any(Survey::lacks)
    }

    /// Surveys the interfaces anew that could not be measured, or all. What was known stays so meanwhile.
    pub(crate) fn again(&mut self, cx: &mut Cx, servers: &[SocketAddr], all: bool) {
        for survey in &mut self.surveys {
            let reachable = servers.iter().any(|s| s.is_ipv4() == survey.report.local.is_ipv4());
            if survey.lacks() || (survey.done && reachable && (all || survey.servers.is_empty())) {
                survey.close(cx, |_| true);
                let earlier = survey.report.clone();
                *survey = Survey::begun(cx, survey.place, earlier.local, survey.port, servers, self.hairpin);
                survey.earlier = Some(earlier);
            }
        }
    }

    pub(crate) fn stop(&mut self, cx: &mut Cx) {
        for mut survey in self.surveys.drain(..) {
            survey.close(cx, |_| true);
            survey.filter.end(cx);
            cx.timers.set(Timer::Survey(survey.place), None);
        }
        for sock in core::mem::take(&mut self.samples).into_keys() {
            cx.close(sock, CloseHow::Drop);
        }
        self.started = false;
    }

    pub(crate) fn started(&self) -> bool {
        self.started
    }

    pub(crate) fn settled(&self) -> bool {
        self.started && self.surveys.iter().all(|s| s.done)
    }

    pub(crate) fn of(&self, local: IpAddr) -> Option<&NatReport> {
        self.surveys.iter().find(|s| s.report.local == local).and_then(Survey::known)
    }

    pub(crate) fn reports(&self) -> impl Iterator<Item = &NatReport> {
        self.surveys.iter().filter_map(Survey::known)
    }

    /// Asks what a fresh port of an interface is seen as, for a punch; the connection stays open until
    /// [`release`](Self::release). False: there is no server to ask.
    pub(crate) fn sample(&mut self, cx: &mut Cx, local: IpAddr, key: Key) -> bool {
        let survey = self.surveys.iter().find(|s| s.report.local == local);
        let server = survey.and_then(|s| s.report.server.or(s.known()?.server));
        let Some(server) = server else { return false };
        let port = cx.fresh_port();
        let (sock, probe) = dial(cx, Owner::Sample, SocketAddr::new(local, port), server, Duration::ZERO);
        self.samples.insert(sock, Sample { key, from: local, probe });
        true
    }

    pub(crate) fn release(&mut self, cx: &mut Cx, key: Key) {
        let of: Vec<SockId> =
            self.samples.iter().filter(|(_, s)| s.key == key).map(|(sock, _)| *sock).collect();
        for sock in of {
            self.samples.remove(&sock);
            cx.close(sock, CloseHow::Drop);
        }
    }

    pub(crate) fn bound(&mut self, cx: &mut Cx, place: u8) {
        if let Some(survey) = self.surveys.get_mut(usize::from(place)) {
            survey.bound(cx);
        }
    }

    pub(crate) fn datagram(&mut self, cx: &mut Cx, place: u8, from: SocketAddr, data: &[u8]) {
        if let Some(survey) = self.surveys.get_mut(usize::from(place)) {
            survey.datagram(cx, from, data);
        }
    }

    pub(crate) fn connected(&mut self, cx: &mut Cx, owner: Owner, sock: SockId) {
        let probe = match owner {
            Owner::Survey(place) => {
                let Some(survey) = self.surveys.get_mut(usize::from(place)) else { return };
                let Some((what, probe)) = survey.probes.get(&sock) else { return };
                match what {
                    What::Anchor => survey.report.round_trip = Some(cx.now.since(probe.began)),
                    // It may be somebody else who answers: our listener has to have it.
                    What::Hairpin => return,
                    What::Address | What::Port | What::Sample(_) => {}
                }
                probe
            }
            _ => match self.samples.get(&sock) {
                Some(sample) => &sample.probe,
                None => return,
            },
        };
        cx.read(sock, TCP_CREDIT);
        cx.send(sock, stun::binding_request(probe.transaction, None));
    }

    /// Our listener has a stream: perhaps it is our own.
    pub(crate) fn accepted(&mut self, cx: &mut Cx, remote: SocketAddr) {
        for survey in &mut self.surveys {
            survey.accepted(cx, remote);
        }
    }

    /// Bytes of a sample give its result.
    pub(crate) fn received(
        &mut self,
        cx: &mut Cx,
        owner: Owner,
        sock: SockId,
        data: &[u8],
    ) -> Option<Sampled> {
        if let Owner::Survey(place) = owner {
            self.surveys.get_mut(usize::from(place))?.received(cx, sock, data);
            return None;
        }
        let Sample { key, from, probe } = self.samples.get_mut(&sock)?;
        let reply = probe.answer(cx, data)?;
        let seen = reply.and_then(|r| mapped(&r));
        let sampled = Sampled { key: *key, local: probe.local, seen, at: probe.began };
        let survey = self.surveys.iter_mut().find(|s| s.report.local == *from);
        if let (Some(survey), Some(seen)) = (survey, seen) {
            survey.watch(Sight { port: seen.port(), at: probe.began, flows: sock.number() });
        }
        Some(sampled)
    }

    /// How many mappings of others an interface's NAT will make from `since` until `until`, where it counts.
    pub(crate) fn others(&self, local: IpAddr, since: Instant, until: Instant) -> u16 {
        let counter = self.surveys.iter().find(|s| s.report.local == local).and_then(|s| s.counter);
        counter.map_or(0, |c| c.expected(until.since(since)))
    }

    /// A socket failed or its stream ended; `open` says that the driver still has it.
    pub(crate) fn failed(&mut self, cx: &mut Cx, owner: Owner, sock: SockId, open: bool) -> Option<Sampled> {
        if open {
            cx.close(sock, CloseHow::Drop);
        }
        if let Owner::Survey(place) = owner {
            self.surveys.get_mut(usize::from(place))?.failed(cx, sock);
            return None;
        }
        let Sample { key, probe, .. } = self.samples.remove(&sock)?;
        (!probe.answered).then_some(Sampled { key, local: probe.local, seen: None, at: probe.began })
    }

    pub(crate) fn timeout(&mut self, cx: &mut Cx, place: u8) {
        if let Some(survey) = self.surveys.get_mut(usize::from(place)) {
            survey.timeout(cx);
        }
    }
}

impl Survey {
    fn begun(
        cx: &mut Cx,
        place: u8,
        local: IpAddr,
        port: u16,
        servers: &[SocketAddr],
        hairpin: bool,
    ) -> Survey {
        let family: Vec<SocketAddr> =
            servers.iter().copied().filter(|s| s.is_ipv4() == local.is_ipv4()).collect();
        let report = NatReport {
            local,
            behaviour: Behaviour::default(),
            mapped: None,
            samples: Vec::new(),
            round_trip: None,
            server: None,
            hairpin: None,
            second_address: false,
        };
        let mut survey = Survey {
            place,
            done: family.is_empty(),
            servers: family,
            asked: 0,
            port,
            report,
            earlier: None,
            probes: BTreeMap::new(),
            filter: FilterTest::default(),
            until: cx.now + SURVEY_WITHIN,
            by_address: None,
            by_port: None,
            seen: [None; 3],
            counter: None,
            second: false,
            hairpin,
        };
        survey.begin(cx);
        survey
    }

    /// Over without what its servers could have told.
    fn lacks(&self) -> bool {
        let Behaviour { mapping, allocation, .. } = self.report.behaviour;
        let unknown = allocation.is_none() || (self.second && mapping.is_none());
        self.done && !self.servers.is_empty() && unknown
    }

    fn known(&self) -> Option<&NatReport> {
        if self.done { Some(&self.report) } else { self.earlier.as_ref() }
    }

    fn begin(&mut self, cx: &mut Cx) {
        if self.done {
            return;
        }
        self.anchor(cx);
        let local = SocketAddr::new(self.report.local, 0);
        self.filter = FilterTest::begin(cx, Owner::Survey(self.place), local);
        self.arm(cx);
    }

    fn anchor(&mut self, cx: &mut Cx) {
        let Some(server) = self.servers.get(self.asked).copied() else { return };
        self.dial(cx, What::Anchor, self.port, server, Duration::ZERO);
    }

    fn dial(&mut self, cx: &mut Cx, what: What, port: u16, to: SocketAddr, after: Duration) {
        let local = SocketAddr::new(self.report.local, port);
        let (sock, probe) = dial(cx, Owner::Survey(self.place), local, to, after);
        self.probes.insert(sock, (what, probe));
    }

    fn accepted(&mut self, cx: &mut Cx, remote: SocketAddr) {
        let dialled = self.probes.values().any(|(what, _)| *what == What::Hairpin);
        if !dialled || self.report.mapped.is_none_or(|mapped| mapped.ip() != remote.ip()) {
            return;
        }
        self.report.hairpin = Some(true);
        self.close(cx, |what| what == What::Hairpin);
        self.conclude(cx);
    }

    fn received(&mut self, cx: &mut Cx, sock: SockId, data: &[u8]) {
        let Some((what, probe)) = self.probes.get_mut(&sock) else { return };
        let (what, local, at) = (*what, probe.local, probe.began);
        let Some(reply) = probe.answer(cx, data) else { return };
        let seen = reply.and_then(|r| mapped(&r));
        let Some(seen) = seen else { return self.failed(cx, sock) };
        match what {
            What::Hairpin => {}
            What::Anchor if self.done => {
                self.report.mapped = Some(seen);
                cx.read(sock, data.len() as u32);
                cx.timers.set(Timer::Survey(self.place), Some(cx.now + ANCHOR_ASKS));
            }
            What::Anchor => self.anchored(cx, seen, reply.and_then(|r| r.other)),
            What::Address => self.by_address = Some(seen),
            What::Port => self.by_port = Some(seen),
            What::Sample(n) => {
                self.seen[n] = Some((local, Sight { port: seen.port(), at, flows: sock.number() }));
            }
        }
        self.conclude(cx);
    }

    /// The server answered: everything else can be asked.
    fn anchored(&mut self, cx: &mut Cx, seen: SocketAddr, other: Option<SocketAddr>) {
        let server = self.servers[self.asked];
        self.report.mapped = Some(seen);
        self.report.server = Some(server);
        let stand_in = || self.servers.iter().copied().find(|s| s.ip() != server.ip());
        let sound = |o: &SocketAddr| {
            let ours = o.ip().is_unspecified() || (o.ip().is_loopback() && !server.ip().is_loopback());
            o.is_ipv4() == server.is_ipv4() && o.ip() != server.ip() && o.port() != 0 && !ours
        };
        let second = other.filter(sound);
        self.report.second_address = second.is_some();
        let by_address = second.map(|o| SocketAddr::new(o.ip(), server.port())).or_else(stand_in);
        self.second = by_address.is_some();
        if let Some(to) = by_address {
            self.dial(cx, What::Address, self.port, to, Duration::ZERO);
        }
        if let Some(other) = second.filter(|o| o.port() != server.port()) {
            self.dial(cx, What::Port, self.port, SocketAddr::new(server.ip(), other.port()), Duration::ZERO);
        }
        if seen.ip() == self.report.local {
            return;
        }
        let first = cx.fresh_port();
        for (n, offset) in OFFSETS.into_iter().enumerate() {
            self.dial(cx, What::Sample(n), first + offset, server, SPACING * (n as u32 + 2));
        }
        if self.hairpin && is_dialable(seen.ip()) && !seen.ip().is_loopback() {
            // When the samples are over: they tell of the allocation.
            let port = cx.fresh_port();
            self.dial(cx, What::Hairpin, port, seen, SPACING * 10);
        }
    }

    fn failed(&mut self, cx: &mut Cx, sock: SockId) {
        if self.filter.sock() == Some(sock) {
            self.filter = FilterTest::default();
            return self.conclude(cx);
        }
        let Some((what, _)) = self.probes.remove(&sock) else { return };
        cx.close(sock, CloseHow::Drop);
        match what {
            What::Anchor if self.done => {
                cx.timers.set(Timer::Survey(self.place), Some(cx.now + ANCHOR_AGAIN));
            }
            // It has answered, and is kept for its mapping only.
            What::Anchor if self.report.server.is_some() => {}
            What::Anchor => {
                self.asked += 1;
                if self.asked < self.servers.len().min(SERVERS) {
                    self.anchor(cx);
                    self.filter.ask(cx, self.server());
                }
            }
            What::Hairpin => self.report.hairpin = Some(false),
            What::Address | What::Port | What::Sample(_) => {}
        }
        self.conclude(cx);
    }

    fn timeout(&mut self, cx: &mut Cx) {
        if self.done {
            return self.refresh_anchor(cx);
        }
        if self.until <= cx.now {
            self.filter.end(cx);
            return self.finish(cx);
        }
        // Sent again once, for the sake of lost datagrams.
        self.filter.ask(cx, self.server());
        self.conclude(cx);
    }

    /// Uses the connection that holds the mapping open, or makes it anew if it is gone or dead.
    fn refresh_anchor(&mut self, cx: &mut Cx) {
        let anchor = self.probes.iter_mut().find(|(_, (what, _))| *what == What::Anchor);
        match anchor {
            Some((sock, (_, probe))) if probe.answered => {
                probe.answered = false;
                probe.transaction = TransactionId(cx.random.bytes(Domain::StunTransaction));
                cx.send(*sock, stun::binding_request(probe.transaction, None));
                cx.timers.set(Timer::Survey(self.place), Some(cx.now + ANSWER_WITHIN * 2));
            }
            _ => {
                self.close(cx, |what| what == What::Anchor);
                cx.timers.set(Timer::Survey(self.place), Some(cx.now + ANCHOR_ASKS));
                self.anchor(cx);
            }
        }
    }

    /// Ends the survey when nothing is waited for.
    fn conclude(&mut self, cx: &mut Cx) {
        if self.done {
            return;
        }
        if let Some(found) = self.filter.conclude(cx, self.patience()) {
            self.report.behaviour.filtering = Some(found);
        }
        let waiting = self.probes.values().any(|(_, p)| !p.answered);
        if self.filter.is_over() && !waiting {
            return self.finish(cx);
        }
        self.arm(cx);
    }

    fn finish(&mut self, cx: &mut Cx) {
        self.done = true;
        if let Some(earlier) = self.earlier.take().filter(|_| self.report.mapped.is_none()) {
            self.report = earlier;
            self.close(cx, |_| true);
            cx.timers.set(Timer::Survey(self.place), None);
            return;
        }
        if self.probes.values().any(|(what, _)| *what == What::Hairpin) {
            // Somebody else has it.
            self.report.hairpin = Some(false);
        }
        self.report.samples = self.seen.iter().flatten().map(|(local, sight)| (*local, sight.port)).collect();
        let behaviour = &mut self.report.behaviour;
        if let Some(seen) = self.report.mapped {
            if seen.ip() == self.report.local {
                behaviour.mapping = Some(Mapping::None);
                behaviour.allocation = Some(Allocation::Equal);
            } else {
                behaviour.mapping = match (self.by_address, self.by_port) {
                    (_, Some(p)) if p != seen => Some(Mapping::AddressPortDependent),
                    (Some(a), Some(_)) if a != seen => Some(Mapping::AddressDependent),
                    // Its other port was not there to ask.
                    (Some(a), None) if a != seen => Some(Mapping::AddressPortDependent),
                    (Some(_), _) => Some(Mapping::EndpointIndependent),
                    (None, _) => None,
                };
                behaviour.allocation = behaviour::allocation(&self.report.samples);
                self.conclude_allocation(seen);
            }
        }
        // An endpoint-independent mapping that cannot be foreseen is kept open, so that it stays true.
        let foresight = self.report.behaviour.foresight();
        let keep = foresight == Foresight::Measured && self.report.mapped.is_some();
        self.close(cx, |what| !(keep && what == What::Anchor));
        cx.timers.set(Timer::Survey(self.place), keep.then_some(cx.now + ANCHOR_ASKS));
    }

    /// Holds what the samples say of the allocation against the other mappings; `first` is the listening port's.
    fn conclude_allocation(&mut self, first: SocketAddr) {
        use Allocation::{Random, Sequential};
        if !matches!(self.report.behaviour.allocation, Some(Sequential(_) | Random { .. })) {
            return;
        }
        if !self.report.behaviour.is_symmetric() {
            if !matches!(self.report.behaviour.allocation, Some(Sequential(_))) {
                self.is_random();
            }
            return;
        }
        // Three ports out of a small block may look as if they were counted, and three that a counter gave while it
        // began again do not: all mappings, in the order in which they were made, tell.
        let samples = || self.seen.iter().flatten().map(|(_, sight)| *sight);
        let with = |second: Option<SocketAddr>| {
            let before = [Some(first), second].into_iter().flatten().map(|s| s.port());
            let ports: Vec<u16> = before.chain(samples().map(|s| s.port)).collect();
            counter::step(&ports)
        };
        match (with(self.by_address), with(self.by_port), samples().next_back()) {
            (Some(a), Some(b), Some(last)) if a.signum() == b.signum() => {
                let by = if a.unsigned_abs() < b.unsigned_abs() { a } else { b };
                self.report.behaviour.allocation = Some(Sequential(by));
                self.counter = Some(Counter::new(by, last));
            }
            _ => self.is_random(),
        }
    }

    /// Ports follow no rule but, perhaps, lie in one block.
    fn is_random(&mut self) {
        let others = [self.report.mapped, self.by_address, self.by_port];
        let mut ports: Vec<u16> = others.iter().flatten().map(|s| s.port()).collect();
        ports.extend(self.report.samples.iter().map(|(_, seen)| *seen));
        ports.extend(self.counter.map(|c| c.last().port));
        ports.sort_unstable();
        ports.dedup();
        let anywhere = (ports.first().map_or(1024, |low| 1024.min(*low)), u16::MAX);
        let (low, high) = behaviour::block(&ports).unwrap_or(anywhere);
        self.report.behaviour.allocation = Some(Allocation::Random { low, high });
        self.counter = None;
    }

    /// One more mapping was made: it fits the counter, or there is none.
    fn watch(&mut self, sight: Sight) {
        if self.counter.as_mut().is_some_and(|c| c.see(sight).is_err()) {
            self.is_random();
        }
    }

    fn close(&mut self, cx: &mut Cx, which: impl Fn(What) -> bool) {
        let socks: Vec<SockId> =
            self.probes.iter().filter(|(_, (what, _))| which(*what)).map(|(sock, _)| *sock).collect();
        for sock in socks {
            self.probes.remove(&sock);
            cx.close(sock, CloseHow::Drop);
        }
    }

    fn arm(&self, cx: &mut Cx) {
        let at = self.filter.due(self.patience()).unwrap_or(self.until);
        cx.timers.set(Timer::Survey(self.place), Some(at.min(self.until)));
    }

    /// How long an answer is waited for that a filter may swallow.
    fn patience(&self) -> Duration {
        SWALLOWED_AFTER.max(self.report.round_trip.unwrap_or_default() * 3)
    }

    /// The server that is asked. `None`: all have failed over TCP.
    fn server(&self) -> Option<SocketAddr> {
        self.servers.get(self.asked).copied()
    }

    fn bound(&mut self, cx: &mut Cx) {
        if self.filter.bound(cx, self.server()) {
            self.arm(cx);
        }
    }

    fn datagram(&mut self, cx: &mut Cx, from: SocketAddr, data: &[u8]) {
        if self.filter.datagram(cx, self.server(), from, data) {
            self.conclude(cx);
        }
    }
}

impl Probe {
    /// `None`: more bytes are needed. `Some(None)`: what came is no answer.
    #[allow(clippy::option_option, reason = "two different nothings, each told above")]
    fn answer(&mut self, cx: &mut Cx, data: &[u8]) -> Option<Option<BindingReply>> {
        if self.answered {
            return None;
        }
        let message = self.splitter.push(data).and_then(|()| self.splitter.next_message());
        let reply = match message {
            Ok(None) => return None,
            Ok(Some(message)) => stun::decode_binding(&message, Transport::Tcp).ok(),
            Err(_) => None,
        };
        self.answered = true;
        let ours = reply.filter(|r| r.transaction == self.transaction);
        if ours.is_none() {
            cx.stats.bad_stun += 1;
        }
        Some(ours)
    }
}

fn mapped(reply: &BindingReply) -> Option<SocketAddr> {
    match reply.outcome {
        // No peer would take port 0 from us.
        BindingOutcome::Mapped(seen) => Some(seen).filter(|s| s.port() != 0),
        BindingOutcome::Error(_) => None,
    }
}

fn dial(cx: &mut Cx, owner: Owner, local: SocketAddr, to: SocketAddr, after: Duration) -> (SockId, Probe) {
    let opts = SockOpts { reuse: Reuse::AddressAndPort, nodelay: true, ttl: None };
    let at = cx.now + after;
    let sock = cx.dial_at(owner, local, to, opts, at, at + ANSWER_WITHIN);
    let transaction = TransactionId(cx.random.bytes(Domain::StunTransaction));
    let splitter = StunSplitter::new();
    (sock, Probe { local: local.port(), began: at, transaction, splitter, answered: false })
}
