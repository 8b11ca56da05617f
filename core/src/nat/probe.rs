//! A connection to a STUN server for a single Binding request.

use core::time::Duration;
use std::net::SocketAddr;

use crate::cx::{Cx, Owner};
use crate::io::{Reuse, SockId, SockOpts};
use crate::random::Domain;
use crate::time::Instant;
use crate::wire::Transport;
use crate::wire::stun::{self, BindingOutcome, BindingReply, StunSplitter, TransactionId};

/// A connection and its answer may take this long.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_millis(1500);
const TCP_CREDIT: u32 = 2048;

/// Connection for a single request.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) local: u16,
    pub(super) began: Instant,
    transaction: TransactionId,
    splitter: StunSplitter,
    pub(super) answered: bool,
}

impl Probe {
    /// Begins a connection.
    pub(super) fn dial(
        cx: &mut Cx,
        owner: Owner,
        local: SocketAddr,
        to: SocketAddr,
        after: Duration,
    ) -> (SockId, Self) {
        let opts = SockOpts { reuse: Reuse::AddressAndPort, nodelay: true };
        let at = cx.now + after;
        let sock = cx.dial_at(owner, local, to, opts, at, at + ANSWER_WITHIN);
        let transaction = TransactionId(cx.random.bytes(Domain::StunTransaction));
        let splitter = StunSplitter::new();
        (sock, Probe { local: local.port(), began: at, transaction, splitter, answered: false })
    }

    /// The connection is there.
    pub(super) fn ask(&self, cx: &mut Cx, sock: SockId) {
        cx.read(sock, TCP_CREDIT);
        cx.send(sock, stun::binding_request(self.transaction, None));
    }

    /// The same on a connection that has been answered on before.
    pub(super) fn ask_again(&mut self, cx: &mut Cx, sock: SockId) {
        self.answered = false;
        self.transaction = TransactionId(cx.random.bytes(Domain::StunTransaction));
        cx.send(sock, stun::binding_request(self.transaction, None));
    }

    /// `None`: more bytes are needed. `Some(None)`: what came is no answer.
    #[allow(clippy::option_option, reason = "two different nothings, each told above")]
    pub(super) fn answer(&mut self, cx: &mut Cx, data: &[u8]) -> Option<Option<BindingReply>> {
        if self.answered {
            return None;
        }
        let message = self.splitter.push(data).and_then(|()| self.splitter.next_message());
        let reply = match message {
            Ok(None) => return None,
            Ok(Some(message)) => stun::decode_binding(&message, Transport::Tcp).ok(),
            Err(_) => None,
        };
        self.answered = true;
        let ours = reply.filter(|r| r.transaction == self.transaction);
        if ours.is_none() {
            cx.stats.bad_stun += 1;
        }
        Some(ours)
    }
}

/// Returns the address that the server saw.
pub(super) fn mapped(reply: &BindingReply) -> Option<SocketAddr> {
    match reply.outcome {
        // No peer would take port 0 from us.
        BindingOutcome::Mapped(seen) => Some(seen).filter(|s| s.port() != 0),
        BindingOutcome::Error(_) => None,
    }
}
