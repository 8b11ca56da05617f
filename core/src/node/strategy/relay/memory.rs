//! Memory of all relays: each has windows by what the others leave, so that their number does not multiply it.

use super::Relays;
use crate::relay::{MAX_MESSAGE, MAX_MESSAGES};
use crate::strategy::ours::Trust;

/// Most relays at a time, pipes among them.
const MAX_RELAYS: usize = 256;
/// Bytes that they hold at most, and that one more may hold beyond.
const MAX_BYTES: u64 = 2 << 30;
/// Eighths of both that strangers may take.
const STRANGERS: u64 = 6;
/// Window of a relay in one direction: at least, and at most.
const WINDOW: (u64, u64) = (256 << 10, 16 << 20);
/// Relays that would share what is left, with both of their windows.
const SHARED_BY: u64 = 32;
/// Bytes of messages, in both directions.
const MESSAGES: u64 = 2 * (MAX_MESSAGE * MAX_MESSAGES) as u64;

/// Returns the window in each direction of a relay beside others that hold so many bytes.
fn window(held: u64, trust: Trust) -> u32 {
    let left = share(MAX_BYTES, trust).saturating_sub(held);
    let (least, most) = WINDOW;
    (left / SHARED_BY / 2).clamp(least, most) as u32
}

/// Returns the most bytes that a relay holds.
pub(super) fn holds(window: u32) -> u64 {
    2 * u64::from(window) + MESSAGES
}

fn share(of: u64, trust: Trust) -> u64 {
    if trust == Trust::Known { of } else { of / 8 * STRANGERS }
}

impl Relays {
    /// Returns true if there is room for one more relay, with this peer.
    pub(in crate::node) fn has_room(&self, trust: Trust) -> bool {
        (self.all.len() as u64) < share(MAX_RELAYS as u64, trust) && self.hold() < share(MAX_BYTES, trust)
    }

    /// Returns the window in each direction of one more relay.
    pub(in crate::node::strategy) fn window_for(&self, trust: Trust) -> u32 {
        window(self.hold(), trust)
    }

    fn hold(&self) -> u64 {
        self.all.values().map(|relay| holds(relay.window)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Windows of relays that are opened until there is no room, and the bytes of all.
    fn fill(mut held: u64, trust: Trust) -> (Vec<u32>, u64) {
        let mut windows = Vec::new();
        while held < share(MAX_BYTES, trust) && (windows.len() as u64) < share(MAX_RELAYS as u64, trust) {
            windows.push(window(held, trust));
            held += holds(windows[windows.len() - 1]);
        }
        (windows, held)
    }

    #[test]
    fn the_first_have_whole_windows_and_all_together_a_bound() {
        let (windows, held) = fill(0, Trust::Known);
        assert_eq!(windows.iter().filter(|w| **w == 16 << 20).count(), 31);
        assert!(windows.is_sorted_by(|a, b| a >= b));
        assert_eq!(windows.len(), 119);
        assert!(held <= MAX_BYTES + holds(256 << 10), "{held}");
    }

    #[test]
    fn strangers_leave_a_quarter_to_named_peers() {
        let (windows, held) = fill(0, Trust::Stranger);
        assert!(windows.len() <= 192 && held <= MAX_BYTES / 4 * 3 + holds(256 << 10), "{held}");
        assert!(window(held, Trust::Known) >= 7 << 20);
    }
}
