//! Reliability of relayed messages in P2PD 3.1.5. Each message gets a number and goes out at once. Without an
//! acknowledgement it goes out again after 3 s, and a third time after 3 more; then it is forgotten. There is no pacing
//! and no ordering.
//!
//! The model favours it where it can. The receiver drops duplicates. With `rate` the application sends no faster than
//! the way takes, although it has no means to know that rate.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use p2pd_core::Instant;

use super::{End, HEADERS};

const WAIT: Duration = Duration::from_secs(3);
const TRIES: u8 = 3;
/// Number and flag before a payload.
const FRAME: usize = 8 + 1;
/// Payload of a datagram of 1,200 bytes, the size of p2pd's own datagrams.
pub const PAYLOAD: usize = 1_200 - FRAME;

/// An end of a transfer.
#[derive(Debug)]
pub struct Rudp {
    /// Messages to be sent, and the first one's number.
    fresh: VecDeque<usize>,
    next: u64,
    /// Messages without acknowledgement: length, number of transmissions, and time of the next one.
    waiting: BTreeMap<u64, (usize, u8, Instant)>,
    acks: VecDeque<u64>,
    /// The least time between two messages.
    gap: Duration,
    free_at: Instant,
    seen: BTreeSet<u64>,
    /// Bytes of the messages received, each counted once.
    pub got: u64,
    /// Messages given up.
    pub forgotten: u64,
    /// Bytes in all datagrams sent.
    pub sent_bytes: u64,
}

impl Rudp {
    /// Has `bytes` bytes to send, at no more than `rate` bits a second if there is one.
    pub fn new(bytes: usize, rate: Option<u64>) -> Self {
        let full = bytes / PAYLOAD;
        let rest = bytes % PAYLOAD;
        let on_the_wire = (PAYLOAD + FRAME + HEADERS) as u64 * 8;
        Rudp {
            fresh: core::iter::repeat_n(PAYLOAD, full).chain((rest > 0).then_some(rest)).collect(),
            next: 1,
            waiting: BTreeMap::new(),
            acks: VecDeque::new(),
            gap: rate.map_or(Duration::ZERO, |r| Duration::from_nanos(on_the_wire * 1_000_000_000 / r + 1)),
            free_at: Instant::ZERO,
            seen: BTreeSet::new(),
            got: 0,
            forgotten: 0,
            sent_bytes: 0,
        }
    }

    /// Returns true if nothing is left to send, now or later.
    pub fn is_done(&self) -> bool {
        self.fresh.is_empty() && self.waiting.is_empty() && self.acks.is_empty()
    }

    fn frame(&mut self, number: u64, flag: u8, payload: usize) -> Option<Bytes> {
        let mut frame = vec![0; FRAME + payload];
        frame[..8].copy_from_slice(&number.to_be_bytes());
        frame[8] = flag;
        self.sent_bytes += frame.len() as u64;
        Some(frame.into())
    }
}

impl End for Rudp {
    fn datagram(&mut self, _now: Instant, data: &[u8]) {
        let Some((number, [flag, payload @ ..])) = data.split_first_chunk() else { return };
        let number = u64::from_be_bytes(*number);
        if *flag == 1 {
            self.waiting.remove(&number);
        } else {
            self.acks.push_back(number);
            if self.seen.insert(number) {
                self.got += payload.len() as u64;
            }
        }
    }

    fn timeout(&mut self, now: Instant) {
        let before = self.waiting.len();
        self.waiting.retain(|_, (_, tries, again)| *tries < TRIES || *again > now);
        self.forgotten += (before - self.waiting.len()) as u64;
    }

    fn deadline(&mut self) -> Option<Instant> {
        // What is to be sent again waits for its turn too.
        let again = self.waiting.values().map(|(_, tries, again)| match *tries {
            TRIES => *again,
            _ => self.free_at.max(*again),
        });
        let fresh = (!self.fresh.is_empty()).then_some(self.free_at);
        again.chain(fresh).min()
    }

    fn transmit(&mut self, now: Instant) -> Option<Bytes> {
        if let Some(number) = self.acks.pop_front() {
            return self.frame(number, 1, 0);
        }
        if self.free_at > now {
            return None;
        }
        let due = self.waiting.iter_mut().find(|(_, (_, tries, again))| *again <= now && *tries < TRIES);
        let (number, length) = if let Some((number, (length, tries, again))) = due {
            *tries += 1;
            *again = now + WAIT;
            (*number, *length)
        } else {
            let length = self.fresh.pop_front()?;
            self.waiting.insert(self.next, (length, 1, now + WAIT));
            self.next += 1;
            (self.next - 1, length)
        };
        self.free_at = now + self.gap;
        self.frame(number, 0, length)
    }
}
