//! Word from the system that its interfaces, addresses or default routes may have changed.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use crate::sys;

/// Time from the word of a change to the look at the interfaces: changes come in groups, a link with its addresses and
/// routes.
pub const QUIET: Duration = Duration::from_millis(250);
/// Time between two looks where the system does not tell of changes.
pub const COMPARE_EVERY: Duration = Duration::from_secs(5);

/// Outcome of a read of [`changes`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: a driver has to know each.
pub enum Word {
    /// Nothing has come.
    None,
    /// Nothing that matters has come: read again.
    Idle,
    /// The interfaces may have changed.
    Changed,
    /// The socket tells nothing any more.
    Lost,
}

impl Word {
    /// Judges a read into this buffer, which has 8 KiB.
    pub fn of(read: &io::Result<usize>, buffer: &[u8]) -> Self {
        match read {
            Ok(0) => Word::Lost,
            // So long that it may have been cut.
            Ok(n) if *n == buffer.len() || sys::matters(&buffer[..*n]) => Word::Changed,
            Ok(_) => Word::Idle,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Word::None,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Word::Idle,
            Err(e) if sys::is_overflow(e) => Word::Changed,
            Err(_) => Word::Lost,
        }
    }
}

/// A socket that becomes readable with every change, non-blocking; a stream for the sake of the event loops, as of
/// [`socket::pair`](crate::socket::pair). Linux has netlink for it, Apple's systems and the BSDs routing sockets, Windows
/// functions that it calls.
///
/// # Errors
/// Of the system's calls, as where Android refuses them.
pub fn changes() -> io::Result<TcpStream> {
    sys::changes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_means_one_of_four_things() {
        let of = |data: &[u8], room: usize| {
            let mut buffer = vec![0; room];
            buffer[..data.len()].copy_from_slice(data);
            Word::of(&Ok(data.len()), &buffer)
        };
        // A route of Linux to one network, which is no change there.
        let mut route = [0; 20];
        route[0] = 20;
        route[4] = 24;
        route[17] = 24;
        let idle =
            if cfg!(any(target_os = "linux", target_os = "android")) { Word::Idle } else { Word::Changed };
        #[cfg(target_endian = "little")]
        assert_eq!(of(&route, 99), idle);
        let _ = idle;
        assert_eq!([of(&route, route.len()), of(&[9; 5], 99)], [Word::Changed; 2]);
        let failed = |e: io::Error| Word::of(&Err(e), &[]);
        assert_eq!((of(&[], 9), failed(io::ErrorKind::BrokenPipe.into())), (Word::Lost, Word::Lost));
        assert_eq!(failed(io::ErrorKind::WouldBlock.into()), Word::None);
        #[cfg(unix)]
        assert_eq!(failed(rustix::io::Errno::NOBUFS.into()), Word::Changed);
    }
}
