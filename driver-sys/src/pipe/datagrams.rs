//! Datagrams of an allocation, between their user and the engine: messages of which each begins with an address. That is
//! one byte, 4 or 6, the address and the port.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use p2pd_core::turn::{MAX_PAYLOAD, SendError};

use super::messages::MessageLayer;
use super::relayed::Link;

/// A datagram with its address before it.
pub(crate) fn put_address(at: SocketAddr, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(19 + data.len());
    match at.ip() {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(6);
            out.extend(ip.octets());
        }
    }
    out.extend(at.port().to_be_bytes());
    out.extend_from_slice(data);
    out
}

/// The address and the datagram.
pub(crate) fn take_address(message: &[u8]) -> Option<(SocketAddr, &[u8])> {
    let (kind, rest) = message.split_first()?;
    let (ip, rest): (IpAddr, &[u8]) = match kind {
        4 => rest.split_first_chunk::<4>().map(|(ip, rest)| (Ipv4Addr::from(*ip).into(), rest))?,
        6 => rest.split_first_chunk::<16>().map(|(ip, rest)| (Ipv6Addr::from(*ip).into(), rest))?,
        _ => return None,
    };
    let (port, data) = rest.split_first_chunk()?;
    Some((SocketAddr::new(ip, u16::from_be_bytes(*port)), data))
}

/// The user's side of an allocation's datagrams. Both directions may be used at once, by two tasks or threads.
///
/// Each call is given the socket. The socket may block, or give `WouldBlock`, which the call then gives too.
#[derive(Debug)]
pub struct DatagramLayer {
    /// The relayed address, and that of the other family.
    relayed: (SocketAddr, Option<SocketAddr>),
    messages: MessageLayer,
}

impl DatagramLayer {
    pub(crate) fn new(relayed: (SocketAddr, Option<SocketAddr>), link: Arc<Link>) -> Self {
        DatagramLayer { relayed, messages: MessageLayer::new(link) }
    }

    /// Returns the address at the server that peers send to.
    pub fn relayed_addr(&self) -> SocketAddr {
        self.relayed.0
    }

    /// Returns the IPv6 address at the server beside an IPv4 one, where both were asked for and the server has both.
    pub fn other_relayed_addr(&self) -> Option<SocketAddr> {
        self.relayed.1
    }

    /// Takes a datagram whole, or not at all. The part that the socket does not take now goes by [`flush`](Self::flush),
    /// or with the next one.
    ///
    /// # Errors
    /// `InvalidInput` for one that is too long or goes to another family, `WouldBlock` while an earlier one waits; why
    /// the allocation is gone.
    pub fn send(&self, io: &mut impl Write, to: SocketAddr, data: &[u8]) -> io::Result<()> {
        let to = SocketAddr::new(to.ip().to_canonical(), to.port());
        let wrong = match () {
            () if data.len() > MAX_PAYLOAD => Some(SendError::TooLong),
            () if self.relayed.1.is_none() && to.is_ipv4() != self.relayed.0.is_ipv4() => {
                Some(SendError::Family)
            }
            () => None,
        };
        match wrong {
            Some(why) => Err(io::Error::new(io::ErrorKind::InvalidInput, why)),
            None => self.messages.send(io, &put_address(to, data)),
        }
    }

    /// Sends the waiting bytes.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn flush(&self, io: &mut impl Write) -> io::Result<()> {
        self.messages.flush(io)
    }

    /// The next datagram, with its sender.
    ///
    /// # Errors
    /// `WouldBlock` for none yet; after the last one why the allocation is gone.
    pub fn receive(&self, io: &mut impl Read) -> io::Result<(SocketAddr, Vec<u8>)> {
        let message = self.messages.receive(io)?;
        let (from, data) = take_address(&message).ok_or(io::ErrorKind::InvalidData)?;
        Ok((from, data.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_keeps_its_address() {
        for at in ["192.0.2.1:7", "[2001:db8::1]:65535"] {
            let at = at.parse().unwrap();
            let message = put_address(at, b"hello");
            assert_eq!(take_address(&message), Some((at, &b"hello"[..])));
            for cut in 0..message.len() - 5 {
                assert_eq!(take_address(&message[..cut]), None);
            }
        }
        assert_eq!(take_address(&[5; 30]), None);
    }

    #[test]
    fn what_cannot_be_sent_is_refused_and_takes_no_room() {
        let layer = DatagramLayer::new(("192.0.2.9:5".parse().unwrap(), None), Arc::default());
        let mut out = Vec::new();
        let v4: SocketAddr = "192.0.2.1:7".parse().unwrap();
        for (to, len) in [(v4, MAX_PAYLOAD + 1), ("[2001:db8::1]:7".parse().unwrap(), 1)] {
            let refused = layer.send(&mut out, to, &vec![0; len]).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        }
        assert!(out.is_empty());
        layer.send(&mut out, "[::ffff:192.0.2.1]:7".parse().unwrap(), b"hello").unwrap();
        assert_eq!(layer.receive(&mut &out[..]).unwrap(), (v4, b"hello".to_vec()));
    }
}
