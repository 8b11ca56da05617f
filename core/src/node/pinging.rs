//! Round trips to peers by the brokers that both share: the ECHO message of the P2PD documents.

use core::time::Duration;
use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::{ConnectError, Node};
use crate::address::PeerAddress;
use crate::identity::NodeId;
use crate::notice::Notice;
use crate::random::Domain;
use crate::session::SessionId;
use crate::signal::message::Body;
use crate::time::Instant;

/// Most pings without an answer.
const MAX_PINGS: usize = 256;
/// An answer that comes later is none.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Length of the payload: not that of the probes to ourselves, which name a process.
const PAYLOAD: usize = 12;

/// Pings that wait for an answer, by their random payloads: the peer, the user's number, and the time of sending.
pub(super) type Pings = BTreeMap<[u8; PAYLOAD], (NodeId, u32, Instant)>;

impl Node {
    /// Sends a peer an ECHO by every broker that is ready and that both share; returns how many they are.
    /// [`Notice::Pong`] tells of the first answer, with this `number`. A peer answers nodes that it
    /// accepts; others too rarely to be relied on.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn ping(&mut self, now: Instant, to: &PeerAddress, number: u32) -> Result<u8, ConnectError> {
        self.advance(now);
        if self.is_shut() {
            return Err(ConnectError::Shutdown);
        }
        let peer = NodeId::try_from(to.node()).map_err(ConnectError::NodeId)?;
        let now = self.cx.now;
        self.pings.retain(|_, (.., sent)| now.since(*sent) < ANSWER_WITHIN);
        if self.pings.len() >= MAX_PINGS {
            return Err(ConnectError::TooMany);
        }
        let payload: [u8; PAYLOAD] = self.cx.random.bytes(Domain::MessageId);
        let session = SessionId(self.cx.random.bytes(Domain::SessionId));
        let via = self.signalling.shared_with(to);
        let (_, sealed) =
            self.signalling.seal(&mut self.cx, peer, session, 0, Body::Echo(SmallVec::from_slice(&payload)));
        let brokers = self.signalling.publish(&mut self.cx, peer, &sealed, &via, now + ANSWER_WITHIN);
        if brokers > 0 {
            self.pings.insert(payload, (peer, number, now));
        }
        self.settle();
        Ok(brokers)
    }

    /// Returns true if this is what a ping of ours to the peer said.
    pub(super) fn is_pong(&self, from: NodeId, payload: &[u8]) -> bool {
        let sent = <[u8; PAYLOAD]>::try_from(payload).ok().and_then(|payload| self.pings.get(&payload));
        sent.is_some_and(|(peer, ..)| *peer == from)
    }

    /// Takes an answer that came over the broker at this place.
    pub(super) fn pong(&mut self, from: NodeId, payload: &[u8], via: Option<u8>) {
        let broker = via.and_then(|place| self.config.brokers.get(usize::from(place))).map(|b| b.id);
        if let (Ok(payload), Some(broker)) = (<[u8; PAYLOAD]>::try_from(payload), broker)
            && let Some((_, number, sent)) = self.pings.remove(&payload)
        {
            let took = self.cx.now.since(sent);
            self.cx.notify(Notice::Pong { peer: from, number, broker, took });
        }
    }
}
