//! Sessions that a listener knows, so that a carrier finds its own.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use p2pd_core::pipe::session::SessionToken;
use p2pd_core::{NodeId, Source};

/// The most sessions that peers have opened, at a time.
const MAX_SESSIONS: usize = 4096;
/// The most of them that strangers have.
const MAX_STRANGERS: usize = MAX_SESSIONS / 4 * 3;
/// The most that one named peer has. A session outlives its carriers, so places for pipes do not bound them.
const MAX_OF_PEER: usize = 64;
/// The most that one stranger has.
const MAX_OF_STRANGER: usize = 8;
/// The most that strangers of one network have, and of one site.
const MAX_OF_NETWORK: (usize, usize) = (MAX_SESSIONS / 4, MAX_SESSIONS / 8 * 3);
/// Bytes that sessions may hold together before those that hold more than their share are ended: of all, and of
/// strangers.
const MAX_HELD: (usize, usize) = (1 << 30, 3 << 28);

/// Opener of a session, as far as places are counted by it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: a record.
pub struct Opener {
    /// The proven id.
    pub peer: NodeId,
    /// The user named the peer.
    pub named: bool,
    /// Network of a stranger; none where only a relay's address is known.
    pub source: Option<Source>,
}

/// Sessions that peers have opened, by peer and token.
#[derive(Debug)]
pub struct Registry<T> {
    all: HashMap<(NodeId, SessionToken), Entry<T>>,
    /// Number of sessions of peers that were not named.
    strangers: usize,
    of_peer: HashMap<NodeId, usize>,
    of_network: BTreeMap<Source, usize>,
    of_site: BTreeMap<IpAddr, usize>,
    /// Bytes that sessions hold: of named peers, and of strangers.
    held: [usize; 2],
}

#[derive(Debug)]
struct Entry<T> {
    named: bool,
    source: Option<Source>,
    held: usize,
    session: T,
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Registry {
            all: HashMap::new(),
            strangers: 0,
            of_peer: HashMap::new(),
            of_network: BTreeMap::new(),
            of_site: BTreeMap::new(),
            held: [0; 2],
        }
    }
}

impl<T> Registry<T> {
    /// Returns a session.
    pub fn get(&self, peer: NodeId, token: SessionToken) -> Option<&T> {
        self.all.get(&(peer, token)).map(|entry| &entry.session)
    }

    /// Returns true if there is room for one more session of this peer.
    pub fn has_room(&self, opener: &Opener) -> bool {
        let of_peer = self.of_peer.get(&opener.peer).copied().unwrap_or(0);
        let of_source = |source: Source| {
            self.of_network.get(&source).is_none_or(|n| *n < MAX_OF_NETWORK.0)
                && self.of_site.get(&source.site).is_none_or(|n| *n < MAX_OF_NETWORK.1)
        };
        let its = match opener.named {
            true => of_peer < MAX_OF_PEER,
            false => {
                of_peer < MAX_OF_STRANGER
                    && self.strangers < MAX_STRANGERS
                    && opener.source.is_none_or(of_source)
            }
        };
        its && self.all.len() < MAX_SESSIONS
    }

    /// Adds a session. Returns false if there is no room, or there is one of this token.
    pub fn insert(&mut self, opener: &Opener, token: SessionToken, session: T) -> bool {
        let Opener { peer, named, source } = *opener;
        if !self.has_room(opener) || self.all.contains_key(&(peer, token)) {
            return false;
        }
        let source = source.filter(|_| !named);
        self.all.insert((peer, token), Entry { named, source, held: 0, session });
        self.strangers += usize::from(!named);
        *self.of_peer.entry(peer).or_default() += 1;
        if let Some(source) = source {
            *self.of_network.entry(source).or_default() += 1;
            *self.of_site.entry(source.site).or_default() += 1;
        }
        true
    }

    /// Notes how many bytes a session holds now. Returns false if it has to end: together they hold too many, and it holds
    /// more than its share. As it is asked whenever its own number grows, all together hold at most twice the bound.
    pub fn weigh(&mut self, peer: NodeId, token: SessionToken, held: usize) -> bool {
        let Some(entry) = self.all.get_mut(&(peer, token)) else { return true };
        let kind = usize::from(!entry.named);
        self.held[kind] = self.held[kind] - entry.held + held;
        entry.held = held;
        let over = |all: usize, most: usize, sessions: usize| all > most && held > most / sessions;
        let strangers = !entry.named && over(self.held[1], MAX_HELD.1, self.strangers);
        !(strangers || over(self.held.iter().sum(), MAX_HELD.0, self.all.len()))
    }

    /// Removes a session that is over.
    pub fn remove(&mut self, peer: NodeId, token: SessionToken) -> Option<T> {
        let Entry { named, source, held, session } = self.all.remove(&(peer, token))?;
        self.strangers -= usize::from(!named);
        self.held[usize::from(!named)] -= held;
        take_one(&mut self.of_network, source);
        take_one(&mut self.of_site, source.map(|source| source.site));
        if let Some(count) = self.of_peer.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                self.of_peer.remove(&peer);
            }
        }
        Some(session)
    }
}

/// Takes one off a count that goes with its last.
fn take_one<K: Ord>(counts: &mut BTreeMap<K, usize>, of: Option<K>) {
    if let Some(of) = of
        && let Some(count) = counts.get_mut(&of)
    {
        *count -= 1;
        if *count == 0 {
            counts.remove(&of);
        }
    }
}

#[cfg(test)]
mod tests {
    use p2pd_core::SecretKey;

    use super::*;

    fn token(n: u8) -> SessionToken {
        SessionToken([n; 32])
    }

    fn key(n: u16) -> NodeId {
        let mut bytes = [0; 32];
        // Not the first: X25519 clears bits of it.
        bytes[1..3].copy_from_slice(&n.to_be_bytes());
        SecretKey::from_bytes(bytes).node_id()
    }

    fn named(peer: NodeId) -> Opener {
        Opener { peer, named: true, source: None }
    }

    fn stranger(peer: NodeId, ip: &str) -> Opener {
        Opener { peer, named: false, source: Some(Source::of(ip.parse().unwrap())) }
    }

    #[test]
    fn a_peer_has_so_many_sessions_and_finds_its_own_alone() {
        let [a, b] = [1, 2].map(key);
        let mut registry = Registry::default();
        for n in 0..MAX_OF_PEER as u8 {
            assert!(registry.insert(&named(a), token(n), n));
        }
        assert!(!registry.insert(&named(a), token(200), 200));
        assert!(registry.insert(&named(b), token(0), 100) && !registry.insert(&named(b), token(0), 101));
        assert_eq!((registry.get(a, token(0)), registry.get(b, token(0))), (Some(&0), Some(&100)));
        assert_eq!(registry.get(b, token(1)), None);
        assert_eq!((registry.remove(a, token(3)), registry.remove(a, token(3))), (Some(3), None));
        assert!(registry.insert(&named(a), token(200), 200) && !registry.has_room(&named(a)));
    }

    #[test]
    fn strangers_have_three_quarters_of_the_sessions_and_eight_each() {
        let mut registry = Registry::default();
        let stranger = |n: u16| stranger(key(n), &format!("192.0.2.{}", n % 200));
        let mut taken = 0;
        for peer in (1..=400).map(stranger) {
            taken += (0..9).filter(|n| registry.insert(&peer, token(*n), ())).count();
            assert!(!registry.has_room(&peer));
        }
        assert_eq!((taken, registry.strangers), (3072, 3072));
        // A named peer finds its place, and so does the next stranger when one has gone.
        let friend = named(key(500));
        assert!((0..64).all(|n| registry.insert(&friend, token(n), ())));
        assert!(!registry.insert(&friend, token(64), ()) && !registry.has_room(&stranger(501)));
        assert!(registry.remove(friend.peer, token(0)).is_some() && !registry.has_room(&stranger(501)));
        assert!(registry.remove(key(1), token(0)).is_some() && registry.has_room(&stranger(501)));
        assert_eq!(registry.strangers, 3071);
    }

    #[test]
    fn one_network_has_a_quarter_of_the_sessions_and_one_site_three_eighths_whatever_their_keys() {
        let mut registry = Registry::default();
        let mut fill = |from: u16, ip: &str| {
            let peers = (from..from + 300).map(|n| stranger(key(n), ip));
            peers.map(|p| (0..8).filter(|n| registry.insert(&p, token(*n), ())).count()).sum::<usize>()
        };
        assert_eq!(fill(0, "192.0.2.1"), 1024);
        assert_eq!([fill(300, "2001:db8:0:1::1"), fill(600, "2001:db8:0:2::1")], [1024, 512]);
        assert_eq!(fill(900, "192.0.2.2"), 512, "of three quarters");
        let other = stranger(key(2000), "2001:db8:0:3::1");
        assert!(!registry.has_room(&other));
        let peers: Vec<NodeId> = (0..1200).map(key).collect();
        for peer in peers {
            (0..8).for_each(|n| _ = registry.remove(peer, token(n)));
        }
        assert!(registry.has_room(&other));
        assert!(registry.of_network.is_empty() && registry.of_site.is_empty());
    }

    #[test]
    fn beyond_what_all_may_hold_whoever_holds_more_than_its_share_ends() {
        let mut registry = Registry::default();
        let [a, b, friend] = [1, 2, 3].map(key);
        assert!(registry.insert(&stranger(a, "192.0.2.1"), token(0), ()));
        assert!(registry.insert(&stranger(b, "192.0.2.2"), token(0), ()));
        assert!(registry.insert(&named(friend), token(0), ()));
        let (all, strangers) = MAX_HELD;
        assert!(registry.weigh(a, token(0), strangers - 9) && registry.weigh(b, token(0), 9));
        // One byte too many, but not by whom.
        assert!(registry.weigh(b, token(0), 10));
        assert!(!registry.weigh(a, token(0), strangers - 9));
        assert!(registry.weigh(a, token(0), strangers - 10));
        // Named peers have the rest, and more where strangers have less.
        assert!(registry.weigh(friend, token(0), all - strangers));
        assert!(registry.weigh(friend, token(0), all / 3), "its share");
        assert!(!registry.weigh(friend, token(0), all / 3 + 1));
        registry.remove(a, token(0));
        assert!(registry.weigh(friend, token(0), all - 10) && !registry.weigh(friend, token(0), all - 9));
        assert_eq!(registry.held, [all - 9, 10]);
    }
}
