//! Places that networks share, and the choice of who goes for a newcomer when all are taken.

use core::cmp::Reverse;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Places in all and shares of networks. One IPv4 address or IPv6 /64 has at most [`one`](Self::one) of them. A /56 has
/// twice as many, an IPv4 /24 or an IPv6 /48 four times as many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: two numbers, which owners give together.
pub struct Shares {
    /// Places in all.
    pub all: usize,
    /// Places of one IPv4 address or one IPv6 /64.
    pub one: usize,
}

/// The newcomer's own address, or /64, has its share already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

/// Members, each under a key of its own. Where all places are taken, a newcomer gets that of the idlest member of the
/// network that has most. Where its own network's are, it gets that of the idlest of the part that has most.
#[derive(Debug)]
pub struct Crowd<K> {
    shares: Shares,
    /// Networks of each member, and when it was heard last.
    members: BTreeMap<K, (Networks, Duration)>,
    /// The same the other way round: for each address or /64 the idlest first.
    ones: BTreeMap<Networks, BTreeSet<(Duration, K)>>,
    /// Count of members of each middle network, by its wide one.
    middles: BTreeMap<(IpAddr, IpAddr), usize>,
    wides: BTreeMap<IpAddr, usize>,
}

/// The networks of an address that are counted, each within the one before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Networks {
    wide: IpAddr,
    middle: IpAddr,
    one: IpAddr,
}

impl Networks {
    fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let wide = Ipv4Addr::from_bits(ip.to_bits() & 0xffff_ff00).into();
                Networks { wide, middle: wide, one: ip.into() }
            }
            IpAddr::V6(ip) => {
                let cut =
                    |length: u32| Ipv6Addr::from_bits(ip.to_bits() & u128::MAX << (128 - length)).into();
                Networks { wide: cut(48), middle: cut(56), one: cut(64) }
            }
        }
    }

    /// Most places of each of them.
    fn most(&self, shares: Shares) -> [usize; 3] {
        let middle = if self.one.is_ipv4() { 4 } else { 2 };
        [1, middle, 4].map(|times| shares.one.saturating_mul(times))
    }
}

impl<K: Ord + Clone> Crowd<K> {
    /// An empty one.
    pub fn new(shares: Shares) -> Self {
        let (members, ones) = (BTreeMap::new(), BTreeMap::new());
        Crowd { shares, members, ones, middles: BTreeMap::new(), wides: BTreeMap::new() }
    }

    /// Lets somebody in, who was heard now; a member may come again from elsewhere. Returns the member that had to go.
    ///
    /// # Errors
    /// [`Full`] if the newcomer's address has its share: nothing has changed.
    pub fn enter(&mut self, now: Duration, key: K, from: IpAddr) -> Result<Option<K>, Full> {
        let old = self.remove(&key);
        let its = Networks::of(from);
        let gone = match self.idlest_for(&its) {
            Ok(gone) => gone,
            Err(Full) => {
                if let Some((networks, heard)) = old {
                    self.insert(key, networks, heard);
                }
                return Err(Full);
            }
        };
        if let Some(gone) = &gone {
            self.remove(gone);
        }
        self.insert(key, its, now);
        Ok(gone)
    }

    /// Notes that a member was heard.
    pub fn heard(&mut self, now: Duration, key: &K) {
        if let Some((networks, heard)) = self.members.get_mut(key)
            && let Some(one) = self.ones.get_mut(networks)
        {
            one.remove(&(*heard, key.clone()));
            *heard = now;
            one.insert((now, key.clone()));
        }
    }

    /// Removes a member.
    pub fn leave(&mut self, key: &K) {
        self.remove(key);
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Tells if there are no members.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    fn insert(&mut self, key: K, networks: Networks, heard: Duration) {
        let Networks { wide, middle, .. } = networks;
        self.members.insert(key.clone(), (networks, heard));
        self.ones.entry(networks).or_default().insert((heard, key));
        *self.middles.entry((wide, middle)).or_default() += 1;
        *self.wides.entry(wide).or_default() += 1;
    }

    fn remove(&mut self, key: &K) -> Option<(Networks, Duration)> {
        let (networks, heard) = self.members.remove(key)?;
        if let Some(one) = self.ones.get_mut(&networks) {
            one.remove(&(heard, key.clone()));
            if one.is_empty() {
                self.ones.remove(&networks);
            }
        }
        less(&mut self.middles, &(networks.wide, networks.middle));
        less(&mut self.wides, &networks.wide);
        Some((networks, heard))
    }

    /// Chooses who goes for a newcomer of these networks, if somebody has to.
    fn idlest_for(&self, its: &Networks) -> Result<Option<K>, Full> {
        let [one, middle, wide] = its.most(self.shares);
        if self.ones.get(its).is_some_and(|ones| ones.len() >= one) {
            return Err(Full);
        }
        if self.in_middle(its) >= middle {
            return Ok(self.idlest(its, self.parts(its.wide).filter(|(part, _)| part.middle == its.middle)));
        }
        if self.wides.get(&its.wide).is_some_and(|count| *count >= wide) {
            return Ok(self.idlest(its, self.parts(its.wide)));
        }
        if self.len() < self.shares.all {
            return Ok(None);
        }
        // The newcomer is counted too.
        let size = |(wide, count): (&IpAddr, &usize)| count + usize::from(*wide == its.wide);
        let most = self.wides.iter().map(size).max();
        let crowded = self.wides.iter().filter(|entry| Some(size(*entry)) == most);
        Ok(self.idlest(its, crowded.flat_map(|(wide, _)| self.parts(*wide))))
    }

    fn in_middle(&self, networks: &Networks) -> usize {
        self.middles.get(&(networks.wide, networks.middle)).copied().unwrap_or(0)
    }

    /// The addresses and /64s of a wide network.
    fn parts(&self, wide: IpAddr) -> impl Iterator<Item = (&Networks, &BTreeSet<(Duration, K)>)> {
        let lowest: IpAddr = Ipv4Addr::UNSPECIFIED.into();
        let first = Networks { wide, middle: lowest, one: lowest };
        self.ones.range(first..).take_while(move |(part, _)| part.wide == wide)
    }

    /// Returns the member that was heard the longest ago, of the parts with most members. The newcomer is counted in
    /// its part.
    fn idlest<'a>(
        &'a self,
        newcomer: &Networks,
        parts: impl Iterator<Item = (&'a Networks, &'a BTreeSet<(Duration, K)>)>,
    ) -> Option<K>
    where
        K: 'a,
    {
        let rank = |(part, members): &(&Networks, &BTreeSet<(Duration, K)>)| {
            let middle = self.in_middle(part) + usize::from(part.middle == newcomer.middle);
            let one = members.len() + usize::from(*part == newcomer);
            (middle, one, members.first().map(|(heard, _)| Reverse(*heard)))
        };
        parts.max_by_key(rank)?.1.first().map(|(_, key)| key.clone())
    }
}

fn less<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crowd(all: usize, one: usize) -> Crowd<u32> {
        Crowd::new(Shares { all, one })
    }

    fn at(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// Counts how many of so many get in from these addresses without anybody's leaving.
    fn fits(crowd: &mut Crowd<u32>, from: &dyn Fn(u32) -> String, many: u32) -> usize {
        let base = crowd.len() as u32;
        let enter = |n: &u32| crowd.enter(at(0), base + n, from(*n).parse().unwrap()) == Ok(None);
        (0..many).filter(enter).count()
    }

    #[test]
    fn each_network_has_its_share() {
        let alone = |from: &dyn Fn(u32) -> String| fits(&mut crowd(10_000, 8), from, 200);
        assert_eq!(alone(&|_| "192.0.2.1".into()), 8);
        assert_eq!(alone(&|n| if n % 2 == 0 { "192.0.2.1" } else { "::ffff:192.0.2.1" }.into()), 8);
        assert_eq!(alone(&|n| format!("192.0.2.{n}")), 32);
        assert_eq!(alone(&|n| format!("192.0.{n}.1")), 200);
        assert_eq!(alone(&|n| format!("2001:db8::{n:x}")), 8);
        assert_eq!(alone(&|n| format!("2001:db8:0:{n:x}::1")), 16, "a /56");
        assert_eq!(alone(&|n| format!("2001:db8:0:{n:x}00::1")), 32, "a /48");
        assert_eq!(alone(&|n| format!("2001:db8:{n:x}::1")), 200);
    }

    #[test]
    fn who_comes_when_all_is_taken_gets_the_place_of_the_idlest_where_most_are() {
        let mut crowd = crowd(6, 4);
        let enter = |crowd: &mut Crowd<u32>, s, key, ip: &str| crowd.enter(at(s), key, ip.parse().unwrap());
        for (s, key, ip) in [
            (1, 1, "198.51.100.1"),
            (2, 2, "192.0.2.1"),
            (3, 3, "192.0.2.2"),
            (4, 4, "192.0.2.2"),
            (5, 5, "203.0.113.1"),
            (6, 6, "203.0.113.2"),
        ] {
            assert_eq!(enter(&mut crowd, s, key, ip), Ok(None));
        }
        crowd.heard(at(7), &3);
        // The /24 with three, its address with two, and of these the one that is silent.
        assert_eq!(enter(&mut crowd, 8, 7, "2001:db8::1"), Ok(Some(4)));
        // Two and two: the /24 of the newcomer has most with it.
        assert_eq!(enter(&mut crowd, 9, 8, "203.0.113.3"), Ok(Some(5)));
        assert_eq!(enter(&mut crowd, 10, 9, "2001:db8:1::1"), Ok(Some(2)));
        assert_eq!(enter(&mut crowd, 11, 10, "2001:db8:2::1"), Ok(Some(6)));
        // One each: the idlest of all.
        assert_eq!(enter(&mut crowd, 12, 11, "2001:db8:3::1"), Ok(Some(1)));
        assert_eq!(crowd.len(), 6);
        for key in [3, 7, 8, 9, 10, 11] {
            crowd.leave(&key);
        }
        assert!(
            crowd.is_empty() && crowd.ones.is_empty() && crowd.middles.is_empty() && crowd.wides.is_empty()
        );
    }

    #[test]
    fn within_a_network_that_has_its_share_the_part_that_has_most_makes_room() {
        let mut crowd = crowd(100, 2);
        let mut enter = |s, key, ip: &str| crowd.enter(at(s), key, ip.parse().unwrap());
        for (key, ip) in
            [(1, "2001:db8:0:1::1"), (2, "2001:db8:0:1::1"), (3, "2001:db8:0:2::1"), (4, "2001:db8:0:3::1")]
        {
            assert_eq!(enter(u64::from(key), key, ip), Ok(None));
        }
        assert_eq!(enter(5, 5, "2001:db8:0:1::9"), Err(Full), "one /64 gets no more by it");
        assert_eq!(enter(5, 5, "2001:db8:0:9::1"), Ok(Some(1)), "a /56 has four");
        assert_eq!(enter(6, 6, "2001:db8:0:9::1"), Ok(Some(5)), "the newcomer's own part has most");
        for (key, ip) in [(11, "2001:db8:0:100::1"), (12, "2001:db8:0:100::1"), (13, "2001:db8:0:200::1")] {
            assert_eq!(enter(u64::from(key), key, ip), Ok(None));
        }
        assert_eq!(enter(14, 14, "2001:db8:0:200::1"), Ok(None));
        assert_eq!(enter(15, 15, "2001:db8:0:300::1"), Ok(Some(2)), "a /48 has eight");
    }

    #[test]
    fn one_who_is_inside_moves_and_stays_where_it_may_not() {
        let mut crowd = crowd(9, 1);
        let [a, b] = ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse::<IpAddr>().unwrap());
        assert_eq!(crowd.enter(at(1), 1, a), Ok(None));
        assert_eq!(crowd.enter(at(1), 2, b), Ok(None));
        assert_eq!(crowd.enter(at(2), 1, b), Err(Full));
        assert_eq!(crowd.enter(at(2), 1, a), Ok(None), "the same again");
        assert_eq!(crowd.enter(at(2), 3, a), Err(Full), "its place was kept");
        crowd.leave(&2);
        assert_eq!(crowd.enter(at(3), 1, b), Ok(None));
        assert_eq!(crowd.enter(at(3), 3, a), Ok(None));
        assert_eq!(crowd.len(), 2);
    }
}
