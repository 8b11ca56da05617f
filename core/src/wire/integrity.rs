//! MESSAGE-INTEGRITY and MESSAGE-INTEGRITY-SHA256 (RFC 8489 sections 14.5 and 14.6), over the bytes as they came.
//!
//! `stun_codec` checks the integrity over its own re-encoding. So a reserved bit that an honest peer set makes the
//! check fail, and a bit flipped on the way does not (measured).

use hmac::digest::{self, Digest, KeyInit};
use hmac::{Hmac, Mac};
use md5::Md5;
use sha1::Sha1;
use sha2::Sha256;

use super::fingerprint::set_length;
use super::guard::{MESSAGE_INTEGRITY, MESSAGE_INTEGRITY_SHA256, STUN_HEADER, StunView};

/// A key for MESSAGE-INTEGRITY, or for MESSAGE-INTEGRITY-SHA256.
#[derive(Clone)]
pub struct IntegrityKey(Key);

#[derive(Clone)]
enum Key {
    Sha1(Hmac<Sha1>),
    Sha256(Hmac<Sha256>),
}

impl core::fmt::Debug for IntegrityKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("IntegrityKey")
    }
}

impl IntegrityKey {
    /// Returns the key of short-term credentials (RFC 8489 section 9.1): the password, already prepared by
    /// OpaqueString.
    pub fn short_term(password: &str) -> Self {
        IntegrityKey(Key::Sha1(keyed(password.as_bytes())))
    }

    /// Returns the key of long-term credentials (RFC 8489 section 9.2.2): MD5 of `user:realm:password`, for
    /// MESSAGE-INTEGRITY.
    pub fn long_term(user: &str, realm: &str, password: &str) -> Self {
        IntegrityKey(Key::Sha1(keyed(&joined::<Md5>(&[user, realm, password]))))
    }

    /// Returns the key of long-term credentials with the password algorithm SHA-256 (RFC 8489 section 18.5.1.2), for
    /// MESSAGE-INTEGRITY-SHA256.
    pub fn long_term_sha256(user: &str, realm: &str, password: &str) -> Self {
        IntegrityKey(Key::Sha256(keyed(&joined::<Sha256>(&[user, realm, password]))))
    }

    /// Returns true if the message has the integrity attribute of this key's kind, at full length, with the right
    /// value. The comparison takes constant time.
    pub fn verifies(&self, message: StunView<'_>) -> bool {
        let at = match self.0 {
            Key::Sha1(_) => message.integrity(),
            Key::Sha256(_) => message.integrity_sha256(),
        };
        let bytes = message.bytes();
        let Some(at) = at else { return false };
        let (Some(covered), Some([_, _, high, low, rest @ ..])) = (bytes.get(..at), bytes.get(at..)) else {
            return false;
        };
        let size = usize::from(u16::from_be_bytes([*high, *low]));
        let Some(stated) = rest.get(..size) else { return false };
        match &self.0 {
            Key::Sha1(key) => over(key, covered).verify_slice(stated).is_ok(),
            Key::Sha256(key) => over(key, covered).verify_slice(stated).is_ok(),
        }
    }

    /// Appends the integrity attribute to a message that has none, and no FINGERPRINT.
    pub fn append(&self, message: &mut Vec<u8>) {
        match &self.0 {
            Key::Sha1(key) => append(key, MESSAGE_INTEGRITY, message),
            Key::Sha256(key) => append(key, MESSAGE_INTEGRITY_SHA256, message),
        }
    }
}

/// Returns the USERHASH of a user in a realm (RFC 8489 section 14.4).
pub fn userhash(user: &str, realm: &str) -> [u8; 32] {
    joined::<Sha256>(&[user, realm]).into()
}

/// Returns the hash of the parts with colons between them.
fn joined<D: Digest>(parts: &[&str]) -> digest::Output<D> {
    let mut hash = D::new();
    for (n, part) in parts.iter().enumerate() {
        if n > 0 {
            hash.update(b":");
        }
        hash.update(part);
    }
    hash.finalize()
}

fn keyed<M: Mac + KeyInit>(key: &[u8]) -> M {
    // HMAC takes keys of any length.
    <M as KeyInit>::new_from_slice(key).unwrap_or_else(|_| unreachable!())
}

fn append<M: Mac + Clone>(key: &M, kind: u16, message: &mut Vec<u8>) {
    let tag = over(key, message).finalize().into_bytes();
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&(tag.len() as u16).to_be_bytes());
    message.extend_from_slice(&tag);
    set_length(message);
}

/// Returns the HMAC over all before the attribute, with a length that includes it.
fn over<M: Mac + Clone>(key: &M, covered: &[u8]) -> M {
    let mut mac = key.clone();
    let length = (covered.len() + 4 + M::output_size()).saturating_sub(STUN_HEADER) as u16;
    mac.update(covered.get(..2).unwrap_or_default());
    mac.update(&length.to_be_bytes());
    mac.update(covered.get(4..).unwrap_or_default());
    mac
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::fingerprint::{append_fingerprint, fingerprint_fits};
    use crate::wire::guard::{self, Transport};
    use data_encoding::HEXLOWER_PERMISSIVE;

    fn unhex(text: &str) -> Vec<u8> {
        let digits: String = text.split_whitespace().collect();
        HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).unwrap()
    }

    const REQUEST: &str = "000100582112a442b7e7a701bc34d686fa87dfae
        802200105354554e207465737420636c69656e74 002400046e0001ff
        80290008932ff9b151263b36 00060009 6576746a3a683676 59202020
        000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2 80280004e57a3bcf";
    const RESPONSE_V4: &str = "0101003c2112a442b7e7a701bc34d686fa87dfae
        8022000b7465737420766563746f7220 002000080001a147e112a643
        000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7 80280004c07d4c96";
    const RESPONSE_V6: &str = "010100482112a442b7e7a701bc34d686fa87dfae
        8022000b7465737420766563746f7220
        002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9
        00080014a382954e4be67bf11784c97c8292c275bfe3ed41 80280004c8fb0b4c";
    const LONG_TERM: &str = "000100602112a44278ad3433c6ad72c029da412e
        00060012e3839ee38388e383aae38383e382afe382b90000
        0015001c662f2f3439396b39353464364f4c33346f4c39465354767936347341
        0014000b6578616d706c652e6f726700
        00080014f67024656dd64a3e02b8e0712e85c9a28ca89666";

    #[test]
    fn rfc_5769_vectors_verify() {
        let short = IntegrityKey::short_term("VOkJxbRl1RmTxUk/WvJxBt");
        for text in [REQUEST, RESPONSE_V4, RESPONSE_V6] {
            let bytes = unhex(text);
            let view = guard::stun(&bytes, Transport::Udp).unwrap();
            assert!(fingerprint_fits(view));
            assert!(short.verifies(view));
            assert!(!IntegrityKey::short_term("another").verifies(view));
        }
        let bytes = unhex(LONG_TERM);
        let view = guard::stun(&bytes, Transport::Udp).unwrap();
        let user = "\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}";
        assert!(IntegrityKey::long_term(user, "example.org", "TheMatrIX").verifies(view));
        assert!(!IntegrityKey::long_term(user, "example.org", "TheMatrix").verifies(view));
    }

    /// RFC 8489 appendix B.1, as corrected by erratum 6268.
    const SHA256: &str = "000100902112a44278ad3433c6ad72c029da412e
        001e0020 4a3cf38fef6992bda952c67804 17da0f24819415569e60b205c46e41407f1704
        00150029 6f624d61744a6f733241414143662f2f3439396b39353464364f4c33346f4c39465354767936347341 000000
        0014000b 6578616d706c652e6f7267 00
        001d0004 00020000
        001c0020 b5c7bf005b6c52a21c51c5e892f81924136296cb927c43149309278cc6518e65";

    #[test]
    fn rfc_8489_vector_verifies() {
        let bytes = unhex(SHA256);
        let view = guard::stun(&bytes, Transport::Udp).unwrap();
        let user = "\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}";
        let key = IntegrityKey::long_term_sha256(user, "example.org", "TheMatrIX");
        assert!(key.verifies(view));
        assert!(!IntegrityKey::long_term_sha256(user, "example.org", "TheMatrix").verifies(view));
        assert!(!IntegrityKey::long_term(user, "example.org", "TheMatrIX").verifies(view));
        let hash = view.attributes().find(|(kind, _)| *kind == 0x001e).unwrap();
        assert_eq!(hash.1, userhash(user, "example.org"));
        let mut again = view.believed();
        key.append(&mut again);
        assert_eq!(again, bytes);
        // A tag that was cut short proves less than it should.
        let mut short = view.believed();
        short.extend_from_slice(&[0, 0x1c, 0, 16]);
        short.extend_from_slice(&bytes[bytes.len() - 32..bytes.len() - 16]);
        set_length(&mut short);
        assert!(!key.verifies(guard::stun(&short, Transport::Udp).unwrap()));
    }

    #[test]
    fn rfc_5769_answers_say_where_the_client_is() {
        use crate::wire::stun::{BindingOutcome, decode_binding};
        for (text, mapped) in
            [(RESPONSE_V4, "192.0.2.1:32853"), (RESPONSE_V6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853")]
        {
            let reply = decode_binding(&unhex(text), Transport::Udp).unwrap();
            assert_eq!(reply.outcome, BindingOutcome::Mapped(mapped.parse().unwrap()));
            assert_eq!(HEXLOWER_PERMISSIVE.encode(&reply.transaction.0), "b7e7a701bc34d686fa87dfae");
        }
    }

    #[test]
    fn two_other_implementations_make_and_accept_the_same_bytes() {
        use bytecodec::EncodeExt;
        use stun_codec::rfc5389::attributes::{
            Fingerprint, MessageIntegrity, Realm, Software, Username, XorMappedAddress,
        };
        use stun_codec::{Message, MessageClass, MessageEncoder, define_attribute_enums};
        use stun_types::message::{LongTermKeyCredentials, Message as Other, ShortTermCredentials};
        define_attribute_enums!(
            Attribute,
            AttributeDecoder,
            AttributeEncoder,
            [MessageIntegrity, Fingerprint, Realm, Software, Username, XorMappedAddress]
        );
        let (user, realm, password) = ("alice", "example.org", "secret");
        let name = Username::new(user.into()).unwrap();
        let place = Realm::new(realm.into()).unwrap();
        for (long, mapped) in
            [(true, "203.0.113.9:4000"), (false, "203.0.113.9:4000"), (true, "[2001:db8::9]:4000")]
        {
            let id = stun_codec::TransactionId::new([7; 12]);
            let method = stun_codec::rfc5389::methods::BINDING;
            let mut message: Message<Attribute> = Message::new(MessageClass::SuccessResponse, method, id);
            message.add_attribute(Software::new("odd".into()).unwrap());
            message.add_attribute(XorMappedAddress::new(mapped.parse().unwrap()));
            let mut ours = MessageEncoder::new().encode_into_bytes(message.clone()).unwrap();
            let (key, theirs, others) = if long {
                (
                    IntegrityKey::long_term(user, realm, password),
                    MessageIntegrity::new_long_term_credential(&message, &name, &place, password).unwrap(),
                    LongTermKeyCredentials::new(user.into(), password.into(), realm.into()).into(),
                )
            } else {
                (
                    IntegrityKey::short_term(password),
                    MessageIntegrity::new_short_term_credential(&message, password).unwrap(),
                    ShortTermCredentials::new(password.into()).into(),
                )
            };
            message.add_attribute(theirs);
            message.add_attribute(Fingerprint::new(&message).unwrap());
            let expected = MessageEncoder::new().encode_into_bytes(message).unwrap();
            key.append(&mut ours);
            append_fingerprint(&mut ours);
            assert_eq!(ours, expected);
            let view = guard::stun(&expected, Transport::Udp).unwrap();
            assert!(key.verifies(view) && fingerprint_fits(view));
            // This one refuses a wrong FINGERPRINT while it reads.
            assert!(Other::from_bytes(&ours).unwrap().validate_integrity(&others).is_ok());
        }
    }

    #[test]
    fn what_is_appended_verifies_and_any_change_shows() {
        let key = IntegrityKey::long_term("alice", "lab", "secret");
        let mut message = unhex("000100002112a442b7e7a701bc34d686fa87dfae");
        key.append(&mut message);
        append_fingerprint(&mut message);
        let view = guard::stun(&message, Transport::Udp).unwrap();
        assert!(key.verifies(view) && fingerprint_fits(view));
        for at in 0..message.len() {
            let mut bad = message.clone();
            bad[at] ^= 0x01;
            let passes = guard::stun(&bad, Transport::Udp).is_ok_and(|v| {
                v.integrity().is_some() && v.fingerprint().is_some() && key.verifies(v) && fingerprint_fits(v)
            });
            assert!(!passes, "byte {at}");
        }
    }
}
