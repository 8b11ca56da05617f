//! Bounds of how often something happens and of how many bytes go by.

use core::time::Duration;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A token bucket. One token comes back every `every`, up to `burst`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    every: Duration,
    burst: u32,
    /// Time at which the bucket is full again.
    full_at: Duration,
}

impl Bucket {
    /// Returns a bucket with so many tokens a second; with none there is never one.
    pub(crate) fn new(per_second: u32, burst: u32) -> Self {
        let burst = if per_second == 0 { 0 } else { burst };
        let every = Duration::from_secs(1) / per_second.max(1);
        Bucket { every, burst, full_at: Duration::ZERO }
    }

    /// Takes a token if there is one.
    pub(crate) fn take(&mut self, now: Duration) -> bool {
        self.take_many(now, 1)
    }

    /// Takes so many tokens if they are all there.
    fn take_many(&mut self, now: Duration, tokens: u32) -> bool {
        let full_at = self.full_at.max(now) + self.every * tokens;
        let allowed = full_at - now <= self.every * self.burst;
        if allowed {
            self.full_at = full_at;
        }
        allowed
    }

    /// Puts so many tokens back, as far as they were taken.
    fn give(&mut self, tokens: u32) {
        self.full_at = self.full_at.saturating_sub(self.every * tokens);
    }

    /// Returns true if nothing was taken lately, so that the bucket can be forgotten.
    pub(crate) fn is_full(&self, now: Duration) -> bool {
        self.full_at <= now
    }
}

/// Bytes that may go by, so many a second and half a second's worth at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    /// Bytes a second; `None` is no limit.
    rate: Option<u64>,
    /// Bytes left, in billionths.
    left: u128,
    at: Duration,
}

const BILLION: u128 = 1_000_000_000;

impl Flow {
    pub(crate) fn new(now: Duration, rate: Option<u64>) -> Self {
        let mut flow = Flow { rate, left: 0, at: now };
        flow.left = flow.most();
        flow
    }

    /// Returns the most that `left` may be: half a second's worth, and at least the size of a datagram.
    fn most(&self) -> u128 {
        u128::from(self.rate.unwrap_or(0) / 2).max(1 << 16) * BILLION
    }

    /// Lets so many bytes go by, if that is allowed now.
    pub(crate) fn take(&mut self, now: Duration, bytes: usize) -> bool {
        let Some(rate) = self.rate else { return true };
        self.fill(now, rate);
        let bytes = bytes as u128 * BILLION;
        let allowed = bytes <= self.left;
        if allowed {
            self.left -= bytes;
        }
        allowed
    }

    /// Tells if nothing went by lately.
    pub(crate) fn is_full(&mut self, now: Duration) -> bool {
        let Some(rate) = self.rate else { return true };
        self.fill(now, rate);
        self.left == self.most()
    }

    fn fill(&mut self, now: Duration, rate: u64) {
        let new = now.saturating_sub(self.at).as_nanos() * u128::from(rate);
        self.left = (self.left + new).min(self.most());
        self.at = self.at.max(now);
    }
}

/// Sources that are remembered; beyond it all others share one's place.
const MAX_SOURCES: usize = 4096;
/// Time between two looks for some to forget.
const SWEEP: Duration = Duration::from_secs(1);
/// Most bytes that a source may be sent over UDP beyond the bytes that came from it. `EXCESS_PER_SECOND` of them are
/// forgiven a second. A sender that forges another's address gets no more than this out of the server.
const EXCESS: u32 = 4096;
const EXCESS_PER_SECOND: u32 = 256;
/// Requests of how many seconds a source may make at once.
const BURST_SECONDS: u32 = 4;

/// Accounts of the requests and answers of sources that have proven nothing, each an [`owner`](crate::owner).
#[derive(Debug)]
pub(crate) struct Sources {
    new: Source,
    known: BTreeMap<IpAddr, Source>,
    others: Source,
    /// Time of the last removal of sources without anything left to count.
    swept: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Source {
    requests: Bucket,
    excess: Bucket,
}

impl Sources {
    /// Permits each source so many requests a second, in the long run.
    pub(crate) fn new(per_second: u32) -> Self {
        let requests = Bucket::new(per_second, per_second.saturating_mul(BURST_SECONDS));
        let new = Source { requests, excess: Bucket::new(EXCESS_PER_SECOND, EXCESS) };
        Sources { new, known: BTreeMap::new(), others: new, swept: Duration::ZERO }
    }

    /// Lets a source ask something, if it may now.
    pub(crate) fn asks(&mut self, now: Duration, ip: IpAddr) -> bool {
        self.source(now, ip).requests.take(now)
    }

    /// Lets a datagram of so many bytes be answered with one of so many, if that is allowed now.
    pub(crate) fn answers(&mut self, now: Duration, ip: IpAddr, asked: usize, answer: usize) -> bool {
        let source = self.source(now, ip);
        let (asked, answer) = (on_wire(ip, asked), on_wire(ip, answer));
        let allowed = match answer.checked_sub(asked) {
            None | Some(0) => {
                source.excess.give(asked - answer);
                return true;
            }
            Some(excess) => source.excess.take_many(now, excess),
        };
        if !allowed {
            source.excess.give(asked);
        }
        allowed
    }

    fn source(&mut self, now: Duration, ip: IpAddr) -> &mut Source {
        let ip = crate::owner(ip);
        if !self.known.contains_key(&ip) && self.known.len() >= MAX_SOURCES && now >= self.swept + SWEEP {
            self.swept = now;
            self.known.retain(|_, s| !(s.requests.is_full(now) && s.excess.is_full(now)));
        }
        match self.known.len() < MAX_SOURCES || self.known.contains_key(&ip) {
            true => self.known.entry(ip).or_insert(self.new),
            false => &mut self.others,
        }
    }
}

/// Returns the length with the headers of IP and UDP.
fn on_wire(ip: IpAddr, payload: usize) -> u32 {
    let headers = if ip.to_canonical().is_ipv4() { 28 } else { 48 };
    u32::try_from(payload + headers).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut bucket = Bucket::new(10, 3);
        let mut at = Duration::from_secs(5);
        let taken = |b: &mut Bucket, at| (0..10).filter(|_| b.take(at)).count();
        assert_eq!(taken(&mut bucket, at), 3);
        assert!(!bucket.is_full(at));
        at += Duration::from_millis(100);
        assert_eq!(taken(&mut bucket, at), 1);
        at += Duration::from_secs(60);
        assert!(bucket.is_full(at));
        assert_eq!(taken(&mut bucket, at), 3);
        // No rate is no token, now or later.
        let mut none = Bucket::new(0, 3);
        assert_eq!([taken(&mut none, at), taken(&mut none, at * 1000)], [0, 0]);
    }

    #[test]
    fn half_a_second_of_bytes_and_then_the_rate() {
        let at = |ms| Duration::from_secs(5) + Duration::from_millis(ms);
        let mut flow = Flow::new(at(0), Some(200_000));
        let taken = |flow: &mut Flow, ms| (0..1000).filter(|_| flow.take(at(ms), 1000)).count();
        assert_eq!(taken(&mut flow, 0), 100);
        assert!(!flow.is_full(at(0)));
        assert_eq!((taken(&mut flow, 10), taken(&mut flow, 14), taken(&mut flow, 15)), (2, 0, 1));
        assert_eq!(taken(&mut flow, 60_000), 100);
        assert!(flow.is_full(at(61_000)));
        assert_eq!(taken(&mut Flow::new(at(0), Some(1)), 0), 65, "a datagram of any size");
        assert_eq!(taken(&mut Flow::new(at(0), None), 0), 1000);
    }

    #[test]
    fn a_source_is_sent_what_came_from_it_and_a_little_more() {
        let ip: IpAddr = "192.0.2.1".parse().unwrap();
        let mut sources = Sources::new(50);
        let now = Duration::from_secs(9);
        // 100 bytes on the wire for 50.
        let mut answered = |now| (0..200).filter(|_| sources.answers(now, ip, 22, 72)).count();
        // 81 times 50 beyond what came, and then each unanswered one pays for the next: 59 and 60 of 119.
        assert_eq!(answered(now), 81 + 59);
        // 96 bytes were left, and 256 are forgiven: seven times 50.
        assert_eq!(answered(now + Duration::from_secs(1)), 7 + 96);
        assert!((0..1000).all(|_| sources.answers(now, ip, 100, 100)), "what is no more, is always answered");
    }
}
