//! Knocks: a few small datagrams by which a stranger's relay shows that somebody is there, before it is sent whole
//! packets.
//!
//! ```text
//! KNOCK   1 | token 16     responder -> requester, to the relayed address that the requester named
//! ANSWER  2 | proof 16     back
//! CALL    3 | proof 16     to a relayed address that the peer named with a token, which causes a KNOCK
//! ```
//! Neither is a QUIC packet, whose second bit is set. The token is random. The proof is a keyed hash of it under a
//! secret that the two ends alone can compute. So neither a service that repeats what it gets nor anybody else can give
//! it.

use core::time::Duration;

use crate::identity::{NodeId, SecretKey};
use crate::noise;
use crate::session::SessionId;
use crate::time::Instant;

/// Bytes of a knock or an answer.
pub(super) const LENGTH: usize = 17;
/// Most knocks for one request. With headers they are 135 bytes; the request had 200 at least.
pub(super) const KNOCKS: u8 = 3;
/// Knocks kept for a relayed address of our own, if we have servers.
const BY_SERVER: u8 = 1;
/// Delay of the first knock, after twice the way to the broker. The knock has to come behind the requester's
/// permission.
const FIRST: Duration = Duration::from_millis(60);
/// Pause between two knocks.
const PAUSE: Duration = Duration::from_millis(300);
/// Delay of the only knock by our own server, which has to be later than a permission there too.
const LAST: Duration = Duration::from_millis(250);

const KNOCK: u8 = 1;
const ANSWER: u8 = 2;
const CALL: u8 = 3;

/// The key of one session's proofs.
#[derive(Clone, Copy)]
pub(in crate::node) struct KnockKey([u8; 32]);

impl KnockKey {
    pub(in crate::node) fn new(ours: &SecretKey, peer: &NodeId, session: SessionId) -> Self {
        let secret = noise::shared_secret(ours, peer);
        KnockKey(noise::derive(&secret, &[b"p2pd knock", &session.0]))
    }

    /// Returns the answer to a datagram, if that is a knock.
    pub(in crate::node) fn answer(&self, datagram: &[u8]) -> Option<[u8; LENGTH]> {
        let token = datagram.strip_prefix(&[KNOCK]).filter(|token| token.len() == LENGTH - 1)?;
        Some(self.framed(ANSWER, &[token]))
    }

    /// Returns the call that the holder of a token makes. It names the asker, whom the key does not tell from the
    /// peer: an asker that is sent its own token does not call itself.
    pub(in crate::node) fn call(&self, token: &[u8; 16], asker: &NodeId) -> [u8; LENGTH] {
        self.framed(CALL, &[token, asker.as_bytes()])
    }

    /// Returns a knock, and the one answer to it.
    pub(in crate::node) fn knock(&self, token: &[u8; 16]) -> [[u8; LENGTH]; 2] {
        [framed(KNOCK, token), self.framed(ANSWER, &[token])]
    }

    fn framed(&self, kind: u8, of: &[&[u8]]) -> [u8; LENGTH] {
        let mut proof = [0; 16];
        proof.copy_from_slice(&noise::derive(&self.0, &[&[&[kind][..]][..], of].concat())[..16]);
        framed(kind, &proof)
    }
}

fn framed(kind: u8, content: &[u8; 16]) -> [u8; LENGTH] {
    let mut datagram = [kind; LENGTH];
    datagram[1..].copy_from_slice(content);
    datagram
}

/// Knocks of the responder, as long as nobody has answered yet.
pub(super) struct Knock {
    knock: [u8; LENGTH],
    answer: [u8; LENGTH],
    left: u8,
    next: Option<Instant>,
}

impl Knock {
    pub(super) fn new(key: &KnockKey, token: [u8; 16]) -> Self {
        let [knock, answer] = key.knock(&token);
        Knock { knock, answer, left: KNOCKS, next: None }
    }

    /// Begins to knock, as the requester is being told where we come from. `delay` is our way to the broker. `last` is
    /// by our own server.
    pub(super) fn begin(&mut self, now: Instant, delay: Duration, last: bool) {
        self.next = Some(now + 2 * delay + if last { LAST } else { FIRST });
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.next.filter(|_| self.left > 0)
    }

    /// Returns the datagram that is due. `spare`: one is to be left for our own server.
    pub(super) fn due(&mut self, now: Instant, spare: bool) -> Option<[u8; LENGTH]> {
        self.poll_timeout().filter(|at| *at <= now)?;
        let kept = if spare { BY_SERVER } else { 0 };
        if self.left <= kept {
            self.next = None;
            return None;
        }
        let left = self.left - 1;
        self.next = (left > kept).then_some(now + PAUSE);
        self.left = left;
        Some(self.knock)
    }

    pub(super) fn is_answer(&self, datagram: &[u8]) -> bool {
        datagram == self.answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> SecretKey {
        SecretKey::from_bytes([n; 32])
    }

    #[test]
    fn only_the_other_end_of_this_session_answers() {
        let session = |n: u8| SessionId([n; 16]);
        let asked = KnockKey::new(&key(1), &key(2).node_id(), session(1));
        let mut knock = Knock::new(&asked, [7; 16]);
        knock.begin(Instant::ZERO, Duration::ZERO, false);
        let datagram = knock.due(Instant::ZERO + FIRST, false).unwrap();
        assert!(!knock.is_answer(&datagram), "a service that repeats everything");
        let requester = KnockKey::new(&key(2), &key(1).node_id(), session(1));
        assert!(knock.is_answer(&requester.answer(&datagram).unwrap()));
        for other in [
            KnockKey::new(&key(2), &key(1).node_id(), session(2)),
            KnockKey::new(&key(3), &key(1).node_id(), session(1)),
        ] {
            assert!(!knock.is_answer(&other.answer(&datagram).unwrap()));
        }
        for bad in [&datagram[..16], &[0; LENGTH], &[ANSWER; LENGTH], &[]] {
            assert_eq!(requester.answer(bad), None);
        }
    }

    #[test]
    fn three_in_all_one_of_them_for_our_server() {
        let mut knock = Knock::new(&KnockKey([0; 32]), [7; 16]);
        let at = Instant::ZERO + Duration::from_secs(1);
        assert_eq!(knock.due(at, true), None, "not begun");
        knock.begin(Instant::ZERO, Duration::ZERO, false);
        assert_eq!(knock.due(Instant::ZERO, true), None);
        assert!(knock.due(at, true).is_some());
        assert_eq!(knock.due(at, true), None, "not at once");
        assert!(knock.due(at + PAUSE, true).is_some());
        assert_eq!(knock.poll_timeout(), None);
        // What is kept for our server is not spent when we say again where we come from.
        knock.begin(at, Duration::ZERO, false);
        assert_eq!((knock.due(at + LAST, true), knock.poll_timeout()), (None, None));
        knock.begin(at, Duration::ZERO, true);
        assert!(knock.due(at + LAST, false).is_some());
        knock.begin(at, Duration::ZERO, false);
        assert_eq!((knock.due(at + LAST, false), knock.poll_timeout()), (None, None));
    }
}
