//! Tactics to dial so that two NATs let the same connection through, from the known behaviour of each.
//!
//! A NAT lets a SYN in where it saw one leave for the same place. Where the external ports of each side can be
//! predicted, each dials the other's. The SYNs cross, or the later one finds the hole that the earlier one left, and
//! the ends open simultaneously (RFC 9293 section 3.5). Where one side's ports are random, that side dials from many
//! ports and the other tries many. 512 x 1,024 of 64,512 meet with probability 99.9 %. Where neither is known, all flows
//! of each go to one agreed port of the other's. Flows to one destination have ports of their own, so that enough of them come
//! from the agreed one too. A filter that lets in any port of an address, or anybody, spares one
//! side the guess.
//!
//! Long: each pair of kinds has its tactic in one place, with its chance and the cases that show it.
//!
//! The reasons: ADR 14 in docs/src/adr.

mod belief;

use std::net::{IpAddr, SocketAddr};

use smallvec::SmallVec;

pub(crate) use belief::{Belief, Ground};

use crate::nat::{Behaviour, Filtering, Foreseen, Foresight, gcd, middle};
use crate::signal::mappings::MAX_PORTS;

/// Most ports of our own in a spray. As many probes hit it with probability 98.3 %, sooner than any other split of their number.
pub const SPRAY: u16 = 512;
/// Most of the peer's ports that are tried against a spray. Those beyond [`SPRAY`] are for what the others miss, and for dials
/// that are refused, of which few holes are open at a time.
pub const PROBES: u16 = 1024;
/// Largest range that a search uses up. Refused probes come to 2,000 a second, for four seconds.
const SCARCE: u16 = 8 * PROBES;
/// Distance of the aim ahead of the expected value of a counter: others behind the same NAT may take so many more
/// ports. Where each side counts, each aims so, and takes ports until it comes to the port that it announced.
const AHEAD: u16 = 8;
/// Most dials to the announced port. With as many dials as expected others plus `AHEAD` more, those others may just as
/// well take none.
const STEPS: u16 = 32;
/// Most dials where only our ports count, and the peer dials all the likely ones.
const STEPS_ALONE: u16 = 16;
/// Least probability of a hit, in thousandths, for which both sides search at once.
const WORTH_SEARCHING: u32 = 20;
/// Rungs in a row whose flows go to the same agreed port.
pub(crate) const SAME_PORT_FOR: u8 = 4;
/// Largest number of others that is expected.
pub(crate) const MAX_OTHERS: u16 = 4096;

/// A side of a punch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Side {
    pub(crate) behaviour: Behaviour,
    pub(crate) external: IpAddr,
    pub(crate) internal: IpAddr,
    /// External ports that the side will come from.
    pub(crate) ports: SmallVec<[u16; MAX_PORTS]>,
    /// Port of its listener.
    pub(crate) listen: u16,
    /// Ports that others behind its NAT are expected to take until it dials. Known of our side only.
    pub(crate) others: u16,
}

/// Knowledge that the other side can have of the port that a side's next mapping has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    /// One port, for whatever destination of the peer's.
    Known,
    /// One port, for one destination only.
    KnownOnce,
    /// One of a few, or of those that follow.
    Counted,
    /// One of a range.
    Random(Ports),
}

/// Ports that are searched: `of` of them from `low` on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ports {
    low: u16,
    of: u16,
}

impl Ports {
    fn between(low: u16, high: u16) -> Ports {
        let (low, high) = (low.max(1), high.max(1));
        Ports { low, of: (high.max(low) - low).saturating_add(1) }
    }

    /// Returns the port that all flows go to where the ports are few. Four rungs have the same one: flows of one rung leave to
    /// the next those ports that they have not come from.
    fn agreed(self, rung: u8) -> u16 {
        middle(self.low, self.at(self.of - 1))
            .saturating_add(u16::from(rung / SAME_PORT_FOR).min(self.of / 4))
    }

    /// Returns the `n`th of these ports in an order that `key` chooses. Each comes once.
    pub(crate) fn nth(self, key: u64, n: u16) -> u16 {
        self.at(walk(key, n, self.of))
    }

    /// Returns the number of ports in a spray. Of a block half is left to others behind the same NAT.
    fn sprayed(self) -> u16 {
        SPRAY.min((self.of / 2).max(1))
    }

    /// Returns the probability that a spray from these ports is hit by the peer's probes, in thousandths.
    fn hit_permille(self) -> u32 {
        hit_permille(self.sprayed().into(), PROBES.into(), self.of.into())
    }

    fn at(self, place: u16) -> u16 {
        self.low.saturating_add(place)
    }
}

impl Side {
    fn next(&self) -> Next {
        let behaviour = self.behaviour;
        match behaviour.foresight() {
            Foresight::Next(_) => Next::Counted,
            Foresight::Nothing { low, high } => Next::Random(Ports::between(low, high)),
            _ if behaviour.keeps_once() && !behaviour.shares_mapping() => Next::KnownOnce,
            Foresight::Offset(_) | Foresight::Measured => Next::Known,
        }
    }

    /// Returns the announced port if anybody may dial it: a mapping that is kept open. Of counted ports a window is
    /// announced otherwise, of random ones none.
    fn open_port(&self) -> Option<u16> {
        match self.ports.as_slice() {
            [port] if self.behaviour.admits_all() => Some(*port),
            _ => None,
        }
    }

    /// Returns the ports of which the side's next mapping has one. Of those that are predicted the likeliest stands for all.
    fn range(&self) -> Ports {
        match self.next() {
            Next::Random(ports) => ports,
            Next::Known | Next::KnownOnce | Next::Counted => {
                Ports { low: self.ports.first().copied().unwrap_or(self.listen), of: 1 }
            }
        }
    }

    /// Returns true if a search may take all ports that the NAT has for us: each dial takes one, and a refused one keeps it for a
    /// while.
    pub(crate) fn is_scarce(&self) -> bool {
        matches!(self.next(), Next::Random(ports) if ports.of <= SCARCE)
    }

    /// Returns the port that a search from both sides goes to. A counter comes to the last port of its window.
    fn agreed(&self, rung: u8) -> u16 {
        match self.next() {
            Next::Counted => self.ports.last().copied().unwrap_or(self.listen),
            _ => self.range().agreed(rung),
        }
    }
}

/// Returns true if a rung relies on this NAT to let in any port of an address that it has dialled.
pub(crate) fn admits(behaviour: Behaviour, rung: u8) -> bool {
    trusts_filters(rung) && !behaviour.filters_by_port()
}

/// Returns true if a rung relies on this NAT to let anybody use a mapping that is kept open.
pub(crate) fn opens(behaviour: Behaviour, rung: u8) -> bool {
    trusts_filters(rung) && behaviour.admits_all()
}

/// Returns true if filtering is taken to be what was measured over UDP. Over TCP it may be stricter, which the other rungs
/// allow for.
fn trusts_filters(rung: u8) -> bool {
    rung < 2 || rung.is_multiple_of(2)
}

/// Origin of a dial.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum From {
    /// The listener's port: its mapping is known.
    Listener,
    /// A port of its own.
    Fresh,
}

/// Dials of one side.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Tactic {
    /// Dials these addresses, and again when refused.
    Meet(SmallVec<[(From, SocketAddr); 1]>),
    /// Waits: the peer dials a port of ours that anybody may use.
    Await,
    /// Dials one address from many ports.
    Spray { to: SocketAddr, from: u16, with: Spray },
    /// Dials many ports of one address, each once.
    Probe { to: IpAddr, ports: Ports, count: u16 },
    /// No dial can work, for this reason.
    Hopeless(&'static str),
}

/// Kind of a spray.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Spray {
    /// The peer probes our ports.
    Probed,
    /// The peer probes our ports from any of its own: a listener waits on each of ours.
    Listening,
    /// The peer's ports are not known either, and all its flows go to an agreed one of ours.
    Agreed,
}

/// Returns true behind one router, or on one machine: no NAT lies between the inside addresses.
pub(crate) fn is_near(internal: IpAddr, external: IpAddr, theirs: &Side) -> bool {
    (external == theirs.external && internal != external) || internal.is_loopback()
}

/// Difficulty of a punch through a NAT, from 0 on: of several homes the easiest is punched from. A NAT that was not
/// measured comes last, since often it leads nowhere, as a container's interface does.
pub(crate) fn difficulty(behaviour: Behaviour) -> u8 {
    match behaviour.foresight() {
        _ if !behaviour.is_surveyed() => 3,
        Foresight::Offset(_) | Foresight::Measured => 0,
        Foresight::Next(_) => 1,
        Foresight::Nothing { .. } => 2,
    }
}

/// Chooses our side's dials on a rung, by what each side has announced. Each side comes to its half of the same plan.
pub(crate) fn tactic(ours: &Side, theirs: &Side, rung: u8) -> Tactic {
    if is_near(ours.internal, ours.external, theirs) {
        let inside = SocketAddr::new(theirs.internal, theirs.listen);
        return Tactic::Meet([(From::Listener, inside)].into_iter().collect());
    }
    let at = |port: u16| SocketAddr::new(theirs.external, port);
    let meet = |dials: &mut dyn Iterator<Item = (From, SocketAddr)>| Tactic::Meet(dials.collect());
    let once = |from, port| Tactic::Meet([(from, at(port))].into_iter().collect());
    let surveyed = |side: &Side| side.behaviour.is_surveyed();
    if theirs.ports.is_empty() && !(surveyed(ours) && surveyed(theirs)) {
        // Too early to search: this opens our filter, and the next try knows more.
        return once(From::Listener, theirs.listen);
    }
    let admits = |side: &Side| admits(side.behaviour, rung);
    let first = theirs.ports.first().copied();
    // A mapping that anybody may use is dialled. Its owner's dials come from elsewhere, or the NAT would take the two for one.
    match (theirs.open_port(), ours.open_port(), first) {
        (Some(port), ..) => return once(From::Listener, port),
        (None, Some(_), Some(port)) => return once(From::Fresh, port),
        (None, Some(_), None) => return Tactic::Await,
        (None, None, _) => {}
    }
    let probe = || {
        let ports = theirs.range();
        Tactic::Probe { to: theirs.external, ports, count: PROBES.min(ports.of) }
    };
    let spray = |port, with| Tactic::Spray { to: at(port), from: ours.range().sprayed(), with };
    let shares = |side: &Side| side.behaviour.shares_mapping();
    match (ours.next(), theirs.next()) {
        (Next::Known | Next::KnownOnce, Next::Known | Next::KnownOnce | Next::Counted) => {
            meet(&mut theirs.ports.iter().map(|port| (From::Listener, at(*port))))
        }
        (Next::Counted, Next::Known | Next::KnownOnce | Next::Counted) => {
            let (aim, steps) = match theirs.ports.last() {
                Some(aim) if theirs.ports.len() > 1 => (*aim, STEPS.min(ours.others + AHEAD + 1)),
                _ => (first.unwrap_or(theirs.listen), STEPS_ALONE.min(ours.others + 1)),
            };
            meet(&mut core::iter::repeat_n((From::Fresh, at(aim)), steps.into()))
        }
        // The filter of a side whose ports are known takes any dial of ours.
        (Next::Random(_), Next::Known | Next::KnownOnce) if admits(theirs) || !surveyed(theirs) => {
            meet(&mut [(From::Fresh, at(first.unwrap_or(theirs.listen))); 2].into_iter())
        }
        (Next::Random(_), Next::Counted) if admits(theirs) => {
            meet(&mut theirs.ports.iter().map(|port| (From::Listener, at(*port))))
        }
        // Any packet of ours to the peer's address opens our filter for its dials.
        (Next::Known | Next::KnownOnce | Next::Counted, Next::Random(_)) if admits(ours) => {
            once(From::Listener, theirs.listen)
        }
        // One side has one port for all of the other's, which is known: the other comes from many.
        (Next::Random(_), Next::Known) => spray(first.unwrap_or(theirs.listen), Spray::Probed),
        (Next::Random(_), Next::KnownOnce | Next::Counted) if shares(theirs) => {
            spray(first.unwrap_or(theirs.listen), Spray::Probed)
        }
        (Next::Known, Next::Random(_)) => probe(),
        (Next::KnownOnce | Next::Counted, Next::Random(_)) if shares(ours) => probe(),
        // Neither has. A filter that lets in any port of an address needs mappings for it, as many as the other side can hit,
        // each to a port of its own: the other side may come to several of them from one port. Of two such filters one does.
        (Next::Random(_), _) if admits(ours) && !(admits(theirs) && ours.external > theirs.external) => {
            spray(first.unwrap_or(theirs.listen), Spray::Listening)
        }
        (_, Next::Random(_)) if admits(theirs) => probe(),
        _ => {
            if both_permille(ours, theirs) >= WORTH_SEARCHING {
                let to = theirs.agreed(rung);
                return match ours.next() {
                    Next::Random(range) => {
                        // The range is an estimate, which is half of the true one about as often as not.
                        let from = PROBES.min(range.of.saturating_mul(2));
                        Tactic::Spray { to: at(to), from, with: Spray::Agreed }
                    }
                    Next::Counted => {
                        let from = STEPS.min(ours.others + AHEAD + 1);
                        Tactic::Spray { to: at(to), from, with: Spray::Agreed }
                    }
                    Next::Known | Next::KnownOnce => once(From::Listener, to),
                };
            }
            Tactic::Hopeless(match (ours.next(), theirs.next()) {
                (Next::Random(_), Next::Random(_)) => "both NATs pick random ports",
                (Next::Random(_), _) => {
                    "our NAT picks random ports, and the peer's another one for each destination"
                }
                _ => "the peer's NAT picks random ports, and ours another one for each destination",
            })
        }
    }
}

/// Returns true on a rung whose hit is a matter of both sides' flows to one port of each.
pub(crate) fn both_search(ours: &Side, theirs: &Side, tactic: &Tactic, rung: u8) -> bool {
    match tactic {
        Tactic::Spray { with, .. } => *with == Spray::Agreed,
        // One flow of ours has one port, and the peer's are to come to it.
        Tactic::Meet(dials) => {
            let hidden = matches!((ours.next(), theirs.next()), (Next::KnownOnce, Next::Random(_)));
            let agreed = dials.iter().all(|(_, to)| to.port() == theirs.agreed(rung));
            hidden && agreed && theirs.open_port().is_none()
        }
        Tactic::Await | Tactic::Probe { .. } | Tactic::Hopeless(_) => false,
    }
}

/// Returns the probability that a rung connects if both NATs are as their sides have announced them, in thousandths and at most
/// 999. Where ports are known that is 999.
pub(crate) fn chance(ours: &Side, theirs: &Side, tactic: &Tactic, rung: u8) -> u32 {
    let permille = match tactic {
        Tactic::Hopeless(_) => 0,
        _ if both_search(ours, theirs, tactic, rung) => both_permille(ours, theirs),
        Tactic::Meet(_) | Tactic::Await => 999,
        Tactic::Spray { .. } => ours.range().hit_permille(),
        Tactic::Probe { ports, .. } => ports.hit_permille(),
    };
    permille.min(999)
}

/// Returns what a rung rests on of what is foreseen of our next mapping: the rest counts as certain.
pub(crate) fn rests_on(ours: &Side, theirs: &Side, rung: u8, foreseen: Foreseen) -> Foreseen {
    let certain = Foreseen::default();
    let has_port = !matches!(theirs.next(), Next::Random(_));
    if theirs.open_port().is_some() {
        return certain;
    }
    // The peer dials a port that we keep open, or lets in any of our ports at its own, which is known.
    if ours.open_port().is_some() || (has_port && admits(theirs.behaviour, rung)) {
        return Foreseen { address: foreseen.address, ..certain };
    }
    foreseen
}

/// Returns true if the dials of a rung would be others, were the filters as strict as can be.
pub(crate) fn relies_on_filters(ours: &Side, theirs: &Side, rung: u8) -> bool {
    let strict = |side: &Side| {
        let behaviour = Behaviour { filtering: Some(Filtering::AddressPortDependent), ..side.behaviour };
        Side { behaviour, ..side.clone() }
    };
    tactic(ours, theirs, rung) != tactic(&strict(ours), &strict(theirs), rung)
}

/// Returns the probability, in thousandths, that flows of each side come from the port that the other's go to: the product of the
/// shares of their ranges that the flows take.
fn both_permille(ours: &Side, theirs: &Side) -> u32 {
    let share = |side: &Side| {
        let of = u32::from(side.range().of.max(1));
        u32::from(PROBES).min(of) * 1000 / of
    };
    share(ours) * share(theirs) / 1000
}

/// Predicts the ports that a counter comes to after `seen`, of which others are expected to take `others` first. The
/// likeliest comes first. The last is the port that a side that counts too should aim at.
pub(crate) fn window(seen: u16, step: i16, others: u16) -> SmallVec<[u16; MAX_PORTS]> {
    let port = |taken: u16| {
        let ahead = i32::from(step) * (i32::from(taken) + 1);
        seen.wrapping_add(ahead as u16)
    };
    // More would wrap, and no counter runs so fast.
    let others = others.min(MAX_OTHERS);
    let aim = others + AHEAD;
    let low = others.saturating_sub(MAX_PORTS as u16 / 2);
    let mut near: Vec<u16> = (low..low + 2 * MAX_PORTS as u16).filter(|n| *n != aim).collect();
    near.sort_by_key(|n| n.abs_diff(others));
    let near = near.into_iter().take(MAX_PORTS - 1);
    // Nobody would dial port 0.
    near.chain([aim]).map(port).filter(|port| *port != 0).collect()
}

/// Returns the probability, in thousandths, that `probes` different ports out of `range` hit one of `mapped`.
pub fn hit_permille(mapped: u32, probes: u32, range: u32) -> u32 {
    const ONE: u64 = 1 << 32;
    let range = u64::from(range.max(1));
    let mut miss = ONE;
    for n in 0..u64::from(probes).min(range) {
        let left = range - n;
        miss = miss * left.saturating_sub(u64::from(mapped)) / left;
    }
    ((ONE - miss) * 1000 / ONE) as u32
}

/// Returns the `n`th of `of` places, in an order that `key` chooses: an affine walk by a step that shares no factor with
/// their number visits each once.
fn walk(key: u64, n: u16, of: u16) -> u16 {
    let span = u64::from(of.max(1));
    let mut step = ((key >> 32) % span) | 1;
    while gcd(step, span) != 1 {
        step += 2;
    }
    ((key % span + step * u64::from(n)) % span) as u16
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::nat::{Allocation, Mapping};

    const EI: Option<Mapping> = Some(Mapping::EndpointIndependent);
    const APD: Option<Mapping> = Some(Mapping::AddressPortDependent);
    const RANDOM: Option<Allocation> = Some(Allocation::Random { low: 1024, high: 65_535 });

    fn side(n: u8, mapping: Option<Mapping>, allocation: Option<Allocation>, ports: &[u16]) -> Side {
        let filtering = Some(Filtering::AddressPortDependent);
        Side {
            behaviour: Behaviour { mapping, filtering, allocation },
            external: [203, 0, 113, n].into(),
            internal: [192, 168, n, 2].into(),
            ports: ports.iter().copied().collect(),
            listen: 4000,
            others: 0,
        }
    }

    fn to(port: u16) -> SocketAddr {
        ([203, 0, 113, 2], port).into()
    }

    #[test]
    fn a_nat_whose_ports_are_predicted_is_easier_than_one_that_counts_and_that_than_a_random_one() {
        let unknown = side(1, None, None, &[]);
        let ranked = [
            (side(1, EI, RANDOM, &[]), 0),
            (side(1, APD, Some(Allocation::Equal), &[]), 0),
            (side(1, APD, Some(Allocation::Sequential(1)), &[]), 1),
            (side(1, APD, RANDOM, &[]), 2),
            (side(1, None, Some(Allocation::Equal), &[]), 0),
            (unknown, 3),
        ];
        for (side, rank) in ranked {
            assert_eq!(difficulty(side.behaviour), rank, "{:?}", side.behaviour);
        }
    }

    fn once(from: From, port: u16) -> Tactic {
        Tactic::Meet([(from, to(port))].into_iter().collect())
    }

    fn probe(low: u16, of: u16) -> Tactic {
        Tactic::Probe { to: to(0).ip(), ports: Ports { low, of }, count: PROBES.min(of) }
    }

    fn sprays(port: u16, listens: bool) -> Tactic {
        let with = if listens { Spray::Listening } else { Spray::Probed };
        Tactic::Spray { to: to(port), from: SPRAY, with }
    }

    fn agreed(port: u16, from: u16) -> Tactic {
        Tactic::Spray { to: to(port), from, with: Spray::Agreed }
    }

    const AD: Option<Mapping> = Some(Mapping::AddressDependent);
    const COUNTS: Option<Allocation> = Some(Allocation::Sequential(1));
    const EQUAL: Option<Allocation> = Some(Allocation::Equal);

    #[test]
    fn each_pair_has_its_tactic() {
        let equal = |n, port| side(n, EI, EQUAL, &[port]);
        let cone = side(1, EI, RANDOM, &[50_000]);
        let counting = |n: u8| side(n, APD, COUNTS, &[7001, 7002, 7003, 7004]);
        let random = |n| side(n, APD, RANDOM, &[]);
        let tactic = |ours: &Side, theirs: &Side| tactic(ours, theirs, 0);
        assert_eq!(tactic(&equal(1, 4000), &equal(2, 4001)), once(From::Listener, 4001));
        assert_eq!(tactic(&cone, &equal(2, 4001)), once(From::Listener, 4001));
        assert_eq!(tactic(&counting(1), &equal(2, 4001)), once(From::Fresh, 4001));
        let all = (7001..7005).map(|p| (From::Listener, to(p))).collect();
        assert_eq!(tactic(&equal(1, 4000), &counting(2)), Tactic::Meet(all));
        let aimed = |n| Tactic::Meet(core::iter::repeat_n((From::Fresh, to(7004)), n).collect());
        assert_eq!(tactic(&counting(1), &counting(2)), aimed(9), "all at one");
        let busy = |others| Side { others, ..counting(1) };
        assert_eq!(tactic(&busy(10), &counting(2)), aimed(19));
        assert_eq!(tactic(&busy(100), &counting(2)), aimed(32));
        assert_eq!(tactic(&busy(10), &equal(2, 7004)), aimed(11));
        assert_eq!(tactic(&busy(100), &equal(2, 7004)), aimed(16));
        assert_eq!(tactic(&random(1), &equal(2, 4001)), sprays(4001, false));
        let everywhere = probe(1024, 64_512);
        assert_eq!(tactic(&equal(1, 4000), &random(2)), everywhere);
        assert!(matches!(tactic(&random(1), &random(2)), Tactic::Hopeless(_)));
        assert!(matches!(tactic(&random(1), &counting(2)), Tactic::Hopeless(_)));
        assert!(matches!(tactic(&counting(1), &random(2)), Tactic::Hopeless(_)));
        // A server with one address tells no mapping, and the ports all the same.
        let unmapped = |n, allocation, port| side(n, None, Some(allocation), &[port]);
        for allocation in [Allocation::Equal, Allocation::Random { low: 1024, high: 65_535 }] {
            assert_eq!(tactic(&unmapped(1, allocation, 4000), &random(2)), everywhere);
            assert_eq!(tactic(&random(1), &unmapped(2, allocation, 4001)), sprays(4001, false));
        }
        // Nothing is known yet.
        assert_eq!(tactic(&side(1, None, None, &[4000]), &random(2)), once(From::Listener, 4000));
        let mut open = equal(1, 4000);
        open.behaviour.filtering = Some(Filtering::AddressDependent);
        assert_eq!(tactic(&open, &random(2)), once(From::Listener, 4000), "opens our filter");
        let mut theirs = equal(2, 4001);
        theirs.behaviour.filtering = Some(Filtering::AddressDependent);
        let twice = [(From::Fresh, to(4001)); 2].into_iter().collect();
        assert_eq!(tactic(&random(1), &theirs), Tactic::Meet(twice));
        let mut neighbour = equal(2, 4001);
        neighbour.external = [203, 0, 113, 1].into();
        let inside = ([192, 168, 2, 2], 4000).into();
        let expected = Tactic::Meet([(From::Listener, inside)].into_iter().collect());
        assert_eq!(tactic(&equal(1, 4000), &neighbour), expected);
    }

    #[test]
    fn a_spray_leaves_half_of_a_block_to_others() {
        for (of, from, permille) in
            [(1u32, 1, 999), (100, 50, 999), (1024, 512, 999), (4096, 512, 999), (64_512, 512, 999)]
        {
            let block = side(1, APD, Some(Allocation::Random { low: 1024, high: 1023 + of as u16 }), &[]);
            let known = side(2, EI, EQUAL, &[4001]);
            let sprays = Tactic::Spray { to: to(4001), from, with: Spray::Probed };
            assert_eq!(tactic(&block, &known, 0), sprays, "{of}");
            assert_eq!(chance(&block, &known, &sprays, 0), permille, "{of}");
            let probes = tactic(&known, &block, 0);
            assert!(
                matches!(probes, Tactic::Probe { count, .. } if u32::from(count) == of.min(1024)),
                "{of}"
            );
            assert_eq!(chance(&known, &block, &probes, 0), permille, "{of}");
        }
    }

    /// One mapping for all ports of an address has one port, which the other side can aim at or has to search.
    #[test]
    fn a_mapping_for_each_address_is_aimed_at_from_random_ports() {
        let counting = |n| side(n, AD, COUNTS, &[7001, 7002]);
        let kept = |n| side(n, AD, EQUAL, &[9000]);
        let random = |n| side(n, APD, RANDOM, &[]);
        for (known, port) in [(&counting as &dyn Fn(u8) -> Side, 7001), (&kept, 9000)] {
            assert_eq!(tactic(&known(1), &random(2), 0), probe(1024, 64_512));
            assert_eq!(tactic(&random(1), &known(2), 0), sprays(port, false));
        }
        // A port that is kept for one destination cannot be searched from.
        let kept_once = side(1, APD, EQUAL, &[9000]);
        assert!(matches!(tactic(&kept_once, &random(2), 0), Tactic::Hopeless(_)));
        // Of few ports one is agreed on.
        let block = |n| side(n, APD, Some(Allocation::Random { low: 5000, high: 6023 }), &[]);
        assert_eq!(tactic(&kept_once, &block(2), 0), once(From::Listener, 5512));
        assert_eq!(tactic(&block(1), &side(2, APD, EQUAL, &[9000]), 0), agreed(9000, 1024));
        assert_eq!(tactic(&kept_once, &side(2, APD, EQUAL, &[9001]), 0), once(From::Listener, 9001));
    }

    /// Filtering was measured over UDP. It is relied on for the first two rungs, and for each second one after them.
    #[test]
    fn a_filter_that_lets_in_other_ports_spares_one_side_the_guess() {
        let with = |filtering, side: Side| {
            let behaviour = Behaviour { filtering: Some(filtering), ..side.behaviour };
            Side { behaviour, ..side }
        };
        let random = |n| side(n, APD, RANDOM, &[]);
        let counting = |n| side(n, APD, COUNTS, &[7001, 7002]);
        let by_address = |side| with(Filtering::AddressDependent, side);
        let anybody = |side| with(Filtering::EndpointIndependent, side);
        // Mappings for the peer, as many as it can hit, each to a port that listens.
        let everywhere = probe(1024, 64_512);
        for rung in [0, 1, 2, 4] {
            assert_eq!(tactic(&by_address(random(1)), &random(2), rung), sprays(4000, true));
            assert_eq!(tactic(&random(1), &by_address(random(2)), rung), everywhere);
            assert_eq!(tactic(&counting(1), &by_address(random(2)), rung), everywhere);
            assert_eq!(tactic(&by_address(random(1)), &counting(2), rung), sprays(7001, true));
            // Both could: the one with the lower address does.
            assert_eq!(tactic(&by_address(random(1)), &by_address(random(2)), rung), sprays(4000, true));
            let other = tactic(&by_address(random(2)), &by_address(random(1)), rung);
            assert!(matches!(other, Tactic::Probe { .. }), "{other:?}");
        }
        // The port that is predicted is dialled from anywhere.
        let window = [7001, 7002].into_iter().map(|p| (From::Listener, to(p))).collect();
        assert_eq!(tactic(&random(1), &by_address(counting(2)), 0), Tactic::Meet(window));
        assert_eq!(tactic(&by_address(counting(1)), &random(2), 0), once(From::Listener, 4000));
        // A mapping that is kept open is dialled by anybody.
        let open = |n| anybody(side(n, APD, RANDOM, &[33_000]));
        for peer in [random(1), counting(1), side(1, EI, EQUAL, &[4000])] {
            assert_eq!(tactic(&peer, &open(2), 0), once(From::Listener, 33_000));
        }
        assert_eq!(tactic(&open(1), &random(2), 0), Tactic::Await);
        assert_eq!(tactic(&open(1), &counting(2), 0), once(From::Fresh, 7001));
        for rung in [3, 5] {
            for theirs in [by_address(random(2)), anybody(random(2))] {
                assert!(matches!(tactic(&random(1), &theirs, rung), Tactic::Hopeless(_)), "{rung}");
            }
        }
    }

    #[test]
    fn two_small_ranges_meet_at_one_port_of_each() {
        let block = |n, low, high| side(n, APD, Some(Allocation::Random { low, high }), &[]);
        let (ours, theirs) = (block(1, 5000, 6023), block(2, 2000, 3023));
        for rung in 0..4 {
            assert_eq!(tactic(&ours, &theirs, rung), agreed(2512, 1024));
        }
        assert_eq!(
            tactic(&ours, &theirs, 4),
            agreed(2513, 1024),
            "another port, in case that one is somebody's"
        );
        let from_there =
            Tactic::Spray { to: ([203, 0, 113, 1], 5512).into(), from: 1024, with: Spray::Agreed };
        assert_eq!(tactic(&block(2, 2000, 3023), &ours, 0), from_there);
        assert_eq!(chance(&ours, &theirs, &agreed(2512, 1024), 0), 999);
        // Half of each range in a rung, and a quarter of all pairs of ports.
        assert_eq!(both_permille(&block(1, 5000, 7047), &block(2, 2000, 4047)), 250);
        assert!(matches!(tactic(&block(1, 5000, 5255), &block(2, 1024, u16::MAX), 0), Tactic::Hopeless(_)));
        // A counter comes to the port that it aims at, as where both count.
        let counting = |n| side(n, APD, Some(Allocation::Sequential(2)), &[7001, 7003, 7017]);
        assert_eq!(tactic(&ours, &counting(2), 0), agreed(7017, 1024));
        assert_eq!(tactic(&counting(1), &theirs, 0), agreed(2512, 9));
    }

    #[test]
    fn no_probability_is_certainty() {
        let narrow = side(2, APD, Some(Allocation::Random { low: 2000, high: 2063 }), &[]);
        let ours = side(1, EI, EQUAL, &[4000]);
        assert_eq!(chance(&ours, &narrow, &tactic(&ours, &narrow, 0), 0), 999);
        assert_eq!(chance(&ours, &ours, &once(From::Listener, 1), 0), 999);
        assert_eq!(chance(&ours, &ours, &Tactic::Hopeless(""), 0), 0);
    }

    #[test]
    fn a_statement_counts_what_the_rung_rests_on() {
        let foreseen = Foreseen { certainty: 900, port: 500, address: 666 };
        let with = |filtering, side: Side| {
            let behaviour = Behaviour { filtering: Some(filtering), ..side.behaviour };
            Side { behaviour, ..side }
        };
        let equal = |n| side(n, EI, EQUAL, &[4000]);
        let random = |n, ports: &[u16]| side(n, APD, RANDOM, ports);
        let (any, by_address) = (Filtering::EndpointIndependent, Filtering::AddressDependent);
        let rests = |ours: &Side, theirs: &Side, rung| rests_on(ours, theirs, rung, foreseen);
        assert_eq!(rests(&equal(1), &equal(2), 0), foreseen);
        // A port that is open to anybody, and one that is open to our address.
        let open = with(any, random(2, &[33_000]));
        assert_eq!(rests(&equal(1), &open, 0), Foreseen::default());
        let by_our_address = Foreseen { address: 666, ..Foreseen::default() };
        assert_eq!(rests(&with(any, random(1, &[33_000])), &equal(2), 0), by_our_address);
        assert_eq!(rests(&random(1, &[]), &with(by_address, equal(2)), 0), by_our_address);
        assert_eq!(rests(&random(1, &[]), &with(by_address, equal(2)), 3), foreseen, "not trusted");
        assert_eq!(rests(&equal(1), &with(by_address, random(2, &[])), 0), foreseen);
        // Two known ports meet whatever the filters are.
        assert!(!relies_on_filters(&equal(1), &with(by_address, equal(2)), 0));
        assert!(relies_on_filters(&random(1, &[]), &with(by_address, equal(2)), 0));
        assert!(!relies_on_filters(&random(1, &[]), &with(by_address, equal(2)), 3));
        assert!(relies_on_filters(&equal(1), &open, 0));
    }

    #[test]
    fn only_a_meeting_at_an_agreed_port_is_a_search_from_both_sides() {
        let once_kept = side(1, APD, EQUAL, &[9000]);
        let wide = side(2, APD, Some(Allocation::Random { low: 5000, high: 7047 }), &[]);
        let both = |ours: &Side, theirs: &Side| {
            let tactic = tactic(ours, theirs, 0);
            (both_search(ours, theirs, &tactic, 0), chance(ours, theirs, &tactic, 0))
        };
        assert_eq!(both(&once_kept, &wide), (true, 500));
        // A filter of ours that lets in any of its ports: we only open it.
        let behaviour = Behaviour { filtering: Some(Filtering::AddressDependent), ..once_kept.behaviour };
        assert_eq!(both(&Side { behaviour, ..once_kept.clone() }, &wide), (false, 999));
        let behaviour = Behaviour { filtering: Some(Filtering::EndpointIndependent), ..wide.behaviour };
        let open = Side { behaviour, ports: [6000].into_iter().collect(), ..wide };
        assert_eq!(both(&once_kept, &open), (false, 999));
    }

    #[test]
    fn a_window_lies_about_what_is_expected() {
        let quiet: Vec<u16> = window(7000, 1, 0).to_vec();
        assert_eq!(
            quiet,
            [7001, 7002, 7003, 7004, 7005, 7006, 7007, 7008, 7010, 7011, 7012, 7013, 7014, 7015, 7016, 7009]
        );
        let busy = window(7000, 1, 20);
        assert_eq!((busy[0], busy[15]), (7021, 7029));
        let all: BTreeSet<u16> = busy.iter().copied().collect();
        assert_eq!((all.first(), all.last(), all.len()), (Some(&7014), Some(&7029), 16));
        let down = window(7000, -2, 1);
        assert_eq!((down[0], down[15]), (6996, 6980));
        let over = window(65_530, 1, 0);
        assert!(
            !over.contains(&0) && over.contains(&65_535) && over.contains(&1) && over.len() == 15,
            "{over:?}"
        );
        assert_eq!(window(1, i16::MIN, u16::MAX).len(), 16);
    }

    /// Two counters meet, as far as stated, in spite of the ports that others take.
    #[test]
    fn two_that_count_meet_in_spite_of_others() {
        let meets = |others: [u16; 2], expected: [u16; 2]| {
            let aim = |n: usize| *window(7000, 1, expected[n]).last().unwrap();
            let dials = |n: usize| STEPS.min(expected[n] + AHEAD + 1);
            let comes = |n: usize| (0..dials(n)).any(|dial| 7001 + others[n] + dial == aim(n));
            comes(0) && comes(1)
        };
        for taken in 0..=AHEAD {
            assert!(meets([taken, 0], [0, 0]) && meets([AHEAD, taken], [0, 0]), "{taken}");
        }
        for taken in 0..=10 + AHEAD {
            assert!(meets([taken, 0], [10, 0]), "{taken}");
        }
        assert!(meets([100 + AHEAD, 0], [100, 0]) && meets([100 + AHEAD + 1 - STEPS, 0], [100, 0]));
        assert!(!meets([AHEAD + 1, 0], [0, 0]) && !meets([100 + AHEAD - STEPS, 0], [100, 0]));
    }

    #[test]
    fn probabilities_are_those_of_the_birthday_bound() {
        let near = |a: u32, b: u32| a.abs_diff(b) <= 5;
        assert!(near(hit_permille(512, 512, 64_512), 983));
        assert!(near(hit_permille(256, 174, 64_512), 500));
        assert!(near(hit_permille(64, 64, 1024), 986));
        assert_eq!(hit_permille(1, 0, 10), 0);
        assert_eq!(hit_permille(10, 1, 10), 1000);
    }

    #[test]
    fn a_walk_never_repeats_a_port_and_stays_in_its_range() {
        for key in [0, 1, u64::MAX, 0x1234_5678_9abc_def0] {
            for (low, high) in [(1024, u16::MAX), (1, 1), (5000, 5511), (1, u16::MAX)] {
                let ports = Ports::between(low, high);
                let count = usize::from(ports.of).min(2000);
                let all: BTreeSet<u16> = (0..count as u16).map(|n| ports.nth(key, n)).collect();
                assert_eq!(all.len(), count, "{key} {low} {high}");
                assert!(all.first() >= Some(&low) && all.last() <= Some(&high));
            }
        }
    }
}
