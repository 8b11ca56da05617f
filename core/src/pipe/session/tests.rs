//! Each rule of a session, at two ends with carriers between them.

use std::collections::{BTreeMap, VecDeque};

use super::frame::Frame;
use super::*;
use crate::time::Instant;

pub(super) const MS: Duration = Duration::from_millis(1);

/// Two ends, and carriers that hold what is under way.
pub(super) struct Two {
    pub(super) ends: [Session; 2],
    pub(super) now: Instant,
    /// Bytes under way on each carrier, to the caller and to the listener.
    pub(super) wires: BTreeMap<CarrierId, [VecDeque<u8>; 2]>,
    pub(super) events: [Vec<SessionEvent>; 2],
}

impl Two {
    pub(super) fn new(config: SessionConfig) -> Self {
        let now = Instant::ZERO;
        Two {
            ends: [Side::Caller, Side::Listener].map(|side| Session::new(side, config, now)),
            now,
            wires: BTreeMap::new(),
            events: Default::default(),
        }
    }

    /// Two ends with one carrier, on which all has been said.
    pub(super) fn joined(config: SessionConfig) -> Self {
        let mut two = Two::new(config);
        two.attach(1, CarrierKind::Direct);
        two.settle();
        two.events = Default::default();
        two
    }

    pub(super) fn attach(&mut self, id: u32, kind: CarrierKind) {
        self.wires.insert(CarrierId(id), Default::default());
        for end in &mut self.ends {
            assert!(end.attach(self.now, CarrierId(id), kind));
        }
    }

    /// Loses a carrier with what is under way on it.
    pub(super) fn cut(&mut self, id: u32) {
        self.wires.remove(&CarrierId(id));
        for end in &mut self.ends {
            end.handle_broken(self.now, CarrierId(id));
        }
        self.note();
    }

    /// Takes what the ends have to send, at most so many frames' worth each.
    pub(super) fn send(&mut self, most: usize) -> bool {
        let mut any = false;
        for (id, wires) in &mut self.wires {
            for (from, end) in self.ends.iter_mut().enumerate() {
                for _ in 0..most {
                    let Some(bytes) = end.poll_output(self.now, *id) else { break };
                    assert!(bytes.len() <= 16_384, "{} bytes at once", bytes.len());
                    wires[1 - from].extend(&bytes);
                    any = true;
                }
            }
        }
        any
    }

    /// Delivers at most so many bytes on each carrier, each way.
    pub(super) fn deliver(&mut self, most: usize) -> bool {
        let mut any = false;
        for (id, wires) in &mut self.wires {
            for (to, end) in self.ends.iter_mut().enumerate() {
                let n = most.min(wires[to].len());
                if n > 0 {
                    let bytes: Vec<u8> = wires[to].drain(..n).collect();
                    end.handle_bytes(self.now, *id, bytes.into()).unwrap();
                    any = true;
                }
            }
        }
        self.note();
        any
    }

    pub(super) fn note(&mut self) {
        for (end, events) in self.ends.iter_mut().zip(&mut self.events) {
            events.extend(std::iter::from_fn(|| end.poll_event()));
        }
    }

    pub(super) fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        self.ends.iter_mut().for_each(|end| end.handle_timeout(self.now));
        self.note();
    }

    /// Goes on until nothing is under way, acknowledgements that are held back included.
    pub(super) fn settle(&mut self) {
        for _ in 0..100_000 {
            if !(self.send(8) | self.deliver(usize::MAX)) {
                if self.ends.iter().all(|end| end.ack_at.is_none()) {
                    return;
                }
                self.wait(20 * MS);
            }
        }
        panic!("it does not settle");
    }

    pub(super) fn open(&mut self, from: usize, direction: Direction) -> StreamId {
        self.ends[from].open(self.now, direction, b"tag").unwrap()
    }

    pub(super) fn write(&mut self, from: usize, id: StreamId, data: &[u8]) -> usize {
        self.ends[from].write(self.now, id, data).unwrap()
    }

    pub(super) fn read(&mut self, at: usize, id: StreamId) -> (Vec<u8>, ReadResult<usize>) {
        let (mut all, mut piece) = (Vec::new(), [0; 1000]);
        loop {
            match self.ends[at].read(self.now, id, &mut piece) {
                ReadResult::Read(n) => all.extend_from_slice(&piece[..n]),
                end => return (all, end),
            }
        }
    }
}

/// Bytes of which no two pieces are alike.
pub(super) fn pattern(from: usize, length: usize) -> Vec<u8> {
    (from..from + length).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[test]
fn a_stream_has_a_tag_and_each_direction_ends_by_itself() {
    let mut two = Two::joined(SessionConfig::default());
    let id = two.ends[0].open(two.now, Direction::Both, &[7; 255]).unwrap();
    assert_eq!(two.ends[0].open(two.now, Direction::Both, &[7; 256]), Err(OpenError::TagTooLong));
    assert_eq!(two.write(0, id, b"question"), 8);
    two.ends[0].finish(two.now, id);
    assert_eq!(two.ends[0].write(two.now, id, b"x"), Err(WriteError::Closed));
    two.settle();
    assert_eq!(two.events[1], [SessionEvent::Opened(Direction::Both)]);
    assert_eq!(two.ends[1].accept(Direction::One), None);
    assert_eq!(two.ends[1].accept(Direction::Both), Some((id, Bytes::from(vec![7; 255]))));
    assert_eq!(two.read(1, id), (b"question".to_vec(), ReadResult::End));
    assert_eq!(two.write(1, id, b"answer"), 6);
    two.settle();
    assert_eq!(two.read(0, id), (b"answer".to_vec(), ReadResult::Empty));
    two.ends[1].finish(two.now, id);
    two.settle();
    assert_eq!(two.events[0], [SessionEvent::Readable(id), SessionEvent::Readable(id)]);
    assert_eq!(two.read(0, id), (Vec::new(), ReadResult::End));
    assert!(two.ends.iter().all(|end| end.streams.all.is_empty()));
}

#[test]
fn a_stream_of_one_direction_has_one() {
    let mut two = Two::joined(SessionConfig::default());
    let id = two.open(1, Direction::One);
    two.write(1, id, b"news");
    two.settle();
    assert_eq!(two.ends[0].accept(Direction::One), Some((id, Bytes::from_static(b"tag"))));
    assert_eq!(two.ends[0].write(two.now, id, b"x"), Err(WriteError::Closed));
    assert_eq!(two.read(1, id), (Vec::new(), ReadResult::Gone));
    assert_eq!(two.read(0, id), (b"news".to_vec(), ReadResult::Empty));
}

#[test]
fn resets_and_stops_bring_their_codes_and_drop_what_waits() {
    let mut two = Two::joined(SessionConfig::default());
    let (given_up, unwanted) = (two.open(0, Direction::Both), two.open(0, Direction::Both));
    for id in [given_up, unwanted] {
        two.write(0, id, b"part");
    }
    two.settle();
    for id in [given_up, unwanted] {
        assert_eq!(two.ends[1].accept(Direction::Both).unwrap().0, id);
    }
    two.ends[0].reset(two.now, given_up, 5);
    two.ends[1].stop(two.now, unwanted, 6);
    two.settle();
    assert_eq!(two.read(1, given_up), (Vec::new(), ReadResult::Reset(5)));
    assert_eq!(two.events[0], [SessionEvent::Stopped(unwanted, 6)]);
    assert_eq!(two.ends[0].write(two.now, unwanted, b"x"), Err(WriteError::Closed));
    assert_eq!(two.read(1, unwanted), (Vec::new(), ReadResult::Gone));
    // The other directions go on.
    for id in [given_up, unwanted] {
        two.write(1, id, b"still");
        two.ends[1].finish(two.now, id);
    }
    two.settle();
    for id in [given_up, unwanted] {
        assert_eq!(two.read(0, id), (b"still".to_vec(), ReadResult::End));
    }
    assert!(two.ends.iter().all(|end| end.streams.all.is_empty()));
}

#[test]
fn whoever_has_finished_is_not_told_that_its_bytes_are_unwanted() {
    let mut two = Two::joined(SessionConfig::default());
    let ids = [two.open(0, Direction::One), two.open(0, Direction::One)];
    for id in ids {
        // More than the credit, so that bytes wait when the STOP comes.
        assert_eq!(two.write(0, id, &[0; 100_000]), 100_000);
    }
    two.ends[0].finish(two.now, ids[0]);
    two.settle();
    for id in ids {
        assert_eq!(two.ends[1].accept(Direction::One).unwrap().0, id);
        two.ends[1].stop(two.now, id, 6);
    }
    two.settle();
    assert_eq!(two.events[0], [SessionEvent::Stopped(ids[1], 6)]);
    assert!(two.ends.iter().all(|end| end.streams.all.is_empty()));
}

#[test]
fn a_stream_that_stands_still_holds_no_other() {
    let mut two = Two::joined(SessionConfig::default());
    let (still, other) = (two.open(0, Direction::One), two.open(0, Direction::One));
    two.settle();
    (0..2).for_each(|_| drop(two.ends[1].accept(Direction::One)));
    // It fills its queue behind its credit.
    assert_eq!(two.write(0, still, &[1; 1 << 20]), 256 << 10);
    two.settle();
    assert_eq!(two.write(0, still, &[1; 1 << 20]), FIRST_CREDIT as usize);
    let (mut sent, mut got) = (0, Vec::new());
    while got.len() < 10 << 20 {
        sent += two.write(0, other, &pattern(sent, 100_000));
        two.settle();
        got.extend(two.read(1, other).0);
    }
    assert_eq!(got, pattern(0, got.len()));
    let (waiting, end) = two.read(1, still);
    assert_eq!((waiting.len(), end), (FIRST_CREDIT as usize, ReadResult::Empty));
}

#[test]
fn streams_that_nobody_reads_have_a_bound_together_and_each_has_a_frame_always() {
    const ALWAYS: usize = MAX_DATA;
    let config = SessionConfig { queues: 300_000, ..SessionConfig::default() };
    let mut two = Two::joined(config);
    let ids: Vec<_> = (0..4).map(|_| two.open(0, Direction::Both)).collect();
    two.settle();
    // Each fills the peer's credit, then its queue.
    for id in &ids {
        assert_eq!(two.write(0, *id, &[0; FIRST_CREDIT as usize]), FIRST_CREDIT as usize);
        two.settle();
    }
    let whole = 256 << 10;
    let left = 300_000 - (whole - ALWAYS);
    let written: Vec<_> = ids.iter().map(|id| two.write(0, *id, &[0; 1 << 20])).collect();
    assert_eq!(written, [whole, ALWAYS + left, ALWAYS, ALWAYS]);
    assert_eq!((two.ends[0].streams.queued, two.write(0, ids[3], b"x")), (300_000, 0));
    // A stream that gets nothing of the rest hears of room as its own bytes leave, and is not stuck.
    two.events = Default::default();
    for _ in 0..4 {
        two.ends[1].accept(Direction::Both);
    }
    assert_eq!(two.read(1, ids[3]).0.len(), FIRST_CREDIT as usize);
    two.settle();
    assert_eq!(two.read(1, ids[3]).0.len(), ALWAYS);
    assert_eq!(two.events[0], [SessionEvent::Writable(ids[3])]);
    assert_eq!(two.write(0, ids[3], &[0; 1 << 20]), ALWAYS);
    // What is given up or stopped gives its share back.
    two.ends[0].reset(two.now, ids[0], 0);
    assert_eq!(two.ends[0].streams.queued, left);
    two.ends[1].stop(two.now, ids[1], 0);
    two.settle();
    assert_eq!(two.ends[0].streams.queued, 0);
    assert_eq!(two.write(0, ids[2], &[0; 1 << 20]), whole - ALWAYS);
    two.ends[0].close(two.now, 0, b"");
    assert_eq!(two.ends[0].streams.queued, 0);
}

#[test]
fn a_stream_that_is_read_gets_a_greater_window_from_what_all_have() {
    let config = SessionConfig { stream_window: 300_000, window: 400_000, ..SessionConfig::default() };
    let mut two = Two::joined(config);
    let ids = [two.open(0, Direction::One), two.open(0, Direction::One), two.open(0, Direction::One)];
    two.settle();
    for id in ids {
        two.ends[1].accept(Direction::One);
        for _ in 0..20 {
            two.write(0, id, &[0; 100_000]);
            two.settle();
            two.read(1, id);
        }
    }
    let windows = |two: &Two| -> Vec<u64> {
        two.ends[1].streams.all.values().map(|s| s.receiving.as_ref().unwrap().window).collect()
    };
    // 300,000 - 65,536 of the first, and what is left of 400,000.
    assert_eq!(windows(&two), [300_000, 65_536 + 400_000 - 234_464, 65_536]);
    // What stands still now holds no more than its window, and the last goes on with its own.
    two.write(0, ids[2], &[0; 100_000]);
    two.settle();
    assert_eq!(two.read(1, ids[2]).0.len(), 65_536);
    // The end of one gives its share back.
    two.ends[0].reset(two.now, ids[0], 0);
    two.settle();
    two.read(1, ids[0]);
    assert_eq!(two.ends[1].streams.lent, 400_000 - 234_464);
}

#[test]
fn streams_of_higher_priority_go_first_and_equal_ones_take_turns() {
    let mut two = Two::joined(SessionConfig::default());
    let ids: Vec<_> = (0..3).map(|_| two.open(0, Direction::One)).collect();
    two.settle();
    for id in &ids {
        assert_eq!(two.write(0, *id, &[0; 3 * MAX_DATA]), 3 * MAX_DATA);
    }
    // Set while they are in the list.
    two.ends[0].set_priority(ids[1], 1);
    let mut order = Vec::new();
    while let Some(frame) = two.ends[0].poll_output(two.now, CarrierId(1)) {
        order.push(u32::from_be_bytes(frame[1..5].try_into().unwrap()));
    }
    let [a, b, c] = [ids[0].number(), ids[1].number(), ids[2].number()];
    assert_eq!(order, [b, b, b, a, c, a, c, a, c]);
}

#[test]
fn bytes_that_nobody_acknowledges_are_kept_up_to_the_limit() {
    let config = SessionConfig { kept: 256 << 10, ..SessionConfig::default() };
    let mut two = Two::joined(config);
    let ids: Vec<_> = (0..16).map(|_| two.open(0, Direction::One)).collect();
    two.settle();
    for id in &ids {
        two.write(0, *id, &[0; 65_536]);
    }
    let mut taken = 0;
    while let Some(bytes) = two.ends[0].poll_output(two.now, CarrierId(1)) {
        taken += bytes.len();
    }
    assert!((256 << 10..(256 << 10) + 16_384).contains(&taken), "{taken}");
    assert_eq!(two.ends[0].log.end() - two.ends[0].log.acked(), 16);
}

#[test]
fn a_peer_that_acknowledges_nothing_cannot_have_words_pile_up() {
    let config = SessionConfig { streams: 64, kept: 256 << 10, ..SessionConfig::default() };
    let mut two = Two::joined(config);
    for n in 0..200_000 {
        // It claims to have heard no more than what came at first.
        two.ends[0].ack_at = None;
        let Ok(id) = two.ends[0].open(two.now, Direction::Both, b"") else {
            assert!(n > 6_000, "{n}");
            break;
        };
        two.ends[0].reset(two.now, id, 0);
        two.ends[0].stop(two.now, id, 0);
        while let Some(bytes) = two.ends[0].poll_output(two.now, CarrierId(1)) {
            two.ends[1].handle_bytes(two.now, CarrierId(1), bytes).unwrap();
        }
        if let Some((id, _)) = two.ends[1].accept(Direction::Both) {
            two.read(1, id);
        }
        while let Some(bytes) = two.ends[1].poll_output(two.now, CarrierId(1)) {
            two.ends[0].handle_bytes(two.now, CarrierId(1), bytes).unwrap();
        }
        assert!(two.ends[1].log.size() < (512 << 10) + 200, "{n}: {}", two.ends[1].log.size());
        assert!(two.ends[1].streams.words.len() < 1000, "{n}: {}", two.ends[1].streams.words.len());
    }
}

#[test]
fn a_cut_at_any_byte_costs_nothing() {
    let talk = |two: &mut Two| {
        let id = two.open(0, Direction::Both);
        two.write(0, id, &pattern(0, 100));
        two.write(0, id, &pattern(100, 50));
        two.ends[0].finish(two.now, id);
        id
    };
    let mut whole = Two::joined(SessionConfig::default());
    talk(&mut whole);
    whole.send(usize::MAX);
    let length = whole.wires[&CarrierId(1)][1].len();
    assert_eq!(length, 9 + 1 + 4 + 1 + 3 + 7 + 150 + 5 - 9);
    for cut in 0..=length {
        let mut two = Two::joined(SessionConfig::default());
        let id = talk(&mut two);
        two.send(usize::MAX);
        two.deliver(cut);
        two.cut(1);
        assert_eq!(two.events[0], [SessionEvent::Stranded], "{cut}");
        two.attach(2, CarrierKind::Relayed);
        two.settle();
        assert_eq!(two.ends[1].accept(Direction::Both).unwrap().0, id, "{cut}");
        assert_eq!(two.read(1, id), (pattern(0, 150), ReadResult::End), "{cut}");
    }
}

#[test]
fn datagrams_are_lost_with_their_carrier_alone_and_the_oldest_make_room() {
    let config = SessionConfig { datagrams: 3_000, ..SessionConfig::default() };
    let mut two = Two::joined(config);
    let datagram = |n: u8, length| Bytes::from(vec![n; length]);
    assert!(!two.ends[0].send_datagram(two.now, datagram(0, 1201)));
    for n in 0..4 {
        assert!(two.ends[0].send_datagram(two.now, datagram(n, 1200)));
    }
    two.settle();
    assert_eq!(two.events[1], [SessionEvent::Datagram]);
    let got: Vec<_> = std::iter::from_fn(|| two.ends[1].read_datagram()).collect();
    assert_eq!(got, [datagram(2, 1200), datagram(3, 1200)]);
    assert!(two.ends[0].send_datagram(two.now, datagram(4, 1)));
    two.send(1);
    two.cut(1);
    // This one waits for a carrier.
    assert!(two.ends[0].send_datagram(two.now, datagram(5, 0)));
    two.attach(2, CarrierKind::Direct);
    two.settle();
    let got: Vec<_> = std::iter::from_fn(|| two.ends[1].read_datagram()).collect();
    assert_eq!(got, [datagram(5, 0)]);
    // A reader that does not come costs the oldest.
    for n in 0..10 {
        two.ends[1].send_datagram(two.now, datagram(n, 1000));
        two.settle();
    }
    let got: Vec<_> = std::iter::from_fn(|| two.ends[0].read_datagram()).collect();
    assert_eq!(got, [datagram(8, 1000), datagram(9, 1000)]);
}

#[test]
fn the_least_room_holds_a_datagram_of_full_length_and_empty_ones_count_too() {
    let mut two = Two::joined(SessionConfig { datagrams: 0, ..SessionConfig::default() });
    assert!(two.ends[0].send_datagram(two.now, vec![7; 1200].into()));
    two.settle();
    assert_eq!(two.ends[1].read_datagram(), Some(vec![7; 1200].into()));
    // 1,200 + 64 bytes, of 64 each.
    for _ in 0..100 {
        assert!(two.ends[0].send_datagram(two.now, Bytes::new()));
        two.ends[1].send_datagram(two.now, Bytes::new());
        two.send(1);
        two.deliver(usize::MAX);
    }
    for _ in 0..100 {
        assert!(two.ends[0].send_datagram(two.now, Bytes::new()));
    }
    let came = |end: &mut Session| std::iter::from_fn(|| end.read_datagram()).count();
    assert_eq!(two.ends.each_mut().map(came), [19, 19]);
    two.settle();
    assert_eq!(came(&mut two.ends[1]), 19);
}

#[test]
fn the_caller_chooses_by_kind_then_round_trip_and_the_listener_follows() {
    let mut two = Two::new(SessionConfig::default());
    two.attach(1, CarrierKind::Relayed);
    two.settle();
    two.attach(2, CarrierKind::Direct);
    two.settle();
    let on = |two: &Two| two.ends.each_ref().map(|end| end.carrier().unwrap().0.0);
    assert_eq!(on(&two), [2, 2]);
    // A worse kind is for later.
    two.attach(3, CarrierKind::Relayed);
    two.settle();
    assert_eq!(on(&two), [2, 2]);
    // A newer direct one is taken, until its round trip shows.
    two.attach(4, CarrierKind::Direct);
    two.send(usize::MAX);
    two.deliver(usize::MAX);
    assert_eq!(on(&two), [4, 4]);
    two.wait(100 * MS);
    two.settle();
    assert_eq!(on(&two), [2, 2]);
    assert_eq!(two.ends[0].round_trip(), Some(Duration::ZERO));
    two.cut(2);
    two.settle();
    assert_eq!(on(&two), [4, 4]);
    assert_eq!(two.ends[0].round_trip(), Some(100 * MS));
    two.cut(4);
    assert_eq!(on(&two), [3, 3]);
    let moves: Vec<_> = [1, 2, 4, 2, 4, 3].map(|n| SessionEvent::Moved(CarrierId(n))).into();
    assert_eq!(two.events, [moves.clone(), moves]);
}

/// A change of the network takes a connection from the caller, of which the listener hears nothing.
#[test]
fn a_caller_that_moves_faster_than_its_listener_notices_goes_on_at_once() {
    let mut two = Two::joined(SessionConfig::default());
    let id = two.open(0, Direction::Both);
    two.settle();
    two.events = Default::default();
    for n in 2..=12 {
        two.wires.remove(&CarrierId(n - 1));
        two.ends[0].handle_broken(two.now, CarrierId(n - 1));
        two.wait(100 * MS);
        two.attach(n, CarrierKind::Direct);
        two.write(0, id, b"on");
        two.settle();
        assert_eq!(two.read(1, id).0, b"on");
        assert_eq!(two.ends[1].carrier(), Some((CarrierId(n), CarrierKind::Direct)));
    }
    let silent = |event: &SessionEvent| match event {
        SessionEvent::Silent(CarrierId(n)) => Some(*n),
        _ => None,
    };
    assert_eq!(two.events[1].iter().filter_map(silent).collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
    assert_eq!(two.ends[1].carriers.len(), MAX_CARRIERS);
}

#[test]
fn the_last_word_of_the_caller_counts_on_whichever_carrier_it_comes() {
    let mut listener = Session::new(Side::Listener, SessionConfig::default(), Instant::ZERO);
    for id in [1, 2] {
        listener.attach(Instant::ZERO, CarrierId(id), CarrierKind::Direct);
    }
    let mut say = |id, count| {
        let mut frames = Vec::new();
        if count < 4 {
            Frame::Have(0).put(&mut frames);
        }
        Frame::Use(count).put(&mut frames);
        listener.handle_bytes(Instant::ZERO, CarrierId(id), frames.into()).unwrap();
        listener.carrier().unwrap().0.0
    };
    assert_eq!([say(2, 3), say(1, 2), say(1, 4)], [2, 2, 1]);
}

#[test]
fn silence_is_asked_about_doubted_and_the_end_of_the_carrier() {
    let second = Duration::from_secs(1);
    let mut two = Two::joined(SessionConfig::default());
    let began = two.now;
    let due = |two: &Two| two.ends[0].poll_timeout().unwrap().since(began);
    assert_eq!(due(&two), 20 * second);
    two.wait(20 * second);
    assert!(two.send(1));
    assert_eq!(due(&two), 21 * second);
    two.wait(second);
    assert_eq!(two.events[0], [SessionEvent::Doubtful(CarrierId(1))]);
    assert_eq!((due(&two), two.ends[0].needs_carrier()), (30 * second, true));
    // It was slow alone: it is doubted no more, which is no event, and next time later.
    two.deliver(usize::MAX);
    two.settle();
    assert_eq!((two.events[0].len(), two.ends[0].needs_carrier()), (1, false));
    let id = two.open(0, Direction::One);
    two.write(0, id, b"x");
    let wrote = two.now;
    two.send(1);
    assert_eq!(two.ends[0].poll_timeout(), Some(wrote + 2 * second));
    two.wait(2 * second);
    two.wait(8 * second);
    let silent = [SessionEvent::Silent(CarrierId(1)), SessionEvent::Stranded];
    assert_eq!(two.events[0][1..], [&[SessionEvent::Doubtful(CarrierId(1))], &silent[..]].concat());
    // Without a carrier for 60 s it is over.
    assert_eq!(two.ends[0].poll_timeout(), Some(two.now + 60 * second));
    two.wait(60 * second - MS);
    assert!(!two.ends[0].is_over() && two.ends[0].needs_carrier());
    two.wait(MS);
    assert!(!two.ends[0].needs_carrier());
    assert_eq!(two.events[0].last(), Some(&SessionEvent::Ended(SessionEnd::NoCarrier)));
    assert_eq!(two.ends[0].open(two.now, Direction::One, b""), Err(OpenError::Ended));
    assert_eq!(two.ends[0].poll_timeout(), None);
}

/// Full sockets take nothing: neither what was asked for nor what is to be asked.
#[test]
fn a_path_that_dies_and_takes_nothing_is_left_after_a_second() {
    let second = Duration::from_secs(1);
    for idle in [true, false] {
        let mut two = Two::joined(SessionConfig::default());
        two.attach(2, CarrierKind::Relayed);
        two.settle();
        let id = two.open(0, Direction::One);
        two.settle();
        let began = two.now;
        two.wires.remove(&CarrierId(1));
        if !idle {
            two.write(0, id, b"word");
        }
        // An idle one is asked for a sign of life after 20 s.
        let asked = if idle { 20 * second } else { Duration::ZERO };
        if idle {
            two.wait(20 * second);
            two.settle();
        }
        assert_eq!(two.ends[0].poll_timeout().map(|at| at.since(began)), Some(asked + second));
        two.wait(second);
        assert_eq!(two.ends[0].carrier(), Some((CarrierId(2), CarrierKind::Relayed)));
        two.settle();
        assert_eq!(two.ends[1].accept(Direction::One).unwrap().0, id);
        assert_eq!(two.read(1, id).0, if idle { &b""[..] } else { b"word" });
        two.wait(9 * second);
        assert!(two.events[0].contains(&SessionEvent::Silent(CarrierId(1))), "{:?}", two.events);
    }
}

#[test]
fn a_doubted_carrier_is_the_last_choice_and_a_slow_one_is_kept() {
    let mut two = Two::joined(SessionConfig::default());
    let id = two.open(0, Direction::One);
    two.write(0, id, b"under way");
    two.send(1);
    two.wait(Duration::from_secs(1));
    assert_eq!(two.events[0], [SessionEvent::Doubtful(CarrierId(1))]);
    two.attach(2, CarrierKind::Relayed);
    two.settle();
    // What was under way on the slow one came over both, and counts once.
    assert_eq!(two.ends[1].accept(Direction::One).unwrap().0, id);
    assert_eq!(two.read(1, id).0, b"under way");
    assert_eq!(two.ends[0].carriers.len(), 2);
    assert_eq!(two.ends[0].carrier(), Some((CarrierId(1), CarrierKind::Direct)));
}

#[test]
fn a_close_is_told_with_code_and_reason_and_what_had_come_can_be_read() {
    let mut two = Two::joined(SessionConfig::default());
    let id = two.open(0, Direction::Both);
    two.write(0, id, b"last");
    assert!(!two.ends[0].is_delivered());
    two.settle();
    assert_eq!(two.events[0], [SessionEvent::Delivered]);
    assert!(two.ends[0].is_delivered());
    two.ends[0].close(two.now, 9, &[b'w'; 300]);
    two.send(usize::MAX);
    two.deliver(usize::MAX);
    assert_eq!(two.events[0].last(), Some(&SessionEvent::Ended(SessionEnd::Closed)));
    let end = SessionEnd::ClosedByPeer(9, Bytes::from(vec![b'w'; 255]));
    assert_eq!(two.events[1], [SessionEvent::Opened(Direction::Both), SessionEvent::Ended(end)]);
    assert_eq!(two.ends[1].accept(Direction::Both).unwrap().0, id);
    assert_eq!(two.read(1, id), (b"last".to_vec(), ReadResult::Gone));
    assert_eq!(two.ends[1].write(two.now, id, b"x"), Err(WriteError::Ended));
}

#[test]
fn the_peer_allows_more_streams_as_they_end() {
    let config = SessionConfig { streams: 20, ..SessionConfig::default() };
    let mut two = Two::new(config);
    for n in 0..16 {
        assert_eq!(two.open(0, Direction::One).number(), n << 2 | 2);
    }
    assert_eq!(two.ends[0].open(two.now, Direction::One, b""), Err(OpenError::TooMany));
    two.attach(1, CarrierKind::Direct);
    two.settle();
    assert!(two.events[0].contains(&SessionEvent::MayOpen));
    let more: Vec<_> = (0..4).map(|_| two.open(0, Direction::One)).collect();
    assert_eq!(two.ends[0].open(two.now, Direction::Both, b""), Err(OpenError::TooMany));
    two.settle();
    two.events = Default::default();
    // One that was not taken counts, though its sender has given it up.
    two.ends[0].reset(two.now, more[0], 1);
    two.settle();
    assert_eq!(two.events[0], []);
    let (id, _) = two.ends[1].accept(Direction::One).unwrap();
    two.ends[1].stop(two.now, id, 0);
    two.settle();
    assert_eq!(two.events[0], [SessionEvent::Stopped(id, 0), SessionEvent::MayOpen]);
    two.open(0, Direction::One);
    assert_eq!(two.ends[0].open(two.now, Direction::One, b""), Err(OpenError::TooMany));
}

#[test]
fn frames_that_break_a_rule_end_the_session() {
    let id = |n| StreamId(n);
    let data = |n, length| Frame::Data(id(n), [Bytes::from(vec![0; length])].into_iter().collect());
    let open = |n| Frame::Open(id(n), Bytes::new());
    // The listener is asked; it has opened stream 1 and the one-way stream 7.
    let rows: &[(&[Frame], Violation)] = &[
        (&[Frame::Have(0)], Violation::Order),
        (&[Frame::Fin(id(0))], Violation::NoStream(0)),
        (&[Frame::From(1)], Violation::Gap),
        (&[Frame::Ack(99)], Violation::NotSent),
        (&[open(1)], Violation::StreamNumber(1)),
        (&[open(4)], Violation::StreamNumber(4)),
        (&[open(0), open(0)], Violation::StreamNumber(0)),
        (&[data(0, 1)], Violation::NoStream(0)),
        (&[data(7, 1)], Violation::NoStream(7)),
        (&[open(2), Frame::Stop(id(2), 0)], Violation::NoStream(2)),
        (&[open(2), Frame::Credit(id(2), 0)], Violation::NoStream(2)),
        (&[Frame::Stop(id(9), 0)], Violation::NoStream(9)),
        (
            &[open(0), data(0, 16_000), data(0, 16_000), data(0, 16_000), data(0, 16_000), data(0, 1537)],
            Violation::Overrun(0),
        ),
        (&[open(0), Frame::Fin(id(0)), data(0, 1)], Violation::AfterEnd(0)),
        (&[open(0), Frame::Fin(id(0)), Frame::Fin(id(0))], Violation::AfterEnd(0)),
        (&[open(0), Frame::Reset(id(0), 1), Frame::Reset(id(0), 1)], Violation::AfterEnd(0)),
    ];
    let judge = |before: &[Frame], frames: &[Frame]| {
        let config = SessionConfig { streams: 16, ..SessionConfig::default() };
        let mut listener = Session::new(Side::Listener, config, Instant::ZERO);
        listener.open(Instant::ZERO, Direction::Both, b"").unwrap();
        listener.open(Instant::ZERO, Direction::One, b"").unwrap();
        listener.attach(Instant::ZERO, CarrierId(1), CarrierKind::Direct);
        while listener.poll_output(Instant::ZERO, CarrierId(1)).is_some() {}
        let mut wire = Vec::new();
        before.iter().chain(frames).for_each(|frame| frame.put(&mut wire));
        let judged = listener.handle_bytes(Instant::ZERO, CarrierId(1), wire.into());
        assert_eq!(judged.is_err(), listener.is_over());
        judged
    };
    let begun = [Frame::Have(0), Frame::From(0)];
    for (frames, violation) in rows {
        assert_eq!(judge(&begun, frames), Err(*violation), "{frames:?}");
    }
    assert_eq!(judge(&[], &[Frame::Ack(0)]), Err(Violation::Order));
    assert_eq!(judge(&[Frame::Have(0)], &[open(0)]), Err(Violation::Order));
    assert_eq!(judge(&[Frame::Have(3)], &[]), Err(Violation::NotSent));
    let opens: Vec<_> = (0..17).map(|n| open(n << 2)).collect();
    assert_eq!(judge(&begun, &opens[..16]), Ok(()));
    assert_eq!(judge(&begun, &opens), Err(Violation::TooManyStreams));
    // What is late for a stream that has ended is none.
    assert_eq!(judge(&begun, &[open(0), data(0, 65_000 / 4), Frame::Reset(id(0), 1)]), Ok(()));
}

#[test]
fn a_listener_that_knows_no_session_ends_it() {
    let mut caller = Session::new(Side::Caller, SessionConfig::default(), Instant::ZERO);
    caller.attach(Instant::ZERO, CarrierId(1), CarrierKind::Direct);
    caller.handle_bytes(Instant::ZERO, CarrierId(1), Opening::refusal()).unwrap();
    let events: Vec<_> = std::iter::from_fn(|| caller.poll_event()).collect();
    assert_eq!(events, [SessionEvent::Moved(CarrierId(1)), SessionEvent::Ended(SessionEnd::Unknown)]);
}

#[test]
fn tiny_pieces_are_held_as_their_bytes() {
    let mut two = Two::joined(SessionConfig::default());
    let id = two.open(0, Direction::One);
    for n in 0..15_000 {
        two.write(0, id, &pattern(n, 1));
        while let Some(bytes) = two.ends[0].poll_output(two.now, CarrierId(1)) {
            two.ends[1].handle_bytes(two.now, CarrierId(1), bytes).unwrap();
        }
    }
    let receiving = two.ends[1].streams.all[&id].receiving.as_ref().unwrap();
    assert_eq!(receiving.pieces(), 2);
    two.ends[1].accept(Direction::One);
    let (first, second) =
        (two.ends[1].read_chunk(two.now, id, 100), two.ends[1].read_chunk(two.now, id, 99_999));
    assert_eq!(first, ReadResult::Read(pattern(0, 100).into()));
    assert_eq!(second, ReadResult::Read(pattern(100, stream::COPIED - 100).into()));
    assert_eq!(two.read(1, id), (pattern(stream::COPIED, 15_000 - stream::COPIED), ReadResult::Empty));
}

#[test]
fn bytes_that_wait_for_their_reader_keep_a_third_more_at_most() {
    // Bytes of each of four pieces in a buffer of its own, and what they are read as: bytes, and how many these keep.
    let rows: [(usize, &[(usize, usize)]); 4] = [
        (5_000, &[(15_000, 15_000), (5_000, 5_000)]),
        (12_299, &[(24_598, 24_598); 2]),
        (12_300, &[(12_300, 16_400); 4]),
        (16_377, &[(16_377, 16_400); 4]),
    ];
    for (length, pieces) in rows {
        let mut receiving = stream::Receiving::new();
        for _ in 0..4 {
            let piece = Bytes::from(vec![0; 16_400]).slice(..length);
            receiving.take(StreamId(0), [piece].into_iter().collect()).unwrap();
        }
        let mut kept = Vec::new();
        while let ReadResult::Read(piece) = receiving.chunk(usize::MAX) {
            let piece = piece.try_into_mut().unwrap();
            kept.push((piece.len(), piece.capacity()));
        }
        assert_eq!(kept, pieces);
        assert!(kept.iter().all(|(length, kept)| kept * 3 <= length * 4));
    }
}

#[test]
fn an_idle_session_and_an_idle_stream_take_little() {
    let (session, stream) = (size_of::<Session>(), size_of::<stream::Stream>());
    assert!(session <= 2048 && stream <= 384, "{session} and {stream} bytes");
}

#[test]
fn a_little_that_is_not_acknowledged_goes_to_the_next_carrier_unasked() {
    // With 7 bytes for each of four DATA, 9 for OPEN, and 64 that each of the five counts more, 65,357 and 65,757.
    for (bytes, goes) in [(1, true), (65_000, true), (65_400, false)] {
        let mut two = Two::joined(SessionConfig::default());
        let id = two.open(0, Direction::One);
        two.write(0, id, &pattern(0, bytes));
        two.send(usize::MAX);
        two.cut(1);
        two.attach(2, CarrierKind::Direct);
        while let Some(bytes) = two.ends[0].poll_output(two.now, CarrierId(2)) {
            two.ends[1].handle_bytes(two.now, CarrierId(2), bytes).unwrap();
        }
        assert_eq!(two.ends[1].accept(Direction::One).is_some(), goes, "{bytes}");
        two.settle();
        two.ends[1].accept(Direction::One);
        assert_eq!(two.read(1, id).0, pattern(0, bytes));
    }
}

#[test]
fn what_a_session_holds_is_counted_and_one_that_holds_too_much_is_closed() {
    let mut two = Two::joined(SessionConfig::default());
    let held = |two: &Two| two.ends.each_ref().map(Session::held);
    let id = two.open(0, Direction::One);
    two.write(0, id, &pattern(0, MAX_DATA + 1000));
    assert_eq!(held(&two), [1000, 0], "one frame of each stream is not counted");
    two.send(usize::MAX);
    // OPEN and two DATA are kept.
    let kept = 9 + (7 + MAX_DATA) + (7 + 1000) + 3 * 64;
    assert_eq!(held(&two), [kept, 0]);
    two.deliver(usize::MAX);
    assert_eq!(held(&two), [kept, MAX_DATA + 1000]);
    two.settle();
    two.ends[1].send_datagram(two.now, vec![1; 100].into());
    assert_eq!(held(&two), [0, MAX_DATA + 1000 + 100 + 64]);
    two.settle();
    two.ends[1].accept(Direction::One);
    assert_eq!(two.ends[1].read(two.now, id, &mut [0; 400]), ReadResult::Read(400));
    assert_eq!(held(&two), [164, MAX_DATA + 600]);
    two.ends[1].stop(two.now, id, 0);
    assert_eq!(two.ends[1].held(), 0);
    two.events = Default::default();
    two.ends[1].shed(two.now);
    two.send(usize::MAX);
    two.deliver(usize::MAX);
    let told = SessionEnd::ClosedByPeer(0, Bytes::from_static(b"too many bytes are held"));
    assert_eq!(
        two.events.each_ref().map(|all| all.last().cloned()),
        [Some(SessionEvent::Ended(told)), Some(SessionEvent::Ended(SessionEnd::Overfull)),]
    );
}
