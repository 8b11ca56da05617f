//! STUN Binding (RFC 8489), with the attributes of NAT behaviour discovery (RFC 5780).

pub use super::guard::TransactionId;
use core::fmt;
use std::net::SocketAddr;

use bytecodec::{DecodeExt, EncodeExt};
use bytes::{Buf, Bytes, BytesMut};
use stun_codec::rfc5389::attributes::{ErrorCode, MappedAddress, XorMappedAddress};
use stun_codec::rfc5389::methods::BINDING;
use stun_codec::rfc5780::attributes::{
    ChangeRequest as ChangeRequestAttribute, OtherAddress, ResponseOrigin,
};
use stun_codec::{Message, MessageClass, MessageDecoder, MessageEncoder, define_attribute_enums};

use super::fingerprint::{append_fingerprint, fingerprint_fits};
use super::guard::{self, GuardError, STUN_HEADER, STUN_MAX_TCP, Transport};

define_attribute_enums!(
    Attribute,
    AttributeDecoder,
    AttributeEncoder,
    [MappedAddress, XorMappedAddress, ErrorCode, ChangeRequestAttribute, OtherAddress, ResponseOrigin]
);

/// Address and port from which the server is asked to answer (RFC 5780 section 7.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: two bits by RFC 5780.
pub struct ChangeRequest {
    /// Asks for the server's other IP address.
    pub ip: bool,
    /// Asks for the server's other port.
    pub port: bool,
}

/// A server's answer to a Binding request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct BindingReply {
    /// Id of the request that the reply answers.
    pub transaction: TransactionId,
    /// Result of the request.
    pub outcome: BindingOutcome,
    /// RESPONSE-ORIGIN: the address that the server says it answered from.
    pub origin: Option<SocketAddr>,
    /// OTHER-ADDRESS: the server's second address and port.
    pub other: Option<SocketAddr>,
}

/// Result of a Binding request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: a response is a success or an error.
pub enum BindingOutcome {
    /// Reflexive address: ours as the server sees it.
    Mapped(SocketAddr),
    /// An error response with this code (RFC 8489 section 14.8).
    Error(u16),
}

/// Reason that bytes are no Binding answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum StunError {
    /// The bytes break a rule of the guard.
    Guard(GuardError),
    /// The FINGERPRINT is wrong.
    Fingerprint,
    /// The codec could not read an attribute.
    Attribute,
    /// A request, an indication, or another method.
    NotAReply,
    /// A success response without an address, or an error response without a code.
    Incomplete,
}

impl fmt::Display for StunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StunError::Guard(why) => write!(f, "not a STUN message: {why}"),
            StunError::Fingerprint => f.write_str("FINGERPRINT does not fit"),
            StunError::Attribute => f.write_str("a malformed attribute"),
            StunError::NotAReply => f.write_str("not an answer to a Binding request"),
            StunError::Incomplete => f.write_str("an answer without address or error code"),
        }
    }
}

impl std::error::Error for StunError {
    /// Returns the rule that the bytes break.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StunError::Guard(why) => Some(why),
            _ => None,
        }
    }
}

/// Builds a Binding request with FINGERPRINT.
pub fn binding_request(transaction: TransactionId, change: Option<ChangeRequest>) -> Bytes {
    let id = stun_codec::TransactionId::new(transaction.0);
    let mut message: Message<Attribute> = Message::new(MessageClass::Request, BINDING, id);
    if let Some(change) = change {
        message.add_attribute(ChangeRequestAttribute::new(change.ip, change.port));
    }
    // A request of at most one fixed attribute always encodes.
    let mut bytes = MessageEncoder::new().encode_into_bytes(message).unwrap_or_default();
    append_fingerprint(&mut bytes);
    bytes.into()
}

/// Reads an answer to a Binding request. Nothing behind MESSAGE-INTEGRITY is believed.
///
/// # Errors
/// Reason that the bytes are none. The caller ignores and counts them.
pub fn decode_binding(data: &[u8], over: Transport) -> Result<BindingReply, StunError> {
    let view = guard::stun(data, over).map_err(StunError::Guard)?;
    if !fingerprint_fits(view) {
        return Err(StunError::Fingerprint);
    }
    // A decoder is unusable after an error: one for each message.
    let message = MessageDecoder::<Attribute>::new()
        .decode_from_bytes(&view.believed())
        .ok()
        .and_then(Result::ok)
        .ok_or(StunError::Attribute)?;
    if message.method() != BINDING {
        return Err(StunError::NotAReply);
    }
    let outcome = match message.class() {
        MessageClass::SuccessResponse => message
            .get_attribute::<XorMappedAddress>()
            .map(XorMappedAddress::address)
            .or_else(|| message.get_attribute::<MappedAddress>().map(MappedAddress::address))
            .map(BindingOutcome::Mapped),
        MessageClass::ErrorResponse => {
            message.get_attribute::<ErrorCode>().map(|e| BindingOutcome::Error(e.code()))
        }
        _ => return Err(StunError::NotAReply),
    };
    Ok(BindingReply {
        transaction: TransactionId(*message.transaction_id().as_bytes()),
        outcome: outcome.ok_or(StunError::Incomplete)?,
        origin: message.get_attribute::<ResponseOrigin>().map(ResponseOrigin::address),
        other: message.get_attribute::<OtherAddress>().map(OtherAddress::address),
    })
}

/// Cuts a TCP stream into STUN messages (RFC 8489 section 6.2.2: the length field is the frame).
#[derive(Debug, Default)]
pub struct StunSplitter {
    held: BytesMut,
    broken: Option<GuardError>,
}

impl StunSplitter {
    /// Returns an empty splitter.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes of the stream. At most one message more than those taken out is held.
    ///
    /// # Errors
    /// [`GuardError`] once the stream cannot be STUN, for ever.
    pub fn push(&mut self, data: &[u8]) -> Result<(), GuardError> {
        if let Some(why) = self.broken {
            return Err(why);
        }
        if self.held.len() + data.len() > 2 * STUN_MAX_TCP {
            return Err(self.fail(GuardError { offset: self.held.len(), rule: guard::Rule::Size }));
        }
        self.held.extend_from_slice(data);
        Ok(())
    }

    /// Returns the next whole message.
    ///
    /// # Errors
    /// [`GuardError`] once the stream cannot be STUN, for ever.
    pub fn next_message(&mut self) -> Result<Option<Bytes>, GuardError> {
        if let Some(why) = self.broken {
            return Err(why);
        }
        let Some(header) = self.held.first_chunk::<STUN_HEADER>() else { return Ok(None) };
        let whole = STUN_HEADER + usize::from(u16::from_be_bytes([header[2], header[3]]));
        let cookie = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        if header[0] & 0xc0 != 0 || cookie != guard::MAGIC_COOKIE {
            return Err(self.fail(GuardError { offset: 0, rule: guard::Rule::Header }));
        }
        if whole > STUN_MAX_TCP {
            return Err(self.fail(GuardError { offset: 2, rule: guard::Rule::Size }));
        }
        // Messages end on a multiple of four: after such a length nothing would be in its place.
        if !whole.is_multiple_of(4) {
            return Err(self.fail(GuardError { offset: 2, rule: guard::Rule::Length }));
        }
        if self.held.remaining() < whole {
            return Ok(None);
        }
        Ok(Some(self.held.split_to(whole).freeze()))
    }

    fn fail(&mut self, why: GuardError) -> GuardError {
        self.broken = Some(why);
        self.held.clear();
        why
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: TransactionId = TransactionId([7; 12]);

    /// Appends MESSAGE-INTEGRITY, of a key that nobody has.
    fn append_integrity(message: &mut Vec<u8>) {
        message.extend_from_slice(&[0, 8, 0, 20]);
        message.extend_from_slice(&[7; 20]);
        crate::wire::fingerprint::set_length(message);
    }

    fn reply(attributes: Vec<Attribute>, class: MessageClass) -> Vec<u8> {
        let mut message: Message<Attribute> =
            Message::new(class, BINDING, stun_codec::TransactionId::new(ID.0));
        attributes.into_iter().for_each(|a| message.add_attribute(a));
        let mut bytes = MessageEncoder::new().encode_into_bytes(message).unwrap();
        append_fingerprint(&mut bytes);
        bytes
    }

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn requests_are_understood_by_another_implementation() {
        use stun_types::message::{Message as Other, MessageHeader};
        let plain = binding_request(ID, None);
        assert_eq!(plain.len(), 28);
        let other = Other::from_bytes(&plain).unwrap();
        assert!(other.method() == stun_types::message::BINDING);
        let header = MessageHeader::from_bytes(&plain).unwrap();
        assert_eq!(usize::from(header.data_length()), plain.len() - STUN_HEADER);
        let change = binding_request(ID, Some(ChangeRequest { ip: true, port: false }));
        assert_eq!(&change[20..28], &[0, 3, 0, 4, 0, 0, 0, 4]);
    }

    #[test]
    fn replies_say_what_the_server_sees() {
        for text in ["203.0.113.9:4000", "[2001:db8::9]:4000"] {
            let mapped = addr(text);
            let (other, origin) = (addr("198.51.100.2:3479"), addr("198.51.100.1:3478"));
            let bytes = reply(
                vec![
                    XorMappedAddress::new(mapped).into(),
                    OtherAddress::new(other).into(),
                    ResponseOrigin::new(origin).into(),
                ],
                MessageClass::SuccessResponse,
            );
            let expected = BindingReply {
                transaction: ID,
                outcome: BindingOutcome::Mapped(mapped),
                origin: Some(origin),
                other: Some(other),
            };
            assert_eq!(decode_binding(&bytes, Transport::Udp), Ok(expected));
        }
        let old = reply(vec![MappedAddress::new(addr("8.8.8.8:1")).into()], MessageClass::SuccessResponse);
        let outcome = decode_binding(&old, Transport::Udp).map(|r| r.outcome);
        assert_eq!(outcome, Ok(BindingOutcome::Mapped(addr("8.8.8.8:1"))));
        let error = ErrorCode::new(420, "unknown".into()).unwrap();
        let bytes = reply(vec![error.into()], MessageClass::ErrorResponse);
        assert_eq!(decode_binding(&bytes, Transport::Udp).map(|r| r.outcome), Ok(BindingOutcome::Error(420)));
    }

    #[test]
    fn what_is_no_reply_is_named() {
        assert_eq!(decode_binding(&binding_request(ID, None), Transport::Udp), Err(StunError::NotAReply));
        let empty = reply(vec![], MessageClass::SuccessResponse);
        assert_eq!(decode_binding(&empty, Transport::Udp), Err(StunError::Incomplete));
        let mut crc =
            reply(vec![XorMappedAddress::new(addr("8.8.8.8:1")).into()], MessageClass::SuccessResponse);
        *crc.last_mut().unwrap() ^= 1;
        assert_eq!(decode_binding(&crc, Transport::Udp), Err(StunError::Fingerprint));
        assert!(matches!(
            decode_binding(b"GET / HTTP/1.1\r\n\r\n  ", Transport::Udp),
            Err(StunError::Guard(_))
        ));
    }

    #[test]
    fn an_address_behind_message_integrity_is_not_believed() {
        let mut message: Message<Attribute> =
            Message::new(MessageClass::SuccessResponse, BINDING, stun_codec::TransactionId::new(ID.0));
        message.add_attribute(XorMappedAddress::new(addr("203.0.113.9:4000")));
        let honest = MessageEncoder::new().encode_into_bytes(message).unwrap();
        let mut forged = honest[..STUN_HEADER].to_vec();
        append_integrity(&mut forged);
        forged.extend_from_slice(&honest[STUN_HEADER..]);
        let length = (forged.len() - STUN_HEADER) as u16;
        forged[2..4].copy_from_slice(&length.to_be_bytes());
        assert!(matches!(decode_binding(&forged, Transport::Udp), Err(StunError::Guard(_))));
    }

    #[test]
    fn streams_are_split_the_same_wherever_they_are_cut() {
        let messages = [
            reply(
                vec![XorMappedAddress::new(addr("203.0.113.9:4000")).into()],
                MessageClass::SuccessResponse,
            ),
            binding_request(ID, None).to_vec(),
        ];
        let stream = messages.concat();
        let split = |chunks: &[&[u8]]| {
            let (mut splitter, mut found) = (StunSplitter::new(), Vec::new());
            for chunk in chunks {
                splitter.push(chunk).unwrap();
                while let Some(message) = splitter.next_message().unwrap() {
                    found.push(message.to_vec());
                }
            }
            found
        };
        for cut in 0..=stream.len() {
            assert_eq!(split(&[&stream[..cut], &stream[cut..]]), messages);
        }
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(split(&bytes), messages);
        let mut broken = StunSplitter::new();
        broken.push(b"HTTP/1.1 200 OK\r\nServer: x").unwrap();
        assert!(broken.next_message().is_err());
        assert!(broken.push(&stream).is_err(), "for ever");
        let mut long = StunSplitter::new();
        long.push(&[0, 1, 0xff, 0xfc, 0x21, 0x12, 0xa4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        assert!(long.next_message().is_err());
        let mut odd = StunSplitter::new();
        odd.push(&[0, 1, 0, 3, 0x21, 0x12, 0xa4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        assert_eq!(odd.next_message(), Err(GuardError { offset: 2, rule: guard::Rule::Length }));
        assert!(odd.push(&stream).is_err(), "for ever");
    }

    #[test]
    fn an_address_behind_sha256_integrity_is_not_believed() {
        let honest = reply(
            vec![XorMappedAddress::new(addr("203.0.113.9:4000")).into()],
            MessageClass::SuccessResponse,
        );
        let mut forged = honest[..STUN_HEADER].to_vec();
        forged.extend_from_slice(&[0, 0x1c, 0, 32]);
        forged.extend_from_slice(&[0; 32]);
        forged.extend_from_slice(&honest[STUN_HEADER..honest.len() - 8]);
        append_fingerprint(&mut forged);
        assert!(matches!(decode_binding(&forged, Transport::Udp), Err(StunError::Guard(_))));
    }

    #[test]
    fn mutated_messages_never_panic() {
        let mapped = addr("203.0.113.9:4000");
        let success = vec![
            XorMappedAddress::new(mapped).into(),
            OtherAddress::new(mapped).into(),
            ResponseOrigin::new(addr("[2001:db8::9]:4000")).into(),
        ];
        let error = vec![ErrorCode::new(420, "unknown".into()).unwrap().into()];
        let mut sealed = reply(vec![MappedAddress::new(mapped).into()], MessageClass::SuccessResponse);
        sealed.truncate(sealed.len() - 8);
        append_integrity(&mut sealed);
        append_fingerprint(&mut sealed);
        let seeds = [
            reply(success, MessageClass::SuccessResponse),
            reply(error, MessageClass::ErrorResponse),
            sealed,
            binding_request(ID, Some(ChangeRequest { ip: true, port: true })).to_vec(),
        ];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut draw = move |n: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 20) as usize % n
        };
        let mut accepted = 0;
        for round in 0..300_000 {
            let mut message = seeds[draw(seeds.len())].clone();
            for _ in 0..=draw(4) {
                match draw(5) {
                    0 => message.truncate(draw(message.len() + 1)),
                    1 => message.push(draw(256) as u8),
                    2 => message.extend_from_within(draw(message.len() + 1)..),
                    _ if !message.is_empty() => {
                        let at = draw(message.len());
                        message[at] = draw(256) as u8;
                    }
                    _ => {}
                }
            }
            // Half of them get past cookie, length and FINGERPRINT, to what lies behind.
            if round % 2 == 0 && message.len() >= STUN_HEADER {
                let fingerprint = message.len().saturating_sub(8);
                if fingerprint >= STUN_HEADER && draw(2) == 0 {
                    message.truncate(fingerprint);
                }
                message.resize(message.len().next_multiple_of(4), 0);
                message[4..8].copy_from_slice(&guard::MAGIC_COOKIE.to_be_bytes());
                append_fingerprint(&mut message);
            }
            let over = if draw(2) == 0 { Transport::Udp } else { Transport::Tcp };
            accepted += usize::from(decode_binding(&message, over).is_ok());
        }
        assert!(accepted > 10_000, "the codec was reached: {accepted}");
    }
}
