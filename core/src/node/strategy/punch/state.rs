//! A punch under way: the known behaviour of each side, the dials that wait and live, and a description in words.

use core::fmt::Write;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

use smallvec::SmallVec;

use crate::call::ConnectId;
use crate::identity::NodeId;
use crate::io::SockId;
use crate::limit::Bucket;
use crate::nat::Foreseen;
use crate::node::admission::{Kind, Place};
use crate::pipe::Terms;
use crate::session::SessionId;
use crate::strategy::ours::Trust;
use crate::strategy::punch::{self, Belief, Ground, Ports, Side, Spray, Tactic};
use crate::time::Instant;

/// SYNs a second, and at once. EasyTier's 5,000 made routers fall over; two hundred a second are a web page.
pub(super) const SYN_EVERY: Duration = Duration::from_millis(2);
pub(super) const SYN_BURST: u32 = 16;
/// Interval of SYNs in a search whose dials are refused. Such dials leave nothing half-open behind. Each hole lasts for
/// one round trip only, so that twice as fast on each side is four times the hits.
const SYN_EVERY_REFUSED: Duration = Duration::from_micros(500);
/// Number of refusals which shows that dials are refused.
const REFUSALS: u32 = 32;
/// Dials of one call to addresses from where nothing has come. The requester names the address, and it may be
/// anybody's. Where our user named it, where something has come back, or where the peer has proved to be, searches go
/// on.
pub(super) const SILENT_DIALS: u32 = 32;
/// Addresses remembered from where something has come.
const MAX_TOOK_PART: usize = 16;
/// Dials remembered that left a hole in our NAT behind.
const MAX_STALE: usize = 64;

/// Dials to an address from where nothing has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silent {
    pub(super) dials: u32,
    /// Time of the first.
    pub(super) since: Instant,
}

/// A punch under way.
#[derive(Debug)]
pub(super) struct Punch {
    pub(super) peer: NodeId,
    /// The call, where it is ours.
    pub(super) connect: Option<ConnectId>,
    pub(super) trust: Trust,
    pub(super) terms: Terms,
    pub(super) via: SmallVec<[u8; 2]>,
    pub(super) rung: u8,
    /// Addresses that the peer may come from.
    pub(super) sources: SmallVec<[IpAddr; 4]>,
    /// Address of the interface that the punch leaves from.
    pub(super) local: IpAddr,
    pub(super) stage: PunchStage,
    /// The local port for dials that need not have one of their own.
    pub(super) port: u16,
    pub(super) ours: Side,
    pub(super) theirs: Option<Side>,
    /// Time between our answer and its arrival, as far as known.
    pub(super) delay: Duration,
    pub(super) began: Instant,
    pub(super) announced: Instant,
    /// Time from our announcement to our dials, on the rung before.
    pub(super) took: Option<Duration>,
    pub(super) until: Instant,
    pub(super) waiting: VecDeque<Planned>,
    pub(super) search: Option<Search>,
    pub(super) flows: Flows,
    pub(super) live: BTreeMap<SockId, Planned>,
    pub(super) budget: Bucket,
    pub(super) dials: u32,
    /// Messages of the peer's that asked for rungs.
    pub(super) asked: u32,
    /// Dials to addresses from where nothing has come.
    pub(super) silent: BTreeMap<IpAddr, Silent>,
    /// Proofs that were asked for, by us or by the peer.
    pub(super) proofs: u8,
    /// Addresses that our user named, or from where something has come.
    pub(super) took_part: SmallVec<[IpAddr; 4]>,
    /// True if the punch dials no further until something comes.
    pub(super) stalls: bool,
    /// True if the rung before ended so.
    pub(super) stalled: bool,
    pub(super) refused: u32,
    /// True if dials of a search are refused, so that it goes faster.
    pub(super) hurries: bool,
    pub(super) tactic: Option<Tactic>,
    /// True if dials leave from a port of their own.
    pub(super) fresh: bool,
    /// Listeners on such ports, where our filter lets in other ports than those that we dial.
    pub(super) listeners: BTreeMap<u16, SockId>,
    /// Foresight of our next mapping.
    pub(super) foreseen: Foreseen,
    /// Belief after the rungs before.
    pub(super) belief: Belief,
    /// Ground that the rung rests on.
    pub(super) ground: Option<Ground>,
    /// The stated probability that the rung connects, in thousandths.
    pub(super) stated: Option<u16>,
    /// Addresses that the listener's port has dialled, where that dial is gone. Our NAT expects the sequence numbers of
    /// such a dial. Linux's connection tracking lets another stream of the same ends through up to its FIN, or for two
    /// minutes.
    pub(super) stale: BTreeSet<SocketAddr>,
    pub(super) tainted: u8,
    /// The order in which ports are probed, and how many were.
    pub(super) walk: u64,
    pub(super) probed: u16,
    /// True if our NAT was measured before the rung began.
    pub(super) surveyed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::node) enum PunchStage {
    /// A fresh sample is under way.
    Sampling,
    /// Waiting: our mappings are known, the peer's are not yet.
    Announced,
    Punching,
    /// The rung is over; the peer, who asked, may begin another.
    Resting,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Planned {
    /// Local port; 0 for a fresh one.
    pub(super) from: u16,
    pub(super) to: SocketAddr,
    pub(super) tries: u8,
    pub(super) at: Instant,
    /// True for a dial that is not repeated.
    pub(super) once: bool,
    /// True if a listener is to wait on the local port.
    pub(super) listens: bool,
}

impl Planned {
    /// Returns true if the dial may be armed now. A first dial is armed early, and fired by the driver at its time. A
    /// dial after a refusal is not, since much may happen until then.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.tries == 0 || self.at <= now
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Search {
    Spray { to: SocketAddr, left: u16, listens: bool },
    Probe { to: IpAddr, ports: Ports, key: u64, next: u16, count: u16 },
}

/// Local ports that went to the first agreed port, where their mappings serve the peer's whole address. They go to the next agreed
/// port too: of a small block they have all ports, and somebody else may have had the first one.
#[derive(Default, Debug)]
pub(super) struct Flows {
    drawn: Vec<u16>,
    /// Number of those that have gone to the next one.
    again: usize,
}

impl Flows {
    /// Returns the local port of the next dial of a search, or 0 for a fresh one.
    fn again(&mut self, rung: u8) -> u16 {
        if rung < punch::SAME_PORT_FOR {
            return 0;
        }
        let next = self.drawn.get(self.again).copied().unwrap_or(0);
        self.again += 1;
        next
    }
}

impl Punch {
    /// Notes that a dial is gone, though our NAT's entry for it may not be.
    pub(super) fn leaves_hole(&mut self, dial: Planned) {
        if dial.from == self.ours.listen && self.stale.len() < MAX_STALE {
            self.stale.insert(dial.to);
        }
    }

    /// Notes that something has come from this address. Returns the dials to it that were taken for silent ones, and
    /// whether a punch that had stopped goes on.
    pub(super) fn took_part(&mut self, ip: IpAddr) -> (Option<Silent>, bool) {
        if !self.took_part.contains(&ip) && self.took_part.len() < MAX_TOOK_PART {
            self.took_part.push(ip);
        }
        let goes_on = self.stalls && self.next_silent().is_none();
        self.stalls &= !goes_on;
        (self.silent.remove(&ip), goes_on)
    }

    /// Returns the address of the next dial if nothing has come from there.
    pub(super) fn next_silent(&self) -> Option<IpAddr> {
        let next = match (self.waiting.front(), self.search) {
            (Some(planned), _) => planned.to.ip(),
            (None, Some(Search::Spray { to, .. })) => to.ip(),
            (None, Some(Search::Probe { to, .. })) => to,
            (None, None) => return None,
        };
        (!self.took_part.contains(&next)).then_some(next)
    }

    /// Returns true if the punch dials no further until something comes.
    pub(super) fn stalls(&self) -> bool {
        self.stalls
    }

    /// Returns true if the rung's tactic is a search.
    pub(super) fn searches(&self) -> bool {
        matches!(self.tactic, Some(Tactic::Spray { .. } | Tactic::Probe { .. }))
    }

    pub(super) fn was_refused(&mut self) {
        self.refused += 1;
        if self.searches() && self.refused >= REFUSALS && !self.hurries {
            self.hurries = true;
            self.budget = Bucket::new(SYN_BURST, SYN_EVERY_REFUSED);
        }
        let Some(Tactic::Probe { to, ports, .. }) = self.tactic else { return };
        // A refused probe has left no hole: one more takes its place, unless our NAT may have no port for it.
        if self.ours.is_scarce() {
            return;
        }
        match &mut self.search {
            Some(Search::Probe { count, .. }) => *count = count.saturating_add(1),
            Some(Search::Spray { .. }) => {}
            None => {
                let (key, next) = (self.walk, self.probed);
                self.search = Some(Search::Probe { to, ports, key, next, count: next.saturating_add(1) });
            }
        }
    }

    pub(super) fn tactic(&self) -> Option<Tactic> {
        Some(punch::tactic(&self.ours, self.theirs.as_ref()?, self.rung))
    }

    /// Notes a local port that a dial has drawn.
    pub(super) fn draws(&mut self, port: u16) {
        let agreed = matches!(self.tactic, Some(Tactic::Spray { with: Spray::Agreed, .. }));
        if agreed && self.ours.behaviour.shares_mapping() && self.rung < punch::SAME_PORT_FOR {
            self.flows.drawn.push(port);
        }
    }

    /// Returns the next dial that is due.
    pub(super) fn next(&mut self, now: Instant) -> Option<Planned> {
        // A port that was refused has its hole or a listener still, so that another one is worth more.
        if self.search.is_none() && self.waiting.front().is_some_and(|p| p.is_due(now)) {
            return self.waiting.pop_front();
        }
        let (listen, once) = (self.port, !self.ours.is_scarce());
        let (planned, left) = match self.search? {
            Search::Spray { to, left, listens } => {
                let from = self.flows.again(self.rung);
                let planned = Planned { from, to, tries: 0, at: now, once: false, listens };
                (planned, (left > 1).then(|| Search::Spray { to, left: left - 1, listens }))
            }
            Search::Probe { to, ports, key, next, count } => {
                let to_port = SocketAddr::new(to, ports.nth(key, next));
                let planned = Planned { from: listen, to: to_port, tries: 0, at: now, once, listens: false };
                self.probed = next.saturating_add(1);
                let rest = Search::Probe { to, ports, key, next: self.probed, count };
                (planned, (self.probed < count).then_some(rest))
            }
        };
        self.search = left;
        Some(planned)
    }

    /// Forgets the dials that are planned; those under way go on.
    pub(super) fn dial_no_more(&mut self) {
        self.waiting.clear();
        self.search = None;
    }

    /// Returns the time from our announcement to our dials; `signal` is our way to the broker.
    pub(super) fn until_dials(&self, signal: Duration) -> Duration {
        // The one who asked waits for the answer; the peer's way to the broker is taken to be as long as ours.
        let first = if self.theirs.is_some() { self.delay } else { signal * 4 };
        self.took.unwrap_or(first)
    }

    /// Returns true if the peer's ports are random, so that much depends on what our NAT lets in.
    pub(super) fn gropes(&self) -> bool {
        self.theirs.as_ref().is_some_and(|t| t.ports.is_empty())
    }

    #[cfg(test)]
    pub(super) fn announced(&self) -> &[u16] {
        &self.ours.ports
    }

    /// Returns the place that a peer's punch takes.
    pub(super) fn place(&self, session: SessionId, answered: bool) -> Place {
        Place { kind: Kind::Punch, session, peer: self.peer, trust: self.trust, since: self.began, answered }
    }

    pub(super) fn local(&self) -> IpAddr {
        self.local
    }

    /// Returns true if another rung would end no better.
    pub(super) fn is_hopeless(&self) -> bool {
        matches!(self.tactic, Some(Tactic::Hopeless(_)))
    }

    /// Notes what the rung rests on, and the probability that it connects. Nothing is stated before both NATs are measured.
    pub(super) fn state(&mut self, tactic: &Tactic) {
        let Some(theirs) = &self.theirs else { return };
        if !(self.ours.behaviour.is_surveyed() && theirs.behaviour.is_surveyed()) {
            return;
        }
        let foreseen = punch::rests_on(&self.ours, theirs, self.rung, self.foreseen);
        let hit = punch::chance(&self.ours, theirs, tactic, self.rung);
        let ground = Ground {
            hit: hit * foreseen.port / 1000 * foreseen.address / 1000,
            certainty: foreseen.certainty,
            by_filter: punch::relies_on_filters(&self.ours, theirs, self.rung),
        };
        let is_tried = !matches!(tactic, Tactic::Hopeless(_));
        self.ground = is_tried.then_some(ground);
        self.stated = Some(if is_tried { self.belief.states(ground) } else { 0 });
    }

    /// Returns what is believed once the rung has come to nothing.
    pub(super) fn belief_after(&self) -> Belief {
        let mut belief = self.belief;
        if let Some(ground) = self.ground {
            belief.missed(ground);
        }
        belief
    }

    pub(super) fn describe(&self, now: Instant) -> String {
        let mut text = format!("our NAT: {}", self.ours.behaviour);
        if let Some(theirs) = &self.theirs {
            // Writing to a String cannot fail.
            let _ = write!(text, "; the peer's: {}", theirs.behaviour);
        }
        let seconds = now.since(self.began).as_millis() as f64 / 1e3;
        let p = f64::from(self.stated.unwrap_or(0)) / 10.0;
        let _ = match (&self.tactic, self.stage) {
            (None, PunchStage::Announced) => write!(text, "; the peer did not answer"),
            (None, _) => write!(text, "; our ports could not be told in time"),
            (Some(Tactic::Hopeless(why)), _) => write!(text, "; {why}"),
            (Some(Tactic::Meet(_)), _) => {
                write!(
                    text,
                    "; {} dials, {} of them refused, met nobody in {seconds:.1} s",
                    self.dials, self.refused
                )
            }
            (Some(Tactic::Await), _) => {
                write!(
                    text,
                    "; the peer was to dial a port that is open to anybody, and did not in {seconds:.1} s"
                )
            }
            (Some(Tactic::Spray { .. }), _) => {
                write!(text, "; {} dials for a hit at P = {p} % found nothing in {seconds:.1} s", self.dials)
            }
            (Some(Tactic::Probe { .. }), _) => {
                write!(text, "; {} probes at P = {p} % found nothing in {seconds:.1} s", self.dials)
            }
        };
        text
    }
}
