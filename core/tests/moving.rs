//! Two ends of a moving pipe over carriers that break at any byte.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use p2pd_core::Instant;
use p2pd_core::pipe::moving::{
    CarrierId, CarrierKind, FIRST_LIMIT, MAX_CARRIERS, MoveError, Mover, MoverConfig, MoverEnd, MoverEvent,
};
use p2pd_core::relay::ReadOutcome;

const RELAY: CarrierId = CarrierId(0);
const DIRECT: CarrierId = CarrierId(1);
const START: Instant = Instant::from_nanos(5_000_000_000);

/// A carrier: what is on its way to each end.
#[derive(Default)]
struct Lane {
    /// Ends that have it already. For others bytes wait.
    open: [bool; 2],
    to: [VecDeque<u8>; 2],
}

struct Pair {
    now: Instant,
    ends: [Mover; 2],
    lanes: BTreeMap<CarrierId, Lane>,
    events: [Vec<MoverEvent>; 2],
    data: [Vec<u8>; 2],
    written: [usize; 2],
    got: [Vec<u8>; 2],
    ended: [bool; 2],
    /// Ends that are still to hear that a carrier broke, and the time of that.
    told: Vec<(Instant, usize, CarrierId)>,
    /// Bytes that one step moves in each direction of each carrier.
    pace: usize,
}

fn content(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|n| (n as u8).wrapping_mul(31).wrapping_add((n >> 8) as u8).wrapping_add(seed)).collect()
}

impl Pair {
    fn new(config: MoverConfig, sizes: [usize; 2]) -> Self {
        let mut pair = Pair {
            now: START,
            ends: [Mover::new(config, START), Mover::new(config, START)],
            lanes: BTreeMap::new(),
            events: Default::default(),
            data: [content(1, sizes[0]), content(2, sizes[1])],
            written: [0; 2],
            got: Default::default(),
            ended: [false; 2],
            told: Vec::new(),
            pace: 7,
        };
        pair.attach(0, RELAY, CarrierKind::Relayed);
        pair.attach(1, RELAY, CarrierKind::Relayed);
        pair
    }

    fn attach(&mut self, end: usize, id: CarrierId, kind: CarrierKind) {
        self.lanes.entry(id).or_default().open[end] = true;
        self.ends[end].attach(self.now, id, kind).unwrap();
    }

    /// Cuts a carrier: the bytes on their way are lost, and each end is told after so many steps.
    fn cut(&mut self, id: CarrierId, told: [u64; 2]) {
        self.lanes.remove(&id);
        for (end, later) in told.into_iter().enumerate() {
            self.told.push((self.now + Duration::from_millis(later), end, id));
        }
        self.tell();
    }

    fn tell(&mut self) {
        let now = self.now;
        for (_, end, id) in self.told.extract_if(.., |(at, ..)| *at <= now) {
            self.ends[end].handle_broken(now, id);
        }
    }

    /// Runs for one millisecond.
    fn step(&mut self) {
        self.now = self.now + Duration::from_millis(1);
        self.tell();
        for end in 0..2 {
            let mover = &mut self.ends[end];
            if mover.poll_timeout().is_some_and(|at| at <= self.now) {
                mover.handle_timeout(self.now);
                assert!(mover.poll_timeout().is_none_or(|at| at > self.now), "{mover:?}");
            }
            self.written[end] += mover.write(self.now, &self.data[end][self.written[end]..]);
            if self.written[end] == self.data[end].len() {
                mover.finish(self.now);
            }
            while let Some(event) = mover.poll_event() {
                if let MoverEvent::Silent(id) = event {
                    self.lanes.remove(&id);
                }
                self.events[end].push(event);
            }
            let mut buffer = [0; 900];
            loop {
                match mover.read(self.now, &mut buffer) {
                    ReadOutcome::Read(n) => self.got[end].extend_from_slice(&buffer[..n]),
                    ReadOutcome::Empty => break,
                    ReadOutcome::End => {
                        self.ended[end] = true;
                        break;
                    }
                }
            }
            for (id, lane) in &mut self.lanes {
                while lane.to[1 - end].len() < self.pace {
                    let Some(bytes) = mover.poll_output(self.now, *id) else { break };
                    lane.to[1 - end].extend(bytes);
                }
            }
        }
        for (id, lane) in &mut self.lanes {
            for end in (0..2).filter(|end| lane.open[*end]).collect::<Vec<_>>() {
                let some: Vec<u8> = {
                    let n = lane.to[end].len().min(self.pace);
                    lane.to[end].drain(..n).collect()
                };
                self.ends[end].handle_bytes(self.now, *id, &some).unwrap();
            }
        }
    }

    /// Runs until all is read at each end and known to be.
    fn complete(&mut self) {
        for _ in 0..100_000 {
            if self.ended == [true; 2] && self.ends[0].is_done() && self.ends[1].is_done() {
                assert!(self.got[0] == self.data[1] && self.got[1] == self.data[0]);
                self.step();
                return;
            }
            self.step();
        }
        panic!("stuck: {:?} {:?}", self.ends, self.events);
    }
}

#[test]
fn bytes_are_exact_wherever_the_pipe_moves_and_the_direct_path_dies() {
    let mut moved_back = 0;
    for up in 0..60u64 {
        for life in 0..60 {
            // One in four has nothing to say but that.
            let sizes = if (up + life) % 4 == 0 { [0, 200] } else { [700, 500] };
            let mut pair = Pair::new(MoverConfig::default(), sizes);
            (0..up).for_each(|_| pair.step());
            // One end knows of the direct path earlier than the other.
            pair.attach((up % 2) as usize, DIRECT, CarrierKind::Direct);
            (0..life % 3).for_each(|_| pair.step());
            pair.attach(1 - (up % 2) as usize, DIRECT, CarrierKind::Direct);
            (0..life).for_each(|_| pair.step());
            let done = pair.ended == [true; 2];
            let later = 3 * ((up * 7 + life) % 40);
            pair.cut(DIRECT, if up % 3 == 0 { [0, later] } else { [later, 0] });
            pair.complete();
            (0..later).for_each(|_| pair.step());
            for end in 0..2 {
                let moves: Vec<_> =
                    pair.events[end].iter().copied().filter(|e| matches!(e, MoverEvent::Moved(_))).collect();
                assert!(life == 0 || moves.contains(&MoverEvent::Moved(DIRECT)), "{up} {life} {moves:?}");
                assert_eq!(moves.last(), Some(&MoverEvent::Moved(RELAY)), "{up} {life}");
                let delivered = pair.events[end].iter().filter(|e| **e == MoverEvent::Delivered).count();
                assert_eq!(delivered, 1, "{up} {life}");
            }
            moved_back += usize::from(!done);
        }
    }
    assert!(moved_back > 1_500, "{moved_back} of 3,600 died with something left to do");
}

#[test]
fn either_carrier_may_die_and_others_may_come() {
    for seed in 0..100u32 {
        let mut state = u64::from(seed) + 1;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let config = MoverConfig {
            send_buffer: 1 + random(100_000) as usize,
            receive_buffer: random(200_000) as usize,
            ..MoverConfig::default()
        };
        let mut pair = Pair::new(config, [random(400_000) as usize, random(400_000) as usize]);
        pair.pace = 100 + random(9_000) as usize;
        let mut alive = vec![RELAY];
        for n in 1..30 {
            (0..random(60)).for_each(|_| pair.step());
            // Until both have heard of a carrier's end it takes a place.
            let places = alive.len() + pair.told.len();
            if places < MAX_CARRIERS && random(2) == 0 {
                let (id, kind) =
                    (CarrierId(n), [CarrierKind::Relayed, CarrierKind::Direct][random(2) as usize]);
                let first = random(2) as usize;
                pair.attach(first, id, kind);
                (0..random(4)).for_each(|_| pair.step());
                pair.attach(1 - first, id, kind);
                alive.push(id);
            } else if !alive.is_empty() {
                let id = alive.swap_remove(random(alive.len() as u64) as usize);
                pair.cut(id, [random(50), random(50)]);
            }
        }
        (0..50).for_each(|_| pair.step());
        if alive.is_empty() {
            for end in 0..2 {
                pair.attach(end, CarrierId(99), CarrierKind::Relayed);
            }
        }
        pair.complete();
    }
}

#[test]
fn a_direct_path_that_goes_silent_is_left_within_ten_seconds() {
    let mut pair = Pair::new(MoverConfig::default(), [5_000_000, 0]);
    pair.pace = 1_000;
    (0..50).for_each(|_| pair.step());
    for end in 0..2 {
        pair.attach(end, DIRECT, CarrierKind::Direct);
    }
    (0..500).for_each(|_| pair.step());
    // Bytes go in and none come out; nobody is told.
    pair.lanes.remove(&DIRECT);
    let silent = pair.now;
    while pair.ends[0].carrier() != Some(RELAY) {
        pair.step();
        assert!(pair.now.since(silent) <= Duration::from_millis(10_001));
    }
    assert!(pair.events[0].contains(&MoverEvent::Silent(DIRECT)));
    pair.complete();
}

#[test]
fn a_direct_path_that_lives_is_asked_and_answers() {
    let mut pair = Pair::new(MoverConfig::default(), [10, 10]);
    for end in 0..2 {
        pair.attach(end, DIRECT, CarrierKind::Direct);
    }
    pair.complete();
    // Nothing to say for a minute.
    (0..60_000).for_each(|_| pair.step());
    for end in 0..2 {
        assert_eq!(pair.ends[end].carrier(), Some(DIRECT));
        assert!(!pair.events[end].iter().any(|e| matches!(e, MoverEvent::Silent(_))));
    }
}

#[test]
fn without_a_carrier_it_waits_and_then_gives_up() {
    let mut pair = Pair::new(MoverConfig::default(), [1_000, 1_000]);
    (0..10).for_each(|_| pair.step());
    pair.cut(RELAY, [0, 0]);
    (0..29_000).for_each(|_| pair.step());
    assert!(pair.events[0].contains(&MoverEvent::Stranded));
    assert!(!pair.events[0].iter().any(|e| matches!(e, MoverEvent::Ended(_))));
    for end in 0..2 {
        pair.attach(end, DIRECT, CarrierKind::Direct);
    }
    (0..10).for_each(|_| pair.step());
    pair.cut(DIRECT, [0, 0]);
    (0..30_001).for_each(|_| pair.step());
    for end in 0..2 {
        assert_eq!(pair.events[end].last(), Some(&MoverEvent::Ended(MoverEnd::NoCarrier)));
        assert_eq!(pair.ends[end].poll_timeout(), None);
    }
}

#[test]
fn closing_tells_the_peer_on_every_carrier() {
    let mut pair = Pair::new(MoverConfig::default(), [1_000, 1_000]);
    for end in 0..2 {
        pair.attach(end, DIRECT, CarrierKind::Direct);
    }
    (0..10).for_each(|_| pair.step());
    pair.ends[0].close(pair.now);
    assert_eq!(pair.ends[0].write(pair.now, b"more"), 0);
    let told: Vec<_> = [RELAY, DIRECT].iter().map(|id| pair.ends[0].poll_output(pair.now, *id)).collect();
    assert!(told.iter().all(|bytes| bytes.as_deref() == Some(&[6][..])));
    assert_eq!(pair.ends[0].poll_output(pair.now, RELAY), None);
    pair.ends[1].handle_bytes(pair.now, RELAY, &[6]).unwrap();
    let events: Vec<_> = core::iter::from_fn(|| pair.ends[1].poll_event()).collect();
    assert_eq!(events.last(), Some(&MoverEvent::Ended(MoverEnd::ClosedByPeer)));
}

#[test]
fn what_nobody_reads_stops_the_sender() {
    let config = MoverConfig { send_buffer: 100_000, receive_buffer: 80_000, ..MoverConfig::default() };
    let mut ends = [Mover::new(config, START), Mover::new(config, START)];
    for end in &mut ends {
        end.attach(START, RELAY, CarrierKind::Relayed).unwrap();
    }
    let data = content(3, 1_000_000);
    let (mut written, mut now) = (0, START);
    let carry = |ends: &mut [Mover; 2], now| {
        for from in 0..2 {
            while let Some(bytes) = ends[from].poll_output(now, RELAY) {
                ends[1 - from].handle_bytes(now, RELAY, &bytes).unwrap();
            }
        }
    };
    for _ in 0..100 {
        written += ends[0].write(now, &data[written..]);
        now = now + Duration::from_millis(30);
        carry(&mut ends, now);
    }
    // 64 KiB of the 80,000 were granted at first; what an ACK grants counts from what was read, which is nothing.
    assert_eq!(written, 180_000);
    let mut got = Vec::new();
    while got.len() < data.len() {
        let mut buffer = [0; 5_000];
        if let ReadOutcome::Read(n) = ends[1].read(now, &mut buffer) {
            got.extend_from_slice(&buffer[..n]);
        }
        written += ends[0].write(now, &data[written..]);
        now = now + Duration::from_millis(1);
        carry(&mut ends, now);
        assert!(now < START + Duration::from_secs(60), "stuck at {}", got.len());
    }
    assert!(got == data);
    assert!(core::iter::from_fn(|| ends[0].poll_event()).any(|e| e == MoverEvent::Writable));
}

/// Returns the reaction of an end to these bytes on a fresh pipe.
fn hear(bytes: &[u8]) -> Result<(), MoveError> {
    let mut mover = Mover::new(MoverConfig::default(), START);
    mover.attach(START, RELAY, CarrierKind::Relayed).unwrap();
    let heard = mover.handle_bytes(START, RELAY, bytes);
    let ended = core::iter::from_fn(|| mover.poll_event()).find_map(|e| match e {
        MoverEvent::Ended(MoverEnd::Violation(why)) => Some(why),
        _ => None,
    });
    assert_eq!(heard.err(), ended);
    if heard.is_err() {
        assert_eq!(mover.handle_bytes(START, RELAY, bytes), Ok(()), "nothing is heard after the end");
        assert_eq!((mover.poll_output(START, RELAY), mover.poll_timeout()), (None, None));
    }
    heard
}

fn data(offset: u64, bytes: &[u8]) -> Vec<u8> {
    [&[1][..], &offset.to_be_bytes(), &(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

fn end(offset: u64) -> Vec<u8> {
    [&[2][..], &offset.to_be_bytes()].concat()
}

#[test]
fn a_peer_that_breaks_the_rules_is_told_apart() {
    assert_eq!(hear(&[data(0, b"abc"), data(1, b"bcd"), end(4), end(4), data(0, b"abcd")].concat()), Ok(()));
    assert_eq!(hear(&[9]), Err(MoveError::UnknownFrame(9)));
    assert_eq!(hear(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Err(MoveError::Length(0)));
    assert_eq!(hear(&data(1, b"a")), Err(MoveError::Gap));
    assert_eq!(hear(&data(u64::MAX, b"ab")), Err(MoveError::Overrun));
    assert_eq!(hear(&end(1)), Err(MoveError::Gap));
    assert_eq!(hear(&[data(0, b"abc"), end(2)].concat()), Err(MoveError::AfterEnd));
    assert_eq!(hear(&[data(0, b"abc"), end(3), data(3, b"d")].concat()), Err(MoveError::AfterEnd));
    assert_eq!(hear(&[&[3][..], &1u64.to_be_bytes(), &9u64.to_be_bytes()].concat()), Err(MoveError::NotSent));
    let mut flood = Vec::new();
    for n in 0..FIRST_LIMIT / 16_384 {
        flood.extend(data(n * 16_384, &[0; 16_384]));
    }
    assert_eq!(hear(&flood), Ok(()));
    flood.extend(data(FIRST_LIMIT, b"x"));
    assert_eq!(hear(&flood), Err(MoveError::Overrun));
}

#[test]
fn carriers_are_few() {
    let mut mover = Mover::new(MoverConfig::default(), START);
    for n in 0..MAX_CARRIERS as u32 {
        mover.attach(START, CarrierId(n), CarrierKind::Direct).unwrap();
    }
    let more = mover.attach(START, CarrierId(9), CarrierKind::Direct);
    assert_eq!(more, Err(MoveError::TooManyCarriers));
    assert_eq!(mover.carrier(), Some(CarrierId(3)));
    // Those that are not there say nothing.
    assert_eq!(mover.handle_bytes(START, CarrierId(9), &[9]), Ok(()));
}

#[test]
fn noise_ends_the_pipe_and_nothing_else() {
    let mut state = 1u64;
    for _ in 0..20_000 {
        let noise: Vec<u8> = (0..60)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                // Mostly small numbers, as frames have.
                if state >> 62 == 0 { (state >> 33) as u8 } else { (state >> 33) as u8 % 7 }
            })
            .collect();
        let _ = hear(&noise);
    }
}
