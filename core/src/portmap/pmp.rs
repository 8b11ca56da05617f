//! NAT-PMP messages (RFC 6886): the external address, and mappings.

use std::net::Ipv4Addr;

use bytes::Bytes;

use super::{Ask, MapError, Protocol};

/// The question for the external address (section 3.2).
pub(super) const EXTERNAL: [u8; 2] = [0, 0];

/// A mapping request (section 3.3). A lifetime of 0 deletes, and then no external port may be named.
pub(super) fn map(ask: &Ask, lifetime: u32) -> Bytes {
    let external = if lifetime == 0 { 0 } else { ask.external };
    let mut bytes = Vec::with_capacity(12);
    bytes.extend([0, opcode(ask.protocol), 0, 0]);
    bytes.extend(ask.internal.to_be_bytes());
    bytes.extend(external.to_be_bytes());
    bytes.extend(lifetime.to_be_bytes());
    bytes.into()
}

/// An answer, with the server's epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    External {
        epoch: u32,
        result: Result<Ipv4Addr, MapError>,
    },
    Map {
        epoch: u32,
        protocol: Protocol,
        internal: u16,
        external: u16,
        lifetime: u32,
    },
    /// Refusal. The port is `None` where the server does not name it.
    Refused {
        epoch: u32,
        protocol: Protocol,
        internal: Option<u16>,
        why: MapError,
    },
}

/// Reads an answer; `None` for bytes that are none.
pub(super) fn parse(data: &[u8]) -> Option<Answer> {
    let [0, opcode, r0, r1, e0, e1, e2, e3, rest @ ..] = data else { return None };
    let epoch = u32::from_be_bytes([*e0, *e1, *e2, *e3]);
    let failure = match u16::from_be_bytes([*r0, *r1]) {
        0 => None,
        1 => Some(MapError::Version),
        2 => Some(MapError::NotAuthorized),
        3 => Some(MapError::NoNetwork),
        4 => Some(MapError::NoResources),
        5 => Some(MapError::NotSupported),
        code => Some(MapError::Other(code)),
    };
    let protocol = match opcode {
        128 => {
            let result = match (failure, rest) {
                (Some(why), _) => Err(why),
                (None, &[a, b, c, d]) => Ok(Ipv4Addr::new(a, b, c, d)),
                _ => return None,
            };
            return Some(Answer::External { epoch, result });
        }
        129 => Protocol::Udp,
        130 => Protocol::Tcp,
        _ => return None,
    };
    match (failure, rest) {
        (Some(why), _) => {
            let internal = rest.first_chunk().map(|port| u16::from_be_bytes(*port));
            Some(Answer::Refused { epoch, protocol, internal, why })
        }
        (None, &[i0, i1, x0, x1, l0, l1, l2, l3]) => Some(Answer::Map {
            epoch,
            protocol,
            internal: u16::from_be_bytes([i0, i1]),
            external: u16::from_be_bytes([x0, x1]),
            lifetime: u32::from_be_bytes([l0, l1, l2, l3]),
        }),
        _ => None,
    }
}

fn opcode(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Udp => 1,
        Protocol::Tcp => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::super::MapId;
    use super::*;

    #[test]
    fn messages_have_the_bytes_of_the_rfc() {
        let ask = Ask {
            id: MapId(1),
            protocol: Protocol::Tcp,
            internal: 4000,
            external: 5000,
            nonce: [9; 12],
            lifetime: 600,
        };
        assert_eq!(map(&ask, 600)[..], [0, 2, 0, 0, 15, 160, 19, 136, 0, 0, 2, 88]);
        let udp = Ask { protocol: Protocol::Udp, ..ask };
        assert_eq!(map(&udp, 0)[..], [0, 1, 0, 0, 15, 160, 0, 0, 0, 0, 0, 0]);
        let granted = [0, 130, 0, 0, 0, 0, 0, 7, 15, 160, 19, 137, 0, 0, 1, 44];
        let answer =
            Answer::Map { epoch: 7, protocol: Protocol::Tcp, internal: 4000, external: 5001, lifetime: 300 };
        assert_eq!(parse(&granted), Some(answer));
        let address = [0, 128, 0, 0, 0, 0, 0, 7, 9, 8, 7, 6];
        assert_eq!(
            parse(&address),
            Some(Answer::External { epoch: 7, result: Ok(Ipv4Addr::new(9, 8, 7, 6)) })
        );
        for n in 0..granted.len() {
            assert_eq!(parse(&granted[..n]), None, "{n}");
        }
        for n in 0..address.len() {
            assert_eq!(parse(&address[..n]), None, "{n}");
        }
        assert_eq!(parse(&[&granted[..], &[0]].concat()), None);
        assert_eq!(
            parse(&[1, 130, 0, 0, 0, 0, 0, 7, 15, 160, 19, 137, 0, 0, 1, 44]),
            None,
            "another version"
        );
        assert_eq!(parse(&map(&ask, 600)), None, "our own request");
    }

    #[test]
    fn errors_have_their_meaning() {
        for (code, why) in [
            (1, MapError::Version),
            (2, MapError::NotAuthorized),
            (3, MapError::NoNetwork),
            (4, MapError::NoResources),
            (5, MapError::NotSupported),
            (9, MapError::Other(9)),
        ] {
            for (port, internal) in [(&[][..], None), (&[15, 160, 0, 0][..], Some(4000))] {
                let bytes = [&[0, 129, 0, code, 0, 0, 0, 7], port].concat();
                let refused = Answer::Refused { epoch: 7, protocol: Protocol::Udp, internal, why };
                assert_eq!(parse(&bytes), Some(refused));
            }
            let bytes = [0, 128, 0, code, 0, 0, 0, 7, 0, 0, 0, 0];
            assert_eq!(parse(&bytes), Some(Answer::External { epoch: 7, result: Err(why) }));
        }
    }
}
