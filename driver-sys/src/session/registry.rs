//! Sessions that a listener knows, so that a carrier finds its own.

use std::collections::HashMap;

use p2pd_core::NodeId;
use p2pd_core::pipe::session::SessionToken;

/// The most sessions that peers have opened, at a time.
pub const MAX_SESSIONS: usize = 4096;
/// The most of them that one peer has. A session outlives its carriers, so places for pipes do not bound them.
pub const MAX_OF_PEER: usize = 64;

/// Sessions that peers have opened, by peer and token.
#[derive(Debug)]
pub struct Registry<T> {
    all: HashMap<(NodeId, SessionToken), T>,
    of_peer: HashMap<NodeId, usize>,
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Registry { all: HashMap::new(), of_peer: HashMap::new() }
    }
}

impl<T> Registry<T> {
    /// Returns a session.
    pub fn get(&self, peer: NodeId, token: SessionToken) -> Option<&T> {
        self.all.get(&(peer, token))
    }

    /// Returns true if there is room for one more session of this peer.
    pub fn has_room(&self, peer: NodeId) -> bool {
        self.all.len() < MAX_SESSIONS && self.of_peer.get(&peer).copied().unwrap_or(0) < MAX_OF_PEER
    }

    /// Adds a session. Returns false if there is no room, or there is one of this token.
    pub fn insert(&mut self, peer: NodeId, token: SessionToken, session: T) -> bool {
        if !self.has_room(peer) || self.all.contains_key(&(peer, token)) {
            return false;
        }
        self.all.insert((peer, token), session);
        *self.of_peer.entry(peer).or_default() += 1;
        true
    }

    /// Removes a session that is over.
    pub fn remove(&mut self, peer: NodeId, token: SessionToken) -> Option<T> {
        let session = self.all.remove(&(peer, token))?;
        if let Some(count) = self.of_peer.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                self.of_peer.remove(&peer);
            }
        }
        Some(session)
    }
}

#[cfg(test)]
mod tests {
    use p2pd_core::SecretKey;

    use super::*;

    fn token(n: u8) -> SessionToken {
        SessionToken([n; 32])
    }

    #[test]
    fn a_peer_has_so_many_sessions_and_finds_its_own_alone() {
        let [a, b] = [1, 2].map(|n| SecretKey::from_bytes([n; 32]).node_id());
        let mut registry = Registry::default();
        for n in 0..MAX_OF_PEER as u8 {
            assert!(registry.insert(a, token(n), n));
        }
        assert!(!registry.insert(a, token(200), 200));
        assert!(registry.insert(b, token(0), 100) && !registry.insert(b, token(0), 101));
        assert_eq!((registry.get(a, token(0)), registry.get(b, token(0))), (Some(&0), Some(&100)));
        assert_eq!(registry.get(b, token(1)), None);
        assert_eq!((registry.remove(a, token(3)), registry.remove(a, token(3))), (Some(3), None));
        assert!(registry.insert(a, token(200), 200) && !registry.has_room(a));
        assert_eq!(registry.remove(b, token(0)), Some(100));
        assert_eq!(registry.of_peer.len(), 1);
    }
}
