//! Round trips to peers by the brokers that both share: the ECHO message of the P2PD documents.

use core::time::Duration;
use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::Signalling;
use crate::address::PeerAddress;
use crate::cx::Cx;
use crate::event::Event;
use crate::identity::NodeId;
use crate::random::Domain;
use crate::session::SessionId;
use crate::signal::message::Body;
use crate::time::Instant;

/// Most pings without an answer.
const MAX_PINGS: usize = 256;
/// An answer that comes later is none.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Length of the payload: not that of the probes to ourselves, which name a process.
pub(super) const PAYLOAD: usize = 12;

/// Pings that wait for an answer, by their random payloads: the peer, the user's number, and the time of sending.
pub(super) type Pings = BTreeMap<[u8; PAYLOAD], (NodeId, u32, Instant)>;

impl Signalling {
    /// Sends a peer an ECHO by every broker that is ready and that both share. Returns how many they are; `None` if too
    /// many pings wait for an answer.
    pub(in crate::node) fn ping(
        &mut self,
        cx: &mut Cx,
        peer: NodeId,
        to: &PeerAddress,
        number: u32,
    ) -> Option<u8> {
        let now = cx.now;
        self.pings.retain(|_, (.., sent)| now.since(*sent) < ANSWER_WITHIN);
        if self.pings.len() >= MAX_PINGS {
            return None;
        }
        let payload: [u8; PAYLOAD] = cx.random.bytes(Domain::MessageId);
        let session = SessionId(cx.random.bytes(Domain::SessionId));
        let via = self.shared_with(to);
        let (_, sealed) = self.seal(cx, peer, session, 0, Body::Echo(SmallVec::from_slice(&payload)));
        let brokers = self.publish(cx, peer, &sealed, &via, now + ANSWER_WITHIN);
        if brokers > 0 {
            self.pings.insert(payload, (peer, number, now));
        }
        Some(brokers)
    }

    /// Returns true if this is what a ping of ours to the peer said.
    pub(in crate::node) fn is_pong(&self, from: NodeId, payload: &[u8]) -> bool {
        let sent = <[u8; PAYLOAD]>::try_from(payload).ok().and_then(|payload| self.pings.get(&payload));
        sent.is_some_and(|(peer, ..)| *peer == from)
    }

    /// Takes an answer that came over the broker at this place.
    pub(in crate::node) fn pong(&mut self, cx: &mut Cx, from: NodeId, payload: &[u8], via: Option<u8>) {
        let broker = via.and_then(|place| self.id(place));
        if let (Ok(payload), Some(broker)) = (<[u8; PAYLOAD]>::try_from(payload), broker)
            && let Some((_, number, sent)) = self.pings.remove(&payload)
        {
            let took = cx.now.since(sent);
            cx.notify(Event::Pong { peer: from, number, broker, took });
        }
    }
}
