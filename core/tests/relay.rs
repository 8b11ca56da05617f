//! Two ends of a relay stream over a modelled path.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use p2pd_core::relay::{
    EndCause, MAX_DATAGRAM, MAX_MESSAGE, MAX_MESSAGES, MessageError, ReadOutcome, RelayConfig, RelayStream,
    StreamEvent,
};
use p2pd_core::{Instant, NodeId, SecretKey};

const SESSION: [u8; 16] = [5; 16];

fn key(n: u8) -> SecretKey {
    SecretKey::from_bytes([n; 32])
}

fn id(n: u8) -> NodeId {
    key(n).node_id()
}

/// Fault of the path for the `n`th datagram that an end sends: the copies that arrive, and the delay of each beyond the
/// path's own.
type Fault = Box<dyn FnMut(usize, u64, &mut Vec<u8>) -> Vec<Duration>>;

struct Pair {
    now: Instant,
    ends: [RelayStream; 2],
    events: [Vec<StreamEvent>; 2],
    /// Ends that are gone without a word.
    dead: [bool; 2],
    fault: Fault,
    one_way: Duration,
    sent: [u64; 2],
    on_the_way: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    order: u64,
    /// Log of all datagrams sent, in order.
    log: Vec<(Instant, usize, Vec<u8>)>,
}

impl Pair {
    fn new() -> Self {
        Pair::with(RelayConfig::default(), 1)
    }

    fn with(config: RelayConfig, seed: u8) -> Self {
        let now = Instant::ZERO + Duration::from_secs(100);
        let caller = RelayStream::connect(&key(1), &id(2), &SESSION, [seed; 32], &config, now);
        let callee = RelayStream::accept(&key(2), &id(1), &SESSION, [seed + 100; 32], &config, now);
        Pair::of([caller, callee], now)
    }

    fn of(ends: [RelayStream; 2], now: Instant) -> Self {
        Pair {
            now,
            ends,
            events: Default::default(),
            dead: [false; 2],
            fault: Box::new(|_, _, _| vec![Duration::ZERO]),
            one_way: Duration::from_millis(50),
            sent: [0; 2],
            on_the_way: BTreeMap::new(),
            order: 0,
            log: Vec::new(),
        }
    }

    fn connected() -> Self {
        let mut pair = Pair::new();
        pair.run(Duration::from_millis(500));
        assert_eq!([pair.take_events(0), pair.take_events(1)], [[StreamEvent::Connected]; 2]);
        pair
    }

    fn take_events(&mut self, end: usize) -> Vec<StreamEvent> {
        core::mem::take(&mut self.events[end])
    }

    fn drain(&mut self) {
        for end in 0..2 {
            while let Some(event) = self.ends[end].poll_event() {
                self.events[end].push(event);
            }
            while let Some(datagram) = self.ends[end].poll_transmit(self.now) {
                assert!(datagram.len() <= MAX_DATAGRAM);
                let mut datagram = datagram.to_vec();
                self.log.push((self.now, end, datagram.clone()));
                let n = self.sent[end];
                self.sent[end] += 1;
                if self.dead[end] {
                    continue;
                }
                for later in (self.fault)(end, n, &mut datagram) {
                    self.order += 1;
                    let at = self.now + self.one_way + later;
                    self.on_the_way.insert((at, self.order), (1 - end, datagram.clone()));
                }
            }
        }
    }

    /// Handles an event, or nothing if none is due before `until`.
    fn step(&mut self, until: Instant) -> bool {
        self.drain();
        let arrival = self.on_the_way.first_key_value().map(|(at, _)| at.0);
        let timeouts = [0, 1].map(|end| self.ends[end].poll_timeout().filter(|_| !self.dead[end]));
        let Some(at) = timeouts.into_iter().chain([arrival]).flatten().min().filter(|at| *at <= until) else {
            return false;
        };
        self.now = self.now.max(at);
        if arrival == Some(at) {
            let (_, (end, datagram)) = self.on_the_way.pop_first().unwrap();
            if !self.dead[end] {
                self.ends[end].handle_datagram(self.now, &datagram);
            }
        } else {
            let end = usize::from(timeouts[0] != Some(at));
            self.ends[end].handle_timeout(self.now);
            let next = self.ends[end].poll_timeout();
            assert!(next != Some(at), "the deadline stands still at {at:?}");
        }
        self.drain();
        true
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
        self.now = until;
    }

    fn read_all(&mut self, end: usize, into: &mut Vec<u8>) -> bool {
        let mut buffer = [0; 4_096];
        loop {
            match self.ends[end].read(self.now, &mut buffer) {
                ReadOutcome::Read(n) => into.extend_from_slice(&buffer[..n]),
                ReadOutcome::Empty => return false,
                ReadOutcome::End => return true,
            }
        }
    }

    /// Sends `data[end]` from each end and its end after it, until both have read everything; or panics after
    /// `limit`.
    fn exchange(&mut self, data: [&[u8]; 2], limit: Duration) {
        let begin = self.now;
        let (mut written, mut got, mut ended) = ([0; 2], [Vec::new(), Vec::new()], [false; 2]);
        while ended != [true; 2] {
            for end in 0..2 {
                written[end] += self.ends[end].write(self.now, &data[end][written[end]..]);
                if written[end] == data[end].len() {
                    self.ends[end].finish(self.now);
                }
                ended[end] = self.read_all(end, &mut got[end]);
            }
            assert!(self.now.since(begin) < limit, "{ended:?} {written:?} {:?}", self.ends);
            assert!(self.step(begin + limit) || ended == [true; 2], "stuck: {:?}", self.ends);
        }
        assert!(got[0] == data[1] && got[1] == data[0]);
    }
}

/// A small generator for faults and contents.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state ^ (*state >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd) >> 11
}

fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    (0..length).map(|_| random(&mut state) as u8).collect()
}

/// Each in a thousand.
fn faults(seed: u64, loss: u64, duplicate: u64, reorder: u64) -> Fault {
    let mut state = seed;
    Box::new(move |_, _, _| {
        let mut one = || {
            let held = random(&mut state) % 1_000 < reorder;
            Duration::from_millis(if held { 1 + random(&mut state) % 120 } else { 0 })
        };
        let copies = [one(), one()];
        if random(&mut state) % 1_000 < loss {
            return Vec::new();
        }
        let twice = random(&mut state) % 1_000 < duplicate;
        copies[..1 + usize::from(twice)].to_vec()
    })
}

#[test]
fn the_first_bytes_arrive_after_a_round_trip_and_a_half() {
    let mut pair = Pair::new();
    pair.one_way = Duration::from_millis(40);
    let begin = pair.now;
    let mut got = Vec::new();
    while got.is_empty() {
        pair.ends[0].write(pair.now, if pair.sent[1] > 0 && got.is_empty() { b"hello" } else { b"" });
        assert!(pair.step(begin + Duration::from_secs(1)));
        pair.read_all(1, &mut got);
    }
    assert_eq!(pair.now.since(begin), Duration::from_millis(3 * 40));
    assert_eq!(&got[..5], b"hello");
}

#[test]
fn bytes_arrive_in_order_and_once_whatever_the_path_does() {
    for (seed, loss, duplicate, reorder) in
        [(1, 0, 0, 0), (2, 300, 0, 0), (3, 0, 300, 0), (4, 0, 0, 300), (5, 300, 300, 300), (6, 50, 50, 50)]
    {
        let mut pair = Pair::with(RelayConfig::default(), seed);
        pair.fault = faults(seed.into(), loss, duplicate, reorder);
        let data = [content(1, 300_000), content(2, 65_536)];
        pair.exchange([&data[0], &data[1]], Duration::from_secs(600));
    }
}

#[test]
fn the_same_seed_and_events_give_the_same_datagrams() {
    let run = |seed| {
        let mut pair = Pair::with(RelayConfig::default(), seed);
        pair.fault = faults(9, 20, 20, 100);
        let data = content(3, 3_000_000);
        pair.exchange([&data, &data[..100_000]], Duration::from_secs(100));
        pair.ends[0].send_message(pair.now, Bytes::from_static(b"m")).unwrap();
        pair.run(Duration::from_secs(40));
        pair.log
    };
    let (one, two) = (run(1), run(1));
    assert!(one.len() > 3_000);
    assert!(one == two);
    assert!(run(2) != one);
}

#[test]
fn each_direction_ends_by_itself() {
    let mut pair = Pair::connected();
    assert_eq!(pair.ends[0].write(pair.now, b"question"), 8);
    pair.ends[0].finish(pair.now);
    assert_eq!(pair.ends[0].write(pair.now, b"more"), 0);
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.take_events(0), [StreamEvent::Delivered]);
    assert_eq!(pair.take_events(1), [StreamEvent::Readable]);
    let mut got = Vec::new();
    assert!(pair.read_all(1, &mut got));
    assert_eq!(got, b"question");
    // The other direction lives on, for as long as it likes.
    for _ in 0..10 {
        pair.run(Duration::from_secs(60));
        assert_eq!(pair.ends[1].write(pair.now, b"answer"), 6);
        pair.run(Duration::from_secs(1));
        got.clear();
        assert!(!pair.read_all(0, &mut got));
        assert_eq!(got, b"answer");
    }
    pair.ends[1].finish(pair.now);
    pair.run(Duration::from_secs(1));
    assert!(pair.read_all(0, &mut got));
    assert!(pair.take_events(1).contains(&StreamEvent::Delivered));
    assert_eq!(pair.ends[0].read(pair.now, &mut [0; 9]), ReadOutcome::End);
}

#[test]
fn an_end_without_bytes_arrives_too() {
    let mut pair = Pair::new();
    // Even if it was asked for before there was a connection.
    pair.ends[1].finish(pair.now);
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.take_events(0), [StreamEvent::Connected, StreamEvent::Readable]);
    assert!(pair.read_all(0, &mut Vec::new()));
    assert_eq!(pair.take_events(1), [StreamEvent::Connected, StreamEvent::Delivered]);
}

#[test]
fn what_has_arrived_can_be_read_after_the_end() {
    let mut pair = Pair::connected();
    let data = content(1, 1_000_000);
    let mut written = 0;
    while !pair.take_events(0).contains(&StreamEvent::Delivered) {
        written += pair.ends[0].write(pair.now, &data[written..]);
        if written == data.len() {
            pair.ends[0].finish(pair.now);
        }
        pair.run(Duration::from_millis(10));
    }
    pair.ends[0].send_message(pair.now, Bytes::from_static(b"last words")).unwrap();
    pair.run(Duration::from_secs(1));
    pair.ends[0].close(pair.now);
    pair.run(Duration::from_secs(100));
    assert_eq!(pair.take_events(1).last(), Some(&StreamEvent::Ended(EndCause::ClosedByPeer)));
    assert!(pair.ends[1].is_over());
    let mut got = Vec::new();
    assert!(pair.read_all(1, &mut got));
    assert!(got == data);
    assert_eq!(pair.ends[1].read_message(pair.now), Some(Bytes::from_static(b"last words")));
    assert_eq!(pair.ends[1].poll_transmit(pair.now), None);
}

#[test]
fn closing_tells_the_peer() {
    let mut pair = Pair::connected();
    pair.ends[1].close(pair.now);
    pair.run(Duration::from_secs(10));
    assert_eq!(pair.take_events(0), [StreamEvent::Ended(EndCause::ClosedByPeer)]);
    assert_eq!(pair.take_events(1), []);
    assert!(pair.ends[0].is_over() && pair.ends[1].is_over());
    assert_eq!([pair.ends[0].poll_timeout(), pair.ends[1].poll_timeout()], [None; 2]);
    assert_eq!(pair.ends[0].write(pair.now, b"x"), 0);
    let refused = pair.ends[0].send_message(pair.now, Bytes::new());
    assert_eq!(refused, Err(MessageError::NotConnected));
}

#[test]
fn a_dead_peer_is_noticed_after_the_idle_timeout() {
    let mut pair = Pair::connected();
    // Keep-alives hold an unused stream open.
    pair.run(Duration::from_secs(600));
    assert_eq!(pair.take_events(0), []);
    let idle = pair.log.iter().filter(|(at, ..)| pair.now.since(*at) < Duration::from_secs(100)).count();
    assert!((20..=60).contains(&idle), "{idle} datagrams in 100 s");
    pair.dead[1] = true;
    let died = pair.now;
    while pair.take_events(0).is_empty() {
        assert!(pair.step(died + Duration::from_secs(60)));
    }
    let noticed = pair.now.since(died);
    assert!(noticed > Duration::from_secs(19) && noticed <= Duration::from_secs(41), "{noticed:?}");
    pair.run(Duration::from_secs(10));
    assert!(pair.ends[0].is_over());
}

#[test]
fn a_peer_that_never_comes_is_waited_for_no_longer_than_the_idle_timeout() {
    for dead in [0, 1] {
        let mut pair = Pair::new();
        pair.dead[dead] = true;
        pair.run(Duration::from_millis(29_900));
        assert_eq!(pair.take_events(1 - dead), []);
        pair.run(Duration::from_secs(10));
        assert_eq!(pair.take_events(1 - dead), [StreamEvent::Ended(EndCause::TimedOut)]);
        assert!(pair.ends[1 - dead].is_over());
    }
}

#[test]
fn a_reader_that_stands_still_bounds_what_is_held() {
    let config = RelayConfig { receive_window: 1 << 20, send_window: 1 << 20, ..RelayConfig::default() };
    let mut pair = Pair::with(config, 1);
    pair.run(Duration::from_secs(1));
    let data = content(1, 8 << 20);
    let mut written = 0;
    for _ in 0..100 {
        written += pair.ends[0].write(pair.now, &data[written..]);
        pair.run(Duration::from_secs(1));
    }
    // One window here, one there.
    assert!((1 << 20..=2 << 20).contains(&written), "{written}");
    // Messages pass a pipe that is full.
    pair.ends[0].send_message(pair.now, Bytes::from_static(b"passing")).unwrap();
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.ends[1].read_message(pair.now), Some(Bytes::from_static(b"passing")));
    let mut got = Vec::new();
    while got.len() < data.len() {
        pair.read_all(1, &mut got);
        written += pair.ends[0].write(pair.now, &data[written..]);
        pair.run(Duration::from_millis(100));
    }
    assert!(got == data);
    assert!(pair.take_events(0).contains(&StreamEvent::Writable));
}

#[test]
fn messages_pass_a_pipe_that_nobody_reads_however_many() {
    let mut pair = Pair::connected();
    let data = content(1, 1 << 20);
    while pair.ends[0].write(pair.now, &data) > 0 {
        pair.run(Duration::from_secs(1));
    }
    // Far more than the window has room for beside the pipe.
    for n in 0..5 * MAX_MESSAGES {
        let message = Bytes::from(content(n as u64, MAX_MESSAGE));
        assert_eq!(pair.ends[0].send_message(pair.now, message.clone()), Ok(()), "{n}");
        assert!(pair.ends[0].has_messages_under_way());
        pair.run(Duration::from_millis(500));
        assert_eq!(pair.ends[1].read_message(pair.now), Some(message), "{n}");
        pair.run(Duration::from_millis(500));
        assert!(!pair.ends[0].has_messages_under_way());
    }
    assert_eq!(pair.ends[0].write(pair.now, &data), 0);
}

#[test]
fn messages_arrive_once_each_and_bounded() {
    let mut pair = Pair::connected();
    pair.fault = faults(4, 300, 300, 300);
    let messages: Vec<Bytes> = (0..200u16)
        .map(|n| Bytes::from([&n.to_be_bytes()[..], &content(n.into(), 80 * usize::from(n))].concat()))
        .collect();
    let (mut sent, mut got) = (0, Vec::new());
    let begin = pair.now;
    while got.len() < messages.len() {
        while sent < messages.len() && pair.ends[0].send_message(pair.now, messages[sent].clone()).is_ok() {
            sent += 1;
        }
        assert!(pair.step(begin + Duration::from_secs(200)), "{} of {sent}", got.len());
        got.extend(core::iter::from_fn(|| pair.ends[1].read_message(pair.now)));
    }
    pair.run(Duration::from_secs(30));
    assert_eq!(pair.ends[1].read_message(pair.now), None);
    assert!(got != messages, "in a disorder such as this some overtake others");
    got.sort();
    assert!(got == messages);
}

#[test]
fn messages_have_a_longest_and_a_most() {
    let mut pair = Pair::new();
    let one = Bytes::from(vec![7; MAX_MESSAGE]);
    assert_eq!(pair.ends[0].send_message(pair.now, one.clone()), Err(MessageError::NotConnected));
    pair.run(Duration::from_secs(1));
    let longer = Bytes::from(vec![7; MAX_MESSAGE + 1]);
    assert_eq!(pair.ends[0].send_message(pair.now, longer), Err(MessageError::TooLong));
    let mut taken = 0;
    loop {
        match pair.ends[0].send_message(pair.now, one.clone()) {
            Ok(()) => taken += 1,
            Err(why) => {
                assert_eq!(why, MessageError::Full);
                pair.run(Duration::from_secs(5));
                if pair.ends[0].send_message(pair.now, one.clone()).is_err() {
                    break;
                }
                taken += 1;
            }
        }
    }
    // Waiting here, on the way, and waiting there.
    assert!((2 * MAX_MESSAGES..=3 * MAX_MESSAGES).contains(&taken), "{taken}");
    // The pipe is not held up by that.
    assert_eq!(pair.ends[0].write(pair.now, b"pipe"), 4);
    pair.run(Duration::from_secs(5));
    let mut got = Vec::new();
    pair.read_all(1, &mut got);
    assert_eq!(got, b"pipe");
    let mut read = 0;
    while let Some(message) = pair.ends[1].read_message(pair.now) {
        assert_eq!(message, one);
        read += 1;
        pair.run(Duration::from_secs(1));
    }
    assert_eq!(read, taken);
    assert!(pair.take_events(0).contains(&StreamEvent::MessageRoom));
}

/// Runs two ends that do not belong together: neither may believe in the other.
fn strangers(ends: [RelayStream; 2]) {
    let mut pair = Pair::of(ends, Instant::ZERO + Duration::from_secs(100));
    pair.run(Duration::from_secs(60));
    assert_eq!([pair.take_events(0), pair.take_events(1)], [[StreamEvent::Ended(EndCause::TimedOut)]; 2]);
    assert!(pair.sent[0] > 1 && pair.sent[1] == 0, "{:?}", pair.sent);
    assert_eq!(pair.ends[1].stats().received, 0);
    assert_eq!(pair.ends[1].stats().dropped, pair.sent[0]);
}

#[test]
fn only_the_two_peers_of_a_session_understand_each_other() {
    let now = Instant::ZERO + Duration::from_secs(100);
    let config = RelayConfig::default();
    let connect =
        |ours, peer, session| RelayStream::connect(&key(ours), &id(peer), session, [1; 32], &config, now);
    let accept =
        |ours, peer, session| RelayStream::accept(&key(ours), &id(peer), session, [2; 32], &config, now);
    let callee = || accept(2, 1, &SESSION);
    strangers([connect(3, 2, &SESSION), callee()]);
    strangers([connect(1, 3, &SESSION), callee()]);
    strangers([connect(1, 2, &[6; 16]), callee()]);
    strangers([connect(1, 2, &SESSION), accept(2, 3, &SESSION)]);
    let mut pair = Pair::of([connect(1, 2, &SESSION), callee()], now);
    pair.run(Duration::from_secs(1));
    assert_eq!([pair.take_events(0), pair.take_events(1)], [[StreamEvent::Connected]; 2]);
}

#[test]
fn altered_datagrams_are_dropped_and_do_no_harm() {
    // Each datagram comes altered in a bit first, then cut, then as it was; from the first one on.
    let mut pair = Pair::new();
    let mut state = 1;
    let data = [content(1, 100_000), content(2, 50_000)];
    let mut queue: Vec<(usize, Vec<u8>)> = Vec::new();
    let begin = pair.now;
    let (mut got, mut ended, mut written) = ([Vec::new(), Vec::new()], [false; 2], [0; 2]);
    while ended != [true; 2] {
        for end in 0..2 {
            written[end] += pair.ends[end].write(pair.now, &data[end][written[end]..]);
            if written[end] == data[end].len() {
                pair.ends[end].finish(pair.now);
            }
            ended[end] = pair.read_all(end, &mut got[end]);
            while let Some(datagram) = pair.ends[end].poll_transmit(pair.now) {
                let mut bad = datagram.to_vec();
                let bit = random(&mut state) as usize % (8 * bad.len());
                bad[bit / 8] ^= 1 << (bit % 8);
                let cut = random(&mut state) as usize % datagram.len();
                queue.extend([
                    (1 - end, bad),
                    (1 - end, datagram[..cut].to_vec()),
                    (1 - end, datagram.to_vec()),
                ]);
            }
        }
        pair.now = pair.now + Duration::from_millis(20);
        for (end, datagram) in queue.drain(..) {
            pair.ends[end].handle_datagram(pair.now, &datagram);
        }
        for end in 0..2 {
            if pair.ends[end].poll_timeout().is_some_and(|at| at <= pair.now) {
                pair.ends[end].handle_timeout(pair.now);
            }
        }
        assert!(pair.now.since(begin) < Duration::from_secs(60), "{:?}", pair.ends);
    }
    assert!(got[0] == data[1] && got[1] == data[0]);
}

#[test]
fn replayed_datagrams_change_nothing() {
    let mut pair = Pair::new();
    let data = [content(1, 100_000), content(2, 50_000)];
    pair.exchange([&data[0], &data[1]], Duration::from_secs(60));
    let log = core::mem::take(&mut pair.log);
    // In this session: everything again, in both directions.
    for (_, end, datagram) in &log {
        pair.ends[1 - end].handle_datagram(pair.now, datagram);
        pair.ends[*end].handle_datagram(pair.now, datagram);
    }
    pair.run(Duration::from_secs(5));
    for end in 0..2 {
        assert_eq!(pair.ends[end].read(pair.now, &mut [0; 9]), ReadOutcome::End);
        assert!(!pair.take_events(end).iter().any(|e| matches!(e, StreamEvent::Ended(_))));
    }
    // Towards a callee of the same session with another seed: it answers, and is not convinced.
    let now = pair.now;
    let mut again = RelayStream::accept(&key(2), &id(1), &SESSION, [77; 32], &RelayConfig::default(), now);
    for (_, end, datagram) in &log {
        if *end == 0 {
            again.handle_datagram(now, datagram);
        }
    }
    // It may well end, as the repeated packets acknowledge what it has not sent.
    assert_ne!(again.poll_event(), Some(StreamEvent::Connected));
    assert_eq!(again.read(now, &mut [0; 9]), ReadOutcome::Empty);
}

#[test]
fn noise_is_dropped() {
    let mut pair = Pair::connected();
    let mut fresh = [
        RelayStream::accept(&key(2), &id(1), &SESSION, [3; 32], &RelayConfig::default(), pair.now),
        RelayStream::connect(&key(1), &id(2), &SESSION, [4; 32], &RelayConfig::default(), pair.now),
    ];
    let mut state = 8;
    for n in 0..20_000 {
        let mut datagram = content(n, random(&mut state) as usize % 1_501);
        // Half of them look like the beginning of a connection of our version.
        if n % 2 == 0 && datagram.len() > 20 {
            datagram[0] = 0xc0 | (datagram[0] & 0x3f);
            datagram[1..5].copy_from_slice(b"p2pd");
            datagram[5] = 8;
            datagram[14] = 0;
            datagram.resize(1_200, 0);
        }
        for end in pair.ends.iter_mut().chain(&mut fresh) {
            end.handle_datagram(pair.now, &datagram);
        }
    }
    for end in &mut fresh {
        assert_eq!(end.poll_event(), None);
    }
    let data = content(1, 50_000);
    pair.exchange([&data, b""], Duration::from_secs(10));
    pair.ends[0].handle_datagram(pair.now, &[0; 70_000]);
}
