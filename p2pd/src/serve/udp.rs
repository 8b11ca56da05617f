//! UDP sockets that answer from the address to which the request came. A host may have many, and a client takes an
//! answer from no other than the one that it asked.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Most bytes that one call receives: the system joins datagrams of one sender.
pub(super) const BATCH: usize = 65_536;

#[derive(Debug)]
pub(super) struct Socket {
    io: UdpSocket,
    local: SocketAddr,
    /// Present where the socket is bound to every address: tells to which of them a datagram came.
    any: Option<UdpSocketState>,
}

/// Datagrams that one call received.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) from: SocketAddr,
    /// The address that they came to.
    pub(super) local: SocketAddr,
    len: usize,
    stride: usize,
}

impl Received {
    /// The datagrams in the buffer that it was received into.
    pub(super) fn datagrams<'a>(&self, buffer: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        buffer.get(..self.len).unwrap_or_default().chunks(self.stride.max(1))
    }
}

impl Socket {
    pub(super) fn bind(at: SocketAddr) -> io::Result<Self> {
        let io = std::net::UdpSocket::bind(at)?;
        io.set_nonblocking(true)?;
        let local = io.local_addr()?;
        let any = match local.ip().is_unspecified() {
            true => {
                let state = UdpSocketState::new((&io).into())?;
                may_fragment(&io);
                Some(state)
            }
            false => None,
        };
        Ok(Socket { io: UdpSocket::from_std(io)?, local, any })
    }

    /// The address that the socket is bound to.
    pub(super) fn local(&self) -> SocketAddr {
        self.local
    }

    /// Tells if datagrams from this address leave through the socket.
    pub(super) fn has(&self, local: SocketAddr) -> bool {
        self.local == local || (self.any.is_some() && self.local.port() == local.port())
    }

    /// Receives into a buffer of [`BATCH`] bytes.
    pub(super) async fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let Some(state) = &self.any else {
            let (len, from) = self.io.recv_from(buffer).await?;
            return Ok(Received { from, local: self.local, len, stride: len });
        };
        let mut meta = [RecvMeta::default()];
        loop {
            self.io.readable().await?;
            let mut buffers = [IoSliceMut::new(buffer)];
            let received =
                self.io.try_io(Interest::READABLE, || state.recv((&self.io).into(), &mut buffers, &mut meta));
            match received {
                Ok(_) => break,
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => {}
                Err(why) => return Err(why),
            }
        }
        let RecvMeta { addr, len, stride, dst_ip, .. } = meta[0];
        // A system that does not tell is answered as before: from where it likes.
        let local =
            dst_ip.map_or(self.local, |ip| SocketAddr::new(in_family(ip, self.local), self.local.port()));
        Ok(Received { from: addr, local, len, stride })
    }

    /// Sends from this address. A datagram for which there is no room is dropped, as in a network.
    pub(super) fn send(&self, local: SocketAddr, to: SocketAddr, data: &[u8]) {
        // By the socket itself: tokio's own try fails until its reactor has seen the new socket once.
        let _ = match &self.any {
            Some(state) => {
                let src_ip = (!local.ip().is_unspecified()).then(|| local.ip());
                let transmit =
                    Transmit { destination: to, ecn: None, contents: data, segment_size: None, src_ip };
                state.try_send((&self.io).into(), &transmit)
            }
            None => socket2::SockRef::from(&self.io).send_to(data, &to.into()).map(drop),
        };
    }
}

/// Converts an address to the socket's family. On a socket for both families the system may give an IPv4 address as
/// such; the socket has it in its IPv6 form.
fn in_family(ip: IpAddr, bound: SocketAddr) -> IpAddr {
    match (ip, bound) {
        (IpAddr::V4(ip), SocketAddr::V6(_)) => ip.to_ipv6_mapped().into(),
        (ip, _) => ip,
    }
}

/// Allows fragmentation of datagrams again. The ban is for measuring paths, and a relay's clients may be behind paths
/// that are narrower than their datagrams.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn may_fragment(io: &std::net::UdpSocket) {
    use rustix::net::sockopt::{Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
    use rustix::net::sockopt::{set_ip_mtu_discover, set_ipv6_mtu_discover};
    // Either fails on a socket of the other family.
    let _ = set_ip_mtu_discover(io, Ipv4PathMtuDiscovery::WANT);
    let _ = set_ipv6_mtu_discover(io, Ipv6PathMtuDiscovery::WANT);
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn may_fragment(_: &std::net::UdpSocket) {}

#[cfg(test)]
mod tests {
    use super::*;

    /// All of 127.0.0.0/8 is the machine itself on Linux.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn an_answer_leaves_from_the_address_that_was_asked() {
        for (bind, asked) in [
            ("0.0.0.0:0", &["127.0.0.1", "127.0.0.2", "127.9.9.9"][..]),
            ("[::]:0", &["127.0.0.3", "::1"]),
            ("127.0.0.4:0", &["127.0.0.4"]),
        ] {
            let socket = Socket::bind(bind.parse().unwrap()).unwrap();
            for ip in asked.iter().map(|ip| ip.parse::<IpAddr>().unwrap()) {
                let any = if ip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let client = UdpSocket::bind(any).await.unwrap();
                let to = SocketAddr::new(ip, socket.local().port());
                let mut buffer = vec![0; BATCH];
                for text in [&b"one"[..], b"two"] {
                    client.send_to(text, to).await.unwrap();
                    let received = socket.receive(&mut buffer).await.unwrap();
                    assert_eq!(received.datagrams(&buffer).collect::<Vec<_>>(), [text]);
                    assert_eq!(received.local.ip().to_canonical(), ip, "{bind}");
                    assert!(socket.has(received.local));
                    socket.send(received.local, received.from, &vec![7; 3000]);
                    let (size, from) = client.recv_from(&mut buffer).await.unwrap();
                    assert_eq!((size, from), (3000, to), "{bind}");
                }
            }
        }
    }
}
