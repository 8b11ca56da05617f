//! Filter of authentic messages: each counts once, and only around the time it was sent.
//!
//! An id is kept of a message that caused something, and of no other. Strangers' effects have a rate, which bounds the
//! memory for their messages: it never fills. Known peers have a memory of their own, so that none of this hinders
//! them.

use std::collections::BTreeSet;

use super::requests::STRANGERS_A_SECOND;
use crate::signal::message::{Message, MessageId};
use crate::strategy::ours::Trust;
use crate::time::WallTime;

const SECOND: i64 = 1_000_000;
/// Time before and after its sending time in which a message counts, in microseconds. A sender further off is told our
/// time and corrects itself.
const WINDOW: i64 = 600 * SECOND;
/// Time for a stranger's message from the future, since that adds to how long its id is kept.
const STRANGERS_FUTURE: i64 = 120 * SECOND;
/// Most ids kept of strangers' messages: all that are let in within the time for which they are kept.
const MAX_STRANGERS: usize = STRANGERS_A_SECOND * ((WINDOW + STRANGERS_FUTURE) / SECOND) as usize + 1024;
/// Most ids kept of known peers' messages.
const MAX_KNOWN: usize = 65_536;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::node) enum Verdict {
    /// The message counts. Once it has caused something, the stamp is to be kept.
    Fresh(Stamp),
    /// A copy over a second broker, or a replay, of one that was kept.
    Repeated,
    /// Outside the window, or past its lifetime.
    Stale,
    /// The message's id could not be kept.
    Full,
}

/// Record that is kept of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::node) struct Stamp {
    /// Time from which on the time alone refuses it.
    over: WallTime,
    /// Sixteen random bytes that only the sender and we have seen, so that nobody can take them before it.
    id: MessageId,
    trust: Trust,
}

#[derive(Debug, Default)]
pub(super) struct Inbox {
    known: Memory,
    strangers: Memory,
}

#[derive(Debug, Default)]
struct Memory {
    ids: BTreeSet<MessageId>,
    by_time: BTreeSet<(WallTime, MessageId)>,
}

impl Inbox {
    /// Judges a message by our clock `wall`; the sender's is known to be `offset` microseconds ahead.
    pub(super) fn judge(&mut self, wall: WallTime, offset: i64, trust: Trust, message: &Message) -> Verdict {
        self.known.forget(wall);
        self.strangers.forget(wall);
        let sent = message.sent.offset_micros(offset.saturating_neg());
        let age = wall.micros_since(sent);
        let lifetime = (i64::from(message.lifetime) * SECOND).min(WINDOW);
        let (future, most) = match trust {
            Trust::Known => (WINDOW, MAX_KNOWN),
            Trust::Stranger => (STRANGERS_FUTURE, MAX_STRANGERS),
        };
        if age < -future || age > lifetime {
            return Verdict::Stale;
        }
        let id = message.id;
        // A peer may have become known, or a stranger, since.
        if self.known.ids.contains(&id) || self.strangers.ids.contains(&id) {
            return Verdict::Repeated;
        }
        if self.of(trust).ids.len() >= most {
            return Verdict::Full;
        }
        Verdict::Fresh(Stamp { over: sent.offset_micros(lifetime), id, trust })
    }

    /// Keeps the stamp of a message that has caused something.
    pub(super) fn keep(&mut self, stamp: Stamp) {
        let memory = self.of(stamp.trust);
        if memory.ids.insert(stamp.id) {
            memory.by_time.insert((stamp.over, stamp.id));
        }
    }

    fn of(&mut self, trust: Trust) -> &mut Memory {
        match trust {
            Trust::Known => &mut self.known,
            Trust::Stranger => &mut self.strangers,
        }
    }
}

impl Memory {
    /// Drops the ids of messages that the time alone refuses from now on. To drop one before would make room for
    /// replays.
    fn forget(&mut self, wall: WallTime) {
        while let Some(&(over, id)) = self.by_time.first()
            && wall.micros_since(over) > 0
        {
            self.by_time.pop_first();
            self.ids.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::SessionId;
    use crate::signal::message::Body;

    fn message(id: u32, sent_s: i64, lifetime: u16) -> Message {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&id.to_be_bytes());
        Message {
            id: MessageId(bytes),
            sent: WallTime::from_micros(sent_s * SECOND),
            lifetime,
            session: SessionId([0; 16]),
            body: Body::Dialling(0),
        }
    }

    fn wall(s: i64) -> WallTime {
        WallTime::from_micros(s * SECOND)
    }

    /// Judges a message, and keeps it if it counts. Returns true if it counts, or else the reason.
    fn take(inbox: &mut Inbox, now: i64, trust: Trust, message: &Message) -> Result<(), Verdict> {
        match inbox.judge(wall(now), 0, trust, message) {
            Verdict::Fresh(stamp) => {
                inbox.keep(stamp);
                Ok(())
            }
            why => Err(why),
        }
    }

    #[test]
    fn once_per_id_within_ten_minutes_of_either_clock() {
        let mut inbox = Inbox::default();
        for (now, result) in [
            (399, Err(Verdict::Stale)),
            (400, Ok(())),
            (401, Err(Verdict::Repeated)),
            (1600, Err(Verdict::Repeated)),
            (1601, Err(Verdict::Stale)),
            // The clock was set back: the id is gone, but the window had to be passed twice for that.
            (1600, Ok(())),
        ] {
            assert_eq!(take(&mut inbox, now, Trust::Known, &message(1, 1000, 600)), result, "at {now}");
        }
        let short = message(2, 1000, 30);
        assert_eq!(take(&mut inbox, 1031, Trust::Known, &short), Err(Verdict::Stale), "its lifetime is over");
        assert_eq!(take(&mut inbox, 1030, Trust::Known, &short), Ok(()));
        let ahead = 3600 * SECOND;
        let message = message(3, 4600, 600);
        assert_eq!(inbox.judge(wall(1000), 0, Trust::Known, &message), Verdict::Stale);
        let Verdict::Fresh(stamp) = inbox.judge(wall(1000), ahead, Trust::Known, &message) else { panic!() };
        inbox.keep(stamp);
        assert_eq!(inbox.judge(wall(1000), ahead, Trust::Known, &message), Verdict::Repeated);
    }

    #[test]
    fn what_caused_nothing_is_forgotten() {
        let mut inbox = Inbox::default();
        for _ in 0..2 {
            let verdict = inbox.judge(wall(0), 0, Trust::Stranger, &message(1, 0, 600));
            assert!(matches!(verdict, Verdict::Fresh(_)), "{verdict:?}");
        }
        assert!(inbox.strangers.ids.is_empty());
    }

    #[test]
    fn a_strangers_message_counts_two_minutes_before_its_time_at_the_earliest() {
        let mut inbox = Inbox::default();
        let message = message(1, 1000, 600);
        assert_eq!(take(&mut inbox, 879, Trust::Stranger, &message), Err(Verdict::Stale));
        assert_eq!(take(&mut inbox, 880, Trust::Stranger, &message), Ok(()));
        assert_eq!(take(&mut inbox, 1600, Trust::Stranger, &message), Err(Verdict::Repeated));
        assert_eq!(take(&mut inbox, 1601, Trust::Stranger, &message), Err(Verdict::Stale));
        assert!(inbox.strangers.ids.is_empty() && inbox.strangers.by_time.is_empty());
    }

    #[test]
    fn an_id_counts_once_whether_its_sender_is_known_by_then_or_not() {
        let mut inbox = Inbox::default();
        for (id, [first, second]) in
            [[Trust::Known, Trust::Stranger], [Trust::Stranger, Trust::Known]].into_iter().enumerate()
        {
            let message = message(id as u32, 0, 600);
            assert_eq!(take(&mut inbox, 0, first, &message), Ok(()));
            for now in [0, 600] {
                assert_eq!(take(&mut inbox, now, second, &message), Err(Verdict::Repeated));
            }
        }
    }

    #[test]
    fn a_full_memory_refuses_its_own_kind_only_until_the_ids_are_over() {
        for (trust, other, most) in [
            (Trust::Stranger, Trust::Known, MAX_STRANGERS as u32),
            (Trust::Known, Trust::Stranger, MAX_KNOWN as u32),
        ] {
            let mut inbox = Inbox::default();
            for n in 0..most {
                assert_eq!(take(&mut inbox, 0, trust, &message(n, 0, 600)), Ok(()));
            }
            assert_eq!(take(&mut inbox, 0, trust, &message(most, 0, 600)), Err(Verdict::Full));
            let first = take(&mut inbox, 0, trust, &message(0, 0, 600));
            assert_eq!(first, Err(Verdict::Repeated), "never forgotten early");
            assert_eq!(take(&mut inbox, 0, other, &message(most, 0, 600)), Ok(()));
            assert_eq!(take(&mut inbox, 601, trust, &message(most + 1, 601, 600)), Ok(()));
        }
    }
}
