//! Word from the system that its interfaces, addresses or default routes may have changed.

use std::io;
use std::net::TcpStream;

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
pub fn matters(mut messages: &[u8]) -> bool {
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
pub fn is_overflow(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error())
}

/// Returns false: this system has no such socket.
#[cfg(not(unix))]
pub fn is_overflow(_: &io::Error) -> bool {
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
    fn what_is_cut_short_matters() {
        let whole = message(24, &[2, 24, 0, 0]);
        for n in 1..whole.len() {
            assert!(matters(&whole[..n]), "{n}");
        }
        assert!(matters(&[0; 64]));
    }
}
