//! The addresses that the world sees: STUN Binding (RFC 8489) from each of our interfaces.
//!
//! Each chosen interface asks up to three servers at once over UDP, repeats at 0.5 s and 1.5 s (RFC 8489
//! section 6.2.1, cut short), and where no server answers over UDP asks the first over TCP. An
//! address that two servers agree on ends the wait for the others; where they disagree, the address named
//! most often is taken, the lower one on a tie.

use core::time::Duration;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use smallvec::SmallVec;

use crate::config::StunServer;
use crate::cx::{Cx, Owner, Timer};
use crate::io::{CloseHow, IoFailure, QueryId, SockId};
use crate::random::Domain;
use crate::time::Instant;
use crate::wire::Transport;
use crate::wire::stun::{self, BindingOutcome, StunSplitter, TransactionId};

/// Servers asked per interface.
const SERVERS: usize = 3;
/// A transaction is sent at these times after its start.
const SEND_AT: [Duration; 3] = [Duration::ZERO, Duration::from_millis(500), Duration::from_millis(1500)];
/// Then UDP is given up.
const UDP_UNTIL: Duration = Duration::from_millis(3000);
/// What TCP may take after that, look-up and dial included.
const TCP_WITHIN: Duration = Duration::from_secs(3);
/// What look-ups may take.
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

/// One interface's question.
#[derive(Debug)]
struct Probe {
    local: IpAddr,
    state: State,
    votes: BTreeMap<IpAddr, u8>,
    /// Servers that have not answered.
    open: SmallVec<[(TransactionId, SocketAddr); SERVERS]>,
    /// It is asked anew, and was settled before.
    again: bool,
    /// What it had found before.
    earlier: Option<IpAddr>,
}

#[derive(Debug)]
enum State {
    /// Look-ups are in flight.
    Waiting,
    Binding {
        sock: SockId,
    },
    Asking {
        sock: SockId,
        since: Instant,
        sent: usize,
    },
    Dialling {
        sock: SockId,
    },
    AskingTcp {
        sock: SockId,
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
    pub(crate) fn start(&mut self, cx: &mut Cx, locals: impl Iterator<Item = IpAddr>) {
        self.stop(cx);
        self.started = true;
        let none = self.servers.is_empty();
        let state = || if none { State::Done(None) } else { State::Waiting };
        self.probes = locals
            .map(|local| Probe {
                local,
                state: state(),
                votes: BTreeMap::new(),
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

    /// Whether there are servers and an interface got no answer from any.
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
            probe.votes.clear();
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

    /// Closes what is open.
    pub(crate) fn stop(&mut self, cx: &mut Cx) {
        for probe in &mut self.probes {
            probe.end(cx, None);
        }
        cx.timers.set(Timer::External, None);
    }

    /// The servers' addresses in the order of the configuration, once the look-ups are done.
    pub(crate) fn servers(&self) -> Option<Vec<SocketAddr>> {
        let of = |(place, ips): (&usize, &SmallVec<[IpAddr; 2]>)| {
            let port = self.servers[*place].port;
            ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect::<SmallVec<[_; 2]>>()
        };
        self.queries.is_empty().then(|| self.addresses.iter().flat_map(of).collect())
    }

    /// Whether every interface has its answer or has given up.
    pub(crate) fn settled(&self) -> bool {
        self.started && self.probes.iter().all(|p| p.again || matches!(p.state, State::Done(_)))
    }

    /// Whether every interface has an answer, from one server at least, or has given up.
    pub(crate) fn heard(&self) -> bool {
        let heard = |p: &Probe| p.again || matches!(p.state, State::Done(_)) || !p.votes.is_empty();
        self.started && self.probes.iter().all(heard)
    }

    /// What the world sees of this local address, as far as known.
    pub(crate) fn of(&self, local: IpAddr) -> Option<IpAddr> {
        self.probes.iter().find(|p| p.local == local).and_then(|p| match p.state {
            State::Done(found) => found.or(p.earlier),
            _ => p.earlier.or_else(|| p.winner()),
        })
    }

    pub(crate) fn resolved(
        &mut self,
        cx: &mut Cx,
        query: QueryId,
        result: Result<SmallVec<[IpAddr; 2]>, IoFailure>,
    ) {
        let Some(place) = self.queries.remove(&query) else { return };
        self.addresses.insert(place, result.unwrap_or_default());
        if self.queries.is_empty() {
            self.ask_all(cx);
        }
    }

    pub(crate) fn bound(&mut self, cx: &mut Cx, sock: SockId) {
        let Some(probe) = self.probe(sock).filter(|p| matches!(p.state, State::Binding { .. })) else {
            return;
        };
        probe.state = State::Asking { sock, since: cx.now, sent: 0 };
        probe.drive(cx);
        self.arm(cx);
    }

    pub(crate) fn datagram(&mut self, cx: &mut Cx, sock: SockId, from: SocketAddr, data: &[u8]) {
        let asking = |p: &&mut Probe| matches!(p.state, State::Asking { .. });
        let Some(probe) = self.probe(sock).filter(asking) else { return };
        if probe.answer(cx, Some(from), data, Transport::Udp).is_none() {
            cx.stats.bad_stun += 1;
        }
        self.arm(cx);
    }

    pub(crate) fn connected(&mut self, cx: &mut Cx, sock: SockId) {
        let Some(probe) = self.probe(sock).filter(|p| matches!(p.state, State::Dialling { .. })) else {
            return;
        };
        if let Some((id, _)) = probe.open.first() {
            cx.read(sock, TCP_CREDIT);
            cx.send(sock, stun::binding_request(*id, None));
        }
        probe.state = State::AskingTcp { sock, by: cx.now + TCP_WITHIN, splitter: StunSplitter::new() };
        self.arm(cx);
    }

    pub(crate) fn received(&mut self, cx: &mut Cx, sock: SockId, data: &[u8]) {
        let Some(probe) = self.probe(sock) else { return };
        let State::AskingTcp { splitter, .. } = &mut probe.state else { return };
        let message = splitter.push(data).and_then(|()| splitter.next_message());
        let heard = match message {
            Ok(None) => return,
            Ok(Some(message)) => probe.answer(cx, None, &message, Transport::Tcp),
            Err(_) => None,
        };
        if heard.is_none() {
            cx.stats.bad_stun += 1;
        }
        // One question, one answer: whatever it was, the stream has no more use.
        let Some(probe) = self.probe(sock) else { return };
        probe.end(cx, None);
        self.arm(cx);
    }

    /// The driver says that a socket failed, or that its stream ended.
    pub(crate) fn failed(&mut self, cx: &mut Cx, sock: SockId) {
        let Some(probe) = self.probe(sock) else { return };
        match probe.state {
            State::Binding { .. } | State::Asking { .. } => probe.dial(cx),
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

    /// Binds for every interface that waited for the look-ups.
    fn ask_all(&mut self, cx: &mut Cx) {
        if !self.queries.is_empty() {
            return;
        }
        let targets: Vec<SocketAddr> = self
            .addresses
            .iter()
            .flat_map(|(place, ips)| ips.iter().map(|ip| SocketAddr::new(*ip, self.servers[*place].port)))
            .collect();
        for probe in self.probes.iter_mut().filter(|p| matches!(p.state, State::Waiting)) {
            let local = probe.local;
            probe.open = targets
                .iter()
                .filter(|t| t.is_ipv4() == local.is_ipv4())
                .take(SERVERS)
                .map(|t| (TransactionId(cx.random.bytes(Domain::StunTransaction)), *t))
                .collect();
            if probe.open.is_empty() {
                probe.state = State::Done(None);
            } else {
                let sock = cx.bind_udp(Owner::External, SocketAddr::new(local, 0));
                probe.state = State::Binding { sock };
            }
        }
    }

    fn probe(&mut self, sock: SockId) -> Option<&mut Probe> {
        self.probes.iter_mut().find(|p| p.sock() == Some(sock))
    }

    fn arm(&self, cx: &mut Cx) {
        let at = self.probes.iter().filter_map(|p| match &p.state {
            State::Asking { since, sent, .. } => {
                Some(*since + SEND_AT.get(*sent).copied().unwrap_or(UDP_UNTIL))
            }
            State::AskingTcp { by, .. } => Some(*by),
            _ => None,
        });
        cx.timers.set(Timer::External, at.min());
    }
}

impl Probe {
    fn sock(&self) -> Option<SockId> {
        match &self.state {
            State::Binding { sock }
            | State::Asking { sock, .. }
            | State::Dialling { sock }
            | State::AskingTcp { sock, .. } => Some(*sock),
            State::Waiting | State::Done(_) => None,
        }
    }

    /// Does what is due.
    fn drive(&mut self, cx: &mut Cx) {
        match &mut self.state {
            State::Asking { sock, since, sent } => {
                let (sock, gone) = (*sock, cx.now.since(*since));
                while SEND_AT.get(*sent).is_some_and(|at| *at <= gone) {
                    *sent += 1;
                    for (id, to) in &self.open {
                        cx.send_datagram(sock, *to, stun::binding_request(*id, None));
                    }
                }
                if gone >= UDP_UNTIL {
                    match self.winner() {
                        Some(found) => self.end(cx, Some(found)),
                        None => {
                            cx.close(sock, CloseHow::Drop);
                            self.dial(cx);
                        }
                    }
                }
            }
            State::AskingTcp { by, .. } if *by <= cx.now => self.end(cx, None),
            _ => {}
        }
    }

    /// Counts an answer. `None`: it is none.
    fn answer(&mut self, cx: &mut Cx, from: Option<SocketAddr>, data: &[u8], over: Transport) -> Option<()> {
        let reply = stun::decode_binding(data, over).ok()?;
        // Only from the server that was asked, with the transaction that it was asked.
        let at = self
            .open
            .iter()
            .position(|(id, to)| *id == reply.transaction && from.is_none_or(|from| from == *to))?;
        self.open.remove(at);
        if let BindingOutcome::Mapped(mapped) = reply.outcome {
            let ip = mapped.ip().to_canonical();
            if ip.is_ipv4() == self.local.is_ipv4() && crate::address::is_dialable(ip) {
                *self.votes.entry(ip).or_default() += 1;
            }
        }
        let agreed = self.votes.values().any(|n| *n >= 2);
        if agreed || self.open.is_empty() || over == Transport::Tcp {
            let found = self.winner();
            self.end(cx, found);
        }
        Some(())
    }

    fn winner(&self) -> Option<IpAddr> {
        let most = self.votes.values().max()?;
        self.votes.iter().find(|(_, n)| *n == most).map(|(ip, _)| *ip)
    }

    /// UDP is shut: asks the first server over TCP.
    fn dial(&mut self, cx: &mut Cx) {
        match self.open.first() {
            Some((_, to)) => {
                let local = SocketAddr::new(self.local, 0);
                let sock = cx.dial(Owner::External, local, *to, TCP_WITHIN);
                self.state = State::Dialling { sock };
            }
            None => self.end(cx, None),
        }
    }

    fn end(&mut self, cx: &mut Cx, found: Option<IpAddr>) {
        if matches!(self.state, State::Done(_)) {
            return;
        }
        if let Some(sock) = self.sock() {
            cx.close(sock, CloseHow::Drop);
        }
        self.state = State::Done(found);
    }
}
