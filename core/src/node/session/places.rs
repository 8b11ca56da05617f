//! Places of peers that have proved their identity: their streams, and the pipes that came of them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::config::PIPE_DESCRIPTORS;
use crate::identity::NodeId;
use crate::io::SockId;
use crate::node::admission::Source;
use crate::pipe::PipeId;
use crate::strategy::agreement::Candidate;
use crate::strategy::ours::Trust;

/// Places of a relayed pipe, whose descriptors are a socket of its own, and two pairs of sockets between its user and the
/// node.
const RELAYED: usize = 5_usize.div_ceil(PIPE_DESCRIPTORS);

/// Counts the holders of places.
///
/// Of all places strangers have three quarters, one stranger's key an eighth, its network a quarter, and its site three
/// eighths. One known peer has three quarters. Streams that claim to be known peers' may be recorded ones until the
/// second frame has come. Of such streams there are a quarter. A relayed pipe takes three places, and comes from no
/// network: only its server's address is seen.
#[derive(Debug)]
pub(super) struct Places {
    all: usize,
    held: BTreeMap<Candidate, Holder>,
    taken: usize,
    /// Number of taken places that are strangers'.
    strangers: usize,
    /// Number of taken places that may belong to somebody who has recorded a known peer's first frame.
    unproven: usize,
    peers: BTreeMap<NodeId, usize>,
    /// Places of strangers, by network.
    nets: BTreeMap<Source, usize>,
    sites: BTreeMap<IpAddr, usize>,
}

#[derive(Debug)]
struct Holder {
    peer: NodeId,
    trust: Trust,
    /// Network of a stranger's stream.
    source: Option<Source>,
    places: usize,
    proven: bool,
}

impl Places {
    pub(super) fn new(all: usize) -> Self {
        Places {
            all,
            held: BTreeMap::new(),
            taken: 0,
            strangers: 0,
            unproven: 0,
            peers: BTreeMap::new(),
            nets: BTreeMap::new(),
            sites: BTreeMap::new(),
        }
    }

    /// Gives this stream a place. False: the peer, its network or all have as many as they may.
    pub(super) fn enter(&mut self, sock: SockId, peer: NodeId, trust: Trust, from: IpAddr) -> bool {
        let source = (trust == Trust::Stranger).then(|| Source::of(from));
        self.take(Candidate::Stream(sock), Holder { peer, trust, source, places: 1, proven: false })
    }

    /// Gives a place to a relay whose other end has proved its identity.
    pub(super) fn enter_relayed(&mut self, id: PipeId, peer: NodeId, trust: Trust) -> bool {
        let places = RELAYED.min(self.all / 8).max(1);
        self.take(Candidate::Relay(id), Holder { peer, trust, source: None, places, proven: true })
    }

    fn take(&mut self, of: Candidate, holder: Holder) -> bool {
        if self.held.contains_key(&of) {
            return true;
        }
        // The least node has a place for each kind.
        let part = |eighths: usize| (self.all * eighths / 8).max(1);
        let Holder { peer, trust, source, places, proven } = holder;
        let its = self.peers.get(&peer).copied().unwrap_or(0) + places;
        let known = trust == Trust::Known;
        let of_source = source.is_none_or(|source| {
            self.nets.get(&source).is_none_or(|n| *n < part(2))
                && self.sites.get(&source.site).is_none_or(|n| *n < part(3))
        });
        let room = self.taken + places <= self.all
            && match known {
                true => its <= part(6) && (proven || self.unproven < part(2)),
                false => self.strangers + places <= part(6) && its <= part(1) && of_source,
            };
        if room {
            self.taken += places;
            *self.peers.entry(peer).or_default() += places;
            match (known, proven) {
                (true, false) => self.unproven += 1,
                (true, true) => {}
                (false, _) => self.strangers += places,
            }
            if let Some(source) = source {
                *self.nets.entry(source).or_default() += 1;
                *self.sites.entry(source.site).or_default() += 1;
            }
            self.held.insert(of, holder);
        }
        room
    }

    /// Notes that a frame of the peer has come that cannot be a recorded one.
    pub(super) fn prove(&mut self, of: Candidate) {
        let Some(holder) = self.held.get_mut(&of).filter(|h| !h.proven) else { return };
        holder.proven = true;
        if holder.trust == Trust::Known {
            self.unproven -= 1;
        }
    }

    /// Frees the places: the stream, the relay or its pipe is gone.
    pub(super) fn leave(&mut self, of: Candidate) {
        self.prove(of);
        let Some(Holder { peer, trust, source, places, .. }) = self.held.remove(&of) else { return };
        self.taken -= places;
        less(&mut self.peers, peer, places);
        if trust == Trust::Stranger {
            self.strangers -= places;
        }
        if let Some(source) = source {
            less(&mut self.nets, source, 1);
            less(&mut self.sites, source.site, 1);
        }
    }
}

fn less<K: Ord>(counts: &mut BTreeMap<K, usize>, of: K, by: usize) {
    if let Some(count) = counts.get_mut(&of) {
        *count -= by;
        if *count == 0 {
            counts.remove(&of);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::SecretKey;

    /// The places, the last stream, and whether streams prove themselves at once.
    struct Hall(Places, u64, bool);

    impl Hall {
        /// Returns how many of `many` callers get in, each with the key and from the address of its number.
        fn fill(
            &mut self,
            many: usize,
            trust: Trust,
            key: impl Fn(usize) -> usize,
            from: impl Fn(usize) -> String,
        ) -> usize {
            let mut enter = |n: usize| {
                self.1 += 1;
                let mut secret = [9; 32];
                secret[..8].copy_from_slice(&(key(n) as u64).to_be_bytes());
                let peer = SecretKey::from_bytes(secret).node_id();
                let sock = SockId::accepted(self.1);
                let entered = self.0.enter(sock, peer, trust, from(n).parse().unwrap());
                if self.2 {
                    self.0.prove(Candidate::Stream(sock));
                }
                entered
            };
            (0..many).filter(|n| enter(*n)).count()
        }
    }

    fn hall() -> Hall {
        Hall(Places::new(64), 0, true)
    }

    const STRANGER: Trust = Trust::Stranger;

    #[test]
    fn one_key_has_an_eighth_one_network_a_quarter_one_site_three_eighths() {
        let elsewhere = |n: usize| format!("198.51.100.{n}");
        assert_eq!(hall().fill(60, STRANGER, |_| 1, elsewhere), 8);
        assert_eq!(hall().fill(60, STRANGER, |n| n, |_| "192.0.2.1".into()), 16);
        assert_eq!(hall().fill(60, STRANGER, |n| n, |n| format!("2001:db8::{n:x}")), 16);
        assert_eq!(hall().fill(60, STRANGER, |n| n, |n| format!("2001:db8:0:{n:x}::1")), 24);
    }

    #[test]
    fn strangers_leave_a_quarter_to_known_peers_and_those_to_each_other() {
        let mut hall = hall();
        assert_eq!(hall.fill(99, STRANGER, |n| n, |n| format!("198.51.100.{n}")), 48);
        assert_eq!(hall.fill(99, Trust::Known, |_| 500, |_| "192.0.2.1".into()), 16);
        let mut hall = self::hall();
        assert_eq!(hall.fill(99, Trust::Known, |_| 500, |_| "192.0.2.1".into()), 48);
        assert_eq!(hall.fill(99, Trust::Known, |_| 501, |_| "192.0.2.1".into()), 16);
    }

    #[test]
    fn recordings_of_a_known_peers_first_frame_have_a_quarter() {
        let mut hall = hall();
        hall.2 = false;
        assert_eq!(hall.fill(99, Trust::Known, |_| 500, |_| "192.0.2.1".into()), 16);
        hall.0.leave(Candidate::Stream(SockId::accepted(1)));
        hall.0.prove(Candidate::Stream(SockId::accepted(2)));
        assert_eq!(hall.fill(99, Trust::Known, |_| 501, |_| "192.0.2.1".into()), 2);
    }

    #[test]
    fn what_is_left_is_free_again_and_nothing_is_kept_of_it() {
        let mut hall = hall();
        for _ in 0..3 {
            let first = hall.1 + 1;
            assert_eq!(hall.fill(9, STRANGER, |_| 1, |_| "2001:db8::1".into()), 8);
            (first..=hall.1).for_each(|n| hall.0.leave(Candidate::Stream(SockId::accepted(n))));
        }
        let Places { held, taken, strangers, unproven, peers, nets, sites, .. } = &hall.0;
        assert_eq!((held.len(), *taken, *strangers, *unproven), (0, 0, 0, 0));
        assert_eq!((peers.len(), nets.len(), sites.len()), (0, 0, 0));
    }

    #[test]
    fn a_relayed_pipe_takes_three_places_of_its_peer() {
        let mut hall = hall();
        let [one, other] = [1, 2].map(|n| SecretKey::from_bytes([n; 32]).node_id());
        let mut enter = |n: u64, peer| hall.0.enter_relayed(PipeId(n), peer, STRANGER);
        // Eight places are a stranger's.
        assert_eq!([enter(1, one), enter(2, one), enter(3, one), enter(4, other)], [true, true, false, true]);
        assert_eq!(hall.fill(60, Trust::Known, |_| 500, |_| "192.0.2.1".into()), 48);
        assert_eq!(hall.fill(60, Trust::Known, |_| 501, |_| "192.0.2.1".into()), 64 - 48 - 9);
        hall.0.leave(Candidate::Relay(PipeId(1)));
        assert_eq!(hall.fill(60, Trust::Known, |_| 502, |_| "192.0.2.1".into()), 3);
        // A node with few places has one for it all the same.
        assert!(Places::new(4).enter_relayed(PipeId(1), one, STRANGER));
    }

    #[test]
    fn a_stream_has_one_place_however_often_it_enters() {
        let mut places = Places::new(64);
        let peer = SecretKey::from_bytes([9; 32]).node_id();
        let at: IpAddr = "192.0.2.1".parse().unwrap();
        for _ in 0..20 {
            assert!(places.enter(SockId::accepted(1), peer, STRANGER, at));
        }
        assert_eq!(places.held.len(), 1);
    }
}
