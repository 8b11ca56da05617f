//! A TURN server (RFC 8656) over UDP and TCP, relaying UDP.
//!
//! The protocol itself is `turn-server-proto`, one instance for each client, so that what a stranger makes grow can be
//! thrown away and none looks through the others' allocations. Around it this adds limits, short-lived credentials
//! and peers that are not relayed to, and mends what would break other clients: ChannelData's padding in streams;
//! a repeated Allocate, which gets its first answer again; 438 with PASSWORD-ALGORITHMS; and 438 in place of 400 for a
//! client of before a restart. It answers no Binding requests: [`crate::stun`] does.
//!
//! No resource of the system is used here: [`Output::Open`] asks for a socket to relay with, [`Server::opened`] says
//! which port it has.

mod client;
mod config;
mod message;
mod output;
mod reach;
mod users;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

use stun_types::attribute::ErrorCode;
use stun_types::message::{LongTermKeyCredentials, Message, MessageWrite, MessageWriteExt, MessageWriteVec};
use turn_server_proto::api::{SocketAllocateError, Transmit, TurnServerApi, TurnServerPollRet};
use turn_server_proto::server::TurnServer;
use turn_server_proto::types::{AddressFamily, Instant, TransportType};

use crate::ConnId;
use crate::rate::{Bucket, Flow, Sources};
use client::{Account, Client, Relay, Way};
pub use config::{Config, Limits};
use message::{
    ALLOCATE, ALLOCATED, CHANNEL_BIND, CREATE_PERMISSION, Framing, MAX_FRAME, PASSWORD_ALGORITHMS, Stun,
    USERHASH, USERNAME,
};
pub use output::{Output, RelayId, Stats};
use reach::Reach;
pub use users::Users;

/// Clients without an allocation that are remembered; the oldest makes room. A TCP client keeps its place.
const MAX_STRANGERS: usize = 1024;
/// Silence after which a client without an allocation is forgotten, and its TCP connection closed.
const STRANGER_FOR: Duration = Duration::from_secs(60);
/// New clients a second, in the long run: with [`MAX_STRANGERS`] it leaves each a second to prove who it is.
const NEW_PER_SECOND: u32 = 1000;
/// Messages a second of one source without an allocation.
const PER_SOURCE: u32 = 50;
/// Names that one client may try: anybody can make up short-lived ones.
const MAX_NAMES: usize = 8;
/// The protocol takes no shorter one.
const SHORTEST_NONCE: Duration = Duration::from_secs(30);

/// The server.
#[derive(Debug)]
pub struct Server {
    config: Config,
    clients: BTreeMap<Way, Client>,
    /// Time of each client's next step.
    deadlines: BTreeSet<(Duration, Way)>,
    /// Clients without an allocation, the oldest first. One may be gone, or have one by now.
    strangers: VecDeque<Way>,
    relays: BTreeMap<RelayId, Way>,
    addresses: BTreeMap<SocketAddr, RelayId>,
    next: u64,
    per_user: BTreeMap<String, Account>,
    per_address: BTreeMap<IpAddr, usize>,
    reach: Reach,
    sources: Sources,
    newcomers: Bucket,
    output: VecDeque<Output>,
    stats: Stats,
}

impl Server {
    /// A server that has heard of nobody.
    pub fn new(config: Config) -> Self {
        Server {
            reach: Reach::new(config.relay_ips.clone(), config.allow_private),
            config,
            clients: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            strangers: VecDeque::new(),
            relays: BTreeMap::new(),
            addresses: BTreeMap::new(),
            next: 0,
            per_user: BTreeMap::new(),
            per_address: BTreeMap::new(),
            sources: Sources::new(PER_SOURCE),
            newcomers: Bucket::new(NEW_PER_SECOND, NEW_PER_SECOND),
            output: VecDeque::new(),
            stats: Stats::default(),
        }
    }

    /// Tells which addresses the machine has. They are relayed to only where a relay of this server is.
    pub fn set_own(&mut self, own: impl IntoIterator<Item = IpAddr>) {
        self.reach.set_own(own.into_iter().map(|ip| ip.to_canonical()).collect());
    }

    /// Returns true if private addresses are relayed to: they were allowed, or a relay's own is private.
    pub fn reaches_private(&self) -> bool {
        self.reach.is_private()
    }

    /// A datagram from `from` came in on the listening socket bound to `local`.
    pub fn datagram(&mut self, now: Duration, local: SocketAddr, from: SocketAddr, data: &[u8]) {
        let way = Way::Udp { local, from };
        self.frame(now, way, local, from, data.to_vec());
    }

    /// A client at `from` was accepted on `local`.
    pub fn accept(&mut self, now: Duration, conn: ConnId, local: SocketAddr, from: SocketAddr) {
        if !self.enter(now, Way::Tcp(conn), local, from) {
            self.output.push_back(Output::Close(conn));
        }
    }

    /// Bytes came in on a client's stream.
    pub fn receive(&mut self, now: Duration, conn: ConnId, mut data: &[u8]) {
        let way = Way::Tcp(conn);
        loop {
            let Some(client) = self.clients.get_mut(&way) else { return };
            let (local, from) = (client.local, client.from);
            match client.framing.take(&mut data) {
                Ok(Some(frame)) => self.frame(now, way, local, from, frame),
                Ok(None) => return,
                Err(()) => {
                    self.stats.malformed += 1;
                    self.leave(way);
                    self.output.push_back(Output::Close(conn));
                    return;
                }
            }
        }
    }

    /// A client's stream is closed: with it goes its allocation.
    pub fn closed(&mut self, conn: ConnId) {
        self.leave(Way::Tcp(conn));
    }

    /// A socket that was asked for is open, on this port, or could not be.
    pub fn opened(&mut self, now: Duration, relay: RelayId, port: Option<u16>) {
        let Some(way) = self.relays.get(&relay).copied() else { return };
        let Some(client) = self.clients.get_mut(&way) else { return };
        let Some(its) = client.relays.iter_mut().find(|its| its.id == relay && its.at.is_none()) else {
            return;
        };
        match port {
            Some(port) => {
                let at = SocketAddr::new(its.ip, port);
                its.at = Some(at);
                self.addresses.insert(at, relay);
                self.stats.allocated += 1;
            }
            None => {
                let wanted = family(its.ip);
                self.free(way, |its| its.id == relay);
                self.tell(now, way, wanted, Err(SocketAllocateError::InsufficientCapacity));
            }
        }
        self.tell_open(now, way);
        self.poll(now, way);
    }

    /// Tells the protocol of a client's sockets, once all are open: it takes an allocation for failed whose last one is.
    fn tell_open(&mut self, now: Duration, way: Way) {
        let Some(client) = self.clients.get_mut(&way) else { return };
        if client.relays.iter().all(|relay| relay.at.is_some()) {
            let untold = client.relays.iter_mut().filter_map(|relay| {
                let new = !core::mem::replace(&mut relay.told, true);
                relay.at.filter(|_| new)
            });
            for at in untold.collect::<Vec<_>>() {
                self.tell(now, way, family(at.ip()), Ok(at));
            }
        }
    }

    fn tell(
        &mut self,
        now: Duration,
        way: Way,
        wanted: AddressFamily,
        result: Result<SocketAddr, SocketAllocateError>,
    ) {
        let Some(client) = self.clients.get_mut(&way) else { return };
        let (local, from, udp) = (client.local, client.from, TransportType::Udp);
        client.protocol.allocated_socket(udp, local, from, udp, wanted, result, instant(now));
    }

    /// A datagram from a peer came in on a relaying socket.
    pub fn relayed(&mut self, now: Duration, relay: RelayId, from: SocketAddr, data: &[u8]) {
        let Some(way) = self.relays.get(&relay).copied() else { return };
        let Some(client) = self.clients.get(&way) else { return };
        let its = client.relays.iter().find(|its| its.id == relay);
        let Some((at, ip)) = its.and_then(|its| Some((its.at?, its.ip))) else { return };
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        if !self.reaches(ip, from) {
            self.stats.forbidden += 1;
            return;
        }
        if !self.carries(now, way, relay, data.len()) {
            return;
        }
        let Some(client) = self.clients.get_mut(&way) else { return };
        let transmit = Transmit::new(data.to_vec(), TransportType::Udp, from, at);
        let said = client.protocol.recv(transmit, instant(now));
        if let Some(said) = said.map(|said| said.build()) {
            self.answer(way, said.data);
        }
    }

    /// Returns the next output.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.output.pop_front()
    }

    /// Returns the time to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// The time of [`poll_timeout`](Self::poll_timeout) has come.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.per_user.retain(|_, account| account.relays > 0 || !account.flow.is_full(now));
        while let Some((at, way)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            self.deadlines.remove(&(at, way));
            if self.clients.get(&way).is_some_and(Client::is_granted) {
                self.poll(now, way);
            }
            if self.clients.get(&way).is_some_and(|client| !client.is_granted()) {
                self.leave(way);
                if let Way::Tcp(conn) = way {
                    self.output.push_back(Output::Close(conn));
                }
            }
        }
    }

    /// Relayed addresses there are: an allocation has one, or one of each family.
    pub fn allocations(&self) -> usize {
        self.relays.len()
    }

    /// Returns the counters.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Handles a single message or ChannelData of a client's.
    fn frame(&mut self, now: Duration, way: Way, local: SocketAddr, from: SocketAddr, mut data: Vec<u8>) {
        if message::is_channel_data(&data) {
            // Without an allocation there are no channels.
            if data.len() <= MAX_FRAME && self.clients.get(&way).is_some_and(Client::is_granted) {
                self.serve(now, way, data);
            }
            return;
        }
        let message = Some(&data).filter(|data| data.len() <= MAX_FRAME).and_then(|data| Stun::read(data));
        let Some(message) = message else {
            self.stats.malformed += 1;
            return;
        };
        let new = !self.clients.contains_key(&way);
        if !self.clients.get(&way).is_some_and(Client::is_granted) {
            // An indication of somebody without an allocation is nothing.
            if !message.is_request() {
                return;
            }
            if !self.sources.asks(now, from.ip()) {
                self.stats.over_rate += 1;
                return;
            }
            // What needs no state gets none, and a short answer: its source may be forged.
            if let Some(code) = message.refused_unsigned() {
                return self.put(way, message.error(code));
            }
        }
        if new && !self.enter(now, way, local, from) {
            self.stats.over_rate += 1;
            return;
        }
        let Some(client) = self.clients.get_mut(&way) else { return };
        if let Some((id, answer)) = &client.granted
            && message.kind == ALLOCATE
            && *id == message.id
        {
            let answer = answer.clone();
            return self.answer(way, answer);
        }
        let signed = message.is_signed();
        if signed && client.algorithms.is_none() {
            // It has proof of a challenge that we have forgotten: it gets a new one, as for a stale nonce.
            data = message.bare();
        } else if signed {
            let realm = &self.config.realm;
            let hidden = message.get(USERHASH).and_then(|hash| self.config.users.behind(hash, realm));
            let shown = message.get(USERNAME).and_then(|name| core::str::from_utf8(name).ok());
            if let Some(name) = hidden.or(shown)
                && let Some(password) = self.config.users.password(now, name)
            {
                if !client.known.iter().any(|(known, _)| known == name) && client.known.len() < MAX_NAMES {
                    client.known.push((name.to_owned(), password.clone()));
                    client.protocol.add_user(name.to_owned(), password);
                }
                name.clone_into(&mut client.user);
            }
        }
        let forgotten = signed && client.algorithms.is_none();
        if let Some(refusal) = self.refusal(way, &data) {
            self.stats.forbidden += 1;
            return self.answer(way, refusal);
        }
        let (before, asked) = (self.output.len(), data.len());
        self.serve(now, way, data);
        if forgotten
            && self.output.len() > before
            && let Some(Output::Datagram { data, .. } | Output::Send(_, data)) = self.output.back_mut()
        {
            let mut answer = data.to_vec();
            message::set_error(&mut answer, 438);
            *data = answer.into();
        }
        self.bound(now, way, before, asked);
    }

    /// Drops what was said to a client over UDP that has proven nothing, where it is too much for what came from there.
    fn bound(&mut self, now: Duration, way: Way, before: usize, asked: usize) {
        let Way::Udp { from, .. } = way else { return };
        if self.clients.get(&way).is_some_and(Client::is_granted) {
            return;
        }
        let size = |output: &Output| match output {
            Output::Datagram { data, .. } => data.len(),
            _ => 0,
        };
        let answer = self.output.iter().skip(before).map(size).sum();
        if answer > 0 && !self.sources.answers(now, from.ip(), asked, answer) {
            self.stats.over_rate += 1;
            self.output.retain({
                let mut n = 0;
                move |output| {
                    n += 1;
                    n <= before || !matches!(output, Output::Datagram { .. })
                }
            });
        }
    }

    /// The answer to a request to reach whom no relay reaches, if the request is its user's: 403. Whatever else the
    /// protocol makes of such requests, nothing is carried.
    fn refusal(&self, way: Way, data: &[u8]) -> Option<Vec<u8>> {
        let client = self.clients.get(&way)?;
        let user = &client.relays.first()?.user;
        let message = Stun::read(data).filter(|m| matches!(m.kind, CREATE_PERMISSION | CHANNEL_BIND))?;
        let may = |peer: SocketAddr, relay: &Relay| match message.kind {
            // A permission is for all ports, and one of these may be a relay's.
            CREATE_PERMISSION => self.reach.is_relays(peer.ip()) || self.reach.may(relay.ip, peer.ip()),
            _ => self.reaches(relay.ip, peer),
        };
        if message.peers().all(|peer| client.relays.iter().any(|relay| may(peer, relay))) {
            return None;
        }
        let (name, password) = client.known.iter().find(|(name, _)| name == user)?;
        let realm = self.config.realm.clone();
        let credentials = LongTermKeyCredentials::new(name.clone(), password.clone(), realm).into();
        let request = Message::from_bytes(data).ok()?;
        let algorithm = request.validate_integrity(&credentials).ok()?;
        let mut answer = Message::builder_error(&request, MessageWriteVec::new());
        answer.add_attribute(&ErrorCode::new(ErrorCode::FORBIDDEN, "").ok()?).ok()?;
        answer.add_message_integrity(&credentials, algorithm).ok()?;
        Some(answer.finish())
    }

    fn reaches(&self, relay: IpAddr, peer: SocketAddr) -> bool {
        self.addresses.contains_key(&peer) || self.reach.may(relay, peer.ip())
    }

    /// Lets a client's relay carry so many bytes, if that and its user may now.
    fn carries(&mut self, now: Duration, way: Way, id: RelayId, bytes: usize) -> bool {
        let relays = self.clients.get_mut(&way).map(|client| &mut client.relays);
        let Some(relay) = relays.and_then(|relays| relays.iter_mut().find(|relay| relay.id == id)) else {
            return false;
        };
        let account = self.per_user.get_mut(&relay.user);
        let allowed = relay.flow.take(now, bytes) && account.is_some_and(|user| user.flow.take(now, bytes));
        self.stats.over_bytes += u64::from(!allowed);
        allowed
    }

    /// Lets the protocol have it, and does what that says.
    fn serve(&mut self, now: Duration, way: Way, data: Vec<u8>) {
        let Some(client) = self.clients.get_mut(&way) else { return };
        let transmit = Transmit::new(data, TransportType::Udp, client.from, client.local);
        let said = client.protocol.recv(transmit, instant(now)).map(|said| said.build());
        if let Some(said) = said {
            self.route(now, way, said);
        }
        self.poll(now, way);
    }

    fn poll(&mut self, now: Duration, way: Way) {
        loop {
            let Some(client) = self.clients.get_mut(&way) else { return };
            match client.protocol.poll(instant(now)) {
                TurnServerPollRet::AllocateSocket { allocation_transport, family, .. } => {
                    let wanted = allocation_transport == TransportType::Udp;
                    self.open(now, way, family, wanted);
                }
                TurnServerPollRet::SocketClose { listen_addr, .. } => {
                    self.free(way, |relay| relay.at == Some(listen_addr));
                }
                // Of relaying TCP, which nobody is granted.
                TurnServerPollRet::TcpConnect { .. } | TurnServerPollRet::TcpClose { .. } => {}
                TurnServerPollRet::WaitUntil(at) => {
                    // It lets go of things after their time, not at it.
                    let at = Duration::from_nanos(u64::try_from(at.as_nanos()).unwrap_or(0));
                    let at = if client.is_granted() { at } else { now + STRANGER_FOR };
                    let at = at.max(now) + Duration::from_millis(1);
                    self.deadlines.remove(&(client.wake, way));
                    client.wake = at;
                    self.deadlines.insert((at, way));
                    break;
                }
            }
        }
        while let Some(client) = self.clients.get_mut(&way)
            && let Some(said) = client.protocol.poll_transmit(instant(now))
        {
            // All that comes this way is for the client.
            self.answer(way, said.data);
        }
    }

    /// The protocol has let a client in that wants a socket.
    fn open(&mut self, now: Duration, way: Way, wanted: AddressFamily, is_udp: bool) {
        let Some(client) = self.clients.get_mut(&way) else { return };
        let limits = self.config.limits;
        let ip = self.config.relay_ips.iter().find(|ip| family(**ip) == wanted).copied();
        // The protocol has just found that this is who it is.
        let (user, owner) = (client.user.clone(), crate::owner(client.from.ip()));
        let of_user = self.per_user.get(&user).map_or(0, |account| account.relays);
        let of_address = self.per_address.get(&owner).copied().unwrap_or_default();
        let full = self.relays.len() >= limits.allocations
            || of_user >= limits.per_user
            || of_address >= limits.per_address;
        let refusal = match ip {
            _ if !is_udp || client.relays.iter().any(|relay| relay.told || family(relay.ip) == wanted) => {
                Some(SocketAllocateError::InsufficientCapacity)
            }
            None => Some(SocketAllocateError::AddressFamilyNotSupported),
            Some(_) if full => {
                self.stats.over_quota += 1;
                Some(SocketAllocateError::InsufficientCapacity)
            }
            Some(ip) => {
                let id = RelayId(self.next);
                self.next += 1;
                let flow = |rate| Flow::new(now, rate);
                let (user_name, flow_of_relay) = (user.clone(), flow(limits.allocation_bytes));
                client.relays.push(Relay {
                    id,
                    user: user_name,
                    ip,
                    at: None,
                    told: false,
                    flow: flow_of_relay,
                });
                self.relays.insert(id, way);
                let new = || Account { relays: 0, flow: flow(limits.user_bytes) };
                self.per_user.entry(user).or_insert_with(new).relays += 1;
                self.per_address.insert(owner, of_address + 1);
                self.output.push_back(Output::Open(id, ip));
                None
            }
        };
        if let Some(why) = refusal {
            let (local, from, udp) = (client.local, client.from, TransportType::Udp);
            let asked = if is_udp { udp } else { TransportType::Tcp };
            client.protocol.allocated_socket(udp, local, from, asked, wanted, Err(why), instant(now));
        }
    }

    /// Routes a message of the protocol's: to the client, or to a peer.
    fn route(&mut self, now: Duration, way: Way, said: Transmit<Vec<u8>>) {
        let Some(client) = self.clients.get(&way) else { return };
        if said.to == client.from && said.from == client.local {
            return self.answer(way, said.data);
        }
        let Some(relay) = client.relays.iter().find(|relay| relay.at == Some(said.from)) else { return };
        let (id, ip) = (relay.id, relay.ip);
        if !self.reaches(ip, said.to) {
            self.stats.forbidden += 1;
            return;
        }
        let data = said.data;
        if !self.carries(now, way, id, data.len()) {
            return;
        }
        // A peer behind another relay of ours: nothing has to leave the machine, or find its way back to it.
        if let Some(other) = self.addresses.get(&said.to) {
            return self.relayed(now, *other, said.from, &data);
        }
        self.output.push_back(Output::Relay { relay: id, to: said.to, data: data.into() });
    }

    fn answer(&mut self, way: Way, mut data: Vec<u8>) {
        let Some(client) = self.clients.get_mut(&way) else { return };
        if let Some(message) = Stun::read(&data) {
            if message.kind == ALLOCATED {
                client.granted = Some((message.id, data.clone()));
            } else if message.is_error() && !message.is_signed() {
                let mut short = message.short();
                if let Some(offered) = message.get(PASSWORD_ALGORITHMS) {
                    client.algorithms = Some(offered.to_vec());
                } else if message.error_code() == Some(438)
                    && let Some(offered) = &client.algorithms
                {
                    message::append(&mut short, PASSWORD_ALGORITHMS, offered);
                }
                data = short;
            }
        }
        self.put(way, data);
    }

    fn put(&mut self, way: Way, mut data: Vec<u8>) {
        let said = match way {
            Way::Udp { local, from } => Output::Datagram { from: local, to: from, data: data.into() },
            Way::Tcp(conn) => {
                data.resize(data.len().next_multiple_of(4), 0);
                Output::Send(conn, data.into())
            }
        };
        self.output.push_back(said);
    }

    /// A place for a new client.
    fn enter(&mut self, now: Duration, way: Way, local: SocketAddr, from: SocketAddr) -> bool {
        if !self.newcomers.take(now) {
            return false;
        }
        let clients = &self.clients;
        let is_stranger = |way: &Way| clients.get(way).is_some_and(|client| !client.is_granted());
        if self.strangers.len() >= MAX_STRANGERS {
            self.strangers.retain(is_stranger);
        }
        if self.strangers.len() >= MAX_STRANGERS {
            let oldest = self.strangers.iter().position(|way| matches!(way, Way::Udp { .. }));
            let Some(oldest) = oldest.and_then(|at| self.strangers.remove(at)) else { return false };
            self.leave(oldest);
        }
        self.strangers.push_back(way);
        let mut protocol = TurnServer::new(TransportType::Udp, local, self.config.realm.clone());
        protocol.set_nonce_expiry_duration(self.config.nonce.max(SHORTEST_NONCE));
        let wake = now + STRANGER_FOR;
        self.deadlines.insert((wake, way));
        let client = Client {
            protocol,
            local,
            from,
            framing: Framing::default(),
            user: String::new(),
            known: Vec::new(),
            algorithms: None,
            granted: None,
            relays: Vec::new(),
            wake,
        };
        self.clients.insert(way, client);
        true
    }

    fn leave(&mut self, way: Way) {
        self.free(way, |_| true);
        if let Some(client) = self.clients.remove(&way) {
            self.deadlines.remove(&(client.wake, way));
        }
    }

    /// The client's sockets that are `which` are given back.
    fn free(&mut self, way: Way, which: impl Fn(&Relay) -> bool) {
        let Some(client) = self.clients.get_mut(&way) else { return };
        client.granted = None;
        let owner = crate::owner(client.from.ip());
        let (freed, kept): (Vec<_>, Vec<_>) = client.relays.drain(..).partition(which);
        client.relays = kept;
        if !freed.is_empty() && !client.is_granted() && !self.strangers.contains(&way) {
            self.strangers.push_back(way);
        }
        for relay in freed {
            if let Some(at) = relay.at {
                self.addresses.remove(&at);
            }
            self.relays.remove(&relay.id);
            if let Some(account) = self.per_user.get_mut(&relay.user) {
                account.relays -= 1;
            }
            if let Some(count) = self.per_address.get_mut(&owner) {
                *count -= 1;
                if *count == 0 {
                    self.per_address.remove(&owner);
                }
            }
            self.output.push_back(Output::CloseRelay(relay.id));
        }
    }
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::IPV4 } else { AddressFamily::IPV6 }
}

fn instant(now: Duration) -> Instant {
    Instant::from_nanos(i64::try_from(now.as_nanos()).unwrap_or(i64::MAX))
}
