//! Randomness from one seed, by keyed streams.
//!
//! A draw is `BLAKE2s(key = seed, domain ‖ n)`, where `n` counts the draws of that domain. A
//! draw added in one place therefore moves no other, and a simulated run stays what it was.

use blake2::Blake2sMac;
use blake2::digest::consts::U32;
use blake2::digest::{FixedOutput, KeyInit, Update};

/// Purpose of a draw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Domain {
    SessionId = 1,
    MessageId,
    ClientId,
    StunTransaction,
    NoiseEphemeral,
    BackOff,
    Instance,
    Port,
    Punch,
    TurnTransaction,
    TurnSeed,
    RelaySeed,
    PortMapping,
    Clock,
    Admission,
    Proof,
    Udp,
    Meeting,
}

const DOMAINS: usize = Domain::Meeting as usize + 1;

/// The node's one source of randomness.
pub(crate) struct Random {
    seed: [u8; 32],
    drawn: [u64; DOMAINS],
}

impl Random {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Random { seed, drawn: [0; DOMAINS] }
    }

    /// Draws 32 fresh bytes for `domain`.
    pub(crate) fn draw(&mut self, domain: Domain) -> [u8; 32] {
        let n = &mut self.drawn[domain as usize];
        *n += 1;
        // A 32-byte key is always accepted.
        let mut mac = <Blake2sMac<U32> as KeyInit>::new(&self.seed.into());
        mac.update(&[domain as u8]);
        mac.update(&n.to_be_bytes());
        mac.finalize_fixed().into()
    }

    /// Draws fresh bytes for `domain`, at most 32.
    pub(crate) fn bytes<const N: usize>(&mut self, domain: Domain) -> [u8; N] {
        const { assert!(N <= 32) };
        let mut out = [0; N];
        out.copy_from_slice(&self.draw(domain)[..N]);
        out
    }

    /// Draws a number in `0..below`; zero for `below` of zero. The bias is below 2^-32 for `below` under 2^32.
    pub(crate) fn below(&mut self, domain: Domain, below: u64) -> u64 {
        u64::from_be_bytes(self.bytes(domain)) % below.max(1)
    }
}

impl core::fmt::Debug for Random {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Random(drawn {:?})", self.drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_do_not_disturb_each_other() {
        let (mut a, mut b) = (Random::new([1; 32]), Random::new([1; 32]));
        let first = a.draw(Domain::SessionId);
        for _ in 0..5 {
            b.draw(Domain::BackOff);
        }
        assert_eq!(first, b.draw(Domain::SessionId));
        assert_ne!(first, a.draw(Domain::SessionId));
        assert_ne!(Random::new([2; 32]).draw(Domain::SessionId), first);
        assert_ne!(Random::new([1; 32]).draw(Domain::MessageId), first);
    }
}
