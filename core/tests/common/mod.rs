//! A small internet for tests of whole nodes: hosts, brokers, STUN servers and peers that speak by hand. The wire has
//! latency, in virtual time. Every run depends on the seeds and the script only.

// Each test binary uses a part of it.
#![allow(dead_code)]

pub mod broker;
pub mod envelope;
pub mod hand;
pub mod nat64;
pub mod ntp;
pub mod proxy;
pub mod router;
pub mod stun;
pub mod turn;
pub mod udp;
pub mod view;
mod wire;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use p2pd_core::io::Interface;
use p2pd_core::trace::{Recorder, Sink};
use p2pd_core::{
    ClockFix, CloseHow, Config, ConnectId, Event, Input, Instant, IoFailure, NodeId, Output, PeerAddress,
    PipeEnd, PipeMode, Plan, ProtocolTag, QueryId, SecretKey, SockId, Strategy, WallTime,
};

use broker::Broker;
use hand::{Hand, Script};
use ntp::Ntp;
use proxy::{Proxied, Proxy};
use router::Router;
use stun::Stun;
use turn::{Allocated, Relayed, Turn, Ways};

/// Latency of one direction, between any two hosts.
pub const LATENCY: Duration = Duration::from_millis(10);
/// The end of the names of hosts that are looked up without success, for long.
pub const SLOW: &str = ".slow.test";
/// Time that every wall clock shows at the start, unless it is wrong.
pub const NOON: WallTime = WallTime::from_micros(1_700_000_000_000_000);
pub const MS: Duration = Duration::from_millis(1);
pub const S: Duration = Duration::from_secs(1);

/// An end of a TCP stream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum End {
    Node(usize, SockId),
    Broker(usize, u32),
    Stun(usize, u32),
    Hand(usize),
}

/// State of an end: the other end, and the bytes that have come in but were not read.
struct Half {
    to: End,
    arrived: VecDeque<u8>,
    credit: usize,
    fin: bool,
}

/// Receiver of a SYN.
enum Target {
    Node(usize, SockId),
    Broker(usize),
    Stun(usize),
    Script(Script),
    Proxy(usize),
    Refused,
    Nothing,
}

/// Behaviour of a port towards SYNs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Port {
    Refused,
    Blackholed,
}

/// Event under way.
enum Happening {
    Syn { n: usize, sock: SockId, remote: SocketAddr, deadline: Instant },
    Arrived { n: usize, sock: SockId, local: SocketAddr, remote: SocketAddr },
    Connected { n: usize, sock: SockId, local: SocketAddr, remote: SocketAddr },
    Failed { n: usize, sock: SockId, cause: IoFailure },
    Bound { n: usize, sock: SockId, local: SocketAddr },
    Accepting { n: usize, listener: SockId },
    Resolved { n: usize, query: QueryId, host: Box<str> },
    Bytes(End, Vec<u8>),
    Fin(End),
    Reset(End),
    Datagram { n: usize, sock: SockId, from: SocketAddr, data: Vec<u8> },
    AtNat { from: SocketAddr, to: SocketAddr, data: Vec<u8> },
    AtTurn { from: SocketAddr, to: SocketAddr, data: Vec<u8> },
    Delivery { broker: usize, topic: String, payload: Vec<u8> },
}

/// A pipe that a node handed out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pipe {
    pub at: Instant,
    pub sock: SockId,
    pub answers: Vec<ConnectId>,
    pub peer: NodeId,
    pub strategy: Strategy,
    pub mode: PipeMode,
    pub protocol: Option<ProtocolTag>,
    /// The other end of the stream.
    pub end: End,
    /// Reason that the core gave for ending the pipe.
    pub over: Option<PipeEnd>,
}

/// A node and what surrounds it.
pub struct Host {
    pub node: Recorder,
    /// Trace of the node.
    pub trace: Arc<Mutex<String>>,
    /// Address of the interface, and the address that the world sees.
    pub inside: IpAddr,
    pub outside: IpAddr,
    /// NAT64 of a host that has IPv6 only.
    pub nat64: Option<nat64::Names>,
    /// True if callers get in by a pinhole only.
    pub guarded: bool,
    pub pipes: Vec<Pipe>,
    pub relayed: Vec<Relayed>,
    /// Allocations that the node handed out, with what it said of each.
    pub allocated: Vec<Allocated>,
    pub events: Vec<(Instant, Event)>,
    /// Every TCP dial: when and where to.
    pub dials: Vec<(Instant, SocketAddr)>,
    /// The process is stopped: it neither reads nor does anything.
    pub frozen: bool,
    /// The driver tells of all datagrams of a moment before it asks what to do.
    pub tells_together: bool,
    /// The system gives it no UDP sockets.
    pub without_udp: bool,
    /// Datagrams of its own to there are lost.
    pub unreachable: Option<IpAddr>,
    /// The host's NAT, for UDP to other hosts.
    pub udp: udp::Udp,
    next_port: u16,
    /// UDP sockets by id.
    pub bound: BTreeMap<SockId, SocketAddr>,
    /// Sockets that are told where their only address refuses them.
    aimed: BTreeSet<SockId>,
    /// Datagram ways through the host's NAT to TURN servers and relays.
    pub ways: Ways,
}

/// Callers in the queue of a listener: the stream, and its two ends.
type Queue = VecDeque<(SockId, SocketAddr, SocketAddr)>;

pub struct World {
    pub now: Instant,
    pub hosts: Vec<Host>,
    pub brokers: Vec<Broker>,
    pub stuns: Vec<Stun>,
    pub turns: Vec<Turn>,
    pub routers: Vec<Router>,
    pub ntps: Vec<Ntp>,
    pub proxies: Vec<Proxy>,
    /// Addresses that a server's name has before the server's own; nobody answers there.
    pub silent: BTreeMap<String, Vec<IpAddr>>,
    /// Nodes that are added write traces.
    pub tracing: bool,
    pub hands: Vec<Hand>,
    pub scripts: BTreeMap<SocketAddr, Script>,
    pub ports: BTreeMap<SocketAddr, Port>,
    /// Most bytes of a stream that a node is given at once.
    pub chunk: usize,
    /// Log of all that nodes were told and asked for.
    pub log: String,
    seed: u8,
    /// The next host is behind a NAT64.
    next_nat64: Option<nat64::Names>,
    queue: BTreeMap<(Instant, u64), Happening>,
    queued: u64,
    streams: BTreeMap<End, Half>,
    dialling: BTreeSet<(usize, SockId)>,
    proxied: BTreeMap<(usize, SockId), Proxied>,
    listeners: BTreeMap<SocketAddr, (usize, SockId)>,
    /// Addresses that firewalls were asked to let in.
    pinholes: BTreeSet<SocketAddr>,
    accepted: u64,
    /// Listeners' credit, and who waits for it.
    door: BTreeMap<(usize, SockId), (u32, Queue)>,
    steps: u32,
}

/// Number of worlds that the thread's test has ended.
static ENDED: Mutex<BTreeMap<String, u32>> = Mutex::new(BTreeMap::new());

impl Drop for World {
    /// Writes the log into the folder that `P2PD_LOGS` names, for `tests/long/same`.
    fn drop(&mut self) {
        let Some(folder) = std::env::var_os("P2PD_LOGS").map(PathBuf::from) else { return };
        let program = std::env::current_exe().unwrap();
        // Cargo puts a hash behind the name.
        let program = program.file_stem().unwrap().to_str().unwrap().rsplit_once('-').unwrap().0;
        let test = std::thread::current().name().unwrap_or_default().replace("::", ".");
        let mut ended = ENDED.lock().unwrap();
        let number = ended.entry(test.clone()).or_default();
        *number += 1;
        std::fs::write(folder.join(format!("{program}.{test}.{number}")), &self.log).unwrap();
    }
}

/// The key of host `n`.
pub fn key(n: usize) -> SecretKey {
    SecretKey::from_bytes(numbered(1, n))
}

fn numbered(first: u8, n: usize) -> [u8; 32] {
    let mut bytes = [first; 32];
    bytes[1..9].copy_from_slice(&(n as u64).to_be_bytes());
    bytes
}

impl World {
    pub fn new(seed: u8) -> World {
        World {
            now: Instant::ZERO,
            hosts: Vec::new(),
            brokers: Vec::new(),
            stuns: Vec::new(),
            turns: Vec::new(),
            routers: Vec::new(),
            ntps: Vec::new(),
            proxies: Vec::new(),
            proxied: BTreeMap::new(),
            silent: BTreeMap::new(),
            tracing: false,
            hands: Vec::new(),
            scripts: BTreeMap::new(),
            ports: BTreeMap::new(),
            chunk: usize::MAX,
            log: String::new(),
            seed,
            next_nat64: None,
            queue: BTreeMap::new(),
            queued: 0,
            streams: BTreeMap::new(),
            dialling: BTreeSet::new(),
            listeners: BTreeMap::new(),
            pinholes: BTreeSet::new(),
            accepted: 0,
            door: BTreeMap::new(),
            steps: 0,
        }
    }

    /// Adds a host at 203.0.113.`n` + 1 with a key of its own, that knows every server there is so far.
    pub fn open(&mut self, change: impl FnOnce(&mut Config)) -> usize {
        let n = self.hosts.len();
        let outside = IpAddr::from([203, 0, 113, n as u8 + 1]);
        self.host(outside, outside, change)
    }

    /// Adds such a host behind a NAT that lets nobody in.
    pub fn behind_nat(&mut self, change: impl FnOnce(&mut Config)) -> usize {
        let n = self.hosts.len() as u8;
        self.host([192, 168, n, 2].into(), [203, 0, 113, n + 1].into(), change)
    }

    pub fn host(&mut self, inside: IpAddr, outside: IpAddr, change: impl FnOnce(&mut Config)) -> usize {
        let interfaces = [Interface { default_route: true, ..Interface::new(2, inside, 32) }];
        self.host_with(&interfaces, outside, change)
    }

    /// Adds a host that says it has these interfaces.
    pub fn host_with(
        &mut self,
        interfaces: &[Interface],
        outside: IpAddr,
        change: impl FnOnce(&mut Config),
    ) -> usize {
        let n = self.hosts.len();
        let mut config = Config::new(key(n));
        config.brokers = self.brokers.iter().map(|b| b.config.clone()).collect();
        config.stun = self.stuns.iter().map(|s| s.config.clone()).collect();
        config.ntp = self.ntps.iter().map(|s| s.config.clone()).collect();
        config.turn = self.turns.iter().map(|t| t.config.clone()).collect();
        change(&mut config);
        let trace = Arc::new(Mutex::new(String::new()));
        let lines = trace.clone();
        let sink: Sink = Box::new(move |line: &str| lines.lock().unwrap().push_str(line));
        let sink = self.tracing.then_some(sink);
        let node = Recorder::new(config, numbered(self.seed, n), self.now, sink).unwrap();
        self.hosts.push(Host {
            node,
            trace,
            inside: interfaces[0].ip,
            outside,
            nat64: self.next_nat64.take(),
            guarded: false,
            pipes: Vec::new(),
            relayed: Vec::new(),
            allocated: Vec::new(),
            events: Vec::new(),
            dials: Vec::new(),
            frozen: false,
            tells_together: false,
            without_udp: false,
            unreachable: None,
            udp: udp::Udp::default(),
            next_port: 50_000,
            bound: BTreeMap::new(),
            aimed: BTreeSet::new(),
            ways: Ways::new(),
        });
        self.set_clock(n, Duration::ZERO, false);
        self.tell(n, Input::Interfaces(interfaces));
        n
    }

    /// Sets a host's wall clock wrong by so much, ahead or behind.
    pub fn set_clock(&mut self, n: usize, by: Duration, ahead: bool) {
        let elapsed = i64::try_from(self.now.since(Instant::ZERO).as_micros()).unwrap();
        let by = i64::try_from(by.as_micros()).unwrap();
        let wall = NOON.offset_micros(elapsed + if ahead { by } else { -by });
        self.tell(n, Input::Clock(ClockFix { at: self.now, wall, error: S }));
    }

    pub fn connect(&mut self, from: usize, to: &PeerAddress, plan: Plan) -> ConnectId {
        let id = self.hosts[from].node.connect(self.now, to, plan).unwrap();
        self.drain(from);
        id
    }

    /// Asks something else of a node, as its user.
    pub fn ask<T>(&mut self, n: usize, what: impl FnOnce(&mut Recorder, Instant) -> T) -> T {
        let answer = what(&mut self.hosts[n].node, self.now);
        self.drain(n);
        answer
    }

    pub fn answer(&mut self, n: usize, peer: NodeId, yes: bool) {
        self.hosts[n].node.answer(self.now, peer, yes);
        self.drain(n);
    }

    pub fn set_busy(&mut self, n: usize, busy: bool) {
        self.hosts[n].node.set_busy(self.now, busy);
        self.drain(n);
    }

    pub fn cancel(&mut self, n: usize, connect: ConnectId) {
        self.hosts[n].node.cancel(self.now, connect);
        self.drain(n);
    }

    pub fn shutdown(&mut self, n: usize) {
        self.hosts[n].node.shutdown(self.now);
        self.drain(n);
    }

    /// Tells a node something and does what it then asks for.
    pub fn tell(&mut self, n: usize, input: Input<'_>) {
        if self.hosts[n].frozen {
            return;
        }
        let input = self.translated_input(n, input);
        self.note(n, '<', &input);
        let later = self.hosts[n].tells_together && matches!(input, Input::Datagram { .. });
        self.hosts[n].node.handle(self.now, input);
        if !later {
            self.drain(n);
        }
    }

    /// Lets this much time pass.
    pub fn run(&mut self, span: Duration) {
        let until = self.now + span;
        while self.step(until) {}
        self.now = until;
    }

    /// Runs until `so` holds, and returns the time that it took; `limit` is a failure.
    pub fn run_until(&mut self, limit: Duration, so: impl Fn(&World) -> bool) -> Duration {
        let (begin, until) = (self.now, self.now + limit);
        while !so(self) {
            assert!(self.step(until), "not within {limit:?}:\n{}", self.tail());
        }
        self.now.since(begin)
    }

    fn step(&mut self, until: Instant) -> bool {
        self.steps += 1;
        assert!(self.steps < 2_000_000, "livelock:\n{}", self.tail());
        let queued = self.queue.keys().next().map(|(at, _)| *at);
        let awake = self.hosts.iter().filter(|h| !h.frozen);
        let timer = awake.filter_map(|h| h.node.poll_timeout()).min();
        let Some(next) = queued.into_iter().chain(timer).min().filter(|next| *next <= until) else {
            return false;
        };
        self.now = self.now.max(next);
        if queued.is_some_and(|at| at <= self.now) {
            let (_, happening) = self.queue.pop_first().unwrap();
            self.happen(happening);
            return true;
        }
        for n in 0..self.hosts.len() {
            if self.hosts[n].node.poll_timeout().is_some_and(|at| at <= self.now) {
                self.tell(n, Input::Timeout);
                let moved = self.hosts[n].node.poll_timeout().is_none_or(|at| at > self.now);
                assert!(moved || self.hosts[n].frozen, "node {n}'s deadline did not move:\n{}", self.tail());
            }
        }
        true
    }

    fn schedule(&mut self, after: Duration, happening: Happening) {
        self.queued += 1;
        self.queue.insert((self.now + after, self.queued), happening);
    }

    fn drain(&mut self, n: usize) {
        while let Some(output) = self.hosts[n].node.poll_output() {
            self.note(n, '>', &output);
            self.act(n, output);
        }
    }

    fn note(&mut self, n: usize, way: char, what: &dyn std::fmt::Debug) {
        self.log.push_str(&format!("{:?} {n} {way} {what:?}\n", self.now));
    }

    fn act(&mut self, n: usize, output: Output) {
        let output = match self.through_nat64(n, output) {
            Ok(output) => output,
            Err(Output::Connect { sock, .. }) => {
                self.dialling.insert((n, sock));
                let cause = IoFailure::Unreachable;
                return self.schedule(Duration::ZERO, Happening::Failed { n, sock, cause });
            }
            Err(_) => return,
        };
        let host = &mut self.hosts[n];
        match output {
            Output::BindUdp { sock, .. } if host.without_udp => {
                self.dialling.insert((n, sock));
                let cause = IoFailure::Resources;
                self.schedule(Duration::ZERO, Happening::Failed { n, sock, cause });
            }
            Output::BindUdp { sock, local, remote, .. } => {
                host.aimed.extend(remote.map(|_| sock));
                host.next_port += 1;
                let local = SocketAddr::new(local.ip(), host.next_port);
                host.bound.insert(sock, local);
                self.schedule(Duration::ZERO, Happening::Bound { n, sock, local });
            }
            Output::Listen { sock, local, .. } => {
                let port = if local.port() == 0 { 4000 } else { local.port() };
                let ip = if local.ip().is_unspecified() { host.inside } else { local.ip() };
                let real = SocketAddr::new(ip, port);
                self.listeners.insert(real, (n, sock));
                self.schedule(Duration::ZERO, Happening::Bound { n, sock, local: real });
            }
            Output::Accept { sock, credit } => {
                self.door.entry((n, sock)).or_default().0 += credit;
                self.schedule(Duration::ZERO, Happening::Accepting { n, listener: sock });
            }
            Output::Connect { sock, remote, at, deadline, wrap, .. } => {
                if let Some(wrap) = wrap.filter(|wrap| wrap.proxy.is_some()) {
                    self.proxied.insert((n, sock), Proxied { wrap, deadline });
                }
                host.dials.push((at, remote));
                self.dialling.insert((n, sock));
                self.schedule(at.since(self.now), Happening::Syn { n, sock, remote, deadline });
            }
            Output::SendDatagram { sock, to, data } => {
                if self.ports.get(&to) == Some(&Port::Refused) && host.aimed.contains(&sock) {
                    self.dialling.insert((n, sock));
                    let cause = IoFailure::Refused;
                    self.schedule(2 * LATENCY, Happening::Failed { n, sock, cause });
                } else if host.bound.contains_key(&sock) {
                    let from = self.outside_of(n, sock, to);
                    self.datagram_to_host(n, sock, to, &data);
                    self.datagram_to_stun(n, sock, from, to, &data);
                    self.datagram_to_turn(n, sock, to, &data);
                    self.datagram_to_router(n, sock, to, &data);
                    self.datagram_to_ntp(n, sock, to, &data);
                }
            }
            Output::SendStream { sock, data } => self.send(End::Node(n, sock), data.to_vec()),
            Output::Read { sock, credit } => {
                if let Some(half) = self.streams.get_mut(&End::Node(n, sock)) {
                    half.credit += credit as usize;
                }
                // Not from within the node's own call: a driver reads when its loop comes round.
                self.schedule(Duration::ZERO, Happening::Bytes(End::Node(n, sock), Vec::new()));
            }
            Output::Close { sock, how } => {
                host.bound.remove(&sock);
                self.dialling.remove(&(n, sock));
                self.listeners.retain(|_, (m, s)| (*m, *s) != (n, sock));
                self.close(End::Node(n, sock), how == CloseHow::Reset);
            }
            Output::Detach { sock, pipe } => {
                let end = self.streams[&End::Node(n, sock)].to;
                let answers = pipe.answers.to_vec();
                let at = self.now;
                let (peer, strategy, mode, protocol) = (pipe.peer, pipe.strategy, pipe.mode, pipe.protocol);
                host.pipes.push(Pipe { at, sock, answers, peer, strategy, mode, protocol, end, over: None });
            }
            Output::EndPipe { sock, why } => {
                for pipe in host.pipes.iter_mut().filter(|p| p.sock == sock) {
                    assert_eq!(pipe.over.replace(why), None, "ended twice");
                }
            }
            Output::Resolve { query, host, .. } => {
                let takes = if host.ends_with(SLOW) { 5 * S } else { LATENCY };
                self.schedule(takes, Happening::Resolved { n, query, host });
            }
            Output::Event(event) => host.events.push((self.now, event)),
            Output::Cancel { .. } => {}
            Output::OpenRelayed { pipe, start } => self.opened_relayed(n, pipe, &start),
            Output::OpenAllocation { pipe, relayed, other } => {
                host.allocated.push(Allocated {
                    pipe,
                    relayed,
                    other,
                    received: Vec::new(),
                    deaf: false,
                    over: None,
                });
            }
            Output::Pipe { pipe, news } if host.allocated.iter().any(|a| a.pipe == pipe) => {
                self.allocation_news(n, pipe, news);
            }
            Output::Pipe { pipe, news } => self.pipe_news(n, pipe, news),
            other => panic!("not in this world: {other:?}"),
        }
    }
}
