//! Messages of strangers, and the addresses that they name.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use p2pd_core::strangers::{Letter, Matter};
use p2pd_core::{NodeId, PeerAddress, SecretKey, WallTime};

use super::{Aim, BYSTANDER, INSIDE_PORT, NOBODY, OPEN, Plea, Whose};

/// Requests to one node about one address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Asked {
    /// Number of messages.
    pub requests: u64,
    /// Bytes of those messages.
    pub bytes: u64,
}

/// Requests by the node that received them and the address that they name.
pub type AllAsked = BTreeMap<(NodeId, IpAddr), Asked>;

/// A stranger's message: the state from which its content is drawn.
pub(super) struct Draft<'a> {
    pub(super) from: &'a SecretKey,
    /// Address at which the stranger itself can be dialled.
    pub(super) own: SocketAddr,
    pub(super) sent: WallTime,
    /// Draws, each below a bound.
    pub(super) below: &'a mut dyn FnMut(u64) -> u64,
}

impl Draft<'_> {
    /// The payload for this node, and the addresses that it names.
    pub(super) fn write(&mut self, plea: Plea, aim: &Aim) -> (Bytes, Vec<IpAddr>) {
        let (id, session) = (self.bytes(), self.bytes());
        let mut named = Vec::new();
        let mut where_to = |draft: &mut Self, whose| {
            let all = draft.places(whose, aim);
            named = all.iter().map(SocketAddr::ip).collect();
            (all[0], draft.address(&all))
        };
        let matter = match plea {
            Plea::Dial(whose) => where_to(self, whose).1.map(Matter::Direct),
            Plea::Punch(whose) => {
                let (at, address) = where_to(self, whose);
                let ports = (0..(self.below)(8)).map(|n| at.port().wrapping_add(n as u16).max(1)).collect();
                address.map(|address| Matter::Punch(address, at.ip(), ports))
            }
            Plea::Relay(whose) => {
                let (at, _) = where_to(self, whose);
                let own = [self.own];
                self.address(&own).map(|address| Matter::Relay(address, at))
            }
            Plea::Echo => Some(Matter::Echo(vec![7; (self.below)(65) as usize])),
            Plea::Clock => Some(Matter::Clock(self.bytes(), self.sent)),
            Plea::Dialled => Some(Matter::Dialled(vec![self.own; (self.below)(7) as usize])),
            Plea::Refused => Some(Matter::Refused),
            Plea::Noise => None,
        };
        let entropy = [self.bytes(), self.bytes()].concat().try_into().unwrap_or([1; 32]);
        let payload = match matter {
            Some(matter) => {
                Letter { id, session, sent: self.sent, matter }.seal(self.from, &aim.node, entropy)
            }
            None => [[1; 16], id, session].concat().into(),
        };
        (payload, named)
    }

    fn bytes(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&(self.below)(u64::MAX).to_le_bytes());
        bytes[8..].copy_from_slice(&(self.below)(u64::MAX).to_le_bytes());
        bytes
    }

    /// Returns the addresses that a message names: three at most, one at least.
    fn places(&mut self, whose: Whose, aim: &Aim) -> Vec<SocketAddr> {
        match whose {
            Whose::Own => vec![self.own],
            Whose::Third => {
                let ip = [BYSTANDER, NOBODY][(self.below)(2) as usize];
                let port = [OPEN[0], OPEN[1], 53, 4_000 + (self.below)(1_000) as u16];
                vec![SocketAddr::new(ip, port[(self.below)(4) as usize])]
            }
            Whose::Inside => {
                let count = 1 + (self.below)(3);
                let one = |_| aim.inside[(self.below)(aim.inside.len() as u64) as usize];
                (0..count).map(one).map(|ip| SocketAddr::new(ip, INSIDE_PORT)).collect()
            }
        }
    }

    /// The stranger's address, as it wants it to be: inside ones stand in both places where an address may stand.
    fn address(&mut self, at: &[SocketAddr]) -> Option<PeerAddress> {
        let one = |(n, to): (usize, &SocketAddr)| format!("[{n},{0},{0},{1},1,1,0]", to.ip(), to.port());
        let list: Vec<String> = at.iter().enumerate().map(one).collect();
        let text = format!("0-{}-0-{}", list.join("|"), self.from.node_id());
        text.parse().ok()
    }
}
