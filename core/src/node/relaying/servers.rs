//! The race of our TURN servers for an allocation, and the one that won it.
//!
//! The first three of the list are asked at once; the first that relays for us has the shortest round trip, of those
//! that answer, and is kept. The others are released. Where UDP gets no answer within a second, the same server is
//! asked over TCP beside it. Of a server's name every address is asked, one shortly after the other.

use core::fmt::Write;
use core::time::Duration;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use smallvec::SmallVec;

use crate::config::TurnServer;
use crate::cx::{Cx, Owner};
use crate::io::{CloseHow, IoFailure, QueryId, SockId};
use crate::random::Domain;
use crate::server::{Race, local_for};
use crate::time::Instant;
use crate::turn::{self, Client, Family};
use crate::wire::Transport;

/// Servers asked at a time.
const AT_ONCE: usize = 3;
/// Without an answer over UDP for so long, TCP is tried too.
const TCP_AFTER: Duration = Duration::from_secs(1);
/// The look-up of a server's name and the dials may take so long.
const REACH_WITHIN: Duration = Duration::from_secs(5);
/// Bytes that a server may send ahead on a stream.
const CREDIT: u32 = 256 * 1024;

/// What became of the race, and what comes through the relay.
#[derive(Debug)]
pub(super) enum ServerNews {
    /// Peers reach us at this address.
    Allocated(SocketAddr),
    Data(SocketAddr, Bytes),
    /// The server does not let a peer through: ERROR-CODE.
    Refused(u16),
    /// The allocation is gone.
    Lost(turn::Error),
    /// No server relays for us, and why, in words.
    Failed(String),
}

#[derive(Debug)]
pub(super) struct Servers {
    owner: Owner,
    bind: Option<IpAddr>,
    /// The families of address that we have: IPv4, IPv6.
    ours: [bool; 2],
    family: Family,
    /// Those whose turn has not come.
    waiting: VecDeque<TurnServer>,
    asked: SmallVec<[Asked; 3]>,
    tries: SmallVec<[Try; 3]>,
    /// The try that won.
    chosen: Option<usize>,
    closed: bool,
    news: VecDeque<ServerNews>,
}

/// A server that is asked in one way, at its addresses.
#[derive(Debug)]
struct Asked {
    server: TurnServer,
    over: Transport,
    race: Race,
    by_tcp: ByTcp,
    /// Reason, if no address was found.
    why: Option<String>,
}

/// Plan to ask a server over TCP too that is asked over UDP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ByTcp {
    /// Once UDP had no answer for a while, or failed.
    Later(Option<Instant>),
    /// TCP is in use already, or must not be used.
    No,
}

/// Address of an asked server, and how the try goes.
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
    /// With the reason, if it failed.
    Ended(Option<String>),
}

impl Servers {
    /// Asks the first servers.
    pub(super) fn start(
        cx: &mut Cx,
        owner: Owner,
        list: &[TurnServer],
        bind: Option<IpAddr>,
        ours: [bool; 2],
        family: Family,
    ) -> Self {
        let waiting = list.iter().cloned().collect();
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
            news: VecDeque::new(),
        };
        servers.ask_more(cx);
        servers
    }

    pub(super) fn poll_news(&mut self) -> Option<ServerNews> {
        self.news.pop_front()
    }

    /// Our address at the server.
    pub(super) fn relayed(&self) -> Option<SocketAddr> {
        match &self.tries.get(self.chosen?)?.state {
            TryState::Running(_, client) => client.relayed(),
            _ => None,
        }
    }

    /// Lets datagrams of this address through.
    pub(super) fn permit(&mut self, cx: &mut Cx, peer: IpAddr) {
        let now = cx.now;
        // Of another family than the relayed address, or one too many: nothing comes from there then.
        self.with_client(cx, |client| {
            let _ = client.permit(now, peer);
        });
    }

    /// Sends a datagram from the relayed address.
    pub(super) fn send(&mut self, cx: &mut Cx, to: SocketAddr, data: &[u8]) {
        let now = cx.now;
        self.with_client(cx, |client| {
            let _ = client.send(now, to, data);
        });
    }

    pub(super) fn resolved(
        &mut self,
        cx: &mut Cx,
        query: QueryId,
        result: Result<SmallVec<[IpAddr; 2]>, IoFailure>,
    ) {
        let [v4, v6] = self.ours;
        let usable = |ip: &IpAddr| if ip.is_ipv4() { v4 } else { v6 };
        for (n, asked) in self.asked.iter_mut().enumerate() {
            let Some(found) = asked.race.resolved(cx, query, &result, usable) else { continue };
            let found = found.map_err(|why| why.to_string());
            asked.why = match found {
                Ok(()) if !asked.race.is_open() => Some("no address of a family we have".into()),
                found => found.err(),
            };
            self.drive(cx, n);
            return self.ask_more(cx);
        }
    }

    /// Asks at the addresses whose turn has come.
    fn drive(&mut self, cx: &mut Cx, of: usize) {
        let asked = &mut self.asked[of];
        while let Some(ip) = asked.race.next(cx.now) {
            let (from, at) = (local_for(cx, ip, self.bind), SocketAddr::new(ip, asked.server.port));
            let sock = match asked.over {
                Transport::Udp => cx.bind_udp(self.owner, from),
                Transport::Tcp => {
                    let (limit, wrap) = (asked.race.left(cx.now), asked.server.wrap());
                    cx.dial_server(self.owner, from, at, limit, wrap)
                }
            };
            self.tries.push(Try { of, at, state: TryState::Opening(sock) });
        }
    }

    /// A socket is bound or connected.
    pub(super) fn opened(&mut self, cx: &mut Cx, sock: SockId) {
        let Some(n) = self.place(sock) else { return };
        let t = &mut self.tries[n];
        let TryState::Opening(_) = t.state else { return };
        let asked = &mut self.asked[t.of];
        let mut config = turn::Config::new(asked.over, asked.server.credentials.clone());
        (config.lifetimes, config.family) = (asked.server.lifetimes, self.family);
        let client = Client::new(config, cx.random.draw(Domain::TurnSeed), cx.now);
        t.state = TryState::Running(sock, Box::new(client));
        if asked.over == Transport::Tcp {
            cx.read(sock, CREDIT);
        } else if asked.by_tcp == ByTcp::Later(None) {
            asked.by_tcp = ByTcp::Later(Some(cx.now + TCP_AFTER));
        }
        self.pump(cx, n);
    }

    pub(super) fn datagram(&mut self, cx: &mut Cx, sock: SockId, from: SocketAddr, data: &[u8]) {
        let Some(n) = self.place(sock) else { return };
        let Try { at, state: TryState::Running(_, client), .. } = &mut self.tries[n] else { return };
        if from == *at {
            client.handle(cx.now, data);
            self.pump(cx, n);
        } else {
            cx.stats.bad_stun += 1;
        }
    }

    pub(super) fn received(&mut self, cx: &mut Cx, sock: SockId, data: &[u8]) {
        let Some(n) = self.place(sock) else { return };
        let TryState::Running(_, client) = &mut self.tries[n].state else { return };
        client.handle(cx.now, data);
        cx.read(sock, data.len() as u32);
        self.pump(cx, n);
    }

    /// A stream ended.
    pub(super) fn ended(&mut self, cx: &mut Cx, sock: SockId) {
        let Some(n) = self.place(sock) else { return };
        if let TryState::Running(_, client) = &mut self.tries[n].state {
            client.handle_end(cx.now);
            self.pump(cx, n);
        }
    }

    /// A socket failed and is gone.
    pub(super) fn failed(&mut self, cx: &mut Cx, sock: SockId, why: IoFailure) {
        let Some(n) = self.place(sock) else { return };
        match &mut self.tries[n].state {
            TryState::Running(_, client) => {
                client.handle_end(cx.now);
                self.pump(cx, n);
            }
            _ => self.fail(cx, n, why.to_string(), true),
        }
    }

    pub(super) fn timeout(&mut self, cx: &mut Cx) {
        for n in 0..self.asked.len() {
            self.drive(cx, n);
            if matches!(self.asked[n].by_tcp, ByTcp::Later(Some(at)) if at <= cx.now) {
                self.ask_by_tcp(cx, n);
            }
        }
        for n in 0..self.tries.len() {
            if let TryState::Running(_, client) = &mut self.tries[n].state
                && client.poll_timeout().is_some_and(|at| at <= cx.now)
            {
                client.handle_timeout(cx.now);
                self.pump(cx, n);
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let tries = self.tries.iter().filter_map(|t| match &t.state {
            TryState::Running(_, client) => client.poll_timeout(),
            _ => None,
        });
        let by_tcp = self.asked.iter().filter_map(|asked| match asked.by_tcp {
            ByTcp::Later(at) => at,
            ByTcp::No => None,
        });
        tries.chain(by_tcp).chain(self.asked.iter().filter_map(|asked| asked.race.due())).min()
    }

    /// Gives the allocation up, and every other that is asked for.
    pub(super) fn close(&mut self, cx: &mut Cx) {
        if !core::mem::replace(&mut self.closed, true) {
            self.waiting.clear();
            self.release_all(cx, None);
        }
    }

    /// Whether no server holds anything of ours, or says so.
    pub(super) fn is_over(&self) -> bool {
        self.tries.iter().all(|t| matches!(t.state, TryState::Ended(_)))
    }

    /// Closes every socket at once.
    pub(super) fn drop_sockets(&mut self, cx: &mut Cx) {
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
        self.asked[of].race.is_open() || self.tries.iter().any(alive)
    }

    fn ask_more(&mut self, cx: &mut Cx) {
        let beside = |asked: &Asked| asked.over == Transport::Tcp && asked.server.only_way().is_none();
        while self.chosen.is_none()
            && (0..self.asked.len()).filter(|n| !beside(&self.asked[*n]) && self.is_alive(*n)).count()
                < AT_ONCE
            && let Some(server) = self.waiting.pop_front()
        {
            let over = server.only_way().unwrap_or(Transport::Udp);
            let by_tcp = if server.only_way().is_some() { ByTcp::No } else { ByTcp::Later(None) };
            self.ask(cx, server, over, by_tcp);
        }
        let alive = (0..self.asked.len()).any(|n| self.is_alive(n));
        if self.chosen.is_none() && !alive && !self.closed {
            self.closed = true;
            self.news.push_back(ServerNews::Failed(self.describe()));
        }
    }

    fn ask(&mut self, cx: &mut Cx, server: TurnServer, over: Transport, by_tcp: ByTcp) {
        let race = Race::start(cx, self.owner, &server.host, REACH_WITHIN);
        self.asked.push(Asked { server, over, race, by_tcp, why: None });
        self.drive(cx, self.asked.len() - 1);
    }

    fn ask_by_tcp(&mut self, cx: &mut Cx, of: usize) {
        self.asked[of].by_tcp = ByTcp::No;
        if self.chosen.is_none() && !self.closed {
            let server = self.asked[of].server.clone();
            self.ask(cx, server, Transport::Tcp, ByTcp::No);
        }
    }

    /// A try failed. `by_tcp`: another way to the same server may do better.
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

    /// Sends what a client wants sent, and hears what it says.
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
                cx.experience.works(&self.asked[t.of].server.host, t.at.ip());
                self.news.push_back(ServerNews::Allocated(relayed));
                self.release_all(cx, Some(n));
            }
            turn::Event::Allocated { .. } => self.release(cx, n),
            turn::Event::Data { from, data } if chosen => {
                self.news.push_back(ServerNews::Data(from, data));
            }
            turn::Event::Refused { code, .. } if chosen => {
                self.news.push_back(ServerNews::Refused(code));
            }
            turn::Event::Data { .. } | turn::Event::Refused { .. } | turn::Event::Permitted(_) => {}
            turn::Event::Lost(why) => {
                cx.close(sock, close_how(self.asked[self.tries[n].of].over));
                if chosen {
                    self.tries[n].state = TryState::Ended(Some(why.to_string()));
                    self.news.push_back(ServerNews::Lost(why));
                } else {
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

    /// Ends all that is asked, and every try but this one.
    fn release_all(&mut self, cx: &mut Cx, but: Option<usize>) {
        for asked in &mut self.asked {
            asked.race.stop(cx);
            asked.by_tcp = ByTcp::No;
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

    /// What became of each server that was asked.
    pub(super) fn describe(&self) -> String {
        let mut text = String::new();
        for (of, asked) in self.asked.iter().enumerate() {
            let over = match (asked.over, &asked.server.tls) {
                (Transport::Udp, _) => "UDP",
                (Transport::Tcp, None) => "TCP",
                (Transport::Tcp, Some(_)) => "TLS",
            };
            let mut say = |ip: Option<IpAddr>, why: &str| {
                let sep = if text.is_empty() { "" } else { "; " };
                let _ = write!(text, "{sep}{}:{} over {over}", asked.server.host, asked.server.port);
                let _ = ip.map_or(Ok(()), |ip| write!(text, " at {ip}"));
                let _ = write!(text, ": {why}");
            };
            let tries = || self.tries.iter().filter(|t| t.of == of);
            if tries().next().is_none() && (asked.why.is_some() || asked.race.is_open()) {
                say(None, asked.why.as_deref().unwrap_or("its name is being looked up"));
            }
            let several = tries().count() > 1;
            for t in tries() {
                let why = match &t.state {
                    TryState::Ended(Some(why)) => why.as_str(),
                    TryState::Ended(None) => continue,
                    TryState::Opening(_) => "no connection yet",
                    TryState::Running(..) => "the TURN server has not answered yet",
                };
                say(several.then_some(t.at.ip()), why);
            }
        }
        text
    }
}

fn close_how(over: Transport) -> CloseHow {
    match over {
        Transport::Udp => CloseHow::Drop,
        Transport::Tcp => CloseHow::Graceful,
    }
}
