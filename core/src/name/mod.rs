//! Names for nodes: `example.peer` in place of an address.
//!
//! The owner of a name publishes a [`Record`] on its brokers. The record is signed by the key of the owner's node id
//! and retained under a topic that is made of the name. There is no authority. The first node that takes a name on a
//! broker has it there. A node that resolved a name once holds on to the key it had ([`NamePin`]).
//!
//! The reasons: ADR 30 in docs/src/adr.

#[cfg(feature = "names")]
mod pins;
#[cfg(feature = "names")]
mod record;

use core::fmt;
use core::str::FromStr;

use blake2::digest::consts::U32;
use blake2::{Blake2s, Digest};
use data_encoding::BASE32_NOPAD;

use crate::address::{AddressError, AddressErrorKind, MAX_TEXT, PeerAddress};
use crate::identity::NodeId;

#[cfg(feature = "names")]
pub(crate) use pins::{Found, Pins};
#[cfg(feature = "names")]
pub use record::{Record, RecordError};

/// Query for a record, published under a name's topic: asks the name's owner. So brokers need not keep records.
pub(crate) const QUERY: &[u8] = b"?";

/// Most bytes of a record: version, node id, sequence and expiry; the name and the address with their lengths; the signature.
pub const MAX_RECORD: usize = (1 + 32 + 8 + 8) + (1 + Name::MAX) + (2 + MAX_TEXT) + 64;

/// Suffix of every name where an address could stand too.
pub const SUFFIX: &str = ".peer";

/// A name without [`SUFFIX`]: 1 to 63 of `a`-`z`, `0`-`9` and `-`. No `-` stands at the beginning or the end. Capital
/// letters are read as small ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    bytes: [u8; Name::MAX],
    len: u8,
}

/// Reason that a text is not a [`Name`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum NameTextError {
    /// Wrong length: not 1 to 63 characters; this many bytes.
    Length(usize),
    /// The character at this byte is none of those that a name has, or a hyphen at an end.
    Character(usize),
}

impl fmt::Display for NameTextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameTextError::Length(n) => write!(f, "a name has 1 to {} characters, not {n}", Name::MAX),
            NameTextError::Character(at) => {
                write!(f, "a name has letters a-z, digits, and hyphens within; at character {at} it has not")
            }
        }
    }
}

impl std::error::Error for NameTextError {}

impl Name {
    /// Most characters, as in a label of DNS.
    pub const MAX: usize = 63;

    /// Returns the name, without [`SUFFIX`].
    pub fn as_str(&self) -> &str {
        // Only ASCII was let in.
        core::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }

    /// Returns the topic of the record: `p2pd-name-` and the BLAKE2s-256 hash of `p2pd name` and the name in base32.
    /// Some managed brokers have topics of at most 64 letters, digits, `_` and `-`.
    pub fn topic(&self) -> String {
        let mut hash = Blake2s::<U32>::new();
        hash.update(b"p2pd name");
        hash.update(self.as_str());
        format!("p2pd-name-{}", BASE32_NOPAD.encode(&hash.finalize()).to_ascii_lowercase())
    }
}

/// Reads a name with [`SUFFIX`] or without.
impl FromStr for Name {
    type Err = NameTextError;
    fn from_str(text: &str) -> Result<Self, NameTextError> {
        let text = text.strip_suffix(SUFFIX).unwrap_or(text);
        if !(1..=Self::MAX).contains(&text.len()) {
            return Err(NameTextError::Length(text.len()));
        }
        let mut bytes = [0; Self::MAX];
        for (at, byte) in text.bytes().enumerate() {
            let inside = at > 0 && at + 1 < text.len();
            if !(byte.is_ascii_alphanumeric() || byte == b'-' && inside) {
                return Err(NameTextError::Character(at));
            }
            bytes[at] = byte.to_ascii_lowercase();
        }
        Ok(Name { bytes, len: text.len() as u8 })
    }
}

/// Writes the name with [`SUFFIX`], as people write it.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{SUFFIX}", self.as_str())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Peer to connect to: an address, or a name that ends with [`SUFFIX`].
#[derive(Clone, PartialEq, Eq, Debug)]
// Exhaustive: there are addresses, and names.
pub enum Target {
    /// Address of the peer.
    Address(Box<PeerAddress>),
    /// Name of the peer.
    Name(Name),
}

/// Reason that a text is not a [`Target`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TargetError {
    /// The text ends with [`SUFFIX`] and is no name.
    Name(NameTextError),
    /// The text does not end with [`SUFFIX`], and is no address.
    Address(AddressError),
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TargetError::Name(why) => write!(f, "{why}"),
            // What people write who mean a name.
            TargetError::Address(AddressError { kind: AddressErrorKind::Parts(n), .. }) => write!(
                f,
                "neither an address, which has four parts joined by '-' and not {n}, nor a name, which ends with {SUFFIX}"
            ),
            TargetError::Address(why) => write!(f, "{why}"),
        }
    }
}

impl std::error::Error for TargetError {
    /// Returns the fault of the name or of the address.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            TargetError::Name(why) => Some(why),
            TargetError::Address(why) => Some(why),
        }
    }
}

/// Reads a target. Blanks around a text are left out. So are those in an address: line breaks and indents of the text
/// that it is copied from.
impl FromStr for Target {
    type Err = TargetError;
    fn from_str(text: &str) -> Result<Self, TargetError> {
        let text = text.trim();
        if text.ends_with(SUFFIX) {
            return text.parse().map(Target::Name).map_err(TargetError::Name);
        }
        let joined: String = text.split_whitespace().collect();
        joined.parse().map(|a| Target::Address(Box::new(a))).map_err(TargetError::Address)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Address(address) => write!(f, "{address}"),
            Target::Name(name) => write!(f, "{name}"),
        }
    }
}

/// A value that can be connected to: a [`Target`], an address, a name, or the text of either.
pub trait ToTarget {
    /// Returns the value as a target.
    ///
    /// # Errors
    /// [`TargetError`] of a text.
    fn to_target(&self) -> Result<Target, TargetError>;
}

impl<T: ToTarget + ?Sized> ToTarget for &T {
    fn to_target(&self) -> Result<Target, TargetError> {
        (**self).to_target()
    }
}

impl ToTarget for Target {
    fn to_target(&self) -> Result<Target, TargetError> {
        Ok(self.clone())
    }
}

impl ToTarget for PeerAddress {
    fn to_target(&self) -> Result<Target, TargetError> {
        Ok(Target::Address(Box::new(self.clone())))
    }
}

impl ToTarget for Name {
    fn to_target(&self) -> Result<Target, TargetError> {
        Ok(Target::Name(*self))
    }
}

impl ToTarget for str {
    fn to_target(&self) -> Result<Target, TargetError> {
        self.parse()
    }
}

impl ToTarget for String {
    fn to_target(&self) -> Result<Target, TargetError> {
        self.parse()
    }
}

/// Pin of a name: its key when it was first seen, and the highest sequence number seen since. Keep the pin where the
/// node's key is kept. Hand it back by [`Node::pin_name`](crate::Node::pin_name) at the next start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: what a file of names holds.
pub struct NamePin {
    /// The name.
    pub name: Name,
    /// Node id of the owner.
    pub id: NodeId,
    /// Lowest sequence number that is believed.
    pub sequence: u64,
}

/// Reason that an operation on a name failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum NameError {
    /// No broker has a valid record of the name.
    NotFound,
    /// No broker could be asked.
    NoBroker,
    /// The owner gave the name up.
    Released,
    /// The name has another key than the pinned one. Its present owner is not the one of before.
    OtherKey {
        /// The pinned key.
        pinned: NodeId,
        /// The key that the name has now.
        found: NodeId,
    },
    /// Two nodes claim the name and none is pinned, so that nobody can tell who owns it.
    Contested {
        /// A claimant.
        one: NodeId,
        /// Second claimant.
        other: NodeId,
    },
    /// Every record found is older than one seen before: a broker keeps the newer one back.
    Stale {
        /// The highest sequence number found.
        found: u64,
        /// The highest sequence number seen before.
        known: u64,
    },
    /// The name cannot be registered: this node has it.
    Taken {
        /// Node that has the name.
        by: NodeId,
    },
    /// No broker kept our record.
    Refused,
    /// Limit reached of names that are asked for, registered or pinned.
    TooMany,
    /// The node was shut down.
    Shutdown,
    /// Names are not built in: the core's feature `names` is off.
    NotBuilt,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameError::NotFound => f.write_str("no broker knows the name"),
            NameError::NoBroker => f.write_str("no broker could be asked for the name"),
            NameError::Released => f.write_str("the name was given up by its owner"),
            NameError::OtherKey { pinned, found } => write!(
                f,
                "the name has another key than before: it was pinned to node {pinned}, and {found} has it now"
            ),
            NameError::Contested { one, other } => {
                write!(f, "two nodes claim the name, {one} and {other}, and none is known from before")
            }
            NameError::Stale { found, known } => write!(
                f,
                "only old records of the name were found: sequence {found}, after {known} was seen before"
            ),
            NameError::Taken { by } => write!(f, "the name is taken by node {by}"),
            NameError::Refused => f.write_str("no broker kept the record of the name"),
            NameError::TooMany => f.write_str("too many names at once"),
            NameError::Shutdown => f.write_str("the node was shut down"),
            NameError::NotBuilt => f.write_str("this build has no names"),
        }
    }
}

impl std::error::Error for NameError {}

/// News of a name.
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum NameNews {
    /// Address that the name leads to, after [`Node::resolve`](crate::Node::resolve).
    Resolved(Box<PeerAddress>),
    /// The name was not resolved.
    NotResolved(NameError),
    /// Registration: so many brokers keep our record. Said once for each [`Node::register`](crate::Node::register).
    Registered {
        /// Number of brokers.
        brokers: u8,
    },
    /// No broker is there. The name is registered when one comes.
    Waiting,
    /// The name is not registered, or no longer; it has to be registered anew.
    NotRegistered(NameError),
    /// A second node claims the name that we hold, on a broker that does not look whose a record is. Our record is
    /// published again there, at most once a minute.
    Contested {
        /// Node that claims the name.
        by: NodeId,
    },
    /// Release: so many brokers were told that the name is free.
    Released {
        /// Number of brokers.
        brokers: u8,
    },
    /// News to be kept: the key was seen for the first time, or a newer record.
    Pinned {
        /// Node id of the name's owner.
        id: NodeId,
        /// The highest sequence number seen.
        sequence: u64,
    },
}

#[cfg(test)]
mod tests {
    #[test]
    fn blanks_that_came_by_copying_are_left_out() {
        use super::{Target, TargetError};
        let id = crate::SecretKey::from_bytes([1; 32]).node_id();
        let address = format!("0-[0,192.0.2.1,192.0.2.1,5,1,1,0]-0-{id}");
        let target: Target = address.parse().unwrap();
        let (front, back) = address.split_at(40);
        for copied in [
            format!(" {address}\n"),
            format!("{front}\r\n    {back}\t"),
            format!("{front}\u{a0}\n{back}\u{2028}"),
            address.chars().map(|c| format!("{c}\n")).collect(),
        ] {
            assert_eq!(copied.parse(), Ok(target.clone()), "{copied:?}");
        }
        assert_eq!(" a.peer\r\n".parse::<Target>(), "a.peer".parse());
        // Two words are no name.
        assert!(matches!("a b.peer".parse::<Target>(), Err(TargetError::Name(_))));
        assert!(" \n".parse::<Target>().is_err());
    }

    use super::*;

    #[test]
    fn names_are_labels_of_dns_and_capitals_are_small() {
        for good in ["a", "example", "my-host-2", "0", &"n".repeat(63)] {
            let name: Name = good.parse().unwrap();
            assert_eq!((name.as_str(), name.to_string()), (good, format!("{good}.peer")));
            assert_eq!(name.to_string().parse(), Ok(name));
        }
        assert_eq!("ExAmple".parse::<Name>(), "example.peer".parse());
        let bad = |text: &str| text.parse::<Name>().unwrap_err();
        assert_eq!(bad(""), NameTextError::Length(0));
        assert_eq!(bad(".peer"), NameTextError::Length(0));
        assert_eq!(bad(&"n".repeat(64)), NameTextError::Length(64));
        for (text, at) in
            [("-a", 0), ("a-", 1), ("-", 0), ("a.b", 1), ("a b", 1), ("ab/", 2), ("m\u{e4}", 1), ("a\0", 1)]
        {
            assert_eq!(bad(text), NameTextError::Character(at), "{text}");
        }
    }

    #[test]
    fn topics_are_one_for_each_name_and_do_not_tell_it() {
        let topic = |text: &str| text.parse::<Name>().unwrap().topic();
        // BLAKE2s-256 of "p2pd nameexample", by Python's hashlib.
        assert_eq!(topic("example"), "p2pd-name-ow5nm7gofyjbuov7qfuimp7aa6jc4r35elqku4d7imabsvlmca4a");
        assert_ne!(topic("example"), topic("example1"));
        assert_eq!(topic("EXAMPLE.peer"), topic("example"));
    }

    #[test]
    fn targets_are_addresses_or_names() {
        let address = "None-0-0-x";
        assert_eq!(address.parse(), Ok(Target::Address(Box::new(address.parse().unwrap()))));
        assert_eq!("example.peer".to_target(), Ok(Target::Name("example".parse().unwrap())));
        assert_eq!(
            "example".parse::<Target>().unwrap_err().to_string(),
            "neither an address, which has four parts joined by '-' and not 1, nor a name, which ends with .peer"
        );
        assert_eq!("a_b.peer".parse::<Target>(), Err(TargetError::Name(NameTextError::Character(1))));
        for text in [address, "example.peer"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
    }
}
