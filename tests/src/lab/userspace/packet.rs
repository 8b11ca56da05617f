//! IPv4 packets of TCP and UDP: their two ends read and rewritten, and the answers to those that are refused.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::super::home::Unsolicited;

const TCP: u8 = 6;
const UDP: u8 = 17;
const RST: u8 = 4;
const ACK: u8 = 16;

/// A protocol that is translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Protocol {
    Tcp,
    Udp,
}

/// A whole packet: no fragment, no other protocol, its headers within its bytes.
#[derive(Debug)]
pub(super) struct Packet<'a> {
    data: &'a mut [u8],
    header: usize,
    pub(super) protocol: Protocol,
}

impl<'a> Packet<'a> {
    /// Reads the headers, or nothing where the packet is to be dropped.
    pub(super) fn read(data: &'a mut [u8]) -> Option<Self> {
        let header = usize::from(*data.first()? & 15) * 4;
        if data.len() < 20 || data[0] >> 4 != 4 || header < 20 {
            return None;
        }
        // Neither more fragments to come nor an offset.
        if number(data, 6) & 0x3fff != 0 || usize::from(number(data, 2)) != data.len() {
            return None;
        }
        let (protocol, least) = match data[9] {
            TCP => (Protocol::Tcp, 20),
            UDP => (Protocol::Udp, 8),
            _ => return None,
        };
        if data.len() < header + least { None } else { Some(Self { data, header, protocol }) }
    }

    pub(super) fn source(&self) -> SocketAddrV4 {
        self.end(12, self.header)
    }

    pub(super) fn target(&self) -> SocketAddrV4 {
        self.end(16, self.header + 2)
    }

    pub(super) fn set_source(&mut self, end: SocketAddrV4) {
        self.set(12, self.header, end);
    }

    pub(super) fn set_target(&mut self, end: SocketAddrV4) {
        self.set(16, self.header + 2, end);
    }

    fn end(&self, ip: usize, port: usize) -> SocketAddrV4 {
        SocketAddrV4::new(address(self.data, ip), number(self.data, port))
    }

    fn set(&mut self, ip: usize, port: usize, end: SocketAddrV4) {
        let checksum = match self.protocol {
            Protocol::Tcp => self.header + 16,
            // 0 says that there is none.
            Protocol::Udp if number(self.data, self.header + 6) == 0 => 0,
            Protocol::Udp => self.header + 6,
        };
        let [a, b, c, d] = end.ip().octets();
        for (at, value) in
            [(ip, u16::from_be_bytes([a, b])), (ip + 2, u16::from_be_bytes([c, d])), (port, end.port())]
        {
            let old = number(self.data, at);
            put(self.data, at, value);
            if at != port {
                self.amend(10, old, value);
            }
            if checksum != 0 {
                self.amend(checksum, old, value);
            }
        }
        if checksum != 0 && self.protocol == Protocol::Udp && number(self.data, checksum) == 0 {
            put(self.data, checksum, 0xffff);
        }
    }

    /// Corrects a checksum for a changed word (RFC 1624).
    fn amend(&mut self, at: usize, old: u16, new: u16) {
        let sum = u32::from(!number(self.data, at)) + u32::from(!old) + u32::from(new);
        put(self.data, at, !fold(sum));
    }

    /// The answer that a router of this policy gives for a packet that it does not let in.
    pub(super) fn refusal(&self, policy: Unsolicited) -> Option<Vec<u8>> {
        match (policy, self.protocol) {
            (Unsolicited::Drop, _) | (Unsolicited::Rst, Protocol::Udp) => None,
            (Unsolicited::Rst | Unsolicited::Local, Protocol::Tcp) => self.reset(),
            (Unsolicited::IcmpPort | Unsolicited::Local, _) => Some(self.unreachable(3)),
            (Unsolicited::IcmpHost, _) => Some(self.unreachable(1)),
            (Unsolicited::IcmpAdmin, _) => Some(self.unreachable(13)),
        }
    }

    /// A reset as an end without such a connection sends it (RFC 9293, section 3.10.7.1).
    fn reset(&self) -> Option<Vec<u8>> {
        let segment = &self.data[self.header..];
        let flags = segment[13];
        if flags & RST != 0 {
            return None;
        }
        let mut answer = vec![0; 20];
        answer[..2].copy_from_slice(&segment[2..4]);
        answer[2..4].copy_from_slice(&segment[..2]);
        (answer[12], answer[13]) = (0x50, RST);
        if flags & ACK != 0 {
            answer[4..8].copy_from_slice(&segment[8..12]);
        } else {
            let words = [number(segment, 4), number(segment, 6)].map(u32::from);
            let after = (words[0] << 16 | words[1]).wrapping_add(1);
            answer[8..12].copy_from_slice(&after.to_be_bytes());
            answer[13] |= ACK;
        }
        let pseudo = [&self.data[12..20], &[0, TCP, 0, 20]].concat();
        let sum = checksum(&[&pseudo[..], &answer].concat());
        put(&mut answer, 16, sum);
        Some(self.answered(TCP, &answer))
    }

    /// ICMP's destination unreachable, with the header and eight bytes more (RFC 792).
    fn unreachable(&self, code: u8) -> Vec<u8> {
        let mut answer = vec![3, code, 0, 0, 0, 0, 0, 0];
        answer.extend(&self.data[..self.header + 8]);
        let sum = checksum(&answer);
        put(&mut answer, 2, sum);
        self.answered(1, &answer)
    }

    /// A packet from the refused packet's target back to its source.
    fn answered(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut answer = vec![0; 20];
        (answer[0], answer[8], answer[9]) = (0x45, 64, protocol);
        put(&mut answer, 2, (20 + payload.len()) as u16);
        answer[12..16].copy_from_slice(&self.data[16..20]);
        answer[16..20].copy_from_slice(&self.data[12..16]);
        let sum = checksum(&answer);
        put(&mut answer, 10, sum);
        answer.extend(payload);
        answer
    }
}

fn number(data: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([data[at], data[at + 1]])
}

fn put(data: &mut [u8], at: usize, value: u16) {
    data[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn address(data: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(data[at], data[at + 1], data[at + 2], data[at + 3])
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The internet checksum of bytes (RFC 1071).
pub(super) fn checksum(data: &[u8]) -> u16 {
    let words = data.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    !fold(words.sum())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A packet with right checksums.
    pub(crate) fn packet(protocol: Protocol, from: SocketAddrV4, to: SocketAddrV4, flags: u8) -> Vec<u8> {
        let (number, length) = match protocol {
            Protocol::Tcp => (TCP, 20),
            Protocol::Udp => (UDP, 12),
        };
        let mut all = vec![0; 20 + length];
        (all[0], all[8], all[9]) = (0x45, 64, number);
        put(&mut all, 2, 20 + length as u16);
        all[12..16].copy_from_slice(&from.ip().octets());
        all[16..20].copy_from_slice(&to.ip().octets());
        put(&mut all, 20, from.port());
        put(&mut all, 22, to.port());
        match protocol {
            Protocol::Tcp => {
                all[24..28].copy_from_slice(&u32::MAX.to_be_bytes());
                (all[32], all[33]) = (0x50, flags);
            }
            Protocol::Udp => put(&mut all, 24, length as u16),
        }
        let sum = checksum(&all[..20]);
        put(&mut all, 10, sum);
        let at = 20 + if protocol == Protocol::Tcp { 16 } else { 6 };
        let sum = inner_sum(&all);
        put(&mut all, at, sum);
        all
    }

    fn inner_sum(all: &[u8]) -> u16 {
        let length = (all.len() - 20) as u16;
        let pseudo = [&all[12..20], &[0, all[9]], &length.to_be_bytes()].concat();
        checksum(&[&pseudo, &all[20..]].concat())
    }

    fn is_right(all: &[u8]) -> bool {
        checksum(&all[..20]) == 0 && inner_sum(all) == 0
    }

    const HERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 168, 10, 2), 4000);
    const THERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 10), 3478);
    const OTHER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(45, 10, 100, 2), 65_535);

    #[test]
    fn both_ends_are_rewritten_with_their_checksums() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let mut all = packet(protocol, HERE, THERE, 2);
            assert!(is_right(&all));
            let mut packet = Packet::read(&mut all).unwrap();
            packet.set_source(OTHER);
            packet.set_target(HERE);
            assert_eq!((packet.source(), packet.target()), (OTHER, HERE));
            assert!(is_right(&all), "{protocol:?}");
        }
        let mut all = packet(Protocol::Udp, HERE, THERE, 0);
        put(&mut all, 26, 0);
        Packet::read(&mut all).unwrap().set_source(OTHER);
        assert_eq!(number(&all, 26), 0, "no checksum, and none is made up");
    }

    #[test]
    fn a_syn_is_reset_and_a_reset_is_not() {
        let mut syn = packet(Protocol::Tcp, THERE, OTHER, 2);
        let mut answer = Packet::read(&mut syn).unwrap().refusal(Unsolicited::Rst).unwrap();
        assert!(is_right(&answer));
        let reset = Packet::read(&mut answer).unwrap();
        assert_eq!((reset.source(), reset.target()), (OTHER, THERE));
        assert!(reset.refusal(Unsolicited::Rst).is_none());
        // The acknowledged number is that of the SYN and one more, which is 0 here.
        assert_eq!((&answer[28..32], answer[33]), (&[0; 4][..], RST | ACK));
    }

    #[test]
    fn unreachable_quotes_the_packet() {
        let mut data = packet(Protocol::Udp, THERE, OTHER, 0);
        let answer = Packet::read(&mut data).unwrap().refusal(Unsolicited::IcmpPort).unwrap();
        assert_eq!((checksum(&answer[..20]), checksum(&answer[20..])), (0, 0));
        assert_eq!((answer[9], &answer[20..22]), (1, &[3, 3][..]));
        assert_eq!(&answer[28..], &data[..28]);
        assert!(Packet::read(&mut data).unwrap().refusal(Unsolicited::Rst).is_none());
    }

    #[test]
    fn what_is_no_whole_packet_is_not_read() {
        let whole = packet(Protocol::Tcp, THERE, OTHER, 2);
        for length in 0..whole.len() {
            assert!(Packet::read(&mut whole[..length].to_vec()).is_none(), "{length} bytes");
        }
        let changed = |at: usize, value: u8| {
            let mut all = whole.clone();
            all[at] = value;
            Packet::read(&mut all).is_none()
        };
        assert!(changed(0, 0x65) && changed(0, 0x44) && changed(0, 0x4f) && changed(9, 1));
        // A first fragment, and a later one.
        assert!(changed(6, 0x20) && changed(7, 1) && !changed(6, 0x40));
    }
}
