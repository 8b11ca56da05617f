//! Time and its error bound: an NTP client (RFC 5905) for several servers.
//!
//! [`Clock`] is a machine of its own. Its owner sends the datagrams of [`poll_transmit`](Clock::poll_transmit), hands
//! in the answers, and may ask at any time:
//!
//! ```
//! use p2pd_core::Instant;
//! use p2pd_core::clock::{Clock, NoTime};
//!
//! let mut clock = Clock::new(["203.0.113.9:123".parse().unwrap()], [7; 32], Instant::ZERO);
//! let (server, request) = clock.poll_transmit().unwrap();
//! assert_eq!((server.port(), request.len()), (123, 48));
//! assert_eq!(clock.time(Instant::ZERO), Err(NoTime::NoAnswer));
//! ```
//!
//! # Method
//! - An exchange tells the time with an error bound, the sum of three parts. Half the delay, for the way there and back
//!   may differ by all of it. The server's own error: half its root delay, its root dispersion, its precision. And
//!   [`DRIFT_PPM`] for all the time since. Of each server's last eight answers the one with the lowest bound is used.
//! - Fewer than half of the servers that answered may lie: the true time is within the outermost points that lie
//!   in more than half of the servers' intervals. The estimate is the best server's, moved into that interval, and the
//!   bound reaches to its farther end. Two servers outvote nobody: where they contradict each other there is
//!   [no time](NoTime::Disagree).
//! - A server may have several addresses, of which the first that answers is used, so that each server has one vote.
//! - Each server is asked four times, 2 s apart as RFC 5905 has bursts, and then every 1,024 s. A kiss of death is
//!   honoured: RATE doubles the pause and ends the burst, DENY and RSTR end the questions for good.
//!
//! # Accepted answers
//! An answer counts if it comes from the address that was asked and repeats 64 random bits. Our transmit timestamp
//! is nothing but these bits, and the time of sending is told to nobody. [`MAX_SERVERS`] servers; a request in flight
//! for each; nothing else grows.
//!
//! The reasons: ADR 29 in docs/src/adr.

mod packet;
mod select;
#[cfg(test)]
mod tests;

use core::fmt;
use core::time::Duration;
use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;

use bytes::Bytes;

use self::packet::{Answer, Kiss};
use self::select::{Interval, select};
use crate::random::{Domain, Random};
use crate::time::{ClockFix, Instant, WallTime};

/// Most servers asked.
pub const MAX_SERVERS: usize = 9;
/// Drift of the driver's monotonic clock, at most, in parts per million. Crystals stay below 100; RFC 5905 reckons with
/// 15 for a clock that it steers itself.
pub const DRIFT_PPM: i64 = 100;
/// Answers kept of each server (RFC 5905's clock filter has eight stages).
const KEPT: usize = 8;
/// Requests of a burst.
const BURST: u8 = 4;
/// Pause within a burst.
const BURST_PAUSE: Duration = Duration::from_secs(2);
/// Pause after a burst.
const PAUSE: Duration = Duration::from_secs(1024);
/// Longest pause, after so many RATE: 36 hours.
const LONGEST_PAUSE: Duration = Duration::from_secs(1 << 17);
/// Time after which a missing answer counts as none; if it comes it is used.
const ANSWER_WITHIN: Duration = Duration::from_millis(1500);

/// The client.
#[derive(Debug)]
pub struct Clock {
    now: Instant,
    random: Random,
    servers: Vec<Server>,
    transmits: VecDeque<(SocketAddr, Bytes)>,
    stats: Stats,
}

/// An address of a server.
#[derive(Debug)]
struct Server {
    /// Number of the server that has it.
    of: usize,
    addr: SocketAddr,
    asked: Option<Asked>,
    samples: VecDeque<Sample>,
    /// Requests sent of the burst.
    burst: u8,
    pause: Duration,
    /// Time of the next request; `None` where the server forbade it.
    due: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    at: Instant,
    cookie: u64,
}

/// Time of one answer: at `at` it was `wall`, in nanoseconds since the Unix epoch, give or take `bound` nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    wall: i64,
    bound: i64,
}

/// Reason that there is no time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum NoTime {
    /// No server has answered with the time.
    NoAnswer,
    /// No more than half of the servers that answered agree.
    Disagree,
}

impl fmt::Display for NoTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NoTime::NoAnswer => "no time server answered",
            NoTime::Disagree => "the time servers contradict each other",
        })
    }
}

impl std::error::Error for NoTime {}

/// Counts of the datagrams turned away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Datagrams from addresses that were not asked, or that fit no question.
    pub strangers: u64,
    /// Answers that were malformed or contradict themselves.
    pub malformed: u64,
    /// Answers of servers that do not know the time themselves.
    pub unsynchronised: u64,
    /// Kisses of death.
    pub kisses: u64,
}

impl Clock {
    /// Asks the first [`MAX_SERVERS`] of these at once, as servers number 0, 1 and so on. The seed must never have been used
    /// before.
    pub fn new(servers: impl IntoIterator<Item = SocketAddr>, seed: [u8; 32], now: Instant) -> Self {
        let mut clock = Clock {
            now,
            random: Random::new(seed),
            servers: Vec::new(),
            transmits: VecDeque::new(),
            stats: Stats::default(),
        };
        for (of, addr) in servers.into_iter().enumerate() {
            clock.add(now, of, addr);
        }
        clock
    }

    /// Asks an address of the server with this number, in addition to its others. The first address that tells the time has
    /// the server's vote, and the others are left.
    pub fn add(&mut self, now: Instant, of: usize, addr: SocketAddr) {
        self.tick(now);
        let servers: BTreeSet<usize> = self.servers.iter().map(|s| s.of).collect();
        let full = servers.len() >= MAX_SERVERS && !servers.contains(&of);
        // Twice the same would be two votes.
        if full || self.told(of).is_some() || self.servers.iter().any(|s| s.addr == addr) {
            return;
        }
        let (samples, due) = (VecDeque::new(), Some(self.now));
        self.servers.push(Server { of, addr, asked: None, samples, burst: 0, pause: PAUSE, due });
        self.ask();
    }

    /// Returns true if the server with this number is asked.
    pub fn asks(&self, of: usize) -> bool {
        self.servers.iter().any(|s| s.of == of)
    }

    /// Returns the address at which the server with this number has told the time.
    pub fn told(&self, of: usize) -> Option<SocketAddr> {
        self.servers.iter().find(|s| s.of == of && !s.samples.is_empty()).map(|s| s.addr)
    }

    /// Takes in a datagram.
    pub fn handle(&mut self, now: Instant, from: SocketAddr, data: &[u8]) {
        self.tick(now);
        let Some(server) = self.servers.iter_mut().find(|s| s.addr == from) else {
            self.stats.strangers += 1;
            return;
        };
        let answer = match packet::parse(data) {
            Some(answer) => answer,
            None => {
                self.stats.malformed += 1;
                return;
            }
        };
        let Some(asked) = server.asked.filter(|a| a.cookie == answer.origin) else {
            self.stats.strangers += 1;
            return;
        };
        // One question, one answer.
        server.asked = None;
        match answer.kiss {
            Some(kiss) => {
                self.stats.kisses += 1;
                server.kissed(kiss, self.now);
            }
            None if !answer.is_synchronised() => self.stats.unsynchronised += 1,
            None => match Sample::of(asked.at, self.now, &answer) {
                Some(sample) => {
                    if server.samples.len() == KEPT {
                        server.samples.pop_front();
                    }
                    server.samples.push_back(sample);
                    let of = server.of;
                    self.servers.retain(|s| s.of != of || s.addr == from);
                }
                None => self.stats.malformed += 1,
            },
        }
    }

    /// Goes on after the deadline of [`poll_timeout`](Self::poll_timeout) has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.tick(now);
        self.ask();
    }

    /// Forgets all and asks again: the monotonic clock may have stood still, as in some systems' suspend.
    pub fn restart(&mut self, now: Instant) {
        self.tick(now);
        for server in self.servers.iter_mut().filter(|s| s.due.is_some()) {
            (server.asked, server.burst, server.due) = (None, 0, Some(self.now));
            server.samples.clear();
        }
        self.ask();
    }

    /// Returns the next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<(SocketAddr, Bytes)> {
        self.transmits.pop_front()
    }

    /// Returns the time to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.servers.iter().filter_map(|s| s.due).min()
    }

    /// Returns the time at `now`. The error is a bound, as long as fewer than half of the servers that answered lie.
    /// The monotonic clock must also stay within [`DRIFT_PPM`].
    ///
    /// # Errors
    /// [`NoTime`] if no server answered, or if the servers disagree.
    pub fn time(&self, now: Instant) -> Result<ClockFix, NoTime> {
        let now = self.now.max(now);
        let best = |s: &Server| s.samples.iter().map(|sample| sample.at(now)).min_by_key(Interval::width);
        let intervals: Vec<Interval> = self.servers.iter().filter_map(best).collect();
        if intervals.is_empty() {
            return Err(NoTime::NoAnswer);
        }
        let (wall, bound) = select(&intervals).ok_or(NoTime::Disagree)?;
        // The wall clock of this house counts microseconds.
        let error = Duration::from_nanos(bound.unsigned_abs()) + Duration::from_micros(1);
        Ok(ClockFix { at: now, wall: WallTime::from_micros(wall.div_euclid(1000)), error })
    }

    /// Returns the number of servers that have told the time.
    pub fn answered(&self) -> usize {
        self.servers.iter().filter(|s| !s.samples.is_empty()).count()
    }

    /// Returns true if each server has answered its burst, or had the time to.
    pub fn is_settled(&self, now: Instant) -> bool {
        let late = |a: Asked| a.at + ANSWER_WITHIN <= now;
        let settled = |s: &Server| s.due.is_none() || s.burst == BURST && s.asked.is_none_or(late);
        self.servers.iter().all(settled)
    }

    /// Returns the counters.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    fn tick(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    fn ask(&mut self) {
        for server in self.servers.iter_mut().filter(|s| s.due.is_some_and(|due| due <= self.now)) {
            let cookie = u64::from_be_bytes(self.random.bytes(Domain::Clock));
            server.asked = Some(Asked { at: self.now, cookie });
            server.burst = (server.burst + 1).min(BURST);
            let pause = if server.burst < BURST { BURST_PAUSE } else { server.pause };
            server.due = Some(self.now + pause);
            self.transmits.push_back((server.addr, packet::request(cookie)));
        }
    }
}

impl Server {
    fn kissed(&mut self, kiss: Kiss, now: Instant) {
        match kiss {
            Kiss::Rate => {
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                (self.burst, self.due) = (BURST, Some(now + self.pause));
            }
            Kiss::Deny => self.due = None,
            Kiss::Other => {}
        }
    }
}

impl Sample {
    /// Returns the time of an answer with its bound, from offset and delay on the wire (RFC 5905 section 8). `None`
    /// where the server says that it took longer than we waited.
    fn of(sent: Instant, came: Instant, answer: &Answer) -> Option<Sample> {
        let elapsed = i64::try_from(came.since(sent).as_nanos()).ok()?;
        let taken = answer.transmit.checked_sub(answer.receive)?;
        let delay = elapsed.checked_sub(taken).filter(|delay| taken >= 0 && *delay >= 0)?;
        let at = sent + Duration::from_nanos(elapsed as u64 / 2);
        let wall = answer.receive.checked_add(taken / 2)?;
        // A nanosecond for each of the halves that were rounded.
        Some(Sample { at, wall, bound: delay / 2 + drift(elapsed) + answer.root_distance + 2 })
    }

    /// Returns the interval that the sample gives for another instant.
    fn at(&self, now: Instant) -> Interval {
        let passed = now.as_nanos().saturating_sub(self.at.as_nanos());
        Interval::new(self.wall.saturating_add(passed), self.bound.saturating_add(drift(passed)))
    }
}

/// Returns the largest error, in nanoseconds, that the clock may gain in so many nanoseconds.
fn drift(passed: i64) -> i64 {
    passed.saturating_abs() / (1_000_000 / DRIFT_PPM) + 1
}
