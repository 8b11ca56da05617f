//! Reading an address.

use core::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smallvec::SmallVec;

use super::{MAX_BROKERS, MAX_INTERFACES, MAX_TEXT, NodeText, PeerAddress, PeerInterface, is_dialable};
use crate::nat::{Delta, DeltaType, NatType};

/// Section of an address: the interfaces of one address family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: there are two address families.
pub enum Section {
    /// The second part of an address.
    Ipv4,
    /// The third part.
    Ipv6,
}

/// A field of an address; interfaces are counted from 1 within their section.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Field {
    /// The text as a whole.
    Address,
    /// The broker ids.
    Brokers,
    /// A section of interfaces.
    Interfaces(Section),
    /// An interface as a whole.
    Interface(Section, u8),
    /// An interface's index.
    Index(Section, u8),
    /// An interface's external address.
    External(Section, u8),
    /// An interface's internal address.
    Internal(Section, u8),
    /// An interface's port.
    Port(Section, u8),
    /// An interface's NAT type.
    NatType(Section, u8),
    /// An interface's delta type.
    DeltaType(Section, u8),
    /// An interface's delta value.
    DeltaValue(Section, u8),
    /// The node id.
    Node,
}

/// Error of a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AddressErrorKind {
    /// Length over [`MAX_TEXT`] bytes.
    TooLong,
    /// Number of parts joined by `-` that is not four; this many.
    Parts(usize),
    /// Number of entries over the limit; the most allowed.
    TooMany(usize),
    /// No decimal number without sign, space or leading zero.
    NotANumber,
    /// Outside this range.
    Range(u16, u16),
    /// Repeated entry.
    Duplicate,
    /// Brackets are missing.
    Brackets,
    /// Number of fields that is not seven; this many.
    Fields(usize),
    /// No IP address of the section's family.
    NotAnIp,
    /// An address that no single host has: unspecified, multicast, broadcast.
    NotAHost,
    /// No node id: not 1 to 64 ASCII letters and digits.
    NotANodeId,
}

/// Error of a text that is no address: the field, the byte and the kind of the error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct AddressError {
    /// The field.
    pub field: Field,
    /// Offset in the text: the start of the wrong part, or the wrong byte of a node id.
    pub offset: usize,
    /// Kind of the error.
    pub kind: AddressErrorKind,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}, at byte {}", self.field, self.kind, self.offset)
    }
}

impl std::error::Error for AddressError {}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Section::Ipv4 => "IPv4",
            Section::Ipv6 => "IPv6",
        })
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Field::Address => f.write_str("address"),
            Field::Brokers => f.write_str("broker ids"),
            Field::Interfaces(s) => write!(f, "{s} interfaces"),
            Field::Interface(s, n) => write!(f, "{s} interface {n}"),
            Field::Index(s, n) => write!(f, "{s} interface {n}, index"),
            Field::External(s, n) => write!(f, "{s} interface {n}, external address"),
            Field::Internal(s, n) => write!(f, "{s} interface {n}, internal address"),
            Field::Port(s, n) => write!(f, "{s} interface {n}, port"),
            Field::NatType(s, n) => write!(f, "{s} interface {n}, NAT type"),
            Field::DeltaType(s, n) => write!(f, "{s} interface {n}, delta type"),
            Field::DeltaValue(s, n) => write!(f, "{s} interface {n}, delta value"),
            Field::Node => f.write_str("node id"),
        }
    }
}

impl fmt::Display for AddressErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddressErrorKind::TooLong => write!(f, "longer than {MAX_TEXT} bytes"),
            AddressErrorKind::Parts(n) => write!(f, "four parts joined by '-' are needed, there are {n}"),
            AddressErrorKind::TooMany(most) => write!(f, "at most {most} are allowed"),
            AddressErrorKind::NotANumber => f.write_str("not a plain decimal number"),
            AddressErrorKind::Range(low, high) => write!(f, "not in {low} to {high}"),
            AddressErrorKind::Duplicate => f.write_str("said twice"),
            AddressErrorKind::Brackets => f.write_str("not in square brackets"),
            AddressErrorKind::Fields(n) => write!(f, "seven fields are needed, there are {n}"),
            AddressErrorKind::NotAnIp => f.write_str("not an IP address of this family"),
            AddressErrorKind::NotAHost => f.write_str("not the address of one host"),
            AddressErrorKind::NotANodeId => {
                write!(f, "1 to {} ASCII letters and digits are needed", NodeText::MAX)
            }
        }
    }
}

/// A piece of the text and where it begins.
#[derive(Clone, Copy)]
struct Piece<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Piece<'a> {
    fn split(self, by: char) -> impl Iterator<Item = Piece<'a>> + Clone {
        let start = self.at;
        let mut at = start;
        self.text.split(by).map(move |text| {
            let piece = Piece { text, at };
            at += text.len() + by.len_utf8();
            piece
        })
    }

    fn err<T>(self, field: Field, kind: AddressErrorKind) -> Result<T, AddressError> {
        Err(AddressError { field, offset: self.at, kind })
    }

    fn number(self, field: Field, low: u16, high: u16) -> Result<u16, AddressError> {
        let digits = !self.text.is_empty() && self.text.bytes().all(|b| b.is_ascii_digit());
        if !digits || (self.text.len() > 1 && self.text.starts_with('0')) {
            return self.err(field, AddressErrorKind::NotANumber);
        }
        match self.text.parse::<u16>() {
            Ok(n) if (low..=high).contains(&n) => Ok(n),
            _ => self.err(field, AddressErrorKind::Range(low, high)),
        }
    }

    /// Reads a number from 1 to `high`, and returns the value it stands for.
    fn kind<T>(self, field: Field, high: u16, of: fn(u8) -> Option<T>) -> Result<T, AddressError> {
        match of(self.number(field, 1, high)? as u8) {
            Some(kind) => Ok(kind),
            None => self.err(field, AddressErrorKind::Range(1, high)),
        }
    }

    fn ip(self, field: Field, section: Section) -> Result<IpAddr, AddressError> {
        let ip = match section {
            Section::Ipv4 => self.text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            Section::Ipv6 => self.text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        };
        match ip {
            Some(ip) if is_dialable(ip) => Ok(ip),
            Some(_) => self.err(field, AddressErrorKind::NotAHost),
            None => self.err(field, AddressErrorKind::NotAnIp),
        }
    }
}

pub(super) fn address(text: &str) -> Result<PeerAddress, AddressError> {
    let whole = Piece { text, at: 0 };
    if text.len() > MAX_TEXT {
        return whole.err(Field::Address, AddressErrorKind::TooLong);
    }
    let parts: SmallVec<[Piece<'_>; 4]> = whole.split('-').collect();
    let [first, second, third, fourth] = parts[..] else {
        return whole.err(Field::Address, AddressErrorKind::Parts(parts.len()));
    };
    Ok(PeerAddress {
        brokers: brokers(first)?,
        v4: interfaces(second, Section::Ipv4)?,
        v6: interfaces(third, Section::Ipv6)?,
        node: node(fourth.text, fourth.at)?,
    })
}

pub(super) fn node(text: &str, at: usize) -> Result<NodeText, AddressError> {
    let wrong = |offset| AddressError { field: Field::Node, offset, kind: AddressErrorKind::NotANodeId };
    if let Some(bad) = text.bytes().position(|b| !b.is_ascii_alphanumeric()) {
        return Err(wrong(at + bad));
    }
    let mut bytes = [0; NodeText::MAX];
    match bytes.get_mut(..text.len()) {
        Some(room) if !text.is_empty() => room.copy_from_slice(text.as_bytes()),
        _ => return Err(wrong(at)),
    }
    Ok(NodeText { bytes, len: text.len() as u8 })
}

fn brokers(part: Piece<'_>) -> Result<SmallVec<[u16; MAX_BROKERS]>, AddressError> {
    let mut ids = SmallVec::new();
    if part.text == "None" {
        return Ok(ids);
    }
    for piece in part.split(',') {
        let id = piece.number(Field::Brokers, 0, u16::MAX)?;
        if ids.contains(&id) {
            return piece.err(Field::Brokers, AddressErrorKind::Duplicate);
        }
        if ids.len() == MAX_BROKERS {
            return piece.err(Field::Brokers, AddressErrorKind::TooMany(MAX_BROKERS));
        }
        ids.push(id);
    }
    Ok(ids)
}

fn interfaces(part: Piece<'_>, section: Section) -> Result<SmallVec<[PeerInterface; 1]>, AddressError> {
    let mut all: SmallVec<[PeerInterface; 1]> = SmallVec::new();
    if part.text == "0" {
        return Ok(all);
    }
    for (n, piece) in part.split('|').enumerate() {
        if n == MAX_INTERFACES {
            return piece.err(Field::Interfaces(section), AddressErrorKind::TooMany(MAX_INTERFACES));
        }
        let ordinal = n as u8 + 1;
        let (interface, index) = interface(piece, section, ordinal)?;
        if all.iter().any(|other| other.index == interface.index) {
            return index.err(Field::Index(section, ordinal), AddressErrorKind::Duplicate);
        }
        all.push(interface);
    }
    Ok(all)
}

/// Reads an interface. Returns its index's place, too.
fn interface(piece: Piece<'_>, s: Section, n: u8) -> Result<(PeerInterface, Piece<'_>), AddressError> {
    let Some(inner) = piece.text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) else {
        return piece.err(Field::Interface(s, n), AddressErrorKind::Brackets);
    };
    let inner = Piece { text: inner, at: piece.at + 1 };
    let fields: SmallVec<[Piece<'_>; 7]> = inner.split(',').collect();
    let [index, external, internal, port, nat, kind, value] = fields[..] else {
        return inner.err(Field::Interface(s, n), AddressErrorKind::Fields(fields.len()));
    };
    // In the order of the text, so that the first wrong field is the one named.
    let interface = PeerInterface {
        index: index.number(Field::Index(s, n), 0, u16::MAX)?,
        external: external.ip(Field::External(s, n), s)?,
        internal: internal.ip(Field::Internal(s, n), s)?,
        port: port.number(Field::Port(s, n), 1, u16::MAX)?,
        nat: nat.kind(Field::NatType(s, n), 7, NatType::from_number)?,
        delta: Delta {
            kind: kind.kind(Field::DeltaType(s, n), 6, DeltaType::from_number)?,
            value: value.number(Field::DeltaValue(s, n), 0, u16::MAX)?,
        },
    };
    Ok((interface, index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::{Arbitrary, Gen, QuickCheck};

    fn error(text: &str) -> (Field, usize, AddressErrorKind) {
        let e = text.parse::<PeerAddress>().expect_err(text);
        assert!(!e.to_string().is_empty());
        (e.field, e.offset, e.kind)
    }

    #[test]
    fn the_documents_example_means_what_they_say() {
        let text = "0,1-[0,8.8.8.8,192.168.21.21,58959,3,2,0]-0-zmUGXPOFxBUuToh";
        let address: PeerAddress = text.parse().unwrap();
        assert_eq!(address.to_string(), text);
        assert_eq!(address.brokers(), [0, 1]);
        assert_eq!(address.node().as_str(), "zmUGXPOFxBUuToh");
        assert!(address.v6().is_empty());
        let expected = PeerInterface {
            index: 0,
            external: "8.8.8.8".parse().unwrap(),
            internal: "192.168.21.21".parse().unwrap(),
            port: 58959,
            nat: NatType::FullCone,
            delta: Delta { kind: DeltaType::Equal, value: 0 },
        };
        assert_eq!(address.v4(), [expected]);
    }

    #[test]
    fn vectors_that_are_addresses_reprint_exactly() {
        for text in [
            "0,1-[0,8.8.8.8,192.168.21.200,33334,2,5,1]-0-kjCimIvudifJh7X",
            "0-0-0-x",
            "None-0-0-x",
            "0-[0,8.8.8.8,10.0.0.1,1,7,6,65535]-0-x",
            "0-[0,8.8.8.8,10.0.0.1,80,1,1,0]|[1,9.9.9.9,10.0.0.1,81,5,6,0]-0-x",
            "0-0-[0,2402:1f00:8101:83f::1,fe80::1,10001,1,1,0]-x",
            // P2PD drops 9 because its list has five brokers. Here it is a stable id, known or not.
            "9,1-[0,8.8.8.8,10.0.0.1,80,1,1,0]-0-x",
        ] {
            assert_eq!(text.parse::<PeerAddress>().map(|a| a.to_string()), Ok(text.into()));
        }
        let shouting = "0-0-[0,2402:1F00:0::1,FE80:0:0::1,10001,1,1,0]-x".parse::<PeerAddress>().unwrap();
        assert_eq!(shouting.to_string(), "0-0-[0,2402:1f00::1,fe80::1,10001,1,1,0]-x");
    }

    #[test]
    fn vectors_that_are_none_name_field_and_byte() {
        use AddressErrorKind::*;
        use Section::*;
        let cases: &[(&str, Field, usize, AddressErrorKind)] = &[
            ("[0,1.3.3.7,10.0.0.1,80,1,1,0]-0-looongcatislong", Field::Address, 0, Parts(3)),
            ("", Field::Address, 0, Parts(1)),
            ("0,1,2-[0,8.8.8.8,10.0.0.1,80,1,1,0]-0-x", Field::Brokers, 4, TooMany(2)),
            ("1,1-0-0-x", Field::Brokers, 2, Duplicate),
            ("-[0,8.8.8.8,10.0.0.1,80,1,1,0]-0-x", Field::Brokers, 0, NotANumber),
            ("a-0-0-x", Field::Brokers, 0, NotANumber),
            ("65536-0-0-x", Field::Brokers, 0, Range(0, 65535)),
            ("0-[0,8.8.8.8,10.0.0.1,0,1,1,0]-0-x", Field::Port(Ipv4, 1), 22, Range(1, 65535)),
            ("0-[0,8.8.8.8,10.0.0.1,65536,1,1,0]-0-x", Field::Port(Ipv4, 1), 22, Range(1, 65535)),
            ("0-[0,8.8.8.8,10.0.0.1,080,1,1,0]-0-x", Field::Port(Ipv4, 1), 22, NotANumber),
            ("0-[0,8.8.8.8,10.0.0.1,+80,1,1,0]-0-x", Field::Port(Ipv4, 1), 22, NotANumber),
            ("0-[0,8.8.8.8,10.0.0.1,80,0,1,0]-0-x", Field::NatType(Ipv4, 1), 25, Range(1, 7)),
            ("0-[0,8.8.8.8,10.0.0.1,80,8,1,0]-0-x", Field::NatType(Ipv4, 1), 25, Range(1, 7)),
            ("0-[0,8.8.8.8,10.0.0.1,80,1,7,0]-0-x", Field::DeltaType(Ipv4, 1), 27, Range(1, 6)),
            ("0-[0,8.8.8.8,10.0.0.1,80,1,1,65536]-0-x", Field::DeltaValue(Ipv4, 1), 29, Range(0, 65535)),
            ("0-[0,8.8.8,10.0.0.1,80,1,1,0]-0-x", Field::External(Ipv4, 1), 5, NotAnIp),
            ("0-[0, 8.8.8.8,10.0.0.1,80,1,1,0]-0-x", Field::External(Ipv4, 1), 5, NotAnIp),
            ("0-[0,fe80::1,10.0.0.1,80,1,1,0]-0-x", Field::External(Ipv4, 1), 5, NotAnIp),
            ("0-[0,0.0.0.0,10.0.0.1,80,1,1,0]-0-x", Field::External(Ipv4, 1), 5, NotAHost),
            ("0-[0,8.8.8.8,224.0.0.1,80,1,1,0]-0-x", Field::Internal(Ipv4, 1), 13, NotAHost),
            ("0-0-[0,::ffff:1.2.3.4,fe80::1,80,1,1,0]-x", Field::External(Ipv6, 1), 7, NotAHost),
            ("0-0-[0,fe80::1%eth0,fe80::1,80,1,1,0]-x", Field::External(Ipv6, 1), 7, NotAnIp),
            ("0-[01,8.8.8.8,10.0.0.1,80,9,9,0]-0-x", Field::Index(Ipv4, 1), 3, NotANumber),
            ("0-[0,255.255.255.255,10.0.0.1,80,1,1,0]-0-x", Field::External(Ipv4, 1), 5, NotAHost),
            ("0-0-[0,8.8.8.8,fe80::1,80,1,1,0]-x", Field::External(Ipv6, 1), 7, NotAnIp),
            ("0-{0,8.8.8.8,10.0.0.1,80,1,1,0}-0-x", Field::Interface(Ipv4, 1), 2, Brackets),
            ("0-[0,8.8.8.8,10.0.0.1,80,1,1]-0-x", Field::Interface(Ipv4, 1), 3, Fields(6)),
            ("0--0-x", Field::Interface(Ipv4, 1), 2, Brackets),
            ("0-[0,8.8.8.8,10.0.0.1,80,1,1,-1]-0-x", Field::Address, 0, Parts(5)),
            ("0-0-0-", Field::Node, 6, NotANodeId),
            ("0-0-0-a b", Field::Node, 7, NotANodeId),
        ];
        for (text, field, offset, kind) in cases {
            assert_eq!(error(text), (*field, *offset, *kind), "{text}");
        }
        let one = "[0,8.8.8.8,10.0.0.1,80,1,1,0]";
        let twice = format!("0-{one}|{one}-0-x");
        assert_eq!(error(&twice), (Field::Index(Ipv4, 2), 33, Duplicate));
        let four = format!("0-{one}|{}|{}|{one}-0-x", one.replace("[0", "[1"), one.replace("[0", "[2"));
        assert_eq!(error(&four).2, TooMany(3));
        assert_eq!(error(&format!("0-0-0-{}", "x".repeat(65))).2, NotANodeId);
        assert_eq!(error(&"x".repeat(MAX_TEXT + 1)).2, TooLong);
        assert_eq!(
            "0-[0,8.8.8.8,10.0.0.1,0,1,1,0]-0-x".parse::<PeerAddress>().unwrap_err().to_string(),
            "IPv4 interface 1, port: not in 1 to 65535, at byte 22"
        );
    }

    #[derive(Clone, Debug)]
    struct Any(PeerAddress);

    impl Arbitrary for Any {
        fn arbitrary(g: &mut Gen) -> Self {
            let ip = |g: &mut Gen, v4: bool| loop {
                let bits = u128::arbitrary(g);
                let ip =
                    if v4 { IpAddr::from(Ipv4Addr::from(bits as u32)) } else { Ipv6Addr::from(bits).into() };
                if is_dialable(ip) {
                    return ip;
                }
            };
            let mut interfaces = Vec::new();
            for v4 in [true, false] {
                for index in 0..u16::arbitrary(g) % 4 {
                    interfaces.push(PeerInterface {
                        index: index * 7,
                        external: ip(g, v4),
                        internal: ip(g, v4),
                        port: u16::arbitrary(g).max(1),
                        nat: NatType::from_number(u8::arbitrary(g) % 7 + 1).unwrap(),
                        delta: Delta {
                            kind: DeltaType::from_number(u8::arbitrary(g) % 6 + 1).unwrap(),
                            value: u16::arbitrary(g),
                        },
                    });
                }
            }
            let first = u16::arbitrary(g);
            let brokers = [first, first.wrapping_add(1)];
            let count = usize::arbitrary(g) % 3;
            let length = usize::arbitrary(g) % 64 + 1;
            let node: String =
                (0..length).map(|_| char::from(*g.choose(b"0123456789abcxyzABCXYZ").unwrap())).collect();
            Any(PeerAddress::new(&brokers[..count], &interfaces, node.parse().unwrap()).unwrap())
        }
    }

    #[test]
    fn what_is_printed_reads_back() {
        fn round_trip(any: Any) -> bool {
            any.0.to_string().parse() == Ok(any.0)
        }
        QuickCheck::new().tests(2_000).quickcheck(round_trip as fn(Any) -> bool);
    }

    #[test]
    fn letters_of_several_bytes_are_refused_where_they_stand() {
        let text = "0,1-[0,8.8.8.8,192.168.21.21,58959,3,2,0]-0-zmUGXPOFxBUuToh";
        for at in 0..text.len() {
            let changed = format!("{}\u{e9}{}", &text[..at], &text[at + 1..]);
            let e = changed.parse::<PeerAddress>().expect_err(&changed);
            assert!(e.offset <= changed.len() && changed.is_char_boundary(e.offset), "{changed}: {e}");
        }
    }

    #[test]
    fn parts_that_make_no_address_are_refused() {
        let node: NodeText = "x".parse().unwrap();
        let good: PeerAddress =
            "0-[0,8.8.8.8,10.0.0.1,80,1,1,0]-[0,fe80::2,fe80::1,81,1,1,0]-x".parse().unwrap();
        let (v4, v6) = (good.v4()[0], good.v6()[0]);
        assert_eq!(PeerAddress::new(&[0], &[v6, v4], node), Ok(good), "families sorted apart");
        let kind = |brokers: &[u16], interfaces: &[PeerInterface]| {
            let e = PeerAddress::new(brokers, interfaces, node).unwrap_err();
            (e.field, e.offset, e.kind)
        };
        let port = Field::Port(Section::Ipv4, 1);
        assert_eq!(
            kind(&[], &[PeerInterface { port: 0, ..v4 }]),
            (port, 0, AddressErrorKind::Range(1, 65535))
        );
        let mixed = PeerInterface { external: v6.external, ..v4 };
        assert_eq!(kind(&[], &[mixed]).2, AddressErrorKind::NotAnIp);
        assert_eq!(kind(&[], &[v4, v4]).2, AddressErrorKind::Duplicate);
        assert_eq!(kind(&[3, 3], &[]).2, AddressErrorKind::Duplicate);
        assert_eq!(kind(&[1, 2, 3], &[]).2, AddressErrorKind::TooMany(2));
        let four = [0, 1, 2, 3].map(|index| PeerInterface { index, ..v6 });
        assert_eq!(kind(&[], &four).2, AddressErrorKind::TooMany(3));
    }

    #[test]
    fn any_changed_byte_is_refused_or_reprints_the_same() {
        fn changed(any: Any, at: usize, to: u8) -> bool {
            let mut bytes = any.0.to_string().into_bytes();
            let at = at % bytes.len();
            bytes[at] = to & 0x7f;
            let Ok(text) = String::from_utf8(bytes) else { return false };
            match text.parse::<PeerAddress>() {
                Ok(address) => address.to_string().parse() == Ok(address),
                Err(e) => e.offset <= text.len(),
            }
        }
        QuickCheck::new().tests(5_000).quickcheck(changed as fn(Any, usize, u8) -> bool);
    }
}
