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

    /// Returns true if a local port keeps its number for one mapping only, so that each punch has to leave from a port of its
    /// own: the survey has made mappings of the listening port.
    pub(crate) fn keeps_once(self) -> bool {
        self.is_symmetric() && matches!(self.allocation, Some(Allocation::Equal | Allocation::Preserving(_)))
    }

    /// Returns true if anybody may use a mapping that we keep open, though another destination would get another mapping.
    pub(crate) fn admits_all(self) -> bool {
        let unpredicted = matches!(self.foresight(), Foresight::Next(_) | Foresight::Nothing { .. });
        self.filtering == Some(Filtering::EndpointIndependent) && unpredicted
    }

    /// Returns true if all ports of one address are reached by one mapping of a local port.
    pub(crate) fn shares_mapping(self) -> bool {
        self.mapping != Some(Mapping::AddressPortDependent)
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

/// Largest step of an allocator that counts.
pub(super) const MAX_STEP: u16 = 16;

/// Returns the port in the middle of a range, which searches from both sides go to: the ends are estimates.
pub(crate) fn middle(low: u16, high: u16) -> u16 {
    let (low, of) = (u32::from(low), u32::from(high.max(low)) - u32::from(low) + 1);
    (low + of / 2).min(u16::MAX.into()) as u16
}

/// The greatest common divisor, of either sign.
pub(crate) fn gcd<T: Copy + Default + PartialEq + core::ops::Rem<Output = T>>(a: T, b: T) -> T {
    if b == T::default() { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// P2PD's mistakes about behaviours, each with the right result.
    #[test]
    fn p2pds_mistakes_are_not_made() {
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
}
