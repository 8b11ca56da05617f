//! Knowledge of the NATs between us and the internet.

mod behaviour;
mod counter;
pub(crate) mod external;
mod filtering;
pub(crate) mod memory;
mod model;
mod probe;
mod question;
mod survey;
pub(crate) mod surveyor;
pub(crate) mod vantage;
mod verdict;

pub use behaviour::{Allocation, Behaviour, Filtering, Mapping};
pub(crate) use behaviour::{Foresight, gcd, middle};
pub use external::StunAnswer;
pub use memory::{NatMemory, Network};
pub use model::{Hypothesis, Rule};
pub(crate) use survey::Foreseen;
pub use survey::NatReport;
#[cfg(feature = "relay")]
pub(crate) use survey::is_other;
pub use verdict::Verdict;

use core::fmt;

/// Mapping and filtering of a NAT, by P2PD's numbers. The words are those of RFC 3489 and, in brackets, RFC 4787.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
// Exhaustive: the address's format has these numbers.
pub enum NatType {
    /// 1: no NAT, nothing filtered.
    OpenInternet = 1,
    /// 2: no NAT, but a firewall that lets in answers only.
    SymmetricUdpFirewall = 2,
    /// 3: full cone (endpoint-independent mapping and filtering).
    FullCone = 3,
    /// 4: restricted cone (endpoint-independent mapping, address-dependent filtering).
    AddressRestricted = 4,
    /// 5: port-restricted cone (endpoint-independent mapping, address and port-dependent filtering).
    PortRestricted = 5,
    /// 6: symmetric (address and port-dependent mapping).
    Symmetric = 6,
    /// 7: no answer came through at all.
    Blocked = 7,
}

impl NatType {
    const ALL: [NatType; 7] = [
        NatType::OpenInternet,
        NatType::SymmetricUdpFirewall,
        NatType::FullCone,
        NatType::AddressRestricted,
        NatType::PortRestricted,
        NatType::Symmetric,
        NatType::Blocked,
    ];

    /// The type with this number, 1 to 7.
    pub fn from_number(n: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.number() == n)
    }

    /// Returns P2PD's number of the type, 1 to 7.
    pub const fn number(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for NatType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NatType::OpenInternet => "open internet",
            NatType::SymmetricUdpFirewall => "firewall without NAT",
            NatType::FullCone => "full cone",
            NatType::AddressRestricted => "address-restricted",
            NatType::PortRestricted => "port-restricted",
            NatType::Symmetric => "symmetric",
            NatType::Blocked => "blocked",
        })
    }
}

/// Allocation of external ports by a NAT, by P2PD's numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
// Exhaustive: the address's format has these numbers.
pub enum DeltaType {
    /// 1: there is no NAT.
    NotApplicable = 1,
    /// 2: the external port is the local one.
    Equal = 2,
    /// 3: external ports are as far apart as local ones.
    Preserving = 3,
    /// 4: each new mapping is `value` further, whatever the local port.
    Independent = 4,
    /// 5: `value` further if the local port is one further.
    Dependent = 5,
    /// 6: no rule is known.
    Random = 6,
}

impl DeltaType {
    const ALL: [DeltaType; 6] = [
        DeltaType::NotApplicable,
        DeltaType::Equal,
        DeltaType::Preserving,
        DeltaType::Independent,
        DeltaType::Dependent,
        DeltaType::Random,
    ];

    /// The type with this number, 1 to 6.
    pub fn from_number(n: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.number() == n)
    }

    /// Returns P2PD's number of the type, 1 to 6.
    pub const fn number(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for DeltaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DeltaType::NotApplicable => "no translation",
            DeltaType::Equal => "same as the local port",
            DeltaType::Preserving => "distances preserved",
            DeltaType::Independent => "stepping with each mapping",
            DeltaType::Dependent => "stepping with the local port",
            DeltaType::Random => "random",
        })
    }
}

/// Allocation of external ports: the kind, and its step where it has one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
// Exhaustive: the address's format has these two.
pub struct Delta {
    /// The kind.
    pub kind: DeltaType,
    /// The step, in ports; 0 where the kind has none.
    pub value: u16,
}

impl fmt::Display for Delta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            DeltaType::Independent | DeltaType::Dependent => write!(f, "{}, by {}", self.kind, self.value),
            kind => fmt::Display::fmt(&kind, f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_p2pd_and_no_others() {
        let nats: Vec<_> = (0..=u8::MAX).filter_map(NatType::from_number).collect();
        assert_eq!(nats, NatType::ALL);
        assert!(nats.iter().map(|t| t.number()).eq(1..=7));
        let deltas: Vec<_> = (0..=u8::MAX).filter_map(DeltaType::from_number).collect();
        assert_eq!(deltas, DeltaType::ALL);
        assert!(deltas.iter().map(|t| t.number()).eq(1..=6));
    }

    #[test]
    fn the_step_is_said_where_there_is_one() {
        let said = |kind, value| Delta { kind, value }.to_string();
        assert_eq!(said(DeltaType::Independent, 4), "stepping with each mapping, by 4");
        assert_eq!(said(DeltaType::Random, 4), "random");
        assert_eq!(NatType::PortRestricted.to_string(), "port-restricted");
    }
}
