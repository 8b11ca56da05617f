//! Two ends that exchange datagrams through a relay, without the rest of the world. The relay's treatment of them is
//! drawn from a seed.

pub mod goodput;
pub mod rudp;
pub mod seeds;
pub mod upgrade;

use bytes::Bytes;
use p2pd_core::Instant;
use p2pd_core::relay::RelayStream;

use crate::engine::{Digest, Keyed, Nanos, Queue};
use crate::net::{Bottleneck, LinkSpec};

/// Bytes around a relayed datagram on an IPv4 network: ChannelData, UDP and IP headers.
const HEADERS: usize = 4 + 8 + 20;

/// The way between the ends, the same in both directions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way {
    /// Delay, loss, duplication, reordering.
    pub link: LinkSpec,
    /// Rate and queue; none is as fast as one likes.
    pub narrow: Option<Bottleneck>,
}

/// An end of a way that sends and receives datagrams.
pub trait End {
    /// A datagram came.
    fn datagram(&mut self, now: Instant, data: &[u8]);
    /// The deadline passed.
    fn timeout(&mut self, now: Instant);
    /// The next deadline.
    fn deadline(&mut self) -> Option<Instant>;
    /// The next datagram to send.
    fn transmit(&mut self, now: Instant) -> Option<Bytes>;
}

impl End for RelayStream {
    fn datagram(&mut self, now: Instant, data: &[u8]) {
        self.handle_datagram(now, data);
    }
    fn timeout(&mut self, now: Instant) {
        self.handle_timeout(now);
    }
    fn deadline(&mut self) -> Option<Instant> {
        self.poll_timeout()
    }
    fn transmit(&mut self, now: Instant) -> Option<Bytes> {
        self.poll_transmit(now)
    }
}

/// Two ends and the way between them.
#[derive(Debug)]
pub struct Wire<E> {
    /// Virtual time.
    pub now: Nanos,
    /// The ends.
    pub ends: [E; 2],
    /// Digest of everything that was sent and when.
    pub digest: Digest,
    /// Datagrams that each end sent.
    pub sent: [u64; 2],
    link: LinkSpec,
    narrow: [Option<Bottleneck>; 2],
    rng: Keyed,
    queue: Queue<(usize, Bytes)>,
}

impl<E: End> Wire<E> {
    /// Creates a wire between two ends at time 0.
    pub fn new(seed: u64, way: Way, ends: [E; 2]) -> Self {
        Wire {
            now: 0,
            ends,
            digest: Digest::default(),
            sent: [0; 2],
            link: way.link,
            narrow: [way.narrow; 2],
            rng: Keyed::new(seed),
            queue: Queue::default(),
        }
    }

    /// The time as the ends see it.
    pub fn at(&self) -> Instant {
        Instant::from_nanos(self.now as i64)
    }

    /// Sends all datagrams that are ready.
    pub fn flush(&mut self) {
        for end in 0..2 {
            while let Some(datagram) = self.ends[end].transmit(self.at()) {
                let n = self.sent[end];
                self.sent[end] += 1;
                self.digest.word(self.now ^ (end as u64) << 63);
                self.digest.bytes(&datagram);
                let through = match &mut self.narrow[end] {
                    Some(narrow) => narrow.pass(self.now, datagram.len() + HEADERS),
                    None => Some(self.now),
                };
                let Some(through) = through else { continue };
                for delay in self.link.fate(self.now, self.rng, end as u64, n) {
                    self.queue.put(through + delay, (1 - end, datagram.clone()));
                }
            }
        }
    }

    /// Lets the next thing happen, if it does before `until`.
    ///
    /// # Panics
    /// If a deadline does not move by a timeout: then nothing would ever happen any more.
    pub fn step(&mut self, until: Nanos) -> bool {
        self.flush();
        let arrival = self.queue.next_at();
        let deadlines = [0, 1].map(|end| self.ends[end].deadline().map(|at| at.as_nanos().max(0) as u64));
        let Some(next) = deadlines.into_iter().chain([arrival]).flatten().min().filter(|at| *at <= until)
        else {
            return false;
        };
        self.now = self.now.max(next);
        if arrival == Some(next)
            && let Some((_, (end, datagram))) = self.queue.take()
        {
            let now = self.at();
            self.ends[end].datagram(now, &datagram);
        } else {
            let end = usize::from(deadlines[0] != Some(next));
            let now = self.at();
            self.ends[end].timeout(now);
            self.flush();
            let after = self.ends[end].deadline().map(|at| at.as_nanos().max(0) as u64);
            assert!(after != Some(next), "the deadline at {next} stands still");
        }
        self.flush();
        true
    }
}
