//! NAT behaviour discovery, over TCP where a punch will be (RFC 5780's mapping tests, and samples of the
//! allocation), over UDP for what TCP cannot tell (its filtering tests).
//!
//! Long: one survey is one state machine over several connections, whose answers are judged together.
//!
//! From the listening port one connection goes to the server, then one to its other address and one to its
//! other port (OTHER-ADDRESS); three more go from ports of their own, spaced unevenly, one after the other.
//! Meanwhile CHANGE-REQUEST is asked for over UDP. With a server that has one address only, a second
//! server stands in for the other one. In all about four round trips and the wait for answers that a filter
//! swallows. Where it is asked for, a dial to our own outside address shows what the NAT makes of that. Two ports of one
//! address, as two entries of the list, tell whether a mapping depends on the port.
//!
//! The reasons: ADR 12 in docs/src/adr.

use core::time::Duration;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::behaviour::{Allocation, Behaviour, Foresight, Mapping};
use super::counter::{Counter, Sight};
use super::external::StunAnswer;
use super::filtering::{FilterTest, SWALLOWED_AFTER};
use super::memory::{self, CONFIRMED_WITHIN, LONGEST, Patience};
use super::model::{self, Hypothesis, MAX_SEEN, Seen, Towards};
use super::probe::{self, Probe};
use super::vantage::Vantage;
use crate::address::is_dialable;
use crate::cx::{Cx, Owner, Timer};
use crate::io::{CloseHow, SockId};
use crate::reach::{Reach, reach};
use crate::time::Instant;

/// The whole survey of one interface.
const SURVEY_WITHIN: Duration = Duration::from_millis(3500);
/// Between the samples of the allocation: their order must survive timers of a millisecond.
const SPACING: Duration = Duration::from_millis(4);
/// Local ports of the samples, from the first.
const OFFSETS: [u16; 3] = [0, 3, 4];
/// A connection that holds a mapping open is made anew this long after it broke. The time doubles, up to [`LONGEST`], while
/// no server answers.
const ANCHOR_AGAIN: Duration = Duration::from_secs(10);
/// Servers tried, one after the other.
const SERVERS: usize = 3;

/// Result of the survey for one interface.
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[derive(Clone, PartialEq, Eq, Debug)]
// Exhaustive: programs that pass reports on write some in their tests.
pub struct NatReport {
    /// The interface's address.
    pub local: IpAddr,
    /// The NAT in front of it.
    pub behaviour: Behaviour,
    /// External endpoint of the listening port over TCP.
    pub mapped: Option<SocketAddr>,
    /// Local ports and what they were seen as over TCP, in the order the mappings were made.
    pub samples: Vec<(u16, u16)>,
    /// Rules that the NAT may have, the likeliest first. Empty where too little was seen, or where there is no NAT.
    pub hypotheses: Vec<Hypothesis>,
    /// Time from a SYN to its answer, to the server.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::units::maybe_seconds"))]
    pub round_trip: Option<Duration>,
    /// The server that answered.
    pub server: Option<SocketAddr>,
    /// True if a dial from inside to our listener's outside endpoint arrives with an outside source (RFC 4787 section
    /// 6, REQ-9). Filtering by address prevents that. Over TCP, so does a NAT that leaves the inside source as
    /// it is. `None`: not asked for, or there is no NAT.
    pub hairpin: Option<bool>,
    /// True if the server had a second address, or another server stood in for that.
    pub second_address: bool,
    /// True if another port of the server saw the listening port at the same external endpoint. `None`: no other port
    /// was known, or it did not answer.
    pub same_by_port: Option<bool>,
    /// Answers of STUN servers about the interface's outside address, in the order of the configuration.
    pub answers: Vec<StunAnswer>,
}

impl NatReport {
    /// Returns the external address of the interface: what STUN servers over UDP agree on, else what the survey saw.
    pub fn external(&self) -> Option<IpAddr> {
        let believed = self.answers.iter().find(|answer| answer.believed).and_then(|answer| answer.said);
        believed.or(self.mapped.map(|at| at.ip()))
    }

    /// Creates the report of an interface about which nothing is measured yet.
    pub(super) fn new(local: IpAddr) -> Self {
        NatReport {
            local,
            behaviour: Behaviour::default(),
            mapped: None,
            samples: Vec::new(),
            hypotheses: Vec::new(),
            round_trip: None,
            server: None,
            hairpin: None,
            second_address: false,
            same_by_port: None,
            answers: Vec::new(),
        }
    }
}

/// Foresight of the next mapping of an interface, by what a peer is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Foreseen {
    /// Probability of what peers are told, in thousandths.
    pub(crate) certainty: u32,
    /// Share of mappings that have the port that peers are told if that is right, in thousandths.
    pub(crate) port: u32,
    /// Share of mappings that have the address that peers are told, in thousandths.
    pub(crate) address: u32,
}

impl Default for Foreseen {
    /// Returns what holds without a NAT.
    fn default() -> Self {
        Foreseen { certainty: 1000, port: 1000, address: 1000 }
    }
}

/// Survey of one interface.
#[derive(Debug)]
pub(super) struct Survey {
    place: u8,
    vantage: Vantage,
    pub(super) servers: Vec<SocketAddr>,
    /// The one that is asked, by place.
    asked: usize,
    port: u16,
    pub(super) report: NatReport,
    /// Result of an earlier survey, until this one is over.
    earlier: Option<NatReport>,
    probes: BTreeMap<SockId, (What, Probe)>,
    filter: FilterTest,
    until: Instant,
    pub(super) done: bool,
    /// The connection that holds the mapping open.
    kept: Kept,
    /// Mapping of the listening port towards another address; `by_port`: towards another port.
    by_address: Option<SocketAddr>,
    by_port: Option<SocketAddr>,
    /// Samples in the order they were sent.
    seen: [Option<(u16, SocketAddr, Sight)>; 3],
    /// Mappings in the order in which they were made, those of punches' samples after the survey's.
    mappings: Vec<Seen>,
    /// Foresight that they rest on.
    foreseen: Foreseen,
    /// Watched where ports are counted.
    pub(super) counter: Option<Counter>,
    second: bool,
    /// True if the survey is to dial our own outside address.
    hairpin: bool,
}

/// Use of the connection that holds the mapping open.
#[derive(Debug)]
struct Kept {
    /// Time at which it was last used.
    used: Instant,
    patience: Patience,
    /// Use that is not answered yet.
    asked: Option<Asked>,
    /// Time between a failure and the next connection.
    pause: Duration,
}

/// Use of the connection that holds the mapping open, after a silence.
#[derive(Clone, Copy, Debug)]
struct Asked {
    silent: Duration,
    /// The mapping that it had.
    mapped: SocketAddr,
    at: Instant,
}

impl Asked {
    /// Returns true if the NAT has forgotten us, as the answer tells now. With another outside address it is another NAT, and
    /// after a long time the network was away.
    fn is_forgotten(&self, now: Instant, seen: SocketAddr) -> bool {
        seen.ip() == self.mapped.ip() && seen != self.mapped && now <= self.at + CONFIRMED_WITHIN
    }
}

impl Kept {
    fn new(now: Instant, patience: Patience) -> Self {
        Kept { used: now, patience, asked: None, pause: ANCHOR_AGAIN }
    }
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

/// Puts further ports of an address behind all other addresses: whichever of its ports is asked, a server that is down is
/// asked for nothing.
fn by_address(servers: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let (mut first, mut further) = (Vec::<SocketAddr>::new(), Vec::new());
    for server in servers {
        let known = first.iter().any(|s| s.ip() == server.ip());
        if known { &mut further } else { &mut first }.push(server);
    }
    first.extend(further);
    first
}

/// Returns true if a server's OTHER-ADDRESS can be asked: another address of the same family that the server may name.
pub(crate) fn is_other(server: SocketAddr, other: SocketAddr) -> bool {
    let elsewhere = other.is_ipv4() == server.is_ipv4() && other.ip() != server.ip() && other.port() != 0;
    elsewhere && may_name(server.ip(), other.ip())
}

/// Returns true if a server may have us dial an address. An inside address needs a server that is inside as well.
fn may_name(server: IpAddr, named: IpAddr) -> bool {
    let [server, named] = [server, named].map(|ip| reach(ip, &[]));
    named == Reach::Internet || (named == server && named != Reach::Nobody)
}

impl Survey {
    pub(super) fn begun(
        cx: &mut Cx,
        place: u8,
        vantage: Vantage,
        port: u16,
        servers: &[SocketAddr],
        hairpin: bool,
    ) -> Survey {
        let local = vantage.ip;
        let family = by_address(servers.iter().copied().filter(|s| s.is_ipv4() == local.is_ipv4()));
        let report = NatReport::new(local);
        let mut survey = Survey {
            place,
            vantage,
            done: family.is_empty(),
            servers: family,
            asked: 0,
            port,
            report,
            earlier: None,
            probes: BTreeMap::new(),
            filter: FilterTest::default(),
            until: cx.now + SURVEY_WITHIN,
            kept: Kept::new(cx.now, Patience::default()),
            by_address: None,
            by_port: None,
            seen: [None; 3],
            mappings: Vec::new(),
            foreseen: Foreseen::default(),
            counter: None,
            second: false,
            hairpin,
        };
        survey.begin(cx);
        survey
    }

    /// Begins anew. What was known stays so meanwhile.
    pub(super) fn again(&mut self, cx: &mut Cx, servers: &[SocketAddr]) {
        self.close(cx, |_| true);
        let (earlier, patience) = (self.report.clone(), core::mem::take(&mut self.kept.patience));
        *self = Survey::begun(cx, self.place, self.vantage, self.port, servers, self.hairpin);
        self.kept.patience = patience;
        self.report.answers.clone_from(&earlier.answers);
        self.earlier = Some(earlier);
    }

    /// Notes what STUN servers say of the outside address. What a server has told that is not believed counts for nothing:
    /// another is asked.
    pub(super) fn hear(&mut self, cx: &mut Cx, answers: Vec<StunAnswer>) {
        if let Some(earlier) = &mut self.earlier {
            earlier.answers.clone_from(&answers);
        }
        self.report.answers = answers;
        if self.report.server.is_some_and(|server| self.is_disbelieved(server)) {
            self.close(cx, |_| true);
            self.filter.end(cx);
            let servers: Vec<SocketAddr> =
                self.servers.iter().copied().filter(|s| !self.is_disbelieved(*s)).collect();
            let (answers, earlier) = (core::mem::take(&mut self.report.answers), self.earlier.take());
            *self = Survey::begun(cx, self.place, self.vantage, self.port, &servers, self.hairpin);
            (self.report.answers, self.earlier) = (answers, earlier);
        }
    }

    /// Returns true if another server is believed that says otherwise.
    fn is_disbelieved(&self, server: SocketAddr) -> bool {
        let answers = &self.report.answers;
        let overruled = |a: &StunAnswer| a.server == server && a.said.is_some() && !a.believed;
        answers.iter().any(overruled) && answers.iter().any(|a| a.believed)
    }

    pub(super) fn end(&mut self, cx: &mut Cx) {
        self.close(cx, |_| true);
        self.filter.end(cx);
        cx.timers.set(Timer::Survey(self.place), None);
    }

    /// Over without what its servers could have told.
    pub(super) fn lacks(&self) -> bool {
        let Behaviour { mapping, allocation, .. } = self.report.behaviour;
        let unknown = allocation.is_none() || (self.second && mapping.is_none());
        self.done && !self.servers.is_empty() && unknown
    }

    pub(super) fn known(&self) -> Option<&NatReport> {
        if self.done { Some(&self.report) } else { self.earlier.as_ref() }
    }

    /// Returns how far the next mapping is foreseen, if the interface is said to have this address outside; of a `fresh` port, or
    /// of the listener's.
    pub(super) fn foreseen(&self, external: IpAddr, fresh: bool) -> Foreseen {
        let is_one = self.report.behaviour.mapping == Some(Mapping::EndpointIndependent);
        let address = match self.report.mapped {
            // It is there already.
            Some(mapped) if is_one && !fresh => 1000 * u32::from(mapped.ip() == external),
            _ => model::same_address(&self.mappings, external),
        };
        Foreseen { address, ..self.foreseen }
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
        let (sock, probe) = Probe::dial(cx, Owner::Survey(self.place), local, to, after);
        self.probes.insert(sock, (what, probe));
    }

    /// A connection is there: which question goes on it.
    pub(super) fn connected(&mut self, cx: &Cx, sock: SockId) -> Option<&Probe> {
        let (what, probe) = self.probes.get(&sock)?;
        match what {
            What::Anchor => self.report.round_trip = Some(cx.now.since(probe.began)),
            // It may be somebody else who answers: our listener has to have it.
            What::Hairpin => return None,
            What::Address | What::Port | What::Sample(_) => {}
        }
        Some(probe)
    }

    /// Notes a new stream at our listener, which may be our own hairpin dial.
    pub(super) fn accepted(&mut self, cx: &mut Cx, remote: SocketAddr) {
        let dialled = self.probes.values().any(|(what, _)| *what == What::Hairpin);
        if !dialled || self.report.mapped.is_none_or(|mapped| mapped.ip() != remote.ip()) {
            return;
        }
        self.report.hairpin = Some(true);
        self.close(cx, |what| what == What::Hairpin);
        self.conclude(cx);
    }

    pub(super) fn received(&mut self, cx: &mut Cx, sock: SockId, data: &[u8]) {
        let Some((what, probe)) = self.probes.get_mut(&sock) else { return };
        let (what, local, at) = (*what, probe.local, probe.began);
        let Some(reply) = probe.answer(cx, data) else { return };
        let server = match what {
            What::Address | What::Port | What::Sample(_) => self.report.server,
            What::Anchor | What::Hairpin => self.server(),
        };
        let plausible = |seen: &SocketAddr| {
            server.is_some_and(|s| self.vantage.may_be(s.ip(), seen.ip()) && !self.is_disbelieved(s))
        };
        let seen = reply.and_then(|r| probe::mapped(&r)).filter(plausible);
        let Some(seen) = seen else {
            // It is as good as none.
            self.probes.entry(sock).and_modify(|(_, probe)| probe.answered = false);
            return self.failed(cx, sock);
        };
        match what {
            What::Hairpin => {}
            What::Anchor if self.done => {
                if let Some(asked) = self.kept.asked.take() {
                    self.learn(cx, asked, at, seen);
                }
                self.kept.pause = ANCHOR_AGAIN;
                self.report.mapped = Some(seen);
                cx.read(sock, data.len() as u32);
                self.keep(cx);
            }
            What::Anchor => self.anchored(cx, seen, reply.and_then(|r| r.other)),
            What::Address => self.by_address = Some(seen),
            What::Port => self.by_port = Some(seen),
            What::Sample(n) => {
                self.seen[n] =
                    Some((local, seen, Sight { port: seen.port(), at, flows: sock.number() as u32 }));
            }
        }
        self.conclude(cx);
    }

    /// Learns from the answer to what was asked after a silence: on the same connection, or on one that `began` later.
    fn learn(&mut self, cx: &mut Cx, asked: Asked, began: Instant, seen: SocketAddr) {
        if began < asked.at {
            self.kept.patience.lives(asked.silent);
        }
        if asked.is_forgotten(cx.now, seen) {
            cx.memory.died(cx.now, self.kept.used, asked.silent);
        }
    }

    /// The server answered: everything else can be asked.
    fn anchored(&mut self, cx: &mut Cx, seen: SocketAddr, other: Option<SocketAddr>) {
        let server = self.servers[self.asked];
        self.report.mapped = Some(seen);
        self.report.server = Some(server);
        let stand_in = || self.servers.iter().copied().find(|s| s.ip() != server.ip());
        let second = other.filter(|o| is_other(server, *o));
        self.report.second_address = second.is_some();
        let by_address = second.map(|o| SocketAddr::new(o.ip(), server.port())).or_else(stand_in);
        self.second = by_address.is_some();
        if let Some(to) = by_address {
            self.dial(cx, What::Address, self.port, to, Duration::ZERO);
        }
        let listed = || self.servers.iter().find(|s| s.ip() == server.ip() && **s != server);
        let other_port = second.or_else(|| listed().copied()).map(|o| o.port());
        if let Some(port) = other_port.filter(|port| *port != server.port()) {
            self.dial(cx, What::Port, self.port, SocketAddr::new(server.ip(), port), Duration::ZERO);
        }
        if seen.ip() == self.report.local {
            return;
        }
        let first = cx.fresh_port();
        for (n, offset) in OFFSETS.into_iter().enumerate() {
            self.dial(cx, What::Sample(n), first + offset, server, SPACING * (n as u32 + 2));
        }
        if self.hairpin && is_dialable(seen.ip()) && may_name(server.ip(), seen.ip()) {
            // When the samples are over: they tell of the allocation.
            let port = cx.fresh_port();
            self.dial(cx, What::Hairpin, port, seen, SPACING * 10);
        }
    }

    pub(super) fn failed(&mut self, cx: &mut Cx, sock: SockId) {
        if self.filter.sock() == Some(sock) {
            self.filter = FilterTest::default();
            return self.conclude(cx);
        }
        let Some((what, probe)) = self.probes.remove(&sock) else { return };
        let answered = probe.answered;
        cx.close(sock, CloseHow::Drop);
        match what {
            What::Anchor if self.done => {
                // It ended while nothing was asked: so long, less a quarter, the server is patient.
                if answered {
                    self.kept.patience.ended(cx.now, cx.now.since(self.kept.used), 3);
                }
                cx.timers.set(Timer::Survey(self.place), Some(cx.now + self.kept.pause));
                self.turn(&probe);
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

    pub(super) fn timeout(&mut self, cx: &mut Cx) {
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

    /// Turns to the next server, and more slowly, after a connection that was never answered on.
    fn turn(&mut self, probe: &Probe) {
        let before = |asked: Asked| probe.began <= asked.at;
        if !probe.answered && !self.kept.asked.is_some_and(before) {
            self.asked = (self.asked + 1) % self.servers.len().max(1);
            self.kept.pause = (self.kept.pause * 2).min(LONGEST);
        }
    }

    /// Uses the connection that holds the mapping open, or makes it anew if it is gone or dead.
    fn refresh_anchor(&mut self, cx: &mut Cx) {
        let anchor = self.probes.iter_mut().find(|(_, (what, _))| *what == What::Anchor);
        match anchor {
            Some((sock, (_, probe))) if probe.answered => {
                probe.ask_again(cx, *sock);
                // Until it is answered.
                let silent = cx.now.since(self.kept.used);
                self.kept.asked = self.report.mapped.map(|mapped| Asked { silent, mapped, at: cx.now });
                cx.timers.set(Timer::Survey(self.place), Some(cx.now + probe::ANSWER_WITHIN * 2));
            }
            _ => {
                let unanswered =
                    self.probes.iter().find(|(_, (what, _))| *what == What::Anchor).map(|(s, _)| *s);
                if let Some((sock, (_, probe))) = unanswered.and_then(|sock| self.probes.remove_entry(&sock))
                {
                    cx.close(sock, CloseHow::Drop);
                    self.turn(&probe);
                }
                cx.timers.set(Timer::Survey(self.place), Some(cx.now + self.kept.pause));
                self.anchor(cx);
            }
        }
    }

    /// Plans the next use of the connection that holds the mapping open.
    fn keep(&mut self, cx: &mut Cx) {
        self.kept.used = cx.now;
        let every = cx.memory.held().min(self.kept.patience.most(cx.now));
        cx.timers.set(Timer::Survey(self.place), Some(memory::due(cx.now, every)));
    }

    /// Takes in that NATs remember less than was thought.
    pub(super) fn hurry(&mut self, cx: &mut Cx) {
        if self.done && self.probes.values().any(|(what, probe)| *what == What::Anchor && probe.answered) {
            let every = cx.memory.held().min(self.kept.patience.most(cx.now));
            cx.timers.set(Timer::Survey(self.place), Some(cx.now.max(self.kept.used + every)));
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
        self.report.samples =
            self.seen.iter().flatten().map(|(local, seen, _)| (*local, seen.port())).collect();
        let behaviour = &mut self.report.behaviour;
        if let Some(seen) = self.report.mapped {
            self.report.same_by_port = self.by_port.map(|by_port| by_port == seen);
            if seen.ip() == self.report.local {
                behaviour.mapping = Some(Mapping::None);
                behaviour.allocation = Some(Allocation::Equal);
            } else {
                self.mappings = self.in_order(seen);
                let last = self.seen.iter().flatten().next_back().map(|(.., sight)| *sight);
                self.judge(last);
            }
        }
        // A mapping that cannot be foreseen and serves others than its server is kept open, so that it stays true.
        let behaviour = self.report.behaviour;
        let serves = behaviour.foresight() == Foresight::Measured || behaviour.admits_all();
        let keep = serves && self.report.mapped.is_some();
        self.close(cx, |what| !(keep && what == What::Anchor));
        cx.timers.set(Timer::Survey(self.place), None);
        if keep {
            self.keep(cx);
        }
    }

    /// Returns the mappings that the survey has seen, in the order in which they were made; `first` is the listening port's.
    fn in_order(&self, first: SocketAddr) -> Vec<Seen> {
        let of_listener = [
            (Towards::Server, Some(first)),
            (Towards::OtherAddress, self.by_address),
            (Towards::OtherPort, self.by_port),
        ];
        let seen = |local, towards, external| Seen { local, towards, external };
        let of_listener = of_listener
            .into_iter()
            .filter_map(|(towards, external)| Some(seen(self.port, towards, external?)));
        let samples = self.seen.iter().flatten();
        let samples = samples.map(|(local, external, _)| seen(*local, Towards::Server, *external));
        of_listener.chain(samples).collect()
    }

    /// Judges the NAT by all its mappings that were seen, in the order in which they were made; `last` is that of the latest.
    fn judge(&mut self, last: Option<Sight>) {
        let Some(judged) = model::judge(&self.mappings) else { return };
        self.report.hypotheses = judged.hypotheses.to_vec();
        let behaviour = &mut self.report.behaviour;
        (behaviour.mapping, behaviour.allocation) = (judged.mapping, judged.allocation);
        self.foreseen = Foreseen { certainty: judged.certainty, port: judged.share, address: 1000 };
        self.counter = match (behaviour.foresight(), last) {
            (Foresight::Next(step), Some(last)) => Some(Counter::new(step, last)),
            _ => None,
        };
    }

    /// Takes in one more mapping of a fresh port. Where ports are random it tells more of their range; where they are counted,
    /// all is judged again once mappings do not follow.
    pub(super) fn watch(&mut self, local: u16, external: SocketAddr, sight: Sight) {
        if self.mappings.len() >= MAX_SEEN {
            // The first three are those that tell mappings apart.
            self.mappings.remove(3);
        }
        self.mappings.push(Seen { local, towards: Towards::Server, external });
        let follows = self.counter.as_mut().map(|c| c.see(sight).is_ok());
        if self.done && self.report.behaviour.is_symmetric() && follows != Some(true) {
            self.judge(Some(sight));
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

    /// Returns the time to wait for an answer that a filter may swallow.
    fn patience(&self) -> Duration {
        SWALLOWED_AFTER.max(self.report.round_trip.unwrap_or_default() * 3)
    }

    /// The server that is asked. `None`: all have failed over TCP.
    fn server(&self) -> Option<SocketAddr> {
        self.servers.get(self.asked).copied()
    }

    pub(super) fn bound(&mut self, cx: &mut Cx) {
        if self.filter.bound(cx, self.server()) {
            self.arm(cx);
        }
    }

    pub(super) fn datagram(&mut self, cx: &mut Cx, from: SocketAddr, data: &[u8]) {
        if self.filter.datagram(cx, self.server(), from, data) {
            self.conclude(cx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nat_forgets_where_the_port_is_another_at_the_same_address_and_soon() {
        let at = |n| Instant::ZERO + Duration::from_secs(n);
        let seen = |host, port| SocketAddr::from(([203, 0, 113, host], port));
        let asked = Asked { silent: Duration::from_secs(100), mapped: seen(1, 40_000), at: at(100) };
        assert!(asked.is_forgotten(at(115), seen(1, 40_001)));
        assert!(!asked.is_forgotten(at(115), seen(1, 40_000)), "the same mapping");
        assert!(!asked.is_forgotten(at(116), seen(1, 40_001)), "an outage");
        assert!(!asked.is_forgotten(at(101), seen(2, 40_001)), "another outside address");
    }
}
