//! Word from the system that its interfaces, addresses or default routes may have changed.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

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
            Ok(n) if *n == buffer.len() || matters(&buffer[..*n]) => Word::Changed,
            Ok(_) => Word::Idle,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Word::None,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Word::Idle,
            Err(e) if is_overflow(e) => Word::Changed,
            Err(_) => Word::Lost,
        }
    }
}

/// A socket that becomes readable with every change, non-blocking; a stream for the sake of the event loops, as of
/// [`socket::pair`](crate::socket::pair). Linux only: netlink's route family (rtnetlink(7)).
///
/// # Errors
/// Of `socket` and `bind`; `Unsupported` elsewhere.
#[cfg(target_os = "linux")]
pub fn changes() -> io::Result<TcpStream> {
    use rustix::net::netlink::SocketAddrNetlink;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
    /// `RTMGRP_LINK`, and `_IFADDR` and `_ROUTE` of IPv4 and of IPv6 (linux/rtnetlink.h).
    const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    // NETLINK_ROUTE is protocol 0.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
    Ok(socket.into())
}

/// Fails: this system has no such socket.
#[cfg(not(target_os = "linux"))]
pub fn changes() -> io::Result<TcpStream> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Returns true if data read from [`changes`] can matter. Routes matter only if they are default routes, since some
/// machines learn others all the time. Data that is cut short or not understood matters.
fn matters(mut messages: &[u8]) -> bool {
    /// Length and type, flags, sequence, port id: `struct nlmsghdr`.
    const HEADER: usize = 16;
    /// `RTM_NEWROUTE`, `RTM_DELROUTE`.
    const ROUTES: [u16; 2] = [24, 25];
    while !messages.is_empty() {
        let length = messages.first_chunk().map_or(0, |n| u32::from_ne_bytes(*n) as usize);
        if length < HEADER || length > messages.len() {
            return true;
        }
        let kind = u16::from_ne_bytes([messages[4], messages[5]]);
        // Behind the header of a route its family, and how many bits of its destination count.
        match messages[HEADER..length].get(1) {
            Some(1..) if ROUTES.contains(&kind) => {}
            _ => return true,
        }
        // Messages are aligned to four bytes.
        messages = messages.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

/// Returns true if a read of [`changes`] failed because more came than the socket has room for.
#[cfg(unix)]
fn is_overflow(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error())
}

/// Returns false: this system has no such socket.
#[cfg(not(unix))]
fn is_overflow(_: &io::Error) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut message = (16 + body.len() as u32).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(body);
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    #[test]
    fn of_routes_only_default_ones_matter() {
        let route = |bits: u8| message(24, &[2, bits, 0, 0, 254, 3]);
        assert!(!matters(&route(24)) && !matters(&[route(24), route(32)].concat()));
        assert!(matters(&route(0)) && matters(&[route(24), route(0)].concat()));
        assert!(matters(&message(25, &[10, 0])) && !matters(&message(25, &[10, 64])));
        for other in [16, 17, 20, 21] {
            assert!(matters(&message(other, &[2, 24, 0, 0])), "links and addresses: {other}");
        }
        assert!(!matters(&[]));
    }

    #[test]
    fn a_read_means_one_of_four_things() {
        let [route, link] = [message(24, &[2, 24, 0, 0]), message(16, &[0])];
        let of = |data: &[u8], room: usize| {
            let mut buffer = vec![0; room];
            buffer[..data.len()].copy_from_slice(data);
            Word::of(&Ok(data.len()), &buffer)
        };
        assert_eq!(
            [of(&route, 99), of(&route, route.len()), of(&link, 99)],
            [Word::Idle, Word::Changed, Word::Changed]
        );
        let failed = |e: io::Error| Word::of(&Err(e), &[]);
        assert_eq!((of(&[], 9), failed(io::ErrorKind::BrokenPipe.into())), (Word::Lost, Word::Lost));
        assert_eq!(failed(io::ErrorKind::WouldBlock.into()), Word::None);
        #[cfg(unix)]
        assert_eq!(failed(rustix::io::Errno::NOBUFS.into()), Word::Changed);
    }

    #[test]
    fn what_is_cut_short_matters() {
        let whole = message(24, &[2, 24, 0, 0]);
        for n in 1..whole.len() {
            assert!(matters(&whole[..n]), "{n}");
        }
        assert!(matters(&[0; 64]));
    }
}
