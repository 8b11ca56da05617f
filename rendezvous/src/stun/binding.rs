//! Binding requests, read with checks before the codec looks, and responses to them.
//!
//! STUN servers of tests are written with it too, so that none makes its own bytes.

use std::net::SocketAddr;

use stun_types::attribute::{
    AttributeType, ErrorCode, Fingerprint, MappedSocketAddr, MessageIntegrity, MessageIntegritySha256, Nonce,
    Realm, UnknownAttributes, Username, XorMappedAddress,
};
use stun_types::message::{
    BINDING, Message, MessageClass, MessageType, MessageWrite, MessageWriteExt, MessageWriteVec,
};
use stun_types::prelude::{Attribute, AttributeStaticType};

use super::MAX_REQUEST;

pub(super) const CHANGE_REQUEST: AttributeType = AttributeType::new(0x0003);
const RESPONSE_ORIGIN: AttributeType = AttributeType::new(0x802b);
const OTHER_ADDRESS: AttributeType = AttributeType::new(0x802c);
/// Most attributes of a request.
const MAX_ATTRIBUTES: usize = 32;

/// A Binding request.
#[derive(Debug)]
pub struct Request<'a>(Message<'a>);

impl<'a> Request<'a> {
    /// Reads a request of the very length that was received, with not too many attributes.
    pub fn read(data: &'a [u8]) -> Option<Self> {
        let declared = data.get(2..4).map(|l| 20 + usize::from(u16::from_be_bytes([l[0], l[1]])));
        if declared != Some(data.len()) || data.len() > MAX_REQUEST || !has_few_attributes(data) {
            return None;
        }
        let message = Message::from_bytes(data).ok()?;
        let is_request = message.has_method(BINDING) && message.has_class(MessageClass::Request);
        is_request.then_some(Request(message))
    }

    /// Returns the transaction id, which the response repeats.
    pub fn transaction(&self) -> [u8; 12] {
        let [_, _, _, _, id @ ..] = u128::from(self.0.transaction_id()).to_be_bytes();
        id
    }

    /// Returns whether the response is to come from the other IP address, and whether from the other port. `None`: the
    /// CHANGE-REQUEST is malformed.
    pub fn change(&self) -> Option<(bool, bool)> {
        match self.0.raw_attribute(CHANGE_REQUEST).map(|a| <[u8; 4]>::try_from(&*a.value)) {
            None => Some((false, false)),
            Some(Ok([.., flags])) => Some((flags & 4 != 0, flags & 2 != 0)),
            Some(Err(_)) => None,
        }
    }

    pub(super) fn asks_for_change(&self) -> bool {
        self.0.has_attribute(CHANGE_REQUEST)
    }

    /// Returns true if the response has to have FINGERPRINT, as the request has.
    pub(super) fn has_fingerprint(&self) -> bool {
        self.0.has_attribute(Fingerprint::TYPE)
    }

    /// Returns the attributes that a server would have to know and ours does not.
    pub(super) fn unknown(&self) -> Vec<AttributeType> {
        let known = [
            Username::TYPE,
            MessageIntegrity::TYPE,
            MessageIntegritySha256::TYPE,
            Realm::TYPE,
            Nonce::TYPE,
            CHANGE_REQUEST,
        ];
        let types = self.0.iter_attributes().map(|(_, a)| a.get_type());
        types.filter(|t| t.comprehension_required() && !known.contains(t)).collect()
    }
}

/// A response to a Binding request.
#[derive(Debug)]
pub struct Response(MessageWriteVec);

impl Response {
    fn new(class: MessageClass, transaction: [u8; 12]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = transaction;
        let id = u128::from_be_bytes([0, 0, 0, 0, a, b, c, d, e, f, g, h, i, j, k, l]);
        let kind = MessageType::from_class_method(class, BINDING);
        Response(Message::builder(kind, id.into(), MessageWriteVec::with_capacity(96)))
    }

    /// A success response: the address that the server sees, the one that it answers from, and its other one.
    pub fn success(
        transaction: [u8; 12],
        mapped: SocketAddr,
        origin: Option<SocketAddr>,
        other: Option<SocketAddr>,
    ) -> Self {
        let mut response = Response::new(MessageClass::Success, transaction);
        let mapped = XorMappedAddress::new(mapped, response.0.transaction_id());
        // None is too long for a message that has nothing else.
        let _ = response.0.add_attribute(&mapped);
        for (kind, address) in [(RESPONSE_ORIGIN, origin), (OTHER_ADDRESS, other)] {
            if let Some(address) = address {
                let _ = response.0.add_attribute(&MappedSocketAddr::new(address).to_raw(kind));
            }
        }
        response
    }

    /// An error response without a reason phrase, so that it is short. A code that there is none of is left out.
    pub fn error(transaction: [u8; 12], code: u16) -> Self {
        let mut response = Response::new(MessageClass::Error, transaction);
        if let Ok(code) = ErrorCode::new(code, "") {
            let _ = response.0.add_attribute(&code);
        }
        response
    }

    pub(super) fn unknown_attributes(transaction: [u8; 12], unknown: &[AttributeType]) -> Self {
        let mut response = Response::error(transaction, ErrorCode::UNKNOWN_ATTRIBUTE);
        let _ = response.0.add_attribute(&UnknownAttributes::new(unknown));
        response
    }

    /// Returns the response with FINGERPRINT.
    pub(super) fn with_fingerprint(mut self) -> Self {
        let _ = self.0.add_fingerprint();
        self
    }

    /// Returns the message.
    pub fn finish(self) -> Vec<u8> {
        self.0.finish()
    }
}

/// Counts the attributes before the codec looks: some of its work takes time by attributes squared.
fn has_few_attributes(data: &[u8]) -> bool {
    let mut rest = data.get(20..).unwrap_or_default();
    for _ in 0..=MAX_ATTRIBUTES {
        let [_, _, high, low, ..] = rest else { return rest.is_empty() };
        let length = usize::from(u16::from_be_bytes([*high, *low])).next_multiple_of(4);
        let Some(next) = rest.get(4 + length..) else { return false };
        rest = next;
    }
    false
}
