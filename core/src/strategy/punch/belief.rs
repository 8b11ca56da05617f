//! Probability that a rung of a punch connects, by what was measured and by the rungs that came to nothing.
//!
//! Three hypotheses about a pair of NATs are weighed. Both are as the plan has them. Or they are, but one filters TCP more
//! strictly than UDP, over which filters are measured. Or none of these: then nothing is known, any rate of success is as
//! likely as any other, and after `n` failures the next rung connects with 1 / (n + 2) (Laplace's rule of succession).
//! Bayes' rule moves the weights at each rung that came to nothing.
//!
//! The reasons: ADR 34 in docs/src/adr.

/// Probability, in thousandths, that a NAT of which only its owner has seen mappings is as the owner announces it. The rest is
/// what the owner's model has for other cases: 20 for several addresses outside in no order, 20 for ports that are kept in a
/// share of all cases, and 10 for what it has no hypothesis about. A peer does not announce what it has seen.
const PEER: u64 = 950;
/// Probability, in thousandths, that our NAT is one of which the model has a hypothesis.
const OURS: u64 = 990;
/// Probability, in thousandths, that neither NAT filters TCP more strictly than UDP. Our assumption: nobody has counted.
const SAME_FILTER: u64 = 980;
/// Likelihoods are parts of this.
const ONE: u64 = 1 << 24;

/// Ground of a rung: its chance, and what has to be so for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ground {
    /// Probability of a connection where both NATs are as the plan has them, in thousandths.
    pub(crate) hit: u32,
    /// Probability that ours is, by its mappings, in thousandths.
    pub(crate) certainty: u32,
    /// True if the rung relies on a filter that lets in more than what was dialled.
    pub(crate) by_filter: bool,
}

/// Likelihood of the rungs that came to nothing, by each hypothesis.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Belief {
    planned: u64,
    stricter: u64,
    rungs: u64,
}

impl Default for Belief {
    /// Returns what holds before the first rung.
    fn default() -> Self {
        Belief { planned: ONE, stricter: ONE, rungs: 0 }
    }
}

impl Ground {
    /// Returns the probability of a connection where a filter is stricter, in thousandths.
    fn hit_if_stricter(self) -> u64 {
        if self.by_filter { 0 } else { self.hit.min(999).into() }
    }
}

impl Belief {
    /// Returns the probability that a rung connects, in thousandths and at most 999.
    pub(crate) fn states(&self, ground: Ground) -> u16 {
        let [planned, stricter, none] = self.weights(ground);
        let hits = planned * u64::from(ground.hit.min(999))
            + stricter * ground.hit_if_stricter()
            + none * self.by_chance();
        (hits / (planned + stricter + none).max(1)).min(999) as u16
    }

    /// Takes in that a rung came to nothing.
    pub(crate) fn missed(&mut self, ground: Ground) {
        let misses = |hit: u64| 1000 - hit;
        self.planned = self.planned * misses(ground.hit.min(999).into()) / 1000;
        self.stricter = self.stricter * misses(ground.hit_if_stricter()) / 1000;
        self.rungs += 1;
    }

    /// Returns the weights of the hypotheses: as planned, with a stricter filter, none of these.
    fn weights(&self, ground: Ground) -> [u64; 3] {
        // In millionths.
        let planned = OURS * u64::from(ground.certainty.min(1000)) / 1000 * PEER;
        // The likelihood of n failures at a rate of which nothing is known is 1 / (n + 1).
        let none = (1_000_000 - planned) * (ONE / (self.rungs + 1));
        let same = planned * SAME_FILTER / 1000;
        [same * self.planned, (planned - same) * self.stricter, none]
    }

    /// Returns the probability that a rung connects about which nothing is known, in thousandths.
    fn by_chance(&self) -> u64 {
        1000 / (self.rungs + 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MET: Ground = Ground { hit: 999, certainty: 1000, by_filter: false };

    #[test]
    fn what_came_to_nothing_lowers_what_it_rested_on() {
        // 940.5 parts as planned, and 59.5 of which nothing is known: those alone are left after two failures.
        let mut belief = Belief::default();
        let mut stated = Vec::new();
        for _ in 0..8 {
            stated.push(belief.states(MET));
            belief.missed(MET);
        }
        assert_eq!(stated, [969, 353, 250, 200, 166, 142, 125, 111]);
        // A search of one in four says little by its failure.
        let quarter = Ground { hit: 250, ..MET };
        let mut belief = Belief::default();
        assert_eq!(belief.states(quarter), 264);
        belief.missed(quarter);
        assert_eq!(belief.states(quarter), 253);
    }

    #[test]
    fn a_rung_that_relied_on_a_filter_says_nothing_of_one_that_does_not() {
        let dialled = Ground { by_filter: true, ..MET };
        let mut belief = Belief::default();
        assert_eq!((belief.states(dialled), belief.states(MET)), (950, 969));
        belief.missed(dialled);
        assert_eq!((belief.states(dialled), belief.states(MET)), (218, 598));
    }

    #[test]
    fn nothing_is_certain_and_nothing_overflows() {
        let mut belief = Belief::default();
        let sure = Ground { hit: u32::MAX, certainty: u32::MAX, by_filter: false };
        for _ in 0..300 {
            assert!(belief.states(sure) <= 999);
            assert!(belief.states(Ground { hit: 0, certainty: 0, by_filter: true }) <= 500);
            belief.missed(sure);
        }
    }
}
