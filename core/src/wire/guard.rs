//! Checks of a packet before a codec may see it: size, counts, and every length inside.

use core::fmt;

/// Transport of a STUN or TURN message; the size caps differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: STUN and TURN go over these two.
pub enum Transport {
    /// A datagram of at most 1,500 bytes.
    Udp,
    /// Part of a stream, at most 2,048 bytes.
    Tcp,
}

/// Most bytes of a STUN message over UDP: one Ethernet frame.
pub const STUN_MAX_UDP: usize = 1500;
/// Most bytes of a STUN message over TCP.
pub const STUN_MAX_TCP: usize = 2048;
/// Most attributes of a STUN message.
pub const STUN_MAX_ATTRIBUTES: usize = 32;
/// Most bytes of an MQTT packet.
pub const MQTT_MAX: usize = 16 * 1024;

/// Most codes of a SUBACK, one for each topic of the SUBSCRIBE: the codec may have no room for more.
const SUBACK_CODES: usize = 5;

/// STUN's magic cookie (RFC 8489 section 5).
pub const MAGIC_COOKIE: u32 = 0x2112_a442;

/// Bytes of a STUN header.
pub(crate) const STUN_HEADER: usize = 20;

pub(crate) const MESSAGE_INTEGRITY: u16 = 0x0008;
pub(crate) const MESSAGE_INTEGRITY_SHA256: u16 = 0x001c;
pub(crate) const FINGERPRINT: u16 = 0x8028;

/// Reason that a packet was not let through, and the offset in the packet where that showed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: a rule, and where it was broken.
pub struct GuardError {
    /// Byte offset.
    pub offset: usize,
    /// The rule it breaks.
    pub rule: Rule,
}

/// A rule that a packet can break.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Rule {
    /// Size over the cap.
    Size,
    /// The header's fixed bits are wrong.
    Header,
    /// A stated length does not fit.
    Length,
    /// Attributes beyond the allowed number.
    Attributes,
    /// MESSAGE-INTEGRITY, MESSAGE-INTEGRITY-SHA256 or FINGERPRINT twice, of a wrong size, or not where it
    /// belongs.
    Order,
    /// A packet type that does not exist.
    Type,
    /// A topic with a wildcard or NUL, or text that is not UTF-8.
    Text,
    /// A value the protocol forbids.
    Value,
}

impl fmt::Display for GuardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = match self.rule {
            Rule::Size => "larger than allowed",
            Rule::Header => "wrong header",
            Rule::Length => "a length does not fit",
            Rule::Attributes => "too many attributes",
            Rule::Order => "integrity or fingerprint misplaced",
            Rule::Type => "no such packet type",
            Rule::Text => "text not allowed",
            Rule::Value => "value not allowed",
        };
        write!(f, "{rule}, at byte {}", self.offset)
    }
}

impl std::error::Error for GuardError {}

const fn refuse<T>(offset: usize, rule: Rule) -> Result<T, GuardError> {
    Err(GuardError { offset, rule })
}

/// A STUN message's class (RFC 8489 section 5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Request: wants an answer.
    Request,
    /// Indication: wants no answer.
    Indication,
    /// Success response.
    Success,
    /// Error response.
    Error,
}

/// A STUN message whose structure holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StunView<'a> {
    bytes: &'a [u8],
    /// Offset of MESSAGE-INTEGRITY, if there is one: nothing behind it is believed.
    integrity: Option<usize>,
    /// Offset of MESSAGE-INTEGRITY-SHA256, if there is one: the same.
    sha256: Option<usize>,
    /// Offset of FINGERPRINT, if there is one.
    fingerprint: Option<usize>,
}

impl<'a> StunView<'a> {
    /// Returns the whole message.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns the message's class.
    pub fn class(&self) -> Class {
        match (self.kind() >> 7 & 2) | (self.kind() >> 4 & 1) {
            0 => Class::Request,
            1 => Class::Indication,
            2 => Class::Success,
            _ => Class::Error,
        }
    }

    /// Returns the message's method, 12 bits; Binding is 1.
    pub fn method(&self) -> u16 {
        // The two class bits lie among those of the method.
        let kind = self.kind();
        (kind & 0x000f) | (kind & 0x00e0) >> 1 | (kind & 0x3e00) >> 2
    }

    /// Returns the message's transaction id.
    pub fn transaction(&self) -> TransactionId {
        let id = self.bytes.get(8..).and_then(|rest| rest.first_chunk());
        // The guard has seen a whole header.
        TransactionId(id.copied().unwrap_or_default())
    }

    fn kind(&self) -> u16 {
        self.bytes.first_chunk().map_or(0, |bytes| u16::from_be_bytes(*bytes))
    }

    /// Returns the offset of the MESSAGE-INTEGRITY attribute.
    pub fn integrity(&self) -> Option<usize> {
        self.integrity
    }

    /// Returns the offset of the MESSAGE-INTEGRITY-SHA256 attribute.
    pub fn integrity_sha256(&self) -> Option<usize> {
        self.sha256
    }

    /// Returns the offset of the FINGERPRINT attribute.
    pub fn fingerprint(&self) -> Option<usize> {
        self.fingerprint
    }

    /// Returns the offset of the first byte that must not be believed. That is the first of MESSAGE-INTEGRITY,
    /// MESSAGE-INTEGRITY-SHA256, FINGERPRINT and the message's end.
    pub fn trailer(&self) -> usize {
        self.integrity.or(self.sha256).or(self.fingerprint).unwrap_or(self.bytes.len())
    }

    /// Copies the message up to its [trailer](Self::trailer) as a message of its own, for a codec that would believe
    /// the rest.
    pub(crate) fn believed(&self) -> Vec<u8> {
        let mut bytes = self.bytes.get(..self.trailer()).unwrap_or_default().to_vec();
        let length = bytes.len().saturating_sub(STUN_HEADER) as u16;
        if let Some(field) = bytes.get_mut(2..4) {
            field.copy_from_slice(&length.to_be_bytes());
        }
        bytes
    }

    /// Returns the attributes that may be believed: type and value, up to the [trailer](Self::trailer).
    pub fn attributes(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        let mut rest = self.bytes.get(STUN_HEADER..self.trailer()).unwrap_or_default();
        core::iter::from_fn(move || {
            let (kind, value, after) = next_attribute(rest)?;
            rest = after;
            Some((kind, value))
        })
    }
}

/// Returns type, value, and the rest after the padding.
fn next_attribute(data: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let ([a, b, c, d], rest) = data.split_first_chunk::<4>()?;
    let length = usize::from(u16::from_be_bytes([*c, *d]));
    let value = rest.get(..length)?;
    let after = rest.get(length.next_multiple_of(4)..)?;
    Some((u16::from_be_bytes([*a, *b]), value, after))
}

/// Lets a STUN message through whose structure holds (RFC 8489 sections 5 and 14.5 to 14.7).
///
/// # Errors
/// The broken rule and its offset. Costs one walk over at most 2,048 bytes.
pub fn stun(data: &[u8], over: Transport) -> Result<StunView<'_>, GuardError> {
    let cap = match over {
        Transport::Udp => STUN_MAX_UDP,
        Transport::Tcp => STUN_MAX_TCP,
    };
    if data.len() > cap {
        return refuse(cap, Rule::Size);
    }
    let Some(([type_high, _, high, low, cookie @ ..], mut rest)) = data.split_first_chunk::<8>() else {
        return refuse(data.len(), Rule::Length);
    };
    if type_high & 0xc0 != 0 {
        return refuse(0, Rule::Header);
    }
    if u32::from_be_bytes(*cookie) != MAGIC_COOKIE {
        return refuse(4, Rule::Header);
    }
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if data.len() != length + STUN_HEADER || !length.is_multiple_of(4) {
        return refuse(2, Rule::Length);
    }
    rest = rest.get(12..).unwrap_or_default();
    let (mut integrity, mut sha256, mut fingerprint) = (None, None, None);
    let mut count = 0;
    while !rest.is_empty() {
        let at = data.len() - rest.len();
        let Some((kind, value, after)) = next_attribute(rest) else { return refuse(at, Rule::Length) };
        count += 1;
        if count > STUN_MAX_ATTRIBUTES {
            return refuse(at, Rule::Attributes);
        }
        let fits = match kind {
            FINGERPRINT => value.len() == 4 && after.is_empty(),
            _ if fingerprint.is_some() => false,
            // Behind it there is FINGERPRINT and nothing else (section 14.6).
            _ if sha256.is_some() => false,
            MESSAGE_INTEGRITY => value.len() == 20 && integrity.is_none(),
            MESSAGE_INTEGRITY_SHA256 => matches!(value.len(), 16 | 20 | 24 | 28 | 32),
            _ => integrity.is_none(),
        };
        if !fits {
            return refuse(at, Rule::Order);
        }
        match kind {
            MESSAGE_INTEGRITY => integrity = Some(at),
            MESSAGE_INTEGRITY_SHA256 => sha256 = Some(at),
            FINGERPRINT => fingerprint = Some(at),
            _ => {}
        }
        rest = after;
    }
    Ok(StunView { bytes: data, integrity, sha256, fingerprint })
}

/// Finds the MQTT 3.1.1 packet at the front of `buffer` and walks every length in it. `None`: it is not
/// whole yet. `Some(n)`: the first `n` bytes are one packet, and exactly these may go to the codec.
///
/// # Errors
/// The broken rule and its offset; the connection is of no further use.
pub fn mqtt(buffer: &[u8]) -> Result<Option<usize>, GuardError> {
    let Some((first, rest)) = buffer.split_first() else { return Ok(None) };
    let (kind, flags) = (first >> 4, first & 0x0f);
    let flags_fit = match kind {
        3 => flags & 0b0110 != 0b0110,
        6 | 8 | 10 => flags == 0b0010,
        1..=14 => flags == 0,
        _ => return refuse(0, Rule::Type),
    };
    if !flags_fit {
        return refuse(0, Rule::Header);
    }
    let Some((length, header)) = remaining_length(rest)? else { return Ok(None) };
    let total = 1 + header + length;
    if total > MQTT_MAX {
        return refuse(1, Rule::Size);
    }
    let Some(body) = buffer.get(1 + header..total) else { return Ok(None) };
    Walk { body, at: 0, start: 1 + header }.packet(kind, flags)?;
    Ok(Some(total))
}

/// The remaining length and its own bytes (MQTT 3.1.1 section 2.2.3), in its shortest form only.
fn remaining_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, GuardError> {
    let mut length = 0;
    for (n, byte) in bytes.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            return if *byte == 0 && n > 0 { refuse(1 + n, Rule::Length) } else { Ok(Some((length, n + 1))) };
        }
    }
    if bytes.len() >= 4 { refuse(4, Rule::Length) } else { Ok(None) }
}

/// A walk through a packet's body.
struct Walk<'a> {
    body: &'a [u8],
    at: usize,
    /// Offset of the body in the packet.
    start: usize,
}

impl<'a> Walk<'a> {
    fn packet(&mut self, kind: u8, flags: u8) -> Result<(), GuardError> {
        match kind {
            1 => {
                self.string()?;
                let settings = self.take(4)?;
                let flags = settings.get(1).copied().unwrap_or(0);
                self.string()?;
                if flags & 0x04 != 0 {
                    self.string()?;
                    self.string()?;
                }
                if flags & 0x80 != 0 {
                    self.string()?;
                }
                if flags & 0x40 != 0 {
                    self.string()?;
                }
            }
            2 => {
                self.take(2)?;
            }
            3 => {
                let topic = self.string()?;
                let text = core::str::from_utf8(topic).unwrap_or("#");
                if text.is_empty() || text.contains(['+', '#', '\0']) {
                    return refuse(self.start, Rule::Text);
                }
                if flags & 0b0110 != 0 {
                    self.packet_id()?;
                }
                self.at = self.body.len();
            }
            4..=7 | 11 => self.packet_id()?,
            8 => {
                self.packet_id()?;
                loop {
                    self.string()?;
                    if self.take(1)?.first().is_none_or(|qos| *qos > 2) {
                        return refuse(self.offset(), Rule::Value);
                    }
                    if self.at == self.body.len() {
                        break;
                    }
                }
            }
            9 => {
                self.packet_id()?;
                let codes = self.take((self.body.len() - self.at).max(1))?;
                if codes.len() > SUBACK_CODES {
                    return refuse(self.offset(), Rule::Size);
                }
                if codes.iter().any(|c| !matches!(c, 0..=2 | 0x80)) {
                    return refuse(self.offset(), Rule::Value);
                }
            }
            10 => {
                self.packet_id()?;
                loop {
                    self.string()?;
                    if self.at == self.body.len() {
                        break;
                    }
                }
            }
            _ => {}
        }
        if self.at == self.body.len() { Ok(()) } else { refuse(self.offset(), Rule::Length) }
    }

    fn offset(&self) -> usize {
        self.start + self.at
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], GuardError> {
        match self.body.get(self.at..self.at + n) {
            Some(taken) => {
                self.at += n;
                Ok(taken)
            }
            None => refuse(self.offset(), Rule::Length),
        }
    }

    fn packet_id(&mut self) -> Result<(), GuardError> {
        let at = self.offset();
        if self.take(2)? == [0, 0] { refuse(at, Rule::Value) } else { Ok(()) }
    }

    fn string(&mut self) -> Result<&'a [u8], GuardError> {
        let length = self.take(2)?.iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stun_message(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut out = vec![0x01, 0x01, 0, 0, 0x21, 0x12, 0xa4, 0x42];
        out.extend_from_slice(&[7; 12]);
        for (kind, value) in attributes {
            out.extend_from_slice(&kind.to_be_bytes());
            out.extend_from_slice(&(value.len() as u16).to_be_bytes());
            out.extend_from_slice(value);
            out.resize(out.len().next_multiple_of(4), 0);
        }
        let length = (out.len() - STUN_HEADER) as u16;
        out[2..4].copy_from_slice(&length.to_be_bytes());
        out
    }

    fn rule(data: &[u8]) -> Option<Rule> {
        stun(data, Transport::Tcp).err().map(|e| e.rule)
    }

    #[test]
    fn stun_structure_is_walked() {
        let good = stun_message(&[(0x0020, &[0, 1, 2, 3, 4, 5, 6, 7]), (0x8022, b"abc")]);
        let view = stun(&good, Transport::Udp).unwrap();
        let found: Vec<_> = view.attributes().collect();
        assert_eq!(found, [(0x0020, &[0, 1, 2, 3, 4, 5, 6, 7][..]), (0x8022, b"abc")]);
        for cut in 0..good.len() {
            assert_eq!(rule(&good[..cut]), Some(Rule::Length), "cut at {cut}");
        }
        assert_eq!(rule(&[&good[..], &[0; 4]].concat()), Some(Rule::Length));
        let mut bits = good.clone();
        bits[0] |= 0x40;
        assert_eq!(rule(&bits), Some(Rule::Header));
        let mut cookie = good.clone();
        cookie[7] ^= 1;
        assert_eq!(rule(&cookie), Some(Rule::Header));
        let mut long = good;
        long[22..24].copy_from_slice(&400u16.to_be_bytes());
        assert_eq!(rule(&long), Some(Rule::Length));
    }

    #[test]
    fn class_method_and_transaction_are_those_of_the_header() {
        let cases = [
            (0x0001u16, Class::Request, 1),
            (0x0011, Class::Indication, 1),
            (0x0101, Class::Success, 1),
            (0x0111, Class::Error, 1),
            (0x0016, Class::Indication, 6),
            (0x3fff, Class::Error, 0xfff),
            (0x3eef, Class::Request, 0xfff),
        ];
        for (kind, class, method) in cases {
            let mut message = stun_message(&[]);
            message[..2].copy_from_slice(&kind.to_be_bytes());
            let view = stun(&message, Transport::Udp).unwrap();
            assert_eq!((view.class(), view.method()), (class, method), "{kind:04x}");
            assert_eq!(view.transaction(), TransactionId([7; 12]));
        }
    }

    #[test]
    fn stun_counts_and_order_are_bounded() {
        let (mi, fp, one) =
            ((MESSAGE_INTEGRITY, &[0; 20][..]), (FINGERPRINT, &[0; 4][..]), (0x8022, &[][..]));
        assert_eq!(rule(&stun_message(&[one; 32])), None);
        assert_eq!(rule(&stun_message(&[one; 33])), Some(Rule::Attributes));
        assert_eq!(rule(&stun_message(&[one, mi, fp])), None);
        assert_eq!(rule(&stun_message(&[one, mi, (MESSAGE_INTEGRITY_SHA256, &[0; 32]), fp])), None);
        let (sha, cut) = ((MESSAGE_INTEGRITY_SHA256, &[0; 32][..]), (MESSAGE_INTEGRITY_SHA256, &[0; 16][..]));
        assert_eq!(rule(&stun_message(&[one, cut])), None);
        for bad in [
            &[mi, mi][..],
            &[mi, one],
            &[fp, one],
            &[fp, fp],
            &[fp, mi],
            &[fp, sha],
            &[sha, one],
            &[sha, mi],
            &[sha, sha],
            &[mi, sha, one],
            &[(MESSAGE_INTEGRITY_SHA256, &[0; 17])],
            &[(MESSAGE_INTEGRITY_SHA256, &[0; 36])],
        ] {
            assert_eq!(rule(&stun_message(bad)), Some(Rule::Order), "{bad:?}");
        }
        assert_eq!(rule(&stun_message(&[(MESSAGE_INTEGRITY, &[0; 16])])), Some(Rule::Order));
        assert_eq!(rule(&stun_message(&[(FINGERPRINT, &[0; 8])])), Some(Rule::Order));
        // Nothing behind MESSAGE-INTEGRITY, and nothing of the trailer, is handed out.
        let all = stun_message(&[one, mi, fp]);
        assert_eq!(stun(&all, Transport::Udp).unwrap().attributes().count(), 1);
        let all = stun_message(&[one, (MESSAGE_INTEGRITY_SHA256, &[0; 32]), fp]);
        let view = stun(&all, Transport::Udp).unwrap();
        assert_eq!((view.attributes().count(), view.integrity_sha256(), view.trailer()), (1, Some(24), 24));
        assert_eq!(view.believed(), stun_message(&[one]));
    }

    #[test]
    fn the_message_that_kept_the_codec_busy_for_a_minute_is_refused() {
        let many: Vec<(u16, &[u8])> = vec![(MESSAGE_INTEGRITY, &[0; 20]); 2600];
        let whole = stun_message(&many);
        assert!(whole.len() > 62_000);
        assert_eq!(rule(&whole), Some(Rule::Size));
        let frame = stun_message(&many[..60]);
        assert!(frame.len() <= STUN_MAX_UDP);
        assert_eq!(stun(&frame, Transport::Udp).err().map(|e| e.rule), Some(Rule::Order));
        let attributes = vec![(0x8022, &[0; 40][..]); 40];
        let long = stun_message(&attributes);
        assert_eq!(stun(&long, Transport::Udp).err().map(|e| e.rule), Some(Rule::Size));
    }

    #[test]
    fn packets_that_made_the_mqtt_codec_panic_are_refused() {
        let hostile: &[&[u8]] = &[
            &[0x50, 0x00],
            &[0x40, 0x00],
            &[0x20, 0x00],
            &[0x62, 0x00],
            &[0x10, 0x02, 0x00, 0x00],
            &[0x82, 0x04, 0xe9, 0xfe, 0x00, 0x00],
            &[0x30, 0x02, 0x00, 0x09],
            &[0x32, 0x04, 0x00, 0x01, b'a', 0x00],
            &[0x90, 0x02, 0x00, 0x01],
            &[0xd0, 0x01, 0x00],
            &[0x36, 0x05, 0x00, 0x01, b'a', 0x00, 0x01],
            &[0x00, 0x00],
            &[0xf0, 0x00],
            &[0x41, 0x02, 0x00, 0x01],
            &[0x40, 0x02, 0x00, 0x00],
            &[0x30, 0x03, 0x00, 0x01, b'#'],
            &[0x30, 0x03, 0x00, 0x01, 0xff],
            &[0x30, 0xff, 0xff, 0xff, 0xff],
            &[0x40, 0x82, 0x00],
            &[0x30, 0xff, 0xff, 0x7f],
            &[0x90, 0x08, 0x00, 0x01, 0, 0, 0, 0, 0, 0],
        ];
        for packet in hostile {
            assert!(mqtt(packet).is_err(), "{packet:02x?}");
        }
    }

    #[test]
    fn mqtt_packets_are_found_whole_and_one_at_a_time() {
        let publish = [0x32, 0x07, 0x00, 0x01, b'a', 0x00, 0x05, b'h', b'i'];
        for cut in 0..publish.len() {
            assert_eq!(mqtt(&publish[..cut]), Ok(None), "cut at {cut}");
        }
        assert_eq!(mqtt(&publish), Ok(Some(9)));
        assert_eq!(mqtt(&[&publish[..], &[0xd0, 0x00]].concat()), Ok(Some(9)));
        assert_eq!(mqtt(&[0xd0, 0x00]), Ok(Some(2)));
        assert_eq!(mqtt(&[0x90, 0x03, 0x00, 0x01, 0x80]), Ok(Some(5)));
        assert_eq!(mqtt(&[0x90, 0x07, 0x00, 0x01, 0, 0, 0, 0, 0]), Ok(Some(9)));
    }
}

/// The 96 random bits that join an answer to its question (RFC 8489 section 5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
// Exhaustive: 96 bits by RFC 8489.
pub struct TransactionId(pub [u8; 12]);
