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

mod message;
mod users;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use turn_server_proto::api::{SocketAllocateError, Transmit, TurnServerApi, TurnServerPollRet};
use turn_server_proto::server::TurnServer;
use turn_server_proto::types::{AddressFamily, Instant, TransportType};

use crate::ConnId;
use crate::rate::Bucket;
use message::{ALLOCATE, ALLOCATED, Framing, MAX_FRAME, PASSWORD_ALGORITHMS, Stun, USERHASH, USERNAME};
pub use users::Users;

/// Clients without an allocation that are remembered; the oldest makes room. A TCP client keeps its place.
const MAX_STRANGERS: usize = 1024;
/// Such a client is forgotten after so much silence, and its TCP connection closed.
const STRANGER_FOR: Duration = Duration::from_secs(60);
/// New clients a second, in the long run: with [`MAX_STRANGERS`] it leaves each a second to prove who it is.
const NEW_PER_SECOND: u32 = 1000;
/// Messages a second of one source without an allocation.
const PER_SOURCE: u32 = 50;
/// Sources whose rate is remembered; beyond it all others share one.
const MAX_SOURCES: usize = 4096;
/// Names that one client may try: anybody can make up short-lived ones.
const MAX_NAMES: usize = 8;
/// The protocol takes no shorter one.
const SHORTEST_NONCE: Duration = Duration::from_secs(30);

/// What a server is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its realm.
    pub realm: String,
    /// Who may relay.
    pub users: Users,
    /// The addresses under which peers reach the relaying sockets, at most one of each family.
    pub relay_ips: Vec<IpAddr>,
    /// Whether peers on loopback are relayed to: for servers that are for this machine only. Default no, so that
    /// nobody reaches what is local to the server's machine.
    pub loopback: bool,
    /// After this a nonce is stale, and its user asked to take the next one (438). Default an hour, at least
    /// 30 s.
    pub nonce: Duration,
    /// How much of everything.
    pub limits: Limits,
}

impl Config {
    /// The defaults, for these users and this address.
    pub fn new(users: Users, relay_ip: IpAddr) -> Self {
        Config {
            realm: "p2pd".into(),
            users,
            relay_ips: vec![relay_ip],
            loopback: false,
            nonce: Duration::from_secs(3600),
            limits: Limits::default(),
        }
    }
}

/// Allocations at a time. What is beyond is answered with 508.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// In all. Default 1,024.
    pub allocations: usize,
    /// Of one user. Default 256: a name is often everybody's.
    pub per_user: usize,
    /// Of one address: an IPv4 address or an IPv6 /64. Default 64.
    pub per_address: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { allocations: 1024, per_user: 256, per_address: 64 }
    }
}

/// A socket to relay with. Never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RelayId(pub u64);

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send a datagram from the listening socket bound to `from`.
    Datagram {
        /// Which of our sockets.
        from: SocketAddr,
        /// Where to.
        to: SocketAddr,
        /// The payload.
        data: Bytes,
    },
    /// Send on a client's stream.
    Send(ConnId, Bytes),
    /// Close a client's stream.
    Close(ConnId),
    /// Open a UDP socket that peers reach at this address, on a port of the system's choice, and say
    /// [`Server::opened`].
    Open(RelayId, IpAddr),
    /// Send a datagram from a relaying socket.
    Relay {
        /// Which.
        relay: RelayId,
        /// Where to.
        to: SocketAddr,
        /// The payload.
        data: Bytes,
    },
    /// Close a relaying socket.
    CloseRelay(RelayId),
}

/// What the server has counted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Stats {
    /// Allocations that were made.
    pub allocated: u64,
    /// Allocations that were refused because there were too many.
    pub over_quota: u64,
    /// What was no message for a TURN server, and dropped.
    pub malformed: u64,
    /// Messages of clients without an allocation that were dropped because there were too many.
    pub over_rate: u64,
    /// Datagrams to peers that are not relayed to.
    pub forbidden: u64,
}

/// A client's way to us.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Way {
    Udp { local: SocketAddr, from: SocketAddr },
    Tcp(ConnId),
}

#[derive(Debug)]
struct Client {
    protocol: TurnServer,
    local: SocketAddr,
    from: SocketAddr,
    framing: Framing,
    /// Who its latest request says it is.
    user: String,
    /// Names whose passwords the protocol knows.
    known: Vec<String>,
    /// PASSWORD-ALGORITHMS of the challenge.
    algorithms: Option<Vec<u8>>,
    /// The Allocate that was granted, and the answer.
    granted: Option<([u8; 12], Vec<u8>)>,
    relay: Option<Relay>,
    /// When there is something to do.
    wake: Duration,
}

#[derive(Clone, Debug)]
struct Relay {
    id: RelayId,
    /// Whose it is.
    user: String,
    ip: IpAddr,
    /// Once it is open.
    at: Option<SocketAddr>,
}

/// The server.
#[derive(Debug)]
pub struct Server {
    config: Config,
    clients: BTreeMap<Way, Client>,
    /// When each client has something to do.
    deadlines: BTreeSet<(Duration, Way)>,
    /// Clients without an allocation, the oldest first. One may be gone, or have one by now.
    strangers: VecDeque<Way>,
    relays: BTreeMap<RelayId, Way>,
    addresses: BTreeMap<SocketAddr, RelayId>,
    next: u64,
    per_user: BTreeMap<String, usize>,
    per_address: BTreeMap<IpAddr, usize>,
    sources: BTreeMap<IpAddr, Bucket>,
    others: Bucket,
    newcomers: Bucket,
    output: VecDeque<Output>,
    stats: Stats,
}

impl Server {
    /// A server that has heard of nobody.
    pub fn new(config: Config) -> Self {
        Server {
            config,
            clients: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            strangers: VecDeque::new(),
            relays: BTreeMap::new(),
            addresses: BTreeMap::new(),
            next: 0,
            per_user: BTreeMap::new(),
            per_address: BTreeMap::new(),
            sources: BTreeMap::new(),
            others: Bucket::new(PER_SOURCE, PER_SOURCE * 4),
            newcomers: Bucket::new(NEW_PER_SECOND, NEW_PER_SECOND),
            output: VecDeque::new(),
            stats: Stats::default(),
        }
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
        let Some(its) = client.relay.as_mut().filter(|its| its.at.is_none()) else { return };
        let at = port.map(|port| SocketAddr::new(its.ip, port));
        its.at = at;
        let result = at.ok_or(SocketAllocateError::InsufficientCapacity);
        let (local, from, family) = (client.local, client.from, family(its.ip));
        let udp = TransportType::Udp;
        client.protocol.allocated_socket(udp, local, from, udp, family, result, instant(now));
        match at {
            Some(at) => {
                self.addresses.insert(at, relay);
                self.stats.allocated += 1;
            }
            None => self.free(way),
        }
        self.poll(now, way);
    }

    /// A datagram from a peer came in on a relaying socket.
    pub fn relayed(&mut self, now: Duration, relay: RelayId, from: SocketAddr, data: &[u8]) {
        let Some(way) = self.relays.get(&relay).copied() else { return };
        let Some(client) = self.clients.get_mut(&way) else { return };
        let Some(at) = client.relay.as_ref().and_then(|relay| relay.at) else { return };
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let transmit = Transmit::new(data.to_vec(), TransportType::Udp, from, at);
        let said = client.protocol.recv(transmit, instant(now));
        if let Some(said) = said.map(|said| said.build()) {
            self.answer(way, said.data);
        }
    }

    /// What is to be done next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.output.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// The time of [`poll_timeout`](Self::poll_timeout) has come.
    pub fn handle_timeout(&mut self, now: Duration) {
        while let Some((at, way)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            self.deadlines.remove(&(at, way));
            let has_allocation = self.clients.get(&way).is_some_and(|client| client.relay.is_some());
            if has_allocation {
                self.poll(now, way);
            }
            if self.clients.get(&way).is_some_and(|client| client.relay.is_none()) {
                self.leave(way);
                if let Way::Tcp(conn) = way {
                    self.output.push_back(Output::Close(conn));
                }
            }
        }
    }

    /// Allocations there are.
    pub fn allocations(&self) -> usize {
        self.relays.len()
    }

    /// What was counted so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// One message or ChannelData of a client's.
    fn frame(&mut self, now: Duration, way: Way, local: SocketAddr, from: SocketAddr, mut data: Vec<u8>) {
        if message::is_channel_data(&data) {
            // Without an allocation there are no channels.
            if data.len() <= MAX_FRAME && self.clients.get(&way).is_some_and(|client| client.relay.is_some())
            {
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
        if self.clients.get(&way).is_none_or(|client| client.relay.is_none()) {
            // An indication of somebody without an allocation is nothing.
            if !message.is_request() {
                return;
            }
            if !self.allows(now, from.ip()) {
                self.stats.over_rate += 1;
                return;
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
                if !client.known.iter().any(|known| known == name) && client.known.len() < MAX_NAMES {
                    client.known.push(name.to_owned());
                    client.protocol.add_user(name.to_owned(), password);
                }
                name.clone_into(&mut client.user);
            }
        }
        let forgotten = signed && client.algorithms.is_none();
        let before = self.output.len();
        self.serve(now, way, data);
        if forgotten
            && self.output.len() > before
            && let Some(Output::Datagram { data, .. } | Output::Send(_, data)) = self.output.back_mut()
        {
            let mut answer = data.to_vec();
            message::set_error(&mut answer, 438);
            *data = answer.into();
        }
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
                TurnServerPollRet::SocketClose { .. } => self.free(way),
                // Of relaying TCP, which nobody is granted.
                TurnServerPollRet::TcpConnect { .. } | TurnServerPollRet::TcpClose { .. } => {}
                TurnServerPollRet::WaitUntil(at) => {
                    // It lets go of things after their time, not at it.
                    let at = Duration::from_nanos(u64::try_from(at.as_nanos()).unwrap_or(0));
                    let at = if client.relay.is_some() { at } else { now + STRANGER_FOR };
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
        let of_user = self.per_user.get(&user).copied().unwrap_or_default();
        let of_address = self.per_address.get(&owner).copied().unwrap_or_default();
        let full = self.relays.len() >= limits.allocations
            || of_user >= limits.per_user
            || of_address >= limits.per_address;
        let refusal = match ip {
            // One for each client: the protocol would give a second one of the other family.
            _ if !is_udp || client.relay.is_some() => Some(SocketAllocateError::InsufficientCapacity),
            None => Some(SocketAllocateError::AddressFamilyNotSupported),
            Some(_) if full => {
                self.stats.over_quota += 1;
                Some(SocketAllocateError::InsufficientCapacity)
            }
            Some(ip) => {
                let id = RelayId(self.next);
                self.next += 1;
                client.relay = Some(Relay { id, user: user.clone(), ip, at: None });
                self.relays.insert(id, way);
                self.per_user.insert(user, of_user + 1);
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

    /// What the protocol says: to the client, or to a peer.
    fn route(&mut self, now: Duration, way: Way, said: Transmit<Vec<u8>>) {
        let Some(client) = self.clients.get(&way) else { return };
        if said.to == client.from && said.from == client.local {
            return self.answer(way, said.data);
        }
        let Some(relay) = client.relay.as_ref().filter(|relay| relay.at == Some(said.from)) else { return };
        let id = relay.id;
        // A peer behind another relay of ours: nothing has to leave the machine, or find its way back to it.
        if let Some(other) = self.addresses.get(&said.to) {
            return self.relayed(now, *other, said.from, &said.data);
        }
        if !self.may_reach(said.to.ip()) {
            self.stats.forbidden += 1;
            return;
        }
        self.output.push_back(Output::Relay { relay: id, to: said.to, data: said.data.into() });
    }

    fn answer(&mut self, way: Way, mut data: Vec<u8>) {
        let Some(client) = self.clients.get_mut(&way) else { return };
        if let Some(message) = Stun::read(&data) {
            if message.kind == ALLOCATED {
                client.granted = Some((message.id, data.clone()));
            } else if let Some(offered) = message.get(PASSWORD_ALGORITHMS) {
                client.algorithms = Some(offered.to_vec());
            } else if message.get(message::ERROR_CODE).is_some_and(|code| code.starts_with(&[0, 0, 4, 38]))
                && let Some(offered) = &client.algorithms
            {
                message::append(&mut data, PASSWORD_ALGORITHMS, offered);
            }
        }
        let said = match way {
            Way::Udp { local, from } => Output::Datagram { from: local, to: from, data: data.into() },
            Way::Tcp(conn) => {
                data.resize(data.len().next_multiple_of(4), 0);
                Output::Send(conn, data.into())
            }
        };
        self.output.push_back(said);
    }

    fn may_reach(&self, ip: IpAddr) -> bool {
        let link_local = match ip.to_canonical() {
            IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        let ip = ip.to_canonical();
        !ip.is_unspecified()
            && !ip.is_multicast()
            && !link_local
            && (self.config.loopback || !ip.is_loopback())
    }

    /// A place for a new client.
    fn enter(&mut self, now: Duration, way: Way, local: SocketAddr, from: SocketAddr) -> bool {
        if !self.newcomers.take(now) {
            return false;
        }
        let clients = &self.clients;
        let is_stranger = |way: &Way| clients.get(way).is_some_and(|client| client.relay.is_none());
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
            relay: None,
            wake,
        };
        self.clients.insert(way, client);
        true
    }

    fn leave(&mut self, way: Way) {
        self.free(way);
        if let Some(client) = self.clients.remove(&way) {
            self.deadlines.remove(&(client.wake, way));
        }
    }

    /// The client's socket is given back.
    fn free(&mut self, way: Way) {
        let Some(client) = self.clients.get_mut(&way) else { return };
        client.granted = None;
        let Some(relay) = client.relay.take() else { return };
        if !self.strangers.contains(&way) {
            self.strangers.push_back(way);
        }
        if let Some(at) = relay.at {
            self.addresses.remove(&at);
        }
        self.relays.remove(&relay.id);
        let owner = crate::owner(client.from.ip());
        less(&mut self.per_user, &relay.user);
        less(&mut self.per_address, &owner);
        self.output.push_back(Output::CloseRelay(relay.id));
    }

    fn allows(&mut self, now: Duration, source: IpAddr) -> bool {
        let source = crate::owner(source);
        if !self.sources.contains_key(&source) && self.sources.len() >= MAX_SOURCES {
            self.sources.retain(|_, bucket| !bucket.is_full(now));
        }
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&source) {
            return self.others.take(now);
        }
        self.sources.entry(source).or_insert_with(|| Bucket::new(PER_SOURCE, PER_SOURCE * 4)).take(now)
    }
}

fn less<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::IPV4 } else { AddressFamily::IPV6 }
}

fn instant(now: Duration) -> Instant {
    Instant::from_nanos(i64::try_from(now.as_nanos()).unwrap_or(i64::MAX))
}
