//! Which authentic messages are accepted: each id once, and only around the time it was sent.

use std::collections::{BTreeMap, BTreeSet};

use crate::identity::NodeId;
use crate::signal::message::{Message, MessageId};
use crate::time::WallTime;

/// How far a message's send time may be from our clock, in microseconds: 10 minutes. A sender further off
/// is told our time and corrects itself.
const WINDOW: i64 = 600 * 1_000_000;

/// Most ids remembered in all, and per sender. Beyond either, new messages are refused until old ones
/// leave the window: forgetting would let an attacker make room for a replay.
const MAX_IDS: usize = 4096;
const MAX_IDS_PER_SENDER: usize = 256;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Fresh,
    /// Seen before: a copy over a second broker, or a replay.
    Repeated,
    /// Outside the window, or past its lifetime.
    Stale,
    /// The memory for ids is full.
    Full,
}

#[derive(Debug, Default)]
pub(crate) struct Inbox {
    seen: BTreeSet<(NodeId, MessageId)>,
    /// The same by send time, for forgetting.
    by_time: BTreeSet<(WallTime, NodeId, MessageId)>,
    per_sender: BTreeMap<NodeId, usize>,
}

impl Inbox {
    /// Judges a message by our clock `wall`; the sender's is known to be `offset` microseconds ahead.
    pub(crate) fn judge(&mut self, wall: WallTime, offset: i64, from: NodeId, message: &Message) -> Verdict {
        self.forget(wall);
        let sent = message.sent.offset_micros(offset.saturating_neg());
        let age = wall.micros_since(sent);
        let lifetime = i64::from(message.lifetime) * 1_000_000;
        if age < -WINDOW || age > lifetime.min(WINDOW) {
            return Verdict::Stale;
        }
        if self.seen.contains(&(from, message.id)) {
            return Verdict::Repeated;
        }
        let count = self.per_sender.get(&from).copied().unwrap_or(0);
        if self.seen.len() >= MAX_IDS || count >= MAX_IDS_PER_SENDER {
            return Verdict::Full;
        }
        self.per_sender.insert(from, count + 1);
        self.seen.insert((from, message.id));
        self.by_time.insert((sent, from, message.id));
        Verdict::Fresh
    }

    /// Drops the ids that the window alone refuses from now on.
    fn forget(&mut self, wall: WallTime) {
        while let Some(&(sent, from, id)) = self.by_time.first() {
            if wall.micros_since(sent) <= WINDOW {
                break;
            }
            self.by_time.pop_first();
            self.seen.remove(&(from, id));
            match self.per_sender.get_mut(&from) {
                Some(count) if *count > 1 => *count -= 1,
                _ => {
                    self.per_sender.remove(&from);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::SecretKey;
    use crate::session::SessionId;
    use crate::signal::message::Body;

    fn message(id: u16, sent_s: i64, lifetime: u16) -> Message {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&id.to_be_bytes());
        Message {
            id: MessageId(bytes),
            sent: WallTime::from_micros(sent_s * 1_000_000),
            lifetime,
            session: SessionId([0; 16]),
            body: Body::Dialling(0),
        }
    }

    fn wall(s: i64) -> WallTime {
        WallTime::from_micros(s * 1_000_000)
    }

    #[test]
    fn once_per_id_within_ten_minutes_of_either_clock() {
        let a = SecretKey::from_bytes([1; 32]).node_id();
        let mut inbox = Inbox::default();
        for (now, verdict) in [
            (399, Verdict::Stale),
            (400, Verdict::Fresh),
            (401, Verdict::Repeated),
            (1600, Verdict::Repeated),
            (1601, Verdict::Stale),
            // The clock was set back: the id is gone, but the window had to be passed twice for that.
            (1600, Verdict::Fresh),
        ] {
            assert_eq!(inbox.judge(wall(now), 0, a, &message(1, 1000, 600)), verdict, "at {now}");
        }
        assert_eq!(
            inbox.judge(wall(1031), 0, a, &message(2, 1000, 30)),
            Verdict::Stale,
            "its lifetime is over"
        );
        assert_eq!(inbox.judge(wall(1030), 0, a, &message(2, 1000, 30)), Verdict::Fresh);
        let ahead = 3600 * 1_000_000;
        assert_eq!(inbox.judge(wall(1000), 0, a, &message(3, 4600, 600)), Verdict::Stale);
        assert_eq!(inbox.judge(wall(1000), ahead, a, &message(3, 4600, 600)), Verdict::Fresh);
        assert_eq!(inbox.judge(wall(1000), ahead, a, &message(3, 4600, 600)), Verdict::Repeated);
    }

    #[test]
    fn full_memory_refuses_and_recovers() {
        let (a, b) = (SecretKey::from_bytes([1; 32]).node_id(), SecretKey::from_bytes([2; 32]).node_id());
        let mut inbox = Inbox::default();
        for n in 0..MAX_IDS_PER_SENDER as u16 {
            assert_eq!(inbox.judge(wall(0), 0, a, &message(n, 0, 600)), Verdict::Fresh);
        }
        assert_eq!(inbox.judge(wall(0), 0, a, &message(999, 0, 600)), Verdict::Full);
        assert_eq!(
            inbox.judge(wall(0), 0, a, &message(0, 0, 600)),
            Verdict::Repeated,
            "never forgotten early"
        );
        assert_eq!(inbox.judge(wall(0), 0, b, &message(999, 0, 600)), Verdict::Fresh, "others are not hurt");
        assert_eq!(inbox.judge(wall(601), 0, a, &message(999, 601, 600)), Verdict::Fresh);
    }
}
