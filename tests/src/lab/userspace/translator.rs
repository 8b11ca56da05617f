//! One NAT at work: mappings made by what leaves, packets rewritten on both ways, strangers refused.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use super::super::dice::Dice;
use super::super::home::Unsolicited;
use super::packet::{Packet, Protocol};
use super::{Allocation, Dependence, UserNat};

/// Time after which a mapping without packets from inside is gone (RFC 4787 asks UDP for that much).
const IDLE: Duration = Duration::from_secs(120);
/// Time between two looks for such mappings.
const SWEEP: Duration = Duration::from_secs(5);
/// The lowest port that is given out.
const LOWEST: u16 = 1024;
/// Most sessions that strangers have begun, of those let in without being asked.
const MAX_SESSIONS: usize = 65_536;
/// Number of ports that are given out.
const PORTS: u32 = 65_536 - LOWEST as u32;

/// Fate of a packet from the internet, which was rewritten if it goes inside.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum Inbound {
    Inside,
    Refused,
    /// Refused with this answer.
    Answered(Vec<u8>),
}

/// An end inside with the part of the remote end that a mapping is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    protocol: Protocol,
    inside: SocketAddrV4,
    address: Option<Ipv4Addr>,
    port: Option<u16>,
}

#[derive(Debug)]
struct Mapping {
    outside: SocketAddrV4,
    /// Remote ends that it was used for.
    remotes: HashSet<SocketAddrV4>,
    used: Duration,
}

/// A running NAT.
#[derive(Debug)]
pub(in super::super) struct Translator {
    nat: UserNat,
    refusal: Unsolicited,
    pool: Vec<Ipv4Addr>,
    /// Mappings by where they come from.
    mappings: HashMap<Key, Mapping>,
    /// The same by external end, which overloaded ones share.
    outside: HashMap<(Protocol, SocketAddrV4), Vec<Key>>,
    /// Mapping by which a stranger came in, for what goes back to it, where the remote end has no mapping of its own.
    sessions: HashMap<(Protocol, SocketAddrV4, SocketAddrV4), Key>,
    /// External address of each host that has one.
    paired: HashMap<Ipv4Addr, Ipv4Addr>,
    /// The next port of a sequence, or the first of the block.
    next: u16,
    dice: Dice,
    swept: Duration,
}

impl Translator {
    /// A NAT with these external addresses.
    pub(in super::super) fn new(nat: UserNat, refusal: Unsolicited, pool: Vec<Ipv4Addr>, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        // The first draws of such dice are close for close seeds.
        for _ in 0..16 {
            dice.below(2);
        }
        let next = match nat.allocation {
            Allocation::Block(size) => LOWEST + dice.below(PORTS - u32::from(size) + 1) as u16,
            _ => 20_000 + dice.below(30_000) as u16,
        };
        Self {
            nat,
            refusal,
            pool,
            mappings: HashMap::new(),
            outside: HashMap::new(),
            sessions: HashMap::new(),
            paired: HashMap::new(),
            next,
            dice,
            swept: Duration::ZERO,
        }
    }

    /// Rewrites a packet that leaves, or says that it does not.
    pub(in super::super) fn outbound(&mut self, data: &mut [u8], now: Duration) -> bool {
        let Some(mut packet) = Packet::read(data) else { return false };
        let (inside, remote) = (packet.source(), packet.target());
        if self.pool.contains(remote.ip()) && !self.nat.hairpin {
            return false;
        }
        let mut key = self.key(packet.protocol, inside, remote);
        if let Some(came_by) = self.sessions.get(&(packet.protocol, inside, remote))
            && self.is_live(came_by, now)
        {
            key = *came_by;
        }
        if !self.is_live(&key, now) {
            self.sweep(now);
            self.forget(&key);
            let Some(outside) = self.allocate(packet.protocol, inside) else { return false };
            self.outside.entry((packet.protocol, outside)).or_default().push(key);
            self.mappings.insert(key, Mapping { outside, remotes: HashSet::new(), used: now });
        }
        let Some(mapping) = self.mappings.get_mut(&key) else { return false };
        mapping.used = now;
        mapping.remotes.insert(remote);
        packet.set_source(mapping.outside);
        true
    }

    /// Rewrites a packet that comes in, or refuses it.
    pub(in super::super) fn inbound(&mut self, data: &mut [u8], now: Duration) -> Inbound {
        let Some(mut packet) = Packet::read(data) else { return Inbound::Refused };
        let (protocol, from) = (packet.protocol, packet.source());
        match self.destination(protocol, from, packet.target(), now) {
            Some(key) => {
                packet.set_target(key.inside);
                let own = self.key(protocol, key.inside, from);
                if own != key && !self.is_live(&own, now) && self.sessions.len() < MAX_SESSIONS {
                    self.sessions.insert((protocol, key.inside, from), key);
                }
                Inbound::Inside
            }
            None => packet.refusal(self.refusal).map_or(Inbound::Refused, Inbound::Answered),
        }
    }

    fn is_live(&self, key: &Key, now: Duration) -> bool {
        self.mappings.get(key).is_some_and(|mapping| now.saturating_sub(mapping.used) <= IDLE)
    }

    fn key(&self, protocol: Protocol, inside: SocketAddrV4, remote: SocketAddrV4) -> Key {
        let (address, port) = match self.nat.mapping {
            Dependence::EndpointIndependent => (None, None),
            Dependence::Address => (Some(*remote.ip()), None),
            Dependence::AddressAndPort => (Some(*remote.ip()), Some(remote.port())),
        };
        Key { protocol, inside, address, port }
    }

    /// The mapping by which a packet of this source comes in, if it may.
    fn destination(
        &self,
        protocol: Protocol,
        from: SocketAddrV4,
        outside: SocketAddrV4,
        now: Duration,
    ) -> Option<Key> {
        let lets_in = |mapping: &Mapping| match self.nat.filtering {
            Dependence::EndpointIndependent => true,
            Dependence::Address => mapping.remotes.iter().any(|remote| remote.ip() == from.ip()),
            Dependence::AddressAndPort => mapping.remotes.contains(&from),
        };
        let keys = self.outside.get(&(protocol, outside))?.iter();
        keys.filter_map(|key| Some((key, self.mappings.get(key)?)))
            .find(|(_, mapping)| now.saturating_sub(mapping.used) <= IDLE && lets_in(mapping))
            .map(|(key, _)| *key)
    }

    /// An external end for a new mapping.
    fn allocate(&mut self, protocol: Protocol, inside: SocketAddrV4) -> Option<SocketAddrV4> {
        let address = self.address(*inside.ip());
        let own = SocketAddrV4::new(address, inside.port());
        if self.nat.allocation == Allocation::Overload {
            let mut sharing = self.outside.get(&(protocol, own)).into_iter().flatten();
            if sharing.all(|key| key.inside == inside) {
                return Some(own);
            }
        }
        // So often that a port is found unless nearly all are taken.
        (0..70_000).find_map(|nth| {
            let end = SocketAddrV4::new(address, self.port(inside.port(), nth == 0));
            (!self.outside.contains_key(&(protocol, end))).then_some(end)
        })
    }

    fn address(&mut self, host: Ipv4Addr) -> Ipv4Addr {
        if !self.nat.paired {
            return self.pool[self.dice.below(self.pool.len() as u32) as usize];
        }
        let next = self.pool[self.paired.len() % self.pool.len()];
        *self.paired.entry(host).or_insert(next)
    }

    /// The port to try next.
    fn port(&mut self, inside: u16, first: bool) -> u16 {
        match self.nat.allocation {
            Allocation::Keep if first => inside,
            Allocation::Offset(by) if first => ring(u32::from(inside) + u32::from(by)),
            Allocation::Sequential(step) => {
                let port = self.next;
                self.next = ring(u32::from(port) + u32::from(step));
                port
            }
            Allocation::Parity => (512 + self.dice.below(PORTS / 2) as u16) * 2 + inside % 2,
            Allocation::Block(size) => self.next + self.dice.below(size.into()) as u16,
            _ => LOWEST + self.dice.below(PORTS) as u16,
        }
    }

    fn forget(&mut self, key: &Key) {
        let Some(mapping) = self.mappings.remove(key) else { return };
        let end = (key.protocol, mapping.outside);
        if let Some(keys) = self.outside.get_mut(&end) {
            keys.retain(|other| other != key);
            if keys.is_empty() {
                self.outside.remove(&end);
            }
        }
    }

    fn sweep(&mut self, now: Duration) {
        if now.saturating_sub(self.swept) < SWEEP {
            return;
        }
        self.swept = now;
        let old = |mapping: &Mapping| now.saturating_sub(mapping.used) > IDLE;
        let gone: Vec<Key> =
            self.mappings.iter().filter(|(_, mapping)| old(mapping)).map(|(key, _)| *key).collect();
        gone.iter().for_each(|key| self.forget(key));
        self.sessions.retain(|_, key| self.mappings.contains_key(key));
    }
}

/// A port of those given out, counted round.
fn ring(port: u32) -> u16 {
    let lowest = u32::from(LOWEST);
    (lowest + port.saturating_sub(lowest) % PORTS) as u16
}

#[cfg(test)]
mod tests {
    use super::super::packet::tests::packet;
    use super::*;

    const OWN: [Ipv4Addr; 2] = [Ipv4Addr::new(45, 10, 100, 2), Ipv4Addr::new(45, 10, 100, 3)];
    const SERVER: [SocketAddrV4; 3] = [
        SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 10), 3478),
        SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 10), 3479),
        SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 11), 3478),
    ];
    const NOW: Duration = Duration::from_secs(1000);

    fn host(n: u8, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(192, 168, 10, n), port)
    }

    fn nat(kind: &str) -> Translator {
        let kind: UserNat = kind.parse().unwrap();
        Translator::new(kind, Unsolicited::Drop, OWN[..kind.pool.into()].into(), 7)
    }

    /// The external end of a packet.
    fn out(nat: &mut Translator, from: SocketAddrV4, to: SocketAddrV4, now: Duration) -> SocketAddrV4 {
        let mut all = packet(Protocol::Tcp, from, to, 2);
        assert!(nat.outbound(&mut all, now));
        Packet::read(&mut all).unwrap().source()
    }

    /// The end inside that a packet reaches.
    fn into(
        nat: &mut Translator,
        from: SocketAddrV4,
        to: SocketAddrV4,
        now: Duration,
    ) -> Option<SocketAddrV4> {
        let mut all = packet(Protocol::Tcp, from, to, 2);
        let fate = nat.inbound(&mut all, now);
        (fate == Inbound::Inside).then(|| Packet::read(&mut all).unwrap().target())
    }

    #[test]
    fn mapping_and_filtering_are_as_named() {
        for kind in UserNat::grid() {
            let mut nat = nat(&kind.to_string());
            let here = host(2, 5001);
            let seen = SERVER.map(|server| out(&mut nat, here, server, NOW).port());
            let distinct = HashSet::from(seen).len();
            match kind.mapping {
                Dependence::EndpointIndependent => assert_eq!(distinct, 1, "{kind}"),
                Dependence::Address => assert!(distinct == 2 && seen[0] == seen[1], "{kind}: {seen:?}"),
                Dependence::AddressAndPort => assert_eq!(distinct, 3, "{kind}"),
            }
            match kind.allocation {
                Allocation::Keep => assert_eq!(seen[0], 5001, "{kind}"),
                Allocation::Sequential(step) if distinct == 3 => {
                    assert_eq!([seen[1] - seen[0], seen[2] - seen[1]], [step; 2], "{kind}")
                }
                Allocation::Parity => assert!(seen.iter().all(|port| port % 2 == 1), "{kind}: {seen:?}"),
                _ => {}
            }
            let alone = host(2, 5002);
            let end = out(&mut nat, alone, SERVER[0], NOW);
            let may = SERVER.map(|server| into(&mut nat, server, end, NOW) == Some(alone));
            let expected = match kind.filtering {
                Dependence::EndpointIndependent => [true, true, true],
                Dependence::Address => [true, true, false],
                Dependence::AddressAndPort => [true, false, false],
            };
            assert_eq!(may, expected, "{kind}");
            // What goes back to those who came in leaves by the port that they came to.
            for (server, may) in SERVER.into_iter().zip(may) {
                assert!(!may || out(&mut nat, alone, server, NOW) == end, "{kind}");
            }
        }
    }

    #[test]
    fn ports_are_given_out_as_named() {
        let two = |kind: &str| {
            let mut nat = nat(kind);
            [SERVER[0], SERVER[2]].map(|server| out(&mut nat, host(2, 5001), server, NOW).port())
        };
        assert_eq!(two("apdm.apdf.overload"), [5001, 5001]);
        assert!(matches!(two("apdm.apdf.keep"), [5001, other] if other != 5001));
        assert!(matches!(two("apdm.apdf.offset7"), [5008, other] if other != 5008));
        assert!(matches!(two("apdm.apdf.seq3"), [a, b] if b == a + 3));
        assert!(matches!(two("apdm.apdf.block8"), [a, b] if a != b && a.abs_diff(b) < 8));
        // Two hosts cannot share a port, which an answer could not tell apart.
        let mut nat = nat("eim.eif.overload");
        let ends = [2, 3].map(|n| out(&mut nat, host(n, 5001), SERVER[0], NOW));
        assert_ne!(ends[0], ends[1]);
    }

    #[test]
    fn overloaded_mappings_are_told_apart_by_their_remote_end() {
        let mut nat = nat("apdm.apdf.overload");
        let end = out(&mut nat, host(2, 5001), SERVER[0], NOW);
        assert_eq!(out(&mut nat, host(2, 5001), SERVER[2], NOW), end);
        let may = SERVER.map(|server| into(&mut nat, server, end, NOW).is_some());
        assert_eq!(may, [true, false, true]);
    }

    #[test]
    fn a_block_ends() {
        let mut nat = nat("eim.eif.block3");
        let given: Vec<bool> = (0..4)
            .map(|n| nat.outbound(&mut packet(Protocol::Udp, host(2, 5000 + n), SERVER[0], 0), NOW))
            .collect();
        assert_eq!(given, [true, true, true, false]);
    }

    #[test]
    fn a_pool_is_paired_or_not() {
        let addresses = |kind: &str, n: u8| {
            let mut nat = nat(kind);
            out(&mut nat, host(9, 1), SERVER[0], NOW);
            let ends = (0..20).map(|port| *out(&mut nat, host(n, 5000 + port), SERVER[0], NOW).ip());
            ends.collect::<HashSet<_>>()
        };
        assert_eq!(addresses("eim.eif.keep.pool2", 9), [OWN[0]].into());
        assert_eq!(addresses("eim.eif.keep.pool2", 2), [OWN[1]].into());
        assert_eq!(addresses("eim.eif.keep.pool2.unpaired", 2), OWN.into());
    }

    #[test]
    fn mappings_are_kept_by_those_inside_only() {
        let mut nat = nat("eim.eif.rand");
        let end = out(&mut nat, host(2, 5001), SERVER[0], NOW);
        let end_udp = {
            let mut all = packet(Protocol::Udp, host(2, 5001), SERVER[0], 0);
            assert!(nat.outbound(&mut all, NOW));
            Packet::read(&mut all).unwrap().source()
        };
        assert_ne!(end, end_udp, "one for each protocol");
        assert_eq!(out(&mut nat, host(2, 5001), SERVER[1], NOW + IDLE), end);
        assert!(into(&mut nat, SERVER[2], end, NOW + IDLE * 2).is_some());
        assert!(into(&mut nat, SERVER[2], end, NOW + IDLE * 2 + SWEEP).is_none());
        assert_ne!(out(&mut nat, host(2, 5001), SERVER[1], NOW + IDLE * 2 + SWEEP), end);
        assert_eq!((nat.mappings.len(), nat.outside.len()), (1, 1), "the others are gone");
    }

    #[test]
    fn a_hairpin_goes_where_it_may() {
        let mut nat = nat("eim.eif.keep");
        let end = out(&mut nat, host(2, 5001), SERVER[0], NOW);
        assert!(!nat.outbound(&mut packet(Protocol::Tcp, host(3, 5003), end, 2), NOW));
        nat.nat.hairpin = true;
        let from = out(&mut nat, host(3, 5003), end, NOW);
        assert_eq!((*from.ip(), into(&mut nat, from, end, NOW)), (OWN[0], Some(host(2, 5001))));
    }

    #[test]
    fn noise_does_no_harm() {
        let (mut nat, mut dice) = (nat("adm.adf.keep"), Dice::new(3));
        nat.refusal = Unsolicited::Local;
        let whole = packet(Protocol::Tcp, host(2, 5001), SERVER[0], 2);
        for _ in 0..20_000 {
            let mut all = whole.clone();
            for _ in 0..1 + dice.below(4) {
                let at = dice.below(all.len() as u32) as usize;
                all[at] = dice.below(256) as u8;
            }
            all.truncate(dice.below(2 * all.len() as u32) as usize);
            nat.outbound(&mut all.clone(), NOW);
            nat.inbound(&mut all, NOW);
        }
    }
}
