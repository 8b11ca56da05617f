//! The world: networks, hosts on them, NATs between them, and the loop that moves time.

mod build;
mod chart;
mod pcap;
mod trace;

use std::collections::BTreeMap;
use std::net::IpAddr;

pub use build::{Site, SiteSpec};
pub use trace::{Record, Trace, What};

use crate::engine::{Digest, Keyed, MICRO, Nanos, Queue};
use crate::host::{Host, HostEvent, Profile, Sock};
use crate::nat::{Nat, Order, Side, Timers, Verdict};
use crate::net::{IcmpKind, LinkSpec, Packet};

/// Time of a packet to its sender's own address.
const LOOPBACK: Nanos = 20 * MICRO;
/// Place in traces of what a link loses.
const LINK: &str = "link";
/// Most events while time stands still; beyond, the world stops and [`World::check`] reports it.
const MOST_AT_ONCE: u32 = 100_000;

/// A program on a host.
pub trait App {
    /// Handles an event of one of the program's sockets.
    fn event(&mut self, cx: &mut Cx<'_>, event: HostEvent);
    /// A time has come that was asked for with [`Cx::wake_at`].
    fn wake(&mut self, cx: &mut Cx<'_>, token: u64);
}

/// Context of a program: its host, the time, and randomness.
#[derive(Debug)]
pub struct Cx<'a> {
    /// Host of the program.
    pub host: &'a mut Host,
    /// The time.
    pub now: Nanos,
    /// The world's randomness.
    pub rng: Keyed,
}

impl Cx<'_> {
    /// Asks for [`App::wake`] with this token.
    pub fn wake_at(&mut self, at: Nanos, token: u64) {
        self.host.out.wakes.push((at.max(self.now), token));
    }

    /// Gives an order to the NAT that this host is the server of. Others' orders have no effect.
    pub fn order(&mut self, order: Order) {
        self.host.out.orders.push(order);
    }
}

/// A host in a world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct HostId(usize);

impl HostId {
    /// Returns the host's name in traces.
    pub fn place(self) -> String {
        format!("host{}", self.0)
    }
}

/// A network in a world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct NetId(usize);

/// A NAT in a world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct NatId(usize);

impl NatId {
    /// Returns the NAT's name in traces.
    pub fn place(self) -> String {
        format!("nat{}", self.0)
    }
}

/// A plug of a device in a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct PlugId(usize);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Device {
    Host(usize),
    Nat(usize, Side),
    /// Nothing any more: the device was pulled out.
    Nothing,
}

impl Device {
    /// Returns its name in traces.
    fn name(self) -> String {
        match self {
            Device::Host(n) => format!("host{n}"),
            Device::Nat(n, _) => format!("nat{n}"),
            Device::Nothing => "nothing".into(),
        }
    }
}

#[derive(Debug)]
struct Plug {
    net: NetId,
    device: Device,
    link: LinkSpec,
    packets: u64,
}

#[derive(Debug, Default)]
struct Net {
    routes: BTreeMap<IpAddr, PlugId>,
    gateway: Option<PlugId>,
    hops: u8,
}

#[derive(Debug)]
enum Event {
    Arrive(PlugId, Box<Packet>),
    Loopback(usize, Box<Packet>),
    Timer(usize, Sock),
    Wake(usize, u64),
    /// A NAT looks again at a packet that nobody asked for.
    Again(usize, Box<Packet>),
}

/// Numbers of packets, by their fate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Handed to a network or to a NAT's answer.
    pub sent: u64,
    /// Packets taken in by a host.
    pub delivered: u64,
    /// Copies that a link made.
    pub copied: u64,
    /// Packets dropped, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Translated, refused or answered by a NAT: one packet in, another out.
    pub forwarded: u64,
    /// Events in all.
    pub events: u64,
}

/// A host, its program, and its plugs by address.
type Standing<A> = (Host, A, Vec<(IpAddr, PlugId)>);

/// A simulated internet with programs of type `A` on its hosts.
#[derive(Debug)]
pub struct World<A> {
    now: Nanos,
    rng: Keyed,
    queue: Queue<Event>,
    hosts: Vec<Standing<A>>,
    nats: Vec<(Nat, [Option<PlugId>; 2])>,
    nets: Vec<Net>,
    plugs: Vec<Plug>,
    /// Hosts that are the servers of NATs.
    routers: BTreeMap<usize, usize>,
    digest: Digest,
    counts: Counts,
    in_flight: u64,
    /// Events since the time last moved.
    still: u32,
    trace: Option<Trace>,
}

impl<A: App> World<A> {
    /// The time.
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// Returns the time of the next event; `None` if nothing is left to happen.
    pub fn next_at(&self) -> Option<Nanos> {
        self.queue.next_at()
    }

    /// Returns the world's randomness.
    pub fn rng(&self) -> Keyed {
        self.rng
    }

    /// The digest of everything that happened so far.
    pub fn digest(&self) -> u64 {
        self.digest.value()
    }

    /// Returns the numbers of packets, by their fate.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Packets on their way.
    pub fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Records packets from now on.
    pub fn record(&mut self) {
        self.trace = Some(Trace::default());
    }

    /// Returns the recorded trace, if there is one.
    pub fn trace(&self) -> Option<&Trace> {
        self.trace.as_ref()
    }

    /// Writes a line into the trace, if there is one.
    pub fn note(&mut self, host: HostId, line: &str) {
        if let Some(trace) = &mut self.trace {
            trace.push(self.now, host.place(), What::Note(line.into()));
        }
    }

    /// Returns the hosts, in the order in which they were added.
    pub fn hosts(&self) -> impl Iterator<Item = HostId> + use<A> {
        (0..self.hosts.len()).map(HostId)
    }

    /// A host.
    pub fn host(&self, id: HostId) -> &Host {
        &self.hosts[id.0].0
    }

    /// Gives a host another operating system, for dials from now on. Default: [`Profile::LINUX`].
    pub fn set_profile(&mut self, id: HostId, profile: Profile) {
        self.hosts[id.0].0.set_profile(profile);
    }

    /// Records the packets that a host sends from now on.
    pub fn watch(&mut self, id: HostId) {
        self.hosts[id.0].0.watch();
    }

    /// The program on a host.
    pub fn app(&self, id: HostId) -> &A {
        &self.hosts[id.0].1
    }

    /// Changes the link between a host and its network.
    pub fn set_link(&mut self, host: HostId, link: LinkSpec) {
        for (_, plug) in &self.hosts[host.0].2 {
            self.plugs[plug.0].link = link;
        }
    }

    /// Ends the faults of every link; each keeps its delay.
    pub fn heal(&mut self) {
        for plug in &mut self.plugs {
            plug.link = LinkSpec::with_delay(plug.link.delay);
        }
    }

    /// Changes the link between a site and the internet: its outermost NAT's, or that of its host with this address.
    pub fn set_uplink(&mut self, site: &Site, host: HostId, ip: IpAddr, link: LinkSpec) {
        let nat = site.nats.last().and_then(|nat| self.nats[nat.0].1[1]);
        let own = || self.hosts[host.0].2.iter().find(|(has, _)| *has == ip).map(|(_, plug)| *plug);
        if let Some(plug) = nat.or_else(own) {
            self.plugs[plug.0].link = link;
        }
    }

    /// Returns the number of packets that a host has sent to its networks and that were sent to it.
    pub fn packets(&self, host: HostId) -> u64 {
        self.hosts[host.0].2.iter().map(|(_, plug)| self.plugs[plug.0].packets).sum()
    }

    /// Changes the lifetimes of the entries of all NATs.
    pub fn set_timers(&mut self, timers: Timers) {
        for (nat, _) in &mut self.nats {
            nat.spec.timers = timers;
        }
    }

    /// A NAT, to read its tables.
    pub fn nat(&self, id: NatId) -> &Nat {
        &self.nats[id.0].0
    }

    /// Makes a NAT forget everything, as a power cut does.
    pub fn reboot_nat(&mut self, nat: NatId) {
        self.nats[nat.0].0.reboot();
    }

    /// Runs `run` on a host with its program, and carries out the actions.
    pub fn with<R>(&mut self, id: HostId, run: impl FnOnce(&mut A, &mut Cx<'_>) -> R) -> R {
        let (host, app, _) = &mut self.hosts[id.0];
        let result = run(app, &mut Cx { host, now: self.now, rng: self.rng });
        self.flush(id.0);
        result
    }

    /// Takes one event. False if there is none before or at `until`; the time is then `until`.
    pub fn step(&mut self, until: Nanos) -> bool {
        if self.queue.next_at().is_none_or(|at| at > until) {
            self.now = self.now.max(until);
            return false;
        }
        let Some((at, event)) = self.queue.take() else { return false };
        self.still = if at == self.now { self.still + 1 } else { 0 };
        if self.still > MOST_AT_ONCE {
            return false;
        }
        self.now = at;
        self.counts.events += 1;
        self.digest.word(at);
        match event {
            Event::Arrive(plug, packet) => {
                self.in_flight -= 1;
                self.digest.word(plug.0 as u64);
                packet.digest(&mut self.digest);
                self.arrive(plug, packet);
            }
            Event::Loopback(host, packet) => {
                self.in_flight -= 1;
                packet.digest(&mut self.digest);
                self.deliver(host, packet);
            }
            Event::Timer(host, sock) => {
                self.digest.word(1 << 40 | (host as u64) << 32 | u64::from(sock.number()));
                self.hosts[host].0.timer(self.now, sock);
                self.flush(host);
            }
            Event::Wake(host, token) => {
                self.digest.word(2 << 60 | (host as u64) << 48 | token);
                let (h, app, _) = &mut self.hosts[host];
                app.wake(&mut Cx { host: h, now: self.now, rng: self.rng }, token);
                self.flush(host);
            }
            Event::Again(nat, packet) => {
                self.in_flight -= 1;
                let verdict = self.nats[nat].0.again(self.now, &packet);
                self.carry_out(nat, verdict);
            }
        }
        true
    }

    /// Runs until `until`.
    pub fn run_until(&mut self, until: Nanos) {
        while self.step(until) {}
    }

    /// Runs until `done`, or until `until`; whether it was done.
    pub fn run_while(&mut self, until: Nanos, mut done: impl FnMut(&World<A>) -> bool) -> bool {
        loop {
            if done(self) {
                return true;
            }
            if !self.step(until) {
                return done(self);
            }
        }
    }

    /// Checks the invariants of every world: no packet is lost without a reason, and every NAT's tables agree.
    ///
    /// # Errors
    ///
    /// Returns the violated invariant, for a person.
    pub fn check(&self) -> Result<(), String> {
        if self.still > MOST_AT_ONCE {
            return Err(format!("livelock at {} ns", self.now));
        }
        let c = &self.counts;
        let dropped: u64 = c.dropped.values().sum();
        if c.sent + c.copied != c.delivered + dropped + c.forwarded + self.in_flight {
            return Err(format!("packets are not conserved: {c:?}, {} in flight", self.in_flight));
        }
        match self.nats.iter().position(|(nat, _)| !nat.consistent()) {
            Some(n) => Err(format!("the tables of NAT {n} disagree")),
            None => Ok(()),
        }
    }

    fn drop(&mut self, at: &str, packet: &Packet, why: &'static str) {
        *self.counts.dropped.entry(why).or_default() += 1;
        if let Some(trace) = &mut self.trace {
            trace.push(self.now, at, What::Drop { packet: packet.clone(), why });
        }
    }

    fn drop_at(&mut self, plug: PlugId, packet: &Packet, why: &'static str) {
        let name = self.plugs[plug.0].device.name();
        self.drop(&name, packet, why);
    }

    fn arrive(&mut self, plug: PlugId, packet: Box<Packet>) {
        match self.plugs[plug.0].device {
            Device::Host(host) => self.deliver(host, packet),
            Device::Nothing => self.drop("net", &packet, "unplugged"),
            Device::Nat(nat, side) => {
                let mut packet = packet;
                if packet.ttl <= 1 {
                    return self.drop(&format!("nat{nat}"), &packet, "ttl");
                }
                packet.ttl -= 1;
                let mut traced = None;
                if let Some(trace) = &mut self.trace {
                    let way = if side == Side::Inside { "in  <" } else { "out <" };
                    trace.seen(self.now, format!("nat{nat}"), way, &packet);
                    traced = Some(packet.clone());
                }
                let verdict = self.nats[nat].0.translate(self.now, side, packet);
                if let (Verdict::Dropped(why), Some(packet)) = (&verdict, traced) {
                    return self.drop(&format!("nat{nat}"), &packet, why.text());
                }
                self.carry_out(nat, verdict);
            }
        }
    }

    fn carry_out(&mut self, nat: usize, verdict: Verdict) {
        match verdict {
            Verdict::Dropped(why) => *self.counts.dropped.entry(why.text()).or_default() += 1,
            Verdict::Later(at, packet) => {
                self.in_flight += 1;
                self.queue.put(at, Event::Again(nat, packet));
            }
            passes => {
                let Some((side, packet)) = passes.out() else { return };
                self.counts.forwarded += 1;
                let place = usize::from(side == Side::Outside);
                match self.nats[nat].1[place] {
                    Some(plug) => self.transmit(plug, packet),
                    None => self.drop(&format!("nat{nat}"), &packet, "unplugged"),
                }
            }
        }
    }

    fn deliver(&mut self, host: usize, packet: Box<Packet>) {
        self.counts.delivered += 1;
        if let Some(trace) = &mut self.trace {
            trace.seen(self.now, format!("host{host}"), "<", &packet);
        }
        self.hosts[host].0.arrive(self.now, &packet);
        self.flush(host);
    }

    fn transmit(&mut self, from: PlugId, mut packet: Box<Packet>) {
        self.counts.sent += 1;
        let net = self.plugs[from.0].net;
        let Net { routes, gateway, hops } = &self.nets[net.0];
        let to = routes.get(&packet.dst.ip()).copied().or(*gateway).filter(|to| *to != from);
        let Some(to) = to else { return self.drop_at(from, &packet, "no route") };
        let hops = *hops;
        if packet.ttl <= hops {
            // Some router on the way says so; where it stands does not matter to the sender.
            let answer = packet.icmp(IcmpKind::TimeExceeded, [192, 0, 2, 1].into());
            self.drop_at(from, &packet, "ttl");
            if let Some(answer) = answer {
                let delay = 2 * self.plugs[from.0].link.delay;
                self.counts.sent += 1;
                self.in_flight += 1;
                self.queue.put(self.now + delay, Event::Arrive(from, answer));
            }
            return;
        }
        packet.ttl -= hops;
        let mut delays = crate::net::Fate::from_slice(&[0]);
        for plug in [from, to] {
            let Plug { link, packets, .. } = &mut self.plugs[plug.0];
            let n = *packets;
            *packets += 1;
            if link.only_delays() {
                delays.iter_mut().for_each(|d| *d += link.delay);
                continue;
            }
            let fate = link.fate(self.now, self.rng, plug.0 as u64, n);
            delays = delays.iter().flat_map(|d| fate.iter().map(move |f| d + f)).collect();
        }
        if let Some(trace) = &mut self.trace {
            let ends = [from, to].map(|plug| self.plugs[plug.0].device.name());
            trace.hop(self.now, ends, &packet, &delays);
        }
        if delays.is_empty() {
            return self.drop(LINK, &packet, "link");
        }
        self.counts.copied += delays.len() as u64 - 1;
        self.in_flight += delays.len() as u64;
        let Some(last) = delays.pop() else { return };
        for delay in delays {
            self.queue.put(self.now + delay, Event::Arrive(to, packet.clone()));
        }
        self.queue.put(self.now + last, Event::Arrive(to, packet));
    }

    /// Carries out a host's actions until there are no more. Its program comes first, so that an immediate answer takes
    /// the acknowledgement of the data read along.
    fn flush(&mut self, n: usize) {
        let (host, app, _) = &mut self.hosts[n];
        while let Some(event) = host.out.events.pop_front() {
            app.event(&mut Cx { host, now: self.now, rng: self.rng }, event);
        }
        for (at, sock) in host.out.timers.drain(..) {
            self.queue.put(at.max(self.now), Event::Timer(n, sock));
        }
        for (at, token) in host.out.wakes.drain(..) {
            self.queue.put(at.max(self.now), Event::Wake(n, token));
        }
        if let Some(nat) = self.routers.get(&n) {
            host.out.orders.drain(..).for_each(|order| self.nats[*nat].0.carry_out(order));
        }
        let mut packets = core::mem::take(&mut host.out.packets);
        if let Some(ledger) = &mut host.ledger {
            packets.iter().for_each(|packet| ledger.note(packet));
        }
        for packet in packets.drain(..) {
            if let Some(trace) = &mut self.trace {
                trace.seen(self.now, format!("host{n}"), ">", &packet);
            }
            let (host, _, plugs) = &self.hosts[n];
            if host.addresses().contains(&packet.dst.ip()) {
                self.counts.sent += 1;
                self.in_flight += 1;
                if let Some(trace) = &mut self.trace {
                    trace.hop(self.now, [(); 2].map(|()| format!("host{n}")), &packet, &[LOOPBACK]);
                }
                self.queue.put(self.now + LOOPBACK, Event::Loopback(n, packet));
            } else {
                match plugs.iter().find(|(ip, _)| *ip == packet.src.ip()).map(|(_, plug)| *plug) {
                    Some(plug) => self.transmit(plug, packet),
                    None => {
                        self.counts.sent += 1;
                        self.drop(&format!("host{n}"), &packet, "no interface");
                    }
                }
            }
        }
        // Kept for its room.
        self.hosts[n].0.out.packets = packets;
    }
}
