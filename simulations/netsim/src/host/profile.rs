//! Differences between operating systems that a peer can observe.

use crate::engine::{Nanos, SECOND};

/// An operating system's TCP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Profile {
    /// The gaps between a dial's SYNs; after the last gap the dial has failed.
    pub syn_gaps: &'static [Nanos],
    /// First and last ephemeral port.
    pub ephemeral: (u16, u16),
}

impl Profile {
    /// Linux from 6.5 on, as measured on 6.18: four linear repeats (`tcp_syn_linear_timeouts`), and then the six that double
    /// (`tcp_syn_retries`). The dial fails after 131 s.
    pub const LINUX: Profile = Profile {
        syn_gaps: &[
            SECOND,
            SECOND,
            SECOND,
            SECOND,
            SECOND,
            2 * SECOND,
            4 * SECOND,
            8 * SECOND,
            16 * SECOND,
            32 * SECOND,
            64 * SECOND,
        ],
        ephemeral: (32_768, 60_999),
    };

    /// Linux before 6.5, and later ones with `tcp_syn_linear_timeouts` 0, as measured on 6.18: doubling from one second.
    pub const LINUX_OLD: Profile = Profile {
        syn_gaps: &[SECOND, 2 * SECOND, 4 * SECOND, 8 * SECOND, 16 * SECOND, 32 * SECOND, 64 * SECOND],
        ephemeral: (32_768, 60_999),
    };

    /// Returns the time from the `n`th SYN to the next one, or to the dial's failure.
    pub(super) fn syn_gap(&self, n: u8) -> Nanos {
        self.syn_gaps.get(usize::from(n)).or(self.syn_gaps.last()).copied().unwrap_or(SECOND)
    }

    /// Returns the number of repeats of a SYN.
    pub(super) fn syn_repeats(&self) -> usize {
        self.syn_gaps.len().saturating_sub(1)
    }
}
