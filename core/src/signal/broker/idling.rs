//! Time that a session may be idle, as broker and NATs allow.

use core::time::Duration;

use super::link::Link;
use crate::cx::Cx;
use crate::event::BrokerLoss;
use crate::failure::IoFailure;
use crate::nat::memory::{self, CONFIRMED_WITHIN, LONGEST, Patience, SHORTEST};
use crate::time::Instant;

/// Keep-alive told to the broker (MQTT 3.1.1 section 3.1.2.10), in seconds: half as much again as the longest time between
/// two pings. A broker that refuses the first may take another.
const KEEP_ALIVE: [u16; 3] = [450, 60, 20];

#[derive(Debug)]
pub(super) struct Idling {
    /// Place of the broker.
    place: u8,
    /// Place of the keep-alive in [`KEEP_ALIVE`].
    keep_alive: usize,
    /// Time that the broker allows, whatever the keep-alive says.
    patience: Patience,
    suspect: Option<Suspect>,
}

/// A loss that may be the NAT's doing.
#[derive(Debug)]
struct Suspect {
    /// The session was idle for so long before the ping at which it was lost, since this time.
    silent: Duration,
    since: Instant,
    at: Instant,
}

impl Idling {
    pub(super) fn new(place: u8) -> Self {
        Idling { place, keep_alive: 0, patience: Patience::default(), suspect: None }
    }

    /// Returns the keep-alive for CONNECT, in seconds.
    pub(super) fn keep_alive(&self) -> u16 {
        KEEP_ALIVE[self.keep_alive]
    }

    /// The broker may have refused the keep-alive: MQTT 3.1.1 has no other way to say that it is too long.
    pub(super) fn rejected(&mut self) {
        self.keep_alive = (self.keep_alive + 1) % KEEP_ALIVE.len();
    }

    /// Returns the time of the next ping of a session that has proven little yet.
    pub(super) fn early_ping(&self, now: Instant) -> Instant {
        now + SHORTEST.min(self.longest(now))
    }

    /// Returns the time of the next ping of an idle session, which may try what has not held yet.
    pub(super) fn next_ping(&self, cx: &mut Cx, tries: bool) -> Instant {
        let longest = self.longest(cx.now);
        let every =
            if tries { cx.memory.next(cx.now, self.place, longest) } else { cx.memory.held().min(longest) };
        // A longer time than what held has to pass whole.
        if every > cx.memory.held() { cx.now + every } else { memory::due(cx.now, every) }
    }

    /// A ping was answered after this silence.
    pub(super) fn lives(&mut self, cx: &mut Cx, silent: Duration) {
        cx.memory.lived(silent);
        self.patience.lives(silent);
    }

    /// A session is ready. One that was lost just before is a NAT's doing then.
    pub(super) fn ready(&mut self, cx: &mut Cx) {
        if let Some(Suspect { silent, since, at }) = self.suspect.take()
            && cx.now <= at + CONFIRMED_WITHIN
        {
            cx.memory.died(cx.now, since, silent);
        }
    }

    /// A session that was ready is lost.
    pub(super) fn lost(&mut self, now: Instant, link: &Link, loss: BrokerLoss) {
        let asked = link.answer_by.is_some();
        match loss {
            BrokerLoss::Silent | BrokerLoss::Io(IoFailure::Reset) if asked => {
                let since = link.last_ping - link.silent;
                self.suspect = Some(Suspect { silent: link.silent, since, at: now });
            }
            BrokerLoss::ClosedByBroker | BrokerLoss::Io(IoFailure::Reset) if !asked => {
                // Half of it is let pass.
                self.patience.ended(now, now.since(link.used), 2);
            }
            _ => {}
        }
    }

    /// Forgets what the last network was suspected of.
    pub(super) fn moved(&mut self) {
        self.suspect = None;
    }

    /// Returns the most time between two pings that the broker allows.
    fn longest(&self, now: Instant) -> Duration {
        let allowed = Duration::from_secs(u64::from(self.keep_alive())) * 2 / 3;
        allowed.min(self.patience.most(now)).min(LONGEST)
    }
}
