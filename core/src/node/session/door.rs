//! The listener's door: places for callers that have not proved their identity, their order, and the number of streams
//! that the driver may accept.
//!
//! A caller that speaks does so within milliseconds. So the caller that has been silent longest makes room, first in
//! the site and network that has most of them. A caller that is let in is never refused for want of room. Hearing a
//! caller costs a handshake. Turns go round sites, within one round its networks, within one in order of arrival. Where
//! hellos pile up the driver accepts no more, and callers wait in the system's queue.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use crate::io::SockId;
use crate::limit::Bucket;
use crate::node::admission::Source;
use crate::time::Instant;

/// Most callers that have not proved their identity; fewer where there are few descriptors.
const PLACES: usize = 512;
/// A silent caller has a place for so long, and for less where its network has this many silent ones.
const SILENT: Duration = Duration::from_secs(5);
const SILENT_OF_MANY: (usize, Duration) = (16, Duration::from_secs(1));
/// Hellos that are answered. Answering one takes 0.45 ms of a processor (measured): half of one is spent on them.
const HELLOS: Bucket = Bucket::new(256, Duration::from_micros(900));
/// Streams that are accepted. Accepting a stream and ending it again takes 0.04 ms. At this rate the oldest of 512
/// silent callers is 0.1 s old.
const ACCEPTS: Bucket = Bucket::new(512, Duration::from_micros(200));
/// Age of a silent caller before it makes room, as long as the callers may be a crowd. A caller whose processor is busy
/// with 500 calls needs a quarter of a second to speak on each.
const YOUNG: Duration = Duration::from_millis(250);
/// A listener's credit, renewed when half of it is used.
const WINDOW: u32 = 16;
/// Time in which a crowd has been let in, and time in which it has been heard. Callers that keep all places silent, or
/// half of them waiting, for longer are a flood. Silent callers of a flood make room whatever their age, and its hellos
/// are not waited for.
const CROWD: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(5)];

#[derive(Debug)]
pub(super) struct Door {
    places: usize,
    callers: BTreeMap<SockId, Caller>,
    turns: Turns,
    hellos: Bucket,
    accepts: Bucket,
    /// The listeners' credit that is left.
    listeners: BTreeMap<SockId, u32>,
    /// Instant since which half of the places have been waiting for their turn.
    crowded: Option<Instant>,
    /// Instant since which all places have been taken by callers too young to make room.
    pressed: Option<Instant>,
}

#[derive(Debug)]
struct Caller {
    source: Source,
    since: Instant,
    /// True if the caller has said its first frame.
    waits: bool,
}

/// Fate of a caller.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// The caller gets a place for the time `within`. The place was this stream's until now.
    Place { within: Duration, of: Option<SockId> },
    /// The caller's network floods us with hellos.
    Refused,
}

impl Door {
    /// Returns a door with at most so many places.
    pub(super) fn new(most: usize) -> Self {
        Door {
            places: most.clamp(4, PLACES),
            callers: BTreeMap::new(),
            turns: Turns::default(),
            hellos: HELLOS,
            accepts: ACCEPTS,
            listeners: BTreeMap::new(),
            crowded: None,
            pressed: None,
        }
    }

    /// Adds a listener that is open.
    pub(super) fn opened(&mut self, listener: SockId) {
        self.listeners.insert(listener, 0);
    }

    /// Forgets a listener that is no more.
    pub(super) fn shut(&mut self, listener: SockId) {
        self.listeners.remove(&listener);
    }

    /// Notes that a listener has accepted a stream.
    pub(super) fn came(&mut self, listener: SockId) {
        if let Some(credit) = self.listeners.get_mut(&listener) {
            *credit = credit.saturating_sub(1);
        }
    }

    /// Gives a caller a place, or refuses it.
    pub(super) fn enter(&mut self, now: Instant, sock: SockId, from: IpAddr) -> Fate {
        let source = Source::of(from);
        if self.is_flooded(now) && self.turns.len >= self.places / 2 && self.turns.has_its_share(source) {
            return Fate::Refused;
        }
        let silent = |c: &&Caller| c.source == source && !c.waits;
        let many = self.callers.values().filter(silent).count() >= SILENT_OF_MANY.0;
        // A driver that has credit left, or knows of none, is not refused: there is a little more room for it.
        let beyond = self.callers.len() >= self.places + 2 * WINDOW as usize;
        let of = self.makes_room().filter(|(_, at)| *at <= now || beyond).map(|(sock, _)| sock);
        if let Some(of) = of {
            self.left(of);
        }
        self.callers.insert(sock, Caller { source, since: now, waits: false });
        Fate::Place { within: if many { SILENT_OF_MANY.1 } else { SILENT }, of }
    }

    /// Notes that a caller has said its first frame. False: it has no place.
    pub(super) fn spoke(&mut self, now: Instant, sock: SockId) -> bool {
        let Some(caller) = self.callers.get_mut(&sock).filter(|c| !c.waits) else { return false };
        caller.waits = true;
        self.turns.push(caller.source, sock);
        if self.turns.len >= self.places / 2 {
            self.crowded.get_or_insert(now);
        }
        true
    }

    /// Forgets a caller that has proved its identity, or is gone.
    pub(super) fn left(&mut self, sock: SockId) {
        if let Some(Caller { source, waits: true, .. }) = self.callers.remove(&sock) {
            self.turns.remove(source, sock);
            self.calm();
        }
        if self.callers.len() < self.places / 2 {
            self.pressed = None;
        }
    }

    /// Returns the caller to be heard now. The caller keeps its place until it has left.
    pub(super) fn next_turn(&mut self, now: Instant) -> Option<SockId> {
        if self.turns.len == 0 || !self.hellos.take(now) {
            return None;
        }
        let sock = self.turns.pop()?;
        if let Some(caller) = self.callers.get_mut(&sock) {
            caller.waits = false;
        }
        self.calm();
        Some(sock)
    }

    /// Takes a turn for a hello that waits for none. False: there is none left.
    pub(super) fn take_turn(&mut self, now: Instant) -> bool {
        self.hellos.take(now)
    }

    /// Returns the credit to give listeners now.
    pub(super) fn credit(&mut self, now: Instant) -> impl Iterator<Item = (SockId, u32)> {
        let young = self.makes_room().is_some_and(|(_, at)| at > now);
        if young {
            self.pressed.get_or_insert(now);
        }
        let open = !young && !self.is_crowded(now);
        let Door { listeners, accepts, .. } = self;
        let short = listeners.iter_mut().filter(move |(_, left)| open && **left <= WINDOW / 2);
        short.filter_map(move |(sock, left)| {
            let more = (*left..WINDOW).take_while(|_| accepts.take(now)).count() as u32;
            *left += more;
            (more > 0).then_some((*sock, more))
        })
    }

    /// Returns the time to ask for turns and credit again.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let turn = (self.turns.len > 0).then(|| self.hellos.next(now));
        let short = !self.is_crowded(now) && self.listeners.values().any(|left| *left <= WINDOW / 2);
        let older = self.makes_room().map_or(now, |(_, at)| at);
        let accept = short.then(|| self.accepts.next(now).max(older));
        turn.into_iter().chain(accept).min()
    }

    pub(super) fn clear(&mut self) {
        (self.callers, self.turns, self.listeners) = Default::default();
        (self.crowded, self.pressed) = (None, None);
    }

    /// Returns true if so many callers wait for their turn that more had better wait outside.
    fn is_crowded(&self, now: Instant) -> bool {
        // In a flood those of other networks are to be seen.
        let most = if self.is_flooded(now) { self.places / 4 * 3 } else { self.places / 2 };
        self.turns.len >= most
    }

    fn is_flooded(&self, now: Instant) -> bool {
        self.crowded.is_some_and(|since| now >= since + CROWD[1])
    }

    fn calm(&mut self) {
        if self.turns.len < self.places / 4 {
            self.crowded = None;
        }
    }

    /// Returns the caller that is to make room, and from when on, where all places are taken.
    fn makes_room(&self) -> Option<(SockId, Instant)> {
        if self.callers.len() < self.places {
            return None;
        }
        let sock = self.most_silent()?;
        let old = self.callers.get(&sock)?.since + YOUNG;
        Some((sock, self.pressed.map_or(old, |since| old.min(since + CROWD[0]))))
    }

    /// Returns the oldest silent caller of the network with most of them, in the site with most of them.
    fn most_silent(&self) -> Option<SockId> {
        let (mut sites, mut nets) = (BTreeMap::<IpAddr, usize>::new(), BTreeMap::<Source, usize>::new());
        let silent = || self.callers.iter().filter(|(_, c)| !c.waits).map(|(sock, c)| (*sock, c.source));
        for (_, source) in silent() {
            *sites.entry(source.site).or_default() += 1;
            *nets.entry(source).or_default() += 1;
        }
        // Of equals the first, which is the oldest: a driver numbers streams in the order in which they came.
        silent().rev().max_by_key(|(_, source)| (sites[&source.site], nets[source])).map(|(sock, _)| sock)
    }
}

/// The networks of a site whose callers wait, and these in order of arrival.
type Networks = VecDeque<(Source, VecDeque<SockId>)>;

/// Callers that wait, in rings: sites, in each its networks, in each its streams.
#[derive(Debug, Default)]
struct Turns {
    sites: VecDeque<(IpAddr, Networks)>,
    len: usize,
}

impl Turns {
    fn push(&mut self, source: Source, sock: SockId) {
        let nets = place(&mut self.sites, source.site);
        place(nets, source).push_back(sock);
        self.len += 1;
    }

    fn pop(&mut self) -> Option<SockId> {
        let (site, mut nets) = self.sites.pop_front()?;
        let (net, mut socks) = nets.pop_front()?;
        let sock = socks.pop_front()?;
        if !socks.is_empty() {
            nets.push_back((net, socks));
        }
        if !nets.is_empty() {
            self.sites.push_back((site, nets));
        }
        self.len -= 1;
        Some(sock)
    }

    fn remove(&mut self, source: Source, sock: SockId) {
        for (_, nets) in self.sites.iter_mut().filter(|(site, _)| *site == source.site) {
            for (_, socks) in nets.iter_mut().filter(|(net, _)| *net == source) {
                let before = socks.len();
                socks.retain(|s| *s != sock);
                self.len -= before - socks.len();
            }
            nets.retain(|(_, socks)| !socks.is_empty());
        }
        self.sites.retain(|(_, nets)| !nets.is_empty());
    }

    /// Returns true if as many callers of this site wait as of the others at the mean.
    fn has_its_share(&self, source: Source) -> bool {
        let its = self.sites.iter().filter(|(site, _)| *site == source.site);
        let its: usize = its.flat_map(|(_, nets)| nets).map(|(_, socks)| socks.len()).sum();
        its > 0 && its * self.sites.len() >= self.len
    }
}

/// Returns the queue of this key, made where there is none.
fn place<K: PartialEq, T: Default>(ring: &mut VecDeque<(K, T)>, key: K) -> &mut T {
    let n = ring.iter().position(|(k, _)| *k == key).unwrap_or_else(|| {
        ring.push_back((key, T::default()));
        ring.len() - 1
    });
    &mut ring[n].1
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const LISTENER: SockId = SockId::from_number(1);

    /// A door with a driver that accepts as it may; who calls waits in its queue.
    struct Street {
        door: Door,
        now: Instant,
        queue: VecDeque<(IpAddr, bool)>,
        credit: u32,
        next: u64,
        /// Callers that are inside, with the time they came.
        inside: BTreeMap<SockId, (IpAddr, Instant)>,
        evicted: Vec<SockId>,
        refused: Vec<IpAddr>,
        heard: Vec<IpAddr>,
    }

    impl Street {
        fn new() -> Self {
            let mut door = Door::new(PLACES);
            door.opened(LISTENER);
            let mut street = Street {
                door,
                now: Instant::ZERO,
                queue: VecDeque::new(),
                credit: 0,
                next: 0,
                inside: BTreeMap::new(),
                evicted: Vec::new(),
                refused: Vec::new(),
                heard: Vec::new(),
            };
            street.serve();
            street
        }

        fn call(&mut self, from: &str, speaks: bool) {
            self.queue.push_back((from.parse().unwrap(), speaks));
            self.serve();
        }

        fn serve(&mut self) {
            loop {
                while let Some(sock) = self.door.next_turn(self.now) {
                    self.heard.push(self.inside.remove(&sock).unwrap().0);
                    self.door.left(sock);
                }
                self.credit += self.door.credit(self.now).map(|(_, more)| more).sum::<u32>();
                if self.credit == 0 || self.queue.is_empty() {
                    return;
                }
                let (from, speaks) = self.queue.pop_front().unwrap();
                self.credit -= 1;
                self.next += 1;
                let sock = SockId::accepted(self.next);
                self.door.came(LISTENER);
                match self.door.enter(self.now, sock, from) {
                    Fate::Place { of, .. } => {
                        if let Some(of) = of {
                            self.inside.remove(&of).unwrap();
                            self.evicted.push(of);
                        }
                        self.inside.insert(sock, (from, self.now));
                        if speaks {
                            assert!(self.door.spoke(self.now, sock));
                        }
                    }
                    Fate::Refused => self.refused.push(from),
                }
            }
        }

        /// Lets time pass; the door's deadline always moves.
        fn run(&mut self, span: Duration) {
            let until = self.now + span;
            while let Some(at) = self.door.due(self.now).filter(|at| *at <= until) {
                self.now = self.now.max(at);
                self.serve();
                assert!(self.door.due(self.now).is_none_or(|at| at > self.now), "it did not move");
            }
            self.now = until;
        }

        fn heard_of(&self, from: &str) -> usize {
            let from: IpAddr = from.parse().unwrap();
            self.heard.iter().filter(|ip| **ip == from).count()
        }
    }

    #[test]
    fn the_silent_of_the_largest_network_make_room_oldest_first() {
        let mut street = Street::new();
        street.call("198.51.100.1", false);
        for n in 0..PLACES - 1 {
            street.call("192.0.2.1", false);
            assert_eq!(street.evicted.len(), 0, "{n}");
            street.run(MS);
        }
        for n in 0..3 {
            street.run(YOUNG);
            street.call("198.51.100.2", false);
            assert_eq!(
                street.evicted.last(),
                Some(&SockId::accepted(n + 2)),
                "the flood's, not the older one"
            );
        }
        assert_eq!(street.inside.len(), PLACES);
    }

    #[test]
    fn of_a_site_with_many_networks_the_oldest_of_the_largest_goes_first() {
        let mut street = Street::new();
        street.call("192.0.2.1", false);
        street.call("192.0.2.1", false);
        // Each network has one, but two have two; they are one site.
        for n in 0..PLACES - 2 {
            street.call(&format!("2001:db8:0:{:x}::{n:x}", n % (PLACES - 4)), false);
            street.run(MS);
        }
        street.run(YOUNG);
        street.call("198.51.100.2", false);
        street.call("198.51.100.2", false);
        assert_eq!(street.evicted, [3, 4].map(SockId::accepted));
    }

    #[test]
    fn an_honest_caller_is_heard_at_once_in_600_and_3000_silent_ones_a_second_from_its_own_address() {
        for rate in [600, 3000] {
            let mut street = Street::new();
            for n in 0..5 * rate {
                street.call("192.0.2.1", false);
                // A faster flood could be a crowd in its first seconds.
                if n % 100 == 99 && (rate == 600 || n > 3 * rate) {
                    let before = street.heard.len();
                    street.call("192.0.2.1", true);
                    assert_eq!(street.heard.len(), before + 1, "{rate}: {n}");
                }
                street.run(Duration::from_secs(1) / rate);
            }
            assert!(street.refused.is_empty());
            // The last to be thrown out had been silent for about as long as the places last.
            let age = street.inside.values().map(|(_, since)| street.now.since(*since)).max().unwrap();
            assert!(age >= MS * 160_000 / rate, "{rate}: {age:?}");
        }
    }

    #[test]
    fn a_flood_of_accepts_is_left_in_the_systems_queue() {
        let mut street = Street::new();
        for _ in 0..40_000 {
            street.call("192.0.2.1", false);
            street.run(MS / 10);
        }
        // 2,048 a second for two seconds, then a burst and 5,000 a second.
        assert!((14_000..=15_500).contains(&street.next), "{}", street.next);
        assert!(street.door.due(street.now).is_some_and(|at| at <= street.now + MS), "it goes on by itself");
        street.run(Duration::from_secs(6));
        assert_eq!(street.next, 40_000);
    }

    #[test]
    fn a_crowd_waits_in_the_systems_queue_and_is_heard_to_the_last() {
        let mut street = Street::new();
        for _ in 0..2_000 {
            street.call("192.0.2.1", true);
        }
        assert_eq!(street.heard.len(), 256, "the burst");
        assert!(street.inside.len() <= PLACES / 2 + WINDOW as usize, "{}", street.inside.len());
        street.run(Duration::from_secs(1));
        assert!((1365..=1368).contains(&street.heard.len()), "1,111 a second: {}", street.heard.len());
        street.run(Duration::from_secs(1));
        assert_eq!((street.heard.len(), street.queue.len()), (2_000, 0));
        assert_eq!((street.evicted.len(), street.refused.len()), (0, 0), "nobody was turned away");
    }

    #[test]
    fn turns_go_round_sites_and_within_one_round_its_networks() {
        let mut street = Street::new();
        while street.door.take_turn(street.now) {}
        for _ in 0..20 {
            street.call("192.0.2.1", true);
        }
        for n in 0..20 {
            street.call(&format!("2001:db8:0:{}::1", n % 2), true);
        }
        street.call("198.51.100.1", true);
        street.run(MS * 5);
        let heard: Vec<String> = street.heard.iter().map(IpAddr::to_string).collect();
        assert_eq!(heard, ["192.0.2.1", "2001:db8::1", "198.51.100.1", "192.0.2.1", "2001:db8:0:1::1"]);
    }

    #[test]
    fn a_flood_of_hellos_from_one_site_leaves_others_their_turns() {
        let mut street = Street::new();
        let mut honest = 0;
        // 2,000 hellos a second; the system's queue holds 1,024.
        for n in 0..30_000 {
            if street.queue.len() < 1_024 {
                street.call(if n % 2 == 0 { "2001:db8::1" } else { "2001:db8:0:1::1" }, true);
            }
            // In the first seconds it could be a crowd.
            if n >= 14_000 && n % 100 == 0 && street.queue.len() < 1_024 {
                honest += 1;
                street.call("192.0.2.1", true);
            }
            street.run(MS / 2);
        }
        street.run(MS * 100);
        assert_eq!((street.heard_of("192.0.2.1"), honest), (160, 160));
        assert!(street.refused.iter().all(|ip| ip.is_ipv6()) && street.refused.len() > 1_000);
    }

    #[test]
    fn one_network_that_is_silent_in_numbers_has_less_time() {
        let mut door = Door::new(PLACES);
        let mut within = |n: u64, from: &str| match door.enter(
            Instant::ZERO,
            SockId::accepted(n),
            from.parse().unwrap(),
        ) {
            Fate::Place { within, .. } => within,
            Fate::Refused => Duration::ZERO,
        };
        for n in 0..16 {
            assert_eq!(within(n, "192.0.2.1"), SILENT);
        }
        assert_eq!(within(16, "192.0.2.1"), Duration::from_secs(1));
        assert_eq!(within(17, "192.0.2.2"), SILENT);
    }

    #[test]
    fn whoever_leaves_while_it_waits_takes_no_turn() {
        let mut street = Street::new();
        while street.door.take_turn(street.now) {}
        for _ in 0..3 {
            street.call("192.0.2.1", true);
        }
        street.door.left(SockId::accepted(2));
        street.run(MS * 10);
        assert_eq!(street.heard.len(), 2);
        assert_eq!(
            (street.door.turns.len, street.door.turns.sites.len(), street.door.callers.len()),
            (0, 0, 0)
        );
        assert_eq!(street.door.due(street.now), None, "nothing is left to do");
    }
}
