//! Limit of the sockets of the process.

use p2pd_core::PIPE_DESCRIPTORS;

use crate::sys;

/// Raises the limit of open descriptors to the most that the system allows without privileges. Returns the limit that
/// holds then; `None` where there is none or it is not known. A spray of dials needs more than the usual 1,024.
pub fn raise_descriptor_limit() -> Option<u64> {
    sys::raise_descriptor_limit()
}

/// Returns the places for peers where the user gives no number: they take half of the descriptors that the process may
/// have. An eighth is for streams that are saying hello, the rest for the node's own dials, files, and programs at the API.
/// Without a limit it is the most sessions of the core.
pub fn most_pipes() -> u32 {
    let limit = sys::descriptor_limit().unwrap_or(u64::MAX);
    (limit / 2 / PIPE_DESCRIPTORS as u64).min(MOST_PIPES) as u32
}

/// The core keeps at most so many sessions.
const MOST_PIPES: u64 = 8192;

#[cfg(all(test, unix))]
mod tests {
    #[test]
    fn the_limit_is_what_the_system_allows() {
        let allowed = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        assert_eq!(super::raise_descriptor_limit(), allowed);
    }
}
