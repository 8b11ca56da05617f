//! Sessions that a listener knows, so that a carrier finds its own.

use std::collections::HashMap;

use p2pd_core::NodeId;
use p2pd_core::pipe::session::SessionToken;

/// The most sessions that peers have opened, at a time.
const MAX_SESSIONS: usize = 4096;
/// The most of them that strangers have.
const MAX_STRANGERS: usize = MAX_SESSIONS / 4 * 3;
/// The most that one named peer has. A session outlives its carriers, so places for pipes do not bound them.
const MAX_OF_PEER: usize = 64;
/// The most that one stranger has.
const MAX_OF_STRANGER: usize = 8;

/// Sessions that peers have opened, by peer and token.
#[derive(Debug)]
pub struct Registry<T> {
    all: HashMap<(NodeId, SessionToken), (bool, T)>,
    /// Number of sessions of peers that were not named.
    strangers: usize,
    of_peer: HashMap<NodeId, usize>,
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Registry { all: HashMap::new(), strangers: 0, of_peer: HashMap::new() }
    }
}

impl<T> Registry<T> {
    /// Returns a session.
    pub fn get(&self, peer: NodeId, token: SessionToken) -> Option<&T> {
        self.all.get(&(peer, token)).map(|(_, session)| session)
    }

    /// Returns true if there is room for one more session of this peer, which the user named or not.
    pub fn has_room(&self, peer: NodeId, named: bool) -> bool {
        let of_peer = self.of_peer.get(&peer).copied().unwrap_or(0);
        let its = match named {
            true => of_peer < MAX_OF_PEER,
            false => of_peer < MAX_OF_STRANGER && self.strangers < MAX_STRANGERS,
        };
        its && self.all.len() < MAX_SESSIONS
    }

    /// Adds a session. Returns false if there is no room, or there is one of this token.
    pub fn insert(&mut self, peer: NodeId, token: SessionToken, named: bool, session: T) -> bool {
        if !self.has_room(peer, named) || self.all.contains_key(&(peer, token)) {
            return false;
        }
        self.all.insert((peer, token), (named, session));
        self.strangers += usize::from(!named);
        *self.of_peer.entry(peer).or_default() += 1;
        true
    }

    /// Removes a session that is over.
    pub fn remove(&mut self, peer: NodeId, token: SessionToken) -> Option<T> {
        let (named, session) = self.all.remove(&(peer, token))?;
        self.strangers -= usize::from(!named);
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
            assert!(registry.insert(a, token(n), true, n));
        }
        assert!(!registry.insert(a, token(200), true, 200));
        assert!(registry.insert(b, token(0), true, 100) && !registry.insert(b, token(0), true, 101));
        assert_eq!((registry.get(a, token(0)), registry.get(b, token(0))), (Some(&0), Some(&100)));
        assert_eq!(registry.get(b, token(1)), None);
        assert_eq!((registry.remove(a, token(3)), registry.remove(a, token(3))), (Some(3), None));
        assert!(registry.insert(a, token(200), true, 200) && !registry.has_room(a, true));
        assert_eq!(registry.remove(b, token(0)), Some(100));
        assert_eq!(registry.of_peer.len(), 1);
    }

    #[test]
    fn strangers_have_three_quarters_of_the_sessions_and_eight_each() {
        let key =
            |n: u64| SecretKey::from_bytes(std::array::from_fn(|at| (n >> (at % 8 * 8)) as u8)).node_id();
        let mut registry = Registry::default();
        let mut taken = 0;
        for peer in (1..=400).map(key) {
            taken += (0..9).filter(|n| registry.insert(peer, token(*n), false, ())).count();
            assert!(!registry.has_room(peer, false));
        }
        assert_eq!((taken, registry.strangers), (3072, 3072));
        // A named peer finds its place, and so does the next stranger when one has gone.
        let named = key(500);
        assert!((0..64).all(|n| registry.insert(named, token(n), true, ())));
        assert!(!registry.insert(named, token(64), true, ()) && !registry.has_room(key(501), false));
        assert!(registry.remove(named, token(0)).is_some() && !registry.has_room(key(501), false));
        assert!(registry.remove(key(1), token(0)).is_some() && registry.has_room(key(501), false));
        assert_eq!(registry.strangers, 3071);
    }
}
