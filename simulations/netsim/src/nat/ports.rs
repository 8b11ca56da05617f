//! Choice of the external port of a new mapping.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Alloc, Clash, NatSpec, Scope};
use crate::engine::{Domain, Keyed, Nanos, SECOND};

/// Most repeats of a random choice before the NAT gives up, as in Linux.
const TRIES: u32 = 128;

/// The state of a NAT's allocation.
#[derive(Debug)]
pub(super) struct Ports {
    id: u64,
    rng: Keyed,
    draws: u64,
    /// The next port of each counter, as an offset in the range.
    counters: BTreeMap<Option<IpAddr>, i64>,
    /// Bases of dependent allocation, by inside address.
    bases: BTreeMap<IpAddr, i64>,
    background: u64,
    background_at: Nanos,
}

impl Ports {
    pub(super) fn new(id: u64, rng: Keyed) -> Ports {
        Ports {
            id,
            rng,
            draws: 0,
            counters: BTreeMap::new(),
            bases: BTreeMap::new(),
            background: 0,
            background_at: 0,
        }
    }

    fn draw(&mut self, bound: u64) -> u64 {
        self.draws += 1;
        self.rng.below(Domain::Port, self.id, self.draws, bound)
    }

    /// Returns the number of mappings that other users have opened since the last call.
    fn others(&mut self, spec: &NatSpec, now: Nanos) -> i64 {
        if spec.background == 0 {
            return 0;
        }
        let mean = 1_000 * SECOND / u64::from(spec.background);
        let mut count = 0;
        loop {
            let gap = self.rng.exponential(Domain::Background, self.id, self.background, mean);
            if self.background_at + gap > now {
                return count;
            }
            self.background_at += gap;
            self.background += 1;
            count += 1;
        }
    }

    /// A port for this inside end, for which `free` holds.
    pub(super) fn take(
        &mut self,
        spec: &NatSpec,
        now: Nanos,
        inside: (IpAddr, u16),
        free: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let (low, high) = (i64::from(spec.range.0), i64::from(spec.range.1));
        // An empty range has none.
        if low > high {
            return None;
        }
        let count = high - low + 1;
        let wrap = |n: i64| (low + (n - low).rem_euclid(count)) as u16;
        let port = i64::from(inside.1);
        match spec.alloc {
            Alloc::Preserve(clash) => {
                // RFC 4787 REQ-3 has such a port stay among the lowest; Linux keeps it.
                let well_known = spec.range == NatSpec::LINUX.range && port < low;
                if ((low..=high).contains(&port) || well_known) && free(inside.1) {
                    return Some(inside.1);
                }
                match clash {
                    Clash::Next => (1..count).map(|n| wrap(port + n)).find(|p| free(*p)),
                    Clash::Random => self.random(low, 1, count, free),
                }
            }
            Alloc::Offset(by) => {
                let first = wrap(port + i64::from(by));
                (0..count).map(|n| wrap(i64::from(first) + n)).find(|p| free(*p))
            }
            Alloc::Sequential { step, scope } => {
                let others = self.others(spec, now);
                let (key, others) = match scope {
                    Scope::Global => (None, others),
                    Scope::Host => (Some(inside.0), 0),
                };
                let step = i64::from(step);
                let start = match self.counters.get(&key) {
                    Some(next) => next + others * step,
                    None => self.start(key, count),
                };
                for n in 0..count {
                    let candidate = wrap(low + start + n * step);
                    if free(candidate) {
                        self.counters.insert(key, start + (n + 1) * step);
                        return Some(candidate);
                    }
                }
                None
            }
            Alloc::Dependent { step } => {
                let base = match self.bases.get(&inside.0) {
                    Some(base) => *base,
                    None => {
                        let base = self.draw(count as u64) as i64 - port * i64::from(step);
                        self.bases.insert(inside.0, base);
                        base
                    }
                };
                let first = base + port * i64::from(step);
                (0..count).map(|n| wrap(low + first + n)).find(|p| free(*p))
            }
            Alloc::Random => self.random(low, 1, count, free),
            Alloc::Parity => {
                let first = low + (port - low).rem_euclid(2);
                self.random(first, 2, (high - first).div_euclid(2) + 1, free)
            }
            Alloc::Block(size) => {
                let (first, size) = self.block(inside.0, size, (low, count));
                self.random(first, 1, size, free)
            }
            Alloc::CountedBlock(size) => {
                let (first, size) = self.block(inside.0, size, (low, count));
                let start = self.start(Some(inside.0), size);
                let n = (0..size).find(|n| free((first + (start + n) % size) as u16))?;
                self.counters.insert(Some(inside.0), start + n + 1);
                Some((first + (start + n) % size) as u16)
            }
            Alloc::Drift(most) => {
                let start = self.start(None, count) + self.draw(u64::from(most.max(1))) as i64;
                let n = (0..count).find(|n| free(wrap(low + start + n)))?;
                self.counters.insert(None, start + n + 1);
                Some(wrap(low + start + n))
            }
            Alloc::Mixed(permille) => {
                let keeps = self.draw(1_000) < u64::from(permille);
                if keeps && (low..=high).contains(&port) && free(inside.1) {
                    return Some(inside.1);
                }
                self.random(low, 1, count, free)
            }
            Alloc::Sticky => {
                let of_port = super::table::key_of(inside.0) << 16 | u64::from(inside.1);
                let usual = low + self.rng.below(Domain::Port, !self.id, of_port, count as u64) as i64;
                if free(usual as u16) {
                    return Some(usual as u16);
                }
                self.random(low, 1, count, free)
            }
        }
    }

    /// Moves a shared counter on without a mapping.
    pub(super) fn skip(&mut self, spec: &NatSpec) {
        if let (Alloc::Sequential { step, .. }, Some(next)) = (spec.alloc, self.counters.get_mut(&None)) {
            *next += i64::from(step);
        }
    }

    /// The next place of a counter, random at first.
    fn start(&mut self, counter: Option<IpAddr>, count: i64) -> i64 {
        match self.counters.get(&counter) {
            Some(next) => *next,
            None => self.draw(count as u64) as i64,
        }
    }

    /// Returns the first port of the block of an inside address, and the number of its ports.
    fn block(&self, inside: IpAddr, size: u16, (low, count): (i64, i64)) -> (i64, i64) {
        let size = i64::from(size).clamp(1, count);
        let key = self.id ^ super::table::key_of(inside);
        let block = self.rng.below(Domain::Port, key, u64::MAX, (count / size) as u64) as i64;
        (low + block * size, size)
    }

    /// A random one of `count` ports from `low` on, `apart` from one another. `None` where there is none.
    fn random(&mut self, low: i64, apart: i64, count: i64, free: impl Fn(u16) -> bool) -> Option<u16> {
        let tries = if count > 0 { TRIES } else { 0 };
        (0..tries).map(|_| (low + apart * self.draw(count as u64) as i64) as u16).find(|p| free(*p))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside(port: u16) -> (IpAddr, u16) {
        ([192, 168, 1, 2].into(), port)
    }

    fn ports(spec: &NatSpec, asked: &[u16]) -> Vec<u16> {
        let mut ports = Ports::new(1, Keyed::new(1));
        asked.iter().map(|p| ports.take(spec, 0, inside(*p), |_| true).unwrap()).collect()
    }

    #[test]
    fn each_allocation_does_what_it_says() {
        let spec = |alloc| NatSpec::LINUX.alloc(alloc);
        let preserve = spec(Alloc::Preserve(Clash::Random));
        assert_eq!(ports(&preserve, &[5000, 443]), [5000, 443]);
        assert_ne!(ports(&NatSpec { range: (1025, 65_535), ..preserve }, &[443]), [443]);
        let mut machine = Ports::new(1, Keyed::new(1));
        assert_ne!(machine.take(&preserve, 0, inside(5000), |p| p != 5000), Some(5000));
        let next = spec(Alloc::Preserve(Clash::Next));
        assert_eq!(machine.take(&next, 0, inside(65535), |p| p != 65535), Some(1024));
        assert_eq!(machine.take(&next, 0, inside(1), |_| false), None, "nothing is free");
        assert_eq!(ports(&spec(Alloc::Offset(-7)), &[5000, 1024]), [4993, 65529]);
        let seq = ports(&spec(Alloc::Sequential { step: 2, scope: Scope::Global }), &[9, 9, 1]);
        assert_eq!((seq[1] - seq[0], seq[2] - seq[1]), (2, 2));
        let dep = ports(&spec(Alloc::Dependent { step: 3 }), &[5000, 5001, 5000]);
        assert_eq!((dep[1].wrapping_sub(dep[0]), dep[2]), (3, dep[0]));
        let random = ports(&spec(Alloc::Random), &[5000; 100]);
        assert!(random.iter().collect::<std::collections::BTreeSet<_>>().len() > 95);
        let block = ports(&spec(Alloc::Block(512)), &[5000; 100]);
        assert!(block.iter().max().unwrap() - block.iter().min().unwrap() < 512);
        assert!(block.iter().collect::<std::collections::BTreeSet<_>>().len() > 80);
        let counted = ports(&spec(Alloc::CountedBlock(64)), &[5000; 100]);
        let (low, high) = (counted.iter().min().unwrap(), counted.iter().max().unwrap());
        let steps = counted.windows(2).all(|w| w[1] == w[0] + 1 || (w[0], w[1]) == (*high, *low));
        assert!(steps && high - low == 63, "{counted:?}");
        let parity = ports(&spec(Alloc::Parity), &[5000, 5001].repeat(50));
        assert!(parity.iter().zip([0, 1].repeat(50)).all(|(port, odd)| port % 2 == odd));
        // A range of one port has no odd one here.
        let one = NatSpec { range: (65_534, 65_534), ..spec(Alloc::Parity) };
        assert_eq!(machine.take(&one, 0, inside(5001), |_| true), None);
        let drift = ports(&spec(Alloc::Drift(4)), &[5000; 100]);
        let wraps = |w: &[u16]| (1..=4).contains(&(i32::from(w[1]) - i32::from(w[0])).rem_euclid(64_512));
        assert!(drift.windows(2).all(wraps), "{drift:?}");
        let mixed = ports(&spec(Alloc::Mixed(700)), &[5000; 1_000]);
        let kept = mixed.iter().filter(|port| **port == 5000).count();
        assert!((650..750).contains(&kept), "{kept}");
        let sticky = ports(&spec(Alloc::Sticky), &[5000, 5001, 5000]);
        assert!(sticky[0] == sticky[2] && sticky[0] != sticky[1] && sticky[1] != sticky[0] + 1);
    }

    #[test]
    fn other_users_move_a_shared_counter_and_no_other() {
        let mut busy = NatSpec::LINUX.alloc(Alloc::Sequential { step: 1, scope: Scope::Global });
        busy.background = 50_000;
        let taken = |spec: &NatSpec| {
            let mut machine = Ports::new(1, Keyed::new(4));
            let first = machine.take(spec, 0, inside(1), |_| true).unwrap();
            let second = machine.take(spec, 10 * SECOND, inside(1), |_| true).unwrap();
            (i64::from(second) - i64::from(first)).rem_euclid(64_512)
        };
        // 50 a second for 10 s: 500, with a standard deviation of 22.
        assert!(taken(&busy).abs_diff(501) < 100, "{}", taken(&busy));
        busy.alloc = Alloc::Sequential { step: 1, scope: Scope::Host };
        assert_eq!(taken(&busy), 1);
    }
}
