//! PCP and NAT-PMP, which share a port and are told apart by their version.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::{No, PortControl};
use crate::net::Proto;
use crate::service::ServiceCx;

/// A MAP request and its answer (RFC 6887 sections 7.1 and 11.1).
const PCP_LENGTH: usize = 60;
/// "The external port cannot be had", and "not authorized" (RFC 6887 section 7.4).
const CANNOT_PROVIDE: u8 = 11;
const NOT_AUTHORIZED: u8 = 2;
/// "Out of resources" (RFC 6886 section 3.5).
const OUT_OF_RESOURCES: u8 = 4;

impl PortControl {
    pub(super) fn datagram(&mut self, cx: &mut ServiceCx, from: SocketAddr, data: &[u8]) -> Option<Vec<u8>> {
        match *data.first()? {
            0 if self.spec.nat_pmp => self.nat_pmp(cx, from, data),
            2 if self.spec.pcp => self.pcp(cx, from, data),
            // RFC 6886 section 3.5: unsupported version, by those that know version 0 only.
            2 if self.spec.nat_pmp => {
                let mut answer = vec![0, 128, 0, 1];
                answer.extend(self.epoch(cx.now).to_be_bytes());
                Some(answer)
            }
            _ => None,
        }
    }

    fn nat_pmp(&mut self, cx: &mut ServiceCx, from: SocketAddr, data: &[u8]) -> Option<Vec<u8>> {
        let epoch = self.epoch(cx.now).to_be_bytes();
        if data == [0, 0] {
            let IpAddr::V4(ip) = self.says() else { return None };
            return Some([&[0, 128, 0, 0], &epoch[..], &ip.octets()].concat());
        }
        let request: &[u8; 12] = data.try_into().ok()?;
        let proto = match request[1] {
            1 => Proto::Udp,
            2 => Proto::Tcp,
            _ => return None,
        };
        let [internal, wanted] = [4, 6].map(|n| u16::from_be_bytes([request[n], request[n + 1]]));
        let lease = u32::from_be_bytes([request[8], request[9], request[10], request[11]]);
        let inside = SocketAddr::new(from.ip(), internal);
        let (result, external, lease) = if lease == 0 {
            for port in self.of_inside(proto, inside) {
                self.close(cx, proto, port);
            }
            (0, 0, 0)
        } else {
            match self.open(cx, (proto, wanted), inside, None, (lease, true)) {
                Ok((external, lease)) => (0, external, lease),
                Err(No::Taken | No::NotYours) => (OUT_OF_RESOURCES, 0, 0),
            }
        };
        let head = [0, 128 + request[1], 0, result];
        Some([&head, &epoch[..], &request[4..6], &external.to_be_bytes(), &lease.to_be_bytes()].concat())
    }

    fn pcp(&mut self, cx: &mut ServiceCx, from: SocketAddr, data: &[u8]) -> Option<Vec<u8>> {
        let request: &[u8; PCP_LENGTH] = data.try_into().ok()?;
        let proto = match request[36] {
            6 => Proto::Tcp,
            17 => Proto::Udp,
            _ => return None,
        };
        if request[1] != 1 {
            return None;
        }
        let lease = u32::from_be_bytes([request[4], request[5], request[6], request[7]]);
        let [internal, wanted] = [40, 42].map(|n| u16::from_be_bytes([request[n], request[n + 1]]));
        let mut nonce = [0; 12];
        nonce.copy_from_slice(&request[24..36]);
        let inside = SocketAddr::new(from.ip(), internal);
        let (result, external, lease) = if lease == 0 {
            let ports = self.of_inside(proto, inside);
            let proven = |p: &u16| self.table[&(proto, *p)].nonce.is_none_or(|n| n == nonce);
            if ports.iter().all(proven) {
                ports.into_iter().for_each(|port| self.close(cx, proto, port));
                (0, 0, 0)
            } else {
                (NOT_AUTHORIZED, 0, 0)
            }
        } else {
            match self.open(cx, (proto, wanted), inside, Some(nonce), (lease, true)) {
                Ok((external, lease)) => (0, external, lease),
                Err(No::Taken) => (CANNOT_PROVIDE, wanted, 30),
                Err(No::NotYours) => (NOT_AUTHORIZED, wanted, 30),
            }
        };
        let mut answer = request.to_vec();
        (answer[1], answer[2], answer[3]) = (0x81, 0, result);
        answer[4..8].copy_from_slice(&lease.to_be_bytes());
        answer[8..12].copy_from_slice(&self.epoch(cx.now).to_be_bytes());
        answer[12..24].fill(0);
        answer[42..44].copy_from_slice(&external.to_be_bytes());
        let outside = match self.says() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        answer[44..60].copy_from_slice(&Ipv6Addr::octets(&outside));
        Some(answer)
    }
}
