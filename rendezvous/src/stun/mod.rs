//! A STUN server (RFC 8489), which with two addresses measures NATs too (RFC 5780).
//!
//! It answers Binding requests, over UDP ([`Server::datagram`]) and over TCP ([`Stream`]). Credentials in a
//! request are passed over: a Binding answer is for anybody. CHANGE-REQUEST works over UDP between the four
//! sockets of [`Sites::Two`]; where it cannot be fulfilled the answer is 420, as RFC 5780 section 6.1 asks.
//! RESPONSE-PORT and PADDING are not known. Requests without a cookie are answered as RFC 3489 has it.

mod classic;
mod stream;

use core::time::Duration;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use stun_types::attribute::{
    AttributeType, ErrorCode, Fingerprint, MessageIntegrity, MessageIntegritySha256, Nonce, RawAttribute,
    Realm, UnknownAttributes, Username, XorMappedAddress,
};
use stun_types::message::{
    BINDING, Message, MessageClass, MessageWrite, MessageWriteExt, MessageWriteVec, StunParseError,
};
use stun_types::prelude::{Attribute, AttributeStaticType};

use crate::rate::{Bucket, Sources};
pub use stream::{Answers, Stream};

/// Magic cookie of RFC 5389 and later, where older messages begin their transaction id.
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const CHANGE_REQUEST: AttributeType = AttributeType::new(0x0003);
const RESPONSE_ORIGIN: AttributeType = AttributeType::new(0x802b);
const OTHER_ADDRESS: AttributeType = AttributeType::new(0x802c);
/// Largest request, and most attributes in it.
const MAX_REQUEST: usize = 1500;
const MAX_ATTRIBUTES: usize = 32;

/// Addresses at which the server is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: a server has one address or two.
pub enum Sites {
    /// A single address: a request that wants its answer from another one is refused.
    One,
    /// Two addresses with two ports each, four sockets in all.
    Two {
        /// The addresses, of one family.
        ips: [IpAddr; 2],
        /// The ports, the same on each address.
        ports: [u16; 2],
    },
}

impl Sites {
    /// Returns the diagonally opposite socket, for OTHER-ADDRESS.
    fn other(&self, local: SocketAddr) -> Option<SocketAddr> {
        self.changed(local, true, true)
    }

    fn changed(&self, local: SocketAddr, ip: bool, port: bool) -> Option<SocketAddr> {
        let Sites::Two { ips, ports } = self else {
            return (!ip && !port).then_some(local);
        };
        let at_ip = ips.iter().position(|i| *i == local.ip())?;
        let at_port = ports.iter().position(|p| *p == local.port())?;
        let pick = |at: usize, change: bool| if change { 1 - at } else { at };
        Some((ips[pick(at_ip, ip)], ports[pick(at_port, port)]).into())
    }
}

/// Requests a second, in the long run; beyond it there is no answer. A burst of four seconds' worth is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: owners write it over its default.
pub struct Limits {
    /// Requests of one source: an IPv4 address or an IPv6 /64. The source may be forged, so answers over UDP are short.
    /// Their excess over the requests is bounded too: 4,096 bytes for each source, and 256 a second. Default 50.
    pub per_source: u32,
    /// Requests of all sources. Default 5,000.
    pub total: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { per_source: 50, total: 5000 }
    }
}

/// An answer, and the sockets it goes between.
#[derive(Clone, PartialEq, Eq, Debug)]
// Exhaustive: the owner has to send all of it.
pub struct Reply {
    /// Local address of the socket to send from.
    pub from: SocketAddr,
    /// Address to send to.
    pub to: SocketAddr,
    /// The message.
    pub data: Bytes,
}

/// Counters of the server.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// Requests answered with success.
    pub answered: u64,
    /// Requests answered with an error.
    pub refused: u64,
    /// Messages that were no requests, and were dropped.
    pub malformed: u64,
    /// Requests dropped because there were too many.
    pub over_rate: u64,
}

/// The server.
#[derive(Debug)]
pub struct Server {
    sites: Sites,
    sources: Sources,
    total: Bucket,
    stats: Stats,
}

/// A request of either kind.
enum Asked<'a> {
    Now(Message<'a>),
    Classic(classic::Request<'a>),
}

impl Server {
    /// A server at these sites.
    pub fn new(sites: Sites, limits: Limits) -> Self {
        Server {
            sites,
            sources: Sources::new(limits.per_source),
            total: Bucket::new(limits.total, limits.total.saturating_mul(4)),
            stats: Stats::default(),
        }
    }

    /// Answers a datagram from `from` that came in on the socket bound to `local`. A datagram that is no Binding
    /// request gets no answer.
    pub fn datagram(
        &mut self,
        now: Duration,
        local: SocketAddr,
        from: SocketAddr,
        data: &[u8],
    ) -> Option<Reply> {
        self.answer(now, local, from, data, false)
    }

    /// Returns the counters so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    fn answer(
        &mut self,
        now: Duration,
        local: SocketAddr,
        from: SocketAddr,
        data: &[u8],
        tcp: bool,
    ) -> Option<Reply> {
        let request = match (parse(data), classic::Request::read(data)) {
            (Ok(request), _) => Asked::Now(request),
            (Err(_), Some(request)) => Asked::Classic(request),
            (Err(_), None) => {
                self.stats.malformed += 1;
                return None;
            }
        };
        if !self.sources.asks(now, from.ip()) || !self.total.take(now) {
            self.stats.over_rate += 1;
            return None;
        }
        let (answer, origin) = match &request {
            Asked::Classic(request) => self.classic_reply(local, from, request, tcp),
            Asked::Now(request) => {
                let reply = self.reply(local, from, request, tcp);
                let (mut answer, origin) = reply.unwrap_or_else(|error| (error, local));
                if request.has_attribute(Fingerprint::TYPE) {
                    answer.add_fingerprint().ok()?;
                }
                (answer.finish(), origin)
            }
        };
        if !tcp && !self.sources.answers(now, from.ip(), data.len(), answer.len()) {
            self.stats.over_rate += 1;
            return None;
        }
        let is_error = answer.first_chunk().is_some_and(|kind| *kind == [0x01, 0x11]);
        let counter = if is_error { &mut self.stats.refused } else { &mut self.stats.answered };
        *counter += 1;
        Some(Reply { from: origin, to: from, data: answer.into() })
    }

    /// The socket that an answer comes from; none if it cannot come from where it is asked for.
    fn origin(&self, local: SocketAddr, change: (bool, bool), tcp: bool) -> Option<SocketAddr> {
        match (change, tcp) {
            ((false, false), _) => Some(local),
            // A TCP answer cannot come from elsewhere.
            (_, true) => None,
            ((ip, port), false) => self.sites.changed(local, ip, port),
        }
    }

    /// OTHER-ADDRESS, or CHANGED-ADDRESS as it was called.
    fn other(&self, local: SocketAddr) -> Option<SocketAddr> {
        match self.sites {
            Sites::One => None,
            Sites::Two { .. } => self.sites.other(local),
        }
    }

    fn classic_reply(
        &self,
        local: SocketAddr,
        from: SocketAddr,
        request: &classic::Request<'_>,
        tcp: bool,
    ) -> (Vec<u8>, SocketAddr) {
        if let Some(unknown) = request.unknown {
            return (request.refusal(unknown), local);
        }
        let Some(origin) = self.origin(local, request.change.unwrap_or_default(), tcp) else {
            return (request.refusal(CHANGE_REQUEST.value()), local);
        };
        let source = (request.change.is_some() && !origin.ip().is_unspecified()).then(|| plain(origin));
        (request.success(plain(from), source, self.other(local)), origin)
    }

    fn reply(
        &self,
        local: SocketAddr,
        from: SocketAddr,
        request: &Message<'_>,
        tcp: bool,
    ) -> Result<(MessageWriteVec, SocketAddr), MessageWriteVec> {
        let known = [
            Username::TYPE,
            MessageIntegrity::TYPE,
            MessageIntegritySha256::TYPE,
            Realm::TYPE,
            Nonce::TYPE,
            CHANGE_REQUEST,
        ];
        let types = || request.iter_attributes().map(|(_, a)| a.get_type());
        let unknown: Vec<_> = types().filter(|t| t.comprehension_required() && !known.contains(t)).collect();
        if !unknown.is_empty() {
            return Err(unknown_attributes(request, &unknown));
        }
        let change = match request.raw_attribute(CHANGE_REQUEST).map(|a| <[u8; 4]>::try_from(&*a.value)) {
            None => (false, false),
            Some(Ok([.., flags])) => (flags & 4 != 0, flags & 2 != 0),
            Some(Err(_)) => return Err(error(request, ErrorCode::BAD_REQUEST)),
        };
        let Some(origin) = self.origin(local, change, tcp) else {
            return Err(unknown_attributes(request, &[CHANGE_REQUEST]));
        };
        let from = plain(from);
        let mut answer = Message::builder_success(request, MessageWriteVec::new());
        let mapped = XorMappedAddress::new(from, request.transaction_id());
        // None is too long for a message that has nothing else.
        let _ = answer.add_attribute(&mapped);
        // Over UDP, where the request may be forged, only what it is about: RFC 5780 asks for the origin always.
        let is_about_origin = tcp || request.has_attribute(CHANGE_REQUEST);
        if is_about_origin && !origin.ip().is_unspecified() {
            let _ = answer.add_attribute(&address(RESPONSE_ORIGIN, plain(origin)));
        }
        if let Some(other) = self.other(local) {
            let _ = answer.add_attribute(&address(OTHER_ADDRESS, other));
        }
        Ok((answer, origin))
    }
}

/// A Binding request of the very length that was received, with not too many attributes.
fn parse(data: &[u8]) -> Result<Message<'_>, StunParseError> {
    let declared = data.get(2..4).map(|l| 20 + usize::from(u16::from_be_bytes([l[0], l[1]])));
    if declared != Some(data.len()) || data.len() > MAX_REQUEST || !has_few_attributes(data) {
        return Err(StunParseError::InvalidAttributeData);
    }
    let message = Message::from_bytes(data)?;
    let is_request = message.has_method(BINDING) && message.has_class(MessageClass::Request);
    if is_request { Ok(message) } else { Err(StunParseError::InvalidAttributeData) }
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

fn address(kind: AttributeType, address: SocketAddr) -> RawAttribute<'static> {
    RawAttribute::new_owned(kind, classic::value(address).into())
}

/// A socket for both families gives IPv4 addresses an IPv6 form that no client could announce.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Makes an error answer without a reason phrase, so that it is short.
fn error(request: &Message<'_>, code: u16) -> MessageWriteVec {
    let mut answer = Message::builder_error(request, MessageWriteVec::new());
    if let Ok(code) = ErrorCode::new(code, "") {
        let _ = answer.add_attribute(&code);
    }
    answer
}

fn unknown_attributes(request: &Message<'_>, unknown: &[AttributeType]) -> MessageWriteVec {
    let mut answer = error(request, ErrorCode::UNKNOWN_ATTRIBUTE);
    let _ = answer.add_attribute(&UnknownAttributes::new(unknown));
    answer
}
