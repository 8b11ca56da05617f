//! Behaviour of NATs in the words of RFC 4787, and its consequences for the ports that a peer has to dial.

use core::fmt;

use super::{Delta, DeltaType, NatType};

/// Reuse of one external endpoint for an inside one (RFC 4787 section 4.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
// Exhaustive: the kinds of RFC 4787, and none.
pub enum Mapping {
    /// No translation.
    None,
    /// The same for every destination.
    EndpointIndependent,
    /// A new one for each destination address.
    AddressDependent,
    /// A new one for each destination address and port.
    AddressPortDependent,
}

/// Filtering of a NAT or firewall (RFC 4787 section 5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
// Exhaustive: the kinds of RFC 4787.
pub enum Filtering {
    /// Admits anything for a mapping that exists.
    EndpointIndependent,
    /// Admits anything from an address that we have sent to.
    AddressDependent,
    /// Admits anything from an address and port that we have sent to.
    AddressPortDependent,
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mapping::None => "none",
            Mapping::EndpointIndependent => "the same for every destination",
            Mapping::AddressDependent => "another for each destination address",
            Mapping::AddressPortDependent => "another for each destination address and port",
        })
    }
}

impl fmt::Display for Filtering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Filtering::EndpointIndependent => "anybody",
            Filtering::AddressDependent => "addresses that were talked to",
            Filtering::AddressPortDependent => "addresses and ports that were talked to",
        })
    }
}

/// Rule by which a NAT chooses the external port of a new mapping.
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
// Exhaustive: the address's format has these kinds.
pub enum Allocation {
    /// The local port.
    Equal,
    /// The local port plus this, modulo 65,536.
    Preserving(u16),
    /// The one before plus this, whatever the local port.
    Sequential(i16),
    /// The one before plus this for each step of the local port.
    Dependent(i16),
    /// A random port between these.
    Random {
        /// Lowest port seen or assumed.
        low: u16,
        /// Highest.
        high: u16,
    },
}

/// Known behaviour of a NAT. `None` stands for not measured.
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
// Exhaustive: RFC 4787 has these three.
pub struct Behaviour {
    /// Mapping behaviour.
    pub mapping: Option<Mapping>,
    /// Filtering behaviour. It is measured over UDP, since RFC 5780 has no such test over TCP.
    pub filtering: Option<Filtering>,
    /// Rule of port allocation.
    pub allocation: Option<Allocation>,
}

impl Behaviour {
    /// Neither translation nor filter.
    pub const OPEN: Behaviour = Behaviour {
        mapping: Some(Mapping::None),
        filtering: Some(Filtering::EndpointIndependent),
        allocation: Some(Allocation::Equal),
    };

    /// P2PD's number for it. `None`: not known, as the filter decides and was not measured.
    pub fn nat_type(self) -> Option<NatType> {
        if self.is_symmetric() {
            return Some(NatType::Symmetric);
        }
        Some(match (self.mapping, self.filtering?) {
            (Some(Mapping::None), Filtering::EndpointIndependent) => NatType::OpenInternet,
            (Some(Mapping::None), _) => NatType::SymmetricUdpFirewall,
            (_, Filtering::EndpointIndependent) => NatType::FullCone,
            (_, Filtering::AddressDependent) => NatType::AddressRestricted,
            (_, Filtering::AddressPortDependent) => NatType::PortRestricted,
        })
    }

    /// The number that stands in our address, which has none for what is not known: then a host without a NAT counts as
    /// open, as it does where nothing is measured, and a NAT as the strictest common kind.
    pub(crate) fn announced_type(self) -> NatType {
        let unknown =
            if self.mapping == Some(Mapping::None) { NatType::OpenInternet } else { NatType::PortRestricted };
        self.nat_type().unwrap_or(unknown)
    }

    /// P2PD's number for its allocation, with the step.
    pub fn delta(self) -> Delta {
        if self.mapping == Some(Mapping::None) {
            return Delta { kind: DeltaType::NotApplicable, value: 0 };
        }
        let (kind, value) = match self.allocation {
            Some(Allocation::Equal) => (DeltaType::Equal, 0),
            Some(Allocation::Preserving(_)) => (DeltaType::Preserving, 0),
            Some(Allocation::Sequential(step)) => (DeltaType::Independent, step.unsigned_abs()),
            Some(Allocation::Dependent(step)) => (DeltaType::Dependent, step.unsigned_abs()),
            Some(Allocation::Random { .. }) | None => (DeltaType::Random, 0),
        };
        Delta { kind, value }
    }

    /// Returns true if a peer's first packet has to come from the very port that we sent to. Filtering that was not
    /// measured counts as such, since most NATs filter by port.
    pub fn filters_by_port(self) -> bool {
        !matches!(self.filtering, Some(Filtering::EndpointIndependent | Filtering::AddressDependent))
    }

    /// Returns true if another destination gets another mapping.
    pub(crate) fn is_symmetric(self) -> bool {
        matches!(self.mapping, Some(Mapping::AddressDependent | Mapping::AddressPortDependent))
    }

    /// Returns true if a survey told how the NAT chooses ports. That is enough to predict them. The mapping,
    /// which takes a server with two addresses, says only whether it holds for other destinations, too.
    pub(crate) fn is_surveyed(self) -> bool {
        self.mapping.is_some() || self.allocation.is_some()
    }

    /// Returns the way to predict the external port for a new destination.
    pub(crate) fn foresight(self) -> Foresight {
        match (self.mapping, self.allocation) {
            (_, Some(Allocation::Equal) | None) | (Some(Mapping::None), _) => Foresight::Offset(0),
            (_, Some(Allocation::Preserving(offset))) => Foresight::Offset(offset),
            (Some(Mapping::EndpointIndependent) | None, _) => Foresight::Measured,
            (_, Some(Allocation::Sequential(step) | Allocation::Dependent(step))) => Foresight::Next(step),
            (_, Some(Allocation::Random { low, high })) => Foresight::Nothing { low, high },
        }
    }
}

impl fmt::Display for Behaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.nat_type(), self.mapping) {
            (Some(kind), _) => write!(f, "{kind}")?,
            (None, Some(Mapping::None)) => f.write_str("no NAT, a firewall is not known")?,
            (None, Some(_)) => f.write_str("a NAT whose filtering is not known")?,
            (None, None) => f.write_str("a NAT whose mapping and filtering are not known")?,
        }
        match self.mapping {
            Some(Mapping::None) => Ok(()),
            _ => write!(f, ", ports {}", self.delta()),
        }
    }
}

/// Prediction of our external port for the next destination, to be told to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Foresight {
    /// The local port plus this.
    Offset(u16),
    /// The one that the local port was seen as.
    Measured,
    /// The one that was seen last, plus this for each new mapping.
    Next(i16),
    /// No prediction is possible: any port between these.
    Nothing {
        /// Lowest.
        low: u16,
        /// Highest.
        high: u16,
    },
}

/// Infers the rule of allocation from local ports and their external ports, in the order the mappings were made.
/// Returns `None` for fewer than three.
///
/// The local ports should not be evenly spaced, or counting by local port and counting by mapping look alike.
pub fn allocation(samples: &[(u16, u16)]) -> Option<Allocation> {
    if samples.len() < 3 {
        return None;
    }
    let offset = |&(local, seen): &(u16, u16)| seen.wrapping_sub(local);
    let first = offset(&samples[0]);
    if samples.iter().all(|s| offset(s) == first) {
        return Some(if first == 0 { Allocation::Equal } else { Allocation::Preserving(first) });
    }
    let steps = |pick: fn(&(u16, u16)) -> u16| {
        samples.windows(2).map(move |w| i32::from(pick(&w[1])) - i32::from(pick(&w[0])))
    };
    let seen: Vec<i32> = steps(|s| s.1).collect();
    let local: Vec<i32> = steps(|s| s.0).collect();
    // By local port, exactly.
    if let (Some(&by), Some(&of)) = (seen.first(), local.first())
        && of != 0
        && by % of == 0
        && seen.iter().zip(&local).all(|(s, l)| *s == l * (by / of))
        && let Ok(step @ (1.. | ..=-1)) = i16::try_from(by / of)
        && step.unsigned_abs() <= MAX_STEP
    {
        return Some(Allocation::Dependent(step));
    }
    // By mapping; others' mappings may lie between ours.
    let near = |s: &i32| s.unsigned_abs() <= u32::from(MAX_STEP) * 4;
    let one_way = seen.iter().all(|s| *s > 0) || seen.iter().all(|s| *s < 0);
    if one_way && seen.iter().all(near) {
        let step = seen.iter().copied().reduce(gcd).unwrap_or(1);
        let signed = if seen[0] < 0 { -step.abs() } else { step.abs() };
        if let Ok(step) = i16::try_from(signed) {
            return Some(Allocation::Sequential(step));
        }
    }
    // Three samples say little of a range: all that is not privileged, unless one was.
    let low = samples.iter().map(|s| s.1).min()?.min(1024);
    Some(Allocation::Random { low, high: u16::MAX })
}

/// The range that random ports come from, when enough of them were seen: a carrier gives a subscriber a block of
/// 512 to 4,096 (RFC 7422), and all lie near each other. Taken three times as wide as seen, since the seen
/// ones rarely reach the block's ends. `None`: they lie all over, or too few were seen.
pub fn block(seen: &[u16]) -> Option<(u16, u16)> {
    let (low, high) = (*seen.iter().min()?, *seen.iter().max()?);
    let span = high - low;
    let near = seen.len() >= MIN_SEEN && span <= MAX_BLOCK;
    near.then(|| (low.saturating_sub(span).max(1), high.saturating_add(span)))
}

/// Largest block.
const MAX_BLOCK: u16 = 4096;
/// Least number of ports for a block. Chance puts so many, out of the whole range, within a block at one in 10,000
/// NATs.
const MIN_SEEN: usize = 5;
/// Largest step of an allocator that counts.
pub(super) const MAX_STEP: u16 = 16;

/// The greatest common divisor, of either sign.
pub(crate) fn gcd<T: Copy + Default + PartialEq + core::ops::Rem<Output = T>>(a: T, b: T) -> T {
    if b == T::default() { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_found_behind_samples() {
        for (samples, rule) in [
            (&[(5000, 5000), (5003, 5003), (5004, 5004)][..], Allocation::Equal),
            (&[(5000, 6000), (5003, 6003), (5004, 6004)], Allocation::Preserving(1000)),
            (&[(5000, 64_536), (5003, 64_539), (65_000, 59_000)], Allocation::Preserving(59_536)),
            (&[(5000, 40_000), (5003, 40_001), (5004, 40_002)], Allocation::Sequential(1)),
            (&[(5000, 40_000), (5003, 40_004), (5004, 40_006)], Allocation::Sequential(2)),
            (&[(5000, 40_000), (5003, 39_999), (5004, 39_998)], Allocation::Sequential(-1)),
            (&[(5000, 40_000), (5003, 40_006), (5004, 40_008)], Allocation::Dependent(2)),
            (
                &[(5000, 40_000), (5003, 21_001), (5004, 60_002)],
                Allocation::Random { low: 1024, high: 65_535 },
            ),
            (
                &[(5000, 40_000), (5003, 40_500), (5004, 40_400)],
                Allocation::Random { low: 1024, high: 65_535 },
            ),
        ] {
            assert_eq!(allocation(samples), Some(rule), "{samples:?}");
        }
        assert_eq!(allocation(&[(1, 1), (2, 2)]), None);
    }

    #[test]
    fn a_block_is_seen_where_there_is_one() {
        assert_eq!(block(&[5000, 5400, 5100, 5300, 5200]), Some((4600, 5800)));
        assert_eq!(block(&[5000, 5400, 5100, 5300]), None, "too few");
        assert_eq!(block(&[5000, 9400, 5100, 5300, 5200]), None, "too wide");
        assert_eq!(block(&[100, 400, 200, 300, 250]), Some((1, 700)), "not below 1");
        assert_eq!(block(&[65_000, 65_500, 65_100, 65_200, 65_300]), Some((64_500, 65_535)));
        assert_eq!(block(&[]), None);
    }

    #[test]
    fn behaviours_have_p2pds_numbers() {
        let of = |mapping, filtering| Behaviour { mapping, filtering, allocation: None };
        let number = |behaviour: Behaviour| behaviour.nat_type().map(NatType::number);
        use Filtering as F;
        use Mapping as M;
        assert_eq!(number(of(Some(M::None), Some(F::EndpointIndependent))), Some(1));
        assert_eq!(number(of(Some(M::None), Some(F::AddressPortDependent))), Some(2));
        assert_eq!(number(of(Some(M::EndpointIndependent), Some(F::EndpointIndependent))), Some(3));
        assert_eq!(number(of(Some(M::EndpointIndependent), Some(F::AddressDependent))), Some(4));
        assert_eq!(number(of(Some(M::EndpointIndependent), Some(F::AddressPortDependent))), Some(5));
        assert_eq!(number(of(Some(M::AddressPortDependent), Some(F::EndpointIndependent))), Some(6));
        assert_eq!(number(of(Some(M::AddressDependent), None)), Some(6));
        // Whatever was not measured is not claimed.
        for (mapping, announced) in [(Some(M::None), 1), (Some(M::EndpointIndependent), 5), (None, 5)] {
            let unknown = of(mapping, None);
            assert_eq!((number(unknown), unknown.announced_type().number()), (None, announced));
            assert!(unknown.to_string().contains("not known"), "{unknown}");
        }

        let random = Some(Allocation::Random { low: 1024, high: 65_535 });
        let symmetric =
            Behaviour { mapping: Some(M::AddressPortDependent), filtering: None, allocation: random };
        assert_eq!(symmetric.to_string(), "symmetric, ports random");
        assert_eq!(symmetric.foresight(), Foresight::Nothing { low: 1024, high: 65_535 });
        let eim = Behaviour { mapping: Some(M::EndpointIndependent), ..symmetric };
        assert_eq!(eim.foresight(), Foresight::Measured);
    }

    /// P2PD's mistakes about ports, each with the right result.
    #[test]
    fn p2pds_mistakes_are_not_made() {
        // It drops the sign of a distance, so that allocators which count down are unknown to it.
        let down = allocation(&[(5000, 40_010), (5003, 40_008), (5004, 40_006)]);
        assert_eq!(down, Some(Allocation::Sequential(-2)));
        assert_eq!(
            allocation(&[(5000, 40_000), (5003, 39_997), (5004, 39_996)]),
            Some(Allocation::Dependent(-1))
        );
        // It wants two different distances to see preservation; the same one thrice is preserved too. And it
        // takes the absolute value, so that a port below its mapping is predicted wrongly.
        let below = allocation(&[(50_000, 40_000), (50_003, 40_003), (50_004, 40_004)]);
        assert_eq!(below, Some(Allocation::Preserving(55_536)));
        assert_eq!(50_010_u16.wrapping_add(55_536), 40_010);
        // It takes distances modulo 65,535; the ports wrap at 65,536.
        let over = allocation(&[(65_000, 65_500), (65_003, 65_503), (65_100, 64)]);
        assert_eq!(over, Some(Allocation::Preserving(500)));
        // Any distance that occurs often enough is a rule to it, one that jumps both ways included.
        let both = allocation(&[(5000, 40_000), (5003, 40_002), (5004, 40_000), (5009, 40_002)]);
        assert!(matches!(both, Some(Allocation::Random { .. })), "{both:?}");
        // An open host has no delta to it but for the newest version, which announces EQUAL.
        assert_eq!(Behaviour::OPEN.delta(), Delta { kind: DeltaType::NotApplicable, value: 0 });
        assert_eq!(Behaviour::OPEN.foresight(), Foresight::Offset(0));
        // Its symmetric NATs with random ports end in an exception; the step keeps its sign for the prediction.
        let symmetric = |a| Behaviour {
            mapping: Some(Mapping::AddressPortDependent),
            filtering: None,
            allocation: Some(a),
        };
        assert_eq!(symmetric(Allocation::Sequential(-2)).foresight(), Foresight::Next(-2));
        assert_eq!(symmetric(Allocation::Sequential(-2)).delta().value, 2, "its number has no sign");
        // A random allocator that maps independently of the endpoint is measured, also without a STUN port.
        let random = Allocation::Random { low: 1024, high: u16::MAX };
        let cone = Behaviour { mapping: Some(Mapping::EndpointIndependent), ..symmetric(random) };
        assert_eq!(cone.foresight(), Foresight::Measured);
    }

    #[test]
    fn what_is_too_little_or_odd_is_no_rule() {
        for samples in [&[][..], &[(1, 1)], &[(1, 1), (2, 2)]] {
            assert_eq!(allocation(samples), None);
        }
        let same = allocation(&[(5000, 7), (5003, 7), (5004, 7)]);
        assert!(matches!(same, Some(Allocation::Random { low: 7, .. })), "{same:?}");
        assert!(allocation(&[(0, u16::MAX), (u16::MAX, 0), (0, u16::MAX)]).is_some());
        assert!(allocation(&[(9, 9), (9, 10), (9, 11)]).is_some(), "one local port");
    }
}
