//! Dials a list of paths, staggered. The next dial begins a little after the one before, or as soon as none is left
//! running (RFC 8305 section 5).

use core::fmt::Write;
use core::time::Duration;
use std::collections::VecDeque;
use std::net::SocketAddr;

use smallvec::SmallVec;

use crate::call::Refusal;
use crate::failure::IoFailure;
use crate::hello::HelloError;
use crate::io::SockId;
use crate::strategy::paths::{Path, Paths};
use crate::time::Instant;

/// Pause between two dials. RFC 8305 recommends 250 ms for strangers' servers and allows down to 10 ms; these few
/// addresses are one peer's own.
const STAGGER: Duration = Duration::from_millis(50);

/// End of a dial.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DialEnd {
    Io(IoFailure),
    Hello(HelloError),
    Refused(Refusal),
    /// The stream broke before the peer had said anything. The peer may have had no room just then.
    Broken,
    /// The stream ended before it was agreed on.
    Lost,
    /// The hello took too long.
    Silent,
    /// The hello was done, then nothing came.
    Stalled,
}

#[derive(Debug)]
pub(crate) struct Dialler {
    waiting: VecDeque<Path>,
    live: SmallVec<[(SockId, Path); 4]>,
    ended: SmallVec<[(SocketAddr, DialEnd); 4]>,
    next: Instant,
    /// Paths that broke and were dialled again, which happens once for each. `None`: no path is.
    second: Option<SmallVec<[SocketAddr; 4]>>,
}

impl Dialler {
    pub(crate) fn new(paths: Paths, now: Instant) -> Self {
        Dialler {
            waiting: paths.into_iter().collect(),
            live: SmallVec::new(),
            ended: SmallVec::new(),
            next: now,
            second: None,
        }
    }

    /// Dials a path again, once, whose stream broke before the peer had said anything.
    pub(crate) fn insisting(mut self) -> Self {
        self.second = Some(SmallVec::new());
        self
    }

    /// Returns the path to dial now, if one is due. The caller tells the outcome by [`started`](Self::started).
    pub(crate) fn due(&mut self, now: Instant) -> Option<Path> {
        if self.next > now && (!self.live.is_empty() || self.waits_for_second(now)) {
            return None;
        }
        self.waiting.pop_front()
    }

    pub(crate) fn started(&mut self, sock: SockId, path: Path, now: Instant) {
        self.live.push((sock, path));
        self.next = now + STAGGER;
    }

    /// Takes in the end of a dial of ours; the next need not wait. False: the dial was not ours.
    pub(crate) fn ended(&mut self, sock: SockId, why: DialEnd, now: Instant) -> bool {
        let Some(at) = self.live.iter().position(|(s, _)| *s == sock) else { return false };
        let (_, path) = self.live.remove(at);
        let remote = path.remote;
        self.ended.push((remote, why));
        self.next = now;
        if let (DialEnd::Broken, Some(second)) = (why, &mut self.second)
            && !second.contains(&remote)
        {
            second.push(remote);
            self.waiting.push_front(path);
            // Not at once: whatever broke it may need a moment.
            self.next = now + STAGGER;
        }
        true
    }

    /// Returns true if the next path is one that broke, a moment ago.
    fn waits_for_second(&self, now: Instant) -> bool {
        let front = self.waiting.front().map(|path| path.remote);
        self.next > now && self.second.iter().flatten().any(|second| Some(*second) == front)
    }

    /// Returns the time at which to ask [`due`](Self::due) again.
    pub(crate) fn next(&self) -> Option<Instant> {
        (!self.waiting.is_empty()).then_some(self.next)
    }

    pub(crate) fn is_exhausted(&self) -> bool {
        self.waiting.is_empty() && self.live.is_empty()
    }

    pub(crate) fn planned(&self) -> usize {
        self.waiting.len() + self.live.len() + self.ended.len()
    }

    /// Returns the dials that ended, with errors as a socket would give them.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (SocketAddr, IoFailure)> + '_ {
        self.ended.iter().map(|(to, why)| match why {
            DialEnd::Io(why) => (*to, *why),
            DialEnd::Silent | DialEnd::Stalled => (*to, IoFailure::TimedOut),
            DialEnd::Hello(_) | DialEnd::Refused(_) | DialEnd::Broken | DialEnd::Lost => {
                (*to, IoFailure::Reset)
            }
        })
    }

    /// Describes the end of each dial, in words.
    pub(crate) fn describe(&self) -> String {
        let mut text = String::new();
        for (n, (to, why)) in self.ended.iter().enumerate() {
            // Writing to a String cannot fail.
            let _ = write!(text, "{}{to}: ", if n == 0 { "" } else { "; " });
            let _ = match why {
                DialEnd::Io(IoFailure::TimedOut) => text
                    .write_str("no answer (a NAT or firewall on the way drops our SYN, or nobody is there)"),
                DialEnd::Io(IoFailure::Refused) => {
                    text.write_str("refused (nobody listens there, or a NAT or firewall rejects our SYN)")
                }
                DialEnd::Io(why) => write!(text, "{why}"),
                DialEnd::Hello(why) => write!(text, "{why}"),
                DialEnd::Refused(why) => write!(text, "the peer refused: {why}"),
                DialEnd::Broken | DialEnd::Lost => text.write_str("the stream broke during the hello"),
                DialEnd::Silent => text.write_str("connected, but no hello came back"),
                DialEnd::Stalled => text.write_str("the peer proved who it is, then fell silent"),
            };
        }
        for (_, Path { remote: to, .. }) in &self.live {
            let _ = write!(text, "{}{to}: no answer yet", if text.is_empty() { "" } else { "; " });
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_whose_stream_broke_is_dialled_once_more_by_whoever_insists() {
        for insists in [true, false] {
            let t0 = Instant::ZERO;
            let mut dialler = Dialler::new([path(1)].into_iter().collect(), t0);
            if insists {
                dialler = dialler.insisting();
            }
            assert_eq!(dialler.due(t0), Some(path(1)));
            dialler.started(SockId::from_number(1), path(1), t0);
            assert!(dialler.ended(SockId::from_number(1), DialEnd::Broken, t0));
            assert_eq!(dialler.is_exhausted(), !insists);
            if insists {
                assert_eq!((dialler.due(t0), dialler.next()), (None, Some(t0 + STAGGER)));
                assert_eq!(dialler.due(t0 + STAGGER), Some(path(1)));
                dialler.started(SockId::from_number(2), path(1), t0 + STAGGER);
                dialler.ended(SockId::from_number(2), DialEnd::Broken, t0 + STAGGER);
                assert!(dialler.is_exhausted(), "once");
            }
        }
    }

    fn path(n: u16) -> Path {
        Path { remote: SocketAddr::from(([192, 0, 2, 1], n)), local: false }
    }

    #[test]
    fn dials_are_staggered_and_a_failure_brings_the_next_at_once() {
        let t0 = Instant::ZERO;
        let (a, b) = (SockId::from_number(1), SockId::from_number(2));
        let mut dialler = Dialler::new((1..=3).map(path).collect(), t0);
        assert_eq!(dialler.due(t0), Some(path(1)));
        dialler.started(a, path(1), t0);
        assert_eq!((dialler.due(t0), dialler.next()), (None, Some(t0 + STAGGER)));
        assert_eq!(dialler.due(t0 + STAGGER), Some(path(2)));
        dialler.started(b, path(2), t0 + STAGGER);
        let t1 = t0 + STAGGER + Duration::from_millis(1);
        assert!(dialler.ended(a, DialEnd::Io(IoFailure::Refused), t1));
        assert!(!dialler.ended(a, DialEnd::Lost, t1));
        assert_eq!(dialler.due(t1), Some(path(3)));
        assert!(!dialler.is_exhausted(), "one is live");
        assert!(dialler.ended(b, DialEnd::Io(IoFailure::TimedOut), t1));
        assert!(dialler.is_exhausted());
        assert_eq!(dialler.next(), None);
        assert_eq!(
            dialler.describe(),
            "192.0.2.1:1: refused (nobody listens there, or a NAT or firewall rejects our SYN); \
             192.0.2.1:2: no answer (a NAT or firewall on the way drops our SYN, or nobody is there)"
        );
    }
}
