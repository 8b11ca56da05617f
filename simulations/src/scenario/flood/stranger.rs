//! The program of a host of strangers.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use p2pd_core::strangers::{Caller, mqtt};
use p2pd_core::{NodeId, SecretKey, WallTime};

use super::letters::{AllAsked, Draft};
use super::{Act, FLOOD_FOR, Greeting, Part, stranger_ip};
use crate::domain;
use crate::engine::{Nanos, SECOND};
use crate::host::{Close, HostEvent, Reuse, Sock};
use crate::world::{App, Cx};

/// Port at which strangers take the dials of the nodes that they asked.
const PORT: u16 = 7_000;
/// A lost broker is dialled again so long after the last dial.
const REDIAL: Nanos = SECOND;

/// Knowledge of strangers about the node that they flood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Aim {
    /// Identity of the node.
    pub node: NodeId,
    /// Addresses at which the node listens.
    pub tcp: Vec<SocketAddr>,
    /// Addresses at which datagrams may reach the node.
    pub udp: Vec<SocketAddr>,
    /// Addresses that only it can reach; at least one.
    pub inside: Vec<IpAddr>,
    /// Brokers of the node.
    pub brokers: Vec<IpAddr>,
    /// Reading of the node's wall clock.
    pub wall: WallTime,
}

#[derive(Debug)]
enum Line {
    /// Dialled; this is to be said.
    Victim(NodeId),
    /// The hello is under way and is to go on.
    Greeting(Box<Caller>),
    /// The stream is held, and nothing more is sent on it.
    Held,
    Broker {
        place: usize,
        ready: bool,
    },
}

const TICK: u64 = 1;
const LET_GO: u64 = 2;

/// Strangers on one host.
#[derive(Debug)]
pub struct Stranger {
    part: Part,
    /// Number of this host among the flood's parts.
    number: usize,
    keys: Vec<SecretKey>,
    aims: Vec<Aim>,
    until: Nanos,
    /// Acts of this flood, and of all.
    acts: u32,
    draws: u64,
    lines: BTreeMap<Sock, Line>,
    /// Streams that are to be let go, the next first.
    held: VecDeque<Sock>,
    /// The one to each broker, and when it was dialled last.
    brokers: Vec<(Option<Sock>, Nanos)>,
    udp: Option<Sock>,
    recorded: BTreeMap<NodeId, Bytes>,
    ticking: bool,
    /// Requests made so far, by node and named address.
    pub asked: AllAsked,
}

impl Stranger {
    /// The strangers of a flood's part.
    pub fn new(part: Part, number: usize) -> Stranger {
        Stranger {
            part,
            number,
            keys: Vec::new(),
            aims: Vec::new(),
            until: 0,
            acts: 0,
            draws: 0,
            lines: BTreeMap::new(),
            held: VecDeque::new(),
            brokers: Vec::new(),
            udp: None,
            recorded: BTreeMap::new(),
            ticking: false,
            asked: AllAsked::new(),
        }
    }

    /// Begins to flood these.
    pub fn begin(&mut self, cx: &mut Cx<'_>, aims: Vec<Aim>) {
        let most = aims.iter().map(|a| a.brokers.len()).max().unwrap_or(0);
        self.brokers.resize(most, (None, 0));
        (self.aims, self.acts, self.until) = (aims, 0, cx.now + FLOOD_FOR);
        if let Act::Letter(..) = self.part.act {
            (0..most).for_each(|place| self.dial_broker(cx, place));
        }
        if !core::mem::replace(&mut self.ticking, true) {
            cx.wake_at(cx.now, TICK);
        }
    }

    /// Replaces the aims by newer ones.
    pub fn aim(&mut self, aims: Vec<Aim>) {
        self.aims = aims;
    }

    /// Ends the flood, and keeps the open streams.
    pub fn pause(&mut self) {
        self.until = 0;
    }

    /// Lets go of everything.
    pub fn end(&mut self, cx: &mut Cx<'_>) {
        self.until = 0;
        for sock in core::mem::take(&mut self.lines).into_keys().chain(self.udp.take()) {
            cx.host.close(cx.now, sock, Close::Reset);
        }
        self.brokers.clear();
    }

    fn draw(&mut self, cx: &Cx<'_>) -> u64 {
        self.draws += 1;
        cx.rng.draw(domain::STRANGER, 1 + self.number as u64, self.draws)
    }

    fn below(&mut self, cx: &Cx<'_>, bound: u64) -> u64 {
        self.draws += 1;
        cx.rng.below(domain::STRANGER, 1 + self.number as u64, self.draws, bound)
    }

    fn key(&mut self, cx: &Cx<'_>) -> SecretKey {
        let n = self.below(cx, u64::from(self.part.keys)) as usize;
        while self.keys.len() <= n {
            let entity = ((self.number as u64 + 1) << 32) + self.keys.len() as u64;
            self.keys.push(SecretKey::from_bytes(cx.rng.bytes(domain::STRANGER, entity)));
        }
        self.keys[n].clone()
    }

    fn entropy(&mut self, cx: &Cx<'_>) -> [u8; 32] {
        let mut bytes = [0; 32];
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.draw(cx).to_le_bytes());
        }
        bytes
    }

    fn tick(&mut self, cx: &mut Cx<'_>) {
        if self.until <= cx.now || self.acts >= self.part.acts || self.aims.is_empty() {
            self.ticking = false;
            return;
        }
        let n = self.acts as usize;
        self.acts += 1;
        let aim = self.aims[n % self.aims.len()].clone();
        match self.part.act.clone() {
            Act::Stream(..) => self.dial(cx, &aim),
            Act::Letter(pleas, ahead) => {
                let from = self.key(cx);
                let plea = pleas[n % pleas.len()];
                let sent = aim.wall.offset_micros(ahead * 1_000_000);
                let own = SocketAddr::new(stranger_ip(self.number, 0), PORT);
                let (number, rng) = (1 + self.number as u64, cx.rng);
                let draws = &mut self.draws;
                let mut below = |bound: u64| {
                    *draws += 1;
                    rng.below(domain::STRANGER, number, *draws, bound)
                };
                let (payload, named) = Draft { from: &from, own, sent, below: &mut below }.write(plea, &aim);
                if self.publish(cx, &aim, &payload) {
                    for ip in named {
                        let asked = self.asked.entry((aim.node, ip)).or_default();
                        asked.requests += 1;
                        asked.bytes += payload.len() as u64;
                    }
                }
            }
            Act::Datagram => self.datagram(cx, &aim),
        }
        cx.wake_at(cx.now + self.part.every, TICK);
    }

    /// Draws one of the host's own addresses.
    fn source(&mut self, cx: &Cx<'_>) -> SocketAddr {
        let n = self.below(cx, u64::from(self.part.addresses)) as u8;
        SocketAddr::new(stranger_ip(self.number, n), 0)
    }

    fn dial(&mut self, cx: &mut Cx<'_>, aim: &Aim) {
        if aim.tcp.is_empty() {
            return;
        }
        let to = aim.tcp[self.below(cx, aim.tcp.len() as u64) as usize];
        let from = self.source(cx);
        let Ok(sock) = cx.host.bind_tcp(from, to, Reuse::No) else { return };
        if cx.host.connect(cx.now, sock, to).is_ok() {
            self.lines.insert(sock, Line::Victim(aim.node));
        }
    }

    fn dial_broker(&mut self, cx: &mut Cx<'_>, place: usize) {
        let Some(ip) = self.aims.iter().find_map(|a| a.brokers.get(place)).copied() else { return };
        let (from, to) = (SocketAddr::new(stranger_ip(self.number, 0), 0), SocketAddr::new(ip, 1_883));
        let Ok(sock) = cx.host.bind_tcp(from, to, Reuse::No) else { return };
        if cx.host.connect(cx.now, sock, to).is_ok() {
            self.lines.insert(sock, Line::Broker { place, ready: false });
            self.brokers[place] = (Some(sock), cx.now);
        }
    }

    /// Publishes on every broker that it has; whether there was one.
    fn publish(&mut self, cx: &mut Cx<'_>, aim: &Aim, payload: &[u8]) -> bool {
        let mut any = false;
        for place in 0..self.brokers.len().min(aim.brokers.len()) {
            match self.brokers[place] {
                (Some(sock), _)
                    if matches!(self.lines.get(&sock), Some(Line::Broker { ready: true, .. })) =>
                {
                    if let Ok(packet) = mqtt::publish(&aim.node.topic().to_string(), payload, false) {
                        cx.host.send(cx.now, sock, &packet);
                        any = true;
                    }
                }
                (None, dialled) if dialled + REDIAL <= cx.now => self.dial_broker(cx, place),
                _ => {}
            }
        }
        any
    }

    fn datagram(&mut self, cx: &mut Cx<'_>, aim: &Aim) {
        if aim.udp.is_empty() {
            return;
        }
        if self.udp.is_none() {
            self.udp = cx.host.bind_udp(([0, 0, 0, 0], 0).into(), Reuse::No).ok();
        }
        let to = aim.udp[self.below(cx, aim.udp.len() as u64) as usize];
        let from = self.source(cx).ip();
        let length = [0, 20, 100, 1_200][self.below(cx, 4) as usize];
        let mut data = vec![self.draw(cx) as u8; length];
        // As a STUN answer, as channel data, or as nothing known.
        let front: &[u8] =
            [&[1, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[0x40, 0, 0, 4], &[]][self.below(cx, 3) as usize];
        data.iter_mut().zip(front).for_each(|(byte, front)| *byte = *front);
        if let Some(sock) = self.udp {
            cx.host.send_to(sock, Some(from), to, data.into());
        }
    }

    fn connected(&mut self, cx: &mut Cx<'_>, sock: Sock) {
        let to = match self.lines.get(&sock) {
            Some(Line::Victim(to)) => *to,
            Some(Line::Broker { .. }) => {
                let name = format!("stranger{}", self.number);
                if let Ok(packet) = mqtt::connect(&name, 600, None) {
                    cx.host.send(cx.now, sock, &packet);
                }
                return;
            }
            _ => return,
        };
        let Act::Stream(greeting, hold) = self.part.act else { return };
        if let Some(hold) = hold {
            self.held.push_back(sock);
            cx.wake_at(cx.now + hold, LET_GO);
        }
        let mut line = Line::Held;
        match greeting {
            Greeting::Silent => {}
            Greeting::Garbage => {
                let bytes = self.entropy(cx);
                cx.host.send(cx.now, sock, &bytes);
            }
            Greeting::Cut(_) | Greeting::First | Greeting::Again | Greeting::Pipe => {
                let (from, session, entropy) = (self.key(cx), self.entropy(cx), self.entropy(cx));
                let mut id = [0; 16];
                id.copy_from_slice(&session[..16]);
                let Some((caller, first)) = Caller::new(&from, &to, id, entropy) else { return };
                let said = match greeting {
                    Greeting::Cut(most) => first.slice(..first.len().min(usize::from(most))),
                    Greeting::Again => self.recorded.entry(to).or_insert(first).clone(),
                    _ => first,
                };
                cx.host.send(cx.now, sock, &said);
                if greeting == Greeting::Pipe {
                    line = Line::Greeting(Box::new(caller));
                }
            }
        }
        self.lines.insert(sock, line);
    }

    fn readable(&mut self, cx: &mut Cx<'_>, sock: Sock) {
        let data = cx.host.read(sock, usize::MAX);
        match self.lines.get_mut(&sock) {
            Some(Line::Broker { ready, .. }) => *ready = true,
            Some(Line::Greeting(caller)) => {
                for answer in caller.receive(&data) {
                    cx.host.send(cx.now, sock, &answer);
                }
            }
            _ => {}
        }
        if cx.host.at_end(sock) {
            self.lose(sock);
            cx.host.close(cx.now, sock, Close::Graceful);
        }
    }

    fn lose(&mut self, sock: Sock) {
        if let Some(Line::Broker { place, .. }) = self.lines.remove(&sock)
            && let Some((held, _)) = self.brokers.get_mut(place)
            && *held == Some(sock)
        {
            *held = None;
        }
    }
}

impl App for Stranger {
    fn event(&mut self, cx: &mut Cx<'_>, event: HostEvent) {
        match event {
            HostEvent::Connected(sock) => self.connected(cx, sock),
            HostEvent::Accepted { sock, .. } => {
                self.lines.insert(sock, Line::Held);
            }
            HostEvent::Readable(sock) => self.readable(cx, sock),
            HostEvent::Failed(sock, _) | HostEvent::Broken(sock, _) => {
                cx.host.close(cx.now, sock, Close::Drop);
                self.lose(sock);
            }
            HostEvent::Datagram { .. } | HostEvent::Writable(_) | HostEvent::Bounced { .. } => {}
        }
    }

    fn wake(&mut self, cx: &mut Cx<'_>, token: u64) {
        match token {
            0 => {
                // Free on a host of its own.
                let _ = cx.host.listen(([0, 0, 0, 0], PORT).into(), 128, Reuse::No);
            }
            TICK => self.tick(cx),
            _ => {
                if let Some(sock) = self.held.pop_front()
                    && self.lines.contains_key(&sock)
                {
                    self.lose(sock);
                    cx.host.close(cx.now, sock, Close::Graceful);
                }
            }
        }
    }
}
