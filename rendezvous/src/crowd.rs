//! Who is inside, from which networks, and who goes for a newcomer when all places are taken.

use core::cmp::Reverse;
use core::time::Duration;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Places in all and shares of networks. One IPv4 address or IPv6 /64 has at most [`one`](Self::one) of them, a /56
/// twice as many, an IPv4 /24 or an IPv6 /48 four times as many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shares {
    /// Places in all.
    pub all: usize,
    /// Places of one IPv4 address or one IPv6 /64.
    pub one: usize,
}

/// The newcomer's own network has its share already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

/// Those who are inside, each under a key of its own. Where all places are taken, a newcomer gets that of the idlest
/// one of the network that has most.
#[derive(Debug)]
pub struct Crowd<K> {
    shares: Shares,
    /// By the widest network that is counted.
    groups: BTreeMap<IpAddr, BTreeMap<K, Member>>,
    /// The group of each.
    group_of: BTreeMap<K, IpAddr>,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    networks: Networks,
    heard: Duration,
}

/// The networks of an address that are counted, each within the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Networks {
    one: IpAddr,
    middle: IpAddr,
    wide: IpAddr,
}

impl Networks {
    fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let wide = Ipv4Addr::from_bits(ip.to_bits() & 0xffff_ff00).into();
                Networks { one: ip.into(), middle: wide, wide }
            }
            IpAddr::V6(ip) => {
                let cut = |length: u32| Ipv6Addr::from_bits(ip.to_bits() & u128::MAX << (128 - length)).into();
                Networks { one: cut(64), middle: cut(56), wide: cut(48) }
            }
        }
    }

    /// How many places each of them may have.
    fn most(&self, shares: Shares) -> [usize; 3] {
        let middle = if self.one.is_ipv4() { 4 } else { 2 };
        [1, middle, 4].map(|times| shares.one.saturating_mul(times))
    }
}

impl<K: Ord + Clone> Crowd<K> {
    /// An empty one.
    pub fn new(shares: Shares) -> Self {
        Crowd { shares, groups: BTreeMap::new(), group_of: BTreeMap::new() }
    }

    /// Lets somebody in, who was heard now; one who is inside may come again from elsewhere. Whose place it had to
    /// take, is outside.
    ///
    /// # Errors
    /// Its network has its share: nothing has changed.
    pub fn enter(&mut self, now: Duration, key: K, from: IpAddr) -> Result<Option<K>, Full> {
        let old = self.remove(&key);
        let member = Member { networks: Networks::of(from), heard: now };
        if !self.has_share(&member.networks) {
            if let Some(old) = old {
                self.insert(key, old);
            }
            return Err(Full);
        }
        let gone = match self.len() < self.shares.all {
            true => None,
            false => Some(self.idlest(&member.networks).ok_or(Full)?),
        };
        if let Some(gone) = &gone {
            self.remove(gone);
        }
        self.insert(key, member);
        Ok(gone)
    }

    /// Somebody was heard of.
    pub fn heard(&mut self, now: Duration, key: &K) {
        let group = self.group_of.get(key).and_then(|group| self.groups.get_mut(group));
        if let Some(member) = group.and_then(|group| group.get_mut(key)) {
            member.heard = now;
        }
    }

    /// Somebody left.
    pub fn leave(&mut self, key: &K) {
        self.remove(key);
    }

    /// How many are inside.
    pub fn len(&self) -> usize {
        self.group_of.len()
    }

    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.group_of.is_empty()
    }

    fn insert(&mut self, key: K, member: Member) {
        self.group_of.insert(key.clone(), member.networks.wide);
        self.groups.entry(member.networks.wide).or_default().insert(key, member);
    }

    fn remove(&mut self, key: &K) -> Option<Member> {
        let wide = self.group_of.remove(key)?;
        let group = self.groups.get_mut(&wide)?;
        let member = group.remove(key);
        if group.is_empty() {
            self.groups.remove(&wide);
        }
        member
    }

    fn has_share(&self, its: &Networks) -> bool {
        let group = self.groups.get(&its.wide);
        let members = || group.into_iter().flat_map(BTreeMap::values).map(|member| member.networks);
        let counts = [
            members().filter(|other| other.one == its.one).count(),
            members().filter(|other| other.middle == its.middle).count(),
            group.map_or(0, BTreeMap::len),
        ];
        counts.iter().zip(its.most(self.shares)).all(|(count, most)| *count < most)
    }

    /// Who goes for a newcomer of these networks, which is counted too: of the wide networks with most members, in the
    /// narrower ones with most, whoever was heard last the longest ago.
    fn idlest(&self, newcomer: &Networks) -> Option<K> {
        let size = |wide: &IpAddr, group: &BTreeMap<K, Member>| group.len() + usize::from(*wide == newcomer.wide);
        let most = self.groups.iter().map(|(wide, group)| size(wide, group)).max()?;
        let crowded = || self.groups.iter().filter(|(wide, group)| size(wide, group) == most);
        let (mut ones, mut middles) = (BTreeMap::new(), BTreeMap::new());
        for member in crowded().flat_map(|(_, group)| group.values()) {
            *ones.entry(member.networks.one).or_insert(0) += 1;
            *middles.entry(member.networks.middle).or_insert(0) += 1;
        }
        let members = crowded().flat_map(|(_, group)| group);
        let rank = |member: &Member| {
            let Networks { one, middle, .. } = member.networks;
            (middles.get(&middle), ones.get(&one), Reverse(member.heard))
        };
        members.max_by_key(|(_, member)| rank(member)).map(|(key, _)| key.clone())
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

    /// How many of so many get in from these addresses, without anybody's leaving.
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
        assert!(crowd.is_empty() && crowd.groups.is_empty());
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
