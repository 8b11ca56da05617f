//! Routing sockets of Apple's systems and the BSDs (route(4)), which tell of changes.

#[cfg(not(any(target_os = "linux", target_os = "android", windows)))]
use std::{io, net::TcpStream};

/// Place of the flags in the message of a route: `struct rt_msghdr` (net/route.h).
const FLAGS: usize = if cfg!(target_os = "openbsd") { 16 } else { 8 };
/// `RTM_ADD`, `RTM_DELETE`, `RTM_CHANGE`.
const ROUTES: [u8; 3] = [1, 2, 3];
/// `RTM_GET`, `RTM_LOSING`, `RTM_REDIRECT`, `RTM_MISS`, `RTM_RESOLVE`: answers, and news of single destinations.
const NO_CHANGES: [u8; 5] = [4, 5, 6, 7, 11];
/// `RTF_HOST`: a route to one machine, as there is one to each neighbour.
const HOST: u32 = 0x4;

/// A socket that becomes readable with every change of the network.
#[cfg(not(any(target_os = "linux", target_os = "android", windows)))]
pub(crate) fn changes() -> io::Result<TcpStream> {
    let family = i32::from(rustix::net::AddressFamily::ROUTE.as_raw());
    let socket = socket2::Socket::new(family.into(), socket2::Type::RAW, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Returns true if data read from such a socket can matter. Data that is cut short or not understood matters.
pub(crate) fn matters(mut messages: &[u8]) -> bool {
    while !messages.is_empty() {
        // Length, version, type.
        let length = messages.first_chunk().map_or(0, |n| usize::from(u16::from_ne_bytes(*n)));
        let Some(message) = messages.get(..length).filter(|m| m.len() >= FLAGS + 4) else { return true };
        let flags = u32::from_ne_bytes([0, 1, 2, 3].map(|n| message[FLAGS + n]));
        let kind = message[3];
        let idle = NO_CHANGES.contains(&kind) || ROUTES.contains(&kind) && flags & HOST != 0;
        if !idle {
            return true;
        }
        messages = &messages[length..];
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, flags: u32) -> Vec<u8> {
        let mut message = vec![0; FLAGS + 4];
        message[FLAGS..].copy_from_slice(&flags.to_ne_bytes());
        message.resize(92, 0);
        message[..2].copy_from_slice(&92u16.to_ne_bytes());
        (message[2], message[3]) = (5, kind);
        message
    }

    #[test]
    fn a_neighbour_is_no_change_and_what_is_not_understood_is_one() {
        let neighbour = message(1, 0x1 | HOST | 0x400);
        assert!(!matters(&neighbour) && !matters(&[neighbour.clone(), message(7, 0)].concat()));
        for kind in [1, 2, 3] {
            assert!(matters(&message(kind, 0x1 | 0x2)), "a route to a network: {kind}");
        }
        for kind in [12, 13, 14, 15, 18, 20] {
            assert!(matters(&message(kind, HOST)), "an address or an interface: {kind}");
        }
        assert!(matters(&[neighbour.clone(), message(12, 0)].concat()));
        for n in 1..neighbour.len() {
            assert!(matters(&neighbour[..n]), "{n}");
        }
        assert!(!matters(&[]) && matters(&[0; 64]));
    }
}
