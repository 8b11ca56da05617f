//! Identity of a node: an X25519 key pair. The node id is the public key.

use core::fmt;
use core::str::FromStr;

use blake2::digest::consts::U32;
use blake2::{Blake2s, Digest};
use data_encoding::BASE32_NOPAD;

use crate::address::NodeText;
#[cfg(p2pd_insecure_stand_in)]
use crate::stand_in::curve;
#[cfg(not(p2pd_insecure_stand_in))]
use crate::x25519 as curve;

/// A node's public key, written as 52 lower-case base32 letters and digits (RFC 4648 alphabet, no padding).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId([u8; 32]);

/// Error of a text or a byte string that is no [`NodeId`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum NodeIdError {
    /// Wrong length: not 52 characters; this many.
    Length(usize),
    /// The character at this offset is not in `a`-`z`, `2`-`7`, or the last one carries stray bits.
    Character(usize),
    /// No canonical X25519 public key (RFC 7748): the top bit is set, or the number is not below the prime.
    NotCanonical,
    /// A point of small order: with it anybody could open a message sealed for it (RFC 7748 section 6.1).
    SmallOrder,
}

impl fmt::Display for NodeIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NodeIdError::Length(n) => write!(f, "a node id has {} characters, not {n}", NodeId::TEXT_LEN),
            NodeIdError::Character(at) => {
                write!(f, "a node id is written in a-z and 2-7, at character {at} it is not")
            }
            NodeIdError::NotCanonical => f.write_str("not a canonical public key"),
            NodeIdError::SmallOrder => f.write_str("a public key of small order protects nothing"),
        }
    }
}

impl std::error::Error for NodeIdError {}

impl NodeId {
    /// Length of the text form.
    pub const TEXT_LEN: usize = 52;

    /// Returns the id with this public key.
    ///
    /// # Errors
    /// `NotCanonical` and `SmallOrder`, so that one key has one id and no key is worthless.
    pub fn from_bytes(key: [u8; 32]) -> Result<Self, NodeIdError> {
        const P_MINUS_1_LOW: u8 = 0xec;
        let high_all_ones = key[31] == 0x7f && key[1..31].iter().all(|b| *b == 0xff);
        if key[31] & 0x80 != 0 || (high_all_ones && key[0] > P_MINUS_1_LOW) {
            return Err(NodeIdError::NotCanonical);
        }
        // The canonical u-coordinates of order 1, 2, 4 and 8 on the curve and its twist:
        // 0, 1, p - 1 and two of order 8.
        const ORDER_8: [[u8; 32]; 2] = [
            [
                0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4,
                0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49,
                0xb8, 0x00,
            ],
            [
                0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef,
                0x5b, 0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f,
                0x11, 0x57,
            ],
        ];
        let zero_or_one = key[0] <= 1 && key[1..].iter().all(|b| *b == 0);
        let minus_one = high_all_ones && key[0] == P_MINUS_1_LOW;
        if zero_or_one || minus_one || ORDER_8.contains(&key) {
            return Err(NodeIdError::SmallOrder);
        }
        Ok(NodeId(key))
    }

    /// Returns the public key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the id as the last part of an address.
    pub fn to_node_text(&self) -> NodeText {
        // 52 base32 characters are always within what an address allows.
        NodeText::from_str(&self.to_string()).unwrap_or_else(|_| unreachable!())
    }

    /// Returns the topic on which the node's messages are published: a hash from which brokers cannot learn the key.
    pub fn topic(&self) -> Topic {
        let mut hash = Blake2s::<U32>::new();
        hash.update(b"p2pd topic");
        hash.update(self.0);
        Topic(hash.finalize().into())
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = BASE32_NOPAD.encode(&self.0);
        f.pad(&text.to_ascii_lowercase())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for NodeId {
    type Err = NodeIdError;
    fn from_str(text: &str) -> Result<Self, NodeIdError> {
        if text.len() != Self::TEXT_LEN {
            return Err(NodeIdError::Length(text.len()));
        }
        if let Some(at) = text.bytes().position(|b| !matches!(b, b'a'..=b'z' | b'2'..=b'7')) {
            return Err(NodeIdError::Character(at));
        }
        let bytes = BASE32_NOPAD
            .decode(text.to_ascii_uppercase().as_bytes())
            .map_err(|e| NodeIdError::Character(e.position))?;
        let key = <[u8; 32]>::try_from(bytes).map_err(|b| NodeIdError::Length(b.len()))?;
        NodeId::from_bytes(key)
    }
}

impl TryFrom<NodeText> for NodeId {
    type Error = NodeIdError;
    fn try_from(text: NodeText) -> Result<Self, NodeIdError> {
        text.as_str().parse()
    }
}

/// The hash under which a node listens on brokers: BLAKE2s-256 of `p2pd topic` and the node id's bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Topic(pub(crate) [u8; 32]);

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

/// A node's private key.
///
/// Written as one line, `p2pd-secret-key-1 ` and 64 hexadecimal digits; keep the file at mode 0600.
#[derive(Clone)]
pub struct SecretKey {
    secret: [u8; 32],
    id: NodeId,
}

/// Error of a key file's text that is no [`SecretKey`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SecretKeyError {
    /// The text does not begin with `p2pd-secret-key-1 `.
    Header,
    /// Wrong length after the header: not 64 hexadecimal digits; this many characters.
    Length(usize),
    /// The character at this byte offset of the text is not a hexadecimal digit.
    Digit(usize),
    /// Text follows the key, at this byte offset.
    Trailing(usize),
}

impl fmt::Display for SecretKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretKeyError::Header => {
                write!(f, "a key file begins with \"{}\"", SecretKey::HEADER.trim_end())
            }
            SecretKeyError::Length(n) => write!(f, "the key has {n} characters, not 64"),
            SecretKeyError::Digit(at) => write!(f, "not a hexadecimal digit, at byte {at}"),
            SecretKeyError::Trailing(at) => write!(f, "unexpected text after the key, at byte {at}"),
        }
    }
}

impl std::error::Error for SecretKeyError {}

impl SecretKey {
    const HEADER: &'static str = "p2pd-secret-key-1 ";

    /// Returns the key with these 32 secret bytes, which must come from the system's random source.
    pub fn from_bytes(secret: [u8; 32]) -> Self {
        let id = NodeId(curve::public_key(&secret));
        SecretKey { secret, id }
    }

    /// Returns the node id that belongs to the key.
    pub fn node_id(&self) -> NodeId {
        self.id
    }

    /// Returns the text of a key file, with a final newline.
    pub fn to_file_text(&self) -> String {
        format!("{}{}\n", Self::HEADER, HEX.encode(&self.secret))
    }

    /// Reads the text of a key file.
    ///
    /// # Errors
    /// Kind and place of the error; never the text, which may be a secret.
    pub fn from_file_text(text: &str) -> Result<Self, SecretKeyError> {
        let rest = text.strip_prefix(Self::HEADER).ok_or(SecretKeyError::Header)?;
        let start = Self::HEADER.len();
        let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
        if !after.is_empty() {
            return Err(SecretKeyError::Trailing(start + line.len() + 1));
        }
        if line.len() != 64 {
            return Err(SecretKeyError::Length(line.len()));
        }
        let bytes = HEX.decode(line.as_bytes()).map_err(|e| SecretKeyError::Digit(start + e.position))?;
        let secret = <[u8; 32]>::try_from(bytes).map_err(|b| SecretKeyError::Length(b.len()))?;
        Ok(Self::from_bytes(secret))
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.secret
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.id)
    }
}

const HEX: data_encoding::Encoding = data_encoding::HEXLOWER;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> SecretKey {
        SecretKey::from_bytes([n; 32])
    }

    #[test]
    fn rfc_7748_section_6_1_public_key() {
        let unhex = |t: &str| <[u8; 32]>::try_from(HEX.decode(t.as_bytes()).unwrap()).unwrap();
        let secret = unhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
        let bob = SecretKey::from_bytes(secret);
        assert_eq!(
            bob.node_id().as_bytes(),
            &unhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
        );
        assert_eq!(bob.node_id().to_string().parse::<NodeId>(), Ok(bob.node_id()));
    }

    #[test]
    fn ids_are_strict() {
        let text = key(7).node_id().to_string();
        assert_eq!(text[1..].parse::<NodeId>(), Err(NodeIdError::Length(51)));
        assert_eq!(text.to_uppercase().parse::<NodeId>().map_err(|_| ()), Err(()));
        assert_eq!(format!("{}1", &text[..51]).parse::<NodeId>(), Err(NodeIdError::Character(51)));
        assert_eq!(format!("{}z", &text[..51]).parse::<NodeId>(), Err(NodeIdError::Character(51)));
        assert_eq!(NodeId::from_bytes([0; 32]), Err(NodeIdError::SmallOrder));
        let mut one = [0; 32];
        one[0] = 1;
        assert_eq!(NodeId::from_bytes(one), Err(NodeIdError::SmallOrder));
        let mut minus_one = [0xff; 32];
        minus_one[0] = 0xec;
        minus_one[31] = 0x7f;
        assert_eq!(NodeId::from_bytes(minus_one), Err(NodeIdError::SmallOrder));
        minus_one[0] = 0xed;
        assert_eq!(NodeId::from_bytes(minus_one), Err(NodeIdError::NotCanonical));
        assert_eq!(NodeId::from_bytes([0xff; 32]), Err(NodeIdError::NotCanonical));
    }

    #[test]
    fn key_files_round_trip_and_errors_say_where() {
        let text = key(9).to_file_text();
        assert_eq!(SecretKey::from_file_text(&text).map(|k| k.node_id()), Ok(key(9).node_id()));
        assert_eq!(SecretKey::from_file_text("").err(), Some(SecretKeyError::Header));
        assert_eq!(SecretKey::from_file_text(&text[..40]).err(), Some(SecretKeyError::Length(22)));
        let bad = text.replacen("09", "0g", 1);
        assert_eq!(SecretKey::from_file_text(&bad).err(), Some(SecretKeyError::Digit(19)));
        let more = format!("{text}x");
        assert_eq!(SecretKey::from_file_text(&more).err(), Some(SecretKeyError::Trailing(83)));
        assert!(!format!("{:?}", key(9)).contains("0909"));
    }

    #[test]
    fn topics_differ_and_hide_the_key() {
        let (a, b) = (key(1).node_id(), key(2).node_id());
        assert_ne!(a.topic(), b.topic());
        assert_eq!(a.topic().to_string().len(), 52);
        assert_ne!(a.topic().to_string(), a.to_string());
    }
}
