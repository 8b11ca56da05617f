//! The way of a host that has IPv6 only and is behind a NAT64 (RFC 6146): what it sends to the prefix goes to IPv4.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use p2pd_core::io::Interface;
use p2pd_core::{Config, Input, Output};

use super::World;

/// Answers of its name server about IPv4 servers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Names {
    /// Addresses of the prefix: it is a DNS64 (RFC 6147).
    Dns64,
    /// IPv4 addresses of the servers, and the prefix.
    Plain,
    /// The same, and nothing of a prefix.
    NoPrefix,
}

/// The address with the prefix 2001:db8:64::/96.
pub fn embed(ip: Ipv4Addr) -> IpAddr {
    let [a, b, c, d] = ip.octets().map(u16::from);
    [0x2001, 0xdb8, 0x64, 0, 0, 0, a << 8 | b, c << 8 | d].into()
}

fn extract(ip: IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V6(ip) if ip.segments()[..6] == [0x2001, 0xdb8, 0x64, 0, 0, 0] => {
            Some(Ipv4Addr::from(u128::from(ip) as u32))
        }
        _ => None,
    }
}

/// Addresses of an IPv6-only host: `n` tells them apart.
pub fn interface(n: u16) -> Interface {
    let ip = [0x2001, 0xdb8, 0x600 + n, 0, 0, 0, 0, 1].into();
    Interface { default_route: true, ..Interface::new(2, ip, 64) }
}

impl World {
    /// A host that has IPv6 only, whose NAT64 has an address like the other hosts'.
    pub fn behind_nat64(&mut self, names: Names, change: impl FnOnce(&mut Config)) -> usize {
        let n = self.hosts.len();
        self.next_nat64 = Some(names);
        self.host_with(&[interface(n as u16)], [203, 0, 113, n as u8 + 1].into(), change)
    }

    /// Returns the host's output as the world sees it. `Err`: the host's system has no route there.
    pub(super) fn through_nat64(&self, n: usize, mut output: Output) -> Result<Output, Output> {
        if self.hosts[n].nat64.is_none() {
            return Ok(output);
        }
        let to = match &mut output {
            Output::Connect { local, remote, .. } => {
                assert_eq!(local.is_ipv4(), remote.is_ipv4(), "{local} {remote}");
                remote
            }
            Output::SendDatagram { to, .. } => to,
            _ => return Ok(output),
        };
        match extract(to.ip()) {
            Some(ip) => to.set_ip(ip.into()),
            None if to.is_ipv4() => return Err(output),
            None => {}
        }
        Ok(output)
    }

    /// Returns an input of the world as the host's system tells it.
    pub(super) fn translated_input<'a>(&self, n: usize, mut input: Input<'a>) -> Input<'a> {
        let Some(names) = self.hosts[n].nat64 else { return input };
        let (inside, translate) = (self.hosts[n].inside, |at: &mut SocketAddr| {
            if let IpAddr::V4(ip) = at.ip() {
                at.set_ip(embed(ip));
            }
        });
        match &mut input {
            Input::Connected { local, remote, .. } => {
                local.set_ip(inside);
                translate(remote);
            }
            Input::Accepted { remote, .. } => translate(remote),
            Input::Datagram { from, .. } => translate(from),
            Input::Resolved { result: Ok(all), .. } if names == Names::Dns64 => {
                for ip in all.iter_mut() {
                    if let IpAddr::V4(v4) = *ip {
                        *ip = embed(v4);
                    }
                }
            }
            _ => {}
        }
        input
    }
}
