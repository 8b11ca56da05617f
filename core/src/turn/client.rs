//! The client itself.
//!
//! Long: one state machine, and each answer may concern the allocation, permissions and channels at once.
//!
//! The reasons: ADR 24 in docs/src/adr.

use core::time::Duration;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use super::auth::Auth;
use super::exchange::{Due, Exchange, Exchanges};
use super::peers::{Binding, Peers, Permission};
use super::{
    Config, Error, Event, Family, Lifetimes, MAX_PAYLOAD, MAX_PENDING, MAX_QUEUED, PermitError, SendError,
    Stats,
};
use crate::random::{Domain, Random};
use crate::time::Instant;
use crate::timers::Timers;
use crate::wire::channel::{ChannelData, TurnSplitter};
use crate::wire::fingerprint;
use crate::wire::guard::{self, Class, STUN_MAX_TCP, StunView, Transport};
use crate::wire::stun::TransactionId;
use crate::wire::turn::{self, Answer, Ask, Challenge};

/// A refresh leaves so much of a lifetime, or half of it: more than an exchange takes.
const MARGIN: Duration = Duration::from_secs(60);
/// Shortest time between two refreshes of one thing.
const SHORTEST: Duration = Duration::from_secs(1);
/// A peer that was idle for so long gives its permission up to another: the lifetime that RFC 8656 section 9 fixes.
const IDLE: Duration = Duration::from_secs(300);
/// A request whose nonce was stale so often is given up.
const MAX_STALE: u8 = 3;

/// A single allocation at a TURN server, from the first Allocate to the release.
#[derive(Debug)]
pub struct Client {
    over: Transport,
    family: Family,
    lifetimes: Lifetimes,
    silence: Duration,
    state: State,
    auth: Auth,
    random: Random,
    /// The latest time that was told.
    now: Instant,
    exchanges: Exchanges,
    peers: Peers,
    /// Datagrams that wait for a permission.
    pending: VecDeque<(SocketAddr, Bytes)>,
    splitter: TurnSplitter,
    timers: Timers<Key>,
    /// Time at which something was last to be sent.
    spoke: Instant,
    /// Time at which something of the server's last came.
    heard: Instant,
    transmits: VecDeque<Bytes>,
    events: VecDeque<Event>,
    stats: Stats,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// An Allocate is under way. `cleared`: an allocation that our own first Allocate may have made was given up.
    Allocating {
        cleared: bool,
    },
    Ready {
        relayed: SocketAddr,
        other: Option<SocketAddr>,
        mapped: SocketAddr,
    },
    /// Given up; the server is being told.
    Closing,
    Ended,
}

/// Purpose of a deadline.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Key {
    Exchange(TransactionId),
    Refresh,
    Permission(IpAddr),
    Channel(u16),
    Silence,
}

impl Client {
    /// Asks for an allocation at once. The seed must never have been used before: transaction ids come of it.
    pub fn new(config: Config, seed: [u8; 32], now: Instant) -> Self {
        let Config { transport, credentials, family, lifetimes, silence } = config;
        let mut client = Client {
            over: transport,
            family,
            lifetimes,
            silence,
            state: State::Allocating { cleared: false },
            auth: Auth::new(credentials),
            random: Random::new(seed),
            now,
            exchanges: Exchanges::new(transport),
            peers: Peers::new(),
            pending: VecDeque::new(),
            splitter: TurnSplitter::new(),
            timers: Timers::new(),
            spoke: now,
            heard: now,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            stats: Stats::default(),
        };
        client.allocate();
        client
    }

    /// A datagram came from the server, or bytes in any pieces on the stream to it. What is not the server's must
    /// not come here: indications prove nothing.
    pub fn handle(&mut self, now: Instant, data: &[u8]) {
        self.tick(now);
        match self.over {
            Transport::Udp => self.frame(data),
            Transport::Tcp => self.stream(data),
        }
    }

    /// The stream to the server ended, or broke. A UDP socket that fails ends the allocation in the same way.
    pub fn handle_end(&mut self, now: Instant) {
        self.tick(now);
        let why = if self.splitter.is_mid_frame() { Error::CutOff } else { Error::ServerClosed };
        self.lose(why);
    }

    /// The deadline of [`poll_timeout`](Self::poll_timeout) has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.tick(now);
        while let Some(key) = self.timers.pop_due(self.now) {
            match key {
                Key::Exchange(id) => self.drive(id),
                Key::Refresh => self.refresh(),
                Key::Permission(peer) => self.ask(Ask::Permission(self.peers.with_port(peer))),
                Key::Channel(number) => {
                    if let Some(peer) = self.peers.on_channel(number) {
                        self.bind(peer);
                    }
                }
                Key::Silence => {
                    let mut due = self.spoke.min(self.heard) + self.silence;
                    if due <= self.now {
                        self.refresh();
                        due = self.now + self.silence;
                    }
                    self.timers.set(Key::Silence, Some(due));
                }
            }
        }
    }

    /// Returns the next datagram, or piece of the stream, to send to the server. An owner whose socket takes no more
    /// should leave it here; datagrams beyond [`MAX_QUEUED`](super::MAX_QUEUED) are dropped.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        self.transmits.pop_front()
    }

    /// Returns the next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Returns the time to call [`handle_timeout`](Self::handle_timeout). The time changes with every call but the
    /// polls.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first()
    }

    /// Lets a peer's datagrams through, whatever its port, until [`forget`](Self::forget); [`Event::Permitted`] or
    /// [`Event::Refused`] follows, once there is an allocation. A peer that is permitted already stays so.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn permit(&mut self, now: Instant, peer: IpAddr) -> Result<(), PermitError> {
        self.permit_at(now, (peer, 0).into())
    }

    /// The same for a peer whose port is known: there are servers that look at it (turn-rs).
    ///
    /// # Errors
    /// As [`permit`](Self::permit).
    pub fn permit_at(&mut self, now: Instant, at: SocketAddr) -> Result<(), PermitError> {
        self.tick(now);
        let peer = at.ip().to_canonical();
        if !self.is_open() {
            return Err(PermitError::Closed);
        }
        if !self.reaches(peer) {
            return Err(PermitError::Family);
        }
        let at = SocketAddr::new(peer, at.port());
        match self.peers.permission(peer) {
            Some(permission) => {
                if self.peers.name_port(at) && permission != Permission::Wanted {
                    self.ask(Ask::Permission(at));
                }
            }
            None if self.peers.is_full() => return Err(PermitError::TooMany),
            None => {
                self.peers.set(peer, Permission::Wanted, self.now);
                self.peers.name_port(at);
                self.ask_for_wanted();
            }
        }
        Ok(())
    }

    /// Takes a peer's permission back: what it sends is dropped from now on, and at the server all of it ends
    /// when it is not refreshed.
    pub fn forget(&mut self, now: Instant, peer: IpAddr) {
        self.tick(now);
        let peer = peer.to_canonical();
        for number in self.peers.remove(peer) {
            self.timers.set(Key::Channel(number), None);
        }
        self.timers.set(Key::Permission(peer), None);
        self.pending.retain(|(to, _)| to.ip() != peer);
        let its = |ask: &Ask| match ask {
            Ask::Permission(at) => at.ip() == peer,
            Ask::Channel { peer: to, .. } => to.ip() == peer,
            Ask::Allocate { .. } | Ask::Refresh { .. } => false,
        };
        for id in self.exchanges.end_all(its) {
            self.timers.set(Key::Exchange(id), None);
        }
    }

    /// Sends a datagram to a permitted peer; it may be lost, as any datagram. While the permission is asked for it
    /// waits, with at most [`MAX_PENDING`](super::MAX_PENDING) others.
    ///
    /// # Errors
    /// Why it cannot be sent.
    pub fn send(&mut self, now: Instant, peer: SocketAddr, data: &[u8]) -> Result<(), SendError> {
        self.tick(now);
        if !self.is_open() {
            return Err(SendError::Closed);
        }
        if data.len() > MAX_PAYLOAD {
            return Err(SendError::TooLong);
        }
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        match self.peers.permission(peer.ip()) {
            None => return Err(SendError::NotPermitted),
            Some(Permission::Granted) => {
                self.peers.touch(peer.ip(), self.now);
                self.relay(peer, data);
            }
            Some(_) if self.pending.len() < MAX_PENDING => {
                self.pending.push_back((peer, Bytes::copy_from_slice(data)));
            }
            Some(_) => self.stats.dropped += 1,
        }
        Ok(())
    }

    /// Sends a datagram to any peer: a permission is asked for first where there is none. Beyond
    /// [`MAX_PEERS`](super::MAX_PEERS) the peer that was idle longest loses its permission, once it was idle for 5 min.
    ///
    /// # Errors
    /// The reason why the datagram cannot be sent.
    pub fn send_permitting(&mut self, now: Instant, peer: SocketAddr, data: &[u8]) -> Result<(), SendError> {
        self.tick(now);
        let ip = peer.ip().to_canonical();
        if self.peers.permission(ip).is_none() && data.len() <= MAX_PAYLOAD && self.reaches(ip) {
            let idlest = self.peers.idlest(self.now).filter(|_| self.peers.is_full());
            if let Some((idle, _)) = idlest.filter(|(_, time)| *time >= IDLE) {
                self.forget(now, idle);
            }
        }
        match self.permit_at(now, peer) {
            Ok(()) => self.send(now, peer, data),
            Err(PermitError::Closed) => Err(SendError::Closed),
            Err(PermitError::Family) => Err(SendError::Family),
            Err(PermitError::TooMany) => Err(SendError::TooManyPeers),
        }
    }

    /// Refreshes the allocation now: a server that has forgotten it says so.
    pub fn check(&mut self, now: Instant) {
        self.tick(now);
        if matches!(self.state, State::Ready { .. }) {
            self.ask(Ask::Refresh { lifetime: self.asked_lifetime() });
        }
    }

    /// Gives the allocation up; [`Event::Closed`] follows when the server knows, or after 3.5 s without an answer.
    pub fn close(&mut self, now: Instant) {
        self.tick(now);
        if !self.is_open() {
            return;
        }
        // An Allocate that is under way may be granted: it is given up like one that was.
        let allocating = matches!(self.state, State::Allocating { .. });
        let nothing_asked = allocating && self.auth.proof().is_none() && !self.auth.is_open();
        self.stop();
        if nothing_asked {
            self.end(Event::Closed);
        } else {
            self.state = State::Closing;
            self.ask(Ask::Refresh { lifetime: 0 });
        }
    }

    /// ERROR-CODE of an answer to a request under way, whose integrity did not show who sent it: a reason at best.
    pub fn unproven(&self) -> Option<u16> {
        self.exchanges.hint()
    }

    /// The address that peers send to, while there is an allocation.
    pub fn relayed(&self) -> Option<SocketAddr> {
        match self.state {
            State::Ready { relayed, .. } => Some(relayed),
            _ => None,
        }
    }

    /// Returns the address that peers of the other family send to, if there is one.
    pub fn other_relayed(&self) -> Option<SocketAddr> {
        match self.state {
            State::Ready { other, .. } => other,
            _ => None,
        }
    }

    /// Returns our address as the server sees it, while there is an allocation.
    pub fn mapped(&self) -> Option<SocketAddr> {
        match self.state {
            State::Ready { mapped, .. } => Some(mapped),
            _ => None,
        }
    }

    /// Returns the counters.
    pub fn stats(&self) -> Stats {
        Stats { oversized: self.stats.oversized + self.splitter.skipped(), ..self.stats }
    }

    fn tick(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    /// Returns true if peers at this address may be reached, as far as known.
    fn reaches(&self, peer: IpAddr) -> bool {
        match self.state {
            State::Ready { relayed, other, .. } => other.is_some() || relayed.is_ipv4() == peer.is_ipv4(),
            _ => self.family.has(peer),
        }
    }

    fn is_open(&self) -> bool {
        matches!(self.state, State::Allocating { .. } | State::Ready { .. })
    }

    fn stream(&mut self, mut data: &[u8]) {
        // A frame lies in the splitter or in `data`, and is dealt with before the splitter is asked again.
        let mut splitter = core::mem::take(&mut self.splitter);
        while self.state != State::Ended {
            match splitter.take(data) {
                Ok((taken, Some(frame))) => {
                    self.frame(frame);
                    data = data.get(taken..).unwrap_or_default();
                }
                Ok((_, None)) => break,
                Err(why) => self.lose(Error::OutOfStep(why)),
            }
        }
        self.splitter = splitter;
    }

    /// Handles a single message of the server's.
    fn frame(&mut self, bytes: &[u8]) {
        if self.state == State::Ended {
            return;
        }
        if bytes.len() > STUN_MAX_TCP {
            self.stats.oversized += 1;
            return;
        }
        if ChannelData::is(bytes) {
            match ChannelData::parse(bytes) {
                Ok(message) => match self.peers.on_channel(message.number) {
                    Some(from) => self.deliver(from, message.data),
                    None => self.stats.strangers += 1,
                },
                Err(_) => self.stats.malformed += 1,
            }
            return;
        }
        let Ok(view) = guard::stun(bytes, self.over) else {
            self.stats.malformed += 1;
            return;
        };
        match view.class() {
            _ if !fingerprint::fingerprint_fits(view) => self.stats.malformed += 1,
            Class::Success | Class::Error => self.answer(view),
            Class::Indication => match turn::data_indication(view) {
                Some((from, data)) => {
                    let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                    match self.peers.permission(from.ip()) {
                        Some(Permission::Granted) => self.deliver(from, data),
                        _ => self.stats.strangers += 1,
                    }
                }
                None => self.stats.malformed += 1,
            },
            Class::Request => self.stats.malformed += 1,
        }
    }

    fn deliver(&mut self, from: SocketAddr, data: &[u8]) {
        self.heard = self.now;
        self.peers.touch(from.ip(), self.now);
        if self.events.len() < MAX_QUEUED {
            self.events.push_back(Event::Data { from, data: Bytes::copy_from_slice(data) });
        } else {
            self.stats.dropped += 1;
        }
    }

    fn answer(&mut self, view: StunView<'_>) {
        let id = view.transaction();
        let asked = self.exchanges.get_mut(id).filter(|e| e.ask.has_method(view.method()));
        let Some(exchange) = asked else {
            self.stats.unasked += 1;
            return;
        };
        let Some(answer) = turn::answer(view) else {
            self.stats.malformed += 1;
            return;
        };
        self.heard = self.now;
        let proven = exchange.key.as_ref().map(|key| key.verifies(view));
        if proven == Some(false) {
            let unsigned = view.integrity().or(view.integrity_sha256()).is_none();
            match answer {
                // Whoever says that the proof is not enough cannot prove it (RFC 8489 section 9.2.4).
                Answer::Error { code: 401 | 438, .. } if unsigned => {}
                Answer::Error { code, .. } if unsigned => {
                    exchange.hint = Some(code);
                    self.stats.forged += 1;
                    return;
                }
                _ => {
                    self.stats.forged += 1;
                    return;
                }
            }
        }
        let ask = exchange.ask;
        match (answer, proven) {
            (Answer::Error { code: 401, challenge: Some(challenge), .. }, None) => {
                self.finish(id);
                match self.auth.challenged(challenge) {
                    Ok(()) => self.allocate(),
                    Err(why) => self.lose(why),
                }
            }
            (Answer::Error { code: 401, .. }, None) => self.lose(Error::BadAnswer),
            (Answer::Error { code: 438, challenge: Some(challenge), .. }, Some(_)) => {
                self.renew(id, challenge, Error::StaleNonce, MAX_STALE);
            }
            (Answer::Error { code: 438, .. }, Some(_)) => self.stats.malformed += 1,
            // A server that was restarted may say so too; with its new nonce it tells whether it has forgotten us.
            (Answer::Error { code: 401, challenge: Some(challenge), .. }, Some(_))
                if !matches!(ask, Ask::Allocate { .. }) =>
            {
                self.renew(id, challenge, Error::WrongCredentials, 2);
            }
            (answer, proven) => {
                let Some(exchange) = self.finish(id) else { return };
                match answer {
                    Answer::Success { .. } if proven.is_none() && !self.auth.is_open() => {
                        self.lose(Error::NoChallenge);
                    }
                    Answer::Success { relayed, other, mapped, lifetime } => {
                        let addresses = relayed.zip(mapped).map(|(relayed, mapped)| (relayed, other, mapped));
                        self.granted(&exchange, addresses, lifetime);
                    }
                    Answer::Error { code, alternate, .. } => self.refused(&exchange, code, alternate),
                }
            }
        }
    }

    /// Asks again with the server's new nonce, unless that was done too often.
    fn renew(&mut self, id: TransactionId, challenge: Challenge, why: Error, tries: u8) {
        if self.auth.renewed(challenge).is_none() {
            self.stats.forged += 1;
            return;
        }
        let Some(old) = self.finish(id) else { return };
        if old.stale + 1 >= tries { self.lose(why) } else { self.begin(old.ask, Some(&old)) }
    }

    fn granted(
        &mut self,
        exchange: &Exchange,
        addresses: Option<(SocketAddr, Option<SocketAddr>, SocketAddr)>,
        lifetime: Option<Duration>,
    ) {
        let refresh_at = |lifetime| exchange.begun + refresh_after(lifetime);
        match exchange.ask {
            Ask::Allocate { .. } => {
                let fits = addresses.filter(|(relayed, ..)| self.family.has(relayed.ip()));
                let (Some((mut relayed, other, mapped)), Some(lifetime)) = (fits, lifetime) else {
                    return self.lose(Error::BadAnswer);
                };
                let mut other = other.filter(|at| self.family.has(at.ip()));
                if let Some(other) = other.as_mut().filter(|other| other.is_ipv4()) {
                    core::mem::swap(other, &mut relayed);
                }
                self.state = State::Ready { relayed, other, mapped };
                self.timers.set(Key::Refresh, Some(refresh_at(lifetime)));
                let silence = Some(self.now + self.silence).filter(|_| !self.silence.is_zero());
                self.timers.set(Key::Silence, silence);
                self.events.push_back(Event::Allocated { relayed, other, mapped, lifetime });
                self.ask_for_wanted();
            }
            Ask::Refresh { lifetime: 0 } => self.released(),
            Ask::Refresh { .. } => match lifetime {
                None => self.lose(Error::BadAnswer),
                Some(Duration::ZERO) => self.lose(Error::AllocationGone),
                Some(lifetime) => self.timers.set(Key::Refresh, Some(refresh_at(lifetime))),
            },
            Ask::Permission(at) => {
                let peer = at.ip();
                self.timers.set(Key::Permission(peer), Some(refresh_at(self.lifetimes.permission)));
                if self.peers.permission(peer) == Some(Permission::Granted) {
                    return;
                }
                self.peers.set(peer, Permission::Granted, self.now);
                self.events.push_back(Event::Permitted(peer));
                let (its, others) = self.pending.drain(..).partition(|(to, _)| to.ip() == peer);
                self.pending = others;
                let its: VecDeque<(SocketAddr, Bytes)> = its;
                for (to, data) in its {
                    self.relay(to, &data);
                }
            }
            Ask::Channel { number, .. } => {
                self.peers.bind(number, Binding::Bound);
                self.timers.set(Key::Channel(number), Some(refresh_at(self.lifetimes.channel)));
            }
        }
    }

    /// The server holds nothing of ours any more.
    fn released(&mut self) {
        match self.state {
            State::Allocating { .. } => self.allocate(),
            _ => self.end(Event::Closed),
        }
    }

    fn refused(&mut self, exchange: &Exchange, code: u16, alternate: Option<SocketAddr>) {
        match (exchange.ask, code) {
            (Ask::Refresh { lifetime: 0 }, _) => self.released(),
            // A server should know a request that it hears again by its transaction (RFC 8656 section 7.2). One
            // that does not has the allocation that it granted with an answer that was lost.
            (Ask::Allocate { .. }, 437)
                if exchange.was_repeated() && self.state == (State::Allocating { cleared: false }) =>
            {
                self.state = State::Allocating { cleared: true };
                self.ask(Ask::Refresh { lifetime: 0 });
            }
            (Ask::Permission(_) | Ask::Channel { .. } | Ask::Refresh { .. }, 437) => {
                self.lose(Error::AllocationGone);
            }
            (_, 401) => self.lose(Error::WrongCredentials),
            (_, 441) => self.lose(Error::OtherUser),
            (Ask::Permission(at), code) => {
                let peer = at.ip();
                self.forget(self.now, peer);
                self.events.push_back(Event::Refused { peer, code });
            }
            (Ask::Channel { number, .. }, _) => self.peers.bind(number, Binding::Refused),
            (Ask::Allocate { .. } | Ask::Refresh { .. }, code) => self.lose(match (code, alternate) {
                (300, Some(to)) => Error::Redirected(to),
                (300, None) => Error::BadAnswer,
                (403, _) => Error::Forbidden,
                (437, _) => Error::PortInUse,
                (440, _) => Error::UnsupportedFamily,
                (442, _) => Error::UnsupportedTransport,
                (486, _) => Error::Quota,
                (508, _) => Error::Capacity,
                (code, _) => Error::Rejected(code),
            }),
        }
    }

    /// A request is due to be sent again, or has had its time.
    fn drive(&mut self, id: TransactionId) {
        match self.exchanges.drive(id, self.now) {
            Some((Due::Send(bytes), next)) => {
                self.timers.set(Key::Exchange(id), next);
                self.transmit(bytes);
            }
            Some((Due::GivenUp { hint }, _)) => self.lose(hint.map_or(Error::NoAnswer, Error::Unproven)),
            None => {}
        }
    }

    fn allocate(&mut self) {
        self.ask(Ask::Allocate { family: self.family, lifetime: self.asked_lifetime() });
    }

    /// Keeps the allocation, unless that is being asked for.
    fn refresh(&mut self) {
        if !self.exchanges.asks(|ask| matches!(ask, Ask::Refresh { .. })) {
            self.ask(Ask::Refresh { lifetime: self.asked_lifetime() });
        }
    }

    fn asked_lifetime(&self) -> u32 {
        // 0 would give the allocation up.
        u32::try_from(self.lifetimes.allocation.as_secs()).unwrap_or(u32::MAX).max(1)
    }

    fn ask_for_wanted(&mut self) {
        if matches!(self.state, State::Ready { .. }) {
            for peer in self.peers.wanted() {
                self.peers.set(peer, Permission::Asked, self.now);
                self.ask(Ask::Permission(self.peers.with_port(peer)));
            }
        }
    }

    fn ask(&mut self, ask: Ask) {
        self.begin(ask, None);
    }

    fn begin(&mut self, ask: Ask, in_place_of: Option<&Exchange>) {
        let id = self.transaction();
        let proof = self.auth.proof();
        let Some(bytes) = turn::request(ask, id, proof) else { return self.lose(Error::TooLong) };
        let mut exchange = Exchange::new(ask, self.now, proof.map(|proof| proof.key.clone()), bytes);
        if let Some(old) = in_place_of {
            exchange = exchange.in_place_of(old);
        }
        let (bytes, next) = self.exchanges.begin(id, exchange);
        self.timers.set(Key::Exchange(id), Some(next));
        self.transmit(bytes);
    }

    fn finish(&mut self, id: TransactionId) -> Option<Exchange> {
        self.timers.set(Key::Exchange(id), None);
        self.exchanges.end(id)
    }

    /// Sends to a permitted peer by its channel, or asks for one.
    fn relay(&mut self, peer: SocketAddr, data: &[u8]) {
        let message = match self.peers.channel(peer) {
            Some((number, Binding::Bound)) => ChannelData { number, data }.to_bytes(self.over),
            Some((_, Binding::Asked | Binding::Refused)) => self.send_indication(peer, data),
            Some((_, Binding::Resting)) | None => {
                self.bind(peer);
                self.send_indication(peer, data)
            }
        };
        match message {
            Some(message) if self.transmits.len() < MAX_QUEUED => self.transmit(message),
            _ => self.stats.dropped += 1,
        }
    }

    fn send_indication(&mut self, peer: SocketAddr, data: &[u8]) -> Option<Bytes> {
        turn::send_indication(self.transaction(), peer, data)
    }

    /// Asks for the peer's channel, or for it to be kept.
    fn bind(&mut self, peer: SocketAddr) {
        let is_bound = matches!(self.peers.channel(peer), Some((_, Binding::Bound)));
        if let Some(number) = self.peers.ask_for(peer, self.now, self.lifetimes.channel) {
            if is_bound {
                self.peers.bind(number, Binding::Bound);
            }
            self.ask(Ask::Channel { number, peer });
        }
    }

    fn transaction(&mut self) -> TransactionId {
        TransactionId(self.random.bytes(Domain::TurnTransaction))
    }

    fn transmit(&mut self, bytes: Bytes) {
        self.spoke = self.now;
        self.transmits.push_back(bytes);
    }

    fn lose(&mut self, why: Error) {
        match self.state {
            State::Allocating { .. } | State::Ready { .. } => self.end(Event::Lost(why)),
            State::Closing => self.end(Event::Closed),
            State::Ended => {}
        }
    }

    fn end(&mut self, last: Event) {
        self.stop();
        self.state = State::Ended;
        self.events.push_back(last);
    }

    /// Ends all that is under way.
    fn stop(&mut self) {
        self.exchanges = Exchanges::new(self.over);
        self.peers = Peers::new();
        self.pending.clear();
        self.timers.clear();
    }
}

/// Returns the time from a grant to its refresh.
fn refresh_after(lifetime: Duration) -> Duration {
    (lifetime - MARGIN.min(lifetime / 2)).max(SHORTEST)
}
