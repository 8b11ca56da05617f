//! Relay streams over drawn ways: the bytes are the same, however the relay treats datagrams.

use bytes::Bytes;
use p2pd_core::relay::{EndCause, MAX_MESSAGE, ReadOutcome, RelayConfig, RelayStream, StreamEvent};
use p2pd_core::{Instant, SecretKey};

use super::{Way, Wire};
use crate::domain;
use crate::engine::{Keyed, MILLI, Nanos, SECOND};
use crate::net::{Bottleneck, LinkSpec};

/// Longer than anything takes.
const LIMIT: Nanos = 1_800 * SECOND;
/// The idle timeout: so long that no drawn run of losses outlasts it.
const IDLE: u64 = 300;

/// A drawn exchange.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Seed of the exchange.
    pub seed: u64,
    /// Way between the ends.
    pub way: Way,
    /// Bytes of the pipe from each end.
    pub bytes: [usize; 2],
    /// Messages from each end.
    pub messages: [usize; 2],
    /// Most bytes that are written or read at once.
    pub portion: [usize; 2],
    /// Windows of both ends.
    pub window: u32,
}

/// Outcome of an exchange.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// Time at which all was read on each side.
    pub took: Nanos,
    /// Digest of all datagrams.
    pub digest: u64,
    /// Datagrams sent.
    pub datagrams: u64,
    /// Error, if there was one.
    pub wrong: Option<String>,
}

/// The exchange of this seed: loss, duplication and reordering up to 30 % each.
pub fn draw(seed: u64) -> Exchange {
    let rng = Keyed::new(seed);
    let mut n = 0;
    let mut below = |bound: u64| {
        n += 1;
        rng.below(domain::SCENARIO, 0, n, bound)
    };
    // One in eight has the worst of everything; of the others each fault is missing in every third.
    let worst = below(8) == 0;
    let mut faulty = || match (worst, below(3), below(300_001)) {
        (true, ..) => 300_000,
        (_, 0, _) => 0,
        (_, _, ppm) => ppm as u32,
    };
    let (loss_ppm, duplicate_ppm, reorder_ppm) = (faulty(), faulty(), faulty());
    let delay = MILLI + below(120 * MILLI);
    let jitter = below(2) * below(20 * MILLI);
    let hold = MILLI + below(3 * delay);
    let link = LinkSpec { delay, jitter, loss_ppm, reorder_ppm, hold, duplicate_ppm, ..LinkSpec::default() };
    let narrow = match below(4) {
        0 => None,
        1 => Some(Bottleneck::new(1_000_000, (50 + below(500)) * MILLI)),
        2 => Some(Bottleneck::new(10_000_000, (10 + below(200)) * MILLI)),
        _ => Some(Bottleneck::new(100_000_000, (10 + below(100)) * MILLI)),
    };
    let mut size = || match below(6) {
        0 => below(2) as usize,
        1 => 65_536,
        2 => below(200_000) as usize,
        _ => below(20_000) as usize,
    };
    let bytes = [size(), size()];
    let messages = [below(12) as usize * below(2) as usize, below(12) as usize];
    let portion = [1 + below(10_000) as usize, 1 + below(10_000) as usize];
    let window = [16_384, 65_536, 4 << 20][below(3) as usize];
    Exchange { seed, way: Way { link, narrow }, bytes, messages, portion, window }
}

/// Runs it: both ends write, finish, exchange messages and read to the end; then the first one closes.
pub fn run(of: &Exchange) -> Ended {
    let mut running = Running::new(of);
    let outcome = running.exchange().and_then(|took| running.close().map(|()| took));
    Ended {
        took: *outcome.as_ref().unwrap_or(&running.wire.now),
        digest: running.wire.digest.value(),
        datagrams: running.wire.sent.iter().sum(),
        wrong: outcome.err(),
    }
}

struct Running<'a> {
    of: &'a Exchange,
    wire: Wire<RelayStream>,
    sides: [Side; 2],
}

/// Bytes that one end has to send and has received.
struct Side {
    bytes: Vec<u8>,
    written: usize,
    read: usize,
    ended: bool,
    delivered: bool,
    messages: Vec<Bytes>,
    sent: usize,
    got: Vec<Bytes>,
    over: Option<EndCause>,
}

pub(super) fn content(rng: Keyed, entity: u64, length: usize) -> Vec<u8> {
    (0..length.div_ceil(8) as u64)
        .flat_map(|n| rng.draw(domain::SERVICE, entity, n).to_le_bytes())
        .take(length)
        .collect()
}

impl<'a> Running<'a> {
    fn new(of: &'a Exchange) -> Self {
        let rng = Keyed::new(of.seed);
        let keys = [1, 2].map(|n| SecretKey::from_bytes([n; 32]));
        let ids = [keys[0].node_id(), keys[1].node_id()];
        let mut session = [0; 16];
        session.copy_from_slice(&rng.bytes(domain::SCENARIO, 9)[..16]);
        let config = RelayConfig {
            idle_timeout: core::time::Duration::from_secs(IDLE),
            receive_window: of.window,
            send_window: of.window,
            ..RelayConfig::default()
        };
        let seeds = [rng.bytes(domain::NODE, 0), rng.bytes(domain::NODE, 1)];
        let ends = [
            RelayStream::connect(&keys[0], &ids[1], &session, seeds[0], &config, Instant::ZERO),
            RelayStream::accept(&keys[1], &ids[0], &session, seeds[1], &config, Instant::ZERO),
        ];
        let sides = [0, 1].map(|end| Side {
            bytes: content(rng, end, of.bytes[end as usize]),
            written: 0,
            read: 0,
            ended: false,
            delivered: false,
            messages: (0..of.messages[end as usize] as u64)
                .map(|n| {
                    let most = if n % 4 == 0 { MAX_MESSAGE as u64 + 1 } else { 300 };
                    let length = rng.below(domain::SCENARIO, 10 + end, n, most) as usize;
                    Bytes::from(content(rng, 100 + 2 * n + end, length))
                })
                .collect(),
            sent: 0,
            got: Vec::new(),
            over: None,
        });
        Running { of, wire: Wire::new(of.seed, of.way, ends), sides }
    }

    /// Runs until both have everything, and returns the time that took.
    fn exchange(&mut self) -> Result<Nanos, String> {
        let mut took = None;
        loop {
            for end in 0..2 {
                self.act(end)?;
            }
            if let [Some(why), _] | [_, Some(why)] = [self.sides[0].over, self.sides[1].over] {
                return Err(format!("ended at {} ns: {why}", self.wire.now));
            }
            let all = |end: usize| self.sides[end].got.len() >= self.sides[1 - end].messages.len();
            if self.sides.iter().all(|s| s.ended) && all(0) && all(1) {
                took.get_or_insert(self.wire.now);
                if self.sides.iter().all(|s| s.delivered) {
                    break;
                }
            }
            if !self.wire.step(LIMIT) {
                return Err(format!("stuck at {} ns: {:?}", self.wire.now, self.wire.ends));
            }
        }
        for end in 0..2 {
            self.sides[end].got.sort();
            let mut sent = self.sides[1 - end].messages.clone();
            sent.sort();
            if self.sides[end].got != sent {
                return Err("messages differ".into());
            }
        }
        Ok(took.unwrap_or(self.wire.now))
    }

    /// Acts for one end's user: takes events, writes a portion and reads everything in portions.
    fn act(&mut self, end: usize) -> Result<(), String> {
        let (now, portion) = (self.wire.at(), self.of.portion[end]);
        let (here, there) = match &mut self.sides {
            [a, b] if end == 0 => (a, b),
            [a, b] => (b, a),
        };
        let stream = &mut self.wire.ends[end];
        while let Some(event) = stream.poll_event() {
            match event {
                StreamEvent::Ended(why) => here.over = Some(why),
                StreamEvent::Delivered if here.delivered => return Err("delivered twice".into()),
                StreamEvent::Delivered => here.delivered = true,
                _ => {}
            }
        }
        loop {
            let rest = &here.bytes[here.written..];
            let some = &rest[..rest.len().min(portion)];
            let taken = stream.write(now, some);
            here.written += taken;
            if taken < some.len() || some.is_empty() {
                break;
            }
        }
        if here.written == here.bytes.len() {
            stream.finish(now);
        }
        while let Some(message) = here.messages.get(here.sent)
            && stream.send_message(now, message.clone()).is_ok()
        {
            here.sent += 1;
        }
        while let Some(message) = stream.read_message(now) {
            here.got.push(message);
        }
        let mut buffer = [0; 10_000];
        loop {
            match stream.read(now, &mut buffer[..portion]) {
                ReadOutcome::Read(n) => {
                    let expected = there.bytes.get(here.read..here.read + n);
                    if expected != Some(&buffer[..n]) {
                        return Err(format!("end {end} read wrong bytes at {}", here.read));
                    }
                    here.read += n;
                }
                ReadOutcome::Empty => break,
                ReadOutcome::End if here.read == there.bytes.len() => {
                    here.ended = true;
                    break;
                }
                ReadOutcome::End => return Err(format!("end {end}: cut off at {}", here.read)),
            }
        }
        Ok(())
    }

    /// The first end closes, and nothing is left of either.
    fn close(&mut self) -> Result<(), String> {
        let now = self.wire.at();
        self.wire.ends[0].close(now);
        let until = self.wire.now + (IDLE + 60) * SECOND;
        while self.wire.step(until) {}
        let told = core::iter::from_fn(|| self.wire.ends[1].poll_event()).last();
        match told {
            // The close can be lost as often as it is sent.
            Some(StreamEvent::Ended(EndCause::ClosedByPeer | EndCause::TimedOut)) => {}
            other => return Err(format!("after a close the other end was told {other:?}")),
        }
        if self.wire.ends[0].poll_event().is_some() {
            return Err("an event after close".into());
        }
        if self.wire.ends.iter().all(RelayStream::is_over) {
            Ok(())
        } else {
            Err(format!("not over: {:?}", self.wire.ends))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_exchanges_are_exact_and_repeat() {
        for seed in 0..60 {
            let of = draw(seed);
            let ended = run(&of);
            assert_eq!(ended.wrong, None, "seed {seed}: {of:?}");
            if seed % 10 == 0 {
                assert_eq!(run(&of), ended, "seed {seed}");
            }
        }
    }
}
