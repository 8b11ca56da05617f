//! What a NAT lets in, over UDP (RFC 5780 section 4.4): the server is asked plainly, and to answer from its other address
//! and from its other port. Which answers come tells the filter.

use core::time::Duration;
use std::net::SocketAddr;

use super::behaviour::Filtering;
use crate::cx::{Cx, Owner};
use crate::io::{CloseHow, SockId};
use crate::random::Domain;
use crate::time::Instant;
use crate::wire::Transport;
use crate::wire::stun::{self, BindingOutcome, ChangeRequest, TransactionId};

/// An answer that a filter may swallow is waited for this long at least.
pub(super) const SWALLOWED_AFTER: Duration = Duration::from_millis(150);
/// Questions are sent so often, an interval of that apart, and given up this long after the first.
const ASKED: u8 = 3;
const SILENT_AFTER: Duration = Duration::from_millis(600);

#[derive(Debug, Default)]
pub(super) struct FilterTest(State);

#[derive(Debug, Default)]
enum State {
    Binding(SockId),
    Asking {
        sock: SockId,
        ids: [TransactionId; 3],
        since: Instant,
        sent: u8,
        heard: Heard,
    },
    #[default]
    Over,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Heard {
    /// The plain answer, and when it came.
    plain: Option<Instant>,
    from_other_address: bool,
    from_other_port: bool,
    refused: bool,
}

impl FilterTest {
    pub(super) fn begin(cx: &mut Cx, owner: Owner, local: SocketAddr) -> Self {
        FilterTest(State::Binding(cx.bind_udp(owner, local)))
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.0, State::Over)
    }

    pub(super) fn sock(&self) -> Option<SockId> {
        match self.0 {
            State::Binding(sock) | State::Asking { sock, .. } => Some(sock),
            State::Over => None,
        }
    }

    /// Whether it was waited for.
    pub(super) fn bound(&mut self, cx: &mut Cx, server: Option<SocketAddr>) -> bool {
        let State::Binding(sock) = self.0 else { return false };
        let ids = [(); 3].map(|()| TransactionId(cx.random.bytes(Domain::StunTransaction)));
        self.0 = State::Asking { sock, ids, since: cx.now, sent: 0, heard: Heard::default() };
        self.ask(cx, server);
        true
    }

    /// Asks the plain question and both that want their answer from elsewhere.
    pub(super) fn ask(&mut self, cx: &mut Cx, server: Option<SocketAddr>) {
        // Every server has failed over TCP: there is none left to ask, and the deadline must not stand still.
        let Some(server) = server else { return self.end(cx) };
        let State::Asking { sock, ids, sent, heard, .. } = &mut self.0 else { return };
        if *sent >= ASKED || heard.plain.is_some() {
            return;
        }
        *sent += 1;
        let change = |ip, port| Some(ChangeRequest { ip, port });
        for (id, change) in ids.iter().zip([None, change(true, true), change(false, true)]) {
            cx.send_datagram(*sock, server, stun::binding_request(*id, change));
        }
    }

    /// Whether it was an answer of ours.
    pub(super) fn datagram(
        &mut self,
        cx: &mut Cx,
        server: Option<SocketAddr>,
        from: SocketAddr,
        data: &[u8],
    ) -> bool {
        let State::Asking { ids, heard, .. } = &mut self.0 else { return false };
        let reply = stun::decode_binding(data, Transport::Udp).ok();
        let Some((reply, n)) = reply.and_then(|r| Some((r, ids.iter().position(|id| *id == r.transaction)?)))
        else {
            cx.stats.bad_stun += 1;
            return false;
        };
        match (reply.outcome, n) {
            (BindingOutcome::Error(_), _) => heard.refused = true,
            (_, 0) if Some(from) == server => heard.plain = heard.plain.or(Some(cx.now)),
            // An answer counts for what it shows: where it came from.
            (_, 1) if server.is_some_and(|s| s.ip() != from.ip()) => heard.from_other_address = true,
            (_, 2) if server.is_some_and(|s| s != from) => heard.from_other_port = true,
            _ => {}
        }
        true
    }

    /// Ends the test when nothing is waited for. `patience` is how long an answer is waited for that a filter may
    /// swallow.
    pub(super) fn conclude(&mut self, cx: &mut Cx, patience: Duration) -> Option<Filtering> {
        let State::Asking { heard, since, .. } = &self.0 else { return None };
        let waited = heard.plain.is_some_and(|at| at + patience <= cx.now);
        let filtering = match heard {
            Heard { refused: true, .. } => None,
            Heard { from_other_address: true, .. } => Some(Filtering::EndpointIndependent),
            _ if !waited => {
                // No answer to the plain question either: nothing can be said.
                let silent = heard.plain.is_none() && *since + SILENT_AFTER <= cx.now;
                if silent {
                    self.end(cx);
                }
                return None;
            }
            Heard { from_other_port: true, .. } => Some(Filtering::AddressDependent),
            _ => Some(Filtering::AddressPortDependent),
        };
        self.end(cx);
        filtering
    }

    /// When it wants to be driven.
    pub(super) fn due(&self, patience: Duration) -> Option<Instant> {
        match &self.0 {
            State::Asking { heard: Heard { plain: Some(at), .. }, .. } => Some(*at + patience),
            State::Asking { since, sent, .. } if *sent < ASKED => {
                Some(*since + SWALLOWED_AFTER * u32::from(*sent))
            }
            State::Asking { since, .. } => Some(*since + SILENT_AFTER),
            State::Binding(_) | State::Over => None,
        }
    }

    pub(super) fn end(&mut self, cx: &mut Cx) {
        if let Some(sock) = self.sock() {
            cx.close(sock, CloseHow::Drop);
        }
        self.0 = State::Over;
    }
}
