//! The machine's interfaces, listed again when they may have changed.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use p2pd_core::io::Interface;
use p2pd_core::{Instant, Interfaces, SockId, is_link_local};

use super::Reactor;
use crate::changes::{COMPARE_EVERY, QUIET, Word, changes};
use crate::interfaces::interfaces_now;

/// The socket that tells of changes has this id, which the core never hears of.
pub(super) const NETWORK: SockId = SockId::from_number(u64::MAX);
/// Longest time from the first change to the listing, which waits until it has been quiet.
const AT_MOST: Duration = Duration::from_secs(1);
/// Time from a change to the look whether it is one that must not wait for quiet.
const SOON: Duration = Duration::from_millis(20);
/// Reads of the socket before others have their turn.
const BUDGET: usize = 64;

/// Source of the news of changes.
enum Watch<S> {
    /// Socket of the system that reports changes.
    Told(S),
    /// Comparisons of the list with the one before.
    Comparing,
    /// No source: loopback does not change, or the node ends.
    Not,
}

pub(super) struct Network<R: Reactor> {
    watch: Watch<R::Stream>,
    bind: Option<IpAddr>,
    wanted: Interfaces,
    listed: Vec<Interface>,
    /// The first change since it was listed.
    first: Option<Instant>,
    /// Time of the next listing.
    due: Option<Instant>,
    /// Time of a look before that.
    look: Option<Instant>,
}

impl<R: Reactor> Network<R> {
    /// Creates the watch. `listed` are the interfaces as the node was told.
    pub(super) fn new(
        reactor: &mut R,
        bind: Option<IpAddr>,
        wanted: Interfaces,
        listed: &[Interface],
        now: Instant,
    ) -> Self {
        let watch = match bind {
            Some(ip) if ip.is_loopback() => Watch::Not,
            _ => match changes().and_then(|socket| reactor.stream(NETWORK, socket)) {
                Ok(socket) => Watch::Told(socket),
                Err(_) => Watch::Comparing,
            },
        };
        let listed = listed.to_vec();
        let mut network = Network { watch, bind, wanted, listed, first: None, due: None, look: None };
        network.rest(now);
        if let Watch::Told(_) = network.watch {
            // What changed between the listing and the socket nobody told.
            network.due = Some(now + QUIET);
        }
        network
    }

    /// Returns the time of the next call of [`changed`](Self::changed).
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due.into_iter().chain(self.look).min()
    }

    /// Returns the interface by which packets from this address have to leave, where the system might choose another:
    /// there is more than one way out.
    pub(super) fn way_out(&self, ip: IpAddr) -> Option<u32> {
        let mut leading = self.listed.iter().filter(|i| i.default_route && i.ip.is_ipv4() == ip.is_ipv4());
        let first = leading.next()?.index;
        leading.find(|i| i.index != first)?;
        self.listed.iter().find(|i| i.ip == ip).map(|i| i.index)
    }

    /// Reads the reports of the system. Returns true if there may be more than for one turn.
    pub(super) fn hear(&mut self, reactor: &mut R, now: Instant) -> bool {
        let mut buffer = [0; 8192];
        for _ in 0..BUDGET {
            let Watch::Told(socket) = &mut self.watch else { return false };
            let read = R::read(socket, &mut buffer);
            match Word::of(&read, &buffer) {
                Word::None => return false,
                Word::Idle => continue,
                Word::Changed => {}
                Word::Lost => {
                    self.watch = Watch::Comparing;
                    reactor.forget(NETWORK);
                }
            }
            let first = *self.first.get_or_insert(now);
            self.due = Some((now + QUIET).min(first + AT_MOST));
            self.look.get_or_insert(now + SOON);
        }
        true
    }

    /// The interfaces, if it was time to list them and they are others.
    pub(super) fn changed(&mut self, now: Instant) -> Option<&[Interface]> {
        let quiet = self.due.is_some_and(|at| at <= now);
        if !quiet && self.look.is_none_or(|at| at > now) {
            return None;
        }
        self.look = None;
        if quiet {
            self.rest(now);
        }
        // That nobody has the address to bind is no error now: it may come back.
        let Some(list) = interfaces_now(self.bind, &self.wanted) else {
            self.due.get_or_insert(now + COMPARE_EVERY);
            return None;
        };
        if list == self.listed || !(quiet || is_rescue(&self.listed, &list)) {
            return None;
        }
        self.listed = list;
        Some(&self.listed)
    }

    /// The node ends.
    pub(super) fn stop(&mut self, reactor: &mut R) {
        if let Watch::Told(_) = std::mem::replace(&mut self.watch, Watch::Not) {
            reactor.forget(NETWORK);
        }
        (self.due, self.look) = (None, None);
    }

    fn rest(&mut self, now: Instant) {
        self.first = None;
        self.due = matches!(self.watch, Watch::Comparing).then(|| now + COMPARE_EVERY);
    }
}

impl<R: Reactor> fmt::Debug for Network<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network")
            .field("listed", &self.listed)
            .field("due", &self.due)
            .finish_non_exhaustive()
    }
}

/// Returns true if a new address leads out, and none that led out before is left in its family: whatever went over those
/// has to begin again, and can. An address that goes is waited for, as it may come back.
fn is_rescue(before: &[Interface], now: &[Interface]) -> bool {
    let leads = |i: &&Interface| i.used && i.default_route && !is_link_local(i.ip);
    now.iter().filter(leads).any(|new| {
        let left = |old: &Interface| now.iter().filter(leads).any(|i| i.ip == old.ip);
        before.iter().all(|old| old.ip != new.ip)
            && !before.iter().filter(leads).any(|old| old.ip.is_ipv4() == new.ip.is_ipv4() && left(old))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_way_out_in_the_place_of_the_old_one_does_not_wait_for_quiet() {
        let of = |index, ip: &str, default_route| Interface {
            default_route,
            ..Interface::new(index, ip.parse().unwrap(), 24)
        };
        let (old, new) = (of(2, "10.0.0.2", true), of(3, "10.1.0.2", true));
        let unused = Interface { used: false, ..new };
        let (v6, link) = (of(3, "2001:db8::2", true), of(3, "fe80::2", true));
        let rows: [(&[Interface], &[Interface], bool); 9] = [
            (&[old], &[new], true),
            (&[], &[new], true),
            (&[of(2, "10.0.0.2", false)], &[of(2, "10.0.0.2", false), new], true),
            // The old one is left, or nothing new is there.
            (&[old], &[old, new], false),
            (&[old], &[], false),
            (&[old, new], &[new], false),
            (&[old], &[of(3, "10.1.0.2", false)], false),
            (&[old], &[unused, link], false),
            // Each family has its own.
            (&[old], &[old, v6], true),
        ];
        for (before, now, is) in rows {
            assert_eq!(is_rescue(before, now), is, "{before:?} {now:?}");
        }
    }
}
