//! Two bare TCP dials through two chains of NATs: the experiment that was done on real kernels (`data/README.md`), done here.
//!
//! ```
//! use p2pd_netsim::dial::{Attempt, attempt};
//! use p2pd_netsim::engine::MILLI;
//!
//! let between = |a: &str, b: &str| {
//!     let chains = [a.parse().unwrap(), b.parse().unwrap()];
//!     attempt(1, &Attempt { chains, one_way: 20 * MILLI, offset: 0, listen: false, retry: None }, false).0.letter
//! };
//! assert_eq!(between("linux", "linux"), 'o', "the SYNs cross");
//! assert_eq!(between("linux", "linux-random"), 't', "nobody knows the port");
//! ```

use std::net::{IpAddr, SocketAddr};

use crate::engine::{Domain, MILLI, Nanos, SECOND};
use crate::host::{Failure, HostEvent, Reuse, Sock};
use crate::nat::{Chain, Nat};
use crate::net::LinkSpec;
use crate::world::{App, Cx, HostId, NatId, Site, SiteSpec, Trace, World};

/// An attempt to connect two hosts.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The NATs of the side that connects first, and of the other.
    pub chains: [Chain; 2],
    /// Time from one host to the other.
    pub one_way: Nanos,
    /// Delay of the second side's connect after the first's.
    pub offset: Nanos,
    /// Has a listener beside each dial.
    pub listen: bool,
    /// Makes a new dial 50 ms after an error, or up to so much later.
    pub retry: Option<Nanos>,
}

/// Outcome of an attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ending {
    /// The matrices' letter for it.
    pub letter: char,
    /// Time at which each side was connected, after the first dial.
    pub connected: [Option<Nanos>; 2],
    /// True for a side whose connection came through its listener.
    pub accepted: [bool; 2],
    /// The first error of each side, and when.
    pub errors: [Option<(Failure, Nanos)>; 2],
    /// The digest of the run.
    pub digest: u64,
    /// The world's events.
    pub events: u64,
}

const SHARED: Reuse = Reuse::AddressAndPort;
const PORT: u16 = 20_001;
/// The lateness of a redial.
const REDIAL: Domain = Domain::User(3);
const SERVERS: [IpAddr; 2] = [
    IpAddr::V4(core::net::Ipv4Addr::new(203, 0, 113, 10)),
    IpAddr::V4(core::net::Ipv4Addr::new(203, 0, 113, 11)),
];
/// Time from the later dial to giving up.
const PATIENCE: Nanos = 3_300 * MILLI;

#[derive(Debug, Default)]
struct Program {
    number: u64,
    /// A server's: who has connected.
    seen: Vec<SocketAddr>,
    server: bool,
    /// The stream that counts, and whether it was accepted.
    conn: Option<(Sock, Nanos, bool)>,
    dial: Option<Sock>,
    dialling: bool,
    learning: bool,
    learned: usize,
    to: Option<SocketAddr>,
    retry: Option<Nanos>,
    redials: u64,
    result: Option<(Failure, Nanos)>,
    last: Option<Failure>,
    got: Vec<u8>,
}

impl Program {
    fn bind(&mut self, cx: &mut Cx<'_>) {
        if let Some(to) = self.to {
            let local = SocketAddr::new(cx.host.addresses()[0], PORT);
            self.dial = cx.host.bind_tcp(local, to, SHARED).ok();
        }
    }

    fn go(&mut self, cx: &mut Cx<'_>) {
        if self.dial.is_none() {
            self.bind(cx);
        }
        if let (Some(sock), Some(to)) = (self.dial, self.to) {
            self.dialling = true;
            if let Err(cause) = cx.host.connect(cx.now, sock, to) {
                self.fail(cx, cause);
            }
        }
    }

    fn fail(&mut self, cx: &mut Cx<'_>, cause: Failure) {
        self.dial = None;
        self.dialling = false;
        self.result.get_or_insert((cause, cx.now));
        if self.last.is_none() {
            self.last = Some(cause);
        }
        if let Some(most) = self.retry {
            let late = cx.rng.below(REDIAL, self.number, self.redials, most + 1);
            self.redials += 1;
            cx.wake_at(cx.now + 50 * MILLI + late, 1);
        }
    }
}

impl App for Program {
    fn event(&mut self, cx: &mut Cx<'_>, event: HostEvent) {
        match event {
            HostEvent::Accepted { sock, .. } if self.server => self.seen.extend(cx.host.remote(sock)),
            HostEvent::Connected(_) if self.learning => self.learned += 1,
            HostEvent::Accepted { sock, .. } if self.conn.is_none() => self.conn = Some((sock, cx.now, true)),
            HostEvent::Connected(sock) if self.conn.is_none() => self.conn = Some((sock, cx.now, false)),
            HostEvent::Failed(sock, cause) if Some(sock) == self.dial && self.conn.is_none() => {
                self.fail(cx, cause);
            }
            HostEvent::Readable(sock) => {
                let data = cx.host.read(sock, 100);
                self.got.extend(data);
            }
            _ => {}
        }
    }

    fn wake(&mut self, cx: &mut Cx<'_>, token: u64) {
        match token {
            0 if self.server => {
                let local = SocketAddr::new(cx.host.addresses()[0], 3478);
                let _ = cx.host.listen(local, 16, SHARED);
            }
            1 => self.go(cx),
            _ => {}
        }
    }
}

/// Returns the predicted external end of a host: the address that the second server saw, moved on by the difference to
/// the first. `None` if its NATs keep it from both or one of them.
fn learn(world: &mut World<Program>, servers: [HostId; 2], host: HostId) -> Option<SocketAddr> {
    let mut seen = Vec::new();
    for (n, server) in servers.into_iter().enumerate() {
        world.with(host, |program, cx| {
            program.learning = true;
            let (local, to) = (SocketAddr::new(cx.host.addresses()[0], PORT), (SERVERS[n], 3478).into());
            if let Ok(sock) = cx.host.bind_tcp(local, to, SHARED) {
                let _ = cx.host.connect(cx.now, sock, to);
            }
        });
        let before = world.app(server).seen.len();
        let until = world.now() + 5 * SECOND;
        if world.run_while(until, |w| w.app(host).learned > n && w.app(server).seen.len() > before) {
            seen.extend(world.app(server).seen.last().copied());
        }
    }
    world.with(host, |program, _| program.learning = false);
    let [first, second] = seen[..] else { return None };
    let (a, b) = (i32::from(first.port()), i32::from(second.port()));
    let next = if first == second { b } else { 1024 + (b + b - a - 1024).rem_euclid(64_000) };
    Some(SocketAddr::new(second.ip(), next as u16))
}

/// Progress of two dials.
#[derive(Debug)]
enum Phase {
    Dialling,
    /// Both are connected, and eight bytes are on their way in each direction.
    Talking {
        until: Nanos,
    },
    /// True if the bytes came.
    Over(bool),
}

/// Two dials under way: an attempt of which each event can be looked at.
#[derive(Debug)]
pub struct Dials {
    world: World<Program>,
    attempt: Attempt,
    sites: [Site; 2],
    hosts: [HostId; 2],
    aims: [Option<SocketAddr>; 2],
    begin: Nanos,
    phase: Phase,
}

impl Dials {
    /// Two hosts that have learned how servers see them and are about to dial. The trace, if wanted, begins here.
    pub fn new(seed: u64, attempt: &Attempt, trace: bool) -> Dials {
        let mut world: World<Program> = World::new(seed);
        let internet = world.internet();
        let servers = SERVERS.map(|ip| {
            let program = Program { server: true, ..Program::default() };
            world.add_host(internet, ip, LinkSpec::default(), program)
        });
        let link = LinkSpec::with_delay(attempt.one_way / 2);
        let mut sites = [0, 1].map(|n| {
            let program = Program { number: n as u64, retry: attempt.retry, ..Program::default() };
            let spec = SiteSpec { number: n as u8 + 1, chain: attempt.chains[n].clone(), link };
            let mut site = world.add_site(&spec);
            (world.add_host_at(&mut site, program), site)
        });
        let hosts = sites.each_mut().map(|(host, _)| *host);
        let sites = sites.map(|(_, site)| site);
        let ends = hosts.map(|host| learn(&mut world, servers, host));
        if trace {
            world.record();
        }
        let begin = world.now() + 5 * MILLI;
        for (n, host) in hosts.into_iter().enumerate() {
            world.with(host, |program, cx| {
                program.to = ends[1 - n];
                if attempt.listen {
                    let local = SocketAddr::new(cx.host.addresses()[0], PORT);
                    let _ = cx.host.listen(local, 4, SHARED);
                }
                program.bind(cx);
                cx.wake_at(begin + if n == 1 { attempt.offset } else { 0 }, 1);
            });
        }
        let aims = [ends[1], ends[0]];
        Dials { world, attempt: attempt.clone(), sites, hosts, aims, begin, phase: Phase::Dialling }
    }

    /// Changes a side's links from now on: between its host and its NAT, and between its outermost NAT and the internet. A host
    /// without a NAT has the second one alone.
    pub fn set_links(&mut self, side: usize, home: LinkSpec, uplink: LinkSpec) {
        let host = self.hosts[side];
        let ip = self.world.host(host).addresses()[0];
        if !self.sites[side].nats.is_empty() {
            self.world.set_link(host, home);
        }
        self.world.set_uplink(&self.sites[side], host, ip, uplink);
    }

    /// The time.
    pub fn now(&self) -> Nanos {
        self.world.now()
    }

    /// Time of the first dial.
    pub fn begin(&self) -> Nanos {
        self.begin
    }

    /// Returns the ends that the sides dial: each is where the other one is predicted to be seen. A side does not dial another one
    /// that its NATs keep from the servers.
    pub fn aims(&self) -> [Option<SocketAddr>; 2] {
        self.aims
    }

    /// Returns the hosts of both sides.
    pub fn hosts(&self) -> [HostId; 2] {
        self.hosts
    }

    /// Returns the NATs of a side, its host's own first.
    pub fn nats(&self, side: usize) -> impl Iterator<Item = (NatId, &Nat)> {
        self.sites[side].nats.iter().map(|id| (*id, self.world.nat(*id)))
    }

    /// Returns the trace, if one was wanted.
    pub fn trace(&self) -> Option<&Trace> {
        self.world.trace()
    }

    /// Takes one event. False once the attempt is over.
    pub fn step(&mut self) -> bool {
        let hosts = || self.hosts.iter().map(|host| self.world.app(*host));
        let (until, done) = match self.phase {
            Phase::Dialling => {
                (self.begin + self.attempt.offset + PATIENCE, hosts().all(|app| app.conn.is_some()))
            }
            Phase::Talking { until } => (until, hosts().all(|app| app.got.len() >= 8)),
            Phase::Over(_) => return false,
        };
        if !done && self.world.step(until) {
            return true;
        }
        self.phase = match self.phase {
            Phase::Dialling if done => {
                for host in self.hosts {
                    self.world.with(host, |program, cx| {
                        if let Some((sock, ..)) = program.conn {
                            cx.host.send(cx.now, sock, b"8 bytes!");
                        }
                    });
                }
                Phase::Talking { until: self.world.now() + 3 * SECOND }
            }
            Phase::Dialling => Phase::Over(false),
            Phase::Talking { .. } | Phase::Over(_) => Phase::Over(done),
        };
        !matches!(self.phase, Phase::Over(_))
    }

    /// Returns how the attempt stands. Once it is over that is its ending.
    pub fn ending(&self) -> Ending {
        let (world, begin, offset) = (&self.world, self.begin, self.attempt.offset);
        let apps = self.hosts.map(|host| world.app(host));
        let connected = apps.map(|app| app.conn.map(|(_, at, _)| at - begin));
        let last = |cause| apps.iter().any(|app| app.conn.is_none() && app.last == Some(cause));
        let letter = match connected {
            [Some(a), Some(b)] if matches!(self.phase, Phase::Over(true)) => {
                let late = a.max(b).saturating_sub(offset);
                if late < 900 * MILLI {
                    'o'
                } else {
                    char::from_digit(((late + 200 * MILLI) / SECOND) as u32, 10).unwrap_or('9')
                }
            }
            [Some(_), Some(_)] => '?',
            _ if last(Failure::Refused) => 'R',
            _ if last(Failure::Unreachable) => 'H',
            _ => 't',
        };
        Ending {
            letter,
            connected,
            accepted: apps.map(|app| app.conn.is_some_and(|(_, _, accepted)| accepted)),
            errors: apps.map(|app| app.result.map(|(e, at)| (e, at - begin))),
            digest: world.digest(),
            events: world.counts().events,
        }
    }
}

/// Does the attempt; gives its ending, and the trace of packets if wanted.
pub fn attempt(seed: u64, attempt: &Attempt, trace: bool) -> (Ending, String) {
    let mut dials = Dials::new(seed, attempt, trace);
    while dials.step() {}
    (dials.ending(), dials.trace().map(Trace::text).unwrap_or_default())
}
