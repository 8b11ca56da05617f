//! The addresses that the world sees: STUN Binding (RFC 8489) from each of our interfaces.
//!
//! Each chosen interface asks up to three servers at once over UDP, and repeats at 0.5 s and 1.5 s (RFC 8489
//! section 6.2.1, cut short). Of a server's name every address is asked, one shortly after the other. An address that two
//! servers agree on ends the wait for the others, and the first answer of a host ends the wait for its other ports.
//! After one second one answer is enough; without any, those servers are asked over TCP too, since networks drop UDP.
//!
//! What a server says has to be plausible: no address that cannot be ours counts. Where the rest disagree, an address of
//! the internet that was seen over the internet goes before others, then the interface's own, then the one named most
//! often, then the one named by the first in the list.

use core::time::Duration;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use smallvec::SmallVec;

use super::question::Question;
use super::vantage::{Vantage, is_outside};
use crate::config::StunServer;
use crate::cx::{Cx, Owner, Timer};
use crate::failure::IoFailure;
use crate::io::{CloseHow, QueryId, SockId};
use crate::time::Instant;
use crate::wire::Transport;
use crate::wire::stun::{self, BindingOutcome};

/// Servers asked per interface.
const SERVERS: usize = 3;
/// Time after which UDP is given up.
const UDP_UNTIL: Duration = Duration::from_millis(3000);
/// Time after which one answer is enough, and TCP is tried beside UDP if there is none.
const UDP_ALONE: Duration = Duration::from_secs(1);
/// Limit of the attempts over TCP after that, dials included.
const TCP_WITHIN: Duration = Duration::from_secs(3);
/// Limit of a name look-up.
const RESOLVE_WITHIN: Duration = Duration::from_secs(3);

/// The client for all interfaces.
#[derive(Debug)]
pub(crate) struct External {
    servers: Vec<StunServer>,
    /// Look-ups in flight, by place in `servers`.
    queries: BTreeMap<QueryId, usize>,
    /// Addresses of the servers, in the order of the configuration.
    addresses: BTreeMap<usize, SmallVec<[IpAddr; 2]>>,
    probes: Vec<Probe>,
    started: bool,
}

/// Query about one interface.
#[derive(Debug)]
struct Probe {
    vantage: Vantage,
    state: State,
    /// Answers by the place of the server in the configuration.
    answers: BTreeMap<usize, StunAnswer>,
    /// True from the end of the probe until that was noticed.
    news: bool,
    /// Servers that were asked, by place in the configuration.
    asked: SmallVec<[usize; SERVERS]>,
    /// Questions that are not answered.
    open: SmallVec<[Question; SERVERS]>,
    /// True while an interface with an earlier result is asked about again.
    again: bool,
    /// Result of the earlier query.
    earlier: Option<IpAddr>,
}

/// Answer of a STUN server about one of our interfaces.
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: programs that pass reports on write some in their tests.
pub struct StunAnswer {
    /// The server, at the address that answered.
    pub server: SocketAddr,
    /// The address that it claims to see, if it named one.
    pub said: Option<IpAddr>,
    /// True if the interface can have that address outside.
    pub plausible: bool,
    /// True if that is what we take for our address outside.
    pub believed: bool,
}

#[derive(Debug)]
enum State {
    /// No server's address is known.
    Waiting,
    Binding {
        sock: SockId,
    },
    /// Asking over UDP where there is a socket, and over the open questions' streams.
    Asking {
        udp: Option<SockId>,
        since: Instant,
    },
    /// The answer, if there is one.
    Done(Option<IpAddr>),
}

impl External {
    pub(crate) fn new(servers: Vec<StunServer>) -> Self {
        External {
            servers,
            queries: BTreeMap::new(),
            addresses: BTreeMap::new(),
            probes: Vec::new(),
            started: false,
        }
    }

    /// Asks, or asks anew, from these local addresses.
    pub(crate) fn start(&mut self, cx: &mut Cx, vantages: impl Iterator<Item = Vantage>) {
        self.stop(cx);
        self.started = true;
        let none = self.servers.is_empty();
        let state = || if none { State::Done(None) } else { State::Waiting };
        self.probes = vantages
            .map(|vantage| Probe {
                vantage,
                state: state(),
                answers: BTreeMap::new(),
                news: false,
                asked: SmallVec::new(),
                open: SmallVec::new(),
                again: false,
                earlier: None,
            })
            .collect();
        // A look-up that is under way may wait for a name server of another network.
        for query in core::mem::take(&mut self.queries).into_keys() {
            cx.cancel(query);
        }
        for (place, server) in self.servers.iter().enumerate() {
            if self.addresses.get(&place).is_some_and(|known| !known.is_empty()) {
                continue;
            }
            match server.host.parse::<IpAddr>() {
                Ok(ip) => {
                    self.addresses.insert(place, SmallVec::from_slice(&[ip]));
                }
                Err(_) => {
                    let query = cx.resolve(Owner::External, server.host.clone(), RESOLVE_WITHIN);
                    self.queries.insert(query, place);
                }
            }
        }
        self.ask_all(cx);
    }

    /// Returns true if there are servers and an interface got no answer from any.
    pub(crate) fn lacks(&self) -> bool {
        !self.servers.is_empty() && self.probes.iter().any(|p| matches!(p.state, State::Done(None)))
    }

    /// Asks anew for the interfaces that got no answer, or for all. They stay settled meanwhile, with what they had.
    pub(crate) fn ask_again(&mut self, cx: &mut Cx, all: bool) {
        for probe in &mut self.probes {
            let State::Done(found) = probe.state else { continue };
            if found.is_some() && !all {
                continue;
            }
            probe.earlier = found.or(probe.earlier);
            probe.state = State::Waiting;
            probe.answers.clear();
            probe.again = true;
        }
        // A look-up that found nothing is made again too.
        for (place, server) in self.servers.iter().enumerate() {
            let unknown = self.addresses.get(&place).is_some_and(SmallVec::is_empty);
            if unknown && !self.queries.values().any(|p| *p == place) {
                let query = cx.resolve(Owner::External, server.host.clone(), RESOLVE_WITHIN);
                self.queries.insert(query, place);
            }
        }
        self.ask_all(cx);
        self.arm(cx);
    }

    /// Has the servers' names looked up again when it is [`start`](Self::start)ed the next time.
    pub(crate) fn forget_addresses(&mut self) {
        self.addresses.clear();
    }

    /// Closes what is open.
    pub(crate) fn stop(&mut self, cx: &mut Cx) {
        for probe in &mut self.probes {
            probe.end(cx, None);
        }
        cx.timers.set(Timer::External, None);
    }

    /// The servers' addresses in the order of the configuration, those of each that have answered first. They are known
    /// once the look-ups are done, and where one has several addresses once one has answered; or once nobody is asked any more.
    pub(crate) fn servers(&self, cx: &Cx) -> Option<Vec<SocketAddr>> {
        let several = |ips: &SmallVec<[IpAddr; 2]>| {
            [true, false].iter().any(|v4| ips.iter().filter(|ip| ip.is_ipv4() == *v4).count() > 1)
        };
        let clear = self.queries.is_empty() && (self.heard() || !self.addresses.values().any(several));
        let of = |(place, ips): (&usize, &SmallVec<[IpAddr; 2]>)| {
            let server = &self.servers[*place];
            let order = cx.experience.order(&server.host, ips);
            order.into_iter().map(|ip| SocketAddr::new(ip, server.port)).collect::<Vec<_>>()
        };
        (clear || self.settled()).then(|| self.addresses.iter().flat_map(of).collect())
    }

    /// Returns true if every interface has its answer or has given up.
    pub(crate) fn settled(&self) -> bool {
        self.started && self.probes.iter().all(|p| p.again || matches!(p.state, State::Done(_)))
    }

    /// Returns true once every interface has an answer, from one server at least, or has given up.
    pub(crate) fn heard(&self) -> bool {
        let heard = |p: &Probe| p.again || matches!(p.state, State::Done(_)) || p.winner().is_some();
        self.started && self.probes.iter().all(heard)
    }

    /// Returns the outside address of this local address, as far as known.
    pub(crate) fn of(&self, local: IpAddr) -> Option<IpAddr> {
        self.probes.iter().find(|p| p.vantage.ip == local).and_then(|p| match p.state {
            State::Done(found) => found.or(p.earlier),
            _ => p.earlier.or_else(|| p.winner()),
        })
    }

    /// Returns the answers about this local address.
    pub(crate) fn answers(&self, local: IpAddr) -> Vec<StunAnswer> {
        let probe = self.probes.iter().find(|p| p.vantage.ip == local);
        let answers = probe.into_iter().flat_map(|p| p.answers.values());
        let found = self.of(local);
        answers.map(|a| StunAnswer { believed: a.plausible && a.said == found, ..*a }).collect()
    }

    /// Returns true if a probe has ended since the last call.
    pub(crate) fn take_news(&mut self) -> bool {
        let mut news = self.probes.iter_mut().map(|p| core::mem::take(&mut p.news));
        news.any(|news| news)
    }

    pub(crate) fn resolved(
        &mut self,
        cx: &mut Cx,
        query: QueryId,
        result: Result<SmallVec<[IpAddr; 2]>, IoFailure>,
    ) {
        let Some(place) = self.queries.remove(&query) else { return };
        self.addresses.insert(place, result.unwrap_or_default());
        self.ask_all(cx);
        self.arm(cx);
    }

    pub(crate) fn bound(&mut self, cx: &mut Cx, sock: SockId) {
        let Some(probe) = self.probe(sock).filter(|p| matches!(p.state, State::Binding { .. })) else {
            return;
        };
        probe.state = State::Asking { udp: Some(sock), since: cx.now };
        self.drive(cx);
    }

    pub(crate) fn datagram(&mut self, cx: &mut Cx, sock: SockId, from: SocketAddr, data: &[u8]) {
        let asking = |p: &&mut Probe| matches!(p.state, State::Asking { .. });
        let Some(probe) = self.probe(sock).filter(asking) else { return };
        if probe.datagram(cx, from, data).is_none() {
            cx.stats.bad_stun += 1;
        }
        self.drive(cx);
    }

    pub(crate) fn connected(&mut self, cx: &mut Cx, sock: SockId) {
        if let Some((probe, n)) = self.stream(sock) {
            probe.open[n].connected(cx, sock);
        }
        self.drive(cx);
    }

    pub(crate) fn received(&mut self, cx: &mut Cx, sock: SockId, data: &[u8]) {
        if let Some((probe, n)) = self.stream(sock) {
            probe.received(cx, n, data);
        }
        self.drive(cx);
    }

    /// The driver says that a socket failed, or that its stream ended.
    pub(crate) fn failed(&mut self, cx: &mut Cx, sock: SockId) {
        if let Some((probe, n)) = self.stream(sock) {
            probe.open[n].failed(cx, sock);
        } else if let Some(probe) = self.probe(sock) {
            cx.close(sock, CloseHow::Drop);
            let since = if let State::Asking { since, .. } = probe.state { since } else { cx.now };
            probe.state = State::Asking { udp: None, since };
        }
        self.drive(cx);
    }

    pub(crate) fn timeout(&mut self, cx: &mut Cx) {
        self.drive(cx);
    }

    /// Does what is due.
    fn drive(&mut self, cx: &mut Cx) {
        let pending = !self.queries.is_empty();
        for probe in &mut self.probes {
            probe.drive(cx, pending);
        }
        self.arm(cx);
    }

    /// Asks those servers for every interface whose addresses are known by now. Nobody waits for a look-up of another.
    fn ask_all(&mut self, cx: &mut Cx) {
        let pending = !self.queries.is_empty();
        for probe in &mut self.probes {
            let local = probe.vantage.ip;
            if matches!(probe.state, State::Waiting) {
                probe.open.clear();
                probe.asked.clear();
            } else if !matches!(probe.state, State::Binding { .. } | State::Asking { .. }) {
                continue;
            }
            for (place, all) in &self.addresses {
                let family = |ip: &IpAddr| ip.is_ipv4() == local.is_ipv4();
                let ips: SmallVec<[IpAddr; 2]> = all.iter().copied().filter(family).collect();
                let server = &self.servers[*place];
                // A host has one vote, by however many of its ports.
                let has_voted = probe.answers.keys().any(|voted| self.servers[*voted].host == server.host);
                if !ips.is_empty()
                    && !has_voted
                    && probe.asked.len() < SERVERS
                    && !probe.asked.contains(place)
                {
                    probe.asked.push(*place);
                    let of = (*place, &*server.host, server.port);
                    probe.open.push(Question::new(cx, of, ips, UDP_UNTIL));
                }
            }
            match probe.state {
                State::Waiting if !probe.open.is_empty() => {
                    let sock = cx.bind_udp(Owner::External, SocketAddr::new(local, 0));
                    probe.state = State::Binding { sock };
                }
                State::Waiting if !pending => probe.state = State::Done(None),
                _ => probe.drive(cx, pending),
            }
        }
    }

    fn probe(&mut self, sock: SockId) -> Option<&mut Probe> {
        self.probes.iter_mut().find(|p| p.sock() == Some(sock))
    }

    /// The probe and the place of its open question to which a stream belongs.
    fn stream(&mut self, sock: SockId) -> Option<(&mut Probe, usize)> {
        self.probes.iter_mut().find_map(|p| {
            let n = p.open.iter().position(|q| q.has(sock))?;
            Some((p, n))
        })
    }

    fn arm(&self, cx: &mut Cx) {
        cx.timers.set(Timer::External, self.probes.iter().filter_map(|p| p.due(cx.now)).min());
    }
}

impl Probe {
    /// The socket for UDP.
    fn sock(&self) -> Option<SockId> {
        match self.state {
            State::Binding { sock } => Some(sock),
            State::Asking { udp, .. } => udp,
            State::Waiting | State::Done(_) => None,
        }
    }

    /// Does what is due; `pending` says that further servers may be asked.
    fn drive(&mut self, cx: &mut Cx, pending: bool) {
        let State::Asking { udp, since } = self.state else { return };
        let waited = cx.now >= since + UDP_ALONE;
        if self.is_enough(waited, pending) || self.until(udp, since, pending) <= cx.now {
            return self.end(cx, self.winner());
        }
        for question in &mut self.open {
            if let Some(sock) = udp {
                question.ask_over_udp(cx, sock);
            }
            if udp.is_none() || waited {
                question.ask_over_tcp(cx, self.vantage.ip, TCP_WITHIN);
            }
        }
    }

    /// Returns true if the answers so far will do. `waited` says that one of them is enough.
    fn is_enough(&self, waited: bool, pending: bool) -> bool {
        let seen = |ip| self.answers.values().filter(|a| a.plausible && a.said == Some(ip)).count();
        // Whoever has not answered may be on the internet, and the others not.
        let outranked = |ip| {
            !self.answers.values().any(|a| a.said == Some(ip) && a.is_outside())
                && self.open.iter().any(Question::is_at_the_internet)
        };
        (self.open.is_empty() && !pending)
            || self.winner().is_some_and(|ip| (waited || seen(ip) >= 2) && !outranked(ip))
    }

    /// Returns the time at which what has not answered is given up.
    fn until(&self, udp: Option<SockId>, since: Instant, pending: bool) -> Instant {
        let failed = self.open.iter().all(Question::has_failed_over_tcp);
        match udp {
            None if failed && !pending => since,
            Some(_) if failed => since + UDP_UNTIL,
            _ => since + UDP_ALONE + TCP_WITHIN,
        }
    }

    /// Returns the time to [`drive`](Self::drive) the probe.
    fn due(&self, now: Instant) -> Option<Instant> {
        let State::Asking { udp, since } = self.state else { return None };
        let asked = self.open.iter().filter_map(|q| q.due(udp.is_some()));
        let begin = Some(since + UDP_ALONE).filter(|at| *at > now);
        asked.chain(begin).chain([self.until(udp, since, true)]).min()
    }

    /// Takes an answer over UDP. `None`: it is none.
    fn datagram(&mut self, cx: &mut Cx, from: SocketAddr, data: &[u8]) -> Option<()> {
        let reply = stun::decode_binding(data, Transport::Udp).ok()?;
        let n = self.open.iter().position(|question| question.is_answered_by(from, &reply))?;
        self.answered(cx, n, from, reply.outcome);
        Some(())
    }

    /// Takes bytes of the stream of the open question `n`.
    fn received(&mut self, cx: &mut Cx, n: usize, data: &[u8]) {
        if let Some((at, outcome)) = self.open[n].received(cx, data) {
            self.answered(cx, n, at, outcome);
        }
    }

    /// Takes the answer to the open question `n`, and ends those of the same host.
    fn answered(&mut self, cx: &mut Cx, n: usize, from: SocketAddr, outcome: BindingOutcome) {
        let (place, host) = (self.open[n].place(), Box::<str>::from(self.open[n].host()));
        self.open.retain(|q| {
            let is_other = q.host() != &*host;
            if !is_other {
                q.close(cx);
            }
            is_other
        });
        cx.experience.works(&host, from.ip());
        self.count(place, from, outcome);
    }

    fn count(&mut self, place: usize, server: SocketAddr, outcome: BindingOutcome) {
        let said = match outcome {
            BindingOutcome::Mapped(mapped) => Some(mapped.ip().to_canonical()),
            BindingOutcome::Error(_) => None,
        };
        let plausible = said.is_some_and(|ip| self.vantage.may_be(server.ip(), ip));
        self.answers.insert(place, StunAnswer { server, said, plausible, believed: false });
    }

    fn winner(&self) -> Option<IpAddr> {
        let plausible = || self.answers.values().filter(|a| a.plausible);
        let votes = |said| plausible().filter(|a| a.said == said).count();
        let rank = |a: &StunAnswer| (a.is_outside(), a.said == Some(self.vantage.ip), votes(a.said));
        // Of equals the last is the greatest, and the first in the list is to be.
        plausible().rev().max_by_key(|a| rank(a)).and_then(|a| a.said)
    }

    fn end(&mut self, cx: &mut Cx, found: Option<IpAddr>) {
        if matches!(self.state, State::Done(_)) {
            return;
        }
        if let Some(sock) = self.sock() {
            cx.close(sock, CloseHow::Drop);
        }
        for mut question in core::mem::take(&mut self.open) {
            question.close(cx);
        }
        self.state = State::Done(found);
        self.news = true;
    }
}

impl StunAnswer {
    fn is_outside(&self) -> bool {
        is_outside(self.server.ip(), self.said)
    }
}
