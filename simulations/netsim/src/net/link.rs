//! A link between a device and a network.

use smallvec::SmallVec;

use crate::engine::{Domain, Keyed, Nanos};

/// A time in which nothing gets through.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Blackout {
    /// Beginning of the blackout.
    pub from: Nanos,
    /// End of the blackout: the first time after it.
    pub until: Nanos,
}

/// Properties of a link, the same in each direction. A way over a network takes two links: the sender's and the
/// receiver's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LinkSpec {
    /// Time that every packet takes.
    pub delay: Nanos,
    /// Most additional time of a packet, evenly distributed.
    pub jitter: Nanos,
    /// Packets lost, in a million.
    pub loss_ppm: u32,
    /// Packets held back by `hold`, in a million, so that later ones overtake them.
    pub reorder_ppm: u32,
    /// Time for which reordered packets are held back.
    pub hold: Nanos,
    /// Packets delivered twice, in a million.
    pub duplicate_ppm: u32,
    /// Time in which the link is dead.
    pub blackout: Blackout,
}

/// The delays of a packet's copies; none if it is lost.
pub type Fate = SmallVec<[Nanos; 2]>;

impl LinkSpec {
    /// A perfect link that takes this long.
    pub const fn with_delay(delay: Nanos) -> Self {
        LinkSpec {
            delay,
            jitter: 0,
            loss_ppm: 0,
            reorder_ppm: 0,
            hold: 0,
            duplicate_ppm: 0,
            blackout: Blackout { from: 0, until: 0 },
        }
    }

    /// Returns true if the link only delays packets, each by the same time.
    pub(crate) fn only_delays(&self) -> bool {
        *self == LinkSpec::with_delay(self.delay)
    }

    /// Returns the delays of the copies of the `n`th packet over the link `entity`.
    pub fn fate(&self, now: Nanos, rng: Keyed, entity: u64, n: u64) -> Fate {
        let dead = (self.blackout.from..self.blackout.until).contains(&now);
        if dead || rng.chance(Domain::Loss, entity, n, self.loss_ppm) {
            return Fate::new();
        }
        let copies = 1 + u64::from(rng.chance(Domain::Duplicate, entity, n, self.duplicate_ppm));
        (0..copies)
            .map(|copy| {
                let held = rng.chance(Domain::Reorder, entity, 2 * n + copy, self.reorder_ppm);
                let jitter = match self.jitter {
                    0 => 0,
                    most => rng.below(Domain::Jitter, entity, 2 * n + copy, most + 1),
                };
                self.delay + jitter + if held { self.hold } else { 0 }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::MILLI;

    #[test]
    fn each_fault_does_what_it_says() {
        let rng = Keyed::new(1);
        let many = |spec: LinkSpec| (0..10_000).map(move |n| spec.fate(5, rng, 1, n)).collect::<Vec<_>>();
        let perfect = LinkSpec::with_delay(MILLI);
        assert!(many(perfect).iter().all(|f| f.as_slice() == [MILLI]));
        let lost = many(LinkSpec { loss_ppm: 100_000, ..perfect }).iter().filter(|f| f.is_empty()).count();
        assert!(lost.abs_diff(1_000) < 120, "{lost}");
        let twice =
            many(LinkSpec { duplicate_ppm: 100_000, ..perfect }).iter().filter(|f| f.len() == 2).count();
        assert!(twice.abs_diff(1_000) < 120, "{twice}");
        let held = LinkSpec { reorder_ppm: 100_000, hold: MILLI, ..perfect };
        let held = many(held).iter().filter(|f| f[0] == 2 * MILLI).count();
        assert!(held.abs_diff(1_000) < 120, "{held}");
        let jitter = many(LinkSpec { jitter: MILLI, ..perfect });
        let (low, high) = jitter.iter().map(|f| f[0]).fold((u64::MAX, 0), |(l, h), d| (l.min(d), h.max(d)));
        assert!((MILLI..MILLI + 1_000).contains(&low) && (2 * MILLI - 1_000..=2 * MILLI).contains(&high));
        let dead = LinkSpec { blackout: Blackout { from: 5, until: 6 }, ..perfect };
        assert!(many(dead).iter().all(|f| f.is_empty()));
        assert_eq!(dead.fate(6, rng, 1, 0).as_slice(), [MILLI]);
    }
}
