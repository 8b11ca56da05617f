//! A STUN server (RFC 8489 section 5), honest or not.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use p2pd_core::SockId;
use p2pd_rendezvous::stun::{Request, Response};

use super::{End, Happening, LATENCY, World};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Udp {
    Truth,
    Silent,
    Late(Duration),
    /// Answers from another port than was asked.
    OtherSource,
    /// Answers another question.
    WrongTransaction,
    /// Says that this is what it sees.
    Claims(IpAddr),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tcp {
    Truth,
    /// Accepts and says nothing.
    Silent,
    WrongTransaction,
    Shut,
    /// Says that this is what it sees.
    Claims(IpAddr),
}

pub struct Stun {
    pub config: p2pd_core::StunServer,
    pub at: SocketAddr,
    pub udp: Udp,
    pub tcp: Tcp,
    /// Questions that came in, over UDP and over TCP.
    pub asked: (u32, u32),
}

impl World {
    pub fn add_stun(&mut self) -> usize {
        let n = self.stuns.len();
        let at: SocketAddr = ([198, 51, 100, 50 + n as u8], 3478).into();
        let config = p2pd_core::StunServer { host: format!("stun{n}.test").into(), port: 3478 };
        self.stuns.push(Stun { config, at, udp: Udp::Truth, tcp: Tcp::Truth, asked: (0, 0) });
        n
    }

    pub(super) fn datagram_to_stun(
        &mut self,
        n: usize,
        sock: SockId,
        from: SocketAddr,
        to: SocketAddr,
        data: &[u8],
    ) {
        let Some(server) = self.stuns.iter_mut().find(|s| s.at == to) else { return };
        server.asked.0 += 1;
        let mut answer = (2 * LATENCY, to, mapped(data, from));
        match server.udp {
            Udp::Truth => {}
            Udp::Silent => return,
            Udp::Late(by) => answer.0 = by,
            Udp::OtherSource => answer.1.set_port(to.port() + 1),
            Udp::WrongTransaction => answer.2[19] ^= 1,
            Udp::Claims(ip) => answer.2 = mapped(data, SocketAddr::new(ip, from.port())),
        }
        let (after, from, data) = answer;
        self.schedule(after, Happening::Datagram { n, sock, from, data });
    }

    pub(super) fn stun_received(&mut self, s: usize, conn: u32, data: &[u8]) {
        let end = End::Stun(s, conn);
        let server = &mut self.stuns[s];
        server.asked.1 += 1;
        let Some(End::Node(n, _)) = self.streams.get(&end).map(|half| half.to) else { return };
        let mut answer = mapped(data, SocketAddr::new(self.hosts[n].outside, 50_000));
        match server.tcp {
            Tcp::Truth => {}
            Tcp::Silent | Tcp::Shut => return,
            Tcp::WrongTransaction => answer[19] ^= 1,
            Tcp::Claims(ip) => answer = mapped(data, SocketAddr::new(ip, 50_000)),
        }
        self.send(end, answer);
    }
}

/// The answer to a Binding request, by the codec of the servers: XOR-MAPPED-ADDRESS.
fn mapped(request: &[u8], seen: SocketAddr) -> Vec<u8> {
    Response::success(Request::read(request).unwrap().transaction(), seen, None, None).finish()
}
