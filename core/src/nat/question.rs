//! One STUN server that is asked for our outside address: at each of its addresses over UDP, then over TCP beside.

use core::time::Duration;
use std::net::{IpAddr, SocketAddr};

use smallvec::SmallVec;

use crate::address::is_internet;
use crate::cx::{Cx, Owner};
use crate::io::{CloseHow, SockId};
use crate::random::Domain;
use crate::server::{Dials, Race};
use crate::time::Instant;
use crate::wire::Transport;
use crate::wire::stun::{self, BindingOutcome, BindingReply, StunSplitter, TransactionId};

/// A transaction is sent over UDP at these times after its start.
const SEND_AT: [Duration; 3] = [Duration::ZERO, Duration::from_millis(500), Duration::from_millis(1500)];
/// Longest message read over TCP, in bytes.
const TCP_CREDIT: u32 = 2048;

/// A server and what it was asked.
#[derive(Debug)]
pub(super) struct Question {
    /// Place of the server in the configuration.
    place: usize,
    port: u16,
    ips: SmallVec<[IpAddr; 2]>,
    race: Race,
    asked: SmallVec<[Asked; 2]>,
    tcp: Stream,
}

/// The question to one address over UDP.
#[derive(Debug)]
struct Asked {
    id: TransactionId,
    at: SocketAddr,
    since: Instant,
    sent: usize,
}

/// The question over TCP.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a node has three for each of a few interfaces")]
enum Stream {
    NotYet,
    Dialling(Dials),
    Asking { sock: SockId, id: TransactionId, at: SocketAddr, splitter: StunSplitter },
    Failed,
}

impl Question {
    /// Makes the question; `limit` is the time in which further addresses are asked over UDP.
    pub(super) fn new(
        cx: &Cx,
        (place, host, port): (usize, &str, u16),
        ips: SmallVec<[IpAddr; 2]>,
        limit: Duration,
    ) -> Self {
        let race = Race::among(cx, host, &ips, limit);
        Question { place, port, ips, race, asked: SmallVec::new(), tcp: Stream::NotYet }
    }

    pub(super) fn place(&self) -> usize {
        self.place
    }

    pub(super) fn host(&self) -> &str {
        self.race.host()
    }

    /// Returns true if an address of the internet was asked.
    pub(super) fn is_at_the_internet(&self) -> bool {
        self.asked.iter().any(|asked| is_internet(asked.at.ip()))
    }

    /// Returns true if nothing can come over TCP any more.
    pub(super) fn has_failed_over_tcp(&self) -> bool {
        matches!(self.tcp, Stream::Failed)
    }

    /// Returns true if the question owns this stream.
    pub(super) fn has(&self, sock: SockId) -> bool {
        match &self.tcp {
            Stream::Dialling(dials) => dials.has(sock),
            Stream::Asking { sock: own, .. } => *own == sock,
            Stream::NotYet | Stream::Failed => false,
        }
    }

    /// Returns the time to ask again, over UDP if that is used, and over TCP if that has begun.
    pub(super) fn due(&self, udp: bool) -> Option<Instant> {
        let copies = self.asked.iter().filter_map(Asked::due).chain(self.race.due()).filter(|_| udp);
        let dials = if let Stream::Dialling(dials) = &self.tcp { dials.due() } else { None };
        copies.chain(dials).min()
    }

    /// Sends the copies over UDP that are due.
    pub(super) fn ask_over_udp(&mut self, cx: &mut Cx, sock: SockId) {
        while let Some(ip) = self.race.next(cx.now) {
            let id = TransactionId(cx.random.bytes(Domain::StunTransaction));
            let at = SocketAddr::new(ip, self.port);
            self.asked.push(Asked { id, at, since: cx.now, sent: 0 });
        }
        for asked in &mut self.asked {
            while asked.due().is_some_and(|at| at <= cx.now) {
                asked.sent += 1;
                cx.send_datagram(sock, asked.at, stun::binding_request(asked.id, None));
            }
        }
    }

    /// Begins or goes on to ask over TCP, within `limit` for all addresses together.
    pub(super) fn ask_over_tcp(&mut self, cx: &mut Cx, local: IpAddr, limit: Duration) {
        match &mut self.tcp {
            Stream::NotYet => {
                let race = Race::among(cx, self.race.host(), &self.ips, limit);
                let dials = Dials::start(cx, Owner::External, race, Some(local), self.port, None);
                self.tcp = Stream::Dialling(dials);
            }
            Stream::Dialling(dials) => dials.drive(cx),
            Stream::Asking { .. } | Stream::Failed => {}
        }
    }

    /// A dial has connected: asks.
    pub(super) fn connected(&mut self, cx: &mut Cx, sock: SockId) {
        let Stream::Dialling(dials) = &mut self.tcp else { return };
        let Some(ip) = dials.connected(cx, sock) else { return };
        let id = TransactionId(cx.random.bytes(Domain::StunTransaction));
        cx.read(sock, TCP_CREDIT);
        cx.send(sock, stun::binding_request(id, None));
        let at = SocketAddr::new(ip, self.port);
        self.tcp = Stream::Asking { sock, id, at, splitter: StunSplitter::new() };
    }

    /// A stream failed or ended.
    pub(super) fn failed(&mut self, cx: &mut Cx, sock: SockId) {
        let is_over = match &mut self.tcp {
            Stream::Dialling(dials) => dials.failed(cx, sock),
            _ => true,
        };
        if is_over {
            self.close(cx);
        }
    }

    /// Gives TCP up.
    pub(super) fn close(&mut self, cx: &mut Cx) {
        match core::mem::replace(&mut self.tcp, Stream::Failed) {
            Stream::Dialling(mut dials) => dials.close(cx),
            Stream::Asking { sock, .. } => cx.close(sock, CloseHow::Drop),
            Stream::NotYet | Stream::Failed => {}
        }
    }

    /// Returns true if this answers what was asked over UDP: only from the server that was asked, with its transaction.
    pub(super) fn is_answered_by(&self, from: SocketAddr, reply: &BindingReply) -> bool {
        self.asked.iter().any(|asked| asked.id == reply.transaction && asked.at == from)
    }

    /// Reads what came over TCP: the answer and who gave it. `None`: nothing whole yet, or no answer, which is counted and
    /// gives TCP up.
    pub(super) fn received(&mut self, cx: &mut Cx, data: &[u8]) -> Option<(SocketAddr, BindingOutcome)> {
        let Stream::Asking { splitter, id, at, .. } = &mut self.tcp else { return None };
        let message = match splitter.push(data).and_then(|()| splitter.next_message()) {
            Ok(None) => return None,
            Ok(message) => message,
            Err(_) => None,
        };
        let reply = message.and_then(|m| stun::decode_binding(&m, Transport::Tcp).ok());
        let Some(reply) = reply.filter(|reply| reply.transaction == *id) else {
            cx.stats.bad_stun += 1;
            self.close(cx);
            return None;
        };
        Some((*at, reply.outcome))
    }
}

impl Asked {
    /// Returns the time of the next copy.
    fn due(&self) -> Option<Instant> {
        SEND_AT.get(self.sent).map(|after| self.since + *after)
    }
}
