//! The race of our TURN servers for an allocation, and the one that won it.
//!
//! The first three of the list are asked at once; the first that relays for us has the shortest round trip, of those
//! that answer, and is kept. The others are released. Where UDP gets no answer within a second, the same server is
//! asked over TCP beside it.

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
use crate::time::Instant;
use crate::turn::{self, Client, Family};
use crate::wire::Transport;

/// Servers asked at a time.
const AT_ONCE: usize = 3;
/// Without an answer over UDP for so long, TCP is tried too.
const TCP_AFTER: Duration = Duration::from_secs(1);
const RESOLVE_WITHIN: Duration = Duration::from_secs(5);
const DIAL_WITHIN: Duration = Duration::from_secs(5);
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
    tries: SmallVec<[Try; 3]>,
    chosen: Option<usize>,
    closed: bool,
    news: VecDeque<ServerNews>,
}

#[derive(Debug)]
struct Try {
    server: TurnServer,
    over: Transport,
    state: TryState,
    /// When to ask over TCP as well.
    tcp_at: Option<Instant>,
}

#[derive(Debug)]
enum TryState {
    Resolving(QueryId),
    Opening(SockId, SocketAddr),
    Running(SockId, SocketAddr, Box<Client>),
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
        let (tries, news) = (SmallVec::new(), VecDeque::new());
        let mut servers =
            Servers { owner, bind, ours, family, waiting, tries, chosen: None, closed: false, news };
        servers.ask_more(cx);
        servers
    }

    pub(super) fn poll_news(&mut self) -> Option<ServerNews> {
        self.news.pop_front()
    }

    /// Our address at the server.
    pub(super) fn relayed(&self) -> Option<SocketAddr> {
        match &self.tries.get(self.chosen?)?.state {
            TryState::Running(_, _, client) => client.relayed(),
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
        let is_its = |t: &Try| matches!(t.state, TryState::Resolving(q) if q == query);
        let Some(n) = self.tries.iter().position(is_its) else { return };
        let [v4, v6] = self.ours;
        let ip = match result {
            Ok(list) => list.into_iter().find(|ip| if ip.is_ipv4() { v4 } else { v6 }),
            Err(why) => return self.fail(cx, n, why.to_string(), false),
        };
        let Some(ip) = ip else { return self.fail(cx, n, "no address of a family we have".into(), false) };
        let at = SocketAddr::new(ip, self.tries[n].server.port);
        let any: IpAddr = if ip.is_ipv4() {
            std::net::Ipv4Addr::UNSPECIFIED.into()
        } else {
            std::net::Ipv6Addr::UNSPECIFIED.into()
        };
        let from = SocketAddr::new(self.bind.filter(|b| b.is_ipv4() == ip.is_ipv4()).unwrap_or(any), 0);
        let sock = match self.tries[n].over {
            Transport::Udp => cx.bind_udp(self.owner, from),
            Transport::Tcp => {
                let wrap = self.tries[n].server.wrap();
                cx.dial_server(self.owner, from, at, DIAL_WITHIN, wrap)
            }
        };
        self.tries[n].state = TryState::Opening(sock, at);
    }

    /// A socket is bound or connected.
    pub(super) fn opened(&mut self, cx: &mut Cx, sock: SockId) {
        let Some(n) = self.place(sock) else { return };
        let t = &mut self.tries[n];
        let TryState::Opening(_, at) = t.state else { return };
        let mut config = turn::Config::new(t.over, t.server.credentials.clone());
        (config.lifetimes, config.family) = (t.server.lifetimes, self.family);
        let client = Client::new(config, cx.random.draw(Domain::TurnSeed), cx.now);
        t.state = TryState::Running(sock, at, Box::new(client));
        match t.over {
            Transport::Udp if t.server.only_way().is_none() => t.tcp_at = Some(cx.now + TCP_AFTER),
            Transport::Udp => {}
            Transport::Tcp => cx.read(sock, CREDIT),
        }
        self.pump(cx, n);
    }

    pub(super) fn datagram(&mut self, cx: &mut Cx, sock: SockId, from: SocketAddr, data: &[u8]) {
        let Some(n) = self.place(sock) else { return };
        let TryState::Running(_, at, client) = &mut self.tries[n].state else { return };
        if from == *at {
            client.handle(cx.now, data);
            self.pump(cx, n);
        } else {
            cx.stats.bad_stun += 1;
        }
    }

    pub(super) fn received(&mut self, cx: &mut Cx, sock: SockId, data: &[u8]) {
        let Some(n) = self.place(sock) else { return };
        let TryState::Running(_, _, client) = &mut self.tries[n].state else { return };
        client.handle(cx.now, data);
        cx.read(sock, data.len() as u32);
        self.pump(cx, n);
    }

    /// A stream ended.
    pub(super) fn ended(&mut self, cx: &mut Cx, sock: SockId) {
        let Some(n) = self.place(sock) else { return };
        if let TryState::Running(_, _, client) = &mut self.tries[n].state {
            client.handle_end(cx.now);
            self.pump(cx, n);
        }
    }

    /// A socket failed and is gone.
    pub(super) fn failed(&mut self, cx: &mut Cx, sock: SockId, why: IoFailure) {
        let Some(n) = self.place(sock) else { return };
        match &mut self.tries[n].state {
            TryState::Running(_, _, client) => {
                client.handle_end(cx.now);
                self.pump(cx, n);
            }
            _ => self.fail(cx, n, why.to_string(), true),
        }
    }

    pub(super) fn timeout(&mut self, cx: &mut Cx) {
        for n in 0..self.tries.len() {
            if self.tries[n].tcp_at.is_some_and(|at| at <= cx.now) {
                self.ask_by_tcp(cx, n);
            }
            if let TryState::Running(_, _, client) = &mut self.tries[n].state
                && client.poll_timeout().is_some_and(|at| at <= cx.now)
            {
                client.handle_timeout(cx.now);
                self.pump(cx, n);
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let of = |t: &Try| match &t.state {
            TryState::Running(_, _, client) => client.poll_timeout().into_iter().chain(t.tcp_at).min(),
            _ => t.tcp_at,
        };
        self.tries.iter().filter_map(of).min()
    }

    /// Gives the allocation up, and every other that is asked for.
    pub(super) fn close(&mut self, cx: &mut Cx) {
        if !core::mem::replace(&mut self.closed, true) {
            self.waiting.clear();
            (0..self.tries.len()).for_each(|n| self.release(cx, n));
        }
    }

    /// Whether no server holds anything of ours, or says so.
    pub(super) fn is_over(&self) -> bool {
        self.tries.iter().all(|t| matches!(t.state, TryState::Ended(_)))
    }

    /// Closes every socket at once.
    pub(super) fn drop_sockets(&mut self, cx: &mut Cx) {
        for t in &mut self.tries {
            if let TryState::Opening(sock, _) | TryState::Running(sock, ..) = t.state {
                cx.close(sock, close_how(t.over));
                t.state = TryState::Ended(None);
            }
        }
    }

    fn place(&self, sock: SockId) -> Option<usize> {
        let its =
            |t: &Try| matches!(t.state, TryState::Opening(s, _) | TryState::Running(s, ..) if s == sock);
        self.tries.iter().position(its)
    }

    fn with_client(&mut self, cx: &mut Cx, work: impl FnOnce(&mut Client)) {
        let Some(n) = self.chosen else { return };
        if let TryState::Running(_, _, client) = &mut self.tries[n].state {
            work(client);
            self.pump(cx, n);
        }
    }

    fn ask_more(&mut self, cx: &mut Cx) {
        let running = |t: &&Try| t.over == Transport::Udp || t.server.only_way().is_some();
        let ended = |t: &Try| matches!(t.state, TryState::Ended(_));
        while self.chosen.is_none()
            && self.tries.iter().filter(running).filter(|t| !ended(t)).count() < AT_ONCE
            && let Some(server) = self.waiting.pop_front()
        {
            let over = server.only_way().unwrap_or(Transport::Udp);
            self.ask(cx, server, over);
        }
        let all_ended = self.tries.iter().all(ended);
        if self.chosen.is_none() && all_ended && !self.closed {
            self.closed = true;
            self.news.push_back(ServerNews::Failed(self.describe()));
        }
    }

    fn ask(&mut self, cx: &mut Cx, server: TurnServer, over: Transport) {
        let query = cx.resolve(self.owner, server.host.clone(), RESOLVE_WITHIN);
        self.tries.push(Try { server, over, state: TryState::Resolving(query), tcp_at: None });
    }

    fn ask_by_tcp(&mut self, cx: &mut Cx, n: usize) {
        self.tries[n].tcp_at = None;
        if self.chosen.is_none() && !self.closed {
            let server = self.tries[n].server.clone();
            self.ask(cx, server, Transport::Tcp);
        }
    }

    /// A try failed. `by_tcp`: another way to the same server may do better.
    fn fail(&mut self, cx: &mut Cx, n: usize, why: String, by_tcp: bool) {
        let t = &mut self.tries[n];
        let asked_by_tcp = t.over == Transport::Tcp || t.server.only_way().is_some();
        t.state = TryState::Ended(Some(why));
        if by_tcp && !asked_by_tcp && (t.tcp_at.is_some() || self.tries.len() < 2 * AT_ONCE) {
            self.ask_by_tcp(cx, n);
        }
        self.tries[n].tcp_at = None;
        self.ask_more(cx);
    }

    /// Sends what a client wants sent, and hears what it says.
    fn pump(&mut self, cx: &mut Cx, n: usize) {
        let t = &mut self.tries[n];
        let TryState::Running(sock, at, client) = &mut t.state else { return };
        let (sock, at) = (*sock, *at);
        while let Some(bytes) = client.poll_transmit() {
            match t.over {
                Transport::Udp => cx.send_datagram(sock, at, bytes),
                Transport::Tcp => cx.send(sock, bytes),
            }
        }
        while let TryState::Running(_, _, client) = &mut self.tries[n].state
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
                self.tries[n].tcp_at = None;
                self.news.push_back(ServerNews::Allocated(relayed));
                (0..self.tries.len()).filter(|m| *m != n).for_each(|m| self.release(cx, m));
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
                cx.close(sock, close_how(self.tries[n].over));
                if chosen {
                    self.tries[n].state = TryState::Ended(Some(why.to_string()));
                    self.news.push_back(ServerNews::Lost(why));
                } else {
                    let by_tcp = matches!(why, turn::Error::NoAnswer | turn::Error::Unproven(_));
                    self.fail(cx, n, why.to_string(), by_tcp);
                }
            }
            turn::Event::Closed => {
                cx.close(sock, close_how(self.tries[n].over));
                self.tries[n].state = TryState::Ended(None);
            }
        }
    }

    fn release(&mut self, cx: &mut Cx, n: usize) {
        let t = &mut self.tries[n];
        t.tcp_at = None;
        match &mut t.state {
            TryState::Resolving(_) => t.state = TryState::Ended(None),
            TryState::Opening(sock, _) => {
                cx.close(*sock, CloseHow::Drop);
                t.state = TryState::Ended(None);
            }
            TryState::Running(_, _, client) => {
                client.close(cx.now);
                self.pump(cx, n);
            }
            TryState::Ended(_) => {}
        }
    }

    /// What became of each server that was asked.
    pub(super) fn describe(&self) -> String {
        let mut text = String::new();
        for t in &self.tries {
            let over = match (t.over, &t.server.tls) {
                (Transport::Udp, _) => "UDP",
                (Transport::Tcp, None) => "TCP",
                (Transport::Tcp, Some(_)) => "TLS",
            };
            let why = match &t.state {
                TryState::Ended(Some(why)) => why.as_str(),
                TryState::Ended(None) => continue,
                TryState::Resolving(_) => "its name is being looked up",
                TryState::Opening(..) => "no connection yet",
                TryState::Running(..) => "the TURN server has not answered yet",
            };
            let sep = if text.is_empty() { "" } else { "; " };
            let _ = write!(text, "{sep}{}:{} over {over}: {why}", t.server.host, t.server.port);
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
