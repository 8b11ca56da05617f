//! Callers that wait for their turn. Keys cost nothing, so turns are shared out by where callers come from.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr};

use super::callers::Caller;

/// Most that wait at once.
pub(crate) const MOST: usize = 64;
/// Most callers from one place that wait at once.
const MOST_OF_ONE: usize = 8;
/// Places whose last turn is remembered.
const REMEMBERED: usize = 256;

/// The next one is of the place whose last turn is the longest ago; within a place, and among new ones, the first that
/// came.
#[derive(Debug)]
pub(crate) struct Turns<T> {
    waiting: VecDeque<(IpAddr, T)>,
    served: VecDeque<IpAddr>,
    /// Most from one place that wait at once.
    share: usize,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Turns::new(MOST_OF_ONE)
    }
}

/// Callers that wait.
#[derive(Debug, Default)]
pub(super) struct Waiting(Turns<Caller>);

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn push(&mut self, caller: Caller) {
        self.0.push(caller.remote_addr().ip(), caller);
    }

    pub(super) fn next(&mut self) -> Option<Caller> {
        self.next_of(|_| true)
    }

    /// Returns the next one of the places that may have a turn.
    pub(super) fn next_of(&mut self, may: impl Fn(IpAddr) -> bool) -> Option<Caller> {
        self.0.next(may, |_| true)
    }
}

impl<T> Turns<T> {
    /// Makes room for so many of one place.
    pub(crate) fn new(share: usize) -> Self {
        Turns { waiting: VecDeque::new(), served: VecDeque::new(), share }
    }

    /// Adds it to those that wait. Where there is no room one is dropped: the new one of a place that has its share, or
    /// the last one of the place that has most.
    pub(crate) fn push(&mut self, at: IpAddr, what: T) {
        let from = place(at);
        let share = |of: IpAddr| self.waiting.iter().filter(|(place, _)| *place == of).count();
        if share(from) >= self.share {
            return;
        }
        if self.waiting.len() >= MOST {
            let most = self.waiting.iter().map(|(place, _)| *place).max_by_key(|place| share(*place));
            let Some(most) = most.filter(|most| share(*most) > share(from) + 1) else { return };
            if let Some(last) = self.waiting.iter().rposition(|(place, _)| *place == most) {
                self.waiting.remove(last);
            }
        }
        self.waiting.push_back((from, what));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.waiting.iter().map(|(_, what)| what)
    }

    pub(crate) fn retain(&mut self, stays: impl Fn(&T) -> bool) {
        self.waiting.retain(|(_, what)| stays(what));
    }

    /// Returns the places of those that wait.
    pub(crate) fn places(&self) -> impl Iterator<Item = IpAddr> {
        self.waiting.iter().map(|(place, _)| *place)
    }

    /// Returns the next one of those that may have a turn, by their place and by themselves.
    pub(crate) fn next(
        &mut self,
        by_place: impl Fn(IpAddr) -> bool,
        by_itself: impl Fn(&T) -> bool,
    ) -> Option<T> {
        let last =
            |place: IpAddr| self.served.iter().rposition(|served| *served == place).map_or(0, |n| n + 1);
        let may =
            self.waiting.iter().enumerate().filter(|(_, (place, what))| by_place(*place) && by_itself(what));
        // Of equal ones the first.
        let (at, _) = may.min_by_key(|(_, (place, _))| last(*place))?;
        let (place, what) = self.waiting.remove(at)?;
        self.served.retain(|served| *served != place);
        self.served.push_back(place);
        if self.served.len() > REMEMBERED {
            self.served.pop_front();
        }
        Some(what)
    }
}

/// An address, or the /64 that one line has.
pub(crate) fn place(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn turns_go_round_by_place() {
        let mut turns = Turns::new(MOST_OF_ONE);
        for n in 0..20 {
            turns.push(at("192.0.2.1"), n);
        }
        turns.push(at("2001:db8::1"), 100);
        turns.push(at("2001:db8::2"), 101);
        turns.push(at("192.0.2.2"), 200);
        assert_eq!(turns.waiting.len(), MOST_OF_ONE + 3);
        let order: Vec<i32> = std::iter::from_fn(|| turns.next(|_| true, |_| true)).collect();
        assert_eq!(order, [0, 100, 200, 1, 101, 2, 3, 4, 5, 6, 7]);
        turns.push(at("192.0.2.1"), 1);
        turns.push(at("192.0.2.2"), 2);
        assert_eq!(turns.next(|_| true, |_| true), Some(2), "whose turn was before");
    }

    #[test]
    fn a_crowd_makes_room_for_one_of_elsewhere() {
        let mut turns = Turns::default();
        for place in 0..20 {
            for n in 0..MOST_OF_ONE {
                turns.push(at(&format!("192.0.2.{place}")), (place, n));
            }
        }
        assert_eq!(turns.waiting.len(), MOST);
        turns.push(at("198.51.100.1"), (200, 0));
        assert_eq!(turns.waiting.len(), MOST);
        let first: Vec<(i32, usize)> =
            std::iter::from_fn(|| turns.next(|_| true, |_| true)).take(21).collect();
        assert!(first.contains(&(200, 0)), "{first:?}");
    }
}
