//! The race of our TURN servers for an allocation, and the one that won it.
//!
//! The first three servers of the list are asked at once. The first that relays for us has the shortest round trip, of
//! those that answer, and is kept. The others are released. Where UDP gets no answer within a second, the same server
//! is asked over TCP as well. Of a server's name every address is asked, one shortly after the other.

mod asked;
mod asking;

use asked::{Asked, ByTcp, Renewal};

use core::fmt::Write;
use core::time::Duration;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use smallvec::SmallVec;

use crate::config::{TurnAuth, TurnServer};
use crate::cx::{Cx, Owner};
use crate::failure::IoFailure;
use crate::io::{CloseHow, Input, QueryId, SockId};
use crate::pipe::PipeEnd;
use crate::proxy::Proxy;
use crate::random::Domain;
use crate::server::local_for;
use crate::time::{Instant, WallTime};
use crate::turn::{self, Client, Credentials, Family};
use crate::wire::Transport;

/// Servers asked at a time.
const AT_ONCE: usize = 3;
/// Time without an answer over UDP after which TCP is tried too.
const TCP_AFTER: Duration = Duration::from_secs(1);
/// Time without an answer from a server after which the next one of the list is asked too.
const FASTER_THAN: Duration = Duration::from_secs(2);
/// A server without an address of the better family is asked for one of the other so much later, if there are others.
const OTHER_FAMILY_AFTER: Duration = Duration::from_millis(500);
/// Time for the look-up of a server's name and the dials.
const REACH_WITHIN: Duration = Duration::from_secs(5);
/// Lifetime of credentials that we make; what was allocated with them lives on.
const MADE_FOR: Duration = Duration::from_secs(24 * 3600);
/// Made for so long they are good whatever our clock says: the end of time where it has 31 bits, 2038.
const MADE_FOR_GOOD: WallTime = WallTime::from_micros(((1 << 31) - 1) * 1_000_000);
/// Further sockets that a server is asked from which refuses the first for its address: RFC 8656 section 7.4 has three
/// in all.
const FRESH_PORTS: u8 = 2;
/// Credentials that end within so long are renewed before they are used.
const ENDS_SOON: Duration = Duration::from_secs(10);
/// Bytes that a server may send ahead on a stream.
const CREDIT: u32 = 256 * 1024;

/// Result of the race, and data that come through the relay.
#[derive(Debug)]
pub(in crate::node) enum ServerNews {
    /// Peers reach us at this address.
    Allocated(SocketAddr),
    Data(SocketAddr, Bytes),
    /// The server does not let a peer through: ERROR-CODE.
    Refused(IpAddr, u16),
    /// The server of this try sends us to another, if we [may](Servers::follow); its entry permits `anywhere`.
    Redirected {
        by: usize,
        to: SocketAddr,
        anywhere: bool,
    },
    /// The credentials for the server at this place of the list are good no longer.
    Stale(u8),
    /// The allocation is gone.
    Lost(turn::Error),
    /// No server relays for us: the reason, in words.
    Failed(String),
}

#[derive(Debug)]
pub(in crate::node) struct Servers {
    owner: Owner,
    bind: Option<IpAddr>,
    /// The families of address that we have: IPv4, IPv6.
    ours: [bool; 2],
    /// Family of the relayed address, and whether the other one does where there is none of it.
    family: (Family, bool),
    /// Servers whose turn has not come.
    waiting: VecDeque<(u8, TurnServer)>,
    asked: SmallVec<[Asked; 3]>,
    tries: SmallVec<[Try; 3]>,
    /// The try that won.
    chosen: Option<usize>,
    closed: bool,
    /// Time of the last check whether further servers are to be asked.
    asked_at: Instant,
    news: VecDeque<ServerNews>,
}

/// Address of an asked server, and the state of the try.
#[derive(Debug)]
struct Try {
    /// Index of the server in `Servers::asked`.
    of: usize,
    at: SocketAddr,
    state: TryState,
}

#[derive(Debug)]
enum TryState {
    Opening(SockId),
    Running(SockId, Box<Client>),
    /// End of the try, with the reason if it failed.
    Ended(Option<String>),
}

impl Servers {
    /// Asks the first servers.
    pub(in crate::node) fn start(
        cx: &mut Cx,
        owner: Owner,
        list: &[TurnServer],
        bind: Option<IpAddr>,
        ours: [bool; 2],
        family: (Family, bool),
    ) -> Self {
        let waiting = list.iter().enumerate().map(|(place, server)| (place as u8, server.clone())).collect();
        let mut servers = Servers {
            owner,
            bind,
            ours,
            family,
            waiting,
            asked: SmallVec::new(),
            tries: SmallVec::new(),
            chosen: None,
            closed: false,
            asked_at: cx.now,
            news: VecDeque::new(),
        };
        servers.ask_more(cx);
        servers
    }

    pub(in crate::node) fn poll_news(&mut self) -> Option<ServerNews> {
        self.news.pop_front()
    }

    /// Returns our address at the server.
    pub(in crate::node) fn relayed(&self) -> Option<SocketAddr> {
        match &self.tries.get(self.chosen?)?.state {
            TryState::Running(_, client) => client.relayed(),
            _ => None,
        }
    }

    /// Returns our address of the other family at the server, if there is one.
    pub(in crate::node) fn other_relayed(&self) -> Option<SocketAddr> {
        match &self.tries.get(self.chosen?)?.state {
            TryState::Running(_, client) => client.other_relayed(),
            _ => None,
        }
    }

    /// ERROR-CODE of the server that relays for us, without proof.
    pub(in crate::node) fn unproven(&self) -> Option<u16> {
        match &self.tries.get(self.chosen?)?.state {
            TryState::Running(_, client) => client.unproven(),
            _ => None,
        }
    }

    /// Lets datagrams of this address through.
    pub(in crate::node) fn permit(&mut self, cx: &mut Cx, peer: SocketAddr) {
        let now = cx.now;
        // Of another family than the relayed address, or one too many: nothing comes from there then.
        self.with_client(cx, |client| {
            let _ = client.permit_at(now, peer);
        });
    }

    /// Sends a datagram from the relayed address.
    pub(in crate::node) fn send(&mut self, cx: &mut Cx, to: SocketAddr, data: &[u8]) {
        let now = cx.now;
        self.with_client(cx, |client| {
            let _ = client.send(now, to, data);
        });
    }

    /// Sends a datagram from the relayed address to a peer that may have no permission yet.
    pub(in crate::node) fn send_permitting(
        &mut self,
        cx: &mut Cx,
        to: SocketAddr,
        data: &[u8],
    ) -> Result<(), turn::SendError> {
        let (now, mut sent) = (cx.now, Err(turn::SendError::Closed));
        self.with_client(cx, |client| sent = client.send_permitting(now, to, data));
        sent
    }

    /// Asks the server that relays for us whether it still does.
    pub(in crate::node) fn check(&mut self, cx: &mut Cx) {
        let now = cx.now;
        self.with_client(cx, |client| client.check(now));
    }

    /// Takes in an input of a socket or a look-up.
    pub(in crate::node) fn handle(&mut self, cx: &mut Cx, input: Input<'_>) {
        match input {
            Input::Resolved { query, result } => self.resolved(cx, query, result),
            Input::Bound { sock, .. } | Input::Connected { sock, .. } => self.opened(cx, sock),
            Input::Datagram { sock, from, data } => self.datagram(cx, sock, from, data),
            Input::Stream { sock, data } => self.received(cx, sock, data),
            Input::Failed { sock, cause } => self.failed(cx, sock, cause),
            Input::Eof { sock } => self.ended(cx, sock),
            _ => {}
        }
    }

    fn resolved(&mut self, cx: &mut Cx, query: QueryId, result: Result<SmallVec<[IpAddr; 2]>, IoFailure>) {
        let [v4, v6] = self.ours;
        let usable = |ip: &IpAddr| if ip.is_ipv4() { v4 } else { v6 };
        for (n, asked) in self.asked.iter_mut().enumerate() {
            let Some(found) = asked.race.resolved(cx, query, &result, usable) else { continue };
            let found = found.map_err(|why| Proxy::blame(asked.proxy(), why).to_string());
            asked.why = match found {
                Ok(()) if !asked.race.is_open() => Some("no address of a family we have".into()),
                found => found.err(),
            };
            if asked.why.is_some() && asked.server.proxy.is_some() && asked.by_tcp != ByTcp::No {
                // The proxy looks the name up itself.
                self.ask_by_tcp(cx, n);
            }
            self.drive(cx, n);
            return self.ask_more(cx);
        }
    }

    /// Asks at the addresses whose turn has come.
    fn drive(&mut self, cx: &mut Cx, of: usize) {
        let asked = &mut self.asked[of];
        if matches!(asked.renewal, Renewal::Awaited(_)) {
            return;
        }
        while let Some(ip) = asked.race.next(cx.now) {
            let (from, at) =
                (local_for(cx, ip, self.bind), SocketAddr::new(ip, asked.server.first(asked.over).1));
            let sock = match asked.over {
                Transport::Udp => cx.bind_udp_for(self.owner, from, Some(at)),
                Transport::Tcp => {
                    let (limit, wrap) = (asked.race.left(cx.now), asked.server.wrap());
                    cx.dial_server(self.owner, from, at, limit, wrap)
                }
            };
            self.tries.push(Try { of, at, state: TryState::Opening(sock) });
        }
    }

    /// Takes in that a socket is bound or connected.
    fn opened(&mut self, cx: &mut Cx, sock: SockId) {
        let Some(n) = self.place(sock) else { return };
        let t = &mut self.tries[n];
        let TryState::Opening(_) = t.state else { return };
        let asked = &mut self.asked[t.of];
        let mut config = turn::Config::new(asked.over, asked.credentials(cx));
        (config.lifetimes, config.family) = (asked.server.lifetimes, asked.family);
        let client = Client::new(config, cx.random.draw(Domain::TurnSeed), cx.now);
        t.state = TryState::Running(sock, Box::new(client));
        if asked.over == Transport::Tcp {
            cx.read(sock, CREDIT);
        } else if asked.by_tcp == ByTcp::Later(None) {
            asked.by_tcp = ByTcp::Later(Some(cx.now + TCP_AFTER));
        }
        self.pump(cx, n);
    }

    pub(in crate::node) fn datagram(&mut self, cx: &mut Cx, sock: SockId, from: SocketAddr, data: &[u8]) {
        let Some(n) = self.place(sock) else { return };
        let Try { at, state: TryState::Running(_, client), .. } = &mut self.tries[n] else { return };
        if from == *at {
            client.handle(cx.now, data);
            self.pump(cx, n);
        } else {
            cx.stats.bad_stun += 1;
        }
    }

    fn received(&mut self, cx: &mut Cx, sock: SockId, data: &[u8]) {
        let Some(n) = self.place(sock) else { return };
        let TryState::Running(_, client) = &mut self.tries[n].state else { return };
        client.handle(cx.now, data);
        cx.read(sock, data.len() as u32);
        self.pump(cx, n);
    }

    /// Takes in the end of a stream.
    fn ended(&mut self, cx: &mut Cx, sock: SockId) {
        let Some(n) = self.place(sock) else { return };
        if let TryState::Running(_, client) = &mut self.tries[n].state {
            client.handle_end(cx.now);
            self.pump(cx, n);
        }
    }

    /// Takes in that a socket failed and is gone.
    fn failed(&mut self, cx: &mut Cx, sock: SockId, why: IoFailure) {
        let Some(n) = self.place(sock) else { return };
        // Nobody listens there. A relay that is in use ends by what the server says, or by its silence.
        let refused = self.asked[self.tries[n].of].over == Transport::Udp && self.chosen != Some(n);
        match &mut self.tries[n].state {
            TryState::Running(_, client) if self.closed || !refused => {
                client.handle_end(cx.now);
                self.pump(cx, n);
            }
            _ => {
                let why = Proxy::blame(self.asked[self.tries[n].of].proxy(), why);
                self.fail(cx, n, why.to_string(), true);
            }
        }
    }

    pub(in crate::node) fn timeout(&mut self, cx: &mut Cx) {
        for n in 0..self.asked.len() {
            if matches!(self.asked[n].renewal, Renewal::Awaited(until) if until <= cx.now) {
                self.renewed(cx, n, None);
            }
            self.drive(cx, n);
            if matches!(self.asked[n].by_tcp, ByTcp::Later(Some(at)) if at <= cx.now) {
                self.ask_by_tcp(cx, n);
            }
            if self.asked[n].other.is_some_and(|at| at <= cx.now) {
                self.ask_other_family(cx, n);
            }
        }
        self.ask_more(cx);
        for n in 0..self.tries.len() {
            if let TryState::Running(_, client) = &mut self.tries[n].state
                && client.poll_timeout().is_some_and(|at| at <= cx.now)
            {
                client.handle_timeout(cx.now);
                self.pump(cx, n);
            }
        }
    }

    pub(in crate::node) fn poll_timeout(&self) -> Option<Instant> {
        let tries = self.tries.iter().filter_map(|t| match &t.state {
            TryState::Running(_, client) => client.poll_timeout(),
            _ => None,
        });
        let by_tcp = self.asked.iter().filter_map(|asked| match asked.by_tcp {
            ByTcp::Later(at) => at,
            ByTcp::No => None,
        });
        let renewals = self.asked.iter().filter_map(|asked| match asked.renewal {
            Renewal::Awaited(until) => Some(until),
            Renewal::Possible | Renewal::Done => None,
        });
        let others = self.asked.iter().filter_map(|asked| asked.other);
        let more = self.asked.iter().map(|asked| asked.begun + FASTER_THAN).filter(|at| *at > self.asked_at);
        let more = more.filter(|_| !self.waiting.is_empty());
        tries
            .chain(by_tcp)
            .chain(renewals)
            .chain(others)
            .chain(more)
            .chain(self.asked.iter().filter_map(|asked| asked.race.due()))
            .min()
    }

    /// Gives the allocation up, and every other one that is asked for.
    pub(in crate::node) fn close(&mut self, cx: &mut Cx) {
        if !core::mem::replace(&mut self.closed, true) {
            self.waiting.clear();
            self.release_all(cx, None);
        }
    }

    /// Returns true if no server holds anything of ours, or says so.
    pub(in crate::node) fn is_over(&self) -> bool {
        self.tries.iter().all(|t| matches!(t.state, TryState::Ended(_)))
    }

    /// Closes every socket at once.
    pub(in crate::node) fn drop_sockets(&mut self, cx: &mut Cx) {
        self.asked.iter_mut().for_each(|asked| asked.race.stop(cx));
        for t in &mut self.tries {
            if let TryState::Opening(sock) | TryState::Running(sock, _) = t.state {
                cx.close(sock, close_how(self.asked[t.of].over));
                t.state = TryState::Ended(None);
            }
        }
    }

    fn place(&self, sock: SockId) -> Option<usize> {
        let its = |t: &Try| matches!(t.state, TryState::Opening(s) | TryState::Running(s, _) if s == sock);
        self.tries.iter().position(its)
    }

    fn with_client(&mut self, cx: &mut Cx, work: impl FnOnce(&mut Client)) {
        let Some(n) = self.chosen else { return };
        if let TryState::Running(_, client) = &mut self.tries[n].state {
            work(client);
            self.pump(cx, n);
        }
    }

    /// Returns true while an address of the server may still answer.
    fn is_alive(&self, of: usize) -> bool {
        let alive = |t: &Try| t.of == of && !matches!(t.state, TryState::Ended(_));
        let Asked { race, renewal, other, .. } = &self.asked[of];
        let waits = matches!(renewal, Renewal::Awaited(_)) || other.is_some();
        waits || race.is_open() || self.tries.iter().any(alive)
    }

    /// Ends a try that failed. `by_tcp`: another way to the same server may do better.
    fn fail(&mut self, cx: &mut Cx, n: usize, why: String, by_tcp: bool) {
        let t = &mut self.tries[n];
        let of = t.of;
        t.state = TryState::Ended(Some(why));
        self.asked[of].race.hurry(cx.now);
        self.drive(cx, of);
        if !self.is_alive(of) {
            if by_tcp && self.asked[of].by_tcp != ByTcp::No {
                self.ask_by_tcp(cx, of);
            }
            self.asked[of].by_tcp = ByTcp::No;
        }
        self.ask_more(cx);
    }

    /// Sends the datagrams of a client, and takes in its events.
    fn pump(&mut self, cx: &mut Cx, n: usize) {
        let t = &mut self.tries[n];
        let TryState::Running(sock, client) = &mut t.state else { return };
        let sock = *sock;
        while let Some(bytes) = client.poll_transmit() {
            match self.asked[t.of].over {
                Transport::Udp => cx.send_datagram(sock, t.at, bytes),
                Transport::Tcp => cx.send(sock, bytes),
            }
        }
        while let TryState::Running(_, client) = &mut self.tries[n].state
            && let Some(event) = client.poll_event()
        {
            self.hear(cx, n, sock, event);
        }
    }

    fn hear(&mut self, cx: &mut Cx, n: usize, sock: SockId, event: turn::Event) {
        let chosen = self.chosen == Some(n);
        match event {
            turn::Event::Allocated { relayed, .. } if self.chosen.is_none() && !self.closed => {
                self.chosen = Some(n);
                let t = &self.tries[n];
                if !self.asked[t.of].is_alternate {
                    cx.experience.works(self.asked[t.of].race.host(), t.at.ip());
                }
                self.news.push_back(ServerNews::Allocated(relayed));
                self.release_all(cx, Some(n));
            }
            turn::Event::Allocated { .. } => self.release(cx, n),
            turn::Event::Data { from, data } if chosen => {
                self.news.push_back(ServerNews::Data(from, data));
            }
            turn::Event::Refused { peer, code } if chosen => {
                self.news.push_back(ServerNews::Refused(peer, code));
            }
            turn::Event::Data { .. } | turn::Event::Refused { .. } | turn::Event::Permitted(_) => {}
            turn::Event::Lost(why) => {
                cx.close(sock, close_how(self.asked[self.tries[n].of].over));
                self.tries[n].state = TryState::Ended(Some(why.to_string()));
                if chosen {
                    self.news.push_back(ServerNews::Lost(why));
                } else {
                    if !self.closed && self.chosen.is_none() && self.goes_on(cx, n, why) {
                        return;
                    }
                    let by_tcp = matches!(why, turn::Error::NoAnswer | turn::Error::Unproven(_));
                    self.fail(cx, n, why.to_string(), by_tcp);
                }
            }
            turn::Event::Closed => {
                cx.close(sock, close_how(self.asked[self.tries[n].of].over));
                self.tries[n].state = TryState::Ended(None);
            }
        }
    }

    /// Ends all requests, and every try but this one.
    fn release_all(&mut self, cx: &mut Cx, but: Option<usize>) {
        for asked in &mut self.asked {
            asked.race.stop(cx);
            asked.by_tcp = ByTcp::No;
            (asked.renewal, asked.other) = (Renewal::Done, None);
        }
        (0..self.tries.len()).filter(|n| but != Some(*n)).for_each(|n| self.release(cx, n));
    }

    fn release(&mut self, cx: &mut Cx, n: usize) {
        let t = &mut self.tries[n];
        match &mut t.state {
            TryState::Opening(sock) => {
                cx.close(*sock, CloseHow::Drop);
                t.state = TryState::Ended(None);
            }
            TryState::Running(_, client) => {
                client.close(cx.now);
                self.pump(cx, n);
            }
            TryState::Ended(_) => {}
        }
    }

    /// Describes the result of each server that was asked.
    pub(in crate::node) fn describe(&self) -> String {
        let mut text = String::new();
        for (of, asked) in self.asked.iter().enumerate() {
            let over = match (asked.over, &asked.server.tls) {
                (Transport::Udp, _) => "UDP",
                (Transport::Tcp, None) => "TCP",
                (Transport::Tcp, Some(_)) => "TLS",
            };
            let mut say = |ip: Option<IpAddr>, why: &str| {
                let sep = if text.is_empty() { "" } else { "; " };
                let by = if asked.proxy().is_some() { " by the proxy" } else { "" };
                let _ = write!(text, "{sep}{}:{} over {over}{by}", asked.server.host, asked.server.port);
                let _ = ip.map_or(Ok(()), |ip| write!(text, " at {ip}"));
                let _ = write!(text, ": {why}");
            };
            let tries = || self.tries.iter().filter(|t| t.of == of);
            if matches!(asked.renewal, Renewal::Awaited(_)) {
                say(None, "other credentials are awaited");
            } else if tries().next().is_none() && (asked.why.is_some() || asked.race.is_open()) {
                say(None, asked.why.as_deref().unwrap_or("its name is being looked up"));
            }
            let several = tries().count() > 1 || asked.is_alternate;
            for t in tries() {
                let why = match &t.state {
                    TryState::Ended(Some(why)) => why.as_str(),
                    TryState::Ended(None) => continue,
                    TryState::Opening(_) => "no connection yet",
                    TryState::Running(_, client) => match client.unproven() {
                        Some(code) => &turn::Error::Unproven(code).to_string(),
                        None => "the TURN server has not answered yet",
                    },
                };
                say(several.then_some(t.at.ip()), why);
            }
        }
        text
    }
}

impl TurnServer {
    /// Takes other credentials; true if they are others.
    fn renew(&mut self, fresh: Option<&Credentials>) -> bool {
        let TurnAuth::Renewed(credentials) = &mut self.auth else { return false };
        let changed = fresh.is_some() && credentials.as_ref() != fresh;
        if changed {
            *credentials = fresh.cloned();
        }
        changed
    }
}

fn close_how(over: Transport) -> CloseHow {
    match over {
        Transport::Udp => CloseHow::Drop,
        Transport::Tcp => CloseHow::Graceful,
    }
}

/// Returns the end of a pipe whose allocation is gone.
pub(in crate::node) fn server_end(why: turn::Error) -> PipeEnd {
    match why {
        turn::Error::AllocationGone => PipeEnd::ServerForgot,
        _ => PipeEnd::ServerGone,
    }
}
