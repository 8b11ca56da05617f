//! PCP messages (RFC 6887): MAP requests of 60 bytes, and their answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{BufMut, Bytes, BytesMut};

use super::{Ask, MapError, Protocol};

/// The server's port, which NAT-PMP's is too.
pub(super) const PORT: u16 = 5351;
const VERSION: u8 = 2;
const OPCODE_MAP: u8 = 1;
const ANSWER: u8 = 0x80;
/// Header and MAP payload (sections 7.2 and 11.1).
const LENGTH: usize = 60;
/// Longest PCP message (section 7).
const LONGEST: usize = 1100;

/// A MAP request. A lifetime of 0 deletes.
pub(super) fn map(ask: &Ask, local: IpAddr, lifetime: u32) -> Bytes {
    let mut bytes = BytesMut::with_capacity(LENGTH);
    bytes.put_slice(&[VERSION, OPCODE_MAP, 0, 0]);
    bytes.put_u32(lifetime);
    bytes.put_slice(&to_v6(local).octets());
    bytes.put_slice(&ask.nonce);
    bytes.put_u8(number(ask.protocol));
    bytes.put_slice(&[0; 3]);
    bytes.put_u16(ask.internal);
    bytes.put_u16(if lifetime == 0 { 0 } else { ask.external });
    // Section 11.1: all zeros of the family where no address is preferred.
    let any = if local.is_ipv4() { to_v6(Ipv4Addr::UNSPECIFIED.into()) } else { Ipv6Addr::UNSPECIFIED };
    bytes.put_slice(&any.octets());
    bytes.freeze()
}

/// An answer to a MAP request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// The server speaks another version, 0 being NAT-PMP.
    Version(u8),
    /// The server speaks our version.
    Map {
        result: Result<(), MapError>,
        /// Seconds, of the mapping or of the error.
        lifetime: u32,
        epoch: u32,
        nonce: [u8; 12],
        protocol: u8,
        internal: u16,
        external: SocketAddr,
    },
}

impl Answer {
    /// Returns true if the answer grants a mapping. An answer that a mapping is gone has no lifetime (section 15).
    pub(super) fn grants(&self) -> bool {
        matches!(self, Answer::Map { result: Ok(()), lifetime: 1.., .. })
    }

    /// Returns true if the answer belongs to this question.
    pub(super) fn fits(&self, ask: &Ask) -> bool {
        match self {
            Answer::Version(_) => true,
            Answer::Map { nonce, protocol, internal, .. } => {
                *nonce == ask.nonce && *protocol == number(ask.protocol) && *internal == ask.internal
            }
        }
    }
}

/// Reads an answer; `None` for bytes that are none.
pub(super) fn parse(data: &[u8]) -> Option<Answer> {
    let [version, opcode, _, result, ..] = *data else { return None };
    if opcode & ANSWER == 0 {
        return None;
    }
    if version != VERSION {
        // Appendix A: a NAT-PMP server says version 0 and "unsupported version" in eight bytes.
        let unsupported = if version == 0 { data.get(2..4) == Some(&[0, 1]) } else { result == 1 };
        return unsupported.then_some(Answer::Version(version));
    }
    if opcode != ANSWER | OPCODE_MAP || !data.len().is_multiple_of(4) || data.len() > LONGEST {
        return None;
    }
    let body: &[u8; LENGTH] = data.first_chunk()?;
    let u32_at = |at: usize| u32::from_be_bytes([body[at], body[at + 1], body[at + 2], body[at + 3]]);
    let u16_at = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    let (mut nonce, mut ip) = ([0; 12], [0; 16]);
    nonce.copy_from_slice(&body[24..36]);
    ip.copy_from_slice(&body[44..60]);
    let lifetime = u32_at(4);
    let external = SocketAddr::new(Ipv6Addr::from(ip).to_canonical(), u16_at(42));
    let result = match result {
        0 => Ok(()),
        1 => Err(MapError::Version),
        2 => Err(MapError::NotAuthorized),
        7 => Err(MapError::NoNetwork),
        8 | 10 => Err(MapError::NoResources),
        4 | 5 | 9 => Err(MapError::NotSupported),
        11 => Err(MapError::Conflict),
        12 => Err(MapError::AddressMismatch),
        code => Err(MapError::Other(code.into())),
    };
    Some(Answer::Map {
        result,
        lifetime,
        epoch: u32_at(8),
        nonce,
        protocol: body[36],
        internal: u16_at(40),
        external,
    })
}

fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    }
}

fn to_v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

/// Builds the answer of a server, for tests.
#[cfg(test)]
pub(super) fn answer(request: &[u8], result: u8, lifetime: u32, epoch: u32, external: SocketAddr) -> Vec<u8> {
    let mut bytes = vec![VERSION, ANSWER | request[1], 0, result];
    bytes.extend(lifetime.to_be_bytes());
    bytes.extend(epoch.to_be_bytes());
    bytes.extend([0; 12]);
    bytes.extend(&request[24..42]);
    bytes.extend(external.port().to_be_bytes());
    bytes.extend(to_v6(external.ip()).octets());
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::MapId;
    use super::*;

    fn ask() -> Ask {
        Ask {
            id: MapId(1),
            protocol: Protocol::Tcp,
            internal: 4000,
            external: 5000,
            nonce: [9; 12],
            lifetime: 600,
        }
    }

    #[test]
    fn a_request_has_the_bytes_of_the_rfc() {
        let mut expected = vec![2, 1, 0, 0, 0, 0, 2, 88];
        expected.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 168, 1, 5]);
        expected.extend([9; 12]);
        expected.extend([6, 0, 0, 0, 15, 160, 19, 136]);
        expected.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0]);
        assert_eq!(map(&ask(), [192, 168, 1, 5].into(), 600), expected);
        let v6 = map(&ask(), "2a00::5".parse().unwrap(), 0);
        assert_eq!((v6.len(), &v6[4..8], &v6[42..]), (60, &[0; 4][..], &[0; 18][..]));
    }

    #[test]
    fn answers_are_read_and_only_to_the_question() {
        let request = map(&ask(), [192, 168, 1, 5].into(), 600);
        let external = "9.9.9.9:5001".parse().unwrap();
        let bytes = answer(&request, 0, 300, 77, external);
        let read = parse(&bytes).unwrap();
        let Answer::Map { result: Ok(()), lifetime: 300, epoch: 77, external: read_external, .. } = read
        else {
            panic!("{read:?}");
        };
        assert_eq!(read_external, external);
        assert!(read.fits(&ask()));
        assert!(!read.fits(&Ask { nonce: [8; 12], ..ask() }));
        assert!(!read.fits(&Ask { protocol: Protocol::Udp, ..ask() }));
        assert!(!read.fits(&Ask { internal: 4001, ..ask() }));
        // Every cut, and every length that is no multiple of four.
        for n in 0..60 {
            assert_eq!(parse(&bytes[..n]), None, "{n}");
        }
        assert_eq!(parse(&[&bytes[..], &[0]].concat()), None);
        assert_eq!(parse(&[&bytes[..], &[0; 1044]].concat()), None, "1,104 bytes");
        // Our own request comes back.
        assert_eq!(parse(&request), None);
        assert_eq!(parse(&[0, 129, 0, 1, 0, 0, 0, 9]), Some(Answer::Version(0)));
        assert_eq!(parse(&[0, 129, 0, 0, 0, 0, 0, 9]), None, "a NAT-PMP success is none of PCP");
        assert_eq!(parse(&[1, 129, 0, 1, 0, 0, 0, 9]), Some(Answer::Version(1)));
    }

    #[test]
    fn errors_have_their_meaning() {
        let request = map(&ask(), [192, 168, 1, 5].into(), 600);
        for (code, why) in [
            (1, MapError::Version),
            (2, MapError::NotAuthorized),
            (3, MapError::Other(3)),
            (4, MapError::NotSupported),
            (7, MapError::NoNetwork),
            (8, MapError::NoResources),
            (10, MapError::NoResources),
            (11, MapError::Conflict),
            (12, MapError::AddressMismatch),
            (200, MapError::Other(200)),
        ] {
            let bytes = answer(&request, code, 30, 77, "0.0.0.0:0".parse().unwrap());
            assert!(
                matches!(parse(&bytes), Some(Answer::Map { result, .. }) if result == Err(why)),
                "{code}"
            );
        }
    }
}
