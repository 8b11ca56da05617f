//! Limits of the requests that are carried out for peers: rates, and places at a time.
//!
//! A stranger's key costs nothing, so no rule by key holds a flood back. So each kind of request has a rate for all
//! strangers. Where more ask, lots are drawn, so that no timing helps a flood. A request that is not drawn hears
//! nothing and is repeated by its sender.
//!
//! Each kind has so many places, of which the oldest makes room for the next, first among those whose peers have not
//! shown themselves. So a flood of one kind leaves the others alone and no flood keeps a place. A peer that is let in
//! has a place for [`LEAST`].

use core::time::Duration;

use super::wish::Kind;
use crate::call::Refusal;
use crate::identity::NodeId;
use crate::limit::{Bucket, Buckets};
use crate::session::SessionId;
use crate::strategy::ours::Trust;
use crate::time::Instant;

/// Strangers' requests of one kind: so many at once, then one each so often.
const BURST: u32 = 32;
const EVERY: Duration = Duration::from_micros(1_000_000 / 32);
/// Requests that are drawn in a second, where more than `BURST` ask: fewer than the rate allows, which leaves room for
/// luck.
const DRAWN: u32 = 25;
/// Strangers' requests a second, of all kinds together.
pub(super) const STRANGERS_A_SECOND: usize = 4 * (1_000_000 / EVERY.as_micros()) as usize;
/// Most places of one kind, of strangers and of known peers each.
const PLACES: usize = 128;
const PLACES_KNOWN: usize = 64;
/// Least time of a stranger's place, when all others come and go as fast as they may.
pub(super) const LEAST: Duration = Duration::from_secs(3);
const _: () = assert!((PLACES as u128 - BURST as u128) * EVERY.as_micros() >= LEAST.as_micros());
/// Most places at a time of one stranger, and of one known peer, in addition to those of the same call.
const OF_ONE_STRANGER: usize = 1;
const OF_ONE_KNOWN: usize = 8;
/// Requests of one stranger, by kind as [`Kind`] has them: a punch takes one for each of its rungs.
const OF_ONE_STRANGER_ASKS: [(u32, Duration); 4] = [
    (8, Duration::from_secs(5)),
    (16, Duration::from_millis(2500)),
    (8, Duration::from_secs(5)),
    (8, Duration::from_secs(5)),
];
/// Requests of one named peer, of each kind. A program that calls for each task calls often, and each call asks for most kinds.
const OF_ONE_NAMED: (u32, Duration) = (32, Duration::from_millis(500));
/// Peers whose rates are counted at a time. Of strangers no more are let in while a bucket fills.
const STRANGERS_COUNTED: usize = 512;
const KNOWN_COUNTED: usize = 8192;

/// Place that a peer's request takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::node) struct Place {
    pub(in crate::node) kind: Kind,
    pub(in crate::node) session: SessionId,
    pub(in crate::node) peer: NodeId,
    pub(in crate::node) trust: Trust,
    /// Time of the last request for it.
    pub(in crate::node) since: Instant,
    /// True if a packet or stream has come by the way that was asked for.
    pub(in crate::node) answered: bool,
}

/// Reason that a request is not carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::node) enum Denied {
    Refused(Refusal),
    /// Crowd of strangers: the request may be repeated, and is not answered.
    Crowded,
}

/// Count of the strangers that ask for one kind.
#[derive(Clone, Copy, Debug)]
struct Crowd {
    bucket: Bucket,
    /// Start of the second that is counted, its count, and the count of the second before.
    second: Instant,
    count: u32,
    before: u32,
}

#[derive(Debug)]
pub(super) struct Requests {
    /// Crowds by kind.
    strangers: [Crowd; 4],
    /// Buckets by kind and by trust.
    of_one: [[Buckets<NodeId>; 2]; 4],
}

impl Requests {
    pub(super) fn new() -> Self {
        let of_one = |(burst, every)| {
            let (named, each) = OF_ONE_NAMED;
            [Buckets::new(KNOWN_COUNTED, named, each), Buckets::new(STRANGERS_COUNTED, burst, every)]
        };
        Requests { strangers: [Crowd::new(); 4], of_one: OF_ONE_STRANGER_ASKS.map(of_one) }
    }

    /// Admits a request, in addition to those that have places. Returns the place that makes room for it, if one has
    /// to.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        new: Place,
        places: impl Iterator<Item = Place> + Clone,
        draw: impl FnOnce(u64) -> u64,
    ) -> Result<Option<Place>, Denied> {
        // The same call may ask for a dial and for a punch.
        let others = places.filter(|p| p.session != new.session);
        let most = match new.trust {
            Trust::Known => OF_ONE_KNOWN,
            Trust::Stranger => OF_ONE_STRANGER,
        };
        if others.clone().filter(|p| p.peer == new.peer).count() >= most {
            return Err(Denied::Refused(Refusal::Busy));
        }
        let like = others.filter(|p| (p.kind, p.trust) == (new.kind, new.trust));
        let full = match new.trust {
            Trust::Known if like.clone().count() >= PLACES_KNOWN => {
                return Err(Denied::Refused(Refusal::Busy));
            }
            Trust::Known => false,
            Trust::Stranger => like.clone().count() >= PLACES,
        };
        self.take(now, new, draw)?;
        Ok(if full { like.min_by_key(|p| (p.answered, p.since, p.session)) } else { None })
    }

    /// Admits the next request within one that has a place.
    pub(super) fn go_on(
        &mut self,
        now: Instant,
        place: Place,
        draw: impl FnOnce(u64) -> u64,
    ) -> Result<(), Denied> {
        self.take(now, place, draw)
    }

    fn take(&mut self, now: Instant, new: Place, draw: impl FnOnce(u64) -> u64) -> Result<(), Denied> {
        let kind = new.kind as usize;
        let of_one = &mut self.of_one[kind][new.trust as usize];
        // First the peer's own: one that asks without end leaves the others their rate.
        if !of_one.allows(now, new.peer) {
            return Err(Denied::Refused(Refusal::Busy));
        }
        if new.trust == Trust::Stranger && !self.strangers[kind].draws(now, draw) {
            return Err(Denied::Crowded);
        }
        if of_one.take(now, new.peer) { Ok(()) } else { Err(Denied::Crowded) }
    }
}

impl Crowd {
    fn new() -> Self {
        let second = Instant::from_nanos(i64::MIN);
        Crowd { bucket: Bucket::new(BURST, EVERY), second, count: 0, before: 0 }
    }

    /// Returns true if one more is let in. `draw` gives a random number below its argument.
    fn draws(&mut self, now: Instant, draw: impl FnOnce(u64) -> u64) -> bool {
        let second = Duration::from_secs(1);
        if now >= self.second + 2 * second {
            (self.second, self.count, self.before) = (now, 0, 0);
        } else if now >= self.second + second {
            (self.second, self.count, self.before) = (self.second + second, 0, self.count);
        }
        self.count = self.count.saturating_add(1);
        // Of the second before counts what is not yet a second ago.
        let left = second.saturating_sub(now.since(self.second)).as_millis() as u64;
        let asked = u64::from(self.count) + u64::from(self.before) * left / 1000;
        let drawn = asked <= BURST.into() || draw(asked) < DRAWN.into();
        drawn && self.bucket.take(now)
    }
}
