//! Packets as they would be on a wire: IPv4 (RFC 791) or IPv6 (RFC 8200), with TCP (RFC 9293), UDP (RFC 768) or ICMP
//! (RFC 792, RFC 4443).

use std::net::{IpAddr, SocketAddr};

use super::packet::{Body, IcmpKind, Packet, Proto, Quote};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMP_V6: u8 = 58;

impl Packet {
    /// Returns the packet's bytes, from the IP header on, with right checksums. TCP has no options, and its window is not
    /// scaled: 65,535 stands for all that is more.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (src, dst) = (self.src.ip(), self.dst.ip());
        let (proto, mut content) = match &self.body {
            Body::Tcp(s) => {
                let mut out = tcp_start(self.src, self.dst, s.seq);
                out.extend(s.ack.to_be_bytes());
                out.extend([5 << 4, s.flags.bits()]);
                out.extend(u16::try_from(s.window).unwrap_or(u16::MAX).to_be_bytes());
                out.extend([0; 4]);
                out.extend_from_slice(&s.data);
                (TCP, out)
            }
            Body::Udp(data) => {
                let mut out = udp_header(self.src, self.dst, data.len());
                out.extend_from_slice(data);
                (UDP, out)
            }
            Body::Icmp(kind, quote) => {
                let [kind, code] = if src.is_ipv4() { icmp(*kind) } else { icmp_v6(*kind) };
                let mut out = vec![kind, code, 0, 0, 0, 0, 0, 0];
                out.extend(quoted(quote));
                (if src.is_ipv4() { ICMP } else { ICMP_V6 }, out)
            }
        };
        let at = match proto {
            TCP => 16,
            UDP => 6,
            _ => 2,
        };
        let before = if proto == ICMP { 0 } else { pseudo_header(src, dst, proto, content.len()) };
        let sum = checksum(before, &content);
        // Zero would say that there is none (RFC 768).
        let sum = if proto == UDP && sum == 0 { 0xffff } else { sum };
        content[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        let mut out = ip_header(src, dst, proto, self.ttl, content.len());
        out.extend(content);
        out
    }
}

fn tcp_start(src: SocketAddr, dst: SocketAddr, seq: u32) -> Vec<u8> {
    let mut out = [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat();
    out.extend(seq.to_be_bytes());
    out
}

fn udp_header(src: SocketAddr, dst: SocketAddr, payload: usize) -> Vec<u8> {
    let length = (8 + payload) as u16;
    [src.port(), dst.port(), length, 0].map(u16::to_be_bytes).concat()
}

/// The front of the packet that an error is about: its IP header and 8 bytes.
fn quoted(quote: &Quote) -> Vec<u8> {
    let (proto, front) = match quote.proto {
        Proto::Tcp => (TCP, tcp_start(quote.src, quote.dst, quote.seq)),
        Proto::Udp => (UDP, udp_header(quote.src, quote.dst, 0)),
    };
    let mut out = ip_header(quote.src.ip(), quote.dst.ip(), proto, 1, front.len());
    out.extend(front);
    out
}

fn icmp(kind: IcmpKind) -> [u8; 2] {
    match kind {
        IcmpKind::Port => [3, 3],
        IcmpKind::Host => [3, 1],
        IcmpKind::Admin => [3, 13],
        IcmpKind::TimeExceeded => [11, 0],
    }
}

fn icmp_v6(kind: IcmpKind) -> [u8; 2] {
    match kind {
        IcmpKind::Port => [1, 4],
        IcmpKind::Host => [1, 3],
        IcmpKind::Admin => [1, 1],
        IcmpKind::TimeExceeded => [3, 0],
    }
}

fn ip_header(src: IpAddr, dst: IpAddr, proto: u8, ttl: u8, content: usize) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut out = vec![0x45, 0];
            out.extend(((20 + content) as u16).to_be_bytes());
            // No identification, and "don't fragment".
            out.extend([0, 0, 0x40, 0, ttl, proto, 0, 0]);
            out.extend(src.octets());
            out.extend(dst.octets());
            let sum = checksum(0, &out);
            out[10..12].copy_from_slice(&sum.to_be_bytes());
            out
        }
        _ => {
            let mut out = vec![0x60, 0, 0, 0];
            out.extend((content as u16).to_be_bytes());
            out.extend([proto, ttl]);
            out.extend(octets_v6(src));
            out.extend(octets_v6(dst));
            out
        }
    }
}

fn octets_v6(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Returns the sum over the pseudo header that transport checksums begin with.
fn pseudo_header(src: IpAddr, dst: IpAddr, proto: u8, length: usize) -> u64 {
    let ends = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => [src.octets(), dst.octets()].concat(),
        _ => [octets_v6(src), octets_v6(dst)].concat(),
    };
    sum(&ends) + u64::from(proto) + length as u64
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u64::from(*b))).sum()
}

/// Returns the internet checksum (RFC 1071).
fn checksum(before: u64, bytes: &[u8]) -> u16 {
    let mut all = before + sum(bytes);
    while all > 0xffff {
        all = (all & 0xffff) + (all >> 16);
    }
    !(all as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Flags, Segment};

    fn packet(src: &str, dst: &str, body: Body) -> Packet {
        Packet { src: src.parse().unwrap(), dst: dst.parse().unwrap(), ttl: 64, body }
    }

    fn syn() -> Body {
        let (flags, seq, ack, window) = (Flags::SYN, 0x0102_0304, 0, 64_240);
        Body::Tcp(Segment { flags, seq, ack, window, data: Default::default() })
    }

    #[test]
    fn a_syn_and_a_datagram_are_these_bytes() {
        let syn = packet("192.0.2.1:5000", "198.51.100.2:80", syn()).to_bytes();
        let header = [0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0x4e, 0x99, 192, 0, 2, 1, 198, 51, 100, 2];
        let tcp = [0x13, 0x88, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 0x50, 2, 0xfa, 0xf0, 0xb0, 0xdc, 0, 0];
        assert_eq!(syn, [header, tcp].concat());
        let udp = packet("192.0.2.1:1", "192.0.2.2:2", Body::Udp((&b"odd"[..]).into())).to_bytes();
        assert_eq!(udp[20..], [0, 1, 0, 2, 0, 11, 0xa8, 0x6c, b'o', b'd', b'd']);
    }

    #[test]
    fn every_checksum_adds_up_to_nothing_in_either_family() {
        for (src, dst) in [("10.0.0.1:7", "10.0.0.2:9"), ("[2001:db8::1]:7", "[2001:db8::2]:9")] {
            let about = packet(dst, src, syn());
            let kinds = [IcmpKind::Port, IcmpKind::Host, IcmpKind::Admin, IcmpKind::TimeExceeded];
            let errors = kinds.map(|kind| *about.icmp(kind, about.dst.ip()).unwrap());
            let datagram = packet(src, dst, Body::Udp(vec![7; 999].into()));
            for one in errors.into_iter().chain([about, datagram]) {
                let bytes = one.to_bytes();
                let head = if one.src.is_ipv4() { 20 } else { 40 };
                if one.src.is_ipv4() {
                    assert_eq!(checksum(0, &bytes[..head]), 0);
                }
                let proto = if one.src.is_ipv4() { bytes[9] } else { bytes[6] };
                let before = match proto {
                    ICMP => 0,
                    proto => pseudo_header(one.src.ip(), one.dst.ip(), proto, bytes.len() - head),
                };
                assert_eq!(checksum(before, &bytes[head..]), 0, "{one}");
            }
        }
    }
}
