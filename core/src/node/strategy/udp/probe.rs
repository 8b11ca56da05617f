//! Probes: the small datagrams that open the way between two sockets.
//!
//! ```text
//! PROBE  4 (of the requester) or 5 (of the responder) | proof 16
//! ```
//! A probe is no QUIC packet, whose second bit is set, and shorter than any STUN message. The proof is a hash under the secret
//! that the two ends alone can compute, and under the random bytes of both. So nobody else can make one before it has seen it.

use crate::identity::{NodeId, SecretKey};
use crate::noise;
use crate::session::SessionId;
use crate::strategy::agreement::{Requester, other};

/// Bytes of a probe.
pub(super) const LENGTH: usize = 17;

const OF_REQUESTER: u8 = 4;
const OF_RESPONDER: u8 = 5;

/// Probes of both ends of one attempt.
#[derive(Clone, Copy)]
pub(super) struct Probes {
    ours: [u8; LENGTH],
    theirs: [u8; LENGTH],
}

impl Probes {
    /// Makes the probes of one attempt. `secrets` are the random bytes of the requester and of the responder.
    pub(super) fn new(
        ours: &SecretKey,
        peer: &NodeId,
        (session, by): (SessionId, Requester),
        secrets: [[u8; 16]; 2],
    ) -> Self {
        let secret = noise::shared_secret(ours, peer);
        let of = |by: Requester| {
            let kind = if by == Requester::Us { OF_REQUESTER } else { OF_RESPONDER };
            let [first, second] = &secrets;
            let label = [&b"p2pd udp"[..], &[kind], &session.0, first, second];
            let mut probe = [kind; LENGTH];
            probe[1..].copy_from_slice(&noise::derive(&secret, &label)[..LENGTH - 1]);
            probe
        };
        Probes { ours: of(by), theirs: of(other(by)) }
    }

    /// Returns the datagram that we send.
    pub(super) fn ours(&self) -> [u8; LENGTH] {
        self.ours
    }

    /// Returns true if a datagram is the peer's probe.
    pub(super) fn is_theirs(&self, datagram: &[u8]) -> bool {
        datagram.len() == LENGTH
            && datagram.iter().zip(&self.theirs).fold(0, |all, (a, b)| all | (a ^ b)) == 0
    }
}

/// Returns true if a datagram may be a packet of QUIC (RFC 9000 section 17: the fixed bit).
pub(super) fn may_be_quic(datagram: &[u8]) -> bool {
    datagram.len() > LENGTH && datagram[0] & 0x40 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_the_other_ends_of_this_attempt_and_session() {
        let key = |n: u8| SecretKey::from_bytes([n; 32]);
        let session = |n: u8| SessionId([n; 16]);
        let secrets = [[1; 16], [2; 16]];
        let a = Probes::new(&key(1), &key(2).node_id(), (session(1), Requester::Us), secrets);
        let b = Probes::new(&key(2), &key(1).node_id(), (session(1), Requester::Them), secrets);
        assert!(a.is_theirs(&b.ours()) && b.is_theirs(&a.ours()));
        assert!(!a.is_theirs(&a.ours()), "a service that repeats everything");
        for other in [
            Probes::new(&key(2), &key(1).node_id(), (session(2), Requester::Them), secrets),
            Probes::new(&key(3), &key(1).node_id(), (session(1), Requester::Them), secrets),
            Probes::new(&key(2), &key(1).node_id(), (session(1), Requester::Them), [[1; 16], [3; 16]]),
            Probes::new(&key(2), &key(1).node_id(), (session(1), Requester::Them), [[3; 16], [2; 16]]),
        ] {
            assert!(!a.is_theirs(&other.ours()));
        }
        assert!(!a.is_theirs(&b.ours()[..16]) && !a.is_theirs(&[]));
        assert!(!may_be_quic(&a.ours()) && may_be_quic(&[0xc0; 1200]) && !may_be_quic(&[0x80; 1200]));
    }
}
