//! The time for which the NATs in front of us remember idle TCP connections, as our sessions with brokers find out.
//!
//! One session at a time lets twice as long pass as was seen to hold. What held is used by all. What did not is not tried
//! again for a day. Only what was confirmed counts as lost: the server answered a new connection at once.

use core::time::Duration;
use std::collections::VecDeque;
use std::net::IpAddr;

use crate::time::Instant;

/// Time between two signs of life before anything was measured, and the least.
pub(crate) const SHORTEST: Duration = Duration::from_secs(20);
/// The most. A broker that died silently takes no request for us meanwhile, however long the NAT remembers.
pub(crate) const LONGEST: Duration = Duration::from_secs(300);
/// What was lost is tried again after this long: the NAT may be another, or the server was to blame.
const TRY_AGAIN: Duration = Duration::from_secs(24 * 3600);
/// Most networks that are remembered.
const MAX_NETWORKS: usize = 32;

/// Memory of the NATs of one network, for idle TCP connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NatMemory {
    /// The network.
    pub network: Network,
    /// An idle connection lived for so long, or it is assumed.
    pub held: Duration,
    /// A connection was forgotten that had been idle for so long.
    pub lost: Option<Duration>,
}

/// A network, as it is told from others: the router, and the address outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    /// The router, where the system told it.
    pub gateway: Option<IpAddr>,
    /// Address that the internet sees; of IPv6 only the first 64 bits count.
    pub outside: IpAddr,
}

impl Network {
    pub(crate) fn new(gateway: Option<IpAddr>, outside: IpAddr) -> Self {
        let outside = match outside {
            IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) & !u128::from(u64::MAX)).into()),
            v4 => v4,
        };
        Network { gateway, outside }
    }
}

/// What is known of the network that we are in, and of others.
#[derive(Debug)]
pub(crate) struct Memory {
    /// The latest last.
    known: VecDeque<NatMemory>,
    here: Option<Network>,
    held: Duration,
    lost: Option<(Duration, Instant)>,
    /// The session that tries longer than what held.
    trier: Option<u8>,
    /// What is known here has changed, and whether for less.
    news: Option<bool>,
}

impl Memory {
    pub(crate) fn new(known: &[NatMemory]) -> Self {
        let known = known.iter().rev().take(MAX_NETWORKS).rev().copied().collect();
        Memory { known, here: None, held: SHORTEST, lost: None, trier: None, news: None }
    }

    /// We may be in another network: nothing is known of it.
    pub(crate) fn leave(&mut self) {
        *self = Memory { known: core::mem::take(&mut self.known), ..Memory::new(&[]) };
    }

    /// We are in this network, as has become known. What was measured since [`leave`](Self::leave) is about it.
    pub(crate) fn arrive(&mut self, now: Instant, network: Network) {
        if self.here.replace(network) == Some(network) {
            return;
        }
        match self.known.iter().rfind(|known| known.network == network) {
            Some(known) => {
                self.held = known.held.clamp(SHORTEST, LONGEST);
                self.lost = known.lost.map(|lost| (lost.max(SHORTEST), now));
                self.trier = None;
            }
            None if self.held > SHORTEST || self.lost.is_some() => self.learned(false),
            None => {}
        }
    }

    /// Returns the time that a connection may be idle without being forgotten.
    pub(crate) fn held(&self) -> Duration {
        self.held
    }

    /// Returns the time that the session at this place is to stay idle next, at most `most`.
    pub(crate) fn next(&mut self, now: Instant, place: u8, most: Duration) -> Duration {
        self.lost = self.lost.filter(|(_, at)| now < *at + TRY_AGAIN);
        let twice = (self.held * 2).min(LONGEST).min(most);
        let tries = self.trier.is_none_or(|trier| trier == place);
        if tries && twice > self.held && self.lost.is_none_or(|(lost, _)| twice < lost) {
            self.trier = Some(place);
            return twice;
        }
        self.release(place);
        self.held.min(most)
    }

    /// The session at this place tries nothing.
    pub(crate) fn release(&mut self, place: u8) {
        self.trier = self.trier.filter(|trier| *trier != place);
    }

    /// A connection lived that had been idle for so long.
    pub(crate) fn lived(&mut self, idle: Duration) {
        let idle = idle.min(LONGEST);
        if idle > self.held {
            self.held = idle;
            self.lost = self.lost.filter(|(lost, _)| idle < *lost);
            self.learned(false);
        }
    }

    /// A connection was forgotten that had been idle for so long.
    pub(crate) fn died(&mut self, now: Instant, idle: Duration) {
        if idle < SHORTEST {
            return;
        }
        let lost = self.lost.map_or(idle, |(lost, _)| lost.min(idle));
        let held = self.held.min((lost / 2).max(SHORTEST));
        let fewer = held < self.held;
        (self.held, self.lost) = (held, Some((lost, now)));
        self.learned(fewer);
    }

    /// Takes what is new about this network, and whether the time has become shorter. Nothing is told while it is not known
    /// which network it is.
    pub(crate) fn take_news(&mut self) -> Option<(Option<NatMemory>, bool)> {
        let fewer = self.news.take()?;
        Some((self.here.and_then(|here| self.known.back().filter(|k| k.network == here).copied()), fewer))
    }

    fn learned(&mut self, fewer: bool) {
        self.news = Some(self.news.unwrap_or(false) || fewer);
        let Some(network) = self.here else { return };
        let memory = NatMemory { network, held: self.held, lost: self.lost.map(|(lost, _)| lost) };
        if self.known.back() == Some(&memory) {
            self.news = Some(fewer).filter(|fewer| *fewer);
            return;
        }
        self.known.retain(|known| known.network != network);
        self.known.push_back(memory);
        if self.known.len() > MAX_NETWORKS {
            self.known.pop_front();
        }
    }
}

/// Returns the time of the next sign of life, `every` after the last at most. They are due at whole multiples, so that
/// all connections that are kept wake the machine at one moment.
pub(crate) fn due(now: Instant, every: Duration) -> Instant {
    let latest = now + every;
    let beyond = latest.since(Instant::ZERO).as_nanos() % every.as_nanos().max(1);
    let rounded = every.saturating_sub(Duration::from_nanos(beyond as u64));
    // Just after such a moment the whole time may pass, but for a moment.
    if rounded.is_zero() { latest } else { now + rounded }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn at(n: u64) -> Instant {
        Instant::ZERO + s(n)
    }

    fn network(n: u8) -> Network {
        Network::new(Some([192, 168, 0, 1].into()), [198, 51, 100, n].into())
    }

    /// Lets one session live behind a NAT that remembers for so long; what it let pass each time.
    fn search(memory: &mut Memory, now: &mut u64, remembers: u64, times: usize) -> Vec<u64> {
        let mut all = Vec::new();
        for _ in 0..times {
            let idle = memory.next(at(*now), 0, LONGEST);
            *now += idle.as_secs();
            if idle < s(remembers) {
                memory.lived(idle)
            } else {
                memory.died(at(*now), idle)
            }
            all.push(idle.as_secs());
        }
        all
    }

    #[test]
    fn the_time_doubles_while_it_holds_and_stays_below_what_was_lost() {
        for (remembers, expected) in [
            (30, [40, 20, 20, 20, 20, 20]),
            (100, [40, 80, 160, 80, 80, 80]),
            (600, [40, 80, 160, 300, 300, 300]),
        ] {
            let mut memory = Memory::new(&[]);
            memory.arrive(at(0), network(1));
            assert_eq!(search(&mut memory, &mut 0, remembers, 6), expected, "{remembers}");
        }
    }

    #[test]
    fn a_nat_that_gets_stricter_is_followed_and_one_that_gets_better_after_a_day() {
        let mut memory = Memory::new(&[]);
        let mut now = 0;
        search(&mut memory, &mut now, 600, 6);
        assert_eq!(search(&mut memory, &mut now, 70, 5), [300, 150, 75, 37, 37]);
        assert_eq!(memory.take_news(), Some((None, true)));
        now += 24 * 3600;
        assert_eq!(search(&mut memory, &mut now, 600, 5), [75, 150, 300, 300, 300]);
    }

    #[test]
    fn one_session_tries_and_the_others_do_what_held() {
        let mut memory = Memory::new(&[]);
        let every = |memory: &mut Memory, place| memory.next(at(0), place, LONGEST).as_secs();
        assert_eq!((every(&mut memory, 0), every(&mut memory, 1)), (40, 20));
        memory.release(0);
        assert_eq!((every(&mut memory, 1), every(&mut memory, 0)), (40, 20));
        memory.lived(s(40));
        assert_eq!((every(&mut memory, 0), every(&mut memory, 1)), (40, 80));
        assert_eq!(memory.next(at(0), 1, s(30)), s(30), "whom its broker does not let");
        assert_eq!(every(&mut memory, 0), 80);
    }

    #[test]
    fn each_network_has_its_own() {
        let mut memory = Memory::new(&[NatMemory { network: network(1), held: s(160), lost: Some(s(300)) }]);
        memory.arrive(at(0), network(1));
        assert_eq!((memory.held(), memory.next(at(0), 0, LONGEST)), (s(160), s(160)));
        memory.leave();
        assert_eq!(memory.held(), SHORTEST);
        memory.lived(s(40));
        assert_eq!(memory.take_news(), Some((None, false)), "it is not known where");
        memory.arrive(at(9), network(2));
        let told = NatMemory { network: network(2), held: s(40), lost: None };
        assert_eq!(memory.take_news(), Some((Some(told), false)));
        memory.leave();
        memory.arrive(at(9), network(1));
        assert_eq!((memory.held(), memory.take_news()), (s(160), None));
        for n in 3..=255 {
            memory.leave();
            memory.arrive(at(9), network(n));
            memory.lived(s(40));
        }
        assert_eq!(memory.known.len(), MAX_NETWORKS);
    }

    #[test]
    fn signs_of_life_come_at_whole_multiples() {
        let due = |now, every| due(at(now), s(every)).since(at(0)).as_secs();
        assert_eq!([due(37, 300), due(300, 300), due(301, 300), due(599, 300)], [300, 600, 600, 600]);
    }
}
