//! A packet: addresses, and a TCP segment, a UDP payload or an ICMP error.

use core::fmt;
use std::net::SocketAddr;

use bytes::Bytes;

use crate::engine::Digest;

/// The transport protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Proto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A packet on its way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Address of the sender. For ICMP the port is 0.
    pub src: SocketAddr,
    /// Address of the receiver. For ICMP the port is 0.
    pub dst: SocketAddr,
    /// Hops that are left (IP TTL or hop limit).
    pub ttl: u8,
    /// Content of the packet.
    pub body: Body,
}

/// Content of a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// A TCP segment.
    Tcp(Segment),
    /// A UDP payload.
    Udp(Bytes),
    /// An ICMP error about a packet that was sent by this packet's receiver.
    Icmp(IcmpKind, Quote),
}

/// A TCP segment (RFC 9293), as far as it matters here: no checksum, no options.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// SYN, ACK, FIN, RST.
    pub flags: Flags,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number; meaningless without ACK.
    pub ack: u32,
    /// Bytes the sender would take, after scaling.
    pub window: u32,
    /// The payload.
    pub data: Bytes,
}

impl Segment {
    /// Returns the number of sequence numbers that the segment takes up.
    pub fn length(&self) -> u32 {
        self.data.len() as u32 + u32::from(self.flags.syn()) + u32::from(self.flags.fin())
    }

    /// Returns true if this segment of a connection makes an acknowledgement just before it needless.
    pub(crate) fn takes_along(&self, before: &Packet) -> bool {
        let Body::Tcp(before) = &before.body else { return false };
        let more = !self.data.is_empty() || self.flags.fin();
        more && before.flags == Flags::ACK
            && before.data.is_empty()
            && before.seq == self.seq
            && self.flags.ack()
    }

    /// The RST that answers it where nobody is there for it (RFC 9293 section 3.10.7.1). A RST is never
    /// answered.
    pub fn refusal(&self) -> Option<Segment> {
        if self.flags.rst() {
            return None;
        }
        let (flags, seq, ack) = if self.flags.ack() {
            (Flags::RST, self.ack, 0)
        } else {
            (Flags::RST | Flags::ACK, 0, self.seq.wrapping_add(self.length()))
        };
        Some(Segment { flags, seq, ack, window: 0, data: Bytes::new() })
    }
}

/// The control bits of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u8);

impl Flags {
    /// FIN.
    pub const FIN: Flags = Flags(1);
    /// SYN.
    pub const SYN: Flags = Flags(2);
    /// RST.
    pub const RST: Flags = Flags(4);
    /// ACK.
    pub const ACK: Flags = Flags(16);

    /// Returns true if FIN is set.
    pub const fn fin(self) -> bool {
        self.0 & 1 != 0
    }
    /// Returns true if SYN is set.
    pub const fn syn(self) -> bool {
        self.0 & 2 != 0
    }
    /// Returns true if RST is set.
    pub const fn rst(self) -> bool {
        self.0 & 4 != 0
    }
    /// Returns true if ACK is set.
    pub const fn ack(self) -> bool {
        self.0 & 16 != 0
    }
    /// The bits as a number.
    pub const fn bits(self) -> u8 {
        self.0
    }
}

impl core::ops::BitOr for Flags {
    type Output = Flags;
    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, name) in [(2, 'S'), (4, 'R'), (1, 'F'), (16, '.')] {
            if self.0 & bit != 0 {
                write!(f, "{name}")?;
            }
        }
        Ok(())
    }
}

/// Kind of an ICMP error (RFC 792, RFC 1812).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IcmpKind {
    /// Port unreachable.
    Port,
    /// Host unreachable.
    Host,
    /// Communication administratively prohibited.
    Admin,
    /// Time to live exceeded in transit.
    TimeExceeded,
}

/// The front of the packet that an ICMP error is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quote {
    /// Protocol of the quoted packet.
    pub proto: Proto,
    /// Sender of the quoted packet.
    pub src: SocketAddr,
    /// Receiver of the quoted packet.
    pub dst: SocketAddr,
    /// A TCP segment's sequence number.
    pub seq: u32,
}

impl Packet {
    /// The transport protocol; none for ICMP.
    pub fn proto(&self) -> Option<Proto> {
        match &self.body {
            Body::Tcp(_) => Some(Proto::Tcp),
            Body::Udp(_) => Some(Proto::Udp),
            Body::Icmp(..) => None,
        }
    }

    /// The ICMP error about this packet, sent by `by`. None about an ICMP error or a RST.
    pub fn icmp(&self, kind: IcmpKind, by: std::net::IpAddr) -> Option<Box<Packet>> {
        let seq = match &self.body {
            Body::Tcp(segment) if segment.flags.rst() => return None,
            Body::Tcp(segment) => segment.seq,
            Body::Udp(_) => 0,
            Body::Icmp(..) => return None,
        };
        let quote = Quote { proto: self.proto()?, src: self.src, dst: self.dst, seq };
        let dst = SocketAddr::new(self.src.ip(), 0);
        Some(Box::new(Packet { src: SocketAddr::new(by, 0), dst, ttl: 64, body: Body::Icmp(kind, quote) }))
    }

    /// The RST that answers this packet, if it is a segment that is to be answered.
    pub fn refusal(&self) -> Option<Box<Packet>> {
        let Body::Tcp(segment) = &self.body else { return None };
        let answer = segment.refusal()?;
        Some(Box::new(Packet { src: self.dst, dst: self.src, ttl: 64, body: Body::Tcp(answer) }))
    }

    /// Takes the packet into a digest. Payloads by their length only: some are sealed by ciphers.
    pub fn digest(&self, digest: &mut Digest) {
        for end in [self.src, self.dst] {
            let ip = match end.ip() {
                std::net::IpAddr::V4(ip) => u64::from(u32::from(ip)),
                std::net::IpAddr::V6(ip) => u128::from(ip) as u64 ^ (u128::from(ip) >> 64) as u64,
            };
            digest.word(ip << 16 ^ u64::from(end.port()));
        }
        match &self.body {
            Body::Tcp(s) => {
                digest.word(u64::from(s.seq) << 32 | u64::from(s.ack));
                digest.word(u64::from(s.flags.bits()) << 32 | s.data.len() as u64);
            }
            Body::Udp(data) => digest.word(data.len() as u64),
            Body::Icmp(kind, quote) => digest.word(*kind as u64 ^ u64::from(quote.seq) << 8),
        }
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {} ", self.src, self.dst)?;
        match &self.body {
            Body::Tcp(s) => {
                write!(f, "tcp {:?} seq {}", s.flags, s.seq)?;
                if s.flags.ack() {
                    write!(f, " ack {}", s.ack)?;
                }
                if !s.data.is_empty() {
                    write!(f, " len {}", s.data.len())?;
                }
                Ok(())
            }
            Body::Udp(data) => write!(f, "udp len {}", data.len()),
            Body::Icmp(kind, quote) => {
                write!(f, "icmp {kind:?} about {:?} {} > {}", quote.proto, quote.src, quote.dst)
            }
        }
    }
}
