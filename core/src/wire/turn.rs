//! TURN's messages (RFC 8656 sections 17 and 18), with the attributes of RFC 8489's long-term credentials.
//!
//! Requests and their answers go through `stun_codec`, behind the guard. The attributes it does not know (USERHASH,
//! PASSWORD-ALGORITHM, PASSWORD-ALGORITHMS) and integrity are ours. Send and Data indications carry the user's bytes.
//! They are written and read here, in one pass and without a second copy of the message.

use core::time::Duration;
use std::net::{IpAddr, SocketAddr};

use bytecodec::{DecodeExt, EncodeExt};
use bytes::{BufMut, Bytes, BytesMut};
use stun_codec::rfc5389::attributes::{AlternateServer, ErrorCode, Nonce, Realm, Username, XorMappedAddress};
use stun_codec::rfc5766::attributes::{
    ChannelNumber, Lifetime, RequestedTransport, XorPeerAddress, XorRelayAddress,
};
use stun_codec::rfc5766::methods;
use stun_codec::rfc8656::attributes::{AdditionalAddressFamily, AddressFamily, RequestedAddressFamily};
use stun_codec::{Message, MessageClass, MessageDecoder, MessageEncoder, Method, define_attribute_enums};

use super::Family;
use super::fingerprint::{append_fingerprint, set_length};
use super::guard::{Class, MAGIC_COOKIE, STUN_HEADER, StunView};
use super::integrity::IntegrityKey;
use super::stun::TransactionId;

define_attribute_enums!(
    Attribute,
    AttributeDecoder,
    AttributeEncoder,
    [
        AdditionalAddressFamily,
        AlternateServer,
        ChannelNumber,
        ErrorCode,
        Lifetime,
        Nonce,
        Realm,
        RequestedAddressFamily,
        RequestedTransport,
        Username,
        XorMappedAddress,
        XorPeerAddress,
        XorRelayAddress
    ]
);

const USERHASH: u16 = 0x001e;
const PASSWORD_ALGORITHM: u16 = 0x001d;
const PASSWORD_ALGORITHMS: u16 = 0x8002;
const XOR_PEER_ADDRESS: u16 = 0x0012;
const DATA: u16 = 0x0013;

/// Type fields of indications.
const SEND_INDICATION: u16 = 0x0016;
/// The Data method.
const DATA_METHOD: u16 = 0x007;
/// Protocol number of UDP, for REQUESTED-TRANSPORT.
const UDP: u8 = 17;

/// Kind of a request, with its arguments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// Asks for a relayed UDP address of this family, for so many seconds.
    Allocate {
        /// Family of the relayed address.
        family: Family,
        /// LIFETIME.
        lifetime: u32,
    },
    /// Keeps the allocation for so many seconds from now; 0 gives it up.
    Refresh {
        /// LIFETIME.
        lifetime: u32,
    },
    /// Lets this peer's datagrams through, for 300 s. Most servers ignore the port, which may be 0.
    Permission(SocketAddr),
    /// Binds a channel, to send to and receive from this peer, for 600 s.
    Channel {
        /// The channel's number.
        number: u16,
        /// The peer.
        peer: SocketAddr,
    },
}

impl Ask {
    fn method(self) -> Method {
        match self {
            Ask::Allocate { .. } => methods::ALLOCATE,
            Ask::Refresh { .. } => methods::REFRESH,
            Ask::Permission(_) => methods::CREATE_PERMISSION,
            Ask::Channel { .. } => methods::CHANNEL_BIND,
        }
    }

    /// Returns true if a message with this method answers the request.
    pub fn has_method(self, method: u16) -> bool {
        self.method().as_u16() == method
    }
}

/// Proof of the requester's identity (RFC 8489 section 9.2).
#[derive(Clone, Debug)]
pub struct Proof {
    /// User name.
    pub user: User,
    /// The server's realm.
    pub realm: Box<str>,
    /// The server's latest nonce.
    pub nonce: Box<str>,
    /// The server's PASSWORD-ALGORITHMS, to be sent back as they came, and the number of the one in use.
    pub algorithms: Option<(Box<[u8]>, u16)>,
    /// Key that follows from the fields above.
    pub key: IntegrityKey,
}

/// A user's name, or its hash where the server hides names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum User {
    /// USERNAME.
    Name(Box<str>),
    /// USERHASH.
    Hash([u8; 32]),
}

/// Builds a request with FINGERPRINT. `None` where name, realm or nonce is longer than their attributes may be.
pub fn request(ask: Ask, transaction: TransactionId, proof: Option<&Proof>) -> Option<Bytes> {
    let id = stun_codec::TransactionId::new(transaction.0);
    let mut message: Message<Attribute> = Message::new(MessageClass::Request, ask.method(), id);
    match ask {
        Ask::Allocate { family, lifetime } => {
            message.add_attribute(RequestedTransport::new(UDP));
            message.add_attribute(Lifetime::from_u32(lifetime));
            // IPv4 is what a server takes without, also one that does not know the attribute.
            match family {
                Family::V4 => {}
                Family::V6 => message.add_attribute(RequestedAddressFamily::new(AddressFamily::V6)),
                Family::Both => message.add_attribute(AdditionalAddressFamily::new(AddressFamily::V6)),
            }
        }
        Ask::Refresh { lifetime } => message.add_attribute(Lifetime::from_u32(lifetime)),
        Ask::Permission(peer) => message.add_attribute(XorPeerAddress::new(peer)),
        Ask::Channel { number, peer } => {
            message.add_attribute(ChannelNumber::new(number).ok()?);
            message.add_attribute(XorPeerAddress::new(peer));
        }
    }
    if let Some(proof) = proof {
        if let User::Name(name) = &proof.user {
            message.add_attribute(Username::new(name.to_string()).ok()?);
        }
        message.add_attribute(Realm::new(proof.realm.to_string()).ok()?);
        message.add_attribute(Nonce::new(proof.nonce.to_string()).ok()?);
    }
    let mut bytes = MessageEncoder::new().encode_into_bytes(message).ok()?;
    if let Some(proof) = proof {
        if let User::Hash(hash) = &proof.user {
            append(&mut bytes, USERHASH, hash);
        }
        if let Some((offered, chosen)) = &proof.algorithms {
            append(&mut bytes, PASSWORD_ALGORITHMS, offered);
            // Neither of the two algorithms has parameters.
            let [high, low] = chosen.to_be_bytes();
            append(&mut bytes, PASSWORD_ALGORITHM, &[high, low, 0, 0]);
        }
        proof.key.append(&mut bytes);
    }
    append_fingerprint(&mut bytes);
    Some(bytes.into())
}

fn append(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&(value.len() as u16).to_be_bytes());
    message.extend_from_slice(value);
    message.resize(message.len().next_multiple_of(4), 0);
    set_length(message);
}

/// Content of an answer to a request. Nothing of it is proven yet.
#[derive(Clone, PartialEq, Eq, Debug)]
// Exhaustive: only tests use it.
pub enum Answer {
    /// The request is granted.
    Success {
        /// XOR-RELAYED-ADDRESS.
        relayed: Option<SocketAddr>,
        /// The XOR-RELAYED-ADDRESS of the other family.
        other: Option<SocketAddr>,
        /// XOR-MAPPED-ADDRESS.
        mapped: Option<SocketAddr>,
        /// LIFETIME.
        lifetime: Option<Duration>,
    },
    /// The request is refused.
    Error {
        /// ERROR-CODE.
        code: u16,
        /// Challenge to answer, where the server wants proof.
        challenge: Option<Challenge>,
        /// ALTERNATE-SERVER.
        alternate: Option<SocketAddr>,
    },
}

/// Demand of a server for proof, or for newer proof.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Challenge {
    /// REALM.
    pub realm: Option<Box<str>>,
    /// NONCE.
    pub nonce: Box<str>,
    /// PASSWORD-ALGORITHMS.
    pub algorithms: Option<Box<[u8]>>,
}

/// Reads an answer up to its integrity. `None`: the message is none, or an attribute is malformed.
pub fn answer(view: StunView<'_>) -> Option<Answer> {
    if !matches!(view.class(), Class::Success | Class::Error) {
        return None;
    }
    // A decoder is unusable after an error: one for each message.
    let message = MessageDecoder::<Attribute>::new().decode_from_bytes(&view.believed()).ok()?.ok()?;
    if view.class() == Class::Success {
        let mut all = message.attributes().filter_map(|attribute| match attribute {
            Attribute::XorRelayAddress(relayed) => Some(relayed.address()),
            _ => None,
        });
        let relayed = all.next();
        let of_other = |at: &SocketAddr| relayed.is_some_and(|first| first.is_ipv4() != at.is_ipv4());
        return Some(Answer::Success {
            relayed,
            other: all.find(of_other),
            mapped: message.get_attribute::<XorMappedAddress>().map(XorMappedAddress::address),
            lifetime: message.get_attribute::<Lifetime>().map(Lifetime::lifetime),
        });
    }
    let challenge = message.get_attribute::<Nonce>().map(|nonce| Challenge {
        realm: message.get_attribute::<Realm>().map(|realm| realm.text().into()),
        nonce: nonce.value().into(),
        algorithms: view.attributes().find(|(kind, _)| *kind == PASSWORD_ALGORITHMS).map(|(_, v)| v.into()),
    });
    Some(Answer::Error {
        code: message.get_attribute::<ErrorCode>()?.code(),
        challenge,
        alternate: message.get_attribute::<AlternateServer>().map(AlternateServer::address),
    })
}

/// Returns the number of each algorithm in PASSWORD-ALGORITHMS (RFC 8489 section 14.11), at most eight. `None`: the
/// attribute is malformed.
pub fn password_algorithms(mut value: &[u8]) -> Option<impl Iterator<Item = u16> + use<>> {
    let mut found = smallvec::SmallVec::<[u16; 8]>::new();
    while let Some(([a, b, c, d], rest)) = value.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([*c, *d]));
        value = rest.get(length.next_multiple_of(4)..)?;
        if found.len() < 8 {
            found.push(u16::from_be_bytes([*a, *b]));
        }
    }
    value.is_empty().then_some(found.into_iter())
}

/// Builds a Send indication (RFC 8656 section 11.1). `None` where the payload is longer than a length field can say.
pub fn send_indication(transaction: TransactionId, peer: SocketAddr, data: &[u8]) -> Option<Bytes> {
    let address = xor(peer, transaction);
    let length = u16::try_from(data.len()).ok()?;
    let padded = data.len().next_multiple_of(4);
    let body = 4 + address.len() + 4 + padded;
    let mut bytes = BytesMut::with_capacity(STUN_HEADER + body);
    bytes.put_u16(SEND_INDICATION);
    bytes.put_u16(u16::try_from(body).ok()?);
    bytes.put_u32(MAGIC_COOKIE);
    bytes.put_slice(&transaction.0);
    bytes.put_u16(XOR_PEER_ADDRESS);
    bytes.put_u16(address.len() as u16);
    bytes.put_slice(&address);
    bytes.put_u16(DATA);
    bytes.put_u16(length);
    bytes.put_slice(data);
    bytes.put_bytes(0, padded - data.len());
    Some(bytes.freeze())
}

/// Reads a Data indication (RFC 8656 section 11.4) in place: the peer and its payload. `None`: the message is none, or
/// lacks one of the two.
pub fn data_indication(view: StunView<'_>) -> Option<(SocketAddr, &[u8])> {
    if view.class() != Class::Indication || view.method() != DATA_METHOD {
        return None;
    }
    let (mut peer, mut data) = (None, None);
    for (kind, value) in view.attributes() {
        match kind {
            XOR_PEER_ADDRESS if peer.is_none() => peer = Some(unxor(value, view.transaction())?),
            DATA if data.is_none() => data = Some(value),
            _ => {}
        }
    }
    Some((peer?, data?))
}

/// Returns the mask that an address is XORed with: the cookie, and for IPv6 the transaction after it (RFC 8489 section
/// 14.2).
fn mask(transaction: TransactionId) -> [u8; 16] {
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
    mask[4..].copy_from_slice(&transaction.0);
    mask
}

fn xor(address: SocketAddr, transaction: TransactionId) -> smallvec::SmallVec<[u8; 20]> {
    let mut value = smallvec::SmallVec::new();
    value.extend_from_slice(&[0, if address.is_ipv4() { 1 } else { 2 }]);
    value.extend_from_slice(&(address.port() ^ (MAGIC_COOKIE >> 16) as u16).to_be_bytes());
    let mask = mask(transaction);
    match address.ip() {
        IpAddr::V4(ip) => value.extend(ip.octets().iter().zip(mask).map(|(a, m)| a ^ m)),
        IpAddr::V6(ip) => value.extend(ip.octets().iter().zip(mask).map(|(a, m)| a ^ m)),
    }
    value
}

fn unxor(value: &[u8], transaction: TransactionId) -> Option<SocketAddr> {
    let ([_, family, a, b], masked) = value.split_first_chunk()?;
    let port = u16::from_be_bytes([*a, *b]) ^ (MAGIC_COOKIE >> 16) as u16;
    let mask = u128::from_be_bytes(mask(transaction));
    let ip: IpAddr = match family {
        1 => (u32::from_be_bytes(masked.try_into().ok()?) ^ MAGIC_COOKIE).to_be_bytes().into(),
        2 => (u128::from_be_bytes(masked.try_into().ok()?) ^ mask).to_be_bytes().into(),
        _ => return None,
    };
    Some((ip, port).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::fingerprint::fingerprint_fits;
    use crate::wire::guard::{self, Transport};
    use crate::wire::integrity::userhash;
    use stun_codec::rfc5766::attributes::Data;

    define_attribute_enums!(Other, OtherDecoder, OtherEncoder, [XorPeerAddress, Data]);

    const ID: TransactionId =
        TransactionId([0xb7, 0xe7, 0xa7, 1, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae]);
    const PEERS: [&str; 2] = ["192.0.2.1:32853", "[2001:db8:1234:5678:11:2233:4455:6677]:32853"];

    fn view(bytes: &[u8]) -> StunView<'_> {
        guard::stun(bytes, Transport::Udp).unwrap()
    }

    /// Returns the message's header: type, length, cookie, transaction.
    fn header(kind: u16, length: u16) -> Vec<u8> {
        let mut bytes = kind.to_be_bytes().to_vec();
        bytes.extend(length.to_be_bytes());
        bytes.extend([0x21, 0x12, 0xa4, 0x42]);
        bytes.extend(ID.0);
        bytes
    }

    #[test]
    fn requests_without_proof_are_these_bytes() {
        let bytes = |ask| {
            let bytes = request(ask, ID, None).unwrap();
            assert!(fingerprint_fits(view(&bytes)));
            bytes[..bytes.len() - 8].to_vec()
        };
        let allocate = bytes(Ask::Allocate { family: Family::V4, lifetime: 600 });
        let fields = [0, 0x19, 0, 4, 17, 0, 0, 0, 0, 0x0d, 0, 4, 0, 0, 2, 0x58];
        assert_eq!(allocate, [&header(3, 24)[..], &fields].concat());
        let allocate = bytes(Ask::Allocate { family: Family::V6, lifetime: 600 });
        assert_eq!(allocate, [&header(3, 32)[..], &fields, &[0, 0x17, 0, 4, 2, 0, 0, 0]].concat());
        let allocate = bytes(Ask::Allocate { family: Family::Both, lifetime: 600 });
        assert_eq!(allocate, [&header(3, 32)[..], &fields, &[0x80, 0, 0, 4, 2, 0, 0, 0]].concat());
        let release = bytes(Ask::Refresh { lifetime: 0 });
        assert_eq!(release, [&header(4, 16)[..], &[0, 0x0d, 0, 4, 0, 0, 0, 0]].concat());
        let permission = bytes(Ask::Permission("192.0.2.1:0".parse().unwrap()));
        let peer = [0, 0x12, 0, 8, 0, 1, 0x21, 0x12, 0xe1, 0x12, 0xa6, 0x43];
        assert_eq!(permission, [&header(8, 20)[..], &peer].concat());
        let channel = bytes(Ask::Channel { number: 0x4001, peer: PEERS[0].parse().unwrap() });
        let number = [0, 0x0c, 0, 4, 0x40, 1, 0, 0];
        let peer = [0, 0x12, 0, 8, 0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43];
        assert_eq!(channel, [&header(9, 28)[..], &number, &peer].concat());
        let wrong = Ask::Channel { number: 0x5000, peer: PEERS[0].parse().unwrap() };
        assert_eq!(request(wrong, ID, None), None);
    }

    #[test]
    fn proof_is_what_the_server_asked_for() {
        let mut proof = Proof {
            user: User::Name("alice".into()),
            realm: "lab".into(),
            nonce: "n0".into(),
            algorithms: None,
            key: IntegrityKey::long_term("alice", "lab", "secret"),
        };
        let ask = Ask::Refresh { lifetime: 600 };
        let lifetime = [0, 0x0d, 0, 4, 0, 0, 2, 0x58];
        let place = [0, 0x14, 0, 3, b'l', b'a', b'b', 0, 0, 0x15, 0, 2, b'n', b'0', 0, 0];
        let bytes = request(ask, ID, Some(&proof)).unwrap();
        let name = [0, 6, 0, 5, b'a', b'l', b'i', b'c', b'e', 0, 0, 0];
        assert_eq!(&bytes[20..56], [&lifetime[..], &name, &place].concat());
        assert!(proof.key.verifies(view(&bytes)) && view(&bytes).integrity() == Some(56));
        // With the newer means: the name hidden, the algorithms repeated, the stronger integrity.
        let offered: &[u8] = &[0, 2, 0, 0, 0, 1, 0, 0];
        proof.user = User::Hash(userhash("alice", "lab"));
        proof.algorithms = Some((offered.into(), 2));
        proof.key = IntegrityKey::long_term_sha256("alice", "lab", "secret");
        let bytes = request(ask, ID, Some(&proof)).unwrap();
        let hash = [&[0, 0x1e, 0, 32][..], &userhash("alice", "lab")].concat();
        let algorithms = [&[0x80, 2, 0, 8][..], offered, &[0, 0x1d, 0, 4, 0, 2, 0, 0]].concat();
        assert_eq!(&bytes[20..100], [&lifetime[..], &place, &hash, &algorithms].concat());
        assert!(proof.key.verifies(view(&bytes)) && view(&bytes).integrity_sha256() == Some(100));
        assert!(fingerprint_fits(view(&bytes)));
        proof.realm = "r".repeat(200).into();
        assert_eq!(request(ask, ID, Some(&proof)), None, "longer than a realm may be");
    }

    #[test]
    fn answers_are_read_up_to_their_integrity() {
        let relayed = [0, 0x16, 0, 8, 0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43];
        let lifetime = [0, 0x0d, 0, 4, 0, 0, 0, 60];
        let mut bytes = [&header(0x0103, 20)[..], &relayed, &lifetime].concat();
        let expected = Answer::Success {
            relayed: Some(PEERS[0].parse().unwrap()),
            other: None,
            mapped: None,
            lifetime: Some(Duration::from_secs(60)),
        };
        assert_eq!(answer(view(&bytes)), Some(expected.clone()));
        for key in [IntegrityKey::short_term("k"), IntegrityKey::long_term_sha256("a", "b", "c")] {
            let mut bytes = bytes.clone();
            key.append(&mut bytes);
            assert_eq!(answer(view(&bytes)), Some(expected.clone()));
        }
        bytes[1] = 0x13;
        assert_eq!(answer(view(&bytes)), None, "an error without a code");
        bytes[0] = 0;
        assert_eq!(answer(view(&bytes)), None, "a request");

        let fields = [
            &[0, 9, 0, 4, 0, 0, 4, 1][..],
            &[0, 0x14, 0, 3, b'l', b'a', b'b', 0, 0, 0x15, 0, 2, b'n', b'0', 0, 0],
            &[0x80, 2, 0, 8, 0, 2, 0, 0, 0, 1, 0, 0, 0x80, 0x23, 0, 8, 0, 1, 0x0d, 0x96, 192, 0, 2, 9],
        ]
        .concat();
        let bytes = [header(0x0113, fields.len() as u16), fields].concat();
        let challenge = Challenge {
            realm: Some("lab".into()),
            nonce: "n0".into(),
            algorithms: Some([0, 2, 0, 0, 0, 1, 0, 0].into()),
        };
        let alternate = Some("192.0.2.9:3478".parse().unwrap());
        assert_eq!(
            answer(view(&bytes)),
            Some(Answer::Error { code: 401, challenge: Some(challenge), alternate })
        );
    }

    #[test]
    fn password_algorithms_are_listed_and_their_lengths_checked() {
        let list = |value: &[u8]| password_algorithms(value).map(Iterator::collect::<Vec<_>>);
        assert_eq!(list(&[0, 2, 0, 0, 0, 1, 0, 0]), Some(vec![2, 1]));
        assert_eq!(list(&[0, 9, 0, 3, 1, 1, 1, 0, 0, 2, 0, 0]), Some(vec![9, 2]));
        assert_eq!(list(&[]), Some(vec![]));
        assert_eq!(list(&[0, 2, 0]), None);
        assert_eq!(list(&[0, 9, 0, 5, 1, 1, 1, 1]), None);
        assert_eq!(list(&[0; 80]), Some(vec![0; 8]));
    }

    #[test]
    fn a_send_indication_is_what_another_implementation_reads() {
        for (peer, data) in PEERS.iter().flat_map(|p| [(p, &b"hello"[..]), (p, b"12345678"), (p, b"")]) {
            let peer: SocketAddr = peer.parse().unwrap();
            let bytes = send_indication(ID, peer, data).unwrap();
            let message = MessageDecoder::<Other>::new().decode_from_bytes(&bytes).unwrap().unwrap();
            assert_eq!((message.class(), message.method()), (MessageClass::Indication, methods::SEND));
            assert_eq!(message.get_attribute::<XorPeerAddress>().unwrap().address(), peer);
            assert_eq!(message.get_attribute::<Data>().unwrap().data(), data);
        }
        assert_eq!(send_indication(ID, PEERS[0].parse().unwrap(), &[0; 65_536]), None);
        assert_eq!(send_indication(ID, PEERS[0].parse().unwrap(), &[0; 65_530]), None);
    }

    #[test]
    fn a_data_indication_of_another_implementation_is_read_in_place() {
        for peer in PEERS {
            let peer: SocketAddr = peer.parse().unwrap();
            let id = stun_codec::TransactionId::new(ID.0);
            let mut message: Message<Other> = Message::new(MessageClass::Indication, methods::DATA, id);
            message.add_attribute(XorPeerAddress::new(peer));
            message.add_attribute(Data::new(b"hello".to_vec()).unwrap());
            let bytes = MessageEncoder::new().encode_into_bytes(message).unwrap();
            let (from, data) = data_indication(view(&bytes)).unwrap();
            assert_eq!((from, data), (peer, &b"hello"[..]));
            assert!(bytes.as_ptr_range().contains(&data.as_ptr()));
            let mut other = bytes.clone();
            other[25] = 3;
            assert_eq!(data_indication(view(&other)), None, "no such family");
            other = bytes.clone();
            other[25] ^= 3;
            assert_eq!(data_indication(view(&other)), None, "an address of the other family's length");
            other = bytes;
            other[1] = 0x16;
            assert_eq!(data_indication(view(&other)), None, "a Send indication");
        }
    }
}
