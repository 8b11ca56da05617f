//! Driver of a node on a simulated host. It carries out the core's outputs, as drivers on real sockets do, and keeps
//! the records by which a run is judged.

mod pipes;
mod relayed;
mod words;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use p2pd_core::{ClockFix, Event, Input, Instant, IoFailure, Node, Output, PeerAddress, SockId, WallTime};

use crate::domain;
use crate::engine::Nanos;
use crate::host::{Close, HostEvent, Sock};
use crate::world::{App, Cx};

pub use pipes::Pipe;
use pipes::Way;
use words::{close, failure, interfaces, reuse};

/// Events that a node may be given while time stands still.
const MOST_EVENTS_AT_ONCE: u32 = 2_000;
/// The wall clock at the world's beginning: 2026-01-01, in microseconds.
const EPOCH: i64 = 1_767_225_600_000_000;

/// A host's clocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Clocks {
    /// Reading of the monotonic clock at the world's beginning, in nanoseconds.
    pub mono: u64,
    /// Rate by which the two clocks run faster than the world's time, in parts per million.
    pub drift_ppm: i32,
    /// Lead of the wall clock over the true time, in microseconds.
    pub wall_ahead: i64,
}

impl Clocks {
    fn elapsed(&self, now: Nanos) -> i128 {
        i128::from(now) * (1_000_000 + i128::from(self.drift_ppm)) / 1_000_000
    }

    /// The node's time at the world's time `now`.
    pub fn instant(&self, now: Nanos) -> Instant {
        Instant::from_nanos((i128::from(self.mono) + self.elapsed(now)) as i64)
    }

    /// The first of the world's times at which the node's clock shows at least `at`.
    pub fn world(&self, at: Instant) -> Nanos {
        let own = i128::from(at.as_nanos()) - i128::from(self.mono);
        if own <= 0 {
            return 0;
        }
        let rate = 1_000_000 + i128::from(self.drift_ppm);
        ((own * 1_000_000 + rate - 1) / rate) as Nanos
    }

    fn fix(&self, now: Nanos) -> ClockFix {
        let wall = EPOCH + self.wall_ahead + (self.elapsed(now) / 1_000) as i64;
        ClockFix {
            at: self.instant(now),
            wall: WallTime::from_micros(wall),
            error: Duration::from_secs(3_600),
        }
    }
}

#[derive(Debug)]
enum Entry {
    Udp(Sock),
    Listener { sock: Sock, credit: u32, queue: VecDeque<Sock> },
    Dial { sock: Sock, remote: SocketAddr, fired: bool },
    Stream { sock: Sock, credit: usize, eof: bool },
}

impl Entry {
    fn sock(&self) -> Sock {
        match self {
            Entry::Udp(s) => *s,
            Entry::Listener { sock, .. } | Entry::Dial { sock, .. } | Entry::Stream { sock, .. } => *sock,
        }
    }
}

const START: u64 = 0;
const TIMEOUT: u64 = 1 << 32;
const FIRE: u64 = 2 << 32;
const DEADLINE: u64 = 3 << 32;

/// A node and its driver.
#[derive(Debug)]
pub struct NodeProgram {
    /// The node.
    pub node: Node,
    clocks: Clocks,
    /// Names that can be looked up.
    names: BTreeMap<String, Vec<IpAddr>>,
    /// A dial may be late by up to this.
    late: Nanos,
    entries: BTreeMap<SockId, Entry>,
    by_sock: BTreeMap<Sock, SockId>,
    accepted: u64,
    armed: Option<Nanos>,
    /// Events to the user, with their times.
    pub events: Vec<(Nanos, Event)>,
    /// The streams that the user got.
    pub pipes: Vec<Pipe>,
    /// The streams that they were, until they are closed.
    handed_out: Vec<(SockId, Sock)>,
    /// Every address that was dialled.
    pub dialled: BTreeSet<SocketAddr>,
    /// Violations of the driver's contract.
    pub violations: Vec<String>,
    /// Dials in all.
    pub dials: u64,
    /// The most sockets that the node held at a time.
    pub most_held: usize,
    lines: Option<Vec<String>>,
    still: (Nanos, u32),
}

impl NodeProgram {
    /// A node that starts with its host.
    pub fn new(node: Node, clocks: Clocks, late: Nanos) -> NodeProgram {
        NodeProgram {
            node,
            clocks,
            names: BTreeMap::new(),
            late,
            entries: BTreeMap::new(),
            by_sock: BTreeMap::new(),
            accepted: 0,
            armed: None,
            events: Vec::new(),
            pipes: Vec::new(),
            handed_out: Vec::new(),
            dialled: BTreeSet::new(),
            violations: Vec::new(),
            dials: 0,
            most_held: 0,
            lines: None,
            still: (0, 0),
        }
    }

    /// The node alone.
    pub fn into_node(self) -> Node {
        self.node
    }

    /// Makes a name known to this host.
    pub fn add_name(&mut self, name: &str, addresses: &[IpAddr]) {
        self.names.insert(name.into(), addresses.to_vec());
    }

    /// Keeps a line for each output and input from now on.
    pub fn record(&mut self) {
        self.lines = Some(Vec::new());
    }

    /// The lines kept since the last call.
    pub fn take_lines(&mut self) -> Vec<String> {
        self.lines.as_mut().map(core::mem::take).unwrap_or_default()
    }

    /// The newest address that the node told, once it is ready.
    pub fn address(&self) -> Option<&PeerAddress> {
        self.addresses().next_back()
    }

    /// Every address that the node told, the newest last.
    pub fn addresses(&self) -> impl DoubleEndedIterator<Item = &PeerAddress> {
        self.events.iter().filter_map(|(_, n)| match n {
            Event::Ready { address } => Some(&**address),
            _ => None,
        })
    }

    /// Tells the node its host's interfaces, as drivers do when they have changed.
    pub fn network_changed(&mut self, cx: &mut Cx<'_>) {
        let list = interfaces(cx.host);
        self.tell(cx, Input::Interfaces(&list));
        self.drain(cx);
    }

    /// Makes a call of the node, at its time, and carries out what follows.
    pub fn call<R>(&mut self, cx: &mut Cx<'_>, call: impl FnOnce(&mut Node, Instant) -> R) -> R {
        let result = call(&mut self.node, self.clocks.instant(cx.now));
        self.drain(cx);
        result
    }

    /// Returns the reading of the node's wall clock.
    pub fn wall(&self, now: Nanos) -> WallTime {
        self.clocks.fix(now).wall
    }

    fn tell(&mut self, cx: &mut Cx<'_>, input: Input<'_>) {
        if self.still.0 != cx.now {
            self.still = (cx.now, 0);
        }
        self.still.1 += 1;
        if self.still.1 == MOST_EVENTS_AT_ONCE {
            self.violations.push(format!("livelock at {} ns", cx.now));
        }
        if let Some(lines) = &mut self.lines {
            lines.push(format!("input  {input:?}"));
        }
        self.node.handle(self.clocks.instant(cx.now), input);
    }

    /// Carries out the node's outputs until there are no more, and arms the one timer.
    fn drain(&mut self, cx: &mut Cx<'_>) {
        if self.still.0 == cx.now && self.still.1 >= MOST_EVENTS_AT_ONCE {
            return;
        }
        while let Some(output) = self.node.poll_output() {
            if let Some(lines) = &mut self.lines {
                lines.push(format!("output {output:?}"));
            }
            self.act(cx, output);
        }
        if let Some(at) = self.node.poll_timeout() {
            let at = self.clocks.world(at).max(cx.now);
            if self.armed.is_none_or(|armed| armed > at) {
                self.armed = Some(at);
                cx.wake_at(at, TIMEOUT);
            }
        }
    }

    fn add(&mut self, id: SockId, entry: Entry) {
        self.by_sock.insert(entry.sock(), id);
        if self.entries.insert(id, entry).is_some() {
            self.violations.push(format!("the id {id:?} was used twice"));
        }
        self.most_held = self.most_held.max(self.entries.len());
    }

    fn remove(&mut self, id: SockId) -> Option<Sock> {
        let sock = self.entries.remove(&id)?.sock();
        self.by_sock.remove(&sock);
        Some(sock)
    }

    fn act(&mut self, cx: &mut Cx<'_>, output: Output) {
        match output {
            Output::BindUdp { sock, local, opts, .. } => match cx.host.bind_udp(local, reuse(opts)) {
                Ok(s) => {
                    self.add(sock, Entry::Udp(s));
                    self.bound(cx, sock, s);
                }
                Err(why) => self.tell(cx, Input::Failed { sock, cause: failure(why) }),
            },
            Output::Listen { sock, local, backlog, opts } => {
                match cx.host.listen(local, backlog, reuse(opts)) {
                    Ok(s) => {
                        self.add(sock, Entry::Listener { sock: s, credit: 0, queue: VecDeque::new() });
                        self.bound(cx, sock, s);
                    }
                    Err(why) => self.tell(cx, Input::Failed { sock, cause: failure(why) }),
                }
            }
            Output::Accept { sock, credit } => {
                if let Some(Entry::Listener { credit: left, .. }) = self.entries.get_mut(&sock) {
                    *left += credit;
                    self.accept(cx, sock);
                }
            }
            Output::Connect { sock, local, remote, opts, at, deadline, .. } => {
                self.dialled.insert(remote);
                self.dials += 1;
                match cx.host.bind_tcp(local, remote, reuse(opts)) {
                    Ok(s) => {
                        let at = self.clocks.world(at).max(cx.now);
                        let deadline = self.clocks.world(deadline).max(cx.now);
                        let late = match self.late {
                            0 => 0,
                            most => cx.rng.below(domain::CLOCK, cx.host.id(), self.dials, most + 1),
                        };
                        self.add(sock, Entry::Dial { sock: s, remote, fired: false });
                        cx.wake_at(deadline, DEADLINE | sock.number());
                        if at + late <= cx.now {
                            self.fire(cx, sock);
                        } else {
                            cx.wake_at(at + late, FIRE | sock.number());
                        }
                    }
                    Err(why) => self.tell(cx, Input::Failed { sock, cause: failure(why) }),
                }
            }
            Output::SendDatagram { sock, to, data } => {
                if let Some(Entry::Udp(s)) = self.entries.get(&sock) {
                    cx.host.send_to(*s, None, to, data);
                }
            }
            Output::SendStream { sock, data } => {
                if let Some(Entry::Stream { sock: s, .. }) = self.entries.get(&sock) {
                    cx.host.send(cx.now, *s, &data);
                }
            }
            Output::Read { sock, credit } => {
                if let Some(Entry::Stream { credit: left, .. }) = self.entries.get_mut(&sock) {
                    *left += credit as usize;
                    self.feed(cx, sock);
                }
            }
            Output::Close { sock, how } => {
                if let Some(Entry::Listener { queue, .. }) = self.entries.get_mut(&sock) {
                    core::mem::take(queue).into_iter().for_each(|s| cx.host.close(cx.now, s, Close::Reset));
                }
                if let Some(s) = self.remove(sock) {
                    cx.host.close(cx.now, s, close(how));
                }
            }
            Output::Detach { sock, pipe } => {
                if let Some(s) = self.remove(sock) {
                    self.pipes.push(Pipe::new(pipe, cx.now, Way::Socket(s)));
                    self.handed_out.push((sock, s));
                    self.read_pipe(cx, s);
                }
            }
            Output::EndPipe { sock, why } => {
                let of = self.handed_out.iter().find(|(detached, _)| *detached == sock).map(|(_, s)| *s);
                let pipe = of.and_then(|s| self.pipes.iter_mut().find(|p| p.is_on(s)));
                if let Some(pipe) = pipe.filter(|p| !p.closed) {
                    pipe.broken.get_or_insert_with(|| why.to_string());
                }
            }
            Output::Resolve { query, host, .. } => {
                let found = match host.parse::<IpAddr>() {
                    Ok(ip) => Ok([ip].into_iter().collect()),
                    Err(_) => match self.names.get(&*host) {
                        Some(list) => Ok(list.iter().copied().collect()),
                        None => Err(IoFailure::NoSuchName),
                    },
                };
                self.tell(cx, Input::Resolved { query, result: found });
            }
            Output::Event(event) => self.events.push((cx.now, event)),
            Output::OpenRelayed { pipe, start } => self.open_relayed(cx, pipe, start),
            Output::Pipe { pipe, news } => self.pipe_news(cx, pipe, news),
            // Look-ups are answered at once here, so that there is none to cancel.
            Output::Cancel { .. } => {}
            other => self.violations.push(format!("an output this driver does not know: {other:?}")),
        }
    }

    fn bound(&mut self, cx: &mut Cx<'_>, sock: SockId, s: Sock) {
        if let Some(local) = cx.host.local(s) {
            self.tell(cx, Input::Bound { sock, local });
        }
    }

    fn fire(&mut self, cx: &mut Cx<'_>, sock: SockId) {
        let Some(Entry::Dial { sock: s, remote, fired }) = self.entries.get_mut(&sock) else { return };
        if core::mem::replace(fired, true) {
            return;
        }
        let (s, remote) = (*s, *remote);
        if let Err(why) = cx.host.connect(cx.now, s, remote) {
            self.remove(sock);
            self.tell(cx, Input::Failed { sock, cause: failure(why) });
        }
    }

    /// Takes streams out of a listener's queue, as far as its credit goes.
    fn accept(&mut self, cx: &mut Cx<'_>, listener: SockId) {
        while let Some(Entry::Listener { sock: queued_at, credit, queue }) = self.entries.get_mut(&listener) {
            let Some(left) = credit.checked_sub(1) else { return };
            let Some(s) = queue.pop_front() else { return };
            cx.host.leave_queue(*queued_at);
            // One that broke meanwhile is gone.
            let (Some(local), Some(remote)) = (cx.host.local(s), cx.host.remote(s)) else { continue };
            *credit = left;
            let sock = SockId::accepted(self.accepted);
            self.accepted += 1;
            self.add(sock, Entry::Stream { sock: s, credit: 0, eof: false });
            self.tell(cx, Input::Accepted { listener, sock, local, remote });
        }
    }

    /// Gives the node the bytes that a stream holds, as far as its credit goes.
    fn feed(&mut self, cx: &mut Cx<'_>, sock: SockId) {
        while let Some(Entry::Stream { sock: s, credit, eof }) = self.entries.get_mut(&sock) {
            if *credit == 0 {
                return;
            }
            let data = cx.host.read(*s, *credit);
            if data.is_empty() {
                // A read call returns nothing at the end, and an end can only be read with credit.
                if !*eof && cx.host.at_end(*s) {
                    *eof = true;
                    self.tell(cx, Input::Eof { sock });
                }
                return;
            }
            *credit -= data.len();
            self.tell(cx, Input::Stream { sock, data: &data });
        }
    }
}

impl App for NodeProgram {
    fn event(&mut self, cx: &mut Cx<'_>, event: HostEvent) {
        match event {
            HostEvent::Connected(s) => {
                if let (Some(&sock), Some(local), Some(remote)) =
                    (self.by_sock.get(&s), cx.host.local(s), cx.host.remote(s))
                {
                    self.entries.insert(sock, Entry::Stream { sock: s, credit: 0, eof: false });
                    self.tell(cx, Input::Connected { sock, local, remote });
                }
            }
            HostEvent::Failed(s, why) | HostEvent::Broken(s, why) => {
                // Of a broken stream nothing more is read.
                cx.host.close(cx.now, s, Close::Drop);
                if let Some(pipe) = self.pipes.iter_mut().find(|p| p.is_on(s)) {
                    pipe.broken = Some(failure(why).to_string());
                }
                if let Some(&sock) = self.by_sock.get(&s) {
                    self.remove(sock);
                    self.tell(cx, Input::Failed { sock, cause: failure(why) });
                }
            }
            HostEvent::Accepted { listener, sock: s } => {
                if let Some(&id) = self.by_sock.get(&listener)
                    && let Some(Entry::Listener { queue, .. }) = self.entries.get_mut(&id)
                {
                    queue.push_back(s);
                    cx.host.queued(listener);
                    self.accept(cx, id);
                }
            }
            HostEvent::Readable(s) => match self.by_sock.get(&s) {
                Some(&sock) => self.feed(cx, sock),
                None => self.read_pipe(cx, s),
            },
            HostEvent::Datagram { sock: s, from, data, .. } => {
                if let Some(&sock) = self.by_sock.get(&s) {
                    self.tell(cx, Input::Datagram { sock, from, data: &data });
                }
            }
            // Its send buffers have no limit, and its UDP sockets are not connected.
            HostEvent::Writable(_) | HostEvent::Bounced { .. } => {}
        }
        self.drain(cx);
    }

    fn wake(&mut self, cx: &mut Cx<'_>, token: u64) {
        let sock = SockId::from_number(token & 0xffff_ffff);
        match token & !0xffff_ffff {
            START => {
                let list = interfaces(cx.host);
                self.tell(cx, Input::Clock(self.clocks.fix(cx.now)));
                self.tell(cx, Input::Interfaces(&list));
            }
            TIMEOUT => {
                if self.armed.is_some_and(|at| at <= cx.now) {
                    self.armed = None;
                }
                let now = self.clocks.instant(cx.now);
                if self.node.poll_timeout().is_some_and(|at| at <= now) {
                    self.tell(cx, Input::Timeout);
                }
            }
            FIRE => self.fire(cx, sock),
            DEADLINE => {
                if matches!(self.entries.get(&sock), Some(Entry::Dial { .. }))
                    && let Some(s) = self.remove(sock)
                {
                    cx.host.close(cx.now, s, Close::Drop);
                    self.tell(cx, Input::Failed { sock, cause: IoFailure::TimedOut });
                }
            }
            _ => {}
        }
        self.drain(cx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drifting_clock_is_read_back() {
        for drift_ppm in [-500, 0, 37, 500] {
            let clocks = Clocks { mono: 123_456_789, drift_ppm, wall_ahead: 0 };
            for now in [0, 1, 999_999_999, 86_400_000_000_123] {
                let at = clocks.instant(now);
                let back = clocks.world(at);
                assert!(clocks.instant(back) >= at && back <= now, "{drift_ppm} {now} {back}");
                assert!(back == 0 || clocks.instant(back - 1) < at);
            }
        }
        assert_eq!(Clocks { mono: 5, ..Clocks::default() }.world(Instant::ZERO), 0);
    }
}
