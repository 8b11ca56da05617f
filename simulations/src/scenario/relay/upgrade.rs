//! A session that begins on a relay stream, moves to direct paths and back. Its bytes must be exact for a cut at any byte.

use std::collections::BTreeMap;

use bytes::Bytes;
use p2pd_core::pipe::session::{
    CarrierId, CarrierKind, Direction, ReadResult, Session, SessionConfig, SessionEvent, Side, StreamId,
};
use p2pd_core::relay::{ReadOutcome, RelayConfig, RelayStream, StreamEvent};
use p2pd_core::{Instant, SecretKey};

use super::seeds::{content, draw as exchange};
use super::{Way, Wire};
use crate::domain;
use crate::engine::{Keyed, MILLI, Nanos, Queue, SECOND};

/// Longer than anything takes.
const LIMIT: Nanos = 1_800 * SECOND;
const RELAY: CarrierId = CarrierId(0);

/// End of a direct path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Death {
    /// The path lives at least as long as the session.
    None,
    /// The two ends are told, each so long after.
    Told([Nanos; 2]),
    /// The ends are not told: bytes go in and none come out.
    Silent,
}

/// A direct path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Direct {
    /// Time at which each end has the path.
    pub attached: [Nanos; 2],
    /// Time from one end to the other.
    pub delay: Nanos,
    /// Bytes that it holds in one direction.
    pub holds: usize,
    /// Time of the path's end.
    pub dies: Nanos,
    /// Kind of that end.
    pub death: Death,
}

/// A drawn session with one stream.
#[derive(Clone, Debug)]
pub struct Upgrade {
    /// Seed of the session.
    pub seed: u64,
    /// The way through the relay.
    pub way: Way,
    /// Bytes from each end.
    pub bytes: [usize; 2],
    /// The direct paths, one after the other.
    pub directs: Vec<Direct>,
    /// Time at which the relay dies, if it does: only while the last direct path lives on.
    pub relay_dies: Option<Nanos>,
    /// Bytes that a stream may have waiting at either end.
    pub buffer: usize,
}

/// Outcome of a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Moved {
    /// Time at which all was read and acknowledged on each side.
    pub took: Nanos,
    /// Digest of everything that was sent.
    pub digest: u64,
    /// Moves to a direct path, by both ends, with something left to do.
    pub up: u32,
    /// Moves back to the relay, likewise.
    pub back: u32,
    /// Error, if there was one.
    pub wrong: Option<String>,
}

/// The session of this seed.
pub fn draw(seed: u64) -> Upgrade {
    let rng = Keyed::new(seed);
    let mut n = 0;
    let mut below = |bound: u64| {
        n += 1;
        rng.below(domain::SCENARIO, 50, n, bound)
    };
    let mut directs: Vec<Direct> = Vec::new();
    // From a millisecond to half a minute, all magnitudes alike.
    let mut from = MILLI << below(15);
    for _ in 0..1 + below(3) {
        let skew = [below(100 * MILLI), 0];
        let attached = [from + skew[below(2) as usize], from + skew[below(2) as usize]];
        let dies = from + (MILLI << below(13));
        let death = match below(4) {
            0 => Death::None,
            1 => Death::Silent,
            _ => Death::Told([below(300 * MILLI), below(300 * MILLI)]),
        };
        let holds = [4_000, 64_000, 400_000][below(3) as usize];
        directs.push(Direct { attached, delay: MILLI + below(60 * MILLI), holds, dies, death });
        from = dies + (MILLI << below(13));
        if death == Death::None {
            break;
        }
    }
    let lives = directs.last().filter(|d| d.death == Death::None);
    let relay_dies =
        lives.filter(|_| below(2) == 0).map(|d| d.attached[0].max(d.attached[1]) + (MILLI << below(13)));
    let mut size = || match below(4) {
        0 => below(3) as usize,
        1 => 65_536,
        _ => below(300_000) as usize,
    };
    let bytes = [size(), size()];
    let buffer = [20_000, 100_000, 4 << 20][below(3) as usize];
    Upgrade { seed, way: exchange(seed).way, bytes, directs, relay_dies, buffer }
}

/// Runs it.
pub fn run(of: &Upgrade) -> Moved {
    let mut running = Running::new(of);
    let wrong = running.complete().err();
    let mut digest = running.wire.digest;
    digest.word(running.wire.now);
    Moved { took: running.wire.now, digest: digest.value(), up: running.up, back: running.back, wrong }
}

enum Happening {
    Attach { path: usize, end: usize },
    Arrive { path: usize, end: usize, bytes: Bytes },
    Die { path: usize },
    Told { path: usize, end: usize },
    RelayDies,
}

/// A direct path as it is now.
#[derive(Default)]
struct Lane {
    open: [bool; 2],
    dead: bool,
    /// Bytes under way to each end, and those that wait for it to have the path.
    held: [usize; 2],
    early: [Vec<Bytes>; 2],
}

struct Running<'a> {
    of: &'a Upgrade,
    rng: Keyed,
    drawn: u64,
    wire: Wire<RelayStream>,
    relay_alive: bool,
    ends: [User; 2],
    lanes: Vec<Lane>,
    queue: Queue<Happening>,
    up: u32,
    back: u32,
}

struct User {
    session: Session,
    /// The one stream, once this end has it.
    stream: Option<StreamId>,
    bytes: Vec<u8>,
    written: usize,
    read: usize,
    ended: bool,
    delivered: bool,
    /// Frames that a carrier has taken in part.
    pending: BTreeMap<CarrierId, Bytes>,
}

impl<'a> Running<'a> {
    fn new(of: &'a Upgrade) -> Self {
        let rng = Keyed::new(of.seed);
        let keys = [1, 2].map(|n| SecretKey::from_bytes([n; 32]));
        let ids = [keys[0].node_id(), keys[1].node_id()];
        let config =
            RelayConfig { idle_timeout: core::time::Duration::from_secs(300), ..RelayConfig::default() };
        let seeds = [rng.bytes(domain::NODE, 0), rng.bytes(domain::NODE, 1)];
        let streams = [
            RelayStream::connect(&keys[0], &ids[1], &[3; 16], seeds[0], &config, Instant::ZERO),
            RelayStream::accept(&keys[1], &ids[0], &[3; 16], seeds[1], &config, Instant::ZERO),
        ];
        let config = SessionConfig {
            stream_window: of.buffer as u64,
            queue: of.buffer,
            // The relay may need minutes for its handshake when it loses a third of everything, and be silent for long. Nobody
            // calls for another one here.
            patience: core::time::Duration::from_secs(300),
            linger: core::time::Duration::from_secs(600),
            ..SessionConfig::default()
        };
        let mut queue = Queue::default();
        for (path, direct) in of.directs.iter().enumerate() {
            for end in 0..2 {
                queue.put(direct.attached[end], Happening::Attach { path, end });
                if let Death::Told(later) = direct.death {
                    queue.put(direct.dies + later[end], Happening::Told { path, end });
                }
            }
            if direct.death != Death::None {
                queue.put(direct.dies, Happening::Die { path });
            }
        }
        if let Some(at) = of.relay_dies {
            queue.put(at, Happening::RelayDies);
        }
        let user = |end: usize, side| User {
            session: Session::new(side, config, Instant::ZERO),
            stream: None,
            bytes: content(rng, end as u64, of.bytes[end]),
            written: 0,
            read: 0,
            ended: false,
            delivered: false,
            pending: BTreeMap::new(),
        };
        Running {
            of,
            rng,
            drawn: 0,
            wire: Wire::new(of.seed, of.way, streams),
            relay_alive: true,
            ends: [user(0, Side::Caller), user(1, Side::Listener)],
            lanes: of.directs.iter().map(|_| Lane::default()).collect(),
            queue,
            up: 0,
            back: 0,
        }
    }

    fn complete(&mut self) -> Result<(), String> {
        loop {
            for end in 0..2 {
                self.act(end)?;
            }
            if self.ends.iter().all(|e| e.ended && e.delivered) {
                return Ok(());
            }
            let timeouts =
                [0, 1].map(|e| self.ends[e].session.poll_timeout().map(|at| at.as_nanos().max(0) as u64));
            let next = timeouts.into_iter().chain([self.queue.next_at()]).flatten().min().unwrap_or(LIMIT);
            if self.relay_alive && self.wire.step(next.min(LIMIT)) {
                continue;
            }
            if next >= LIMIT {
                let of =
                    |end: &User| (end.written, end.read, end.ended, end.delivered, end.session.carrier());
                return Err(format!("stuck: {:?} {:?}", of(&self.ends[0]), of(&self.ends[1])));
            }
            self.wire.now = self.wire.now.max(next);
            if self.queue.next_at() == Some(next)
                && let Some((_, happening)) = self.queue.take()
            {
                self.happen(happening)?;
            } else {
                let end = usize::from(timeouts[0] != Some(next));
                let session = &mut self.ends[end].session;
                session.handle_timeout(self.wire.at());
                if session.poll_timeout().is_some_and(|at| at.as_nanos() as u64 == next) {
                    return Err(format!("end {end}: the deadline stands still"));
                }
            }
        }
    }

    fn happen(&mut self, happening: Happening) -> Result<(), String> {
        let now = self.wire.at();
        let wrong = |why| format!("a violation: {why}");
        match happening {
            Happening::Attach { path, end } => {
                let lane = &mut self.lanes[path];
                if lane.dead {
                    return Ok(());
                }
                lane.open[end] = true;
                let session = &mut self.ends[end].session;
                if !session.attach(now, id(path), CarrierKind::Direct) {
                    return Err("no room for a carrier".into());
                }
                for bytes in core::mem::take(&mut lane.early[end]) {
                    lane.held[end] -= bytes.len();
                    session.handle_bytes(now, id(path), bytes).map_err(wrong)?;
                }
            }
            Happening::Arrive { path, end, bytes } => {
                let lane = &mut self.lanes[path];
                if lane.dead {
                } else if lane.open[end] {
                    lane.held[end] -= bytes.len();
                    self.ends[end].session.handle_bytes(now, id(path), bytes).map_err(wrong)?;
                } else {
                    lane.early[end].push(bytes);
                }
            }
            Happening::Die { path } => self.lanes[path].dead = true,
            Happening::Told { path, end } => self.broken(end, id(path)),
            Happening::RelayDies => {
                self.relay_alive = false;
                self.broken(0, RELAY);
                self.broken(1, RELAY);
            }
        }
        Ok(())
    }

    fn broken(&mut self, end: usize, carrier: CarrierId) {
        let now = self.wire.at();
        self.ends[end].pending.remove(&carrier);
        self.ends[end].session.handle_broken(now, carrier);
    }

    /// Acts for one end's user and for its carriers.
    fn act(&mut self, end: usize) -> Result<(), String> {
        let now = self.wire.at();
        if self.relay_alive {
            self.listen(end)?;
        }
        let unfinished = !self.ends.iter().all(|e| e.ended && e.delivered);
        let (here, there) = match &mut self.ends {
            [a, b] if end == 0 => (a, b),
            [a, b] => (b, a),
        };
        if here.stream.is_none() {
            here.stream = match end {
                0 => here.session.open(now, Direction::Both, b"").ok(),
                _ => here.session.accept(Direction::Both).map(|(stream, _)| stream),
            };
        }
        if let Some(stream) = here.stream {
            here.written += here.session.write(now, stream, &here.bytes[here.written..]).unwrap_or(0);
            if here.written == here.bytes.len() {
                here.session.finish(now, stream);
                here.delivered |= here.session.is_delivered();
            }
            let mut buffer = [0; 3_000];
            loop {
                match here.session.read(now, stream, &mut buffer) {
                    ReadResult::Read(n) => {
                        if there.bytes.get(here.read..here.read + n) != Some(&buffer[..n]) {
                            return Err(format!("end {end} read wrong bytes at {}", here.read));
                        }
                        here.read += n;
                    }
                    ReadResult::Empty => break,
                    // A stream that is over in both directions is gone.
                    ReadResult::End | ReadResult::Gone if here.read == there.bytes.len() => {
                        here.ended = true;
                        break;
                    }
                    ended => return Err(format!("end {end}: {ended:?} at {}", here.read)),
                }
            }
        }
        while let Some(event) = here.session.poll_event() {
            match event {
                SessionEvent::Moved(RELAY) => self.back += u32::from(unfinished),
                SessionEvent::Moved(_) => self.up += u32::from(unfinished),
                SessionEvent::Silent(carrier) => drop(here.pending.remove(&carrier)),
                SessionEvent::Ended(why) => return Err(format!("end {end}: {why}")),
                _ => {}
            }
        }
        self.speak(end);
        Ok(())
    }

    /// Takes the events of the relay stream.
    fn listen(&mut self, end: usize) -> Result<(), String> {
        let now = self.wire.at();
        let (stream, session) = (&mut self.wire.ends[end], &mut self.ends[end].session);
        while let Some(event) = stream.poll_event() {
            match event {
                StreamEvent::Connected if !session.attach(now, RELAY, CarrierKind::Relayed) => {
                    return Err("no room for the relay".into());
                }
                StreamEvent::Ended(why) => return Err(format!("the relay stream ended: {why}")),
                _ => {}
            }
        }
        let mut buffer = [0; 5_000];
        while let ReadOutcome::Read(n) = stream.read(now, &mut buffer) {
            let bytes = Bytes::copy_from_slice(&buffer[..n]);
            session.handle_bytes(now, RELAY, bytes).map_err(|why| format!("a violation: {why}"))?;
        }
        Ok(())
    }

    /// Gives each carrier as many bytes as it takes.
    fn speak(&mut self, end: usize) {
        let now = self.wire.at();
        let user = &mut self.ends[end];
        while self.relay_alive {
            let Some(mut frames) =
                user.pending.remove(&RELAY).or_else(|| user.session.poll_output(now, RELAY))
            else {
                break;
            };
            let taken = self.wire.ends[end].write(now, &frames);
            drop(frames.split_to(taken));
            if !frames.is_empty() {
                user.pending.insert(RELAY, frames);
                break;
            }
        }
        for (path, lane) in self.lanes.iter_mut().enumerate().filter(|(_, lane)| lane.open[end]) {
            let direct = &self.of.directs[path];
            while let room @ 1.. = direct.holds - lane.held[1 - end] {
                let frames = user.pending.remove(&id(path));
                let Some(mut frames) = frames.or_else(|| user.session.poll_output(now, id(path))) else {
                    break;
                };
                self.drawn += 1;
                let most = 1 + self.rng.below(domain::SCENARIO, 51, self.drawn, 1_448) as usize;
                let some = frames.split_to(most.min(room).min(frames.len()));
                if !frames.is_empty() {
                    user.pending.insert(id(path), frames);
                }
                self.wire.digest.bytes(&some);
                lane.held[1 - end] += some.len();
                let arrive = Happening::Arrive { path, end: 1 - end, bytes: some };
                self.queue.put(self.wire.now + direct.delay, arrive);
            }
        }
    }
}

fn id(path: usize) -> CarrierId {
    CarrierId(1 + path as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_moves_are_exact_and_repeat() {
        let (mut up, mut back) = (0, 0);
        for seed in 0..100 {
            let of = draw(seed);
            let moved = run(&of);
            assert_eq!(moved.wrong, None, "seed {seed}: {of:?}");
            (up, back) = (up + moved.up, back + moved.back);
            if seed % 10 == 0 {
                assert_eq!(run(&of), moved, "seed {seed}");
            }
        }
        assert!(up > 60 && back > 100, "{up} {back}");
    }
}
