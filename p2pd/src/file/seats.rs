//! Peers that are received from at once. Places are few enough for memory, and shared out by the peers' networks. A
//! peer that keeps a place and sends next to nothing gives it up to those that wait.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use p2pd_core::NodeId;
use p2pd_tokio::Session;
use tokio::task::{Id, JoinError, JoinSet};

use super::channel::Stop;
use super::{Ended, Event, Receiving};
use crate::arrivals::Arrivals;
use crate::say::Say;
use crate::talk::{Turns, place};

/// Most peers that are received from at once, beside those that were met by a code.
const SEATS: usize = 64;
/// Most of these peers from one place.
const SEATS_OF_ONE: usize = 8;
/// Most sessions of one peer.
const SEATS_OF_PEER: usize = 4;
/// Bytes a second that keep a seat while others wait,
const LEAST: u64 = 4096;
/// counted over so long.
const OVER: Duration = Duration::from_secs(30);
/// Bytes that an entry counts for beside its own: a folder may have nothing but empty files.
const ENTRY: u64 = 64;
/// Silence after which a peer gives its seat up to one that waits.
const NOTHING: Duration = Duration::from_secs(10);

/// Progress of a peer.
#[derive(Debug, Default)]
pub(super) struct Moved {
    bytes: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Position reached in its file, in bytes.
    at: u64,
    /// True while the two sides compare, so that no bytes move.
    compares: bool,
    /// True while a file is on its way.
    under_way: bool,
    /// Files that were refused, or could not be kept.
    lost: usize,
}

impl Moved {
    pub(super) fn tell(&self, event: &Event<'_>) {
        let mut state = self.state();
        match *event {
            Event::Compares => (state.compares, state.under_way) = (true, true),
            Event::Begins { from, .. } => (state.at, state.compares) = (from, false),
            Event::Moved { bytes, .. } => {
                self.bytes.fetch_add(bytes.saturating_sub(state.at), Ordering::Relaxed);
                state.at = bytes;
            }
            Event::Ended { ref how, .. } => {
                (state.compares, state.under_way) = (false, false);
                self.bytes.fetch_add(ENTRY, Ordering::Relaxed);
                state.lost += usize::from(!matches!(how, Ended::Moved { .. } | Ended::Same(_)));
            }
            Event::Listed(_) => (state.compares, state.under_way) = (false, false),
            Event::Linked => drop(self.bytes.fetch_add(ENTRY, Ordering::Relaxed)),
            Event::Kept { .. } => {}
        }
    }

    fn compares(&self) -> bool {
        self.state().compares
    }

    /// Number of files that have not arrived, if the peer is left now. Whether more would have been offered is not
    /// known.
    fn lost(&self) -> usize {
        let state = self.state();
        state.lost + usize::from(state.under_way)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Time for peers to be told of the end.
const FAREWELL: Duration = Duration::from_millis(50);

#[derive(Debug)]
struct Seat {
    task: Id,
    session: Session,
    place: IpAddr,
    moved: Arc<Moved>,
    rate: Rate,
    stop: Arc<Stop>,
}

/// Bytes since the last two looks, at least [`OVER`] ago where there were so many.
#[derive(Debug)]
struct Rate {
    marks: [(Instant, u64); 2],
    /// Time at which bytes were last seen to move, and their number then.
    last: (Instant, u64),
}

impl Rate {
    fn new(now: Instant) -> Self {
        Rate { marks: [(now, 0); 2], last: (now, 0) }
    }

    /// Looks again: bytes a second, or `None` where it is too early to say.
    fn look(&mut self, now: Instant, bytes: u64, compares: bool) -> Option<u64> {
        if compares {
            *self = Rate { marks: [(now, bytes); 2], last: (now, bytes) };
            return None;
        }
        if bytes > self.last.1 {
            self.last = (now, bytes);
        } else if now.duration_since(self.last.0) >= NOTHING {
            return Some(0);
        }
        let [old, new] = self.marks;
        if now.duration_since(new.0) >= OVER {
            self.marks = [new, (now, bytes)];
        }
        let over = now.duration_since(old.0);
        (over >= OVER).then(|| (bytes - old.1) * 1000 / (over.as_millis() as u64).max(1))
    }
}

/// Seats of all senders.
#[derive(Debug)]
pub(super) struct Seats {
    receiving: Arc<Receiving>,
    say: Say,
    taken: Vec<Seat>,
    running: JoinSet<(bool, usize)>,
    waiting: Turns<Session>,
    failed: usize,
}

impl Seats {
    pub(super) fn new(receiving: Arc<Receiving>, say: Say) -> Self {
        let (taken, running, waiting) = (Vec::new(), JoinSet::new(), Turns::default());
        Seats { receiving, say, taken, running, waiting, failed: 0 }
    }

    /// Receives until no more senders come, or from one sender that is let in (`--once`): returns the number of its files that have
    /// not arrived.
    pub(super) async fn serve(&mut self, arrivals: &mut Arrivals) -> usize {
        let mut look = tokio::time::interval(Duration::from_secs(1));
        loop {
            while let Some(session) = self.next() {
                self.seat(session);
            }
            tokio::select! {
                session = arrivals.next() => match session {
                    // One whose connection has broken already is not worth a seat.
                    Some(session) => if let Some(carrier) = session.carrier() {
                        // Strangers that wait, and that nobody says yes to, must not keep out one that has a yes.
                        let peer = session.peer();
                        if self.receiving.expects(peer) && sessions(&self.taken, peer) < SEATS_OF_PEER {
                            self.seat(session);
                        } else {
                            self.waiting.push(carrier.remote_addr().ip(), session);
                        }
                    },
                    None => return 0,
                },
                Some(ended) = self.running.join_next_with_id() => {
                    if let (true, lost) = self.left(ended) && self.receiving.once {
                        return lost;
                    }
                }
                _ = look.tick() => self.make_room(),
            }
        }
    }

    /// Tells the peers that nothing is received any more.
    pub(super) async fn close(&self) {
        self.taken.iter().for_each(|seat| seat.session.close(0, b"the receiver ended"));
        // The sessions' own tasks tell them.
        tokio::time::sleep(FAREWELL).await;
    }

    /// Number of files that have not arrived, and of senders that were cut off.
    pub(super) fn failed(&mut self) -> usize {
        while let Some(ended) = self.running.try_join_next_with_id() {
            self.left(ended);
        }
        // A sender that was told of its last file may not have closed its pipe yet.
        self.failed + self.taken.iter().map(|seat| seat.moved.lost()).sum::<usize>()
    }

    /// Returns what has become of the peer that has left.
    fn left(&mut self, ended: Result<(Id, (bool, usize)), JoinError>) -> (bool, usize) {
        let (task, ended) = ended.unwrap_or_else(|why| (why.id(), (false, 1)));
        self.taken.retain(|seat| seat.task != task);
        self.failed += ended.1;
        ended
    }

    /// Returns the next session that may begin.
    fn next(&mut self) -> Option<Session> {
        if self.taken.len() >= SEATS {
            return None;
        }
        let taken = &self.taken;
        self.waiting.next(
            |of| taken.iter().filter(|seat| seat.place == of).count() < SEATS_OF_ONE,
            |session| sessions(taken, session.peer()) < SEATS_OF_PEER,
        )
    }

    fn seat(&mut self, session: Session) {
        // It has broken while it waited.
        let Some(carrier) = session.carrier() else { return };
        self.say.opened("incoming", &carrier);
        let (moved, stop) = (Arc::new(Moved::default()), Arc::new(Stop::default()));
        let (held, place) = (session.clone(), place(carrier.remote_addr().ip()));
        let (receiving, say, watched, asked) =
            (self.receiving.clone(), self.say, moved.clone(), stop.clone());
        let task = self.running.spawn(async move { receiving.one(session, &asked, &watched, say).await });
        let rate = Rate::new(Instant::now());
        self.taken.push(Seat { task: task.id(), session: held, place, moved, rate, stop });
    }

    /// Asks the slowest peer to leave, if somebody waits for its seat and its rate is below [`LEAST`].
    fn make_room(&mut self) {
        let now = Instant::now();
        let full = self.taken.len() >= SEATS;
        let mut slowest: Option<(u64, usize)> = None;
        for (at, seat) in self.taken.iter_mut().enumerate() {
            let bytes = seat.moved.bytes.load(Ordering::Relaxed);
            let Some(rate) = seat.rate.look(now, bytes, seat.moved.compares()).filter(|rate| *rate < LEAST)
            else {
                continue;
            };
            let waited_for = full || self.waiting.places().any(|place| place == seat.place);
            if waited_for && slowest.is_none_or(|(least, _)| rate < least) {
                slowest = Some((rate, at));
            }
        }
        if let Some((_, at)) = slowest.filter(|_| !self.waiting.is_empty()) {
            self.taken[at].stop.make_room();
        }
    }
}

/// Returns the number of seats that a peer has.
fn sessions(taken: &[Seat], peer: NodeId) -> usize {
    taken.iter().filter(|seat| seat.session.peer() == peer).count()
}

#[cfg(test)]
mod tests {
    use super::super::tree::HASH;
    use super::super::wire::{Listing, Refusal};
    use super::*;

    #[test]
    fn a_peer_that_is_left_has_lost_what_was_refused_and_what_is_on_its_way() {
        let moved = Moved::default();
        let ended = |how| Event::Ended { name: "n", how };
        let arrived = || Ended::Moved { bytes: 9, from: 0, digest: [0; HASH], kept: None };
        for (event, lost) in [
            (Event::Compares, 1),
            (Event::Listed(&Listing::default()), 0),
            (Event::Compares, 1),
            (Event::Begins { name: "n", size: Some(9), from: 0 }, 1),
            (Event::Moved { name: "n", bytes: 9 }, 1),
            (ended(arrived()), 0),
            (ended(Ended::Refused(Refusal::Name)), 1),
            (Event::Compares, 2),
            (ended(Ended::Same(9)), 1),
        ] {
            moved.tell(&event);
            assert_eq!(moved.lost(), lost, "{event:?}");
        }
    }

    #[test]
    fn a_rate_is_told_once_it_is_known_and_hashing_is_no_rest() {
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let mut quick = Rate::new(begin);
        let told: Vec<_> = (1..=100).map(|s| quick.look(at(s), s * 1_000_000, false)).collect();
        assert!(told[..28].iter().all(Option::is_none));
        assert!(told[30..].iter().all(|rate| *rate == Some(1_000_000)), "{told:?}");

        let mut silent = Rate::new(begin);
        let told: Vec<_> = (1..=12).map(|s| silent.look(at(s), 0, false)).collect();
        assert_eq!((told[8], told[9]), (None, Some(0)), "{told:?}");

        let mut trickles = Rate::new(begin);
        let told: Vec<_> = (1..=60).map(|s| trickles.look(at(s), s * 100, false)).collect();
        assert_eq!((told[20], told[30]), (None, Some(100)), "{told:?}");

        let mut hashes = Rate::new(begin);
        assert!((1..=100).all(|s| hashes.look(at(s), 0, s < 95).is_none()));
    }
}
