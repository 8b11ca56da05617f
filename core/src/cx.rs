//! Context that the machines inside a node share: the time, the queue of outputs, fresh ids, one timer each, and the
//! owner of each socket.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;

use crate::call::ConnectId;
use crate::event::Event;
use crate::experience::Experience;
use crate::io::{CloseHow, Input, Output, QueryId, SockId, SockOpts};
use crate::nat::memory::Memory;
use crate::pipe::{PipeId, PipeNews};
use crate::random::{Domain, Random};
use crate::session::SessionId;
use crate::stats::Stats;
use crate::strategy::agreement::Key;
use crate::time::{ClockFix, Instant, WallTime};
use crate::timers::Timers;
use crate::wrap::Wrap;

/// Machine that a socket or a query belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owner {
    /// The listener with this number.
    Listener(u8),
    /// A listener on a port that a punch dials from.
    PunchListener,
    /// The broker at this place in the configuration.
    Broker(u8),
    /// The STUN client.
    External,
    /// The survey of the NAT in front of the interface at this place.
    Survey(u8),
    /// A sample for a punch.
    Sample,
    /// A stream saying hello.
    Stream,
    /// The relay with this id.
    Relay(PipeId),
    /// The socket of an attempt to punch over UDP.
    Udp,
    /// The proof of an address with this id.
    Proof(PipeId),
    /// The allocation with this id.
    Allocation(PipeId),
    /// The mapping of our port with this number.
    Mapping(u32),
    /// The client of the time servers.
    Clock,
    /// The look-up of our network's NAT64.
    Nat64,
}

/// Machine that a deadline belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Timer {
    Broker(u8),
    External,
    Survey(u8),
    Stream(SockId),
    Connect(ConnectId),
    Visit(SessionId),
    Punch(Key),
    Udp(Key),
    Relay(PipeId),
    Proof(PipeId),
    Allocation(PipeId),
    Mapping(u32),
    Settle,
    Measure,
    Asks,
    Names,
    Meetings,
    Clock,
    Door,
}

#[derive(Debug)]
pub(crate) struct Cx {
    pub(crate) now: Instant,
    pub(crate) clock: Option<ClockFix>,
    pub(crate) random: Random,
    pub(crate) timers: Timers<Timer>,
    pub(crate) stats: Stats,
    /// Address of ours for IPv4, where we have one by a NAT64.
    pub(crate) translated: Option<IpAddr>,
    /// Experience with the servers' addresses.
    pub(crate) experience: Experience,
    /// Memory of our NATs.
    pub(crate) memory: Memory,
    queue: VecDeque<Output>,
    socks: BTreeMap<SockId, Owner>,
    queries: BTreeMap<QueryId, Owner>,
    next_id: u64,
    next_query: u32,
}

impl Cx {
    pub(crate) fn new(seed: [u8; 32], now: Instant) -> Self {
        Cx {
            now,
            clock: None,
            random: Random::new(seed),
            timers: Timers::new(),
            stats: Stats::default(),
            translated: None,
            experience: Experience::default(),
            memory: Memory::new(now, &[]),
            queue: VecDeque::new(),
            socks: BTreeMap::new(),
            queries: BTreeMap::new(),
            next_id: 0,
            next_query: 0,
        }
    }

    /// Returns the wall clock, or the epoch where the driver never told it: a peer then corrects us by its CLOCK reply.
    pub(crate) fn wall(&self) -> WallTime {
        self.clock.map_or(WallTime::from_micros(0), |fix| fix.wall_at(self.now))
    }

    pub(crate) fn pop_output(&mut self) -> Option<Output> {
        self.queue.pop_front()
    }

    pub(crate) fn has_outputs(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(crate) fn notify(&mut self, event: Event) {
        self.queue.push_back(Output::Event(event));
    }

    pub(crate) fn owner(&self, sock: SockId) -> Option<Owner> {
        self.socks.get(&sock).copied()
    }

    /// Returns the owner of the socket or query that an input is about, and forgets what is over with it. Ids that nobody
    /// knows are counted. A stream that comes to a listener has no owner yet, and a released one none any more.
    pub(crate) fn owner_of(&mut self, input: &Input<'_>) -> Option<Owner> {
        let owner = match input {
            Input::Resolved { query, .. } => self.queries.remove(query),
            Input::Failed { sock, .. } => self.socks.remove(sock),
            Input::Bound { sock, .. }
            | Input::Connected { sock, .. }
            | Input::Datagram { sock, .. }
            | Input::Stream { sock, .. }
            | Input::Eof { sock } => self.owner(*sock),
            Input::Timeout
            | Input::Clock(_)
            | Input::Interfaces(_)
            | Input::Woke
            | Input::Accepted { .. }
            | Input::Released { .. } => return None,
        };
        self.stats.unknown_ids += u64::from(owner.is_none());
        owner
    }

    pub(crate) fn open_sockets(&self) -> impl Iterator<Item = SockId> + '_ {
        self.socks.keys().copied()
    }

    pub(crate) fn bind_udp(&mut self, owner: Owner, local: SocketAddr) -> SockId {
        self.bind_udp_for(owner, local, None)
    }

    /// Binds a socket that is used with one address alone.
    pub(crate) fn bind_udp_for(
        &mut self,
        owner: Owner,
        local: SocketAddr,
        remote: Option<SocketAddr>,
    ) -> SockId {
        let sock = self.fresh_sock(owner);
        self.queue.push_back(Output::BindUdp { sock, local, remote, opts: SockOpts::default() });
        sock
    }

    pub(crate) fn listen(&mut self, owner: Owner, local: SocketAddr, opts: SockOpts) -> SockId {
        let sock = self.fresh_sock(owner);
        self.queue.push_back(Output::Listen { sock, local, backlog: 128, opts });
        sock
    }

    pub(crate) fn dial(
        &mut self,
        owner: Owner,
        local: SocketAddr,
        remote: SocketAddr,
        limit: Duration,
    ) -> SockId {
        let opts = SockOpts { nodelay: true, ..SockOpts::default() };
        self.dial_at(owner, local, remote, opts, self.now, self.now + limit)
    }

    /// Dials a server, in these layers.
    pub(crate) fn dial_server(
        &mut self,
        owner: Owner,
        local: SocketAddr,
        remote: SocketAddr,
        limit: Duration,
        wrap: Option<Wrap>,
    ) -> SockId {
        let sock = self.fresh_sock(owner);
        let opts = SockOpts { nodelay: true, ..SockOpts::default() };
        let (at, deadline, wrap) = (self.now, self.now + limit, wrap.map(Arc::new));
        self.queue.push_back(Output::Connect { sock, local, remote, opts, at, deadline, wrap });
        sock
    }

    pub(crate) fn dial_at(
        &mut self,
        owner: Owner,
        local: SocketAddr,
        remote: SocketAddr,
        opts: SockOpts,
        at: Instant,
        deadline: Instant,
    ) -> SockId {
        let sock = self.fresh_sock(owner);
        self.queue.push_back(Output::Connect { sock, local, remote, opts, at, deadline, wrap: None });
        sock
    }

    /// Returns a local port that is probably free, with room for a few more behind it, below those that systems hand
    /// out.
    pub(crate) fn fresh_port(&mut self) -> u16 {
        10_000 + self.random.below(Domain::Port, 22_000) as u16
    }

    pub(crate) fn adopt(&mut self, sock: SockId, owner: Owner) {
        self.socks.insert(sock, owner);
    }

    pub(crate) fn accept(&mut self, sock: SockId, credit: u32) {
        self.queue.push_back(Output::Accept { sock, credit });
    }

    pub(crate) fn send_datagram(&mut self, sock: SockId, to: SocketAddr, data: Bytes) {
        self.queue.push_back(Output::SendDatagram { sock, to, data });
    }

    pub(crate) fn send(&mut self, sock: SockId, data: Bytes) {
        self.queue.push_back(Output::SendStream { sock, data });
    }

    pub(crate) fn read(&mut self, sock: SockId, credit: u32) {
        self.queue.push_back(Output::Read { sock, credit });
    }

    /// Closes a socket that the driver still has.
    pub(crate) fn close(&mut self, sock: SockId, how: CloseHow) {
        if self.socks.remove(&sock).is_some() {
            self.queue.push_back(Output::Close { sock, how });
        }
    }

    pub(crate) fn detach(&mut self, sock: SockId, pipe: Box<crate::pipe::PipeStart>) {
        if self.socks.remove(&sock).is_some() {
            self.queue.push_back(Output::Detach { sock, pipe });
        }
    }

    /// Ends the pipe that a detached stream became.
    pub(crate) fn end_pipe(&mut self, sock: SockId, why: crate::pipe::PipeEnd) {
        self.queue.push_back(Output::EndPipe { sock, why });
    }

    pub(crate) fn resolve(&mut self, owner: Owner, host: Box<str>, limit: Duration) -> QueryId {
        let query = QueryId(self.next_query);
        self.next_query += 1;
        self.queries.insert(query, owner);
        self.queue.push_back(Output::Resolve { query, host, deadline: self.now + limit });
        query
    }

    /// Forgets a query that nobody waits for.
    pub(crate) fn cancel(&mut self, query: QueryId) {
        if self.queries.remove(&query).is_some() {
            self.queue.push_back(Output::Cancel { query });
        }
    }

    pub(crate) fn cancel_queries(&mut self) {
        for query in core::mem::take(&mut self.queries).into_keys() {
            self.queue.push_back(Output::Cancel { query });
        }
    }

    /// Returns an id for a pipe, or what may become one, that no socket has either.
    pub(crate) fn fresh_pipe(&mut self) -> PipeId {
        let pipe = PipeId(self.next_id);
        self.next_id += 1;
        pipe
    }

    pub(crate) fn open_relayed(&mut self, pipe: PipeId, start: Box<crate::pipe::PipeStart>) {
        self.queue.push_back(Output::OpenRelayed { pipe, start });
    }

    pub(crate) fn open_allocation(&mut self, pipe: PipeId, relayed: SocketAddr, other: Option<SocketAddr>) {
        self.queue.push_back(Output::OpenAllocation { pipe, relayed, other });
    }

    pub(crate) fn pipe_news(&mut self, pipe: PipeId, news: PipeNews) {
        self.queue.push_back(Output::Pipe { pipe, news });
    }

    fn fresh_sock(&mut self, owner: Owner) -> SockId {
        let sock = SockId::chosen(self.next_id);
        self.next_id += 1;
        self.socks.insert(sock, owner);
        sock
    }
}
