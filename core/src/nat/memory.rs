//! The time for which the NATs in front of us remember idle TCP connections, as our sessions with brokers find out.
//!
//! One session at a time lets twice as long pass as was seen to hold. What held is used by all. What did not is not tried
//! again for a day. Only what was confirmed counts as lost: the server answered a new connection at once. A loss after no
//! more than what held may be a router that began anew: the second in a row counts.
//!
//! The reasons: ADR 15 in docs/src/adr.

use core::time::Duration;
use std::collections::VecDeque;
use std::net::IpAddr;

use crate::time::Instant;

/// Time between two signs of life before anything was measured, and the least.
pub(crate) const SHORTEST: Duration = Duration::from_secs(20);
/// The most. A broker that died silently takes no request for us meanwhile, however long the NAT remembers.
pub(crate) const LONGEST: Duration = Duration::from_secs(300);
/// Time until a lost connection is tried again: the NAT may be another, or the server was to blame.
const TRY_AGAIN: Duration = Duration::from_secs(24 * 3600);
/// A connection that was lost when it was used, and is there again within this time, was forgotten by a NAT. Else the network
/// was away.
pub(crate) const CONFIRMED_WITHIN: Duration = Duration::from_secs(15);
/// Most networks that are remembered.
const MAX_NETWORKS: usize = 32;

/// Memory of the NATs of one network, for idle TCP connections.
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: what a file of networks holds.
pub struct NatMemory {
    /// The network.
    pub network: Network,
    /// An idle connection lived for so long, or it is assumed.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::units::seconds"))]
    pub held: Duration,
    /// A connection was forgotten that had been idle for so long. It counts for a day from the loss; in a later run, which is not
    /// told its age, for a day from the start.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::units::maybe_seconds"))]
    pub lost: Option<Duration>,
}

/// A network, as it is told from others: the router, and the address outside.
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: what a file of networks holds.
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

/// Memory of the network that we are in, and of others.
#[derive(Debug)]
pub(crate) struct Memory {
    /// The latest last, and when what is lost was lost.
    known: VecDeque<(NatMemory, Instant)>,
    here: Option<Network>,
    held: Duration,
    lost: Option<(Duration, Instant)>,
    /// The last loss that contradicts what held, as idle time and time of the loss, while nothing has contradicted it.
    doubt: Option<(Duration, Instant)>,
    /// The session that tries longer than what held, and how long.
    trier: Option<(u8, Duration)>,
    /// Set where the knowledge of this network has changed: whether for less.
    news: Option<bool>,
}

impl Memory {
    pub(crate) fn new(now: Instant, known: &[NatMemory]) -> Self {
        let known = known.iter().rev().take(MAX_NETWORKS).rev().map(|known| (*known, now)).collect();
        Memory { known, here: None, held: SHORTEST, lost: None, doubt: None, trier: None, news: None }
    }

    /// Forgets the network: we may be in another.
    pub(crate) fn leave(&mut self) {
        *self = Memory { known: core::mem::take(&mut self.known), ..Memory::new(Instant::ZERO, &[]) };
    }

    /// Takes this network for ours, as has become known. What was measured since [`leave`](Self::leave) is about it.
    pub(crate) fn arrive(&mut self, network: Network) {
        if self.here.replace(network) == Some(network) {
            return;
        }
        match self.known.iter().rfind(|(known, _)| known.network == network) {
            Some((known, at)) => {
                self.held = known.held.clamp(SHORTEST, LONGEST);
                self.lost = known.lost.map(|lost| (lost.max(SHORTEST), *at));
                (self.doubt, self.trier) = (None, None);
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
        let tries = self.trier.is_none_or(|(trier, _)| trier == place);
        if tries && twice > self.held && self.lost.is_none_or(|(lost, _)| twice < lost) {
            self.trier = Some((place, twice));
            return twice;
        }
        self.release(place);
        self.held.min(most)
    }

    /// The session at this place tries nothing.
    pub(crate) fn release(&mut self, place: u8) {
        self.trier = self.trier.filter(|(trier, _)| *trier != place);
    }

    /// The session at this place was idle for so long. Returns true if it was to be idle for longer, as a trial, so that it
    /// is another's turn.
    pub(crate) fn falls_short(&mut self, place: u8, idle: Duration) -> bool {
        self.trier.take_if(|(trier, tried)| *trier == place && whole(idle) < whole(*tried)).is_some()
    }

    /// A connection lived that had been idle for so long.
    pub(crate) fn lived(&mut self, idle: Duration) {
        let idle = whole(idle).min(LONGEST);
        self.doubt = self.doubt.filter(|(doubt, _)| idle < *doubt);
        if idle > self.held {
            self.held = idle;
            self.lost = self.lost.filter(|(lost, _)| idle < *lost);
            self.learned(false);
        }
    }

    /// A connection was forgotten that had been idle for so long, since this time.
    pub(crate) fn died(&mut self, now: Instant, since: Instant, idle: Duration) {
        let mut idle = whole(idle);
        if idle < SHORTEST {
            return;
        }
        if idle <= self.held {
            match self.doubt.filter(|(_, at)| now < *at + TRY_AGAIN) {
                // Of two losses only the longer time is told by both.
                Some((before, at)) if at <= since => idle = idle.max(before),
                // All connections may have been lost to one cause.
                Some(_) => return,
                None => {
                    self.doubt = Some((idle, now));
                    return;
                }
            }
            self.doubt = None;
        }
        let lost = self.lost.map_or(idle, |(lost, _)| lost.min(idle));
        // Upwards: twice as long is not less than what was lost.
        let half = whole((lost + Duration::from_secs(1)) / 2);
        let held = self.held.min(half.max(SHORTEST));
        let fewer = held < self.held;
        (self.held, self.lost) = (held, Some((lost, now)));
        self.learned(fewer);
    }

    /// Takes what is new about this network, and whether the time has become shorter. Nothing is told while it is not known
    /// which network it is.
    pub(crate) fn take_news(&mut self) -> Option<(Option<NatMemory>, bool)> {
        let fewer = self.news.take()?;
        Some((
            self.here.and_then(|here| self.known.back().map(|(k, _)| *k).filter(|k| k.network == here)),
            fewer,
        ))
    }

    fn learned(&mut self, fewer: bool) {
        self.news = Some(self.news.unwrap_or(false) || fewer);
        let Some(network) = self.here else { return };
        let memory = NatMemory { network, held: self.held, lost: self.lost.map(|(lost, _)| lost) };
        let at = self.lost.map_or(Instant::ZERO, |(_, at)| at);
        if let Some((_, since)) = self.known.back_mut().filter(|(known, _)| *known == memory) {
            *since = at;
            self.news = Some(fewer).filter(|fewer| *fewer);
            return;
        }
        self.known.retain(|(known, _)| known.network != network);
        self.known.push_back((memory, at));
        if self.known.len() > MAX_NETWORKS {
            self.known.pop_front();
        }
    }
}

/// The silence that a server allows, whatever NATs remember.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    /// The most, if it is less than [`LONGEST`], and since when.
    most: Option<(Duration, Instant)>,
    /// Silence after which the server ended the last connection that it ended so.
    ended: Option<Duration>,
}

impl Patience {
    /// The server ended a connection that had been silent for so long. Twice in a row is no accident: so many quarters of the
    /// time are let pass from then on.
    pub(crate) fn ended(&mut self, now: Instant, silent: Duration, quarters: u32) {
        match self.ended.take() {
            Some(before) if silent >= SHORTEST => {
                let most = before.min(silent) * quarters / 4;
                self.most = Some((most.min(self.most(now)), now));
            }
            _ => self.ended = Some(silent).filter(|silent| *silent >= SHORTEST),
        }
    }

    /// A connection lives that has been silent for so long.
    pub(crate) fn lives(&mut self, silent: Duration) {
        self.ended = self.ended.filter(|ended| silent < *ended);
    }

    /// Returns the most silence. After a day the server may be another.
    pub(crate) fn most(&self, now: Instant) -> Duration {
        self.most.filter(|(_, since)| now < *since + TRY_AGAIN).map_or(LONGEST, |(most, _)| most)
    }
}

/// Leaves out what is less than a second.
fn whole(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs())
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
                memory.died(at(*now), at(*now) - idle, idle)
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
            let mut memory = Memory::new(at(0), &[]);
            memory.arrive(network(1));
            assert_eq!(search(&mut memory, &mut 0, remembers, 6), expected, "{remembers}");
        }
    }

    #[test]
    fn a_nat_that_gets_stricter_is_followed_and_one_that_gets_better_after_a_day() {
        let mut memory = Memory::new(at(0), &[]);
        let mut now = 0;
        search(&mut memory, &mut now, 600, 6);
        assert_eq!(search(&mut memory, &mut now, 70, 8), [300, 300, 150, 150, 75, 75, 38, 38]);
        assert_eq!(memory.take_news(), Some((None, true)));
        now += 24 * 3600;
        assert_eq!(search(&mut memory, &mut now, 600, 5), [76, 152, 300, 300, 300]);
    }

    /// A memory of what held for 300 s.
    fn settled() -> Memory {
        let mut memory = Memory::new(at(0), &[]);
        memory.arrive(network(1));
        memory.lived(s(300));
        memory.take_news();
        memory
    }

    #[test]
    fn one_loss_after_what_held_counts_for_nothing_and_a_second_in_a_row_does() {
        let mut memory = settled();
        memory.died(at(1000), at(700), s(300));
        // Another session, lost to the same cause.
        memory.died(at(1200), at(990), s(210));
        assert_eq!((memory.held(), memory.take_news()), (s(300), None));
        memory.lived(s(300));
        memory.died(at(5000), at(4970), s(30));
        assert_eq!((memory.held(), memory.take_news()), (s(300), None), "it lived in between");
        memory.died(at(6000), at(5790), s(210));
        let told = NatMemory { network: network(1), held: s(105), lost: Some(s(210)) };
        assert_eq!(memory.take_news(), Some((Some(told), true)), "the longer of the two");
        let mut memory = settled();
        memory.died(at(1000), at(700), s(300));
        memory.died(at(1000 + 24 * 3600), at(700 + 24 * 3600), s(300));
        assert_eq!(memory.held(), s(300), "a day later");
    }

    #[test]
    fn parts_of_seconds_are_no_news() {
        let mut memory = Memory::new(at(0), &[]);
        memory.arrive(network(1));
        memory.lived(Duration::from_millis(40_002));
        let told = NatMemory { network: network(1), held: s(40), lost: None };
        assert_eq!(memory.take_news(), Some((Some(told), false)));
        memory.lived(Duration::from_millis(40_900));
        assert_eq!(memory.take_news(), None);
    }

    #[test]
    fn what_was_lost_is_tried_again_a_day_after_the_loss_wherever_we_were_meanwhile() {
        let known = NatMemory { network: network(1), held: s(40), lost: Some(s(80)) };
        let mut memory = Memory::new(at(50), &[known]);
        let day = 24 * 3600;
        let next = |memory: &mut Memory, n, now| {
            memory.leave();
            memory.arrive(network(n));
            memory.next(at(now), 0, LONGEST)
        };
        assert_eq!(next(&mut memory, 1, 49 + day), s(40));
        assert_eq!(next(&mut memory, 1, 50 + day), s(80), "from the start of the run");
        assert_eq!(next(&mut memory, 2, 100), s(40));
        memory.died(at(140), at(100), s(40));
        assert_eq!(next(&mut memory, 2, 139 + day), s(20));
        assert_eq!(next(&mut memory, 2, 140 + day), s(40));
    }

    #[test]
    fn a_session_that_cannot_be_idle_for_long_leaves_the_trial_to_another() {
        let mut memory = Memory::new(at(0), &[]);
        assert_eq!(memory.next(at(0), 0, LONGEST), s(40));
        assert!(!memory.falls_short(1, s(20)), "it does not try");
        assert!(memory.falls_short(0, s(30)));
        assert_eq!(memory.next(at(30), 1, LONGEST), s(40));
        assert!(!memory.falls_short(1, Duration::from_millis(40_001)));
        assert_eq!((memory.next(at(70), 0, LONGEST), memory.next(at(70), 1, LONGEST)), (s(20), s(40)));
    }

    #[test]
    fn a_server_that_ends_connections_twice_in_a_row_is_heeded_for_a_day() {
        let mut patience = Patience::default();
        patience.ended(at(0), s(100), 3);
        patience.lives(s(100));
        patience.ended(at(100), s(100), 3);
        assert_eq!(patience.most(at(100)), LONGEST);
        patience.ended(at(200), s(80), 3);
        assert_eq!(patience.most(at(200)), s(60));
        let day = 24 * 3600;
        assert_eq!((patience.most(at(199 + day)), patience.most(at(200 + day))), (s(60), LONGEST));
    }

    #[test]
    fn one_session_tries_and_the_others_do_what_held() {
        let mut memory = Memory::new(at(0), &[]);
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
        let mut memory =
            Memory::new(at(0), &[NatMemory { network: network(1), held: s(160), lost: Some(s(300)) }]);
        memory.arrive(network(1));
        assert_eq!((memory.held(), memory.next(at(0), 0, LONGEST)), (s(160), s(160)));
        memory.leave();
        assert_eq!(memory.held(), SHORTEST);
        memory.lived(s(40));
        assert_eq!(memory.take_news(), Some((None, false)), "it is not known where");
        memory.arrive(network(2));
        let told = NatMemory { network: network(2), held: s(40), lost: None };
        assert_eq!(memory.take_news(), Some((Some(told), false)));
        memory.leave();
        memory.arrive(network(1));
        assert_eq!((memory.held(), memory.take_news()), (s(160), None));
        for n in 3..=255 {
            memory.leave();
            memory.arrive(network(n));
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
