//! Keyed randomness: a draw depends on the seed, its purpose, its entity and its number there, and on nothing else. An
//! additional draw in one place moves no other. So a seed keeps its meaning when the code around it changes, and a
//! fault taken out leaves the rest of the world as it was.

/// Purpose of a draw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Domain {
    /// A link's decision to lose a packet.
    Loss,
    /// The delay of a packet on a link beyond its base.
    Jitter,
    /// A link's decision to hold a packet back behind later ones.
    Reorder,
    /// A link's decision to deliver a packet twice.
    Duplicate,
    /// The port a NAT takes.
    Port,
    /// The times at which other users of a NAT open flows.
    Background,
    /// A host's initial sequence numbers.
    Sequence,
    /// A host's ephemeral ports.
    Ephemeral,
    /// The draws of an async program.
    Program,
    /// A purpose of the programs and scenarios that use this crate, by a number of theirs.
    User(u32),
}

impl Domain {
    /// The first number of a user's purpose. What the crate adds has to come from above all of them, so that seeds keep their meaning.
    const USER: u64 = 9;

    const fn number(self) -> u64 {
        match self {
            Domain::Loss => 1,
            Domain::Jitter => 2,
            Domain::Reorder => 3,
            Domain::Duplicate => 4,
            Domain::Port => 5,
            Domain::Background => 6,
            Domain::Sequence => 7,
            Domain::Ephemeral => 8,
            Domain::Program => Domain::USER + (1 << 32),
            Domain::User(n) => Domain::USER + n as u64,
        }
    }
}

/// The source of all randomness of a world.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keyed {
    seed: u64,
}

const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^ (x >> 32)
}

impl Keyed {
    /// The randomness of this seed.
    pub const fn new(seed: u64) -> Self {
        Keyed { seed }
    }

    /// The seed.
    pub const fn seed(self) -> u64 {
        self.seed
    }

    /// The `n`th draw of `entity` for `domain`: 64 uniform bits.
    pub const fn draw(self, domain: Domain, entity: u64, n: u64) -> u64 {
        let a = mix(self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(domain.number() + 1));
        let b = mix(a ^ entity.wrapping_add(0x3c6e_f372_fe94_f82b));
        mix(b ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// A draw below `bound`, which must not be 0.
    pub const fn below(self, domain: Domain, entity: u64, n: u64, bound: u64) -> u64 {
        // Multiply-shift: the bias is under bound / 2^64.
        ((self.draw(domain, entity, n) as u128 * bound as u128) >> 64) as u64
    }

    /// Decides with a chance of `ppm` in a million.
    pub const fn chance(self, domain: Domain, entity: u64, n: u64, ppm: u32) -> bool {
        ppm != 0 && self.below(domain, entity, n, 1_000_000) < ppm as u64
    }

    /// Draws from the exponential distribution with mean `mean`, in whole units and without floats. -ln of a uniform
    /// number is ln 2 times its binary logarithm, here to 0.8 % of the mean.
    pub const fn exponential(self, domain: Domain, entity: u64, n: u64, mean: u64) -> u64 {
        let uniform = self.draw(domain, entity, n) | 1;
        let zeros = uniform.leading_zeros() as u64;
        // 16 bits behind the leading one: f in log2(1 + f), which is f + 0.3466 f (1 - f) nearly.
        let f = (uniform << zeros << 1) >> 48;
        let log2 = f + ((f * (65_536 - f)) >> 16) * 22_713 / 65_536;
        let bits = ((zeros + 1) << 16) - log2;
        // ln 2 = 45,426 / 65,536.
        ((bits as u128 * 45_426 * mean as u128) >> 32) as u64
    }

    /// 32 bytes, for a node's seed.
    pub fn bytes(self, domain: Domain, entity: u64) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (n, chunk) in bytes.chunks_mut(8).enumerate() {
            chunk.copy_from_slice(&self.draw(domain, entity, n as u64).to_le_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_matters_and_nothing_else() {
        let rng = Keyed::new(7);
        let one = rng.draw(Domain::Loss, 1, 1);
        assert_eq!(one, Keyed::new(7).draw(Domain::Loss, 1, 1));
        for other in [
            rng.draw(Domain::Jitter, 1, 1),
            rng.draw(Domain::Loss, 2, 1),
            rng.draw(Domain::Loss, 1, 2),
            Keyed::new(8).draw(Domain::Loss, 1, 1),
        ] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn users_have_purposes_of_their_own() {
        let rng = Keyed::new(7);
        let own = [Domain::Loss, Domain::Ephemeral, Domain::User(0), Domain::User(1), Domain::User(u32::MAX)];
        let drawn: std::collections::BTreeSet<u64> =
            own.iter().map(|domain| rng.draw(*domain, 1, 1)).collect();
        assert_eq!(drawn.len(), own.len());
        // A seed's meaning: to be changed on purpose only.
        assert_eq!(own.map(Domain::number), [1, 8, 9, 10, 9 + u64::from(u32::MAX)]);
    }

    #[test]
    fn draws_are_even() {
        let rng = Keyed::new(3);
        let mut buckets = [0u32; 16];
        for n in 0..160_000 {
            buckets[rng.below(Domain::Port, n % 7, n / 7, 16) as usize] += 1;
        }
        // 10,000 each; 4 standard deviations are 390.
        assert!(buckets.iter().all(|b| b.abs_diff(10_000) < 390), "{buckets:?}");
        let hits = (0..100_000).filter(|n| rng.chance(Domain::Loss, 9, *n, 50_000)).count();
        assert!(hits.abs_diff(5_000) < 280, "{hits}");
    }

    #[test]
    fn exponential_draws_have_the_mean_and_the_tail() {
        let rng = Keyed::new(5);
        let draws: Vec<u64> =
            (0..100_000).map(|n| rng.exponential(Domain::Background, 1, n, 1_000)).collect();
        let mean = draws.iter().sum::<u64>() / draws.len() as u64;
        assert!(mean.abs_diff(1_000) < 20, "{mean}");
        // e^-2 = 13.53 % are over twice the mean.
        let tail = draws.iter().filter(|d| **d > 2_000).count();
        assert!(tail.abs_diff(13_534) < 600, "{tail}");
    }
}
