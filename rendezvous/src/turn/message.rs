//! Facts about a message that are read before it is authenticated, and frames of a stream.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub(super) const USERNAME: u16 = 0x0006;
pub(super) const INTEGRITY: u16 = 0x0008;
const ERROR_CODE: u16 = 0x0009;
const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
pub(super) const INTEGRITY_SHA256: u16 = 0x001c;
pub(super) const USERHASH: u16 = 0x001e;
pub(super) const PASSWORD_ALGORITHMS: u16 = 0x8002;

const PEER_ADDRESS: u16 = 0x0012;
const REALM: u16 = 0x0014;
const NONCE: u16 = 0x0015;
const REQUESTED_TRANSPORT: u16 = 0x0019;

pub(super) const ALLOCATE: u16 = 0x0003;
pub(super) const ALLOCATED: u16 = 0x0103;
pub(super) const CREATE_PERMISSION: u16 = 0x0008;
pub(super) const CHANNEL_BIND: u16 = 0x0009;
const ERROR: u16 = 0x0110;
const COOKIE: u32 = 0x2112_a442;

/// Longest message or ChannelData.
pub(super) const MAX_FRAME: usize = 2048;
/// Most attributes: some of what the protocol's crate does takes time by attributes squared.
const MAX_ATTRIBUTES: usize = 32;
const HEADER: usize = 20;

/// Returns true if bytes that begin so are ChannelData.
pub(super) fn is_channel_data(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|first| first & 0xc0 == 0x40)
}

/// A STUN message whose lengths fit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stun<'a> {
    pub(super) kind: u16,
    pub(super) id: [u8; 12],
    body: &'a [u8],
}

impl<'a> Stun<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let (header, body) = bytes.split_first_chunk::<HEADER>()?;
        let [a, b, c, d, 0x21, 0x12, 0xa4, 0x42, id @ ..] = header else { return None };
        let fits = usize::from(u16::from_be_bytes([*c, *d])) == body.len() && body.len().is_multiple_of(4);
        if a & 0xc0 != 0 || !fits {
            return None;
        }
        let message = Stun { kind: u16::from_be_bytes([*a, *b]), id: *id, body };
        let mut rest = body;
        for _ in 0..=MAX_ATTRIBUTES {
            if rest.is_empty() {
                return Some(message);
            }
            rest = next(rest)?.2;
        }
        None
    }

    pub(super) fn is_request(&self) -> bool {
        self.kind & 0x0110 == 0
    }

    pub(super) fn get(&self, kind: u16) -> Option<&'a [u8]> {
        let mut rest = self.body;
        while let Some((found, value, after)) = next(rest) {
            if found == kind {
                return Some(value);
            }
            rest = after;
        }
        None
    }

    pub(super) fn is_signed(&self) -> bool {
        self.get(INTEGRITY).is_some() || self.get(INTEGRITY_SHA256).is_some()
    }

    pub(super) fn is_error(&self) -> bool {
        self.kind & ERROR == ERROR
    }

    pub(super) fn error_code(&self) -> Option<u16> {
        let [_, _, class, number, ..] = self.get(ERROR_CODE)? else { return None };
        Some(u16::from(*class) * 100 + u16::from(*number))
    }

    /// Returns the ERROR-CODE for a request of a client without an allocation that is refused before any login. A
    /// message without proof has to be an Allocate, which has to say what it asks for.
    pub(super) fn refused_unsigned(&self) -> Option<u16> {
        match self.kind {
            _ if self.is_signed() => None,
            ALLOCATE => self.get(REQUESTED_TRANSPORT).is_none().then_some(400),
            _ => Some(437),
        }
    }

    /// The peers that are named, as far as they are sound.
    pub(super) fn peers(&self) -> impl Iterator<Item = SocketAddr> {
        let (mut rest, id) = (self.body, self.id);
        core::iter::from_fn(move || {
            let (kind, value, after) = next(rest)?;
            rest = after;
            Some((kind, value))
        })
        .filter(|(kind, _)| *kind == PEER_ADDRESS)
        .filter_map(move |(_, value)| {
            let (&[_, family, a, b], ip) = value.split_first_chunk()?;
            let port = u16::from_be_bytes([a, b]) ^ (COOKIE >> 16) as u16;
            let ip: IpAddr = match family {
                1 => Ipv4Addr::from_bits(u32::from_be_bytes(ip.try_into().ok()?) ^ COOKIE).into(),
                2 => {
                    let id = id.iter().fold(0, |bits, byte| bits << 8 | u128::from(*byte));
                    let mask = u128::from(COOKIE) << 96 | id;
                    Ipv6Addr::from_bits(u128::from_be_bytes(ip.try_into().ok()?) ^ mask).into()
                }
                _ => return None,
            };
            Some((ip, port).into())
        })
    }

    /// The same with no attributes.
    pub(super) fn bare(&self) -> Vec<u8> {
        self.header(self.kind)
    }

    /// An answer that says no more than this.
    pub(super) fn error(&self, code: u16) -> Vec<u8> {
        let mut bytes = self.header(self.kind | ERROR);
        append(&mut bytes, ERROR_CODE, &[0, 0, (code / 100) as u8, (code % 100) as u8]);
        bytes
    }

    /// An error with nothing but what its receiver has to know: no reason phrase, no SOFTWARE, no FINGERPRINT.
    pub(super) fn short(&self) -> Vec<u8> {
        let mut bytes = self.error(self.error_code().unwrap_or(500));
        for kind in [REALM, NONCE, PASSWORD_ALGORITHMS, UNKNOWN_ATTRIBUTES] {
            if let Some(value) = self.get(kind) {
                append(&mut bytes, kind, value);
            }
        }
        bytes
    }

    fn header(&self, kind: u16) -> Vec<u8> {
        let mut bytes = kind.to_be_bytes().to_vec();
        bytes.extend([0, 0]);
        bytes.extend(COOKIE.to_be_bytes());
        bytes.extend(self.id);
        bytes
    }
}

fn next(data: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let ([a, b, c, d], rest) = data.split_first_chunk::<4>()?;
    let length = usize::from(u16::from_be_bytes([*c, *d]));
    Some((u16::from_be_bytes([*a, *b]), rest.get(..length)?, rest.get(length.next_multiple_of(4)..)?))
}

/// Appends an attribute to a message without FINGERPRINT and integrity.
pub(super) fn append(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend(kind.to_be_bytes());
    message.extend((value.len() as u16).to_be_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
    let length = (message.len() - HEADER) as u16;
    message[2..4].copy_from_slice(&length.to_be_bytes());
}

/// Changes the ERROR-CODE of a message that is not signed.
pub(super) fn set_error(message: &mut [u8], code: u16) {
    let mut at = HEADER;
    while let Some((kind, value, after)) = message.get(at..).and_then(next) {
        let (length, rest) = (value.len(), after.len());
        if kind == ERROR_CODE && length >= 4 {
            message[at + 6] = (code / 100) as u8;
            message[at + 7] = (code % 100) as u8;
        }
        at = message.len() - rest;
    }
}

/// A stream's beginning of a frame; at most [`MAX_FRAME`] bytes.
#[derive(Debug, Default)]
pub(super) struct Framing(Vec<u8>);

impl Framing {
    /// Takes bytes off the stream and hands over the next whole frame, without padding. `Err`: it is no TURN, or
    /// sends what is too long.
    pub(super) fn take(&mut self, data: &mut &[u8]) -> Result<Option<Vec<u8>>, ()> {
        loop {
            let want = match self.0.first_chunk::<4>() {
                None => 4,
                Some([a, _, c, d]) => {
                    let length = usize::from(u16::from_be_bytes([*c, *d]));
                    let length = length + if is_channel_data(&[*a]) { 4 } else { HEADER };
                    if a & 0x80 != 0 || length > MAX_FRAME {
                        return Err(());
                    }
                    if self.0.len() == length.next_multiple_of(4) {
                        let mut frame = core::mem::take(&mut self.0);
                        frame.truncate(length);
                        return Ok(Some(frame));
                    }
                    length.next_multiple_of(4)
                }
            };
            if data.is_empty() {
                return Ok(None);
            }
            let (taken, rest) = data.split_at((want - self.0.len()).min(data.len()));
            self.0.extend_from_slice(taken);
            *data = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_the_same_wherever_the_stream_is_cut() {
        let stun = [&[0, 3, 0, 4, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12], &[0x80, 0x22, 0, 0]].concat();
        let stream = [&stun[..], b"\x40\x00\x00\x05hello\0\0\0", b"\x40\x01\x00\x00"].concat();
        let expected = [stun.clone(), b"\x40\x00\x00\x05hello".to_vec(), b"\x40\x01\x00\x00".to_vec()];
        for cut in 0..=stream.len() {
            let (mut framing, mut frames) = (Framing::default(), Vec::new());
            for mut part in [&stream[..cut], &stream[cut..]] {
                while let Some(frame) = framing.take(&mut part).unwrap() {
                    frames.push(frame);
                }
            }
            assert_eq!(frames, expected, "cut at {cut}");
        }
        for bad in [&b"\x80\0\0\0"[..], b"\x40\0\x08\0", b"\0\x03\x07\xf0"] {
            assert_eq!(Framing::default().take(&mut &bad[..]), Err(()), "{bad:02x?}");
        }
    }

    #[test]
    fn messages_are_walked_and_changed() {
        let mut bytes = Stun { kind: 0x0113, id: [7; 12], body: &[] }.bare();
        append(&mut bytes, 0x8022, b"abc");
        append(&mut bytes, ERROR_CODE, &[0, 0, 4, 1]);
        set_error(&mut bytes, 438);
        append(&mut bytes, PASSWORD_ALGORITHMS, &[0, 2, 0, 0]);
        let message = Stun::read(&bytes).unwrap();
        assert_eq!(
            (message.get(ERROR_CODE), message.get(0x8022)),
            (Some(&[0, 0, 4, 38][..]), Some(&b"abc"[..]))
        );
        assert_eq!(message.get(PASSWORD_ALGORITHMS), Some(&[0, 2, 0, 0][..]));
        assert!(!message.is_request() && !message.is_signed());
        for cut in 0..bytes.len() {
            assert!(Stun::read(&bytes[..cut]).is_none());
        }
        assert_eq!((message.is_error(), message.error_code()), (true, Some(438)));
        let short = [&message.bare()[..2], &[0, 16], &message.bare()[4..], &[0, 9, 0, 4, 0, 0, 4, 38]];
        assert_eq!(message.short(), [&short.concat()[..], &[0x80, 2, 0, 4, 0, 2, 0, 0]].concat());
        let mut many = message.bare();
        for n in 0..=MAX_ATTRIBUTES {
            assert_eq!(Stun::read(&many).is_some(), n <= MAX_ATTRIBUTES);
            append(&mut many, 0x8022, b"");
        }
        assert!(Stun::read(&many).is_none());
    }
}
