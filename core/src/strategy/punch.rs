//! Tactics to dial so that two NATs let the same connection through, from the known behaviour of each.
//!
//! A NAT lets a SYN in where it saw one leave for the same place. Where the external ports of each side can be
//! predicted, each dials the other's. The SYNs cross, or the later one finds the hole that the earlier one left, and
//! the ends open simultaneously (RFC 9293 section 3.5). Where one side's ports are random, that side dials from many
//! ports and the other tries many. 256 x 1,024 of 64,512 meet with probability 98.3 %.
//!
//! The reasons: ADR 14 in docs/src/adr.

use std::net::{IpAddr, SocketAddr};

use smallvec::SmallVec;

use crate::nat::{Behaviour, Foresight, gcd};
use crate::signal::mappings::MAX_PORTS;

/// Number of our own ports in a spray.
pub const SPRAY: u16 = 256;
/// Number of the peer's ports tried against a spray.
pub const PROBES: u16 = 1024;
/// Distance of the aim ahead of the expected value of a counter: others behind the same NAT may take so many more
/// ports. Where each side counts, each aims so, and takes ports until it comes to the port that it announced.
const AHEAD: u16 = 8;
/// Most dials to the announced port. With as many dials as expected others plus `AHEAD` more, those others may just as
/// well take none.
const STEPS: u16 = 32;
/// Most dials where only our ports count, and the peer dials all the likely ones.
const STEPS_ALONE: u16 = 16;
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
    /// Dials one address from many ports.
    Spray { to: SocketAddr, from: u16 },
    /// Dials many ports of one address, each once.
    Probe { to: IpAddr, low: u16, high: u16, count: u16 },
    /// No dial can work, for this reason.
    Hopeless(&'static str),
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

/// Chooses our side's dials.
pub(crate) fn tactic(ours: &Side, theirs: &Side) -> Tactic {
    if is_near(ours.internal, ours.external, theirs) {
        let inside = SocketAddr::new(theirs.internal, theirs.listen);
        return Tactic::Meet([(From::Listener, inside)].into_iter().collect());
    }
    let at = |port: u16| SocketAddr::new(theirs.external, port);
    let meet = |dials: &mut dyn Iterator<Item = (From, SocketAddr)>| Tactic::Meet(dials.collect());
    let surveyed = |side: &Side| side.behaviour.is_surveyed();
    if theirs.ports.is_empty() && !(surveyed(ours) && surveyed(theirs)) {
        // Too early to search: this opens our filter, and the next try knows more.
        return meet(&mut [(From::Listener, at(theirs.listen))].into_iter());
    }
    match (ours.behaviour.foresight(), theirs.ports.first()) {
        (Foresight::Nothing { .. }, None) => Tactic::Hopeless("both NATs pick random ports"),
        (Foresight::Nothing { .. }, Some(port))
            if !theirs.behaviour.filters_by_port() || !surveyed(theirs) =>
        {
            meet(&mut [(From::Fresh, at(*port)); 2].into_iter())
        }
        (Foresight::Nothing { .. }, Some(_)) if theirs.ports.len() > 1 => {
            Tactic::Hopeless("our NAT picks random ports, and the peer's another one for each destination")
        }
        (Foresight::Nothing { .. }, Some(port)) => Tactic::Spray { to: at(*port), from: SPRAY },
        (Foresight::Next(_), None) if ours.behaviour.filters_by_port() => {
            Tactic::Hopeless("the peer's NAT picks random ports, and ours another one for each destination")
        }
        // Any packet of ours to the peer's address opens our filter for its dials.
        (_, None) if !ours.behaviour.filters_by_port() => {
            meet(&mut [(From::Listener, at(theirs.listen))].into_iter())
        }
        (_, None) => {
            let (low, high) = match theirs.behaviour.foresight() {
                Foresight::Nothing { low, high } => (low.max(1), high.max(1)),
                _ => (1024, u16::MAX),
            };
            let count = PROBES.min((high - low).saturating_add(1));
            Tactic::Probe { to: theirs.external, low, high, count }
        }
        (Foresight::Next(_), Some(port)) => {
            let (port, steps) = match theirs.ports.last() {
                Some(aim) if theirs.ports.len() > 1 => (aim, STEPS.min(ours.others + AHEAD + 1)),
                _ => (port, STEPS_ALONE.min(ours.others + 1)),
            };
            meet(&mut core::iter::repeat_n((From::Fresh, at(*port)), usize::from(steps)))
        }
        (Foresight::Offset(_) | Foresight::Measured, Some(_)) => {
            meet(&mut theirs.ports.iter().map(|port| (From::Listener, at(*port))))
        }
    }
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

/// Returns the `n`th of `count` different ports in `low..=high`, in an order that `key` chooses.
pub(crate) fn nth_port(key: u64, n: u16, low: u16, high: u16) -> u16 {
    let span = u64::from(high.max(low) - low) + 1;
    // An affine walk by a step that shares no factor with the span visits every port once.
    let mut step = ((key >> 32) % span) | 1;
    while gcd(step, span) != 1 {
        step += 2;
    }
    (u64::from(low) + (key % span + step * u64::from(n)) % span) as u16
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::nat::{Allocation, Filtering, Mapping};

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

    #[test]
    fn each_pair_has_its_tactic() {
        let equal = |n, port| side(n, EI, Some(Allocation::Equal), &[port]);
        let cone = side(1, EI, RANDOM, &[50_000]);
        let counting = |n: u8| side(n, APD, Some(Allocation::Sequential(1)), &[7001, 7002, 7003, 7004]);
        let random = |n| side(n, APD, RANDOM, &[]);
        let one = |from, port| Tactic::Meet([(from, to(port))].into_iter().collect());
        assert_eq!(tactic(&equal(1, 4000), &equal(2, 4001)), one(From::Listener, 4001));
        assert_eq!(tactic(&cone, &equal(2, 4001)), one(From::Listener, 4001));
        assert_eq!(tactic(&counting(1), &equal(2, 4001)), one(From::Fresh, 4001));
        let all = (7001..7005).map(|p| (From::Listener, to(p))).collect();
        assert_eq!(tactic(&equal(1, 4000), &counting(2)), Tactic::Meet(all));
        let aimed = |n| Tactic::Meet(core::iter::repeat_n((From::Fresh, to(7004)), n).collect());
        assert_eq!(tactic(&counting(1), &counting(2)), aimed(9), "all at one");
        let busy = |others| Side { others, ..counting(1) };
        assert_eq!(tactic(&busy(10), &counting(2)), aimed(19));
        assert_eq!(tactic(&busy(100), &counting(2)), aimed(32));
        assert_eq!(tactic(&busy(10), &equal(2, 7004)), aimed(11));
        assert_eq!(tactic(&busy(100), &equal(2, 7004)), aimed(16));
        assert_eq!(tactic(&random(1), &equal(2, 4001)), Tactic::Spray { to: to(4001), from: SPRAY });
        let probe = Tactic::Probe { to: to(0).ip(), low: 1024, high: 65_535, count: PROBES };
        assert_eq!(tactic(&equal(1, 4000), &random(2)), probe);
        assert!(matches!(tactic(&random(1), &random(2)), Tactic::Hopeless(_)));
        assert!(matches!(tactic(&random(1), &counting(2)), Tactic::Hopeless(_)));
        assert!(matches!(tactic(&counting(1), &random(2)), Tactic::Hopeless(_)));
        // A server with one address tells no mapping, and the ports all the same.
        let unmapped = |n, allocation, port| side(n, None, Some(allocation), &[port]);
        for allocation in [Allocation::Equal, Allocation::Random { low: 1024, high: 65_535 }] {
            assert_eq!(tactic(&unmapped(1, allocation, 4000), &random(2)), probe);
            assert_eq!(
                tactic(&random(1), &unmapped(2, allocation, 4001)),
                Tactic::Spray { to: to(4001), from: SPRAY }
            );
        }
        // Nothing is known yet.
        assert_eq!(tactic(&side(1, None, None, &[4000]), &random(2)), one(From::Listener, 4000));
        let mut open = equal(1, 4000);
        open.behaviour.filtering = Some(Filtering::AddressDependent);
        assert_eq!(tactic(&open, &random(2)), one(From::Listener, 4000), "opens our filter");
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
        assert!(near(hit_permille(256, 1024, 64_512), 983));
        assert!(near(hit_permille(256, 174, 64_512), 500));
        assert!(near(hit_permille(64, 64, 1024), 986));
        assert_eq!(hit_permille(1, 0, 10), 0);
        assert_eq!(hit_permille(10, 1, 10), 1000);
    }

    #[test]
    fn a_walk_never_repeats_a_port_and_stays_in_its_range() {
        for key in [0, 1, u64::MAX, 0x1234_5678_9abc_def0] {
            for (low, high) in [(1024, u16::MAX), (1, 1), (5000, 5511), (1, u16::MAX)] {
                let span = usize::from(high - low) + 1;
                let count = span.min(2000);
                let all: BTreeSet<u16> = (0..count as u16).map(|n| nth_port(key, n, low, high)).collect();
                assert_eq!(all.len(), count, "{key} {low} {high}");
                assert!(all.first() >= Some(&low) && all.last() <= Some(&high));
            }
        }
    }
}
