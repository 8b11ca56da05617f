//! Linux, and Android, whose programs are refused some of it: they get nothing then, or what others have.

use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind as bind_netlink, recv, sendto,
    socket_with,
};
use rustix::time::{ClockId, clock_gettime};
use socket2::{SockRef, Socket, TcpKeepalive};

use crate::liveness::Signs;

/// A UDP socket hears of a closed port only of the address that it is connected to, and may send to others as before.
pub(crate) const CONNECTED_SENDS_ANYWHERE: bool = true;

/// Nanoseconds of a clock that stands still while the machine sleeps.
pub(crate) fn awake() -> i64 {
    nanos(ClockId::Monotonic)
}

/// Nanoseconds of a clock that goes on while the machine sleeps.
pub(crate) fn through() -> Option<i64> {
    Some(nanos(ClockId::Boottime))
}

fn nanos(id: ClockId) -> i64 {
    let now = clock_gettime(id);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// A socket that becomes readable with every change of the network: netlink's route family (rtnetlink(7)). Android
/// refuses it to programs for its version 11 and later.
pub(crate) fn changes() -> io::Result<TcpStream> {
    /// `RTMGRP_LINK`, and `_IFADDR` and `_ROUTE` of IPv4 and of IPv6 (linux/rtnetlink.h).
    const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    // NETLINK_ROUTE is protocol 0.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind_netlink(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
    Ok(socket.into())
}

/// Returns true if data read from [`changes`] can matter. Routes matter only if they are default routes, since some
/// machines learn others all the time. Data that is cut short or not understood matters.
pub(crate) fn matters(mut messages: &[u8]) -> bool {
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

/// Asks for all links, and has the answers read until `read` returns false.
pub(crate) fn dump_links(mut read: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    /// `RTM_GETLINK`, `NLM_F_REQUEST | NLM_F_DUMP`.
    const GET: [u16; 2] = [18, 0x1 | 0x300];
    /// The system answers within the call; more datagrams than this are of no machine.
    const MOST: usize = 1024;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    // Header, then `struct ifinfomsg` of zeros.
    let mut request = [0u8; 32];
    request[..4].copy_from_slice(&32u32.to_ne_bytes());
    request[4..6].copy_from_slice(&GET[0].to_ne_bytes());
    request[6..8].copy_from_slice(&GET[1].to_ne_bytes());
    sendto(&socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut buffer = vec![0u8; 64 * 1024];
    for _ in 0..MOST {
        let (length, _) = recv(&socket, &mut buffer[..], RecvFlags::DONTWAIT)?;
        if !read(buffer.get(..length).unwrap_or_default()) {
            break;
        }
    }
    Ok(())
}

/// Has the next data be acknowledged at once.
pub(crate) fn quick_ack(socket: &SockRef<'_>) {
    let _ = socket.set_tcp_quickack(true);
}

/// Has an idle stream be asked again so often, at this distance.
pub(crate) fn ask_again(ask: TcpKeepalive, interval: Duration, times: u32) -> TcpKeepalive {
    ask.with_interval(interval).with_retries(times)
}

/// Reads the signs of a connected TCP socket.
#[allow(unsafe_code)]
pub(crate) fn signs(socket: &Socket) -> Option<Signs> {
    use std::os::fd::AsRawFd;
    /// The beginning of `struct tcp_info` (linux/tcp.h), which only ever grows at its end: eight bytes, then words.
    const BYTES: usize = 60;
    let mut info = [0u8; BYTES];
    let mut length = BYTES as libc::socklen_t;
    // SAFETY: the system writes at most `length` bytes to `info`, which has so many, and the descriptor is open.
    let got = unsafe {
        let place = info.as_mut_ptr().cast();
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, place, &mut length)
    };
    let word = |at: usize| info.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    if got != 0 || (length as usize) < BYTES {
        return None;
    }
    let (probes, unacknowledged, heard) = (info[3], word(24)?, word(56)?);
    Some(Signs { asked: probes > 0 || unacknowledged > 0, heard: Duration::from_millis(heard.into()) })
}

/// Gives a file another name, which must be free: `RENAME_NOREPLACE`, which some file systems do not know.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
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
