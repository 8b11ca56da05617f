//! A STUN server (RFC 8489), which with two addresses measures NATs too (RFC 5780).
//!
//! It answers Binding requests, over UDP ([`Server::datagram`]) and over TCP ([`Stream`]). Credentials in a
//! request are passed over: a Binding answer is for anybody. CHANGE-REQUEST works over UDP between the four
//! sockets of [`Sites::Two`]; where it cannot be fulfilled the answer is 420, as RFC 5780 section 6.1 asks.
//! RESPONSE-PORT and PADDING are not known. Requests without a cookie are answered as RFC 3489 has it.

mod binding;
mod classic;
mod stream;

use core::time::Duration;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use stun_types::attribute::ErrorCode;

use crate::rate::{Bucket, Sources};
use binding::CHANGE_REQUEST;
pub use binding::{Request, Response};
pub use stream::{Answers, Stream};

/// Magic cookie of RFC 5389 and later, where older messages begin their transaction id.
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
/// Largest request.
const MAX_REQUEST: usize = 1500;

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
    Now(Request<'a>),
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
        let request = match (Request::read(data), classic::Request::read(data)) {
            (Some(request), _) => Asked::Now(request),
            (None, Some(request)) => Asked::Classic(request),
            (None, None) => {
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
                if request.has_fingerprint() {
                    answer = answer.with_fingerprint();
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
        request: &Request<'_>,
        tcp: bool,
    ) -> Result<(Response, SocketAddr), Response> {
        let id = request.transaction();
        let unknown = request.unknown();
        if !unknown.is_empty() {
            return Err(Response::unknown_attributes(id, &unknown));
        }
        let Some(change) = request.change() else {
            return Err(Response::error(id, ErrorCode::BAD_REQUEST));
        };
        let Some(origin) = self.origin(local, change, tcp) else {
            return Err(Response::unknown_attributes(id, &[CHANGE_REQUEST]));
        };
        // Over UDP, where the request may be forged, only what it is about: RFC 5780 asks for the origin always.
        let is_about_origin = tcp || request.asks_for_change();
        let told = (is_about_origin && !origin.ip().is_unspecified()).then(|| plain(origin));
        Ok((Response::success(id, plain(from), told, self.other(local)), origin))
    }
}

/// A socket for both families gives IPv4 addresses an IPv6 form that no client could announce.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
