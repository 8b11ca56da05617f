//! The addresses that the world sees: STUN Binding (RFC 8489) from each of our interfaces.
//!
//! Each chosen interface asks up to three servers at once over UDP, repeats at 0.5 s and 1.5 s (RFC 8489
//! section 6.2.1, cut short), and where no server answers over UDP asks the first over TCP. Of a server's name every
//! address is asked, one shortly after the other. An address that two servers agree on ends the wait for the others, and
//! the first answer of a host ends the wait for its other ports.
//!
//! What a server says has to be plausible: no address that cannot be ours counts. Where the rest disagree, an address of
//! the internet that was seen over the internet goes before others, then the interface's own, then the one named most
//! often, then the one named by the first in the list.

use core::time::Duration;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use smallvec::SmallVec;

use super::vantage::{Vantage, is_outside};
use crate::config::StunServer;
use crate::cx::{Cx, Owner, Timer};
use crate::failure::IoFailure;
use crate::io::{CloseHow, QueryId, SockId};
use crate::random::Domain;
use crate::reach::{Reach, reach};
use crate::server::{Dials, Race};
use crate::time::Instant;
use crate::wire::Transport;
use crate::wire::stun::{self, BindingOutcome, StunSplitter, TransactionId};

/// Servers asked per interface.
const SERVERS: usize = 3;
/// A transaction is sent at these times after its start.
const SEND_AT: [Duration; 3] = [Duration::ZERO, Duration::from_millis(500), Duration::from_millis(1500)];
/// Then UDP is given up.
const UDP_UNTIL: Duration = Duration::from_millis(3000);
/// Limit of the attempt over TCP after that, look-up and dial included.
const TCP_WITHIN: Duration = Duration::from_secs(3);
/// Limit of a name look-up.
const RESOLVE_WITHIN: Duration = Duration::from_secs(3);
/// Longest message read over TCP.
const TCP_CREDIT: u32 = 2048;

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
    /// Those of them that have not answered.
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

/// Server that is asked, at its addresses.
#[derive(Debug)]
struct Question {
    place: usize,
    port: u16,
    ips: SmallVec<[IpAddr; 2]>,
    race: Race,
    asked: SmallVec<[Asked; 2]>,
}

#[derive(Debug)]
struct Asked {
    id: TransactionId,
    at: SocketAddr,
    since: Instant,
    sent: usize,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a node has one for each of a few interfaces")]
enum State {
    /// No server's address is known.
    Waiting,
    Binding {
        sock: SockId,
    },
    Asking {
        sock: SockId,
        since: Instant,
    },
    Dialling {
        place: usize,
        port: u16,
        dials: Dials,
    },
    AskingTcp {
        sock: SockId,
        place: usize,
        id: TransactionId,
        at: SocketAddr,
        by: Instant,
        splitter: StunSplitter,
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
        probe.state = State::Asking { sock, since: cx.now };
        probe.drive(cx);
        self.arm(cx);
    }

    pub(crate) fn datagram(&mut self, cx: &mut Cx, sock: SockId, from: SocketAddr, data: &[u8]) {
        let asking = |p: &&mut Probe| matches!(p.state, State::Asking { .. });
        let pending = !self.queries.is_empty();
        let Some(probe) = self.probe(sock).filter(asking) else { return };
        if probe.answered(cx, from, data, pending).is_none() {
            cx.stats.bad_stun += 1;
        }
        self.arm(cx);
    }

    pub(crate) fn connected(&mut self, cx: &mut Cx, sock: SockId) {
        let Some(probe) = self.probe(sock) else { return };
        let State::Dialling { place, port, dials } = &mut probe.state else { return };
        let Some(ip) = dials.connected(cx, sock) else { return };
        let (place, at) = (*place, SocketAddr::new(ip, *port));
        let id = TransactionId(cx.random.bytes(Domain::StunTransaction));
        cx.read(sock, TCP_CREDIT);
        cx.send(sock, stun::binding_request(id, None));
        let (by, splitter) = (cx.now + TCP_WITHIN, StunSplitter::new());
        probe.state = State::AskingTcp { sock, place, id, at, by, splitter };
        self.arm(cx);
    }

    pub(crate) fn received(&mut self, cx: &mut Cx, sock: SockId, data: &[u8]) {
        let Some(probe) = self.probe(sock) else { return };
        let State::AskingTcp { splitter, place, id, at, .. } = &mut probe.state else { return };
        let (place, id, at) = (*place, *id, *at);
        let message = splitter.push(data).and_then(|()| splitter.next_message());
        let heard = match message {
            Ok(None) => return,
            Ok(Some(message)) => stun::decode_binding(&message, Transport::Tcp)
                .ok()
                .filter(|reply| reply.transaction == id)
                .map(|reply| probe.count(place, at, reply.outcome)),
            Err(_) => None,
        };
        if heard.is_none() {
            cx.stats.bad_stun += 1;
        }
        // One question, one answer: whatever it was, the stream has no more use.
        let Some(probe) = self.probe(sock) else { return };
        let found = probe.winner();
        probe.end(cx, found);
        self.arm(cx);
    }

    /// The driver says that a socket failed, or that its stream ended.
    pub(crate) fn failed(&mut self, cx: &mut Cx, sock: SockId) {
        let Some(probe) = self.probe(sock) else { return };
        match &mut probe.state {
            State::Binding { .. } | State::Asking { .. } => probe.dial(cx),
            State::Dialling { dials, .. } => {
                if dials.failed(cx, sock) {
                    probe.end(cx, None);
                }
            }
            _ => probe.end(cx, None),
        }
        self.arm(cx);
    }

    pub(crate) fn timeout(&mut self, cx: &mut Cx) {
        for probe in &mut self.probes {
            probe.drive(cx);
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
                    let race = Race::among(cx, &server.host, &ips, UDP_UNTIL);
                    let (place, port) = (*place, server.port);
                    probe.asked.push(place);
                    probe.open.push(Question { place, port, ips, race, asked: SmallVec::new() });
                }
            }
            match probe.state {
                State::Waiting if !probe.open.is_empty() => {
                    let sock = cx.bind_udp(Owner::External, SocketAddr::new(local, 0));
                    probe.state = State::Binding { sock };
                }
                State::Waiting if !pending => probe.state = State::Done(None),
                State::Asking { .. } if probe.open.is_empty() && !pending => {
                    let found = probe.winner();
                    probe.end(cx, found);
                }
                _ => probe.drive(cx),
            }
        }
    }

    fn probe(&mut self, sock: SockId) -> Option<&mut Probe> {
        self.probes.iter_mut().find(|p| p.has(sock))
    }

    fn arm(&self, cx: &mut Cx) {
        let at = self.probes.iter().filter_map(|p| match &p.state {
            State::Asking { since, .. } => {
                let due = |q: &Question| q.asked.iter().filter_map(Asked::due).chain(q.race.due()).min();
                p.open.iter().filter_map(due).chain([*since + UDP_UNTIL]).min()
            }
            State::Dialling { dials, .. } => dials.due(),
            State::AskingTcp { by, .. } => Some(*by),
            _ => None,
        });
        cx.timers.set(Timer::External, at.min());
    }
}

impl Asked {
    /// Returns the time of the next copy.
    fn due(&self) -> Option<Instant> {
        SEND_AT.get(self.sent).map(|after| self.since + *after)
    }
}

impl Probe {
    fn has(&self, sock: SockId) -> bool {
        match &self.state {
            State::Dialling { dials, .. } => dials.has(sock),
            _ => self.sock() == Some(sock),
        }
    }

    fn sock(&self) -> Option<SockId> {
        match &self.state {
            State::Binding { sock } | State::Asking { sock, .. } | State::AskingTcp { sock, .. } => {
                Some(*sock)
            }
            State::Waiting | State::Dialling { .. } | State::Done(_) => None,
        }
    }

    /// Does what is due.
    fn drive(&mut self, cx: &mut Cx) {
        match &mut self.state {
            State::Asking { sock, since } => {
                let (sock, until) = (*sock, *since + UDP_UNTIL);
                for question in &mut self.open {
                    while let Some(ip) = question.race.next(cx.now) {
                        let id = TransactionId(cx.random.bytes(Domain::StunTransaction));
                        let at = SocketAddr::new(ip, question.port);
                        question.asked.push(Asked { id, at, since: cx.now, sent: 0 });
                    }
                    for asked in &mut question.asked {
                        while asked.due().is_some_and(|at| at <= cx.now) {
                            asked.sent += 1;
                            cx.send_datagram(sock, asked.at, stun::binding_request(asked.id, None));
                        }
                    }
                }
                if until <= cx.now {
                    match self.winner() {
                        Some(found) => self.end(cx, Some(found)),
                        None => self.dial(cx),
                    }
                }
            }
            State::Dialling { dials, .. } => dials.drive(cx),
            State::AskingTcp { by, .. } if *by <= cx.now => self.end(cx, None),
            _ => {}
        }
    }

    /// Counts what came over UDP; `pending` says that further servers may be asked. `None`: it is no answer.
    fn answered(&mut self, cx: &mut Cx, from: SocketAddr, data: &[u8], pending: bool) -> Option<()> {
        let reply = stun::decode_binding(data, Transport::Udp).ok()?;
        // Only from the server that was asked, with the transaction that it was asked.
        let its = |asked: &Asked| asked.id == reply.transaction && asked.at == from;
        let at = self.open.iter().position(|question| question.asked.iter().any(its))?;
        let question = self.open.remove(at);
        self.open.retain(|other| other.race.host() != question.race.host());
        cx.experience.works(question.race.host(), from.ip());
        self.count(question.place, from, reply.outcome);
        let found = self.winner();
        let seen = |ip| self.answers.values().filter(|a| a.plausible && a.said == Some(ip)).count();
        // Whoever has not answered may be on the internet, and the others not.
        let outranked = |ip| {
            let internet = |ip| reach(ip, &[]) == Reach::Internet;
            !self.answers.values().any(|a| a.said == Some(ip) && a.is_outside())
                && self.open.iter().flat_map(|q| &q.asked).any(|asked| internet(asked.at.ip()))
        };
        if (self.open.is_empty() && !pending) || found.is_some_and(|ip| seen(ip) >= 2 && !outranked(ip)) {
            self.end(cx, found);
        }
        Some(())
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

    /// UDP is shut: asks the first server over TCP.
    fn dial(&mut self, cx: &mut Cx) {
        if let Some(sock) = self.sock() {
            cx.close(sock, CloseHow::Drop);
        }
        match self.open.first() {
            Some(Question { place, port, ips, race, .. }) => {
                let race = Race::among(cx, race.host(), ips, TCP_WITHIN);
                let (place, port) = (*place, *port);
                let dials = Dials::start(cx, Owner::External, race, Some(self.vantage.ip), port, None);
                self.state = State::Dialling { place, port, dials };
            }
            None => self.end(cx, None),
        }
    }

    fn end(&mut self, cx: &mut Cx, found: Option<IpAddr>) {
        match &mut self.state {
            State::Done(_) => return,
            State::Dialling { dials, .. } => dials.close(cx),
            _ => {}
        }
        if let Some(sock) = self.sock() {
            cx.close(sock, CloseHow::Drop);
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
