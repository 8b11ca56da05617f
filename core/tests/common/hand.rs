//! Ends of streams that follow a script instead of the protocol.

use std::net::{IpAddr, SocketAddr};

use p2pd_core::SockId;

use super::{End, World};

/// Action to take after this many bytes came in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Script {
    pub after: usize,
    pub then: Then,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Then {
    Silence,
    Close,
    Reset,
    Say(Vec<u8>),
}

#[derive(Debug)]
pub struct Hand {
    script: Option<Script>,
    pub received: Vec<u8>,
    /// The other end closed.
    pub closed: bool,
}

impl Hand {
    pub(super) fn new(script: Script) -> Hand {
        Hand { script: Some(script), received: Vec::new(), closed: false }
    }
}

impl World {
    /// Opens a stream to a node's listener and says these bytes.
    pub fn dial_by_hand(&mut self, to: usize, say: &[u8]) -> usize {
        self.dial_by_hand_from(to, [198, 51, 100, 99].into(), say)
    }

    /// The same from this address.
    pub fn dial_by_hand_from(&mut self, to: usize, from: IpAddr, say: &[u8]) -> usize {
        let host = &self.hosts[to];
        let local = SocketAddr::new(host.inside, 4000);
        let from = SocketAddr::new(from, 1024 + self.hands.len() as u16);
        self.hands.push(Hand::new(Script { after: usize::MAX, then: Then::Silence }));
        let hand = self.hands.len() - 1;
        let end = End::Node(to, SockId::accepted(self.accepted));
        self.accepted += 1;
        self.join(End::Hand(hand), end);
        self.accept(end, from, local);
        self.send(End::Hand(hand), say.to_vec());
        hand
    }

    pub(super) fn hand_received(&mut self, h: usize, data: &[u8]) {
        let hand = &mut self.hands[h];
        hand.received.extend_from_slice(data);
        let received = hand.received.len();
        let Some(script) = hand.script.take_if(|s| s.after <= received) else { return };
        match script.then {
            Then::Silence => {}
            Then::Close => self.close(End::Hand(h), false),
            Then::Reset => self.close(End::Hand(h), true),
            Then::Say(bytes) => self.send(End::Hand(h), bytes),
        }
    }
}
