//! A TURN server played by hand: it knows what the test tells it, and says what the test wants.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use p2pd_core::Instant;
use p2pd_core::Transport;
use p2pd_core::strangers::{IntegrityKey, guard_stun};
use p2pd_core::turn::{Client, Config, Credentials, Event, Family};
use stun_types::attribute::{AttributeType, RawAttribute, XorSocketAddr};
use stun_types::message::{
    Message, MessageType, MessageWrite, MessageWriteExt, MessageWriteVec, TransactionId,
};

pub(crate) const ALLOCATE: u16 = 3;
pub(crate) const REFRESH: u16 = 4;
pub(crate) const DATA: u16 = 7;
pub(crate) const PERMISSION: u16 = 8;
pub(crate) const CHANNEL: u16 = 9;

pub(crate) const LIFETIME: u16 = 0x0d;
pub(crate) const NONCE: u16 = 0x15;
pub(crate) const REALM: u16 = 0x14;
pub(crate) const USERNAME: u16 = 0x06;
pub(crate) const CHANNEL_NUMBER: u16 = 0x0c;
pub(crate) const PEER: u16 = 0x12;

pub(crate) const RELAYED: &str = "203.0.113.10:50000";
pub(crate) const MAPPED: &str = "198.51.100.1:1234";

pub(crate) type Attributes = Vec<(u16, Vec<u8>)>;

/// The client under test, and the time.
pub(crate) struct Hand {
    pub(crate) client: Client,
    pub(crate) now: Instant,
    pub(crate) family: Family,
}

/// A message of the client's.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    /// Method and class as they stand in the first two bytes.
    pub(crate) kind: u16,
    pub(crate) id: [u8; 12],
    pub(crate) attributes: Attributes,
    pub(crate) bytes: Bytes,
}

impl Sent {
    pub(crate) fn read(bytes: Bytes) -> Sent {
        let view = guard_stun(&bytes, Transport::Tcp).unwrap();
        let attributes = view.attributes().map(|(kind, value)| (kind, value.to_vec())).collect();
        let kind = u16::from_be_bytes([bytes[0], bytes[1]]);
        Sent { kind, id: view.transaction().0, attributes, bytes: bytes.clone() }
    }

    pub(crate) fn get(&self, kind: u16) -> Option<&[u8]> {
        self.attributes.iter().find(|(k, _)| *k == kind).map(|(_, value)| &value[..])
    }

    pub(crate) fn is_signed_by(&self, key: &IntegrityKey) -> bool {
        key.verifies(guard_stun(&self.bytes, Transport::Tcp).unwrap())
    }
}

pub(crate) fn key() -> IntegrityKey {
    IntegrityKey::long_term("alice", "lab", "secret")
}

pub(crate) fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(crate) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A message of any kind, signed by the key if there is one.
pub(crate) fn message(
    kind: u16,
    id: [u8; 12],
    attributes: &[(u16, Vec<u8>)],
    key: Option<&IntegrityKey>,
) -> Vec<u8> {
    let kind = MessageType::from_bytes(&kind.to_be_bytes()).unwrap();
    let mut message = Message::builder(kind, transaction(id), MessageWriteVec::new());
    for (kind, value) in attributes {
        message.add_attribute(&RawAttribute::new(AttributeType::new(*kind), value)).unwrap();
    }
    let mut bytes = message.finish();
    if let Some(key) = key {
        key.append(&mut bytes);
    }
    bytes
}

fn transaction(id: [u8; 12]) -> TransactionId {
    id.iter().fold(0, |all, byte| all << 8 | u128::from(*byte)).into()
}

/// An address under the mask of a transaction.
pub(crate) fn xored(address: SocketAddr, id: [u8; 12]) -> Vec<u8> {
    XorSocketAddr::new(address, transaction(id)).to_raw(AttributeType::new(PEER)).value.to_vec()
}

pub(crate) fn seconds(n: u32) -> (u16, Vec<u8>) {
    (LIFETIME, n.to_be_bytes().to_vec())
}

/// ERROR-CODE.
pub(crate) fn code(code: u16) -> (u16, Vec<u8>) {
    (9, vec![0, 0, (code / 100) as u8, (code % 100) as u8])
}

/// ERROR-CODE, REALM and NONCE.
pub(crate) fn challenge(number: u16, realm: &str, nonce: &str) -> Attributes {
    vec![code(number), (REALM, realm.into()), (NONCE, nonce.into())]
}

pub(crate) fn success(to: &Sent, attributes: &[(u16, Vec<u8>)]) -> Vec<u8> {
    message(to.kind | 0x100, to.id, attributes, Some(&key()))
}

pub(crate) fn error(to: &Sent, attributes: &[(u16, Vec<u8>)], key: Option<&IntegrityKey>) -> Vec<u8> {
    message(to.kind | 0x110, to.id, attributes, key)
}

/// An Allocate's answer.
pub(crate) fn allocated(to: &Sent, relayed: &str, lifetime: u32) -> Vec<u8> {
    let relayed = (0x16, xored(addr(relayed), to.id));
    success(to, &[relayed, (0x20, xored(addr(MAPPED), to.id)), seconds(lifetime)])
}

impl Hand {
    /// A client that never refreshes for silence alone.
    pub(crate) fn new(over: Transport) -> Hand {
        let config = Config::new(over, Credentials::new("alice", "secret"));
        Hand::with(Config { silence: Duration::ZERO, ..config })
    }

    pub(crate) fn with(config: Config) -> Hand {
        let family = config.family;
        Hand { client: Client::new(config, [1; 32], Instant::ZERO), now: Instant::ZERO, family }
    }

    /// A client that has its allocation, with nothing to send and no event.
    pub(crate) fn ready(over: Transport) -> Hand {
        let mut hand = Hand::new(over);
        hand.allocate(600);
        hand
    }

    /// Lets the client have its allocation.
    pub(crate) fn allocate(&mut self, lifetime: u32) {
        let first = self.one();
        self.say(&error(&first, &challenge(401, "lab", "n0"), None));
        let second = self.one();
        assert!(second.is_signed_by(&key()));
        let relayed = if self.family == Family::V6 { "[2001:db8::a]:50000" } else { RELAYED };
        self.say(&allocated(&second, relayed, lifetime));
        let (relayed, mapped) = (addr(relayed), addr(MAPPED));
        let lifetime = Duration::from_secs(lifetime.into());
        assert_eq!(self.events(), [Event::Allocated { relayed, other: None, mapped, lifetime }]);
    }

    /// Lets a peer have its permission.
    pub(crate) fn permit(&mut self, peer: &str) {
        let ip = peer.parse().unwrap();
        self.client.permit(self.now, ip).unwrap();
        let asked = self.one();
        assert_eq!(asked.kind, PERMISSION);
        self.say(&success(&asked, &[]));
        assert_eq!(self.events(), [Event::Permitted(ip)]);
    }

    pub(crate) fn say(&mut self, data: &[u8]) {
        self.client.handle(self.now, data);
    }

    pub(crate) fn sent(&mut self) -> Vec<Bytes> {
        std::iter::from_fn(|| self.client.poll_transmit()).collect()
    }

    /// The one message that the client sends now.
    pub(crate) fn one(&mut self) -> Sent {
        let [bytes] = self.sent().try_into().expect("one message");
        Sent::read(bytes)
    }

    pub(crate) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.client.poll_event()).collect()
    }

    /// Lets time pass up to the next deadline; returns what is sent then.
    pub(crate) fn wait(&mut self) -> Vec<Bytes> {
        let next = self.client.poll_timeout().expect("a deadline");
        assert!(next >= self.now);
        self.now = next;
        self.client.handle_timeout(next);
        assert!(self.client.poll_timeout().is_none_or(|at| at > next), "the deadline has moved");
        self.sent()
    }

    /// Milliseconds since the start.
    pub(crate) fn at(&self) -> i64 {
        self.now.as_nanos() / 1_000_000
    }
}
