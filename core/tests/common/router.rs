//! A home router that speaks PCP (RFC 6887) on raw bytes, honest or not. Its NAT, or firewall, lets a caller in only
//! where a port is open.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use p2pd_core::SockId;

use super::{Happening, MS, World};

/// The index of each host's interface.
const LINK: u32 = 2;

pub struct Router {
    /// Address at which the host finds the router.
    pub at: SocketAddr,
    /// The host in its home.
    pub host: usize,
    /// Outside address, as the router says.
    pub says: IpAddr,
    /// Port that the router gives in place of the one that was asked for.
    pub gives: Option<u16>,
    /// Seconds that it grants.
    pub lease: u32,
    pub silent: bool,
    /// Lifetimes that were asked for: 0 closes.
    pub asked: Vec<u32>,
}

impl World {
    /// A router in front of a host that is behind a NAT.
    pub fn add_router(&mut self, host: usize, gateway: &str) -> usize {
        let at = match gateway.parse().unwrap() {
            IpAddr::V6(ip) if ip.is_unicast_link_local() => SocketAddrV6::new(ip, 5351, 0, LINK).into(),
            ip => SocketAddr::new(ip, 5351),
        };
        let says = self.hosts[host].outside;
        let router = Router { at, host, says, gives: None, lease: 7200, silent: false, asked: Vec::new() };
        self.routers.push(router);
        self.routers.len() - 1
    }

    pub(super) fn datagram_to_router(&mut self, n: usize, sock: SockId, to: SocketAddr, data: &[u8]) {
        let Some(router) = self.routers.iter_mut().find(|r| r.at == to && r.host == n) else { return };
        // Beside PCP a NAT-PMP question of two bytes comes, which a PCP server need not answer.
        let Ok(request) = <&[u8; 60]>::try_from(data) else { return };
        assert_eq!((request[..2].to_vec(), request[36]), (vec![2, 1], 6), "MAP, TCP");
        if router.silent {
            return;
        }
        let asked = u32::from_be_bytes([request[4], request[5], request[6], request[7]]);
        router.asked.push(asked);
        let internal = u16::from_be_bytes([request[40], request[41]]);
        let port = router.gives.unwrap_or(internal);
        let open = SocketAddr::new(self.hosts[n].outside, port);
        let inside = SocketAddr::new(self.hosts[n].inside, internal);
        match (asked, self.listeners.get(&inside).copied()) {
            (0, _) if open == inside => drop(self.pinholes.remove(&open)),
            _ if open == inside => drop(self.pinholes.insert(open)),
            (0, _) => drop(self.listeners.remove(&open)),
            (_, Some(listener)) => drop(self.listeners.insert(open, listener)),
            (_, None) => {}
        }
        let mut answer = request.to_vec();
        (answer[1], answer[3]) = (0x81, 0);
        answer[4..8].copy_from_slice(&asked.min(router.lease).to_be_bytes());
        let epoch = self.now.since(p2pd_core::Instant::ZERO).as_secs() as u32;
        answer[8..12].copy_from_slice(&epoch.to_be_bytes());
        answer[12..24].fill(0);
        answer[42..44].copy_from_slice(&port.to_be_bytes());
        let says = match router.says {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        answer[44..60].copy_from_slice(&Ipv6Addr::octets(&says));
        self.schedule(MS, Happening::Datagram { n, sock, from: to, data: answer });
    }
}

/// The address in a router's home that its host has.
pub fn inside(host: u8) -> IpAddr {
    Ipv4Addr::new(192, 168, host, 2).into()
}
