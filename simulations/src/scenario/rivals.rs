//! Punching by other programs, on bare hosts in the same internet. Each uses the two ports that a STUN server over TCP, or
//! over UDP, has seen, with its own times and numbers of dials. Their signalling is given to them: it takes its time, and loses
//! nothing.
//!
//! After peers.md (section 3) and p2pd-reference.md (sections 2 and 3). Where a detail is open the choice favours the
//! rival. A listener stands beside every dial except P2PD's, which has none, and no rival has to say hello. Over UDP a
//! ping from anywhere is answered to where it came from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use super::census::{Drawn, Group};
use crate::domain;
use crate::engine::{MILLI, Nanos, SECOND};
use crate::host::{Close, HostEvent, Reuse, Sock};
use crate::net::LinkSpec;
use crate::world::{App, Cx, HostId, SiteSpec, World};

/// Program whose way of punching is simulated.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Rival {
    /// A dial from each side at a moment agreed on by round trip, three tries.
    Dcutr,
    /// A dial from each side at an NTP time, again 5 ms after a refusal, for 6 s. Ports that count are predicted when
    /// the time is agreed on, 3 s before.
    P2pd,
    /// Five dials of the responder for 3 s; one of the caller, whose NAT must keep one port, and who listens.
    EasyTier,
    /// The ladder of frp's XTCP moved to TCP: a dial, twenty ports around a counted one, or 256 against 1,000;
    /// twice.
    Frp,
    /// iroh's, and that of others over UDP alone: each side pings the addresses at which the other was seen, from both sides at
    /// once, and predicts none.
    Iroh,
}

impl Rival {
    /// All of them.
    pub const ALL: [Rival; 5] = [Rival::Dcutr, Rival::P2pd, Rival::EasyTier, Rival::Frp, Rival::Iroh];

    /// Returns the program's name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Rival::Dcutr => "DCUtR-like",
            Rival::P2pd => "P2PD-like",
            Rival::EasyTier => "EasyTier-TCP-like",
            Rival::Frp => "frp's ladder on TCP",
            Rival::Iroh => "iroh-like, UDP",
        }
    }
}

const SHARED: Reuse = Reuse::AddressAndPort;
const SERVERS: [IpAddr; 2] = [
    IpAddr::V4(core::net::Ipv4Addr::new(203, 0, 113, 10)),
    IpAddr::V4(core::net::Ipv4Addr::new(203, 0, 113, 11)),
];
const STUN_PORT: u16 = 3478;
const PORT: u16 = 20_001;
/// Time between two dials of a search, as for p2pd's own nodes.
const SYN_EVERY: Nanos = 2 * MILLI;
/// The largest step of a NAT that counts.
const MAX_STEP: i32 = 16;
/// Message that the ends of a joined pair send to each other.
const HELLO: &[u8] = b"hello";
/// Pings over UDP, the time between two of them, and the time for the last.
const PINGS: u64 = 10;
const PING_EVERY: Nanos = 500 * MILLI;
const PING: &[u8] = b"ping";
/// Token of a wake to send pings.
const PING_NOW: u64 = u64::MAX - 1;

/// A dial, perhaps repeated.
#[derive(Clone, Copy, Debug)]
struct Dial {
    at: Nanos,
    /// 0 for any.
    from: u16,
    to: SocketAddr,
    /// Time at which the dial is given up.
    until: Nanos,
    /// Repeated so often after a refusal, and after this pause and up to as much again.
    again: u32,
    pause: Nanos,
}

#[derive(Debug, Default)]
struct Program {
    number: u64,
    server: bool,
    /// A server's: who has connected.
    seen: Vec<SocketAddr>,
    dials: Vec<Dial>,
    live: BTreeMap<Sock, usize>,
    redials: u64,
    /// The socket over UDP, and where it pings.
    udp: Option<Sock>,
    pinged: Vec<SocketAddr>,
    /// Time of the peer's first message.
    heard: Option<Nanos>,
}

impl Program {
    fn go(&mut self, cx: &mut Cx<'_>, n: usize) {
        let Dial { from, to, until, .. } = self.dials[n];
        if self.heard.is_some() || cx.now >= until {
            return;
        }
        let local = SocketAddr::new(cx.host.addresses()[0], from);
        let Ok(sock) = cx.host.bind_tcp(local, to, SHARED) else { return };
        if cx.host.connect(cx.now, sock, to).is_ok() {
            self.live.insert(sock, n);
            cx.wake_at(until, u64::MAX);
        }
    }
}

impl App for Program {
    fn event(&mut self, cx: &mut Cx<'_>, event: HostEvent) {
        match event {
            HostEvent::Accepted { sock, .. } if self.server => self.seen.extend(cx.host.remote(sock)),
            HostEvent::Accepted { sock, .. } => _ = cx.host.send(cx.now, sock, HELLO),
            HostEvent::Connected(sock) if self.live.remove(&sock).is_some() => {
                cx.host.send(cx.now, sock, HELLO);
            }
            HostEvent::Failed(sock, _) => {
                let Some(n) = self.live.remove(&sock) else { return };
                let dial = &mut self.dials[n];
                if dial.again > 0 {
                    dial.again -= 1;
                    let more = cx.rng.below(domain::SCENARIO, self.number, self.redials, dial.pause + 1);
                    self.redials += 1;
                    cx.wake_at(cx.now + dial.pause + more, n as u64 + 1);
                }
            }
            HostEvent::Datagram { from, .. } if self.server => {
                self.seen.push(from);
                if let Some(sock) = self.udp {
                    cx.host.send_to(sock, Some(cx.host.addresses()[0]), from, Bytes::from_static(HELLO));
                }
            }
            HostEvent::Datagram { sock, from, data, .. } if !SERVERS.contains(&from.ip()) => {
                self.heard.get_or_insert(cx.now);
                if data == PING {
                    cx.host.send_to(sock, None, from, Bytes::from_static(HELLO));
                }
            }
            HostEvent::Readable(sock) if !self.server && !cx.host.read(sock, 100).is_empty() => {
                self.heard.get_or_insert(cx.now);
            }
            _ => {}
        }
    }

    fn wake(&mut self, cx: &mut Cx<'_>, token: u64) {
        match token {
            0 if self.server => {
                let local = SocketAddr::new(cx.host.addresses()[0], STUN_PORT);
                let _ = cx.host.listen(local, 64, SHARED);
                self.udp = cx.host.bind_udp(local, Reuse::No).ok();
            }
            0 => {}
            PING_NOW => {
                for to in self.udp.iter().flat_map(|sock| self.pinged.iter().map(|to| (*sock, *to))) {
                    cx.host.send_to(to.0, None, to.1, Bytes::from_static(PING));
                }
            }
            u64::MAX => {
                let over = |n: usize| self.dials[n].until <= cx.now;
                let ended: Vec<Sock> = self.live.iter().filter(|l| over(*l.1)).map(|l| *l.0).collect();
                for sock in ended {
                    self.live.remove(&sock);
                    cx.host.close(cx.now, sock, Close::Graceful);
                }
            }
            n => self.go(cx, n as usize - 1),
        }
    }
}

/// Addresses of one port, as two servers have seen it.
#[derive(Clone, Copy, Debug)]
struct Sample {
    first: SocketAddr,
    second: SocketAddr,
}

impl Sample {
    fn keeps(&self) -> bool {
        self.first == self.second
    }

    /// Returns the step from one mapping to the next, where ports count.
    fn step(&self) -> Option<i32> {
        let step = i32::from(self.second.port()) - i32::from(self.first.port());
        (step != 0 && step.abs() <= MAX_STEP && self.first.ip() == self.second.ip()).then_some(step)
    }

    /// The second server's port moved on.
    fn moved(&self, by: i32) -> SocketAddr {
        let port = (i32::from(self.second.port()) + by).clamp(1, 65_535);
        SocketAddr::new(self.second.ip(), port as u16)
    }
}

struct Meeting<'a> {
    world: World<Program>,
    servers: [HostId; 2],
    /// Hosts of the listener and of the caller.
    sides: [HostId; 2],
    drawn: &'a Drawn,
}

impl Meeting<'_> {
    fn new(drawn: &Drawn) -> Meeting<'_> {
        let mut world: World<Program> = World::new(drawn.seed);
        let internet = world.internet();
        let servers = SERVERS.map(|ip| {
            let program = Program { server: true, ..Program::default() };
            world.add_host(internet, ip, LinkSpec::with_delay(5 * MILLI), program)
        });
        let link = LinkSpec { loss_ppm: drawn.loss_ppm / 2, ..LinkSpec::with_delay(drawn.one_way / 2) };
        let sides = [0, 1].map(|n| {
            let spec = SiteSpec { number: n as u8 + 1, chain: drawn.homes[n].chain.clone(), link };
            let mut site = world.add_site(&spec);
            world.add_host_at(&mut site, Program { number: n as u64, ..Program::default() })
        });
        Meeting { world, servers, sides, drawn }
    }

    /// Connects each side to the first server, and then to the second, from this port. The streams stay open.
    fn sample(&mut self, port: u16) -> Option<[Sample; 2]> {
        self.ask(|_, cx, to| {
            let local = SocketAddr::new(cx.host.addresses()[0], port);
            if let Ok(sock) = cx.host.bind_tcp(local, to, SHARED) {
                let _ = cx.host.connect(cx.now, sock, to);
            }
        })
    }

    /// The same over UDP. What is lost is sent again.
    fn sample_udp(&mut self) -> Option<[Sample; 2]> {
        let ask = |program: &mut Program, cx: &mut Cx<'_>, to| {
            let local = SocketAddr::new(cx.host.addresses()[0], PORT);
            let bound = program.udp.or_else(|| cx.host.bind_udp(local, Reuse::No).ok());
            program.udp = bound;
            if let Some(sock) = bound {
                cx.host.send_to(sock, None, to, Bytes::from_static(HELLO));
            }
        };
        (0..3).find_map(|_| self.ask(ask))
    }

    /// Has each side ask the first server, and then the second.
    fn ask(&mut self, ask: impl Fn(&mut Program, &mut Cx<'_>, SocketAddr)) -> Option<[Sample; 2]> {
        let mut seen = [Vec::new(), Vec::new()];
        for (server, to) in self.servers.into_iter().zip(SERVERS) {
            let before = self.world.app(server).seen.len();
            for host in self.sides {
                self.world.with(host, |program, cx| ask(program, cx, (to, STUN_PORT).into()));
            }
            let of = |world: &World<Program>, n: usize| {
                let site = |from: &&SocketAddr| match from.ip() {
                    IpAddr::V4(ip) => usize::from(ip.octets()[2]) == n + 1,
                    IpAddr::V6(_) => false,
                };
                world.app(server).seen[before..].iter().find(site).copied()
            };
            let until = self.world.now() + 10 * SECOND;
            self.world.run_while(until, |w| of(w, 0).is_some() && of(w, 1).is_some());
            // The answer has to come back.
            self.world.run_until(self.world.now() + self.drawn.one_way / 2 + 5 * MILLI);
            for (n, seen) in seen.iter_mut().enumerate() {
                seen.push(of(&self.world, n)?);
            }
        }
        Some(seen.map(|s| Sample { first: s[0], second: s[1] }))
    }

    fn listen(&mut self, side: usize, port: u16) {
        self.world.with(self.sides[side], |_, cx| {
            let local = SocketAddr::new(cx.host.addresses()[0], port);
            let _ = cx.host.listen(local, 64, SHARED);
        });
    }

    fn dial(&mut self, side: usize, dial: Dial) {
        self.world.with(self.sides[side], |program, cx| {
            program.dials.push(dial);
            cx.wake_at(dial.at, program.dials.len() as u64);
        });
    }

    /// Waits for both to hear each other.
    fn joined_by(&mut self, until: Nanos) -> bool {
        let sides = self.sides;
        let both = |w: &World<Program>| sides.iter().all(|s| w.app(*s).heard.is_some());
        self.world.run_while(until, both)
    }

    /// A whole number below `bound`, of this pair.
    fn below(&self, n: u64, bound: u64) -> u64 {
        self.world.rng().below(domain::SCENARIO, 2_000, n, bound.max(1))
    }

    fn dcutr(&mut self) -> Option<bool> {
        self.listen(0, PORT);
        self.listen(1, PORT);
        let samples = self.sample(PORT)?;
        for n in 0..3 {
            // CONNECT, CONNECT, SYNC; then half a measured round trip, which is off by up to a fifth.
            let sync = self.world.now() + 3 * self.drawn.signal;
            let skew = self.below(n, self.drawn.signal / 5);
            for side in 0..2 {
                let at = sync + if side == 0 { skew } else { 0 };
                let to = samples[1 - side].second;
                self.dial(side, Dial { at, from: PORT, to, until: at + 5 * SECOND, again: 0, pause: 0 });
            }
            if self.joined_by(sync + skew + 5 * SECOND + 10 * MILLI) {
                return Some(true);
            }
        }
        Some(false)
    }

    fn p2pd(&mut self) -> Option<bool> {
        let samples = self.sample(PORT)?;
        let meet = self.world.now() + 3 * SECOND;
        let mut ends = [(PORT, samples[0].second), (PORT, samples[1].second)];
        for (side, sample) in samples.iter().enumerate() {
            if !sample.keeps() {
                // "Can't predict this NAT type."
                let Some(step) = sample.step() else { return Some(false) };
                ends[side] = (PORT + 1, sample.moved(step));
            }
        }
        for side in 0..2 {
            // NTP as it reads it is off by a way; both are off by up to 30 ms.
            let at = meet + self.below(side as u64, 60 * MILLI);
            let (from, to, until) = (ends[side].0, ends[1 - side].1, at + 6 * SECOND);
            self.dial(side, Dial { at, from, to, until, again: 1_200, pause: 5 * MILLI });
        }
        Some(self.joined_by(meet + 6_100 * MILLI))
    }

    fn easytier(&mut self) -> Option<bool> {
        let samples = self.sample(PORT)?;
        if !samples[1].keeps() {
            return Some(false);
        }
        self.listen(0, PORT);
        self.listen(1, PORT);
        let mut at = self.world.now() + self.drawn.signal;
        let answered = at + self.drawn.signal;
        let until = answered + 3 * SECOND;
        let once = Dial { at: answered, from: PORT, to: samples[0].second, until, again: 0, pause: 0 };
        self.dial(1, once);
        for n in 0..5 {
            let until = at + 3 * SECOND;
            self.dial(0, Dial { at, from: PORT, to: samples[1].second, until, again: 0, pause: 0 });
            at = until + (10 + self.below(n, 91)) * MILLI;
        }
        Some(self.joined_by(at))
    }

    fn iroh(&mut self) -> Option<bool> {
        let samples = self.sample_udp()?;
        // Each has told the other where it was seen, over the relay.
        let begin = self.world.now() + self.drawn.signal;
        for side in 0..2 {
            let theirs = samples[1 - side];
            self.world.with(self.sides[side], |program, cx| {
                program.pinged = vec![theirs.first, theirs.second];
                program.pinged.dedup();
                (0..PINGS).for_each(|n| cx.wake_at(begin + n * PING_EVERY, PING_NOW));
            });
        }
        Some(self.joined_by(begin + PINGS * PING_EVERY + SECOND))
    }

    fn frp(&mut self) -> Option<bool> {
        for round in 0..2 {
            let port = PORT + 10 * round;
            self.listen(0, port);
            self.listen(1, port);
            let samples = self.sample(port)?;
            let now = self.world.now() + 2 * self.drawn.signal;
            let mut most = now;
            for side in 0..2 {
                let (ours, theirs) = (&samples[side], &samples[1 - side]);
                let random = |s: &Sample| !s.keeps() && s.step().is_none();
                let around = |s: &Sample| (-10..=10).map(|n| s.moved(n)).collect::<Vec<_>>();
                let (from, targets) = match (ours.keeps(), theirs.keeps()) {
                    _ if random(ours) && !theirs.keeps() || random(theirs) && !ours.keeps() => continue,
                    (true, true) => (port, vec![theirs.second]),
                    (false, true) if random(ours) => (0, vec![theirs.second; 256]),
                    (false, true) => (port + 1, vec![theirs.second]),
                    (true, false) if random(theirs) => {
                        let mut ports = BTreeSet::new();
                        let draw = |n: u64| 1_024 + self.below(10_000 * u64::from(round) + n, 64_512) as u16;
                        let drawn = (10..).map(draw).filter(|p| ports.insert(*p)).take(1_000);
                        (port, drawn.map(|p| SocketAddr::new(theirs.second.ip(), p)).collect())
                    }
                    (true, false) => (port, around(theirs)),
                    (false, false) => (port + 1, around(theirs)),
                };
                for (n, to) in targets.into_iter().enumerate() {
                    let at = now + SYN_EVERY * n as u64;
                    most = most.max(at);
                    let until = at + 10 * SECOND;
                    self.dial(side, Dial { at, from, to, until, again: 20, pause: 100 * MILLI });
                }
            }
            if self.joined_by(most + 10 * SECOND) {
                return Some(true);
            }
        }
        Some(false)
    }
}

/// Returns true if this way of punching joins the pair. Homes that TCP cannot leave are not tried.
pub fn joins(rival: Rival, drawn: &Drawn) -> bool {
    if drawn.group() == Group::Closed {
        return false;
    }
    let mut meeting = Meeting::new(drawn);
    let joined = match rival {
        Rival::Dcutr => meeting.dcutr(),
        Rival::P2pd => meeting.p2pd(),
        Rival::EasyTier => meeting.easytier(),
        Rival::Frp => meeting.frp(),
        Rival::Iroh => meeting.iroh(),
    };
    // Without its two ports none of them begins.
    joined.unwrap_or(false)
}
