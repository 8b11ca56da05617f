//! Test of a NAT's filtering over UDP (RFC 5780 section 4.4). The server gets a plain request, one to answer from its
//! other address, and one to answer from its other port. The answers that arrive tell the filtering. They count only if
//! the server names another address and does not ignore CHANGE-REQUEST. Of other servers nothing can be concluded.

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
    /// The server refuses such questions, or answers them from where it was asked.
    useless: bool,
    /// OTHER-ADDRESS of the plain answer.
    other: Option<SocketAddr>,
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

    /// Sends the requests once the socket is bound. Returns false if the test did not wait for a socket.
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

    /// Handles a datagram. Returns true if it was an answer to one of our requests.
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
            (BindingOutcome::Error(_), _) => heard.useless = true,
            (_, 0) if Some(from) == server => {
                heard.plain = heard.plain.or(Some(cx.now));
                heard.other = heard.other.or(reply.other.filter(|other| *other != from));
            }
            (_, 0) => {}
            // An answer counts for what it shows: where it came from.
            (_, 1) if server.is_some_and(|s| s.ip() != from.ip()) => heard.from_other_address = true,
            (_, 2) if server.is_some_and(|s| s != from) => heard.from_other_port = true,
            _ => heard.useless = true,
        }
        true
    }

    /// Ends the test when nothing is waited for. `patience` is how long an answer is waited for that a filter may
    /// swallow.
    pub(super) fn conclude(&mut self, cx: &mut Cx, patience: Duration) -> Option<Filtering> {
        let State::Asking { heard, since, .. } = &self.0 else { return None };
        let waited = heard.plain.is_some_and(|at| at + patience <= cx.now);
        let filtering = match heard {
            Heard { from_other_address: true, .. } => Some(Filtering::EndpointIndependent),
            Heard { useless: true, .. } => None,
            _ if !waited => {
                // No answer to the plain question either: nothing can be said.
                let silent = heard.plain.is_none() && *since + SILENT_AFTER <= cx.now;
                if silent {
                    self.end(cx);
                }
                return None;
            }
            // It would not have answered in any case.
            Heard { other: None, .. } => None,
            Heard { from_other_port: true, .. } => Some(Filtering::AddressDependent),
            Heard { .. } => Some(Filtering::AddressPortDependent),
        };
        self.end(cx);
        filtering
    }

    /// Returns the time of the next step, if one is due.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Output;

    const SERVER: &str = "198.51.100.1:3478";
    const OTHER: [u8; 12] = [0x80, 0x2c, 0, 8, 0, 1, 0x0d, 0x97, 198, 51, 100, 2];

    fn at(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(ms)
    }

    /// Returns the verdict where the server's plain answer has OTHER-ADDRESS or not, and these answers come, by question.
    fn found(has_other: bool, answers: &[(usize, &str)]) -> Option<Filtering> {
        let mut cx = Cx::new([1; 32], Instant::ZERO);
        let server: Option<SocketAddr> = SERVER.parse().ok();
        let mut test = FilterTest::begin(&mut cx, Owner::Survey(0), ([203, 0, 113, 1], 0).into());
        assert!(test.bound(&mut cx, server));
        let mut ids = Vec::new();
        while let Some(output) = cx.pop_output() {
            if let Output::SendDatagram { data, .. } = output {
                ids.push(data[8..20].to_vec());
            }
        }
        for (n, from) in core::iter::once((0, SERVER)).chain(answers.iter().copied()) {
            let other: &[u8] = if has_other && n == 0 { &OTHER } else { &[] };
            let mapped = [0, 0x20, 0, 8, 0, 1, 0x21, 0x12, 0x21 ^ 203, 0x12, 0xa4 ^ 113, 0x42 ^ 1];
            let mut data = vec![1, 1, 0, (mapped.len() + other.len()) as u8, 0x21, 0x12, 0xa4, 0x42];
            data.extend([&ids[n][..], &mapped, other].concat());
            assert!(test.datagram(&mut cx, server, from.parse().unwrap(), &data));
        }
        cx.now = at(200);
        let found = test.conclude(&mut cx, SWALLOWED_AFTER);
        assert!(test.is_over());
        found
    }

    #[test]
    fn a_filter_is_told_only_by_a_server_that_can_answer_from_elsewhere() {
        let (address, port) = ("198.51.100.2:3479", "198.51.100.1:3479");
        assert_eq!(found(true, &[(1, address), (2, port)]), Some(Filtering::EndpointIndependent));
        assert_eq!(found(true, &[(2, port)]), Some(Filtering::AddressDependent));
        assert_eq!(found(true, &[]), Some(Filtering::AddressPortDependent));
        assert_eq!(found(false, &[]), None, "it drops such questions");
        for has_other in [false, true] {
            assert_eq!(found(has_other, &[(1, SERVER), (2, SERVER)]), None, "it ignores what they ask for");
            assert_eq!(found(has_other, &[(2, SERVER)]), None);
        }
    }
}
